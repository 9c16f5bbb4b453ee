//! The transitions.

use bytes::Bytes;

use super::{
    Branch, BranchResult, BranchState, CarriedBranch, EarlyVote, Effect, Event, Order, Patience, RESEND_INITIAL_MS,
    RESEND_MAX_MS, Reply, Route, State, Timer, TwoPhase, Vote, Waiter,
};
use crate::durable::{Appended, Output};
use crate::ids::{BodyDigest, Caller, Epoch, Gtid, InstanceId, ParticipantName};
use crate::reason::{AbortCode, AbortReason, Refusal, Wait};
use crate::record::{Attempted, Decided, Decision, Delegated, Ended, EndedBranch, Outcome, Protocol, Record};

/// Stands in a record for the digest of a commit request that never came.
const NO_REQUEST: BodyDigest = BodyDigest(0);

impl TwoPhase {
    /// Opens a transaction.
    pub fn begin(gtid: Gtid, epoch: Epoch, begun_at_ms: u64, patience: Patience) -> (Self, Output<Effect>) {
        let mut machine = Self::new(gtid, epoch, begun_at_ms, State::Active);
        machine.absence_ms = patience.absence_ms;
        let deadline = Effect::SetTimer { timer: Timer::Deadline, after_ms: patience.timeout_ms, jitter: false };
        (machine, Output::effects(vec![deadline]))
    }

    /// Takes up a decision that the log holds: every branch that may not have learnt it is told.
    pub fn recover(decided: &Decided, epoch: Epoch) -> (Self, Output<Effect>) {
        let state = match decided.decision {
            Decision::Commit => State::Committing,
            Decision::Abort => State::Aborting,
        };
        let mut machine = Self::new(decided.gtid, epoch, decided.begun_at_ms, state);
        // An abort that was presumed had no request, so any request that comes now is its first.
        machine.digest = (decided.digest != NO_REQUEST).then_some(decided.digest);
        machine.has_open_row = true;
        machine.reason = decided.reason.as_deref().map(AbortReason::from_line);
        machine.branches = decided.participants.iter().map(|name| Branch::prepared(name, None)).collect();
        let mut effects = machine.orders();
        let output = machine.finish_if_all_ended(&mut effects);
        (machine, output.unwrap_or_else(|| Output::effects(effects)))
    }

    /// Takes up a delegation that the log holds. The only branch may have committed by itself: the machine orders it to abort
    /// until it tells.
    pub fn recover_delegated(delegated: &Delegated, epoch: Epoch) -> (Self, Output<Effect>) {
        let mut machine = Self::new(delegated.gtid, epoch, delegated.begun_at_ms, State::Recalling);
        machine.digest = (delegated.digest != NO_REQUEST).then_some(delegated.digest);
        (machine.has_open_row, machine.is_delegated) = (true, true);
        machine.reason = Some(AbortReason::by(
            AbortCode::Forgotten,
            &delegated.participant,
            "the coordinator restarted before the only branch had answered, and that branch had not committed",
        ));
        let participant = delegated.participant.clone();
        machine.branches.push(Branch { participant, state: BranchState::Asked, instance: None, payload: Bytes::new() });
        let orders = machine.orders();
        (machine, Output::effects(orders))
    }

    /// Takes up a three-phase transaction whose voters have yet to agree: the log has 'attempt 1 sent', so every branch voted yes.
    pub(crate) fn resume(attempted: &Attempted, epoch: Epoch) -> Self {
        let mut machine = Self::new(attempted.gtid, epoch, attempted.begun_at_ms, State::Deciding(Decision::Commit));
        machine.digest = (attempted.digest != NO_REQUEST).then_some(attempted.digest);
        machine.may_recur = true;
        let seats = attempted.roster.participants();
        machine.branches = seats.iter().map(|seat| Branch::prepared(&seat.participant, None)).collect();
        machine
    }

    /// Answers the inquiry of a prepared branch about a transaction that nobody knows: the abort is made durable, so
    /// that no commit can come after the answer.
    pub fn presume_abort(
        gtid: Gtid,
        epoch: Epoch,
        now_ms: u64,
        inquirer: ParticipantName,
        instance: InstanceId,
    ) -> (Self, Output<Effect>) {
        let mut machine = Self::new(gtid, epoch, now_ms, State::Deciding(Decision::Abort));
        machine.reason = Some(AbortReason::new(
            AbortCode::Forgotten,
            "a prepared branch asked for a decision that was never made; presumed abort",
        ));
        machine.branches.push(Branch::prepared(&inquirer, Some(instance)));
        let output = machine.decide(Decision::Abort);
        (machine, output)
    }

    /// Answers a commit request for a transaction that was under way before and that nobody knows any more: one that was
    /// begun, or whose request comes again. The abort is made durable; the request itself is handed to the machine as the
    /// next event, and is answered then.
    pub fn forgotten(gtid: Gtid, epoch: Epoch, now_ms: u64, digest: BodyDigest) -> (Self, Output<Effect>) {
        let mut machine = Self::new(gtid, epoch, now_ms, State::Deciding(Decision::Abort));
        machine.digest = Some(digest);
        machine.reason = Some(AbortReason::new(
            AbortCode::Forgotten,
            "the coordinator restarted before it decided; presumed abort: try again as a new transaction",
        ));
        let output = machine.decide(Decision::Abort);
        (machine, output)
    }

    fn new(gtid: Gtid, epoch: Epoch, begun_at_ms: u64, state: State) -> Self {
        Self {
            gtid,
            epoch,
            begun_at_ms,
            absence_ms: 0,
            state,
            branches: Vec::new(),
            digest: None,
            may_recur: false,
            was_asked_elsewhere: false,
            has_open_row: false,
            is_delegated: false,
            is_overruled: false,
            reason: None,
            waiters: Vec::new(),
            resends: 0,
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event) -> Output<Effect> {
        match event {
            Event::BeginRequested { caller } => self.begin_requested(caller),
            Event::Enlisted { participant, instance, vote, caller } => {
                self.enlisted(participant, instance, vote, caller)
            }
            Event::BranchNamed { branch, caller } => self.branch_named(branch, caller),
            Event::CommitRequested { branches, digest, one_phase, may_recur, caller, wait } => {
                self.commit_requested(branches, digest, one_phase, may_recur, Waiter::new(caller, wait))
            }
            Event::AbortRequested { reason, caller } => self.abort_requested(reason, caller),
            Event::OutcomeAwaited { caller, wait } => self.outcome_awaited(Waiter::new(caller, wait)),
            Event::CallerLeft { session } => self.caller_left(session),
            Event::Routed { participant, to } => self.routed(&participant, to),
            Event::Voted { participant, instance, vote } => self.voted(&participant, instance, vote),
            Event::Acknowledged { participant, result } => self.acknowledged(&participant, result),
            Event::Inquired { participant, instance } => self.inquired(&participant, instance),
            Event::Joined { participant } => self.joined(&participant),
            Event::Left { participant, instance } => self.left(&participant, instance),
            Event::TimerFired(Timer::Deadline) => self.deadline_passed(),
            Event::TimerFired(Timer::Absence) => self.absence_passed(),
            Event::TimerFired(Timer::Resend) => self.resend(),
            Event::Appended(appended) => self.appended(&appended),
        }
    }

    // ---- while active -------------------------------------------------------------------------------------------

    fn begin_requested(&mut self, caller: Caller) -> Output<Effect> {
        match self.state {
            State::Active => reply(caller, Reply::Begun),
            State::Preparing | State::Delegating | State::OnePhase | State::Recalling | State::Deciding(_) => {
                refuse(caller, self.frozen())
            }
            State::Committing | State::Aborting | State::Committed | State::Aborted => {
                reply(caller, self.outcome_reply())
            }
        }
    }

    fn enlisted(
        &mut self,
        participant: ParticipantName,
        instance: InstanceId,
        vote: EarlyVote,
        caller: Caller,
    ) -> Output<Effect> {
        let known = self.position(&participant).map(|position| &self.branches[position]);
        if known.is_some_and(|branch| branch.has_enlisted(instance, vote)) {
            // The answer to the first enlistment was lost. A refusal would have the participant undo what counts as its yes.
            return reply(caller, Reply::Enlisted);
        }
        if self.state != State::Active {
            return refuse(caller, self.frozen());
        }
        if known.is_some() {
            return refuse(caller, Refusal::DuplicateBranch(participant));
        }
        let state = match vote {
            EarlyVote::Yes => BranchState::Yes,
            EarlyVote::ReadOnly => BranchState::ReadOnly,
        };
        self.branches.push(Branch { participant, state, instance: Some(instance), payload: Bytes::new() });
        reply(caller, Reply::Enlisted)
    }

    fn branch_named(&mut self, branch: CarriedBranch, caller: Caller) -> Output<Effect> {
        if self.state != State::Active {
            return refuse(caller, self.frozen());
        }
        if let Some(position) = self.position(&branch.participant) {
            let known = &self.branches[position];
            let is_the_same = known.state == BranchState::Named && known.payload == branch.payload;
            return if is_the_same {
                reply(caller, Reply::Enlisted)
            } else {
                refuse(caller, Refusal::DuplicateBranch(branch.participant))
            };
        }
        self.branches.push(Branch::named(branch));
        reply(caller, Reply::Enlisted)
    }

    // ---- commit and abort are asked for ----------------------------------------------------------------------------

    fn commit_requested(
        &mut self,
        carried: Vec<CarriedBranch>,
        digest: BodyDigest,
        one_phase: bool,
        may_recur: bool,
        waiter: Waiter,
    ) -> Output<Effect> {
        if self.digest.is_some_and(|known| known != digest) {
            return refuse(waiter.caller, Refusal::KeyReused);
        }
        match self.state {
            State::Active => {
                if let Some(twice) = self.first_duplicate(&carried) {
                    return refuse(waiter.caller, Refusal::DuplicateBranch(twice));
                }
                self.digest = Some(digest);
                self.may_recur = may_recur;
                self.waiters.push(waiter);
                self.branches.extend(carried.into_iter().map(Branch::named));
                self.prepare(one_phase)
            }
            // It comes again, and may come once more after this answer: then to a coordinator that has forgotten.
            State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Deciding(_)
            | State::Committing
            | State::Aborting
            | State::Committed
            | State::Aborted => self.outcome_awaited(waiter),
        }
    }

    /// Freezes the roster and asks those who have not voted.
    fn prepare(&mut self, one_phase: bool) -> Output<Effect> {
        let asked = self.branches.iter().filter(|branch| branch.state == BranchState::Named).count();
        let voted_yes = self.branches.iter().any(|branch| branch.state == BranchState::Yes);
        if asked == 0 {
            self.state = State::Preparing;
            return self.decide_if_all_voted();
        }
        if one_phase && asked == 1 && !voted_yes {
            return self.delegate();
        }
        self.state = State::Preparing;
        Output::effects(self.ask(false))
    }

    /// Asks each branch that was named and not asked yet.
    fn ask(&mut self, one_phase: bool) -> Vec<Effect> {
        let named = self.branches.iter_mut().filter(|branch| branch.state == BranchState::Named);
        named
            .map(|branch| {
                branch.state = BranchState::Asked;
                branch.order(Order::Prepare { payload: branch.payload.clone(), one_phase })
            })
            .collect()
    }

    // ---- the delegation ----------------------------------------------------------------------------------------------

    /// Leaves the decision to the only branch that was named: once that is durable, the branch is ordered to commit by itself.
    fn delegate(&mut self) -> Output<Effect> {
        let Some(only) = self.branches.iter().find(|branch| branch.state == BranchState::Named) else {
            return Output::none();
        };
        let record = Record::Delegated(Delegated {
            gtid: self.gtid,
            participant: only.participant.clone(),
            digest: self.digest.unwrap_or(NO_REQUEST),
            begun_at_ms: self.begun_at_ms,
        });
        self.state = State::Delegating;
        // The order is not sealed behind the record: were it, a deadline that passes meanwhile could not stop it. It leaves with the
        // receipt, in `delegation_appended`.
        Output::after(record, Vec::new())
    }

    /// The log has answered the delegation.
    fn delegation_appended(&mut self, appended: &Appended) -> Output<Effect> {
        match appended {
            Appended::Durable(receipt) if receipt.gtid() != self.gtid => Output::none(),
            Appended::Undecided => Output::none(),
            Appended::Durable(_) => {
                (self.has_open_row, self.is_delegated) = (true, true);
                if self.reason.is_some() {
                    // The branch was not asked, and is not: but the row is there, and only the log takes it back.
                    return self.decide(Decision::Abort);
                }
                self.state = State::OnePhase;
                Output::effects(self.ask(true))
            }
            Appended::Overruled(theirs) => self.overruled(*theirs),
        }
    }

    /// The only branch may have committed by itself, or may still do so: the machine orders it to abort, and it tells.
    fn recall(&mut self) -> Output<Effect> {
        self.state = State::Recalling;
        self.resends = 0;
        Output::effects(self.orders())
    }

    /// The only branch has told how the transaction ended. It tells the same whenever it is asked, and the delegation stands in the log
    /// until the end does, so nothing more has to be durable before others are told.
    fn end_delegation(&mut self, outcome: Outcome) -> Output<Effect> {
        if outcome == Outcome::Committed {
            self.reason = None;
        }
        self.end(outcome, Vec::new())
    }

    fn abort_requested(&mut self, reason: String, caller: Caller) -> Output<Effect> {
        match self.state {
            State::Active | State::Preparing => {
                // A commit request may be under way that its sender may repeat; it must not find that nothing is known.
                self.may_recur |= self.digest.is_some();
                self.waiters.push(Waiter::new(caller, Wait::Decided));
                self.abort(AbortReason::new(AbortCode::Requested, reason))
            }
            State::Delegating => {
                // The record may be durable already: the abort is decided over it, once the log has answered.
                self.reason.get_or_insert_with(|| AbortReason::new(AbortCode::Requested, reason));
                self.outcome_awaited(Waiter::new(caller, Wait::Decided))
            }
            // Too late to ask: the outcome is the answer.
            State::OnePhase
            | State::Recalling
            | State::Deciding(_)
            | State::Committing
            | State::Aborting
            | State::Committed
            | State::Aborted => self.outcome_awaited(Waiter::new(caller, Wait::Decided)),
        }
    }

    fn outcome_awaited(&mut self, waiter: Waiter) -> Output<Effect> {
        // Whoever is told here may not be the initiator, whose request may come again: it must not run anew after a crash.
        self.may_recur |= self.digest.is_some();
        let is_due = match self.state {
            State::Active
            | State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Deciding(_) => false,
            State::Aborting if self.may_recur && !self.has_open_row => {
                self.waiters.push(waiter);
                return self.decide(Decision::Abort);
            }
            State::Committing | State::Aborting => waiter.wait == Wait::Decided,
            State::Committed | State::Aborted => true,
        };
        if is_due {
            return reply(waiter.caller, self.outcome_reply());
        }
        self.waiters.push(waiter);
        Output::none()
    }

    fn caller_left(&mut self, session: u64) -> Output<Effect> {
        self.waiters.retain(|waiter| waiter.caller.session != session);
        Output::none()
    }

    // ---- votes -----------------------------------------------------------------------------------------------------

    fn routed(&mut self, participant: &ParticipantName, to: Route) -> Output<Effect> {
        let Some(position) = self.position(participant) else { return Output::none() };
        let one_phase = self.state == State::OnePhase;
        let branch = &mut self.branches[position];
        let is_asked = branch.state == BranchState::Asked;
        // What is told of later orders changes nothing: they are repeated by the resend timer, or when somebody joins.
        let was_handed_over = branch.instance.is_some();
        match (self.state, to) {
            (
                State::Preparing | State::OnePhase | State::Aborting | State::Deciding(Decision::Abort),
                Route::Instance(instance),
            ) if is_asked => {
                if one_phase {
                    self.was_asked_elsewhere |= branch.instance.is_some_and(|earlier| earlier != instance);
                }
                branch.instance = Some(instance);
                if !one_phase {
                    // One-phase may have to be asked again; every other prepare is handed over once.
                    branch.payload = Bytes::new();
                }
                Output::none()
            }
            (State::Preparing | State::OnePhase, Route::Absent) if is_asked && !was_handed_over => {
                branch.state = BranchState::Waiting;
                Output::effects(vec![self.absence_timer()])
            }
            (State::Preparing | State::OnePhase, Route::Unknown) if is_asked && !was_handed_over => {
                branch.state = BranchState::Named;
                let message =
                    format!("no participant named {participant} has ever joined; check the name, or start it");
                let reason = AbortReason::by(AbortCode::ParticipantUnknown, participant, message);
                self.abort(reason)
            }
            // Only a branch that was never asked may be given up.
            (State::OnePhase, Route::Absent | Route::Unknown) if is_asked => Output::effects(vec![self.resend_timer()]),
            // The abort came while the prepare was on its way to nobody: there is nothing to undo.
            (State::Aborting | State::Deciding(Decision::Abort), Route::Absent) if is_asked && !was_handed_over => {
                self.needs_no_order(position)
            }
            // Who was never there has nothing prepared; were it otherwise, its inquiry would still be answered by an abort.
            (State::Aborting | State::Deciding(Decision::Abort), Route::Unknown) => self.needs_no_order(position),
            (
                State::Active
                | State::Preparing
                | State::Delegating
                | State::OnePhase
                | State::Recalling
                | State::Deciding(_)
                | State::Committing
                | State::Aborting
                | State::Committed
                | State::Aborted,
                Route::Instance(_) | Route::Absent | Route::Unknown,
            ) => Output::none(),
        }
    }

    /// A branch of an aborting transaction that was never asked to do anything.
    fn needs_no_order(&mut self, position: usize) -> Output<Effect> {
        let branch = &mut self.branches[position];
        if !branch.state.needs_order() {
            return Output::none();
        }
        branch.state = BranchState::Named;
        self.finish_if_all_ended(&mut Vec::new()).unwrap_or_else(Output::none)
    }

    fn voted(&mut self, participant: &ParticipantName, instance: InstanceId, vote: Vote) -> Output<Effect> {
        let Some(position) = self.position(participant) else {
            // Not in the roster: whatever it prepared has to be undone.
            return self.tell_stranger(participant, instance);
        };
        match self.state {
            State::Preparing => self.vote_counted(position, instance, vote),
            State::OnePhase => self.one_phase_answered(position, instance, vote),
            State::Recalling => match vote {
                Vote::Committed => {
                    let branch = &mut self.branches[position];
                    if !branch.state.needs_order() {
                        return Output::none();
                    }
                    branch.state = BranchState::Committed;
                    self.end_delegation(Outcome::Committed)
                }
                // What one instance says, another may contradict: only an abort that is acknowledged keeps all of them from committing.
                Vote::Yes | Vote::ReadOnly | Vote::No(_) | Vote::Unknown(_) => self.repeat_order(position, instance),
            },
            State::Active | State::Delegating | State::Deciding(_) => Output::none(),
            State::Committing | State::Aborting | State::Committed | State::Aborted => match vote {
                // It is prepared, or may be, and has to learn the decision.
                Vote::Yes | Vote::Unknown(_) => self.repeat_order(position, instance),
                // It has nothing to undo; the acknowledgement that it owes is implied.
                Vote::No(_) | Vote::ReadOnly => self.late_no(position),
                Vote::Committed => Output::none(),
            },
        }
    }

    fn vote_counted(&mut self, position: usize, instance: InstanceId, vote: Vote) -> Output<Effect> {
        let branch = &mut self.branches[position];
        // An instance that was not asked speaks of an earlier life of this transaction. If it is prepared, it will inquire.
        if branch.state != BranchState::Asked || branch.instance.is_some_and(|asked| asked != instance) {
            return Output::none();
        }
        branch.instance = Some(instance);
        match vote {
            Vote::Yes => {
                branch.state = BranchState::Yes;
                self.decide_if_all_voted()
            }
            Vote::ReadOnly => {
                branch.state = BranchState::ReadOnly;
                self.decide_if_all_voted()
            }
            Vote::No(message) => {
                branch.state = BranchState::No;
                let reason = AbortReason::by(AbortCode::Refused, &branch.participant, message);
                self.abort(reason)
            }
            Vote::Unknown(message) => {
                branch.state = BranchState::Unknown;
                let reason = AbortReason::by(AbortCode::PrepareFailed, &branch.participant, message);
                self.abort(reason)
            }
            Vote::Committed => {
                // It was asked to commit by itself in an earlier life of this transaction, and did. That is more than a yes;
                // should another branch refuse, it is a heuristic.
                branch.state = BranchState::Committed;
                self.decide_if_all_voted()
            }
        }
    }

    fn one_phase_answered(&mut self, position: usize, instance: InstanceId, vote: Vote) -> Output<Effect> {
        let branch = &mut self.branches[position];
        if branch.state != BranchState::Asked {
            return Output::none();
        }
        let was_asked_elsewhere = self.was_asked_elsewhere || branch.instance.is_some_and(|asked| asked != instance);
        branch.instance = Some(instance);
        match vote {
            Vote::Committed => {
                branch.state = BranchState::Committed;
                self.end_delegation(Outcome::Committed)
            }
            Vote::ReadOnly => {
                // It keeps nothing by which it could tell once more: recalled, it would acknowledge an abort.
                branch.state = BranchState::ReadOnly;
                self.decide(Decision::Commit)
            }
            Vote::No(message) => {
                self.reason = Some(AbortReason::by(AbortCode::Refused, &branch.participant, message));
                if was_asked_elsewhere {
                    return self.recall();
                }
                branch.state = BranchState::No;
                self.end_delegation(Outcome::Aborted)
            }
            Vote::Yes => {
                branch.state = BranchState::Yes;
                self.state = State::Preparing;
                self.decide_if_all_voted()
            }
            // It may have committed: only the participant can tell, so it is asked again.
            Vote::Unknown(_) => Output::effects(vec![self.resend_timer()]),
        }
    }

    fn decide_if_all_voted(&mut self) -> Output<Effect> {
        let all_voted = self
            .branches
            .iter()
            .all(|branch| matches!(branch.state, BranchState::Yes | BranchState::ReadOnly | BranchState::Committed));
        if !all_voted {
            return Output::none();
        }
        if !self.branches.iter().any(|branch| branch.state.needs_order()) {
            // Nobody waits for a decision, so there is none to keep.
            return self.commit_unprepared();
        }
        self.decide(Decision::Commit)
    }

    // ---- the decision ----------------------------------------------------------------------------------------------

    /// Makes the decision durable; the orders and the answers wait for the receipt.
    fn decide(&mut self, decision: Decision) -> Output<Effect> {
        self.stop_preparing(decision);
        let record = Record::Decided(Decided {
            gtid: self.gtid,
            protocol: Protocol::TwoPhase,
            decision,
            participants: self
                .branches
                .iter()
                .filter(|branch| branch.state.needs_order())
                .map(|branch| branch.participant.clone())
                .collect(),
            digest: self.digest.unwrap_or(NO_REQUEST),
            begun_at_ms: self.begun_at_ms,
            reason: self.reason.as_ref().map(AbortReason::to_line),
        });
        self.state = State::Deciding(decision);
        let mut effects = self.orders_for(decision);
        let outcome = outcome_of(decision);
        for waiter in self.waiters.iter_mut().filter(|waiter| waiter.wait == Wait::Decided) {
            // It is kept until the receipt: should the log overrule the decision, this answer is never released.
            waiter.is_answer_held = true;
            effects.push(Effect::Reply {
                to: waiter.caller,
                reply: Reply::Outcome { outcome, reason: self.reason.clone() },
            });
        }
        Output::after(record, effects)
    }

    fn appended(&mut self, appended: &Appended) -> Output<Effect> {
        let ours = match self.state {
            State::Delegating => return self.delegation_appended(appended),
            State::Deciding(ours) => ours,
            State::Active
            | State::Preparing
            | State::OnePhase
            | State::Recalling
            | State::Committing
            | State::Aborting
            | State::Committed
            | State::Aborted => return Output::none(),
        };
        match appended {
            Appended::Durable(receipt) if receipt.gtid() != self.gtid => Output::none(),
            Appended::Undecided => Output::none(),
            Appended::Durable(_) => {
                (self.has_open_row, self.is_delegated) = (true, false);
                self.resends = 0;
                self.waiters.retain(|waiter| !waiter.is_answer_held);
                self.proceed(ours, Vec::new())
            }
            Appended::Overruled(theirs) => self.overruled(*theirs),
        }
    }

    /// Another writer's decision stands in the log.
    fn overruled(&mut self, theirs: Decision) -> Output<Effect> {
        (self.has_open_row, self.is_delegated) = (true, false);
        self.resends = 0;
        // The held orders and answers are never released; these take their place.
        self.is_overruled = true;
        self.reason = match theirs {
            Decision::Commit => None,
            Decision::Abort => {
                let message = "a prepared branch had asked before the commit was durable; presumed abort";
                Some(AbortReason::new(AbortCode::Forgotten, message))
            }
        };
        self.stop_preparing(theirs);
        let effects = self.orders_for(theirs);
        self.proceed(theirs, effects)
    }

    /// The voters of a three-phase transaction have agreed. Their quorum holds the decision, and each of its records is durable:
    /// the log need not have it yet.
    pub(crate) fn agreed(&mut self, decision: Decision, reason: Option<AbortReason>) -> Output<Effect> {
        match (self.state, decision) {
            (State::Deciding(Decision::Commit), Decision::Commit | Decision::Abort) => {
                self.has_open_row = true;
                self.resends = 0;
                self.reason = reason;
                self.stop_preparing(decision);
                // The held orders and answers are never released; these take their place.
                let effects = self.orders_for(decision);
                self.proceed(decision, effects)
            }
            (State::Active | State::Preparing, Decision::Abort) => {
                let message = "its voters ended it before every vote was in";
                self.abort(reason.unwrap_or_else(|| AbortReason::new(AbortCode::Forgotten, message)))
            }
            (State::Active | State::Preparing, Decision::Commit)
            | (
                // The log has its own word to say about an abort that was to be logged.
                State::Deciding(Decision::Abort)
                | State::Delegating
                | State::OnePhase
                | State::Recalling
                | State::Committing
                | State::Aborting
                | State::Committed
                | State::Aborted,
                Decision::Commit | Decision::Abort,
            ) => Output::none(),
        }
    }

    /// The decision is certain: whoever waits is told.
    fn proceed(&mut self, decision: Decision, mut effects: Vec<Effect>) -> Output<Effect> {
        self.state = match decision {
            Decision::Commit => State::Committing,
            Decision::Abort => State::Aborting,
        };
        self.reply_to_decided(&mut effects);
        self.finish_if_all_ended(&mut effects).unwrap_or_else(|| {
            effects.push(self.resend_timer());
            Output::effects(effects)
        })
    }

    fn abort(&mut self, reason: AbortReason) -> Output<Effect> {
        self.reason = Some(reason);
        // A delegation that was never ordered stands in the log: only the log takes it back.
        if self.may_recur || self.is_delegated {
            return self.decide(Decision::Abort);
        }
        self.stop_preparing(Decision::Abort);
        self.state = State::Aborting;
        self.resends = 0;
        let mut effects = self.orders();
        effects.push(Effect::CancelTimer(Timer::Absence));
        self.reply_to_decided(&mut effects);
        self.finish_if_all_ended(&mut effects).unwrap_or_else(|| Output::effects(effects))
    }

    // ---- after the decision ----------------------------------------------------------------------------------------

    fn acknowledged(&mut self, participant: &ParticipantName, result: BranchResult) -> Output<Effect> {
        let Some(position) = self.position(participant) else { return Output::none() };
        let decision = match self.state {
            State::Recalling => return self.recalled(position, result),
            State::Committing => Decision::Commit,
            State::Aborting => Decision::Abort,
            State::Active
            | State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Deciding(_)
            | State::Committed
            | State::Aborted => return Output::none(),
        };
        let branch = &mut self.branches[position];
        if !branch.state.needs_order() {
            return Output::none();
        }
        branch.state = match (decision, result) {
            (Decision::Commit, BranchResult::Done | BranchResult::HeuristicCommitted) => BranchState::Committed,
            (Decision::Abort, BranchResult::Done | BranchResult::HeuristicAborted) => BranchState::Aborted,
            (Decision::Commit, BranchResult::HeuristicAborted) => BranchState::HeuristicAborted,
            (Decision::Abort, BranchResult::HeuristicCommitted) => BranchState::HeuristicCommitted,
        };
        self.finish_if_all_ended(&mut Vec::new()).unwrap_or_else(Output::none)
    }

    /// The only branch has obeyed the order to abort, or tells that it is too late.
    fn recalled(&mut self, position: usize, result: BranchResult) -> Output<Effect> {
        let branch = &mut self.branches[position];
        if !branch.state.needs_order() {
            return Output::none();
        }
        match result {
            BranchResult::HeuristicCommitted => {
                branch.state = BranchState::Committed;
                self.end_delegation(Outcome::Committed)
            }
            BranchResult::Done | BranchResult::HeuristicAborted => {
                branch.state = BranchState::Aborted;
                self.end_delegation(Outcome::Aborted)
            }
        }
    }

    fn inquired(&mut self, participant: &ParticipantName, instance: InstanceId) -> Output<Effect> {
        match self.position(participant) {
            Some(position) => self.repeat_order(position, instance),
            None => self.tell_stranger(participant, instance),
        }
    }

    /// A no after the abort: the branch has undone itself.
    fn late_no(&mut self, position: usize) -> Output<Effect> {
        let branch = &mut self.branches[position];
        if self.state != State::Aborting || !matches!(branch.state, BranchState::Asked | BranchState::Unknown) {
            return Output::none();
        }
        branch.state = BranchState::No;
        self.finish_if_all_ended(&mut Vec::new()).unwrap_or_else(Output::none)
    }

    fn repeat_order(&mut self, position: usize, instance: InstanceId) -> Output<Effect> {
        let order = match self.state {
            State::Active | State::Preparing | State::Delegating | State::OnePhase | State::Deciding(_) => {
                return Output::none();
            }
            // It has committed by itself. Were it ordered to, the acknowledgement could reach a coordinator that recalls the delegation.
            State::Committed if self.is_delegated => return Output::none(),
            State::Committing | State::Committed => Order::Commit,
            State::Recalling | State::Aborting | State::Aborted => Order::Abort,
        };
        let branch = &self.branches[position];
        Output::effects(vec![Effect::Send { to: branch.participant.clone(), prefer: Some(instance), order }])
    }

    /// A branch that is prepared but not in the frozen roster can only be aborted.
    fn tell_stranger(&self, participant: &ParticipantName, instance: InstanceId) -> Output<Effect> {
        let is_outside = match self.state {
            // Its enlistment may still be on the way.
            State::Active => false,
            // The log may yet know another decision, and another roster with it. It will ask again.
            State::Deciding(_) => false,
            State::Committing | State::Committed => !self.is_overruled,
            State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Aborting
            | State::Aborted => true,
        };
        if !is_outside {
            return Output::none();
        }
        let order = Order::Abort;
        Output::effects(vec![Effect::Send { to: participant.clone(), prefer: Some(instance), order }])
    }

    // ---- participants come and go, time passes ---------------------------------------------------------------------

    fn joined(&mut self, participant: &ParticipantName) -> Output<Effect> {
        let Some(position) = self.position(participant) else { return Output::none() };
        match self.state {
            State::Preparing | State::OnePhase => {
                let one_phase = self.state == State::OnePhase;
                let branch = &mut self.branches[position];
                let may_ask = branch.state == BranchState::Waiting || (one_phase && branch.state == BranchState::Asked);
                if !may_ask {
                    return Output::none();
                }
                branch.state = BranchState::Asked;
                Output::effects(vec![branch.order(Order::Prepare { payload: branch.payload.clone(), one_phase })])
            }
            State::Committing | State::Aborting | State::Recalling => {
                let order = if self.state == State::Committing { Order::Commit } else { Order::Abort };
                let branch = &self.branches[position];
                if branch.state.needs_order() { Output::effects(vec![branch.order(order)]) } else { Output::none() }
            }
            State::Active | State::Delegating | State::Deciding(_) | State::Committed | State::Aborted => {
                Output::none()
            }
        }
    }

    fn left(&mut self, participant: &ParticipantName, instance: InstanceId) -> Output<Effect> {
        let Some(position) = self.position(participant) else { return Output::none() };
        let branch = &mut self.branches[position];
        let was_asked = branch.state == BranchState::Asked && branch.instance == Some(instance);
        match self.state {
            State::Preparing if was_asked => {
                // Another instance is not asked instead: the first may still be at work, and would prepare beside it.
                branch.state = BranchState::Unknown;
                let message = "the instance that was asked to prepare went away before it voted; try again";
                let reason = AbortReason::by(AbortCode::ParticipantLost, participant, message);
                self.abort(reason)
            }
            State::OnePhase if was_asked => Output::effects(vec![self.resend_timer()]),
            State::Active
            | State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Deciding(_)
            | State::Committing
            | State::Aborting
            | State::Committed
            | State::Aborted => Output::none(),
        }
    }

    fn deadline_passed(&mut self) -> Output<Effect> {
        let may_abort = match self.state {
            State::Active | State::Preparing => true,
            State::Delegating => {
                // The record may be durable already: the abort is decided over it, once the log has answered.
                let message = "the log did not take the delegation to the only branch in time";
                self.reason.get_or_insert_with(|| AbortReason::new(AbortCode::DeadlineExceeded, message));
                return Output::none();
            }
            State::OnePhase if self.was_never_asked() => true,
            // It may have committed by itself, so only its answer ends this; and the first question may have been lost.
            State::OnePhase => return self.resend(),
            State::Recalling
            | State::Deciding(_)
            | State::Committing
            | State::Aborting
            | State::Committed
            | State::Aborted => false,
        };
        if !may_abort {
            return Output::none();
        }
        let silent: Vec<&str> = self
            .branches
            .iter()
            .filter(|branch| matches!(branch.state, BranchState::Asked | BranchState::Waiting))
            .map(|branch| branch.participant.as_str())
            .collect();
        let message = if silent.is_empty() {
            "commit was not asked for in time".to_owned()
        } else {
            format!("no vote in time from {}", silent.join(", "))
        };
        self.abort(AbortReason::new(AbortCode::DeadlineExceeded, message))
    }

    fn absence_passed(&mut self) -> Output<Effect> {
        match self.state {
            State::Preparing => {}
            State::OnePhase if self.was_never_asked() => {}
            State::Active
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Deciding(_)
            | State::Committing
            | State::Aborting
            | State::Committed
            | State::Aborted => return Output::none(),
        }
        let Some(absent) = self.branches.iter().find(|branch| branch.state == BranchState::Waiting) else {
            return Output::none();
        };
        let message = "no instance of it is connected; try again when one is";
        let reason = AbortReason::by(AbortCode::ParticipantUnavailable, &absent.participant, message);
        self.abort(reason)
    }

    fn resend(&mut self) -> Output<Effect> {
        let mut effects = match self.state {
            State::Committing | State::Aborting | State::Recalling => self.orders(),
            State::OnePhase => self
                .branches
                .iter()
                .filter(|branch| branch.state == BranchState::Asked)
                .map(|branch| branch.order(Order::Prepare { payload: branch.payload.clone(), one_phase: true }))
                .collect(),
            State::Active
            | State::Preparing
            | State::Delegating
            | State::Deciding(_)
            | State::Committed
            | State::Aborted => return Output::none(),
        };
        self.resends = self.resends.saturating_add(1);
        effects.retain(|effect| !matches!(effect, Effect::SetTimer { .. }));
        effects.push(self.resend_timer());
        Output::effects(effects)
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    fn finish_if_all_ended(&mut self, effects: &mut Vec<Effect>) -> Option<Output<Effect>> {
        if self.branches.iter().any(|branch| branch.state.needs_order()) {
            return None;
        }
        let outcome = match self.state {
            State::Committing => Outcome::Committed,
            State::Aborting => Outcome::Aborted,
            State::Active
            | State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Deciding(_)
            | State::Committed
            | State::Aborted => return None,
        };
        Some(self.end(outcome, std::mem::take(effects)))
    }

    /// Commits a transaction in which no branch waits for a decision: it is logged only where the request may come again.
    fn commit_unprepared(&mut self) -> Output<Effect> {
        if self.may_recur {
            return self.decide(Decision::Commit);
        }
        self.end(Outcome::Committed, Vec::new())
    }

    fn end(&mut self, outcome: Outcome, mut effects: Vec<Effect>) -> Output<Effect> {
        self.state = match outcome {
            Outcome::Committed | Outcome::Completed => State::Committed,
            Outcome::Aborted | Outcome::Compensated => State::Aborted,
        };
        for waiter in std::mem::take(&mut self.waiters) {
            effects.push(Effect::Reply { to: waiter.caller, reply: self.outcome_reply() });
        }
        if self.is_overruled {
            // The row is another writer's, and so is its end: there may be branches that are unknown here.
            return Output::effects(effects);
        }
        let ended = Ended {
            gtid: self.gtid,
            protocol: Protocol::TwoPhase,
            outcome,
            has_open_row: self.has_open_row,
            begun_at_ms: self.begun_at_ms,
            digest: self.digest.unwrap_or(NO_REQUEST),
            reason: self.reason.as_ref().map(AbortReason::to_line),
            branches: self
                .branches
                .iter()
                .map(|branch| EndedBranch {
                    participant: branch.participant.clone(),
                    step: None,
                    end: branch.state.end(),
                })
                .collect(),
            outputs: Vec::new(),
        };
        Output::effects(effects).with_lazy(Record::Ended(ended))
    }

    // ---- what the transitions share ----------------------------------------------------------------------------------

    fn orders_for(&self, decision: Decision) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(self.branches.len() + 2);
        for branch in self.branches.iter().filter(|branch| branch.state.needs_order()) {
            effects.push(branch.order(match decision {
                Decision::Commit => Order::Commit,
                Decision::Abort => Order::Abort,
            }));
        }
        effects
    }

    /// The orders of the present state, and the timer that repeats them.
    fn orders(&self) -> Vec<Effect> {
        let decision = if self.state == State::Committing { Decision::Commit } else { Decision::Abort };
        let mut effects = self.orders_for(decision);
        if !effects.is_empty() {
            effects.push(self.resend_timer());
        }
        effects
    }

    fn resend_timer(&self) -> Effect {
        let after_ms = (RESEND_INITIAL_MS << self.resends.min(10)).min(RESEND_MAX_MS);
        // The first repetition waits in full, so that an answer on its way is not asked for twice.
        Effect::SetTimer { timer: Timer::Resend, after_ms, jitter: self.resends > 0 }
    }

    fn absence_timer(&self) -> Effect {
        Effect::SetTimer { timer: Timer::Absence, after_ms: self.absence_ms, jitter: false }
    }

    /// From here on no branch is asked to prepare.
    fn stop_preparing(&mut self, decision: Decision) {
        for branch in &mut self.branches {
            branch.payload = Bytes::new();
            if decision == Decision::Abort && branch.state == BranchState::Committed {
                branch.state = BranchState::HeuristicCommitted;
            }
        }
    }

    fn reply_to_decided(&mut self, effects: &mut Vec<Effect>) {
        let reply = self.outcome_reply();
        for waiter in self.waiters.extract_if(.., |waiter| waiter.wait == Wait::Decided) {
            effects.push(Effect::Reply { to: waiter.caller, reply: reply.clone() });
        }
    }

    fn outcome_reply(&self) -> Reply {
        let outcome = match self.state {
            State::Committing | State::Committed => Outcome::Committed,
            State::Aborting | State::Aborted => Outcome::Aborted,
            State::Active
            | State::Preparing
            | State::Delegating
            | State::OnePhase
            | State::Recalling
            | State::Deciding(_) => {
                unreachable!("an outcome is told only once there is one")
            }
        };
        let reason = if outcome == Outcome::Aborted { self.reason.clone() } else { None };
        Reply::Outcome { outcome, reason }
    }

    fn frozen(&self) -> Refusal {
        Refusal::RosterFrozen { state: self.state_word().to_owned() }
    }

    pub(crate) fn position(&self, participant: &ParticipantName) -> Option<usize> {
        self.branches.iter().position(|branch| branch.participant == *participant)
    }

    fn first_duplicate(&self, carried: &[CarriedBranch]) -> Option<ParticipantName> {
        carried
            .iter()
            .enumerate()
            .find(|(at, branch)| {
                self.position(&branch.participant).is_some()
                    || carried[..*at].iter().any(|earlier| earlier.participant == branch.participant)
            })
            .map(|(_, branch)| branch.participant.clone())
    }

    /// Whether the only branch cannot have committed by itself: it was not asked.
    fn was_never_asked(&self) -> bool {
        self.branches.iter().all(|branch| branch.state != BranchState::Asked)
    }
}

impl Branch {
    fn named(carried: CarriedBranch) -> Self {
        Self { participant: carried.participant, state: BranchState::Named, instance: None, payload: carried.payload }
    }

    /// Whether this is the branch that the same enlistment has made before.
    fn has_enlisted(&self, instance: InstanceId, vote: EarlyVote) -> bool {
        let is_the_same_vote = match vote {
            EarlyVote::Yes => matches!(self.state, BranchState::Yes | BranchState::Committed),
            EarlyVote::ReadOnly => self.state == BranchState::ReadOnly,
        };
        is_the_same_vote && self.instance == Some(instance)
    }

    fn prepared(participant: &ParticipantName, instance: Option<InstanceId>) -> Self {
        Self { participant: participant.clone(), state: BranchState::Yes, instance, payload: Bytes::new() }
    }

    fn order(&self, order: Order) -> Effect {
        Effect::Send { to: self.participant.clone(), prefer: self.instance, order }
    }
}

impl Waiter {
    fn new(caller: Caller, wait: Wait) -> Self {
        Self { caller, wait, is_answer_held: false }
    }
}

fn outcome_of(decision: Decision) -> Outcome {
    match decision {
        Decision::Commit => Outcome::Committed,
        Decision::Abort => Outcome::Aborted,
    }
}

fn reply(to: Caller, reply: Reply) -> Output<Effect> {
    Output::effects(vec![Effect::Reply { to, reply }])
}

fn refuse(to: Caller, refusal: Refusal) -> Output<Effect> {
    reply(to, Reply::Refused(refusal))
}
