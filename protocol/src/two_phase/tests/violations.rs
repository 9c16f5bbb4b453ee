//! Each invariant, and a machine that breaks it.

use super::*;

/// The invariant that breaks when `event` leads from one machine to the other.
fn broken(before: &TwoPhase, event: Event, after: &TwoPhase, output: Output<Effect>) -> &'static str {
    invariant::check(before, &event, after, &output).expect_err("it is broken").invariant
}

/// A machine, and another in the state that it would be in by mistake.
fn mistaken(driven: &Driven, mistake: impl FnOnce(&mut TwoPhase)) -> (TwoPhase, TwoPhase) {
    let before = driven.machine.clone();
    let mut after = before.clone();
    mistake(&mut after);
    (before, after)
}

fn nothing_happened() -> Event {
    Event::TimerFired(Timer::Absence)
}

fn committing() -> Driven {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.votes("a", Vote::Yes).votes("b", Vote::Yes).durable();
    driven
}

fn send(to: &str, order: Order) -> Effect {
    // Of the branches that a commit request carries, in their order.
    let number = if to == "b" { 1 } else { 0 };
    Effect::Send { to: name(to), branch: FIRST_ID.plus(number), prefer: None, order }
}

/// The answer to an order to commit.
fn acknowledged(driven: &Driven, participant: &str, result: BranchResult) -> Event {
    let Member { participant, branch } = driven.member(participant);
    let (decision, epoch, end) = (Decision::Commit, EPOCH, HookEnd::Ended(result));
    Event::Acknowledged { participant, branch, acknowledgement: Acknowledgement { decision, epoch, end } }
}

fn tell(request: u64, outcome: Outcome) -> Effect {
    Effect::Reply { to: caller(request), reply: Reply::Outcome { outcome, reason: None } }
}

fn decide(participants: &[&str], decision: Decision, effects: Vec<Effect>) -> Output<Effect> {
    let mut driven = Driven::preparing(&["a"]);
    driven.votes("a", Vote::Yes);
    let members =
        participants.iter().zip(0..).map(|(a, at)| Member { participant: name(a), branch: FIRST_ID.plus(at) });
    let decided = Decided { decision, members: members.collect(), ..driven.forced().expect("forced").clone() };
    Output::after(Record::Decided(decided), effects)
}

#[test]
fn a_commit_without_every_vote_is_caught() {
    let mut driven = Driven::preparing(&["a", "b"]);
    driven.on(Event::CallerLeft { session: 1 });
    let (before, after) = mistaken(&driven, |it| it.state = State::Deciding(Decision::Commit));
    let output = decide(&["a", "b"], Decision::Commit, vec![]);
    assert_eq!(broken(&before, nothing_happened(), &after, output), "I2 commit only with every vote");
}

#[test]
fn a_decision_that_changes_is_caught() {
    let (before, after) = mistaken(&committing(), |it| it.state = State::Aborting);
    assert_eq!(broken(&before, nothing_happened(), &after, Output::none()), "I3 a decision never changes");
}

#[test]
fn a_commit_that_is_told_before_it_is_durable_is_caught() {
    const INVARIANT: &str = "I4 nobody is told a decision that is not durable";
    let mut driven = Driven::preparing(&["a"]);
    driven.votes("a", Vote::Yes);
    for effect in [send("a", Order::Commit), tell(1, Outcome::Committed)] {
        let (before, after) = mistaken(&driven, |_| {});
        assert_eq!(broken(&before, nothing_happened(), &after, Output::effects(vec![effect])), INVARIANT);
    }
    let (before, after) = mistaken(&driven, |it| {
        it.state = State::Committing;
        it.has_open_row = true;
    });
    assert_eq!(broken(&before, nothing_happened(), &after, Output::none()), INVARIANT, "without the log's word");
}

#[test]
fn an_abort_that_may_be_asked_for_again_and_is_told_unlogged_is_caught() {
    let mut driven = Driven::begun();
    driven.commit(&Commit { may_recur: true, ..Commit::of(&["a"]) }).routed("a", Route::Instance(INSTANCE));
    let (before, after) = mistaken(&driven, |it| {
        it.state = State::Aborting;
        it.waiters.clear();
    });
    let output = Output::effects(vec![tell(1, Outcome::Aborted), send("a", Order::Abort)]);
    assert_eq!(broken(&before, nothing_happened(), &after, output), "I4 nobody is told a decision that is not durable");
}

#[test]
fn an_answer_that_is_not_the_decision_is_caught() {
    let driven = committing();
    let caught = |effect: Effect| {
        let (before, after) = mistaken(&driven, |_| {});
        broken(&before, nothing_happened(), &after, Output::effects(vec![effect]))
    };
    assert_eq!(caught(tell(5, Outcome::Aborted)), "I4 nobody is told a decision that is not durable");
    assert_eq!(caught(send("stranger", Order::Commit)), "I5 what was told comes true");
    let mut deciding = Driven::preparing(&["a"]);
    deciding.on(Event::CallerLeft { session: 1 });
    let (before, after) = mistaken(&deciding, |it| {
        it.state = State::Deciding(Decision::Commit);
        it.branches[0].state = BranchState::Yes;
    });
    let vote = Event::Voted { participant: name("a"), branch: FIRST_ID, instance: INSTANCE, vote: Vote::Yes };
    let output = decide(&["a"], Decision::Commit, vec![send("a", Order::Abort)]);
    assert_eq!(broken(&before, vote, &after, output), "I5 what was told comes true", "held effects too");
}

#[test]
fn a_record_that_is_not_the_decision_is_caught() {
    for (participants, decision) in [(vec!["a"], Decision::Abort), (vec![], Decision::Commit)] {
        let mut driven = Driven::preparing(&["a"]);
        driven.on(Event::CallerLeft { session: 1 });
        let (before, after) = mistaken(&driven, |it| {
            it.state = State::Deciding(Decision::Commit);
            it.branches[0].state = BranchState::Yes;
        });
        let vote = Event::Voted { participant: name("a"), branch: FIRST_ID, instance: INSTANCE, vote: Vote::Yes };
        let output = decide(&participants, decision, vec![]);
        assert_eq!(broken(&before, vote, &after, output), "I4 the record is the decision");
    }
}

#[test]
fn an_epoch_that_changes_is_caught() {
    let (before, after) = mistaken(&committing(), |it| it.epoch = Epoch(4));
    assert_eq!(broken(&before, nothing_happened(), &after, Output::none()), "I7 the epoch is constant");
}

#[test]
fn a_roster_that_grows_after_prepare_began_is_caught() {
    const INVARIANT: &str = "I8 the roster is frozen once prepare starts";
    let driven = Driven::preparing(&["a"]);
    let (before, after) = mistaken(&driven, |it| {
        it.branches.push(Branch { participant: name("b"), ..it.branches[0].clone() });
    });
    assert_eq!(broken(&before, nothing_happened(), &after, Output::none()), INVARIANT);
    let (branch, vote, caller) = (id("b"), EarlyVote::Yes, caller(5));
    let enlisted = Event::Enlisted { participant: name("b"), branch, instance: INSTANCE, vote, caller };
    let output = Output::effects(vec![Effect::Reply { to: caller, reply: Reply::Enlisted }]);
    assert_eq!(broken(&before, enlisted, &before, output), INVARIANT, "told so, and left out");
}

#[test]
fn an_end_before_every_branch_has_acknowledged_is_caught() {
    const INVARIANT: &str = "I9 forgotten only when every branch has ended";
    let mut driven = committing();
    let (before, after) = mistaken(&driven, |it| it.state = State::Committed);
    assert_eq!(broken(&before, nothing_happened(), &after, Output::none()), INVARIANT, "no record of the end");
    driven.acknowledges("a", BranchResult::Done);
    let before = driven.machine.clone();
    driven.acknowledges("b", BranchResult::Done);
    let (mut after, output) = (driven.machine.clone(), driven.output.clone());
    after.branches[1].state = BranchState::Yes;
    let event = acknowledged(&driven, "b", BranchResult::Done);
    assert_eq!(broken(&before, event, &after, output), INVARIANT, "one has not ended");
}

#[test]
fn a_branch_that_ends_without_its_word_is_caught() {
    let driven = committing();
    let (before, after) = mistaken(&driven, |it| it.branches[0].state = BranchState::Committed);
    for event in [
        nothing_happened(),
        acknowledged(&driven, "b", BranchResult::Done),
        acknowledged(&driven, "a", BranchResult::HeuristicAborted),
    ] {
        assert_eq!(broken(&before, event, &after, Output::none()), "I9 a branch moves by its own account");
    }
}

#[test]
fn another_body_that_is_answered_is_caught() {
    let driven = committing();
    let (before, after) = mistaken(&driven, |_| {});
    let event = Event::CommitRequested {
        branches: vec![],
        first_id: FIRST_ID,
        digest: BodyDigest(8),
        one_phase: false,
        may_recur: false,
        caller: caller(5),
        wait: Wait::Decided,
    };
    let output = Output::effects(vec![tell(5, Outcome::Committed)]);
    assert_eq!(broken(&before, event, &after, output), "I11 same key and body, same answer");
}

#[test]
fn a_caller_that_is_forgotten_is_caught() {
    const INVARIANT: &str = "I12 everybody is answered";
    let driven = Driven::preparing(&["a"]);
    let (before, after) = mistaken(&driven, |it| it.waiters.clear());
    assert_eq!(broken(&before, nothing_happened(), &after, Output::none()), INVARIANT);
    let (before, after) = mistaken(&driven, |_| {});
    let event = Event::OutcomeAwaited { caller: caller(5), wait: Wait::Decided };
    assert_eq!(broken(&before, event, &after, Output::none()), INVARIANT);
    // The answer was held with the commit, and the log overruled it.
    let mut overruled = Driven::preparing(&["a"]);
    overruled.votes("a", Vote::Yes);
    let before = overruled.machine.clone();
    overruled.overruled(Decision::Abort);
    let untold =
        overruled.output.peek_effects().iter().filter(|effect| !matches!(effect, Effect::Reply { .. })).cloned();
    let event = Event::Appended(Appended::Overruled { decision: Decision::Abort, members: before.members() });
    assert_eq!(broken(&before, event, &overruled.machine, Output::effects(untold.collect())), INVARIANT);
}

#[test]
fn a_transaction_that_nothing_will_wake_is_caught() {
    const INVARIANT: &str = "I12 every transaction ends";
    let (machine, _) = TwoPhase::begin(gtid(), EPOCH, begun_at_ms(), PATIENCE);
    let begun = invariant::check_begun(&machine, &Output::none()).expect_err("there is no deadline");
    assert_eq!(begun.invariant, INVARIANT);

    let absent = Driven::committing(&["a"]);
    let (before, after) = mistaken(&absent, |it| it.branches[0].state = BranchState::Waiting);
    let event = Event::Routed { participant: name("a"), to: Route::Absent };
    assert_eq!(broken(&before, event, &after, Output::none()), INVARIANT, "nobody watches for the absent participant");

    let mut deciding = Driven::preparing(&["a"]);
    deciding.on(Event::CallerLeft { session: 1 });
    let (before, after) = mistaken(&deciding, |it| it.state = State::Deciding(Decision::Abort));
    assert_eq!(broken(&before, nothing_happened(), &after, Output::none()), INVARIANT, "nothing was appended");

    let mut driven = Driven::preparing(&["a"]);
    driven.on(Event::CallerLeft { session: 1 }).votes("a", Vote::Yes);
    let before = driven.machine.clone();
    driven.durable();
    let event = Event::Appended(Appended::Durable(receipt()));
    assert_eq!(broken(&before, event, &driven.machine, Output::none()), INVARIANT, "nothing repeats the orders");

    let (before, after) = mistaken(&committing(), |_| {});
    let timer = Effect::SetTimer { timer: Timer::Resend, after_ms: 1, jitter: false };
    let output = Output::effects(vec![send("a", Order::Commit), timer]);
    assert_eq!(broken(&before, Event::TimerFired(Timer::Resend), &after, output), INVARIANT, "b was not told");
}
