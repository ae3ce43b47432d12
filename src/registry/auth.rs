//! Authentication: Basic and the token flow (distribution spec, "Token Authentication").
//!
//! A challenge is answered once. A registry that answers a fresh token with another 401 has said no: some grant a token
//! without any rights instead of refusing, and a client that asked again would never stop.

use super::error::{Kind, RegistryError};
use super::hosts::Host;
use crate::clock::{Clock, Timestamp};
use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
use secrecy::ExposeSecret;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Lifetime of a token whose service names none or nonsense (token spec: 60 seconds at least).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds.
const EARLY: Duration = Duration::from_secs(10);
/// Tokens of real services have up to 16 KiB.
const TOKEN_BODY_BYTES: usize = 1 << 20;

/// Repositories whose tokens are kept at once. Names come from clients; this many are more than anybody uses.
const REMEMBERED_TOKENS: u64 = 1000;

/// Tokens by registry and repository, and what answers challenges.
pub struct Auth {
    clock: Arc<dyn Clock>,
    slots: moka::sync::Cache<(String, String), Arc<Slot>>,
}

/// One registry and repository. The lock makes concurrent requests ask for one token, not for many.
type Slot = tokio::sync::Mutex<Option<Grant>>;

#[derive(Clone)]
struct Grant {
    value: HeaderValue,
    until: Timestamp,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// A parsed `WWW-Authenticate`.
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Auth {
    /// Without any token.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, slots: moka::sync::Cache::new(REMEMBERED_TOKENS) }
    }

    fn slot(&self, host: &Host, repository: &str) -> Arc<Slot> {
        self.slots.get_with((host.name.clone(), repository.to_owned()), Arc::default)
    }

    /// What to send first: a token or Basic that was accepted before and is still good.
    pub async fn known(&self, host: &Host, repository: &str) -> Option<HeaderValue> {
        let slot = self.slot(host, repository);
        let grant = slot.lock().await.clone()?;
        (grant.until > self.clock.now()).then_some(grant.value)
    }

    /// Answers the challenge of a 401 to a request that was sent with `sent`.
    ///
    /// # Errors
    /// `Denied` when there is nothing to answer with or the token service refuses; `RealmRefused` when the service is on
    /// a host that may not be told; what befell the conversation with the service otherwise.
    pub async fn answer(
        &self,
        host: &Host,
        repository: &str,
        headers: &HeaderMap,
        sent: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let slot = self.slot(host, repository);
        let mut grant = slot.lock().await;
        // Another request renewed it while this one waited.
        if let Some(held) =
            grant.as_ref().filter(|held| held.until > self.clock.now() && Some(&held.value) != sent)
        {
            return Ok(held.value.clone());
        }
        *grant = None;
        let (value, lifetime) = match choose(headers, host)? {
            Challenge::Basic => {
                let value = basic(host)?;
                // Sent, and refused: sending it again would only lock the account.
                if Some(&value) == sent {
                    let detail = format!("{} refuses the user name and password", host.name);
                    let hint = format!("are the credentials in registry.hosts.{} right?", host.name);
                    return Err(RegistryError::new(Kind::Denied, detail).hint(hint));
                }
                (value, Duration::from_secs(3600))
            }
            Challenge::Bearer { realm, service } => {
                self.token(host, repository, &realm, service.as_deref()).await?
            }
        };
        *grant = Some(Grant { value: value.clone(), until: self.clock.now().plus(lifetime) });
        Ok(value)
    }

    async fn token(
        &self,
        host: &Host,
        repository: &str,
        realm: &str,
        service: Option<&str>,
    ) -> Result<(HeaderValue, Duration), RegistryError> {
        let mut url = allowed_realm(host, realm)?;
        let shown = url.host_str().unwrap_or_default().to_owned();
        let what = format!("GET {}://{shown}{} (token for {})", url.scheme(), url.path(), host.name);
        // The scope is ours: what the challenge asks for may be more than we want to hold.
        url.query_pairs_mut().append_pair("scope", &format!("repository:{repository}:pull"));
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let mut request = host.http.get(url);
        if let Some(credentials) = &host.credentials {
            request = request.basic_auth(&credentials.username, Some(credentials.password.expose_secret()));
        }
        let mut response =
            request.send().await.map_err(|e| RegistryError::from_transport(&what, &shown, &e))?;
        if response.status().is_redirection() {
            return Err(RegistryError::new(
                Kind::RedirectRefused,
                format!("{what}: the token service redirects"),
            ));
        }
        if !response.status().is_success() {
            let answer = super::transport::Answer { response, from_registry: true };
            let mut error = super::transport::refusal(&what, host, answer).await;
            if error.kind == Kind::NotFound {
                error.kind = Kind::Upstream;
            }
            return Err(error);
        }
        let mut body = Vec::new();
        while let Some(piece) =
            response.chunk().await.map_err(|e| RegistryError::from_transport(&what, &shown, &e))?
        {
            body.extend_from_slice(&piece);
            if body.len() > TOKEN_BODY_BYTES {
                return Err(bad_token(&what, "is over 1 MiB"));
            }
        }
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| bad_token(&what, "is no JSON object with a token"))?;
        let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token).unwrap_or_default();
        if token.is_empty() {
            return Err(bad_token(&what, "has neither token nor access_token"));
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| bad_token(&what, "holds a token with characters that no header may have"))?;
        value.set_sensitive(true);
        let lifetime = answer.expires_in.as_u64().filter(|seconds| (1..=86_400 * 365).contains(seconds));
        let lifetime = lifetime.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        Ok((value, lifetime.saturating_sub(EARLY).max(Duration::from_secs(1))))
    }
}

fn bad_token(what: &str, why: &str) -> RegistryError {
    RegistryError::new(Kind::Upstream, format!("{what}: the answer {why}"))
}

fn basic(host: &Host) -> Result<HeaderValue, RegistryError> {
    use base64::Engine;
    let Some(credentials) = &host.credentials else {
        let name = &host.name;
        let error = RegistryError::new(Kind::Denied, format!("{name} asks for a user name and password"));
        return Err(error.hint(format!("set registry.hosts.{name}.username and password_file")));
    };
    let pair = format!("{}:{}", credentials.username, credentials.password.expose_secret());
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}"))
        .map_err(|_| RegistryError::new(Kind::Denied, "the credentials cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Bearer where it is offered, else Basic. A registry that challenges without saying how is tried with Basic, where
/// there are credentials.
fn choose(headers: &HeaderMap, host: &Host) -> Result<Challenge, RegistryError> {
    let mut basic = false;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
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
    if basic || host.credentials.is_some() {
        return Ok(Challenge::Basic);
    }
    // A page for people, from whatever stands before the registry, is not its word.
    let kind = if super::transport::is_web_page(headers) { Kind::Upstream } else { Kind::Denied };
    Err(RegistryError::new(kind, format!("{} answers 401 and does not say how to authenticate", host.name)))
}

/// The token service's URL, if its host may be asked at all.
fn allowed_realm(host: &Host, realm: &str) -> Result<Url, RegistryError> {
    let name = &host.name;
    let refuse = |shown: &str, why: &str| {
        RegistryError::new(Kind::RealmRefused, format!("{name} names a token service at {shown}, {why}"))
    };
    let url: Url = realm.parse().map_err(|_| refuse("no URL", "so no token can be had"))?;
    let registry: Url = host.base.parse().map_err(|_| refuse("no URL", "so no token can be had"))?;
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
    if to == from || same_domain() || host.token_hosts.iter().any(|allowed| allowed == to) {
        return Ok(url);
    }
    let hint = format!("if {to} is its token service, add it to registry.hosts.{name}.token_hosts");
    Err(refuse(to, "which is neither its own host nor of its domain").hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, token_hosts: &[&str]) -> Host {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Host {
            name: name.into(),
            base: format!("https://{name}"),
            http: reqwest::Client::new(),
            credentials: None,
            token_hosts: token_hosts.iter().map(|s| s.to_string()).collect(),
        }
    }

    fn allowed(registry: &str, realm: &str) -> bool {
        allowed_realm(&host(registry, &["sso.corp"]), realm).is_ok()
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

    #[test]
    fn bearer_is_preferred_and_a_riddle_is_answered_with_basic_or_not_at_all() {
        let chosen = |values: &[&str]| {
            let headers = values.iter().map(|v| (WWW_AUTHENTICATE, v.parse().unwrap())).collect();
            match choose(&headers, &host("r.example", &[])) {
                Ok(Challenge::Basic) => "basic".to_owned(),
                Ok(Challenge::Bearer { realm, service }) => {
                    format!("{realm} {}", service.unwrap_or_default())
                }
                Err(e) => e.kind.code().to_owned(),
            }
        };
        assert_eq!(
            chosen(&[r#"Basic realm="x", Bearer realm="https://a/t",service="s",scope="repository:*:push""#]),
            "https://a/t s"
        );
        assert_eq!(chosen(&["Basic realm=x", r#"bearer realm="https://a/t""#]), "https://a/t ");
        assert_eq!(chosen(&[r#"Bearer realm="a\"b""#]), "a\"b ");
        assert_eq!(chosen(&["Basic realm=x"]), "basic");
        for nothing in [&[][..], &["Bearer"], &["Digest realm=x"], &["=,=,"]] {
            assert_eq!(chosen(nothing), "denied");
        }
    }
}
