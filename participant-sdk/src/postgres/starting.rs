//! What is looked at before a participant joins: whether the server can do its part, and what was
//! left in doubt.

use std::time::Duration;

use assent_protocol::BranchKey;
use sqlx::Row as _;

use super::error::PostgresError;
use super::gid::Prefix;
use super::preparing;
use super::resource::Shared;
use super::session::ANSWER_WITHIN;
use crate::participant::Coordinator;

/// The oldest version of Postgres that is supported by its makers, as its `server_version_num`.
const VERSION_MIN: i32 = 140_000;

/// How many branches of other coordinators are named, one warning each.
const STRANGERS_SHOWN_MAX: i64 = 10;

impl Shared {
    pub(super) async fn start(&self, about: &Coordinator) -> Result<(), PostgresError> {
        self.serve(about)?;
        self.check_sessions().await?;
        let mut checkout = self.ends.acquire(ANSWER_WITHIN).await?;
        // Refuses an id that could not be part of a gid before anything is prepared under it.
        let prefix = Prefix::new(&about.id, checkout.session.database, &self.participant)?;
        let row = sqlx::query(
            "select current_setting('server_version') as version,
                    current_setting('server_version_num')::int4 as version_number,
                    pg_is_in_recovery() as is_standby,
                    current_setting('max_prepared_transactions')::int4 as prepared_max,
                    current_setting('max_connections')::int4 as connections_max,
                    current_setting('fsync')::bool as flushes,
                    current_setting('track_activities')::bool as tracks_activities,
                    (select setting::int8 from pg_settings where name = 'track_activity_query_size') as activity_bytes,
                    current_user::text as role,
                    has_table_privilege('pg_catalog.pg_prepared_xacts', 'select') as sees_prepared",
        )
        .persistent(false)
        .fetch_one(&mut checkout.session.connection)
        .await
        .map_err(PostgresError::statement("read the server's settings"))?;
        let message_bytes_max = checkout.session.prepare_message_bytes(preparing::statement_bytes_max(&prefix));
        checkout.release();
        Fitness::read(&row)
            .map_err(PostgresError::statement("read the server's settings"))?
            .check(&self.participant, message_bytes_max)?;
        self.warn_of_strangers(&prefix).await?;
        match &self.recorded_in {
            Some(barrier) => {
                let mut checkout = self.ends.acquire(ANSWER_WITHIN).await?;
                barrier.check(&mut checkout.session.connection).await?;
                checkout.release();
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Branches of this participant under another coordinator, such as one whose log was deleted: they hold their locks, and
    /// nobody here ends them.
    async fn warn_of_strangers(&self, prefix: &Prefix) -> Result<(), PostgresError> {
        let mut checkout = self.ends.acquire(ANSWER_WITHIN).await?;
        let gids: Vec<String> = sqlx::query_scalar(
            "select gid from pg_prepared_xacts
             where database = current_database() and starts_with(gid, 'assent:') and not starts_with(gid, $1)
                 and split_part(gid, ':', 4) = $2
             order by prepared
             limit $3",
        )
        .bind(prefix.as_str())
        .bind(self.participant.as_str())
        .bind(STRANGERS_SHOWN_MAX)
        .persistent(false)
        .fetch_all(&mut checkout.session.connection)
        .await
        .map_err(PostgresError::statement("list the prepared transactions"))?;
        checkout.release();
        for gid in gids {
            tracing::warn!(
                participant = %self.participant,
                gid,
                "a branch that was prepared under another coordinator holds its locks, and this process does not end it: join that \
                 coordinator; or, if its log is lost for good, run as the role that prepared it: rollback prepared '{gid}'"
            );
        }
        Ok(())
    }

    /// Whether sessions are this participant's own. Work leaves locks and settings to the next
    /// message on its connection, and it is asked by its backend's process id whether it still
    /// runs.
    async fn check_sessions(&self) -> Result<(), PostgresError> {
        let mut one = self.ends.acquire(ANSWER_WITHIN).await?;
        let mut other = self.ends.acquire(ANSWER_WITHIN).await?;
        let are_known_twice = one.session.backend == other.session.backend;
        let are_shared = assent_postgres::shares_sessions(&mut one.session.connection, &mut other.session.connection)
            .await
            .map_err(PostgresError::statement("look whose the session is"))?;
        if are_known_twice || are_shared {
            return Err(PostgresError::TransactionPooler);
        }
        one.release();
        other.release();
        Ok(())
    }

    pub(super) async fn in_doubt(
        &self,
        about: &Coordinator,
        prepared_for: Duration,
    ) -> Result<Vec<BranchKey>, PostgresError> {
        self.serve(about)?;
        let mut checkout = self.ends.acquire(ANSWER_WITHIN).await?;
        let prefix = Prefix::new(&about.id, checkout.session.database, &self.participant)?;
        // Not `like`: names may hold its wildcard `_`.
        let rows = sqlx::query(
            "select gid, coalesce(owner::text, 'a role that is gone') as owner,
                    coalesce(owner = current_user, false)
                        or (select rolsuper from pg_roles where rolname = current_user) as may_end
             from pg_prepared_xacts
             where database = current_database() and starts_with(gid, $1)
                 and prepared <= clock_timestamp() - make_interval(secs => $2)
             order by prepared",
        )
        .bind(prefix.as_str())
        .bind(prepared_for.as_secs_f64())
        .persistent(false)
        .fetch_all(&mut checkout.session.connection)
        .await
        .map_err(PostgresError::statement("list the prepared transactions"))?;
        checkout.release();
        let mut branches = Vec::with_capacity(rows.len());
        for row in rows {
            // Each is listed that can be: one branch that cannot be read, or cannot end, must not
            // keep the others from ending.
            let read = || Ok::<_, sqlx::Error>((row.try_get("gid")?, row.try_get("owner")?, row.try_get("may_end")?));
            let (gid, owner, may_end): (String, String, bool) = match read() {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(%error, "a prepared transaction cannot be read: it is left alone; see pg_prepared_xacts");
                    continue;
                }
            };
            let Some(branch) = prefix.branch_of(&gid) else {
                tracing::warn!(
                    gid,
                    "a prepared transaction looks like this participant's and is not: it is left alone"
                );
                continue;
            };
            if !may_end {
                tracing::error!(
                    gid,
                    owner,
                    "this branch can only be ended by the role that prepared it: connect as that role, or end it as a superuser as \
                     its transaction was decided"
                );
            }
            branches.push(branch);
        }
        Ok(branches)
    }
}

/// What the server says about itself.
struct Fitness {
    version: String,
    version_number: i32,
    is_standby: bool,
    prepared_max: i32,
    connections_max: i32,
    flushes: bool,
    tracks_activities: bool,
    activity_bytes: i64,
    role: String,
    sees_prepared: bool,
}

impl Fitness {
    fn read(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            version: row.try_get("version")?,
            version_number: row.try_get("version_number")?,
            is_standby: row.try_get("is_standby")?,
            prepared_max: row.try_get("prepared_max")?,
            connections_max: row.try_get("connections_max")?,
            flushes: row.try_get("flushes")?,
            tracks_activities: row.try_get("tracks_activities")?,
            activity_bytes: row.try_get("activity_bytes")?,
            role: row.try_get("role")?,
            sees_prepared: row.try_get("sees_prepared")?,
        })
    }

    fn check(
        self,
        participant: &assent_protocol::ParticipantName,
        message_bytes_max: usize,
    ) -> Result<(), PostgresError> {
        if self.version_number < VERSION_MIN {
            let version_min = u32::try_from(VERSION_MIN / 10_000).unwrap_or_default();
            return Err(PostgresError::Version { version: self.version, version_min });
        }
        if self.is_standby {
            return Err(PostgresError::Standby);
        }
        if self.prepared_max == 0 {
            return Err(PostgresError::PreparedTransactionsDisabled);
        }
        if !self.sees_prepared {
            return Err(PostgresError::PreparedTransactionsHidden { role: self.role });
        }
        if !self.tracks_activities {
            return Err(PostgresError::ActivitiesUntracked);
        }
        // The server keeps one byte of them for itself.
        let bytes = usize::try_from(self.activity_bytes).unwrap_or(0);
        let bytes_min = message_bytes_max + 1;
        if bytes < bytes_min {
            return Err(PostgresError::ActivitiesCut { bytes, bytes_min });
        }
        if self.prepared_max < self.connections_max {
            tracing::warn!(
                %participant,
                max_prepared_transactions = self.prepared_max,
                max_connections = self.connections_max,
                "max_prepared_transactions is below max_connections: under load, branches will be refused for want of room"
            );
        }
        if !self.flushes {
            tracing::warn!(%participant, "fsync is off: after a crash of the server, branches that voted yes may be gone");
        }
        Ok(())
    }
}
