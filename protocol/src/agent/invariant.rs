//! What must hold of an agent after every input, one function per invariant.
//!
//! They look at everything that the agent has, so they run in tests and in the simulated worlds.
//! The invariants of the machines within run in every debug build.

use super::Agent;
use super::branches::Machine;
use super::calls::Purpose;
use crate::branch::{self, State};
use crate::invariant::Violation;
use crate::three_phase::participant::{Stage, Timer};

/// Checks an agent between two inputs.
///
/// # Errors
/// The first [`Violation`].
pub fn check(agent: &Agent) -> Result<(), Violation> {
    no_hook_waits_beside_a_free_place(agent)?;
    a_request_is_bound_to_an_open_session(agent)?;
    a_branch_in_doubt_will_ask(agent)?;
    a_branch_that_waits_for_its_voter_has_asked(agent)?;
    one_branch_of_a_transaction_votes(agent)
}

/// I13: hooks are bounded. I12: none waits while there is a place for it, so that orders to end
/// never wait behind work.
fn no_hook_waits_beside_a_free_place(agent: &Agent) -> Result<(), Violation> {
    for purpose in [Purpose::Work, Purpose::Compensate, Purpose::End] {
        let (running, waiting) = agent.calls.load(purpose);
        let places_max = agent.calls.places_max;
        if running > places_max || running < places_max && waiting > 0 {
            return violation(
                "I13 hooks are bounded",
                format!("{running} of {places_max} run, and {waiting} wait: {purpose:?}"),
            );
        }
    }
    Ok(())
}

/// I12: a request that waits for its reply waits on a session that is open, as long as one is.
fn a_request_is_bound_to_an_open_session(agent: &Agent) -> Result<(), Violation> {
    for (ticket, session) in agent.requests.bound() {
        let is_fine =
            if session.is_some() { agent.sessions.is_open(session) } else { agent.sessions.first().is_none() };
        if !is_fine {
            return violation("I12 every request is asked", format!("{ticket:?} waits for {session:?}"));
        }
    }
    Ok(())
}

/// I12: a branch in doubt has a timer after which it asks for its decision.
fn a_branch_in_doubt_will_ask(agent: &Agent) -> Result<(), Violation> {
    for (key, entry) in &agent.branches.entries {
        if let Machine::TwoPhase(machine) = &entry.machine
            && machine.state() == State::InDoubt
            && !entry.running.has(Timer::Branch(branch::Timer::Inquire))
        {
            return violation("I12 a branch in doubt asks", format!("{key} has no timer"));
        }
    }
    Ok(())
}

/// I12: a branch whose next step rests on its voter has a question under way.
fn a_branch_that_waits_for_its_voter_has_asked(agent: &Agent) -> Result<(), Violation> {
    for (key, entry) in &agent.branches.entries {
        let waits = match &entry.machine {
            Machine::TwoPhase(_) => false,
            Machine::ThreePhase(machine) => matches!(machine.stage(), Stage::Voting | Stage::Deciding(_)),
        };
        if !entry.is_asked() && (waits || !entry.asks.is_empty()) {
            return violation("I12 a voter is asked", format!("{key} waits for its voter, and has not asked"));
        }
    }
    Ok(())
}

/// I2: a participant has one vote in a transaction.
fn one_branch_of_a_transaction_votes(agent: &Agent) -> Result<(), Violation> {
    for (key, entry) in &agent.branches.entries {
        if matches!(entry.machine, Machine::ThreePhase(_)) && agent.branches.voting(key.gtid) != Some(*key) {
            return violation("I2 one vote for each participant", format!("{key} votes beside another branch"));
        }
    }
    Ok(())
}

fn violation(invariant: &'static str, problem: String) -> Result<(), Violation> {
    Err(Violation { invariant, problem })
}
