//! Which manifest of an index, and which layers of a manifest in which order.

use super::Limits;
use crate::oci::error_code::shown;
use crate::oci::media_type::{LayerKind, layer_kind};
use crate::oci::{Descriptor, Manifest};

/// Why a manifest offers no layer to look at. Each is a 422.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// An index without any child that could be a plugin.
    #[error("the index lists no manifest that could hold a plugin, only {0}")]
    NoChild(String),
    /// No layers at all.
    #[error("the manifest has no layers")]
    NoLayer,
    /// Several layers call themselves a module.
    #[error("{0} layers are typed as wasm modules; which one is meant cannot be known")]
    Ambiguous(usize),
    /// Nothing but documents and the like.
    #[error("no layer can hold a module; the types are {0}")]
    NoWasmLayer(String),
    /// Encrypted or not distributable.
    #[error("the only layers that could hold a module are encrypted or not distributable: {0}")]
    Unreadable(String),
    /// The layer is larger than the largest module.
    #[error("the layer {digest} has {size} bytes; at most {limit} are allowed (limits.module)")]
    TooLarge {
        /// The layer.
        digest: String,
        /// Its size by the manifest, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
}

impl SelectError {
    /// The stable word for this error in answers and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoChild(_) => "no_platform",
            Self::NoLayer => "no_layer",
            Self::Ambiguous(_) => "ambiguous_layer",
            Self::NoWasmLayer(_) => "no_wasm_layer",
            Self::Unreadable(_) => "unsupported_layer",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

/// The child of an index: linux/amd64, else the first that is no attestation. A module has no platform, so any will do;
/// images are built for that one first.
pub fn child(children: &[Descriptor]) -> Result<&Descriptor, SelectError> {
    let usable = || children.iter().filter(|child| !child.is_attestation);
    let is_default = |child: &&Descriptor| {
        child.platform.as_ref().is_some_and(|(os, architecture)| os == "linux" && architecture == "amd64")
    };
    usable().find(is_default).or_else(|| usable().next()).ok_or_else(|| {
        let shown =
            if children.is_empty() { "nothing".into() } else { format!("{} attestations", children.len()) };
        SelectError::NoChild(shown)
    })
}

/// What is thought of each layer, for whoever asks why one was taken.
pub fn told(manifest: &Manifest) -> Vec<String> {
    let mut out = vec![format!("configuration {}", shown(&manifest.config_media_type))];
    out.extend(manifest.layers.iter().take(32).enumerate().map(|(n, layer)| {
        let verdict = match layer_kind(&layer.media_type) {
            LayerKind::Wasm => "typed as a module, so it comes first",
            LayerKind::Perhaps => "may hold a module; the last of these comes first",
            LayerKind::Unreadable => "cannot be read",
            LayerKind::Other => "typed as something else, and passed over",
        };
        format!("layer {n}: {}, {} bytes: {verdict}", shown(&layer.media_type), layer.size)
    }));
    out
}

/// The layers to look at, in order: the one typed as a module, then from the last to the first those whose type does
/// not rule them out. Never empty.
pub fn layers<'m>(manifest: &'m Manifest, limits: &Limits) -> Result<Vec<&'m Descriptor>, SelectError> {
    let of =
        |kind: LayerKind| manifest.layers.iter().filter(move |layer| layer_kind(&layer.media_type) == kind);
    if manifest.layers.is_empty() {
        return Err(SelectError::NoLayer);
    }
    // The same blob listed twice is no riddle.
    let mut modules: Vec<_> = of(LayerKind::Wasm).collect();
    modules.dedup_by_key(|layer| layer.digest);
    if modules.len() > 1 {
        return Err(SelectError::Ambiguous(modules.len()));
    }
    let mut order: Vec<&Descriptor> = modules;
    for layer in of(LayerKind::Perhaps).rev() {
        if !order.iter().any(|known| known.digest == layer.digest) {
            order.push(layer);
        }
    }
    if order.is_empty() {
        let types: Vec<_> = manifest.layers.iter().take(8).map(|layer| shown(&layer.media_type)).collect();
        let unreadable = of(LayerKind::Unreadable).next().is_some();
        let types = types.join(", ");
        return Err(if unreadable {
            SelectError::Unreadable(types)
        } else {
            SelectError::NoWasmLayer(types)
        });
    }
    let limit = limits.module.as_u64();
    match order.iter().position(|layer| layer.size > limit) {
        Some(0) => {
            let (digest, size) = (order[0].digest.to_string(), order[0].size);
            Err(SelectError::TooLarge { digest, size, limit })
        }
        Some(at) => {
            order.truncate(at);
            Ok(order)
        }
        None => Ok(order),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use bytesize::ByteSize;

    const LIMITS: Limits =
        Limits { manifest: ByteSize(1 << 20), module: ByteSize(1000), ratio: 200, tar_entries: 10 };

    fn descriptor(media_type: &str, size: u64) -> Descriptor {
        let digest = Digest::of(format!("{media_type}{size}").as_bytes());
        Descriptor { media_type: media_type.into(), digest, size, platform: None, is_attestation: false }
    }

    fn picked(types: &[&str]) -> Result<Vec<String>, &'static str> {
        let layers = types.iter().enumerate().map(|(n, t)| descriptor(t, n as u64)).collect();
        let manifest = Manifest { config_media_type: String::new(), layers };
        super::layers(&manifest, &LIMITS)
            .map(|order| order.iter().map(|l| l.size.to_string()).collect())
            .map_err(|e| e.code())
    }

    const TAR: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const RAW: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
    const DOC: &str = "application/vnd.module.wasm.doc.v1+markdown";
    const CONFIG: &str = "application/vnd.module.wasm.config.v1+json";
    const EMPTY: &str = "application/vnd.oci.empty.v1+json";

    #[test]
    fn every_shape_of_the_contract_offers_its_layer() {
        for (shape, types, order) in [
            ("A", &[DOC, DOC, TAR][..], &["2"][..]),
            ("B", &[CONFIG, RAW], &["1"]),
            ("C", &[RAW], &["0"]),
            ("D", &[TAR, TAR], &["1", "0"]),
            (
                "E",
                &[
                    "application/vnd.module.wasm.spec.v1+yaml",
                    DOC,
                    "application/vnd.module.wasm.icon.v1+png",
                    TAR,
                ],
                &["3"],
            ),
            ("F", &[DOC, TAR, "application/octet-stream"], &["2", "1"]),
            ("G", &["application/wasm"], &["0"]),
            ("typed first", &[TAR, RAW, TAR], &["1", "2", "0"]),
        ] {
            assert_eq!(picked(types), Ok(order.iter().map(|s| s.to_string()).collect()), "{shape}");
        }
    }

    #[test]
    fn manifests_without_a_usable_layer_say_why() {
        assert_eq!(picked(&[]), Err("no_layer"));
        assert_eq!(picked(&[EMPTY]), Err("no_wasm_layer"));
        assert_eq!(picked(&[RAW, RAW]), Err("ambiguous_layer"));
        assert_eq!(
            picked(&["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]),
            Err("unsupported_layer")
        );
        let manifest = Manifest { config_media_type: String::new(), layers: vec![descriptor(RAW, 1001)] };
        assert_eq!(layers(&manifest, &LIMITS).unwrap_err().code(), "too_large");
    }

    #[test]
    fn an_index_gives_amd64_else_any_child_that_is_no_attestation() {
        let on = |os: &str, arch: &str| Descriptor {
            platform: Some((os.into(), arch.into())),
            ..descriptor(os, 1)
        };
        let attestation = Descriptor { is_attestation: true, ..descriptor("a", 1) };
        let children = [attestation.clone(), on("wasi", "wasm"), on("linux", "amd64")];
        assert_eq!(child(&children), Ok(&children[2]));
        assert_eq!(child(&children[..2]), Ok(&children[1]));
        assert_eq!(child(&[attestation]).unwrap_err().code(), "no_platform");
        assert_eq!(child(&[]).unwrap_err().code(), "no_platform");
    }
}
