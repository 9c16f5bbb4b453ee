//! Particular ways through the world, beside those of the swarm.

use assent_protocol::Protocol;
use assent_protocol::message::{FromClient, VoterMessage};
use assent_protocol::three_phase::{Answer, Bar};

use super::initiator::{Conclusion, Shape, Stage};
use super::setup::{End, Faults, Setup, VoterKind};
use super::world::World;
use crate::swarm::{Random, Swarm};

fn setup(shape: Shape, banks: usize, faults: Faults) -> Setup {
    Setup {
        banks: vec![VoterKind::File; banks],
        instances: 1,
        shapes: vec![shape],
        refuses: false,
        one_phase: false,
        two_names: false,
        faults,
        end: End::All,
    }
}

fn carried(banks: usize) -> Shape {
    Shape::Carried { protocol: Protocol::ThreePhase, banks: (0..banks).collect(), is_unary: false }
}

#[test]
fn without_faults_all_participants_commit_and_forget() {
    let begun = Shape::Begun { protocol: Protocol::ThreePhase, calls: vec![0, 1] };
    for (shape, banks) in [(carried(3), 3), (carried(1), 1), (begun, 2)] {
        let world = World::new(&setup(shape, banks, Faults::default()));
        let mut last = world.clone();
        world.calms_down(End::All, &mut |after, _| last = after.clone()).expect("it ends well");
        assert_eq!(last.wishes[0].stage, Stage::Concluded(Conclusion::Committed));
        assert!(last.banks.iter().all(|bank| bank.database.applied.values().eq([&1])), "every branch commits");
    }
}

/// The swarm found it. A replica that was fenced and does not know it still leads; a voter whose
/// record was gone by then took its question for the first that it heard of the transaction, and
/// refused: the replica told its initiator of an abort. The question says now that this voter has
/// voted, see `docs/decisions/0007`; without that, one of these seeds breaks I5.
#[test]
fn a_record_that_goes_before_the_last_leader_misleads_nobody() {
    let faults = Faults { take_overs: 1, early_timers: 20, ..Faults::default() };
    let setup = setup(carried(2), 2, faults);
    let has_forgotten = |message: &FromClient| match message {
        FromClient::Voter(report) => {
            matches!(report.message, VoterMessage::Answered(Answer::Barred(Bar::Forgotten)))
        }
        _ => false,
    };
    let mut met = 0;
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let mut world = World::new(&setup);
        let mut is_met = false;
        for _ in 0..160 {
            let mut actions = World::progress(&world, true);
            if random.below(4) == 0 {
                actions.extend(World::faults(&world));
            }
            let Some(action) = actions.get(random.below(actions.len())) else { break };
            world.step(*action);
            world.drop_message(*action);
            is_met |= world.sessions.iter().any(|session| session.to_replica.iter().any(has_forgotten));
            assert_eq!(world.broken, None, "seed {seed}");
        }
        met += u32::from(is_met);
    }
    assert!(met > 0, "no voter was asked after it had forgotten");
}
