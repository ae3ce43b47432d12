//! Counting answers, and where modules are found. What nearly all requests get has its series looked up once: to find one by
//! its labels costs more than to count.

use super::Metrics;
use prometheus::{Histogram, IntCounter};
use std::sync::OnceLock;
use std::time::Duration;

/// The usual answers, by route, status and how the cache answered.
const ANSWERS: [(&str, u16, &str); 4] =
    [("plugin", 200, "hit"), ("plugin", 304, "hit"), ("metadata", 200, "hit"), ("metadata", 304, "hit")];

/// Their series, from the first one on: what never was is not scraped.
#[derive(Default)]
pub(super) struct Usual([OnceLock<Answered>; ANSWERS.len()]);

/// The series of one kind of answer.
struct Answered {
    requests: IntCounter,
    duration: Histogram,
    bytes: IntCounter,
}

impl Metrics {
    /// Counts an answered request: which `route` and `status`, how the `cache` answered, what it `took`, and `bytes` of body.
    pub fn answered(
        &self,
        route: &'static str,
        status: u16,
        cache: &'static str,
        took: Duration,
        bytes: u64,
    ) {
        let usual = ANSWERS.iter().position(|usual| *usual == (route, status, cache));
        let count = |series: &Answered| {
            series.requests.inc();
            series.duration.observe(took.as_secs_f64());
            series.bytes.inc_by(bytes);
        };
        match usual.and_then(|usual| self.usual.0.get(usual)) {
            Some(series) => count(series.get_or_init(|| self.series(route, status, cache))),
            None => count(&self.series(route, status, cache)),
        }
    }

    /// Counts a module that was found in `tier`.
    pub fn found(&self, tier: &'static str) {
        if tier == "memory" {
            self.found_in_memory.inc()
        } else {
            self.lookups.with_label_values(&[tier]).inc()
        }
    }

    fn series(&self, route: &str, status: u16, cache: &str) -> Answered {
        let status = status.to_string();
        let labels = [route, status.as_str(), cache];
        Answered {
            requests: self.requests.with_label_values(&labels),
            duration: self.request_duration.with_label_values(&labels),
            bytes: self.response_bytes.with_label_values(&[route]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_answer_is_counted_as_any_other_and_is_not_there_before_it() {
        let metrics = Metrics::new();
        let text = || String::from_utf8(metrics.render()).unwrap();
        assert!(!text().contains("larder_response_bytes_total{"));
        for (route, status, cache) in [("plugin", 304, "hit"), ("plugin", 200, "stale")] {
            let labels = format!("cache=\"{cache}\",route=\"{route}\",status=\"{status}\"");
            assert!(!text().contains(&format!("larder_request_duration_seconds_count{{{labels}}}")));
            for _ in 0..3 {
                metrics.answered(route, status, cache, Duration::from_secs(2), 5);
            }
            for (name, value) in [
                ("requests_total", 3),
                ("request_duration_seconds_count", 3),
                ("request_duration_seconds_sum", 6),
            ] {
                assert!(text().contains(&format!("larder_{name}{{{labels}}} {value}\n")), "{}", text());
            }
        }
        assert!(text().contains("larder_response_bytes_total{route=\"plugin\"} 30\n"));
        metrics.found("memory");
        metrics.found("disk");
        for tier in ["memory", "disk"] {
            assert!(text().contains(&format!("larder_module_lookups_total{{tier=\"{tier}\"}} 1\n")));
        }
    }
}
