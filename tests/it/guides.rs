//! The guides, followed as they are written.

use crate::support::chart::render;
use crate::support::guide::{self, Block, Purpose};
use crate::support::site::{self, Site};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Those that are followed below, and whether a firewall stands before the site that they are followed at.
const GUIDES: [(&str, bool); 7] = [
    ("custom-plugins", false),
    ("egress-proxy", true),
    ("from-nginx", false),
    ("harbor", false),
    ("higress", false),
    ("partially-connected", true),
    ("troubleshooting", false),
];

/// Seconds for a guide and for its site around it.
const LONGEST: u32 = 300;

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn folder() -> PathBuf {
    root().join("deploy/guides")
}

fn read(name: &str) -> String {
    let path = folder().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Follows one, in a process of its own.
fn follow(test: &str, name: &str) {
    if !site::alone(&format!("guides::{test}"), LONGEST) {
        return;
    }
    let (_, firewall) = GUIDES.iter().find(|(known, _)| *known == name).unwrap();
    let site = Site::start(*firewall);
    let followed = guide::follow(&read(&format!("{name}.md")), site.home.path(), site.programs.path());
    if let Err(told) = followed {
        panic!("{name}.md is not so:\n{told}");
    }
}

#[test]
fn who_follows_the_guide_to_harbor_gets_there() {
    follow("who_follows_the_guide_to_harbor_gets_there", "harbor");
}

#[test]
fn who_follows_the_guide_to_higress_gets_there() {
    follow("who_follows_the_guide_to_higress_gets_there", "higress");
}

#[test]
fn who_follows_the_guide_to_one_egress_proxy_gets_there() {
    follow("who_follows_the_guide_to_one_egress_proxy_gets_there", "egress-proxy");
}

#[test]
fn who_follows_the_guide_to_a_partially_connected_site_gets_there() {
    follow("who_follows_the_guide_to_a_partially_connected_site_gets_there", "partially-connected");
}

#[test]
fn who_follows_the_guide_from_nginx_gets_there() {
    follow("who_follows_the_guide_from_nginx_gets_there", "from-nginx");
}

#[test]
fn who_follows_the_guide_to_plugins_of_their_own_gets_there() {
    follow("who_follows_the_guide_to_plugins_of_their_own_gets_there", "custom-plugins");
}

#[test]
fn who_looks_for_the_cause_of_a_failure_sees_what_the_table_says() {
    follow("who_looks_for_the_cause_of_a_failure_sees_what_the_table_says", "troubleshooting");
}

#[test]
fn what_a_guide_says_and_is_not_so_is_found_out() {
    let home = tempfile::tempdir().unwrap();
    let sh = |info: &str, text: &str| format!("words\n```{info}\n{text}\n```\n");
    let follow = |guide: String| guide::follow(&guide, home.path(), home.path());
    let good = sh("sh", "mkdir -p deep; cd deep\nname=waf")
        + &sh("yaml ./deep/file.yaml", "a: 1")
        + &sh("sh", "cat file.yaml; echo $name 12; echo last >&2")
        + &sh("text", "a: 1\nw…f …\n…")
        + &sh("sh fails", "echo no; false")
        + &sh("text", "no")
        + &sh("sh console: needs a terminal", "false");
    follow(good).unwrap();
    for (guide, told) in [
        (sh("sh", "echo one") + &sh("text", "two"), "line 6: this is not what the command before it prints"),
        (sh("sh", "echo one; echo two") + &sh("text", "one"), "line 6: this is not what"),
        (sh("sh", "echo one") + &sh("text", "one\n…o…e"), "line 6: this is not what"),
        (sh("sh", "false\ntrue"), "line 2 ends with 1"),
        (sh("sh", "false | true"), "line 2 ends with 1"),
        (sh("sh fails", "true"), "line 2 ends with 0"),
        (sh("sh", "exit 3"), "line 2 ends with 3"),
    ] {
        let error = follow(guide.clone()).expect_err(&guide);
        assert!(error.contains(told), "{guide}{error}");
    }
}

#[test]
fn every_guide_is_followed_by_a_test() {
    let there: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let followed = GUIDES.iter().flat_map(|(name, _)| [format!("{name}.md"), format!("{name}.zh-CN.md")]);
    assert_eq!(there, followed.collect());
}

#[test]
fn both_languages_of_a_guide_say_to_do_the_same() {
    for (name, _) in GUIDES {
        let [english, chinese] = ["md", "zh-CN.md"].map(|end| guide::blocks(&read(&format!("{name}.{end}"))));
        for (one, other) in english.iter().zip(&chinese) {
            let place = format!("{name}, line {} and line {}", one.line, other.line);
            assert_eq!((&one.language, &one.purpose), (&other.language, &other.purpose), "{place}");
            assert_eq!(guide::without_comments(one), guide::without_comments(other), "{place}");
        }
        assert_eq!(english.len(), chinese.len(), "{name}");
    }
}

#[test]
fn commands_that_cannot_be_run_here_and_excerpts_are_well_formed() {
    for (name, _) in GUIDES {
        for block in guide::blocks(&read(&format!("{name}.md"))) {
            let place = format!("{name}.md, line {}:\n{}", block.line, block.text);
            if block.language == "sh" {
                let mut child = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
                child.stdin.take().unwrap().write_all(block.text.as_bytes()).unwrap();
                assert!(child.wait().unwrap().success(), "{place}");
            }
            if block.purpose == Purpose::Excerpt && block.language == "yaml" {
                let value = serde_saphyr::from_str::<serde_json::Value>(&block.text);
                assert!(value.is_ok_and(|value| value.is_object() || value.is_array()), "{place}");
            }
        }
    }
}

/// The only block that is for this.
fn only(name: &str, is_it: impl Fn(&Block) -> bool) -> Block {
    let mut found = guide::blocks(&read(name)).into_iter().filter(is_it);
    let one = found.next().unwrap_or_else(|| panic!("{name} has no such block"));
    assert!(found.next().is_none(), "{name} has two of them");
    one
}

/// Every `name:` and `secretName:` of a Secret that something rendered mounts.
fn secrets(value: &Value) -> BTreeSet<String> {
    let own =
        |key: &str| value[key]["secretName"].as_str().or(value[key]["name"].as_str()).map(str::to_owned);
    let below: Vec<&Value> = match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    };
    below.into_iter().flat_map(secrets).chain(own("secret")).collect()
}

#[test]
fn the_chart_takes_the_values_of_the_guides_and_mounts_the_secrets_that_they_make() {
    for (name, set, wanted) in [
        ("harbor", "image", json!("harbor.corp/tools/larder:0.1.0")),
        ("egress-proxy", "url", json!("http://egress.corp:3128")),
    ] {
        let values =
            only(&format!("{name}.md"), |block| block.purpose == Purpose::File("./values.yaml".into()));
        let rendered = render("default", &values.text).unwrap_or_else(|told| panic!("{name}: {told}"));
        let map = rendered.all("ConfigMap").into_iter().find(|map| map["data"]["larder.yaml"].is_string());
        let settings: Value =
            serde_saphyr::from_str(map.unwrap()["data"]["larder.yaml"].as_str().unwrap()).unwrap();
        let proxy = &settings["registry"]["proxy"];
        let there = if set == "image" { &rendered.container()["image"] } else { &proxy["url"] };
        assert_eq!(*there, wanted, "{name}: {settings}");
        let made = only(&format!("{name}.md"), |block| block.text.contains("helm upgrade --install"));
        let words: Vec<_> = made.text.split_whitespace().collect();
        let made = words.windows(4).filter(|words| words[..3] == ["create", "secret", "generic"]);
        let made: BTreeSet<String> = made.map(|words| words[3].to_owned()).collect();
        assert_eq!(secrets(rendered.pod()), made, "{name}");
    }
}

#[test]
fn the_deployment_that_is_shown_is_what_the_stock_chart_renders() {
    let chart: Value = serde_saphyr::from_str(include_str!("dropin/plugin-server.yaml")).unwrap();
    let (deployment, container) = (&chart["deployment"], &chart["container"]);
    let mut image = chart["image"].as_str().unwrap().to_owned();
    for part in ["hub", "image", "tag"] {
        image = image
            .replace(&format!("{{{part}}}"), chart["set"][format!("pluginServer.{part}")].as_str().unwrap());
    }
    let ports: Vec<_> =
        container["ports"].as_array().unwrap().iter().map(|port| json!({"containerPort": port})).collect();
    let rendered = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": deployment["name"], "namespace": "higress-system"},
        "spec": {
            "replicas": deployment["replicas"],
            "selector": {"matchLabels": deployment["labels"]},
            "template": {
                "metadata": {"labels": deployment["labels"]},
                "spec": {"containers": [
                    {"name": container["name"], "image": image, "ports": ports, "resources": container["resources"]},
                ]},
            },
        },
    });
    for name in ["higress.md", "higress.zh-CN.md"] {
        let shown = only(name, |block| block.text.contains("kind: Deployment"));
        assert_eq!(serde_saphyr::from_str::<Value>(&shown.text).unwrap(), rendered, "{name}");
    }
}

#[test]
fn no_secret_stands_in_a_file_that_others_may_read_or_on_a_command_line() {
    for (name, _) in GUIDES {
        let mut made = BTreeSet::new();
        for block in guide::blocks(&read(&format!("{name}.md"))) {
            if block.language != "sh" {
                continue;
            }
            let place = format!("{name}.md, line {}:\n{}", block.line, block.text);
            // What is there already keeps its mode.
            for file in ["harbor-password", "egress-password", "tokens", "authorization"] {
                let written = block.text.contains(&format!("> /etc/larder/{file}"))
                    || block.text.contains(&format!("> {file}"));
                assert!(
                    !written || !made.insert(file) || block.text.contains("umask 077"),
                    "{file}: {place}"
                );
            }
            for line in block.text.lines() {
                let program = ["curl", "kubectl", "helm", "skopeo", "oras", "docker"]
                    .iter()
                    .any(|name| line.contains(name));
                let shown = ["$(cat ", "--docker-password", "--from-literal", "--password "];
                assert!(!program || shown.iter().all(|word| !line.contains(word)), "{place}");
            }
        }
    }
}

#[test]
fn relative_links_in_guides_and_readmes_lead_to_files() {
    let guides = GUIDES.iter().flat_map(|(name, _)| [format!("{name}.md"), format!("{name}.zh-CN.md")]);
    let guides = guides.map(|name| folder().join(name));
    let others = ["README.md", "README.zh-CN.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "certs/README.md"];
    for path in guides.chain(others.map(|name| root().join(name))) {
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let there: &Path = path.parent().unwrap();
            assert!(there.join(target).exists(), "{} has a link to {target}", path.display());
        }
    }
}

/// The rows of the table of codes: their codes.
fn codes_of_the_table(guide: &str) -> BTreeSet<String> {
    let rows = guide
        .lines()
        .filter(|line| line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit()));
    rows.flat_map(|row| quoted(row.split('|').nth(2).unwrap_or_default())).collect()
}

/// What stands in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The codes that a client of the plugins' port can meet, by how the sources write them.
fn codes_of_the_sources() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for room in [
        "registry",
        "cache",
        "artifact",
        "oci/manifest.rs",
        "policy",
        "signature.rs",
        "plugin.rs",
        "server/refuse.rs",
        "server/guard.rs",
    ] {
        let place = root().join("src").join(room);
        let files = if place.is_dir() { crate::support::heart::files(&place) } else { vec![place] };
        // What these say is met by whoever calls `larder copy`, and says itself what to do.
        let of_copies = ["copying.rs", "payload.rs", "push.rs", "reading.rs", "refused.rs", "upload.rs"];
        let is_met = |file: &PathBuf| !of_copies.iter().chain(&["tests.rs"]).any(|name| file.ends_with(name));
        for file in files.iter().filter(|file| is_met(file)) {
            let text = std::fs::read_to_string(file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = lines.map(str::trim).collect::<Vec<_>>().join("");
            let mut before = String::new();
            for (n, part) in code.split('"').enumerate() {
                if n % 2 == 1 && is_word(part) && is_place_of_a_code(file, &before) {
                    codes.insert(part.to_owned());
                }
                before = before + part + "\"";
            }
        }
    }
    codes
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Whether a code is written behind this, without the spaces at lines' ends.
fn is_place_of_a_code(file: &Path, before: &str) -> bool {
    let before = before.trim_end_matches('"');
    let before = before.trim_end();
    let body = before.rsplit("fn ").next().unwrap_or_default();
    let last = before.trim_end_matches(',').rsplit(['(', ' ', ',']).next().unwrap_or_default();
    let behind_a_kind = before.ends_with(',') && (last.contains("Kind::") || is_status(last));
    let is_tuple = before.strip_suffix('(').is_some_and(|rest| !rest.ends_with(char::is_alphanumeric));
    let table = file.ends_with("diagnose.rs") || file.ends_with("refuse.rs");
    before.ends_with(".code(")
        || behind_a_kind
        || (body.starts_with("code(") && before.ends_with("=>"))
        || (file.ends_with("cache/error.rs") && before.ends_with("=>"))
        || (before.ends_with("&str =")
            && file.iter().any(|part| part == "cache" || part == "policy" || part == "signature.rs"))
        || (table && is_tuple)
}

fn is_status(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit())
}

#[test]
fn the_table_of_codes_has_every_code_that_a_client_can_meet_and_no_other() {
    let there = codes_of_the_sources();
    for name in ["troubleshooting.md", "troubleshooting.zh-CN.md"] {
        let told = codes_of_the_table(&read(name));
        let missing: Vec<_> = there.difference(&told).collect();
        let invented: Vec<_> = told.difference(&there).collect();
        assert!(
            missing.is_empty() && invented.is_empty(),
            "{name}: not told {missing:?}, not there {invented:?}"
        );
    }
}

#[test]
fn what_is_quoted_of_envoy_is_in_a_real_envoy() {
    let guide = read("troubleshooting.md");
    let lines: Vec<_> = guide.lines().filter(|line| line.starts_with("| Envoy |")).collect();
    assert!(lines.len() > 4, "the rows are found");
    for line in lines {
        for words in quoted(line.split('|').nth(2).unwrap()) {
            let there = Command::new("grep")
                .args(["-qaF", &words])
                .arg(root().join("target/python/envoy/_bin/envoy"))
                .status();
            assert!(there.unwrap().success(), "no Envoy says {words}");
        }
    }
}
