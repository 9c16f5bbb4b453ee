//! What must hold of a branch after every event, one function per invariant.
//!
//! They run after every event in tests, and as debug assertions in the SDK. They look at the state before, the event, the state after
//! and the effects.

use super::{Acknowledgement, Branch, Effect, Event, Hook, HookEnd, Message, State, Timer};
use crate::durable::Output;
use crate::ids::Epoch;
use crate::invariant::Violation;
use crate::record::Decision;
use crate::two_phase::Vote;

/// Checks one event. A branch that has just been met had no state before.
///
/// # Errors
/// The first [`Violation`].
pub fn check(before: Option<&Branch>, event: &Event, after: &Branch, output: &Output<Effect>) -> Result<(), Violation> {
    let absent = Branch::new(after.gtid, State::Ended);
    let before = before.unwrap_or(&absent);
    a_yes_is_kept(before, event, after)?;
    a_lower_epoch_is_ignored(before, event, after, output)?;
    yes_only_after_the_hook_said_so(before, event, output)?;
    one_hook_at_a_time(before, event, after, output)?;
    hooks_follow_orders(before, event, output)?;
    an_end_is_told(before, event, after, output)?;
    something_will_wake_it(before, event, after, output)
}

/// Checks a branch that was found prepared.
///
/// # Errors
/// The first [`Violation`].
pub fn check_in_doubt(after: &Branch, output: &Output<Effect>) -> Result<(), Violation> {
    if after.state == State::InDoubt && after.is_prepared && sets(output, Timer::Inquire) {
        return Ok(());
    }
    violation("I12 a branch in doubt asks", format!("{after:?} starts with {:?}", output.peek_effects()))
}

/// I6: a branch that voted yes leaves its doubt by the coordinator's decision alone.
fn a_yes_is_kept(before: &Branch, event: &Event, after: &Branch) -> Result<(), Violation> {
    let is_decided = matches!(event, Event::Decided { epoch, .. } if *epoch >= before.epoch);
    let was_sworn = before.state == State::InDoubt && before.is_prepared;
    if was_sworn && !is_decided && (after.state != State::InDoubt || !after.is_prepared) {
        return violation("I6 a yes is kept", format!("{:?} by {event:?}", after.state));
    }
    let expected = match (before.state, event) {
        (State::Committing, Event::Decided { decision: Decision::Abort, .. }) => State::Committing,
        (State::Aborting, Event::Decided { decision: Decision::Commit, .. }) => State::Aborting,
        _ => return Ok(()),
    };
    if after.state == expected {
        return Ok(());
    }
    violation("I3 a decision never changes", format!("{:?} became {:?} by {event:?}", before.state, after.state))
}

/// I7: an order of a lower epoch than was seen changes nothing.
fn a_lower_epoch_is_ignored(
    before: &Branch,
    event: &Event,
    after: &Branch,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "I7 no effect from a lower epoch";
    if after.gtid != before.gtid || after.epoch < before.epoch {
        return violation(INVARIANT, format!("{:?} became {:?}", before.epoch, after.epoch));
    }
    let is_stale = epoch_of(event).is_some_and(|epoch| epoch < before.epoch);
    if is_stale && (before != after || !output.peek_effects().is_empty()) {
        return violation(INVARIANT, format!("{event:?} at {:?} led to {:?}", before.epoch, output.peek_effects()));
    }
    Ok(())
}

/// I2, its half on this side: a yes is a hook's word, said now or kept since.
fn yes_only_after_the_hook_said_so(before: &Branch, event: &Event, output: &Output<Effect>) -> Result<(), Violation> {
    let says_yes = output.peek_effects().contains(&Effect::Send(Message::Vote(Vote::Yes)));
    let is_fresh = *event == Event::PrepareFinished(Vote::Yes);
    let is_kept = before.state == State::InDoubt && before.is_prepared;
    if says_yes && !is_fresh && !is_kept {
        return violation("I2 a yes is the hook's", format!("it votes yes by {event:?} while {:?}", before.state));
    }
    Ok(())
}

/// One hook runs at a time.
fn one_hook_at_a_time(
    before: &Branch,
    event: &Event,
    after: &Branch,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "one hook at a time";
    let finishes = match (before.state, event) {
        (State::Preparing { .. }, Event::PrepareFinished(_)) => true,
        (State::Committing | State::Aborting, Event::EndFinished(_)) => before.is_hook_running,
        _ => false,
    };
    let calls = hooks(output).count();
    let running = usize::from(before.is_hook_running) - usize::from(finishes) + calls;
    if running > 1 || after.is_hook_running != (running == 1) {
        return violation(INVARIANT, format!("{running} hooks by {event:?}: {:?}", output.peek_effects()));
    }
    let fits = match after.state {
        State::Preparing { .. } => after.is_hook_running,
        State::InDoubt | State::Ended => !after.is_hook_running,
        State::Committing | State::Aborting => true,
    };
    if fits { Ok(()) } else { violation(INVARIANT, format!("{after:?}")) }
}

/// A hook that commits follows an order to commit, one that aborts an order to abort, unless the branch never voted yes.
fn hooks_follow_orders(before: &Branch, event: &Event, output: &Output<Effect>) -> Result<(), Violation> {
    for hook in hooks(output) {
        let is_ordered = match hook {
            Hook::Prepare { payload, one_phase } => matches!(event,
                Event::PrepareOrdered { payload: given, one_phase: asked, .. } if given == payload && asked == one_phase),
            Hook::Commit => {
                before.state == State::Committing || matches!(event, Event::Decided { decision: Decision::Commit, .. })
            }
            Hook::Abort => {
                before.state == State::Aborting
                    || before.state == State::Preparing { abort_noted: true, one_phase: false }
                    || before.state == State::Preparing { abort_noted: true, one_phase: true }
                    || (before.state == State::InDoubt && !before.is_prepared)
                    || matches!(event, Event::Decided { decision: Decision::Abort, .. })
            }
        };
        if !is_ordered {
            return violation("I6 hooks follow orders", format!("{hook:?} by {event:?} while {:?}", before.state));
        }
    }
    Ok(())
}

/// I9, this side's half: a branch that ends tells how.
fn an_end_is_told(before: &Branch, event: &Event, after: &Branch, output: &Output<Effect>) -> Result<(), Violation> {
    if before.is_ended() || !after.is_ended() {
        return Ok(());
    }
    let last_word = match event {
        Event::PrepareFinished(vote) => Some(Message::Vote(vote.clone())),
        Event::EndFinished(end @ HookEnd::Ended(_)) => {
            let decision = if before.state() == State::Committing { Decision::Commit } else { Decision::Abort };
            let (epoch, end) = (before.epoch(), end.clone());
            Some(Message::Acknowledge(Acknowledgement { decision, epoch, end }))
        }
        Event::EndFinished(HookEnd::Failed(_))
        | Event::PrepareOrdered { .. }
        | Event::Decided { .. }
        | Event::SessionUp
        | Event::TimerFired(_) => None,
    };
    match last_word {
        Some(word) if output.peek_effects() == [Effect::Send(word.clone())] => Ok(()),
        Some(_) | None => {
            violation("I9 an end is told", format!("it ended by {event:?} with {:?}", output.peek_effects()))
        }
    }
}

/// I12: a branch that has not ended waits for a hook or for a timer that it has set.
fn something_will_wake_it(
    before: &Branch,
    event: &Event,
    after: &Branch,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    let is_new = before.state != after.state;
    let is_fine = match after.state {
        State::Preparing { .. } | State::Ended => true,
        State::InDoubt => {
            let asked = matches!(event, Event::SessionUp | Event::TimerFired(Timer::Inquire));
            let asks = output.peek_effects().contains(&Effect::Send(Message::Inquire));
            (!is_new || sets(output, Timer::Inquire)) && (!asked || (asks && sets(output, Timer::Inquire)))
        }
        State::Committing | State::Aborting => {
            let has_stopped = before.is_hook_running || is_new;
            after.is_hook_running || !has_stopped || sets(output, Timer::Retry)
        }
    };
    if is_fine {
        return Ok(());
    }
    violation("I12 every branch ends", format!("{after:?} by {event:?} with {:?}", output.peek_effects()))
}

fn hooks(output: &Output<Effect>) -> impl Iterator<Item = &Hook> {
    output.peek_effects().iter().filter_map(|effect| match effect {
        Effect::Call(hook) => Some(hook),
        Effect::Send(_) | Effect::SetTimer { .. } | Effect::Contradiction { .. } => None,
    })
}

fn sets(output: &Output<Effect>, timer: Timer) -> bool {
    output.peek_effects().iter().any(|effect| matches!(effect, Effect::SetTimer { timer: set, .. } if *set == timer))
}

fn epoch_of(event: &Event) -> Option<Epoch> {
    match event {
        Event::PrepareOrdered { epoch, .. } | Event::Decided { epoch, .. } => Some(*epoch),
        Event::PrepareFinished(_) | Event::EndFinished(_) | Event::SessionUp | Event::TimerFired(_) => None,
    }
}

fn violation(invariant: &'static str, problem: String) -> Result<(), Violation> {
    Err(Violation { invariant, problem })
}
