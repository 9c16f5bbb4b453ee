//! The answers of transactions that ended lately, so that a retried request is answered without asking the log.

use std::collections::VecDeque;

use assent_protocol::{AbortReason, BodyDigest, Gtid, GtidMap, Outcome};

/// How a transaction ended, as far as a retry needs it.
#[derive(Clone, Debug)]
pub(super) struct EndedAnswer {
    pub(super) digest: Option<BodyDigest>,
    pub(super) outcome: Outcome,
    pub(super) reason: Option<AbortReason>,
}

/// A bounded first-in-first-out cache, with a horizon: what ended after it is all here.
#[derive(Debug)]
pub(super) struct Ended {
    answers: GtidMap<Option<EndedAnswer>>,
    order: VecDeque<(Gtid, u64)>,
    capacity: usize,
    horizon_ms: u64,
    started_at_ms: u64,
}

/// How far clocks of initiators may be off before their transactions cost a look into the log.
const SKEW_MS: u64 = 1_000;
/// The same for begins, which are refused within it after a start; initiators then mint anew.
const BEGIN_SKEW_MS: u64 = 250;

impl Ended {
    /// An empty cache of a process that starts now.
    pub(super) fn new(capacity: usize, now_ms: u64) -> Self {
        Self {
            answers: GtidMap::default(),
            order: VecDeque::new(),
            capacity: capacity.max(1),
            horizon_ms: now_ms,
            started_at_ms: now_ms,
        }
    }

    /// Keeps an answer; `None` keeps only the fact that there is one in the log (a saga's outputs may be large).
    pub(super) fn keep(&mut self, gtid: Gtid, answer: Option<EndedAnswer>, now_ms: u64) {
        if self.answers.insert(gtid, answer).is_none() {
            self.order.push_back((gtid, now_ms));
        }
        while self.order.len() > self.capacity {
            if let Some((oldest, ended_at_ms)) = self.order.pop_front() {
                self.answers.remove(&oldest);
                self.horizon_ms = self.horizon_ms.max(ended_at_ms);
            }
        }
    }

    /// What is known: `None` nothing, `Some(None)` that the log knows.
    pub(super) fn get(&self, gtid: Gtid) -> Option<Option<&EndedAnswer>> {
        self.answers.get(&gtid).map(Option::as_ref)
    }

    /// Whether a gtid that nothing and nobody knows may have been begun with an earlier process, and be lost with its memory.
    ///
    /// Such a transaction must not be begun anew: branches that enlisted with the earlier process would miss.
    pub(super) fn may_be_lost(&self, gtid: Gtid) -> bool {
        gtid.minted_at_ms() < self.started_at_ms + BEGIN_SKEW_MS
    }

    /// Whether a transaction that is neither in memory nor in this cache cannot have ended before: it was minted after
    /// everything that this cache may have forgotten had ended.
    ///
    /// The mint time is by the initiator's clock, hence the margin; a clock that is off by more only costs a lookup when it is
    /// behind or far ahead. An initiator that says that it asks for the first time is believed only together with this.
    pub(super) fn is_fresh(&self, gtid: Gtid, now_ms: u64) -> bool {
        let minted_at_ms = gtid.minted_at_ms();
        minted_at_ms > self.horizon_ms + SKEW_MS && minted_at_ms < now_ms + SKEW_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gtid(minted_at_ms: u64) -> Gtid {
        let mut bytes = [0_u8; 16];
        bytes[..6].copy_from_slice(&minted_at_ms.to_be_bytes()[2..]);
        bytes[6] = 0x70;
        bytes[8] = 0x80;
        Gtid::from_bytes(&bytes).expect("version 7")
    }

    #[test]
    fn nothing_that_may_have_been_forgotten_is_fresh() {
        let mut ended = Ended::new(2, 10_000);
        assert!(!ended.is_fresh(gtid(9_000), 20_000), "minted before this process started");
        assert!(!ended.is_fresh(gtid(10_500), 20_000), "within the margin");
        assert!(ended.is_fresh(gtid(15_000), 20_000));
        assert!(!ended.is_fresh(gtid(25_000), 20_000), "minted in the future");
        for minted in [12_000, 13_000, 14_000] {
            ended.keep(gtid(minted), None, minted + 2_000);
        }
        assert!(ended.get(gtid(12_000)).is_none(), "the oldest is forgotten");
        assert!(!ended.is_fresh(gtid(14_500), 20_000), "it may have ended with the forgotten one");
        assert!(ended.is_fresh(gtid(15_500), 20_000));
    }
}
