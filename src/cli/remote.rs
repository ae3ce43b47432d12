//! A running larder, by its administration API.

use super::exit;
use super::output::DETAIL;
use super::trouble::{Trouble, hint_of};
use crate::admin::change::{Purged, Selector};
use crate::admin::entries::{Entry, Page, Query};
use crate::admin::import::{How, Imported};
use crate::admin::prefetch::{Job, Wanted};
use crate::admin::status::Status;
use crate::cache::explain::Explanation;
use crate::failures::Failure;
use crate::oci::error_code::bounded;
use crate::plugin::Request;
use crate::registry::error::chain;
use crate::registry::pem;
use crate::registry::trace::Trace;
use crate::registry::trust::{Trust, Verifier};
use http::HeaderValue;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use url::{Host, Url};

/// Longest time for DNS, TCP and TLS.
const CONNECTING: Duration = Duration::from_secs(5);
/// Longest time of an answer.
const ANSWERING: Duration = Duration::from_secs(60);
/// Longest time of an explanation, which fetches a plugin.
const EXPLAINING: Duration = Duration::from_secs(15 * 60);
/// Longest time of an import: its way there, and the verifying of each plugin.
const IMPORTING: Duration = Duration::from_secs(60 * 60);
/// The longest answer, in bytes; a page of the largest size has some megabytes.
const ANSWER_BYTES: usize = 64 << 20;

/// What to do where a larder cannot be found that uses a directory.
pub const WHERE: &str = "--admin URL says where its administration port is";

/// As whom we come, and whom we believe.
#[derive(Debug, Default)]
pub struct Credentials {
    /// A bearer token, and the file it is from.
    pub token: Option<(HeaderValue, PathBuf)>,
    /// Why there is no token though the settings name a file; told when one is wanted.
    pub no_token: Option<String>,
    /// A client certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Files, or folders of them, with CAs that are trusted beside the system's.
    pub ca: Vec<PathBuf>,
}

/// See the module's text.
pub struct Remote {
    base: Url,
    client: reqwest::Client,
    credentials: Credentials,
    verifier: Arc<Verifier>,
    /// The settings' own address, tried because this larder has the directory; it says so in its own words.
    beside: Option<String>,
}

/// A problem document, as far as it is printed.
#[derive(Deserialize)]
struct Told {
    code: String,
    detail: String,
    #[serde(default)]
    hint: String,
}

impl Remote {
    /// At `base`, of which only scheme, host, port and a path to put before the API's are used. `beside` is why it is
    /// asked, where nobody named it.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn new(base: Url, credentials: Credentials, beside: Option<String>) -> Result<Self, Trouble> {
        let unusable = |problem: String| Trouble::new(exit::NOINPUT, problem);
        let mut trust = Trust::default();
        if base.scheme() == "https" {
            for path in &credentials.ca {
                trust.bundles.extend(pem::bundles(path).map_err(unusable)?);
            }
            trust.bundles.push(pem::system_roots().map_err(unusable)?);
        }
        if let Some((certificate, key)) = &credentials.certificate {
            trust.identity = Some(Arc::new(pem::identity(certificate, key).map_err(unusable)?));
        }
        let verifier = Verifier::new(&trust, Trace::default());
        let builder = reqwest::Client::builder()
            .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
            // A redirect could carry the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECTING)
            .tls_backend_preconfigured(trust.config(&verifier, true).map_err(unusable)?);
        let builder = if is_loopback(&base) { builder.no_proxy() } else { builder };
        let client = builder.build().map_err(|e| {
            Trouble::new(exit::SOFTWARE, format!("no HTTP client can be made: {}", chain(&e)))
        })?;
        Ok(Self { base, client, credentials, verifier, beside })
    }

    /// Where it is.
    pub fn address(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// A page of entries.
    ///
    /// # Errors
    /// As of every method here: no answer, or a refusal.
    pub async fn entries(&self, query: &Query, cursor: Option<&str>) -> Result<Page, Trouble> {
        let mut pairs = vec![("sort", super::output::word(&query.sort))];
        let given = [
            ("text", query.text.clone()),
            ("plugin", query.plugin.clone()),
            ("state", query.state.map(|state| super::output::word(&state))),
            ("limit", query.limit.map(|limit| limit.to_string())),
            ("cursor", cursor.map(str::to_owned)),
            ("order", query.descending.then(|| "desc".to_owned())),
        ];
        pairs.extend(given.into_iter().filter_map(|(name, value)| Some((name, value?))));
        self.ask(self.get("api/v1/entries").query(&pairs)).await
    }

    /// One entry.
    pub async fn entry(&self, key: &str) -> Result<Entry, Trouble> {
        self.ask(self.get("api/v1/entry").query(&[("key", key)])).await
    }

    /// Takes a bundle in. What was left out is no error here.
    pub async fn import(&self, bundle: &Path, how: &How) -> Result<Imported, Trouble> {
        let unreadable =
            |e: std::io::Error| Trouble::new(exit::NOINPUT, format!("{}: {e}", bundle.display()));
        let file = tokio::fs::File::open(bundle).await.map_err(unreadable)?;
        let metadata = file.metadata().await.map_err(unreadable)?;
        if !metadata.is_file() {
            let problem = format!("{} is no file, and a running larder is sent one", bundle.display());
            return Err(Trouble::new(exit::USAGE, problem).hint("tar -C FOLDER -cf plugins.tar ."));
        }
        // Who is not let in hears of it before a bundle is on its way.
        self.status().await?;
        let mut pairs = vec![("dry_run", how.dry_run.to_string())];
        pairs.extend(how.key.as_ref().map(|key| ("verify_key", key.pem().to_owned())));
        let request = self.client.post(self.url("api/v1/import")).query(&pairs).timeout(IMPORTING);
        let request = request.header(CONTENT_TYPE, "application/octet-stream");
        let request = request.header(CONTENT_LENGTH, metadata.len()).body(Body::from(file));
        let (response, body) = self.answer(request).await?;
        match serde_json::from_slice(&body) {
            Ok(imported) if matches!(response.status().as_u16(), 200..300 | 422) => Ok(imported),
            _ => Err(self.refused(&response, &body)),
        }
    }

    /// What failed lately.
    pub async fn failures(&self) -> Result<Vec<Failure>, Trouble> {
        #[derive(Deserialize)]
        struct Listed {
            failures: Vec<Failure>,
        }
        let listed: Listed = self.ask(self.get("api/v1/failures")).await?;
        Ok(listed.failures)
    }

    /// Whether it is well.
    pub async fn status(&self) -> Result<Status, Trouble> {
        self.ask(self.get("api/v1/status")).await
    }

    /// Takes entries away.
    pub async fn purge(&self, which: &Selector) -> Result<Purged, Trouble> {
        self.ask(self.post("api/v1/purge", which)).await
    }

    /// Begins to fetch plugins.
    pub async fn prefetch(&self, wanted: &Wanted) -> Result<Job, Trouble> {
        self.ask(self.post("api/v1/prefetch", wanted)).await
    }

    /// The last lists of plugins that are fetched or were, newest first.
    pub async fn jobs(&self) -> Result<Vec<Job>, Trouble> {
        #[derive(Deserialize)]
        struct Listed {
            jobs: Vec<Job>,
        }
        let listed: Listed = self.ask(self.get("api/v1/prefetch")).await?;
        Ok(listed.jobs)
    }

    /// How far that is.
    pub async fn job(&self, id: u64) -> Result<Job, Trouble> {
        self.ask(self.get("api/v1/prefetch").query(&[("id", id)])).await
    }

    /// Walks a plugin's road aloud.
    pub async fn explain(&self, request: &Request) -> Result<Explanation, Trouble> {
        let version = request.version.as_ref().map(ToString::to_string);
        let pairs = [("name", Some(request.name.to_string())), ("version", version)];
        let pairs: Vec<_> = pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        self.ask(self.get("api/v1/explain").query(&pairs).timeout(EXPLAINING)).await
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    fn post(&self, path: &str, body: &impl Serialize) -> RequestBuilder {
        let request = self.client.post(self.url(path)).header(CONTENT_TYPE, "application/json");
        request.body(super::output::json(body))
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.address())
    }

    async fn answer(&self, request: RequestBuilder) -> Result<(Response, Vec<u8>), Trouble> {
        let mut request = request.header(ACCEPT, "application/json");
        if let Some((token, _)) = &self.credentials.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        let (client, request) = request.build_split();
        let mut request =
            request.map_err(|e| Trouble::new(exit::USAGE, format!("{}: {}", self.address(), chain(&e))))?;
        request.timeout_mut().get_or_insert(ANSWERING);
        let mut response = client.execute(request).await.map_err(|e| self.unanswered(&e))?;
        let body = read(&mut response).await.map_err(|e| self.unanswered(&e))?;
        Ok((response, body))
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Trouble> {
        let (response, body) = self.answer(request).await?;
        if !response.status().is_success() {
            return Err(self.refused(&response, &body));
        }
        serde_json::from_slice(&body)
            .map_err(|e| self.foreign(&format!("something else than expected ({e})")))
    }

    /// No answer came.
    fn unanswered(&self, error: &reqwest::Error) -> Trouble {
        let (address, cause) = (self.address(), chain(error));
        let has = |words: &[&str]| words.iter().any(|word| cause.contains(word));
        let hint = if has(&["invalid peer certificate"]) {
            self.untrusted()
        } else if self.verifier.wants_certificate() && !error.is_timeout() {
            // Whoever is not let in is told so in words that get lost behind the handshake.
            match &self.credentials.certificate {
                None => "it wants a client certificate: --admin-certificate and --admin-key".into(),
                Some((file, _)) => {
                    format!("is the certificate in {} of a CA of its tls.admin.client_ca?", file.display())
                }
            }
        } else if has(&["InvalidContentType"]) {
            format!("does it speak plain http there? --admin {}", address.replacen("https", "http", 1))
        } else {
            "is larder running there? listen.admin (--admin-listen) is where its administration port is"
                .to_owned()
        };
        let cause = if error.is_timeout() { format!("no answer in time ({cause})") } else { cause };
        self.unreachable(format!("{address} cannot be asked: {cause}"), hint)
    }

    fn untrusted(&self) -> String {
        let name = self.base.host_str().unwrap_or_default();
        let issuer = self.verifier.seen(name).and_then(|seen| Some(seen.chain.last()?.issuer.clone()));
        match issuer {
            Some(issuer) => {
                format!(
                    "its certificate was issued by {issuer}: --ca FILE names a CA, and --admin the name it is for"
                )
            }
            None => "--ca FILE names the CA of its certificate".into(),
        }
    }

    /// A larder that nobody named and that cannot be asked is a directory in use.
    fn unreachable(&self, problem: String, hint: String) -> Trouble {
        match &self.beside {
            Some(why) => Trouble::new(exit::TEMPFAIL, format!("{why}, and {problem}")).hint(WHERE),
            None => Trouble::new(exit::UNAVAILABLE, problem).hint(hint),
        }
    }

    /// What came is no word of larder's.
    fn foreign(&self, what: &str) -> Trouble {
        let hint =
            "is that the administration port of a larder of this version? the one for plugins is another";
        self.unreachable(format!("{} answers {what}", self.address()), hint.into())
    }

    fn refused(&self, response: &Response, body: &[u8]) -> Trouble {
        let status = response.status().as_u16();
        let Some(told) = serde_json::from_slice::<Told>(body).ok().filter(|told| told.code != "no_route")
        else {
            let tls =
                if status == 400 && self.base.scheme() == "http" { "; does it speak TLS there?" } else { "" };
            return self.foreign(&format!("{}{tls}", response.status()));
        };
        let (detail, hint) = (bounded(&told.detail, DETAIL), hint_of(&told.code, &told.hint));
        if status == 401 {
            return Trouble::new(exit::NOPERM, format!("{} answers 401: {detail}", self.address()))
                .hint(self.credential_wanted());
        }
        let code = match status {
            404 => exit::NOINPUT,
            403 => exit::NOPERM,
            409 | 429 => exit::TEMPFAIL,
            422 => exit::DATAERR,
            400..500 => exit::USAGE,
            500 => exit::SOFTWARE,
            503 => exit::IOERR,
            _ => exit::UNAVAILABLE,
        };
        Trouble::new(code, detail).hint(bounded(hint, DETAIL))
    }

    fn credential_wanted(&self) -> String {
        let tokens = "a token that its admin.token_file has";
        match (&self.credentials.token, &self.credentials.no_token) {
            (Some((_, file)), _) => {
                format!(
                    "the token in {} is not accepted: --admin-token-file FILE with {tokens}",
                    file.display()
                )
            }
            (None, Some(why)) => format!("{why}: --admin-token-file FILE with {tokens}"),
            (None, None) => format!("--admin-token-file FILE with {tokens}"),
        }
    }
}

/// The body, as far as it may be that of an answer.
async fn read(response: &mut Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > ANSWER_BYTES {
            break;
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// A proxy is never on the way to this machine itself.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}
