//! `larder import`: the plugins of a bundle are taken in, verified one by one.

use super::larder::{Address, Larder, Wish};
use super::output::{self, DETAIL, Output};
use super::trouble::Trouble;
use super::{exit, print, runtime};
use crate::admin::import::{How, Imported, Item, State, key_of};
use crate::bundle::sign::VerifyKey;
use crate::config::Loaded;
use crate::oci::error_code::bounded;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Something was left out.
pub const LEFT_OUT: u8 = 1;

/// Take the plugins of a bundle into the cache
#[derive(Debug, Args)]
#[command(after_long_help = "\
A bundle is what `larder export` writes, or any OCI image layout, as a folder or as a tar archive (plain, .gz or .zst). In \
one of others, the names of index.json say what an artifact is: a full reference (host/path:tag), or what the catalog makes \
of NAME, NAME/VERSION, NAME@VERSION or NAME:VERSION.

Each plugin is verified as if it had been fetched. Bad ones are named and left out, good ones are kept; then the exit code \
is 1. What a registry said of a reference stays as it is; `larder purge` gives way to what a bundle has.

Examples:
  larder import plugins.tar.zst
  larder import plugins.tar --dry-run
  larder import plugins.tar --admin http://127.0.0.1:9090")]
pub struct Import {
    /// A bundle
    #[arg(value_name = "FILE")]
    bundle: PathBuf,
    /// Verify everything, and keep nothing
    #[arg(long)]
    dry_run: bool,
    /// A public key (PEM, ECDSA P-256, such as cosign.pub) by which the bundle has to be signed; import.verify_key counts too
    #[arg(long, value_name = "FILE")]
    verify_key: Option<PathBuf>,
    /// text, or json as the administration API has it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    address: Address,
}

impl Import {
    /// Takes it in, and tells what came of it.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        let imported = match self.import(loaded) {
            Ok(imported) => imported,
            Err(trouble) => return trouble.tell(),
        };
        let printed = print(&match self.output {
            Output::Json => output::json(&imported),
            Output::Text => summary(&imported),
        });
        if imported.refused > 0 { ExitCode::from(LEFT_OUT) } else { printed }
    }

    fn import(&self, loaded: &Loaded) -> Result<Imported, Trouble> {
        // Before a directory is made for it.
        std::fs::metadata(&self.bundle)
            .map_err(|e| Trouble::new(exit::NOINPUT, format!("{}: {e}", self.bundle.display())))?;
        let key = self.verify_key.as_deref().map(key_of).transpose();
        let key = key.map_err(|e| Trouble::new(exit::NOINPUT, e.detail))?;
        let runtime = runtime()?;
        let larder = self.address.find(loaded, &runtime, Wish::Fill)?;
        runtime.block_on(async {
            let imported = self.take_into(&larder, key).await?;
            larder.close().await?;
            Ok(imported)
        })
    }

    async fn take_into(&self, larder: &Larder, key: Option<VerifyKey>) -> Result<Imported, Trouble> {
        let how = How { dry_run: self.dry_run, missing_only: false, key };
        let tell = |item: &Item| {
            if self.output == Output::Text && item.state != State::Refused {
                eprintln!("{}: {}", name(item), word(item.state, self.dry_run));
            }
        };
        larder.import(&self.bundle, how, &tell).await
    }
}

/// `NAME@VERSION`.
fn name(item: &Item) -> String {
    let version = item.version.as_ref().map(|version| format!("@{version}")).unwrap_or_default();
    bounded(&format!("{}{version}", item.plugin), DETAIL)
}

fn word(state: State, dry_run: bool) -> &'static str {
    match (state, dry_run) {
        (State::Imported, false) => "imported",
        (State::Imported, true) => "would be imported",
        (State::Unchanged, _) => "held already",
        (State::Kept, _) => "left as its registry said",
        (State::Refused, _) => "left out",
    }
}

fn summary(imported: &Imported) -> String {
    let mut text = String::new();
    for item in &imported.items {
        if let Some(error) = &item.error {
            text += &format!("{}: {}: {}\n", name(item), error.code, bounded(&error.detail, DETAIL));
            if !error.hint.is_empty() {
                text += &format!("  next step: {}\n", bounded(&error.hint, DETAIL));
            }
        }
    }
    let bytes =
        imported.items.iter().filter(|item| item.state == State::Imported).filter_map(|item| item.size);
    let new = output::count(imported.imported as u64, "plugin", "plugins");
    let kept = match imported.kept {
        0 => String::new(),
        kept => format!(", {kept} left as a registry said"),
    };
    text + &format!(
        "{new} {} ({}), {} held already{kept}, {} left out\n",
        if imported.dry_run { "would be imported" } else { "imported" },
        output::size(bytes.sum()),
        imported.unchanged,
        imported.refused
    )
}
