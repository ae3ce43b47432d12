//! Memory by the byte: taken from a budget before bytes are there, given back when the last reader is done with them.

use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A budget of bytes.
#[derive(Clone)]
pub struct Room {
    free: Arc<Semaphore>,
    limit: u64,
}

/// A part of it, given back when dropped.
#[derive(Debug)]
pub struct Taken(OwnedSemaphorePermit);

impl Room {
    /// Of `limit` bytes; more than the machine can count is what it can.
    pub fn new(limit: u64) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS as u64);
        Self { free: Arc::new(Semaphore::new(limit as usize)), limit }
    }

    /// All of it.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What is not taken.
    pub fn free(&self) -> u64 {
        self.free.available_permits() as u64
    }

    /// Takes `bytes` if they are free now.
    pub fn try_take(&self, bytes: u64) -> Option<Taken> {
        let number = u32::try_from(bytes).ok()?;
        self.free.clone().try_acquire_many_owned(number).ok().map(Taken)
    }

    /// Takes `bytes`, or all there are if that is less, and waits until they are free: first come, first served.
    pub async fn take(&self, bytes: u64) -> Taken {
        let number = u32::try_from(bytes.min(self.limit)).unwrap_or(u32::MAX);
        match self.free.clone().acquire_many_owned(number).await {
            Ok(taken) => Taken(taken),
            Err(_) => unreachable!("a budget is never closed"),
        }
    }
}

impl Taken {
    /// How many bytes it stands for.
    pub fn bytes(&self) -> u64 {
        self.0.num_permits() as u64
    }

    /// Adds a part of the same budget.
    pub fn join(&mut self, more: Self) {
        self.0.merge(more.0);
    }

    /// Gives back what is above `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let above = self.bytes().saturating_sub(bytes) as usize;
        drop(self.0.split(above));
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
}
