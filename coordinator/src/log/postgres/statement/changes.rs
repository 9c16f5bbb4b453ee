//! Parts that write to open rows of the epoch's own.

use assent_protocol::record::Decided;
use assent_protocol::saga::StepResult;

use super::{Context, Encoded, Statement};
use crate::log::plan::{Change, Plan, Vote};
use crate::log::stored;

impl Statement {
    /// Decisions over our own delegations.
    pub(super) fn settled(&mut self, decisions: &[&Decided], context: &Context) -> Encoded {
        self.opened.push("settled");
        self.decided_over("settled as", "2pc", decisions, context)
    }

    /// What the voters agreed on.
    pub(super) fn agreed(&mut self, agreements: &[&Decided], context: &Context) -> Encoded {
        self.decided_over("agreed as", "3pc", agreements, context)
    }

    /// Into our own rows, which keep what they were opened with. By `= any` and not by a join, as
    /// [`Self::changed`].
    fn decided_over(&mut self, part: &str, protocol: &str, decisions: &[&Decided], context: &Context) -> Encoded {
        let Context { epoch, at, .. } = context;
        let gtids = self.bind_each(decisions, |decided| decided.gtid.as_uuid())?;
        let decision = self.bind_each(decisions, |decided| decided.decision.as_str())?;
        let participants = self.bind_each(decisions, |decided| stored::names(&decided.members))?;
        let branch_ids = self.bind_each(decisions, |decided| stored::ids(&decided.members))?;
        let reason =
            self.bind_each(decisions, |decided| decided.reason.as_deref().map(|r| stored::text(r).into_owned()))?;
        let of = |array: usize| format!("(${array}::text[])[array_position(${gtids}::uuid[], o.gtid)]");
        let (decision, reason) = (of(decision), of(reason));
        let (participants, branch_ids) = (of(participants), of(branch_ids));
        self.part(
            part,
            &format!(
                "update assent.open_transaction o
                 set decision = {decision}::assent.decision, participants = {participants}, branch_ids = {branch_ids},
                     reason = {reason}, decided_at = ${at}
                 where o.gtid = any(${gtids}) and o.protocol = '{protocol}' and o.decision is null and o.owner_epoch = ${epoch}
                   and exists (select from fence)
                 returning 1"
            ),
        );
        Ok(())
    }

    pub(super) fn voted(&mut self, votes: &[Vote], context: &Context) -> Encoded {
        let epoch = context.epoch;
        let gtids = self.bind_each(votes, |vote| vote.gtid.as_uuid())?;
        let before = self.bind_each(votes, |vote| stored::voter(&vote.before))?;
        let state = self.bind_each(votes, |vote| stored::voter(&vote.state))?;
        let of = |array: usize| format!("(${array}::text[])[array_position(${gtids}::uuid[], o.gtid)]");
        let (before, state) = (of(before), of(state));
        self.part(
            "voted as",
            &format!(
                "update assent.open_transaction o
                 set voter = {state}
                 where o.gtid = any(${gtids}) and o.voter = {before} and o.decision is null and o.owner_epoch = ${epoch}
                   and exists (select from fence)
                 returning 1"
            ),
        );
        Ok(())
    }

    /// By `= any` and not by a join, so that the rows are found by their key whatever the planner
    /// believes.
    pub(super) fn changed(&mut self, changes: &[Change<'_>], context: &Context) -> Encoded {
        let epoch = context.epoch;
        let gtids = self.bind_each(changes, |change| change.gtid.as_uuid())?;
        let turned = self.bind_each(changes, |change| change.turned.map(|reason| stored::text(reason).into_owned()))?;
        let pauses = self.bind_each(changes, |change| change.paused.is_some())?;
        let remedy =
            self.bind_each(changes, |change| change.paused.flatten().map(|remedy| stored::text(remedy).into_owned()))?;
        let of = |array: usize, kind: &str| format!("(${array}::{kind}[])[array_position(${gtids}::uuid[], o.gtid)]");
        let (turned, pauses, remedy) = (of(turned, "text"), of(pauses, "boolean"), of(remedy, "text"));
        self.part(
            "changed as",
            &format!(
                "update assent.open_transaction o
                 set decision = case when {turned} is null then o.decision else 'abort' end,
                     reason = coalesce(o.reason, {turned}),
                     remedy = case when {pauses} then {remedy} else o.remedy end
                 where o.gtid = any(${gtids}) and o.protocol = 'saga' and o.owner_epoch = ${epoch}
                   and exists (select from fence)
                 returning 1"
            ),
        );
        Ok(())
    }

    pub(super) fn stepped(&mut self, plan: &Plan<'_>, context: &Context) -> Encoded {
        let Context { epoch, at, .. } = context;
        let gtids = self.bind_each(&plan.steps, |step| step.gtid.as_uuid())?;
        let step = self.bind_each(&plan.steps, |step| i32::from(step.step.0))?;
        let compensation = self.bind_each(&plan.steps, |step| step.compensation)?;
        let attempt = self.bind_each(&plan.steps, |step| i64::from(step.attempt))?;
        let result = self.bind_each(&plan.steps, |step| stored::result(&step.result).0)?;
        let output = self.bind_each(&plan.steps, |step| match &step.result {
            StepResult::Done(output) => Some(output.to_vec()),
            StepResult::Refused(_) | StepResult::Unknown(_) => None,
        })?;
        let reason =
            self.bind_each(&plan.steps, |step| stored::result(&step.result).1.map(|reason| reason.into_owned()))?;
        self.part(
            "stepped as",
            &format!(
                "insert into assent.saga_step (gtid, step, compensation, attempt, result, output, reason, at)
                 select n.*, ${at}
                 from unnest(${gtids}::uuid[], ${step}::integer[], ${compensation}::boolean[], ${attempt}::bigint[],
                             ${result}::text[], ${output}::bytea[], ${reason}::text[])
                      as n (gtid, step, compensation, attempt, result, output, reason)
                 where exists (select from fence)
                   and (select true from assent.open_transaction o
                        where o.gtid = n.gtid and o.protocol = 'saga' and o.owner_epoch = ${epoch} limit 1)
                 on conflict (gtid, step, compensation) do update
                 set attempt = excluded.attempt, result = excluded.result, output = excluded.output,
                     reason = excluded.reason, at = excluded.at
                 returning 1"
            ),
        );
        Ok(())
    }
}
