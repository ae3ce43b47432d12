//! Our chart: rendered by helm, and its pod started without a cluster.

use super::heart;
use super::larder::PROGRAM;
use super::mounted::Mounted;
use super::netns::is_root;
use super::pki::Pki;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The version of Kubernetes that helm is to take for the cluster's: without a cluster it takes a very old one.
pub const KUBERNETES: &str = "1.31.0";

/// A container's file system: the settings, the cache and plugins of one's own where the pod mounts them, and nothing else
/// that can be written. Gets the folder with those three, the program, then what is to be run.
const CONTAINER: &str = r#"
set -e
mount --make-rprivate /
for folder in /etc /var/lib /usr/share /mnt; do mount -t tmpfs tmpfs $folder; done
mkdir -p /etc/larder /var/lib/larder /usr/share/nginx/html/plugins
mount --bind "$1/settings" /etc/larder
mount --bind "$1/cache" /var/lib/larder
mount --bind "$1/plugins" /usr/share/nginx/html/plugins
touch /mnt/larder
mount --bind "$2" /mnt/larder
for folder in / /etc /var/lib /usr/share /mnt /etc/larder /usr/share/nginx/html/plugins; do mount -o remount,bind,ro $folder; done
shift 2
cd /
exec "$@"
"#;

/// Where the chart is.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/larder")
}

/// The sets of values that the chart is tried with, by name.
pub fn sets() -> Vec<String> {
    let names = std::fs::read_dir(folder().join("ci")).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.strip_suffix("-values.yaml").unwrap().to_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 8, "the sets are found: {names:?}");
    names
}

/// Runs helm on the chart with a set of values and what stands in `more`, which is YAML; what it prints, or what it refuses.
pub fn helm(words: &[&str], set: &str, more: &str) -> Result<String, String> {
    helm_on(&folder(), words, set, more)
}

/// The same with another chart.
pub fn helm_on(chart: &Path, words: &[&str], set: &str, more: &str) -> Result<String, String> {
    let mut child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/helm"))
        .args(words)
        .arg(chart)
        .arg("--values")
        .arg(folder().join(format!("ci/{set}-values.yaml")))
        .args(["--values", "-", "--namespace", "higress-system"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tests/needs.sh has built target/helm");
    child.stdin.take().unwrap().write_all(more.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// A chart of one's own to change, without links: those who fetch it from Git may leave them out.
pub fn copy(into: &Path) -> PathBuf {
    let copied = Command::new("cp").arg("-r").arg(folder()).arg(into).status().unwrap();
    assert!(copied.success());
    let links = Command::new("find").arg(into).args(["-type", "l", "-delete"]).status().unwrap();
    assert!(links.success());
    into.join("larder")
}

/// What is told after an installation. Without a cluster helm prints it nowhere, so that it is rendered as an object here.
pub fn notes(set: &str, more: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let chart = copy(dir.path());
    let notes = std::fs::read_to_string(chart.join("templates/NOTES.txt")).unwrap();
    std::fs::write(
        chart.join("templates/_notes.tpl"),
        format!("{{{{ define \"notes\" }}}}{notes}{{{{ end }}}}"),
    )
    .unwrap();
    std::fs::write(chart.join("templates/notes.yaml"), "notes: {{ include \"notes\" . | toJson }}\n")
        .unwrap();
    let words = ["template", "larder", "--kube-version", KUBERNETES, "--show-only", "templates/notes.yaml"];
    let text = helm_on(&chart, &words, set, more).unwrap();
    serde_saphyr::from_str::<Value>(&text).unwrap()["notes"].as_str().unwrap().to_owned()
}

/// What the chart makes of values.
#[derive(Debug, PartialEq)]
pub struct Rendered(pub Vec<Value>);

/// Renders the chart as the release `larder`.
pub fn render(set: &str, more: &str) -> Result<Rendered, String> {
    render_as("larder", set, more)
}

/// Renders the chart as another release.
pub fn render_as(release: &str, set: &str, more: &str) -> Result<Rendered, String> {
    render_on(&folder(), release, KUBERNETES, set, more)
}

/// Renders another chart, for another Kubernetes.
pub fn render_on(
    chart: &Path,
    release: &str,
    kubernetes: &str,
    set: &str,
    more: &str,
) -> Result<Rendered, String> {
    let text = helm_on(chart, &["template", release, "--kube-version", kubernetes], set, more)?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    Ok(Rendered(objects.into_iter().filter(|object| !object.is_null()).collect()))
}

impl Rendered {
    /// All objects of a kind.
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The one of this kind and name.
    pub fn named(&self, kind: &str, name: &str) -> &Value {
        let found = self.all(kind).into_iter().find(|object| object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}: {:#?}", self.0))
    }

    /// The only one of this kind.
    pub fn only(&self, kind: &str) -> &Value {
        let all = self.all(kind);
        assert_eq!(all.len(), 1, "{kind}: {all:#?}");
        all[0]
    }

    /// What every pod is to be, the one of `helm test` too.
    pub fn pods(&self) -> Vec<&Value> {
        let own = self.all("StatefulSet").into_iter().map(|set| &set["spec"]["template"]["spec"]);
        own.chain(self.all("Pod").into_iter().map(|pod| &pod["spec"])).collect()
    }

    /// larder's pod.
    pub fn pod(&self) -> &Value {
        &self.only("StatefulSet")["spec"]["template"]["spec"]
    }

    /// larder's container.
    pub fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    /// The volume of larder's pod that is mounted there.
    fn mounted_at(&self, path: &str) -> Option<&Value> {
        let of = |list: &'static str, whole: &Value| whole[list].as_array().cloned().unwrap_or_default();
        let mounts = of("volumeMounts", self.container());
        let mount = mounts.into_iter().find(|mount| mount["mountPath"] == path)?;
        self.pod()["volumes"].as_array()?.iter().find(|volume| volume["name"] == mount["name"])
    }

    /// The files that the kubelet puts into /etc/larder, out of ConfigMaps of the chart and Secrets of `secrets`.
    fn settings(&self, secrets: &Pki) -> Vec<(String, Vec<u8>)> {
        let volume = self.mounted_at("/etc/larder").expect("settings are mounted as a folder");
        let mut files = Vec::new();
        for source in volume["projected"]["sources"].as_array().unwrap() {
            let (kind, source) = source.as_object().unwrap().iter().next().unwrap();
            let name = source["name"].as_str().unwrap();
            for item in source["items"].as_array().unwrap() {
                let (key, path) = (item["key"].as_str().unwrap(), item["path"].as_str().unwrap());
                let bytes = if kind == "secret" {
                    secret(secrets, name, key)
                } else {
                    match self.named("ConfigMap", name)["data"][key].as_str() {
                        Some(text) => text.as_bytes().to_vec(),
                        None => {
                            assert_eq!(
                                source["optional"], true,
                                "{name} has no {key}, and no pod would start"
                            );
                            continue;
                        }
                    }
                };
                assert!(
                    files.iter().all(|(other, _)| other != path),
                    "Kubernetes takes no path twice: {path}"
                );
                files.push((path.to_owned(), bytes));
            }
        }
        files
    }
}

/// What somebody has put into the Secrets that the sets of values name.
fn secret(pki: &Pki, name: &str, key: &str) -> Vec<u8> {
    let read = |path: &Path| std::fs::read(path).unwrap();
    match (name, key) {
        (_, ".dockerconfigjson") => {
            json!({"auths": {"harbor.corp": {"username": "robot", "password": "s3cret"}}}).to_string().into()
        }
        (_, "ca.crt" | "old.pem" | "tls.ca") => read(&pki.ca),
        ("larder-tls", "tls.crt") => read(&pki.certificate),
        ("larder-tls", "tls.key") => read(&pki.key),
        ("harbor-client", "tls.crt") => read(&pki.client_certificate),
        ("harbor-client", "tls.key") => read(&pki.client_key),
        ("egress", "password") => b"s3cret".to_vec(),
        ("larder-admin", "token") | ("gateways", "tokens") => b"a-token-that-nobody-guesses\n".to_vec(),
        _ => panic!("nobody made a Secret {name} with {key}"),
    }
}

/// larder's container, without a cluster: its files laid out as the kubelet does it, its variables, its user.
pub struct Pod {
    dir: TempDir,
    pki: Pki,
    settings: Mounted,
    generation: u32,
    environment: Vec<String>,
    user: User,
}

/// As whom the pod runs, by numbers. `shared` is the group that its volumes are given to (fsGroup).
struct User {
    id: u32,
    group: u32,
    shared: Option<u32>,
}

impl User {
    fn of(pod: &Value) -> Self {
        let number = |key: &str| Some(u32::try_from(pod["securityContext"][key].as_u64()?).unwrap());
        let id = number("runAsUser").expect("a pod has a user");
        Self { id, group: number("runAsGroup").unwrap_or(0), shared: number("fsGroup") }
    }

    /// Gives a file to root and to the shared group, as the kubelet does.
    fn give(&self, path: &Path, mode: u32) {
        if has_users() {
            std::os::unix::fs::chown(path, Some(0), Some(self.shared.unwrap_or(0))).unwrap();
        }
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

impl Pod {
    /// Lays it out. `plugins` is what the volume with one's own plugins holds.
    pub fn of(rendered: &Rendered, plugins: &[(&str, Vec<u8>)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, mode: u32| {
            let folder = dir.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).unwrap();
            folder
        };
        open("", 0o755);
        let pki = Pki::make(&open("secrets", 0o700));
        // As the kubelet makes them for a pod with a fsGroup: everybody may write into an emptyDir.
        let claimed = rendered.mounted_at("/var/lib/larder").is_none();
        let user = User::of(rendered.pod());
        user.give(&open("cache", 0o755), if claimed { 0o2775 } else { 0o2777 });
        open("plugins", 0o755);
        if rendered.mounted_at("/usr/share/nginx/html/plugins").is_some() {
            Mounted::new(&dir.path().join("plugins"), plugins);
        }
        let settings = Mounted { folder: open("settings", 0o755) };
        let container = rendered.container();
        assert!(container.get("command").is_none(), "the image knows what to start");
        let variables = container["env"].as_array().unwrap().iter();
        let environment = variables
            .map(|variable| {
                format!("{}={}", variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap())
            })
            .collect();
        let mut pod = Self { dir, pki, settings, generation: 0, environment, user };
        pod.turn(rendered);
        pod
    }

    /// The ConfigMap and the Secrets are others now: the kubelet turns the link.
    pub fn turn(&mut self, rendered: &Rendered) {
        self.generation += 1;
        let files = rendered.settings(&self.pki);
        let generation = format!("..{}", self.generation);
        self.settings.turn(&generation, &borrowed(&files));
        let volume = rendered.mounted_at("/etc/larder").unwrap();
        let mode = u32::try_from(volume["projected"]["defaultMode"].as_u64().unwrap()).unwrap();
        for file in heart::files(&self.settings.folder.join(generation)) {
            self.user.give(&file, mode);
        }
    }

    /// The image's program with further words, in the container. It takes the place of the process that is started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "--", "sh", "-c", CONTAINER, "sh"]).arg(self.dir.path()).arg(PROGRAM);
        if has_users() {
            let User { id, group, shared } = self.user;
            command.args(["setpriv", "--reuid", &id.to_string(), "--regid", &group.to_string()]);
            command.args(["--groups", &shared.unwrap_or(group).to_string()]);
            command.args(["--no-new-privs", "--bounding-set", "-all", "--inh-caps", "-all"]);
        }
        command.args(["env", "-i", "KUBERNETES_SERVICE_HOST=10.96.0.1"]).args(&self.environment);
        command.arg("/mnt/larder").args(words).stdin(Stdio::null());
        command
    }
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, Vec<u8>)> {
    files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect()
}

/// Whether this process can become another user. Without root's rights there is one user in its namespace, and the
/// program runs as that one.
fn has_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    is_root() && map.split_whitespace().nth(2).is_some_and(|count| count.parse::<u64>().unwrap() > 65536)
}
