//! Whoever leads: one attempt, or an election and its attempt, and further elections until one succeeds.
//!
//! | state | joined | accepted | rejected | ended | barred | retry timer |
//! |---|---|---|---|---|---|---|
//! | joining | a quorum: **proposing** what rule 6 says; else waits | ignored | backs off | **ended** | noted | **joining** under a higher ballot |
//! | proposing | proposed to | a quorum: **ended**; else waits | backs off | **ended** | noted | **joining** under a higher ballot |
//! | ended | ignored | ignored | ignored | ignored | ignored | ignored |
//!
//! Answers to earlier ballots are ignored, but for the ballots that they tell of.
//!
//! Rule 6, once a quorum has joined: with m the highest ballot under which any of them accepted, commit is proposed if every one that
//! accepted under m stands pre-committed, and abort otherwise. One proposal for each ballot: who joins later is offered the same.
//! That *any* pre-committed voter is not enough, and the highest ballot counts, is what makes a later attempt find out what an earlier
//! one may have decided.
//!
//! A leader says to whom it asks whether it knows that this voter has voted yes, so that one that has forgotten does not refuse
//! ([`Request::knows_of_a_vote`]). A replica knows it of all: it leads once 'attempt 1 sent' is durable. A participant knows it of itself, and of all
//! once somebody stands pre-committed or the log has joined, since neither is before that mark. It does not claim it of a peer for any less: an
//! abort before the mark may end, and be forgotten, while somebody whom the coordinator has lost all trace of is still in doubt, and
//! then a refusal is what ends it. (Pre-aborted says nothing either: a quorum may abort while somebody has yet to vote.)
//!
//! A participant asks its own voter first, under each ballot, and the others once that has joined: while its own vote is on record and undecided, nobody
//! has been told to forget a commit, and whoever refuses is right.
//!
//! A leader keeps nothing: it is a machine in memory with a node of its own. When it dies, another one goes on.

use serde::{Deserialize, Serialize};

use super::ballot::{Ballot, NodeId};
use super::roster::{Roster, VoterName};
use super::voter::{Answer, Bar, Proposal, Request, Standing};
use crate::durable::Output;
use crate::ids::ParticipantName;
use crate::record::Decision;

/// An attempt is given up for a higher ballot after this long, and as long again by chance, in milliseconds; it doubles up to
/// [`ROUND_MAX_MS`].
pub const ROUND_INITIAL_MS: u64 = 1_000;
/// The longest such time, in milliseconds.
pub const ROUND_MAX_MS: u64 = 8_000;
/// A leader that met a higher ballot lets that one go first for a time drawn from this, in milliseconds; it doubles up to [`ROUND_MAX_MS`].
pub const BACKOFF_INITIAL_MS: u64 = 500;

/// Leads the voters of one transaction to one outcome.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Leader {
    roster: Roster,
    node: NodeId,
    ballot: Ballot,
    /// The highest ballot that it has heard of, its own included.
    highest: Ballot,
    state: State,
    /// A participant's own voter, which is asked before the others. A replica has none.
    own: Option<VoterName>,
    /// It knows that 'attempt 1 sent' was marked: every participant has voted yes.
    all_voted: bool,
    /// What each voter answered under the present ballot, by index.
    heard: Vec<Heard>,
    /// A rejection was met under the present ballot.
    is_backing_off: bool,
    /// How many attempts have failed.
    failures: u32,
}

/// Where a leader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Asks everybody to join its ballot.
    Joining,
    /// Has proposed.
    Proposing(Proposal),
    /// Knows the outcome, and has announced it.
    Ended(Decision),
}

/// What one voter answered under the present ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Heard {
    /// Nothing.
    Nothing,
    /// It joined, and this is its report.
    Joined {
        /// Where it stood.
        standing: Standing,
        /// The last ballot whose proposal it had accepted.
        accepted: Option<Ballot>,
    },
    /// It accepted.
    Accepted,
    /// It has joined a higher ballot.
    Rejected,
    /// It may not vote.
    Barred(Bar),
}

/// What can happen to a leader.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Event {
    /// A voter answered.
    Answered {
        /// Which, as the transport has authenticated it.
        voter: VoterName,
        /// What.
        answer: Answer,
    },
    /// The retry timer fired.
    RetryDue,
}

/// What a leader wants done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Ask a voter. What is lost is asked again under a higher ballot.
    Ask {
        /// Which.
        voter: VoterName,
        /// What.
        request: Request,
    },
    /// (Re)start the retry timer.
    SetTimer {
        /// At least this long, in milliseconds.
        after_ms: u64,
        /// And by chance up to this much longer, in milliseconds.
        jitter_ms: u64,
    },
    /// The outcome is certain: everybody may be told.
    Announce(Decision),
}

impl Leader {
    /// The coordinator's first attempt: everybody voted yes, and 'attempt 1 sent' becomes durable before the effects are released. That record
    /// is the log's acceptance, which is told by [`Event::Answered`] as any other.
    pub fn first(roster: Roster, node: NodeId) -> (Self, Output<Effect>) {
        let mut leader = Self::new(roster, node, Ballot::FIRST, State::Proposing(Proposal::PreCommit), None);
        let request = Request::Propose { ballot: Ballot::FIRST, proposal: Proposal::PreCommit };
        let participants = leader.roster.names().filter(|voter| *voter != VoterName::Log);
        let mut effects: Vec<_> = participants.map(|voter| Effect::Ask { voter, request: request.clone() }).collect();
        effects.push(leader.round_timer());
        leader.failures = 0;
        (leader, Output::effects(effects))
    }

    /// A replica's election, under a ballot above every known one. 'Attempt 1 sent' is durable, so every participant has voted yes.
    pub fn elect(roster: Roster, node: NodeId, highest: Ballot) -> (Self, Output<Effect>) {
        Self::begin(roster, node, highest, None)
    }

    /// A participant's election. It is in doubt, so it has voted yes itself.
    pub fn elect_as(me: ParticipantName, roster: Roster, node: NodeId, highest: Ballot) -> (Self, Output<Effect>) {
        Self::begin(roster, node, highest, Some(VoterName::Participant(me)))
    }

    fn begin(roster: Roster, node: NodeId, highest: Ballot, own: Option<VoterName>) -> (Self, Output<Effect>) {
        let ballot = Ballot::above(highest.max(Ballot::FIRST), node);
        let leader = Self::new(roster, node, ballot, State::Joining, own);
        let effects = leader.joins();
        (leader, Output::effects(effects))
    }

    fn new(roster: Roster, node: NodeId, ballot: Ballot, state: State, own: Option<VoterName>) -> Self {
        let heard = vec![Heard::Nothing; roster.voters()];
        let all_voted = own.is_none();
        Self { roster, node, ballot, highest: ballot, state, own, all_voted, heard, is_backing_off: false, failures: 0 }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event) -> Output<Effect> {
        Output::effects(match event {
            Event::Answered { voter, answer } => self.answered(&voter, answer),
            Event::RetryDue => self.retry(),
        })
    }

    fn answered(&mut self, voter: &VoterName, answer: Answer) -> Vec<Effect> {
        let Some(index) = self.roster.position(voter) else { return Vec::new() };
        self.all_voted |= self.is_of_an_attempt(index, answer);
        match (self.state, answer) {
            (State::Ended(_), _) => Vec::new(),
            (State::Joining | State::Proposing(_), Answer::Ended(decision)) => self.end(decision),
            (State::Joining | State::Proposing(_), Answer::Rejected { ballot, joined }) => {
                self.rejected(index, ballot, joined)
            }
            (State::Joining | State::Proposing(_), Answer::Barred(bar)) => {
                self.heard[index] = Heard::Barred(bar);
                if bar == Bar::Forgotten && self.stands_pre_committed() {
                    self.end(Decision::Commit)
                } else {
                    Vec::new()
                }
            }
            // What a voter answers to its own participant.
            (State::Joining | State::Proposing(_), Answer::VotedYes { .. }) => Vec::new(),
            (State::Joining, Answer::Joined { ballot, standing, accepted }) if ballot == self.ballot => {
                let is_news = self.heard[index] == Heard::Nothing;
                self.heard[index] = Heard::Joined { standing, accepted };
                if is_news && self.own.as_ref() == Some(voter) {
                    return self.joins_of(|other| other != voter);
                }
                self.propose_with_a_quorum()
            }
            (State::Proposing(proposal), Answer::Joined { ballot, standing, accepted }) if ballot == self.ballot => {
                if self.heard[index] == Heard::Accepted {
                    return Vec::new();
                }
                self.heard[index] = Heard::Joined { standing, accepted };
                vec![self.proposal_to(voter.clone(), proposal)]
            }
            (State::Proposing(proposal), Answer::Accepted { ballot }) if ballot == self.ballot => {
                self.heard[index] = Heard::Accepted;
                let accepted = self.heard.iter().filter(|heard| **heard == Heard::Accepted).count();
                if accepted < self.roster.quorum() { Vec::new() } else { self.end(proposal.decision()) }
            }
            (State::Joining | State::Proposing(_), Answer::Joined { .. } | Answer::Accepted { .. }) => Vec::new(),
        }
    }

    /// Whether the own voter has reported that it stands pre-committed. If another one has forgotten, every branch has ended, the own one too, and it has lost
    /// that it did: so it has committed, since what it may lose is a commit that it stands pre-committed to, and nothing else (`docs/decisions/0008`).
    fn stands_pre_committed(&self) -> bool {
        let own = self.own.as_ref().and_then(|own| self.roster.position(own));
        match own.map(|index| self.heard[index]) {
            Some(Heard::Joined { standing, .. }) => standing == Standing::PreCommitted,
            Some(Heard::Accepted) => self.state == State::Proposing(Proposal::PreCommit),
            Some(Heard::Nothing | Heard::Rejected | Heard::Barred(_)) | None => false,
        }
    }

    /// Whether it is answered like this only after 'attempt 1 sent' was marked.
    fn is_of_an_attempt(&self, index: usize, answer: Answer) -> bool {
        let is_log = index == self.roster.participants().len();
        match answer {
            Answer::Joined { standing, .. } => is_log || standing == Standing::PreCommitted,
            Answer::Accepted { .. } | Answer::Rejected { .. } => is_log,
            Answer::VotedYes { .. } | Answer::Ended(_) | Answer::Barred(_) => false,
        }
    }

    fn rejected(&mut self, index: usize, ballot: Ballot, joined: Ballot) -> Vec<Effect> {
        self.highest = self.highest.max(joined);
        // A repeated question that was answered before is rejected under this very ballot: no news.
        if ballot != self.ballot || joined <= self.ballot {
            return Vec::new();
        }
        if self.heard[index] != Heard::Accepted {
            self.heard[index] = Heard::Rejected;
        }
        if self.is_backing_off {
            return Vec::new();
        }
        self.is_backing_off = true;
        let jitter_ms = (BACKOFF_INITIAL_MS << self.failures.min(10)).min(ROUND_MAX_MS);
        vec![Effect::SetTimer { after_ms: BACKOFF_INITIAL_MS / 2, jitter_ms }]
    }

    fn propose_with_a_quorum(&mut self) -> Vec<Effect> {
        let reports = || {
            self.heard.iter().filter_map(|heard| match heard {
                Heard::Joined { standing, accepted } => Some((*standing, *accepted)),
                Heard::Nothing | Heard::Accepted | Heard::Rejected | Heard::Barred(_) => None,
            })
        };
        if reports().count() < self.roster.quorum() {
            return Vec::new();
        }
        let proposal = rule_6(reports());
        self.state = State::Proposing(proposal);
        let joined = self.roster.names().zip(&self.heard).filter(|(_, heard)| matches!(heard, Heard::Joined { .. }));
        joined.map(|(voter, _)| self.proposal_to(voter, proposal)).collect()
    }

    fn proposal_to(&self, voter: VoterName, proposal: Proposal) -> Effect {
        Effect::Ask { voter, request: Request::Propose { ballot: self.ballot, proposal } }
    }

    fn end(&mut self, decision: Decision) -> Vec<Effect> {
        self.state = State::Ended(decision);
        vec![Effect::Announce(decision)]
    }

    fn retry(&mut self) -> Vec<Effect> {
        match self.state {
            State::Joining | State::Proposing(_) => {
                self.failures = self.failures.saturating_add(1);
                self.ballot = Ballot::above(self.highest, self.node);
                self.highest = self.ballot;
                self.state = State::Joining;
                self.is_backing_off = false;
                for heard in &mut self.heard {
                    // Shown until it answers otherwise.
                    if !matches!(heard, Heard::Barred(_)) {
                        *heard = Heard::Nothing;
                    }
                }
                self.joins()
            }
            State::Ended(_) => Vec::new(),
        }
    }

    fn joins(&self) -> Vec<Effect> {
        let mut effects = self.joins_of(|voter| self.own.as_ref().is_none_or(|own| own == voter));
        effects.push(self.round_timer());
        effects
    }

    fn joins_of(&self, is_asked: impl Fn(&VoterName) -> bool) -> Vec<Effect> {
        let ask = |voter: VoterName| {
            let has_voted = self.all_voted || self.own.as_ref() == Some(&voter);
            let request = Request::Join { ballot: self.ballot, roster: self.roster.clone(), has_voted };
            Effect::Ask { voter, request }
        };
        self.roster.names().filter(is_asked).map(ask).collect()
    }

    fn round_timer(&self) -> Effect {
        let after_ms = (ROUND_INITIAL_MS << self.failures.min(10)).min(ROUND_MAX_MS);
        Effect::SetTimer { after_ms, jitter_ms: after_ms }
    }

    /// Who votes.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Under which ballot it leads.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// The highest ballot that it has heard of.
    pub fn highest(&self) -> Ballot {
        self.highest
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// What each voter answered under the present ballot, in roster order.
    pub fn heard(&self) -> impl Iterator<Item = (VoterName, Heard)> {
        self.roster.names().zip(self.heard.iter().copied())
    }

    /// How many attempts have failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// What it waits for, in plain words; empty once it has ended.
    pub fn waiting_for(&self) -> String {
        let doing = match self.state {
            State::Joining => "a quorum to join an election",
            State::Proposing(Proposal::PreCommit) => "a quorum to accept the commit",
            State::Proposing(Proposal::PreAbort) => "a quorum to accept the abort",
            State::Ended(_) => return String::new(),
        };
        let with = self.heard.iter().filter(|heard| self.is_with_it(**heard)).count();
        let mut text = format!("{doing}: {with} of {} voters, {} needed", self.roster.voters(), self.roster.quorum());
        let named = |wanted: &dyn Fn(Heard) -> bool| {
            let names: Vec<_> =
                self.heard().filter(|(_, heard)| wanted(*heard)).map(|(voter, _)| voter.to_string()).collect();
            names.join(", ")
        };
        let silent = named(&|heard| heard == Heard::Nothing);
        if !silent.is_empty() {
            text.push_str(&format!("; no answer from {silent}"));
        }
        for (voter, heard) in self.heard() {
            if let Heard::Barred(bar) = heard {
                text.push_str(&format!("; {voter} cannot vote: {bar}"));
            }
        }
        let elsewhere = named(&|heard| heard == Heard::Rejected);
        if !elsewhere.is_empty() {
            text.push_str(&format!("; {elsewhere} joined a higher ballot, led by somebody else"));
        }
        if self.roster.voters() == 2 {
            text.push_str("; two voters tolerate no loss: it ends once both answer");
        }
        text
    }

    fn is_with_it(&self, heard: Heard) -> bool {
        match (self.state, heard) {
            (State::Joining, Heard::Joined { .. }) | (State::Proposing(_), Heard::Accepted) => true,
            (State::Joining | State::Proposing(_) | State::Ended(_), _) => false,
        }
    }
}

/// What to propose, from the reports of a quorum: commit, iff all that accepted last have accepted to commit.
fn rule_6(reports: impl Iterator<Item = (Standing, Option<Ballot>)> + Clone) -> Proposal {
    let last = reports.clone().map(|(_, accepted)| accepted).max().flatten();
    let mut those = reports.filter(|(_, accepted)| *accepted == last);
    if those.all(|(standing, _)| standing == Standing::PreCommitted) { Proposal::PreCommit } else { Proposal::PreAbort }
}
