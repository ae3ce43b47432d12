//! When the certificates run out that registries are met with: ours, and the CAs that the settings and folders name.

use super::certs_d::Certs;
use super::trust::Trust;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// By role and file, all ends that are in it: seconds since 1970.
type Ends = BTreeMap<(&'static str, String), Vec<i64>>;

/// What is known of them, wherever it is noted.
#[derive(Debug, Clone, Default)]
pub struct Expiries(Arc<Mutex<Ends>>);

impl Expiries {
    /// Notes what is trusted, and as whom we come.
    pub fn note(&self, trust: &Trust) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for bundle in &trust.bundles {
            let ends = bundle.ends();
            if !ends.is_empty() {
                known.insert(("ca", bundle.label.clone()), ends);
            }
        }
        if let Some(own) = &trust.identity {
            known.extend(own.until().map(|until| (("client", own.label.clone()), vec![until])));
        }
    }

    /// Notes what folders hold for single hosts, though none of them may be asked for long.
    pub fn note_folders(&self, certs: &Certs) {
        for entry in certs.entries() {
            let (bundles, identity) = (entry.ca.clone(), entry.identity.clone());
            self.note(&Trust { bundles, identity, ..Trust::default() });
        }
    }

    /// As (file, seconds since 1970): of `client`, ours, or of `ca`, those that are trusted beside the system's. Of several
    /// in a file it is the first end that is ahead at `now`: one that is over has been replaced, or is missed already.
    pub fn of(&self, role: &str, now: i64) -> Vec<(String, i64)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_role = known.iter().filter(|((other, _), _)| *other == role);
        of_role.filter_map(|((_, file), ends)| Some((file.clone(), next(ends, now)?))).collect()
    }
}

/// The first that is ahead; the last where none is.
fn next(ends: &[i64], now: i64) -> Option<i64> {
    let ahead = ends.iter().filter(|end| **end > now).min();
    ahead.or(ends.iter().max()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_next_end_that_is_ahead_and_the_last_when_all_are_over() {
        let ends = [30, 10, 20];
        let at = [5, 10, 19, 25, 30, 99].map(|now| next(&ends, now).unwrap());
        assert_eq!(at, [10, 20, 20, 30, 30, 30]);
        assert_eq!(next(&[], 5), None);
    }
}
