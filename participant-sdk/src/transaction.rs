//! Transactions, on the initiator's side.

use std::time::Duration;

use assent_proto::context::Context;
use assent_proto::error::Reason;
use assent_proto::session::{Ask, Commit, Expected, Reply};
use assent_proto::text::one_line;
use assent_protocol::two_phase::CarriedBranch;
use assent_protocol::{AbortCode, AbortReason, Gtid, ParticipantName, Wait};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rand::RngExt as _;

use crate::assent::{Assent, mint, unexpected, whole_ms};
use crate::error::Error;

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "only this tells whether the transaction committed"]
pub enum Outcome {
    /// Every branch commits. The decision is durable.
    Committed,
    /// Every branch aborts: by whom and why.
    Aborted(AbortReason),
    /// It is not known yet: the coordinator did not answer in time. It will be one of the other two, and the same for all branches; ask
    /// with [`Assent::outcome`].
    InDoubt {
        /// Which transaction to ask about.
        gtid: Gtid,
    },
}

impl Outcome {
    /// Whether it committed.
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Committed)
    }

    pub(crate) fn from_reply(reply: Reply) -> Result<Self, Error> {
        match reply {
            Reply::Outcome { outcome: assent_protocol::Outcome::Committed, .. } => Ok(Self::Committed),
            Reply::Outcome { outcome: assent_protocol::Outcome::Aborted, reason, .. } => {
                let unknown =
                    || AbortReason::new(assent_protocol::AbortCode::Forgotten, "the coordinator gave no reason");
                Ok(Self::Aborted(reason.unwrap_or_else(unknown)))
            }
            other => Err(unexpected(other)),
        }
    }
}

/// How the branches of a transaction agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Two-phase commit: the coordinator decides. While it is away, branches that voted yes wait for it.
    #[default]
    TwoPhase,
    /// Three-phase commit: a quorum of the participants and the log decides, so that the participants end the transaction although the
    /// coordinator and its log are gone. Each of them needs a [voter](crate::voter).
    ThreePhase,
}

impl From<Protocol> for assent_protocol::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::TwoPhase => Self::TwoPhase,
            Protocol::ThreePhase => Self::ThreePhase,
        }
    }
}

/// A transaction that is about to be begun: await it. Made by [`Assent::begin`].
#[derive(Debug)]
#[must_use = "nothing is begun before it is awaited"]
pub struct Begin {
    pub(crate) assent: Assent,
    pub(crate) timeout: Option<Duration>,
    pub(crate) protocol: Protocol,
    pub(crate) gtid: Option<Gtid>,
}

impl Begin {
    /// Begins it under this gtid, or asks again after [`Error::NoAnswer`] has named it: the same transaction then, begun once.
    ///
    /// A gtid that the coordinator may have lost at a restart is refused with `KEY_REUSED`, as is one that has ended: what has
    /// enlisted under it aborts, so begin anew.
    ///
    /// ```no_run
    /// # async fn example(assent: assent_sdk::Assent) -> Result<(), assent_sdk::Error> {
    /// use assent_sdk::Assent;
    ///
    /// let gtid = Assent::new_gtid();
    /// // ... write it down, for whoever asks after a crash what became of the transaction ...
    /// let transfer = assent.begin(None).gtid(gtid).await?;
    /// # Ok(()) }
    /// ```
    pub fn gtid(mut self, gtid: Gtid) -> Self {
        self.gtid = Some(gtid);
        self
    }

    /// Two-phase, which is the default, or three-phase.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }
}

impl IntoFuture for Begin {
    type Output = Result<Transaction, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { assent, timeout, protocol, gtid } = self;
        async move {
            match gtid {
                Some(gtid) => assent.open_as(gtid, timeout, protocol).await,
                None => assent.open(timeout, protocol).await,
            }
        }
        .boxed()
    }
}

/// A transaction that is neither committed nor aborted yet. Dropping one that was begun aborts it.
#[derive(Debug)]
#[must_use = "a transaction that is dropped does not commit"]
pub struct Transaction {
    assent: Assent,
    gtid: Gtid,
    branches: Vec<CarriedBranch>,
    timeout: Option<Duration>,
    protocol: Protocol,
    /// When it aborts by itself, for one that was begun.
    deadline_unix_ms: Option<u64>,
    /// Those without whose branches it does not commit.
    expected: Vec<ParticipantName>,
    /// The first thing that was wrong with what it was given.
    problem: Option<Error>,
    is_over: bool,
}

impl Transaction {
    pub(crate) fn carried(assent: Assent, gtid: Gtid) -> Self {
        Self {
            assent,
            gtid,
            branches: Vec::new(),
            timeout: None,
            protocol: Protocol::TwoPhase,
            deadline_unix_ms: None,
            expected: Vec::new(),
            problem: None,
            is_over: false,
        }
    }

    pub(crate) fn begun(assent: Assent, gtid: Gtid, protocol: Protocol, deadline_unix_ms: u64) -> Self {
        let mut begun = Self::carried(assent, gtid).protocol(protocol);
        begun.deadline_unix_ms = Some(deadline_unix_ms);
        begun
    }

    /// Its id.
    pub fn gtid(&self) -> Gtid {
        self.gtid
    }

    /// What services need to enlist in it; `None` for a transaction that was not begun, in which nobody can. The layers
    /// of [`propagation`](crate::propagation) carry it.
    pub fn context(&self) -> Option<Context> {
        let deadline_unix_ms = self.deadline_unix_ms?;
        Some(Context {
            gtid: self.gtid,
            coordinator: self.assent.coordinator().address.clone(),
            deadline_unix_ms: Some(deadline_unix_ms),
            epoch: Some(self.assent.epoch()),
        })
    }

    /// Adds a branch: at the commit the participant is asked to prepare with this payload. One branch for each participant.
    pub fn branch(mut self, participant: impl AsRef<str>, payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        let (bytes, bytes_max) = (payload.len(), self.assent.payload_bytes_max());
        match ParticipantName::new(participant.as_ref()) {
            Ok(name) if bytes > bytes_max => {
                let name = name.to_string();
                self.problem.get_or_insert(Error::PayloadTooLarge { name, bytes, bytes_max });
            }
            Ok(participant) => self.branches.push(CarriedBranch { participant, payload }),
            Err(error) => {
                self.problem.get_or_insert(error.into());
            }
        }
        self
    }

    /// Adds a branch whose payload is this value as JSON; the participant reads it with
    /// [`Branch::json`](crate::Branch::json).
    pub fn branch_json(mut self, participant: impl AsRef<str>, payload: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(payload) {
            Ok(payload) => self.branch(participant, payload),
            Err(error) => {
                self.problem.get_or_insert(error.into());
                self
            }
        }
    }

    /// How long it may stay undecided before it aborts by itself. Default: the coordinator's. A transaction that was begun
    /// has got its timeout then, and keeps it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Two-phase, which is the default, or three-phase. A transaction that was begun has got its protocol then, and keeps it:
    /// see [`Begin::protocol`].
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        if self.deadline_unix_ms.is_none() {
            self.protocol = protocol;
        }
        self
    }

    /// Names participants without whose branches it must not commit: then the commit fails with `BRANCH_MISSING`, and what has
    /// enlisted aborts.
    ///
    /// A service that was called without the [context](Self::context) does its work on its own and enlists nothing, and the
    /// transaction would commit without it. One that commits without any branch is logged as a warning, unless it says here what
    /// it expects.
    ///
    /// ```no_run
    /// # async fn example(transfer: assent_sdk::Transaction) -> Result<(), assent_sdk::Error> {
    /// let outcome = transfer.expect(["bank-a", "bank-b"]).commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn expect<N: AsRef<str>>(mut self, participants: impl IntoIterator<Item = N>) -> Self {
        for participant in participants {
            match ParticipantName::new(participant.as_ref()) {
                Ok(participant) => self.expected.push(participant),
                Err(error) => {
                    self.problem.get_or_insert(error.into());
                }
            }
        }
        self
    }

    /// Commits, and answers as soon as the decision is durable; the branches may learn it a moment later.
    ///
    /// # Errors
    /// [`Error`] when the request itself was wrong or refused: then it does not commit, and what has enlisted aborts.
    pub async fn commit(self) -> Result<Outcome, Error> {
        self.end(Wait::Decided).await
    }

    /// Commits, and answers once every branch has committed or aborted, so that their work is visible. A participant that is
    /// away makes this wait until it is back.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn commit_and_wait(self) -> Result<Outcome, Error> {
        self.end(Wait::Ended).await
    }

    /// Commits, and where it aborts for a passing reason tries again with the same branches under a new gtid, at most
    /// `attempts_max` times in all. Passing are: a prepare that failed without a no, as after a lock that was held for too long,
    /// a participant that was away, a timeout, and a coordinator that has lost its memory of the transaction. A no is an answer.
    ///
    /// It is safe because each attempt is a transaction of its own, which is begun only once the one before has aborted: at most
    /// one of them takes effect. Each gtid is told before it is used; whoever has to know after a crash which one committed keeps
    /// them, and asks with [`Assent::outcome`]. Between attempts it waits for a random time, up to 2 seconds, so that those that
    /// were in each other's way do not meet again.
    ///
    /// A transaction that was begun is tried once: the work of its branches was done by others.
    ///
    /// ```no_run
    /// # async fn example(assent: assent_sdk::Assent) -> Result<(), assent_sdk::Error> {
    /// let transfer = assent.transaction().branch("bank-a", "-10").branch("bank-b", "+10");
    /// let outcome = transfer.commit_with_retry(5, |gtid| println!("trying {gtid}")).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn commit_with_retry(mut self, attempts_max: u32, mut tell: impl FnMut(Gtid)) -> Result<Outcome, Error> {
        let mut attempt = 1;
        loop {
            let next = (attempt < attempts_max).then(|| self.again()).flatten();
            tell(self.gtid);
            match (self.commit().await?, next) {
                (Outcome::Aborted(reason), Some(next)) if is_passing(reason.code) => self = next,
                (outcome, _) => return Ok(outcome),
            }
            let bound = RETRY_FIRST.saturating_mul(1 << (attempt - 1).min(16)).min(RETRY_MAX);
            let pause = bound.mul_f64(rand::rng().random_range(0.0..=1.0));
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// The same under another gtid; `None` for one that was begun.
    fn again(&self) -> Option<Self> {
        if self.deadline_unix_ms.is_some() {
            return None;
        }
        let mut again = Self::carried(self.assent.clone(), mint()).protocol(self.protocol);
        again.branches = self.branches.clone();
        again.expected = self.expected.clone();
        again.timeout = self.timeout;
        Some(again)
    }

    async fn end(mut self, wait: Wait) -> Result<Outcome, Error> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        let expected = match std::mem::take(&mut self.expected) {
            none if none.is_empty() => Expected::Branch,
            participants => Expected::Of(participants),
        };
        let is_any_enough = expected == Expected::Branch;
        let (begun, timeout_ms) = (self.deadline_unix_ms.is_some(), self.timeout.map_or(0, whole_ms));
        let (protocol, first_epoch) = (self.protocol.into(), None);
        let commit = |branches, expected| {
            Ask::Commit(Commit { branches, attempt: 1, begun, timeout_ms, wait, protocol, first_epoch, expected })
        };
        // The coordinator decides within the timeout; the patience is for what may happen on the way.
        let patience = self.timeout.unwrap_or(TIMEOUT_ASSUMED) + self.assent.patience();
        self.is_over = true;
        let asked = commit(std::mem::take(&mut self.branches), expected);
        let mut answer = self.assent.request(self.gtid, asked, patience).await;
        if is_any_enough
            && let Err(Error::Refused(refused)) = &answer
            && refused.known_reason() == Some(Reason::BranchMissing)
        {
            tracing::warn!(
                gtid = %self.gtid,
                "the transaction commits without any branch, so nothing is done: see that the calls to its services carry its context; \
                 Transaction::expect makes this an error"
            );
            let asked = commit(Vec::new(), Expected::Anything);
            answer = self.assent.request(self.gtid, asked, patience).await;
        }
        match answer {
            Ok(reply) => Outcome::from_reply(reply),
            Err(Error::NoAnswer { gtid }) => Ok(Outcome::InDoubt { gtid }),
            Err(error) => {
                // It changed nothing, and nobody is left who could end it: what has enlisted must not wait for its timeout.
                // Dropped, it aborts.
                self.is_over = false;
                Err(error)
            }
        }
    }

    /// Aborts.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] if the coordinator cannot be reached: the transaction then aborts by its own timeout.
    pub async fn abort(mut self, reason: impl Into<String>) -> Result<(), Error> {
        self.is_over = true;
        if self.deadline_unix_ms.is_none() {
            // Nobody has heard of it.
            return Ok(());
        }
        let request = Ask::Abort { reason: one_line(reason.into()) };
        match self.assent.request(self.gtid, request, self.assent.patience()).await {
            Ok(Reply::Outcome { .. }) => Ok(()),
            Ok(other) => Err(unexpected(other)),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.is_over && self.deadline_unix_ms.is_some() {
            let reason = "the initiator dropped the transaction".to_owned();
            self.assent.tell(self.gtid, Ask::Abort { reason });
        }
    }
}

/// The bounds of the waits between the attempts of [`Transaction::commit_with_retry`].
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Whether the same work may commit another time.
fn is_passing(code: AbortCode) -> bool {
    match code {
        AbortCode::DeadlineExceeded
        | AbortCode::ParticipantLost
        | AbortCode::ParticipantUnavailable
        | AbortCode::PrepareFailed
        | AbortCode::Forgotten => true,
        AbortCode::Requested
        | AbortCode::Refused
        | AbortCode::ParticipantUnknown
        | AbortCode::VoterMissing
        | AbortCode::StepFailed => false,
    }
}

/// The coordinator's default timeout, unless it is configured otherwise.
const TIMEOUT_ASSUMED: Duration = Duration::from_secs(30);
