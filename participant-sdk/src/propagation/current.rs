//! The context that the running task works in.

use std::future::Future;
use std::sync::Arc;

use tokio::task::futures::TaskLocalFuture;

use super::Context;

tokio::task_local! {
    /// `None` is a task that was told to work in no transaction, which hides that of its caller.
    static CURRENT: Option<Arc<Context>>;
}

/// A future that runs in a context.
pub(super) type InContext<F> = TaskLocalFuture<Option<Arc<Context>>, F>;

/// The transaction that the running task works in, if any.
///
/// It is there within a handler behind [`server::ContextLayer`](super::server::ContextLayer), while that streams its
/// answer too, and within [`with_context`]; but not within what those spawn.
pub fn current() -> Option<Context> {
    shared().as_deref().cloned()
}

/// Runs a future in a transaction, so that the calls it makes through [`client`](super::client) carry the context; or
/// in none, where `None` is given.
///
/// ```
/// use assent_sdk::propagation::{Context, current, with_context};
///
/// # async fn example(context: Context) {
/// let seen = with_context(context.clone(), async { current() }).await;
/// assert_eq!(seen, Some(context.clone()));
///
/// // A call to somebody who is not part of it.
/// let seen = with_context(context, with_context(None, async { current() })).await;
/// assert_eq!(seen, None);
/// # }
/// # let gtid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("a gtid");
/// # tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(example(
/// #     Context { gtid, coordinator: "localhost:7420".into(), deadline_unix_ms: None, epoch: None }));
/// ```
pub fn with_context<F: Future>(context: impl Into<Option<Context>>, future: F) -> impl Future<Output = F::Output> {
    enter(context.into().map(Arc::new), future)
}

pub(super) fn enter<F: Future>(context: Option<Arc<Context>>, future: F) -> InContext<F> {
    CURRENT.scope(context, future)
}

/// For what is called or polled without being a future.
pub(super) fn enter_sync<R>(context: Option<Arc<Context>>, call: impl FnOnce() -> R) -> R {
    CURRENT.sync_scope(context, call)
}

pub(super) fn shared() -> Option<Arc<Context>> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propagation::tests::context;

    #[tokio::test]
    async fn a_context_ends_with_its_future() {
        assert_eq!(current(), None);
        assert_eq!(with_context(context(), async { current() }).await, Some(context()));
        assert_eq!(current(), None);
    }

    #[tokio::test]
    async fn the_inner_context_hides_the_outer_one() {
        let other = Context { coordinator: "other:7420".into(), ..context() };
        let seen = with_context(context(), async {
            let inner = with_context(other.clone(), async { current() }).await;
            let none = with_context(None, async { current() }).await;
            (inner, none, current())
        });
        assert_eq!(seen.await, (Some(other.clone()), None, Some(context())));
    }

    #[tokio::test]
    async fn a_context_is_taken_along_where_that_is_asked_for() {
        with_context(context(), async {
            let left = tokio::spawn(async { current() }).await.expect("no panic");
            let taken = tokio::spawn(with_context(current(), async { current() })).await.expect("no panic");
            assert_eq!((left, taken), (None, Some(context())));
        })
        .await;
    }
}
