//! What a replica holds in memory and what the log has, as one list: open transactions first, then ended ones, each from the
//! newest.
//!
//! Memory comes first wherever both know a transaction: it is ahead of the log. The pages of a list are read one after the other while
//! everything goes on, so a transaction that ends meanwhile may be seen twice, once open and once ended; none that stays
//! as it is is left out.

use std::cmp::Reverse;
use std::collections::HashSet;

use assent_proto::session::Refused;
use assent_proto::v1;
use assent_protocol::{Gtid, ParticipantName, Protocol};
use prost::Message;

use super::shown::{from_listing, from_memory, state_word};
use super::{Shared, check, log_refusal};
use crate::driver::{Browse, now_ms};
use crate::log::{Filter, Kind, PageToken, State};

/// Transactions on a page that does not say how many it wants.
const PAGE_DEFAULT: usize = 50;
/// The most on a page.
const PAGE_MAX: usize = 1_000;
/// The most bytes of the open ones, and of the ended ones, on a page: both together fit into what clients take by default.
const PAGE_BYTES_MAX: usize = 2_000_000;

/// What is asked for.
pub(super) struct Wanted {
    state: Option<String>,
    participant: Option<ParticipantName>,
    protocol: Option<Protocol>,
    begun_before_ms: Option<u64>,
    limit: usize,
    from: Position,
}

/// Where a page starts: with the open ones or with the ended ones, behind a gtid if not at their beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    is_ended: bool,
    before: Option<Gtid>,
}

impl Position {
    const START: Self = Self { is_ended: false, before: None };

    fn to_token(self) -> String {
        let kind = if self.is_ended { "ended" } else { "open" };
        match self.before {
            None => kind.to_owned(),
            Some(before) => format!("{kind}-{}", before.as_uuid().simple()),
        }
    }

    fn from_token(token: &str) -> Option<Self> {
        let (kind, before) = match token.split_once('-') {
            None => (token, None),
            Some((kind, before)) => (kind, Some(before.parse().ok()?)),
        };
        match kind {
            "" if before.is_none() => Some(Self::START),
            "open" => Some(Self { is_ended: false, before }),
            "ended" => Some(Self { is_ended: true, before }),
            _ => None,
        }
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz {
    /// Reads a page token that says anything.
    pub(crate) fn position(token: &str) {
        if let Some(position) = super::Position::from_token(token) {
            assert_eq!(super::Position::from_token(&position.to_token()), Some(position));
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
                Some(now_ms().saturating_sub(age_ms))
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
        let from = Position::from_token(&request.page_token).ok_or_else(|| {
            let shown = check::quoted(&request.page_token);
            check::malformed(format!(
                "{shown} is no page token: pass the one that came with the previous page, or none for the first"
            ))
        })?;
        Ok(Self { state: state_word(state), participant, protocol, begun_before_ms, limit, from })
    }
}

impl Wanted {
    /// The question to memory.
    fn of_memory(&self, from: Position, limit: usize) -> Browse {
        Browse {
            is_ended: from.is_ended,
            before: from.before,
            state: self.state.clone(),
            participant: self.participant.clone(),
            protocol: self.protocol,
            begun_before_ms: self.begun_before_ms,
            limit,
        }
    }

    /// The question to the log; `None` if it has nothing to say about these states.
    fn of_log(&self, is_ended: bool) -> Option<Filter> {
        let states: Vec<State> = State::ALL
            .into_iter()
            .filter(|state| state.is_final() == is_ended)
            .filter(|state| self.state.as_deref().is_none_or(|wanted| wanted == state.as_str()))
            .collect();
        let kind = self.protocol.map(|protocol| match protocol {
            Protocol::TwoPhase | Protocol::ThreePhase => Kind::Commit,
            Protocol::Saga => Kind::Saga,
        });
        let (participant, begun_before_ms) = (self.participant.clone(), self.begun_before_ms);
        (!states.is_empty()).then_some(Filter { states, participant, begun_before_ms, kind })
    }
}

/// One page.
pub(super) async fn list(shared: &Shared, wanted: &Wanted) -> Result<v1::ListTransactionsResponse, Refused> {
    let mut from = wanted.from;
    let mut transactions = Vec::new();
    loop {
        let room = wanted.limit - transactions.len();
        let (found, has_more) = part(shared, wanted, from, room).await?;
        let last = found.last().map(|(gtid, _)| *gtid);
        transactions.extend(found.into_iter().map(|(_, transaction)| transaction));
        if has_more {
            let next = Position { before: last.or(from.before), ..from };
            return Ok(v1::ListTransactionsResponse { transactions, next_page_token: next.to_token() });
        }
        if from.is_ended {
            return Ok(v1::ListTransactionsResponse { transactions, next_page_token: String::new() });
        }
        // The open ones are through: what room is left is for ended ones. Without any, this asks only whether there are some.
        from = Position { is_ended: true, before: None };
    }
}

/// So many of the open ones, or of the ended ones, from memory and from the log. Answers also whether there are more.
async fn part(
    shared: &Shared,
    wanted: &Wanted,
    from: Position,
    room: usize,
) -> Result<(Vec<(Gtid, v1::Transaction)>, bool), Refused> {
    // One more than fits tells whether there is another page.
    let enough = room + 1;
    let views = shared.driver.browse(&wanted.of_memory(from, enough)).await;
    let mut found: Vec<(Gtid, v1::Transaction)> =
        views.into_iter().map(|view| (view.gtid, from_memory(view, shared.owner()))).collect();
    if let Some(filter) = wanted.of_log(from.is_ended) {
        let in_memory: HashSet<Gtid> = found.iter().map(|(gtid, _)| *gtid).collect();
        let mut page = from.before.map(PageToken::before);
        let mut only_in_log = 0;
        while only_in_log < enough {
            let listed = shared.log.list(&filter, page.as_ref(), enough).await.map_err(|error| log_refusal(&error))?;
            for transaction in listed.transactions {
                // The log tells sagas from the others, and no more.
                let has_protocol = wanted.protocol.is_none_or(|protocol| protocol == transaction.protocol);
                let gtid = transaction.gtid;
                // One that memory has otherwise than the log is not as the log says.
                if has_protocol && !in_memory.contains(&gtid) && shared.driver.view(gtid).await.is_none() {
                    only_in_log += 1;
                    found.push((gtid, from_listing(transaction, shared.owner())));
                }
            }
            page = listed.next;
            if page.is_none() {
                break;
            }
        }
    }
    found.sort_by_key(|(gtid, _)| Reverse(*gtid));
    let mut bytes = 0;
    let fits = found.iter().take(room).take_while(|(_, transaction)| {
        let is_first = bytes == 0;
        bytes += transaction.encoded_len();
        is_first || bytes <= PAGE_BYTES_MAX
    });
    let fit = fits.count();
    let has_more = found.len() > fit;
    found.truncate(fit);
    Ok((found, has_more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_leads_back_to_its_place() {
        let gtid: Gtid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a gtid");
        for is_ended in [false, true] {
            for before in [None, Some(gtid)] {
                let position = Position { is_ended, before };
                assert_eq!(Position::from_token(&position.to_token()), Some(position));
            }
        }
        assert_eq!(Position::from_token(""), Some(Position::START));
        for wrong in ["x", "open-", "open-1", "ended-zzz", "-", "é"] {
            assert_eq!(Position::from_token(wrong), None, "{wrong}");
        }
    }
}
