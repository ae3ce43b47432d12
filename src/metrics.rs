//! Every metric, in one place: name, labels, unit, meaning.
//!
//! No label takes a value that a client can invent: routes, statuses, results and codes are closed sets, a registry is one
//! that the catalog or the settings name, and a file one that the settings name. What the process itself takes
//! (`process_*`) is beside them.

mod begin;
mod usual;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, exponential_buckets,
};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use usual::Usual;

/// All metrics and the registry that they are in.
pub struct Metrics {
    registry: Registry,
    /// `larder_requests_total{route,status,cache}`: answered requests. `route` is plugin, metadata, listing, inventory,
    /// health, admin or none; `cache` is hit, stale, miss, collapsed, error or none.
    pub requests: IntCounterVec,
    /// `larder_request_duration_seconds{route,status,cache}`: from the request's header to the answer's last byte.
    pub request_duration: HistogramVec,
    /// `larder_response_bytes_total{route}`: bytes of bodies sent.
    pub response_bytes: IntCounterVec,
    /// `larder_refused_total{code}`: requests on the data port that were refused, by the code that the answer has too.
    pub refused: IntCounterVec,
    /// `larder_module_lookups_total{tier}`: where modules were found: memory, disk, overlay, or upstream for a miss.
    pub lookups: IntCounterVec,
    found_in_memory: IntCounter,
    usual: Usual,
    /// `larder_stale_served_total{reason}`: answers from past their lifetime, by the reason in `Cache-Status`.
    pub stale_served: IntCounterVec,
    /// `larder_upstream_requests_total{registry,outcome}`: HTTP exchanges with a registry or a mirror, with its token service,
    /// and with where it redirects to; `outcome` is ok, redirect, client_error, server_error, or an error's code where
    /// no answer came. The 401 by which a registry asks for a token is a client_error too. Registries that the settings or
    /// the catalog name are there from the start, and others from their first exchange.
    pub upstream_requests: IntCounterVec,
    /// `larder_upstream_request_duration_seconds{registry}`: from the question to the head of its answer, or to the error.
    pub upstream_request_duration: HistogramVec,
    /// `larder_fills_total{registry,result}`: fetches of a reference; `result` is ok, unchanged or an error's code.
    pub fills: IntCounterVec,
    /// `larder_fill_duration_seconds`: a fetch from its first request to the last sync.
    pub fill_duration: Histogram,
    /// `larder_fills_in_flight`: fetches running now.
    pub fills_in_flight: IntGauge,
    /// `larder_fills_collapsed_total`: requests that waited for a fetch another one had begun.
    pub fills_collapsed: IntCounter,
    /// `larder_fetched_bytes_total{registry}`: bytes of layers received.
    pub fetched_bytes: IntCounterVec,
    /// `larder_retries_total{registry}`: questions that were asked again after a failure that may pass.
    pub retries: IntCounterVec,
    /// `larder_logins_total{registry,result}`: credentials sent, and tokens asked for; `result` is sent, ok, refused or an
    /// error's code.
    pub logins: IntCounterVec,
    /// `larder_breaker_state{registry}`: 0 asked freely, 1 left alone, 2 asked by one at a time.
    pub breaker_state: IntGaugeVec,
    /// `larder_tls_unverified{registry}`: 1 for each rule that believes any certificate.
    pub tls_unverified: IntGaugeVec,
    /// `larder_certificate_expiry_timestamp_seconds{role,file}`: when a certificate runs out, in seconds since 1970: ours for
    /// clients (`server`), ours for registries (`client`), and those that we trust: of clients (`client_ca`) and of
    /// registries (`ca`; the system's own are left out). Of several CAs in a file it is the next that runs out and has no
    /// later one of the same name beside it, and the last one when all are over.
    certificate_expiry: IntGaugeVec,
    certificates: Mutex<Vec<(&'static str, String, i64)>>,
    /// `larder_reloads_total{result}`: changes of the settings noticed; `result` is ok or error.
    pub reloads: IntCounterVec,
    /// `larder_settings_refused`: 1 while newer settings, or files that they name, are there and cannot be used.
    pub settings_refused: IntGauge,
    /// `larder_settings_loaded_timestamp_seconds`: when the settings in use were read, in seconds since 1970.
    pub settings_loaded: IntGauge,
    /// `larder_signatures_total{result}`: manifests whose signatures were asked for, because the policy wants some:
    /// verified, unsigned, signature_invalid or signatures_unreachable.
    pub signatures: IntCounterVec,
    /// `larder_tags_moved_total{registry}`: revalidations that found a tag pointing elsewhere.
    pub tags_moved: IntCounterVec,
    /// `larder_lock_mismatch_total{mode}`: other bytes than those of the lock file, found by a fetch or held; in the mode
    /// `record` they are served, in `enforce` refused.
    pub lock_mismatch: IntCounterVec,
    /// `larder_cache_bytes{tier}`: bytes of modules: copies in `memory`, on `disk`, and `held` in memory because the disk
    /// would not take them.
    pub cache_bytes: IntGaugeVec,
    /// `larder_cache_entries{tier}`: their number.
    pub cache_entries: IntGaugeVec,
    /// `larder_cache_limit_bytes{tier}`: most bytes by the settings: `cache.memory`, `cache.disk`, and for `held` `fill.memory`,
    /// which fetches in progress share.
    pub cache_limit: IntGaugeVec,
    /// `larder_disk_free_bytes`: free on the cache directory's file system; not there while that is unknown.
    disk_free: IntGaugeVec,
    /// `larder_disk_size_bytes`: that file system's size; not there while it is unknown.
    disk_size: IntGaugeVec,
    /// `larder_evictions_total`: modules removed from disk to make room.
    pub evictions: IntCounter,
    /// `larder_quarantined_total`: files put aside because they were not what they should be.
    pub quarantined: IntCounter,
    /// `larder_disk_errors_total{operation}`: operations on the cache directory that failed: creating, writing, syncing,
    /// renaming, removing, opening, reading and the like.
    pub disk_errors: IntCounterVec,
    /// `larder_store_degraded`: 1 while the cache directory takes nothing and what is new is held in memory.
    pub store_degraded: IntGauge,
    /// `larder_scrubbed_total`: modules read and compared with their names though nobody asked for them.
    pub scrubbed: IntCounter,
    /// `larder_fill_panics_total`: fetches that ended by a defect of ours; they are begun again.
    pub fill_panics: IntCounter,
    /// `larder_prefetching{state}`: plugins that were asked for in advance and are waiting or fetching.
    pub prefetching: IntGaugeVec,
    /// `larder_prefetched_total{result}`: plugins that were asked for in advance; `result` is held or failed.
    pub prefetched: IntCounterVec,
    /// `larder_warm_up_done`: 1 once each plugin of the start was fetched or has failed.
    pub warm_up_done: IntGauge,
    /// `larder_admin_requests_total{action,result}`: what operators asked and did; `result` is ok, denied (who asks may
    /// not), refused (what is asked cannot be done) or failed.
    pub admin_requests: IntCounterVec,
    /// `larder_audit_lost_total`: changes that could not be written down.
    pub audit_lost: IntCounter,
    /// `larder_log_lines_dropped_total`: log lines that nobody took off our hands in time.
    pub log_lines_dropped: IntCounter,
    /// `larder_spans_dropped_total`: spans that no collector took.
    pub spans_dropped: IntCounter,
    /// `larder_connections{listener}`: open connections.
    pub connections: IntGaugeVec,
    /// `larder_connections_refused_total{listener,reason}`: connections closed at once because there were too many: in
    /// `total`, or from one `address`.
    pub connections_refused: IntCounterVec,
    /// `larder_tls_handshakes_total{listener,result}`: `result` is ok, timeout, closed, plain_http, no_certificate,
    /// bad_certificate, refused (by the client), incompatible or malformed.
    pub tls_handshakes: IntCounterVec,
    /// `larder_ready`: 1 while `/readyz` wants requests to be sent here.
    pub ready: IntGauge,
    /// `larder_build_info{version}`: always 1; the label is what is running.
    build_info: IntGaugeVec,
}

impl Metrics {
    /// All at zero, with the process's own beside them.
    pub fn new() -> Self {
        let registry = Registry::new();
        let made = Made(&registry);
        let lookups = made.counters(
            "larder_module_lookups_total",
            "Module lookups by where the bytes were found; upstream is a miss.",
            &["tier"],
        );
        let metrics = Self {
            requests: made.counters(
                "larder_requests_total",
                "Requests answered.",
                &["route", "status", "cache"],
            ),
            request_duration: made.histograms(
                "larder_request_duration_seconds",
                "Time from a request's header to its answer's last byte.",
                &["route", "status", "cache"],
            ),
            response_bytes: made.counters("larder_response_bytes_total", "Bytes of bodies sent.", &["route"]),
            refused: made.counters(
                "larder_refused_total",
                "Requests on the data port that were refused, by code.",
                &["code"],
            ),
            found_in_memory: lookups.with_label_values(&["memory"]),
            lookups,
            usual: Usual::default(),
            stale_served: made.counters(
                "larder_stale_served_total",
                "Answers past their lifetime, by reason.",
                &["reason"],
            ),
            upstream_requests: made.counters(
                "larder_upstream_requests_total",
                "HTTP exchanges with registries and their token services, by outcome.",
                &["registry", "outcome"],
            ),
            upstream_request_duration: made.histograms(
                "larder_upstream_request_duration_seconds",
                "Time from a question to a registry to the head of its answer.",
                &["registry"],
            ),
            fills: made.counters("larder_fills_total", "Fetches from a registry.", &["registry", "result"]),
            fill_duration: made
                .histograms("larder_fill_duration_seconds", "Time of a fetch.", &[])
                .with_label_values::<&str>(&[]),
            fills_in_flight: made.gauge("larder_fills_in_flight", "Fetches running now."),
            fills_collapsed: made.counter(
                "larder_fills_collapsed_total",
                "Requests that waited for a fetch that another one had begun.",
            ),
            fetched_bytes: made.counters(
                "larder_fetched_bytes_total",
                "Bytes of layers received.",
                &["registry"],
            ),
            retries: made.counters(
                "larder_retries_total",
                "Questions asked again after a failure that may pass.",
                &["registry"],
            ),
            logins: made.counters(
                "larder_logins_total",
                "Credentials sent to registries and tokens asked for, by result.",
                &["registry", "result"],
            ),
            breaker_state: made.gauges(
                "larder_breaker_state",
                "0: the registry is asked freely, 1: it is left alone, 2: one at a time asks.",
                &["registry"],
            ),
            tls_unverified: made.gauges(
                "larder_tls_unverified",
                "1 for each rule whose registries' certificates are not verified.",
                &["registry"],
            ),
            certificate_expiry: made.gauges(
                "larder_certificate_expiry_timestamp_seconds",
                "When a certificate runs out, in seconds since 1970.",
                &["role", "file"],
            ),
            certificates: Mutex::default(),
            reloads: made.counters(
                "larder_reloads_total",
                "Changes of settings and of the files they name, by result.",
                &["result"],
            ),
            settings_refused: made
                .gauge("larder_settings_refused", "1 while newer settings are there and cannot be used."),
            settings_loaded: made.gauge(
                "larder_settings_loaded_timestamp_seconds",
                "When the settings in use were read, in seconds since 1970.",
            ),
            signatures: made.counters(
                "larder_signatures_total",
                "Manifests whose signatures were asked for, by what came of it.",
                &["result"],
            ),
            tags_moved: made.counters(
                "larder_tags_moved_total",
                "Revalidations that found a tag pointing to another manifest.",
                &["registry"],
            ),
            lock_mismatch: made.counters(
                "larder_lock_mismatch_total",
                "Other bytes than those of the lock file, by what the lock's mode makes of them.",
                &["mode"],
            ),
            cache_bytes: made.gauges("larder_cache_bytes", "Bytes of modules held.", &["tier"]),
            cache_entries: made.gauges("larder_cache_entries", "Modules held.", &["tier"]),
            cache_limit: made.gauges(
                "larder_cache_limit_bytes",
                "Most bytes of modules, by the settings.",
                &["tier"],
            ),
            disk_free: made.gauges(
                "larder_disk_free_bytes",
                "Bytes free on the cache directory's file system.",
                &[],
            ),
            disk_size: made.gauges(
                "larder_disk_size_bytes",
                "Size of the cache directory's file system.",
                &[],
            ),
            evictions: made.counter("larder_evictions_total", "Modules removed from disk to make room."),
            quarantined: made
                .counter("larder_quarantined_total", "Files put aside because they were damaged."),
            disk_errors: made.counters(
                "larder_disk_errors_total",
                "Failed operations on the cache directory.",
                &["operation"],
            ),
            store_degraded: made.gauge(
                "larder_store_degraded",
                "1 while the cache directory takes nothing and what is new is held in memory.",
            ),
            scrubbed: made.counter("larder_scrubbed_total", "Modules read again though nobody asked."),
            fill_panics: made
                .counter("larder_fill_panics_total", "Fetches that ended by a defect of larder."),
            prefetching: made.gauges(
                "larder_prefetching",
                "Plugins asked for in advance that are not there yet, by state.",
                &["state"],
            ),
            prefetched: made.counters(
                "larder_prefetched_total",
                "Plugins asked for in advance, by result.",
                &["result"],
            ),
            warm_up_done: made
                .gauge("larder_warm_up_done", "1 once each plugin of the start was fetched or has failed."),
            admin_requests: made.counters(
                "larder_admin_requests_total",
                "Requests to the administration, by what was asked and what came of it.",
                &["action", "result"],
            ),
            audit_lost: made
                .counter("larder_audit_lost_total", "Changes that could not be written to the audit log."),
            log_lines_dropped: made
                .counter("larder_log_lines_dropped_total", "Log lines dropped because their reader stalls."),
            spans_dropped: made
                .counter("larder_spans_dropped_total", "Spans dropped because no collector took them."),
            connections: made.gauges("larder_connections", "Open connections.", &["listener"]),
            connections_refused: made.counters(
                "larder_connections_refused_total",
                "Connections closed at once because there were too many in total or from one address.",
                &["listener", "reason"],
            ),
            tls_handshakes: made.counters(
                "larder_tls_handshakes_total",
                "TLS handshakes with clients, by result.",
                &["listener", "result"],
            ),
            ready: made.gauge("larder_ready", "1 while requests are wanted here."),
            build_info: made.gauges(
                "larder_build_info",
                "Always 1; the label is what is running.",
                &["version"],
            ),
            registry: registry.clone(),
        };
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.begin();
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).unwrap_or_else(|e| unreachable!("{e}"));
        metrics
    }

    /// Counts an exchange with `registry`.
    pub fn upstream(&self, registry: &str, outcome: &str, took: Duration) {
        self.expect_registry(registry);
        self.upstream_requests.with_label_values(&[registry, outcome]).inc();
        self.upstream_request_duration.with_label_values(&[registry]).observe(took.as_secs_f64());
    }

    /// Notes the certificates of a role, as (file, seconds since 1970 at which it runs out), in place of those before.
    pub fn set_certificates(&self, role: &'static str, now: &[(String, i64)]) {
        let mut known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        for (file, until) in now {
            self.certificate_expiry.with_label_values(&[role, file.as_str()]).set(*until);
        }
        known.retain(|(other, file, _)| {
            if *other == role && !now.iter().any(|(kept, _)| kept == file) {
                // Its series is there, because it was set.
                let _ = self.certificate_expiry.remove_label_values(&[role, file.as_str()]);
            }
            *other != role
        });
        known.extend(now.iter().map(|(file, until)| (role, file.clone(), *until)));
    }

    /// All certificates, as (role, file, seconds since 1970 at which it runs out).
    pub fn certificates(&self) -> Vec<(&'static str, String, i64)> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes bytes free on the cache directory's file system, and its size; `None` when that is unknown.
    pub fn set_disk(&self, free_and_size: Option<(u64, u64)>) {
        match free_and_size {
            Some((free, size)) => {
                self.disk_free.with_label_values::<&str>(&[]).set(i64::try_from(free).unwrap_or(i64::MAX));
                self.disk_size.with_label_values::<&str>(&[]).set(i64::try_from(size).unwrap_or(i64::MAX));
            }
            None => {
                self.disk_free.reset();
                self.disk_size.reset();
            }
        }
    }

    /// The text format of Prometheus.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out).unwrap_or_else(|e| unreachable!("{e}"));
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The sum of a counter over the label values that `fits` wants; it asks for a value by the label's name.
pub fn sum(counters: &IntCounterVec, fits: impl Fn(&dyn Fn(&str) -> String) -> bool) -> u64 {
    let families = counters.collect();
    let counted = families.iter().flat_map(|family| family.get_metric());
    let fitting = counted.filter(|metric| {
        let labels = metric.get_label();
        let value = |name: &str| {
            labels.iter().find(|label| label.name() == name).map(|label| label.value().to_owned())
        };
        fits(&|name| value(name).unwrap_or_default())
    });
    fitting.map(|metric| metric.get_counter().get_value() as u64).sum()
}

/// Makes a metric and registers it; both fail only for names that a test would have shown to be wrong.
struct Made<'r>(&'r Registry);

impl Made<'_> {
    fn add<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.unwrap_or_else(|e| unreachable!("{e}"));
        self.0.register(Box::new(made.clone())).unwrap_or_else(|e| unreachable!("{e}"));
        made
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// From 1 ms to half a minute, in which a gateway gives up.
    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let buckets = exponential_buckets(0.001, 2.0, 16).unwrap_or_else(|e| unreachable!("{e}"));
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_can_be_made_and_printed() {
        let metrics = Metrics::new();
        metrics.requests.with_label_values(&["plugin", "200", "hit"]).inc();
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains("larder_requests_total{cache=\"hit\",route=\"plugin\",status=\"200\"} 1"));
        assert!(text.contains("larder_module_lookups_total{tier=\"memory\"} 0"));
        assert!(text.contains("process_resident_memory_bytes"));
    }

    #[test]
    fn a_registry_that_nobody_named_has_all_outcomes_from_its_first_exchange_on() {
        let metrics = Metrics::new();
        metrics.upstream("r", "ok", Duration::ZERO);
        let text = String::from_utf8(metrics.render()).unwrap();
        let value = |outcome: &str, number: u64| {
            text.contains(&format!(
                "larder_upstream_requests_total{{outcome=\"{outcome}\",registry=\"r\"}} {number}\n"
            ))
        };
        assert!(value("ok", 1) && value("connect", 0) && value("server_error", 0), "{text}");
    }

    #[test]
    fn a_certificate_is_there_as_long_as_its_role_has_it() {
        let metrics = Metrics::new();
        let has = |series: &str| String::from_utf8(metrics.render()).unwrap().contains(series);
        metrics.set_certificates("ca", &[("a".into(), 1), ("b".into(), 2)]);
        metrics.set_certificates("server", &[("a".into(), 3)]);
        metrics.set_certificates("ca", &[("b".into(), 4)]);
        let name = "larder_certificate_expiry_timestamp_seconds";
        assert!(has(&format!("{name}{{file=\"b\",role=\"ca\"}} 4")));
        assert!(
            has(&format!("{name}{{file=\"a\",role=\"server\"}} 3")),
            "another role's file of that name stays"
        );
        assert!(!has(&format!("{name}{{file=\"a\",role=\"ca\"}}")));
        assert_eq!(metrics.certificates(), [("server", "a".to_owned(), 3), ("ca", "b".to_owned(), 4)]);
    }

    #[test]
    fn a_disk_that_is_not_known_has_no_numbers() {
        let metrics = Metrics::new();
        let has = || String::from_utf8(metrics.render()).unwrap().contains("larder_disk_free_bytes 7\n");
        metrics.set_disk(Some((7, 70)));
        assert!(has());
        metrics.set_disk(None);
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(!text.contains("larder_disk_free") && !text.contains("larder_disk_size"));
        metrics.set_disk(Some((7, 70)));
        assert!(has());
    }
}
