//! Who began what is being done: the id of the request, for the log, and the spans of its road, for a collector.
//!
//! Both go along with the work, so that what does it need not hand them on. Work that becomes a task of its own is
//! [`begun`]; a step of it is a [`leg`]. Nothing that went wrong is told to a collector but its code: texts of registries
//! stay in the log.

use crate::http::trace_context::RequestId;
use tracing::field::Empty;
use tracing::{Id, Instrument, Span};

/// The target of all spans. The log leaves it out, and without a collector they cost nothing.
pub const SPANS: &str = "span";

tokio::task_local! {
    static BEGUN_BY: RequestId;
}

/// The request on whose behalf this is done; `None` for what larder does by itself.
pub fn request() -> Option<RequestId> {
    BEGUN_BY.try_with(|id| *id).ok()
}

/// Does `work` on behalf of a request.
pub fn on_behalf_of<W: Future>(id: RequestId, work: W) -> impl Future<Output = W::Output> {
    BEGUN_BY.scope(id, work)
}

/// Work that goes on as a task of its own, for whoever calls this: with the request's id, and as a span below the
/// caller's. `about` is what it works on, `code` what a collector is told of an error.
pub fn begun<T, E>(
    name: &'static str,
    about: Option<String>,
    code: impl FnOnce(&E) -> &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    // The span itself only once it runs: work that was joined to other work is dropped unseen.
    let (id, above) = (request(), Span::current());
    async move {
        let work = async move {
            let span = open(name, above.id());
            if let Some(about) = about {
                span.record("larder.reference", about);
            }
            within(span, code, work).await
        };
        match id {
            Some(id) => BEGUN_BY.scope(id, work).await,
            None => work.await,
        }
    }
}

/// A step of what is being done.
pub async fn leg<T, E>(
    name: &'static str,
    code: impl FnOnce(&E) -> &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    within(open(name, Span::current().id()), code, work).await
}

fn open(name: &'static str, above: Option<Id>) -> Span {
    tracing::info_span!(
        target: SPANS,
        parent: above,
        "leg",
        otel.name = name,
        otel.status_code = Empty,
        "error.type" = Empty,
        larder.reference = Empty,
    )
}

async fn within<T, E>(
    span: Span,
    code: impl FnOnce(&E) -> &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let result = work.instrument(span.clone()).await;
    if let Err(error) = &result {
        span.record("otel.status_code", "ERROR").record("error.type", code(error));
    }
    result
}
