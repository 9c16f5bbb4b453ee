//! The points between the votes and the end at which a transaction's coordinator can be lost, and
//! how it gets there.

use assent_sdk::{Protocol, Transaction};
use integration_tests::eventually;
use sqlx::Executor as _;

use super::world::{DEADLINE, Lock, Transfer, World, somebody_waits};

/// So many transfers are tried, each between accounts of its own: on a busy machine, the banks may
/// end one by themselves on its way.
const TRIES: i32 = 3;

/// Where a transaction is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Point {
    /// All have voted, and the log has not marked that the commit is proposed.
    Voted,
    /// It is marked, and proposed to nobody.
    Marked,
    /// One of three has accepted.
    AcceptedByOne,
    /// All have, and the coordinator has not heard of it.
    Accepted,
    /// The initiator has been told that it commits, and no bank has.
    Agreed,
    /// One bank has been told, too.
    ToldToOne,
}

impl Point {
    pub(super) const ALL: [Self; 6] =
        [Self::Voted, Self::Marked, Self::AcceptedByOne, Self::Accepted, Self::Agreed, Self::ToldToOne];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Voted => "voted",
            Self::Marked => "marked",
            Self::AcceptedByOne => "accepted by one",
            Self::Accepted => "accepted",
            Self::Agreed => "agreed",
            Self::ToldToOne => "told to one",
        }
    }

    /// Nobody can have decided to commit before the commit was proposed to somebody who is left.
    pub(super) const fn end(self) -> &'static str {
        match self {
            Self::Voted | Self::Marked => "aborted",
            Self::AcceptedByOne | Self::Accepted | Self::Agreed | Self::ToldToOne => "committed",
        }
    }

    /// Goes there. What keeps the log away is kept until the log is killed.
    pub(super) async fn reached(self, world: &World) -> (Transfer, Option<Lock>) {
        let mut account = 1;
        loop {
            let transfer = world.transaction(account).protocol(Protocol::ThreePhase).timeout(DEADLINE * 5);
            match self.is_reached_by(transfer, account, world).await {
                Ok(reached) => return reached,
                Err(missed) if account < TRIES => eprintln!("{}: missed: {missed}", self.name()),
                Err(missed) => panic!("{}: missed {TRIES} times: {missed}", self.name()),
            }
            for bank in &world.banks {
                bank.link.hold_client(false);
                bank.link.hold_server(false);
            }
            world.nothing_is_left().await;
            account += 1;
        }
    }

    /// An error, if the banks have ended it by themselves meanwhile.
    async fn is_reached_by(
        self,
        transaction: Transaction,
        account: i32,
        world: &World,
    ) -> Result<(Transfer, Option<Lock>), String> {
        let [a, b, c] = world.banks.as_slice() else { panic!("three banks") };
        let held: &[&str] =
            if matches!(self, Self::AcceptedByOne) { &[b.name, c.name] } else { &[a.name, b.name, c.name] };
        let (transfer, lock) = match self {
            Self::Voted => {
                let log = world.log.pool(2).await;
                let mut lock = log.begin().await.expect("a transaction");
                lock.execute("lock table assent.open_transaction in exclusive mode").await.expect("locked");
                let transfer = Transfer::begin(transaction);
                somebody_waits("the mark is on its way", &log).await;
                (transfer, Some(lock))
            }
            Self::Marked | Self::AcceptedByOne | Self::Accepted | Self::Agreed | Self::ToldToOne => {
                let transfer = world.transfer_held(transaction, account, held).await;
                world.is_in_the_log(transfer.gtid).await;
                (transfer, None)
            }
        };
        let gtid = transfer.gtid;
        match self {
            Self::Voted | Self::Marked => {
                for bank in [a, b, c] {
                    bank.stands(gtid, "waiting").await?;
                }
            }
            Self::AcceptedByOne => {
                a.stands(gtid, "pre_committed").await?;
                for bank in [b, c] {
                    bank.stands(gtid, "waiting").await?;
                }
            }
            Self::Accepted | Self::Agreed | Self::ToldToOne => {
                for bank in [a, b, c] {
                    bank.link.hold_client(true);
                    bank.link.hold_server(false);
                }
                for bank in [a, b, c] {
                    bank.stands(gtid, "pre_committed").await?;
                }
            }
        }
        let held: &[_] = match self {
            Self::Voted | Self::Marked | Self::AcceptedByOne | Self::Accepted => {
                assert!(!transfer.told.is_finished(), "nobody knows an outcome");
                return Ok((transfer, lock));
            }
            Self::Agreed => &[a, b, c],
            Self::ToldToOne => &[b, c],
        };
        for bank in held {
            bank.link.hold_server(true);
        }
        for bank in [a, b, c] {
            bank.link.hold_client(false);
        }
        // If the coordinator has begun another round meanwhile, it waits for answers that are held.
        eventually("the initiator is told, or the banks end it", DEADLINE, async || {
            let is_ended = b.kept(gtid).await.end().is_some();
            if is_ended || transfer.told.is_finished() { Ok(()) } else { Err("nothing yet") }
        })
        .await;
        if matches!(self, Self::ToldToOne) {
            a.stands(gtid, "committed").await?;
        }
        for bank in held {
            bank.stands(gtid, "pre_committed").await?;
        }
        Ok((transfer, lock))
    }
}
