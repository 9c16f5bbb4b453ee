//! The agent: the machine around the machines of one process of a participant or an initiator. It
//! decides what that process does with each input.
//!
//! An agent does no I/O, reads no clock and draws no random number. The order of calls, for its
//! shell:
//!
//! 1. [`Agent::handle`] takes one input, and the time.
//! 2. [`Agent::take_frame`] gives the messages for a session, as soon as the network has room for
//!    them. What was not taken when the session closes was never written, and the agent knows.
//! 3. [`Agent::take_calls`] gives the hooks to call. Each is answered with [`Input::HookReturned`]
//!    or [`Input::StepReturned`].
//! 4. [`Agent::take_answers`] gives the answers to the requests of the process. The shell draws a
//!    [`Ticket`] for each request, and no two are the same.
//! 5. [`Agent::take_questions`], [`Agent::take_peer_questions`], [`Agent::take_lookups`] and
//!    [`Agent::take_forgotten`] are for the participant's own voter, its store and its peers.
//! 6. [`Agent::take_listing`] and [`Agent::take_reading`] say whether the participant's branches in
//!    doubt are to be listed, and its voter's records to be read.
//! 7. [`Agent::take_timers`] and [`Agent::take_notices`] give what else there is to do.
//!
//! The shell chooses the moment of 2 to 7, and nothing else: what is in them is decided here.
//!
//! | file | subject |
//! |---|---|
//! | `sessions` | sessions, and the messages that wait for each |
//! | `requests` | requests of the process, across sessions |
//! | `calls` | which hook is called when |
//! | `branches` | branches, and those of two phases |
//! | `three_phase` | branches of three phases |
//! | `voter` | questions to the own voter and to peers, and what follows from the answers |
//! | `doubts` | branches that another instance left prepared |
//! | `steps` | steps of sagas |
//! | `timers` | timers to set and to stop |
//! | `notice` | what a human should know |
//! | `invariant` | what must hold between two inputs |

mod branches;
mod calls;
mod doubts;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub mod invariant;
mod notice;
mod requests;
mod sessions;
mod steps;
#[cfg(test)]
mod tests;
mod three_phase;
mod timers;
mod voter;

use std::sync::Arc;

use crate::branch::State;
use crate::ids::{BranchId, BranchKey, Epoch, Gtid, InstanceId, ParticipantName};
use crate::message::{Ask, FromClient, FromReplica, Reply};
use crate::record::Decision;
use crate::three_phase::participant::Stage;
use crate::three_phase::{Answer as VoterAnswer, NodeId, VoterName, VoterRecord};
use crate::two_phase::EarlyVote;

use branches::{Branches, Order, Prepare, What};
use calls::Calls;
use doubts::Look;
use requests::Requests;
use sessions::Sessions;
use steps::Steps;
use timers::Timers;
use voter::OwnVoter;

pub use crate::replica::SessionId;
pub use calls::{Call, Returned, StepCall, StepEnd};
pub use notice::Notice;
pub use requests::{Answer, Ticket};
pub use steps::StepKey;
pub use timers::{Timer, TimerChange};
pub use voter::{Asked, Overheard, PeerQuestion, Question};

/// What an agent is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The process.
    pub instance: InstanceId,
    /// The participant that it serves, if any.
    pub participant: Option<ParticipantName>,
    /// Whether it serves branches.
    pub serves_branches: bool,
    /// Whether it serves the steps of sagas.
    pub serves_steps: bool,
    /// Whether the participant has a voter.
    pub has_voter: bool,
    /// How many hooks of one purpose run at a time.
    pub hooks_max: usize,
    /// How often the agent looks for branches that were left prepared, in milliseconds; give or
    /// take a quarter.
    pub look_interval_ms: u64,
    /// How long such a branch has been listed when the agent asks about it, in milliseconds.
    pub look_grace_ms: u64,
    /// How old a record of the voter is when the agent cares for it, since no other process seems
    /// to, in milliseconds. So often it reads them all; give or take a quarter.
    pub kept_max_ms: u64,
}

/// What happens to an agent.
#[derive(Clone, Debug)]
pub enum Input {
    /// A session with a replica is open; comes before its messages.
    SessionOpened {
        /// Its number. No two sessions of a process have the same.
        session: SessionId,
        /// The replica's epoch.
        epoch: Epoch,
        /// The largest payload, in bytes.
        payload_bytes_max: usize,
    },
    /// A session is gone; comes after its messages.
    SessionClosed(SessionId),
    /// A replica's message.
    Message {
        /// Over which session.
        session: SessionId,
        /// What.
        message: FromReplica,
    },
    /// The process asks for something.
    Asked {
        /// The answer bears it.
        ticket: Ticket,
        /// About which transaction.
        gtid: Gtid,
        /// What.
        ask: Ask,
    },
    /// The process says something of a transaction, and the answer is of no interest. Without a
    /// session it is lost.
    Told {
        /// As of any other request.
        ticket: Ticket,
        /// Of which transaction.
        gtid: Gtid,
        /// What.
        ask: Ask,
    },
    /// The process has prepared a branch by itself, which is to be enlisted.
    Prepared {
        /// The answer bears it.
        ticket: Ticket,
        /// Which branch.
        key: BranchKey,
        /// Its vote.
        vote: EarlyVote,
    },
    /// The caller of a request has stopped waiting for its answer.
    GivenUp(Ticket),
    /// A branch that was not enlisted: the service that prepared it undoes it.
    Withdrawn(BranchKey),
    /// What stands in the participant's resource and in its voter's store, at the start.
    Found {
        /// The branches that are in doubt.
        doubts: Vec<BranchKey>,
        /// What the voter has voted and not forgotten.
        records: Vec<VoterRecord>,
    },
    /// A branch's hook has returned.
    HookReturned {
        /// Whose.
        key: BranchKey,
        /// What it came to.
        returned: Returned,
    },
    /// A step's hook has returned.
    StepReturned {
        /// Whose.
        key: StepKey,
        /// What it came to.
        end: StepEnd,
    },
    /// A timer is due.
    TimerFired(Timer),
    /// The branches in doubt that the participant lists; `None` if it cannot.
    Listed(Option<Vec<BranchKey>>),
    /// All records of the voter's store.
    RecordsRead(Vec<VoterRecord>),
    /// What the voter's store has of a transaction.
    LookedUp {
        /// Which.
        gtid: Gtid,
        /// The voter's record.
        record: Option<Arc<VoterRecord>>,
        /// The record was deleted lately.
        is_forgotten: bool,
    },
    /// The own voter has answered a question; `None` if its store fails and the asker asks again.
    VoterAnswered {
        /// What was asked.
        question: Question,
        /// The answer.
        asked: Option<Asked>,
    },
    /// A peer has asked the own voter, which has answered.
    Overheard {
        /// About which transaction.
        gtid: Gtid,
        /// What was said.
        overheard: Overheard,
    },
    /// A peer has answered.
    PeerAnswered {
        /// About which transaction.
        gtid: Gtid,
        /// Who.
        voter: VoterName,
        /// What.
        answer: VoterAnswer,
    },
    /// Take on nothing new.
    ShutDown,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Agent {
    instance: InstanceId,
    serves_branches: bool,
    serves_steps: bool,
    /// The wall clock at the input that is being handled, in Unix milliseconds.
    now_ms: u64,
    sessions: Sessions,
    requests: Requests,
    branches: Branches,
    steps: Steps,
    voter: OwnVoter,
    look: Look,
    calls: Calls,
    timers: Timers,
    notices: Vec<Notice>,
    /// How many nodes that may lead elections were named.
    nodes: u64,
    is_shutting_down: bool,
}

impl Agent {
    /// A process that knows nothing yet.
    pub fn new(config: Config) -> Self {
        let Config { instance, participant, serves_branches, serves_steps, has_voter, .. } = config;
        let me = participant.filter(|_| has_voter && serves_branches);
        Self {
            voter: OwnVoter::new(me, config.kept_max_ms),
            look: Look::new(config.look_interval_ms, config.look_grace_ms),
            calls: Calls::new(config.hooks_max),
            instance,
            serves_branches,
            serves_steps,
            now_ms: 0,
            sessions: Sessions::default(),
            requests: Requests::default(),
            branches: Branches::default(),
            steps: Steps::default(),
            timers: Timers::default(),
            notices: Vec::new(),
            nodes: 0,
            is_shutting_down: false,
        }
    }

    /// Takes one input. `now_ms` is the wall clock in Unix milliseconds.
    pub fn handle(&mut self, now_ms: u64, input: Input) {
        self.now_ms = now_ms;
        match input {
            Input::SessionOpened { session, epoch, payload_bytes_max } => {
                self.session_opened(session, epoch, payload_bytes_max);
            }
            Input::SessionClosed(session) => self.session_closed(session),
            Input::Message { session, message } => self.message(session, message),
            Input::Asked { ticket, gtid, ask } => self.ask(ticket, gtid, ask),
            Input::Told { ticket, gtid, ask } => self.tell(ticket, gtid, ask),
            Input::Prepared { ticket, key, vote } => self.prepared(ticket, key, vote),
            Input::GivenUp(ticket) => self.given_up(ticket),
            Input::Withdrawn(key) => self.withdrawn(key),
            Input::Found { doubts, records } => self.found(doubts, records),
            Input::HookReturned { key, returned } => self.hook_returned(key, returned),
            Input::StepReturned { key, end } => self.step_returned(key, end),
            Input::TimerFired(timer) => self.timer_fired(timer),
            Input::Listed(listed) => self.listed(listed),
            Input::RecordsRead(records) => self.records_read(&records),
            Input::LookedUp { gtid, record, is_forgotten } => self.looked_up(gtid, record, is_forgotten),
            Input::VoterAnswered { question, asked } => self.voter_answered(question, asked),
            Input::Overheard { gtid, overheard } => self.overheard(gtid, overheard),
            Input::PeerAnswered { gtid, voter, answer } => self.peer_answered(gtid, voter, answer),
            Input::ShutDown => self.is_shutting_down = true,
        }
    }

    // ---- what there is to do ---------------------------------------------------------------------------------------

    /// Hands over the messages of the next frame for a session, in their order, and answers how
    /// many there are. From then on they count as written.
    pub fn take_frame(&mut self, session: SessionId, hand_over: impl FnMut(FromClient)) -> usize {
        self.sessions.take_frame(session, &mut self.requests, hand_over)
    }

    /// The hooks to call, in their order.
    pub fn take_calls(&mut self) -> std::vec::Drain<'_, Call> {
        self.calls.take()
    }

    /// The answers to requests, each once.
    pub fn take_answers(&mut self) -> std::vec::Drain<'_, (Ticket, Answer)> {
        self.requests.take_answers()
    }

    /// What the own voter is to be asked. Each question is answered by [`Input::VoterAnswered`];
    /// one of the branch itself for as long as the store is away.
    pub fn take_questions(&mut self) -> std::vec::Drain<'_, Question> {
        self.voter.questions.drain(..)
    }

    /// What peers are to be asked. A question that is lost is asked again.
    pub fn take_peer_questions(&mut self) -> std::vec::Drain<'_, PeerQuestion> {
        self.voter.peer_questions.drain(..)
    }

    /// Transactions to be looked up in the voter's store. Each is answered by [`Input::LookedUp`],
    /// for as long as the store is away.
    pub fn take_lookups(&mut self) -> std::vec::Drain<'_, Gtid> {
        self.branches.lookups_due.drain(..)
    }

    /// Transactions that have ended everywhere, so that the voter's records of them may be deleted.
    pub fn take_forgotten(&mut self) -> std::vec::Drain<'_, Gtid> {
        self.voter.forgotten.drain(..)
    }

    /// Whether the participant is to list its branches in doubt, to be answered by
    /// [`Input::Listed`].
    pub fn take_listing(&mut self) -> bool {
        self.look.take_listing()
    }

    /// Whether all records of the voter's store are to be read, to be answered by
    /// [`Input::RecordsRead`] if they can be.
    pub fn take_reading(&mut self) -> bool {
        self.voter.take_reading()
    }

    /// The timers to set and to stop, in their order.
    pub fn take_timers(&mut self) -> std::vec::Drain<'_, TimerChange> {
        self.timers.take()
    }

    /// What a human should know.
    pub fn take_notices(&mut self) -> std::vec::Drain<'_, Notice> {
        self.notices.drain(..)
    }

    // ---- what can be read ------------------------------------------------------------------------------------------

    /// How many messages wait to be written over a session.
    pub fn messages_waiting(&self, session: SessionId) -> usize {
        self.sessions.messages_waiting(session)
    }

    /// How many hooks run.
    pub fn hooks_running(&self) -> usize {
        self.calls.running()
    }

    /// Whether it takes on nothing new.
    pub fn is_shutting_down(&self) -> bool {
        self.is_shutting_down
    }

    /// Whether it takes on nothing new, and all hooks have returned.
    pub fn is_at_rest(&self) -> bool {
        self.is_shutting_down && self.calls.running() == 0
    }

    /// The branches in memory, in order.
    pub fn branches(&self) -> Vec<BranchKey> {
        self.branches.in_order()
    }

    /// Where a branch in memory stands; in three phases, with its voter too.
    pub fn state_of(&self, key: BranchKey) -> Option<(State, Option<Stage>)> {
        self.branches.entries.get(&key).map(|entry| entry.machine.state())
    }

    /// Whether a branch of a transaction that agrees in three phases is in memory.
    pub fn votes(&self, gtid: Gtid) -> bool {
        self.branches.voting(gtid).is_some()
    }

    // ---- what all parts share --------------------------------------------------------------------------------------

    fn message(&mut self, session: SessionId, message: FromReplica) {
        match message {
            FromReplica::Reply { request_id, reply } => self.replied(Ticket(request_id), reply),
            FromReplica::Prepare { gtid, branch: id, epoch, payload, timeout_ms, one_phase, roster, is_prepared } => {
                let what = What::Prepare(Prepare { payload, timeout_ms, one_phase, roster, is_prepared });
                self.branch_ordered(Order { key: BranchKey { gtid, id }, epoch, session, what });
            }
            FromReplica::CommitBranch { gtid, branch: id, epoch } => {
                let what = What::End(Decision::Commit);
                self.branch_ordered(Order { key: BranchKey { gtid, id }, epoch, session, what });
            }
            FromReplica::AbortBranch { gtid, branch: id, epoch } => {
                let what = What::End(Decision::Abort);
                self.branch_ordered(Order { key: BranchKey { gtid, id }, epoch, session, what });
            }
            FromReplica::ExecuteStep { order, outputs, pivot } => self.execute_ordered(session, order, outputs, pivot),
            FromReplica::CompensateStep { order, output } => self.compensate_ordered(session, order, output),
            FromReplica::AskVoter { gtid, request } => self.log_asks(session, gtid, request),
            FromReplica::LogAnswered { gtid, answer } => self.peer_answered(gtid, VoterName::Log, answer),
            FromReplica::AwaitDecision { gtid } => self.decision_awaited(gtid),
            FromReplica::ForgetVoters { gtids } => gtids.into_iter().for_each(|gtid| self.forget_ordered(gtid)),
            FromReplica::Welcome(_) | FromReplica::Heartbeat | FromReplica::GoAway { .. } => {}
        }
    }

    fn timer_fired(&mut self, timer: Timer) {
        match timer {
            Timer::Branch(key, timer) => self.branch_timer_fired(key, timer),
            Timer::Request(ticket) => self.request_due(ticket),
            Timer::Look => self.look_due(),
            Timer::Kept => self.kept_due(),
        }
    }

    /// A name for one machine that may lead elections. No other machine has the same: instances are
    /// drawn by chance, and each counts. Replicas, whose names begin with an epoch, stay below.
    fn next_node(&mut self) -> NodeId {
        self.nodes += 1;
        NodeId(1 << 127 | u128::from(self.instance.0) << 64 | u128::from(self.nodes))
    }

    /// The branch of a transaction that a voter's record is about. A record has no roster where the
    /// voter has refused before it knew one: then the branch is that which is `otherwise` known.
    fn recorded_branch(&self, record: &VoterRecord, otherwise: BranchId) -> BranchKey {
        let seat = self.voter.me.as_ref().and_then(|me| record.roster.as_ref()?.seat(me));
        BranchKey { gtid: record.gtid, id: seat.map_or(otherwise, |seat| seat.branch) }
    }

    /// The reply to a request that this agent has sent.
    fn replied(&mut self, ticket: Ticket, reply: Reply) {
        self.requests.replied(ticket, reply, &mut self.timers);
    }
}
