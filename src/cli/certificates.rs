//! How long the certificates that larder was given are good for: counted for Prometheus, and told in the log while there is
//! still time. One that has run out is used all the same: whoever is shown it decides.

use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::registry::expiry::Expiries;
use crate::registry::trust;
use std::sync::Arc;
use std::time::Duration;

/// Time between two warnings of the same certificate.
pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long before its end a certificate is told of, in seconds.
const EARLY: i64 = 7 * 24 * 3600;

/// Counts what registries are met with, in place of what was before.
pub fn count(metrics: &Metrics, expiries: &Expiries) {
    let now = trust::now();
    for role in ["ca", "client"] {
        metrics.set_certificates(role, &expiries.of(role, now));
    }
}

/// Tells of those that run out, now and again and again; `others` tells of those that clients are shown, which were told
/// when they were read.
pub async fn watch(metrics: Arc<Metrics>, others: impl Fn(), between: Duration) {
    loop {
        tell(&metrics);
        tokio::time::sleep(between).await;
        others();
    }
}

/// Tells of those towards registries that run out within a week, or have.
pub fn tell(metrics: &Metrics) {
    let now = trust::now();
    let towards = metrics.certificates().into_iter().filter(|(role, ..)| matches!(*role, "ca" | "client"));
    for (role, file, until) in towards {
        let left = until - now;
        let until = Timestamp::from_unix(until);
        if left < 0 {
            tracing::warn!(event = "certificate_expired", role, file, %until, "a certificate has run out: renew it");
        } else if left < EARLY {
            let days = left / (24 * 3600);
            tracing::warn!(event = "certificate_expires", role, file, %until, days, "a certificate runs out: renew it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Mutex;
    use std::time::Instant;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_certificate_is_told_from_a_week_before_its_end_again_and_again() {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _listening = tracing::subscriber::set_default(log);
        let metrics = Arc::<Metrics>::default();
        let now = trust::now();
        let files = [("over", -5), ("week", EARLY + 60), ("soon", EARLY - 60), ("ages", i64::MAX - now)];
        metrics.set_certificates("client", &files.map(|(file, left)| (file.to_owned(), now + left)));
        let watching = tokio::spawn(watch(metrics, || (), Duration::from_millis(1)));
        let count = |words: &[&str]| {
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            text.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
        };
        let until = Instant::now() + Duration::from_secs(30);
        while count(&["certificate_expires", "role=\"client\"", "file=\"soon\"", "days=6"]) < 3 {
            assert!(Instant::now() < until, "it is told once");
            tokio::task::yield_now().await;
        }
        assert!(count(&["certificate_expired", "file=\"over\""]) >= 3);
        assert_eq!(count(&["\"week\""]) + count(&["\"ages\""]), 0);
        watching.abort();
        assert_eq!(DAY.as_secs(), 86_400);
    }
}
