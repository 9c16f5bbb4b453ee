//! One voter: a participant's store, or the log.
//!
//! A voter is made from what its store holds, takes one request, and is dropped: several instances may share the store. Loading,
//! handling and appending are one step: under a lock of the row, or as a compare-and-set against [`VoterRecord::before`] that starts over from
//! loading when it loses. The forced record is durable before the answer leaves; the types see to that.
//!
//! | state | vote yes | vote no | propose e | join e | decided, elected |
//! |---|---|---|---|---|---|
//! | (none) | **waiting** | **aborted** | forgotten | known to have voted: forgotten; its own store in the roster: **aborted**, else state lost | decided: told, nothing to keep; elected: forgotten |
//! | waiting | voted yes | voted yes | `le = e`, `la < e`: `la := e`, **pre-committed** or **pre-aborted**; else rejected | `e > le`: `le := e`, reported; else rejected | **committed** or **aborted** |
//! | pre-committed, pre-aborted | voted yes | voted yes | as above; `la = e`: accepted once more | as above | **committed** or **aborted** |
//! | committed, aborted | ended | ended | ended | ended | ended |
//! | aborted without a vote | ended | ended | forgotten | known to have voted: forgotten; else ended | decided: ended; elected: forgotten |
//!
//! A join that is repeated while nothing was proposed under its ballot is reported once more: nothing has changed since.
//!
//! Only a voter without a state may abort by itself. That is what lets an election end a transaction in which somebody has not voted: whoever
//! is asked before it has voted votes no, durably, and never votes yes afterwards. A vote of no needs no record for its own sake, and a voter that
//! has lost its record is told from one that never had any by its store's identity in the roster.
//!
//! A record is deleted once every branch has ended, and then a voter that has voted looks like one that never did. Somebody may still lead by then:
//! a replica that was fenced and does not know it, a participant's instance that stood still. So whoever asks says whether it knows that
//! this voter has voted yes ([`Request::knows_of_a_vote`]), and a voter without a vote on record answers that it has forgotten: it changes
//! nothing, and nobody decides by it.
//!
//! Whoever asks must be a voter of the roster, or a replica; and a roster that differs from the one it voted under is refused.

use serde::{Deserialize, Serialize};

use super::ballot::Ballot;
use super::roster::{Roster, StoreId, VoterName};
use crate::durable::Output;
use crate::ids::Gtid;
use crate::record::{Decision, Record, RecordId, RecordKind};

/// Where a voter stands. A voter that has not voted has no state at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Voted yes (W).
    Waiting,
    /// Accepted a proposal to commit (PC).
    PreCommitted,
    /// Accepted a proposal to abort (PA).
    PreAborted,
    /// Knows that it commits (C). Never changes.
    Committed,
    /// Knows that it aborts (A). Never changes.
    Aborted,
}

impl Standing {
    /// The word for it in stores and on screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::PreCommitted => "pre_committed",
            Self::PreAborted => "pre_aborted",
            Self::Committed => "committed",
            Self::Aborted => "aborted",
        }
    }

    /// The standing of a word, if it is one.
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Waiting, Self::PreCommitted, Self::PreAborted, Self::Committed, Self::Aborted];
        all.into_iter().find(|standing| standing.as_str() == word)
    }

    /// The decision that a voter knows.
    pub const fn decision(self) -> Option<Decision> {
        match self {
            Self::Waiting | Self::PreCommitted | Self::PreAborted => None,
            Self::Committed => Some(Decision::Commit),
            Self::Aborted => Some(Decision::Abort),
        }
    }
}

/// What a voter keeps: `st`, `le` and `la` of Keidar and Dolev.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VoterState {
    /// Where it stands (`st`).
    pub standing: Standing,
    /// The last ballot it joined (`le`); from the start [`Ballot::FIRST`].
    pub joined: Ballot,
    /// The last ballot whose proposal it accepted (`la`).
    pub accepted: Option<Ballot>,
}

impl VoterState {
    /// After a vote of yes.
    pub const WAITING: Self = Self { standing: Standing::Waiting, joined: Ballot::FIRST, accepted: None };
    /// After the acceptance of the first attempt: the log's, once 'attempt 1 sent' is durable.
    pub const ATTEMPTED: Self =
        Self { standing: Standing::PreCommitted, joined: Ballot::FIRST, accepted: Some(Ballot::FIRST) };
    /// After a refusal.
    pub const REFUSED: Self = Self { standing: Standing::Aborted, joined: Ballot::FIRST, accepted: None };
}

/// A voter's durable state, as its store keeps it: one row for a transaction and voter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VoterRecord {
    /// Of which transaction.
    pub gtid: Gtid,
    /// Whose.
    pub voter: VoterName,
    /// Under which roster it voted yes; none if it never did: it refused.
    pub roster: Option<Roster>,
    /// Its branch has nothing to commit: no hook is called at the end.
    pub is_read_only: bool,
    /// What it keeps from now on.
    pub state: VoterState,
    /// What has to stand in the store for this record to be appended: nothing, or this state. Not stored itself.
    pub before: Option<VoterState>,
}

impl VoterState {
    /// A digest that tells it from other states of the same voter.
    pub fn digest(&self) -> u64 {
        const BALLOT_BYTES: usize = 8 + 16;
        // Hashed in one piece: a hasher that takes many has far more to set up than this is long.
        let mut bytes = [0; 1 + 2 * BALLOT_BYTES];
        bytes[0] = self.standing as u8;
        for (bytes, ballot) in bytes[1..].chunks_exact_mut(BALLOT_BYTES).zip([Some(self.joined), self.accepted]) {
            // Without a ballot they stay zero, which is the round of none.
            if let Some(Ballot { round, node }) = ballot {
                bytes[..8].copy_from_slice(&round.to_le_bytes());
                bytes[8..].copy_from_slice(&node.0.to_le_bytes());
            }
        }
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }
}

impl VoterRecord {
    /// Which record it is.
    pub fn id(&self) -> RecordId {
        RecordId { gtid: self.gtid, kind: RecordKind::Voter(self.state.digest()) }
    }
}

/// What a proposal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proposal {
    /// Get ready to commit.
    PreCommit,
    /// Get ready to abort.
    PreAbort,
}

impl Proposal {
    /// What is decided if a quorum accepts it.
    pub const fn decision(self) -> Decision {
        match self {
            Self::PreCommit => Decision::Commit,
            Self::PreAbort => Decision::Abort,
        }
    }

    /// Where a voter stands that has accepted it.
    pub const fn standing(self) -> Standing {
        match self {
            Self::PreCommit => Standing::PreCommitted,
            Self::PreAbort => Standing::PreAborted,
        }
    }
}

/// What a voter is asked, by its own participant or by whoever leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Request {
    /// Its own participant votes yes: from here on it waits for the others.
    VoteYes {
        /// The frozen roster.
        roster: Roster,
        /// There is nothing to commit.
        is_read_only: bool,
    },
    /// Its own participant gives up, if it has not voted yes.
    VoteNo,
    /// A leader asks to join its ballot, and for a report.
    Join {
        /// Its ballot.
        ballot: Ballot,
        /// The roster that it knows: who is asked may not know any.
        roster: Roster,
        /// The leader knows that this voter has voted yes.
        has_voted: bool,
    },
    /// A leader proposes.
    Propose {
        /// Under this ballot.
        ballot: Ballot,
        /// This.
        proposal: Proposal,
    },
    /// The outcome is known.
    Decided(Decision),
    /// Its own participant's election came to this outcome. It is true only where there is a vote on record: a voter that was asked by this
    /// election may have refused because it has forgotten, and then the own record has ended before, if it is still there.
    Elected(Decision),
}

impl Request {
    /// Whether only a voter that has voted yes can be asked this, as whoever asks knows. A proposal goes to those that joined, and the first
    /// one to all, since every vote was in.
    pub const fn knows_of_a_vote(&self) -> bool {
        match self {
            Self::Join { has_voted, .. } => *has_voted,
            Self::Propose { .. } | Self::Elected(_) => true,
            Self::VoteYes { .. } | Self::VoteNo | Self::Decided(_) => false,
        }
    }
}

/// What a voter answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// Its yes is durable.
    VotedYes {
        /// There is nothing to commit.
        is_read_only: bool,
    },
    /// It joined this ballot; this is what it had kept then.
    Joined {
        /// The ballot.
        ballot: Ballot,
        /// Where it stands.
        standing: Standing,
        /// The last ballot whose proposal it accepted.
        accepted: Option<Ballot>,
    },
    /// It accepted what was proposed under this ballot.
    Accepted {
        /// The ballot.
        ballot: Ballot,
    },
    /// It did not: it has joined another ballot.
    Rejected {
        /// The ballot that was asked for.
        ballot: Ballot,
        /// The one that it has joined.
        joined: Ballot,
    },
    /// The transaction has ended for it, and this is how.
    Ended(Decision),
    /// It may not vote, and nothing has changed.
    Barred(Bar),
}

/// Why a voter may not vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// The roster names another store: this voter's promises are lost with it, and it never counts again in this transaction.
    #[error(
        "its durable state is lost: its store is not the one that the roster names; restore that store, or resolve by hand"
    )]
    StateLost,
    /// It is known to have voted, and has no vote on record.
    #[error("it has forgotten this transaction, which has ended for every branch, or else its record was removed")]
    Forgotten,
    /// Whoever asks is neither a voter of the roster nor a replica.
    #[error("whoever asks is neither in the roster nor a replica of the coordinator")]
    Stranger,
    /// The roster is not the one that it voted under.
    #[error("the roster differs from the one that it voted under")]
    OtherRoster,
    /// It is not in the roster.
    #[error(
        "somebody else answers at the address that the roster names; find out which process was started with that address"
    )]
    NotInRoster,
}

impl Bar {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::StateLost, Self::Forgotten, Self::Stranger, Self::OtherRoster, Self::NotInRoster];

    /// The bar of a word, if it is one.
    pub fn from_code(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bar| bar.code() == word)
    }

    /// The stable word for it, on the wire and on screen.
    pub const fn code(self) -> &'static str {
        match self {
            Self::StateLost => "STATE_LOST",
            Self::Forgotten => "FORGOTTEN",
            Self::Stranger => "STRANGER",
            Self::OtherRoster => "OTHER_ROSTER",
            Self::NotInRoster => "NOT_IN_ROSTER",
        }
    }
}

/// The machine of one voter in one transaction, as just loaded from its store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Voter {
    gtid: Gtid,
    voter: VoterName,
    store: StoreId,
    kept: Option<Kept>,
}

/// What the store keeps of a voter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Kept {
    roster: Option<Roster>,
    is_read_only: bool,
    state: VoterState,
}

impl Voter {
    /// A voter, from what its store holds about the transaction, if anything.
    ///
    /// # Panics
    /// If the record is another transaction's, or another voter's: to go on would be to vote in its name.
    pub fn load(gtid: Gtid, voter: VoterName, store: StoreId, stored: Option<&VoterRecord>) -> Self {
        let kept = stored.map(|record| {
            assert!(record.gtid == gtid && record.voter == voter, "a voter is made from its own record");
            Kept { roster: record.roster.clone(), is_read_only: record.is_read_only, state: record.state }
        });
        Self { gtid, voter, store, kept }
    }

    /// Takes one request. `from` is who asks, as the transport has authenticated it: never as a message says; a voter's own
    /// participant asks in its own name, and a replica as the log.
    pub fn handle(&mut self, from: &VoterName, request: Request) -> Output<Answer> {
        if let Some(bar) = self.bars(from, &request) {
            return answer(Answer::Barred(bar));
        }
        let Some(kept) = self.kept.clone() else { return self.unvoted(request) };
        if kept.roster.is_none() && request.knows_of_a_vote() {
            // It refused when it had forgotten, to somebody who did not know of its vote.
            return answer(Answer::Barred(Bar::Forgotten));
        }
        if let Some(decision) = kept.state.standing.decision() {
            return answer(Answer::Ended(decision));
        }
        match request {
            Request::VoteYes { .. } | Request::VoteNo => answer(Answer::VotedYes { is_read_only: kept.is_read_only }),
            Request::Propose { ballot, proposal } => self.proposed(kept, ballot, proposal),
            Request::Join { ballot, .. } => self.join(kept, ballot),
            Request::Decided(decision) | Request::Elected(decision) => self.decided(kept, decision),
        }
    }

    /// Why a request is not even considered.
    fn bars(&self, from: &VoterName, request: &Request) -> Option<Bar> {
        let offered = match request {
            Request::VoteYes { roster, .. } | Request::Join { roster, .. } => Some(roster),
            Request::VoteNo | Request::Propose { .. } | Request::Decided(_) | Request::Elected(_) => None,
        };
        let known = self.kept.as_ref().and_then(|kept| kept.roster.as_ref());
        if let (Some(offered), Some(known)) = (offered, known)
            && offered != known
        {
            return Some(Bar::OtherRoster);
        }
        if let Some(roster) = known.or(offered) {
            match roster.store(&self.voter) {
                None => return Some(Bar::NotInRoster),
                Some(store) if store != self.store => return Some(Bar::StateLost),
                Some(_) => {}
            }
            if roster.position(from).is_none() {
                return Some(Bar::Stranger);
            }
        }
        let is_for_itself = matches!(request, Request::VoteYes { .. } | Request::VoteNo | Request::Elected(_));
        (is_for_itself && *from != self.voter).then_some(Bar::Stranger)
    }

    /// Q: it has not voted, or it has forgotten.
    fn unvoted(&mut self, request: Request) -> Output<Answer> {
        match request {
            Request::VoteYes { roster, is_read_only } => {
                let kept = Kept { roster: Some(roster), is_read_only, state: VoterState::WAITING };
                self.keep(kept, Answer::VotedYes { is_read_only })
            }
            Request::Join { has_voted: true, .. } | Request::Propose { .. } | Request::Elected(_) => {
                answer(Answer::Barred(Bar::Forgotten))
            }
            Request::VoteNo | Request::Join { has_voted: false, .. } => self.refuse(),
            // It has nothing to keep: it never voted, or it was forgotten after it had ended.
            Request::Decided(decision) => answer(Answer::Ended(decision)),
        }
    }

    /// Without a roster, which is what tells a refusal from a vote of yes that was aborted.
    fn refuse(&mut self) -> Output<Answer> {
        let kept = Kept { roster: None, is_read_only: false, state: VoterState::REFUSED };
        self.keep(kept, Answer::Ended(Decision::Abort))
    }

    /// Rule 3: accepted iff it joined this very ballot and has accepted nothing under it.
    fn proposed(&mut self, mut kept: Kept, ballot: Ballot, proposal: Proposal) -> Output<Answer> {
        if kept.state.accepted == Some(ballot) {
            // There is one proposal for each ballot, so this is the same one.
            return answer(Answer::Accepted { ballot });
        }
        if kept.state.joined != ballot || kept.state.accepted >= Some(ballot) {
            return answer(Answer::Rejected { ballot, joined: kept.state.joined });
        }
        kept.state.standing = proposal.standing();
        kept.state.accepted = Some(ballot);
        self.keep(kept, Answer::Accepted { ballot })
    }

    /// Rule 5: joined iff it is above every ballot joined so far; reported only once that is durable.
    fn join(&mut self, mut kept: Kept, ballot: Ballot) -> Output<Answer> {
        let VoterState { standing, joined, accepted } = kept.state;
        let report = Answer::Joined { ballot, standing, accepted };
        if ballot > joined {
            kept.state.joined = ballot;
            return self.keep(kept, report);
        }
        // The answer to the first join was lost; what it said is still true. The first ballot is nobody's to join.
        if ballot == joined && ballot > Ballot::FIRST && accepted < Some(ballot) {
            return answer(report);
        }
        answer(Answer::Rejected { ballot, joined })
    }

    /// A commit over a pre-commit may be lost with the process. A quorum has accepted it, so every election finds it again (rule 6); and who stands
    /// pre-committed knows that everybody has voted, so that nobody who has forgotten refuses it. Over less than that, and for an abort, peers that have
    /// forgotten could answer otherwise.
    fn decided(&mut self, mut kept: Kept, decision: Decision) -> Output<Answer> {
        let may_be_lost = kept.state.standing == Standing::PreCommitted && decision == Decision::Commit;
        kept.state.standing = match decision {
            Decision::Commit => Standing::Committed,
            Decision::Abort => Standing::Aborted,
        };
        let (record, reply) = (self.become_kept(kept), Answer::Ended(decision));
        if may_be_lost { answer(reply).with_lazy(record) } else { Output::after(record, vec![reply]) }
    }

    fn keep(&mut self, kept: Kept, reply: Answer) -> Output<Answer> {
        Output::after(self.become_kept(kept), vec![reply])
    }

    fn become_kept(&mut self, kept: Kept) -> Record {
        let before = self.state();
        let record = VoterRecord {
            gtid: self.gtid,
            voter: self.voter.clone(),
            roster: kept.roster.clone(),
            is_read_only: kept.is_read_only,
            state: kept.state,
            before,
        };
        self.kept = Some(kept);
        Record::Voter(Box::new(record))
    }

    /// Of which transaction.
    pub fn gtid(&self) -> Gtid {
        self.gtid
    }

    /// What it keeps; none if it has never voted.
    pub fn state(&self) -> Option<VoterState> {
        self.kept.as_ref().map(|kept| kept.state)
    }

    /// The roster that it voted yes under.
    pub fn roster(&self) -> Option<&Roster> {
        self.kept.as_ref().and_then(|kept| kept.roster.as_ref())
    }

    /// Whether there is nothing to commit, if it has voted yes.
    pub fn is_read_only(&self) -> Option<bool> {
        self.kept.as_ref().filter(|kept| kept.roster.is_some()).map(|kept| kept.is_read_only)
    }

    /// Whether its record may be deleted once everybody has ended: it knows how the transaction ended.
    pub fn may_be_forgotten(&self) -> bool {
        self.state().is_some_and(|state| state.standing.decision().is_some())
    }
}

fn answer(answer: Answer) -> Output<Answer> {
    Output::effects(vec![answer])
}
