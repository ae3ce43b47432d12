//! Media types: which documents we ask for, and what a layer's type says about it.
//!
//! A media type is a hint, never a proof: the bytes are sniffed all the same (`artifact::extract`).

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The `Accept` of every manifest request. A registry that does not find its document's type here answers 404, or
/// converts the document and so changes its digest; hence all four, always.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// What a layer's media type says about its use for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// Typed as a Wasm module.
    Wasm,
    /// An archive, or of a type that says nothing: worth a look.
    Perhaps,
    /// Documents, icons, configuration: never a module.
    Other,
    /// Encrypted or not to be distributed: cannot be read.
    Unreadable,
}

/// Sorts a layer's media type. Parameters (`; charset=…`) and case do not count.
pub fn layer_kind(media_type: &str) -> LayerKind {
    let bare = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if bare.ends_with("+encrypted") || bare.contains("nondistributable") || bare.contains(".foreign.") {
        return LayerKind::Unreadable;
    }
    if bare == "application/wasm" || bare.ends_with("+wasm") || bare.contains(".wasm.content.") {
        return LayerKind::Wasm;
    }
    let document = bare.starts_with("text/") || bare.starts_with("image/");
    let suffix =
        ["+markdown", "+yaml", "+json", "+png", "+jpeg", "+svg"].iter().any(|end| bare.ends_with(end));
    let part = ["wasm.doc.", "wasm.spec.", "wasm.icon.", "wasm.config.", "vnd.oci.empty."]
        .iter()
        .any(|p| bare.contains(p));
    if document || suffix || part { LayerKind::Other } else { LayerKind::Perhaps }
}

#[cfg(test)]
mod tests {
    use super::LayerKind::*;
    use super::*;

    #[test]
    fn the_types_of_the_contract_are_sorted() {
        for (media_type, kind) in [
            ("application/vnd.module.wasm.content.layer.v1+wasm", Wasm),
            ("application/vnd.wasm.content.layer.v1+wasm", Wasm),
            ("application/wasm", Wasm),
            ("Application/Wasm; a=b", Wasm),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Perhaps),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Perhaps),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Perhaps),
            ("application/octet-stream", Perhaps),
            ("", Perhaps),
            ("application/vnd.module.wasm.doc.v1+markdown", Other),
            ("application/vnd.module.wasm.doc.v1.zh+markdown", Other),
            ("application/vnd.module.wasm.spec.v1+yaml", Other),
            ("application/vnd.module.wasm.icon.v1+png", Other),
            ("application/vnd.module.wasm.config.v1+json", Other),
            ("application/vnd.oci.empty.v1+json", Other),
            ("application/vnd.in-toto+json", Other),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", Unreadable),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Unreadable),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Unreadable),
        ] {
            assert_eq!(layer_kind(media_type), kind, "{media_type}");
        }
    }
}
