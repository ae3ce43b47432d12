//! Hosts by their names: as URLs have them, without their ports, in lists, and with the API below them.

use url::Url;

/// `host[:port]` of a URL, without the port that its scheme means.
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

/// A host without its port.
pub fn bare(host: &str) -> &str {
    let port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    port.map_or(host, |(name, _)| name).trim_matches(['[', ']'])
}

/// True where `host` is one of `list`, each a name or `*.suffix`.
pub fn listed(list: &[String], host: &str) -> bool {
    list.iter().any(|entry| match entry.strip_prefix('*') {
        Some(suffix) => host.to_ascii_lowercase().ends_with(&suffix.to_ascii_lowercase()),
        None => entry.eq_ignore_ascii_case(host),
    })
}

/// Where the API is, for a base: `/v2` below it, where it does not end in that already.
pub fn api(base: &str, is_whole: bool) -> String {
    if is_whole || base.ends_with("/v2") { base.to_owned() } else { format!("{base}/v2") }
}
