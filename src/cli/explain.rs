//! `larder explain`: one plugin by the same road, told step by step; nothing is kept.

use super::{assemble, exit, get, print, report};
use crate::cache::explain::Explanation;
use crate::config::Loaded;
use crate::plugin::{PluginName, Request, Version};
use clap::{Args, ValueEnum};
use std::process::ExitCode;

/// Walk the road of one plugin aloud: rules, mirrors, proxy, TLS, login, manifest, layer.
#[derive(Debug, Args)]
pub struct Explain {
    /// The plugin's name
    name: PluginName,
    /// Its version, or sha256:… for a manifest digest [default: that of the catalog's line]
    version: Option<Version>,
    /// text, or json for scripts
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Explain {
    /// Walks and tells.
    pub fn run(self, loaded: Loaded) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
        {
            Ok(runtime) => runtime,
            Err(error) => return get::fail(exit::OSERR, &error.to_string(), ""),
        };
        let read = match assemble::read(&loaded) {
            Ok(read) => read,
            Err(faults) => return report(&faults),
        };
        let request = Request { name: self.name.clone(), version: self.version.clone() };
        let catalog = &read.names.catalog;
        let explained = runtime.block_on(assemble::explain(&loaded, catalog, &request, None));
        let explanation = match explained {
            Ok(explanation) => explanation,
            Err(problem) => return get::fail(exit::CANTCREAT, &problem, ""),
        };
        let code = explanation.result.kind.map(get::code);
        let printed = print(&self.shown(&explanation));
        code.map_or(printed, ExitCode::from)
    }

    fn shown(&self, explanation: &Explanation) -> String {
        match self.output {
            Output::Text => explanation.to_string(),
            Output::Json => {
                serde_json::to_string_pretty(explanation)
                    .unwrap_or_else(|e| unreachable!("plain fields: {e}"))
                    + "\n"
            }
        }
    }
}
