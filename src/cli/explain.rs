//! `larder explain`: one plugin by the same road, told step by step; nothing is kept.

use super::larder::Address;
use super::output::{self, Output};
use super::trouble::Trouble;
use super::{assemble, exit, get, print, report, runtime};
use crate::cache::explain::Explanation;
use crate::config::Loaded;
use crate::plugin::{PluginName, Request, Version};
use clap::Args;
use std::process::ExitCode;

/// Walk the road of one plugin aloud: rules, mirrors, proxy, TLS, login, manifest, layer
#[derive(Debug, Args)]
#[command(after_long_help = "\
Without --admin the road begins here, with the settings as they are read now; with it, where that larder runs.

Examples:
  larder explain waf 1.0.0
  larder explain waf --admin http://127.0.0.1:9090")]
pub struct Explain {
    /// The plugin's name
    name: PluginName,
    /// Its version, or sha256:HEX for a manifest digest [default: that of the catalog's line]
    version: Option<Version>,
    /// text, or json for scripts
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    address: Address,
}

impl Explain {
    /// Walks and tells.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        let request = Request { name: self.name.clone(), version: self.version.clone() };
        let explained = match self.address.named(loaded) {
            Ok(Some(remote)) => runtime().and_then(|runtime| runtime.block_on(remote.explain(&request))),
            Ok(None) => {
                let read = match assemble::read(loaded) {
                    Ok(read) => read,
                    Err(faults) => return report(&faults),
                };
                here(loaded, read, &request)
            }
            Err(trouble) => Err(trouble),
        };
        let explanation = match explained {
            Ok(explanation) => explanation,
            Err(trouble) => return trouble.tell(),
        };
        let code = explanation.result.kind.map(get::code);
        let printed = print(&match self.output {
            Output::Text => explanation.to_string(),
            Output::Json => output::json(&explanation),
        });
        code.map_or(printed, ExitCode::from)
    }
}

fn here(loaded: &Loaded, read: assemble::Read, request: &Request) -> Result<Explanation, Trouble> {
    let explained = runtime()?.block_on(assemble::explain(loaded, &read.names.catalog, request, None));
    explained.map_err(|problem| Trouble::new(exit::CANTCREAT, problem))
}
