//! Every message that can be meant.

use std::ops::RangeInclusive;

use assent_protocol::branch::{Acknowledgement, HookEnd};
use assent_protocol::saga::StepDefinition;
use assent_protocol::three_phase::{self, Ballot, NodeId, Proposal, Seat, Standing};
use assent_protocol::{AbortCode, Decision, RetryPolicy};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn any_gtid() -> impl Strategy<Value = Gtid> {
    any::<[u8; 16]>().prop_map(|mut bytes| {
        bytes[6] = (bytes[6] & 0x0f) | 0x70;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Gtid::from_bytes(&bytes).expect("a UUID of version 7")
    })
}

fn any_name() -> impl Strategy<Value = Name> {
    "[a-z0-9][a-z0-9_.-]{0,62}".prop_map(|text| Name::new(&text).expect("a name"))
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

/// Text without control characters, which do not survive by design.
fn any_text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn any_epoch() -> impl Strategy<Value = Epoch> {
    (1..=u64::MAX).prop_map(Epoch)
}

/// Of the epoch 0, too: it was prepared before branches had an id, or its participant knew no epoch.
fn any_branch() -> impl Strategy<Value = BranchId> {
    prop_oneof![
        1 => Just(BranchId::NONE),
        9 => any::<[u64; 2]>().prop_map(|[epoch, number]| BranchId { epoch: Epoch(epoch), number }),
    ]
}

fn any_first_epoch() -> impl Strategy<Value = Option<Epoch>> {
    option::of(any_epoch())
}

fn any_attempt() -> impl Strategy<Value = u32> {
    1..=u32::MAX
}

fn any_step() -> impl Strategy<Value = StepIndex> {
    (0..1_000_u16).prop_map(StepIndex)
}

fn any_wait() -> impl Strategy<Value = Wait> {
    select(vec![Wait::Decided, Wait::Ended])
}

fn any_outputs() -> impl Strategy<Value = Vec<(Name, Bytes)>> {
    vec((any_name(), any_bytes()), 0..4)
}

fn any_policy() -> impl Strategy<Value = RetryPolicy> {
    let fields = (1..100_000_u64, 0..100_000_u64, 100..1_000_u32, any::<u32>(), 1..100_000_u64, vec(any_text(), 0..3));
    let drawn =
        fields.prop_map(|(initial, more, multiplier_percent, attempts_max, attempt_timeout_ms, non_retryable)| {
            RetryPolicy {
                initial_interval_ms: initial,
                maximum_interval_ms: initial + more,
                multiplier_percent,
                attempts_max,
                attempt_timeout_ms,
                non_retryable,
            }
        });
    prop_oneof![Just(RetryPolicy::default()), drawn]
}

/// A DAG: each step may wait for any of the steps before it, as the bits of `after` say.
pub(super) fn any_definition() -> impl Strategy<Value = Definition> {
    let step = (any_name(), any_bytes(), any::<u8>(), any_policy(), any_policy(), any::<bool>(), any::<bool>());
    vec(step, 1..8).prop_map(|steps| {
        let steps = steps.into_iter().enumerate().map(
            |(position, (participant, input, after, retry, compensation_retry, pivot, durable))| StepDefinition {
                name: Name::new(&format!("step-{position}")).expect("a name"),
                participant,
                input,
                after: (0..8).filter(|bit| *bit < position && after & (1 << bit) != 0).map(index).collect(),
                retry,
                compensation_retry,
                pivot,
                durable,
            },
        );
        Definition::new(steps.collect()).expect("a DAG")
    })
}

fn index(position: usize) -> StepIndex {
    StepIndex(u16::try_from(position).expect("few steps"))
}

fn any_address() -> impl Strategy<Value = PeerAddress> {
    "[!-~]{1,255}".prop_map(|text| PeerAddress::new(&text).expect("visible ASCII"))
}

fn any_roster() -> impl Strategy<Value = Roster> {
    let seat = (any_branch(), any_address(), any::<u128>());
    (vec(seat, 1..5), any::<u128>()).prop_map(|(seats, log)| {
        let seats = seats.into_iter().enumerate().map(|(number, (branch, address, store))| Seat {
            participant: Name::new(&format!("participant-{number}")).expect("a name"),
            branch,
            address,
            store: StoreId(store),
        });
        Roster::new(seats.collect(), StoreId(log)).expect("each once")
    })
}

fn any_ballot() -> impl Strategy<Value = Ballot> {
    (1..=u64::MAX / 2, any::<u128>()).prop_map(|(round, node)| Ballot { round, node: NodeId(node) })
}

fn any_decision() -> impl Strategy<Value = Decision> {
    select(vec![Decision::Commit, Decision::Abort])
}

pub(crate) fn any_request() -> impl Strategy<Value = three_phase::Request> {
    let proposal = select(vec![Proposal::PreCommit, Proposal::PreAbort]);
    prop_oneof![
        (any_ballot(), any_roster(), any::<bool>())
            .prop_map(|(ballot, roster, has_voted)| three_phase::Request::Join { ballot, roster, has_voted }),
        (any_ballot(), proposal).prop_map(|(ballot, proposal)| three_phase::Request::Propose { ballot, proposal }),
        any_decision().prop_map(three_phase::Request::Decided),
    ]
}

pub(crate) fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        any_ballot().prop_map(|ballot| Answer::Accepted { ballot }),
        (any_ballot(), any_ballot()).prop_map(|(ballot, joined)| Answer::Rejected { ballot, joined }),
        any_decision().prop_map(Answer::Ended),
        (any_ballot(), option::of(any_ballot())).prop_map(|(ballot, accepted)| Answer::Joined {
            ballot,
            standing: Standing::Waiting,
            accepted
        }),
    ]
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::TwoPhase, Protocol::ThreePhase])
}

/// The oldest and the newest that a client speaks, or none at all, which is 0.
fn any_versions() -> impl Strategy<Value = RangeInclusive<u32>> {
    let versions = (1..=u32::MAX).prop_flat_map(|newest| (1..=newest).prop_map(move |oldest| oldest..=newest));
    prop_oneof![1 => Just(0..=0), 9 => versions]
}

fn any_hello() -> impl Strategy<Value = Hello> {
    let voter =
        (any_address(), any::<u128>()).prop_map(|(address, store)| VoterPlace { address, store: StoreId(store) });
    let participant = (option::of(any_name()), option::of(voter));
    let fields = (participant, 1..=u64::MAX, any_versions(), any_text(), any::<bool>(), any_text());
    fields.prop_map(|((participant, voter), instance, protocol_versions, token, one_phase, sdk)| Hello {
        voter: voter.filter(|_| participant.is_some()),
        participant,
        instance: InstanceId(instance),
        protocol_versions,
        token,
        one_phase,
        sdk,
    })
}

fn any_ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        (any::<u64>(), any_protocol(), any_first_epoch()).prop_map(|(timeout_ms, protocol, first_epoch)| Ask::Begin {
            timeout_ms,
            protocol,
            first_epoch
        }),
        any_commit().prop_map(Ask::Commit),
        any_text().prop_map(|reason| Ask::Abort { reason }),
        (any_definition(), any_wait(), any_attempt()).prop_map(|(definition, wait, attempt)| Ask::StartSaga {
            definition,
            wait,
            attempt
        }),
        any_wait().prop_map(|wait| Ask::Await { wait }),
        (any_branch(), select(vec![EarlyVote::Yes, EarlyVote::ReadOnly]))
            .prop_map(|(branch, vote)| Ask::Enlist { branch, vote }),
    ]
}

fn any_commit() -> impl Strategy<Value = Commit> {
    let branch = (any_name(), any_bytes()).prop_map(|(participant, payload)| CarriedBranch { participant, payload });
    let branches = (vec(branch, 0..4), any_protocol());
    let expected =
        prop_oneof![Just(Expected::Anything), Just(Expected::Branch), vec(any_name(), 1..4).prop_map(Expected::Of),];
    let fields = (branches, any_attempt(), any::<bool>(), any::<u64>(), any_wait(), any_first_epoch(), expected);
    fields.prop_map(|((branches, protocol), attempt, begun, timeout_ms, wait, first_epoch, expected)| Commit {
        branches,
        attempt,
        begun,
        timeout_ms,
        wait,
        protocol,
        first_epoch,
        expected,
    })
}

fn any_vote() -> impl Strategy<Value = Vote> {
    prop_oneof![
        Just(Vote::Yes),
        Just(Vote::ReadOnly),
        any_text().prop_map(Vote::No),
        any_text().prop_map(Vote::Unknown),
        Just(Vote::Committed),
    ]
}

fn any_step_result() -> impl Strategy<Value = StepResult> {
    prop_oneof![
        any_bytes().prop_map(StepResult::Done),
        any_text().prop_map(StepResult::Refused),
        any_text().prop_map(StepResult::Unknown),
    ]
}

fn any_acknowledgement() -> impl Strategy<Value = Acknowledgement> {
    let result = select(vec![BranchResult::Done, BranchResult::HeuristicCommitted, BranchResult::HeuristicAborted]);
    let end = prop_oneof![result.prop_map(HookEnd::Ended), any_text().prop_map(HookEnd::Failed)];
    (any_decision(), any_epoch(), end).prop_map(|(decision, epoch, end)| Acknowledgement { decision, epoch, end })
}

fn any_report() -> impl Strategy<Value = FromClient> {
    let message = prop_oneof![
        any_vote().prop_map(Message::Vote),
        any_acknowledgement().prop_map(Message::Acknowledge),
        Just(Message::Inquire),
    ];
    (any_gtid(), any_branch(), message).prop_map(|(gtid, branch, message)| FromClient::branch(gtid, branch, message))
}

fn any_voter_message() -> impl Strategy<Value = VoterMessage> {
    prop_oneof![
        any_answer().prop_map(VoterMessage::Answered),
        (any_branch(), any_request()).prop_map(|(branch, request)| VoterMessage::AskLog { branch, request }),
    ]
}

pub(super) fn from_client() -> impl Strategy<Value = FromClient> {
    let fields = (any_gtid(), any_epoch(), any_step(), any::<bool>(), any_attempt(), any_step_result(), any::<bool>());
    let step_answer = fields.prop_map(|(gtid, epoch, step, compensation, attempt, result, is_final)| {
        let is_final = is_final && matches!(result, StepResult::Refused(_));
        FromClient::Step(StepAnswer { gtid, epoch, step, compensation, attempt, result, is_final })
    });
    let request = (any::<u64>(), any_gtid(), any_ask());
    prop_oneof![
        1 => any_hello().prop_map(FromClient::Hello),
        1 => Just(FromClient::Heartbeat),
        2 => request.prop_map(|(request_id, gtid, ask)| FromClient::request(request_id, gtid, ask)),
        3 => any_report(),
        1 => step_answer,
        2 => (any_gtid(), any_voter_message()).prop_map(|(gtid, message)| FromClient::voter(gtid, message)),
    ]
}

fn any_welcome() -> impl Strategy<Value = Welcome> {
    let numbers = (1..=u32::MAX, any::<[u32; 4]>());
    let fields = (any_text(), any_epoch(), numbers, vec(any_text(), 0..3), any_text());
    fields.prop_map(|(replica, epoch, (protocol_version, numbers), peers, coordinator_id)| {
        let [heartbeat, silence, payload, branches] = numbers;
        Welcome {
            replica,
            epoch,
            protocol_version,
            peers,
            heartbeat_interval_ms: heartbeat,
            silence_max_ms: silence,
            payload_bytes_max: payload,
            branches_max: branches,
            coordinator_id,
        }
    })
}

fn any_reason() -> impl Strategy<Value = AbortReason> {
    (select(AbortCode::ALL.to_vec()), option::of(any_name()), any_text())
        .prop_map(|(code, participant, message)| AbortReason { code, participant, message })
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let outcome = select(vec![Outcome::Committed, Outcome::Aborted, Outcome::Completed, Outcome::Compensated]);
    let refused = (1..=16_u32, any_text(), any_text(), option::of(1..=u64::MAX)).prop_map(
        |(code, reason, message, retry_after_ms)| Refused {
            code: Code::from_number(code).expect("a code"),
            reason,
            message,
            retry_after_ms,
        },
    );
    prop_oneof![
        any::<u64>().prop_map(|deadline_unix_ms| Reply::Begun { deadline_unix_ms }),
        Just(Reply::Enlisted),
        Just(Reply::SagaStarted),
        any_text().prop_map(|reason| Reply::SagaTurned { reason }),
        (outcome, option::of(any_reason()), any_outputs()).prop_map(|(outcome, reason, outputs)| Reply::Outcome {
            outcome,
            reason,
            outputs
        }),
        refused.prop_map(Reply::Refused),
    ]
}

fn any_order() -> impl Strategy<Value = StepOrder> {
    let fields = (any_gtid(), any_epoch(), any_step(), any_name(), any_attempt(), any_bytes(), any::<u64>());
    fields.prop_map(|(gtid, epoch, step, name, attempt, input, timeout_ms)| StepOrder {
        gtid,
        epoch,
        step,
        name,
        attempt,
        input,
        timeout_ms,
    })
}

fn any_prepare() -> impl Strategy<Value = FromReplica> {
    let of = (any_gtid(), any_branch(), any_epoch());
    let flags = (any::<bool>(), any::<bool>());
    (of, any_bytes(), any::<u64>(), option::of(any_roster()), flags).prop_map(
        |((gtid, branch, epoch), payload, timeout_ms, roster, (one_phase, is_prepared))| FromReplica::Prepare {
            gtid,
            branch,
            epoch,
            payload,
            timeout_ms,
            one_phase,
            roster,
            is_prepared,
        },
    )
}

pub(super) fn from_replica() -> impl Strategy<Value = FromReplica> {
    prop_oneof![
        any_welcome().prop_map(FromReplica::Welcome),
        Just(FromReplica::Heartbeat),
        (any::<u64>(), any_reply()).prop_map(|(request_id, reply)| FromReplica::Reply { request_id, reply }),
        any_prepare(),
        (any_gtid(), any_request()).prop_map(|(gtid, request)| FromReplica::AskVoter { gtid, request }),
        (any_gtid(), any_answer()).prop_map(|(gtid, answer)| FromReplica::LogAnswered { gtid, answer }),
        any_gtid().prop_map(|gtid| FromReplica::AwaitDecision { gtid }),
        proptest::collection::vec(any_gtid(), 0..4).prop_map(|gtids| FromReplica::ForgetVoters { gtids }),
        (any_gtid(), any_branch(), any_epoch()).prop_map(|(gtid, branch, epoch)| FromReplica::CommitBranch {
            gtid,
            branch,
            epoch
        }),
        (any_gtid(), any_branch(), any_epoch()).prop_map(|(gtid, branch, epoch)| FromReplica::AbortBranch {
            gtid,
            branch,
            epoch
        }),
        (any_order(), any_outputs(), any::<bool>()).prop_map(|(order, outputs, pivot)| FromReplica::ExecuteStep {
            order,
            outputs,
            pivot
        }),
        (any_order(), option::of(any_bytes()))
            .prop_map(|(order, output)| FromReplica::CompensateStep { order, output }),
        any_text().prop_map(|reason| FromReplica::GoAway { reason }),
    ]
}
