//! TLS for clients: what is spoken and with whom, certificates that end and that change, and clients of ill will.

use crate::settings::refused;
use crate::support::artifact::{module, raw};
use crate::support::client::{self, read_reply};
use crate::support::h2::{self, Connection, request};
use crate::support::larder::{Home, Larder, settings};
use crate::support::mounted::Mounted;
use crate::support::pki::{self, Pki};
use crate::support::scripted::Scripted;
use crate::support::tls::{Client, curl};
use crate::support::{eventually, larder as program};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SMALL: &str = "/plugins/small/1/plugin.wasm";
const LARGE: &str = "/plugins/large/1/plugin.wasm";
const LARGE_BYTES: usize = 8 << 20;

/// A larder whose plugins are behind TLS, with what it serves.
pub struct Secure {
    pub larder: Larder,
    pub pki: Pki,
    pub folder: tempfile::TempDir,
    _registry: Scripted,
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Secure {
    /// With further settings below `tls.data`, where CA is the CA's file.
    fn start(port: &str) -> Self {
        Self::with(Pki::make, port)
    }

    fn with(make: fn(&Path) -> Pki, port: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = make(folder.path());
        private(&pki.key);
        let port = port.replace("CA", &pki.ca.display().to_string());
        let tls = format!(
            "tls: {{data: {{certificate: '{}', key: '{}'{port}}}}}\n",
            pki.certificate.display(),
            pki.key.display()
        );
        let registry = Scripted::start();
        let (small, large) = (module("small", 5000), module("large", LARGE_BYTES));
        registry.put("plugins/small", "1", &raw(&small));
        registry.put("plugins/large", "1", &raw(&large));
        let larder = Home::new(&format!("{}{tls}", settings(&registry.host()))).start();
        Self { larder, pki, folder, _registry: registry, small, large }
    }

    fn client(&self) -> Client {
        Client::trusting(&self.pki.ca)
    }

    /// A client with a certificate of the CA, or of another one.
    fn shows(&self, pki: &Pki, client: &pki::Client<'_>) -> Client {
        Client::showing(&self.pki.ca, &pki.client(self.folder.path(), client))
    }

    fn handshakes(&self, result: &str) -> f64 {
        let labels = format!("{{listener=\"data\",result=\"{result}\"}}");
        self.larder.metric(&format!("larder_tls_handshakes_total{labels}"))
    }

    /// Waits for so many handshakes with this result; a client knows its own end before larder has counted it.
    fn counted(&self, result: &str, number: f64) {
        eventually(result, || (self.handshakes(result) == number).then_some(()));
    }
}

/// For its owner alone, as a key should be.
fn private(key: &Path) {
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn both_versions_of_tls_and_of_http_are_spoken_with_real_clients() {
    let secure = Secure::start("");
    let ca = secure.pki.ca.display().to_string();
    for tls in [&["--tlsv1.3"][..], &["--tlsv1.2", "--tls-max", "1.2"]] {
        for (http, version) in [("--http1.1", "1.1"), ("--http2", "2"), ("--no-alpn", "1.1")] {
            let arguments = [&["--cacert", &ca, http], tls].concat();
            for (path, bytes) in [(SMALL, &secure.small), (LARGE, &secure.large)] {
                let (told, body) = curl(secure.larder.data, path, &arguments).unwrap();
                assert_eq!(told, format!("200 {version}"), "{arguments:?} {path}");
                assert!(body == *bytes, "{arguments:?} {path}");
            }
        }
    }
    // What is refused for good reason (RFC 8996), and a protocol that nobody has heard of.
    let old = Command::new("openssl")
        .args(["s_client", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", "-connect"])
        .arg(secure.larder.data.to_string())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!old.status.success(), "TLS 1.1 is spoken");
    assert!(secure.client().speaking(&["gopher"]).get(secure.larder.data, SMALL).is_err());
    secure.counted("incompatible", 2.0);
    // Who does not know our CA says so, and is counted.
    assert_eq!(curl(secure.larder.data, SMALL, &[]), Err(60));
    secure.counted("refused", 1.0);
    assert_eq!(secure.handshakes("ok"), 12.0);
}

#[test]
fn plain_http_to_the_port_for_https_is_told_so_and_tls_to_the_plain_port_ends() {
    let secure = Secure::start("");
    for ask in [&client::head("GET", SMALL, &[])[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"get"] {
        let mut stream = client::connect(secure.larder.data).unwrap();
        stream.write_all(ask).unwrap();
        let reply = read_reply(&mut stream, false).unwrap();
        assert_eq!(reply.status, 400);
        assert!(reply.text().contains("this port speaks HTTPS"), "{}", reply.text());
        assert_eq!(reply.header("connection"), "close");
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    secure.counted("plain_http", 3.0);
    let fault = secure.client().get(secure.larder.admin, "/livez").unwrap_err();
    assert_ne!(fault.kind(), ErrorKind::WouldBlock, "the plain port has ended it");
}

#[test]
fn handshakes_that_hang_hold_nobody_up_and_end_at_the_deadline() {
    // Time for all of them to come, and for who is heard.
    let secure = Secure::start("").larder_with("LARDER_SERVER_HEADER_TIMEOUT", "4s");
    // The beginning of a ClientHello.
    let mut hanging: Vec<_> = (0..200).map(|_| client::connect(secure.larder.data).unwrap()).collect();
    for stream in &mut hanging {
        stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap();
    }
    let open = || secure.larder.metric("larder_connections{listener=\"data\"}");
    eventually("a place for each", || (open() >= 200.0 || secure.handshakes("timeout") > 0.0).then_some(()));
    assert_eq!(secure.client().get(secure.larder.data, SMALL).unwrap().body, secure.small);
    secure.counted("timeout", 200.0);
    for mut stream in hanging {
        assert!(matches!(stream.read(&mut [0]), Ok(0)), "closed");
    }
    // Who agrees on HTTP/2 and then says nothing, or half of how it begins, or something else.
    let h2 = secure.client().speaking(&["h2"]);
    for begins in [&b""[..], b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nHost: l\r\n\r\n"] {
        let mut stream = h2.connect(secure.larder.data).unwrap();
        stream.write_all(begins).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest.len(), 0, "{begins:?}");
    }
    // And over HTTP/1.1, a head that never ends.
    let mut stream = secure.client().connect(secure.larder.data).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    eventually("the end of every connection", || (open() == 0.0).then_some(()));
}

impl Secure {
    /// The same, started again with a variable.
    fn larder_with(self, name: &str, value: &str) -> Self {
        let Self { larder, pki, folder, _registry, small, large } = self;
        let larder = larder.kill().start_with(&[], &[(name, value)]);
        Self { larder, pki, folder, _registry, small, large }
    }
}

#[test]
fn who_must_show_a_certificate_is_heard_only_with_one_of_the_right_ca_that_has_not_expired() {
    let secure = Secure::start(", client_ca: ['CA'], client_certificate: required");
    let (to, small) = (secure.larder.data, &secure.small);
    let other = tempfile::tempdir().unwrap();
    let other = Pki::make(other.path());
    let good = pki::Client { common: "good", dns: &["gateway.corp"], ..pki::Client::default() };
    for protocols in [&["http/1.1"][..], &[]] {
        let reply = secure.shows(&secure.pki, &good).speaking(protocols).get(to, SMALL).unwrap();
        assert_eq!(reply.body, *small);
    }
    let over_h2 = secure.shows(&secure.pki, &good).speaking(&["h2"]).connect(to).unwrap();
    assert_eq!(Connection::over(over_h2, &[]).get(1, &request("GET", SMALL)), (200, small.clone()));
    assert!(secure.client().get(to, SMALL).is_err(), "none");
    secure.counted("no_certificate", 1.0);
    let expired = pki::Client { common: "expired", expired: true, ..pki::Client::default() };
    assert!(secure.shows(&secure.pki, &expired).get(to, SMALL).is_err(), "expired");
    let stranger = pki::Client { common: "stranger", ..pki::Client::default() };
    assert!(secure.shows(&other, &stranger).get(to, SMALL).is_err(), "of another CA");
    let server = Client::showing(&secure.pki.ca, &(secure.pki.certificate.clone(), secure.pki.key.clone()));
    assert!(server.get(to, SMALL).is_err(), "a server's, which is no client's");
    secure.counted("bad_certificate", 3.0);
    assert_eq!(secure.handshakes("ok"), 3.0);
    // One who tries on and on fills no log.
    let before = secure.larder.log_text().len();
    for _ in 0..200 {
        assert!(secure.client().get(to, SMALL).is_err());
    }
    secure.counted("no_certificate", 201.0);
    let told = secure.larder.line("a handshake", |line| line["message"] == "a TLS handshake failed");
    assert!(told["reason"].is_string() && told["peer"].is_string(), "{told:?}");
    assert!(secure.larder.log_text().len() - before < 20_000);
}

#[test]
fn who_may_show_a_certificate_is_heard_without_one_too() {
    let secure = Secure::start(", client_ca: ['CA']");
    let (to, small) = (secure.larder.data, &secure.small);
    assert_eq!(secure.client().get(to, SMALL).unwrap().body, *small);
    let good = pki::Client { common: "good", ..pki::Client::default() };
    assert_eq!(secure.shows(&secure.pki, &good).get(to, SMALL).unwrap().body, *small);
    let expired = pki::Client { common: "expired", expired: true, ..pki::Client::default() };
    assert!(secure.shows(&secure.pki, &expired).get(to, SMALL).is_err(), "what is shown must be good");
}

#[test]
fn the_administration_port_speaks_tls_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let larder = Home::new(&format!(
        "catalog: {{builtin: false, template: null}}\nserver: {{drain: 0s}}\n\
         tls: {{admin: {{certificate: '{}', key: '{}', client_ca: ['{}'], client_certificate: required}}}}\n",
        pki.certificate.display(),
        pki.key.display(),
        pki.ca.display()
    ))
    .start();
    let known = Client::showing(&pki.ca, &(pki.client_certificate.clone(), pki.client_key.clone()));
    assert_eq!(known.get(larder.admin, "/readyz").unwrap().text(), "ready\n");
    let metrics = known.get(larder.admin, "/metrics").unwrap().text();
    assert!(metrics.contains("larder_tls_handshakes_total{listener=\"admin\",result=\"ok\"} 2"), "{metrics}");
    assert!(Client::trusting(&pki.ca).get(larder.admin, "/readyz").is_err());
    assert_eq!(larder.get("/healthz").status, 200, "the other port is as it was");
}

#[test]
fn bad_requests_over_tls_are_answered_and_ended_as_without_it() {
    let secure = Secure::start("");
    let large_head = format!("GET / HTTP/1.1\r\nHost: l\r\nX: {}\r\n\r\n", "a".repeat(17_000));
    let larger_head = format!("GET / HTTP/1.1\r\nHost: l\r\nX: {}\r\n\r\n", "a".repeat(700_000));
    let with_body =
        format!("POST / HTTP/1.1\r\nHost: l\r\nContent-Length: 900000\r\n\r\n{}", "a".repeat(900_000));
    for (ask, status) in [
        (&b"GET /a\0b HTTP/1.1\r\nHost: l\r\n\r\n"[..], 400),
        (b"GET /a\xff\xfeb HTTP/1.1\r\nHost: l\r\n\r\n", 400),
        (b"GET /healthz?\0 HTTP/1.1\r\nHost: l\r\n\r\n", 400),
        (b"GET /healthz?\x01 HTTP/1.1\r\nHost: l\r\n\r\n", 400),
        (b"GET /healthz?\x7f HTTP/1.1\r\nHost: l\r\n\r\n", 400),
        (b"GET /healthz?a b HTTP/1.1\r\nHost: l\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: l\n\n", 400),
        (
            b"GET / HTTP/1.1\r\nHost: l\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"no HTTP at all\r\n\r\n", 400),
        (large_head.as_bytes(), 431),
        (larger_head.as_bytes(), 431),
        (with_body.as_bytes(), 405),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
    ] {
        let mut stream = secure.client().connect(secure.larder.data).unwrap();
        let shown = String::from_utf8_lossy(&ask[..ask.len().min(60)]).into_owned();
        // All of it is taken, or at least thrown away until the answer has been read.
        stream.write_all(ask).unwrap_or_else(|e| panic!("{shown:?}: {e}"));
        let reply = read_reply(&mut stream, false).unwrap_or_else(|e| panic!("{shown:?}: {e}"));
        assert_eq!(reply.status, status, "{shown:?}");
        // A farewell (RFC 8446, section 6.1), by which a client knows that nothing was cut off.
        assert_eq!(stream.read(&mut [0]).unwrap_or_else(|e| panic!("{shown:?}: {e}")), 0, "{shown:?}");
    }
    // A connection that stays is used again, one request behind the other.
    let mut stream = secure.client().connect(secure.larder.data).unwrap();
    for _ in 0..3 {
        stream.write_all(format!("GET {SMALL} HTTP/1.1\r\nHost: l\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(read_reply(&mut stream, false).unwrap().body, secure.small);
    }
}

#[test]
fn floods_of_http2_over_tls_end_the_connection_and_cost_nothing_that_stays() {
    let secure = Secure::start("").larder_with("LARDER_SERVER_IDLE_TIMEOUT", "2s");
    let h2 = secure.client().speaking(&["h2"]);
    let (reset, part) = (request("GET", LARGE), h2::field("x", &"a".repeat(h2::FRAME_BYTES - 100)));
    let before = crate::support::process::resident(secure.larder.id());
    let mut floods: [Box<dyn FnMut(usize) -> Vec<u8>>; 2] = [
        Box::new(|n| {
            let stream = u32::try_from(2 * n + 1).unwrap();
            let head = h2::frame(h2::HEADERS, h2::END_STREAM | h2::END_HEADERS, stream, &reset);
            [head, h2::frame(h2::RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        }),
        Box::new(|n| match n {
            0 => h2::frame(h2::HEADERS, h2::END_STREAM, 1, &request("GET", SMALL)),
            _ => h2::frame(h2::CONTINUATION, 0, 1, &part),
        }),
    ];
    for flood in &mut floods {
        let mut connection = Connection::over(h2.connect(secure.larder.data).unwrap(), &[]);
        assert!(connection.flood(50_000, flood), "the connection stays");
    }
    let open = || secure.larder.metric("larder_connections{listener=\"data\"}");
    eventually("the end of every connection", || (open() == 0.0).then_some(()));
    let grown = crate::support::process::resident(secure.larder.id()).saturating_sub(before);
    assert!(grown < 50 << 20, "{} MiB more", grown >> 20);
    let mut after = Connection::over(h2.connect(secure.larder.data).unwrap(), &[]);
    assert_eq!(after.get(1, &request("GET", SMALL)), (200, secure.small.clone()));
}

#[test]
fn certificates_that_cannot_be_served_with_are_named_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let put = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        folder.path().join(name).display().to_string()
    };
    let (good, key) = (pki.certificate.display().to_string(), pki.key.display().to_string());
    let (ca, other_key) = (pki.ca.display().to_string(), pki.client_key.display().to_string());
    let pem = std::fs::read_to_string(&good).unwrap();
    let der = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes());
    let der: rustls::pki_types::CertificateDer<'_> = der.unwrap();
    let sealed = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let nowhere = folder.path().join("nowhere").display().to_string();
    let (empty, sealed, der) =
        (put("empty.pem", b""), put("sealed.key", sealed.as_bytes()), put("s.der", &der));
    let port = |certificate: &str, key: &str, more: &str| {
        format!("tls: {{data: {{certificate: '{certificate}', key: '{key}'{more}}}}}")
    };
    refused(&[
        (
            &port(&empty, &key, ""),
            &["larder.yaml:1:", "tls.data.certificate: ", &empty, "holds no certificate"],
        ),
        (&port(&key, &key, ""), &["tls.data.certificate: ", &key, "it holds a private key"]),
        (&port(&der, &key, ""), &["tls.data.certificate: ", &der, "holds no certificate in PEM form"]),
        (&port(&nowhere, &key, ""), &["tls.data.certificate: ", &nowhere, "No such file"]),
        (&port(&good, &nowhere, ""), &["tls.data.key: ", &nowhere, "No such file"]),
        (&port(&good, &good, ""), &["tls.data.", &good, "holds no private key"]),
        (&port(&good, &sealed, ""), &["tls.data.key: ", &sealed, "is encrypted"]),
        (
            &port(&good, &other_key, ""),
            &["tls.data.key: ", &other_key, "is not the key of the certificate in", &good],
        ),
        (&port(&good, &key, &format!(", client_ca: ['{empty}']")), &["tls.data.client_ca: ", &empty]),
        (
            &port(&good, &key, ", client_certificate: required"),
            &["tls.data.client_certificate: ", "client_ca"],
        ),
        (&format!("tls: {{admin: {{certificate: '{good}'}}}}"), &["tls.admin.certificate: has no key"]),
        (&format!("tls: {{admin: {{key: '{key}'}}}}"), &["tls.admin.key: has no certificate"]),
        (&format!("tls: {{data: {{client_ca: ['{ca}']}}}}"), &["tls.data.client_ca: ", "plain HTTP"]),
        (&port(&good, &key, ", client_certificate: maybe"), &["tls.data.client_certificate: "]),
    ]);
    // A start says the same, and opens nothing.
    let home = Home::new(&port(&good, &other_key, ""));
    let output = home.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(!home.cache().exists());
    // What is odd and good: line ends of Windows, many CAs, a folder of them. A key that all can read is told of.
    let windows = put("windows.pem", pem.replace('\n', "\r\n").as_bytes());
    let many = put("many.pem", std::fs::read_to_string(&ca).unwrap().repeat(1000).as_bytes());
    let cas = folder.path().join("cas");
    std::fs::create_dir(&cas).unwrap();
    std::fs::copy(&ca, cas.join("ca.crt")).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    for more in [format!("'{many}'"), format!("'{}'", cas.display())] {
        let file = put("good.yaml", port(&windows, &key, &format!(", client_ca: [{more}]")).as_bytes());
        let output = program::program().args(["check", "--config", &file]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert!(told.contains(&key) && told.contains("everybody on this machine may read the key"), "{told}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("plugins at    https://"), "{output:?}");
    }
}

#[test]
fn a_client_with_a_certificate_is_heard_where_a_thousand_cas_are_trusted() {
    let secure = Secure::start("");
    let folder = secure.folder.path();
    let many: String = (0..700)
        .map(|_| {
            let name =
                "an authority with a name that is rather long, as those of some of them are; ".repeat(2);
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        })
        .collect();
    std::fs::write(folder.join("many.pem"), many + &std::fs::read_to_string(&secure.pki.ca).unwrap())
        .unwrap();
    let list = format!("['{}']", folder.join("many.pem").display());
    let secure = secure.larder_with("LARDER_TLS_DATA_CLIENT_CA", &list);
    let good = pki::Client { common: "good", ..pki::Client::default() };
    let reply = secure.shows(&secure.pki, &good).get(secure.larder.data, SMALL).unwrap();
    assert_eq!(reply.body, secure.small);
}

#[test]
fn a_certificate_that_ends_soon_or_has_ended_serves_on_and_is_told_of() {
    fn ending(folder: &Path) -> Pki {
        let pki = Pki::make(folder);
        let (certificate, key) = pki.server(folder, "ending", Duration::from_secs(3 * 24 * 3600));
        Pki { certificate, key, ..pki }
    }
    for (make, told, reachable) in [
        (ending as fn(&Path) -> Pki, "ending.pem: the certificate CN=ending expires on ", true),
        (Pki::expired, "server.pem: the certificate CN=larder test server has expired on ", false),
    ] {
        let secure = Secure::with(make, "");
        let warned = secure.larder.log().into_iter().find(|line| {
            line["level"] == "WARN" && line["message"].as_str().is_some_and(|text| text.contains(told))
        });
        assert!(warned.is_some(), "{}", secure.larder.log_text());
        let file = secure.pki.certificate.display();
        let name = format!("larder_certificate_expiry_timestamp_seconds{{file=\"{file}\",role=\"server\"}}");
        let ends =
            secure.larder.metric(&name) - SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(if reachable { ends > 200_000.0 && ends < 260_000.0 } else { ends < 0.0 }, "{ends}");
        assert_eq!(secure.client().get(secure.larder.data, SMALL).is_ok(), reachable, "the client decides");
        let (status, body) = curl(secure.larder.data, SMALL, &["--insecure", "--http2"]).unwrap();
        assert_eq!((status.as_str(), body), ("200 2", secure.small.clone()));
    }
}

/// Handshakes and asks again and again, from some clients at once, while `work` is done; all must be answered.
fn under_load(to: std::net::SocketAddr, clients: &[Client], small: &[u8], work: impl FnOnce()) -> usize {
    let (stop, number) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in clients {
            let (stop, number) = (&stop, &number);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let reply = client.get(to, SMALL);
                    let n = number.fetch_add(1, Ordering::SeqCst);
                    let reply = reply.unwrap_or_else(|e| panic!("request {n}: {e}"));
                    assert_eq!((reply.status, &reply.body[..]), (200, small), "request {n}");
                }
            });
        }
        work();
        stop.store(true, Ordering::SeqCst);
    });
    number.into_inner()
}

#[test]
fn new_certificates_are_used_within_ten_seconds_under_load_and_broken_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let generations = ["one", "two"].map(|name| {
        let at = folder.path().join(name);
        std::fs::create_dir_all(&at).unwrap();
        Pki::make(&at)
    });
    let read = |path: &Path| std::fs::read(path).unwrap();
    let files = |pki: &Pki| {
        vec![("tls.crt", read(&pki.certificate)), ("tls.key", read(&pki.key)), ("ca.crt", read(&pki.ca))]
    };
    let mounted = Mounted::new(&folder.path().join("mounted"), &files(&generations[0]));
    let registry = Scripted::start();
    let (small, large) = (module("small", 5000), module("large", LARGE_BYTES));
    registry.put("plugins/small", "1", &raw(&small));
    registry.put("plugins/large", "1", &raw(&large));
    let larder = Home::new(&format!(
        "{}tls: {{data: {{certificate: '{}', key: '{}', client_ca: ['{}'], client_certificate: required}}}}\n",
        settings(&registry.host()),
        mounted.path("tls.crt"),
        mounted.path("tls.key"),
        mounted.path("ca.crt"),
    ))
    .start();
    // Trusts both of larder's, so that no request has to fail; shows one CA's or the other's.
    let both = folder.path().join("both.pem");
    std::fs::write(&both, [read(&generations[0].ca), read(&generations[1].ca)].concat()).unwrap();
    let of = |pki: &Pki| Client::showing(&both, &(pki.client_certificate.clone(), pki.client_key.clone()));
    let to = larder.data;
    let reloads = |result: &str| larder.metric(&format!("larder_reloads_total{{result=\"{result}\"}}"));
    // A slow reader, half through when all is turned.
    let mut slow = of(&generations[0]).connect(to).unwrap();
    slow.write_all(&client::head("GET", LARGE, &[])).unwrap();
    let mut first = [0; 1 << 16];
    slow.read_exact(&mut first).unwrap();
    for turn in 1..=3 {
        let (old, new) = (&generations[(turn + 1) % 2], &generations[turn % 2]);
        let begun = Instant::now();
        if turn == 3 {
            larder.signal("HUP");
        }
        mounted.turn(&format!("..turn{turn}"), &files(new));
        eventually("the new certificates in use", || of(new).get(to, SMALL).is_ok().then_some(()));
        assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
        assert!(of(old).get(to, SMALL).is_err(), "of a CA that is no longer trusted");
        let stream = of(new).connect(to).unwrap();
        let shown = stream.conn.peer_certificates().unwrap()[0].as_ref().to_vec();
        let expected: rustls::pki_types::CertificateDer<'_> =
            rustls::pki_types::pem::PemObject::from_pem_file(&new.certificate).unwrap();
        assert!(shown == expected.as_ref(), "the new certificate is shown");
    }
    let mut rest = first.to_vec();
    slow.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&large), "what was under way ends well");
    // Both at once trusted from here on: nobody loses a request, whatever is turned.
    let wide = |name: &str, pki: &Pki| {
        let mut all = files(pki);
        all[2].1 = read(&both);
        mounted.turn(name, &all);
    };
    let before = reloads("ok");
    wide("..wide", &generations[0]);
    eventually("both CAs in use", || (reloads("ok") > before).then_some(()));
    let clients = [of(&generations[0]), of(&generations[1]), of(&generations[0])];
    let sent = under_load(to, &clients, &small, || {
        for turn in 0..4 {
            let (good, bad) = (reloads("ok"), reloads("error"));
            if turn == 1 {
                // A key of one with the certificate of another: as it was, and told.
                let mut mixed = files(&generations[1]);
                mixed[1].1 = read(&generations[0].key);
                mounted.turn("..mixed", &mixed);
                eventually("the fault being told", || (reloads("error") > bad).then_some(()));
                larder.signal("HUP");
                eventually("the fault being told again", || (reloads("error") > bad + 1.0).then_some(()));
                let text = "is not the key of the certificate in";
                larder.line("the fault", |line| line.to_string().contains(text));
            } else {
                wide(&format!("..load{turn}"), &generations[(turn + 1) % 2]);
                eventually("the next certificates", || (reloads("ok") > good).then_some(()));
            }
        }
    });
    assert!(sent > 20, "{sent} requests");
}

#[test]
fn leaving_over_tls_lets_nobody_down() {
    let mut secure = Secure::start("");
    let to = secure.larder.data;
    assert_eq!(secure.client().get(to, LARGE).unwrap().body, secure.large);
    // Idle ones hold nothing up, of either protocol.
    let mut idle = secure.client().connect(to).unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: l\r\n\r\n").unwrap();
    assert_eq!(read_reply(&mut idle, false).unwrap().status, 200);
    let idle_h2 = secure.client().speaking(&["h2"]).connect(to).unwrap();
    let mut idle_h2 = Connection::over(idle_h2, &[]);
    assert_eq!(idle_h2.get(1, &request("GET", "/healthz")).0, 200);
    // One that has come and not finished its handshake when the port closes.
    let late = client::connect(to).unwrap();
    secure.counted("ok", 3.0);
    let mut begun = secure.client().connect(to).unwrap();
    begun.write_all(&client::head("GET", LARGE, &[])).unwrap();
    let mut first = [0; 1000];
    begun.read_exact(&mut first).unwrap();
    secure.larder.signal("TERM");
    eventually("the port being closed", || client::connect(to).is_err().then_some(()));
    let mut rest = first.to_vec();
    begun.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&secure.large), "an answer in flight is finished");
    drop(late);
    assert_eq!(secure.larder.wait().code(), Some(0));
    assert!(!secure.larder.log_text().contains("cut off"), "{}", secure.larder.log_text());
}

#[test]
fn who_comes_again_is_asked_for_its_certificate_again() {
    for (port, expected) in
        [("", rustls::HandshakeKind::Resumed), (", client_ca: ['CA']", rustls::HandshakeKind::Full)]
    {
        let secure = Secure::start(port);
        let good = pki::Client { common: "good", ..pki::Client::default() };
        let client = secure.shows(&secure.pki, &good).remembering();
        let mut last = None;
        for _ in 0..2 {
            let mut stream = client.connect(secure.larder.data).unwrap();
            // What could be taken up again comes with the answer.
            stream.write_all(&client::head("GET", SMALL, &[])).unwrap();
            assert_eq!(read_reply(&mut stream, false).unwrap().body, secure.small);
            last = stream.conn.handshake_kind();
        }
        assert_eq!(last, Some(expected), "{port}");
    }
}

#[test]
fn a_connection_does_not_outlive_the_trust_in_the_certificate_that_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| {
        let at = folder.path().join(name);
        std::fs::create_dir_all(&at).unwrap();
        Pki::make(&at)
    });
    let read = |path: &Path| std::fs::read(path).unwrap();
    let mounted = Mounted::new(&folder.path().join("mounted"), &[("ca.crt", read(&one.ca))]);
    let larder = Home::new(&format!(
        "{}tls: {{admin: {{certificate: '{}', key: '{}', client_ca: ['{}']}}}}\n",
        settings("127.0.0.1:1"),
        one.certificate.display(),
        one.key.display(),
        mounted.path("ca.crt"),
    ))
    .start();
    let client = Client::showing(&one.ca, &(one.client_certificate.clone(), one.client_key.clone()));
    let mut stream = client.connect(larder.admin).unwrap();
    let mut ask = || {
        stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        client::read_reply(&mut stream, false).unwrap()
    };
    let loaded = |reply: &client::Reply| reply.json()["settings"]["loaded_at"].as_str().unwrap().to_owned();
    let begun = loaded(&ask());
    // Another CA beside it changes nothing for who is known.
    mounted.turn("..both", &[("ca.crt", [read(&one.ca), read(&two.ca)].concat())]);
    eventually("the other CA in use", || (loaded(&ask()) != begun).then_some(()));
    mounted.turn("..two", &[("ca.crt", read(&two.ca))]);
    // What was let in just before is answered, and is the last there too.
    let last =
        eventually("the last answer", || Some(ask()).filter(|reply| reply.header("connection") == "close"));
    assert!(matches!(last.status, 200 | 403), "{}", last.text());
    assert!(client.get(larder.admin, "/api/v1/status").is_err(), "nor is another one begun");
}
