//! A client's messages, read and written.

use assent_protocol::branch::{Acknowledgement, HookEnd, Message};
use assent_protocol::saga::{Definition, StepResult};
use assent_protocol::two_phase::{BranchResult, CarriedBranch, EarlyVote, Vote};
use assent_protocol::{Epoch, InstanceId};

use super::shared::{Reading, gtid_bytes, participant_if_given, vote_to_wire};
use super::{
    Ask, BranchReport, Commit, Expected, FromClient, Hello, Malformed, Request, StepAnswer, VoterMessage, VoterPlace,
    VoterReport,
};
use crate::text::one_line;
use crate::v1;
use crate::v1::acknowledge::End;
use crate::v1::branch_report::Kind as ReportKind;
use crate::v1::client_message::Kind;
use crate::v1::request::Ask as AskKind;
use crate::v1::voter_report::Kind as VoterKind;
use crate::voter::{decision_to_wire, number_bytes, place};

impl TryFrom<v1::ClientMessage> for FromClient {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`], with the first thing that is wrong.
    fn try_from(message: v1::ClientMessage) -> Result<Self, Malformed> {
        match message.kind {
            Some(Kind::Hello(hello)) => read_hello(hello),
            Some(Kind::Heartbeat(v1::Heartbeat {})) => Ok(Self::Heartbeat),
            Some(Kind::Request(request)) => read_request(request),
            Some(Kind::Branch(report)) => read_report(report),
            Some(Kind::Step(answer)) => read_step_answer(answer),
            Some(Kind::Voter(report)) => read_voter_report(report),
            None => Err(Reading::message("ClientMessage").empty()),
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
    let newest = hello.protocol_version;
    let oldest = if hello.protocol_version_min == 0 { newest } else { hello.protocol_version_min };
    if oldest > newest {
        return Err(reading.malformed(format!(
            "protocol_version_min is {oldest} and protocol_version {newest}: the oldest version that the client \
             speaks is not newer than its newest"
        )));
    }
    Ok(FromClient::Hello(Hello {
        participant,
        instance: InstanceId(hello.instance_id),
        protocol_versions: oldest..=newest,
        token: hello.token,
        one_phase: hello.one_phase,
        sdk: one_line(hello.sdk),
        voter,
    }))
}

fn read_request(request: v1::Request) -> Result<FromClient, Malformed> {
    let v1::Request { request_id, gtid, ask } = request;
    let reading = |message| Reading::request(message, request_id);
    let gtid = reading("Request").gtid(&gtid)?;
    let ask = match ask {
        Some(AskKind::Begin(begin)) => read_begin(reading("Begin"), begin)?,
        Some(AskKind::Commit(commit)) => read_commit(reading("Commit"), commit)?,
        Some(AskKind::Abort(v1::Abort { reason })) => Ask::Abort { reason: one_line(reason) },
        Some(AskKind::StartSaga(start)) => read_start_saga(reading("StartSaga"), start)?,
        Some(AskKind::Await(v1::Await { wait })) => Ask::Await { wait: reading("Await").wait(wait)? },
        Some(AskKind::Enlist(enlist)) => read_enlist(reading("Enlist"), enlist)?,
        None => return Err(reading("Request").empty()),
    };
    Ok(FromClient::request(request_id, gtid, ask))
}

fn read_begin(reading: Reading, begin: v1::Begin) -> Result<Ask, Malformed> {
    let v1::Begin { timeout_ms, protocol, first_epoch } = begin;
    let protocol = reading.commit_protocol(protocol)?;
    Ok(Ask::Begin { timeout_ms, protocol, first_epoch: epoch_if_given(first_epoch) })
}

fn read_commit(reading: Reading, commit: v1::Commit) -> Result<Ask, Malformed> {
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
    let expected = commit.expected_participants.iter();
    let expected = expected.map(|name| reading.name("expected_participants", name));
    let expected = match expected.collect::<Result<Vec<_>, Malformed>>()? {
        none if none.is_empty() && commit.expects_branch => Expected::Branch,
        none if none.is_empty() => Expected::Anything,
        participants => Expected::Of(participants),
    };
    let (begun, timeout_ms, first_epoch) = (commit.begun, commit.timeout_ms, epoch_if_given(commit.first_epoch));
    Ok(Ask::Commit(Commit { branches, attempt, begun, timeout_ms, wait, protocol, first_epoch, expected }))
}

fn epoch_if_given(epoch: u64) -> Option<Epoch> {
    (epoch != 0).then_some(Epoch(epoch))
}

fn read_start_saga(reading: Reading, start: v1::StartSaga) -> Result<Ask, Malformed> {
    let attempt = reading.attempt(start.attempt)?;
    let wait = reading.wait(start.wait)?;
    let definition = start.definition.ok_or_else(|| reading.malformed("definition is not given"))?;
    let definition = Definition::try_from(definition).map_err(|nested| reading.malformed(nested.problem))?;
    Ok(Ask::StartSaga { definition, wait, attempt })
}

fn read_enlist(reading: Reading, enlist: v1::Enlist) -> Result<Ask, Malformed> {
    let branch = reading.branch(enlist.branch)?;
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
    Ok(Ask::Enlist { branch, vote })
}

fn read_report(report: v1::BranchReport) -> Result<FromClient, Malformed> {
    let reading = Reading::message("BranchReport");
    let (gtid, branch) = (reading.gtid(&report.gtid)?, reading.branch(report.branch)?);
    let message = match report.kind {
        Some(ReportKind::Vote(vote)) => Message::Vote(read_vote(vote)?),
        Some(ReportKind::Acknowledge(acknowledge)) => Message::Acknowledge(read_acknowledge(acknowledge)?),
        Some(ReportKind::Inquire(v1::Inquire {})) => Message::Inquire,
        None => return Err(reading.empty()),
    };
    Ok(FromClient::branch(gtid, branch, message))
}

fn read_vote(vote: v1::Vote) -> Result<Vote, Malformed> {
    let reading = Reading::message("Vote");
    match v1::VoteKind::try_from(vote.vote) {
        Ok(v1::VoteKind::Yes) => Ok(Vote::Yes),
        Ok(v1::VoteKind::ReadOnly) => Ok(Vote::ReadOnly),
        Ok(v1::VoteKind::No) => Ok(Vote::No(one_line(vote.reason))),
        Ok(v1::VoteKind::Unknown) => Ok(Vote::Unknown(one_line(vote.reason))),
        Ok(v1::VoteKind::Committed) => Ok(Vote::Committed),
        Ok(v1::VoteKind::Unspecified) => Err(reading.malformed("vote is not given")),
        Err(_) => Err(reading.unknown_number("vote", vote.vote)),
    }
}

fn read_acknowledge(acknowledge: v1::Acknowledge) -> Result<Acknowledgement, Malformed> {
    let reading = Reading::message("Acknowledge");
    let decision = reading.decision(acknowledge.decision)?;
    let epoch = Epoch(acknowledge.epoch);
    let end = match acknowledge.end {
        Some(End::Result(number)) => HookEnd::Ended(match v1::BranchResult::try_from(number) {
            Ok(v1::BranchResult::Done) => BranchResult::Done,
            Ok(v1::BranchResult::HeuristicCommitted) => BranchResult::HeuristicCommitted,
            Ok(v1::BranchResult::HeuristicAborted) => BranchResult::HeuristicAborted,
            Ok(v1::BranchResult::Unspecified) => return Err(reading.malformed("result is not given")),
            Err(_) => return Err(reading.unknown_number("result", number)),
        }),
        Some(End::Failure(error)) => HookEnd::Failed(one_line(error)),
        None => return Err(reading.malformed("end is not given: set exactly one of result, failure")),
    };
    Ok(Acknowledgement { decision, epoch, end })
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

fn read_voter_report(report: v1::VoterReport) -> Result<FromClient, Malformed> {
    let reading = Reading::message("VoterReport");
    let gtid = reading.gtid(&report.gtid)?;
    let message = match report.kind {
        Some(VoterKind::Answered(answer)) => VoterMessage::Answered(answer.try_into()?),
        Some(VoterKind::AskLog(ask)) => {
            let reading = Reading::message("AskLog");
            let branch = reading.branch(ask.branch)?;
            let request = ask.request.ok_or_else(|| reading.malformed("request is not given"))?.try_into()?;
            VoterMessage::AskLog { branch, request }
        }
        None => return Err(reading.empty()),
    };
    Ok(FromClient::voter(gtid, message))
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
            FromClient::Request(request) => Self::Request(request.into()),
            FromClient::Branch(report) => Self::Branch(report.into()),
            FromClient::Step(answer) => Self::Step(answer.into()),
            FromClient::Voter(report) => Self::Voter(report.into()),
        }
    }
}

impl From<Request> for v1::Request {
    fn from(Request { request_id, gtid, ask }: Request) -> Self {
        Self { request_id, gtid: gtid_bytes(gtid), ask: Some(ask.into()) }
    }
}

impl From<Ask> for AskKind {
    fn from(ask: Ask) -> Self {
        match ask {
            Ask::Begin { timeout_ms, protocol, first_epoch } => {
                let protocol = v1::Protocol::from(protocol).into();
                let first_epoch = first_epoch.map_or(0, |epoch| epoch.0);
                Self::Begin(v1::Begin { timeout_ms, protocol, first_epoch })
            }
            Ask::Commit(commit) => Self::Commit(v1::Commit {
                branches: commit.branches.into_iter().map(v1::CarriedBranch::from).collect(),
                attempt: commit.attempt,
                begun: commit.begun,
                timeout_ms: commit.timeout_ms,
                wait: v1::Wait::from(commit.wait).into(),
                protocol: v1::Protocol::from(commit.protocol).into(),
                first_epoch: commit.first_epoch.map_or(0, |epoch| epoch.0),
                expects_branch: commit.expected == Expected::Branch,
                expected_participants: match commit.expected {
                    Expected::Anything | Expected::Branch => Vec::new(),
                    Expected::Of(participants) => participants.into_iter().map(Into::into).collect(),
                },
            }),
            Ask::Abort { reason } => Self::Abort(v1::Abort { reason }),
            Ask::StartSaga { definition, wait, attempt } => Self::StartSaga(v1::StartSaga {
                definition: Some(definition.into()),
                wait: v1::Wait::from(wait).into(),
                attempt,
            }),
            Ask::Await { wait } => Self::Await(v1::Await { wait: v1::Wait::from(wait).into() }),
            Ask::Enlist { branch, vote } => {
                let vote = match vote {
                    EarlyVote::Yes => v1::VoteKind::Yes,
                    EarlyVote::ReadOnly => v1::VoteKind::ReadOnly,
                };
                Self::Enlist(v1::Enlist { branch: Some(branch.into()), vote: vote.into() })
            }
        }
    }
}

impl From<BranchReport> for v1::BranchReport {
    fn from(BranchReport { gtid, branch, message }: BranchReport) -> Self {
        Self { gtid: gtid_bytes(gtid), branch: Some(branch.into()), kind: Some(message.into()) }
    }
}

impl From<Message> for ReportKind {
    fn from(message: Message) -> Self {
        match message {
            Message::Vote(vote) => {
                let (vote, reason) = vote_to_wire(vote);
                Self::Vote(v1::Vote { vote: vote.into(), reason })
            }
            Message::Acknowledge(Acknowledgement { decision, epoch, end }) => {
                let end = match end {
                    HookEnd::Ended(result) => End::Result(v1::BranchResult::from(result).into()),
                    HookEnd::Failed(error) => End::Failure(error),
                };
                Self::Acknowledge(v1::Acknowledge {
                    decision: decision_to_wire(decision),
                    epoch: epoch.0,
                    end: Some(end),
                })
            }
            Message::Inquire => Self::Inquire(v1::Inquire {}),
        }
    }
}

impl From<VoterReport> for v1::VoterReport {
    fn from(VoterReport { gtid, message }: VoterReport) -> Self {
        let kind = match message {
            VoterMessage::Answered(answer) => VoterKind::Answered(answer.into()),
            VoterMessage::AskLog { branch, request } => {
                VoterKind::AskLog(v1::AskLog { branch: Some(branch.into()), request: Some(request.into()) })
            }
        };
        Self { gtid: gtid_bytes(gtid), kind: Some(kind) }
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
            protocol_version: *hello.protocol_versions.end(),
            protocol_version_min: *hello.protocol_versions.start(),
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
