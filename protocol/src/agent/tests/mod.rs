//! The promises of the agent, input by input.

mod calls;
mod doubts;
mod requests;
mod sessions;
mod steps;
mod voter;

use bytes::Bytes;

use super::{Agent, Answer, Call, Config, Input, Returned, SessionId, Ticket, Timer, TimerChange, invariant};
use crate::branch::{Hook, HookEnd, Message};
use crate::ids::{BranchId, BranchKey, Epoch, Gtid, InstanceId};
use crate::message::{FromClient, FromReplica};
use crate::three_phase::Roster;
use crate::two_phase::{BranchResult, Vote};

const EPOCH: Epoch = Epoch(7);
const BRANCH: BranchId = BranchId { epoch: EPOCH, number: 31 };
/// The session that a process has from the start.
const SESSION: SessionId = SessionId(1);

fn gtid(number: u8) -> Gtid {
    let mut bytes = *"01890a5d-ac96-774b-bcce-b302099a8057".parse::<Gtid>().expect("valid").as_bytes();
    bytes[15] = number;
    Gtid::from_bytes(&bytes).expect("valid")
}

fn key(number: u8) -> BranchKey {
    BranchKey { gtid: gtid(number), id: BRANCH }
}

fn config() -> Config {
    Config {
        instance: InstanceId(1),
        participant: Some("bank-a".parse().expect("a name")),
        serves_branches: true,
        serves_steps: true,
        has_voter: false,
        hooks_max: 1,
        look_interval_ms: 60_000,
        look_grace_ms: 10_000,
        kept_max_ms: 60_000,
    }
}

/// An agent, and what it wants done.
struct Process {
    agent: Agent,
    now_ms: u64,
}

impl Process {
    fn new(config: Config) -> Self {
        Self { agent: Agent::new(config), now_ms: 1_700_000_000_000 }
    }

    /// One that has a session, and has looked for what was left prepared.
    fn joined(config: Config) -> Self {
        let mut process = Self::new(config);
        process.take(Input::Found { doubts: Vec::new(), records: Vec::new() });
        process.opens(SESSION, EPOCH);
        process.take(Input::Listed(Some(Vec::new())));
        process.timers();
        process
    }

    fn take(&mut self, input: Input) {
        self.agent.handle(self.now_ms, input);
        invariant::check(&self.agent).expect("sound");
    }

    fn opens(&mut self, session: SessionId, epoch: Epoch) {
        self.take(Input::SessionOpened { session, epoch, payload_bytes_max: 1_000 });
    }

    fn hears(&mut self, message: FromReplica) {
        self.take(Input::Message { session: SESSION, message });
    }

    fn says_over(&mut self, session: SessionId) -> Vec<FromClient> {
        let mut said = Vec::new();
        self.agent.take_frame(session, |message| said.push(message));
        said
    }

    fn says(&mut self) -> Vec<FromClient> {
        self.says_over(SESSION)
    }

    /// What a branch says next, and nothing else.
    fn reports(&mut self, of: BranchKey) -> Message {
        match self.says().as_slice() {
            [FromClient::Branch(report)] if (report.gtid, report.branch) == (of.gtid, of.id) => report.message.clone(),
            other => panic!("{of} says {other:?}"),
        }
    }

    /// The hooks of branches that are called.
    fn calls(&mut self) -> Vec<(BranchKey, Hook)> {
        let calls = self.agent.take_calls().map(|call| match call {
            Call::Branch { key, hook, .. } => (key, hook),
            Call::Step(call) => panic!("{call:?} is called"),
        });
        calls.collect()
    }

    fn answers(&mut self) -> Vec<(Ticket, Answer)> {
        self.agent.take_answers().collect()
    }

    fn timers(&mut self) -> Vec<TimerChange> {
        self.agent.take_timers().collect()
    }

    fn votes_yes(&mut self, key: BranchKey) {
        self.take(Input::HookReturned { key, returned: Returned::Prepare(Vote::Yes) });
        assert_eq!(self.reports(key), Message::Vote(Vote::Yes));
    }

    fn ends(&mut self, key: BranchKey) {
        let returned = Returned::End(HookEnd::Ended(BranchResult::Done));
        self.take(Input::HookReturned { key, returned });
    }

    fn fires(&mut self, timer: Timer) {
        self.take(Input::TimerFired(timer));
    }
}

fn prepare_under(epoch: Epoch, key: BranchKey, roster: Option<Roster>) -> FromReplica {
    FromReplica::Prepare {
        gtid: key.gtid,
        branch: key.id,
        epoch,
        payload: Bytes::new(),
        timeout_ms: 60_000,
        one_phase: false,
        roster,
        is_prepared: false,
    }
}

fn prepare(key: BranchKey) -> FromReplica {
    prepare_under(EPOCH, key, None)
}

fn commit(key: BranchKey) -> FromReplica {
    FromReplica::CommitBranch { gtid: key.gtid, branch: key.id, epoch: EPOCH }
}

fn abort(key: BranchKey) -> FromReplica {
    FromReplica::AbortBranch { gtid: key.gtid, branch: key.id, epoch: EPOCH }
}

fn prepare_hook() -> Hook {
    Hook::Prepare { payload: Bytes::new(), one_phase: false }
}
