//! The catalog's template: a line, and a plugin's name on the next.

#![cfg_attr(fuzzing, no_main)]

use larder::catalog::template::Template;
use larder::plugin::PluginName;

/// No name chooses the registry, and the repository that was made of a name gives the name back.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (template, name) = text.split_once('\n').unwrap_or((text, "ai-proxy"));
    let template: Template = match template.parse() {
        Ok(template) => template,
        Err(told) => {
            let told: String = told;
            return assert!(!told.contains(char::is_control) && told.chars().count() < 5000, "{told:?}");
        }
    };
    let Ok(name) = name.parse::<PluginName>() else { return };
    let Some(repository) = template.repository(&name) else { return };
    assert_eq!(repository.registry(), template.registry(), "{text}");
    assert_eq!(template.name_of(&repository), Some(name), "{template:?} {repository}");
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
