//! The state of the model, and its steps.

use std::collections::BTreeSet;

use assent_protocol::saga::{
    Definition, Effect, Event, Reply, Saga, StepDefinition, StepIndex, StepResult, Timer, Wait, invariant,
};
use assent_protocol::{Appended, BodyDigest, Caller, Epoch, InstanceId, Outcome, Output, Parts, Record};
use assent_protocol::{Name, RetryPolicy};
use bytes::Bytes;

use super::cells::{self, CELLS};
use super::log::{Kind, Log};
use crate::append::{Answer, Append};
use crate::gtid;
use crate::shared::Shared;

/// What can go wrong, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    pub(crate) crashes: u8,
    /// Appends whose answer is lost: applied, or not yet.
    pub(crate) lost_answers: u8,
    /// Leases that lapse while their replica goes on.
    pub(crate) take_overs: u8,
    /// Actions that are refused.
    pub(crate) refusals: u8,
    /// Compensations that are refused, until a human resumes the saga.
    pub(crate) stuck: u8,
    /// Attempts whose outcome the participant does not know: one time with effect, one time without.
    pub(crate) unknowns: u8,
    /// Attempts that time out, answered or not.
    pub(crate) timeouts: u8,
    /// Sessions that break.
    pub(crate) breaks: u8,
    /// Starts that are asked for again, and one wish to turn back.
    pub(crate) requests: u8,
}

pub(crate) const NO_FAULTS: Faults = Faults {
    crashes: 0,
    lost_answers: 0,
    take_overs: 0,
    refusals: 0,
    stuck: 0,
    unknowns: 0,
    timeouts: 0,
    breaks: 0,
    requests: 0,
};

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) definition: Definition,
    pub(crate) replicas: usize,
    pub(crate) log: Kind,
    /// The network repeats requests for actions too, which sessions never do.
    pub(crate) repeats_actions: bool,
    pub(crate) faults: Faults,
}

/// Four steps: one, two beside each other, and one behind both. `pivot` and `durable` name steps by their number.
pub(crate) fn diamond(pivot: Option<usize>, durable: Option<usize>) -> Definition {
    let after: [&[u16]; 4] = [&[], &[0], &[0], &[1, 2]];
    let steps = ["a", "b", "c", "d"].iter().zip(after).enumerate().map(|(at, (step, after))| StepDefinition {
        name: Name::new(step).expect("valid"),
        participant: Name::new(step).expect("valid"),
        input: Bytes::new(),
        after: after.iter().map(|at| StepIndex(*at)).collect(),
        retry: RetryPolicy { attempts_max: 2, ..RetryPolicy::default() },
        compensation_retry: RetryPolicy::default(),
        pivot: pivot == Some(at),
        durable: durable == Some(at),
    });
    Definition::new(steps.collect()).expect("a DAG")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Verdict {
    Done,
    Refused,
    /// The participant has also made durable that no attempt up to this one takes effect.
    FinallyRefused,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Packet {
    Ask { step: u16, compensation: bool, attempt: u32, epoch: u64, replica: usize },
    Answer { step: u16, compensation: bool, attempt: u32, epoch: u64, replica: usize, verdict: Verdict },
}

/// What a participant's database has of a step, with the SDK's barrier around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) effect: bool,
    /// Compensated: the action does nothing any more.
    pub(crate) closed: bool,
    /// Finally refused: attempts up to this one, by epoch and number, do nothing any more.
    pub(crate) refused_up_to: (u64, u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    life: u8,
    epoch: u64,
    pub(crate) saga: Option<Shared<Saga>>,
    append: Option<Shared<Append<Effect>>>,
    lazy: Vec<Shared<Record>>,
    timers: BTreeSet<Timer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) log: Log,
    pub(crate) net: BTreeSet<Packet>,
    pub(crate) replicas: Vec<Option<Replica>>,
    pub(crate) places: [Place; 4],
    limbo: Vec<((usize, u8), Shared<Record>)>,
    requests: u8,
    listens: Option<(u8, usize)>,
    wants_undo: bool,
    pub(crate) told: Option<Outcome>,
    pub(crate) left: Faults,
    next_epoch: u64,
    /// The first end and turn that were durable.
    pub(crate) ended: Option<Outcome>,
    pub(crate) has_turned: bool,
    pub(crate) broken: Option<(&'static str, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Action {
    /// A participant takes a request; `has_effect` tells the two kinds of unknown apart.
    Take {
        packet: Packet,
        verdict: Verdict,
        has_effect: bool,
    },
    Hear {
        packet: Packet,
    },
    Apply {
        replica: usize,
    },
    Answer {
        replica: usize,
    },
    LoseAnswer {
        replica: usize,
    },
    ApplyLate,
    Flush {
        replica: usize,
    },
    Fire {
        replica: usize,
        timer: Timer,
    },
    Break {
        replica: usize,
        step: u16,
    },
    Start {
        replica: usize,
    },
    Undo {
        replica: usize,
    },
    Unpause {
        replica: usize,
    },
    Crash {
        replica: usize,
    },
    StartReplica {
        replica: usize,
    },
    TakeOver,
    Resume {
        replica: usize,
    },
    FailOver,
}

type Step = Result<(), (&'static str, String)>;

pub(crate) const MACHINE: &str = "the machine's own invariants hold";
pub(crate) const REVERSE: &str = "I10 compensated after everything that depends on it";
pub(crate) const EARLY: &str = "I10 executed after everything it depends on";
const DIGEST: BodyDigest = BodyDigest(7);
const INSTANCE: InstanceId = InstanceId(1);

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        let mut world = Self {
            log: Log::default(),
            net: BTreeSet::new(),
            replicas: vec![None; setup.replicas],
            places: [Place::default(); 4],
            limbo: Vec::new(),
            requests: 0,
            listens: None,
            wants_undo: false,
            told: None,
            left: setup.faults,
            next_epoch: 0,
            ended: None,
            has_turned: false,
            broken: None,
        };
        for replica in 0..setup.replicas {
            world.start_replica(replica);
        }
        world
    }

    // ---- what can happen -------------------------------------------------------------------------------------------

    pub(crate) fn actions(&self, setup: &Setup, actions: &mut Vec<Action>) {
        self.progress(setup, actions);
        self.faults(setup, actions);
    }

    pub(crate) fn progress(&self, setup: &Setup, actions: &mut Vec<Action>) {
        for packet in &self.net {
            actions.push(match packet {
                Packet::Ask { .. } => Action::Take { packet: *packet, verdict: Verdict::Done, has_effect: true },
                Packet::Answer { .. } => Action::Hear { packet: *packet },
            });
        }
        for replica in 0..self.replicas.len() {
            let Some(process) = &self.replicas[replica] else {
                actions.push(Action::StartReplica { replica });
                continue;
            };
            match &process.append {
                Some(append) if append.answer.is_none() => actions.push(Action::Apply { replica }),
                Some(_) => actions.push(Action::Answer { replica }),
                None => {}
            }
            if process.append.is_none() && !process.lazy.is_empty() {
                actions.push(Action::Flush { replica });
            }
            for timer in &process.timers {
                if let Timer::Retry { .. } = timer {
                    actions.push(Action::Fire { replica, timer: *timer });
                }
            }
            match &process.saga {
                Some(saga) if saga.is_paused() => actions.push(Action::Unpause { replica }),
                Some(_) => {}
                None => {
                    let may_write = self.log.lives[replica] == process.life || setup.log == Kind::Unfenced;
                    if self.log.owner == replica && may_write && self.log.kept().is_some() {
                        actions.push(Action::Resume { replica });
                    }
                }
            }
        }
        if self.told.is_none() && self.listens.is_none() && self.requests == 0 {
            actions.push(Action::Start { replica: 0 });
        }
    }

    pub(crate) fn faults(&self, setup: &Setup, actions: &mut Vec<Action>) {
        let left = self.left;
        for packet in &self.net {
            let Packet::Ask { step, compensation, .. } = packet else { continue };
            let refusals = if *compensation { left.stuck } else { left.refusals };
            if refusals > 0 {
                actions.push(Action::Take { packet: *packet, verdict: Verdict::Refused, has_effect: false });
                if !compensation && setup.definition.step(StepIndex(*step)).pivot {
                    let verdict = Verdict::FinallyRefused;
                    actions.push(Action::Take { packet: *packet, verdict, has_effect: false });
                }
            }
            if left.unknowns > 0 {
                for has_effect in [false, true] {
                    actions.push(Action::Take { packet: *packet, verdict: Verdict::Unknown, has_effect });
                }
            }
        }
        if !self.limbo.is_empty() {
            actions.push(Action::ApplyLate);
        }
        if setup.log == Kind::LosesItsTail && self.log.may_lose_its_tail() {
            actions.push(Action::FailOver);
        }
        for (replica, process) in self.replicas.iter().enumerate() {
            let Some(process) = process else { continue };
            if left.crashes > 0 {
                actions.push(Action::Crash { replica });
            }
            if left.lost_answers > 0 && process.append.is_some() {
                actions.push(Action::LoseAnswer { replica });
            }
            for timer in &process.timers {
                let Timer::Attempt { step, .. } = timer else { continue };
                if left.timeouts > 0 {
                    actions.push(Action::Fire { replica, timer: *timer });
                }
                if left.breaks > 0 {
                    actions.push(Action::Break { replica, step: step.0 });
                }
            }
        }
        if left.take_overs > 0 && self.replicas.len() == 2 && self.replicas[1].is_some() && self.log.lives[0] != 0 {
            actions.push(Action::TakeOver);
        }
        if left.requests > 0 && self.requests > 0 && self.told.is_none() {
            let replica = self.asked_replica();
            if self.replicas[replica].is_some() {
                actions.push(Action::Start { replica });
                if !self.wants_undo {
                    actions.push(Action::Undo { replica });
                }
            }
        }
    }

    /// A request goes home while the home replica's lease lives, and elsewhere once it has lapsed.
    pub(crate) fn asked_replica(&self) -> usize {
        usize::from(self.replicas.len() == 2 && self.log.lives[0] == 0)
    }

    // ---- steps -----------------------------------------------------------------------------------------------------

    pub(crate) fn act(&mut self, setup: &Setup, action: Action) -> Step {
        match action {
            Action::Take { packet, verdict, has_effect } => self.take_request(setup, packet, verdict, has_effect),
            Action::Hear { packet } => {
                let Packet::Answer { step, compensation, attempt, epoch, replica, verdict } = packet else {
                    return Ok(());
                };
                let is_its_own = self.saga(replica).is_some_and(|saga| saga.epoch().0 == epoch);
                if !is_its_own {
                    return Ok(());
                }
                let result = match verdict {
                    Verdict::Done => StepResult::Done(Bytes::new()),
                    Verdict::Refused | Verdict::FinallyRefused => StepResult::Refused("no".into()),
                    Verdict::Unknown => StepResult::Unknown("error".into()),
                };
                let (step, is_final) = (StepIndex(step), verdict == Verdict::FinallyRefused);
                let instance = INSTANCE;
                self.takes(replica, Event::StepAnswered { step, compensation, attempt, instance, result, is_final })
            }
            Action::Apply { replica } => {
                self.apply(setup, replica);
                // Where nothing can come between them and nobody else looks, the answer belongs to the same step.
                let is_one_step = self.replicas.len() == 1 && self.left.crashes == 0 && self.left.lost_answers == 0;
                if is_one_step { self.answer(replica) } else { Ok(()) }
            }
            Action::Answer { replica } => self.answer(replica),
            Action::LoseAnswer { replica } => {
                self.left.lost_answers -= 1;
                let Some(process) = &mut self.replicas[replica] else { return Ok(()) };
                let Some(append) = process.append.take() else { return Ok(()) };
                if append.answer.is_none() {
                    let record = append.output.forced().expect("forced").clone();
                    self.limbo.push(((replica, process.life), Shared::new(record)));
                }
                // The driver repeats the batch until the log answers.
                process.append = Some(Shared::new(Append { output: append.output.clone(), answer: None }));
                Ok(())
            }
            Action::ApplyLate => {
                let (writer, record) = self.limbo.remove(0);
                self.log.append(setup.log, writer, &[], Some(&record));
                Ok(())
            }
            Action::Flush { replica } => {
                let Some(process) = &mut self.replicas[replica] else { return Ok(()) };
                let lazy: Vec<Record> = process.lazy.drain(..).map(|record| Record::clone(&record)).collect();
                if self.log.append(setup.log, (replica, process.life), &lazy, None) == Answer::Fenced {
                    self.stop(replica);
                }
                Ok(())
            }
            Action::Fire { replica, timer } => {
                if let Timer::Attempt { .. } = timer {
                    self.left.timeouts = self.left.timeouts.saturating_sub(1);
                }
                if let Some(process) = &mut self.replicas[replica] {
                    process.timers.remove(&timer);
                }
                self.takes(replica, Event::TimerFired(timer))
            }
            Action::Break { replica, step } => {
                self.left.breaks -= 1;
                let participant = setup.definition.step(StepIndex(step)).participant.clone();
                self.takes(replica, Event::Left { participant: participant.clone(), instance: INSTANCE })?;
                self.takes(replica, Event::Joined { participant })
            }
            Action::Start { replica } => self.start(setup, replica),
            Action::Undo { replica } => {
                self.left.requests -= 1;
                self.wants_undo = true;
                let caller = Caller { session: 90, request: 1 };
                self.takes(replica, Event::CompensateRequested { reason: "enough".into(), caller })
            }
            Action::Unpause { replica } => self.takes(replica, Event::ResumeRequested),
            Action::Crash { replica } => {
                self.left.crashes -= 1;
                let process = self.replicas[replica].take();
                if let Some((life, append)) = process.and_then(|process| Some((process.life, process.append?)))
                    && append.answer.is_none()
                {
                    // What it had sent to the storage may still be carried out.
                    let record = append.output.forced().expect("forced").clone();
                    self.limbo.push(((replica, life), Shared::new(record)));
                }
                self.stop(replica);
                Ok(())
            }
            Action::StartReplica { replica } => {
                self.start_replica(replica);
                Ok(())
            }
            Action::TakeOver => {
                self.left.take_overs -= 1;
                self.log.lives[0] = 0;
                self.log.owner = 1;
                let epoch = self.draw_epoch();
                if let Some(process) = &mut self.replicas[1] {
                    process.epoch = epoch;
                }
                self.listens = None;
                Ok(())
            }
            Action::Resume { replica } => {
                let Some(process) = &self.replicas[replica] else { return Ok(()) };
                let Some(kept) = self.log.kept() else { return Ok(()) };
                let recovered = Saga::recover(Epoch(process.epoch), kept);
                self.install(replica, recovered.map_err(|error| (MACHINE, error.to_string()))?)
            }
            Action::FailOver => {
                self.log.lose_its_tail();
                Ok(())
            }
        }
    }

    fn take_request(&mut self, setup: &Setup, packet: Packet, verdict: Verdict, has_effect: bool) -> Step {
        let Packet::Ask { step, compensation, attempt, epoch, replica } = packet else { return Ok(()) };
        if !compensation && !setup.repeats_actions {
            self.net.remove(&packet);
        }
        match (verdict, compensation) {
            (Verdict::Done, _) => {}
            (Verdict::Refused | Verdict::FinallyRefused, true) => self.left.stuck -= 1,
            (Verdict::Refused | Verdict::FinallyRefused, false) => self.left.refusals -= 1,
            (Verdict::Unknown, _) => self.left.unknowns -= 1,
        }
        let at = usize::from(step);
        let place = self.places[at];
        let steps = setup.definition.steps();
        let mut verdict = verdict;
        if compensation && has_effect {
            let behind = |(_, step): &(usize, &StepDefinition)| step.after.contains(&StepIndex(at as u16));
            if let Some((late, _)) = steps.iter().enumerate().filter(behind).find(|(at, _)| self.places[*at].effect) {
                return Err((REVERSE, format!("{at} is compensated, and {late} behind it still has its effect")));
            }
            self.places[at] = Place { effect: false, closed: true, ..place };
        } else if !compensation && place.closed {
            verdict = Verdict::Refused;
        } else if !compensation && place.effect {
            // Done already: a barrier answers so whatever else goes wrong behind it, unless it cannot answer.
            verdict = if verdict == Verdict::Unknown { Verdict::Unknown } else { Verdict::Done };
        } else if !compensation && (epoch, attempt) <= place.refused_up_to {
            verdict = if verdict == Verdict::Unknown { Verdict::Unknown } else { Verdict::FinallyRefused };
        } else if verdict == Verdict::FinallyRefused {
            self.places[at].refused_up_to = (epoch, attempt);
        } else if !compensation && has_effect {
            if let Some(open) = steps[at].after.iter().find(|before| !self.places[usize::from(before.0)].effect) {
                return Err((EARLY, format!("{at} is executed, and {open:?} before it has no effect")));
            }
            self.places[at].effect = true;
        }
        self.net.insert(Packet::Answer { step, compensation, attempt, epoch, replica, verdict });
        Ok(())
    }

    fn start(&mut self, setup: &Setup, replica: usize) -> Step {
        if self.requests > 0 {
            self.left.requests = self.left.requests.saturating_sub(1);
        }
        if let Some((request, at)) = self.listens.take() {
            self.takes(at, Event::CallerLeft { session: u64::from(request) })?;
        }
        self.requests += 1;
        self.listens = Some((self.requests, replica));
        let caller = Caller { session: u64::from(self.requests), request: 1 };
        if self.saga(replica).is_some() {
            return self.takes(replica, Event::StartRequested { digest: DIGEST, caller, wait: Wait::Ended });
        }
        if let Some(outcome) = self.log.rows.ended {
            return self.hear(caller, &Reply::Ended { outcome, reason: None, outputs: Vec::new() });
        }
        let Some(process) = &self.replicas[replica] else { return Ok(()) };
        if self.log.rows.started.is_some() {
            // It is there, and its driver is about to take it up.
            self.listens = None;
            return Ok(());
        }
        let epoch = Epoch(process.epoch);
        self.install(replica, Saga::start(gtid(), epoch, setup.definition.clone(), DIGEST, 0, caller, Wait::Ended))
    }

    fn hear(&mut self, caller: Caller, reply: &Reply) -> Step {
        let listens = self.listens.is_some_and(|(request, _)| u64::from(request) == caller.session);
        match reply {
            Reply::Ended { outcome, .. } => {
                if self.log.rows.ended != Some(*outcome) {
                    return Err((
                        super::judge::I4,
                        format!("{outcome} is told, and the log has {:?}", self.log.rows.ended),
                    ));
                }
                if listens {
                    self.listens = None;
                    self.told = Some(*outcome);
                }
            }
            Reply::Compensating { .. } if self.log.rows.turned.is_none() => {
                return Err((super::judge::I4, "the turn is told, and the log does not have it".to_owned()));
            }
            // It asks again, and the log answers.
            Reply::Overruled { .. } if listens => self.listens = None,
            Reply::Started | Reply::Compensating { .. } | Reply::PastPivot | Reply::Overruled { .. } => {}
            Reply::KeyReused => return Err((MACHINE, "the same body was refused".to_owned())),
        }
        Ok(())
    }

    // ---- replicas --------------------------------------------------------------------------------------------------

    fn draw_epoch(&mut self) -> u64 {
        self.next_epoch += 1;
        self.next_epoch
    }

    fn start_replica(&mut self, replica: usize) {
        let epoch = self.draw_epoch();
        let life = u8::try_from(epoch).expect("few");
        self.log.lives[replica] = life;
        let (saga, append, lazy, timers) = (None, None, Vec::new(), BTreeSet::new());
        self.replicas[replica] = Some(Replica { life, epoch, saga, append, lazy, timers });
    }

    /// The process is gone, and the sessions with it.
    fn stop(&mut self, replica: usize) {
        self.replicas[replica] = None;
        if self.listens.is_some_and(|(_, at)| at == replica) {
            self.listens = None;
        }
    }

    fn saga(&self, replica: usize) -> Option<&Saga> {
        self.replicas[replica].as_ref()?.saga.as_deref()
    }

    fn install(&mut self, replica: usize, (saga, output): (Saga, Output<Effect>)) -> Step {
        invariant::check_begun(&saga, &output).map_err(|violation| (MACHINE, violation.to_string()))?;
        if let Some(process) = &mut self.replicas[replica] {
            process.saga = Some(Shared::new(saga));
        }
        self.carry_out(replica, output)
    }

    fn takes(&mut self, replica: usize, event: Event) -> Step {
        let Some(before) = self.replicas[replica].as_ref().and_then(|process| process.saga.clone()) else {
            return Ok(());
        };
        CELLS.hit(cells::word(before.stage()), cells::kind(&event));
        let mut saga = Saga::clone(&before);
        let output = saga.handle(event.clone());
        invariant::check(&before, &event, &saga, &output).map_err(|violation| (MACHINE, violation.to_string()))?;
        if let Some(process) = &mut self.replicas[replica] {
            process.saga = Some(Shared::new(saga));
        }
        self.carry_out(replica, output)
    }

    fn carry_out(&mut self, replica: usize, output: Output<Effect>) -> Step {
        if output.forced().is_some() {
            let Some(process) = &mut self.replicas[replica] else { return Ok(()) };
            if process.append.is_some() {
                return Err((MACHINE, "two forced records at a time".to_owned()));
            }
            process.append = Some(Shared::new(Append { output, answer: None }));
            return Ok(());
        }
        match output.split() {
            Parts::Free { lazy, effects } => self.perform(replica, lazy, effects),
            Parts::AfterAppend { .. } => unreachable!("handled above"),
        }
    }

    fn perform(&mut self, replica: usize, lazy: Vec<Record>, effects: Vec<Effect>) -> Step {
        let Some(process) = &mut self.replicas[replica] else { return Ok(()) };
        process.lazy.extend(lazy.into_iter().map(Shared::new));
        let epoch = process.saga.as_ref().map_or(process.epoch, |saga| saga.epoch().0);
        for effect in effects {
            let (step, compensation, attempt) = match effect {
                Effect::Execute { step, attempt, .. } => (step, false, attempt),
                Effect::Compensate { step, attempt, .. } => (step, true, attempt),
                Effect::Reply { to, reply } => {
                    self.hear(to, &reply)?;
                    continue;
                }
                Effect::SetTimer { timer, .. } => {
                    if let Some(process) = &mut self.replicas[replica] {
                        process.timers.insert(timer);
                    }
                    continue;
                }
                Effect::CancelTimer { timer } => {
                    if let Some(process) = &mut self.replicas[replica] {
                        process.timers.remove(&timer);
                    }
                    continue;
                }
            };
            self.net.insert(Packet::Ask { step: step.0, compensation, attempt, epoch, replica });
            self.takes(replica, Event::Sent { step, compensation, attempt, instance: INSTANCE })?;
        }
        if self.saga(replica).is_some_and(Saga::is_ended)
            && let Some(process) = &mut self.replicas[replica]
        {
            process.saga = None;
            process.timers.clear();
        }
        Ok(())
    }

    fn apply(&mut self, setup: &Setup, replica: usize) {
        let Some(process) = &mut self.replicas[replica] else { return };
        let Some(append) = process.append.take() else { return };
        let lazy: Vec<Record> = process.lazy.drain(..).map(|record| Record::clone(&record)).collect();
        let answer = self.log.append(setup.log, (replica, process.life), &lazy, append.output.forced());
        process.append = Some(Shared::new(Append { output: append.output.clone(), answer: Some(answer) }));
    }

    fn answer(&mut self, replica: usize) -> Step {
        let Some(process) = &mut self.replicas[replica] else { return Ok(()) };
        let Some(append) = process.append.take() else { return Ok(()) };
        match append.answer.clone() {
            None | Some(Answer::Nothing) => Ok(()),
            Some(Answer::Fenced) => {
                self.stop(replica);
                Ok(())
            }
            Some(Answer::Appended(appended)) => {
                if let (Appended::Durable(receipt), Parts::AfterAppend { lazy, held, .. }) =
                    (&appended, append.output.clone().split())
                {
                    self.perform(replica, lazy, held.release(receipt))?;
                }
                self.takes(replica, Event::Appended(appended))?;
                self.perform(replica, Vec::new(), Vec::new())
            }
        }
    }

    pub(crate) fn timers(&self, replica: usize) -> BTreeSet<Timer> {
        self.replicas[replica].as_ref().map(|process| process.timers.clone()).unwrap_or_default()
    }
}
