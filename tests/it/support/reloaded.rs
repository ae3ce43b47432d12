//! A larder whose settings change while it runs.

use super::eventually;
use super::larder::{Home, Larder};
use super::scripted::Scripted;
use serde_json::{Value, json};
use std::path::PathBuf;

/// See the module's text.
pub struct Reloaded {
    pub registry: Scripted,
    pub larder: Larder,
    settings: Value,
}

impl Reloaded {
    /// With a scripted registry that has every name, and `keys` beside that.
    pub fn with(keys: &[(&str, Value)]) -> Self {
        Self::started_with(keys, &[])
    }

    /// The same, with environment variables.
    pub fn started_with(keys: &[(&str, Value)], variables: &[(&str, &str)]) -> Self {
        let registry = Scripted::start();
        let host = registry.host();
        let mut settings = json!({
            "catalog": {"builtin": false, "template": format!("{host}/plugins/{{name}}:{{version}}")},
            "registry": {"certs": [], "plain_http": [host], "attempts": 1},
            "overlay": {"dirs": []},
            "server": {"drain": "0s"},
        });
        set(&mut settings, keys);
        let larder = Home::new(&text(&settings)).start_with(&[], variables);
        Self { registry, larder, settings }
    }

    /// The file with the settings.
    pub fn file(&self) -> PathBuf {
        self.larder.home.path().join("larder.yaml")
    }

    /// The settings with `keys`, as they would be written.
    pub fn written(&mut self, keys: &[(&str, Value)]) -> String {
        set(&mut self.settings, keys);
        text(&self.settings)
    }

    /// Writes `keys` into the file and has it read; the line of the log that tells it.
    pub fn change(&mut self, keys: &[(&str, Value)]) -> Value {
        std::fs::write(self.file(), self.written(keys)).unwrap();
        let told = self.reload();
        assert!(told["message"].as_str().unwrap().starts_with("settings_reloaded"), "{told}");
        told
    }

    /// Has everything read, and gives the line of the log that tells what came of it.
    pub fn reload(&self) -> Value {
        let told = || {
            let is_told =
                |line: &Value| line["message"].as_str().is_some_and(|m| m.starts_with("settings_re"));
            self.larder.log().into_iter().filter(is_told).collect::<Vec<_>>()
        };
        let before = told().len();
        self.larder.signal("HUP");
        eventually("the settings read again", || told().into_iter().nth(before))
    }

    /// The status of a plugin's module.
    pub fn status(&self, name: &str, version: &str) -> u16 {
        self.larder.get(&format!("/plugins/{name}/{version}/plugin.wasm")).status
    }
}

fn set(settings: &mut Value, keys: &[(&str, Value)]) {
    for (key, value) in keys {
        let mut slot = &mut *settings;
        for part in key.split('.') {
            if !slot.is_object() {
                *slot = json!({});
            }
            slot = &mut slot[part];
        }
        *slot = value.clone();
    }
}

/// JSON is YAML too; a key a line, so that a fault has one.
fn text(settings: &Value) -> String {
    serde_json::to_string_pretty(settings).unwrap()
}
