//! Digests of request bodies: the same key with another body is refused (I11), also after a restart and an upgrade.
//!
//! XXH3-64 over an unambiguous encoding; the function and the encoding are fixed forever, because digests are kept in the log. They
//! guard against mistakes, not against an initiator that forges a collision with its own transaction.

use xxhash_rust::xxh3::Xxh3;

use crate::ids::BodyDigest;
use crate::record::Protocol;
use crate::saga::Definition;
use crate::two_phase::CarriedBranch;

/// Of a commit request.
pub fn of_commit(protocol: Protocol, branches: &[CarriedBranch]) -> BodyDigest {
    let mut hasher = Xxh3::new();
    if protocol == Protocol::ThreePhase {
        // No name is as long as that, so no list of branches begins like this.
        hasher.update(&u64::MAX.to_le_bytes());
    }
    for branch in branches {
        field(&mut hasher, branch.participant.as_str().as_bytes());
        field(&mut hasher, &branch.payload);
    }
    finish(&hasher)
}

/// Of a saga's start.
pub fn of_definition(definition: &Definition) -> BodyDigest {
    let mut hasher = Xxh3::new();
    for step in definition.steps() {
        field(&mut hasher, step.name.as_str().as_bytes());
        field(&mut hasher, step.participant.as_str().as_bytes());
        field(&mut hasher, &step.input);
        hasher.update(&(step.after.len() as u64).to_le_bytes());
        for after in &step.after {
            hasher.update(&after.0.to_le_bytes());
        }
        for policy in [&step.retry, &step.compensation_retry] {
            hasher.update(&policy.initial_interval_ms.to_le_bytes());
            hasher.update(&policy.maximum_interval_ms.to_le_bytes());
            hasher.update(&policy.multiplier_percent.to_le_bytes());
            hasher.update(&policy.attempts_max.to_le_bytes());
            hasher.update(&policy.attempt_timeout_ms.to_le_bytes());
            hasher.update(&(policy.non_retryable.len() as u64).to_le_bytes());
            for reason in &policy.non_retryable {
                field(&mut hasher, reason.as_bytes());
            }
        }
        hasher.update(&[u8::from(step.pivot), u8::from(step.durable)]);
    }
    finish(&hasher)
}

/// The length first, so that no two lists of fields look alike.
fn field(hasher: &mut Xxh3, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// Zero stands for "no body" in the log.
fn finish(hasher: &Xxh3) -> BodyDigest {
    BodyDigest(hasher.digest().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Protocol = Protocol::TwoPhase;

    fn branch(name: &str, payload: &'static [u8]) -> CarriedBranch {
        CarriedBranch { participant: name.parse().expect("valid"), payload: payload.into() }
    }

    #[test]
    fn where_a_field_ends_counts() {
        assert_ne!(of_commit(TWO, &[branch("a", b"bc")]), of_commit(TWO, &[branch("ab", b"c")]));
        assert_ne!(
            of_commit(TWO, &[branch("a", b""), branch("b", b"")]),
            of_commit(TWO, &[branch("b", b""), branch("a", b"")])
        );
    }

    #[test]
    fn the_protocol_counts() {
        for branches in [&[][..], &[branch("a", b"b")]] {
            assert_ne!(of_commit(TWO, branches), of_commit(Protocol::ThreePhase, branches));
        }
    }

    #[test]
    fn a_digest_is_the_same_in_every_version() {
        assert_eq!(
            of_commit(TWO, &[branch("bank-a", b"-5"), branch("bank-b", b"+5")]),
            BodyDigest(3_313_729_955_520_237_854)
        );
    }
}
