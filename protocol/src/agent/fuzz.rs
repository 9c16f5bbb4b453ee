//! Any messages, in any order, for an agent whose shell does what it should: each hook returns
//! once, and the voter answers from what its store has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::{
    Agent, Asked, Call, Config, Input, Overheard, Question, Returned, SessionId, StepKey, Ticket, Timer, TimerChange,
    invariant,
};
use crate::branch::Hook;
use crate::branch::fuzz::hook_end;
use crate::fuzz::{Story, Tape};
use crate::ids::{BranchKey, Epoch, Gtid, InstanceId, ParticipantName};
use crate::message::{Ask, Commit, Expected, FromClient, FromReplica, Reason, Reply, StepOrder};
use crate::reason::Wait;
use crate::record::{Protocol, Record};
use crate::saga::StepIndex;
use crate::saga::fuzz::result;
use crate::three_phase::fuzz::{answer_to, ballot, request, roster};
use crate::three_phase::{Request, StoreId, Voter, VoterName, VoterRecord};
use crate::two_phase::EarlyVote;
use crate::two_phase::fuzz::vote;

/// Drives an agent with what the bytes say, and checks every invariant after each input.
///
/// # Panics
/// If one breaks.
pub fn agent(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let mut process = Process::new(tape);
    let mut story = Story::new();
    while !tape.is_over() {
        if let Some(input) = process.next_input(tape) {
            story.then(input.clone());
            process.handle(tape, input);
        }
    }
}

/// An agent, and all that its shell owes it.
struct Process {
    agent: Agent,
    me: ParticipantName,
    sessions: Vec<(SessionId, Epoch)>,
    last_session: u64,
    last_ticket: u64,
    /// Requests without an answer, each with the epoch under which it was first written.
    waiting: BTreeMap<Ticket, Option<Epoch>>,
    /// Hooks that run.
    calls: Vec<Call>,
    timers: BTreeSet<Timer>,
    questions: Vec<Question>,
    lookups: Vec<Gtid>,
    is_listing: bool,
    is_reading: bool,
    /// The voter's store.
    records: BTreeMap<Gtid, Arc<VoterRecord>>,
}

const STORE: StoreId = StoreId(1);

impl Process {
    fn new(tape: &mut Tape<'_>) -> Self {
        let me = tape.participant();
        let config = Config {
            instance: InstanceId(1),
            participant: Some(me.clone()),
            serves_branches: !tape.one_in(8),
            serves_steps: !tape.one_in(8),
            has_voter: tape.one_in(2),
            hooks_max: 1 + tape.below(2),
            look_interval_ms: 60_000,
            look_grace_ms: 10_000,
            kept_max_ms: 60_000,
        };
        Self {
            agent: Agent::new(config),
            me,
            sessions: Vec::new(),
            last_session: 0,
            last_ticket: 0,
            waiting: BTreeMap::new(),
            calls: Vec::new(),
            timers: BTreeSet::new(),
            questions: Vec::new(),
            lookups: Vec::new(),
            is_listing: false,
            is_reading: false,
            records: BTreeMap::new(),
        }
    }

    // ---- what happens next -----------------------------------------------------------------------------------------

    fn next_input(&mut self, tape: &mut Tape<'_>) -> Option<Input> {
        match tape.below(24) {
            0 if self.sessions.len() < 3 => {
                self.last_session += 1;
                let (session, epoch) = (SessionId(self.last_session), Epoch(1 + tape.below(3) as u64));
                self.sessions.push((session, epoch));
                Some(Input::SessionOpened { session, epoch, payload_bytes_max: 1_000 })
            }
            1 if !self.sessions.is_empty() => {
                let at = tape.below(self.sessions.len());
                Some(Input::SessionClosed(self.sessions.remove(at).0))
            }
            0..10 => {
                let (session, _) = *self.sessions.get(tape.below(3))?;
                Some(Input::Message { session, message: self.message(tape) })
            }
            10 => {
                let (ticket, gtid) = (self.draw_ticket(), gtid(tape));
                Some(Input::Asked { ticket, gtid, ask: ask(tape) })
            }
            11 => {
                let ticket = self.draw_ticket();
                Some(Input::Prepared {
                    ticket,
                    key: key(tape),
                    vote: tape.pick(&[EarlyVote::Yes, EarlyVote::ReadOnly]),
                })
            }
            12 => match tape.below(4) {
                0 => {
                    let ticket = *self.waiting.keys().next()?;
                    self.waiting.remove(&ticket);
                    Some(Input::GivenUp(ticket))
                }
                1 => Some(Input::Withdrawn(key(tape))),
                2 if tape.one_in(16) => Some(Input::ShutDown),
                _ => None,
            },
            13..16 => (!self.calls.is_empty()).then(|| self.returns(tape)),
            16 => {
                let timer = *self.timers.iter().nth(tape.below(self.timers.len().max(1)))?;
                self.timers.remove(&timer);
                Some(Input::TimerFired(timer))
            }
            17 => std::mem::take(&mut self.is_listing).then(|| {
                let listed = (0..tape.below(3)).map(|_| key(tape)).collect();
                Input::Listed((!tape.one_in(4)).then_some(listed))
            }),
            18 => std::mem::take(&mut self.is_reading)
                .then(|| Input::RecordsRead(self.records.values().map(|record| (**record).clone()).collect())),
            19 | 20 => {
                let gtid = self.lookups.pop()?;
                let record = self.records.get(&gtid).cloned();
                Some(Input::LookedUp { gtid, record, is_forgotten: tape.one_in(8) })
            }
            21 | 22 => (!self.questions.is_empty()).then(|| {
                let question = self.questions.remove(0);
                let is_answered = question.from != VoterName::Log || !tape.one_in(4);
                let asked =
                    is_answered.then(|| self.voter_answers(question.gtid, &question.from, question.request.clone()));
                Input::VoterAnswered { question, asked }
            }),
            _ => {
                let (gtid, voter, ballot) = (gtid(tape), VoterName::Participant(tape.participant()), ballot(tape));
                if tape.one_in(2) {
                    return Some(Input::PeerAnswered { gtid, voter, answer: answer_to(tape, ballot) });
                }
                let (from, request) = (voter, request(tape));
                let asked = self.voter_answers(gtid, &from, request.clone());
                Some(Input::Overheard { gtid, overheard: Overheard { from, request, asked } })
            }
        }
    }

    fn draw_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.waiting.insert(Ticket(self.last_ticket), None);
        Ticket(self.last_ticket)
    }

    /// What a replica says, whatever it was told.
    fn message(&mut self, tape: &mut Tape<'_>) -> FromReplica {
        let (BranchKey { gtid, id: branch }, epoch) = (key(tape), tape.epoch());
        let order = |tape: &mut Tape<'_>| StepOrder {
            gtid,
            epoch,
            step: StepIndex(0),
            name: crate::fuzz::name("flight"),
            attempt: 1 + tape.below(3) as u32,
            input: Bytes::new(),
            timeout_ms: 1_000,
        };
        match tape.below(12) {
            0..3 => FromReplica::Prepare {
                gtid,
                branch,
                epoch,
                payload: Bytes::new(),
                timeout_ms: 1_000,
                one_phase: tape.one_in(4),
                roster: tape.one_in(2).then(|| roster(tape)),
                is_prepared: tape.one_in(4),
            },
            3 => FromReplica::CommitBranch { gtid, branch, epoch },
            4 => FromReplica::AbortBranch { gtid, branch, epoch },
            5 => FromReplica::AskVoter { gtid, request: request(tape) },
            6 => {
                let ballot = ballot(tape);
                FromReplica::LogAnswered { gtid, answer: answer_to(tape, ballot) }
            }
            7 => FromReplica::AwaitDecision { gtid },
            8 => FromReplica::ForgetVoters { gtids: vec![gtid] },
            9 => FromReplica::ExecuteStep { order: order(tape), outputs: Vec::new(), pivot: tape.one_in(2) },
            10 => FromReplica::CompensateStep { order: order(tape), output: None },
            _ => {
                let reason = tape.pick(&[Reason::Overloaded, Reason::KeyReused]);
                let reply = tape.pick(&[Reply::Enlisted, Reply::Refused(reason.refused("no"))]);
                FromReplica::Reply { request_id: 1 + tape.below(8) as u64, reply }
            }
        }
    }

    fn returns(&mut self, tape: &mut Tape<'_>) -> Input {
        let at = tape.below(self.calls.len());
        match self.calls.remove(at) {
            Call::Branch { key, hook: Hook::Prepare { .. }, .. } => {
                Input::HookReturned { key, returned: Returned::Prepare(vote(tape)) }
            }
            Call::Branch { key, hook: Hook::Commit | Hook::Abort, .. } => {
                Input::HookReturned { key, returned: Returned::End(hook_end(tape)) }
            }
            Call::Step(call) => {
                let key = StepKey { gtid: call.order.gtid, step: call.order.step, compensation: call.compensation };
                Input::StepReturned { key, end: result(tape).into() }
            }
        }
    }

    /// The voter, with what its store has.
    fn voter_answers(&mut self, gtid: Gtid, from: &VoterName, request: Request) -> Asked {
        let me = VoterName::Participant(self.me.clone());
        let mut voter = Voter::load(gtid, me, STORE, self.records.get(&gtid).map(|record| &**record));
        let output = voter.handle(from, request);
        let kept = output.records().find_map(|record| match record {
            Record::Voter(record) => Some(Arc::new(VoterRecord { before: None, ..(**record).clone() })),
            _ => None,
        });
        let has_changed = kept.is_some();
        if let Some(kept) = kept {
            self.records.insert(gtid, kept);
        }
        let answer = output.peek_effects()[0];
        Asked { answer, kept: self.records.get(&gtid).cloned(), has_changed }
    }

    // ---- what comes of it ------------------------------------------------------------------------------------------

    fn handle(&mut self, tape: &mut Tape<'_>, input: Input) {
        self.agent.handle(1_700_000_000_000, input);
        if let Err(violation) = invariant::check(&self.agent) {
            panic!("{violation}: {:?}", self.agent);
        }
        for call in self.agent.take_calls() {
            let is_the_same = |other: &&Call| subject(other) == subject(&call);
            assert!(!self.calls.iter().any(|other| is_the_same(&other)), "two hooks at once: {call:?}");
            self.calls.push(call);
        }
        assert_eq!(self.agent.hooks_running(), self.calls.len(), "each hook that runs has a place");
        for change in self.agent.take_timers() {
            match change {
                TimerChange::Set { timer, .. } => self.timers.insert(timer),
                TimerChange::Cancel(timer) => self.timers.remove(&timer),
            };
        }
        for (ticket, answer) in self.agent.take_answers() {
            assert!(self.waiting.remove(&ticket).is_some(), "{ticket:?} is answered again: {answer:?}");
        }
        self.questions.extend(self.agent.take_questions());
        self.lookups.extend(self.agent.take_lookups());
        self.is_listing |= self.agent.take_listing();
        self.is_reading |= self.agent.take_reading();
        for (session, epoch) in self.sessions.clone() {
            if tape.one_in(2) {
                self.writes(session, epoch);
            }
        }
    }

    /// A commit names the epoch under which it was first written, however often it is asked.
    fn writes(&mut self, session: SessionId, epoch: Epoch) {
        let waiting = &mut self.waiting;
        self.agent.take_frame(session, |message| {
            let FromClient::Request(request) = message else { return };
            let first = waiting.get_mut(&Ticket(request.request_id)).expect("its caller waits");
            let is_first = first.is_none();
            let first = *first.get_or_insert(epoch);
            if let Ask::Commit(commit) = request.ask {
                assert_eq!(commit.first_epoch, Some(first));
                assert_eq!(is_first, commit.attempt == 1, "a request that was written is a further attempt");
            }
        });
    }
}

/// Which branch or step a hook is about.
fn subject(call: &Call) -> (Option<BranchKey>, Option<StepKey>) {
    match call {
        Call::Branch { key, .. } => (Some(*key), None),
        Call::Step(call) => {
            let StepOrder { gtid, step, .. } = call.order;
            (None, Some(StepKey { gtid, step, compensation: call.compensation }))
        }
    }
}

fn gtid(tape: &mut Tape<'_>) -> Gtid {
    let mut bytes = *crate::fuzz::gtid().as_bytes();
    bytes[15] = tape.pick(&[1, 1, 1, 2]);
    Gtid::from_bytes(&bytes).expect("a version 7")
}

fn key(tape: &mut Tape<'_>) -> BranchKey {
    BranchKey { gtid: gtid(tape), id: tape.branch_id() }
}

fn ask(tape: &mut Tape<'_>) -> Ask {
    match tape.below(3) {
        0 => Ask::Await { wait: Wait::Decided },
        1 => Ask::Begin { timeout_ms: 0, protocol: Protocol::TwoPhase, first_epoch: None },
        _ => Ask::Commit(Commit {
            branches: Vec::new(),
            attempt: 1,
            begun: false,
            timeout_ms: 0,
            wait: Wait::Decided,
            protocol: Protocol::TwoPhase,
            first_epoch: None,
            expected: Expected::Anything,
        }),
    }
}
