//! Debian's `docker-registry`: the real thing, plain, with TLS, with passwords, with tokens, redirecting, as a mirror.

use super::artifact::Artifact;
use super::eventually;
use super::pki::Pki;
use super::token_server::TokenServer;
use larder::oci::Digest;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio::net::TcpSocket;

/// A running registry. Ended when dropped.
pub struct Registry {
    child: Child,
    pub address: SocketAddr,
    log: PathBuf,
    /// Where it stores; shared with whoever serves the same content in another way.
    root: PathBuf,
    _dir: TempDir,
    /// Its port once it ended: nobody listens there, and no other test may.
    _port: Option<TcpSocket>,
}

/// What stands before the content.
#[derive(Default, Clone, Copy)]
pub struct Front<'a> {
    pub tls: Option<&'a Pki>,
    /// Behind TLS: only for clients with a certificate of this authority. Others fail in the handshake.
    pub client_ca: Option<&'a Path>,
    /// Only for this user. Not together with `token`.
    pub password: Option<(&'a str, &'a str)>,
    /// Only for who brings a token of this server.
    pub token: Option<&'a TokenServer>,
    /// Blobs are answered with 307 to this URL, whose path is ignored.
    pub redirect: Option<&'a str>,
    /// Where it listens; else at a free port of loopback.
    pub at: Option<SocketAddr>,
}

impl Front<'_> {
    fn settings(&self, folder: &Path) -> String {
        let mut text = String::new();
        if let Some((user, password)) = self.password {
            let hashed = Command::new("htpasswd").args(["-Bbn", user, password]).output();
            let file = folder.join("htpasswd");
            std::fs::write(&file, hashed.expect("htpasswd is installed").stdout).unwrap();
            text.push_str(&format!("auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n", file.display()));
        }
        if let Some(server) = self.token {
            text.push_str(&format!(
                "auth: {{token: {{realm: '{}', service: '{}', issuer: '{}', rootcertbundle: '{}'}}}}\n",
                server.realm(),
                server.service,
                server.issuer,
                server.bundle.display()
            ));
        }
        if let Some(url) = self.redirect {
            text.push_str(&format!(
                "middleware: {{storage: [{{name: redirect, options: {{baseurl: '{url}'}}}}]}}\n"
            ));
        }
        let at = self.at.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        text.push_str(&format!("http:\n  addr: {at}\n"));
        if let Some(pki) = self.tls {
            let (certificate, key) = (pki.certificate.display(), pki.key.display());
            text.push_str(&format!("  tls:\n    certificate: '{certificate}'\n    key: '{key}'\n"));
        }
        if let Some(authority) = self.client_ca {
            text.push_str(&format!("    clientcas: ['{}']\n", authority.display()));
        }
        text
    }
}

/// A folder of its own for each, so that one folder is enough for several.
fn below(folder: &Path) -> TempDir {
    tempfile::Builder::new().prefix("registry-").tempdir_in(folder).unwrap()
}

impl Registry {
    /// Plain http, empty.
    pub fn plain() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("storage");
        Self::start(dir, root, &Front::default(), "")
    }

    /// The same content behind TLS.
    pub fn with_tls(&self, folder: &Path, pki: &Pki) -> Self {
        self.with(folder, &Front { tls: Some(pki), ..Front::default() })
    }

    /// The same content behind TLS, for clients with a certificate of the same authority.
    pub fn with_mutual_tls(&self, folder: &Path, pki: &Pki) -> Self {
        self.with(folder, &Front { tls: Some(pki), client_ca: Some(&pki.ca), ..Front::default() })
    }

    /// The same content for one user.
    pub fn with_password(&self, folder: &Path, user: &str, password: &str) -> Self {
        self.with(folder, &Front { password: Some((user, password)), ..Front::default() })
    }

    /// A mirror of another registry, which must be up when this one starts. It refuses pushes.
    pub fn pull_through(folder: &Path, remote_url: &str) -> Self {
        let dir = below(folder);
        let root = dir.path().join("storage");
        Self::start(dir, root, &Front::default(), &format!("proxy: {{remoteurl: '{remote_url}'}}\n"))
    }

    /// The same content behind any front.
    pub fn with(&self, folder: &Path, front: &Front) -> Self {
        Self::start(below(folder), self.root.clone(), front, "")
    }

    fn start(dir: TempDir, root: PathBuf, front: &Front, more: &str) -> Self {
        let settings = dir.path().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage: {{cache: {{blobdescriptor: inmemory}}, filesystem: {{rootdirectory: '{}'}}, delete: {{enabled: true}}}}\n\
             {more}{}",
            root.display(),
            front.settings(dir.path())
        );
        std::fs::write(&settings, text).unwrap();
        let log = dir.path().join("log");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap())
            .spawn()
            .expect("docker-registry is installed");
        let address = eventually("the registry's start", || {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Ok(Some(status)) = child.try_wait() {
                panic!("the registry ended at its start: {status}\n{text}");
            }
            let rest = text.split("listening on ").nth(1)?;
            rest.split(['"', ',']).next()?.trim().parse().ok()
        });
        Self { child, address, log, root, _dir: dir, _port: None }
    }

    /// The registry's name in references, when it is called by its address.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The registry's name in references, when it is called by the name in its certificate.
    pub fn named(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// Pushes as a client does: uploads, then manifests.
    pub fn push(&self, repository: &str, tag: &str, artifact: &Artifact) {
        for blob in &artifact.blobs {
            let begun = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
            assert_eq!(begun.0, 202, "an upload begins");
            let location = begun.1;
            let path = &location[location.find("/v2/").unwrap()..];
            let separator = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{separator}digest={}", Digest::of(blob));
            assert_eq!(self.send("PUT", &path, "application/octet-stream", blob).0, 201, "a blob is put");
        }
        for child in &artifact.children {
            let path = format!("/v2/{repository}/manifests/{}", child.digest());
            assert_eq!(self.send("PUT", &path, child.media_type, &child.bytes).0, 201, "a child is put");
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        let manifest = &artifact.manifest;
        assert_eq!(
            self.send("PUT", &path, manifest.media_type, &manifest.bytes).0,
            201,
            "the manifest is put"
        );
    }

    /// Status and `Location` of the answer.
    fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_default();
        (status, location.to_owned())
    }

    /// What its own log has so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// The path that a redirect for a blob leads to.
    pub fn blob_path(digest: &Digest) -> String {
        let hex = digest.hex();
        format!("/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2])
    }

    /// How many requests its own log has whose line contains all of `parts`.
    pub fn count(&self, parts: &[&str]) -> usize {
        let text = self.log();
        let access = text.lines().filter(|line| line.contains("\" \"larder/"));
        access.filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// Ends it; its content stays, and nobody else gets its port.
    pub fn stop(&mut self) {
        self.end();
        let port = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind(self.address).expect("the port was its own a moment ago");
        self._port = Some(port);
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.end();
    }
}
