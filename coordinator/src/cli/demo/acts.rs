//! The six acts.

mod election;

use std::time::{Duration, Instant};

use assent_proto::v1::TransactionState;
use assent_sdk::saga::{SagaBuilder, SagaOutcome};
use assent_sdk::{Assent, Gtid, Outcome, Transaction};

use super::books::{Books, Change};
use super::event::{Event, Told};
use super::services::{BANK_A, BANK_B, Order, SERVICES, Spec, TRAVEL};
use super::stage::{COORDINATOR, Stage, ledger_name, state_word};
use super::story::{Act, InDoubt, Story};
use super::{failed, failure};
use crate::cli::Failure;

/// How long a transaction may stay undecided; it takes milliseconds.
const TRANSACTION_MAX: Duration = Duration::from_secs(20);
/// How long a saga may take.
const SAGA_MAX: Duration = Duration::from_secs(30);

/// The acts as they are played.
pub(super) struct Play<'p, 'o> {
    stage: &'p mut Stage,
    story: &'p mut Story<'o>,
    /// Whoever begins transactions.
    initiator: Assent,
    /// The balances as they should be.
    expected: Books,
    /// Which act is played; 0 before the first.
    number: usize,
    acts: Vec<Act>,
}

/// An act that is being played.
struct Scene {
    title: &'static str,
    began: Instant,
}

/// How an act ended.
struct Ended {
    gtid: Gtid,
    /// What the initiator was told.
    outcome: &'static str,
    reason: Option<String>,
    killed: Vec<&'static str>,
    in_doubt: Option<InDoubt>,
    /// Balances that were wrong in its course.
    wrong: Vec<String>,
}

/// Raises the curtain, and plays all acts. They are added to `acts` one by one, so that those that were played before a failure are there.
pub(super) async fn play(stage: &mut Stage, story: &mut Story<'_>, acts: &mut Vec<Act>) -> Result<(), Failure> {
    stage.start().await?;
    let initiator = stage.initiator().await?;
    let mut play = Play { stage, story, initiator, expected: Books::opening(), number: 0, acts: Vec::new() };
    let played = play.all().await;
    let when = if play.number == 0 { "at the beginning".to_owned() } else { format!("in act {}", play.number) };
    acts.append(&mut play.acts);
    played.map_err(|failure| match failure.what.as_str() {
        // Whoever closed the pipe has read enough.
        "" => failure,
        what => Failure { what: format!("{when}: {what}"), ..failure },
    })
}

impl Play<'_, '_> {
    async fn all(&mut self) -> Result<(), Failure> {
        self.introduce().await?;
        self.transfer().await?;
        self.refused_transfer().await?;
        self.trip().await?;
        self.failing_trip().await?;
        self.crash().await?;
        self.election().await
    }

    async fn introduce(&mut self) -> Result<(), Failure> {
        let (story, stage) = (&mut *self.story, &*self.stage);
        story.title("Assent: a coordinator and three services, each a process of its own")?;
        let process = |name: &str| stage.process_id(name).map_or_else(String::new, |id| format!(" (process {id})"));
        let process = |name: &str| if story.is_verbose() { process(name) } else { String::new() };
        let lines: Vec<(&str, String)> =
            [(COORDINATOR, format!("{}, its log in SQLite{}", stage.endpoint(), process(COORDINATOR)))]
                .into_iter()
                .chain(
                    SERVICES
                        .iter()
                        .map(|service| (service.name, format!("{}{}", service.about, process(service.name)))),
                )
                .collect();
        for (name, text) in lines {
            story.does(name, text)?;
        }
        for service in &SERVICES {
            let ledger = stage.directory().join(ledger_name(service.name));
            story.detail(format_args!("the ledger of {}: {}", service.name, ledger.display()))?;
        }
        story.pause()?;
        story.says("The balances below are read from the services' own ledgers, which are files of theirs.")?;
        let books = stage.books().await?;
        story.balances(None, &books)?;
        let wrong = books.differences_from(&self.expected);
        if wrong.is_empty() { Ok(()) } else { Err(wrong_balances(&wrong)) }
    }

    // ---- the acts ----------------------------------------------------------------------------------------------------

    async fn transfer(&mut self) -> Result<(), Failure> {
        let scene = self.open("a transfer commits", "Anna at bank-a sends Ben at bank-b 250 EUR.")?;
        let transaction = self.initiator.transaction();
        let transaction = transaction
            .branch_json(BANK_A, &Order::of(&[("anna", -250)]))
            .branch_json(BANK_B, &Order::of(&[("ben", 250)]));
        let gtid = transaction.gtid();
        self.story.does("transaction", gtid)?;
        let outcome = transaction.timeout(TRANSACTION_MAX).commit_and_wait().await.map_err(failure)?;
        let Outcome::Committed = outcome else {
            return Err(self.unexpected(gtid, transacted(outcome), "commit").await);
        };
        let is_done = |event: &Event| matches!(event, Event::Committed { .. });
        self.stage.until_told(gtid, "both banks have committed", &[BANK_A, BANK_B], is_done).await?;

        let (before, after) = self.told(gtid, is_vote);
        self.story.tells(&before)?;
        self.story.does(COORDINATOR, "all said yes: writes \"commit\" to its log, and only then tells anybody")?;
        self.story.tells(&after)?;
        let ended = Ended::with(gtid, "committed");
        self.close(scene, ended, &[(BANK_A, "anna", -250), (BANK_B, "ben", 250)], "both banks have it, once").await
    }

    async fn refused_transfer(&mut self) -> Result<(), Failure> {
        let text = "Ben sends Anna 600 EUR, which he does not have.";
        let scene = self.open("one service refuses, so nobody does it", text)?;
        let transaction = self.initiator.transaction();
        let transaction = transaction
            .branch_json(BANK_A, &Order::of(&[("anna", 600)]))
            .branch_json(BANK_B, &Order::of(&[("ben", -600)]));
        let gtid = transaction.gtid();
        self.story.does("transaction", gtid)?;
        let outcome = transaction.timeout(TRANSACTION_MAX).commit_and_wait().await.map_err(failure)?;
        let Outcome::Aborted(reason) = outcome else {
            return Err(self.unexpected(gtid, transacted(outcome), "abort").await);
        };
        let is_done = |event: &Event| matches!(event, Event::Aborted { .. });
        self.stage.until_told(gtid, "bank-a has aborted", &[BANK_A], is_done).await?;
        self.stage.until_told(gtid, "bank-b has voted", &[BANK_B], is_vote).await?;

        let (before, after) = self.told(gtid, is_vote);
        self.story.tells(&before)?;
        self.story.does(COORDINATOR, "one said no: abort")?;
        self.story.tells(&after)?;
        self.story.does("Ben", format_args!("is told why: {reason}"))?;
        let ended = Ended { reason: Some(reason.to_string()), ..Ended::with(gtid, "aborted") };
        self.close(scene, ended, &[], "nothing has changed anywhere").await
    }

    async fn trip(&mut self) -> Result<(), Failure> {
        let text = "Anna books a trip as a saga: a flight and a hotel at the same time, then the payment.";
        let scene = self.open("a saga completes", text)?;
        let mut saga = SagaBuilder::new();
        let flight = saga.step("flight", TRAVEL).input_json(&Order::of(&[("seats", -1)])).add();
        let hotel = saga.step("hotel", TRAVEL).input_json(&Order::of(&[("rooms", -1)])).add();
        let paid = Order::of(&[("anna", -400), ("agency", 400)]);
        saga.step("payment", BANK_A).input_json(&paid).after(&flight).after(&hotel).add();
        let (gtid, outcome) = self.run(saga).await?;
        let SagaOutcome::Completed(_) = outcome else {
            return Err(self.unexpected(gtid, ended(outcome), "complete").await);
        };
        let is_done = |event: &Event| matches!(event, Event::Executed { step, .. } if step == "payment");
        self.stage.until_told(gtid, "bank-a has executed the payment", &[BANK_A], is_done).await?;

        let told = self.stage.told_about(gtid);
        self.story.tells(&told)?;
        let changes = [(TRAVEL, "seats", -1), (TRAVEL, "rooms", -1), (BANK_A, "anna", -400), (BANK_A, "agency", 400)];
        self.close(scene, Ended::with(gtid, "completed"), &changes, "the trip is booked and paid").await
    }

    async fn failing_trip(&mut self) -> Result<(), Failure> {
        let text = "The same again for 300 EUR, with a pass for the lounge as the last step. There is none left.";
        let scene = self.open("a saga's last step fails, and what was done is undone in reverse", text)?;
        let mut saga = SagaBuilder::new();
        let flight = saga.step("flight", TRAVEL).input_json(&Order::of(&[("seats", -1)])).add();
        let hotel = saga.step("hotel", TRAVEL).input_json(&Order::of(&[("rooms", -1)])).add();
        let paid = Order::of(&[("anna", -300), ("agency", 300)]);
        let payment = saga.step("payment", BANK_A).input_json(&paid).after(&flight).after(&hotel).add();
        saga.step("lounge", TRAVEL).input_json(&Order::of(&[("lounge-passes", -1)])).after(&payment).add();
        let (gtid, outcome) = self.run(saga).await?;
        let SagaOutcome::Compensated(reason) = outcome else {
            return Err(self.unexpected(gtid, ended(outcome), "be compensated").await);
        };
        for (step, service) in [("payment", BANK_A), ("flight", TRAVEL), ("hotel", TRAVEL)] {
            let is_done = |event: &Event| matches!(event, Event::Compensated { step: done, .. } if done == step);
            self.stage.until_told(gtid, &format!("{service} has undone {step}"), &[service], is_done).await?;
        }

        let is_forward = |event: &Event| !matches!(event, Event::Compensated { .. });
        let (forward, back) = self.told(gtid, is_forward);
        self.story.tells(&forward)?;
        self.story.does(COORDINATOR, "turns back: each step is undone before those that it came after")?;
        self.story.tells(&back)?;
        self.story.does("Anna", format_args!("is told why: {reason}"))?;
        let ended = Ended { reason: Some(reason.to_string()), ..Ended::with(gtid, "compensated") };
        self.close(scene, ended, &[], "seat and room are free again, and Anna has her money").await
    }

    /// A service and the coordinator are killed between decision and acknowledgement.
    ///
    /// The service itself makes the moment last: it was told to be slow, and says so when the order to commit has come.
    async fn crash(&mut self) -> Result<(), Failure> {
        let text = "Anna sends Ben 100 EUR. The decision is made; then bank-b and the coordinator are killed, before\n\
                    bank-b has committed. To make that moment last, bank-b was asked to be slow.";
        let scene = self.open("both are killed between decision and acknowledgement", text)?;
        self.stage.hold_commits(BANK_B).await?;
        let transaction = self.initiator.transaction();
        let transaction = transaction
            .branch_json(BANK_A, &Order::of(&[("anna", -100)]))
            .branch_json(BANK_B, &Order::of(&[("ben", 100)]));
        let gtid = transaction.gtid();
        self.story.does("transaction", gtid)?;
        self.decide(gtid, transaction).await?;
        let in_doubt = self.kill(gtid).await?;
        self.recover(gtid).await?;

        let wrong = in_doubt
            .differences_from(&self.expected.with(&[(BANK_A, "anna", -100)]).with_prepared(&[(BANK_B, "ben", 100)]));
        let killed = vec![BANK_B, COORDINATOR];
        let ended = Ended { killed, wrong, in_doubt: Some(InDoubt(in_doubt)), ..Ended::with(gtid, "committed") };
        let changes = [(BANK_A, "anna", -100), (BANK_B, "ben", 100)];
        self.close(scene, ended, &changes, "what Anna was told has come true at both banks, once").await
    }

    /// Commits, up to the moment in which one bank has and the other one is about to.
    async fn decide(&mut self, gtid: Gtid, transaction: Transaction) -> Result<(), Failure> {
        let outcome = transaction.timeout(TRANSACTION_MAX).commit().await.map_err(failure)?;
        let Outcome::Committed = outcome else {
            return Err(self.unexpected(gtid, transacted(outcome), "commit").await);
        };
        let is_done = |event: &Event| matches!(event, Event::Committed { .. });
        self.stage.until_told(gtid, "bank-a has committed", &[BANK_A], is_done).await?;
        let is_held = |event: &Event| matches!(event, Event::CommitHeld { .. });
        self.stage.until_told(gtid, "bank-b was asked to commit", &[BANK_B], is_held).await?;

        let (before, after) = self.told(gtid, is_vote);
        self.story.tells(&before)?;
        self.story.does(COORDINATOR, "all said yes: writes \"commit\" to its log")?;
        self.story.does("Anna", "is told: committed")?;
        self.story.tells(&after)?;
        let transaction = self.stage.transaction(gtid).await?;
        Ok(self.story.record(&transaction)?)
    }

    /// Kills bank-b and the coordinator. Answers the books that they leave behind.
    async fn kill(&mut self, gtid: Gtid) -> Result<Books, Failure> {
        for name in [BANK_B, COORDINATOR] {
            let id = self.stage.kill(name).await?;
            self.story.does(name, format_args!("is killed: SIGKILL to process {id}"))?;
        }
        let is_done = |told: &Told| told.service == BANK_B && matches!(told.event, Event::Committed { .. });
        if self.stage.told_about(gtid).iter().any(is_done) {
            return Err(failed("bank-b committed before it was killed"));
        }
        let books = self.stage.books().await?;
        self.story.balances(Some(&self.expected), &books)?;
        self.story.pause()?;
        self.story.says("Bank-b is in doubt: it may neither commit nor abort on its own. Both are started again.")?;
        self.story.pause()?;
        Ok(books)
    }

    /// Starts both again, and waits until the transaction has ended.
    async fn recover(&mut self, gtid: Gtid) -> Result<(), Failure> {
        let told_before = self.stage.told_about(gtid).len();
        self.stage.start_coordinator().await?;
        if let Some(bank_b) = Spec::named(BANK_B) {
            self.stage.start_service(bank_b)?;
        }
        let is_done = |event: &Event| matches!(event, Event::Committed { .. });
        self.stage.until_told(gtid, "bank-b has committed after all", &[BANK_B], is_done).await?;
        self.stage.until_state(gtid, TransactionState::Committed).await?;
        let outcome = self.initiator.outcome(gtid, TRANSACTION_MAX).await.map_err(failure)?;
        let Outcome::Committed = outcome else {
            return Err(self.unexpected(gtid, transacted(outcome), "stay committed").await);
        };

        self.story.does(COORDINATOR, "starts, finds the decision in its log, and tells both banks again")?;
        let told = self.stage.told_about(gtid);
        self.story.tells(told.iter().skip(told_before))?;
        self.story.does(COORDINATOR, "has heard from both, and is done with it")?;
        self.story.does("Anna", "asks again, and is told the same: committed")?;
        Ok(())
    }

    // ---- what acts have in common ------------------------------------------------------------------------------------

    fn open(&mut self, title: &'static str, text: &str) -> Result<Scene, Failure> {
        self.number += 1;
        self.story.title(&format!("Act {}: {title}", self.number))?;
        self.story.says(text)?;
        self.story.pause()?;
        Ok(Scene { title, began: Instant::now() })
    }

    /// Runs a saga to its end.
    async fn run(&mut self, saga: SagaBuilder) -> Result<(Gtid, SagaOutcome), Failure> {
        let gtid = self.initiator.start_saga(saga).await.map_err(failure)?;
        self.story.does("saga", gtid)?;
        Ok((gtid, self.initiator.saga_outcome(gtid, SAGA_MAX).await.map_err(failure)?))
    }

    /// An outcome that the act does not have, with what the coordinator says about it.
    async fn unexpected(&self, gtid: Gtid, outcome: String, wanted: &str) -> Failure {
        let record = match self.stage.transaction(gtid).await {
            Ok(transaction) => {
                let (state, waits) = (state_word(transaction.state()), transaction.waiting_for);
                if waits.is_empty() { state } else { format!("{state}, waits for {waits}") }
            }
            Err(failure) => failure.what,
        };
        failed(format!("{gtid} should {wanted}, and {outcome}; the coordinator has it as: {record}"))
    }

    /// What was told about a transaction, parted in two; each part in the order in which it happened.
    fn told(&self, gtid: Gtid, is_before: impl Fn(&Event) -> bool) -> (Vec<Told>, Vec<Told>) {
        self.stage.told_about(gtid).into_iter().partition(|told| is_before(&told.event))
    }

    /// Compares the ledgers with what they should say now.
    async fn close(&mut self, scene: Scene, ended: Ended, changes: &[Change], good: &str) -> Result<(), Failure> {
        let before = self.expected.clone();
        self.expected = before.with(changes);
        let balances = self.stage.books().await?;
        let mut wrong = ended.wrong;
        wrong.extend(balances.differences_from(&self.expected));
        let transaction = self.stage.transaction(ended.gtid).await?;
        self.story.record(&transaction)?;
        self.story.detail(format_args!("took {} ms", scene.began.elapsed().as_millis()))?;
        self.story.balances(Some(&before), &balances)?;
        self.story.verdict(good, &wrong)?;
        let checked = if wrong.is_empty() { Ok(()) } else { Err(wrong_balances(&wrong)) };
        self.acts.push(Act {
            act: self.number,
            title: scene.title,
            gtid: ended.gtid,
            outcome: ended.outcome,
            reason: ended.reason,
            events: self.stage.told_about(ended.gtid),
            killed: ended.killed,
            in_doubt: ended.in_doubt,
            state: state_word(transaction.state()),
            balances,
            wrong,
        });
        checked
    }
}

impl Ended {
    fn with(gtid: Gtid, outcome: &'static str) -> Self {
        Self { gtid, outcome, reason: None, killed: Vec::new(), in_doubt: None, wrong: Vec::new() }
    }
}

fn is_vote(event: &Event) -> bool {
    matches!(event, Event::VotedYes { .. } | Event::VotedNo { .. })
}

fn wrong_balances(wrong: &[String]) -> Failure {
    failed(format!("the balances are wrong: {}", wrong.join("; ")))
}

/// What became of a transaction, in words.
fn transacted(outcome: Outcome) -> String {
    match outcome {
        Outcome::Committed => "it committed".to_owned(),
        Outcome::Aborted(reason) => format!("it aborted ({reason})"),
        Outcome::InDoubt { .. } => "nothing was heard of it in time".to_owned(),
    }
}

/// What became of a saga, in words.
fn ended(outcome: SagaOutcome) -> String {
    match outcome {
        SagaOutcome::Completed(_) => "it completed".to_owned(),
        SagaOutcome::Compensated(reason) => format!("it was compensated ({reason})"),
        SagaOutcome::InDoubt { .. } => "nothing was heard of it in time".to_owned(),
    }
}
