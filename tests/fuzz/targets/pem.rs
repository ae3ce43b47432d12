//! PEM files: as CAs, and as a client certificate with its key.

#![cfg_attr(fuzzing, no_main)]

use larder::registry::pem::{bundle, identity};
use larder::registry::trace::Trace;
use larder::registry::trust::{Trust, Verifier};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use std::io::Write;
use std::time::Duration;

/// A fault names the file in one line. What can be trusted can be shown, and be what a server shows.
pub fn check(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let named = |told: String| {
        let told = told.replace(&file.path().display().to_string(), "file");
        assert!(told.starts_with("file: ") && !told.contains(char::is_control), "{told:?}");
    };
    if let Err(told) = identity(file.path(), file.path()) {
        named(told);
    }
    let bundle = match bundle(file.path()) {
        Ok(bundle) => bundle,
        Err(told) => return named(told),
    };
    assert!(!bundle.certificates.is_empty());
    let leaf = bundle.certificates[0].clone();
    let trust = Trust { bundles: vec![bundle], ..Trust::default() };
    for doubt in trust.doubts(i64::MAX) {
        assert!(!doubt.contains(char::is_control), "{doubt:?}");
    }
    let verifier = Verifier::new(&trust, Trace::listening());
    let name = ServerName::try_from("h.example").unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    // Whatever it is worth.
    let _ = verifier.verify_server_cert(&leaf, &[], &name, &[], now);
    assert_eq!(verifier.seen("h.example").unwrap().chain.len(), 1);
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
