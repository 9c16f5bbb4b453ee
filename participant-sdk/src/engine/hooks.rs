//! Participants of any type behind one face, and what their hooks come to.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use assent_proto::text::one_line;
use assent_protocol::BranchKey;
use assent_protocol::agent::{Returned, StepEnd};
use assent_protocol::branch::{Hook, HookEnd};
use assent_protocol::saga::StepResult;
use assent_protocol::two_phase::{self, BranchResult};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::participant::{BoxError, Branch, Coordinator, Heuristic, Participant, Vote};
use crate::saga::{Compensated, Executed, SagaParticipant, Step};

/// A [`Participant`] of any type.
pub(crate) trait AnyParticipant: Send + Sync + 'static {
    fn one_phase(&self) -> bool;
    fn start(self: Arc<Self>, about: Arc<Coordinator>) -> BoxFuture<'static, Result<(), BoxError>>;
    fn in_doubt(self: Arc<Self>, about: Arc<Coordinator>) -> BoxFuture<'static, Result<Vec<BranchKey>, BoxError>>;
    fn call(self: Arc<Self>, branch: Branch, hook: Hook) -> BoxFuture<'static, Returned>;
}

/// A [`SagaParticipant`] of any type.
pub(crate) trait AnySagaParticipant: Send + Sync + 'static {
    fn call(self: Arc<Self>, step: Step, compensation: bool) -> BoxFuture<'static, StepEnd>;
}

impl<P: Participant> AnyParticipant for P {
    fn one_phase(&self) -> bool {
        P::ONE_PHASE
    }

    fn start(self: Arc<Self>, about: Arc<Coordinator>) -> BoxFuture<'static, Result<(), BoxError>> {
        async move { Participant::start(&*self, &about).await }.boxed()
    }

    fn in_doubt(self: Arc<Self>, about: Arc<Coordinator>) -> BoxFuture<'static, Result<Vec<BranchKey>, BoxError>> {
        async move { caught(async { Participant::in_doubt(&*self, &about).await }).await }.boxed()
    }

    fn call(self: Arc<Self>, branch: Branch, hook: Hook) -> BoxFuture<'static, Returned> {
        async move {
            match hook {
                // A coordinator that cannot know may ask for one phase; a participant that has only
                // two prepares.
                Hook::Prepare { one_phase, .. } if !one_phase || !P::ONE_PHASE => {
                    let vote = caught(async { self.prepare(&branch).await }).await;
                    Returned::Prepare(verdict(vote, two_phase::Vote::Yes))
                }
                Hook::Prepare { .. } => {
                    let vote = caught(async { self.commit_one_phase(&branch).await }).await;
                    Returned::Prepare(verdict(vote, two_phase::Vote::Committed))
                }
                Hook::Commit => Returned::End(end(caught(async { self.commit(&branch).await }).await)),
                Hook::Abort => Returned::End(end(caught(async { self.abort(&branch).await }).await)),
            }
        }
        .boxed()
    }
}

impl<P: SagaParticipant> AnySagaParticipant for P {
    fn call(self: Arc<Self>, step: Step, compensation: bool) -> BoxFuture<'static, StepEnd> {
        async move {
            if compensation {
                match caught(async { self.compensate(&step).await }).await {
                    Ok(Compensated::Done) => StepResult::Done(bytes::Bytes::new()).into(),
                    Ok(Compensated::Refused(reason)) => StepResult::Refused(one_line(reason)).into(),
                    Err(error) => StepResult::Unknown(told(&*error)).into(),
                }
            } else {
                match caught(async { self.execute(&step).await }).await {
                    Ok(Executed::Done(output)) => StepResult::Done(output).into(),
                    Ok(Executed::Refused(reason)) => StepResult::Refused(one_line(reason)).into(),
                    Ok(Executed::FinallyRefused(reason)) => {
                        StepEnd { result: StepResult::Refused(one_line(reason)), is_final: true }
                    }
                    Err(error) => StepResult::Unknown(told(&*error)).into(),
                }
            }
        }
        .boxed()
    }
}

fn verdict(vote: Result<Vote, BoxError>, yes: two_phase::Vote) -> two_phase::Vote {
    match vote {
        Ok(Vote::Yes) => yes,
        Ok(Vote::ReadOnly) => two_phase::Vote::ReadOnly,
        Ok(Vote::No(reason)) => two_phase::Vote::No(one_line(reason)),
        Err(error) => two_phase::Vote::Unknown(told(&*error)),
    }
}

fn end(ended: Result<(), BoxError>) -> HookEnd {
    match ended {
        Ok(()) => HookEnd::Ended(BranchResult::Done),
        Err(error) => match error.downcast_ref::<Heuristic>() {
            Some(Heuristic::Committed) => HookEnd::Ended(BranchResult::HeuristicCommitted),
            Some(Heuristic::Aborted) => HookEnd::Ended(BranchResult::HeuristicAborted),
            None => HookEnd::Failed(told(&*error)),
        },
    }
}

/// A hook that panics, even before its first await, has an unknown outcome, as one that fails.
async fn caught<T>(hook: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    match AssertUnwindSafe(hook).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let what = panic
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            Err(format!("the hook panicked: {what}").into())
        }
    }
}

/// An error with its causes, in one line.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    one_line(line)
}
