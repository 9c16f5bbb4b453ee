//! One batch, one statement: group commit in one implicit transaction.
//!
//! The statement is put together from the parts that the batch needs, so that a batch of plain
//! decisions and ends, which is nearly every one, costs no more than these. Its sub-statements
//! share one snapshot and do not see each other's rows; the [`Plan`] makes sure that no two of them
//! touch the same row.
//!
//! | part | does |
//! |---|---|
//! | `fence` | locks the replica's row if epoch and connection still stand; without it every other part does nothing |
//! | `known` | finds newcomers that have already ended: their decision stands too |
//! | `committed` | inserts plain 2PC commit decisions |
//! | `decided` | inserts all other decisions |
//! | `settled` | decides our own delegations; only where the inserts met a conflict |
//! | `delegated` | inserts 2PCs whose only branch decides |
//! | `attempted` | inserts 3PCs whose voters are to agree |
//! | `agreed` | decides 3PCs whose voters have agreed |
//! | `voted` | moves the log on as a voter |
//! | `started` | inserts sagas |
//! | `changed` | turns, pauses and resumes sagas |
//! | `stepped` | upserts answers of steps |
//! | `closed`, `closed_history` | moves plainly committed 2PCs to history, by gtid alone |
//! | `closed_3pc`, `closed_3pc_history` | the same with 3PCs that have the same branches |
//! | `ended`, `ended_history` | moves all other ended 2PCs and 3PCs to history, one part for each protocol and outcome |
//! | `saga_ended`, `saga_ended_history`, `forgotten_steps` | moves ended sagas to history, and deletes their steps |
//! | `unopened` | inserts history of what never had an open row |
//!
//! Whatever writes to a row that is open already compares its owner with the epoch: a foreign row
//! is left as it is.

use assent_protocol::record::{Decided, Delegated, Ended, EndedBranch};
use assent_protocol::saga::StepResult;
use assent_protocol::three_phase::{Roster, VoterState};
use assent_protocol::{BranchEnd, Decision, Outcome, Protocol};
use sqlx::postgres::{PgArguments, PgHasArrayType};
use sqlx::{Arguments as _, Encode, Postgres, Type};

use super::link::{Held, epoch_column};
use super::value::{Timestamp, uuids};
use crate::log::plan::{Change, Plan, Vote};
use crate::log::stored;
use crate::log::verdict::decision_of;

/// What an insert does with a row that is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnConflict {
    /// The statement fails, and nothing is written.
    Fail,
    /// The row stays as it is.
    Skip,
}

impl OnConflict {
    const fn clause(self) -> &'static str {
        match self {
            Self::Fail => "",
            Self::Skip => "on conflict do nothing",
        }
    }
}

/// The statement of one batch.
pub(super) struct Statement {
    /// Its text, the same for every batch that needs the same parts.
    pub(super) sql: String,
    /// Its parameters.
    pub(super) arguments: PgArguments,
    opened: Vec<&'static str>,
    ended: Vec<&'static str>,
}

/// Parameters that could be encoded, or not.
type Encoded<T = ()> = Result<T, sqlx::error::BoxDynError>;

impl Statement {
    /// Puts it together.
    pub(super) fn build(
        held: &Held,
        number: i64,
        at_ms: u64,
        plan: &Plan<'_>,
        on_conflict: OnConflict,
    ) -> Encoded<Self> {
        let mut statement = Self {
            sql: String::with_capacity(4_096),
            arguments: PgArguments::default(),
            opened: Vec::new(),
            ended: Vec::new(),
        };
        let replica = statement.bind(held.replica.as_str())?;
        let epoch = statement.bind(epoch_column(held.epoch))?;
        let number = statement.bind(number)?;
        let at = statement.bind(Timestamp(at_ms))?;
        statement.sql.push_str("with ");
        statement.part(
            "fence as materialized",
            &format!(
                "select from assent.replica where name = ${replica} and epoch = ${epoch} and connection = ${number} for share"
            ),
        );
        let context = Context { epoch, at, at_ms, on_conflict: on_conflict.clause() };
        statement.newcomers(plan, &context)?;
        // A decision over a delegation is a conflict at first, and there are few of them.
        if !plan.decisions.is_empty() && on_conflict == OnConflict::Skip {
            statement.settled(&plan.decisions, &context)?;
        }
        if !plan.agreements.is_empty() {
            statement.agreed(&plan.agreements, &context)?;
        }
        if !plan.votes.is_empty() {
            statement.voted(&plan.votes, &context)?;
        }
        if !plan.changes.is_empty() {
            statement.changed(&plan.changes, &context)?;
        }
        if !plan.steps.is_empty() {
            statement.stepped(plan, &context)?;
        }
        statement.ends(plan, &context)?;
        statement.finish(plan);
        Ok(statement)
    }

    /// Adds a parameter and answers its number.
    fn bind<'a, T>(&mut self, value: T) -> Encoded<usize>
    where
        T: Encode<'a, Postgres> + Type<Postgres>,
    {
        self.arguments.add(value)?;
        Ok(self.arguments.len())
    }

    /// Adds an array parameter, one element for each item.
    fn bind_each<I, T>(&mut self, items: &[I], value: impl FnMut(&I) -> T) -> Encoded<usize>
    where
        for<'a> T: Encode<'a, Postgres> + Type<Postgres> + PgHasArrayType,
    {
        self.bind(items.iter().map(value).collect::<Vec<T>>())
    }

    fn part(&mut self, head: &str, body: &str) {
        self.sql.push_str(head);
        self.sql.push_str(" (");
        self.sql.push_str(body);
        self.sql.push_str("),\n");
    }

    fn newcomers(&mut self, plan: &Plan<'_>, context: &Context) -> Encoded {
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

    /// Decisions over our own delegations.
    fn settled(&mut self, decisions: &[&Decided], context: &Context) -> Encoded {
        self.opened.push("settled");
        self.decided_over("settled as", "2pc", decisions, context)
    }

    /// What the voters agreed on.
    fn agreed(&mut self, agreements: &[&Decided], context: &Context) -> Encoded {
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

    fn voted(&mut self, votes: &[Vote], context: &Context) -> Encoded {
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

    /// By `= any` and not by a join, so that the rows are found by their key whatever the planner
    /// believes.
    fn changed(&mut self, changes: &[Change<'_>], context: &Context) -> Encoded {
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

    fn stepped(&mut self, plan: &Plan<'_>, context: &Context) -> Encoded {
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

    /// An end moves only the row that it is an end of, as [`crate::log::verdict::ends`] has it.
    fn ends(&mut self, plan: &Plan<'_>, context: &Context) -> Encoded {
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
            let fits = |ended: &&Ended| ended.protocol == protocol && decision_of(ended.outcome) == decision;
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
    fn unopened(&mut self, ended: &[&Ended], context: &Context) -> Encoded {
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

    fn finish(&mut self, plan: &Plan<'_>) {
        let count = |parts: &[&str]| {
            let counts: Vec<String> = parts.iter().map(|part| format!("(select count(*) from {part})")).collect();
            if counts.is_empty() { "0::bigint".to_owned() } else { counts.join(" + ") }
        };
        let changed: &[&str] = if plan.changes.is_empty() { &[] } else { &["changed"] };
        let stepped: &[&str] = if plan.steps.is_empty() { &[] } else { &["stepped"] };
        // A 2PC's end is not waited for: where there are no others, they are not counted.
        let is_waited_for = self.ended.iter().any(|part| part.starts_with("saga") || part.contains("_3pc"));
        let ended: &[&str] = if is_waited_for { &self.ended } else { &[] };
        let counts = format!(
            "select {} as fence, {} as opened, {} as changed, {} as stepped, {} as ended",
            count(&["fence"]),
            count(&self.opened),
            count(changed),
            count(stepped),
            count(ended),
        );
        self.sql.truncate(self.sql.trim_end_matches(",\n").len());
        self.sql.push('\n');
        self.sql.push_str(&counts);
        for (part, is_there) in [("agreed", !plan.agreements.is_empty()), ("voted", !plan.votes.is_empty())] {
            if is_there {
                self.sql.push_str(&format!(", {} as {part}", count(&[part])));
            }
        }
    }
}

/// Parameters and words that several parts share.
struct Context {
    epoch: usize,
    at: usize,
    at_ms: u64,
    on_conflict: &'static str,
}

fn deletion(gtids: usize, condition: &str, decided_at: &str, context: &Context) -> String {
    let epoch = context.epoch;
    format!(
        "delete from assent.open_transaction
         where gtid = any(${gtids}) and {condition} and owner_epoch = ${epoch} and exists (select from fence)
         returning gtid, begun_at, {decided_at}, digest, protocol, participants, branch_ids"
    )
}

/// Whether the decision says nothing but "commit, under 2PC": most do, and their words need not be
/// sent.
fn is_plain_commit(decided: &Decided) -> bool {
    decided.protocol == Protocol::TwoPhase && decided.decision == Decision::Commit && decided.reason.is_none()
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
