//! A real Envoy loads its filter from us and runs it.

use crate::support::artifact::{OCI_MANIFEST, TAR_GZIP, artifact, gzip, tar};
use crate::support::envoy::{Envoy, FILTER};
use crate::support::eventually;
use crate::support::larder as program;
use crate::support::pki::{self, Pki};
use crate::support::registry::Registry;
use larder::oci::Digest;

#[test]
fn envoy_loads_a_filter_from_larder_and_its_header_is_seen() {
    let filter = wat::parse_str(FILTER).unwrap();
    let layer = gzip(&tar(&[("plugin.wasm", &filter)]));
    let registry = Registry::plain();
    registry.push(
        "plugins/add-header",
        "1.0.0",
        &artifact(OCI_MANIFEST, "application/vnd.unknown.config.v1+json", &[(TAR_GZIP, layer)], &filter),
    );
    let home = program::Home::new(&program::settings(&registry.host()));
    let folder = tempfile::tempdir().unwrap();
    let larder = home.start();
    let sha256 = Digest::of(&filter).hex();
    let mut envoy =
        Envoy::start(folder.path(), larder.data, "", "/plugins/add-header/1.0.0/plugin.wasm", &sha256);
    let reply = envoy.answer();
    assert_eq!(reply.header("x-larder"), "yes");
    assert_eq!(reply.body, b"through");
    larder.line("that it came from here", |line| {
        line["path"] == "/plugins/add-header/1.0.0/plugin.wasm" && line["status"] == 200
    });
    let metadata = larder.get("/plugins/add-header/1.0.0/metadata.txt").text();
    assert!(metadata.contains("abi: 0.2.1\n"), "{metadata}");
}

#[test]
fn envoy_loads_a_private_filter_over_https_with_its_certificate() {
    let filter = wat::parse_str(FILTER).unwrap();
    let layer = gzip(&tar(&[("plugin.wasm", &filter)]));
    let registry = Registry::plain();
    let artifact =
        artifact(OCI_MANIFEST, "application/vnd.unknown.config.v1+json", &[(TAR_GZIP, layer)], &filter);
    registry.push("plugins/add-header", "1.0.0", &artifact);
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let identity = pki::Client { common: "envoy", uri: Some("spiffe://corp/gateway"), ..Default::default() };
    let (certificate, key) = pki.client(folder.path(), &identity);
    let home = program::Home::new(&format!(
        "{}tls: {{data: {{certificate: '{}', key: '{}', client_ca: ['{ca}'], client_certificate: required}}}}\n\
         access: {{rules: [{{plugins: ['*'], client_certificates: ['spiffe://corp/gateway']}}]}}\n",
        program::settings(&registry.host()),
        pki.certificate.display(),
        pki.key.display(),
        ca = pki.ca.display(),
    ));
    let larder = home.start();
    // As over HTTP/1.1, and with HTTP/2 where both agree on it.
    for protocols in ["", ", alpn_protocols: [h2, http/1.1]"] {
        let socket = format!(
            ", typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, {}}}}}, \
             transport_socket: {{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: localhost, \
             common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: '{}'}}, private_key: {{filename: '{}'}}}}], \
             validation_context: {{trusted_ca: {{filename: '{}'}}, match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: localhost}}}}]}}{protocols}}}}}}}",
            if protocols.is_empty() {
                "explicit_http_config: {http_protocol_options: {}}"
            } else {
                "auto_config: {}"
            },
            certificate.display(),
            key.display(),
            pki.ca.display(),
        );
        let sha256 = Digest::of(&filter).hex();
        let path = "/plugins/add-header/1.0.0/plugin.wasm";
        let mut envoy = Envoy::start(folder.path(), larder.data, &socket, path, &sha256);
        let reply = envoy.answer();
        assert_eq!(reply.header("x-larder"), "yes", "{protocols}");
    }
    let asked = |line: &serde_json::Value| line["path"] == "/plugins/add-header/1.0.0/plugin.wasm";
    eventually("both of Envoy's requests", || {
        let lines: Vec<_> = larder.log().into_iter().filter(asked).collect();
        assert!(lines.iter().all(|line| line["status"] == 200), "{lines:?}");
        (lines.len() >= 2).then_some(())
    });
}
