//! As whom we come to a registry: its own settings, Docker's configuration, programs. Nothing here is ever printed.

use super::config::{Config, HostConfig, Surroundings};
use super::docker_config::{self, DockerConfig, Found, Program};
use crate::oci::Digest;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Secret files longer than this are something else.
const SECRET_BYTES: u64 = 64 << 10;
/// What a helper said is used so long, so that fifty plugins at once do not start it fifty times.
const HELPER_LIFETIME: Duration = Duration::from_secs(10);
/// Answers of helpers are small.
const HELPER_BYTES: u64 = 1 << 20;

/// What a registry may be told.
#[derive(Clone, Debug)]
pub enum Secret {
    /// For Basic, and for the token service.
    Basic(String, SecretString),
    /// For the token service in place of a password (its `refresh_token`).
    Identity(SecretString),
    /// Sent as it is.
    Bearer(SecretString),
}

/// A registry's credentials, and where they are from.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The secret; its `Debug` prints nothing of it.
    pub secret: Secret,
    /// The setting, file or program.
    pub from: String,
}

/// What there is for a repository.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// `None` comes as nobody.
    pub credentials: Option<Credentials>,
    /// What kept us from finding more, for the hint of a refusal.
    pub trouble: Option<String>,
    /// True where there should have been some, and we could not have them: to be refused is our fault then, and passes.
    pub owed: bool,
}

impl Lookup {
    /// Tells two apart.
    pub fn fingerprint(&self) -> Option<Digest> {
        self.credentials.as_ref().map(Credentials::fingerprint)
    }
}

impl Credentials {
    /// Tells two secrets apart without being one.
    pub fn fingerprint(&self) -> Digest {
        let (kind, name, secret) = match &self.secret {
            Secret::Basic(name, password) => ("basic", name.as_str(), password),
            Secret::Identity(token) => ("identity", "", token),
            Secret::Bearer(token) => ("bearer", "", token),
        };
        Digest::of(format!("{kind}\0{name}\0{}", secret.expose_secret()).as_bytes())
    }
}

/// Where a registry's credentials are looked for.
///
/// Files are read when it is made, together with certificates and all else, and again when what they held is refused:
/// secrets that are turned at once are used at once, and one that changes alone is not missed.
#[derive(Default)]
pub struct Source {
    own: Option<Own>,
    kept: Option<SecretString>,
    docker: Vec<(PathBuf, Result<DockerConfig, String>)>,
    helper_timeout: Duration,
    helped: tokio::sync::Mutex<HashMap<Program, (Instant, Lookup)>>,
}

enum Own {
    Basic { username: String, file: PathBuf, key: String },
    Token { file: PathBuf, key: String },
}

/// A secret from a file: one line, its end not counted.
///
/// # Errors
/// A text that names the file and not its content.
pub fn secret(file: &Path) -> Result<SecretString, String> {
    // Somebody may have written the secret where its file belongs.
    let looks_like_a_path = file.components().count() > 1;
    let shown = if looks_like_a_path { file.display().to_string() } else { "the file that is named".into() };
    let size = std::fs::metadata(file).map_err(|e| format!("{shown}: {e}"))?.len();
    if size > SECRET_BYTES {
        return Err(format!("{shown}: {size} bytes are no password"));
    }
    let text = std::fs::read_to_string(file).map_err(|e| format!("{shown}: {e}"))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(format!("{shown}: is empty; expected the secret alone"));
    }
    if secret.contains(['\r', '\n', '\0']) {
        return Err(format!("{shown}: more than one line; expected the secret alone"));
    }
    Ok(secret.to_owned().into())
}

impl Source {
    /// What `settings`, written at `key`, and `config` name. The files are read once, so that faults are known at once.
    ///
    /// # Errors
    /// A text that names the file and not its content.
    pub fn new(
        settings: &HostConfig,
        key: &str,
        config: &Config,
        env: &Surroundings,
    ) -> Result<Self, String> {
        let own = match (&settings.username, &settings.password_file, &settings.token_file) {
            (None, None, None) => None,
            (Some(username), Some(file), None) => {
                Some(Own::Basic { username: username.clone(), file: file.clone(), key: key.into() })
            }
            (None, None, Some(file)) => Some(Own::Token { file: file.clone(), key: key.into() }),
            (_, _, Some(_)) => return Err("token_file stands in place of username and password_file".into()),
            _ => return Err("username and password_file belong together; one of them is missing".into()),
        };
        let kept = match &own {
            Some(Own::Basic { file, .. } | Own::Token { file, .. }) => Some(secret(file)?),
            None => None,
        };
        let mut docker = Vec::new();
        for named in settings.docker_config.iter().chain(&config.docker_config) {
            docker.push((named.clone(), Ok(DockerConfig::read(&docker_config::file_at(named))?)));
        }
        if config.docker_config.is_none() {
            let usual = usual_docker_config(env);
            docker.extend(usual);
        }
        Ok(Self { own, kept, docker, helper_timeout: config.helper_timeout, ..Self::default() })
    }

    /// What there is for a repository, as it was read with the settings.
    pub async fn get(&self, registry: &str, repository: &str) -> Lookup {
        self.look(registry, repository, false).await
    }

    /// What there is for a repository now; what cannot be read is as it was.
    pub async fn fresh(&self, registry: &str, repository: &str) -> Lookup {
        self.look(registry, repository, true).await
    }

    async fn look(&self, registry: &str, repository: &str, again: bool) -> Lookup {
        if let Some(own) = &self.own {
            return self.own(own, again);
        }
        let mut out = Lookup::default();
        for (path, kept) in &self.docker {
            let file = docker_config::file_at(path);
            let read = if again { Some(DockerConfig::read(&file)) } else { None };
            let config = match &read {
                Some(Ok(config)) => Some(config),
                Some(Err(trouble)) => {
                    out.trouble = out.trouble.or(file.exists().then(|| trouble.clone()));
                    kept.as_ref().ok()
                }
                None => kept
                    .as_ref()
                    .inspect_err(|e| out.trouble = out.trouble.take().or(Some(e.to_string())))
                    .ok(),
            };
            let Some(config) = config else { continue };
            if let Some(program) = config.helper(registry) {
                let helped = self.helped(program).await;
                if helped.credentials.is_some() {
                    return helped;
                }
                out.owed |= helped.trouble.is_some() && config.promises(registry);
                out.trouble = out.trouble.or(helped.trouble);
            }
            if let Some(found) = config.entry(registry, repository) {
                let secret = match found {
                    Found::Basic(name, password) => Secret::Basic(name, password),
                    Found::Identity(token) => Secret::Identity(token),
                    Found::Bearer(token) => Secret::Bearer(token),
                };
                out.credentials = Some(Credentials { secret, from: file.display().to_string() });
                out.owed = false;
                return out;
            }
        }
        out
    }

    fn own(&self, own: &Own, again: bool) -> Lookup {
        let (Own::Basic { file, key, .. } | Own::Token { file, key }) = own;
        let (read, trouble) = match again.then(|| secret(file)) {
            Some(Ok(read)) => (Some(read), None),
            Some(Err(trouble)) => (self.kept.clone(), Some(trouble)),
            None => (self.kept.clone(), None),
        };
        let secret = read.map(|read| match own {
            Own::Basic { username, .. } => Secret::Basic(username.clone(), read),
            Own::Token { .. } => Secret::Bearer(read),
        });
        let from = match own {
            Own::Basic { .. } => format!("{key}.password_file"),
            Own::Token { .. } => format!("{key}.token_file"),
        };
        Lookup { credentials: secret.map(|secret| Credentials { secret, from }), trouble, owed: false }
    }

    /// One run of a helper for all who ask at once.
    async fn helped(&self, helper: Program) -> Lookup {
        if self.helper_timeout.is_zero() {
            let trouble = format!("{} is not run, because registry.helper_timeout is 0s", helper.program);
            return Lookup { trouble: Some(trouble), ..Lookup::default() };
        }
        let mut helped = self.helped.lock().await;
        let is_young = |(when, _): &&(Instant, Lookup)| when.elapsed() < HELPER_LIFETIME;
        if let Some((_, known)) = helped.get(&helper).filter(is_young) {
            return known.clone();
        }
        let told = match run(&helper, self.helper_timeout).await {
            Ok(credentials) => Lookup { credentials, ..Lookup::default() },
            Err(problem) => {
                let Program { program, server } = &helper;
                let trouble = format!("{program} get {problem}; try: echo {server} | {program} get");
                Lookup { trouble: Some(trouble), ..Lookup::default() }
            }
        };
        helped.insert(helper, (Instant::now(), told.clone()));
        told
    }
}

/// What is in the place where Docker keeps it, which may be empty.
pub fn usual_docker_config(env: &Surroundings) -> Option<(PathBuf, Result<DockerConfig, String>)> {
    let folder = usual(env)?;
    let file = docker_config::file_at(&folder);
    file.is_file().then(|| (folder, DockerConfig::read(&file)))
}

/// Where Docker keeps it, for whoever has one there.
pub fn usual(env: &Surroundings) -> Option<PathBuf> {
    if let Some((_, folder)) = env.first(&["DOCKER_CONFIG"]) {
        return Some(folder.into());
    }
    env.first(&["HOME"]).map(|(_, home)| Path::new(home).join(".docker"))
}

#[derive(Deserialize)]
struct Helped {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: SecretString,
}

/// Asks a helper (docker-credential-helpers, "get"): the server's name goes in, JSON comes out.
async fn run(helper: &Program, limit: Duration) -> Result<Option<Credentials>, String> {
    let mut command = tokio::process::Command::new(&helper.program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("cannot be run: {e}"))?;
    let work = async {
        if let Some(mut input) = child.stdin.take() {
            // One that does not read what it is asked ends without an answer, which is told.
            let _ = input.write_all(format!("{}\n", helper.server).as_bytes()).await;
        }
        let mut text = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(HELPER_BYTES).read_to_end(&mut text).await.map_err(|e| e.to_string())?;
        }
        let status = child.wait().await.map_err(|e| e.to_string())?;
        Ok::<_, String>((status, text))
    };
    let Ok(done) = tokio::time::timeout(limit, work).await else {
        return Err(format!("did not answer within {}", humantime::format_duration(limit)));
    };
    let (status, text) = done?;
    if !status.success() {
        let told = String::from_utf8_lossy(&text).to_ascii_lowercase();
        // The helpers' common words for "nothing is kept for this server".
        if told.contains("credentials not found") {
            return Ok(None);
        }
        return Err(format!("ended with {status}"));
    }
    let helped: Helped =
        serde_json::from_slice(&text).map_err(|_| "answered no JSON with Username and Secret")?;
    let secret = match helped.username.as_str() {
        "<token>" => Secret::Identity(helped.secret),
        _ => Secret::Basic(helped.username, helped.secret),
    };
    Ok(Some(Credentials { secret, from: helper.program.clone() }))
}
