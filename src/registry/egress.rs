//! The way out: through which proxy a URL is asked for, if through any.
//!
//! The choice is made here and not by the HTTP client, so that it can be told: a refused connection through a proxy is
//! the proxy's, and `larder explain` names the setting that chose it.

use super::config::{ProxyConfig, Surroundings};
use super::credentials::secret;
use crate::oci::reference::masked;
use ipnet::IpNet;
use reqwest::Proxy;
use secrecy::{ExposeSecret, SecretString};
use std::net::IpAddr;
use url::Url;

/// One proxy.
#[derive(Clone, Debug)]
pub struct Way {
    /// `scheme://host:port`, without credentials.
    pub shown: String,
    /// The setting or variable that names it.
    pub from: String,
    /// As the client has it.
    pub url: Url,
    user: Option<(String, SecretString)>,
}

/// Which proxy is for which URL.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// For `http` URLs.
    pub http: Option<Way>,
    /// For `https` URLs.
    pub https: Option<Way>,
    no_proxy: NoProxy,
}

/// How a URL is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Without a proxy, and why.
    Direct(String),
    /// Through the proxy for this scheme.
    Proxied,
}

/// Hosts that are reached without a proxy.
#[derive(Clone, Debug, Default)]
struct NoProxy {
    from: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    text: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Everything,
    Net(IpNet),
    /// A domain and what is below it, and a port where one is written.
    Domain(String, Option<u16>),
}

impl Way {
    fn new(text: &str, from: &str) -> Result<Self, String> {
        let shown = masked(text);
        let expected = "expected http://, https:// or socks5h://host:port";
        // As in every other program's environment, a proxy without a scheme is one for http.
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let mut url: Url = full.parse().map_err(|_| format!("'{shown}' is no URL; {expected}"))?;
        // Names are the proxy's to resolve: it is there because this machine cannot.
        if url.scheme() == "socks5" {
            url =
                full.replacen("socks5", "socks5h", 1).parse().map_err(|_| format!("'{shown}' is no URL"))?;
        }
        if !matches!(url.scheme(), "http" | "https" | "socks5h") {
            return Err(format!("'{shown}' has the scheme {}; {expected}", url.scheme()));
        }
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return Err(format!("'{shown}' names no host; {expected}"));
        };
        // Most likely the end of a password that has a slash in it.
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(format!(
                "'{shown}' has a path; {expected}, with / and # in a password written as %2F and %23"
            ));
        }
        let port = url.port_or_known_default().unwrap_or(1080);
        let shown = format!("{}://{host}:{port}", url.scheme());
        let user = match (url.username(), url.password()) {
            ("", None) => None,
            (name, password) => {
                let decoded = |text: &str| percent_decoded(text).unwrap_or_else(|| text.to_owned());
                Some((decoded(name), decoded(password.unwrap_or_default()).into()))
            }
        };
        // Credentials are handed over apart from it, and cannot be printed with it.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Self { shown, from: from.into(), url, user })
    }

    /// For the client.
    pub fn proxy(&self) -> Result<Proxy, String> {
        let made =
            Proxy::all(self.url.clone()).map_err(|_| format!("{} cannot be used as a proxy", self.shown))?;
        Ok(match &self.user {
            Some((name, password)) => made.basic_auth(name, password.expose_secret()),
            None => made,
        })
    }

    /// Whether it is asked as somebody.
    pub fn has_user(&self) -> bool {
        self.user.is_some()
    }
}

impl Egress {
    /// What `config`, written at `key`, and the environment say.
    ///
    /// # Errors
    /// A text that names what is wrong, without credentials.
    pub fn new(config: &ProxyConfig, key: &str, env: &Surroundings) -> Result<Self, String> {
        let no_proxy = match &config.no_proxy {
            Some(list) => NoProxy::new(list.iter().map(String::as_str), &format!("{key}.no_proxy"))?,
            None => match env.first(&["NO_PROXY", "no_proxy"]) {
                // A name that means nothing to us was written for another program.
                Some((name, text)) => NoProxy::lenient(text, name),
                None => NoProxy::default(),
            },
        };
        let user = match (&config.username, &config.password_file) {
            (None, None) => None,
            (Some(name), Some(file)) => Some((name.clone(), secret(file)?)),
            _ => return Err("username and password_file belong together; one of them is missing".into()),
        };
        let (http, https) = match config.url.as_deref() {
            Some("direct") => (None, None),
            Some(text) => {
                if masked(text).contains('@') || text.contains('@') {
                    return Err(
                        "a proxy's URL has no credentials in it: use username and password_file".into()
                    );
                }
                let mut way = Way::new(text, &format!("{key}.url"))?;
                way.user = user.clone();
                (Some(way.clone()), Some(way))
            }
            None => {
                let way = |names: &[&str]| match env.first(names) {
                    Some((name, text)) => Way::new(text, name).map(Some).map_err(|e| format!("{name}: {e}")),
                    None => Ok(None),
                };
                let mut http = way(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])?;
                let mut https = way(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])?;
                for way in http.iter_mut().chain(https.iter_mut()) {
                    way.user = user.clone().or(way.user.take());
                }
                (http, https)
            }
        };
        if config.url.as_deref() == Some("direct") && user.is_some() {
            return Err("username and password_file are for a proxy, and url says direct".into());
        }
        Ok(Self { http, https, no_proxy })
    }

    /// How `url` is reached.
    pub fn choose(&self, url: &Url) -> Choice {
        let way = if url.scheme() == "http" { &self.http } else { &self.https };
        if way.is_none() {
            return Choice::Direct("no proxy is set".into());
        }
        match self.no_proxy.entry_for(url) {
            Some(entry) => Choice::Direct(format!("{} has {entry}", self.no_proxy.from)),
            None => Choice::Proxied,
        }
    }

    /// The proxy that `url` is asked for through, if it is through one.
    pub fn way(&self, url: &Url) -> Option<&Way> {
        let way = if url.scheme() == "http" { &self.http } else { &self.https };
        way.as_ref().filter(|_| self.choose(url) == Choice::Proxied)
    }
}

impl NoProxy {
    fn new<'t>(texts: impl Iterator<Item = &'t str>, from: &str) -> Result<Self, String> {
        let entries = texts.map(Entry::new).collect::<Result<_, _>>()?;
        Ok(Self { from: from.into(), entries })
    }

    fn lenient(text: &str, from: &str) -> Self {
        let entries = text.split(',').filter_map(|part| Entry::new(part).ok()).collect();
        Self { from: from.into(), entries }
    }

    fn entry_for(&self, url: &Url) -> Option<&str> {
        let host = url.host_str()?.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let port = url.port_or_known_default();
        let address = host.parse::<IpAddr>().ok();
        let fits = |entry: &&Entry| match &entry.what {
            What::Everything => true,
            What::Net(net) => address.is_some_and(|address| net.contains(&address)),
            What::Domain(domain, wanted) => {
                let below = host
                    .strip_suffix(domain.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                below && wanted.is_none_or(|wanted| Some(wanted) == port)
            }
        };
        self.entries.iter().find(fits).map(|entry| entry.text.as_str())
    }
}

impl Entry {
    fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let entry = |what| Ok(Self { text: text.into(), what });
        if text == "*" {
            return entry(What::Everything);
        }
        let bare = text.trim_matches(['[', ']']);
        if let Ok(net) = bare.parse::<IpNet>() {
            return entry(What::Net(net));
        }
        if let Ok(address) = bare.parse::<IpAddr>() {
            return entry(What::Net(address.into()));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| bad(text))?)),
            None => (text, None),
        };
        let domain =
            name.trim_start_matches('*').trim_start_matches('.').trim_end_matches('.').to_ascii_lowercase();
        if !crate::oci::reference::is_registry(&domain) {
            return Err(bad(text));
        }
        entry(What::Domain(domain, port))
    }
}

fn bad(text: &str) -> String {
    let shown = masked(text);
    format!("'{shown}' is no host, .suffix, address or network such as 10.0.0.0/8")
}

/// `%41` is `A`; `None` where that gives no text.
fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match (first, behind) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                rest = after;
            }
            _ => out.push(*first),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(config: ProxyConfig, env: &[(&str, &str)]) -> Result<Egress, String> {
        Egress::new(&config, "registry.proxy", &Surroundings::of(env))
    }

    fn way(egress: &Egress, url: &str) -> Option<String> {
        egress.way(&url.parse().unwrap()).map(|way| format!("{} {}", way.shown, way.from))
    }

    #[test]
    fn the_environment_is_the_default_and_a_setting_wins() {
        let env = [
            ("HTTPS_PROXY", "http://u:p%40ss@secure:3128"),
            ("http_proxy", "plain:8080"),
            ("NO_PROXY", ".corp"),
        ];
        let from_env = egress(ProxyConfig::default(), &env).unwrap();
        assert_eq!(way(&from_env, "https://r.example/").as_deref(), Some("http://secure:3128 HTTPS_PROXY"));
        assert_eq!(way(&from_env, "http://r.example/").as_deref(), Some("http://plain:8080 http_proxy"));
        assert_eq!(way(&from_env, "https://harbor.corp/"), None);
        assert!(from_env.https.as_ref().unwrap().has_user());
        assert_eq!(from_env.https.as_ref().unwrap().user.as_ref().unwrap().1.expose_secret(), "p@ss");
        let set = ProxyConfig { url: Some("socks5://out:1080".into()), ..ProxyConfig::default() };
        let set = egress(set, &env).unwrap();
        assert_eq!(way(&set, "https://r.example/").as_deref(), Some("socks5h://out:1080 registry.proxy.url"));
        assert_eq!(way(&set, "https://harbor.corp/"), None, "NO_PROXY holds unless no_proxy is set");
        let direct = ProxyConfig { url: Some("direct".into()), ..ProxyConfig::default() };
        assert_eq!(way(&egress(direct, &env).unwrap(), "https://r.example/"), None);
        let all = egress(ProxyConfig::default(), &[("ALL_PROXY", "socks5h://s:1")]).unwrap();
        assert_eq!(way(&all, "http://r.example/").as_deref(), Some("socks5h://s:1 ALL_PROXY"));
        assert_eq!(
            way(&egress(ProxyConfig::default(), &[("HTTPS_PROXY", " ")]).unwrap(), "https://r/"),
            None
        );
    }

    #[test]
    fn no_proxy_knows_names_suffixes_addresses_networks_and_ports() {
        let list = |entries: &[&str]| ProxyConfig {
            url: Some("http://p:1".into()),
            no_proxy: Some(entries.iter().map(|entry| entry.to_string()).collect()),
            ..ProxyConfig::default()
        };
        let direct = |entries: &[&str], url: &str| way(&egress(list(entries), &[]).unwrap(), url).is_none();
        for (entry, url) in [
            ("harbor.corp", "https://harbor.corp/"),
            ("corp", "https://harbor.corp/"),
            (".corp", "https://harbor.corp/"),
            ("*.corp", "https://a.harbor.CORP:8443/"),
            ("10.0.0.0/8", "https://10.1.2.3/"),
            ("10.1.2.3", "https://10.1.2.3:5000/"),
            ("fd00::/8", "https://[fd00::1]:5000/"),
            ("::1", "http://[::1]/"),
            ("harbor.corp:8443", "https://harbor.corp:8443/"),
            ("*", "https://anything/"),
        ] {
            assert!(direct(&[entry], url), "{entry} {url}");
            assert!(direct(&["other.example", entry], url), "{entry} {url}");
        }
        for (entry, url) in [
            ("corp", "https://harborcorp/"),
            ("harbor.corp", "https://other.corp/"),
            ("10.0.0.0/8", "https://11.1.2.3/"),
            ("10.0.0.0/8", "https://ten.example/"),
            ("harbor.corp:8443", "https://harbor.corp/"),
        ] {
            assert!(!direct(&[entry], url), "{entry} {url}");
        }
        let chosen = egress(list(&[".corp"]), &[]).unwrap().choose(&"https://h.corp/".parse().unwrap());
        assert_eq!(chosen, Choice::Direct("registry.proxy.no_proxy has .corp".into()));
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_never_echoes_a_password() {
        for url in [
            "http://u:12/s3cret@p:1",
            "http://u:pa/s3cret@p:1",
            "u:12/s3cret@p:1",
            "ftp://p:1",
            "http://",
            "socks4://p:1",
            "http://u:s3cret@p:1",
            "u:s3cret@p:1",
        ] {
            let config = ProxyConfig { url: Some(url.into()), ..ProxyConfig::default() };
            let told = egress(config, &[]).unwrap_err();
            assert!(!told.contains("s3cret"), "{told}");
        }
        let told = egress(ProxyConfig::default(), &[("HTTPS_PROXY", "ftp://u:s3cret@p:1")]).unwrap_err();
        assert!(told.starts_with("HTTPS_PROXY: ") && !told.contains("s3cret"), "{told}");
        let half = ProxyConfig { username: Some("u".into()), ..ProxyConfig::default() };
        assert!(egress(half, &[]).unwrap_err().contains("belong together"));
        let bad = ProxyConfig { no_proxy: Some(vec!["a b".into()]), ..ProxyConfig::default() };
        assert!(egress(bad, &[]).unwrap_err().contains("'a b'"));
        for url in ["http://u:12/s3cret@p:1", "http://u:pa/s3cret@p:1", "u:12/s3cret@p:1"] {
            let told = egress(ProxyConfig::default(), &[("HTTPS_PROXY", url)]).unwrap_err();
            assert!(!told.contains("s3cret"), "{told}");
        }
        let way = Way::new("http://u:s3cret@p:1", "x").unwrap();
        assert!(!format!("{way:?}").contains("s3cret"));
    }
}
