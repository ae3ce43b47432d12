//! Names, packets and proxies that fail, in a network of the test's own: what is never contacted is proved by the kernel.

use crate::support::artifact::{module, raw};
use crate::support::client::Reply;
use crate::support::dns::{Answer, Dns};
use crate::support::egress::Squid;
use crate::support::eventually;
use crate::support::larder::{Home, Larder};
use crate::support::netns::{self, packets};
use crate::support::scripted::Scripted;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const PATH: &str = "/plugins/waf/1/plugin.wasm";
const HERE: &str = "10.99.0.1";

fn code(reply: &Reply) -> (u16, String) {
    (reply.status, reply.json()["code"].as_str().unwrap_or_default().to_owned())
}

/// A larder whose plugins lie at `registry`, with lines below `registry:`.
fn before(registry: &str, more: &str) -> Larder {
    Home::new(&format!(
        "catalog: {{builtin: false, fallback: false, template: '{registry}/plugins/{{name}}:{{version}}'}}\n\
         server: {{drain: 0s}}\nlifetimes: {{transient: 0s, tag: 0s}}\n\
         registry:\n  certs: []\n  plain_http: ['{registry}']\n{more}"
    ))
    .start()
}

/// A scripted registry on the address that names resolve to, with `waf` 1.
fn registry() -> (Scripted, Vec<u8>) {
    let registry = Scripted::start_at(HERE);
    let bytes = module("waf", 20_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    (registry, bytes)
}

fn here() -> Answer {
    Answer::Addresses(vec![HERE.parse().unwrap()])
}

#[test]
fn names_that_do_not_resolve_are_a_502_for_what_is_new_and_nothing_to_what_is_held() {
    if !netns::alone(
        "network::names_that_do_not_resolve_are_a_502_for_what_is_new_and_nothing_to_what_is_held",
        &["10.99.0.1/32"],
    ) {
        return;
    }
    let (registry, bytes) = registry();
    let dns = Dns::start("127.0.0.1:53", |_, _, _| here());
    // No connection is kept, so that every question needs the name.
    registry.script(|_, truth| truth.header("Connection", "close"));
    let name = format!("r.test:{}", registry.address.port());
    let larder = before(&name, "  connect_timeout: 2s\n");
    assert_eq!(larder.get(PATH).body, bytes);
    for answer in ["nxdomain", "servfail", "silence", "slow"] {
        dns.script(move |_, _, _| match answer {
            "nxdomain" => Answer::NxDomain,
            "servfail" => Answer::ServFail,
            "slow" => Answer::After(Duration::from_millis(900), Box::new(Answer::ServFail)),
            _ => Answer::Silence,
        });
        let begun = Instant::now();
        let cold = larder.get(&format!("/plugins/{answer}/1/plugin.wasm"));
        assert!(begun.elapsed() < Duration::from_secs(12), "{answer}: {:?}", begun.elapsed());
        assert_eq!(code(&cold), (502, "dns".into()), "{answer}: {}", cold.text());
        assert!(cold.json()["hint"].as_str().unwrap().contains("resolve"), "{}", cold.text());
        let warm = larder.get(PATH);
        assert_eq!((warm.status, &warm.body), (200, &bytes), "{answer}");
    }
    assert!(larder.metric(&format!("larder_fills_total{{registry=\"{name}\",result=\"dns\"}}")) >= 3.0);
    eventually("a line in the log", || larder.log().iter().any(|line| line["code"] == "dns").then_some(()));
    // Slow, and then right.
    dns.script(|_, _, _| Answer::After(Duration::from_millis(700), Box::new(here())));
    eventually("a plugin in spite of slow names", || {
        (larder.get("/plugins/waf/1.wasm").body == bytes).then_some(())
    });
}

#[test]
fn an_address_that_is_dead_costs_less_than_a_second_where_the_other_family_answers() {
    if !netns::alone(
        "network::an_address_that_is_dead_costs_less_than_a_second_where_the_other_family_answers",
        &["10.99.0.1/32", "fd99::1/128"],
    ) {
        return;
    }
    netns::nft(
        "table inet test { chain in { type filter hook input priority 0; ip6 daddr fd99::1 drop\n}\n}",
    );
    let (registry, bytes) = registry();
    let dead: IpAddr = "fd99::1".parse().unwrap();
    let _dns = Dns::start(
        "127.0.0.1:53",
        move |_, is_aaaa, _| if is_aaaa { Answer::Addresses(vec![dead]) } else { here() },
    );
    // In order, the dead one would take all of the time for a connection, and of this test.
    let patient = "  attempts: 1\n  connect_timeout: 25s\nfill: {hold: 50s}\n";
    let larder = before(&format!("r.test:{}", registry.address.port()), patient);
    let begun = Instant::now();
    assert_eq!(larder.get(PATH).body, bytes);
    assert!(begun.elapsed() < Duration::from_secs(20), "two connections at most: {:?}", begun.elapsed());
}

#[test]
fn a_name_that_comes_to_mean_a_metadata_service_or_this_machine_is_never_connected_to() {
    if !netns::alone(
        "network::a_name_that_comes_to_mean_a_metadata_service_or_this_machine_is_never_connected_to",
        &["10.99.0.1/32", "169.254.169.254/32", "100.100.100.200/32", "fd00:ec2::254/128", "fe80::99/128"],
    ) {
        return;
    }
    netns::nft(
        "table inet test {
            counter forbidden { }
            chain out { type filter hook output priority 0;
                ip daddr { 169.254.0.0/16, 100.100.100.200 } counter name forbidden
                ip6 daddr { fd00:ec2::254, fe80::/10 } meta l4proto tcp counter name forbidden
                ip daddr 127.0.0.1 tcp dport 8443 counter name forbidden
            }
        }",
    );
    let (registry, bytes) = registry();
    let dns = Dns::start("127.0.0.1:53", |_, _, _| here());
    let name = format!("r.test:{}", registry.address.port());
    let larder = before(&name, "  attempts: 1\n");
    assert_eq!(larder.get(PATH).body, bytes);
    for (n, address) in [
        "169.254.169.254",
        "127.0.0.1",
        "100.100.100.200",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fd00:ec2::254",
        "fe80::99",
        "::1",
    ]
    .into_iter()
    .enumerate()
    {
        let address: IpAddr = address.parse().unwrap();
        dns.script(move |_, is_aaaa, _| match is_aaaa == address.is_ipv6() {
            true => Answer::Addresses(vec![address]),
            false => Answer::Addresses(vec![]),
        });
        // Connections that are open already are to the right one; a new registry of the same kind has none.
        let fresh = before(&format!("r{n}.test:8443"), "  attempts: 1\n");
        let reply = fresh.get(PATH);
        assert_eq!(code(&reply), (502, "address_refused".into()), "{address}: {}", reply.text());
        let told = || fresh.log().iter().any(|line| line["code"] == "address_refused");
        eventually("a line in the log", || told().then_some(()));
        let label = format!("larder_fills_total{{registry=\"r{n}.test:8443\",result=\"address_refused\"}}");
        assert_eq!(fresh.metric(&label), 1.0);
    }
    // The same name, a second time, in the same process.
    registry.script(|_, truth| truth.header("Connection", "close"));
    dns.script(|_, _, _| here());
    let rebound = before(&name, "  attempts: 1\n");
    assert_eq!(rebound.get(PATH).body, bytes);
    dns.script(|_, is_aaaa, _| {
        Answer::Addresses(if is_aaaa { vec![] } else { vec!["169.254.169.254".parse().unwrap()] })
    });
    let reply = rebound.get("/plugins/other/1/plugin.wasm");
    assert_eq!(code(&reply), (502, "address_refused".into()), "{}", reply.text());
    assert_eq!(rebound.get(PATH).body, bytes, "what is held goes on");
    registry.heal();
    assert_eq!(packets("forbidden"), 0, "the kernel saw no packet to them");
    // One good address does not hide a bad one.
    dns.script(|_, is_aaaa, _| match is_aaaa {
        false => Answer::Addresses(vec![HERE.parse().unwrap(), "169.254.169.254".parse().unwrap()]),
        true => Answer::Addresses(vec![]),
    });
    let reply = before("both.test:8443", "").get(PATH);
    assert_eq!(code(&reply), (502, "address_refused".into()), "{}", reply.text());
    assert_eq!(packets("forbidden"), 0);
    assert_eq!(larder.get(PATH).status, 200);
    // What is meant can be allowed.
    dns.script(|_, is_aaaa, _| {
        Answer::Addresses(if is_aaaa { vec![] } else { vec!["169.254.169.254".parse().unwrap()] })
    });
    let allowed = Scripted::start_at("169.254.169.254");
    allowed.put("plugins/waf", "1", &raw(&bytes));
    let name = format!("meant.test:{}", allowed.address.port());
    assert_eq!(before(&name, "  allow_addresses: [169.254.169.254/32]\n").get(PATH).body, bytes);
}

#[test]
fn resets_and_lost_packets_are_survived_or_told_in_time_and_leave_no_descriptor_open() {
    if !netns::alone(
        "network::resets_and_lost_packets_are_survived_or_told_in_time_and_leave_no_descriptor_open",
        &["10.99.0.1/32"],
    ) {
        return;
    }
    let (registry, _) = registry();
    let _dns = Dns::start("127.0.0.1:53", |_, _, _| here());
    for n in 0..30 {
        registry.put(&format!("plugins/p{n}"), "1", &raw(&module(&n.to_string(), 5000)));
    }
    let port = registry.address.port();
    let larder = before(&format!("r.test:{port}"), "  connect_timeout: 3s\n");
    let open = || std::fs::read_dir(format!("/proc/{}/fd", larder.id())).unwrap().count();
    let rest = open();
    netns::nft(&format!(
        "table inet test {{ chain in {{ type filter hook input priority 0; tcp dport {port} reject with tcp reset\n}}\n}}"
    ));
    let begun = Instant::now();
    let reply = larder.get("/plugins/p0/1/plugin.wasm");
    assert_eq!(code(&reply), (502, "connect".into()), "{}", reply.text());
    assert!(begun.elapsed() < Duration::from_secs(12));
    // Every fifth beginning of a connection is lost.
    netns::nft(&format!(
        "flush table inet test
         table inet test {{ chain in {{ tcp dport {port} tcp flags & (syn|ack) == syn numgen random mod 100 < 20 drop\n}}\n}}"
    ));
    std::thread::scope(|scope| {
        for n in 0..30 {
            let larder = &larder;
            scope.spawn(move || {
                let begun = Instant::now();
                let reply = larder.get(&format!("/plugins/p{n}/1/plugin.wasm"));
                assert!(matches!(reply.status, 200 | 502 | 503 | 504), "{}", reply.text());
                assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
            });
        }
    });
    netns::nft("flush table inet test");
    eventually("every plugin", || {
        (0..30).all(|n| larder.get(&format!("/plugins/p{n}/1/plugin.wasm")).status == 200).then_some(())
    });
    // What is kept open for the next question is bounded.
    eventually("descriptors being closed", || (open() <= rest + 12).then_some(()));
}

#[test]
fn with_an_egress_proxy_the_registry_is_never_contacted_directly_and_without_it_never_through() {
    if !netns::alone(
        "network::with_an_egress_proxy_the_registry_is_never_contacted_directly_and_without_it_never_through",
        &["10.99.0.1/32", "10.99.0.2/32"],
    ) {
        return;
    }
    let (outer, bytes) = registry();
    let inner = Scripted::start_at("10.99.0.2");
    inner.put("plugins/own", "1", &raw(&bytes));
    let dns = Dns::start("127.0.0.1:53", |_, _, _| here());
    let squid = Squid::open();
    let (port, inner_port) = (outer.address.port(), inner.address.port());
    // Squid runs as a user of its own, so the kernel can tell whose connection it is.
    netns::nft(&format!(
        "table inet test {{
            counter direct {{ }}
            counter through {{ }}
            chain out {{ type filter hook output priority 0;
                tcp dport {port} tcp flags & (syn|ack) == syn meta skuid 0 counter name direct
                tcp dport {inner_port} tcp flags & (syn|ack) == syn meta skuid != 0 counter name through
            }}
        }}"
    ));
    let proxy = format!("  proxy: {{url: 'http://{}'}}\n", squid.address);
    let rules = format!(
        "  plain_http: ['10.99.0.1:{port}', '10.99.0.2:{inner_port}']\n{proxy}  hosts:\n    '10.99.0.2:{inner_port}': {{proxy: {{url: direct}}}}\n"
    );
    let text = format!(
        "catalog:\n  builtin: false\n  template: '10.99.0.1:{port}/plugins/{{name}}:{{version}}'\n  plugins:\n    own: {{repositories: ['10.99.0.2:{inner_port}/plugins/own']}}\n\
         server: {{drain: 0s}}\nregistry:\n  certs: []\n  attempts: 1\n{rules}"
    );
    let larder = Home::new(&text).start();
    assert_eq!(larder.get(PATH).body, bytes);
    assert_eq!(larder.get("/plugins/own/1/plugin.wasm").body, bytes);
    assert_eq!(
        (packets("direct"), packets("through")),
        (0, 0),
        "one region by the proxy, the other directly"
    );
    let outer_host = format!("10.99.0.1:{port}");
    eventually("the request in squid's log", || squid.log().contains(&outer_host).then_some(()));
    for ask in outer.asked() {
        assert!(!ask.headers.contains_key("proxy-authorization"));
    }
    // A proxy that is down is no reason to go past it.
    drop(squid);
    let reply = larder.get("/plugins/new/1/plugin.wasm");
    assert_eq!(code(&reply), (502, "proxy_connect".into()), "{}", reply.text());
    assert_eq!(packets("direct"), 0);
    // One that does not even refuse is told as the proxy too.
    netns::nft("table inet test { chain in { type filter hook input priority 0; tcp dport 3128 drop\n}\n}");
    let begun = Instant::now();
    let silent = before(
        "silent.test:5000",
        "  attempts: 1\n  connect_timeout: 1s\n  proxy: {url: 'http://127.0.0.1:3128'}\n",
    );
    let reply = silent.get(PATH);
    assert_eq!(code(&reply), (502, "proxy_connect".into()), "{}", reply.text());
    assert!(begun.elapsed() < Duration::from_secs(12));
    // Names behind a proxy are the proxy's to resolve.
    dns.script(|_, _, _| Answer::NxDomain);
    assert_eq!(dns.count("never.test"), 0);
    let reply =
        before("never.test:5000", "  attempts: 1\n  proxy: {url: 'socks5h://127.0.0.1:1'}\n").get(PATH);
    assert_eq!(code(&reply), (502, "proxy_connect".into()), "{}", reply.text());
    assert_eq!(dns.count("never.test"), 0);
}
