//! One shard: the task that owns the machines of its gtids.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use assent_crash::crash_point;
use assent_protocol::three_phase::StoreId;
use assent_protocol::three_phase::coordinator::Stage;
use assent_protocol::two_phase::State;
use assent_protocol::{
    AbortReason, Appended, Epoch, Gtid, GtidMap, Held, Outcome, ParticipantName, Protocol, Record, saga, three_phase,
    two_phase,
};
use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::time::DelayQueue;

use super::committer::{Receipts, ShardBatch};
use super::ended::{Ended, EndedAnswer};
use super::entry::{Due, Entry, Machine, now_ms};
use super::lookup::{Answer, Lookups};
use super::peers::{Peers, SessionId};
use super::statistics::{Statistics, add, subtract};
use super::view::TransactionView;
use super::{Input, Limits};
use crate::log::{Batch, Log};

/// Records that nobody waits for are appended after this long, if no other batch takes them along. So are ends of
/// three-phase transactions, although they are forced: what is sealed behind them is orders to forget.
const LINGER: Duration = Duration::from_millis(20);
/// Or as soon as there are so many of them.
const LAZY_MAX: usize = 1_024;
/// The longest timer that the queue of timers takes is a little over two years.
const TIMER_MAX_MS: u64 = 365 * 24 * 3_600 * 1_000;
/// Inputs that are taken in one turn.
const TURN_MAX: usize = 64;

/// What a shard is made of.
pub(super) struct Parts {
    pub(super) number: usize,
    pub(super) shards: usize,
    pub(super) epoch: Epoch,
    pub(super) limits: Limits,
    pub(super) known: Vec<ParticipantName>,
    pub(super) log: Arc<dyn Log>,
    pub(super) log_store: StoreId,
    pub(super) batches: mpsc::Sender<ShardBatch>,
    pub(super) statistics: Arc<Statistics>,
}

/// See the module.
pub(super) struct Shard {
    pub(super) number: usize,
    pub(super) epoch: Epoch,
    /// This shard's part of the replica's limits.
    pub(super) limits: Limits,
    pub(super) log: Arc<dyn Log>,
    /// The log's identity, as a voter of three-phase transactions.
    pub(super) log_store: StoreId,
    batches: mpsc::Sender<ShardBatch>,
    pub(super) statistics: Arc<Statistics>,
    pub(super) entries: GtidMap<Entry>,
    pub(super) ended: Ended,
    pub(super) peers: Peers,
    pub(super) timers: DelayQueue<Due>,
    pub(super) lookups: Lookups,
    /// Payload bytes of the open transactions.
    pub(super) bytes: usize,
    pub(super) watchers: HashMap<Gtid, Vec<mpsc::Sender<TransactionView>>>,
    pub(super) draining: Option<oneshot::Sender<()>>,
    pub(super) is_draining: bool,
    /// Collects while the flight is away.
    pending: Flight,
    flight: Option<Flight>,
    linger_until: Option<Instant>,
}

/// One batch, and what waits for it.
#[derive(Default)]
struct Flight {
    batch: Batch,
    /// In the order of the forced records.
    held: Vec<(Gtid, HeldEffects)>,
    /// Somebody waits for one of those.
    is_urgent: bool,
    /// Whose end is in it: forgotten once it is durable.
    ended: Vec<Gtid>,
}

/// The sealed effects of a machine.
pub(super) enum HeldEffects {
    TwoPhase(Held<two_phase::Effect>),
    ThreePhase(Held<three_phase::coordinator::Effect>),
    Saga(Held<saga::Effect>),
}

impl Shard {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { number, shards, epoch, mut limits, known, log, log_store, batches, statistics } = parts;
        limits.open_max = (limits.open_max / shards).max(1);
        limits.open_bytes_max /= shards;
        limits.ended_max = (limits.ended_max / shards).max(1);
        limits.timeout_max_ms = limits.timeout_max_ms.min(TIMER_MAX_MS);
        Self {
            number,
            epoch,
            ended: Ended::new(limits.ended_max, now_ms()),
            peers: Peers::new(known, limits.backlog_max),
            limits,
            log,
            log_store,
            batches,
            statistics,
            entries: GtidMap::default(),
            timers: DelayQueue::new(),
            lookups: Lookups::default(),
            bytes: 0,
            watchers: HashMap::new(),
            draining: None,
            is_draining: false,
            pending: Flight::default(),
            flight: None,
            linger_until: None,
        }
    }

    /// Runs until every handle of the driver is gone, or the committer has stopped.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Input>, mut receipts: mpsc::Receiver<Receipts>) {
        let mut inputs = Vec::with_capacity(TURN_MAX);
        let mut question: Fuse<BoxFuture<'static, Answer>> = Fuse::terminated();
        loop {
            let linger_until = self.linger_until;
            tokio::select! {
                biased;
                confirmed = receipts.recv(), if self.flight.is_some() => match confirmed {
                    Some(appended) => self.appended(appended),
                    // Fenced: whatever is in flight may not be told to anyone.
                    None => return,
                },
                answer = &mut question, if !question.is_terminated() => self.looked_up(answer),
                due = poll_fn(|context| self.timers.poll_expired(context)), if !self.timers.is_empty() => {
                    if let Some(due) = due {
                        let (gtid, timer) = due.into_inner();
                        self.timer_fired(gtid, timer);
                    }
                }
                () = sleep_until(linger_until), if linger_until.is_some() => self.linger_until = Some(Instant::now()),
                taken = inbox.recv_many(&mut inputs, TURN_MAX) => {
                    if taken == 0 {
                        break;
                    }
                    for input in inputs.drain(..) {
                        self.take(input);
                    }
                }
            }
            self.send_batch(false);
            self.send_messages();
            self.answer_drain();
            if question.is_terminated() && self.lookups.has_question() {
                question = self.lookups.ask(&self.log).fuse();
            }
        }
        self.hand_in(&mut receipts).await;
    }

    /// The last records, before the task ends.
    async fn hand_in(&mut self, receipts: &mut mpsc::Receiver<Receipts>) {
        loop {
            if self.flight.is_some() {
                let Some(appended) = receipts.recv().await else { return };
                self.appended(appended);
            }
            self.send_batch(true);
            if self.flight.is_none() {
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Messages { session, messages } => {
                add(&self.statistics.messages_in, messages.len() as u64);
                for message in messages {
                    self.message(session, message);
                }
            }
            Input::SessionOpened(peer) => {
                for replaced in self.peers.replaced_by(&peer) {
                    self.session_closed(replaced);
                }
                let participant = peer.participant.clone();
                self.peers.open(peer);
                if let Some(participant) = participant {
                    self.joined(&participant);
                }
            }
            Input::SessionClosed(session) => self.session_closed(session),
            Input::NameBranch { gtid, branch, session, request_id } => {
                self.name_branch(gtid, branch, session, request_id);
            }
            Input::Recovered(transaction) => self.recovered(transaction),
            Input::View { gtid, answer } => {
                let view = self.entries.get(&gtid).map(|entry| TransactionView::of(gtid, entry));
                answer.send(view).ok();
            }
            Input::Browse { browse, answer } => {
                answer.send(self.browse(&browse)).ok();
            }
            Input::Connected { answer } => {
                answer.send(self.peers.connected()).ok();
            }
            Input::Watch { gtid, changes } => {
                if let Some(entry) = self.entries.get(&gtid)
                    && changes.try_send(TransactionView::of(gtid, entry)).is_ok()
                {
                    let watchers = self.watchers.entry(gtid).or_default();
                    // One that has gone is noticed at the next change, which may be long in coming.
                    watchers.retain(|watcher| !watcher.is_closed());
                    watchers.push(changes);
                }
            }
            Input::Drain { done } => {
                self.is_draining = true;
                self.draining = Some(done);
            }
        }
    }

    // ---- records ---------------------------------------------------------------------------------------------------

    /// Queues a record that the transaction waits for.
    pub(super) fn force(&mut self, gtid: Gtid, record: Record, held: HeldEffects) {
        if let Some(entry) = self.entries.get_mut(&gtid) {
            entry.appending += 1;
        }
        self.pending.is_urgent |= !matches!(&record, Record::Ended(ended) if ended.protocol == Protocol::ThreePhase);
        if matches!(record, Record::Ended(_)) {
            self.pending.ended.push(gtid);
            self.stop_timers(gtid);
        }
        self.pending.batch.forced.push(record);
        self.pending.held.push((gtid, held));
    }

    /// Queues records that ride along.
    pub(super) fn ride(&mut self, gtid: Gtid, records: Vec<Record>) {
        for record in records {
            if matches!(record, Record::Ended(_)) {
                self.pending.ended.push(gtid);
                self.stop_timers(gtid);
            }
            self.pending.batch.lazy.push(record);
        }
    }

    fn send_batch(&mut self, now: bool) {
        if self.flight.is_some() || self.pending.batch.is_empty() {
            return;
        }
        let linger_is_over = self.linger_until.is_some_and(|until| until <= Instant::now());
        let is_due = now
            || self.is_draining
            || linger_is_over
            || self.pending.is_urgent
            || self.pending.batch.lazy.len() + self.pending.batch.forced.len() >= LAZY_MAX;
        if !is_due {
            self.linger_until.get_or_insert_with(|| Instant::now() + LINGER);
            return;
        }
        self.linger_until = None;
        let mut flight = std::mem::take(&mut self.pending);
        let batch = std::mem::take(&mut flight.batch);
        crash_point!(APPEND_DUE);
        // There is room: a shard has at most one batch under way. A committer that has stopped closes the receipts too.
        self.batches.try_send(ShardBatch { shard: self.number, batch }).ok();
        crash_point!(APPEND_SENT);
        self.flight = Some(flight);
    }

    fn appended(&mut self, appended: Receipts) {
        let Some(flight) = self.flight.take() else { return };
        crash_point!(APPEND_CONFIRMED);
        // What has queued meanwhile goes first, so that the log works while the effects are carried out.
        self.send_batch(false);
        for ((gtid, held), appended) in flight.held.into_iter().zip(appended) {
            if let Some(entry) = self.entries.get_mut(&gtid) {
                entry.appending -= 1;
            }
            if appended == Appended::Undecided {
                self.let_go(gtid);
                continue;
            }
            match held {
                HeldEffects::TwoPhase(held) => {
                    if let Appended::Durable(receipt) = &appended {
                        self.two_phase_effects(gtid, held.release(receipt));
                    }
                    self.two_phase_event(gtid, two_phase::Event::Appended(appended));
                }
                HeldEffects::ThreePhase(held) => {
                    if let Appended::Durable(receipt) = &appended {
                        self.three_phase_effects(gtid, held.release(receipt));
                    }
                    let event = two_phase::Event::Appended(appended);
                    self.three_phase_event(gtid, three_phase::coordinator::Event::TwoPhase(event));
                }
                HeldEffects::Saga(held) => {
                    if let Appended::Durable(receipt) = &appended {
                        self.saga_effects(gtid, held.release(receipt));
                    }
                    self.saga_event(gtid, saga::Event::Appended(appended));
                }
            }
        }
        crash_point!(EFFECTS_RELEASED);
        for gtid in flight.ended {
            crash_point!(END_APPENDED);
            self.forget(gtid);
        }
    }

    /// Its end is durable: only its answer is kept, for retries.
    fn forget(&mut self, gtid: Gtid) {
        let Some(entry) = self.entries.remove(&gtid) else { return };
        debug_assert!(entry.machine.is_ended(), "only an ended transaction is forgotten");
        self.bytes -= entry.bytes;
        subtract(&self.statistics.open, 1);
        let answer = match &entry.machine {
            Machine::TwoPhase(_) | Machine::ThreePhase(_) => entry.machine.transaction().map(|machine| {
                let is_committed = machine.state() == State::Committed;
                add(if is_committed { &self.statistics.committed } else { &self.statistics.aborted }, 1);
                EndedAnswer {
                    digest: machine.digest(),
                    outcome: if is_committed { Outcome::Committed } else { Outcome::Aborted },
                    reason: machine.reason().cloned().map(shortened),
                }
            }),
            Machine::Saga(machine) => {
                let is_completed = machine.outcome() == Some(Outcome::Completed);
                add(if is_completed { &self.statistics.completed } else { &self.statistics.compensated }, 1);
                None
            }
        };
        self.ended.keep(gtid, answer, now_ms());
        if let Some(watchers) = self.watchers.remove(&gtid) {
            let view = TransactionView::of(gtid, &entry);
            for watcher in watchers {
                // A watcher that lags behind is cut, and reads the end from the log.
                watcher.try_send(view.clone()).ok();
            }
        }
    }

    /// Another writer's word stands in the log for this gtid: this machine is of no use, and the log answers from here on.
    pub(super) fn let_go(&mut self, gtid: Gtid) {
        self.stop_timers(gtid);
        if let Some(entry) = self.entries.remove(&gtid) {
            self.bytes -= entry.bytes;
            subtract(&self.statistics.open, 1);
            self.ended.keep(gtid, None, now_ms());
        }
        self.watchers.remove(&gtid);
    }

    /// Tells those who watch.
    pub(super) fn changed(&mut self, gtid: Gtid) {
        if self.watchers.is_empty() {
            return;
        }
        let Some(entry) = self.entries.get(&gtid) else { return };
        if let Some(watchers) = self.watchers.get_mut(&gtid) {
            let view = TransactionView::of(gtid, entry);
            watchers.retain(|watcher| watcher.try_send(view.clone()).is_ok());
        }
    }

    // ---- the end of a turn -----------------------------------------------------------------------------------------

    fn send_messages(&mut self) {
        // Closing a session may give others something to say.
        loop {
            let (messages, lost) = self.peers.flush();
            add(&self.statistics.messages_out, messages);
            if lost.is_empty() {
                return;
            }
            for session in lost {
                tracing::warn!(session = session.0, "cutting a session that does not take its messages");
                self.session_closed(session);
            }
        }
    }

    fn session_closed(&mut self, session: SessionId) {
        let Some(peer) = self.peers.close(session) else { return };
        self.left(&peer);
    }

    fn answer_drain(&mut self) {
        if self.draining.is_none() || self.flight.is_some() || !self.pending.batch.is_empty() {
            return;
        }
        // A three-phase transaction whose voters are to agree needs no coordinator: it is decided as far as this one goes.
        let is_undecided = |entry: &Entry| {
            let is_agreeing =
                matches!(&entry.machine, Machine::ThreePhase(machine) if machine.stage() == Stage::Agreeing);
            let is_open =
                |state| matches!(state, State::Active | State::Preparing | State::OnePhase | State::Deciding(_));
            // What its voters agreed on is to be found by whoever takes over.
            let is_unlogged = matches!(&entry.machine, Machine::ThreePhase(machine)
                if matches!(machine.stage(), Stage::Agreed(_)) && !machine.is_decision_logged() && !machine.is_ended());
            is_unlogged || !is_agreeing && entry.machine.transaction().is_some_and(|machine| is_open(machine.state()))
        };
        if !self.entries.values().any(is_undecided)
            && let Some(done) = self.draining.take()
        {
            done.send(()).ok();
        }
    }
}

/// Reasons are for people; the cache keeps what a screen shows.
fn shortened(mut reason: AbortReason) -> AbortReason {
    const BYTES_MAX: usize = 512;
    if reason.message.len() > BYTES_MAX {
        let end = reason.message.floor_char_boundary(BYTES_MAX);
        reason.message.truncate(end);
    }
    reason
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
