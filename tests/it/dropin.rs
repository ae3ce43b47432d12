//! A stock Higress takes larder: its own chart's plugin server with our image in it, and everything that the stock asks.
//!
//! `dropin/plugin-server.yaml` is what that chart renders; a container of the image is started under exactly that. Two
//! things are put into it which a cluster has and a test has not: a line of /etc/hosts in place of the internet's DNS, by
//! which the public registry's name leads to a registry of the test, and that one's CA in /etc/larder/certs in place of
//! the public certificate, which larder believes without being told (Mozilla's roots are built in). Neither is a
//! variable, an argument or a setting.

use crate::support::artifact::{Artifact, module, raw};
use crate::support::client::{self, Reply};
use crate::support::contained::{Contained, Mount, Options};
use crate::support::envoy::{Envoy, FILTER};
use crate::support::eventually;
use crate::support::gateway;
use crate::support::image::image;
use crate::support::netns;
use crate::support::process;
use crate::support::public::{PUBLIC, Plugin, THERE, catalog, holding, plugin, shaped, world};
use crate::support::registry::Registry;
use larder::oci::Digest;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;

const CHART: &str = include_str!("dropin/plugin-server.yaml");

fn chart() -> serde_json::Value {
    serde_saphyr::from_str(CHART).unwrap()
}

/// Where the first version of the MCP server lies: what a controller names that was told nothing.
const FIRST_MCP_SERVER: Plugin =
    Plugin { name: "mcp-server", repository: "mcp-server/all-in-one", tag: "1.0.0" };

/// A quantity as Kubernetes writes it: bytes, or processors.
fn quantity(text: &str) -> f64 {
    let unit = |suffix, factor: f64| text.strip_suffix(suffix).map(|n| n.parse::<f64>().unwrap() * factor);
    unit("Mi", f64::from(1 << 20)).or_else(|| unit("m", 0.001)).expect("a quantity of the chart")
}

/// The stock plugin server, and the public registry of its world.
struct Stock {
    container: Contained,
    public: Registry,
    _behind: Registry,
}

/// What the chart says of the container, and the name of the public registry; an authority, if the image has none.
fn options(folder: &Path, authority: Option<&Path>) -> Options {
    let hosts = folder.join("hosts");
    std::fs::write(&hosts, format!("127.0.0.1 localhost\n{THERE} {PUBLIC}\n")).unwrap();
    let mount = |from: &Path, to: &str| Mount { from: from.into(), to: to.into(), writable: false };
    let mut mounts = vec![mount(&hosts, "/etc/hosts")];
    mounts.extend(authority.map(|ca| mount(ca, "/etc/larder/certs/public.pem")));
    let chart = chart();
    let limit = |name: &str| quantity(chart["container"]["resources"]["limits"][name].as_str().unwrap());
    Options {
        memory: Some(limit("memory") as u64),
        processors: Some(limit("cpu")),
        mounts,
        // No variables, no arguments, no other user: the chart has none of them.
        ..Options::default()
    }
}

impl Stock {
    fn start(folder: &Path, plugins: &[(Plugin, Artifact)]) -> Self {
        Self::of(folder, holding(plugins))
    }

    fn of(folder: &Path, behind: Registry) -> Self {
        let (pki, public) = world(folder, &behind);
        let container = Contained::start(image(), &options(folder, Some(&pki.ca)));
        Self { container, public, _behind: behind }
    }

    fn address(&self) -> SocketAddr {
        let port = chart()["service"]["target_port"].as_u64().unwrap();
        (self.container.data.ip(), port as u16).into()
    }

    /// As a gateway's agent asks, and again after a 503, as it does.
    fn ask(&self, path: &str) -> Reply {
        eventually(path, || {
            let reply = client::raw(self.address(), gateway::head(path).as_bytes()).unwrap();
            (reply.status != 503).then_some(reply)
        })
    }

    /// Asks for a module, which must be this one.
    fn expect(&self, path: &str, module: &[u8]) -> Reply {
        let reply = self.ask(path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(reply.header("content-type"), "application/wasm");
        assert!(reply.body == module, "{path}: other bytes");
        reply
    }

    /// The most memory that larder had, in bytes.
    fn peak(&self) -> u64 {
        process::peak(self.container.id())
    }
}

/// Whether the test goes on here: in a network of its own, with the image built before.
fn alone(test: &str) -> bool {
    image();
    netns::alone_for(&format!("dropin::{test}"), &[&format!("{THERE}/32")], 300)
}

#[test]
fn the_stock_chart_gives_nothing_that_a_container_could_be_told_by() {
    let chart = chart();
    let container = chart["container"].as_object().unwrap();
    for absent in chart["absent"].as_array().unwrap() {
        assert!(!container.contains_key(absent.as_str().unwrap()), "{absent}");
    }
    assert_eq!(container.keys().collect::<Vec<_>>(), ["name", "ports", "resources"]);
    assert_eq!(
        chart["deployment"]["pod"],
        serde_json::json!(["containers"]),
        "no volumes, no securityContext"
    );
}

#[test]
fn one_place_of_the_image_can_be_named_with_charts_of_before_and_after_february_2026() {
    let chart = chart();
    let set = |name: &str| chart["set"][format!("pluginServer.{name}")].as_str().unwrap().to_owned();
    let rendered = |pattern: &str, hub: &str| {
        let text = chart[pattern].as_str().unwrap().replace("{hub}", hub);
        text.replace("{image}", &set("image")).replace("{tag}", &set("tag"))
    };
    assert_eq!(rendered("image", &set("hub")), "harbor.corp/higress/larder:0.1.0");
    assert_eq!(rendered("image_since_2026", "harbor.corp"), "harbor.corp/higress/larder:0.1.0");
    for guide in guides() {
        for said in ["HUB=harbor.corp/higress", "HUB=harbor.corp\n", "harbor.corp/higress/larder:0.1.0"] {
            assert!(guide.contains(said), "{said}");
        }
    }
}

fn guides() -> [&'static str; 2] {
    [include_str!("../../deploy/guides/higress.md"), include_str!("../../deploy/guides/higress.zh-CN.md")]
}

#[test]
fn the_guides_table_has_the_figures_of_the_stock_chart() {
    let chart = chart();
    let resources = &chart["container"]["resources"];
    let mut figures: Vec<&str> = Vec::new();
    for group in ["requests", "limits"] {
        figures.extend(resources[group].as_object().unwrap().values().map(|value| value.as_str().unwrap()));
    }
    let port = format!("containerPort: {}", chart["container"]["ports"][0]);
    let replicas = format!("replicas: {}", chart["deployment"]["replicas"]);
    figures.extend([port.as_str(), replicas.as_str(), chart["service"]["name"].as_str().unwrap()]);
    let (pattern, url) = chart["console"].as_object().unwrap().iter().next().unwrap();
    for guide in guides() {
        let table: String = guide.lines().filter(|line| line.starts_with('|')).collect();
        assert!(figures.iter().all(|figure| table.contains(figure)), "{figures:?} in {table}");
        assert!(guide.contains(&format!("{pattern}: {}", url.as_str().unwrap())));
    }
}

/// A module about as large as this, which packs to about a third, as modules do.
fn sized(size: usize) -> Vec<u8> {
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    let mut section = module("random", 16 << 10);
    let mut bytes = section.clone();
    // What is behind the header of a module is sections, and those of other ones may follow: a new one, and twice the same.
    for n in 1..size >> 14 {
        if n % 3 == 0 {
            random.read_exact(&mut section[18..]).unwrap();
        }
        bytes.extend_from_slice(&section[8..]);
    }
    bytes
}

#[test]
fn a_gateway_that_starts_gets_the_whole_catalog_at_its_real_size_and_again_without_the_registry() {
    if !alone("a_gateway_that_starts_gets_the_whole_catalog_at_its_real_size_and_again_without_the_registry")
    {
        return;
    }
    let plugins = catalog();
    assert_eq!(plugins.len(), 52);
    // Modules of Go, some of Rust and C++, and a large one: 300 MiB, of which 256 MiB of memory hold nothing like all.
    let size = |n: usize| match n {
        7 => 30 << 20,
        n if n % 4 == 3 => 1 << 20,
        n => (6 << 20) + (n % 5) * (512 << 10),
    };
    let folder = tempfile::tempdir().unwrap();
    let behind = Registry::plain();
    // Only what tells a module is held here, and the registry has the modules.
    let told: Vec<(usize, Digest)> = plugins
        .iter()
        .enumerate()
        .map(|(n, plugin)| {
            let module = sized(size(n));
            behind.push(plugin.repository, plugin.tag, &shaped(n, &module));
            (module.len(), Digest::of(&module))
        })
        .collect();
    let together = told.iter().map(|(size, _)| size).sum::<usize>() >> 20;
    assert!((300..340).contains(&together), "{together} MiB");
    let mut stock = Stock::of(folder.path(), behind);
    // All at once.
    let walk = |stock: &Stock, cached: bool| {
        std::thread::scope(|scope| {
            for (Plugin { name, tag, .. }, (size, digest)) in plugins.iter().zip(&told) {
                scope.spawn(move || {
                    let at = format!("/plugins/{name}/{tag}");
                    let reply = gateway::ask(stock.address(), &format!("{at}/plugin.wasm"));
                    let reply = reply.unwrap_or_else(|met| panic!("{name} is given up on: {met}"));
                    assert_eq!((reply.body.len(), &Digest::of(&reply.body)), (*size, digest), "{name}");
                    assert_eq!(reply.header("content-type"), "application/wasm");
                    assert_eq!(reply.header("larder-match"), "exact", "{name}");
                    assert!(!cached || reply.header("cache-status").contains("hit"), "{name}");
                    let said = stock.ask(&format!("{at}/metadata.txt")).text();
                    let digest = digest.hex();
                    for line in [
                        format!("Plugin Name: {name}\n"),
                        format!("Size: {size} bytes\n"),
                        format!("sha256: {digest}\n"),
                    ] {
                        assert!(said.contains(&line), "{line} in {said}");
                    }
                });
            }
        });
    };
    walk(&stock, false);
    stock.public.stop();
    walk(&stock, true);
    assert_eq!(stock.container.kills(), 0);
    let peak = stock.peak() >> 20;
    assert!(peak < 240, "the peak is {peak} MiB");
}

#[test]
fn a_real_envoy_loads_plugins_through_a_stock_plugin_server() {
    if !alone("a_real_envoy_loads_plugins_through_a_stock_plugin_server") {
        return;
    }
    // One each: it says who it is, and one is as large as those that are made of Go.
    let filters = [("key-auth", "1.0.0", 0), ("ai-proxy", "2.0.1", 6 << 20), ("mcp-server", "2.0.1", 0)];
    let filter = |name: &str, padding: usize| {
        let word = format!("\"{}\"", &name[..3]);
        let mut module = wat::parse_str(FILTER.replace("\"yes\"", &word)).unwrap();
        if padding > 0 {
            // What is behind the header of a module is sections, and those of another one may follow.
            module.extend_from_slice(&self::module(name, padding)[8..]);
        }
        module
    };
    let modules = filters.map(|(name, _, padding)| filter(name, padding));
    let pushed = filters.iter().zip(&modules).enumerate();
    let pushed: Vec<_> = pushed.map(|(n, ((name, ..), module))| (plugin(name), shaped(n, module))).collect();
    let folder = tempfile::tempdir().unwrap();
    let stock = Stock::start(folder.path(), &pushed);
    for ((name, version, _), module) in filters.iter().zip(&modules) {
        let path = format!("/plugins/{name}/{version}/plugin.wasm");
        let sha256 = Digest::of(module).hex();
        let mut envoy = Envoy::start(folder.path(), stock.address(), "", &path, &sha256);
        assert_eq!(envoy.answer().header("x-larder"), &name[..3], "{name}");
    }
    assert_eq!(stock.container.kills(), 0);
}

#[test]
fn what_old_consoles_the_controller_people_and_health_checks_ask_is_answered_by_a_stock_plugin_server() {
    if !alone(
        "what_old_consoles_the_controller_people_and_health_checks_ask_is_answered_by_a_stock_plugin_server",
    ) {
        return;
    }
    let names = ["key-auth", "ai-proxy", "json-converter", "ai-context-limit"];
    let modules = names.map(|name| module(name, 60_000));
    let servers = ["first", "second"].map(|seed| module(seed, 70_000));
    let mut pushed: Vec<_> =
        names.iter().zip(&modules).map(|(name, module)| (plugin(name), shaped(0, module))).collect();
    pushed.push((FIRST_MCP_SERVER, shaped(4, &servers[0])));
    pushed.push((plugin("mcp-server"), shaped(1, &servers[1])));
    let folder = tempfile::tempdir().unwrap();
    let mut stock = Stock::start(folder.path(), &pushed);
    // Before anything was fetched: the health check of Higress's compose file, and people.
    let healthy = |stock: &Stock, port: &str| {
        let check = format!("curl -sf http://127.0.0.1:{port}/");
        stock.container.run(&["sh", "-c", &check]).status.success()
    };
    assert!(healthy(&stock, "8080"));
    assert!(!healthy(&stock, "8081"), "it can say no");
    assert_eq!(stock.ask("/").status, 200);
    let listing = stock.ask("/plugins/").text();
    for Plugin { name, .. } in catalog() {
        assert!(listing.contains(&format!("href=\"{name}/\"")), "{name} in {listing}");
    }
    for down in [false, true] {
        for (name, module) in names.iter().zip(&modules) {
            // Consoles of 2.1.6 to 2.2.3 ask 1.0.0, whatever the tag.
            let reply = stock.expect(&format!("/plugins/{name}/1.0.0/plugin.wasm"), module);
            let tag = plugin(name).tag;
            assert!(reply.header("larder-reference").ends_with(&format!(":{tag}")), "{name}");
            let how = if tag == "1.0.0" { "exact" } else { "fallback" };
            assert_eq!(reply.header("larder-match"), how, "{name}");
            assert_eq!(stock.ask(&format!("/plugins/{name}/1.0.0/metadata.txt")).status, 200);
            stock.expect(&format!("/plugins/{name}.wasm"), module);
        }
        stock.expect("/plugins/jsonrpc-converter/1.0.0/plugin.wasm", &modules[2]);
        // The controller's MCP_SERVER_WASM_IMAGE_URL, as documents have it and as it should be.
        stock.expect("/plugins/mcp-server/1.0.0/plugin.wasm", &servers[0]);
        stock.expect("/plugins/mcp-server/2.0.1/plugin.wasm", &servers[1]);
        assert_eq!(stock.ask("/plugins/key-auth/").status, 200);
        assert!(healthy(&stock, "8080"));
        if !down {
            stock.public.stop();
        }
    }
    // What the guide has `kubectl exec` do, and `kubectl port-forward`, which comes from loopback too.
    let status = stock.container.run(&["larder", "status"]);
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.success(), "{said}{}", String::from_utf8_lossy(&status.stderr));
    assert!(said.contains("ready") && said.contains("6 plugins"), "{said}");
    assert!(client::get(stock.container.admin, "/").text().contains("<html"), "the page");
}

#[test]
fn an_image_of_ones_own_with_settings_as_the_guide_has_it_is_taken_in_the_same_way() {
    if !alone("an_image_of_ones_own_with_settings_as_the_guide_has_it_is_taken_in_the_same_way") {
        return;
    }
    let (folder, context) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mine = module("mine", 50_000);
    let place = Plugin { name: "mine", repository: "team/mine", tag: "3" };
    let behind = holding(&[(place, raw(&mine))]);
    let (pki, public) = world(folder.path(), &behind);
    let put = |name: &str, text: &str| std::fs::write(context.path().join(name), text).unwrap();
    put(
        "larder.yaml",
        "catalog: {builtin: false, template: null, files: [/etc/larder/plugins.properties]}\n",
    );
    put("plugins.properties", &format!("mine=oci://{PUBLIC}/team/mine:3\n"));
    std::fs::copy(&pki.ca, context.path().join("corp-ca.pem")).unwrap();
    let dockerfile = guides()[0].split("```dockerfile ./Dockerfile\n").nth(1).unwrap();
    let derived = image().derived(dockerfile.split("```").next().unwrap(), context.path());
    let container = Contained::start(&derived, &options(folder.path(), None));
    let stock = Stock { container, public, _behind: behind };
    stock.expect("/plugins/mine/3/plugin.wasm", &mine);
    assert_eq!(stock.ask("/plugins/key-auth/2.0.0/plugin.wasm").status, 404, "its settings are in use");
}
