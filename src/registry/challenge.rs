//! Challenges: what a 401 asks for, and whether the token service that it names may be told.

use super::credentials::Lookup;
use super::error::{Kind, RegistryError};
use super::names::listed;
use super::route::{Endpoint, Host};
use super::transport;
use http::{HeaderMap, header::WWW_AUTHENTICATE};
use url::Url;

/// A challenge longer than this is none.
const CHALLENGE_BYTES: usize = 16 << 10;

/// A parsed `WWW-Authenticate`.
pub enum Challenge {
    /// User name and password.
    Basic,
    /// A token of the service at `realm`.
    Bearer {
        /// Its URL, as it came.
        realm: String,
        /// What it calls the registry.
        service: Option<String>,
    },
}

/// We are asked who we are and do not know.
pub fn nothing_to_say(host: &Host, found: &Lookup, detail: &str) -> RegistryError {
    let key = &host.key;
    let trouble = found.trouble.as_ref().map(|trouble| format!("{trouble}; or ")).unwrap_or_default();
    let hint = format!("{trouble}set {key}.username and {key}.password_file, or registry.docker_config");
    // Not the registry's word on what it has: we could not say who we are.
    let (kind, code) = if found.owed { (Kind::Settings, "credentials") } else { (Kind::Denied, "denied") };
    RegistryError::new(kind, detail).code(code).hint(hint)
}

/// Bearer where it is offered, else Basic. A registry that challenges without saying how is tried with Basic, where
/// there are credentials.
pub fn choose(headers: &HeaderMap, host: &Host, found: &Lookup) -> Result<Challenge, RegistryError> {
    let mut basic = false;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Some(text) = value.to_str().ok().filter(|text| text.len() <= CHALLENGE_BYTES) else { continue };
        let Ok(challenges) = http_auth::parse_challenges(text) else {
            continue;
        };
        for challenge in challenges {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = parameter("realm") {
                    return Ok(Challenge::Bearer { realm, service: parameter("service") });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = true;
            }
        }
    }
    if basic || found.credentials.is_some() {
        return Ok(Challenge::Basic);
    }
    let detail = format!("{} answers 401 and does not say how to authenticate", host.name);
    // A page for people, from whatever stands before the registry, is not its word.
    if transport::is_web_page(headers) {
        return Err(RegistryError::new(Kind::Upstream, detail));
    }
    Err(nothing_to_say(host, found, &detail))
}

/// The token service's URL, if its host may be asked at all.
pub fn allowed_realm(endpoint: &Endpoint, realm: &str) -> Result<Url, RegistryError> {
    realm_of(&endpoint.host.name, &endpoint.host.key, &endpoint.base, &endpoint.host.token_hosts, realm)
}

fn realm_of(
    name: &str,
    key: &str,
    base: &str,
    token_hosts: &[String],
    realm: &str,
) -> Result<Url, RegistryError> {
    let refuse = |shown: &str, why: &str| {
        RegistryError::new(Kind::RealmRefused, format!("{name} names a token service at {shown}, {why}"))
    };
    let url: Url = realm.parse().map_err(|_| refuse("no URL", "so no token can be had"))?;
    let registry: Url = base.parse().map_err(|_| refuse("no URL", "so no token can be had"))?;
    let (Some(to), Some(from)) = (url.host_str(), registry.host_str()) else {
        return Err(refuse("no host", "so no token can be had"));
    };
    if !matches!(url.scheme(), "http" | "https") || (url.scheme() == "http" && registry.scheme() == "https") {
        return Err(refuse(to, "without TLS"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse(to, "with credentials in its URL"));
    }
    // Only under a suffix that is known: `cluster.local` is no domain of anybody's.
    let domain = |host: &str| {
        let domain = psl::domain(host.as_bytes()).filter(|domain| domain.suffix().is_known());
        domain.map(|domain| domain.as_bytes().to_ascii_lowercase())
    };
    let same_domain = || {
        let named = url.domain().is_some() && registry.domain().is_some();
        named && domain(to).is_some() && domain(to) == domain(from)
    };
    if to == from || same_domain() || listed(token_hosts, to) {
        return Ok(url);
    }
    let hint = format!("if {to} is its token service, add it to {key}.token_hosts");
    Err(refuse(to, "which is neither its own host nor of its domain").hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(registry: &str, realm: &str) -> bool {
        let base = format!("https://{registry}/v2");
        realm_of(registry, "key", &base, &["sso.corp".into()], realm).is_ok()
    }

    #[test]
    fn a_token_service_is_trusted_on_the_registrys_host_its_domain_or_by_configuration() {
        for (registry, realm) in [
            ("r.example:5000", "https://r.example/token"),
            (
                "higress-registry.cn-hangzhou.cr.aliyuncs.com",
                "https://dockerauth.cn-hangzhou.aliyuncs.com/auth",
            ),
            ("registry-1.docker.io", "https://auth.docker.io/token"),
            ("registry.gitlab.com", "https://gitlab.com/jwt/auth"),
            ("harbor.corp", "https://sso.corp/token"),
            ("10.0.0.1:5000", "https://10.0.0.1:5001/token"),
        ] {
            assert!(allowed(registry, realm), "{registry} {realm}");
        }
        for (registry, realm) in [
            ("r.example", "https://evil.test/token"),
            ("a.github.io", "https://b.github.io/token"),
            ("10.0.0.1", "https://10.0.0.2/token"),
            ("r.example", "http://r.example/token"),
            ("r.example", "ftp://r.example/token"),
            ("r.example", "https://user:pass@r.example/token"),
            ("r.example", "token"),
            ("harbor.corp", "https://other.corp/token"),
            ("harbor.team-a.svc.cluster.local", "https://evil.team-b.svc.cluster.local/token"),
        ] {
            assert!(!allowed(registry, realm), "{registry} {realm}");
        }
    }
}
