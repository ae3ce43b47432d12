//! The properties files that users of the nginx plugin server already have.
//!
//! `name=reference` a line; `#` and `!` begin comments, the first `=` splits, `oci://` may be left out, and
//! `name@version=reference` pins one version of a name to a reference of its own.

use super::Fault;
use crate::oci::Reference;
use crate::plugin::{PluginName, Version};

/// One line with a meaning.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// The plugin.
    pub name: PluginName,
    /// The version behind `@`, where the line is for one version only.
    pub version: Option<Version>,
    /// What it points to.
    pub reference: Reference,
}

/// Parses `text`; what is wrong in it is added to `faults` with `source:line`, and the rest is returned.
pub fn parse(source: &str, text: &str, faults: &mut Vec<Fault>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (number, raw) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let raw = raw.trim();
        if raw.is_empty() || raw.starts_with(['#', '!']) {
            continue;
        }
        match line(raw) {
            Ok(line) => lines.push(line),
            Err(problem) => faults.push(Fault { place: format!("{source}:{}", number + 1), problem }),
        }
    }
    lines
}

fn line(raw: &str) -> Result<Line, String> {
    let (key, value) =
        raw.split_once('=').ok_or("no '=': expected name=reference or name@version=reference")?;
    let (name, version) = match key.trim().split_once('@') {
        Some((name, version)) => (name, Some(version.parse().map_err(|e| format!("{e}"))?)),
        None => (key.trim(), None),
    };
    let value = value.trim();
    if let Some((scheme, _)) = value.split_once("://").filter(|(scheme, _)| *scheme != "oci") {
        return Err(format!("'{scheme}://' is no registry reference: expected oci://host/repository:tag"));
    }
    Ok(Line {
        name: name.parse().map_err(|e| format!("{e}"))?,
        version,
        reference: value.parse().map_err(|e| format!("{e}"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_syntax_is_read() {
        let digest = crate::oci::Digest::of(b"");
        let text = format!(
            "\u{feff}# comment\r\n! another\n\n a = oci://h.example/p/a:1 \r\nb=h.example:5000/p/b@{digest}\n\
             c@1.0.0=h.example/p/c:one\n"
        );
        let mut faults = Vec::new();
        let lines = parse("f", &text, &mut faults);
        assert_eq!(faults, []);
        let shown: Vec<_> = lines.iter().map(|l| format!("{}={}", l.name, l.reference)).collect();
        let b = format!("b=h.example:5000/p/b@{digest}");
        assert_eq!(shown, ["a=h.example/p/a:1", b.as_str(), "c=h.example/p/c:one"]);
        assert_eq!(lines[2].version, Some("1.0.0".parse().unwrap()));
    }
}
