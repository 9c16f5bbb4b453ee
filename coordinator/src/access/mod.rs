//! Who a caller is, and what it may do: the one place that says so.
//!
//! | file | subject |
//! |---|---|
//! | `mod.rs` | identification: certificates and tokens become a caller |
//! | `rights.rs` | rights, and which role has which |
//! | `rules.rs` | which right each rpc and each message of a session needs |
//! | `tokens.rs` | the tokens file: names, hashes, and how it is followed |
//! | `issuers.rs` | people who log in elsewhere: issuers of the tokens file, and what their logins (JWT) prove |
//! | `layer.rs` | the tower layer that every request passes before its body is read |
//! | `gate.rs` | how much a caller may send before it is known |
//! | `owners.rs` | who began what |
//! | `failures.rs` | failed authentication is slowed down |
//! | `audit.rs` | what is written of refusals and of privileged calls |
//!
//! # Contract
//! - A request whose rpc is not in the table is refused.
//! - Where neither a tokens file nor a `client_ca` is configured, every caller may do everything. The server
//!   starts so at a loopback address alone, unless the configuration says `insecure`.
//! - A refusal names the caller, the right that it lacks, and what to do.

mod audit;
mod failures;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod gate;
mod issuers;
mod layer;
mod owners;
mod rights;
mod rules;
mod tokens;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use assent_proto::error::Reason;
use assent_proto::session::{Ask, Refused};
use assent_protocol::{Gtid, ParticipantName};
use assent_transport::{Identity, PeerInfo, Role};

use crate::driver::{Statistics, now_ms};
use audit::Audit;
use failures::Failures;
use issuers::{Login, NoLogin};
use owners::{Leave, Owners};
use tokens::Tokens;

pub(crate) use audit::Act;
pub(crate) use gate::Gate;
pub(crate) use layer::{AccessLayer, caller_of};
pub(crate) use rights::{Right, shown as rights_of};
pub(crate) use rules::{Need, name_of, of_message};
pub use tokens::{MintedToken, TokensError, mint};

/// Every rpc by its path, and what it needs.
pub fn rules() -> impl Iterator<Item = (&'static str, &'static str)> {
    rules::RULES.iter().map(|(path, need)| (*path, need.as_str()))
}

/// Who may do what, at one replica.
#[derive(Debug)]
pub struct Access {
    tokens: Option<Arc<Tokens>>,
    names_peers: bool,
    owners: Owners,
    failures: Failures,
    audit: Audit,
    statistics: Arc<Statistics>,
}

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    identities: Arc<[Identity]>,
    proof: Proof,
}

/// How a caller became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// By nothing: none is asked for.
    None,
    /// By a certificate.
    Certificate,
    /// By the token of this hash.
    Token(tokens::Hash),
    /// By a login at an issuer, which holds until then.
    Login {
        /// In Unix seconds.
        until_s: u64,
    },
}

/// Why nobody is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It showed neither a certificate nor a token.
    Nothing,
    /// It showed a certificate that names nobody.
    Certificate(String),
    /// It showed a token that is not known.
    Token,
    /// It showed a token that is too short to be one.
    ShortToken,
    /// It showed a login that proves nothing.
    Login(NoLogin),
}

impl Access {
    /// Reads the tokens file, if there is one.
    ///
    /// # Errors
    /// [`TokensError`], which names the file and line.
    pub(crate) fn open(
        tokens_file: Option<&Path>,
        names_peers: bool,
        owners_max: usize,
        statistics: Arc<Statistics>,
    ) -> Result<Arc<Self>, TokensError> {
        let tokens = tokens_file.map(Tokens::open).transpose()?;
        Ok(Arc::new(Self {
            tokens,
            names_peers,
            owners: Owners::new(owners_max),
            failures: Failures::default(),
            audit: Audit::default(),
            statistics,
        }))
    }

    /// Whether a tokens file could be used.
    ///
    /// # Errors
    /// [`TokensError`], which names the file and what is wrong.
    pub(crate) fn check(tokens_file: &Path) -> Result<(), TokensError> {
        Tokens::open(tokens_file).map(drop)
    }

    /// Whether callers have to prove who they are.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.tokens.is_some() || self.names_peers
    }

    /// Looks for changes of the tokens file, for as long as this lives.
    pub(crate) async fn follow(self: Arc<Self>) {
        match &self.tokens {
            Some(tokens) => tokens.follow().await,
            None => std::future::pending().await,
        }
    }

    /// Whether a caller is still who it was: its token may have been taken away.
    fn is_still(&self, caller: &Caller) -> bool {
        match (caller.proof, &self.tokens) {
            (Proof::Token(hash), Some(tokens)) => tokens.identities(&hash) == Some(Arc::clone(&caller.identities)),
            (Proof::Token(_), None) => false,
            (Proof::Login { until_s }, _) => now_ms() / 1_000 < until_s,
            (Proof::None | Proof::Certificate, _) => true,
        }
    }

    /// Waits until a caller is no longer who it was, and says why.
    pub(crate) async fn lapsed(self: Arc<Self>, caller: Caller) -> Refused {
        let mut changes = self.tokens.as_ref().map(|tokens| tokens.changes());
        loop {
            if !self.is_still(&caller) {
                let message =
                    format!("what {caller} has shown holds no longer; show a token that is known, or log in again");
                return Reason::Unauthenticated.refused(message);
            }
            let expired = async {
                match caller.proof {
                    Proof::Login { until_s } => {
                        tokio::time::sleep(Duration::from_millis(
                            until_s.saturating_mul(1_000).saturating_sub(now_ms()),
                        ))
                        .await;
                    }
                    Proof::None | Proof::Certificate | Proof::Token(_) => std::future::pending().await,
                }
            };
            let changed = async {
                let has_changed = match &mut changes {
                    Some(changes) => changes.changed().await.is_ok(),
                    None => false,
                };
                if !has_changed {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = expired => {}
                () = changed => {}
            }
        }
    }

    /// Who is at the other end of a connection: by its token if it shows one, else by its certificate.
    pub(crate) async fn identify(&self, peer: Option<&PeerInfo>, token: Option<&[u8]>) -> Result<Caller, Unknown> {
        if !self.is_asked_for() {
            return Ok(Caller::anyone());
        }
        if let (Some(token), Some(tokens)) = (token, &self.tokens) {
            return by_token(tokens, token).await;
        }
        let uris = peer.map(PeerInfo::uris).unwrap_or_default();
        let mut identities: Vec<Identity> = uris.iter().filter_map(|uri| Identity::of_uri(uri)).collect();
        if let Some(tokens) = &self.tokens {
            identities.extend(uris.iter().flat_map(|uri| tokens.mapped(uri)));
        }
        match (identities.is_empty(), uris) {
            (false, _) => Ok(Caller { identities: identities.into(), proof: Proof::Certificate }),
            // A token that no file could know is as good as none.
            (true, []) if token.is_some() => Err(Unknown::Token),
            (true, []) => Err(Unknown::Nothing),
            (true, [first, ..]) => Err(Unknown::Certificate(first.clone())),
        }
    }

    /// Refuses a caller that is not known: counts it, and answers a wrong token after a while that grows with each one of its address.
    pub(crate) async fn refuse(&self, peer: Option<&PeerInfo>, unknown: &Unknown) -> Refused {
        self.statistics.authentication_failures.fetch_add(1, Relaxed);
        let address = peer.and_then(PeerInfo::address).map(|address| address.ip());
        self.audit.unauthenticated(address, unknown);
        self.failures.failed(address, unknown).await;
        Reason::Unauthenticated.refused(unknown.to_string())
    }

    /// Whether a caller may ask this of this transaction, beyond what the request needs of everyone.
    pub(crate) fn may_ask(&self, gtid: Gtid, ask: &Ask, caller: &Caller, rpc: &str) -> Result<(), Refused> {
        let act = Act { rpc, right: "operate", gtid: Some(gtid) };
        match self.owners.may_ask(gtid, ask, caller) {
            Ok(Leave::Everyone) => Ok(()),
            Ok(Leave::Operator) => {
                self.audit.allowed(caller, act);
                Ok(())
            }
            Err(refused) => Err(self.denied(caller, act, refused)),
        }
    }

    /// Whether a caller sees what the steps of a saga gave: its initiator does. To all others it is a payload.
    pub(crate) fn may_see_outputs(&self, gtid: Gtid, caller: &Caller) -> bool {
        caller.proof == Proof::None || self.owners.is_own(gtid, caller)
    }

    /// Notes that a caller was denied something.
    pub(crate) fn denied(&self, caller: &Caller, act: Act<'_>, refused: Refused) -> Refused {
        self.statistics.calls_denied.fetch_add(1, Relaxed);
        self.audit.denied(caller, act, &refused.message);
        refused
    }

    /// Notes that a caller is served by a right over what is another's.
    pub(crate) fn served(&self, caller: &Caller, rpc: &str, need: Need) {
        if need == Need::Inspect && caller.proof != Proof::None {
            self.audit.looked(caller, Act { rpc, right: need.as_str(), gtid: None });
        }
    }
}

/// Who a token names: one of the tokens file, or a login at one of its issuers.
async fn by_token(tokens: &Tokens, token: &[u8]) -> Result<Caller, Unknown> {
    if token.len() < tokens::TOKEN_BYTES_MIN {
        return Err(Unknown::ShortToken);
    }
    let hash = tokens::hash(token);
    if let Some(identities) = tokens.identities(&hash) {
        return Ok(Caller { identities, proof: Proof::Token(hash) });
    }
    let issuers = tokens.issuers();
    if issuers.is_empty() || !issuers::is_login(token) {
        return Err(Unknown::Token);
    }
    let Login { identities, until_s } = issuers::login(&issuers, token).await.map_err(Unknown::Login)?;
    Ok(Caller { identities, proof: Proof::Login { until_s } })
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str(
                "this coordinator has to know its callers; show a certificate (--cert and --key) or a token (--token-file, ASSENT_TOKEN_FILE, \
                 or `authorization: Bearer TOKEN`)",
            ),
            Self::Certificate(uri) => write!(
                f,
                "the certificate's URI {uri:?} names nobody here; issue one with a URI such as assent://participant/NAME, or map it under \
                 [[certificate]] in the tokens file"
            ),
            Self::Token => f.write_str(
                "the token is not known here, or no longer; show the one that `assent token new` printed, as it is in --token-file",
            ),
            Self::ShortToken => write!(
                f,
                "the token is too short to be one: at least {} characters; make one with `assent token new`",
                tokens::TOKEN_BYTES_MIN
            ),
            Self::Login(problem) => write!(f, "{problem}"),
        }
    }
}

impl Caller {
    /// A caller where none has to prove anything.
    pub(crate) fn anyone() -> Self {
        Self { identities: Arc::default(), proof: Proof::None }
    }

    /// The caller by these identities.
    #[cfg(test)]
    pub(crate) fn of(identities: &[Identity]) -> Self {
        Self { identities: identities.into(), proof: Proof::Certificate }
    }

    pub(crate) fn identities(&self) -> &[Identity] {
        &self.identities
    }

    pub(crate) fn proof(&self) -> Proof {
        self.proof
    }

    /// Whether it has a right.
    pub(crate) fn may(&self, right: &Right) -> bool {
        self.proof == Proof::None || self.identities.iter().any(|identity| rights::has(identity, right))
    }

    /// Whether it has what an rpc or a message needs. Which participant it may act as is for [`Self::participate_as`] to say.
    pub(crate) fn meets(&self, need: Need) -> Result<(), Refused> {
        let is_met = match need {
            Need::Nothing | Need::Anyone | Need::Hello => true,
            Need::Initiate => self.may(&Right::Initiate),
            Need::Participate => {
                self.proof == Proof::None || self.identities.iter().any(|identity| identity.role == Role::Participant)
            }
            Need::Join => self.meets(Need::Participate).is_ok() || self.may(&Right::Initiate),
            Need::Inspect => self.may(&Right::Inspect),
            Need::Look => self.meets(Need::InitiateOrInspect).is_ok() || self.meets(Need::Participate).is_ok(),
            Need::InitiateOrInspect => self.may(&Right::Initiate) || self.may(&Right::Inspect),
            Need::InitiateOrOperate => self.may(&Right::Initiate) || self.may(&Right::Operate),
        };
        if is_met { Ok(()) } else { Err(self.lacks(need.as_str())) }
    }

    /// Whether it may act as a participant.
    pub(crate) fn participate_as(&self, name: &ParticipantName) -> Result<(), Refused> {
        let right = Right::ParticipateAs(name.clone());
        if self.may(&right) { Ok(()) } else { Err(self.lacks(&right.to_string())) }
    }

    fn lacks(&self, right: &str) -> Refused {
        let message = format!(
            "{self} lacks the right to {right}; use an identity that has it, or give this one a role that does, in its certificate or in the \
             tokens file"
        );
        Reason::PermissionDenied.refused(message)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.identities.is_empty() {
            return f.write_str("anyone");
        }
        for (at, identity) in self.identities.iter().enumerate() {
            write!(f, "{}{identity}", if at == 0 { "" } else { " and " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(identities: &[&str]) -> Caller {
        let identities: Vec<Identity> = identities.iter().map(|text| text.parse().expect("an identity")).collect();
        Caller::of(&identities)
    }

    #[test]
    fn a_participant_is_itself_and_nobody_else() {
        let bank = caller(&["participant/bank-a"]);
        let name = |name: &str| name.parse::<ParticipantName>().expect("a name");
        assert!(bank.participate_as(&name("bank-a")).is_ok());
        let refused = bank.participate_as(&name("bank-b")).expect_err("another's name");
        assert_eq!(refused.known_reason(), Some(Reason::PermissionDenied));
        for part in ["participant/bank-a", "participate as bank-b", "tokens file"] {
            assert!(refused.message.contains(part), "{refused}");
        }
        assert!(caller(&["operator/root", "administrator/root"]).participate_as(&name("bank-a")).is_err());
        assert!(Caller::anyone().participate_as(&name("bank-a")).is_ok());
    }

    #[test]
    fn a_role_has_its_rights_and_no_others() {
        let expected = [
            ("participant", &[Need::Join, Need::Participate, Need::Look][..]),
            ("initiator", &[Need::Join, Need::Look, Need::Initiate, Need::InitiateOrInspect, Need::InitiateOrOperate]),
            ("replica", &[]),
            ("observer", &[Need::Inspect, Need::Look, Need::InitiateOrInspect]),
            ("operator", &[Need::Inspect, Need::Look, Need::InitiateOrInspect, Need::InitiateOrOperate]),
            ("administrator", &[Need::Inspect, Need::Look, Need::InitiateOrInspect, Need::InitiateOrOperate]),
        ];
        for (role, needs) in expected {
            let caller = caller(&[&format!("{role}/x")]);
            for need in Need::ALL.into_iter().filter(|need| !matches!(need, Need::Nothing | Need::Anyone | Need::Hello))
            {
                assert_eq!(caller.meets(need).is_ok(), needs.contains(&need), "{role}: {need:?}");
            }
        }
        let both = caller(&["participant/bank-a", "initiator/transfers"]);
        assert!(both.meets(Need::Initiate).is_ok() && both.meets(Need::Participate).is_ok());
    }

    #[test]
    fn without_authentication_everyone_may_do_everything() {
        for need in Need::ALL {
            assert!(Caller::anyone().meets(need).is_ok(), "{need:?}");
        }
    }
}
