//! The rule for names that no line names: a reference with `{name}` and `{version}` in it.

use crate::oci::Reference;
use crate::oci::reference::Repository;
use crate::plugin::PluginName;
use std::str::FromStr;

/// `[oci://]host/path/{name}:{version}`; `${name}` is understood too, as the Console writes it.
#[derive(Debug)]
pub struct Template {
    /// The repository, with `{name}` in it.
    repository: String,
    registry: String,
}

impl Template {
    /// The repository for `name`; `None` when the name is no part of one (`a.-b` is a plugin's name and no path).
    pub fn repository(&self, name: &PluginName) -> Option<Repository> {
        self.repository.replace("{name}", name.as_str()).parse().ok()
    }

    /// The name that this template would have made `repository` of.
    pub fn name_of(&self, repository: &Repository) -> Option<PluginName> {
        let (before, after) = self.repository.split_once("{name}")?;
        repository.to_string().strip_prefix(before)?.strip_suffix(after)?.parse().ok()
    }

    /// The registry's host and port.
    pub fn registry(&self) -> &str {
        &self.registry
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown = crate::oci::reference::masked(text);
        let plain = text.trim().replace("${", "{");
        let plain = plain.strip_prefix("oci://").unwrap_or(&plain);
        let repository = plain.strip_suffix(":{version}").ok_or_else(|| {
            format!("'{shown}' does not end in ':{{version}}'; expected oci://host/path/{{name}}:{{version}}")
        })?;
        if repository.matches("{name}").count() != 1 {
            return Err(format!(
                "'{shown}' needs {{name}} exactly once; expected oci://host/path/{{name}}:{{version}}"
            ));
        }
        let sample = repository.replace("{name}", "0.a_b-c");
        let sample = format!("{sample}:1")
            .parse::<Reference>()
            .map_err(|e| format!("'{shown}' makes no reference: {e}"))?;
        let (host, _) = repository.split_once('/').unwrap_or_default();
        if host.contains('{') {
            return Err(format!("'{shown}' has {{name}} in the host; a URL must not choose the registry"));
        }
        let (_, path) = repository.split_once('/').unwrap_or_default();
        // As references write it.
        let registry = sample.registry();
        Ok(Self { repository: format!("{registry}/{path}"), registry: registry.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_makes_a_repository_of_a_name() {
        for text in ["oci://h.example/plugins/{name}:{version}", "h.example/plugins/${name}:${version}"] {
            let template: Template = text.parse().unwrap();
            assert_eq!(
                template.repository(&"ai-proxy".parse().unwrap()).unwrap().to_string(),
                "h.example/plugins/ai-proxy"
            );
            assert_eq!(template.registry(), "h.example");
            let back = template.name_of(&"h.example/plugins/ai-proxy".parse().unwrap());
            assert_eq!(back.unwrap().as_str(), "ai-proxy");
            assert_eq!(template.name_of(&"h.example/other/ai-proxy".parse().unwrap()), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_name_makes_it_panic(name in "[a-z0-9][a-z0-9._-]{0,62}[a-z0-9]") {
            let template: Template = format!("h.example/{}/{{name}}:{{version}}", "p".repeat(200)).parse().unwrap();
            if let Ok(name) = name.parse::<PluginName>() {
                let _ = template.repository(&name);
            }
        }
    }

    #[test]
    fn what_cannot_be_a_template_is_refused() {
        for bad in [
            "",
            "h.example/plugins/{name}",
            "h.example/plugins/x:{version}",
            "{name}/plugins/x:{version}",
            "h.example/{name}/{name}:{version}",
            "h.example/{nome}:{version}",
            "h.example/../{name}:{version}",
            "https://h.example/{name}:{version}",
            "h.example/{name}/{version}:{version}",
        ] {
            assert!(bad.parse::<Template>().is_err(), "{bad}");
        }
    }
}
