//! TLS for clients: certificates, and what clients must show.
//!
//! A port has one [`Tls`], whose certificates are replaced while it is open: connections that are there go on with what
//! they began with, later ones have the new. What is read is read as a whole, so that a certificate never meets the key
//! of another one.

use crate::oci::Digest;
use crate::registry::expiry::Expiries;
use crate::registry::pem;
use crate::registry::trust::Trust;
use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Readings so far; none has the number 0.
static READINGS: AtomicU64 = AtomicU64::new(1);
/// What is spoken, the best first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [H2, b"http/1.1"];
/// HTTP/2 by its name in a handshake.
pub const H2: &[u8] = b"h2";
/// A certificate that ends sooner than this is told of.
const SOON_SECONDS: i64 = 7 * 24 * 3600;
/// Names of CAs that a client is told when it is asked for a certificate; a handshake has no room for more than 64 KiB
/// of them, and clients that get none show what they have.
const HINT_BYTES: usize = 16 << 10;
/// Rights of those who neither own a file nor are of its group.
const OTHERS: u32 = 0o007;

/// Settings of both ports.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The port for plugins.
    pub data: PortConfig,
    /// The port for administration.
    pub admin: PortConfig,
}

/// Settings of a port.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// PEM file with our certificate, and what stands between it and its CA; `None` for plain HTTP.
    pub certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// PEM files, or folders of them, with the CAs of clients' certificates.
    pub client_ca: Vec<PathBuf>,
    /// Whether clients must show one.
    pub client_certificate: ClientCertificate,
}

/// Whether a client shows a certificate.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// If it likes.
    Optional,
    /// Else it is not heard.
    Required,
}

impl PortConfig {
    /// What is valid by itself and makes no sense together: the key of the setting, and what is wrong.
    pub fn faults(&self) -> Vec<(&'static str, &'static str)> {
        let mut out = Vec::new();
        match (&self.certificate, &self.key) {
            (Some(_), None) => out.push(("certificate", "has no key; set key, beside it, too")),
            (None, Some(_)) => out.push(("key", "has no certificate; set certificate, beside it, too")),
            _ => {}
        }
        if self.certificate.is_none() && !self.client_ca.is_empty() {
            out.push((
                "client_ca",
                "a port without a certificate of its own speaks plain HTTP and asks for none",
            ));
        }
        if self.client_certificate == ClientCertificate::Required && self.client_ca.is_empty() {
            out.push((
                "client_certificate",
                "is required, and client_ca names nobody whose certificates count",
            ));
        }
        out
    }

    /// The files and folders that are named.
    pub fn files(&self) -> Vec<PathBuf> {
        self.certificate.iter().chain(&self.key).chain(&self.client_ca).cloned().collect()
    }
}

/// A verified client certificate: who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// DNS names and URIs that it is for, and its common name.
    pub names: Vec<String>,
    /// SHA-256 of the certificate.
    pub digest: Digest,
    /// When it ends, in seconds since 1970.
    not_after: i64,
    /// It, and what stands between it and its CA.
    chain: Vec<CertificateDer<'static>>,
}

impl Shown {
    /// Reads a chain that was verified; `None` of an empty one.
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let certificate = chain.first()?;
        let digest = Digest::of(certificate);
        let (mut names, mut not_after) = (Vec::new(), 0);
        if let Ok((_, parsed)) = X509Certificate::from_der(certificate) {
            let others = parsed.subject_alternative_name().ok().flatten();
            for name in others.iter().flat_map(|others| &others.value.general_names) {
                if let GeneralName::DNSName(name) | GeneralName::URI(name) = name {
                    names.push((*name).to_owned());
                }
            }
            let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            names.extend(common.map(ToOwned::to_owned));
            not_after = parsed.validity().not_after.timestamp();
        }
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Some(Self { names, digest, not_after, chain })
    }

    /// One name, for people: a certificate without any has its digest.
    pub fn name(&self) -> String {
        self.names.first().cloned().unwrap_or_else(|| self.digest.to_string())
    }
}

/// What a port speaks with, read and checked.
#[derive(Debug)]
pub struct Ready {
    /// `None` for plain HTTP.
    config: Option<Arc<ServerConfig>>,
    /// Whose certificates count; `None` when clients are not asked.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Which reading this is, of all of the process.
    number: u64,
    /// Our certificates and the clients' CAs.
    certificates: Vec<Dated>,
    /// When the clients' CAs end.
    client_cas: Expiries,
    /// What is doubtful whatever the time.
    doubts: Vec<String>,
}

/// A certificate and until when it is good, in seconds since 1970.
#[derive(Debug)]
struct Dated {
    file: String,
    subject: String,
    not_before: i64,
    not_after: i64,
    /// One that we show.
    is_ours: bool,
}

impl Dated {
    fn of(file: String, certificate: &CertificateDer<'_>, is_ours: bool) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|e| format!("{file}: holds a certificate that cannot be read: {e}"))?;
        let subject = crate::oci::error_code::shown(&parsed.subject().to_string());
        let (from, until) = (parsed.validity().not_before, parsed.validity().not_after);
        Ok(Self { file, subject, not_before: from.timestamp(), not_after: until.timestamp(), is_ours })
    }

    /// What is doubtful about it at `now`.
    fn doubt(&self, now: i64) -> Option<String> {
        let Self { file, subject, not_before, not_after, .. } = self;
        let date = |seconds: i64| {
            x509_parser::time::ASN1Time::from_timestamp(seconds)
                .map(|time| time.to_string())
                .unwrap_or_default()
        };
        let what = if self.is_ours { "certificate" } else { "CA" };
        let is_soon = self.is_ours && *not_after < now + SOON_SECONDS;
        if *not_after < now {
            Some(format!("{file}: the {what} {subject} has expired on {}", date(*not_after)))
        } else if *not_before > now {
            Some(format!("{file}: the {what} {subject} is not valid before {}", date(*not_before)))
        } else {
            is_soon.then(|| format!("{file}: the {what} {subject} expires on {}", date(*not_after)))
        }
    }
}

impl Ready {
    /// What works at `now`, in seconds since 1970, and is probably not meant.
    pub fn doubts(&self, now: i64) -> Vec<String> {
        let dated = self.certificates.iter().filter_map(|certificate| certificate.doubt(now));
        self.doubts.iter().cloned().chain(dated).collect()
    }
}

/// See the module's text.
pub struct Tls(ArcSwap<Ready>);

impl Tls {
    /// Begins with what was read.
    pub fn new(ready: Ready) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(ready)))
    }

    /// Reads what a port's settings name. Changes nothing. Blocks.
    ///
    /// # Errors
    /// All faults: the setting's key below the port's, and a text that names the file.
    pub fn read(config: &PortConfig) -> Result<Ready, Vec<(&'static str, String)>> {
        let number = READINGS.fetch_add(1, Ordering::Relaxed);
        let mut ready = Ready {
            config: None,
            verifier: None,
            number,
            certificates: Vec::new(),
            client_cas: Expiries::default(),
            doubts: Vec::new(),
        };
        let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else { return Ok(ready) };
        let mut faults = Vec::new();
        let identity = pem::identity(certificate, key).map_err(|fault| {
            let is_key = fault.starts_with(&format!("{}: ", key.display())) && key != certificate;
            faults.push((if is_key { "key" } else { "certificate" }, fault));
        });
        for shown in identity.iter().flat_map(|identity| &identity.chain) {
            match Dated::of(certificate.display().to_string(), shown, true) {
                Ok(dated) => ready.certificates.push(dated),
                Err(fault) => faults.push(("certificate", fault)),
            }
        }
        ready.doubts.extend(exposed(key));
        let mut roots = RootCertStore::empty();
        for path in &config.client_ca {
            match pem::bundles(path) {
                Ok(bundles) => {
                    for bundle in &bundles {
                        for ca in bundle.certificates.iter() {
                            ready.certificates.extend(Dated::of(bundle.label.clone(), ca, false));
                        }
                        roots.add_parsable_certificates(bundle.certificates.iter().cloned());
                    }
                    ready.client_cas.note(&Trust { bundles, ..Trust::default() });
                }
                Err(fault) => faults.push(("client_ca", fault)),
            }
        }
        let (Ok(identity), true) = (identity, faults.is_empty()) else { return Err(faults) };
        let asks = !roots.is_empty();
        let verifier =
            verifier(roots, config.client_certificate).map_err(|fault| vec![("client_ca", fault)])?;
        let made = server_config(identity, verifier.clone(), asks);
        ready.config = Some(Arc::new(made.map_err(|fault| vec![("certificate", fault)])?));
        ready.verifier = asks.then_some(verifier);
        Ok(ready)
    }

    /// From now on handshakes are made with these.
    pub fn replace(&self, ready: Ready) {
        self.0.store(Arc::new(ready));
    }

    /// Whether a certificate that was shown when a connection began would be taken now, at `now` in seconds since 1970: its
    /// CA may have been taken away, or it may have ended. `known` is by which reading that was found out last, and is
    /// kept up to date.
    pub fn vouches(&self, shown: &Shown, known: &AtomicU64, now: i64) -> bool {
        let ready = self.0.load();
        if shown.not_after < now {
            return false;
        }
        if known.load(Ordering::Relaxed) == ready.number {
            return true;
        }
        let Some(((first, others), verifier)) = shown.chain.split_first().zip(ready.verifier.as_ref()) else {
            return false;
        };
        let is_good = verifier.verify_client_cert(first, others, UnixTime::now()).is_ok();
        if is_good {
            known.store(ready.number, Ordering::Relaxed);
        }
        is_good
    }

    /// What a new connection is met with; `None` for plain HTTP.
    pub fn current(&self) -> Option<Arc<ServerConfig>> {
        self.0.load().config.clone()
    }

    /// What works at `now`, in seconds since 1970, and is probably not meant.
    pub fn doubts(&self, now: i64) -> Vec<String> {
        self.0.load().doubts(now)
    }

    /// The files with clients' CAs, and when the next in each ends, in seconds since 1970 as `now`.
    pub fn client_cas(&self, now: i64) -> Vec<(String, i64)> {
        self.0.load().client_cas.of("ca", now)
    }

    /// The files with our certificates, and when the first in each ends, in seconds since 1970.
    pub fn expiries(&self) -> Vec<(String, i64)> {
        let mut first = BTreeMap::new();
        let ready = self.0.load();
        for Dated { file, not_after, .. } in ready.certificates.iter().filter(|dated| dated.is_ours) {
            let end = first.entry(file.clone()).or_insert(*not_after);
            *end = (*end).min(*not_after);
        }
        first.into_iter().collect()
    }
}

fn server_config(
    identity: pem::Identity,
    verifier: Arc<dyn ClientCertVerifier>,
    asks: bool,
) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(pem::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, identity.key)
        .map_err(|e| format!("{}: {e}", identity.label))?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    if asks {
        // A session that is taken up again is not asked for its certificate again, which may have ended meanwhile.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn verifier(roots: RootCertStore, wanted: ClientCertificate) -> Result<Arc<dyn ClientCertVerifier>, String> {
    if roots.is_empty() {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let hint_bytes: usize = roots.subjects().iter().map(|name| name.as_ref().len()).sum();
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), pem::provider());
    if wanted == ClientCertificate::Optional {
        builder = builder.allow_unauthenticated();
    }
    if hint_bytes > HINT_BYTES {
        builder = builder.clear_root_hint_subjects();
    }
    builder.build().map_err(|e| e.to_string())
}

/// Tells of a key that anybody on this machine may read.
fn exposed(key: &Path) -> Option<String> {
    let mode = std::fs::metadata(key).ok()?.permissions().mode();
    (mode & OTHERS != 0)
        .then(|| format!("{}: everybody on this machine may read the key; chmod o= it", key.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dated(not_before: i64, not_after: i64, is_ours: bool) -> Dated {
        Dated { file: "s.pem".into(), subject: "CN=s".into(), not_before, not_after, is_ours }
    }

    #[test]
    fn a_certificate_is_doubted_before_it_is_valid_in_its_last_week_and_after_its_end() {
        const DAY: i64 = 24 * 3600;
        let doubt = |from, until, ours| dated(from, until, ours).doubt(100 * DAY).unwrap_or_default();
        assert_eq!(doubt(0, 200 * DAY, true), "");
        assert!(doubt(0, 106 * DAY, true).contains("s.pem: the certificate CN=s expires on "));
        assert_eq!(doubt(0, 108 * DAY, true), "");
        assert!(doubt(0, 99 * DAY, true).contains("has expired on "));
        assert!(doubt(101 * DAY, 200 * DAY, true).contains("is not valid before "));
        assert_eq!(doubt(0, 106 * DAY, false), "", "the clients' CAs are renewed by others");
        assert!(doubt(0, 99 * DAY, false).contains("the CA CN=s has expired on "));
    }

    #[test]
    fn a_client_is_known_by_its_dns_names_uris_and_common_name() {
        let mut params = rcgen::CertificateParams::new(vec!["gateway.corp".to_owned()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI("spiffe://corp/gateway".try_into().unwrap()));
        params.subject_alt_names.push(rcgen::SanType::IpAddress([10, 0, 0, 1].into()));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "gateway");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "corp");
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let shown = Shown::of(std::slice::from_ref(made.der())).unwrap();
        assert_eq!(shown.names, ["gateway.corp", "spiffe://corp/gateway", "gateway"]);
        assert_eq!(shown.digest, Digest::of(made.der()));
    }
}
