//! A private authority of a test's own, made by the program.

use std::path::{Path, PathBuf};

use assent_transport::Dialer;

use crate::process::ended;

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
        self.trusting().cert(self.file(&format!("{file}.pem"))).key(self.file(&format!("{file}-key.pem")))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}
