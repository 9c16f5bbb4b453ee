//! Every request is answered once, whatever the log says to the record that its answer waits for.

use assent_protocol::found::{Found, OpenSaga, OpenTransaction};
use assent_protocol::message::{
    Ask, Commit, Expected, FromClient, FromReplica, Reason, Reply, Request, StepAnswer, StepOrder, payload_bytes,
};
use assent_protocol::record::{Decided, Member, SagaStarted};
use assent_protocol::replica::{Config, Input, Limits, Peer, Replica, SessionId};
use assent_protocol::saga::{Definition, StepDefinition, StepResult};
use assent_protocol::three_phase::StoreId;
use assent_protocol::two_phase::CarriedBranch;
use assent_protocol::{
    Appended, BodyDigest, BranchId, Decision, Durable, Epoch, Gtid, InstanceId, ParticipantName, Protocol, Record,
    RetryPolicy, Wait,
};

const INITIATOR: SessionId = SessionId(1);
const TILL: SessionId = SessionId(2);
/// What the process names the first branch that it is asked to prepare.
const FIRST_BRANCH: BranchId = BranchId { epoch: Epoch(2), number: 0 };

fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a version 7")
}

fn till() -> ParticipantName {
    "till".parse().expect("a name")
}

/// A process, to which an initiator and a participant are connected.
struct Process {
    replica: Replica,
    now_ms: u64,
    /// What the initiator was told, by the number of its request.
    told: Vec<(u64, Reply)>,
    /// The steps that the participant was asked for.
    orders: Vec<StepOrder>,
}

impl Process {
    fn started() -> Self {
        let (limits, known, log_store) = (Limits::default(), vec![till()], StoreId(1));
        let now_ms = gtid().minted_at_ms();
        let config = Config { shard: 0, shards: 1, epoch: Epoch(2), limits, known, log_store };
        let replica = Replica::new(config, now_ms - 20_000);
        let mut process = Self { replica, now_ms, told: Vec::new(), orders: Vec::new() };
        for (session, participant) in [(INITIATOR, None), (TILL, Some(till()))] {
            let peer = Peer { session, participant, instance: InstanceId(session.0), one_phase: false, voter: None };
            process.takes(Input::SessionOpened(peer));
        }
        process
    }

    fn takes(&mut self, input: Input) {
        self.replica.handle(self.now_ms, input);
        let (told, orders) = (&mut self.told, &mut self.orders);
        self.replica.take_messages(|_, messages| {
            for message in messages {
                assert!(payload_bytes(&message) < 1_000);
                match message {
                    FromReplica::Reply { request_id, reply } => told.push((request_id, reply)),
                    FromReplica::ExecuteStep { order, .. } | FromReplica::CompensateStep { order, .. } => {
                        orders.push(order);
                    }
                    _ => {}
                }
            }
        });
    }

    fn asked(&mut self, request_id: u64, ask: Ask) {
        self.asked_of(request_id, ask, Vec::new());
    }

    /// A request; the log has this of its gtid, if it is looked up.
    fn asked_of(&mut self, request_id: u64, ask: Ask, in_log: Vec<OpenTransaction>) {
        let message = FromClient::Request(Request { request_id, gtid: gtid(), ask });
        self.takes(Input::Message { session: INITIATOR, message });
        if let Some(gtids) = self.replica.take_question() {
            let found = in_log.into_iter().map(|open| (open.gtid(), Found::Open(open))).collect();
            self.takes(Input::LookedUp { gtids, found: Ok(found) });
        }
    }

    fn starts_saga(&mut self, request_id: u64, attempt: u32, wait: Wait) {
        self.asked(request_id, Ask::StartSaga { definition: definition(), wait, attempt });
    }

    /// The log takes the batch, and answers the same to each of its forced records.
    fn appends(&mut self, answer: impl Fn(&Record) -> Appended) {
        let batch = self.replica.take_batch().expect("records wait for the log");
        self.takes(Input::Appended(batch.forced.iter().map(answer).collect()));
    }

    fn step_is(&mut self, compensation: bool, result: StepResult) {
        let StepOrder { gtid, epoch, step, attempt, .. } = self.orders.pop().expect("a step was asked for");
        let answer = StepAnswer { gtid, step, compensation, attempt, epoch, result, is_final: false };
        self.takes(Input::Message { session: TILL, message: FromClient::Step(answer) });
    }

    /// The initiator was told this much, and each of it once.
    #[track_caller]
    fn has_told(&self, wanted: &[(u64, &str)]) {
        let word = |reply: &Reply| match reply {
            Reply::Refused(refused) => refused.reason.clone(),
            Reply::SagaStarted => "started".to_owned(),
            Reply::SagaTurned { .. } => "turned".to_owned(),
            Reply::Outcome { outcome, .. } => outcome.to_string(),
            other @ (Reply::Begun { .. } | Reply::Enlisted) => panic!("{other:?}"),
        };
        let mut told: Vec<(u64, String)> = self.told.iter().map(|(number, reply)| (*number, word(reply))).collect();
        told.sort_unstable();
        let told: Vec<(u64, &str)> = told.iter().map(|(number, word)| (*number, word.as_str())).collect();
        assert_eq!(told, wanted);
    }
}

fn definition() -> Definition {
    let step = StepDefinition {
        name: "pay".parse().expect("a name"),
        participant: till(),
        input: "5".into(),
        after: Vec::new(),
        retry: RetryPolicy::default(),
        compensation_retry: RetryPolicy::default(),
        pivot: false,
        durable: false,
    };
    Definition::new(vec![step]).expect("a saga")
}

#[expect(clippy::disallowed_methods, reason = "the test is the log")]
fn durable(record: &Record) -> Appended {
    Appended::Durable(Durable::attest(record.id()))
}

const OVERRULED: fn(&Record) -> Appended = |_| Appended::Overruled { decision: Decision::Commit, members: Vec::new() };

/// The first start was written by another process; this one meets its row. The same body is not a
/// key that is used twice: asked again, the log tells what became of it.
#[test]
fn a_start_whose_record_is_overruled_is_answered() {
    let retry = Reason::Fenced.as_str();
    for wait in [Wait::Decided, Wait::Ended] {
        let mut process = Process::started();
        process.starts_saga(1, 2, wait);
        process.starts_saga(2, 3, wait);
        process.has_told(&[]);
        process.appends(OVERRULED);
        process.has_told(&[(1, retry), (2, retry)]);
    }
}

#[test]
fn a_turn_whose_record_is_overruled_is_answered() {
    let mut process = Process::started();
    process.starts_saga(1, 2, Wait::Decided);
    process.appends(durable);
    process.asked(2, Ask::Abort { reason: "enough".into() });
    process.step_is(false, StepResult::Done("5".into()));
    process.appends(OVERRULED);
    process.has_told(&[(1, "started"), (2, Reason::Fenced.as_str())]);
}

#[test]
fn an_end_whose_record_is_overruled_is_answered() {
    let mut process = Process::started();
    process.starts_saga(1, 2, Wait::Ended);
    process.appends(durable);
    process.step_is(false, StepResult::Done("5".into()));
    process.appends(OVERRULED);
    process.has_told(&[(1, Reason::Fenced.as_str())]);
}

#[test]
fn a_machine_that_the_log_does_not_let_decide_leaves_no_request_open() {
    let retry = Reason::Fenced.as_str();
    let mut process = Process::started();
    process.starts_saga(1, 2, Wait::Ended);
    process.appends(durable);
    process.asked(2, Ask::Await { wait: Wait::Ended });
    process.step_is(false, StepResult::Done("5".into()));
    process.appends(|_| Appended::Undecided);
    process.has_told(&[(1, retry), (2, retry)]);

    let mut process = Process::started();
    let branches = vec![CarriedBranch { participant: till(), payload: "5".into() }];
    let (begun, timeout_ms, wait, protocol) = (false, 0, Wait::Decided, Protocol::TwoPhase);
    let expected = Expected::Anything;
    let commit = Commit { branches, attempt: 1, begun, timeout_ms, wait, protocol, first_epoch: None, expected };
    process.asked(1, Ask::Commit(commit));
    process.asked(2, Ask::Await { wait: Wait::Ended });
    let vote = assent_protocol::branch::Message::Vote(assent_protocol::two_phase::Vote::Yes);
    process.takes(Input::Message { session: TILL, message: FromClient::branch(gtid(), FIRST_BRANCH, vote) });
    process.appends(|_| Appended::Undecided);
    process.has_told(&[(1, retry), (2, retry)]);
}

/// The row of another process, or one that a look-up shows although it has moved on since. It was
/// taken for one that recovery could not resume, and its caller was sent to an operator.
#[test]
fn what_is_durable_in_an_open_row_is_told_and_the_rest_is_asked_again() {
    let retry = Reason::Fenced.as_str();
    for (decision, outcome) in [(Decision::Commit, "committed"), (Decision::Abort, "aborted")] {
        let decided = || {
            let (digest, members) = (BodyDigest(7), vec![Member { participant: till(), branch: FIRST_BRANCH }]);
            let protocol = Protocol::TwoPhase;
            let record = Decided { gtid: gtid(), protocol, decision, members, digest, begun_at_ms: 0, reason: None };
            vec![OpenTransaction::Decided { record, roster: None, decided_at_ms: 0, owner: Epoch(1) }]
        };
        let mut process = Process::started();
        process.asked_of(1, Ask::Await { wait: Wait::Decided }, decided());
        process.asked_of(2, Ask::Await { wait: Wait::Ended }, decided());
        process.has_told(&[(1, outcome), (2, retry)]);
    }

    let mut process = Process::started();
    process.starts_saga(1, 2, Wait::Decided);
    let batch = process.replica.take_batch().expect("the start is logged");
    let Some(Record::SagaStarted(started)) = batch.forced.first().cloned() else { panic!("{batch:?}") };
    let open = |digest| {
        let started = SagaStarted { digest, ..started.clone() };
        let (turned, paused, steps, started_at_ms, owner) = (None, None, Vec::new(), 0, Epoch(1));
        vec![OpenTransaction::Saga(OpenSaga { started, turned, paused, steps, started_at_ms, owner })]
    };
    let asks = |wait| Ask::StartSaga { definition: definition(), wait, attempt: 2 };
    let mut process = Process::started();
    process.asked_of(1, asks(Wait::Decided), open(started.digest));
    process.asked_of(2, asks(Wait::Ended), open(started.digest));
    process.asked_of(3, asks(Wait::Decided), open(BodyDigest(7)));
    process.has_told(&[(1, "started"), (2, retry), (3, Reason::KeyReused.as_str())]);
}
