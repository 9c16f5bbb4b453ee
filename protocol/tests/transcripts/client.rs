//! The messages that a session's line can say.

use std::collections::HashMap;
use std::str::FromStr;

use assent_protocol::branch::{self, Acknowledgement, HookEnd};
use assent_protocol::ids::BranchId;
use assent_protocol::message::{Ask, Commit, Expected, FromClient, FromReplica, StepAnswer, StepOrder, VoterMessage};
use assent_protocol::replica::SessionId;
use assent_protocol::saga::{Definition, StepDefinition, StepIndex, StepResult};
use assent_protocol::three_phase::{Answer, Ballot, Request, Standing};
use assent_protocol::two_phase::{BranchResult, CarriedBranch, EarlyVote, Vote};
use assent_protocol::{Decision, Epoch, Gtid, Protocol, RetryPolicy, Wait};
use bytes::Bytes;

/// What a session was asked: its answers name the attempt or the ballot that they answer.
#[derive(Default)]
pub(crate) struct Asked {
    /// By the step's name, and whether it is the compensation.
    steps: HashMap<(SessionId, Gtid, String, bool), StepOrder>,
    ballots: HashMap<(SessionId, Gtid), Ballot>,
    /// The branch that the session was last told about.
    branches: HashMap<(SessionId, Gtid), BranchId>,
    /// The order that it was last given for that branch.
    orders: HashMap<(SessionId, Gtid), (Decision, Epoch)>,
}

impl Asked {
    pub(crate) fn note(&mut self, session: SessionId, message: &FromReplica) {
        if let FromReplica::ExecuteStep { order, .. } | FromReplica::CompensateStep { order, .. } = message {
            let is_compensation = matches!(message, FromReplica::CompensateStep { .. });
            let step = (session, order.gtid, order.name.to_string(), is_compensation);
            self.steps.insert(step, order.clone());
        }
        if let FromReplica::Prepare { gtid, branch, .. }
        | FromReplica::CommitBranch { gtid, branch, .. }
        | FromReplica::AbortBranch { gtid, branch, .. } = message
        {
            self.branches.insert((session, *gtid), *branch);
        }
        if let FromReplica::CommitBranch { gtid, epoch, .. } = message {
            self.orders.insert((session, *gtid), (Decision::Commit, *epoch));
        }
        if let FromReplica::AbortBranch { gtid, epoch, .. } = message {
            self.orders.insert((session, *gtid), (Decision::Abort, *epoch));
        }
        if let FromReplica::AskVoter { gtid, request: Request::Join { ballot, .. } | Request::Propose { ballot, .. } } =
            message
        {
            self.ballots.insert((session, *gtid), *ballot);
        }
    }

    /// What a line says: `verb gtid more`.
    pub(crate) fn message(
        &self,
        session: SessionId,
        request_id: u64,
        (verb, gtid, more): (&str, Gtid, &[&str]),
    ) -> Result<FromClient, String> {
        let said = more.join(" ");
        let ask = match verb {
            "begin" => Ask::Begin {
                timeout_ms: setting(more, "timeout", 0)?,
                protocol: protocol(more),
                first_epoch: first_epoch(more)?,
            },
            "commit" => Ask::Commit(commit(more)?),
            "abort" => Ask::Abort { reason: said },
            "await" => Ask::Await { wait: wait(more) },
            "enlist" => {
                let vote = if more.contains(&"yes") { EarlyVote::Yes } else { EarlyVote::ReadOnly };
                Ask::Enlist { branch: self.branch(session, gtid, more)?, vote }
            }
            "saga" => {
                Ask::StartSaga { definition: saga(more)?, wait: wait(more), attempt: setting(more, "attempt", 1)? }
            }
            _ => return self.report(session, (verb, gtid, more)),
        };
        Ok(FromClient::request(request_id, gtid, ask))
    }

    fn report(&self, session: SessionId, (verb, gtid, more): (&str, Gtid, &[&str])) -> Result<FromClient, String> {
        let whose = self.branch(session, gtid, more)?;
        let branch = |message| Ok(FromClient::branch(gtid, whose, message));
        let voter = |message| Ok(FromClient::voter(gtid, message));
        let ballot = || self.ballots.get(&(session, gtid)).copied().ok_or("its voter was asked nothing");
        // `as=1.2` says which branch it is about.
        let more: Vec<&str> = more.iter().copied().filter(|word| !word.starts_with("as=")).collect();
        match (verb, more.as_slice()) {
            ("vote", ["yes"]) => branch(branch::Message::Vote(Vote::Yes)),
            ("vote", ["read-only"]) => branch(branch::Message::Vote(Vote::ReadOnly)),
            ("vote", ["committed"]) => branch(branch::Message::Vote(Vote::Committed)),
            ("vote", ["no", why @ ..]) => branch(branch::Message::Vote(Vote::No(why.join(" ")))),
            ("vote", ["unknown", why @ ..]) => branch(branch::Message::Vote(Vote::Unknown(why.join(" ")))),
            ("done", more) => {
                let end = HookEnd::Ended(BranchResult::Done);
                branch(branch::Message::Acknowledge(self.acknowledgement(session, gtid, more, end)?))
            }
            ("fails", why) => {
                let end = HookEnd::Failed(why.join(" "));
                branch(branch::Message::Acknowledge(self.acknowledgement(session, gtid, &[], end)?))
            }
            ("inquire", []) => branch(branch::Message::Inquire),
            ("voter", ["accepts"]) => voter(VoterMessage::Answered(Answer::Accepted { ballot: ballot()? })),
            ("voter", ["joins", standing]) => {
                let (standing, accepted) = match *standing {
                    "waiting" => (Standing::Waiting, None),
                    "pre-committed" => (Standing::PreCommitted, Some(Ballot::FIRST)),
                    _ => return Err("a voter joins waiting or pre-committed".into()),
                };
                voter(VoterMessage::Answered(Answer::Joined { ballot: ballot()?, standing, accepted }))
            }
            ("voter", ["ended", decision]) => voter(VoterMessage::Answered(Answer::Ended(decided(decision)?))),
            ("tell-log", [decision]) => {
                let request = Request::Decided(decided(decision)?);
                voter(VoterMessage::AskLog { branch: whose, request })
            }
            ("did", [step, result @ ..]) => self.step(session, gtid, (step, false), result),
            ("undid", [step, result @ ..]) => self.step(session, gtid, (step, true), result),
            _ => Err("no session says that".into()),
        }
    }

    /// The branch that a line is about: the one that it names, or the one that the session was told of last, or
    /// the one that it enlists.
    fn branch(&self, session: SessionId, gtid: Gtid, more: &[&str]) -> Result<BranchId, String> {
        let enlisted = BranchId { epoch: Epoch(1), number: 0x100 + session.0 };
        setting(more, "as", self.branches.get(&(session, gtid)).copied().unwrap_or(enlisted))
    }

    /// The answer to the last order, unless the line says to which: `decision=abort epoch=1`.
    fn acknowledgement(
        &self,
        session: SessionId,
        gtid: Gtid,
        more: &[&str],
        end: HookEnd,
    ) -> Result<Acknowledgement, String> {
        let order = self.orders.get(&(session, gtid)).copied();
        let (decision, epoch) = order.unwrap_or((Decision::Commit, Epoch(1)));
        let named = more.iter().find_map(|word| word.strip_prefix("decision=")).map(decided).transpose()?;
        let epoch = Epoch(setting(more, "epoch", epoch.0)?);
        Ok(Acknowledgement { decision: named.unwrap_or(decision), epoch, end })
    }

    fn step(
        &self,
        session: SessionId,
        gtid: Gtid,
        (name, compensation): (&str, bool),
        result: &[&str],
    ) -> Result<FromClient, String> {
        let order = self.steps.get(&(session, gtid, name.to_owned(), compensation)).ok_or("it had no such order")?;
        let is_final = result.first() == Some(&"refused-for-good");
        let result = match result {
            ["refused" | "refused-for-good", why @ ..] => StepResult::Refused(why.join(" ")),
            ["unknown", why @ ..] => StepResult::Unknown(why.join(" ")),
            output => StepResult::Done(Bytes::from(output.join(" "))),
        };
        let &StepOrder { step, attempt, epoch, .. } = order;
        Ok(FromClient::Step(StepAnswer { gtid, step, compensation, attempt, epoch, result, is_final }))
    }
}

/// `bank-a=-5` carries a branch and its payload.
fn commit(more: &[&str]) -> Result<Commit, String> {
    let carried = more.iter().filter_map(|word| word.split_once('='));
    let branches = carried.filter(|(name, _)| !["timeout", "attempt", "written", "expect"].contains(name)).map(
        |(name, payload)| Ok(CarriedBranch { participant: parse(name)?, payload: Bytes::from(payload.to_owned()) }),
    );
    Ok(Commit {
        branches: branches.collect::<Result<_, String>>()?,
        attempt: setting(more, "attempt", 1)?,
        begun: more.contains(&"begun"),
        timeout_ms: setting(more, "timeout", 0)?,
        wait: wait(more),
        protocol: protocol(more),
        first_epoch: first_epoch(more)?,
        expected: expected(more)?,
    })
}

/// `expect=bank-a,bank-b` names participants that must have a branch; `expect=any` expects one of
/// anybody.
fn expected(more: &[&str]) -> Result<Expected, String> {
    match more.iter().find_map(|word| word.strip_prefix("expect=")) {
        None => Ok(Expected::Anything),
        Some("any") => Ok(Expected::Branch),
        Some(names) => Ok(Expected::Of(names.split(',').map(parse).collect::<Result<_, _>>()?)),
    }
}

/// `written=1` names the epoch under which a request was first written.
fn first_epoch(more: &[&str]) -> Result<Option<Epoch>, String> {
    let epoch = setting(more, "written", 0)?;
    Ok((epoch != 0).then_some(Epoch(epoch)))
}

/// `reserve@hotel` is a step, which follows the one before it; `pay@bank+pivot` is one that nothing
/// undoes.
fn saga(more: &[&str]) -> Result<Definition, String> {
    let mut steps: Vec<StepDefinition> = Vec::new();
    for (name, at) in more.iter().filter_map(|word| word.split_once('@')) {
        let mut at = at.split('+');
        let participant = parse(at.next().unwrap_or_default())?;
        let marks: Vec<&str> = at.collect();
        let before = u16::try_from(steps.len()).ok().and_then(|position| position.checked_sub(1));
        steps.push(StepDefinition {
            name: parse(name)?,
            participant,
            input: Bytes::new(),
            after: before.map(StepIndex).into_iter().collect(),
            retry: RetryPolicy::default(),
            compensation_retry: RetryPolicy::default(),
            pivot: marks.contains(&"pivot"),
            durable: marks.contains(&"durable"),
        });
    }
    Definition::new(steps).map_err(|invalid| invalid.to_string())
}

fn protocol(more: &[&str]) -> Protocol {
    if more.contains(&"3pc") { Protocol::ThreePhase } else { Protocol::TwoPhase }
}

fn wait(more: &[&str]) -> Wait {
    if more.contains(&"ended") { Wait::Ended } else { Wait::Decided }
}

pub(crate) fn decided(word: &str) -> Result<Decision, String> {
    match word {
        "commit" => Ok(Decision::Commit),
        "abort" => Ok(Decision::Abort),
        _ => Err("a decision is commit or abort".into()),
    }
}

/// The number of `name=number`.
pub(crate) fn setting<T: FromStr>(more: &[&str], name: &str, otherwise: T) -> Result<T, String> {
    let value = more.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.map_or(Ok(otherwise), parse)
}

pub(crate) fn parse<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` means nothing here"))
}
