//! Settings of registries: for all of them, and for single ones by host.

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

/// Settings for all registries, and for single ones.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folders with certificates: PEM files directly in them are CAs for all registries, a folder `<host>[:port]` in
    /// them is read in Docker's or containerd's layout. One that is not there is empty.
    pub certs: Vec<PathBuf>,
    /// Files or folders of PEM certificates that are trusted beside the system's.
    pub ca: Vec<PathBuf>,
    /// Hosts (`host[:port]`) that are spoken to without TLS.
    pub plain_http: Vec<String>,
    /// A Docker `config.json`, or a folder with one; `None` for `DOCKER_CONFIG` or `~/.docker`, where it is there.
    pub docker_config: Option<PathBuf>,
    /// Longest time of a credential helper; zero never runs one.
    #[serde(with = "humantime_serde")]
    pub helper_timeout: Duration,
    /// The way out.
    pub proxy: ProxyConfig,
    /// Addresses that a name may resolve to although they are refused by default.
    pub allow_addresses: Vec<IpNet>,
    /// Longest time for DNS, TCP, proxy and TLS together.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest time from a request to the first byte of its answer, connecting included.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// Longest silence within an answer.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Longest time of a layer.
    #[serde(with = "humantime_serde")]
    pub pull_timeout: Duration,
    /// Least rate of a layer in bytes a second, over three times `idle_timeout`.
    pub least_rate: ByteSize,
    /// How often a question is asked in all before its failure is told.
    pub attempts: u32,
    /// Settings by `host[:port]` as references write it, or `*.suffix`.
    pub hosts: BTreeMap<String, HostConfig>,
}

/// Settings for one registry, or for those below a suffix.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Asked before the registry itself, in this order.
    pub mirrors: Vec<MirrorConfig>,
    /// Whether the registry itself is asked behind its mirrors; yes unless this says no.
    pub origin: Option<bool>,
    /// Speak to it without TLS.
    pub plain_http: bool,
    /// Certificates trusted for this registry, its token service and its blob hosts, beside `Config::ca`.
    pub ca: Vec<PathBuf>,
    /// Whether the system's roots and `Config::ca` are trusted for it too; yes unless this says no.
    pub system_ca: Option<bool>,
    /// PEM file with the client certificate and its chain.
    pub client_certificate: Option<PathBuf>,
    /// PEM file with the client certificate's private key.
    pub client_key: Option<PathBuf>,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
    /// User name for Basic and for the token service.
    pub username: Option<String>,
    /// File with the password; a line break at its end does not count.
    pub password_file: Option<PathBuf>,
    /// File with a bearer token that is sent as it is.
    pub token_file: Option<PathBuf>,
    /// A Docker `config.json` for this registry alone.
    pub docker_config: Option<PathBuf>,
    /// Its own way out.
    pub proxy: Option<ProxyConfig>,
    /// Further hosts (`host` or `*.suffix`) whose token service may get the credentials.
    pub token_hosts: Vec<String>,
    /// Hosts (`host` or `*.suffix`) that redirects may lead to beside the registry's own; `None` for any.
    pub blob_hosts: Option<Vec<String>>,
    /// In place of `Config::connect_timeout`.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Option<Duration>,
    /// In place of `Config::first_byte_timeout`.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Option<Duration>,
    /// In place of `Config::idle_timeout`.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Option<Duration>,
    /// In place of `Config::pull_timeout`.
    #[serde(with = "humantime_serde")]
    pub pull_timeout: Option<Duration>,
    /// In place of `Config::least_rate`.
    pub least_rate: Option<ByteSize>,
    /// Most requests to it at once.
    pub at_once: Option<usize>,
}

/// The keys of a [`HostConfig`], for messages about others.
pub const HOST_KEYS: &[&str] = &[
    "mirrors",
    "origin",
    "plain_http",
    "ca",
    "system_ca",
    "client_certificate",
    "client_key",
    "insecure_skip_verify",
    "username",
    "password_file",
    "token_file",
    "docker_config",
    "proxy",
    "token_hosts",
    "blob_hosts",
    "connect_timeout",
    "first_byte_timeout",
    "idle_timeout",
    "pull_timeout",
    "least_rate",
    "at_once",
];

/// A place that has a registry's content.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// `http[s]://host[:port][/prefix]`; the API is below `<url>/v2`. The host's own settings apply to it.
    pub url: String,
    /// The repository there, with `{repository}` for the one that is asked for.
    #[serde(default = "same_repository")]
    pub repository: String,
    /// What a "not found" of the mirror means.
    #[serde(default)]
    pub on_not_found: NotFound,
}

fn same_repository() -> String {
    "{repository}".into()
}

/// What a "not found" of a mirror means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotFound {
    /// It is the answer.
    #[default]
    Final,
    /// The next one is asked.
    Next,
}

/// An egress proxy.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// `http://`, `https://` or `socks5h://host:port`, or `direct` for none; `None` takes `HTTPS_PROXY`, `HTTP_PROXY` and
    /// `ALL_PROXY`.
    pub url: Option<String>,
    /// User name for the proxy.
    pub username: Option<String>,
    /// File with the password for the proxy.
    pub password_file: Option<PathBuf>,
    /// Hosts, `.suffixes`, addresses and networks that are reached without it; `None` takes `NO_PROXY`.
    pub no_proxy: Option<Vec<String>>,
}

impl ProxyConfig {
    /// A rule's own: what it leaves open is as it is for all.
    pub fn over(&self, all: &Self) -> Self {
        let apart = self.url.is_some();
        Self {
            url: self.url.clone().or(all.url.clone()),
            username: self.username.clone().or(all.username.clone().filter(|_| !apart)),
            password_file: self.password_file.clone().or(all.password_file.clone().filter(|_| !apart)),
            // A proxy of its own is meant for it.
            no_proxy: self.no_proxy.clone().or(apart.then(Vec::new)).or(all.no_proxy.clone()),
        }
    }
}

impl Config {
    /// All files and folders that the settings name, or that are looked at without being named.
    pub fn files(&self, env: &Surroundings) -> Vec<PathBuf> {
        let mut out: Vec<PathBuf> =
            self.certs.iter().chain(&self.ca).chain(&self.docker_config).cloned().collect();
        out.extend(self.proxy.password_file.clone());
        if self.docker_config.is_none() {
            let files = ["config.json", ".dockerconfigjson"];
            out.extend(
                super::credentials::usual(env)
                    .into_iter()
                    .flat_map(|folder| files.map(|file| folder.join(file))),
            );
        }
        for host in self.hosts.values() {
            let files = [
                &host.client_certificate,
                &host.client_key,
                &host.password_file,
                &host.token_file,
                &host.docker_config,
            ];
            out.extend(host.ca.iter().cloned());
            out.extend(files.into_iter().flatten().cloned());
            out.extend(host.proxy.as_ref().and_then(|proxy| proxy.password_file.clone()));
        }
        out
    }
}

/// What the process was started with, as far as registries depend on it. It cannot be printed: passwords of proxies, and
/// whatever else a process is given, stand in it.
#[derive(Clone, Default)]
pub struct Surroundings(HashMap<String, String>);

impl Surroundings {
    /// This process's environment.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// Made of pairs, for tests.
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// The first of `names` that is set to something, and its value.
    pub fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &str)> {
        names.iter().find_map(|name| {
            let value = self.0.get(*name).map(|value| value.trim()).filter(|value| !value.is_empty())?;
            Some((*name, value))
        })
    }
}
