//! Registries by host: how each is reached and what it may be told.

use super::credentials::Credentials;
use super::{Config, HostConfig};
use crate::oci::reference::{is_registry, masked};
use reqwest::Certificate;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One registry, ready to be asked.
pub struct Host {
    /// As references write it.
    pub name: String,
    /// Scheme and authority of its API, without a slash at the end.
    pub base: String,
    /// For everything that belongs to this registry: itself, its token service, its blob hosts. Follows no redirects.
    pub http: reqwest::Client,
    /// What it may be told.
    pub credentials: Option<Credentials>,
    /// Hosts whose token service may be told it too.
    pub token_hosts: Vec<String>,
}

/// All registries: those with settings, and the rule for the others.
pub struct Hosts {
    known: HashMap<String, Arc<Host>>,
    plain_http: Vec<String>,
    http: reqwest::Client,
}

impl Hosts {
    /// Reads certificates and credentials and builds the clients.
    ///
    /// # Errors
    /// All faults, each as (configuration key, what is wrong).
    pub fn build(config: &Config) -> Result<Self, Vec<(String, String)>> {
        let mut faults = Vec::new();
        let mut note = |key: &str, problem: String| faults.push((key.to_owned(), problem));
        let mut global = Vec::new();
        for path in &config.ca {
            match certificates(path) {
                Ok(found) => global.extend(found),
                Err(problem) => note("registry.ca", problem),
            }
        }
        for name in &config.plain_http {
            if !is_registry(name) {
                let shown = masked(name);
                note("registry.plain_http", format!("'{shown}' is no host: expected name or name:port"));
            }
        }
        let http = match client(config, &global) {
            Ok(http) => http,
            Err(problem) => {
                note("registry.ca", problem);
                return Err(faults);
            }
        };
        let mut known = HashMap::new();
        for (name, settings) in &config.hosts {
            // References are lower-cased too.
            match host(&name.to_ascii_lowercase(), settings, config, &global, &http) {
                Ok(host) => drop(known.insert(host.name.clone(), Arc::new(host))),
                Err(problem) => note(&format!("registry.hosts.{}", masked(name)), problem),
            }
        }
        if faults.is_empty() {
            Ok(Self {
                known,
                plain_http: config.plain_http.iter().map(|name| name.to_ascii_lowercase()).collect(),
                http,
            })
        } else {
            Err(faults)
        }
    }

    /// The registry that references call `name`.
    pub fn get(&self, name: &str) -> Arc<Host> {
        self.known.get(name).cloned().unwrap_or_else(|| {
            Arc::new(Host {
                name: name.into(),
                base: base(name, self.plain_http.iter().any(|plain| plain == name)),
                http: self.http.clone(),
                credentials: None,
                token_hosts: Vec::new(),
            })
        })
    }
}

fn host(
    name: &str,
    settings: &HostConfig,
    config: &Config,
    global: &[Certificate],
    http: &reqwest::Client,
) -> Result<Host, String> {
    if !is_registry(name) {
        return Err("is no host: expected name or name:port".into());
    }
    let http = if settings.ca.is_empty() {
        http.clone()
    } else {
        let mut trusted = global.to_vec();
        for path in &settings.ca {
            trusted.extend(certificates(path).map_err(|e| format!("ca: {e}"))?);
        }
        client(config, &trusted)?
    };
    Ok(Host {
        name: name.into(),
        base: base(
            name,
            settings.plain_http || config.plain_http.iter().any(|plain| plain.eq_ignore_ascii_case(name)),
        ),
        http,
        credentials: Credentials::read(settings)?,
        token_hosts: settings.token_hosts.clone(),
    })
}

/// Docker Hub's API is on another host than its references name.
fn base(name: &str, plain_http: bool) -> String {
    let authority =
        if matches!(name, "docker.io" | "index.docker.io") { "registry-1.docker.io" } else { name };
    format!("{}://{authority}", if plain_http { "http" } else { "https" })
}

/// The certificates of a PEM file, or of the files of a directory that end in `.pem`, `.crt` or `.cer`.
fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let shown = path.display();
    let files: Vec<PathBuf> = if path.is_dir() {
        let listed = std::fs::read_dir(path).map_err(|e| format!("{shown}: {e}"))?;
        let mut files: Vec<_> = listed.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        files.retain(|file| file.extension().is_some_and(|end| end == "pem" || end == "crt" || end == "cer"));
        files.sort();
        files
    } else {
        vec![path.into()]
    };
    let mut found = Vec::new();
    for file in files {
        let shown = file.display();
        let bytes = std::fs::read(&file).map_err(|e| format!("{shown}: {e}"))?;
        let list = Certificate::from_pem_bundle(&bytes).map_err(|e| format!("{shown}: {e}"))?;
        if list.is_empty() {
            return Err(format!("{shown}: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"));
        }
        found.extend(list);
    }
    if found.is_empty() {
        return Err(format!("{shown}: holds no .pem, .crt or .cer file"));
    }
    Ok(found)
}

fn client(config: &Config, trusted: &[Certificate]) -> Result<reqwest::Client, String> {
    let builder = || {
        reqwest::Client::builder()
            .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.read_timeout)
    };
    // An image from scratch has no roots of its own, and the client refuses to be built without any.
    let system = builder().build().is_ok();
    let built = if system {
        builder().tls_certs_merge(trusted.to_vec()).build()
    } else {
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        let roots = roots.filter_map(|der| Certificate::from_der(der.as_ref()).ok());
        builder().tls_certs_only(roots.chain(trusted.iter().cloned())).build()
    };
    built.map_err(|e| {
        let cause = std::error::Error::source(&e).map(|c| c.to_string()).unwrap_or_else(|| e.to_string());
        format!("the certificates cannot be used: {cause}")
    })
}
