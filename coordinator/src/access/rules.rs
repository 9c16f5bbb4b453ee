//! Which right each rpc and each message of a session needs. `docs/operations/security.md` shows the same table.

use assent_proto::session::{Ask, FromClient, Request};

/// What an rpc or a message needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Not even a name.
    Nothing,
    /// A name.
    Anyone,
    /// Its Hello says who it is.
    Hello,
    /// `initiate`.
    Initiate,
    /// `participate as` the name in the request.
    Participate,
    /// `initiate`, or `participate as` any name: a session that has not named its participant yet.
    Join,
    /// `inspect`.
    Inspect,
    /// `initiate` or `inspect`; a participant sees how far the transaction is, and nothing else of it.
    Look,
    /// Either.
    InitiateOrInspect,
    /// Either.
    InitiateOrOperate,
}

impl Need {
    /// Every need.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 10] = [
        Self::Nothing,
        Self::Anyone,
        Self::Hello,
        Self::Initiate,
        Self::Participate,
        Self::Join,
        Self::Inspect,
        Self::Look,
        Self::InitiateOrInspect,
        Self::InitiateOrOperate,
    ];

    /// As it stands in refusals and in the documentation.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Anyone => "any identity",
            Self::Hello => "see its messages",
            Self::Initiate => "initiate",
            Self::Participate => "participate as NAME",
            Self::Join => "initiate, or participate as any name",
            Self::Inspect => "inspect",
            Self::Look => "initiate or inspect; to participate shows the state alone",
            Self::InitiateOrInspect => "initiate or inspect",
            Self::InitiateOrOperate => "initiate or operate",
        }
    }
}

/// Every rpc, by its path.
pub(crate) const RULES: &[(&str, Need)] = &[
    ("/assent.v1.SessionService/Exchange", Need::Hello),
    ("/assent.v1.TransactionService/Begin", Need::Initiate),
    ("/assent.v1.TransactionService/Enlist", Need::Participate),
    ("/assent.v1.TransactionService/Commit", Need::Initiate),
    ("/assent.v1.TransactionService/Abort", Need::InitiateOrOperate),
    ("/assent.v1.TransactionService/Get", Need::Look),
    ("/assent.v1.TransactionService/Watch", Need::InitiateOrInspect),
    ("/assent.v1.TransactionService/StartSaga", Need::Initiate),
    ("/assent.v1.AdminService/ListTransactions", Need::Inspect),
    ("/assent.v1.AdminService/GetTransaction", Need::Inspect),
    ("/assent.v1.AdminService/ListParticipants", Need::Inspect),
    ("/assent.v1.AdminService/GetStatistics", Need::Inspect),
    ("/assent.v1.AdminService/WhoAmI", Need::Anyone),
    ("/grpc.health.v1.Health/Check", Need::Nothing),
    ("/grpc.health.v1.Health/Watch", Need::Nothing),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Anyone),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Need::Anyone),
];

/// What the rpc of a path needs; `None` for one that is not served.
pub(super) fn of_path(path: &str) -> Option<Need> {
    RULES.iter().find(|(known, _)| *known == path).map(|(_, need)| *need)
}

/// What a message of a session needs, beyond what its Hello had to have.
pub(crate) fn of_message(message: &FromClient) -> Need {
    match message {
        FromClient::Request(Request { ask, .. }) => match ask {
            Ask::Begin { .. } | Ask::Commit(_) | Ask::StartSaga { .. } => Need::Initiate,
            Ask::Abort { .. } => Need::InitiateOrOperate,
            Ask::Await { .. } => Need::InitiateOrInspect,
            Ask::Enlist { .. } => Need::Participate,
        },
        FromClient::Branch(_) | FromClient::Step(_) | FromClient::Voter(_) => Need::Participate,
        FromClient::Hello(_) | FromClient::Heartbeat => Need::Nothing,
    }
}

/// What a message of a session is called in the audit.
pub(crate) fn name_of(message: &FromClient) -> &'static str {
    match message {
        FromClient::Request(Request { ask, .. }) => match ask {
            Ask::Begin { .. } => "Exchange/Begin",
            Ask::Commit(_) => "Exchange/Commit",
            Ask::StartSaga { .. } => "Exchange/StartSaga",
            Ask::Abort { .. } => "Exchange/Abort",
            Ask::Await { .. } => "Exchange/Await",
            Ask::Enlist { .. } => "Exchange/Enlist",
        },
        FromClient::Branch(_) => "Exchange/Branch",
        FromClient::Step(_) => "Exchange/Step",
        FromClient::Voter(_) => "Exchange/Voter",
        FromClient::Hello(_) => "Exchange/Hello",
        FromClient::Heartbeat => "Exchange/Heartbeat",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/operations/security.md");

    /// The services and rpcs that the descriptors have.
    fn served() -> Vec<String> {
        use prost::Message;
        use prost_types::FileDescriptorSet;

        let mut paths = Vec::new();
        for set in [assent_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
            for file in FileDescriptorSet::decode(set).expect("descriptors").file {
                for service in &file.service {
                    for method in &service.method {
                        paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                    }
                }
            }
        }
        // Peers serve it, not coordinators.
        paths.retain(|path| !path.starts_with("/assent.v1.PeerService/") && !path.ends_with("Health/List"));
        paths
    }

    #[test]
    fn every_rpc_has_a_rule() {
        for path in served() {
            assert!(of_path(&path).is_some(), "{path} has no rule");
        }
        assert_eq!(of_path("/assent.v1.AdminService/Nope"), None);
    }

    #[test]
    fn the_documentation_has_the_table() {
        let rows: Vec<String> = PAGE.lines().filter(|line| line.starts_with("| `/")).map(str::to_owned).collect();
        let expected: Vec<String> =
            RULES.iter().map(|(path, need)| format!("| `{path}` | {} |", need.as_str())).collect();
        assert_eq!(rows, expected, "docs/operations/security.md");
    }
}
