//! What happens, one thing at a time.

use assent_protocol::{Caller, Epoch, InstanceId, Wait};

use super::{Action, Participant, Place, World};
use crate::log::Log;
use crate::net::{InitiatorLink, Link, Net, Request};
use crate::participant::{Enlistment, Instance, Said};
use crate::replica::{Ask, Replica};

impl World {
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
            Action::HookTakesEffect { place: (of, slot), branch } => {
                let Participant { behaviour, resource, instances, .. } = &mut self.participants[of];
                if let Some(instance) = &mut instances[slot] {
                    instance.hook_takes_effect(branch, *behaviour, resource);
                }
                Ok(())
            }
            Action::HookReturns { place, branch } => {
                self.with_instance(place, |it, there| it.hook_returns(branch, there))
            }
            Action::HookFails { place, branch } => {
                self.left.hooks = self.left.hooks.saturating_sub(1);
                self.with_instance(place, |it, there| it.hook_fails(branch, there))
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
            Action::BranchTimerFires { place, branch, timer } => {
                self.left.timers = self.left.timers.saturating_sub(1);
                self.with_instance(place, |it, there| it.fire(branch, timer, there))
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
                self.replicas[replica] =
                    Some(Replica::start(replica, self.setup.driver, epoch, &self.log, &mut self.net)?);
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
            link.said.push_back(Said::Enlist(instance.early_branch(), vote));
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
}
