//! One piece of work for any number of those who want its result.
//!
//! The work runs as a task of its own, so that nobody's leaving ends it. Everybody gets the same result, errors too. A
//! task that panics wakes its waiters with nothing, and the next one who asks begins anew.

use crate::lock::Mutex;
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::watch;

type Running<K, V> = Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>;

/// Work in progress by key.
pub struct Collapse<K, V> {
    running: Running<K, V>,
}

impl<K, V> Default for Collapse<K, V> {
    fn default() -> Self {
        Self { running: Arc::default() }
    }
}

/// A claim on a result.
pub struct Waiting<V>(watch::Receiver<Option<V>>);

impl<V: Clone> Waiting<V> {
    /// The result, once it is there; `None` when the work was lost.
    pub async fn done(mut self) -> Option<V> {
        let value = self.0.wait_for(Option::is_some).await.ok()?;
        value.clone()
    }
}

/// Takes the key out when the task ends, however it ends.
struct Leave<K: Eq + Hash, V> {
    running: Running<K, V>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Leave<K, V> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl<K, V> Collapse<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// True when nothing is being worked on.
    pub fn is_empty(&self) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Joins the work for `key`, or begins it with `work` on `runtime`. The flag tells whether it was joined.
    pub fn join(
        &self,
        runtime: &Handle,
        key: K,
        work: impl Future<Output = V> + Send + 'static,
    ) -> (Waiting<V>, bool) {
        self.join_by(|task| drop(runtime.spawn(task)), key, work)
    }

    /// The same with another way to run the work.
    fn join_by(
        &self,
        spawn: impl FnOnce(BoxFuture<'static, ()>),
        key: K,
        work: impl Future<Output = V> + Send + 'static,
    ) -> (Waiting<V>, bool) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = running.get(&key) {
            return (Waiting(waiting.clone()), true);
        }
        let (tell, waiting) = watch::channel(None);
        running.insert(key.clone(), waiting.clone());
        // A runtime that is shutting down drops the task at once, and with it what takes the key out again.
        drop(running);
        // Made before the task: it takes the key out even when the task is never run.
        let leave = Leave { running: self.running.clone(), key };
        spawn(Box::pin(async move {
            let leave = leave;
            let value = work.await;
            // Left first: whoever asks from now on is to find what the work wrote down, not join what is over.
            drop(leave);
            tell.send_replace(Some(value));
        }));
        (Waiting(waiting), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_thousand_waiters_share_one_run_and_its_error() {
        let collapse: Collapse<u8, Result<u8, &str>> = Collapse::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let mut gate = Some(gate);
        let waiting: Vec<_> = (0..1000)
            .map(|_| {
                let (runs, gate) = (runs.clone(), gate.take());
                let work = async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    if let Some(gate) = gate {
                        let _ = gate.await;
                    }
                    Err("no")
                };
                collapse.join(&Handle::current(), 1, work)
            })
            .collect();
        assert_eq!(waiting.iter().filter(|(_, joined)| *joined).count(), 999);
        open.send(()).unwrap();
        for (waiting, _) in waiting {
            assert_eq!(waiting.done().await, Some(Err("no")));
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn work_goes_on_when_the_first_who_asked_leaves() {
        let collapse: Collapse<u8, u8> = Collapse::default();
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let (first, _) = collapse.join(&Handle::current(), 1, async move {
            let _ = gate.await;
            7
        });
        let (second, joined) = collapse.join(&Handle::current(), 1, async { 8 });
        assert!(joined);
        drop(first);
        open.send(()).unwrap();
        assert_eq!(second.done().await, Some(7));
    }

    #[tokio::test]
    async fn a_panic_strands_nobody_and_the_next_begins_anew() {
        let collapse: Collapse<u8, u8> = Collapse::default();
        let (lost, _) = collapse.join(&Handle::current(), 1, async { panic!("as the test wants") });
        let (joined, _) = collapse.join(&Handle::current(), 1, async { 8 });
        assert_eq!(lost.done().await, None);
        assert_eq!(joined.done().await, None);
        let (again, joined) = collapse.join(&Handle::current(), 1, async { 9 });
        assert!(!joined);
        assert_eq!(again.done().await, Some(9));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn work_that_is_over_is_not_joined() {
        let collapse: Collapse<u8, u32> = Collapse::default();
        for round in 0..5000 {
            let (work, joined) = collapse.join(&Handle::current(), 1, async move { round });
            assert!(!joined, "round {round} joined what was over");
            assert_eq!(work.done().await, Some(round));
        }
    }
}

#[cfg(all(test, feature = "interleave"))]
mod interleave {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn interleave_those_who_ask_for_one_thing() {
        let tries =
            if std::env::var("LARDER_FAULTS").is_ok_and(|form| form == "long") { 200_000 } else { 3000 };
        shuttle::check_random(
            || {
                let collapse = Arc::new(Collapse::<u8, usize>::default());
                let (running, runs) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
                let asking: Vec<_> = (0..4)
                    .map(|n| {
                        let (collapse, running, runs) = (collapse.clone(), running.clone(), runs.clone());
                        shuttle::future::spawn(async move {
                            let work = async move {
                                assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two run at once");
                                shuttle::future::yield_now().await;
                                running.fetch_sub(1, Ordering::SeqCst);
                                runs.fetch_add(1, Ordering::SeqCst)
                            };
                            let spawn = |task| drop(shuttle::future::spawn(task));
                            let (waiting, joined) = collapse.join_by(spawn, 1, work);
                            if n == 3 && !joined {
                                // Whoever began it leaves, and the others get theirs.
                                return joined;
                            }
                            assert!(waiting.done().await.is_some(), "stranded");
                            joined
                        })
                    })
                    .collect();
                let mut begun = 0;
                for task in asking {
                    begun += usize::from(!shuttle::future::block_on(task).unwrap());
                }
                // One that was begun by whoever left may still run; what is never over ends the test.
                while !collapse.is_empty() {
                    shuttle::thread::yield_now();
                }
                assert_eq!(runs.load(Ordering::SeqCst), begun);
            },
            tries,
        );
    }
}
