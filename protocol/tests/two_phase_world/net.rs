//! Sessions: each keeps its order, breaks, and loses what was on the way.

use std::collections::{BTreeMap, VecDeque};

use assent_protocol::two_phase::{Reply, Route};
use assent_protocol::{Caller, InstanceId, ParticipantName};

use crate::participant::{Heard, Said};

/// A session between an instance and a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub(crate) participant: ParticipantName,
    pub(crate) said: VecDeque<Said>,
    pub(crate) heard: VecDeque<Heard>,
}

/// What the initiator asks a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    Begin,
    Commit { attempt: u32 },
    Abort,
}

/// The initiator's session with its home replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InitiatorLink {
    pub(crate) session: u64,
    pub(crate) requests: VecDeque<(u64, Request)>,
    /// `None`: there is no such transaction.
    pub(crate) replies: VecDeque<(u64, Option<Reply>)>,
}

/// All sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Net {
    pub(crate) links: BTreeMap<(usize, InstanceId), Link>,
    pub(crate) initiator: Option<InitiatorLink>,
    /// The participants that have ever joined.
    pub(crate) joined: Vec<ParticipantName>,
}

impl Net {
    /// Hands an order to an instance of the participant: the preferred one, or any.
    pub(crate) fn route(
        &mut self,
        replica: usize,
        to: &ParticipantName,
        prefer: Option<InstanceId>,
        heard: Heard,
    ) -> Route {
        let mut there: Vec<_> = self
            .links
            .iter_mut()
            .filter(|((at, _), link)| *at == replica && link.participant == *to)
            .map(|((_, instance), link)| (*instance, link))
            .collect();
        let preferred = there.iter().position(|(instance, _)| Some(*instance) == prefer).unwrap_or(0);
        match there.get_mut(preferred) {
            Some((instance, link)) => {
                link.heard.push_back(heard);
                Route::Instance(*instance)
            }
            None if self.joined.contains(to) => Route::Absent,
            None => Route::Unknown,
        }
    }

    /// Whether an instance of the participant has a session with the replica.
    pub(crate) fn is_there(&self, replica: usize, participant: &ParticipantName) -> bool {
        self.links.iter().any(|((at, _), link)| *at == replica && link.participant == *participant)
    }

    /// Answers a caller, if its session is still there.
    pub(crate) fn reply(&mut self, to: Caller, reply: Option<Reply>) {
        if let Some(link) = &mut self.initiator
            && link.session == to.session
        {
            link.replies.push_back((to.request, reply));
        }
    }

    /// The replicas that an instance has sessions with.
    pub(crate) fn replicas_of(&self, instance: InstanceId) -> Vec<usize> {
        self.links.keys().filter(|(_, of)| *of == instance).map(|(replica, _)| *replica).collect()
    }
}
