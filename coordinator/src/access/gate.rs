//! How much a caller may send before it is known.
//!
//! gRPC makes room for a message when its length is announced, and keeps what has come until it is whole. So a caller that has not
//! authenticated announces no message longer than a Hello.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use assent_proto::error::{Reason, ReasonStatus};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// The longest message of a caller that is not known: a Hello with every field at its longest has under 2 KiB.
pub(super) const UNKNOWN_BYTES_MAX: u32 = 16 * 1024;

/// Closed until its caller is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Lets everything through from now on.
    pub(crate) fn open(&self) {
        self.0.store(true, Relaxed);
    }

    /// The body of a request behind this gate.
    pub(super) fn guard(&self, body: Body) -> Body {
        Body::new(Guarded { inner: body, gate: self.clone(), prefix: Prefix::default() })
    }
}

/// The first bytes of a message: a flag, and its length.
#[derive(Default)]
pub(super) struct Prefix {
    bytes: [u8; 5],
    taken: usize,
}

impl Prefix {
    /// The length that is announced, once it has come.
    pub(super) fn length(&mut self, data: &[u8]) -> Option<u32> {
        let more = data.len().min(self.bytes.len() - self.taken);
        self.bytes[self.taken..self.taken + more].copy_from_slice(&data[..more]);
        self.taken += more;
        let [_, length @ ..] = self.bytes;
        (self.taken == self.bytes.len()).then(|| u32::from_be_bytes(length))
    }
}

struct Guarded {
    inner: Body,
    gate: Gate,
    prefix: Prefix,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(http_body::Body::poll_frame(Pin::new(&mut self.inner), context));
        if !self.gate.0.load(Relaxed)
            && let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Some(length) = self.prefix.length(data)
            && length > UNKNOWN_BYTES_MAX
        {
            let message = format!(
                "a message of {length} bytes came before its caller was known, and {UNKNOWN_BYTES_MAX} are allowed; say Hello alone, and \
                 first, or show a certificate or token"
            );
            return Poll::Ready(Some(Err(Reason::FrameTooLarge.status(message))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.inner)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_read_however_it_comes() {
        let announced = [0, 0, 1, 0, 2, 9, 9];
        for cut in 0..announced.len() {
            let mut prefix = Prefix::default();
            let (one, other) = announced.split_at(cut);
            let lengths = [prefix.length(one), prefix.length(other)];
            assert_eq!(lengths.into_iter().flatten().next(), Some(65_538), "cut at {cut}");
        }
    }
}
