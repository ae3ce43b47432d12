//! Whom plugins are for.

use super::tokens::{Bearer, Tokens};
use crate::catalog::Names;
use crate::plugin::PluginName;
use arc_swap::ArcSwap;
use glob::Pattern;
use http::HeaderMap;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Settings.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The first that has a plugin's name decides.
    pub rules: Vec<RuleConfig>,
}

/// Whom some plugins are for.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Names; `*` is any text.
    pub plugins: Vec<String>,
    /// A bearer token a line.
    #[serde(default)]
    pub tokens_file: Option<PathBuf>,
    /// Names in client certificates: DNS, URI or common name.
    #[serde(default)]
    pub client_certificates: Vec<String>,
}

impl Config {
    /// What makes no sense, where clients are `asked` for certificates or not.
    pub fn faults(&self, asked: bool) -> Vec<String> {
        let mut out = Vec::new();
        for (n, rule) in self.rules.iter().enumerate() {
            let n = n + 1;
            if rule.plugins.is_empty() {
                out.push(format!("rule {n} is for no plugin; expected plugins: [NAME]"));
            }
            for plugins in rule.plugins.iter().filter(|plugins| !is_pattern(plugins)) {
                let expected = "expected a plugin's name (a-z 0-9 . _ -), or part of one and * for any text";
                let shown = crate::oci::error_code::shown(plugins);
                out.push(format!("rule {n}: '{shown}' fits no plugin's name; {expected}"));
            }
            if rule.tokens_file.is_none() && rule.client_certificates.is_empty() {
                out.push(format!("rule {n} lets nobody in; expected tokens_file or client_certificates"));
            }
            if !rule.client_certificates.is_empty() && !asked {
                out.push(format!(
                    "rule {n}: client_certificates need tls.data.client_ca, whose certificates count"
                ));
            }
        }
        out
    }

    /// True when a client may have to show a token.
    pub fn has_tokens(&self) -> bool {
        self.rules.iter().any(|rule| rule.tokens_file.is_some())
    }

    /// The files that are named.
    pub fn files(&self) -> Vec<PathBuf> {
        self.rules.iter().filter_map(|rule| rule.tokens_file.clone()).collect()
    }
}

/// Whether a text is a plugin's name, or one with `*` in it. What fits no name would protect nothing.
fn is_pattern(text: &str) -> bool {
    text.replace('*', "a").parse::<PluginName>().is_ok()
}

/// The rules, read and checked.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    plugins: Vec<Pattern>,
    tokens: Tokens,
    certificates: Vec<String>,
}

/// What the rules say of a request for a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is for everybody.
    Open,
    /// It is for some, and this is one of them.
    Allowed,
    /// It is for some, and who asks shows nothing.
    Needed,
    /// It is for some, and this is none of them.
    Denied,
}

impl Rules {
    /// Reads the files of the rules. Blocks.
    ///
    /// # Errors
    /// All faults, each with its file.
    pub fn read(config: &Config) -> Result<Self, Vec<String>> {
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        for rule in &config.rules {
            let mut tokens = Tokens::default();
            if let Some(file) = &rule.tokens_file {
                match Tokens::read(file, 1) {
                    Ok(read) => tokens = read,
                    Err(fault) => faults.push(fault),
                }
            }
            let plugins = rule.plugins.iter().filter_map(|plugins| Pattern::new(plugins).ok()).collect();
            rules.push(Rule { plugins, tokens, certificates: rule.client_certificates.clone() });
        }
        if faults.is_empty() { Ok(Self(rules)) } else { Err(faults) }
    }

    /// True when all plugins are for everybody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the plugin `name` is for who sends `headers` and has `shown` a certificate with these names.
    pub fn judge(&self, name: &str, headers: &HeaderMap, shown: Option<&[String]>) -> Verdict {
        let Some(rule) = self.0.iter().find(|rule| rule.plugins.iter().any(|plugins| plugins.matches(name)))
        else {
            return Verdict::Open;
        };
        let bearer = rule.tokens.judge_any(headers);
        let names = shown.unwrap_or_default();
        match bearer {
            Bearer::Right(_) => Verdict::Allowed,
            _ if names.iter().any(|name| rule.certificates.contains(name)) => Verdict::Allowed,
            Bearer::None if shown.is_none() => Verdict::Needed,
            _ => Verdict::Denied,
        }
    }
}

/// What names mean and whom they are for. They are replaced as one: a name that comes with its rule is never without it.
pub struct Meaning {
    /// The names.
    pub names: Arc<Names>,
    /// The rules.
    pub rules: Rules,
}

/// Names and rules in use.
pub struct Access(ArcSwap<Meaning>);

impl Access {
    /// Begins with these.
    pub fn new(names: Arc<Names>, rules: Rules) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(Meaning { names, rules })))
    }

    /// From now on these decide.
    pub fn replace(&self, names: Arc<Names>, rules: Rules) {
        self.0.store(Arc::new(Meaning { names, rules }));
    }

    /// What is in use, the same for all of a request.
    pub fn current(&self) -> Arc<Meaning> {
        self.0.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::AUTHORIZATION;

    fn rule(plugins: &[&str], file: Option<&std::path::Path>, certificates: &[&str]) -> RuleConfig {
        RuleConfig {
            plugins: plugins.iter().map(ToString::to_string).collect(),
            tokens_file: file.map(Into::into),
            client_certificates: certificates.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn the_first_rule_with_a_name_decides_and_names_without_one_are_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        let (one, two) = (put("one", "one\n"), put("two", "two\n"));
        let rules = vec![
            rule(&["payment-public"], Some(&one), &["everyone"]),
            rule(&["payment-*", "auth"], Some(&two), &["gateway.corp", "spiffe://corp/gateway"]),
        ];
        let rules = Rules::read(&Config { rules }).unwrap();
        let judge = |name: &str, token: &str, certificate: &[&str]| {
            let mut headers = HeaderMap::new();
            if !token.is_empty() {
                headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            }
            let names: Vec<_> = certificate.iter().map(ToString::to_string).collect();
            rules.judge(name, &headers, (!certificate.is_empty()).then_some(&names[..]))
        };
        for (name, token, certificate, verdict) in [
            ("waf", "", &[][..], Verdict::Open),
            ("waf", "wrong", &["other"], Verdict::Open),
            ("payment", "", &[], Verdict::Open),
            ("my-payment-x", "", &[], Verdict::Open),
            ("payment-public", "one", &[], Verdict::Allowed),
            ("payment-public", "two", &[], Verdict::Denied),
            ("payment-public", "", &["gateway.corp"], Verdict::Denied),
            ("payment-x", "two", &[], Verdict::Allowed),
            ("payment-x", "two", &["other"], Verdict::Allowed),
            ("payment-x", "one", &[], Verdict::Denied),
            ("payment-x", "one", &["gateway.corp"], Verdict::Allowed),
            ("payment-", "", &["other", "spiffe://corp/gateway"], Verdict::Allowed),
            ("payment-x", "", &["gateway.corp.evil"], Verdict::Denied),
            ("payment-x", "", &["Gateway.corp"], Verdict::Denied),
            ("auth", "", &[], Verdict::Needed),
        ] {
            assert_eq!(judge(name, token, certificate), verdict, "{name} {token} {certificate:?}");
        }
    }
}
