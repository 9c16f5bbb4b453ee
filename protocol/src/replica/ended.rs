//! What has ended: the answers that are kept at hand, so that a retried request need not wait for
//! the log, and who is told what.

use std::collections::VecDeque;

use bytes::Bytes;

use super::owned::not_open;
use super::{Replica, SessionId};
use crate::branch;
use crate::digest;
use crate::ids::{BodyDigest, BranchId, Caller, Gtid, GtidMap, Name};
use crate::message::{Ask, FromClient, Reply, Request, VoterMessage};
use crate::reason::{AbortReason, Refusal};
use crate::record::{self, Decision, Member, Outcome};
use crate::three_phase;
use crate::two_phase::{Effect, Order, TwoPhase, Vote};

/// How a transaction ended, as far as a retry needs it.
#[derive(Clone, Debug)]
pub(super) struct EndedAnswer {
    pub(super) digest: Option<BodyDigest>,
    pub(super) outcome: Outcome,
    pub(super) reason: Option<AbortReason>,
    /// The branches that a commit is for. Of an abort none is kept: every branch that asks is told
    /// to abort.
    pub(super) committed: Vec<Member>,
}

/// A bounded first-in-first-out cache, with a horizon: what ended after it is all here.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    answers: GtidMap<Option<EndedAnswer>>,
    order: VecDeque<(Gtid, u64)>,
    capacity: usize,
    horizon_ms: u64,
    started_at_ms: u64,
    /// An earlier process has served this log.
    has_predecessor: bool,
}

/// How far clocks of initiators may be off before their transactions cost a look into the log.
const SKEW_MS: u64 = 1_000;
/// The same for begins, which are refused within it after a start; initiators then mint anew.
const BEGIN_SKEW_MS: u64 = 250;

impl Ended {
    /// An empty cache of a process that starts now.
    pub(super) fn new(capacity: usize, now_ms: u64, has_predecessor: bool) -> Self {
        Self {
            answers: GtidMap::default(),
            order: VecDeque::new(),
            capacity: capacity.max(1),
            horizon_ms: if has_predecessor { now_ms } else { 0 },
            started_at_ms: now_ms,
            has_predecessor,
        }
    }

    /// Keeps an answer; `None` keeps only the fact that there is one in the log (a saga's outputs
    /// may be large).
    pub(super) fn keep(&mut self, gtid: Gtid, answer: Option<EndedAnswer>, now_ms: u64) {
        if self.answers.insert(gtid, answer).is_none() {
            self.order.push_back((gtid, now_ms));
        }
        while self.order.len() > self.capacity {
            if let Some((oldest, ended_at_ms)) = self.order.pop_front() {
                self.answers.remove(&oldest);
                self.horizon_ms = self.horizon_ms.max(ended_at_ms);
            }
        }
    }

    /// What is known: `None` nothing, `Some(None)` that the log knows.
    pub(super) fn get(&self, gtid: Gtid) -> Option<Option<&EndedAnswer>> {
        self.answers.get(&gtid).map(Option::as_ref)
    }

    /// Whether a gtid that nothing and nobody knows may have been begun with an earlier process,
    /// and be lost with its memory.
    ///
    /// Such a transaction must not be begun anew: branches that enlisted with the earlier process
    /// would miss.
    pub(super) fn may_be_lost(&self, gtid: Gtid) -> bool {
        self.has_predecessor && gtid.minted_at_ms() < self.started_at_ms + BEGIN_SKEW_MS
    }

    /// Whether a gtid was minted while this process ran, by the initiator's clock: no earlier
    /// process can have met it.
    pub(super) fn is_of_this_process(&self, gtid: Gtid, now_ms: u64) -> bool {
        !self.has_predecessor || !self.may_be_lost(gtid) && gtid.minted_at_ms() < now_ms + SKEW_MS
    }

    /// Whether a transaction that is neither in memory nor in this cache cannot have ended before:
    /// it was minted after everything that this cache may have forgotten had ended.
    ///
    /// The mint time is by the initiator's clock, hence the margin; a clock that is off by more
    /// only costs a lookup when it is behind or far ahead. An initiator that says that it asks for
    /// the first time is believed only together with this.
    pub(super) fn is_fresh(&self, gtid: Gtid, now_ms: u64) -> bool {
        let minted_at_ms = gtid.minted_at_ms();
        minted_at_ms > self.horizon_ms + SKEW_MS && minted_at_ms < now_ms + SKEW_MS
    }
}

/// A transaction that has ended, from the cache or from the log.
pub(super) struct EndedHere {
    digest: Option<BodyDigest>,
    outcome: Outcome,
    reason: Option<AbortReason>,
    outputs: Vec<(Name, Bytes)>,
    /// The branches that a commit is for.
    roster: Vec<Member>,
}

impl From<&record::Ended> for EndedHere {
    fn from(ended: &record::Ended) -> Self {
        let outputs = ended.outputs.iter().filter_map(|(step, output)| {
            let name = ended.branches.get(usize::from(step.0))?.step.clone()?;
            Some((name, output.clone()))
        });
        Self {
            digest: Some(ended.digest),
            outcome: ended.outcome,
            reason: ended.reason.as_deref().map(AbortReason::from_line),
            outputs: outputs.collect(),
            roster: ended.told_to_commit(),
        }
    }
}

/// A decision that is durable, although not every branch has learnt it.
impl From<&record::Decided> for EndedHere {
    fn from(decided: &record::Decided) -> Self {
        Self {
            digest: Some(decided.digest),
            outcome: match decided.decision {
                Decision::Commit => Outcome::Committed,
                Decision::Abort => Outcome::Aborted,
            },
            reason: decided.reason.as_deref().map(AbortReason::from_line),
            outputs: Vec::new(),
            roster: decided.members.clone(),
        }
    }
}

impl EndedHere {
    /// Whether a request with this key has another body than the one that ended.
    ///
    /// A transaction that aborted before its commit was asked for has no digest: any body meets the
    /// same abort.
    fn has_other_body(&self, ask: &Ask) -> bool {
        let is_saga = matches!(self.outcome, Outcome::Completed | Outcome::Compensated);
        let asked = match ask {
            Ask::Commit(commit) if !is_saga => digest::of_commit(commit.protocol, &commit.branches),
            Ask::StartSaga { definition, .. } if is_saga => digest::of_definition(definition),
            Ask::Commit(_) | Ask::StartSaga { .. } => BodyDigest(0),
            Ask::Begin { .. } | Ask::Abort { .. } | Ask::Await { .. } | Ask::Enlist { .. } => return false,
        };
        self.digest.is_some_and(|known| known != asked && known != BodyDigest(0))
    }
}

impl Replica {
    pub(super) fn ended_at_hand(&self, gtid: Gtid) -> Option<EndedHere> {
        let EndedAnswer { digest, outcome, reason, committed } = self.ended.get(gtid)??.clone();
        Some(EndedHere { digest, outcome, reason, outputs: Vec::new(), roster: committed })
    }

    pub(super) fn answer_ended(&mut self, gtid: Gtid, session: SessionId, message: &FromClient, ended: EndedHere) {
        match message {
            FromClient::Request(request) => self.request_to_ended(session, request, ended),
            FromClient::Branch(report) => match &report.message {
                branch::Message::Inquire | branch::Message::Vote(Vote::Yes | Vote::Unknown(_)) => {
                    self.repeat_decision(gtid, report.branch, session, &ended);
                }
                branch::Message::Vote(Vote::No(_) | Vote::ReadOnly | Vote::Committed)
                | branch::Message::Acknowledge(_) => {}
            },
            FromClient::Voter(report) => match &report.message {
                // A voter has the outcome on record, and may not have heard that it need not keep
                // it.
                VoterMessage::AskLog { request: three_phase::Request::Decided(_), .. } => {
                    self.peers.forget(session, gtid);
                }
                VoterMessage::AskLog { branch, .. } => self.repeat_decision(gtid, *branch, session, &ended),
                VoterMessage::Answered(_) => {}
            },
            FromClient::Step(_) | FromClient::Hello(_) | FromClient::Heartbeat => {}
        }
    }

    pub(super) fn request_to_ended(&mut self, session: SessionId, request: &Request, ended: EndedHere) {
        let caller = Caller { session: session.0, request: request.request_id };
        if ended.has_other_body(&request.ask) {
            return self.refuse(caller, Refusal::KeyReused);
        }
        match &request.ask {
            Ask::Begin { .. } | Ask::Commit(_) | Ask::StartSaga { .. } | Ask::Abort { .. } | Ask::Await { .. } => {
                let EndedHere { outcome, reason, outputs, .. } = ended;
                self.reply(caller, Reply::Outcome { outcome, reason, outputs });
            }
            Ask::Enlist { .. } => self.refuse(caller, not_open()),
        }
    }

    /// A branch that is still, or again, prepared although its transaction has ended. Only a branch
    /// of the roster is told to commit: one whose enlistment never arrived was never part of what
    /// was decided.
    fn repeat_decision(&mut self, gtid: Gtid, branch: BranchId, session: SessionId, ended: &EndedHere) {
        let Some((participant, instance)) = self.participant_of(session) else { return };
        let member = Member { participant, branch };
        let order = match ended.outcome {
            Outcome::Committed if ended.roster.contains(&member) => Order::Commit,
            Outcome::Committed | Outcome::Aborted => Order::Abort,
            Outcome::Completed | Outcome::Compensated => return,
        };
        let effect = Effect::Send { to: member.participant, branch, prefer: Some(instance), order };
        <TwoPhase as super::drive::Driven>::carry_out(self, gtid, vec![effect]);
    }
}

/// Reasons are for people; what is kept of them in memory is what a screen shows.
pub(super) fn shortened(text: &str) -> String {
    const BYTES_MAX: usize = 512;
    text[..text.floor_char_boundary(BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use crate::record::{BranchEnd, EndedBranch, Protocol};

    fn gtid(minted_at_ms: u64) -> Gtid {
        let mut bytes = [0_u8; 16];
        bytes[..6].copy_from_slice(&minted_at_ms.to_be_bytes()[2..]);
        bytes[6] = 0x70;
        bytes[8] = 0x80;
        Gtid::from_bytes(&bytes).expect("version 7")
    }

    /// As the log's verdict has it, before the end and after it.
    #[test]
    fn only_the_branches_that_a_commit_is_for_are_told_to_commit() {
        let branch = |name: &str, end| EndedBranch {
            participant: name.parse().expect("a name"),
            branch: BranchId { epoch: Epoch(7), number: 1 },
            step: None,
            end,
        };
        let ended = |protocol| record::Ended {
            gtid: gtid(1),
            protocol,
            outcome: Outcome::Committed,
            has_open_row: true,
            begun_at_ms: 0,
            digest: BodyDigest(7),
            reason: None,
            branches: vec![branch("pays", BranchEnd::Committed), branch("looks", BranchEnd::ReadOnly)],
            outputs: Vec::new(),
        };
        for (protocol, expected) in
            [(Protocol::TwoPhase, &["pays"][..]), (Protocol::ThreePhase, &["pays", "looks"][..])]
        {
            let here = EndedHere::from(&ended(protocol));
            let told: Vec<&str> = here.roster.iter().map(|member| member.participant.as_str()).collect();
            assert_eq!(told, expected, "{protocol}");
        }
    }

    #[test]
    fn nothing_that_may_have_been_forgotten_is_fresh() {
        let mut ended = Ended::new(2, 10_000, true);
        assert!(!ended.is_fresh(gtid(9_000), 20_000), "minted before this process started");
        assert!(!ended.is_fresh(gtid(10_500), 20_000), "within the margin");
        assert!(ended.is_fresh(gtid(15_000), 20_000));
        assert!(!ended.is_fresh(gtid(25_000), 20_000), "minted in the future");
        for minted in [12_000, 13_000, 14_000] {
            ended.keep(gtid(minted), None, minted + 2_000);
        }
        assert!(ended.get(gtid(12_000)).is_none(), "the oldest is forgotten");
        assert!(!ended.is_fresh(gtid(14_500), 20_000), "it may have ended with the forgotten one");
        assert!(ended.is_fresh(gtid(15_500), 20_000));
    }
}
