//! The target of a request: what the guard lets pass, and what the router makes of it.

#![cfg_attr(fuzzing, no_main)]

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Version};
use larder::catalog::patterns::Pattern;
use larder::oci::reference::is_tag;
use larder::plugin::{PluginName, Request, Version as Asked};
use larder::server::guard::{Head, check as guard, read_only};
use larder::server::route::{Route, route};
use std::sync::LazyLock;
use url::Url;

/// Those of the default file.
static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let patterns = [
        "/plugins/{name}/{version}/plugin.wasm",
        "/plugins/{name}/{version}.wasm",
        "/software/{name}-{version}.wasm",
        "/**/{name}.wasm",
    ];
    patterns.iter().map(|text| text.parse().unwrap()).collect()
});

/// An accepted path is clean; a name or version that it is routed to matches its own rule; a redirect leads to the same
/// path with a slash behind it.
pub fn check(bytes: &[u8]) {
    let headers: HeaderMap = [(HOST, HeaderValue::from_static("larder"))].into_iter().collect();
    let head = Head {
        method: &Method::GET,
        target: bytes,
        version: Version::HTTP_11,
        headers: &headers,
        raw: b"GET / HTTP/1.1\r\nHost: larder\r\n\r\n",
        is_clean: true,
    };
    let path = match guard(&head, read_only) {
        Ok(accepted) => accepted.path,
        Err(rejected) => {
            assert!(matches!(rejected.status, 400 | 414), "{rejected:?}");
            assert!(!rejected.detail.contains(char::is_control), "{rejected:?}");
            return;
        }
    };
    assert!(path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()), "{path:?}");
    assert!(!path.contains("//") && !path.contains(['%', '\\', '?', '#']), "{path:?}");
    assert!(!path.split('/').any(|part| part == "." || part == ".."), "{path:?}");

    match route(&path, &PATTERNS, &|name| name == "ai-proxy") {
        Ok(Route::Module(request) | Route::Metadata(request, _)) => is_valid(&request),
        Ok(Route::Versions(name)) => listed(&path, &name),
        Ok(Route::Files(name, version)) => {
            listed(&path, &name);
            is_valid(&Request { name, version: Some(version) });
        }
        Ok(Route::Redirect(to)) => {
            let here: Url = format!("http://larder{path}").parse().unwrap();
            let there = here.join(&to).unwrap_or_else(|e| panic!("{path}: {to}: {e}"));
            assert_eq!(there.as_str(), format!("{here}/"), "{to:?}");
        }
        Ok(Route::Root | Route::Health | Route::Plugins | Route::Inventory | Route::None) => {}
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
    }
}

fn is_valid(request: &Request) {
    let name = request.name.as_str();
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    assert!((1..=64).contains(&name.len()) && name.starts_with(edge) && name.ends_with(edge), "{name}");
    assert!(name.chars().all(|c| edge(c) || "._-".contains(c)) && !name.contains(".."), "{name}");
    match &request.version {
        None => {}
        Some(Asked::Tag(tag)) => assert!(is_tag(tag), "{tag}"),
        Some(Asked::Digest(digest)) => assert_eq!(digest.to_string().parse(), Ok(*digest)),
    }
}

/// A listing prints its path without escaping anything.
fn listed(path: &str, name: &PluginName) {
    is_valid(&Request { name: name.clone(), version: None });
    assert!(path.chars().all(|c| c.is_ascii_alphanumeric() || "/:._-".contains(c)), "{path}");
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
