//! The log: the first decision of the transaction wins.

use assent_protocol::record::{Decided, Delegated, Ended, EndedBranch, Member};
use assent_protocol::{Appended, Decision, Durable, Outcome, Record};

/// What the log knows about the one transaction of this world.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    /// Open: decided, and not known to have ended.
    pub(crate) open: Option<Decided>,
    /// Open: delegated to the only branch, and neither decided nor known to have ended.
    pub(crate) delegated: Option<Delegated>,
    /// The replica that wrote the open row, and takes it up again when it restarts.
    pub(crate) owner: usize,
    /// In the history.
    pub(crate) ended: Option<Ended>,
}

impl Log {
    /// The decision that counts, if there is one.
    pub(crate) fn decision(&self) -> Option<Decision> {
        let of_outcome = |outcome| match outcome {
            Outcome::Committed | Outcome::Completed => Decision::Commit,
            Outcome::Aborted | Outcome::Compensated => Decision::Abort,
        };
        self.open.as_ref().map(|row| row.decision).or(self.ended.as_ref().map(|row| of_outcome(row.outcome)))
    }

    /// The roster of the decision, if there is one.
    pub(crate) fn members(&self) -> Vec<Member> {
        let ended = || self.ended.as_ref().map(|row| row.branches.iter().map(EndedBranch::member).collect());
        self.open.as_ref().map(|row| row.members.clone()).or_else(ended).unwrap_or_default()
    }

    /// Why, for an abort.
    pub(crate) fn reason(&self) -> Option<&str> {
        let of_open = self.open.as_ref().and_then(|row| row.reason.as_deref());
        of_open.or(self.ended.as_ref().and_then(|row| row.reason.as_deref()))
    }

    /// Appends a forced record. Doing it again gives the same answer.
    pub(crate) fn append(&mut self, writer: usize, record: &Record) -> Appended {
        let decided = match record {
            Record::Decided(decided) => decided,
            Record::Delegated(delegated) => return self.delegate(writer, record, delegated),
            other => panic!("only decisions and delegations are forced: {other:?}"),
        };
        match self.decision() {
            None if self.delegated.is_some() && self.owner != writer => Appended::Undecided,
            None => {
                self.delegated = None;
                self.open = Some(decided.clone());
                self.owner = writer;
                Appended::Durable(attest(record))
            }
            Some(Decision::Commit) if decided.decision == Decision::Commit && self.is_for_others(&decided.members) => {
                self.overruled(Decision::Commit)
            }
            Some(known) if known == decided.decision => Appended::Durable(attest(record)),
            Some(known) => self.overruled(known),
        }
    }

    /// Whether the commit that stands here does not name all of these branches.
    fn is_for_others(&self, members: &[Member]) -> bool {
        let standing = self.members();
        members.iter().any(|member| !standing.contains(member))
    }

    fn overruled(&self, decision: Decision) -> Appended {
        Appended::Overruled { decision, members: self.members() }
    }

    fn delegate(&mut self, writer: usize, record: &Record, delegated: &Delegated) -> Appended {
        match self.decision() {
            Some(known) => self.overruled(known),
            None if self.delegated.is_some() && self.owner != writer => Appended::Undecided,
            None => {
                self.delegated = Some(delegated.clone());
                self.owner = writer;
                Appended::Durable(attest(record))
            }
        }
    }

    /// Appends what rode along.
    pub(crate) fn append_lazily(&mut self, record: &Record) {
        let Record::Ended(ended) = record else { panic!("only ends are lazy: {record:?}") };
        if ended.has_open_row {
            self.open = None;
            self.delegated = None;
        }
        if self.open.is_none() && self.ended.is_none() {
            self.ended = Some(ended.clone());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is a log")]
fn attest(record: &Record) -> Durable {
    Durable::attest(record.id())
}
