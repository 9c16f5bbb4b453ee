//! What the coordinator's machine does where the log answers late, otherwise, or not at all.

use super::super::coordinator::{Coordinator, Effect, Event, Introduction, Order, Stage};
use super::super::{Answer, Ballot, NodeId, Proposal, Request, Standing, StoreId, VoterState, invariant};
use crate::branch::{Acknowledgement, HookEnd};
use crate::durable::{Appended, Durable, Held, Output, Parts};
use crate::ids::{BodyDigest, BranchId, Caller, Epoch, Gtid, InstanceId, ParticipantName};
use crate::reason::Wait;
use crate::record::{Attempted, Decision, Member, Outcome, Record};
use crate::two_phase::{self, BranchResult, CarriedBranch, Patience, Route, Vote};

const LOG: StoreId = StoreId(9);
const INSTANCE: InstanceId = InstanceId(1);
/// The id of the first branch that a commit request carries.
const FIRST_ID: BranchId = BranchId { epoch: Epoch(1), number: 1 };

fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid")
}

fn name(text: &str) -> ParticipantName {
    text.parse().expect("valid")
}

/// A machine whose invariants are checked at every step; `said` is what it may do, `held` waits for the log.
struct Driven {
    machine: Coordinator,
    said: Vec<Effect>,
    held: Option<(Record, Held<Effect>)>,
}

impl Driven {
    fn from((machine, output): (Coordinator, Output<Effect>)) -> Self {
        let mut driven = Self { machine, said: Vec::new(), held: None };
        driven.take(output);
        driven
    }

    fn take(&mut self, output: Output<Effect>) {
        match output.split() {
            Parts::Free { effects, .. } => self.said = effects,
            Parts::AfterAppend { forced, held, .. } => {
                assert!(self.held.is_none(), "one append at a time");
                (self.said, self.held) = (Vec::new(), Some((forced, held)));
            }
        }
        if self.said.contains(&Effect::LogDue) && self.held.is_none() {
            let said = std::mem::take(&mut self.said);
            self.on(Event::LogDue);
            self.said.splice(0..0, said);
        }
    }

    fn on(&mut self, event: Event) {
        let before = self.machine.clone();
        let output = self.machine.handle(event.clone());
        invariant::check_coordinator(&before, &self.machine, &output).expect("no invariant breaks");
        self.take(output);
    }

    fn plain(&mut self, event: two_phase::Event) {
        self.on(Event::TwoPhase(event));
    }

    #[expect(clippy::disallowed_methods, reason = "the test is the log")]
    fn durable(&mut self) -> (Record, Vec<Effect>) {
        let (record, held) = self.held.take().expect("an append is on its way");
        let receipt = Durable::attest(record.id());
        let released = held.release(&receipt);
        self.plain(two_phase::Event::Appended(Appended::Durable(receipt)));
        (record, released)
    }

    fn overruled(&mut self, decision: Decision) {
        self.held = None;
        let members = self.machine.transaction().members();
        self.plain(two_phase::Event::Appended(Appended::Overruled { decision, members }));
    }

    fn accepts(&mut self, participant: &str) {
        let answer = Answer::Accepted { ballot: Ballot::FIRST };
        self.on(Event::Answered { participant: name(participant), answer });
    }

    fn acknowledge(&mut self, participant: &str) {
        let transaction = self.machine.transaction();
        let is_commit = transaction.state() == two_phase::State::Committing;
        let decision = if is_commit { Decision::Commit } else { Decision::Abort };
        let (epoch, end) = (transaction.epoch(), HookEnd::Ended(BranchResult::Done));
        let Member { participant, branch } = self.member(participant);
        let acknowledgement = Acknowledgement { decision, epoch, end };
        self.plain(two_phase::Event::Acknowledged { participant, branch, acknowledgement });
    }

    /// The participant's branch in the roster; of a stranger, one that is not there.
    fn member(&self, participant: &str) -> Member {
        let participant = name(participant);
        let members = self.machine.transaction().members();
        let of_roster = members.into_iter().find(|member| member.participant == participant);
        of_roster.unwrap_or(Member { participant, branch: FIRST_ID })
    }

    /// Everybody voted yes, and the mark is on its way.
    fn attempting() -> Self {
        let patience = Patience { timeout_ms: 30_000, absence_ms: 5_000 };
        let mut driven = Self::from(Coordinator::begin(gtid(), Epoch(1), 0, patience, NodeId(7), LOG));
        driven.plain(two_phase::Event::CommitRequested {
            branches: ["a", "b"].map(|a| CarriedBranch { participant: name(a), payload: "work".into() }).into(),
            first_id: FIRST_ID,
            digest: BodyDigest(7),
            one_phase: false,
            may_recur: false,
            caller: Caller { session: 1, request: 1 },
            wait: Wait::Decided,
        });
        assert_eq!(driven.said, [Effect::Introduce(name("a")), Effect::Introduce(name("b"))]);
        driven.introduce("a", 1);
        assert_eq!(driven.said, [], "nobody prepares before the roster is complete");
        driven.introduce("b", 2);
        assert_eq!(driven.orders(), ["a: prepare", "b: prepare"]);
        for participant in ["a", "b"] {
            let to = Route::Instance(INSTANCE);
            driven.plain(two_phase::Event::Routed { participant: name(participant), to });
        }
        for participant in ["a", "b"] {
            let Member { participant, branch } = driven.member(participant);
            let (instance, vote) = (INSTANCE, Vote::Yes);
            driven.plain(two_phase::Event::Voted { participant, branch, instance, vote });
        }
        assert_eq!(driven.machine.stage(), Stage::Attempting);
        driven
    }

    fn introduce(&mut self, participant: &str, store: u128) {
        let address = "http://127.0.0.1:1".parse().expect("valid");
        let introduction = Introduction::Voter { address, store: StoreId(store) };
        self.on(Event::Introduced { participant: name(participant), introduction });
    }

    fn orders(&self) -> Vec<String> {
        orders(&self.said)
    }
}

fn orders(effects: &[Effect]) -> Vec<String> {
    let orders = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, order, .. } => Some(match order {
            Order::Prepare { .. } => format!("{to}: prepare"),
            Order::Commit => format!("{to}: commit"),
            Order::Abort => format!("{to}: abort"),
            Order::Wait => format!("{to}: wait"),
            Order::Forget => format!("{to}: forget"),
            Order::Ask(Request::Join { .. }) => format!("{to}: join"),
            Order::Ask(Request::Propose { proposal: Proposal::PreCommit, .. }) => format!("{to}: pre-commit"),
            Order::Ask(Request::Propose { proposal: Proposal::PreAbort, .. }) => format!("{to}: pre-abort"),
            Order::Ask(Request::VoteYes { .. } | Request::VoteNo | Request::Decided(_) | Request::Elected(_)) => {
                format!("{to}: ?")
            }
        }),
        Effect::Answer { .. }
        | Effect::Reply { .. }
        | Effect::Introduce(_)
        | Effect::LogDue
        | Effect::SetTimer { .. }
        | Effect::CancelTimer(_) => None,
    });
    orders.collect()
}

fn attempted() -> Attempted {
    let Some((Record::Attempted(attempted), _)) = Driven::attempting().held else { panic!("the mark is forced") };
    attempted
}

#[test]
fn the_log_and_one_participant_are_a_quorum_of_three() {
    let mut driven = Driven::attempting();
    assert_eq!(driven.orders(), [""; 0], "the proposals wait for the mark");
    let (_, released) = driven.durable();
    assert_eq!(orders(&released), ["a: pre-commit", "b: pre-commit"]);
    driven.accepts("b");
    assert_eq!(driven.machine.stage(), Stage::Agreed(Decision::Commit));
    assert_eq!(driven.orders(), ["a: commit", "b: commit"], "told at once: a quorum keeps it");
    assert!(driven.held.is_none(), "the end will bring it to the log");
    driven.acknowledge("a");
    driven.acknowledge("b");
    assert_eq!(driven.orders(), [""; 0], "the log does not know yet: nobody forgets");
    let (record, released) = driven.durable();
    assert!(matches!(record, Record::Ended(ended) if ended.outcome == Outcome::Committed));
    assert_eq!(orders(&released), ["a: forget", "b: forget"]);
    assert!(driven.machine.is_ended());
}

#[test]
fn the_decision_is_logged_by_itself_once_a_branch_lets_the_end_be_waited_for() {
    let mut driven = Driven::attempting();
    driven.durable();
    driven.accepts("b");
    driven.acknowledge("b");
    driven.plain(two_phase::Event::TimerFired(two_phase::Timer::Resend));
    assert_eq!(driven.orders(), ["a: commit"]);
    let (record, released) = driven.durable();
    assert!(matches!(record, Record::Agreed(agreed) if agreed.decision == Decision::Commit));
    assert_eq!(orders(&released), [""; 0]);
    driven.plain(two_phase::Event::TimerFired(two_phase::Timer::Resend));
    assert!(driven.held.is_none(), "once is enough");
    driven.acknowledge("a");
    assert_eq!(driven.orders(), ["a: forget", "b: forget"], "the log knows already");
    assert!(driven.machine.is_ended() && driven.held.is_none());
}

#[test]
fn an_end_that_comes_while_the_decision_is_on_its_way_waits_for_it() {
    let mut driven = Driven::attempting();
    driven.durable();
    driven.accepts("b");
    driven.plain(two_phase::Event::TimerFired(two_phase::Timer::Resend));
    driven.acknowledge("a");
    driven.acknowledge("b");
    let (record, _) = driven.durable();
    assert!(matches!(record, Record::Agreed(_)));
    assert_eq!(driven.orders(), ["a: forget", "b: forget"]);
    assert!(driven.machine.is_ended());
}

#[test]
fn participants_agree_although_the_log_is_silent() {
    let mut driven = Driven::from(Coordinator::recover(&attempted(), VoterState::ATTEMPTED, Epoch(2), NodeId(8), LOG));
    assert_eq!(driven.orders(), ["a: join", "b: join"]);
    let ballot = driven.machine.leader().expect("it leads").ballot();
    assert!(matches!(driven.held, Some((Record::Voter(_), _))), "the log is asked too");
    for participant in ["a", "b"] {
        let answer = Answer::Joined { ballot, standing: Standing::Waiting, accepted: None };
        driven.on(Event::Answered { participant: name(participant), answer });
    }
    assert_eq!(driven.orders(), ["a: pre-abort", "b: pre-abort"]);
    for participant in ["a", "b"] {
        driven.on(Event::Answered { participant: name(participant), answer: Answer::Accepted { ballot } });
    }
    assert_eq!(driven.orders(), ["a: abort", "b: abort"]);
    driven.acknowledge("a");
    driven.acknowledge("b");
    assert!(!driven.machine.is_ended() && driven.orders().is_empty(), "the log does not know yet: nobody forgets");
    assert!(driven.machine.waiting_for().contains("the log"), "{}", driven.machine.waiting_for());
    driven.durable();
    let (record, released) = driven.durable();
    assert!(matches!(record, Record::Ended(ended) if ended.outcome == Outcome::Aborted));
    assert_eq!(orders(&released), ["a: forget", "b: forget"]);
    assert!(driven.machine.is_ended());
}

#[test]
fn an_abort_that_was_logged_first_wins_over_the_mark() {
    let mut driven = Driven::attempting();
    driven.overruled(Decision::Abort);
    assert_eq!(driven.machine.stage(), Stage::Agreed(Decision::Abort));
    assert_eq!(driven.orders(), ["a: abort", "b: abort"]);
    assert!(driven.held.is_none() && driven.machine.leader().is_none());
}

#[test]
fn a_peer_that_ended_an_election_is_believed_and_a_stranger_is_not() {
    let mut driven = Driven::attempting();
    let asker = driven.machine.clone();
    let told = |participant: &str, decision| {
        let request = Request::Decided(decision);
        let member = Driven::from((asker.clone(), Output::none())).member(participant);
        Event::Asked { member, instance: INSTANCE, request }
    };
    driven.durable();
    driven.on(told("mallory", Decision::Abort));
    assert_eq!(driven.machine.stage(), Stage::Agreeing);
    driven.on(told("b", Decision::Abort));
    assert_eq!(driven.machine.stage(), Stage::Agreed(Decision::Abort));
    driven.on(told("a", Decision::Commit));
    assert_eq!(driven.machine.stage(), Stage::Agreed(Decision::Abort));
}

#[test]
fn another_branch_of_a_participant_that_votes_is_a_stranger() {
    let mut driven = Driven::attempting();
    driven.durable();
    let twin = Member { participant: name("b"), branch: FIRST_ID.plus(7) };
    let asked = |request| Event::Asked { member: twin.clone(), instance: INSTANCE, request };
    driven.on(asked(Request::Decided(Decision::Abort)));
    assert_eq!(driven.machine.stage(), Stage::Agreeing);
    driven.accepts("b");
    assert_eq!(driven.machine.stage(), Stage::Agreed(Decision::Commit));
    let roster = driven.machine.roster().expect("frozen").clone();
    let ballot = Ballot { round: 5, node: NodeId(99) };
    driven.on(asked(Request::Join { ballot, roster, has_voted: false }));
    let (to, branch, prefer) = (twin.participant.clone(), twin.branch, Some(INSTANCE));
    assert_eq!(driven.said, [Effect::Send { to, branch, prefer, order: Order::Abort }], "it is not of the roster");
}

#[test]
fn the_logs_answer_to_a_peer_waits_for_the_log() {
    let mut driven = Driven::attempting();
    driven.durable();
    let ballot = Ballot { round: 5, node: NodeId(99) };
    let roster = driven.machine.roster().expect("frozen").clone();
    let request = Request::Join { ballot, roster, has_voted: false };
    let member = driven.member("a");
    driven.on(Event::Asked { member, instance: INSTANCE, request });
    assert_eq!(driven.said, [Effect::LogDue]);
    let (record, released) = driven.durable();
    assert!(matches!(record, Record::Voter(record) if record.state.joined == ballot));
    let answer = Answer::Joined { ballot, standing: Standing::PreCommitted, accepted: Some(Ballot::FIRST) };
    assert_eq!(released, [Effect::Answer { to: name("a"), instance: INSTANCE, answer }]);
}

#[test]
fn an_inquiry_is_comforted_while_votes_are_collected_and_not_afterwards() {
    let inquired = || two_phase::Event::Inquired { participant: name("a"), branch: FIRST_ID, instance: INSTANCE };
    let patience = Patience { timeout_ms: 30_000, absence_ms: 5_000 };
    let mut driven = Driven::from(Coordinator::begin(gtid(), Epoch(1), 0, patience, NodeId(7), LOG));
    let branch = CarriedBranch { participant: name("a"), payload: "work".into() };
    driven.plain(two_phase::Event::BranchNamed { branch, id: FIRST_ID, caller: Caller { session: 1, request: 1 } });
    driven.plain(inquired());
    assert_eq!(driven.orders(), ["a: wait"]);
    let mut driven = Driven::attempting();
    driven.plain(inquired());
    assert_eq!(driven.orders(), [""; 0]);
}

#[test]
fn a_participant_that_is_not_there_holds_up_the_roster_and_an_unknown_one_aborts() {
    let introduced = |introduction| Event::Introduced { participant: name("b"), introduction };
    let commit = || two_phase::Event::CommitRequested {
        branches: ["a", "b"].map(|a| CarriedBranch { participant: name(a), payload: "work".into() }).into(),
        first_id: FIRST_ID,
        digest: BodyDigest(7),
        one_phase: false,
        may_recur: false,
        caller: Caller { session: 1, request: 1 },
        wait: Wait::Decided,
    };
    let patience = Patience { timeout_ms: 30_000, absence_ms: 5_000 };
    let begin = || Driven::from(Coordinator::begin(gtid(), Epoch(1), 0, patience, NodeId(7), LOG));
    let mut driven = begin();
    driven.plain(commit());
    driven.introduce("a", 1);
    driven.on(introduced(Introduction::Absent));
    assert_eq!(driven.orders(), [""; 0]);
    driven.plain(two_phase::Event::Joined { participant: name("b") });
    assert_eq!(driven.said, [Effect::Introduce(name("b"))]);
    driven.introduce("b", 2);
    assert_eq!(driven.orders(), ["a: prepare", "b: prepare"]);

    let mut driven = begin();
    driven.plain(commit());
    driven.introduce("a", 1);
    driven.on(introduced(Introduction::Unknown));
    assert_eq!(driven.machine.transaction().state(), two_phase::State::Aborting);
}
