//! Image layouts as tar archives, written entry by entry, so that each can be spoiled.

use super::artifact::Artifact;
use larder::oci::Digest;
use serde_json::{Value, json};

/// An entry of an archive.
#[derive(Clone)]
pub struct Entry {
    pub path: String,
    pub kind: tar::EntryType,
    pub link: Option<&'static str>,
    /// What the header says, if it is not the truth.
    pub size: Option<u64>,
    pub bytes: Vec<u8>,
}

impl Entry {
    pub fn file(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let kind = tar::EntryType::Regular;
        Self { path: path.into(), kind, link: None, size: None, bytes: bytes.into() }
    }

    pub fn link(path: &str, kind: tar::EntryType, to: &'static str) -> Self {
        Self { kind, link: Some(to), ..Self::file(path, "") }
    }
}

/// A plugin of a layout.
pub struct Plugin {
    pub name: &'static str,
    pub reference: String,
    pub artifact: Artifact,
}

pub fn blob(bytes: &[u8]) -> Entry {
    Entry::file(&blob_path(&Digest::of(bytes)), bytes)
}

pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// larder's own list.
pub fn list(plugins: &[Plugin]) -> Value {
    let plugins: Vec<_> = plugins
        .iter()
        .map(|plugin| {
            json!({
                "name": plugin.name,
                "version": plugin.reference.rsplit(':').next().unwrap(),
                "reference": plugin.reference,
                "manifest": plugin.artifact.manifest.digest(),
                "module": Digest::of(&plugin.artifact.module),
                "size": plugin.artifact.module.len(),
            })
        })
        .collect();
    json!({"format": 1, "plugins": plugins})
}

/// The entries of a bundle, as larder writes them.
pub fn entries(plugins: &[Plugin]) -> Vec<Entry> {
    let manifests: Vec<_> = plugins
        .iter()
        .map(|plugin| {
            let manifest = &plugin.artifact.manifest;
            json!({
                "mediaType": manifest.media_type,
                "digest": manifest.digest(),
                "size": manifest.bytes.len(),
                "annotations": {"org.opencontainers.image.ref.name": plugin.reference},
            })
        })
        .collect();
    let mut all = vec![
        Entry::file("larder.json", list(plugins).to_string()),
        Entry::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        Entry::file("index.json", json!({"schemaVersion": 2, "manifests": manifests}).to_string()),
    ];
    for Plugin { artifact, .. } in plugins {
        let manifests = artifact.children.iter().chain([&artifact.manifest]).map(|manifest| &manifest.bytes);
        for bytes in manifests.chain(&artifact.blobs) {
            if !all.iter().any(|entry| entry.path == blob_path(&Digest::of(bytes))) {
                all.push(blob(bytes));
            }
        }
    }
    all
}

/// The archive. Names are written as they are, hostile ones too.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        let name = entry.path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(entry.kind);
        if let Some(to) = entry.link {
            header.set_link_name_literal(to).unwrap();
        }
        header.set_size(entry.size.unwrap_or(entry.bytes.len() as u64));
        header.set_mode(0o644);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&entry.bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.extend_from_slice(&[0; 1024]);
    out
}
