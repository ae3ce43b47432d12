//! Reading lock files: three shapes, and every fault with its place.
//!
//! What is wrong is told by whoever reads it, while it is read, so that the parser knows where it is.

use super::{Entry, FORMAT, Fault, Lock};
use crate::oci::error_code::bounded;
use crate::oci::{Digest, Reference};
use crate::plugin::{PluginName, Version};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// The longest text of a fault, in characters.
const MOST_TOLD: usize = 300;
/// The formats of Console's shape.
const CONSOLE: [u64; 2] = [1, 2];

/// The keys that tell shapes apart; each once.
#[derive(Deserialize)]
#[serde(expecting = "a lock file")]
struct Marks {
    #[serde(rename = "larder-lock")]
    own: Option<IgnoredAny>,
    #[serde(rename = "schemaVersion")]
    console: Option<IgnoredAny>,
    #[serde(rename = "plugins")]
    _plugins: Option<IgnoredAny>,
}

/// See [`Lock::read`].
pub(super) fn read(bytes: &[u8]) -> Result<Lock, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|e| unreadable(bytes, e.valid_up_to()))?;
    // The whole of it, so that the shape is known before anything of it is judged.
    let marks: Marks = serde_json::from_str(text).map_err(|e| fault(&e))?;
    let mut lock = Lock::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = match marks {
        Marks { own: Some(_), .. } => json.deserialize_map(Own(&mut lock)),
        Marks { console: Some(_), .. } => json.deserialize_map(Console(&mut lock)),
        _ => json.deserialize_map(ByName::<InventoryItem>::of(&mut lock)),
    };
    read.map(|()| lock).map_err(|e| fault(&e))
}

fn fault(error: &serde_json::Error) -> Fault {
    let (line, column) = (error.line(), error.column());
    let told = error.to_string();
    let problem = told.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&told);
    Fault { line, column, problem: bounded(problem, MOST_TOLD) }
}

fn unreadable(bytes: &[u8], at: usize) -> Fault {
    let before = &bytes[..at];
    let line = before.split(|byte| *byte == b'\n');
    let column = line.clone().next_back().map_or(0, <[u8]>::len) + 1;
    Fault { line: line.count(), column, problem: "is not UTF-8".into() }
}

/// A text that is parsed where it stands.
fn parsed<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_str(Text(PhantomData))
}

struct Text<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// A digest without its algorithm.
struct Hex(Digest);

impl FromStr for Hex {
    type Err = crate::oci::digest::DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Digest::from_hex(text).map(Self)
    }
}

/// A digest, or nothing.
struct Maybe(Option<Digest>);

impl<'de> Deserialize<'de> for Maybe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Maybe;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest or null")
            }

            fn visit_none<E>(self) -> Result<Maybe, E> {
                Ok(Maybe(None))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Maybe, D::Error> {
                parsed(deserializer).map(|digest| Maybe(Some(digest)))
            }
        }
        deserializer.deserialize_option(Any)
    }
}

/// A plugin as one of the shapes has it; `name` is the key that it stands under, if it stands under one.
trait Item: DeserializeOwned {
    /// What it locks.
    fn entry(self, name: Option<PluginName>) -> Result<Entry, String>;
}

/// A plugin of larder's own shape.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnItem {
    #[serde(deserialize_with = "parsed")]
    name: PluginName,
    #[serde(deserialize_with = "parsed")]
    version: Version,
    #[serde(deserialize_with = "parsed")]
    reference: Reference,
    #[serde(deserialize_with = "parsed")]
    manifest: Digest,
    #[serde(deserialize_with = "parsed")]
    module: Digest,
}

impl Item for OwnItem {
    fn entry(self, _: Option<PluginName>) -> Result<Entry, String> {
        let Self { name, version, reference, manifest, module } = self;
        let (reference, manifest, module) = (Some(reference), Some(manifest), Some(module));
        Ok(Entry { name, version, reference, manifest, module })
    }
}

/// A plugin of `plugin-snapshot.lock.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConsoleItem {
    #[serde(deserialize_with = "parsed")]
    version: Version,
    #[serde(deserialize_with = "parsed")]
    oci_ref: Reference,
    #[serde(deserialize_with = "parsed")]
    digest: Digest,
}

impl Item for ConsoleItem {
    fn entry(self, name: Option<PluginName>) -> Result<Entry, String> {
        let name = name.ok_or("has no name")?;
        let (reference, manifest) = (Some(self.oci_ref), Some(self.digest));
        Ok(Entry { name, version: self.version, reference, manifest, module: None })
    }
}

/// A plugin of `snapshot-inventory.json`. A local file has no manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InventoryItem {
    #[serde(default = "nothing")]
    digest: Maybe,
    #[serde(deserialize_with = "parsed")]
    version: Version,
    #[serde(deserialize_with = "parsed")]
    wasm_sha256: Hex,
}

fn nothing() -> Maybe {
    Maybe(None)
}

impl Item for InventoryItem {
    fn entry(self, name: Option<PluginName>) -> Result<Entry, String> {
        let name = name.ok_or("has no name")?;
        let (manifest, module) = (self.digest.0, Some(self.wasm_sha256.0));
        Ok(Entry { name, version: self.version, reference: None, manifest, module })
    }
}

/// One plugin, taken in before its end is read.
struct One<'l, T> {
    lock: &'l mut Lock,
    name: Option<PluginName>,
    of: PhantomData<T>,
}

impl<'de, T: Item> DeserializeSeed<'de> for One<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Item> Visitor<'de> for One<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plugin with its digests")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let item = T::deserialize(MapAccessDeserializer::new(map))?;
        let entry = item.entry(self.name).map_err(A::Error::custom)?;
        self.lock.add(entry).map_err(A::Error::custom)
    }
}

/// Plugins by name.
struct ByName<'l, T> {
    lock: &'l mut Lock,
    of: PhantomData<T>,
}

impl<'l, T> ByName<'l, T> {
    fn of(lock: &'l mut Lock) -> Self {
        Self { lock, of: PhantomData }
    }
}

impl<'de, T: Item> DeserializeSeed<'de> for ByName<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Item> Visitor<'de> for ByName<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plugins by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key_seed(Name(&mut seen))? {
            map.next_value_seed(One::<T> { lock: self.lock, name: Some(name), of: PhantomData })?;
        }
        Ok(())
    }
}

/// A name that none before it had.
struct Name<'s>(&'s mut HashSet<PluginName>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = PluginName;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PluginName, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = PluginName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plugin's name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PluginName, E> {
        let name: PluginName = text.parse().map_err(E::custom)?;
        if self.0.insert(name.clone()) {
            Ok(name)
        } else {
            Err(E::custom(format!("{name} stands there twice")))
        }
    }
}

/// Console's shape: much of it says how it came to be, and is not looked at.
struct Console<'l>(&'l mut Lock);

impl<'de> Visitor<'de> for Console<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a lock file")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_plugins = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "schemaVersion" => map.next_value_seed(Format(&CONSOLE, "schemaVersion"))?,
                "plugins" => {
                    has_plugins = true;
                    map.next_value_seed(ByName::<ConsoleItem>::of(self.0))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if has_plugins { Ok(()) } else { Err(A::Error::missing_field("plugins")) }
    }
}

/// larder's own shape.
struct Own<'l>(&'l mut Lock);

impl<'de> Visitor<'de> for Own<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a lock file")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_plugins = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "larder-lock" => map.next_value_seed(Format(&[FORMAT], "larder-lock"))?,
                "plugins" => {
                    has_plugins = true;
                    map.next_value_seed(Listed(self.0))?;
                }
                other => return Err(A::Error::unknown_field(other, &["larder-lock", "plugins"])),
            }
        }
        if has_plugins { Ok(()) } else { Err(A::Error::missing_field("plugins")) }
    }
}

/// Plugins of larder's own shape.
struct Listed<'l>(&'l mut Lock);

impl<'de> DeserializeSeed<'de> for Listed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Listed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of plugins")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut one = || list.next_element_seed(One::<OwnItem> { lock: self.0, name: None, of: PhantomData });
        while one()?.is_some() {}
        Ok(())
    }
}

/// A number that says which format follows: its known values, and its key.
struct Format(&'static [u64], &'static str);

impl<'de> DeserializeSeed<'de> for Format {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_u64(self)
    }
}

impl Visitor<'_> for Format {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "{} {}", self.1, known.join(" or "))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        if self.0.contains(&number) {
            Ok(())
        } else {
            Err(E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
        }
    }
}
