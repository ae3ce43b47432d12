//! `metadata.txt` as the nginx plugin server writes it, with what its guide promises and with ours behind it.

use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::record::Module;

/// What the file tells.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Metadata<'a> {
    /// The plugin's name, as asked.
    pub name: &'a str,
    /// The version, as asked; empty where the URL has none.
    pub version: &'a str,
    /// The module.
    #[serde(serialize_with = "facts", flatten)]
    pub module: &'a Module,
    /// When the reference began to point to it, or the file was written.
    #[serde(serialize_with = "as_text")]
    pub modified: Timestamp,
    /// The reference or file that it came from.
    pub reference: &'a str,
    /// The manifest's digest, where it came from a registry.
    #[serde(rename = "digest")]
    pub manifest: Option<Digest>,
}

/// `digest` is the manifest's in all that we print; the module's own is `sha256`.
fn facts<S: serde::Serializer>(module: &Module, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("sha256", &module.digest.hex())?;
    map.serialize_entry("size", &module.size)?;
    map.serialize_entry("md5", &module.md5)?;
    map.serialize_entry("abi", &module.abi)?;
    map.end()
}

fn as_text<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// The text. The first five lines are those of the present server, byte for byte in form.
pub fn render(metadata: &Metadata<'_>) -> String {
    let Metadata { name, version, module, modified, reference, manifest } = metadata;
    let (size, md5) = (module.size, &module.md5);
    let mut out = format!(
        "Plugin Name: {name}\nSize: {size} bytes\nLast Modified: {modified}\nCreated: {modified}\nMD5: {md5}\n\
         name: {name}\nversion: {version}\nsize: {size}\nmd5: {md5}\ncreated: {modified}\n\
         sha256: {}\nreference: {reference}\n",
        module.digest.hex()
    );
    if let Some(manifest) = manifest {
        out.push_str(&format!("digest: {manifest}\n"));
    }
    if let Some(abi) = &module.abi {
        out.push_str(&format!("abi: {abi}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_servers_lines_come_first_then_the_guides_then_ours() {
        let digest = Digest::of(b"x");
        let module = Module { digest, size: 7, md5: "aa".into(), abi: Some("0.2.1".into()) };
        let text = render(&Metadata {
            name: "waf",
            version: "1.0.0",
            module: &module,
            modified: Timestamp::from_millis(1_700_000_000_000),
            reference: "h.example/p/waf:2.0.1",
            manifest: Some(digest),
        });
        let at = "2023-11-14T22:13:20Z";
        let expected = format!(
            "Plugin Name: waf\nSize: 7 bytes\nLast Modified: {at}\nCreated: {at}\nMD5: aa\nname: waf\nversion: 1.0.0\n\
             size: 7\nmd5: aa\ncreated: {at}\nsha256: {}\nreference: h.example/p/waf:2.0.1\ndigest: {digest}\nabi: 0.2.1\n",
            digest.hex()
        );
        assert_eq!(text, expected);
    }
}
