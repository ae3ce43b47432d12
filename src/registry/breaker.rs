//! When a registry is left alone: because it asks us to (429, `Retry-After`), because nothing comes of asking, or because
//! larder is offline and nobody is asked.
//!
//! After some failures in a row it is asked by one request at a time, a little later each time; whoever else asks is told
//! at once what the others were told. The pause stays short: a registry that is back must not be missed for long.

use super::error::{Kind, RegistryError};
use crate::clock::{Clock, Timestamp};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a 429 that names no time keeps us away.
const LIMITED: Duration = Duration::from_secs(5);

/// What may be done now, as a metric has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Ask.
    Closed = 0,
    /// Leave it alone.
    Open = 1,
    /// One asks.
    HalfOpen = 2,
}

/// One registry's.
pub struct Breaker {
    name: String,
    clock: Arc<dyn Clock>,
    offline: Arc<AtomicBool>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    failures: u32,
    pauses: u32,
    until: Option<Timestamp>,
    probing: bool,
    why: Option<RegistryError>,
    limited: Option<(Timestamp, RegistryError)>,
}

/// Leave to ask. Dropped without a result, it counts for nothing.
pub struct Pass<'b> {
    breaker: &'b Breaker,
    is_probe: bool,
}

impl Breaker {
    fn new(name: &str, clock: Arc<dyn Clock>, offline: Arc<AtomicBool>) -> Self {
        Self { name: name.into(), clock, offline, inner: Mutex::default() }
    }

    /// Whether a connection may be opened: none is while larder is offline.
    ///
    /// # Errors
    /// `offline`.
    pub fn is_online(&self) -> Result<(), RegistryError> {
        if !self.offline.load(Ordering::SeqCst) {
            return Ok(());
        }
        let detail = format!("{} is not asked: larder is offline (policy.mode)", self.name);
        let error = RegistryError::new(Kind::Settings, detail).code("offline");
        Err(RegistryError { was_asked: false, ..error.hint("use what is held, or set policy.mode: online") })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to ask now.
    ///
    /// # Errors
    /// Why not, with what was last heard of the registry.
    pub fn admit(&self) -> Result<Pass<'_>, RegistryError> {
        self.is_online()?;
        let now = self.clock.now();
        let mut inner = self.lock();
        if let Some((until, why)) = inner.limited.as_ref().filter(|(until, _)| *until > now) {
            let left = until.since(now);
            let detail =
                format!("{} is not asked for another {} s: {}", self.name, seconds(left), why.detail);
            return Err(RegistryError { detail, retry_after: Some(left), was_asked: false, ..why.clone() });
        }
        inner.limited = None;
        if inner.failures < FAILURES {
            return Ok(Pass { breaker: self, is_probe: false });
        }
        let waits = inner.until.is_some_and(|until| until > now);
        if let Some(why) = inner.why.as_ref().filter(|_| waits || inner.probing) {
            let detail = format!(
                "{} failed {} times in a row and is asked by one at a time: {}",
                self.name, inner.failures, why.detail
            );
            return Err(RegistryError { detail, was_asked: false, ..why.clone() });
        }
        inner.probing = true;
        Ok(Pass { breaker: self, is_probe: true })
    }

    /// True when leave would be given now.
    pub fn would_admit(&self) -> bool {
        let now = self.clock.now();
        let inner = self.lock();
        let limited = inner.limited.as_ref().is_some_and(|(until, _)| *until > now);
        let waits = inner.until.is_some_and(|until| until > now);
        !limited && (inner.failures < FAILURES || !(waits || inner.probing))
    }

    /// Leaves the registry alone as long as `error` asks for.
    pub fn stay_away(&self, error: &RegistryError) {
        let wait = error.retry_after.unwrap_or(LIMITED);
        if !wait.is_zero() {
            self.lock().limited = Some((self.clock.now().plus(wait), error.clone()));
        }
    }

    /// Forgets failures, as when the settings have changed. What the registry asked for stays.
    pub fn forget(&self) {
        let mut inner = self.lock();
        *inner = Inner { limited: inner.limited.take(), ..Inner::default() };
    }

    /// What may be done now.
    pub fn state(&self) -> State {
        let (now, inner) = (self.clock.now(), self.lock());
        let later = |until: Option<Timestamp>| until.is_some_and(|until| until > now);
        if later(inner.limited.as_ref().map(|(until, _)| *until)) {
            State::Open
        } else if inner.failures < FAILURES {
            State::Closed
        } else if inner.probing || !later(inner.until) {
            State::HalfOpen
        } else {
            State::Open
        }
    }
}

impl Pass<'_> {
    /// How it went. An answer of any kind is a sign of life.
    pub fn ended<T>(self, result: &Result<T, RegistryError>) {
        let breaker = self.breaker;
        match result {
            // What was answered from memory says nothing new.
            Err(error) if !error.was_asked => {}
            Err(error) if error.is_outage() => {
                let mut inner = breaker.lock();
                inner.failures = inner.failures.saturating_add(1);
                inner.why = Some(error.clone());
                if inner.failures >= FAILURES {
                    let longest = FIRST_PAUSE.saturating_mul(1 << inner.pauses.min(8)).min(LONGEST_PAUSE);
                    inner.pauses += u32::from(self.is_probe);
                    // So that larders that saw it fall together do not ask together.
                    inner.until =
                        Some(breaker.clock.now().plus(longest.mul_f64(0.75 + fastrand::f64() / 4.0)));
                }
            }
            _ => {
                let mut inner = breaker.lock();
                *inner = Inner { limited: inner.limited.take(), probing: inner.probing, ..Inner::default() };
            }
        }
        // Of other statuses a time is about the one question, and their word is not for others.
        let limited = |e: &RegistryError| {
            e.kind == Kind::RateLimited || (e.status == Some(503) && e.retry_after.is_some())
        };
        if let Err(error) = result
            && error.was_asked
            && limited(error)
        {
            breaker.stay_away(error);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.lock().probing = false;
        }
    }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Those of all registries, and the turns at them; they outlive a change of settings.
pub struct Breakers {
    clock: Arc<dyn Clock>,
    all: Mutex<HashMap<String, Arc<Breaker>>>,
    turns: Mutex<HashMap<(String, usize), Arc<Semaphore>>>,
    offline: Arc<AtomicBool>,
}

impl Breakers {
    /// None yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, all: Mutex::default(), turns: Mutex::default(), offline: Arc::default() })
    }

    /// Others for whoever asks beside the requests of gateways: what registries asked for holds for them too, and who goes
    /// offline goes so for them; failures are not theirs.
    pub fn beside(&self) -> Arc<Self> {
        let beside = Arc::new(Self {
            clock: self.clock.clone(),
            all: Mutex::default(),
            turns: Mutex::default(),
            offline: self.offline.clone(),
        });
        for (name, breaker) in self.all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            beside.of(name).lock().limited = breaker.lock().limited.clone();
        }
        beside
    }

    /// From now on nobody is asked, or everybody again. What is being read is read to its end.
    pub fn go_offline(&self, offline: bool) {
        self.offline.store(offline, Ordering::SeqCst);
    }

    /// Turns at `name`, `number` at once, whatever leads there.
    pub fn turns(&self, name: &str, number: usize) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry((name.into(), number)).or_insert_with(|| Arc::new(Semaphore::new(number))).clone()
    }

    /// Leaves out one that was made to try its settings.
    pub fn remove(&self, name: &str) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// That of `name`.
    pub fn of(&self, name: &str) -> Arc<Breaker> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(name.into())
            .or_insert_with(|| Arc::new(Breaker::new(name, self.clock.clone(), self.offline.clone())))
            .clone()
    }

    /// All, by name.
    pub fn list(&self) -> Vec<(String, State)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, breaker)| (name.clone(), breaker.state())).collect()
    }

    /// See [`Breaker::forget`].
    pub fn forget(&self) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().for_each(|breaker| breaker.forget());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn made() -> (Arc<ManualClock>, Breaker) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
        (clock.clone(), Breaker::new("r.example", clock, Arc::default()))
    }

    fn down() -> Result<(), RegistryError> {
        Err(RegistryError::new(Kind::Connect, "refused"))
    }

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.admit().map(|pass| pass.ended(&down())).unwrap();
        }
    }

    #[test]
    fn after_failures_in_a_row_one_asks_at_a_time_and_a_success_closes_it() {
        let (clock, breaker) = made();
        fail(&breaker, 4);
        breaker.admit().map(|pass| pass.ended(&Ok(()))).unwrap();
        fail(&breaker, 5);
        assert_eq!(breaker.state(), State::Open);
        let refused = breaker.admit().err().unwrap();
        assert_eq!((refused.kind, refused.code), (Kind::Connect, "connect"));
        assert!(refused.detail.contains("refused"), "{refused}");
        clock.advance(FIRST_PAUSE);
        let probe = breaker.admit().unwrap();
        assert_eq!(breaker.state(), State::HalfOpen);
        assert!(breaker.admit().is_err(), "one at a time");
        probe.ended(&Ok(()));
        assert_eq!(breaker.state(), State::Closed);
        fail(&breaker, 4);
        assert_eq!(breaker.state(), State::Closed, "counting begins anew");
    }

    #[test]
    fn who_asks_beside_the_gateways_goes_offline_and_online_with_them_whenever_that_is() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
        let breakers = Breakers::new(clock);
        let beside = breakers.beside();
        let of_before = beside.of("r.example");
        breakers.go_offline(true);
        for breaker in [&of_before, &beside.of("later.example")] {
            assert_eq!(breaker.admit().err().map(|error| error.code), Some("offline"));
        }
        breakers.go_offline(false);
        assert!(of_before.admit().is_ok());
    }

    #[test]
    fn a_probe_that_is_given_up_lets_the_next_one_ask() {
        let (clock, breaker) = made();
        fail(&breaker, 5);
        clock.advance(FIRST_PAUSE);
        drop(breaker.admit().unwrap());
        assert!(breaker.admit().is_ok());
    }

    #[test]
    fn pauses_grow_and_stay_short() {
        let (clock, breaker) = made();
        fail(&breaker, 5);
        for _ in 0..20 {
            clock.advance(LONGEST_PAUSE);
            fail(&breaker, 1);
            assert!(breaker.admit().is_err());
        }
        clock.advance(LONGEST_PAUSE.mul_f64(0.7));
        assert!(breaker.admit().is_err(), "they have grown");
        clock.advance(LONGEST_PAUSE.mul_f64(0.3));
        assert!(breaker.admit().is_ok(), "and not beyond the longest");
    }

    #[test]
    fn what_a_registry_says_is_no_outage() {
        let (_, breaker) = made();
        for kind in [Kind::NotFound, Kind::Denied, Kind::Corrupt, Kind::Upstream, Kind::RedirectRefused] {
            for _ in 0..10 {
                let result: Result<(), _> = Err(RegistryError::new(kind, "said"));
                breaker.admit().map(|pass| pass.ended(&result)).unwrap();
            }
        }
        assert_eq!(breaker.state(), State::Closed);
        for status in [502, 503, 504] {
            let result: Result<(), _> =
                Err(RegistryError { status: Some(status), ..RegistryError::new(Kind::Upstream, "") });
            breaker.admit().map(|pass| pass.ended(&result)).unwrap();
        }
        fail(&breaker, 2);
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn a_time_beside_another_answer_is_for_that_question_alone() {
        let (_, breaker) = made();
        for (kind, status) in [(Kind::NotFound, 404), (Kind::Denied, 403), (Kind::Upstream, 500)] {
            let said: Result<(), _> = Err(RegistryError {
                retry_after: Some(Duration::from_secs(600)),
                status: Some(status),
                ..RegistryError::new(kind, "said")
            });
            breaker.admit().map(|pass| pass.ended(&said)).unwrap();
            assert!(breaker.admit().is_ok(), "{status}");
        }
        let busy: Result<(), _> = Err(RegistryError {
            retry_after: Some(Duration::from_secs(600)),
            status: Some(503),
            ..RegistryError::new(Kind::Upstream, "busy")
        });
        breaker.admit().map(|pass| pass.ended(&busy)).unwrap();
        assert!(breaker.admit().is_err());
    }

    #[test]
    fn a_registry_that_asks_for_time_gets_it_to_the_second() {
        let (clock, breaker) = made();
        let wait = Duration::from_secs(30);
        let limited: Result<(), _> =
            Err(RegistryError { retry_after: Some(wait), ..RegistryError::new(Kind::RateLimited, "429") });
        breaker.admit().map(|pass| pass.ended(&limited)).unwrap();
        clock.advance(wait - Duration::from_millis(1));
        let refused = breaker.admit().err().unwrap();
        assert_eq!((refused.kind, refused.retry_after), (Kind::RateLimited, Some(Duration::from_millis(1))));
        breaker.forget();
        assert_eq!(breaker.state(), State::Open, "new settings do not overrule it");
        clock.advance(Duration::from_millis(1));
        assert!(breaker.admit().is_ok());
        let unnamed: Result<(), _> = Err(RegistryError::new(Kind::RateLimited, "429"));
        breaker.admit().map(|pass| pass.ended(&unnamed)).unwrap();
        assert!(breaker.admit().is_err());
        clock.advance(LIMITED);
        assert!(breaker.admit().is_ok());
    }
}
