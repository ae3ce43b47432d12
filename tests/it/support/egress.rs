//! Real egress proxies: squid, tinyproxy, microsocks.

use super::eventually;
use super::pki::Pki;
use std::fs::{File, Permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// How often a start is tried again because someone else has taken the port.
const STARTS: usize = 5;

/// A child that has to be told its port, listening on loopback. Ended when dropped; a test that fails prints its log.
pub struct Daemon {
    name: &'static str,
    child: Child,
    pub address: SocketAddr,
    log: PathBuf,
}

impl Daemon {
    /// Starts what `command` makes of a port. It must stay in the foreground; what it prints goes to `log`.
    pub fn start(name: &'static str, log: &Path, command: impl Fn(u16) -> Command) -> Self {
        Self::start_at(name, log, free_address, |address| command(address.port()))
    }

    /// The same at an address that `choose` gives for each try.
    fn start_at(
        name: &'static str,
        log: &Path,
        choose: impl Fn() -> SocketAddr,
        command: impl Fn(SocketAddr) -> Command,
    ) -> Self {
        for _ in 0..STARTS {
            let address = choose();
            let child = command(address)
                .stdin(Stdio::null())
                .stdout(File::create(log).unwrap())
                .stderr(File::options().append(true).open(log).unwrap())
                .spawn()
                .unwrap_or_else(|e| panic!("{name} is installed: {e}"));
            let mut daemon = Self { name, child, address, log: log.into() };
            let listens = eventually(&format!("{name}'s start"), || {
                let ended = daemon.child.try_wait().unwrap().is_some();
                let listens = listens(daemon.child.id(), address);
                (ended || listens).then_some(listens)
            });
            if listens {
                return daemon;
            }
        }
        panic!("{name} did not come to listen in {STARTS} starts\n{}", read(log));
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}'s log:\n{}", self.name, self.log());
        }
    }
}

fn read(log: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}

/// An address on loopback that nobody listens on now.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Whether this very process listens there, by IPv4. The kernel is asked, for a connection would stand in the log.
fn listens(process: u32, address: SocketAddr) -> bool {
    let IpAddr::V4(ip) = address.ip() else { return false };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let inode = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // `0A` is LISTEN.
        (fields[1] == local && fields[3] == "0A").then(|| fields[9].to_owned())
    });
    let Some(inode) = inode else { return false };
    let socket = format!("socket:[{inode}]");
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|file| file == Path::new(&socket))
}

/// The line of a password file, in a scheme that everybody's crypt knows.
fn hashed(user: &str, password: &str) -> Vec<u8> {
    let output = Command::new("htpasswd").args(["-nbm", user, password]).output();
    output.expect("htpasswd is installed").stdout
}

/// squid. As root it becomes the user `proxy`, who has to reach its files; so the temporary folder must be open to
/// all, and a user namespace that has only root cannot run it.
pub struct Squid {
    pub address: SocketAddr,
    daemon: Daemon,
    access: PathBuf,
    dir: TempDir,
}

impl Drop for Squid {
    fn drop(&mut self) {
        for part in ["metadata", "queues", "readers"] {
            let _ = std::fs::remove_file(format!("/dev/shm/{}-cf__{part}.shm", service(&self.dir)));
        }
    }
}

/// What an instance calls its shared memory. With the same name two would fail each other's start.
fn service(dir: &TempDir) -> &str {
    dir.path().file_name().and_then(|name| name.to_str()).unwrap()
}

impl Squid {
    /// For everybody.
    pub fn open() -> Self {
        Self::start("http_access allow all", None, None, free_address)
    }

    /// For one user; 407 for others.
    pub fn with_password(user: &str, password: &str) -> Self {
        Self::start("http_access allow known", Some((user, password)), None, free_address)
    }

    /// The same where clients expect it.
    pub fn at(address: SocketAddr, user: &str, password: &str) -> Self {
        Self::start("http_access allow known", Some((user, password)), None, || address)
    }

    /// 403 for every CONNECT; what is not CONNECT goes through.
    pub fn refusing() -> Self {
        let rules = "acl tunnel method CONNECT\nhttp_access deny tunnel\nhttp_access allow all";
        Self::start(rules, None, None, free_address)
    }

    /// An `https://` proxy for one user. Its name is the one in the certificate.
    pub fn behind_tls(pki: &Pki, user: &str, password: &str) -> Self {
        Self::start("http_access allow known", Some((user, password)), Some(pki), free_address)
    }

    fn start(
        rules: &str,
        login: Option<(&str, &str)>,
        tls: Option<&Pki>,
        choose: impl Fn() -> SocketAddr,
    ) -> Self {
        let dir = tempfile::Builder::new().prefix("squid").tempdir().unwrap();
        let open = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let put = |name: &str, bytes: &[u8], mode| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            open(&path, mode);
            path
        };
        open(dir.path(), 0o755);
        let access = put("access.log", b"", 0o666);
        let auth = login.map_or_else(String::new, |(user, password)| {
            let file = put("htpasswd", &hashed(user, password), 0o644);
            format!(
                "auth_param basic program /usr/lib/squid/basic_ncsa_auth {}\n\
                 auth_param basic children 1 startup=1\nacl known proxy_auth REQUIRED\n",
                file.display()
            )
        });
        let (kind, files) = tls.map_or_else(
            || ("http_port", String::new()),
            |pki| {
                let certificate = put("server.pem", &std::fs::read(&pki.certificate).unwrap(), 0o644);
                let key = put("server.key", &std::fs::read(&pki.key).unwrap(), 0o644);
                ("https_port", format!(" tls-cert={} tls-key={}", certificate.display(), key.display()))
            },
        );
        let settings = dir.path().join("squid.conf");
        // 85,2 says at once what is allowed; the access log has a tunnel only when it has ended.
        let text = format!(
            "visible_hostname larder.test\npid_filename none\ncache deny all\ncache_mem 0\nnetdb_filename none\n\
             pinger_enable off\nmax_filedescriptors 1024\nshutdown_lifetime 0 seconds\n\
             debug_options ALL,1 85,2\ncache_log /dev/null\naccess_log stdio:{}\n{auth}{rules}\nhttp_access deny all\n",
            access.display()
        );
        let daemon = Daemon::start_at("squid", &dir.path().join("output"), choose, |address| {
            let listen = format!("{kind} {address}{files}\n");
            std::fs::write(&settings, listen + &text).unwrap();
            let mut command = Command::new("/usr/sbin/squid");
            command.args(["-N", "-d2", "-n", service(&dir), "-f"]).arg(&settings).current_dir(dir.path());
            command
        });
        Self { address: daemon.address, daemon, access, dir }
    }

    /// At once `The request CONNECT host:port is ALLOWED` (or `DENIED`, or `AUTH_REQUIRED`), and when the tunnel has
    /// ended `TCP_TUNNEL/200 <bytes> CONNECT host:port <user>`. Without a tunnel: `TCP_MISS/200 <bytes> GET <url> <user>`.
    pub fn log(&self) -> String {
        self.daemon.log() + &read(&self.access)
    }
}

/// tinyproxy.
pub struct Tinyproxy {
    pub address: SocketAddr,
    _daemon: Daemon,
    _dir: TempDir,
}

impl Tinyproxy {
    /// For one user; 407 without a password, and 401 with a wrong one.
    pub fn with_password(user: &str, password: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = dir.path().join("tinyproxy.conf");
        let daemon = Daemon::start("tinyproxy", &dir.path().join("log"), |port| {
            let text = format!(
                "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 100\nLogLevel Info\nBasicAuth {user} {password}\n"
            );
            std::fs::write(&settings, text).unwrap();
            let mut command = Command::new("tinyproxy");
            command.args(["-d", "-c"]).arg(&settings);
            command
        });
        Self { address: daemon.address, _daemon: daemon, _dir: dir }
    }
}

/// microsocks: SOCKS5.
pub struct Microsocks {
    pub address: SocketAddr,
    daemon: Daemon,
    _dir: TempDir,
}

impl Microsocks {
    /// For one user.
    pub fn with_password(user: &str, password: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start("microsocks", &dir.path().join("log"), |port| {
            let mut command = Command::new("microsocks");
            command.args(["-i", "127.0.0.1", "-p", &port.to_string(), "-u", user, "-P", password]);
            command
        });
        Self { address: daemon.address, daemon, _dir: dir }
    }

    /// At once: `connected to host:port`.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}
