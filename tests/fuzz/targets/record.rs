//! A record's file: as it is, and with a header line that fits.

#![cfg_attr(fuzzing, no_main)]

use larder::artifact::metadata_txt::{Metadata, render};
use larder::catalog::version_of;
use larder::oci::Digest;
use larder::record::Record;

/// What decodes encodes to something that decodes to the same, and all of it can be told.
pub fn check(bytes: &[u8]) {
    decoded(bytes);
    let header = format!("larder-record 1 {}\n", Digest::of(bytes));
    decoded(&[header.as_bytes(), bytes].concat());
}

fn decoded(bytes: &[u8]) {
    let record = match Record::decode(bytes) {
        Ok(record) => record,
        Err(error) => return assert!(error.to_string().chars().count() < 1500, "{error}"),
    };
    let again = record.encode();
    assert_eq!(Record::decode(&again).as_ref(), Ok(&record));
    let Some(present) = record.present() else { return };
    let (version, reference) = (version_of(&record.reference).to_string(), record.reference.to_string());
    let text = render(&Metadata {
        name: "waf",
        version: &version,
        module: &present.module,
        modified: present.since,
        reference: &reference,
        manifest: Some(present.manifest),
    });
    assert!(text.starts_with("Plugin Name: waf\nSize: "));
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
