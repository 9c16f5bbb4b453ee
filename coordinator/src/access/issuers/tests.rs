use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

use super::*;

const ISSUER: &str = "https://login.example";

/// An issuer's private key, and its place in the set of public ones.
struct Signer {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).expect("random");
        Self { id, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("its own") }
    }

    fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.id, "x": base64(self.public()) })
    }

    fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": "EdDSA", "kid": self.id, "typ": "JWT" }), claims)
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        format!("{message}.{}", base64(self.pair.sign(message.as_bytes()).as_ref()))
    }
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()))
}

/// The issuer of a file with these keys.
fn issuer(keys: &[Value]) -> Arc<Issuer> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, json!({ "keys": keys }).to_string()).expect("written");
    let entry = format!(
        "issuer = '{ISSUER}'\naudience = 'assent'\nkeys_file = {path:?}\nroles = {{ admins = 'operator', all = 'observer' }}\n"
    );
    Arc::new(Issuer::new(toml::from_str(&entry).expect("an entry")).expect("fit"))
}

fn now_s() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

/// What a login has to say.
fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": "assent", "exp": now_s() + 600, "sub": "Ada@bank.example", "groups": ["admins", "others"] })
}

/// The claims with one of them changed; taken out by null.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    let object = claims.as_object_mut().expect("an object");
    object.remove(name);
    if !value.is_null() {
        object.insert(name.to_owned(), value);
    }
    claims
}

async fn refused(issuer: &Arc<Issuer>, token: &str) -> NoLogin {
    login(std::slice::from_ref(issuer), token.as_bytes()).await.expect_err(token)
}

#[tokio::test]
async fn a_login_names_a_person_in_the_roles_that_are_mapped() {
    let signer = Signer::new("one");
    let issuer = issuer(&[signer.jwk()]);
    let named = async |claims: Value| {
        let login = login(std::slice::from_ref(&issuer), signer.token(&claims).as_bytes()).await.expect("believed");
        assert!(login.until_s > now_s(), "{login:?}");
        login.identities.iter().map(Identity::to_string).collect::<Vec<_>>()
    };
    assert_eq!(named(claims()).await, ["operator/Ada@bank.example"]);
    assert_eq!(
        named(with("groups", json!("all admins"))).await,
        ["observer/Ada@bank.example", "operator/Ada@bank.example"]
    );
    assert_eq!(named(with("aud", json!(["other", "assent"]))).await, ["operator/Ada@bank.example"]);
    for groups in [
        json!(null),
        json!([]),
        json!(["Admins"]),
        json!("administrators"),
        json!({ "admins": true }),
        json!([["admins"]]),
    ] {
        let problem = refused(&issuer, &signer.token(&with("groups", groups.clone()))).await;
        assert!(matches!(problem, NoLogin::NoRole { .. }), "{groups}: {problem:?}");
    }
}

#[tokio::test]
async fn a_claim_is_found_by_its_name_or_by_the_way_to_it() {
    let claims = json!({ "realm_access": { "roles": ["admins"] }, "https://bank.example/roles": ["all"] });
    let claims = claims.as_object().expect("an object");
    assert_eq!(claim(claims, "realm_access.roles").map(texts), Some(vec!["admins"]));
    assert_eq!(claim(claims, "https://bank.example/roles").map(texts), Some(vec!["all"]));
    for name in ["", "realm_access.", "realm_access.roles.0", "nope.roles"] {
        assert_eq!(claim(claims, name), None, "{name}");
    }
}

#[tokio::test]
async fn a_login_that_does_not_fit_says_what_is_wrong() {
    let signer = Signer::new("one");
    let issuer = issuer(&[signer.jwk()]);
    let expired = NoLogin::Expired;
    for (claim, value, expected) in [
        ("exp", json!(now_s() - 60), expired),
        ("exp", json!(null), NoLogin::Claim("exp".to_owned())),
        ("exp", json!("4102444800"), NoLogin::Claim("exp".to_owned())),
        ("nbf", json!(now_s() + 60), NoLogin::NotYet),
        ("nbf", json!("0"), NoLogin::Claim("nbf".to_owned())),
        ("aud", json!("other"), NoLogin::Audience("assent".to_owned())),
        ("aud", json!(["other"]), NoLogin::Audience("assent".to_owned())),
        ("aud", json!(null), NoLogin::Claim("aud".to_owned())),
        ("iss", json!("https://elsewhere.example"), NoLogin::Issuer("https://elsewhere.example".to_owned())),
        ("iss", json!([ISSUER]), NoLogin::Claim("iss".to_owned())),
        ("iss", json!(null), NoLogin::Claim("iss".to_owned())),
        ("sub", json!(null), NoLogin::Claim("sub".to_owned())),
        ("sub", json!(7), NoLogin::Claim("sub".to_owned())),
    ] {
        assert_eq!(refused(&issuer, &signer.token(&with(claim, value.clone()))).await, expected, "{claim} = {value}");
    }
    let problem = refused(&issuer, &signer.token(&with("sub", json!("a/b")))).await;
    assert!(matches!(problem, NoLogin::Name { .. }) && problem.to_string().contains("name_claim"), "{problem}");
}

#[tokio::test]
async fn a_signature_is_of_the_issuers_public_key_and_of_no_other() {
    let (signer, stranger) = (Signer::new("one"), Signer::new("one"));
    let issuer = issuer(&[signer.jwk(), json!({ "kty": "oct", "kid": "secret", "k": base64(b"hush") })]);
    let eddsa = json!({ "alg": "EdDSA", "kid": "one" });
    assert_eq!(refused(&issuer, &stranger.token(&claims())).await, NoLogin::Signature);
    // What was signed is changed.
    let token = signer.token(&claims());
    let [_, _, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let changed = format!("{}.{signature}", message(&eddsa, &with("groups", json!(["admins", "all"]))));
    assert_eq!(refused(&issuer, &changed).await, NoLogin::Signature);
    let cut = format!("{}.", message(&eddsa, &claims()));
    assert_eq!(refused(&issuer, &cut).await, NoLogin::Signature);
    // No signature at all.
    for none in ["none", "None", "NONE", ""] {
        let unsigned = format!("{}.", message(&json!({ "alg": none, "kid": "one" }), &claims()));
        assert_eq!(refused(&issuer, &unsigned).await, NoLogin::Malformed, "{none}");
    }
    // The public key as a shared secret, and a shared secret that the document shows.
    for (id, secret) in [("one", signer.public()), ("secret", &b"hush"[..])] {
        let message = message(&json!({ "alg": "HS256", "kid": id }), &claims());
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let token = format!("{message}.{}", base64(ring::hmac::sign(&key, message.as_bytes()).as_ref()));
        let problem = refused(&issuer, &token).await;
        assert!(matches!(problem, NoLogin::Algorithm(_) | NoLogin::Key(_)), "{id}: {problem:?}");
    }
    // Another algorithm than the key's, a key that is brought along, and what would have to be understood.
    let other = signer.token_with(&json!({ "alg": "ES256", "kid": "one" }), &claims());
    assert_eq!(refused(&issuer, &other).await, NoLogin::Algorithm("ES256".to_owned()));
    let own_key = stranger.token_with(&json!({ "alg": "EdDSA", "kid": "one", "jwk": stranger.jwk() }), &claims());
    assert_eq!(refused(&issuer, &own_key).await, NoLogin::Signature);
    let critical =
        signer.token_with(&json!({ "alg": "EdDSA", "kid": "one", "crit": ["b64"], "b64": false }), &claims());
    assert_eq!(refused(&issuer, &critical).await, NoLogin::Malformed);
    // A key that is not there, and none that is named.
    let unknown = signer.token_with(&json!({ "alg": "EdDSA", "kid": "two" }), &claims());
    assert!(matches!(refused(&issuer, &unknown).await, NoLogin::Key(_)));
    let unnamed = signer.token_with(&json!({ "alg": "EdDSA" }), &claims());
    assert!(login(&[issuer], unnamed.as_bytes()).await.is_ok(), "there is one");
}

#[tokio::test]
async fn which_of_two_keys_it_is_has_to_be_said() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let issuer = issuer(&[one.jwk(), two.jwk()]);
    assert!(login(&[Arc::clone(&issuer)], two.token(&claims()).as_bytes()).await.is_ok());
    let unnamed = two.token_with(&json!({ "alg": "EdDSA" }), &claims());
    assert!(matches!(refused(&issuer, &unnamed).await, NoLogin::Key(_)));
}

/// Signed with openssl, by a key that was thrown away.
#[tokio::test]
async fn rsa_is_verified_too() {
    let claims = "eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJhdWQiOiJhc3NlbnQiLCJleHAiOjQxMDI0NDQ4MDAsInN1YiI6ImFkYSIsImdyb3VwcyI6WyJhZG1pbnMiXX0";
    let jwk = json!({ "kty": "RSA", "kid": "rsa", "e": "AQAB", "n": "sYyN_5UnW6xlk5QSWZH0sSlHUhgKH09QXnwLjB9_wO8Mcll6Hxrz2wCcbbjcERvrXtitax6KV-KTMuJOPithfHlqX-ZWkVxG-padrlWtj4_pgcjSwkc0v3AH_bllflSgh1mupdX1z2rx-OO7p_sSPgJb2DbH8UUsP_i7Ccw9itEIyOOoO8lXCZLDRo6bM15HbVvF9A4dFu7AcpdalRLDlM6pkAju6O3Fb6gQw0G84Dm4nUBVAHBbQ_7GDWPGAdsGpfT7l_4aw_AR2sUC0Ll_GMdtimGyzKXWv2GoBZ0MsD_ZQzMRrZG6mQuUvvfjJj6Ca7MwTPtL_uZfBNYfGR7TYw" });
    let issuer_of = |algorithm: &str| {
        let mut jwk = jwk.clone();
        jwk["alg"] = json!(algorithm);
        issuer(&[jwk])
    };
    let rs256 = format!(
        "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.{claims}.{}",
        "KgE6h7ht5SPMn8Z5wrMvTdCSN0afxtWZtAoVJCqBKjuF32pByoJQRoteWKgHucrU9CfpcFzm_f2yEncXoZjEcL8nJEvo-Y48stuA4prsZ_WgPh0K4fR_qpFebFAD02-kTPIYDxTJRYpnhkLbmNDvME15ZiarI5BTe2dGQQbtqT2HeEJe3IW-GFagh-YM4JzHvtVN28pfFtTu1pdYIqXZhFsZ7RWjn3HDjIfw_o93uoUYlRloq1sQvf1V6duOTz1O35n0zMWamvabkcYfWhGTZ963TpeAvL41dUE3A6Fppr062DRrC8176htXTd04H3tVwew8jZsLEReu2H0xC4lqtQ"
    );
    let ps256 = format!(
        "eyJhbGciOiJQUzI1NiIsImtpZCI6InJzYSJ9.{claims}.{}",
        "E6TPiFWd0Fn7chAJorkAzWnza4HtOkRZoIEbvHn4_pPhB5ZjQysbNQWpU_smPzyy7pHhFaR0Yc0Rzyna8RglwZZso2stDh-Oj15pmfr_luXr_58672UOTNAbFq2n0nrTr3OG8m_yYB8jQHmMEgCKLyaBo-PT9hZWS2LFjtjopNrpeffoLT9Asl774YEE3yeVmwZJ5WVEB2ZiwIbl0zy2-5x0UapmDJ8her8vMu-xpw05DKEM-XmaMPbmJz8vWnASc_Z2ZZDt1hhKZozi8GAC-z1QegzF9ZAVdolhoSBTM6WSbqTiPxmpakwMyJFfxpCf9QbXwU2rzsFyF38lSjXSXw"
    );
    for (token, algorithm) in [(&rs256, "RS256"), (&ps256, "PS256")] {
        for fit in [issuer(std::slice::from_ref(&jwk)), issuer_of(algorithm)] {
            assert!(login(&[fit], token.as_bytes()).await.is_ok(), "{algorithm}");
        }
        assert_eq!(refused(&issuer_of("RS512"), token).await, NoLogin::Algorithm(algorithm.to_owned()));
    }
    // The signature of the one is not that of the other.
    let mixed =
        format!("eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.{claims}.{}", ps256.rsplit('.').next().expect("a signature"));
    assert_eq!(refused(&issuer(&[jwk]), &mixed).await, NoLogin::Signature);
}

#[test]
fn a_set_of_keys_is_read_or_refused() {
    let usable = |keys: Value| keys::of_document(json!({ "keys": keys }).to_string().as_bytes()).map(|keys| keys.len());
    let signer = Signer::new("one");
    let for_encryption = json!({ "kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB" });
    assert_eq!(usable(json!([signer.jwk(), for_encryption, { "kty": "new", "kid": "x" }])).ok(), Some(1));
    for none in [json!([]), json!([for_encryption]), json!([{ "kty": "oct", "k": "AQAB" }])] {
        assert!(usable(none.clone()).is_err(), "{none}");
    }
    for text in [&b""[..], b"[]", b"{}", b"{\"keys\": 1}", b"\xff"] {
        assert!(keys::of_document(text).is_err(), "{text:?}");
    }
}
