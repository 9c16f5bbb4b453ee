//! The tokens file: names, hashes, and how it is followed.
//!
//! ```toml
//! [[token]]
//! identities = ["participant/bank-a", "initiator/bank-a"]
//! sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
//!
//! [[certificate]]
//! uri = "spiffe://prod.example/ns/bank/sa/bank-a"
//! identities = ["participant/bank-a"]
//! ```
//!
//! Issuers whose logins are believed stand in the same file, under `[[issuer]]`: see `issuers.rs`.
//!
//! A token is 32 random bytes, so one round of SHA-256 hides it as well as a slow hash would: nothing can be guessed. What is presented is
//! hashed and looked up; the time that takes tells nothing of the tokens that there are.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use assent_transport::{Identity, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use tokio::sync::watch;

use super::issuers::{Issuer, IssuerEntry};

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The random bytes of a token.
const RANDOM_BYTES: usize = 32;
/// What tokens begin with, so that scanners for leaked secrets know them.
const PREFIX: &str = "assent_";
/// The fewest characters of a token that is believed.
pub(crate) const TOKEN_BYTES_MIN: usize = 32;
/// The most entries of a file.
const ENTRIES_MAX: usize = 100_000;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Hash([u8; 32]);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

/// The hash of what was presented.
pub(crate) fn hash(token: &[u8]) -> Hash {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, token).as_ref());
    Hash(bytes)
}

/// A tokens file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("cannot read the tokens file {}; check the path, and that this user may read it", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// It says something else.
    #[error("{}: {problem}", path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// The system has no randomness to give.
    #[error("this system gives no random bytes; try again")]
    Random,
}

/// The file, as it was when it was last fit.
pub(super) struct Tokens {
    path: PathBuf,
    current: RwLock<Known>,
    changed: watch::Sender<u64>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(super) struct Known {
    text: String,
    tokens: HashMap<Hash, Arc<[Identity]>>,
    certificates: HashMap<String, Arc<[Identity]>>,
    issuers: Arc<[Arc<Issuer>]>,
}

#[cfg(any(test, feature = "fuzz"))]
impl Known {
    /// Everybody who is named.
    pub(super) fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.tokens.values().chain(self.certificates.values()).flat_map(|identities| identities.iter())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<TokenEntry>,
    #[serde(default)]
    certificate: Vec<CertificateEntry>,
    #[serde(default)]
    issuer: Vec<IssuerEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    identities: Vec<String>,
    sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateEntry {
    uri: String,
    identities: Vec<String>,
}

impl Tokens {
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, TokensError> {
        let known = read(path, &Known::default())?.unwrap_or_default();
        let (changed, _) = watch::channel(0);
        Ok(Arc::new(Self { path: path.to_owned(), current: RwLock::new(known), changed }))
    }

    /// Who the token of a hash is, if it is one.
    pub(super) fn identities(&self, hash: &Hash) -> Option<Arc<[Identity]>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).tokens.get(hash).cloned()
    }

    /// Who the URI of a certificate stands for.
    pub(super) fn mapped(&self, uri: &str) -> Vec<Identity> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.certificates.get(uri).map(|identities| identities.to_vec()).unwrap_or_default()
    }

    /// Whose logins are believed.
    pub(super) fn issuers(&self) -> Arc<[Arc<Issuer>]> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).issuers)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reads the file again whenever it has changed. One that is not fit is told once, and what was fit goes on.
    pub(super) async fn follow(self: &Arc<Self>) {
        let mut has_failed = false;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let this = Arc::clone(self);
            let read = tokio::task::spawn_blocking(move || {
                let before = this.current.read().unwrap_or_else(PoisonError::into_inner);
                read(&this.path, &before)
            });
            match read.await {
                Ok(Ok(Some(known))) => {
                    tracing::info!(path = %self.path.display(), tokens = known.tokens.len(), "the tokens file has changed");
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = known;
                    self.changed.send_modify(|version| *version += 1);
                    has_failed = false;
                }
                Ok(Ok(None)) => has_failed = false,
                Ok(Err(error)) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "the tokens file cannot be used; the last one stays in use"
                        );
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// The file, unless it is as it was.
fn read(path: &Path, before: &Known) -> Result<Option<Known>, TokensError> {
    let text = std::fs::read_to_string(path).map_err(|source| TokensError::Read { path: path.to_owned(), source })?;
    if before.text == text {
        return Ok(None);
    }
    parse(&text, before).map(Some).map_err(|problem| TokensError::Wrong { path: path.to_owned(), problem })
}

pub(super) fn parse(text: &str, before: &Known) -> Result<Known, String> {
    let file: File = toml::from_str(text).map_err(|error| error.message().replace('\n', ", "))?;
    if file.token.len() + file.certificate.len() + file.issuer.len() > ENTRIES_MAX {
        return Err(format!(
            "it has more than {ENTRIES_MAX} entries; let a certificate's authority name that many callers"
        ));
    }
    let mut known = Known { text: text.to_owned(), ..Known::default() };
    for (at, entry) in file.token.into_iter().enumerate() {
        let wrong = |problem: String| format!("token {}: {problem}", at + 1);
        let hash = of_hex(&entry.sha256).ok_or_else(|| {
            wrong("sha256 is not 64 hexadecimal digits; take the entry that `assent token new` printed".to_owned())
        })?;
        let identities = identities(&entry.identities).map_err(wrong)?;
        if known.tokens.insert(Hash(hash), identities).is_some() {
            return Err(wrong(
                "its sha256 stands there twice; give each token one entry with all its identities".to_owned(),
            ));
        }
    }
    for (at, entry) in file.certificate.into_iter().enumerate() {
        let wrong = |problem: String| format!("certificate {}: {problem}", at + 1);
        if entry.uri.starts_with("assent://") {
            return Err(wrong(
                "a URI of assent:// speaks for itself; map those of other schemes, such as spiffe://".to_owned(),
            ));
        }
        let identities = identities(&entry.identities).map_err(wrong)?;
        if known.certificates.insert(entry.uri, identities).is_some() {
            return Err(wrong("its uri stands there twice; give each one entry with all its identities".to_owned()));
        }
    }
    known.issuers = issuers(file.issuer, before)?;
    Ok(known)
}

/// Issuers whose entries are as they were keep the keys that they have fetched.
fn issuers(entries: Vec<IssuerEntry>, before: &Known) -> Result<Arc<[Arc<Issuer>]>, String> {
    let mut issuers: Vec<Arc<Issuer>> = Vec::new();
    for (at, entry) in entries.into_iter().enumerate() {
        let wrong = |problem: String| format!("issuer {}: {problem}", at + 1);
        let issuer = Issuer::new(entry).map_err(wrong)?.or_as_before(&before.issuers);
        if issuers.iter().any(|other| other.name() == issuer.name()) {
            return Err(wrong("it stands there twice; give each issuer one entry with all its roles".to_owned()));
        }
        issuers.push(issuer);
    }
    Ok(issuers.into())
}

fn identities(texts: &[String]) -> Result<Arc<[Identity]>, String> {
    if texts.is_empty() {
        return Err("it has no identities; write such as identities = [\"participant/bank-a\"]".to_owned());
    }
    texts.iter().map(|text| text.parse::<Identity>().map_err(|error| error.to_string())).collect()
}

/// A token that was just made.
#[derive(Debug)]
pub struct MintedToken {
    /// The token, for its holder.
    pub token: Secret,
    /// Its entry, for the tokens file.
    pub entry: String,
}

/// Makes a token for these identities.
///
/// # Errors
/// [`TokensError::Random`].
pub fn mint(identities: &[Identity]) -> Result<MintedToken, TokensError> {
    let mut bytes = [0; RANDOM_BYTES];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut bytes).map_err(|_| TokensError::Random)?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let listed: Vec<String> = identities.iter().map(|identity| format!("{:?}", identity.to_string())).collect();
    let Hash(hash) = hash(token.as_bytes());
    let entry = format!("[[token]]\nidentities = [{}]\nsha256 = \"{}\"\n", listed.join(", "), hex(&hash));
    Ok(MintedToken { token: Secret::from(token), entry })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_token_is_found_by_its_entry() {
        let identities: Vec<Identity> =
            ["participant/bank-a", "initiator/bank-a"].iter().map(|text| text.parse().expect("an identity")).collect();
        let (one, other) = (mint(&identities).expect("random"), mint(&identities).expect("random"));
        assert_ne!(one.token, other.token);
        assert!(one.token.expose().len() >= TOKEN_BYTES_MIN);
        assert!(!one.entry.contains(one.token.expose()), "the file does not have the token");
        let file = format!("{}\n{}", one.entry, other.entry);
        let known = parse(&file, &Known::default()).expect("fit");
        for minted in [one, other] {
            let found = known.tokens.get(&hash(minted.token.expose().as_bytes())).expect("known");
            assert_eq!(found.as_ref(), identities);
        }
        assert!(!known.tokens.contains_key(&hash(b"assent_something_else_that_is_long")));
    }

    /// An entry of an issuer.
    fn issuer(url: &str, roles: &str) -> String {
        format!("[[issuer]]\nissuer = '{url}'\naudience = 'assent'\nroles = {{ {roles} }}\n")
    }

    #[test]
    fn a_file_that_is_not_fit_says_where() {
        let hash = "0".repeat(64);
        for (text, part) in [
            ("[[token]]\nidentities = ['participant/a']\n".to_owned(), "sha256"),
            ("[[token]]\nidentities = ['participant/a']\nsha256 = 'abc'\n".to_owned(), "token 1: sha256"),
            (format!("[[token]]\nidentities = []\nsha256 = '{hash}'\n"), "token 1: it has no identities"),
            (format!("[[token]]\nidentities = ['root/a']\nsha256 = '{hash}'\n"), "not a role"),
            (format!("[[token]]\nidentities = ['participant/A']\nsha256 = '{hash}'\n"), "not a name"),
            (format!("[[token]]\nidentities = ['participant/a']\nsha256 = '{hash}'\nrights = 1\n"), "rights"),
            (format!("[[token]]\nidentities = ['participant/a']\nsha256 = '{hash}'\n").repeat(2), "twice"),
            (
                "[[certificate]]\nuri = 'assent://participant/a'\nidentities = ['participant/b']\n".to_owned(),
                "speaks for itself",
            ),
            ("tokens = 1\n".to_owned(), "tokens"),
            ("[[issuer]]\nissuer = 'https://login.example'\n".to_owned(), "audience"),
            (issuer("https://login.example", "administrator = 'root'"), "issuer 1: \"root\" is not a role"),
            (issuer("https://login.example", "services = 'participant'"), "none is a participant"),
            (issuer("https://login.example", ""), "it has no roles"),
            (issuer("http://login.example", "admins = 'operator'"), "cannot be believed"),
            (issuer("login.example", "admins = 'operator'"), "cannot be believed"),
            (issuer("http://127.0.0.1:1", "admins = 'operator'").repeat(2), "issuer 2: it stands there twice"),
            (
                issuer("http://127.0.0.1:1", "admins = 'operator'")
                    .replace("roles", "keys_file = '/no/such/file'\nroles"),
                "/no/such/file",
            ),
        ] {
            let problem = parse(&text, &Known::default()).err().unwrap_or_else(|| panic!("{text}"));
            assert!(problem.contains(part), "{text}: {problem}");
        }
        assert!(parse("", &Known::default()).is_ok_and(|known| known.tokens.is_empty()));
    }
}
