//! What voters of a three-phase transaction say to one another, between the wire and the machines' own types.
//!
//! What a participant asks its own voter never travels: [`Request::VoteYes`], [`Request::VoteNo`] and [`Request::Elected`] cannot be written.

use assent_protocol::three_phase::voter::{Answer, Bar, Proposal, Request, Standing};
use assent_protocol::three_phase::{Ballot, NodeId, PeerAddress, Roster, Seat, StoreId};
use assent_protocol::{BranchId, Decision, Epoch, Gtid, Name, ParticipantName};
use bytes::Bytes;

use crate::identity::sixteen_bytes;
use crate::session::Malformed;
use crate::text::quoted;
use crate::v1;
use crate::v1::voter_answer::Kind as AnswerKind;
use crate::v1::voter_request::Kind as RequestKind;

/// A question of one participant's voter to another's, in strict types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerQuestion {
    /// Which transaction.
    pub gtid: Gtid,
    /// The participant that asks.
    pub from: ParticipantName,
    /// The participant that is asked. Its address may have become another one's.
    pub to: ParticipantName,
    /// What.
    pub request: Request,
}

impl TryFrom<v1::AskRequest> for PeerQuestion {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`], with the first thing that is wrong.
    fn try_from(asked: v1::AskRequest) -> Result<Self, Malformed> {
        let gtid = Gtid::from_bytes(&asked.gtid)
            .map_err(|error| malformed("AskRequest", format!("gtid: {error}; it is the 16 bytes of a UUIDv7")))?;
        let from = Name::new(&asked.from).map_err(|error| malformed("AskRequest", format!("from {error}")))?;
        let to = Name::new(&asked.to).map_err(|error| malformed("AskRequest", format!("to {error}")))?;
        let request = asked.request.ok_or_else(|| malformed("AskRequest", "request is not given"))?.try_into()?;
        Ok(Self { gtid, from, to, request })
    }
}

impl From<PeerQuestion> for v1::AskRequest {
    /// What is a participant's own to ask is written as an empty request, which no voter takes.
    fn from(asked: PeerQuestion) -> Self {
        let gtid = sixteen_bytes(asked.gtid.as_bytes());
        Self { gtid, from: asked.from.into(), to: asked.to.into(), request: Some(asked.request.into()) }
    }
}

impl TryFrom<v1::VoterRequest> for Request {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`], with the first thing that is wrong.
    fn try_from(request: v1::VoterRequest) -> Result<Self, Malformed> {
        const MESSAGE: &str = "VoterRequest";
        Ok(match request.kind {
            Some(RequestKind::Join(join)) => Self::Join {
                ballot: ballot(MESSAGE, join.ballot)?,
                roster: join.roster.ok_or_else(|| malformed(MESSAGE, "roster is not given"))?.try_into()?,
                has_voted: join.has_voted,
            },
            Some(RequestKind::Propose(propose)) => Self::Propose {
                ballot: ballot(MESSAGE, propose.ballot)?,
                proposal: match v1::Proposal::try_from(propose.proposal) {
                    Ok(v1::Proposal::PreCommit) => Proposal::PreCommit,
                    Ok(v1::Proposal::PreAbort) => Proposal::PreAbort,
                    Ok(v1::Proposal::Unspecified) => return Err(malformed(MESSAGE, "proposal is not given")),
                    Err(_) => return Err(unknown_number(MESSAGE, "proposal", propose.proposal)),
                },
            },
            Some(RequestKind::Decided(number)) => Self::Decided(decision(MESSAGE, number)?),
            None => return Err(empty(MESSAGE)),
        })
    }
}

impl From<Request> for v1::VoterRequest {
    /// What is a participant's own to ask is written as an empty request, which no voter takes.
    fn from(request: Request) -> Self {
        let kind = match request {
            Request::VoteYes { .. } | Request::VoteNo | Request::Elected(_) => None,
            Request::Join { ballot, roster, has_voted } => {
                let (ballot, roster) = (Some(ballot.into()), Some(roster.into()));
                Some(RequestKind::Join(v1::JoinBallot { ballot, roster, has_voted }))
            }
            Request::Propose { ballot, proposal } => {
                let proposal = match proposal {
                    Proposal::PreCommit => v1::Proposal::PreCommit,
                    Proposal::PreAbort => v1::Proposal::PreAbort,
                };
                Some(RequestKind::Propose(v1::Propose { ballot: Some(ballot.into()), proposal: proposal.into() }))
            }
            Request::Decided(decision) => Some(RequestKind::Decided(decision_to_wire(decision))),
        };
        Self { kind }
    }
}

impl TryFrom<v1::VoterAnswer> for Answer {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`], with the first thing that is wrong.
    fn try_from(answer: v1::VoterAnswer) -> Result<Self, Malformed> {
        const MESSAGE: &str = "VoterAnswer";
        Ok(match answer.kind {
            Some(AnswerKind::Joined(joined)) => Self::Joined {
                ballot: ballot(MESSAGE, joined.ballot)?,
                standing: match v1::Standing::try_from(joined.standing) {
                    Ok(v1::Standing::Waiting) => Standing::Waiting,
                    Ok(v1::Standing::PreCommitted) => Standing::PreCommitted,
                    Ok(v1::Standing::PreAborted) => Standing::PreAborted,
                    Ok(v1::Standing::Committed) => Standing::Committed,
                    Ok(v1::Standing::Aborted) => Standing::Aborted,
                    Ok(v1::Standing::Unspecified) => return Err(malformed(MESSAGE, "standing is not given")),
                    Err(_) => return Err(unknown_number(MESSAGE, "standing", joined.standing)),
                },
                accepted: joined.accepted.map(|accepted| ballot(MESSAGE, Some(accepted))).transpose()?,
            },
            Some(AnswerKind::Accepted(accepted)) => Self::Accepted { ballot: ballot(MESSAGE, Some(accepted))? },
            Some(AnswerKind::Rejected(rejected)) => {
                Self::Rejected { ballot: ballot(MESSAGE, rejected.ballot)?, joined: ballot(MESSAGE, rejected.joined)? }
            }
            Some(AnswerKind::Ended(number)) => Self::Ended(decision(MESSAGE, number)?),
            Some(AnswerKind::Barred(word)) => {
                let bar = Bar::from_code(&word);
                Self::Barred(bar.ok_or_else(|| {
                    malformed(MESSAGE, format!("barred is {}, which this version does not know", quoted(&word)))
                })?)
            }
            None => return Err(empty(MESSAGE)),
        })
    }
}

impl From<Answer> for v1::VoterAnswer {
    /// What a voter says to its own participant only is written as an empty answer, which no leader takes.
    fn from(answer: Answer) -> Self {
        let kind = match answer {
            Answer::VotedYes { .. } => None,
            Answer::Joined { ballot, standing, accepted } => {
                let standing = match standing {
                    Standing::Waiting => v1::Standing::Waiting,
                    Standing::PreCommitted => v1::Standing::PreCommitted,
                    Standing::PreAborted => v1::Standing::PreAborted,
                    Standing::Committed => v1::Standing::Committed,
                    Standing::Aborted => v1::Standing::Aborted,
                };
                Some(AnswerKind::Joined(v1::Joined {
                    ballot: Some(ballot.into()),
                    standing: standing.into(),
                    accepted: accepted.map(Into::into),
                }))
            }
            Answer::Accepted { ballot } => Some(AnswerKind::Accepted(ballot.into())),
            Answer::Rejected { ballot, joined } => {
                Some(AnswerKind::Rejected(v1::Rejected { ballot: Some(ballot.into()), joined: Some(joined.into()) }))
            }
            Answer::Ended(decision) => Some(AnswerKind::Ended(decision_to_wire(decision))),
            Answer::Barred(bar) => Some(AnswerKind::Barred(bar.code().to_owned())),
        };
        Self { kind }
    }
}

impl TryFrom<v1::Roster> for Roster {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`], with the first thing that is wrong.
    fn try_from(roster: v1::Roster) -> Result<Self, Malformed> {
        let seats = roster.participants.into_iter().map(Seat::try_from).collect::<Result<_, _>>()?;
        let log = StoreId(sixteen("Roster", "log_store_id", &roster.log_store_id)?);
        Self::new(seats, log).map_err(|error| malformed("Roster", error.to_string()))
    }
}

impl From<Roster> for v1::Roster {
    fn from(roster: Roster) -> Self {
        Self {
            participants: roster.participants().iter().cloned().map(Into::into).collect(),
            log_store_id: number_bytes(roster.log().0),
        }
    }
}

impl TryFrom<v1::Seat> for Seat {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`], with the first thing that is wrong.
    fn try_from(seat: v1::Seat) -> Result<Self, Malformed> {
        let participant =
            Name::new(&seat.participant).map_err(|error| malformed("Seat", format!("participant {error}")))?;
        // Absent in a roster that was stored before branches had an id.
        let branch = seat.branch.map_or(BranchId::NONE, Into::into);
        let (address, store) = place("Seat", &seat.address, &seat.store_id)?;
        Ok(Self { participant, branch, address, store })
    }
}

impl From<Seat> for v1::Seat {
    fn from(seat: Seat) -> Self {
        Self {
            participant: seat.participant.into(),
            address: seat.address.into(),
            store_id: number_bytes(seat.store.0),
            branch: (!seat.branch.is_none()).then(|| seat.branch.into()),
        }
    }
}

impl From<v1::BranchId> for BranchId {
    fn from(branch: v1::BranchId) -> Self {
        Self { epoch: Epoch(branch.epoch), number: branch.number }
    }
}

impl From<BranchId> for v1::BranchId {
    fn from(branch: BranchId) -> Self {
        Self { number: branch.number, epoch: branch.epoch.0 }
    }
}

impl From<Ballot> for v1::Ballot {
    fn from(ballot: Ballot) -> Self {
        Self { round: ballot.round, node: number_bytes(ballot.node.0) }
    }
}

/// Where a voter is: its address, and the identity of its store.
pub(crate) fn place(message: &'static str, address: &str, store: &[u8]) -> Result<(PeerAddress, StoreId), Malformed> {
    let address = PeerAddress::new(address).map_err(|error| malformed(message, format!("address: {error}")))?;
    Ok((address, StoreId(sixteen(message, "store_id", store)?)))
}

pub(crate) fn number_bytes(number: u128) -> Bytes {
    sixteen_bytes(&number.to_be_bytes())
}

fn sixteen(message: &'static str, field: &str, bytes: &[u8]) -> Result<u128, Malformed> {
    let bytes = <[u8; 16]>::try_from(bytes)
        .map_err(|_| malformed(message, format!("{field} has {} bytes: it has 16", bytes.len())))?;
    Ok(u128::from_be_bytes(bytes))
}

fn ballot(message: &'static str, ballot: Option<v1::Ballot>) -> Result<Ballot, Malformed> {
    let ballot = ballot.ok_or_else(|| malformed(message, "ballot is not given"))?;
    if ballot.round == 0 {
        return Err(malformed(message, "the ballot's round is 0: rounds count from 1"));
    }
    if ballot.round > Ballot::ROUND_MAX {
        return Err(malformed(
            message,
            format!("the ballot's round is {}: nobody counts beyond {}", ballot.round, Ballot::ROUND_MAX),
        ));
    }
    Ok(Ballot { round: ballot.round, node: NodeId(sixteen(message, "the ballot's node", &ballot.node)?) })
}

fn decision(message: &'static str, number: i32) -> Result<Decision, Malformed> {
    match v1::Decision::try_from(number) {
        Ok(v1::Decision::Commit) => Ok(Decision::Commit),
        Ok(v1::Decision::Abort) => Ok(Decision::Abort),
        Ok(v1::Decision::Unspecified) => Err(malformed(message, "the decision is not given")),
        Err(_) => Err(unknown_number(message, "the decision", number)),
    }
}

pub(crate) fn decision_to_wire(decision: Decision) -> i32 {
    match decision {
        Decision::Commit => v1::Decision::Commit.into(),
        Decision::Abort => v1::Decision::Abort.into(),
    }
}

fn malformed(message: &'static str, problem: impl Into<String>) -> Malformed {
    Malformed { message, problem: problem.into(), request_id: None }
}

fn unknown_number(message: &'static str, field: &str, number: i32) -> Malformed {
    malformed(message, format!("{field} is {number}, which this version does not know"))
}

fn empty(message: &'static str) -> Malformed {
    malformed(message, "it is empty, or of a kind that this version does not know: set exactly one")
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn roster() -> Roster {
        let seat = |name: &str, store| Seat {
            participant: name.parse().expect("valid"),
            branch: BranchId { epoch: Epoch(7), number: u64::MAX },
            address: "http://10.0.0.7:7421".parse().expect("valid"),
            store: StoreId(store),
        };
        Roster::new(vec![seat("a", 1), seat("b", u128::MAX)], StoreId(3)).expect("valid")
    }

    const BALLOT: Ballot = Ballot { round: 7, node: NodeId(u128::MAX - 5) };

    #[test]
    fn what_is_written_is_read() {
        let join = |has_voted| Request::Join { ballot: BALLOT, roster: roster(), has_voted };
        let mut requests = vec![join(false), join(true)];
        for proposal in [Proposal::PreCommit, Proposal::PreAbort] {
            requests.push(Request::Propose { ballot: Ballot::FIRST, proposal });
        }
        for decision in [Decision::Commit, Decision::Abort] {
            requests.push(Request::Decided(decision));
        }
        for request in requests {
            assert_eq!(Request::try_from(v1::VoterRequest::from(request.clone())), Ok(request));
        }
        let mut answers = vec![
            Answer::Accepted { ballot: BALLOT },
            Answer::Rejected { ballot: Ballot::FIRST, joined: BALLOT },
            Answer::Ended(Decision::Commit),
            Answer::Ended(Decision::Abort),
        ];
        for standing in
            [Standing::Waiting, Standing::PreCommitted, Standing::PreAborted, Standing::Committed, Standing::Aborted]
        {
            answers.push(Answer::Joined { ballot: BALLOT, standing, accepted: None });
            answers.push(Answer::Joined { ballot: BALLOT, standing, accepted: Some(Ballot::FIRST) });
        }
        answers.extend(Bar::ALL.map(Answer::Barred));
        for answer in answers {
            assert_eq!(Answer::try_from(v1::VoterAnswer::from(answer)), Ok(answer));
        }
    }

    /// One seat without a branch, and the log.
    #[test]
    fn a_roster_that_was_stored_before_branches_had_an_id_is_still_read() {
        let stored =
            [&b"\x0a\x2a\x0a\x01a\x12\x13http://10.0.0.7:742\x1a\x10"[..], &[1; 16], &b"\x12\x10"[..], &[3; 16]]
                .concat();
        let seat = Seat {
            participant: "a".parse().expect("valid"),
            branch: BranchId::NONE,
            address: "http://10.0.0.7:742".parse().expect("valid"),
            store: StoreId(u128::from_be_bytes([1; 16])),
        };
        let roster = Roster::new(vec![seat], StoreId(u128::from_be_bytes([3; 16]))).expect("valid");
        let wire = v1::Roster::decode(stored.as_slice()).expect("a roster");
        assert_eq!(Roster::try_from(wire), Ok(roster.clone()));
        assert_eq!(v1::Roster::from(roster).encode_to_vec(), stored);
    }

    #[test]
    fn what_is_a_participants_own_to_ask_does_not_travel() {
        let vote = Request::VoteYes { roster: roster(), is_read_only: false };
        for own in [vote, Request::VoteNo, Request::Elected(Decision::Abort)] {
            Request::try_from(v1::VoterRequest::from(own)).expect_err("it is nobody else's to ask");
        }
        Answer::try_from(v1::VoterAnswer::from(Answer::VotedYes { is_read_only: false })).expect_err("as its answer");
    }

    #[test]
    fn what_is_impossible_is_refused_and_says_why() {
        let wire = v1::VoterRequest::from(Request::Join { ballot: BALLOT, roster: roster(), has_voted: false });
        let Some(RequestKind::Join(join)) = wire.kind else { panic!("a join") };
        type Change = fn(&mut v1::JoinBallot);
        let changes: [(Change, &str); 8] = [
            (|join| join.ballot = None, "ballot is not given"),
            (|join| join.ballot.as_mut().expect("given").round = 0, "rounds count from 1"),
            (|join| join.ballot.as_mut().expect("given").round = u64::MAX, "nobody counts beyond"),
            (|join| join.ballot.as_mut().expect("given").node = Bytes::from_static(b"short"), "has 5 bytes"),
            (|join| join.roster = None, "roster is not given"),
            (|join| join.roster.as_mut().expect("given").participants.clear(), "at least one"),
            (|join| join.roster.as_mut().expect("given").participants[0].address = "a b".into(), "visible ASCII"),
            (|join| join.roster.as_mut().expect("given").log_store_id = Bytes::new(), "has 0 bytes"),
        ];
        for (change, expected) in changes {
            let mut join = join.clone();
            change(&mut join);
            let error =
                Request::try_from(v1::VoterRequest { kind: Some(RequestKind::Join(join)) }).expect_err(expected);
            assert!(error.problem.contains(expected), "{error}");
        }
        let unknown = v1::VoterAnswer { kind: Some(AnswerKind::Barred("MOON".into())) };
        assert!(Answer::try_from(unknown).expect_err("no bar").problem.contains("MOON"));
    }
}
