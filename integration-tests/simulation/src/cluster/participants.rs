//! The participants' processes: they start and die, their hooks return, their timers fire, and
//! their voters are asked.

use assent_protocol::three_phase::participant;
use assent_protocol::two_phase::Vote;
use assent_protocol::{Decision, Gtid, InstanceId};

use super::bank::{BranchKey, GRACE_MS, Turn};
use super::instance::Instance;
use super::session::Client;
use super::world::World;

impl World {
    pub(super) fn start_instance(&mut self, bank: usize, instance: usize) {
        let of = &mut self.banks[bank];
        if of.instances[instance].is_some() {
            return;
        }
        self.last_instance += 1;
        let mut process = Instance::new(InstanceId(self.last_instance), of.voter_name());
        process.starts(&mut of.database, self.now_ms);
        of.instances[instance] = Some(process);
    }

    pub(super) fn instance_dies(&mut self, bank: usize, instance: usize) {
        self.banks[bank].instances[instance] = None;
        self.banks[bank].database.voter.loses_notes();
        let client = Client::Instance { bank, instance };
        for session in self.sessions.iter_mut().filter(|session| session.client == client) {
            session.breaks(session.to_replica.len());
            session.is_open_at_client = false;
        }
    }

    /// An instance goes and never comes back: those behind it move up.
    pub(super) fn scale_away(&mut self, bank: usize, instance: usize) {
        self.instance_dies(bank, instance);
        self.banks[bank].instances.remove(instance);
        for session in &mut self.sessions {
            if let Client::Instance { bank: of, instance: at } = &mut session.client
                && *of == bank
                && *at > instance
            {
                *at -= 1;
            }
        }
    }

    /// The database is gone, with the prepared branches and the voter's promises; an empty one
    /// takes its place.
    pub(super) fn lose_store(&mut self, bank: usize) {
        (0..self.banks[bank].instances.len()).for_each(|instance| self.instance_dies(bank, instance));
        self.banks[bank].database.is_lost();
    }

    pub(super) fn hook_returns(&mut self, bank: usize, instance: usize, at: usize, turn: Turn) {
        let now_ms = self.now_ms;
        let of = &mut self.banks[bank];
        let Some(process) = &mut of.instances[instance] else { return };
        let Some(((gtid, _), _)) = process.hooks.get(at).cloned() else { return };
        let said = process.hook_returns(&mut of.database, at, turn, now_ms);
        match &said.vote {
            Some(Vote::ReadOnly) => drop(self.read_only.insert((bank, gtid))),
            Some(_) => drop(self.read_only.remove(&(bank, gtid))),
            None => {}
        }
        self.says(Client::Instance { bank, instance }, said);
    }

    /// The timer that is due, or else a look.
    pub(super) fn instance_timer(&mut self, bank: usize, instance: usize) {
        let Some(process) = &self.banks[bank].instances[instance] else { return };
        let due = process.timers.iter().find(|(_, due_ms)| **due_ms <= self.now_ms).map(|(timer, _)| *timer);
        if let Some((key, timer)) = due {
            return self.timer_fires((bank, instance), key, timer);
        }
        let (now_ms, looks_for_records) = (self.now_ms, self.is_record_look_due(bank, process));
        let of = &mut self.banks[bank];
        let Some(process) = &mut of.instances[instance] else { return };
        if looks_for_records {
            let said = process.looks_for_records(&mut of.database, now_ms);
            return self.says(Client::Instance { bank, instance }, said);
        }
        process.looks(&mut of.database, now_ms, GRACE_MS);
    }

    /// A timer fires, be it before its time.
    pub(super) fn timer_fires(&mut self, (bank, instance): (usize, usize), key: BranchKey, timer: participant::Timer) {
        let now_ms = self.now_ms;
        let of = &mut self.banks[bank];
        let Some(process) = &mut of.instances[instance] else { return };
        let said = process.timer_fires(&mut of.database, key, timer, now_ms);
        self.says(Client::Instance { bank, instance }, said);
    }

    /// The instance's own voter answers a question.
    pub(super) fn voter_answers(&mut self, bank: usize, instance: usize, at: usize) {
        let now_ms = self.now_ms;
        let of = &mut self.banks[bank];
        let Some(process) = &mut of.instances[instance] else { return };
        let Some(gtid) = process.questions.get(at).map(|question| question.gtid) else { return };
        let said = process.voter_answers(&mut of.database, at, now_ms);
        self.has_voted(bank, gtid);
        self.says(Client::Instance { bank, instance }, said);
    }

    /// A voter has been asked, and may have accepted something.
    pub(super) fn has_voted(&mut self, bank: usize, gtid: Gtid) {
        if let Some(record) = self.banks[bank].database.voter.record(gtid) {
            self.ballots.voter_keeps(record);
        }
    }

    /// A record is deleted, if it may be. A voter without a record refuses, so after an abort that
    /// misleads nobody.
    pub(super) fn forget_voter(&mut self, bank: usize, instance: usize, gtid: Gtid) {
        let of = &mut self.banks[bank];
        if let Some(process) = &mut of.instances[instance] {
            process.forgets.remove(&gtid);
        }
        if of.database.voter.forgets(gtid) == Some(Decision::Commit)
            && let Some(other) = self.prepared_in(gtid)
        {
            let (name, other) = (&self.banks[bank].name, &other.name);
            self.broken = Some(format!("I9 {name} forgets {gtid} while {other} is prepared"));
        }
    }
}
