//! Whom to believe in a TLS handshake, and how to tell why not.
//!
//! A verifier of our own stands before the library's for three things that operators need: to know which file's CA
//! accepted a certificate, to name the issuer that would have to be trusted, and to accept a self-signed server
//! certificate that is itself in the list of trusted ones, as `openssl req -x509` makes them.

use super::trace::Trace;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Names whose last handshake is remembered at once.
const REMEMBERED_NAMES: usize = 64;
/// A certificate or key file longer than this is something else.
const PEM_BYTES: u64 = 4 << 20;

/// Certificates that are trusted, and where they were read.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The file, or "the system's roots".
    pub label: String,
    /// At least one.
    certificates: Arc<[CertificateDer<'static>]>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Bundle {
    fn new(label: String, certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let verifier = verifier.map_err(|e| format!("{label}: {e}"))?;
        Ok(Self { label, certificates: certificates.into(), verifier })
    }
}

/// A client certificate.
#[derive(Debug)]
pub struct Identity {
    /// The certificate's file.
    pub label: String,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

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

/// The system's roots, or Mozilla's where there are none, as in an image from scratch.
///
/// # Errors
/// A text, when none of them can be used.
pub fn system_roots() -> Result<Bundle, String> {
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        let certificates = webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec();
        return Bundle::new("Mozilla's roots, built in".into(), certificates);
    }
    Bundle::new("the system's roots".into(), found)
}

/// The certificates of a PEM file, or of the files of a folder that end in `.pem`, `.crt` or `.cer`.
///
/// # Errors
/// A text that names the file and what is wrong with it.
pub fn bundles(path: &Path) -> Result<Vec<Bundle>, String> {
    let files = if path.is_dir() { pem_files(path)? } else { vec![path.into()] };
    if files.is_empty() {
        return Err(format!("{}: holds no .pem, .crt or .cer file", path.display()));
    }
    files.iter().map(|file| bundle(file)).collect()
}

/// The files of a folder that end in `.pem`, `.crt` or `.cer`, in order.
pub fn pem_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let listed = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<_> = listed.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    let is_pem =
        |file: &Path| file.extension().is_some_and(|end| end == "pem" || end == "crt" || end == "cer");
    files.retain(|file| is_pem(file) && file.is_file());
    files.sort();
    Ok(files)
}

/// The certificates of one PEM file.
pub fn bundle(file: &Path) -> Result<Bundle, String> {
    let certificates = certificates(file)?;
    for certificate in &certificates {
        let parsed = X509Certificate::from_der(certificate).map_err(|e| e.to_string()).and_then(|_| {
            let mut alone = RootCertStore::empty();
            alone.add(certificate.clone()).map_err(|e| e.to_string())
        });
        parsed.map_err(|e| format!("{}: holds a certificate that cannot be read: {e}", file.display()))?;
    }
    Bundle::new(file.display().to_string(), certificates)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let bytes = read(file)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = parsed.map_err(|e| format!("{shown}: is no PEM: {e}"))?;
    if found.is_empty() {
        let key = PrivateKeyDer::from_pem_slice(&bytes).is_ok();
        let instead = if key { "; it holds a private key" } else { "" };
        return Err(format!(
            "{shown}: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----){instead}"
        ));
    }
    Ok(found)
}

/// A client certificate and its key.
///
/// # Errors
/// A text that names the file and what is wrong with it, also when the two do not belong together.
pub fn identity(certificate: &Path, key: &Path) -> Result<Identity, String> {
    let chain = certificates(certificate)?;
    let bytes = read(key)?;
    let der = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        format!("{}: holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)", key.display())
    })?;
    let made = CertifiedKey::from_der(chain.clone(), der.clone_key(), &provider());
    made.map_err(|e| match e {
        Error::InconsistentKeys(_) => {
            format!("{}: is not the key of the certificate in {}", key.display(), certificate.display())
        }
        other => format!("{}: {other}", key.display()),
    })?;
    Ok(Identity { label: certificate.display().to_string(), chain, key: der })
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let shown = file.display();
    let size = std::fs::metadata(file).map_err(|e| format!("{shown}: {e}"))?.len();
    if size > PEM_BYTES {
        return Err(format!("{shown}: {size} bytes are no PEM file"));
    }
    std::fs::read(file).map_err(|e| format!("{shown}: {e}"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
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
                    out.push(format!("{}: the CA {} has expired on {until}", bundle.label, parsed.subject()));
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
    use super::*;

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
    fn what_is_no_certificate_or_key_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let (good, key) = certificate((2020, 2100));
        let (_, other) = certificate((2020, 2100));
        let at = |name: &str, text: &str| put(folder.path(), name, text);
        for (text, told) in [
            ("", "a.pem: holds no certificate"),
            ("words", "a.pem: holds no certificate"),
            (key.as_str(), "; it holds a private key"),
            (&good[..good.len() / 2], "a.pem: "),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "a.pem: holds a certificate that cannot be read",
            ),
        ] {
            let fault = bundle(&at("a.pem", text)).err().unwrap();
            assert!(fault.contains(told), "{text}: {fault}");
        }
        let windows = good.replace('\n', "\r\n");
        assert_eq!(bundle(&at("a.pem", &windows)).unwrap().certificates.len(), 1, "line ends of Windows");
        assert_eq!(bundle(&at("a.pem", &good.repeat(1000))).unwrap().certificates.len(), 1000);
        let (certificate, key) = (at("c.pem", &good), at("c.key", &key));
        assert!(identity(&certificate, &key).is_ok());
        let fault = identity(&certificate, &at("o.key", &other)).err().unwrap();
        assert!(fault.contains("o.key: is not the key of the certificate in"), "{fault}");
        let fault = identity(&certificate, &certificate).err().unwrap();
        assert!(fault.contains("c.pem: holds no private key"), "{fault}");
        let fault = identity(&certificate, Path::new("/not/there")).err().unwrap();
        assert!(fault.starts_with("/not/there: "), "{fault}");
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
