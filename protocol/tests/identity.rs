//! What a replica owes each branch by its id, and what operators see of one that cannot end.

use std::collections::BTreeSet;

use assent_protocol::branch::{self, Acknowledgement, HookEnd};
use assent_protocol::ids::BranchId;
use assent_protocol::message::{Ask, Commit, Expected, FromClient, FromReplica, Reply};
use assent_protocol::record::{Decided, Member};
use assent_protocol::replica::{BranchView, Config, Input, Limits, Peer, Replica, SessionId};
use assent_protocol::three_phase::StoreId;
use assent_protocol::two_phase::{BranchResult, CarriedBranch, Vote};
use assent_protocol::{
    Appended, Decision, Durable, Epoch, Gtid, InstanceId, Outcome, ParticipantName, Protocol, Record, Wait,
};

const INITIATOR: SessionId = SessionId(1);
const BANKS: [(SessionId, &str); 2] = [(SessionId(2), "bank-a"), (SessionId(3), "bank-b")];
const START_MS: u64 = 1_800_000_000_000;

fn gtid(number: u8) -> Gtid {
    let mut bytes = [number; 16];
    bytes[..6].copy_from_slice(&(START_MS + 1_000).to_be_bytes()[2..]);
    (bytes[6], bytes[8]) = (0x70, 0x80);
    Gtid::from_bytes(&bytes).expect("version 7")
}

fn name(text: &str) -> ParticipantName {
    text.parse().expect("a name")
}

/// What a participant's database holds.
#[derive(Default)]
struct Bank {
    prepared: BTreeSet<BranchId>,
    applied: u32,
}

/// A replica with memory for one ended transaction, an initiator, two banks, and a log of one table.
struct Scene {
    replica: Replica,
    now_ms: u64,
    banks: [Bank; 2],
    log: Vec<Decided>,
    told: Vec<Outcome>,
}

impl Scene {
    fn new() -> Self {
        let limits = Limits { ended_max: 1, ..Limits::default() };
        let (known, log_store) = (BANKS.map(|(_, bank)| name(bank)).to_vec(), StoreId(1));
        let config = Config { shard: 0, shards: 1, epoch: Epoch(1), limits, known, log_store };
        let replica = Replica::new(config, START_MS);
        let mut scene =
            Self { replica, now_ms: START_MS + 2_000, banks: Default::default(), log: Vec::new(), told: Vec::new() };
        scene.opens(INITIATOR, None);
        for (session, bank) in BANKS {
            scene.opens(session, Some(name(bank)));
        }
        scene
    }

    fn opens(&mut self, session: SessionId, participant: Option<ParticipantName>) {
        let peer = Peer { session, participant, instance: InstanceId(session.0), one_phase: false, voter: None };
        self.handle(Input::SessionOpened(peer));
    }

    fn handle(&mut self, input: Input) {
        self.replica.handle(self.now_ms, input);
    }

    fn says(&mut self, session: SessionId, message: FromClient) {
        self.handle(Input::Message { session, message });
    }

    /// A unary call, which does not say whether it has come before.
    fn commits(&mut self, gtid: Gtid) {
        let branches = BANKS.map(|(_, bank)| CarriedBranch { participant: name(bank), payload: "5".into() }).to_vec();
        let commit = Commit {
            branches,
            attempt: 0,
            begun: false,
            timeout_ms: 0,
            wait: Wait::Decided,
            protocol: Protocol::TwoPhase,
            first_epoch: None,
            expected: Expected::Anything,
        };
        self.says(INITIATOR, FromClient::request(1, gtid, Ask::Commit(commit)));
    }

    /// The log is read where it has fallen behind: it has nothing.
    fn finds_nothing(&mut self) {
        let gtids = self.replica.take_question().expect("it is looked up");
        self.handle(Input::LookedUp { gtids, found: Ok(Vec::new()) });
    }

    /// Everybody does as it is told, until nothing is left to do. The answers to orders to commit are held back
    /// if `are_silent`.
    fn runs(&mut self, are_silent: bool) {
        for _ in 0..10 {
            self.appends();
            let mut orders = Vec::new();
            self.replica.take_messages(|session, messages| {
                orders.extend(messages.into_iter().map(|message| (session, message)));
            });
            for (session, message) in orders {
                self.obeys(session, message, are_silent);
            }
        }
    }

    fn obeys(&mut self, session: SessionId, message: FromReplica, are_silent: bool) {
        let bank = BANKS.iter().position(|(of, _)| *of == session);
        match (bank, message) {
            (None, FromReplica::Reply { reply: Reply::Outcome { outcome, .. }, .. }) => self.told.push(outcome),
            (Some(at), FromReplica::Prepare { gtid, branch, .. }) => {
                self.banks[at].prepared.insert(branch);
                self.says(session, FromClient::branch(gtid, branch, branch::Message::Vote(Vote::Yes)));
            }
            (Some(at), FromReplica::CommitBranch { gtid, branch, epoch }) => {
                if self.banks[at].prepared.remove(&branch) {
                    self.banks[at].applied += 1;
                }
                if !are_silent {
                    self.says(session, answer(gtid, branch, Decision::Commit, epoch, done()));
                }
            }
            (Some(at), FromReplica::AbortBranch { gtid, branch, epoch }) => {
                self.banks[at].prepared.remove(&branch);
                self.says(session, answer(gtid, branch, Decision::Abort, epoch, done()));
            }
            (_, message) => panic!("{session:?} is told {message:?}"),
        }
    }

    /// The first decision that is written stands, with its branches.
    #[expect(clippy::disallowed_methods, reason = "the test is the log")]
    fn appends(&mut self) {
        let Some(batch) = self.replica.take_batch() else { return };
        let mut answers = Vec::new();
        for record in batch.forced {
            let Record::Decided(decided) = &record else { panic!("only decisions are forced: {record:?}") };
            let standing = self.log.iter().find(|known| known.gtid == decided.gtid);
            answers.push(match standing {
                Some(known) if (known.decision, &known.members) != (decided.decision, &decided.members) => {
                    Appended::Overruled { decision: known.decision, members: known.members.clone() }
                }
                Some(_) => Appended::Durable(Durable::attest(record.id())),
                None => {
                    self.log.push(decided.clone());
                    Appended::Durable(Durable::attest(record.id()))
                }
            });
        }
        self.handle(Input::Appended(answers));
    }

    /// Which branch each bank has in the commit that stands.
    fn members(&self, gtid: Gtid) -> Vec<Member> {
        self.log.iter().find(|decided| decided.gtid == gtid).expect("decided").members.clone()
    }

    fn view(&self, at: usize) -> BranchView {
        self.replica.view(gtid(1)).expect("in memory").branches[at].clone()
    }
}

fn done() -> HookEnd {
    HookEnd::Ended(BranchResult::Done)
}

fn answer(gtid: Gtid, branch: BranchId, decision: Decision, epoch: Epoch, end: HookEnd) -> FromClient {
    FromClient::branch(gtid, branch, branch::Message::Acknowledge(Acknowledgement { decision, epoch, end }))
}

#[test]
fn a_commit_that_runs_twice_behind_a_stale_look_up_takes_effect_once() {
    let mut scene = Scene::new();
    scene.commits(gtid(1));
    scene.finds_nothing();
    scene.runs(false);
    let first = scene.members(gtid(1));
    // Another transaction takes its place in memory.
    scene.commits(gtid(2));
    scene.finds_nothing();
    scene.runs(false);
    assert_eq!(scene.banks.each_ref().map(|bank| bank.applied), [2, 2]);

    scene.commits(gtid(1));
    scene.finds_nothing();
    scene.runs(false);
    assert_eq!(scene.told, [Outcome::Committed; 3], "the caller hears what happened");
    assert_eq!(scene.banks.each_ref().map(|bank| bank.applied), [2, 2], "and nothing happened twice");
    assert!(scene.banks.iter().all(|bank| bank.prepared.is_empty()), "nothing is left prepared");
    assert_eq!(scene.members(gtid(1)), first);
}

#[test]
fn an_operator_sees_what_keeps_a_branch_from_ending_and_since_when_it_is_away() {
    let mut scene = Scene::new();
    scene.commits(gtid(1));
    scene.finds_nothing();
    scene.runs(true);
    let [(_, _), (session, _)] = BANKS;
    let branch = scene.members(gtid(1))[1].branch;
    assert_eq!((scene.view(1).last_error, scene.view(1).absent_since_ms), (None, None));

    let fails = |scene: &mut Scene, branch, error: &str| {
        scene.now_ms += 5_000;
        let end = HookEnd::Failed(error.to_owned());
        scene.says(session, answer(gtid(1), branch, Decision::Commit, Epoch(1), end));
        scene.now_ms
    };
    let at_ms = fails(&mut scene, branch, "no connection");
    let seen = |view: BranchView| (view.last_error, view.last_error_at_ms);
    assert_eq!(seen(scene.view(1)), (Some("no connection".to_owned()), Some(at_ms)));
    assert_eq!(seen(scene.view(0)), (None, None), "the other one has no trouble");
    fails(&mut scene, branch.plus(9), "a stranger's");
    assert_eq!(seen(scene.view(1)), (Some("no connection".to_owned()), Some(at_ms)), "it is another branch's");
    let at_ms = fails(&mut scene, branch, &"x".repeat(100_000));
    assert_eq!(scene.view(1).last_error_at_ms, Some(at_ms), "the last one counts");
    assert_eq!(scene.view(1).last_error.map(|error| error.len()), Some(512), "and is cut");

    scene.now_ms += 5_000;
    let left_at_ms = scene.now_ms;
    scene.handle(Input::SessionClosed(session));
    scene.now_ms += 5_000;
    assert_eq!((scene.view(0).absent_since_ms, scene.view(1).absent_since_ms), (None, Some(left_at_ms)));
    scene.opens(session, Some(name("bank-b")));
    assert_eq!(scene.view(1).absent_since_ms, None);
}
