//! Whom to believe in a TLS handshake, and how to tell why not.
//!
//! A verifier of our own stands before the library's for three things that operators need: to know which file's CA
//! accepted a certificate, to name the issuer that would have to be trusted, and to accept a self-signed server
//! certificate that is itself in the list of trusted ones, as `openssl req -x509` makes them.

use super::pem::{Bundle, Identity, provider};
use super::trace::Trace;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Names whose last handshake is remembered at once.
const REMEMBERED_NAMES: usize = 64;
/// What is trusted for a host, and as whom we come.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// In the order in which they are tried.
    pub bundles: Vec<Bundle>,
    /// Ours.
    pub identity: Option<Arc<Identity>>,
    /// Names of servers that are believed whatever they show.
    pub skip_verify: Vec<String>,
}

/// A certificate, as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Until when it is good, by its own word.
    pub not_after: String,
    /// The names it is for.
    pub names: Vec<String>,
}

/// The last handshake with a name.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Leaf first, as the server sent it.
    pub chain: Vec<Shown>,
    /// Whose CA accepted it; `None` where it was refused.
    pub accepted_by: Option<String>,
}

impl Trust {
    /// Certificates that are past their time or not yet in it; they are trusted all the same and help nobody.
    pub fn doubts(&self, now: i64) -> Vec<String> {
        let mut out = Vec::new();
        for bundle in &self.bundles {
            for certificate in bundle.certificates.iter() {
                let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { continue };
                let until = parsed.validity().not_after;
                if until.timestamp() < now && bundle.certificates.len() < 50 {
                    let subject = crate::oci::error_code::shown(&parsed.subject().to_string());
                    out.push(format!("{}: the CA {subject} has expired on {until}", bundle.label));
                }
            }
        }
        out
    }

    /// What a connection needs: with our certificate for the registry itself, without for where it redirects to.
    ///
    /// # Errors
    /// A text, when nothing usable is trusted.
    pub fn config(
        &self,
        verifier: &Arc<Verifier>,
        as_ourselves: bool,
    ) -> Result<rustls::ClientConfig, String> {
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let own = self.identity.as_ref().filter(|_| as_ourselves);
        let key = own.map(|own| {
            let made = CertifiedKey::from_der(own.chain.clone(), own.key.clone_key(), &provider());
            made.map(Arc::new).map_err(|e| format!("{}: {e}", own.label))
        });
        let label = own.map(|own| own.label.clone());
        let shown = Showing { key: key.transpose()?, label, verifier: verifier.clone() };
        let mut config = builder.with_client_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Shows our certificate where it is asked for, and remembers that it was.
#[derive(Debug)]
struct Showing {
    key: Option<Arc<CertifiedKey>>,
    label: Option<String>,
    verifier: Arc<Verifier>,
}

impl ResolvesClientCert for Showing {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.verifier.wants_certificate.store(true, Ordering::SeqCst);
        self.verifier.trace.note("tls", || match &self.label {
            Some(file) => format!("a client certificate is asked for, and {file} is shown"),
            None => "a client certificate is asked for, and there is none to show".into(),
        });
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Verifier {
    bundles: Vec<Bundle>,
    skip: Vec<String>,
    provider: Arc<CryptoProvider>,
    seen: Mutex<HashMap<String, Seen>>,
    wants_certificate: AtomicBool,
    trace: Trace,
}

impl Verifier {
    /// For what `trust` says.
    pub fn new(trust: &Trust, trace: Trace) -> Arc<Self> {
        let (bundles, skip) = (trust.bundles.clone(), trust.skip_verify.clone());
        Arc::new(Self {
            bundles,
            skip,
            provider: provider(),
            seen: Mutex::default(),
            wants_certificate: AtomicBool::new(false),
            trace,
        })
    }

    /// Whether a server has asked for our certificate.
    pub fn wants_certificate(&self) -> bool {
        self.wants_certificate.load(Ordering::SeqCst)
    }

    /// The last handshake with `name`.
    pub fn seen(&self, name: &str) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<String, Error> {
        if self.skip.iter().any(|skipped| skipped.eq_ignore_ascii_case(&name.to_str())) {
            return Ok("nobody: verification is off".into());
        }
        // Told last, because it says most: a certificate that is trusted by one and expired is expired.
        let mut worst = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for anchor in &self.bundles {
            match anchor.verifier.verify_server_cert(leaf, between, name, ocsp, now) {
                Ok(_) => return Ok(anchor.label.clone()),
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                // A CA's own certificate as a server's, which is only good where it is itself trusted: below.
                Err(Error::InvalidCertificate(CertificateError::Other(other)))
                    if format!("{other:?}").contains("CaUsedAsEndEntity") => {}
                Err(error) => worst = error,
            }
            if anchor.certificates.iter().any(|trusted| trusted.as_ref() == leaf.as_ref()) {
                match itself(leaf, name, now) {
                    Ok(()) => return Ok(anchor.label.clone()),
                    Err(error) => worst = error,
                }
            }
        }
        Err(worst)
    }
}

/// A server certificate that is itself trusted: its time and its names are all that is left to ask.
fn itself(leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = X509Certificate::from_der(leaf)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if parsed.validity().not_after.timestamp() < now {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    if parsed.validity().not_before.timestamp() > now {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)
}

fn shown(certificate: &CertificateDer<'_>) -> Shown {
    let clean = crate::oci::error_code::shown;
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        let unreadable = || "a certificate that cannot be read".to_owned();
        return Shown {
            subject: unreadable(),
            issuer: unreadable(),
            not_after: String::new(),
            names: Vec::new(),
        };
    };
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names).take(20).map(|name| {
        use x509_parser::extensions::GeneralName;
        match name {
            GeneralName::DNSName(name) => clean(name),
            GeneralName::IPAddress([a, b, c, d]) => format!("{a}.{b}.{c}.{d}"),
            other => clean(&other.to_string()),
        }
    });
    Shown {
        subject: clean(&parsed.subject().to_string()),
        issuer: clean(&parsed.issuer().to_string()),
        not_after: parsed.validity().not_after.to_string(),
        names: names.collect(),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.judge(leaf, between, name, ocsp, now);
        let chain: Vec<_> = std::iter::once(leaf).chain(between).take(10).map(shown).collect();
        let name = name.to_str().into_owned();
        self.trace.note("tls", || {
            let each = chain
                .iter()
                .map(|c| format!("[{} issued by {}, until {}]", c.subject, c.issuer, c.not_after));
            let shown = each.collect::<Vec<_>>().join(" ");
            match &judged {
                Ok(by) => format!("{name} shows {shown}, accepted by {by}"),
                Err(error) => format!("{name} shows {shown}, refused: {error}"),
            }
        });
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED_NAMES {
            seen.clear();
        }
        seen.insert(name, Seen { chain, accepted_by: judged.as_ref().ok().cloned() });
        judged.map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Seconds since 1970, for certificates.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::pem::bundles;
    use super::*;
    use std::path::{Path, PathBuf};

    fn put(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn certificate(years: (i32, i32)) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut made = rcgen::CertificateParams::new(vec!["h".into()]).unwrap();
        made.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        made.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        (made.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_ca_that_has_expired_is_doubted_by_name_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let old = put(folder.path(), "old.pem", &certificate((2000, 2010)).0);
        let new = put(folder.path(), "new.pem", &certificate((2020, 2100)).0);
        let trust = Trust { bundles: bundles(folder.path()).unwrap(), ..Trust::default() };
        let doubts = trust.doubts(1_800_000_000);
        assert_eq!(doubts.len(), 1, "{doubts:?}");
        assert!(doubts[0].contains(old.to_str().unwrap()) && doubts[0].contains("2010"), "{doubts:?}");
        assert!(!doubts[0].contains(new.to_str().unwrap()));
    }
}
