//! The process that asks: its requests are repeated over the next session as the SDK repeats them.

use assent_protocol::message::{Ask, Commit, FromClient, Reply, Request};
use assent_protocol::two_phase::CarriedBranch;
use assent_protocol::{Epoch, Gtid, Outcome, ParticipantName, Protocol, Wait};
use bytes::Bytes;

/// How a transaction comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One request names all branches.
    Carried { banks: Vec<usize>, is_unary: bool },
    /// It is begun, services are called one after the other, and then it is committed. A call
    /// without an answer is given up, and the next bank is called instead.
    Begun { calls: Vec<usize> },
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
    /// Commit was asked for.
    Committing,
    /// The initiator has lost patience, and asks for the outcome.
    InDoubt,
    /// What the initiator believes from here on.
    Concluded(Conclusion),
}

/// What an initiator makes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Conclusion {
    Committed,
    /// Aborted, refused, or not known: nothing has changed.
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
    /// The banks whose branches it counts on.
    pub(crate) roster: Vec<usize>,
}

impl Wish {
    pub(crate) fn new(gtid: Gtid, shape: Shape) -> Self {
        let roster = match &shape {
            Shape::Carried { banks, .. } => banks.clone(),
            Shape::Begun { .. } => Vec::new(),
        };
        Self { gtid, shape, stage: Stage::New, waiting: None, roster }
    }

    /// The next request, if it is time for one.
    pub(crate) fn next_request(&self, names: &[ParticipantName]) -> Option<(Ask, Stage)> {
        if self.waiting.is_some() {
            return None;
        }
        match (&self.shape, self.stage) {
            (Shape::Carried { banks, is_unary }, Stage::New) => {
                let branch = |bank: &usize| CarriedBranch { participant: names[*bank].clone(), payload: Bytes::new() };
                let attempt = u32::from(!is_unary);
                let branches = banks.iter().map(branch).collect();
                Some((Ask::Commit(commit(branches, attempt, false)), Stage::Committing))
            }
            (Shape::Begun { .. }, Stage::New) => {
                Some((Ask::Begin { timeout_ms: 0, protocol: Protocol::TwoPhase, first_epoch: None }, Stage::Beginning))
            }
            (Shape::Begun { calls }, Stage::Open { call, is_calling: false }) if call == calls.len() => {
                Some((Ask::Commit(commit(Vec::new(), 1, true)), Stage::Committing))
            }
            (_, Stage::InDoubt) => Some((Ask::Await { wait: Wait::Decided }, Stage::InDoubt)),
            (_, Stage::Beginning | Stage::Open { .. } | Stage::Committing | Stage::Concluded(_)) => None,
        }
    }

    /// Writes the request that waits, for the first time or again. It names the epoch of the
    /// session over which it was written first; a unary call names none.
    pub(crate) fn write(&mut self, epoch: Epoch) -> Option<FromClient> {
        let request = self.waiting.as_mut()?;
        match &mut request.ask {
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

    /// An answer to the request that waits.
    pub(crate) fn hears(&mut self, reply: &Reply) -> Result<(), String> {
        let Some(request) = self.waiting.clone() else { return Ok(()) };
        let is_first = match &request.ask {
            Ask::Commit(commit) => commit.attempt == 1,
            Ask::Begin { .. } | Ask::Abort { .. } | Ask::StartSaga { .. } | Ask::Await { .. } | Ask::Enlist { .. } => {
                true
            }
        };
        self.stage = match (reply, self.stage) {
            (Reply::Begun { .. }, Stage::Beginning) => Stage::Open { call: 0, is_calling: false },
            (Reply::Outcome { outcome: Outcome::Committed, .. }, Stage::Committing | Stage::InDoubt) => {
                Stage::Concluded(Conclusion::Committed)
            }
            (Reply::Outcome { outcome: Outcome::Aborted, .. }, _) => Stage::Concluded(Conclusion::WithoutEffect),
            // For the moment: it is asked again.
            (Reply::Refused(refused), stage) if !is_first && refused.retry_after_ms.is_some() => stage,
            (Reply::Refused(refused), Stage::InDoubt) if refused.retry_after_ms.is_some() => Stage::InDoubt,
            (Reply::Refused(_), _) => Stage::Concluded(Conclusion::WithoutEffect),
            (other, stage) => return Err(format!("{other:?} answers {stage:?}")),
        };
        self.waiting = None;
        if self.stage == Stage::Committing {
            self.waiting = Some(request);
        }
        Ok(())
    }
}

fn commit(branches: Vec<CarriedBranch>, attempt: u32, begun: bool) -> Commit {
    Commit {
        branches,
        attempt,
        begun,
        timeout_ms: 0,
        wait: Wait::Decided,
        protocol: Protocol::TwoPhase,
        first_epoch: None,
    }
}
