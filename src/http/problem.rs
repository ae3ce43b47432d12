//! Problem documents (RFC 9457): the text of every refusal, for a person and for a program.
//!
//! The gateway's log shows only the status, so this text serves whoever repeats the request with curl, and it is our
//! own log line too: one text, said once.

use serde::Serialize;

/// What a refusal says. Members that do not apply are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable word for the kind of failure.
    pub code: String,
    /// Short text for the status.
    pub title: String,
    /// What was asked, of whom, and what came back.
    pub detail: String,
    /// What to do next.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// The plugin, as understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// The version, as understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The reference that the failure is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Versions of the plugin that are known here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
    /// Known names that look like the one asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<String>,
    /// Everything that is wrong, where it may be more than one thing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

impl Problem {
    /// `application/problem+json`.
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).unwrap_or_else(|_| unreachable!("only plain fields"));
        text.push('\n');
        text
    }

    /// `text/plain`: the same, a line a member.
    pub fn to_text(&self) -> String {
        let mut out = format!("{} {} ({})\n{}\n", self.status, self.title, self.code, self.detail);
        let mut line = |name: &str, value: &str| {
            if !value.is_empty() {
                out.push_str(&format!("{name}: {value}\n"));
            }
        };
        line("plugin", self.plugin.as_deref().unwrap_or_default());
        line("version", self.version.as_deref().unwrap_or_default());
        line("reference", self.reference.as_deref().unwrap_or_default());
        line("versions known", &self.versions.join(", "));
        line("nearest names", &self.nearest.join(", "));
        self.faults.iter().for_each(|fault| line("fault", fault));
        line("next", &self.hint);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let problem = Problem {
            status: 404,
            code: "not_found".into(),
            title: "Not Found".into(),
            detail: "no such tag".into(),
            hint: "ask for 2.0.1".into(),
            plugin: Some("waf".into()),
            versions: vec!["2.0.1".into()],
            ..Problem::default()
        };
        assert_eq!(
            problem.to_text(),
            "404 Not Found (not_found)\nno such tag\nplugin: waf\nversions known: 2.0.1\nnext: ask for 2.0.1\n"
        );
        let json: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
        assert_eq!(json["versions"][0], "2.0.1");
        assert_eq!(json.get("reference"), None);
    }
}
