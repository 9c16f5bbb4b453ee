//! The promises of the participant's machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Acknowledgement, Branch, Effect, Event, Hook, HookEnd, INQUIRE_INITIAL_MS, Message, State, Timer, invariant,
};
use crate::durable::Output;
use crate::ids::{Epoch, Gtid};
use crate::record::Decision;
use crate::two_phase::{BranchResult, Vote};

fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid")
}

/// A branch whose invariants are checked at every step, and what it wants done.
struct Driven {
    branch: Branch,
    output: Output<Effect>,
}

impl Driven {
    fn met(event: Event) -> Self {
        let (branch, output) = Branch::meet(gtid(), event.clone());
        invariant::check(None, &event, &branch, &output).expect("no invariant breaks");
        Self { branch, output }
    }

    fn in_doubt() -> Self {
        let (branch, output) = Branch::in_doubt(gtid());
        invariant::check_in_doubt(&branch, &output).expect("a fair beginning");
        Self { branch, output }
    }

    /// The hook has answered an order to prepare.
    fn voted(vote: Vote) -> Self {
        let mut driven = Self::met(prepare(1, false));
        driven.on(Event::PrepareFinished(vote));
        driven
    }

    fn on(&mut self, event: Event) -> &mut Self {
        let before = self.branch.clone();
        self.output = self.branch.handle(event.clone());
        invariant::check(Some(&before), &event, &self.branch, &self.output).expect("no invariant breaks");
        self
    }

    fn calls(&self) -> Vec<&Hook> {
        let hooks = self.output.peek_effects().iter().filter_map(|effect| match effect {
            Effect::Call(hook) => Some(hook),
            Effect::Send(_) | Effect::SetTimer { .. } | Effect::Contradiction { .. } => None,
        });
        hooks.collect()
    }

    fn says(&self) -> Vec<&Message> {
        let messages = self.output.peek_effects().iter().filter_map(|effect| match effect {
            Effect::Send(message) => Some(message),
            Effect::Call(_) | Effect::SetTimer { .. } | Effect::Contradiction { .. } => None,
        });
        messages.collect()
    }

    fn timer(&self, wanted: Timer) -> Option<u64> {
        self.output.peek_effects().iter().find_map(|effect| match effect {
            Effect::SetTimer { timer, after_ms, .. } if *timer == wanted => Some(*after_ms),
            Effect::SetTimer { .. } | Effect::Call(_) | Effect::Send(_) | Effect::Contradiction { .. } => None,
        })
    }
}

fn prepare(epoch: u64, one_phase: bool) -> Event {
    Event::PrepareOrdered { epoch: Epoch(epoch), payload: "work".into(), one_phase }
}

fn decided(epoch: u64, decision: Decision) -> Event {
    Event::Decided { epoch: Epoch(epoch), decision }
}

fn done() -> Event {
    Event::EndFinished(HookEnd::Ended(BranchResult::Done))
}

fn failed() -> Event {
    Event::EndFinished(HookEnd::Failed("no connection".to_owned()))
}

fn unknown() -> Vote {
    Vote::Unknown("no connection".to_owned())
}

fn no() -> Vote {
    Vote::No("no money".to_owned())
}

#[test]
fn a_yes_waits_for_the_decision_and_asks_for_it() {
    let mut driven = Driven::voted(Vote::Yes);
    assert_eq!(driven.says(), [&Message::Vote(Vote::Yes)]);
    let mut waits = vec![driven.timer(Timer::Inquire)];
    for _ in 0..4 {
        driven.on(Event::TimerFired(Timer::Inquire));
        assert_eq!((driven.says(), driven.branch.state()), (vec![&Message::Inquire], State::InDoubt));
        waits.push(driven.timer(Timer::Inquire));
    }
    assert_eq!(waits, [5_000, 10_000, 20_000, 30_000, 30_000].map(Some));
}

#[test]
fn a_decision_calls_its_hook_and_is_acknowledged_when_it_is_done() {
    for (decision, hook) in [(Decision::Commit, Hook::Commit), (Decision::Abort, Hook::Abort)] {
        let mut driven = Driven::voted(Vote::Yes);
        driven.on(decided(1, decision));
        assert_eq!((driven.calls(), driven.says()), (vec![&hook], vec![]));
        driven.on(done());
        let end = HookEnd::Ended(BranchResult::Done);
        let acknowledgement = Acknowledgement { decision, epoch: Epoch(1), end };
        assert_eq!(driven.says(), [&Message::Acknowledge(acknowledgement)]);
        assert!(driven.branch.is_ended());
    }
}

#[test]
fn a_branch_that_votes_otherwise_has_ended() {
    for vote in [no(), Vote::ReadOnly] {
        let driven = Driven::voted(vote.clone());
        assert_eq!(driven.says(), [&Message::Vote(vote)]);
        assert!(driven.branch.is_ended());
    }
    let mut alone = Driven::met(prepare(1, true));
    alone.on(Event::PrepareFinished(Vote::Committed));
    assert!(alone.branch.is_ended());
}

#[test]
fn an_error_in_prepare_leaves_the_branch_in_doubt() {
    let mut driven = Driven::voted(unknown());
    assert_eq!(driven.branch.state(), State::InDoubt);
    driven.on(decided(1, Decision::Abort));
    assert_eq!(driven.calls(), [&Hook::Abort]);
}

#[test]
fn an_error_in_prepare_never_becomes_a_yes() {
    for one_phase in [false, true] {
        let mut driven = Driven::voted(unknown());
        driven.on(prepare(2, one_phase));
        assert!(matches!(driven.says()[..], [Message::Vote(Vote::Unknown(_))]), "{:?}", driven.output);
        assert_eq!(driven.calls(), [&Hook::Abort], "what may be left over is cleared away");
        driven.on(done()).on(prepare(2, one_phase));
        assert!(matches!(driven.calls()[..], [Hook::Prepare { .. }]), "and then it is asked from the start");
    }
}

#[test]
fn a_prepared_branch_that_is_asked_again_says_yes_again() {
    let mut driven = Driven::voted(Vote::Yes);
    driven.on(prepare(2, false));
    assert_eq!((driven.says(), driven.calls()), (vec![&Message::Vote(Vote::Yes)], vec![]));
    let mut found = Driven::in_doubt();
    found.on(prepare(2, true));
    assert_eq!(found.says(), [&Message::Vote(Vote::Yes)]);
}

#[test]
fn a_branch_that_may_have_committed_by_itself_asks_nobody() {
    // Nobody will decide for it. The coordinator asks again, and the hook finds out.
    let mut driven = Driven::met(prepare(1, true));
    driven.on(Event::PrepareFinished(unknown()));
    assert!(driven.branch.is_ended());
    driven.on(prepare(1, true));
    assert!(matches!(driven.calls()[..], [Hook::Prepare { one_phase: true, .. }]));
}

#[test]
fn an_abort_during_prepare_follows_it() {
    for vote in [Vote::Yes, unknown()] {
        let mut driven = Driven::met(prepare(1, false));
        driven.on(decided(1, Decision::Abort));
        assert!(driven.calls().is_empty(), "one hook at a time");
        driven.on(Event::PrepareFinished(vote));
        assert_eq!((driven.says(), driven.calls()), (vec![], vec![&Hook::Abort]));
    }
    let mut refused = Driven::met(prepare(1, false));
    refused.on(decided(1, Decision::Abort)).on(Event::PrepareFinished(no()));
    assert_eq!((refused.says(), refused.branch.is_ended()), (vec![&Message::Vote(no())], true));
}

#[test]
fn a_failed_hook_is_called_again_until_it_ends() {
    let mut driven = Driven::voted(Vote::Yes);
    driven.on(decided(1, Decision::Commit));
    let mut waits = Vec::new();
    for _ in 0..9 {
        driven.on(failed());
        waits.extend(driven.timer(Timer::Retry));
        driven.on(Event::TimerFired(Timer::Retry));
        assert_eq!(driven.calls(), [&Hook::Commit]);
    }
    assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
    driven.on(done());
    assert!(driven.branch.is_ended());
}

#[test]
fn a_hook_that_runs_is_not_called_beside_itself() {
    let mut driven = Driven::voted(Vote::Yes);
    driven.on(decided(1, Decision::Commit)).on(Event::TimerFired(Timer::Retry)).on(decided(1, Decision::Commit));
    assert!(driven.calls().is_empty());
    driven.on(failed()).on(done());
    assert_eq!(driven.branch.state(), State::Committing, "no hook runs that could have ended");
}

#[test]
fn an_order_of_a_lower_epoch_is_ignored() {
    let mut driven = Driven::met(prepare(5, false));
    driven.on(Event::PrepareFinished(Vote::Yes));
    for stale in [decided(4, Decision::Abort), decided(4, Decision::Commit), prepare(4, false)] {
        driven.on(stale);
        assert_eq!((driven.output.peek_effects(), driven.branch.state()), (&[][..], State::InDoubt));
    }
    driven.on(decided(6, Decision::Commit));
    assert_eq!((driven.calls(), driven.branch.epoch()), (vec![&Hook::Commit], Epoch(6)));
}

#[test]
fn a_coordinator_that_contradicts_itself_is_reported_and_not_obeyed() {
    for (first, second) in [(Decision::Commit, Decision::Abort), (Decision::Abort, Decision::Commit)] {
        let mut driven = Driven::in_doubt();
        driven.on(decided(1, first)).on(decided(1, second));
        assert_eq!(driven.output.peek_effects(), [Effect::Contradiction { doing: first }]);
    }
}

#[test]
fn a_decision_about_an_unknown_branch_is_left_to_the_hook() {
    // It ended and the acknowledgement was lost, or another instance prepared it.
    let mut driven = Driven::met(decided(1, Decision::Commit));
    assert_eq!(driven.calls(), [&Hook::Commit]);
    driven.on(done()).on(decided(1, Decision::Commit));
    assert_eq!(driven.calls(), [&Hook::Commit], "the acknowledgement was lost again");
}

#[test]
fn a_branch_found_prepared_asks_as_soon_as_it_can() {
    let mut driven = Driven::in_doubt();
    assert_eq!(driven.timer(Timer::Inquire), Some(INQUIRE_INITIAL_MS));
    driven.on(Event::SessionUp);
    assert_eq!(driven.says(), [&Message::Inquire]);
    assert!(driven.timer(Timer::Inquire).is_some(), "and again, should the answer be lost");
}

/// The cells that lead out of their state, and where to. Every other pair leaves the state as it is.
#[rustfmt::skip]
const WAYS_OUT: &[(&str, &str, &str)] = &[
    ("ended", "prepare ordered", "preparing"),
    ("ended", "commit ordered", "committing"),
    ("ended", "abort ordered", "aborting"),
    ("preparing", "prepare finished", "aborting, ended, in doubt"),
    ("in doubt", "prepare ordered", "aborting, in doubt"),
    ("in doubt", "commit ordered", "committing, in doubt"),
    ("in doubt", "abort ordered", "aborting, in doubt"),
    ("committing", "end finished", "committing, ended"),
    ("aborting", "end finished", "aborting, ended"),
];

#[test]
fn every_cell_of_the_table_is_reached_and_leads_where_it_says() {
    let cells = walk();
    for state in ["ended", "preparing", "in doubt", "committing", "aborting"] {
        for event in [
            "prepare ordered",
            "commit ordered",
            "abort ordered",
            "prepare finished",
            "end finished",
            "session up",
            "inquire",
            "retry",
        ] {
            let found = cells.get(&(state, event)).map(|to| to.iter().copied().collect::<Vec<_>>().join(", "));
            let way_out = WAYS_OUT.iter().find(|(from, by, _)| (*from, *by) == (state, event));
            // A branch that has ended takes any epoch's order only while it remembers none: stale ones leave it as it is.
            let expected = match way_out {
                Some(("ended", _, to)) => format!("{}, {}", (*to).min("ended"), (*to).max("ended")),
                Some((_, _, to)) => (*to).to_owned(),
                None => state.to_owned(),
            };
            assert_eq!(found, Some(expected), "{state} | {event}");
        }
    }
}

type Cells = BTreeMap<(&'static str, &'static str), BTreeSet<&'static str>>;

fn walk() -> Cells {
    let first = [Driven::in_doubt().branch, Driven::met(Event::SessionUp).branch];
    let mut cells = Cells::new();
    let mut seen: BTreeSet<_> = first.iter().cloned().collect();
    let mut queue: VecDeque<_> = first.into();
    while let Some(before) = queue.pop_front() {
        for (kind, event) in events() {
            let mut after = before.clone();
            let output = after.handle(event.clone());
            invariant::check(Some(&before), &event, &after, &output)
                .unwrap_or_else(|violation| panic!("{violation}\n{before:#?}\n{event:#?}\n{after:#?}\n{output:#?}"));
            cells.entry((word(&before), kind)).or_default().insert(word(&after));
            // Repetitions only lengthen the waits.
            if after.repeats <= 2 && seen.insert(after.clone()) {
                queue.push_back(after);
            }
        }
    }
    cells
}

fn events() -> Vec<(&'static str, Event)> {
    let mut events = vec![
        ("end finished", done()),
        ("end finished", failed()),
        ("end finished", Event::EndFinished(HookEnd::Ended(BranchResult::HeuristicCommitted))),
        ("session up", Event::SessionUp),
        ("inquire", Event::TimerFired(Timer::Inquire)),
        ("retry", Event::TimerFired(Timer::Retry)),
    ];
    for epoch in [1, 2] {
        events.push(("prepare ordered", prepare(epoch, false)));
        events.push(("prepare ordered", prepare(epoch, true)));
        events.push(("commit ordered", decided(epoch, Decision::Commit)));
        events.push(("abort ordered", decided(epoch, Decision::Abort)));
    }
    for vote in [Vote::Yes, Vote::ReadOnly, no(), unknown(), Vote::Committed] {
        events.push(("prepare finished", Event::PrepareFinished(vote)));
    }
    events
}

fn word(branch: &Branch) -> &'static str {
    match branch.state {
        State::Preparing { .. } => "preparing",
        State::InDoubt => "in doubt",
        State::Committing => "committing",
        State::Aborting => "aborting",
        State::Ended => "ended",
    }
}

// ---- each invariant, and a branch that breaks it -----------------------------------------------------------------------

fn broken(before: &Branch, event: Event, after: &Branch, effects: Vec<Effect>) -> &'static str {
    invariant::check(Some(before), &event, after, &Output::effects(effects)).expect_err("it is broken").invariant
}

fn mistaken(before: &Branch, mistake: impl FnOnce(&mut Branch)) -> Branch {
    let mut after = before.clone();
    mistake(&mut after);
    after
}

#[test]
fn a_yes_that_is_taken_back_is_caught() {
    let before = Driven::voted(Vote::Yes).branch;
    let timer = Event::TimerFired(Timer::Inquire);
    let ended = mistaken(&before, |it| it.state = State::Ended);
    assert_eq!(broken(&before, timer.clone(), &ended, vec![]), "I6 a yes is kept");
    let aborting = mistaken(&before, |it| {
        it.state = State::Aborting;
        it.is_hook_running = true;
    });
    assert_eq!(broken(&before, timer, &aborting, vec![Effect::Call(Hook::Abort)]), "I6 a yes is kept");
    let mut committing = Driven::in_doubt();
    committing.on(decided(1, Decision::Commit));
    let turned = mistaken(&committing.branch, |it| it.state = State::Aborting);
    assert_eq!(broken(&committing.branch, decided(1, Decision::Abort), &turned, vec![]), "I3 a decision never changes");
}

#[test]
fn an_effect_of_a_lower_epoch_is_caught() {
    let mut driven = Driven::met(prepare(5, false));
    driven.on(Event::PrepareFinished(Vote::Yes));
    let before = driven.branch;
    let caught = broken(&before, prepare(4, false), &before, vec![Effect::Send(Message::Vote(Vote::Yes))]);
    assert_eq!(caught, "I7 no effect from a lower epoch");
    let lower = mistaken(&before, |it| it.epoch = Epoch(4));
    assert_eq!(broken(&before, prepare(6, false), &lower, vec![]), "I7 no effect from a lower epoch");
}

#[test]
fn a_yes_that_no_hook_said_is_caught() {
    let before = Driven::voted(unknown()).branch;
    let caught = broken(&before, prepare(1, false), &before, vec![Effect::Send(Message::Vote(Vote::Yes))]);
    assert_eq!(caught, "I2 a yes is the hook's");
}

#[test]
fn a_second_hook_is_caught() {
    let mut driven = Driven::in_doubt();
    let before = driven.on(decided(1, Decision::Commit)).branch.clone();
    let caught = broken(&before, Event::TimerFired(Timer::Retry), &before, vec![Effect::Call(Hook::Commit)]);
    assert_eq!(caught, "one hook at a time");
}

#[test]
fn a_hook_that_nobody_ordered_is_caught() {
    let before = Driven::in_doubt().branch;
    let after = mistaken(&before, |it| {
        it.state = State::Aborting;
        it.is_hook_running = true;
        it.epoch = Epoch(1);
    });
    let caught = broken(&before, decided(1, Decision::Commit), &after, vec![Effect::Call(Hook::Abort)]);
    assert_eq!(caught, "I6 hooks follow orders");
}

#[test]
fn an_end_that_is_not_told_is_caught() {
    let mut driven = Driven::in_doubt();
    let before = driven.on(decided(1, Decision::Commit)).branch.clone();
    let after = mistaken(&before, |it| {
        it.state = State::Ended;
        it.is_hook_running = false;
    });
    assert_eq!(broken(&before, done(), &after, vec![]), "I9 an end is told");
}

#[test]
fn a_branch_that_nothing_will_wake_is_caught() {
    let mut driven = Driven::in_doubt();
    assert_eq!(broken(&driven.branch, Event::SessionUp, &driven.branch, vec![]), "I12 every branch ends");
    let before = driven.on(decided(1, Decision::Commit)).branch.clone();
    let after = mistaken(&before, |it| it.is_hook_running = false);
    assert_eq!(broken(&before, failed(), &after, vec![]), "I12 every branch ends");
    assert!(invariant::check_in_doubt(&driven.branch, &Output::none()).is_err());
}
