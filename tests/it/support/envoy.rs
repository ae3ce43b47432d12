//! A real Envoy that loads one plugin and runs it, and the plugin.

use super::port::Port;
use super::{client, eventually};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A Proxy-Wasm filter, smallest: it adds `x-larder: yes` to every response.
pub const FILTER: &str = r#"(module
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
pub struct Envoy {
    child: Child,
    port: Port,
    log: PathBuf,
}

impl Envoy {
    /// With the plugin at `path` of the larder at `larder`, whose cluster has `socket` besides.
    pub fn start(folder: &Path, larder: SocketAddr, socket: &str, path: &str, sha256: &str) -> Self {
        // Envoy cannot be asked which one it got before its listener is warm.
        let port = Port::kept();
        let settings = folder.join("envoy.yaml");
        std::fs::write(&settings, configuration(port.address, larder, socket, path, sha256)).unwrap();
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
        Self { child, port, log }
    }

    /// What it answers once its filter runs.
    pub fn answer(&mut self) -> client::Reply {
        eventually("Envoy answering with its filter", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("Envoy ended: {status}\n{}", std::fs::read_to_string(&self.log).unwrap());
            }
            client::connect(self.port.address).ok()?;
            let reply = client::get(self.port.address, "/");
            (reply.status == 200).then_some(reply)
        })
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(listen: SocketAddr, larder: SocketAddr, socket: &str, path: &str, sha256: &str) -> String {
    let cluster = format!(
        "{{name: larder, type: STATIC, connect_timeout: 5s, load_assignment: {{cluster_name: larder, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]}}{socket}}}",
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
