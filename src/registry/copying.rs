//! An artifact carried to another registry unchanged: its blobs, all children of an index, its signatures, and last of all
//! the manifest under its tag, byte for byte, so that every digest holds.
//!
//! Signatures are what cosign keeps under the tag `sha256-<digest>.sig`, and the referrers of the manifest or of an index's
//! child (OCI 1.1), by the
//! registry's list or by the tag `sha256-<digest>` (distribution spec, "Referrers Tag Schema"). They are there before the
//! tag is: whoever asks for signatures never finds the one without the others.

use super::push::Pusher;
use super::retry::persist;
use super::upload::{Arrived, Origin};
use super::{FetchedManifest, Kind, Registry, RegistryError};
use crate::oci::media_type::{LayerKind, OCI_INDEX, layer_kind};
use crate::oci::{Contents, Descriptor, Digest, Reference};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An index in an index in an index is read, and no more.
const MAX_DEPTH: u32 = 3;
/// Most referrers of one artifact that are carried, referrers of referrers included.
const MAX_REFERRERS: u64 = 100;

/// What carries.
pub struct Copying {
    /// Who has the artifacts.
    pub source: Arc<dyn Registry>,
    /// Who is to have them.
    pub target: Pusher,
    /// Largest manifest, in bytes.
    pub limit: u64,
    /// Whether a tag that means something else is replaced.
    pub overwrite: bool,
    /// Whether nothing is written.
    pub dry_run: bool,
    /// Whether signatures are carried too.
    pub signatures: bool,
}

/// One artifact.
pub struct Item {
    /// Where it is, by tag or by digest.
    pub from: Reference,
    /// What that means.
    pub manifest: FetchedManifest,
    /// The repository at the target, without the registry.
    pub repository: String,
    /// Its tag there; without one it is there by its digest alone.
    pub tag: Option<String>,
}

/// How far it is, in bytes.
#[derive(Debug, Default)]
pub struct Progress {
    /// Of blobs that are named so far.
    pub expected: AtomicU64,
    /// Of those that are there.
    pub there: AtomicU64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The tag was not there, and is now.
    Copied,
    /// The tag meant something else.
    Replaced,
    /// The tag means it already.
    There,
    /// The tag means something else, and stays.
    Conflict,
    /// What would be [`Outcome::Copied`].
    WouldCopy,
    /// What would be [`Outcome::Replaced`].
    WouldReplace,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How it ended.
    pub outcome: Outcome,
    /// What the tag meant before, where that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Digest>,
    /// Blobs that were there.
    pub present: u64,
    /// Blobs that were mounted from another repository.
    pub mounted: u64,
    /// Blobs that were sent; of a dry run, that would be.
    pub sent: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Signatures and other referrers that are there now; of a dry run, that would be.
    pub signatures: u64,
    /// Tags of signatures that mean something else at the target, and stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

impl Outcome {
    fn of(before: Option<Digest>, digest: Digest, copying: &Copying) -> Self {
        match before {
            Some(before) if before == digest => Self::There,
            Some(_) if !copying.overwrite => Self::Conflict,
            Some(_) if copying.dry_run => Self::WouldReplace,
            Some(_) => Self::Replaced,
            None if copying.dry_run => Self::WouldCopy,
            None => Self::Copied,
        }
    }
}

impl Done {
    fn new(outcome: Outcome, before: Option<Digest>) -> Self {
        let before = before.filter(|_| outcome != Outcome::There);
        Self { outcome, before, present: 0, mounted: 0, sent: 0, bytes: 0, signatures: 0, left: Vec::new() }
    }
}

impl Copying {
    /// Carries one artifact.
    ///
    /// # Errors
    /// The first thing that went wrong. What arrived until then stays, and is not sent again by another try.
    pub async fn copy(&self, item: &Item, progress: &Progress) -> Result<Done, RegistryError> {
        let digest = item.manifest.digest;
        let selector = item.tag.clone().unwrap_or_else(|| digest.to_string());
        let before = self.target.manifest_digest(&item.repository, &selector).await?;
        let outcome = Outcome::of(before, digest, self);
        let mut done = Done::new(outcome, before);
        if outcome == Outcome::Conflict {
            return Ok(done);
        }
        let mut carrying = Carrying { copying: self, item, progress, done: &mut done, seen: HashSet::new() };
        let media_type = match outcome {
            // Whoever has a manifest has what it names: registries refuse it otherwise.
            Outcome::There => None,
            _ => Some(carrying.below(&item.manifest, 0).await?),
        };
        if self.signatures {
            carrying.signatures(digest, 0).await?;
            // Whoever takes one child of an index may ask who signed that one.
            let contents = Contents::parse(&item.manifest.bytes, item.manifest.media_type.as_deref());
            for child in contents.iter().flat_map(|contents| &contents.children) {
                carrying.signatures(child.digest, 0).await?;
            }
        }
        if let Some(media_type) = media_type.filter(|_| !self.dry_run) {
            let bytes = &item.manifest.bytes;
            self.target.put_manifest(&item.repository, &selector, &media_type, bytes).await?;
        }
        Ok(done)
    }

    async fn fetch(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        persist(self.target.attempts, || self.source.manifest(reference, self.limit)).await
    }

    /// The same; `None` if there is none. Some registries refuse what does not exist.
    async fn fetch_if_any(&self, reference: &Reference) -> Result<Option<FetchedManifest>, RegistryError> {
        match self.fetch(reference).await {
            Ok(fetched) => Ok(Some(fetched)),
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Denied) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How a manifest came to be there that no tag names.
enum Brought {
    /// It was there.
    Before,
    /// It was put, and the registry lists it as its subject's referrer.
    Listed,
    /// It was put.
    Unlisted,
}

/// One artifact on its way.
struct Carrying<'c> {
    copying: &'c Copying,
    item: &'c Item,
    progress: &'c Progress,
    done: &'c mut Done,
    /// Manifests that were carried.
    seen: HashSet<Digest>,
}

impl Carrying<'_> {
    /// Carries all that a manifest names, and tells its media type.
    fn below<'b>(
        &'b mut self,
        manifest: &'b FetchedManifest,
        depth: u32,
    ) -> BoxFuture<'b, Result<String, RegistryError>> {
        Box::pin(async move {
            let contents = Contents::parse(&manifest.bytes, manifest.media_type.as_deref()).map_err(|e| {
                let what = format!("the manifest {} of {}", manifest.digest, self.item.from.repository());
                RegistryError::new(Kind::Corrupt, format!("{what}: {e}")).code(e.code())
            })?;
            if depth >= MAX_DEPTH {
                let detail = format!("{}: more than {MAX_DEPTH} indexes in one another", self.item.from);
                return Err(RegistryError::new(Kind::Corrupt, detail).code("bad_manifest"));
            }
            for child in &contents.children {
                self.child(child.digest, depth + 1).await?;
            }
            for blob in &contents.blobs {
                // Not for a registry to have: the manifest says where else it is.
                if is_elsewhere(blob) {
                    continue;
                }
                self.progress.expected.fetch_add(blob.size, Ordering::Relaxed);
                self.blob(blob).await?;
            }
            Ok(contents.media_type)
        })
    }

    /// Carries a manifest that is there by its digest alone. Where it was there already, so is what it names.
    async fn child(&mut self, digest: Digest, depth: u32) -> Result<Brought, RegistryError> {
        if !self.seen.insert(digest) {
            return Ok(Brought::Before);
        }
        let (target, repository, selector) =
            (&self.copying.target, &self.item.repository, digest.to_string());
        if target.manifest_digest(repository, &selector).await?.is_some() {
            return Ok(Brought::Before);
        }
        let from = Reference::digested(&self.item.from.repository(), digest);
        let fetched = self.copying.fetch(&from).await.map_err(|error| RegistryError {
            detail: format!("{}, which {} names: {}", digest, self.item.from, error.detail),
            ..error
        })?;
        let media_type = self.below(&fetched, depth).await?;
        if self.copying.dry_run {
            return Ok(Brought::Listed);
        }
        Ok(match target.put_manifest(repository, &selector, &media_type, &fetched.bytes).await? {
            true => Brought::Listed,
            false => Brought::Unlisted,
        })
    }

    async fn blob(&mut self, blob: &Descriptor) -> Result<(), RegistryError> {
        let Copying { target, source, dry_run, .. } = self.copying;
        let repository = &self.item.repository;
        let there = &self.progress.there;
        let arrived = if *dry_run {
            there.fetch_add(blob.size, Ordering::Relaxed);
            if target.holds(repository, &blob.digest).await? { Arrived::There } else { Arrived::Sent }
        } else {
            let from = &self.item.from;
            let own = (from.registry() == target.registry()).then(|| from.repository_path().to_owned());
            let mount = own.or_else(|| target.known(&blob.digest)).filter(|mount| mount != repository);
            let origin = Origin { registry: &**source, reference: from, blob };
            target.put_blob(repository, &origin, mount.as_deref(), there).await?
        };
        match arrived {
            Arrived::There => self.done.present += 1,
            Arrived::Mounted => self.done.mounted += 1,
            Arrived::Sent => {
                (self.done.sent, self.done.bytes) = (self.done.sent + 1, self.done.bytes + blob.size)
            }
        }
        Ok(())
    }

    /// Carries the signatures of a manifest, and what else refers to it.
    fn signatures<'b>(&'b mut self, of: Digest, depth: u32) -> BoxFuture<'b, Result<(), RegistryError>> {
        Box::pin(async move {
            self.signature_tag(of).await?;
            let listed = self.referrers(of).await?;
            let (mut unlisted, mut before) = (Vec::new(), Vec::new());
            for (digest, descriptor) in listed {
                if self.done.signatures >= MAX_REFERRERS {
                    let detail =
                        format!("{}: more than {MAX_REFERRERS} manifests refer to it", self.item.from);
                    let hint = "--no-signatures copies it without them";
                    return Err(RegistryError::new(Kind::TooLarge, detail)
                        .code("too_many_referrers")
                        .hint(hint));
                }
                if self.seen.contains(&digest) {
                    continue;
                }
                match self.child(digest, 1).await? {
                    Brought::Listed => {}
                    Brought::Unlisted => unlisted.push(descriptor),
                    Brought::Before => before.push(descriptor),
                }
                self.done.signatures += 1;
                if depth + 1 < MAX_DEPTH {
                    self.signatures(digest, depth + 1).await?;
                }
            }
            // A copy that broke off may have brought them without the list.
            let (target, repository) = (&self.copying.target, &self.item.repository);
            if !before.is_empty()
                && (!unlisted.is_empty() || !target.lists_referrers(repository, &of).await?)
            {
                unlisted.append(&mut before);
            }
            self.list(of, unlisted).await
        })
    }

    /// What cosign keeps beside a manifest.
    async fn signature_tag(&mut self, of: Digest) -> Result<(), RegistryError> {
        let tag = format!("sha256-{}.sig", of.hex());
        let reference = Reference::tagged(&self.item.from.repository(), &tag)
            .unwrap_or_else(|_| unreachable!("a tag of letters, digits, a dash and a dot"));
        let Some(fetched) = self.copying.fetch_if_any(&reference).await? else { return Ok(()) };
        let (target, repository) = (&self.copying.target, &self.item.repository);
        let before = target.manifest_digest(repository, &tag).await?;
        match Outcome::of(before, fetched.digest, self.copying) {
            Outcome::There => {}
            // Somebody at the target signed it too.
            Outcome::Conflict => {
                self.done.left.push(tag);
                return Ok(());
            }
            _ => {
                let media_type = self.below(&fetched, 0).await?;
                if !self.copying.dry_run {
                    target.put_manifest(repository, &tag, &media_type, &fetched.bytes).await?;
                }
            }
        }
        self.done.signatures += 1;
        Ok(())
    }

    /// The referrers of a manifest at the source, with their descriptors as they came.
    async fn referrers(&self, of: Digest) -> Result<Vec<(Digest, Value)>, RegistryError> {
        let repository = self.item.from.repository();
        let about = Reference::digested(&repository, of);
        let Copying { source, target, limit, .. } = self.copying;
        let asked = persist(target.attempts, || source.referrers(&about, "", *limit));
        if let Some(listed) = asked.await? {
            return Ok(listed.pages.iter().flat_map(|page| descriptors(page)).collect());
        }
        let tag = Reference::tagged(&repository, &referrers_tag(&of))
            .unwrap_or_else(|_| unreachable!("a tag of letters, digits and a dash"));
        // Some registries read the tag as the digest: what stands there is the subject.
        let listed = self.copying.fetch_if_any(&tag).await?.filter(|listed| listed.digest != of);
        Ok(listed.map(|listed| descriptors(&listed.bytes)).unwrap_or_default())
    }

    /// Adds to the target's own list what its registry does not list by itself. What else stands there stays.
    async fn list(&mut self, of: Digest, unlisted: Vec<Value>) -> Result<(), RegistryError> {
        if unlisted.is_empty() || self.copying.dry_run {
            return Ok(());
        }
        let (target, repository, tag) = (&self.copying.target, &self.item.repository, referrers_tag(&of));
        let there = target.manifest(repository, &tag).await?.filter(|bytes| Digest::of(bytes) != of);
        let there = there.map(|bytes| serde_json::from_slice(&bytes).unwrap_or(Value::Null));
        let is_index = |there: &Value| there.get("manifests").is_some_and(Value::is_array);
        let mut index = match there {
            Some(there) if is_index(&there) => there,
            Some(_) if !self.copying.overwrite => {
                self.done.left.push(tag);
                return Ok(());
            }
            _ => serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
        };
        let media_type = index.get("mediaType").and_then(Value::as_str).unwrap_or(OCI_INDEX).to_owned();
        let Some(Value::Array(listed)) = index.get_mut("manifests") else {
            unreachable!("it is an index, or was made as one")
        };
        let known: BTreeSet<_> = listed.iter().filter_map(digest).collect();
        let more =
            unlisted.into_iter().filter(|value| digest(value).is_some_and(|new| !known.contains(&new)));
        let before = listed.len();
        listed.extend(more);
        if listed.len() == before {
            return Ok(());
        }
        let bytes = Bytes::from(index.to_string());
        target.put_manifest(repository, &tag, &media_type, &bytes).await.map(drop)
    }
}

/// The tag of a list of referrers.
fn referrers_tag(of: &Digest) -> String {
    format!("sha256-{}", of.hex())
}

/// The descriptors of an index, as they came; none where it is no index.
fn descriptors(index: &[u8]) -> Vec<(Digest, Value)> {
    let Ok(Value::Object(mut index)) = serde_json::from_slice(index) else { return Vec::new() };
    let Some(Value::Array(listed)) = index.remove("manifests") else { return Vec::new() };
    listed.into_iter().filter_map(|value| Some((digest(&value)?, value))).collect()
}

fn digest(descriptor: &Value) -> Option<Digest> {
    descriptor.get("digest")?.as_str()?.parse().ok()
}

/// True of layers that are not for a registry to have.
fn is_elsewhere(blob: &Descriptor) -> bool {
    layer_kind(&blob.media_type) == LayerKind::Unreadable && !blob.media_type.ends_with("+encrypted")
}
