//! The process that asks: its requests are repeated over the next session as the SDK repeats them.

use assent_protocol::message::{Ask, Commit, Expected, FromClient, Reason, Reply, Request};
use assent_protocol::saga::Definition;
use assent_protocol::two_phase::CarriedBranch;
use assent_protocol::{Epoch, Gtid, Outcome, ParticipantName, Protocol, Wait};
use bytes::Bytes;

/// How a transaction comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One request names all branches.
    Carried { protocol: Protocol, banks: Vec<usize>, is_unary: bool },
    /// It is begun, services are called one after the other, and then it is committed. A call
    /// without an answer is given up, and the next bank is called instead.
    Begun { protocol: Protocol, calls: Vec<usize> },
    /// A saga is started, and its end is waited for: at once, or once its start is known to be
    /// durable.
    Saga { definition: Definition, wait: Wait, is_unary: bool },
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Nothing was asked for yet.
    New,
    /// Begin was asked for.
    Beginning,
    /// It is open: the call of this number is next, or under way.
    Open { call: usize, is_calling: bool },
    /// Commit was asked for, or the start of a saga.
    Committing,
    /// The saga is known to have started, and the initiator waits for its end.
    Started,
    /// The initiator has lost patience, and asks for the outcome.
    InDoubt,
    /// Nothing is known of the transaction: the initiator aborts it to be certain.
    Settling,
    /// What the initiator believes from here on.
    Concluded(Conclusion),
}

/// What an initiator makes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Conclusion {
    /// So it was, or completed.
    Committed,
    /// Aborted, compensated, refused, or not known: nothing has changed.
    WithoutEffect,
}

/// One transaction, as its initiator sees it.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) gtid: Gtid,
    pub(crate) shape: Shape,
    pub(crate) stage: Stage,
    /// The request that waits for its answer.
    pub(crate) waiting: Option<Request>,
    /// That request has been written to a replica.
    is_written: bool,
    /// When it is asked again over the same session, for it was refused for the moment.
    pub(crate) due_ms: Option<u64>,
    /// The banks whose branches it counts on.
    pub(crate) roster: Vec<usize>,
}

impl Wish {
    pub(crate) fn new(gtid: Gtid, shape: Shape) -> Self {
        let roster = match &shape {
            Shape::Carried { banks, .. } => banks.clone(),
            Shape::Begun { .. } | Shape::Saga { .. } => Vec::new(),
        };
        Self { gtid, shape, stage: Stage::New, waiting: None, is_written: false, due_ms: None, roster }
    }

    /// The next request, if it is time for one.
    pub(crate) fn next_request(&self, names: &[ParticipantName]) -> Option<(Ask, Stage)> {
        if self.waiting.is_some() {
            return None;
        }
        match (&self.shape, self.stage) {
            (Shape::Carried { protocol, banks, is_unary }, Stage::New) => {
                let branch = |bank: &usize| CarriedBranch { participant: names[*bank].clone(), payload: Bytes::new() };
                let attempt = u32::from(!is_unary);
                let branches = banks.iter().map(branch).collect();
                Some((Ask::Commit(commit(*protocol, branches, attempt, false)), Stage::Committing))
            }
            (Shape::Begun { protocol, .. }, Stage::New) => {
                Some((Ask::Begin { timeout_ms: 0, protocol: *protocol, first_epoch: None }, Stage::Beginning))
            }
            (Shape::Begun { protocol, calls }, Stage::Open { call, is_calling: false }) if call == calls.len() => {
                Some((Ask::Commit(commit(*protocol, Vec::new(), 1, true)), Stage::Committing))
            }
            (Shape::Saga { definition, wait, is_unary }, Stage::New) => {
                let (definition, attempt) = (definition.clone(), u32::from(!is_unary));
                Some((Ask::StartSaga { definition, wait: *wait, attempt }, Stage::Committing))
            }
            (Shape::Saga { .. }, stage @ (Stage::Started | Stage::InDoubt)) => {
                Some((Ask::Await { wait: Wait::Ended }, stage))
            }
            (_, Stage::InDoubt) => Some((Ask::Await { wait: Wait::Decided }, Stage::InDoubt)),
            (_, Stage::Settling) => Some((Ask::Abort { reason: "in doubt".to_owned() }, Stage::Settling)),
            (_, Stage::Beginning | Stage::Started | Stage::Open { .. } | Stage::Committing | Stage::Concluded(_)) => {
                None
            }
        }
    }

    /// Writes the request that waits, for the first time or again. It names the epoch of the
    /// session over which it was written first; a unary call names none.
    pub(crate) fn write(&mut self, epoch: Epoch) -> Option<FromClient> {
        let request = self.waiting.as_mut()?;
        let was_written = std::mem::replace(&mut self.is_written, true);
        self.due_ms = None;
        match &mut request.ask {
            Ask::StartSaga { attempt, .. } if *attempt > 0 => *attempt += u32::from(was_written),
            Ask::Commit(commit) if commit.attempt > 0 => {
                commit.attempt += u32::from(commit.first_epoch.is_some());
                commit.first_epoch.get_or_insert(epoch);
            }
            Ask::Begin { first_epoch, .. } => {
                first_epoch.get_or_insert(epoch);
            }
            Ask::Commit(_) | Ask::Abort { .. } | Ask::StartSaga { .. } | Ask::Await { .. } | Ask::Enlist { .. } => {}
        }
        Some(FromClient::Request(request.clone()))
    }

    /// The request that waits is asked once more, as another one.
    pub(crate) fn repeats(&mut self, request_id: u64, epoch: Epoch) -> Option<FromClient> {
        self.waiting.as_mut()?.request_id = request_id;
        self.write(epoch)
    }

    /// The request that waits, over the same session: it was refused for the moment.
    pub(crate) fn asks_again(&mut self) -> Option<FromClient> {
        self.due_ms = None;
        self.waiting.clone().map(FromClient::Request)
    }

    /// A new request waits.
    pub(crate) fn asks(&mut self, request: Request, stage: Stage) {
        self.stage = stage;
        self.waiting = Some(request);
        self.is_written = false;
    }

    /// An answer to the request that waits.
    pub(crate) fn hears(&mut self, reply: &Reply, now_ms: u64, may_lag: bool) -> Result<(), String> {
        let Some(request) = self.waiting.clone() else { return Ok(()) };
        let is_first = match &request.ask {
            Ask::Commit(commit) => commit.attempt == 1,
            Ask::StartSaga { attempt, .. } => *attempt == 1,
            Ask::Begin { .. } | Ask::Abort { .. } | Ask::Await { .. } | Ask::Enlist { .. } => true,
        };
        let before = self.stage;
        self.stage = match (reply, self.stage) {
            (Reply::Begun { .. }, Stage::Beginning) => Stage::Open { call: 0, is_calling: false },
            (
                Reply::Outcome { outcome: Outcome::Committed, .. },
                Stage::Committing | Stage::InDoubt | Stage::Settling,
            ) => Stage::Concluded(Conclusion::Committed),
            (
                Reply::Outcome { outcome: Outcome::Completed, .. },
                Stage::Committing | Stage::Started | Stage::InDoubt | Stage::Settling,
            ) => Stage::Concluded(Conclusion::Committed),
            (Reply::Outcome { outcome: Outcome::Aborted | Outcome::Compensated, .. }, _) => {
                Stage::Concluded(Conclusion::WithoutEffect)
            }
            (Reply::SagaStarted, Stage::Committing) => Stage::Started,
            (Reply::Refused(refused), stage) if refused.known_reason() == Some(Reason::KeyReused) => {
                return Err(format!("I11 same key and body, same answer: {refused} answers {stage:?}"));
            }
            // For the moment: it is asked again.
            (Reply::Refused(refused), stage) if !is_first && refused.retry_after_ms.is_some() => stage,
            (Reply::Refused(refused), stage @ (Stage::InDoubt | Stage::Settling | Stage::Started))
                if refused.retry_after_ms.is_some() =>
            {
                stage
            }
            (Reply::Refused(refused), Stage::Started) => {
                // A look-up may show the log before the start.
                if !may_lag {
                    return Err(format!("{refused} is told of a saga that has started"));
                }
                Stage::Started
            }
            // A look-up that shows nothing proves nothing.
            (Reply::Refused(_), Stage::InDoubt) => Stage::Settling,
            (Reply::Refused(_), _) => Stage::Concluded(Conclusion::WithoutEffect),
            (other, stage) => return Err(format!("{other:?} answers {stage:?}")),
        };
        self.waiting = None;
        if let Reply::Refused(refused) = reply
            && self.stage == before
        {
            self.waiting = Some(request);
            self.due_ms = Some(now_ms + refused.retry_after_ms.unwrap_or(1_000));
        }
        Ok(())
    }
}

fn commit(protocol: Protocol, branches: Vec<CarriedBranch>, attempt: u32, begun: bool) -> Commit {
    Commit {
        branches,
        attempt,
        begun,
        timeout_ms: 0,
        wait: Wait::Decided,
        protocol,
        first_epoch: None,
        expected: Expected::Anything,
    }
}
