//! A private authority of a test's own, made by the program, and a coordinator that it names callers for.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use assent_transport::Dialer;

use crate::harness::Home;
use crate::process::{Served, ended, ended_beside};

/// A coordinator over TLS in a process of its own. The certificates of its authority name its callers.
pub(crate) struct Secured {
    pub(crate) served: Served,
    pub(crate) authority: Authority,
    pub(crate) home: Home,
}

impl Secured {
    pub(crate) fn start() -> Self {
        Self::in_home(Home::new(), &[])
    }

    /// The same with further arguments, which may name files in the home.
    pub(crate) fn in_home(home: Home, arguments: &[&str]) -> Self {
        let authority = Authority::new(home.path().join("certs"));
        let server = authority.server();
        let all: Vec<&str> = server.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        let served = Served::start(&home, &all, Stdio::null());
        assert!(served.endpoint().starts_with("https://127.0.0.1:"), "{}", served.endpoint());
        Self { served, authority, home }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.served.endpoint()
    }

    /// Where it listens, as sockets have it.
    pub(crate) fn address(&self) -> String {
        self.endpoint().trim_start_matches("https://").to_owned()
    }

    /// Runs a command of the program against it, which trusts its authority and shows nothing.
    pub(crate) async fn run(&self, command: &[&str]) -> (i32, String, String) {
        let (endpoint, ca) = (self.endpoint(), self.authority.file("ca.pem"));
        ended_beside(&[command, &["--endpoint", &endpoint, "--ca", &ca]].concat()).await
    }

    /// The same with the certificate of a file.
    pub(crate) async fn run_as(&self, file: &str, command: &[&str]) -> (i32, String, String) {
        let (cert, key) = self.authority.pair(file);
        self.run(&[command, &["--cert", &cert, "--key", &key]].concat()).await
    }
}

/// A directory with an authority.
pub(crate) struct Authority {
    directory: PathBuf,
}

impl Authority {
    pub(crate) fn new(directory: PathBuf) -> Self {
        let (code, _, stderr) = ended(&["certs", "init", "--dir", text(&directory)]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("for a first cluster and for tests"), "{stderr}");
        Self { directory }
    }

    /// Issues a certificate; `arguments` are identities and hosts.
    pub(crate) fn issue(&self, file: &str, arguments: &[&str]) {
        let fixed = ["certs", "issue", "--dir", text(&self.directory), "--file", file];
        let (code, _, stderr) = ended(&[&fixed[..], arguments].concat());
        assert_eq!(code, 0, "{stderr}");
    }

    /// The server's own, as it is given to `assent serve`.
    pub(crate) fn server(&self) -> Vec<String> {
        self.issue("server", &["replica/assent", "--ip", "127.0.0.1", "--dns", "localhost"]);
        let given = [("--tls-cert", "server.pem"), ("--tls-key", "server-key.pem"), ("--client-ca", "ca.pem")];
        given.into_iter().flat_map(|(flag, file)| [flag.to_owned(), self.file(file)]).collect()
    }

    /// A certificate that was issued, and its key.
    pub(crate) fn pair(&self, file: &str) -> (String, String) {
        (self.file(&format!("{file}.pem")), self.file(&format!("{file}-key.pem")))
    }

    pub(crate) fn file(&self, name: &str) -> String {
        text(&self.directory.join(name)).to_owned()
    }

    /// Trusts this authority, and shows nothing.
    pub(crate) fn trusting(&self) -> Dialer {
        Dialer::new().ca(self.file("ca.pem"))
    }

    /// Trusts it, and shows a certificate that it issues now.
    pub(crate) fn dialer(&self, file: &str, identities: &[&str]) -> Dialer {
        self.issue(file, identities);
        let (cert, key) = self.pair(file);
        self.trusting().cert(cert).key(key)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}
