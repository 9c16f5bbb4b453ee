//! Callers: starts asked for again, waiting, the initiator's abort.

use super::effect::{Effect, Reply};
use super::event::Wait;
use super::machine::{Callers, Draft, Phase, Saga, Stage, cut};
use crate::durable::Output;
use crate::ids::{BodyDigest, Caller};

impl Saga {
    pub(super) fn start_requested(&mut self, digest: BodyDigest, caller: Caller, wait: Wait) -> Output<Effect> {
        if digest != self.digest {
            return reply(caller, Reply::KeyReused);
        }
        self.wait_requested(caller, wait)
    }

    pub(super) fn wait_requested(&mut self, caller: Caller, wait: Wait) -> Output<Effect> {
        match (self.stage(), wait) {
            (Stage::Overruled, Wait::Started | Wait::Ended) => self.over_reply(caller),
            (Stage::Ended, Wait::Ended) => self.over_reply(caller),
            (Stage::Starting, Wait::Started) => {
                self.callers.started.insert(caller);
                Output::none()
            }
            (
                Stage::Running
                | Stage::Deciding
                | Stage::Turning
                | Stage::Compensating
                | Stage::PausedRunning
                | Stage::PausedCompensating
                | Stage::Ending
                | Stage::Ended,
                Wait::Started,
            ) => reply(caller, Reply::Started),
            (
                Stage::Starting
                | Stage::Running
                | Stage::Deciding
                | Stage::Turning
                | Stage::Compensating
                | Stage::PausedRunning
                | Stage::PausedCompensating
                | Stage::Ending,
                Wait::Ended,
            ) => {
                self.callers.ended.insert(caller);
                Output::none()
            }
        }
    }

    pub(super) fn compensate_requested(&mut self, reason: &str, caller: Caller) -> Output<Effect> {
        match self.stage() {
            Stage::Starting | Stage::Running | Stage::Deciding | Stage::PausedRunning => {
                self.callers.turned.insert(caller);
                self.want_turn(cut(reason));
                // Where a pivot is completed, this drops the wish and says so.
                self.advance(Draft::default())
            }
            Stage::Turning => {
                self.callers.turned.insert(caller);
                Output::none()
            }
            Stage::Compensating | Stage::PausedCompensating => {
                reply(caller, Reply::Compensating { reason: self.turned.clone().unwrap_or_default() })
            }
            Stage::Ending => {
                self.callers.ended.insert(caller);
                Output::none()
            }
            Stage::Ended | Stage::Overruled => self.over_reply(caller),
        }
    }

    /// The callers that wait for an answer.
    pub(crate) fn callers(&self) -> impl Iterator<Item = Caller> {
        let Callers { started, turned, ended, answered } = &self.callers;
        started.iter().chain(turned).chain(ended).chain(answered).copied()
    }

    pub(super) fn caller_left(&mut self, session: u64) -> Output<Effect> {
        match self.stage() {
            Stage::Starting
            | Stage::Running
            | Stage::Deciding
            | Stage::Turning
            | Stage::Compensating
            | Stage::PausedRunning
            | Stage::PausedCompensating
            | Stage::Ending => {
                let Callers { started, turned, ended, answered } = &mut self.callers;
                for waiting in [started, turned, ended, answered] {
                    waiting.retain(|caller| caller.session != session);
                }
            }
            Stage::Ended | Stage::Overruled => {}
        }
        Output::none()
    }

    /// What anybody is told once it is over.
    fn over_reply(&self, caller: Caller) -> Output<Effect> {
        match self.phase {
            Phase::Ended(outcome) => reply(caller, self.ended_reply(outcome)),
            Phase::Overruled(decision) => reply(caller, Reply::Overruled { decision }),
            Phase::Starting | Phase::Running | Phase::Turning | Phase::Compensating | Phase::Ending { .. } => {
                Output::none()
            }
        }
    }
}

fn reply(to: Caller, reply: Reply) -> Output<Effect> {
    Output::effects(vec![Effect::Reply { to, reply }])
}
