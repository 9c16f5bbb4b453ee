//! The word of the logs, behind what the core decides: see [`assent_protocol::verdict`].

use assent_protocol::verdict::{Standing, verdict};
use assent_protocol::{Appended, Durable, Epoch, Record};

/// What a log answers to a forced record of the epoch that is held; `None` if the append has to be
/// repeated, since what stands is older than the record.
pub(super) fn answer(record: &Record, standing: Option<&Standing>, held: Epoch) -> Option<Appended> {
    verdict(record, standing, held).appended(|| receipt(record))
}

/// The answer to a record that the storage has confirmed.
pub(super) fn durable(record: &Record) -> Appended {
    Appended::Durable(receipt(record))
}

#[expect(clippy::disallowed_methods, reason = "this is where the logs give their word, after the storage gave its own")]
fn receipt(record: &Record) -> Durable {
    Durable::attest(record.id())
}
