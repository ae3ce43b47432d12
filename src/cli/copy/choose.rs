//! What a name and a version mean to whoever copies: the same plan as a gateway's, and what the cache knows of it.

use super::carried::Carried;
use crate::admin::entries::Entry;
use crate::cache::explain::unknown;
use crate::catalog::{Candidate, Catalog, Why};
use crate::oci::{Digest, Reference};
use crate::plugin::Request;
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
            return chosen;
        }
        let plan = self.catalog.plan(request);
        let mut last: Option<(Why, RegistryError)> = None;
        for candidate in &plan.candidates {
            let exists_nowhere = |error: &RegistryError| {
                matches!(error.kind, Kind::NotFound | Kind::Denied) && error.code != NOT_IN_BUNDLE
            };
            if let Some((why, error)) = &last
                && *why != candidate.why
                && !exists_nowhere(error)
            {
                break;
            }
            match self.manifest(candidate).await {
                Ok(manifest) => {
                    let Candidate { reference, why, .. } = candidate.clone();
                    return Ok(Chosen { reference, why, manifest });
                }
                // Of a step's failures the one that proves nothing decides.
                Err(error) => match &last {
                    Some((why, before)) if *why == candidate.why && !exists_nowhere(before) => {}
                    _ => last = Some((candidate.why, error)),
                },
            }
        }
        Err(last.map(|(_, error)| error).unwrap_or_else(|| {
            let told = unknown(request, self.catalog);
            RegistryError {
                code: "unknown_name",
                ..RegistryError::new(Kind::NotFound, told.detail).hint(told.hint)
            }
        }))
    }

    async fn manifest(&self, candidate: &Candidate) -> Result<FetchedManifest, RegistryError> {
        let reference = &candidate.reference;
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
