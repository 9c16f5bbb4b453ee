//! People who log in elsewhere: an issuer (OpenID Connect) signs a token (JWT) that says who they are.
//!
//! ```toml
//! [[issuer]]
//! issuer = "https://login.example/realms/main"
//! audience = "assent"
//! name_claim = "preferred_username"
//! roles_claim = "realm_access.roles"
//! roles = { assent-operators = "operator", assent-viewers = "observer" }
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `issuers.rs` | the entries of the tokens file, and what a login proves |
//! | `issuers/keys.rs` | an issuer's public keys: where they are, and when they are asked for anew |
//! | `issuers/signature.rs` | signatures, verified by ring |
//!
//! # Contract
//! - A login proves something by the signature of a public key of its issuer. A shared secret (HS256) proves nothing, nor does no signature.
//! - `iss`, `aud` and `exp` have to be there and to fit, and `nbf` if it is there.
//! - A login names a person: an observer, an operator or an administrator, as the issuer's entry maps the values of one claim. It names
//!   no participant, initiator or replica. Without a value that is mapped, it names nobody.

mod keys;
mod signature;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use assent_transport::{Dialer, Identity, Role};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};

use keys::Keys;

/// The clocks of two machines may differ by so much.
const CLOCKS_DIFFER_MAX_S: u64 = 30;

/// An issuer as it stands in the tokens file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuerEntry {
    /// The URL of the issuer, exactly as its tokens say it in `iss`.
    issuer: String,
    /// What its tokens have to say in `aud`.
    audience: String,
    /// A file with its public keys (JWKS), where it is not asked for them.
    keys_file: Option<PathBuf>,
    /// The authorities that the issuer's certificate is verified against (PEM); without one, those that the machine trusts.
    ca: Option<PathBuf>,
    /// The claim with the person's name.
    #[serde(default = "name_claim")]
    name_claim: String,
    /// The claim whose values are mapped. Dots lead into objects, as in `realm_access.roles`.
    #[serde(default = "roles_claim")]
    roles_claim: String,
    /// Which value of that claim gives which role.
    roles: BTreeMap<String, String>,
}

fn name_claim() -> String {
    "sub".to_owned()
}

fn roles_claim() -> String {
    "groups".to_owned()
}

/// An issuer whose logins are believed.
#[derive(Debug)]
pub(super) struct Issuer {
    entry: IssuerEntry,
    roles: BTreeMap<String, Role>,
    keys: Arc<Keys>,
}

/// What a login proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    /// Who logged in.
    pub(super) identities: Arc<[Identity]>,
    /// Until when that holds, in Unix seconds.
    pub(super) until_s: u64,
}

/// Why a login proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoLogin {
    /// It is not a JWT, or its signature is of a kind that is not known.
    #[error(
        "the token is not a JWT that a public key has signed (RS256, PS256, ES256, EdDSA or their longer forms); log in again"
    )]
    Malformed,
    /// Its issuer has no entry.
    #[error(
        "the token's issuer {0:?} is not known here; log in at one that is, or add it under [[issuer]] in the tokens file"
    )]
    Issuer(String),
    /// The issuer's keys are not there.
    #[error("the keys of the issuer {0} cannot be had at present; try again, and see why in this coordinator's log")]
    NoKeys(String),
    /// The issuer has no such key.
    #[error("the token is signed with a key that its issuer does not show ({0}); log in again")]
    Key(String),
    /// The issuer's key is not for this kind of signature.
    #[error("the token is signed with {0}, and the issuer's key is not for that; log in again")]
    Algorithm(String),
    /// The signature is wrong.
    #[error("the token's signature is wrong; log in again")]
    Signature,
    /// It is too old.
    #[error("the token has expired; log in again")]
    Expired,
    /// It holds later.
    #[error("the token is not valid yet; compare the clocks of this coordinator and of the issuer")]
    NotYet,
    /// It is for another service.
    #[error("the token is not for the audience {0:?}; ask the issuer for one that is")]
    Audience(String),
    /// A claim that is needed is missing, or has another form.
    #[error("the token's claim {0:?} is missing, or has another form; let the issuer add it")]
    Claim(String),
    /// The name is not fit.
    #[error("the token's claim {claim:?} is not fit to be a name: {problem}; name another claim as name_claim")]
    Name {
        /// Which claim.
        claim: String,
        /// What is wrong.
        problem: String,
    },
    /// No role is mapped to it.
    #[error(
        "{name:?} is in none of the groups that have a role here, by the claim {claim:?}; add one under roles of its [[issuer]] in the \
         tokens file"
    )]
    NoRole {
        /// Who logged in.
        name: String,
        /// Which claim was looked at.
        claim: String,
    },
}

impl NoLogin {
    /// Whether somebody may be trying tokens out.
    pub(super) fn is_guess(&self) -> bool {
        !matches!(self, Self::NoKeys(_))
    }
}

/// Reads a set of keys, and leaves it.
#[cfg(any(test, feature = "fuzz"))]
pub(super) fn keys_of(document: &[u8]) -> Result<(), String> {
    keys::of_document(document).map(drop).map_err(|error| error.to_string())
}

/// Whether a token has the form of a login. Tokens of the tokens file have none.
pub(super) fn is_login(token: &[u8]) -> bool {
    token.starts_with(b"eyJ") && token.iter().filter(|byte| **byte == b'.').count() == 2
}

/// What has to be known of a login before its signature can be verified.
#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

/// Verifies a login against the issuer that it names.
///
/// # Errors
/// [`NoLogin`], which says what to do.
pub(super) async fn login(issuers: &[Arc<Issuer>], token: &[u8]) -> Result<Login, NoLogin> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| NoLogin::Malformed)?;
    let claimed: Claimed =
        jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| NoLogin::Claim("iss".to_owned()))?;
    let issuer = issuers.iter().find(|issuer| issuer.entry.issuer == claimed.iss);
    let issuer = issuer.ok_or_else(|| NoLogin::Issuer(shortened(&claimed.iss)))?;
    let key = issuer.keys.find(header.kid.as_deref(), header.alg).await?;
    let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &issuer.validation(header.alg));
    issuer.person(&claims.map_err(|error| issuer.problem(error.kind(), header.alg))?.claims)
}

impl Issuer {
    /// Takes an entry of the tokens file up.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub(super) fn new(entry: IssuerEntry) -> Result<Self, String> {
        let mut roles = BTreeMap::new();
        for (value, role) in &entry.roles {
            let role: Role = role.parse().map_err(|error| format!("{error}"))?;
            if !role.is_person() {
                return Err(format!(
                    "a login names a person, and none is a {role}; write observer, operator or administrator"
                ));
            }
            roles.insert(value.clone(), role);
        }
        if roles.is_empty() {
            return Err(
                "it has no roles, so its logins could do nothing; write such as roles = { admins = \"operator\" }"
                    .to_owned(),
            );
        }
        if entry.audience.is_empty() {
            return Err("its audience is empty: a token for any other service would be believed".to_owned());
        }
        let dialer = entry.ca.iter().fold(Dialer::new(), |dialer, ca| dialer.ca(ca));
        let keys = Keys::new(&entry.issuer, entry.keys_file.clone(), dialer).map_err(|error| with_cause(&error))?;
        signature::install();
        Ok(Self { entry, roles, keys: Arc::new(keys) })
    }

    /// Itself as it was before, with the keys that it has fetched, where its entry is the same.
    pub(super) fn or_as_before(self, before: &[Arc<Self>]) -> Arc<Self> {
        let same = before.iter().find(|issuer| issuer.entry == self.entry);
        same.cloned().unwrap_or_else(|| Arc::new(self))
    }

    /// What its tokens say in `iss`.
    pub(super) fn name(&self) -> &str {
        &self.entry.issuer
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = CLOCKS_DIFFER_MAX_S;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.entry.issuer]);
        validation.set_audience(&[&self.entry.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation
    }

    fn problem(&self, error: &ErrorKind, algorithm: Algorithm) -> NoLogin {
        match error {
            ErrorKind::ExpiredSignature => NoLogin::Expired,
            ErrorKind::ImmatureSignature => NoLogin::NotYet,
            ErrorKind::InvalidAudience => NoLogin::Audience(self.entry.audience.clone()),
            ErrorKind::InvalidIssuer => NoLogin::Claim("iss".to_owned()),
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                NoLogin::Claim(claim.clone())
            }
            ErrorKind::InvalidAlgorithm => NoLogin::Algorithm(format!("{algorithm:?}")),
            ErrorKind::InvalidSignature => NoLogin::Signature,
            _ => NoLogin::Malformed,
        }
    }

    /// Who the claims of a token that was verified name.
    fn person(&self, claims: &Map<String, Value>) -> Result<Login, NoLogin> {
        let missing = |claim: &str| NoLogin::Claim(claim.to_owned());
        let until_s = claims.get("exp").and_then(Value::as_f64).ok_or_else(|| missing("exp"))?;
        let name_claim = &self.entry.name_claim;
        let name = claim(claims, name_claim).and_then(Value::as_str).ok_or_else(|| missing(name_claim))?;
        let values = claim(claims, &self.entry.roles_claim).map(texts).unwrap_or_default();
        let roles: BTreeSet<Role> = values.iter().filter_map(|value| self.roles.get(*value)).copied().collect();
        if roles.is_empty() {
            return Err(NoLogin::NoRole { name: shortened(name), claim: self.entry.roles_claim.clone() });
        }
        let identities = roles.into_iter().map(|role| Identity::new(role, name)).collect::<Result<_, _>>();
        let identities =
            identities.map_err(|error| NoLogin::Name { claim: name_claim.clone(), problem: error.to_string() })?;
        // A number of seconds that no clock reaches is cut, which is what the cast does.
        Ok(Login { identities, until_s: (until_s as u64).saturating_add(CLOCKS_DIFFER_MAX_S) })
    }
}

/// A claim by its name, or by the way through objects that its dots show.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (object, rest) = name.split_once('.')?;
        claim(claims.get(object)?.as_object()?, rest)
    })
}

/// The values of a claim that lists some: an array, or words in one text, as `scope` has them.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        Value::String(text) => text.split_whitespace().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    }
}

/// A foreign text, cut.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_cause(cause)),
        None => error.to_string(),
    }
}
