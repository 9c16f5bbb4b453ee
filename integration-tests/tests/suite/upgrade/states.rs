//! Brings about every state that a log and its participants can be left in, and dumps them.
//!
//! Not a test of anything: it is run by hand, once for each version whose dumps are kept.
//!
//! | left open | how |
//! |---|---|
//! | 2pc committing, with one branch or none that has ended | participants die when they are about to end their branches |
//! | 2pc aborting, by a logged row | the coordinator forgets an abort, and logs it when it is asked; the participant that asked dies then |
//! | 2pc prepared, without a row | a participant dies behind its vote, another refuses; the coordinator dies at the last vote |
//! | 2pc with early branches | their service leaves before the transaction is committed, or is not |
//! | one phase, in effect and not told | the participant dies behind its COMMIT |
//! | 3pc agreed | a participant dies when it is about to commit |
//! | 3pc attempted | two participants are killed once they have voted, so that no quorum accepts |
//! | 3pc prepared, without a row | as 2pc; and a voter that is at work when all die |
//! | saga running, before and behind its pivot | a clerk dies behind a step's COMMIT, or before the step came |
//! | saga compensating | a clerk dies before a compensation's COMMIT, or behind it |
//! | saga paused | a step behind the pivot is refused |

use assent_sdk::postgres::PostgresResource;
use assent_sdk::{Assent, EarlyVote, Outcome, Protocol};
use integration_tests::ledger::Booking;
use integration_tests::postgres::Postgres;
use sqlx::AssertSqlSafe;

use super::dump::{self, DEADLINE, End, LogKind};
use super::world::{DESK, VARIABLE, World, work};

/// More than any account has.
const TOO_MUCH: i64 = -1_000_000;

#[ignore = "makes the dumps of a version: ASSENT_DUMPS names it"]
#[tokio::test(flavor = "multi_thread")]
async fn the_dumps_of_this_version_are_made() {
    let version = std::env::var("ASSENT_DUMPS").expect("ASSENT_DUMPS=v2, for example");
    let server = Postgres::shared().await;
    for kind in LogKind::ALL {
        let mut world = World::begin(kind, &server).await;
        world.ended().await;
        world.two_phase().await;
        world.early().await;
        world.three_phase().await;
        world.sagas().await;
        world.without_a_row().await;
        world.dump(&dump::directory(&version).join(kind.as_str())).await;
    }
}

impl World {
    /// What has ended, in every way.
    async fn ended(&mut self) {
        let moved = [("bank-a", -3), ("bank-b", 3)];
        let transfer = self.transfer(Protocol::TwoPhase, &moved);
        let gtid = transfer.gtid();
        assert_eq!(transfer.commit_and_wait().await.expect("no refusal"), Outcome::Committed);
        self.is(gtid, "committed").await;
        self.expect("2pc, committed", gtid, Some("committed"), End::Committed, &moved);

        let transfer = self.transfer(Protocol::TwoPhase, &moved);
        let gtid = transfer.gtid();
        assert_eq!(transfer.commit_and_wait().await.expect("no refusal"), Outcome::Committed);
        self.is(gtid, "committed").await;
        self.expect("2pc, committed and pinned", gtid, Some("committed"), End::Committed, &moved);
        self.pin(gtid).await;

        let transfer = self.transfer(Protocol::TwoPhase, &[("bank-a", TOO_MUCH), ("bank-b", 3)]);
        let gtid = transfer.gtid();
        assert!(matches!(transfer.commit_and_wait().await, Ok(Outcome::Aborted(_))));
        self.is(gtid, "aborted").await;
        self.expect("2pc, aborted by a vote", gtid, Some("aborted"), End::Aborted, &[]);

        let transfer = self.transfer(Protocol::TwoPhase, &[("till-a", 3)]);
        let gtid = transfer.gtid();
        assert_eq!(transfer.commit_and_wait().await.expect("no refusal"), Outcome::Committed);
        self.is(gtid, "committed").await;
        self.expect("one phase, committed", gtid, Some("committed"), End::Committed, &[("till-a", 3)]);

        let transfer = self.transfer(Protocol::TwoPhase, &[("till-a", TOO_MUCH)]);
        let gtid = transfer.gtid();
        assert!(matches!(transfer.commit_and_wait().await, Ok(Outcome::Aborted(_))));
        self.is(gtid, "aborted").await;
        self.expect("one phase, refused", gtid, Some("aborted"), End::Aborted, &[]);

        // Ended by hand while its participant is away.
        self.arm("till-a", "participant-end-due:abort").await;
        let transfer = self.transfer(Protocol::TwoPhase, &[("bank-a", 3), ("till-a", -3)]);
        let gtid = transfer.gtid();
        assert_eq!(transfer.commit().await.expect("no refusal"), Outcome::Committed);
        self.dies("till-a").await;
        let gid = self.members["till-a"].database.prepared_transactions().await.remove(0);
        let by_hand = AssertSqlSafe(format!("rollback prepared '{gid}'"));
        sqlx::raw_sql(by_hand).execute(&self.members["till-a"].pool).await.expect("by hand");
        self.process("till-a").restart_with(VARIABLE, None);
        self.process("till-a").line_with("joined", DEADLINE).await;
        self.is(gtid, "committed").await;
        let what = "2pc, committed, with a branch that was rolled back by hand";
        self.expect(what, gtid, Some("committed"), End::Committed, &[("bank-a", 3)]);

        let moved = [("vault-a", -6), ("vault-b", 3), ("vault-c", 3)];
        let transfer = self.transfer(Protocol::ThreePhase, &moved);
        let gtid = transfer.gtid();
        assert_eq!(transfer.commit_and_wait().await.expect("no refusal"), Outcome::Committed);
        self.is(gtid, "committed").await;
        self.expect("3pc, committed", gtid, Some("committed"), End::Committed, &moved);

        let refused = [("vault-a", -6), ("vault-b", 3), ("vault-c", TOO_MUCH)];
        let transfer = self.transfer(Protocol::ThreePhase, &refused);
        let gtid = transfer.gtid();
        assert!(matches!(transfer.commit_and_wait().await, Ok(Outcome::Aborted(_))));
        self.is(gtid, "aborted").await;
        self.expect("3pc, aborted by a vote", gtid, Some("aborted"), End::Aborted, &[]);

        let gtid = self.saga(&[("first", "clerk-a"), ("second", "clerk-b")], None, None).await;
        self.is(gtid, "completed").await;
        let effects = [("clerk-a", 1), ("clerk-b", 1)];
        self.expect("saga, completed", gtid, Some("completed"), End::Completed, &effects);

        let gtid = self.saga(&[("first", "clerk-b"), ("second", "clerk-a")], None, Some("second")).await;
        self.is(gtid, "compensated").await;
        self.expect("saga, compensated", gtid, Some("compensated"), End::Compensated, &[]);
    }

    /// Two phases, and one.
    async fn two_phase(&mut self) {
        self.arm("bank-b", "participant-end-due:abort").await;
        let moved = [("bank-a", -5), ("bank-b", 5)];
        let transfer = self.transfer(Protocol::TwoPhase, &moved);
        let gtid = transfer.gtid();
        assert_eq!(transfer.commit().await.expect("no refusal"), Outcome::Committed);
        self.dies("bank-b").await;
        self.has_ended("bank-a", gtid).await;
        self.expect("2pc, decided, one branch committed", gtid, Some("committing"), End::Committed, &moved);

        self.arm("bank-c", "participant-end-due:abort").await;
        self.arm("till-c", "participant-end-due:abort").await;
        let moved = [("bank-c", -5), ("till-c", 5)];
        let transfer = self.transfer(Protocol::TwoPhase, &moved);
        let gtid = transfer.gtid();
        assert_eq!(transfer.commit().await.expect("no refusal"), Outcome::Committed);
        self.dies("bank-c").await;
        self.dies("till-c").await;
        let what = "2pc, decided, no branch committed, one of them with a record";
        self.expect(what, gtid, Some("committing"), End::Committed, &moved);

        // Both are forgotten with the coordinator, and one is asked about again: see
        // `without_a_row`.
        for (name, state) in [("bank-d", None), ("bank-e", Some("aborting"))] {
            self.arm(name, "participant-vote-sent:abort").await;
            let lock = self.is_slow("bank-a").await;
            let transfer = self.transfer(Protocol::TwoPhase, &[("bank-a", TOO_MUCH), (name, 5)]);
            let gtid = transfer.gtid();
            self.ask(transfer);
            self.dies(name).await;
            lock.rollback().await.expect("unlocked");
            match state {
                None => self.expect("2pc, refused elsewhere, prepared", gtid, None, End::Presumed, &[]),
                Some(_) => self.expect("2pc, aborting by a row, prepared", gtid, state, End::Aborted, &[]),
            }
        }

        self.arm("till-b", "participant-one-phase-done:abort").await;
        let transfer = self.transfer(Protocol::TwoPhase, &[("till-b", 5)]);
        let gtid = transfer.gtid();
        self.ask(transfer);
        self.dies("till-b").await;
        self.expect("one phase, in effect and not told", gtid, None, End::Untold, &[("till-b", 5)]);
    }

    /// A service that prepares while it is called.
    async fn early(&mut self) {
        let url = self.members[DESK].database.url();
        let resource = PostgresResource::early(DESK.parse().expect("a name"), url.parse().expect("a URL"));
        let dial = Assent::dial(&self.endpoint).participant(DESK, resource.clone());
        let desk = dial.connect().await.expect("it joins");

        let read = self.assent.begin(Some(DEADLINE)).await.expect("begun");
        let gtid = read.gtid();
        desk.enlist(desk.new_branch(gtid), EarlyVote::ReadOnly).await.expect("enlisted");
        self.account += 1;
        let booking = Booking { account: self.account, amount: 7 };
        self.bookings.insert((gtid, "bank-a"), booking);
        let outcome = read.branch_json("bank-a", &booking).commit_and_wait().await;
        assert_eq!(outcome.expect("no refusal"), Outcome::Committed);
        self.is(gtid, "committed").await;
        let what = "2pc, committed, with a branch that only read";
        self.expect(what, gtid, Some("committed"), End::Committed, &[("bank-a", 7)]);

        let mut begun = Vec::new();
        for _ in 0..2 {
            let transaction = self.assent.begin(Some(DEADLINE)).await.expect("begun");
            self.account += 1;
            let booking = Booking { account: self.account, amount: 7 };
            let context = transaction.context().expect("it was begun");
            let mut branch = resource.begin(&context).await.expect("a branch");
            let sql = work(transaction.gtid(), booking);
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(branch.connection().expect("in time")).await.expect("the work");
            branch.prepare(&desk).await.expect("enlisted");
            self.bookings.insert((transaction.gtid(), DESK), booking);
            begun.push(transaction);
        }
        desk.shutdown().await;
        let (committed, undecided) = (begun.remove(0), begun.remove(0));
        let gtid = committed.gtid();
        assert_eq!(committed.commit().await.expect("no refusal"), Outcome::Committed);
        self.is(gtid, "committing").await;
        self.expect("2pc, decided, an early branch", gtid, Some("committing"), End::Committed, &[(DESK, 7)]);
        let gtid = undecided.gtid();
        // Dropped, it would be aborted.
        std::mem::forget(undecided);
        self.expect("2pc, not decided, an early branch", gtid, None, End::Presumed, &[]);
    }

    async fn three_phase(&mut self) {
        self.arm("safe-d", "participant-vote-sent:abort").await;
        let lock = self.is_slow("vault-b").await;
        let refused = [("safe-d", 9), ("vault-a", 9), ("vault-b", TOO_MUCH)];
        let transfer = self.transfer(Protocol::ThreePhase, &refused);
        let gtid = transfer.gtid();
        self.ask(transfer);
        self.dies("safe-d").await;
        lock.rollback().await.expect("unlocked");
        self.has_ended("vault-a", gtid).await;
        self.expect("3pc, refused elsewhere, prepared", gtid, None, End::Presumed, &[]);

        self.arm("vault-c", "participant-end-due:abort").await;
        let moved = [("vault-a", -18), ("vault-b", 9), ("vault-c", 9)];
        let transfer = self.transfer(Protocol::ThreePhase, &moved);
        let gtid = transfer.gtid();
        assert_eq!(transfer.commit().await.expect("no refusal"), Outcome::Committed);
        self.dies("vault-c").await;
        self.is(gtid, "committing").await;
        self.expect("3pc, agreed, one branch is prepared", gtid, Some("committing"), End::Committed, &moved);

        let lock = self.is_slow("safe-c").await;
        let moved = [("safe-a", -18), ("safe-b", 9), ("safe-c", 9)];
        let transfer = self.transfer(Protocol::ThreePhase, &moved);
        let gtid = transfer.gtid();
        self.ask(transfer);
        self.have(gtid, "prepared", 2).await;
        self.process("safe-a").kill();
        self.process("safe-b").kill();
        lock.rollback().await.expect("unlocked");
        self.is(gtid, "preparing").await;
        self.stands("safe-c", gtid, "pre_committed").await;
        let what = "3pc, attempted, accepted by the log and one of three";
        self.expect(what, gtid, Some("preparing"), End::Committed, &moved);
    }

    async fn sagas(&mut self) {
        self.arm("clerk-b", "participant-step-done:abort").await;
        self.arm("clerk-c", "participant-step-due:abort:2").await;
        self.arm("clerk-d", "participant-step-done:abort:2").await;

        let steps = [("first", "clerk-a"), ("second", "clerk-b"), ("last", "clerk-a")];
        let gtid = self.saga(&steps, None, None).await;
        self.dies("clerk-b").await;
        let effects = [("clerk-a", 2), ("clerk-b", 1)];
        self.expect("saga, a step in effect and not told", gtid, Some("running"), End::Completed, &effects);

        let gtid = self.saga(&steps, None, None).await;
        self.have(gtid, "completed", 1).await;
        self.expect("saga, a step that never came", gtid, Some("running"), End::Completed, &effects);

        let steps = [("first", "clerk-a"), ("pivot", "clerk-a"), ("last", "clerk-b")];
        let gtid = self.saga(&steps, Some("pivot"), None).await;
        self.have(gtid, "completed", 2).await;
        self.expect("saga, behind its pivot", gtid, Some("running"), End::Completed, &effects);

        let steps = [("first", "clerk-a"), ("pivot", "clerk-b")];
        let gtid = self.saga(&steps, Some("pivot"), None).await;
        self.have(gtid, "completed", 1).await;
        let effects = [("clerk-a", 1), ("clerk-b", 1)];
        self.expect("saga, before its pivot", gtid, Some("running"), End::Completed, &effects);

        for (clerk, what) in [
            ("clerk-c", "saga, a compensation that took no effect"),
            ("clerk-d", "saga, a compensation in effect and not told"),
        ] {
            let steps = [("first", "clerk-a"), ("second", clerk), ("last", "clerk-a")];
            let gtid = self.saga(&steps, None, Some("last")).await;
            self.dies(clerk).await;
            self.is(gtid, "compensating").await;
            self.expect(what, gtid, Some("compensating"), End::Compensated, &[]);
        }

        let steps = [("pivot", "clerk-a"), ("last", "clerk-a")];
        let gtid = self.saga(&steps, Some("pivot"), Some("last")).await;
        self.is(gtid, "paused").await;
        let what = "saga, paused, since a step behind its pivot is refused";
        self.expect(what, gtid, Some("paused"), End::Paused, &[("clerk-a", 1)]);
    }

    /// What is open when the coordinator dies, and it is the last to act.
    async fn without_a_row(&mut self) {
        self.coordinator.kill();
        // An initiator that still waits would ask the next one again.
        for waiting in self.waiting.drain(..) {
            waiting.abort();
        }
        tokio::time::timeout(DEADLINE, self.assent.clone().shutdown()).await.expect("it leaves");
        // Two votes of the chests, which are counted before the two of the others.
        self.coordinator.restart_with(VARIABLE, Some("coordinator-vote-counted:abort:4"));
        self.coordinator.line_with("listening", DEADLINE).await;
        let dial = Assent::dial(&self.endpoint).patience(DEADLINE);
        self.assent = dial.connect().await.expect("the coordinator answers");
        self.process("bank-e").restart_with(VARIABLE, Some("participant-end-due:abort"));
        self.dies("bank-e").await;
        self.are_there(&["bank-a", "bank-f", "chest-a", "chest-b", "chest-c"]).await;

        let lock = self.is_slow("chest-c").await;
        let moved = [("chest-a", -22), ("chest-b", 11), ("chest-c", 11)];
        let transfer = self.transfer(Protocol::ThreePhase, &moved);
        let gtid = transfer.gtid();
        self.ask(transfer);
        self.stands("chest-a", gtid, "waiting").await;
        self.stands("chest-b", gtid, "waiting").await;
        self.have(gtid, "prepared", 2).await;
        self.expect("3pc, not attempted, two of three are prepared", gtid, None, End::Presumed, &[]);

        let transfer = self.transfer(Protocol::TwoPhase, &[("bank-a", -11), ("bank-f", 11)]);
        let gtid = transfer.gtid();
        self.ask(transfer);
        self.coordinator.line_with("crash point", DEADLINE).await;
        self.coordinator.exit(DEADLINE).await;
        self.expect("2pc, not decided, all are prepared", gtid, None, End::Presumed, &[]);
        for process in self.members.values_mut().filter_map(|member| member.process.as_mut()) {
            process.kill();
        }
        lock.rollback().await.expect("unlocked");
        for waiting in &self.waiting {
            waiting.abort();
        }
    }
}
