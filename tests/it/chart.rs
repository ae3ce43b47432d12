//! The chart in deploy/helm: what helm, Kubernetes and larder itself make of it.

use crate::support::artifact::module;
use crate::support::chart::{
    KUBERNETES, Pod, Rendered, folder, helm, notes, render, render_as, render_on, sets,
};
use crate::support::prometheus::{deploy, promtool};
use crate::support::{eventually, netns};
use larder::config::{DEFAULT, keys::AT_START};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

#[test]
fn helm_has_nothing_against_the_chart_with_any_set_of_values() {
    for set in sets() {
        if let Err(told) = helm(&["lint", "--strict"], &set, "") {
            panic!("{set}: {told}");
        }
    }
}

#[test]
fn kubernetes_of_the_oldest_and_the_newest_version_takes_every_object() {
    let chart = yaml(&std::fs::read_to_string(folder().join("Chart.yaml")).unwrap());
    let oldest = text(&chart["kubeVersion"]).trim_start_matches(">=").trim_end_matches("-0").to_owned();
    for (release, version) in
        [(oldest.as_str(), &["--kubernetes-version", &oldest[..4]][..]), (KUBERNETES, &[])]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for set in sets() {
            for object in render_on(&folder(), "larder", release, &set, "").unwrap().0 {
                let kind = text(&object["kind"]);
                if !["ServiceMonitor", "PrometheusRule"].contains(&kind) {
                    let name = format!("{set}-{kind}-{}.json", text(&object["metadata"]["name"]));
                    std::fs::write(dir.path().join(&name), object.to_string()).unwrap();
                    files.push(name);
                }
            }
        }
        assert!(files.len() > 40, "{files:?}");
        let output = Command::new("python3")
            .args(["-m", "kubernetes_validate", "--strict", "--quiet", "--no-warn"])
            .args(version)
            .args(&files)
            .current_dir(dir.path())
            .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python"))
            .output()
            .unwrap();
        let told =
            [output.stdout, output.stderr].map(|told| String::from_utf8_lossy(&told).into_owned()).concat();
        assert!(output.status.success(), "{version:?}: {told}");
    }
}

/// Fields of the Prometheus operator's ServiceMonitor (monitoring.coreos.com/v1) and of its endpoints, as far as we use them.
const MONITOR: [&str; 3] = ["jobLabel", "selector", "endpoints"];
const ENDPOINT: [&str; 5] = ["port", "path", "interval", "scheme", "tlsConfig"];

fn names(of: &Value) -> Vec<&str> {
    of.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_operator_gets_alerts_a_dashboard_and_a_job_of_the_name_that_the_alerts_have() {
    let rendered = render_as("gateways", "everything", "").unwrap();
    let rule = &rendered.only("PrometheusRule")["spec"];
    let alerts = std::fs::read_to_string(deploy().join("alerts.yaml")).unwrap();
    assert_eq!(*rule, yaml(&alerts));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.json");
    std::fs::write(&file, rule.to_string()).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], b"");
    let dashboard = rendered.named("ConfigMap", "plugins-dashboard");
    let ours = std::fs::read_to_string(deploy().join("../grafana/larder.json")).unwrap();
    assert_eq!(text(&dashboard["data"]["larder.json"]).trim_end(), ours.trim_end());
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");

    let monitor = &rendered.only("ServiceMonitor")["spec"];
    assert!(names(monitor).iter().all(|name| MONITOR.contains(name)), "{monitor}");
    let endpoint = &monitor["endpoints"][0];
    assert!(names(endpoint).iter().all(|name| ENDPOINT.contains(name)), "{endpoint}");
    assert_eq!(endpoint["scheme"], "https", "tls.admin is on");
    let service = rendered.named("Service", "plugins-pods");
    let job = &service["metadata"]["labels"][text(&monitor["jobLabel"])];
    assert!(alerts.contains(&format!("up{{job={job}}}")), "{job}");
    assert!(selects(&monitor["selector"]["matchLabels"], &service["metadata"]["labels"]));
    assert!(!selects(
        &monitor["selector"]["matchLabels"],
        &rendered.named("Service", "plugins")["metadata"]["labels"]
    ));
    assert!(list(&service["spec"]["ports"]).iter().any(|port| port["name"] == endpoint["port"]));
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true, "one that is not ready is told of too");
}

/// Whether a selector finds what has these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().unwrap();
    !wanted.is_empty() && wanted.iter().all(|(name, value)| labels[name] == *value)
}

#[test]
fn everything_that_chooses_pods_finds_larders_and_not_that_of_helm_test() {
    for set in sets() {
        let rendered = render(&set, "podLabels: {team: x}").unwrap();
        let stateful = &rendered.only("StatefulSet")["spec"];
        let labels = &stateful["template"]["metadata"]["labels"];
        let services = rendered.all("Service").into_iter().map(|service| &service["spec"]["selector"]);
        let policies = rendered
            .all("NetworkPolicy")
            .into_iter()
            .map(|policy| &policy["spec"]["podSelector"]["matchLabels"]);
        let budget = &rendered.only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"];
        let spread = list(&stateful["template"]["spec"]["topologySpreadConstraints"]).iter();
        let spread = spread.map(|constraint| &constraint["labelSelector"]["matchLabels"]);
        let own = [budget, &stateful["selector"]["matchLabels"]].into_iter();
        for selector in services.chain(policies).chain(spread).chain(own) {
            assert!(selects(selector, labels), "{set}: {selector}");
            for test in rendered.all("Pod") {
                assert!(!selects(selector, &test["metadata"]["labels"]), "{set}: {selector}");
            }
        }
        let named: BTreeSet<_> =
            list(&rendered.container()["ports"]).iter().map(|port| text(&port["name"])).collect();
        for service in rendered.all("Service") {
            for port in list(&service["spec"]["ports"]) {
                assert!(named.contains(text(&port["targetPort"])), "{set}: {port}");
            }
        }
        let governing = rendered.named("Service", text(&stateful["serviceName"]));
        assert_eq!(governing["spec"]["clusterIP"], "None");
    }
}

#[test]
fn no_pod_has_a_token_of_kubernetes_and_every_one_runs_locked_down() {
    for set in sets() {
        let rendered = render(&set, "").unwrap();
        assert_eq!(rendered.only("StatefulSet")["spec"]["template"]["spec"]["enableServiceLinks"], false);
        for pod in rendered.pods() {
            assert_eq!(pod["automountServiceAccountToken"], false, "{set}");
            assert!(!pod.to_string().contains("serviceAccountToken"), "{set}");
            let of_pod = &pod["securityContext"];
            assert_eq!(
                (&of_pod["runAsNonRoot"], &of_pod["runAsUser"], &of_pod["seccompProfile"]["type"]),
                (&json!(true), &json!(65532), &json!("RuntimeDefault")),
                "{set}"
            );
            for container in list(&pod["containers"]).iter().chain(list(&pod["initContainers"])) {
                let own = &container["securityContext"];
                assert_eq!(own["readOnlyRootFilesystem"], true, "{set}: {container}");
                assert_eq!(own["allowPrivilegeEscalation"], false, "{set}: {container}");
                assert_eq!(own["capabilities"], json!({"drop": ["ALL"]}), "{set}: {container}");
            }
            assert!(pod["containers"][0]["resources"]["limits"]["memory"].is_string(), "{set}");
        }
        for mount in list(&rendered.container()["volumeMounts"]) {
            let may_write = ["/var/lib/larder", "/scratch"].contains(&text(&mount["mountPath"]));
            assert_eq!(mount["readOnly"] != true, may_write, "{set}: {mount}");
            assert!(mount.get("subPath").is_none(), "the kubelet would never change it: {mount}");
        }
    }
}

/// The objects that differ, by kind.
fn changed(before: &Rendered, after: &Rendered) -> Vec<String> {
    assert_eq!(before.0.len(), after.0.len());
    let pairs = before.0.iter().zip(&after.0).filter(|(one, other)| one != other);
    pairs.map(|(one, _)| text(&one["kind"]).to_owned()).collect()
}

#[test]
fn a_change_of_settings_changes_the_configmap_alone_and_the_pods_only_where_larder_reads_it_at_its_start() {
    let before = render("default", "").unwrap();
    for more in [
        "config: {fill: {hold: 3s}}",
        "config: {server: {connections: 10, drain: 1s}}",
        "config: {registry: {hosts: {harbor.corp: {plain_http: true}}}}",
        "config: {log: {level: debug}}",
        "config: {cache: {disk: 1GiB}}",
        "config: {tls: {data: {client_certificate: required}}}",
        "catalog: a=b/c:1",
        "ca: {pem: '-----BEGIN CERTIFICATE-----'}",
    ] {
        assert_eq!(changed(&before, &render("default", more).unwrap()), ["ConfigMap"], "{more}");
    }
    let at_start = BTreeMap::from([
        ("listen", "{listen: {data: '0.0.0.0:8080 '}}"),
        ("server.threads", "{server: {threads: 3}}"),
        ("server.send_buffer", "{server: {send_buffer: 0}}"),
        ("cache.dir", "{cache: {dir: /var/lib/larder/other}}"),
        ("log.format", "{log: {format: json}}"),
        ("traces", "{traces: {sample: 0.5}}"),
        ("warm_up", "{warm_up: {at_once: 1}}"),
        ("import", "{import: {dir: /bundles}}"),
    ]);
    assert_eq!(at_start.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from(AT_START));
    for (key, config) in at_start {
        let after = render("default", &format!("config: {config}")).unwrap();
        assert_eq!(changed(&before, &after), ["ConfigMap", "StatefulSet"], "{key}");
    }
    let secured = render("default", "config: {tls: {data: {certificate: /x, key: /y}}}").unwrap();
    assert!(secured.pod() == before.pod(), "nothing but the annotation says so");
    let annotations =
        |rendered: &Rendered| rendered.only("StatefulSet")["spec"]["template"]["metadata"].clone();
    assert_ne!(annotations(&secured), annotations(&before), "TLS is turned on by a start alone");
}

#[test]
fn no_two_pods_share_a_cache_and_what_is_kept_outlasts_a_pod_unless_somebody_wants_it_otherwise() {
    for set in sets() {
        let rendered = render(&set, "replicas: 5").unwrap();
        let spec = &rendered.only("StatefulSet")["spec"];
        let volumes = list(&rendered.pod()["volumes"]);
        assert!(!rendered.pod().to_string().contains("persistentVolumeClaim"), "{set}: a claim of its own");
        assert!(rendered.all("PersistentVolumeClaim").is_empty() && rendered.all("Deployment").is_empty());
        let claims = list(&spec["volumeClaimTemplates"]);
        let cache = volumes.iter().find(|volume| volume["name"] == "cache");
        match cache {
            Some(volume) => {
                assert!(claims.is_empty() && volume["emptyDir"]["sizeLimit"].is_string(), "{set}")
            }
            None => {
                assert_eq!((claims.len(), &claims[0]["metadata"]["name"]), (1, &json!("cache")), "{set}");
                let modes = list(&claims[0]["spec"]["accessModes"]);
                assert!(modes.iter().all(|mode| text(mode).starts_with("ReadWriteOnce")), "{set}");
            }
        }
        assert_eq!(cache.is_some(), set == "emptydir");
    }
}

#[test]
fn the_network_policy_lets_in_and_out_the_listed_peers_and_nobody_else() {
    let gateway = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "higress-system"}},
        "podSelector": {"matchLabels": {"app": "higress-gateway"}},
    });
    let prometheus =
        json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}});
    let dns = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}});
    let tcp = |port: Value| json!({"port": port, "protocol": "TCP"});
    let resolving = json!([
        {"port": 53, "protocol": "UDP"},
        {"port": 53, "protocol": "TCP"},
        {"port": 5353, "protocol": "UDP"},
        {"port": 5353, "protocol": "TCP"},
    ]);
    let proxied = render("proxy", "").unwrap();
    let spec = &proxied.only("NetworkPolicy")["spec"];
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    let mut ingress = list(&spec["ingress"]).to_vec();
    ingress.sort_by_key(Value::to_string);
    assert_eq!(
        ingress,
        [
            json!({"from": [gateway], "ports": [tcp("http".into())]}),
            json!({"from": [prometheus], "ports": [tcp("admin".into())]}),
        ]
    );
    let harbor = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "harbor"}}});
    assert_eq!(
        spec["egress"],
        json!([
            {"to": [dns], "ports": resolving},
            {"to": [{"ipBlock": {"cidr": "10.0.4.0/24"}}, harbor], "ports": [tcp(443.into()), tcp(8443.into())]},
            {"to": [{"ipBlock": {"cidr": "10.0.9.7/32"}}], "ports": [tcp(3128.into())]},
        ])
    );
    // An empty list of peers would mean everybody to Kubernetes: whoever lists none gets no rule.
    let nobody = render("closed", "networkPolicy: {gateways: [], dns: []}").unwrap();
    let spec = &nobody.only("NetworkPolicy")["spec"];
    assert!(list(&spec["ingress"]).is_empty(), "{spec}");
    assert_eq!(list(&spec["egress"]).len(), 1, "{spec}");
    assert!(render("default", "").unwrap().all("NetworkPolicy").is_empty());
}

#[test]
fn a_wrong_value_is_refused_with_its_name() {
    for (more, told) in [
        ("replica: 3", "replica"),
        ("replicas: many", "replicas"),
        ("image: {name: x}", "image: Additional property name"),
        ("image: {digest: abc}", "image.digest"),
        ("image: {pullPolicy: always}", "image.pullPolicy"),
        ("config: {fil: {hold: 3s}}", "config: Additional property fil "),
        ("config: {fill: {holdd: 3s}}", "config.fill: Additional property holdd"),
        ("config: text", "config"),
        ("catalog: {waf: x}", "catalog"),
        ("ca: {pem: /etc/ca.pem}", "ca.pem"),
        ("ca: {secrets: [corp-ca]}", "ca.secrets.0"),
        ("pullSecret: Harbor Pull", "pullSecret"),
        (
            "registries: {harbor.corp: {pullSecrets: x}}",
            "registries.harbor.corp: Additional property pullSecrets",
        ),
        ("registries: {'https://harbor.corp': {pullSecret: x}}", "https://harbor.corp"),
        ("secrets: [{name: x}]", "secrets.0: keys is required"),
        ("proxy: {url: 'http://user:password@egress:3128'}", "proxy.url"),
        ("proxy: {password: x}", "proxy: Additional property password"),
        ("tls: {data: {certificate: x}}", "tls.data: Additional property certificate"),
        ("persistence: {accessMode: ReadWriteMany}", "persistence.accessMode"),
        ("persistence: {existingClaim: x}", "persistence: Additional property existingClaim"),
        ("persistence: {size: large}", "persistence.size"),
        ("service: {type: ExternalName}", "service.type"),
        ("service: {port: 0}", "service.port"),
        ("podDisruptionBudget: {maxUnavailable: most}", "podDisruptionBudget.maxUnavailable"),
        ("env: [{name: LARDER_LISTEN_ADMIN, value: x}]", "env.0.name"),
        ("networkPolicy: {gateways: [{}]}", "networkPolicy.gateways.0"),
        (
            "networkPolicy: {gateways: [{host: harbor.corp}]}",
            "networkPolicy.gateways.0: Additional property host",
        ),
        ("networkPolicy: {registries: [{to: [], ports: [443]}]}", "networkPolicy.registries.0.to"),
        (
            "networkPolicy: {registries: [{to: [{ipBlock: {cidr: 10.0.0.1/32}}]}]}",
            "networkPolicy.registries.0: ports",
        ),
        ("serviceMonitor: {interval: 30}", "serviceMonitor.interval"),
        ("dashboard: {label: x}", "dashboard: Additional property label"),
        // What fits each other, which a schema cannot say.
        (
            "terminationGracePeriodSeconds: 24",
            "terminationGracePeriodSeconds: 24 is too short: config.server.drain (5s)",
        ),
        ("config: {server: {drain: 11s}}", "terminationGracePeriodSeconds: 30 is too short"),
        ("config: {server: {finish: 1m}}", "config.server.finish (60s) and 5 seconds are 70"),
        ("config: {server: {drain: 500ms}}", "config.server.drain: 500ms: write it in seconds or minutes"),
        (
            "config: {listen: {admin: '127.0.0.1:9090'}}",
            "config.listen: 127.0.0.1:9090: nobody outside of the pod",
        ),
        (
            "persistence: {enabled: false, size: 2Gi}",
            "persistence.size: 2Gi is too small: config.cache.disk (2GiB)",
        ),
        (
            "{persistence: {enabled: false}, config: {cache: {disk: 4 GB}, limits: {module: 1g}}}",
            "are 5000000000 bytes",
        ),
        (
            "{persistence: {enabled: false}, config: {cache: {disk: 5000000000}}}",
            "persistence.size: 4Gi is too small",
        ),
        (
            "{persistence: {enabled: false}, config: {cache: {disk: much}}}",
            "config.cache.disk: much: not a size",
        ),
        ("dnsPolicy: default", "dnsPolicy"),
        ("config: {cache: {dir: /tmp/cache}}", "config.cache.dir: /tmp/cache"),
        ("config: {cache: {dir: /var/lib/larder2}}", "config.cache.dir: /var/lib/larder2: must be"),
        ("{catalog: a=b/c:1, config: {catalog: {files: []}}}", "config.catalog.files: must name"),
        (
            "config: {tls: {admin: {client_certificate: required}}}",
            "config.tls.admin.client_certificate: required",
        ),
        ("networkPolicy: {enabled: true}", "networkPolicy: registries or proxy must say"),
        (
            "{proxy: {url: 'http://e:1'}, networkPolicy: {enabled: true, registries: [{to: [{podSelector: {}}], ports: [1]}]}}",
            "networkPolicy.proxy: must have the addresses",
        ),
    ] {
        let refused = render("default", more).expect_err(more);
        assert!(refused.contains(told), "{more}: {refused}");
    }
    render("default", "{terminationGracePeriodSeconds: 25}").unwrap();
    render("default", "{global: {whatever: 1}}").unwrap();
    render("default", "{persistence: {enabled: false, size: 2304Mi}}").unwrap();
    render("default", "{persistence: {enabled: false, size: 0.5Gi}, config: {cache: {disk: 256MiB}}}")
        .unwrap();
}

#[test]
fn the_schema_knows_the_keys_that_larder_knows() {
    let known: Value = yaml(DEFAULT);
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(folder().join("values.schema.json")).unwrap()).unwrap();
    let config = &schema["properties"]["config"];
    let keys = |of: &Value| names(of).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(keys(&config["properties"]), keys(&known));
    for (section, settings) in known.as_object().unwrap() {
        let described = &config["properties"][section];
        assert_eq!(described["additionalProperties"], false, "{section}");
        assert_eq!(keys(&described["properties"]), keys(settings), "{section}");
    }
}

#[test]
fn the_readme_of_the_chart_says_what_its_values_say() {
    let output = Command::new(folder().join("../readme.py")).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn larder_accepts_all_that_the_chart_writes_for_it() {
    for set in sets() {
        let pod = Pod::of(&render(&set, "").unwrap(), &[("waf/1.0.0/plugin.wasm", module("own", 100))]);
        let output = pod.command(&["check"]).output().unwrap();
        let told =
            [output.stdout, output.stderr].map(|told| String::from_utf8_lossy(&told).into_owned()).concat();
        assert!(output.status.success(), "{set}: {told}");
        let names =
            |line: &str| line.contains("unknown") || line.contains("certs") && line.contains("warning");
        assert!(!told.lines().any(names), "{set}: {told}");
        match set.as_str() {
            "closed" => {
                assert!(told.contains("1 listed; others refused"), "an empty template is none: {told}")
            }
            "tls" => assert!(told.contains("https://0.0.0.0:8080") && told.contains("token"), "{told}"),
            _ => {}
        }
    }
}

/// A larder in its container. Killed when dropped.
struct Running(Child, tempfile::TempDir);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(pod: &Pod) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        Self(pod.command(&[]).stdout(Stdio::null()).stderr(log).spawn().unwrap(), dir)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.1.path().join("log")).unwrap()
    }
}

/// The status and body of a URL, whatever certificate is shown.
fn curl(url: &str) -> (String, String) {
    let output =
        Command::new("curl").args(["-sk", "--max-time", "10", "-w", "\n%{http_code}", url]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = told.rsplit_once('\n').unwrap();
    (status.into(), body.into())
}

/// Where one of the container's ports is.
fn port(rendered: &Rendered, name: &Value) -> u64 {
    let ports = list(&rendered.container()["ports"]);
    ports.iter().find(|port| port["name"] == *name).unwrap()["containerPort"].as_u64().unwrap()
}

#[test]
fn a_pod_as_rendered_answers_its_probes_and_uses_what_the_kubelet_turns_without_a_restart() {
    if !netns::alone(
        "chart::a_pod_as_rendered_answers_its_probes_and_uses_what_the_kubelet_turns_without_a_restart",
        &[],
    ) {
        return;
    }
    for set in sets() {
        let rendered = render(&set, "").unwrap();
        let own = module("own", 100);
        let mut pod = Pod::of(&rendered, &[("waf/1.0.0/plugin.wasm", own.clone())]);
        let mut running = Running::start(&pod);
        let container = rendered.container();
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let get = &container[probe]["httpGet"];
            let scheme = text(&get["scheme"]).to_lowercase();
            let url = format!("{scheme}://127.0.0.1:{}{}", port(&rendered, &get["port"]), text(&get["path"]));
            eventually(&format!("an answer to the {probe} of {set}"), || {
                let ended = running.0.try_wait().unwrap();
                assert!(ended.is_none(), "{set}: larder ended: {ended:?}\n{}", running.log());
                (curl(&url).0 == "200").then_some(())
            });
        }
        let scheme = text(&rendered.named("Service", text(&rendered.only("StatefulSet")["metadata"]["name"]))["spec"]["ports"][0]["name"]).to_owned();
        let data = format!("{scheme}://127.0.0.1:{}", port(&rendered, &json!("http")));
        assert_eq!(curl(&format!("{data}/")).0, "200", "{set}: {}", running.log());
        if set == "own-plugins" {
            let (status, _) = curl(&format!("{data}/plugins/waf/1.0.0/plugin.wasm"));
            assert_eq!(status, "200", "a module in a ConfigMap: {}", running.log());
        }
        if set == "default" {
            turned(&mut pod, &mut running, &data);
        }
    }
}

/// The kubelet turns what is mounted, and larder goes on with it.
fn turned(pod: &mut Pod, running: &mut Running, data: &str) {
    let is_there = |name: &str| curl(&format!("{data}/plugins/{name}/")).0 == "200";
    assert!(!is_there("fresh"), "{}", running.log());
    pod.turn(&render("default", "catalog: fresh=harbor.corp/plugins/fresh:1.0.0").unwrap());
    eventually("a name of the new catalog", || is_there("fresh").then_some(()));
    // Nothing was in its folder before.
    let certificates = std::fs::read_to_string(folder().join("ci/own-ca-values.yaml")).unwrap();
    let ca = json!({"pem": yaml(&certificates)["ca"]["pem"], "secrets": []});
    pod.turn(&render("default", &json!({"ca": ca}).to_string()).unwrap());
    eventually("a CA that was put there", || {
        let metrics = curl("http://127.0.0.1:9090/metrics").1;
        metrics.contains("{file=\"/etc/larder/certs/ca.pem\",role=\"ca\"}").then_some(())
    });
    // Counted before it is used.
    eventually("the catalog as it was", || (!is_there("fresh")).then_some(()));
    // What cannot be used is told, and changes nothing.
    pod.turn(&render("default", "{config: {fill: {hold: soon}}, catalog: fresh=b/c:1}").unwrap());
    eventually("the refusal of settings", || running.log().contains("settings_refused").then_some(()));
    assert!(!is_there("fresh"));
    pod.turn(&render("default", "catalog: fresh=harbor.corp/plugins/fresh:1.0.0").unwrap());
    eventually("a name of the mended settings", || is_there("fresh").then_some(()));
    assert!(running.0.try_wait().unwrap().is_none(), "it is the same process all the time");
}

#[test]
fn the_notes_tell_what_to_set_in_higress_for_the_names_and_ports_that_were_chosen() {
    for (set, more, url) in [
        ("default", "", "http://larder.higress-system.svc:8080"),
        ("tls", "", "https://larder.higress-system.svc:8080"),
        (
            "default",
            "{fullnameOverride: plugins, service: {port: 80}}",
            "http://plugins.higress-system.svc:80",
        ),
    ] {
        let notes = notes(set, more);
        for line in [
            "HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN".to_owned(),
            format!("{url}/plugins/${{name}}/${{version}}/plugin.wasm"),
            "MCP_SERVER_WASM_IMAGE_URL".to_owned(),
            format!("{url}/plugins/mcp-server/2.0.1/plugin.wasm"),
        ] {
            assert!(notes.contains(&line), "{set}: {line}: {notes}");
        }
    }
    for set in sets() {
        let tested = !render(&set, "").unwrap().all("Pod").is_empty();
        let told = notes(&set, "").contains("helm -n higress-system test larder");
        assert_eq!(told, tested, "{set}: where there is nothing to run, helm says nothing and succeeds");
    }
    assert!(notes("emptydir", "").contains("begins with an empty cache"));
    assert!(
        notes("default", "").contains("Nobody may administer")
            && !notes("tls", "").contains("Nobody may administer")
    );
}
