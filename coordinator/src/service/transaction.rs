//! `TransactionService`: transactions by unary calls.

use std::sync::Arc;

use assent_proto::error::{IntoStatus, Reason};
use assent_proto::session::{Ask, Commit, Refused, Reply};
use assent_proto::text::one_line;
use assent_proto::v1::transaction_service_server::TransactionService;
use assent_proto::v1::{
    AbortRequest, AbortResponse, BeginRequest, BeginResponse, CommitRequest, CommitResponse, EnlistRequest,
    EnlistResponse, GetRequest, GetResponse, Outcome, StartSagaRequest, StartSagaResponse, StepOutput, Transaction,
    WatchRequest, WatchResponse,
};
use assent_protocol::{AbortCode, AbortReason, Gtid, Wait};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::shown::{Owner, from_log, from_memory, hide_outputs, timestamp};
use super::{Shared, answer, check, log_refusal};
use crate::access::{Act, Caller, Need, Right, caller_of};
use crate::driver::{Input, TransactionView};

/// A caller of a unary call may ask again after the answer, and nothing on the wire says that it does. So the driver is told that every
/// request may have been made before: it looks into the log first, and makes every outcome durable before it is told.
const MAY_RECUR: u32 = 0;

// What the calls are named in the audit.
const BEGIN: &str = "/assent.v1.TransactionService/Begin";
const ENLIST: &str = "/assent.v1.TransactionService/Enlist";
const COMMIT: &str = "/assent.v1.TransactionService/Commit";
const ABORT: &str = "/assent.v1.TransactionService/Abort";
const START_SAGA: &str = "/assent.v1.TransactionService/StartSaga";

/// Changes that may wait for one who watches; a slower one is told the latest when it comes back for it.
const CHANGES_MAX: usize = 16;

/// The service; see the module.
#[derive(Clone, Debug)]
pub(crate) struct Transactions {
    shared: Arc<Shared>,
}

impl Transactions {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn begin_at(&self, caller: &Caller, request: BeginRequest) -> Result<BeginResponse, Refused> {
        let is_minted_here = request.gtid.is_empty();
        let timeout_ms = check::timeout(&self.shared.limits, request.timeout_ms)?;
        let protocol = check::commit_protocol(request.protocol)?;
        let gtid = check::gtid_or_new(&request.gtid)?;
        // No earlier process has met a gtid that is minted here.
        let first_epoch = is_minted_here.then(|| self.shared.driver.epoch());
        let begin = Ask::Begin { timeout_ms, protocol, first_epoch };
        self.shared.access.may_ask(gtid, &begin, caller, BEGIN)?;
        match self.shared.local.ask(gtid, begin).await? {
            Reply::Begun { deadline_unix_ms } => {
                let deadline = Some(timestamp(deadline_unix_ms));
                Ok(BeginResponse { gtid: gtid.to_string(), deadline })
            }
            Reply::Outcome { reason: Some(reason), .. } if reason.code == AbortCode::Forgotten => {
                Err(Reason::KeyReused.refused(reason.message))
            }
            Reply::Outcome { outcome, .. } => {
                let message = format!("transaction {gtid} is {outcome} already; mint a new gtid for a new one");
                Err(Reason::KeyReused.refused(message))
            }
            other => Err(unexpected("Begin", &other)),
        }
    }

    async fn enlist_at(&self, caller: &Caller, request: EnlistRequest) -> Result<EnlistResponse, Refused> {
        let gtid = check::gtid(&request.gtid)?;
        let branch = check::branch(&self.shared.limits, &request.participant, request.payload)?;
        if let Err(refused) = caller.participate_as(&branch.participant) {
            let right = Right::ParticipateAs(branch.participant).to_string();
            return Err(self.shared.access.denied(
                caller,
                Act { rpc: ENLIST, right: &right, gtid: Some(gtid) },
                refused,
            ));
        }
        match self.shared.local.name_branch(gtid, branch).await? {
            Reply::Enlisted => Ok(EnlistResponse {}),
            other => Err(unexpected("Enlist", &other)),
        }
    }

    async fn commit_at(&self, caller: &Caller, request: CommitRequest) -> Result<CommitResponse, Refused> {
        let gtid = check::gtid(&request.gtid)?;
        let branches = check::branches(&self.shared.limits, request.branches)?;
        let timeout_ms = check::timeout(&self.shared.limits, request.timeout_ms)?;
        let protocol = check::commit_protocol(request.protocol)?;
        let begun = match (request.begun, branches.is_empty()) {
            (None | Some(true), true) => true,
            (Some(begun), false) => begun,
            (Some(false), true) => {
                return Err(check::malformed(
                    "a transaction that was not begun has no branches but those of its commit, and there are none: \
                     give at least one, or say begun=true",
                ));
            }
            (None, false) => {
                return Err(check::malformed(
                    "begun is missing: say true if Begin opened this transaction, so that it is never committed without \
                     the branches that enlisted; say false if the branches of this request are all it has",
                ));
            }
        };
        let expected = check::expected(&self.shared.limits, &request.expected_participants)?;
        let (attempt, wait, first_epoch) = (MAY_RECUR, Wait::Decided, None);
        let commit = Commit { branches, attempt, begun, timeout_ms, wait, protocol, first_epoch, expected };
        let commit = Ask::Commit(commit);
        self.shared.access.may_ask(gtid, &commit, caller, COMMIT)?;
        let reply = self.shared.local.ask(gtid, commit).await?;
        let Reply::Outcome { outcome, reason, .. } = reply else { return Err(unexpected("Commit", &reply)) };
        if request.wait_for_end {
            self.wait_for_end(gtid).await?;
        }
        Ok(CommitResponse { outcome: Outcome::from(outcome).into(), reason: reason.map(Into::into) })
    }

    /// Waits until every branch of a decided transaction has ended.
    async fn wait_for_end(&self, gtid: Gtid) -> Result<(), Refused> {
        match self.shared.local.outcome(gtid, Wait::Ended).await {
            // It was aborted without a trace: there is nobody to wait for.
            Err(refused) if refused.known_reason() == Some(Reason::NotFound) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn abort_at(&self, caller: &Caller, request: AbortRequest) -> Result<AbortResponse, Refused> {
        let gtid = check::gtid(&request.gtid)?;
        let reason = match one_line(request.reason) {
            none if none.trim().is_empty() => "no reason was given".to_owned(),
            reason => reason,
        };
        let abort = Ask::Abort { reason };
        self.shared.access.may_ask(gtid, &abort, caller, ABORT)?;
        let reply = self.shared.local.ask(gtid, abort).await?;
        match reply {
            Reply::Outcome { outcome, .. } => Ok(AbortResponse { outcome: Outcome::from(outcome).into() }),
            Reply::SagaTurned { .. } => Ok(AbortResponse { outcome: Outcome::Unspecified.into() }),
            other => Err(unexpected("Abort", &other)),
        }
    }

    async fn start_saga_at(&self, caller: &Caller, request: StartSagaRequest) -> Result<StartSagaResponse, Refused> {
        let gtid = check::gtid_or_new(&request.gtid)?;
        let definition = check::definition(&self.shared.limits, request.definition)?;
        let start = Ask::StartSaga { definition, wait: Wait::Decided, attempt: MAY_RECUR };
        self.shared.access.may_ask(gtid, &start, caller, START_SAGA)?;
        let mut reply = self.shared.local.ask(gtid, start).await?;
        if request.wait_for_end && reply == Reply::SagaStarted {
            reply = self.shared.local.outcome(gtid, Wait::Ended).await?;
        }
        let gtid = gtid.to_string();
        match reply {
            Reply::SagaStarted => Ok(StartSagaResponse { gtid, ..StartSagaResponse::default() }),
            Reply::Outcome { outcome, reason, outputs } => Ok(StartSagaResponse {
                gtid,
                outcome: Outcome::from(outcome).into(),
                reason: reason.map(AbortReason::into),
                outputs: outputs.into_iter().map(|(step, output)| StepOutput { step: step.into(), output }).collect(),
            }),
            other => Err(unexpected("StartSaga", &other)),
        }
    }
}

/// The driver answers each kind of request in its own way.
fn unexpected(request: &str, reply: &Reply) -> Refused {
    let message =
        format!("{request} was answered with {reply:?}; this is a defect of the coordinator, please report it");
    Reason::Internal.refused(message)
}

impl Shared {
    /// For what this replica owns.
    pub(super) fn owner(&self) -> Owner<'_> {
        Owner { replica: &self.replica, epoch: self.driver.epoch() }
    }

    /// One transaction, from memory or else from the log.
    ///
    /// # Errors
    /// [`Refused`] if nobody knows it, or the log does not answer.
    pub(super) async fn find(&self, gtid: Gtid) -> Result<Transaction, Refused> {
        if let Some(view) = self.driver.view(gtid).await {
            return Ok(from_memory(view, self.owner()));
        }
        match self.log.show(gtid).await {
            Ok(Some(shown)) => Ok(from_log(shown, self.owner())),
            Ok(None) => Err(not_found(gtid)),
            Err(error) => Err(log_refusal(&error)),
        }
    }
}

pub(super) fn not_found(gtid: Gtid) -> Refused {
    let message = format!(
        "no transaction {gtid}: it never began here, or it was aborted before anything was logged, or it is older than the retention; check the gtid"
    );
    Reason::NotFound.refused(message)
}

// ---- the service ---------------------------------------------------------------------------------------------------

#[tonic::async_trait]
impl TransactionService for Transactions {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        let caller = caller_of(&request)?;
        Ok(Response::new(self.begin_at(&caller, request.into_inner()).await.map_err(IntoStatus::into_status)?))
    }

    async fn enlist(&self, request: Request<EnlistRequest>) -> Result<Response<EnlistResponse>, Status> {
        let caller = caller_of(&request)?;
        Ok(Response::new(self.enlist_at(&caller, request.into_inner()).await.map_err(IntoStatus::into_status)?))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        let caller = caller_of(&request)?;
        Ok(Response::new(self.commit_at(&caller, request.into_inner()).await.map_err(IntoStatus::into_status)?))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<AbortResponse>, Status> {
        let caller = caller_of(&request)?;
        Ok(Response::new(self.abort_at(&caller, request.into_inner()).await.map_err(IntoStatus::into_status)?))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let caller = caller_of(&request)?;
        let gtid = check::gtid(&request.into_inner().gtid).map_err(IntoStatus::into_status)?;
        let mut transaction = self.shared.find(gtid).await.map_err(IntoStatus::into_status)?;
        if caller.meets(Need::InitiateOrInspect).is_err() {
            // A participant cleans up what has ended. The rest is not its own.
            transaction = Transaction {
                gtid: transaction.gtid,
                state: transaction.state,
                protocol: transaction.protocol,
                ..Transaction::default()
            };
        }
        if !self.shared.access.may_see_outputs(gtid, &caller) {
            hide_outputs(&mut transaction);
        }
        answer(GetResponse { transaction: Some(transaction) })
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller_of(&request)?;
        let gtid = check::gtid(&request.into_inner().gtid).map_err(IntoStatus::into_status)?;
        let access = Arc::clone(&self.shared.access);
        let is_shown = access.may_see_outputs(gtid, &caller);
        let mut watcher = Watcher { shared: Arc::clone(&self.shared), gtid, changes: None, told: None, is_over: false };
        // One that nobody knows is refused by the call itself, rather than by its stream.
        let first = watcher.next().await.transpose().map_err(IntoStatus::into_status)?;
        // A token that was taken away, or a login that has expired, shows no more.
        let lapsed = Box::pin(access.lapsed(caller));
        let rest = stream::unfold((watcher, lapsed), |(mut watcher, mut lapsed)| async move {
            let next = tokio::select! {
                biased;
                next = watcher.next() => next?,
                refused = &mut lapsed => {
                    watcher.is_over = true;
                    Err(refused)
                }
            };
            Some((next.map_err(IntoStatus::into_status), (watcher, lapsed)))
        });
        let all = stream::iter(first.map(Ok)).chain(rest);
        let answers = all.map(move |next| {
            let mut transaction = next?;
            if !is_shown {
                hide_outputs(&mut transaction);
            }
            Ok(answer(WatchResponse { transaction: Some(transaction) })?.into_inner())
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn start_saga(&self, request: Request<StartSagaRequest>) -> Result<Response<StartSagaResponse>, Status> {
        let caller = caller_of(&request)?;
        answer(self.start_saga_at(&caller, request.into_inner()).await.map_err(IntoStatus::into_status)?)
    }
}

/// One who watches a transaction.
struct Watcher {
    shared: Arc<Shared>,
    gtid: Gtid,
    /// What comes from memory, and whether anything has come.
    changes: Option<(mpsc::Receiver<TransactionView>, bool)>,
    /// What was told last.
    told: Option<Transaction>,
    is_over: bool,
}

impl Watcher {
    /// The next picture that differs from the last; `None` once it has ended.
    async fn next(&mut self) -> Option<Result<Transaction, Refused>> {
        while !self.is_over {
            let Some((changes, has_come)) = &mut self.changes else {
                self.watch().await;
                continue;
            };
            match changes.recv().await {
                Some(view) => {
                    *has_come = true;
                    self.is_over = view.is_ended();
                    let transaction = from_memory(view, self.shared.owner());
                    if self.told.as_ref() != Some(&transaction) {
                        self.told = Some(transaction.clone());
                        return Some(Ok(transaction));
                    }
                }
                // Cut for being slow, or let go of.
                None if *has_come => self.changes = None,
                None => {
                    self.is_over = true;
                    return self.last_word().await.transpose();
                }
            }
        }
        None
    }

    /// Watches it in memory, if it is there.
    async fn watch(&mut self) {
        let (changes, receiver) = mpsc::channel(CHANGES_MAX);
        let shard = self.shared.driver.shard_of(self.gtid);
        self.shared.driver.give(shard, Input::Watch { gtid: self.gtid, changes }).await;
        self.changes = Some((receiver, false));
    }

    /// What the log says of one that is not in memory.
    async fn last_word(&self) -> Result<Option<Transaction>, Refused> {
        match self.shared.log.show(self.gtid).await {
            Ok(Some(shown)) => {
                let transaction = from_log(shown, self.shared.owner());
                Ok(Some(transaction).filter(|transaction| self.told.as_ref() != Some(transaction)))
            }
            Ok(None) if self.told.is_none() => Err(not_found(self.gtid)),
            Ok(None) => Ok(None),
            Err(error) => Err(log_refusal(&error)),
        }
    }
}
