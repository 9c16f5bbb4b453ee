//! Between the session and a participant's hooks: what holds for every participant.
//!
//! - A payload that cannot be read is a refusal ([`Unreadable`](crate::Unreadable)).
//! - Work waits until the service has set itself up ([`Builder::settle_first`]); ends do not wait.
//!
//! [`Builder::settle_first`]: crate::Builder::settle_first

use std::sync::{Arc, OnceLock};

use assent_protocol::BranchKey;
use tokio::sync::watch;

use crate::participant::{BoxError, Branch, Coordinator, Participant, Vote};
use crate::saga::{Compensated, Executed, SagaParticipant, Step};
use crate::unreadable;

/// What work waits at. It starts open or closed, and is opened once.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    opened: Arc<watch::Sender<bool>>,
}

impl Gate {
    pub(crate) fn new(is_open: bool) -> Self {
        Self { opened: Arc::new(watch::Sender::new(is_open)) }
    }

    pub(crate) fn open(&self) {
        self.opened.send_replace(true);
    }

    /// Waits until it is open, for no longer than the coordinator waits for the answer.
    async fn pass(&self, timeout: std::time::Duration) -> Result<(), BoxError> {
        let mut opened = self.opened.subscribe();
        if *opened.borrow_and_update() {
            return Ok(());
        }
        let opening = opened.wait_for(|is_open| *is_open);
        match tokio::time::timeout(timeout, opening).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("the service has not set itself up yet; see Builder::settle_first".into()),
        }
    }
}

/// A participant of branches, hosted.
pub(crate) struct HostedBranches<P> {
    participant: P,
    gate: Gate,
    found: Found,
}

/// The branches that the participant had in doubt when it started; filled by its first list.
pub(crate) type Found = Arc<OnceLock<Vec<BranchKey>>>;

impl<P> HostedBranches<P> {
    pub(crate) fn new(participant: P, gate: Gate, found: Found) -> Self {
        Self { participant, gate, found }
    }
}

/// A no, if the hook failed because what it was given cannot be read.
fn refused(result: Result<Vote, BoxError>) -> Result<Vote, BoxError> {
    result.or_else(|error| unreadable::refusal(&*error).map(Vote::No).ok_or(error))
}

impl<P: Participant> Participant for HostedBranches<P> {
    const ONE_PHASE: bool = P::ONE_PHASE;

    async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
        self.gate.pass(branch.timeout()).await?;
        refused(self.participant.prepare(branch).await)
    }

    async fn commit(&self, branch: &Branch) -> Result<(), BoxError> {
        self.participant.commit(branch).await
    }

    async fn abort(&self, branch: &Branch) -> Result<(), BoxError> {
        self.participant.abort(branch).await
    }

    async fn start(&self, about: &Coordinator) -> Result<(), BoxError> {
        self.participant.start(about).await
    }

    async fn in_doubt(&self, about: &Coordinator) -> Result<Vec<BranchKey>, BoxError> {
        let in_doubt = self.participant.in_doubt(about).await?;
        self.found.get_or_init(|| in_doubt.clone());
        Ok(in_doubt)
    }

    async fn commit_one_phase(&self, branch: &Branch) -> Result<Vote, BoxError> {
        self.gate.pass(branch.timeout()).await?;
        refused(self.participant.commit_one_phase(branch).await)
    }
}

/// A participant of saga steps, hosted.
pub(crate) struct HostedSteps<P> {
    participant: P,
    gate: Gate,
}

impl<P> HostedSteps<P> {
    pub(crate) fn new(participant: P, gate: Gate) -> Self {
        Self { participant, gate }
    }
}

impl<P: SagaParticipant> SagaParticipant for HostedSteps<P> {
    async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
        self.gate.pass(step.timeout()).await?;
        let executed = self.participant.execute(step).await;
        executed.or_else(|error| unreadable::refusal(&*error).map(Executed::Refused).ok_or(error))
    }

    async fn compensate(&self, step: &Step) -> Result<Compensated, BoxError> {
        self.gate.pass(step.timeout()).await?;
        let compensated = self.participant.compensate(step).await;
        compensated.or_else(|error| unreadable::refusal(&*error).map(Compensated::Refused).ok_or(error))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use assent_protocol::saga::StepIndex;
    use assent_protocol::{BranchId, Epoch};

    use super::*;

    /// Takes a number, and nothing else.
    struct Numbers;

    impl Participant for Numbers {
        async fn prepare(&self, branch: &Branch) -> Result<Vote, BoxError> {
            let _: u32 = branch.json()?;
            Ok(Vote::Yes)
        }

        async fn commit(&self, _: &Branch) -> Result<(), BoxError> {
            Ok(())
        }

        async fn abort(&self, _: &Branch) -> Result<(), BoxError> {
            Ok(())
        }

        async fn in_doubt(&self, _: &Coordinator) -> Result<Vec<BranchKey>, BoxError> {
            Ok(vec![branch("1").key()])
        }
    }

    impl SagaParticipant for Numbers {
        async fn execute(&self, step: &Step) -> Result<Executed, BoxError> {
            let _: u32 = step.input_json()?;
            Ok(Executed::done())
        }

        async fn compensate(&self, step: &Step) -> Result<Compensated, BoxError> {
            let _: u32 = step.input_json()?;
            Ok(Compensated::Done)
        }
    }

    const TIMEOUT: Duration = Duration::from_millis(200);

    fn coordinator() -> Coordinator {
        Coordinator { id: "c".into(), address: "http://127.0.0.1:7420".into() }
    }

    fn branch(payload: &'static str) -> Branch {
        let gtid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a gtid");
        let key = BranchKey { gtid, id: BranchId { epoch: Epoch(1), number: 1 } };
        Branch::new(key, "numbers".parse().expect("a name"), coordinator(), payload, TIMEOUT)
    }

    fn step(input: &'static str) -> Step {
        let name = "count".parse().expect("a name");
        Step::new(branch("").gtid(), "numbers".parse().expect("a name"), StepIndex(0), name, input, TIMEOUT)
    }

    const UNREADABLE: &str = "cannot be read: invalid type: string \"one\", expected u32 at line 1 column 5";

    #[tokio::test]
    async fn an_unreadable_payload_is_a_no() {
        let hosted = HostedBranches::new(Numbers, Gate::new(true), Found::default());
        assert_eq!(hosted.prepare(&branch("1")).await.expect("a vote"), Vote::Yes);
        let vote = hosted.prepare(&branch("\"one\"")).await.expect("a vote, not a failure");
        assert_eq!(vote, Vote::No(format!("payload: {UNREADABLE}")));
    }

    #[tokio::test]
    async fn an_unreadable_input_is_refused_instead_of_tried_for_ever() {
        let hosted = HostedSteps::new(Numbers, Gate::new(true));
        let executed = hosted.execute(&step("\"one\"")).await.expect("an answer, not a failure");
        assert_eq!(executed, Executed::Refused(format!("input: {UNREADABLE}")));
        let compensated = hosted.compensate(&step("\"one\"")).await.expect("an answer, not a failure");
        assert_eq!(compensated, Compensated::Refused(format!("input: {UNREADABLE}")));
    }

    #[tokio::test]
    async fn work_waits_at_the_gate_and_ends_do_not() {
        let gate = Gate::new(false);
        let hosted = HostedBranches::new(Numbers, gate.clone(), Found::default());
        let early = hosted.prepare(&branch("1")).await.expect_err("the service is not set up");
        assert!(early.to_string().contains("settle_first"), "{early}");
        hosted.commit(&branch("")).await.expect("an end does not wait");
        hosted.abort(&branch("")).await.expect("an end does not wait");
        let waiting = tokio::spawn(async move { hosted.prepare(&branch("1")).await });
        tokio::task::yield_now().await;
        gate.open();
        assert_eq!(waiting.await.expect("no panic").expect("a vote"), Vote::Yes);
    }

    #[tokio::test]
    async fn the_first_list_is_kept() {
        let found = Found::default();
        let hosted = HostedBranches::new(Numbers, Gate::new(true), Arc::clone(&found));
        assert_eq!(found.get(), None);
        hosted.in_doubt(&coordinator()).await.expect("a list");
        assert_eq!(found.get(), Some(&vec![branch("1").key()]));
    }
}
