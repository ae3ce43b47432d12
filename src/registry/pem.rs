//! Certificates and keys from PEM files, each fault with its file.

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate or key file longer than this is something else.
const PEM_BYTES: u64 = 4 << 20;

/// What stands for a file where certificates are the system's or built in.
const SYSTEM: [&str; 2] = ["the system's roots", "Mozilla's roots, built in"];

/// Certificates that are trusted, and where they were read.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The file, or "the system's roots".
    pub label: String,
    /// At least one.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// Accepts what they signed.
    pub verifier: Arc<WebPkiServerVerifier>,
}

impl Bundle {
    fn new(label: String, certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let verifier = verifier.map_err(|e| format!("{label}: {e}"))?;
        Ok(Self { label, certificates: certificates.into(), verifier })
    }

    /// When they run out, of those of one name the last, in seconds since 1970. Empty for the system's, which are not ours
    /// to renew.
    pub fn ends(&self) -> Vec<i64> {
        if SYSTEM.contains(&self.label.as_str()) {
            return Vec::new();
        }
        let mut by_name = HashMap::<Vec<u8>, i64>::new();
        for certificate in self.certificates.iter() {
            let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { continue };
            let until = by_name.entry(parsed.subject().as_raw().to_vec()).or_insert(i64::MIN);
            *until = parsed.validity().not_after.timestamp().max(*until);
        }
        by_name.into_values().collect()
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

impl Identity {
    /// When it runs out, or something between it and its CA, in seconds since 1970.
    pub fn until(&self) -> Option<i64> {
        let parsed = self.chain.iter().filter_map(|der| X509Certificate::from_der(der).ok());
        parsed.map(|(_, certificate)| certificate.validity().not_after.timestamp()).min()
    }
}

/// The system's roots, or Mozilla's where there are none, as in an image from scratch.
///
/// # Errors
/// A text, when none of them can be used.
pub fn system_roots() -> Result<Bundle, String> {
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        let certificates = webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec();
        return Bundle::new(SYSTEM[1].into(), certificates);
    }
    Bundle::new(SYSTEM[0].into(), found)
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
        let sealed = bytes.windows(9).any(|word| word == b"ENCRYPTED");
        let instead = if sealed {
            "; the one in it is encrypted, and nobody could be asked for its password"
        } else {
            ""
        };
        format!("{}: holds no private key in PEM form (-----BEGIN PRIVATE KEY-----){instead}", key.display())
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

/// The bytes of a file that is no longer than a PEM file.
pub fn read(file: &Path) -> Result<Vec<u8>, String> {
    let shown = file.display();
    let found = std::fs::metadata(file).map_err(|e| format!("{shown}: {e}"))?;
    // A pipe would hold whoever reads it for as long as nobody writes into it.
    if !found.is_file() {
        return Err(format!("{shown}: is no regular file"));
    }
    let size = found.len();
    if size > PEM_BYTES {
        return Err(format!("{shown}: {size} bytes are no PEM file"));
    }
    std::fs::read(file).map_err(|e| format!("{shown}: {e}"))
}

/// The one cryptography of this program.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(vec!["h".into()]).unwrap();
        (made.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_is_no_certificate_or_key_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let (good, key) = certificate();
        let (_, other) = certificate();
        let at = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
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
}
