//! The role that serves: what it needs, and nothing else.
//!
//! One role owns the schema and migrates. Another one serves: it cannot change the schema, and of
//! what has ended it adds rows, and neither changes nor deletes any. What it forgets it has the
//! schema's functions forget, within their bounds ([`retention`](super::retention)).
//!
//! A server may serve as the owner too, which is simpler to try out; it says so at its start.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use super::migrate;
use super::trouble::Trouble;
use crate::log::roles::{Granted, Lacking};
use crate::log::{OpenError, url};

/// An object in the schema, or the schema, and what a server does with it.
struct Need {
    /// In the words of GRANT.
    kind: &'static str,
    name: &'static str,
    privileges: &'static [&'static str],
}

const fn need(kind: &'static str, name: &'static str, privileges: &'static [&'static str]) -> Need {
    Need { kind, name, privileges }
}

/// All that serving takes. A migration that adds an object adds it here.
const NEEDS: [Need; 13] = [
    need("schema", SCHEMA, &["usage"]),
    need("table", "migration", &["select"]),
    need("table", "identity", &["select"]),
    need("sequence", "epoch", &["usage", "select"]),
    need("table", "replica", &["select", "insert", "update"]),
    need("table", "open_transaction", &["select", "insert", "update", "delete"]),
    need("table", "saga_step", &["select", "insert", "update", "delete"]),
    need("table", "history", &["select", "insert"]),
    need("table", "pin", &["select", "insert", "delete"]),
    need("table", "participant", &["select", "insert"]),
    need("function", "create_history_partition", &["execute"]),
    need("function", "drop_history_partition", &["execute"]),
    need("function", "forget_unpinned_history", &["execute"]),
];

const SCHEMA: &str = "assent";

impl Need {
    /// As GRANT names it.
    fn object(&self) -> String {
        let Self { kind, name, .. } = self;
        if *kind == "schema" { format!("{kind} {name}") } else { format!("{kind} {SCHEMA}.{name}") }
    }
}

/// The role that is connected.
pub(super) async fn connected(connection: &mut PgConnection) -> Result<String, Trouble> {
    Ok(sqlx::query_scalar("select current_user::text").fetch_one(connection).await?)
}

/// What a role lacks of what serving takes, of the objects that are there.
pub(super) async fn lacking(connection: &mut PgConnection, role: &str) -> Result<Lacking, Trouble> {
    // By their OIDs: names in a schema are not found by a role that may not use it.
    const SQL: &str = "
        select need.position
        from unnest($2::text[], $3::text[], $4::text[]) with ordinality as need (kind, name, privilege, position)
             join pg_namespace n on n.nspname = 'assent'
             left join pg_class c on c.relnamespace = n.oid and c.relname = need.name
             left join pg_proc p on p.pronamespace = n.oid and p.proname = need.name
        where not case need.kind
            when 'schema' then has_schema_privilege($1::name, n.oid, need.privilege)
            when 'table' then has_table_privilege($1::name, c.oid, need.privilege)
            when 'sequence' then has_sequence_privilege($1::name, c.oid, need.privilege)
            when 'function' then has_function_privilege($1::name, p.oid, need.privilege)
        end
        order by need.position";
    let needs: Vec<(&Need, &str)> =
        NEEDS.iter().flat_map(|need| need.privileges.iter().map(move |privilege| (need, *privilege))).collect();
    let positions: Vec<i64> = sqlx::query_scalar(SQL)
        .bind(role)
        .bind(needs.iter().map(|(need, _)| need.kind).collect::<Vec<_>>())
        .bind(needs.iter().map(|(need, _)| need.name).collect::<Vec<_>>())
        .bind(needs.iter().map(|(_, privilege)| *privilege).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let lacking = (1_i64..).zip(needs).filter(|(position, _)| positions.contains(position));
    Ok(Lacking(lacking.map(|(_, (need, privilege))| format!("{privilege} on {}", need.object())).collect()))
}

/// Whether a role could change the schema.
pub(super) async fn changes_schema(connection: &mut PgConnection, role: &str) -> Result<bool, Trouble> {
    let sql =
        "select r.rolsuper or pg_has_role(r.oid, n.nspowner, 'member') or has_schema_privilege(r.oid, n.oid, 'create')
               from pg_roles r, pg_namespace n where r.rolname = $1 and n.nspname = 'assent'";
    Ok(sqlx::query_scalar(sql).bind(role).fetch_one(connection).await?)
}

async fn is_there(connection: &mut PgConnection, role: &str) -> Result<bool, Trouble> {
    let sql = "select exists (select from pg_roles where rolname = $1)";
    Ok(sqlx::query_scalar(sql).bind(role).fetch_one(connection).await?)
}

/// Makes a role one that serves, creates it if it is not there, and takes from it what serving does
/// not take.
pub(super) async fn grant(target: &PgConnectOptions, role: &str) -> Result<Granted, OpenError> {
    let place = url::describe(target);
    let of_opening = |trouble: Trouble| trouble.of_opening(&place);
    let sql = |error: sqlx::Error| Trouble::from(error).of_opening(&place);
    let unfit = |problem: String| OpenError::Role { log: place.clone(), role: role.to_owned(), problem };
    let mut connection = migrate::connect(target).await.map_err(of_opening)?;
    let quoted: String =
        sqlx::query_scalar("select quote_ident($1)").bind(role).fetch_one(&mut connection).await.map_err(sql)?;
    let mut transaction = connection.begin().await.map_err(sql)?;
    let is_new = !is_there(&mut transaction, role).await.map_err(of_opening)?;
    if is_new {
        // As the role that connects, which may create roles where the schema's owner may not.
        let create = format!("create role {quoted} login");
        sqlx::raw_sql(AssertSqlSafe(create.clone())).execute(&mut *transaction).await.map_err(|error| {
            unfit(format!("it is not there and could not be created ({error}); run `{create}` as a role that may"))
        })?;
    }
    migrate::take_turn(&mut transaction).await.map_err(of_opening)?;
    let mut grants: String = ["tables in schema", "sequences in schema", "functions in schema"]
        .map(|objects| format!("revoke all on all {objects} {SCHEMA} from {quoted};"))
        .concat();
    grants.push_str(&format!("revoke all on schema {SCHEMA} from {quoted};"));
    for need in &NEEDS {
        grants.push_str(&format!("grant {} on {} to {quoted};", need.privileges.join(", "), need.object()));
    }
    sqlx::raw_sql(AssertSqlSafe(grants)).execute(&mut *transaction).await.map_err(sql)?;
    if changes_schema(&mut transaction, role).await.map_err(of_opening)? {
        let problem =
            "it could change the schema, as a superuser, its owner or a member of such a role does; name another one";
        return Err(unfit(problem.to_owned()));
    }
    transaction.commit().await.map_err(sql)?;
    Ok(Granted { role: role.to_owned(), is_new })
}

/// What a role lacks, asked by another one.
pub(super) async fn lacking_of(target: &PgConnectOptions, role: &str) -> Result<Lacking, OpenError> {
    let place = url::describe(target);
    let work = async {
        let mut connection = migrate::connect(target).await?;
        if is_there(&mut connection, role).await? {
            lacking(&mut connection, role).await
        } else {
            Ok(Lacking(vec!["a role of this name".to_owned()]))
        }
    };
    work.await.map_err(|trouble: Trouble| trouble.of_opening(&place))
}
