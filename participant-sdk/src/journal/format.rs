//! The file's format, and how a file that a crash has cut short is told from one that has been damaged.
//!
//! ```text
//! file   = kind:8 mark:8 crc(file header):4  frame*
//! kind   = "ASSENTJ1" | "ASSENTV1"                  a participant's journal, its voter's store
//! frame  = mark:8 body_bytes:4 crc(frame header):4  crc(body):4  body
//! body   = record+
//! record = 'p' branch payload_bytes:4 payload       prepared
//!        | 'e' branch                               ended
//!        | 'P' gtid:16 payload_bytes:4 payload      the same of a branch without an identity; of a voter: this is what it keeps from now on
//!        | 'B' gtid:16 beginning_bytes:4 beginning  of a voter: what it keeps begins so from now on, and goes on as before
//!        | 'S' gtid:16 beginning_bytes:4 beginning like:16
//!                                                   of a voter: what it keeps begins so, and goes on like what it keeps of another
//!        | 'E' gtid:16                              ended, of a branch without an identity; of a voter: forgotten
//!        | 'L' label_bytes:4 label                  what the file as a whole is labelled with from now on
//! branch = gtid:16 epoch:8 number:8
//! ```
//! Numbers are little-endian. The mark is drawn for each file, so that nothing that a payload says looks like a frame.
//!
//! Zeros may follow the last frame.
//!
//! A frame is what was appended and flushed at once. Nobody was told that its records are durable before all of it was, so a torn
//! last frame may be dropped whole. A frame that does not read is torn if nothing readable comes behind it (the next frame
//! is only written once this one is flushed), and if it is shorter than it should be or has a sector of zeros, which is
//! what a crash leaves where data did not reach the disk. All else is damage, and is reported: it may have been durable.

use assent_protocol::{BranchId, BranchKey, BranchMap, Epoch, Gtid};
use bytes::Bytes;
use crc32c::crc32c;

use super::payload::{Beginning, Payload};

/// The length of what is drawn for each file, in bytes.
pub(super) const MARK_BYTES: usize = 8;
/// The length of the file's header, in bytes.
pub(super) const FILE_HEADER_BYTES: usize = 8 + MARK_BYTES + 4;
/// The length of a frame's header with both checksums, in bytes.
pub(super) const FRAME_HEADER_BYTES: usize = MARK_BYTES + 4 + 4 + 4;
/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

const BRANCH_PREPARED: u8 = b'p';
const BRANCH_ENDED: u8 = b'e';
const PREPARED: u8 = b'P';
const BEGINNING: u8 = b'B';
const SIMILAR: u8 = b'S';
const ENDED: u8 = b'E';
const LABEL: u8 = b'L';

/// What a file is for. One is never opened as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A participant's journal.
    Journal,
    /// The store of a participant's voter.
    Voters,
}

impl Kind {
    const fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Journal => b"ASSENTJ1",
            Self::Voters => b"ASSENTV1",
        }
    }
}

/// What is drawn for each file.
pub(super) type Mark = [u8; MARK_BYTES];

/// What is known about branches: those that are prepared and have not ended, with their payloads.
pub(crate) type Branches = BranchMap<Payload>;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) branches: Branches,
    /// Empty, unless one was written.
    pub(crate) label: Bytes,
}

/// A file's contents.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) mark: Mark,
    pub(super) known: Known,
    /// Where the last whole frame ends. What follows is torn.
    pub(super) whole_bytes: usize,
}

/// Why a file does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It ends within its header: it was being created.
    Unborn,
    /// It is no journal.
    Foreign,
    /// There is damage at this offset.
    Damaged {
        /// In bytes from the beginning.
        offset: usize,
    },
}

pub(super) fn file_header(kind: Kind, mark: &Mark) -> Vec<u8> {
    let mut header = Vec::with_capacity(FILE_HEADER_BYTES);
    header.extend_from_slice(kind.magic());
    header.extend_from_slice(mark);
    header.extend_from_slice(&crc32c(&header).to_le_bytes());
    header
}

pub(super) fn write_prepared(body: &mut Vec<u8>, key: BranchKey, payload: &Payload) {
    write_key(body, key, BRANCH_PREPARED, PREPARED);
    write_sized(body, payload.parts());
}

pub(super) fn write_beginning(body: &mut Vec<u8>, gtid: Gtid, beginning: &[u8]) {
    body.push(BEGINNING);
    body.extend_from_slice(gtid.as_bytes());
    write_sized(body, [beginning]);
}

pub(super) fn write_similar(body: &mut Vec<u8>, gtid: Gtid, beginning: &[u8], like: Gtid) {
    body.push(SIMILAR);
    body.extend_from_slice(gtid.as_bytes());
    write_sized(body, [beginning]);
    body.extend_from_slice(like.as_bytes());
}

pub(super) fn write_ended(body: &mut Vec<u8>, key: BranchKey) {
    write_key(body, key, BRANCH_ENDED, ENDED);
}

/// The kind of a record, and its branch. One without an identity has a kind of its own.
fn write_key(body: &mut Vec<u8>, BranchKey { gtid, id }: BranchKey, kind: u8, kind_without_id: u8) {
    body.push(if id.is_none() { kind_without_id } else { kind });
    body.extend_from_slice(gtid.as_bytes());
    if !id.is_none() {
        body.extend_from_slice(&id.epoch.0.to_le_bytes());
        body.extend_from_slice(&id.number.to_le_bytes());
    }
}

pub(super) fn write_label(body: &mut Vec<u8>, label: &[u8]) {
    body.push(LABEL);
    write_sized(body, [label]);
}

/// Bytes behind their length, as [`take_sized`] reads them.
fn write_sized<const N: usize>(body: &mut Vec<u8>, parts: [&[u8]; N]) {
    // Callers keep payloads far below 4 GiB.
    let length: usize = parts.iter().map(|part| part.len()).sum();
    body.extend_from_slice(&(length as u32).to_le_bytes());
    parts.iter().for_each(|part| body.extend_from_slice(part));
}

/// The bytes that a prepared record takes, beside its payload.
pub(super) const PREPARED_BYTES: usize = 1 + 16 + 16 + 4;

/// Makes a frame of a body that stands behind the room for its header.
pub(super) fn seal(mark: &Mark, frame: &mut [u8]) {
    let (header, body) = frame.split_at_mut(FRAME_HEADER_BYTES);
    let (fields, checksums) = header.split_at_mut(MARK_BYTES + 4);
    fields[..MARK_BYTES].copy_from_slice(mark);
    fields[MARK_BYTES..].copy_from_slice(&(body.len() as u32).to_le_bytes());
    checksums[..4].copy_from_slice(&crc32c(fields).to_le_bytes());
    checksums[4..].copy_from_slice(&crc32c(body).to_le_bytes());
}

pub(super) fn frame(mark: &Mark, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    frame.extend_from_slice(body);
    seal(mark, &mut frame);
    frame
}

/// Reads a whole file.
pub(super) fn read(kind: Kind, file: &[u8]) -> Result<Contents, Unreadable> {
    let mark = read_file_header(kind, file)?;
    let mut known = Known::default();
    let mut offset = FILE_HEADER_BYTES;
    while offset < file.len() {
        match read_frame(&file[offset..], &mark) {
            Some((body, frame_bytes)) => {
                apply(body, &mut known).ok_or(Unreadable::Damaged { offset })?;
                offset += frame_bytes;
            }
            None if is_torn(file, offset, &mark) => break,
            None => return Err(Unreadable::Damaged { offset }),
        }
    }
    Ok(Contents { mark, known, whole_bytes: offset })
}

fn read_file_header(kind: Kind, file: &[u8]) -> Result<Mark, Unreadable> {
    let Some(header) = file.get(..FILE_HEADER_BYTES) else {
        let begins_alike = file.iter().zip(kind.magic()).all(|(found, expected)| found == expected);
        return Err(if begins_alike { Unreadable::Unborn } else { Unreadable::Foreign });
    };
    let (fields, crc) = header.split_at(FILE_HEADER_BYTES - 4);
    if &fields[..8] != kind.magic() {
        return Err(Unreadable::Foreign);
    }
    if crc32c(fields).to_le_bytes() != crc {
        return Err(Unreadable::Damaged { offset: 0 });
    }
    let mut mark = [0; MARK_BYTES];
    mark.copy_from_slice(&fields[8..]);
    Ok(mark)
}

/// The body of a frame's header, if that reads: how long the body is.
fn body_bytes(bytes: &[u8], mark: &Mark) -> Option<usize> {
    let header = bytes.get(..FRAME_HEADER_BYTES)?;
    let (fields, checksums) = header.split_at(MARK_BYTES + 4);
    if &fields[..MARK_BYTES] != mark || crc32c(fields).to_le_bytes() != checksums[..4] {
        return None;
    }
    Some(u32::from_le_bytes(fields[MARK_BYTES..].try_into().ok()?) as usize)
}

/// The body of the frame at the beginning of these bytes, and the length of the whole, if it reads.
fn read_frame<'a>(bytes: &'a [u8], mark: &Mark) -> Option<(&'a [u8], usize)> {
    let body_bytes = body_bytes(bytes, mark)?;
    let body = bytes[FRAME_HEADER_BYTES..].get(..body_bytes)?;
    let crc = &bytes[FRAME_HEADER_BYTES - 4..FRAME_HEADER_BYTES];
    (crc32c(body).to_le_bytes() == crc).then_some((body, FRAME_HEADER_BYTES + body_bytes))
}

/// Whether the frame at `offset`, which does not read, is the end of an append that a crash has interrupted.
fn is_torn(file: &[u8], offset: usize, mark: &Mark) -> bool {
    let rest = &file[offset..];
    let is_last = !(1..rest.len()).any(|from| read_frame(&rest[from..], mark).is_some());
    // Where the header does not read, one of the sectors under it is missing; how far the frame went is not known, and not needed.
    let frame_bytes = FRAME_HEADER_BYTES + body_bytes(rest, mark).unwrap_or(0);
    is_last && (rest.len() < frame_bytes || has_empty_sector(file, offset, offset + frame_bytes))
}

/// Whether a sector's worth of the bytes from `offset` on is nothing but zeros, among the sectors that reach up to `end`. The zeros that are laid out behind the
/// last frame say nothing about it.
fn has_empty_sector(file: &[u8], offset: usize, end: usize) -> bool {
    let mut from = offset;
    while from < end.min(file.len()) {
        let to = (from / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES).min(file.len());
        if file[from..to].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

fn apply(mut body: &[u8], known: &mut Known) -> Option<()> {
    while let Some((kind, rest)) = body.split_first() {
        body = match *kind {
            BRANCH_PREPARED | PREPARED => {
                let (key, rest) = if *kind == PREPARED { take_whole(rest)? } else { take_branch(rest)? };
                let (payload, rest) = take_sized(rest)?;
                known.branches.insert(key, Bytes::copy_from_slice(payload).into());
                rest
            }
            BEGINNING => {
                let (key, rest) = take_whole(rest)?;
                let (beginning, rest) = take_sized(rest)?;
                let payload = known.branches.get_mut(&key)?;
                *payload = payload.with_beginning(Beginning::from_slice(beginning))?;
                rest
            }
            SIMILAR => {
                let (key, rest) = take_whole(rest)?;
                let (beginning, rest) = take_sized(rest)?;
                let (like, rest) = take_whole(rest)?;
                let payload = known.branches.get(&like)?.with_beginning(Beginning::from_slice(beginning))?;
                known.branches.insert(key, payload);
                rest
            }
            BRANCH_ENDED | ENDED => {
                let (key, rest) = if *kind == ENDED { take_whole(rest)? } else { take_branch(rest)? };
                known.branches.remove(&key);
                rest
            }
            LABEL => {
                let (label, rest) = take_sized(rest)?;
                known.label = Bytes::copy_from_slice(label);
                rest
            }
            _ => return None,
        };
    }
    Some(())
}

fn take_gtid(bytes: &[u8]) -> Option<(Gtid, &[u8])> {
    let (gtid, rest) = bytes.split_at_checked(16)?;
    Some((Gtid::from_bytes(gtid).ok()?, rest))
}

fn take_whole(bytes: &[u8]) -> Option<(BranchKey, &[u8])> {
    let (gtid, rest) = take_gtid(bytes)?;
    Some((BranchKey::whole(gtid), rest))
}

fn take_branch(bytes: &[u8]) -> Option<(BranchKey, &[u8])> {
    let (gtid, rest) = take_gtid(bytes)?;
    let (epoch, rest) = rest.split_first_chunk::<8>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let id = BranchId { epoch: Epoch(u64::from_le_bytes(*epoch)), number: u64::from_le_bytes(*number) };
    Some((BranchKey { gtid, id }, rest))
}

/// What a 32-bit length stands before.
fn take_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    rest.split_at_checked(length)
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARK: Mark = *b"\x91\x02\x13\x84\x75\x26\xd7\xee";
    const KIND: Kind = Kind::Journal;
    const OTHER_MARK: Mark = [7; MARK_BYTES];

    #[derive(Clone, Debug)]
    enum Record {
        Prepared(BranchKey, Vec<u8>),
        /// For one that is there and long enough; otherwise nothing.
        Begun(Gtid, Vec<u8>),
        /// Like one that is there and long enough; otherwise nothing.
        Similar(Gtid, Vec<u8>, Gtid),
        Ended(BranchKey),
    }

    fn gtid(number: u8) -> Gtid {
        let mut bytes = *b"\x01\x89\x0a\x5d\xac\x96\x77\x4b\xbc\xce\xb3\x02\x09\x9a\x80\x57";
        bytes[15] = number;
        Gtid::from_bytes(&bytes).expect("a UUID of version 7")
    }

    /// Two of three have no identity, as a voter's have none.
    fn branch(number: u8) -> BranchKey {
        let id = BranchId { epoch: Epoch(7), number: u64::MAX - u64::from(number) };
        BranchKey { gtid: gtid(number / 3), id: if number.is_multiple_of(3) { id } else { BranchId::NONE } }
    }

    fn payload(text: &'static str) -> Payload {
        Bytes::from_static(text.as_bytes()).into()
    }

    fn records() -> impl Strategy<Value = Vec<Vec<Record>>> {
        let payload = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            // What looks like the journal itself, and what looks like nothing.
            Just([file_header(KIND, &OTHER_MARK), frame(&OTHER_MARK, b"P")].concat()),
            Just(vec![0; 700]),
        ];
        let record = prop_oneof![
            (0..18_u8, payload).prop_map(|(number, payload)| Record::Prepared(branch(number), payload)),
            (0..6_u8, proptest::collection::vec(any::<u8>(), 1..20))
                .prop_map(|(number, beginning)| Record::Begun(gtid(number), beginning)),
            (0..6_u8, proptest::collection::vec(any::<u8>(), 1..20), 0..6_u8)
                .prop_map(|(number, beginning, like)| Record::Similar(gtid(number), beginning, gtid(like))),
            (0..18_u8).prop_map(|number| Record::Ended(branch(number))),
        ];
        proptest::collection::vec(proptest::collection::vec(record, 1..4), 1..6)
    }

    /// The file, where each frame ends, and what is known at each of these points.
    fn written(frames: &[Vec<Record>]) -> (Vec<u8>, Vec<(usize, Branches)>) {
        let mut file = file_header(KIND, &MARK);
        let mut branches = Branches::default();
        let mut points = vec![(file.len(), branches.clone())];
        for records in frames {
            let mut body = Vec::new();
            for record in records {
                match record {
                    Record::Prepared(branch, payload) => {
                        let payload = Payload::from(Bytes::from(payload.clone()));
                        write_prepared(&mut body, *branch, &payload);
                        branches.insert(*branch, payload);
                    }
                    Record::Begun(gtid, beginning) => {
                        let Some(payload) = branches.get_mut(&BranchKey::whole(*gtid)) else { continue };
                        let Some(begun) = payload.with_beginning(beginning.clone().into()) else { continue };
                        write_beginning(&mut body, *gtid, beginning);
                        *payload = begun;
                    }
                    Record::Similar(gtid, beginning, like) => {
                        let Some(payload) = branches.get(&BranchKey::whole(*like)) else { continue };
                        let Some(begun) = payload.with_beginning(beginning.clone().into()) else { continue };
                        write_similar(&mut body, *gtid, beginning, *like);
                        branches.insert(BranchKey::whole(*gtid), begun);
                    }
                    Record::Ended(branch) => {
                        write_ended(&mut body, *branch);
                        branches.remove(branch);
                    }
                }
            }
            file.extend(frame(&MARK, &body));
            points.push((file.len(), branches.clone()));
        }
        (file, points)
    }

    proptest! {
        // Each case reads the file once for every byte.
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn a_file_cut_anywhere_has_all_frames_before_the_cut(frames in records()) {
            let (file, points) = written(&frames);
            for cut in 0..=file.len() {
                match read(KIND, &file[..cut]) {
                    Ok(contents) => {
                        let (whole, branches) = points.iter().rev().find(|(end, _)| *end <= cut).expect("past the header");
                        prop_assert_eq!(contents.whole_bytes, *whole);
                        prop_assert_eq!(&contents.known.branches, branches);
                    }
                    Err(error) => {
                        prop_assert!(cut < FILE_HEADER_BYTES, "cut at {}: {:?}", cut, error);
                        prop_assert_eq!(error, Unreadable::Unborn);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_last_frame_whose_sectors_did_not_reach_the_disk_is_dropped(
            frames in records(),
            lost in any::<prop::sample::Index>(),
            zeros in prop_oneof![Just(0_usize), 1..2_000_usize],
        ) {
            let (mut file, points) = written(&frames);
            let (before, _) = points[points.len() - 2];
            let (first, end) = (before / SECTOR_BYTES, file.len().div_ceil(SECTOR_BYTES));
            let sector = first + lost.index(end - first);
            let from = (sector * SECTOR_BYTES).max(before);
            let to = (sector * SECTOR_BYTES + SECTOR_BYTES).min(file.len());
            let was_empty = file[from..to].iter().all(|byte| *byte == 0);
            file[from..to].fill(0);
            file.extend(std::iter::repeat_n(0, zeros));
            let contents = read(KIND, &file).expect("torn is not damaged");
            let (expected_bytes, expected) =
                if was_empty { points.last().expect("a file has a beginning") } else { &points[points.len() - 2] };
            prop_assert_eq!(contents.whole_bytes, *expected_bytes);
            prop_assert_eq!(&contents.known.branches, expected);
        }

        #[test]
        fn a_flipped_bit_is_reported(
            frames in records(),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
            // Laid out for what would have come next.
            zeros in prop_oneof![Just(0_usize), 1..2_000_usize],
        ) {
            let (mut file, points) = written(&frames);
            let at = at.index(file.len());
            let end = file.len();
            file[at] ^= 1 << bit;
            file.extend(std::iter::repeat_n(0, zeros));
            match read(KIND, &file) {
                Err(Unreadable::Damaged { .. } | Unreadable::Foreign) => {}
                Err(Unreadable::Unborn) => prop_assert!(false, "a whole file was taken for an unborn one"),
                // Only a last frame that holds a sector of zeros can be taken for a torn one.
                Ok(contents) => {
                    let (before, branches) = &points[points.len() - 2];
                    prop_assert_eq!(&contents.known.branches, branches);
                    prop_assert_eq!(contents.whole_bytes, *before);
                    prop_assert!(has_empty_sector(&file, *before, end));
                }
            }
        }
    }

    #[test]
    fn the_same_bytes_in_a_payload_are_not_a_frame() {
        let inner = frame(&OTHER_MARK, b"P");
        let mut body = Vec::new();
        write_prepared(&mut body, branch(0), &Bytes::from(inner).into());
        let mut file = [file_header(KIND, &MARK), frame(&MARK, &body)].concat();
        file.truncate(file.len() - 1);
        assert_eq!(read(KIND, &file).expect("torn").whole_bytes, FILE_HEADER_BYTES);
    }

    #[test]
    fn somebody_elses_file_is_not_touched() {
        for foreign in [&b"hello"[..], b"{\"some\": \"other file, long enough\"}", b"ASSENTJ2ABCDEFGHIJKLMNOP"] {
            assert_eq!(read(KIND, foreign).expect_err("foreign"), Unreadable::Foreign);
        }
        let of_a_voter = file_header(Kind::Voters, &MARK);
        assert_eq!(read(KIND, &of_a_voter).expect_err("another kind"), Unreadable::Foreign);
        read(Kind::Voters, &of_a_voter).expect("its own kind");
    }

    #[test]
    fn a_file_of_the_first_release_reads() {
        let mut body = vec![b'P'];
        body.extend_from_slice(gtid(1).as_bytes());
        body.extend_from_slice(&[2, 0, 0, 0, b'h', b'i']);
        let mut file = b"ASSENTJ1".to_vec();
        file.extend_from_slice(&MARK);
        file.extend_from_slice(&crc32c(&file).to_le_bytes());
        file.extend(frame(&MARK, &body));
        let contents = read(KIND, &file).expect("whole");
        assert_eq!(contents.known.branches, Branches::from_iter([(BranchKey::whole(gtid(1)), payload("hi"))]));
        assert_eq!(contents.known.label, Bytes::new());
    }

    #[test]
    fn the_last_word_counts() {
        let mut body = Vec::new();
        write_label(&mut body, b"one");
        write_prepared(&mut body, BranchKey::whole(gtid(1)), &payload("waiting"));
        write_label(&mut body, b"another");
        write_prepared(&mut body, BranchKey::whole(gtid(1)), &payload("committed"));
        let file = [file_header(Kind::Voters, &MARK), frame(&MARK, &body)].concat();
        let known = read(Kind::Voters, &file).expect("whole").known;
        assert_eq!(known.label, Bytes::from("another"));
        assert_eq!(known.branches, Branches::from_iter([(BranchKey::whole(gtid(1)), payload("committed"))]));
    }
}
