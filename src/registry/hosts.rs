//! From settings to routes: which rule is for a host, and what is made of it ([`super::route`]).
//!
//! Routes are made when they are first needed, from what was read at the start or at the last change of the settings;
//! those with a rule of their own at once, so that faults are told at once.

use super::address::{Guard, Resolver};
use super::breaker::Breakers;
use super::certs_d::{Broken, Certs, Entry};
use super::config::{Config, HostConfig, MirrorConfig, NotFound, ProxyConfig, Surroundings};
use super::credentials::{Source, usual_docker_config};
use super::egress::Egress;
use super::expiry::Expiries;
use super::names::{api, authority, bare};
use super::pem::{self, Bundle};
use super::route::{Clients, Endpoint, Host, Limits, Route};
use super::trace::Trace;
use super::trust::{self, Trust, Verifier};
use crate::oci::reference::{is_registry, is_repository, masked};
use http::HeaderMap;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use url::Url;

/// All registries: those with settings, and the rule for the others.
pub struct Hosts {
    config: Config,
    env: Surroundings,
    certs: Certs,
    system: Vec<Bundle>,
    guard: Guard,
    breakers: Arc<Breakers>,
    trace: Trace,
    place: Place,
    routes: Mutex<HashMap<String, Arc<Route>>>,
    /// When certificates run out.
    pub expiries: Expiries,
    /// What works and is doubtful.
    pub warnings: Vec<String>,
    /// What was found without being named, could not be used, and was left out.
    pub broken: Vec<Broken>,
}

/// Where a key was written.
pub type Place = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// What `Hosts` is made with, beside the settings.
pub struct With {
    /// What the process was started with.
    pub env: Surroundings,
    /// Where a key was written.
    pub place: Place,
    /// Who listens.
    pub trace: Trace,
    /// Who is left alone.
    pub breakers: Arc<Breakers>,
}

impl Hosts {
    /// Reads certificates and credentials and makes the routes of those registries that have settings.
    ///
    /// # Errors
    /// All faults, each as (configuration key, what is wrong).
    pub fn build(config: &Config, with: With) -> Result<Self, Vec<(String, String)>> {
        let mut faults = Vec::new();
        let mut note = |key: &str, problem: String| faults.push((key.to_owned(), problem));
        let (mut certs, mut broken) = Certs::read(&config.certs);
        if config.docker_config.is_none()
            && let Some((path, read)) = usual_docker_config(&with.env)
        {
            match read {
                Ok(_) => certs.used.push(path),
                Err(fault) => broken.push(Broken { path, fault }),
            }
        }
        let mut warnings = Vec::new();
        let mut system = certs.global.clone();
        match pem::system_roots() {
            Ok(roots) => system.push(roots),
            Err(problem) => warnings.push(problem),
        }
        for path in &config.ca {
            match pem::bundles(path) {
                Ok(found) => system.extend(found),
                Err(problem) => note("registry.ca", problem),
            }
        }
        for name in config.plain_http.iter().filter(|name| !is_registry(name)) {
            let shown = masked(name);
            note("registry.plain_http", format!("'{shown}' is no host: expected name or name:port"));
        }
        let mut config = config.clone();
        if let Err(problem) = Egress::new(&config.proxy, "registry.proxy", &with.env) {
            note("registry.proxy", problem);
            // Told once, and not again by every registry that it touches.
            config.proxy = ProxyConfig { url: Some("direct".into()), ..ProxyConfig::default() };
        }
        let hosts = Self {
            guard: Guard::new(&config.allow_addresses),
            config,
            env: with.env,
            certs,
            system,
            breakers: with.breakers,
            trace: with.trace,
            place: with.place,
            routes: Mutex::default(),
            expiries: Expiries::default(),
            warnings: Vec::new(),
            broken,
        };
        for (host, place) in hosts.certs.unverified() {
            warnings
                .push(format!("{}: skip_verify: certificates of {host} are not verified", place.display()));
        }
        let trusted = Trust { bundles: hosts.system.clone(), ..Trust::default() };
        warnings.extend(trusted.doubts(trust::now()));
        hosts.expiries.note(&trusted);
        hosts.expiries.note_folders(&hosts.certs);
        for (name, settings) in &hosts.config.hosts {
            let key = format!("registry.hosts.{}", masked(name));
            if let Err(problem) = hosts.rule(name, settings) {
                faults.push((key, problem));
            } else if settings.insecure_skip_verify {
                warnings.push(format!("{key}.insecure_skip_verify: certificates of {name} are not verified"));
            }
        }
        let anybody = hosts.make("larder.invalid");
        hosts.breakers.remove("larder.invalid");
        if let Err(problem) = anybody
            && faults.is_empty()
        {
            faults.push(("registry".into(), problem));
        }
        if faults.is_empty() { Ok(Self { warnings, ..hosts }) } else { Err(faults) }
    }

    /// Checks one rule by making its route.
    fn rule(&self, name: &str, settings: &HostConfig) -> Result<(), String> {
        let example = match name.strip_prefix("*.") {
            Some(suffix) => format!("any.{suffix}"),
            None => name.to_owned(),
        };
        if !is_registry(&example) {
            return Err("is no host: expected name, name:port or *.suffix".into());
        }
        if settings.origin == Some(false) && settings.mirrors.is_empty() {
            return Err("origin is false and there are no mirrors: nobody is left to ask".into());
        }
        for (key, list) in
            [("token_hosts", Some(&settings.token_hosts)), ("blob_hosts", settings.blob_hosts.as_ref())]
        {
            for entry in list.into_iter().flatten() {
                if !is_registry(entry.strip_prefix("*.").unwrap_or(entry)) {
                    let shown = masked(entry);
                    return Err(format!("{key}: '{shown}' is no host: expected name, name:port or *.suffix"));
                }
            }
        }
        let example = example.to_ascii_lowercase();
        let route = self.make(&example);
        if name.starts_with("*.") {
            self.breakers.remove(&example);
        }
        let route = route?;
        if !name.starts_with("*.") {
            self.routes.lock().unwrap_or_else(PoisonError::into_inner).insert(route.registry.clone(), route);
        }
        Ok(())
    }

    /// The route of the registry that references call `name`.
    ///
    /// # Errors
    /// A text, when its settings cannot be used.
    pub fn route(&self, name: &str) -> Result<Arc<Route>, String> {
        if let Some(known) = self.routes.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(known.clone());
        }
        let route = self.make(name)?;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(routes.entry(name.into()).or_insert(route).clone())
    }

    /// The routes that are made, as of each rule for one registry.
    pub fn routes(&self) -> Vec<Arc<Route>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Rules, and hosts by folder, whose certificates are not verified.
    pub fn unverified(&self) -> Vec<String> {
        let open = self.config.hosts.iter().filter(|(_, settings)| settings.insecure_skip_verify);
        let mut out: Vec<_> = open.map(|(name, _)| name.clone()).collect();
        out.extend(self.certs.unverified().into_iter().map(|(host, _)| host));
        out.dedup();
        out
    }

    /// All that is doubtful, for people.
    pub fn told(&self) -> impl Iterator<Item = &String> {
        self.warnings.iter().chain(self.broken.iter().map(|broken| &broken.fault))
    }

    /// What was found without being named, and is used.
    pub fn used(&self) -> Vec<PathBuf> {
        self.certs.used.clone()
    }

    /// Files beside those that the settings name, which are used all the same.
    pub fn files(&self) -> Vec<PathBuf> {
        self.certs.files.clone()
    }

    /// The settings for `name`: those of its own, else those of the longest suffix.
    fn settings(&self, name: &str) -> Option<(&str, &HostConfig)> {
        let bare = name.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        let fits = |rule: &str| match rule.strip_prefix('*') {
            None => rule.eq_ignore_ascii_case(name),
            Some(suffix) => {
                let suffix = suffix.to_ascii_lowercase();
                name.ends_with(&suffix) || bare.is_some_and(|(host, _)| host.ends_with(&suffix))
            }
        };
        let fitting = self.config.hosts.iter().filter(|(rule, _)| fits(rule));
        let best = fitting.max_by_key(|(rule, _)| (!rule.starts_with('*'), rule.len()));
        best.map(|(rule, settings)| (rule.as_str(), settings))
    }

    /// A rule, and where it was written.
    fn written(&self, rule: &str) -> String {
        let key = format!("registry.hosts.{rule}");
        format!("{key} ({})", (self.place)(&key))
    }

    fn make(&self, registry: &str) -> Result<Arc<Route>, String> {
        let none = HostConfig::default();
        let rule = self.settings(registry);
        let settings = rule.map_or(&none, |(_, settings)| settings);
        let layout = self.certs.of(registry);
        let mut endpoints = Vec::new();
        for (n, mirror) in settings.mirrors.iter().enumerate() {
            endpoints.push(self.mirror(mirror).map_err(|e| format!("mirrors.{n}: {e}"))?);
        }
        // A rule's mirrors take the place of those of a folder.
        if settings.mirrors.is_empty()
            && let Some(layout) = &layout
        {
            for entry in layout.mirrors.iter().filter(|entry| entry.url.is_some()) {
                let place = layout.place.display();
                endpoints.push(self.listed(registry, entry).map_err(|e| format!("{place}: {e}"))?);
            }
        }
        if settings.origin != Some(false) {
            endpoints.push(self.origin(registry, settings, layout.as_ref().map(|layout| &layout.origin))?);
        }
        let rule = match (rule, &layout) {
            (Some((rule, _)), _) => self.written(rule),
            (None, Some(layout)) => layout.place.display().to_string(),
            (None, None) => "no rule in registry.hosts, so the defaults".into(),
        };
        Ok(Arc::new(Route::new(registry, rule, endpoints)))
    }

    fn mirror(&self, mirror: &MirrorConfig) -> Result<Endpoint, String> {
        let shown = masked(&mirror.url);
        let expected = "expected http[s]://host[:port][/prefix]";
        let url: Url = mirror.url.parse().map_err(|_| format!("'{shown}' is no URL; {expected}"))?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !plain {
            return Err(format!("'{shown}' is no mirror; {expected}, without credentials"));
        }
        let example = mirror.repository.replace("{repository}", "x");
        if !mirror.repository.contains("{repository}") || !is_repository(&example) {
            let shown = masked(&mirror.repository);
            return Err(format!(
                "repository '{shown}' is no rewrite; expected a path with {{repository}} in it"
            ));
        }
        let name = authority(&url);
        Ok(Endpoint {
            host: self.host(&name, &name, None)?,
            base: api(url.as_str().trim_end_matches('/'), false),
            repository: mirror.repository.clone(),
            on_not_found: mirror.on_not_found,
            digests_only: false,
            namespace: None,
            headers: HeaderMap::new(),
            is_origin: false,
        })
    }

    /// A mirror of a `hosts.toml`: a "not found" passes on, as containerd has it.
    fn listed(&self, registry: &str, entry: &Entry) -> Result<Endpoint, String> {
        let url = entry.url.as_ref().ok_or("names no URL")?;
        let base = url.as_str().trim_end_matches('/');
        Ok(Endpoint {
            host: self.host(&authority(url), &authority(url), Some(entry))?,
            base: api(base, entry.override_path),
            repository: "{repository}".into(),
            on_not_found: NotFound::Next,
            digests_only: entry.digests_only,
            namespace: Some(registry.to_owned()),
            headers: entry.headers.clone(),
            is_origin: false,
        })
    }

    fn origin(
        &self,
        registry: &str,
        settings: &HostConfig,
        entry: Option<&Entry>,
    ) -> Result<Endpoint, String> {
        let plain = settings.plain_http
            || self.config.plain_http.iter().any(|host| host.eq_ignore_ascii_case(registry));
        let listed = entry.and_then(|entry| entry.url.as_ref()).map(|url| url.as_str().trim_end_matches('/'));
        // Docker Hub's API is on another host than its references name.
        let own = if matches!(registry, "docker.io" | "index.docker.io") {
            "registry-1.docker.io"
        } else {
            registry
        };
        let base = match listed {
            Some(listed) if !plain => listed.to_owned(),
            _ => format!("{}://{own}", if plain { "http" } else { "https" }),
        };
        // A folder may say that the registry is elsewhere: then what is for the registry is not for that host.
        let there = entry.and_then(|entry| entry.url.as_ref()).filter(|_| !plain).map(authority);
        let name = there.as_deref().filter(|there| *there != own).unwrap_or(registry);
        let overridden = entry.is_some_and(|entry| entry.override_path && entry.url.is_some() && !plain);
        Ok(Endpoint {
            host: self.host(name, own, entry)?,
            base: api(&base, overridden),
            repository: "{repository}".into(),
            on_not_found: NotFound::Final,
            digests_only: false,
            namespace: None,
            headers: entry.map(|entry| entry.headers.clone()).unwrap_or_default(),
            is_origin: true,
        })
    }

    /// A host with its own settings, and what a folder says of it.
    ///
    /// Certificates are only passed over for `name` itself and for `own`, as it is called in connections.
    fn host(&self, name: &str, own: &str, entry: Option<&Entry>) -> Result<Arc<Host>, String> {
        let none = HostConfig::default();
        let rule = self.settings(name);
        let settings = rule.map_or(&none, |(_, settings)| settings);
        let layout = self.certs.of(name);
        let entry = entry.or(layout.as_ref().map(|layout| &layout.origin));
        let config = &self.config;
        let trust = self.trust(settings, entry, name, own)?;
        let (key, rule) = match rule {
            Some((rule, _)) => (format!("registry.hosts.{rule}"), self.written(rule)),
            None => (format!("registry.hosts.{name}"), "no rule in registry.hosts, so the defaults".into()),
        };
        let egress_key =
            if settings.proxy.is_some() { format!("{key}.proxy") } else { "registry.proxy".into() };
        let egress = self.egress(settings, &egress_key).map_err(|e| format!("proxy: {e}"))?;
        let limits = Limits {
            connect: settings.connect_timeout.unwrap_or(config.connect_timeout),
            first_byte: settings.first_byte_timeout.unwrap_or(config.first_byte_timeout),
            idle: settings.idle_timeout.unwrap_or(config.idle_timeout),
            pull: settings.pull_timeout.unwrap_or(config.pull_timeout),
            least_rate: settings.least_rate.unwrap_or(config.least_rate).as_u64(),
        };
        if limits.connect.is_zero()
            || limits.first_byte.is_zero()
            || limits.idle.is_zero()
            || limits.pull.is_zero()
        {
            return Err("a timeout is zero; expected a time such as 10s".into());
        }
        if settings.at_once == Some(0) {
            return Err("at_once is zero".into());
        }
        let verifier = Verifier::new(&trust, self.trace.clone());
        let clients = |as_ourselves| {
            let resolver = |is_proxy| {
                // Somewhat less, so that a name that is not answered is told as that.
                let limit = limits.connect.mul_f64(0.8);
                Resolver::new(self.guard.clone(), self.trace.clone(), is_proxy, limit)
            };
            Clients::new(|| trust.config(&verifier, as_ourselves), resolver, &egress, limits.connect)
        };
        Ok(Arc::new(Host {
            name: name.into(),
            rule,
            credentials: Source::new(settings, &key, config, &self.env)?,
            key,
            token_hosts: settings.token_hosts.clone(),
            blob_hosts: settings.blob_hosts.clone(),
            limits,
            guard: self.guard.clone(),
            own: clients(true)?,
            others: clients(false)?,
            egress,
            identity: trust.identity.as_ref().map(|own| own.label.clone()),
            verifier,
            certs: super::certs_d::folder_for_more(&config.certs),
            breaker: self.breakers.of(name),
            turns: settings.at_once.map(|number| self.breakers.turns(name, number)),
            trace: self.trace.clone(),
        }))
    }

    fn trust(
        &self,
        settings: &HostConfig,
        entry: Option<&Entry>,
        name: &str,
        own: &str,
    ) -> Result<Trust, String> {
        let mut trust = Trust::default();
        for path in &settings.ca {
            trust.bundles.extend(pem::bundles(path).map_err(|e| format!("ca: {e}"))?);
        }
        // Nothing but what the settings name means that, whatever lies in folders.
        if settings.system_ca != Some(false) || settings.ca.is_empty() {
            trust.bundles.extend(entry.iter().flat_map(|entry| entry.ca.clone()));
        }
        if settings.system_ca != Some(false) {
            trust.bundles.extend(self.system.iter().cloned());
        }
        let skips = settings.insecure_skip_verify || entry.is_some_and(|entry| entry.skip_verify);
        if trust.bundles.is_empty() && !skips {
            return Err("system_ca is false and ca is empty: no certificate could be accepted".into());
        }
        trust.identity = match (&settings.client_certificate, &settings.client_key) {
            (Some(certificate), Some(key)) => Some(Arc::new(
                pem::identity(certificate, key).map_err(|e| format!("client_certificate: {e}"))?,
            )),
            (None, None) => entry.and_then(|entry| entry.identity.clone()),
            _ => {
                return Err(
                    "client_certificate and client_key belong together; one of them is missing".into()
                );
            }
        };
        if skips {
            trust.skip_verify = [name, own].map(|host| bare(host).to_owned()).into();
        }
        self.expiries.note(&trust);
        Ok(trust)
    }

    fn egress(&self, settings: &HostConfig, key: &str) -> Result<Egress, String> {
        let config = &self.config.proxy;
        let Some(own) = &settings.proxy else { return Egress::new(config, key, &self.env) };
        Egress::new(&own.over(config), key, &self.env)
    }
}
