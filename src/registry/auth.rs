//! Authentication: Basic and the token flow (distribution spec, "Token Authentication").
//!
//! A challenge is answered once. A registry that answers a fresh token with another 401 has said no: some grant a token
//! without any rights instead of refusing, and a client that asked again would never stop. Credentials that were refused
//! are not sent again for a minute, so that nobody's account is locked by us; others are, as soon as they are there.

use super::address;
use super::challenge::{Challenge, allowed_realm, choose, nothing_to_say};
use super::credentials::{Credentials, Lookup, Secret};
use super::error::{Kind, RegistryError};
use super::route::{Endpoint, Host};
use super::scope::Scope;
use super::transport::{self, Terms};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use crate::oci::Digest;
use crate::origin;
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Lifetime of a token whose service names none or nonsense (token spec: 60 seconds at least).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds, but renewed.
const EARLY: Duration = Duration::from_secs(10);
/// Basic that was accepted is sent at once for so long; it costs nothing to be challenged again then.
const BASIC_LIFETIME: Duration = Duration::from_secs(3600);
/// Credentials that were refused are not sent again for so long.
const REFUSED_LIFETIME: Duration = Duration::from_secs(60);
/// A token service that failed is not asked again for so long.
const TROUBLE_LIFETIME: Duration = Duration::from_secs(5);
/// Tokens of real services have up to 16 KiB.
const TOKEN_BODY_BYTES: usize = 1 << 20;
/// Repositories whose tokens are kept at once. Names come from clients; this many are more than anybody uses.
const REMEMBERED_TOKENS: u64 = 1000;

/// Tokens by registry and repository, and what answers challenges.
pub struct Auth {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    slots: moka::sync::Cache<(String, Scope), Arc<Slot>>,
    /// By registry, repository and credentials: until when they are not sent again, and why. No repository is all.
    refused: moka::sync::Cache<(String, String, Digest), (Timestamp, RegistryError)>,
    /// By registry: until when its token service is not asked again, and why.
    trouble: moka::sync::Cache<String, (Timestamp, RegistryError)>,
}

/// One registry and scope. The lock makes concurrent requests ask for one token, not for many.
type Slot = tokio::sync::Mutex<Option<Grant>>;

#[derive(Clone)]
struct Grant {
    value: HeaderValue,
    until: Timestamp,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<SecretString>,
    access_token: Option<SecretString>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Auth {
    /// Without any token.
    pub fn new(clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            clock,
            metrics,
            slots: moka::sync::Cache::new(REMEMBERED_TOKENS),
            refused: moka::sync::Cache::new(REMEMBERED_TOKENS),
            trouble: moka::sync::Cache::new(REMEMBERED_TOKENS),
        }
    }

    /// Another for whoever asks beside the requests of gateways: what was refused is not sent again by it either.
    pub fn beside(&self, metrics: Arc<Metrics>) -> Self {
        let (refused, trouble) = (self.refused.clone(), self.trouble.clone());
        Self { refused, trouble, ..Self::new(self.clock.clone(), metrics) }
    }

    fn slot(&self, host: &Host, scope: &Scope) -> Arc<Slot> {
        self.slots.get_with((host.name.clone(), scope.clone()), Arc::default)
    }

    /// What to send first: a token or Basic that was accepted before and is still good.
    pub async fn known(&self, host: &Host, scope: &Scope) -> Option<HeaderValue> {
        let slot = self.slot(host, scope);
        let grant = slot.lock().await.clone()?;
        (grant.until > self.clock.now()).then_some(grant.value)
    }

    /// What `ask` is answered, which sends a request with what it is given: at most one challenge is answered, and once more
    /// where the credentials have just changed.
    pub async fn answering<F, A>(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        ask: F,
    ) -> Result<transport::Answer, RegistryError>
    where
        F: Fn(Option<HeaderValue>) -> A,
        A: Future<Output = Result<transport::Answer, RegistryError>>,
    {
        let known = self.known(&endpoint.host, scope).await;
        let answer = ask(known.clone()).await?;
        if !answer.is_challenge() {
            return Ok(answer);
        }
        let value = self.answer(endpoint, scope, answer.response.headers(), known.as_ref()).await?;
        let answer = ask(Some(value.clone())).await?;
        if !answer.is_challenge() {
            return Ok(answer);
        }
        match self.refused(endpoint, scope, &value).await {
            Some(other) => ask(Some(other)).await,
            None => Ok(answer),
        }
    }

    /// Answers the challenge of a 401 to a request that was sent with `sent`.
    ///
    /// # Errors
    /// `Denied` when there is nothing to answer with or the token service refuses; `RealmRefused` when the service is on
    /// a host that may not be told; what befell the conversation with the service otherwise.
    pub async fn answer(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        headers: &HeaderMap,
        sent: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let host = &*endpoint.host;
        let repository = scope.repository.as_str();
        let slot = self.slot(host, scope);
        let mut grant = slot.lock().await;
        // Another request renewed it while this one waited.
        if let Some(held) =
            grant.as_ref().filter(|held| held.until > self.clock.now() && Some(&held.value) != sent)
        {
            return Ok(held.value.clone());
        }
        *grant = None;
        let kept = host.credentials.get(&host.name, repository).await;
        let granted = match login(self.log_in(endpoint, scope, headers, sent, &kept)).await {
            Err(error) if error.kind == Kind::Denied => {
                // What is refused may have been replaced since it was read.
                let fresh = host.credentials.fresh(&host.name, repository).await;
                if fresh.fingerprint() == kept.fingerprint() {
                    return Err(error);
                }
                login(self.log_in(endpoint, scope, headers, sent, &fresh)).await
            }
            granted => granted,
        };
        let (value, lifetime) = granted?;
        if sent.is_some() {
            tracing::info!(registry = host.name, repository, "token_refreshed");
        }
        *grant = Some(Grant { value: value.clone(), until: self.clock.now().plus(lifetime) });
        Ok(value)
    }

    /// What to send as `found`, and for how long.
    async fn log_in(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        headers: &HeaderMap,
        sent: Option<&HeaderValue>,
        found: &Lookup,
    ) -> Result<(HeaderValue, Duration), RegistryError> {
        let host = &*endpoint.host;
        host.trace.note("auth", || described(host, found));
        let challenge = choose(headers, host, found)?;
        if let (Challenge::Bearer { realm, service }, None) = (&challenge, bearer(found)) {
            return self.token(endpoint, scope, found, realm, service.as_deref()).await;
        }
        let value = own_value(host, found)?;
        self.not_again(host, &scope.repository, found, Some(&value) == sent)?;
        self.metrics.logins.with_label_values(&[&host.name, "sent"]).inc();
        Ok((value, BASIC_LIFETIME))
    }

    /// Notes that the registry itself refused `value`: nothing is known of it any more. What to send instead, where the
    /// credentials have changed since they were read.
    pub async fn refused(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        value: &HeaderValue,
    ) -> Option<HeaderValue> {
        let host = &*endpoint.host;
        let repository = scope.repository.as_str();
        let slot = self.slot(host, scope);
        let mut grant = slot.lock().await;
        *grant = None;
        let kept = host.credentials.get(&host.name, repository).await;
        let fresh = host.credentials.fresh(&host.name, repository).await;
        let changed = Some(&fresh).filter(|fresh| fresh.fingerprint() != kept.fingerprint());
        for found in [Some(&kept), changed].into_iter().flatten() {
            if own_value(host, found).is_ok_and(|own| own == *value) {
                self.note_refused(host, repository, found);
            }
        }
        // A token says nothing of what it was had for.
        let is_own = own_value(host, &kept).is_ok_and(|own| own == *value);
        let other = own_value(host, &fresh).ok().filter(|other| is_own && other != value)?;
        self.not_again(host, repository, &fresh, false).ok()?;
        *grant = Some(Grant { value: other.clone(), until: self.clock.now().plus(BASIC_LIFETIME) });
        Some(other)
    }

    /// Refuses to send again what was refused, for a minute.
    fn not_again(
        &self,
        host: &Host,
        repository: &str,
        found: &Lookup,
        was_sent: bool,
    ) -> Result<(), RegistryError> {
        if was_sent {
            return Err(self.note_refused(host, repository, found));
        }
        let Some(own) = found.fingerprint() else { return Ok(()) };
        for repository in [repository, ""] {
            let known = self.refused.get(&(host.name.clone(), repository.to_owned(), own));
            if let Some((_, why)) = known.filter(|(until, _)| *until > self.clock.now()) {
                return Err(RegistryError { was_asked: false, ..why });
            }
        }
        Ok(())
    }

    /// A user name and password are refused for all repositories; a token may be for some.
    fn note_refused(&self, host: &Host, repository: &str, found: &Lookup) -> RegistryError {
        let detail = format!("{} refuses the credentials", host.name);
        let from = found.credentials.as_ref().map(|own| own.from.clone()).unwrap_or_default();
        let hint = format!(
            "are the credentials of {from} right? They are not sent again for a minute, or until they change"
        );
        let error = RegistryError::new(Kind::Denied, detail).hint(hint);
        self.metrics.logins.with_label_values(&[&host.name, "refused"]).inc();
        if let Some(own) = found.fingerprint() {
            let until = self.clock.now().plus(REFUSED_LIFETIME);
            let about = if bearer(found).is_some() { repository } else { "" };
            self.refused.insert((host.name.clone(), about.to_owned(), own), (until, error.clone()));
        }
        error
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        found: &Lookup,
        realm: &str,
        service: Option<&str>,
    ) -> Result<(HeaderValue, Duration), RegistryError> {
        let host = &*endpoint.host;
        let repository = scope.repository.as_str();
        self.not_again(host, repository, found, false)?;
        if let Some((_, why)) = self.trouble.get(&host.name).filter(|(until, _)| *until > self.clock.now()) {
            return Err(RegistryError { was_asked: false, ..why });
        }
        let url = allowed_realm(endpoint, realm)?;
        let asked = self.ask_for_token(endpoint, scope, found, url, service).await;
        let result = match &asked {
            Ok(_) => "ok",
            Err(error) => error.code,
        };
        self.metrics.logins.with_label_values(&[&host.name, result]).inc();
        asked.map_err(|error| match error.kind {
            // A 403 is about the repository; who we are was accepted.
            Kind::Denied if found.credentials.is_some() && error.status == Some(401) => {
                let refused = self.note_refused(host, repository, found);
                RegistryError { detail: error.detail, status: error.status, ..refused }
            }
            Kind::Token | Kind::RateLimited => {
                let until = self.clock.now().plus(TROUBLE_LIFETIME);
                self.trouble.insert(host.name.clone(), (until, error.clone()));
                error
            }
            _ => error,
        })
    }

    async fn ask_for_token(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        found: &Lookup,
        mut url: Url,
        service: Option<&str>,
    ) -> Result<(HeaderValue, Duration), RegistryError> {
        let host = &*endpoint.host;
        let shown = url.host_str().unwrap_or_default().to_owned();
        let secret = found.credentials.as_ref().map(|own| &own.secret);
        let method = if matches!(secret, Some(Secret::Identity(_))) { "POST" } else { "GET" };
        let what = format!("{method} {}://{shown}{} (token for {})", url.scheme(), url.path(), host.name);
        // The scope is ours: what the challenge asks for may be more than we want to hold.
        let scopes = scope.parameters();
        host.trace.note("auth", || format!("{what}, scope {}", scopes.join(" ")));
        let home: Option<Url> = endpoint.base.parse().ok();
        let here = home.as_ref().and_then(|home| home.host().map(|name| address::is_here(&name)));
        let is_home = home.as_ref().is_some_and(|home| home.host() == url.host());
        if method == "GET" {
            for scope in &scopes {
                url.query_pairs_mut().append_pair("scope", scope);
            }
            if let Some(service) = service {
                url.query_pairs_mut().append_pair("service", service);
            }
        }
        let joined = scopes.join(" ");
        let terms = Terms { from_here: here == Some(true), as_ourselves: is_home, taken: None };
        let response = transport::exchange(&self.metrics, host, &what, &url, terms, |client| {
            match secret {
                Some(Secret::Identity(token)) => {
                    // OAuth2 as the distribution project documents it: the token stands in place of a password.
                    let mut form = vec![
                        ("grant_type", "refresh_token"),
                        ("client_id", "larder"),
                        ("scope", joined.as_str()),
                        ("refresh_token", token.expose_secret()),
                    ];
                    form.extend(service.map(|service| ("service", service)));
                    client.post(url.clone()).form(&form)
                }
                Some(Secret::Basic(name, password)) => {
                    client.get(url.clone()).basic_auth(name, Some(password.expose_secret()))
                }
                _ => client.get(url.clone()),
            }
        });
        let mut response = response.await?;
        if response.status().is_redirection() {
            return Err(RegistryError::new(
                Kind::RedirectRefused,
                format!("{what}: the token service redirects"),
            ));
        }
        if !response.status().is_success() {
            let answer = transport::Answer { response, from_registry: true, from: shown };
            let mut error = transport::refusal(&what, host, answer, found).await;
            if matches!(error.kind, Kind::NotFound | Kind::Upstream) {
                error.kind = Kind::Token;
                error.code = "token";
            }
            return Err(error);
        }
        let mut body = Vec::new();
        let read = async {
            while let Some(piece) = response
                .chunk()
                .await
                .map_err(|e| super::diagnose::transport(host, &what, &shown, host.egress.way(&url), &e))?
            {
                body.extend_from_slice(&piece);
                if body.len() > TOKEN_BODY_BYTES {
                    return Err(bad_token(&what, "is over 1 MiB"));
                }
            }
            Ok(())
        };
        match tokio::time::timeout(host.limits.idle, read).await {
            Ok(read) => read?,
            Err(_) => {
                return Err(super::diagnose::timed_out(host, &what, host.egress.way(&url), "idle_timeout"));
            }
        }
        parse(&what, &body).inspect(|(_, lifetime)| {
            host.trace
                .note("auth", || format!("a token, used for {}", humantime::format_duration(*lifetime)));
        })
    }
}

/// A token and how long it is used.
pub fn parse(what: &str, body: &[u8]) -> Result<(HeaderValue, Duration), RegistryError> {
    let answer: TokenAnswer =
        serde_json::from_slice(body).map_err(|_| bad_token(what, "is no JSON object with a token"))?;
    let token = answer.token.filter(|t| !t.expose_secret().is_empty()).or(answer.access_token);
    let token = token.unwrap_or_default();
    let token = token.expose_secret();
    if token.is_empty() {
        return Err(bad_token(what, "has neither token nor access_token"));
    }
    let value = header(&format!("Bearer {token}"))
        .map_err(|_| bad_token(what, "holds a token with characters that no header may have"))?;
    let lifetime = answer.expires_in.as_u64().filter(|seconds| (1..=86_400 * 365).contains(seconds));
    let lifetime = lifetime.map_or(DEFAULT_LIFETIME, Duration::from_secs);
    Ok((value, lifetime.saturating_sub(EARLY).max(Duration::from_secs(1))))
}

/// A leg of a fetch.
async fn login<T>(work: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
    origin::leg("login", |error: &RegistryError| error.code, work).await
}

fn bad_token(what: &str, why: &str) -> RegistryError {
    RegistryError::new(Kind::Token, format!("{what}: the answer {why}")).code("bad_token")
}

/// A field value that is never printed.
fn header(text: &str) -> Result<HeaderValue, RegistryError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        RegistryError::new(Kind::Settings, "the credentials have characters that cannot be sent")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn described(host: &Host, found: &Lookup) -> String {
    let what = match found.credentials.as_ref() {
        None => "no credentials".to_owned(),
        Some(Credentials { secret, from }) => match secret {
            Secret::Basic(name, _) => format!("user {name} and a password, from {from}"),
            Secret::Identity(_) => format!("an identity token, from {from}"),
            Secret::Bearer(_) => format!("a bearer token, from {from}"),
        },
    };
    let trouble = found.trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default();
    format!("for {}: {what}{trouble}", host.name)
}

/// A token that is sent as it is, where there is one.
fn bearer(found: &Lookup) -> Option<&SecretString> {
    match found.credentials.as_ref().map(|own| &own.secret) {
        Some(Secret::Bearer(token)) => Some(token),
        _ => None,
    }
}

/// What the credentials themselves are sent as.
fn own_value(host: &Host, found: &Lookup) -> Result<HeaderValue, RegistryError> {
    use base64::Engine;
    if let Some(token) = bearer(found) {
        return header(&format!("Bearer {}", token.expose_secret()));
    }
    let Some(Credentials { secret: Secret::Basic(name, password), .. }) = &found.credentials else {
        return Err(nothing_to_say(host, found, &format!("{} asks for a user name and password", host.name)));
    };
    let pair = format!("{name}:{}", password.expose_secret());
    header(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_answer_is_read_with_its_lifetime() {
        let read = |text: &str| {
            parse("GET x", text.as_bytes())
                .map(|(value, lifetime)| (value.to_str().unwrap().to_owned(), lifetime.as_secs()))
        };
        assert_eq!(read(r#"{"token":"a","expires_in":300}"#).unwrap(), ("Bearer a".into(), 290));
        assert_eq!(read(r#"{"access_token":"b"}"#).unwrap(), ("Bearer b".into(), 50));
        assert_eq!(
            read(r#"{"token":"a","access_token":"b"}"#).unwrap().0,
            "Bearer a",
            "the older field first"
        );
        assert_eq!(read(r#"{"token":"a","expires_in":5}"#).unwrap().1, 1);
        for lifetime in ["-1", "0", "1e18", "\"x\"", "null"] {
            assert_eq!(
                read(&format!(r#"{{"token":"a","expires_in":{lifetime}}}"#)).unwrap().1,
                50,
                "{lifetime}"
            );
        }
        for bad in ["", "[]", "{}", r#"{"token":""}"#, "{\"token\":\"a\\r\\nX: y\"}"] {
            assert_eq!(read(bad).unwrap_err().code, "bad_token", "{bad}");
        }
    }
}
