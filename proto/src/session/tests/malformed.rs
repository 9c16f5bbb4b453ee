//! Each message that cannot be meant, and what is said about it.

use assent_protocol::{AbortCode, Protocol};
use v1::client_message::Kind as ClientKind;
use v1::server_message::Kind as ServerKind;

use super::*;
use crate::text::TEXT_BYTES_MAX;

fn read(kind: ClientKind) -> Result<FromClient, Malformed> {
    v1::ClientMessage { kind: Some(kind) }.try_into()
}

fn read_back(kind: ServerKind) -> Result<FromReplica, Malformed> {
    v1::ServerMessage { kind: Some(kind) }.try_into()
}

#[track_caller]
fn assert_malformed<T: std::fmt::Debug>(result: Result<T, Malformed>, request_id: Option<u64>, text: &str) {
    let malformed = result.expect_err("malformed");
    assert!(malformed.to_string().starts_with(text), "{malformed}\ninstead of\n{text}");
    assert_eq!(malformed.request_id, request_id);
}

fn begin() -> v1::Begin {
    v1::Begin { request_id: 7, gtid: gtid_bytes(), timeout_ms: 0, protocol: 0, first_epoch: 0 }
}

fn commit() -> v1::Commit {
    v1::Commit { request_id: 7, gtid: gtid_bytes(), attempt: 1, ..v1::Commit::default() }
}

fn step_answer() -> v1::StepAnswer {
    v1::StepAnswer {
        gtid: gtid_bytes(),
        step: 0,
        compensation: false,
        attempt: 1,
        result: Some(v1::step_answer::Result::Done(Bytes::new())),
        epoch: 1,
        is_final: false,
    }
}

#[test]
fn an_empty_message() {
    assert_malformed(
        FromClient::try_from(v1::ClientMessage { kind: None }),
        None,
        "malformed ClientMessage: it is empty",
    );
    assert_malformed(
        FromReplica::try_from(v1::ServerMessage { kind: None }),
        None,
        "malformed ServerMessage: it is empty",
    );
}

#[test]
fn a_gtid_that_is_none() {
    let short = v1::Begin { gtid: Bytes::from_static(b"short"), ..begin() };
    assert_malformed(read(ClientKind::Begin(short)), Some(7), "malformed Begin: gtid has 5 bytes: it is the 16 bytes");
    let text = v1::Begin { gtid: Bytes::from_static(GTID.as_bytes()), ..begin() };
    assert_malformed(read(ClientKind::Begin(text)), Some(7), "malformed Begin: gtid has 36 bytes");
    let zero = v1::Begin { gtid: Bytes::from_static(&[0; 16]), ..begin() };
    assert_malformed(
        read(ClientKind::Begin(zero)),
        Some(7),
        "malformed Begin: gtid 00000000000000000000000000000000: a gtid is a UUID of version 7",
    );
}

#[test]
fn every_message_with_a_gtid_checks_it() {
    let none = Bytes::new;
    let requests = [
        ("Begin", ClientKind::Begin(v1::Begin { gtid: none(), ..begin() })),
        ("Commit", ClientKind::Commit(v1::Commit { gtid: none(), ..commit() })),
        ("Abort", ClientKind::Abort(v1::Abort { request_id: 7, ..v1::Abort::default() })),
        ("StartSaga", ClientKind::StartSaga(v1::StartSaga { request_id: 7, attempt: 1, ..v1::StartSaga::default() })),
        ("Await", ClientKind::Await(v1::Await { request_id: 7, ..v1::Await::default() })),
        ("Enlist", ClientKind::Enlist(v1::Enlist { request_id: 7, vote: 1, ..v1::Enlist::default() })),
    ];
    for (name, kind) in requests {
        assert_malformed(read(kind), Some(7), &format!("malformed {name}: gtid has 0 bytes"));
    }
    let others = [
        ("Vote", ClientKind::Vote(v1::Vote { vote: 1, ..v1::Vote::default() })),
        ("Acknowledge", ClientKind::Acknowledge(v1::Acknowledge { result: 1, ..v1::Acknowledge::default() })),
        ("Inquire", ClientKind::Inquire(v1::Inquire::default())),
        ("StepAnswer", ClientKind::StepAnswer(v1::StepAnswer { gtid: none(), ..step_answer() })),
    ];
    for (name, kind) in others {
        assert_malformed(read(kind), None, &format!("malformed {name}: gtid has 0 bytes"));
    }
    let orders = [
        ("Prepare", ServerKind::Prepare(v1::Prepare::default())),
        ("CommitBranch", ServerKind::CommitBranch(v1::CommitBranch::default())),
        ("AbortBranch", ServerKind::AbortBranch(v1::AbortBranch::default())),
        ("ExecuteStep", ServerKind::ExecuteStep(v1::ExecuteStep::default())),
        ("CompensateStep", ServerKind::CompensateStep(v1::CompensateStep::default())),
    ];
    for (name, kind) in orders {
        assert_malformed(read_back(kind), None, &format!("malformed {name}: gtid has 0 bytes"));
    }
}

#[test]
fn a_name_that_is_none() {
    let hello = v1::Hello { participant: "Inventory".into(), instance_id: 1, ..v1::Hello::default() };
    assert_malformed(
        read(ClientKind::Hello(hello)),
        None,
        "malformed Hello: participant \"Inventory\" is not a name: use 1 to 63 of a-z 0-9 - _ .",
    );
    for name in ["", "a b", "é", &"x".repeat(1_000_000)] {
        let branches = vec![v1::CarriedBranch { participant: name.into(), payload: Bytes::new() }];
        let malformed = read(ClientKind::Commit(v1::Commit { branches, ..commit() })).expect_err("no name");
        assert_eq!(malformed.request_id, Some(7));
        assert!(malformed.problem.starts_with("participant \""), "{malformed}");
        assert!(malformed.problem.len() < 300, "{} bytes", malformed.problem.len());
    }
}

#[test]
fn an_initiator_needs_no_instance_and_a_participant_does() {
    let initiator = v1::Hello { protocol_version: 1, ..v1::Hello::default() };
    assert!(read(ClientKind::Hello(initiator.clone())).is_ok());
    let participant = v1::Hello { participant: "bank-a".into(), ..initiator };
    assert_malformed(
        read(ClientKind::Hello(participant)),
        None,
        "malformed Hello: instance_id is 0: draw one at random",
    );
}

#[test]
fn an_attempt_or_epoch_of_zero() {
    let problem = "attempt is 0: count from 1";
    let forgotten = v1::Commit { attempt: 0, ..commit() };
    assert_malformed(read(ClientKind::Commit(forgotten)), Some(7), &format!("malformed Commit: {problem}"));
    let start = v1::StartSaga { request_id: 7, gtid: gtid_bytes(), ..v1::StartSaga::default() };
    assert_malformed(read(ClientKind::StartSaga(start)), Some(7), &format!("malformed StartSaga: {problem}"));
    let answer = v1::StepAnswer { attempt: 0, ..step_answer() };
    assert_malformed(read(ClientKind::StepAnswer(answer)), None, &format!("malformed StepAnswer: {problem}"));
    let answer = v1::StepAnswer { epoch: 0, ..step_answer() };
    assert_malformed(read(ClientKind::StepAnswer(answer)), None, "malformed StepAnswer: epoch is 0, which is nobody's");

    let order = v1::CommitBranch { gtid: gtid_bytes(), epoch: 0 };
    assert_malformed(read_back(ServerKind::CommitBranch(order)), None, "malformed CommitBranch: epoch is 0");
    assert_malformed(read_back(ServerKind::Welcome(v1::Welcome::default())), None, "malformed Welcome: epoch is 0");
    let order = v1::ExecuteStep { gtid: gtid_bytes(), epoch: 1, name: "flight".into(), ..v1::ExecuteStep::default() };
    assert_malformed(read_back(ServerKind::ExecuteStep(order)), None, &format!("malformed ExecuteStep: {problem}"));
}

#[test]
fn a_step_that_no_saga_has() {
    let last = v1::StepAnswer { step: 999, ..step_answer() };
    assert!(read(ClientKind::StepAnswer(last)).is_ok());
    for step in [1_000, 65_536, u32::MAX] {
        let text = format!("malformed StepAnswer: step is {step}, but a saga has at most 1000 steps");
        assert_malformed(read(ClientKind::StepAnswer(v1::StepAnswer { step, ..step_answer() })), None, &text);
    }
}

#[test]
fn an_unknown_enum_number_is_named() {
    let await_ = |wait| ClientKind::Await(v1::Await { request_id: 7, gtid: gtid_bytes(), wait });
    assert_malformed(read(await_(99)), Some(7), "malformed Await: wait is 99, which this version does not know");
    assert_malformed(read(await_(-1)), Some(7), "malformed Await: wait is -1, which this version does not know");
    let enlist = v1::Enlist { request_id: 7, gtid: gtid_bytes(), vote: 6 };
    assert_malformed(read(ClientKind::Enlist(enlist)), Some(7), "malformed Enlist: vote is 6, which");
    let vote = v1::Vote { gtid: gtid_bytes(), vote: 6, reason: String::new() };
    assert_malformed(read(ClientKind::Vote(vote)), None, "malformed Vote: vote is 6, which");
    let acknowledge = v1::Acknowledge { gtid: gtid_bytes(), result: 4 };
    assert_malformed(read(ClientKind::Acknowledge(acknowledge)), None, "malformed Acknowledge: result is 4, which");
    let reached = v1::OutcomeReached { outcome: 5, ..v1::OutcomeReached::default() };
    let reply = v1::Reply { request_id: 7, kind: Some(v1::reply::Kind::Outcome(reached)) };
    assert_malformed(read_back(ServerKind::Reply(reply)), Some(7), "malformed Reply: outcome is 5, which");
}

#[test]
fn an_unspecified_wait_is_for_the_decision() {
    for (number, wait) in [(0, Wait::Decided), (1, Wait::Decided), (2, Wait::Ended)] {
        let message = v1::Await { request_id: 7, gtid: gtid_bytes(), wait: number };
        let expected = FromClient::request(7, gtid(), Ask::Await { wait });
        assert_eq!(read(ClientKind::Await(message)), Ok(expected));
    }
}

#[test]
fn a_verdict_or_answer_that_is_not_given() {
    let vote = v1::Vote { gtid: gtid_bytes(), ..v1::Vote::default() };
    assert_malformed(read(ClientKind::Vote(vote)), None, "malformed Vote: vote is not given");
    let acknowledge = v1::Acknowledge { gtid: gtid_bytes(), result: 0 };
    assert_malformed(read(ClientKind::Acknowledge(acknowledge)), None, "malformed Acknowledge: result is not given");
    let answer = v1::StepAnswer { result: None, ..step_answer() };
    assert_malformed(
        read(ClientKind::StepAnswer(answer)),
        None,
        "malformed StepAnswer: result is not given: set exactly",
    );
    let answer = v1::StepAnswer { is_final: true, ..step_answer() };
    let problem = "malformed StepAnswer: is_final is set, and the result is not refused";
    assert_malformed(read(ClientKind::StepAnswer(answer)), None, problem);
    let empty = v1::Reply { request_id: 7, kind: None };
    assert_malformed(read_back(ServerKind::Reply(empty)), Some(7), "malformed Reply: it is empty");
    let reply = v1::Reply { request_id: 7, kind: Some(v1::reply::Kind::Outcome(v1::OutcomeReached::default())) };
    assert_malformed(read_back(ServerKind::Reply(reply)), Some(7), "malformed Reply: outcome is not given");
    assert!(Outcome::try_from(v1::Outcome::Unspecified).is_err());
    assert!(Protocol::try_from(v1::Protocol::Unspecified).is_err());
    for protocol in [Protocol::TwoPhase, Protocol::ThreePhase, Protocol::Saga] {
        assert_eq!(Protocol::try_from(v1::Protocol::from(protocol)), Ok(protocol));
    }
}

#[test]
fn only_a_prepared_branch_enlists() {
    for vote in [v1::VoteKind::Unspecified, v1::VoteKind::No, v1::VoteKind::Unknown, v1::VoteKind::Committed] {
        let enlist = v1::Enlist { request_id: 7, gtid: gtid_bytes(), vote: vote.into() };
        let text = format!("malformed Enlist: vote is {}, but only a branch that is prepared", vote.as_str_name());
        assert_malformed(read(ClientKind::Enlist(enlist)), Some(7), &text);
    }
}

#[test]
fn a_refusal_has_the_code_of_an_error() {
    for code in [0, 17, u32::MAX] {
        let refused = v1::Refused { code, ..v1::Refused::default() };
        let reply = v1::Reply { request_id: 7, kind: Some(v1::reply::Kind::Refused(refused)) };
        let text = format!("malformed Reply: code is {code}: the gRPC codes of an error are 1 to 16");
        assert_malformed(read_back(ServerKind::Reply(reply)), Some(7), &text);
    }
}

#[test]
fn an_abort_code_of_a_newer_peer_is_kept_in_the_message() {
    let newer = v1::AbortReason { code: "NEW_CODE".into(), participant: "bank-a".into(), message: "why".into() };
    let bank = Name::new("bank-a").expect("a name");
    assert_eq!(AbortReason::try_from(newer), Ok(AbortReason::by(AbortCode::Forgotten, &bank, "\"NEW_CODE\": why")));
    let unfit = v1::AbortReason { code: "REFUSED".into(), participant: "Bank A".into(), message: String::new() };
    let reached = v1::OutcomeReached { outcome: 2, reason: Some(unfit), outputs: Vec::new() };
    let reply = v1::Reply { request_id: 7, kind: Some(v1::reply::Kind::Outcome(reached)) };
    assert_malformed(
        read_back(ServerKind::Reply(reply)),
        Some(7),
        "malformed Reply: participant \"Bank A\" is not a name",
    );
}

#[test]
fn texts_for_people_become_one_short_line() {
    let hostile = format!("a\0b\u{1b}[2J{}", "x".repeat(1_000_000));
    let vote = |vote: v1::VoteKind| v1::Vote { gtid: gtid_bytes(), vote: vote.into(), reason: hostile.clone() };
    let abort = v1::Abort { request_id: 7, gtid: gtid_bytes(), reason: hostile.clone() };
    let answer = |result| v1::StepAnswer { result: Some(result), ..step_answer() };
    for kind in [
        ClientKind::Vote(vote(v1::VoteKind::No)),
        ClientKind::Vote(vote(v1::VoteKind::Unknown)),
        ClientKind::Abort(abort),
        ClientKind::StepAnswer(answer(v1::step_answer::Result::Refused(hostile.clone()))),
        ClientKind::StepAnswer(answer(v1::step_answer::Result::Unknown(hostile.clone()))),
        ClientKind::Hello(v1::Hello { sdk: hostile.clone(), ..v1::Hello::default() }),
    ] {
        let text = match read(kind).expect("fit but for its text") {
            FromClient::Branch(BranchReport {
                message: Message::Vote(Vote::No(reason) | Vote::Unknown(reason)),
                ..
            })
            | FromClient::Request(Request { ask: Ask::Abort { reason }, .. })
            | FromClient::Step(StepAnswer {
                result: StepResult::Refused(reason) | StepResult::Unknown(reason), ..
            }) => reason,
            FromClient::Hello(hello) => hello.sdk,
            other => panic!("{other:?}"),
        };
        assert!(text.starts_with("a b [2Jx"), "{text}");
        assert_eq!(text.len(), TEXT_BYTES_MAX);
    }
}

#[test]
fn a_word_means_the_same_on_both_sides() {
    fn name_of(word: impl std::fmt::Debug) -> String {
        format!("{word:?}").split('(').next().expect("a name").to_owned()
    }
    for outcome in [Outcome::Committed, Outcome::Aborted, Outcome::Completed, Outcome::Compensated] {
        assert_eq!(name_of(v1::Outcome::from(outcome)), name_of(outcome));
    }
    for protocol in [Protocol::TwoPhase, Protocol::ThreePhase, Protocol::Saga] {
        assert_eq!(name_of(v1::Protocol::from(protocol)), name_of(protocol));
    }
    for wait in [Wait::Decided, Wait::Ended] {
        assert_eq!(name_of(v1::Wait::from(wait)), name_of(wait));
    }
    for result in [BranchResult::Done, BranchResult::HeuristicCommitted, BranchResult::HeuristicAborted] {
        assert_eq!(name_of(v1::BranchResult::from(result)), name_of(result));
    }
    for vote in [Vote::Yes, Vote::ReadOnly, Vote::No("why".into()), Vote::Unknown("why".into()), Vote::Committed] {
        let message = FromClient::branch(gtid(), Message::Vote(vote.clone())).into();
        let v1::ClientMessage { kind: Some(ClientKind::Vote(written)) } = message else { panic!("{message:?}") };
        assert_eq!(name_of(written.vote()), name_of(vote));
    }
    for vote in [EarlyVote::Yes, EarlyVote::ReadOnly] {
        let message = FromClient::request(7, gtid(), Ask::Enlist { vote }).into();
        let v1::ClientMessage { kind: Some(ClientKind::Enlist(written)) } = message else { panic!("{message:?}") };
        assert_eq!(name_of(written.vote()), name_of(vote));
    }
}

#[test]
fn the_secret_is_not_printed() {
    let hello = v1::Hello { token: "hunter2".into(), ..v1::Hello::default() };
    let printed = format!("{:?}", read(ClientKind::Hello(hello)).expect("fit"));
    assert!(printed.contains("token") && !printed.contains("hunter2"), "{printed}");
}
