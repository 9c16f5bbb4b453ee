//! What must never be, and what must be in the end.

use assent_protocol::three_phase::{Standing, VoterRecord};

use super::bank::BranchKey;
use super::initiator::{Conclusion, Stage, Wish};
use super::world::World;

impl World {
    /// After every step.
    pub(super) fn judge(&self) -> Result<(), String> {
        for bank in &self.banks {
            if let Some((gtid, times)) = bank.database.applied.iter().find(|(_, times)| **times > 1) {
                return Err(format!("I10 an effect is there once: {} has that of {gtid} {times} times", bank.name));
            }
        }
        self.judge_votes()?;
        self.judge_sagas()
    }

    /// Once faults have stopped and everything has come to rest.
    pub(super) fn judge_the_end(&self) -> Result<(), String> {
        if self.has_lost_a_store() {
            return Ok(());
        }
        for bank in &self.banks {
            if let Some((gtid, branch)) = bank.database.prepared.keys().next() {
                return Err(format!("I12 every branch ends: {branch} of {gtid} at {} is still prepared", bank.name));
            }
            if let Some(record) = bank.database.voter.records().find(|record| !self.is_last_trace(record)) {
                return Err(format!("I12 every voter forgets: {} has {record:?}", bank.name));
            }
        }
        if let Some(gtid) = self.log.open.keys().next() {
            return Err(format!("I12 every transaction ends: {gtid} is still open in the log"));
        }
        for wish in &self.wishes {
            let Stage::Concluded(conclusion) = wish.stage else {
                return Err(format!("I12 every request is answered: that about {} is {:?}", wish.gtid, wish.stage));
            };
            self.judge_conclusion(wish, conclusion)?;
        }
        Ok(())
    }

    /// Once the log has removed a commit from its history, nothing tells it from one that a look-up
    /// does not show yet: the voter's record stays.
    pub(super) fn is_last_trace(&self, record: &VoterRecord) -> bool {
        record.state.standing == Standing::Committed && self.log.removed.contains(&record.gtid)
    }

    /// Once those have ended that need neither the coordinator nor its log: what initiators were told
    /// by then is true.
    pub(super) fn judge_survivors(&self) -> Result<(), String> {
        if self.has_lost_a_store() {
            return Ok(());
        }
        for wish in &self.wishes {
            if let Stage::Concluded(conclusion) = wish.stage
                && self.prepared_in(wish.gtid).is_none()
            {
                self.judge_conclusion(wish, conclusion)?;
            }
        }
        Ok(())
    }

    fn judge_conclusion(&self, wish: &Wish, conclusion: Conclusion) -> Result<(), String> {
        let is_its = |(_, key): &&(usize, BranchKey)| key.0 == wish.gtid;
        for (at, key) in self.welcomed.iter().filter(is_its) {
            let has_committed = self.banks[*at].database.committed.contains(key);
            if conclusion == Conclusion::Committed && !has_committed {
                let (bank, (gtid, branch)) = (&self.banks[*at].name, key);
                return Err(format!("I8 who was enlisted takes part: {branch} of {gtid} at {bank} did not commit"));
            }
        }
        self.judge_told(wish)?;
        for (at, bank) in self.banks.iter().enumerate() {
            let applied = bank.database.applied.get(&wish.gtid).copied().unwrap_or_default();
            let is_read_only = self.read_only.contains(&(at, wish.gtid));
            let wanted = match conclusion {
                Conclusion::Committed if wish.roster.contains(&at) && !is_read_only => 1,
                Conclusion::Committed | Conclusion::WithoutEffect => 0,
            };
            // Its call was given up, but it may have become part of the transaction all the
            // same.
            let is_extra = applied == 1
                && conclusion == Conclusion::Committed
                && !wish.roster.contains(&at)
                && self.enlisted.contains(&(at, wish.gtid));
            if applied != wanted && !is_extra {
                return Err(format!(
                    "I5 what the initiator was told comes true: it was told {conclusion:?} of {}, and {} has its effect {applied} times",
                    wish.gtid, bank.name
                ));
            }
        }
        Ok(())
    }
}
