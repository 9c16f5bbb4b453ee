//! Parts that move what has ended to history.

use assent_protocol::record::{Ended, EndedBranch};
use assent_protocol::{BranchEnd, Decision, Outcome, Protocol};

use super::{Context, Encoded, Statement};
use crate::log::plan::Plan;
use crate::log::postgres::value::Timestamp;
use crate::log::stored;

impl Statement {
    /// An end moves only the row that it is an end of, as
    /// [`Standing::is_ended_by`](assent_protocol::verdict::Standing::is_ended_by) has it.
    pub(super) fn ends(&mut self, plan: &Plan<'_>, context: &Context) -> Encoded {
        let (sagas, commits): (Vec<&Ended>, Vec<&Ended>) =
            plan.ends.iter().partition(|ended| ended.protocol == Protocol::Saga);
        let (closed, ended): (Vec<&Ended>, Vec<&Ended>) =
            commits.into_iter().partition(|ended| ended.protocol == Protocol::TwoPhase && is_plain_end(ended));
        if !closed.is_empty() {
            self.closed(&closed, context)?;
        }
        // Those who commit together do so again and again.
        let alike = ended.iter().find(|ended| is_plain_end(ended)).map(|ended| ended.branches.as_slice());
        let (agreed, ended): (Vec<&Ended>, Vec<&Ended>) = ended.into_iter().partition(|ended| {
            is_plain_end(ended) && alike.is_some_and(|branches| are_of_same_participants(&ended.branches, branches))
        });
        if let Some(branches) = alike {
            self.closed_as_agreed(&agreed, branches, context)?;
        }
        for (name, protocol, decision) in [
            ("ended_2pc_commit", Protocol::TwoPhase, Decision::Commit),
            ("ended_2pc_abort", Protocol::TwoPhase, Decision::Abort),
            ("ended_3pc_commit", Protocol::ThreePhase, Decision::Commit),
            ("ended_3pc_abort", Protocol::ThreePhase, Decision::Abort),
        ] {
            let fits = |ended: &&Ended| ended.protocol == protocol && ended.outcome.decision() == decision;
            let those: Vec<&Ended> = ended.iter().copied().filter(fits).collect();
            if those.is_empty() {
                continue;
            }
            let (condition, decided_at) = ended_row(protocol, decision, context);
            self.ended_as(name, &those, (&condition, &decided_at), context)?;
        }
        if !sagas.is_empty() {
            self.ended_as("saga_ended", &sagas, ("protocol = 'saga'", "decided_at"), context)?;
            // By an array and not by a join, so that the rows are found by their key whatever the
            // planner believes.
            let forget = "delete from assent.saga_step where gtid = any(array(select gtid from saga_ended))";
            self.part("forgotten_steps as", forget);
        }
        Ok(())
    }

    fn closed(&mut self, closed: &[&Ended], context: &Context) -> Encoded {
        let Context { at, on_conflict, .. } = context;
        let gtids = self.bind_each(closed, |ended| ended.gtid.as_uuid())?;
        self.ended.push("closed");
        let (condition, decided_at) = ended_row(Protocol::TwoPhase, Decision::Commit, context);
        self.part("closed as", &deletion(gtids, &format!("protocol = '2pc' and {condition}"), &decided_at, context));
        self.part(
            "closed_history as",
            &format!(
                "insert into assent.history
                     (gtid, ended_at, begun_at, decided_at, digest, protocol, outcome, branches, branch_ids)
                 select gtid, ${at}, begun_at, decided_at, digest, protocol, 'committed', participants, branch_ids
                 from closed {on_conflict}"
            ),
        );
        Ok(())
    }

    /// Plainly committed 3PCs of the same participants, which need be said once. The ids of their
    /// branches differ.
    fn closed_as_agreed(&mut self, closed: &[&Ended], branches: &[EndedBranch], context: &Context) -> Encoded {
        let Context { at, on_conflict, .. } = context;
        let gtids = self.bind_each(closed, |ended| ended.gtid.as_uuid())?;
        let branches = self.bind(stored::branches(Outcome::Committed, branches))?;
        let branch_ids = self.bind_each(closed, |ended| stored::ended_ids(&ended.branches))?;
        let (condition, decided_at) = ended_row(Protocol::ThreePhase, Decision::Commit, context);
        self.ended.push("closed_3pc");
        self.part("closed_3pc as", &deletion(gtids, &condition, &decided_at, context));
        self.part(
            "closed_3pc_history as",
            &format!(
                "insert into assent.history
                     (gtid, ended_at, begun_at, decided_at, digest, protocol, outcome, branches, branch_ids)
                 select o.gtid, ${at}, o.begun_at, o.decided_at, o.digest, o.protocol, 'committed', ${branches}::text, n.branch_ids
                 from closed_3pc o join unnest(${gtids}::uuid[], ${branch_ids}::text[]) as n (gtid, branch_ids) on n.gtid = o.gtid
                 {on_conflict}"
            ),
        );
        Ok(())
    }

    fn ended_as(
        &mut self,
        name: &'static str,
        ended: &[&Ended],
        (condition, decided_at): (&str, &str),
        context: &Context,
    ) -> Encoded {
        let Context { at, on_conflict, .. } = context;
        let gtids = self.bind_each(ended, |ended| ended.gtid.as_uuid())?;
        let columns = self.history_columns(ended)?;
        self.ended.push(name);
        self.part(&format!("{name} as"), &deletion(gtids, condition, decided_at, context));
        self.part(
            &format!("{name}_history as"),
            &format!(
                "insert into assent.history
                     (gtid, ended_at, begun_at, decided_at, digest, protocol, outcome, branches, branch_ids, reason, outputs)
                 select o.gtid, ${at}, o.begun_at, o.decided_at, o.digest, o.protocol,
                        n.outcome::assent.outcome, n.branches, n.branch_ids, n.reason, n.outputs::jsonb
                 from {name} o
                      join unnest(${gtids}::uuid[], {columns}) as n (gtid, outcome, branches, branch_ids, reason, outputs)
                      on n.gtid = o.gtid
                 {on_conflict}"
            ),
        );
        Ok(())
    }

    /// What never had an open row, unless it has one by now, or has ended under another hand.
    pub(super) fn unopened(&mut self, ended: &[&Ended], context: &Context) -> Encoded {
        let Context { at, on_conflict, .. } = context;
        let gtids = self.bind_each(ended, |ended| ended.gtid.as_uuid())?;
        let protocol = self.bind_each(ended, |ended| ended.protocol.as_str())?;
        let digest = self.bind_each(ended, |ended| stored::digest_column(ended.digest))?;
        let begun_at = self.bind_each(ended, |ended| Timestamp(ended.begun_at_ms))?;
        let columns = self.history_columns(ended)?;
        self.part(
            "unopened as",
            &format!(
                "insert into assent.history
                     (gtid, ended_at, begun_at, digest, protocol, outcome, branches, branch_ids, reason, outputs)
                 select n.gtid, ${at}, n.begun_at, n.digest, n.protocol::assent.protocol,
                        n.outcome::assent.outcome, n.branches, n.branch_ids, n.reason, n.outputs::jsonb
                 from unnest(${gtids}::uuid[], {columns}, ${protocol}::text[], ${digest}::bigint[], ${begun_at}::timestamptz[])
                      as n (gtid, outcome, branches, branch_ids, reason, outputs, protocol, digest, begun_at)
                 where exists (select from fence) and n.gtid <> all (select gtid from known)
                   and (select true from assent.open_transaction o where o.gtid = n.gtid limit 1) is null
                 {on_conflict}"
            ),
        );
        Ok(())
    }

    /// The columns `outcome, branches, branch_ids, reason, outputs` of ended transactions.
    fn history_columns(&mut self, ended: &[&Ended]) -> Encoded<String> {
        let outcome = self.bind_each(ended, |ended| ended.outcome.as_str())?;
        let branches = self.bind_each(ended, |ended| stored::branches(ended.outcome, &ended.branches))?;
        let branch_ids = self.bind_each(ended, |ended| stored::ended_ids(&ended.branches))?;
        let reason = self.bind_each(ended, |ended| ended.reason.as_deref().map(|r| stored::text(r).into_owned()))?;
        let outputs = self.bind_each(ended, |ended| stored::outputs(&ended.outputs))?;
        Ok(format!(
            "${outcome}::text[], ${branches}::text[], ${branch_ids}::text[], ${reason}::text[], ${outputs}::text[]"
        ))
    }
}

fn deletion(gtids: usize, condition: &str, decided_at: &str, context: &Context) -> String {
    let epoch = context.epoch;
    format!(
        "delete from assent.open_transaction
         where gtid = any(${gtids}) and {condition} and owner_epoch = ${epoch} and exists (select from fence)
         returning gtid, begun_at, {decided_at}, digest, protocol, participants, branch_ids"
    )
}

fn is_decided(decision: Decision) -> String {
    format!("protocol <> 'saga' and decision = '{}'", decision.as_str())
}

/// Which row an end is an end of, and when that was decided: what the voters agreed on, or what the
/// only branch did, may come with the end.
fn ended_row(protocol: Protocol, decision: Decision, context: &Context) -> (String, String) {
    let at = context.at;
    let undecided = format!("protocol = '{protocol}' and decision is null");
    let condition = format!("({} or {undecided})", is_decided(decision));
    let decided_at = format!("case when {undecided} then ${at} else decided_at end as decided_at");
    (condition, decided_at)
}

/// Whether all branches committed, as decided: then there is nothing more to say of them than who
/// they are. A 2PC's are its open row's.
fn is_plain_end(ended: &Ended) -> bool {
    ended.outcome == Outcome::Committed
        && ended.reason.is_none()
        && !ended.branches.is_empty()
        && ended.branches.iter().all(|branch| branch.end == BranchEnd::Committed && branch.step.is_none())
}

/// Whether two plain ends have the same text: the ids of their branches are not in it.
fn are_of_same_participants(these: &[EndedBranch], those: &[EndedBranch]) -> bool {
    these.len() == those.len() && these.iter().zip(those).all(|(this, that)| this.participant == that.participant)
}
