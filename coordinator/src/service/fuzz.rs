//! Any request at all.

use assent_proto::v1;
use assent_protocol::fuzz::{self, Tape};
use prost::Message;

use super::check;
use super::listing::{self, Wanted};
use crate::driver::Limits;

/// Reads requests of unary calls that say anything: they are taken, or refused in words.
///
/// # Panics
/// If something else comes of it.
pub fn requests(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let limits = Limits::default();
    match tape.below(3) {
        0 => {
            let request = v1::ListTransactionsRequest {
                participant: tape.participant().into(),
                page_size: tape.number_32(),
                page_token: tape.damaged_text(format!("open-{}", fuzz::gtid().as_uuid().simple())),
                ..Default::default()
            };
            listing::fuzz::position(&request.page_token);
            if let Ok(request) = v1::ListTransactionsRequest::decode(tape.damaged(request.encode_to_vec()).as_slice())
                && let Err(refused) = Wanted::try_from(request)
            {
                assert!(!refused.message.is_empty());
            }
        }
        1 => {
            let branch = v1::CommitBranchRequest { participant: tape.participant().into(), payload: vec![1].into() };
            let request = v1::CommitRequest {
                gtid: fuzz::gtid().to_string(),
                branches: vec![branch.clone(), branch],
                ..Default::default()
            };
            if let Ok(request) = v1::CommitRequest::decode(tape.damaged(request.encode_to_vec()).as_slice()) {
                check::gtid(&request.gtid).ok();
                check::branches(&limits, request.branches).ok();
            }
        }
        _ => {
            let definition = v1::SagaDefinition::from(fuzz::definition(tape));
            assert!(check::definition(&limits, Some(definition.clone())).is_ok(), "{definition:?}");
            if let Ok(definition) = v1::SagaDefinition::decode(tape.damaged(definition.encode_to_vec()).as_slice())
                && let Ok(read) = check::definition(&limits, Some(definition))
            {
                let again = check::definition(&limits, Some(read.clone().into()));
                assert_eq!(again.expect("it was taken"), read);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(3_000), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_request_is_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::requests(&bytes);
        }
    }
}
