//! Egress proxies: a URL, and a list of what is reached without one, as settings and as environment variables.

#![cfg_attr(fuzzing, no_main)]

use larder::registry::egress::Egress;
use larder::registry::{ProxyConfig, Surroundings};
use url::Url;

/// No message has a password in it, nor has the way that is shown; what others wrote into `NO_PROXY` is no fault.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (url, list) = text.split_once('\n').unwrap_or((text, ""));
    let somewhere: Url = "https://r.example:8443/v2/".parse().unwrap();
    let by_settings = ProxyConfig {
        url: Some(url.into()),
        no_proxy: Some(list.split(',').map(ToOwned::to_owned).collect()),
        ..ProxyConfig::default()
    };
    judged(text, Egress::new(&by_settings, "key", &Surroundings::default()), &somewhere);
    let env = Surroundings::of(&[("HTTPS_PROXY", url), ("NO_PROXY", list)]);
    judged(text, Egress::new(&ProxyConfig::default(), "key", &env), &somewhere);
    let env = Surroundings::of(&[("NO_PROXY", list)]);
    let way = ProxyConfig { url: Some("http://p:1".into()), ..ProxyConfig::default() };
    let egress = Egress::new(&way, "key", &env).unwrap_or_else(|told| panic!("{told}"));
    let _ = egress.choose(&somewhere);
}

fn judged(text: &str, made: Result<Egress, String>, somewhere: &Url) {
    let url = text.split('\n').next().unwrap_or_default();
    // What stands between the first colon behind the scheme and the last @.
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let parts = rest.rsplit_once('@').and_then(|(before, host)| Some((before.split_once(':')?.1, host)));
    // Once in the whole, and not by chance in an escape or in a host as well, which can be written in many ways.
    let lower = text.to_ascii_lowercase();
    let is_word = |it: &str| it.len() > 8 && it.bytes().all(|b| b.is_ascii_alphanumeric());
    let is_once = |it: &str| is_word(it) && lower.matches(&it.to_ascii_lowercase()).count() == 1;
    let is_plain = |host: &str| host.is_ascii() && !host.contains('%');
    let password = parts.filter(|(it, host)| is_once(it) && is_plain(host)).map(|(it, _)| it);
    let is_told = |told: &str| password.is_some_and(|it| told.contains(it));
    match made {
        Ok(egress) => {
            for way in egress.http.iter().chain(&egress.https) {
                assert!(!way.shown.contains('@') && !is_told(&way.shown), "{}", way.shown);
                assert!(!is_told(&format!("{way:?}")), "{way:?}");
                let _ = way.proxy();
            }
            let _ = egress.way(somewhere);
        }
        Err(told) => assert!(!told.contains(char::is_control) && !is_told(&told), "{told:?}"),
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
