//! The MD5 of what is being written, computed beside it: it takes as long as all else that is done to a byte.
//!
//! No thread waits for bytes that may not come for long: whoever brings some has a thread of the runtime add them, unless one
//! is at it, and where too many wait adds them itself. Without a runtime it always does.

use super::entry::hex;
use md5::{Digest as _, Md5};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

/// Bytes are handed on in pieces of this size.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait. With one that is being filled and one that is being added they are half of what a fetch may take.
const PIECES_WAITING: usize = 2;

/// An MD5 to be.
pub(super) struct Beside {
    work: Arc<Work>,
    /// Handed on when it is full.
    piece: Vec<u8>,
}

#[derive(Default)]
struct Work {
    state: Mutex<State>,
    /// Fewer pieces wait, or nobody is at it any more.
    went_on: Condvar,
}

struct State {
    /// Of what was added; away while somebody is at it.
    md5: Option<Md5>,
    waiting: VecDeque<Vec<u8>>,
    /// A thread was called, and is not here yet.
    is_called: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { md5: Some(Md5::new()), waiting: VecDeque::new(), is_called: false }
    }
}

impl Beside {
    /// Of nothing yet.
    pub(super) fn new() -> Self {
        Self { work: Arc::default(), piece: Vec::new() }
    }

    /// Adds `bytes`. Blocks while too many wait.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.piece.capacity() == 0 {
                self.piece.reserve_exact(PIECE_BYTES);
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE_BYTES {
                self.hand_on();
            }
        }
    }

    fn hand_on(&mut self) {
        let work = &self.work;
        let mut state = work.state();
        state.waiting.push_back(std::mem::take(&mut self.piece));
        if let Some(runtime) = Handle::try_current().ok().filter(|_| state.md5.is_some() && !state.is_called)
        {
            state.is_called = true;
            let called = work.clone();
            runtime.spawn_blocking(move || {
                let mut state = called.state();
                state.is_called = false;
                drop(called.add(state));
            });
        }
        while state.waiting.len() > PIECES_WAITING {
            state = work.add(state);
            if state.waiting.len() > PIECES_WAITING {
                state = work.went_on.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// The MD5 of all that was added, in hexadecimal. Blocks.
    pub(super) fn finish(mut self) -> String {
        let work = self.work.clone();
        let mut state = work.state();
        state.waiting.push_back(std::mem::take(&mut self.piece));
        loop {
            state = work.add(state);
            if let Some(md5) = state.md5.take() {
                return hex(md5);
            }
            state = work.went_on.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds all that waits, unless somebody is at it.
    fn add<'w>(&'w self, mut state: MutexGuard<'w, State>) -> MutexGuard<'w, State> {
        let Some(mut md5) = state.md5.take() else { return state };
        while let Some(piece) = state.waiting.pop_front() {
            drop(state);
            self.went_on.notify_one();
            md5.update(&piece);
            state = self.state();
        }
        state.md5 = Some(md5);
        self.went_on.notify_one();
        state
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::md5_of;
    use super::*;

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|n| ((n * 31) >> 3) as u8).collect()
    }

    fn added(bytes: &[u8], step: usize) -> String {
        let mut beside = Beside::new();
        bytes.chunks(step).for_each(|some| beside.update(some));
        beside.finish()
    }

    #[test]
    fn it_is_that_of_all_bytes_in_their_order_by_one_thread() {
        for size in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 9 * PIECE_BYTES + 7] {
            let bytes = bytes(size);
            for step in [4093, PIECE_BYTES, 3 * PIECE_BYTES + 1] {
                assert_eq!(added(&bytes, step), md5_of(&bytes), "{size} by {step}");
            }
        }
    }

    /// One thread for all that blocks: it brings the bytes, so that nobody comes when called until it is done.
    #[test]
    fn nobody_waits_for_a_thread_that_does_not_come() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let bytes = bytes(9 * PIECE_BYTES + 7);
        let right = md5_of(&bytes);
        let brought = runtime.spawn_blocking(move || added(&bytes, 4093));
        assert_eq!(runtime.block_on(brought).unwrap(), right);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_that_of_all_bytes_in_their_order_by_many_threads() {
        let bytes = Arc::new(bytes(5 * PIECE_BYTES + 7));
        let right = md5_of(&bytes);
        let mut bringing = tokio::task::JoinSet::new();
        for n in 0..32 {
            let bytes = bytes.clone();
            bringing.spawn_blocking(move || added(&bytes, 50_000 + n));
        }
        assert!(bringing.join_all().await.iter().all(|md5| *md5 == right));
    }
}
