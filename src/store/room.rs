//! Memory by the byte: taken from a budget before bytes are there, given back when the last reader is done with them.

use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A budget of bytes, or of turns.
#[derive(Clone)]
pub struct Room(Arc<Budget>);

struct Budget {
    free: Arc<Semaphore>,
    size: Mutex<Size>,
}

#[derive(Clone, Copy)]
struct Size {
    limit: u64,
    /// What was taken of it before it was made smaller, and is not to come back.
    owed: u64,
}

/// A part of it, given back when dropped.
pub struct Taken {
    part: OwnedSemaphorePermit,
    of: Arc<Budget>,
}

impl Budget {
    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn taken(self: &Arc<Self>, part: OwnedSemaphorePermit) -> Taken {
        Taken { part, of: self.clone() }
    }
}

impl Room {
    /// Of `limit` bytes; more than the machine can count is what it can.
    pub fn new(limit: u64) -> Self {
        let limit = countable(limit);
        let free = Arc::new(Semaphore::new(limit as usize));
        Self(Arc::new(Budget { free, size: Mutex::new(Size { limit, owed: 0 }) }))
    }

    /// All of it.
    pub fn limit(&self) -> u64 {
        self.0.size().limit
    }

    /// What is not taken.
    pub fn free(&self) -> u64 {
        self.0.free.available_permits() as u64
    }

    /// Makes it larger or smaller. What is taken stays taken; of a smaller one there is nothing to be had until enough has
    /// come back. Whoever waits already for more than `limit` would wait for ever: the least sizes of the settings are
    /// above what anybody waits for.
    pub fn resize(&self, limit: u64) {
        let limit = countable(limit);
        let mut size = self.0.size();
        if limit >= size.limit {
            let more = limit - size.limit;
            let paid = more.min(size.owed);
            size.owed -= paid;
            self.0.free.add_permits((more - paid) as usize);
        } else {
            let less = size.limit - limit;
            size.owed += less - self.0.free.forget_permits(less as usize) as u64;
        }
        size.limit = limit;
    }

    /// Takes `bytes` if they are free now.
    pub fn try_take(&self, bytes: u64) -> Option<Taken> {
        let number = u32::try_from(bytes).ok()?;
        let part = self.0.free.clone().try_acquire_many_owned(number).ok()?;
        Some(self.0.taken(part))
    }

    /// Takes `bytes`, or all there are if that is less, and waits until they are free: first come, first served.
    pub async fn take(&self, bytes: u64) -> Taken {
        let number = u32::try_from(bytes.min(self.limit())).unwrap_or(u32::MAX);
        match self.0.free.clone().acquire_many_owned(number).await {
            Ok(part) => self.0.taken(part),
            Err(_) => unreachable!("a budget is never closed"),
        }
    }
}

/// No more than a semaphore counts.
fn countable(limit: u64) -> u64 {
    limit.min(Semaphore::MAX_PERMITS as u64)
}

impl Taken {
    /// How many bytes it stands for.
    pub fn bytes(&self) -> u64 {
        self.part.num_permits() as u64
    }

    /// Adds a part of the same budget.
    pub fn join(&mut self, mut more: Self) {
        let part = more.part.split(more.part.num_permits());
        part.into_iter().for_each(|part| self.part.merge(part));
    }

    /// Gives back what is above `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let above = self.part.split(self.bytes().saturating_sub(bytes) as usize);
        drop(above.map(|part| self.of.taken(part)));
    }

    /// `bytes` that hold this part as long as anybody reads them.
    pub fn hold(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { bytes, _taken: (self, None) })
    }

    /// The same, of two budgets.
    pub fn hold_both(self, other: Self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { bytes, _taken: (self, Some(other)) })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Under the lock, so that whoever makes the budget smaller sees this part either free or taken.
        let mut size = self.of.size();
        let owed = size.owed.min(self.bytes());
        size.owed -= owed;
        self.part.split(owed as usize).into_iter().for_each(OwnedSemaphorePermit::forget);
        drop(self.part.split(self.part.num_permits()));
    }
}

struct Held {
    bytes: Vec<u8>,
    _taken: (Taken, Option<Taken>),
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_taken_is_free_again_when_the_last_reader_is_done_and_those_who_wait_get_it() {
        let room = Room::new(100);
        let mut taken = room.try_take(60).unwrap();
        taken.join(room.try_take(20).unwrap());
        assert!(room.try_take(21).is_none());
        taken.shrink(70);
        assert_eq!((taken.bytes(), room.free()), (70, 30));
        let bytes = taken.hold(vec![1; 70]);
        let reader = bytes.slice(3..5);
        drop(bytes);
        assert_eq!(room.free(), 30);
        let waits = room.clone();
        let waiting = tokio::spawn(async move { waits.take(1000).await.bytes() });
        tokio::task::yield_now().await;
        drop(reader);
        assert_eq!(waiting.await.unwrap(), 100, "more than there is, is all there is");
        assert_eq!(room.free(), 100);
    }

    #[tokio::test]
    async fn a_budget_that_is_made_smaller_gives_nothing_until_enough_came_back_and_a_larger_one_gives_at_once()
     {
        let room = Room::new(100);
        let (first, mut second) = (room.try_take(50).unwrap(), room.try_take(40).unwrap());
        room.resize(60);
        assert_eq!((room.limit(), room.free()), (60, 0), "30 are taken beyond it");
        second.shrink(20);
        assert!(room.try_take(1).is_none(), "20 came back, and 10 more must");
        let waits = room.clone();
        let waiting = tokio::spawn(async move { waits.take(60).await.bytes() });
        tokio::task::yield_now().await;
        drop(first);
        drop(second);
        assert_eq!(waiting.await.unwrap(), 60);
        assert_eq!(room.free(), 60);
        let all = room.try_take(60).unwrap();
        room.resize(10);
        room.resize(70);
        assert_eq!(room.free(), 10, "what was owed is paid by the larger one");
        drop(all);
        assert_eq!(room.free(), 70);
        room.resize(0);
        assert!(room.try_take(1).is_none());
    }
}
