//! People who log in at an issuer: a real one, which signs with keys that it makes here, against the program itself.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use assent_proto::error::Reason;
use assent_proto::v1::{BeginRequest, WatchRequest, WhoAmIRequest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::access::{admin, transactions};
use crate::harness::{Home, refused, until};
use crate::process::{Served, ended_beside};

/// A key of an issuer (ES256).
struct Key {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(id: &'static str) -> Arc<Self> {
        let (scheme, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(scheme, &random).expect("random");
        Arc::new(Self { id, pair: EcdsaKeyPair::from_pkcs8(scheme, pkcs8.as_ref(), &random).expect("its own") })
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id, "x": base64(x), "y": base64(y) })
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.id });
        let message = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("signed");
        format!("{message}.{}", base64(signature.as_ref()))
    }
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer at a port of this machine.
struct Issuer {
    url: String,
    /// The keys that it shows; it does not answer while there are none.
    shown: Arc<Mutex<Vec<Arc<Key>>>>,
    /// How often it was asked for them.
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(keys: &[&Arc<Key>]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let shown = Arc::new(Mutex::new(keys.iter().map(|key| Arc::clone(key)).collect::<Vec<_>>()));
        let asked = Arc::new(AtomicUsize::new(0));
        let issuer = Self { url: url.clone(), shown: Arc::clone(&shown), asked: Arc::clone(&asked) };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4_096];
                let read = stream.read(&mut request).await.expect("a request");
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let keys: Vec<Value> = shown.lock().expect("no panic").iter().map(|key| key.jwk()).collect();
                let (status, body) = match request.split(' ').nth(1) {
                    _ if keys.is_empty() => ("503 Service Unavailable", json!({})),
                    Some("/.well-known/openid-configuration") => {
                        ("200 OK", json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }))
                    }
                    Some("/keys") => {
                        asked.fetch_add(1, Relaxed);
                        ("200 OK", json!({ "keys": keys }))
                    }
                    _ => ("404 Not Found", json!({})),
                };
                let body = body.to_string();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        issuer
    }

    /// What it says of somebody in these groups.
    fn claims(&self, name: &str, groups: &[&str]) -> Value {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        json!({ "iss": self.url, "aud": "assent", "exp": now_s + 600, "sub": "1", "email": name, "groups": groups })
    }

    /// Its entry in the tokens file.
    fn entry(&self) -> String {
        format!(
            "[[issuer]]\nissuer = \"{}\"\naudience = \"assent\"\nname_claim = \"email\"\n\
             roles = {{ operators = \"operator\", viewers = \"observer\" }}\n",
            self.url
        )
    }
}

/// A coordinator with this tokens file.
fn serving(home: &Home, tokens: &str) -> Served {
    let path = home.path().join("tokens.toml");
    std::fs::write(&path, tokens).expect("written");
    Served::start(home, &["--tokens-file", path.to_str().expect("text")], Stdio::null())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_opens_what_its_groups_open() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let home = Home::new();
    let served = serving(&home, &issuer.entry());
    let endpoint = served.endpoint();
    let asked = async |token: &str, command: &[&str]| {
        let file = home.path().join("login.jwt");
        std::fs::write(&file, token).expect("written");
        let file = file.to_str().expect("text").to_owned();
        ended_beside(&[command, &["--endpoint", &endpoint, "--token-file", &file]].concat()).await
    };
    let viewer = key.sign(&issuer.claims("ada@bank.example", &["viewers"]));
    let (code, stdout, stderr) = asked(&viewer, &["whoami", "-o", "json"]).await;
    assert_eq!(code, 0, "{stderr}");
    let answer: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(answer["identities"], json!(["observer/ada@bank.example"]));
    assert_eq!((&answer["rights"], &answer["proof"]), (&json!(["inspect"]), &json!("login")));
    assert_eq!(asked(&viewer, &["tx", "list"]).await.0, 0);
    // Nobody's groups, another service's token, and one that has expired.
    let mut other = issuer.claims("ada@bank.example", &["viewers"]);
    other["aud"] = json!("wiki");
    let mut late = issuer.claims("ada@bank.example", &["viewers"]);
    late["exp"] = json!(1_000_000_000);
    for (claims, parts) in [
        (issuer.claims("bob@bank.example", &["guests"]), ["bob@bank.example", "under roles of its [[issuer]]"]),
        (other, ["audience \"assent\"", "ask the issuer"]),
        (late, ["has expired", "log in again"]),
    ] {
        let (code, _, stderr) = asked(&key.sign(&claims), &["tx", "list"]).await;
        assert_eq!(code, 1, "{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
    }
    // A person is no service: it neither begins nor votes.
    let operator = key.sign(&issuer.claims("eve@bank.example", &["operators"]));
    let begun = transactions(&endpoint, &operator).await.begin(BeginRequest::default()).await;
    refused(begun, Reason::PermissionDenied, &["operator/eve@bank.example", "initiate"]);
    let joined = assent_sdk::Assent::dial(&endpoint).token(&operator).connect().await.expect_err("no service");
    assert!(matches!(joined, assent_sdk::ConnectError::Refused { .. }), "{joined:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_an_issuer_are_replaced_without_a_restart() {
    let (old, new, made_up) = (Key::new("old"), Key::new("new"), Key::new("made-up"));
    let issuer = Issuer::start(&[&old]).await;
    let home = Home::new();
    let served = serving(&home, &issuer.entry());
    let endpoint = served.endpoint();
    let claims = issuer.claims("ada@bank.example", &["viewers"]);
    let shows = async |key: &Key| {
        let answer = admin(&endpoint, &key.sign(&claims)).await.who_am_i(WhoAmIRequest {}).await;
        answer.map(drop).map_err(|status| status.message().to_owned())
    };
    shows(&old).await.expect("the first key");
    // A stranger who makes keys up makes the coordinator ask once, and no more.
    for _ in 0..4 {
        let problem = shows(&made_up).await.expect_err("not the issuer's");
        assert!(problem.contains("a key that its issuer does not show"), "{problem}");
    }
    let asked = issuer.asked.load(Relaxed);
    assert!(asked <= 2, "asked {asked} times");
    issuer.shown.lock().expect("no panic").push(Arc::clone(&new));
    until("the new key is known", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        shows(&new).await.is_ok()
    })
    .await;
    shows(&old).await.expect("the issuer shows it still");
    assert_eq!(issuer.asked.load(Relaxed), asked + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_does_not_answer_denies_and_comes_back() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[]).await;
    let home = Home::new();
    let served = serving(&home, &issuer.entry());
    let token = key.sign(&issuer.claims("ada@bank.example", &["operators"]));
    let asked = async || admin(&served.endpoint(), &token).await.who_am_i(WhoAmIRequest {}).await;
    refused(asked().await, Reason::Unauthenticated, &["cannot be had at present", "try again"]);
    issuer.shown.lock().expect("no panic").push(Arc::clone(&key));
    until("its keys are there", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        asked().await.is_ok()
    })
    .await;
    // An issuer that is taken out of the file is not believed any more.
    std::fs::write(home.path().join("tokens.toml"), "").expect("written");
    until("it is not believed", async || asked().await.is_err()).await;
    refused(asked().await, Reason::Unauthenticated, &["not known here"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_is_shown_nothing_once_the_login_has_expired() {
    let key = Key::new("one");
    let issuer = Issuer::start(&[&key]).await;
    let initiator = assent::access::mint(&["initiator/bank".parse().expect("an identity")]).expect("random");
    let home = Home::new();
    let served = serving(&home, &format!("{}{}", initiator.entry, issuer.entry()));
    let begun = transactions(&served.endpoint(), initiator.token.expose())
        .await
        .begin(BeginRequest::default())
        .await
        .expect("begun");
    let mut claims = issuer.claims("ada@bank.example", &["viewers"]);
    // Clocks may differ by half a minute, so that is left of it.
    claims["exp"] = json!(claims["exp"].as_u64().expect("a number") - 600 - 22);
    let watch = WatchRequest { gtid: begun.into_inner().gtid };
    let mut client = transactions(&served.endpoint(), &key.sign(&claims)).await;
    let mut seen = client.watch(watch).await.expect("it watches").into_inner();
    seen.message().await.expect("a picture").expect("a picture");
    let over = tokio::time::timeout(crate::harness::PATIENCE, seen.message()).await.expect("it ends");
    refused(over, Reason::Unauthenticated, &["observer/ada@bank.example", "log in again"]);
}
