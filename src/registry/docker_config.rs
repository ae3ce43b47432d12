//! Docker's `config.json` (Kubernetes mounts it as `.dockerconfigjson`): which of its entries is for a repository.
//!
//! Written by `docker login` and kin. Keys are registries, with or without a scheme, and, for Kubernetes, may have `*` in
//! a label and a path behind the host (its documentation of `imagePullSecrets`); the longest path wins.

use base64::Engine;
use secrecy::SecretString;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file longer than this is something else.
const CONFIG_BYTES: u64 = 4 << 20;
/// Docker Hub's key, whatever its references call it.
const HUB: &str = "index.docker.io";

/// The file.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<SecretString>,
    username: Option<String>,
    password: Option<SecretString>,
    identitytoken: Option<SecretString>,
    registrytoken: Option<SecretString>,
}

/// What the file has for a repository.
#[derive(Debug, Clone)]
pub enum Found {
    /// User name and password.
    Basic(String, SecretString),
    /// A token that the token service takes in place of a password.
    Identity(SecretString),
    /// A bearer token, sent as it is.
    Bearer(SecretString),
}

/// A program that knows more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Program {
    /// `docker-credential-…`
    pub program: String,
    /// What it is asked for.
    pub server: String,
}

/// The file that a path means: itself, or `config.json` or `.dockerconfigjson` in a folder.
pub fn file_at(path: &Path) -> PathBuf {
    let below = ["config.json", ".dockerconfigjson"].map(|name| path.join(name));
    below.into_iter().find(|file| file.is_file()).unwrap_or_else(|| path.into())
}

impl DockerConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// A text that names the file and the line, and nothing of its content.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let size = std::fs::metadata(path).map_err(|e| format!("{shown}: {e}"))?.len();
        if size > CONFIG_BYTES {
            return Err(format!("{shown}: {size} bytes are no Docker configuration"));
        }
        let bytes = std::fs::read(path).map_err(|e| format!("{shown}: {e}"))?;
        let parsed: Self = serde_json::from_slice(&bytes).map_err(|e| {
            // The message could quote a password that stands where a map should.
            format!("{shown}:{}:{}: is no Docker configuration in JSON", e.line(), e.column())
        })?;
        for name in parsed.cred_helpers.values().chain(&parsed.creds_store) {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || !name.chars().all(plain) {
                return Err(format!(
                    "{shown}: a credential helper's name has characters that no program's has"
                ));
            }
        }
        for (key, entry) in &parsed.auths {
            entry.found().map_err(|problem| {
                format!("{shown}: auths.\"{}\": {problem}", crate::oci::reference::masked(key))
            })?;
        }
        Ok(parsed)
    }

    /// The program that is asked first for `registry`, if there is one.
    pub fn helper(&self, registry: &str) -> Option<Program> {
        let named = self.cred_helpers.iter().find(|(key, _)| split(key).0 == hub(registry));
        let server = |registry: &str| {
            if hub(registry) == HUB { "https://index.docker.io/v1/".into() } else { registry.into() }
        };
        let (server, name) = match named {
            Some((key, name)) => (key.clone(), name),
            None => (server(registry), self.creds_store.as_ref()?),
        };
        Some(Program { program: format!("docker-credential-{name}"), server })
    }

    /// Whether there should be something for `registry`: a program of its own, or an entry, which Docker leaves empty when
    /// it keeps the rest elsewhere.
    pub fn promises(&self, registry: &str) -> bool {
        let is_it = |key: &String| split(key).0 == hub(registry);
        self.cred_helpers.keys().any(is_it) || self.auths.keys().any(is_it)
    }

    /// The entry of the file itself for a repository.
    pub fn entry(&self, registry: &str, repository: &str) -> Option<Found> {
        let fitting = self.auths.iter().filter_map(|(key, entry)| {
            let (host, path) = split(key);
            let below =
                path.is_empty() || repository == path || repository.strip_prefix(path)?.starts_with('/');
            let rank = (path.len(), usize::from(!host.contains('*')));
            (below && fits(host, hub(registry))).then_some((rank, entry.found().ok().flatten()?))
        });
        fitting.max_by_key(|(rank, _)| *rank).map(|(_, found)| found)
    }
}

impl Entry {
    fn found(&self) -> Result<Option<Found>, &'static str> {
        use secrecy::ExposeSecret;
        let some = |secret: &Option<SecretString>| secret.clone().filter(|s| !s.expose_secret().is_empty());
        if let Some(token) = some(&self.registrytoken) {
            return Ok(Some(Found::Bearer(token)));
        }
        if let Some(token) = some(&self.identitytoken) {
            return Ok(Some(Found::Identity(token)));
        }
        if let (Some(name), Some(password)) = (&self.username, some(&self.password)) {
            return Ok(Some(Found::Basic(name.clone(), password)));
        }
        let Some(auth) = some(&self.auth) else { return Ok(None) };
        // Written with and without padding.
        let text = auth.expose_secret().trim_end_matches('=');
        let decoded = base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).ok();
        let decoded =
            decoded.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or("auth is no base64 of a text")?;
        let (name, password) = decoded.split_once(':').ok_or("auth is not base64 of user:password")?;
        let password = password.trim_end_matches('\0');
        if password.is_empty() {
            return Ok(None);
        }
        Ok(Some(Found::Basic(name.into(), password.to_owned().into())))
    }
}

/// Docker Hub has several names and one entry.
fn hub(registry: &str) -> &str {
    if matches!(registry, "docker.io" | "registry-1.docker.io") { HUB } else { registry }
}

/// Host and path of a key, without a scheme and without the API's `/v1/` and `/v2/`.
fn split(key: &str) -> (&str, &str) {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    (hub(host), if matches!(path, "v1" | "v2") { "" } else { path })
}

/// `*` stands for a label or a part of one; the port must be the same.
fn fits(pattern: &str, host: &str) -> bool {
    let labels = |text: &str| text.split('.').map(str::to_ascii_lowercase).collect::<Vec<_>>();
    let (pattern, host) = (labels(pattern), labels(host));
    pattern.len() == host.len() && pattern.iter().zip(&host).all(|(pattern, label)| like(pattern, label))
}

fn like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            let rest = text.strip_prefix(before);
            // No `*` of a name stands for a port.
            let rest = rest.filter(|rest| after.contains(':') || !rest.contains(':'));
            rest.is_some_and(|rest| rest.strip_suffix(after).is_some_and(|between| !between.contains(':')))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn read(text: &str) -> Result<DockerConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        DockerConfig::read(&file)
    }

    fn told(found: Option<Found>) -> String {
        match found {
            None => "nothing".into(),
            Some(Found::Basic(name, password)) => format!("{name}:{}", password.expose_secret()),
            Some(Found::Identity(token)) => format!("identity {}", token.expose_secret()),
            Some(Found::Bearer(token)) => format!("bearer {}", token.expose_secret()),
        }
    }

    #[test]
    fn entries_are_found_by_host_wildcard_and_path() {
        let config = read(
            r#"{"auths":{
            "harbor.corp":{"auth":"cm9ib3Q6czNjcmV0"},
            "https://harbor.corp/team-a":{"username":"a","password":"pa"},
            "harbor.corp/team-a/deep/":{"username":"d","password":"pd"},
            "*.wild.corp":{"auth":"dzpwdw"},
            "r.wild.corp":{"username":"exact","password":"pe"},
            "port.corp:8443":{"username":"p","password":"pp"},
            "https://index.docker.io/v1/":{"username":"hub","password":"ph"},
            "token.corp":{"auth":"PHRva2VuPjo=","identitytoken":"idt"},
            "bearer.corp":{"registrytoken":"rt"},
            "empty.corp":{},"blank.corp":{"auth":""}
        },"HttpHeaders":{"x":"y"}}"#,
        )
        .unwrap();
        for (registry, repository, expected) in [
            ("harbor.corp", "waf", "robot:s3cret"),
            ("harbor.corp", "team-a/waf", "a:pa"),
            ("harbor.corp", "team-a", "a:pa"),
            ("harbor.corp", "team-ab/waf", "robot:s3cret"),
            ("harbor.corp", "team-a/deep/waf", "d:pd"),
            ("x.wild.corp", "waf", "w:pw"),
            ("r.wild.corp", "waf", "exact:pe"),
            ("a.b.wild.corp", "waf", "nothing"),
            ("wild.corp", "waf", "nothing"),
            ("x.wild.corp:5000", "waf", "nothing"),
            ("port.corp:8443", "waf", "p:pp"),
            ("port.corp", "waf", "nothing"),
            ("docker.io", "library/x", "hub:ph"),
            ("registry-1.docker.io", "library/x", "hub:ph"),
            ("token.corp", "x", "identity idt"),
            ("bearer.corp", "x", "bearer rt"),
            ("empty.corp", "x", "nothing"),
            ("blank.corp", "x", "nothing"),
            ("other.corp", "x", "nothing"),
        ] {
            assert_eq!(told(config.entry(registry, repository)), expected, "{registry}/{repository}");
        }
    }

    #[test]
    fn a_registrys_own_helper_is_asked_before_the_store() {
        let config =
            read(r#"{"credHelpers":{"ecr.corp":"ecr-login","https://h.corp":"h"},"credsStore":"pass"}"#)
                .unwrap();
        let helper = |registry: &str| config.helper(registry).map(|h| (h.program, h.server)).unwrap();
        assert_eq!(helper("ecr.corp"), ("docker-credential-ecr-login".into(), "ecr.corp".into()));
        assert_eq!(helper("h.corp"), ("docker-credential-h".into(), "https://h.corp".into()));
        assert_eq!(helper("other.corp"), ("docker-credential-pass".into(), "other.corp".into()));
        assert_eq!(
            helper("docker.io"),
            ("docker-credential-pass".into(), "https://index.docker.io/v1/".into())
        );
        assert_eq!(read("{}").unwrap().helper("x"), None);
    }

    #[test]
    fn a_broken_file_is_named_with_its_line_and_nothing_of_its_content() {
        for text in [
            "",
            "{\"auths\":{\"h\":{\"auth\":\"s3cret",
            r#"{"auths":{"h":"s3cret"}}"#,
            r#"{"auths":{"h":{"auth":"s3cret!"}}}"#,
            r#"{"auths":{"h":{"auth":"czNjcmV0"}}}"#,
            r#"{"credHelpers":{"h":"../s3cret"}}"#,
        ] {
            let told = read(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(told.contains("config.json") && !told.contains("s3cret"), "{told}");
        }
    }
}
