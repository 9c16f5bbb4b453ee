//! Crash points: named places around each log write and each message, at which a test makes a real process die, fail or stop.
//!
//! `ASSENT_CRASH_POINT=NAME:ACTION[:NTH]`, in the environment of the process, with `NAME` one of [`POINTS`]:
//!
//! | action | at the NTH time (the first, unless said) that the process comes there |
//! |---|---|
//! | `abort` | it aborts: no destructor runs, no buffer is written |
//! | `error` | the place fails as it would if what it is about to use, or has just used, had failed; only where that can be |
//! | `pause` | the whole process stops, as by SIGSTOP, until somebody sends SIGCONT |
//!
//! Only debug builds have them. In a release build [`crash_point!`] is no code at all: neither names nor the variable are in the binary.
//!
//! The crate `fail` does the like for single tests; it has no abort and no stop of the whole process, its sites cannot be listed, and
//! with its feature on, which is one for the whole build, it would be in everything that is built beside a test.

/// Where a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// In the coordinator, its log included.
    Coordinator,
    /// In a participant.
    Participant,
}

/// One point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub side: Side,
    /// Whether an error can be returned there.
    pub fails: bool,
    /// It lies behind the sending of a message, so that what it does waits until the message has left.
    pub follows_a_message: bool,
}

/// What a point does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process aborts.
    Abort,
    /// The place fails.
    Error,
    /// The process stops until it is continued.
    Pause,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Abort, Self::Error, Self::Pause];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Error => "error",
            Self::Pause => "pause",
        }
    }
}

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $point:ident = $name:literal, $side:ident $(, $property:ident)*;)+) => {
        $($(#[doc = $doc])+ pub const $point: Point = points!(@ Point { name: $name, side: Side::$side, fails: false, follows_a_message: false }, $($property)*);)+

        /// All of them.
        pub const POINTS: &[Point] = &[$($point),+];
    };
    (@ $point:expr,) => { $point };
    (@ $point:expr, $property:ident) => { Point { $property: true, ..$point } };
}

points! {
    /// A frame of a client was read and parsed, and no shard knows of it. As an error: the session breaks.
    FRAME_READ = "coordinator-frame-read", Coordinator, fails;
    /// An order to prepare has left.
    PREPARE_SENT = "coordinator-prepare-sent", Coordinator, follows_a_message;
    /// A step's order has left.
    STEP_SENT = "coordinator-step-sent", Coordinator, follows_a_message;
    /// A vote was counted, and what follows from it is still to be written or said.
    VOTE_COUNTED = "coordinator-vote-counted", Coordinator;
    /// A step's answer was counted, and what follows from it is still to be written or said.
    STEP_COUNTED = "coordinator-step-counted", Coordinator;
    /// Records are about to be handed to the committer.
    APPEND_DUE = "coordinator-append-due", Coordinator;
    /// Records were handed to the committer.
    APPEND_SENT = "coordinator-append-sent", Coordinator;
    /// The log has confirmed; the effects are still held.
    APPEND_CONFIRMED = "coordinator-append-confirmed", Coordinator;
    /// The effects were released, and wait to be sent.
    EFFECTS_RELEASED = "coordinator-effects-released", Coordinator;
    /// An order to commit has left.
    COMMIT_SENT = "coordinator-commit-sent", Coordinator, follows_a_message;
    /// An order to abort has left.
    ABORT_SENT = "coordinator-abort-sent", Coordinator, follows_a_message;
    /// An acknowledgement was counted.
    ACKNOWLEDGEMENT_COUNTED = "coordinator-acknowledgement-counted", Coordinator;
    /// An end is in the log.
    END_APPENDED = "coordinator-end-appended", Coordinator;
    /// A page of open transactions was given to the shards at the start. As an error: the log could not be read on.
    RECOVERY_PAGE = "coordinator-recovery-page", Coordinator, fails;
    /// An append has not begun. As an error: the log is not reached.
    LOG_BEFORE_BEGIN = "log-before-begin", Coordinator, fails;
    /// An append is in its transaction, which is not committed; on Postgres, where one statement is all of it, before that is sent.
    LOG_BEFORE_COMMIT = "log-before-commit", Coordinator, fails;
    /// An append was committed, and nobody knows. As an error: the outcome is unknown.
    LOG_AFTER_COMMIT = "log-after-commit", Coordinator, fails;

    /// A frame of the replica came in, and nothing of it was looked at. As an error: the session breaks.
    ORDER_HEARD = "participant-order-heard", Participant, fails;
    /// A hook is about to run.
    HOOK_CALLED = "participant-hook-called", Participant;
    /// A hook has returned, and the machine does not know.
    HOOK_RETURNED = "participant-hook-returned", Participant;
    /// PREPARE TRANSACTION is about to be sent.
    PREPARE_DUE = "participant-prepare-due", Participant, fails;
    /// PREPARE TRANSACTION has succeeded. As an error: the connection was lost before the answer.
    PREPARE_DONE = "participant-prepare-done", Participant, fails;
    /// COMMIT in one phase is about to be sent.
    ONE_PHASE_DUE = "participant-one-phase-due", Participant, fails;
    /// COMMIT in one phase has succeeded. As an error: the connection was lost before the answer.
    ONE_PHASE_DONE = "participant-one-phase-done", Participant, fails;
    /// COMMIT PREPARED or ROLLBACK PREPARED is about to be sent.
    END_DUE = "participant-end-due", Participant, fails;
    /// COMMIT PREPARED or ROLLBACK PREPARED has succeeded. As an error: the connection was lost before the answer.
    END_DONE = "participant-end-done", Participant, fails;
    /// A step's transaction is about to be committed, barrier and effect together.
    STEP_DUE = "participant-step-due", Participant, fails;
    /// A step's transaction is committed. As an error: the connection was lost before the answer.
    STEP_DONE = "participant-step-done", Participant, fails;
    /// A vote has left.
    VOTE_SENT = "participant-vote-sent", Participant, follows_a_message;
    /// An acknowledgement has left.
    ACKNOWLEDGEMENT_SENT = "participant-acknowledgement-sent", Participant, follows_a_message;
    /// A step's answer has left.
    ANSWER_SENT = "participant-answer-sent", Participant, follows_a_message;
    /// A session was dialled again, and nothing was said over it. As an error: it was lost at once.
    REDIALLED = "participant-redialled", Participant, fails;
}

/// Comes to a point: `crash_point!(NAME)`, or `crash_point!(NAME, statement)` where it can fail: the statement returns the error.
#[cfg(debug_assertions)]
#[macro_export]
macro_rules! crash_point {
    ($point:ident) => {
        $crate::armed::reached(&$crate::$point);
    };
    ($point:ident, $fail:expr) => {
        if $crate::armed::reached(&$crate::$point) {
            $fail
        }
    };
}

/// Nothing: this is a release build.
#[cfg(not(debug_assertions))]
#[macro_export]
macro_rules! crash_point {
    ($($anything:tt)*) => {};
}

#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    use super::{Action, POINTS, Point};

    struct Armed {
        name: &'static str,
        action: Action,
        left: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    /// How long a message may take to leave the process.
    const LEAVING: Duration = Duration::from_millis(20);

    /// Does what was asked for. Answers whether the place is to fail.
    pub fn reached(point: &'static Point) -> bool {
        let armed = ARMED.get_or_init(|| std::env::var("ASSENT_CRASH_POINT").ok().map(|text| parse(&text)));
        let Some(armed) = armed.as_ref().filter(|armed| armed.name == point.name) else { return false };
        // Once only: what comes after the last time is left alone.
        if armed.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) != Ok(1) {
            return false;
        }
        let action = armed.action;
        match (action, point.follows_a_message) {
            (Action::Error, _) => {
                told(point, action);
                return true;
            }
            (Action::Abort | Action::Pause, false) => act(point, action),
            (Action::Abort | Action::Pause, true) => {
                std::thread::spawn(move || {
                    std::thread::sleep(LEAVING);
                    act(point, action);
                });
            }
        }
        false
    }

    fn act(point: &Point, action: Action) {
        told(point, action);
        match action {
            Action::Abort => std::process::abort(),
            Action::Pause => {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP).ok();
            }
            Action::Error => {}
        }
    }

    /// For whoever waits for it; stderr is not buffered.
    fn told(point: &Point, action: Action) {
        eprintln!("crash point {} reached: {}", point.name, action.as_str());
    }

    fn parse(text: &str) -> Armed {
        let refuse = |problem: &str| -> ! {
            eprintln!("ASSENT_CRASH_POINT={text}: {problem}");
            std::process::abort()
        };
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let Some(point) = POINTS.iter().find(|point| point.name == name) else { refuse("there is no such point") };
        let word = parts.next().unwrap_or_default();
        let Some(action) = Action::ALL.into_iter().find(|action| action.as_str() == word) else {
            refuse("the action is abort, error or pause")
        };
        if action == Action::Error && !point.fails {
            refuse("it cannot fail there");
        }
        let Ok(nth @ 1..) = parts.next().unwrap_or("1").parse() else { refuse("the number is from 1") };
        Armed { name: point.name, action, left: AtomicU64::new(nth) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = POINTS.iter().map(|point| point.name).collect();
        assert_eq!(names.len(), POINTS.len());
        assert!(names.iter().all(|name| !name.contains(':')));
    }
}
