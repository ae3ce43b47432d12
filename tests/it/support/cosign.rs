//! The real cosign, which signs what lies in a registry, and tells nobody else. `make faults` builds it.

use larder::oci::Digest;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Where `needs.sh` puts programs that no package has.
fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name)
}

/// A key pair in cosign's own form, in a home of its own.
pub struct Cosign {
    home: TempDir,
}

impl Cosign {
    /// Of a key pair that cosign makes (ECDSA P-256).
    pub fn new() -> Self {
        let signer = Self { home: tempfile::tempdir().unwrap() };
        signer.run(&["generate-key-pair", "--output-key-prefix", "key"]);
        signer
    }

    /// Of a key pair of Ed25519, which cosign imports.
    pub fn ed25519() -> Self {
        let signer = Self { home: tempfile::tempdir().unwrap() };
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "ed25519", "-out", "made.pem"])
            .current_dir(signer.home.path())
            .status();
        assert!(made.expect("openssl is installed").success());
        signer.run(&["import-key-pair", "--key", "made.pem", "--output-key-prefix", "key"]);
        signer
    }

    /// Its public key, as PEM.
    pub fn public(&self) -> PathBuf {
        self.home.path().join("key.pub")
    }

    /// Signs `digest` in `repository` (`host/path`): as a bundle, or in the older form.
    pub fn sign(&self, repository: &str, digest: &Digest, as_bundle: bool) {
        let form = format!("--new-bundle-format={as_bundle}");
        let what = format!("{repository}@{digest}");
        let offline = ["--tlog-upload=false", "--use-signing-config=false", "--allow-http-registry"];
        self.run(&[&["sign", "--key", "key.key", &form], &offline[..], &[what.as_str()]].concat());
    }

    fn run(&self, arguments: &[&str]) {
        let mut command = Command::new(built("cosign"));
        command.current_dir(self.home.path()).args(arguments).env_clear();
        command.env("HOME", self.home.path()).env("COSIGN_PASSWORD", "x").env("COSIGN_YES", "true");
        let out = command.output().expect("cosign is installed: tests/needs.sh cosign builds it");
        assert!(out.status.success(), "cosign {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}
