//! What is no message, or no message that could be meant: it is refused, and nobody else notices.

use assent_proto::error::Reason;
use assent_proto::v1::acknowledge::End;
use assent_proto::v1::branch_report::Kind as Report;
use assent_proto::v1::client_message::Kind as Said;
use assent_proto::v1::reply::Kind as Answer;
use assent_proto::v1::request::Ask;
use assent_proto::v1::{self, BeginRequest, ClientMessage};
use bytes::{Buf, BufMut, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

use crate::harness::{
    Home, Session, begin, channel, commit, gtid_bytes, hello, nothing_is_left, refused, report, request, settled,
    transactions,
};

/// Some branch.
const BRANCH: v1::BranchId = v1::BranchId { number: 1, epoch: 1 };

fn voted(gtid: &Bytes, vote: i32) -> Said {
    report(gtid, BRANCH, Report::Vote(v1::Vote { vote, reason: String::new() }))
}

fn acknowledged(gtid: &Bytes, decision: i32, end: Option<End>) -> Said {
    report(gtid, BRANCH, Report::Acknowledge(v1::Acknowledge { decision, epoch: 1, end }))
}

/// Bytes as they are, in place of messages.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// What protobuf cannot read: a length beyond the end, a wire type that there is none, text that is no UTF-8.
const GARBAGE: [&[u8]; 4] = [&[0xff; 64], &[0x0a, 0x7f, 0x00], &[0x0f], &[0x0a, 0x02, 0xc3, 0x28]];

#[tokio::test]
async fn garbage_in_place_of_a_message() {
    let home = Home::new();
    let coordinator = home.start().await;
    let parts = ["cannot be read", "assent/v1/*.proto"];
    for garbage in GARBAGE {
        for method in [
            "/assent.v1.TransactionService/Begin",
            "/assent.v1.TransactionService/Commit",
            "/assent.v1.TransactionService/StartSaga",
            "/assent.v1.AdminService/GetTransaction",
        ] {
            let mut client = tonic::client::Grpc::new(channel(&coordinator).await);
            client.ready().await.expect("ready");
            let request = Request::new(Bytes::from_static(garbage));
            let answer = client.unary(request, method.parse().expect("a path"), Raw).await;
            refused(answer, Reason::Malformed, &parts);
        }
        let mut client = tonic::client::Grpc::new(channel(&coordinator).await);
        client.ready().await.expect("ready");
        // A client that stays: it is told all the same.
        let said = tokio_stream::iter([Bytes::from_static(garbage)]).chain(tokio_stream::pending());
        let path = "/assent.v1.SessionService/Exchange".parse().expect("a path");
        let mut heard = client.streaming(Request::new(said), path, Raw).await.expect("a stream").into_inner();
        refused(heard.message().await, Reason::Malformed, &parts);
    }
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn a_session_that_does_not_begin_with_hello() {
    let home = Home::new();
    let coordinator = home.start().await;
    let begin = || request(1, &gtid_bytes(), begin(0));
    for first in
        [vec![], vec![Said::Heartbeat(v1::Heartbeat {})], vec![begin()], vec![begin(), Said::Hello(hello("bank"))]]
    {
        let mut session = Session::dial(&coordinator).await;
        session.frame(first.into_iter().map(|kind| ClientMessage { kind: Some(kind) }).collect());
        session.expect_end(Reason::HelloExpected, &["first message of a session"]).await;
    }
    let mut session = Session::open(&coordinator, "bank").await;
    session.say(Said::Hello(hello("bank")));
    session.expect_end(Reason::HelloExpected, &["came twice", "send it once"]).await;
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn a_hello_that_is_none() {
    let home = Home::new();
    let coordinator = home.start().await;
    for (wrong, reason, part) in [
        (hello("Not A Name"), Reason::Malformed, "use 1 to 63 of a-z"),
        (hello(&"x".repeat(300)), Reason::Malformed, "use 1 to 63 of a-z"),
        (hello("bänk"), Reason::Malformed, "use 1 to 63 of a-z"),
        (hello("bank\0"), Reason::Malformed, "use 1 to 63 of a-z"),
        (v1::Hello { instance_id: 0, ..hello("bank") }, Reason::Malformed, "instance"),
        (v1::Hello { protocol_version: 0, ..hello("bank") }, Reason::ProtocolVersion, "set protocol_version in Hello"),
        (v1::Hello { protocol_version: 1, ..hello("bank") }, Reason::ProtocolVersion, "update the SDK to a version"),
        (v1::Hello { protocol_version: 99, ..hello("bank") }, Reason::ProtocolVersion, "update the coordinator"),
        (
            v1::Hello { protocol_version: 99, protocol_version_min: 98, ..hello("bank") },
            Reason::ProtocolVersion,
            "the client 98 to 99",
        ),
    ] {
        let mut session = Session::dial(&coordinator).await;
        session.say(Said::Hello(wrong));
        session.expect_end(reason, &[part]).await;
    }
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn a_request_that_says_something_impossible_is_refused_by_itself() {
    let home = Home::new();
    let coordinator = home.start().await;
    settled(&coordinator).await;
    let mut session = Session::open(&coordinator, "").await;
    let version_4 = Bytes::copy_from_slice(
        "f47ac10b-58cc-4372-a567-0e02b2c3d479".parse::<uuid::Uuid>().expect("a UUID").as_bytes(),
    );
    for (gtid, part) in [
        (Bytes::new(), "has 0 bytes: it is the 16 bytes of the UUID"),
        (Bytes::from_static(&[1; 15]), "has 15 bytes"),
        (Bytes::from_static(b"01890a5d-ac96-774b-bcce-b302099a8057"), "has 36 bytes"),
        (Bytes::from_static(&[0; 16]), "version 7"),
        (version_4, "version 7"),
    ] {
        let parts = [part];
        session.refused(Reason::Malformed, &parts, &gtid, begin(0)).await;
        session.refused(Reason::Malformed, &parts, &gtid, Ask::Abort(v1::Abort::default())).await;
        session.refused(Reason::Malformed, &parts, &gtid, Ask::Await(v1::Await { wait: 1 })).await;
    }
    let gtid = gtid_bytes();
    for (wrong, part) in [
        (v1::Commit { attempt: 0, ..commit(&[("bank", "x")]) }, "count from 1"),
        (v1::Commit { wait: 99, ..commit(&[("bank", "x")]) }, "wait is 99"),
        (v1::Commit { wait: -1, ..commit(&[("bank", "x")]) }, "wait is -1"),
        (commit(&[("", "x")]), "use 1 to 63 of a-z"),
        (commit(&[("Not A Name", "x")]), "use 1 to 63 of a-z"),
    ] {
        session.refused(Reason::Malformed, &[part], &gtid, Ask::Commit(wrong)).await;
    }
    for vote in [0, 3, 99] {
        let asked = Ask::Enlist(v1::Enlist { branch: Some(BRANCH), vote });
        session.refused(Reason::Malformed, &["vote"], &gtid, asked).await;
    }
    let nameless = Ask::Enlist(v1::Enlist { branch: None, vote: 1 });
    session.refused(Reason::Malformed, &["branch"], &gtid, nameless).await;
    // What only participants say.
    let asked = || Ask::Enlist(v1::Enlist { branch: Some(BRANCH), vote: 1 });
    session.refused(Reason::NotFound, &["begin anew"], &gtid, asked()).await;
    assert!(matches!(session.ask(&gtid, begin(0)).await, Answer::Begun(_)));
    session.refused(Reason::NotAParticipant, &["dial with a name"], &gtid, asked()).await;
    // The session has outlived all of it.
    assert!(matches!(session.ask(&gtid, Ask::Abort(v1::Abort::default())).await, Answer::Outcome(_)));
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn a_message_that_nobody_can_be_answered_for_ends_the_session() {
    let home = Home::new();
    let coordinator = home.start().await;
    settled(&coordinator).await;
    let gtid = gtid_bytes();
    for (wrong, part) in [
        (None, "set exactly one"),
        (Some(voted(&gtid, 99)), "vote is 99"),
        (Some(voted(&gtid, 0)), "vote"),
        (Some(voted(&Bytes::new(), 1)), "16 bytes"),
        (Some(acknowledged(&gtid, 1, Some(End::Result(99)))), "result is 99"),
        (Some(acknowledged(&gtid, 99, Some(End::Result(1)))), "decision is 99"),
        (Some(acknowledged(&gtid, 1, None)), "end"),
        (Some(report(&Bytes::from_static(&[7; 17]), BRANCH, Report::Inquire(v1::Inquire {}))), "17 bytes"),
        (
            Some(Said::Branch(v1::BranchReport {
                gtid: gtid.clone(),
                branch: None,
                kind: Some(Report::Inquire(v1::Inquire {})),
            })),
            "branch",
        ),
        (
            Some(Said::Branch(v1::BranchReport { gtid: gtid.clone(), branch: Some(BRANCH), kind: None })),
            "set exactly one",
        ),
        (Some(Said::Step(v1::StepAnswer { gtid: gtid.clone(), attempt: 1, epoch: 1, ..Default::default() })), "result"),
    ] {
        let mut session = Session::open(&coordinator, "bank").await;
        session.frame(vec![ClientMessage { kind: wrong }]);
        session.expect_end(Reason::Malformed, &["malformed", part]).await;
    }
    // Answers to what nobody asked for are no mistakes: they may be late.
    let mut session = Session::open(&coordinator, "bank").await;
    session.say(acknowledged(&gtid, 1, Some(End::Result(1))));
    session.say(acknowledged(&gtid, 2, Some(End::Failure("\0".repeat(100_000)))));
    session.say(report(&gtid, BRANCH, Report::Vote(v1::Vote { vote: 3, reason: "\0".repeat(100_000) })));
    assert!(matches!(session.ask(&gtid_bytes(), begin(1)).await, Answer::Begun(_)));
    nothing_is_left(&coordinator).await;
}

#[tokio::test]
async fn what_is_no_grpc_does_not_disturb_those_that_are_served() {
    let home = Home::new();
    let coordinator = home.start().await;
    settled(&coordinator).await;
    let mut served = Session::open(&coordinator, "").await;
    for said in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 4_096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense nonsense nonsense nonsense",
        b"",
    ] {
        let mut stream = TcpStream::connect(coordinator.address()).await.expect("it listens");
        stream.write_all(said).await.expect("written");
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        // Hung up on, in whatever words.
        tokio::time::timeout(crate::harness::PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed").ok();
    }
    // A header that is larger than headers may be, and one that says nothing sensible.
    let mut client = transactions(&coordinator).await;
    let mut large = Request::new(BeginRequest::default());
    large.metadata_mut().insert("assent-gtid", "x".repeat(64 * 1_024).parse().expect("a header"));
    client.begin(large).await.expect_err("too large");
    let mut odd = Request::new(BeginRequest { timeout_ms: 1, ..Default::default() });
    odd.metadata_mut().insert("grpc-timeout", "soon".parse().expect("a header"));
    odd.metadata_mut().insert("assent-deadline", "-1".parse().expect("a header"));
    transactions(&coordinator).await.begin(odd).await.expect("begun: calls to the coordinator have no context");
    assert!(matches!(served.ask(&gtid_bytes(), begin(1)).await, Answer::Begun(_)));
    nothing_is_left(&coordinator).await;
}
