//! The loop: whatever happens becomes an input of the agent, and whatever the agent has to say a
//! frame.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use assent_crash::crash_point;
use assent_proto::session::{FromReplica, Hello, PROTOCOL_VERSIONS, VoterPlace};
use assent_proto::v1::ServerMessage;
use assent_protocol::agent::{Input, SessionId, Ticket};
use assent_protocol::{InstanceId, ParticipantName};
use rand::RngExt;
use tokio::time::MissedTickBehavior;

use super::link::{self, Link};
use super::voting::Voting;
use super::{Command, Engine, Settings};
use crate::error::ConnectError;

/// Why a session ended.
enum Over {
    Broken(String),
    Shutdown,
}

/// Events taken in one turn.
const TURN_MAX: usize = 1_024;
/// The bounds of the waits between attempts to dial.
const REDIAL_INITIAL: Duration = Duration::from_millis(50);
const REDIAL_MAX: Duration = Duration::from_secs(5);
/// While at least so many hooks run, frames go out at least this far apart: each of them is about
/// to have something to say. A process that does one thing after the other never waits.
const PACED_FROM: usize = 8;
const FRAME_PACE: Duration = Duration::from_millis(1);

impl Engine {
    pub(super) async fn run(mut self, link: Option<Link>) {
        let mut next = link;
        loop {
            let mut link = match next.take() {
                Some(link) => link,
                None => match self.redial().await {
                    Some(link) => link,
                    None => return,
                },
            };
            self.session_opened(&link);
            let over = self.exchange(&mut link).await;
            match over {
                Over::Shutdown => {
                    Voting::forget_the_last(&mut self.voting).await;
                    return link.finish().await;
                }
                Over::Broken(why) => {
                    tracing::warn!(address = %self.settings.address, why, "the session broke; dialling again");
                }
            }
            self.handle(Input::SessionClosed(link.session));
        }
    }

    fn session_opened(&mut self, link: &Link) {
        let payload_bytes_max = link.welcome.payload_bytes_max as usize;
        self.shared.payload_bytes_max.store(payload_bytes_max, Relaxed);
        self.shared.epoch.store(link.welcome.epoch.0, Relaxed);
        self.give_up_for_callers();
        self.handle(Input::SessionOpened { session: link.session, epoch: link.welcome.epoch, payload_bytes_max });
    }

    /// Dials until a replica answers, or the process wants to end. Meanwhile everything else goes
    /// on.
    async fn redial(&mut self) -> Option<Link> {
        let mut bound = REDIAL_INITIAL;
        loop {
            let wait = bound.mul_f64(rand::rng().random_range(0.0..=1.0));
            let place = self.voting.as_ref().map(Voting::place);
            let hello = hello(&self.settings, self.instance, self.settings.name.clone(), place);
            // Read anew: a token or certificate may have been replaced.
            let target = target(&self.settings);
            self.sessions += 1;
            let session = SessionId(self.sessions);
            let mut dialling = std::pin::pin!(async move {
                tokio::time::sleep(wait).await;
                Link::dial(session, &target?, hello).await
            });
            let dialled = loop {
                self.end_of_turn();
                if self.agent.is_at_rest() {
                    return None;
                }
                tokio::select! {
                    dialled = &mut dialling => break dialled,
                    command = self.commands.recv(), if !self.agent.is_shutting_down() => self.command(command),
                    Some(input) = self.finished.recv() => self.handle(input),
                    timer = self.timers.next() => self.handle(Input::TimerFired(timer)),
                    () = Voting::forgetting(&mut self.voting) => {}
                }
            };
            match dialled {
                Ok(link) if link.welcome.coordinator_id != self.shared.coordinator.id => {
                    // Its transactions are not ours, and it would presume ours aborted.
                    tracing::error!(
                        expected = %self.shared.coordinator.id,
                        found = %link.welcome.coordinator_id,
                        "another coordinator answers at this address; not joining it"
                    );
                }
                Ok(link) => {
                    crash_point!(REDIALLED, continue);
                    tracing::info!(address = %self.settings.address, "joined again");
                    return Some(link);
                }
                Err(ConnectError::Refused { source, .. }) => {
                    tracing::warn!(address = %self.settings.address, error = %source, "refused; dialling again");
                }
                Err(error @ ConnectError::Dial(_)) => {
                    tracing::warn!(address = %self.settings.address, %error, "cannot dial; dialling again");
                }
                Err(error) => tracing::debug!(address = %self.settings.address, %error, "dialling again"),
            }
            bound = (bound * 2).min(REDIAL_MAX);
        }
    }

    /// Takes events until the session is over.
    async fn exchange(&mut self, link: &mut Link) -> Over {
        let heartbeat_interval = Duration::from_millis(u64::from(link.welcome.heartbeat_interval_ms.max(10)));
        let silence_max = Duration::from_millis(u64::from(link.welcome.silence_max_ms.max(100)));
        let mut ticks = tokio::time::interval(heartbeat_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut has_spoken = true;
        let mut commands = Vec::with_capacity(TURN_MAX);
        let mut finished = Vec::with_capacity(TURN_MAX);
        let gate = link.gate();
        let mut flushed = Instant::now();
        let mut pause = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut is_pausing = false;
        if let Err(over) = self.frame(link.session, std::mem::take(&mut link.early)) {
            return over;
        }
        self.end_of_turn();
        link.flush(&mut self.agent);
        loop {
            let is_behind = self.agent.messages_waiting(link.session) > 0;
            tokio::select! {
                frame = link.incoming.message() => match frame {
                    Ok(Some(frame)) => {
                        heard = Instant::now();
                        if let Err(over) = self.frame(link.session, frame.messages) {
                            return over;
                        }
                    }
                    Ok(None) => return Over::Broken("the replica has closed it".to_owned()),
                    Err(status) => return Over::Broken(status.message().to_owned()),
                },
                _ = self.finished.recv_many(&mut finished, TURN_MAX) => {
                    // One flush ends many waits, whose tasks are woken one by one: what they have
                    // to say shares a frame.
                    tokio::task::yield_now().await;
                    while finished.len() < TURN_MAX
                        && let Ok(input) = self.finished.try_recv()
                    {
                        finished.push(input);
                    }
                    for input in finished.drain(..) {
                        self.handle(input);
                    }
                }
                taken = self.commands.recv_many(&mut commands, TURN_MAX), if !self.agent.is_shutting_down() => {
                    if taken == 0 {
                        self.command(None);
                    }
                    for command in commands.drain(..) {
                        self.command(Some(command));
                    }
                }
                timer = self.timers.next() => self.handle(Input::TimerFired(timer)),
                () = Voting::forgetting(&mut self.voting) => {}
                () = gate.room(), if is_behind && !is_pausing => {}
                () = &mut pause, if is_pausing => {}
                _ = ticks.tick() => {
                    if heard.elapsed() > silence_max {
                        return Over::Broken(format!("nothing was heard for {} ms", silence_max.as_millis()));
                    }
                    if !std::mem::take(&mut has_spoken) {
                        link.send_heartbeat();
                    }
                    self.give_up_for_callers();
                }
            }
            self.end_of_turn();
            let left = FRAME_PACE.saturating_sub(flushed.elapsed());
            let is_behind = self.agent.messages_waiting(link.session) > 0;
            if self.agent.hooks_running() >= PACED_FROM && !left.is_zero() {
                if is_behind && !is_pausing {
                    is_pausing = true;
                    pause.as_mut().reset(tokio::time::Instant::now() + left);
                }
                continue;
            }
            is_pausing = false;
            if link.flush(&mut self.agent) {
                flushed = Instant::now();
                has_spoken = true;
            }
            if self.agent.is_at_rest() && self.agent.messages_waiting(link.session) == 0 {
                return Over::Shutdown;
            }
        }
    }

    // ---- inputs ----------------------------------------------------------------------------------------------------

    pub(super) fn handle(&mut self, input: Input) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.agent.handle(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), input);
    }

    fn frame(&mut self, session: SessionId, messages: Vec<ServerMessage>) -> Result<(), Over> {
        for message in messages {
            let message = FromReplica::try_from(message).map_err(|malformed| Over::Broken(malformed.to_string()))?;
            if let FromReplica::GoAway { reason } = &message {
                tracing::info!(reason, "the replica is leaving");
            }
            if !matches!(message, FromReplica::Reply { .. } | FromReplica::Heartbeat) {
                crash_point!(ORDER_HEARD, return Err(Over::Broken("a crash point".to_owned())));
            }
            self.handle(Input::Message { session, message });
        }
        Ok(())
    }

    /// A command; none if every handle is gone.
    fn command(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Ask { gtid, ask, answer }) => {
                let ticket = self.draw_ticket();
                self.callers.insert(ticket, answer);
                self.handle(Input::Asked { ticket, gtid, ask });
            }
            Some(Command::Tell { gtid, ask }) => {
                let ticket = self.draw_ticket();
                self.handle(Input::Told { ticket, gtid, ask });
            }
            Some(Command::Enlist { key, vote, answer }) => {
                let ticket = self.draw_ticket();
                self.callers.insert(ticket, answer);
                self.handle(Input::Prepared { ticket, key, vote });
            }
            Some(Command::Withdraw { key }) => self.handle(Input::Withdrawn(key)),
            Some(Command::VoterWasAsked { gtid, overheard }) => {
                self.handle(Input::Overheard { gtid, overheard: *overheard });
            }
            Some(Command::Shutdown) | None => self.handle(Input::ShutDown),
        }
    }

    fn draw_ticket(&mut self) -> Ticket {
        self.last_ticket = Ticket(self.last_ticket.0 + 1);
        self.last_ticket
    }

    /// Callers that have stopped waiting give up their requests.
    fn give_up_for_callers(&mut self) {
        let gone: Vec<Ticket> =
            self.callers.iter().filter(|(_, caller)| caller.is_closed()).map(|(ticket, _)| *ticket).collect();
        for ticket in gone {
            self.callers.remove(&ticket);
            self.handle(Input::GivenUp(ticket));
        }
    }
}

pub(super) fn target(settings: &Settings) -> Result<assent_transport::Target, ConnectError> {
    link::target(&settings.dialer, &settings.address, settings.connect_timeout)
}

pub(super) fn hello(
    settings: &Settings,
    instance: InstanceId,
    participant: Option<ParticipantName>,
    place: Option<VoterPlace>,
) -> Hello {
    // A process that joins without its name takes no part yet.
    let voter = place.filter(|_| participant.is_some());
    Hello {
        participant,
        instance,
        protocol_versions: PROTOCOL_VERSIONS,
        // The link shows it.
        token: String::new(),
        one_phase: settings.branches.as_ref().is_some_and(|participant| participant.one_phase()),
        sdk: concat!("assent-sdk/", env!("CARGO_PKG_VERSION")).to_owned(),
        voter,
    }
}
