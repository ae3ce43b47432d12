//! When the certificates run out that registries are met with: ours, and the CAs that the settings and folders name.

use super::certs_d::Certs;
use super::trust::Trust;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// By role and file: seconds since 1970.
#[derive(Default)]
pub struct Expiries(Mutex<BTreeMap<(&'static str, String), i64>>);

impl Expiries {
    /// Notes what is trusted, and as whom we come.
    pub fn note(&self, trust: &Trust) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for bundle in &trust.bundles {
            known.extend(bundle.until().map(|until| (("ca", bundle.label.clone()), until)));
        }
        if let Some(own) = &trust.identity {
            known.extend(own.until().map(|until| (("client", own.label.clone()), until)));
        }
    }

    /// Notes what folders hold for single hosts, though none of them may be asked for long.
    pub fn note_folders(&self, certs: &Certs) {
        for entry in certs.entries() {
            let (bundles, identity) = (entry.ca.clone(), entry.identity.clone());
            self.note(&Trust { bundles, identity, ..Trust::default() });
        }
    }

    /// As (file, seconds since 1970): of `client`, ours, or of `ca`, those that are trusted beside the system's.
    pub fn of(&self, role: &str) -> Vec<(String, i64)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_role = known.iter().filter(|((other, _), _)| *other == role);
        of_role.map(|((_, file), until)| (file.clone(), *until)).collect()
    }
}
