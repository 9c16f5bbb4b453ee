//! Rights, and which role has which.

use std::fmt;

use assent_protocol::ParticipantName;
use assent_transport::{Identity, Role};

/// What a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Begin transactions and sagas, and end those that it began.
    Initiate,
    /// Serve the branches and steps of this participant.
    ParticipateAs(ParticipantName),
    /// Look.
    Inspect,
    /// End transactions of others.
    Operate,
    /// Change who may do what.
    Administer,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initiate => f.write_str("initiate"),
            Self::ParticipateAs(name) => write!(f, "participate as {name}"),
            Self::Inspect => f.write_str("inspect"),
            Self::Operate => f.write_str("operate"),
            Self::Administer => f.write_str("administer"),
        }
    }
}

/// Whether an identity has a right.
pub(super) fn has(identity: &Identity, right: &Right) -> bool {
    match (identity.role, right) {
        (Role::Participant, Right::ParticipateAs(name)) => identity.name() == name.as_str(),
        (Role::Initiator, Right::Initiate)
        | (Role::Observer | Role::Operator | Role::Administrator, Right::Inspect)
        | (Role::Operator | Role::Administrator, Right::Operate)
        | (Role::Administrator, Right::Administer) => true,
        // Replicas have what the protocol between replicas needs, and nothing of what clients do.
        (
            Role::Participant | Role::Initiator | Role::Replica | Role::Observer | Role::Operator | Role::Administrator,
            Right::Initiate | Right::ParticipateAs(_) | Right::Inspect | Right::Operate | Right::Administer,
        ) => false,
    }
}

/// The rights of an identity, as `assent whoami` shows them.
pub(crate) fn shown(identity: &Identity) -> Vec<String> {
    let mut rights = vec![Right::Initiate, Right::Inspect, Right::Operate, Right::Administer];
    if let (Role::Participant, Ok(name)) = (identity.role, identity.name().parse()) {
        rights.push(Right::ParticipateAs(name));
    }
    rights.iter().filter(|right| has(identity, right)).map(Right::to_string).collect()
}
