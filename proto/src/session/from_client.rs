//! A client's messages, read and written.

use assent_protocol::branch::Message;
use assent_protocol::saga::{Definition, StepResult};
use assent_protocol::two_phase::{BranchResult, CarriedBranch, EarlyVote, Vote};
use assent_protocol::{Epoch, InstanceId};

use super::shared::{Reading, gtid_bytes, participant_if_given, vote_to_wire};
use super::{
    Ask, BranchReport, Commit, FromClient, Hello, Malformed, Request, StepAnswer, VoterMessage, VoterPlace, VoterReport,
};
use crate::text::one_line;
use crate::v1;
use crate::v1::client_message::Kind;
use crate::voter::{number_bytes, place};

impl TryFrom<v1::ClientMessage> for FromClient {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`], with the first thing that is wrong.
    fn try_from(message: v1::ClientMessage) -> Result<Self, Malformed> {
        match message.kind {
            Some(Kind::Hello(hello)) => read_hello(hello),
            Some(Kind::Heartbeat(v1::Heartbeat {})) => Ok(Self::Heartbeat),
            Some(Kind::Begin(begin)) => read_begin(&begin),
            Some(Kind::Commit(commit)) => read_commit(commit),
            Some(Kind::Abort(abort)) => read_abort(abort),
            Some(Kind::StartSaga(start)) => read_start_saga(start),
            Some(Kind::Await(request)) => read_await(&request),
            Some(Kind::Enlist(enlist)) => read_enlist(&enlist),
            Some(Kind::Vote(vote)) => read_vote(vote),
            Some(Kind::Acknowledge(acknowledge)) => read_acknowledge(&acknowledge),
            Some(Kind::Inquire(inquire)) => {
                let gtid = Reading::message("Inquire").gtid(&inquire.gtid)?;
                Ok(Self::branch(gtid, Message::Inquire))
            }
            Some(Kind::StepAnswer(answer)) => read_step_answer(answer),
            Some(Kind::VoterAnswered(answered)) => {
                let reading = Reading::message("VoterAnswered");
                let answer = answered.answer.ok_or_else(|| reading.malformed("answer is not given"))?;
                Ok(Self::voter(reading.gtid(&answered.gtid)?, VoterMessage::Answered(answer.try_into()?)))
            }
            Some(Kind::AskLog(ask)) => {
                let reading = Reading::message("AskLog");
                let request = ask.request.ok_or_else(|| reading.malformed("request is not given"))?;
                Ok(Self::voter(reading.gtid(&ask.gtid)?, VoterMessage::AskLog(request.try_into()?)))
            }
            None => Err(Reading::message("ClientMessage")
                .malformed("it is empty, or of a kind that this version does not know: set exactly one")),
        }
    }
}

fn read_hello(hello: v1::Hello) -> Result<FromClient, Malformed> {
    let reading = Reading::message("Hello");
    let participant = participant_if_given(reading, &hello.participant)?;
    // A forgotten instance would be shared by all processes of the participant: votes and departures of one would be
    // taken for those of another.
    if participant.is_some() && hello.instance_id == 0 {
        return Err(reading.malformed("instance_id is 0: draw one at random at each start of the process"));
    }
    let voter = match hello.voter {
        Some(_) if participant.is_none() => {
            return Err(reading.malformed("a voter without a participant: say whose voter it is"));
        }
        Some(v1::VoterPlace { address, store_id }) => {
            let (address, store) = place("Hello", &address, &store_id)?;
            Some(VoterPlace { address, store })
        }
        None => None,
    };
    Ok(FromClient::Hello(Hello {
        participant,
        instance: InstanceId(hello.instance_id),
        protocol_version: hello.protocol_version,
        token: hello.token,
        one_phase: hello.one_phase,
        sdk: one_line(hello.sdk),
        voter,
    }))
}

fn read_begin(begin: &v1::Begin) -> Result<FromClient, Malformed> {
    let v1::Begin { request_id, gtid, timeout_ms, protocol, first_epoch } = begin;
    let reading = Reading::request("Begin", *request_id);
    let (gtid, protocol) = (reading.gtid(gtid)?, reading.commit_protocol(*protocol)?);
    Ok(FromClient::request(
        *request_id,
        gtid,
        Ask::Begin { timeout_ms: *timeout_ms, protocol, first_epoch: epoch_if_given(*first_epoch) },
    ))
}

fn read_commit(commit: v1::Commit) -> Result<FromClient, Malformed> {
    let reading = Reading::request("Commit", commit.request_id);
    let gtid = reading.gtid(&commit.gtid)?;
    let attempt = reading.attempt(commit.attempt)?;
    let wait = reading.wait(commit.wait)?;
    let protocol = reading.commit_protocol(commit.protocol)?;
    let branches = commit
        .branches
        .into_iter()
        .map(|branch| {
            let participant = reading.name("participant", &branch.participant)?;
            Ok(CarriedBranch { participant, payload: branch.payload })
        })
        .collect::<Result<_, Malformed>>()?;
    let (begun, timeout_ms, first_epoch) = (commit.begun, commit.timeout_ms, epoch_if_given(commit.first_epoch));
    let ask = Ask::Commit(Commit { branches, attempt, begun, timeout_ms, wait, protocol, first_epoch });
    Ok(FromClient::request(commit.request_id, gtid, ask))
}

fn epoch_if_given(epoch: u64) -> Option<Epoch> {
    (epoch != 0).then_some(Epoch(epoch))
}

fn read_abort(abort: v1::Abort) -> Result<FromClient, Malformed> {
    let gtid = Reading::request("Abort", abort.request_id).gtid(&abort.gtid)?;
    Ok(FromClient::request(abort.request_id, gtid, Ask::Abort { reason: one_line(abort.reason) }))
}

fn read_start_saga(start: v1::StartSaga) -> Result<FromClient, Malformed> {
    let reading = Reading::request("StartSaga", start.request_id);
    let gtid = reading.gtid(&start.gtid)?;
    let attempt = reading.attempt(start.attempt)?;
    let wait = reading.wait(start.wait)?;
    let definition = start.definition.ok_or_else(|| reading.malformed("definition is not given"))?;
    let definition = Definition::try_from(definition).map_err(|nested| reading.malformed(nested.problem))?;
    Ok(FromClient::request(start.request_id, gtid, Ask::StartSaga { definition, wait, attempt }))
}

fn read_await(request: &v1::Await) -> Result<FromClient, Malformed> {
    let v1::Await { request_id, gtid, wait } = request;
    let reading = Reading::request("Await", *request_id);
    Ok(FromClient::request(*request_id, reading.gtid(gtid)?, Ask::Await { wait: reading.wait(*wait)? }))
}

fn read_enlist(enlist: &v1::Enlist) -> Result<FromClient, Malformed> {
    let reading = Reading::request("Enlist", enlist.request_id);
    let gtid = reading.gtid(&enlist.gtid)?;
    let vote = match v1::VoteKind::try_from(enlist.vote) {
        Ok(v1::VoteKind::Yes) => EarlyVote::Yes,
        Ok(v1::VoteKind::ReadOnly) => EarlyVote::ReadOnly,
        Ok(
            other @ (v1::VoteKind::Unspecified | v1::VoteKind::No | v1::VoteKind::Unknown | v1::VoteKind::Committed),
        ) => {
            return Err(reading.malformed(format!(
                "vote is {}, but only a branch that is prepared or read-only enlists: {} or {}",
                other.as_str_name(),
                v1::VoteKind::Yes.as_str_name(),
                v1::VoteKind::ReadOnly.as_str_name(),
            )));
        }
        Err(_) => return Err(reading.unknown_number("vote", enlist.vote)),
    };
    Ok(FromClient::request(enlist.request_id, gtid, Ask::Enlist { vote }))
}

fn read_vote(vote: v1::Vote) -> Result<FromClient, Malformed> {
    let reading = Reading::message("Vote");
    let gtid = reading.gtid(&vote.gtid)?;
    let vote = match v1::VoteKind::try_from(vote.vote) {
        Ok(v1::VoteKind::Yes) => Vote::Yes,
        Ok(v1::VoteKind::ReadOnly) => Vote::ReadOnly,
        Ok(v1::VoteKind::No) => Vote::No(one_line(vote.reason)),
        Ok(v1::VoteKind::Unknown) => Vote::Unknown(one_line(vote.reason)),
        Ok(v1::VoteKind::Committed) => Vote::Committed,
        Ok(v1::VoteKind::Unspecified) => return Err(reading.malformed("vote is not given")),
        Err(_) => return Err(reading.unknown_number("vote", vote.vote)),
    };
    Ok(FromClient::branch(gtid, Message::Vote(vote)))
}

fn read_acknowledge(acknowledge: &v1::Acknowledge) -> Result<FromClient, Malformed> {
    let reading = Reading::message("Acknowledge");
    let gtid = reading.gtid(&acknowledge.gtid)?;
    let result = match v1::BranchResult::try_from(acknowledge.result) {
        Ok(v1::BranchResult::Done) => BranchResult::Done,
        Ok(v1::BranchResult::HeuristicCommitted) => BranchResult::HeuristicCommitted,
        Ok(v1::BranchResult::HeuristicAborted) => BranchResult::HeuristicAborted,
        Ok(v1::BranchResult::Unspecified) => return Err(reading.malformed("result is not given")),
        Err(_) => return Err(reading.unknown_number("result", acknowledge.result)),
    };
    Ok(FromClient::branch(gtid, Message::Acknowledge(result)))
}

fn read_step_answer(answer: v1::StepAnswer) -> Result<FromClient, Malformed> {
    use v1::step_answer::Result as Answer;

    let reading = Reading::message("StepAnswer");
    let gtid = reading.gtid(&answer.gtid)?;
    let epoch = reading.epoch(answer.epoch)?;
    let step = reading.step(answer.step)?;
    let attempt = reading.attempt(answer.attempt)?;
    let result = match answer.result {
        Some(Answer::Done(output)) => StepResult::Done(output),
        Some(Answer::Refused(reason)) => StepResult::Refused(one_line(reason)),
        Some(Answer::Unknown(reason)) => StepResult::Unknown(one_line(reason)),
        None => return Err(reading.malformed("result is not given: set exactly one of done, refused, unknown")),
    };
    let (compensation, is_final) = (answer.compensation, answer.is_final);
    if is_final && !matches!(result, StepResult::Refused(_)) {
        return Err(reading.malformed("is_final is set, and the result is not refused"));
    }
    Ok(FromClient::Step(StepAnswer { gtid, epoch, step, compensation, attempt, result, is_final }))
}

impl From<FromClient> for v1::ClientMessage {
    fn from(message: FromClient) -> Self {
        Self { kind: Some(message.into()) }
    }
}

impl From<FromClient> for Kind {
    fn from(message: FromClient) -> Self {
        match message {
            FromClient::Hello(hello) => Self::Hello(hello.into()),
            FromClient::Heartbeat => Self::Heartbeat(v1::Heartbeat {}),
            FromClient::Request(request) => request.into(),
            FromClient::Branch(report) => report.into(),
            FromClient::Step(answer) => Self::StepAnswer(answer.into()),
            FromClient::Voter(VoterReport { gtid, message: VoterMessage::Answered(answer) }) => {
                Self::VoterAnswered(v1::VoterAnswered { gtid: gtid_bytes(gtid), answer: Some(answer.into()) })
            }
            FromClient::Voter(VoterReport { gtid, message: VoterMessage::AskLog(request) }) => {
                Self::AskLog(v1::AskLog { gtid: gtid_bytes(gtid), request: Some(request.into()) })
            }
        }
    }
}

impl From<Request> for Kind {
    fn from(Request { request_id, gtid, ask }: Request) -> Self {
        let gtid = gtid_bytes(gtid);
        match ask {
            Ask::Begin { timeout_ms, protocol, first_epoch } => {
                let protocol = v1::Protocol::from(protocol).into();
                let first_epoch = first_epoch.map_or(0, |epoch| epoch.0);
                Self::Begin(v1::Begin { request_id, gtid, timeout_ms, protocol, first_epoch })
            }
            Ask::Commit(commit) => Self::Commit(v1::Commit {
                request_id,
                gtid,
                branches: commit.branches.into_iter().map(v1::CarriedBranch::from).collect(),
                attempt: commit.attempt,
                begun: commit.begun,
                timeout_ms: commit.timeout_ms,
                wait: v1::Wait::from(commit.wait).into(),
                protocol: v1::Protocol::from(commit.protocol).into(),
                first_epoch: commit.first_epoch.map_or(0, |epoch| epoch.0),
            }),
            Ask::Abort { reason } => Self::Abort(v1::Abort { request_id, gtid, reason }),
            Ask::StartSaga { definition, wait, attempt } => Self::StartSaga(v1::StartSaga {
                request_id,
                gtid,
                definition: Some(definition.into()),
                wait: v1::Wait::from(wait).into(),
                attempt,
            }),
            Ask::Await { wait } => Self::Await(v1::Await { request_id, gtid, wait: v1::Wait::from(wait).into() }),
            Ask::Enlist { vote } => {
                let vote = match vote {
                    EarlyVote::Yes => v1::VoteKind::Yes,
                    EarlyVote::ReadOnly => v1::VoteKind::ReadOnly,
                };
                Self::Enlist(v1::Enlist { request_id, gtid, vote: vote.into() })
            }
        }
    }
}

impl From<BranchReport> for Kind {
    fn from(BranchReport { gtid, message }: BranchReport) -> Self {
        let gtid = gtid_bytes(gtid);
        match message {
            Message::Vote(vote) => {
                let (vote, reason) = vote_to_wire(vote);
                Self::Vote(v1::Vote { gtid, vote: vote.into(), reason })
            }
            Message::Acknowledge(result) => {
                Self::Acknowledge(v1::Acknowledge { gtid, result: v1::BranchResult::from(result).into() })
            }
            Message::Inquire => Self::Inquire(v1::Inquire { gtid }),
        }
    }
}

impl From<StepAnswer> for v1::StepAnswer {
    fn from(StepAnswer { gtid, epoch, step, compensation, attempt, result, is_final }: StepAnswer) -> Self {
        Self {
            gtid: gtid_bytes(gtid),
            epoch: epoch.0,
            step: step.0.into(),
            compensation,
            attempt,
            result: Some(result.into()),
            is_final,
        }
    }
}

impl From<CarriedBranch> for v1::CarriedBranch {
    fn from(branch: CarriedBranch) -> Self {
        Self { participant: branch.participant.into(), payload: branch.payload }
    }
}

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            participant: hello.participant.map(String::from).unwrap_or_default(),
            instance_id: hello.instance.0,
            protocol_version: hello.protocol_version,
            token: hello.token,
            one_phase: hello.one_phase,
            sdk: hello.sdk,
            voter: hello
                .voter
                .map(|voter| v1::VoterPlace { address: voter.address.into(), store_id: number_bytes(voter.store.0) }),
        }
    }
}

impl From<StepResult> for v1::step_answer::Result {
    fn from(result: StepResult) -> Self {
        match result {
            StepResult::Done(output) => Self::Done(output),
            StepResult::Refused(reason) => Self::Refused(reason),
            StepResult::Unknown(reason) => Self::Unknown(reason),
        }
    }
}
