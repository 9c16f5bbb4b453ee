//! What the voters of three-phase transactions have accepted, ever, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};

use assent_protocol::replica::Batch;
use assent_protocol::three_phase::{Ballot, Roster, Standing, VoterName, VoterRecord, VoterState};
use assent_protocol::{Appended, Decision, Gtid, Record};

use super::bank::Bank;
use super::world::World;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ballots {
    /// Who accepted what under which ballot.
    accepted: BTreeMap<(Gtid, Ballot), (Standing, BTreeSet<VoterName>)>,
    rosters: BTreeMap<Gtid, Roster>,
    broken: Option<String>,
}

impl Ballots {
    /// A participant's voter keeps this.
    pub(crate) fn voter_keeps(&mut self, record: &VoterRecord) {
        if let Some(roster) = &record.roster {
            self.votes_under(record.gtid, roster);
        }
        self.accepts(record.gtid, &record.voter, record.state);
    }

    /// The log has answered a batch.
    pub(crate) fn log_keeps(&mut self, batch: &Batch, appended: &[Appended]) {
        for (record, appended) in batch.forced.iter().zip(appended) {
            match (record, appended) {
                (Record::Attempted(record), Appended::Durable(_)) => {
                    self.votes_under(record.gtid, &record.roster);
                    self.accepts(record.gtid, &VoterName::Log, VoterState::ATTEMPTED);
                }
                (Record::Voter(record), Appended::Durable(_)) => self.voter_keeps(record),
                (_, Appended::Durable(_) | Appended::Overruled { .. } | Appended::Undecided) => {}
            }
        }
    }

    fn votes_under(&mut self, gtid: Gtid, roster: &Roster) {
        let known = self.rosters.entry(gtid).or_insert_with(|| roster.clone());
        if known != roster {
            self.broken = Some(format!("I8 the roster is frozen: {gtid} has another one"));
        }
    }

    fn accepts(&mut self, gtid: Gtid, voter: &VoterName, state: VoterState) {
        let (Standing::PreCommitted | Standing::PreAborted, Some(ballot)) = (state.standing, state.accepted) else {
            return;
        };
        let accepted = self.accepted.entry((gtid, ballot));
        let (standing, voters) = accepted.or_insert_with(|| (state.standing, BTreeSet::new()));
        voters.insert(voter.clone());
        if *standing != state.standing {
            self.broken = Some(format!("two proposals under one ballot of {gtid}"));
        }
    }

    /// Whether a quorum has accepted a commit.
    fn has_quorum(&self, gtid: Gtid) -> bool {
        self.rosters.get(&gtid).is_some_and(|roster| {
            let of_gtid = self.accepted.iter().filter(|((of, _), _)| *of == gtid);
            let is_quorum = |(standing, voters): &(Standing, BTreeSet<VoterName>)| {
                *standing == Standing::PreCommitted && voters.len() >= roster.quorum()
            };
            of_gtid.into_iter().any(|(_, accepted)| is_quorum(accepted))
        })
    }
}

impl World {
    /// After every step of the world: no transaction ends in two ways, and a commit has everybody's
    /// yes and a quorum.
    pub(super) fn judge_votes(&self) -> Result<(), String> {
        if let Some(broken) = &self.ballots.broken {
            return Err(broken.clone());
        }
        for (gtid, roster) in &self.ballots.rosters {
            let mut decisions = BTreeSet::from_iter(self.log.decision(*gtid));
            let mut has_agreed = true;
            for bank in self.banks.iter().filter(|bank| !bank.database.was_lost) {
                decisions.extend(bank.database.voter.decision(*gtid));
                let Some(seat) = roster.seat(&bank.name) else { continue };
                let key = (*gtid, seat.branch);
                decisions.extend(bank.database.committed.contains(&key).then_some(Decision::Commit));
                decisions.extend(bank.database.undone.contains(&key).then_some(Decision::Abort));
                has_agreed &= bank.database.agreed.contains(&key);
            }
            if !decisions.contains(&Decision::Commit) {
                continue;
            }
            if decisions.contains(&Decision::Abort) {
                return Err(format!("I1 it ended both ways: {gtid}"));
            }
            if !has_agreed {
                return Err(format!("I2 it committed without everybody's yes: {gtid}"));
            }
            if !self.ballots.has_quorum(*gtid) {
                return Err(format!("I4 it committed without a quorum: {gtid}"));
            }
        }
        Ok(())
    }

    /// A participant of the roster whose branch is still prepared.
    pub(super) fn prepared_in(&self, gtid: Gtid) -> Option<&Bank> {
        let roster = self.ballots.rosters.get(&gtid)?;
        let mut banks = self.banks.iter().filter(|bank| !bank.database.was_lost);
        banks.find(|bank| {
            let seat = roster.seat(&bank.name);
            seat.is_some_and(|seat| bank.database.prepared.contains_key(&(gtid, seat.branch)))
        })
    }

    /// Whether every branch has ended that its voters can end. Two voters, of which one is the log,
    /// tolerate nothing; and a branch whose voter has not voted may be one of two phases, as far as its
    /// participant can tell, and waits for the coordinator.
    pub(super) fn have_voters_ended(&self) -> bool {
        self.banks.iter().filter(|bank| !bank.database.was_lost).all(|bank| {
            bank.database.voter.records().all(|record| {
                let Some(roster) = &record.roster else { return true };
                let seat = roster.seat(&bank.name);
                let is_prepared =
                    seat.is_some_and(|seat| bank.database.prepared.contains_key(&(record.gtid, seat.branch)));
                let has_ended = record.state.standing.decision().is_some() && !is_prepared;
                has_ended || roster.participants().len() < roster.quorum()
            })
        })
    }

    pub(super) fn has_lost_a_store(&self) -> bool {
        self.banks.iter().any(|bank| bank.database.was_lost)
    }
}
