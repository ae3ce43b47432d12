//! What the settings say of clients: the certificates of both ports, whom plugins are for and who may administer, read
//! and replaced together.

use super::reload::{Apply, Part};
use crate::catalog::Names;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Fault, Loaded};
use crate::metrics::Metrics;
use crate::server::access::{Access, Rules};
use crate::server::admin::{Auth, Policy};
use crate::server::tls::{Ready, Tls};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What was read, and is not used yet.
pub struct Read {
    data: Ready,
    admin: Ready,
    rules: Rules,
    policy: Policy,
    /// Where the port for administration is bound to.
    bound: IpAddr,
}

/// Reads what the settings name. Blocks.
///
/// # Errors
/// All faults.
pub fn read(loaded: &Loaded) -> Result<Read, Vec<Fault>> {
    let config = &loaded.config;
    let fault =
        |key: &str, problem: String| Fault { place: loaded.place(key), problem: format!("{key}: {problem}") };
    let mut faults = Vec::new();
    let mut port = |name: &str, settings| match Tls::read(settings) {
        Ok(ready) => Some(ready),
        Err(found) => {
            faults.extend(found.into_iter().map(|(key, problem)| fault(&format!("{name}.{key}"), problem)));
            None
        }
    };
    let (data, admin) = (port("tls.data", &config.tls.data), port("tls.admin", &config.tls.admin));
    let rules = Rules::read(&config.access)
        .map_err(|found| faults.extend(found.into_iter().map(|problem| fault("access.rules", problem))));
    let policy = Policy::read(&config.admin, !config.tls.admin.client_ca.is_empty())
        .map_err(|(key, problem)| faults.push(fault(key, problem)));
    let bound = config.listen.admin.ip();
    match (data, admin, rules, policy) {
        (Some(data), Some(admin), Ok(rules), Ok(policy)) => Ok(Read { data, admin, rules, policy, bound }),
        _ => Err(faults),
    }
}

/// The files that are read.
pub fn files(config: &Config) -> Vec<PathBuf> {
    let tokens = config.admin.token_file.iter().cloned().collect();
    [config.tls.data.files(), config.tls.admin.files(), config.access.files(), tokens].concat()
}

impl Read {
    /// What works and is probably not meant.
    pub fn told(&self) -> Vec<String> {
        [&self.data, &self.admin].into_iter().flat_map(|ready| ready.doubts(now())).collect()
    }
}

/// What is in use.
#[derive(Clone)]
pub struct Front {
    /// The port for plugins.
    pub data: Arc<Tls>,
    /// The port for administration.
    pub admin: Arc<Tls>,
    /// Whom plugins are for.
    pub access: Arc<Access>,
    /// Who may administer.
    pub auth: Arc<Auth>,
    metrics: Arc<Metrics>,
}

impl Front {
    /// Begins with what was read.
    pub fn new(read: Read, names: Arc<Names>, metrics: Arc<Metrics>) -> Self {
        let (data, admin) = (Tls::new(read.data), Tls::new(read.admin));
        let (access, auth) = (Access::new(names, read.rules), Arc::new(Auth::new(read.policy, read.bound)));
        let front = Self { data, admin, access, auth, metrics };
        front.count();
        front
    }

    /// Tells when the certificates end.
    pub fn count(&self) {
        let both = [&self.data, &self.admin];
        for (role, mut files) in [
            ("server", both.map(|port| port.expiries()).concat()),
            ("client_ca", both.map(|port| port.client_cas(now())).concat()),
        ] {
            // Both ports may have the same.
            files.sort();
            files.dedup();
            self.metrics.set_certificates(role, &files);
        }
    }

    /// What a reload reads of it.
    pub fn part(&self) -> Part {
        let front = self.clone();
        let read = move |loaded: &Loaded| -> Result<Apply, Vec<Fault>> {
            let (front, read) = (front.clone(), read(loaded)?);
            Ok(Box::new(move |names| {
                for doubt in read.told() {
                    tracing::warn!("{doubt}");
                }
                front.replace(names, read);
            }))
        };
        Part { files, read: Box::new(read) }
    }

    /// From now on new connections and requests are met with what was read.
    fn replace(&self, names: &Arc<Names>, read: Read) {
        self.data.replace(read.data);
        self.admin.replace(read.admin);
        self.access.replace(names.clone(), read.rules);
        self.auth.replace(read.policy);
        self.count();
    }

    /// Warns of what is doubtful about what is in use, such as certificates that end.
    pub fn warn(&self) {
        for doubt in [&self.data, &self.admin].into_iter().flat_map(|tls| tls.doubts(now())) {
            tracing::warn!("{doubt}");
        }
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    i64::try_from(SystemClock::new().now().millis() / 1000).unwrap_or(i64::MAX)
}
