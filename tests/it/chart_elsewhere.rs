//! The chart in other hands: fetched, versioned, named, extended and depended upon by others.

use crate::support::chart::{KUBERNETES, copy, folder, helm, render, render_as, render_on};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Rewrites a file of a chart.
fn change(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

#[test]
fn a_copy_without_links_comes_to_the_same_and_one_that_lacks_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let chart = copy(dir.path());
    let rendered = |chart: &Path| render_on(chart, "larder", KUBERNETES, "everything", "");
    assert_eq!(rendered(&chart), rendered(&folder()));
    for file in ["files/alerts.yaml", "files/dashboard.json"] {
        let whole = std::fs::read(chart.join(file)).unwrap();
        std::fs::remove_file(chart.join(file)).unwrap();
        let refused = rendered(&chart).expect_err(file);
        assert!(refused.contains(&format!("{file}: the chart came without it")), "{refused}");
        std::fs::write(chart.join(file), whole).unwrap();
    }
}

/// Whether Kubernetes takes this as a label's value.
fn is_label(value: &str) -> bool {
    let end = |sign: Option<char>| sign.is_some_and(|sign| sign.is_ascii_alphanumeric());
    let inner = |sign: char| sign.is_ascii_alphanumeric() || "-_.".contains(sign);
    value.len() <= 63 && value.chars().all(inner) && end(value.chars().next()) && end(value.chars().last())
}

#[test]
fn every_label_is_one_with_the_versions_that_others_make_of_the_charts() {
    let versions = ["0.1.0+4f1c2d3e5a6b", "0.1.0-rc.1+build.20261121.aaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbb"];
    for version in versions {
        let dir = tempfile::tempdir().unwrap();
        let chart = copy(dir.path());
        change(&chart.join("Chart.yaml"), "ersion: 0.1.0", &format!("ersion: {version}"));
        let more = "image: {tag: x}";
        for object in render_on(&chart, "larder", KUBERNETES, "everything", more).unwrap().0 {
            for (name, value) in object["metadata"]["labels"].as_object().unwrap() {
                assert!(is_label(value.as_str().unwrap()), "{name}: {value}");
            }
        }
    }
}

#[test]
fn a_chart_that_depends_on_it_turns_it_on_and_off() {
    let dir = tempfile::tempdir().unwrap();
    copy(dir.path());
    let umbrella = dir.path().join("umbrella");
    std::fs::create_dir_all(umbrella.join("charts")).unwrap();
    std::fs::rename(dir.path().join("larder"), umbrella.join("charts/larder")).unwrap();
    let dependency = json!({"name": "larder", "version": "0.1.0", "condition": "larder.enabled"});
    let chart =
        json!({"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": [dependency]});
    std::fs::write(umbrella.join("Chart.yaml"), chart.to_string()).unwrap();
    let rendered = |enabled: Value| {
        let values = json!({"global": {"imageRegistry": "harbor.corp"}, "larder": {"enabled": enabled, "replicas": 5}});
        render_on(&umbrella, "gateways", KUBERNETES, "default", &values.to_string())
    };
    let on = rendered(json!(true)).unwrap();
    assert_eq!(on.only("StatefulSet")["metadata"]["name"], "gateways-larder");
    assert_eq!(on.only("StatefulSet")["spec"]["replicas"], 5);
    assert!(rendered(json!(false)).unwrap().0.is_empty());
    let refused = rendered(json!("maybe")).unwrap_err();
    assert!(refused.contains("enabled"), "{refused}");
}

#[test]
fn every_release_has_names_that_kubernetes_takes_or_is_told_why_not() {
    for (release, name) in [
        ("larder", "larder"),
        ("gateways", "gateways-larder"),
        ("9larder", ""),
        ("1", ""),
        ("eu.gateways", ""),
        (
            "larder-for-the-gateways-of-the-second-zones-in-europe",
            "larder-for-the-gateways-of-the-second-zones-in-europ",
        ),
        (
            "larder-for-the-gateways-of-the-second-zone-in-europ-x",
            "larder-for-the-gateways-of-the-second-zone-in-europ",
        ),
        (
            "for-the-gateways-of-the-second-zone-at-a-border-in-eu",
            "for-the-gateways-of-the-second-zone-at-a-larder",
        ),
    ] {
        match render_as(release, "default", "") {
            Ok(rendered) => {
                let called = rendered.only("StatefulSet")["metadata"]["name"].as_str().unwrap();
                assert_eq!(called, name, "{release}");
                assert!(called.len() <= 52, "the pods' label has a hash of ten behind it: {called}");
            }
            Err(told) => {
                assert_eq!(name, "", "{release}: {told}");
                assert!(told.contains("release name"), "{release}: {told}");
            }
        }
    }
    render_as("1", "default", "fullnameOverride: plugins").unwrap();
}

#[test]
fn labels_and_annotations_of_others_stand_beside_the_charts_own_and_never_in_their_place() {
    let own = "{app.kubernetes.io/name: other, app.kubernetes.io/instance: other, team: gateways}";
    let more = format!(
        "{{podLabels: {own}, podAnnotations: {{larder/read-at-start: never, team: gateways}}, \
         serviceMonitor: {{labels: {own}}}, prometheusRule: {{labels: {own}}}, dashboard: {{labels: {own}}}}}"
    );
    let rendered = render("everything", &more).unwrap();
    let template = &rendered.only("StatefulSet")["spec"]["template"]["metadata"];
    let labelled = ["ServiceMonitor", "PrometheusRule"].map(|kind| &rendered.only(kind)["metadata"]);
    let labelled =
        labelled.into_iter().chain([template, &rendered.named("ConfigMap", "plugins-dashboard")["metadata"]]);
    for metadata in labelled {
        let labels = &metadata["labels"];
        assert_eq!(labels["app.kubernetes.io/name"], "larder", "{metadata}");
        assert_eq!(labels["app.kubernetes.io/instance"], "larder", "{metadata}");
        assert_eq!(labels["team"], "gateways", "{metadata}");
    }
    assert_eq!(template["annotations"]["larder/read-at-start"].as_str().unwrap().len(), 64);
    assert_eq!(template["annotations"]["team"], "gateways");
}

#[test]
fn one_that_is_not_ready_may_always_go_where_kubernetes_can_be_told_so() {
    for (version, policy) in [
        ("1.25.0", Value::Null),
        ("1.26.9", Value::Null),
        ("1.27.0-gke.1", json!("AlwaysAllow")),
        (KUBERNETES, json!("AlwaysAllow")),
    ] {
        let rendered = render_on(&folder(), "larder", version, "default", "").unwrap();
        assert_eq!(
            rendered.only("PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"],
            policy,
            "{version}"
        );
    }
}

#[test]
fn no_two_files_of_secrets_come_to_one_path_and_one_that_is_named_twice_is_mounted_once() {
    let more = "{ca: {secrets: [{name: a.b, key: c}, {name: a, key: b.c}, {name: a, key: b.c}]}, \
                secrets: [{name: x, keys: [one]}, {name: x, keys: [one, two]}]}";
    let rendered = render("default", more).unwrap();
    let settings = rendered.pod()["volumes"].as_array().unwrap().iter().find(|it| it["name"] == "settings");
    let sources = settings.unwrap()["projected"]["sources"].as_array().unwrap();
    let secrets = sources.iter().filter_map(|source| source.get("secret"));
    let paths: Vec<_> = secrets.map(|it| it["items"][0]["path"].as_str().unwrap()).collect();
    assert_eq!(paths.iter().collect::<BTreeSet<_>>().len(), paths.len(), "{paths:?}");
    assert_eq!(paths.len(), 4, "{paths:?}");
}

#[test]
fn a_pod_finds_names_as_the_values_say() {
    let pod = render("everything", "").unwrap().pod().clone();
    assert_eq!(pod["hostAliases"], json!([{"ip": "10.0.4.7", "hostnames": ["harbor.corp"]}]));
    assert_eq!(pod["dnsPolicy"], "None");
    assert_eq!(pod["dnsConfig"]["nameservers"], json!(["10.96.0.10"]));
    let pod = render("default", "").unwrap().pod().clone();
    assert!(["hostAliases", "dnsPolicy", "dnsConfig"].iter().all(|key| pod.get(key).is_none()), "{pod}");
}

/// The keys that have keys, each with the way to it.
fn sections(of: &Value, way: &[String]) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    for (key, value) in of.as_object().into_iter().flatten() {
        let way = [way, std::slice::from_ref(key)].concat();
        if value.is_object() || way.len() == 1 {
            out.push(way.clone());
        }
        out.extend(sections(value, &way));
    }
    out
}

#[test]
fn a_null_is_either_as_good_as_empty_or_refused_with_its_name() {
    let values = std::fs::read_to_string(folder().join("values.yaml")).unwrap();
    let ways = sections(&serde_saphyr::from_str(&values).unwrap(), &[]);
    assert!(ways.len() > 50, "{ways:?}");
    for way in ways {
        let more = way.iter().rev().fold(Value::Null, |inner, key| json!({ key: inner }));
        let told = helm(&["template", "larder", "--kube-version", KUBERNETES], "default", &more.to_string());
        let last = way.last().unwrap();
        assert!(
            told.as_ref().err().is_none_or(|told| told.contains(&format!("{last} is required"))),
            "{more}: {told:?}"
        );
    }
}
