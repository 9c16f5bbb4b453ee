//! `assent verify-log`: nothing is found in a log after real traffic, and each planted damage is
//! found and named.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use assent::log::verify::{Invariant, Verified, verify};
use assent::log::{self, Batch, Log, Options};
use assent_protocol::record::{
    Attempted, Decided, Delegated, Ended, EndedBranch, Member, SagaStarted, SagaStep, SagaTurned,
};
use assent_protocol::saga::{Definition, StepDefinition, StepIndex, StepResult};
use assent_protocol::three_phase::{PeerAddress, Roster, Seat, StoreId};
use assent_protocol::{
    BodyDigest, BranchEnd, BranchId, Decision, Epoch, Gtid, Name, Outcome, Protocol, Record, RetryPolicy,
};
use assent_sdk::{Assent, Outcome as Told};
use bytes::Bytes;
use integration_tests::Program;
use integration_tests::ledger::{Booking, open_bank};
use integration_tests::postgres::Postgres;
use integration_tests::process::Finished;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use uuid::Uuid;

use crate::chaos::Cast;
use crate::log_postgres::PostgresGround;

const DEADLINE: Duration = Duration::from_secs(60);
const NOW_MS: u64 = 1_795_000_000_000;

// ---- a log with a row of every kind --------------------------------------------------------------------------------------

fn gtid(n: u8) -> Gtid {
    let mut bytes = NOW_MS.to_be_bytes()[2..].to_vec();
    bytes.extend([0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, n]);
    Gtid::new(Uuid::from_slice(&bytes).expect("16 bytes")).expect("version 7")
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn member(participant: &str) -> Member {
    let number = participant.len() as u64;
    Member { participant: name(participant), branch: BranchId { epoch: Epoch(2), number } }
}

fn decided(n: u8, decision: Decision) -> Decided {
    Decided {
        gtid: gtid(n),
        protocol: Protocol::TwoPhase,
        decision,
        members: vec![member("inventory"), member("billing")],
        digest: BodyDigest(if decision == Decision::Commit { 7 } else { 0 }),
        begun_at_ms: NOW_MS - 20,
        reason: (decision == Decision::Abort).then(|| "sold out".to_owned()),
    }
}

fn delegated(n: u8) -> Delegated {
    Delegated { gtid: gtid(n), member: member("till"), digest: BodyDigest(7), begun_at_ms: NOW_MS - 20 }
}

fn attempted(n: u8) -> Attempted {
    let seat = |participant: &str, store| Seat {
        participant: name(participant),
        branch: member(participant).branch,
        address: PeerAddress::new("http://peer:7421").expect("an address"),
        store: StoreId(store),
    };
    let roster = Roster::new(vec![seat("inventory", 1), seat("billing", 2)], StoreId(3)).expect("a roster");
    Attempted { gtid: gtid(n), roster, digest: BodyDigest(7), begun_at_ms: NOW_MS - 20 }
}

/// `a`, whose result is forced before `b`, and `c` behind the pivot `b`.
fn saga(n: u8) -> SagaStarted {
    let step = |step: &str, after: &[u16]| StepDefinition {
        name: name(step),
        participant: name("clerk"),
        input: Bytes::new(),
        after: after.iter().copied().map(StepIndex).collect(),
        retry: RetryPolicy::default(),
        compensation_retry: RetryPolicy::default(),
        pivot: step == "b",
        durable: step == "a",
    };
    let definition = Definition::new(vec![step("a", &[]), step("b", &[0]), step("c", &[1])]).expect("a saga");
    SagaStarted { gtid: gtid(n), definition, digest: BodyDigest(7), begun_at_ms: NOW_MS - 20 }
}

fn answer(n: u8, step: u16, result: StepResult) -> Record {
    Record::SagaStep(SagaStep { gtid: gtid(n), step: StepIndex(step), compensation: false, attempt: 1, result })
}

fn ended(n: u8, outcome: Outcome, has_open_row: bool) -> Record {
    let (protocol, end) = match outcome {
        Outcome::Committed => (Protocol::TwoPhase, BranchEnd::Committed),
        Outcome::Aborted => (Protocol::TwoPhase, BranchEnd::Aborted),
        Outcome::Completed => (Protocol::Saga, BranchEnd::Completed),
        Outcome::Compensated => (Protocol::Saga, BranchEnd::Compensated),
    };
    let branches = match protocol {
        Protocol::Saga => {
            let steps = ["a", "b", "c"].map(|step| (name("clerk"), BranchId::NONE, Some(name(step))));
            steps.to_vec()
        }
        Protocol::TwoPhase | Protocol::ThreePhase => {
            let members = ["inventory", "billing"].map(member);
            members.map(|Member { participant, branch }| (participant, branch, None)).to_vec()
        }
    };
    let branches = branches
        .into_iter()
        .map(|(participant, branch, step)| EndedBranch { participant, branch, step, end })
        .collect();
    let outputs = if outcome == Outcome::Completed { vec![(StepIndex(0), Bytes::from("a-1"))] } else { Vec::new() };
    Record::Ended(Ended {
        gtid: gtid(n),
        protocol,
        outcome,
        has_open_row,
        begun_at_ms: NOW_MS - 20,
        digest: BodyDigest(if outcome == Outcome::Aborted { 0 } else { 7 }),
        reason: None,
        branches,
        outputs,
    })
}

/// | n | what |
/// |---|---|
/// | 1, 2 | 2pc: committing, aborting by presumption |
/// | 3, 4 | 3pc: attempted, agreed |
/// | 5 | a saga past its pivot |
/// | 6 | a saga that turned back |
/// | 7 | 2pc: delegated to its only branch |
/// | 11 to 14 | ended: committed, aborted without a decision, completed, compensated |
async fn fill(log: &dyn Log) {
    let replica = name("r1");
    log.acquire(&replica).await.expect("free");
    // The second epoch is the one that counts.
    log.acquire(&replica).await.expect("free");
    let done = |text: &'static str| StepResult::Done(Bytes::from(text));
    let agreed = Decided { protocol: Protocol::ThreePhase, digest: BodyDigest(7), ..decided(4, Decision::Commit) };
    let batches = [
        vec![
            Record::Decided(decided(1, Decision::Commit)),
            Record::Decided(decided(2, Decision::Abort)),
            Record::Attempted(attempted(3)),
            Record::Attempted(attempted(4)),
            Record::SagaStarted(saga(5)),
            Record::SagaStarted(saga(6)),
            Record::Delegated(delegated(7)),
            Record::Decided(decided(11, Decision::Commit)),
            Record::SagaStarted(saga(13)),
            Record::SagaStarted(saga(14)),
        ],
        vec![
            Record::Agreed(agreed),
            answer(5, 0, done("a-1")),
            answer(5, 1, done("b-1")),
            answer(6, 0, done("a-1")),
            answer(6, 1, StepResult::Refused("no".to_owned())),
        ],
        vec![
            Record::SagaTurned(SagaTurned { gtid: gtid(6), reason: "no".to_owned() }),
            ended(11, Outcome::Committed, true),
            ended(12, Outcome::Aborted, false),
            ended(13, Outcome::Completed, true),
            ended(14, Outcome::Compensated, true),
        ],
    ];
    for forced in batches {
        log.append(&Batch { at_ms: NOW_MS, forced, lazy: Vec::new() }).await.expect("the log is there");
    }
}

// ---- planted damage ------------------------------------------------------------------------------------------------------

/// What is done to the rows, in words that both databases understand: `G3` stands for the third
/// gtid, `LATER` for two hours after the end.
const DAMAGE: &[(&str, &[Invariant])] = &[
    ("update migration set version = 90 where version = 3", &[Invariant::SchemaVersion]),
    ("delete from identity", &[Invariant::OneIdentity]),
    ("update history set gtid = '00000000-0000-4000-8000-000000000001' where gtid = 'G11'", &[Invariant::GtidValid]),
    (
        "update open_transaction set gtid = '00000000-0000-4000-8000-000000000001' where gtid = 'G1'",
        &[Invariant::GtidValid],
    ),
    ("update open_transaction set definition = '[]' where gtid = 'G5'", &[Invariant::RowReadable]),
    ("update history set branches = 'Not A Name' where gtid = 'G11'", &[Invariant::RowReadable]),
    ("update history set outputs = '{\"0\": \"%\"}' where gtid = 'G13'", &[Invariant::RowReadable]),
    (
        "update open_transaction set decision = null where gtid = 'G1'",
        &[Invariant::RowFitsProtocol, Invariant::RowReadable],
    ),
    ("update open_transaction set remedy = 'call us' where gtid = 'G1'", &[Invariant::RowFitsProtocol]),
    (
        "update open_transaction set participants = 'till,bank', branch_ids = null where gtid = 'G7'",
        &[Invariant::RowFitsProtocol, Invariant::RowReadable],
    ),
    (
        "update open_transaction set participants = '', branch_ids = null where gtid = 'G7'",
        &[Invariant::RowFitsProtocol, Invariant::RowReadable],
    ),
    ("update open_transaction set digest = 0 where gtid = 'G7'", &[Invariant::DigestOfRequest]),
    (
        "update open_transaction set voter = null where gtid = 'G3'",
        &[Invariant::RowFitsProtocol, Invariant::RowReadable],
    ),
    (
        "update open_transaction set decision = 'commit' where gtid = 'G5'",
        &[Invariant::RowFitsProtocol, Invariant::SagaPivotStands],
    ),
    ("update history set outcome = 'completed' where gtid = 'G11'", &[Invariant::RowFitsProtocol]),
    ("update history set decided_at = null where gtid = 'G13'", &[Invariant::RowFitsProtocol]),
    (
        "update open_transaction set participants = 'billing,billing' where gtid = 'G1'",
        &[Invariant::RowReadable, Invariant::DecisionHasRoster],
    ),
    (
        "update open_transaction set participants = 'billing', branch_ids = null where gtid = 'G3'",
        &[Invariant::DecisionHasRoster],
    ),
    (
        "update open_transaction set participants = '', branch_ids = null where gtid = 'G4'",
        &[Invariant::DecisionHasRoster],
    ),
    (
        "update open_transaction set participants = 'stranger', branch_ids = null where gtid = 'G4'",
        &[Invariant::DecisionHasRoster],
    ),
    (
        "update open_transaction set branch_ids = '2.1' where gtid = 'G1'",
        &[Invariant::RowReadable, Invariant::DecisionHasRoster],
    ),
    (
        "update open_transaction set branch_ids = '2.1,2.X' where gtid = 'G3'",
        &[Invariant::RowReadable, Invariant::DecisionHasRoster],
    ),
    ("update open_transaction set branch_ids = '2.1' where gtid = 'G5'", &[Invariant::RowFitsProtocol]),
    ("update open_transaction set branch_ids = null where gtid = 'G1'", &[]),
    ("update history set branch_ids = '2.1' where gtid = 'G11'", &[Invariant::RowReadable]),
    ("update history set branch_ids = '2.1,2.2,2.3' where gtid = 'G13'", &[Invariant::RowFitsProtocol]),
    ("update open_transaction set participants = 'stranger' where gtid = 'G5'", &[Invariant::DecisionHasRoster]),
    ("update history set branches = 'billing,billing' where gtid = 'G11'", &[Invariant::DecisionHasRoster]),
    ("update open_transaction set digest = 0 where gtid = 'G1'", &[Invariant::DigestOfRequest]),
    ("update open_transaction set digest = 0 where gtid = 'G3'", &[Invariant::DigestOfRequest]),
    ("update open_transaction set digest = 0 where gtid = 'G6'", &[Invariant::DigestOfRequest]),
    ("update history set digest = 0 where gtid = 'G11'", &[Invariant::DigestOfRequest]),
    ("update history set begun_at = LATER where gtid = 'G12'", &[Invariant::TimesInOrder]),
    ("update history set decided_at = LATER where gtid = 'G11'", &[Invariant::TimesInOrder]),
    ("update open_transaction set begun_at = LATER where gtid = 'G1'", &[Invariant::TimesInOrder]),
    ("update open_transaction set owner_epoch = 1 where gtid = 'G1'", &[Invariant::OwnerKnown]),
    ("delete from replica", &[Invariant::OwnerKnown]),
    ("update replica set epoch = epoch + 90", &[Invariant::OwnerKnown, Invariant::EpochDrawn]),
    ("update open_transaction set owner_epoch = 99 where gtid = 'G1'", &[Invariant::OwnerKnown, Invariant::EpochDrawn]),
    ("update saga_step set step = 40 where gtid = 'G5' and step = 1", &[Invariant::SagaStepDefined]),
    ("update saga_step set compensation = TRUE where gtid = 'G5' and step = 1", &[Invariant::SagaTurnedFirst]),
    ("update open_transaction set decision = null where gtid = 'G6'", &[]),
    ("update open_transaction set decision = 'abort', reason = 'no' where gtid = 'G5'", &[Invariant::SagaPivotStands]),
    ("delete from saga_step where gtid = 'G5' and step = 0", &[Invariant::SagaForcedResult]),
    ("update saga_step set result = 'unknown' where gtid = 'G5' and step = 1", &[Invariant::OutputOfDone]),
    ("update saga_step set output = null where gtid = 'G5' and step = 1", &[Invariant::OutputOfDone]),
    ("update history set outputs = '{\"7\": \"\"}' where gtid = 'G13'", &[Invariant::OutputOfDone]),
    ("update history set outputs = '{\"0\": \"\"}' where gtid = 'G14'", &[Invariant::OutputOfDone]),
    ("update saga_step set gtid = 'G99' where gtid = 'G6' and step = 1", &[Invariant::StepOfOpenSaga]),
    ("update saga_step set gtid = 'G1' where gtid = 'G6' and step = 1", &[Invariant::StepOfOpenSaga]),
    ("update open_transaction set voter = 'pre_committed 1.0 2.7' where gtid = 'G3'", &[Invariant::VoterLegal]),
    ("update open_transaction set voter = 'pre_committed 2.7 -' where gtid = 'G3'", &[Invariant::VoterLegal]),
    ("update open_transaction set voter = 'waiting 2.7 1.0' where gtid = 'G3'", &[Invariant::VoterLegal]),
    (
        "update open_transaction set voter = 'pre_committed 0.0 0.0' where gtid = 'G3'",
        &[Invariant::RowReadable, Invariant::VoterLegal],
    ),
    ("update open_transaction set voter = 'aborted 1.0 1.0' where gtid = 'G4'", &[Invariant::VoterFitsDecision]),
    ("update history set branches = 'inventory,billing=aborted' where gtid = 'G11'", &[Invariant::OutcomeFitsBranches]),
    (
        "update history set branches = 'inventory,billing=not_started' where gtid = 'G11'",
        &[Invariant::OutcomeFitsBranches],
    ),
    (
        "update history set branches = 'inventory,billing=committed' where gtid = 'G12'",
        &[Invariant::OutcomeFitsBranches],
    ),
    ("update history set branches = 'inventory,billing=heuristic_committed' where gtid = 'G12'", &[]),
    (
        "update history set branches = 'clerk/a=completed,clerk/b,clerk/c' where gtid = 'G14'",
        &[Invariant::OutcomeFitsBranches],
    ),
    ("update history set gtid = 'G1' where gtid = 'G11'", &[Invariant::OpenOrEnded]),
    (
        "insert into history (gtid, ended_at, begun_at, digest, protocol, outcome, branches)
      select gtid, LATER, begun_at, digest, protocol, 'aborted', '' from history where gtid = 'G11'",
        &[Invariant::EndsOneWay],
    ),
];

fn sql(damage: &str, later: &str, yes: &str) -> String {
    let mut sql = damage.replace("LATER", later).replace("TRUE", yes);
    for n in (1..=99).rev() {
        sql = sql.replace(&format!("'G{n}'"), &format!("'{}'", gtid(n)));
    }
    sql
}

async fn verified(url: &str) -> Verified {
    verify(url, |_| {}).await.expect("the log can be read")
}

fn is_named(damage: &str, verified: &Verified, expected: &[Invariant]) {
    let found: Vec<Invariant> = verified.violated.keys().copied().collect();
    let expected: BTreeSet<Invariant> = expected.iter().copied().collect();
    assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{damage}: {:#?}", verified.violations);
    for violation in &verified.violations {
        assert!(!violation.what.is_empty() && !violation.invariant.remedy().is_empty(), "{violation:?}");
    }
}

#[test]
fn every_invariant_has_its_damage() {
    let planted: BTreeSet<Invariant> = DAMAGE.iter().flat_map(|(_, expected)| expected.iter().copied()).collect();
    assert_eq!(planted.into_iter().collect::<Vec<_>>(), Invariant::ALL);
}

#[tokio::test]
async fn damage_in_a_postgres_log_is_found_and_named() {
    let ground = PostgresGround::fresh().await;
    let url = ground.database.url();
    fill(&*log::open(&url, Options::default()).await.expect("it opens")).await;
    let clean = verified(&url).await;
    assert_eq!((clean.violations.as_slice(), clean.counts.open, clean.counts.in_motion), (&[][..], 7, 7));
    assert_eq!((clean.counts.steps, clean.counts.ended, clean.schema), (4, 4, 5));

    let mut connection = ground.database.connect().await;
    let mut run = async |sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut connection).await.expect(&sql);
    };
    let tables = ["migration", "identity", "replica", "open_transaction", "saga_step", "history"];
    run("set search_path = assent; alter table open_transaction drop constraint a_row_fits_its_protocol;
         alter table history drop constraint an_outcome_fits_its_protocol;
         alter table saga_step drop constraint what_is_done_has_an_output_and_all_else_a_reason;"
        .to_owned())
    .await;
    for table in tables {
        run(format!("create table public.{table} as select * from {table}")).await;
    }
    for (damage, expected) in DAMAGE {
        run(sql(damage, "to_timestamp(1795007200)", "true")).await;
        is_named(damage, &verified(&url).await, expected);
        run(tables
            .map(|table| format!("delete from {table}; insert into {table} select * from public.{table};"))
            .concat())
        .await;
    }
    assert_eq!(verified(&url).await.violations, []);
}

#[tokio::test]
async fn damage_in_an_sqlite_log_is_found_and_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let sound = directory.path().join("sound.db");
    let log = log::open(&format!("sqlite:{}", sound.display()), Options::default()).await.expect("it opens");
    fill(&*log).await;
    log.close().await;
    let clean = verified(&format!("sqlite:{}", sound.display())).await;
    assert_eq!((clean.violations.as_slice(), clean.counts.open, clean.counts.ended), (&[][..], 7, 4));

    let spoilt = directory.path().join("spoilt.db");
    for (damage, expected) in DAMAGE {
        std::fs::copy(&sound, &spoilt).expect("copied");
        let mut connection = sqlite(&spoilt).await;
        let (later, yes) = ((NOW_MS + 7_200_000).to_string(), "1");
        let sql = sql(damage, &later, yes);
        sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut connection).await.expect(&sql);
        connection.close().await.expect("closed");
        let before = std::fs::read(&spoilt).expect("a file");
        is_named(damage, &verified(&format!("sqlite:{}", spoilt.display())).await, expected);
        assert!(before == std::fs::read(&spoilt).expect("a file"), "nothing is written");
    }
}

async fn sqlite(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(false);
    options.pragma("ignore_check_constraints", "on").connect().await.expect("a connection")
}

// ---- pages ---------------------------------------------------------------------------------------------------------------

/// More than a page of each kind, and a pair at the edge of one.
#[tokio::test]
async fn a_long_log_is_read_to_its_end() {
    let ground = PostgresGround::fresh().await;
    let url = ground.database.url();
    fill(&*log::open(&url, Options::default()).await.expect("it opens")).await;
    let mut connection: PgConnection = ground.database.connect().await;
    let history = "insert into assent.history (gtid, ended_at, begun_at, digest, protocol, outcome, branches)
                   select ('01890a5d-ac96-774b-bcce-' || lpad(to_hex(n), 12, '0'))::uuid, to_timestamp(1795000000), to_timestamp(1795000000), 7,
                          '2pc', 'committed', 'a,b'
                   from generate_series(1, 2500) n";
    let open = "insert into assent.open_transaction (gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants)
                select ('01890a5d-ac96-774b-bccf-' || lpad(to_hex(n), 12, '0'))::uuid, (select epoch from assent.replica), 7, to_timestamp(1795000000), to_timestamp(1795000000),
                       '2pc', 'commit', 'a,b'
                from generate_series(1, 2993) n";
    for sql in [history, open] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("inserted");
    }
    let mut told = Vec::new();
    let read = verify(&url, |counts| told.push(*counts)).await.expect("read");
    assert_eq!((read.violations.as_slice(), read.counts.open, read.counts.ended), (&[][..], 3_000, 2_504));
    assert!(told.len() >= 6 && told.is_sorted_by_key(|counts| counts.open + counts.ended), "{told:?}");
    // The thousandth row of history and its contradiction stand on two pages.
    let pair = "insert into assent.history (gtid, ended_at, begun_at, digest, protocol, outcome, branches)
                select gtid, ended_at + interval '1 day', begun_at, digest, protocol, 'aborted', '' from assent.history
                where gtid = '01890a5d-ac96-774b-bcce-0000000003e8'";
    sqlx::raw_sql(AssertSqlSafe(pair)).execute(&mut connection).await.expect("inserted");
    is_named(pair, &verified(&url).await, &[Invariant::EndsOneWay]);
}

// ---- the command -----------------------------------------------------------------------------------------------------------

async fn command(log: &str, output: &str) -> Finished {
    Program::assent().args(["verify-log", "--log", log, "-o", output]).run(DEADLINE).await
}

#[tokio::test]
async fn the_exit_code_tells_what_is_wrong_from_what_could_not_be_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log.db");
    let url = format!("sqlite:{}", path.display());
    for (log, code) in [("mysql://x", 2), (url.as_str(), 7), ("postgres://nobody@127.0.0.1:1/x", 7)] {
        let finished = command(log, "table").await;
        assert_eq!(finished.status.code(), Some(code), "{log}: {finished:?}");
        assert!(finished.stderr.contains("error: ") && finished.stderr.contains(" next: "), "{log}: {finished:?}");
    }
    assert!(!path.exists(), "nothing is created");
    let log = log::open(&url, Options::default()).await.expect("it opens");
    fill(&*log).await;
    log.close().await;
    let finished = command(&url, "table").await;
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    assert!(finished.stdout.contains("violations 0"), "{finished:?}");

    let mut connection = sqlite(&path).await;
    let damage = sql("update open_transaction set digest = 0 where gtid = 'G1'", "", "");
    sqlx::raw_sql(AssertSqlSafe(damage)).execute(&mut connection).await.expect("spoilt");
    connection.close().await.expect("closed");
    let finished = command(&url, "table").await;
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    let (gtid, name) = (gtid(1).to_string(), "digest_of_request");
    for text in [gtid.as_str(), name, " next: ", "may be in motion"] {
        assert!(finished.stdout.contains(text), "{text}: {finished:?}");
    }
    let finished = command(&url, "json").await;
    let answer: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert_eq!((&answer["violations"][0]["gtid"], &answer["violated"][name]), (&gtid.into(), &1.into()));
    let finished = command(&url, "jsonl").await;
    let lines: Vec<serde_json::Value> =
        finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((lines.len(), &lines[0]["invariant"], &lines[1]["open"]), (2, &name.into(), &7.into()));
}

/// Beside a running server, and after it was killed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_in_a_log_after_real_traffic() {
    let server = Postgres::shared().await;
    let directory = tempfile::tempdir().expect("a directory");
    let postgres = server.create_database().await;
    let sqlite = format!("sqlite:{}", directory.path().join("log.db").display());
    for log in [postgres.url(), sqlite] {
        let (bank_a, bank_b) = (server.create_database().await, server.create_database().await);
        let mut cast = Cast::with_coordinator(&log).await;
        for (name, bank) in [("bank-a", &bank_a), ("bank-b", &bank_b)] {
            open_bank(&mut bank.connect().await, 10, 1_000).await.expect("the bank's tables");
            cast.join("bank", name, &bank.url()).await;
        }
        let assent = Assent::dial(&cast.endpoint).connect().await.expect("the coordinator answers");
        let transfer = async |from: i32| {
            let amount = if from % 7 == 0 { 1_000_000 } else { 5 };
            let transaction = assent
                .transaction()
                .branch_json("bank-a", &Booking { account: from % 10 + 1, amount: -amount })
                .branch_json("bank-b", &Booking { account: from % 10 + 1, amount });
            transaction.commit().await.expect("an outcome")
        };
        let traffic = async {
            let mut committed = 0;
            for from in 0..60 {
                committed += u32::from(matches!(transfer(from).await, Told::Committed));
            }
            committed
        };
        let looking = async {
            for _ in 0..3 {
                let finished = command(&log, "json").await;
                assert_eq!(finished.status.code(), Some(0), "{finished:?}");
            }
        };
        let (committed, ()) = tokio::join!(traffic, looking);
        assert_eq!(committed, 51);
        drop(cast);
        let finished = command(&log, "json").await;
        assert_eq!(finished.status.code(), Some(0), "{finished:?}");
        let answer: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
        let read = answer["open"].as_u64().zip(answer["ended"].as_u64()).map(|(open, ended)| open + ended);
        assert!(read >= Some(51), "{answer}");
    }
}
