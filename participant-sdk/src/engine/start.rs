//! The start: the first session, and what the participant and its voter have from before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use assent_protocol::InstanceId;
use assent_protocol::agent::{Agent, Config, Input, SessionId, Ticket};
use rand::RngExt;
use tokio::sync::mpsc;

use super::link::Link;
use super::run::{hello, target};
use super::timers::Timers;
use super::voting::Voting;
use super::{Command, Engine, Settings, Shared};
use crate::error::ConnectError;
use crate::participant::Coordinator;

/// The largest payload of a branch, until the first replica has said; it judges.
const PAYLOAD_BYTES_ASSUMED: usize = 1024 * 1024;
/// Commands that may wait for the engine; a full queue makes callers wait.
const COMMANDS_MAX: usize = 4_096;
/// A record of the voter that is older than this is one that no other process seems to care for.
const KEPT_MAX: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(60) };

impl Engine {
    /// Dials, lets the participant check itself and list its branches in doubt, and starts the
    /// engine's task.
    pub(crate) async fn start(
        settings: Settings,
    ) -> Result<(mpsc::Sender<Command>, Arc<Shared>, tokio::task::JoinHandle<()>), ConnectError> {
        let instance = InstanceId(rand::rng().random_range(1..u64::MAX));
        let voting = Voting::open(&settings).await?;
        let place = voting.as_ref().map(Voting::place);
        let dial = async |session, name| {
            let hello = hello(&settings, instance, name, place.clone());
            Link::dial(SessionId(session), &target(&settings)?, hello).await
        };
        // The participant checks itself before it is sent any order; its name joins only then.
        let mut link = match (dial(1, None).await, voting.as_ref().and_then(Voting::coordinator)) {
            (Ok(link), _) => Some(link),
            // Its peers may need it to end what the coordinator has left behind.
            (Err(ConnectError::Unreachable { .. }), Some(known)) => {
                tracing::warn!(coordinator = known, address = %settings.address, "no coordinator answers; starting without it");
                None
            }
            (Err(error), _) => return Err(error),
        };
        let id = match (&link, &voting) {
            (Some(link), Some(voting)) => voting.bind(&link.welcome.coordinator_id).await?,
            (Some(link), None) => link.welcome.coordinator_id.clone(),
            (None, voting) => voting.as_ref().and_then(Voting::coordinator).unwrap_or_default().to_owned(),
        };
        let coordinator = Arc::new(Coordinator { id, address: settings.address.clone() });
        let mut doubts = Vec::new();
        if let Some(participant) = &settings.branches {
            let about = || (Arc::clone(participant), Arc::clone(&coordinator));
            let (participant, about_it) = about();
            participant.start(about_it).await.map_err(ConnectError::Start)?;
            let (participant, about_it) = about();
            doubts = participant.in_doubt(about_it).await.map_err(ConnectError::InDoubt)?;
        }
        let records = match &voting {
            Some(voting) => voting.records().await?,
            None => Vec::new(),
        };
        if settings.name.is_some() && link.is_some() {
            link = Some(dial(2, settings.name.clone()).await?);
        }
        let payload_bytes_max =
            link.as_ref().map_or(PAYLOAD_BYTES_ASSUMED, |link| link.welcome.payload_bytes_max as usize);
        let shared = Arc::new(Shared {
            coordinator,
            payload_bytes_max: AtomicUsize::new(payload_bytes_max),
            epoch: AtomicU64::new(link.as_ref().map_or(0, |link| link.welcome.epoch.0)),
            voter: voting.as_ref().map(Voting::own),
            peer_tls: settings.voter.as_ref().and_then(|voter| voter.tls.clone()),
        });
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (finish, finished) = mpsc::unbounded_channel();
        let mut engine = Self {
            instance,
            shared: Arc::clone(&shared),
            agent: Agent::new(config(&settings, instance, voting.is_some())),
            commands,
            finished,
            finish,
            timers: Timers::default(),
            callers: BTreeMap::new(),
            last_ticket: Ticket(0),
            sessions: 2,
            voting,
            settings,
        };
        if !doubts.is_empty() {
            tracing::info!(branches = doubts.len(), "found branches in doubt; asking about them");
        }
        engine.handle(Input::Found { doubts, records });
        engine.keep_notes();
        let task = tokio::spawn(engine.run(link));
        Ok((sender, shared, task))
    }
}

fn config(settings: &Settings, instance: InstanceId, has_voter: bool) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        instance,
        participant: settings.name.clone(),
        serves_branches: settings.branches.is_some(),
        serves_steps: settings.steps.is_some(),
        has_voter,
        hooks_max: settings.hooks_max,
        look_interval_ms: millis(settings.in_doubt_interval),
        look_grace_ms: millis(settings.in_doubt_grace),
        kept_max_ms: millis(KEPT_MAX),
    }
}
