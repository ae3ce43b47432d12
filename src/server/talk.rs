//! What is said on a connection: usual requests for plugins are read and answered by ourselves, and from the first other one
//! on pingora does both.

use super::app::{Connection, Ended, Face, request_id};
use super::data::Data;
use super::guard::{self, Accepted};
use super::respond::{Answer, Content};
use super::send::{Carrier, patience};
use super::usual::{self, Read, Request};
use super::wire::Wire;
use super::{Config, spans};
use crate::http::trace_context::{RequestId, TraceParent};
use crate::origin;
use http::Method;
use http::header::RANGE;
use pingora::apps::ServerApp;
use pingora::protocols::Shutdown;
use pingora::server::ShutdownWatch;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use tracing::{Instrument, Span};

/// By how much two looks at a time that has just begun may differ.
const MOMENT: Duration = Duration::from_millis(10);
/// What can be added to any time; who is patient for longer is for so long.
const LONGEST: Duration = Duration::from_secs(1 << 30);

/// When so much time is over.
fn deadline(patience: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + patience.min(LONGEST)
}

/// What a client says next.
#[expect(clippy::large_enum_variant, reason = "nearly all are usual, and a box would be one more for each")]
enum Next {
    /// A usual request, well-formed.
    Usual((Request, Accepted)),
    /// Something for pingora.
    Other,
    /// Nothing more.
    Nothing,
}

impl Connection {
    /// Serves a connection to its end.
    pub async fn talk(self: Arc<Self>, mut wire: Wire, shutdown: ShutdownWatch) {
        if let Face::Data(data) = &self.app.face
            && !wire.is_h2()
        {
            // One for all requests: to make one for each would cost more than to read it.
            let mut patience = self.patience_for_head();
            let mut timer = Box::pin(tokio::time::sleep_until(deadline(patience)));
            loop {
                let usual = match self.next(&mut wire, timer.as_mut()).await {
                    Next::Usual(usual) => usual,
                    Next::Other => break,
                    Next::Nothing => return,
                };
                wire.take();
                self.used.store(true, Ordering::Relaxed);
                let _in_flight = self.app.drain.begin();
                let request = &usual.0;
                let parent = TraceParent::of(&request.headers);
                let span = spans::open(&request.method, request.path(), self.peer, parent);
                let id = request_id(parent);
                let work = self.serve_usual(data, &mut wire, usual, &shutdown, id, span.clone());
                // In a box, because what an answer needs would be kept while the connection is idle.
                if !Box::pin(origin::on_behalf_of(id, work.instrument(span))).await {
                    return;
                }
                self.rest();
                let now = self.patience_for_head();
                // The first one's may be longer, and the settings' may be another. Each differs by a moment.
                if now.saturating_add(MOMENT) < patience {
                    patience = now;
                    timer.as_mut().reset(deadline(patience));
                }
            }
        }
        self.process_new(Box::new(wire), &shutdown).await;
    }

    /// Waits for the next request's head.
    async fn next(&self, wire: &mut Wire, mut timer: Pin<&mut Sleep>) -> Next {
        loop {
            if !wire.heard().is_empty() {
                match usual::read(wire.heard()) {
                    Read::Usual(request) => {
                        // What is refused is so on pingora's road, where all of that is.
                        return match guard::check(&request.head(), guard::read_only) {
                            Ok(accepted) => Next::Usual((request, accepted)),
                            Err(_) => Next::Other,
                        };
                    }
                    Read::Begun if wire.heard().len() < usual::HEAD_BYTES => {}
                    _ => return Next::Other,
                }
            }
            let heard = poll_fn(|context| {
                if let Poll::Ready(heard) = wire.poll_hear(context) {
                    // An error is the end, and comes again to whoever reads on.
                    return Poll::Ready(Some(heard.unwrap_or_default()));
                }
                loop {
                    ready!(timer.as_mut().poll(context));
                    // It was set for another request.
                    let left = self.patience_for_head();
                    if left.is_zero() {
                        return Poll::Ready(None);
                    }
                    timer.as_mut().reset(deadline(left));
                }
            });
            match heard.await {
                None => return Next::Nothing,
                Some(0) if wire.heard().is_empty() => return Next::Nothing,
                Some(0) => return Next::Other,
                Some(_) => {}
            }
        }
    }

    /// Answers a usual request; true when all of it was written and the connection goes on.
    async fn serve_usual(
        &self,
        data: &Data,
        wire: &mut Wire,
        (mut request, accepted): (Request, Accepted),
        shutdown: &ShutdownWatch,
        id: RequestId,
        span: Span,
    ) -> bool {
        let config: Config = **self.app.config.load();
        let began = Instant::now();
        // RFC 9110, section 14.2: a range is for GET alone.
        if request.method == Method::HEAD {
            request.headers.remove(RANGE);
        }
        let (answer, label) = data.answer(&request.headers, &accepted, self.shown()).await;
        let may_stay = self.stays(shutdown);
        if !may_stay {
            self.link.linger();
        }
        let stays = may_stay && !request.is_last;
        wire.begin(usual::head(&answer, id, stays));
        let Answer { status, content, note, .. } = answer;
        spans::answered(&span, &request.method, label, status, &note);
        let content = if request.method == Method::HEAD { Content::None } else { content };
        let carrier = Carrier::Wire { wire: &mut *wire, rate: config.send_rate.as_u64(), sent: 0 };
        let (bytes, complete) = self.send(carrier, content, patience(&config)).await;
        let Request { method, target, headers, .. } = &request;
        self.tell(&Ended { id, method, target, headers, label, status, note: &note, bytes, complete, began });
        if complete && !stays {
            Shutdown::shutdown(wire).await;
        }
        complete && stays
    }
}
