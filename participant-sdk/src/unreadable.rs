//! Payloads that are not what their reader expects.
//!
//! The same bytes are as unreadable at the next attempt. So a hook that returns this error has
//! refused: a branch votes no, and a step is refused instead of tried again.

use std::error::Error;

use serde::de::DeserializeOwned;

use crate::error_chain::ErrorChain;

/// The payload of a branch, or the input or an output of a step, is not what it is read as.
///
/// Return it from a hook: the answer is then a refusal that names the field, and no failure. Read
/// before anything is reserved, since nothing is undone after a no.
#[derive(thiserror::Error)]
#[error("{part}: {}cannot be read", self.place())]
pub struct Unreadable {
    part: String,
    /// Where in it, such as `items[2].amount`; `.` for all of it.
    path: String,
    source: serde_json::Error,
}

crate::error_chain::debug_as_chain!(Unreadable);

impl Unreadable {
    /// What could not be read: `payload`, `input`, or `output of STEP`.
    pub fn part(&self) -> &str {
        &self.part
    }

    fn place(&self) -> String {
        if self.path == "." { String::new() } else { format!("`{}` ", self.path) }
    }
}

/// Reads JSON.
pub(crate) fn read_json<T: DeserializeOwned>(part: impl Into<String>, json: &[u8]) -> Result<T, Unreadable> {
    let unreadable = |path, source| Unreadable { part: part.into(), path, source };
    let mut reading = serde_json::Deserializer::from_slice(json);
    match serde_path_to_error::deserialize(&mut reading) {
        Ok(value) => match reading.end() {
            Ok(()) => Ok(value),
            Err(trailing) => Err(unreadable(".".to_owned(), trailing)),
        },
        Err(error) => Err(unreadable(error.path().to_string(), error.into_inner())),
    }
}

/// The refusal of a hook that failed because what it was given cannot be read, if it did.
pub(crate) fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(unreadable) = error.downcast_ref::<Unreadable>() {
            return Some(ErrorChain(unreadable).to_string());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::participant::BoxError;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Order {
        items: Vec<Item>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Item {
        amount: u32,
    }

    fn told(json: &str) -> String {
        let error: BoxError = read_json::<Order>("payload", json.as_bytes()).expect_err("unreadable").into();
        refusal(&*error).expect("a refusal")
    }

    #[test]
    fn the_field_is_named() {
        let readable = read_json::<Order>("payload", br#"{"items":[{"amount":1}]}"#).expect("readable");
        assert_eq!(readable, Order { items: vec![Item { amount: 1 }] });
        assert_eq!(
            told(r#"{"items":[{"amount":1},{"amount":"ten"}]}"#),
            "payload: `items[1].amount` cannot be read: invalid type: string \"ten\", expected u32 at line 1 column 38"
        );
        assert_eq!(
            told(r#"{"items":[{}]}"#),
            "payload: `items[0]` cannot be read: missing field `amount` at line 1 column 12"
        );
        assert_eq!(told(""), "payload: cannot be read: EOF while parsing a value at line 1 column 0");
        assert_eq!(told(r#"{"items":[]} x"#), "payload: cannot be read: trailing characters at line 1 column 14");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot reserve")]
    struct Context(#[source] Unreadable);

    #[test]
    fn it_is_found_beneath_other_errors() {
        let unreadable = read_json::<u32>("input", b"no").expect_err("unreadable");
        assert!(refusal(&Context(unreadable)).expect("a refusal").starts_with("input: cannot be read"));
        assert_eq!(refusal(&*BoxError::from("sold out")), None);
    }
}
