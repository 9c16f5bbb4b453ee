//! The initiator's side: its requests, and the calls of services.

use assent_protocol::Epoch;
use assent_protocol::Gtid;
use assent_protocol::ids::BranchId;
use assent_protocol::message::{Ask, FromClient, Reply, Request};

use super::bank::{BranchKey, Said};
use super::initiator::{Conclusion, Shape, Stage, Wish};
use super::session::Client;
use super::world::World;

impl World {
    pub(super) fn ask(&mut self, at: usize) {
        let names = self.names();
        let epoch = self.session_of(Client::Initiator).map(|session| session.epoch);
        let Some((ask, stage)) = self.wishes[at].next_request(&names) else {
            let messages = self.wishes[at].asks_again().into_iter().collect();
            return self.says(Client::Initiator, Said { messages, ..Said::default() });
        };
        self.last_request += 1;
        let gtid = self.wishes[at].gtid;
        self.asked.insert(self.last_request, gtid);
        self.wishes[at].asks(Request { request_id: self.last_request, gtid, ask }, stage);
        let Some(epoch) = epoch else { return };
        let messages = self.wishes[at].write(epoch).into_iter().collect();
        self.says(Client::Initiator, Said { messages, ..Said::default() });
    }

    /// The request that waits is asked once more over the same session.
    pub(super) fn repeat(&mut self, at: usize) {
        let Some(epoch) = self.session_of(Client::Initiator).map(|session| session.epoch) else { return };
        self.last_request += 1;
        self.asked.insert(self.last_request, self.wishes[at].gtid);
        let messages = self.wishes[at].repeats(self.last_request, epoch).into_iter().collect();
        self.says(Client::Initiator, Said { messages, ..Said::default() });
    }

    /// The initiator wants it undone. It waits for the outcome all the same.
    pub(super) fn turn(&mut self, at: usize) {
        self.last_request += 1;
        let gtid = self.wishes[at].gtid;
        self.asked.insert(self.last_request, gtid);
        let message = FromClient::request(self.last_request, gtid, Ask::Abort { reason: "enough".into() });
        self.says(Client::Initiator, Said { messages: vec![message], ..Said::default() });
    }

    pub(super) fn call(&mut self, at: usize, instance: usize) {
        let wish = &mut self.wishes[at];
        let (Shape::Begun { calls, .. }, Stage::Open { call, .. }) = (&wish.shape, wish.stage) else { return };
        let (bank, gtid) = (calls[call], wish.gtid);
        wish.stage = Stage::Open { call, is_calling: true };
        self.prepares_early(bank, instance, gtid);
    }

    /// The service does the same work a second time, in a branch of its own, and no caller waits for the answer.
    pub(super) fn call_twice(&mut self, at: usize, instance: usize, fails: bool) {
        let wish = &self.wishes[at];
        let (Shape::Begun { calls, .. }, Stage::Open { call, is_calling: true }) = (&wish.shape, wish.stage) else {
            return;
        };
        let (bank, gtid) = (calls[call], wish.gtid);
        if fails {
            let key = self.early_branch(gtid);
            let (now_ms, of) = (self.now_ms, &mut self.banks[bank]);
            if let Some(process) = &mut of.instances[instance] {
                process.is_called(&mut of.database, key, now_ms);
                process.failed.push_back(key);
            }
        } else if let Some(request) = self.prepares_early(bank, instance, gtid) {
            self.doubled.insert(request);
        }
    }

    /// Prepares a branch and asks to enlist it; which request asks.
    pub(super) fn prepares_early(&mut self, bank: usize, instance: usize, gtid: Gtid) -> Option<u64> {
        let key = self.early_branch(gtid);
        self.last_request += 1;
        let (request, now_ms, of) = (self.last_request, self.now_ms, &mut self.banks[bank]);
        let process = of.instances[instance].as_mut()?;
        let vote = process.is_called(&mut of.database, key, now_ms);
        process.enlisting.insert(request, key);
        let message = FromClient::request(request, gtid, Ask::Enlist { branch: key.1, vote });
        self.says(Client::Instance { bank, instance }, Said { messages: vec![message], ..Said::default() });
        Some(request)
    }

    /// The SDK draws the numbers of the branches that it enlists, apart from those that replicas count.
    pub(super) fn early_branch(&mut self, gtid: Gtid) -> BranchKey {
        self.last_branch += 1;
        (gtid, BranchId { epoch: Epoch(0), number: self.last_branch })
    }

    pub(super) fn next_call(&mut self, at: usize) {
        if let Stage::Open { call, .. } = self.wishes[at].stage {
            self.wishes[at].stage = Stage::Open { call: call + 1, is_calling: false };
        }
    }

    pub(super) fn answered(&mut self, client: Client, request_id: u64, reply: &Reply) {
        match client {
            Client::Initiator => {
                let waits =
                    |wish: &&mut Wish| wish.waiting.as_ref().is_some_and(|request| request.request_id == request_id);
                let (now_ms, may_lag) = (self.now_ms, self.may_lag);
                if let Some(wish) = self.wishes.iter_mut().find(waits)
                    && let Err(problem) = wish.hears(reply, now_ms, may_lag)
                {
                    self.broken = Some(problem);
                }
            }
            Client::Instance { bank, instance } => self.enlisted(bank, instance, request_id, reply),
        }
    }

    pub(super) fn enlisted(&mut self, bank: usize, instance: usize, request_id: u64, reply: &Reply) {
        let of = &mut self.banks[bank];
        let Some(process) = &mut of.instances[instance] else { return };
        let Some(key) = process.enlisting.remove(&request_id) else { return };
        let gtid = key.0;
        let is_enlisted = *reply == Reply::Enlisted;
        if !is_enlisted {
            process.withdraws(&mut of.database, key);
        }
        if is_enlisted {
            self.welcomed.insert((bank, key));
        }
        if self.doubled.contains(&request_id) {
            return;
        }
        for at in 0..self.wishes.len() {
            let wish = &mut self.wishes[at];
            if let (Shape::Begun { calls, .. }, Stage::Open { call, is_calling: true }) = (&wish.shape, wish.stage)
                && wish.gtid == gtid
                && calls[call] == bank
            {
                if is_enlisted {
                    wish.roster.push(bank);
                    self.next_call(at);
                } else {
                    wish.stage = Stage::Concluded(Conclusion::WithoutEffect);
                }
            }
        }
    }
}
