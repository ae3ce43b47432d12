//! URL patterns: from a request's path to a plugin's name and version.
//!
//! A pattern is a path with `{name}` once and `{version}` at most once; `**` stands for any number of whole segments.
//! The first pattern that fits decides. Where name and version share a segment (`{name}-{version}.wasm`) a listed name
//! decides where the one ends; else the version is what follows the first hyphen before a digit.

use std::str::FromStr;

/// One checked pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `**`
    Any,
    /// No placeholder.
    Literal(String),
    /// `before{name}after`
    Name(String, String),
    /// `before{version}after`
    Version(String, String),
    /// `before{name}between{version}after`
    Both(String, String, String),
}

/// What a path says, not yet checked to be a name and a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched<'p> {
    /// The text at `{name}`.
    pub name: &'p str,
    /// The text at `{version}`.
    pub version: Option<&'p str>,
}

impl Pattern {
    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Matches a path that begins with `/`, has no empty segments and no query. `listed` tells which names the catalog
    /// knows.
    pub fn matches<'p>(&self, path: &'p str, listed: &dyn Fn(&str) -> bool) -> Option<Matched<'p>> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let mut name = None;
        let mut version = None;
        fit(&self.segments, &parts, listed, &mut name, &mut version).then_some(())?;
        Some(Matched { name: name?, version })
    }
}

fn fit<'p>(
    segments: &[Segment],
    parts: &[&'p str],
    listed: &dyn Fn(&str) -> bool,
    name: &mut Option<&'p str>,
    version: &mut Option<&'p str>,
) -> bool {
    let Some((first, rest)) = segments.split_first() else {
        return parts.is_empty();
    };
    if *first == Segment::Any {
        return (0..=parts.len()).any(|skip| fit(rest, &parts[skip..], listed, name, version));
    }
    let Some((part, tail)) = parts.split_first() else {
        return false;
    };
    let fits = match first {
        Segment::Any => unreachable!("handled above"),
        Segment::Literal(text) => part == text,
        Segment::Name(before, after) => {
            between(part, before, after).map(|found| *name = Some(found)).is_some()
        }
        Segment::Version(before, after) => {
            between(part, before, after).map(|found| *version = Some(found)).is_some()
        }
        Segment::Both(before, separator, after) => {
            match between(part, before, after).and_then(|inner| split(inner, separator, listed)) {
                Some((found_name, found_version)) => {
                    *name = Some(found_name);
                    *version = Some(found_version);
                    true
                }
                None => false,
            }
        }
    };
    fits && fit(rest, tail, listed, name, version)
}

fn between<'p>(part: &'p str, before: &str, after: &str) -> Option<&'p str> {
    part.strip_prefix(before)?.strip_suffix(after).filter(|found| !found.is_empty())
}

fn split<'p>(inner: &'p str, separator: &str, listed: &dyn Fn(&str) -> bool) -> Option<(&'p str, &'p str)> {
    let cuts = || {
        inner
            .match_indices(separator)
            .map(|(at, found)| (&inner[..at], &inner[at + found.len()..]))
            .filter(|(name, version)| !name.is_empty() && !version.is_empty())
    };
    let numbered = |version: &str| {
        let digits = version.strip_prefix('v').unwrap_or(version);
        digits.starts_with(|c: char| c.is_ascii_digit())
    };
    cuts()
        .filter(|(name, version)| listed(name) && numbered(version))
        .last()
        .or_else(|| cuts().find(|(_, version)| numbered(version)))
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("pattern '{text}' {why}");
        // `${name}`, as the Console writes it, means the same.
        let plain = text.replace("${", "{");
        let path = plain.strip_prefix('/').ok_or_else(|| wrong("does not begin with '/'"))?;
        let (names, versions) = (plain.matches("{name}").count(), plain.matches("{version}").count());
        if names != 1 || versions > 1 {
            return Err(wrong("needs {name} exactly once and {version} at most once"));
        }
        // Each further one multiplies the time by the length of the path, which clients choose.
        if plain.matches("**").count() > 1 {
            return Err(wrong("has ** more than once"));
        }
        let rest = plain.replace("{name}", "").replace("{version}", "");
        if rest.contains(['{', '}', '?', '#', '%', '\\', ' '])
            || rest.contains(|c: char| !c.is_ascii_graphic())
        {
            return Err(wrong(
                "has a character that no path has; only {name} and {version} are placeholders",
            ));
        }
        let segments =
            path.split('/').map(|part| segment(part).ok_or_else(|| wrong("has an empty or unclear segment")));
        Ok(Self { text: text.into(), segments: segments.collect::<Result<_, _>>()? })
    }
}

fn segment(part: &str) -> Option<Segment> {
    let cut = |text: &str, at: &str| text.split_once(at).map(|(a, b)| (a.to_owned(), b.to_owned()));
    match (cut(part, "{name}"), cut(part, "{version}")) {
        (None, None) if part == "**" => Some(Segment::Any),
        (None, None) if part.is_empty() || part.contains('*') || part == "." || part == ".." => None,
        (None, None) => Some(Segment::Literal(part.into())),
        (Some((before, after)), None) => Some(Segment::Name(before, after)),
        (None, Some((before, after))) => Some(Segment::Version(before, after)),
        (Some((before, rest)), Some(_)) => {
            let (separator, after) = cut(&rest, "{version}")?;
            (!separator.is_empty()).then_some(Segment::Both(before, separator, after))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(pattern: &str, path: &str) -> Option<String> {
        let pattern: Pattern = pattern.parse().unwrap();
        let listed = |name: &str| ["ai-proxy", "key-2-auth"].contains(&name);
        let matched = pattern.matches(path, &listed)?;
        Some(format!("{} {}", matched.name, matched.version.unwrap_or("-")))
    }

    #[test]
    fn every_pattern_of_the_contract_finds_name_and_version() {
        for (pattern, path, found) in [
            (
                "/plugins/{name}/{version}/plugin.wasm",
                "/plugins/ai-proxy/2.0.1/plugin.wasm",
                "ai-proxy 2.0.1",
            ),
            ("/plugins/${name}/${version}.wasm", "/plugins/ai-proxy/2.0.1.wasm", "ai-proxy 2.0.1"),
            ("/plugins/{name}.wasm", "/plugins/ai-proxy.wasm", "ai-proxy -"),
            ("/{name}.wasm", "/ai-proxy.wasm", "ai-proxy -"),
            ("/**/{name}.wasm", "/wasm-plugins/ai-proxy.wasm", "ai-proxy -"),
            ("/**/{name}.wasm", "/a/b/c/ai-proxy.wasm", "ai-proxy -"),
            ("/**/{name}.wasm", "/ai-proxy.wasm", "ai-proxy -"),
            ("/software/{name}-{version}.wasm", "/software/ai-proxy-2.0.1.wasm", "ai-proxy 2.0.1"),
            (
                "/software/{name}-{version}.wasm",
                "/software/other-one-1.0.0-rc.1.wasm",
                "other-one 1.0.0-rc.1",
            ),
            ("/software/{name}-{version}.wasm", "/software/key-2-auth-3.0.wasm", "key-2-auth 3.0"),
            ("/software/{name}-{version}.wasm", "/software/x-v1.wasm", "x v1"),
        ] {
            assert_eq!(matched(pattern, path).as_deref(), Some(found), "{pattern} {path}");
        }
    }

    #[test]
    fn other_paths_do_not_fit() {
        for (pattern, path) in [
            ("/plugins/{name}/{version}/plugin.wasm", "/plugins/ai-proxy/2.0.1/plugin.WASM"),
            ("/plugins/{name}/{version}/plugin.wasm", "/plugins/ai-proxy/2.0.1/plugin.wasm/"),
            ("/plugins/{name}/{version}/plugin.wasm", "/plugins/ai-proxy/plugin.wasm"),
            ("/{name}.wasm", "/.wasm"),
            ("/{name}.wasm", "/a/b.wasm"),
            ("/software/{name}-{version}.wasm", "/software/ai-proxy.wasm"),
            ("/software/{name}-{version}.wasm", "/software/-1.wasm"),
        ] {
            assert_eq!(matched(pattern, path), None, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "",
            "plugins/{name}",
            "/plugins/x",
            "/{name}/{name}",
            "/{name}/{version}/{version}",
            "/{nome}.wasm",
            "/{name}{version}.wasm",
            "/{name}//x",
            "/*/{name}",
            "/{name}?x",
            "/%7B{name}",
        ] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }
}
