//! Assent's connections: one way to dial, one way to listen, TLS on both, and who the other side is.
//!
//! | file | subject |
//! |---|---|
//! | `dialer.rs` | every outgoing connection: what a URL's scheme means, and what may not travel in clear |
//! | `dialer/fetch.rs` | one small document over HTTP/1.1, from a server that is verified |
//! | `dialer/stream.rs` | the stream of a dialled connection, and why it failed |
//! | `listener.rs` | every incoming connection: handshakes, deadlines, who may wait |
//! | `listener/connection.rs` | the stream of an accepted connection, and who is at its other end |
//! | `listener/waiting.rs` | connections that have not authenticated, and how many of them there may be |
//! | `identity.rs` | names and roles, and the URIs that carry them in certificates |
//! | `stream.rs` | the bytes of a connection, in clear or encrypted |
//! | `secret.rs` | texts that are not printed |
//! | `tls.rs`, `tls/` | certificates from files, and rustls |
//!
//! # Contract
//! - `https://` is TLS 1.3 or an error. It never becomes plaintext.
//! - Credentials go over `http://` to this machine alone, unless the owner of the process says `insecure`.
//! - Nobody says its name itself: a name comes out of a certificate that the listener's authority has signed.
//! - A connection that says nothing is closed after [`HANDSHAKE_MAX`]. Of those that have not
//!   authenticated, [`WAITING_MAX`] may be open; one more closes the oldest.

pub mod dialer;
pub mod identity;
pub mod listener;
mod secret;
mod stream;
pub mod tls;

pub use dialer::{DialError, Dialer, FetchError, Target};
pub use identity::{Identity, Role};
pub use listener::{Connection, Greeting, HANDSHAKE_MAX, Listener, PeerInfo, WAITING_MAX};
pub use secret::Secret;
pub use tls::{ClientFiles, ServerFiles, ServerTls, TlsError};
