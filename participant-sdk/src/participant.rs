//! What a participant implements: three hooks, and for those who want them a fourth and a fifth.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use assent_protocol::{BranchKey, Gtid, ParticipantName};
use bytes::Bytes;

use crate::unreadable::{Unreadable, read_json};

/// Any error of a hook. It means that the outcome is *unknown*: only an explicit no aborts. [`Unreadable`] is the exception:
/// it refuses.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A service that takes part in two-phase commits.
///
/// Hooks may be called again for the same branch, by this process or by another instance after a crash, and then have to
/// give the same result. Hooks of different branches run at the same time; of one branch, one at a time.
///
/// A branch is told from all others by its [`key`](Branch::key), not by its transaction: where a call came twice, or a commit
/// was asked for again, a participant can have two branches of one transaction, of which one commits and the other aborts. Keep
/// what is prepared under the key.
///
/// ```
/// use assent_sdk::{Branch, BoxError, Participant, Vote};
///
/// struct Inventory;
///
/// impl Participant for Inventory {
///     async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
///         let amount: u32 = branch.json()?;
///         if amount > 10 {
///             return Ok(Vote::no("only 10 left"));
///         }
///         // Reserve it durably under branch.key(), so that a crash does not lose the promise ...
///         Ok(Vote::Yes)
///     }
///     async fn commit(&self, branch: &Branch) -> Result<(), BoxError> {
///         // ... take what was reserved under branch.key(); nothing to do if that was done before ...
///         Ok(())
///     }
///     async fn abort(&self, branch: &Branch) -> Result<(), BoxError> {
///         // ... give it back; nothing to do if nothing is reserved.
///         Ok(())
///     }
/// }
/// ```
pub trait Participant: Send + Sync + 'static {
    /// Whether [`commit_one_phase`](Self::commit_one_phase) is implemented.
    const ONE_PHASE: bool = false;

    /// Does the work and makes it durable without making it visible; then votes.
    ///
    /// After [`Vote::Yes`] the branch must be able to commit and to abort, whatever happens to this process. After
    /// [`Vote::No`] and [`Vote::ReadOnly`] it must have left nothing behind: no other hook is called, unless another instance of this participant
    /// was asked to prepare the same branch as well.
    ///
    /// # Errors
    /// An error says that nobody knows whether the branch is prepared. The transaction aborts, and
    /// [`abort`](Self::abort) is called.
    fn prepare(&self, branch: &Branch) -> impl Future<Output = Result<Vote, BoxError>> + Send;

    /// Makes the prepared work visible. Nothing to do if it is visible already.
    ///
    /// # Errors
    /// It is called again, until it succeeds. A [`Heuristic`] says that the branch ended otherwise; that is recorded.
    fn commit(&self, branch: &Branch) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Undoes the prepared work. Nothing to do if there is none: it may be called for a branch that never was prepared.
    ///
    /// Where [`ONE_PHASE`](Self::ONE_PHASE) is true it also recalls an order to commit alone: it answers [`Heuristic`] committed if the branch has
    /// committed, and otherwise makes sure that [`commit_one_phase`](Self::commit_one_phase) never commits this branch afterwards, however
    /// late it is called, at whichever instance, and even if it is at work now.
    ///
    /// # Errors
    /// It is called again, until it succeeds. A [`Heuristic`] says that the branch ended otherwise; that is recorded.
    fn abort(&self, branch: &Branch) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Checks that the resource is fit, before the participant joins. Called at each start; once more if the coordinator goes away while
    /// the participant joins.
    ///
    /// # Errors
    /// The participant does not join, and [`connect`](crate::Builder::connect) fails with this error.
    fn start(&self, _about: &Coordinator) -> impl Future<Output = Result<(), BoxError>> + Send {
        async { Ok(()) }
    }

    /// The branches that are prepared and have not ended: found in the resource, whichever instance has prepared them. They are
    /// asked about until each has learnt its decision.
    ///
    /// Called after every start; on every new session, and every [`in_doubt_interval`](crate::Builder::in_doubt_interval), twice with a pause
    /// in between, for what an instance that is gone has left behind. Branches that this process knows may be listed as well.
    ///
    /// # Errors
    /// At the start the participant does not join, and [`connect`](crate::Builder::connect) fails with this error. Later it is logged, and
    /// the participant is asked again.
    fn in_doubt(&self, _about: &Coordinator) -> impl Future<Output = Result<Vec<BranchKey>, BoxError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Does the work and commits it at once, because this is the transaction's only branch; [`Vote::Yes`] here means
    /// that it is committed.
    ///
    /// Only called where [`ONE_PHASE`](Self::ONE_PHASE) is true. It must record the outcome durably with the work: called again
    /// for a branch that has committed, it answers yes and does nothing.
    ///
    /// # Errors
    /// An error says that nobody knows whether it committed: it is called again.
    fn commit_one_phase(&self, _branch: &Branch) -> impl Future<Output = Result<Vote, BoxError>> + Send {
        async { Err("this participant does not commit in one phase".into()) }
    }
}

/// The verdict of a prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vote {
    /// Prepared durably: can commit and can abort.
    Yes,
    /// Nothing to commit: this branch has only read.
    ReadOnly,
    /// Refused for a reason, and nothing is left behind.
    No(String),
}

impl Vote {
    /// A no with its reason.
    pub fn no(reason: impl fmt::Display) -> Self {
        Self::No(reason.to_string())
    }
}

/// A branch that was ended by somebody else, otherwise than decided. Return it as the error of a commit or abort hook.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Heuristic {
    /// It had been committed.
    #[error("the branch had been committed on its own")]
    Committed,
    /// It had been aborted.
    #[error("the branch had been aborted on its own")]
    Aborted,
}

crate::error_chain::debug_as_chain!(Heuristic);

/// One participant's part of one transaction, as its hooks see it.
#[derive(Clone, Debug)]
pub struct Branch {
    pub(crate) key: BranchKey,
    pub(crate) participant: ParticipantName,
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) payload: Bytes,
    pub(crate) timeout: Duration,
}

impl Branch {
    /// A branch for a test of a participant's hooks. Those that hooks are called with come from the session.
    pub fn new(
        key: BranchKey,
        participant: ParticipantName,
        coordinator: Coordinator,
        payload: impl Into<Bytes>,
        timeout: Duration,
    ) -> Self {
        Self { key, participant, coordinator: Arc::new(coordinator), payload: payload.into(), timeout }
    }

    /// The transaction.
    pub fn gtid(&self) -> Gtid {
        self.key.gtid
    }

    /// Which branch this is, among all of the participant: the transaction, and the branch in it.
    pub fn key(&self) -> BranchKey {
        self.key
    }

    /// The participant's name.
    pub fn participant(&self) -> &ParticipantName {
        &self.participant
    }

    /// The coordinator that drives it.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// What the initiator sent; empty in commit and abort.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// A vote after this long, from the call of prepare, comes too late. Zero in commit and abort.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The payload as JSON.
    ///
    /// # Errors
    /// [`Unreadable`] if it is not what `T` expects. Returned from [`prepare`](Participant::prepare) it is a no that names the
    /// field; so read the payload before you reserve anything.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Unreadable> {
        read_json("payload", &self.payload)
    }
}

/// The coordinator that a process has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinator {
    /// The same for every replica of one log, forever: what is prepared under it is this coordinator's to end. At most 36 of
    /// `a-z 0-9 -`.
    pub id: String,
    /// The address that was dialled.
    pub address: String,
}
