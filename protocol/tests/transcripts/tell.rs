//! The words for what the replica does.

use assent_protocol::Protocol;
use assent_protocol::found::{Found, OpenTransaction};
use assent_protocol::message::{FromReplica, Reply, StepOrder};
use assent_protocol::record::{EndedBranch, Member, Record};
use assent_protocol::replica::{Change, Timer, TimerChange, TransactionView};
use assent_protocol::saga::{self, StepResult};
use assent_protocol::three_phase::{self, Answer, Ballot, Proposal, Request};
use assent_protocol::two_phase;
use bytes::Bytes;

pub(crate) fn record(record: &Record) -> String {
    match record {
        Record::Decided(decided) => {
            format!(
                "decided {} {}, for {}{}",
                decided.gtid,
                decided.decision,
                members(&decided.members),
                why(decided.reason.as_deref())
            )
        }
        Record::Delegated(delegated) => format!("delegated {} to {}", delegated.gtid, member(&delegated.member)),
        Record::Attempted(attempted) => format!("attempted {}, {}", attempted.gtid, voters(&attempted.roster)),
        Record::Agreed(agreed) => {
            format!("agreed {} {}, for {}", agreed.gtid, agreed.decision, members(&agreed.members))
        }
        Record::Voter(voter) => {
            let (standing, joined) = (voter.state.standing.as_str(), ballot(voter.state.joined));
            let accepted = voter.state.accepted.map_or_else(|| "nothing".into(), ballot);
            format!("voter {}: {} is {standing}, joined {joined}, accepted {accepted}", voter.gtid, voter.voter)
        }
        Record::SagaStarted(started) => {
            let steps = started.definition.steps().iter().map(|step| format!("{}@{}", step.name, step.participant));
            format!("saga {} starts: {}", started.gtid, steps.collect::<Vec<_>>().join(", "))
        }
        Record::SagaTurned(turned) => format!("saga {} turns back: {}", turned.gtid, turned.reason),
        Record::SagaStep(step) => {
            let what = if step.compensation { "compensation" } else { "action" };
            format!("saga {} step {}, {what}: {}", step.gtid, step.step.0, step_result(&step.result))
        }
        Record::SagaPaused(paused) => {
            format!("saga {} pauses: {}", paused.gtid, paused.remedy.as_deref().unwrap_or("no longer"))
        }
        Record::Ended(ended) => {
            let branches = ended.branches.iter().map(|ended: &EndedBranch| {
                let what = ended.step.as_ref().map_or_else(|| member(&ended.member()), ToString::to_string);
                format!("{what} {}", ended.end.as_str())
            });
            let branches = branches.collect::<Vec<_>>().join(", ");
            format!("ended {} {}: {branches}{}", ended.gtid, ended.outcome, why(ended.reason.as_deref()))
        }
    }
}

pub(crate) fn message(message: &FromReplica, asked: &str, now_ms: u64) -> String {
    match message {
        FromReplica::Welcome(_) => "welcome".into(),
        FromReplica::Heartbeat => "heartbeat".into(),
        FromReplica::GoAway { reason } => format!("go away: {reason}"),
        FromReplica::Reply { reply: given, .. } => format!("reply to `{asked}`: {}", reply(given, now_ms)),
        FromReplica::Prepare { gtid, branch, epoch, payload, timeout_ms, one_phase, roster, is_prepared } => {
            let how = if *one_phase { "commit alone" } else { "prepare" };
            let who = roster.as_ref().map_or_else(String::new, |roster| format!(", {}", voters(roster)));
            let is_prepared = if *is_prepared { ", only the voter has to vote" } else { "" };
            format!(
                "{how} {gtid} as {branch}, epoch {}{}, within {timeout_ms} ms{who}{is_prepared}",
                epoch.0,
                with("payload", payload)
            )
        }
        FromReplica::CommitBranch { gtid, branch, epoch } => format!("commit {gtid} as {branch}, epoch {}", epoch.0),
        FromReplica::AbortBranch { gtid, branch, epoch } => format!("abort {gtid} as {branch}, epoch {}", epoch.0),
        FromReplica::ExecuteStep { order, outputs, pivot } => {
            let outputs = outputs.iter().map(|(step, output)| with(step.as_str(), output));
            let pivot = if *pivot { ", a pivot" } else { "" };
            format!("do {}{}{pivot}", step_order(order), outputs.collect::<String>())
        }
        FromReplica::CompensateStep { order, output } => {
            let output = output.as_ref().map_or_else(|| ", output unknown".into(), |output| with("output", output));
            format!("undo {}{output}", step_order(order))
        }
        FromReplica::AskVoter { gtid, request } => format!("voter {gtid}: {}", voter_request(request)),
        FromReplica::LogAnswered { gtid, answer } => format!("the log answers on {gtid}: {}", voter_answer(answer)),
        FromReplica::AwaitDecision { gtid } => format!("wait for the decision on {gtid}"),
        FromReplica::ForgetVoters { gtids } => {
            format!("voter: forget {}", gtids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
    }
}

fn reply(reply: &Reply, now_ms: u64) -> String {
    match reply {
        Reply::Begun { deadline_unix_ms } => format!("begun, to be decided within {} ms", deadline_unix_ms - now_ms),
        Reply::Enlisted => "enlisted".into(),
        Reply::SagaStarted => "started".into(),
        Reply::SagaTurned { reason } => format!("compensating: {reason}"),
        Reply::Outcome { outcome, reason, outputs } => {
            let outputs = outputs.iter().map(|(step, output)| with(step.as_str(), output)).collect::<String>();
            format!("{outcome}{outputs}{}", why(reason.as_ref().map(ToString::to_string).as_deref()))
        }
        Reply::Refused(refused) => format!("refused, {}: {}", refused.reason, refused.message),
    }
}

fn step_order(order: &StepOrder) -> String {
    let StepOrder { gtid, epoch, name, attempt, timeout_ms, .. } = order;
    format!("{gtid} {name}, epoch {}, attempt {attempt}, within {timeout_ms} ms", epoch.0)
}

fn step_result(result: &StepResult) -> String {
    match result {
        StepResult::Done(output) => format!("done{}", with("output", output)),
        StepResult::Refused(why) => format!("refused, {why}"),
        StepResult::Unknown(why) => format!("unknown, {why}"),
    }
}

fn voter_request(request: &Request) -> String {
    match request {
        Request::VoteYes { .. } => "vote yes".into(),
        Request::VoteNo => "vote no".into(),
        Request::Join { ballot: joined, .. } => format!("join {}", ballot(*joined)),
        Request::Propose { ballot: under, proposal: Proposal::PreCommit } => format!("pre-commit, {}", ballot(*under)),
        Request::Propose { ballot: under, proposal: Proposal::PreAbort } => format!("pre-abort, {}", ballot(*under)),
        Request::Decided(decision) | Request::Elected(decision) => format!("the decision is {decision}"),
    }
}

fn voter_answer(answer: &Answer) -> String {
    match answer {
        Answer::VotedYes { .. } => "voted yes".into(),
        Answer::Joined { ballot: joined, standing, .. } => format!("joined {}, {}", ballot(*joined), standing.as_str()),
        Answer::Accepted { ballot: under } => format!("accepted {}", ballot(*under)),
        Answer::Rejected { joined, .. } => format!("has joined {}", ballot(*joined)),
        Answer::Ended(decision) => format!("ended, {decision}"),
        Answer::Barred(bar) => bar.to_string(),
    }
}

/// The node is an epoch and a number.
fn ballot(ballot: Ballot) -> String {
    if ballot == Ballot::FIRST {
        "ballot 1".into()
    } else {
        format!("ballot {} of {}.{}", ballot.round, ballot.node.0 >> 64, ballot.node.0 & u128::from(u64::MAX))
    }
}

pub(crate) fn timer_change(change: &TimerChange) -> String {
    match change {
        TimerChange::Set { gtid, timer: which, after_ms, jitter_ms: 0 } => {
            format!("timer {gtid} {}: in {after_ms} ms", timer(*which))
        }
        TimerChange::Set { gtid, timer: which, after_ms, jitter_ms } => {
            format!("timer {gtid} {}: in {after_ms} to {} ms", timer(*which), after_ms + jitter_ms)
        }
        TimerChange::Cancel { gtid, timer: which } => format!("timer {gtid} {}: off", timer(*which)),
        TimerChange::CancelAll(gtid) => format!("timer {gtid}: all off"),
    }
}

pub(crate) fn timer(timer: Timer) -> String {
    let transaction = |timer| match timer {
        two_phase::Timer::Deadline => "deadline",
        two_phase::Timer::Absence => "absence",
        two_phase::Timer::Resend => "resend",
    };
    let step = |word, step: saga::StepIndex, compensation, attempt| {
        format!("{word}-{}{}.{attempt}", if compensation { "undo-" } else { "" }, step.0)
    };
    match timer {
        Timer::TwoPhase(timer) | Timer::ThreePhase(three_phase::coordinator::Timer::TwoPhase(timer)) => {
            transaction(timer).into()
        }
        Timer::ThreePhase(three_phase::coordinator::Timer::Election) => "election".into(),
        Timer::Initiator => "initiator".into(),
        Timer::Saga(saga::Timer::Attempt { step: at, compensation, attempt }) => {
            step("answer", at, compensation, attempt)
        }
        Timer::Saga(saga::Timer::Retry { step: at, compensation, attempt }) => step("retry", at, compensation, attempt),
    }
}

pub(crate) fn found(found: &Found) -> String {
    match found {
        Found::Open(transaction) => format!("open, {}", open(transaction)),
        Found::Ended(ended) => ended.record.outcome.to_string(),
        Found::Unreadable(unreadable) => unreadable.to_string(),
    }
}

pub(crate) fn open(open: &OpenTransaction) -> String {
    match open {
        OpenTransaction::Decided { record, .. } => format!("decided to {}", record.decision),
        OpenTransaction::Delegated { record, .. } => format!("delegated to {}", member(&record.member)),
        OpenTransaction::Attempted { state, .. } => {
            format!("attempted, the log as a voter is {}", state.standing.as_str())
        }
        OpenTransaction::Saga(saga) => {
            let state = if saga.turned.is_some() { "a saga turned back" } else { "a saga" };
            format!("{state} with {} answers", saga.steps.len())
        }
    }
}

pub(crate) fn change(change: &Change) -> String {
    match change {
        Change::Changed(view) => format!("watched: {}", self::view(view)),
        Change::Ended(view) => format!("watched: {}, forgotten", self::view(view)),
        Change::Gone(gtid) => format!("watched: {gtid} is not driven here"),
    }
}

pub(crate) fn view(view: &TransactionView) -> String {
    let protocol = if view.protocol == Protocol::Saga { "saga " } else { "" };
    let waits = if view.waiting_for.is_empty() { String::new() } else { format!(", waits for {}", view.waiting_for) };
    let troubles = view.branches.iter().filter_map(|branch| {
        let error = branch.last_error.as_ref()?;
        Some(format!("; {} failed: {error}", branch.participant))
    });
    format!("{protocol}{} is {}{waits}{}", view.gtid, view.state, troubles.collect::<String>())
}

/// A participant, and the id of its branch.
fn member(member: &Member) -> String {
    format!("{} {}", member.participant, member.branch)
}

fn members(members: &[Member]) -> String {
    let names: Vec<String> = members.iter().map(member).collect();
    if names.is_empty() { "nobody".into() } else { names.join(", ") }
}

fn voters(roster: &three_phase::Roster) -> String {
    let names: Vec<String> = roster.names().map(|voter| voter.to_string()).collect();
    format!("voters {}", names.join(", "))
}

fn why(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!("; {reason}"))
}

fn with(name: &str, bytes: &Bytes) -> String {
    if bytes.is_empty() { String::new() } else { format!(", {name} {}", String::from_utf8_lossy(bytes)) }
}
