//! A site without a network: its plugins come in one file, and the kernel counts that nothing goes out.
//!
//! The two sites are two networks. In one is the public registry, and here the file is written. In the other everything
//! is ready to go out - the registry's name has an address, a cable leads there, its certificate is believed - so that
//! whoever tries would be answered, and counted.

use crate::support::artifact::module;
use crate::support::dns::{Answer, Dns};
use crate::support::larder::{Home, Larder};
use crate::support::netns::{self, Beside, packets};
use crate::support::public::{PUBLIC, Plugin, THERE, catalog, holding, shaped, world};
use crate::support::registry::Registry;
use crate::support::{client, eventually};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What only a larder with a network of its own and nobody to ask can be told.
const OFFLINE: &str = "policy: {mode: offline}\n";

/// Both sites, and what is at the first of them.
struct Sites {
    gapped: Beside,
    plugins: Vec<(Plugin, Vec<u8>)>,
    /// The one file.
    bundle: PathBuf,
    /// As both sites have them.
    settings: String,
    folder: TempDir,
    _registries: [Registry; 2],
    _dns: Dns,
}

fn dns() -> Dns {
    Dns::start("127.0.0.1:53", |_, _, _| Answer::Addresses(vec![THERE.parse().unwrap()]))
}

impl Sites {
    /// The first site's work is done: all that the catalog lists lies in a file.
    fn new() -> Self {
        let plugins: Vec<_> =
            catalog().into_iter().map(|plugin| (plugin.clone(), module(plugin.name, 20_000))).collect();
        assert_eq!(plugins.len(), 52);
        let shapes = plugins.iter().enumerate();
        let behind = holding(
            &shapes.map(|(n, (plugin, module))| (plugin.clone(), shaped(n, module))).collect::<Vec<_>>(),
        );
        let folder = tempfile::tempdir().unwrap();
        let (pki, public) = world(folder.path(), &behind);
        let dns = dns();
        let settings =
            format!("server: {{drain: 0s}}\nregistry: {{certs: [], ca: ['{}']}}\n", pki.ca.display());
        let bundle = folder.path().join("plugins.tar.zst");
        let told = run(&Home::in_memory(&settings), &["export", "--all", "-o", bundle.to_str().unwrap()]);
        assert!(told.contains("52 plugins written"), "{told}");
        let gapped = Beside::new();
        gapped.within(count_packets);
        Self { gapped, plugins, bundle, settings, folder, _registries: [behind, public], _dns: dns }
    }

    /// Every plugin is served as the registry has it, and from what is held.
    fn all_are_served(&self, larder: &Larder) {
        for (Plugin { name, tag, .. }, module) in &self.plugins {
            let reply = larder.get(&format!("/plugins/{name}/{tag}/plugin.wasm"));
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
            assert!(&reply.body == module, "{name}: other bytes");
            assert!(
                reply.header("cache-status").contains("; hit"),
                "{name}: {}",
                reply.header("cache-status")
            );
        }
    }
}

/// Whatever leaves the site: what goes over the cable, and what is asked of a name server, wherever that is. What the
/// kernel has to say to its neighbours by itself is left out.
fn count_packets() {
    netns::nft(
        "table inet test {
            counter out { }
            chain out { type filter hook output priority 0;
                meta l4proto { tcp, udp } th dport 53 counter name out
                oif lo accept
                icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
                counter name out
            }
        }",
    );
}

fn run(home: &Home, words: &[&str]) -> String {
    let output = home.command(&[]).args(words).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words:?}: {text}");
    text
}

fn carried(from: &Path, folder: &Path) -> String {
    let to = folder.join("plugins.tar.zst");
    std::fs::copy(from, &to).unwrap();
    to.to_str().unwrap().to_owned()
}

#[test]
fn all_52_plugins_cross_the_gap_in_one_file_and_an_offline_larder_sends_no_packet_for_them() {
    if !netns::alone_for(
        "airgap::all_52_plugins_cross_the_gap_in_one_file_and_an_offline_larder_sends_no_packet_for_them",
        &["10.99.0.1/32"],
        300,
    ) {
        return;
    }
    let sites = Sites::new();
    sites.gapped.within(|| {
        let dns = dns();
        let larder = Home::in_memory(&format!("{}{OFFLINE}", sites.settings)).start();
        let miss = larder.get("/plugins/key-auth/2.0.0/plugin.wasm");
        assert_eq!((miss.status, &miss.json()["code"]), (404, &"offline".into()), "{}", miss.text());
        let file = carried(&sites.bundle, larder.home.path());
        let told = run(&larder.home, &["import", &file, "--admin", &format!("http://{}", larder.admin)]);
        assert!(told.contains("52 plugins imported"), "{told}");
        sites.all_are_served(&larder);
        sites.all_are_served(&larder);
        let home = leave(larder);
        nobody_is_asked_by_a_command(&format!("{}{OFFLINE}", sites.settings));
        assert_eq!((packets("out"), dns.count(PUBLIC)), (0, 0), "nothing went out");

        // The counter counts, and the way is open for whoever is not told to stay.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"deliberately", (THERE, 9)).unwrap();
        assert_eq!(packets("out"), 1);
        drop(home);
        let (Plugin { name, tag, .. }, module) = &sites.plugins[0];
        let fetched =
            Home::in_memory(&sites.settings).start().get(&format!("/plugins/{name}/{tag}/plugin.wasm"));
        assert_eq!((fetched.status, &fetched.body), (200, module), "{}", fetched.text());
        assert!(packets("out") > 1 && dns.count(PUBLIC) > 0);
    });
}

#[test]
fn a_bundle_in_a_mounted_folder_is_all_that_an_offline_larder_needs_at_its_start() {
    if !netns::alone_for(
        "airgap::a_bundle_in_a_mounted_folder_is_all_that_an_offline_larder_needs_at_its_start",
        &["10.99.0.1/32"],
        300,
    ) {
        return;
    }
    let sites = Sites::new();
    let mounted = sites.folder.path().join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    carried(&sites.bundle, &mounted);
    sites.gapped.within(|| {
        let dns = dns();
        let text = format!(
            "{}{OFFLINE}import: {{dir: '{}'}}\nwarm_up: {{plugins: [all], ready_when: warmed}}\n",
            sites.settings,
            mounted.display()
        );
        let mut larder = Home::in_memory(&text).start();
        for _ in 0..2 {
            eventually("the start's end", || {
                (client::get(larder.admin, "/readyz").status == 200).then_some(())
            });
            sites.all_are_served(&larder);
            larder = leave(larder).start();
        }
        assert_eq!((packets("out"), dns.count(PUBLIC)), (0, 0), "nothing went out");
    });
}

/// Commands that ask registries say that they do not.
fn nobody_is_asked_by_a_command(settings: &str) {
    let home = Home::in_memory(settings);
    let file = home.path().join("offline.tar");
    for words in [
        &["get", "key-auth", "2.0.0"][..],
        &["explain", "key-auth"],
        &["prefetch", "--all"],
        &["export", "--all", "-o", file.to_str().unwrap()],
        &["copy", "key-auth", "--to", &format!("{PUBLIC}/ours")],
    ] {
        let output = home.command(&[]).args(words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(!output.status.success() && text.contains("policy.mode"), "{words:?}: {text}");
    }
}

/// Ended in order, and its folder for another start.
fn leave(mut larder: Larder) -> Home {
    larder.signal("TERM");
    assert_eq!(larder.wait().code(), Some(0), "{}", larder.log_text());
    larder.kill()
}
