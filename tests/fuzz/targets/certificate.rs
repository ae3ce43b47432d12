//! A certificate as a server shows it in a handshake, in DER.

#![cfg_attr(fuzzing, no_main)]

use larder::registry::trace::Trace;
use larder::registry::trust::{Trust, Verifier};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::time::Duration;

/// Nobody is believed of whom nothing is known, and what is told of a certificate fits a line.
pub fn check(bytes: &[u8]) {
    let trace = Trace::listening();
    let verifier = Verifier::new(&Trust::default(), trace.clone());
    let name = ServerName::try_from("h.example").unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let leaf = CertificateDer::from_slice(bytes);
    assert!(verifier.verify_server_cert(&leaf, &[], &name, &[], now).is_err());
    let seen = verifier.seen("h.example").unwrap();
    let shown = &seen.chain[0];
    let parts = [&shown.subject, &shown.issuer, &shown.not_after].into_iter().chain(&shown.names);
    for text in parts.chain(trace.take().iter().map(|step| &step.text)) {
        assert!(!text.contains(char::is_control) && text.chars().count() <= 8100, "{text:?}");
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
