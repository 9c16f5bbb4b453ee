//! The coordinator's machine for one three-phase transaction.
//!
//! It wraps [`TwoPhase`], which collects votes, tells branches, answers callers and ends, as with two phases. Only how the decision to commit is
//! made durable differs: from that machine's point of view, the voters are a slower log.
//!
//! | stage | who decides | leaves |
//! |---|---|---|
//! | voting | [`TwoPhase`], to abort; the log may have an abort, and nothing else | all voted yes: **attempting** |
//! | attempting | the log: 'attempt 1 sent' is on its way | durable: **agreeing**; overruled: **agreed** |
//! | agreeing | the voters: the [`Leader`] is at work | announced by it or by a peer: **agreed** |
//! | agreed | nobody any more | |
//!
//! | stage | inquired, asked by a peer | told the outcome by a peer | log due | election timer | voter's answer |
//! |---|---|---|---|---|---|
//! | voting | told to wait, or to abort once that is decided | abort: **agreed** on it; commit: ignored | ignored | ignored | ignored |
//! | attempting | kept for the log | **agreed** | ignored: the log is at work | ignored | ignored |
//! | agreeing | the log is asked | **agreed** | next append | next ballot | to the leader |
//! | agreed | told the outcome | ignored | next append | ignored | ignored |
//!
//! The log is a voter as any other, and need not be there: what it is asked stands in a queue, of which one append at a time is on its
//! way. [`Effect::LogDue`] says that the queue has work; the driver answers it at once with [`Event::LogDue`], and the output of that event is the append,
//! with what waits for it sealed behind. So the log's silence holds up its own answers, and nothing else: a quorum of participants ends the
//! transaction without it. What they agreed on is appended with the transaction's end: one record. Only where a branch has not acknowledged by
//! the time that its order is repeated, the decision is appended by itself.
//!
//! The roster is frozen before the first prepare is sent, so all participants must have been introduced by then: where each one's voter is
//! reached, and the identity of its store. An early prepare is asked for its vote like all others, since it knew no roster when it prepared. A participant
//! that has nothing to commit stays a voter, and votes yes: a roster that shrank would be a second roster.

mod log;
mod machine;
mod roster;
mod view;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ballot::NodeId;
use super::leader::Leader;
use super::roster::{PeerAddress, Roster, StoreId};
use super::voter::{Answer, Request, VoterState};
use crate::durable::Output;
use crate::ids::{BranchId, Caller, InstanceId, ParticipantName};
use crate::record::{Decision, Ended, Member, Record};
use crate::two_phase::{self, Reply, TwoPhase};

/// The coordinator's machine for one three-phase transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Coordinator {
    transaction: TwoPhase,
    node: NodeId,
    /// The identity of the log that it appends to.
    log_store: StoreId,
    stage: Stage,
    /// Where those who are to be asked have their voters, until the roster is frozen.
    voters: BTreeMap<ParticipantName, (PeerAddress, StoreId)>,
    /// Those who prepared before the commit was asked for: which branch, and where.
    early: BTreeMap<ParticipantName, (BranchId, InstanceId)>,
    /// Frozen with the first prepare (I8).
    roster: Option<Roster>,
    leader: Option<Leader>,
    /// What the log keeps as a voter, once the append on its way is through.
    log: Option<VoterState>,
    /// What the log has yet to be asked.
    asks: VecDeque<Ask>,
    /// What is on its way to the log: one append at a time.
    appending: Option<Appending>,
    /// A branch lets the end be waited for: the decision is to be logged by itself.
    is_decision_due: bool,
    /// The decision is in the log.
    is_decision_logged: bool,
    /// The end waits for the log.
    end: Option<Ended>,
}

/// Where a three-phase transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// Branches enlist and vote.
    Voting,
    /// Every branch voted yes; 'attempt 1 sent' is on its way to the log.
    Attempting,
    /// The voters are asked, in the first attempt or by elections.
    Agreeing,
    /// The outcome is certain.
    Agreed(Decision),
}

/// What the log is asked as a voter, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Ask {
    asker: Asker,
    request: Request,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Asker {
    OwnLeader,
    Peer { member: Member, instance: InstanceId },
}

/// What is on its way to the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Appending {
    /// A decision that is not the voters'.
    Plain,
    /// 'Attempt 1 sent'.
    Attempt,
    /// The log as a voter; the answer, if it is the own leader's.
    Vote(Option<Answer>),
    /// What the voters agreed on.
    Decision,
    /// The end, and with it what they agreed on.
    End,
}

/// What can happen to a three-phase transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What can happen with two phases too.
    TwoPhase(two_phase::Event),
    /// The answer to [`Effect::Introduce`].
    Introduced {
        /// Who.
        participant: ParticipantName,
        /// Its voter's place, if that is known.
        introduction: Introduction,
    },
    /// A participant's voter answered [`Order::Ask`].
    Answered {
        /// Whose.
        participant: ParticipantName,
        /// What.
        answer: Answer,
    },
    /// A participant that leads an election asks the log as a voter, or tells it the outcome.
    Asked {
        /// Who, and for which of its branches.
        member: Member,
        /// Where the answer goes.
        instance: InstanceId,
        /// What.
        request: Request,
    },
    /// The answer to [`Effect::LogDue`].
    LogDue,
    /// The timer of the leader fired.
    ElectionDue,
}

/// What is known of a participant's voter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Introduction {
    /// Where it is, from its session.
    Voter {
        /// Where its peers reach it.
        address: PeerAddress,
        /// The store that keeps its state.
        store: StoreId,
    },
    /// No instance is there now, and nothing is known.
    Absent,
    /// It is there, and has no voter.
    NoVoter,
    /// No participant of this name was ever there.
    Unknown,
}

/// The timers of a three-phase transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Timer {
    /// As with two phases.
    TwoPhase(two_phase::Timer),
    /// The present attempt has taken too long.
    Election,
}

/// What a participant is told to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Order {
    /// Do the work, make it durable, and vote once the voter's yes is durable.
    Prepare {
        /// From the initiator.
        payload: Bytes,
        /// Who votes.
        roster: Roster,
        /// It prepared before the commit was asked for: no hook is called, only its voter votes.
        is_prepared: bool,
    },
    /// Commit.
    Commit,
    /// Abort.
    Abort,
    /// The answer to an inquiry: there is no decision yet, and the coordinator is at it.
    Wait,
    /// For the participant's voter; its answer comes back as [`Event::Answered`].
    Ask(Request),
    /// Every branch has ended: the voter's record may go.
    Forget,
}

/// What a three-phase transaction wants done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Tell a participant. Told as [`two_phase::Event::Routed`], as with two phases, for prepare, commit and abort.
    Send {
        /// Whom.
        to: ParticipantName,
        /// Which of the participant's branches it is about.
        branch: BranchId,
        /// The instance to ask first, if it is there; any other may be asked instead.
        prefer: Option<InstanceId>,
        /// What.
        order: Order,
    },
    /// The log's answer to a participant that leads an election.
    Answer {
        /// Whom.
        to: ParticipantName,
        /// Which instance.
        instance: InstanceId,
        /// What.
        answer: Answer,
    },
    /// Answer a caller's request.
    Reply {
        /// Whose.
        to: Caller,
        /// The answer.
        reply: Reply,
    },
    /// Say where a participant's voter is: answered at once by [`Event::Introduced`].
    Introduce(ParticipantName),
    /// The log has to be asked: answered at once by [`Event::LogDue`].
    LogDue,
    /// (Re)start a timer.
    SetTimer {
        /// Which.
        timer: Timer,
        /// At least this long, in milliseconds.
        after_ms: u64,
        /// And by chance up to this much longer, in milliseconds.
        jitter_ms: u64,
    },
    /// Stop a timer.
    CancelTimer(Timer),
}

/// An output that is being put together.
#[derive(Default)]
struct Draft {
    forced: Option<Record>,
    lazy: Vec<Record>,
    effects: Vec<Effect>,
}

impl Draft {
    fn finish(self) -> Output<Effect> {
        let output = match self.forced {
            Some(record) => Output::after(record, self.effects),
            None => Output::effects(self.effects),
        };
        self.lazy.into_iter().fold(output, Output::with_lazy)
    }
}
