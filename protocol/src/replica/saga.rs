//! What a saga's machine wants done.

use bytes::Bytes;

use super::append::Sealed;
use super::drive::Driven;
use super::entry::{Machine, Timer};
use super::{Replica, SessionId};
use crate::digest;
use crate::durable::{Held, Output};
use crate::ids::{Caller, Gtid, InstanceId, Name, ParticipantName};
#[cfg(debug_assertions)]
use crate::invariant::Violation;
use crate::message::{
    Ask, FromReplica, MESSAGE_BYTES_MAX, Reason, Reply, Request, StepAnswer, StepOrder, payload_bytes,
};
use crate::reason::{AbortCode, AbortReason, Refusal, Wait};
use crate::saga::{self, Effect, Event, Saga, StepIndex, StepResult};

impl Driven for Saga {
    type Event = Event;
    type Effect = Effect;

    fn of(machine: &mut Machine) -> Option<&mut Self> {
        if let Machine::Saga(machine) = machine { Some(machine) } else { None }
    }

    fn take(&mut self, event: Event) -> Output<Effect> {
        self.handle(event)
    }

    fn stage(&self) -> impl PartialEq + 'static {
        Saga::stage(self)
    }

    fn is_overruled(&self) -> bool {
        Saga::stage(self) == saga::Stage::Overruled
    }

    #[cfg(debug_assertions)]
    fn check(before: &Self, event: &Event, after: &Self, output: &Output<Effect>) -> Result<(), Violation> {
        saga::invariant::check(before, event, after, output)
    }

    fn seal(held: Held<Effect>) -> Sealed {
        Sealed::Saga(held)
    }

    fn carry_out(replica: &mut Replica, gtid: Gtid, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Execute { step, name, to, prefer, attempt, input, outputs, pivot } => {
                    let order = replica.step_order(gtid, step, name, attempt, input, false);
                    let message = FromReplica::ExecuteStep { order, outputs, pivot };
                    replica.send_step(gtid, &to, prefer, message, (step, false, attempt));
                }
                Effect::Compensate { step, name, to, prefer, attempt, input, output } => {
                    let order = replica.step_order(gtid, step, name, attempt, input, true);
                    let message = FromReplica::CompensateStep { order, output };
                    replica.send_step(gtid, &to, prefer, message, (step, true, attempt));
                }
                Effect::Reply { to, reply } => replica.reply_for_saga(to, reply),
                Effect::SetTimer { timer, after_ms, jitter } => {
                    replica.set_drawn_timer(gtid, Timer::Saga(timer), after_ms, jitter);
                }
                Effect::CancelTimer { timer } => replica.cancel_timer(gtid, Timer::Saga(timer)),
            }
        }
    }
}

impl Replica {
    fn step_order(
        &self,
        gtid: Gtid,
        step: StepIndex,
        name: Name,
        attempt: u32,
        input: Bytes,
        compensation: bool,
    ) -> StepOrder {
        let timeout_ms = match self.entries.get(&gtid).map(|entry| &entry.machine) {
            Some(Machine::Saga(saga)) => {
                let definition = saga.definition().step(step);
                let policy = if compensation { &definition.compensation_retry } else { &definition.retry };
                policy.attempt_timeout_ms
            }
            Some(Machine::TwoPhase(_) | Machine::ThreePhase(_)) | None => 0,
        };
        StepOrder { gtid, epoch: self.epoch, step, name, attempt, input, timeout_ms }
    }

    fn send_step(
        &mut self,
        gtid: Gtid,
        to: &ParticipantName,
        prefer: Option<InstanceId>,
        message: FromReplica,
        (step, compensation, attempt): (StepIndex, bool, u32),
    ) {
        let bytes = payload_bytes(&message);
        if bytes > MESSAGE_BYTES_MAX {
            // Never sent, nor was any other attempt, whose bytes are the same: the saga turns back,
            // or asks for a human where it cannot.
            let reason =
                format!("the step's input and outputs have {bytes} bytes, and {MESSAGE_BYTES_MAX} fit into a message");
            let result = StepResult::Refused(reason);
            let (instance, is_final) = (InstanceId(0), true);
            let answered = Event::StepAnswered { step, compensation, attempt, instance, result, is_final };
            return self.drive::<Saga>(gtid, answered);
        }
        let route = self.peers.route(to, prefer);
        let event = match route.and_then(|session| Some((session, self.instance_of(session)?))) {
            Some((session, instance)) => {
                self.peers.send(session, message);
                Event::Sent { step, compensation, attempt, instance }
            }
            None => Event::Undeliverable { step, compensation, attempt },
        };
        self.drive::<Saga>(gtid, event);
    }

    fn reply_for_saga(&mut self, to: Caller, reply: saga::Reply) {
        let reply = match reply {
            saga::Reply::Started => Reply::SagaStarted,
            saga::Reply::Ended { outcome, reason, outputs } => {
                Reply::Outcome { outcome, reason: reason.as_deref().map(AbortReason::from_line), outputs }
            }
            saga::Reply::Compensating { reason } => Reply::SagaTurned { reason },
            saga::Reply::PastPivot => Reply::Refused(Refusal::PastPivot.into()),
            saga::Reply::KeyReused => Reply::Refused(Refusal::KeyReused.into()),
            // The same start may have been logged before, by another process. Asked again, the log
            // tells.
            saga::Reply::Overruled { decision: _ } => Reply::Refused(super::unknown::fenced()),
        };
        self.reply(to, reply);
    }

    /// A request about a saga that this replica drives.
    pub(super) fn request_to_saga(&mut self, caller: Caller, Request { gtid, ask, .. }: Request) {
        let event = match ask {
            Ask::StartSaga { definition, wait, .. } => {
                Event::StartRequested { digest: digest::of_definition(&definition), caller, wait: saga_wait(wait) }
            }
            Ask::Await { wait } => Event::WaitRequested { caller, wait: saga_wait(wait) },
            Ask::Abort { reason } => {
                let reason = AbortReason::new(AbortCode::Requested, reason).to_line();
                Event::CompensateRequested { reason, caller }
            }
            Ask::Begin { .. } | Ask::Enlist { .. } | Ask::Commit(_) => {
                let message = "this gtid is a saga's; mint a new one for a transaction";
                return self.refuse(caller, Reason::WrongProtocol.refused(message));
            }
        };
        self.drive::<Saga>(gtid, event);
    }

    /// A participant answers a step of a saga that this replica drives.
    pub(super) fn step_answered(&mut self, session: SessionId, answer: StepAnswer) {
        let StepAnswer { gtid, step, compensation, attempt, epoch, result, is_final } = answer;
        let Some((_, instance)) = self.participant_of(session) else { return };
        // Attempts are counted anew under each epoch: an answer to an earlier one is of no use.
        if epoch != self.epoch {
            return;
        }
        // Kept until the saga ends: not as a piece of the frame that it came in.
        let result = match result {
            StepResult::Done(output) => {
                self.hold(gtid, output.len());
                StepResult::Done(Bytes::copy_from_slice(&output))
            }
            StepResult::Refused(_) | StepResult::Unknown(_) => result,
        };
        self.drive::<Saga>(gtid, Event::StepAnswered { step, compensation, attempt, instance, result, is_final });
    }
}

pub(super) fn saga_wait(wait: Wait) -> saga::Wait {
    match wait {
        Wait::Decided => saga::Wait::Started,
        Wait::Ended => saga::Wait::Ended,
    }
}
