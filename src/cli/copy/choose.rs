//! What a name and a version mean to whoever copies: the same plan as a gateway's, and what the cache knows of it.

use super::carried::Carried;
use crate::admin::entries::Entry;
use crate::cache::explain::unknown;
use crate::catalog::{Candidate, Catalog, Why, version_of};
use crate::oci::{Digest, Reference};
use crate::plugin::{PluginName, Request, Version};
use crate::policy::gate::CHANGE_IS_MEANT;
use crate::policy::lock::LOCK_MISMATCH;
use crate::policy::{Gate, Mode, Subject};
use crate::registry::{FetchedManifest, Kind, Registry, RegistryError, persist};
use std::collections::HashMap;

/// Code of what a bundle does not have, and of which it does not tell that it does not exist.
const NOT_IN_BUNDLE: &str = "not_in_bundle";

/// What a tag is known to mean, by reference.
pub type Known = HashMap<Reference, Digest>;

/// What was chosen.
pub struct Chosen {
    /// By its tag, where it has one.
    pub reference: Reference,
    /// By which step of the search.
    pub why: Why,
    /// What it means.
    pub manifest: FetchedManifest,
}

/// What asks.
pub struct Choosing<'c> {
    /// Names.
    pub catalog: &'c Catalog,
    /// What may be copied.
    pub gate: &'c Gate,
    /// What is asked.
    pub source: &'c dyn Registry,
    /// What is not to be asked again.
    pub known: &'c Known,
    /// The bundle that is copied from, if one is.
    pub carried: Option<&'c Carried>,
    /// Largest manifest, in bytes.
    pub limit: u64,
    /// How often a registry is asked that limits us.
    pub attempts: u32,
}

/// What the cache knows.
pub fn known(entries: &[Entry]) -> Known {
    let pair = |entry: &Entry| Some((entry.key.parse().ok()?, entry.manifest.as_ref()?.parse().ok()?));
    entries.iter().filter_map(pair).collect()
}

impl Choosing<'_> {
    /// Asks candidate after candidate, as a fetch does: a step of the search is left only when all of it does not exist.
    /// That a bundle does not have something says nothing of that; only its registry's word, which the bundle carries, does.
    ///
    /// # Errors
    /// There is none, or nobody answers.
    pub async fn choose(&self, request: &Request) -> Result<Chosen, RegistryError> {
        if let Some(carried) = self.carried
            && let Some(chosen) = carried.choose(request, self.limit).await
        {
            let chosen = chosen?;
            self.admits(&request.name, &version_of(&chosen.reference), &chosen.reference)?;
            return match self.locked(&chosen.reference).filter(|locked| *locked != chosen.manifest.digest) {
                Some(locked) => Err(mismatch(&chosen.reference, &locked)),
                None => Ok(chosen),
            };
        }
        let plan = self.catalog.plan(request);
        let admitted = |at: &Candidate| self.admits(&request.name, &at.version, &at.reference);
        // What failed, and whether that proves that there is none.
        let mut last: Option<(Why, RegistryError, bool)> = None;
        for candidate in &plan.candidates {
            let why = candidate.why;
            if last.as_ref().is_some_and(|(step, _, is_proven)| *step != why && !is_proven) {
                break;
            }
            let (error, is_proven) = match admitted(candidate) {
                Ok(()) => match self.manifest(&candidate.reference).await {
                    Ok(manifest) => {
                        return Ok(Chosen { reference: candidate.reference.clone(), why, manifest });
                    }
                    Err(error) => {
                        let is_absent = matches!(error.kind, Kind::NotFound | Kind::Denied);
                        let is_proven = is_absent && ![NOT_IN_BUNDLE, LOCK_MISMATCH].contains(&error.code);
                        (error, is_proven)
                    }
                },
                // As if it were not named, as long as another one of its step may be.
                Err(_) if plan.candidates.iter().any(|at| at.why == why && admitted(at).is_ok()) => continue,
                Err(refused) => (refused, false),
            };
            // Of a step's failures the one that proves nothing decides.
            if !last.as_ref().is_some_and(|(step, _, is_proven)| *step == why && !is_proven) {
                last = Some((why, error, is_proven));
            }
        }
        Err(last.map(|(_, error, _)| error).unwrap_or_else(|| {
            let told = unknown(request, self.catalog);
            RegistryError {
                code: "unknown_name",
                ..RegistryError::new(Kind::NotFound, told.detail).hint(told.hint)
            }
        }))
    }

    /// Whether the policy lets it be copied, and a registry be asked for it.
    fn admits(
        &self,
        name: &PluginName,
        version: &Version,
        reference: &Reference,
    ) -> Result<(), RegistryError> {
        let subject = Subject { name: Some(name), version, reference: Some(reference) };
        self.gate.admits(subject).map_err(|refusal| {
            RegistryError::new(Kind::Denied, refusal.detail).code(refusal.code).hint(refusal.hint)
        })?;
        if self.carried.is_none() && self.gate.mode(subject) == Mode::Offline {
            let detail = format!("{reference} is not asked for: it is offline (policy.mode, or a rule's)");
            return Err(RegistryError::new(Kind::Settings, detail).code("offline"));
        }
        Ok(())
    }

    /// The manifest that an enforced lock has for it.
    fn locked(&self, reference: &Reference) -> Option<Digest> {
        self.gate.locked().filter(|locked| locked.is_enforced())?.lock.manifest_of(reference)
    }

    /// What a reference means, or, where a lock has something else, that.
    async fn manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        let manifest = self.meant(reference).await?;
        let Some(locked) = self.locked(reference).filter(|locked| *locked != manifest.digest) else {
            return Ok(manifest);
        };
        if !reference.is_mutable() {
            return Err(mismatch(reference, &locked));
        }
        // A tag that was moved leaves it in its repository.
        let exact = Reference::digested(&reference.repository(), locked);
        let asked = persist(self.attempts, || self.source.manifest(&exact, self.limit)).await;
        asked.map_err(|error| match error.kind {
            Kind::NotFound => mismatch(reference, &locked),
            _ => error,
        })
    }

    async fn meant(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        let Some(digest) = self.known.get(reference).filter(|_| reference.is_mutable()) else {
            let asked = persist(self.attempts, || self.source.manifest(reference, self.limit)).await;
            return asked.map_err(|error| match self.carried {
                Some(carried) if error.kind == Kind::NotFound && !carried.is_absent(reference) => error
                    .code(NOT_IN_BUNDLE)
                    .hint("export it into the bundle, or ask for a version that is in it"),
                _ => error,
            });
        };
        let exact = Reference::digested(&reference.repository(), *digest);
        persist(self.attempts, || self.source.manifest(&exact, self.limit)).await.map_err(|error| {
            if error.kind != Kind::NotFound {
                return error;
            }
            // No other version stands in for it: what is served here is what was asked for.
            let detail =
                format!("{reference} is {digest} in the cache, which its registry does not have any more");
            RegistryError::new(Kind::Upstream, detail)
                .code("gone")
                .hint("--fresh copies what the tag means now")
        })
    }
}

/// There is not what the lock file has.
fn mismatch(reference: &Reference, locked: &Digest) -> RegistryError {
    let detail = format!("{reference} is locked to {locked}, which is not what is there");
    RegistryError::new(Kind::Denied, detail).code(LOCK_MISMATCH).hint(CHANGE_IS_MEANT)
}
