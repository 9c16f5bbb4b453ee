//! A process's handle to its coordinator.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use assent_proto::error::{Reason, refusal_of};
use assent_proto::session::{Ask, Reply};
use assent_proto::v1::peer_service_server::PeerServiceServer;
use assent_proto::v1::{BeginRequest, BeginResponse, GetRequest, TransactionState};
use assent_protocol::agent::Answer;
use assent_protocol::two_phase::EarlyVote;
use assent_protocol::{BranchId, BranchKey, Epoch, Gtid, ParticipantName, Wait};
use assent_transport::listener::Rules;
use assent_transport::{DialError, Dialer, Listener};
use rand::RngExt;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use uuid::Uuid;

use crate::builder::Builder;
use crate::engine::{Command, Shared, request_bytes};
use crate::error::{EnlistError, Error};
use crate::participant::Coordinator;
use crate::transaction::{Begin, Outcome, Protocol, Transaction};
use crate::unary::Unary;
use crate::voter::PeerService;

/// A session with a coordinator, shared by its clones. It ends when the last one is dropped, or at
/// [`shutdown`](Self::shutdown).
#[derive(Clone)]
pub struct Assent {
    inner: Arc<Inner>,
}

struct Inner {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    name: Option<ParticipantName>,
    dialer: Dialer,
    patience: Duration,
    task: Mutex<Option<JoinHandle<()>>>,
    closed: watch::Receiver<bool>,
}

/// All payloads of one request, in bytes: they share a frame with its envelope.
const REQUEST_BYTES_MAX: usize = assent_proto::session::FRAME_BYTES_MAX - 64 * 1024;
/// Connections of peers at a time.
const PEER_CONNECTIONS_MAX: usize = 4_096;
/// Questions of one peer at a time.
const PEER_STREAMS_MAX: u32 = 1_024;
/// How often a begin is tried again while the coordinator has only just started.
const BEGIN_ATTEMPTS_MAX: u32 = 10;
/// The pause between these attempts.
const BEGIN_PAUSE: Duration = Duration::from_millis(100);

impl Assent {
    /// Starts to join the coordinator at an address, such as `http://127.0.0.1:7420`.
    pub fn dial(address: impl Into<String>) -> Builder {
        Builder::new(address.into())
    }

    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        shared: Arc<Shared>,
        task: JoinHandle<()>,
        name: Option<ParticipantName>,
        dialer: Dialer,
        patience: Duration,
    ) -> Self {
        let (close, closed) = watch::channel(false);
        let task = tokio::spawn(async move {
            if let Err(error) = task.await {
                tracing::error!(%error, "the session's task failed");
            }
            close.send_replace(true);
        });
        let inner = Inner { commands, shared, name, dialer, patience, task: Mutex::new(Some(task)), closed };
        Self { inner: Arc::new(inner) }
    }

    /// Who was joined.
    pub fn coordinator(&self) -> &Coordinator {
        &self.inner.shared.coordinator
    }

    /// The participant that this process serves.
    pub fn participant(&self) -> Option<&ParticipantName> {
        self.inner.name.as_ref()
    }

    /// A transaction whose branches are all named here, each with its payload, and prepared when
    /// [`commit`](Transaction::commit) is called: one call for the whole.
    pub fn transaction(&self) -> Transaction {
        Transaction::carried(self.clone(), mint())
    }

    /// Opens a transaction so that services can enlist in it: hand its [`context`](Transaction::context) to them. It
    /// aborts by itself after `timeout`, or after the coordinator's default. Two-phase, unless
    /// [`Begin::protocol`] says otherwise; nothing happens before it is awaited.
    ///
    /// ```no_run
    /// # async fn example(assent: assent_sdk::Assent) -> Result<(), assent_sdk::Error> {
    /// use assent_sdk::Protocol;
    ///
    /// let transfer = assent.begin(None).await?;
    /// let survivor = assent.begin(None).protocol(Protocol::ThreePhase).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] when the coordinator is overloaded or leaving, or the timeout is too long; [`Error::NoAnswer`]
    /// when it cannot be reached.
    pub fn begin(&self, timeout: Option<Duration>) -> Begin {
        Begin { assent: self.clone(), timeout, protocol: Protocol::TwoPhase, gtid: None }
    }

    /// A gtid that nobody has used: for [`Begin::gtid`], where it has to be known before the transaction is.
    pub fn new_gtid() -> Gtid {
        mint()
    }

    pub(crate) async fn open(&self, timeout: Option<Duration>, protocol: Protocol) -> Result<Transaction, Error> {
        let timeout_ms = timeout.map_or(0, whole_ms);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let gtid = mint();
            let begin = Ask::Begin { timeout_ms, protocol: protocol.into(), first_epoch: None };
            match self.request(gtid, begin, self.inner.patience).await? {
                Reply::Begun { deadline_unix_ms } => {
                    return Ok(Transaction::begun(self.clone(), gtid, protocol, deadline_unix_ms));
                }
                // A coordinator that has just started cannot tell this gtid from one that it has lost. A later one it can.
                Reply::Outcome { .. } if attempt < BEGIN_ATTEMPTS_MAX => {
                    tokio::time::sleep(BEGIN_PAUSE).await;
                }
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Opens a transaction under this gtid, or learns that it is open already.
    ///
    /// Not over the session: a request there says under which epoch it was first written, and here that is not known. Without it
    /// the coordinator never begins anew what may have been begun before it started.
    pub(crate) async fn open_as(
        &self,
        gtid: Gtid,
        timeout: Option<Duration>,
        protocol: Protocol,
    ) -> Result<Transaction, Error> {
        let wire_protocol = assent_proto::v1::Protocol::from(assent_protocol::Protocol::from(protocol));
        let request = BeginRequest {
            gtid: gtid.to_string(),
            timeout_ms: timeout.map_or(0, whole_ms),
            protocol: wire_protocol.into(),
        };
        let asking = async {
            loop {
                let begun = match self.unary().await {
                    Ok(mut unary) => unary.begin(request.clone()).await.map_err(|status| refusal_of(&status)),
                    Err(error) => {
                        tracing::debug!(?error, %gtid, "cannot begin the transaction yet");
                        Err(None)
                    }
                };
                match begun {
                    Ok(BeginResponse { deadline, .. }) => {
                        let deadline_unix_ms = deadline.map_or(0, |at| unix_ms(at.seconds, at.nanos));
                        return Ok(Transaction::begun(self.clone(), gtid, protocol, deadline_unix_ms));
                    }
                    Err(Some(refused)) if refused.retry_after_ms.is_none() => return Err(refused.into()),
                    Err(Some(_) | None) => tokio::time::sleep(BEGIN_PAUSE).await,
                }
            }
        };
        tokio::time::timeout(self.inner.patience, asking).await.unwrap_or(Err(Error::NoAnswer { gtid }))
    }

    /// Waits until a transaction is decided, and says how; [`Outcome::InDoubt`] if that takes longer than `patience`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NOT_FOUND` if the coordinator knows no such transaction. That says nothing about its outcome:
    /// [`settle`](Self::settle) it.
    pub async fn outcome(&self, gtid: Gtid, patience: Duration) -> Result<Outcome, Error> {
        let request = Ask::Await { wait: Wait::Decided };
        match self.request(gtid, request, patience).await {
            Ok(reply) => Outcome::from_reply(reply),
            Err(Error::NoAnswer { gtid }) => Ok(Outcome::InDoubt { gtid }),
            Err(error) => Err(error),
        }
    }

    /// Ends a transaction that is in doubt, and says how it ended: it aborts unless its commit is decided. The coordinator need not
    /// know of the transaction. After an answer *aborted* it can never commit. [`Outcome::InDoubt`] if there is no answer within
    /// `patience`.
    ///
    /// # Errors
    /// [`Error::Refused`] if the gtid is a saga's, if another initiator began the transaction, or for the moment, with a time to
    /// retry after, if the log does not answer.
    pub async fn settle(&self, gtid: Gtid, patience: Duration) -> Result<Outcome, Error> {
        let reason = "its initiator did not hear the outcome, and settles it".to_owned();
        match self.request(gtid, Ask::Abort { reason }, patience).await {
            Ok(reply) => Outcome::from_reply(reply),
            Err(Error::NoAnswer { gtid }) => Ok(Outcome::InDoubt { gtid }),
            Err(error) => Err(error),
        }
    }

    /// The epoch of the coordinator that answers now, or answered last.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.inner.shared.epoch.load(Relaxed))
    }

    /// A branch of this process's participant that is about to begin in a transaction. No other branch has the same
    /// identity: prepare the work under it, so that two calls that belong to one transaction do not end each other's.
    pub fn new_branch(&self, gtid: Gtid) -> BranchKey {
        draw_branch(gtid, self.epoch())
    }

    /// Enlists a branch of this process's participant that is prepared already (early prepare). Most services call this
    /// through their resource's guard.
    ///
    /// # Errors
    /// [`EnlistError::Refused`]: undo what was prepared. [`EnlistError::Unknown`]: leave it prepared.
    pub async fn enlist(&self, key: BranchKey, vote: EarlyVote) -> Result<(), EnlistError> {
        if self.inner.name.is_none() {
            return Err(EnlistError::NotAParticipant);
        }
        let enlisting = async {
            let (answer, answered) = oneshot::channel();
            let command = Command::Enlist { key, vote, answer };
            self.inner.commands.send(command).await.map_err(|_| EnlistError::Closed)?;
            match answered.await {
                Ok(Answer::Known) => Err(EnlistError::Duplicate(key.gtid)),
                Ok(Answer::Reply(Reply::Enlisted)) => Ok(()),
                Ok(Answer::Reply(Reply::Refused(refused))) => {
                    self.inner.commands.send(Command::Withdraw { key }).await.map_err(|_| EnlistError::Closed)?;
                    Err(EnlistError::Refused(refused))
                }
                Ok(Answer::Reply(_) | Answer::Lost) | Err(_) => Err(EnlistError::Unknown),
            }
        };
        tokio::time::timeout(self.inner.patience, enlisting).await.unwrap_or(Err(EnlistError::Unknown))
    }

    /// Which of these transactions and sagas have ended, so that nothing will ever be asked about them again.
    ///
    /// # Errors
    /// [`Error::Refused`] if the coordinator's log does not answer; [`Error::NoAnswer`] if the coordinator does not.
    pub async fn ended(&self, gtids: &[Gtid]) -> Result<Vec<Gtid>, Error> {
        let mut ended = Vec::new();
        let Some(first) = gtids.first() else { return Ok(ended) };
        let mut unary = self.unary().await.map_err(|error| {
            tracing::debug!(?error, "the coordinator cannot be asked which transactions have ended");
            Error::NoAnswer { gtid: *first }
        })?;
        for gtid in gtids {
            match unary.get(GetRequest { gtid: gtid.to_string() }).await {
                Ok(response) => {
                    let state = response.transaction.map(|transaction| transaction.state());
                    let is_over = matches!(
                        state,
                        Some(
                            TransactionState::Committed
                                | TransactionState::Aborted
                                | TransactionState::Completed
                                | TransactionState::Compensated
                        )
                    );
                    if is_over {
                        ended.push(*gtid);
                    }
                }
                Err(status) => match refusal_of(&status) {
                    // Every saga's start is durable, so one that is unknown is older than the history.
                    Some(refused) if refused.known_reason() == Some(Reason::NotFound) => ended.push(*gtid),
                    Some(refused) => return Err(refused.into()),
                    None => return Err(Error::NoAnswer { gtid: *gtid }),
                },
            }
        }
        Ok(ended)
    }

    async fn unary(&self) -> Result<Unary, DialError> {
        Unary::dial(&self.inner.dialer, &self.inner.shared.coordinator.address).await
    }

    /// What answers the peers of this participant's voter: mount it in the service's own server, at the address that was given to
    /// [`Builder::voter`]. Let that server take its connections from a [`Listener`](crate::transport::Listener): it is what tells the
    /// service which peer has authenticated.
    ///
    /// # Errors
    /// [`Error::NoVoter`] if this process has none.
    pub fn peer_service(&self) -> Result<PeerServiceServer<PeerService>, Error> {
        let voter = self.inner.shared.voter.clone().ok_or(Error::NoVoter)?;
        let service = PeerService::new(voter, self.inner.dialer.is_insecure(), self.inner.commands.downgrade());
        Ok(PeerServiceServer::new(service))
    }

    /// Serves [`peer_service`](Self::peer_service) alone, for processes without a server of their own: over TLS if the voter's address is
    /// `https://`, with the certificate of [`Builder::cert`]. The future runs until this session is [closed](Self::closed).
    ///
    /// # Errors
    /// [`Error::NoVoter`] if this process has none. The future's are the listener's.
    pub fn serve_peers(
        &self,
        listener: TcpListener,
    ) -> Result<impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static, Error> {
        let service = self.peer_service()?;
        let tls = self.inner.shared.peer_tls.clone();
        let mut closed = self.inner.closed.clone();
        Ok(async move {
            let until_closed = async move {
                closed.wait_for(|is_closed| *is_closed).await.ok();
            };
            let rules = Rules { tls, connections_max: PEER_CONNECTIONS_MAX, severed: CancellationToken::new() };
            Server::builder()
                .max_concurrent_streams(PEER_STREAMS_MAX)
                .serve_with_incoming_shutdown(service, Listener::new(listener, rules), until_closed)
                .await
        })
    }

    /// Waits until the session has ended for good: at [`shutdown`](Self::shutdown).
    pub async fn closed(&self) {
        // An error means that the task is gone, which is closed too.
        self.inner.closed.clone().wait_for(|is_closed| *is_closed).await.ok();
    }

    /// Takes no new orders, lets the hooks that run finish, tells their results, and leaves. What is in doubt stays
    /// prepared and is asked about at the next start.
    pub async fn shutdown(self) {
        // A full queue drains; a closed one means that it is over already.
        self.inner.commands.send(Command::Shutdown).await.ok();
        if let Some(task) = self.inner.task.lock().await.take() {
            task.await.ok();
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn request(&self, gtid: Gtid, ask: Ask, patience: Duration) -> Result<Reply, Error> {
        let bytes = request_bytes(&ask);
        if bytes > REQUEST_BYTES_MAX {
            let name = format!("{gtid} as a whole");
            return Err(Error::PayloadTooLarge { name, bytes, bytes_max: REQUEST_BYTES_MAX });
        }
        let (answer, answered) = oneshot::channel();
        let asked = async {
            let command = Command::Ask { gtid, ask, answer };
            self.inner.commands.send(command).await.map_err(|_| Error::Closed)?;
            answered.await.map_err(|_| Error::Closed)
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(Answer::Reply(Reply::Refused(refused)))) => Err(refused.into()),
            Ok(Ok(Answer::Reply(reply))) => Ok(reply),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Answer::Known | Answer::Lost)) | Err(_) => Err(Error::NoAnswer { gtid }),
        }
    }

    /// Asks, and lets the answer go.
    pub(crate) fn tell(&self, gtid: Gtid, ask: Ask) {
        // A queue that is full, or closed: the transaction ends by its own timeout.
        self.inner.commands.try_send(Command::Tell { gtid, ask }).ok();
    }

    #[cfg(test)]
    pub(crate) fn voter(&self) -> Option<&crate::voter::OwnVoter> {
        self.inner.shared.voter.as_deref()
    }

    pub(crate) fn patience(&self) -> Duration {
        self.inner.patience
    }

    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.inner.shared.payload_bytes_max.load(Relaxed)
    }
}

impl fmt::Debug for Assent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assent")
            .field("coordinator", &self.inner.shared.coordinator)
            .field("participant", &self.inner.name)
            .finish_non_exhaustive()
    }
}

/// A branch that begins now. No other one has the same identity, be it one of the same call that came twice.
pub(crate) fn draw_branch(gtid: Gtid, epoch: Epoch) -> BranchKey {
    BranchKey { gtid, id: BranchId { epoch, number: rand::rng().random_range(1..=u64::MAX) } }
}

/// A new gtid.
pub(crate) fn mint() -> Gtid {
    match Gtid::new(Uuid::now_v7()) {
        Ok(gtid) => gtid,
        Err(_) => unreachable!("now_v7 makes version 7"),
    }
}

pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Of a protobuf timestamp.
fn unix_ms(seconds: i64, nanos: i32) -> u64 {
    let (seconds, nanos) = (u64::try_from(seconds).unwrap_or_default(), u64::try_from(nanos).unwrap_or_default());
    seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
}

/// An answer of another kind than was asked for.
pub(crate) fn unexpected(reply: Reply) -> Error {
    match reply {
        Reply::Refused(refused) => refused.into(),
        Reply::Outcome { outcome, reason, .. } => {
            let why = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
            Reason::Internal.refused(format!("the transaction had {outcome} before it was asked for{why}")).into()
        }
        Reply::Begun { .. } | Reply::Enlisted | Reply::SagaStarted | Reply::SagaTurned { .. } => Reason::Internal
            .refused("the coordinator answered another question; upgrade whichever side is older")
            .into(),
    }
}
