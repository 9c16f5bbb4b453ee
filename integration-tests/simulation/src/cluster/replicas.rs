//! Processes of the coordinator, and their dealings with the log.

use assent_protocol::message::FromReplica;
use assent_protocol::replica::{Batch, Input, Timer};
use assent_protocol::{Gtid, Protocol, Record};

use super::log::Fenced;
use super::node::{Node, Question};
use super::world::World;

impl World {
    /// Gives a replica an input, and its messages to their sessions.
    pub(super) fn give(&mut self, node: usize, input: Input) {
        let Some(process) = &mut self.nodes[node] else { return };
        process.handle(self.now_ms, input);
        if process.question.is_none() {
            process.question = process.replica.take_question().map(|gtids| Question { gtids, found: None });
        }
        let life = process.life;
        let sessions = &mut self.sessions;
        let mut replies = Vec::new();
        process.replica.take_messages(|id, messages| {
            replies.extend(messages.iter().filter_map(|message| match message {
                FromReplica::Reply { request_id, reply } => Some((self.asked.get(request_id).copied()?, reply.clone())),
                _ => None,
            }));
            let session = sessions.iter_mut().find(|session| session.id == id && session.life == life);
            if let Some(session) = session.filter(|session| !session.is_broken && session.is_open_at_client) {
                session.to_client.extend(messages);
            }
        });
        for (gtid, reply) in replies {
            if let Err(problem) = self.judge_reply(gtid, &reply) {
                self.broken = Some(problem);
            }
        }
    }

    pub(super) fn node_timer(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node] else { return };
        let due = process.timers.iter().find(|(_, due_ms)| **due_ms <= self.now_ms).map(|(timer, _)| *timer);
        if let Some((gtid, timer)) = due {
            process.timers.remove(&(gtid, timer));
            self.give(node, Input::TimerFired { gtid, timer });
        }
    }

    pub(super) fn apply(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node] else { return };
        let batch = match process.append.take() {
            Some((batch, _)) => batch,
            None => match process.replica.take_batch() {
                Some(batch) => batch,
                None => return,
            },
        };
        match self.log.append(process.name, process.epoch, &batch) {
            Ok(appended) => {
                self.ballots.log_keeps(&batch, &appended);
                process.append = Some((batch, Some(appended)));
            }
            Err(Fenced) => self.node_dies(node),
        }
    }

    pub(super) fn answer(&mut self, node: usize) {
        if let Some((_, Some(appended))) = self.nodes[node].as_mut().and_then(|node| node.append.take()) {
            self.give(node, Input::Appended(appended));
        }
    }

    pub(super) fn start_node(&mut self, node: usize) {
        if self.nodes[node].is_some() {
            return;
        }
        // Processes of one name follow one another, at either place.
        let name = if self.two_names { node } else { 0 };
        let epoch = self.log.acquire(name);
        self.lives += 1;
        self.nodes[node] = Some(Node::start(name, self.lives, epoch, self.names(), self.now_ms));
        for row in self.log.open_rows(epoch) {
            self.give(node, Input::Recovered(row));
        }
    }

    pub(super) fn node_dies(&mut self, node: usize) {
        let Some(process) = self.nodes[node].take() else { return };
        if let Some((batch, None)) = process.append {
            self.limbo.push((process.name, process.epoch, batch));
        }
        for session in &mut self.sessions {
            if session.node == node && session.life == process.life {
                session.breaks(0);
                session.is_open_at_replica = false;
            }
        }
    }

    pub(super) fn early_node_timer(&mut self, node: usize, gtid: Gtid, timer: Timer) {
        let Some(process) = &mut self.nodes[node] else { return };
        if process.timers.remove(&(gtid, timer)).is_some() {
            self.give(node, Input::TimerFired { gtid, timer });
        }
    }

    /// The batch is sent again. What was sent first and not answered may yet be carried out: of
    /// sagas it says nothing that a later batch does not say better.
    pub(super) fn lose_answer(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node] else { return };
        let Some((batch, answer)) = &mut process.append else { return };
        if answer.take().is_none() {
            let is_sagas = |record: &&Record| {
                matches!(record, Record::SagaStarted(_) | Record::SagaTurned(_) | Record::SagaStep(_))
                    || matches!(record, Record::Ended(ended) if ended.protocol == Protocol::Saga)
            };
            let forced = batch.forced.iter().filter(|record| !is_sagas(record)).cloned().collect();
            self.limbo.push((process.name, process.epoch, Batch { forced, lazy: Vec::new() }));
        }
    }

    pub(super) fn apply_late(&mut self) {
        let (name, epoch, batch) = self.limbo.remove(0);
        // No caller waits for its answer.
        if let Ok(appended) = self.log.append(name, epoch, &batch) {
            self.ballots.log_keeps(&batch, &appended);
        }
    }

    /// Every process of the coordinator is gone, and the log with them.
    pub(super) fn blackout(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.node_dies(node));
        self.is_log_away = true;
    }
}
