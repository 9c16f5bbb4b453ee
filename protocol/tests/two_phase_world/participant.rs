//! A participant: its durable resource, and the instances that share it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use assent_protocol::branch::{Branch, Effect, Event, Hook, HookEnd, Message, Timer, invariant};
use assent_protocol::ids::BranchId;
use assent_protocol::two_phase::{BranchResult, EarlyVote, Vote};
use assent_protocol::{Decision, Epoch, InstanceId, Output};

use crate::gtid;

/// What the participant's own logic makes of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Behaviour {
    Yes,
    ReadOnly,
    No,
    /// Prepare ends in an error after it has taken effect.
    UnknownPrepared,
    /// Prepare ends in an error before it takes effect.
    UnknownNot,
    /// Nobody has ever started it.
    NeverStarted,
}

impl Behaviour {
    /// Whether it has work that takes effect if the transaction commits. One that does not know that it is prepared will know after
    /// a restart.
    pub(crate) fn has_work(self) -> bool {
        matches!(self, Self::Yes | Self::UnknownPrepared)
    }
}

/// What survives every crash: the participant's database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    /// The branches that it holds prepared, each under its own id.
    pub(crate) prepared: BTreeSet<BranchId>,
    /// How often the work took effect.
    pub(crate) applied: u32,
    /// What became of a one-phase commit, recorded in the same local transaction.
    pub(crate) one_phase: BTreeMap<BranchId, Vote>,
    /// It commits by itself when it is asked to, and records each end: an abort that finds nothing leaves a record too.
    pub(crate) keeps_records: bool,
}

/// What an instance says to a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Said {
    Message(BranchId, Message),
    Enlist(BranchId, EarlyVote),
}

/// What a replica says to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Heard {
    Prepare {
        branch: BranchId,
        epoch: Epoch,
        one_phase: bool,
    },
    Decided {
        branch: BranchId,
        epoch: Epoch,
        decision: Decision,
    },
    /// The answer to an enlistment.
    Enlisted(bool),
}

/// A running hook.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Running {
    hook: Hook,
    /// Set once it has taken effect.
    answer: Option<Answer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Prepared(Vote),
    Ended(HookEnd),
}

/// The state of an enlistment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Enlistment {
    /// Not called yet.
    Idle,
    /// To be sent, or to be sent again.
    Wanted(EarlyVote),
    /// Sent.
    Sent(EarlyVote),
    /// Answered.
    Answered(bool),
}

/// One branch at an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Work {
    branch: Branch,
    timers: BTreeSet<Timer>,
    hook: Option<Running>,
    /// The replica whose order counts: that of the highest epoch.
    replica: usize,
}

/// One process of a participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    work: BTreeMap<BranchId, Work>,
    /// Frames of a session that has broken, read and not yet looked at.
    pub(crate) late: VecDeque<(usize, Heard)>,
    pub(crate) enlistment: Enlistment,
    inquiries: usize,
    /// To be put on a session: to which replica, what.
    pub(crate) outbox: Vec<(usize, Said)>,
}

impl Instance {
    /// Starts a process: what its database holds prepared is in doubt.
    pub(crate) fn start(id: InstanceId, resource: &Resource) -> Self {
        let mut instance = Self {
            id,
            work: BTreeMap::new(),
            late: VecDeque::new(),
            enlistment: Enlistment::Idle,
            inquiries: 0,
            outbox: Vec::new(),
        };
        for id in &resource.prepared {
            instance.is_in_doubt(*id);
        }
        instance
    }

    fn is_in_doubt(&mut self, id: BranchId) {
        let (branch, output) = Branch::in_doubt(gtid());
        invariant::check_in_doubt(&branch, &output).expect("a fair beginning");
        self.work.insert(id, Work { branch, timers: BTreeSet::new(), hook: None, replica: 0 });
        self.carry_out(id, &output, &[]);
    }

    pub(crate) fn has_branch(&self) -> bool {
        !self.work.is_empty()
    }

    /// The id of the branch that it enlists.
    pub(crate) fn early_branch(&self) -> BranchId {
        BranchId { epoch: Epoch(0), number: self.id.0 }
    }

    /// The branches here, with the timers that each waits for.
    pub(crate) fn timers(&self) -> impl Iterator<Item = (BranchId, Timer)> {
        self.work.iter().flat_map(|(id, work)| work.timers.iter().map(|timer| (*id, *timer)))
    }

    /// The branches here.
    pub(crate) fn branches(&self) -> impl Iterator<Item = BranchId> {
        self.work.keys().copied()
    }

    /// The service was called by the initiator: it does its work and prepares before it enlists.
    pub(crate) fn work(&mut self, behaviour: Behaviour, resource: &mut Resource) {
        self.enlistment = match behaviour {
            Behaviour::Yes => {
                let id = self.early_branch();
                resource.prepared.insert(id);
                self.is_in_doubt(id);
                Enlistment::Wanted(EarlyVote::Yes)
            }
            Behaviour::ReadOnly => Enlistment::Wanted(EarlyVote::ReadOnly),
            Behaviour::No | Behaviour::UnknownPrepared | Behaviour::UnknownNot | Behaviour::NeverStarted => {
                Enlistment::Answered(false)
            }
        };
    }

    /// Takes a message of a session with `replica`; `replicas` are those that it has sessions with now.
    ///
    /// # Errors
    /// What invariant was broken.
    pub(crate) fn hear(&mut self, replica: usize, heard: Heard, replicas: &[usize]) -> Result<(), String> {
        match heard {
            Heard::Prepare { branch, epoch, one_phase } => {
                let event = Event::PrepareOrdered { epoch, payload: "work".into(), one_phase };
                self.ordered(replica, branch, epoch, event, replicas)
            }
            Heard::Decided { branch, epoch, decision } => {
                self.ordered(replica, branch, epoch, Event::Decided { epoch, decision }, replicas)
            }
            Heard::Enlisted(is_enlisted) => {
                self.enlistment = Enlistment::Answered(is_enlisted);
                let id = self.early_branch();
                match self.work.get(&id) {
                    // A branch that is not part of the transaction is undone.
                    Some(work) if !is_enlisted => {
                        let epoch = work.branch.epoch();
                        self.take(id, Event::Decided { epoch, decision: Decision::Abort }, replicas)
                    }
                    Some(_) | None => Ok(()),
                }
            }
        }
    }

    fn ordered(
        &mut self,
        replica: usize,
        id: BranchId,
        epoch: Epoch,
        event: Event,
        replicas: &[usize],
    ) -> Result<(), String> {
        if let Some(work) = self.work.get_mut(&id)
            && epoch >= work.branch.epoch()
        {
            work.replica = replica;
        }
        self.take_from(replica, id, event, replicas)
    }

    /// A session is up: what may be lost is said again.
    pub(crate) fn connected(&mut self, replica: usize, replicas: &[usize]) -> Result<(), String> {
        if let Enlistment::Sent(vote) = self.enlistment
            && replica == 0
        {
            self.enlistment = Enlistment::Wanted(vote);
        }
        let ids: Vec<BranchId> = self.branches().collect();
        ids.into_iter().try_for_each(|id| self.take(id, Event::SessionUp, replicas))
    }

    pub(crate) fn fire(&mut self, id: BranchId, timer: Timer, replicas: &[usize]) -> Result<(), String> {
        let Some(work) = self.work.get_mut(&id) else { return Ok(()) };
        work.timers.remove(&timer);
        self.take(id, Event::TimerFired(timer), replicas)
    }

    fn take(&mut self, id: BranchId, event: Event, replicas: &[usize]) -> Result<(), String> {
        self.take_from(0, id, event, replicas)
    }

    /// Takes an event; `replica` is the one that brings it, should the branch be met only now.
    fn take_from(&mut self, replica: usize, id: BranchId, event: Event, replicas: &[usize]) -> Result<(), String> {
        let known = self.work.remove(&id);
        let before = known.as_ref().map(|work| work.branch.clone());
        let (after, output) = match before.clone() {
            Some(mut branch) => {
                let output = branch.handle(event.clone());
                (branch, output)
            }
            None => Branch::meet(gtid(), event.clone()),
        };
        invariant::check(before.as_ref(), &event, &after, &output).map_err(|violation| violation.to_string())?;
        let is_ended = after.is_ended();
        let work = match known {
            Some(work) => Work { branch: after, ..work },
            None => Work { branch: after, timers: BTreeSet::new(), hook: None, replica },
        };
        self.work.insert(id, work);
        self.carry_out(id, &output, replicas);
        if is_ended {
            self.work.remove(&id);
        }
        Ok(())
    }

    fn carry_out(&mut self, id: BranchId, output: &Output<Effect>, replicas: &[usize]) {
        let Some(work) = self.work.get_mut(&id) else { return };
        for effect in output.peek_effects() {
            match effect {
                Effect::Call(hook) => work.hook = Some(Running { hook: hook.clone(), answer: None }),
                Effect::Send(Message::Inquire) => {
                    // Any replica may be asked: take turns.
                    self.inquiries += 1;
                    if let Some(replica) = replicas.get(self.inquiries % replicas.len().max(1)) {
                        self.outbox.push((*replica, Said::Message(id, Message::Inquire)));
                        self.inquiries %= 2;
                    }
                }
                Effect::Send(message) => self.outbox.push((work.replica, Said::Message(id, message.clone()))),
                Effect::SetTimer { timer, .. } => {
                    work.timers.insert(*timer);
                }
                Effect::Contradiction { .. } => panic!("no coordinator contradicts itself"),
            }
        }
    }

    fn hook(&self, id: BranchId) -> Option<&Running> {
        self.work.get(&id)?.hook.as_ref()
    }

    pub(crate) fn hook_may_take_effect(&self, id: BranchId) -> bool {
        self.hook(id).is_some_and(|running| running.answer.is_none())
    }

    pub(crate) fn hook_may_return(&self, id: BranchId) -> bool {
        self.hook(id).is_some_and(|running| running.answer.is_some())
    }

    /// Whether the hook may end in an error and be called again.
    pub(crate) fn hook_may_fail(&self, id: BranchId) -> bool {
        self.hook(id).is_some_and(|running| running.answer.is_none() && !matches!(running.hook, Hook::Prepare { .. }))
    }

    /// The running hook takes effect in the database, for its own branch only.
    pub(crate) fn hook_takes_effect(&mut self, id: BranchId, behaviour: Behaviour, resource: &mut Resource) {
        let Some(running) = self.work.get_mut(&id).and_then(|work| work.hook.as_mut()) else { return };
        running.answer = Some(match &running.hook {
            Hook::Prepare { one_phase: false, .. } => Answer::Prepared(prepare(id, behaviour, resource)),
            Hook::Prepare { one_phase: true, .. } => Answer::Prepared(commit_alone(id, behaviour, resource)),
            Hook::Commit => {
                if resource.prepared.remove(&id) {
                    resource.applied += 1;
                }
                Answer::Ended(HookEnd::Ended(BranchResult::Done))
            }
            Hook::Abort => {
                resource.prepared.remove(&id);
                let is_committed = resource.one_phase.get(&id) == Some(&Vote::Committed);
                if resource.keeps_records && !is_committed {
                    // A late order to commit by itself finds this, and does nothing.
                    resource.one_phase.insert(id, Vote::No("aborted before".to_owned()));
                }
                let result = if is_committed { BranchResult::HeuristicCommitted } else { BranchResult::Done };
                Answer::Ended(HookEnd::Ended(result))
            }
        });
    }

    pub(crate) fn hook_returns(&mut self, id: BranchId, replicas: &[usize]) -> Result<(), String> {
        let running = self.work.get_mut(&id).and_then(|work| work.hook.take());
        match running.and_then(|running| running.answer) {
            Some(Answer::Prepared(vote)) => self.take(id, Event::PrepareFinished(vote), replicas),
            Some(Answer::Ended(end)) => self.take(id, Event::EndFinished(end), replicas),
            None => Ok(()),
        }
    }

    pub(crate) fn hook_fails(&mut self, id: BranchId, replicas: &[usize]) -> Result<(), String> {
        let Some(work) = self.work.get_mut(&id) else { return Ok(()) };
        work.hook = None;
        self.take(id, Event::EndFinished(HookEnd::Failed("no connection".to_owned())), replicas)
    }
}

fn prepare(id: BranchId, behaviour: Behaviour, resource: &mut Resource) -> Vote {
    if let Some(recorded) = resource.one_phase.get(&id) {
        return recorded.clone();
    }
    if resource.prepared.contains(&id) {
        // As with `PREPARE TRANSACTION`: the name is taken.
        return Vote::Unknown("prepared already".to_owned());
    }
    match behaviour {
        Behaviour::Yes => {
            resource.prepared.insert(id);
            Vote::Yes
        }
        Behaviour::UnknownPrepared => {
            resource.prepared.insert(id);
            Vote::Unknown("no answer".to_owned())
        }
        Behaviour::UnknownNot => Vote::Unknown("no answer".to_owned()),
        Behaviour::ReadOnly => Vote::ReadOnly,
        Behaviour::No | Behaviour::NeverStarted => Vote::No("refused".to_owned()),
    }
}

/// Commits without a coordinator, and records the outcome with the work. Asked again, it answers from the record.
fn commit_alone(id: BranchId, behaviour: Behaviour, resource: &mut Resource) -> Vote {
    if let Some(recorded) = resource.one_phase.get(&id) {
        return recorded.clone();
    }
    if resource.prepared.contains(&id) {
        return Vote::Yes;
    }
    let committed = |resource: &mut Resource| {
        resource.applied += 1;
        resource.one_phase.insert(id, Vote::Committed);
        Vote::Committed
    };
    match behaviour {
        Behaviour::Yes => committed(resource),
        // The connection broke at the commit: only the record tells, when it is asked again.
        Behaviour::UnknownPrepared => {
            committed(resource);
            Vote::Unknown("no answer".to_owned())
        }
        Behaviour::ReadOnly => Vote::ReadOnly,
        Behaviour::UnknownNot | Behaviour::No | Behaviour::NeverStarted => {
            let refused = Vote::No("refused".to_owned());
            resource.one_phase.insert(id, refused.clone());
            refused
        }
    }
}
