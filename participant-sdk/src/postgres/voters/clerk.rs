//! The task that owns the connection, and what it carries out together.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assent_protocol::three_phase::VoterRecord;
use assent_protocol::{Gtid, GtidMap, ParticipantName};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::rows::{FORGET, KEEP, LOAD, Rows, gtid_of, read};
use super::within;
use crate::postgres::error::is_connection_lost;
use crate::voter::VoterStoreError;
use crate::voter::store::{Kept, Write, durable};

/// The records that this instance has seen last. Another one may have changed them since: an append
/// finds out.
pub(super) type Cache = GtidMap<Arc<VoterRecord>>;
/// How many of them are remembered.
const CACHE_MAX: usize = 16_384;

pub(super) fn cache(known: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    // A map is whole after every insertion and removal.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, VoterStoreError>>;

/// What the task is asked to do.
pub(super) enum Ask {
    Load(Gtid, Answer<Option<Arc<VoterRecord>>>),
    Append(Write, Answer<Kept>),
    Forget(Vec<Gtid>, Answer<()>),
}

/// Questions of one batch.
const BATCH_MAX: usize = 1_024;

/// The owner of the connection.
pub(super) struct Clerk {
    options: PgConnectOptions,
    me: ParticipantName,
    connection: Option<PgConnection>,
    known: Arc<Mutex<Cache>>,
}

/// What is carried out together. A transaction has at most one append in it.
#[derive(Default)]
struct Batch {
    loads: Vec<(Gtid, Answer<Option<Arc<VoterRecord>>>)>,
    appends: Vec<(Write, Answer<Kept>)>,
    forgets: Vec<(Vec<Gtid>, Answer<()>)>,
    /// Waits for the next batch.
    later: Vec<Ask>,
}

impl Batch {
    fn of(asks: impl IntoIterator<Item = Ask>) -> Self {
        let mut batch = Self::default();
        let mut appended = HashSet::new();
        for ask in asks {
            match ask {
                Ask::Load(gtid, answer) => batch.loads.push((gtid, answer)),
                Ask::Append(write, answer) if appended.insert(write.record.gtid) => {
                    batch.appends.push((write, answer));
                }
                Ask::Append(..) => batch.later.push(ask),
                Ask::Forget(gtids, answer) => batch.forgets.push((gtids, answer)),
            }
        }
        batch
    }
}

impl Clerk {
    /// It connects when it is asked something.
    pub(super) fn new(options: PgConnectOptions, me: ParticipantName, known: Arc<Mutex<Cache>>) -> Self {
        Self { options, me, connection: None, known }
    }

    /// Works until every handle of the store is dropped.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Ask>) {
        let mut asks = Vec::with_capacity(BATCH_MAX);
        while !asks.is_empty() || queue.recv_many(&mut asks, BATCH_MAX).await > 0 {
            let batch = Batch::of(asks.drain(..));
            self.append(batch.appends).await;
            self.load(batch.loads).await;
            self.forget(batch.forgets).await;
            asks.extend(batch.later);
            // What has queued meanwhile goes along.
            while asks.len() < BATCH_MAX
                && !asks.is_empty()
                && let Ok(ask) = queue.try_recv()
            {
                asks.push(ask);
            }
        }
    }

    async fn append(&mut self, appends: Vec<(Write, Answer<Kept>)>) {
        if appends.is_empty() {
            return;
        }
        let (writes, answers): (Vec<_>, Vec<_>) = appends.into_iter().unzip();
        let rows = Rows::of(&writes);
        match self.on_connection(Statement::Keep(&rows)).await {
            Ok(kept) => {
                let kept: HashSet<Uuid> = kept.iter().filter_map(gtid_of).collect();
                let mut cache = cache(&self.known);
                if cache.len() > CACHE_MAX {
                    cache.clear();
                }
                for (Write { record, .. }, answer) in writes.into_iter().zip(answers) {
                    let (gtid, id) = (record.gtid, record.id());
                    let is_kept = kept.contains(&gtid.as_uuid());
                    if is_kept {
                        cache.insert(gtid, record);
                    } else {
                        cache.remove(&gtid);
                    }
                    answer.send(Ok(if is_kept { durable(id) } else { Kept::Overtaken })).ok();
                }
            }
            Err(error) => {
                let mut cache = cache(&self.known);
                for (Write { record, .. }, answer) in writes.into_iter().zip(answers) {
                    // It may have been written.
                    cache.remove(&record.gtid);
                    answer.send(Err(error.told())).ok();
                }
            }
        }
    }

    async fn load(&mut self, loads: Vec<(Gtid, Answer<Option<Arc<VoterRecord>>>)>) {
        if loads.is_empty() {
            return;
        }
        let gtids: Vec<Uuid> = loads.iter().map(|(gtid, _)| gtid.as_uuid()).collect();
        match self.on_connection(Statement::Load(&gtids)).await {
            Ok(rows) => {
                let rows: HashMap<Uuid, &PgRow> = rows.iter().filter_map(|row| Some((gtid_of(row)?, row))).collect();
                for (gtid, answer) in loads {
                    let record =
                        rows.get(&gtid.as_uuid()).map(|row| read(self.me.as_str(), row).map(Arc::new)).transpose();
                    if let Ok(Some(record)) = &record {
                        cache(&self.known).insert(gtid, Arc::clone(record));
                    }
                    answer.send(record).ok();
                }
            }
            Err(error) => {
                for (_, answer) in loads {
                    answer.send(Err(error.told())).ok();
                }
            }
        }
    }

    async fn forget(&mut self, forgets: Vec<(Vec<Gtid>, Answer<()>)>) {
        let gtids: Vec<Gtid> = forgets.iter().flat_map(|(gtids, _)| gtids.iter().copied()).collect();
        if gtids.is_empty() {
            return;
        }
        let ids: Vec<Uuid> = gtids.iter().map(Gtid::as_uuid).collect();
        let deleted = self.on_connection(Statement::Forget(&ids)).await;
        let mut cache = cache(&self.known);
        for gtid in &gtids {
            cache.remove(gtid);
        }
        for (_, answer) in forgets {
            answer.send(deleted.as_ref().map_or_else(|error| Err(error.told()), |_| Ok(()))).ok();
        }
    }

    /// Runs a statement; once more on a new connection, where the old one turns out to be lost.
    /// Each may be repeated: what was kept the first time is found to be there.
    async fn on_connection(&mut self, statement: Statement<'_>) -> Result<Vec<PgRow>, Failed> {
        let failed = |error: sqlx::Error| Failed { doing: statement.doing(), error: Arc::new(error) };
        let mut was_idle = self.connection.is_some();
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => within(PgConnection::connect_with(&self.options)).await.map_err(failed)?,
            };
            match within(statement.run(&self.me, &mut connection)).await {
                Ok(done) => {
                    self.connection = Some(connection);
                    return Ok(done);
                }
                Err(error) if was_idle && is_connection_lost(&error) => was_idle = false,
                Err(error) => {
                    if !is_connection_lost(&error) {
                        self.connection = Some(connection);
                    }
                    return Err(failed(error));
                }
            }
        }
    }
}

/// What is sent for a batch.
enum Statement<'a> {
    /// Writes those whose predecessor stands there, and says which.
    Keep(&'a Rows),
    Load(&'a [Uuid]),
    Forget(&'a [Uuid]),
}

impl Statement<'_> {
    const fn doing(&self) -> &'static str {
        match self {
            Self::Keep(_) => "keep votes",
            Self::Load(_) => "look up votes",
            Self::Forget(_) => "delete votes",
        }
    }

    async fn run(&self, me: &ParticipantName, connection: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
        let query = match self {
            Self::Keep(rows) => sqlx::query(KEEP)
                .bind(me.as_str())
                .bind(&rows.gtid)
                .bind(&rows.roster)
                .bind(&rows.is_read_only)
                .bind(&rows.standing)
                .bind(&rows.joined)
                .bind(&rows.accepted)
                .bind(&rows.old_standing)
                .bind(&rows.old_joined)
                .bind(&rows.old_accepted),
            Self::Load(gtids) => sqlx::query(LOAD).bind(me.as_str()).bind(*gtids),
            Self::Forget(gtids) => sqlx::query(FORGET).bind(me.as_str()).bind(*gtids),
        };
        query.fetch_all(connection).await
    }
}

/// A failure that many are told of.
struct Failed {
    doing: &'static str,
    error: Arc<sqlx::Error>,
}

impl Failed {
    fn told(&self) -> VoterStoreError {
        VoterStoreError::Database { doing: self.doing, source: Arc::clone(&self.error).into() }
    }
}

#[cfg(test)]
mod tests {
    use assent_protocol::three_phase::{VoterName, VoterState};

    use super::*;

    #[test]
    fn a_transaction_is_appended_once_in_a_batch() {
        let gtid = Gtid::new(Uuid::now_v7()).expect("version 7");
        let voter = VoterName::Participant("bank-a".parse().expect("a name"));
        let ask = || {
            let (state, voter) = (VoterState::REFUSED, voter.clone());
            let record = VoterRecord { gtid, voter, roster: None, is_read_only: false, state, before: None };
            Ask::Append(record.into(), oneshot::channel().0)
        };
        let batch = Batch::of([ask(), ask(), ask()]);
        assert_eq!((batch.appends.len(), batch.later.len()), (1, 2));
    }
}
