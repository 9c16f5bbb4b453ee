//! A replica of the coordinator: the machine, and the driver around it.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use assent_protocol::branch::Message;
use assent_protocol::ids::BranchId;
use assent_protocol::record::Member;
use assent_protocol::two_phase::{
    CarriedBranch, Effect, Event, Order, Patience, Reply, Timer, TwoPhase, Vote, invariant,
};
use assent_protocol::{
    AbortCode, AbortReason, Appended, BodyDigest, BranchEnd, Caller, Decision, Epoch, InstanceId, Outcome, Output,
    ParticipantName, Parts, Record, Wait,
};

use crate::gtid;
use crate::log::Log;
use crate::net::{Net, Request};
use crate::participant::{Heard, Said};

const DIGEST: BodyDigest = BodyDigest(7);

/// The driver around the machine: a sound one, and mistakes that the machine cannot prevent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Driver {
    /// A commit request that comes again, and of which nobody knows, meets a presumed abort; only a lone branch, which was never
    /// ordered to commit by itself then, is asked again. An inquiry about an unknown transaction aborts it, and so does a yes.
    Sound,
    /// Such a request runs as if it were the first.
    RunsAnew,
    /// It does, and its branches have the ids that those of the first had.
    RunsAnewUnderTheSameIds,
    /// A delegation that is found in the log is taken for an abort.
    PresumesAbortOfADelegation,
}

/// What the requests look like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ask {
    /// Opened by a begin; else the commit carries the branches.
    pub(crate) is_begun: bool,
    /// A call that may be repeated without saying so.
    pub(crate) is_unary: bool,
    pub(crate) one_phase: bool,
    pub(crate) wait: Wait,
    pub(crate) roster: Vec<ParticipantName>,
}

/// A forced record on its way, with the output that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Append {
    output: Output<Effect>,
    /// The log's answer, once it has been applied and nobody has heard of it yet.
    answer: Option<Appended>,
}

impl Hash for Append {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.output.forced().hash(state);
        self.output.peek_effects().hash(state);
        format!("{:?}", self.answer).hash(state);
    }
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    at: usize,
    driver: Driver,
    epoch: Epoch,
    pub(crate) machine: Option<TwoPhase>,
    pub(crate) timers: BTreeSet<Timer>,
    pub(crate) append: Option<Append>,
    pub(crate) lazy: Vec<Record>,
    /// How many branches were given an id.
    branches: u64,
}

impl Replica {
    /// Starts a process; it takes up what it has left open in the log.
    pub(crate) fn start(at: usize, driver: Driver, epoch: Epoch, log: &Log, net: &mut Net) -> Result<Self, String> {
        let mut replica = Self {
            at,
            driver,
            epoch,
            machine: None,
            timers: BTreeSet::new(),
            append: None,
            lazy: Vec::new(),
            branches: 0,
        };
        if at == log.owner {
            if let Some(decided) = &log.open {
                replica.install(TwoPhase::recover(decided, epoch), net)?;
            } else if let Some(delegated) = &log.delegated {
                if driver == Driver::PresumesAbortOfADelegation {
                    let (whose, instance) = (delegated.member.clone(), InstanceId(0));
                    replica.install(TwoPhase::presume_abort(gtid(), epoch, 0, whose, instance), net)?;
                    return Ok(replica);
                }
                replica.install(TwoPhase::recover_delegated(delegated, epoch), net)?;
            }
        }
        Ok(replica)
    }

    fn install(&mut self, (machine, output): (TwoPhase, Output<Effect>), net: &mut Net) -> Result<(), String> {
        invariant::check_begun(&machine, &output).map_err(|violation| violation.to_string())?;
        self.machine = Some(machine);
        self.carry_out(output, net)
    }

    /// Hands an event to the machine, and whatever follows from it.
    pub(crate) fn take(&mut self, event: Event, net: &mut Net) -> Result<(), String> {
        let Some(mut machine) = self.machine.take() else { return Ok(()) };
        let before = machine.clone();
        let output = machine.handle(event.clone());
        invariant::check(&before, &event, &machine, &output).map_err(|violation| violation.to_string())?;
        self.machine = Some(machine);
        self.carry_out(output, net)
    }

    fn carry_out(&mut self, output: Output<Effect>, net: &mut Net) -> Result<(), String> {
        match output.clone().split() {
            Parts::AfterAppend { .. } => {
                if self.append.is_some() {
                    return Err("two forced records at a time".to_owned());
                }
                self.append = Some(Append { output, answer: None });
                Ok(())
            }
            Parts::Free { lazy, effects } => {
                self.lazy.extend(lazy);
                self.perform(effects, net)
            }
        }
    }

    fn perform(&mut self, effects: Vec<Effect>, net: &mut Net) -> Result<(), String> {
        let mut routed = VecDeque::new();
        for effect in effects {
            match effect {
                Effect::Send { to, branch, prefer, order } => {
                    let epoch = self.epoch;
                    let heard = match order {
                        Order::Prepare { payload, one_phase } => {
                            if payload.is_empty() {
                                return Err(format!("{to} is asked to prepare without its payload"));
                            }
                            Heard::Prepare { branch, epoch, one_phase }
                        }
                        Order::Commit => Heard::Decided { branch, epoch, decision: Decision::Commit },
                        Order::Abort => Heard::Decided { branch, epoch, decision: Decision::Abort },
                    };
                    let route = net.route(self.at, &to, prefer, heard);
                    routed.push_back(Event::Routed { participant: to, to: route });
                }
                Effect::Reply { to, reply } => match enlisting(to) {
                    Some(instance) => {
                        if let Some(link) = net.links.get_mut(&(self.at, instance)) {
                            link.heard.push_back(Heard::Enlisted(reply == Reply::Enlisted));
                        }
                    }
                    None => net.reply(to, Some(reply)),
                },
                Effect::SetTimer { timer, .. } => {
                    self.timers.insert(timer);
                }
                Effect::CancelTimer(timer) => {
                    self.timers.remove(&timer);
                }
            }
        }
        for event in routed {
            self.take(event, net)?;
        }
        self.forget_if_logged();
        Ok(())
    }

    /// An ended machine answers until its end has reached the log, which answers from then on.
    fn forget_if_logged(&mut self) {
        if self.machine.as_ref().is_some_and(TwoPhase::is_ended) {
            self.timers.clear();
            if self.lazy.is_empty() {
                self.machine = None;
            }
        }
    }

    pub(crate) fn may_apply(&self) -> bool {
        self.append.as_ref().is_some_and(|append| append.answer.is_none())
    }

    pub(crate) fn may_answer(&self) -> bool {
        self.append.as_ref().is_some_and(|append| append.answer.is_some())
    }

    /// The log applies the record; nobody knows yet.
    pub(crate) fn apply(&mut self, log: &mut Log) {
        self.flush(log);
        if let Some(append) = &mut self.append {
            let record = append.output.forced().expect("only forced records are waited for");
            append.answer = Some(log.append(self.at, record));
        }
    }

    /// The answer of the append was lost: the committer repeats the very same batch.
    pub(crate) fn repeat_append(&mut self, log: &mut Log) -> Result<(), String> {
        let Some(append) = &mut self.append else { return Ok(()) };
        let again = log.append(self.at, append.output.forced().expect("only forced records are waited for"));
        match &append.answer {
            Some(answer) if *answer != again => Err(format!("the log said {answer:?} and then {again:?}")),
            Some(_) | None => Ok(()),
        }
    }

    /// The committer hears the log's answer.
    pub(crate) fn answer(&mut self, net: &mut Net) -> Result<(), String> {
        let Some(Append { output, answer: Some(answer) }) = self.append.take() else { return Ok(()) };
        if let (Appended::Durable(receipt), Parts::AfterAppend { lazy, held, .. }) = (&answer, output.split()) {
            self.lazy.extend(lazy);
            self.perform(held.release(receipt), net)?;
        }
        self.take(Event::Appended(answer), net)?;
        self.perform(Vec::new(), net)
    }

    pub(crate) fn flush(&mut self, log: &mut Log) {
        for record in self.lazy.drain(..) {
            log.append_lazily(&record);
        }
        self.forget_if_logged();
    }

    pub(crate) fn fire(&mut self, timer: Timer, net: &mut Net) -> Result<(), String> {
        self.timers.remove(&timer);
        self.take(Event::TimerFired(timer), net)
    }

    // ---- what sessions bring ---------------------------------------------------------------------------------------

    pub(crate) fn said(
        &mut self,
        participant: ParticipantName,
        instance: InstanceId,
        said: Said,
        log: &Log,
        net: &mut Net,
    ) -> Result<(), String> {
        match said {
            // A yes of which nobody knows is as good as an inquiry. An unknown is not: it may be an only branch's.
            Said::Message(branch, Message::Vote(Vote::Yes)) if self.machine.is_none() => {
                self.inquired(Member { participant, branch }, instance, log, net)
            }
            Said::Message(branch, Message::Vote(vote)) => {
                self.take(Event::Voted { participant, branch, instance, vote }, net)
            }
            Said::Message(branch, Message::Acknowledge(acknowledgement)) => {
                self.take(Event::Acknowledged { participant, branch, acknowledgement }, net)
            }
            Said::Message(branch, Message::Inquire) if self.machine.is_some() => {
                self.take(Event::Inquired { participant, branch, instance }, net)
            }
            Said::Message(branch, Message::Inquire) => {
                self.inquired(Member { participant, branch }, instance, log, net)
            }
            Said::Enlist(branch, vote) => {
                let caller = Caller { session: ENLISTING, request: instance.0 };
                if self.machine.is_some() {
                    return self.take(Event::Enlisted { participant, branch, instance, vote, caller }, net);
                }
                if let Some(link) = net.links.get_mut(&(self.at, instance)) {
                    link.heard.push_back(Heard::Enlisted(false));
                }
                Ok(())
            }
        }
    }

    /// An inquiry about a transaction that is not in memory.
    fn inquired(&mut self, inquirer: Member, instance: InstanceId, log: &Log, net: &mut Net) -> Result<(), String> {
        // The log answers for a transaction that another replica drives.
        if log.delegated.is_some() {
            return Ok(());
        }
        if let Some(open) = &log.open {
            let takes_part = open.members.contains(&inquirer);
            let decision = if takes_part { open.decision } else { Decision::Abort };
            self.tell(&inquirer, instance, decision, net);
            return Ok(());
        }
        if let Some(ended) = &log.ended {
            let takes_part = ended.branches.iter().any(|branch| {
                branch.member() == inquirer && matches!(branch.end, BranchEnd::Committed | BranchEnd::HeuristicAborted)
            });
            let decision = match ended.outcome {
                Outcome::Committed | Outcome::Completed if takes_part => Decision::Commit,
                Outcome::Committed | Outcome::Completed | Outcome::Aborted | Outcome::Compensated => Decision::Abort,
            };
            self.tell(&inquirer, instance, decision, net);
            return Ok(());
        }
        self.install(TwoPhase::presume_abort(gtid(), self.epoch, 0, inquirer, instance), net)
    }

    fn tell(&self, member: &Member, instance: InstanceId, decision: Decision, net: &mut Net) {
        let heard = Heard::Decided { branch: member.branch, epoch: self.epoch, decision };
        net.route(self.at, &member.participant, Some(instance), heard);
    }

    /// The first of as many ids for branches as no other process gives.
    fn next_branches(&mut self, count: usize) -> BranchId {
        if self.driver == Driver::RunsAnewUnderTheSameIds {
            return BranchId { epoch: Epoch(0), number: 1_000 };
        }
        let first = self.branches;
        self.branches += count as u64;
        BranchId { epoch: self.epoch, number: first }
    }

    pub(crate) fn joined(&mut self, participant: ParticipantName, net: &mut Net) -> Result<(), String> {
        self.take(Event::Joined { participant }, net)
    }

    pub(crate) fn left(
        &mut self,
        participant: ParticipantName,
        instance: InstanceId,
        net: &mut Net,
    ) -> Result<(), String> {
        self.take(Event::Left { participant, instance }, net)
    }

    // ---- what the initiator asks -----------------------------------------------------------------------------------

    pub(crate) fn requested(
        &mut self,
        caller: Caller,
        request: Request,
        ask: &Ask,
        log: &Log,
        net: &mut Net,
    ) -> Result<(), String> {
        let patience = Patience { timeout_ms: 30_000, absence_ms: 5_000 };
        let event = match request {
            Request::Begin => Event::BeginRequested { caller },
            Request::Abort => Event::AbortRequested { reason: "changed my mind".to_owned(), caller },
            Request::Commit { attempt } => Event::CommitRequested {
                first_id: self.next_branches(ask.roster.len()),
                branches: if ask.is_begun { Vec::new() } else { ask.carried() },
                digest: DIGEST,
                // Only of a participant that is there is it known that it can.
                one_phase: ask.one_phase && !ask.is_begun && ask.roster.iter().all(|it| net.is_there(self.at, it)),
                may_recur: ask.is_unary || attempt > 1,
                caller,
                wait: ask.wait,
            },
        };
        if self.machine.is_some() {
            return self.take(event, net);
        }
        // Ended, or as good as that: its end has not reached the log, or another replica drives it.
        if let Some(decision) = log.decision() {
            let outcome = match decision {
                Decision::Commit => Outcome::Committed,
                Decision::Abort => Outcome::Aborted,
            };
            let reason = log.reason().map(AbortReason::from_line);
            net.reply(caller, Some(Reply::Outcome { outcome, reason }));
            return Ok(());
        }
        if log.delegated.is_some() {
            // Another replica drives it.
            net.reply(caller, None);
            return Ok(());
        }
        // It was never delegated, so its branch has not committed by itself. Nothing else of an earlier life can have survived it.
        let is_lone = !ask.is_begun && ask.one_phase && ask.roster.len() == 1;
        let has_come_before = ask.is_unary || matches!(request, Request::Commit { attempt } if attempt > 1);
        let runs_anew = matches!(self.driver, Driver::RunsAnew | Driver::RunsAnewUnderTheSameIds);
        match request {
            // A begun transaction is aborted by being unknown. A carried one may have a lone branch that has committed by itself:
            // only its commit request, asked again, finds out.
            Request::Abort => {
                let reason = Some(AbortReason::new(AbortCode::Requested, "changed my mind"));
                let reply = ask.is_begun.then_some(Reply::Outcome { outcome: Outcome::Aborted, reason });
                net.reply(caller, reply);
                Ok(())
            }
            Request::Commit { .. } if ask.is_begun => {
                self.install(TwoPhase::forgotten(gtid(), self.epoch, 0, DIGEST), net)?;
                self.take(event, net)
            }
            Request::Commit { .. } if has_come_before && !ask.is_unary && !is_lone && !runs_anew => {
                self.install(TwoPhase::forgotten(gtid(), self.epoch, 0, DIGEST), net)?;
                self.take(event, net)
            }
            Request::Begin | Request::Commit { .. } => {
                self.install(TwoPhase::begin(gtid(), self.epoch, 0, patience), net)?;
                self.take(event, net)
            }
        }
    }

    pub(crate) fn caller_left(&mut self, session: u64, net: &mut Net) -> Result<(), String> {
        self.take(Event::CallerLeft { session }, net)
    }
}

impl Ask {
    fn carried(&self) -> Vec<CarriedBranch> {
        self.roster
            .iter()
            .map(|participant| CarriedBranch { participant: participant.clone(), payload: "work".into() })
            .collect()
    }
}

/// The session number under which instances ask to enlist.
const ENLISTING: u64 = u64::MAX;

fn enlisting(caller: Caller) -> Option<InstanceId> {
    (caller.session == ENLISTING).then_some(InstanceId(caller.request))
}
