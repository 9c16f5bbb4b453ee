//! An issuer's public keys: where they are, and when they are asked for anew.
//!
//! They are asked for when a login names a key that is not known, at most every [`ASK_INTERVAL`], and behind the back of a login whose key
//! is older than [`AGE_MAX`]. So a new key of the issuer counts at once, one that it has withdrawn counts no longer after a while, and
//! strangers who make up keys cannot make this coordinator ask more often.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use assent_transport::{Dialer, FetchError};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::NoLogin;

/// The shortest time from one question to the next.
const ASK_INTERVAL: Duration = Duration::from_secs(10);
/// Keys that are older are asked for anew, and serve meanwhile.
const AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// Keys that are older do not serve: the issuer has not answered for all that time.
const SILENCE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The longest document that is read.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// Where an issuer says where its keys are (OpenID Connect Discovery 1.0, section 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

#[derive(Debug)]
pub(super) struct Keys {
    issuer: String,
    source: Source,
    known: RwLock<Option<Known>>,
    /// When they were asked for last. Held while they are asked for.
    asked: Mutex<Option<Instant>>,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Issuer(Dialer),
}

#[derive(Clone, Debug)]
struct Known {
    keys: Arc<[Key]>,
    since: Instant,
}

#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Keys that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the keys file {}; check the path, and that this user may read it", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// The issuer does not give them.
    #[error("the issuer's keys cannot be fetched; correct issuer or ca, or give its keys as keys_file")]
    Fetch(#[from] FetchError),
    /// The document is something else.
    #[error("{what} is not one: {problem}")]
    Document {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Another issuer answers there.
    #[error("{found:?} answers in the name of the issuer {expected:?}; write the issuer as its tokens do")]
    OtherIssuer {
        /// Who should.
        expected: String,
        /// Who does.
        found: String,
    },
    /// No key is of use.
    #[error("none of its keys is a public key for signatures (RSA, P-256, P-384 or Ed25519)")]
    NoneUsable,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Keys {
    /// Keys of a file, which is read now; or keys that the issuer is asked for at the first login.
    ///
    /// # Errors
    /// [`KeysError`].
    pub(super) fn new(issuer: &str, file: Option<PathBuf>, dialer: Dialer) -> Result<Self, KeysError> {
        let (source, known) = match file {
            Some(path) => {
                let keys = of_file(&path)?;
                (Source::File(path), Some(Known { keys, since: Instant::now() }))
            }
            None => {
                dialer.may_fetch(issuer)?;
                (Source::Issuer(dialer), None)
            }
        };
        Ok(Self { issuer: issuer.to_owned(), source, known: RwLock::new(known), asked: Mutex::new(None) })
    }

    /// The key of this id for this algorithm.
    ///
    /// # Errors
    /// [`NoLogin::NoKeys`], [`NoLogin::Key`], [`NoLogin::Algorithm`].
    pub(super) async fn find(self: &Arc<Self>, id: Option<&str>, algorithm: Algorithm) -> Result<DecodingKey, NoLogin> {
        let known = self.known();
        if let Some(known) = &known
            && let Ok(key) = known.find(id, algorithm)
        {
            if known.since.elapsed() > AGE_MAX {
                let (this, since) = (Arc::clone(self), known.since);
                tokio::spawn(async move { this.ask(Some(since)).await });
            }
            return Ok(key);
        }
        self.ask(known.map(|known| known.since)).await;
        self.known().ok_or_else(|| NoLogin::NoKeys(self.issuer.clone()))?.find(id, algorithm)
    }

    /// What is known, unless it is too old to serve.
    fn known(&self) -> Option<Known> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        known.filter(|known| known.since.elapsed() < SILENCE_MAX)
    }

    /// Asks for them, unless that was done since, or only just.
    async fn ask(&self, since: Option<Instant>) {
        let mut asked = self.asked.lock().await;
        let is_newer = self.known().is_some_and(|known| Some(known.since) > since);
        if is_newer || asked.is_some_and(|asked| asked.elapsed() < ASK_INTERVAL) {
            return;
        }
        *asked = Some(Instant::now());
        match self.load().await {
            Ok(keys) => {
                tracing::info!(issuer = %self.issuer, keys = keys.len(), "the issuer's keys were read");
                let known = Some(Known { keys, since: Instant::now() });
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(issuer = %self.issuer, error, "the issuer's keys cannot be had; the last ones stay in use");
            }
        }
    }

    async fn load(&self) -> Result<Arc<[Key]>, KeysError> {
        let dialer = match &self.source {
            Source::File(path) => return of_file(path),
            Source::Issuer(dialer) => dialer,
        };
        let url = format!("{}{DISCOVERY}", self.issuer.trim_end_matches('/'));
        let Discovery { issuer, jwks_uri } =
            parse("the discovery document", &dialer.fetch(&url, DOCUMENT_BYTES_MAX).await?)?;
        if issuer != self.issuer {
            return Err(KeysError::OtherIssuer { expected: self.issuer.clone(), found: super::shortened(&issuer) });
        }
        of_document(&dialer.fetch(&jwks_uri, DOCUMENT_BYTES_MAX).await?)
    }
}

impl Known {
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<DecodingKey, NoLogin> {
        let is_fit = |key: &&Key| key.algorithms.contains(&algorithm);
        let mut of_id = self.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).peekable();
        if of_id.peek().is_none() {
            return Err(NoLogin::Key(format!("kid {:?}", super::shortened(id.unwrap_or_default()))));
        }
        let mut fit = of_id.filter(is_fit);
        match (fit.next(), fit.next()) {
            (None, _) => Err(NoLogin::Algorithm(format!("{algorithm:?}"))),
            (Some(key), None) => Ok(key.key.clone()),
            (Some(_), Some(_)) => Err(NoLogin::Key("no kid says which of them it is".to_owned())),
        }
    }
}

fn of_file(path: &Path) -> Result<Arc<[Key]>, KeysError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(DOCUMENT_BYTES_MAX as u64).read_to_end(&mut text));
    read.map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
    of_document(&text)
}

/// The keys of a JWKS that are of use. The others are left out: issuers show keys for encryption too.
pub(super) fn of_document(text: &[u8]) -> Result<Arc<[Key]>, KeysError> {
    let set: JwkSet = parse("the set of keys (JWKS)", text)?;
    let keys: Arc<[Key]> = set.keys.iter().filter_map(Key::of).collect();
    if keys.is_empty() { Err(KeysError::NoneUsable) } else { Ok(keys) }
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, text: &'a [u8]) -> Result<T, KeysError> {
    serde_json::from_slice(text).map_err(|error| KeysError::Document { what, problem: error.to_string() })
}

impl Key {
    fn of(jwk: &Jwk) -> Option<Self> {
        if matches!(&jwk.common.public_key_use, Some(other) if *other != PublicKeyUse::Signature) {
            return None;
        }
        let all: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            // A shared secret is none of the issuer's public keys, whatever the document says.
            _ => return None,
        };
        let is_named = |algorithm: &&Algorithm| match jwk.common.key_algorithm {
            None => true,
            Some(named) => named == KeyAlgorithm::from(**algorithm),
        };
        let algorithms: Vec<Algorithm> = all.iter().filter(is_named).copied().collect();
        let key = DecodingKey::from_jwk(jwk).ok().filter(|_| !algorithms.is_empty())?;
        Some(Self { id: jwk.common.key_id.clone(), algorithms, key })
    }
}
