//! Times as Postgres keeps them.

use assent_protocol::Gtid;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};
use uuid::Uuid;

/// A `timestamptz`, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timestamp(pub(super) u64);

impl Timestamp {
    /// 2000-01-01, from which Postgres counts, in Unix milliseconds.
    const POSTGRES_EPOCH_MS: i64 = 946_684_800_000;
    /// Beyond this Postgres has no time, in Unix milliseconds; it lies in the year 287,000.
    const MAX_MS: u64 = 9_000_000_000_000_000;
}

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let unix_ms = i64::try_from(self.0.min(Self::MAX_MS))?;
        buffer.extend(&((unix_ms - Self::POSTGRES_EPOCH_MS) * 1_000).to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => {
                let microseconds = i64::from_be_bytes(value.as_bytes()?.try_into()?);
                Ok(Self(u64::try_from(microseconds.div_euclid(1_000) + Self::POSTGRES_EPOCH_MS).unwrap_or(0)))
            }
            PgValueFormat::Text => Err("a time is only read in binary form".into()),
        }
    }
}

/// The ids as parameters.
pub(super) fn uuids(gtids: impl IntoIterator<Item = Gtid>) -> Vec<Uuid> {
    gtids.into_iter().map(|gtid| gtid.as_uuid()).collect()
}
