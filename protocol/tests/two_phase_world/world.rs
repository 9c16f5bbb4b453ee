//! Everything together: what can happen next, and what must be true whenever.

use assent_protocol::two_phase::Timer;
use assent_protocol::{Caller, Decision, Epoch, InstanceId, Outcome, ParticipantName, Wait, branch};

use crate::initiator::Initiator;
use crate::log::Log;
use crate::net::{InitiatorLink, Link, Net, Request};
use crate::participant::{Behaviour, Enlistment, Instance, Resource, Said};
use crate::replica::{Ask, Forgotten, Replica};

/// How a world is laid out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Setup {
    pub(crate) behaviours: Vec<Behaviour>,
    /// Processes of each participant.
    pub(crate) instances: usize,
    pub(crate) is_begun: bool,
    pub(crate) is_unary: bool,
    pub(crate) one_phase: bool,
    pub(crate) waits_for_end: bool,
    /// A second replica, which knows nothing but the log and answers inquiries.
    pub(crate) has_bystander: bool,
    pub(crate) forgotten: Forgotten,
    pub(crate) faults: Faults,
}

/// How many of each may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// Sessions that break.
    pub(crate) breaks: u32,
    /// Processes that are killed: replicas and instances.
    pub(crate) crashes: u32,
    /// Hooks that fail and are called again.
    pub(crate) hooks: u32,
    /// Timers that fire although nothing else has come to rest.
    pub(crate) timers: u32,
    /// Requests that the initiator makes beyond the first: retries, and an abort.
    pub(crate) requests: u32,
}

impl Faults {
    pub(crate) const NONE: Self = Self { breaks: 0, crashes: 0, hooks: 0, timers: 0, requests: 0 };
}

/// A participant: what lasts, and its processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Participant {
    name: ParticipantName,
    behaviour: Behaviour,
    resource: Resource,
    instances: Vec<Option<Instance>>,
}

/// One transaction and all who take part in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    setup: Setup,
    left: Faults,
    log: Log,
    net: Net,
    replicas: Vec<Option<Replica>>,
    participants: Vec<Participant>,
    initiator: Initiator,
    /// Epochs, instances and sessions are drawn from it.
    next_number: u64,
}

/// The place of an instance: its participant, its slot.
type Place = (usize, usize);

/// One thing that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    ToReplica { replica: usize, instance: InstanceId },
    ToInstance { replica: usize, place: Place },
    LateToInstance { place: Place },
    SendOutbox { place: Place },
    RequestArrives,
    ReplyArrives,
    HookTakesEffect { place: Place },
    HookReturns { place: Place },
    HookFails { place: Place },
    AppendApplied { replica: usize },
    AppendRepeated { replica: usize },
    AppendAnswered { replica: usize },
    LazyFlushed { replica: usize },
    TimerFires { replica: usize, timer: Timer },
    BranchTimerFires { place: Place, timer: branch::Timer },
    Connect { replica: usize, place: Place },
    Break { replica: usize, instance: InstanceId, are_frames_read: bool },
    ConnectInitiator,
    BreakInitiator,
    CrashReplica { replica: usize },
    StartReplica { replica: usize },
    CrashInstance { place: Place },
    StartInstance { place: Place },
    Begin,
    CallService { participant: usize },
    AskCommit,
    AskAbort,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let participants = setup.behaviours.iter().enumerate().map(|(at, &behaviour)| Participant {
            name: ParticipantName::new(&format!("participant-{at}")).expect("valid"),
            behaviour,
            resource: Resource::default(),
            instances: vec![None; setup.instances],
        });
        let mut world = Self {
            left: setup.faults,
            participants: participants.collect(),
            replicas: vec![None; 1 + usize::from(setup.has_bystander)],
            log: Log::default(),
            net: Net::default(),
            initiator: Initiator::default(),
            next_number: 0,
            setup,
        };
        // Everybody is there at first.
        world.rise().expect("nothing has happened yet");
        world
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn places(&self) -> Vec<Place> {
        let slots = 0..self.setup.instances;
        (0..self.participants.len()).flat_map(|of| slots.clone().map(move |slot| (of, slot))).collect()
    }

    fn instance(&self, (of, slot): Place) -> Option<&Instance> {
        self.participants[of].instances[slot].as_ref()
    }

    /// The process that runs there.
    pub(crate) fn id_of(&self, place: Place) -> InstanceId {
        self.instance(place).expect("it runs").id
    }

    fn place_of(&self, id: InstanceId) -> Option<Place> {
        self.places().into_iter().find(|&place| self.instance(place).is_some_and(|instance| instance.id == id))
    }

    // ---- what can happen -------------------------------------------------------------------------------------------

    /// What happens without any fault or hurry.
    pub(crate) fn progress(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (&(replica, instance), link) in &self.net.links {
            if !link.said.is_empty() {
                actions.push(Action::ToReplica { replica, instance });
            }
            if let Some(place) = self.place_of(instance)
                && !link.heard.is_empty()
            {
                actions.push(Action::ToInstance { replica, place });
            }
        }
        for place in self.places() {
            let Some(instance) = self.instance(place) else {
                continue;
            };
            if !instance.late.is_empty() {
                actions.push(Action::LateToInstance { place });
            }
            let wants_to_enlist =
                matches!(instance.enlistment, Enlistment::Wanted(_)) && self.net.links.contains_key(&(0, instance.id));
            if !instance.outbox.is_empty() || wants_to_enlist {
                actions.push(Action::SendOutbox { place });
            }
            if instance.hook_may_take_effect() {
                actions.push(Action::HookTakesEffect { place });
            }
            if instance.hook_may_return() {
                actions.push(Action::HookReturns { place });
            }
        }
        for (at, replica) in self.replicas.iter().enumerate() {
            let Some(replica) = replica else { continue };
            if replica.may_apply() {
                actions.push(Action::AppendApplied { replica: at });
            }
            if replica.may_answer() {
                actions.push(Action::AppendAnswered { replica: at });
            }
            if !replica.lazy.is_empty() {
                actions.push(Action::LazyFlushed { replica: at });
            }
        }
        if let Some(link) = &self.net.initiator {
            if !link.requests.is_empty() && self.replicas[0].is_some() {
                actions.push(Action::RequestArrives);
            }
            if !link.replies.is_empty() {
                actions.push(Action::ReplyArrives);
            }
            self.wishes(&mut actions);
        }
        actions
    }

    /// What the initiator does next.
    fn wishes(&self, actions: &mut Vec<Action>) {
        let initiator = &self.initiator;
        if initiator.waits_for.is_some() || !initiator.told.is_empty() {
            return;
        }
        if self.setup.is_begun && !initiator.is_begun {
            actions.push(Action::Begin);
            return;
        }
        let mut may_commit = true;
        if self.setup.is_begun && initiator.attempts == 0 {
            for participant in 0..self.participants.len() {
                match self.participants[participant].instances[0].as_ref().map(|instance| instance.enlistment) {
                    Some(Enlistment::Idle) if !initiator.wants_abort => {
                        actions.push(Action::CallService { participant });
                        may_commit = false;
                    }
                    Some(Enlistment::Answered(true)) => {}
                    Some(Enlistment::Wanted(_) | Enlistment::Sent(_)) => return,
                    // The call failed: the service said no, or is not there any more.
                    Some(Enlistment::Idle | Enlistment::Answered(false)) | None => {
                        actions.push(Action::AskAbort);
                        return;
                    }
                }
            }
        }
        if may_commit {
            actions.push(if initiator.wants_abort { Action::AskAbort } else { Action::AskCommit });
        }
    }

    /// What can go wrong, and what comes early.
    pub(crate) fn faults(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let left = self.left;
        for &(replica, instance) in self.net.links.keys().filter(|_| left.breaks > 0) {
            for are_frames_read in [false, true] {
                actions.push(Action::Break { replica, instance, are_frames_read });
            }
        }
        if self.net.initiator.is_some() && left.breaks > 0 {
            actions.push(Action::BreakInitiator);
        }
        for place in self.places() {
            let Some(instance) = self.instance(place) else { continue };
            if left.crashes > 0 {
                actions.push(Action::CrashInstance { place });
            }
            if left.hooks > 0 && instance.hook_may_fail() {
                actions.push(Action::HookFails { place });
            }
            if left.timers > 0 {
                actions.extend(instance.timers.iter().map(|&timer| Action::BranchTimerFires { place, timer }));
            }
        }
        for (at, replica) in self.replicas.iter().enumerate() {
            let Some(replica) = replica else { continue };
            if left.crashes > 0 {
                actions.push(Action::CrashReplica { replica: at });
            }
            if replica.may_answer() {
                actions.push(Action::AppendRepeated { replica: at });
            }
            if left.timers > 0 {
                actions.extend(replica.timers.iter().map(|&timer| Action::TimerFires { replica: at, timer }));
            }
        }
        if left.requests > 0
            && self.net.initiator.is_some()
            && self.initiator.attempts > 0
            && !self.initiator.wants_abort
        {
            // Whoever calls without a session may ask again although it was told.
            if self.setup.is_unary {
                actions.push(Action::AskCommit);
            }
            if self.initiator.told.is_empty() {
                actions.push(Action::AskAbort);
            }
        }
        actions.extend(self.recovery());
        actions
    }

    /// What mends a fault.
    fn recovery(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (at, replica) in self.replicas.iter().enumerate() {
            if replica.is_none() {
                actions.push(Action::StartReplica { replica: at });
                continue;
            }
            for place in self.places() {
                if let Some(instance) = self.instance(place)
                    && !self.net.links.contains_key(&(at, instance.id))
                {
                    actions.push(Action::Connect { replica: at, place });
                }
            }
        }
        for place in self.places() {
            let is_there = self.participants[place.0].behaviour != Behaviour::NeverStarted;
            if self.instance(place).is_none() && is_there {
                actions.push(Action::StartInstance { place });
            }
        }
        if self.net.initiator.is_none() && self.replicas[0].is_some() {
            actions.push(Action::ConnectInitiator);
        }
        actions
    }

    // ---- what happens ----------------------------------------------------------------------------------------------

    /// Does one thing and checks everything.
    ///
    /// # Errors
    /// What was broken.
    pub(crate) fn step(&mut self, action: Action) -> Result<(), String> {
        self.act(action)?;
        self.check()
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::ToReplica { replica, instance } => self.said(replica, instance),
            Action::ToInstance { replica, place } => {
                let Some(id) = self.instance(place).map(|instance| instance.id) else { return Ok(()) };
                let heard = self.net.links.get_mut(&(replica, id)).and_then(|link| link.heard.pop_front());
                heard.map_or(Ok(()), |heard| self.with_instance(place, |it, there| it.hear(replica, heard, there)))
            }
            Action::LateToInstance { place } => self.with_instance(place, |it, there| {
                it.late.pop_front().map_or(Ok(()), |(replica, heard)| it.hear(replica, heard, there))
            }),
            Action::SendOutbox { place } => {
                self.send_outbox(place);
                Ok(())
            }
            Action::RequestArrives => self.request_arrives(),
            Action::ReplyArrives => {
                let reply = self.net.initiator.as_mut().and_then(|link| link.replies.pop_front());
                reply.map_or(Ok(()), |(request, reply)| self.initiator.hear(request, reply))
            }
            Action::HookTakesEffect { place: (of, slot) } => {
                let Participant { behaviour, resource, instances, .. } = &mut self.participants[of];
                if let Some(instance) = &mut instances[slot] {
                    instance.hook_takes_effect(*behaviour, resource);
                }
                Ok(())
            }
            Action::HookReturns { place } => self.with_instance(place, Instance::hook_returns),
            Action::HookFails { place } => {
                self.left.hooks = self.left.hooks.saturating_sub(1);
                self.with_instance(place, Instance::hook_fails)
            }
            Action::AppendApplied { replica } => {
                if let Some(replica) = &mut self.replicas[replica] {
                    replica.apply(&mut self.log);
                }
                Ok(())
            }
            Action::AppendRepeated { replica } => {
                self.replicas[replica].as_mut().map_or(Ok(()), |replica| replica.repeat_append(&mut self.log))
            }
            Action::AppendAnswered { replica } => self.with_replica(replica, |it, _, net| it.answer(net)),
            Action::LazyFlushed { replica } => {
                if let Some(replica) = &mut self.replicas[replica] {
                    replica.flush(&mut self.log);
                }
                Ok(())
            }
            Action::TimerFires { replica, timer } => {
                self.left.timers = self.left.timers.saturating_sub(1);
                self.with_replica(replica, |it, _, net| it.fire(timer, net))
            }
            Action::BranchTimerFires { place, timer } => {
                self.left.timers = self.left.timers.saturating_sub(1);
                self.with_instance(place, |it, there| it.fire(timer, there))
            }
            Action::Connect { replica, place } => self.connect(replica, place),
            Action::Break { replica, instance, are_frames_read } => {
                self.left.breaks = self.left.breaks.saturating_sub(1);
                self.break_session(replica, instance, are_frames_read)
            }
            Action::ConnectInitiator => {
                let session = self.number();
                self.net.initiator =
                    Some(InitiatorLink { session, requests: Default::default(), replies: Default::default() });
                Ok(())
            }
            Action::BreakInitiator => {
                self.left.breaks = self.left.breaks.saturating_sub(1);
                self.break_initiator()
            }
            Action::CrashReplica { replica } => {
                self.left.crashes = self.left.crashes.saturating_sub(1);
                self.crash_replica(replica)
            }
            Action::StartReplica { replica } => {
                let epoch = Epoch(self.number());
                self.replicas[replica] = Some(Replica::start(replica, epoch, &self.log, &mut self.net)?);
                Ok(())
            }
            Action::CrashInstance { place } => {
                self.left.crashes = self.left.crashes.saturating_sub(1);
                let Some(id) = self.participants[place.0].instances[place.1].take().map(|it| it.id) else {
                    return Ok(());
                };
                for replica in self.net.replicas_of(id) {
                    self.break_session(replica, id, false)?;
                }
                Ok(())
            }
            Action::StartInstance { place: (of, slot) } => {
                let id = InstanceId(self.number());
                let participant = &mut self.participants[of];
                participant.instances[slot] = Some(Instance::start(id, &participant.resource));
                Ok(())
            }
            Action::Begin => {
                self.ask(Request::Begin);
                Ok(())
            }
            Action::CallService { participant } => {
                let Participant { behaviour, resource, instances, .. } = &mut self.participants[participant];
                if let Some(instance) = &mut instances[0] {
                    instance.work(*behaviour, resource);
                }
                Ok(())
            }
            Action::AskCommit => {
                if self.initiator.attempts > 0 {
                    self.left.requests = self.left.requests.saturating_sub(1);
                }
                self.initiator.attempts += 1;
                let attempt = if self.setup.is_unary { 1 } else { self.initiator.attempts };
                self.ask(Request::Commit { attempt });
                Ok(())
            }
            Action::AskAbort => {
                self.left.requests = self.left.requests.saturating_sub(1);
                self.initiator.wants_abort |= self.setup.is_begun || self.initiator.attempts == 0;
                self.ask(Request::Abort);
                Ok(())
            }
        }
    }

    fn ask(&mut self, request: Request) {
        if let Some(link) = &mut self.net.initiator {
            let number = self.initiator.next_request();
            link.requests.push_back((number, request));
        }
    }

    fn request_arrives(&mut self) -> Result<(), String> {
        let Some(link) = &mut self.net.initiator else { return Ok(()) };
        let session = link.session;
        let Some((request, asked)) = link.requests.pop_front() else { return Ok(()) };
        let ask = Ask {
            is_begun: self.setup.is_begun,
            is_unary: self.setup.is_unary,
            one_phase: self.setup.one_phase,
            wait: if self.setup.waits_for_end { Wait::Ended } else { Wait::Decided },
            roster: self.participants.iter().map(|participant| participant.name.clone()).collect(),
            forgotten: self.setup.forgotten,
        };
        let caller = Caller { session, request };
        self.with_replica(0, |it, log, net| it.requested(caller, asked, &ask, log, net))
    }

    fn said(&mut self, replica: usize, instance: InstanceId) -> Result<(), String> {
        let Some(link) = self.net.links.get_mut(&(replica, instance)) else { return Ok(()) };
        let participant = link.participant.clone();
        let Some(said) = link.said.pop_front() else { return Ok(()) };
        self.with_replica(replica, |it, log, net| it.said(participant, instance, said, log, net))
    }

    fn with_replica(
        &mut self,
        at: usize,
        work: impl FnOnce(&mut Replica, &Log, &mut Net) -> Result<(), String>,
    ) -> Result<(), String> {
        self.replicas[at].as_mut().map_or(Ok(()), |replica| work(replica, &self.log, &mut self.net))
    }

    /// What the instance wants sent goes onto its sessions at once, or is lost: only then do other things happen.
    fn with_instance(
        &mut self,
        (of, slot): Place,
        work: impl FnOnce(&mut Instance, &[usize]) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some(instance) = &mut self.participants[of].instances[slot] else { return Ok(()) };
        let there = self.net.replicas_of(instance.id);
        work(instance, &there)?;
        self.send_outbox((of, slot));
        Ok(())
    }

    fn send_outbox(&mut self, (of, slot): Place) {
        let Some(instance) = &mut self.participants[of].instances[slot] else { return };
        for (replica, said) in std::mem::take(&mut instance.outbox) {
            if let Some(link) = self.net.links.get_mut(&(replica, instance.id)) {
                link.said.push_back(said);
            }
        }
        if let Enlistment::Wanted(vote) = instance.enlistment
            && let Some(link) = self.net.links.get_mut(&(0, instance.id))
        {
            link.said.push_back(Said::Enlist(vote));
            instance.enlistment = Enlistment::Sent(vote);
        }
    }

    fn connect(&mut self, replica: usize, place: Place) -> Result<(), String> {
        let participant = self.participants[place.0].name.clone();
        let Some(id) = self.instance(place).map(|instance| instance.id) else { return Ok(()) };
        let link = Link { participant: participant.clone(), said: Default::default(), heard: Default::default() };
        self.net.links.insert((replica, id), link);
        if !self.net.joined.contains(&participant) {
            self.net.joined.push(participant.clone());
        }
        self.with_instance(place, |it, there| it.connected(replica, there))?;
        self.with_replica(replica, |it, _, net| it.joined(participant, net))
    }

    fn break_session(&mut self, replica: usize, id: InstanceId, are_frames_read: bool) -> Result<(), String> {
        let Some(link) = self.net.links.remove(&(replica, id)) else { return Ok(()) };
        if let Some((of, slot)) = self.place_of(id)
            && let Some(instance) = &mut self.participants[of].instances[slot]
            && are_frames_read
        {
            instance.late.extend(link.heard.into_iter().map(|heard| (replica, heard)));
        }
        self.with_replica(replica, |it, _, net| it.left(link.participant, id, net))
    }

    fn break_initiator(&mut self) -> Result<(), String> {
        self.initiator.waits_for = None;
        match self.net.initiator.take() {
            Some(link) => self.with_replica(0, |it, _, net| it.caller_left(link.session, net)),
            None => Ok(()),
        }
    }

    fn crash_replica(&mut self, at: usize) -> Result<(), String> {
        // What it had not appended is gone; what it appended and had not heard of stays.
        self.replicas[at] = None;
        let broken: Vec<_> = self.net.links.keys().filter(|(replica, _)| *replica == at).copied().collect();
        for (replica, id) in broken {
            self.break_session(replica, id, true)?;
        }
        if at == 0 { self.break_initiator() } else { Ok(()) }
    }

    // ---- what must be true -----------------------------------------------------------------------------------------

    /// I1, I2, I3, I5 and I6, as the participants' databases and the initiator see them.
    fn check(&self) -> Result<(), String> {
        let decision = self.log.decision();
        let alone = self.setup.one_phase && !self.setup.is_begun && self.participants.len() == 1;
        for Participant { name, behaviour, resource, .. } in &self.participants {
            let broken = |problem: &str| Err(format!("{name}: {problem}: {resource:?}, {decision:?}"));
            if resource.applied > 1 {
                return broken("its work took effect twice");
            }
            let must_commit = behaviour.has_work();
            match decision {
                Some(Decision::Commit) if must_commit && !resource.is_prepared && resource.applied == 0 => {
                    return broken("commit is durable, and its work is gone (I2, I6)");
                }
                Some(Decision::Commit) if !must_commit && *behaviour != Behaviour::ReadOnly => {
                    return broken("commit is durable, and it did not agree (I2)");
                }
                Some(Decision::Abort) if resource.applied > 0 => {
                    return broken("abort is durable, and it committed (I1)");
                }
                None if resource.applied > 0 && !alone => return broken("it committed, and nothing is durable (I4)"),
                Some(Decision::Commit | Decision::Abort) | None => {}
            }
            match self.initiator.told.first() {
                Some(Outcome::Committed) if must_commit && resource.applied == 0 && !resource.is_prepared => {
                    return broken("the initiator was told committed (I5)");
                }
                Some(Outcome::Aborted) if resource.applied > 0 => {
                    return broken("the initiator was told aborted (I5)");
                }
                Some(_) | None => {}
            }
        }
        match (self.initiator.told.as_slice(), decision) {
            ([first, rest @ ..], _) if rest.iter().any(|other| other != first) => {
                Err(format!("the initiator was told {:?} (I3, I11)", self.initiator.told))
            }
            ([Outcome::Committed, ..], Some(Decision::Abort)) | ([Outcome::Aborted, ..], Some(Decision::Commit)) => {
                Err(format!("the initiator was told {:?}, and {decision:?} is durable (I5)", self.initiator.told))
            }
            _ => Ok(()),
        }
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    fn rise(&mut self) -> Result<(), String> {
        while let Some(&action) = self.recovery().first() {
            self.step(action)?;
        }
        Ok(())
    }

    /// Faults stop, time passes, and everything ends (I12).
    ///
    /// # Errors
    /// What was broken, or has not ended.
    pub(crate) fn calm(&mut self) -> Result<(), String> {
        self.left = Faults::NONE;
        for round in 0..12 {
            self.rise()?;
            for _ in 0..1_000 {
                let Some(&action) = self.progress().first() else { break };
                self.step(action)?;
            }
            if let Err(problem) = self.has_ended()
                && round == 11
            {
                return Err(format!("it does not end (I12): {problem}"));
            }
            self.let_time_pass(round)?;
        }
        self.has_ended()
    }

    /// Every timer fires; the deadline only when nothing else has helped.
    fn let_time_pass(&mut self, round: usize) -> Result<(), String> {
        for place in self.places() {
            let timers = self.instance(place).map(|instance| instance.timers.clone()).unwrap_or_default();
            for timer in timers {
                self.step(Action::BranchTimerFires { place, timer })?;
            }
        }
        for replica in 0..self.replicas.len() {
            let timers = self.replicas[replica].as_ref().map(|it| it.timers.clone()).unwrap_or_default();
            for timer in timers.into_iter().filter(|timer| *timer != Timer::Deadline || round > 3) {
                self.step(Action::TimerFires { replica, timer })?;
            }
        }
        Ok(())
    }

    fn has_ended(&self) -> Result<(), String> {
        for (at, replica) in self.replicas.iter().enumerate() {
            if let Some(machine) = replica.as_ref().and_then(|replica| replica.machine.as_ref()) {
                return Err(format!("replica {at} still waits for {}", machine.waiting_for()));
            }
        }
        for place in self.places() {
            if self.instance(place).is_some_and(Instance::has_branch) {
                return Err(format!("{} has not ended", self.participants[place.0].name));
            }
        }
        if self.log.open.is_some() {
            return Err("the log has it open".to_owned());
        }
        if self.initiator.told.is_empty() {
            return Err("the initiator was told nothing".to_owned());
        }
        let is_committed = self.initiator.told == [Outcome::Committed];
        for Participant { name, behaviour, resource, .. } in &self.participants {
            if resource.is_prepared {
                return Err(format!("{name} is still prepared"));
            }
            if is_committed && behaviour.has_work() && resource.applied != 1 {
                return Err(format!("{name} has not committed"));
            }
        }
        Ok(())
    }
}
