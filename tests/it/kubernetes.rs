//! deploy/kubernetes: what kustomize makes of it, held against Kubernetes' own schemas, against itself, and against the larder
//! that it starts.

use crate::support::artifact::{module, raw};
use crate::support::client;
use crate::support::contained::{Contained, Mount, Options};
use crate::support::eventually;
use crate::support::image::{self, Image, image};
use crate::support::is_of_this_machine;
use crate::support::mounted::Mounted;
use crate::support::netns;
use crate::support::pki::Pki;
use crate::support::scripted::Scripted;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

const COMPONENTS: [&str; 4] = ["private-registry", "egress-proxy", "persistent", "monitoring"];
/// The oldest Kubernetes that the objects are for, and the newest that there are schemas of.
const VERSIONS: [&str; 2] = ["1.27", "1.37"];
/// A pod's address: kubelets and gateways come to it, not to loopback.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Kinds of the Prometheus operator, of which Kubernetes has no schemas.
const OPERATORS: [&str; 2] = ["PrometheusRule", "ServiceMonitor"];

fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    source().join("deploy/kubernetes")
}

/// What kustomize makes of a folder.
fn built(folder: &Path) -> String {
    let program = source().join("target/kustomize");
    assert!(program.is_file(), "kustomize is missing; make test installs it");
    let output = Command::new(program).arg("build").arg(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // It warns of what it will not take for ever.
    assert!(output.status.success() && said.is_empty(), "{}: {said}", folder.display());
    String::from_utf8(output.stdout).unwrap()
}

fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn yaml(file: &Path) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// The example and the base with each choice of components, by what they are called.
fn all() -> &'static BTreeMap<String, String> {
    static ALL: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    ALL.get_or_init(choices)
}

fn choices() -> BTreeMap<String, String> {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(folder()).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let mut out = BTreeMap::from([("example".to_owned(), built(&folder().join("example")))]);
    for choice in 0..1 << COMPONENTS.len() {
        let of =
            |component: &&&str| choice >> COMPONENTS.iter().position(|it| it == *component).unwrap() & 1 == 1;
        let chosen: Vec<&str> = COMPONENTS.iter().filter(of).copied().collect();
        let components: Vec<String> = chosen.iter().map(|name| format!("../components/{name}")).collect();
        let overlay = copy.path().join("kubernetes/overlay");
        std::fs::create_dir_all(&overlay).unwrap();
        let text = json!({"namespace": "somewhere", "resources": ["../base"], "components": components});
        std::fs::write(overlay.join("kustomization.yaml"), text.to_string()).unwrap();
        out.insert(format!("base {}", chosen.join(" ")), built(&overlay));
    }
    out
}

fn named<'o>(objects: &'o [Value], kind: &str, name: &str) -> &'o Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn pod(objects: &[Value]) -> &Value {
    &named(objects, "StatefulSet", "larder")["spec"]["template"]["spec"]
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// Whether `selector` has nothing that `labels` has not.
fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().unwrap();
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The ports of the container, by name.
fn ports(pod: &Value) -> BTreeMap<&str, u64> {
    let ports = list(&pod["containers"][0]["ports"]).iter();
    ports.map(|port| (text(&port["name"]), port["containerPort"].as_u64().unwrap())).collect()
}

#[test]
fn kubernetes_takes_every_choice_of_components_and_the_same_comes_out_each_time() {
    let first = all();
    assert_eq!(*first, choices());
    assert_eq!(first.len(), 17);
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (number, (name, text)) in first.iter().enumerate() {
        for object in objects(text) {
            let (kind, group) = (object["kind"].as_str().unwrap(), object["apiVersion"].as_str().unwrap());
            let known = !OPERATORS.contains(&kind);
            assert_eq!(known, group != "monitoring.coreos.com/v1", "{name}: {kind}");
            let namespace = if name == "example" { "higress-system" } else { "somewhere" };
            assert_eq!(object["metadata"]["namespace"], namespace, "{name}: {kind}");
        }
        let file = dir.path().join(format!("{number}.yaml"));
        std::fs::write(&file, text).unwrap();
        files.push(file);
    }
    for version in VERSIONS {
        let output = Command::new("python3")
            .env("PYTHONPATH", source().join("target/python"))
            .args(["-m", "kubernetes_validate", "--strict", "--kubernetes-version", version])
            .args(&files)
            .output()
            .unwrap();
        let said =
            [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert!(output.status.success(), "{version}: {said}");
        assert_eq!(said.matches("passed for resource statefulset/larder").count(), first.len(), "{said}");
        let without = said.lines().filter(|line| line.starts_with("WARN"));
        assert!(without.clone().all(|line| OPERATORS.iter().any(|kind| line.contains(kind))), "{said}");
    }
}

#[test]
fn a_pod_is_nobody_can_change_nothing_and_has_no_token() {
    for (name, text) in all() {
        let objects = objects(text);
        let pod = pod(&objects);
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        assert_eq!(pod["enableServiceLinks"], false, "{name}: a Service called larder would make variables");
        let security = &pod["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{name}");
        for key in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert_eq!(security[key], 65532, "{name}: {key}");
        }
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        for key in ["hostNetwork", "hostPID", "hostIPC", "serviceAccountName", "initContainers"] {
            assert!(pod.get(key).is_none(), "{name}: {key}");
        }
        assert_eq!(list(&pod["containers"]).len(), 1, "{name}");
        let container = &pod["containers"][0];
        let hardened = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        });
        assert_eq!(container["securityContext"], hardened, "{name}");
        assert_eq!(container["resources"]["limits"]["memory"], "256Mi", "{name}");
        let settings = &pod["volumes"][0]["projected"];
        assert_eq!(settings["defaultMode"], 0o440, "{name}: secrets are for larder's group alone");
        for mount in list(&container["volumeMounts"]) {
            // The kubelet never changes what is mounted so.
            assert!(mount.get("subPath").is_none(), "{name}: {mount}");
            assert_eq!(mount["readOnly"] == true, mount["name"] == "settings", "{name}: {mount}");
        }
    }
}

#[test]
fn what_objects_name_is_there_or_is_named_as_the_users_to_create() {
    for (name, rendered) in all() {
        let objects = objects(rendered);
        let pod = pod(&objects);
        let config = &named(&objects, "ConfigMap", "larder")["data"];
        // Where it is pushed to is the user's; what it is called there is ours.
        let image = text(&pod["containers"][0]["image"]);
        assert_eq!(image.rsplit('/').next(), Some(image::NAME), "{name}");
        let mut offered: BTreeSet<&str> = list(&pod["volumes"]).iter().map(|it| text(&it["name"])).collect();
        for claim in list(&named(&objects, "StatefulSet", "larder")["spec"]["volumeClaimTemplates"]) {
            assert!(offered.insert(text(&claim["metadata"]["name"])), "{name}: two volumes of one name");
            let kind = (&claim["apiVersion"], &claim["kind"]);
            assert_eq!(
                kind,
                (&json!("v1"), &json!("PersistentVolumeClaim")),
                "{name}: as the cluster has it"
            );
        }
        let mounts = list(&pod["containers"][0]["volumeMounts"]).iter();
        assert_eq!(offered, mounts.map(|mount| text(&mount["name"])).collect(), "{name}");
        assert_eq!(
            name.contains("persistent") || name == "example",
            rendered.contains("volumeClaimTemplates")
        );
        for source in list(&pod["volumes"][0]["projected"]["sources"]) {
            if let Some(map) = source.get("configMap") {
                assert_eq!(map, &json!({"name": "larder"}), "{name}");
                assert!(
                    config["larder.yaml"].is_string() && config["plugins.properties"].is_string(),
                    "{name}"
                );
                continue;
            }
            // What is missing must not keep a pod from serving what it holds. A file that settings name is another thing:
            // without it larder does not start, and a pod that waits for its Secret says so better.
            let secret = &source["secret"];
            let optional = secret["optional"] == true;
            assert_eq!(optional, secret["name"] != "larder-proxy", "{name}: {source}");
            for item in list(&secret["items"]) {
                let is_named =
                    text(&config["larder.yaml"]).contains(&format!("/etc/larder/{}", text(&item["path"])));
                assert!(!(optional && is_named), "{name}: {source}");
            }
            let told = COMPONENTS.map(|component| {
                let file = folder().join("components").join(component).join("kustomization.yaml");
                std::fs::read_to_string(file).unwrap()
            });
            let create = format!("kubectl create secret generic {}", text(&secret["name"]));
            let told = told.iter().find(|told| told.contains(&create));
            let told = told.unwrap_or_else(|| panic!("{name}: nobody is told to create {secret}"));
            let shown = ["--docker-password", "--from-literal", "--password"];
            assert!(!shown.iter().any(|word| told.contains(word)), "{name}: a secret on a command line");
            for item in list(&secret["items"]) {
                let key = text(&item["key"]);
                let made = told.contains(&format!("--from-file={key}="));
                assert!(made, "{name}: nobody is told of the key {key}");
            }
        }
        assert!(
            !rendered.contains("secretKeyRef") && !rendered.contains("envFrom"),
            "{name}: it would need a restart"
        );
    }
}

#[test]
fn selectors_and_ports_lead_to_the_pod() {
    for (name, text_of_all) in all() {
        let objects = objects(text_of_all);
        let set = &named(&objects, "StatefulSet", "larder")["spec"];
        let (labels, pod) = (&set["template"]["metadata"]["labels"], pod(&objects));
        let ports = ports(pod);
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(pod["containers"][0][probe]["httpGet"]["port"], "admin", "{name}: {probe}");
        }
        let spread = &pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"];
        let budget = &named(&objects, "PodDisruptionBudget", "larder")["spec"]["selector"]["matchLabels"];
        let policy = &named(&objects, "NetworkPolicy", "larder")["spec"];
        for selector in
            [&set["selector"]["matchLabels"], spread, budget, &policy["podSelector"]["matchLabels"]]
        {
            assert!(selects(selector, labels), "{name}: {selector}");
        }
        for service in objects.iter().filter(|object| object["kind"] == "Service") {
            assert!(selects(&service["spec"]["selector"], labels), "{name}: {service}");
            for port in list(&service["spec"]["ports"]) {
                assert_eq!(
                    ports.get(text(&port["targetPort"])),
                    port["port"].as_u64().as_ref(),
                    "{name}: {port}"
                );
            }
        }
        assert_eq!(
            named(&objects, "Service", text(&set["serviceName"]))["spec"]["clusterIP"],
            "None",
            "{name}"
        );
        let names = [("UDP", 53), ("TCP", 53), ("UDP", 5353), ("TCP", 5353)];
        let names = names.map(|(protocol, port)| json!({"port": port, "protocol": protocol}));
        assert_eq!(policy["egress"][0], json!({"ports": names}), "{name}: DNS, OpenShift's pods included");
        let rules = list(&policy["ingress"]);
        for port in rules.iter().flat_map(|rule| list(&rule["ports"])) {
            assert!(ports.contains_key(text(&port["port"])), "{name}: {port}");
        }
        let open: Vec<&str> = rules.iter().map(|rule| text(&rule["ports"][0]["port"])).collect();
        let monitors: Vec<&Value> =
            objects.iter().filter(|object| object["kind"] == "ServiceMonitor").collect();
        assert_eq!(open, if monitors.is_empty() { vec!["http"] } else { vec!["http", "admin"] }, "{name}");
        for monitor in monitors {
            let pods = named(&objects, "Service", "larder-pods");
            let others = named(&objects, "Service", "larder");
            let selector = &monitor["spec"]["selector"]["matchLabels"];
            assert!(selects(selector, &pods["metadata"]["labels"]), "{name}");
            assert!(!selects(selector, &others["metadata"]["labels"]), "{name}: each larder is scraped once");
            assert_eq!(monitor["spec"]["endpoints"][0]["port"], pods["spec"]["ports"][0]["name"], "{name}");
            // The job's name, which the alert LarderDown has.
            assert_eq!(pods["metadata"]["labels"][text(&monitor["spec"]["jobLabel"])], "larder", "{name}");
        }
        let everywhere = text_of_all.contains("0.0.0.0/0");
        assert_eq!(everywhere, !(name.contains("egress-proxy") || name == "example"), "{name}: ways out");
    }
}

#[test]
fn the_grace_period_fits_the_drain_and_the_alerts_are_those_of_prometheus() {
    let defaults = yaml(&source().join("conf/larder.yaml"));
    for (name, text_of_all) in all() {
        let objects = objects(text_of_all);
        let own: Value =
            serde_saphyr::from_str(text(&named(&objects, "ConfigMap", "larder")["data"]["larder.yaml"]))
                .unwrap();
        let time = |key: &str| {
            let value = own["server"].get(key).unwrap_or(&defaults["server"][key]);
            humantime::parse_duration(text(value)).unwrap()
        };
        let grace = Duration::from_secs(pod(&objects)["terminationGracePeriodSeconds"].as_u64().unwrap());
        assert!(time("drain") + time("finish") + Duration::from_secs(5) <= grace, "{name}: {grace:?}");
        for rule in objects.iter().filter(|object| object["kind"] == "PrometheusRule") {
            let alerts = yaml(&source().join("deploy/prometheus/alerts.yaml"));
            assert_eq!(rule["spec"]["groups"], alerts["groups"], "{name}");
        }
    }
}

/// What a kubelet would mount at /etc/larder for the rendered pod: the ConfigMap's files, and of Secrets what `secrets` has.
fn files(objects: &[Value], secrets: &BTreeMap<&str, Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for source in list(&pod(objects)["volumes"][0]["projected"]["sources"]) {
        if let Some(map) = source.get("configMap") {
            let data = named(objects, "ConfigMap", text(&map["name"]))["data"].as_object().unwrap();
            out.extend(data.iter().map(|(name, data)| (name.clone(), text(data).as_bytes().to_vec())));
        }
        for item in list(&source["secret"]["items"]) {
            let bytes = secrets[text(&source["secret"]["name"])].clone();
            out.push((text(&item["path"]).to_owned(), bytes));
        }
    }
    out
}

/// The volume, and after a change its next generation, with the owner and the permissions that the pod says.
fn mounted(before: Option<&Mounted>, folder: &Path, files: &[(String, Vec<u8>)]) -> Option<Mounted> {
    let files: Vec<(&str, Vec<u8>)> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let (mounted, generation) = match before {
        Some(before) => {
            before.turn("..second", &files);
            (None, "..second")
        }
        None => (Some(Mounted::new(folder, &files)), "..first"),
    };
    for (name, _) in files {
        let file = folder.join(generation).join(name);
        chown(&file, Some(0), Some(65532)).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o440)).unwrap();
    }
    mounted
}

/// The rendered container.
fn contained(image: &Image, objects: &[Value], settings: &Path, cache: &Path) -> (Contained, Vec<String>) {
    let (pod, container) = (pod(objects), &pod(objects)["containers"][0]);
    let id = |key: &str| u32::try_from(pod["securityContext"][key].as_u64().unwrap()).unwrap();
    let limit = |key: &str, unit: &str| {
        text(&container["resources"]["limits"][key]).trim_end_matches(unit).parse::<u32>().unwrap()
    };
    let mounts = list(&container["volumeMounts"]).iter().map(|mount| Mount {
        from: if mount["name"] == "settings" { settings.into() } else { cache.into() },
        to: text(&mount["mountPath"]).into(),
        writable: mount["readOnly"] != true,
    });
    let variables = list(&container["env"]).iter();
    let variables = variables.map(|it| (text(&it["name"]).to_owned(), text(&it["value"]).to_owned()));
    let options = Options {
        read_only: container["securityContext"]["readOnlyRootFilesystem"] == true,
        memory: Some(u64::from(limit("memory", "Mi")) << 20),
        processors: Some(f64::from(limit("cpu", "m")) / 1000.0),
        mounts: mounts.collect(),
        variables: variables.collect(),
        user: Some((id("runAsUser"), id("runAsGroup"))),
        ..Options::default()
    };
    let words = options.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    (Contained::start(image, &options), words)
}

/// Status of what a probe of the rendered container asks.
fn probed(objects: &[Value], probe: &str) -> u16 {
    let pod = pod(objects);
    let get = &pod["containers"][0][probe]["httpGet"];
    let port = ports(pod)[text(&get["port"])];
    client::get((ADDRESS, port.try_into().unwrap()).into(), text(&get["path"])).status
}

#[test]
fn a_pod_as_rendered_is_well_by_its_probes_follows_its_configmap_and_leaves_in_time() {
    let image = image();
    let own = "a_pod_as_rendered_is_well_by_its_probes_follows_its_configmap_and_leaves_in_time";
    if !netns::alone(&format!("kubernetes::{own}"), &[&format!("{ADDRESS}/32")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::make(dir.path());
    let secrets = BTreeMap::from([
        ("larder-ca", std::fs::read(&pki.ca).unwrap()),
        ("larder-pull", br#"{"auths": {"harbor.corp": {"username": "u", "password": "word"}}}"#.to_vec()),
        ("larder-proxy", b"word".to_vec()),
    ]);
    let objects = objects(&built(&folder().join("example")));
    let (settings, cache) = (dir.path().join("settings"), dir.path().join("cache"));
    let mut files = files(&objects, &secrets);
    let volume = mounted(None, &settings, &files).unwrap();
    // As the kubelet makes an emptyDir and, by fsGroup, a claim: for everybody, and for the group.
    std::fs::create_dir(&cache).unwrap();
    chown(&cache, Some(0), Some(65532)).unwrap();
    std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o2777)).unwrap();
    let (mut larder, variables) = contained(image, &objects, &settings, &cache);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(probed(&objects, probe), 200, "{probe}");
    }
    let http = u16::try_from(ports(pod(&objects))["http"]).unwrap();
    assert_eq!(client::get((ADDRESS, http).into(), "/").status, 200);
    // Its settings leave nothing to be told, and the files of all Secrets are read.
    let words: Vec<&str> = ["env"].into_iter().chain(variables.iter().map(String::as_str)).collect();
    let check = larder.run(&[&words[..], &["larder", "check"]].concat());
    let said = String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned();
    let warned = said.lines().any(|line| line.contains("warning") && !is_of_this_machine(line));
    assert!(check.status.success() && !warned, "{said}");
    assert_eq!(larder.warnings(), Vec::<String>::new());
    let metrics = client::get(larder.admin, "/metrics").text();
    assert!(metrics.contains(r#"file="/etc/larder/certs/ca.crt""#), "the CA is read: {metrics}");

    // The ConfigMap changes, and no pod is restarted.
    let registry = Scripted::start();
    let host = registry.host().replace("127.0.0.1", "localhost");
    let wasm = module("mine", 5000);
    registry.put("plugins/mine", "1", &raw(&wasm));
    assert_ne!(client::get(larder.data, "/plugins/mine.wasm").status, 200);
    for (name, bytes) in &mut files {
        let before = String::from_utf8(std::mem::take(bytes)).unwrap();
        let after = match name.as_str() {
            "plugins.properties" => format!("mine=oci://{host}/plugins/mine:1\n"),
            "larder.yaml" => {
                before.replace("[.corp]", "[.corp, localhost]") + &format!("  plain_http: ['{host}']\n")
            }
            _ => before,
        };
        *bytes = after.into_bytes();
    }
    mounted(Some(&volume), &settings, &files);
    let body = eventually("the changed ConfigMap's plugin", || {
        let reply = client::get(larder.data, "/plugins/mine.wasm");
        (reply.status == 200).then_some(reply.body)
    });
    assert_eq!(body, wasm);
    assert!(cache.join("v1/format").is_file(), "what it fetches lies on the pod's volume");

    larder.signal("TERM");
    eventually("a pod that is not ready", || (probed(&objects, "readinessProbe") == 503).then_some(()));
    assert_eq!(client::get(larder.data, "/plugins/mine.wasm").status, 200, "it still serves");
    assert!(larder.wait().success(), "{}", larder.stderr());
}
