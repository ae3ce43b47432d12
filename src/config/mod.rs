//! Settings: one default file, and what a file, the environment and flags say instead.
//!
//! `conf/larder.yaml` is the only place of a default; it is built in and printed by `larder config`. Each thing that is
//! set is one [`Setting`]: a key, a value, and the place where it was written. Settings are tried one by one against
//! the default, so that all faults are told at once, each with its place.

pub mod env;
pub mod file;
pub mod keys;
pub mod telemetry;
pub mod watch;
mod words;

use crate::{admin, artifact, cache, catalog, freshness, policy, registry, server, store};
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

pub use telemetry::{LogConfig, LogFormat, LogLevel, TracesConfig};

/// The default file.
pub const DEFAULT: &str = include_str!("../../conf/larder.yaml");

/// Keys whose value is a map with keys of the user's own, and the keys below each of those. A test holds them against
/// the types.
const OPEN_MAPS: [(&str, &[&str]); 3] = [
    ("catalog.aliases", &[]),
    ("catalog.plugins", &["repositories", "aliases"]),
    ("registry.hosts", registry::config::HOST_KEYS),
];

/// All settings. Each part has its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Ports.
    pub listen: server::ListenConfig,
    /// Connections.
    pub server: server::Config,
    /// TLS for clients.
    pub tls: server::tls::Config,
    /// Whom plugins are for.
    pub access: server::access::Config,
    /// Whom the administration is for.
    pub admin: admin::Config,
    /// What is fetched at the start.
    pub warm_up: admin::WarmUp,
    /// Bundles.
    pub import: admin::import::Config,
    /// Spans.
    pub traces: TracesConfig,
    /// Logs.
    pub log: LogConfig,
    /// Names.
    pub catalog: catalog::Config,
    /// URLs.
    pub routes: server::RoutesConfig,
    /// Local folders.
    pub overlay: store::overlay::Config,
    /// Disk and memory.
    pub cache: store::Config,
    /// Fetching.
    pub fill: cache::Config,
    /// What may be served.
    pub policy: policy::Config,
    /// Which bytes.
    pub lock: policy::lock::Config,
    /// Ages.
    pub lifetimes: freshness::Lifetimes,
    /// Sizes.
    pub limits: artifact::Limits,
    /// Registries.
    pub registry: registry::Config,
}

/// One thing that is set.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The key, parts joined by dots.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Where it was written: `file:line:column`, a variable, a flag.
    pub place: String,
    /// What it does to a list.
    pub mode: Mode,
    /// Where the parts of a map of the user's own were written, by key.
    pub inner: Vec<(String, String)>,
}

/// What a setting does to a list that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Takes its place, as with everything that is no list.
    Replace,
    /// Comes behind it.
    Append,
    /// Comes before it.
    Prepend,
}

/// Something that is wrong: where, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: String,
    /// What is wrong and what is expected.
    pub problem: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// Where settings come from, the weakest first. It cannot be printed: what is refused for a password in it is in it still.
#[derive(Default)]
pub struct Sources {
    /// The file and its text.
    pub file: Option<(PathBuf, String)>,
    /// Environment variables.
    pub variables: Vec<(String, String)>,
    /// Flags.
    pub flags: Vec<Setting>,
}

/// The settings, and what is doubtful about them.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What works and is probably not meant.
    pub warnings: Vec<Fault>,
    places: Places,
    tree: Value,
}

/// Where keys were set, in the order in which they were.
#[derive(Debug, Clone, Default)]
pub struct Places(Vec<(String, String)>);

impl Places {
    /// Where `key`, or the first below it, or the nearest above it, was set.
    pub fn of(&self, key: &str) -> String {
        let is_below = |set: &str| set.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        if !self.0.iter().any(|(set, _)| set == key)
            && let Some((_, place)) = self.0.iter().find(|(set, _)| is_below(set))
        {
            return place.clone();
        }
        let mut at = key;
        loop {
            if let Some((_, place)) = self.0.iter().rev().find(|(set, _)| set == at) {
                return place.clone();
            }
            match at.rsplit_once('.') {
                Some((above, _)) => at = above,
                None => return "default".into(),
            }
        }
    }
}

impl Loaded {
    /// Where `key`, or the nearest key above it, was set.
    pub fn place(&self, key: &str) -> String {
        self.places.of(key)
    }

    /// Where every key was set.
    pub fn places(&self) -> Places {
        self.places.clone()
    }
}

/// The default settings as a tree.
pub fn defaults() -> Value {
    serde_saphyr::from_str(DEFAULT).unwrap_or_else(|e| unreachable!("the default file is tested: {e}"))
}

/// Reads all sources.
///
/// # Errors
/// All faults.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Fault>> {
    match load_all(sources) {
        (Some(loaded), faults) if faults.is_empty() => Ok(loaded),
        (_, faults) => Err(faults),
    }
}

/// Reads all sources and leaves out what is wrong in them: the rest, and all faults.
pub fn load_all(sources: &Sources) -> (Option<Loaded>, Vec<Fault>) {
    let mut tree = defaults();
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    let mut settings = Vec::new();
    if let Some((path, text)) = &sources.file {
        settings.extend(file::settings(&path.display().to_string(), text, &tree, &mut faults));
    }
    settings.extend(env::settings(&sources.variables, &tree, &mut faults, &mut warnings));
    settings.extend(sources.flags.iter().cloned());
    let mut places = Vec::new();
    for mut setting in settings {
        leave_out_faulty_parts(&tree, &mut setting, &mut faults);
        match apply(&tree, &setting) {
            Ok(changed) => {
                tree = changed;
                places.push((setting.key, setting.place));
                places.extend(setting.inner);
            }
            Err(problem) => {
                faults.push(Fault { place: setting.place, problem: format!("{}: {problem}", setting.key) })
            }
        }
    }
    match Config::deserialize(&tree) {
        Ok(config) => {
            let mut loaded = Loaded { config, warnings, places: Places(places), tree };
            judge(&mut loaded, &mut faults);
            (Some(loaded), faults)
        }
        Err(e) => {
            faults.push(Fault { place: "configuration".into(), problem: e.to_string() });
            (None, faults)
        }
    }
}

/// Tries the parts of a map of the user's own one by one, so that each fault is told with its own place.
fn leave_out_faulty_parts(tree: &Value, setting: &mut Setting, faults: &mut Vec<Fault>) {
    let Some((_, known)) = OPEN_MAPS.iter().find(|(open, _)| *open == setting.key) else { return };
    let Value::Object(map) = &mut setting.value else { return };
    let place_of =
        |key: &str| setting.inner.iter().find(|(inner, _)| inner == key).map(|(_, place)| place.clone());
    let key = setting.key.clone();
    map.retain(|name, value| {
        let shown = crate::oci::reference::masked(name);
        let full = format!("{key}.{name}");
        let place = place_of(&full).unwrap_or_else(|| setting.place.clone());
        let mut good = true;
        if let (Value::Object(parts), false) = (&mut *value, known.is_empty()) {
            parts.retain(|part, _| {
                let is_known = known.contains(&part.as_str());
                if !is_known {
                    let place = place_of(&format!("{full}.{part}")).unwrap_or_else(|| place.clone());
                    let told = unknown(part, known.iter().map(ToString::to_string));
                    faults.push(Fault { place, problem: format!("{key}.{shown}: {told}") });
                }
                is_known
            });
        }
        let alone = Value::Object([(name.clone(), value.clone())].into_iter().collect());
        let alone = Setting { value: alone, ..setting_of(&key, &place) };
        if let Err(problem) = apply(tree, &alone) {
            faults.push(Fault { place, problem: format!("{key}.{shown}: {problem}") });
            good = false;
        }
        good
    });
}

fn setting_of(key: &str, place: &str) -> Setting {
    Setting {
        key: key.into(),
        value: Value::Null,
        place: place.into(),
        mode: Mode::Replace,
        inner: Vec::new(),
    }
}

/// The tree with the setting in it, if the whole is valid then.
fn apply(tree: &Value, setting: &Setting) -> Result<Value, String> {
    let mut changed = tree.clone();
    let slot = changed.pointer_mut(&format!("/{}", setting.key.replace('.', "/")));
    let slot = slot.ok_or("is no key")?;
    match (slot.as_array_mut(), setting.mode) {
        (Some(list), Mode::Append) => list.push(setting.value.clone()),
        (Some(list), Mode::Prepend) => list.insert(0, setting.value.clone()),
        _ => *slot = setting.value.clone(),
    }
    Config::deserialize(&changed)
        .map(|_| changed)
        .map_err(|e| words::ours(&unquoted(&setting.key, &e.to_string())))
}

/// The library's text quotes a value of a wrong type, and below `registry` that may be a URL with a password.
fn unquoted(key: &str, text: &str) -> String {
    let kinds = ["invalid type: string ", "invalid value: string "];
    let start = kinds.iter().find_map(|kind| Some(text.find(kind)? + kind.len()));
    match start.filter(|_| key.starts_with("registry")) {
        Some(start) => {
            let end = text.rfind(", expected").filter(|end| *end >= start).unwrap_or(text.len());
            format!("{}{}", text[..start].trim_end(), &text[end..])
        }
        None => text.to_owned(),
    }
}

/// Whether `key` holds keys of the user's own.
fn is_open(key: &str) -> bool {
    OPEN_MAPS.iter().any(|(open, _)| *open == key)
}

/// `key` and what it looks most like among `known`.
fn unknown(key: &str, known: impl Iterator<Item = String>) -> String {
    let best = known.map(|k| (strsim::jaro_winkler(key, &k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best.filter(|(score, _)| *score > 0.7) {
        Some((_, near)) => format!("unknown key '{key}'; did you mean '{near}'?"),
        None => format!("unknown key '{key}'"),
    }
}

/// A piece of a module.
const LEAST_SEND_MEMORY: u64 = 1 << 20;
/// A few fetches at once.
const LEAST_FILL_MEMORY: u64 = 8 << 20;

/// What is valid by itself and makes no sense together.
fn judge(loaded: &mut Loaded, faults: &mut Vec<Fault>) {
    let config = &loaded.config;
    let mut wrong = |key: &str, problem: &str| {
        faults.push(Fault { place: loaded.place(key), problem: format!("{key}: {problem}") });
    };
    if config.listen.data == config.listen.admin && config.listen.data.port() != 0 {
        wrong("listen.admin", "is the same address as listen.data; expected another port");
    }
    for (port, tls) in [("tls.data", &config.tls.data), ("tls.admin", &config.tls.admin)] {
        for (key, problem) in tls.faults() {
            wrong(&format!("{port}.{key}"), problem);
        }
    }
    for problem in config.access.faults(!config.tls.data.client_ca.is_empty()) {
        wrong("access.rules", &problem);
    }
    if let Some((key, problem)) = config.admin.fault() {
        wrong(key, problem);
    }
    for (key, time) in [
        ("fill.timeout", config.fill.timeout),
        ("fill.hold", config.fill.hold),
        ("registry.connect_timeout", config.registry.connect_timeout),
        ("registry.first_byte_timeout", config.registry.first_byte_timeout),
        ("registry.idle_timeout", config.registry.idle_timeout),
        ("registry.pull_timeout", config.registry.pull_timeout),
        ("server.header_timeout", config.server.header_timeout),
        ("server.idle_timeout", config.server.idle_timeout),
        ("overlay.poll", config.overlay.poll),
        ("cache.retry", config.cache.retry),
    ] {
        if time.is_zero() {
            wrong(key, "is zero; expected a time such as 10s");
        }
    }
    for (key, number) in [
        ("fill.at_once", config.fill.at_once as u64),
        ("warm_up.at_once", config.warm_up.at_once as u64),
        ("registry.attempts", u64::from(config.registry.attempts)),
        ("server.connections", config.server.connections as u64),
        ("server.connections_per_address", config.server.connections_per_address as u64),
        ("server.send_rate", config.server.send_rate.as_u64()),
        ("limits.manifest", config.limits.manifest.as_u64()),
        ("limits.module", config.limits.module.as_u64()),
        ("limits.ratio", config.limits.ratio),
        ("limits.tar_entries", config.limits.tar_entries),
    ] {
        if number == 0 {
            wrong(key, "is zero");
        }
    }
    for word in config.warm_up.plugins.iter().filter(|word| !matches!(word.as_str(), "all" | "used")) {
        if let Err(error) = admin::prefetch::parse(word) {
            wrong("warm_up.plugins", &format!("{error}; expected all, used, NAME or NAME@VERSION"));
        }
    }
    if config.limits.module > config.cache.disk {
        wrong(
            "cache.disk",
            "is less than limits.module: a plugin of that size could not be kept; raise it or lower the limit",
        );
    }
    for (key, size, least) in [
        ("server.send_memory", config.server.send_memory.as_u64(), LEAST_SEND_MEMORY),
        ("fill.memory", config.fill.memory.as_u64(), LEAST_FILL_MEMORY),
    ] {
        if size < least {
            wrong(
                key,
                &format!(
                    "is too little to work with; expected {} or more",
                    bytesize::ByteSize(least).display().iec()
                ),
            );
        }
    }
    for (key, problem) in config.traces.faults() {
        wrong(key, &problem);
    }
    for (key, problem) in config.lock.faults() {
        wrong(key, problem);
    }
    for (key, problem) in config.policy.faults() {
        wrong(key, &problem);
    }
    if config.policy.is_offline() && config.traces.endpoint.is_some() {
        wrong("traces.endpoint", "is a connection outward, and policy.mode: offline has none; expected null");
    }
    let mut doubt = Vec::new();
    if config.fill.hold >= Duration::from_secs(15) {
        doubt.push((
            "fill.hold",
            "gateways give up after 15s, so that a request that waits longer is lost to them",
        ));
    }
    if config.server.drain + config.server.finish > Duration::from_secs(25) {
        doubt.push(("server.finish", "drain and finish together are over 25s; Kubernetes kills after 30s"));
    }
    if config.access.has_tokens()
        && config.tls.data.certificate.is_none()
        && !config.listen.data.ip().is_loopback()
    {
        doubt.push(("access.rules", "tokens are sent as they are over plain HTTP; set tls.data.certificate"));
    }
    if config.catalog.template.as_deref().unwrap_or_default().is_empty()
        && !config.catalog.builtin
        && config.catalog.files.is_empty()
        && config.catalog.plugins.is_empty()
    {
        doubt.push(("catalog", "no name is allowed: nothing but local files will be served"));
    }
    if config.policy.is_offline() && !config.warm_up.plugins.is_empty() {
        doubt.push((
            "warm_up.plugins",
            "by policy.mode: offline nothing is fetched in advance: what is held is held",
        ));
    }
    doubt.extend(config.lock.doubts());
    let policy = config.policy.doubts();
    let doubt = doubt.into_iter().map(|(key, problem)| (key, problem.to_owned())).chain(policy);
    let doubt: Vec<_> = doubt
        .map(|(key, problem)| Fault { place: loaded.place(key), problem: format!("{key}: {problem}") })
        .collect();
    loaded.warnings.extend(doubt);
}

#[cfg(test)]
mod tests;
