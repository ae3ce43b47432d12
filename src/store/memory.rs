//! Modules in memory, within a budget that holds for those too that have left and are still being sent.

use super::room::Room;
use crate::oci::Digest;
use arc_swap::ArcSwap;
use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::sync::{Arc, Mutex, PoisonError};

/// Modules by digest. Least recently used leave first: with the library's default a large module among small ones is
/// never let in (measured, 200 tries).
pub struct Memory {
    /// The library's cache cannot change its size, so another takes its place then.
    cache: ArcSwap<Cache<Digest, Slot>>,
    room: Room,
}

/// A module's place in the cache. The library frees what it drops when no thread of the process looks at any of its caches,
/// which may be never for long; so what leaves is taken out of its place by ourselves.
#[derive(Clone)]
struct Slot(Arc<Mutex<Option<Bytes>>>);

impl Slot {
    fn of(bytes: Bytes) -> Self {
        Self(Arc::new(Mutex::new(Some(bytes))))
    }

    fn get(&self) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn empty(&self) {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(bytes);
    }

    fn size(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |bytes| bytes.len() as u64)
    }
}

impl Memory {
    /// At most `limit` bytes; three quarters of them are kept for coming requests.
    pub fn new(limit: u64) -> Self {
        Self { cache: ArcSwap::from_pointee(cache(limit)), room: Room::new(limit) }
    }

    /// At most `limit` bytes from now on. What is here stays, as far as it fits.
    pub fn resize(&self, limit: u64) {
        if self.room.limit() == limit {
            return;
        }
        let new = cache(limit);
        for (digest, slot) in self.cache.load().iter() {
            if let Some(bytes) = slot.get().filter(|bytes| bytes.len() as u64 <= limit / 4) {
                new.insert(*digest, Slot::of(bytes));
            }
        }
        new.run_pending_tasks();
        self.room.resize(limit);
        let old = self.cache.swap(Arc::new(new));
        old.iter().for_each(|(_, slot)| slot.empty());
    }

    /// Most bytes.
    pub fn limit(&self) -> u64 {
        self.room.limit()
    }

    /// The largest module that is kept here: what is never filled, so that there is always room to load one.
    fn largest(&self) -> u64 {
        self.room.limit() / 4
    }

    /// True when a module of that size may be kept here.
    pub fn fits(&self, size: u64) -> bool {
        size <= self.largest()
    }

    /// True when a module of that size may be kept here and no other has to leave for it.
    pub fn has_room(&self, size: u64) -> bool {
        self.fits(size) && self.usage().1 + size <= kept(self.room.limit())
    }

    /// A module's bytes.
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.cache.load().get(digest)?.get()
    }

    /// Takes `size` of the budget, and reads the bytes only then. `None` when there is no room for them now or ever.
    pub fn load<E>(
        &self,
        digest: Digest,
        size: u64,
        read: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Option<Bytes>, E> {
        if !self.fits(size) {
            return Ok(None);
        }
        let taken = self.room.try_take(size).or_else(|| {
            // What is to leave may still wait for the cache's own housekeeping.
            self.cache.load().run_pending_tasks();
            self.room.try_take(size)
        });
        let Some(taken) = taken else { return Ok(None) };
        let bytes = read()?;
        if bytes.len() as u64 != size {
            return Ok(None);
        }
        let bytes = taken.hold(bytes);
        let cache = self.cache.load();
        cache.insert(digest, Slot::of(bytes.clone()));
        cache.run_pending_tasks();
        // Another took its place, and may have looked through this one before: nobody would empty it any more.
        if !Arc::ptr_eq(&cache, &self.cache.load()) {
            cache.invalidate(&digest);
        }
        Ok(Some(bytes))
    }

    /// Forgets a module.
    pub fn remove(&self, digest: &Digest) {
        self.cache.load().invalidate(digest);
    }

    /// Entries and bytes kept.
    pub fn usage(&self) -> (u64, u64) {
        let cache = self.cache.load();
        cache.run_pending_tasks();
        (cache.entry_count(), cache.weighted_size())
    }
}

/// Of a budget, the bytes that are kept for coming requests.
fn kept(limit: u64) -> u64 {
    limit / 4 * 3
}

fn cache(limit: u64) -> Cache<Digest, Slot> {
    Cache::builder()
        .max_capacity(kept(limit))
        .weigher(|_, slot: &Slot| u32::try_from(slot.size()).unwrap_or(u32::MAX))
        .eviction_listener(|_, slot, _| slot.empty())
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn load(memory: &Memory, name: &str, size: usize) -> Option<Bytes> {
        memory.load::<()>(Digest::of(name.as_bytes()), size as u64, || Ok(vec![0; size])).unwrap()
    }

    #[test]
    fn a_large_module_is_let_in_among_hot_small_ones() {
        let memory = Memory::new(400);
        for name in ["a", "b", "c", "d", "e", "f"] {
            load(&memory, name, 50);
        }
        for _ in 0..1000 {
            for name in ["a", "b", "c", "d", "e", "f"] {
                memory.get(&Digest::of(name.as_bytes()));
            }
        }
        assert!(load(&memory, "large", 100).is_some());
        assert!(memory.get(&Digest::of(b"large")).is_some());
    }

    #[test]
    fn one_that_would_push_too_much_out_is_not_kept() {
        let memory = Memory::new(400);
        assert!(load(&memory, "huge", 101).is_none());
    }

    #[test]
    fn bytes_count_until_the_last_reader_is_done() {
        let memory = Memory::new(400);
        let readers: Vec<_> = (0..4).filter_map(|n| load(&memory, &n.to_string(), 100)).collect();
        assert_eq!(readers.len(), 4);
        assert!(load(&memory, "fifth", 100).is_none(), "the budget is used up, kept or not");
        drop(readers);
        assert!(load(&memory, "fifth", 100).is_some());
    }

    /// A key that is looked at for as long as a test wants.
    #[derive(Clone)]
    struct Slow(Arc<Barrier>);

    impl std::hash::Hash for Slow {
        fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
    }

    impl Eq for Slow {}

    impl PartialEq for Slow {
        fn eq(&self, _: &Self) -> bool {
            self.0.wait();
            self.0.wait();
            true
        }
    }

    #[test]
    fn what_leaves_is_free_at_once_though_another_thread_looks_at_another_cache() {
        let pinned = Arc::new(Barrier::new(2));
        let other = moka::sync::Cache::new(10);
        other.insert(Slow(pinned.clone()), ());
        let memory = Memory::new(400);
        std::thread::scope(|scope| {
            scope.spawn(|| other.get(&Slow(pinned.clone())));
            pinned.wait();
            let evicted = (0..20).filter(|n| load(&memory, &n.to_string(), 100).is_some()).count();
            memory.resize(800);
            memory.resize(400);
            let resized = memory.room.free() + memory.usage().1;
            memory.remove(&Digest::of(b"19"));
            let removed = memory.room.free() + memory.usage().1;
            pinned.wait();
            assert_eq!((evicted, resized, removed), (20, 400, 400));
            assert_eq!(memory.usage().0, 2);
        });
    }

    #[test]
    fn there_is_room_where_nobody_has_to_leave() {
        let memory = Memory::new(400);
        for name in ["a", "b"] {
            load(&memory, name, 100);
        }
        assert!(memory.has_room(100) && !memory.has_room(101));
        load(&memory, "c", 50);
        assert!(memory.has_room(50) && !memory.has_room(51));
        assert!(!Memory::new(0).has_room(1));
    }

    #[test]
    fn a_failed_read_gives_its_room_back() {
        let memory = Memory::new(100);
        for _ in 0..10 {
            assert_eq!(memory.load(Digest::of(b"x"), 25, || Err("disk")), Err("disk"));
        }
        assert!(load(&memory, "x", 25).is_some());
    }

    #[test]
    fn a_new_limit_keeps_what_fits_and_lets_the_rest_go() {
        let memory = Memory::new(400);
        for name in ["a", "b", "c"] {
            load(&memory, name, 80);
        }
        memory.resize(800);
        assert_eq!(memory.usage(), (3, 240), "nothing is lost by a larger one");
        assert!(load(&memory, "large", 200).is_some());
        memory.resize(400);
        assert!(memory.get(&Digest::of(b"large")).is_none(), "more than a quarter");
        assert!(memory.usage().1 <= 300);
        memory.resize(0);
        assert_eq!(memory.usage(), (0, 0));
        assert!(load(&memory, "a", 80).is_none());
        memory.resize(400);
        assert_eq!(memory.room.free(), 400);
        assert!(load(&memory, "a", 80).is_some());
    }
}
