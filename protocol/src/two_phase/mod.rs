//! Two-phase commit on the coordinator's side, with presumed abort.
//!
//! The protocol is that of Mohan, Lindsay and Obermarck, *Transaction Management in the R\*
//! Distributed Database Management System* (1986): nothing is logged before the decision, only a
//! commit is forced, and a transaction that the log does not know was aborted. One record precedes
//! a decision: the delegation to an only branch.
//!
//! | state | commit requested | abort requested | enlisted | voted | acknowledged | inquired | joined / left | absent / unknown | deadline | appended |
//! |---|---|---|---|---|---|---|---|---|---|---|
//! | active | roster frozen, prepare sent: **preparing**; the only branch may commit by itself: **delegating**; all had voted: **deciding** | **aborting** | branch added | ignored | ignored | kept waiting | ignored | ignored | **aborting** | - |
//! | preparing | waits | **deciding** abort | refused | all yes: **deciding**; no or unknown: **aborting** | ignored | kept waiting | prepare sent / asked instance gone: **aborting** | waited for / **aborting** | **aborting** | - |
//! | delegating | waits | waits; noted | refused | ignored | ignored | kept waiting | ignored | ignored | noted | durable: order sent, **one-phase**; an abort noted: **deciding** abort; overruled: what the log says; undecided: ignored |
//! | one-phase | waits | waits | refused | committed: **committed**; no: **aborted**, or **recalling** if another instance was asked too; read-only, yes: **deciding** commit; unknown: asked again | ignored | kept waiting | asked again | waited for / **deciding** abort; if it was asked before, asked again | **deciding** abort while it was never asked, else asked again | - |
//! | recalling | waits | waits | refused | committed: **committed**; all else: abort sent again | done: **aborted**; had committed: **committed** | abort sent | abort sent / ignored | ignored | ignored | - |
//! | deciding | waits | waits | refused | ignored | ignored | kept waiting | ignored | ignored | ignored | durable: **committing** or **aborting**; overruled: what the log says; undecided: ignored |
//! | committing | told committed | told committed | refused | commit sent again | all: **committed** | commit sent | commit sent / ignored | ignored | ignored | - |
//! | aborting | told aborted; if the request may recur and there is no record yet: **deciding** abort | as for a commit | refused | yes, unknown: abort sent again; no: branch ended, all: **aborted** | all: **aborted** | abort sent | abort sent / ignored | never asked: branch ended, all: **aborted** | ignored | - |
//! | committed, aborted | told | told | refused | order sent again, save to commit what was delegated | ignored | as for a vote | ignored | ignored | ignored | - |
//!
//! Where the table says **aborting**, **aborted** or **committed** and the request may recur, the
//! transaction passes through **deciding**. It skips **committing** and **aborting** when no branch
//! has to be told. From **one-phase** and **recalling** it need not pass through **deciding** to
//! end: the delegation stands in the log until the end does, and a coordinator that finds it there
//! asks the branch once more. An enlistment that comes again is answered as it was the first time,
//! in every state.
//!
//! Whoever asks from outside of the frozen roster is told to abort, except while the log has yet to
//! answer, or when it has overruled this machine with a commit: there is a roster that this machine
//! does not know.
//!
//! A branch is in the roster by its participant **and** its id ([`BranchId`]). Another branch of the
//! same participant comes from a call that came twice, or from an earlier run: it asks from outside,
//! and its vote and acknowledgement move nothing. An acknowledgement counts only where it answers
//! the order that the machine gives, by decision and epoch; a failure to carry it out is for
//! operators. Everything else is ignored in every state.
//!
//! Where the log overrules with a commit it names the branches that it commits. A branch of this
//! machine that it does not name is **outside**: it is told to abort, once and whenever it asks, and
//! not waited for.
//!
//! The resend timer repeats the order of the state (prepare is never repeated to an instance that
//! may be working on it, except for one-phase, whose participants promise that asking again is
//! safe) and is ignored in every other state.
//!
//! **One-phase is a delegation.** `Delegated` is durable before the only branch is ordered to
//! commit by itself, and from then on only that branch's answer decides. The order leaves with the
//! log's word, not with a timer or a request, so an abort that is asked for while the record is on
//! its way still comes before it. That abort goes through the log, for the delegation may be
//! durable already. A coordinator that finds a delegation in the log **recalls** it: it orders the
//! branch to abort. 'It had committed' is the commit; an acknowledged abort is the abort, for a
//! branch that has acknowledged it never commits by itself, however late the order to do so reaches
//! it. A no is final only where one instance was asked: another one may still be at work, or have
//! the order in its queue. A transaction that the log does not know was never delegated, so no
//! branch has committed it by itself. While the row has no decision the branch is never ordered to
//! commit, not even when it votes once more after the end: the acknowledgement could reach the next
//! coordinator, which would take it for that of its order to abort.
//!
//! Under three-phase commit the voters' agreement stands in the log's place (`TwoPhase::agreed`,
//! which only that machine can call): it leads out of deciding commit as the log's word does, to
//! commit or abort; out of active and preparing, where it can only be an abort, as the deadline
//! does; and is ignored in every other state.
//!
//! Why an abort need not be logged: nothing but this machine can commit the transaction, and it
//! never leaves `aborting` for `committing`. Should the coordinator crash, a participant that still
//! asks finds nothing, which *is* the abort. Where the request may come again after its answer
//! (unary calls, retries), or somebody besides its sender has asked for the outcome, every outcome
//! is logged: else the repetition, met by a coordinator that has forgotten, would run the
//! transaction anew.
//!
//! Where each transition stands:
//!
//! | file | subject |
//! |---|---|
//! | `machine.rs` | the way in |
//! | `request.rs` | callers: begin, enlist, commit, abort, await |
//! | `prepare.rs` | prepares and votes, participants that join and leave, the deadline |
//! | `one_phase.rs` | the delegation to an only branch, and its recall |
//! | `decide.rs` | the decision, and the log's answer |
//! | `end.rs` | orders, acknowledgements, inquiries, the end |
//! | `recover.rs` | from what the log holds, or does not hold, to a machine |
//! | `view.rs` | what status displays show |
//! | `invariant.rs` | what must hold after every event |

#![deny(clippy::wildcard_enum_match_arm)]

pub mod invariant;

mod decide;
mod end;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod machine;
mod one_phase;
mod prepare;
mod recover;
mod request;
mod view;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::branch::Acknowledgement;
use crate::durable::Appended;
use crate::ids::{BodyDigest, BranchId, Caller, Epoch, Gtid, InstanceId, ParticipantName};
use crate::reason::{AbortReason, Refusal, Wait};
use crate::record::{Decision, Outcome};

/// The coordinator's machine for one two-phase transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TwoPhase {
    gtid: Gtid,
    epoch: Epoch,
    begun_at_ms: u64,
    /// How long a participant that is not there is waited for, in milliseconds.
    absence_ms: u64,
    state: State,
    branches: Vec<Branch>,
    /// Set by the commit request.
    digest: Option<BodyDigest>,
    /// The commit request may come again, even after its answer: the outcome is forced to the log
    /// whatever it is.
    may_recur: bool,
    /// The only branch was ordered to commit by itself at more than one instance: an earlier one
    /// may still be at work.
    was_asked_elsewhere: bool,
    /// The log holds an open row of this transaction: its decision, or the delegation to its only
    /// branch.
    has_open_row: bool,
    /// That row is a delegation, and has no decision.
    is_delegated: bool,
    /// The log's decision is another writer's, whose roster is not known here.
    is_overruled: bool,
    reason: Option<AbortReason>,
    waiters: Vec<Waiter>,
    /// How often the order of the present state was repeated.
    resends: u32,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Open: branches may enlist.
    Active,
    /// The roster is frozen; votes are being collected.
    Preparing,
    /// The delegation to the only branch is on its way to the log. That branch was not asked yet.
    Delegating,
    /// The only branch was asked to commit by itself: it decides.
    OnePhase,
    /// The delegation is taken back: the only branch is told to abort, and tells whether it had
    /// committed by itself.
    Recalling,
    /// The decision is on its way to the log. Nobody knows it yet.
    Deciding(Decision),
    /// Commit is durable; branches are being told.
    Committing,
    /// Abort is decided; branches are being told.
    Aborting,
    /// Every branch has ended after a commit.
    Committed,
    /// Every branch has ended after an abort.
    Aborted,
}

/// One branch, as the coordinator sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Branch {
    /// Whose branch.
    pub participant: ParticipantName,
    /// Which of the participant's.
    pub id: BranchId,
    /// Where it stands.
    pub state: BranchState,
    /// The instance that was asked, or that enlisted.
    pub instance: Option<InstanceId>,
    /// What its prepare is given; dropped once it was sent.
    pub payload: Bytes,
}

/// Where a branch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BranchState {
    /// Named, and not asked yet.
    Named,
    /// To be asked as soon as an instance is there.
    Waiting,
    /// Asked to prepare.
    Asked,
    /// Voted yes, durably.
    Yes,
    /// Voted read-only: done.
    ReadOnly,
    /// Voted no: undone already.
    No,
    /// Prepare ended in an error: it may or may not be prepared.
    Unknown,
    /// Committed as told.
    Committed,
    /// Aborted as told.
    Aborted,
    /// Committed by itself, against an abort.
    HeuristicCommitted,
    /// Aborted by itself, against a commit.
    HeuristicAborted,
    /// The log has committed the transaction for other branches: this one is told to abort.
    Outside,
}

/// Somebody who waits for an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Waiter {
    caller: Caller,
    wait: Wait,
    /// The answer waits for the receipt, with the orders.
    is_answer_held: bool,
}

/// A branch that the commit request carries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CarriedBranch {
    /// Whose branch.
    pub participant: ParticipantName,
    /// What its prepare is given.
    pub payload: Bytes,
}

/// A verdict on a branch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Vote {
    /// Prepared durably.
    Yes,
    /// Nothing to commit.
    ReadOnly,
    /// Refused, and undone.
    No(String),
    /// An unexpected error.
    Unknown(String),
    /// One-phase: committed.
    Committed,
}

/// How a branch ended, by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BranchResult {
    /// As it was told.
    Done,
    /// It had been committed on its own.
    HeuristicCommitted,
    /// It had been aborted on its own.
    HeuristicAborted,
}

/// A vote that comes with the enlistment (early prepare).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EarlyVote {
    /// Prepared durably.
    Yes,
    /// Nothing to commit.
    ReadOnly,
}

/// What can happen to a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The initiator asks again to open it.
    BeginRequested {
        /// Who asks.
        caller: Caller,
    },
    /// A branch enlists after its work, prepared.
    Enlisted {
        /// Whose branch.
        participant: ParticipantName,
        /// Which of the participant's.
        branch: BranchId,
        /// Where it was prepared.
        instance: InstanceId,
        /// Its vote.
        vote: EarlyVote,
        /// Who waits for the answer.
        caller: Caller,
    },
    /// A branch is named, to be prepared at the commit.
    BranchNamed {
        /// The branch.
        branch: CarriedBranch,
        /// The identity that it gets.
        id: BranchId,
        /// Who waits for the answer.
        caller: Caller,
    },
    /// The initiator asks to commit.
    CommitRequested {
        /// Branches to prepare, beside those that are there.
        branches: Vec<CarriedBranch>,
        /// The identity that the first of them gets; the others get the numbers behind it.
        first_id: BranchId,
        /// The digest of the request's body.
        digest: BodyDigest,
        /// Whether an only branch may be asked to commit by itself.
        one_phase: bool,
        /// Whether the request may have come before, or may come again after its answer (unary
        /// calls, retries): every outcome is then made durable before it is told.
        may_recur: bool,
        /// Who waits.
        caller: Caller,
        /// For what.
        wait: Wait,
    },
    /// The initiator asks to abort.
    AbortRequested {
        /// Why.
        reason: String,
        /// Who waits for the answer.
        caller: Caller,
    },
    /// Somebody waits for the outcome.
    OutcomeAwaited {
        /// Who waits.
        caller: Caller,
        /// For what.
        wait: Wait,
    },
    /// A session with callers is gone: nobody there waits any more.
    CallerLeft {
        /// The session's number, as in [`Caller`].
        session: u64,
    },
    /// An order was handed to a session, or there was none to take it. Told once for each order, in
    /// their order, after all effects of the output were carried out.
    Routed {
        /// Whose order.
        participant: ParticipantName,
        /// Who took it.
        to: Route,
    },
    /// A branch voted.
    Voted {
        /// Whose vote.
        participant: ParticipantName,
        /// Which of the participant's branches.
        branch: BranchId,
        /// Where.
        instance: InstanceId,
        /// The vote.
        vote: Vote,
    },
    /// A branch has ended as it was ordered to, or has failed to.
    Acknowledged {
        /// Whose branch.
        participant: ParticipantName,
        /// Which of the participant's.
        branch: BranchId,
        /// What the order was, and how it went.
        acknowledgement: Acknowledgement,
    },
    /// A prepared branch asks for the decision.
    Inquired {
        /// Whose branch.
        participant: ParticipantName,
        /// Which of the participant's.
        branch: BranchId,
        /// Where.
        instance: InstanceId,
    },
    /// An instance of a participant is there.
    Joined {
        /// Whose instance.
        participant: ParticipantName,
    },
    /// An instance of a participant has gone.
    Left {
        /// Whose instance.
        participant: ParticipantName,
        /// Which.
        instance: InstanceId,
    },
    /// A timer fired.
    TimerFired(Timer),
    /// The log answered.
    Appended(Appended),
}

/// Where an order went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Route {
    /// To this instance.
    Instance(InstanceId),
    /// Nowhere: no instance is there now, though there were some before.
    Absent,
    /// Nowhere: no participant of this name was ever there.
    Unknown,
}

/// The timers of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Timer {
    /// An undecided transaction aborts.
    Deadline,
    /// A participant that is not there is waited for no longer.
    Absence,
    /// The order of the present state is repeated to those who have not answered.
    Resend,
}

/// What a participant is told to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Order {
    /// Do the work, make it durable, vote.
    Prepare {
        /// From the initiator.
        payload: Bytes,
        /// The only branch: commit by itself.
        one_phase: bool,
    },
    /// Commit.
    Commit,
    /// Abort.
    Abort,
}

/// What a transaction wants done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Tell a participant. An order that could not be handed over is repeated by the machine
    /// itself.
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
    /// Answer a request.
    Reply {
        /// Whose.
        to: Caller,
        /// The answer.
        reply: Reply,
    },
    /// (Re)start a timer.
    SetTimer {
        /// Which.
        timer: Timer,
        /// After how long, in milliseconds.
        after_ms: u64,
        /// Whether the driver draws the wait from zero to `after_ms`.
        jitter: bool,
    },
    /// Stop a timer.
    CancelTimer(Timer),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reply {
    /// The transaction is open.
    Begun,
    /// The branch is part of it.
    Enlisted,
    /// It is decided, or has ended.
    Outcome {
        /// How.
        outcome: Outcome,
        /// Why, for an abort.
        reason: Option<AbortReason>,
    },
    /// The request changed nothing.
    Refused(Refusal),
}

/// How long the machine waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// An undecided transaction aborts after this long, in milliseconds.
    pub timeout_ms: u64,
    /// A participant that is not there is waited for this long, in milliseconds.
    pub absence_ms: u64,
}

/// The first interval between repeated orders, in milliseconds; it doubles up to [`RESEND_MAX_MS`].
pub const RESEND_INITIAL_MS: u64 = 1_000;
/// The longest interval between repeated orders, in milliseconds.
pub const RESEND_MAX_MS: u64 = 30_000;
