//! Any payload at all.

use assent_protocol::fuzz::{self, Tape};

use super::*;

/// Reads a vote from a payload that says anything. A vote that is written is read; whatever else is read is read as the same once more.
///
/// # Panics
/// If that is not so.
pub fn voter_payload(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let record = fuzz::record(tape);
    let written = Rest::of(&record).payload(&record).bytes();
    assert_eq!(decode(record.gtid, &written).expect("just written"), record);
    if let Ok(read) = decode(record.gtid, &tape.damaged(written.to_vec())) {
        let anew = Rest::of(&read).payload(&read).bytes();
        assert_eq!(decode(read.gtid, &anew).expect("just written"), read);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_payload_reads_or_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            super::voter_payload(&bytes);
        }
    }
}
