//! The transaction context: what a call between services carries, so that its receiver can take part.
//!
//! It travels as gRPC metadata and as HTTP headers alike, under the same lower-case names. Never in baggage, which reaches
//! third parties.
//!
//! | header | value |
//! |---|---|
//! | `assent-gtid` | the transaction's id, a UUID of version 7 in its text form |
//! | `assent-coordinator` | the address of the replica that the transaction was begun at |
//! | `assent-deadline` | when it aborts by itself, in Unix milliseconds; may be absent |
//! | `assent-epoch` | the epoch of the coordinator under which it was begun, which its branches are named by; may be absent |
//!
//! [`Context::read`] takes what anybody may have sent. It tells what a value looks like, not that it is true: the
//! coordinator named here is for comparison with the one that the receiver is configured for, and is not to be dialled for
//! its own sake.

use assent_protocol::{Epoch, Gtid};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::text::quoted;

/// The header that names the transaction.
pub const GTID_HEADER: HeaderName = HeaderName::from_static("assent-gtid");
/// The header that names the home replica.
pub const COORDINATOR_HEADER: HeaderName = HeaderName::from_static("assent-coordinator");
/// The header that tells the deadline.
pub const DEADLINE_HEADER: HeaderName = HeaderName::from_static("assent-deadline");

/// The header that tells the epoch.
pub const EPOCH_HEADER: HeaderName = HeaderName::from_static("assent-epoch");

/// The longest address of a coordinator, in bytes: a DNS name has at most 253, and scheme and port come on top.
pub const COORDINATOR_BYTES_MAX: usize = 300;

/// The latest deadline, in Unix milliseconds: the end of the year 9999. What computes with it cannot overflow.
pub const DEADLINE_UNIX_MS_MAX: u64 = 253_402_300_799_999;

/// The transaction that a call belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// The transaction.
    pub gtid: Gtid,
    /// The replica that it was begun at: `host:port`, or a URL of http or https without a path.
    pub coordinator: String,
    /// When it aborts by itself, in Unix milliseconds by the coordinator's clock; `None` where the caller does not know.
    pub deadline_unix_ms: Option<u64>,
    /// The epoch of the coordinator under which it was begun; `None` where the caller does not know. Branches that begin
    /// because of this call bear it in their identity.
    pub epoch: Option<Epoch>,
}

impl Context {
    /// Reads the context of a call; `None` where it has no gtid, and so belongs to no transaction.
    ///
    /// For gRPC metadata: `Context::read(request.metadata().as_ref())`.
    ///
    /// # Errors
    /// [`InvalidContext`] if there is a gtid and one of the headers is malformed, given more than once, or missing. The
    /// call must then be refused: its work would be done outside of the transaction that it was meant for.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, InvalidContext> {
        let Some(gtid) = only_value(headers, &GTID_HEADER, GTID_EXPECTED)? else { return Ok(None) };
        let gtid = parse(gtid, &GTID_HEADER, GTID_EXPECTED, parse_gtid)?;
        let coordinator = only_value(headers, &COORDINATOR_HEADER, COORDINATOR_EXPECTED)?
            .ok_or_else(|| InvalidContext::new(&COORDINATOR_HEADER, Problem::Missing, COORDINATOR_EXPECTED))?;
        let coordinator = parse(coordinator, &COORDINATOR_HEADER, COORDINATOR_EXPECTED, parse_coordinator)?.to_owned();
        let deadline_unix_ms = only_value(headers, &DEADLINE_HEADER, DEADLINE_EXPECTED)?
            .map(|value| parse(value, &DEADLINE_HEADER, DEADLINE_EXPECTED, parse_deadline))
            .transpose()?;
        let epoch = only_value(headers, &EPOCH_HEADER, EPOCH_EXPECTED)?
            .map(|value| parse(value, &EPOCH_HEADER, EPOCH_EXPECTED, parse_epoch))
            .transpose()?;
        Ok(Some(Self { gtid, coordinator, deadline_unix_ms, epoch }))
    }

    /// Writes it to the headers of a call, in place of any context that they carry.
    ///
    /// For gRPC metadata: `context.write(request.metadata_mut().as_mut())`.
    ///
    /// # Errors
    /// [`InvalidContext`] if the coordinator or the deadline is not one that [`read`](Self::read) takes. The headers are then
    /// as they were.
    pub fn write(&self, headers: &mut HeaderMap) -> Result<(), InvalidContext> {
        let gtid = value_of(&self.gtid.to_string(), &GTID_HEADER, GTID_EXPECTED, parse_gtid)?;
        let coordinator = value_of(&self.coordinator, &COORDINATOR_HEADER, COORDINATOR_EXPECTED, parse_coordinator)?;
        let deadline = self
            .deadline_unix_ms
            .map(|deadline| value_of(&deadline.to_string(), &DEADLINE_HEADER, DEADLINE_EXPECTED, parse_deadline))
            .transpose()?;
        headers.insert(GTID_HEADER, gtid);
        headers.insert(COORDINATOR_HEADER, coordinator);
        match deadline {
            Some(deadline) => headers.insert(DEADLINE_HEADER, deadline),
            None => headers.remove(DEADLINE_HEADER),
        };
        match self.epoch {
            Some(epoch) => headers.insert(EPOCH_HEADER, HeaderValue::from(epoch.0)),
            None => headers.remove(EPOCH_HEADER),
        };
        Ok(())
    }
}

/// A call's context that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header {header} {problem}; it is {expected}")]
pub struct InvalidContext {
    /// Which header.
    pub header: HeaderName,
    /// What is wrong with it.
    pub problem: Problem,
    expected: &'static str,
}

/// What can be wrong with a header of the context.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It belongs to the gtid that is there.
    #[error("is missing, although assent-gtid is there")]
    Missing,
    /// One of them was added by somebody who did not replace the other, and nobody knows which is meant.
    #[error("is given {times} times, and may be given once")]
    Repeated {
        /// How often.
        times: usize,
    },
    /// It does not say what it should.
    #[error("cannot be {shown}")]
    Unfit {
        /// The value, escaped and cut.
        shown: String,
    },
}

impl InvalidContext {
    fn new(header: &HeaderName, problem: Problem, expected: &'static str) -> Self {
        Self { header: header.clone(), problem, expected }
    }

    fn unfit(header: &HeaderName, bytes: &[u8], expected: &'static str) -> Self {
        // Cut before it is converted, so that a long value is not copied as a whole.
        let beginning = &bytes[..bytes.len().min(COORDINATOR_BYTES_MAX)];
        let shown = quoted(&String::from_utf8_lossy(beginning));
        Self::new(header, Problem::Unfit { shown }, expected)
    }
}

const GTID_EXPECTED: &str = "the transaction's UUID of version 7, such as 01890a5d-ac96-774b-bcce-b302099a8057";
const COORDINATOR_EXPECTED: &str =
    "the home replica's host and port or URL in at most 300 bytes, such as http://coordinator:7420";
const DEADLINE_EXPECTED: &str = "a time before the year 10000 in Unix milliseconds, such as 1767225600000";
const EPOCH_EXPECTED: &str = "a number of at most 64 bits in decimal digits, such as 7";

fn only_value<'a>(
    headers: &'a HeaderMap,
    header: &HeaderName,
    expected: &'static str,
) -> Result<Option<&'a HeaderValue>, InvalidContext> {
    let mut values = headers.get_all(header).iter();
    let first = values.next();
    match values.count() {
        0 => Ok(first),
        more => Err(InvalidContext::new(header, Problem::Repeated { times: more + 1 }, expected)),
    }
}

fn parse<'a, T>(
    value: &'a HeaderValue,
    header: &HeaderName,
    expected: &'static str,
    parse: impl FnOnce(&'a str) -> Option<T>,
) -> Result<T, InvalidContext> {
    let text = value.to_str().ok();
    text.and_then(parse).ok_or_else(|| InvalidContext::unfit(header, value.as_bytes(), expected))
}

fn value_of<'a, T>(
    text: &'a str,
    header: &HeaderName,
    expected: &'static str,
    parse: impl FnOnce(&'a str) -> Option<T>,
) -> Result<HeaderValue, InvalidContext> {
    let value = parse(text).and_then(|_| HeaderValue::from_str(text).ok());
    value.ok_or_else(|| InvalidContext::unfit(header, text.as_bytes(), expected))
}

/// Only the form with hyphens, of those that a UUID may have.
fn parse_gtid(text: &str) -> Option<Gtid> {
    const HYPHENATED_BYTES: usize = 36;
    if text.len() == HYPHENATED_BYTES { text.parse().ok() } else { None }
}

/// What is no visible ASCII is no URI. A fragment is none of a URI's parts, and would be dropped in silence.
fn parse_coordinator(text: &str) -> Option<&str> {
    if text.len() > COORDINATOR_BYTES_MAX || text.contains('#') {
        return None;
    }
    let uri: Uri = text.parse().ok()?;
    let is_fit =
        uri.authority().is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'))
            && uri.scheme_str().is_none_or(|scheme| scheme == "http" || scheme == "https")
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none();
    is_fit.then_some(text)
}

fn parse_deadline(text: &str) -> Option<u64> {
    parse_digits(text).filter(|deadline| *deadline <= DEADLINE_UNIX_MS_MAX)
}

fn parse_epoch(text: &str) -> Option<Epoch> {
    parse_digits(text).map(Epoch)
}

/// Digits only: numbers also parse with a plus.
fn parse_digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
