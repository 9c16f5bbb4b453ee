//! A whole coordinator: log, driver, services and port, started and stopped together.
//!
//! | file | subject |
//! |---|---|
//! | `server.rs` | start, stop, and what can go wrong with either |
//! | `server/opening.rs` | the log, waited for where it does not answer yet |
//! | `server/listening.rs` | the port and its connections |
//! | `server/upkeep.rs` | retention, health, and the lease |
//!
//! It is a library: tests and small systems start a coordinator inside their own process.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use assent::{config::Config, server::Coordinator};
//!
//! let config = Config { listen: "127.0.0.1:0".into(), log: "sqlite:assent.db".into(), ..Config::default() };
//! let coordinator = Coordinator::start(config).await?;
//! println!("serving at {}", coordinator.endpoint());
//! coordinator.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The end
//! A shutdown first tells the sessions to go away and takes on nothing new, waits until what is undecided is decided (at most
//! `drain_max`), then closes the port, the connections, the driver and the log. Dropping a [`Coordinator`] skips the waiting: what
//! is decided goes on at the next start, and what is undecided aborts, as after a crash.

mod listening;
mod opening;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use assent_proto::FILE_DESCRIPTOR_SET;
use assent_proto::v1::admin_service_server::AdminServiceServer;
use assent_proto::v1::transaction_service_server::TransactionServiceServer;
use assent_protocol::{Epoch, Name};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tower::util::MapResponseLayer;

use assent_transport::listener::Rules;
use assent_transport::{Listener, ServerTls, TlsError};

use crate::access::{Access, AccessLayer, TokensError};
use crate::config::Config;
use crate::driver::{Driver, Statistics, Stopped, now_ms};
use crate::log::{Log, LogError, OpenError};
use crate::service::{Admin, LocalSession, Shared, Transactions, explained_answer};
use crate::session::{self, MESSAGE_BYTES_MAX};

pub(crate) use opening::Patience;
pub use opening::Silence;

/// How long connections may take to close by themselves, once the port is closed.
const CONNECTIONS_CLOSE_MAX: Duration = Duration::from_secs(1);
/// How long the last records may take to reach the log.
const DRIVER_CLOSE_MAX: Duration = Duration::from_secs(10);
/// The silence after which HTTP/2 asks whether the peer is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long the peer may take to say so.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What one stream may send ahead of its reader: half a frame of the largest size, so that a sender is not stopped within ordinary ones.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// What all streams of one connection may.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The largest HTTP/2 frame that is taken; larger ones are fewer.
const HTTP2_FRAME_BYTES_MAX: u32 = 256 * 1024;
/// Calls at once on one connection.
const STREAMS_MAX: u32 = 1_024;

/// A running coordinator.
#[derive(Debug)]
pub struct Coordinator {
    address: SocketAddr,
    is_tls: bool,
    replica: Name,
    epoch: Epoch,
    statistics: Arc<Statistics>,
    stop: watch::Sender<Stop>,
    ended: watch::Receiver<Option<Result<(), Failure>>>,
}

/// What the owner of a coordinator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    Drain,
    Now,
}

/// A coordinator that could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The log did not answer for as long as it was waited for.
    #[error("the log did not answer within {}; start it, or wait longer for it with --wait-for-log", humantime::format_duration(*waited))]
    LogSilent {
        /// How long it was waited for.
        waited: Duration,
        /// The last thing that went wrong.
        source: Silence,
    },
    /// A replica of another name drives what is in the log.
    #[error(transparent)]
    Leased(LogError),
    /// What is open in the log could not be taken over.
    #[error("cannot take over what is open in the log; look at the log's database, then start again")]
    Recovery(#[source] LogError),
    /// The address is not there to be listened at.
    #[error("cannot listen at {address}: {next}")]
    Listen {
        /// The address.
        address: String,
        /// What to do.
        next: &'static str,
        /// What failed.
        source: std::io::Error,
    },
    /// The certificates of the server cannot be used.
    #[error("the server's TLS cannot be set up; correct tls_cert, tls_key and client_ca")]
    Tls(#[from] TlsError),
    /// The tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// It would be open to a network.
    #[error(
        "{address} can be reached from beyond this machine, and {missing}; give {give}, or listen at 127.0.0.1, or say insecure = true if \
         the network encrypts and authenticates by itself"
    )]
    Open {
        /// Where it would listen.
        address: SocketAddr,
        /// What is missing.
        missing: &'static str,
        /// What to give.
        give: &'static str,
    },
    /// The built-in descriptors are broken.
    #[error("the descriptors for reflection cannot be read; this binary is damaged, build it anew")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// Why a coordinator stopped by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The driver did.
    #[error(transparent)]
    Driver(#[from] Stopped),
    /// The server did.
    #[error("the server stopped: {problem}; start it again")]
    Server {
        /// What was wrong.
        problem: String,
    },
}

impl Coordinator {
    /// Opens the log, takes over what is open in it, and serves.
    ///
    /// # Errors
    /// [`StartError`], which says what to do next. Nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        // A slip in a file's name leaves no log behind.
        config.tls().map(ServerTls::load).transpose()?;
        config.tokens_file.as_deref().map(Access::check).transpose()?;
        let deadline = tokio::time::Instant::now() + config.wait_for_log;
        let log = opening::open(&config, deadline).await?;
        Self::start_with(config, log).await
    }

    /// As [`start`](Self::start), with a log that is open already; `config.log` is not looked at.
    ///
    /// # Errors
    /// [`StartError`], which says what to do next. Nothing is left running.
    pub async fn start_with(config: Config, log: Arc<dyn Log>) -> Result<Self, StartError> {
        let tls = config.tls().map(ServerTls::load).transpose()?;
        let is_tls = tls.is_some();
        // First of all: a second process on a port must not fence the one that serves there.
        let listener = listening::bind(&config.listen).await?;
        let address = listener.local_addr().map_err(|source| listening::error(&config.listen, source))?;
        refuse_open(&config, address)?;
        let deadline = tokio::time::Instant::now() + config.wait_for_log;
        // What is open may take longer than a lease to recover.
        let driver = tokio::select! {
            driver = opening::drive(&config, &log, deadline) => driver?,
            never = upkeep::keep_lease_at_start(&*log) => match never {},
        };
        let (stop, stop_asked) = watch::channel(Stop::No);
        let (end, ended) = watch::channel(None);
        let (epoch, statistics) = (driver.epoch(), Arc::clone(driver.statistics()));
        let replica = config.replica.clone();
        let running = Running::serve(config, log, driver, listener, tls).await?;
        tokio::spawn(async move {
            let result = running.until_stopped(stop_asked).await;
            end.send_replace(Some(result));
        });
        tracing::info!(%address, %replica, epoch = epoch.0, "serving");
        Ok(Self { address, is_tls, replica, epoch, statistics, stop, ended })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for clients on this machine.
    pub fn endpoint(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        format!("{}://{address}", if self.is_tls { "https" } else { "http" })
    }

    /// The URL for clients on other machines, where it listens on every address of this one: by an address that leads out of
    /// this machine, or under TLS by the machine's name, which its certificate may bear.
    pub fn endpoint_elsewhere(&self) -> Option<String> {
        if !self.address.ip().is_unspecified() {
            return None;
        }
        let (scheme, port) = (if self.is_tls { "https" } else { "http" }, self.address.port());
        let outward = if self.is_tls { None } else { listening::outward(self.address) };
        match outward {
            Some(ip) => Some(format!("{scheme}://{}", SocketAddr::new(ip, port))),
            None => Some(format!("{scheme}://{}:{port}", listening::machine_name())),
        }
    }

    /// Its replica's name.
    pub fn replica(&self) -> &Name {
        &self.replica
    }

    /// The epoch under which it drives.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What it has done so far.
    pub fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// Waits until it runs no more.
    ///
    /// # Errors
    /// [`Failure`] if it stopped by itself, rather than at a shutdown.
    pub async fn stopped(&self) -> Result<(), Failure> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err(Failure::Server { problem: "its supervising task is gone".to_owned() }),
        }
    }

    /// Decides what is undecided, then stops. To be waited for, or called again, as often as one likes.
    ///
    /// # Errors
    /// [`Failure`] if it had stopped by itself.
    pub async fn shutdown(&self) -> Result<(), Failure> {
        self.ask_for(Stop::Drain);
        self.stopped().await
    }

    /// Stops without deciding what is undecided, which aborts.
    ///
    /// # Errors
    /// [`Failure`] if it had stopped by itself.
    pub async fn kill(&self) -> Result<(), Failure> {
        self.ask_for(Stop::Now);
        self.stopped().await
    }

    fn ask_for(&self, wanted: Stop) {
        self.stop.send_if_modified(|stop| {
            let is_more = *stop < wanted;
            *stop = wanted.max(*stop);
            is_more
        });
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.ask_for(Stop::Now);
    }
}

/// The parts of a running coordinator, in the hands of the task that supervises it.
struct Running {
    log: Arc<dyn Log>,
    driver: Driver,
    drain_max: Duration,
    health: upkeep::Health,
    upkeep: JoinHandle<()>,
    /// Looks for changes of the tokens.
    following: JoinHandle<()>,
    /// Ends once another process has taken over.
    leased: JoinHandle<()>,
    /// Tells the sessions to go away.
    leaving: watch::Sender<bool>,
    /// Closes the port.
    closing: CancellationToken,
    /// Cuts the connections.
    severed: CancellationToken,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Running {
    /// Puts all services on one port.
    async fn serve(
        config: Config,
        log: Arc<dyn Log>,
        driver: Driver,
        listener: tokio::net::TcpListener,
        tls: Option<Arc<ServerTls>>,
    ) -> Result<Self, StartError> {
        let (leaving, is_leaving) = watch::channel(false);
        let (closing, severed) = (CancellationToken::new(), CancellationToken::new());
        let access = Access::open(
            config.tokens_file.as_deref(),
            tls.as_ref().is_some_and(|tls| tls.names_peers()),
            config.limits.open_max,
            Arc::clone(driver.statistics()),
        )?;
        let shared = Arc::new(Shared {
            driver: driver.clone(),
            local: LocalSession::open(driver.clone(), config.limits.backlog_max).await,
            log: Arc::clone(&log),
            limits: config.limits.clone(),
            access: Arc::clone(&access),
            insecure: config.insecure,
            replica: config.replica.to_string(),
            started_at_ms: now_ms(),
        });
        let transactions = TransactionServiceServer::new(Transactions::new(Arc::clone(&shared)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let admin = AdminServiceServer::new(Admin::new(shared)).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let settings = session::Settings {
            replica: config.replica.to_string(),
            coordinator_id: log.coordinator_id().await.map_err(StartError::Recovery)?,
            heartbeat_interval: config.session.heartbeat_interval,
            silence_max: config.session.silence_max,
            sessions_max: config.session.sessions_max,
            limits: config.limits.clone(),
        };
        let sessions = session::service(driver.clone(), settings, Arc::clone(&log), Arc::clone(&access), is_leaving);
        let (health, health_service) = upkeep::Health::serving(config.insecure).await;
        let described = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let reflection = described().build_v1().map_err(StartError::Reflection)?;
        // Many clients know this version alone.
        let reflection_alpha = described().build_v1alpha().map_err(StartError::Reflection)?;
        let router = Server::builder()
            .trace_fn(span_of)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES_MAX)
            .max_concurrent_streams(STREAMS_MAX)
            .layer(MapResponseLayer::new(explained_answer))
            .layer(AccessLayer::new(Arc::clone(&access)))
            .add_service(sessions)
            .add_service(transactions)
            .add_service(admin)
            .add_service(health_service)
            .add_service(reflection)
            .add_service(reflection_alpha);
        let rules = Rules { tls, connections_max: listening::connections_max(), severed: severed.clone() };
        let incoming = Listener::new(listener, rules);
        let serving = tokio::spawn(router.serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned()));
        let following = tokio::spawn(access.follow());
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&log), health.clone(), config.retention));
        let lease_log = Arc::clone(&log);
        let leased = tokio::spawn(async move { upkeep::keep_lease(&*lease_log).await });
        Ok(Self {
            log,
            driver,
            drain_max: config.drain_max,
            health,
            upkeep,
            following,
            leased,
            leaving,
            closing,
            severed,
            serving,
        })
    }

    /// Serves until something ends it, then takes it apart.
    async fn until_stopped(mut self, mut stop: watch::Receiver<Stop>) -> Result<(), Failure> {
        let failure = tokio::select! {
            // Its owner is gone without a word: that stops it, too.
            _ = stop.wait_for(|stop| *stop > Stop::No) => None,
            why = self.driver.stopped() => Some(Failure::Driver(why)),
            _ = &mut self.leased => Some(Failure::Driver(Stopped::Fenced)),
            served = &mut self.serving => Some(served_no_more(served)),
        };
        self.upkeep.abort();
        self.following.abort();
        self.health.leave().await;
        self.leaving.send_replace(true);
        let is_orderly = failure.is_none() && *stop.borrow() == Stop::Drain;
        if is_orderly {
            self.drain(&mut stop).await;
        }
        self.closing.cancel();
        if is_orderly && !self.serving.is_finished() {
            tokio::time::timeout(CONNECTIONS_CLOSE_MAX, &mut self.serving).await.ok();
        }
        self.severed.cancel();
        if !self.serving.is_finished() {
            tokio::time::timeout(CONNECTIONS_CLOSE_MAX, &mut self.serving).await.ok();
        }
        // The services are gone, and with them every other handle of the driver.
        if tokio::time::timeout(DRIVER_CLOSE_MAX, self.driver.close()).await.is_err() {
            tracing::warn!("the last records did not reach the log in time; nothing that was promised is lost");
        }
        self.leased.abort();
        if tokio::time::timeout(DRIVER_CLOSE_MAX, self.log.close()).await.is_err() {
            tracing::warn!("the log was not closed in time");
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Waits until everything is decided, for so long as that may take and nobody wants it faster.
    async fn drain(&self, stop: &mut watch::Receiver<Stop>) {
        tracing::info!(drain_max = %humantime::format_duration(self.drain_max), "draining: nothing new is taken on");
        tokio::select! {
            drained = tokio::time::timeout(self.drain_max, self.driver.drain()) => {
                if drained.is_err() {
                    tracing::warn!("not everything was decided in time; what is undecided aborts");
                }
            }
            _ = stop.wait_for(|stop| *stop == Stop::Now) => {}
            _ = self.driver.stopped() => {}
        }
    }
}

/// Beyond this machine a server encrypts, and knows its callers, unless its owner says otherwise.
fn refuse_open(config: &Config, address: SocketAddr) -> Result<(), StartError> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let is_known = config.client_ca.is_some() || config.tokens_file.is_some();
    let (missing, give) = match (config.tls_cert.is_some(), is_known) {
        (true, true) => return Ok(()),
        (false, true) => ("what is said there is not encrypted", "tls_cert and tls_key (--tls-cert, --tls-key)"),
        (true, false) => (
            "every process that reaches it may commit and abort",
            "client_ca or tokens_file (--client-ca, --tokens-file)",
        ),
        (false, false) => (
            "every process that reaches it may commit and abort",
            "tls_cert and tls_key, and client_ca or tokens_file (`assent certs init` makes certificates for a first cluster)",
        ),
    };
    if !config.insecure {
        return Err(StartError::Open { address, missing, give });
    }
    tracing::warn!(%address, missing, "insecure = true: open to a network without TLS or authentication");
    Ok(())
}

fn served_no_more(served: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>) -> Failure {
    let problem = match served {
        Ok(Ok(())) => "it has no more connections to take".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Failure::Server { problem }
}

/// A span for each call, but none for a session: that lasts for days.
fn span_of(request: &tonic::codegen::http::Request<()>) -> tracing::Span {
    let path = request.uri().path();
    if path.ends_with("/Exchange") { tracing::Span::none() } else { tracing::info_span!("call", path) }
}
