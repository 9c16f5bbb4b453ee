//! Any events at all, chosen by bytes, for every machine.
//!
//! Each function here takes bytes, makes a machine and events of them, and panics where an invariant breaks or a machine does. A test draws the
//! bytes at random, with a fixed budget; the targets in `fuzz/` let a fuzzer search for them. The worlds in `integration-tests/simulation` only
//! produce what honest peers, logs and drivers can; here a peer says anything, in any order, and the log's rows may say anything too.
//!
//! [`Tape::damaged`] and the samples below are for the fuzzing of what encodes them, in other crates.
//!
//! What the driver owes a machine is kept: the log answers what it was asked, once ([`durable`](crate::durable) sees to that), and its word about a
//! transaction does not change.

use crate::record::{RecordId, RecordKind};
use std::collections::BTreeSet;
use std::fmt::Debug;

use crate::durable::{Appended, Durable, Output};
use crate::ids::{BodyDigest, BranchId, Caller, Epoch, Gtid, InstanceId, Name};
use crate::reason::Wait;
use crate::record::{Decision, Member};

pub use crate::agent::fuzz::agent;
pub use crate::branch::fuzz::branch;
pub use crate::saga::fuzz::{definition, result, saga, saga_records};
pub use crate::three_phase::fuzz::{coordinator, leader, participant, record, roster, state, voter};
pub use crate::two_phase::fuzz::two_phase;

/// Bytes that choose. Where they end, every choice is the first.
#[derive(Clone, Debug)]
pub struct Tape<'a> {
    bytes: &'a [u8],
}

impl<'a> Tape<'a> {
    /// A tape at its beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether nothing is left to choose with.
    pub fn is_over(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *first
    }

    /// One of `bound` numbers, from 0; at most 256 of them.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// Now and then.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// An encoding with a few bytes changed, added or lost, or cut short; now and then something else entirely.
    pub fn damaged(&mut self, encoding: impl Into<Vec<u8>>) -> Vec<u8> {
        if self.one_in(4) {
            return self.rest().to_vec();
        }
        let mut bytes = encoding.into();
        for _ in 0..self.below(6) {
            let at = (usize::from(self.byte()) << 8 | usize::from(self.byte())) % bytes.len().max(1);
            match self.below(4) {
                _ if bytes.is_empty() => {}
                0 => bytes.insert(at, self.byte()),
                1 => drop(bytes.remove(at)),
                2 => bytes[at] = bytes[at].wrapping_add(1),
                _ => bytes[at] = self.byte(),
            }
        }
        if self.one_in(4) {
            bytes.truncate(usize::from(self.byte()));
        }
        bytes
    }

    /// As [`damaged`](Self::damaged), of a text.
    pub fn damaged_text(&mut self, encoding: impl Into<String>) -> String {
        String::from_utf8_lossy(&self.damaged(encoding.into())).into_owned()
    }

    /// One of several.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Rather a small number, which meets others; now and then one at the end of the range.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            byte @ 0..=199 => u64::from(byte % 5),
            byte @ 200..=249 => u64::from(byte),
            250 => u64::from(u32::MAX),
            251 => u64::MAX / 2,
            252 => u64::MAX - 1,
            _ => u64::MAX,
        }
    }

    /// As [`number`](Self::number), of 32 bits.
    pub fn number_32(&mut self) -> u32 {
        u32::try_from(self.number()).unwrap_or(u32::MAX)
    }

    pub(crate) fn epoch(&mut self) -> Epoch {
        Epoch(self.number())
    }

    /// One of the few participants that there are.
    pub fn participant(&mut self) -> Name {
        name(["bank", "shop", "mail", "taxi"][self.below(4)])
    }

    /// Some of them, each once.
    pub fn participants(&mut self) -> Vec<Name> {
        let drawn: BTreeSet<Name> = (0..self.below(4)).map(|_| self.participant()).collect();
        drawn.into_iter().collect()
    }

    /// One of the few ids that branches have.
    pub fn branch_id(&mut self) -> BranchId {
        BranchId { epoch: Epoch(1), number: self.pick(&[1, 1, 1, 2, 2, 3]) }
    }

    /// Some branches, each participant's once.
    pub fn members(&mut self) -> Vec<Member> {
        let participants = self.participants();
        let member = |participant| Member { participant, branch: self.branch_id() };
        participants.into_iter().map(member).collect()
    }

    pub(crate) fn instance(&mut self) -> InstanceId {
        InstanceId(1 + self.below(3) as u64)
    }

    pub(crate) fn caller(&mut self) -> Caller {
        Caller { session: self.below(3) as u64, request: self.below(4) as u64 }
    }

    pub(crate) fn wait(&mut self) -> Wait {
        self.pick(&[Wait::Decided, Wait::Ended])
    }

    pub(crate) fn digest(&mut self) -> BodyDigest {
        BodyDigest(self.pick(&[7, 7, 7, 8, 0]))
    }

    /// Either.
    pub fn decision(&mut self) -> Decision {
        self.pick(&[Decision::Commit, Decision::Abort])
    }

    /// What people and programs write as a reason.
    pub fn text(&mut self) -> String {
        self.pick(&["no", "", "sold out: none left", "d\u{e9}j\u{e0} vu\0"]).to_owned()
    }

    /// The log's word about the record that it was last given. The commit of another writer is for some of these
    /// members, if not for all.
    #[expect(clippy::disallowed_methods, reason = "the tape plays the log")]
    pub(crate) fn appended(&mut self, gtid: Gtid, mut members: Vec<Member>) -> Appended {
        match self.below(8) {
            0..=4 => Appended::Durable(Durable::attest(RecordId { gtid, kind: RecordKind::Decided(Decision::Commit) })),
            5 => Appended::Overruled { decision: Decision::Abort, members: vec![] },
            6 => {
                members.retain(|_| !self.one_in(3));
                Appended::Overruled { decision: Decision::Commit, members }
            }
            _ => Appended::Undecided,
        }
    }
}

/// What has happened, told if the test panics.
#[derive(Debug)]
pub(crate) struct Story<E: Debug> {
    events: Vec<E>,
}

impl<E: Debug> Story<E> {
    pub(crate) fn new() -> Self {
        Self { events: Vec::new() }
    }

    pub(crate) fn then(&mut self, event: E) {
        self.events.push(event);
    }
}

impl<E: Debug> Drop for Story<E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for event in &self.events {
                eprintln!("{event:?}");
            }
        }
    }
}

/// Whether something is on its way to the log.
pub(crate) fn waits_for_log<E>(output: &Output<E>) -> bool {
    output.forced().is_some()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// The transaction that all of this is about.
pub fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a version 7")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    /// The same in every run; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for others. With some 8 bytes to an event, a case is a few dozen events.
    fn config() -> ProptestConfig {
        let default = ProptestConfig::default();
        let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 2_000 };
        let rng_seed = match default.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            fixed @ RngSeed::Fixed(_) => fixed,
        };
        ProptestConfig { cases, rng_seed, failure_persistence: None, ..default }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn two_phase_commit_keeps_its_invariants_whatever_comes(bytes in vec(any::<u8>(), 0..300)) {
            super::two_phase(&bytes);
        }

        #[test]
        fn a_branch_keeps_its_invariants_whatever_comes(bytes in vec(any::<u8>(), 0..200)) {
            super::branch(&bytes);
        }

        #[test]
        fn an_agent_keeps_its_invariants_whatever_comes(bytes in vec(any::<u8>(), 0..400)) {
            super::agent(&bytes);
        }

        #[test]
        fn a_saga_keeps_its_invariants_whatever_comes(bytes in vec(any::<u8>(), 0..300)) {
            super::saga(&bytes);
        }

        #[test]
        fn a_saga_is_recovered_or_refused_whatever_its_rows_say(bytes in vec(any::<u8>(), 0..300)) {
            super::saga_records(&bytes);
        }

        #[test]
        fn a_voter_keeps_its_invariants_whatever_it_is_asked(bytes in vec(any::<u8>(), 0..200)) {
            super::voter(&bytes);
        }

        #[test]
        fn a_leader_keeps_its_invariants_whatever_it_hears(bytes in vec(any::<u8>(), 0..200)) {
            super::leader(&bytes);
        }

        #[test]
        fn three_phase_commit_keeps_its_invariants_whatever_comes(bytes in vec(any::<u8>(), 0..400)) {
            super::coordinator(&bytes);
        }

        #[test]
        fn a_three_phase_participant_keeps_its_invariants_whatever_comes(bytes in vec(any::<u8>(), 0..300)) {
            super::participant(&bytes);
        }
    }
}
