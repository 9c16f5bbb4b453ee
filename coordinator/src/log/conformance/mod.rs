//! The suite that every log has to pass, one case for each promise.
//!
//! [`log_conformance!`](crate::log_conformance) makes a test of each case, and
//! [`log_conformance_shared!`](crate::log_conformance_shared) of those that need two processes on
//! one log. Both take an expression that makes a fresh [`Ground`], which is evaluated (and may
//! await) once for each case:
//!
//! ```ignore
//! assent::log_conformance! { MemoryGround::default() }
//! ```

mod branches;
mod decisions;
mod delegation;
mod epochs;
mod history;
mod leases;
mod oracle;
mod reading;
mod sagas;
mod sample;
mod three_phase;

use std::sync::Arc;

use assent_protocol::{Epoch, Gtid, Name};
use futures::future::BoxFuture;

use super::Log;

pub use branches::*;
pub use decisions::*;
pub use delegation::*;
pub use epochs::*;
pub use history::*;
pub use leases::*;
pub use oracle::*;
pub use reading::*;
pub use sagas::*;
pub use three_phase::*;

/// A fresh storage, on which a case opens its logs.
pub trait Ground: Send + Sync {
    /// Opens the storage, as another process would. A storage for one process only is opened once
    /// at a time.
    fn open(&self) -> BoxFuture<'_, Arc<dyn Log>>;

    /// Another process acquires this replica's name, behind the back of whoever holds it; answers
    /// its epoch.
    fn rival_acquires<'a>(&'a self, replica: &'a Name) -> BoxFuture<'a, Epoch>;

    /// Damages the row of an open saga, so that it can no longer be understood.
    fn spoil(&self, saga: Gtid) -> BoxFuture<'_, ()>;
}

/// One that several processes can have open at once.
pub trait SharedGround: Ground {
    /// Time passes, and every lease lapses.
    fn leases_lapse(&self) -> BoxFuture<'_, ()>;

    /// A replica has its epoch back, as if none of another name had taken over from it: so that two
    /// are alive at once.
    fn revive<'a>(&'a self, replica: &'a Name, epoch: Epoch) -> BoxFuture<'a, ()>;
}

/// Two processes under two names that can both append: what the leases are there to prevent.
async fn two_live(ground: &dyn SharedGround) -> (Arc<dyn Log>, Arc<dyn Log>) {
    let (one, two) = (ground.open().await, ground.open().await);
    let epoch = one.acquire(&sample::name("r1")).await.expect("nobody else is there");
    ground.leases_lapse().await;
    two.acquire(&sample::name("r2")).await.expect("the lease has lapsed");
    ground.revive(&sample::name("r1"), epoch).await;
    (one, two)
}

/// A log that is open under an epoch of the replica `r1`.
async fn start(ground: &dyn Ground) -> Arc<dyn Log> {
    let log = ground.open().await;
    log.acquire(&sample::name("r1")).await.expect("the name is free to take");
    log
}

/// Makes a test of each case of the suite. See [`conformance`](crate::log::conformance).
#[macro_export]
macro_rules! log_conformance {
    ($ground:expr) => {
        $crate::__log_conformance_cases! { $ground;
            a_decision_is_found_as_it_was_written
            the_first_decision_wins
            the_first_decision_wins_after_the_end_too
            the_first_decision_wins_within_one_batch
            a_batch_of_thousands_is_one_append
            a_repeated_batch_answers_the_same_and_changes_nothing
            an_inquirys_abort_stands_against_a_late_commit
            an_empty_batch_is_durable
            text_that_databases_dislike_is_taken
            extreme_numbers_are_taken
            epochs_only_rise
            without_an_epoch_nothing_is_appended
            a_fenced_epoch_changes_nothing
            a_new_epoch_takes_over_all_that_is_open
            a_lease_is_renewed_until_another_process_takes_over
            a_closed_log_answers_with_errors
            an_end_moves_the_row_to_history
            every_kind_of_end_is_found_as_it_was_written
            an_end_without_a_row_is_written_once
            an_end_without_a_row_yields_to_what_stands
            what_is_old_is_forgotten_unless_it_is_pinned
            a_pin_needs_a_transaction
            a_saga_is_found_as_it_was_logged
            a_sagas_latest_answers_count
            a_saga_can_be_paused_and_resumed
            a_turn_and_a_pause_in_one_batch_both_count
            a_durable_step_is_confirmed
            a_sagas_gtid_is_taken_once
            the_end_of_a_saga_subsumes_its_steps
            answers_that_come_after_the_end_leave_nothing
            a_sagas_end_is_confirmed_once_and_for_all
            a_saga_that_is_gone_is_not_driven_on
            recovery_pages_through_all_that_is_open
            an_unreadable_row_stops_no_other
            lookup_leaves_out_what_is_unknown
            a_listing_filters
            a_listing_pages_from_the_newest
            participants_are_noted_once
            reads_go_on_beside_appends
            random_batches_do_what_the_model_does
            an_end_keeps_the_digest_that_opened_the_row
            a_delegation_is_found_as_it_was_written
            a_decision_is_written_over_its_own_delegation
            an_end_brings_what_the_only_branch_did
            an_attempt_is_found_as_it_was_written
            each_attempt_of_a_batch_keeps_its_roster
            the_logs_vote_is_compared_and_set
            an_agreement_decides_its_row
            an_end_brings_what_was_agreed_on
            an_end_has_branches_of_its_own
            nobody_presumes_over_an_attempt
            a_new_epoch_votes_on_from_where_the_old_one_stood
            a_commit_of_other_branches_is_overruled
            a_branch_that_had_nothing_to_commit_is_not_named
            a_row_without_a_decision_is_one_of_its_branches
            branch_ids_are_found_as_they_were_written
        }
    };
}

/// Makes a test of each case that needs a log that several processes share. See
/// [`conformance`](crate::log::conformance).
#[macro_export]
macro_rules! log_conformance_shared {
    ($ground:expr) => {
        $crate::__log_conformance_cases! { $ground;
            replicas_that_race_agree_on_every_decision
            replicas_draw_epochs_from_one_sequence
            a_zombie_is_told_which_epoch_fenced_it
            a_row_without_a_decision_is_its_owners
            a_delegation_is_its_owners
            a_second_live_name_is_refused
            a_lapsed_lease_is_taken_over_with_all_that_is_open
            a_lapsed_lease_is_renewed_while_nobody_has_taken_over
            a_closed_log_gives_up_its_lease
            an_open_row_is_written_by_its_owner_alone
            recovery_is_given_its_own_rows_only
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_conformance_cases {
    ($ground:expr; $($case:ident)+) => {
        $(
            #[tokio::test]
            async fn $case() {
                let ground = $ground;
                $crate::log::conformance::$case(&ground).await;
            }
        )+
    };
}

/// A saga's start, for tests of one implementation.
pub fn sample_saga() -> assent_protocol::record::SagaStarted {
    sample::saga(sample::gtid(1))
}
