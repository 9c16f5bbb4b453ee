//! Branches whose instance is gone for good, and whose coordinator has forgotten them: another
//! instance ends them.

use std::time::Duration;

use assent_proto::v1::transaction_service_client::TransactionServiceClient;
use assent_proto::v1::{AbortRequest, BeginRequest, Outcome};
use assent_sdk::postgres::{EarlyOnly, EarlyPrepareError, Enlist, PostgresGuard, PostgresResource};
use assent_sdk::{Assent, BranchKey, Context, EarlyVote, EnlistError, Gtid};
use integration_tests::{Database, Port, Postgres, Process, Program, Relay, eventually};
use sqlx::Executor as _;

use crate::chaos::nothing_is_prepared;
use crate::sdk_postgres::{DEADLINE, balance, furnished, gtid};

/// For what is not to happen in a test.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);
pub(crate) const SOON: Duration = Duration::from_millis(50);

/// A coordinator that can be killed and restarted, and a bank's database.
pub(crate) struct Scene {
    pub(crate) coordinator: Process,
    pub(crate) endpoint: String,
    pub(crate) bank: Database,
    _log: Database,
    _port: Port,
}

impl Scene {
    pub(crate) async fn set() -> Self {
        let server = Postgres::shared().await;
        let (log, bank) = (server.create_database().await, furnished(server.create_database().await).await);
        let migrated = Program::assent().args(["migrate", "--log", &log.url()]).run(DEADLINE).await;
        assert!(migrated.status.success(), "the log is migrated: {}", migrated.stderr);
        let port = Port::reserve();
        let listen = port.address().to_string();
        let mut coordinator = Program::assent().args(["serve", "--listen", &listen, "--log", &log.url()]).start();
        coordinator.line_with("listening", DEADLINE).await;
        Self { coordinator, endpoint: format!("http://{listen}"), bank, _log: log, _port: port }
    }

    /// One instance of the bank, and the resource that its service would work with.
    pub(crate) async fn join(&self, interval: Duration) -> (Assent, PostgresResource<EarlyOnly>) {
        self.join_at(&self.bank.url(), interval).await
    }

    /// One whose database is at this address.
    async fn join_at(&self, database: &str, interval: Duration) -> (Assent, PostgresResource<EarlyOnly>) {
        let (name, database) = ("bank-a".parse().expect("a name"), database.parse().expect("a database's address"));
        let resource = PostgresResource::early(name, database);
        let assent = Assent::dial(&self.endpoint)
            .participant("bank-a", resource.clone())
            .in_doubt_interval(interval)
            .in_doubt_grace(SOON)
            .connect()
            .await
            .expect("joins");
        (assent, resource)
    }

    /// Does a branch's work at one instance and prepares it.
    async fn prepare(
        &self,
        resource: &PostgresResource<EarlyOnly>,
        gtid: Gtid,
        enlist: &impl Enlist,
    ) -> Result<(), EarlyPrepareError> {
        self.work(resource, gtid).await.prepare(enlist).await
    }

    /// Does a branch's work at one instance.
    async fn work(&self, resource: &PostgresResource<EarlyOnly>, gtid: Gtid) -> PostgresGuard {
        let coordinator = self.endpoint.clone();
        let context = Context { gtid, coordinator, deadline_unix_ms: None, epoch: None };
        let mut guard = resource.begin(&context).await.expect("begins");
        guard
            .connection()
            .expect("in time")
            .execute("update account set balance = balance + 1 where id = 1")
            .await
            .expect("works");
        guard
    }

    /// Begins a transaction whose initiator does not come back.
    async fn begin(&self) -> Gtid {
        let mut initiator = TransactionServiceClient::connect(self.endpoint.clone()).await.expect("connects");
        let begin = BeginRequest { timeout_ms: 600_000, ..Default::default() };
        initiator.begin(begin).await.expect("begun").into_inner().gtid.parse().expect("a gtid")
    }

    async fn abort(&self, gtid: Gtid) {
        let mut initiator = TransactionServiceClient::connect(self.endpoint.clone()).await.expect("connects");
        let abort = AbortRequest { gtid: gtid.to_string(), ..Default::default() };
        let aborted = initiator.abort(abort).await.expect("aborted").into_inner();
        assert_eq!(aborted.outcome(), Outcome::Aborted);
    }
}

/// A process that dies before it has enlisted its branch.
#[derive(Clone)]
pub(crate) struct Dying;

impl Enlist for Dying {
    async fn enlist(&self, _key: BranchKey, _vote: EarlyVote) -> Result<(), EnlistError> {
        Err(EnlistError::Unknown)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_runs_all_the_time_ends_what_another_one_has_left_prepared() {
    let scene = Scene::set().await;
    let (_living, _) = scene.join(SOON).await;
    let (dying, its_resource) = scene.join(NEVER).await;
    let error = scene.prepare(&its_resource, gtid(), &Dying).await.expect_err("it dies before it has enlisted");
    assert!(matches!(error, EarlyPrepareError::InDoubt(_)), "{error}");
    dying.shutdown().await;
    nothing_is_prepared("the bank", &scene.bank, DEADLINE).await;
    assert_eq!(balance(&scene.bank).await, 0, "the coordinator has never heard of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_joins_again_ends_what_the_coordinator_has_forgotten() {
    let mut scene = Scene::set().await;
    let (_living, _) = scene.join(NEVER).await;
    let (dying, its_resource) = scene.join(NEVER).await;
    // The initiator is gone once it has begun, and so is the instance once it has enlisted its
    // branch.
    let begun = scene.begin().await;
    scene.prepare(&its_resource, begun, &dying).await.expect("enlisted");
    dying.shutdown().await;
    eventually("its branch is left", DEADLINE, async || match scene.bank.prepared_transactions().await.len() {
        1 => Ok(()),
        prepared => Err(format!("{prepared} are prepared")),
    })
    .await;
    scene.coordinator.kill();
    scene.coordinator.restart();
    scene.coordinator.line_with("listening", DEADLINE).await;
    nothing_is_prepared("the bank", &scene.bank, DEADLINE).await;
    assert_eq!(balance(&scene.bank).await, 0, "it was never committed");
}

/// Without a record nothing fences a PREPARE TRANSACTION that is still on the wire: an instance that
/// looks again ends what it prepares.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_comes_after_its_abort_is_ended_by_an_instance_that_runs_all_the_time() {
    let scene = Scene::set().await;
    let (_living, _) = scene.join(SOON).await;
    let relay = Relay::to(scene.bank.address().await).await;
    let (_held_up, its_resource) = scene.join_at(&scene.bank.url_at(relay.address()), NEVER).await;
    let begun = scene.begin().await;
    let guard = scene.work(&its_resource, begun).await;
    relay.hold_client(true);
    let prepare = tokio::spawn(async move { guard.prepare(&Dying).await });
    scene.abort(begun).await;
    assert_eq!(scene.bank.prepared_transactions().await, [""; 0], "there is nothing yet that an abort could end");
    assert!(!prepare.is_finished(), "it is on its way");
    relay.hold_client(false);
    let error = prepare.await.expect("no panic").expect_err("it was not enlisted");
    assert!(matches!(error, EarlyPrepareError::InDoubt(_)), "it was prepared: {error}");
    nothing_is_prepared("the bank", &scene.bank, DEADLINE).await;
    assert_eq!(balance(&scene.bank).await, 0);
}

/// A standby that has not received the rollback takes over: the branch is prepared once more, and
/// its transaction has ended for everybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_rollback_a_failover_lost_is_ended_again() {
    let scene = Scene::set().await;
    let (living, its_resource) = scene.join(SOON).await;
    let begun = scene.begin().await;
    scene.prepare(&its_resource, begun, &living).await.expect("enlisted");
    let prepared = scene.bank.prepared_transactions().await;
    let [gid] = prepared.as_slice() else { panic!("one is prepared: {prepared:?}") };
    scene.abort(begun).await;
    nothing_is_prepared("the bank", &scene.bank, DEADLINE).await;
    let lost = format!("begin; update account set balance = balance + 1 where id = 1; prepare transaction '{gid}'");
    scene.bank.connect().await.execute(sqlx::AssertSqlSafe(lost)).await.expect("as before the rollback");
    nothing_is_prepared("the bank", &scene.bank, DEADLINE).await;
    assert_eq!(balance(&scene.bank).await, 0);
}
