//! Three-phase commit, exhaustively: three voters, the first attempt and three elections, any leader, messages lost, repeated and reordered,
//! everybody crashing at any time. Then the same with one thing wrong at a time: each has to be found.
//!
//! `ASSENT_MODEL=large` raises the bounds that keep the default within a minute on two cores.

mod world;

use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::{Checker, Model, Property};
use world::{Action, Bug, ELECTIONS_MAX, Setup, World};

use crate::proof::{self, Row};
use crate::shared::{Extent, prove};

/// A world to explore.
#[derive(Clone, Debug)]
struct Exploration {
    setup: Setup,
    /// Of every so many states, one is taken to its end with each quorum. Zero takes none.
    end_every: u64,
}

const SAFE: &str = "nothing goes wrong";
const LIVE: &str = "every quorum that is reached ends it, as it was announced";

impl Model for Exploration {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.setup.first()]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        self.setup.actions(state, actions);
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        self.setup.next(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let safe = Property::always(SAFE, |_, state: &World| state.wrong().is_none());
        let live = Property::always(LIVE, |model: &Self, state: &World| {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            !hasher.finish().is_multiple_of(model.end_every) || model.setup.ends_with_every_quorum(state).is_ok()
        });
        if self.end_every == 0 { vec![safe] } else { vec![safe, live] }
    }
}

fn is_large() -> bool {
    std::env::var("ASSENT_MODEL").is_ok_and(|value| value == "large")
}

/// The shortest way to what goes wrong with a mistake that has a `name`.
fn find(name: &str, bug: Bug, elections: usize) -> (&'static str, Vec<Action>) {
    let setup =
        Setup { elections, bug, forgets: matches!(bug, Bug::ForgottenRefuses | Bug::AnyOutcomeNoted), ..FAITHFUL };
    let checker = Exploration { setup, end_every: 0 }.checker().threads(2).spawn_bfs().join();
    let path = checker.discovery(SAFE).unwrap_or_else(|| panic!("{bug:?} is not found"));
    let wrong = path.last_state().wrong().expect("a discovery is wrong");
    let actions = path.into_actions();
    println!("{bug:?}: {wrong}, among {} states, by {actions:?}", checker.unique_state_count());
    proof::record(&[Row::of("planted", "3pc", name, 1, 1)]);
    (wrong, actions)
}

const FAITHFUL: Setup = Setup { elections: ELECTIONS_MAX, learns: true, forgets: false, bug: Bug::None };

#[test]
fn whoever_leads_and_whatever_is_lost_nobody_ends_otherwise() {
    let bounds = "3 voters, the first attempt and 3 elections, a sixteenth of the states taken to their end";
    let model = Exploration { setup: Setup { learns: is_large(), ..FAITHFUL }, end_every: 16 };
    prove("3pc-leaders", bounds, model, Extent::Exhaustive);
}

#[test]
fn whoever_learns_the_outcome_learns_the_same() {
    let bounds =
        "3 voters, the first attempt and 2 elections, everybody learns, a quarter of the states taken to their end";
    prove(
        "3pc-learning",
        bounds,
        Exploration { setup: Setup { elections: 2, ..FAITHFUL }, end_every: 4 },
        Extent::Exhaustive,
    );
}

#[test]
fn whoever_has_forgotten_misleads_nobody() {
    let elections = if is_large() { ELECTIONS_MAX } else { 2 };
    let bounds = format!(
        "3 voters, the first attempt and {elections} elections, everybody learns, participants forget, a quarter of the states taken to their end"
    );
    let model = Exploration { setup: Setup { elections, forgets: true, ..FAITHFUL }, end_every: 4 };
    prove("3pc-forgetting", &bounds, model, Extent::Exhaustive);
}

#[test]
fn a_voter_that_refuses_what_it_has_forgotten_is_found() {
    let (wrong, _) = find("forgotten voter refuses", Bug::ForgottenRefuses, 1);
    assert_eq!(wrong, "one has committed and another aborted");
}

/// A commit over a mere vote has to be kept: who has lost it takes the refusals of those that have forgotten for the outcome.
#[test]
fn an_outcome_that_is_only_noted_over_a_vote_is_found() {
    let (wrong, _) = find("outcome over a vote only noted", Bug::AnyOutcomeNoted, 1);
    assert_eq!(wrong, "one has committed and another aborted");
}

#[test]
fn a_stale_proposal_that_is_accepted_is_found() {
    let (wrong, _) = find("stale proposal accepted", Bug::StaleProposalAccepted, 2);
    assert_eq!(wrong, "an outcome was announced, and another one is known");
}

#[test]
fn a_commit_by_any_pre_committed_report_is_found() {
    let (wrong, _) = find("commit by any pre-committed report", Bug::AnyPreCommitted, ELECTIONS_MAX);
    assert_eq!(wrong, "an outcome was announced, and another one is known");
}

#[test]
fn a_join_that_is_not_durable_is_found() {
    let (wrong, _) = find("join not durable", Bug::JoinNotDurable, 2);
    assert_eq!(wrong, "an outcome was announced, and another one is known");
}

#[test]
fn an_acceptance_without_its_ballot_is_found() {
    let (wrong, _) = find("acceptance without its ballot", Bug::AcceptedNotUpdated, 2);
    assert_eq!(wrong, "an outcome was announced, and another one is known");
}

#[test]
fn a_quorum_of_one_is_found() {
    let (wrong, _) = find("quorum of one", Bug::QuorumOfOne, 1);
    assert_eq!(wrong, "announced without a quorum");
}

#[test]
fn a_ballot_that_two_leaders_share_is_found() {
    let (wrong, _) = find("ballot shared by two leaders", Bug::SharedBallot, 2);
    assert_eq!(wrong, "two proposals under one ballot");
}

#[test]
fn a_lost_store_that_nobody_notices_is_found() {
    let (wrong, _) = find("lost store unnoticed", Bug::LostStoreUnnoticed, 1);
    assert_eq!(wrong, "an outcome was announced, and another one is known");
}

/// Why only the form with quorums ships: with the rule of Skeen (1981), the side of a partition that has seen the proposal commits, and
/// the other, which still waits, aborts. Kept so that nobody brings it back.
#[test]
fn classic_three_phase_commit_splits_under_a_partition() {
    let (wrong, actions) = find("classic 3PC", Bug::ClassicTimeout, 0);
    assert_eq!(wrong, "an outcome was announced, and another one is known");
    assert!(matches!(actions.last(), Some(Action::TimeOut(_))));
}
