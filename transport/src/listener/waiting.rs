//! Connections that have not authenticated, and how many of them there may be.
//!
//! Under a flood the oldest goes first: a peer that knows what it wants has authenticated long before a thousand others have come.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(super) struct Waiting {
    max: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    cuts: BTreeMap<u64, CancellationToken>,
}

/// One connection's place among those that wait, and among all.
#[derive(Debug)]
pub(super) struct Pass {
    id: u64,
    cut: CancellationToken,
    waiting: Arc<Waiting>,
    /// Something was asked on it.
    has_spoken: AtomicBool,
    is_admitted: AtomicBool,
    _place: OwnedSemaphorePermit,
}

impl Waiting {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, entries: Mutex::default() })
    }

    /// One more waits; the oldest is cut if it is one too many.
    pub(super) fn enter(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Pass {
        let cut = CancellationToken::new();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.cuts.len() >= self.max
            && let Some((_, oldest)) = entries.cuts.pop_first()
        {
            oldest.cancel();
        }
        let id = entries.next;
        entries.next += 1;
        entries.cuts.insert(id, cut.clone());
        drop(entries);
        Pass {
            id,
            cut,
            waiting: Arc::clone(self),
            has_spoken: AtomicBool::new(false),
            is_admitted: AtomicBool::new(false),
            _place: place,
        }
    }

    fn leave(&self, id: u64) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).cuts.remove(&id);
    }
}

impl Pass {
    /// Cancelled when the connection has to go.
    pub(super) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    pub(super) fn speak(&self) {
        self.has_spoken.store(true, Relaxed);
    }

    pub(super) fn has_spoken(&self) -> bool {
        self.has_spoken.load(Relaxed)
    }

    /// It has authenticated, and waits no longer.
    pub(super) fn admit(&self) {
        self.speak();
        if !self.is_admitted.swap(true, Relaxed) {
            self.waiting.leave(self.id);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.waiting.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn the_oldest_that_has_not_authenticated_goes_first() {
        let (waiting, places) = (Waiting::new(2), Arc::new(Semaphore::new(10)));
        let enter = || waiting.enter(Arc::clone(&places).try_acquire_owned().expect("a place"));
        let (one, two) = (enter(), enter());
        one.admit();
        let three = enter();
        assert!(![&one, &two, &three].iter().any(|pass| pass.cut().is_cancelled()));
        let four = enter();
        assert!(two.cut().is_cancelled() && !one.cut().is_cancelled() && !four.cut().is_cancelled());
        drop(three);
        let five = enter();
        assert!(!four.cut().is_cancelled() && !five.cut().is_cancelled());
        assert_eq!(places.available_permits(), 10 - 4);
    }
}
