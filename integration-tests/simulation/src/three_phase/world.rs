//! One transaction: the machines of both sides, a log, stores and resources that survive crashes, and a network that loses, delays, repeats
//! and reorders.
//!
//! A replica comes back with nothing but the log, a participant with nothing but its store and its resource. The log may be away for as long as
//! it likes, with every replica or without. A voter's record is deleted when it [may be](participant::Effect::ForgetVoter), at any time after the
//! orders to prepare and the peers' questions that were on their way to it; a replica that was fenced and does not know it goes on leading. A participant that loses its store loses its resource with it, and comes back with another store: from
//! then on nothing has to end, and nothing may end in two ways.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use assent_protocol::branch::{Hook, HookEnd, Message};
use assent_protocol::ids::BranchId;
use assent_protocol::record::Member;
use assent_protocol::three_phase::coordinator::{self, Coordinator, Introduction, Order};
use assent_protocol::three_phase::participant::{self, Participant};
use assent_protocol::three_phase::{
    Answer, Ballot, Bar, NodeId, Request, Roster, Standing, StoreId, Voter, VoterName, VoterRecord, VoterState,
    invariant,
};
use assent_protocol::two_phase::{self, BranchResult, CarriedBranch, EarlyVote, Patience, Reply, Route, Vote};
use assent_protocol::{
    Appended, BodyDigest, Caller, Decision, Epoch, InstanceId, Outcome, Output, ParticipantName, Parts, Record, Wait,
};

use super::cells::{self, CELLS};
use super::log::Log;
use crate::append::{self, Append};
use crate::gtid;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const LOG: StoreId = StoreId(1000);
const PATIENCE: Patience = Patience { timeout_ms: 30_000, absence_ms: 5_000 };
const DIGEST: BodyDigest = BodyDigest(7);
/// The id of the first branch that the commit request carries.
const FIRST_ID: BranchId = BranchId { epoch: Epoch(1), number: 0 };

fn name(index: usize) -> ParticipantName {
    NAMES[index].parse().expect("valid")
}

fn index(name: &ParticipantName) -> usize {
    NAMES.iter().position(|known| *known == name.as_str()).expect("known")
}

/// How a participant's prepare ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Yes,
    /// It enlists, prepared, before the commit.
    Early,
    ReadOnly,
    No,
    /// An error, after it has taken effect.
    Unknown,
    /// Its program has no store for a voter.
    NoVoter,
}

/// Who is there when faults stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calm {
    All,
    /// The coordinator and its log never come back.
    WithoutCoordinator,
    /// The coordinator is there, and its log is not.
    WithoutLog,
}

/// What can go wrong, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) replica_crashes: u8,
    pub(crate) participant_crashes: u8,
    /// Every replica is gone, and the log with them, for a while.
    pub(crate) blackouts: u8,
    pub(crate) lost_answers: u8,
    pub(crate) take_overs: u8,
    pub(crate) lost_stores: u8,
    pub(crate) requests: u8,
    pub(crate) hooks: u8,
    pub(crate) deadlines: u8,
    /// The log's retention is over: what has ended is removed, and is as if it had never been.
    pub(crate) retentions: u8,
    /// Timers that fire before their time.
    pub(crate) timers: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) behaviours: Vec<Behaviour>,
    pub(crate) replicas: usize,
    /// The first participant is not there yet when the commit is asked for.
    pub(crate) is_first_late: bool,
    /// What may be lost with a participant's process is.
    pub(crate) takes_notes: bool,
    pub(crate) end: Calm,
    pub(crate) faults: Faults,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Untouched,
    Prepared,
    Committed,
    Aborted,
}

#[derive(Clone, Debug)]
pub(crate) struct Site {
    behaviour: Behaviour,
    is_up: bool,
    instance: u64,
    /// The replica whose order counts, and its epoch: the highest that this life of the branch has seen.
    replica: usize,
    epoch: Epoch,
    pub(crate) machine: Option<Participant>,
    asks: VecDeque<Request>,
    hooks: VecDeque<Hook>,
    timers: BTreeSet<participant::Timer>,
    /// The voter's record may go, once the orders to prepare and the peers' questions that were sent before this are gone.
    forgets: Option<u32>,
    // What survives:
    store: u128,
    pub(crate) resource: Resource,
    pub(crate) stored: Option<VoterRecord>,
    /// What is left of that after a crash, if it has only taken note of the rest.
    on_disk: Option<VoterRecord>,
    // For judgement:
    /// Its prepare said that it can commit.
    agreed: bool,
    has_lost_its_store: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Hub {
    pub(crate) is_up: bool,
    life: u64,
    epoch: u64,
    pub(crate) machine: Option<Coordinator>,
    append: Option<Append<coordinator::Effect>>,
    lazy: Vec<Record>,
    timers: BTreeSet<coordinator::Timer>,
    /// Sessions that it has yet to see come and go.
    joined: BTreeSet<usize>,
    left: BTreeSet<(usize, u64)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Mail {
    ToSite { hub: usize, site: usize, epoch: Epoch, order: Order },
    LogAnswer { hub: usize, site: usize, answer: Answer },
    Word { site: usize, instance: u64, hub: usize, message: Message },
    AskedLog { site: usize, instance: u64, hub: usize, request: Request },
    VoterAnswer { site: usize, hub: usize, answer: Answer },
    Peer { from: usize, to: usize, request: Request },
    PeerAnswer { from: usize, to: usize, answer: Answer },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Deliver(u32),
    Apply { replica: usize },
    Answer { replica: usize },
    LoseAnswer { replica: usize },
    ApplyLate,
    Flush { replica: usize },
    StartReplica { replica: usize },
    Resume { replica: usize },
    CrashReplica { replica: usize },
    TakeOver,
    Blackout,
    LogReturns,
    Retention,
    Join { replica: usize, site: usize },
    Left { replica: usize, site: usize, instance: u64 },
    HubTimer { replica: usize, timer: coordinator::Timer },
    Store { site: usize },
    Hook { site: usize },
    HookFails { site: usize },
    SiteTimer { site: usize, timer: participant::Timer },
    StartSite { site: usize },
    CrashSite { site: usize },
    LoseStore { site: usize },
    Forget { site: usize },
    AskCommit { replica: usize },
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) sites: Vec<Site>,
    pub(crate) hubs: Vec<Hub>,
    pub(crate) log: Log,
    pub(crate) is_log_away: bool,
    /// In the order in which it was sent.
    pub(crate) mail: BTreeMap<u32, Mail>,
    sent: u32,
    limbo: Vec<((usize, u64), Record)>,
    nodes: u128,
    epochs: u64,
    requests: u64,
    pub(crate) told: Option<Outcome>,
    left: Faults,
    takes_notes: bool,
    /// Who accepted what under which ballot, ever: participants by index, the log behind them.
    accepted: BTreeMap<Ballot, (Standing, BTreeSet<usize>)>,
    roster: Option<Roster>,
    pub(crate) broken: Option<String>,
}

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        let site = |(at, behaviour): (usize, &Behaviour)| Site {
            behaviour: *behaviour,
            is_up: at > 0 || !setup.is_first_late || *behaviour == Behaviour::Early,
            instance: 1,
            replica: 0,
            epoch: Epoch(0),
            machine: None,
            asks: VecDeque::new(),
            hooks: VecDeque::new(),
            timers: BTreeSet::new(),
            forgets: None,
            store: at as u128,
            resource: Resource::Untouched,
            stored: None,
            on_disk: None,
            agreed: false,
            has_lost_its_store: false,
        };
        let hub = Hub {
            is_up: false,
            life: 0,
            epoch: 0,
            machine: None,
            append: None,
            lazy: Vec::new(),
            timers: BTreeSet::new(),
            joined: BTreeSet::new(),
            left: BTreeSet::new(),
        };
        let mut world = Self {
            sites: setup.behaviours.iter().enumerate().map(site).collect(),
            hubs: vec![hub; setup.replicas],
            log: Log::default(),
            is_log_away: false,
            takes_notes: setup.takes_notes,
            mail: BTreeMap::new(),
            sent: 0,
            limbo: Vec::new(),
            nodes: 0,
            epochs: 0,
            requests: 0,
            told: None,
            left: setup.faults,
            accepted: BTreeMap::new(),
            roster: None,
            broken: None,
        };
        for replica in 0..setup.replicas {
            world.start_replica(replica);
        }
        world.begin();
        world
    }

    fn begin(&mut self) {
        let (node, epoch) = (self.node(), Epoch(self.hubs[0].epoch));
        let (machine, output) = Coordinator::begin(gtid(), epoch, 0, PATIENCE, node, LOG);
        self.install(0, machine, output);
        for site in 0..self.sites.len() {
            if self.sites[site].behaviour == Behaviour::Early {
                self.sites[site].resource = Resource::Prepared;
                self.sites[site].agreed = true;
                self.wake_site(site);
                let caller = Caller { session: 99, request: site as u64 };
                let (participant, branch) = (name(site), self.branch(site));
                let (instance, vote) = (self.instance(site), EarlyVote::Yes);
                self.hub(
                    0,
                    two_phase_event(two_phase::Event::Enlisted { participant, branch, instance, vote, caller }),
                );
            }
        }
        self.ask(0);
    }

    /// The initiator asks to commit, for the first time or again.
    fn ask(&mut self, replica: usize) {
        self.requests += 1;
        let is_first = self.requests == 1;
        let carried = self.sites.iter().enumerate().filter(|(_, site)| site.behaviour != Behaviour::Early);
        let event = two_phase_event(two_phase::Event::CommitRequested {
            branches: carried.map(|(at, _)| CarriedBranch { participant: name(at), payload: "work".into() }).collect(),
            first_id: FIRST_ID,
            digest: DIGEST,
            one_phase: true,
            may_recur: !is_first,
            caller: Caller { session: self.requests, request: 1 },
            wait: Wait::Decided,
        });
        if self.hubs[replica].machine.is_none() {
            if let Some(decision) = self.log.decision() {
                return self.hear(match decision {
                    Decision::Commit => Outcome::Committed,
                    Decision::Abort => Outcome::Aborted,
                });
            }
            if self.log.attempted.is_some() {
                // Whoever owns it finds out.
                return;
            }
            let (node, epoch) = (self.node(), Epoch(self.hubs[replica].epoch));
            let (machine, output) = Coordinator::forgotten(gtid(), epoch, 0, "lost", node, LOG);
            self.install(replica, machine, output);
        }
        self.hub(replica, event);
    }

    fn hear(&mut self, outcome: Outcome) {
        if self.told.is_some_and(|told| told != outcome) {
            self.breaks("I5 the initiator was told two outcomes");
        }
        self.told = Some(outcome);
    }

    fn breaks(&mut self, problem: impl Into<String>) {
        if self.broken.is_none() {
            self.broken = Some(problem.into());
        }
    }

    fn node(&mut self) -> NodeId {
        self.nodes += 1;
        NodeId(self.nodes)
    }

    /// The id of a site's branch: the transaction runs once, so each has one.
    fn branch(&self, site: usize) -> BranchId {
        let is_early = |site: usize| self.sites[site].behaviour == Behaviour::Early;
        if is_early(site) {
            return BranchId { epoch: Epoch(0), number: 1 + site as u64 };
        }
        FIRST_ID.plus((0..site).filter(|site| !is_early(*site)).count())
    }

    fn member(&self, site: usize) -> Member {
        Member { participant: name(site), branch: self.branch(site) }
    }

    fn instance(&self, site: usize) -> InstanceId {
        InstanceId(site as u64 * 100 + self.sites[site].instance)
    }

    fn post(&mut self, mail: Mail) {
        self.mail.insert(self.sent, mail);
        self.sent += 1;
    }

    fn post_to_site(&mut self, hub: usize, site: usize, order: Order) {
        if self.sites[site].is_up {
            // An order is its machine's, which may have begun before its process took over another's rows.
            let Hub { machine, epoch, .. } = &self.hubs[hub];
            let epoch = machine.as_ref().map_or(Epoch(*epoch), |machine| machine.transaction().epoch());
            self.post(Mail::ToSite { hub, site, epoch, order });
        }
    }

    // ---- a replica of the coordinator -----------------------------------------------------------------------------

    fn draw_epoch(&mut self) -> u64 {
        self.epochs += 1;
        self.epochs
    }

    fn start_replica(&mut self, replica: usize) {
        let epoch = self.draw_epoch();
        self.log.lives[replica] = epoch;
        let hub = &mut self.hubs[replica];
        (hub.is_up, hub.life, hub.epoch) = (true, epoch, epoch);
    }

    fn stop_replica(&mut self, replica: usize) -> Option<Append<coordinator::Effect>> {
        let hub = &mut self.hubs[replica];
        (hub.is_up, hub.machine) = (false, None);
        hub.lazy.clear();
        hub.timers.clear();
        hub.joined.clear();
        hub.left.clear();
        hub.append.take()
    }

    /// What it had sent to the storage may still be carried out.
    fn crash_replica(&mut self, replica: usize) {
        let life = self.hubs[replica].life;
        if let Some(append) = self.stop_replica(replica)
            && append.answer.is_none()
            && let Some(record) = append.output.forced()
        {
            self.limbo.push(((replica, life), record.clone()));
        }
    }

    /// Takes up what stands in the log.
    fn resume(&mut self, replica: usize) {
        let (epoch, node) = (Epoch(self.hubs[replica].epoch), self.node());
        let roster = self.log.attempted.as_ref().map(|attempted| attempted.roster.clone());
        let (machine, output) = match (&self.log.decided, &self.log.attempted, self.log.voter) {
            (Some(decided), _, _) => Coordinator::recover_decided(decided, roster, epoch, node, LOG),
            (None, Some(attempted), Some(state)) => Coordinator::recover(attempted, state, epoch, node, LOG),
            (None, _, _) => return,
        };
        self.install(replica, machine, output);
    }

    fn may_resume(&self, replica: usize) -> bool {
        let hub = &self.hubs[replica];
        hub.is_up
            && hub.machine.is_none()
            && self.log.is_open()
            && self.log.owner == replica
            && self.log.lives[replica] == hub.life
    }

    fn install(&mut self, replica: usize, machine: Coordinator, output: Output<coordinator::Effect>) {
        self.hubs[replica].machine = Some(machine);
        self.carry_out(replica, output);
    }

    fn hub(&mut self, replica: usize, event: coordinator::Event) {
        let Some(before) = self.hubs[replica].machine.take() else { return };
        CELLS.hit(cells::coordinator_word(before.stage()), cells::coordinator_kind(&event));
        match &event {
            coordinator::Event::Answered { answer, .. } => cells::hit_leader(before.leader(), Some(*answer)),
            coordinator::Event::ElectionDue => cells::hit_leader(before.leader(), None),
            coordinator::Event::TwoPhase(_)
            | coordinator::Event::Introduced { .. }
            | coordinator::Event::Asked { .. }
            | coordinator::Event::LogDue => {}
        }
        let mut machine = before.clone();
        let output = machine.handle(event.clone());
        if let Err(violation) = invariant::check_coordinator(&before, &machine, &output) {
            self.breaks(format!("{violation} by {event:?}"));
        }
        if self.roster.is_none() {
            self.roster = machine.roster().cloned();
        }
        self.hubs[replica].machine = Some(machine);
        self.carry_out(replica, output);
    }

    fn carry_out(&mut self, replica: usize, output: Output<coordinator::Effect>) {
        if output.forced().is_some() {
            if self.hubs[replica].append.is_some() {
                self.breaks("two appends at a time");
            }
            self.hubs[replica].append = Some(Append { output, answer: None });
            return;
        }
        let Parts::Free { lazy, effects } = output.split() else { unreachable!("nothing is forced") };
        self.perform(replica, lazy, effects);
    }

    fn perform(&mut self, replica: usize, lazy: Vec<Record>, effects: Vec<coordinator::Effect>) {
        self.hubs[replica].lazy.extend(lazy);
        let (mut routed, mut introduced, mut is_log_due) = (Vec::new(), Vec::new(), false);
        for effect in effects {
            match effect {
                coordinator::Effect::Send { to, branch, order, .. } => {
                    if branch != self.branch(index(&to)) {
                        self.breaks(format!("{to} is told about {branch}, which it does not have"));
                    }
                    if matches!(order, Order::Prepare { .. } | Order::Commit | Order::Abort) {
                        routed.push(to.clone());
                    }
                    self.post_to_site(replica, index(&to), order);
                }
                coordinator::Effect::Answer { to, answer, .. } => {
                    self.post(Mail::LogAnswer { hub: replica, site: index(&to), answer });
                }
                coordinator::Effect::Reply { reply: Reply::Outcome { outcome, .. }, .. } => self.hear(outcome),
                coordinator::Effect::Reply { .. } => {}
                coordinator::Effect::Introduce(participant) => introduced.push(participant),
                coordinator::Effect::LogDue => is_log_due = true,
                coordinator::Effect::SetTimer { timer, .. } => {
                    self.hubs[replica].timers.insert(timer);
                }
                coordinator::Effect::CancelTimer(timer) => {
                    self.hubs[replica].timers.remove(&timer);
                }
            }
        }
        for participant in routed {
            let site = index(&participant);
            let to = if self.sites[site].is_up { Route::Instance(self.instance(site)) } else { Route::Absent };
            self.hub(replica, two_phase_event(two_phase::Event::Routed { participant, to }));
        }
        for participant in introduced {
            let site = &self.sites[index(&participant)];
            let introduction = match (site.is_up, site.behaviour) {
                (false, _) => Introduction::Absent,
                (true, Behaviour::NoVoter) => Introduction::NoVoter,
                (true, _) => {
                    let address = format!("http://127.0.0.1:{}", index(&participant)).parse().expect("valid");
                    Introduction::Voter { address, store: StoreId(site.store) }
                }
            };
            self.hub(replica, coordinator::Event::Introduced { participant, introduction });
        }
        if is_log_due {
            self.hub(replica, coordinator::Event::LogDue);
        }
        self.let_go_if_logged(replica);
    }

    fn let_go_if_logged(&mut self, replica: usize) {
        let hub = &mut self.hubs[replica];
        if hub.lazy.is_empty() && hub.append.is_none() && hub.machine.as_ref().is_some_and(Coordinator::is_ended) {
            hub.machine = None;
            hub.timers.clear();
        }
    }

    fn apply(&mut self, replica: usize) {
        let hub = &mut self.hubs[replica];
        let Some(append) = &mut hub.append else { return };
        let lazy = std::mem::take(&mut hub.lazy);
        let forced = append.output.forced().cloned();
        append.answer = Some(self.log.append((replica, hub.life), &lazy, forced.as_ref()));
        if matches!(append.answer, Some(append::Answer::Appended(Appended::Durable(_)))) {
            self.logged(forced.as_ref());
        }
    }

    /// What the log accepted as a voter.
    fn logged(&mut self, record: Option<&Record>) {
        let at = self.sites.len();
        match record {
            Some(Record::Attempted(_)) => self.has_accepted(at, VoterState::ATTEMPTED),
            Some(Record::Voter(record)) => self.has_accepted(at, record.state),
            Some(_) | None => {}
        }
    }

    fn has_accepted(&mut self, voter: usize, state: VoterState) {
        let (Standing::PreCommitted | Standing::PreAborted, Some(ballot)) = (state.standing, state.accepted) else {
            return;
        };
        let (standing, voters) = self.accepted.entry(ballot).or_insert_with(|| (state.standing, BTreeSet::new()));
        voters.insert(voter);
        if *standing != state.standing {
            self.breaks("two proposals under one ballot");
        }
    }

    fn answer(&mut self, replica: usize) {
        let Some(Append { output, answer: Some(answer) }) = self.hubs[replica].append.take() else { return };
        match answer {
            // It ends.
            append::Answer::Fenced => drop(self.stop_replica(replica)),
            append::Answer::Nothing => {}
            append::Answer::Appended(Appended::Undecided) => {
                let hub = &mut self.hubs[replica];
                hub.machine = None;
                hub.timers.clear();
            }
            append::Answer::Appended(appended) => {
                if let (Appended::Durable(receipt), Parts::AfterAppend { lazy, held, .. }) = (&appended, output.split())
                {
                    let effects = held.release(receipt);
                    self.perform(replica, lazy, effects);
                }
                self.hub(replica, two_phase_event(two_phase::Event::Appended(appended)));
                self.let_go_if_logged(replica);
            }
        }
    }

    fn flush(&mut self, replica: usize) {
        let hub = &mut self.hubs[replica];
        let lazy = std::mem::take(&mut hub.lazy);
        match self.log.append((replica, hub.life), &lazy, None) {
            append::Answer::Fenced => drop(self.stop_replica(replica)),
            append::Answer::Appended(_) | append::Answer::Nothing => self.let_go_if_logged(replica),
        }
    }

    /// Somebody asks about a transaction that is not in memory.
    fn asked_nobody(&mut self, replica: usize, site: usize, instance: u64, again: Mail) {
        if self.is_log_away {
            return;
        }
        if let Some(decision) = self.log.decision() {
            let order = if decision == Decision::Commit { Order::Commit } else { Order::Abort };
            return self.post_to_site(replica, site, order);
        }
        if let Mail::AskedLog { request, .. } = &again
            && self.log.attempted.is_none()
            && request.knows_of_a_vote()
        {
            return self.post(Mail::LogAnswer { hub: replica, site, answer: Answer::Barred(Bar::Forgotten) });
        }
        if self.log.attempted.is_none() {
            let (epoch, node) = (Epoch(self.hubs[replica].epoch), self.node());
            let instance = InstanceId(site as u64 * 100 + instance);
            let (machine, output) =
                Coordinator::presume_abort(gtid(), epoch, 0, self.member(site), instance, node, LOG);
            return self.install(replica, machine, output);
        }
        if self.may_resume(replica) {
            return self.resume(replica);
        }
        // What only the owner knows is relayed.
        let owner = self.log.owner;
        if owner != replica && self.hubs[owner].machine.is_some() {
            match again {
                Mail::Word { site, instance, message, .. } => self.word(site, instance, owner, message),
                Mail::AskedLog { site, instance, request, .. } => {
                    let (member, instance) = (self.member(site), InstanceId(site as u64 * 100 + instance));
                    self.hub(owner, coordinator::Event::Asked { member, instance, request });
                }
                Mail::ToSite { .. }
                | Mail::LogAnswer { .. }
                | Mail::VoterAnswer { .. }
                | Mail::Peer { .. }
                | Mail::PeerAnswer { .. } => {}
            }
        }
    }

    fn word(&mut self, site: usize, instance: u64, replica: usize, message: Message) {
        let Member { participant, branch } = self.member(site);
        let instance = InstanceId(site as u64 * 100 + instance);
        self.hub(
            replica,
            two_phase_event(match message {
                Message::Vote(vote) => two_phase::Event::Voted { participant, branch, instance, vote },
                Message::Acknowledge(acknowledgement) => {
                    two_phase::Event::Acknowledged { participant, branch, acknowledgement }
                }
                Message::Inquire => two_phase::Event::Inquired { participant, branch, instance },
            }),
        );
    }

    // ---- the participants -----------------------------------------------------------------------------------------

    fn site(&mut self, site: usize, event: participant::Event) {
        let node = self.node();
        let Some(before) = self.sites[site].machine.take() else {
            CELLS.hit("participant: unmet", cells::participant_kind(&event));
            let stored = self.sites[site].stored.clone();
            let (machine, output) = Participant::meet(gtid(), name(site), node, stored.as_ref(), event);
            self.sites[site].machine = Some(machine);
            return self.do_as_wanted(site, output);
        };
        CELLS.hit(cells::participant_word(before.stage()), cells::participant_kind(&event));
        match &event {
            participant::Event::PeerAnswered { answer, .. } | participant::Event::VoterAnswered { answer, .. } => {
                cells::hit_leader(before.leader(), Some(*answer));
            }
            participant::Event::TimerFired(participant::Timer::Round) => cells::hit_leader(before.leader(), None),
            _ => {}
        }
        let mut machine = before.clone();
        let output = machine.handle(event.clone());
        if let Err(violation) = invariant::check_participant(Some(&before), &event, &machine, &output) {
            self.breaks(format!("{violation} by {event:?}"));
        }
        self.sites[site].machine = Some(machine);
        self.do_as_wanted(site, output);
    }

    fn do_as_wanted(&mut self, site: usize, output: Output<participant::Effect>) {
        let Parts::Free { effects, .. } = output.split() else { panic!("a participant forces nothing itself") };
        let instance = self.sites[site].instance;
        for effect in effects {
            let place = &mut self.sites[site];
            match effect {
                participant::Effect::Call(hook) => place.hooks.push_back(hook),
                // Any replica may be asked.
                participant::Effect::Send(message @ Message::Inquire) => {
                    for hub in 0..self.hubs.len() {
                        self.post(Mail::Word { site, instance, hub, message: message.clone() });
                    }
                }
                participant::Effect::Send(message) => {
                    let hub = place.replica;
                    self.post(Mail::Word { site, instance, hub, message });
                }
                participant::Effect::AskVoter(request) => place.asks.push_back(request),
                participant::Effect::AskPeer { voter: VoterName::Log, request, .. } => {
                    for hub in 0..self.hubs.len() {
                        self.post(Mail::AskedLog { site, instance, hub, request: request.clone() });
                    }
                }
                participant::Effect::AskPeer { voter: VoterName::Participant(to), request, .. } => {
                    self.post(Mail::Peer { from: site, to: index(&to), request });
                }
                participant::Effect::ForgetVoter => place.forgets = Some(self.sent),
                participant::Effect::SetTimer { timer, .. } => {
                    place.timers.insert(timer);
                }
                participant::Effect::CancelTimer(timer) => {
                    place.timers.remove(&timer);
                }
                participant::Effect::Contradiction { doing } => {
                    if !place.has_lost_its_store {
                        self.breaks(format!("I3 {} was told otherwise while it does {doing}", NAMES[site]));
                    }
                }
            }
        }
        // It leaves memory, and its epoch with it: else a replica of a lower one would ask for ever.
        let place = &mut self.sites[site];
        if place.hooks.is_empty() && place.machine.as_ref().is_some_and(Participant::is_ended) {
            place.machine = None;
            // What it had yet to ask its voter goes with it.
            place.asks.clear();
            place.timers.clear();
        }
    }

    /// Loads the voter, asks it, and keeps what it forces.
    fn ask_voter(&mut self, site: usize, from: &VoterName, request: Request) -> (Answer, Voter) {
        let place = &mut self.sites[site];
        let me = VoterName::Participant(name(site));
        let before = Voter::load(gtid(), me, StoreId(place.store), place.stored.as_ref());
        CELLS.hit(cells::voter_word(before.state()), cells::request_kind(&request));
        let mut voter = before.clone();
        let output = voter.handle(from, request.clone());
        let checked = invariant::check_voter(&before, &request, &voter, &output);
        let answer = output.peek_effects()[0];
        if let Some(Record::Voter(record)) = output.records().next() {
            let before = place.stored.replace((**record).clone());
            if output.forced().is_none() && self.takes_notes {
                place.on_disk = before;
            }
            self.has_accepted(site, record.state);
        }
        if let Err(violation) = checked {
            self.breaks(violation.to_string());
        }
        (answer, voter)
    }

    fn run_hook(&mut self, site: usize) {
        let place = &mut self.sites[site];
        let Some(hook) = place.hooks.pop_front() else { return };
        let mut wrong = None;
        let kept = place.stored.as_ref().and_then(|stored| stored.state.standing.decision());
        let event = match hook {
            Hook::Prepare { .. } => participant::Event::PrepareFinished(match place.behaviour {
                _ if place.resource != Resource::Untouched => Vote::No("it has ended".to_owned()),
                Behaviour::Yes | Behaviour::Early => {
                    (place.resource, place.agreed) = (Resource::Prepared, true);
                    Vote::Yes
                }
                Behaviour::ReadOnly => {
                    place.agreed = true;
                    Vote::ReadOnly
                }
                Behaviour::No | Behaviour::NoVoter => Vote::No("no money".to_owned()),
                Behaviour::Unknown => {
                    place.resource = Resource::Prepared;
                    Vote::Unknown("connection reset".to_owned())
                }
            }),
            // Told again after its record is gone, it does not know that there was nothing to commit; the hook finds nothing.
            Hook::Commit if place.behaviour == Behaviour::ReadOnly && kept != Some(Decision::Abort) => {
                participant::Event::EndFinished(HookEnd::Ended(BranchResult::Done))
            }
            Hook::Commit => {
                if !matches!(place.resource, Resource::Prepared | Resource::Committed) && !place.has_lost_its_store {
                    wrong = Some(format!("I2 {} commits what is {:?}", NAMES[site], place.resource));
                }
                if kept == Some(Decision::Abort) {
                    wrong = Some(format!("I6 {} commits, and its voter keeps an abort", NAMES[site]));
                }
                place.resource = Resource::Committed;
                participant::Event::EndFinished(HookEnd::Ended(BranchResult::Done))
            }
            Hook::Abort => {
                let has_voted = place.stored.as_ref().is_some_and(|stored| stored.state != VoterState::REFUSED);
                if place.resource == Resource::Committed || (has_voted && kept != Some(Decision::Abort)) {
                    wrong = Some(format!("I6 {} aborts what is {:?}, {kept:?}", NAMES[site], place.resource));
                }
                place.resource = Resource::Aborted;
                participant::Event::EndFinished(HookEnd::Ended(BranchResult::Done))
            }
        };
        if let Some(wrong) = wrong {
            self.breaks(wrong);
        }
        self.site(site, event);
    }

    /// What its store and its resource have of the transaction is taken up.
    fn wake_site(&mut self, site: usize) {
        let node = self.node();
        let place = &self.sites[site];
        let started = match &place.stored {
            Some(stored) => Participant::recover(stored, name(site), node),
            None if place.resource == Resource::Prepared => Participant::prepared(gtid(), name(site), node),
            None => return,
        };
        self.sites[site].machine = Some(started.0);
        self.do_as_wanted(site, started.1);
        self.site(site, participant::Event::SessionUp);
    }

    fn crash_site(&mut self, site: usize) {
        let place = &mut self.sites[site];
        let gone = (site, place.instance);
        (place.is_up, place.machine, place.forgets) = (false, None, None);
        if let Some(kept) = place.on_disk.take() {
            place.stored = Some(kept);
        }
        place.asks.clear();
        place.hooks.clear();
        place.timers.clear();
        for hub in self.hubs.iter_mut().filter(|hub| hub.machine.is_some()) {
            hub.joined.remove(&site);
            hub.left.insert(gone);
        }
    }

    fn start_site(&mut self, site: usize) {
        let place = &mut self.sites[site];
        place.is_up = true;
        place.instance += 1;
        for hub in self.hubs.iter_mut().filter(|hub| hub.machine.is_some()) {
            hub.joined.insert(site);
        }
        self.wake_site(site);
    }

    // ---- the network ----------------------------------------------------------------------------------------------

    fn deliver(&mut self, mail: Mail) {
        match mail {
            Mail::ToSite { hub, site, epoch, order } if self.sites[site].is_up => {
                let place = &mut self.sites[site];
                // An order of a lower epoch is ignored, and so is whoever gave it.
                if place.machine.is_none() || epoch >= place.epoch {
                    (place.replica, place.epoch) = (hub, epoch);
                }
                self.ordered(hub, site, epoch, order);
            }
            Mail::LogAnswer { site, answer, .. } if self.sites[site].machine.is_some() => {
                self.site(site, participant::Event::PeerAnswered { voter: VoterName::Log, answer });
            }
            Mail::Word { site, instance, hub, ref message } if self.hubs[hub].is_up => {
                if self.hubs[hub].machine.is_some() {
                    self.word(site, instance, hub, message.clone());
                } else if matches!(message, Message::Inquire | Message::Vote(Vote::Yes)) {
                    self.asked_nobody(hub, site, instance, mail);
                }
            }
            Mail::AskedLog { site, instance, hub, ref request } if self.hubs[hub].is_up => {
                if self.hubs[hub].machine.is_some() {
                    let (member, request) = (self.member(site), request.clone());
                    let instance = InstanceId(site as u64 * 100 + instance);
                    self.hub(hub, coordinator::Event::Asked { member, instance, request });
                } else if matches!(request, Request::Join { .. }) {
                    self.asked_nobody(hub, site, instance, mail);
                }
            }
            Mail::VoterAnswer { site, hub, answer } => {
                self.hub(hub, coordinator::Event::Answered { participant: name(site), answer });
            }
            Mail::Peer { from, to, request } if self.sites[to].is_up => {
                let asker = VoterName::Participant(name(from));
                if let Request::Decided(decision) = request {
                    if self.sites[to].machine.is_some() {
                        self.site(to, participant::Event::PeerDecided { from: asker, decision });
                    }
                    return;
                }
                let answer = self.asked_voter(to, &asker, request);
                self.post(Mail::PeerAnswer { from: to, to: from, answer });
            }
            Mail::PeerAnswer { from, to, answer } if self.sites[to].machine.is_some() => {
                let voter = VoterName::Participant(name(from));
                self.site(to, participant::Event::PeerAnswered { voter, answer });
            }
            // Whoever it was for is down.
            Mail::ToSite { .. }
            | Mail::LogAnswer { .. }
            | Mail::Word { .. }
            | Mail::AskedLog { .. }
            | Mail::Peer { .. }
            | Mail::PeerAnswer { .. } => {}
        }
    }

    fn asked_voter(&mut self, site: usize, from: &VoterName, request: Request) -> Answer {
        let ballot = match &request {
            Request::Join { ballot, .. } | Request::Propose { ballot, .. } => Some(*ballot),
            Request::VoteYes { .. } | Request::VoteNo | Request::Decided(_) | Request::Elected(_) => None,
        };
        let (answer, _) = self.ask_voter(site, from, request);
        if let Some(ballot) = ballot
            && self.sites[site].machine.is_some()
        {
            self.site(site, participant::Event::PeerSeen { ballot });
        }
        answer
    }

    fn ordered(&mut self, hub: usize, site: usize, epoch: Epoch, order: Order) {
        let event = match order {
            Order::Prepare { payload, roster, is_prepared } => {
                participant::Event::PrepareOrdered { epoch, payload, roster, is_prepared }
            }
            Order::Commit => participant::Event::Decided { epoch, decision: Decision::Commit },
            Order::Abort => participant::Event::Decided { epoch, decision: Decision::Abort },
            Order::Wait if self.sites[site].machine.is_none() => return,
            // Its branch has ended and left memory; only the record is there.
            Order::Forget if self.sites[site].machine.is_none() => {
                self.sites[site].forgets = Some(self.sent);
                return;
            }
            Order::Wait => participant::Event::Waited,
            Order::Forget => participant::Event::Forgotten,
            Order::Ask(request) => {
                let answer = self.asked_voter(site, &VoterName::Log, request);
                self.post(Mail::VoterAnswer { site, hub, answer });
                return;
            }
        };
        self.site(site, event);
    }

    /// The voter's record is deleted, if it may be. One without a record answers no, so that after an abort nobody is misled.
    fn forget(&mut self, site: usize) {
        let place = &mut self.sites[site];
        place.forgets = None;
        let decision = place.stored.as_ref().and_then(|stored| stored.state.standing.decision());
        if decision.is_some() {
            (place.stored, place.on_disk) = (None, None);
        }
        if decision == Some(Decision::Commit) {
            let others = self.sites.iter().filter(|site| !site.has_lost_its_store);
            if others.clone().any(|site| site.resource == Resource::Prepared) {
                self.breaks(format!("I9 {} forgets while another is prepared", NAMES[site]));
            }
        }
    }

    // ---- what can happen --------------------------------------------------------------------------------------------

    pub(crate) fn progress(&self) -> Vec<Action> {
        let mut actions: Vec<_> = self.mail.keys().map(|id| Action::Deliver(*id)).collect();
        for (replica, hub) in self.hubs.iter().enumerate() {
            if !hub.is_up {
                actions.push(Action::StartReplica { replica });
                continue;
            }
            match &hub.append {
                Some(Append { answer: None, .. }) => actions.push(Action::Apply { replica }),
                Some(Append { answer: Some(_), .. }) => actions.push(Action::Answer { replica }),
                None if !hub.lazy.is_empty() => actions.push(Action::Flush { replica }),
                None => {}
            }
            if self.may_resume(replica) {
                actions.push(Action::Resume { replica });
            }
            actions.extend(hub.joined.iter().map(|site| Action::Join { replica, site: *site }));
            actions.extend(hub.left.iter().map(|(site, instance)| Action::Left {
                replica,
                site: *site,
                instance: *instance,
            }));
        }
        for (site, place) in self.sites.iter().enumerate() {
            if !place.is_up {
                actions.push(Action::StartSite { site });
                continue;
            }
            if !place.asks.is_empty() {
                actions.push(Action::Store { site });
            }
            if !place.hooks.is_empty() {
                actions.push(Action::Hook { site });
            }
            let is_on_its_way = |mail: &Mail| match mail {
                Mail::ToSite { site: to, order: Order::Prepare { .. }, .. } | Mail::Peer { to, .. } => *to == site,
                Mail::ToSite { .. }
                | Mail::LogAnswer { .. }
                | Mail::Word { .. }
                | Mail::AskedLog { .. }
                | Mail::VoterAnswer { .. }
                | Mail::PeerAnswer { .. } => false,
            };
            let is_gone = |sent| !self.mail.range(..sent).any(|(_, mail)| is_on_its_way(mail));
            if place.forgets.is_some_and(is_gone) {
                actions.push(Action::Forget { site });
            }
        }
        if self.is_log_away {
            actions.retain(|action| !self.needs_the_log(*action));
        }
        actions
    }

    /// Time passes.
    pub(crate) fn idle(&self) -> Vec<Action> {
        let mut actions = self.timers();
        actions.retain(|action| *action != Action::HubTimer { replica: 0, timer: DEADLINE });
        actions.retain(|action| *action != Action::HubTimer { replica: 1, timer: DEADLINE });
        actions
    }

    fn timers(&self) -> Vec<Action> {
        let of_hub = |(replica, hub): (usize, &Hub)| {
            hub.timers.iter().map(move |timer| Action::HubTimer { replica, timer: *timer }).collect::<Vec<_>>()
        };
        let of_site = |(site, place): (usize, &Site)| {
            place.timers.iter().map(move |timer| Action::SiteTimer { site, timer: *timer }).collect::<Vec<_>>()
        };
        let sites = self.sites.iter().enumerate().flat_map(of_site);
        sites.chain(self.hubs.iter().enumerate().flat_map(of_hub)).collect()
    }

    pub(crate) fn faults(&self) -> Vec<Action> {
        let left = self.left;
        let mut actions = Vec::new();
        for (replica, hub) in self.hubs.iter().enumerate().filter(|(_, hub)| hub.is_up) {
            if left.replica_crashes > 0 {
                actions.push(Action::CrashReplica { replica });
            }
            if left.lost_answers > 0 && hub.append.is_some() {
                actions.push(Action::LoseAnswer { replica });
            }
            if left.requests > 0 && self.told.is_none() && !self.is_log_away && self.asked_replica() == replica {
                actions.push(Action::AskCommit { replica });
            }
        }
        if self.is_log_away {
            actions.push(Action::LogReturns);
        } else if left.blackouts > 0 {
            actions.push(Action::Blackout);
        }
        if !self.limbo.is_empty() && !self.is_log_away {
            actions.push(Action::ApplyLate);
        }
        if self.may_be_removed() {
            actions.push(Action::Retention);
        }
        if self.may_take_over() {
            actions.push(Action::TakeOver);
        }
        for (site, place) in self.sites.iter().enumerate().filter(|(_, place)| place.is_up) {
            if left.participant_crashes > 0 {
                actions.push(Action::CrashSite { site });
            }
            if left.lost_stores > 0 {
                actions.push(Action::LoseStore { site });
            }
            if left.hooks > 0 && matches!(place.hooks.front(), Some(Hook::Commit | Hook::Abort)) {
                actions.push(Action::HookFails { site });
            }
        }
        for action in self.timers() {
            let is_deadline = matches!(action, Action::HubTimer { timer: DEADLINE, .. });
            if (is_deadline && left.deadlines > 0) || (!is_deadline && left.timers > 0) {
                actions.push(action);
            }
        }
        actions
    }

    fn may_take_over(&self) -> bool {
        self.left.take_overs > 0
            && self.hubs.len() == 2
            && self.hubs[1].is_up
            && self.log.lives[0] != 0
            && !self.is_log_away
    }

    /// Everybody who drove it or asked for it is long gone, and so is whatever they sent.
    fn may_be_removed(&self) -> bool {
        let is_idle = |hub: &Hub| hub.machine.is_none() && hub.append.is_none() && hub.lazy.is_empty();
        self.left.retentions > 0
            && self.log.ended.is_some()
            && !self.is_log_away
            && self.told.is_some()
            && self.limbo.is_empty()
            && self.hubs.iter().all(is_idle)
    }

    /// A request goes home while the home replica's lease lives, and elsewhere once it has lapsed.
    fn asked_replica(&self) -> usize {
        usize::from(self.log.lives[0] == 0 && self.hubs.len() == 2)
    }

    pub(crate) fn needs_the_log(&self, action: Action) -> bool {
        match action {
            Action::Apply { .. }
            | Action::Flush { .. }
            | Action::StartReplica { .. }
            | Action::Resume { .. }
            | Action::AskCommit { .. }
            | Action::ApplyLate
            | Action::Retention
            | Action::TakeOver => true,
            Action::Deliver(id) => match self.mail.get(&id) {
                // Who does not know the transaction asks the log.
                Some(Mail::Word { hub, .. } | Mail::AskedLog { hub, .. }) => self.hubs[*hub].machine.is_none(),
                Some(_) | None => false,
            },
            _ => false,
        }
    }

    // ---- steps ------------------------------------------------------------------------------------------------------

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Deliver(id) => {
                let Some(mail) = self.mail.get(&id).cloned() else { return };
                // Each order to prepare is handed to one session, once.
                if matches!(mail, Mail::ToSite { order: Order::Prepare { .. }, .. }) {
                    self.mail.remove(&id);
                }
                self.deliver(mail);
            }
            Action::Apply { replica } => self.apply(replica),
            Action::Answer { replica } => self.answer(replica),
            Action::LoseAnswer { replica } => {
                self.left.lost_answers = self.left.lost_answers.saturating_sub(1);
                let hub = &mut self.hubs[replica];
                // The driver repeats the batch until the log answers; what it sent first may yet be carried out.
                if let Some(append) = &mut hub.append
                    && append.answer.take().is_none()
                    && let Some(record) = append.output.forced()
                {
                    self.limbo.push(((replica, hub.life), record.clone()));
                }
            }
            Action::ApplyLate => {
                let (writer, record) = self.limbo.remove(0);
                let answer = self.log.append(writer, &[], Some(&record));
                if matches!(answer, append::Answer::Appended(Appended::Durable(_))) {
                    self.logged(Some(&record));
                }
            }
            Action::Flush { replica } => self.flush(replica),
            Action::StartReplica { replica } => self.start_replica(replica),
            Action::Resume { replica } => self.resume(replica),
            Action::CrashReplica { replica } => {
                self.left.replica_crashes = self.left.replica_crashes.saturating_sub(1);
                self.crash_replica(replica);
            }
            Action::TakeOver => {
                self.left.take_overs = self.left.take_overs.saturating_sub(1);
                (self.log.lives[0], self.log.owner) = (0, 1);
                self.hubs[1].epoch = self.draw_epoch();
            }
            Action::Blackout => {
                self.left.blackouts = self.left.blackouts.saturating_sub(1);
                (0..self.hubs.len()).for_each(|replica| self.crash_replica(replica));
                self.is_log_away = true;
            }
            Action::LogReturns => self.is_log_away = false,
            Action::Retention => {
                self.left.retentions = self.left.retentions.saturating_sub(1);
                let Log { owner, lives, .. } = self.log;
                self.log = Log { owner, lives, ..Log::default() };
                self.mail.clear();
            }
            Action::Join { replica, site } => {
                self.hubs[replica].joined.remove(&site);
                self.hub(replica, two_phase_event(two_phase::Event::Joined { participant: name(site) }));
            }
            Action::Left { replica, site, instance } => {
                self.hubs[replica].left.remove(&(site, instance));
                let instance = InstanceId(site as u64 * 100 + instance);
                self.hub(replica, two_phase_event(two_phase::Event::Left { participant: name(site), instance }));
            }
            Action::HubTimer { replica, timer } => {
                self.hubs[replica].timers.remove(&timer);
                let budget = if timer == DEADLINE { &mut self.left.deadlines } else { &mut self.left.timers };
                *budget = budget.saturating_sub(1);
                self.hub(
                    replica,
                    match timer {
                        coordinator::Timer::TwoPhase(timer) => two_phase_event(two_phase::Event::TimerFired(timer)),
                        coordinator::Timer::Election => coordinator::Event::ElectionDue,
                    },
                );
            }
            Action::Store { site } => {
                if let Some(request) = self.sites[site].asks.pop_front() {
                    let (answer, voter) = self.ask_voter(site, &VoterName::Participant(name(site)), request);
                    let (roster, is_read_only) = (voter.roster().cloned(), voter.is_read_only());
                    self.site(site, participant::Event::VoterAnswered { answer, roster, is_read_only });
                }
            }
            Action::Hook { site } => self.run_hook(site),
            Action::HookFails { site } => {
                self.left.hooks = self.left.hooks.saturating_sub(1);
                if self.sites[site].hooks.pop_front().is_some() {
                    self.site(site, participant::Event::EndFinished(HookEnd::Failed("busy".into())));
                }
            }
            Action::SiteTimer { site, timer } => {
                self.left.timers = self.left.timers.saturating_sub(1);
                self.sites[site].timers.remove(&timer);
                self.site(site, participant::Event::TimerFired(timer));
            }
            Action::StartSite { site } => self.start_site(site),
            Action::CrashSite { site } => {
                self.left.participant_crashes = self.left.participant_crashes.saturating_sub(1);
                self.crash_site(site);
            }
            Action::LoseStore { site } => {
                self.left.lost_stores = self.left.lost_stores.saturating_sub(1);
                self.crash_site(site);
                let place = &mut self.sites[site];
                (place.stored, place.on_disk) = (None, None);
                (place.resource, place.has_lost_its_store) = (Resource::Untouched, true);
                place.store += 100;
            }
            Action::Forget { site } => self.forget(site),
            Action::AskCommit { replica } => {
                self.left.requests = self.left.requests.saturating_sub(1);
                self.ask(replica);
            }
        }
        self.judge();
    }

    fn judge(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let kept = self.sites.iter().filter(|site| !site.has_lost_its_store);
        let stored = kept.clone().filter_map(|site| site.stored.as_ref()?.state.standing.decision());
        let resources = kept.clone().filter_map(|site| match site.resource {
            Resource::Untouched | Resource::Prepared => None,
            Resource::Committed => Some(Decision::Commit),
            Resource::Aborted => Some(Decision::Abort),
        });
        let told = self.told.map(|told| if told == Outcome::Committed { Decision::Commit } else { Decision::Abort });
        let is_known = |decision| {
            stored
                .clone()
                .chain(resources.clone())
                .chain(self.log.decision())
                .chain(told)
                .any(|known| known == decision)
        };
        if !is_known(Decision::Commit) {
            return;
        }
        if is_known(Decision::Abort) {
            self.broken = Some("I1 it ended both ways".to_owned());
        } else if self.sites.iter().any(|site| !site.agreed) {
            self.broken = Some("I2 it committed without everybody's yes".to_owned());
        } else if !self.roster.as_ref().is_some_and(|roster| {
            let is_quorum = |voters: &BTreeSet<usize>| voters.len() >= roster.quorum();
            self.accepted.values().any(|(standing, voters)| *standing == Standing::PreCommitted && is_quorum(voters))
        }) {
            self.broken = Some("I4 it committed without a quorum".to_owned());
        }
    }

    // ---- the end ------------------------------------------------------------------------------------------------------

    /// Faults stop: what is on its way is lost, and whoever is there ends the transaction.
    pub(crate) fn calm(&self, setup: &Setup, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        let mut world = self.clone();
        world.left = Faults::default();
        world.mail.clear();
        world.limbo.clear();
        world.is_log_away = setup.end != Calm::All;
        if setup.end == Calm::WithoutCoordinator {
            (0..world.hubs.len()).for_each(|replica| drop(world.stop_replica(replica)));
        }
        for _ in 0..60 {
            world.flow(tell)?;
            if world.is_done(setup.end) {
                return Ok(());
            }
            if world.told.is_none() && setup.end == Calm::All {
                let replica = world.asked_replica();
                if world.hubs[replica].is_up {
                    world.calm_step(Action::AskCommit { replica }, tell)?;
                    world.flow(tell)?;
                }
            }
            // One by one, as chance would have it: two that lead at once back off for different times.
            for action in world.timers() {
                let is_set = match action {
                    Action::SiteTimer { site, timer } => world.sites[site].timers.contains(&timer),
                    Action::HubTimer { replica, timer } => world.hubs[replica].timers.contains(&timer),
                    _ => false,
                };
                if is_set {
                    world.calm_step(action, tell)?;
                    world.flow(tell)?;
                }
            }
        }
        // Whose durable state is lost may leave the others waiting, for ever.
        if world.sites.iter().any(|site| site.has_lost_its_store) {
            return Ok(());
        }
        Err(format!("I12 it does not end, with {:?}: {:#?}", setup.end, crate::swarm::Swarm::parts(&world)))
    }

    fn calm_step(&mut self, action: Action, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        let delivered = match action {
            Action::Deliver(id) => self.mail.get(&id).cloned().map(|mail| (id, mail)),
            _ => None,
        };
        self.act(action);
        tell(self, action);
        if let Some((id, _)) = delivered {
            self.mail.remove(&id);
        }
        self.broken.clone().map_or(Ok(()), Err)
    }

    fn flow(&mut self, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        for _ in 0..3_000 {
            let Some(action) = self.progress().into_iter().next() else { return Ok(()) };
            self.calm_step(action, tell)?;
        }
        Err("I12 it never comes to rest".to_owned())
    }

    fn is_done(&self, calm: Calm) -> bool {
        let are_sites_done = self.sites.iter().all(|site| {
            let is_settled = site.resource != Resource::Prepared && site.is_up;
            is_settled && site.machine.as_ref().is_none_or(Participant::is_ended)
        });
        let is_hub_done = || {
            !self.log.is_open() && self.told.is_some() && self.hubs.iter().all(|hub| hub.is_up && hub.machine.is_none())
        };
        are_sites_done && (calm != Calm::All || is_hub_done())
    }
}

pub(crate) const DEADLINE: coordinator::Timer = coordinator::Timer::TwoPhase(two_phase::Timer::Deadline);

fn two_phase_event(event: two_phase::Event) -> coordinator::Event {
    coordinator::Event::TwoPhase(event)
}
