//! One shard: the task around a [`Replica`]. It turns what reaches it into the replica's inputs,
//! and what the replica wants done into calls. It chooses when, and decides nothing.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use assent_crash::crash_point;
use assent_protocol::Gtid;
#[cfg(not(test))]
use assent_protocol::replica::Replica;
use assent_protocol::replica::{self, Change, Counts, SessionId, TransactionView};
use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::committer::{Receipts, ShardBatch};
use super::lookup;
use super::outbound::Outbound;
#[cfg(test)]
use super::replay::Replica;
use super::statistics::{Statistics, add, subtract};
use super::timers::Timers;
use super::{Input, now_ms};
use crate::log::{Batch, Log};

/// Records that nobody waits for are appended after this long, if no other batch takes them along.
/// So are ends of three-phase transactions, although they are forced: what is sealed behind them is
/// orders to forget.
const LINGER: Duration = Duration::from_millis(20);
/// Or as soon as there are so many of them.
const LAZY_MAX: usize = 1_024;
/// Inputs that are taken in one turn.
const TURN_MAX: usize = 64;

/// What a shard is made of.
pub(super) struct Parts {
    pub(super) config: replica::Config,
    pub(super) log: Arc<dyn Log>,
    pub(super) batches: mpsc::Sender<ShardBatch>,
    pub(super) statistics: Arc<Statistics>,
}

/// See the module.
pub(super) struct Shard {
    number: usize,
    replica: Replica,
    log: Arc<dyn Log>,
    batches: mpsc::Sender<ShardBatch>,
    statistics: Arc<Statistics>,
    /// What the statistics have of this shard already.
    counted: Counts,
    timers: Timers,
    /// Where the messages of each session go.
    outbound: HashMap<SessionId, Outbound>,
    /// Messages that may wait for one session before it is cut.
    backlog_max: usize,
    watchers: HashMap<Gtid, Vec<mpsc::Sender<TransactionView>>>,
    draining: Option<oneshot::Sender<()>>,
    /// A batch is under way: what comes up meanwhile makes up the next one.
    is_appending: bool,
    linger_until: Option<Instant>,
}

impl Shard {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { config, log, batches, statistics } = parts;
        Self {
            number: config.shard,
            backlog_max: config.limits.backlog_max,
            replica: Replica::new(config, now_ms()),
            log,
            batches,
            statistics,
            counted: Counts::default(),
            timers: Timers::default(),
            outbound: HashMap::new(),
            watchers: HashMap::new(),
            draining: None,
            is_appending: false,
            linger_until: None,
        }
    }

    /// Runs until every handle of the driver is gone, or the committer has stopped.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Input>, mut receipts: mpsc::Receiver<Receipts>) {
        let mut inputs = Vec::with_capacity(TURN_MAX);
        let mut question: Fuse<BoxFuture<'static, replica::Input>> = Fuse::terminated();
        loop {
            let linger_until = self.linger_until;
            tokio::select! {
                biased;
                confirmed = receipts.recv(), if self.is_appending => match confirmed {
                    Some(appended) => self.appended(appended),
                    // Fenced: whatever is in flight may not be told to anyone.
                    None => return,
                },
                answer = &mut question, if !question.is_terminated() => self.handle(answer),
                due = poll_fn(|context| self.timers.poll_due(context)), if !self.timers.is_empty() => {
                    if let Some((gtid, timer)) = due {
                        self.handle(replica::Input::TimerFired { gtid, timer });
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
            self.end_of_turn();
            if question.is_terminated()
                && let Some(gtids) = self.replica.take_question()
            {
                question = lookup::ask(&self.log, gtids).fuse();
            }
        }
        self.hand_in(&mut receipts).await;
    }

    /// The last records, before the task ends.
    async fn hand_in(&mut self, receipts: &mut mpsc::Receiver<Receipts>) {
        loop {
            if self.is_appending {
                let Some(appended) = receipts.recv().await else { return };
                self.appended(appended);
            }
            self.send_batch(true);
            if !self.is_appending {
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Messages { session, messages } => {
                add(&self.statistics.messages_in, messages.len() as u64);
                for message in messages {
                    #[cfg(debug_assertions)]
                    let counted = crash_points::of_client(&message);
                    self.handle(replica::Input::Message { session, message });
                    #[cfg(debug_assertions)]
                    crash_points::reach(counted);
                }
            }
            Input::SessionOpened { peer, outbound } => {
                self.outbound.insert(peer.session, outbound);
                self.handle(replica::Input::SessionOpened(peer));
                self.cut_closed_sessions();
            }
            Input::SessionClosed(session) => self.close(session),
            Input::Core(input) => self.handle(input),
            Input::View { gtid, answer } => {
                answer.send(self.replica.view(gtid)).ok();
            }
            Input::Browse { browse, answer } => {
                answer.send(self.replica.browse(&browse)).ok();
            }
            Input::Connected { answer } => {
                let count = |sessions| u32::try_from(sessions).unwrap_or(u32::MAX);
                let connected = self.replica.connected().map(|(name, sessions)| (name.clone(), count(sessions)));
                answer.send(connected.collect()).ok();
            }
            Input::Watch { gtid, changes } => self.watch(gtid, changes),
            Input::Drain { done } => {
                self.handle(replica::Input::Drain);
                self.draining = Some(done);
            }
        }
    }

    fn handle(&mut self, input: replica::Input) {
        self.replica.handle(now_ms(), input);
    }

    // ---- records ---------------------------------------------------------------------------------------------------

    fn send_batch(&mut self, now: bool) {
        let pending = self.replica.records_pending();
        if self.is_appending || pending == 0 {
            return;
        }
        let linger_is_over = self.linger_until.is_some_and(|until| until <= Instant::now());
        let is_due =
            now || self.draining.is_some() || linger_is_over || self.replica.is_append_urgent() || pending >= LAZY_MAX;
        if !is_due {
            self.linger_until.get_or_insert_with(|| Instant::now() + LINGER);
            return;
        }
        self.linger_until = None;
        let Some(replica::Batch { forced, lazy }) = self.replica.take_batch() else { return };
        crash_point!(APPEND_DUE);
        let batch = Batch { at_ms: 0, forced, lazy };
        // There is room: a shard has at most one batch under way. A committer that has stopped
        // closes the receipts too.
        self.batches.try_send(ShardBatch { shard: self.number, batch }).ok();
        crash_point!(APPEND_SENT);
        self.is_appending = true;
    }

    fn appended(&mut self, appended: Receipts) {
        crash_point!(APPEND_CONFIRMED);
        self.is_appending = false;
        // What has queued meanwhile goes first, so that the log works while the effects are carried
        // out.
        self.send_batch(false);
        self.handle(replica::Input::Appended(appended));
        crash_point!(EFFECTS_RELEASED);
        if self.replica.counts().open < self.counted.open {
            crash_point!(END_APPENDED);
        }
    }

    // ---- the end of a turn -----------------------------------------------------------------------------------------

    fn end_of_turn(&mut self) {
        self.send_batch(false);
        self.send_messages();
        for change in self.replica.take_timers() {
            self.timers.apply(change);
        }
        self.tell_watchers();
        self.count();
        if self.replica.is_drained()
            && let Some(done) = self.draining.take()
        {
            done.send(()).ok();
        }
    }

    fn send_messages(&mut self) {
        // Closing a session may give others something to say.
        loop {
            let mut lost = Vec::new();
            let mut sent = 0;
            self.replica.take_messages(|session, messages| {
                sent += messages.len() as u64;
                #[cfg(debug_assertions)]
                let points = crash_points::of_replica(&messages);
                let is_sent =
                    self.outbound.get(&session).is_some_and(|outbound| outbound.send(messages, self.backlog_max));
                if !is_sent {
                    lost.push(session);
                }
                #[cfg(debug_assertions)]
                points.into_iter().for_each(crash_points::reach);
            });
            add(&self.statistics.messages_out, sent);
            if lost.is_empty() {
                return;
            }
            for session in lost {
                tracing::warn!(session = session.0, "cutting a session that does not take its messages");
                self.close(session);
            }
        }
    }

    fn close(&mut self, session: SessionId) {
        self.handle(replica::Input::SessionClosed(session));
        if let Some(outbound) = self.outbound.remove(&session) {
            outbound.give_up();
        }
    }

    /// Cuts the sessions that the replica has closed by itself: their process has dialled again.
    fn cut_closed_sessions(&mut self) {
        let replica = &self.replica;
        self.outbound.retain(|session, outbound| {
            let is_open = replica.is_open(*session);
            if !is_open {
                outbound.give_up();
            }
            is_open
        });
    }

    // ---- watching --------------------------------------------------------------------------------------------------

    fn watch(&mut self, gtid: Gtid, changes: mpsc::Sender<TransactionView>) {
        let Some(view) = self.replica.watch(gtid) else { return };
        let watchers = self.watchers.entry(gtid).or_default();
        // One that has gone is noticed at the next change, which may be long in coming.
        watchers.retain(|watcher| !watcher.is_closed());
        if changes.try_send(view).is_ok() {
            watchers.push(changes);
        }
        if watchers.is_empty() {
            self.watchers.remove(&gtid);
            self.replica.unwatch(gtid);
        }
    }

    fn tell_watchers(&mut self) {
        let mut left = Vec::new();
        for change in self.replica.take_changes() {
            match change {
                Change::Changed(view) => {
                    let Some(watchers) = self.watchers.get_mut(&view.gtid) else { continue };
                    // A watcher that lags behind is cut, and reads the end from the log.
                    watchers.retain(|watcher| watcher.try_send(view.clone()).is_ok());
                    if watchers.is_empty() {
                        left.push(view.gtid);
                    }
                }
                Change::Ended(view) => {
                    for watcher in self.watchers.remove(&view.gtid).unwrap_or_default() {
                        watcher.try_send(view.clone()).ok();
                    }
                }
                Change::Gone(gtid) => {
                    self.watchers.remove(&gtid);
                }
            }
        }
        for gtid in left {
            self.watchers.remove(&gtid);
            self.replica.unwatch(gtid);
        }
    }

    /// Adds what the replica has counted since the last turn.
    fn count(&mut self) {
        let (counts, before) = (self.replica.counts(), self.counted);
        if counts == before {
            return;
        }
        let statistics = &self.statistics;
        add(&statistics.begun, counts.begun - before.begun);
        add(&statistics.committed, counts.committed - before.committed);
        add(&statistics.aborted, counts.aborted - before.aborted);
        add(&statistics.completed, counts.completed - before.completed);
        add(&statistics.compensated, counts.compensated - before.compensated);
        if counts.open >= before.open {
            add(&statistics.open, counts.open - before.open);
        } else {
            subtract(&statistics.open, before.open - counts.open);
        }
        self.counted = counts;
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// The crash points behind what came in and what went out.
#[cfg(debug_assertions)]
mod crash_points {
    use assent_protocol::branch::{Acknowledgement, HookEnd, Message};
    use assent_protocol::message::{FromClient, FromReplica};

    use super::*;

    #[derive(Clone, Copy)]
    pub(super) enum Point {
        VoteCounted,
        AcknowledgementCounted,
        StepCounted,
        PrepareSent,
        CommitSent,
        AbortSent,
        StepSent,
        None,
    }

    pub(super) fn of_client(message: &FromClient) -> Point {
        match message {
            FromClient::Branch(report) => match &report.message {
                Message::Vote(_) => Point::VoteCounted,
                Message::Acknowledge(Acknowledgement { end: HookEnd::Ended(_), .. }) => Point::AcknowledgementCounted,
                Message::Acknowledge(Acknowledgement { end: HookEnd::Failed(_), .. }) | Message::Inquire => Point::None,
            },
            FromClient::Step(_) => Point::StepCounted,
            FromClient::Hello(_) | FromClient::Heartbeat | FromClient::Request(_) | FromClient::Voter(_) => Point::None,
        }
    }

    pub(super) fn of_replica(messages: &[FromReplica]) -> Vec<Point> {
        let point = |message: &FromReplica| match message {
            FromReplica::Prepare { .. } => Point::PrepareSent,
            FromReplica::CommitBranch { .. } => Point::CommitSent,
            FromReplica::AbortBranch { .. } => Point::AbortSent,
            FromReplica::ExecuteStep { .. } | FromReplica::CompensateStep { .. } => Point::StepSent,
            FromReplica::Welcome(_)
            | FromReplica::Heartbeat
            | FromReplica::Reply { .. }
            | FromReplica::GoAway { .. }
            | FromReplica::AskVoter { .. }
            | FromReplica::LogAnswered { .. }
            | FromReplica::AwaitDecision { .. }
            | FromReplica::ForgetVoters { .. } => Point::None,
        };
        messages.iter().map(point).collect()
    }

    pub(super) fn reach(point: Point) {
        match point {
            Point::VoteCounted => drop(crash_point!(VOTE_COUNTED)),
            Point::AcknowledgementCounted => drop(crash_point!(ACKNOWLEDGEMENT_COUNTED)),
            Point::StepCounted => drop(crash_point!(STEP_COUNTED)),
            Point::PrepareSent => drop(crash_point!(PREPARE_SENT)),
            Point::CommitSent => drop(crash_point!(COMMIT_SENT)),
            Point::AbortSent => drop(crash_point!(ABORT_SENT)),
            Point::StepSent => drop(crash_point!(STEP_SENT)),
            Point::None => {}
        }
    }
}
