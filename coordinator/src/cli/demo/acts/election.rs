//! The act in which the coordinator and its log are lost for a while, and the services end the transaction by themselves.

use assent_proto::v1::TransactionState;
use assent_sdk::{Outcome, Protocol};

use super::super::books::Change;
use super::super::event::Event;
use super::super::failure;
use super::super::services::{BANK_A, BANK_B, Order, SERVICES, TRAVEL};
use super::super::stage::COORDINATOR;
use super::{Ended, Play, TRANSACTION_MAX, is_vote, transacted};
use crate::cli::Failure;

/// What the act changes.
const CHANGES: [Change; 4] =
    [(BANK_A, "anna", -50), (BANK_A, "agency", 100), (BANK_B, "ben", -50), (TRAVEL, "rooms", -1)];

impl Play<'_, '_> {
    /// Killed after the pre-commit: every service has voted and accepted the commit, and the coordinator has not yet heard that enough
    /// of them have.
    ///
    /// Nothing of the product makes that moment last. A service is slow to vote, and the wires of the other two are cut behind their votes:
    /// so theirs is the answer that is lost.
    pub(super) async fn election(&mut self) -> Result<(), Failure> {
        let text = "Anna and Ben book a room together, with three-phase commit. All services vote yes and accept the commit; but the\n\
                    answers of two are lost on the way, and the coordinator is killed, and its log with it.";
        let scene = self.open("the coordinator is lost, and the services decide without it", text)?;
        self.stage.hold_votes(BANK_B).await?;
        let transaction = self.initiator.transaction().protocol(Protocol::ThreePhase);
        let transaction = transaction
            .branch_json(BANK_A, &Order::of(&[("anna", -50), ("agency", 100)]))
            .branch_json(BANK_B, &Order::of(&[("ben", -50)]))
            .branch_json(TRAVEL, &Order::of(&[("rooms", -1)]));
        let gtid = transaction.gtid();
        self.story.does("transaction", gtid)?;
        let asked = tokio::spawn(transaction.timeout(TRANSACTION_MAX).commit());
        self.stage.until_told(gtid, "bank-a and travel have voted", &[BANK_A, TRAVEL], is_vote).await?;
        self.stage.until_branches(gtid, "both votes have arrived", &[BANK_A, TRAVEL], "prepared").await?;
        self.stage.cut(&[BANK_A, TRAVEL], true);
        self.stage.go_on(BANK_B).await?;
        self.stage.until_told(gtid, "bank-b has voted", &[BANK_B], is_vote).await?;
        self.stage.until_branches(gtid, "bank-b has accepted", &[BANK_B], "accepted").await?;

        let (votes, _) = self.told(gtid, is_vote);
        self.story.tells(&votes)?;
        self.story.does(COORDINATOR, "all said yes: notes that it proposes to commit, and proposes it to all three")?;
        let transaction = self.stage.transaction(gtid).await?;
        self.story.does(COORDINATOR, format_args!("waits for {}", transaction.waiting_for))?;
        let id = self.stage.kill(COORDINATOR).await?;
        self.story.does(COORDINATOR, format_args!("is killed: SIGKILL to process {id}; nobody else opens its log"))?;
        self.story.pause()?;
        self.story.says(
            "With two phases everybody would wait now. Here whoever hears of nobody for some seconds asks the others: three of\n\
             four voters (the fourth is the log) are a quorum, and all three have accepted the commit.",
        )?;
        self.story.pause()?;

        let everybody = SERVICES.map(|service| service.name);
        let is_done = |event: &Event| matches!(event, Event::Committed { .. });
        self.stage.until_told(gtid, "all services have committed without the coordinator", &everybody, is_done).await?;
        let (_, ends) = self.told(gtid, is_vote);
        self.story.tells(&ends)?;
        let wrong = self.stage.books().await?.differences_from(&self.expected.with(&CHANGES));

        self.stage.cut(&[BANK_A, TRAVEL], false);
        self.stage.start_coordinator().await?;
        self.stage.until_state(gtid, TransactionState::Committed).await?;
        self.story.does(COORDINATOR, "starts, asks the voters what became of it, and notes: committed")?;
        let outcome = match asked.await.map_err(failure)?.map_err(failure)? {
            Outcome::InDoubt { .. } => self.initiator.outcome(gtid, TRANSACTION_MAX).await.map_err(failure)?,
            told => told,
        };
        let Outcome::Committed = outcome else {
            return Err(self.unexpected(gtid, transacted(outcome), "be committed, as the services did").await);
        };
        self.story.does("Anna", "is told: committed")?;
        let ended = Ended { killed: vec![COORDINATOR], wrong, ..Ended::with(gtid, "committed") };
        self.close(scene, ended, &CHANGES, "the services have ended it alike, and the coordinator agrees").await
    }
}
