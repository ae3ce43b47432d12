//! Certificates by host, in the layouts that machines already have: Docker's `certs.d` and containerd's `hosts.toml`.
//!
//! A folder `<host>[:port]` (containerd also writes `<host>_<port>_`) holds either `hosts.toml`, which may name mirrors, or
//! Docker's files: `*.crt` are CAs, `*.cert` and the `*.key` of the same name are ours. `_default` is for hosts without
//! a folder. PEM files beside these folders are CAs for all.

use super::pem::{self, Bundle, Identity};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use url::Url;

/// What the folders say.
#[derive(Debug, Default)]
pub struct Certs {
    /// CAs for all hosts.
    pub global: Vec<Bundle>,
    /// Files that folders name elsewhere.
    pub files: Vec<PathBuf>,
    /// Files and folders that could be used.
    pub used: Vec<PathBuf>,
    /// By host, lower case, as references write it; `_default` for the others.
    hosts: HashMap<String, Arc<Layout>>,
    /// Hosts whose folder cannot be used: what is for others is not for them.
    unusable: Vec<String>,
}

/// A file or folder that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub path: PathBuf,
    /// What is wrong, with the file's name.
    pub fault: String,
}

/// What a host's folder says.
#[derive(Debug, Default)]
pub struct Layout {
    /// The folder, or its `hosts.toml`.
    pub place: PathBuf,
    /// Asked before the registry, in this order.
    pub mirrors: Vec<Entry>,
    /// The registry itself.
    pub origin: Entry,
    /// What `hosts.toml` names.
    files: Vec<PathBuf>,
}

/// One place to ask.
#[derive(Debug, Default, Clone)]
pub struct Entry {
    /// `None` for the registry's own address.
    pub url: Option<Url>,
    /// True where the API is at the URL's path, and not at `/v2` below it.
    pub override_path: bool,
    /// True where it is only asked for what a digest names.
    pub digests_only: bool,
    /// Further CAs.
    pub ca: Vec<Bundle>,
    /// Our certificate.
    pub identity: Option<Arc<Identity>>,
    /// Accept any certificate.
    pub skip_verify: bool,
    /// Fields of every request.
    pub headers: HeaderMap,
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    #[serde(flatten)]
    origin: Settings,
}

#[derive(Deserialize, Default)]
struct Settings {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: HashMap<String, OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A file with both, files with both, or pairs of certificate and key.
#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    Pairs(Vec<(String, String)>),
    Files(OneOrMany),
}

impl Settings {
    /// The files that are named.
    fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let ca = self.ca.iter().flat_map(OneOrMany::list);
        let client: Vec<&String> = match &self.client {
            None => Vec::new(),
            Some(Client::Pairs(pairs)) => pairs.iter().flat_map(|(cert, key)| [cert, key]).collect(),
            Some(Client::Files(files)) => files.list().iter().collect(),
        };
        ca.chain(client).map(|name| folder.join(name)).collect()
    }
}

impl OneOrMany {
    fn list(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl Certs {
    /// Reads `folders`. What cannot be used is left out and told; earlier folders win for a host.
    pub fn read(folders: &[PathBuf]) -> (Self, Vec<Broken>) {
        let mut certs = Self::default();
        let mut faults = Vec::new();
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            match pem::pem_files(folder) {
                Ok(files) => {
                    for file in files {
                        match pem::bundle(&file) {
                            Ok(bundle) => {
                                certs.global.push(bundle);
                                certs.used.push(file);
                            }
                            Err(fault) => faults.push(Broken { path: file, fault }),
                        }
                    }
                }
                Err(fault) => faults.push(Broken { path: folder.clone(), fault }),
            }
            let Ok(listed) = std::fs::read_dir(folder) else { continue };
            let mut below: Vec<_> =
                listed.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
            below.sort();
            for path in below {
                let Some(host) = path.file_name().and_then(|name| name.to_str()).and_then(host_of) else {
                    continue;
                };
                match Layout::read(&path) {
                    Ok(Some(mut layout)) => {
                        certs.files.append(&mut layout.files);
                        certs.used.push(path);
                        certs.hosts.entry(host).or_insert(Arc::new(layout));
                    }
                    Ok(None) => {}
                    Err(fault) => {
                        faults.push(Broken { path, fault });
                        certs.unusable.push(host);
                    }
                }
            }
        }
        (certs, faults)
    }

    /// What is said of `host`.
    pub fn of(&self, host: &str) -> Option<Arc<Layout>> {
        let others =
            || self.hosts.get("_default").filter(|_| !self.unusable.iter().any(|known| known == host));
        self.hosts.get(host).or_else(others).cloned()
    }

    /// Every place to ask that a folder tells of.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.hosts.values().flat_map(|layout| layout.mirrors.iter().chain([&layout.origin]))
    }

    /// Hosts of which any certificate is accepted, and the file that says so.
    pub fn unverified(&self) -> Vec<(String, &Path)> {
        let skips = |layout: &Layout| {
            let mirrors = layout.mirrors.iter().filter(|entry| entry.skip_verify);
            let urls = mirrors.filter_map(|entry| entry.url.as_ref()).map(super::names::authority);
            urls.collect::<Vec<_>>()
        };
        let mut out = Vec::new();
        for (host, layout) in &self.hosts {
            let mut names = skips(layout);
            names.extend(layout.origin.skip_verify.then(|| host.clone()));
            out.extend(names.into_iter().map(|name| (name, layout.place.as_path())));
        }
        out.sort();
        out
    }
}

/// The host that a folder's name means; `None` for the kubelet's `..data` and other things.
fn host_of(name: &str) -> Option<String> {
    if name == "_default" {
        return Some(name.into());
    }
    let name = name.to_ascii_lowercase();
    let plain = match name.strip_suffix('_').and_then(|rest| rest.rsplit_once('_')) {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => format!("{host}:{port}"),
        _ => name,
    };
    crate::oci::reference::is_registry(&plain).then_some(plain)
}

impl Layout {
    fn read(folder: &Path) -> Result<Option<Self>, String> {
        let file = folder.join("hosts.toml");
        if file.is_file() { Self::containerd(folder, file).map(Some) } else { Self::docker(folder) }
    }

    fn docker(folder: &Path) -> Result<Option<Self>, String> {
        let listed = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut files: Vec<_> =
            listed.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        files.sort();
        let mut origin = Entry::default();
        for file in &files {
            match file.extension().and_then(|end| end.to_str()) {
                Some("crt") => origin.ca.push(pem::bundle(file)?),
                Some("cert") if origin.identity.is_none() => {
                    let key = file.with_extension("key");
                    if !key.is_file() {
                        let (file, key) = (file.display(), key.display());
                        return Err(format!("{file}: its key {key} is missing; CAs end in .crt"));
                    }
                    origin.identity = Some(Arc::new(pem::identity(file, &key)?));
                }
                Some("key") if !file.with_extension("cert").is_file() => {
                    let (file, cert) = (file.display(), file.with_extension("cert"));
                    return Err(format!("{file}: its certificate {} is missing", cert.display()));
                }
                _ => {}
            }
        }
        let empty = origin.ca.is_empty() && origin.identity.is_none();
        Ok((!empty).then(|| Self { place: folder.into(), origin, ..Self::default() }))
    }

    fn containerd(folder: &Path, file: PathBuf) -> Result<Self, String> {
        let shown = file.display();
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{shown}: {e}"))?;
        let parsed: File = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            format!("{shown}:{line}: {}", e.message())
        })?;
        let mut layout = Self { place: file.clone(), ..Self::default() };
        layout.files = parsed.origin.files(folder);
        if let Some(origin) =
            entry(parsed.server.as_deref(), &parsed.origin, folder).map_err(|e| format!("{shown}: {e}"))?
        {
            layout.origin = origin;
        }
        for (url, table) in parsed.host {
            let settings: Settings = table.try_into().map_err(|e| {
                let url = crate::oci::reference::masked(&url);
                format!("{shown}: host \"{url}\": {}", e.message())
            })?;
            layout.files.extend(settings.files(folder));
            layout.mirrors.extend(entry(Some(&url), &settings, folder).map_err(|e| format!("{shown}: {e}"))?);
        }
        Ok(layout)
    }
}

/// `None` for a host that nothing may be pulled from.
fn entry(url: Option<&str>, settings: &Settings, folder: &Path) -> Result<Option<Entry>, String> {
    let can =
        |what: &str| settings.capabilities.as_ref().is_none_or(|list| list.iter().any(|can| can == what));
    if !can("pull") {
        return Ok(None);
    }
    let parsed = url
        .map(|text| {
            let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
            let parsed = full.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            let clean = parsed.filter(|url| url.username().is_empty() && url.password().is_none());
            clean.ok_or_else(|| {
                format!("host \"{}\" is no http or https URL", crate::oci::reference::masked(text))
            })
        })
        .transpose()?;
    let at = |name: &str| folder.join(name);
    let mut ca = Vec::new();
    for name in settings.ca.iter().flat_map(OneOrMany::list) {
        ca.push(pem::bundle(&at(name))?);
    }
    let identity = match &settings.client {
        None => None,
        Some(Client::Pairs(pairs)) => {
            pairs.first().map(|(cert, key)| pem::identity(&at(cert), &at(key))).transpose()?
        }
        Some(Client::Files(files)) => {
            files.list().first().map(|file| pem::identity(&at(file), &at(file))).transpose()?
        }
    };
    let mut headers = HeaderMap::new();
    for (name, values) in &settings.header {
        for value in values.list() {
            let name: HeaderName = name.parse().map_err(|_| {
                let name = crate::oci::error_code::shown(name);
                format!("header \"{name}\" is no field name")
            })?;
            let mut value: HeaderValue =
                value.parse().map_err(|_| format!("header \"{name}\" has a value that cannot be sent"))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    Ok(Some(Entry {
        url: parsed,
        override_path: settings.override_path,
        digests_only: !can("resolve"),
        ca,
        identity: identity.map(Arc::new),
        skip_verify: settings.skip_verify,
        headers,
    }))
}

/// Where to say that a further CA is to be put: the first of these folders that is there, or else the first that means
/// the same wherever larder is started.
pub fn folder_for_more(folders: &[PathBuf]) -> String {
    let absolute = || folders.iter().find(|folder| folder.is_absolute());
    let folder = folders.iter().find(|folder| folder.is_dir()).or_else(absolute).or(folders.first());
    folder.map_or_else(|| "registry.ca".into(), |folder| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_ca_is_wanted_in_a_folder_that_is_there() {
        let root = tempfile::tempdir().unwrap();
        let (missing, there) = (PathBuf::from("/not/there"), root.path().to_owned());
        assert_eq!(folder_for_more(&[missing.clone(), there.clone()]), there.display().to_string());
        assert_eq!(folder_for_more(&["not-there".into(), missing]), "/not/there");
        assert_eq!(folder_for_more(&["not-there".into()]), "not-there");
        assert_eq!(folder_for_more(&[]), "registry.ca");
    }

    fn pem() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(vec!["h".into()]).unwrap().self_signed(&key).unwrap();
        made.pem() + &key.serialize_pem()
    }

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn dockers_layout_is_read_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let (ca, own) = (pem(), pem());
        put(root.path(), "shared.pem", &ca);
        put(root.path(), "README.md", "words");
        put(root.path(), "harbor.corp:8443/ca.crt", &ca);
        put(root.path(), "harbor.corp:8443/client.cert", &own);
        put(root.path(), "harbor.corp:8443/client.key", &own);
        put(root.path(), "..2026_11/old.corp/ca.crt", "never looked at");
        put(root.path(), "empty.corp/notes.txt", "");
        let (certs, faults) = Certs::read(&[root.path().into(), "/not/there".into()]);
        assert_eq!(faults, []);
        assert_eq!(certs.global.len(), 1);
        let layout = certs.of("harbor.corp:8443").unwrap();
        assert_eq!((layout.origin.ca.len(), layout.mirrors.len()), (1, 0));
        assert!(layout.origin.identity.is_some());
        assert!(certs.of("harbor.corp").is_none() && certs.of("empty.corp").is_none());
    }

    #[test]
    fn containerds_layout_is_read_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "r.example_5000_/private.crt", &pem());
        put(root.path(), "r.example_5000_/own.pem", &pem());
        let text = r#"
            server = "https://origin.example"
            ca = "private.crt"
            [host."https://second.example/mirror"]
              capabilities = ["pull", "resolve"]
              client = "own.pem"
              skip_verify = true
              [host."https://second.example/mirror".header]
                x-team = ["a", "b"]
            [host."http://first.example:81/v2/hub"]
              capabilities = ["pull"]
              override_path = true
              ca = ["private.crt", "private.crt"]
              client = [["own.pem", "own.pem"]]
            [host."https://pushed.example"]
              capabilities = ["push"]
        "#;
        put(root.path(), "r.example_5000_/hosts.toml", text);
        put(root.path(), "_default/hosts.toml", "[host.\"https://all.example\"]\n");
        let (certs, faults) = Certs::read(&[root.path().into()]);
        assert_eq!(faults, []);
        let layout = certs.of("r.example:5000").unwrap();
        let urls: Vec<_> = layout.mirrors.iter().map(|m| m.url.as_ref().unwrap().as_str()).collect();
        assert_eq!(
            urls,
            ["https://second.example/mirror", "http://first.example:81/v2/hub"],
            "as they are written"
        );
        assert_eq!(layout.origin.url.as_ref().unwrap().as_str(), "https://origin.example/");
        assert_eq!(layout.origin.ca.len(), 1);
        let [second, first] = &layout.mirrors[..] else { panic!() };
        assert!(
            second.skip_verify && second.identity.is_some() && !second.digests_only && !second.override_path
        );
        assert_eq!(second.headers.get_all("x-team").iter().count(), 2);
        assert!(first.digests_only && first.override_path && first.identity.is_some());
        assert_eq!(first.ca.len(), 2);
        assert_eq!(certs.of("anything").unwrap().mirrors.len(), 1, "_default");
    }

    #[test]
    fn what_cannot_be_used_is_named_and_the_rest_is_read() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "broken.pem", "no PEM");
        put(root.path(), "good.pem", &pem());
        put(root.path(), "a.corp/hosts.toml", "server = \"https://x\"\nnonsense");
        put(root.path(), "b.corp/hosts.toml", "[host.\"ftp://u:s3cret@x\"]\n");
        put(root.path(), "c.corp/client.cert", &pem());
        put(root.path(), "d.corp/ca.crt", &pem());
        put(root.path(), "e.corp/own.key", &pem());
        put(root.path(), "f.corp/own.cert", &pem());
        put(root.path(), "f.corp/own.key", &pem());
        let (certs, faults) = Certs::read(&[root.path().into()]);
        let told = faults.iter().map(|broken| broken.fault.as_str()).collect::<Vec<_>>().join("\n");
        for part in [
            "broken.pem: holds no certificate",
            "a.corp/hosts.toml:2: ",
            "b.corp/hosts.toml: ",
            "client.key is missing",
            "own.cert is missing",
            "is not the key of",
        ] {
            assert!(told.contains(part), "{part} in\n{told}");
        }
        assert!(!told.contains("s3cret"), "{told}");
        assert_eq!(faults.len(), 6, "{told}");
        assert_eq!(certs.global.len(), 1);
        assert!(certs.of("d.corp").is_some());
        put(root.path(), "_default/ca.crt", &pem());
        let (certs, _) = Certs::read(&[root.path().into()]);
        assert!(
            certs.of("other.corp").is_some() && certs.of("a.corp").is_none(),
            "what is for others is not for it"
        );
    }
}
