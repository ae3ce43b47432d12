//! What failed lately, for whoever asks why: requests that were refused and fetches that came to nothing.
//!
//! The same failure of the same thing is one entry that counts. Clients invent paths, so their number has a limit; the
//! one that was seen longest ago leaves.

use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Failures that are remembered, of each kind.
const MOST: usize = 200;
/// And of them with the same code: who invents paths pushes out his own kind.
const MOST_OF_A_CODE: usize = 40;
/// Longest path or reference that is kept, in characters.
const LONGEST: usize = 300;

/// Something that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What failed: `request` for an answer to a client, `fetch` for a question to a registry.
    pub what: What,
    /// The request's path, or the reference.
    pub subject: String,
    /// The reference that it was about, as far as there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The HTTP status that a client got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Stable word for the kind of failure.
    pub code: String,
    /// What was asked, of whom, and what came back.
    pub detail: String,
    /// What to do next; may be empty.
    pub hint: String,
    /// How often it was seen.
    pub count: u64,
    /// When it was first seen, RFC 3339.
    pub first_at: String,
    /// When it was last seen, RFC 3339.
    pub last_at: String,
}

/// See [`Failure::what`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum What {
    Request,
    Fetch,
}

/// Whose a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// There is no plugin of that name or version.
    Name,
    /// It is not for us, or the policy or the lock file lets it in no further.
    Right,
    /// The artifact is there and holds no usable plugin.
    Artifact,
    /// This machine's disk, or a file on it.
    Disk,
    /// A defect of larder.
    Larder,
    /// The registry, or the way to it.
    Registry,
}

/// Codes of artifacts that are there and hold no usable plugin, as `cache::CacheError` has them.
const UNUSABLE: [&str; 24] = [
    "ambiguous_entry",
    "ambiguous_layer",
    "ambiguous_manifest",
    "bad_digest",
    "bad_entry",
    "bad_gzip",
    "bad_local_file",
    "bad_manifest",
    "bad_tar",
    "bad_zstd",
    "manifest_too_large",
    "media_type_mismatch",
    "no_layer",
    "no_platform",
    "no_plugin_wasm",
    "no_wasm_layer",
    "not_wasm",
    "too_large",
    "too_many_entries",
    "too_many_layers",
    "unpacked_too_large",
    "unsupported_layer",
    "unsupported_schema",
    "wasm_version",
];

impl Failure {
    /// Whose it is, by its code.
    pub fn whose(&self) -> Whose {
        match self.code.as_str() {
            "not_found" | "unknown_name" | "unknown_version" | "version_needed" | "offline" => Whose::Name,
            "denied"
            | "not_allowed"
            | "floating_tag"
            | "too_large_for_policy"
            | "abi_not_allowed"
            | "lock_mismatch"
            | "not_locked"
            | "unsigned"
            | "signature_invalid" => Whose::Right,
            "internal" => Whose::Larder,
            "store" | "disk_full" | "no_room" | "crowded_out" | "local_file_changing" => Whose::Disk,
            code if UNUSABLE.contains(&code) => Whose::Artifact,
            _ => Whose::Registry,
        }
    }
}

/// A failure that just happened.
#[derive(Debug, Clone)]
pub struct Seen<'s> {
    /// See [`Failure::what`].
    pub what: What,
    /// See [`Failure::subject`].
    pub subject: &'s str,
    /// See [`Failure::reference`].
    pub reference: Option<String>,
    /// See [`Failure::status`].
    pub status: Option<u16>,
    /// See [`Failure::code`].
    pub code: &'s str,
    /// See [`Failure::detail`].
    pub detail: &'s str,
    /// See [`Failure::hint`].
    pub hint: &'s str,
}

/// What failed lately.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<Key, (Timestamp, Failure)>>);

/// What failed, of what, and how.
type Key = (What, String, String);

impl Failures {
    /// Takes in what just happened.
    pub fn note(&self, seen: &Seen<'_>, now: Timestamp) {
        let subject = crate::oci::error_code::bounded(seen.subject, LONGEST);
        let key = (seen.what, subject.clone(), seen.code.to_owned());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&key) {
            let of_kind = || all.iter().filter(|((what, ..), _)| *what == seen.what);
            let of_code = || of_kind().filter(|((.., code), _)| code == seen.code);
            let oldest = if of_code().count() >= MOST_OF_A_CODE {
                of_code().min_by_key(|(_, (at, _))| *at)
            } else if of_kind().count() >= MOST {
                of_kind().min_by_key(|(_, (at, _))| *at)
            } else {
                None
            };
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                all.remove(&oldest);
            }
        }
        let (count, first_at) =
            all.get(&key).map_or_else(|| (0, now.to_string()), |(_, old)| (old.count, old.first_at.clone()));
        let failure = Failure {
            what: seen.what,
            subject,
            reference: seen.reference.clone(),
            status: seen.status,
            code: seen.code.into(),
            detail: seen.detail.into(),
            hint: seen.hint.into(),
            count: count + 1,
            first_at,
            last_at: now.to_string(),
        };
        all.insert(key, (now, failure));
    }

    /// Forgets what failed of `reference`: it has come since.
    pub fn forget(&self, reference: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(what, subject, _), _| *what != What::Fetch || subject != reference);
    }

    /// The last failure of `reference`.
    pub fn of(&self, reference: &str) -> Option<Failure> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let about = all.iter().filter(|((what, subject, _), _)| *what == What::Fetch && subject == reference);
        about.max_by_key(|(_, (at, _))| *at).map(|(_, (_, failure))| failure.clone())
    }

    /// All, the last one first.
    pub fn list(&self) -> Vec<Failure> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = all.values().cloned().collect();
        list.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.subject.cmp(&b.1.subject)));
        list.into_iter().map(|(_, failure)| failure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<'s>(subject: &'s str, code: &'s str) -> Seen<'s> {
        Seen { what: What::Fetch, subject, reference: None, status: None, code, detail: "d", hint: "h" }
    }

    #[test]
    fn the_same_failure_is_one_entry_that_counts_and_the_last_one_comes_first() {
        let failures = Failures::default();
        let at = Timestamp::from_millis;
        failures.note(&seen("r/a:1", "dns"), at(1000));
        failures.note(&seen("r/b:1", "dns"), at(2000));
        failures.note(&seen("r/a:1", "dns"), at(3000));
        let list = failures.list();
        let told: Vec<_> = list.iter().map(|f| (f.subject.as_str(), f.count)).collect();
        assert_eq!(told, [("r/a:1", 2), ("r/b:1", 1)]);
        assert_eq!(
            (list[0].first_at.as_str(), list[0].last_at.as_str()),
            ("1970-01-01T00:00:01Z", "1970-01-01T00:00:03Z")
        );
        failures.note(&seen("r/a:1", "tls"), at(4000));
        assert_eq!(failures.of("r/a:1").unwrap().code, "tls");
        failures.forget("r/a:1");
        assert_eq!(failures.list().len(), 1);
    }

    #[test]
    fn no_refusal_of_the_policy_is_a_registrys_failure_but_for_one_whose_signatures_were_asked_for() {
        let sources =
            [include_str!("policy/gate.rs"), include_str!("policy/lock.rs"), include_str!("signature.rs")];
        let codes: Vec<_> = sources
            .iter()
            .flat_map(|source| source.lines())
            .filter(|line| line.contains("const ") && line.contains(": &str = \""))
            .filter_map(|line| line.split('"').nth(1))
            .collect();
        assert!(
            codes.len() >= 8 && codes.contains(&"unsigned") && codes.contains(&"not_locked"),
            "{codes:?}"
        );
        let failures = Failures::default();
        for code in codes {
            failures.note(&seen(code, code), Timestamp::from_millis(0));
            assert_eq!(failures.of(code).unwrap().whose(), Whose::Right, "{code}");
        }
        failures.note(&seen("asked", "signatures_unreachable"), Timestamp::from_millis(0));
        assert_eq!(failures.of("asked").unwrap().whose(), Whose::Registry);
    }

    #[test]
    fn their_number_has_a_limit_and_the_oldest_leaves() {
        let failures = Failures::default();
        let codes = ["a", "b", "c", "d", "e", "f"];
        failures.note(&seen("r/rare:1", "rare"), Timestamp::from_millis(0));
        for n in 1..=MOST_OF_A_CODE as u64 + 50 {
            failures.note(&seen(&format!("r/{n}:1"), codes[0]), Timestamp::from_millis(n));
        }
        let list = failures.list();
        assert_eq!(list.len(), MOST_OF_A_CODE + 1);
        assert_eq!(list[list.len() - 1].subject, "r/rare:1", "another code's stays");
        assert_eq!(list[list.len() - 2].subject, "r/51:1");
        for code in &codes[1..] {
            for n in 1..=MOST_OF_A_CODE as u64 {
                failures.note(&seen(&format!("r/{n}:1"), code), Timestamp::from_millis(1000 + n));
            }
        }
        assert_eq!(failures.list().len(), MOST);
    }
}
