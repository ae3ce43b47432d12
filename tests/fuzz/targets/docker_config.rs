//! Docker's `config.json`.

#![cfg_attr(fuzzing, no_main)]

use larder::registry::docker_config::DockerConfig;
use serde_json::Value;
use std::io::Write;

/// A program that is to be run has the name of one, and a fault repeats no password.
pub fn check(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    match DockerConfig::read(file.path()) {
        Ok(config) => {
            for registry in ["h", "h.corp:8443", "docker.io", "a.wild.corp", ""] {
                let _ = config.promises(registry);
                for repository in ["waf", "team/waf", ""] {
                    let _ = config.entry(registry, repository);
                }
                if let Some(helper) = config.helper(registry) {
                    let name = helper.program.strip_prefix("docker-credential-").unwrap();
                    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                    assert!(!name.is_empty() && name.chars().all(plain), "{name:?}");
                }
            }
        }
        Err(told) => {
            let told = told.replace(&file.path().display().to_string(), "file");
            assert!(told.starts_with("file:") && told.chars().count() < 500, "{told:?}");
            assert!(!told.contains(char::is_control), "{told:?}");
            for secret in secrets(bytes) {
                assert!(!told.contains(&secret), "{told:?} repeats {secret:?}");
            }
        }
    }
}

/// What stands where a secret does, and nowhere else.
fn secrets(bytes: &[u8]) -> Vec<String> {
    let Ok(document) = serde_json::from_slice::<Value>(bytes) else { return Vec::new() };
    let text = String::from_utf8_lossy(bytes);
    let entries = document["auths"].as_object().into_iter().flatten().map(|(_, entry)| entry);
    let fields =
        entries.flat_map(|entry| ["auth", "password", "identitytoken"].map(|field| entry[field].clone()));
    let texts = fields.filter_map(|field| field.as_str().map(ToOwned::to_owned));
    texts.filter(|secret| secret.len() > 6 && text.matches(secret.as_str()).count() == 1).collect()
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
