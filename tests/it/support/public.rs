//! The public registry of a test's world: what Higress has there, in the shapes that it has there.

use super::artifact::{
    Artifact, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, TAR_GZIP, artifact, gzip, index, raw, tar,
};
use super::pki::Pki;
use super::registry::{Front, Registry};
use std::net::SocketAddr;
use std::path::Path;

const CATALOG: &str = include_str!("../../../conf/higress-plugins.properties");
pub const PUBLIC: &str = "higress-registry.cn-hangzhou.cr.aliyuncs.com";
/// Where the public registry is in a test's network.
pub const THERE: &str = "10.99.0.1";

/// A line of the catalog.
#[derive(Clone)]
pub struct Plugin {
    pub name: &'static str,
    pub repository: &'static str,
    pub tag: &'static str,
}

/// The plugins that the Console has built in.
pub fn catalog() -> Vec<Plugin> {
    let lines = CATALOG.lines().filter(|line| !line.starts_with('#'));
    let plugins = lines.map(|line| {
        let (name, reference) = line.split_once('=').unwrap();
        let path = reference.strip_prefix("oci://").unwrap().strip_prefix(PUBLIC).unwrap();
        let (repository, tag) = path[1..].split_once(':').unwrap();
        Plugin { name, repository, tag }
    });
    // Not the line of a single version, nor `jsonrpc-converter`, another name for what `json-converter` leads to.
    plugins.filter(|plugin| !plugin.name.contains('@') && plugin.name != "jsonrpc-converter").collect()
}

pub fn plugin(name: &str) -> Plugin {
    catalog().into_iter().find(|plugin| plugin.name == name).unwrap()
}

/// A registry with these plugins, by no name.
pub fn holding(plugins: &[(Plugin, Artifact)]) -> Registry {
    let registry = Registry::plain();
    for (plugin, artifact) in plugins {
        registry.push(plugin.repository, plugin.tag, artifact);
    }
    registry
}

/// The public registry, which has what is behind it; and the authority of its certificate.
pub fn world(folder: &Path, behind: &Registry) -> (Pki, Registry) {
    let pki = Pki::of(folder, "Public CA", PUBLIC);
    let at = SocketAddr::new(THERE.parse().unwrap(), 443);
    let front = Front { tls: Some(&pki), at: Some(at), ..Front::default() };
    let public = behind.with(folder, &front);
    (pki, public)
}

/// A module in one of the shapes that the public registry has, by number.
pub fn shaped(n: usize, module: &[u8]) -> Artifact {
    let unknown = "application/vnd.unknown.config.v1+json";
    let image = "application/vnd.oci.image.config.v1+json";
    let packed = || gzip(&tar(&[("README.md", b"read me"), ("plugin.wasm", module)]));
    let text = |media_type, text: &[u8]| (media_type, text.to_vec());
    match n % 5 {
        0 => artifact(
            OCI_MANIFEST,
            unknown,
            &[
                text("application/vnd.module.wasm.spec.v1+yaml", b"info: {}"),
                text("application/vnd.module.wasm.doc.v1+markdown", b"# doc"),
                (TAR_GZIP, packed()),
            ],
            module,
        ),
        1 => raw(module),
        2 => {
            let layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
            let config = "application/vnd.docker.container.image.v1+json";
            artifact(DOCKER_MANIFEST, config, &[(layer, packed())], module)
        }
        3 => {
            let of = |layer| artifact(OCI_MANIFEST, image, &[(TAR_GZIP, layer)], module);
            let children = [
                ("linux", "arm64", of(gzip(&tar(&[("plugin.wasm", b"\0asm\x01\0\0\0")])))),
                ("linux", "amd64", of(packed())),
            ];
            index(OCI_INDEX, &children, module)
        }
        _ => artifact(
            OCI_MANIFEST,
            "application/vnd.wasm.config.v0+json",
            &[text("application/wasm", module)],
            module,
        ),
    }
}
