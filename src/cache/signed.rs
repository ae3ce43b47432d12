//! Asking who signed what a reference points to, before anything else of it is fetched.

use super::error::CacheError;
use super::{Cache, Parts};
use crate::oci::Reference;
use crate::origin;
use crate::policy::Gate;
use crate::record::Present;
use crate::registry::{RegistryError, signatures};
use crate::signature::{Judged, Subject, Verdict};

/// What the registry has by way of signatures of `subjects`, the first of which `reference` points to, as far as the policy
/// asks for it; `None` where it does not, or where it does not have to be known and could not be asked.
///
/// # Errors
/// The policy wants it signed and it is not; or nobody could be asked who has to be.
pub(super) async fn judged(
    parts: &Parts,
    reference: &Reference,
    subjects: Vec<Subject>,
) -> Result<Option<Box<Judged>>, CacheError> {
    let demands = || {
        let gate = parts.rules.load().gate.clone();
        if gate.is_open() { Vec::new() } else { gate.demands_of(reference) }
    };
    let demanded = demands();
    let (Some(demand), Some(first)) = (demanded.first(), subjects.first()) else { return Ok(None) };
    let manifest = first.digest;
    let asked = async {
        let (case, ended) = signatures::gather(&*parts.registry, &reference.repository(), subjects).await;
        // By the keys of now: a registry may have taken its time, and they may be others since.
        let demanded = demands();
        let demand = demanded.first().unwrap_or(demand);
        let judged = Judged::new(case, &demand.keys, parts.clock.now());
        match ended {
            Err(error) if !judged.verdict.is_verified() => Err((judged, error)),
            _ => Ok(judged),
        }
    };
    let code = |(_, error): &(Judged, RegistryError)| error.code;
    let (judged, ended) = match origin::leg("signatures", code, asked).await {
        Ok(judged) => (judged, None),
        Err((judged, error)) => (judged, Some(error)),
    };
    let verdict = &judged.verdict;
    let label = if ended.is_some() { UNREACHABLE } else { verdict.code().unwrap_or("verified") };
    parts.metrics.signatures.with_label_values(&[label]).inc();
    parts.trace.note("signatures", || match &ended {
        Some(error) => format!("could not be asked for: {error}"),
        None => verdict.to_string(),
    });
    let gate = parts.rules.load().gate.clone();
    let wanted = gate.trusts_reference(reference, &manifest, Some(&judged));
    match (wanted, ended) {
        (Ok(()), None) if verdict.is_verified() => {}
        (Ok(()), None) => {
            let code = verdict.code();
            tracing::warn!(%reference, %manifest, code, %verdict, "not signed as policy.signatures wants; it is served");
        }
        // What was found is not all there is: it is no verdict.
        (Ok(()), Some(error)) => {
            tracing::warn!(%reference, %manifest, code = UNREACHABLE, %error, "who signed it could not be asked; it is served");
            return Ok(None);
        }
        (Err(_), Some(error)) => return Err(CacheError::unproved(reference, error)),
        (Err(refusal), None) => return Err(CacheError::refused(refusal).about(reference)),
    }
    Ok(Some(Box::new(judged)))
}

impl Cache {
    /// Whether the policy asks who signed what `reference` points to, and what is known of that by the keys of now.
    pub fn signed(&self, reference: &Reference, present: &Present) -> (bool, Option<Verdict>) {
        let gate = self.parts.rules.load().gate.clone();
        if gate.is_open() && present.signatures.is_none() {
            return (false, None);
        }
        (!gate.demands_of(reference).is_empty(), gate.verdict(reference, present))
    }
}

/// The code of an answer where nobody could be asked.
pub(super) const UNREACHABLE: &str = "signatures_unreachable";

/// True where something is withheld until somebody can be asked who signed it.
pub(super) fn is_unproved(gate: &Gate, reference: &Reference, present: &Present) -> bool {
    let judged = present.signatures.as_deref();
    !gate.is_open() && gate.trusts_reference(reference, &present.manifest, judged).is_err()
}
