//! What can go wrong for a process that uses Assent.

use assent_proto::session::Refused;
use assent_protocol::{Gtid, InvalidName};

use assent_transport::{DialError, TlsError};

use crate::participant::BoxError;

/// A process could not join a coordinator.
#[derive(thiserror::Error)]
pub enum ConnectError {
    /// The coordinator cannot be dialled so: the address is not one, credentials would go in clear, or TLS failed.
    #[error(transparent)]
    Dial(DialError),
    /// The participant's name is not a name.
    #[error("the participant cannot be named so")]
    Name(#[from] InvalidName),
    /// A process serves one participant name; its branches and its saga steps go by the same.
    #[error("one process was given two participant names, {0} and {1}; connect once for each")]
    TwoNames(String, String),
    /// What was given as the address of the voter is none.
    #[error(
        "{address:?} is not an address that peers can dial; give the URL of this process's PeerService, such as http://10.0.0.7:7421"
    )]
    VoterAddress {
        /// What was given.
        address: String,
    },
    /// Peers would reach the voter over a network in clear, and any process could say that it is one of them.
    #[error(
        "{address} is not encrypted and leads beyond this machine: any process there could vote as a peer; give an https:// address, and \
         this participant's certificate with Builder::ca, cert and key, or say Builder::insecure if the network authenticates by itself"
    )]
    VoterInClear {
        /// What was given.
        address: String,
    },
    /// The certificates with which the voter would answer its peers are missing or not fit.
    #[error("the voter cannot answer its peers over TLS; give Builder::ca, cert and key")]
    VoterTls(#[source] Option<TlsError>),
    /// A voter votes for a participant.
    #[error("this process has a voter and no participant; name one with Builder::participant, or drop Builder::voter")]
    VoterWithoutParticipant,
    /// The voter's store is not fit.
    #[error("the voter's store cannot be used")]
    VoterStore(#[from] crate::voter::VoterStoreError),
    /// Nobody answers there.
    #[error("no coordinator answers at {address}; start one with `assent serve`, or check the address")]
    Unreachable {
        /// Where.
        address: String,
        /// What failed.
        source: BoxError,
    },
    /// The coordinator does not want this process.
    #[error("the coordinator at {address} refused the session")]
    Refused {
        /// Where.
        address: String,
        /// Why.
        source: Refused,
    },
    /// The participant's own check failed: its resource is not fit.
    #[error("the participant cannot start")]
    Start(#[source] BoxError),
    /// The participant could not tell which branches it has in doubt.
    #[error("the participant cannot list its branches in doubt")]
    InDoubt(#[source] BoxError),
    /// What was to be done [first](crate::Builder::settle_first) failed.
    #[error("the service cannot be set up")]
    SetUp(#[source] BoxError),
}

impl From<DialError> for ConnectError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Unreachable { url, source } => Self::Unreachable { address: url, source },
            other @ (DialError::Url { .. }
            | DialError::InClear { .. }
            | DialError::Tls(_)
            | DialError::Token { .. }
            | DialError::Refused { .. }) => Self::Dial(other),
        }
    }
}

/// A request failed. It changed nothing, unless the variant says otherwise.
#[derive(thiserror::Error)]
pub enum Error {
    /// The coordinator refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A branch or step was given a name that is none.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A payload could not be written as JSON.
    #[error("a payload cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// A payload is larger than the coordinator takes.
    #[error(
        "the payload for {name} has {bytes} bytes, and the coordinator takes {bytes_max}; send a reference to the data"
    )]
    PayloadTooLarge {
        /// The participant or step.
        name: String,
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        bytes_max: usize,
    },
    /// The description of a saga is none.
    #[error(transparent)]
    Saga(#[from] crate::saga::InvalidSaga),
    /// No answer came in time. Nobody knows whether the request took effect.
    #[error(
        "the coordinator did not answer in time about {gtid}; ask again with the same gtid: Assent::outcome, or Begin::gtid"
    )]
    NoAnswer {
        /// Which transaction.
        gtid: Gtid,
    },
    /// This process has left the coordinator.
    #[error("this process has shut its session down; connect again")]
    Closed,
    /// There is no voter that peers could ask.
    #[error("this process has no voter: give it one with Builder::voter before it connects")]
    NoVoter,
}

/// A branch could not be enlisted.
#[derive(thiserror::Error)]
pub enum EnlistError {
    /// The coordinator refused it: the branch is not part of the transaction. Undo what was prepared.
    #[error("the branch was not enlisted; what it prepared has to be undone")]
    Refused(#[source] Refused),
    /// No answer came. The branch may be part of the transaction: leave it prepared; it is in doubt, and the SDK asks about it.
    #[error(
        "nobody knows whether the branch was enlisted; it stays prepared until the coordinator has told the outcome"
    )]
    Unknown,
    /// This session serves no participant.
    #[error("this session serves no participant; connect with a participant's name to enlist branches")]
    NotAParticipant,
    /// This process already has a branch in that transaction.
    #[error("this process already has a branch in transaction {0}; put all its work into one branch")]
    Duplicate(Gtid),
    /// This process has left the coordinator.
    #[error("this process has shut its session down; connect again")]
    Closed,
}

crate::error_chain::debug_as_chain!(ConnectError, Error, EnlistError);
