//! The state of the whole system, and its steps.

use std::collections::{BTreeMap, BTreeSet};

use assent_protocol::replica::{Batch, Input};
use assent_protocol::{Epoch, Gtid, ParticipantName};

use super::action::Action;
use super::ballots::Ballots;
use super::bank::{Bank, BranchKey};
use super::initiator::{Stage, Wish};
use super::log::Log;
use super::network::PeerCall;
use super::node::{Node, Question};
use super::session::{Client, Session};
use super::setup::{Faults, Setup};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) log: Log,
    pub(super) is_log_away: bool,
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) banks: Vec<Bank>,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) sessions: Vec<Session>,
    /// Calls between participants, in the order in which they were made.
    pub(crate) calls: BTreeMap<u64, PeerCall>,
    /// Batches that the storage may still carry out: their writers have died, or have sent them
    /// again.
    pub(super) limbo: Vec<(usize, Epoch, Batch)>,
    /// What the voters of three-phase transactions have accepted.
    pub(super) ballots: Ballots,
    /// Branches that had nothing to commit.
    pub(super) read_only: BTreeSet<(usize, Gtid)>,
    /// Branches whose Enlist arrived, although the call of their service may have been given up.
    pub(super) enlisted: BTreeSet<(usize, Gtid)>,
    pub(super) left: Faults,
    pub(super) lives: u64,
    pub(super) last_session: u64,
    pub(super) last_instance: u64,
    pub(super) last_request: u64,
    pub(super) last_call: u64,
    /// How many branches were prepared by calls.
    pub(super) last_branch: u64,
    /// Branches whose enlistment was answered well: they are part of their transactions.
    pub(super) welcomed: BTreeSet<(usize, BranchKey)>,
    /// Enlistments of calls that came a second time: nobody waits for what comes of them.
    pub(super) doubled: BTreeSet<u64>,
    pub(super) one_phase: bool,
    pub(super) two_names: bool,
    /// Reads of the log may lag behind.
    pub(super) may_lag: bool,
    /// Which transaction each request is about.
    pub(super) asked: BTreeMap<u64, Gtid>,
    pub(crate) broken: Option<String>,
}

const START_MS: u64 = 1_700_000_000_000;

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
        let banks = setup.banks.iter().enumerate();
        let wishes =
            setup.shapes.iter().enumerate().map(|(at, shape)| Wish::new(gtid(at, START_MS + 20_000), shape.clone()));
        let mut world = Self {
            now_ms: START_MS,
            log: Log::default(),
            is_log_away: false,
            nodes: vec![None; 2],
            banks: banks.map(|(at, kind)| Bank::new(at, name_of_bank(at), *kind, setup.instances)).collect(),
            wishes: wishes.collect(),
            sessions: Vec::new(),
            calls: BTreeMap::new(),
            limbo: Vec::new(),
            ballots: Ballots::default(),
            read_only: BTreeSet::new(),
            enlisted: BTreeSet::new(),
            left: setup.faults,
            lives: 0,
            last_session: 0,
            last_instance: 0,
            last_request: 0,
            last_call: 0,
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
        for bank in 0..setup.banks.len() {
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

    pub(super) fn clients(&self) -> Vec<Client> {
        let instances =
            self.banks.iter().enumerate().flat_map(|(bank, of)| {
                (0..of.instances.len()).map(move |instance| Client::Instance { bank, instance })
            });
        std::iter::once(Client::Initiator).chain(instances).collect()
    }

    /// Takes one step, and judges what it has led to.
    pub(crate) fn step(&mut self, action: Action) {
        self.now_ms += 1;
        self.spend(action);
        self.act(action);
        self.sessions.retain(|session| !session.is_over());
        if self.broken.is_none() {
            self.broken = self.judge().err();
        }
    }

    fn act(&mut self, action: Action) {
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
            Action::EarlyNodeTimer { node, gtid, timer } => self.early_node_timer(node, gtid, timer),
            Action::InstanceTimer { bank, instance } => self.instance_timer(bank, instance),
            Action::EarlyInstanceTimer { bank, instance, key, timer } => {
                self.timer_fires((bank, instance), key, timer);
            }
            Action::Apply { node } => self.apply(node),
            Action::Answer { node } => self.answer(node),
            Action::LoseAnswer { node } => self.lose_answer(node),
            Action::ApplyLate => self.apply_late(),
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
            Action::StartNode { node } | Action::TakeOver { node } => self.start_node(node),
            Action::Blackout => self.blackout(),
            Action::LogReturns => self.is_log_away = false,
            Action::CrashInstance { bank, instance } => self.instance_dies(bank, instance),
            Action::ScaleAway { bank, instance } => self.scale_away(bank, instance),
            Action::StartInstance { bank, instance } => self.start_instance(bank, instance),
            Action::LoseStore { bank } => self.lose_store(bank),
            Action::AskVoter { bank, instance, at } => self.voter_answers(bank, instance, at),
            Action::ForgetVoter { bank, instance, gtid } => self.forget_voter(bank, instance, gtid),
            Action::PeerIsAsked { call, instance } => self.peer_is_asked(call, instance),
            Action::PeerIsAnswered { call } => self.peer_is_answered(call),
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
    }
}
