//! Environment variables: `LARDER_` and the key with its dots as underscores.

use super::{Fault, Setting, apply, is_open, setting_of, unknown};
use serde_json::Value;

const PREFIX: &str = "LARDER_";
/// Read by the command line itself.
const OURS: [&str; 2] = ["LARDER_CONFIG", "LARDER_ADMIN"];

/// The settings of `variables`; those with our prefix and no meaning are doubtful, not wrong: Kubernetes makes some for
/// every Service of that name.
pub fn settings(
    variables: &[(String, String)],
    defaults: &Value,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<Fault>,
) -> Vec<Setting> {
    let mut keys = Vec::new();
    leaves("", defaults, &mut keys);
    let mut out = Vec::new();
    for (variable, text) in variables.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        if OURS.contains(&variable.as_str()) || made_by_kubernetes(variable) {
            continue;
        }
        let Some(key) = keys.iter().find(|key| name_of(key) == *variable) else {
            let problem = unknown(variable, keys.iter().map(|key| name_of(key)));
            warnings.push(Fault { place: "environment".into(), problem });
            continue;
        };
        match read(key, text, variable, defaults) {
            Ok(setting) => out.push(setting),
            Err(problem) => {
                faults.push(Fault { place: variable.clone(), problem: format!("{key}: {problem}") })
            }
        }
    }
    out
}

fn name_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// `LARDER_SERVICE_HOST`, `LARDER_PORT_8080_TCP`, …
fn made_by_kubernetes(variable: &str) -> bool {
    let rest = &variable[PREFIX.len()..];
    rest.contains("SERVICE_") || rest == "PORT" || rest.starts_with("PORT_") || rest.contains("_PORT_")
}

/// A variable is text: nothing or `null` is nothing, where that is valid; else it is taken as it is, read as YAML, or
/// split at commas, whichever is valid first.
fn read(key: &str, text: &str, place: &str, defaults: &Value) -> Result<Setting, String> {
    let setting = |value| Setting { value, ..setting_of(key, place) };
    let list = || text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Value::from).collect();
    let mut readings = Vec::new();
    if matches!(text.trim(), "" | "null" | "~") {
        readings.push(Value::Null);
    }
    readings.push(Value::from(text));
    let structured =
        serde_saphyr::from_str::<Value>(text).ok().filter(|value| value.is_object() || value.is_array());
    let parsed = structured.or_else(|| serde_saphyr::from_str::<Value>(text).ok());
    let is_map = parsed.as_ref().is_some_and(Value::is_object);
    readings.extend(parsed);
    readings.push(list());
    let mut first = None;
    for value in readings {
        let is_object = value.is_object();
        let setting = setting(value);
        if is_object && is_open(key) {
            // Its parts are judged one by one, and what is wrong with one is told there.
            return Ok(setting);
        }
        match apply(defaults, &setting) {
            Ok(_) => return Ok(setting),
            // A map may hold a password: the reading as plain text would quote all of it.
            Err(problem) if !is_map || is_object => drop(first.get_or_insert(problem)),
            Err(_) => {}
        }
    }
    Err(first.unwrap_or_default())
}

fn leaves(above: &str, tree: &Value, out: &mut Vec<String>) {
    match tree {
        Value::Object(map) if above.is_empty() || !is_open(above) => {
            for (key, inner) in map {
                let full = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
                leaves(&full, inner, out);
            }
        }
        _ => out.push(above.into()),
    }
}
