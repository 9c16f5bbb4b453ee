//! The decision: the machine makes it durable where it must, and acts on the log's answer.

use bytes::Bytes;

use super::machine::NO_REQUEST;
use super::{Branch, BranchState, Effect, Order, Reply, State, Timer, TwoPhase};
use crate::durable::{Appended, Output};
use crate::reason::{AbortCode, AbortReason, Wait};
use crate::record::{Decided, Decision, Member, Outcome, Protocol, Record};

impl TwoPhase {
    /// Makes the decision durable; the orders and the answers wait for the receipt.
    pub(super) fn decide(&mut self, decision: Decision) -> Output<Effect> {
        self.stop_preparing(decision);
        let record = Record::Decided(Decided {
            gtid: self.gtid,
            protocol: Protocol::TwoPhase,
            decision,
            members: self.branches.iter().filter(|branch| branch.state.needs_order()).map(Branch::member).collect(),
            digest: self.digest.unwrap_or(NO_REQUEST),
            begun_at_ms: self.begun_at_ms,
            reason: self.reason.as_ref().map(AbortReason::to_line),
        });
        self.state = State::Deciding(decision);
        let mut effects = self.orders_for(decision);
        let outcome = outcome_of(decision);
        for waiter in self.waiters.iter_mut().filter(|waiter| waiter.wait == Wait::Decided) {
            // It is kept until the receipt: should the log overrule the decision, this answer is
            // never released.
            waiter.is_answer_held = true;
            effects.push(Effect::Reply {
                to: waiter.caller,
                reply: Reply::Outcome { outcome, reason: self.reason.clone() },
            });
        }
        Output::after(record, effects)
    }

    pub(super) fn appended(&mut self, appended: &Appended) -> Output<Effect> {
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
            Appended::Overruled { decision, members } => self.overruled(*decision, members),
        }
    }

    /// Another decision stands in the log, or the same one for other branches: the branches of this
    /// machine that it does not name abort.
    pub(super) fn overruled(&mut self, theirs: Decision, members: &[Member]) -> Output<Effect> {
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
        let mut effects = match theirs {
            Decision::Commit => self.abort_outsiders(members),
            Decision::Abort => Vec::new(),
        };
        effects.extend(self.orders_for(theirs));
        self.proceed(theirs, effects)
    }

    /// Orders each branch to abort that the log's commit does not name. The machine does not wait
    /// for its answer: a branch that misses the order inquires, and is told the same from the log.
    fn abort_outsiders(&mut self, members: &[Member]) -> Vec<Effect> {
        let mut effects = Vec::new();
        for branch in self.branches.iter_mut().filter(|branch| branch.state.needs_order()) {
            if !members.iter().any(|member| branch.is(member)) {
                branch.state = BranchState::Outside;
                effects.push(branch.order(Order::Abort));
            }
        }
        effects
    }

    /// The voters of a three-phase transaction have agreed. Their quorum holds the decision, and
    /// each of its records is durable: the log need not have it yet.
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

    pub(super) fn abort(&mut self, reason: AbortReason) -> Output<Effect> {
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

    /// From here on no branch is asked to prepare.
    fn stop_preparing(&mut self, decision: Decision) {
        for branch in &mut self.branches {
            branch.payload = Bytes::new();
            if decision == Decision::Abort && branch.state == BranchState::Committed {
                branch.state = BranchState::HeuristicCommitted;
            }
        }
    }

    /// Commits a transaction in which no branch waits for a decision: it is logged only where the
    /// request may come again.
    pub(super) fn commit_unprepared(&mut self) -> Output<Effect> {
        if self.may_recur {
            return self.decide(Decision::Commit);
        }
        self.end(Outcome::Committed, Vec::new())
    }
}

fn outcome_of(decision: Decision) -> Outcome {
    match decision {
        Decision::Commit => Outcome::Committed,
        Decision::Abort => Outcome::Aborted,
    }
}
