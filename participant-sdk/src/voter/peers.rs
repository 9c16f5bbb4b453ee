//! Peers: the service that answers theirs, and the calls that reach them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use assent_proto::error::{Reason, ReasonStatus};
use assent_proto::v1::peer_service_client::PeerServiceClient;
use assent_proto::v1::peer_service_server;
use assent_proto::v1::{AskRequest, AskResponse};
use assent_proto::voter::PeerQuestion;
use assent_protocol::agent::Overheard;
use assent_protocol::three_phase::{Answer, Bar, PeerAddress, VoterName};
use assent_transport::{DialError, Dialer, Identity, PeerInfo, Role};
use tokio::sync::{Semaphore, mpsc};
use tonic::transport::Channel;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Response, Status};

use super::own::OwnVoter;
use crate::engine::Command;

// ---- answering ------------------------------------------------------------------------------------------------------------

/// Answers the peers of a participant's voter: the gRPC service `assent.v1.PeerService`. Made by
/// [`Assent::peer_service`](crate::Assent::peer_service).
///
/// It needs no coordinator. What it answers is durable. A peer that asks has proved by its certificate that it is the participant in whose
/// name it asks, and is in the transaction's roster; without TLS it is a process of the same machine.
#[derive(Clone)]
pub struct PeerService {
    voter: Arc<OwnVoter>,
    /// Peers may come from elsewhere without TLS.
    insecure: bool,
    /// Weak: a service that is mounted for ever does not keep the session open.
    engine: mpsc::WeakSender<Command>,
}

impl PeerService {
    pub(crate) fn new(voter: Arc<OwnVoter>, insecure: bool, engine: mpsc::WeakSender<Command>) -> Self {
        Self { voter, insecure, engine }
    }

    /// Whether the other end of the connection is the participant in whose name it asks.
    fn authenticate(&self, asked: &Request<AskRequest>) -> Result<(), Status> {
        let claimed = &asked.get_ref().from;
        let info = asked.extensions().get::<PeerInfo>();
        let address = match info {
            Some(info) => info.address(),
            None => asked.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr),
        };
        let Some(info) = info.filter(|info| info.is_tls()) else {
            if self.insecure || address.is_some_and(|address| address.ip().to_canonical().is_loopback()) {
                info.inspect(|info| info.admit());
                return Ok(());
            }
            let message = "a peer proves its name with a certificate; give the voter an https:// address, and every peer Builder::ca, \
                           cert and key";
            return Err(Reason::Unauthenticated.status(message));
        };
        let mut proved = info.uris().iter().filter_map(|uri| Identity::of_uri(uri));
        if proved.any(|identity| identity.role == Role::Participant && identity.name() == claimed) {
            info.admit();
            return Ok(());
        }
        let shown = info.uris().join(", ");
        tracing::warn!(claimed, shown, ?address, "a peer asks in a name that its certificate does not bear");
        let message = format!(
            "the certificate bears {}, and the question comes in the name of participant {claimed}; give that peer a certificate with \
             the URI assent://participant/{claimed}",
            if shown.is_empty() { "no name" } else { &shown }
        );
        Err(Reason::PermissionDenied.status(message))
    }
}

#[tonic::async_trait]
impl peer_service_server::PeerService for PeerService {
    async fn ask(&self, asked: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        self.authenticate(&asked)?;
        let question = PeerQuestion::try_from(asked.into_inner())?;
        let PeerQuestion { gtid, from, to, request } = question;
        if to != *self.voter.participant() {
            // Its answer would count as the other one's: one voter would be two of a quorum.
            tracing::warn!(%gtid, %from, %to, "a peer asks another participant here; one of its instances was given this address");
            return Ok(Response::new(AskResponse { answer: Some(Answer::Barred(Bar::NotInRoster).into()) }));
        }
        let from = VoterName::Participant(from);
        // It runs to its end although the peer hangs up: the engine has to hear of what has changed.
        let (voter, engine) = (Arc::clone(&self.voter), self.engine.clone());
        let answered = tokio::spawn(async move {
            let asked = voter.ask(gtid, &from, request.clone()).await?;
            let answer = asked.answer;
            if let Some(engine) = engine.upgrade() {
                // An engine that has ended has nothing to do about it; the next start finds the record.
                let overheard = Box::new(Overheard { from, request, asked });
                engine.send(Command::VoterWasAsked { gtid, overheard }).await.ok();
            }
            Ok::<_, super::VoterStoreError>(answer)
        });
        match answered.await {
            Ok(Ok(answer)) => Ok(Response::new(AskResponse { answer: Some(answer.into()) })),
            Ok(Err(error)) => {
                tracing::warn!(%gtid, error = &error as &dyn std::error::Error, "a peer's question cannot be answered");
                Err(Status::unavailable("the voter's store does not answer; ask again"))
            }
            Err(_) => Err(Status::unavailable("this process is shutting down; ask again")),
        }
    }
}

impl fmt::Debug for PeerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerService").field("participant", self.voter.participant()).finish_non_exhaustive()
    }
}

// ---- asking ---------------------------------------------------------------------------------------------------------------

/// How long a peer may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long it may take to answer. Later its answer is to a ballot that has been given up.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Questions that are under way at a time; more are dropped, as the network drops some, and asked again under a higher ballot.
const QUESTIONS_MAX: usize = 4_096;
/// Peers whose channels are kept.
const CHANNELS_MAX: usize = 1_024;

/// The peers of a participant, at the addresses of its rosters.
pub(crate) struct Peers {
    /// Without a token: that is for the coordinator, and peers' addresses come from others.
    dialer: Dialer,
    channels: Mutex<HashMap<PeerAddress, Channel>>,
    places: Semaphore,
    answer_max: Duration,
}

impl Peers {
    pub(crate) fn new(dialer: Dialer) -> Arc<Self> {
        Arc::new(Self::who_answer_within(ANSWER_MAX, dialer))
    }

    fn who_answer_within(answer_max: Duration, dialer: Dialer) -> Self {
        Self {
            dialer: dialer.for_peers(),
            channels: Mutex::default(),
            places: Semaphore::new(QUESTIONS_MAX),
            answer_max,
        }
    }

    /// Asks a peer. Whatever goes wrong is no answer.
    pub(crate) async fn ask(&self, address: &PeerAddress, question: PeerQuestion) -> Option<Answer> {
        let _place = self.places.try_acquire().ok()?;
        let gtid = question.gtid;
        match self.try_to_ask(address, question).await {
            Ok(answer) => Some(answer),
            Err(problem) => {
                tracing::debug!(%gtid, %address, problem, "a peer did not answer");
                None
            }
        }
    }

    async fn try_to_ask(&self, address: &PeerAddress, question: PeerQuestion) -> Result<Answer, String> {
        let channel = self.channel(address).map_err(|error| error.to_string())?;
        let mut request = Request::new(AskRequest::from(question));
        request.set_timeout(self.answer_max);
        let mut client = PeerServiceClient::new(channel);
        let asked_at = Instant::now();
        let answered = tokio::time::timeout(self.answer_max, client.ask(request)).await;
        if !matches!(answered, Ok(Ok(_))) && asked_at.elapsed() >= self.answer_max {
            self.give_up(address);
        }
        let response = answered.map_err(|_| "no answer in time".to_owned())?.map_err(|status| status.to_string())?;
        let answer = response.into_inner().answer.ok_or("it said nothing")?;
        Answer::try_from(answer).map_err(|malformed| malformed.to_string())
    }

    /// The next question dials anew. The network may lose whatever is sent on this connection, and once it is healed TCP sends it again only after as
    /// long a time as that has lasted, up to minutes.
    fn give_up(&self, address: &PeerAddress) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }

    fn channel(&self, address: &PeerAddress) -> Result<Channel, DialError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        // Connects when it is used, and again when it broke.
        let target = self.dialer.target(address.as_str())?;
        let channel = target.map(|endpoint| endpoint.connect_timeout(CONNECT_MAX)).connect_lazy();
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.clone(), channel.clone());
        Ok(channel)
    }
}

#[cfg(test)]
mod tests {
    use assent_protocol::Decision;
    use assent_protocol::three_phase::Request as Question;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_on_which_nobody_answers_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("an address");
        let peers = Peers::who_answer_within(Duration::from_millis(300), Dialer::new());
        let mut silent = Vec::new();
        for _ in 0..3 {
            let question = PeerQuestion {
                gtid: "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid"),
                from: "a".parse().expect("valid"),
                to: "b".parse().expect("valid"),
                request: Question::Decided(Decision::Commit),
            };
            let (answer, accepted) = tokio::join!(peers.ask(&address, question), async {
                tokio::time::timeout(Duration::from_secs(10), listener.accept()).await
            });
            assert_eq!(answer, None);
            silent.push(accepted.expect("it dials anew").expect("a connection"));
        }
    }
}
