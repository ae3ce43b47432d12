//! A bundle: the first byte says whether the rest is an archive, packed or not, or larder's list, or an index.

#![cfg_attr(fuzzing, no_main)]

use larder::bundle::index::{INDEX, Index, LIST};
use larder::bundle::said::Said;
use larder::bundle::{Bundle, BundleError, List, Packing};
use larder::catalog::{self, Catalog};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};

/// What is read says nothing of control characters, its spans lie within the file, and a list that is written again reads
/// as the same.
pub fn check(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 5 {
        0 => archive(&with_checksums(bytes.to_vec())),
        1 => archive(&with_checksums(layout(LIST, bytes))),
        2 => archive(&with_checksums(layout(INDEX, bytes))),
        3 => said(Packing::of(bytes), bytes),
        _ => {
            if let Ok(list) = List::decode(bytes) {
                assert_eq!(List::decode(&list.encode()).as_ref(), Ok(&list));
            }
            let index = Index::decode(bytes);
            index.map_or_else(|e| told(&e), |index| drop(index.offers(&catalog())));
        }
    }
}

fn archive(bytes: &[u8]) {
    said(Packing::Plain, bytes);
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    let bundle = match Bundle::archive(file) {
        Ok(bundle) => bundle,
        Err(error) => return told(&error),
    };
    let (offers, bad) = bundle.offers(&catalog());
    bad.iter().for_each(|(_, error)| told(error));
    for offer in offers {
        match bundle.blob(&offer.manifest) {
            Ok(span) => assert!(span.size <= bytes.len() as u64 && span.read_at(0, 1 << 20).is_ok()),
            Err(error) => told(&error),
        }
    }
}

fn said(packing: Packing, bytes: &[u8]) {
    if let Err(error) = Said::read(packing, bytes, 64 << 20) {
        told(&error);
    }
}

fn told(error: &BundleError) {
    let text = error.to_string();
    assert!(!text.contains(char::is_control) && text.chars().count() <= 1010, "{text:?}");
}

fn catalog() -> Catalog {
    let config = catalog::Config {
        builtin: false,
        files: Vec::new(),
        template: Some("r.test/p/{name}:{version}".into()),
        fallback: true,
        aliases: BTreeMap::new(),
        plugins: BTreeMap::new(),
    };
    Catalog::build(&config, &[]).unwrap()
}

/// An archive with `bytes` as the file `name`, and what is behind it.
fn layout(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 512];
    out[..name.len()].copy_from_slice(name.as_bytes());
    out[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
    out[156] = b'0';
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512) + 1024, 0);
    out
}

/// The bytes as an archive whose headers have right checksums: no mutation would find those by itself.
fn with_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(block) = bytes.get_mut(at..at + 512) {
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&block[124..136]).unwrap_or_default();
        let size = usize::from_str_radix(size.trim_matches([' ', '\0']), 8).unwrap_or(0);
        at = at.saturating_add(512).saturating_add(size.div_ceil(512).saturating_mul(512));
    }
    bytes
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
