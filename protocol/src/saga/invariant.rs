//! What must hold of a saga after every event, one function per invariant.
//!
//! They run after every event in tests, and as debug assertions in the server. They look at the
//! state before, the event, the state after and the output; an output with a forced record counts
//! as sent only once that record is durable.

use std::collections::BTreeSet;

use super::definition::{StepIndex, StepResult};
use super::effect::{Effect, Reply};
use super::event::{Event, Timer};
use super::machine::{Phase, Saga};
use super::step::{Progress, Step};
use crate::durable::{Appended, Output};
use crate::invariant::Violation;
use crate::record::{Outcome, Record};

/// Checks one event.
///
/// # Errors
/// The first [`Violation`].
pub fn check(before: &Saga, event: &Event, after: &Saga, output: &Output<Effect>) -> Result<(), Violation> {
    outcome_never_changes(before, after)?;
    durability_is_learnt_from_the_log(before, event, after)?;
    one_forced_record_at_a_time(before, event, output)?;
    same_key_and_body_same_answer(before, event, output)?;
    never_forward_again(before, after, output)?;
    compensates_only_what_may_have_acted(before, event, output)?;
    timers_agree(timers(before), Some(event), after, output)?;
    check_either(after, output)
}

/// Checks a saga that was just started or recovered.
///
/// # Errors
/// The first [`Violation`].
pub fn check_begun(after: &Saga, output: &Output<Effect>) -> Result<(), Violation> {
    timers_agree(BTreeSet::new(), None, after, output)?;
    check_either(after, output)
}

/// What needs no state before.
fn check_either(after: &Saga, output: &Output<Effect>) -> Result<(), Violation> {
    nobody_is_told_what_is_not_durable(after, output)?;
    actions_start_behind_durable_records(after, output)?;
    ends_where_the_outcome_says(after, output)?;
    compensates_in_reverse_order(after, output)?;
    no_way_back_behind_a_pivot(after, output)?;
    something_is_pending(after)
}

/// I3: an outcome never changes, nor does the direction after a turn.
fn outcome_never_changes(before: &Saga, after: &Saga) -> Result<(), Violation> {
    const INVARIANT: &str = "I3 a decision never changes";
    let outcome = |saga: &Saga| match saga.phase {
        Phase::Ending { outcome, .. } | Phase::Ended(outcome) => Some(outcome),
        Phase::Starting | Phase::Running | Phase::Turning | Phase::Compensating | Phase::Overruled(_) => None,
    };
    let overruled = match after.phase {
        Phase::Overruled(_) => true,
        Phase::Starting
        | Phase::Running
        | Phase::Turning
        | Phase::Compensating
        | Phase::Ending { .. }
        | Phase::Ended(_) => false,
    };
    if let Some(decided) = outcome(before)
        && outcome(after) != Some(decided)
        && (!overruled || before.is_ended())
    {
        return violation(INVARIANT, format!("{decided} became {:?}", after.phase));
    }
    if before.turned.is_some() && before.turned != after.turned {
        return violation(INVARIANT, format!("it turned for {:?}, and now for {:?}", before.turned, after.turned));
    }
    Ok(())
}

/// I4, its first half: the machine takes nothing for durable but on the log's word.
fn durability_is_learnt_from_the_log(before: &Saga, event: &Event, after: &Saga) -> Result<(), Violation> {
    let learnt = match event {
        Event::Appended(Appended::Durable(receipt)) => receipt.gtid() == after.gtid,
        Event::Appended(Appended::Overruled { .. } | Appended::Undecided)
        | Event::StepAnswered { .. }
        | Event::Sent { .. }
        | Event::Undeliverable { .. }
        | Event::Joined { .. }
        | Event::Left { .. }
        | Event::TimerFired(_)
        | Event::StartRequested { .. }
        | Event::WaitRequested { .. }
        | Event::CompensateRequested { .. }
        | Event::CallerLeft { .. }
        | Event::PauseRequested { .. }
        | Event::ResumeRequested => false,
    };
    let started = |saga: &Saga| saga.phase != Phase::Starting;
    let overruled = after.is_ended() && after.outcome().is_none();
    let news = (!started(before) && started(after))
        || (!is_turn_durable(before) && is_turn_durable(after))
        || (before.outcome().is_none() && after.outcome().is_some());
    if news && !learnt && !overruled {
        return violation(I4, format!("{:?} became {:?} without a receipt", before.phase, after.phase));
    }
    for index in after.indices() {
        let is_news = !is_completed(before.step(index)) && is_completed(after.step(index));
        if is_news && after.is_forced(index) && after.phase == Phase::Running && !learnt {
            return violation(I4, format!("step {} counts as recorded without a receipt", name(after, index)));
        }
    }
    Ok(())
}

/// While a forced record is in flight there is no other.
fn one_forced_record_at_a_time(before: &Saga, event: &Event, output: &Output<Effect>) -> Result<(), Violation> {
    let answered = matches!(event, Event::Appended(Appended::Durable(receipt)) if receipt.gtid() == before.gtid);
    match output.forced() {
        Some(record) if is_appending(before) && !answered => {
            violation("one forced record at a time", format!("{record:?} while another is in flight"))
        }
        Some(_) | None => Ok(()),
    }
}

/// I11: a key with another body is refused, and only that.
fn same_key_and_body_same_answer(before: &Saga, event: &Event, output: &Output<Effect>) -> Result<(), Violation> {
    let is_reused = matches!(event, Event::StartRequested { digest, .. } if *digest != before.digest);
    let is_refused = replies(output).any(|reply| *reply == Reply::KeyReused);
    if is_reused != is_refused {
        return violation("I11 same key and body, same answer", format!("reused: {is_reused}, refused: {is_refused}"));
    }
    Ok(())
}

/// I10: once turned, no action is sent, and no step goes back to an earlier state of its way.
fn never_forward_again(before: &Saga, after: &Saga, output: &Output<Effect>) -> Result<(), Violation> {
    if before.turned.is_some() {
        if let Some(step) = output.peek_effects().iter().find_map(executed) {
            return violation(NEVER_FORWARD, format!("step {} is sent after the turn", name(after, step)));
        }
        if after.phase == Phase::Running {
            return violation(NEVER_FORWARD, "a turned saga runs".to_owned());
        }
    }
    for index in after.indices() {
        let (was, is) = (before.step(index).progress, after.step(index).progress);
        if rank(is) < rank(was) {
            return violation(NEVER_FORWARD, format!("step {} went from {was:?} to {is:?}", name(after, index)));
        }
    }
    Ok(())
}

/// I10: a step is compensated only if its action may have taken effect, or may yet.
fn compensates_only_what_may_have_acted(
    before: &Saga,
    event: &Event,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "I10 only what may have acted is compensated";
    for (index, _) in compensated(output) {
        let step = before.step(index);
        let (refused, never_sent) = match event {
            Event::StepAnswered { step, result: StepResult::Refused(_), compensation: false, .. } => {
                (*step == index, false)
            }
            Event::Undeliverable { step, compensation: false, .. } => (false, *step == index),
            Event::StepAnswered { .. }
            | Event::Sent { .. }
            | Event::Undeliverable { .. }
            | Event::Joined { .. }
            | Event::Left { .. }
            | Event::TimerFired(_)
            | Event::Appended(_)
            | Event::StartRequested { .. }
            | Event::WaitRequested { .. }
            | Event::CompensateRequested { .. }
            | Event::CallerLeft { .. }
            | Event::PauseRequested { .. }
            | Event::ResumeRequested => (false, false),
        };
        if step.is_settled() || ((refused || never_sent) && !step.in_doubt && step.is_undecided()) {
            return violation(INVARIANT, format!("step {} has nothing to undo: {step:?}", name(before, index)));
        }
        if before.definition.step(index).pivot {
            return violation(INVARIANT, format!("pivot {} is undone: {step:?}", name(before, index)));
        }
    }
    Ok(())
}

/// I4, its second half: nobody is told a start, a turn or an end that is not durable, and nobody is
/// asked to undo before the turn is.
fn nobody_is_told_what_is_not_durable(after: &Saga, output: &Output<Effect>) -> Result<(), Violation> {
    let forced = output.forced();
    let is_started = after.phase != Phase::Starting || matches!(forced, Some(Record::SagaStarted(_)));
    let is_turned = is_turn_durable(after) || matches!(forced, Some(Record::SagaTurned(_)));
    for reply in replies(output) {
        let may_be_told = match reply {
            Reply::Started => is_started,
            Reply::Compensating { .. } => is_turned,
            Reply::Ended { outcome, .. } => {
                after.outcome() == Some(*outcome)
                    || matches!(forced, Some(Record::Ended(ended)) if ended.outcome == *outcome)
            }
            Reply::PastPivot => after.is_past_pivot(),
            Reply::KeyReused | Reply::Overruled { .. } => true,
        };
        if !may_be_told {
            return violation(I4, format!("{reply:?} is told in {:?}", after.phase));
        }
    }
    match compensated(output).next() {
        Some((step, _)) if !is_turned => {
            violation(I4, format!("step {} is compensated before the turn is durable", name(after, step)))
        }
        Some(_) | None => Ok(()),
    }
}

/// I4 for actions: sent behind the durable start, and behind every result that is forced before
/// them.
fn actions_start_behind_durable_records(after: &Saga, output: &Output<Effect>) -> Result<(), Violation> {
    let (mut recorded, mut started) = (None, after.phase != Phase::Starting);
    match output.forced() {
        Some(Record::SagaStep(record)) => recorded = Some(record.step),
        Some(Record::SagaStarted(_)) => started = true,
        Some(
            Record::Decided(_)
            | Record::Delegated(_)
            | Record::Attempted(_)
            | Record::Agreed(_)
            | Record::Voter(_)
            | Record::SagaTurned(_)
            | Record::SagaPaused(_)
            | Record::Ended(_),
        )
        | None => {}
    }
    for step in output.peek_effects().iter().filter_map(executed) {
        let open = after.definition.step(step).after.iter().find(|before| {
            let is_complete = is_completed(after.step(**before)) || Some(**before) == recorded;
            !is_complete
        });
        if let Some(open) = open {
            return violation(
                I4,
                format!("step {} is sent before {} is complete", name(after, step), name(after, *open)),
            );
        }
        if !started {
            return violation(I4, format!("step {} is sent before the start is durable", name(after, step)));
        }
    }
    Ok(())
}

/// I10: a completed saga has every effect, a compensated one none.
fn ends_where_the_outcome_says(after: &Saga, output: &Output<Effect>) -> Result<(), Violation> {
    const INVARIANT: &str = "I10 the net effect agrees with the outcome";
    let Some(Record::Ended(ended)) = output.forced() else { return Ok(()) };
    let open = match ended.outcome {
        Outcome::Completed => after.indices().find(|index| !after.step(*index).is_done()),
        Outcome::Compensated => after.indices().find(|index| !after.step(*index).is_settled()),
        Outcome::Committed | Outcome::Aborted => {
            return violation(INVARIANT, format!("{} is no outcome of a saga", ended.outcome));
        }
    };
    match open {
        Some(open) => violation(
            INVARIANT,
            format!("{} with step {} at {:?}", ended.outcome, name(after, open), after.step(open).progress),
        ),
        None => Ok(()),
    }
}

/// I10: a step is compensated after all that depend on it, however far behind it they stand.
fn compensates_in_reverse_order(after: &Saga, output: &Output<Effect>) -> Result<(), Violation> {
    for (undone, output_known) in compensated(output) {
        let mut behind = BTreeSet::from([undone]);
        for index in after.indices().filter(|index| *index > undone) {
            if !after.definition.step(index).after.iter().any(|before| behind.contains(before)) {
                continue;
            }
            behind.insert(index);
            if !after.step(index).is_settled() {
                return violation(
                    "I10 compensations run in reverse order",
                    format!("{} is compensated before {}", name(after, undone), name(after, index)),
                );
            }
        }
        if output_known != after.step(undone).output.is_some() {
            return violation(
                "I10 a compensation has the output that is known",
                format!("step {}: {output_known}", name(after, undone)),
            );
        }
    }
    Ok(())
}

/// I10: with a pivot done there is only forward, and while one may be done, or may yet, nothing
/// turns.
fn no_way_back_behind_a_pivot(after: &Saga, output: &Output<Effect>) -> Result<(), Violation> {
    const INVARIANT: &str = "I10 no way back behind a pivot";
    if after.is_past_pivot() && (after.turned.is_some() || compensated(output).next().is_some()) {
        return violation(INVARIANT, "it turned although a pivot is done".to_owned());
    }
    let is_open = |index: &StepIndex| after.definition.step(*index).pivot && !after.step(*index).is_settled();
    match after.phase {
        Phase::Turning | Phase::Compensating | Phase::Ending { outcome: Outcome::Compensated, .. } => {
            if let Some(open) = after.indices().find(is_open) {
                return violation(INVARIANT, format!("it turned although pivot {} may be done", name(after, open)));
            }
        }
        Phase::Starting | Phase::Running | Phase::Ending { .. } | Phase::Ended(_) | Phase::Overruled(_) => {}
    }
    Ok(())
}

/// I12: what is neither over nor paused waits for an answer, a timer or the log.
fn something_is_pending(after: &Saga) -> Result<(), Violation> {
    let may_rest = after.is_ended() || after.paused.is_some();
    if !may_rest && !is_appending(after) && timers(after).is_empty() {
        return violation("I12 what is not paused ends", format!("nothing is pending in {:?}", after.stage()));
    }
    Ok(())
}

/// I12: the timers that are set are those that the steps' states imply, so that no attempt can be
/// forgotten.
fn timers_agree(
    mut set: BTreeSet<Timer>,
    event: Option<&Event>,
    after: &Saga,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    if let Some(Event::TimerFired(timer)) = event {
        set.remove(timer);
    }
    for effect in output.peek_effects() {
        match effect {
            Effect::SetTimer { timer, .. } => {
                set.insert(*timer);
            }
            Effect::CancelTimer { timer } => {
                set.remove(timer);
            }
            Effect::Execute { .. } | Effect::Compensate { .. } | Effect::Reply { .. } => {}
        }
    }
    let implied = timers(after);
    if set == implied {
        Ok(())
    } else {
        violation("I12 no attempt without its timer", format!("set: {set:?}, implied: {implied:?}"))
    }
}

const I4: &str = "I4 nobody is told what is not durable";
const NEVER_FORWARD: &str = "I10 once compensating, never forward again";

fn violation(invariant: &'static str, problem: String) -> Result<(), Violation> {
    Err(Violation { invariant, problem })
}

fn name(saga: &Saga, index: StepIndex) -> &str {
    saga.definition.step(index).name.as_str()
}

/// The timers that the steps' states imply.
fn timers(saga: &Saga) -> BTreeSet<Timer> {
    match saga.phase {
        Phase::Overruled(_) => BTreeSet::new(),
        Phase::Starting
        | Phase::Running
        | Phase::Turning
        | Phase::Compensating
        | Phase::Ending { .. }
        | Phase::Ended(_) => saga.indices().filter_map(|index| saga.step(index).timer(index)).collect(),
    }
}

fn is_appending(saga: &Saga) -> bool {
    match saga.phase {
        Phase::Starting | Phase::Turning | Phase::Ending { .. } => true,
        Phase::Running => saga.recording.is_some(),
        Phase::Compensating | Phase::Ended(_) | Phase::Overruled(_) => false,
    }
}

fn is_turn_durable(saga: &Saga) -> bool {
    match saga.phase {
        Phase::Compensating => true,
        Phase::Ending { turned, .. } => turned,
        Phase::Ended(outcome) => outcome == Outcome::Compensated,
        Phase::Starting | Phase::Running | Phase::Turning | Phase::Overruled(_) => false,
    }
}

fn is_completed(step: &Step) -> bool {
    step.progress == Progress::Completed
}

fn replies(output: &Output<Effect>) -> impl Iterator<Item = &Reply> {
    output.peek_effects().iter().filter_map(|effect| match effect {
        Effect::Reply { reply, .. } => Some(reply),
        Effect::Execute { .. } | Effect::Compensate { .. } | Effect::SetTimer { .. } | Effect::CancelTimer { .. } => {
            None
        }
    })
}

fn executed(effect: &Effect) -> Option<StepIndex> {
    match effect {
        Effect::Execute { step, .. } => Some(*step),
        Effect::Compensate { .. } | Effect::Reply { .. } | Effect::SetTimer { .. } | Effect::CancelTimer { .. } => None,
    }
}

/// The steps that are asked to undo, and whether they are told their action's output.
fn compensated(output: &Output<Effect>) -> impl Iterator<Item = (StepIndex, bool)> {
    output.peek_effects().iter().filter_map(|effect| match effect {
        Effect::Compensate { step, output, .. } => Some((*step, output.is_some())),
        Effect::Execute { .. } | Effect::Reply { .. } | Effect::SetTimer { .. } | Effect::CancelTimer { .. } => None,
    })
}

/// How far along its way a step is. Retries move within one rank; only a refusal behind a pivot is
/// ever taken back, on a human's word, and so shares the rank of what it goes back to.
fn rank(progress: Progress) -> u8 {
    match progress {
        Progress::Waiting => 0,
        Progress::ActionDue | Progress::Executing { .. } | Progress::ActionRetry { .. } | Progress::Refused => 1,
        Progress::Recording => 2,
        Progress::Completed => 3,
        Progress::CompensationDue
        | Progress::Compensating { .. }
        | Progress::CompensationRetry { .. }
        | Progress::Stuck => 4,
        Progress::Compensated => 5,
    }
}
