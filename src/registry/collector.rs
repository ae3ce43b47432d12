//! Spans on their way to a collector: the one conversation here that is not with a registry.
//!
//! The exporter works on a thread of its own, where no runtime is, and its library's own client for it panics there. This
//! one does the work on a runtime, with the certificates that are trusted for registries, directly and without redirects.

use super::config::Config;
use super::pem;
use super::trace::Trace;
use super::trust::{Trust, Verifier};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use opentelemetry_http::{HttpClient, HttpError};
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// What is read of a collector's answer, which nobody reads further.
const ANSWER_BYTES: usize = 64 << 10;
/// Time between two warnings.
const WARNING: Duration = Duration::from_secs(60);
/// How long a connection stays open without an exchange; batches follow each other after five seconds.
const IDLE: Duration = Duration::from_secs(10);

/// Sends what the exporter makes.
#[derive(Debug)]
pub struct Collector {
    client: reqwest::Client,
    runtime: Handle,
    offline: Arc<AtomicBool>,
    warned: Mutex<Option<Instant>>,
}

impl Collector {
    /// With the system's CAs and those of `config` that are for all; `limit` is the longest time of an exchange, on
    /// `runtime`. While `offline` is true nothing is sent.
    ///
    /// # Errors
    /// A text, when no client can be made.
    pub fn new(
        config: &Config,
        limit: Duration,
        runtime: Handle,
        offline: Arc<AtomicBool>,
    ) -> Result<Self, String> {
        let mut trust = Trust::default();
        trust.bundles.extend(pem::system_roots());
        for path in &config.ca {
            // One that cannot be read is told where registries are made ready.
            trust.bundles.extend(pem::bundles(path).into_iter().flatten());
        }
        let tls = trust.config(&Verifier::new(&trust, Trace::default()), false)?;
        let client = reqwest::Client::builder()
            .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(limit)
            .pool_idle_timeout(IDLE)
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .build()
            .map_err(|e| format!("no client can be made: {}", root(&e)))?;
        Ok(Self { client, runtime, offline, warned: Mutex::default() })
    }

    /// Tells what went wrong, but not of every batch.
    fn warn(&self, problem: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|warned| warned.elapsed() >= WARNING) {
            *warned = Some(Instant::now());
            tracing::warn!(error = problem, "the collector takes no spans; they are dropped and counted");
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        if self.offline.load(Ordering::SeqCst) {
            let problem = "larder is offline (policy.mode)";
            self.warn(problem);
            return Err(problem.into());
        }
        let (client, request) = (self.client.clone(), request.try_into()?);
        let answered = self.runtime.spawn(async move {
            let mut answer = client.execute(request).await?;
            let mut body = BytesMut::new();
            while let Some(piece) = answer.chunk().await? {
                body.extend_from_slice(&piece[..piece.len().min(ANSWER_BYTES - body.len())]);
            }
            let mut whole = http::Response::new(body.freeze());
            *whole.status_mut() = answer.status();
            *whole.headers_mut() = std::mem::take(answer.headers_mut());
            Ok::<_, reqwest::Error>(whole)
        });
        match answered.await? {
            Ok(answer) => {
                if !answer.status().is_success() {
                    self.warn(&format!("it answers {}", answer.status()));
                }
                Ok(answer)
            }
            Err(error) => {
                self.warn(&root(&error));
                Err(error.into())
            }
        }
    }
}

/// What an error comes from: the outer ones say the same in other words.
fn root(error: &reqwest::Error) -> String {
    let mut root: &dyn Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    crate::oci::error_code::shown(&root.to_string())
}
