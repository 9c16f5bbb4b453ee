//! Preparing: the branches are asked, vote, come and go, and may run out of time.

use bytes::Bytes;

use super::{BranchState, Effect, Order, Route, State, Timer, TwoPhase, Vote};
use crate::durable::Output;
use crate::ids::{InstanceId, ParticipantName};
use crate::reason::{AbortCode, AbortReason};
use crate::record::{Decision, Member, Outcome};

impl TwoPhase {
    /// Freezes the roster and asks those who have not voted.
    pub(super) fn prepare(&mut self, one_phase: bool) -> Output<Effect> {
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
    pub(super) fn ask(&mut self, one_phase: bool) -> Vec<Effect> {
        let named = self.branches.iter_mut().filter(|branch| branch.state == BranchState::Named);
        named
            .map(|branch| {
                branch.state = BranchState::Asked;
                branch.order(Order::Prepare { payload: branch.payload.clone(), one_phase })
            })
            .collect()
    }

    pub(super) fn routed(&mut self, participant: &ParticipantName, to: Route) -> Output<Effect> {
        let Some(position) = self.position(participant) else { return Output::none() };
        let one_phase = self.state == State::OnePhase;
        let branch = &mut self.branches[position];
        let is_asked = branch.state == BranchState::Asked;
        // What is told of later orders changes nothing: they are repeated by the resend timer, or
        // when somebody joins.
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
                    // One-phase may have to be asked again; every other prepare is handed over
                    // once.
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
            // Who was never there has nothing prepared; were it otherwise, its inquiry would still
            // be answered by an abort.
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

    pub(super) fn voted(&mut self, member: Member, instance: InstanceId, vote: Vote) -> Output<Effect> {
        let Some(position) = self.position_of(&member) else {
            // Not in the roster: whatever it prepared has to be undone.
            return self.tell_stranger(member, instance);
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
                // What one instance says, another may contradict: only an abort that is
                // acknowledged keeps all of them from committing.
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
        // An instance that was not asked speaks of an earlier life of this transaction. If it is
        // prepared, it will inquire.
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
                // It was asked to commit by itself in an earlier life of this transaction, and did.
                // That is more than a yes; should another branch refuse, it is a heuristic.
                branch.state = BranchState::Committed;
                self.decide_if_all_voted()
            }
        }
    }

    pub(super) fn decide_if_all_voted(&mut self) -> Output<Effect> {
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

    pub(super) fn joined(&mut self, participant: &ParticipantName) -> Output<Effect> {
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

    pub(super) fn left(&mut self, participant: &ParticipantName, instance: InstanceId) -> Output<Effect> {
        let Some(position) = self.position(participant) else { return Output::none() };
        let branch = &mut self.branches[position];
        let was_asked = branch.state == BranchState::Asked && branch.instance == Some(instance);
        match self.state {
            State::Preparing if was_asked => {
                // Another instance is not asked instead: the first may still be at work, and would
                // prepare beside it.
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

    pub(super) fn deadline_passed(&mut self) -> Output<Effect> {
        let may_abort = match self.state {
            State::Active | State::Preparing => true,
            State::Delegating => {
                // The record may be durable already: the abort is decided over it, once the log has
                // answered.
                let message = "the log did not take the delegation to the only branch in time";
                self.reason.get_or_insert_with(|| AbortReason::new(AbortCode::DeadlineExceeded, message));
                return Output::none();
            }
            State::OnePhase if self.was_never_asked() => true,
            // It may have committed by itself, so only its answer ends this; and the first question
            // may have been lost.
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

    pub(super) fn absence_passed(&mut self) -> Output<Effect> {
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

    fn absence_timer(&self) -> Effect {
        Effect::SetTimer { timer: Timer::Absence, after_ms: self.absence_ms, jitter: false }
    }
}
