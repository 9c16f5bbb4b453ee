//! A seed's story in words: whose step it is and what it is, and how everybody stands.

use assent_protocol::three_phase::VoterState;

use super::action::Action;
use super::instance::Machine;
use super::session::Client;
use super::world::World;

impl World {
    pub(super) fn tells(&self, action: Action) -> (String, String) {
        let client = |client: Client| match client {
            Client::Initiator => "initiator".to_owned(),
            Client::Instance { bank, instance } => format!("bank-{bank}/{instance}"),
        };
        let session = |id| self.sessions.iter().find(|session| session.id == id);
        let who = match action {
            Action::Dial { client: of, .. } => client(of),
            Action::ToReplica { session: id } | Action::ReplicaNotices { session: id } => {
                session(id).map_or_else(String::new, |session| format!("replica {}", session.node))
            }
            Action::ToClient { session: id } | Action::ClientNotices { session: id } => {
                session(id).map_or_else(String::new, |session| client(session.client))
            }
            Action::HookReturns { bank, instance, .. }
            | Action::StepReturns { bank, instance, .. }
            | Action::InstanceTimer { bank, instance }
            | Action::EarlyInstanceTimer { bank, instance, .. }
            | Action::AskVoter { bank, instance, .. }
            | Action::ForgetVoter { bank, instance, .. }
            | Action::CleanUp { bank, instance } => {
                format!("bank-{bank}/{instance}")
            }
            Action::PeerIsAsked { call, instance } => {
                self.calls.get(&call).map_or_else(String::new, |call| format!("bank-{}/{instance}", call.to))
            }
            Action::PeerIsAnswered { call } => {
                self.calls.get(&call).map_or_else(String::new, |call| format!("bank-{}", call.from))
            }
            Action::NodeTimer { node }
            | Action::EarlyNodeTimer { node, .. }
            | Action::Apply { node }
            | Action::Answer { node }
            | Action::Read { node, .. }
            | Action::FoundInLog { node }
            | Action::StartNode { node }
            | Action::TakeOver { node }
            | Action::FindOut { node } => format!("replica {node}"),
            Action::Resume { .. } => "operator".to_owned(),
            Action::Ask { .. }
            | Action::Call { .. }
            | Action::CallTwice { .. }
            | Action::Repeat { .. }
            | Action::Turn { .. } => "initiator".to_owned(),
            Action::Break { .. }
            | Action::LoseAnswer { .. }
            | Action::ApplyLate
            | Action::CrashNode { .. }
            | Action::Blackout
            | Action::LogReturns
            | Action::LoseStore { .. }
            | Action::CrashInstance { .. }
            | Action::ScaleAway { .. }
            | Action::StartInstance { .. }
            | Action::GiveUpCall { .. }
            | Action::LosePatience { .. }
            | Action::Jump
            | Action::Retention => "fault".to_owned(),
        };
        let what = match action {
            Action::ToReplica { session: id } => session(id)
                .and_then(|session| Some(format!("from {}: {:?}", client(session.client), session.to_replica.front()?)))
                .unwrap_or_default(),
            Action::ToClient { session: id } => session(id)
                .and_then(|session| Some(format!("from replica {}: {:?}", session.node, session.to_client.front()?)))
                .unwrap_or_default(),
            Action::HookReturns { bank, instance, at, turn } => {
                let hooks =
                    self.banks[bank].instances.get(instance).and_then(Option::as_ref).map(|process| &process.hooks);
                format!("{:?} ends: {turn:?}", hooks.and_then(|hooks| hooks.get(at)))
            }
            Action::StepReturns { bank, instance, at, verdict } => {
                let steps =
                    self.banks[bank].instances.get(instance).and_then(Option::as_ref).map(|process| &process.steps);
                format!("{:?} ends: {verdict:?}", steps.and_then(|steps| steps.get(at)))
            }
            Action::AskVoter { bank, instance, at } => {
                let process = self.banks[bank].instances.get(instance).and_then(Option::as_ref);
                format!("its voter is asked: {:?}", process.and_then(|process| process.questions.get(at)))
            }
            Action::PeerIsAsked { call, .. } | Action::PeerIsAnswered { call } => self
                .calls
                .get(&call)
                .map(|call| match call.answer {
                    None => format!("is asked by bank-{}: {:?}", call.from, call.request),
                    Some(answer) => format!("hears from the voter of bank-{}: {answer:?}", call.to),
                })
                .unwrap_or_default(),
            other => format!("{other:?}"),
        };
        (who, what)
    }

    pub(super) fn stands(&self) -> Vec<(String, String)> {
        let mut parts =
            vec![("log".to_owned(), format!("open {:?}, ended {:?}", self.log.open, self.log.ended.keys()))];
        for (at, node) in self.nodes.iter().enumerate() {
            let views = node.as_ref().map(|node| {
                self.wishes
                    .iter()
                    .map(|wish| {
                        (wish.gtid, node.replica.known(wish.gtid), node.replica.view(wish.gtid).map(|view| view.state))
                    })
                    .collect::<Vec<_>>()
            });
            parts.push((format!("replica {at}"), format!("{views:?}")));
        }
        for bank in &self.banks {
            parts.push((
                bank.name.to_string(),
                format!(
                    "prepared {:?}, applied {:?}, steps {:?}, voter {:?}",
                    bank.database.prepared,
                    bank.database.applied,
                    bank.database.steps,
                    bank.database
                        .voter
                        .records()
                        .map(|record| (record.gtid, record.state))
                        .collect::<Vec<(_, VoterState)>>()
                ),
            ));
            for (at, process) in bank.instances.iter().enumerate() {
                let branches = process.as_ref().map(|process| {
                    let state = |machine: &Machine| match machine {
                        Machine::TwoPhase(branch) => format!("{:?}", branch.state()),
                        Machine::ThreePhase(machine) => {
                            format!("{:?}, {:?}", machine.stage(), machine.branch().state())
                        }
                    };
                    process.branches.iter().map(|(key, machine)| (*key, state(machine))).collect::<Vec<_>>()
                });
                parts.push((format!("{}/{at}", bank.name), format!("{branches:?}")));
            }
        }
        for wish in &self.wishes {
            parts.push((format!("wish {}", wish.gtid), format!("{:?}", wish.stage)));
        }
        parts
    }
}
