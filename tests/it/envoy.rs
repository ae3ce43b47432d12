//! A real Envoy loads its filter from us and runs it.

use crate::support::artifact::{OCI_MANIFEST, TAR_GZIP, artifact, gzip, tar};
use crate::support::eventually;
use crate::support::larder::Larder;
use crate::support::registry::Registry;
use crate::support::{client, larder as program};
use larder::oci::Digest;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A Proxy-Wasm filter, smallest: it adds `x-larder: yes` to every response.
const FILTER: &str = r#"(module
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $next (mut i32) (i32.const 1024))
  (data (i32.const 16) "x-larder")
  (data (i32.const 32) "yes")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "_initialize"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $next))
    (global.set $next (i32.add (global.get $next) (local.get $size)))
    (local.get $at))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (drop (call $add (i32.const 2) (i32.const 16) (i32.const 8) (i32.const 32) (i32.const 3)))
    (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_delete") (param i32)))"#;

/// A running Envoy. Ended when dropped.
struct Envoy {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Envoy {
    fn start(folder: &Path, larder: &Larder, path: &str, sha256: &str) -> Self {
        // A port that was free a moment ago: Envoy cannot be asked which one it got before its listener is warm.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = folder.join("envoy.yaml");
        std::fs::write(&settings, configuration(address, larder.data, path, sha256)).unwrap();
        let log = folder.join("envoy.log");
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/envoy/_bin/envoy");
        let child = Command::new(&binary)
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "info", "-c"])
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}; make test installs it", binary.display()));
        Self { child, address, log }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(listen: SocketAddr, larder: SocketAddr, path: &str, sha256: &str) -> String {
    let cluster = format!(
        "{{name: larder, type: STATIC, connect_timeout: 5s, load_assignment: {{cluster_name: larder, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]}}}}",
        larder.ip(),
        larder.port()
    );
    format!(
        r#"
static_resources:
  listeners:
  - address: {{socket_address: {{address: {ip}, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                direct_response: {{status: 200, body: {{inline_string: through}}}}
          http_filters:
          - name: envoy.filters.http.wasm
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: test
                fail_open: false
                vm_config:
                  vm_id: test
                  runtime: envoy.wasm.runtime.v8
                  code:
                    remote:
                      sha256: "{sha256}"
                      http_uri: {{uri: "http://plugins.test{path}", cluster: larder, timeout: 15s}}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - {cluster}
"#,
        ip = listen.ip(),
        port = listen.port(),
    )
}

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
    let mut envoy = Envoy::start(folder.path(), &larder, "/plugins/add-header/1.0.0/plugin.wasm", &sha256);
    let reply = eventually("Envoy answering with its filter", || {
        if let Ok(Some(status)) = envoy.child.try_wait() {
            panic!("Envoy ended: {status}\n{}", std::fs::read_to_string(&envoy.log).unwrap());
        }
        client::connect(envoy.address).ok()?;
        let reply = client::get(envoy.address, "/");
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(reply.header("x-larder"), "yes");
    assert_eq!(reply.body, b"through");
    let line = larder
        .log()
        .into_iter()
        .find(|line| line["path"] == "/plugins/add-header/1.0.0/plugin.wasm" && line["status"] == 200);
    assert!(line.is_some(), "it came from here");
    let metadata = larder.get("/plugins/add-header/1.0.0/metadata.txt").text();
    assert!(metadata.contains("abi: 0.2.1\n"), "{metadata}");
}
