//! `larder list`: what is known and held, a line each.

use super::larder::{Address, Larder, Wish};
use super::output::{self, Now, Output};
use super::trouble::Trouble;
use super::{print, runtime};
use crate::admin::entries::{Entry, Page, Query, Sort, State};
use crate::config::Loaded;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;
use std::process::ExitCode;

/// List what is known and held: plugin, version, state, size, where, last use
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  larder list                                      the cache directory of the settings
  larder list --plugin 'ai-*' --sort size --desc   the largest first
  larder list --state failed --admin http://127.0.0.1:9090
  larder list -o json | jq -r '.entries[].key'")]
pub struct List {
    /// Only plugins of this name; * is any text
    #[arg(long, value_name = "GLOB")]
    plugin: Option<String>,
    /// Only what has this text in its reference, path, plugin, version or digest
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only what stands like this
    #[arg(long, value_name = "STATE", value_parser = words::<State>(&["fresh", "stale", "absent", "failed", "fetching", "local"]))]
    state: Option<State>,
    /// By what to sort
    #[arg(long, value_name = "BY", default_value = "plugin", value_parser = words::<Sort>(&["plugin", "state", "size", "last_used", "checked_at"]))]
    sort: Sort,
    /// From the last to the first
    #[arg(long)]
    desc: bool,
    /// At most so many [default: all]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Also show the keys: references, and paths of local files
    #[arg(short, long)]
    keys: bool,
    /// text, or json: a page of the administration API
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    address: Address,
}

/// Takes one of `words`, which the administration API has too.
fn words<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    words: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words).map(|word| {
        serde_json::from_value(word.into()).unwrap_or_else(|e| unreachable!("one of those words: {e}"))
    })
}

impl List {
    /// Asks and prints.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        match self.list(loaded) {
            Ok(page) if self.output == Output::Json => print(&output::json(&page)),
            Ok(page) => self.show(&page),
            Err(trouble) => trouble.tell(),
        }
    }

    fn list(&self, loaded: &Loaded) -> Result<Page, Trouble> {
        let runtime = runtime()?;
        let larder: Larder = self.address.find(loaded, &runtime, Wish::Look)?;
        let query = Query {
            text: self.search.clone(),
            plugin: self.plugin.clone(),
            state: self.state,
            sort: self.sort,
            descending: self.desc,
            ..Query::default()
        };
        let limit = self.limit.and_then(|limit| usize::try_from(limit).ok());
        runtime.block_on(larder.entries(&query, limit))
    }

    fn show(&self, page: &Page) -> ExitCode {
        if page.entries.is_empty() {
            let is_all = self.plugin.is_none() && self.search.is_none() && self.state.is_none();
            let told = if is_all { "nothing is held yet" } else { "there is no such entry" };
            eprintln!("larder: {told}");
            return ExitCode::SUCCESS;
        }
        let printed = print(&shown(&page.entries, self.keys));
        if page.entries.len() < page.total {
            eprintln!("larder: {} of {} entries", page.entries.len(), page.total);
        }
        printed
    }
}

/// A table of entries; with `keys`, what each is known by.
pub fn shown(entries: &[Entry], keys: bool) -> String {
    let now = Now::read();
    let mut header = vec!["PLUGIN", "VERSION", "STATE", "SIZE", "WHERE", "LAST USED", "CHECKED"];
    let has_failure = entries.iter().any(|entry| entry.error.is_some());
    header.extend(has_failure.then_some("FAILURE"));
    header.extend(keys.then_some("KEY"));
    let row = |entry: &Entry| {
        let size = match (entry.size, entry.received) {
            (Some(size), _) => output::size(size),
            (None, Some(received)) => format!("{} so far", output::size(received)),
            (None, None) => "-".into(),
        };
        let mut row = vec![
            entry.plugin.clone(),
            entry.version.clone(),
            output::word(&entry.state),
            size,
            entry.tier.clone().unwrap_or_else(|| "-".into()),
            now.seen_or_dash(entry.last_used_at.as_ref()),
            now.seen_or_dash(entry.checked_at.as_ref()),
        ];
        row.extend(has_failure.then(|| entry.error.as_ref().map(|e| e.code.clone()).unwrap_or_default()));
        row.extend(keys.then(|| entry.key.clone()));
        row
    };
    output::table(&header, &[3], entries.iter().map(row).collect())
}
