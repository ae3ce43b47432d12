//! Manifests and indexes, parsed from their raw bytes.
//!
//! The bytes are what a digest is about, so they are never re-encoded; what is parsed from them is only read.
//! Unknown fields are ignored, as the specification asks; what is contradictory is refused.

use super::digest::{Digest, DigestError};
use super::media_type;
use oci_spec::image as spec;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The most layers a manifest, and children an index, may have. Real plugins have up to 5, images up to 127.
pub const MAX_DESCRIPTORS: usize = 512;

/// What a manifest request can bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One artifact.
    Manifest(Manifest),
    /// Several, by platform.
    Index(Vec<Descriptor>),
}

/// An image or artifact manifest, as far as a module is looked for in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration's media type; the only thing that tells some artifacts apart.
    pub config_media_type: String,
    /// The layers in their order.
    pub layers: Vec<Descriptor>,
}

/// A content descriptor (OCI image spec, "descriptor"). Its `urls` and `data` are left unread on purpose: what they
/// offer would come from elsewhere than the registry that the operator allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type as written; a hint.
    pub media_type: String,
    /// Digest of the raw content.
    pub digest: Digest,
    /// Size of the raw content in bytes.
    pub size: u64,
    /// `os` and `architecture`, where it says so.
    pub platform: Option<(String, String)>,
    /// True for a build attestation beside the images of an index.
    pub is_attestation: bool,
}

/// Why bytes are no manifest that we can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the specification's form; the text carries line and column.
    #[error("the manifest is malformed: {0}")]
    Malformed(String),
    /// `schemaVersion` is not 2.
    #[error(
        "the manifest has schemaVersion {0}; only 2 is supported: push the artifact again with a current client"
    )]
    Schema(u64),
    /// Both a manifest and an index, or neither.
    #[error("the manifest is ambiguous: {0}")]
    Ambiguous(&'static str),
    /// Header and body call the document by different types.
    #[error("the registry calls the manifest '{header}' and the manifest calls itself '{body}'")]
    MediaType {
        /// The `Content-Type`.
        header: String,
        /// The body's `mediaType`.
        body: String,
    },
    /// A descriptor's digest is malformed or of an unsupported algorithm.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// More than [`MAX_DESCRIPTORS`].
    #[error("the manifest lists {0} layers or children; at most {MAX_DESCRIPTORS} are read")]
    TooMany(usize),
}

impl ManifestError {
    /// The stable word for this error in answers and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "bad_manifest",
            Self::Schema(_) => "unsupported_schema",
            Self::Ambiguous(_) => "ambiguous_manifest",
            Self::MediaType { .. } => "media_type_mismatch",
            Self::Digest(_) => "bad_digest",
            Self::TooMany(_) => "too_many_layers",
        }
    }
}

/// The fields that tell what kind of document it is, read before the document itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<u64>,
    media_type: Option<String>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

/// All that a document names, for whoever carries an artifact unchanged from one place to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The document's own media type: as it says, else as the registry said, else by its form.
    pub media_type: String,
    /// The configuration and the layers of a manifest, each blob once, in their order.
    pub blobs: Vec<Descriptor>,
    /// The manifests of an index, each once, in their order; those of build attestations too.
    pub children: Vec<Descriptor>,
}

impl Contents {
    /// Reads raw `bytes` that came with `content_type`.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        let malformed =
            |e: serde_json::Error| ManifestError::Malformed(super::error_code::shown(&e.to_string()));
        let document = Document::parse(bytes, content_type)?;
        let outline: Outline = serde_json::from_slice(bytes).map_err(malformed)?;
        let said = content_type.and_then(|said| said.split(';').next()).map(str::trim);
        let typed = outline.media_type.or_else(|| said.filter(|said| kind(said).is_some()).map(Into::into));
        let mut contents = Self { media_type: String::new(), blobs: Vec::new(), children: Vec::new() };
        let by_form = match document {
            Document::Index(children) => {
                contents.children = each_once(children);
                media_type::OCI_INDEX
            }
            Document::Manifest(manifest) => {
                let parsed: spec::ImageManifest = serde_json::from_slice(bytes).map_err(malformed)?;
                let config = descriptor(parsed.config())?;
                contents.blobs = each_once([vec![config], manifest.layers].concat());
                media_type::OCI_MANIFEST
            }
        };
        contents.media_type = typed.unwrap_or_else(|| by_form.into());
        Ok(contents)
    }
}

fn each_once(mut descriptors: Vec<Descriptor>) -> Vec<Descriptor> {
    let mut seen = std::collections::HashSet::new();
    descriptors.retain(|descriptor| seen.insert(descriptor.digest));
    descriptors
}

impl Document {
    /// Parses raw `bytes` that came with `content_type`.
    ///
    /// The kind is taken from `mediaType`, else from the header, else from which of `layers` and `manifests` is there;
    /// registries that answer `application/json` are common.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        let malformed =
            |e: serde_json::Error| ManifestError::Malformed(super::error_code::shown(&e.to_string()));
        let outline: Outline = serde_json::from_slice(bytes).map_err(malformed)?;
        match outline.schema_version {
            Some(2) => {}
            Some(other) => return Err(ManifestError::Schema(other)),
            None => return Err(ManifestError::Malformed("schemaVersion is missing".into())),
        }
        let by_header = content_type.and_then(kind);
        let by_body = outline.media_type.as_deref().and_then(kind);
        if let (Some(header), Some(body)) = (&by_header, &by_body)
            && header != body
        {
            return Err(ManifestError::MediaType {
                header: super::error_code::shown(content_type.unwrap_or_default()),
                body: super::error_code::shown(outline.media_type.as_deref().unwrap_or_default()),
            });
        }
        match (outline.layers.is_some(), outline.manifests.is_some()) {
            (true, true) => return Err(ManifestError::Ambiguous("it has both layers and manifests")),
            (false, false) => return Err(ManifestError::Ambiguous("it has neither layers nor manifests")),
            _ => {}
        }
        match by_body.or(by_header) {
            Some(Kind::Manifest) if outline.layers.is_none() => {
                return Err(ManifestError::Ambiguous("it is typed as a manifest and lists manifests"));
            }
            Some(Kind::Index) if outline.manifests.is_none() => {
                return Err(ManifestError::Ambiguous("it is typed as an index and lists layers"));
            }
            _ => {}
        }
        if outline.layers.is_some() {
            let parsed: spec::ImageManifest = serde_json::from_slice(bytes).map_err(malformed)?;
            let layers = descriptors(parsed.layers())?;
            Ok(Self::Manifest(Manifest {
                config_media_type: parsed.config().media_type().to_string(),
                layers,
            }))
        } else {
            let parsed: spec::ImageIndex = serde_json::from_slice(bytes).map_err(malformed)?;
            Ok(Self::Index(descriptors(parsed.manifests())?))
        }
    }
}

#[derive(PartialEq, Eq)]
enum Kind {
    Manifest,
    Index,
}

fn kind(media_type: &str) -> Option<Kind> {
    match media_type.split(';').next().unwrap_or_default().trim() {
        media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => Some(Kind::Manifest),
        media_type::OCI_INDEX | media_type::DOCKER_LIST => Some(Kind::Index),
        _ => None,
    }
}

fn descriptors(list: &[spec::Descriptor]) -> Result<Vec<Descriptor>, ManifestError> {
    if list.len() > MAX_DESCRIPTORS {
        return Err(ManifestError::TooMany(list.len()));
    }
    list.iter().map(descriptor).collect()
}

fn descriptor(from: &spec::Descriptor) -> Result<Descriptor, ManifestError> {
    let platform = from.platform().as_ref().map(|p| (p.os().to_string(), p.architecture().to_string()));
    let is_attestation = platform.as_ref().is_some_and(|(os, arch)| os == "unknown" && arch == "unknown")
        || from
            .annotations()
            .as_ref()
            .and_then(|a| a.get("vnd.docker.reference.type"))
            .is_some_and(|value| value == "attestation-manifest");
    Ok(Descriptor {
        media_type: from.media_type().to_string(),
        digest: from.digest().to_string().parse()?,
        size: from.size(),
        platform,
        is_attestation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &str = r#"{"mediaType":"application/wasm","size":3,
        "digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}"#;

    fn manifest(extra: &str) -> String {
        format!(r#"{{"schemaVersion":2,{extra}"config":{LAYER},"layers":[{LAYER}]}}"#)
    }

    fn code(text: &str, content_type: Option<&str>) -> &'static str {
        Document::parse(text.as_bytes(), content_type).expect_err(text).code()
    }

    #[test]
    fn a_manifest_is_known_by_type_header_or_content() {
        for (extra, header) in [
            (r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#, None),
            (
                r#""mediaType":"application/vnd.docker.distribution.manifest.v2+json","#,
                Some("application/json"),
            ),
            ("", Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")),
            ("", Some("text/plain")),
            ("", None),
        ] {
            let parsed = Document::parse(manifest(extra).as_bytes(), header).unwrap();
            let Document::Manifest(parsed) = parsed else { panic!("an index") };
            assert_eq!(parsed.layers.len(), 1);
            assert_eq!(parsed.layers[0].size, 3);
        }
    }

    #[test]
    fn an_index_tells_platforms_and_attestations() {
        let d = LAYER.trim_end_matches('}');
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{d},"platform":{{"os":"wasi","architecture":"wasm"}}}},
            {d},"platform":{{"os":"unknown","architecture":"unknown"}}}},
            {d},"annotations":{{"vnd.docker.reference.type":"attestation-manifest"}}}}]}}"#
        );
        let Document::Index(children) = Document::parse(text.as_bytes(), None).unwrap() else {
            panic!("no index")
        };
        assert_eq!(children[0].platform, Some(("wasi".into(), "wasm".into())));
        assert_eq!(children.iter().map(|c| c.is_attestation).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn what_is_carried_of_an_artifact_is_all_that_it_names_each_once() {
        let contents = |text: &str, said| Contents::parse(text.as_bytes(), said).unwrap();
        let other = LAYER.replace("e3b0c442", "e3b0c443");
        let of = format!(r#"{{"schemaVersion":2,"config":{other},"layers":[{LAYER},{LAYER}]}}"#);
        let found = contents(&of, Some("application/json"));
        let firsts: Vec<_> = found.blobs.iter().map(|blob| blob.digest.hex()[..8].to_owned()).collect();
        assert_eq!(firsts, ["e3b0c443", "e3b0c442"]);
        assert_eq!((found.media_type.as_str(), found.children.len()), (media_type::OCI_MANIFEST, 0));
        let docker = format!("{}; charset=utf-8", media_type::DOCKER_MANIFEST);
        assert_eq!(contents(&of, Some(&docker)).media_type, media_type::DOCKER_MANIFEST);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{LAYER},{LAYER},{other}]}}"#);
        let found = contents(&index, None);
        assert_eq!((found.children.len(), found.blobs.len()), (2, 0));
        assert_eq!(found.media_type, media_type::OCI_INDEX);
        assert!(Contents::parse(b"{}", None).is_err());
    }

    #[test]
    fn contradictory_and_malformed_documents_are_refused_by_name() {
        let deep = "[".repeat(10_000);
        let upper = manifest("").replace("sha256:e3", "sha256:E3");
        let sha512 = manifest("").replace("sha256:", "sha512:");
        let path = manifest("").replace("e3b0c44298fc1c", "../../../../xx");
        let negative = manifest("").replace("\"size\":3", "\"size\":-3");
        let float = manifest("").replace("\"size\":3", "\"size\":3.5");
        let huge = manifest("").replace("\"size\":3", "\"size\":99999999999999999999");
        let word = manifest("").replace("\"size\":3", "\"size\":\"3\"");
        for bad in [
            "",
            "null",
            "[]",
            "{",
            "\u{feff}{}",
            "{}",
            "{} x",
            &deep,
            &negative,
            &float,
            &huge,
            &word,
            &upper,
            &path,
        ] {
            assert_eq!(code(bad, None), "bad_manifest", "{bad:.60}");
        }
        assert!(["bad_digest", "bad_manifest"].contains(&code(&sha512, None)));
        assert_eq!(code(r#"{"schemaVersion":1,"layers":[]}"#, None), "unsupported_schema");
        assert_eq!(code(r#"{"schemaVersion":3,"layers":[]}"#, None), "unsupported_schema");
        assert_eq!(code(r#"{"schemaVersion":"2","layers":[]}"#, None), "bad_manifest");
        assert_eq!(code(&manifest(r#""manifests":[],"#), None), "ambiguous_manifest");
        assert_eq!(code(r#"{"schemaVersion":2}"#, None), "ambiguous_manifest");
        assert_eq!(code(&manifest(r#""schemaVersion":2,"#), None), "bad_manifest");
        assert_eq!(code(&manifest(""), Some(media_type::OCI_INDEX)), "ambiguous_manifest");
        let typed = manifest(r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#);
        assert_eq!(code(&typed, Some(media_type::DOCKER_LIST)), "media_type_mismatch");
        let many =
            format!(r#"{{"schemaVersion":2,"config":{LAYER},"layers":[{}]}}"#, vec![LAYER; 513].join(","));
        assert_eq!(code(&many, None), "too_many_layers");
    }
}
