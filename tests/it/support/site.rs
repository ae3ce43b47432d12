//! A site of the kind that the guides are written for: a private registry with its own CA and passwords, an egress proxy,
//! the public registry behind it, the plugin server of before, and a machine with files of its own.

use super::artifact::{Artifact, OCI_MANIFEST, TAR_GZIP};
use super::artifact::{artifact, gzip, module, tar};
use super::egress::Squid;
use super::eventually;
use super::larder::PROGRAM;
use super::netns;
use super::pki::Pki;
use super::registry::{Front, Registry};
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const PUBLIC: &str = "higress-registry.cn-hangzhou.cr.aliyuncs.com";
const SCHEME: &str = "oci://";
const LIST: &str = include_str!("../../../conf/higress-plugins.properties");

/// Names and addresses. The public registry's is one of those for documents (RFC 5737).
const HOSTS: [(&str, &str); 4] = [
    ("10.99.0.2", "harbor.corp"),
    ("10.99.0.3", "egress.corp"),
    ("10.99.0.4", "higress-plugin-server.higress-system"),
    ("203.0.113.10", PUBLIC),
];

/// The user that a Harbor makes for a robot `larder` of a project `higress`.
pub const ROBOT: (&str, &str) = ("robot$higress+larder", "the-robots-secret");
pub const EGRESS: (&str, &str) = ("larder", "the-proxys-secret");

/// What is at the public registry, of its catalog. Of these, Harbor has passed on those for AI.
const PLUGINS: [&str; 6] = ["ai-cache", "ai-proxy", "basic-auth", "jwt-auth", "key-auth", "mcp-server"];

/// A machine of its own: a copy of /etc, and of other folders their entries, so that what guides write stays here.
const SETUP: &str = r#"
set -e
PATH=$PATH:/usr/sbin:/sbin
hostname gateway
mount --make-rprivate /
mkdir "$1/etc"
cp -a /etc/. "$1/etc/"
cd "$1/etc"
rm -rf larder docker containerd resolv.conf hosts nsswitch.conf
cp "$1/hosts" hosts
echo nameserver 127.0.0.1 >resolv.conf
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >nsswitch.conf
cd /
mount --bind "$1/etc" /etc
for folder in /usr/share /var/lib; do
    real=$1/real$folder own=$1/own$folder
    mkdir -p "$real" "$own"
    mount --bind "$folder" "$real"
    ln -s "$real"/* "$own"
    rm -f "$own/nginx" "$own/larder"
    mount --bind "$own" "$folder"
done
mkdir "$1/memory"
mount -t tmpfs -o mode=1777 tmpfs "$1/memory"
export TMPDIR="$1/memory"
ip link set lo up
for address in $2; do ip address add "$address/32" dev lo; done
shift 2
"$@"
"#;

/// Runs the calling test in another process, on a machine of its own where no host but those of a `Site` can be reached:
/// `if !site::alone("guides::a_test") { return; }` is the test's first line.
pub fn alone(test: &str, seconds: u32) -> bool {
    if netns::is_inside(test) {
        return true;
    }
    assert!(netns::is_root(), "{test} has an /etc and a squid of its own, which only root may");
    // Open to all, because squid is nobody in particular.
    let dir = tempfile::Builder::new().prefix("site").tempdir().unwrap();
    open(dir.path());
    let lines: String = HOSTS.iter().map(|(address, name)| format!("{address} {name}\n")).collect();
    std::fs::write(dir.path().join("hosts"), format!("127.0.0.1 localhost gateway\n{lines}")).unwrap();
    let addresses: Vec<_> = HOSTS.iter().map(|(address, _)| *address).collect();
    let addresses = addresses.join(" ");
    netns::again(test, seconds, &["--net", "--uts"], SETUP, &[dir.path().as_ref(), addresses.as_ref()]);
    false
}

fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// What runs at the site. Ended when dropped.
pub struct Site {
    /// The home of who reads a guide: `corp-ca.pem`, and `my-plugin.wasm`, a module of their own.
    pub home: TempDir,
    /// With `larder` in it, for PATH.
    pub programs: TempDir,
    _egress: Squid,
    old: Child,
    _registries: [Registry; 4],
    _pki: TempDir,
}

impl Site {
    /// With a firewall nothing but the egress proxy reaches the public registry.
    pub fn start(firewall: bool) -> Self {
        let [harbor_at, egress_at, old_at, public_at] =
            [443, 3128, 80, 443].into_iter().zip(HOSTS).map(at).collect::<Vec<_>>().try_into().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let pki = |name: &str, authority, host| {
            let folder = folder.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            Pki::of(&folder, authority, host)
        };
        let (corp, public) = (pki("corp", "Corp CA", "harbor.corp"), pki("public", "Public CA", PUBLIC));
        let ours = std::fs::read(&public.ca).unwrap();
        std::fs::write("/etc/ssl/certs/ca-certificates.crt", ours).unwrap();

        let world = Registry::plain();
        let inside = Registry::plain();
        for (name, tag) in upstream() {
            let shape = higress(name, tag);
            world.push(&format!("plugins/{name}"), tag, &shape);
            if name.starts_with("ai-") {
                inside.push(&format!("proxy-higress/plugins/{name}"), tag, &shape);
            }
        }
        let front = |pki, at| Front { tls: Some(pki), at: Some(at), ..Front::default() };
        let public = world.with(folder.path(), &front(&public, public_at));
        let harbor = Front { password: Some(ROBOT), ..front(&corp, harbor_at) };
        let harbor = inside.with(folder.path(), &harbor);
        let egress = Squid::at(egress_at, EGRESS.0, EGRESS.1);
        if firewall {
            netns::nft(&format!(
                "table inet site {{ chain out {{ type filter hook output priority 0; \
                 ip daddr {} tcp dport 443 meta skuid != proxy reject with tcp reset\n}}\n}}",
                public_at.ip()
            ));
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::copy(&corp.ca, home.path().join("corp-ca.pem")).unwrap();
        std::fs::write(home.path().join("my-plugin.wasm"), module("of our own", 30_000)).unwrap();
        let programs = tempfile::tempdir().unwrap();
        symlink(PROGRAM, programs.path().join("larder")).unwrap();
        let old = old_server(folder.path(), old_at);
        Self {
            home,
            programs,
            _egress: egress,
            old,
            _registries: [world, inside, public, harbor],
            _pki: folder,
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.old.kill();
        let _ = self.old.wait();
    }
}

fn at((port, (address, _)): (u16, (&str, &str))) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Names and tags as the built-in catalog has them.
fn upstream() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = LIST.lines().filter_map(|line| line.split_once(&format!("={SCHEME}{PUBLIC}/plugins/")));
    lines
        .filter_map(|(name, rest)| Some((name, rest.rsplit_once(':')?.1)))
        .filter(|(name, _)| PLUGINS.contains(name))
}

fn bytes(name: &str, tag: &str) -> Vec<u8> {
    module(&format!("{name}:{tag}"), 20_000)
}

/// As the public registry has its plugins.
fn higress(name: &str, tag: &str) -> Artifact {
    let module = bytes(name, tag);
    let layers = [
        ("application/vnd.module.wasm.doc.v1+markdown", b"# a plugin".to_vec()),
        (TAR_GZIP, gzip(&tar(&[("plugin.wasm", &module)]))),
    ];
    artifact(OCI_MANIFEST, "application/vnd.unknown.config.v1+json", &layers, &module)
}

/// The plugin server of before, whose files are what was in its image: 1.0.0 beside what the public registry has, with
/// the same bytes.
fn old_server(folder: &Path, at: SocketAddr) -> Child {
    let root = folder.join("html");
    let put = |name: &str, version: &str, bytes: &[u8]| {
        let folder = root.join("plugins").join(name).join(version);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("plugin.wasm"), bytes).unwrap();
    };
    for (name, tag) in upstream() {
        for version in [tag, "1.0.0"] {
            put(name, version, &bytes(name, tag));
        }
    }
    put("my-plugin", "1.0.0", &module("of our own", 30_000));
    let child = Command::new("python3")
        .args(["-m", "http.server", "--bind", &at.ip().to_string(), &at.port().to_string(), "--directory"])
        .arg(&root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.join("old.log")).unwrap())
        .spawn()
        .expect("python3 is installed");
    eventually("the plugin server of before", || TcpStream::connect(at).ok());
    child
}
