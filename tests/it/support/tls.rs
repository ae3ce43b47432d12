//! TLS as clients speak it: handshakes with the certificates of a test, and what comes over them.

use super::client::{self, Reply};
use super::h2::End;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// A connection after its handshake.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

impl End for Stream {
    fn end(&mut self) {
        self.conn.send_close_notify();
        let _ = self.flush();
    }
}

/// A client that trusts a CA and asks for `localhost`.
pub struct Client {
    config: ClientConfig,
}

impl Client {
    /// One who shows nothing.
    pub fn trusting(ca: &Path) -> Self {
        Self::new(ca, None)
    }

    /// One with a certificate and its key.
    pub fn showing(ca: &Path, identity: &(PathBuf, PathBuf)) -> Self {
        Self::new(ca, Some(identity))
    }

    fn new(ca: &Path, identity: Option<&(PathBuf, PathBuf)>) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap);
                builder
                    .with_client_auth_cert(chain.collect(), PrivateKeyDer::from_pem_file(key).unwrap())
                    .unwrap()
            }
        };
        // Each handshake is to show what the server has now.
        config.resumption = Resumption::disabled();
        Self { config }
    }

    /// The same, who takes up an earlier session where it may.
    pub fn remembering(mut self) -> Self {
        self.config.resumption = Resumption::default();
        self
    }

    /// The same, who offers these protocols in the handshake.
    pub fn speaking(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// A handshake, as far as the client knows it to be done.
    pub fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        self.over(client::connect(to)?)
    }

    /// The same on a connection that is there.
    pub fn over(&self, mut tcp: TcpStream) -> io::Result<Stream> {
        tcp.set_write_timeout(Some(Duration::from_secs(20)))?;
        let name = "localhost".try_into().unwrap();
        let mut tls = ClientConnection::new(Arc::new(self.config.clone()), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        Ok(StreamOwned::new(tls, tcp))
    }

    /// Any request on a connection of its own.
    pub fn request(
        &self,
        to: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Reply> {
        let mut stream = self.connect(to)?;
        stream.write_all(&client::head(method, path, headers))?;
        client::read_reply(&mut stream, method == "HEAD")
    }

    /// GET on a connection of its own.
    pub fn get(&self, to: SocketAddr, path: &str) -> io::Result<Reply> {
        self.request(to, "GET", path, &[])
    }
}

/// What curl says of a URL, with arguments of its own: `CODE VERSION`, and the body. An error is its exit code.
pub fn curl(to: SocketAddr, path: &str, arguments: &[&str]) -> Result<(String, Vec<u8>), i32> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--noproxy", "*", "-o", "-", "-w", "%{stderr}%{http_code} %{http_version}"]);
    command.args(["--connect-to", &format!("localhost:443:{to}")]).args(arguments);
    let output = command.arg(format!("https://localhost{path}")).output();
    let output = output.unwrap_or_else(|e| panic!("curl: {e}; make test installs it"));
    match output.status.code() {
        Some(0) => Ok((String::from_utf8(output.stderr).unwrap(), output.stdout)),
        code => Err(code.unwrap()),
    }
}
