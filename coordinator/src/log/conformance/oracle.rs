//! Random batches, against the log in memory as the model of what should happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use assent_protocol::record::{Attempted, Decided, Delegated, Ended, Member, SagaStarted, SagaStep};
use assent_protocol::saga::{StepIndex, StepResult};
use assent_protocol::three_phase::{Ballot, NodeId, Standing, VoterState};
use assent_protocol::{Appended, BodyDigest, BranchEnd, BranchId, Decision, Gtid, Outcome, Protocol, Record};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::sample::{self, NOW_MS, attempted, gtid, moved, name, saga, saga_ended};
use super::{Ground, start};
use crate::log::memory::MemoryLog;
use crate::log::{Batch, Filter, Found, Log, OpenTransaction, PageToken, State};

/// How many transactions the batches are about: few, so that they meet.
const TRANSACTIONS: u64 = 40;

/// Names the batches of one run, to see them again.
const SEED_VARIABLE: &str = "ASSENT_LOG_SEED";

/// Whatever the committer sends, answers and state are those of the model, repetitions and second
/// thoughts included.
pub async fn random_batches_do_what_the_model_does(ground: &dyn Ground) {
    let given = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    println!("replay with {SEED_VARIABLE}={seed}");
    let log = start(ground).await;
    let model: Arc<dyn Log> = Arc::new(MemoryLog::new());
    model.acquire(&name("r1")).await.expect("memory");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::default();
    for round in 0..60 {
        let batch = world.batch(&mut random, NOW_MS + round * 10);
        let repetitions = if random.random_bool(0.2) { 2 } else { 1 };
        for _ in 0..repetitions {
            let (expected, actual) = (answers(&model, &batch).await, answers(&log, &batch).await);
            assert_eq!(actual, expected, "round {round}: {batch:#?}");
        }
        world.learn(&model).await;
        if round % 5 == 4 {
            compare(&model, &log).await;
        }
    }
    compare(&model, &log).await;
}

async fn answers(log: &Arc<dyn Log>, batch: &Batch) -> Vec<Appended> {
    log.append(batch).await.expect("the log is there")
}

async fn compare(model: &Arc<dyn Log>, log: &Arc<dyn Log>) {
    let all: Vec<Gtid> = (0..TRANSACTIONS).map(gtid).collect();
    let actual = without_owners(log.lookup(&all).await.expect("there"));
    let expected = without_owners(model.lookup(&all).await.expect("memory"));
    for (actual, expected) in actual.iter().zip(&expected) {
        assert_eq!(actual, expected);
    }
    assert_eq!(actual.len(), expected.len());
    let mut token: Option<PageToken> = None;
    let filter = Filter {
        states: vec![State::Preparing, State::Paused, State::Compensating, State::Aborted, State::Committing],
        ..Filter::default()
    };
    loop {
        let expected = model.list(&filter, token.as_ref(), 3).await.expect("memory");
        let actual = log.list(&filter, token.as_ref(), 3).await.expect("there");
        let gtids =
            |page: &crate::log::Page| page.transactions.iter().map(|one| (one.gtid, one.state)).collect::<Vec<_>>();
        assert_eq!(gtids(&actual), gtids(&expected));
        assert_eq!(actual.next, expected.next);
        token = expected.next;
        if token.is_none() {
            return;
        }
    }
}

/// Epochs are drawn by the storage, and differ between the two.
fn without_owners(found: Vec<(Gtid, Found)>) -> Vec<String> {
    use assent_protocol::Epoch;
    let strip = |found: Found| match found {
        Found::Open(OpenTransaction::Decided { record, roster, decided_at_ms, .. }) => {
            Found::Open(OpenTransaction::Decided { record, roster, decided_at_ms, owner: Epoch(0) })
        }
        Found::Open(OpenTransaction::Delegated { record, delegated_at_ms, .. }) => {
            Found::Open(OpenTransaction::Delegated { record, delegated_at_ms, owner: Epoch(0) })
        }
        Found::Open(OpenTransaction::Attempted { record, state, attempted_at_ms, .. }) => {
            Found::Open(OpenTransaction::Attempted { record, state, attempted_at_ms, owner: Epoch(0) })
        }
        Found::Open(OpenTransaction::Saga(saga)) => {
            Found::Open(OpenTransaction::Saga(crate::log::OpenSaga { owner: Epoch(0), ..saga }))
        }
        other => other,
    };
    found.into_iter().map(|(gtid, found)| format!("{gtid}: {:?}", strip(found))).collect()
}

/// What the transactions of a run are, so that their ends agree with their beginnings, as a
/// machine's do.
#[derive(Default)]
struct World {
    rosters: BTreeMap<Gtid, Vec<&'static str>>,
    /// The branches that open rows name.
    standing: BTreeMap<Gtid, Vec<Member>>,
}

impl World {
    async fn learn(&mut self, model: &Arc<dyn Log>) {
        let all: Vec<Gtid> = (0..TRANSACTIONS).map(gtid).collect();
        for (gtid, found) in model.lookup(&all).await.expect("memory") {
            let members = match found {
                Found::Open(OpenTransaction::Decided { record, .. }) => record.members,
                Found::Open(OpenTransaction::Delegated { record, .. }) => vec![record.member],
                Found::Open(OpenTransaction::Attempted { .. } | OpenTransaction::Saga(_))
                | Found::Ended(_)
                | Found::Unreadable(_) => continue,
            };
            self.standing.insert(gtid, members);
        }
    }

    fn batch(&mut self, random: &mut StdRng, at_ms: u64) -> Batch {
        let mut batch = Batch { at_ms, ..Batch::default() };
        for _ in 0..random.random_range(0..12) {
            let record = self.record(random);
            let is_lazy = matches!(record, Record::SagaPaused(_))
                || matches!(&record, Record::Ended(ended) if is_lazy_end(random, ended))
                || matches!(record, Record::SagaStep(_)) && random.random_bool(0.7);
            if is_lazy { batch.lazy.push(record) } else { batch.forced.push(record) }
        }
        // By contract, no record follows from another of its transaction in the same batch, save
        // those of an open saga.
        let opens: Vec<Gtid> = batch.forced.iter().chain(&batch.lazy).filter(|r| opens(r)).map(Record::gtid).collect();
        let keep = |record: &Record| opens_or_other(record, &opens);
        batch.forced.retain(keep);
        batch.lazy.retain(keep);
        // A transaction ends once: where an end is waited for, it is the only one.
        let mut ended = BTreeSet::new();
        batch.forced.retain(|record| !matches!(record, Record::Ended(_)) || ended.insert(record.gtid()));
        batch.lazy.retain(|record| !matches!(record, Record::Ended(_)) || !ended.contains(&record.gtid()));
        batch
    }

    fn record(&mut self, random: &mut StdRng) -> Record {
        let gtid = gtid(random.random_range(0..TRANSACTIONS));
        let is_saga = gtid.as_bytes()[15] % 2 == 1;
        let is_three_phase = gtid.as_bytes()[15].is_multiple_of(4);
        // Now and then somebody takes a saga for a 2PC: an inquiry does not know.
        if is_saga && random.random_bool(0.9) {
            saga_record(random, gtid)
        } else if is_three_phase && random.random_bool(0.6) || random.random_bool(0.05) {
            three_phase_record(random, gtid, is_three_phase)
        } else {
            self.commit_record(random, gtid)
        }
    }

    fn commit_record(&mut self, random: &mut StdRng, gtid: Gtid) -> Record {
        let roster = self.rosters.entry(gtid).or_insert_with(|| {
            let all = ["inventory", "billing", "a.b", "x_y"];
            (0..random.random_range(0..4)).map(|n| all[n]).collect()
        });
        let decision = if random.random_bool(0.7) { Decision::Commit } else { Decision::Abort };
        let is_three_phase = gtid.as_bytes()[15].is_multiple_of(4);
        if let ([only], false) = (roster.as_slice(), is_three_phase)
            && random.random_bool(0.3)
        {
            let digest = if random.random_bool(0.9) { sample::delegated(gtid).digest } else { BodyDigest(9) };
            return Record::Delegated(Delegated { member: member(random, only), digest, ..sample::delegated(gtid) });
        }
        let protocol = if is_three_phase { Protocol::ThreePhase } else { Protocol::TwoPhase };
        if random.random_bool(0.6) {
            let members = roster.iter().map(|participant| member(random, participant)).collect();
            return Record::Decided(Decided { protocol, members, ..sample::decided(gtid, decision, &[]) });
        }
        let has_open_row = random.random_bool(0.8);
        let decision = if has_open_row { decision } else { Decision::Abort };
        let plain = sample::ended(gtid, decision);
        let usual = plain.branches[0].end;
        let standing = self.standing.get(&gtid).map_or(&[][..], Vec::as_slice);
        let mut branches: Vec<_> = roster.iter().map(|participant| sample::branch(participant, usual)).collect();
        for branch in &mut branches {
            if let Some(member) = standing.iter().find(|member| member.participant == branch.participant) {
                branch.branch = member.branch;
            }
        }
        if random.random_bool(0.3) {
            branches.push(sample::branch("reader", BranchEnd::ReadOnly));
        }
        Record::Ended(Ended { protocol, has_open_row, branches, ..plain })
    }
}

/// Mostly the usual branch; now and then its twin, or one of before branches had an id.
fn member(random: &mut StdRng, participant: &str) -> Member {
    match random.random_range(0..10) {
        0 => sample::twin(participant),
        1 => Member { branch: BranchId::NONE, ..sample::member(participant) },
        _ => sample::member(participant),
    }
}

/// The end of a 3PC is waited for where it may bring the decision; an end of what never had a row
/// never is.
fn is_lazy_end(random: &mut StdRng, ended: &Ended) -> bool {
    match ended.protocol {
        Protocol::TwoPhase => true,
        Protocol::ThreePhase => !ended.has_open_row || random.random_bool(0.5),
        Protocol::Saga => false,
    }
}

/// Few states, so that the log is often where a vote wants it.
fn three_phase_record(random: &mut StdRng, gtid: Gtid, may_open: bool) -> Record {
    match random.random_range(0..8) {
        0..2 if may_open => {
            let digest = if random.random_bool(0.9) { attempted(gtid).digest } else { BodyDigest(9) };
            Record::Attempted(Attempted { digest, ..attempted(gtid) })
        }
        0..6 => {
            let mut state = || {
                let ballot = Ballot { round: 2, node: NodeId(u128::MAX) };
                [
                    VoterState::ATTEMPTED,
                    VoterState { joined: ballot, ..VoterState::ATTEMPTED },
                    VoterState { standing: Standing::PreAborted, joined: ballot, accepted: Some(ballot) },
                ][random.random_range(0..3)]
            };
            moved(gtid, state(), state())
        }
        _ => {
            let decision = if random.random_bool(0.5) { Decision::Commit } else { Decision::Abort };
            let decided = sample::decided(gtid, decision, &["inventory", "billing"]);
            Record::Agreed(Decided { protocol: Protocol::ThreePhase, ..decided })
        }
    }
}

fn saga_record(random: &mut StdRng, gtid: Gtid) -> Record {
    match random.random_range(0..10) {
        0..3 => {
            let digest = if random.random_bool(0.8) { saga(gtid).digest } else { BodyDigest(9) };
            Record::SagaStarted(SagaStarted { digest, ..saga(gtid) })
        }
        3..7 => {
            let result = match random.random_range(0..3) {
                0 => StepResult::Done(Bytes::from(vec![0, 255, random.random()])),
                1 => StepResult::Refused(format!("no {}", random.random::<u8>())),
                _ => StepResult::Unknown("timeout".to_owned()),
            };
            let (step, compensation) = (StepIndex(random.random_range(0..4)), random.random_bool(0.4));
            Record::SagaStep(SagaStep { gtid, step, compensation, attempt: random.random_range(1..9), result })
        }
        7 => Record::SagaTurned(sample::turned(gtid, "no seats")),
        8 => Record::SagaPaused(sample::paused(gtid, random.random_bool(0.5).then_some("call them"))),
        _ => {
            let outcome = if random.random_bool(0.5) { Outcome::Completed } else { Outcome::Compensated };
            Record::Ended(saga_ended(gtid, outcome))
        }
    }
}

fn opens(record: &Record) -> bool {
    match record {
        Record::Decided(_)
        | Record::Delegated(_)
        | Record::Attempted(_)
        | Record::Agreed(_)
        | Record::Voter(_)
        | Record::SagaStarted(_) => true,
        Record::Ended(ended) => !ended.has_open_row,
        Record::SagaTurned(_) | Record::SagaStep(_) | Record::SagaPaused(_) => false,
    }
}

fn opens_or_other(record: &Record, opened: &[Gtid]) -> bool {
    let times = opened.iter().filter(|gtid| **gtid == record.gtid()).count();
    if opens(record) { times == 1 } else { times == 0 }
}
