//! Three voters, what they keep, whoever leads, and every message that was ever sent.
//!
//! The machines are the production ones: a [`Voter`] is loaded, asked, and what it forces is kept, in one step; of what it need not force, it takes
//! note. A [`Leader`] hears reports and acceptances, and says what to propose and what to announce.
//!
//! Messages stay in the mail for good: one that is never delivered is lost, one that is delivered twice is duplicated, and any may overtake any
//! other. A voter that crashes loses its notes and nothing else, since everything it is asked is one load and one append; its answer may get lost. A leader that
//! crashes is one that goes no further; when it is back it leads as another node, which is one more election. A log that is lost is a voter to
//! which nothing is delivered any more; who leads, a replica or a participant, makes no difference to those who are asked.
//!
//! What is left out, by name, and why that loses nothing:
//! - *Elections*: each has a ballot of its own, fixed from the start, and has begun as soon as somebody joins it, a lower one also after a higher. So
//!   every order of ballots is there; only their number is bounded.
//! - *Hearing* a report changes nothing before there is a quorum of them, so a leader hears two at once, any two; one that comes later only
//!   has its sender offered the same proposal. A quorum of acceptances is heard, and announced, as soon as there is one: announcing hinders nobody.
//! - *Rejections* are not heard: all they do is have the leader begin another election sooner.
//! - *Silence*, where [`Setup::learns`] is off: who learns the outcome only says what was announced before, and falls silent otherwise; and
//!   silent voters are there in any case.

use std::sync::LazyLock;

use assent_protocol::ids::BranchId;
use assent_protocol::three_phase::leader::{self, State};
use assent_protocol::three_phase::{
    Answer, Ballot, Leader, NodeId, Proposal, Request, Roster, Seat, Standing, StoreId, Voter, VoterName, VoterRecord,
    VoterState,
};
use assent_protocol::{Decision, Epoch, Gtid, Record};

/// Participants a and b, and the log.
pub(crate) const VOTERS: usize = 3;
pub(crate) const LOG: usize = 2;
const QUORUM: usize = 2;

static NAMES: LazyLock<[VoterName; VOTERS]> = LazyLock::new(|| {
    let participant = |name: &str| VoterName::Participant(name.parse().expect("valid"));
    [participant("a"), participant("b"), VoterName::Log]
});

static ROSTER: LazyLock<Roster> = LazyLock::new(|| {
    let seat = |name: &str, store| Seat {
        participant: name.parse().expect("valid"),
        branch: BranchId { epoch: Epoch(1), number: store as u64 },
        address: "http://127.0.0.1:1".parse().expect("valid"),
        store: StoreId(store),
    };
    Roster::new(vec![seat("a", 0), seat("b", 1)], StoreId(2)).expect("valid")
});

fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid")
}

/// What is wrong with this world, if anything. Production code has no switch for it: the world spoils what the machines are given, or what
/// they kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Nothing.
    None,
    /// A voter accepts what a leader proposes although it has joined a higher ballot since.
    StaleProposalAccepted,
    /// A leader proposes to commit as soon as any report is pre-committed, whatever was accepted later.
    AnyPreCommitted,
    /// A voter answers a join that it has not kept.
    JoinNotDurable,
    /// A voter that accepts keeps the old ballot of its last acceptance.
    AcceptedNotUpdated,
    /// One voter's answer passes for a quorum's.
    QuorumOfOne,
    /// Two leaders propose under one ballot.
    SharedBallot,
    /// A voter whose store was lost takes itself for one that has never voted.
    LostStoreUnnoticed,
    /// A voter that has forgotten takes itself for one that has never voted, whatever whoever asks knows.
    ForgottenRefuses,
    /// A voter only takes note of an outcome, wherever it stood before.
    AnyOutcomeNoted,
    /// Classic three-phase commit: on a timeout, who waits aborts and who is pre-committed commits.
    ClassicTimeout,
}

/// How large the world is, and what is wrong with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// How many elections there are beside the first attempt, at most [`ELECTIONS_MAX`].
    pub(crate) elections: usize,
    /// Voters learn what was announced.
    pub(crate) learns: bool,
    /// Participants forget once everybody has ended, while leaders go on.
    pub(crate) forgets: bool,
    /// What is wrong.
    pub(crate) bug: Bug,
}

pub(crate) const ELECTIONS_MAX: usize = 3;
const BALLOTS: usize = ELECTIONS_MAX + 1;

/// What a voter reports when it joins.
type Report = (Standing, Option<Ballot>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// What each voter's store holds.
    kept: [Option<VoterState>; VOTERS],
    /// The outcome that a participant's voter has taken note of, beside its store.
    noted: [Option<Decision>; LOG],
    /// Whose branch has ended.
    ended: [bool; LOG],
    /// Whose yes the coordinator may know of.
    voted: [bool; LOG],
    /// Who joined what, and what it reported: the first attempt, and then the elections.
    reports: [[Option<Report>; VOTERS]; BALLOTS],
    /// What was proposed.
    proposals: [Option<Proposal>; BALLOTS],
    /// Who accepted it.
    accepted: [[bool; VOTERS]; BALLOTS],
    /// Commit and abort.
    announced: [bool; 2],
    /// What a step broke that no later state shows.
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Action {
    /// A participant's voter is asked to vote yes.
    Vote(usize),
    /// The coordinator knows both votes and makes 'attempt 1 sent' durable.
    Attempt,
    /// A voter is asked to join an election.
    /// `has_voted`: by a leader that knows of every vote.
    Join { voter: usize, election: usize, has_voted: bool },
    /// The leader of an election has heard all but one voter.
    Propose { election: usize, unheard: usize },
    /// A voter is asked to accept what was proposed.
    Accept { voter: usize, election: usize },
    /// A voter is told the outcome.
    Learn { voter: usize, decision: Decision },
    /// A participant's voter deletes its record.
    Forget(usize),
    /// A participant crashes that has taken notes.
    LoseNotes(usize),
    /// A voter's store is lost, and an empty one takes its place.
    LoseStore(usize),
    /// A voter crashes that has answered joins without keeping them.
    ForgetJoins(usize),
    /// Classic three-phase commit only.
    TimeOut(usize),
}

impl Setup {
    pub(crate) fn first(&self) -> World {
        World {
            kept: [None; VOTERS],
            noted: [None; LOG],
            ended: [false; LOG],
            voted: [false; LOG],
            reports: [[None; VOTERS]; BALLOTS],
            proposals: [None; BALLOTS],
            accepted: [[false; VOTERS]; BALLOTS],
            announced: [false; 2],
            broken: None,
        }
    }

    fn ballot(&self, election: usize) -> Ballot {
        match election {
            0 => Ballot::FIRST,
            _ if self.bug == Bug::SharedBallot => Ballot::above(Ballot::FIRST, NodeId(1)),
            _ => Ballot::above(Ballot::FIRST, NodeId(election as u128)),
        }
    }

    pub(crate) fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let may_vote = |voter: &usize| world.kept[*voter].is_none() && !(self.forgets && world.voted[*voter]);
        actions.extend((0..LOG).filter(may_vote).map(Action::Vote));
        if world.voted == [true; LOG] && world.kept[LOG].is_none() {
            actions.push(Action::Attempt);
        }
        for election in 0..=self.elections {
            if election > 0 {
                // Whoever has a vote on record answers the same to those who know of it, so that both ways are there only where it may be gone. Who
                // waits or stands pre-aborted does not know of every vote; who stands pre-committed does, and so does a replica.
                let is_known = self.forgets && world.accepted[0][LOG];
                if !is_known || !world.has_forgotten() || world.is_somebody_ignorant() {
                    actions.extend((0..VOTERS).map(|voter| Action::Join { voter, election, has_voted: false }));
                }
                if is_known {
                    actions.extend((0..VOTERS).map(|voter| Action::Join { voter, election, has_voted: true }));
                }
            }
            if election > 0 && world.proposals[election].is_none() {
                actions.extend((0..VOTERS).map(|unheard| Action::Propose { election, unheard }));
            }
            if world.proposals[election].is_some() {
                actions.extend((0..VOTERS).map(|voter| Action::Accept { voter, election }));
            }
        }
        if self.learns {
            for decision in [Decision::Commit, Decision::Abort] {
                if world.announced[index(decision)] {
                    actions.extend((0..VOTERS).map(|voter| Action::Learn { voter, decision }));
                }
            }
        }
        if self.forgets && world.has_everybody_ended() {
            let may_forget = |voter: &usize| world.outcome_of(*voter).is_some() && world.voted[*voter];
            actions.extend((0..LOG).filter(may_forget).map(Action::Forget));
        }
        actions.extend((0..LOG).filter(|voter| world.noted[*voter].is_some()).map(Action::LoseNotes));
        match self.bug {
            Bug::ClassicTimeout => actions.extend((0..VOTERS).map(Action::TimeOut)),
            Bug::LostStoreUnnoticed => actions.extend((0..LOG).map(Action::LoseStore)),
            Bug::JoinNotDurable => actions.extend((0..VOTERS).map(Action::ForgetJoins)),
            Bug::None
            | Bug::StaleProposalAccepted
            | Bug::AnyPreCommitted
            | Bug::AcceptedNotUpdated
            | Bug::QuorumOfOne
            | Bug::ForgottenRefuses
            | Bug::AnyOutcomeNoted
            | Bug::SharedBallot => {}
        }
    }

    /// The state after an action, or none if it changes nothing.
    pub(crate) fn next(&self, before: &World, action: Action) -> Option<World> {
        let mut world = *before;
        match action {
            Action::Vote(voter) => {
                let request = Request::VoteYes { roster: ROSTER.clone(), is_read_only: false };
                let answer = world.ask(self.bug, voter, voter, request);
                world.voted[voter] = matches!(answer, Answer::VotedYes { .. });
            }
            Action::Attempt => {
                world.kept[LOG] = Some(VoterState::ATTEMPTED);
                world.accepted[0][LOG] = true;
                let (_, output) = Leader::first(ROSTER.clone(), NodeId(0));
                world.proposals[0] = proposed(output.peek_effects());
            }
            Action::Join { voter, election, has_voted } => self.join(&mut world, voter, election, has_voted),
            Action::Propose { election, unheard } => self.propose(&mut world, election, unheard)?,
            Action::Accept { voter, election } => self.accept(&mut world, voter, election)?,
            Action::Learn { voter, decision } => {
                world.ask(self.bug, LOG, voter, Request::Decided(decision));
            }
            Action::Forget(voter) | Action::LoseStore(voter) => {
                world.kept[voter] = None;
                if voter != LOG {
                    world.noted[voter] = None;
                }
            }
            Action::LoseNotes(voter) => world.noted[voter] = None,
            Action::ForgetJoins(voter) => {
                let state = world.kept[voter].as_mut()?;
                state.joined = state.accepted.unwrap_or(Ballot::FIRST);
            }
            Action::TimeOut(voter) => {
                let state = world.kept[voter].as_mut()?;
                state.standing = match state.standing {
                    Standing::Waiting | Standing::PreAborted => Standing::Aborted,
                    Standing::PreCommitted => Standing::Committed,
                    Standing::Committed | Standing::Aborted => return None,
                };
            }
        }
        (world != *before).then_some(world)
    }

    fn join(&self, world: &mut World, voter: usize, election: usize, has_voted: bool) {
        let ballot = self.ballot(election);
        let has_voted = has_voted && self.bug != Bug::ForgottenRefuses;
        match world.ask(self.bug, LOG, voter, Request::Join { ballot, roster: ROSTER.clone(), has_voted }) {
            Answer::Joined { standing, accepted, .. } => {
                for other in 1..=self.elections {
                    if self.ballot(other) == ballot && world.reports[other][voter].is_none() {
                        world.reports[other][voter] = Some((standing, accepted));
                    }
                }
            }
            answer @ Answer::Ended(_) => {
                let mut leader = self.leader(election);
                world.hear(&mut leader, voter, answer);
            }
            Answer::VotedYes { .. } | Answer::Accepted { .. } | Answer::Rejected { .. } | Answer::Barred(_) => {}
        }
    }

    fn leader(&self, election: usize) -> Leader {
        match election {
            0 => Leader::first(ROSTER.clone(), NodeId(0)).0,
            _ => Leader::elect(ROSTER.clone(), self.ballot(election).node, Ballot::FIRST).0,
        }
    }

    /// Has a leader hear the reports of all but one; none if not all of them are there.
    fn informed(&self, world: &World, election: usize, unheard: usize) -> Option<(Leader, Option<Proposal>)> {
        let heard = || (0..VOTERS).filter(|voter| *voter != unheard);
        let reports = &world.reports[election];
        if self.bug == Bug::QuorumOfOne {
            heard().find(|voter| reports[*voter].is_some())?;
        } else if heard().any(|voter| reports[voter].is_none()) {
            return None;
        }
        let mut leader = self.leader(election);
        let mut proposal = None;
        let someone = heard().find_map(|voter| reports[voter]);
        for voter in heard() {
            let (standing, mut accepted) = reports[voter].or(someone)?;
            if self.bug == Bug::AnyPreCommitted && standing == Standing::PreCommitted {
                accepted = Some(Ballot { round: u64::MAX, node: NodeId(0) });
            }
            let answer = Answer::Joined { ballot: leader.ballot(), standing, accepted };
            let output = leader.handle(leader::Event::Answered { voter: NAMES[voter].clone(), answer });
            proposal = proposal.or(proposed(output.peek_effects()));
        }
        Some((leader, proposal))
    }

    fn propose(&self, world: &mut World, election: usize, unheard: usize) -> Option<()> {
        let (_, proposal) = self.informed(world, election, unheard)?;
        world.proposals[election] = proposal;
        let is_another = |other: usize| {
            self.ballot(other) == self.ballot(election)
                && world.proposals[other].is_some_and(|other| Some(other) != proposal)
        };
        if (1..=self.elections).any(is_another) {
            world.broken = Some("two proposals under one ballot");
        }
        Some(())
    }

    fn accept(&self, world: &mut World, voter: usize, election: usize) -> Option<()> {
        let proposal = world.proposals[election]?;
        if election > 0 {
            world.reports[election][voter]?;
        }
        let ballot = self.ballot(election);
        let answer = world.ask(self.bug, LOG, voter, Request::Propose { ballot, proposal });
        match answer {
            Answer::Accepted { .. } => {
                world.accepted[election][voter] = true;
                self.count(world, election, proposal);
            }
            Answer::Ended(_) => {
                let mut leader = self.leader(election);
                world.hear(&mut leader, voter, answer);
            }
            Answer::VotedYes { .. } | Answer::Joined { .. } | Answer::Rejected { .. } | Answer::Barred(_) => {}
        }
        Some(())
    }

    /// Has a leader that proposed this hear all acceptances.
    fn count(&self, world: &mut World, election: usize, proposal: Proposal) {
        let informed = |world: &World| match election {
            0 => Some(self.leader(0)),
            _ => (0..VOTERS).find_map(|unheard| {
                let (leader, proposed) = self.informed(world, election, unheard)?;
                (proposed == Some(proposal)).then_some(leader)
            }),
        };
        let Some(mut leader) = informed(world) else { return };
        for voter in 0..VOTERS {
            if world.accepted[election][voter] || self.bug == Bug::QuorumOfOne {
                world.hear(&mut leader, voter, Answer::Accepted { ballot: self.ballot(election) });
            }
        }
    }

    /// Whatever happened: any quorum that is reached ends it, and as it was announced, if it was.
    pub(crate) fn ends_with_every_quorum(&self, world: &World) -> Result<(), String> {
        let highest = Ballot { round: 2, node: NodeId(u128::MAX) };
        let elect = |leader: usize| match NAMES[leader].clone() {
            VoterName::Log => Leader::elect(ROSTER.clone(), NodeId(99), highest),
            VoterName::Participant(me) => Leader::elect_as(me, ROSTER.clone(), NodeId(99), highest),
        };
        let may_lead = |leader: usize| match leader {
            LOG => world.accepted[0][LOG],
            _ => world.kept[leader].is_some() && world.outcome_of(leader).is_none(),
        };
        let leaders = (0..VOTERS).filter(|leader| may_lead(*leader));
        for (silent, who) in leaders.flat_map(|who| (0..=VOTERS).map(move |silent| (silent, who))) {
            if silent == who && who != LOG {
                continue;
            }
            let mut world = *world;
            let mut ended = None;
            let (mut leader, output) = elect(who);
            let mut wanted = output.peek_effects().to_vec();
            while let Some(effect) = wanted.pop() {
                match effect {
                    leader::Effect::Ask { voter, request } => {
                        let to = NAMES.iter().position(|name| *name == voter).expect("a voter");
                        if to != silent {
                            let answer = world.ask(Bug::None, LOG, to, request);
                            let output = leader.handle(leader::Event::Answered { voter, answer });
                            wanted.extend(output.peek_effects().iter().cloned());
                        }
                    }
                    leader::Effect::Announce(decision) => ended = Some(decision),
                    leader::Effect::SetTimer { .. } => {}
                }
            }
            let Some(ended) = ended else {
                if who == LOG && world.has_forgotten() {
                    // Nobody waits for a replica: whoever is in doubt still, having lost its notes, ends by its own election.
                    continue;
                }
                return Err(format!("{who} leads, and without {silent} nothing is decided: {}", leader.waiting_for()));
            };
            let other = if ended == Decision::Commit { Decision::Abort } else { Decision::Commit };
            if world.announced[index(other)] || world.knows(other) {
                return Err(format!("{who} leads, without {silent}, to {ended}, and {other} was announced"));
            }
        }
        Ok(())
    }
}

impl World {
    /// One load, one request, one append.
    fn ask(&mut self, bug: Bug, from: usize, to: usize, request: Request) -> Answer {
        let mut loaded = self.loaded(to);
        if let (Bug::StaleProposalAccepted, Request::Propose { ballot, .. }, Some(state)) = (bug, &request, &mut loaded)
            && state.accepted < Some(*ballot)
        {
            state.joined = *ballot;
        }
        let stored = loaded.map(|state| VoterRecord {
            gtid: gtid(),
            voter: NAMES[to].clone(),
            roster: Some(ROSTER.clone()),
            is_read_only: false,
            state,
            before: None,
        });
        let is_proposal = matches!(request, Request::Propose { .. });
        let mut voter = Voter::load(gtid(), NAMES[to].clone(), StoreId(to as u128), stored.as_ref());
        let output = voter.handle(&NAMES[from], request);
        if let Some(Record::Voter(record)) = output.forced() {
            let known = loaded.and_then(|state| state.standing.decision());
            if record.before != loaded || voter.state() != Some(record.state) {
                self.broken = Some("a record says what it replaces, and with what");
            } else if known.is_some() {
                self.broken = Some("C and A never change");
            }
            let mut state = record.state;
            match (bug, self.kept[to]) {
                (Bug::StaleProposalAccepted, Some(before)) => state.joined = state.joined.max(before.joined),
                (Bug::AcceptedNotUpdated, Some(before)) if is_proposal => state.accepted = before.accepted,
                _ => {}
            }
            self.kept[to] = Some(state);
        }
        let decision = voter.state().and_then(|state| state.standing.decision());
        match output.forced().or(output.records().next()) {
            Some(_) if to == LOG => self.kept[LOG] = voter.state(),
            Some(_)
                if output.forced().is_none()
                    || (bug == Bug::AnyOutcomeNoted && loaded.is_some() && decision.is_some()) =>
            {
                (self.kept[to], self.noted[to]) = (loaded, decision);
            }
            Some(_) | None => {}
        }
        if to != LOG && decision.is_some() {
            self.ended[to] = true;
        }
        output.peek_effects()[0]
    }

    /// What a voter finds: its store, and its notes over that.
    fn loaded(&self, voter: usize) -> Option<VoterState> {
        let noted = self.noted.get(voter).copied().flatten();
        let kept = self.kept[voter];
        kept.map(|kept| match noted {
            Some(Decision::Commit) => VoterState { standing: Standing::Committed, ..kept },
            Some(Decision::Abort) => VoterState { standing: Standing::Aborted, ..kept },
            None => kept,
        })
    }

    /// What a voter knows.
    fn outcome_of(&self, voter: usize) -> Option<Decision> {
        self.loaded(voter).and_then(|state| state.standing.decision())
    }

    /// Whether a participant is in doubt, and does not know that everybody has voted.
    fn is_somebody_ignorant(&self) -> bool {
        let is_ignorant = |state: VoterState| matches!(state.standing, Standing::Waiting | Standing::PreAborted);
        (0..LOG).any(|voter| self.loaded(voter).is_some_and(is_ignorant))
    }

    fn hear(&mut self, leader: &mut Leader, voter: usize, answer: Answer) {
        let output = leader.handle(leader::Event::Answered { voter: NAMES[voter].clone(), answer });
        for effect in output.peek_effects() {
            if let leader::Effect::Announce(decision) = effect {
                if !self.may_announce(*decision) || leader.state() != State::Ended(*decision) {
                    self.broken = Some("announced without a quorum");
                }
                self.announced[index(*decision)] = true;
            }
        }
    }

    /// A quorum has durably accepted one proposal for it, or somebody knows it.
    fn may_announce(&self, decision: Decision) -> bool {
        let is_accepted = |election: usize| {
            self.proposals[election].is_some_and(|proposal| proposal.decision() == decision)
                && self.accepted[election].iter().filter(|accepted| **accepted).count() >= QUORUM
        };
        self.knows(decision) || (0..BALLOTS).any(is_accepted)
    }

    fn knows(&self, decision: Decision) -> bool {
        (0..VOTERS).any(|voter| self.outcome_of(voter) == Some(decision))
    }

    /// Every participant and the log know the outcome, or knew it.
    fn has_everybody_ended(&self) -> bool {
        let has_ended = |voter: usize| self.outcome_of(voter).is_some() || self.ended.get(voter) == Some(&true);
        (0..VOTERS).all(has_ended)
    }

    /// Whether a participant has deleted its record.
    fn has_forgotten(&self) -> bool {
        (0..LOG).any(|voter| self.voted[voter] && self.kept[voter].is_none())
    }

    /// The first thing that is wrong.
    pub(crate) fn wrong(&self) -> Option<&'static str> {
        let is_known_or_announced = |decision| self.knows(decision) || self.announced[index(decision)];
        if self.knows(Decision::Commit) && self.knows(Decision::Abort) {
            return Some("one has committed and another aborted");
        }
        if is_known_or_announced(Decision::Commit) && is_known_or_announced(Decision::Abort) {
            return Some("an outcome was announced, and another one is known");
        }
        if is_known_or_announced(Decision::Commit) && self.voted != [true; LOG] {
            return Some("committed without every vote");
        }
        if self.kept.iter().flatten().any(|state| state.accepted > Some(state.joined)) {
            return Some("accepted above what was joined");
        }
        self.broken
    }
}

fn index(decision: Decision) -> usize {
    match decision {
        Decision::Commit => 0,
        Decision::Abort => 1,
    }
}

fn proposed(effects: &[leader::Effect]) -> Option<Proposal> {
    effects.iter().find_map(|effect| match effect {
        leader::Effect::Ask { request: Request::Propose { proposal, .. }, .. } => Some(*proposal),
        leader::Effect::Ask { .. } | leader::Effect::SetTimer { .. } | leader::Effect::Announce(_) => None,
    })
}
