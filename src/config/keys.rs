//! Which keys two readings of the settings differ in, and which of them take effect at the next start.

use super::{Config, Loaded, is_open};
use crate::oci::reference::masked;
use serde::Deserialize;
use serde_json::Value;

/// Keys that take effect at the next start, each for all below it. Every other one takes effect as soon as it is read.
pub const AT_START: [&str; 8] = [
    "listen",
    "server.threads",
    "server.send_buffer",
    "cache.dir",
    "log.format",
    "traces",
    "warm_up",
    "import",
];

/// A port either speaks TLS or it does not, as long as it is open. What is behind the certificate's key is read again.
const PORTS: [&str; 2] = ["tls.data", "tls.admin"];

/// A key, as far as it goes: below a map of the user's own, one of its entries.
type Key = Vec<String>;

impl Loaded {
    /// The keys in which these settings differ from `other`. Of a map of the user's own it is an entry, such as
    /// `registry.hosts.harbor.corp`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        keys(&self.tree, &other.tree).iter().map(told).collect()
    }

    /// The keys in which these settings differ from those of the start in a way that only another start can follow.
    pub fn needs_restart(&self, started: &Self) -> Vec<String> {
        let keys = keys(&self.tree, &started.tree);
        keys.iter().filter(|key| self.waits(started, key)).map(told).collect()
    }

    /// These settings, but for what only another start can follow, which is as it was at the start.
    pub fn in_use(&self, started: &Self) -> Self {
        let mut tree = self.tree.clone();
        for key in keys(&self.tree, &started.tree).iter().filter(|key| self.waits(started, key)) {
            let path = format!("/{}", key.join("/"));
            if let (Some(slot), Some(old)) = (tree.pointer_mut(&path), started.tree.pointer(&path)) {
                *slot = old.clone();
            }
        }
        let config = Config::deserialize(&tree)
            .unwrap_or_else(|e| unreachable!("each value stood in settings that were valid: {e}"));
        Self { config, tree, ..self.clone() }
    }

    /// True when a change of `key` since the start waits for the next one.
    fn waits(&self, started: &Self, key: &Key) -> bool {
        let key = key.join(".");
        let is_below = |above: &str| {
            key.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let speaks_tls = |loaded: &Self, port: &str| {
            let path = format!("/{}/certificate", port.replace('.', "/"));
            loaded.tree.pointer(&path).is_some_and(|certificate| !certificate.is_null())
        };
        let turns = |port| speaks_tls(self, port) != speaks_tls(started, port);
        AT_START.into_iter().any(is_below) || PORTS.into_iter().any(|port| is_below(port) && turns(port))
    }
}

/// A key as it is told. In place of a registry's name somebody may have written a URL with a password.
fn told(key: &Key) -> String {
    key.iter().map(|part| masked(part)).collect::<Vec<_>>().join(".")
}

/// The keys in which two trees differ.
fn keys(one: &Value, other: &Value) -> Vec<Key> {
    let mut out = Vec::new();
    collect(one, other, &mut Vec::new(), &mut out);
    out
}

fn collect(one: &Value, other: &Value, above: &mut Key, out: &mut Vec<Key>) {
    if one == other {
        return;
    }
    let is_entry = above.split_last().is_some_and(|(_, map)| is_open(&map.join(".")));
    match (one.as_object(), other.as_object()) {
        (Some(one), Some(other)) if !is_entry => {
            let gone = other.keys().filter(|key| !one.contains_key(*key));
            for key in one.keys().chain(gone) {
                above.push(key.clone());
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                collect(&of(one), &of(other), above, out);
                above.pop();
            }
        }
        _ => out.push(above.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Sources, defaults, load};
    use super::*;

    fn read(text: &str) -> Loaded {
        let file = Some(("larder.yaml".into(), text.into()));
        load(&Sources { file, ..Sources::default() }).unwrap()
    }

    #[test]
    fn what_differs_is_told_by_key_and_of_the_users_own_maps_by_entry() {
        let one =
            read("registry: {hosts: {harbor.corp: {ca: [/a]}, same.corp: {username: x}}}\nfill: {hold: 3s}");
        let two = read(
            "registry: {hosts: {harbor.corp: {ca: [/b]}, same.corp: {username: x}, 'robot:s3cret@new.corp': {}}}\n\
             catalog: {aliases: {1.0.0: 2.0.0}}\noverlay: {dirs: []}\n",
        );
        let told = two.differences(&one);
        assert_eq!(
            told[..4],
            ["catalog.aliases.1.0.0", "fill.hold", "overlay.dirs", "registry.hosts.harbor.corp"],
            "{told:?}"
        );
        assert!(told[4].starts_with("registry.hosts.") && !told[4].contains("s3cret"), "{told:?}");
        assert_eq!(told.len(), 5);
        assert_eq!(one.differences(&two).len(), 5, "what goes differs too");
        assert!(one.differences(&one).is_empty());
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_was_at_the_start_and_the_rest_is_as_it_is_written() {
        let started = read("tls: {data: {certificate: /a.pem, key: /a.key}}");
        let new = read(
            "cache: {dir: /new, retry: 1s}\nserver: {threads: 7, drain: 1s}\nlisten: {data: '127.0.0.1:1'}\n\
             tls: {data: {certificate: /b.pem, key: /a.key}, admin: {certificate: /c.pem, key: /c.key, client_ca: [/ca]}}\n",
        );
        assert_eq!(
            new.needs_restart(&started),
            [
                "cache.dir",
                "listen.data",
                "server.threads",
                "tls.admin.certificate",
                "tls.admin.client_ca",
                "tls.admin.key"
            ]
        );
        let used = new.in_use(&started).config;
        assert_eq!((used.cache.dir, used.server.threads), (None, 0));
        assert_eq!((used.cache.retry.as_secs(), used.server.drain.as_secs()), (1, 1));
        assert_eq!(used.tls.admin, started.config.tls.admin);
        assert_eq!(
            used.tls.data.certificate,
            Some("/b.pem".into()),
            "a port that speaks TLS reads another one"
        );
    }

    #[test]
    fn every_key_that_waits_for_a_start_is_a_key() {
        for key in AT_START.iter().chain(&PORTS) {
            assert!(defaults().pointer(&format!("/{}", key.replace('.', "/"))).is_some(), "{key}");
        }
    }
}
