//! What a clean path means.

use crate::catalog::patterns::Pattern;
use crate::plugin::{PluginError, PluginName, Request, Version};

/// The meaning of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/`
    Root,
    /// `/healthz`
    Health,
    /// A folder without its slash; the relative place to go to.
    Redirect(String),
    /// `/plugins/`
    Plugins,
    /// `/plugins/{name}/`
    Versions(PluginName),
    /// `/plugins/{name}/{version}/`
    Files(PluginName, Version),
    /// `/plugins/snapshot-inventory.json`
    Inventory,
    /// A module.
    Module(Request),
    /// `metadata.txt` or, if the flag is set, `metadata.json` beside a module.
    Metadata(Request, bool),
    /// Nothing that we have.
    None,
}

impl Route {
    /// The label for metrics: a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Root | Self::Health => "health",
            Self::Redirect(_) | Self::Plugins | Self::Versions(_) | Self::Files(..) => "listing",
            Self::Inventory => "inventory",
            Self::Module(_) => "plugin",
            Self::Metadata(..) => "metadata",
            Self::None => "none",
        }
    }
}

impl Route {
    /// The name of the plugin that `path`, whose meaning this is, is about; also where there is none of this name.
    pub fn name<'r>(&'r self, path: &'r str) -> Option<&'r str> {
        match self {
            Self::Module(request) | Self::Metadata(request, _) => Some(request.name.as_str()),
            Self::Versions(name) | Self::Files(name, _) => Some(name.as_str()),
            Self::Redirect(_) | Self::None => path.strip_prefix("/plugins/")?.split('/').next(),
            Self::Root | Self::Health | Self::Plugins | Self::Inventory => None,
        }
    }
}

/// Finds the meaning of `path`. `listed` tells which names the catalog knows.
///
/// # Errors
/// A pattern fits and what stands at `{name}` or `{version}` is none.
pub fn route(path: &str, patterns: &[Pattern], listed: &dyn Fn(&str) -> bool) -> Result<Route, PluginError> {
    match path {
        "/" => return Ok(Route::Root),
        "/healthz" => return Ok(Route::Health),
        "/plugins" => return Ok(Route::Redirect("plugins/".into())),
        "/plugins/" => return Ok(Route::Plugins),
        "/plugins/snapshot-inventory.json" => return Ok(Route::Inventory),
        _ => {}
    }
    if let Some(request) = module(path, patterns, listed)? {
        return Ok(Route::Module(request));
    }
    // Beside `…/plugin.wasm` there is room for other files; `…/{version}.wasm` has none.
    let folders: Vec<Pattern> =
        patterns.iter().filter(|p| p.as_str().ends_with("/plugin.wasm")).cloned().collect();
    for (file, json) in [("/metadata.txt", false), ("/metadata.json", true)] {
        if let Some(folder) = path.strip_suffix(file)
            && let Some(request) = module(&format!("{folder}/plugin.wasm"), &folders, listed)?
        {
            return Ok(Route::Metadata(request, json));
        }
    }
    let Some(inner) = path.strip_prefix("/plugins/") else {
        return Ok(Route::None);
    };
    let (folder, has_slash) = inner.strip_suffix('/').map_or((inner, false), |folder| (folder, true));
    let mut parts = folder.split('/');
    let route = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name.parse().ok().map(Route::Versions),
        (Some(name), Some(version), None) => match (name.parse(), version.parse()) {
            (Ok(name), Ok(version)) => Some(Route::Files(name, version)),
            _ => None,
        },
        _ => None,
    };
    Ok(match route {
        Some(route) if has_slash => route,
        // Only of a name that is known: `/plugins/favicon.ico` is no folder that somebody forgot a slash behind.
        Some(_) if listed(folder.split('/').next().unwrap_or_default()) => {
            let last = folder.rsplit('/').next().unwrap_or_default();
            // A colon in a first segment would read as a scheme.
            Route::Redirect(if last.contains(':') { format!("./{last}/") } else { format!("{last}/") })
        }
        _ => Route::None,
    })
}

fn module(
    path: &str,
    patterns: &[Pattern],
    listed: &dyn Fn(&str) -> bool,
) -> Result<Option<Request>, PluginError> {
    let Some(matched) = patterns.iter().find_map(|pattern| pattern.matches(path, listed)) else {
        return Ok(None);
    };
    let version = matched.version.map(str::parse).transpose()?;
    Ok(Some(Request { name: matched.name.parse()?, version }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(path: &str) -> Result<Route, &'static str> {
        let patterns: Vec<Pattern> = [
            "/plugins/{name}/{version}/plugin.wasm",
            "/plugins/{name}/{version}.wasm",
            "/software/{name}-{version}.wasm",
            "/**/{name}.wasm",
        ]
        .map(|p| p.parse().unwrap())
        .into();
        route(path, &patterns, &|name| name == "ai-proxy").map_err(|e| e.code())
    }

    fn request(name: &str, version: Option<&str>) -> Request {
        Request { name: name.parse().unwrap(), version: version.map(|v| v.parse().unwrap()) }
    }

    #[test]
    fn every_kind_of_path_finds_its_meaning() {
        let versioned = || request("ai-proxy", Some("2.0.1"));
        for (path, route) in [
            ("/", Route::Root),
            ("/healthz", Route::Health),
            ("/plugins", Route::Redirect("plugins/".into())),
            ("/plugins/", Route::Plugins),
            ("/plugins/ai-proxy/", Route::Versions("ai-proxy".parse().unwrap())),
            ("/plugins/ai-proxy/2.0.1/", Route::Files("ai-proxy".parse().unwrap(), "2.0.1".parse().unwrap())),
            ("/plugins/ai-proxy/2.0.1", Route::Redirect("2.0.1/".into())),
            ("/plugins/snapshot-inventory.json", Route::Inventory),
            ("/plugins/ai-proxy/2.0.1/plugin.wasm", Route::Module(versioned())),
            ("/plugins/ai-proxy/2.0.1.wasm", Route::Module(versioned())),
            ("/software/ai-proxy-2.0.1.wasm", Route::Module(versioned())),
            ("/plugins/ai-proxy.wasm", Route::Module(request("ai-proxy", None))),
            ("/ai-proxy.wasm", Route::Module(request("ai-proxy", None))),
            ("/any/prefix/ai-proxy.wasm", Route::Module(request("ai-proxy", None))),
            ("/plugins/ai-proxy/2.0.1/metadata.txt", Route::Metadata(versioned(), false)),
            ("/plugins/ai-proxy/2.0.1/metadata.json", Route::Metadata(versioned(), true)),
            ("/plugins/ai-proxy/2.0.1/plugin.wat", Route::None),
            ("/plugins/ai-proxy/2.0.1/plugin.wasm/", Route::None),
            ("/favicon.ico", Route::None),
            ("/plugins/favicon.ico", Route::None),
            ("/plugins/x/metadata.txt", Route::None),
        ] {
            assert_eq!(routed(path), Ok(route), "{path}");
        }
    }

    #[test]
    fn bad_names_and_versions_are_told_apart() {
        assert_eq!(routed("/plugins/AI/2.0.1/plugin.wasm"), Err("bad_name"));
        assert_eq!(routed("/plugins/a/+x/plugin.wasm"), Err("bad_version"));
        assert_eq!(routed("/plugins/a/sha256:12/plugin.wasm"), Err("bad_digest"));
    }
}
