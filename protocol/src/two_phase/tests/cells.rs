//! Every cell of the transition table, reached by walking all states of a small configuration.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::{
    BranchResult, BranchState, CarriedBranch, EarlyVote, Event, Route, State, Timer, TwoPhase, Vote, invariant,
};
use super::{
    EPOCH, FIRST_ID, INSTANCE, OTHER_INSTANCE, PATIENCE, TWIN, begun_at_ms, carried, gtid, id, member, name, receipt,
};
use crate::branch::{Acknowledgement, HookEnd};
use crate::durable::Appended;
use crate::ids::{BodyDigest, BranchId, Caller, Epoch, ParticipantName};
use crate::reason::Wait;
use crate::record::{Decision, Member};

/// The cells that lead out of their state, and where to. Every other pair of a state and an event
/// leaves the state as it is.
#[rustfmt::skip]
const WAYS_OUT: &[(&str, &str, &str)] = &[
    ("active", "abort requested", "aborted, aborting"),
    ("active", "commit requested", "active, committed, deciding commit, delegating, preparing"),
    ("active", "deadline", "aborted, aborting"),
    ("preparing", "abort requested", "deciding abort"),
    ("preparing", "absence", "aborted, aborting, deciding abort, preparing"),
    ("preparing", "deadline", "aborted, aborting, deciding abort"),
    ("preparing", "left", "aborting, deciding abort, preparing"),
    ("preparing", "routed, unknown", "aborted, aborting, deciding abort, preparing"),
    ("preparing", "voted", "aborted, aborting, committed, deciding abort, deciding commit, preparing"),
    ("delegating", "appended, durable", "deciding abort, one-phase"),
    ("delegating", "appended, overruled by commit", "committed"),
    ("delegating", "appended, overruled by abort", "aborted"),
    ("one-phase", "absence", "deciding abort, one-phase"),
    ("one-phase", "deadline", "deciding abort, one-phase"),
    ("one-phase", "routed, unknown", "deciding abort, one-phase"),
    ("one-phase", "voted", "aborted, committed, deciding commit, one-phase, recalling"),
    ("recalling", "acknowledged", "aborted, committed, recalling"),
    ("recalling", "voted", "committed, recalling"),
    ("deciding commit", "appended, durable", "committed, committing"),
    ("deciding commit", "appended, overruled by commit", "committed, committing"),
    ("deciding commit", "appended, overruled by abort", "aborted, aborting"),
    ("deciding abort", "appended, durable", "aborted, aborting"),
    ("deciding abort", "appended, overruled by commit", "committed, committing"),
    ("deciding abort", "appended, overruled by abort", "aborted, aborting"),
    ("committing", "acknowledged", "committed, committing"),
    ("aborting", "acknowledged", "aborted, aborting"),
    ("aborting", "abort requested", "aborting, deciding abort"),
    ("aborting", "commit requested", "aborting, deciding abort"),
    ("aborting", "outcome awaited", "aborting, deciding abort"),
    ("aborting", "routed, absent", "aborted, aborting"),
    ("aborting", "routed, unknown", "aborted, aborting"),
    ("aborting", "voted", "aborted, aborting"),
];

#[test]
fn every_cell_of_the_table_is_reached_and_leads_where_it_says() {
    let (cells, branch_states) = walk();
    for state in STATES {
        for event in EVENTS {
            let found = cells.get(&(state, event)).map(|to| to.iter().copied().collect::<Vec<_>>().join(", "));
            let way_out = WAYS_OUT.iter().find(|(from, by, _)| (*from, *by) == (state, event));
            // The log answers only who asked it.
            let is_possible = !event.starts_with("appended") || state.starts_with("deciding") || state == "delegating";
            let expected = is_possible.then(|| way_out.map_or(state, |(_, _, to)| to).to_owned());
            assert_eq!(found, expected, "{state} | {event}");
        }
    }
    assert_eq!(branch_states, BRANCH_STATES.into(), "every state of a branch is reached");
}

const STATES: [&str; 11] = [
    "active",
    "preparing",
    "delegating",
    "one-phase",
    "recalling",
    "deciding commit",
    "deciding abort",
    "committing",
    "aborting",
    "committed",
    "aborted",
];

const BRANCH_STATES: [BranchState; 12] = [
    BranchState::Named,
    BranchState::Waiting,
    BranchState::Asked,
    BranchState::Yes,
    BranchState::ReadOnly,
    BranchState::No,
    BranchState::Unknown,
    BranchState::Committed,
    BranchState::Aborted,
    BranchState::HeuristicCommitted,
    BranchState::HeuristicAborted,
    BranchState::Outside,
];

const EVENTS: [&str; 25] = [
    "begin requested",
    "enlisted",
    "branch named",
    "commit requested",
    "abort requested",
    "outcome awaited",
    "caller left",
    "routed to an instance",
    "routed, absent",
    "routed, unknown",
    "voted",
    "acknowledged",
    "inquired",
    "joined",
    "left",
    "deadline",
    "absence",
    "resend",
    "appended, durable",
    "appended, overruled by commit",
    "appended, overruled by abort",
    "appended, undecided",
    "voted, by a stranger",
    "acknowledged, by a stranger",
    "acknowledged, another order",
];

type Cells = BTreeMap<(&'static str, &'static str), BTreeSet<&'static str>>;

/// Takes every event in every state that two participants, two instances, one waiter and one
/// repetition can lead to, and checks the invariants each time.
fn walk() -> (Cells, BTreeSet<BranchState>) {
    let (first, output) = TwoPhase::begin(gtid(), EPOCH, begun_at_ms(), PATIENCE);
    invariant::check_begun(&first, &output).expect("a fair beginning");
    let (presumed, output) = TwoPhase::presume_abort(gtid(), EPOCH, begun_at_ms(), member("a"), INSTANCE);
    invariant::check_begun(&presumed, &output).expect("a fair beginning");
    let mut cells = Cells::new();
    let mut branch_states = BTreeSet::new();
    let mut seen = BTreeSet::from([essence(&first), essence(&presumed)]);
    let mut queue = VecDeque::from([first, presumed]);
    while let Some(before) = queue.pop_front() {
        branch_states.extend(before.branches.iter().map(|branch| branch.state));
        for event in events(&before) {
            let mut after = before.clone();
            let output = after.handle(event.clone());
            if let Err(violation) = invariant::check(&before, &event, &after, &output) {
                panic!("{violation}\nbefore: {before:#?}\nevent: {event:#?}\nafter: {after:#?}\noutput: {output:#?}");
            }
            cells.entry((word(before.state), kind(&event, before.state))).or_default().insert(word(after.state));
            if seen.insert(essence(&after)) {
                queue.push_back(after);
            }
        }
    }
    (cells, branch_states)
}

/// The machine without what no transition looks at.
fn essence(machine: &TwoPhase) -> TwoPhase {
    let mut essence = machine.clone();
    if machine.state != State::Delegating {
        // There it is the abort that was asked for.
        essence.reason = None;
    }
    essence
}

fn events(machine: &TwoPhase) -> Vec<Event> {
    let (a, b, stranger) = (name("a"), name("b"), name("stranger"));
    let caller = Caller { session: 1, request: 1 };
    let digest = BodyDigest(7);
    let mut events = vec![Event::BeginRequested { caller }, Event::CallerLeft { session: 1 }];
    for participant in [&a, &b] {
        for vote in [EarlyVote::Yes, EarlyVote::ReadOnly] {
            let Member { participant, branch } = member(participant.as_str());
            events.push(Event::Enlisted { participant, branch, instance: INSTANCE, vote, caller });
        }
    }
    // The call came twice: this enlists another branch.
    let (vote, branch) = (EarlyVote::Yes, TWIN.plus(1));
    events.push(Event::Enlisted { participant: a.clone(), branch, instance: OTHER_INSTANCE, vote, caller });
    for payload in ["work", "other"] {
        let branch = CarriedBranch { payload: payload.into(), ..carried("a") };
        events.push(Event::BranchNamed { branch, id: id("a"), caller });
    }
    if machine.waiters.is_empty() {
        for branches in [vec![], vec![carried("a")], vec![carried("a"), carried("b")], vec![carried("a"), carried("a")]]
        {
            for (one_phase, may_recur) in [(false, false), (false, true), (true, false), (true, true)] {
                let wait = if may_recur { Wait::Ended } else { Wait::Decided };
                let branches = branches.clone();
                let first_id = FIRST_ID;
                events.push(Event::CommitRequested { branches, first_id, digest, one_phase, may_recur, caller, wait });
            }
        }
        events.push(Event::AbortRequested { reason: "changed my mind".to_owned(), caller });
        events.push(Event::OutcomeAwaited { caller, wait: Wait::Ended });
    }
    if machine.digest.is_some() {
        events.push(Event::CommitRequested {
            branches: vec![],
            first_id: FIRST_ID,
            digest: BodyDigest(8),
            one_phase: false,
            may_recur: false,
            caller: Caller { session: 2, request: 1 },
            wait: Wait::Decided,
        });
    }
    for participant in [&a, &b] {
        let whose = || participant.clone();
        for to in [Route::Instance(INSTANCE), Route::Absent, Route::Unknown] {
            events.push(Event::Routed { participant: whose(), to });
        }
        if machine.state == State::OnePhase {
            events.push(Event::Routed { participant: whose(), to: Route::Instance(OTHER_INSTANCE) });
        }
        // One of the participants has a second instance.
        let instances = if participant == &a { [INSTANCE, OTHER_INSTANCE].as_slice() } else { &[INSTANCE] };
        // Its branch in the roster, and one that is not there.
        let ids = [id_of(machine, participant), TWIN];
        for &instance in instances {
            for (branch, vote) in ids.iter().flat_map(|id| votes().map(|vote| (*id, vote))) {
                events.push(Event::Voted { participant: whose(), branch, instance, vote });
            }
            events.push(Event::Left { participant: whose(), instance });
        }
        for branch in ids {
            for acknowledgement in acknowledgements(machine) {
                events.push(Event::Acknowledged { participant: whose(), branch, acknowledgement });
            }
            events.push(Event::Inquired { participant: whose(), branch, instance: INSTANCE });
        }
        events.push(Event::Joined { participant: whose() });
    }
    for vote in votes() {
        events.push(Event::Voted { participant: stranger.clone(), branch: TWIN, instance: INSTANCE, vote });
    }
    events.push(Event::Inquired { participant: stranger.clone(), branch: TWIN, instance: INSTANCE });
    for acknowledgement in acknowledgements(machine) {
        events.push(Event::Acknowledged { participant: stranger.clone(), branch: TWIN, acknowledgement });
    }
    events.push(Event::Joined { participant: stranger.clone() });
    events.push(Event::Left { participant: stranger.clone(), instance: INSTANCE });
    events.push(Event::Routed { participant: stranger, to: Route::Absent });
    events.push(Event::TimerFired(Timer::Absence));
    if machine.resends == 0 {
        events.push(Event::TimerFired(Timer::Resend));
        events.push(Event::TimerFired(Timer::Deadline));
    } else if machine.state != State::OnePhase {
        events.push(Event::TimerFired(Timer::Deadline));
    }
    if let State::Deciding(_) | State::Delegating = machine.state {
        events.push(Event::Appended(Appended::Durable(receipt())));
        // Another writer has committed it for the same branches, for some of them, and for its twin.
        let roster = machine.members();
        let last = roster.last().cloned();
        for members in [roster, last.into_iter().collect(), vec![Member { participant: a, branch: TWIN }]] {
            events.push(Event::Appended(Appended::Overruled { decision: Decision::Commit, members }));
        }
        events.push(Event::Appended(Appended::Overruled { decision: Decision::Abort, members: vec![] }));
        events.push(Event::Appended(Appended::Undecided));
    }
    events
}

fn id_of(machine: &TwoPhase, participant: &ParticipantName) -> BranchId {
    let of_roster = machine.branches.iter().find(|branch| branch.participant == *participant);
    of_roster.map_or_else(|| id(participant.as_str()), |branch| branch.id)
}

/// Every answer to an order of the machine, and to orders that it has not given: the other one, and one
/// of an earlier epoch.
fn acknowledgements(machine: &TwoPhase) -> Vec<Acknowledgement> {
    let mut acknowledgements = Vec::new();
    for (decision, epoch) in [Decision::Commit, Decision::Abort]
        .into_iter()
        .flat_map(|decision| [EPOCH, Epoch(EPOCH.0 - 1)].map(|epoch| (decision, epoch)))
    {
        for result in [BranchResult::Done, BranchResult::HeuristicCommitted, BranchResult::HeuristicAborted] {
            acknowledgements.push(Acknowledgement { decision, epoch, end: HookEnd::Ended(result) });
        }
    }
    let end = HookEnd::Failed("no connection".to_owned());
    acknowledgements.push(Acknowledgement { decision: ordered(machine.state), epoch: EPOCH, end });
    acknowledgements
}

/// What branches are ordered to do.
fn ordered(state: State) -> Decision {
    if state == State::Committing { Decision::Commit } else { Decision::Abort }
}

fn votes() -> [Vote; 5] {
    [Vote::Yes, Vote::ReadOnly, Vote::No("no".to_owned()), Vote::Unknown("error".to_owned()), Vote::Committed]
}

fn word(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Preparing => "preparing",
        State::Delegating => "delegating",
        State::OnePhase => "one-phase",
        State::Recalling => "recalling",
        State::Deciding(Decision::Commit) => "deciding commit",
        State::Deciding(Decision::Abort) => "deciding abort",
        State::Committing => "committing",
        State::Aborting => "aborting",
        State::Committed => "committed",
        State::Aborted => "aborted",
    }
}

fn kind(event: &Event, state: State) -> &'static str {
    match event {
        Event::BeginRequested { .. } => "begin requested",
        Event::Enlisted { .. } => "enlisted",
        Event::BranchNamed { .. } => "branch named",
        Event::CommitRequested { .. } => "commit requested",
        Event::AbortRequested { .. } => "abort requested",
        Event::OutcomeAwaited { .. } => "outcome awaited",
        Event::CallerLeft { .. } => "caller left",
        Event::Routed { to: Route::Instance(_), .. } => "routed to an instance",
        Event::Routed { to: Route::Absent, .. } => "routed, absent",
        Event::Routed { to: Route::Unknown, .. } => "routed, unknown",
        Event::Voted { branch: TWIN, .. } => "voted, by a stranger",
        Event::Voted { .. } => "voted",
        Event::Acknowledged { branch: TWIN, .. } => "acknowledged, by a stranger",
        Event::Acknowledged { acknowledgement, .. }
            if acknowledgement.epoch != EPOCH || acknowledgement.decision != ordered(state) =>
        {
            "acknowledged, another order"
        }
        Event::Acknowledged { .. } => "acknowledged",
        Event::Inquired { .. } => "inquired",
        Event::Joined { .. } => "joined",
        Event::Left { .. } => "left",
        Event::TimerFired(Timer::Deadline) => "deadline",
        Event::TimerFired(Timer::Absence) => "absence",
        Event::TimerFired(Timer::Resend) => "resend",
        Event::Appended(Appended::Durable(_)) => "appended, durable",
        Event::Appended(Appended::Overruled { decision: Decision::Commit, .. }) => "appended, overruled by commit",
        Event::Appended(Appended::Overruled { decision: Decision::Abort, .. }) => "appended, overruled by abort",
        Event::Appended(Appended::Undecided) => "appended, undecided",
    }
}
