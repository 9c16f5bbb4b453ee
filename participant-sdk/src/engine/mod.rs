//! The engine: one task around an [`Agent`], which decides. Here is only I/O.
//!
//! ```text
//! Assent, peers ──commands──▶        ──calls──────▶ hooks
//! replica ◀─────frames──────▶ engine ──questions──▶ the voter's store, peers
//! timers ───────────────────▶        ◀──inputs────── tasks that have finished
//! ```
//!
//! All that happens becomes an input of the agent, one after the other. After each turn the engine
//! does what the agent wants done, and sends one frame with all that there is to say. Hooks run in
//! tasks of their own, and so do questions to the voter's store and to peers. When the session
//! breaks the engine dials again.
//!
//! | file | subject |
//! |---|---|
//! | `start` | the first session, and what the participant and its voter have from before |
//! | `run` | the loop: inputs in, frames out |
//! | `outputs` | what the agent wants done, turned into calls and tasks |
//! | `link` | one session: dialled, greeted, then frames both ways |
//! | `timers` | the agent's timers |
//! | `hooks` | participants of any type |
//! | `voting` | the participant's voter, its store and its peers |

mod hooks;
mod link;
mod outputs;
mod run;
mod start;
#[cfg(test)]
mod tests;
mod timers;
mod voting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use assent_proto::session::Ask;
use assent_protocol::agent::{Agent, Answer, Input, Overheard, Ticket};
use assent_protocol::three_phase::PeerAddress;
use assent_protocol::two_phase::EarlyVote;
use assent_protocol::{BranchKey, Gtid, InstanceId, ParticipantName};
use assent_transport::{Dialer, ServerTls};
use tokio::sync::{mpsc, oneshot};

use crate::participant::Coordinator;
use crate::voter::OwnVoter;
use crate::voter::store::AnyStore;
use timers::Timers;

pub(crate) use assent_protocol::message::request_bytes;
pub(crate) use hooks::{AnyParticipant, AnySagaParticipant};

/// What a process brings along.
pub(crate) struct Settings {
    pub(crate) address: String,
    pub(crate) dialer: Dialer,
    pub(crate) name: Option<ParticipantName>,
    pub(crate) branches: Option<Arc<dyn AnyParticipant>>,
    pub(crate) steps: Option<Arc<dyn AnySagaParticipant>>,
    pub(crate) connect_timeout: Duration,
    /// How many hooks of each purpose run at a time.
    pub(crate) hooks_max: usize,
    /// How often the agent looks for branches that were left prepared; give or take a quarter.
    pub(crate) in_doubt_interval: Duration,
    /// How long such a branch has been listed when the agent asks about it.
    pub(crate) in_doubt_grace: Duration,
    pub(crate) voter: Option<VoterSettings>,
}

/// The participant's voter.
pub(crate) struct VoterSettings {
    pub(crate) store: AnyStore,
    /// Where its peers reach it.
    pub(crate) address: PeerAddress,
    /// With what they are answered there; in clear on this machine.
    pub(crate) tls: Option<Arc<ServerTls>>,
}

/// What the process asks of its engine.
pub(crate) enum Command {
    /// A request, to be answered.
    Ask { gtid: Gtid, ask: Ask, answer: oneshot::Sender<Answer> },
    /// A request whose answer is of no interest.
    Tell { gtid: Gtid, ask: Ask },
    /// A branch that is prepared, to be enlisted.
    Enlist { key: BranchKey, vote: EarlyVote, answer: oneshot::Sender<Answer> },
    /// A branch that was not enlisted, and is undone by the service that prepared it.
    Withdraw { key: BranchKey },
    /// A peer has asked the own voter, which answered.
    VoterWasAsked { gtid: Gtid, overheard: Box<Overheard> },
    /// Finish what runs, and end.
    Shutdown,
}

/// What others may know of the engine without asking.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) payload_bytes_max: AtomicUsize,
    /// The epoch of the replica behind the present session, or the last one.
    pub(crate) epoch: AtomicU64,
    /// The participant's voter, if it has one.
    pub(crate) voter: Option<Arc<OwnVoter>>,
    /// With what its peers are answered.
    pub(crate) peer_tls: Option<Arc<ServerTls>>,
}

/// See the module.
pub(crate) struct Engine {
    settings: Settings,
    instance: InstanceId,
    shared: Arc<Shared>,
    agent: Agent,
    commands: mpsc::Receiver<Command>,
    /// What tasks have come to.
    finished: mpsc::UnboundedReceiver<Input>,
    finish: mpsc::UnboundedSender<Input>,
    timers: Timers,
    /// The callers of requests.
    callers: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    last_ticket: Ticket,
    /// How many sessions there have been.
    sessions: u64,
    voting: Option<voting::Voting>,
}
