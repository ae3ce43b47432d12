//! Versions in a listing, a line each, and a client's `Accept` on the first.

#![cfg_attr(fuzzing, no_main)]

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};
use larder::catalog::{Catalog, Config};
use larder::clock::SystemClock;
use larder::metrics::Metrics;
use larder::plugin::Version;
use larder::server::listing::{Listing, html, items, wants_json};
use larder::store::overlay::Overlay;
use larder::store::{self, Room, Tiered};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// One that holds nothing: what is listed is the catalog's.
static STORE: LazyLock<Tiered> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let (disk, memory) = (bytesize::ByteSize(1), bytesize::ByteSize(1));
    let config =
        store::Config { dir: None, disk, memory, retry: Duration::from_secs(5), scrub: Duration::ZERO };
    let overlay = Overlay::open(Vec::new(), 1).live();
    let metrics = Arc::new(Metrics::new());
    Tiered::open(folder.path(), &config, Room::new(8 << 20), overlay, Arc::new(SystemClock::new()), metrics)
        .unwrap()
});

/// Each version is listed once, in an order that does not depend on the order of the lines, and each is a link.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (accept, rest) = text.split_once('\n').unwrap_or((text, ""));
    let headers: HeaderMap = HeaderValue::from_str(accept).into_iter().map(|value| (ACCEPT, value)).collect();
    let _ = wants_json(&headers);
    let mut versions: Vec<Version> = rest.lines().take(50).filter_map(|line| line.parse().ok()).collect();
    let listed = list(&versions);
    versions.reverse();
    assert_eq!(list(&versions), listed);
    versions.sort();
    versions.dedup();
    assert_eq!(listed.len(), versions.len());
    let page = html("/plugins/waf/", &items(&listed));
    assert_eq!(page.matches("<a href=").count(), listed.len() + 1, "{page}");
}

fn list(versions: &[Version]) -> Vec<Version> {
    let lines: String = versions.iter().map(|version| format!("waf@{version}=h.example/waf:1\n")).collect();
    let config = Config {
        builtin: false,
        files: Vec::new(),
        template: None,
        fallback: true,
        aliases: BTreeMap::new(),
        plugins: BTreeMap::new(),
    };
    let catalog = Catalog::build(&config, &[("f".into(), lines)]).unwrap();
    Listing { catalog: &catalog, store: &*STORE }.versions(&"waf".parse().unwrap())
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
