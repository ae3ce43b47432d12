//! Artifacts in the shapes that are found in registries (the contract, section 3), and the modules in them.

use larder::oci::Digest;
use std::io::Write;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const RAW: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
pub const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOC: &str = "application/vnd.module.wasm.doc.v1+markdown";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// What is pushed: blobs, manifests that only an index names, and the manifest that gets the tag.
#[derive(Clone)]
pub struct Artifact {
    pub blobs: Vec<Vec<u8>>,
    pub children: Vec<Manifest>,
    pub manifest: Manifest,
    /// What must come out of it.
    pub module: Vec<u8>,
}

#[derive(Clone)]
pub struct Manifest {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

impl Manifest {
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }
}

/// A valid module of exactly `size` bytes whose content depends on `seed` and does not compress away.
pub fn module(seed: &str, size: usize) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    // A custom section: its size in five bytes of LEB128, so that any total can be met.
    let body = size.checked_sub(8 + 1 + 5).expect("a module has at least 16 bytes");
    bytes.push(0);
    for n in 0..5 {
        let more = if n < 4 { 0x80 } else { 0 };
        bytes.push((body >> (7 * n)) as u8 & 0x7f | more);
    }
    bytes.push(4);
    bytes.extend_from_slice(b"seed");
    let mut state = Digest::of(seed.as_bytes());
    while bytes.len() < size {
        bytes.extend_from_slice(state.bytes());
        state = Digest::of(state.bytes());
    }
    bytes.truncate(size);
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}

/// A manifest of `layers` with a configuration of `config`.
pub fn artifact(
    media_type: &'static str,
    config: &str,
    layers: &[(&str, Vec<u8>)],
    module: &[u8],
) -> Artifact {
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor(config, b"{}"),
        "layers": layers.iter().map(|(media_type, bytes)| descriptor(media_type, bytes)).collect::<Vec<_>>(),
    });
    let mut blobs: Vec<_> = layers.iter().map(|(_, bytes)| bytes.clone()).collect();
    blobs.push(b"{}".to_vec());
    let manifest = Manifest { media_type, bytes: serde_json::to_vec(&manifest).unwrap() };
    Artifact { blobs, children: Vec::new(), manifest, module: module.to_vec() }
}

/// One raw layer: the smallest artifact.
pub fn raw(module: &[u8]) -> Artifact {
    artifact(OCI_MANIFEST, EMPTY, &[(RAW, module.to_vec())], module)
}

/// An index of `children`, each with its platform.
pub fn index(media_type: &'static str, children: &[(&str, &str, Artifact)], module: &[u8]) -> Artifact {
    let entries: Vec<_> = children
        .iter()
        .map(|(os, architecture, child)| {
            let mut entry = descriptor(child.manifest.media_type, &child.manifest.bytes);
            entry["platform"] = serde_json::json!({"os": os, "architecture": architecture});
            entry
        })
        .collect();
    let document = serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    Artifact {
        blobs: children.iter().flat_map(|(_, _, child)| child.blobs.clone()).collect(),
        children: children.iter().map(|(_, _, child)| child.manifest.clone()).collect(),
        manifest: Manifest { media_type, bytes: serde_json::to_vec(&document).unwrap() },
        module: module.to_vec(),
    }
}

/// Every shape of the contract that holds a module, by its letter.
pub fn shapes() -> Vec<(&'static str, Artifact)> {
    let wasm = |seed: &str| module(seed, 40_000);
    let packed = |seed: &str| gzip(&tar(&[("README.md", b"read me"), ("plugin.wasm", &wasm(seed))]));
    let doc = || (DOC, b"# doc".to_vec());
    let spec = || ("application/vnd.module.wasm.spec.v1+yaml", b"info: {}".to_vec());
    let unknown = "application/vnd.unknown.config.v1+json";
    let docker_layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let docker_config = "application/vnd.docker.container.image.v1+json";
    let image_config = "application/vnd.oci.image.config.v1+json";
    let image = |seed: &str| artifact(OCI_MANIFEST, image_config, &[(TAR_GZIP, packed(seed))], &wasm(seed));
    let docker =
        |seed: &str| artifact(DOCKER_MANIFEST, docker_config, &[(docker_layer, packed(seed))], &wasm(seed));
    let attestation =
        artifact(OCI_MANIFEST, image_config, &[("application/vnd.in-toto+json", b"{}".to_vec())], b"");
    vec![
        ("a-tar-only", artifact(OCI_MANIFEST, unknown, &[(TAR_GZIP, packed("a0"))], &wasm("a0"))),
        (
            "a-docs-first",
            artifact(OCI_MANIFEST, unknown, &[doc(), spec(), (TAR_GZIP, packed("a1"))], &wasm("a1")),
        ),
        (
            "b-config-and-raw",
            artifact(
                OCI_MANIFEST,
                EMPTY,
                &[("application/vnd.module.wasm.config.v1+json", b"{}".to_vec()), (RAW, wasm("b"))],
                &wasm("b"),
            ),
        ),
        ("c-raw", artifact(OCI_MANIFEST, EMPTY, &[(RAW, wasm("c"))], &wasm("c"))),
        ("d-docker", docker("d0")),
        ("d-image", image("d1")),
        (
            "d-index",
            index(
                OCI_INDEX,
                &[
                    ("unknown", "unknown", attestation.clone()),
                    ("linux", "arm64", image("other")),
                    ("linux", "amd64", image("d2")),
                ],
                &wasm("d2"),
            ),
        ),
        (
            "d-index-without-amd64",
            index(
                OCI_INDEX,
                &[("unknown", "unknown", attestation), ("wasi", "wasm", image("d3"))],
                &wasm("d3"),
            ),
        ),
        ("d-docker-list", index(DOCKER_LIST, &[("linux", "amd64", docker("d4"))], &wasm("d4"))),
        (
            "e-icon",
            artifact(
                OCI_MANIFEST,
                EMPTY,
                &[
                    spec(),
                    doc(),
                    ("application/vnd.module.wasm.icon.v1+png", b"\x89PNG".to_vec()),
                    (TAR_GZIP, packed("e")),
                ],
                &wasm("e"),
            ),
        ),
        (
            "f-last-is-no-archive",
            artifact(
                OCI_MANIFEST,
                unknown,
                &[doc(), (TAR_GZIP, packed("f")), ("application/octet-stream", b"just text".to_vec())],
                &wasm("f"),
            ),
        ),
        (
            "g-raw-typed-as-tar",
            artifact(
                OCI_MANIFEST,
                unknown,
                &[("application/vnd.oci.image.layer.v1.tar", wasm("g0"))],
                &wasm("g0"),
            ),
        ),
        (
            "g-cncf",
            artifact(
                OCI_MANIFEST,
                "application/vnd.wasm.config.v0+json",
                &[("application/wasm", wasm("g1"))],
                &wasm("g1"),
            ),
        ),
        (
            "g-plain-tar",
            artifact(
                OCI_MANIFEST,
                unknown,
                &[(TAR_GZIP, tar(&[("./plugin.wasm", &wasm("g2"))]))],
                &wasm("g2"),
            ),
        ),
        (
            "g-zstd",
            artifact(
                OCI_MANIFEST,
                unknown,
                &[(
                    "application/vnd.oci.image.layer.v1.tar+zstd",
                    zstd::encode_all(&tar(&[("plugin.wasm", &wasm("g3"))])[..], 3).unwrap(),
                )],
                &wasm("g3"),
            ),
        ),
    ]
}

/// Artifacts that hold no usable module, with the code that says so.
pub fn broken() -> Vec<(&'static str, Artifact, &'static str)> {
    let one = |media_type, bytes: &[u8]| artifact(OCI_MANIFEST, EMPTY, &[(media_type, bytes.to_vec())], b"");
    vec![
        ("only-empty", one(EMPTY, b"{}"), "no_wasm_layer"),
        ("no-layers", artifact(OCI_MANIFEST, EMPTY, &[], b""), "no_layer"),
        ("html", one(RAW, b"<html>login</html>"), "not_wasm"),
        ("component", one(RAW, b"\0asm\x0d\0\x01\0"), "wasm_version"),
        ("tar-without", one(TAR_GZIP, &gzip(&tar(&[("README", b"x")]))), "no_plugin_wasm"),
        ("whiteout", one(TAR_GZIP, &gzip(&tar(&[(".wh.plugin.wasm", b"")]))), "no_plugin_wasm"),
        ("damaged-gzip", one(TAR_GZIP, &gzip(&module("x", 5000))[..3000]), "bad_gzip"),
        (
            "two-modules",
            artifact(OCI_MANIFEST, EMPTY, &[(RAW, module("1", 50)), (RAW, module("2", 50))], b""),
            "ambiguous_layer",
        ),
        (
            "encrypted",
            one("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", b"x"),
            "unsupported_layer",
        ),
        ("bomb", one(TAR_GZIP, &bomb()), "unpacked_too_large"),
    ]
}

/// 300 MiB of zeros behind a module's header, in 300 kB.
fn bomb() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(b"\0asm\x01\0\0\0").unwrap();
    for _ in 0..300 {
        encoder.write_all(&[0; 1 << 20]).unwrap();
    }
    encoder.finish().unwrap()
}
