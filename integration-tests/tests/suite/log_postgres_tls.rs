//! A log, and a participant's resource, in a Postgres that is verified.

use std::path::Path;
use std::time::Duration;

use assent::certs::{self, Wanted};
use assent_sdk::postgres::PostgresResource;
use assent_sdk::{Assent, Outcome};
use integration_tests::Program;
use integration_tests::postgres::Postgres;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::sdk_postgres::{DEADLINE, Work, balance, furnished, name};

/// Turns TLS on in a server, with a certificate of this authority for the address that it is reached at.
async fn encrypt(postgres: &Postgres, database: &str, directory: &Path) {
    let lifetime = Duration::from_secs(3_600);
    certs::init(directory, lifetime).expect("an authority");
    let address = postgres.address();
    let host = address.rsplit_once(':').expect("host and port").0;
    let (dns_names, addresses) = match host.parse() {
        Ok(address) => (Vec::new(), vec![address]),
        Err(_) => (vec![host.to_owned()], Vec::new()),
    };
    let wanted = Wanted { identities: Vec::new(), dns_names, addresses, lifetime };
    let issued = certs::issue(directory, "postgres", &wanted).expect("a certificate");
    let mut admin = PgConnection::connect(database).await.expect("it answers");
    for (path, file) in [(issued.cert, "assent.crt"), (issued.key, "assent.key")] {
        // By the server itself: it may run in a container, and reads no key that others may.
        let text = std::fs::read_to_string(path).expect("read").replace('\n', "|");
        let copy = format!(
            "copy (select $${text}$$) to program $$umask 077; tr '|' '\\n' > \"$PGDATA\"/{file} 2>/dev/null || tr '|' '\\n' > {file}$$"
        );
        admin.execute(AssertSqlSafe(copy)).await.expect("written");
    }
    for setting in ["ssl_cert_file = 'assent.crt'", "ssl_key_file = 'assent.key'", "ssl = on"] {
        admin.execute(AssertSqlSafe(format!("alter system set {setting}"))).await.expect("set");
    }
    admin.execute("select pg_reload_conf()").await.expect("reloaded");
    admin.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_and_a_resource_verify_their_postgres() {
    let postgres = Postgres::start().await;
    let (log, bank) = (postgres.create_database().await, furnished(postgres.create_database().await).await);
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("certs");
    encrypt(&postgres, &log.url(), &directory).await;
    let verified = |url: &str, ca: &Path| format!("{url}?sslmode=verify-full&sslrootcert={}", ca.display());
    let ca = directory.join(certs::CA_FILE);
    // Verified by another authority, it is not believed.
    let foreign = folder.path().join("foreign");
    certs::init(&foreign, Duration::from_secs(3_600)).expect("an authority");
    let wrong = verified(&log.url(), &foreign.join(certs::CA_FILE));
    let finished = Program::assent().args(["migrate", "--wait-for-log", "0s", "--log", &wrong]).run(DEADLINE).await;
    assert!(!finished.status.success(), "{finished:?}");
    assert!(finished.stderr.contains("certificate"), "{finished:?}");

    let url = verified(&log.url(), &ca);
    let finished = Program::assent().args(["migrate", "--log", &url]).run(DEADLINE).await;
    assert!(finished.status.success(), "{finished:?}");
    let mut serving = Program::assent().args(["serve", "--listen", "127.0.0.1:0", "--log", &url]).start();
    let endpoint = format!("http://{}", serving.address_after("listening on http://", DEADLINE).await);
    let mut look = PgConnection::connect(&log.url()).await.expect("it answers");
    let query = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) where ssl and application_name like 'assent%'";
    let encrypted: i64 = sqlx::query_scalar(query).fetch_one(&mut look).await.expect("a count");
    assert!(encrypted > 0, "the log's connections are encrypted");

    let options = verified(&bank.url(), &ca).parse().expect("a URL");
    let resource = PostgresResource::new(name(), options, Work);
    let assent = Assent::dial(&endpoint).participant("bank-a", resource).connect().await.expect("joins");
    let outcome = assent.transaction().branch("bank-a", "yes").commit().await.expect("an answer");
    assert!(matches!(outcome, Outcome::Committed), "{outcome:?}");
    assert_eq!(balance(&bank).await, 1);
}
