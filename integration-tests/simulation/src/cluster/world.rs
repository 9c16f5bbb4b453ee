//! The state of the whole system, and its steps.

use std::collections::{BTreeMap, BTreeSet};

use assent_protocol::branch::Hook;
use assent_protocol::ids::BranchId;
use assent_protocol::message::{Ask, FromClient, FromReplica, Reply, Request};
use assent_protocol::replica::{Batch, Input, Peer, SessionId};
use assent_protocol::two_phase::Vote;
use assent_protocol::{Epoch, Gtid, InstanceId, ParticipantName};

use super::bank::{Bank, BranchKey, Database, GRACE_MS, Instance, Said, Turn};
use super::cells::{self, CELLS};
use super::initiator::{Conclusion, Shape, Stage, Wish};
use super::log::Log;
use super::node::{Node, Question};
use super::session::{Client, Session};
use super::steps::Verdict;

/// What can go wrong, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) node_crashes: u8,
    pub(crate) take_overs: u8,
    pub(crate) instance_crashes: u8,
    /// Instances that go and never come back; another one stays.
    pub(crate) scaled_away: u8,
    pub(crate) breaks: u8,
    pub(crate) lost_answers: u8,
    pub(crate) failing_hooks: u8,
    pub(crate) impatience: u8,
    /// Times that pass although something else could happen.
    pub(crate) jumps: u8,
    pub(crate) retentions: u8,
    /// Calls of a service that are given up.
    pub(crate) lost_calls: u8,
    /// Calls of a service that come twice: each prepares a branch of its own.
    pub(crate) doubled_calls: u8,
    /// Look-ups that are answered from an earlier state of the log.
    pub(crate) stale_reads: u8,
    /// Actions that are refused.
    pub(crate) refusals: u8,
    /// Compensations that are refused, until an operator resumes the saga.
    pub(crate) stuck: u8,
    /// Hooks of steps that end in an error.
    pub(crate) failing_steps: u8,
    /// Requests that are asked twice.
    pub(crate) repeats: u8,
    /// Wishes to abort a transaction, or to turn a saga back.
    pub(crate) turns: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) banks: usize,
    pub(crate) instances: usize,
    pub(crate) shapes: Vec<Shape>,
    /// Prepares may be refused, or find nothing to do.
    pub(crate) refuses: bool,
    /// A lone branch may be asked to commit by itself.
    pub(crate) one_phase: bool,
    /// Two processes of different names share the log, and neither fences the other.
    pub(crate) two_names: bool,
    pub(crate) faults: Faults,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) log: Log,
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) banks: Vec<Bank>,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) sessions: Vec<Session>,
    /// Batches whose writers have died, and that the storage may still carry out.
    limbo: Vec<(usize, Epoch, Batch)>,
    /// Branches that had nothing to commit.
    pub(crate) read_only: BTreeSet<(usize, Gtid)>,
    /// Branches whose Enlist arrived, although the call of their service may have been given up.
    pub(crate) enlisted: BTreeSet<(usize, Gtid)>,
    pub(crate) left: Faults,
    lives: u64,
    last_session: u64,
    last_instance: u64,
    last_request: u64,
    /// How many branches were prepared by calls.
    last_branch: u64,
    /// Branches whose enlistment was answered well: they are part of their transactions.
    pub(crate) welcomed: BTreeSet<(usize, BranchKey)>,
    /// Enlistments of calls that came a second time: nobody waits for what comes of them.
    doubled: BTreeSet<u64>,
    one_phase: bool,
    two_names: bool,
    /// Reads of the log may lag behind.
    may_lag: bool,
    /// Which transaction each request is about.
    asked: BTreeMap<u64, Gtid>,
    pub(crate) broken: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Dial { client: Client, node: usize },
    ToReplica { session: SessionId },
    ToClient { session: SessionId },
    Break { session: SessionId, arrived: usize },
    ReplicaNotices { session: SessionId },
    ClientNotices { session: SessionId },
    HookReturns { bank: usize, instance: usize, at: usize, turn: Turn },
    StepReturns { bank: usize, instance: usize, at: usize, verdict: Verdict },
    NodeTimer { node: usize },
    InstanceTimer { bank: usize, instance: usize },
    Apply { node: usize },
    Answer { node: usize },
    LoseAnswer { node: usize },
    ApplyLate,
    Read { node: usize, lag: usize },
    FoundInLog { node: usize },
    CrashNode { node: usize },
    StartNode { node: usize },
    FindOut { node: usize },
    CrashInstance { bank: usize, instance: usize },
    ScaleAway { bank: usize, instance: usize },
    StartInstance { bank: usize, instance: usize },
    Ask { wish: usize },
    Call { wish: usize, instance: usize },
    CallTwice { wish: usize, instance: usize, fails: bool },
    CleanUp { bank: usize, instance: usize },
    GiveUpCall { wish: usize },
    LosePatience { wish: usize },
    Repeat { wish: usize },
    Turn { wish: usize },
    Resume { node: usize, wish: usize },
    Jump,
    Retention,
}

const START_MS: u64 = 1_700_000_000_000;
/// The process of the initiator.
const INITIATOR: InstanceId = InstanceId(1_000_000);
fn gtid(number: usize, minted_at_ms: u64) -> Gtid {
    let mut bytes = [0_u8; 16];
    bytes[..6].copy_from_slice(&minted_at_ms.to_be_bytes()[2..]);
    bytes[6] = 0x70;
    bytes[8] = 0x80;
    bytes[15] = u8::try_from(number).expect("few");
    Gtid::from_bytes(&bytes).expect("a UUID of version 7")
}

pub(crate) fn name_of_bank(at: usize) -> ParticipantName {
    ParticipantName::new(&format!("bank-{at}")).expect("a name")
}

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        let bank = |at: usize| Bank {
            name: name_of_bank(at),
            database: Database::default(),
            instances: vec![None; setup.instances],
        };
        let wishes =
            setup.shapes.iter().enumerate().map(|(at, shape)| Wish::new(gtid(at, START_MS + 20_000), shape.clone()));
        let mut world = Self {
            now_ms: START_MS,
            log: Log::default(),
            nodes: vec![None; 2],
            banks: (0..setup.banks).map(bank).collect(),
            wishes: wishes.collect(),
            sessions: Vec::new(),
            limbo: Vec::new(),
            read_only: BTreeSet::new(),
            enlisted: BTreeSet::new(),
            left: setup.faults,
            lives: 0,
            last_session: 0,
            last_instance: 0,
            last_request: 0,
            last_branch: 0,
            welcomed: BTreeSet::new(),
            doubled: BTreeSet::new(),
            one_phase: setup.one_phase,
            two_names: setup.two_names,
            may_lag: setup.faults.stale_reads > 0,
            asked: BTreeMap::new(),
            broken: None,
        };
        for node in 0..1 + usize::from(setup.two_names) {
            world.step(Action::StartNode { node });
        }
        for bank in 0..setup.banks {
            for instance in 0..setup.instances {
                world.step(Action::StartInstance { bank, instance });
                for node in 0..1 + usize::from(setup.two_names) {
                    world.step(Action::Dial { client: Client::Instance { bank, instance }, node });
                }
            }
        }
        world.step(Action::Dial { client: Client::Initiator, node: 0 });
        // The transactions are minted well behind the coordinator's start.
        world.now_ms += 20_000;
        world
    }

    fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.iter().find(|session| session.id == id)
    }

    fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.id == id)
    }

    /// The session that a client has, as far as it knows.
    fn session_of(&self, client: Client) -> Option<&Session> {
        self.sessions.iter().find(|session| session.client == client && session.is_open_at_client)
    }

    /// Whether a client needs no session with this replica. Where two replicas are at work for
    /// good, an instance serves both of them.
    fn has_session(&self, client: Client, node: usize) -> bool {
        if !self.two_names || client == Client::Initiator {
            return self.session_of(client).is_some();
        }
        let is_wanted =
            |session: &&Session| session.client == client && session.node == node && session.is_open_at_client;
        self.sessions.iter().any(|session| is_wanted(&session))
    }

    fn is_alive(&self, client: Client) -> bool {
        match client {
            Client::Initiator => true,
            Client::Instance { bank, instance } => self.banks[bank].instances[instance].is_some(),
        }
    }

    fn is_served(&self, session: &Session) -> bool {
        self.nodes[session.node].as_ref().is_some_and(|node| node.life == session.life)
    }

    fn clients(&self) -> Vec<Client> {
        let instances =
            self.banks.iter().enumerate().flat_map(|(bank, of)| {
                (0..of.instances.len()).map(move |instance| Client::Instance { bank, instance })
            });
        std::iter::once(Client::Initiator).chain(instances).collect()
    }

    // ---- what can happen -------------------------------------------------------------------------------------------

    /// What happens without faults.
    pub(crate) fn progress(&self, is_calm: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        for client in self.clients() {
            if self.is_alive(client) {
                let alive = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_some());
                let wanted = alive.filter(|node| !self.has_session(client, *node));
                actions.extend(wanted.map(|node| Action::Dial { client, node }));
            }
        }
        for session in &self.sessions {
            let id = session.id;
            if session.is_open_at_replica && !session.to_replica.is_empty() && self.is_served(session) {
                actions.push(Action::ToReplica { session: id });
            } else if session.is_open_at_replica && (session.is_broken || !session.is_open_at_client) {
                actions.push(Action::ReplicaNotices { session: id });
            }
            if session.is_open_at_client && !session.to_client.is_empty() {
                actions.push(Action::ToClient { session: id });
            } else if session.is_open_at_client
                && (session.is_broken || !session.is_open_at_replica || !self.is_served(session))
            {
                actions.push(Action::ClientNotices { session: id });
            }
        }
        for (bank, of) in self.banks.iter().enumerate() {
            for (instance, process) in of.instances.iter().enumerate() {
                let Some(process) = process else {
                    continue;
                };
                for (at, (_, hook)) in process.hooks.iter().enumerate() {
                    actions.push(Action::HookReturns { bank, instance, at, turn: Turn::Well });
                    if !is_calm && matches!(hook, Hook::Prepare { .. }) {
                        actions.push(Action::HookReturns { bank, instance, at, turn: Turn::No });
                        actions.push(Action::HookReturns { bank, instance, at, turn: Turn::ReadOnly });
                    }
                }
                if !process.failed.is_empty() {
                    actions.push(Action::CleanUp { bank, instance });
                }
                let done = |at| Action::StepReturns { bank, instance, at, verdict: Verdict::Done };
                actions.extend((0..process.steps.len()).map(done));
                if process.timers.values().any(|due_ms| *due_ms <= self.now_ms) || self.is_look_due(bank, process) {
                    actions.push(Action::InstanceTimer { bank, instance });
                }
            }
        }
        for (node, process) in self.nodes.iter().enumerate() {
            let Some(process) = process else { continue };
            match &process.append {
                Some((_, None)) => actions.push(Action::Apply { node }),
                Some((_, Some(_))) => actions.push(Action::Answer { node }),
                None if process.replica.records_pending() > 0 => actions.push(Action::Apply { node }),
                None => {}
            }
            match &process.question {
                Some(Question { found: None, .. }) => actions.push(Action::Read { node, lag: 0 }),
                Some(Question { found: Some(_), .. }) => actions.push(Action::FoundInLog { node }),
                None => {}
            }
            if process.timers.values().any(|due_ms| *due_ms <= self.now_ms) {
                actions.push(Action::NodeTimer { node });
            }
            // The renewal of its lease fails.
            if self.log.is_fenced(process.name, process.epoch) {
                actions.push(Action::FindOut { node });
            }
        }
        if self.two_names {
            let dead = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_none());
            actions.extend(dead.map(|node| Action::StartNode { node }));
        } else if self.nodes.iter().all(Option::is_none) {
            actions.push(Action::StartNode { node: 0 });
        }
        for (node, process) in self.nodes.iter().enumerate() {
            let Some(process) = process else { continue };
            let is_paused = |wish: &Wish| {
                matches!(wish.shape, Shape::Saga { .. })
                    && process.replica.view(wish.gtid).is_some_and(|view| view.state == "paused")
            };
            let paused = (0..self.wishes.len()).filter(|wish| is_paused(&self.wishes[*wish]));
            actions.extend(paused.map(|wish| Action::Resume { node, wish }));
        }
        self.wished(&mut actions);
        actions
    }

    fn wished(&self, actions: &mut Vec<Action>) {
        let has_session = self.session_of(Client::Initiator).is_some();
        let names = self.names();
        for (at, wish) in self.wishes.iter().enumerate() {
            let is_due = wish.due_ms.is_some_and(|due_ms| due_ms <= self.now_ms);
            if has_session && (is_due || wish.next_request(&names).is_some()) {
                actions.push(Action::Ask { wish: at });
            }
            if let (Shape::Begun { calls }, Stage::Open { call, is_calling: false }) = (&wish.shape, wish.stage)
                && call < calls.len()
            {
                let instances = &self.banks[calls[call]].instances;
                let alive = instances.iter().enumerate().filter(|(_, process)| process.is_some());
                actions.extend(alive.map(|(instance, _)| Action::Call { wish: at, instance }));
            }
        }
    }

    fn names(&self) -> Vec<ParticipantName> {
        self.banks.iter().map(|bank| bank.name.clone()).collect()
    }

    /// Instances that died and come back.
    pub(crate) fn restarts(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (bank, of) in self.banks.iter().enumerate() {
            for (instance, process) in of.instances.iter().enumerate() {
                if process.is_none() {
                    actions.push(Action::StartInstance { bank, instance });
                }
            }
        }
        actions
    }

    pub(crate) fn faults(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let left = self.left;
        for (node, process) in self.nodes.iter().enumerate() {
            if process.is_some() && left.node_crashes > 0 {
                actions.push(Action::CrashNode { node });
            }
            if process.as_ref().is_some_and(|process| matches!(process.append, Some((_, Some(_)))))
                && left.lost_answers > 0
            {
                actions.push(Action::LoseAnswer { node });
            }
            if process.as_ref().is_some_and(|process| matches!(process.question, Some(Question { found: None, .. })))
                && left.stale_reads > 0
            {
                actions.extend((1..=self.log.lag_max()).map(|lag| Action::Read { node, lag }));
            }
        }
        if !self.limbo.is_empty() {
            actions.push(Action::ApplyLate);
        }
        for session in &self.sessions {
            if !session.is_broken && left.breaks > 0 {
                actions.push(Action::Break { session: session.id, arrived: 0 });
                if !session.to_replica.is_empty() {
                    actions.push(Action::Break { session: session.id, arrived: session.to_replica.len() });
                }
            }
        }
        for (bank, of) in self.banks.iter().enumerate() {
            let others = of.instances.len();
            for (instance, process) in of.instances.iter().enumerate() {
                let Some(process) = process else { continue };
                if left.instance_crashes > 0 {
                    actions.push(Action::CrashInstance { bank, instance });
                }
                if left.scaled_away > 0 && others > 1 {
                    actions.push(Action::ScaleAway { bank, instance });
                }
                for (at, running) in process.steps.iter().enumerate() {
                    let mut turns = |verdict| actions.push(Action::StepReturns { bank, instance, at, verdict });
                    if left.failing_steps > 0 {
                        turns(Verdict::FailsBefore);
                        turns(Verdict::FailsAfter);
                    }
                    if if running.compensation { left.stuck } else { left.refusals } > 0 {
                        turns(Verdict::Refused);
                        if running.pivot {
                            turns(Verdict::FinallyRefused);
                        }
                    }
                }
                if left.failing_hooks > 0 {
                    for at in 0..process.hooks.len() {
                        for turn in [Turn::FailsBefore, Turn::FailsAfter] {
                            actions.push(Action::HookReturns { bank, instance, at, turn });
                        }
                    }
                }
            }
        }
        for (wish, of) in self.wishes.iter().enumerate() {
            if matches!(of.stage, Stage::Committing) && of.waiting.is_some() && left.impatience > 0 {
                actions.push(Action::LosePatience { wish });
            }
            if matches!(of.stage, Stage::Open { is_calling: true, .. }) && left.lost_calls > 0 {
                actions.push(Action::GiveUpCall { wish });
            }
            if let (Shape::Begun { calls }, Stage::Open { call, is_calling: true }) = (&of.shape, of.stage)
                && left.doubled_calls > 0
            {
                let instances = self.banks[calls[call]].instances.iter().enumerate();
                for (instance, _) in instances.filter(|(_, process)| process.is_some()) {
                    actions.extend([false, true].map(|fails| Action::CallTwice { wish, instance, fails }));
                }
            }
        }
        if self.session_of(Client::Initiator).is_some() {
            for (wish, of) in self.wishes.iter().enumerate() {
                let is_repeatable = |request: &Request| matches!(request.ask, Ask::StartSaga { .. } | Ask::Commit(_));
                if left.repeats > 0 && of.waiting.as_ref().is_some_and(is_repeatable) {
                    actions.push(Action::Repeat { wish });
                }
                let is_under_way = matches!(
                    of.stage,
                    Stage::Open { .. } | Stage::Committing | Stage::Started | Stage::InDoubt | Stage::Settling
                );
                if left.turns > 0 && is_under_way {
                    actions.push(Action::Turn { wish });
                }
            }
        }
        if left.jumps > 0 && self.next_due_ms().is_some() {
            actions.push(Action::Jump);
        }
        // The retention is longer than any initiator asks, and than any branch is in doubt: what is
        // older is not known, and never taken for aborted.
        let is_told =
            |gtid| self.wishes.iter().all(|wish| wish.gtid != gtid || matches!(wish.stage, Stage::Concluded(_)));
        let is_quiet = self.sessions.iter().all(|session| session.to_replica.is_empty())
            && self.nodes.iter().flatten().all(|node| node.question.is_none());
        if left.retentions > 0
            && is_quiet
            && !self.log.ended.is_empty()
            && self.log.ended.keys().all(|gtid| is_told(*gtid) && !self.has_branch(*gtid))
        {
            actions.push(Action::Retention);
        }
        actions.extend(self.restarts());
        actions
    }

    /// Whether an instance knows a branch of the transaction, or something that one has said is on its way.
    fn has_branch(&self, gtid: Gtid) -> bool {
        let mut instances = self.banks.iter().flat_map(|bank| bank.instances.iter().flatten());
        let is_on_its_way = |session: &Session| session.to_replica.iter().any(|message| message.gtid() == Some(gtid));
        instances.any(|instance| instance.branches.keys().any(|(of, _)| *of == gtid))
            || self.sessions.iter().any(is_on_its_way)
    }

    /// When the next timer of any process is due.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let nodes = self.nodes.iter().flatten().flat_map(|node| node.timers.values().copied());
        let instances = self.banks.iter().enumerate().flat_map(|(bank, of)| {
            let processes = of.instances.iter().flatten();
            processes.flat_map(move |process| process.timers.values().copied().chain(self.next_find_ms(bank, process)))
        });
        let requests = self.wishes.iter().filter_map(|wish| wish.due_ms);
        nodes.chain(instances).chain(requests).filter(|due_ms| *due_ms > self.now_ms).min()
    }

    // ---- steps -----------------------------------------------------------------------------------------------------

    pub(crate) fn step(&mut self, action: Action) {
        self.now_ms += 1;
        self.spend(action);
        match action {
            Action::Dial { client, node } => self.dial(client, node),
            Action::ToReplica { session } => self.replica_hears(session),
            Action::ToClient { session } => self.client_hears(session),
            Action::Break { session, arrived } => {
                if let Some(session) = self.session_mut(session) {
                    session.breaks(arrived);
                }
            }
            Action::ReplicaNotices { session } => self.replica_notices(session),
            Action::ClientNotices { session } => self.client_notices(session),
            Action::HookReturns { bank, instance, at, turn } => self.hook_returns(bank, instance, at, turn),
            Action::StepReturns { bank, instance, at, verdict } => self.step_returns(bank, instance, at, verdict),
            Action::NodeTimer { node } => self.node_timer(node),
            Action::InstanceTimer { bank, instance } => self.instance_timer(bank, instance),
            Action::Apply { node } => self.apply(node),
            Action::Answer { node } => self.answer(node),
            Action::LoseAnswer { node } => {
                if let Some((_, answer)) = self.nodes[node].as_mut().and_then(|node| node.append.as_mut()) {
                    *answer = None;
                }
            }
            Action::ApplyLate => {
                let (name, epoch, batch) = self.limbo.remove(0);
                // Nobody waits for its answer.
                self.log.append(name, epoch, &batch).ok();
            }
            Action::Read { node, lag } => {
                if let Some(question) = self.nodes[node].as_mut().and_then(|node| node.question.as_mut()) {
                    question.found = Some(self.log.look_up(&question.gtids, lag));
                }
            }
            Action::FoundInLog { node } => {
                let question = self.nodes[node].as_mut().and_then(|node| node.question.take());
                if let Some(Question { gtids, found: Some(found) }) = question {
                    self.give(node, Input::LookedUp { gtids, found: Ok(found) });
                }
            }
            Action::CrashNode { node } | Action::FindOut { node } => self.node_dies(node),
            Action::StartNode { node } => self.start_node(node),
            Action::CrashInstance { bank, instance } => self.instance_dies(bank, instance),
            Action::ScaleAway { bank, instance } => {
                self.instance_dies(bank, instance);
                self.banks[bank].instances.remove(instance);
                for session in &mut self.sessions {
                    if let Client::Instance { bank: of, instance: at } = &mut session.client
                        && *of == bank
                        && *at > instance
                    {
                        *at -= 1;
                    }
                }
            }
            Action::StartInstance { bank, instance } => self.start_instance(bank, instance),
            Action::Ask { wish } => self.ask(wish),
            Action::Call { wish, instance } => self.call(wish, instance),
            Action::CallTwice { wish, instance, fails } => self.call_twice(wish, instance, fails),
            Action::CleanUp { bank, instance } => {
                let of = &mut self.banks[bank];
                if let Some(process) = &mut of.instances[instance]
                    && let Some(key) = process.failed.pop_front()
                {
                    process.withdraws(&mut of.database, key);
                }
            }
            Action::GiveUpCall { wish } => self.next_call(wish),
            Action::LosePatience { wish } => {
                self.wishes[wish].stage = Stage::InDoubt;
                self.wishes[wish].waiting = None;
                self.wishes[wish].due_ms = None;
            }
            Action::Repeat { wish } => self.repeat(wish),
            Action::Turn { wish } => self.turn(wish),
            Action::Resume { node, wish } => self.give(node, Input::Resumed(self.wishes[wish].gtid)),
            Action::Jump => {
                if let Some(due_ms) = self.next_due_ms() {
                    self.now_ms = due_ms;
                }
            }
            Action::Retention => self.log.remove_history(),
        }
        self.sessions.retain(|session| !session.is_over());
        if self.broken.is_none() {
            self.broken = self.judge().err();
        }
    }

    fn spend(&mut self, action: Action) {
        let is_undone = match action {
            Action::StepReturns { bank, instance, at, .. } => {
                let process = self.banks[bank].instances.get(instance).and_then(Option::as_ref);
                process.and_then(|process| process.steps.get(at)).is_some_and(|running| running.compensation)
            }
            _ => false,
        };
        let left = &mut self.left;
        let budget = match action {
            Action::StepReturns { verdict: Verdict::FailsBefore | Verdict::FailsAfter, .. } => &mut left.failing_steps,
            Action::StepReturns { verdict: Verdict::Refused | Verdict::FinallyRefused, .. } if is_undone => {
                &mut left.stuck
            }
            Action::StepReturns { verdict: Verdict::Refused | Verdict::FinallyRefused, .. } => &mut left.refusals,
            Action::CrashNode { .. } => &mut left.node_crashes,
            Action::CrashInstance { .. } => &mut left.instance_crashes,
            Action::ScaleAway { .. } => &mut left.scaled_away,
            Action::Break { .. } => &mut left.breaks,
            Action::LoseAnswer { .. } => &mut left.lost_answers,
            Action::HookReturns { turn: Turn::FailsBefore | Turn::FailsAfter, .. } => &mut left.failing_hooks,
            Action::LosePatience { .. } => &mut left.impatience,
            Action::GiveUpCall { .. } => &mut left.lost_calls,
            Action::CallTwice { .. } => &mut left.doubled_calls,
            Action::Repeat { .. } => &mut left.repeats,
            Action::Turn { .. } => &mut left.turns,
            Action::Jump => &mut left.jumps,
            Action::Retention => &mut left.retentions,
            Action::Read { lag: 1.., .. } => &mut left.stale_reads,
            _ => return,
        };
        *budget = budget.saturating_sub(1);
    }

    // ---- sessions --------------------------------------------------------------------------------------------------

    fn dial(&mut self, client: Client, node: usize) {
        let Some((life, epoch)) = self.nodes[node].as_ref().map(|node| (node.life, node.epoch)) else { return };
        self.last_session += 1;
        let id = SessionId(self.last_session);
        self.sessions.push(Session {
            id,
            client,
            node,
            life,
            epoch,
            to_replica: Default::default(),
            to_client: Default::default(),
            is_broken: false,
            is_open_at_replica: true,
            is_open_at_client: true,
        });
        let (participant, instance, said) = match client {
            Client::Initiator => {
                let again = self.wishes.iter_mut().filter_map(|wish| wish.write(epoch)).collect();
                (None, INITIATOR, again)
            }
            Client::Instance { bank, instance } => {
                let now_ms = self.now_ms;
                let of = &mut self.banks[bank];
                let Some(process) = &mut of.instances[instance] else { return };
                process.looks(&of.database, now_ms, GRACE_MS);
                let said = process.session_is_up(now_ms);
                (Some(of.name.clone()), process.id, said.messages)
            }
        };
        let peer = Peer { session: id, participant, instance, one_phase: self.one_phase, voter: None };
        self.give(node, Input::SessionOpened(peer));
        if let Some(session) = self.session_mut(id) {
            session.to_replica.extend(said);
        }
        self.close_at_replica(node);
    }

    /// Sessions that a replica has closed by itself: their process has dialled again.
    fn close_at_replica(&mut self, node: usize) {
        let Some(process) = &self.nodes[node] else { return };
        for session in &mut self.sessions {
            if session.node == node && session.life == process.life && !process.replica.is_open(session.id) {
                session.is_open_at_replica = false;
                session.to_replica.clear();
            }
        }
    }

    fn replica_hears(&mut self, id: SessionId) {
        let Some(session) = self.session_mut(id) else { return };
        let (node, client, Some(message)) = (session.node, session.client, session.to_replica.pop_front()) else {
            return;
        };
        if let (Some(process), Some(gtid)) = (&self.nodes[node], message.gtid()) {
            CELLS.hit(cells::known(process.replica.known(gtid)), cells::kind(&message));
        }
        let enlists = match &message {
            FromClient::Request(Request { gtid, ask: Ask::Enlist { .. }, .. }) => Some(*gtid),
            _ => None,
        };
        self.give(node, Input::Message { session: id, message });
        if let (Some(gtid), Client::Instance { bank, .. }) = (enlists, client)
            && let Some(view) = self.nodes[node].as_ref().and_then(|node| node.replica.view(gtid))
            && view.branches.iter().any(|branch| branch.participant == self.banks[bank].name)
        {
            self.enlisted.insert((bank, gtid));
        }
    }

    fn client_hears(&mut self, id: SessionId) {
        let Some(session) = self.session_mut(id) else { return };
        let (client, Some(message)) = (session.client, session.to_client.pop_front()) else { return };
        if let FromReplica::Reply { request_id, reply } = message {
            return self.answered(client, request_id, &reply);
        }
        let Client::Instance { bank, instance } = client else {
            self.broken = Some(format!("an initiator is told {message:?}"));
            return;
        };
        if matches!(message, FromReplica::ExecuteStep { .. } | FromReplica::CompensateStep { .. }) {
            return self.step_is_ordered(bank, instance, id, message);
        }
        let now_ms = self.now_ms;
        let Some(process) = &mut self.banks[bank].instances[instance] else { return };
        let said = process.is_told(message, now_ms);
        self.says(client, said);
    }

    fn says(&mut self, client: Client, said: Said) {
        if said.broken.is_some() {
            self.broken = said.broken;
        }
        // What cannot be sent is lost, and asked for again.
        let open = self.sessions.iter_mut().find(|session| session.client == client && session.is_open_at_client);
        if let Some(session) = open.filter(|session| !session.is_broken) {
            session.to_replica.extend(said.messages);
        }
    }

    fn replica_notices(&mut self, id: SessionId) {
        let Some(session) = self.session_mut(id) else { return };
        session.is_open_at_replica = false;
        session.to_replica.clear();
        let node = session.node;
        let is_served = self.session(id).is_some_and(|session| self.is_served(session));
        if is_served {
            self.give(node, Input::SessionClosed(id));
        }
    }

    fn client_notices(&mut self, id: SessionId) {
        if let Some(session) = self.session_mut(id) {
            session.is_open_at_client = false;
            session.to_client.clear();
        }
    }

    // ---- replicas --------------------------------------------------------------------------------------------------

    /// Gives a replica an input, and its messages to their sessions.
    fn give(&mut self, node: usize, input: Input) {
        let Some(process) = &mut self.nodes[node] else { return };
        process.handle(self.now_ms, input);
        if process.question.is_none() {
            process.question = process.replica.take_question().map(|gtids| Question { gtids, found: None });
        }
        let life = process.life;
        let sessions = &mut self.sessions;
        let mut replies = Vec::new();
        process.replica.take_messages(|id, messages| {
            replies.extend(messages.iter().filter_map(|message| match message {
                FromReplica::Reply { request_id, reply } => Some((self.asked.get(request_id).copied()?, reply.clone())),
                _ => None,
            }));
            let session = sessions.iter_mut().find(|session| session.id == id && session.life == life);
            if let Some(session) = session.filter(|session| !session.is_broken && session.is_open_at_client) {
                session.to_client.extend(messages);
            }
        });
        for (gtid, reply) in replies {
            if let Err(problem) = self.judge_reply(gtid, &reply) {
                self.broken = Some(problem);
            }
        }
    }

    fn node_timer(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node] else { return };
        let due = process.timers.iter().find(|(_, due_ms)| **due_ms <= self.now_ms).map(|(timer, _)| *timer);
        if let Some((gtid, timer)) = due {
            process.timers.remove(&(gtid, timer));
            self.give(node, Input::TimerFired { gtid, timer });
        }
    }

    fn apply(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node] else { return };
        let batch = match process.append.take() {
            Some((batch, _)) => batch,
            None => match process.replica.take_batch() {
                Some(batch) => batch,
                None => return,
            },
        };
        match self.log.append(process.name, process.epoch, &batch) {
            Ok(appended) => process.append = Some((batch, Some(appended))),
            Err(super::log::Fenced) => self.node_dies(node),
        }
    }

    fn answer(&mut self, node: usize) {
        if let Some((_, Some(appended))) = self.nodes[node].as_mut().and_then(|node| node.append.take()) {
            self.give(node, Input::Appended(appended));
        }
    }

    fn start_node(&mut self, node: usize) {
        if self.nodes[node].is_some() {
            return;
        }
        // Processes of one name follow one another, at either place.
        let name = if self.two_names { node } else { 0 };
        let epoch = self.log.acquire(name);
        self.lives += 1;
        self.nodes[node] = Some(Node::start(name, self.lives, epoch, self.names(), self.now_ms));
        for row in self.log.open_rows(epoch) {
            self.give(node, Input::Recovered(row));
        }
    }

    fn node_dies(&mut self, node: usize) {
        let Some(process) = self.nodes[node].take() else { return };
        if let Some((batch, None)) = process.append {
            self.limbo.push((process.name, process.epoch, batch));
        }
        for session in &mut self.sessions {
            if session.node == node && session.life == process.life {
                session.breaks(0);
                session.is_open_at_replica = false;
            }
        }
    }

    // ---- participants ----------------------------------------------------------------------------------------------

    fn start_instance(&mut self, bank: usize, instance: usize) {
        if self.banks[bank].instances[instance].is_some() {
            return;
        }
        self.last_instance += 1;
        let mut process = Instance::new(InstanceId(self.last_instance));
        process.looks(&self.banks[bank].database, self.now_ms, 0);
        self.banks[bank].instances[instance] = Some(process);
    }

    fn instance_dies(&mut self, bank: usize, instance: usize) {
        self.banks[bank].instances[instance] = None;
        let client = Client::Instance { bank, instance };
        for session in self.sessions.iter_mut().filter(|session| session.client == client) {
            session.breaks(session.to_replica.len());
            session.is_open_at_client = false;
        }
    }

    fn hook_returns(&mut self, bank: usize, instance: usize, at: usize, turn: Turn) {
        let now_ms = self.now_ms;
        let of = &mut self.banks[bank];
        let Some(process) = &mut of.instances[instance] else { return };
        let Some(((gtid, _), _)) = process.hooks.get(at).cloned() else { return };
        let said = process.hook_returns(&mut of.database, at, turn, now_ms);
        match &said.vote {
            Some(Vote::ReadOnly) => drop(self.read_only.insert((bank, gtid))),
            Some(_) => drop(self.read_only.remove(&(bank, gtid))),
            None => {}
        }
        self.says(Client::Instance { bank, instance }, said);
    }

    fn instance_timer(&mut self, bank: usize, instance: usize) {
        let now_ms = self.now_ms;
        let of = &mut self.banks[bank];
        let Some(process) = &mut of.instances[instance] else { return };
        let due = process.timers.iter().find(|(_, due_ms)| **due_ms <= now_ms).map(|(timer, _)| *timer);
        let said = match due {
            Some((key, timer)) => process.timer_fires(key, timer, now_ms),
            None => {
                process.looks(&of.database, now_ms, GRACE_MS);
                Said::default()
            }
        };
        self.says(Client::Instance { bank, instance }, said);
    }

    /// Whether an instance looks for branches of others now, and has something to find.
    fn is_look_due(&self, bank: usize, process: &Instance) -> bool {
        process.looks_at_ms <= self.now_ms && self.next_find_ms(bank, process).is_some_and(|at_ms| at_ms <= self.now_ms)
    }

    /// When an instance could find something that it does not know.
    fn next_find_ms(&self, bank: usize, process: &Instance) -> Option<u64> {
        let unknown = self.banks[bank].database.prepared.iter().filter(|(key, _)| !process.branches.contains_key(key));
        unknown.map(|(_, since_ms)| (since_ms + GRACE_MS).max(process.looks_at_ms)).min()
    }

    // ---- the initiator ---------------------------------------------------------------------------------------------

    fn ask(&mut self, at: usize) {
        let names = self.names();
        let epoch = self.session_of(Client::Initiator).map(|session| session.epoch);
        let Some((ask, stage)) = self.wishes[at].next_request(&names) else {
            let messages = self.wishes[at].asks_again().into_iter().collect();
            return self.says(Client::Initiator, Said { messages, ..Said::default() });
        };
        self.last_request += 1;
        let gtid = self.wishes[at].gtid;
        self.asked.insert(self.last_request, gtid);
        self.wishes[at].asks(Request { request_id: self.last_request, gtid, ask }, stage);
        let Some(epoch) = epoch else { return };
        let messages = self.wishes[at].write(epoch).into_iter().collect();
        self.says(Client::Initiator, Said { messages, ..Said::default() });
    }

    /// The request that waits is asked once more over the same session.
    fn repeat(&mut self, at: usize) {
        let Some(epoch) = self.session_of(Client::Initiator).map(|session| session.epoch) else { return };
        self.last_request += 1;
        self.asked.insert(self.last_request, self.wishes[at].gtid);
        let messages = self.wishes[at].repeats(self.last_request, epoch).into_iter().collect();
        self.says(Client::Initiator, Said { messages, ..Said::default() });
    }

    /// The initiator wants it undone. It waits for the outcome all the same.
    fn turn(&mut self, at: usize) {
        self.last_request += 1;
        let gtid = self.wishes[at].gtid;
        self.asked.insert(self.last_request, gtid);
        let message = FromClient::request(self.last_request, gtid, Ask::Abort { reason: "enough".into() });
        self.says(Client::Initiator, Said { messages: vec![message], ..Said::default() });
    }

    fn call(&mut self, at: usize, instance: usize) {
        let wish = &mut self.wishes[at];
        let (Shape::Begun { calls }, Stage::Open { call, .. }) = (&wish.shape, wish.stage) else { return };
        let (bank, gtid) = (calls[call], wish.gtid);
        wish.stage = Stage::Open { call, is_calling: true };
        self.prepares_early(bank, instance, gtid);
    }

    /// The service does the same work a second time, in a branch of its own, and nobody waits for the answer.
    fn call_twice(&mut self, at: usize, instance: usize, fails: bool) {
        let wish = &self.wishes[at];
        let (Shape::Begun { calls }, Stage::Open { call, is_calling: true }) = (&wish.shape, wish.stage) else {
            return;
        };
        let (bank, gtid) = (calls[call], wish.gtid);
        if fails {
            let key = self.early_branch(gtid);
            let (now_ms, of) = (self.now_ms, &mut self.banks[bank]);
            if let Some(process) = &mut of.instances[instance] {
                process.is_called(&mut of.database, key, now_ms);
                process.failed.push_back(key);
            }
        } else if let Some(request) = self.prepares_early(bank, instance, gtid) {
            self.doubled.insert(request);
        }
    }

    /// Prepares a branch and asks to enlist it; which request asks.
    fn prepares_early(&mut self, bank: usize, instance: usize, gtid: Gtid) -> Option<u64> {
        let key = self.early_branch(gtid);
        self.last_request += 1;
        let (request, now_ms, of) = (self.last_request, self.now_ms, &mut self.banks[bank]);
        let process = of.instances[instance].as_mut()?;
        let vote = process.is_called(&mut of.database, key, now_ms);
        process.enlisting.insert(request, key);
        let message = FromClient::request(request, gtid, Ask::Enlist { branch: key.1, vote });
        self.says(Client::Instance { bank, instance }, Said { messages: vec![message], ..Said::default() });
        Some(request)
    }

    /// The SDK draws the numbers of the branches that it enlists, apart from those that replicas count.
    fn early_branch(&mut self, gtid: Gtid) -> BranchKey {
        self.last_branch += 1;
        (gtid, BranchId { epoch: Epoch(0), number: self.last_branch })
    }

    fn next_call(&mut self, at: usize) {
        if let Stage::Open { call, .. } = self.wishes[at].stage {
            self.wishes[at].stage = Stage::Open { call: call + 1, is_calling: false };
        }
    }

    fn answered(&mut self, client: Client, request_id: u64, reply: &Reply) {
        match client {
            Client::Initiator => {
                let waits =
                    |wish: &&mut Wish| wish.waiting.as_ref().is_some_and(|request| request.request_id == request_id);
                let (now_ms, may_lag) = (self.now_ms, self.may_lag);
                if let Some(wish) = self.wishes.iter_mut().find(waits)
                    && let Err(problem) = wish.hears(reply, now_ms, may_lag)
                {
                    self.broken = Some(problem);
                }
            }
            Client::Instance { bank, instance } => self.enlisted(bank, instance, request_id, reply),
        }
    }

    fn enlisted(&mut self, bank: usize, instance: usize, request_id: u64, reply: &Reply) {
        let of = &mut self.banks[bank];
        let Some(process) = &mut of.instances[instance] else { return };
        let Some(key) = process.enlisting.remove(&request_id) else { return };
        let gtid = key.0;
        let is_enlisted = *reply == Reply::Enlisted;
        if !is_enlisted {
            process.withdraws(&mut of.database, key);
        }
        if is_enlisted {
            self.welcomed.insert((bank, key));
        }
        if self.doubled.contains(&request_id) {
            return;
        }
        for at in 0..self.wishes.len() {
            let wish = &mut self.wishes[at];
            if let (Shape::Begun { calls }, Stage::Open { call, is_calling: true }) = (&wish.shape, wish.stage)
                && wish.gtid == gtid
                && calls[call] == bank
            {
                if is_enlisted {
                    wish.roster.push(bank);
                    self.next_call(at);
                } else {
                    wish.stage = Stage::Concluded(Conclusion::WithoutEffect);
                }
            }
        }
    }

    // ---- faults stop -----------------------------------------------------------------------------------------------

    /// Everything has to end.
    pub(crate) fn calm(&self, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        let mut world = self.clone();
        world.left = Faults::default();
        for _ in 0..20_000 {
            // Calls that are never answered are given up.
            let stuck = (0..world.wishes.len()).find(|at| {
                matches!(world.wishes[*at].stage, Stage::Open { is_calling: true, .. })
                    && !world.is_enlisting(world.wishes[*at].gtid)
            });
            let next = world
                .restarts()
                .into_iter()
                .chain(world.progress(true))
                .chain(stuck.map(|wish| Action::GiveUpCall { wish }))
                .next();
            let action = match next {
                Some(action) => action,
                None if world.next_due_ms().is_some() => Action::Jump,
                None => return world.judge_the_end(),
            };
            world.step(action);
            tell(&world, action);
            if let Some(problem) = &world.broken {
                return Err(problem.clone());
            }
        }
        Err("I12 it comes to rest".to_owned())
    }

    fn is_enlisting(&self, gtid: Gtid) -> bool {
        let instances = self.banks.iter().flat_map(|bank| bank.instances.iter().flatten());
        instances.into_iter().any(|instance| instance.enlisting.values().any(|(of, _)| *of == gtid))
            && self.sessions.iter().any(|session| {
                matches!(session.client, Client::Instance { .. })
                    && (!session.to_client.is_empty() || !session.to_replica.is_empty())
            })
    }
}
