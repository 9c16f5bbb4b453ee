//! The steps that the system can take.

use assent_protocol::replica::{SessionId, Timer};
use assent_protocol::three_phase::{coordinator, participant};
use assent_protocol::{Gtid, two_phase};

use super::bank::{BranchKey, Turn};
use super::session::Client;
use super::steps::Verdict;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Dial { client: Client, node: usize },
    ToReplica { session: SessionId },
    ToClient { session: SessionId },
    Break { session: SessionId, arrived: usize },
    ReplicaNotices { session: SessionId },
    ClientNotices { session: SessionId },
    HookReturns { bank: usize, instance: usize, at: usize, turn: Turn },
    StepReturns { bank: usize, instance: usize, at: usize, verdict: Verdict },
    NodeTimer { node: usize },
    EarlyNodeTimer { node: usize, gtid: Gtid, timer: Timer },
    InstanceTimer { bank: usize, instance: usize },
    EarlyInstanceTimer { bank: usize, instance: usize, key: BranchKey, timer: participant::Timer },
    Apply { node: usize },
    Answer { node: usize },
    LoseAnswer { node: usize },
    ApplyLate,
    Read { node: usize, lag: usize },
    FoundInLog { node: usize },
    CrashNode { node: usize },
    StartNode { node: usize },
    TakeOver { node: usize },
    FindOut { node: usize },
    Blackout,
    LogReturns,
    CrashInstance { bank: usize, instance: usize },
    ScaleAway { bank: usize, instance: usize },
    StartInstance { bank: usize, instance: usize },
    LoseStore { bank: usize },
    AskVoter { bank: usize, instance: usize, at: usize },
    ForgetVoter { bank: usize, instance: usize, gtid: Gtid },
    PeerIsAsked { call: u64, instance: usize },
    PeerIsAnswered { call: u64 },
    Ask { wish: usize },
    Call { wish: usize, instance: usize },
    CallTwice { wish: usize, instance: usize, fails: bool },
    CleanUp { bank: usize, instance: usize },
    GiveUpCall { wish: usize },
    LosePatience { wish: usize },
    Repeat { wish: usize },
    Turn { wish: usize },
    Resume { node: usize, wish: usize },
    Jump,
    Retention,
}

/// When an undecided three-phase transaction aborts.
pub(crate) const DEADLINE: Timer = Timer::ThreePhase(coordinator::Timer::TwoPhase(two_phase::Timer::Deadline));

impl Action {
    /// Whether it waits while the log is away.
    pub(crate) fn needs_the_log(self) -> bool {
        matches!(
            self,
            Self::Apply { .. }
                | Self::Read { .. }
                | Self::StartNode { .. }
                | Self::TakeOver { .. }
                | Self::FindOut { .. }
                | Self::ApplyLate
                | Self::Retention
        )
    }
}
