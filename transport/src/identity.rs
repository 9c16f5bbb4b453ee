//! Names and roles, and the URIs that carry them in certificates.
//!
//! A certificate names its holder in URIs of its subject alternative name: `assent://ROLE/NAME`, one for each role. A URI of another
//! scheme, such as a SPIFFE id, means something only where the configuration maps it.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;

/// The scheme of the URIs that certificates carry.
const SCHEME: &str = "assent://";
/// The longest name of a service, as names of participants are bounded.
const NAME_BYTES_MAX: usize = 63;
/// The longest name of a person: an address of electronic mail fits.
const PERSON_BYTES_MAX: usize = 254;

/// What a peer is to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves branches and saga steps under its name.
    Participant,
    /// Begins transactions, and ends those that it began.
    Initiator,
    /// Another replica of the same coordinator.
    Replica,
    /// Looks, and changes nothing.
    Observer,
    /// Looks, and ends transactions of others.
    Operator,
    /// An operator who may also change who may do what.
    Administrator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::Participant, Self::Initiator, Self::Replica, Self::Observer, Self::Operator, Self::Administrator];

    /// The role as it stands in URIs, in files and on screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Participant => "participant",
            Self::Initiator => "initiator",
            Self::Replica => "replica",
            Self::Observer => "observer",
            Self::Operator => "operator",
            Self::Administrator => "administrator",
        }
    }

    /// Whether a person has it, rather than a service.
    pub const fn is_person(self) -> bool {
        match self {
            Self::Observer | Self::Operator | Self::Administrator => true,
            Self::Participant | Self::Initiator | Self::Replica => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| InvalidIdentity::Role(shortened(text)))
    }
}

/// A name in a role: `participant/bank-a`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// What it is.
    pub role: Role,
    name: String,
}

/// A text that is not an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// There is no such role.
    #[error("{0:?} is not a role; write participant, initiator, replica, observer, operator or administrator")]
    Role(String),
    /// The name is not one.
    #[error("{0:?} is not a name: write 1 to 63 of a-z 0-9 - _ .")]
    Name(String),
    /// The name is not a person's.
    #[error("{0:?} is not a person's name: write 1 to 254 of a-z A-Z 0-9 - _ . @ + |")]
    Person(String),
    /// It has another form.
    #[error("{0:?} is not an identity; write ROLE/NAME, such as participant/bank-a")]
    Form(String),
}

impl Identity {
    /// A name in a role.
    ///
    /// # Errors
    /// [`InvalidIdentity::Name`], unless it is 1 to 63 of `a-z 0-9 - _ .`, as names of participants are;
    /// [`InvalidIdentity::Person`] for a role that a person has, whose name is as an issuer of logins writes it: `a-z A-Z 0-9 - _ . @ + |`.
    pub fn new(role: Role, name: &str) -> Result<Self, InvalidIdentity> {
        let is_of_service = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        let is_of_person = |byte| is_of_service(byte) || matches!(byte, b'A'..=b'Z' | b'@' | b'+' | b'|');
        let (bytes_max, is_fit) = if role.is_person() {
            (PERSON_BYTES_MAX, name.bytes().all(is_of_person))
        } else {
            (NAME_BYTES_MAX, name.bytes().all(is_of_service))
        };
        if is_fit && (1..=bytes_max).contains(&name.len()) {
            return Ok(Self { role, name: name.to_owned() });
        }
        let name = shortened(name);
        Err(if role.is_person() { InvalidIdentity::Person(name) } else { InvalidIdentity::Name(name) })
    }

    /// The name alone.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URI for a certificate.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{self}")
    }

    /// From the URI of a certificate; `None` if it has another scheme or form, and so names nobody.
    pub fn of_uri(uri: &str) -> Option<Self> {
        uri.strip_prefix(SCHEME)?.parse().ok()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (role, name) = text.split_once('/').ok_or_else(|| InvalidIdentity::Form(shortened(text)))?;
        Self::new(role.parse()?, name)
    }
}

/// The URIs in the subject alternative name of a certificate, in its order.
///
/// Nothing is proved by them: the certificate has to be verified first.
pub fn uris_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    match webpki::EndEntityCert::try_from(certificate) {
        Ok(certificate) => certificate.valid_uri_names().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}

/// A foreign text, cut.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_its_uri() {
        for role in Role::ALL {
            let identity = Identity::new(role, "bank-a.eu_1").expect("a name");
            assert_eq!(Identity::of_uri(&identity.uri()), Some(identity.clone()));
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
        for uri in [
            "",
            "assent://",
            "assent://participant",
            "assent://participant/",
            "assent://participant/Bank",
            "assent://participant/a/b",
            "assent://participant/a?b",
            "assent://root/a",
            "ASSENT://participant/a",
            "https://participant/a",
            "spiffe://prod/participant/a",
        ] {
            assert_eq!(Identity::of_uri(uri), None, "{uri}");
        }
    }

    #[test]
    fn a_person_has_the_name_that_its_issuer_gives() {
        for name in ["Ada@Bank.example", "auth0|5f7c8ec7c33c6c004bbafe82", "ada+test"] {
            assert!(Identity::new(Role::Operator, name).is_ok(), "{name}");
            assert_eq!(Identity::new(Role::Initiator, name), Err(InvalidIdentity::Name(name.to_owned())));
        }
        let long = "a".repeat(255);
        for name in ["", "a/b", "a b", "a\u{202e}b", "\n", long.as_str()] {
            assert!(matches!(Identity::new(Role::Operator, name), Err(InvalidIdentity::Person(_))), "{name:?}");
        }
        assert!(Identity::new(Role::Operator, &long[1..]).is_ok());
    }
}
