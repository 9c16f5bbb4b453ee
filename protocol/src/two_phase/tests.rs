//! The promises of the coordinator's machine.

mod cells;
mod deciding;
mod ending;
mod identity;
mod one_phase;
mod preparing;
mod violations;

use super::{
    Branch, BranchResult, BranchState, CarriedBranch, EarlyVote, Effect, Event, Order, Patience, Reply, Route, State,
    Timer, TwoPhase, Vote, invariant,
};
use crate::branch::{Acknowledgement, HookEnd};
use crate::durable::{Appended, Durable, Output};
use crate::ids::{BodyDigest, BranchId, Caller, Epoch, Gtid, InstanceId, ParticipantName};
use crate::reason::Wait;
use crate::record::{Decided, Decision, Delegated, Ended, Member, Outcome, Record};
use crate::record::{RecordId, RecordKind};

const EPOCH: Epoch = Epoch(3);
const INSTANCE: InstanceId = InstanceId(1);
const OTHER_INSTANCE: InstanceId = InstanceId(2);
const PATIENCE: Patience = Patience { timeout_ms: 30_000, absence_ms: 5_000 };
const DIGEST: BodyDigest = BodyDigest(7);
/// The id of the first branch that a commit request carries.
const FIRST_ID: BranchId = BranchId { epoch: EPOCH, number: 1 };
/// The branch of a call that came twice: under a name of the roster, and not in it.
const TWIN: BranchId = BranchId { epoch: EPOCH, number: 0xfff };

fn gtid() -> Gtid {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("valid")
}

fn begun_at_ms() -> u64 {
    gtid().minted_at_ms()
}

fn name(text: &str) -> ParticipantName {
    ParticipantName::new(text).expect("valid")
}

/// The id of a branch that was not carried: each participant has its own.
fn id(participant: &str) -> BranchId {
    let number = participant.bytes().fold(0x100, |number, byte| number + u64::from(byte));
    BranchId { epoch: EPOCH, number }
}

fn member(participant: &str) -> Member {
    Member { participant: name(participant), branch: id(participant) }
}

fn twin(participant: &str) -> Member {
    Member { participant: name(participant), branch: TWIN }
}

/// The participants of a roster.
fn names(members: &[Member]) -> Vec<&str> {
    members.iter().map(|member| member.participant.as_str()).collect()
}

fn carried(participant: &str) -> CarriedBranch {
    CarriedBranch { participant: name(participant), payload: "work".into() }
}

#[expect(clippy::disallowed_methods, reason = "the test is the log")]
fn receipt() -> Durable {
    Durable::attest(RecordId { gtid: gtid(), kind: RecordKind::Decided(Decision::Commit) })
}

fn caller(request: u64) -> Caller {
    Caller { session: 1, request }
}

/// A machine whose invariants are checked at every step, and what it wants done.
struct Driven {
    machine: TwoPhase,
    output: Output<Effect>,
}

impl Driven {
    fn begun() -> Self {
        Self::from(TwoPhase::begin(gtid(), EPOCH, begun_at_ms(), PATIENCE))
    }

    fn from((machine, output): (TwoPhase, Output<Effect>)) -> Self {
        invariant::check_begun(&machine, &output).expect("a fair beginning");
        Self { machine, output }
    }

    /// Asked to commit these carried branches, for the first time, by request 1.
    fn committing(participants: &[&str]) -> Self {
        let mut driven = Self::begun();
        driven.commit(&Commit::of(participants));
        driven
    }

    /// Asked to commit, and everybody who was asked is there.
    fn preparing(participants: &[&str]) -> Self {
        let mut driven = Self::committing(participants);
        for participant in participants {
            driven.routed(participant, Route::Instance(INSTANCE));
        }
        driven
    }

    fn on(&mut self, event: Event) -> &mut Self {
        let before = self.machine.clone();
        self.output = self.machine.handle(event.clone());
        invariant::check(&before, &event, &self.machine, &self.output).expect("no invariant breaks");
        self
    }

    fn commit(&mut self, commit: &Commit) -> &mut Self {
        self.on(Event::CommitRequested {
            branches: commit.participants.iter().map(|participant| carried(participant)).collect(),
            first_id: FIRST_ID,
            digest: commit.digest,
            one_phase: commit.one_phase,
            may_recur: commit.may_recur,
            caller: caller(commit.request),
            wait: commit.wait,
        })
    }

    fn enlist(&mut self, participant: &str, vote: EarlyVote) -> &mut Self {
        self.enlist_as(member(participant), vote)
    }

    fn enlist_as(&mut self, Member { participant, branch }: Member, vote: EarlyVote) -> &mut Self {
        self.on(Event::Enlisted { participant, branch, instance: INSTANCE, vote, caller: caller(90) })
    }

    fn routed(&mut self, participant: &str, to: Route) -> &mut Self {
        self.on(Event::Routed { participant: name(participant), to })
    }

    fn votes(&mut self, participant: &str, vote: Vote) -> &mut Self {
        self.votes_as(self.member(participant), vote)
    }

    fn votes_at(&mut self, instance: InstanceId, participant: &str, vote: Vote) -> &mut Self {
        let Member { participant, branch } = self.member(participant);
        self.on(Event::Voted { participant, branch, instance, vote })
    }

    fn votes_as(&mut self, Member { participant, branch }: Member, vote: Vote) -> &mut Self {
        self.on(Event::Voted { participant, branch, instance: INSTANCE, vote })
    }

    fn acknowledges(&mut self, participant: &str, result: BranchResult) -> &mut Self {
        let end = HookEnd::Ended(result);
        self.acknowledges_as(self.member(participant), Acknowledgement { end, ..self.acknowledgement() })
    }

    fn acknowledges_as(&mut self, member: Member, acknowledgement: Acknowledgement) -> &mut Self {
        let Member { participant, branch } = member;
        self.on(Event::Acknowledged { participant, branch, acknowledgement })
    }

    fn inquires(&mut self, participant: &str) -> &mut Self {
        self.inquires_as(self.member(participant))
    }

    fn inquires_as(&mut self, Member { participant, branch }: Member) -> &mut Self {
        self.on(Event::Inquired { participant, branch, instance: INSTANCE })
    }

    fn joins(&mut self, participant: &str) -> &mut Self {
        self.on(Event::Joined { participant: name(participant) })
    }

    fn leaves(&mut self, participant: &str) -> &mut Self {
        self.on(Event::Left { participant: name(participant), instance: INSTANCE })
    }

    fn fires(&mut self, timer: Timer) -> &mut Self {
        self.on(Event::TimerFired(timer))
    }

    fn awaits(&mut self, request: u64, wait: Wait) -> &mut Self {
        self.on(Event::OutcomeAwaited { caller: caller(request), wait })
    }

    fn aborts(&mut self, request: u64) -> &mut Self {
        self.on(Event::AbortRequested { reason: "changed my mind".to_owned(), caller: caller(request) })
    }

    fn durable(&mut self) -> &mut Self {
        self.on(Event::Appended(Appended::Durable(receipt())))
    }

    /// Another writer has decided, for the same branches.
    fn overruled(&mut self, decision: Decision) -> &mut Self {
        self.overruled_for(decision, self.machine.members())
    }

    fn overruled_for(&mut self, decision: Decision, members: Vec<Member>) -> &mut Self {
        self.on(Event::Appended(Appended::Overruled { decision, members }))
    }

    // ---- what came of it -------------------------------------------------------------------------------------------

    fn state(&self) -> State {
        self.machine.state()
    }

    /// The participant's branch in the roster, or another that it has.
    fn member(&self, participant: &str) -> Member {
        let of_roster = self.machine.members().into_iter().find(|member| member.participant == name(participant));
        of_roster.unwrap_or_else(|| member(participant))
    }

    /// How a branch answers the order that the machine gives now.
    fn acknowledgement(&self) -> Acknowledgement {
        let decision = if self.state() == State::Committing { Decision::Commit } else { Decision::Abort };
        Acknowledgement { decision, epoch: self.machine.epoch(), end: HookEnd::Ended(BranchResult::Done) }
    }

    fn branch(&self, participant: &str) -> BranchState {
        let branches = self.machine.branches();
        branches.iter().find(|branch| branch.participant.as_str() == participant).expect("in the roster").state
    }

    /// The orders of the last output, as `participant: order`.
    fn orders(&self) -> Vec<String> {
        let orders = self.output.peek_effects().iter().filter_map(|effect| match effect {
            Effect::Send { to, order: Order::Prepare { one_phase: false, .. }, .. } => Some(format!("{to}: prepare")),
            Effect::Send { to, order: Order::Prepare { one_phase: true, .. }, .. } => {
                Some(format!("{to}: commit alone"))
            }
            Effect::Send { to, order: Order::Commit, .. } => Some(format!("{to}: commit")),
            Effect::Send { to, order: Order::Abort, .. } => Some(format!("{to}: abort")),
            Effect::Reply { .. } | Effect::SetTimer { .. } | Effect::CancelTimer(_) => None,
        });
        orders.collect()
    }

    /// What the last output orders this very branch to do.
    fn told_to(&self, member: &Member) -> Vec<Order> {
        let orders = self.output.peek_effects().iter().filter_map(|effect| match effect {
            Effect::Send { to, branch, order, .. } if (to, branch) == (&member.participant, &member.branch) => {
                Some(order.clone())
            }
            Effect::Send { .. } | Effect::Reply { .. } | Effect::SetTimer { .. } | Effect::CancelTimer(_) => None,
        });
        orders.collect()
    }

    /// The payloads that the last output asks to prepare with.
    fn payloads(&self) -> Vec<&[u8]> {
        let payloads = self.output.peek_effects().iter().filter_map(|effect| match effect {
            Effect::Send { order: Order::Prepare { payload, .. }, .. } => Some(payload.as_ref()),
            Effect::Send { .. } | Effect::Reply { .. } | Effect::SetTimer { .. } | Effect::CancelTimer(_) => None,
        });
        payloads.collect()
    }

    /// The answer that the last output has for a request.
    fn answer(&self, request: u64) -> Option<&Reply> {
        self.output.peek_effects().iter().find_map(|effect| match effect {
            Effect::Reply { to, reply } if *to == caller(request) => Some(reply),
            Effect::Reply { .. } | Effect::Send { .. } | Effect::SetTimer { .. } | Effect::CancelTimer(_) => None,
        })
    }

    /// The outcome that the last output tells a request.
    fn told(&self, request: u64) -> Option<Outcome> {
        match self.answer(request)? {
            Reply::Outcome { outcome, .. } => Some(*outcome),
            Reply::Begun | Reply::Enlisted | Reply::Refused(_) => None,
        }
    }

    fn timer(&self, wanted: Timer) -> Option<u64> {
        self.output.peek_effects().iter().find_map(|effect| match effect {
            Effect::SetTimer { timer, after_ms, .. } if *timer == wanted => Some(*after_ms),
            Effect::SetTimer { .. } | Effect::Send { .. } | Effect::Reply { .. } | Effect::CancelTimer(_) => None,
        })
    }

    /// The decision that has to be durable before the effects of the last output.
    fn forced(&self) -> Option<&Decided> {
        match self.output.forced() {
            Some(Record::Decided(decided)) => Some(decided),
            Some(other) => panic!("only a decision is forced: {other:?}"),
            None => None,
        }
    }

    /// The delegation that has to be durable before the only branch is ordered to commit by itself.
    fn delegated(&self) -> Option<&Delegated> {
        match self.output.forced() {
            Some(Record::Delegated(delegated)) => Some(delegated),
            Some(other) => panic!("only a delegation is forced: {other:?}"),
            None => None,
        }
    }

    fn ended(&self) -> Option<&Ended> {
        self.output.records().find_map(|record| match record {
            Record::Ended(ended) => Some(ended),
            Record::Decided(_)
            | Record::Delegated(_)
            | Record::Attempted(_)
            | Record::Agreed(_)
            | Record::Voter(_)
            | Record::SagaStarted(_)
            | Record::SagaTurned(_)
            | Record::SagaStep(_)
            | Record::SagaPaused(_) => None,
        })
    }
}

/// A commit request.
struct Commit<'a> {
    participants: &'a [&'a str],
    digest: BodyDigest,
    one_phase: bool,
    may_recur: bool,
    wait: Wait,
    request: u64,
}

impl<'a> Commit<'a> {
    fn of(participants: &'a [&'a str]) -> Self {
        Self { participants, digest: DIGEST, one_phase: false, may_recur: false, wait: Wait::Decided, request: 1 }
    }

    fn one_phase(participant: &'a [&'a str; 1]) -> Self {
        Self { one_phase: true, ..Self::of(participant) }
    }

    /// The same once more, after its session broke.
    fn repeated(self) -> Self {
        Self { may_recur: true, request: self.request + 1, ..self }
    }
}

fn no() -> Vote {
    Vote::No("no money".to_owned())
}

fn unknown() -> Vote {
    Vote::Unknown("connection reset".to_owned())
}
