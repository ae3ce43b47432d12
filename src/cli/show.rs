//! `larder show`: everything that is known of an entry.

use super::larder::{Address, Wish};
use super::output::{self, DETAIL, Now, Output};
use super::status::{self, Listed};
use super::trouble::Trouble;
use super::{exit, print, runtime};
use crate::admin::entries::{Entry, Page, Query};
use crate::catalog::version_of;
use crate::config::Loaded;
use crate::failures::{self, Failure};
use crate::oci::Reference;
use crate::oci::error_code::bounded;
use crate::plugin::{PluginError, PluginName, Request};
use clap::Args;
use std::process::ExitCode;
use std::str::FromStr;

/// Show all that is known of an entry: digests, sizes, times, its last failure
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  larder show ai-proxy                             every version that is known
  larder show ai-proxy@2.0.1
  larder show harbor.corp/plugins/waf:1.0.0 -o json")]
pub struct Show {
    /// NAME, NAME@VERSION, or a key of `larder list --keys`: a reference, or a local file's path
    #[arg(value_name = "KEY|NAME[@VERSION]")]
    what: What,
    /// text, or json as the administration API has it: an entry for a key, a page of them for a name
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    address: Address,
}

/// What is shown.
#[derive(Debug, Clone)]
enum What {
    Key(String),
    Plugin(Request),
}

impl FromStr for What {
    type Err = PluginError;

    fn from_str(text: &str) -> Result<Self, PluginError> {
        // Names have no slash; references and paths have one.
        if text.contains('/') { Ok(Self::Key(text.into())) } else { plugin(text).map(Self::Plugin) }
    }
}

/// `NAME` or `NAME@VERSION`.
///
/// # Errors
/// One of them is none.
pub fn plugin(text: &str) -> Result<Request, PluginError> {
    let (name, version) = text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
    let name: PluginName = name.parse()?;
    Ok(Request { name, version: version.map(str::parse).transpose()? })
}

impl Show {
    /// Asks and prints.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        self.show(loaded).unwrap_or_else(|trouble| trouble.tell())
    }

    fn show(&self, loaded: &Loaded) -> Result<ExitCode, Trouble> {
        let runtime = runtime()?;
        let larder = self.address.find(loaded, &runtime, Wish::Look)?;
        let request = match &self.what {
            What::Key(key) => {
                let entry = runtime.block_on(larder.entry(key))?;
                return Ok(print(&match self.output {
                    Output::Json => output::json(&entry),
                    Output::Text => facts(&entry),
                }));
            }
            What::Plugin(request) => request,
        };
        let query = Query { plugin: Some(request.name.to_string()), ..Query::default() };
        let mut entries = runtime.block_on(larder.entries(&query, None))?.entries;
        if let Some(version) = &request.version {
            let version = version.to_string();
            entries.retain(|entry| entry.version == version || entry.manifest.as_ref() == Some(&version));
        }
        if entries.is_empty() {
            let mut failures = runtime.block_on(larder.failures())?;
            failures.retain(|failure| is_about(failure, request));
            return Err(self.nothing(request, &failures));
        }
        Ok(print(&match self.output {
            Output::Json => output::json(&Page { total: entries.len(), entries, next: None }),
            Output::Text => entries.iter().map(facts).collect::<Vec<_>>().join("\n"),
        }))
    }

    /// Nothing is held of it. If it was asked for and failed, that is shown.
    fn nothing(&self, request: &Request, failures: &[Failure]) -> Trouble {
        if failures.is_empty() {
            let trouble = Trouble::new(exit::NOINPUT, format!("nothing is known of '{request}'"));
            return trouble.hint("larder list shows what there is");
        }
        print(&match self.output {
            Output::Json => output::json(&Listed { failures }),
            Output::Text => status::failed(failures),
        });
        Trouble::new(exit::NOINPUT, format!("'{request}' was asked for, and nothing came of it"))
    }
}

/// Whether a failure is of this plugin: by its reference's repository and tag, or by the words of a request's path.
fn is_about(failure: &Failure, request: &Request) -> bool {
    let (name, version) = (request.name.as_str(), request.version.as_ref().map(ToString::to_string));
    let reference = failure.reference.as_ref().and_then(|text| text.parse::<Reference>().ok());
    let last = reference.as_ref().and_then(|reference| reference.repository_path().rsplit('/').next());
    let tag = reference.as_ref().map(|reference| version_of(reference).to_string());
    let has = |word: &str| {
        failure.what == failures::What::Request && failure.subject.split('/').any(|one| one == word)
    };
    let is_tagged = |version: &str| tag.as_deref() == Some(version) || has(version);
    (last == Some(name) || has(name)) && version.as_deref().is_none_or(is_tagged)
}

/// An entry, a line a fact.
fn facts(entry: &Entry) -> String {
    let now = Now::read();
    let at = |time: &Option<String>| time.as_ref().map(|time| format!("{time} ({})", now.seen(time)));
    let bytes = |size: &Option<u64>| size.map(|size| format!("{size} bytes ({})", output::size(size)));
    let mut text = format!("{} {}\n", entry.plugin, entry.version);
    for (name, value) in [
        ("key", Some(entry.key.clone())),
        ("state", Some(output::word(&entry.state))),
        ("registry", entry.registry.clone()),
        ("manifest", entry.manifest.clone()),
        ("layer", entry.layer.clone()),
        ("module", entry.digest.clone()),
        ("size", bytes(&entry.size)),
        ("abi", entry.abi.clone()),
        ("where", entry.tier.clone()),
        ("first used", at(&entry.first_used_at)),
        ("last used", at(&entry.last_used_at)),
        ("since", at(&entry.since)),
        ("checked", at(&entry.checked_at)),
        ("expires", at(&entry.expires_at)),
        ("signature", entry.signature.as_ref().map(|signed| format!("{}: {}", signed.result, signed.detail))),
        ("received", bytes(&entry.received)),
        ("expected", bytes(&entry.expected.filter(|expected| *expected > 0))),
    ] {
        if let Some(value) = value {
            text += &format!("  {name:<11}{}\n", bounded(&value, DETAIL));
        }
    }
    text + &entry.error.as_ref().map(|error| failure(error, now)).unwrap_or_default()
}

/// What failed, how often, why, and what to do.
pub fn failure(failure: &Failure, now: Now) -> String {
    let times = output::count(failure.count, "time", "times");
    let status = failure.status.map(|status| format!("{status} ")).unwrap_or_default();
    let mut text =
        format!("  failed     {status}{}, {times}, last {}\n", failure.code, now.seen(&failure.last_at));
    text += &format!("             {}\n", bounded(&failure.detail, DETAIL));
    if !failure.hint.is_empty() {
        text += &format!("  next step  {}\n", bounded(&failure.hint, DETAIL));
    }
    text
}
