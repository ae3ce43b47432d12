//! What is known and what is held, for people with curl and for the Console.
//!
//! HTML in the form of nginx's autoindex, which the present plugin server shows; JSON in the form of nginx's
//! `autoindex_format json`.

use crate::catalog::{Catalog, version_of};
use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::plugin::{PluginName, Version};
use crate::record::{Module, Record};
use crate::store::Store;
use http::{HeaderMap, header::ACCEPT};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A line of a listing.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Item {
    /// Name, without a slash.
    pub name: String,
    /// `directory` or `file`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Time of last change, of what is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtime: Option<String>,
    /// Size in bytes, of what is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl Item {
    fn directory(name: impl ToString) -> Self {
        Self { name: name.to_string(), kind: "directory", mtime: None, size: None }
    }
}

/// A module that is held: as which version, since when, from which manifest.
struct Held {
    version: Version,
    module: Module,
    since: Timestamp,
    manifest: Option<Digest>,
}

/// Reads catalog and store together.
pub struct Listing<'a> {
    /// What may be asked for.
    pub catalog: &'a Catalog,
    /// What is held.
    pub store: &'a dyn Store,
}

impl Listing<'_> {
    /// `/plugins/`: the listed names and those that are held.
    pub fn names(&self) -> Vec<Item> {
        let mut names: BTreeSet<PluginName> = self.catalog.names().cloned().collect();
        names.extend(self.store.overlay().keys().map(|(name, _)| name.clone()));
        names.extend(self.held_names());
        names.into_iter().map(Item::directory).collect()
    }

    /// `/plugins/{name}/`: the versions that the catalog names and those that are held.
    pub fn versions(&self, name: &PluginName) -> Vec<Version> {
        let mut versions = self.catalog.versions(name);
        versions.extend(self.held(name).into_iter().map(|held| held.version));
        let mut versions: Vec<_> = versions.into_iter().collect();
        versions.sort_by_key(natural);
        versions
    }

    /// The versions of a name that are held, and could be served without asking anybody.
    pub fn held_versions(&self, name: &PluginName) -> Vec<Version> {
        let mut held = self.held(name);
        held.retain(|held| held.manifest.is_none() || self.store.holds(&held.module));
        let mut versions: Vec<_> = held.into_iter().map(|held| held.version).collect();
        versions.sort_by_key(natural);
        versions
    }

    /// The highest local version of a name, for a URL without one.
    pub fn highest_local(&self, name: &PluginName) -> Option<Version> {
        let index = self.store.overlay();
        let versions = index.keys().filter(|(held, _)| held == name).map(|(_, version)| version.clone());
        versions.max_by_key(natural)
    }

    /// True when a local file has this name and version.
    pub fn is_local(&self, name: &PluginName, version: &Version) -> bool {
        self.store.overlay().contains_key(&(name.clone(), version.clone()))
    }

    /// `/plugins/{name}/{version}/`: always the same files, with sizes where they are held.
    pub fn files(&self, name: &PluginName, version: &Version) -> Vec<Item> {
        let held = self.held(name).into_iter().find(|held| held.version == *version);
        let module = Item {
            name: "plugin.wasm".into(),
            kind: "file",
            mtime: held.as_ref().map(|held| httpdate::fmt_http_date(held.since.system())),
            size: held.as_ref().map(|held| held.module.size),
        };
        let text =
            |name: &str| Item { name: name.into(), kind: "file", mtime: module.mtime.clone(), size: None };
        vec![text("metadata.json"), text("metadata.txt"), module.clone()]
    }

    /// `snapshot-inventory.json`: for each name the catalog's version if it is held, else the highest that is.
    pub fn inventory(&self) -> BTreeMap<String, InventoryItem> {
        let mut names = self.held_names();
        names.extend(self.store.overlay().keys().map(|(name, _)| name.clone()));
        let item = |name: &PluginName| {
            let wanted = self.catalog.default_version(name);
            let mut held = self.held(name);
            held.sort_by_key(|held| (Some(&held.version) == wanted.as_ref(), natural(&held.version)));
            let held = held.pop()?;
            let item = InventoryItem {
                digest: held.manifest.map(|digest| digest.to_string()),
                version: held.version.to_string(),
                wasm_sha256: held.module.digest.hex(),
            };
            Some((name.to_string(), item))
        };
        names.iter().filter_map(item).collect()
    }

    /// Everything held of a name; local files stand for what they win over.
    fn held(&self, name: &PluginName) -> Vec<Held> {
        let overlay = self.store.overlay();
        let mut held: Vec<Held> = Vec::new();
        for ((local, version), entry) in overlay.iter() {
            if local == name
                && let Ok(module) = &entry.module
            {
                let (version, module) = (version.clone(), module.clone());
                held.push(Held { version, module, since: entry.modified, manifest: None });
            }
        }
        let mut add = |version: Version, record: &Record| {
            if let Some(present) =
                record.present().filter(|_| !held.iter().any(|held| held.version == version))
            {
                let (module, since) = (present.module.clone(), present.since);
                held.push(Held { version, module, since, manifest: Some(present.manifest) });
            }
        };
        for (version, reference) in self.catalog.lines(name) {
            if let Some(record) = self.store.record(reference) {
                add(version.clone(), &record);
            }
        }
        let repositories = self.catalog.places(name);
        for record in self.store.records() {
            if repositories.iter().any(|repository| repository.holds(&record.reference)) {
                add(version_of(&record.reference), &record);
            }
        }
        held
    }

    /// The names of which something from a registry is held.
    fn held_names(&self) -> BTreeSet<PluginName> {
        let records = self.store.records();
        let present = records.iter().filter(|record| record.present().is_some());
        let repositories: BTreeSet<_> = present.map(|record| record.reference.repository()).collect();
        let mut names: BTreeSet<_> =
            repositories.iter().flat_map(|repository| self.catalog.names_of(repository)).collect();
        let has_line = |name: &&PluginName| {
            self.catalog.lines(name).any(|(_, reference)| self.store.record(reference).is_some())
        };
        names.extend(self.catalog.names().filter(has_line).cloned());
        names
    }
}

/// One name of `snapshot-inventory.json`.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct InventoryItem {
    /// The manifest's digest; a local file has none.
    pub digest: Option<String>,
    /// The version.
    pub version: String,
    /// SHA-256 of the wasm bytes in hexadecimal.
    #[serde(rename = "wasmSha256")]
    pub wasm_sha256: String,
}

/// Directory items for versions.
pub fn items(versions: &[Version]) -> Vec<Item> {
    versions.iter().map(Item::directory).collect()
}

/// Orders versions as people count: `1.10.0` behind `1.9.0`, and a release behind its candidates.
fn natural(version: &Version) -> Vec<(u64, String)> {
    let text = version.to_string();
    let mut key: Vec<(u64, String)> = text
        .split(['.', '-', '_'])
        .map(|part| match part.trim_start_matches('v').parse::<u64>() {
            Ok(number) => (number.saturating_add(1), String::new()),
            Err(_) => (0, part.to_owned()),
        })
        .collect();
    // Behind every pre-release part, which counts as 0.
    key.push((1, String::new()));
    key
}

/// True when the client names JSON and not HTML.
pub fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/html")
}

/// nginx's autoindex. Names are of a narrow alphabet and need no escaping.
pub fn html(path: &str, items: &[Item]) -> String {
    /// The column at which nginx writes the date.
    const COLUMN: usize = 51;
    let mut out = format!(
        "<html>\r\n<head><title>Index of {path}</title></head>\r\n<body>\r\n<h1>Index of {path}</h1><hr><pre><a href=\"../\">../</a>\r\n"
    );
    for item in items {
        let slash = if item.kind == "directory" { "/" } else { "" };
        let name = format!("{}{slash}", item.name);
        // A colon in a first segment would read as a scheme.
        let link = if name.contains(':') { format!("./{name}") } else { name.clone() };
        let pad = " ".repeat(COLUMN.saturating_sub(name.len()).max(1));
        let mtime = item.mtime.as_deref().unwrap_or("-");
        let size = item.size.map_or("-".into(), |size| size.to_string());
        let _ = write!(out, "<a href=\"{link}\">{name}</a>{pad}{mtime:<30}{size:>12}\r\n");
    }
    out.push_str("</pre><hr></body>\r\n</html>\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_people_count() {
        let mut versions: Vec<Version> =
            ["1.10.0", "1.9.0", "2.0.0", "2.0.0-rc.1", "v1.9.1"].map(|v| v.parse().unwrap()).into();
        versions.sort_by_key(natural);
        let shown: Vec<_> = versions.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["1.9.0", "v1.9.1", "1.10.0", "2.0.0-rc.1", "2.0.0"]);
    }

    #[test]
    fn a_listing_is_links_that_work_from_its_own_folder() {
        let file =
            Item { name: "plugin.wasm".into(), kind: "file", mtime: Some("now".into()), size: Some(7) };
        let page = html("/plugins/a/1/", &[Item::directory("sha256:aa"), file]);
        assert!(page.contains("<a href=\"./sha256:aa/\">sha256:aa/</a>"));
        assert!(page.contains("<a href=\"plugin.wasm\">plugin.wasm</a>"));
        assert!(page.contains("<a href=\"../\">../</a>"));
    }
}
