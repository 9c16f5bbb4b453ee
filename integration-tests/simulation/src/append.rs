//! A forced record under way to a log, and what the log answers: the same for every protocol.

use std::hash::{Hash, Hasher};

use assent_protocol::{Appended, Output};

/// What a log answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Appended(Appended),
    /// There was no forced record to answer.
    Nothing,
    Fenced,
}

/// A forced record under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Append<E> {
    pub(crate) output: Output<E>,
    pub(crate) answer: Option<Answer>,
}

impl<E: Hash> Hash for Append<E> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.output.forced().hash(state);
        self.output.peek_effects().hash(state);
        // A receipt is not hashed; which answer it is, is.
        match &self.answer {
            None => 0_u8.hash(state),
            Some(Answer::Appended(Appended::Durable(_))) => 1_u8.hash(state),
            Some(Answer::Appended(Appended::Overruled { decision, members })) => (decision, members).hash(state),
            Some(Answer::Appended(Appended::Undecided)) => 3_u8.hash(state),
            Some(Answer::Fenced) => 2_u8.hash(state),
            Some(Answer::Nothing) => 4_u8.hash(state),
        }
    }
}
