//! Hosts by their names: as URLs have them, without their ports, and in lists.

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
