//! Debian's `docker-registry`: the real thing, plain, with TLS, with passwords.

use super::artifact::Artifact;
use super::eventually;
use super::pki::Pki;
use larder::oci::Digest;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A running registry. Ended when dropped.
pub struct Registry {
    child: Child,
    pub address: SocketAddr,
    log: PathBuf,
    /// Where it stores; shared with whoever serves the same content in another way.
    root: PathBuf,
    _dir: Option<TempDir>,
}

impl Registry {
    /// Plain http, empty.
    pub fn plain() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("storage");
        let mut registry = Self::start(dir.path(), &root, "plain", "");
        registry._dir = Some(dir);
        registry
    }

    /// The same content behind TLS.
    pub fn with_tls(&self, folder: &Path, pki: &Pki) -> Self {
        let tls = format!(
            "  tls: {{certificate: '{}', key: '{}'}}\n",
            pki.certificate.display(),
            pki.key.display()
        );
        Self::start(folder, &self.root, "tls", &tls)
    }

    /// The same content for one user.
    pub fn with_password(&self, folder: &Path, user: &str, password: &str) -> Self {
        let hashed =
            Command::new("htpasswd").args(["-Bbn", user, password]).output().expect("htpasswd is installed");
        let file = folder.join("htpasswd");
        std::fs::write(&file, hashed.stdout).unwrap();
        let auth = format!("auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n", file.display());
        Self::start(folder, &self.root, "password", &auth)
    }

    fn start(folder: &Path, root: &Path, name: &str, more: &str) -> Self {
        let settings = folder.join(format!("{name}.yml"));
        // `http:` stands last, so that what belongs below it can be added behind.
        let (above, below) = if more.starts_with(' ') { ("", more) } else { (more, "") };
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n{above}\
             storage: {{cache: {{blobdescriptor: inmemory}}, filesystem: {{rootdirectory: '{}'}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:0\n{below}",
            root.display()
        );
        std::fs::write(&settings, text).unwrap();
        let log = folder.join(format!("{name}.log"));
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
        Self { child, address, log, root: root.into(), _dir: None }
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

    /// How many requests its own log has whose line contains all of `parts`.
    pub fn count(&self, parts: &[&str]) -> usize {
        let text = std::fs::read_to_string(&self.log).unwrap();
        let access = text.lines().filter(|line| line.contains("\" \"larder/"));
        access.filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// Ends it; its content stays.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
