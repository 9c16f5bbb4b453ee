//! A replica's messages, read and written.

use assent_protocol::{BranchId, Epoch, Gtid};

use super::shared::{Reading, gtid_bytes, outputs_to_wire};
use super::{Code, FORGOTTEN_MAX, FromReplica, Malformed, Refused, Reply, StepOrder, Welcome, roster};
use crate::v1;
use crate::v1::branch_order::Kind as OrderKind;
use crate::v1::server_message::Kind;

impl TryFrom<v1::ServerMessage> for FromReplica {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed`], with the first thing that is wrong. Its `request_id` names the request that a malformed reply would
    /// have answered.
    fn try_from(message: v1::ServerMessage) -> Result<Self, Malformed> {
        match message.kind {
            Some(Kind::Welcome(welcome)) => read_welcome(welcome),
            Some(Kind::Heartbeat(v1::Heartbeat {})) => Ok(Self::Heartbeat),
            Some(Kind::Reply(reply)) => read_reply(reply),
            Some(Kind::Branch(order)) => read_order(order),
            Some(Kind::ExecuteStep(execute)) => read_execute_step(execute),
            Some(Kind::CompensateStep(compensate)) => read_compensate_step(compensate),
            Some(Kind::GoAway(away)) => Ok(Self::GoAway { reason: away.reason }),
            Some(Kind::AskVoter(ask)) => {
                let reading = Reading::message("AskVoter");
                let request = ask.request.ok_or_else(|| reading.malformed("request is not given"))?;
                Ok(Self::AskVoter { gtid: reading.gtid(&ask.gtid)?, request: request.try_into()? })
            }
            Some(Kind::LogAnswered(answered)) => {
                let reading = Reading::message("LogAnswered");
                let answer = answered.answer.ok_or_else(|| reading.malformed("answer is not given"))?;
                Ok(Self::LogAnswered { gtid: reading.gtid(&answered.gtid)?, answer: answer.try_into()? })
            }
            Some(Kind::AwaitDecision(wait)) => {
                Ok(Self::AwaitDecision { gtid: Reading::message("AwaitDecision").gtid(&wait.gtid)? })
            }
            Some(Kind::ForgetVoters(forget)) => {
                let reading = Reading::message("ForgetVoters");
                if forget.gtids.len() > FORGOTTEN_MAX {
                    return Err(reading.malformed(format!(
                        "it names {} transactions, and {FORGOTTEN_MAX} may be",
                        forget.gtids.len()
                    )));
                }
                let gtids = forget.gtids.iter().map(|gtid| reading.gtid(gtid)).collect::<Result<_, _>>()?;
                Ok(Self::ForgetVoters { gtids })
            }
            None => Err(Reading::message("ServerMessage").empty()),
        }
    }
}

fn read_order(order: v1::BranchOrder) -> Result<FromReplica, Malformed> {
    let reading = Reading::message("BranchOrder");
    let gtid = reading.gtid(&order.gtid)?;
    let branch = reading.branch(order.branch)?;
    let epoch = reading.epoch(order.epoch)?;
    Ok(match order.kind {
        Some(OrderKind::Prepare(prepare)) => FromReplica::Prepare {
            gtid,
            branch,
            epoch,
            payload: prepare.payload,
            timeout_ms: prepare.timeout_ms,
            one_phase: prepare.one_phase,
            roster: roster::decoded(prepare.roster, prepare.roster_branches)?,
            is_prepared: prepare.is_prepared,
        },
        Some(OrderKind::Commit(v1::CommitBranch {})) => FromReplica::CommitBranch { gtid, branch, epoch },
        Some(OrderKind::Abort(v1::AbortBranch {})) => FromReplica::AbortBranch { gtid, branch, epoch },
        None => return Err(reading.empty()),
    })
}

fn read_welcome(welcome: v1::Welcome) -> Result<FromReplica, Malformed> {
    let reading = Reading::message("Welcome");
    if welcome.protocol_version == 0 {
        return Err(reading.malformed("protocol_version is not given: it is the version that this session uses"));
    }
    Ok(FromReplica::Welcome(Welcome {
        replica: welcome.replica,
        epoch: reading.epoch(welcome.epoch)?,
        protocol_version: welcome.protocol_version,
        peers: welcome.peers,
        heartbeat_interval_ms: welcome.heartbeat_interval_ms,
        silence_max_ms: welcome.silence_max_ms,
        payload_bytes_max: welcome.payload_bytes_max,
        branches_max: welcome.branches_max,
        coordinator_id: welcome.coordinator_id,
    }))
}

fn read_reply(reply: v1::Reply) -> Result<FromReplica, Malformed> {
    use v1::reply::Kind as Answer;

    let reading = Reading::request("Reply", reply.request_id);
    let answer = match reply.kind {
        Some(Answer::Begun(begun)) => Reply::Begun { deadline_unix_ms: begun.deadline_unix_ms },
        Some(Answer::Enlisted(v1::Enlisted {})) => Reply::Enlisted,
        Some(Answer::SagaStarted(v1::SagaStarted {})) => Reply::SagaStarted,
        Some(Answer::SagaTurned(v1::SagaTurned { reason })) => Reply::SagaTurned { reason },
        Some(Answer::Outcome(reached)) => Reply::Outcome {
            outcome: reading.outcome(reached.outcome)?,
            reason: reading.reason(reached.reason)?,
            outputs: reading.outputs(reached.outputs)?,
        },
        Some(Answer::Refused(refused)) => Reply::Refused(read_refused(reading, refused)?),
        None => return Err(reading.empty()),
    };
    Ok(FromReplica::Reply { request_id: reply.request_id, reply: answer })
}

fn read_refused(reading: Reading, refused: v1::Refused) -> Result<Refused, Malformed> {
    let Some(code) = Code::from_number(refused.code) else {
        return Err(reading.malformed(format!("code is {}: the gRPC codes of an error are 1 to 16", refused.code)));
    };
    Ok(Refused {
        code,
        reason: refused.reason,
        message: refused.message,
        retry_after_ms: (refused.retry_after_ms != 0).then_some(refused.retry_after_ms),
    })
}

fn read_execute_step(execute: v1::ExecuteStep) -> Result<FromReplica, Malformed> {
    let reading = Reading::message("ExecuteStep");
    Ok(FromReplica::ExecuteStep {
        order: StepOrder {
            gtid: reading.gtid(&execute.gtid)?,
            epoch: reading.epoch(execute.epoch)?,
            step: reading.step(execute.step)?,
            name: reading.name("name", &execute.name)?,
            attempt: reading.attempt(execute.attempt)?,
            input: execute.input,
            timeout_ms: execute.timeout_ms,
        },
        outputs: reading.outputs(execute.outputs)?,
        pivot: execute.pivot,
    })
}

fn read_compensate_step(compensate: v1::CompensateStep) -> Result<FromReplica, Malformed> {
    let reading = Reading::message("CompensateStep");
    Ok(FromReplica::CompensateStep {
        order: StepOrder {
            gtid: reading.gtid(&compensate.gtid)?,
            epoch: reading.epoch(compensate.epoch)?,
            step: reading.step(compensate.step)?,
            name: reading.name("name", &compensate.name)?,
            attempt: reading.attempt(compensate.attempt)?,
            input: compensate.input,
            timeout_ms: compensate.timeout_ms,
        },
        output: compensate.output,
    })
}

impl From<FromReplica> for v1::ServerMessage {
    fn from(message: FromReplica) -> Self {
        Self { kind: Some(message.into()) }
    }
}

impl From<FromReplica> for Kind {
    fn from(message: FromReplica) -> Self {
        match message {
            FromReplica::Welcome(welcome) => Self::Welcome(welcome.into()),
            FromReplica::Heartbeat => Self::Heartbeat(v1::Heartbeat {}),
            FromReplica::Reply { request_id, reply } => Self::Reply(v1::Reply { request_id, kind: Some(reply.into()) }),
            FromReplica::Prepare { gtid, branch, epoch, payload, timeout_ms, one_phase, roster, is_prepared } => {
                let (roster, roster_branches) = roster.map(roster::encoded).unwrap_or_default();
                let prepare = v1::Prepare { payload, timeout_ms, one_phase, roster, is_prepared, roster_branches };
                order_to_wire(gtid, branch, epoch, OrderKind::Prepare(prepare))
            }
            FromReplica::CommitBranch { gtid, branch, epoch } => {
                order_to_wire(gtid, branch, epoch, OrderKind::Commit(v1::CommitBranch {}))
            }
            FromReplica::AbortBranch { gtid, branch, epoch } => {
                order_to_wire(gtid, branch, epoch, OrderKind::Abort(v1::AbortBranch {}))
            }
            FromReplica::ExecuteStep { order, outputs, pivot } => Self::ExecuteStep(v1::ExecuteStep {
                gtid: gtid_bytes(order.gtid),
                epoch: order.epoch.0,
                step: order.step.0.into(),
                name: order.name.into(),
                attempt: order.attempt,
                input: order.input,
                outputs: outputs_to_wire(outputs),
                timeout_ms: order.timeout_ms,
                pivot,
            }),
            FromReplica::CompensateStep { order, output } => Self::CompensateStep(v1::CompensateStep {
                gtid: gtid_bytes(order.gtid),
                epoch: order.epoch.0,
                step: order.step.0.into(),
                name: order.name.into(),
                attempt: order.attempt,
                input: order.input,
                output,
                timeout_ms: order.timeout_ms,
            }),
            FromReplica::GoAway { reason } => Self::GoAway(v1::GoAway { reason }),
            FromReplica::AskVoter { gtid, request } => {
                Self::AskVoter(v1::AskVoter { gtid: gtid_bytes(gtid), request: Some(request.into()) })
            }
            FromReplica::LogAnswered { gtid, answer } => {
                Self::LogAnswered(v1::LogAnswered { gtid: gtid_bytes(gtid), answer: Some(answer.into()) })
            }
            FromReplica::AwaitDecision { gtid } => Self::AwaitDecision(v1::AwaitDecision { gtid: gtid_bytes(gtid) }),
            FromReplica::ForgetVoters { gtids } => {
                Self::ForgetVoters(v1::ForgetVoters { gtids: gtids.into_iter().map(gtid_bytes).collect() })
            }
        }
    }
}

fn order_to_wire(gtid: Gtid, branch: BranchId, epoch: Epoch, kind: OrderKind) -> Kind {
    Kind::Branch(v1::BranchOrder {
        gtid: gtid_bytes(gtid),
        branch: Some(branch.into()),
        epoch: epoch.0,
        kind: Some(kind),
    })
}

impl From<Welcome> for v1::Welcome {
    fn from(welcome: Welcome) -> Self {
        Self {
            replica: welcome.replica,
            epoch: welcome.epoch.0,
            protocol_version: welcome.protocol_version,
            peers: welcome.peers,
            heartbeat_interval_ms: welcome.heartbeat_interval_ms,
            silence_max_ms: welcome.silence_max_ms,
            payload_bytes_max: welcome.payload_bytes_max,
            branches_max: welcome.branches_max,
            coordinator_id: welcome.coordinator_id,
        }
    }
}

impl From<Reply> for v1::reply::Kind {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Begun { deadline_unix_ms } => Self::Begun(v1::Begun { deadline_unix_ms }),
            Reply::Enlisted => Self::Enlisted(v1::Enlisted {}),
            Reply::SagaStarted => Self::SagaStarted(v1::SagaStarted {}),
            Reply::SagaTurned { reason } => Self::SagaTurned(v1::SagaTurned { reason }),
            Reply::Outcome { outcome, reason, outputs } => Self::Outcome(v1::OutcomeReached {
                outcome: v1::Outcome::from(outcome).into(),
                reason: reason.map(Into::into),
                outputs: outputs_to_wire(outputs),
            }),
            Reply::Refused(refused) => Self::Refused(refused.into()),
        }
    }
}

impl From<Refused> for v1::Refused {
    fn from(refused: Refused) -> Self {
        Self {
            code: refused.code.number(),
            reason: refused.reason,
            message: refused.message,
            retry_after_ms: refused.retry_after_ms.unwrap_or_default(),
        }
    }
}
