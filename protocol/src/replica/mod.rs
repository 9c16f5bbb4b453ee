//! The replica: the machine around the machines. It decides what one shard of one coordinator
//! process does with each input.
//!
//! It owns the table of gtids. For each gtid it knows one of these, and [`Known`] says which:
//!
//! | known | what it holds | where |
//! |---|---|---|
//! | owned | the machine that drives the transaction | `entry` |
//! | asking | the requests that wait for the log's answer | `lookup` |
//! | ended | the answer for retries, or that the log has it | `ended` |
//! | unknown | nothing: the gtid is new, has been forgotten, or belongs to another coordinator | `unknown` |
//!
//! A replica does no I/O, reads no clock and draws no random number. The order of calls, for its
//! shell:
//!
//! 1. [`Replica::handle`] takes one input, and the time.
//! 2. [`Replica::take_batch`] gives the records that wait for the log. The log answers with
//!    [`Input::Appended`], one answer for each forced record and one input for each batch, in their
//!    order. Only the log's receipts open what is sealed behind the records.
//! 3. [`Replica::take_question`] gives the gtids to look up. The log answers with
//!    [`Input::LookedUp`].
//! 4. [`Replica::take_messages`], [`Replica::take_timers`] and [`Replica::take_changes`] give what
//!    else there is to do.
//!
//! The shell chooses the moment of 2 to 4, and nothing else: what is in them is decided here.
//!
//! | file | subject |
//! |---|---|
//! | `route` | which of the rows above a message meets |
//! | `owned` | messages about a transaction that this replica drives |
//! | `unknown` | what an unknown gtid means for each message |
//! | `ended` | what has ended, and who is told what |
//! | `admission` | what is taken on: limits, drain, new transactions |
//! | `initiator` | initiators that went away, and what they had begun |
//! | `drive` | events into machines, and their outputs out, the same for all protocols |
//! | `two_phase`, `voters`, `saga` | the effects of each protocol's machine |
//! | `append` | records on their way to the log, and what its answers release |
//! | `lookup` | requests that wait for a look into the log |
//! | `peers` | sessions, and the choice of an instance |
//! | `requests` | that every request is answered |
//! | `recovery` | open rows of the log become machines |
//! | `view`, `browse` | what operators see |

mod admission;
mod append;
mod browse;
mod drive;
mod ended;
mod entry;
mod initiator;
mod limits;
mod lookup;
mod owned;
mod peers;
mod recovery;
mod requests;
mod route;
mod saga;
mod two_phase;
mod unknown;
mod view;
mod voters;

use crate::durable::Appended;
use crate::found::{Found, Owned};
use crate::ids::{BranchId, Caller, Epoch, Gtid, GtidMap, GtidSet, InstanceId, ParticipantName};
use crate::message::{FromClient, FromReplica, MESSAGE_BYTES_MAX, Reason, Refused, Reply, payload_bytes};
use crate::saga::{Event as SagaEvent, Saga};
use crate::three_phase::{NodeId, StoreId};
use crate::two_phase::CarriedBranch;

use append::Appends;
use ended::Ended;
use entry::Entry;
use lookup::Lookups;
use peers::Peers;
use requests::Requests;

pub use append::Batch;
pub use browse::Browse;
pub use entry::Timer;
pub use limits::Limits;
pub use peers::{Peer, SessionId};
pub use recovery::contradiction;
pub use route::Known;
pub use view::{BranchView, TransactionView};

/// What a replica is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which shard of its process it is, from 0.
    pub shard: usize,
    /// How many shards the process has.
    pub shards: usize,
    /// The epoch under which it drives.
    pub epoch: Epoch,
    /// What the whole process takes on; the shard takes its share.
    pub limits: Limits,
    /// The participants that have ever joined.
    pub known: Vec<ParticipantName>,
    /// The log's identity, as a voter of three-phase transactions.
    pub log_store: StoreId,
}

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Input {
    /// A session is open; comes before its messages.
    SessionOpened(Peer),
    /// A session is about to be closed, because what its client has shown holds no longer. Its
    /// messages go on; it is given no more orders.
    SessionRetires(SessionId),
    /// A session is gone; comes after its messages.
    SessionClosed(SessionId),
    /// A session's message.
    Message {
        /// Which session.
        session: SessionId,
        /// What.
        message: FromClient,
    },
    /// A unary call names a branch ahead of the commit.
    NameBranch {
        /// Which transaction.
        gtid: Gtid,
        /// The branch.
        branch: CarriedBranch,
        /// Answered on this session.
        session: SessionId,
        /// With this number.
        request_id: u64,
    },
    /// A timer of a transaction is due.
    TimerFired {
        /// Which transaction.
        gtid: Gtid,
        /// Which timer.
        timer: Timer,
    },
    /// The log answers the oldest batch that it has not answered: one answer for each forced
    /// record.
    Appended(Vec<Appended>),
    /// The log answers a question.
    LookedUp {
        /// What was asked for.
        gtids: Vec<Gtid>,
        /// What the log has of them, or why it does not answer.
        found: Result<Vec<(Gtid, Found)>, Refused>,
    },
    /// The log has this transaction open, at the start.
    Recovered(Owned),
    /// An operator has mended what a saga is paused for: everything open in it is tried again at
    /// once.
    Resumed(Gtid),
    /// Take on nothing new.
    Drain,
}

/// A timer to set or to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerChange {
    /// (Re)start it.
    Set {
        /// Which transaction.
        gtid: Gtid,
        /// Which timer.
        timer: Timer,
        /// After at least so many milliseconds.
        after_ms: u64,
        /// And by chance up to so many more.
        jitter_ms: u64,
    },
    /// Stop it.
    Cancel {
        /// Which transaction.
        gtid: Gtid,
        /// Which timer.
        timer: Timer,
    },
    /// Stop every timer of this transaction.
    CancelAll(Gtid),
}

/// What has happened to a transaction that is [watched](Replica::watch).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its state is another.
    Changed(TransactionView),
    /// It has ended: this is the last view.
    Ended(TransactionView),
    /// This replica drives it no longer.
    Gone(Gtid),
}

/// What a replica counts. Only `open` ever falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions and sagas that were taken on.
    pub begun: u64,
    /// Transactions that committed.
    pub committed: u64,
    /// Transactions that aborted.
    pub aborted: u64,
    /// Sagas that completed.
    pub completed: u64,
    /// Sagas that were compensated.
    pub compensated: u64,
    /// Transactions and sagas in memory.
    pub open: u64,
}

/// The number of a branch begins with its shard's. At a million transactions a second of four
/// branches each, the rest lasts two years for one epoch.
const SHARD_SHIFT: u32 = 48;

/// See the module.
#[derive(Clone, Debug)]
pub struct Replica {
    shard: usize,
    shards: usize,
    epoch: Epoch,
    /// This shard's part of the process's limits.
    limits: Limits,
    /// The log's identity, as a voter of three-phase transactions.
    log_store: StoreId,
    /// The wall clock at the input that is being handled, in Unix milliseconds.
    now_ms: u64,
    entries: GtidMap<Entry>,
    ended: Ended,
    lookups: Lookups,
    peers: Peers,
    appends: Appends,
    requests: Requests,
    /// Payload bytes of the open transactions.
    bytes: usize,
    /// How many entries are presumed aborts whose branches have not acknowledged.
    presumed: usize,
    watched: GtidSet,
    is_draining: bool,
    /// How many nodes that may lead elections were named.
    nodes: u64,
    /// How many branches were given an identity.
    branches: u64,
    counts: Counts,
    timers: Vec<TimerChange>,
    changes: Vec<Change>,
    /// The cells of the machines' transition tables that were met since they were last taken.
    #[cfg(debug_assertions)]
    cells: std::collections::BTreeSet<crate::three_phase::cells::Cell>,
}

impl Replica {
    /// A shard that knows nothing yet.
    pub fn new(config: Config, now_ms: u64) -> Self {
        let Config { shard, shards, epoch, limits, known, log_store } = config;
        let limits = limits.of_one_shard(shards);
        Self {
            shard,
            shards: shards.max(1),
            epoch,
            // Epochs are drawn from one sequence: the first one had none before it.
            ended: Ended::new(limits.ended_max, now_ms, epoch > Epoch(1)),
            limits,
            log_store,
            now_ms,
            entries: GtidMap::default(),
            lookups: Lookups::default(),
            peers: Peers::new(known, now_ms),
            appends: Appends::default(),
            requests: Requests::default(),
            bytes: 0,
            presumed: 0,
            watched: GtidSet::default(),
            is_draining: false,
            nodes: 0,
            branches: 0,
            counts: Counts::default(),
            timers: Vec::new(),
            changes: Vec::new(),
            #[cfg(debug_assertions)]
            cells: std::collections::BTreeSet::new(),
        }
    }

    /// Takes one input. `now_ms` is the wall clock in Unix milliseconds.
    pub fn handle(&mut self, now_ms: u64, input: Input) {
        self.now_ms = now_ms;
        match input {
            Input::SessionOpened(peer) => self.session_opened(peer),
            Input::SessionRetires(session) => self.session_retires(session),
            Input::SessionClosed(session) => self.session_closed(session),
            Input::Message { session, message } => self.message(session, message),
            Input::NameBranch { gtid, branch, session, request_id } => {
                self.name_branch(gtid, branch, Caller { session: session.0, request: request_id });
            }
            Input::TimerFired { gtid, timer } => self.timer_fired(gtid, timer),
            Input::Appended(appended) => self.appended(appended),
            Input::LookedUp { gtids, found } => self.looked_up(gtids, found),
            Input::Recovered(transaction) => self.recovered(transaction),
            Input::Resumed(gtid) => self.drive::<Saga>(gtid, SagaEvent::ResumeRequested),
            Input::Drain => self.is_draining = true,
        }
        self.check_requests();
    }

    // ---- what there is to do ---------------------------------------------------------------------------------------

    /// Hands over the messages for each session, in their order. A message for a session that has
    /// closed is dropped.
    pub fn take_messages(&mut self, hand_over: impl FnMut(SessionId, Vec<FromReplica>)) {
        self.peers.take_messages(hand_over);
    }

    /// The timers to set and to stop, in their order.
    pub fn take_timers(&mut self) -> std::vec::Drain<'_, TimerChange> {
        self.timers.drain(..)
    }

    /// What has happened to the transactions that are watched.
    pub fn take_changes(&mut self) -> std::vec::Drain<'_, Change> {
        self.changes.drain(..)
    }

    /// The cells of the machines' transition tables that were met since the last call. A build
    /// without debug assertions collects none.
    #[cfg(debug_assertions)]
    pub fn take_cells(&mut self) -> std::collections::BTreeSet<crate::three_phase::cells::Cell> {
        std::mem::take(&mut self.cells)
    }

    /// What to look up in the log: everything that came up since the last question. To be answered
    /// by [`Input::LookedUp`], one question at a time.
    pub fn take_question(&mut self) -> Option<Vec<Gtid>> {
        self.lookups.take_question()
    }

    // ---- what can be read ------------------------------------------------------------------------------------------

    /// The epoch under which it drives.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What it has counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The sessions of each participant that is connected, in no order.
    pub fn connected(&self) -> impl Iterator<Item = (&ParticipantName, usize)> {
        self.peers.connected()
    }

    /// A participant and the process behind a session, if the session is open and serves a
    /// participant.
    fn participant_of(&self, session: SessionId) -> Option<(ParticipantName, InstanceId)> {
        let peer = self.peers.get(session)?;
        Some((peer.participant.clone()?, peer.instance))
    }

    // ---- what all parts share --------------------------------------------------------------------------------------

    /// An answer that fits into no message would cost the session, and all that others have on it.
    fn reply(&mut self, to: Caller, reply: Reply) {
        let session = SessionId(to.session);
        if !self.is_open(session) {
            return;
        }
        self.requests.answered(to);
        let mut message = FromReplica::Reply { request_id: to.request, reply };
        let bytes = payload_bytes(&message);
        if bytes > MESSAGE_BYTES_MAX {
            let refused = Reason::FrameTooLarge.refused(format!(
                "the answer has {bytes} bytes, and {MESSAGE_BYTES_MAX} fit into a message; read what it is about with Get"
            ));
            message = FromReplica::Reply { request_id: to.request, reply: Reply::Refused(refused) };
        }
        self.peers.send(session, message);
    }

    fn refuse(&mut self, to: Caller, refused: impl Into<Refused>) {
        self.reply(to, Reply::Refused(refused.into()));
    }

    /// A name for one machine that may lead elections. No other machine has the same: epochs are
    /// drawn once, and within an epoch each shard counts in steps of the number of shards.
    fn next_node(&mut self) -> NodeId {
        self.nodes += 1;
        let number = self.nodes * self.shards as u64 + self.shard as u64;
        NodeId(u128::from(self.epoch.0) << 64 | u128::from(number))
    }

    /// The first of as many identities for branches that no other branch has: epochs are drawn
    /// once, and within an epoch each shard has numbers of its own.
    fn next_branches(&mut self, count: usize) -> BranchId {
        let first = (self.shard as u64) << SHARD_SHIFT | self.branches;
        self.branches += count as u64;
        BranchId { epoch: self.epoch, number: first }
    }
}
