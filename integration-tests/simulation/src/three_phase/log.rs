//! The log of the model, as far as it concerns one transaction: what it answers to each record is what the real logs promise (`coordinator/src/log/verdict.rs`).

use assent_protocol::record::{Attempted, Decided, Member};
use assent_protocol::three_phase::{Seat, VoterState};
use assent_protocol::{Appended, Decision, Outcome, Record};

use crate::append::Answer;
use crate::attest;

/// What stands about the one transaction, and who may write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) attempted: Option<Attempted>,
    /// What the log keeps as a voter.
    pub(crate) voter: Option<VoterState>,
    pub(crate) decided: Option<Decided>,
    pub(crate) ended: Option<Outcome>,
    /// The replica that owns the row.
    pub(crate) owner: usize,
    /// The life of each replica that may write; zero once it was fenced.
    pub(crate) lives: [u64; 2],
}

fn decision_of(outcome: Outcome) -> Decision {
    match outcome {
        Outcome::Committed | Outcome::Completed => Decision::Commit,
        Outcome::Aborted | Outcome::Compensated => Decision::Abort,
    }
}

impl Log {
    pub(crate) fn decision(&self) -> Option<Decision> {
        self.decided.as_ref().map(|decided| decided.decision).or_else(|| self.ended.map(decision_of))
    }

    /// The roster of the decision that stands here.
    fn members(&self) -> Vec<Member> {
        let of_attempt = || Some(self.attempted.as_ref()?.roster.participants().iter().map(Seat::member).collect());
        self.decided.as_ref().map(|row| row.members.clone()).or_else(of_attempt).unwrap_or_default()
    }

    /// Whether somebody has yet to drive it.
    pub(crate) fn is_open(&self) -> bool {
        self.ended.is_none() && (self.attempted.is_some() || self.decided.is_some())
    }

    /// In one statement: the writer's life is checked, ends that rode along are kept, and the forced record.
    pub(crate) fn append(&mut self, (writer, life): (usize, u64), lazy: &[Record], forced: Option<&Record>) -> Answer {
        if self.lives[writer] != life {
            return Answer::Fenced;
        }
        for record in lazy {
            let Record::Ended(ended) = record else { panic!("only ends are lazy: {record:?}") };
            // What was agreed on may come with the end, into the writer's own row.
            let is_anothers = self.attempted.is_some() && self.decided.is_none() && self.owner != writer;
            if !is_anothers && self.decision().is_none_or(|known| known == decision_of(ended.outcome)) {
                self.ended.get_or_insert(ended.outcome);
            }
        }
        forced.map_or(Answer::Nothing, |record| Answer::Appended(self.take(writer, record)))
    }

    fn take(&mut self, writer: usize, record: &Record) -> Appended {
        let durable = Appended::Durable(attest(record));
        let members = self.members();
        let overruled = |decision| Appended::Overruled { decision, members: members.clone() };
        let by = |mine: Decision, theirs: Decision| {
            if mine == theirs { Appended::Durable(attest(record)) } else { overruled(theirs) }
        };
        let is_owner = self.owner == writer;
        match (record, self.decision()) {
            (Record::Decided(mine), Some(Decision::Commit))
                if mine.decision == Decision::Commit && mine.members.iter().any(|member| !members.contains(member)) =>
            {
                overruled(Decision::Commit)
            }
            (Record::Decided(mine) | Record::Agreed(mine), Some(theirs)) => by(mine.decision, theirs),
            (Record::Voter(mine), Some(_)) if is_owner && self.ended.is_none() && self.voter == Some(mine.state) => {
                durable
            }
            (Record::Attempted(_) | Record::Voter(_), Some(theirs)) => overruled(theirs),
            (Record::Decided(mine), None) => {
                if self.attempted.is_some() {
                    return Appended::Undecided;
                }
                (self.decided, self.owner) = (Some(mine.clone()), writer);
                durable
            }
            (Record::Attempted(mine), None) => match &self.attempted {
                None => {
                    (self.attempted, self.owner) = (Some(mine.clone()), writer);
                    self.voter = Some(VoterState::ATTEMPTED);
                    durable
                }
                Some(standing) if is_owner && standing.roster == mine.roster => durable,
                Some(_) => Appended::Undecided,
            },
            (Record::Ended(mine), Some(theirs)) => {
                if theirs == decision_of(mine.outcome) {
                    self.ended.get_or_insert(mine.outcome);
                }
                by(decision_of(mine.outcome), theirs)
            }
            (Record::Agreed(_) | Record::Voter(_) | Record::Ended(_), None)
                if self.attempted.is_none() || !is_owner =>
            {
                Appended::Undecided
            }
            (Record::Agreed(mine), None) => {
                self.decided = Some(mine.clone());
                durable
            }
            (Record::Ended(mine), None) => {
                self.ended = Some(mine.outcome);
                durable
            }
            (Record::Voter(mine), None) => {
                if self.voter == Some(mine.state) {
                    return durable;
                }
                if self.voter != mine.before {
                    return Appended::Undecided;
                }
                self.voter = Some(mine.state);
                durable
            }
            (other, None | Some(_)) => panic!("not of this transaction: {other:?}"),
        }
    }

    /// What stands in it, in words.
    pub(crate) fn words(&self) -> String {
        let vote = self.voter.map(|state| format!("as a voter {}", voter_words(Some(state))));
        let row = match (self.ended, &self.decided) {
            (Some(outcome), _) => format!("ended: {outcome}"),
            (None, Some(decided)) => format!("{} is durable", decided.decision),
            (None, None) if self.attempted.is_some() => "attempt 1 sent".to_owned(),
            (None, None) => return "nothing".to_owned(),
        };
        format!(
            "{row}, coordinator {} drives it{}",
            self.owner,
            vote.map(|vote| format!(", {vote}")).unwrap_or_default()
        )
    }
}

/// A voter's state, in words.
pub(crate) fn voter_words(state: Option<VoterState>) -> String {
    let Some(state) = state else { return "has not voted".to_owned() };
    let accepted = state.accepted.map(|ballot| format!(", accepted {}", ballot.round)).unwrap_or_default();
    format!("{}, joined {}.{}{accepted}", state.standing.as_str(), state.joined.round, state.joined.node.0)
}
