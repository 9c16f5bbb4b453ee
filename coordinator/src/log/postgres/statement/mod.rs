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
//!
//! `opens.rs` has the parts that insert open rows, `changes.rs` those that write to them, `ends.rs`
//! those that move them to history.

mod changes;
mod ends;
mod opens;

use sqlx::postgres::{PgArguments, PgHasArrayType};
use sqlx::{Arguments as _, Encode, Postgres, Type};

use super::link::{Held, epoch_column};
use super::value::Timestamp;
use crate::log::plan::Plan;

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
