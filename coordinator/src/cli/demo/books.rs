//! All accounts of all services at one moment.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::ledger::Account;
use super::services::SERVICES;

/// All accounts, service by service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Books {
    pub(super) lines: Vec<Line>,
}

/// One account of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) service: &'static str,
    pub(super) account: Account,
}

/// A change of one account: the service, its account, the amount.
pub(super) type Change = (&'static str, &'static str, i64);

impl Books {
    /// As everything begins.
    pub(super) fn opening() -> Self {
        let of_service = |service: &'static super::services::Spec| {
            service.accounts.iter().map(|opening| Line {
                service: service.name,
                account: Account {
                    name: opening.name.to_owned(),
                    unit: opening.unit.to_owned(),
                    balance: opening.balance,
                    prepared: 0,
                },
            })
        };
        Self { lines: SERVICES.iter().flat_map(of_service).collect() }
    }

    /// As they are after these changes.
    pub(super) fn with(&self, changes: &[Change]) -> Self {
        let mut books = self.clone();
        for (service, account, amount) in changes {
            if let Some(found) = books.account_mut(service, account) {
                found.balance += amount;
            }
        }
        books
    }

    /// As they are when these changes are prepared, too.
    pub(super) fn with_prepared(&self, changes: &[Change]) -> Self {
        let mut books = self.clone();
        for (service, account, amount) in changes {
            if let Some(found) = books.account_mut(service, account) {
                found.prepared += amount;
            }
        }
        books
    }

    fn account_mut(&mut self, service: &str, account: &str) -> Option<&mut Account> {
        let line = self.lines.iter_mut().find(|line| line.service == service && line.account.name == account);
        line.map(|line| &mut line.account)
    }

    /// The account of the same name here.
    pub(super) fn same_account(&self, other: &Line) -> Option<&Account> {
        let is_same = |line: &&Line| line.service == other.service && line.account.name == other.account.name;
        self.lines.iter().find(is_same).map(|line| &line.account)
    }

    /// Where these books are not as expected, in words; empty if they are.
    pub(super) fn differences_from(&self, expected: &Self) -> Vec<String> {
        let wanted = expected.lines.iter().filter_map(|line| {
            let (service, account) = (line.service, &line.account);
            let name = &account.name;
            match self.same_account(line) {
                None => Some(format!("{service} has no account {name}")),
                Some(found) if found == account => None,
                Some(found) => Some(format!("{name} at {service} has {found} instead of {account}")),
            }
        });
        let unwanted = self.lines.iter().filter(|line| expected.same_account(line).is_none());
        let unwanted = unwanted.map(|line| format!("{} has an account {}", line.service, line.account.name));
        wanted.chain(unwanted).collect()
    }

    /// Whether anything is prepared.
    pub(super) fn are_in_doubt(&self) -> bool {
        self.lines.iter().any(|line| line.account.prepared != 0)
    }

    /// The numbers by service and account.
    fn numbers(&self, of: impl Fn(&Account) -> Option<i64>) -> BTreeMap<&str, BTreeMap<&str, i64>> {
        let mut numbers: BTreeMap<&str, BTreeMap<&str, i64>> = BTreeMap::new();
        for line in &self.lines {
            if let Some(number) = of(&line.account) {
                numbers.entry(line.service).or_default().insert(&line.account.name, number);
            }
        }
        numbers
    }

    /// What is prepared.
    pub(super) fn prepared(&self) -> BTreeMap<&str, BTreeMap<&str, i64>> {
        self.numbers(|account| (account.prepared != 0).then_some(account.prepared))
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.balance, self.unit)?;
        if self.prepared == 0 { Ok(()) } else { write!(f, " and {:+} in doubt", self.prepared) }
    }
}

impl Serialize for Books {
    /// The balances, by service and account.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.numbers(|account| Some(account.balance)).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::services::{BANK_A, BANK_B};

    #[test]
    fn wrong_balances_are_named() {
        let expected = Books::opening().with(&[(BANK_A, "anna", -250), (BANK_B, "ben", 250)]);
        assert_eq!(expected.differences_from(&expected), [""; 0]);

        let half = Books::opening().with(&[(BANK_A, "anna", -250)]);
        assert_eq!(half.differences_from(&expected), ["ben at bank-b has 200 EUR instead of 450 EUR"]);

        let in_doubt = half.with_prepared(&[(BANK_B, "ben", 250)]);
        let difference = "ben at bank-b has 200 EUR and +250 in doubt instead of 450 EUR";
        assert_eq!(in_doubt.differences_from(&expected), [difference]);

        let mut less = expected.clone();
        less.lines.pop();
        assert_eq!(less.differences_from(&expected), ["travel has no account lounge-passes"]);
        assert_eq!(expected.differences_from(&less), ["travel has an account lounge-passes"]);
    }

    #[test]
    fn balances_are_written_by_service_and_account() {
        let books = Books::opening().with_prepared(&[(BANK_B, "ben", 100)]);
        assert_eq!(
            serde_json::to_value(&books).expect("JSON"),
            serde_json::json!({
                "bank-a": {"anna": 1_000, "agency": 0},
                "bank-b": {"ben": 200},
                "travel": {"seats": 5, "rooms": 3, "lounge-passes": 0},
            })
        );
        assert_eq!(serde_json::to_value(books.prepared()).expect("JSON"), serde_json::json!({"bank-b": {"ben": 100}}));
    }
}
