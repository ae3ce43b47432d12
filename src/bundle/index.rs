//! What a bundle says of itself: larder's own list, and the OCI layout's index for everybody else.

use super::{BundleError, INDEX_BYTES};
use crate::catalog::{Catalog, version_of};
use crate::oci::error_code::{bounded, shown};
use crate::oci::{Digest, Reference, media_type};
use crate::plugin::{PluginName, Request, Version};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Marks a folder or archive as an OCI image layout (OCI image spec, "oci-layout file").
pub const LAYOUT: &str = "oci-layout";
/// The layout's index (OCI image spec, "index.json file").
pub const INDEX: &str = "index.json";
/// larder's own list.
pub const LIST: &str = "larder.json";
/// The signature over the bytes of [`LIST`], in base64, as `cosign sign-blob` prints it.
pub const SIGNATURE: &str = "larder.json.sig";
/// The content of [`LAYOUT`].
pub const LAYOUT_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The format of [`List`] that is written and read.
const FORMAT: u32 = 1;
/// Most plugins of a list, and most manifests of an index.
const MOST_PLUGINS: usize = 10_000;
/// What an artifact of the index is called (OCI image spec, "Pre-Defined Annotation Keys").
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full reference, where containerd's tools wrote the layout.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// Manifests with signatures, and lists of them, by the tags that a registry has for them.
pub type Signatures = BTreeMap<String, Digest>;

/// larder's own list: what the artifacts of a bundle are to gateways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Of this text.
    format: u32,
    /// In the order of name, version and reference.
    pub plugins: Vec<Plugin>,
}

/// A plugin of a [`List`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// Its name in URLs.
    pub name: String,
    /// Its version: the reference's tag or digest.
    pub version: String,
    /// Where it lies, `host/path:tag`.
    pub reference: Reference,
    /// Digest of the manifest or index that the reference pointed to.
    pub manifest: Digest,
    /// SHA-256 of the wasm bytes.
    pub module: Digest,
    /// Their number.
    pub size: u64,
    /// Versions that do not exist and that this one was served for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The references of those, of which the registry said that they do not exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Reference>,
    /// Who signed it, by tags of the same repository.
    #[serde(default, skip_serializing_if = "Signatures::is_empty")]
    pub signatures: Signatures,
}

/// What a bundle offers under one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The plugin's name, for people.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is kept by.
    pub reference: Reference,
    /// Digest of its manifest or index.
    pub manifest: Digest,
    /// SHA-256 of its module, as far as the bundle tells.
    pub module: Option<Digest>,
    /// References that do not exist.
    pub absent: Vec<Reference>,
    /// Who signed it, by tags of the same repository.
    pub signatures: Signatures,
}

impl List {
    /// Of these, each once, in order.
    pub fn new(plugins: Vec<Plugin>) -> Self {
        let plugins = plugins.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        Self { format: FORMAT, plugins }
    }

    /// The bytes to write, and to sign.
    pub fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_string_pretty(self).unwrap_or_else(|e| unreachable!("plain fields: {e}"));
        (text + "\n").into_bytes()
    }

    /// Reads what [`List::encode`] wrote.
    ///
    /// # Errors
    /// It is none, or of another format.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        let bad =
            |e: serde_json::Error| BundleError::new("bad_list", format!("{LIST}: {}", shown(&e.to_string())));
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(bytes).map_err(bad)?;
        if format != FORMAT {
            let detail = format!("{LIST} has format {format}; this larder reads format {FORMAT}");
            return Err(BundleError::new("bad_list", detail));
        }
        let list: Self = serde_json::from_slice(bytes).map_err(bad)?;
        most(list.plugins.len(), LIST)?;
        Ok(list)
    }

    /// What it offers. Names and versions are of somebody else and only shown.
    pub fn offers(&self) -> Vec<Offer> {
        let offer = |plugin: &Plugin| Offer {
            name: bounded(&plugin.name, 64),
            version: bounded(&plugin.version, 128),
            reference: plugin.reference.clone(),
            manifest: plugin.manifest,
            module: Some(plugin.module),
            absent: plugin.absent.clone(),
            signatures: plugin.signatures.clone(),
        };
        self.plugins.iter().map(offer).collect()
    }

    /// The names by which `oras copy --from-oci-layout FILE:NAME` and `skopeo copy oci-archive:FILE:NAME` find each: the
    /// plugin's, or `NAME/VERSION` where there are several of one name. Neither takes a colon.
    fn ref_names(&self) -> impl Iterator<Item = (&Plugin, String)> {
        let mut of_name: BTreeMap<&str, usize> = BTreeMap::new();
        for plugin in &self.plugins {
            *of_name.entry(&plugin.name).or_default() += 1;
        }
        self.plugins.iter().map(move |plugin| match of_name.get(plugin.name.as_str()) {
            Some(1) => (plugin, plugin.name.clone()),
            _ => (plugin, format!("{}/{}", plugin.name, plugin.version.replace(':', "-"))),
        })
    }

    /// The layout's index, for `sizes and media types` of manifests.
    pub fn layout_index(&self, manifests: &BTreeMap<Digest, (String, u64)>) -> Vec<u8> {
        let entries = self.ref_names().filter_map(|(plugin, name)| {
            let (media_type, size) = manifests.get(&plugin.manifest)?;
            Some(Entry {
                media_type: media_type.clone(),
                digest: plugin.manifest.to_string(),
                size: *size,
                annotations: [(REF_NAME.to_owned(), name)].into(),
            })
        });
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.into()),
            manifests: entries.collect(),
        };
        serde_json::to_vec(&index).unwrap_or_else(|e| unreachable!("plain fields: {e}"))
    }
}

/// `index.json`, as far as it is used.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    manifests: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Index {
    /// Reads `index.json`.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        let index: Self = serde_json::from_slice(bytes)
            .map_err(|e| BundleError::new("bad_index", format!("{INDEX}: {}", shown(&e.to_string()))))?;
        if index.schema_version != 2 {
            return Err(BundleError::new(
                "bad_index",
                format!("{INDEX} has schemaVersion {}", index.schema_version),
            ));
        }
        most(index.manifests.len(), INDEX)?;
        Ok(index)
    }

    /// What it offers by the names that other tools wrote, and what cannot be named, with the reason.
    pub fn offers(&self, catalog: &Catalog) -> (Vec<Offer>, Vec<(String, BundleError)>) {
        let mut offers: Vec<Offer> = Vec::new();
        let mut unnamed = Vec::new();
        for entry in &self.manifests {
            let told = entry.annotations.get(IMAGE_NAME).or_else(|| entry.annotations.get(REF_NAME));
            let subject = bounded(told.unwrap_or(&entry.digest), 200);
            match entry.offer(told.map(String::as_str), catalog) {
                Ok(offer) if offers.iter().any(|known| known.reference == offer.reference) => {
                    let detail = format!("{} stands in {INDEX} twice", offer.reference);
                    unnamed.push((subject, BundleError::new("named_twice", detail)));
                }
                Ok(offer) => offers.push(offer),
                Err(error) => unnamed.push((subject, error)),
            }
        }
        (offers, unnamed)
    }
}

impl Entry {
    fn offer(&self, told: Option<&str>, catalog: &Catalog) -> Result<Offer, BundleError> {
        let bad = |detail: String| BundleError::new("bad_index", format!("{INDEX}: {detail}"));
        let manifest: Digest = self.digest.parse().map_err(|e| bad(format!("{e}")))?;
        let unnamed = |detail: String| BundleError::new("unnamed", detail);
        let Some(told) = told else {
            return Err(unnamed(format!("{manifest} has no {REF_NAME}, so nothing says which plugin it is")));
        };
        let reference = reference_of(told, catalog).ok_or_else(|| {
            let told = bounded(told, 200);
            unnamed(format!("'{told}' is neither a full reference nor a plugin of the catalog"))
        })?;
        let name = catalog.names_of(&reference.repository()).first().map(ToString::to_string);
        let last = || reference.repository_path().rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Offer {
            name: name.unwrap_or_else(last),
            version: version_of(&reference).to_string(),
            reference,
            manifest,
            module: None,
            absent: Vec::new(),
            signatures: Signatures::new(),
        })
    }
}

/// What a name that another tool wrote means: a full reference, or what the catalog makes of `NAME`, `NAME/VERSION`,
/// `NAME@VERSION` or `NAME:VERSION`. A mere tag, as oras writes it, says nothing of the plugin.
fn reference_of(told: &str, catalog: &Catalog) -> Option<Reference> {
    let is_host = |host: &str| host.contains(['.', ':']) || host == "localhost";
    let bare = told.strip_prefix("oci://").unwrap_or(told);
    if bare.split_once('/').is_some_and(|(host, _)| is_host(host)) {
        return told.parse().ok();
    }
    let (name, version) = match bare.split_once(['/', '@', ':']) {
        Some((name, version)) => (name, Some(version.parse::<Version>().ok()?)),
        None => (bare, None),
    };
    let name: PluginName = name.parse().ok()?;
    if version.is_none() && !catalog.lists(name.as_str()) {
        return None;
    }
    let plan = catalog.plan(&Request { name, version });
    plan.candidates.into_iter().next().map(|candidate| candidate.reference)
}

fn most(number: usize, of: &str) -> Result<(), BundleError> {
    if number <= MOST_PLUGINS {
        return Ok(());
    }
    Err(BundleError::new("too_many", format!("{of} names {number} plugins; at most {MOST_PLUGINS} are read")))
}

/// Refuses what is too long to be an index.
pub fn check_size(name: &str, size: u64) -> Result<(), BundleError> {
    if size <= INDEX_BYTES {
        return Ok(());
    }
    Err(BundleError::new(
        "index_too_large",
        format!("{name} has {size} bytes; at most {INDEX_BYTES} are read"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    fn catalog() -> Catalog {
        let config = catalog::Config {
            builtin: false,
            files: Vec::new(),
            template: Some("r.test/p/{name}:{version}".into()),
            fallback: true,
            aliases: BTreeMap::new(),
            plugins: BTreeMap::new(),
        };
        Catalog::build(&config, &[("lines".into(), "waf=h.test/plugins/the-waf:2.0.0\n".into())]).unwrap()
    }

    #[test]
    fn names_that_others_write_are_full_references_or_plugins_and_a_mere_tag_is_none() {
        let catalog = catalog();
        for (told, meant) in [
            ("h.test/a/b:1", Some("h.test/a/b:1")),
            ("oci://127.0.0.1:5000/a:1", Some("127.0.0.1:5000/a:1")),
            ("localhost/a:1", Some("localhost/a:1")),
            ("waf", Some("h.test/plugins/the-waf:2.0.0")),
            ("waf/1.0.0", Some("h.test/plugins/the-waf:1.0.0")),
            ("other@1", Some("r.test/p/other:1")),
            ("other:1", Some("r.test/p/other:1")),
            ("other", None),
            ("1.0.0", None),
            ("latest", None),
            ("h.test/a", None),
            ("../../x", None),
            ("a/b/c", None),
            ("", None),
        ] {
            let found = reference_of(told, &catalog).map(|reference| reference.to_string());
            assert_eq!(found.as_deref(), meant, "{told}");
        }
    }

    #[test]
    fn each_plugin_of_a_list_has_a_name_without_a_colon_that_no_other_has() {
        let plugin = |name: &str, version: &str| Plugin {
            name: name.into(),
            version: version.into(),
            reference: format!("h.test/{name}:{version}").parse().unwrap(),
            manifest: Digest::of(version.as_bytes()),
            module: Digest::of(b""),
            size: 0,
            aliases: Vec::new(),
            absent: Vec::new(),
            signatures: Signatures::new(),
        };
        let list = List::new(vec![plugin("b", "1"), plugin("a", "2"), plugin("a", "1"), plugin("a", "1")]);
        let names: Vec<_> = list.ref_names().map(|(_, name)| name).collect();
        assert_eq!(names, ["a/1", "a/2", "b"]);
        assert_eq!(List::decode(&list.encode()), Ok(list));
    }
}
