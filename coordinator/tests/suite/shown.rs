//! What operators see of each branch: its id, what went wrong last and when, and whether its
//! participant is there.

use assent::server::Coordinator;
use assent_proto::v1::branch_order::Kind as Order;
use assent_proto::v1::branch_report::Kind as Report;
use assent_proto::v1::server_message::Kind as Heard;
use assent_proto::v1::{self, GetTransactionRequest, Outcome};

use crate::harness::{Home, Session, admin, branch, done, gtid, report, transactions, until, whole};

async fn shown(coordinator: &Coordinator, gtid: &str) -> v1::Branch {
    let request = GetTransactionRequest { gtid: gtid.to_owned() };
    let answer = admin(coordinator).await.get_transaction(request).await.expect("found").into_inner();
    answer.transaction.expect("shown").branches.remove(0)
}

async fn ordered(session: &mut Session) -> v1::BranchOrder {
    match session.hear().await.expect("the session lives") {
        Heard::Branch(order) => order,
        other => panic!("{other:?} is no order"),
    }
}

#[tokio::test]
async fn a_branch_is_shown_with_its_id_its_last_error_and_its_absence() {
    let home = Home::new();
    let coordinator = home.start().await;
    let gtid = gtid();
    let mut bank = Session::open(&coordinator, "bank").await;
    let asked = {
        let (mut client, request) = (transactions(&coordinator).await, whole(&gtid, vec![branch("bank", "x")]));
        tokio::spawn(async move { client.commit(request).await.expect("an outcome").into_inner().outcome() })
    };
    let v1::BranchOrder { gtid: bytes, branch: id, kind, .. } = ordered(&mut bank).await;
    assert!(matches!(kind, Some(Order::Prepare(_))), "{kind:?}");
    let id = id.expect("a branch id");
    let word = format!("{}.{:x}", id.epoch, id.number);
    let sound = shown(&coordinator, &gtid).await;
    assert_eq!((sound.branch_id.as_str(), sound.last_error.as_str()), (word.as_str(), ""));
    assert_eq!((sound.last_error_at, sound.absent_since), (None, None), "it is there, and nothing went wrong");

    bank.say(report(&bytes, id, Report::Vote(v1::Vote { vote: v1::VoteKind::Yes.into(), reason: String::new() })));
    assert_eq!(asked.await.expect("no panic"), Outcome::Committed);
    let commit = ordered(&mut bank).await;
    assert!(matches!(commit.kind, Some(Order::Commit(_))), "{commit:?}");
    assert_eq!(commit.branch, Some(id));
    let failure = Some(v1::acknowledge::End::Failure("the disk is full".to_owned()));
    let decision = v1::Decision::Commit.into();
    let failed = v1::Acknowledge { decision, epoch: commit.epoch, end: failure };
    bank.say(report(&bytes, id, Report::Acknowledge(failed)));
    until("the error is shown", async || {
        let failed = shown(&coordinator, &gtid).await;
        failed.last_error.contains("the disk is full") && failed.last_error_at.is_some()
    })
    .await;
    assert_eq!(shown(&coordinator, &gtid).await.absent_since, None);

    drop(bank);
    until("its absence is shown", async || shown(&coordinator, &gtid).await.absent_since.is_some()).await;
    let mut bank = Session::open(&coordinator, "bank").await;
    until("it is back", async || shown(&coordinator, &gtid).await.absent_since.is_none()).await;
    let commit = ordered(&mut bank).await;
    assert_eq!(commit.branch, Some(id), "the same branch");
    bank.say(report(&bytes, id, done(v1::Decision::Commit, commit.epoch, v1::BranchResult::Done)));
    // From memory at first, and then from the log.
    until("it has ended, and is forgotten", async || {
        shown(&coordinator, &gtid).await.state == "committed" && coordinator.statistics().snapshot().open == 0
    })
    .await;
    drop(bank);
    let ended = shown(&coordinator, &gtid).await;
    assert_eq!((ended.branch_id, ended.absent_since), (word, None));
}
