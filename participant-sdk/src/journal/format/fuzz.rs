//! Any file at all.

use assent_protocol::fuzz::Tape;

use super::*;

const MARK: Mark = *b"\x91\x02\x13\x84\x75\x26\xd7\xee";

/// Reads a file of either kind that says anything: whole frames with any records in them, damaged and cut; or something else entirely. It reads or
/// is refused, and what reads is the same when it is written anew.
///
/// # Panics
/// If that is not so.
pub fn journal_file(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let kind = tape.pick(&[Kind::Journal, Kind::Voters]);
    let mut file = file_header(kind, &MARK);
    for _ in 0..tape.below(4) {
        file.extend(frame(&MARK, &body(tape)));
    }
    if let Ok(contents) = read(kind, &file) {
        assert_eq!(contents.whole_bytes, file.len(), "every frame is whole");
    }
    let file = tape.damaged(file);
    for kind in [Kind::Journal, Kind::Voters] {
        let Ok(contents) = read(kind, &file) else { continue };
        assert!(contents.whole_bytes <= file.len());
        let whole = read(kind, &file[..contents.whole_bytes]).expect("it was read, and what is torn is cut off");
        assert_eq!(whole.known, contents.known);
        let mut body = Vec::new();
        write_label(&mut body, &contents.known.label);
        for (branch, payload) in &contents.known.branches {
            write_prepared(&mut body, *branch, payload);
        }
        let anew = [file_header(kind, &contents.mark), frame(&contents.mark, &body)].concat();
        assert_eq!(read(kind, &anew).expect("just written").known, contents.known);
    }
}

/// What a frame may hold: records, and now and then anything.
fn body(tape: &mut Tape<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..tape.below(4) {
        let payload: Vec<u8> = (0..tape.below(20)).map(|_| tape.byte()).collect();
        let mut gtid = || {
            let mut gtid = *assent_protocol::fuzz::gtid().as_bytes();
            gtid[15] = tape.byte() % 3;
            Gtid::from_bytes(&gtid).expect("still of version 7")
        };
        let (gtid, like) = (gtid(), gtid());
        let id = BranchId { epoch: Epoch(u64::from(tape.byte() % 2)), number: u64::from(tape.byte() % 2) };
        let branch = BranchKey { gtid, id };
        match tape.below(12) {
            0..4 => write_prepared(&mut body, branch, &Bytes::from(payload).into()),
            4 | 5 => write_ended(&mut body, branch),
            6 => write_label(&mut body, &payload),
            7 | 8 => write_beginning(&mut body, gtid, &payload),
            9 | 10 => write_similar(&mut body, gtid, &payload, like),
            _ => body.extend(payload),
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_file_reads_or_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::journal_file(&bytes);
        }
    }
}
