//! Any certificate, tokens file, header or login at all: what is read before its sender is known.

use std::sync::{Arc, LazyLock};

use assent_protocol::fuzz::Tape;
use assent_transport::Identity;
use assent_transport::identity::uris_of;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::gate::Prefix;
use super::issuers::{self, Issuer, NoLogin};
use super::layer;
use super::tokens::{self, Known};

/// Identities of every role, as certificates and the tokens file have them.
const IDENTITIES: [&str; 4] =
    ["participant/bank-a", "initiator/transfers", "operator/Ada@bank.example", "replica/assent"];

/// A certificate with names, by an authority of its own.
static CERTIFICATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(["assent.example".to_owned()]).expect("a host");
    let uris = IDENTITIES.iter().map(|identity| format!("assent://{identity}"));
    let uris = uris.chain(["spiffe://prod.example/bank".to_owned()]);
    params.subject_alt_names.extend(uris.map(|uri| rcgen::SanType::URI(uri.try_into().expect("ASCII"))));
    params.self_signed(&key).expect("a certificate").der().to_vec()
});

/// Reads the names of a certificate that says anything.
///
/// # Panics
/// If a name is not read as the same once it is written again.
pub fn certificate(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    for uri in uris_of(&tape.damaged(CERTIFICATE.as_slice()).into()) {
        identity(&uri);
    }
    identity(&tape.damaged_text("assent://participant/bank-a"));
}

fn identity(uri: &str) {
    let Some(identity) = Identity::of_uri(uri) else { return };
    assert_eq!(identity.uri(), uri);
    assert!(identity.name().bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{uri:?}");
}

/// Reads a tokens file that says anything: it is taken, or what is wrong is told.
///
/// # Panics
/// If something else comes of it.
pub fn tokens_file(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let text = format!(
        "[[token]]\nidentities = [{:?}, {:?}]\nsha256 = \"{hash}\"\n\
         [[certificate]]\nuri = \"spiffe://prod.example/bank\"\nidentities = [{:?}]\n\
         [[issuer]]\nissuer = \"http://127.0.0.1:1\"\naudience = \"assent\"\nroles = {{ admins = \"operator\" }}\n",
        tape.pick(&IDENTITIES),
        tape.pick(&IDENTITIES),
        tape.pick(&IDENTITIES),
    );
    match tokens::parse(&tape.damaged_text(text), &Known::default()) {
        Ok(known) => known.identities().for_each(|known| identity(&known.uri())),
        Err(problem) => assert!(!problem.is_empty()),
    }
}

/// Reads the header that shows a token, and the length of a message that comes in pieces.
///
/// # Panics
/// If a token has blanks around it, or a length depends on the pieces.
pub fn announced(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    if let Some(token) = layer::token_of(&tape.damaged(*b"Bearer assent_0123456789")) {
        assert_eq!(token, token.trim_ascii());
    }
    let cuts = [tape.below(8), tape.below(8)];
    let message = tape.rest();
    let whole = Prefix::default().length(message);
    let (first, rest) = message.split_at(cuts[0].min(message.len()));
    let (second, third) = rest.split_at(cuts[1].min(rest.len()));
    let mut prefix = Prefix::default();
    let pieces = [first, second, third].map(|piece| prefix.length(piece));
    assert_eq!(pieces.into_iter().flatten().next(), whole);
}

/// The key of an issuer, which signs what the bytes choose.
static SIGNER: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed of its length"));

static ISSUER: LazyLock<Arc<Issuer>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, keys().to_string()).expect("written");
    let entry = format!(
        "issuer = 'https://login.example'\naudience = 'assent'\nkeys_file = {path:?}\nroles = {{ admins = 'operator' }}\n"
    );
    Arc::new(Issuer::new(toml::from_str(&entry).expect("an entry")).expect("fit"))
});

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"));

fn keys() -> Value {
    let public = URL_SAFE_NO_PAD.encode(SIGNER.public_key());
    json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": "one", "x": public }] })
}

fn signed(header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = SIGNER.sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Verifies logins and reads sets of keys that say anything.
///
/// # Panics
/// If a login is believed that its issuer has not signed, or one names a service.
pub fn login(bytes: &[u8]) {
    let tape = &mut Tape::new(bytes);
    issuers::keys_of(&tape.damaged(keys().to_string())).ok();
    let header = json!({ "alg": "EdDSA", "kid": "one" }).to_string();
    let claims = json!({
        "iss": "https://login.example", "aud": "assent", "exp": 4_102_444_800_u64, "sub": "ada", "groups": ["admins"]
    });
    let (header, claims) = (header.into_bytes(), claims.to_string().into_bytes());
    let believed = |token: &[u8]| RUNTIME.block_on(issuers::login(std::slice::from_ref(&*ISSUER), token));
    if tape.one_in(2) {
        // Its issuer says anything at all.
        let token = signed(&tape.damaged(header), &tape.damaged(claims));
        match believed(token.as_bytes()) {
            Ok(login) => assert!(login.identities.iter().all(|identity| identity.role.is_person()), "{login:?}"),
            Err(problem) => assert!(problem != NoLogin::Signature && !problem.to_string().is_empty(), "{token}"),
        }
    } else {
        let token = signed(&header, &claims);
        let damaged = tape.damaged(token.as_str());
        let is_believed = believed(&damaged).is_ok();
        assert_eq!(is_believed, damaged == token.as_bytes(), "{}", String::from_utf8_lossy(&damaged));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_000), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn names_of_a_certificate_are_read_or_left_out(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::certificate(&bytes);
        }

        #[test]
        fn a_tokens_file_is_taken_or_its_mistake_is_told(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::tokens_file(&bytes);
        }

        #[test]
        fn a_token_and_a_length_are_read_however_they_come(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            super::announced(&bytes);
        }

        #[test]
        fn a_login_is_believed_if_its_issuer_has_signed_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::login(&bytes);
        }
    }

    #[test]
    fn what_is_not_damaged_is_read() {
        let uris = super::uris_of(&super::CERTIFICATE.as_slice().into());
        let identities: Vec<_> = uris.iter().filter_map(|uri| super::Identity::of_uri(uri)).collect();
        assert_eq!(identities.iter().map(ToString::to_string).collect::<Vec<_>>(), super::IDENTITIES);
        assert!(super::issuers::keys_of(super::keys().to_string().as_bytes()).is_ok());
    }
}
