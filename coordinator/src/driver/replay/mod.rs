//! What shards do under load is recorded, and done again by fresh replicas: the outputs are the
//! same.
//!
//! So a replica's outputs follow from its inputs alone. Were there anything else, the order of a
//! hash table or a clock, what the simulation checks would not be what the server does.

mod load;

use std::cell::RefCell;
use std::fmt::Debug;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use assent_protocol::Gtid;
use assent_protocol::message::FromReplica;
use assent_protocol::record::Record;
use assent_protocol::replica::{self, Batch, Change, Config, Input, SessionId, TimerChange, TransactionView};

/// One call of a shard to its replica, with what came of it.
#[derive(Clone, Debug)]
enum Call {
    Handle { now_ms: u64, input: Input },
    TakeBatch { forced: Vec<Record>, lazy: Vec<Record> },
    TakeMessages(Vec<(SessionId, Vec<FromReplica>)>),
    TakeTimers(Vec<TimerChange>),
    TakeChanges(Vec<Change>),
    TakeQuestion(Vec<Gtid>),
    Watch(Gtid, Option<TransactionView>),
    Unwatch(Gtid),
}

/// One replica, from its start.
#[derive(Debug)]
struct Recording {
    config: Config,
    started_at_ms: u64,
    calls: Mutex<Vec<Call>>,
}

thread_local! {
    /// The replicas that this thread has made, while it wants to know of them.
    static RECORDINGS: RefCell<Option<Vec<Arc<Recording>>>> = const { RefCell::new(None) };
}

/// A replica as a shard uses it: it is recorded, if the thread that has made it records.
#[derive(Debug)]
pub(super) struct Replica {
    replica: replica::Replica,
    recording: Option<Arc<Recording>>,
}

impl Replica {
    pub(super) fn new(config: Config, started_at_ms: u64) -> Self {
        let recording = RECORDINGS.with_borrow_mut(|recordings| {
            let calls = Mutex::default();
            let recording = Arc::new(Recording { config: config.clone(), started_at_ms, calls });
            recordings.as_mut()?.push(Arc::clone(&recording));
            Some(recording)
        });
        Self { replica: replica::Replica::new(config, started_at_ms), recording }
    }

    fn record(&self, call: impl FnOnce() -> Call) {
        if let Some(recording) = &self.recording {
            recording.calls().push(call());
        }
    }

    pub(super) fn handle(&mut self, now_ms: u64, input: Input) {
        self.record(|| Call::Handle { now_ms, input: input.clone() });
        self.replica.handle(now_ms, input);
    }

    pub(super) fn take_batch(&mut self) -> Option<Batch> {
        let batch = self.replica.take_batch()?;
        self.record(|| Call::TakeBatch { forced: batch.forced.clone(), lazy: batch.lazy.clone() });
        Some(batch)
    }

    pub(super) fn take_messages(&mut self, mut hand_over: impl FnMut(SessionId, Vec<FromReplica>)) {
        let taken = messages(&mut self.replica);
        self.record(|| Call::TakeMessages(taken.clone()));
        taken.into_iter().for_each(|(session, messages)| hand_over(session, messages));
    }

    pub(super) fn take_timers(&mut self) -> Vec<TimerChange> {
        let taken: Vec<TimerChange> = self.replica.take_timers().collect();
        self.record(|| Call::TakeTimers(taken.clone()));
        taken
    }

    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        let taken: Vec<Change> = self.replica.take_changes().collect();
        self.record(|| Call::TakeChanges(taken.clone()));
        taken
    }

    pub(super) fn take_question(&mut self) -> Option<Vec<Gtid>> {
        let question = self.replica.take_question()?;
        self.record(|| Call::TakeQuestion(question.clone()));
        Some(question)
    }

    pub(super) fn watch(&mut self, gtid: Gtid) -> Option<TransactionView> {
        let view = self.replica.watch(gtid);
        self.record(|| Call::Watch(gtid, view.clone()));
        view
    }

    pub(super) fn unwatch(&mut self, gtid: Gtid) {
        self.record(|| Call::Unwatch(gtid));
        self.replica.unwatch(gtid);
    }
}

/// What only reads is not recorded.
impl Deref for Replica {
    type Target = replica::Replica;
    fn deref(&self) -> &replica::Replica {
        &self.replica
    }
}

impl Recording {
    fn calls(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every call once more, to a fresh replica.
    fn replay(&self) {
        let mut fresh = replica::Replica::new(self.config.clone(), self.started_at_ms);
        for (number, call) in self.calls().iter().enumerate() {
            let at = |what: &str| format!("{what}, call {number} of shard {}", self.config.shard);
            match call {
                Call::Handle { now_ms, input } => fresh.handle(*now_ms, input.clone()),
                Call::TakeBatch { forced, lazy } => {
                    let batch = fresh.take_batch().unwrap_or_default();
                    same(&batch.forced, forced, &at("forced records"));
                    same(&batch.lazy, lazy, &at("lazy records"));
                }
                Call::TakeMessages(taken) => same(&messages(&mut fresh), taken, &at("messages")),
                Call::TakeTimers(taken) => same(&fresh.take_timers().collect(), taken, &at("timers")),
                Call::TakeChanges(taken) => same(&fresh.take_changes().collect(), taken, &at("changes")),
                Call::TakeQuestion(taken) => same(&fresh.take_question(), &Some(taken.clone()), &at("question")),
                Call::Watch(gtid, view) => same(&fresh.watch(*gtid), view, &at("view")),
                Call::Unwatch(gtid) => fresh.unwatch(*gtid),
            }
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let input = |call: &Call| if let Call::Handle { input, .. } = call { Some(input.clone()) } else { None };
        self.calls().iter().filter_map(input).collect()
    }
}

fn messages(replica: &mut replica::Replica) -> Vec<(SessionId, Vec<FromReplica>)> {
    let mut taken = Vec::new();
    replica.take_messages(|session, messages| taken.push((session, messages)));
    taken
}

fn same<T: PartialEq + Debug>(replayed: &T, recorded: &T, what: &str) {
    assert!(replayed == recorded, "{what}:\nrecorded {recorded:#?}\nreplayed {replayed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inputs_of_a_shard_give_the_same_outputs_in_a_fresh_replica() {
    RECORDINGS.set(Some(Vec::new()));
    load::run().await;
    let recordings = RECORDINGS.take().expect("this thread has made the replicas");
    let mut seen = std::collections::BTreeMap::new();
    for recording in &recordings {
        recording.replay();
        for input in recording.inputs() {
            let name = match input {
                Input::SessionOpened(_) => "session opened",
                Input::SessionRetires(_) => "session retires",
                Input::SessionClosed(_) => "session closed",
                Input::Message { .. } => "message",
                Input::NameBranch { .. } => "name branch",
                Input::TimerFired { .. } => "timer fired",
                Input::Appended(_) => "appended",
                Input::LookedUp { .. } => "looked up",
                Input::Recovered(_) => "recovered",
                Input::Resumed(_) => "resumed",
                Input::Drain => "drain",
            };
            *seen.entry(name).or_insert(0) += 1;
        }
    }
    assert_eq!(recordings.len(), 2 * load::SHARDS, "two processes, one after the other");
    assert_eq!(seen.len(), 10, "every input that the shell gives occurs: {seen:?}");
    assert!(seen["message"] > 1_000, "a load: {seen:?}");
}
