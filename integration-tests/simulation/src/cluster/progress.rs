//! What can happen without faults.

use assent_protocol::branch::Hook;
use assent_protocol::message::FromReplica;
use assent_protocol::three_phase::{VoterName, VoterRecord};
use assent_protocol::{Gtid, ParticipantName};

use super::action::Action;
use super::bank::Turn;
use super::initiator::{Shape, Stage, Wish};
use super::instance::Instance;
use super::node::{Node, Question};
use super::session::{Client, Session};
use super::steps::Verdict;
use super::world::World;

impl World {
    /// What happens without faults.
    pub(super) fn progress(&self, is_calm: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        self.sessions_go_on(&mut actions);
        self.peers_go_on(&mut actions);
        for (bank, of) in self.banks.iter().enumerate() {
            for (instance, process) in of.instances.iter().enumerate() {
                if let Some(process) = process {
                    self.instance_goes_on((bank, instance), process, is_calm, &mut actions);
                }
            }
        }
        for (node, process) in self.nodes.iter().enumerate() {
            if let Some(process) = process {
                self.node_goes_on(node, process, &mut actions);
            }
        }
        if self.two_names {
            let dead = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_none());
            actions.extend(dead.map(|node| Action::StartNode { node }));
        } else if self.nodes.iter().all(Option::is_none) {
            actions.push(Action::StartNode { node: 0 });
        }
        self.wishes_go_on(&mut actions);
        if self.is_log_away {
            actions.retain(|action| !action.needs_the_log());
        }
        actions
    }

    fn sessions_go_on(&self, actions: &mut Vec<Action>) {
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
    }

    /// A call to a peer reaches any of its instances: they share the address.
    fn peers_go_on(&self, actions: &mut Vec<Action>) {
        for (call, of) in &self.calls {
            if of.answer.is_some() {
                actions.push(Action::PeerIsAnswered { call: *call });
                continue;
            }
            let instances = self.banks[of.to].instances.iter().enumerate();
            let alive = instances.filter(|(_, process)| process.is_some());
            actions.extend(alive.map(|(instance, _)| Action::PeerIsAsked { call: *call, instance }));
        }
    }

    fn instance_goes_on(
        &self,
        (bank, instance): (usize, usize),
        process: &Instance,
        is_calm: bool,
        actions: &mut Vec<Action>,
    ) {
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
        actions.extend(process.questions_due().map(|at| Action::AskVoter { bank, instance, at }));
        let forgettable = process.forgets.iter().filter(|gtid| !self.may_vote_anew(bank, **gtid));
        actions.extend(forgettable.map(|gtid| Action::ForgetVoter { bank, instance, gtid: *gtid }));
        if process.timers.values().any(|due_ms| *due_ms <= self.now_ms)
            || self.is_look_due(bank, process)
            || self.is_record_look_due(bank, process)
        {
            actions.push(Action::InstanceTimer { bank, instance });
        }
    }

    /// Whether something is on its way to a participant that a voter without a record would take
    /// for the first word about the transaction. The SDK remembers for long enough which records it
    /// has deleted.
    fn may_vote_anew(&self, bank: usize, gtid: Gtid) -> bool {
        let is_for_bank =
            |session: &&Session| matches!(session.client, Client::Instance { bank: of, .. } if of == bank);
        let prepares = |message: &FromReplica| match message {
            FromReplica::Prepare { gtid: of, roster: Some(_), .. } => *of == gtid,
            _ => false,
        };
        self.sessions.iter().filter(is_for_bank).any(|session| session.to_client.iter().any(prepares))
            || self.calls.values().any(|call| call.gtid == gtid && call.to == bank && call.answer.is_none())
    }

    fn node_goes_on(&self, node: usize, process: &Node, actions: &mut Vec<Action>) {
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
        let is_paused = |wish: &Wish| {
            matches!(wish.shape, Shape::Saga { .. })
                && process.replica.view(wish.gtid).is_some_and(|view| view.state == "paused")
        };
        let paused = (0..self.wishes.len()).filter(|wish| is_paused(&self.wishes[*wish]));
        actions.extend(paused.map(|wish| Action::Resume { node, wish }));
    }

    fn wishes_go_on(&self, actions: &mut Vec<Action>) {
        let has_session = self.session_of(Client::Initiator).is_some();
        let names = self.names();
        for (at, wish) in self.wishes.iter().enumerate() {
            let is_due = wish.due_ms.is_some_and(|due_ms| due_ms <= self.now_ms);
            if has_session && (is_due || wish.next_request(&names).is_some()) {
                actions.push(Action::Ask { wish: at });
            }
            if let (Shape::Begun { calls, .. }, Stage::Open { call, is_calling: false }) = (&wish.shape, wish.stage)
                && call < calls.len()
            {
                let instances = &self.banks[calls[call]].instances;
                let alive = instances.iter().enumerate().filter(|(_, process)| process.is_some());
                actions.extend(alive.map(|(instance, _)| Action::Call { wish: at, instance }));
            }
        }
    }

    /// Instances that died and come back.
    pub(super) fn restarts(&self) -> Vec<Action> {
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

    /// When the next timer of any process is due.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        let nodes = self.nodes.iter().flatten().flat_map(|node| node.timers.values().copied());
        let instances = self.banks.iter().enumerate().flat_map(|(bank, of)| {
            let processes = of.instances.iter().flatten();
            processes.flat_map(move |process| {
                let looks = self.next_find_ms(bank, process).into_iter().chain(self.next_record_ms(bank, process));
                process.timers.values().copied().chain(looks)
            })
        });
        let requests = self.wishes.iter().filter_map(|wish| wish.due_ms);
        nodes.chain(instances).chain(requests).filter(|due_ms| *due_ms > self.now_ms).min()
    }

    /// Whether an instance looks for branches of others now, and has something to find.
    pub(super) fn is_look_due(&self, bank: usize, process: &Instance) -> bool {
        process.looks_at_ms <= self.now_ms && self.next_find_ms(bank, process).is_some_and(|at_ms| at_ms <= self.now_ms)
    }

    /// When an instance could find something that it does not know.
    fn next_find_ms(&self, bank: usize, process: &Instance) -> Option<u64> {
        let unknown = self.banks[bank].database.prepared.iter().filter(|(key, _)| !process.branches.contains_key(key));
        unknown.map(|(_, since_ms)| (since_ms + super::bank::GRACE_MS).max(process.looks_at_ms)).min()
    }

    /// Whether an instance looks now for voters' records that are not in memory, and there are some.
    pub(super) fn is_record_look_due(&self, bank: usize, process: &Instance) -> bool {
        self.next_record_ms(bank, process).is_some_and(|at_ms| at_ms <= self.now_ms)
    }

    fn next_record_ms(&self, bank: usize, process: &Instance) -> Option<u64> {
        let is_missed = |record: &VoterRecord| !process.knows(record) && !self.is_last_trace(record);
        self.banks[bank].database.voter.records().any(is_missed).then_some(process.looks_for_records_at_ms)
    }

    pub(super) fn names(&self) -> Vec<ParticipantName> {
        self.banks.iter().map(|bank| bank.name.clone()).collect()
    }

    /// The place of a participant, by its name as a voter.
    pub(super) fn bank_of(&self, voter: &VoterName) -> Option<usize> {
        let VoterName::Participant(name) = voter else { return None };
        self.banks.iter().position(|bank| bank.name == *name)
    }
}
