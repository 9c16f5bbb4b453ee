//! Any bytes at all, for every decoder of this crate.
//!
//! Each function takes what a peer may send. It is read or refused, without a panic; and what is read is strict indeed: written again, it is read as
//! the same. Tests call these with messages that they have damaged, and the targets in `fuzz/` with whatever a fuzzer comes upon.

use std::fmt::Debug;

use http::{HeaderMap, HeaderValue};
use prost::Message;
use tonic::{Code, Status};

use crate::context::{COORDINATOR_HEADER, Context, DEADLINE_HEADER, EPOCH_HEADER, GTID_HEADER};
use crate::error::{IntoStatus, refusal_of};
use crate::session::{FromClient, FromReplica};
use crate::v1;
use crate::voter::PeerQuestion;

/// A frame of a session, in either direction.
///
/// # Panics
/// If what is read is not read as the same once more.
pub fn session(bytes: &[u8]) {
    if let Ok(frame) = v1::ExchangeRequest::decode(bytes) {
        frame.messages.into_iter().for_each(again::<v1::ClientMessage, FromClient>);
    }
    if let Ok(frame) = v1::ExchangeResponse::decode(bytes) {
        frame.messages.into_iter().for_each(again::<v1::ServerMessage, FromReplica>);
    }
}

/// What voters ask and answer one another.
///
/// # Panics
/// If what is read is not read as the same once more.
pub fn peers(bytes: &[u8]) {
    if let Ok(asked) = v1::AskRequest::decode(bytes) {
        again::<_, PeerQuestion>(asked);
    }
    if let Ok(v1::AskResponse { answer: Some(answer) }) = v1::AskResponse::decode(bytes) {
        again::<_, assent_protocol::three_phase::Answer>(answer);
    }
    if let Ok(roster) = v1::Roster::decode(bytes) {
        again::<_, assent_protocol::three_phase::Roster>(roster);
    }
}

/// The headers of a transaction's context: gtid, coordinator, deadline and epoch, each on a line of its
/// own.
///
/// # Panics
/// If what is read is not read as the same once more.
pub fn context(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for (header, value) in
        [GTID_HEADER, COORDINATOR_HEADER, DEADLINE_HEADER, EPOCH_HEADER].into_iter().zip(bytes.split(|b| *b == b'\n'))
    {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(header, value);
        }
    }
    if let Ok(Some(context)) = Context::read(&headers) {
        let mut again = HeaderMap::new();
        context.write(&mut again).expect("it was read");
        assert_eq!(Context::read(&again), Ok(Some(context)));
    }
}

/// The details of a call's status, behind its code and a line of message.
///
/// # Panics
/// If a refusal does not survive being passed on.
pub fn status(bytes: &[u8]) {
    let (code, rest) = bytes.split_first().map_or((0, bytes), |(code, rest)| (i32::from(*code), rest));
    let at = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (message, details) = rest.split_at(at);
    let message = String::from_utf8_lossy(message);
    let details = details.get(1..).unwrap_or_default().to_vec();
    let status = Status::with_details(Code::from_i32(code), message, details.into());
    if let Some(refused) = refusal_of(&status) {
        let passed_on = refusal_of(&refused.clone().into_status()).expect("it is ours");
        assert_eq!((passed_on.code, &passed_on.reason), (refused.code, &refused.reason));
        assert!(
            refused.message.starts_with(passed_on.message.trim_end_matches('\u{2026}')),
            "{refused:?} {passed_on:?}"
        );
        assert_eq!(refusal_of(&passed_on.clone().into_status()), Some(passed_on));
    }
}

/// What was read is written and read as the same.
fn again<W, S>(wire: W)
where
    W: Message + Default + From<S>,
    S: TryFrom<W> + Clone + PartialEq + Debug,
    S::Error: Debug,
{
    if let Ok(strict) = S::try_from(wire) {
        let bytes = W::from(strict.clone()).encode_to_vec();
        let wire = W::decode(bytes.as_slice()).expect("it was encoded just now");
        assert_eq!(S::try_from(wire).expect("it was strict"), strict);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::error::Reason;
    use crate::session::Refused;
    use crate::session::tests::{damage, messages};

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_000), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_questions_and_answers_of_voters_are_read_or_refused(
            gtid in any::<[u8; 16]>(),
            request in messages::any_request(),
            answer in messages::any_answer(),
            damages in damage(),
        ) {
            let asked = v1::AskRequest {
                gtid: gtid.to_vec().into(),
                from: "bank".to_owned(),
                to: "till".to_owned(),
                request: Some(request.into()),
            };
            let answered = v1::AskResponse { answer: Some(answer.into()) };
            for bytes in [asked.encode_to_vec(), answered.encode_to_vec()] {
                peers(&bytes);
                peers(&damages.of(bytes));
            }
        }

        #[test]
        fn damaged_statuses_are_read_or_left_alone(
            reason in proptest::sample::select(Reason::ALL.to_vec()),
            message in "\\PC{0,40}",
            retry_after_ms in proptest::option::of(any::<u64>()),
            damages in damage(),
        ) {
            let refused = Refused { retry_after_ms, ..reason.refused(message) };
            let made = refused.into_status();
            let bytes = [&[made.code() as u8], made.message().as_bytes(), b"\n", made.details()].concat();
            status(&bytes);
            status(&damages.of(bytes));
        }

        #[test]
        fn anything_at_all_is_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            session(&bytes);
            peers(&bytes);
            context(&bytes);
            status(&bytes);
        }

        #[test]
        fn a_damaged_context_is_read_or_refused(damages in damage()) {
            context(&damages.of(b"01890a5d-ac96-774b-bcce-b302099a8057\nhttp://coordinator-1:7420\n1767225600000\n7".to_vec()));
        }
    }
}
