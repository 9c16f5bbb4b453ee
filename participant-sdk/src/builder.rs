//! Joining a coordinator.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::session::Code;
use assent_protocol::three_phase::PeerAddress;
use assent_protocol::{BranchKey, ParticipantName};
use assent_transport::dialer::is_loopback;
use assent_transport::{Dialer, ServerFiles, ServerTls};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::assent::Assent;
use crate::engine::{AnyParticipant, AnySagaParticipant, Engine, Settings, VoterSettings};
use crate::error::ConnectError;
use crate::hosted::{Found, Gate, HostedBranches, HostedSteps};
use crate::participant::{BoxError, Coordinator, Participant};
use crate::saga::SagaParticipant;
use crate::voter::VoterStore;
use crate::voter::store::AnyStore;

/// How a process joins; made by [`Assent::dial`].
#[must_use = "nothing is dialled before `connect`"]
pub struct Builder {
    address: String,
    dialer: Dialer,
    names: Vec<String>,
    branches: Option<Arc<dyn AnyParticipant>>,
    steps: Option<Arc<dyn AnySagaParticipant>>,
    connect_timeout: Duration,
    wait_for_coordinator: Duration,
    hooks_max: usize,
    in_doubt_interval: Duration,
    in_doubt_grace: Duration,
    patience: Duration,
    voter: Option<(AnyStore, String)>,
    /// Closed until [`connect`](Self::connect) says that work may begin.
    gate: Gate,
    found: Found,
    set_up: Option<BoxFuture<'static, Result<(), BoxError>>>,
}

/// How long a coordinator that does not answer is waited for, unless set otherwise.
const WAIT_FOR_COORDINATOR: Duration = Duration::from_secs(30);
/// The bounds of the pauses between attempts to reach it.
const REDIAL_FIRST: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether what was in doubt has ended.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);
/// How long after that is waited for, the log says so.
const SETTLE_WARNING_AFTER: Duration = Duration::from_secs(5);

impl Builder {
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            dialer: Dialer::new(),
            names: Vec::new(),
            branches: None,
            steps: None,
            connect_timeout: Duration::from_secs(5),
            wait_for_coordinator: WAIT_FOR_COORDINATOR,
            hooks_max: 1_024,
            in_doubt_interval: Duration::from_secs(60),
            in_doubt_grace: Duration::from_secs(10),
            patience: Duration::from_secs(10),
            voter: None,
            gate: Gate::new(false),
            found: Found::default(),
            set_up: None,
        }
    }

    /// Takes part in two-phase commits under this name; in three-phase ones too, with a [`voter`](Self::voter).
    pub fn participant(mut self, name: impl Into<String>, participant: impl Participant) -> Self {
        self.names.push(name.into());
        let hosted = HostedBranches::new(participant, self.gate.clone(), Arc::clone(&self.found));
        self.branches = Some(Arc::new(hosted));
        self
    }

    /// Executes and compensates saga steps under this name; the same name as [`participant`](Self::participant)'s, if both are given.
    pub fn saga_participant(mut self, name: impl Into<String>, participant: impl SagaParticipant) -> Self {
        self.names.push(name.into());
        self.steps = Some(Arc::new(HostedSteps::new(participant, self.gate.clone())));
        self
    }

    /// Gives the participant a voter, so that it may take part in three-phase transactions: where the voter keeps its state, and the address
    /// at which its peers reach the [`PeerService`](crate::voter::PeerService) that this process will mount, such as
    /// `https://bank-a.example:7421`. See [`voter`](crate::voter).
    pub fn voter(mut self, store: impl VoterStore, address: impl Into<String>) -> Self {
        self.voter = Some((Arc::new(store), address.into()));
        self
    }

    /// Shows this token to the coordinator. It is not shown to peers, and not sent in clear beyond this machine.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.dialer = self.dialer.token(token);
        self
    }

    /// Shows the token in this file, which is read for each connection.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.dialer = self.dialer.token_file(path);
        self
    }

    /// Trusts the authorities in this file (PEM) for `https://`, and no others; without it, those that the machine trusts. Peers of a
    /// [`voter`](Self::voter) are verified against it too.
    pub fn ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.dialer = self.dialer.ca(path);
        self
    }

    /// Proves who this process is with the certificate in this file (PEM), and its [`key`](Self::key): to the coordinator and to peers.
    /// The file is read for each connection.
    pub fn cert(mut self, path: impl Into<PathBuf>) -> Self {
        self.dialer = self.dialer.cert(path);
        self
    }

    /// The private key of [`cert`](Self::cert) (PEM).
    pub fn key(mut self, path: impl Into<PathBuf>) -> Self {
        self.dialer = self.dialer.key(path);
        self
    }

    /// The name that the coordinator's certificate has to bear, where it is not the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.dialer = self.dialer.server_name(name);
        self
    }

    /// Sends credentials over `http://` beyond this machine, and lets peers come so: for networks that encrypt and authenticate by
    /// themselves, such as a service mesh.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.dialer = self.dialer.insecure(insecure);
        self
    }

    /// Everything at once about how this process dials.
    pub fn dialer(mut self, dialer: Dialer) -> Self {
        self.dialer = dialer;
        self
    }

    /// How long one attempt to connect may take. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long [`connect`](Self::connect) waits for a coordinator that does not answer yet, or has no place for this process: services and
    /// coordinator may start in any order. The log says that it waits. Zero gives up at once. Default 30 s.
    pub fn wait_for_coordinator(mut self, wait: Duration) -> Self {
        self.wait_for_coordinator = wait;
        self
    }

    /// Sets the service up (its tables, its first rows) once no branch is in doubt any more, and before it is given any work.
    ///
    /// A prepared branch holds the locks of its rows until it learns its decision, which only a participant that has joined learns. So a
    /// service that changes its tables before it joins may wait for a row that its own branch holds, and never join. With this,
    /// [`connect`](Self::connect) joins, waits until the branches that were in doubt have ended, runs `set_up`, and only then lets the
    /// coordinator's orders to prepare and to execute reach the hooks.
    ///
    /// ```no_run
    /// # use assent_sdk::{Assent, BoxError, Participant};
    /// # async fn example(bank: impl Participant, pool: sqlx::PgPool) -> Result<(), BoxError> {
    /// let assent = Assent::dial("http://127.0.0.1:7420")
    ///     .participant("bank-a", bank)
    ///     .settle_first(async move {
    ///         sqlx::query("insert into account values ('alice', 100) on conflict do nothing").execute(&pool).await?;
    ///         Ok(())
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn settle_first(mut self, set_up: impl Future<Output = Result<(), BoxError>> + Send + 'static) -> Self {
        self.set_up = Some(set_up.boxed());
        self
    }

    /// How many hooks that prepare or execute run at a time; further orders wait. Default 1,024.
    ///
    /// As many again may commit or abort at the same time, and as many again may compensate, each in a queue of their own: work waits for
    /// locks that only the end of another branch releases, so no end waits for a place that work has. An order to end a branch whose prepare
    /// is still waiting for its place takes that prepare back, and the hook is not called.
    pub fn hooks_max(mut self, hooks: usize) -> Self {
        self.hooks_max = hooks.max(1);
        self
    }

    /// How often the participant is asked for branches that an instance which is gone has [left prepared](Participant::in_doubt), so that this
    /// one asks the coordinator how they end; by chance up to a quarter earlier or later. It is asked on every new session, too. At least a
    /// millisecond, at most a year; default 60 s.
    pub fn in_doubt_interval(mut self, interval: Duration) -> Self {
        self.in_doubt_interval = interval.clamp(Duration::from_millis(1), Duration::from_secs(365 * 24 * 3_600));
        self
    }

    /// How long such a branch has to be found prepared before the coordinator is asked: longer than a living instance takes from
    /// preparing a branch to voting for it, or enlisting it. The coordinator presumes an abort of a transaction that it does not know. Default 10 s.
    pub fn in_doubt_grace(mut self, grace: Duration) -> Self {
        self.in_doubt_grace = grace;
        self
    }

    /// How long beyond a transaction's own timeout a commit waits for its outcome before that counts as in doubt. Default 10 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Dials, lets the participant check itself, and joins. From then on the session is kept: when it breaks it is dialled
    /// again.
    ///
    /// A coordinator that does not answer is [waited for](Self::wait_for_coordinator). A participant with a [`voter`](Self::voter) that has met
    /// its coordinator before starts without it: with its peers it ends three-phase transactions meanwhile, and joins as soon as the
    /// coordinator answers.
    ///
    /// A service that changes its tables at its start does so in [`settle_first`](Self::settle_first), not before this.
    ///
    /// # Errors
    /// [`ConnectError`]: the coordinator is not there or refuses, a name is none, or the participant's own check failed; its voter's store or
    /// address is not fit; what was to be set up failed.
    pub async fn connect(self) -> Result<Assent, ConnectError> {
        let mut names = self.names;
        names.dedup();
        let name = match names.as_slice() {
            [] => None,
            [name] => Some(ParticipantName::new(name)?),
            [one, other, ..] => return Err(ConnectError::TwoNames(one.clone(), other.clone())),
        };
        let voter = match self.voter {
            Some((store, address)) => {
                let address = peer_address(address)?;
                let tls = peer_tls(&address, &self.dialer)?;
                Some(VoterSettings { store, address, tls })
            }
            None => None,
        };
        let settings = Settings {
            address: self.address,
            dialer: self.dialer,
            name: name.clone(),
            branches: self.branches,
            steps: self.steps,
            connect_timeout: self.connect_timeout,
            hooks_max: self.hooks_max,
            in_doubt_interval: self.in_doubt_interval,
            in_doubt_grace: self.in_doubt_grace,
            voter,
        };
        if self.set_up.is_none() {
            self.gate.open();
        }
        let (dialer, branches) = (settings.dialer.clone(), settings.branches.clone());
        let (commands, shared, task) = start(settings, self.wait_for_coordinator).await?;
        let coordinator = Arc::clone(&shared.coordinator);
        let assent = Assent::new(commands, shared, task, name, dialer, self.patience);
        if let Some(set_up) = self.set_up {
            let in_doubt = self.found.get().map(|found| found.iter().copied().collect()).unwrap_or_default();
            if let Some(branches) = branches {
                settle(branches, coordinator, in_doubt).await.map_err(ConnectError::InDoubt)?;
            }
            set_up.await.map_err(ConnectError::SetUp)?;
            self.gate.open();
        }
        Ok(assent)
    }
}

/// Starts the engine, for which the coordinator has to answer; waits for it that long.
async fn start(settings: Settings, wait: Duration) -> Result<Started, ConnectError> {
    let deadline = Instant::now() + wait;
    let mut pause = REDIAL_FIRST;
    let mut attempts: u32 = 0;
    loop {
        let error = match Engine::start(again(&settings)).await {
            Err(error) if may_pass(&error) => error,
            started => return started,
        };
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        attempts += 1;
        if attempts.is_power_of_two() {
            let left_s = deadline.saturating_duration_since(Instant::now()).as_secs();
            tracing::warn!(?error, "waiting for the coordinator, for {left_s} s more");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(REDIAL_MAX);
    }
}

type Started =
    (tokio::sync::mpsc::Sender<crate::engine::Command>, Arc<crate::engine::Shared>, tokio::task::JoinHandle<()>);

/// The same once more.
fn again(settings: &Settings) -> Settings {
    let voter = settings.voter.as_ref();
    Settings {
        address: settings.address.clone(),
        dialer: settings.dialer.clone(),
        name: settings.name.clone(),
        branches: settings.branches.clone(),
        steps: settings.steps.clone(),
        voter: voter.map(|VoterSettings { store, address, tls }| VoterSettings {
            store: Arc::clone(store),
            address: address.clone(),
            tls: tls.clone(),
        }),
        ..*settings
    }
}

/// Whether the coordinator may answer a later attempt: it is not there yet, or is about to leave.
fn may_pass(error: &ConnectError) -> bool {
    match error {
        ConnectError::Unreachable { .. } => true,
        ConnectError::Refused { source, .. } => source.code == Code::Unavailable,
        ConnectError::Dial(_)
        | ConnectError::Name(_)
        | ConnectError::TwoNames(..)
        | ConnectError::VoterAddress { .. }
        | ConnectError::VoterInClear { .. }
        | ConnectError::VoterTls(_)
        | ConnectError::VoterWithoutParticipant
        | ConnectError::VoterStore(_)
        | ConnectError::Start(_)
        | ConnectError::InDoubt(_)
        | ConnectError::SetUp(_) => false,
    }
}

/// Waits until none of these branches is in doubt any more.
async fn settle(
    participant: Arc<dyn AnyParticipant>,
    about: Arc<Coordinator>,
    mut in_doubt: HashSet<BranchKey>,
) -> Result<(), BoxError> {
    let began = Instant::now();
    let mut warn_at = began + SETTLE_WARNING_AFTER;
    while !in_doubt.is_empty() {
        let listed = Arc::clone(&participant).in_doubt(Arc::clone(&about)).await?;
        in_doubt = listed.into_iter().filter(|key| in_doubt.contains(key)).collect();
        if let Some(key) = in_doubt.iter().next()
            && Instant::now() >= warn_at
        {
            tracing::warn!(
                branches = in_doubt.len(),
                waited_s = began.elapsed().as_secs(),
                "branches in doubt hold their locks, and the service is set up once they have ended; \
                 `assent tx show {}` says what one of them waits for; in Postgres they are listed by: \
                 select gid, prepared, owner from pg_prepared_xacts where database = current_database()",
                key.gtid
            );
            warn_at = Instant::now() + began.elapsed();
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
    Ok(())
}

/// An address that peers can dial.
fn peer_address(address: String) -> Result<PeerAddress, ConnectError> {
    let is_url = Endpoint::from_shared(address.clone())
        .is_ok_and(|endpoint| endpoint.uri().scheme().is_some() && endpoint.uri().authority().is_some());
    match PeerAddress::new(&address) {
        Ok(fit) if is_url => Ok(fit),
        Ok(_) | Err(_) => Err(ConnectError::VoterAddress { address }),
    }
}

/// How peers are answered at an address: over TLS, or in clear on this machine.
fn peer_tls(address: &PeerAddress, dialer: &Dialer) -> Result<Option<Arc<ServerTls>>, ConnectError> {
    let uri: http::Uri = match address.as_str().parse() {
        Ok(uri) => uri,
        Err(_) => return Err(ConnectError::VoterAddress { address: address.to_string() }),
    };
    if uri.scheme_str() == Some("https") {
        let files = dialer.files();
        let (Some(cert), Some(key), Some(ca)) = (&files.cert, &files.key, &files.ca) else {
            return Err(ConnectError::VoterTls(None));
        };
        let files = ServerFiles { cert: cert.clone(), key: key.clone(), client_ca: Some(ca.clone()) };
        return ServerTls::load(files).map(Some).map_err(|error| ConnectError::VoterTls(Some(error)));
    }
    if !dialer.is_insecure() && !uri.host().is_some_and(is_loopback) {
        return Err(ConnectError::VoterInClear { address: address.to_string() });
    }
    Ok(None)
}
