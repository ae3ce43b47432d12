//! Manifests and indexes: the first byte chooses the `Content-Type`, the rest is the document.

#![cfg_attr(fuzzing, no_main)]

use bytesize::ByteSize;
use larder::artifact::{Limits, select};
use larder::oci::manifest::MAX_DESCRIPTORS;
use larder::oci::{Descriptor, Document, media_type};
use serde_json::{Value, json};

const LIMITS: Limits =
    Limits { manifest: ByteSize(4 << 20), module: ByteSize(1 << 20), ratio: 200, tar_entries: 100 };

/// What parses is bounded, and written again parses to the same. What is told of it fits a line.
pub fn check(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let types = [
        None,
        Some(media_type::OCI_MANIFEST),
        Some(media_type::OCI_INDEX),
        Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
        Some("application/json"),
    ];
    let content_type = types[usize::from(*which) % types.len()];
    let document = match Document::parse(bytes, content_type) {
        Ok(document) => document,
        Err(error) => return fits_a_line(&error.to_string()),
    };
    let (list, again) = match &document {
        Document::Manifest(manifest) => {
            let config = json!({"mediaType": manifest.config_media_type, "digest": zero(), "size": 0});
            let layers: Vec<_> = manifest.layers.iter().map(written).collect();
            (&manifest.layers, json!({"schemaVersion": 2, "config": config, "layers": layers}))
        }
        Document::Index(children) => {
            let manifests: Vec<_> = children.iter().map(written).collect();
            (children, json!({"schemaVersion": 2, "manifests": manifests}))
        }
    };
    assert!(list.len() <= MAX_DESCRIPTORS);
    let again = again.to_string();
    assert_eq!(Document::parse(again.as_bytes(), None).as_ref(), Ok(&document), "{again}");
    match &document {
        Document::Manifest(manifest) => {
            select::told(manifest).iter().for_each(|line| fits_a_line(line));
            match select::layers(manifest, &LIMITS) {
                Ok(order) => {
                    assert!(!order.is_empty() && order.iter().all(|layer| layer.size <= 1 << 20));
                }
                Err(error) => fits_a_line(&error.to_string()),
            }
        }
        Document::Index(children) => match select::child(children) {
            Ok(child) => assert!(!child.is_attestation),
            Err(error) => fits_a_line(&error.to_string()),
        },
    }
}

fn written(from: &Descriptor) -> Value {
    let mut out = json!({"mediaType": from.media_type, "digest": from.digest, "size": from.size});
    if let Some((os, architecture)) = &from.platform {
        out["platform"] = json!({"os": os, "architecture": architecture});
    }
    if from.is_attestation {
        out["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    }
    out
}

fn zero() -> String {
    format!("sha256:{}", "0".repeat(64))
}

fn fits_a_line(text: &str) {
    assert!(text.chars().count() < 2500 && !text.contains(char::is_control), "{text:?}");
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
