//! Which modules leave when there are too many bytes: those not used for longest, and those that are pinned last of all.

use crate::clock::Timestamp;
use crate::oci::Digest;

/// After an eviction so much of the limit is in use, in percent, so that not every admission evicts.
const AFTER_PERCENT: u64 = 90;

/// A module that could leave.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Which.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// When it was last asked for.
    pub last_used: Timestamp,
    /// Others leave before it.
    pub is_pinned: bool,
}

/// The modules to remove so that what is held fits `limit` bytes, without `keep`. None while it fits; and when it does
/// not, some more than needed.
pub fn choose(held: Vec<Candidate>, limit: u64, keep: Option<&Digest>) -> Vec<Digest> {
    let total: u64 = held.iter().map(|h| h.size).sum();
    if total <= limit { Vec::new() } else { down_to(held, limit / 100 * AFTER_PERCENT, keep) }
}

/// The modules to remove so that at most `target` bytes are held.
pub fn down_to(mut held: Vec<Candidate>, target: u64, keep: Option<&Digest>) -> Vec<Digest> {
    let mut total: u64 = held.iter().map(|h| h.size).sum();
    held.sort_by_key(|h| (h.is_pinned, h.last_used, h.digest));
    let mut leaving = Vec::new();
    for candidate in held.into_iter().filter(|h| Some(&h.digest) != keep) {
        if total <= target {
            break;
        }
        total -= candidate.size;
        leaving.push(candidate.digest);
    }
    leaving
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(name: &str, size: u64, at: u64) -> Candidate {
        Candidate {
            digest: Digest::of(name.as_bytes()),
            size,
            last_used: Timestamp::from_millis(at),
            is_pinned: false,
        }
    }

    #[test]
    fn what_is_pinned_leaves_when_nothing_else_is_left() {
        let pinned = Candidate { is_pinned: true, ..held("locked", 400, 10) };
        let all = vec![pinned, held("new", 400, 30), held("mid", 400, 20)];
        assert_eq!(choose(all.clone(), 1000, None), [Digest::of(b"mid")]);
        assert_eq!(choose(all.clone(), 500, None), [Digest::of(b"mid"), Digest::of(b"new")]);
        assert_eq!(choose(all, 100, None).last(), Some(&Digest::of(b"locked")));
    }

    #[test]
    fn the_least_recently_used_leave_until_there_is_room() {
        let all = vec![held("new", 400, 30), held("old", 400, 10), held("mid", 400, 20)];
        let none = None;
        assert_eq!(choose(all.clone(), 1200, none), []);
        assert_eq!(choose(all.clone(), 1000, none), [Digest::of(b"old")]);
        assert_eq!(choose(all.clone(), 500, none), [Digest::of(b"old"), Digest::of(b"mid")]);
        assert_eq!(choose(all, 500, Some(&Digest::of(b"old"))), [Digest::of(b"mid"), Digest::of(b"new")]);
    }
}
