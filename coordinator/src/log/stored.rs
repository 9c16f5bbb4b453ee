//! How records are written into columns, the same in every SQL log: words, lists of names, JSON for
//! sagas.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use assent_protocol::record::{EndedBranch, Member};
use assent_protocol::saga::{Definition, StepDefinition, StepIndex, StepResult};
use assent_protocol::three_phase::{Ballot, NodeId, PeerAddress, Roster, Seat, Standing, StoreId, VoterState};
use assent_protocol::{
    BodyDigest, BranchEnd, BranchId, Decision, Name, Outcome, ParticipantName, Protocol, RetryPolicy,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::State;

/// Text as a database takes it: Postgres refuses U+0000, and one such character in a reason that a
/// participant made up would stop every batch.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A roster: names with commas between, which no name contains.
pub(super) fn roster<'a>(names: impl IntoIterator<Item = &'a ParticipantName>) -> String {
    let mut text = String::new();
    for name in names {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name.as_str());
    }
    text
}

/// The participants of a roster's members.
pub(super) fn names(members: &[Member]) -> String {
    roster(members.iter().map(|member| &member.participant))
}

/// Branch ids in the order of their participants, with commas between; `None` where no branch has
/// one, as in the rows of before branches had any.
pub(super) fn branch_ids(ids: impl ExactSizeIterator<Item = BranchId> + Clone) -> Option<String> {
    if ids.clone().all(BranchId::is_none) {
        return None;
    }
    // As long as they are with an epoch of up to six digits.
    let mut text = String::with_capacity(ids.len() * "999999.ffffffffffffffff,".len());
    for id in ids {
        if !text.is_empty() {
            text.push(',');
        }
        // A `String` takes all that is written to it.
        let _ = write!(text, "{id}");
    }
    Some(text)
}

/// The branch ids of a roster's members.
pub(super) fn ids(members: &[Member]) -> Option<String> {
    branch_ids(members.iter().map(|member| member.branch))
}

/// Reads what [`branch_ids`] wrote, for as many branches as there are.
fn parse_branch_ids(text: Option<&str>, branches: usize) -> Result<Vec<BranchId>, String> {
    let Some(text) = text else { return Ok(vec![BranchId::NONE; branches]) };
    let ids: Result<Vec<BranchId>, _> = text.split(',').map(str::parse).collect();
    let ids = ids.map_err(|error| format!("in its branch ids {text:?}, {error}"))?;
    if ids.len() != branches {
        return Err(format!("it has {} branch ids and {branches} branches", ids.len()));
    }
    Ok(ids)
}

/// Reads what [`names`] and [`ids`] wrote.
pub(super) fn parse_members(participants: &str, branch_ids: Option<&str>) -> Result<Vec<Member>, String> {
    let names = parse_roster(participants)?;
    let ids = parse_branch_ids(branch_ids, names.len())?;
    Ok(names.into_iter().zip(ids).map(|(participant, branch)| Member { participant, branch }).collect())
}

/// The participants of a saga's steps, each once, in order of their first step.
pub(super) fn saga_roster(definition: &Definition) -> Vec<&ParticipantName> {
    let mut names = Vec::new();
    for step in definition.steps() {
        if !names.contains(&&step.participant) {
            names.push(&step.participant);
        }
    }
    names
}

/// Reads what [`roster`] wrote. Nobody is in it twice: the second branch would be waited for
/// without end, since answers are the first's.
pub(super) fn parse_roster(text: &str) -> Result<Vec<ParticipantName>, String> {
    let mut names = Vec::new();
    let mut seen = BTreeSet::new();
    for name in text.split(',').filter(|name| !name.is_empty()) {
        let name = Name::new(name).map_err(|error| format!("in its participants, {error}"))?;
        if !seen.insert(name.clone()) {
            return Err(format!("a participant stands twice in {text:?}"));
        }
        names.push(name);
    }
    Ok(names)
}

/// Ended branches: `participant[/step][=end]`, without `=end` where it ended as the transaction
/// did.
pub(super) fn branches(outcome: Outcome, branches: &[EndedBranch]) -> String {
    let mut text = String::new();
    for branch in branches {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(branch.participant.as_str());
        if let Some(step) = &branch.step {
            text.push('/');
            text.push_str(step.as_str());
        }
        if branch.end != usual_end(outcome) {
            text.push('=');
            text.push_str(branch.end.as_str());
        }
    }
    text
}

/// The ids of ended branches. The steps of a saga have none.
pub(super) fn ended_ids(branches: &[EndedBranch]) -> Option<String> {
    branch_ids(branches.iter().map(|branch| branch.branch))
}

/// Reads what [`branches`] and [`ended_ids`] wrote.
pub(super) fn parse_branches(
    outcome: Outcome,
    text: &str,
    branch_ids: Option<&str>,
) -> Result<Vec<EndedBranch>, String> {
    let entries = text.split(',').filter(|entry| !entry.is_empty());
    let read = |entry| parse_branch(outcome, entry).map_err(|error| format!("in its branches, {error}"));
    let mut branches = entries.map(read).collect::<Result<Vec<EndedBranch>, String>>()?;
    let ids = parse_branch_ids(branch_ids, branches.len())?;
    for (ended, id) in branches.iter_mut().zip(ids) {
        ended.branch = id;
    }
    Ok(branches)
}

fn parse_branch(outcome: Outcome, entry: &str) -> Result<EndedBranch, String> {
    let (who, end) = match entry.split_once('=') {
        Some((who, word)) => (who, parse_word(word, BRANCH_ENDS, BranchEnd::as_str)?),
        None => (entry, usual_end(outcome)),
    };
    let (participant, step) = who.split_once('/').map_or((who, None), |(who, step)| (who, Some(step)));
    Ok(EndedBranch {
        participant: Name::new(participant).map_err(|error| error.to_string())?,
        branch: BranchId::NONE,
        step: step.map(Name::new).transpose().map_err(|error| error.to_string())?,
        end,
    })
}

/// How a branch ends when nothing special happened to it.
pub(super) const fn usual_end(outcome: Outcome) -> BranchEnd {
    match outcome {
        Outcome::Committed => BranchEnd::Committed,
        Outcome::Aborted => BranchEnd::Aborted,
        Outcome::Completed => BranchEnd::Completed,
        Outcome::Compensated => BranchEnd::Compensated,
    }
}

const BRANCH_ENDS: [BranchEnd; 9] = [
    BranchEnd::Committed,
    BranchEnd::Aborted,
    BranchEnd::ReadOnly,
    BranchEnd::NotStarted,
    BranchEnd::Completed,
    BranchEnd::Compensated,
    BranchEnd::Abandoned,
    BranchEnd::HeuristicCommitted,
    BranchEnd::HeuristicAborted,
];

fn parse_word<T: Copy, const N: usize>(word: &str, all: [T; N], name: fn(T) -> &'static str) -> Result<T, String> {
    all.into_iter()
        .find(|one| name(*one) == word)
        .ok_or_else(|| format!("{word:?} is not a word that this binary knows"))
}

/// Reads a protocol's word.
pub(super) fn parse_protocol(word: &str) -> Result<Protocol, String> {
    parse_word(word, [Protocol::TwoPhase, Protocol::ThreePhase, Protocol::Saga], Protocol::as_str)
}

/// Reads a decision's word.
pub(super) fn parse_decision(word: &str) -> Result<Decision, String> {
    parse_word(word, [Decision::Commit, Decision::Abort], Decision::as_str)
}

/// Reads an outcome's word.
pub(super) fn parse_outcome(word: &str) -> Result<Outcome, String> {
    let all = [Outcome::Committed, Outcome::Aborted, Outcome::Completed, Outcome::Compensated];
    parse_word(word, all, Outcome::as_str)
}

/// The state of an open row.
pub(super) fn open_state(protocol: Protocol, decision: Option<Decision>, is_paused: bool) -> State {
    match (protocol, decision) {
        (Protocol::Saga, _) if is_paused => State::Paused,
        (Protocol::Saga, None | Some(Decision::Commit)) => State::Running,
        (Protocol::Saga, Some(Decision::Abort)) => State::Compensating,
        (Protocol::TwoPhase | Protocol::ThreePhase, Some(Decision::Commit)) => State::Committing,
        (Protocol::TwoPhase | Protocol::ThreePhase, Some(Decision::Abort)) => State::Aborting,
        (Protocol::TwoPhase | Protocol::ThreePhase, None) => State::Preparing,
    }
}

/// What the log keeps as a voter, as three words: where it stands, the last ballot it joined, the
/// last one it accepted or `-`. One state has one text, so that a compare-and-set can compare
/// texts.
pub(super) fn voter(state: &VoterState) -> String {
    let VoterState { standing, joined, accepted } = state;
    match accepted {
        Some(accepted) => format!("{} {joined} {accepted}", standing.as_str()),
        None => format!("{} {joined} -", standing.as_str()),
    }
}

/// Reads what [`voter`] wrote.
pub(super) fn parse_voter(text: &str) -> Result<VoterState, String> {
    let words = |text: &str| {
        let (standing, ballots) = text.split_once(' ')?;
        let (joined, accepted) = ballots.split_once(' ')?;
        let accepted = if accepted == "-" { None } else { Some(parse_ballot(accepted)?) };
        Some(VoterState { standing: Standing::from_word(standing)?, joined: parse_ballot(joined)?, accepted })
    };
    words(text).ok_or_else(|| format!("the log's voter cannot stand at {text:?}"))
}

fn parse_ballot(text: &str) -> Option<Ballot> {
    let (round, node) = text.split_once('.')?;
    let round = round.parse().ok().filter(|round| (1..=Ballot::ROUND_MAX).contains(round))?;
    Some(Ballot { round, node: NodeId(u128::from_str_radix(node, 16).ok()?) })
}

/// The roster of a three-phase transaction as it stands in the log: stores as UUIDs. Those who
/// commit together have the same one again and again, so the ids of the branches, which differ each
/// time, stand in their own column.
#[derive(Serialize, Deserialize)]
struct StoredVoters {
    participants: Vec<StoredSeat>,
    log: Uuid,
}

#[derive(Serialize, Deserialize)]
struct StoredSeat {
    participant: ParticipantName,
    address: PeerAddress,
    store: Uuid,
}

/// Who votes, as JSON.
pub(super) fn voters(roster: &Roster) -> String {
    let seats = roster.participants().iter().map(|seat| StoredSeat {
        participant: seat.participant.clone(),
        address: seat.address.clone(),
        store: Uuid::from_u128(seat.store.0),
    });
    let stored = StoredVoters { participants: seats.collect(), log: Uuid::from_u128(roster.log().0) };
    serde_json::to_string(&stored).expect("names and ids can always be said in JSON")
}

/// Reads what [`voters`] wrote, of a row with these members. A voter that is none of them has no
/// branch id.
pub(super) fn parse_voters(json: &str, members: &[Member]) -> Result<Roster, String> {
    let stored: StoredVoters = serde_json::from_str(json).map_err(|error| format!("its roster is not one: {error}"))?;
    let ids: BTreeMap<&ParticipantName, BranchId> =
        members.iter().map(|member| (&member.participant, member.branch)).collect();
    let seats = stored.participants.into_iter().map(|StoredSeat { participant, address, store }| Seat {
        branch: ids.get(&participant).copied().unwrap_or_default(),
        participant,
        address,
        store: StoreId(store.as_u128()),
    });
    Roster::new(seats.collect(), StoreId(stored.log.as_u128()))
        .map_err(|error| format!("its roster is not one: {error}"))
}

/// The names in a roster, in its order.
pub(super) fn voter_names(roster: &Roster) -> impl Iterator<Item = &ParticipantName> {
    roster.participants().iter().map(|seat| &seat.participant)
}

/// The ids of the voters' branches, in the order of [`voter_names`].
pub(super) fn voter_ids(roster: &Roster) -> Option<String> {
    branch_ids(roster.branches())
}

/// Whether two rosters have the same text: the ids of their branches are not in it.
pub(super) fn are_same_voters(one: &Roster, other: &Roster) -> bool {
    one.is_like(other)
}

/// What a row with these members has of the log as a voter, if it is there and can be read.
pub(super) fn vote_from_columns(
    roster: Option<&str>,
    state: Option<&str>,
    members: &[Member],
) -> Option<(Roster, VoterState)> {
    Some((parse_voters(roster?, members).ok()?, parse_voter(state?).ok()?))
}

/// A step as it stands in the log: names and numbers in the clear, the input as base64.
#[derive(Serialize, Deserialize)]
struct StoredStep {
    name: Name,
    participant: ParticipantName,
    input: String,
    after: Vec<StepIndex>,
    retry: RetryPolicy,
    compensation_retry: RetryPolicy,
    pivot: bool,
    durable: bool,
}

/// A definition as JSON.
pub(super) fn definition(definition: &Definition) -> String {
    let steps: Vec<StoredStep> = definition.steps().iter().map(stored_step).collect();
    serde_json::to_string(&steps).expect("names, numbers and strings can always be said in JSON")
}

fn stored_step(step: &StepDefinition) -> StoredStep {
    let sound = |policy: &RetryPolicy| RetryPolicy {
        non_retryable: policy.non_retryable.iter().map(|reason| text(reason).into_owned()).collect(),
        ..policy.clone()
    };
    StoredStep {
        name: step.name.clone(),
        participant: step.participant.clone(),
        input: BASE64.encode(&step.input),
        after: step.after.clone(),
        retry: sound(&step.retry),
        compensation_retry: sound(&step.compensation_retry),
        pivot: step.pivot,
        durable: step.durable,
    }
}

/// Reads what [`definition`] wrote.
pub(super) fn parse_definition(json: &str) -> Result<Definition, String> {
    let stored: Vec<StoredStep> =
        serde_json::from_str(json).map_err(|error| format!("its definition is not one: {error}"))?;
    let steps: Result<Vec<StepDefinition>, String> = stored
        .into_iter()
        .map(|step| {
            let input = parse_payload(&step.input)?;
            let StoredStep { name, participant, after, retry, compensation_retry, pivot, durable, .. } = step;
            Ok(StepDefinition { name, participant, input, after, retry, compensation_retry, pivot, durable })
        })
        .collect();
    Definition::new(steps?).map_err(|error| format!("its definition is not one: {error}"))
}

/// Bytes as text.
pub(super) fn payload(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Reads what [`payload`] wrote.
pub(super) fn parse_payload(text: &str) -> Result<Bytes, String> {
    BASE64.decode(text).map(Bytes::from).map_err(|error| format!("a payload is not base64: {error}"))
}

/// A saga's outputs as a JSON object from step position to base64; `None` if there are none.
pub(super) fn outputs(outputs: &[(StepIndex, Bytes)]) -> Option<String> {
    if outputs.is_empty() {
        return None;
    }
    let by_step: BTreeMap<u16, String> = outputs.iter().map(|(step, output)| (step.0, payload(output))).collect();
    Some(serde_json::to_string(&by_step).expect("numbers and strings can always be said in JSON"))
}

/// Reads what [`outputs`] wrote.
pub(super) fn parse_outputs(json: Option<&str>) -> Result<Vec<(StepIndex, Bytes)>, String> {
    let Some(json) = json else { return Ok(Vec::new()) };
    let by_step: BTreeMap<u16, String> =
        serde_json::from_str(json).map_err(|error| format!("its outputs cannot be read: {error}"))?;
    by_step.into_iter().map(|(step, text)| Ok((StepIndex(step), parse_payload(&text)?))).collect()
}

/// A step result's kind and reason; the output of a done one stands in a column of its own.
pub(super) fn result(result: &StepResult) -> (&'static str, Option<Cow<'_, str>>) {
    match result {
        StepResult::Done(_) => ("done", None),
        StepResult::Refused(reason) => ("refused", Some(text(reason))),
        StepResult::Unknown(reason) => ("unknown", Some(text(reason))),
    }
}

/// Reads a step result.
pub(super) fn parse_result(kind: &str, output: Option<Bytes>, reason: Option<String>) -> Result<StepResult, String> {
    match (kind, output, reason) {
        ("done", Some(output), _) => Ok(StepResult::Done(output)),
        ("refused", _, Some(reason)) => Ok(StepResult::Refused(reason)),
        ("unknown", _, Some(reason)) => Ok(StepResult::Unknown(reason)),
        (kind, _, _) => Err(format!("a step's result is {kind:?}, or lacks its output or reason")),
    }
}

/// A digest as a signed column.
pub(super) fn digest_column(digest: BodyDigest) -> i64 {
    digest.0.cast_signed()
}

/// Reads what [`digest_column`] wrote.
pub(super) fn digest_from_column(column: i64) -> BodyDigest {
    BodyDigest(column.cast_unsigned())
}
