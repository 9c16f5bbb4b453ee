//! After a crash: the machine goes on from what the log holds, or aborts what the log does not
//! hold.

use bytes::Bytes;

use super::machine::NO_REQUEST;
use super::{Branch, BranchState, Effect, State, TwoPhase};
use crate::durable::Output;
use crate::ids::{Epoch, Gtid, InstanceId};
use crate::reason::{AbortCode, AbortReason};
use crate::record::{Attempted, Decided, Decision, Delegated, Member};

impl TwoPhase {
    /// Takes up a decision that the log holds: every branch that may not have learnt it is told.
    pub fn recover(decided: &Decided, epoch: Epoch) -> (Self, Output<Effect>) {
        let state = match decided.decision {
            Decision::Commit => State::Committing,
            Decision::Abort => State::Aborting,
        };
        let mut machine = Self::new(decided.gtid, epoch, decided.begun_at_ms, state);
        // An abort that was presumed had no request, so any request that comes now is its first.
        machine.digest = (decided.digest != NO_REQUEST).then_some(decided.digest);
        machine.has_open_row = true;
        machine.reason = decided.reason.as_deref().map(AbortReason::from_line);
        machine.branches = decided.members.iter().map(|member| Branch::prepared(member.clone(), None)).collect();
        let mut effects = machine.orders();
        let output = machine.finish_if_all_ended(&mut effects);
        (machine, output.unwrap_or_else(|| Output::effects(effects)))
    }

    /// Takes up a delegation that the log holds. The only branch may have committed by itself: the
    /// machine orders it to abort until it tells.
    pub fn recover_delegated(delegated: &Delegated, epoch: Epoch) -> (Self, Output<Effect>) {
        let mut machine = Self::new(delegated.gtid, epoch, delegated.begun_at_ms, State::Recalling);
        machine.digest = (delegated.digest != NO_REQUEST).then_some(delegated.digest);
        (machine.has_open_row, machine.is_delegated) = (true, true);
        machine.reason = Some(AbortReason::by(
            AbortCode::Forgotten,
            &delegated.member.participant,
            "the coordinator restarted before the only branch had answered, and that branch had not committed",
        ));
        machine.branches.push(Branch { state: BranchState::Asked, ..Branch::prepared(delegated.member.clone(), None) });
        let orders = machine.orders();
        (machine, Output::effects(orders))
    }

    /// Takes up a three-phase transaction whose voters have yet to agree: the log has 'attempt 1
    /// sent', so every branch voted yes.
    pub(crate) fn resume(attempted: &Attempted, epoch: Epoch) -> Self {
        let mut machine = Self::new(attempted.gtid, epoch, attempted.begun_at_ms, State::Deciding(Decision::Commit));
        machine.digest = (attempted.digest != NO_REQUEST).then_some(attempted.digest);
        machine.may_recur = true;
        let seats = attempted.roster.participants();
        machine.branches = seats.iter().map(|seat| Branch::prepared(seat.member(), None)).collect();
        machine
    }

    /// Answers the inquiry of a prepared branch about a transaction that nobody knows: the abort is
    /// made durable, so that no commit can come after the answer.
    pub fn presume_abort(
        gtid: Gtid,
        epoch: Epoch,
        now_ms: u64,
        inquirer: Member,
        instance: InstanceId,
    ) -> (Self, Output<Effect>) {
        let mut machine = Self::new(gtid, epoch, now_ms, State::Deciding(Decision::Abort));
        machine.reason = Some(AbortReason::new(
            AbortCode::Forgotten,
            "a prepared branch asked for a decision that was never made; presumed abort",
        ));
        machine.branches.push(Branch::prepared(inquirer, Some(instance)));
        let output = machine.decide(Decision::Abort);
        (machine, output)
    }

    /// Answers a request about a transaction that may have been under way before, and of which
    /// nothing is known: one that was begun, or whose request comes again. The abort is made
    /// durable; the request is handed to the machine as the next event, and is answered then. What
    /// was asked for first is not known, so the abort is the answer to every body.
    pub fn forgotten(gtid: Gtid, epoch: Epoch, now_ms: u64, message: &str) -> (Self, Output<Effect>) {
        let mut machine = Self::new(gtid, epoch, now_ms, State::Deciding(Decision::Abort));
        machine.reason = Some(AbortReason::new(AbortCode::Forgotten, message));
        let output = machine.decide(Decision::Abort);
        (machine, output)
    }
}

impl Branch {
    fn prepared(member: Member, instance: Option<InstanceId>) -> Self {
        let Member { participant, branch: id } = member;
        Self { participant, id, state: BranchState::Yes, instance, payload: Bytes::new() }
    }
}
