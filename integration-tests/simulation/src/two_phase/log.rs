//! The log of the model: first writer wins, and a fenced writer never does.

use assent_protocol::record::{Decided, Delegated, Ended, EndedBranch, Member};
use assent_protocol::{Appended, BranchEnd, Decision, Outcome, Record};

use crate::append::Answer;
use crate::attest;

/// A log as it should be, and logs as they should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Sound,
    /// A later decision replaces an earlier one.
    Upserts,
    /// It fails over to a copy that lacks the last append, as asynchronous replication does.
    LosesItsTail,
}

/// What stands in the log about the one transaction, and who may write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    pub(crate) open: Option<Decided>,
    /// Its only branch decides; the log does not know how yet.
    pub(crate) delegated: Option<Delegated>,
    /// The replica that drives the open row.
    pub(crate) owner: usize,
    pub(crate) ended: Option<Ended>,
    /// What had ended when its retention was over. The log does not know.
    pub(crate) removed: Option<Decision>,
    /// The life of each replica that may write; zero once it was fenced.
    pub(crate) lives: [u8; 2],
    /// Before the last append, for a log that loses it.
    before: Option<Box<Rows>>,
}

type Rows = (Option<Decided>, Option<Delegated>, Option<Ended>);

impl Log {
    pub(crate) fn new() -> Self {
        Self { open: None, delegated: None, owner: 0, ended: None, removed: None, lives: [0; 2], before: None }
    }

    pub(crate) fn decision(&self) -> Option<Decision> {
        let of_end = || self.ended.as_ref().map(|ended| decision_of(ended.outcome));
        self.open.as_ref().map(|row| row.decision).or_else(of_end)
    }

    /// Whether there is something for its owner to resume.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some() || self.delegated.is_some()
    }

    /// Appends what rode along, and a decision: in one statement, with the writer's epoch checked in it.
    pub(crate) fn append(
        &mut self,
        kind: Kind,
        writer: (usize, u8),
        lazy: &[Record],
        forced: Option<&Record>,
    ) -> Answer {
        if self.lives[writer.0] != writer.1 {
            return Answer::Fenced;
        }
        let before = (kind == Kind::LosesItsTail).then(|| Box::new(self.rows()));
        for record in lazy {
            let Record::Ended(ended) = record else { panic!("only ends are lazy: {record:?}") };
            // Only who drives a delegation knows how it ended, and an end never contradicts the decision.
            let is_driven = self.delegated.is_none() || (self.owner == writer.0 && ended.has_open_row);
            if is_driven && self.decision().is_none_or(|known| known == decision_of(ended.outcome)) {
                self.open = None;
                self.delegated = None;
                self.ended.get_or_insert_with(|| ended.clone());
            }
        }
        let appended = forced.map(|record| match record {
            Record::Decided(decided) => match self.decision() {
                Some(known) if known != decided.decision && kind != Kind::Upserts => self.overruled(known),
                Some(Decision::Commit)
                    if decided.decision == Decision::Commit && self.is_for_others(&decided.members) =>
                {
                    self.overruled(Decision::Commit)
                }
                Some(known) if known == decided.decision => Appended::Durable(attest(record)),
                None if self.delegated.is_some() && self.owner != writer.0 => Appended::Undecided,
                Some(_) | None => {
                    self.delegated = None;
                    self.open = Some(decided.clone());
                    self.owner = writer.0;
                    Appended::Durable(attest(record))
                }
            },
            Record::Delegated(delegated) => match self.decision() {
                Some(known) => self.overruled(known),
                None if self.delegated.is_some() && self.owner != writer.0 => Appended::Undecided,
                None => {
                    self.delegated = Some(delegated.clone());
                    self.owner = writer.0;
                    Appended::Durable(attest(record))
                }
            },
            other => panic!("only decisions and delegations are forced: {other:?}"),
        });
        if before.as_ref().is_some_and(|before| **before != self.rows()) {
            self.before = before;
        }
        appended.map_or(Answer::Nothing, Answer::Appended)
    }

    /// The roster of the decision that stands here.
    pub(crate) fn members(&self) -> Vec<Member> {
        let of_end = || Some(self.ended.as_ref()?.branches.iter().map(EndedBranch::member).collect());
        self.open.as_ref().map(|row| row.members.clone()).or_else(of_end).unwrap_or_default()
    }

    /// Whether the commit that stands here does not name all of these branches.
    fn is_for_others(&self, members: &[Member]) -> bool {
        let standing = self.members();
        members.iter().any(|member| !standing.contains(member))
    }

    fn overruled(&self, decision: Decision) -> Appended {
        Appended::Overruled { decision, members: self.members() }
    }

    fn rows(&self) -> Rows {
        (self.open.clone(), self.delegated.clone(), self.ended.clone())
    }

    /// Its retention is over: what has ended is as if it had never been.
    pub(crate) fn remove(&mut self) {
        self.removed = self.removed.or(self.decision());
        self.ended = None;
    }

    pub(crate) fn may_lose_its_tail(&self) -> bool {
        self.before.is_some()
    }

    pub(crate) fn lose_its_tail(&mut self) {
        if let Some(before) = self.before.take() {
            (self.open, self.delegated, self.ended) = *before;
        }
    }

    /// What a branch that asks is told, if the log knows the transaction.
    pub(crate) fn answer_for(&self, member: &Member) -> Option<Decision> {
        if let Some(open) = &self.open {
            return Some(if open.members.contains(member) { open.decision } else { Decision::Abort });
        }
        let ended = self.ended.as_ref()?;
        let has_committed = ended.branches.iter().any(|branch| {
            branch.member() == *member && matches!(branch.end, BranchEnd::Committed | BranchEnd::HeuristicAborted)
        });
        Some(if has_committed { decision_of(ended.outcome) } else { Decision::Abort })
    }
}

fn decision_of(outcome: Outcome) -> Decision {
    match outcome {
        Outcome::Committed | Outcome::Completed => Decision::Commit,
        Outcome::Aborted | Outcome::Compensated => Decision::Abort,
    }
}
