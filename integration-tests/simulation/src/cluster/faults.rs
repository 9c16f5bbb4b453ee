//! What can go wrong.

use assent_protocol::Gtid;
use assent_protocol::message::{Ask, Request};
use assent_protocol::replica::Timer;
use assent_protocol::three_phase::participant;

use super::action::{Action, DEADLINE};
use super::bank::Turn;
use super::initiator::{Shape, Stage};
use super::instance::{Instance, Machine};
use super::node::{Node, Question};
use super::session::{Client, Session};
use super::steps::Verdict;
use super::world::World;

impl World {
    pub(super) fn faults(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (node, process) in self.nodes.iter().enumerate() {
            if let Some(process) = process {
                self.node_fails(node, process, &mut actions);
            }
        }
        self.log_fails(&mut actions);
        for session in &self.sessions {
            if !session.is_broken && self.left.breaks > 0 {
                actions.push(Action::Break { session: session.id, arrived: 0 });
                if !session.to_replica.is_empty() {
                    actions.push(Action::Break { session: session.id, arrived: session.to_replica.len() });
                }
            }
        }
        for (bank, of) in self.banks.iter().enumerate() {
            for (instance, process) in of.instances.iter().enumerate() {
                if let Some(process) = process {
                    self.instance_fails((bank, instance), process, &mut actions);
                }
            }
            if self.left.lost_stores > 0 {
                actions.push(Action::LoseStore { bank });
            }
        }
        self.wishes_fail(&mut actions);
        if self.left.jumps > 0 && self.next_due_ms().is_some() {
            actions.push(Action::Jump);
        }
        actions.extend(self.restarts());
        if self.is_log_away {
            actions.retain(|action| !action.needs_the_log());
        }
        actions
    }

    fn node_fails(&self, node: usize, process: &Node, actions: &mut Vec<Action>) {
        let left = self.left;
        if left.node_crashes > 0 {
            actions.push(Action::CrashNode { node });
        }
        if process.append.is_some() && left.lost_answers > 0 {
            actions.push(Action::LoseAnswer { node });
        }
        if matches!(process.question, Some(Question { found: None, .. })) && left.stale_reads > 0 {
            actions.extend((1..=self.log.lag_max()).map(|lag| Action::Read { node, lag }));
        }
        for (gtid, timer) in process.timers.keys() {
            let budget = if *timer == DEADLINE { left.deadlines } else { left.early_timers };
            if matches!(timer, Timer::ThreePhase(_)) && budget > 0 {
                actions.push(Action::EarlyNodeTimer { node, gtid: *gtid, timer: *timer });
            }
        }
    }

    fn log_fails(&self, actions: &mut Vec<Action>) {
        actions.extend(self.may_take_over());
        if self.is_log_away {
            actions.push(Action::LogReturns);
        } else if self.left.blackouts > 0 {
            actions.push(Action::Blackout);
        }
        if !self.limbo.is_empty() {
            actions.push(Action::ApplyLate);
        }
        // The retention is longer than any initiator asks, and than any branch is in doubt: what is
        // older is not known, and never taken for aborted.
        let is_told =
            |gtid| self.wishes.iter().all(|wish| wish.gtid != gtid || matches!(wish.stage, Stage::Concluded(_)));
        let is_quiet = self.sessions.iter().all(|session| session.to_replica.is_empty())
            && self.calls.is_empty()
            && self.nodes.iter().flatten().all(|node| node.question.is_none());
        if self.left.retentions > 0
            && is_quiet
            && self.limbo.is_empty()
            && !self.log.ended.is_empty()
            && self.log.ended.keys().all(|gtid| is_told(*gtid) && !self.has_branch(*gtid))
        {
            actions.push(Action::Retention);
        }
    }

    /// Another process starts while the one before lives, whose lease has lapsed.
    pub(super) fn may_take_over(&self) -> Option<Action> {
        let alive: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_some()).collect();
        let [alive] = alive.as_slice() else { return None };
        let is_possible = !self.two_names && self.left.take_overs > 0 && !self.is_log_away;
        is_possible.then_some(Action::TakeOver { node: 1 - alive })
    }

    fn instance_fails(&self, (bank, instance): (usize, usize), process: &Instance, actions: &mut Vec<Action>) {
        let left = self.left;
        if left.instance_crashes > 0 {
            actions.push(Action::CrashInstance { bank, instance });
        }
        if left.scaled_away > 0 && self.banks[bank].instances.len() > 1 {
            actions.push(Action::ScaleAway { bank, instance });
        }
        for (at, running) in process.steps.iter().enumerate() {
            let mut turns = |verdict| actions.push(Action::StepReturns { bank, instance, at, verdict });
            if left.failing_steps > 0 {
                turns(Verdict::FailsBefore);
                turns(Verdict::FailsAfter);
            }
            if if running.compensation { left.stuck } else { left.refusals } > 0 {
                turns(Verdict::Refused);
                if running.pivot {
                    turns(Verdict::FinallyRefused);
                }
            }
        }
        if left.failing_hooks > 0 {
            for at in 0..process.hooks.len() {
                for turn in [Turn::FailsBefore, Turn::FailsAfter] {
                    actions.push(Action::HookReturns { bank, instance, at, turn });
                }
            }
        }
        if left.early_timers > 0 {
            let is_of_three_phases = |key| matches!(process.branches.get(key), Some(Machine::ThreePhase(_)));
            let timers = process.timers.keys().filter(|(key, _)| is_of_three_phases(key));
            let early = |(key, timer): &(_, participant::Timer)| Action::EarlyInstanceTimer {
                bank,
                instance,
                key: *key,
                timer: *timer,
            };
            actions.extend(timers.map(early));
        }
    }

    fn wishes_fail(&self, actions: &mut Vec<Action>) {
        let left = self.left;
        for (wish, of) in self.wishes.iter().enumerate() {
            if matches!(of.stage, Stage::Committing) && of.waiting.is_some() && left.impatience > 0 {
                actions.push(Action::LosePatience { wish });
            }
            if matches!(of.stage, Stage::Open { is_calling: true, .. }) && left.lost_calls > 0 {
                actions.push(Action::GiveUpCall { wish });
            }
            if let (Shape::Begun { calls, .. }, Stage::Open { call, is_calling: true }) = (&of.shape, of.stage)
                && left.doubled_calls > 0
            {
                let instances = self.banks[calls[call]].instances.iter().enumerate();
                for (instance, _) in instances.filter(|(_, process)| process.is_some()) {
                    actions.extend([false, true].map(|fails| Action::CallTwice { wish, instance, fails }));
                }
            }
        }
        if self.session_of(Client::Initiator).is_none() {
            return;
        }
        for (wish, of) in self.wishes.iter().enumerate() {
            let is_repeatable = |request: &Request| matches!(request.ask, Ask::StartSaga { .. } | Ask::Commit(_));
            if left.repeats > 0 && of.waiting.as_ref().is_some_and(is_repeatable) {
                actions.push(Action::Repeat { wish });
            }
            let is_under_way = matches!(
                of.stage,
                Stage::Open { .. } | Stage::Committing | Stage::Started | Stage::InDoubt | Stage::Settling
            );
            if left.turns > 0 && is_under_way {
                actions.push(Action::Turn { wish });
            }
        }
    }

    /// Whether an instance knows a branch of the transaction, or something that one has said is on its way.
    fn has_branch(&self, gtid: Gtid) -> bool {
        let mut instances = self.banks.iter().flat_map(|bank| bank.instances.iter().flatten());
        let is_on_its_way = |session: &Session| session.to_replica.iter().any(|message| message.gtid() == Some(gtid));
        instances.any(|instance| instance.branches.keys().any(|(of, _)| *of == gtid))
            || self.sessions.iter().any(is_on_its_way)
    }

    /// Takes an action from what is left of its kind.
    pub(super) fn spend(&mut self, action: Action) {
        let is_undone = match action {
            Action::StepReturns { bank, instance, at, .. } => {
                let process = self.banks[bank].instances.get(instance).and_then(Option::as_ref);
                process.and_then(|process| process.steps.get(at)).is_some_and(|running| running.compensation)
            }
            _ => false,
        };
        let left = &mut self.left;
        let budget = match action {
            Action::StepReturns { verdict: Verdict::FailsBefore | Verdict::FailsAfter, .. } => &mut left.failing_steps,
            Action::StepReturns { verdict: Verdict::Refused | Verdict::FinallyRefused, .. } if is_undone => {
                &mut left.stuck
            }
            Action::StepReturns { verdict: Verdict::Refused | Verdict::FinallyRefused, .. } => &mut left.refusals,
            Action::CrashNode { .. } => &mut left.node_crashes,
            Action::TakeOver { .. } => &mut left.take_overs,
            Action::Blackout => &mut left.blackouts,
            Action::LoseStore { .. } => &mut left.lost_stores,
            Action::EarlyNodeTimer { timer: DEADLINE, .. } => &mut left.deadlines,
            Action::EarlyNodeTimer { .. } | Action::EarlyInstanceTimer { .. } => &mut left.early_timers,
            Action::CrashInstance { .. } => &mut left.instance_crashes,
            Action::ScaleAway { .. } => &mut left.scaled_away,
            Action::Break { .. } => &mut left.breaks,
            Action::LoseAnswer { .. } => &mut left.lost_answers,
            Action::HookReturns { turn: Turn::FailsBefore | Turn::FailsAfter, .. } => &mut left.failing_hooks,
            Action::LosePatience { .. } => &mut left.impatience,
            Action::GiveUpCall { .. } => &mut left.lost_calls,
            Action::CallTwice { .. } => &mut left.doubled_calls,
            Action::Repeat { .. } => &mut left.repeats,
            Action::Turn { .. } => &mut left.turns,
            Action::Jump => &mut left.jumps,
            Action::Retention => &mut left.retentions,
            Action::Read { lag: 1.., .. } => &mut left.stale_reads,
            _ => return,
        };
        *budget = budget.saturating_sub(1);
    }
}
