//! Who may administer, and from where.
//!
//! With a file of tokens, or with certificates of clients, who shows one of them may. With neither, whoever reaches a
//! port that is bound to loopback may; there the `Host` is looked at, because a name on the internet can be made to mean
//! this machine, and a browser believes it. What changes something must come from the page itself, if from a page.

use super::Asked;
use crate::admin;
use crate::oci::Digest;
use crate::server::crowd::site;
use crate::server::guard::Rejected;
use crate::server::tokens::{Bearer, Tokens};
use arc_swap::ArcSwap;
use http::HeaderName;
use http::header::ORIGIN;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A shorter token could be guessed.
const LEAST_CHARACTERS: usize = 16;
/// Wrong tokens of one address that are answered as such within [`WINDOW`]; then it has to wait.
const GUESSES: u32 = 5;
/// See [`GUESSES`].
const WINDOW: Duration = Duration::from_secs(1);
/// Addresses whose wrong tokens are counted at once.
const GUESSERS: usize = 4096;
/// What tokens are called where people put them into a URL, which logs and histories keep.
const IN_QUERY: [&str; 4] = ["token", "access_token", "bearer", "authorization"];

/// Who administers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Who has the token with this digest.
    Token(Digest),
    /// Who has the certificate with this name.
    Certificate(String),
    /// Who is on this machine.
    Loopback,
}

/// As the audit log has it: of a token, no more than what tells it from others.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(digest) => write!(f, "token:{}", digest.hex().get(..8).unwrap_or_default()),
            Self::Certificate(name) => write!(f, "certificate:{name}"),
            Self::Loopback => f.write_str("loopback"),
        }
    }
}

/// What the settings say of who may.
pub struct Policy {
    tokens: Option<Tokens>,
    certificates: bool,
}

impl Policy {
    /// Reads the file of tokens; `certificates` says whether clients are asked for theirs. Blocks.
    ///
    /// # Errors
    /// The key, and a text that names file and line.
    pub fn read(config: &admin::Config, certificates: bool) -> Result<Self, (&'static str, String)> {
        let read = |file| Tokens::read(file, LEAST_CHARACTERS).map_err(|fault| ("admin.token_file", fault));
        Ok(Self { tokens: config.token_file.as_deref().map(read).transpose()?, certificates })
    }
}

/// Decides who may.
pub struct Auth {
    policy: ArcSwap<Policy>,
    bound: IpAddr,
    guesses: Guesses,
    /// Changes that were refused to who is not let in.
    refused: Guesses,
}

impl Auth {
    /// For a port that is bound to an address.
    pub fn new(policy: Policy, bound: IpAddr) -> Self {
        Self {
            policy: ArcSwap::from_pointee(policy),
            bound,
            guesses: Guesses::default(),
            refused: Guesses::default(),
        }
    }

    /// From now on this decides.
    pub fn replace(&self, policy: Policy) {
        self.policy.store(policy.into());
    }

    /// Who it is that asks, if they may.
    pub fn permit(&self, asked: &Asked, now: Instant) -> Result<Who, Rejected> {
        if has_token(&asked.accepted.query) {
            let hint =
                "send it as Authorization: Bearer TOKEN, and make a new one: this one stands in logs now";
            let detail = "a token is in the URL";
            return Err(Rejected { hint, ..Rejected::new(400, "token_in_query", detail) });
        }
        let policy = self.policy.load();
        if let Some(name) = asked.certificate.as_ref().filter(|_| policy.certificates) {
            return Ok(Who::Certificate(name.clone()));
        }
        let refuse =
            |status, code, detail, hint| Err(Rejected { hint, ..Rejected::new(status, code, detail) });
        match &policy.tokens {
            Some(tokens) => self.by_token(tokens, asked, now),
            None if policy.certificates => refuse(
                403,
                "certificate_needed",
                "this is for clients with a certificate",
                "show one of a CA of tls.admin.client_ca, or set admin.token_file",
            ),
            None if !self.bound.to_canonical().is_loopback() => refuse(
                403,
                "admin_closed",
                "this port is open to others than this machine, and nothing says who may administer",
                "set admin.token_file or tls.admin.client_ca, or bind listen.admin to 127.0.0.1",
            ),
            None if !self.is_own(asked.host.as_deref().unwrap_or_default()) => refuse(
                421,
                "misdirected",
                "the Host is not this machine's",
                "ask localhost, 127.0.0.1 or the address that is listened on; by another name, set admin.token_file",
            ),
            None => Ok(Who::Loopback),
        }
    }

    fn by_token(&self, tokens: &Tokens, asked: &Asked, now: Instant) -> Result<Who, Rejected> {
        let site = site(asked.peer.ip());
        let judged = tokens.judge(&asked.headers);
        // Whoever guesses waits; who knows a token does not wait for others of the same address.
        if judged == Bearer::Wrong && self.guesses.are_over(site, now) {
            let detail = "too many wrong tokens came from this address";
            return Err(Rejected { hint: "wait a second", ..Rejected::new(429, "too_many_tokens", detail) });
        }
        let hint = "send Authorization: Bearer TOKEN, with a token of admin.token_file";
        match judged {
            Bearer::Right(digest) => Ok(Who::Token(digest)),
            Bearer::Wrong => {
                self.guesses.note(site, now);
                Err(Rejected { hint, ..Rejected::new(401, "wrong_token", "the token is not known here") })
            }
            Bearer::None => {
                Err(Rejected { hint, ..Rejected::new(401, "token_needed", "this is for who has a token") })
            }
        }
    }

    /// Whether a change that was refused to `peer` is one of the few of a second that are written down: nobody may fill a
    /// log, or a disk, without being let in.
    pub fn is_written_down(&self, peer: SocketAddr, now: Instant) -> bool {
        let site = site(peer.ip());
        if self.refused.are_over(site, now) {
            return false;
        }
        self.refused.note(site, now);
        true
    }

    /// Whether a `Host` means this machine, whatever the port: a tunnel may lead here.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => name,
            _ => host,
        };
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let is_bound = bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == self.bound.to_canonical());
        is_bound || name.eq_ignore_ascii_case("localhost") || matches!(name, "127.0.0.1" | "[::1]")
    }
}

/// Nothing of this is for pages of others: a browser tells where a page is from. Behind a proxy the scheme may differ.
pub fn check_origin(asked: &Asked) -> Result<(), Rejected> {
    let host = asked.host.as_deref().unwrap_or_default();
    let own = |origin: &[u8]| {
        let origin = std::str::from_utf8(origin).unwrap_or_default();
        let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        authority.is_some_and(|authority| !host.is_empty() && authority.eq_ignore_ascii_case(host))
    };
    // What a browser says of a request that has no `Origin`, such as that for an image.
    let is_led_here =
        asked.headers.get_all(FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none");
    if !is_led_here && asked.headers.get_all(ORIGIN).iter().all(|origin| own(origin.as_bytes())) {
        return Ok(());
    }
    let detail = "this is not for a page from elsewhere";
    Err(Rejected::new(403, "cross_origin", detail))
}

/// Fetch Metadata: where a request was led from, as browsers say.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

fn has_token(query: &str) -> bool {
    let mut names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.to_ascii_lowercase());
    names.any(|name| IN_QUERY.contains(&name.as_str()))
}

/// A request's target as logs may have it: without a query that has a token in it.
pub fn shown(target: Cow<'_, str>) -> Cow<'_, str> {
    match target.split_once('?') {
        Some((path, query)) if has_token(query) => format!("{path}?(not shown: has a token)").into(),
        _ => target,
    }
}

/// Wrong tokens by address.
#[derive(Default)]
struct Guesses(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl Guesses {
    fn are_over(&self, site: IpAddr, now: Instant) -> bool {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.get(&site).is_some_and(|(since, guesses)| now - *since < WINDOW && *guesses >= GUESSES)
    }

    fn note(&self, site: IpAddr, now: Instant) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= GUESSERS && !counted.contains_key(&site) {
            counted.retain(|_, (since, _)| now - *since < WINDOW);
            // So many at once are no people; nobody's memory is theirs to fill.
            if counted.len() >= GUESSERS {
                counted.clear();
            }
        }
        let (since, guesses) = counted.entry(site).or_insert((now, 0));
        if now - *since >= WINDOW {
            (*since, *guesses) = (now, 0);
        }
        *guesses += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_wrong_tokens_a_second_are_answered_and_then_their_address_waits_and_no_other() {
        let guesses = Guesses::default();
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for n in 0..u64::from(GUESSES) {
            assert!(!guesses.are_over(one, at(n * 100)), "{n}");
            guesses.note(one, at(n * 100));
        }
        assert!(guesses.are_over(one, at(999)));
        assert!(!guesses.are_over(other, at(999)));
        assert!(!guesses.are_over(one, at(1000)));
        guesses.note(one, at(1000));
        assert!(!guesses.are_over(one, at(1001)), "they are counted anew");
    }

    #[test]
    fn addresses_without_number_fill_no_memory() {
        let guesses = Guesses::default();
        let now = Instant::now();
        for n in 0..3 * GUESSERS as u32 {
            guesses.note(IpAddr::V4(n.into()), now);
            assert!(guesses.0.lock().unwrap().len() <= GUESSERS);
        }
    }

    #[test]
    fn the_host_of_an_open_port_is_this_machine_by_a_name_that_nobody_else_can_give_it() {
        let auth =
            |bound: &str| Auth::new(Policy { tokens: None, certificates: false }, bound.parse().unwrap());
        for own in ["localhost", "LOCALHOST:9090", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:9090"] {
            assert!(auth("127.0.0.1").is_own(own), "{own}");
        }
        assert!(auth("127.0.0.9").is_own("127.0.0.9:9090") && auth("::1").is_own("[0::1]:80"));
        let others = [
            "",
            "evil.test",
            "localhost.evil.test",
            "127.0.0.1.evil.test:9090",
            "127.0.0.2",
            "localhost.",
            "10.0.0.1",
        ];
        for other in others {
            assert!(!auth("127.0.0.1").is_own(other), "{other}");
        }
    }

    #[test]
    fn a_token_in_a_url_is_not_shown() {
        for query in ["token=s3cret", "a=b&access_token=s3cret", "%74oken=s3cret", "TOKEN=s3cret"] {
            let shown = shown(format!("/explain?{query}").into());
            assert!(shown.starts_with("/explain?") && !shown.contains("s3cret"), "{shown}");
        }
        assert_eq!(shown("/explain?name=token".into()), "/explain?name=token");
        assert_eq!(shown("/a.wasm".into()), "/a.wasm");
    }
}
