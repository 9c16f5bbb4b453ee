//! What must hold of the machines of three-phase commit after every event, one function per invariant.
//!
//! They run after every event in tests, and as debug assertions in the server and the SDK. What holds between voters (that none commits
//! where another aborts, that an announced outcome has a quorum) is for `integration-tests/simulation`.

use super::coordinator::{self, Coordinator, Order, Stage};
use super::participant::{self, Participant};
use super::voter::{Answer, Proposal, Request, Standing, Voter, VoterState};
use crate::branch::{Hook, Message};
use crate::durable::Output;
use crate::ids::BranchId;
use crate::invariant::Violation;
use crate::record::{Decision, Outcome, Record};
use crate::two_phase::{self, Reply, Vote};

// ---- a voter ---------------------------------------------------------------------------------------------------------

/// Checks one request.
///
/// # Errors
/// The first [`Violation`].
pub fn check_voter(before: &Voter, request: &Request, after: &Voter, output: &Output<Answer>) -> Result<(), Violation> {
    ballots_only_rise(before, after)?;
    an_end_never_changes(before, after)?;
    accepts_what_it_has_joined(before, request, after)?;
    keeps_before_it_answers(before, after, output)
}

/// `la <= le`, and neither goes back.
fn ballots_only_rise(before: &Voter, after: &Voter) -> Result<(), Violation> {
    const INVARIANT: &str = "ballots only rise";
    let Some(new) = after.state() else { return Ok(()) };
    if new.accepted > Some(new.joined) {
        return violation(INVARIANT, format!("{new:?}"));
    }
    match before.state() {
        Some(old) if old.joined > new.joined || old.accepted > new.accepted => {
            violation(INVARIANT, format!("{old:?} became {new:?}"))
        }
        Some(_) | None => Ok(()),
    }
}

/// I3: C and A never change, and a vote is never unmade.
fn an_end_never_changes(before: &Voter, after: &Voter) -> Result<(), Violation> {
    let Some(old) = before.state() else { return Ok(()) };
    let is_kept = after.state().is_some_and(|new| {
        old.standing.decision().is_none_or(|_| new == old)
            && (new.standing != Standing::Waiting || old.standing == new.standing)
    });
    if is_kept && before.roster() == after.roster() {
        return Ok(());
    }
    violation("I3 an end never changes", format!("{before:?} became {after:?}"))
}

/// Rule 3: pre-committed and pre-aborted are reached by accepting the proposal of the ballot that was joined, and by nothing else.
fn accepts_what_it_has_joined(before: &Voter, request: &Request, after: &Voter) -> Result<(), Violation> {
    let (old, new) = (before.state(), after.state());
    if old.and_then(|old| old.accepted) == new.and_then(|new| new.accepted)
        && old.map(|old| old.standing) == new.map(|new| new.standing)
    {
        return Ok(());
    }
    let fits = match (request, old, new) {
        (Request::VoteYes { .. }, None, Some(new)) => new.standing == Standing::Waiting,
        (Request::VoteNo | Request::Join { has_voted: false, .. }, None, Some(new)) => {
            new.standing == Standing::Aborted
        }
        (Request::Propose { ballot, proposal }, Some(old), Some(new)) => {
            let standing = match proposal {
                Proposal::PreCommit => Standing::PreCommitted,
                Proposal::PreAbort => Standing::PreAborted,
            };
            old.joined == *ballot
                && old.accepted < Some(*ballot)
                && new.accepted == Some(*ballot)
                && new.standing == standing
        }
        (Request::Decided(decision) | Request::Elected(decision), Some(_), Some(new)) => {
            new.standing.decision() == Some(*decision)
        }
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        violation("accepts what it has joined", format!("{old:?} became {new:?} by {request:?}"))
    }
}

/// I4 of a voter: what changes is forced before it is answered, over what it replaces. Only a commit that it stands pre-committed to may be lost.
fn keeps_before_it_answers(before: &Voter, after: &Voter, output: &Output<Answer>) -> Result<(), Violation> {
    let stands = |state: Option<VoterState>, standing| state.is_some_and(|state| state.standing == standing);
    let may_be_lost = || stands(before.state(), Standing::PreCommitted) && stands(after.state(), Standing::Committed);
    let mut records = output.records();
    let is_kept = match (records.next(), records.next()) {
        (None, _) => before == after,
        (Some(Record::Voter(record)), None) => {
            record.before == before.state()
                && Some(record.state) == after.state()
                && (output.forced().is_some() || may_be_lost())
        }
        (Some(_), _) => false,
    };
    if is_kept && output.peek_effects().len() == 1 {
        return Ok(());
    }
    violation("I4 keeps before it answers", format!("{before:?} became {after:?} with {output:?}"))
}

// ---- the coordinator --------------------------------------------------------------------------------------------------

/// Checks one event.
///
/// # Errors
/// The first [`Violation`].
pub fn check_coordinator(
    before: &Coordinator,
    after: &Coordinator,
    output: &Output<coordinator::Effect>,
) -> Result<(), Violation> {
    an_outcome_never_changes(before, after)?;
    the_roster_is_frozen(before, after, output)?;
    proposes_behind_the_mark(before, after, output)?;
    knows_of_every_vote(output)?;
    tells_only_what_is_agreed(after, output)?;
    ends_when_the_log_knows(after, output)?;
    a_live_stage_is_awake(before, after, output)
}

/// I3: stages go forward, and an agreed outcome is the outcome.
fn an_outcome_never_changes(before: &Coordinator, after: &Coordinator) -> Result<(), Violation> {
    let fits = match (before.stage(), after.stage()) {
        (Stage::Voting, _) | (Stage::Attempting | Stage::Agreeing, Stage::Agreed(_)) => true,
        (Stage::Attempting, Stage::Attempting | Stage::Agreeing) | (Stage::Agreeing, Stage::Agreeing) => true,
        (Stage::Agreed(old), Stage::Agreed(new)) => old == new,
        (Stage::Attempting | Stage::Agreeing | Stage::Agreed(_), Stage::Voting)
        | (Stage::Agreeing | Stage::Agreed(_), Stage::Attempting)
        | (Stage::Agreed(_), Stage::Agreeing) => false,
    };
    if fits {
        Ok(())
    } else {
        violation("I3 an outcome never changes", format!("{:?} became {:?}", before.stage(), after.stage()))
    }
}

/// I8: there is one roster, it is there before the first prepare, and it holds whoever is asked to prepare.
fn the_roster_is_frozen(
    before: &Coordinator,
    after: &Coordinator,
    output: &Output<coordinator::Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "I8 the roster is frozen once prepare starts";
    if before.roster().is_some() && before.roster() != after.roster() {
        return violation(INVARIANT, format!("{:?} became {:?}", before.roster(), after.roster()));
    }
    for effect in output.peek_effects() {
        if let coordinator::Effect::Send { to, order: Order::Prepare { roster, .. }, .. } = effect
            && (after.roster() != Some(roster) || roster.seat(to).is_none())
        {
            return violation(INVARIANT, format!("{to} is asked to prepare under {roster:?}"));
        }
    }
    Ok(())
}

/// Rule 2: the first proposal is sealed behind 'attempt 1 sent', and I2: that is marked only with every vote.
fn proposes_behind_the_mark(
    before: &Coordinator,
    after: &Coordinator,
    output: &Output<coordinator::Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "I2 proposes behind the mark, with every vote";
    let is_mark = matches!(output.forced(), Some(Record::Attempted(_)));
    let asks = output
        .peek_effects()
        .iter()
        .any(|effect| matches!(effect, coordinator::Effect::Send { order: Order::Ask(Request::Propose { .. }), .. }));
    if asks && !is_mark && before.log_state().is_none() {
        return violation(INVARIANT, "a proposal without a mark".to_owned());
    }
    let has_all = || {
        let branches = after.transaction().branches();
        after.roster().is_some_and(|roster| {
            roster.participants().iter().all(|seat| {
                branches
                    .iter()
                    .any(|branch| branch.participant == seat.participant && branch.state == two_phase::BranchState::Yes)
            })
        })
    };
    if is_mark && !has_all() {
        return violation(INVARIANT, format!("marked while {:?}", after.transaction().branches()));
    }
    Ok(())
}

/// It leads once every vote is in, and says so: a voter that has forgotten would refuse else, after a commit.
fn knows_of_every_vote(output: &Output<coordinator::Effect>) -> Result<(), Violation> {
    for effect in output.peek_effects() {
        if let coordinator::Effect::Send { to, order: Order::Ask(request @ Request::Join { .. }), .. } = effect
            && !request.knows_of_a_vote()
        {
            return violation("I5 knows of every vote", format!("{to} is asked as if it might not have voted"));
        }
    }
    Ok(())
}

/// I4, I5: once every vote is in, an outcome is told only when it is agreed, and it is that one.
fn tells_only_what_is_agreed(after: &Coordinator, output: &Output<coordinator::Effect>) -> Result<(), Violation> {
    for effect in output.peek_effects() {
        let Some(told) = told(after, effect) else { continue };
        let may_tell = match after.stage() {
            Stage::Voting => told == Decision::Abort || after.roster().is_none(),
            Stage::Attempting | Stage::Agreeing => false,
            Stage::Agreed(decision) => decision == told,
        };
        if !may_tell {
            return violation("I4 tells only what is agreed", format!("{effect:?} while {:?}", after.stage()));
        }
    }
    Ok(())
}

/// The outcome that an effect reveals to a voter or a caller.
fn told(after: &Coordinator, effect: &coordinator::Effect) -> Option<Decision> {
    match effect {
        coordinator::Effect::Send { to, branch, order: Order::Commit, .. } => {
            is_seated(after, to, *branch).then_some(Decision::Commit)
        }
        coordinator::Effect::Send { to, branch, order: Order::Abort, .. } => {
            is_seated(after, to, *branch).then_some(Decision::Abort)
        }
        coordinator::Effect::Reply { reply: Reply::Outcome { outcome, .. }, .. } => match outcome {
            Outcome::Committed | Outcome::Completed => Some(Decision::Commit),
            Outcome::Aborted | Outcome::Compensated => Some(Decision::Abort),
        },
        coordinator::Effect::Answer { answer: Answer::Ended(decision), .. } => Some(*decision),
        coordinator::Effect::Send {
            order: Order::Prepare { .. } | Order::Wait | Order::Ask(_) | Order::Forget,
            ..
        }
        | coordinator::Effect::Reply { reply: Reply::Begun | Reply::Enlisted | Reply::Refused(_), .. }
        | coordinator::Effect::Answer { .. }
        | coordinator::Effect::Introduce(_)
        | coordinator::Effect::LogDue
        | coordinator::Effect::SetTimer { .. }
        | coordinator::Effect::CancelTimer(_) => None,
    }
}

/// Another branch of a participant in the roster has no seat.
fn is_seated(machine: &Coordinator, participant: &crate::ParticipantName, branch: BranchId) -> bool {
    let seat = machine.roster().and_then(|roster| roster.seat(participant));
    seat.is_some_and(|seat| seat.branch == branch)
}

/// I9: the end, and with it the leave to forget, comes after every branch has ended and the log has the decision, or brings it there first.
fn ends_when_the_log_knows(after: &Coordinator, output: &Output<coordinator::Effect>) -> Result<(), Violation> {
    const INVARIANT: &str = "I9 forgotten only when every branch has ended";
    let forgets = output
        .peek_effects()
        .iter()
        .any(|effect| matches!(effect, coordinator::Effect::Send { order: Order::Forget, .. }));
    let ended = output.records().any(|record| matches!(record, Record::Ended(_)));
    if forgets != ended && !(ended && after.transaction().branches().is_empty()) {
        return violation(INVARIANT, format!("forgets: {forgets}, ends: {ended}"));
    }
    if ended && !after.transaction().is_ended() {
        return violation(INVARIANT, format!("it ends while {:?}", after.transaction().state()));
    }
    let brings_it = matches!(output.forced(), Some(Record::Ended(_)));
    if ended && matches!(after.stage(), Stage::Agreed(_)) && !after.is_decision_logged() && !brings_it {
        return violation(INVARIANT, "the log does not have the decision".to_owned());
    }
    Ok(())
}

/// I12: while the voters are to agree, the leader's timer is set; and what the log has yet to be asked is told to be due.
fn a_live_stage_is_awake(
    before: &Coordinator,
    after: &Coordinator,
    output: &Output<coordinator::Effect>,
) -> Result<(), Violation> {
    let fits = match (before.stage(), after.stage()) {
        (_, Stage::Attempting | Stage::Agreeing) if after.leader().is_none() => false,
        (Stage::Voting, Stage::Attempting) => output
            .peek_effects()
            .iter()
            .any(|effect| matches!(effect, coordinator::Effect::SetTimer { timer: coordinator::Timer::Election, .. })),
        (_, Stage::Voting | Stage::Attempting | Stage::Agreeing | Stage::Agreed(_)) => true,
    };
    if fits { Ok(()) } else { violation("I12 a live stage is awake", format!("{:?} with {output:?}", after.stage())) }
}

// ---- a participant ------------------------------------------------------------------------------------------------------

/// Checks one event. A branch that has just been met had no state before.
///
/// # Errors
/// The first [`Violation`].
pub fn check_participant(
    before: Option<&Participant>,
    event: &participant::Event,
    after: &Participant,
    output: &Output<participant::Effect>,
) -> Result<(), Violation> {
    yes_only_by_the_voter(before, event, output)?;
    ends_only_by_the_voter(before, event, after, output)?;
    leads_only_in_doubt(after)?;
    leads_behind_its_voter(event, output)?;
    doubt_is_awake(before, event, after, output)
}

/// I2: a yes leaves once the own voter's yes is durable.
fn yes_only_by_the_voter(
    before: Option<&Participant>,
    event: &participant::Event,
    output: &Output<participant::Effect>,
) -> Result<(), Violation> {
    let says_yes = output.peek_effects().contains(&participant::Effect::Send(Message::Vote(Vote::Yes)));
    let is_durable = matches!(event, participant::Event::VoterAnswered { answer: Answer::VotedYes { .. }, .. });
    let was_durable = before.is_some_and(|before| before.stage() == participant::Stage::InDoubt);
    if says_yes && !is_durable && !was_durable {
        return violation("I2 yes only by the voter", format!("it votes yes by {event:?}"));
    }
    Ok(())
}

/// I6, rule 7: a branch ends by its voter's word, and as it says. One that has not voted asks its voter to refuse before it undoes anything.
fn ends_only_by_the_voter(
    before: Option<&Participant>,
    event: &participant::Event,
    after: &Participant,
    output: &Output<participant::Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "I6 ends only by the voter";
    for effect in output.peek_effects() {
        let decision = match effect {
            participant::Effect::Call(Hook::Commit) => Decision::Commit,
            participant::Effect::Call(Hook::Abort) => Decision::Abort,
            participant::Effect::Send(Message::Acknowledge(_)) => {
                if matches!(after.stage(), participant::Stage::Decided(_)) {
                    continue;
                }
                return violation(INVARIANT, format!("{effect:?} while {:?}", after.stage()));
            }
            participant::Effect::Call(Hook::Prepare { .. })
            | participant::Effect::Send(_)
            | participant::Effect::AskVoter(_)
            | participant::Effect::AskPeer { .. }
            | participant::Effect::ForgetVoter
            | participant::Effect::SetTimer { .. }
            | participant::Effect::CancelTimer(_)
            | participant::Effect::Contradiction { .. } => continue,
        };
        if after.stage() != participant::Stage::Decided(decision) {
            return violation(INVARIANT, format!("{effect:?} while {:?}", after.stage()));
        }
    }
    let old = before.map(Participant::stage);
    let fits = match (old, after.stage()) {
        (Some(participant::Stage::Decided(old)), participant::Stage::Decided(new)) => old == new,
        (Some(participant::Stage::Decided(_)), _) => false,
        (_, participant::Stage::Decided(decision)) => {
            matches!(event, participant::Event::VoterAnswered { answer: Answer::Ended(told), .. } if *told == decision)
        }
        (_, _) => true,
    };
    if fits { Ok(()) } else { violation(INVARIANT, format!("{old:?} became {:?} by {event:?}", after.stage())) }
}

/// Only who has voted, and does not know the outcome, leads.
fn leads_only_in_doubt(after: &Participant) -> Result<(), Violation> {
    if after.leader().is_none() || after.stage() == participant::Stage::InDoubt {
        return Ok(());
    }
    violation("leads only in doubt", format!("it leads while {:?}", after.stage()))
}

/// Peers are asked to join once the own voter has, and told an outcome once it keeps that one: until then the own record may be gone, and the peers'
/// with it.
fn leads_behind_its_voter(event: &participant::Event, output: &Output<participant::Effect>) -> Result<(), Violation> {
    let own = if let participant::Event::VoterAnswered { answer, .. } = event { Some(*answer) } else { None };
    for effect in output.peek_effects() {
        let participant::Effect::AskPeer { request, .. } = effect else { continue };
        let fits = match request {
            Request::Join { ballot, .. } => {
                matches!(own, Some(Answer::Joined { ballot: joined, .. }) if joined == *ballot)
            }
            Request::Decided(decision) => own == Some(Answer::Ended(*decision)),
            Request::Propose { .. } => true,
            Request::VoteYes { .. } | Request::VoteNo | Request::Elected(_) => false,
        };
        if !fits {
            return violation("I5 leads behind its voter", format!("{event:?} led to {effect:?}"));
        }
    }
    Ok(())
}

/// I12: a branch in doubt has set its election timer, and sets it again when it fires.
fn doubt_is_awake(
    before: Option<&Participant>,
    event: &participant::Event,
    after: &Participant,
    output: &Output<participant::Effect>,
) -> Result<(), Violation> {
    let is_in_doubt = after.stage() == participant::Stage::InDoubt;
    let is_new = before.is_none_or(|before| before.stage() != participant::Stage::InDoubt);
    let has_fired = matches!(event, participant::Event::TimerFired(participant::Timer::Election));
    let sets = output
        .peek_effects()
        .iter()
        .any(|effect| matches!(effect, participant::Effect::SetTimer { timer: participant::Timer::Election, .. }));
    if is_in_doubt && (is_new || has_fired) && !sets {
        return violation("I12 a branch in doubt is awake", format!("{event:?} led to {:?}", output.peek_effects()));
    }
    Ok(())
}

fn violation(invariant: &'static str, problem: String) -> Result<(), Violation> {
    Err(Violation { invariant, problem })
}
