//! Spans for a collector (OTLP over HTTP), if one is set.
//!
//! A bounded number of spans waits to be sent, in batches, by a thread of their own. A collector that is slow or away costs
//! spans, which are counted, and no request.

use super::log::Logged;
use super::reload::{Apply, Part};
use crate::config::{Config, Fault, Loaded};
use crate::metrics::Metrics;
use crate::origin::{self, SPANS};
use crate::registry::collector::Collector;
use opentelemetry::trace::{SpanId, TraceId, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, IdGenerator, Sampler, SdkTracerProvider, Span, SpanData,
    SpanExporter as Export, SpanProcessor,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;

/// Spans that wait to be sent; a cold fetch makes eight. Some megabytes at most.
const QUEUED: usize = 4096;
/// Longest time of an exchange with the collector.
const EXCHANGE: Duration = Duration::from_secs(5);

/// What takes spans.
pub struct Traces {
    provider: Option<SdkTracerProvider>,
    /// How many were lost.
    pub lost: Lost,
    /// Whether nothing is sent.
    offline: Arc<AtomicBool>,
}

/// Spans that no collector took.
#[derive(Debug, Clone, Default)]
pub struct Lost(Arc<AtomicU64>);

impl Lost {
    /// Brings the metric up to date.
    pub fn count(&self, metrics: &Metrics) {
        let lost = self.0.load(Ordering::Relaxed);
        metrics.spans_dropped.inc_by(lost.saturating_sub(metrics.spans_dropped.get()));
    }
}

/// What [`super::log::start`] puts beside the lines.
pub type SpanLayer = Box<dyn Layer<Logged> + Send + Sync>;

/// Begins to send spans where `config` says; with no place set it does nothing, and they cost nothing.
///
/// # Errors
/// A text, when no client for the collector can be made.
pub fn start(config: &Config, runtime: &Handle) -> Result<(Traces, Option<SpanLayer>), String> {
    let (lost, offline) = (Lost::default(), Arc::new(AtomicBool::new(config.policy.is_offline())));
    let Some(url) = config.traces.url() else {
        return Ok((Traces { provider: None, lost, offline }, None));
    };
    let collector = Collector::new(&config.registry, EXCHANGE, runtime.clone(), offline.clone())?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(collector)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .with_timeout(EXCHANGE)
        .build()
        .map_err(|e| e.to_string())?;
    let waiting = Arc::<AtomicUsize>::default();
    let counted = Counted { waiting: waiting.clone(), lost: lost.clone(), inner: exporter };
    // Twice as long as ours, so that what is dropped is dropped here and counted.
    let batches = BatchConfigBuilder::default().with_max_queue_size(2 * QUEUED).build();
    let inner = BatchSpanProcessor::new(counted, batches);
    let provider = SdkTracerProvider::builder()
        .with_resource(resource())
        .with_id_generator(Ids)
        // Who tells of a request decides for it; others are told in part.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.traces.sample))))
        .with_span_processor(Counted { waiting, lost: lost.clone(), inner })
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("larder"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(filter_fn(|about| about.is_span() && about.target() == SPANS));
    Ok((Traces { provider: Some(provider), lost, offline }, Some(Box::new(layer))))
}

impl Traces {
    /// What a reload reads of it: whether larder is offline. Where spans go is as it was at the start.
    pub fn part(&self) -> Part {
        let offline = self.offline.clone();
        let read = move |loaded: &Loaded| -> Result<Apply, Vec<Fault>> {
            let (offline, is_offline) = (offline.clone(), loaded.config.policy.is_offline());
            Ok(Box::new(move |_| offline.store(is_offline, Ordering::SeqCst)))
        };
        Part { files: |_| Vec::new(), read: Box::new(read) }
    }

    /// Sends what waits, for no longer than `limit`. Blocks.
    pub fn close(self, limit: Duration) {
        if let Some(provider) = self.provider
            && provider.shutdown_with_timeout(limit).is_err()
        {
            tracing::warn!("the collector does not answer; the last spans are lost");
        }
    }
}

/// What tells a collector whose spans they are; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say otherwise.
fn resource() -> Resource {
    let service = opentelemetry::Key::from_static_str("service.name");
    let named = Resource::builder()
        .build()
        .get(&service)
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if named { builder.build() } else { builder.with_service_name("larder").build() }
}

/// A trace is called like the request that begins it.
#[derive(Debug)]
struct Ids;

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        TraceId::from(origin::request().map_or_else(|| fastrand::u128(1..), |id| id.number()))
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from(fastrand::u64(1..))
    }
}

/// Knows how many spans wait, between the end of a span and its export, and counts those that are lost.
struct Counted<I> {
    waiting: Arc<AtomicUsize>,
    lost: Lost,
    inner: I,
}

impl<I> std::fmt::Debug for Counted<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counted").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl SpanProcessor for Counted<BatchSpanProcessor> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < QUEUED {
            self.inner.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.lost.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: Export> Export for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let number = batch.len();
        self.waiting.fetch_sub(number, Ordering::Relaxed);
        let sent = self.inner.export(batch).await;
        if sent.is_err() {
            self.lost.0.fetch_add(number as u64, Ordering::Relaxed);
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{Span as _, Tracer};

    #[derive(Debug)]
    struct Stalled;

    impl Export for Stalled {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            std::future::pending().await
        }
    }

    #[test]
    fn spans_that_nobody_takes_are_bounded_and_counted() {
        const ENDED: u64 = 3 * QUEUED as u64;
        let (waiting, lost) = (Arc::<AtomicUsize>::default(), Lost::default());
        let exporter = Counted { waiting: waiting.clone(), lost: lost.clone(), inner: Stalled };
        let batches = BatchConfigBuilder::default().with_max_queue_size(2 * QUEUED).build();
        let inner = BatchSpanProcessor::new(exporter, batches);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Counted { waiting, lost: lost.clone(), inner })
            .build();
        let tracer = provider.tracer("test");
        for _ in 0..ENDED {
            tracer.start("span").end();
        }
        let metrics = Metrics::new();
        lost.count(&metrics);
        lost.count(&metrics);
        // One batch of 512 may have been taken, which is then on its way.
        let expected = ENDED - QUEUED as u64;
        let counted = metrics.spans_dropped.get();
        assert!((expected - 512..=expected).contains(&counted), "{counted} of {ENDED}");
        assert!(provider.shutdown_with_timeout(Duration::from_millis(10)).is_err(), "nobody waits for it");
    }
}
