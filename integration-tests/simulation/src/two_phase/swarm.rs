//! Two-phase commit under the swarm.

use super::log::Kind;
use super::world::{Action, Faults, Packet, Says, Setup, World};
use crate::swarm::{Needs, Random, Swarm};
#[cfg(test)]
use crate::swarm::{one_seed_is_one_trace, swarm};

impl Swarm for World {
    type Setup = Setup;
    type Action = Action;
    const NAME: &'static str = "2pc";
    #[cfg(test)]
    const FAULTS: &'static [&'static str] = &[
        "append's answer lost",
        "append applied late",
        "take-over beside the living",
        "crash of a replica",
        "crash of a participant",
        "hook failed",
        "deadline passed",
        "inquiry meanwhile",
        "history removed",
        "request repeated",
        "outcome asked for",
    ];

    fn draw(random: &mut Random) -> Setup {
        const MOSTLY: &[Says] = &[Says::Yes, Says::Yes, Says::Yes, Says::Yes, Says::No];
        const ALL: &[Says] = &[Says::Yes, Says::ReadOnly, Says::No, Says::UnknownPrepared, Says::UnknownNot];
        const ALONE: &[Says] = &[Says::Committed, Says::ReadOnly, Says::No, Says::UnknownPrepared, Says::UnknownNot];
        let participants = 1 + random.below(3);
        let one_phase = participants == 1 && random.below(2) == 0;
        let early = !one_phase && random.below(3) == 0;
        Setup {
            participants,
            replicas: 1 + random.below(2),
            says: if one_phase { ALONE } else { [&[Says::Yes], MOSTLY, ALL][random.below(3)] },
            one_phase,
            early,
            slow_hooks: random.below(2) == 0,
            log: Kind::Sound,
            repeats_prepare: false,
            faults: Faults {
                replica_crashes: random.rate(3),
                participant_crashes: random.rate(3),
                lost_answers: random.rate(3),
                take_overs: random.rate(2),
                requests: random.rate(3),
                hooks: random.rate(3),
                deadlines: random.rate(2),
                inquiries: random.rate(4),
                retentions: random.rate(1),
            },
        }
    }

    fn begin(setup: &Setup) -> Self {
        Self::new(setup)
    }

    fn progress(&self, setup: &Setup) -> Vec<Action> {
        let mut actions = Vec::new();
        World::progress(self, setup, &mut actions);
        actions
    }

    fn faults(&self, setup: &Setup) -> Vec<Action> {
        let mut actions = Vec::new();
        World::faults(self, setup, &mut actions);
        actions
    }

    fn step(&mut self, setup: &Setup, action: Action) {
        if let Some(after) = World::step(self, setup, action) {
            *self = after;
        }
    }

    fn calm(&self, setup: &Setup, tell: &mut dyn FnMut(&Self, Action)) -> Result<(), String> {
        World::calm(self, setup, tell)
    }

    fn broken(&self) -> Option<String> {
        self.broken.as_ref().map(|(invariant, problem)| format!("{invariant}: {problem}"))
    }

    fn fault(action: Action) -> Option<&'static str> {
        match action {
            Action::LoseAnswer { .. } => Some("append's answer lost"),
            Action::ApplyLate => Some("append applied late"),
            Action::TakeOver => Some("take-over beside the living"),
            Action::CrashReplica { .. } => Some("crash of a replica"),
            Action::CrashParticipant { .. } => Some("crash of a participant"),
            Action::HookFails { .. } => Some("hook failed"),
            Action::Deadline { .. } => Some("deadline passed"),
            Action::Inquire { .. } => Some("inquiry meanwhile"),
            Action::Retention => Some("history removed"),
            Action::AskCommit { .. } | Action::AskAbort { .. } => Some("request repeated"),
            Action::AskOutcome { .. } => Some("outcome asked for"),
            Action::Deliver(_)
            | Action::Prepare { .. }
            | Action::PrepareReturns { .. }
            | Action::HookReturns { .. }
            | Action::Apply { .. }
            | Action::Answer { .. }
            | Action::Flush { .. }
            | Action::Absence { .. }
            | Action::Resend { .. }
            | Action::Join { .. }
            | Action::Left { .. }
            | Action::Retry { .. }
            | Action::CallService { .. }
            | Action::StartReplica { .. }
            | Action::Resume { .. }
            | Action::StartParticipant { .. }
            | Action::FailOver => None,
        }
    }

    fn needs(&self, action: Action) -> Needs {
        let place = |participant| self.replicas.len() + participant;
        let at = |replica| Needs { replica: Some(replica), ..Needs::default() };
        let with_log = |replica| Needs { log: true, ..at(replica) };
        match action {
            Action::Deliver(packet) | Action::Prepare { packet, .. } => {
                let (replica, way) = match packet {
                    // The replica has sent them; the participant takes them.
                    Packet::Prepare { to, replica, .. } | Packet::Decide { to, replica, .. } => {
                        (None, (replica, place(to)))
                    }
                    Packet::Enlisted { to, .. } => (None, (0, place(to))),
                    Packet::Vote { from, replica, .. }
                    | Packet::Acknowledge { from, replica, .. }
                    | Packet::Inquire { from, replica, .. } => (Some(replica), (place(from), replica)),
                    Packet::Enlist { from, .. } => (Some(0), (place(from), 0)),
                };
                // Who does not know the transaction asks the log.
                let log = replica
                    .is_some_and(|at| self.replicas[at].as_ref().is_some_and(|process| process.machine.is_none()));
                Needs { replica, way: Some(way), log, is_delivery: true }
            }
            Action::Join { replica, at: participant } => {
                Needs { way: Some((place(participant), replica)), ..at(replica) }
            }
            Action::Left { replica, .. }
            | Action::Deadline { replica }
            | Action::Absence { replica }
            | Action::Resend { replica }
            | Action::AskCommit { replica }
            | Action::AskAbort { replica }
            | Action::AskOutcome { replica } => at(replica),
            Action::Apply { replica }
            | Action::Answer { replica }
            | Action::Flush { replica }
            | Action::StartReplica { replica }
            | Action::Resume { replica } => with_log(replica),
            Action::TakeOver => with_log(1),
            Action::Retention => Needs { log: true, ..Needs::default() },
            Action::LoseAnswer { replica } => at(replica),
            Action::ApplyLate => Needs { log: true, ..Needs::default() },
            Action::PrepareReturns { .. }
            | Action::HookReturns { .. }
            | Action::HookFails { .. }
            | Action::Inquire { .. }
            | Action::Retry { .. }
            | Action::CallService { .. }
            | Action::CrashReplica { .. }
            | Action::CrashParticipant { .. }
            | Action::StartParticipant { .. }
            | Action::FailOver => Needs::default(),
        }
    }

    fn drop_message(&mut self, action: Action) {
        if let Action::Deliver(packet) | Action::Prepare { packet, .. } = action {
            self.net.remove(&packet);
        }
    }

    fn take_over(&self, setup: &Setup) -> Option<Action> {
        <Self as Swarm>::faults(self, setup).into_iter().find(|action| *action == Action::TakeOver)
    }

    fn link(setup: &Setup, random: &mut Random) -> (usize, usize) {
        (random.below(setup.replicas), setup.replicas + random.below(setup.participants))
    }

    fn takes_ms(action: Action) -> usize {
        match action {
            Action::Deadline { .. } => 30_000,
            Action::Absence { .. } => 5_000,
            Action::Resend { .. } | Action::Inquire { .. } | Action::Retry { .. } | Action::HookFails { .. } => 2_000,
            Action::StartReplica { .. } | Action::StartParticipant { .. } => 5_000,
            Action::TakeOver | Action::FailOver | Action::ApplyLate => 10_000,
            Action::Retention => 60_000,
            Action::Join { .. } | Action::Left { .. } | Action::LoseAnswer { .. } => 1_000,
            Action::Deliver(_)
            | Action::Prepare { .. }
            | Action::PrepareReturns { .. }
            | Action::HookReturns { .. }
            | Action::Apply { .. }
            | Action::Answer { .. }
            | Action::Flush { .. }
            | Action::CallService { .. }
            | Action::AskCommit { .. }
            | Action::AskAbort { .. }
            | Action::AskOutcome { .. }
            | Action::CrashReplica { .. }
            | Action::CrashParticipant { .. }
            | Action::Resume { .. } => 20,
        }
    }

    fn words(&self, action: Action) -> (String, String) {
        let coordinator = |at: usize| format!("coordinator {at}");
        let participant = |at: usize| format!("participant {at}");
        let (who, what) = match action {
            Action::Deliver(packet) => return packet_words(packet),
            Action::Prepare { packet, says } => {
                let (who, what) = packet_words(packet);
                return (who, format!("{what}, and its prepare says {says:?}"));
            }
            Action::PrepareReturns { at, says } => (participant(at), format!("its prepare says {says:?}")),
            Action::HookReturns { at } => (participant(at), "its commit or abort hook is done".to_owned()),
            Action::HookFails { at } => (participant(at), "its commit or abort hook fails".to_owned()),
            Action::Apply { replica } => ("log".to_owned(), format!("takes what coordinator {replica} appends")),
            Action::Answer { replica } => (coordinator(replica), "hears the log's answer".to_owned()),
            Action::LoseAnswer { replica } => {
                (coordinator(replica), "never hears the log's answer, and appends again".to_owned())
            }
            Action::ApplyLate => ("log".to_owned(), "carries out an append whose writer is gone".to_owned()),
            Action::Flush { replica } => ("log".to_owned(), format!("takes ends from coordinator {replica}")),
            Action::Deadline { replica } => (coordinator(replica), "the deadline passes".to_owned()),
            Action::Absence { replica } => (coordinator(replica), "has waited long enough for the absent".to_owned()),
            Action::Resend { replica } => (coordinator(replica), "its timer to send again fires".to_owned()),
            Action::Join { replica, at } => (coordinator(replica), format!("sees participant {at} join")),
            Action::Left { replica, at, instance } => {
                (coordinator(replica), format!("sees instance {instance} of participant {at} leave"))
            }
            Action::Inquire { at } => (participant(at), "its timer to inquire fires".to_owned()),
            Action::Retry { at } => (participant(at), "its timer to retry fires".to_owned()),
            Action::CallService { at } => (participant(at), "is called, prepares and enlists".to_owned()),
            Action::AskCommit { replica } => ("initiator".to_owned(), format!("asks coordinator {replica} to commit")),
            Action::AskAbort { replica } => ("initiator".to_owned(), format!("asks coordinator {replica} to abort")),
            Action::AskOutcome { replica } => {
                ("initiator".to_owned(), format!("asks coordinator {replica} how it ended"))
            }
            Action::CrashReplica { replica } => (coordinator(replica), "CRASHES".to_owned()),
            Action::StartReplica { replica } => (coordinator(replica), "starts".to_owned()),
            Action::TakeOver => (coordinator(1), "takes over, while coordinator 0 lives".to_owned()),
            Action::Retention => ("log".to_owned(), "removes its history".to_owned()),
            Action::Resume { replica } => (coordinator(replica), "resumes what stands in the log".to_owned()),
            Action::CrashParticipant { at } => (participant(at), "CRASHES".to_owned()),
            Action::StartParticipant { at } => (participant(at), "starts".to_owned()),
            Action::FailOver => ("log".to_owned(), "fails over, and loses the last append".to_owned()),
        };
        (who, what)
    }

    fn parts(&self) -> Vec<(String, String)> {
        let mut parts = vec![("log".to_owned(), self.log.words())];
        for (at, replica) in self.replicas.iter().enumerate() {
            let words = match replica.as_ref().map(|replica| &replica.machine) {
                None => "down".to_owned(),
                Some(None) => "up, and does not know the transaction".to_owned(),
                Some(Some(machine)) => {
                    let branches: Vec<_> = machine
                        .branches()
                        .iter()
                        .map(|branch| format!("{} {:?}", branch.participant, branch.state))
                        .collect();
                    format!("{}: {}", super::cells::word(machine.state()), branches.join(", "))
                }
            };
            parts.push((format!("coordinator {at}"), words));
        }
        for (at, participant) in self.participants.iter().enumerate() {
            let process = if participant.is_up { "up" } else { "down" };
            let branch = super::cells::branch_word(participant.branch.as_deref());
            let resource = match (participant.is_prepared, participant.applied, participant.undone) {
                (true, ..) => "prepared",
                (false, 0, false) => "untouched",
                (false, 0, true) => "undone",
                (false, ..) => "committed",
            };
            parts.push((format!("participant {at}"), format!("{process}, {branch}, resource {resource}")));
        }
        parts.push(("initiator".to_owned(), self.told.map_or("waits".to_owned(), |told| format!("was told {told}"))));
        parts
    }
}

fn packet_words(packet: Packet) -> (String, String) {
    let participant = |at: usize| format!("participant {at}");
    let coordinator = |at: usize| format!("coordinator {at}");
    match packet {
        Packet::Prepare { to, epoch, replica, one_phase, .. } => {
            let alone = if one_phase { ", and to commit alone" } else { "" };
            (participant(to), format!("is told to prepare{alone} by coordinator {replica} in epoch {epoch}"))
        }
        Packet::Decide { to, epoch, replica, commit, .. } => {
            let decision = if commit { "commit" } else { "abort" };
            (participant(to), format!("is told to {decision} by coordinator {replica} in epoch {epoch}"))
        }
        Packet::Enlisted { to, ok, .. } => (participant(to), format!("is told that it is enlisted: {ok}")),
        Packet::Vote { from, replica, says, .. } => {
            (coordinator(replica), format!("hears participant {from} vote {says:?}"))
        }
        Packet::Acknowledge { from, replica, .. } => {
            (coordinator(replica), format!("hears that participant {from} has ended"))
        }
        Packet::Inquire { from, replica, .. } => {
            (coordinator(replica), format!("is asked by participant {from} how it ended"))
        }
        Packet::Enlist { from, .. } => (coordinator(0), format!("is asked by participant {from} to enlist it")),
    }
}

#[test]
fn the_swarm_breaks_nothing() {
    swarm::<World>(3_000);
}

#[test]
fn one_seed_of_the_swarm_is_one_trace() {
    one_seed_is_one_trace::<World>();
}
