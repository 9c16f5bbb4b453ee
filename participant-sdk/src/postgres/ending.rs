//! The second phase: COMMIT PREPARED and ROLLBACK PREPARED, each as often as it is asked for.

use std::time::Duration;

use super::error::{PostgresError, sqlstate, sqlstate_of};
use super::gid::{Gid, Prefix};
use super::preparing::prepare_statement;
use super::resource::Shared;
use super::session::{ANSWER_WITHIN, Session};
use assent_crash::crash_point;
use assent_protocol::BranchKey;

/// How a prepared transaction is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    RollBack,
}

/// When it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By this call.
    Now,
    /// There is none of that gid: it had ended, or never was prepared.
    Before,
}

/// What is known of a branch that is not prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// It voted, so its preparing is over; or it is fenced, so what it prepares is seen to
    /// afterwards.
    IsFenced,
    /// A session of the server may be preparing it.
    MayCome,
}

/// How long another session may be at work on the same branch before this one gives up, to be
/// called again.
pub(super) const BUSY_MAX: Duration = Duration::from_secs(2);

impl End {
    fn statement(self, gid: &Gid) -> String {
        match self {
            Self::Commit => format!("commit prepared '{gid}'"),
            Self::RollBack => format!("rollback prepared '{gid}'"),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::RollBack => "abort",
        }
    }

    const fn doing(self) -> &'static str {
        match self {
            Self::Commit => "commit the prepared transaction",
            Self::RollBack => "roll back the prepared transaction",
        }
    }
}

impl Shared {
    /// Ends the branch. Where it returns `Before` of one that may come, no session of this server
    /// is executing its PREPARE TRANSACTION either. One whose message has yet to reach the server
    /// is not seen: only a record's tombstone keeps that from preparing.
    pub(super) async fn end(
        &self,
        end: End,
        coming: Coming,
        coordinator: &str,
        key: BranchKey,
    ) -> Result<Ended, PostgresError> {
        let mut waited = Duration::ZERO;
        let mut pause = Duration::from_millis(10);
        loop {
            match self.try_to_end(end, coming, coordinator, key).await {
                Err(PostgresError::Busy { .. }) if waited < BUSY_MAX => {
                    tokio::time::sleep(pause).await;
                    waited += pause;
                    pause *= 2;
                }
                result => return result,
            }
        }
    }

    async fn try_to_end(
        &self,
        end: End,
        coming: Coming,
        coordinator: &str,
        key: BranchKey,
    ) -> Result<Ended, PostgresError> {
        let gid_in = |session: &Session| {
            Prefix::new(coordinator, session.database, &self.participant).map(|prefix| prefix.gid(key))
        };
        crash_point!(END_DUE, return Err(PostgresError::NoAnswer { doing: end.doing(), waited_ms: 0 }));
        // After a lost connection it is sent again, and then finds nothing if the first one had
        // arrived.
        let (mut checkout, mut result) =
            self.ends.first(ANSWER_WITHIN, end.doing(), |session| Ok(end.statement(&gid_in(session)?))).await?;
        let mut is_coming_no_more = coming == Coming::IsFenced;
        loop {
            let Err(error) = result else {
                crash_point!(END_DONE, return Err(PostgresError::NoAnswer { doing: end.doing(), waited_ms: 0 }));
                checkout.release();
                return Ok(Ended::Now);
            };
            let gid = gid_in(&checkout.session)?;
            let ended = match sqlstate_of(&error).as_deref() {
                Some(sqlstate::UNDEFINED_OBJECT) if is_coming_no_more => Ok(Ended::Before),
                Some(sqlstate::UNDEFINED_OBJECT) if !is_being_prepared(&mut checkout.session, &gid).await? => {
                    // That was over, or came to its end since the first look: what a second one
                    // does not find will never be there.
                    is_coming_no_more = true;
                    result = checkout.session.execute(end.doing(), end.statement(&gid)).await?;
                    continue;
                }
                Some(sqlstate::UNDEFINED_OBJECT | sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE) => {
                    Err(PostgresError::Busy { gid: gid.to_string() })
                }
                Some(sqlstate::INSUFFICIENT_PRIVILEGE) => Err(PostgresError::NotOwner {
                    statement: end.statement(&gid),
                    database: checkout.session.database_name.clone(),
                    gid: gid.to_string(),
                }),
                // Who knows what has become of the connection.
                Some(_) | None => return Err(PostgresError::Statement { doing: end.doing(), source: error }),
            };
            checkout.release();
            return ended;
        }
    }
}

/// Whether a session is preparing this gid at this moment.
///
/// A process that dies, or loses its connection, just after it has sent PREPARE TRANSACTION leaves
/// a backend that carries it out. A rollback in between finds nothing; were it taken for done, the
/// branch would be prepared afterwards and nobody would end it.
async fn is_being_prepared(session: &mut Session, gid: &Gid) -> Result<bool, PostgresError> {
    sqlx::query_scalar(
        "select exists (
             select from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid() and state = 'active'
                 and strpos(query, $1) > 0
         )",
    )
    .bind(prepare_statement(gid))
    .fetch_one(&mut session.connection)
    .await
    .map_err(PostgresError::statement("look for a transaction that is being prepared"))
}
