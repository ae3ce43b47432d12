//! The distribution project's own token server: the real thing, plain or with TLS.

use super::egress::Daemon;
use super::pki::Pki;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A running token server. It wants a password always, and grants only repositories below `<user>/`: for others it
/// answers with a token that grants nothing. Its answers have `access_token` and no `token`.
pub struct TokenServer {
    pub issuer: &'static str,
    pub service: &'static str,
    /// The certificate of its signing key: what a registry trusts.
    pub bundle: PathBuf,
    daemon: Daemon,
    tls: bool,
    _dir: TempDir,
}

impl TokenServer {
    /// Below `folder`, with a server's certificate or plain.
    pub fn start(folder: &Path, tls: Option<&Pki>, user: &str, password: &str) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/token-server");
        let dir = tempfile::Builder::new().prefix("token-server-").tempdir_in(folder).unwrap();
        let (key, bundle) = (dir.path().join("issuer.key"), dir.path().join("issuer.pem"));
        // It reads only the traditional form of a key, which is what this subcommand still writes.
        openssl(
            Command::new("openssl")
                .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
                .arg(&key),
        );
        let subject = ["req", "-x509", "-new", "-days", "2", "-subj", "/CN=larder test issuer", "-key"];
        openssl(Command::new("openssl").args(subject).arg(&key).arg("-out").arg(&bundle));
        let hashed = Command::new("htpasswd").args(["-Bbn", user, password]).output();
        let passwords = dir.path().join("htpasswd");
        std::fs::write(&passwords, hashed.expect("htpasswd is installed").stdout).unwrap();
        let (issuer, service) = ("larder-test-issuer", "larder-test-registry");
        let daemon = Daemon::start("the token server", &dir.path().join("log"), |port| {
            let mut command = Command::new(&program);
            command.args([
                "-debug",
                "-realm",
                "token",
                "-issuer",
                issuer,
                "-addr",
                &format!("127.0.0.1:{port}"),
            ]);
            command.arg("-key").arg(&key).arg("-passwd").arg(&passwords);
            if let Some(pki) = tls {
                command.arg("-tlscert").arg(&pki.certificate).arg("-tlskey").arg(&pki.key);
            }
            command
        });
        Self { issuer, service, bundle, daemon, tls: tls.is_some(), _dir: dir }
    }

    /// Its name and port as they are in its realm: `localhost` with TLS, its address without.
    pub fn host(&self) -> String {
        let address = self.daemon.address;
        if self.tls { format!("localhost:{}", address.port()) } else { address.to_string() }
    }

    /// The URL that challenges name.
    pub fn realm(&self) -> String {
        format!("{}://{}/token/", if self.tls { "https" } else { "http" }, self.host())
    }
}

fn openssl(command: &mut Command) {
    let output = command.output().expect("openssl is installed");
    assert!(output.status.success(), "openssl failed: {}", String::from_utf8_lossy(&output.stderr));
}
