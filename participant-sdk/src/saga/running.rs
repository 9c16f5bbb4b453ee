//! Starting sagas, and waiting for them.

use std::time::Duration;

use assent_proto::error::Reason;
use assent_proto::session::{Ask, Reply};
use assent_proto::text::one_line;
use assent_protocol::saga::Definition;
use assent_protocol::{AbortCode, AbortReason, Gtid, Outcome, Wait};

use super::{SagaBuilder, SagaOutcome};
use crate::assent::{Assent, mint, unexpected};
use crate::error::Error;

impl Assent {
    /// Runs a saga and waits for its end, for at most `patience`; a saga that takes longer goes on all the same, and
    /// [`SagaOutcome::InDoubt`] names it.
    ///
    /// # Errors
    /// [`Error::Saga`] if the description is none, [`Error::Refused`] if the coordinator refuses it: then nothing was started.
    pub async fn run_saga(&self, saga: SagaBuilder, patience: Duration) -> Result<SagaOutcome, Error> {
        let gtid = mint();
        match self.start(gtid, saga.build()?, Wait::Ended, patience).await {
            Ok(reply) => outcome_of(reply),
            Err(Error::NoAnswer { gtid }) => Ok(SagaOutcome::InDoubt { gtid }),
            Err(error) => Err(error),
        }
    }

    /// Starts a saga, and answers with its id once the start is durable: from then on it will end, whatever happens to
    /// this process.
    ///
    /// # Errors
    /// [`Error::Saga`] if the description is none, [`Error::Refused`] if the coordinator refuses it: then nothing was started.
    /// [`Error::NoAnswer`]: nobody knows whether it was; ask with [`saga_outcome`](Self::saga_outcome).
    pub async fn start_saga(&self, saga: SagaBuilder) -> Result<Gtid, Error> {
        let gtid = mint();
        match self.start(gtid, saga.build()?, Wait::Decided, self.patience()).await? {
            Reply::SagaStarted | Reply::Outcome { .. } => Ok(gtid),
            other => Err(unexpected(other)),
        }
    }

    /// Waits for the end of a saga; [`SagaOutcome::InDoubt`] if that takes longer than `patience`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NOT_FOUND` if the coordinator knows no such saga.
    pub async fn saga_outcome(&self, gtid: Gtid, patience: Duration) -> Result<SagaOutcome, Error> {
        let request = Ask::Await { wait: Wait::Ended };
        match self.request(gtid, request, patience).await {
            Ok(reply) => outcome_of(reply),
            Err(Error::NoAnswer { gtid }) => Ok(SagaOutcome::InDoubt { gtid }),
            Err(error) => Err(error),
        }
    }

    /// Asks a saga to turn back: what its steps have done is compensated.
    ///
    /// # Errors
    /// [`Error::Refused`] with `PAST_PIVOT` if it can only go forward, with `NOT_FOUND` if the coordinator knows no such saga.
    pub async fn compensate_saga(&self, gtid: Gtid, reason: impl Into<String>) -> Result<(), Error> {
        let request = Ask::Abort { reason: one_line(reason.into()) };
        match self.request(gtid, request, self.patience()).await? {
            Reply::SagaTurned { .. } | Reply::Outcome { outcome: Outcome::Compensated, .. } => Ok(()),
            // The coordinator had nothing of it, and has made sure that it never starts.
            Reply::Outcome { outcome: Outcome::Aborted, .. } => {
                let message = format!("no saga {gtid}: it never started, and cannot start any more; check the gtid");
                Err(Reason::NotFound.refused(message).into())
            }
            other => Err(unexpected(other)),
        }
    }

    async fn start(&self, gtid: Gtid, definition: Definition, wait: Wait, patience: Duration) -> Result<Reply, Error> {
        let bytes_max = self.payload_bytes_max();
        if let Some(step) = definition.steps().iter().find(|step| step.input.len() > bytes_max) {
            let (name, bytes) = (step.name.to_string(), step.input.len());
            return Err(Error::PayloadTooLarge { name, bytes, bytes_max });
        }
        let request = Ask::StartSaga { definition, wait, attempt: 1 };
        self.request(gtid, request, patience).await
    }
}

fn outcome_of(reply: Reply) -> Result<SagaOutcome, Error> {
    match reply {
        Reply::Outcome { outcome: Outcome::Completed, outputs, .. } => {
            Ok(SagaOutcome::Completed(outputs.into_iter().collect()))
        }
        Reply::Outcome { outcome: Outcome::Compensated, reason, .. } => {
            let unknown = || AbortReason::new(AbortCode::StepFailed, "the coordinator gave no reason");
            Ok(SagaOutcome::Compensated(reason.unwrap_or_else(unknown)))
        }
        other => Err(unexpected(other)),
    }
}
