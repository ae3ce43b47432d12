//! Real registries of other makers, plain: second opinions on what an odd server may answer.

use super::artifact::Artifact;
use super::client::{self, Reply};
use super::egress::Daemon;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use larder::oci::Digest;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A running registry, empty at its start. Ended when dropped.
pub struct OddRegistry {
    pub address: SocketAddr,
    _daemon: Daemon,
    /// What pushes say they are.
    authorization: Option<String>,
    _dir: TempDir,
}

/// Where `needs.sh` puts programs that no package has.
fn built(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(path)
}

impl OddRegistry {
    /// go-containerregistry, in memory, for everybody. It answers manifests as they were pushed, whatever is accepted;
    /// guesses a blob's `Content-Type`, and calls errors `text/plain`; refuses with 416 a range without an end; deletes
    /// by tag; has no `ETag`. One answer in a hundred has a `Warning`.
    pub fn go_containerregistry() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start("go-containerregistry", &dir.path().join("log"), |port| {
            let mut command = Command::new(built("go-containerregistry"));
            command.args(["-port", &port.to_string()]);
            command
        });
        Self { address: daemon.address, _daemon: daemon, authorization: None, _dir: dir }
    }

    /// go-containerregistry again, with the list of referrers of OCI 1.1.
    pub fn with_referrers() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start("referrers", &dir.path().join("log"), |port| {
            let mut command = Command::new(built("referrers"));
            command.args(["-port", &port.to_string()]);
            command
        });
        Self { address: daemon.address, _daemon: daemon, authorization: None, _dir: dir }
    }

    /// container-registry, for who has this password. It takes any user's name; this one is the pushes'. Repositories
    /// have exactly two parts, and indexes are refused. A 401 has a challenge only at `/v2/`; a manifest has no
    /// `Docker-Content-Digest`, a blob neither that nor `Content-Length`; ranges are ignored, and what is not there is
    /// always `BLOB_UNKNOWN`.
    pub fn container_registry(user: &str, password: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = dir.path().join("storage");
        let daemon = Daemon::start("container-registry", &dir.path().join("log"), |port| {
            let mut command = Command::new(built("odd/bin/container-registry"));
            command.args(["--bind", &format!("127.0.0.1:{port}"), "--password", password]);
            command.arg("--storage").arg(&storage);
            command.env("RUST_LOG", "tower_http=debug").env("NO_COLOR", "1");
            command
        });
        let authorization = Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        Self { address: daemon.address, _daemon: daemon, authorization, _dir: dir }
    }

    /// The registry's name in references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Pushes as a client does: uploads, then manifests. A blob goes in one chunk, the only way that both know.
    pub fn push(&self, repository: &str, tag: &str, artifact: &Artifact) {
        for blob in &artifact.blobs {
            let begun = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
            assert_eq!(begun.status, 202, "an upload begins");
            let upload = begun.header("location");
            // The specification says 202; go-containerregistry says 204.
            let chunk = self.send("PATCH", upload, "application/octet-stream", blob);
            assert!(matches!(chunk.status, 202 | 204), "a chunk is sent: {}", chunk.status);
            let path = format!("{upload}?digest={}", Digest::of(blob));
            assert_eq!(self.send("PUT", &path, "", b"").status, 201, "a blob is put");
        }
        for child in &artifact.children {
            let path = format!("/v2/{repository}/manifests/{}", child.digest());
            assert_eq!(self.send("PUT", &path, child.media_type, &child.bytes).status, 201, "a child is put");
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        let manifest = &artifact.manifest;
        let put = self.send("PUT", &path, manifest.media_type, &manifest.bytes);
        assert_eq!(put.status, 201, "the manifest is put");
    }

    fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Reply {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.address,
            body.len()
        );
        if !content_type.is_empty() {
            request.push_str(&format!("Content-Type: {content_type}\r\n"));
        }
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        let request = [request.as_bytes(), body].concat();
        client::raw(self.address, &request).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }
}
