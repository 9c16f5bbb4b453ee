//! A participant: its durable resource, and the instances that share it.

use std::collections::{BTreeSet, VecDeque};

use assent_protocol::branch::{Branch, Effect, Event, Hook, HookEnd, Message, Timer, invariant};
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
    /// Holds a prepared branch.
    pub(crate) is_prepared: bool,
    /// How often the work took effect.
    pub(crate) applied: u32,
    /// What became of a one-phase commit, recorded in the same local transaction.
    pub(crate) one_phase: Option<Vote>,
    /// It commits by itself when it is asked to, and records each end: an abort that finds nothing leaves a record too.
    pub(crate) keeps_records: bool,
}

/// What an instance says to a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Said {
    Message(Message),
    Enlist(EarlyVote),
}

/// What a replica says to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Heard {
    Prepare {
        epoch: Epoch,
        one_phase: bool,
    },
    Decided {
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

/// One process of a participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    branch: Option<Branch>,
    pub(crate) timers: BTreeSet<Timer>,
    pub(crate) hook: Option<Running>,
    /// Frames of a session that has broken, read and not yet looked at.
    pub(crate) late: VecDeque<(usize, Heard)>,
    pub(crate) enlistment: Enlistment,
    /// The replica that gave the last order.
    replica: usize,
    inquiries: usize,
    /// To be put on a session: to which replica, what.
    pub(crate) outbox: Vec<(usize, Said)>,
}

impl Instance {
    /// Starts a process: what its database holds prepared is in doubt.
    pub(crate) fn start(id: InstanceId, resource: &Resource) -> Self {
        let mut instance = Self {
            id,
            branch: None,
            timers: BTreeSet::new(),
            hook: None,
            late: VecDeque::new(),
            enlistment: Enlistment::Idle,
            replica: 0,
            inquiries: 0,
            outbox: Vec::new(),
        };
        if resource.is_prepared {
            instance.is_in_doubt();
        }
        instance
    }

    fn is_in_doubt(&mut self) {
        let (branch, output) = Branch::in_doubt(gtid());
        invariant::check_in_doubt(&branch, &output).expect("a fair beginning");
        self.branch = Some(branch);
        self.carry_out(&output, &[]);
    }

    pub(crate) fn has_branch(&self) -> bool {
        self.branch.is_some()
    }

    /// The service was called by the initiator: it does its work and prepares before it enlists.
    pub(crate) fn work(&mut self, behaviour: Behaviour, resource: &mut Resource) {
        self.enlistment = match behaviour {
            Behaviour::Yes => {
                resource.is_prepared = true;
                self.is_in_doubt();
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
            Heard::Prepare { epoch, one_phase } => {
                self.replica = replica;
                self.take(Event::PrepareOrdered { epoch, payload: "work".into(), one_phase }, replicas)
            }
            Heard::Decided { epoch, decision } => {
                self.replica = replica;
                self.take(Event::Decided { epoch, decision }, replicas)
            }
            Heard::Enlisted(is_enlisted) => {
                self.enlistment = Enlistment::Answered(is_enlisted);
                match &self.branch {
                    // A branch that is not part of the transaction is undone.
                    Some(branch) if !is_enlisted => {
                        let epoch = branch.epoch();
                        self.take(Event::Decided { epoch, decision: Decision::Abort }, replicas)
                    }
                    Some(_) | None => Ok(()),
                }
            }
        }
    }

    /// A session is up: what may be lost is said again.
    pub(crate) fn connected(&mut self, replica: usize, replicas: &[usize]) -> Result<(), String> {
        if let Enlistment::Sent(vote) = self.enlistment
            && replica == 0
        {
            self.enlistment = Enlistment::Wanted(vote);
        }
        if self.branch.is_some() { self.take(Event::SessionUp, replicas) } else { Ok(()) }
    }

    pub(crate) fn fire(&mut self, timer: Timer, replicas: &[usize]) -> Result<(), String> {
        self.timers.remove(&timer);
        if self.branch.is_some() { self.take(Event::TimerFired(timer), replicas) } else { Ok(()) }
    }

    fn take(&mut self, event: Event, replicas: &[usize]) -> Result<(), String> {
        let before = self.branch.clone();
        let (after, output) = match before.clone() {
            Some(mut branch) => {
                let output = branch.handle(event.clone());
                (branch, output)
            }
            None => Branch::meet(gtid(), event.clone()),
        };
        invariant::check(before.as_ref(), &event, &after, &output).map_err(|violation| violation.to_string())?;
        let is_ended = after.is_ended();
        self.branch = Some(after);
        self.carry_out(&output, replicas);
        if is_ended {
            self.branch = None;
            self.timers.clear();
        }
        Ok(())
    }

    fn carry_out(&mut self, output: &Output<Effect>, replicas: &[usize]) {
        for effect in output.peek_effects() {
            match effect {
                Effect::Call(hook) => self.hook = Some(Running { hook: hook.clone(), answer: None }),
                Effect::Send(Message::Inquire) => {
                    // Any replica may be asked: take turns.
                    self.inquiries += 1;
                    if let Some(replica) = replicas.get(self.inquiries % replicas.len().max(1)) {
                        self.outbox.push((*replica, Said::Message(Message::Inquire)));
                        self.inquiries %= 2;
                    }
                }
                Effect::Send(message) => self.outbox.push((self.replica, Said::Message(message.clone()))),
                Effect::SetTimer { timer, .. } => {
                    self.timers.insert(*timer);
                }
                Effect::Contradiction { .. } => panic!("no coordinator contradicts itself"),
            }
        }
    }

    pub(crate) fn hook_may_take_effect(&self) -> bool {
        self.hook.as_ref().is_some_and(|running| running.answer.is_none())
    }

    pub(crate) fn hook_may_return(&self) -> bool {
        self.hook.as_ref().is_some_and(|running| running.answer.is_some())
    }

    /// Whether the hook may end in an error and be called again.
    pub(crate) fn hook_may_fail(&self) -> bool {
        self.hook_may_take_effect()
            && self.hook.as_ref().is_some_and(|running| !matches!(running.hook, Hook::Prepare { .. }))
    }

    /// The running hook takes effect in the database.
    pub(crate) fn hook_takes_effect(&mut self, behaviour: Behaviour, resource: &mut Resource) {
        let Some(running) = &mut self.hook else { return };
        running.answer = Some(match &running.hook {
            Hook::Prepare { one_phase: false, .. } => Answer::Prepared(prepare(behaviour, resource)),
            Hook::Prepare { one_phase: true, .. } => Answer::Prepared(commit_alone(behaviour, resource)),
            Hook::Commit => {
                if resource.is_prepared {
                    resource.is_prepared = false;
                    resource.applied += 1;
                }
                Answer::Ended(HookEnd::Ended(BranchResult::Done))
            }
            Hook::Abort => {
                resource.is_prepared = false;
                let is_committed = resource.one_phase == Some(Vote::Committed);
                if resource.keeps_records && !is_committed {
                    // A late order to commit by itself finds this, and does nothing.
                    resource.one_phase = Some(Vote::No("aborted before".to_owned()));
                }
                let result = if is_committed { BranchResult::HeuristicCommitted } else { BranchResult::Done };
                Answer::Ended(HookEnd::Ended(result))
            }
        });
    }

    pub(crate) fn hook_returns(&mut self, replicas: &[usize]) -> Result<(), String> {
        match self.hook.take().and_then(|running| running.answer) {
            Some(Answer::Prepared(vote)) => self.take(Event::PrepareFinished(vote), replicas),
            Some(Answer::Ended(end)) => self.take(Event::EndFinished(end), replicas),
            None => Ok(()),
        }
    }

    pub(crate) fn hook_fails(&mut self, replicas: &[usize]) -> Result<(), String> {
        self.hook = None;
        self.take(Event::EndFinished(HookEnd::Failed("no connection".to_owned())), replicas)
    }
}

fn prepare(behaviour: Behaviour, resource: &mut Resource) -> Vote {
    if let Some(recorded) = &resource.one_phase {
        return recorded.clone();
    }
    if resource.is_prepared {
        // As with `PREPARE TRANSACTION`: the name is taken.
        return Vote::Unknown("prepared already".to_owned());
    }
    match behaviour {
        Behaviour::Yes => {
            resource.is_prepared = true;
            Vote::Yes
        }
        Behaviour::UnknownPrepared => {
            resource.is_prepared = true;
            Vote::Unknown("no answer".to_owned())
        }
        Behaviour::UnknownNot => Vote::Unknown("no answer".to_owned()),
        Behaviour::ReadOnly => Vote::ReadOnly,
        Behaviour::No | Behaviour::NeverStarted => Vote::No("refused".to_owned()),
    }
}

/// Commits without a coordinator, and records the outcome with the work. Asked again, it answers from the record.
fn commit_alone(behaviour: Behaviour, resource: &mut Resource) -> Vote {
    if let Some(recorded) = &resource.one_phase {
        return recorded.clone();
    }
    if resource.is_prepared {
        return Vote::Yes;
    }
    let committed = |resource: &mut Resource| {
        resource.applied += 1;
        resource.one_phase = Some(Vote::Committed);
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
            resource.one_phase = Some(refused.clone());
            refused
        }
    }
}
