//! `AdminService`: what operators ask.

use std::sync::Arc;

use assent_proto::error::IntoStatus;
use assent_proto::session::{FRAME_BYTES_MAX, Refused};
use assent_proto::v1;
use assent_proto::v1::admin_service_server::AdminService;
use assent_proto::v1::{
    GetStatisticsRequest, GetStatisticsResponse, GetTransactionRequest, GetTransactionResponse,
    ListParticipantsRequest, ListParticipantsResponse, ListTransactionsRequest, ListTransactionsResponse,
    WhoAmIRequest, WhoAmIResponse,
};
use assent_protocol::Gtid;
use assent_transport::PeerInfo;
use prost::Message;
use tonic::{Request, Response, Status};

use super::listing::{self, Wanted};
use super::shown::{from_log, from_memory, hide_outputs, timestamp};
use super::transaction::not_found;
use super::{Shared, answer, check, log_refusal, process};
use crate::access::{Proof, caller_of, rights_of};
use crate::driver::Snapshot;

/// The service; see the module.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    shared: Arc<Shared>,
}

impl Admin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// With what both memory and the log know of it: memory is ahead, and the log has the times.
    async fn show(&self, gtid: Gtid) -> Result<v1::Transaction, Refused> {
        let shared = &*self.shared;
        let view = shared.driver.view(gtid).await;
        match (view, shared.log.show(gtid).await) {
            (None, Ok(None)) => Err(not_found(gtid)),
            (None, Ok(Some(shown))) => Ok(from_log(shown, shared.owner())),
            (None, Err(error)) => Err(log_refusal(&error)),
            (Some(view), logged) => {
                let decided_at = logged.ok().flatten().and_then(|shown| shown.transaction.decided_at_ms).map(timestamp);
                Ok(v1::Transaction { decided_at, ..from_memory(view, shared.owner()) })
            }
        }
    }

    async fn participants(&self) -> Result<Vec<v1::Participant>, Refused> {
        let shared = &*self.shared;
        let known = shared.log.participants().await.map_err(|error| log_refusal(&error))?;
        let mut connected = shared.driver.connected().await;
        let mut participants: Vec<v1::Participant> = known
            .into_iter()
            .map(|name| {
                let sessions = connected.remove(&name).unwrap_or_default();
                v1::Participant { name: name.into(), sessions }
            })
            .collect();
        // Those that joined a moment ago, and that the log has not noted yet.
        let unnoted = connected.into_iter().map(|(name, sessions)| v1::Participant { name: name.into(), sessions });
        participants.extend(unnoted);
        participants.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(participants)
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn list_transactions(
        &self,
        request: Request<ListTransactionsRequest>,
    ) -> Result<Response<ListTransactionsResponse>, Status> {
        let wanted = Wanted::try_from(request.into_inner()).map_err(IntoStatus::into_status)?;
        Ok(Response::new(listing::list(&self.shared, &wanted).await.map_err(IntoStatus::into_status)?))
    }

    async fn get_transaction(
        &self,
        request: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        let caller = caller_of(&request)?;
        let gtid = check::gtid(&request.into_inner().gtid).map_err(IntoStatus::into_status)?;
        let mut transaction = self.show(gtid).await.map_err(IntoStatus::into_status)?;
        // Better without what its steps gave than not at all.
        let is_too_long = transaction.encoded_len() > FRAME_BYTES_MAX;
        if is_too_long || !self.shared.access.may_see_outputs(gtid, &caller) {
            hide_outputs(&mut transaction);
        }
        answer(GetTransactionResponse { transaction: Some(transaction) })
    }

    async fn list_participants(
        &self,
        _: Request<ListParticipantsRequest>,
    ) -> Result<Response<ListParticipantsResponse>, Status> {
        Ok(Response::new(ListParticipantsResponse {
            participants: self.participants().await.map_err(IntoStatus::into_status)?,
        }))
    }

    async fn get_statistics(
        &self,
        _: Request<GetStatisticsRequest>,
    ) -> Result<Response<GetStatisticsResponse>, Status> {
        let shared = &*self.shared;
        Ok(Response::new(GetStatisticsResponse {
            replica: shared.replica.clone(),
            epoch: shared.driver.epoch().0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Some(timestamp(shared.started_at_ms)),
            statistics: Some(statistics(shared.driver.statistics().snapshot())),
            cpu_us: process::cpu_time().map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            resident_bytes: process::resident_bytes(),
            log: shared.log.describe(),
        }))
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let caller = caller_of(&request)?;
        let proof = match caller.proof() {
            Proof::None => "nothing",
            Proof::Certificate => "certificate",
            Proof::Token(_) => "token",
            Proof::Login { .. } => "login",
        };
        let mut rights: Vec<String> = caller.identities().iter().flat_map(rights_of).collect();
        rights.sort();
        rights.dedup();
        Ok(Response::new(WhoAmIResponse {
            identities: caller.identities().iter().map(ToString::to_string).collect(),
            rights: if caller.proof() == Proof::None { vec!["everything".to_owned()] } else { rights },
            proof: proof.to_owned(),
            encrypted: request.extensions().get::<PeerInfo>().is_some_and(PeerInfo::is_tls),
            insecure: self.shared.insecure,
        }))
    }
}

/// Every counter by its name.
fn statistics(snapshot: Snapshot) -> v1::Statistics {
    let Snapshot {
        begun,
        committed,
        aborted,
        completed,
        compensated,
        open,
        messages_in,
        messages_out,
        appends,
        forced_records,
        lazy_records,
        append_failures,
        append_us,
        authentication_failures,
        calls_denied,
    } = snapshot;
    v1::Statistics {
        begun,
        committed,
        aborted,
        completed,
        compensated,
        open,
        messages_in,
        messages_out,
        appends,
        forced_records,
        lazy_records,
        append_failures,
        append_us,
        authentication_failures,
        calls_denied,
    }
}
