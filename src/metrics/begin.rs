//! What begins at 0: labels that are known before anything is counted.

use super::Metrics;

/// Why no answer came from a registry, in as many words as there are.
const NO_ANSWER: [&str; 16] = [
    "dns",
    "connect",
    "timeout",
    "address_refused",
    "proxy_auth",
    "proxy_closed",
    "proxy_connect",
    "proxy_refused",
    "tls",
    "tls_client_certificate",
    "tls_expired",
    "tls_name",
    "tls_not_yet_valid",
    "tls_plain_http",
    "tls_unknown_ca",
    "tls_version",
];
/// How handshakes with clients end.
const HANDSHAKES: [&str; 9] = [
    "ok",
    "timeout",
    "closed",
    "plain_http",
    "no_certificate",
    "bad_certificate",
    "refused",
    "incompatible",
    "malformed",
];

impl Metrics {
    /// Closed sets begin at 0, so that the first one is seen to be more than none: what a series begins with is no
    /// increase.
    pub(super) fn begin(&self) {
        let metrics = self;
        for tier in ["memory", "disk", "overlay", "upstream"] {
            metrics.lookups.with_label_values(&[tier]);
        }
        for cache in ["hit", "stale", "miss", "collapsed"] {
            metrics.requests.with_label_values(&["plugin", "200", cache]);
        }
        for status in ["404", "502", "503", "504"] {
            metrics.requests.with_label_values(&["plugin", status, "error"]);
        }
        for reason in NO_ANSWER.iter().chain(&[
            "while-revalidate",
            "upstream",
            "rate_limited",
            "denied",
            "token",
            "lock_mismatch",
        ]) {
            metrics.stale_served.with_label_values(&[*reason]);
        }
        let operations = ["creating", "writing", "syncing", "renaming", "removing", "opening", "reading"];
        for operation in operations.iter().chain(&["listing", "looking at", "locking"]) {
            metrics.disk_errors.with_label_values(&[*operation]);
        }
        for code in [
            "not_found",
            "denied",
            "unknown_name",
            "unknown_version",
            "version_needed",
            "no_route",
            "unexpanded_template",
        ] {
            metrics.refused.with_label_values(&[code]);
        }
        for mode in ["record", "enforce"] {
            metrics.lock_mismatch.with_label_values(&[mode]);
        }
        for result in ["verified", "unsigned", "signature_invalid", "signatures_unreachable"] {
            metrics.signatures.with_label_values(&[result]);
        }
        for result in ["ok", "error"] {
            metrics.reloads.with_label_values(&[result]);
        }
    }

    /// Begins at 0 what is counted of a registry by outcome.
    pub fn expect_registry(&self, registry: &str) {
        for outcome in NO_ANSWER.iter().chain(&["ok", "redirect", "client_error", "server_error"]) {
            self.upstream_requests.with_label_values(&[registry, *outcome]);
        }
    }

    /// Begins at 0 what is counted of a port.
    pub fn expect_listener(&self, listener: &str, speaks_tls: bool) {
        for reason in ["total", "address"] {
            self.connections_refused.with_label_values(&[listener, reason]);
        }
        for result in HANDSHAKES.iter().filter(|_| speaks_tls) {
            self.tls_handshakes.with_label_values(&[listener, *result]);
        }
    }
}
