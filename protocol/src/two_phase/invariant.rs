//! What must hold of a two-phase transaction after every event, one function per invariant.
//!
//! They run after every event in tests, and as debug assertions in the server. They look at the
//! state before, the event, the state after and the output; what stands behind a forced record
//! counts as told only once that record is durable.

use super::{Branch, BranchResult, BranchState, Effect, Event, Order, Reply, Route, State, Timer, TwoPhase, Vote};
use crate::branch::{Acknowledgement, HookEnd};
use crate::durable::{Appended, Output};
use crate::ids::{BranchId, Caller, ParticipantName};
use crate::invariant::Violation;
use crate::reason::{Refusal, Wait};
use crate::record::{Decision, Outcome, Record};

/// Checks one event.
///
/// # Errors
/// The first [`Violation`].
pub fn check(before: &TwoPhase, event: &Event, after: &TwoPhase, output: &Output<Effect>) -> Result<(), Violation> {
    decision_never_changes(before, event, after)?;
    identity_never_changes(before, after)?;
    roster_is_frozen(before, event, after, output)?;
    another_body_is_refused(before, event, after, output)?;
    branches_move_by_their_own_account(before, event, after)?;
    nothing_is_told_before_it_is_durable(Some((before, event)), after, output)?;
    only_the_branch_ends_a_delegation(before, event, after, output)?;
    ends_once(before.is_ended(), after, output)?;
    everybody_is_answered_once(before, event, after, output)?;
    something_will_wake_it(Some((before, event)), after, output)?;
    check_either(after, output)
}

/// Checks a transaction that was just begun, recovered or presumed aborted.
///
/// # Errors
/// The first [`Violation`].
pub fn check_begun(after: &TwoPhase, output: &Output<Effect>) -> Result<(), Violation> {
    nothing_is_told_before_it_is_durable(None, after, output)?;
    ends_once(false, after, output)?;
    something_will_wake_it(None, after, output)?;
    check_either(after, output)
}

/// Checks that the voters of a three-phase transaction have agreed: only what was undecided, or
/// unheard of, takes their word.
///
/// # Errors
/// The first [`Violation`].
pub(crate) fn check_agreed(before: &TwoPhase, after: &TwoPhase, output: &Output<Effect>) -> Result<(), Violation> {
    identity_never_changes(before, after)?;
    ends_once(before.is_ended(), after, output)?;
    check_either(after, output)?;
    let is_open = match before.state {
        State::Active | State::Preparing | State::Deciding(Decision::Commit) => true,
        State::Deciding(Decision::Abort)
        | State::Delegating
        | State::OnePhase
        | State::Recalling
        | State::Committing
        | State::Aborting
        | State::Committed
        | State::Aborted => false,
    };
    if is_open || before.state == after.state {
        return Ok(());
    }
    violation("I3 a decision never changes", format!("{:?} became {:?}", before.state, after.state))
}

/// What needs no state before.
fn check_either(after: &TwoPhase, output: &Output<Effect>) -> Result<(), Violation> {
    commits_only_with_every_vote(after)?;
    answers_agree(after, output)?;
    the_record_is_the_decision(after, output)
}

/// I2: commit only if every branch voted yes or read-only, or committed by itself when it was asked
/// to.
fn commits_only_with_every_vote(after: &TwoPhase) -> Result<(), Violation> {
    // Where the log overruled this machine, the votes were another writer's to count.
    if decision_of(after.state) != Some(Decision::Commit) || after.is_overruled {
        return Ok(());
    }
    let is_fit = |branch: &&Branch| match branch.state {
        BranchState::Yes | BranchState::ReadOnly | BranchState::Committed | BranchState::HeuristicAborted => true,
        BranchState::Outside
        | BranchState::Named
        | BranchState::Waiting
        | BranchState::Asked
        | BranchState::No
        | BranchState::Unknown
        | BranchState::Aborted
        | BranchState::HeuristicCommitted => false,
    };
    match after.branches.iter().find(|branch| !is_fit(branch)) {
        None => Ok(()),
        Some(branch) => violation(
            "I2 commit only with every vote",
            format!("{:?} while {} is {}", after.state, branch.participant, branch.state.as_str()),
        ),
    }
}

/// I3: a decision never changes. Until it is durable, only the log may overrule it.
fn decision_never_changes(before: &TwoPhase, event: &Event, after: &TwoPhase) -> Result<(), Violation> {
    let Some(decided) = decision_of(before.state) else { return Ok(()) };
    let is_overruled =
        matches!(before.state, State::Deciding(_)) && matches!(event, Event::Appended(Appended::Overruled { .. }));
    if decision_of(after.state) == Some(decided) || is_overruled {
        return Ok(());
    }
    violation("I3 a decision never changes", format!("{:?} became {:?}", before.state, after.state))
}

/// I4: nobody is told a decision that is not durable. An abort may be told at once where forgetting
/// it is the same abort; so may the commit of a transaction in which nobody waits for a decision.
fn nothing_is_told_before_it_is_durable(
    step: Option<(&TwoPhase, &Event)>,
    after: &TwoPhase,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "I4 nobody is told a decision that is not durable";
    if output.forced().is_some() {
        return Ok(());
    }
    let was_ended = step.is_some_and(|(before, _)| before.is_ended());
    for effect in output.peek_effects() {
        let Some((decision, told)) = told(effect) else { continue };
        let (is_stranger, is_outside) = match told {
            Told::Branch(name, id) => {
                let known = after.find(name, id).map(|branch| branch.state);
                (known.is_none(), known == Some(BranchState::Outside))
            }
            Told::Caller => (false, false),
        };
        let allowed = match (after.state, decision) {
            (State::Deciding(_), Decision::Commit | Decision::Abort) => false,
            (State::Preparing | State::Delegating | State::OnePhase, Decision::Abort) => is_stranger,
            // The order asks as much as it tells: callers are told once the branch has answered.
            (State::Recalling, Decision::Abort) => matches!(told, Told::Branch(..)),
            (State::Committing | State::Committed, Decision::Abort) => {
                is_outside || (is_stranger && !after.is_overruled)
            }
            (State::Aborting | State::Aborted, Decision::Abort) => {
                after.has_open_row || !after.may_recur || is_stranger || was_ended
            }
            (State::Committing | State::Committed, Decision::Commit) => {
                after.has_open_row || was_ended || (!after.may_recur && nobody_was_prepared(after))
            }
            (State::Active, Decision::Commit | Decision::Abort)
            | (
                State::Preparing
                | State::Delegating
                | State::OnePhase
                | State::Recalling
                | State::Aborting
                | State::Aborted,
                Decision::Commit,
            ) => false,
        };
        if !allowed {
            return violation(INVARIANT, format!("{effect:?} while {:?}", after.state));
        }
    }
    let Some((before, event)) = step else { return Ok(()) };
    let is_the_logs_word = matches!(event, Event::Appended(appended) if match appended {
        Appended::Durable(receipt) => receipt.gtid() == after.gtid,
        Appended::Overruled { .. } => true,
        Appended::Undecided => false,
    });
    if after.has_open_row && !before.has_open_row && !is_the_logs_word {
        return violation(
            INVARIANT,
            format!("{event:?} is not the log's word, and yet the decision counts as durable"),
        );
    }
    Ok(())
}

/// I4, of the one decision that a branch makes: it is ordered to commit by itself once its
/// delegation is durable, and then only its own word ends the transaction without another record.
fn only_the_branch_ends_a_delegation(
    before: &TwoPhase,
    event: &Event,
    after: &TwoPhase,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "I4 a delegation is durable, and only its branch ends it";
    let is_ordered = output
        .peek_effects()
        .iter()
        .any(|effect| matches!(effect, Effect::Send { order: Order::Prepare { one_phase: true, .. }, .. }));
    if is_ordered && !(after.has_open_row && after.state == State::OnePhase) {
        return violation(INVARIANT, format!("a branch is ordered to commit by itself while {:?}", after.state));
    }
    let is_ordered_to_commit =
        output.peek_effects().iter().any(|effect| matches!(effect, Effect::Send { order: Order::Commit, .. }));
    if is_ordered_to_commit && after.is_delegated && output.forced().is_none() {
        return violation(INVARIANT, format!("a branch is ordered to commit what was delegated: {:?}", after.state));
    }
    if !matches!(before.state, State::OnePhase | State::Recalling) || !after.is_ended() {
        return Ok(());
    }
    let is_its_word = match event {
        Event::Voted { vote: Vote::Committed, .. }
        | Event::Acknowledged {
            acknowledgement: Acknowledgement { end: HookEnd::Ended(BranchResult::HeuristicCommitted), .. },
            ..
        } => after.state == State::Committed,
        Event::Voted { vote: Vote::No(_), .. } => {
            // Another instance may still commit.
            before.state == State::OnePhase && !before.was_asked_elsewhere && after.state == State::Aborted
        }
        Event::Acknowledged { acknowledgement: Acknowledgement { end: HookEnd::Failed(_), .. }, .. } => false,
        Event::Acknowledged {
            acknowledgement:
                Acknowledgement { end: HookEnd::Ended(BranchResult::Done | BranchResult::HeuristicAborted), .. },
            ..
        } => before.state == State::Recalling && after.state == State::Aborted,
        Event::Voted { vote: Vote::Yes | Vote::ReadOnly | Vote::Unknown(_), .. }
        | Event::BeginRequested { .. }
        | Event::Enlisted { .. }
        | Event::BranchNamed { .. }
        | Event::CommitRequested { .. }
        | Event::AbortRequested { .. }
        | Event::OutcomeAwaited { .. }
        | Event::CallerLeft { .. }
        | Event::Routed { .. }
        | Event::Inquired { .. }
        | Event::Joined { .. }
        | Event::Left { .. }
        | Event::TimerFired(_)
        | Event::Appended(_) => false,
    };
    if is_its_word { Ok(()) } else { violation(INVARIANT, format!("{event:?} led to {:?}", after.state)) }
}

/// I5: what anybody is told is the decision.
fn answers_agree(after: &TwoPhase, output: &Output<Effect>) -> Result<(), Violation> {
    const INVARIANT: &str = "I5 what was told comes true";
    for effect in output.peek_effects() {
        match told(effect) {
            Some((decision, Told::Caller)) if decision_of(after.state) != Some(decision) => {
                return violation(INVARIANT, format!("{effect:?} while {:?}", after.state));
            }
            // A branch that is not in the roster is told to abort whatever was decided.
            Some((decision, Told::Branch(name, id)))
                if after.find(name, id).is_some_and(|branch| branch.state != BranchState::Outside)
                    && decision_of(after.state) != Some(decision)
                    && (after.state, decision) != (State::Recalling, Decision::Abort) =>
            {
                return violation(INVARIANT, format!("{effect:?} while {:?}", after.state));
            }
            Some((Decision::Commit, Told::Branch(name, id)))
                if after.find(name, id).is_none_or(|branch| branch.state == BranchState::Outside) =>
            {
                return violation(INVARIANT, format!("{name}'s {id} is told to commit, and is not in the roster"));
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// I7 on this side: orders carry the machine's epoch, and that is its for life, as are its name and
/// its beginning.
fn identity_never_changes(before: &TwoPhase, after: &TwoPhase) -> Result<(), Violation> {
    let identity = |machine: &TwoPhase| (machine.gtid, machine.epoch, machine.begun_at_ms);
    if identity(before) == identity(after) {
        return Ok(());
    }
    violation("I7 the epoch is constant", format!("{:?} became {:?}", identity(before), identity(after)))
}

/// I8: the roster is frozen once prepare starts; enlisting later is refused.
fn roster_is_frozen(
    before: &TwoPhase,
    event: &Event,
    after: &TwoPhase,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "I8 the roster is frozen once prepare starts";
    let (old, new) = (before.members(), after.members());
    let may_grow = before.state == State::Active;
    if !new.starts_with(&old) || (new.len() > old.len() && !may_grow) {
        return violation(INVARIANT, format!("{old:?} became {new:?} while {:?}", before.state));
    }
    let Some(newcomer) = newcomer_of(event) else { return Ok(()) };
    let is_welcome =
        output.peek_effects().iter().any(|effect| matches!(effect, Effect::Reply { reply: Reply::Enlisted, .. }));
    if is_welcome && after.position(newcomer).is_none() {
        return violation(INVARIANT, format!("{newcomer} was enlisted, and is not in the roster {new:?}"));
    }
    if is_welcome && !may_grow && before.branches != after.branches {
        return violation(INVARIANT, format!("{newcomer} was enlisted while {:?}", before.state));
    }
    Ok(())
}

/// I9: a transaction ends once, when no branch has to learn the decision any more, and its end is
/// recorded then.
fn ends_once(was_ended: bool, after: &TwoPhase, output: &Output<Effect>) -> Result<(), Violation> {
    const INVARIANT: &str = "I9 forgotten only when every branch has ended";
    let ends: Vec<_> = output
        .records()
        .filter_map(|record| match record {
            Record::Ended(ended) => Some(ended),
            Record::Decided(_)
            | Record::Delegated(_)
            | Record::Attempted(_)
            | Record::Agreed(_)
            | Record::Voter(_)
            | Record::SagaStarted(_)
            | Record::SagaTurned(_)
            | Record::SagaStep(_)
            | Record::SagaPaused(_) => None,
        })
        .collect();
    match (was_ended, after.is_ended(), ends.as_slice()) {
        (true, true, []) | (false, false, []) => {}
        // The row is another writer's.
        (false, true, []) if after.is_overruled => {}
        (_, _, [_]) if after.is_overruled => return violation(INVARIANT, "another writer's row was closed".to_owned()),
        (false, true, [ended]) => {
            let outcome = if after.state == State::Committed { Outcome::Committed } else { Outcome::Aborted };
            if (ended.outcome, ended.has_open_row) != (outcome, after.has_open_row) {
                return violation(INVARIANT, format!("{ended:?} while {:?}", after.state));
            }
        }
        _ => return violation(INVARIANT, format!("{:?}, with {} records of its end", after.state, ends.len())),
    }
    match after.branches.iter().find(|branch| branch.state.needs_order()) {
        Some(branch) if after.is_ended() => {
            violation(INVARIANT, format!("{} ended as {}", branch.participant, branch.state.as_str()))
        }
        Some(_) | None => Ok(()),
    }
}

/// I9, from the branches' side: each moves only by what it said itself, or by what is known of its
/// instance.
fn branches_move_by_their_own_account(before: &TwoPhase, event: &Event, after: &TwoPhase) -> Result<(), Violation> {
    for (old, new) in before.branches.iter().zip(&after.branches) {
        if old.state != new.state && !is_earned(old, new, event, before.state, after.state) {
            return violation(
                "I9 a branch moves by its own account",
                format!("{} went from {} to {} by {event:?}", old.participant, old.state.as_str(), new.state.as_str()),
            );
        }
    }
    Ok(())
}

fn is_earned(old: &Branch, new: &Branch, event: &Event, before: State, after: State) -> bool {
    let whose = &old.participant;
    let voted = |fits: fn(&Vote) -> bool| {
        matches!(event, Event::Voted { participant, branch, vote, instance }
            if participant == whose && *branch == old.id && fits(vote)
            && (before != State::Preparing || old.instance.is_none_or(|asked| asked == *instance)))
    };
    // An answer to another order than the one that stands moves nothing.
    let ordered = if before == State::Committing { Decision::Commit } else { Decision::Abort };
    let acknowledged = |fits: fn(BranchResult) -> bool| {
        matches!(event, Event::Acknowledged { participant, branch, acknowledgement }
            if participant == whose && *branch == old.id && acknowledgement.decision == ordered
                && matches!(acknowledgement.end, HookEnd::Ended(result) if fits(result)))
    };
    let routed = |fits: fn(Route) -> bool| matches!(event, Event::Routed { participant, to } if participant == whose && fits(*to));
    match new.state {
        BranchState::Named => routed(|to| to == Route::Unknown || to == Route::Absent) && old.state.needs_order(),
        BranchState::Waiting => routed(|to| to == Route::Absent) && old.state == BranchState::Asked,
        BranchState::Asked => {
            let is_wanted = matches!(event, Event::CommitRequested { .. }) && old.state == BranchState::Named;
            let is_there = matches!(event, Event::Joined { participant } if participant == whose);
            let is_delegated = matches!(event, Event::Appended(Appended::Durable(_)))
                && before == State::Delegating
                && old.state == BranchState::Named;
            is_wanted || is_delegated || (is_there && old.state == BranchState::Waiting)
        }
        BranchState::Yes => voted(|vote| *vote == Vote::Yes) && is_open(old),
        BranchState::ReadOnly => voted(|vote| *vote == Vote::ReadOnly) && is_open(old),
        BranchState::No => {
            voted(|vote| matches!(vote, Vote::No(_) | Vote::ReadOnly))
                && matches!(old.state, BranchState::Asked | BranchState::Unknown)
        }
        BranchState::Unknown => {
            let is_lost = matches!(event, Event::Left { participant, instance }
                if participant == whose && old.instance == Some(*instance));
            is_open(old) && (is_lost || voted(|vote| matches!(vote, Vote::Unknown(_))))
        }
        BranchState::Committed => {
            (is_open(old) && voted(|vote| *vote == Vote::Committed))
                || (old.state.needs_order() && acknowledged(|result| result != BranchResult::HeuristicAborted))
        }
        BranchState::Aborted => {
            old.state.needs_order() && acknowledged(|result| result != BranchResult::HeuristicCommitted)
        }
        BranchState::HeuristicCommitted => {
            let decided_otherwise = decision_of(after) == Some(Decision::Abort) && old.state == BranchState::Committed;
            decided_otherwise
                || (old.state.needs_order() && acknowledged(|result| result == BranchResult::HeuristicCommitted))
        }
        BranchState::Outside => {
            let is_overruled = matches!(event, Event::Appended(Appended::Overruled { decision: Decision::Commit, members })
                if members.iter().all(|member| !old.is(member)));
            is_overruled && old.state.needs_order()
        }
        BranchState::HeuristicAborted => {
            old.state.needs_order() && acknowledged(|result| result == BranchResult::HeuristicAborted)
        }
    }
}

/// Whether the branch's vote is still to come.
fn is_open(branch: &Branch) -> bool {
    branch.state == BranchState::Asked
}

/// I11: the same key with another body is refused, and changes nothing.
fn another_body_is_refused(
    before: &TwoPhase,
    event: &Event,
    after: &TwoPhase,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "I11 same key and body, same answer";
    if before.digest.is_some() && before.digest != after.digest {
        return violation(INVARIANT, format!("the digest {:?} became {:?}", before.digest, after.digest));
    }
    let Event::CommitRequested { digest, caller, .. } = event else { return Ok(()) };
    if before.digest.is_none_or(|known| known == *digest) {
        return Ok(());
    }
    let refusal = [Effect::Reply { to: *caller, reply: Reply::Refused(Refusal::KeyReused) }];
    if before != after || output.peek_effects() != refusal || output.records().next().is_some() {
        return violation(INVARIANT, format!("another body was answered {:?}", output.peek_effects()));
    }
    Ok(())
}

/// The forced record says what the machine decides, and names whoever has to learn it.
fn the_record_is_the_decision(after: &TwoPhase, output: &Output<Effect>) -> Result<(), Violation> {
    const INVARIANT: &str = "I4 the record is the decision";
    let Some(record) = output.forced() else { return Ok(()) };
    if let (Record::Delegated(delegated), State::Delegating) = (record, after.state) {
        let is_named =
            after.branches.iter().any(|branch| branch.is(&delegated.member) && branch.state == BranchState::Named);
        if is_named && after.branches.iter().all(|branch| !branch.state.needs_order()) {
            return Ok(());
        }
        return violation(INVARIANT, format!("{delegated:?} among {:?}", after.branches));
    }
    let (Record::Decided(decided), State::Deciding(decision)) = (record, after.state) else {
        return violation(INVARIANT, format!("{record:?} while {:?}", after.state));
    };
    let in_doubt: Vec<_> =
        after.branches.iter().filter(|branch| branch.state.needs_order()).map(Branch::member).collect();
    if decided.decision != decision || in_doubt != decided.members {
        return violation(INVARIANT, format!("{decided:?} while {decision} is decided for {in_doubt:?}"));
    }
    Ok(())
}

/// I12, for callers: whoever asks is answered at once or kept, and whoever was kept is answered
/// once.
fn everybody_is_answered_once(
    before: &TwoPhase,
    event: &Event,
    after: &TwoPhase,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    const INVARIANT: &str = "I12 everybody is answered";
    let is_answered = |caller: Caller| {
        output.peek_effects().iter().any(|effect| matches!(effect, Effect::Reply { to, .. } if *to == caller))
    };
    let kept = |caller: Caller| after.waiters.iter().find(|waiter| waiter.caller == caller);
    let is_released = matches!(event, Event::Appended(Appended::Durable(_)));
    for waiter in &before.waiters {
        let has_left = matches!(event, Event::CallerLeft { session } if *session == waiter.caller.session);
        // A client that uses a request's number twice confuses only itself.
        let namesakes = before.waiters.iter().filter(|other| other.caller == waiter.caller).count();
        if namesakes > 1 || caller_of(event) == Some(waiter.caller) {
            continue;
        }
        let is_fine = match kept(waiter.caller) {
            // An answer behind a record is given only if that record becomes durable: until then it
            // is kept too.
            Some(still) if waiter.is_answer_held => still.is_answer_held && !is_answered(waiter.caller),
            Some(still) => {
                still.is_answer_held == is_answered(waiter.caller)
                    && (!still.is_answer_held || output.forced().is_some())
            }
            None => has_left || is_answered(waiter.caller) != (waiter.is_answer_held && is_released),
        };
        if !is_fine {
            return violation(INVARIANT, format!("{waiter:?} by {event:?}"));
        }
    }
    if let Some(caller) = caller_of(event)
        && !is_answered(caller)
        && kept(caller).is_none()
    {
        return violation(INVARIANT, format!("{caller:?} is neither answered nor kept"));
    }
    let is_overdue = match after.state {
        State::Active
        | State::Preparing
        | State::Delegating
        | State::OnePhase
        | State::Recalling
        | State::Deciding(_) => None,
        State::Committing | State::Aborting => after.waiters.iter().find(|waiter| waiter.wait == Wait::Decided),
        State::Committed | State::Aborted => after.waiters.first(),
    };
    match is_overdue {
        Some(waiter) => violation(INVARIANT, format!("{waiter:?} still waits while {:?}", after.state)),
        None => Ok(()),
    }
}

/// I12: a transaction that has not ended waits for somebody, and something will wake it: the
/// initiator or the deadline while it is active, a vote, an instance, a timer, the log.
fn something_will_wake_it(
    step: Option<(&TwoPhase, &Event)>,
    after: &TwoPhase,
    output: &Output<Effect>,
) -> Result<(), Violation> {
    let before = step.map(|(before, _)| before);
    let event = step.map(|(_, event)| event);
    let sets = |timer: Timer| {
        output
            .peek_effects()
            .iter()
            .any(|effect| matches!(effect, Effect::SetTimer { timer: set, .. } if *set == timer))
    };
    let fired = |timer: Timer| matches!(event, Some(Event::TimerFired(fired)) if *fired == timer);
    let sends_to = |branch: &Branch| {
        output
            .peek_effects()
            .iter()
            .any(|effect| matches!(effect, Effect::Send { to, .. } if *to == branch.participant))
    };
    let waits_for = |wanted: fn(BranchState) -> bool| after.branches.iter().any(|branch| wanted(branch.state));
    let problem = match after.state {
        State::Active if before.is_none() && !sets(Timer::Deadline) => "no deadline",
        State::Active | State::Preparing if fired(Timer::Deadline) => "the deadline has passed",
        State::Preparing | State::OnePhase
            if !waits_for(|state| matches!(state, BranchState::Asked | BranchState::Waiting)) =>
        {
            "no vote is still to come"
        }
        State::Preparing | State::OnePhase
            if before.is_some_and(|before| has_more(before, after, BranchState::Waiting)) && !sets(Timer::Absence) =>
        {
            "nobody watches for the absent participant"
        }
        State::Preparing | State::OnePhase
            if fired(Timer::Absence) && waits_for(|state| state == BranchState::Waiting) =>
        {
            "the absence was long enough"
        }
        State::OnePhase if (fired(Timer::Resend) || fired(Timer::Deadline)) && !sets(Timer::Resend) => {
            "the only branch is not asked again"
        }
        State::Delegating
            if before.is_none_or(|before| before.state != State::Delegating) == output.forced().is_none() =>
        {
            "it is delegated without one record on the way"
        }
        State::Deciding(_)
            if before.is_none_or(|before| !matches!(before.state, State::Deciding(_))) == output.forced().is_none() =>
        {
            "it is decided without one record on the way"
        }
        State::Committing | State::Aborting | State::Recalling => {
            let has_news = before.is_none_or(|before| before.state != after.state) || fired(Timer::Resend);
            let is_released = matches!(event, Some(Event::Appended(Appended::Durable(_))));
            let is_told = |branch: &Branch| !branch.state.needs_order() || is_released || sends_to(branch);
            if !waits_for(BranchState::needs_order) {
                "no branch has to learn the decision"
            } else if has_news && !sets(Timer::Resend) {
                "nothing repeats the orders"
            } else if has_news && !after.branches.iter().all(is_told) {
                "a branch was not told"
            } else {
                return Ok(());
            }
        }
        State::Active
        | State::Preparing
        | State::Delegating
        | State::OnePhase
        | State::Deciding(_)
        | State::Committed
        | State::Aborted => return Ok(()),
    };
    violation("I12 every transaction ends", format!("{:?} by {event:?}: {problem}", after.state))
}

fn has_more(before: &TwoPhase, after: &TwoPhase, wanted: BranchState) -> bool {
    let count = |machine: &TwoPhase| machine.branches.iter().filter(|branch| branch.state == wanted).count();
    count(after) > count(before)
}

/// Whether the branches ended without a decision.
fn nobody_was_prepared(machine: &TwoPhase) -> bool {
    machine.branches.iter().all(|branch| matches!(branch.state, BranchState::ReadOnly | BranchState::Committed))
}

fn decision_of(state: State) -> Option<Decision> {
    match state {
        State::Active | State::Preparing | State::Delegating | State::OnePhase | State::Recalling => None,
        State::Deciding(decision) => Some(decision),
        State::Committing | State::Committed => Some(Decision::Commit),
        State::Aborting | State::Aborted => Some(Decision::Abort),
    }
}

/// Who learns a decision.
enum Told<'a> {
    Branch(&'a ParticipantName, BranchId),
    Caller,
}

/// The decision that an effect reveals, and to whom.
fn told(effect: &Effect) -> Option<(Decision, Told<'_>)> {
    match effect {
        Effect::Send { to, branch, order: Order::Commit, .. } => Some((Decision::Commit, Told::Branch(to, *branch))),
        Effect::Send { to, branch, order: Order::Abort, .. } => Some((Decision::Abort, Told::Branch(to, *branch))),
        Effect::Reply { reply: Reply::Outcome { outcome, .. }, .. } => match outcome {
            Outcome::Committed | Outcome::Completed => Some((Decision::Commit, Told::Caller)),
            Outcome::Aborted | Outcome::Compensated => Some((Decision::Abort, Told::Caller)),
        },
        Effect::Send { order: Order::Prepare { .. }, .. }
        | Effect::Reply { reply: Reply::Begun | Reply::Enlisted | Reply::Refused(_), .. }
        | Effect::SetTimer { .. }
        | Effect::CancelTimer(_) => None,
    }
}

fn newcomer_of(event: &Event) -> Option<&ParticipantName> {
    match event {
        Event::Enlisted { participant, .. } => Some(participant),
        Event::BranchNamed { branch, .. } => Some(&branch.participant),
        Event::BeginRequested { .. }
        | Event::CommitRequested { .. }
        | Event::AbortRequested { .. }
        | Event::OutcomeAwaited { .. }
        | Event::CallerLeft { .. }
        | Event::Routed { .. }
        | Event::Voted { .. }
        | Event::Acknowledged { .. }
        | Event::Inquired { .. }
        | Event::Joined { .. }
        | Event::Left { .. }
        | Event::TimerFired(_)
        | Event::Appended(_) => None,
    }
}

fn caller_of(event: &Event) -> Option<Caller> {
    match event {
        Event::BeginRequested { caller }
        | Event::Enlisted { caller, .. }
        | Event::BranchNamed { caller, .. }
        | Event::CommitRequested { caller, .. }
        | Event::AbortRequested { caller, .. }
        | Event::OutcomeAwaited { caller, .. } => Some(*caller),
        Event::CallerLeft { .. }
        | Event::Routed { .. }
        | Event::Voted { .. }
        | Event::Acknowledged { .. }
        | Event::Inquired { .. }
        | Event::Joined { .. }
        | Event::Left { .. }
        | Event::TimerFired(_)
        | Event::Appended(_) => None,
    }
}

fn violation(invariant: &'static str, problem: String) -> Result<(), Violation> {
    Err(Violation { invariant, problem })
}
