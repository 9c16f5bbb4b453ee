//! The incoming half: Hello, then frames, parsed once and given to the shards.

use std::sync::Arc;
use std::time::Duration;

use assent_crash::crash_point;
use assent_proto::error::{IntoStatus, Reason, ReasonStatus};
use assent_proto::session::{
    Ask, Expected, FromClient, FromReplica, Hello, Malformed, PROTOCOL_VERSIONS, Refused, Reply, Request, StepAnswer,
    Welcome,
};
use assent_proto::v1::{ClientMessage, ExchangeRequest};
use assent_protocol::Refusal;
use assent_protocol::message::agreed_version;
use assent_protocol::replica;
use assent_protocol::saga::{OUTPUT_TOO_LARGE, StepResult};
use assent_transport::{Greeting, HANDSHAKE_MAX, PeerInfo};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Status, Streaming};

use super::Shared;
use super::writer::End;
use crate::access::{Act, Caller, Gate, Need, Right, name_of, of_message};
use crate::driver::{Driver, Input, Limits, Peer, SessionId};
use crate::service::explained;

/// How long a client may take for its Hello.
const HELLO_MAX: Duration = HANDSHAKE_MAX;
/// How long a session goes on once what its client has shown holds no longer: enough to vote on what it was asked before.
const RETIRING: Duration = Duration::from_secs(1);

/// What is known of a client before its Hello.
pub(super) struct Door {
    pub(super) peer: Option<PeerInfo>,
    /// Keeps long messages out until the client is known.
    pub(super) gate: Gate,
    /// By its certificate, or by a token in its headers.
    pub(super) caller: Option<Caller>,
    /// Its place among those that are not known yet.
    pub(super) greeting: Option<Arc<Greeting>>,
}

/// One session's incoming half.
pub(super) struct Reader {
    shared: Arc<Shared>,
    session: SessionId,
    incoming: Streaming<ExchangeRequest>,
    end: End,
    door: Door,
}

/// What the first frame says.
struct Greeted {
    hello: Hello,
    /// The version of the session protocol that both sides speak.
    protocol_version: u32,
    /// Who says Hello.
    caller: Caller,
    /// The messages behind Hello.
    rest: Vec<ClientMessage>,
    /// Its place among the sessions.
    _place: OwnedSemaphorePermit,
}

impl Reader {
    pub(super) fn new(
        shared: Arc<Shared>,
        session: SessionId,
        incoming: Streaming<ExchangeRequest>,
        end: End,
        door: Door,
    ) -> Self {
        Self { shared, session, incoming, end, door }
    }

    /// Runs until the client is gone, silent, or in breach of the protocol; tells it why.
    pub(super) async fn run(mut self) {
        let why = match self.greet().await {
            Ok(Greeted { hello, protocol_version, caller, rest, _place }) => {
                self.open(&hello, protocol_version).await;
                let why = self.exchange(&caller, rest).await;
                for shard in 0..self.shared.driver.shard_count() {
                    self.shared.driver.give(shard, Input::SessionClosed(self.session)).await;
                }
                why
            }
            Err(why) => why,
        };
        // The client may be gone already.
        self.end.close.send(why).ok();
    }

    /// The first frame: Hello, and whatever came with it. A place is taken for a client that is known, and for no other.
    async fn greet(&mut self) -> Result<Greeted, Status> {
        let frame = match tokio::time::timeout(HELLO_MAX, self.incoming.message()).await {
            Err(_) => {
                return Err(Reason::HelloExpected.status("no Hello came; send it as the first message of a session"));
            }
            Ok(frame) => frame.map_err(explained)?.ok_or_else(|| Status::cancelled("the client has left"))?,
        };
        let mut messages = frame.messages.into_iter();
        let first = messages.next().map(FromClient::try_from);
        let hello = match first {
            Some(Ok(FromClient::Hello(hello))) => hello,
            Some(Err(malformed)) => return Err(malformed.into()),
            Some(Ok(_)) | None => {
                return Err(Reason::HelloExpected
                    .status("the first message of a session is Hello; send it, and then the others"));
            }
        };
        let protocol_version =
            agreed_version(&hello.protocol_versions, &PROTOCOL_VERSIONS).map_err(IntoStatus::into_status)?;
        let caller = self.authenticate(&hello).await?;
        let Ok(place) = Arc::clone(&self.shared.places).try_acquire_owned() else {
            let message = format!(
                "this replica holds {} sessions, as many as it may; dial another, or raise session.sessions_max",
                self.shared.settings.sessions_max
            );
            return Err(Reason::TooManySessions.status(message));
        };
        self.door.gate.open();
        self.door.greeting = None;
        if let Some(peer) = &self.door.peer {
            peer.admit();
        }
        Ok(Greeted { hello, protocol_version, caller, rest: messages.collect(), _place: place })
    }

    /// Who says Hello, and whether it may have the name that it says.
    async fn authenticate(&mut self, hello: &Hello) -> Result<Caller, Status> {
        let access = Arc::clone(&self.shared.access);
        let peer = self.door.peer.clone();
        let token = Some(hello.token.as_bytes()).filter(|token| !token.is_empty());
        let known = match (token, self.door.caller.take()) {
            (None, Some(caller)) => Ok(caller),
            (token, _) => access.identify(peer.as_ref(), token).await,
        };
        let caller = match known {
            Ok(caller) => caller,
            Err(unknown) => {
                let mut refusing = std::pin::pin!(access.refuse(peer.as_ref(), &unknown));
                let mut is_over = false;
                // What it sends meanwhile must not wait in memory with it.
                loop {
                    tokio::select! {
                        refused = &mut refusing => return Err(refused.into_status()),
                        message = self.incoming.message(), if !is_over => is_over = !matches!(message, Ok(Some(_))),
                    }
                }
            }
        };
        let (allowed, right) = match &hello.participant {
            Some(name) => (caller.participate_as(name), Right::ParticipateAs(name.clone()).to_string()),
            None => (caller.meets(Need::Join), Need::Join.as_str().to_owned()),
        };
        match allowed {
            Ok(()) => Ok(caller),
            Err(refused) => {
                let act = Act { rpc: "Exchange/Hello", right: &right, gtid: None };
                Err(access.denied(&caller, act, refused).into_status())
            }
        }
    }

    async fn open(&self, hello: &Hello, protocol_version: u32) {
        let Shared { driver, settings, log, .. } = &*self.shared;
        let welcome = FromReplica::Welcome(Welcome {
            replica: settings.replica.clone(),
            epoch: driver.epoch(),
            protocol_version,
            peers: Vec::new(),
            heartbeat_interval_ms: whole_ms(settings.heartbeat_interval),
            silence_max_ms: whole_ms(settings.silence_max),
            payload_bytes_max: u32::try_from(settings.limits.payload_bytes_max).unwrap_or(u32::MAX),
            branches_max: u32::try_from(settings.limits.branches_max).unwrap_or(u32::MAX),
            coordinator_id: settings.coordinator_id.clone(),
        });
        self.end.first.send(welcome).await.ok();
        if let Some(participant) = &hello.participant {
            tracing::info!(session = self.session.0, %participant, instance = hello.instance.0, sdk = %hello.sdk, "participant joined");
            // Nothing waits for it: a name that could not be noted is noted at its next Hello.
            let (log, participant) = (Arc::clone(log), participant.clone());
            tokio::spawn(async move {
                if let Err(error) = log.note_participant(&participant).await {
                    tracing::warn!(%participant, %error, "could not note the participant in the log");
                }
            });
        }
        for shard in 0..driver.shard_count() {
            let peer = Peer {
                session: self.session,
                participant: hello.participant.clone(),
                instance: hello.instance,
                one_phase: hello.one_phase,
                voter: hello.voter.clone(),
            };
            let outbound = self.end.outbound.clone();
            driver.give(shard, Input::SessionOpened { peer, outbound }).await;
        }
    }

    /// Frames, until something ends the session.
    async fn exchange(&mut self, caller: &Caller, rest: Vec<ClientMessage>) -> Status {
        if let Err(why) = self.frame(caller, rest).await {
            return why;
        }
        let mut leaving = self.shared.leaving.clone();
        let mut has_said_so = false;
        let mut lapsed = std::pin::pin!(self.lapse(caller.clone()));
        let silence_max = self.shared.settings.silence_max;
        loop {
            let frame = tokio::select! {
                frame = tokio::time::timeout(silence_max, self.incoming.message()) => frame,
                () = self.end.outbound.cut() => {
                    return Reason::PeerSilent.status("this session did not take its messages, or its process dialled again; dial again");
                }
                refused = &mut lapsed => return refused.into_status(),
                is_leaving = async { leaving.wait_for(|is_leaving| *is_leaving).await.is_ok() }, if !has_said_so => {
                    // Said once; what is in flight may still be answered.
                    has_said_so = true;
                    if is_leaving {
                        let reason = "this replica is leaving; dial another, or this one when it is back".to_owned();
                        self.end.first.try_send(FromReplica::GoAway { reason }).ok();
                    }
                    continue;
                }
            };
            match frame {
                Err(_) => {
                    let message = format!(
                        "nothing was heard for {} ms, so the session is closed; dial again",
                        silence_max.as_millis()
                    );
                    return Reason::PeerSilent.status(message);
                }
                Ok(Ok(Some(frame))) => {
                    if let Err(why) = self.frame(caller, frame.messages).await {
                        return why;
                    }
                }
                Ok(Ok(None)) => return Status::ok("the client has left"),
                Ok(Err(why)) => return explained(why),
            }
        }
    }

    /// Waits until what the client has shown holds no longer, and then until it has answered what it was asked.
    fn lapse(&self, caller: Caller) -> impl Future<Output = Refused> + use<> {
        let (shared, session) = (Arc::clone(&self.shared), self.session);
        async move {
            let refused = Arc::clone(&shared.access).lapsed(caller).await;
            for shard in 0..shared.driver.shard_count() {
                shared.driver.give(shard, Input::Core(replica::Input::SessionRetires(session))).await;
            }
            tokio::time::sleep(RETIRING).await;
            refused
        }
    }

    /// Whether the client may say this.
    fn allowed(&self, caller: &Caller, message: FromClient) -> Result<FromClient, (Option<u64>, Refused)> {
        let (access, need, rpc) = (&self.shared.access, of_message(&message), name_of(&message));
        let met = match (&message, caller.meets(need)) {
            (FromClient::Request(Request { gtid, ask, .. }), Ok(())) => access.may_ask(*gtid, ask, caller, rpc),
            (_, Ok(())) => Ok(()),
            (_, Err(refused)) => {
                let act = Act { rpc, right: need.as_str(), gtid: message.gtid() };
                Err(access.denied(caller, act, refused))
            }
        };
        let request_id = match &message {
            FromClient::Request(request) => Some(request.request_id),
            FromClient::Hello(_)
            | FromClient::Heartbeat
            | FromClient::Branch(_)
            | FromClient::Step(_)
            | FromClient::Voter(_) => None,
        };
        met.map(|()| message).map_err(|refused| (request_id, refused))
    }

    /// Parses one frame and gives it to the shards. A request that is wrong is refused by itself; a message that nobody waits
    /// for and that is wrong ends the session, because then the two sides do not speak the same language.
    async fn frame(&mut self, caller: &Caller, messages: Vec<ClientMessage>) -> Result<(), Status> {
        let driver = &self.shared.driver;
        let mut shares: Vec<Vec<FromClient>> = vec![Vec::new(); driver.shard_count()];
        for message in messages {
            match FromClient::try_from(message) {
                Ok(FromClient::Heartbeat) => {}
                Ok(FromClient::Hello(_)) => {
                    return Err(Reason::HelloExpected.status("Hello came twice; send it once, as the first message"));
                }
                Ok(message) => match within(&self.shared.settings.limits, message)
                    .and_then(|message| self.allowed(caller, message))
                {
                    Ok(message) => {
                        if let Some(gtid) = message.gtid() {
                            shares[driver.shard_of(gtid)].push(message);
                        }
                    }
                    Err((Some(request_id), refused)) => refuse(&self.end.first, request_id, refused)?,
                    Err((None, refused)) => return Err(refused.into_status()),
                },
                Err(Malformed { request_id: Some(request_id), message, problem }) => {
                    let malformed = Malformed { request_id: None, message, problem };
                    refuse(&self.end.first, request_id, malformed.into())?;
                }
                Err(malformed) => return Err(malformed.into()),
            }
        }
        for (shard, messages) in shares.into_iter().enumerate() {
            if !messages.is_empty() {
                crash_point!(FRAME_READ, return Err(Status::unavailable("a crash point")));
            }
            if !messages.is_empty() && !give(driver, shard, self.session, messages).await {
                return Err(Reason::Fenced.status("another process has taken over from this one; dial again"));
            }
        }
        Ok(())
    }
}

async fn give(driver: &Driver, shard: usize, session: SessionId, messages: Vec<FromClient>) -> bool {
    driver.give(shard, Input::Messages { session, messages }).await
}

/// Refuses a request ahead of the shards. A client that sends such requests and does not read the refusals is cut.
fn refuse(to: &mpsc::Sender<FromReplica>, request_id: u64, refused: Refused) -> Result<(), Status> {
    let refusal = FromReplica::Reply { request_id, reply: Reply::Refused(refused) };
    to.try_send(refusal)
        .map_err(|_| Reason::PeerSilent.status("this session does not take its messages; read them, and dial again"))
}

/// Checks a message against the limits; a request beyond them is refused, and changes nothing.
pub(crate) fn within(limits: &Limits, message: FromClient) -> Result<FromClient, (Option<u64>, Refused)> {
    match message {
        FromClient::Request(Request { request_id, gtid, ask }) => match request_within(limits, &ask) {
            Ok(()) => Ok(FromClient::request(request_id, gtid, ask)),
            Err(refused) => Err((Some(request_id), refused)),
        },
        // It cannot be refused here: the step took effect. It is compensated.
        FromClient::Step(StepAnswer {
            result: StepResult::Done(output),
            gtid,
            step,
            compensation,
            attempt,
            epoch,
            ..
        }) if output.len() > limits.payload_bytes_max => {
            let allowed = limits.payload_bytes_max;
            let problem = format!("{OUTPUT_TOO_LARGE}: {} bytes, and {allowed} are allowed", output.len());
            let result = StepResult::Unknown(problem);
            Ok(FromClient::Step(StepAnswer { result, gtid, step, compensation, attempt, epoch, is_final: false }))
        }
        other => Ok(other),
    }
}

fn request_within(limits: &Limits, ask: &Ask) -> Result<(), Refused> {
    match ask {
        Ask::Commit(commit) => {
            let expected = match &commit.expected {
                Expected::Anything | Expected::Branch => 0,
                Expected::Of(participants) => participants.len(),
            };
            if commit.branches.len().max(expected) > limits.branches_max {
                return Err(Refusal::TooManyBranches { branches_max: limits.branches_max }.into());
            }
            commit.branches.iter().try_for_each(|branch| {
                let what = || format!("the payload of participant {}", branch.participant);
                limits.payload_fits(what, branch.payload.len())
            })
        }
        Ask::StartSaga { definition, .. } => definition
            .steps()
            .iter()
            .try_for_each(|step| limits.payload_fits(|| format!("the input of step {}", step.name), step.input.len())),
        Ask::Begin { .. } | Ask::Abort { .. } | Ask::Await { .. } | Ask::Enlist { .. } => Ok(()),
    }
}

fn whole_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
