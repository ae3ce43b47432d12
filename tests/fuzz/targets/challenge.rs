//! `WWW-Authenticate`: as it comes, a value a line, or made of a realm and a service that must come out as they went in.

#![cfg_attr(fuzzing, no_main)]

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use larder::clock::SystemClock;
use larder::config::{Sources, load};
use larder::registry::breaker::Breakers;
use larder::registry::challenge::{Challenge, allowed_realm, choose};
use larder::registry::credentials::Lookup;
use larder::registry::hosts::With;
use larder::registry::route::Endpoint;
use larder::registry::trace::Trace;
use larder::registry::{Hosts, Surroundings};
use std::sync::{Arc, LazyLock};

/// A registry whose token service may be at its own domain, and at one more host.
static ENDPOINT: LazyLock<Arc<Endpoint>> = LazyLock::new(|| {
    let text = "registry: {certs: [], hosts: {registry.gitlab.com: {token_hosts: [sso.corp]}}}";
    let sources = Sources { file: Some(("f.yaml".into(), text.into())), ..Sources::default() };
    let config = load(&sources).unwrap().config.registry;
    let with = With {
        env: Surroundings::default(),
        place: Arc::new(|key| key.into()),
        trace: Trace::default(),
        breakers: Breakers::new(Arc::new(SystemClock::new())),
    };
    let hosts = Hosts::build(&config, with).unwrap_or_else(|faults| panic!("{faults:?}"));
    hosts.route("registry.gitlab.com").unwrap().endpoints[0].clone()
});

/// Whatever a registry says, only its own token service is told anything, and by TLS.
pub fn check(bytes: &[u8]) {
    let Some((mode, rest)) = bytes.split_first() else { return };
    if mode % 2 == 1 {
        return made(rest);
    }
    let mut headers = HeaderMap::new();
    for line in rest.split(|byte| *byte == b'\n').take(20) {
        headers.extend(HeaderValue::from_bytes(line).map(|value| (WWW_AUTHENTICATE, value)));
    }
    match choose(&headers, &ENDPOINT.host, &Lookup::default()) {
        Ok(Challenge::Basic) => {}
        Ok(Challenge::Bearer { realm, .. }) => {
            // Unescaping leaves characters out and adds none.
            let whole = String::from_utf8_lossy(rest);
            let mut left = whole.chars();
            assert!(realm.chars().all(|c| left.any(|other| other == c)), "{realm:?} of {whole:?}");
            judged(&realm);
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
    }
}

/// A challenge as a registry should write it (RFC 9110, section 11.2; section 5.6.4 for the quotes).
fn made(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (realm, service) = text.split_once('\n').unwrap_or((text, ""));
    if !text.bytes().all(|b| b == b'\n' || b == b' ' || b.is_ascii_graphic()) || service.contains('\n') {
        return;
    }
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let value = format!("Bearer realm={}, service={},scope=\"x\"", quoted(realm), quoted(service));
    if value.len() > 8 << 10 {
        return;
    }
    let headers: HeaderMap = [(WWW_AUTHENTICATE, value.parse().unwrap())].into_iter().collect();
    match choose(&headers, &ENDPOINT.host, &Lookup::default()) {
        Ok(Challenge::Bearer { realm: read, service: named }) => {
            assert_eq!((read.as_str(), named.as_deref()), (realm, Some(service)), "{value}");
            judged(&read);
        }
        Ok(Challenge::Basic) => panic!("{value} is read as Basic"),
        Err(error) => panic!("{value} is not read: {error}"),
    }
}

fn judged(realm: &str) {
    match allowed_realm(&ENDPOINT, realm) {
        Ok(url) => {
            let host = url.host_str().unwrap_or_default();
            let own = host == "gitlab.com" || host.ends_with(".gitlab.com") || host == "sso.corp";
            assert!(own && url.scheme() == "https", "{realm:?} is asked at {url}");
            assert!(url.username().is_empty() && url.password().is_none(), "{url}");
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
