//! Each message that cannot be meant, and what is said about it.

use assent_protocol::branch::{Acknowledgement, HookEnd};
use assent_protocol::{AbortCode, Decision, Protocol};
use v1::acknowledge::End;
use v1::branch_order::Kind as OrderKind;
use v1::branch_report::Kind as ReportKind;
use v1::client_message::Kind as ClientKind;
use v1::request::Ask as AskKind;
use v1::server_message::Kind as ServerKind;
use v1::voter_report::Kind as VoterKind;

use super::*;
use crate::text::TEXT_BYTES_MAX;

fn read(kind: ClientKind) -> Result<FromClient, Malformed> {
    v1::ClientMessage { kind: Some(kind) }.try_into()
}

fn read_back(kind: ServerKind) -> Result<FromReplica, Malformed> {
    v1::ServerMessage { kind: Some(kind) }.try_into()
}

/// A request of the number 7.
pub(super) fn read_request(ask: AskKind) -> Result<FromClient, Malformed> {
    read(ClientKind::Request(v1::Request { request_id: 7, gtid: gtid_bytes(), ask: Some(ask) }))
}

fn read_report(kind: ReportKind) -> Result<FromClient, Malformed> {
    read(ClientKind::Branch(report(kind)))
}

fn report(kind: ReportKind) -> v1::BranchReport {
    v1::BranchReport { gtid: gtid_bytes(), branch: Some(BRANCH.into()), kind: Some(kind) }
}

fn order(kind: OrderKind) -> v1::BranchOrder {
    v1::BranchOrder { gtid: gtid_bytes(), branch: Some(BRANCH.into()), epoch: 7, kind: Some(kind) }
}

fn reports() -> [ReportKind; 3] {
    [
        ReportKind::Vote(v1::Vote { vote: v1::VoteKind::Yes.into(), reason: String::new() }),
        ReportKind::Acknowledge(acknowledge()),
        ReportKind::Inquire(v1::Inquire {}),
    ]
}

fn orders() -> [OrderKind; 3] {
    [
        OrderKind::Prepare(v1::Prepare::default()),
        OrderKind::Commit(v1::CommitBranch {}),
        OrderKind::Abort(v1::AbortBranch {}),
    ]
}

fn acknowledge() -> v1::Acknowledge {
    let end = Some(End::Result(v1::BranchResult::Done.into()));
    v1::Acknowledge { decision: v1::Decision::Commit.into(), epoch: 7, end }
}

fn enlist() -> v1::Enlist {
    v1::Enlist { branch: Some(BRANCH.into()), vote: v1::VoteKind::Yes.into() }
}

#[track_caller]
fn assert_malformed<T: std::fmt::Debug>(result: Result<T, Malformed>, request_id: Option<u64>, text: &str) {
    let malformed = result.expect_err("malformed");
    assert!(malformed.to_string().starts_with(text), "{malformed}\ninstead of\n{text}");
    assert_eq!(malformed.request_id, request_id);
}

fn begin(gtid: Bytes) -> ClientKind {
    let ask = Some(AskKind::Begin(v1::Begin::default()));
    ClientKind::Request(v1::Request { request_id: 7, gtid, ask })
}

fn commit() -> v1::Commit {
    v1::Commit { attempt: 1, ..v1::Commit::default() }
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
fn a_message_whose_subject_is_empty() {
    let request = v1::Request { request_id: 7, gtid: gtid_bytes(), ask: None };
    assert_malformed(read(ClientKind::Request(request)), Some(7), "malformed Request: it is empty");
    let report = v1::BranchReport { gtid: gtid_bytes(), branch: Some(BRANCH.into()), kind: None };
    assert_malformed(read(ClientKind::Branch(report)), None, "malformed BranchReport: it is empty");
    let report = v1::VoterReport { gtid: gtid_bytes(), kind: None };
    assert_malformed(read(ClientKind::Voter(report)), None, "malformed VoterReport: it is empty");
    let order = v1::BranchOrder { gtid: gtid_bytes(), branch: Some(BRANCH.into()), epoch: 7, kind: None };
    assert_malformed(read_back(ServerKind::Branch(order)), None, "malformed BranchOrder: it is empty");
}

#[test]
fn a_gtid_that_is_none() {
    let short = begin(Bytes::from_static(b"short"));
    assert_malformed(read(short), Some(7), "malformed Request: gtid has 5 bytes: it is the 16 bytes");
    let text = begin(Bytes::from_static(GTID.as_bytes()));
    assert_malformed(read(text), Some(7), "malformed Request: gtid has 36 bytes");
    let zero = begin(Bytes::from_static(&[0; 16]));
    assert_malformed(
        read(zero),
        Some(7),
        "malformed Request: gtid 00000000000000000000000000000000: a gtid is a UUID of version 7",
    );
}

#[test]
fn every_message_with_a_gtid_checks_it() {
    let none = Bytes::new;
    assert_malformed(read(begin(none())), Some(7), "malformed Request: gtid has 0 bytes");
    let vote = report(ReportKind::Inquire(v1::Inquire {}));
    let others = [
        ("BranchReport", ClientKind::Branch(v1::BranchReport { gtid: none(), ..vote })),
        ("StepAnswer", ClientKind::Step(v1::StepAnswer { gtid: none(), ..step_answer() })),
        ("VoterReport", ClientKind::Voter(v1::VoterReport::default())),
    ];
    for (name, kind) in others {
        assert_malformed(read(kind), None, &format!("malformed {name}: gtid has 0 bytes"));
    }
    let orders = [
        ("BranchOrder", ServerKind::Branch(v1::BranchOrder::default())),
        ("ExecuteStep", ServerKind::ExecuteStep(v1::ExecuteStep::default())),
        ("CompensateStep", ServerKind::CompensateStep(v1::CompensateStep::default())),
    ];
    for (name, kind) in orders {
        assert_malformed(read_back(kind), None, &format!("malformed {name}: gtid has 0 bytes"));
    }
}

#[test]
fn every_message_about_a_branch_names_it() {
    let problem = "branch is not given: it is the id of the branch";
    for kind in reports() {
        let unnamed = v1::BranchReport { branch: None, ..report(kind) };
        assert_malformed(read(ClientKind::Branch(unnamed)), None, &format!("malformed BranchReport: {problem}"));
    }
    for kind in orders() {
        let unnamed = v1::BranchOrder { branch: None, ..order(kind) };
        assert_malformed(read_back(ServerKind::Branch(unnamed)), None, &format!("malformed BranchOrder: {problem}"));
    }
    let unnamed = v1::Enlist { branch: None, ..enlist() };
    assert_malformed(read_request(AskKind::Enlist(unnamed)), Some(7), &format!("malformed Enlist: {problem}"));
    let ask = v1::AskLog { branch: None, request: Some(v1::VoterRequest::default()) };
    let ask = v1::VoterReport { gtid: gtid_bytes(), kind: Some(VoterKind::AskLog(ask)) };
    assert_malformed(read(ClientKind::Voter(ask)), None, &format!("malformed AskLog: {problem}"));
}

/// One that was prepared before branches had an id, and one whose participant knew no epoch.
#[test]
fn a_branch_of_epoch_0_reports_like_others() {
    for number in [0, 1] {
        for kind in reports() {
            let old = v1::BranchReport { branch: Some(v1::BranchId { number, epoch: 0 }), ..report(kind) };
            let read = read(ClientKind::Branch(old)).expect("fit");
            let FromClient::Branch(read) = read else { panic!("{read:?}") };
            assert_eq!(read.branch, BranchId { number, epoch: Epoch(0) });
        }
    }
}

#[test]
fn an_acknowledgement_says_of_what_and_how_it_ended() {
    let acknowledged = |changed| read_report(ReportKind::Acknowledge(changed));
    for (changed, problem) in [
        (v1::Acknowledge { decision: 0, ..acknowledge() }, "decision is not given"),
        (v1::Acknowledge { decision: 3, ..acknowledge() }, "decision is 3, which this version does not know"),
        (v1::Acknowledge { end: None, ..acknowledge() }, "end is not given: set exactly one of result, failure"),
        (v1::Acknowledge { end: Some(End::Result(0)), ..acknowledge() }, "result is not given"),
        (v1::Acknowledge { end: Some(End::Result(4)), ..acknowledge() }, "result is 4, which"),
    ] {
        assert_malformed(acknowledged(changed), None, &format!("malformed Acknowledge: {problem}"));
    }
    let failed = v1::Acknowledge { end: Some(End::Failure("disk\nfull".into())), ..acknowledge() };
    let end = HookEnd::Failed("disk full".into());
    let read = Message::Acknowledge(Acknowledgement { decision: Decision::Commit, epoch: Epoch(7), end });
    assert_eq!(acknowledged(failed), Ok(FromClient::branch(gtid(), BRANCH, read)));
    // A branch that has followed its peers was ordered by no replica.
    let unordered = acknowledged(v1::Acknowledge { epoch: 0, ..acknowledge() });
    assert!(matches!(unordered, Ok(FromClient::Branch(_))), "{unordered:?}");
}

#[test]
fn a_client_speaks_a_range_of_versions() {
    let hello = |newest, oldest| {
        let hello = v1::Hello { protocol_version: newest, protocol_version_min: oldest, ..v1::Hello::default() };
        read(ClientKind::Hello(hello))
    };
    for (newest, oldest, expected) in [(2, 2, 2..=2), (3, 1, 1..=3), (1, 0, 1..=1), (0, 0, 0..=0)] {
        let Ok(FromClient::Hello(read)) = hello(newest, oldest) else { panic!("a fit Hello") };
        assert_eq!(read.protocol_versions, expected);
    }
    for (newest, oldest) in [(2, 3), (0, 1)] {
        let text = format!("malformed Hello: protocol_version_min is {oldest} and protocol_version {newest}: ");
        assert_malformed(hello(newest, oldest), None, &text);
    }
    let welcome = v1::Welcome { epoch: 1, ..v1::Welcome::default() };
    let text = "malformed Welcome: protocol_version is not given";
    assert_malformed(read_back(ServerKind::Welcome(welcome)), None, text);
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
        let malformed = read_request(AskKind::Commit(v1::Commit { branches, ..commit() })).expect_err("no name");
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
    assert_malformed(read_request(AskKind::Commit(forgotten)), Some(7), &format!("malformed Commit: {problem}"));
    let start = AskKind::StartSaga(v1::StartSaga::default());
    assert_malformed(read_request(start), Some(7), &format!("malformed StartSaga: {problem}"));
    let answer = v1::StepAnswer { attempt: 0, ..step_answer() };
    assert_malformed(read(ClientKind::Step(answer)), None, &format!("malformed StepAnswer: {problem}"));
    let answer = v1::StepAnswer { epoch: 0, ..step_answer() };
    assert_malformed(read(ClientKind::Step(answer)), None, "malformed StepAnswer: epoch is 0, which no replica has");

    for kind in orders() {
        let order = v1::BranchOrder { epoch: 0, ..order(kind) };
        assert_malformed(read_back(ServerKind::Branch(order)), None, "malformed BranchOrder: epoch is 0");
    }
    let welcome = v1::Welcome { protocol_version: 2, ..v1::Welcome::default() };
    assert_malformed(read_back(ServerKind::Welcome(welcome)), None, "malformed Welcome: epoch is 0");
    let order = v1::ExecuteStep { gtid: gtid_bytes(), epoch: 1, name: "flight".into(), ..v1::ExecuteStep::default() };
    assert_malformed(read_back(ServerKind::ExecuteStep(order)), None, &format!("malformed ExecuteStep: {problem}"));
}

#[test]
fn a_step_that_no_saga_has() {
    let last = v1::StepAnswer { step: 999, ..step_answer() };
    assert!(read(ClientKind::Step(last)).is_ok());
    for step in [1_000, 65_536, u32::MAX] {
        let text = format!("malformed StepAnswer: step is {step}, but a saga has at most 1000 steps");
        assert_malformed(read(ClientKind::Step(v1::StepAnswer { step, ..step_answer() })), None, &text);
    }
}

#[test]
fn an_unknown_enum_number_is_named() {
    for wait in [99, -1] {
        let text = format!("malformed Await: wait is {wait}, which this version does not know");
        assert_malformed(read_request(AskKind::Await(v1::Await { wait })), Some(7), &text);
    }
    let enlist = v1::Enlist { vote: 6, ..enlist() };
    assert_malformed(read_request(AskKind::Enlist(enlist)), Some(7), "malformed Enlist: vote is 6, which");
    let vote = v1::Vote { vote: 6, reason: String::new() };
    assert_malformed(read_report(ReportKind::Vote(vote)), None, "malformed Vote: vote is 6, which");
    let reached = v1::OutcomeReached { outcome: 5, ..v1::OutcomeReached::default() };
    let reply = v1::Reply { request_id: 7, kind: Some(v1::reply::Kind::Outcome(reached)) };
    assert_malformed(read_back(ServerKind::Reply(reply)), Some(7), "malformed Reply: outcome is 5, which");
}

#[test]
fn an_unspecified_wait_is_for_the_decision() {
    for (number, wait) in [(0, Wait::Decided), (1, Wait::Decided), (2, Wait::Ended)] {
        let expected = FromClient::request(7, gtid(), Ask::Await { wait });
        assert_eq!(read_request(AskKind::Await(v1::Await { wait: number })), Ok(expected));
    }
}

#[test]
fn a_verdict_or_answer_that_is_not_given() {
    let vote = ReportKind::Vote(v1::Vote::default());
    assert_malformed(read_report(vote), None, "malformed Vote: vote is not given");
    let answer = v1::StepAnswer { result: None, ..step_answer() };
    assert_malformed(read(ClientKind::Step(answer)), None, "malformed StepAnswer: result is not given: set exactly");
    let answer = v1::StepAnswer { is_final: true, ..step_answer() };
    let problem = "malformed StepAnswer: is_final is set, and the result is not refused";
    assert_malformed(read(ClientKind::Step(answer)), None, problem);
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
        let enlist = v1::Enlist { vote: vote.into(), ..enlist() };
        let text = format!("malformed Enlist: vote is {}, but only a branch that is prepared", vote.as_str_name());
        assert_malformed(read_request(AskKind::Enlist(enlist)), Some(7), &text);
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
    let vote = |vote: v1::VoteKind| {
        ClientKind::Branch(report(ReportKind::Vote(v1::Vote { vote: vote.into(), reason: hostile.clone() })))
    };
    let failed = v1::Acknowledge { end: Some(End::Failure(hostile.clone())), ..acknowledge() };
    let ask = Some(AskKind::Abort(v1::Abort { reason: hostile.clone() }));
    let answer = |result| v1::StepAnswer { result: Some(result), ..step_answer() };
    for kind in [
        vote(v1::VoteKind::No),
        vote(v1::VoteKind::Unknown),
        ClientKind::Branch(report(ReportKind::Acknowledge(failed))),
        ClientKind::Request(v1::Request { request_id: 7, gtid: gtid_bytes(), ask }),
        ClientKind::Step(answer(v1::step_answer::Result::Refused(hostile.clone()))),
        ClientKind::Step(answer(v1::step_answer::Result::Unknown(hostile.clone()))),
        ClientKind::Hello(v1::Hello { sdk: hostile.clone(), ..v1::Hello::default() }),
    ] {
        let text = match read(kind).expect("fit but for its text") {
            FromClient::Branch(BranchReport {
                message:
                    Message::Vote(Vote::No(reason) | Vote::Unknown(reason))
                    | Message::Acknowledge(Acknowledgement { end: HookEnd::Failed(reason), .. }),
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
        let written = ReportKind::from(Message::Vote(vote.clone()));
        let ReportKind::Vote(written) = written else { panic!("{written:?}") };
        assert_eq!(name_of(written.vote()), name_of(vote));
    }
    for vote in [EarlyVote::Yes, EarlyVote::ReadOnly] {
        let written = AskKind::from(Ask::Enlist { branch: BRANCH, vote });
        let AskKind::Enlist(written) = written else { panic!("{written:?}") };
        assert_eq!(name_of(written.vote()), name_of(vote));
    }
}

/// A client of version 1 reaches the refusal of its version, even if its first frame goes on behind
/// Hello.
#[test]
fn a_frame_of_version_1_is_read_up_to_its_hello() {
    let hello = b"\x0a\x0a\x0a\x08\x0a\x02me\x10\x05\x18\x01";
    let begin = [&b"\x0a\x16\x1a\x14\x08\x07\x12\x10"[..], gtid().as_bytes()].concat();
    let frame = v1::ExchangeRequest::decode([&hello[..], &begin].concat().as_slice()).expect("decodable");
    let [hello, begin] = <[_; 2]>::try_from(frame.messages).expect("two messages");
    let Ok(FromClient::Hello(hello)) = FromClient::try_from(hello) else { panic!("a fit Hello") };
    assert_eq!(hello.protocol_versions, 1..=1);
    assert_malformed(FromClient::try_from(begin), None, "malformed ClientMessage: it is empty, or of a kind that");
}

#[test]
fn the_secret_is_not_printed() {
    let hello = v1::Hello { token: "hunter2".into(), ..v1::Hello::default() };
    let printed = format!("{:?}", read(ClientKind::Hello(hello)).expect("fit"));
    assert!(printed.contains("token") && !printed.contains("hunter2"), "{printed}");
}
