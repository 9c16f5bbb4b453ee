//! The participant's machine for one branch of a three-phase transaction.
//!
//! It wraps [`Branch`], which calls hooks and owes the coordinator its words, as with two phases. Around it: the vote leaves once the own voter's yes is
//! durable; the branch learns a decision once the own voter keeps it; and a branch that hears of nobody at work leads an election.
//!
//! | stage | prepare ordered | prepare hook finished | own voter answered | told the outcome | election timer | peer's answer |
//! |---|---|---|---|---|---|---|
//! | unvoted | hook called; prepared: own voter asked, **voting**; after an error: own voter asked to refuse | yes: own voter asked, **voting** | ended: **decided**; voted: **in doubt** | own voter asked, **deciding**; hook runs: noted | heard: inquires; else own voter gives up | ignored |
//! | voting | ignored | - | voted: vote sent, **in doubt**; ended: votes no, **decided**; barred: votes unknown, **unvoted** | own voter asked, **deciding** | inquires | ignored |
//! | in doubt | votes yes again | too late | ended: **decided**; barred: leads no more, inquires; else to the leader | own voter asked, **deciding** | heard: inquires; else leads | to the leader |
//! | deciding | abort: votes no | too late; abort: votes no | ended: **decided** | contradiction, if it differs | ignored | ignored |
//! | decided | abort: votes no | too late; abort: votes no | ignored | hook called again; contradiction, if it differs | ignored | ignored |
//!
//! A hook is too late when another instance of the participant has voted meanwhile: what it came to is no vote, and ends as the voter says. The commit
//! hook is called unless both that vote and this instance's own hook had nothing to commit.
//!
//! *Heard* is whoever shows to be at work: the coordinator that orders or says wait, a peer that leads. A branch that heard somebody since its
//! timer was set asks the coordinator and waits once more; so it leads after one to two timeouts of silence. It never decides alone (rule 7): a branch in doubt
//! ends by its voter's word, which is a quorum's. So an election's outcome is put to the own voter before anybody is told: a peer that was asked
//! may have refused because it has forgotten, and then the own record has ended before. If the own record is gone too, another
//! instance has ended the branch, and this one leads no more: it asks the coordinator.
//!
//! The own voter is a [`Voter`](super::Voter), loaded from its store for each [`Effect::AskVoter`], in the order of these effects, and beside them for each request of a
//! peer. The driver answers every one of them with [`Event::VoterAnswered`], however long the store is away.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ballot::{Ballot, NodeId};
use super::leader::{self, Leader};
use super::roster::{PeerAddress, Roster, VoterName};
use super::voter::{Answer, Request, Standing, VoterRecord};
use crate::branch::{self, Branch, Hook, HookEnd, Message};
use crate::durable::Output;
use crate::ids::{Epoch, Gtid, ParticipantName};
use crate::record::Decision;
use crate::two_phase::{BranchResult, Vote};

/// A branch that heard of nobody for this long, and by chance up to half as long again, acts: it asks, or it leads. In milliseconds.
pub const ELECTION_MS: u64 = 4_000;

/// The participant's machine for one branch of a three-phase transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Participant {
    branch: Branch,
    me: ParticipantName,
    node: NodeId,
    roster: Option<Roster>,
    /// There is nothing to commit: the hooks that end the branch are not called.
    is_read_only: bool,
    stage: Stage,
    leader: Option<Box<Leader>>,
    /// Its record stood pre-committed when it was found: it may have ended since, and lost that, so the log may have forgotten the transaction. It
    /// does not inquire, since to an inquiry an abort is presumed: it leads, and the log is asked by one that knows of every vote.
    was_pre_committed: bool,
    /// The highest ballot that it has heard of.
    highest: Ballot,
    /// Somebody was at work since the election timer was set.
    was_heard: bool,
    /// Every branch has ended, and this one's hook is at work again, since it was told the outcome twice.
    is_forgotten: bool,
}

/// Where a branch stands with its voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// Its voter has not been asked, or is not known to have voted yes.
    Unvoted,
    /// Its voter makes the yes durable.
    Voting,
    /// Its voter has voted yes and does not know the outcome.
    InDoubt,
    /// The outcome is known, and its voter makes it durable.
    Deciding(Decision),
    /// Its voter keeps the outcome, and the branch follows.
    Decided(Decision),
}

/// What can happen to a branch of a three-phase transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The coordinator says prepare.
    PrepareOrdered {
        /// The coordinator's epoch.
        epoch: Epoch,
        /// From the initiator.
        payload: Bytes,
        /// Who votes.
        roster: Roster,
        /// It prepared before the commit was asked for: only the vote is wanted.
        is_prepared: bool,
    },
    /// The coordinator tells the outcome.
    Decided {
        /// The coordinator's epoch.
        epoch: Epoch,
        /// The outcome.
        decision: Decision,
    },
    /// The coordinator is collecting votes.
    Waited,
    /// The coordinator says that every branch has ended.
    Forgotten,
    /// A peer that led an election tells the outcome.
    PeerDecided {
        /// Who, as the transport has authenticated it.
        from: VoterName,
        /// The outcome.
        decision: Decision,
    },
    /// A leader asked the own voter, which answered it.
    PeerSeen {
        /// Under which ballot.
        ballot: Ballot,
    },
    /// The own voter answered [`Effect::AskVoter`].
    VoterAnswered {
        /// What.
        answer: Answer,
        /// The roster that it knows.
        roster: Option<Roster>,
        /// Whether there is nothing to commit, if it has voted yes.
        is_read_only: Option<bool>,
    },
    /// Another voter answered [`Effect::AskPeer`].
    PeerAnswered {
        /// Which, as the transport has authenticated it.
        voter: VoterName,
        /// What.
        answer: Answer,
    },
    /// The prepare hook finished.
    PrepareFinished(Vote),
    /// The commit or abort hook finished.
    EndFinished(HookEnd),
    /// There is a session to ask over.
    SessionUp,
    /// A timer fired.
    TimerFired(Timer),
}

/// The timers of a branch of a three-phase transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Timer {
    /// As with two phases.
    Branch(branch::Timer),
    /// Nobody was heard for too long.
    Election,
    /// The present attempt of its own election has taken too long.
    Round,
}

/// What a branch of a three-phase transaction wants done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Call the participant's hook, and tell how it finished.
    Call(Hook),
    /// Tell the coordinator. What is lost is asked for again.
    Send(Message),
    /// Load the own voter, ask it in this participant's name, append what it wants, and tell its answer.
    AskVoter(Request),
    /// Ask another voter: a peer at its address, or the log over a session with any replica. What is lost is asked again.
    AskPeer {
        /// Whom.
        voter: VoterName,
        /// Where, if it is a participant.
        address: Option<PeerAddress>,
        /// What.
        request: Request,
    },
    /// Delete the voter's record, if it [may be](super::Voter::may_be_forgotten), once orders to prepare and peers' questions that are on
    /// their way have arrived: a voter without a record votes anew, and refuses a peer that does not know of its vote.
    ForgetVoter,
    /// (Re)start a timer.
    SetTimer {
        /// Which.
        timer: Timer,
        /// At least this long, in milliseconds.
        after_ms: u64,
        /// And by chance up to this much longer, in milliseconds.
        jitter_ms: u64,
    },
    /// Stop a timer.
    CancelTimer(Timer),
    /// Somebody contradicted the outcome that this branch knows. Nothing was done; a human should know.
    Contradiction {
        /// What it knows.
        doing: Decision,
    },
}

impl Participant {
    /// The first word about a branch that is not in memory. `stored` is what its voter's store has, if anything: another instance may have voted, or an
    /// earlier life of this one. `node` is drawn for this machine alone.
    pub fn meet(
        gtid: Gtid,
        me: ParticipantName,
        node: NodeId,
        stored: Option<&VoterRecord>,
        event: Event,
    ) -> (Self, Output<Effect>) {
        let (mut participant, mut effects) = match stored {
            Some(stored) => Self::revive(stored, me, node),
            None => (Self::new(Branch::absent(gtid), me, node), Vec::new()),
        };
        let (_, _, wanted) = participant.handle(event).unseal();
        effects.extend(wanted);
        (participant, Output::effects(effects))
    }

    /// A branch whose resource was found prepared, or that the service has just prepared by itself, and whose voter has no record: it has
    /// not voted, and may give up.
    pub fn prepared(gtid: Gtid, me: ParticipantName, node: NodeId) -> (Self, Output<Effect>) {
        let (branch, output) = Branch::in_doubt(gtid);
        let mut participant = Self::new(branch, me, node);
        let mut effects = Vec::new();
        participant.relay(output, &mut effects);
        effects.push(election_timer());
        (participant, Output::effects(effects))
    }

    /// A branch whose voter's record was found at start-up: it is in doubt, or its resource has to be ended as the record says.
    pub fn recover(stored: &VoterRecord, me: ParticipantName, node: NodeId) -> (Self, Output<Effect>) {
        let (participant, effects) = Self::revive(stored, me, node);
        (participant, Output::effects(effects))
    }

    fn revive(stored: &VoterRecord, me: ParticipantName, node: NodeId) -> (Self, Vec<Effect>) {
        let (branch, output) = Branch::in_doubt(stored.gtid);
        let mut participant = Self::new(branch, me, node);
        participant.roster = stored.roster.clone();
        participant.is_read_only = stored.is_read_only;
        participant.was_pre_committed = stored.state.standing == Standing::PreCommitted;
        participant.highest = stored.state.joined;
        let mut effects = Vec::new();
        match stored.state.standing.decision() {
            Some(decision) => participant.decide(decision, &mut effects),
            None => {
                participant.stage = Stage::InDoubt;
                participant.relay(output, &mut effects);
                effects.push(election_timer());
            }
        }
        (participant, effects)
    }

    fn new(branch: Branch, me: ParticipantName, node: NodeId) -> Self {
        Self {
            branch,
            me,
            node,
            roster: None,
            is_read_only: false,
            stage: Stage::Unvoted,
            leader: None,
            was_pre_committed: false,
            highest: Ballot::FIRST,
            was_heard: false,
            is_forgotten: false,
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event) -> Output<Effect> {
        let mut effects = Vec::new();
        match event {
            // I7: an order of a lower epoch than was seen is ignored.
            Event::PrepareOrdered { epoch, .. } | Event::Decided { epoch, .. } if epoch < self.branch.epoch() => {}
            Event::PrepareOrdered { epoch, payload, roster, is_prepared } => {
                self.was_heard = true;
                self.prepare_ordered(epoch, payload, roster, is_prepared, &mut effects);
            }
            Event::Decided { epoch, decision } => {
                // The order is acknowledged under its epoch, once the own voter keeps the outcome.
                self.branch.hear(epoch);
                self.told(epoch, decision, &mut effects);
            }
            Event::PeerDecided { from, decision } => {
                let is_peer = self.roster.as_ref().is_some_and(|roster| roster.position(&from).is_some());
                if is_peer {
                    self.told(self.branch.epoch(), decision, &mut effects);
                }
            }
            Event::Waited => self.was_heard = true,
            Event::PeerSeen { ballot } => {
                self.was_heard = true;
                self.highest = self.highest.max(ballot);
            }
            Event::Forgotten => self.is_forgotten = true,
            Event::VoterAnswered { answer, roster, is_read_only } => {
                self.voter_is_read_only(is_read_only);
                self.voter_answered(answer, roster, &mut effects);
            }
            // The own voter's word is another event, since what it says rests on its store.
            Event::PeerAnswered { voter: VoterName::Participant(name), .. } if name == self.me => {}
            Event::PeerAnswered { voter, answer } => {
                self.tell_leader(leader::Event::Answered { voter, answer }, &mut effects);
            }
            Event::PrepareFinished(vote) => self.prepare_finished(vote, &mut effects),
            Event::EndFinished(end) => self.tell_branch(branch::Event::EndFinished(end), &mut effects),
            Event::SessionUp => self.tell_branch(branch::Event::SessionUp, &mut effects),
            Event::TimerFired(Timer::Branch(timer)) => {
                self.tell_branch(branch::Event::TimerFired(timer), &mut effects);
            }
            Event::TimerFired(Timer::Election) => self.election_due(&mut effects),
            Event::TimerFired(Timer::Round) => self.tell_leader(leader::Event::RetryDue, &mut effects),
        }
        // It is said once: a branch that is not at its end yet remembers it.
        if self.is_forgotten && self.is_ended() {
            self.is_forgotten = false;
            effects.push(Effect::ForgetVoter);
        }
        Output::effects(effects)
    }

    // ---- the vote -----------------------------------------------------------------------------------------------------

    fn prepare_ordered(
        &mut self,
        epoch: Epoch,
        payload: Bytes,
        roster: Roster,
        is_prepared: bool,
        effects: &mut Vec<Effect>,
    ) {
        match (self.stage, self.branch.state()) {
            (Stage::Unvoted, branch::State::Ended) if is_prepared => {
                let message = "the instance that was asked for its vote knows of no early prepare; try again";
                effects.push(Effect::Send(Message::Vote(Vote::Unknown(message.to_owned()))));
            }
            (Stage::Unvoted, branch::State::Ended | branch::State::InDoubt) => {
                self.roster = Some(roster);
                let event = branch::Event::PrepareOrdered { epoch, payload, one_phase: false };
                self.tell_branch(event, effects);
            }
            (Stage::InDoubt, _) => effects.push(Effect::Send(Message::Vote(Vote::Yes))),
            // The coordinator has lost all trace of it, and is asked to commit once more: it would wait for this vote until the deadline.
            (Stage::Deciding(Decision::Abort) | Stage::Decided(Decision::Abort), _) => effects.push(voted_too_late()),
            (Stage::Unvoted, branch::State::Preparing { .. } | branch::State::Committing | branch::State::Aborting)
            | (Stage::Voting | Stage::Deciding(Decision::Commit) | Stage::Decided(Decision::Commit), _) => {}
        }
    }

    fn prepare_finished(&mut self, vote: Vote, effects: &mut Vec<Effect>) {
        let is_late = self.stage != Stage::Unvoted && matches!(self.branch.state(), branch::State::Preparing { .. });
        if is_late {
            // What the other instance had nothing of may be prepared here.
            self.is_read_only &= matches!(vote, Vote::ReadOnly | Vote::No(_));
            if let Stage::Deciding(Decision::Abort) | Stage::Decided(Decision::Abort) = self.stage {
                effects.push(voted_too_late());
            }
            return self.follow_the_voter(effects);
        }
        let vote = match vote {
            // It stays a voter, and waits with the others.
            Vote::ReadOnly => {
                self.is_read_only = true;
                Vote::Yes
            }
            Vote::Yes | Vote::No(_) | Vote::Unknown(_) | Vote::Committed => vote,
        };
        self.tell_branch(branch::Event::PrepareFinished(vote), effects);
        if self.branch.state() == branch::State::InDoubt {
            effects.push(election_timer());
        }
    }

    fn tell_branch(&mut self, event: branch::Event, effects: &mut Vec<Effect>) {
        let output = self.branch.handle(event);
        self.relay(output, effects);
    }

    /// Passes on what the branch wants done. Its yes becomes the voter's first; a branch without anything to commit ends without its hook.
    fn relay(&mut self, output: Output<branch::Effect>, effects: &mut Vec<Effect>) {
        let (_, _, wanted) = output.unseal();
        for effect in wanted {
            match effect {
                branch::Effect::Send(Message::Vote(Vote::Yes)) => self.vote(effects),
                branch::Effect::Send(Message::Inquire) => self.inquire(effects),
                branch::Effect::Send(message) => effects.push(Effect::Send(message)),
                // Another instance may have prepared what stands under the same gtid, and voted: this is undone once the voter has refused.
                branch::Effect::Call(Hook::Abort) if self.stage == Stage::Unvoted => {
                    self.branch.leave_in_doubt(false);
                    effects.push(Effect::AskVoter(Request::VoteNo));
                    effects.push(election_timer());
                }
                branch::Effect::Call(Hook::Commit | Hook::Abort) if self.is_read_only => {
                    self.tell_branch(branch::Event::EndFinished(HookEnd::Ended(BranchResult::Done)), effects);
                }
                branch::Effect::Call(hook) => effects.push(Effect::Call(hook)),
                branch::Effect::SetTimer { timer, after_ms, jitter } => {
                    let (after_ms, jitter_ms) = if jitter { (0, after_ms) } else { (after_ms, 0) };
                    effects.push(Effect::SetTimer { timer: Timer::Branch(timer), after_ms, jitter_ms });
                }
                branch::Effect::Contradiction { doing } => effects.push(Effect::Contradiction { doing }),
            }
        }
    }

    /// Another instance has voted while a hook was at work here. What the hook came to is no vote any more: the branch ends as its voter says, now or
    /// once that is known.
    fn follow_the_voter(&mut self, effects: &mut Vec<Effect>) {
        self.branch.leave_in_doubt(true);
        if let Stage::Decided(decision) = self.stage {
            self.decide(decision, effects);
        }
    }

    fn vote(&mut self, effects: &mut Vec<Effect>) {
        let Some(roster) = self.roster.clone() else { return };
        self.stage = Stage::Voting;
        effects.push(Effect::AskVoter(Request::VoteYes { roster, is_read_only: self.is_read_only }));
    }

    /// Who voted first says whether there is anything to commit, save what may be prepared here.
    fn voter_is_read_only(&mut self, is_read_only: Option<bool>) {
        let Some(is_read_only) = is_read_only else { return };
        let has_nothing = match self.branch.state() {
            branch::State::Ended | branch::State::Preparing { .. } => true,
            branch::State::InDoubt | branch::State::Committing | branch::State::Aborting => self.is_read_only,
        };
        self.is_read_only = is_read_only && has_nothing;
    }

    fn voter_answered(&mut self, answer: Answer, roster: Option<Roster>, effects: &mut Vec<Effect>) {
        match (self.stage, answer) {
            (Stage::Unvoted | Stage::Voting, Answer::VotedYes { .. }) => {
                self.roster = roster.or(self.roster.take());
                self.stage = Stage::InDoubt;
                effects.push(Effect::Send(Message::Vote(Vote::Yes)));
                effects.push(election_timer());
            }
            (Stage::Voting, Answer::Ended(Decision::Abort)) => {
                let message = "an election asked its voter before it had voted";
                effects.push(Effect::Send(Message::Vote(Vote::No(message.to_owned()))));
                self.decide(Decision::Abort, effects);
            }
            (
                Stage::Unvoted | Stage::Voting | Stage::InDoubt | Stage::Deciding(_),
                Answer::Ended(decision @ (Decision::Commit | Decision::Abort)),
            ) => {
                self.announce(decision, effects);
                self.decide(decision, effects);
            }
            (Stage::Voting, Answer::Barred(bar)) => {
                self.stage = Stage::Unvoted;
                self.roster = None;
                effects.push(Effect::Send(Message::Vote(Vote::Unknown(bar.to_string()))));
            }
            // It has voted, and its voter does not know any more: another instance has ended the branch, and everybody has forgotten.
            (Stage::InDoubt, Answer::Barred(_)) => {
                self.stop_leading(effects);
                effects.push(Effect::Send(Message::Inquire));
            }
            (Stage::InDoubt, Answer::Joined { .. } | Answer::Accepted { .. } | Answer::Rejected { .. }) => {
                let voter = VoterName::Participant(self.me.clone());
                self.tell_leader(leader::Event::Answered { voter, answer }, effects);
            }
            // Answers to an election that is over, or to a vote that was overtaken.
            (
                Stage::Unvoted | Stage::Voting,
                Answer::Joined { .. } | Answer::Accepted { .. } | Answer::Rejected { .. },
            )
            | (Stage::Unvoted, Answer::Barred(_))
            | (Stage::InDoubt, Answer::VotedYes { .. })
            | (
                Stage::Deciding(_),
                Answer::VotedYes { .. }
                | Answer::Joined { .. }
                | Answer::Accepted { .. }
                | Answer::Rejected { .. }
                | Answer::Barred(_),
            )
            | (Stage::Decided(_), _) => {}
        }
    }

    // ---- the outcome ----------------------------------------------------------------------------------------------------

    /// Somebody knows the outcome. The voter keeps it first.
    fn told(&mut self, epoch: Epoch, decision: Decision, effects: &mut Vec<Effect>) {
        match self.stage {
            // The hook is still at work: the branch notes the abort, and nobody can have decided to commit.
            Stage::Unvoted if matches!(self.branch.state(), branch::State::Preparing { .. }) => {
                self.tell_branch(branch::Event::Decided { epoch, decision }, effects);
            }
            Stage::Unvoted | Stage::Voting | Stage::InDoubt => {
                self.stage = Stage::Deciding(decision);
                self.stop_leading(effects);
                effects.push(Effect::AskVoter(Request::Decided(decision)));
            }
            Stage::Deciding(known) | Stage::Decided(known) if known != decision => {
                effects.push(Effect::Contradiction { doing: known });
            }
            Stage::Deciding(_) => {}
            // Its acknowledgement was lost: the hook finds out.
            Stage::Decided(_) => self.tell_branch(branch::Event::Decided { epoch, decision }, effects),
        }
    }

    /// The voter keeps the outcome: the branch follows.
    fn decide(&mut self, decision: Decision, effects: &mut Vec<Effect>) {
        self.stage = Stage::Decided(decision);
        self.stop_leading(effects);
        effects.push(Effect::CancelTimer(Timer::Election));
        let epoch = self.branch.epoch();
        self.tell_branch(branch::Event::Decided { epoch, decision }, effects);
    }

    // ---- elections ------------------------------------------------------------------------------------------------------

    fn election_due(&mut self, effects: &mut Vec<Effect>) {
        let was_heard = std::mem::replace(&mut self.was_heard, false);
        match self.stage {
            Stage::Unvoted if self.branch.state() != branch::State::InDoubt => return,
            Stage::Unvoted | Stage::InDoubt if was_heard => self.inquire(effects),
            // Rule 1: only who has not voted may abort by itself.
            Stage::Unvoted => effects.push(Effect::AskVoter(Request::VoteNo)),
            Stage::Voting => effects.push(Effect::Send(Message::Inquire)),
            Stage::InDoubt => self.elect(effects),
            Stage::Deciding(_) | Stage::Decided(_) => return,
        }
        effects.push(election_timer());
    }

    /// Asks the coordinator, unless the outcome is known, or that could be answered by an abort that is presumed after a commit.
    fn inquire(&mut self, effects: &mut Vec<Effect>) {
        match self.stage {
            Stage::InDoubt if self.was_pre_committed => self.elect(effects),
            Stage::Unvoted | Stage::Voting | Stage::InDoubt => effects.push(Effect::Send(Message::Inquire)),
            Stage::Deciding(_) | Stage::Decided(_) => {}
        }
    }

    fn elect(&mut self, effects: &mut Vec<Effect>) {
        let Some(roster) = self.roster.clone().filter(|_| self.leader.is_none()) else { return };
        let (leader, output) = Leader::elect_as(self.me.clone(), roster, self.node, self.highest);
        self.leader = Some(Box::new(leader));
        self.lead(output, effects);
    }

    fn tell_leader(&mut self, event: leader::Event, effects: &mut Vec<Effect>) {
        let Some(leader) = &mut self.leader else { return };
        let output = leader.handle(event);
        self.highest = self.highest.max(leader.highest());
        self.lead(output, effects);
    }

    fn lead(&mut self, output: Output<leader::Effect>, effects: &mut Vec<Effect>) {
        let (_, _, wanted) = output.unseal();
        for effect in wanted {
            match effect {
                leader::Effect::Ask { voter: VoterName::Participant(name), request } if name == self.me => {
                    effects.push(Effect::AskVoter(request));
                }
                leader::Effect::Ask { voter, request } => effects.extend(self.ask_peer(voter, request)),
                leader::Effect::SetTimer { after_ms, jitter_ms } => {
                    effects.push(Effect::SetTimer { timer: Timer::Round, after_ms, jitter_ms });
                }
                leader::Effect::Announce(decision) => effects.push(Effect::AskVoter(Request::Elected(decision))),
            }
        }
    }

    /// Its own election has ended, and its voter keeps the outcome: everybody else is told.
    fn announce(&self, decision: Decision, effects: &mut Vec<Effect>) {
        let has_ended = |leader: &Leader| matches!(leader.state(), leader::State::Ended(_));
        if !self.leader.as_deref().is_some_and(has_ended) {
            return;
        }
        let me = VoterName::Participant(self.me.clone());
        let others = self.roster.iter().flat_map(Roster::names).filter(|voter| *voter != me);
        effects.extend(others.filter_map(|voter| self.ask_peer(voter, Request::Decided(decision))));
    }

    fn ask_peer(&self, voter: VoterName, request: Request) -> Option<Effect> {
        let roster = self.roster.as_ref()?;
        let address = match &voter {
            VoterName::Participant(name) => Some(roster.seat(name)?.address.clone()),
            VoterName::Log => None,
        };
        Some(Effect::AskPeer { voter, address, request })
    }

    fn stop_leading(&mut self, effects: &mut Vec<Effect>) {
        if let Some(leader) = self.leader.take() {
            self.highest = self.highest.max(leader.highest());
            effects.push(Effect::CancelTimer(Timer::Round));
        }
    }

    // ---- what others may see of it ------------------------------------------------------------------------------------------

    /// Whose branch.
    pub fn gtid(&self) -> Gtid {
        self.branch.gtid()
    }

    /// The branch within.
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// Where it stands with its voter.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The roster, once it knows it.
    pub fn roster(&self) -> Option<&Roster> {
        self.roster.as_ref()
    }

    /// Its own election, if it leads one.
    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_deref()
    }

    /// Whether nothing is left to do, so that it may leave memory. Its voter's record stays until [`Effect::ForgetVoter`].
    pub fn is_ended(&self) -> bool {
        let is_settled = match self.stage {
            Stage::Unvoted | Stage::Decided(_) => true,
            Stage::Voting | Stage::InDoubt | Stage::Deciding(_) => false,
        };
        is_settled && self.branch.is_ended()
    }

    /// What it waits for, in plain words; empty when nothing is left to do.
    pub fn waiting_for(&self) -> String {
        match (self.stage, &self.leader) {
            (Stage::Unvoted, _) if self.branch.is_ended() => String::new(),
            (Stage::Unvoted, _) => "its hook, or the coordinator to ask for its vote".to_owned(),
            (Stage::Voting, _) => "its own store, to make its vote durable".to_owned(),
            (Stage::InDoubt, Some(leader)) if matches!(leader.state(), leader::State::Ended(_)) => {
                "its own store, to make the outcome durable".to_owned()
            }
            (Stage::InDoubt, Some(leader)) => leader.waiting_for(),
            (Stage::InDoubt, None) => "the coordinator, or a peer that leads an election".to_owned(),
            (Stage::Deciding(_), _) => "its own store, to make the outcome durable".to_owned(),
            (Stage::Decided(_), _) if self.branch.is_ended() => String::new(),
            (Stage::Decided(decision), _) => format!("its hook, to {decision}"),
        }
    }
}

/// The vote of one whose voters have aborted it, while the coordinator was away.
fn voted_too_late() -> Effect {
    let message = "its voters have aborted it, while the coordinator was away";
    Effect::Send(Message::Vote(Vote::No(message.to_owned())))
}

fn election_timer() -> Effect {
    Effect::SetTimer { timer: Timer::Election, after_ms: ELECTION_MS, jitter_ms: ELECTION_MS / 2 }
}
