//! Who plays: two banks and a travel agent, with what they own at the beginning.

use serde::{Deserialize, Serialize};

/// A service of the demo.
#[derive(Debug)]
pub(super) struct Spec {
    /// Its participant name.
    pub(super) name: &'static str,
    /// What it is, for people.
    pub(super) about: &'static str,
    /// Its accounts.
    pub(super) accounts: &'static [Opening],
}

/// An account at the beginning. Money and things are counted alike: in whole units, never below zero.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) balance: i64,
}

pub(super) const BANK_A: &str = "bank-a";
pub(super) const BANK_B: &str = "bank-b";
pub(super) const TRAVEL: &str = "travel";

/// Everybody.
pub(super) const SERVICES: [Spec; 3] = [
    Spec {
        name: BANK_A,
        about: "a bank, with the accounts of Anna and of the travel agency",
        accounts: &[
            Opening { name: "anna", unit: "EUR", balance: 1_000 },
            Opening { name: "agency", unit: "EUR", balance: 0 },
        ],
    },
    Spec {
        name: BANK_B,
        about: "another bank, with the account of Ben",
        accounts: &[Opening { name: "ben", unit: "EUR", balance: 200 }],
    },
    Spec {
        name: TRAVEL,
        about: "the travel agency's free seats, rooms and lounge passes",
        accounts: &[
            Opening { name: "seats", unit: "free", balance: 5 },
            Opening { name: "rooms", unit: "free", balance: 3 },
            Opening { name: "lounge-passes", unit: "free", balance: 0 },
        ],
    },
];

impl Spec {
    /// The service of a name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        SERVICES.iter().find(|service| service.name == name)
    }

    /// What a movement does, for people: `anna -250 EUR`.
    pub(super) fn describe(&self, movements: &[Movement]) -> String {
        let one = |movement: &Movement| {
            let account = self.accounts.iter().find(|account| account.name == movement.account);
            let unit = account.map_or("", |account| account.unit);
            format!("{} {:+} {unit}", movement.account, movement.amount)
        };
        let all: Vec<String> = movements.iter().map(one).collect();
        all.join(", ")
    }
}

/// What a branch or a step asks of a service: all of these movements, or none. It is the payload, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) movements: Vec<Movement>,
}

/// A change of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Movement {
    pub(super) account: String,
    /// In the account's unit.
    pub(super) amount: i64,
}

impl Order {
    /// An order of these movements.
    pub(super) fn of(movements: &[(&str, i64)]) -> Self {
        let movements =
            movements.iter().map(|(account, amount)| Movement { account: (*account).into(), amount: *amount });
        Self { movements: movements.collect() }
    }
}
