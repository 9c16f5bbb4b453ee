//! What both models need: machines that are cheap to share between states, cells of transition tables, and the line of figures.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The pairs of a state and an event that the models of this process have met.
#[derive(Debug)]
pub(crate) struct Cells(Mutex<BTreeSet<(&'static str, &'static str)>>);

impl Cells {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    pub(crate) fn hit(&self, state: &'static str, event: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((state, event));
    }

    /// Notes what was met, for `protocol`.
    ///
    /// # Panics
    /// If a cell of the table was never met.
    #[cfg(test)]
    pub(crate) fn assert_covers(&self, protocol: &'static str, table: &[(&'static str, &[&'static str])]) {
        let hit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missed: Vec<_> = table
            .iter()
            .flat_map(|(state, events)| events.iter().map(|event| (*state, *event)))
            .filter(|cell| !hit.contains(cell))
            .collect();
        let wanted: usize = table.iter().map(|(_, events)| events.len()).sum();
        let met = (wanted - missed.len()) as u64;
        crate::proof::record(&[crate::proof::Row::of("cells", protocol, "cells", met, wanted as u64)]);
        println!("cells: {} met, of {wanted} that must be met {} were missed", hit.len(), missed.len());
        assert!(missed.is_empty(), "never met: {missed:#?}\nmet: {hit:#?}");
    }
}

#[cfg(test)]
mod check;
#[cfg(test)]
mod value;
#[cfg(test)]
pub(crate) use check::{Extent, explore, is_deep, prove, refute};
#[cfg(test)]
pub(crate) use value::Shared;
