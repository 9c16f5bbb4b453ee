//! The conformance suite on the log in memory, and its failures on demand.

use std::sync::Arc;

use assent_protocol::record::Decided;
use assent_protocol::{BodyDigest, Decision, Record};
use uuid::Uuid;

use super::*;
use crate::log::conformance::{Ground, SharedGround};

struct Memory(MemoryLog);

impl Ground for Memory {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Log>> {
        let log: Arc<dyn Log> = Arc::new(self.0.another());
        ready(log).boxed()
    }

    fn rival_acquires<'a>(&'a self, replica: &'a Name) -> BoxFuture<'a, Epoch> {
        ready(self.0.storage().acquire(replica, None).expect("the same name")).boxed()
    }

    fn spoil(&self, saga: Gtid) -> BoxFuture<'_, ()> {
        self.0.spoil(saga, "for the test");
        ready(()).boxed()
    }
}

impl SharedGround for Memory {
    fn leases_lapse(&self) -> BoxFuture<'_, ()> {
        self.0.pass(LEASE);
        ready(()).boxed()
    }

    fn revive<'a>(&'a self, replica: &'a Name, epoch: Epoch) -> BoxFuture<'a, ()> {
        self.0.storage().replicas.get_mut(replica).expect("known").epoch = epoch;
        ready(()).boxed()
    }
}

crate::log_conformance! { Memory(MemoryLog::new()) }
crate::log_conformance_shared! { Memory(MemoryLog::new()) }

fn batch() -> Batch {
    let decided = Decided {
        gtid: Gtid::new(Uuid::now_v7()).expect("version 7"),
        protocol: Protocol::TwoPhase,
        decision: Decision::Commit,
        members: Vec::new(),
        digest: BodyDigest(1),
        begun_at_ms: 1,
        reason: None,
    };
    Batch { at_ms: 1, forced: vec![Record::Decided(decided)], lazy: Vec::new() }
}

async fn log() -> MemoryLog {
    let log = MemoryLog::new();
    log.acquire(&Name::new("r1").expect("a name")).await.expect("memory");
    log
}

#[tokio::test]
async fn an_injected_failure_happens_once_and_says_what_it_is() {
    let log = log().await;
    let batch = batch();
    let gtid = batch.forced[0].gtid();
    for (failure, is_applied) in [
        (Failure::Unreachable, false),
        (Failure::UnknownAndLost, false),
        (Failure::Full, false),
        (Failure::UnknownButApplied, true),
    ] {
        log.fail_next_append(failure);
        let error = log.append(&batch).await.expect_err("injected");
        let fits = match failure {
            Failure::Unreachable => matches!(error, AppendError::Unreachable { .. }),
            Failure::UnknownAndLost | Failure::UnknownButApplied => matches!(error, AppendError::UnknownOutcome { .. }),
            Failure::Full => matches!(error, AppendError::Full { .. }),
        };
        assert!(fits, "{error}");
        assert_eq!(log.lookup(&[gtid]).await.expect("memory").len(), usize::from(is_applied), "{failure:?}");
    }
    assert!(matches!(log.append(&batch).await.expect("once each")[..], [Appended::Durable(_)]));
}

#[tokio::test]
async fn an_outage_ends_when_it_is_ended() {
    let log = log().await;
    log.set_outage(true);
    assert!(matches!(log.append(&batch()).await, Err(AppendError::Unreachable { .. })));
    log.ping().await.expect_err("outage");
    log.set_outage(false);
    log.append(&batch()).await.expect("over");
}

#[tokio::test]
async fn a_fenced_handle_stays_fenced() {
    let log = log().await;
    log.fence();
    for _ in 0..2 {
        assert!(log.append(&batch()).await.expect_err("fenced").is_fenced());
    }
    assert_eq!(log.appends(), 0);
}
