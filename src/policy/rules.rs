//! The settings of the policy, and rules made of them.

use super::gate::Subject;
use super::trust::{KeyFiles, demand};
use crate::oci::reference::{is_registry, is_repository, is_tag};
use crate::plugin::{PluginName, Version};
use crate::signature::{self, Demand};
use bytesize::ByteSize;
use glob::Pattern;
use serde::Deserialize;
use std::borrow::Cow;

/// Settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whether registries may be asked, where no rule says it.
    pub mode: Mode,
    /// The first that fits decides; what none fits is allowed.
    pub rules: Vec<RuleConfig>,
    /// Whether tags that are no whole version may be served.
    pub floating_tags: FloatingTags,
    /// Largest module in bytes; `None` is `limits.module`.
    pub largest: Option<ByteSize>,
    /// Proxy-Wasm ABI versions, `*` is any text; a module has to have one of them. Empty: any, and none.
    pub abi: Vec<String>,
    /// Who must have signed it, where no rule says it.
    pub signatures: signature::Config,
}

/// One rule. What it does not name fits everything; `*` is any text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Names of plugins.
    #[serde(default)]
    pub plugin: Option<String>,
    /// Versions, by the catalog: tags, `sha256:…`, or what a line `name@version=` says.
    #[serde(default)]
    pub version: Option<String>,
    /// Registries as references write them, with their port.
    #[serde(default)]
    pub registry: Option<String>,
    /// Paths within a registry.
    #[serde(default)]
    pub repository: Option<String>,
    /// Whether what fits may be served.
    #[serde(default = "allowed")]
    pub allow: bool,
    /// Whether registries may be asked for it; `None` is the mode of all.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// Who must have signed it; what is not written is as for all.
    #[serde(default)]
    pub signatures: Option<signature::RuleConfig>,
}

fn allowed() -> bool {
    true
}

/// Whether registries may be asked. The further down, the less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// For what is not held, and whether what is held is current.
    Online,
    /// Only for what is not held.
    Fallback,
    /// Never.
    Offline,
}

impl Mode {
    /// The word of the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Fallback => "fallback",
            Self::Offline => "offline",
        }
    }
}

/// Whether tags that are no whole version may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloatingTags {
    /// As any other.
    Allow,
    /// They are refused.
    Deny,
}

impl Config {
    /// True when nobody is ever asked: no rule makes an exception.
    pub fn is_offline(&self) -> bool {
        self.mode == Mode::Offline
    }

    /// In a line, for people.
    pub fn told(&self) -> String {
        let mut told = vec![self.mode.as_str().to_owned()];
        match self.rules.len() {
            0 => {}
            1 => told.push("1 rule".into()),
            rules => told.push(format!("{rules} rules")),
        }
        if self.floating_tags == FloatingTags::Deny {
            told.push("no floating tags".into());
        }
        told.extend(self.largest.map(|largest| format!("at most {largest}")));
        if !self.abi.is_empty() {
            told.push(format!("ABI {}", self.abi.join(" or ")));
        }
        told.join(", ")
    }

    /// What makes no sense, each with its key.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        for (n, rule) in self.rules.iter().enumerate() {
            let n = n + 1;
            for (part, glob, fits) in rule.globs() {
                if let Some(glob) = glob.filter(|glob| !fits(&glob.replace('*', "a"))) {
                    let shown = crate::oci::error_code::shown(glob);
                    let expected = "expected one, or part of one and * for any text";
                    out.push(("policy.rules", format!("rule {n}: '{shown}' fits no {part}; {expected}")));
                }
            }
            if let Some(signatures) = &rule.signatures {
                let faults = self.signatures.with(signatures).faults();
                for (key, problem) in faults.into_iter().chain(signatures.fault(&self.signatures)) {
                    out.push(("policy.rules", format!("rule {n}: signatures.{key} {problem}")));
                }
            }
            match rule.mode {
                Some(_) if !rule.allow => {
                    let problem = format!("rule {n} has a mode for what it does not allow");
                    out.push(("policy.rules", problem));
                }
                Some(mode) if self.mode == Mode::Offline && mode != Mode::Offline => {
                    let problem = format!(
                        "rule {n} is {}, and policy.mode: offline is for all; \
                         set policy.mode: online, and mode: offline in the rules that need it",
                        mode.as_str()
                    );
                    out.push(("policy.rules", problem));
                }
                _ => {}
            }
        }
        for (key, problem) in self.signatures.faults() {
            let key = match key {
                "mode" => "policy.signatures.mode",
                "identities" => "policy.signatures.identities",
                _ => "policy.signatures.trusted_root",
            };
            out.push((key, problem));
        }
        if self.largest.is_some_and(|largest| largest.as_u64() == 0) {
            out.push(("policy.largest", "is zero: nothing would be served; expected a size, or null".into()));
        }
        let is_abi = |abi: &String| {
            !abi.is_empty() && abi.bytes().all(|b| b.is_ascii_alphanumeric() || b".*_-".contains(&b))
        };
        for abi in self.abi.iter().filter(|abi| !is_abi(abi)) {
            let shown = crate::oci::error_code::shown(abi);
            out.push(("policy.abi", format!("'{shown}' is no ABI version; expected one such as 0.2.*")));
        }
        out
    }

    /// What works and is probably not meant, each with its key.
    pub fn doubts(&self) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        let demands = |rule: &RuleConfig| {
            rule.signatures
                .as_ref()
                .is_some_and(|rule| self.signatures.with(rule).mode != signature::Mode::Off)
        };
        if self.signatures.is_idle() && !self.rules.iter().any(demands) {
            let problem =
                "is off, and keys are named: nobody looks for their signatures; expected warn or require";
            out.push(("policy.signatures.mode", problem.into()));
        }
        let all = self.rules.iter().position(RuleConfig::fits_all);
        if let Some(all) = all {
            if self.rules[..=all].iter().all(|rule| !rule.allow) {
                out.push(("policy.rules", "no plugin is allowed: everything will be refused".to_owned()));
            }
            if all + 1 < self.rules.len() {
                let problem = format!("rule {} fits everything: those behind it decide nothing", all + 1);
                out.push(("policy.rules", problem));
            }
        }
        out
    }
}

/// A part of a rule: what it is called, what is written, and what fits it.
type Part<'r> = (&'static str, Option<&'r str>, fn(&str) -> bool);

impl RuleConfig {
    fn globs(&self) -> [Part<'_>; 4] {
        [
            ("plugin", self.plugin.as_deref(), |text| text.parse::<PluginName>().is_ok()),
            ("version", self.version.as_deref(), |text| is_tag(text) || text.starts_with("sha256:")),
            ("registry", self.registry.as_deref(), is_registry_part),
            ("repository", self.repository.as_deref(), is_repository),
        ]
    }

    /// True when nothing is left for a rule behind it.
    fn fits_all(&self) -> bool {
        let is_any = |glob: &&str| glob.bytes().all(|b| b == b'*');
        self.globs().iter().all(|(_, glob, _)| glob.as_ref().is_none_or(is_any))
    }
}

/// A port may be any, too.
fn is_registry_part(text: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit() || b == b'a');
    is_registry(text) || text.rsplit_once(':').is_some_and(|(host, port)| is_port(port) && is_registry(host))
}

/// A rule, made for judging.
#[derive(Debug)]
pub struct Rule {
    plugin: Option<Pattern>,
    version: Option<Pattern>,
    registry: Option<Pattern>,
    repository: Option<Pattern>,
    /// Whether what fits may be served.
    pub allow: bool,
    /// Whether registries may be asked for it.
    pub mode: Option<Mode>,
    /// Who must have signed it.
    pub signatures: Option<Demand>,
}

impl Rule {
    /// Of the settings, which were found to be without fault; `all` is what they say for all.
    pub fn new(config: &RuleConfig, all: &signature::Config, keys: &KeyFiles) -> Self {
        let of = |glob: &Option<String>| glob.as_deref().map(glob_of);
        Self {
            plugin: of(&config.plugin),
            version: of(&config.version),
            // References have them in lower case.
            registry: config.registry.as_ref().map(|glob| glob_of(&glob.to_ascii_lowercase())),
            repository: of(&config.repository),
            allow: config.allow,
            mode: config.mode,
            signatures: config.signatures.as_ref().map(|rule| demand(&all.with(rule), keys)),
        }
    }

    /// Whether the rule is for `subject`. What the subject does not have fits only a rule that does not name it.
    pub fn fits(&self, subject: Subject<'_>) -> bool {
        let fits = |glob: &Option<Pattern>, text: Option<&str>| {
            glob.as_ref().is_none_or(|glob| text.is_some_and(|text| glob.matches(text)))
        };
        let version = || match subject.version {
            Version::Tag(tag) => Cow::Borrowed(tag.as_str()),
            Version::Digest(digest) => digest.to_string().into(),
        };
        fits(&self.plugin, subject.name.map(PluginName::as_str))
            && fits(&self.registry, subject.reference.map(|reference| reference.registry()))
            && fits(&self.repository, subject.reference.map(|reference| reference.repository_path()))
            && (self.version.is_none() || fits(&self.version, Some(&version())))
    }
}

/// `*` is any text, and nothing else is special.
pub fn glob_of(text: &str) -> Pattern {
    // Two stars in a row mean folders to the library, and no more than one does here.
    let (first, rest) = text.split_once('*').unwrap_or((text, ""));
    let mut pattern = Pattern::escape(first);
    if text.contains('*') {
        let parts = rest.split('*').filter(|part| !part.is_empty());
        pattern.extend(parts.map(|part| format!("*{}", Pattern::escape(part))));
        if text.ends_with('*') {
            pattern.push('*');
        }
    }
    Pattern::new(&pattern).unwrap_or_else(|e| unreachable!("single stars in escaped text are a pattern: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_and_nothing_else_is_special() {
        for (glob, fits, others) in [
            ("ai-*", &["ai-proxy", "ai-"][..], &["ai", "my-ai-proxy"][..]),
            ("*", &["", "a", "plugins/x/y"], &[]),
            ("**", &["", "a", "plugins/x/y"], &[]),
            ("a**b", &["ab", "a/x/b"], &["a", "b", "abc"]),
            ("plugins/*", &["plugins/a", "plugins/a/b"], &["plugin/a", "my/plugins/a"]),
            ("*.corp:*", &["harbor.corp:5000"], &["harbor.corp", "harbor-corp:1"]),
            ("[::1]:5000", &["[::1]:5000"], &[":", "1"]),
            ("a?c", &["a?c"], &["abc"]),
            ("a.c", &["a.c"], &["abc"]),
        ] {
            for text in fits {
                assert!(glob_of(glob).matches(text), "{glob} {text}");
            }
            for text in others {
                assert!(!glob_of(glob).matches(text), "{glob} {text}");
            }
        }
    }

    #[test]
    fn a_glob_of_many_stars_is_judged_at_once() {
        let glob = glob_of(&"a*".repeat(60));
        assert!(!glob.matches(&format!("{}b", "a".repeat(59))));
        assert!(!glob_of(&format!("{}b", "*a".repeat(60))).matches(&"a".repeat(128)));
    }
}
