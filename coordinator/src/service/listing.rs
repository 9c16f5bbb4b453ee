//! What a replica holds in memory and what the log has, as one list: open transactions first, then ended ones, each from the
//! newest.
//!
//! Memory comes first wherever both know a transaction: it is ahead of the log. The pages of a list are read one after the other while
//! everything goes on, so a transaction that ends meanwhile may be seen twice, once open and once ended; none that stays
//! as it is is left out.

use std::collections::HashSet;
use std::str::FromStr;

use assent_proto::session::Refused;
use assent_proto::v1;
use assent_protocol::{Gtid, ParticipantName, Protocol};

use super::shown::{from_listing, from_memory, state_word};
use super::{Shared, check, log_refusal};
use crate::driver::TransactionView;
use crate::log::{Filter, Kind, PageToken, State, Transaction};

/// Transactions on a page that does not say how many it wants.
const PAGE_DEFAULT: usize = 50;
/// The most on a page.
const PAGE_MAX: usize = 1_000;

/// What is asked for.
pub(super) struct Wanted {
    state: Option<String>,
    participant: Option<ParticipantName>,
    protocol: Option<Protocol>,
    begun_before_ms: Option<u64>,
    limit: usize,
    from: Position,
}

/// Where a page starts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Position {
    /// With the open ones, behind this.
    Open(Option<Gtid>),
    /// With the ended ones, at this page of the log.
    Ended(Option<PageToken>),
}

impl Position {
    fn to_token(&self) -> String {
        match self {
            Self::Open(None) => String::new(),
            Self::Open(Some(before)) => format!("o{}", before.as_uuid().simple()),
            Self::Ended(None) => "e".to_owned(),
            Self::Ended(Some(page)) => format!("e{page}"),
        }
    }

    fn from_token(token: &str) -> Result<Self, Refused> {
        let wrong = || {
            let shown = check::quoted(token);
            check::malformed(format!(
                "{shown} is not a page token: pass the one that came with the previous page, or none for the first"
            ))
        };
        if token.is_empty() {
            return Ok(Self::Open(None));
        }
        match token.split_at_checked(1) {
            Some(("o", before)) => before.parse().map(|before| Self::Open(Some(before))).map_err(|_| wrong()),
            Some(("e", "")) => Ok(Self::Ended(None)),
            Some(("e", page)) => PageToken::from_str(page).map(|page| Self::Ended(Some(page))).map_err(|_| wrong()),
            Some(_) | None => Err(wrong()),
        }
    }
}

impl TryFrom<v1::ListTransactionsRequest> for Wanted {
    type Error = Refused;

    fn try_from(request: v1::ListTransactionsRequest) -> Result<Self, Refused> {
        let state = v1::TransactionState::try_from(request.state)
            .map_err(|_| check::malformed(format!("state is {}, which this version does not know", request.state)))?;
        let protocol = match v1::Protocol::try_from(request.protocol) {
            Ok(v1::Protocol::Unspecified) => None,
            Ok(protocol) => Some(Protocol::try_from(protocol)?),
            Err(_) => {
                let problem = format!("protocol is {}, which this version does not know", request.protocol);
                return Err(check::malformed(problem));
            }
        };
        let participant = match request.participant.as_str() {
            "" => None,
            name => Some(check::participant(name)?),
        };
        let begun_before_ms = match request.older_than {
            None => None,
            Some(age) => {
                let age = std::time::Duration::try_from(age)
                    .map_err(|_| check::malformed("older_than is negative or too long: give such as 60s"))?;
                let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                Some(check::now_ms().saturating_sub(age_ms))
            }
        };
        let limit = match usize::try_from(request.page_size).unwrap_or(usize::MAX) {
            0 => PAGE_DEFAULT,
            many if many > PAGE_MAX => {
                return Err(check::malformed(format!(
                    "page_size is {many}, and at most {PAGE_MAX}; ask for more pages"
                )));
            }
            few => few,
        };
        let from = Position::from_token(&request.page_token)?;
        Ok(Self { state: state_word(state), participant, protocol, begun_before_ms, limit, from })
    }
}

impl Wanted {
    /// Whether one in memory is wanted.
    fn takes(&self, view: &TransactionView) -> bool {
        self.state.as_deref().is_none_or(|state| state == view.state)
            && self.protocol.is_none_or(|protocol| protocol == view.protocol)
            && self.begun_before_ms.is_none_or(|before| view.begun_at_ms < before)
            && self
                .participant
                .as_ref()
                .is_none_or(|wanted| view.branches.iter().any(|branch| branch.participant == *wanted))
    }

    /// The same for the log, among the states that are final or are not; `None` if it cannot have any.
    fn of_log(&self, is_final: bool) -> Option<Filter> {
        let states: Vec<State> = State::ALL
            .into_iter()
            .filter(|state| state.is_final() == is_final)
            .filter(|state| self.state.as_deref().is_none_or(|wanted| wanted == state.as_str()))
            .collect();
        let kind = self.protocol.map(|protocol| match protocol {
            Protocol::TwoPhase | Protocol::ThreePhase => Kind::Commit,
            Protocol::Saga => Kind::Saga,
        });
        (!states.is_empty()).then(|| Filter {
            states,
            participant: self.participant.clone(),
            begun_before_ms: self.begun_before_ms,
            kind,
        })
    }

    /// The log tells sagas from the others, and no more.
    fn has_protocol(&self, transaction: &Transaction) -> bool {
        self.protocol.is_none_or(|protocol| protocol == transaction.protocol)
    }
}

/// One page.
pub(super) async fn list(shared: &Shared, wanted: &Wanted) -> Result<v1::ListTransactionsResponse, Refused> {
    let mut transactions = Vec::new();
    let next = match &wanted.from {
        Position::Open(before) => match open(shared, wanted, *before, &mut transactions).await? {
            Position::Open(before) => Some(Position::Open(before)),
            Position::Ended(_) if wanted.of_log(true).is_none() => None,
            Position::Ended(_) if transactions.len() == wanted.limit => Some(Position::Ended(None)),
            Position::Ended(_) => ended(shared, wanted, None, &mut transactions).await?,
        },
        Position::Ended(page) => ended(shared, wanted, page.as_ref(), &mut transactions).await?,
    };
    Ok(v1::ListTransactionsResponse {
        transactions,
        next_page_token: next.map_or_else(String::new, |next| next.to_token()),
    })
}

/// The open ones, those of memory and those that only the log has. Answers where the next page starts.
async fn open(
    shared: &Shared,
    wanted: &Wanted,
    before: Option<Gtid>,
    transactions: &mut Vec<v1::Transaction>,
) -> Result<Position, Refused> {
    let is_behind = |gtid: Gtid| before.is_none_or(|before| gtid < before);
    let views = shared.driver.views().await;
    let in_memory: HashSet<Gtid> = views.iter().map(|view| view.gtid).collect();
    // One more than fits tells whether there is another page.
    let enough = wanted.limit + 1;
    let mut found: Vec<(Gtid, v1::Transaction)> = views
        .into_iter()
        .filter(|view| is_behind(view.gtid) && wanted.takes(view))
        .take(enough)
        .map(|view| (view.gtid, from_memory(view, shared.owner())))
        .collect();
    if let Some(filter) = wanted.of_log(false) {
        let mut page = before.map(PageToken::before);
        let mut only_in_log = 0;
        loop {
            let listed = shared.log.list(&filter, page.as_ref(), enough).await.map_err(|error| log_refusal(&error))?;
            for transaction in listed.transactions {
                if !in_memory.contains(&transaction.gtid) && wanted.has_protocol(&transaction) {
                    only_in_log += 1;
                    found.push((transaction.gtid, from_listing(transaction, shared.owner())));
                }
            }
            page = listed.next;
            if page.is_none() || only_in_log >= enough {
                break;
            }
        }
    }
    found.sort_by_key(|(gtid, _)| std::cmp::Reverse(*gtid));
    let has_more = found.len() > wanted.limit;
    found.truncate(wanted.limit);
    let last = found.last().map(|(gtid, _)| *gtid);
    transactions.extend(found.into_iter().map(|(_, transaction)| transaction));
    Ok(if has_more { Position::Open(last) } else { Position::Ended(None) })
}

/// The ended ones. Answers where the next page starts, if there is one.
async fn ended(
    shared: &Shared,
    wanted: &Wanted,
    page: Option<&PageToken>,
    transactions: &mut Vec<v1::Transaction>,
) -> Result<Option<Position>, Refused> {
    let Some(filter) = wanted.of_log(true) else { return Ok(None) };
    let room = wanted.limit - transactions.len();
    let listed = shared.log.list(&filter, page, room).await.map_err(|error| log_refusal(&error))?;
    let listed_ones = listed.transactions.into_iter().filter(|transaction| wanted.has_protocol(transaction));
    transactions.extend(listed_ones.map(|transaction| from_listing(transaction, shared.owner())));
    Ok(listed.next.map(|next| Position::Ended(Some(next))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_leads_back_to_its_place() {
        let gtid: Gtid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a gtid");
        for position in [
            Position::Open(None),
            Position::Open(Some(gtid)),
            Position::Ended(None),
            Position::Ended(Some(PageToken::before(gtid))),
        ] {
            assert_eq!(Position::from_token(&position.to_token()).expect("a token"), position);
        }
        for wrong in ["x", "o", "o1", "ezzz", "é"] {
            assert!(Position::from_token(wrong).is_err(), "{wrong}");
        }
    }
}
