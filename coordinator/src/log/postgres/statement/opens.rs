//! Parts that insert open rows, where the gtid is neither open nor ended.

use assent_protocol::record::{Decided, Delegated};
use assent_protocol::three_phase::{Roster, VoterState};
use assent_protocol::{Decision, Protocol};

use super::{Context, Encoded, Statement};
use crate::log::plan::Plan;
use crate::log::postgres::value::{Timestamp, uuids};
use crate::log::stored;

impl Statement {
    pub(super) fn newcomers(&mut self, plan: &Plan<'_>, context: &Context) -> Encoded {
        let (commits, decisions): (Vec<&Decided>, Vec<&Decided>) =
            plan.decisions.iter().partition(|decided| is_plain_commit(decided));
        let gtids = uuids(plan.newcomers());
        if gtids.is_empty() {
            return Ok(());
        }
        let gtids = self.bind(gtids)?;
        // Both bounds, so that only the partitions of about today are looked at.
        let (from_ms, to_ms) = plan.newcomers_ended_ms(context.at_ms);
        let (from, to) = (self.bind(Timestamp(from_ms))?, self.bind(Timestamp(to_ms))?);
        self.part(
            "known as materialized",
            &format!(
                "select gtid from assent.history where gtid = any(${gtids}) and ended_at between ${from} and ${to}"
            ),
        );
        if !commits.is_empty() {
            // Mostly there is nothing else: then the ids need not be sent twice.
            let alone = plan.newcomers().count() == commits.len();
            let gtids = if alone { gtids } else { self.bind_each(&commits, |decided| decided.gtid.as_uuid())? };
            self.committed(&commits, gtids, context)?;
        }
        if !decisions.is_empty() {
            self.decided(&decisions, context)?;
        }
        if !plan.delegations.is_empty() {
            self.delegated(&plan.delegations, context)?;
        }
        if !plan.attempts.is_empty() {
            self.attempted(plan, context)?;
        }
        if !plan.starts.is_empty() {
            self.started(plan, context)?;
        }
        if !plan.unopened.is_empty() {
            self.unopened(&plan.unopened, context)?;
        }
        Ok(())
    }

    fn committed(&mut self, commits: &[&Decided], gtids: usize, context: &Context) -> Encoded {
        let Context { epoch, at, on_conflict, .. } = context;
        let participants = self.bind_each(commits, |decided| stored::names(&decided.members))?;
        let branch_ids = self.bind_each(commits, |decided| stored::ids(&decided.members))?;
        let digest = self.bind_each(commits, |decided| stored::digest_column(decided.digest))?;
        let begun_at = self.bind_each(commits, |decided| Timestamp(decided.begun_at_ms))?;
        self.opened.push("committed");
        self.part(
            "committed as",
            &format!(
                "insert into assent.open_transaction
                     (gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants, branch_ids)
                 select n.gtid, ${epoch}, n.digest, n.begun_at, ${at}, '2pc', 'commit', n.participants, n.branch_ids
                 from unnest(${gtids}::uuid[], ${participants}::text[], ${branch_ids}::text[], ${digest}::bigint[],
                             ${begun_at}::timestamptz[])
                      as n (gtid, participants, branch_ids, digest, begun_at)
                 where exists (select from fence) and n.gtid <> all (select gtid from known)
                 {on_conflict} returning 1"
            ),
        );
        Ok(())
    }

    fn decided(&mut self, decisions: &[&Decided], context: &Context) -> Encoded {
        let Context { epoch, at, on_conflict, .. } = context;
        let gtids = self.bind_each(decisions, |decided| decided.gtid.as_uuid())?;
        let protocol = self.bind_each(decisions, |decided| decided.protocol.as_str())?;
        let decision = self.bind_each(decisions, |decided| decided.decision.as_str())?;
        let participants = self.bind_each(decisions, |decided| stored::names(&decided.members))?;
        let branch_ids = self.bind_each(decisions, |decided| stored::ids(&decided.members))?;
        let digest = self.bind_each(decisions, |decided| stored::digest_column(decided.digest))?;
        let begun_at = self.bind_each(decisions, |decided| Timestamp(decided.begun_at_ms))?;
        let reason =
            self.bind_each(decisions, |decided| decided.reason.as_deref().map(|r| stored::text(r).into_owned()))?;
        self.opened.push("decided");
        self.part(
            "decided as",
            &format!(
                "insert into assent.open_transaction
                     (gtid, owner_epoch, digest, begun_at, decided_at, protocol, decision, participants, branch_ids, reason)
                 select n.gtid, ${epoch}, n.digest, n.begun_at, ${at}, n.protocol::assent.protocol,
                        n.decision::assent.decision, n.participants, n.branch_ids, n.reason
                 from unnest(${gtids}::uuid[], ${protocol}::text[], ${decision}::text[], ${participants}::text[],
                             ${branch_ids}::text[], ${digest}::bigint[], ${begun_at}::timestamptz[], ${reason}::text[])
                      as n (gtid, protocol, decision, participants, branch_ids, digest, begun_at, reason)
                 where exists (select from fence) and n.gtid <> all (select gtid from known)
                 {on_conflict} returning 1"
            ),
        );
        Ok(())
    }

    fn delegated(&mut self, delegations: &[&Delegated], context: &Context) -> Encoded {
        let Context { epoch, at, on_conflict, .. } = context;
        let gtids = self.bind_each(delegations, |delegated| delegated.gtid.as_uuid())?;
        let participant = self.bind_each(delegations, |delegated| delegated.member.participant.as_str().to_owned())?;
        let branch_id =
            self.bind_each(delegations, |delegated| stored::ids(std::slice::from_ref(&delegated.member)))?;
        let digest = self.bind_each(delegations, |delegated| stored::digest_column(delegated.digest))?;
        let begun_at = self.bind_each(delegations, |delegated| Timestamp(delegated.begun_at_ms))?;
        self.opened.push("delegated");
        self.part(
            "delegated as",
            &format!(
                "insert into assent.open_transaction
                     (gtid, owner_epoch, digest, begun_at, decided_at, protocol, participants, branch_ids)
                 select n.gtid, ${epoch}, n.digest, n.begun_at, ${at}, '2pc', n.participant, n.branch_id
                 from unnest(${gtids}::uuid[], ${participant}::text[], ${branch_id}::text[], ${digest}::bigint[],
                             ${begun_at}::timestamptz[])
                      as n (gtid, participant, branch_id, digest, begun_at)
                 where exists (select from fence) and n.gtid <> all (select gtid from known)
                 {on_conflict} returning 1"
            ),
        );
        Ok(())
    }

    fn attempted(&mut self, plan: &Plan<'_>, context: &Context) -> Encoded {
        let Context { epoch, at, on_conflict, .. } = context;
        let gtids = self.bind_each(&plan.attempts, |attempted| attempted.gtid.as_uuid())?;
        // Those who commit together do so again and again: each roster is said, and read, once for
        // those that have it in a row. Only the ids of their branches differ.
        let mut rosters: Vec<&Roster> = Vec::new();
        let mut numbers = Vec::with_capacity(plan.attempts.len());
        for attempted in &plan.attempts {
            if !rosters.last().is_some_and(|last| stored::are_same_voters(last, &attempted.roster)) {
                rosters.push(&attempted.roster);
            }
            numbers.push(i32::try_from(rosters.len()).unwrap_or(i32::MAX));
        }
        let number = self.bind(numbers)?;
        let participants = self.bind_each(&rosters, |roster| stored::roster(stored::voter_names(roster)))?;
        let roster = self.bind_each(&rosters, |roster| stored::voters(roster))?;
        let branch_ids = self.bind_each(&plan.attempts, |attempted| stored::voter_ids(&attempted.roster))?;
        let digest = self.bind_each(&plan.attempts, |attempted| stored::digest_column(attempted.digest))?;
        let begun_at = self.bind_each(&plan.attempts, |attempted| Timestamp(attempted.begun_at_ms))?;
        let voter = self.bind(stored::voter(&VoterState::ATTEMPTED))?;
        self.opened.push("attempted");
        self.part(
            "attempted as",
            &format!(
                "insert into assent.open_transaction
                     (gtid, owner_epoch, digest, begun_at, decided_at, protocol, participants, branch_ids, voter, roster)
                 select n.gtid, ${epoch}, n.digest, n.begun_at, ${at}, '3pc', (${participants}::text[])[n.roster], n.branch_ids,
                        ${voter}::text, (select ${roster}::text[]::jsonb[])[n.roster]
                 from unnest(${gtids}::uuid[], ${number}::integer[], ${branch_ids}::text[], ${digest}::bigint[],
                             ${begun_at}::timestamptz[])
                      as n (gtid, roster, branch_ids, digest, begun_at)
                 where exists (select from fence) and n.gtid <> all (select gtid from known)
                 {on_conflict} returning 1"
            ),
        );
        Ok(())
    }

    fn started(&mut self, plan: &Plan<'_>, context: &Context) -> Encoded {
        let Context { epoch, at, on_conflict, .. } = context;
        let gtids = self.bind_each(&plan.starts, |started| started.gtid.as_uuid())?;
        let participants =
            self.bind_each(&plan.starts, |started| stored::roster(stored::saga_roster(&started.definition)))?;
        let digest = self.bind_each(&plan.starts, |started| stored::digest_column(started.digest))?;
        let begun_at = self.bind_each(&plan.starts, |started| Timestamp(started.begun_at_ms))?;
        let definition = self.bind_each(&plan.starts, |started| stored::definition(&started.definition))?;
        self.opened.push("started");
        self.part(
            "started as",
            &format!(
                "insert into assent.open_transaction
                     (gtid, owner_epoch, digest, begun_at, decided_at, protocol, participants, definition)
                 select n.gtid, ${epoch}, n.digest, n.begun_at, ${at}, 'saga', n.participants, n.definition::jsonb
                 from unnest(${gtids}::uuid[], ${participants}::text[], ${digest}::bigint[], ${begun_at}::timestamptz[],
                             ${definition}::text[])
                      as n (gtid, participants, digest, begun_at, definition)
                 where exists (select from fence) and n.gtid <> all (select gtid from known)
                 {on_conflict} returning 1"
            ),
        );
        Ok(())
    }
}

/// Whether the decision says nothing but "commit, under 2PC": most do, and their words need not be
/// sent.
fn is_plain_commit(decided: &Decided) -> bool {
    decided.protocol == Protocol::TwoPhase && decided.decision == Decision::Commit && decided.reason.is_none()
}
