//! `larder purge`: entries are taken away, and the modules that nothing else leads to.

use super::larder::{Address, Wish};
use super::output::{self, DETAIL, Output};
use super::trouble::Trouble;
use super::{exit, print, runtime};
use crate::admin::change::{Purged, Selector};
use crate::admin::entries::{MOST, Query};
use crate::config::Loaded;
use crate::oci::Digest;
use crate::oci::error_code::bounded;
use clap::{ArgGroup, Args};
use std::collections::HashSet;
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

/// Who was asked said no.
const DECLINED: u8 = 1;

/// Take entries away, and the modules that nothing else leads to
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("selector").required(true).args(["keys", "plugin", "digest", "all"]),
    after_long_help = "\
What is purged is fetched again when it is next asked for. Local files are never touched.

Examples:
  larder purge --plugin waf --dry-run              what would leave
  larder purge --plugin 'ai-*' --version '1.*'
  larder purge harbor.corp/plugins/waf:1.0.0 --yes
  larder purge --all --yes --admin http://127.0.0.1:9090"
)]
pub struct Purge {
    /// Entries, as `larder list --keys` shows them
    #[arg(value_name = "KEY", value_parser = key)]
    keys: Vec<String>,
    /// Plugins of this name; * is any text, but not alone
    #[arg(long, value_name = "GLOB")]
    plugin: Option<String>,
    /// Of these, versions like this; * is any text
    #[arg(long, value_name = "GLOB", requires = "plugin")]
    version: Option<String>,
    /// Entries that lead to this module
    #[arg(long, value_name = "SHA256:HEX")]
    digest: Option<Digest>,
    /// Everything
    #[arg(long)]
    all: bool,
    /// Only tell what would leave
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
    /// text, or json as the administration API has it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    address: Address,
}

/// References and paths have a slash; who types a name means the plugin.
fn key(text: &str) -> Result<String, String> {
    if text.contains('/') { Ok(text.into()) } else { Err("is no key; a plugin is named by --plugin".into()) }
}

impl Purge {
    /// Asks, takes away, and tells.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        match self.purge(loaded) {
            Ok(Some(purged)) if self.output == Output::Json => print(&output::json(&purged)),
            Ok(Some(purged)) => print(&shown(&purged)),
            Ok(None) => {
                eprintln!("larder: nothing was purged");
                ExitCode::from(DECLINED)
            }
            Err(trouble) => trouble.tell(),
        }
    }

    /// What left; nothing, if it was not to.
    fn purge(&self, loaded: &Loaded) -> Result<Option<Purged>, Trouble> {
        let asks = !self.yes && !self.dry_run;
        if asks && !std::io::stdin().is_terminal() {
            let trouble = Trouble::new(exit::USAGE, "nobody can be asked whether this is meant");
            return Err(trouble.hint("--yes goes on without asking, --dry-run only tells what would leave"));
        }
        if !asks {
            let wish = if self.dry_run { Wish::Look } else { Wish::Take };
            return self.take(loaded, wish, &self.selector(self.dry_run)).map(Some);
        }
        // The directory is free while somebody thinks: a larder may start meanwhile, and is asked then.
        let would = self.take(loaded, Wish::Take, &self.selector(true))?;
        if !would.purged.is_empty() && !self.confirmed(&would) {
            return Ok(None);
        }
        let taken = match self.all {
            true => self.take(loaded, Wish::Take, &self.selector(false)),
            false => self.take_shown(loaded, &would.purged),
        };
        taken.map(Some)
    }

    /// What leaves by this selector.
    fn take(&self, loaded: &Loaded, wish: Wish, which: &Selector) -> Result<Purged, Trouble> {
        let runtime = runtime()?;
        let larder = self.address.find(loaded, &runtime, wish)?;
        runtime.block_on(async {
            let purged = larder.purge(which).await?;
            larder.close().await?;
            Ok(purged)
        })
    }

    /// What leaves of what was shown: what came since stays, and what left since is no error.
    fn take_shown(&self, loaded: &Loaded, shown: &[String]) -> Result<Purged, Trouble> {
        let runtime = runtime()?;
        let larder = self.address.find(loaded, &runtime, Wish::Take)?;
        runtime.block_on(async {
            let entries = larder.entries(&Query::default(), None).await?.entries;
            let there: HashSet<_> = entries.into_iter().map(|entry| entry.key).collect();
            let keys: Vec<_> = shown.iter().filter(|key| there.contains(*key)).cloned().collect();
            let mut all = Purged::default();
            for keys in keys.chunks(MOST) {
                let which = Selector { keys: keys.to_vec(), ..Selector::default() };
                let purged = larder.purge(&which).await?;
                all.purged.extend(purged.purged);
                all.modules += purged.modules;
                all.bytes += purged.bytes;
            }
            larder.close().await?;
            Ok(all)
        })
    }

    fn selector(&self, dry_run: bool) -> Selector {
        Selector {
            keys: self.keys.clone(),
            plugin: self.plugin.clone(),
            version: self.version.clone(),
            digest: self.digest.as_ref().map(ToString::to_string),
            all: self.all,
            dry_run,
        }
    }

    /// What leaves is shown, and a person decides.
    fn confirmed(&self, would: &Purged) -> bool {
        let also = if self.all {
            "With them leaves what comes meanwhile, and modules that nothing leads to.\n"
        } else {
            ""
        };
        eprint!("{}{also}Take them away? [y/N] ", shown(would));
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }
}

fn shown(purged: &Purged) -> String {
    let keys = purged.purged.iter().map(|key| bounded(key, DETAIL) + "\n").collect::<String>();
    let would = if purged.dry_run { " would leave" } else { " left" };
    let entries = output::count(purged.purged.len() as u64, "entry", "entries");
    let modules = output::count(purged.modules, "module", "modules");
    format!("{keys}{entries} and {modules} ({}){would}\n", output::size(purged.bytes))
}
