//! A certificate authority, a server's certificate and a client's, made on the spot.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Files of a CA, of a server certificate and of a client certificate. Another generation is made in another folder.
pub struct Pki {
    /// The root alone.
    pub ca: PathBuf,
    /// The server's certificate, and behind it the one between it and the root if there is one.
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_certificate: PathBuf,
    pub client_key: PathBuf,
    pub root: Issuer<'static, KeyPair>,
}

/// Who a client is.
#[derive(Default)]
pub struct Client<'n> {
    pub common: &'n str,
    pub dns: &'n [&'n str],
    pub uri: Option<&'n str>,
    /// Until some years ago.
    pub expired: bool,
}

/// What is special about the server's certificate.
#[derive(Default)]
struct Special {
    expired: bool,
    /// Signed by an intermediate authority.
    chained: bool,
    /// The authority's name; the server is then called by its first name.
    authority: Option<&'static str>,
}

impl Pki {
    /// For `localhost`.
    pub fn make(folder: &Path) -> Self {
        Self::build(folder, &["localhost"], Special::default())
    }

    /// For `localhost`, until some years ago. The client's certificate is valid.
    pub fn expired(folder: &Path) -> Self {
        Self::build(folder, &["localhost"], Special { expired: true, ..Special::default() })
    }

    /// For `localhost`, and only a server that sends its whole file can be trusted.
    pub fn chained(folder: &Path) -> Self {
        Self::build(folder, &["localhost"], Special { chained: true, ..Special::default() })
    }

    /// For one name, by an authority that somebody has heard of.
    pub fn of(folder: &Path, authority: &'static str, name: &str) -> Self {
        Self::build(folder, &[name], Special { authority: Some(authority), ..Special::default() })
    }

    fn build(folder: &Path, names: &[&str], special: Special) -> Self {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (params, key) = authority(special.authority.unwrap_or("larder test CA"));
        let ca = write("ca.pem", &params.self_signed(&key).unwrap().pem());
        let root = Issuer::new(params, key);

        let called = special.authority.map_or("larder test server", |_| names[0]);
        let mut server = leaf(called, names, ExtendedKeyUsagePurpose::ServerAuth);
        if special.expired {
            server.not_before = date_time_ymd(2019, 1, 1);
            server.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let chain = if special.chained {
            let (params, middle_key) = authority("larder test intermediate CA");
            let middle = params.signed_by(&middle_key, &root).unwrap();
            let certificate = server.signed_by(&key, &Issuer::new(params, middle_key)).unwrap();
            certificate.pem() + &middle.pem()
        } else {
            server.signed_by(&key, &root).unwrap().pem()
        };

        let client = leaf("larder test client", &[], ExtendedKeyUsagePurpose::ClientAuth);
        let client_key = KeyPair::generate().unwrap();
        Self {
            ca,
            certificate: write("server.pem", &chain),
            key: write("server.key", &key.serialize_pem()),
            client_certificate: write("client.pem", &client.signed_by(&client_key, &root).unwrap().pem()),
            client_key: write("client.key", &client_key.serialize_pem()),
            root,
        }
    }

    /// Another client's certificate and its key, in files named after it.
    pub fn client(&self, folder: &Path, client: &Client<'_>) -> (PathBuf, PathBuf) {
        let mut params = leaf(client.common, client.dns, ExtendedKeyUsagePurpose::ClientAuth);
        params.subject_alt_names.extend(client.uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        if client.expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        self.put(folder, client.common, params)
    }

    /// Another certificate for `localhost`, good for so long from now, and its key.
    pub fn server(&self, folder: &Path, name: &str, lifetime: Duration) -> (PathBuf, PathBuf) {
        let mut params = leaf(name, &["localhost"], ExtendedKeyUsagePurpose::ServerAuth);
        params.not_after = (SystemTime::now() + lifetime).into();
        self.put(folder, name, params)
    }

    fn put(&self, folder: &Path, name: &str, params: CertificateParams) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let (certificate, key_file) =
            (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&certificate, params.signed_by(&key, &self.root).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (certificate, key_file)
    }
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    (params, KeyPair::generate().unwrap())
}

fn leaf(name: &str, names: &[&str], purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![purpose];
    params
}
