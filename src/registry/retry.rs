//! How often a question is asked, how long that takes, and what is told when nobody answered.

use super::breaker::Breaker;
use super::error::{Kind, RegistryError};
use crate::oci::Reference;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The first pause between two attempts; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Time between two looks at whether a registry may be asked again.
pub const LOOK: Duration = Duration::from_millis(50);
/// How long a question waits for the one that is asked while a registry is left alone.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The longest pause that a registry may ask of whoever has time.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How often a question is asked, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Attempts in all.
    pub attempts: u32,
    /// No new attempt is begun after this time: what waits for the answer gives up soon after.
    pub within: Duration,
}

/// The pause behind attempt `attempts`, with jitter.
pub fn pause(attempts: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Asks up to `attempts` times, for whoever has time: also when a registry limits us, and then as late as it says.
///
/// # Errors
/// The last one; at once where asking again is of no use, or where the registry asks for more time than a minute.
pub async fn persist<T, A>(attempts: u32, mut ask: impl FnMut() -> A) -> Result<T, RegistryError>
where
    A: Future<Output = Result<T, RegistryError>>,
{
    let mut asked = 0;
    loop {
        let error = match ask().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        asked += 1;
        if asked >= attempts {
            return Err(error);
        }
        wait(asked, error).await?;
    }
}

/// Waits behind attempt `attempts`, which ended in `error`.
///
/// # Errors
/// `error`, where asking again is of no use.
pub async fn wait(attempts: u32, error: RegistryError) -> Result<(), RegistryError> {
    let wait = error.retry_after.unwrap_or_else(|| pause(attempts));
    if !(error.may_pass() || error.kind == Kind::RateLimited) || wait > LONGEST_WAIT {
        return Err(error);
    }
    tracing::info!(code = error.code, attempts, error = error.detail, "asked again");
    tokio::time::sleep(wait).await;
    Ok(())
}

/// Nobody answered.
pub struct Silence {
    /// What is told of it.
    pub error: RegistryError,
    /// Those who were not asked because somebody else is asking them.
    pub waiting: Vec<Arc<Breaker>>,
}

impl From<RegistryError> for Silence {
    fn from(error: RegistryError) -> Self {
        Self { error, waiting: Vec::new() }
    }
}

impl Silence {
    /// True as soon as one of those who were not asked may be; false when that takes too long.
    pub async fn may_ask(&self, end: Instant) -> bool {
        while Instant::now() < end {
            if self.waiting.iter().any(|breaker| breaker.would_admit()) {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }
}

/// One error of those of all endpoints. Only where none of them might still have it does "not found" or "denied" stand:
/// those end a gateway's attempts.
pub fn together(reference: &Reference, failed: Vec<RegistryError>) -> RegistryError {
    let rank = |error: &RegistryError| match error.kind {
        Kind::NotFound => 3,
        Kind::Denied => 2,
        // One that is over in a moment decides whether it is asked again.
        _ if error.may_pass() || error.is_waiting_for_others() => 0,
        _ => 1,
    };
    let details: Vec<_> = failed.iter().map(|error| error.detail.clone()).collect();
    match failed.into_iter().min_by_key(rank) {
        Some(error) => RegistryError { detail: details.join("; "), ..error },
        None => {
            RegistryError::new(Kind::Settings, format!("{reference}: none of its endpoints resolves tags"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_jitter_and_end() {
        for _ in 0..100 {
            assert!((100..=200).contains(&pause(1).as_millis()));
            assert!((200..=400).contains(&pause(2).as_millis()));
            assert!((1000..=2000).contains(&pause(50).as_millis()));
        }
    }

    #[test]
    fn of_several_failures_the_one_that_may_pass_is_told_and_an_absence_only_when_all_agree() {
        let reference: Reference = "h.example/a:1".parse().unwrap();
        let told = |kinds: &[Kind]| {
            let failed = kinds.iter().map(|kind| RegistryError::new(*kind, "said")).collect();
            together(&reference, failed).kind
        };
        assert_eq!(told(&[Kind::RateLimited, Kind::Connect]), Kind::Connect);
        assert_eq!(told(&[Kind::Tls, Kind::TimedOut]), Kind::TimedOut);
        assert_eq!(told(&[Kind::NotFound, Kind::Denied, Kind::Tls]), Kind::Tls);
        assert_eq!(told(&[Kind::NotFound, Kind::Denied]), Kind::Denied);
        assert_eq!(told(&[Kind::NotFound, Kind::NotFound]), Kind::NotFound);
        assert_eq!(told(&[]), Kind::Settings);
    }
}
