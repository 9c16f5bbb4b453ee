//! Everything together, and what can happen next.

mod act;
mod judge;

use assent_protocol::ids::BranchId;
use assent_protocol::two_phase::Timer;
use assent_protocol::{InstanceId, ParticipantName, branch};

use crate::initiator::Initiator;
use crate::log::Log;
use crate::net::Net;
use crate::participant::{Behaviour, Enlistment, Instance, Resource};
use crate::replica::{Driver, Replica};

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
    pub(crate) driver: Driver,
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
    HookTakesEffect { place: Place, branch: BranchId },
    HookReturns { place: Place, branch: BranchId },
    HookFails { place: Place, branch: BranchId },
    AppendApplied { replica: usize },
    AppendRepeated { replica: usize },
    AppendAnswered { replica: usize },
    LazyFlushed { replica: usize },
    TimerFires { replica: usize, timer: Timer },
    BranchTimerFires { place: Place, branch: BranchId, timer: branch::Timer },
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
        let keeps_records = setup.one_phase && !setup.is_begun && setup.behaviours.len() == 1;
        let participants = setup.behaviours.iter().enumerate().map(|(at, &behaviour)| Participant {
            name: ParticipantName::new(&format!("participant-{at}")).expect("valid"),
            behaviour,
            resource: Resource { keeps_records, ..Resource::default() },
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

    /// The branch that an instance has, if it has one only.
    pub(crate) fn only_branch(&self, place: Place) -> Option<BranchId> {
        let mut ids = self.instance(place).into_iter().flat_map(Instance::branches);
        ids.next().filter(|_| ids.next().is_none())
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
            for branch in instance.branches() {
                if instance.hook_may_take_effect(branch) {
                    actions.push(Action::HookTakesEffect { place, branch });
                }
                if instance.hook_may_return(branch) {
                    actions.push(Action::HookReturns { place, branch });
                }
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
            if left.hooks > 0 {
                let failing = instance.branches().filter(|branch| instance.hook_may_fail(*branch));
                actions.extend(failing.map(|branch| Action::HookFails { place, branch }));
            }
            if left.timers > 0 {
                let timers = instance.timers();
                actions.extend(timers.map(|(branch, timer)| Action::BranchTimerFires { place, branch, timer }));
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
}
