//! deploy/compose: what Compose makes of the files, and what starts of them: larder, and the Prometheus beside it.

use crate::support::artifact::{module, raw};
use crate::support::client;
use crate::support::contained::{Contained, Mount, Options};
use crate::support::dns::{Answer, Dns};
use crate::support::eventually;
use crate::support::image::{self, Image, image};
use crate::support::netns;
use crate::support::prometheus::Prometheus;
use crate::support::scripted::Scripted;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const ALONE: [&str; 1] = ["compose.yaml"];
const MONITORED: [&str; 2] = ["compose.yaml", "compose.monitoring.yaml"];
/// A container's address: the other services come to it, not to loopback.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// A password that somebody gave Grafana.
const PASSWORD: &str = "GRAFANA_PASSWORD=word";

fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A copy of deploy, without what somebody set for themselves there.
fn copy() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(source().join("deploy")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let _ = std::fs::remove_file(copy.path().join("deploy/compose/.env"));
    copy
}

/// What Compose makes of the files in a copy, with what stands in `.env` there; or what it says against them.
fn composed(copy: &TempDir, files: &[&str], dot_env: &str) -> Result<Value, String> {
    let program = source().join("target/compose");
    assert!(program.is_file(), "Compose's library is missing; make test installs it");
    let folder = copy.path().join("deploy/compose");
    std::fs::write(folder.join(".env"), dot_env).unwrap();
    let output = Command::new(program).args(files).current_dir(folder).env_clear().output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    match output.status.success() && said.is_empty() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(said),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn yaml(file: &Path) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn compose_takes_both_variants_and_starts_no_grafana_without_a_password() {
    let copy = copy();
    let alone = composed(&copy, &ALONE, "").unwrap();
    assert_eq!(keys(&alone["services"]), BTreeSet::from(["larder"]));
    let larder = &alone["services"]["larder"];
    assert_eq!(larder["image"], image::NAME);
    let (context, file) = (text(&larder["build"]["context"]), text(&larder["build"]["dockerfile"]));
    assert_eq!(Path::new(context), copy.path());
    assert!(source().join(file).is_file(), "{file}");
    let monitored = composed(&copy, &MONITORED, PASSWORD).unwrap();
    assert_eq!(keys(&monitored["services"]), BTreeSet::from(["grafana", "larder", "prometheus"]));
    let example = std::fs::read_to_string(copy.path().join("deploy/compose/.env.example")).unwrap();
    for dot_env in ["", &example] {
        let refused = composed(&copy, &MONITORED, dot_env).unwrap_err();
        assert!(refused.contains("GRAFANA_PASSWORD"), "{refused}");
    }
    // The example names each variable that there is.
    let texts =
        MONITORED.map(|name| std::fs::read_to_string(copy.path().join("deploy/compose").join(name)).unwrap());
    let used = texts.iter().flat_map(|text| text.split("${").skip(1));
    let used: BTreeSet<&str> = used.map(|rest| rest.split([':', '}']).next().unwrap()).collect();
    let named = example.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    let named: BTreeSet<&str> = named.map(|(name, _)| name).collect();
    assert_eq!(used, named);
    // Machines that do not reach Docker Hub have them elsewhere.
    let elsewhere =
        format!("{PASSWORD}\nPROMETHEUS_IMAGE=harbor.corp/p:1.2.3\nGRAFANA_IMAGE=harbor.corp/g:1.2.3\n");
    let moved = composed(&copy, &MONITORED, &elsewhere).unwrap();
    for name in ["prometheus", "grafana"] {
        assert_eq!(moved["services"][name]["image"], format!("harbor.corp/{}:1.2.3", &name[..1]));
        let default = text(&monitored["services"][name]["image"]);
        assert!(example.contains(&format!("_IMAGE={default}\n")), "{default}");
    }
}

#[test]
fn every_service_is_pinned_and_hardened_and_others_reach_plugins_alone() {
    let model = composed(&copy(), &MONITORED, PASSWORD).unwrap();
    let mut published = Vec::new();
    for (name, service) in model["services"].as_object().unwrap() {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        for key in ["mem_limit", "pids_limit", "restart"] {
            assert!(!service[key].is_null(), "{name}: {key}");
        }
        for key in ["privileged", "cap_add", "user", "network_mode", "pid", "devices"] {
            assert!(service.get(key).is_none(), "{name}: {key}");
        }
        let (_, tag) = text(&service["image"]).rsplit_once(':').unwrap();
        assert!(tag.trim_start_matches('v').split('.').count() == 3, "{name}: {tag} is no version");
        published.extend(list(&service["ports"]).iter().map(|port| {
            (name.as_str(), port["host_ip"].as_str().unwrap_or("any"), port["target"].as_u64().unwrap())
        }));
    }
    let wanted = [("grafana", "127.0.0.1", 3000), ("larder", "any", 8080), ("prometheus", "127.0.0.1", 9090)];
    assert_eq!(published, wanted);
    let larder = &model["services"]["larder"];
    let defaults = yaml(&source().join("conf/larder.yaml"));
    let time = |value: &Value| humantime::parse_duration(text(value)).unwrap();
    let leaving = time(&defaults["server"]["drain"]) + time(&defaults["server"]["finish"]);
    assert!(leaving + Duration::from_secs(5) <= time(&larder["stop_grace_period"]));
}

#[test]
fn what_is_mounted_is_there_and_grafana_is_told_of_it_in_its_own_words() {
    let copy = copy();
    let model = composed(&copy, &MONITORED, PASSWORD).unwrap();
    let mut mounted = Vec::new();
    for (name, service) in model["services"].as_object().unwrap() {
        for volume in list(&service["volumes"]) {
            let (from, to) = (text(&volume["source"]), text(&volume["target"]));
            if volume["type"] == "volume" {
                assert!(model["volumes"].get(from).is_some(), "{name}: {from}");
                continue;
            }
            assert_eq!(volume["read_only"], true, "{name}: {from}");
            assert!(volume["bind"].get("create_host_path").is_none(), "{name}: {from} would be made by root");
            assert_eq!(
                volume["bind"]["selinux"], "z",
                "{name}: {from} could not be read where SELinux is on"
            );
            let here = Path::new(from).strip_prefix(copy.path()).expect("it comes with the source");
            assert!(source().join(here).exists(), "{name}: {from}");
            mounted.push((name.as_str(), source().join(here), to.to_owned()));
        }
    }
    let at = |place: &str| {
        let found = mounted.iter().find(|(name, _, to)| *name == "grafana" && to.starts_with(place));
        found.unwrap_or_else(|| panic!("nothing is mounted at {place}"))
    };
    // What Grafana would ask of others by itself, each by the key that its documents have for it.
    let told = &model["services"]["grafana"]["environment"];
    for (key, value) in [
        ("GF_ANALYTICS_REPORTING_ENABLED", "false"),
        ("GF_ANALYTICS_CHECK_FOR_UPDATES", "false"),
        ("GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES", "false"),
        ("GF_NEWS_NEWS_FEED_ENABLED", "false"),
        ("GF_PLUGINS_PREINSTALL_DISABLED", "true"),
        ("GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED", "true"),
        ("GF_SECURITY_DISABLE_GRAVATAR", "true"),
    ] {
        assert_eq!(told[key], value, "{key}");
    }
    // The documented keys, of which Grafana takes no others to heart.
    let datasources = yaml(&at("/etc/grafana/provisioning/datasources/").1);
    assert_eq!(
        (keys(&datasources), &datasources["apiVersion"]),
        (["apiVersion", "datasources"].into(), &json!(1))
    );
    let datasource = &datasources["datasources"][0];
    let documented = ["access", "editable", "isDefault", "jsonData", "name", "type", "uid", "url"];
    assert_eq!(keys(datasource), documented.into());
    assert_eq!((&datasource["type"], &datasource["access"]), (&json!("prometheus"), &json!("proxy")));
    let ports = &model["services"]["prometheus"]["ports"][0];
    assert_eq!(datasource["url"], format!("http://prometheus:{}", ports["target"]));
    let provisioned = yaml(&at("/etc/grafana/provisioning/dashboards/").1);
    assert_eq!(
        (keys(&provisioned), &provisioned["apiVersion"]),
        (["apiVersion", "providers"].into(), &json!(1))
    );
    let provider = &provisioned["providers"][0];
    let documented =
        ["allowUiUpdates", "disableDeletion", "name", "options", "type", "updateIntervalSeconds"];
    assert_eq!((keys(provider), &provider["type"]), (documented.into(), &json!("file")));
    assert_eq!(keys(&provider["options"]), ["path"].into());
    let (_, dashboard, to) = at(text(&provider["options"]["path"]));
    assert_eq!(*dashboard, source().join("deploy/grafana/larder.json"));
    assert!(to.ends_with(".json"), "{to}");
}

/// A container as the service `larder` of a model, with `cache` as its volume; and what sets its variables.
fn contained(image: &Image, model: &Value, cache: &Path, more: &[(&str, &str)]) -> (Contained, Vec<String>) {
    let service = &model["services"]["larder"];
    let mounts = list(&service["volumes"]).iter().map(|volume| Mount {
        from: if volume["type"] == "volume" { cache.into() } else { text(&volume["source"]).into() },
        to: text(&volume["target"]).into(),
        writable: volume["read_only"] != true,
    });
    let own =
        service["environment"].as_object().unwrap().iter().map(|(name, value)| (name.as_str(), text(value)));
    let variables = own.chain(more.iter().copied()).map(|(name, value)| (name.to_owned(), value.to_owned()));
    let options = Options {
        read_only: service["read_only"] == true,
        memory: Some(text(&service["mem_limit"]).parse().unwrap()),
        mounts: mounts.collect(),
        variables: variables.collect(),
        ..Options::default()
    };
    let set = options.variables.iter().map(|(name, value)| format!("{name}={value}"));
    let words = ["env".to_owned()].into_iter().chain(set).collect();
    (Contained::start(image, &options), words)
}

/// A volume, which an engine fills with what the image has there.
fn volume(image: &Image, folder: &Path) {
    let filled =
        Command::new("cp").arg("-a").arg(image.root.join("var/lib/larder")).arg(folder).status().unwrap();
    assert!(filled.success());
}

#[test]
fn larder_as_composed_is_healthy_answers_who_asks_inside_and_what_it_fetched_outlasts_it() {
    let image = image();
    let own = "larder_as_composed_is_healthy_answers_who_asks_inside_and_what_it_fetched_outlasts_it";
    if !netns::alone(&format!("compose::{own}"), &[]) {
        return;
    }
    let copy = copy();
    // Whoever clones the source may read it, and so may the container's user.
    let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(copy.path()).status().unwrap();
    assert!(opened.success());
    let model = composed(&copy, &ALONE, "").unwrap();
    let cache = copy.path().join("cache");
    volume(image, &cache);
    let registry = Scripted::start();
    let wasm = module("kept", 5000);
    registry.put("plugins/kept", "1", &raw(&wasm));
    let host = registry.host().replace("127.0.0.1", "localhost");
    let template = format!("oci://{host}/plugins/{{name}}:{{version}}");
    let more = [("LARDER_CATALOG_TEMPLATE", template.as_str()), ("LARDER_REGISTRY_PLAIN_HTTP", &host)];
    for start in 0..2 {
        let (larder, words) = contained(image, &model, &cache, &more);
        let inside = |words: &[&str]| {
            let output = larder.run(words);
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            (output.status.success(), said)
        };
        let test = &model["services"]["larder"]["healthcheck"]["test"];
        assert_eq!(test[0], "CMD-SHELL");
        let (healthy, said) = inside(&["sh", "-c", text(&test[1])]);
        assert!(healthy, "{said}");
        let reply = client::get(larder.data, "/plugins/kept/1/plugin.wasm");
        assert_eq!((reply.status, reply.body == wasm), (200, true), "start {start}: {}", larder.stderr());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for command in ["check", "status"] {
            let (well, said) = inside(&[&words[..], &["larder", command]].concat());
            assert!(well, "larder {command}: {said}");
        }
        drop(larder);
        registry.down();
    }
}

#[test]
fn prometheus_with_its_files_as_composed_scrapes_larder_and_goes_by_its_alerts() {
    let image = image();
    let own = "prometheus_with_its_files_as_composed_scrapes_larder_and_goes_by_its_alerts";
    if !netns::alone(&format!("compose::{own}"), &[&format!("{ADDRESS}/32")]) {
        return;
    }
    let copy = copy();
    let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(copy.path()).status().unwrap();
    assert!(opened.success());
    let model = composed(&copy, &MONITORED, PASSWORD).unwrap();
    let cache = copy.path().join("cache");
    volume(image, &cache);
    let (larder, _) = contained(image, &model, &cache, &[]);
    // Compose's own resolver has each service by its name.
    let names = model["services"].clone();
    let _dns = Dns::start("127.0.0.1:53", move |name, v6, _| match names.get(name) {
        Some(_) if v6 => Answer::Addresses(Vec::new()),
        Some(_) => Answer::Addresses(vec![ADDRESS.into()]),
        None => Answer::NxDomain,
    });
    // The folder is Debian's; here it has what is mounted in the container, and nothing else.
    let folder = Path::new("/etc/prometheus");
    let hidden = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(folder).status().unwrap();
    assert!(hidden.success());
    let binds =
        list(&model["services"]["prometheus"]["volumes"]).iter().filter(|volume| volume["type"] == "bind");
    for bind in binds {
        let to = Path::new(text(&bind["target"]));
        assert!(to.starts_with(folder), "{}", to.display());
        let text = std::fs::read_to_string(text(&bind["source"])).unwrap();
        std::fs::write(to, text.replace("_interval: 15s", "_interval: 200ms")).unwrap();
    }
    // Where the image looks without a command.
    assert!(model["services"]["prometheus"]["command"].is_null());
    let prometheus = Prometheus::reading(&folder.join("prometheus.yml"));
    eventually("a scrape", || (prometheus.value(r#"up{job="larder"}"#) > 0.0).then_some(()));
    assert_eq!(prometheus.value("count(larder_build_info)"), 1.0, "{}", larder.stderr());
    let alerts = yaml(&source().join("deploy/prometheus/alerts.yaml"));
    let rules = list(&alerts["groups"][0]["rules"]).len();
    eventually("rules that were looked at", || {
        let told = prometheus.rules();
        (told.len() == rules && told.iter().all(|(_, health)| health == "ok")).then_some(())
    });
}
