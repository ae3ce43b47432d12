//! Settings that cannot be: each fault is told with its place, ends with 78 before anything is opened, and keeps secrets.

use crate::support::larder::program;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// `larder check` of a file: its exit code and what it says.
fn check(file: &Path) -> (Option<i32>, String) {
    ended(program().args(["check", "--config"]).arg(file))
}

pub fn ended(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (
        output.status.code(),
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    )
}

/// Each text is refused, and what is said of it has these words.
pub fn refused(rows: &[(&str, &[&str])]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.yaml");
    for (text, words) in rows {
        std::fs::write(&file, text).unwrap();
        let (code, told) = check(&file);
        assert_eq!(code, Some(78), "{text:?}: {told}");
        for word in *words {
            assert!(told.contains(word), "{text:?}: {word}: {told}");
        }
        assert!(!told.contains("s3cret") && !told.contains("panicked"), "{text:?}: {told}");
    }
}

#[test]
fn what_is_no_file_of_settings_is_told_and_costs_little() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let (code, told) = check(dir.path());
    assert!(code == Some(78) && told.contains("directory"), "{told}");
    let (code, told) = check(&dir.path().join("none.yaml"));
    assert!(code == Some(78) && told.contains("none.yaml: No such file"), "{told}");
    let (code, told) = check(&file("binary.yaml", b"\xff\xfe\0"));
    assert!(code == Some(78) && told.contains("binary.yaml: ") && told.contains("UTF-8"), "{told}");
    assert_eq!(check(&file("empty.yaml", b"")).0, Some(0));
    assert_eq!(check(&file("comment.yaml", &[b'#'; 10 << 20])).0, Some(0), "long, and a file of settings");
    // Each line is nine times the one before.
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..12 {
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(","));
    }
    let deep = format!("fill: {}1{}\n", "[".repeat(100_000), "]".repeat(100_000));
    for (name, text) in [("bomb.yaml", bomb), ("deep.yaml", deep)] {
        let begun = Instant::now();
        let (code, told) = check(&file(name, text.as_bytes()));
        assert_eq!(code, Some(78), "{name}: {told:.500}");
        assert!(told.contains(name) && told.len() < 4096, "{told:.500}");
        assert!(begun.elapsed() < Duration::from_secs(25), "{name}: {:?}", begun.elapsed());
    }
    // Root may read everything, so somebody else looks.
    let closed = file("closed.yaml", b"");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    let copy = dir.path().join("larder");
    std::fs::copy(crate::support::larder::PROGRAM, &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(copy);
    let (code, told) = ended(command.args(["check", "--config"]).arg(&closed));
    assert!(code == Some(78) && told.contains("closed.yaml: Permission denied"), "{code:?} {told}");
}

#[test]
fn places_of_registries_are_refused_by_name_and_without_their_passwords() {
    refused(&[
        ("registry:\n  proxy: {url: 'http://u:s3cret@h:1'}", &[":2:11: registry.proxy: ", "password_file"]),
        (
            "registry: {hosts: {h: {mirrors: [{url: 'https://u:s3cret@m'}]}}}",
            &["registry.hosts.h: mirrors.0: "],
        ),
        ("catalog:\n  template: 'https://u:s3cret@h/x/{name}:{version}'", &[":2:3: catalog.template: "]),
        ("registry: {hosts: {h: {mirrors: [{url: 'ftp://m'}]}}}", &["mirrors.0: 'ftp://m'", "expected http"]),
        ("registry: {hosts: {h: {mirrors: [{url: 'https://'}]}}}", &["mirrors.0: 'https://'"]),
        ("registry: {hosts: {h: {mirrors: [{url: 'https://m/x?y'}]}}}", &["mirrors.0: "]),
        ("registry: {proxy: {url: 'http://'}}", &["registry.proxy: 'http://'"]),
        ("registry: {proxy: {url: 'ftp://p:1'}}", &["registry.proxy: "]),
        ("registry:\n  hosts:\n    h: {}\n    h: {}\n", &[":4:5: duplicate"]),
        ("catalog: {template: 'oci://h/x:{version}'}", &["catalog.template: ", "{name} exactly once"]),
        ("catalog: {template: 'oci://h/{name}/{x}:{version}'}", &["catalog.template: ", "{x}"]),
        ("catalog: {template: 'oci://h/../{name}:{version}'}", &["catalog.template: ", "../"]),
        ("catalog: {template: 'oci:///{name}:{version}'}", &["catalog.template: "]),
        ("routes: {patterns: ['/{name}/../x']}", &["routes.patterns: "]),
    ]);
}

#[test]
fn a_collector_is_a_plain_place_and_a_part_is_one_of_a_whole() {
    refused(&[
        ("traces:\n  endpoint: 'ftp://c:4318'", &[":2:3: traces.endpoint: 'ftp://c:4318'", "expected http"]),
        ("traces: {endpoint: 'collector:4318'}", &["traces.endpoint: 'collector:4318'"]),
        ("traces: {endpoint: 'http://'}", &["traces.endpoint: "]),
        ("traces: {endpoint: ''}", &["traces.endpoint: '' is no URL"]),
        ("traces: {endpoint: 'http://u:s3cret@c:1'}", &["traces.endpoint: ", "OTEL_EXPORTER_OTLP_HEADERS"]),
        ("traces: {endpoint: 'http://u:a?s3cret@c:1'}", &["traces.endpoint: "]),
        ("traces: {endpoint: 'http://c:1/?key=s3cret'}", &["traces.endpoint: 'http://c:1/' has more"]),
        ("traces: {endpoint: 'http://c:1/#s3cret'}", &["traces.endpoint: 'http://c:1/' has more"]),
        ("traces: {endpoint: 'http://c:1/v1/traces'}", &["traces.endpoint: ", "is put there"]),
        ("traces: {sample: 1.5}", &[":1:10: traces.sample: 1.5", "expected 0 to 1"]),
        ("traces: {sample: -0.1}", &["traces.sample: -0.1"]),
        ("traces: {sample: .nan}", &[":1:18: ", ".nan"]),
        ("traces: {sample: often}", &["traces.sample: "]),
        ("log: {level: loud}", &["log.level: "]),
    ]);
}

#[test]
fn sizes_and_times_are_numbers_with_a_unit_and_within_reason() {
    refused(&[
        ("cache: {disk: -1}", &[":1:9: cache.disk: "]),
        ("cache: {disk: 1e999}", &["1e999"]),
        ("cache: {disk: 1XB}", &["cache.disk: ", "1XB"]),
        ("cache: {disk: 99999999999999999999}", &["cache.disk: "]),
        ("cache: {disk: 1MiB}", &["cache.disk: ", "limits.module"]),
        ("fill: {hold: 0}", &["fill.hold: "]),
        ("fill: {hold: 5}", &["fill.hold: "]),
        ("fill: {hold: 1h30}", &["fill.hold: "]),
        ("fill: {hold: -1s}", &["fill.hold: "]),
        ("server: {header_timeout: 0s}", &["server.header_timeout: is zero"]),
        ("server: {idle_timeout: 0s}", &["server.idle_timeout: is zero"]),
        ("server: {connections: 0}", &["server.connections: is zero"]),
        ("server: {send_rate: 0}", &["server.send_rate: is zero"]),
        ("listen: {data: nonsense}", &["listen.data: "]),
        ("listen: {data: '127.0.0.1:99999'}", &["listen.data: "]),
        ("listen: {data: '127.0.0.1:1', admin: '127.0.0.1:1'}", &["listen.admin: ", "same address"]),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.yaml");
    std::fs::write(&file, "cache: {disk: 1GB, memory: 1GiB}\nfill: {hold: 30s}\n").unwrap();
    let (code, told) = check(&file);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("warning: ") && told.contains(":2:8: fill.hold: gateways give up after 15s"),
        "{told}"
    );
}

#[test]
fn what_is_said_of_a_fault_is_said_in_our_own_words() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.yaml");
    for (text, odd) in [
        ("fill: {}\nfill: {}\n", "DuplicateKeyPolicy"),
        ("cache: {disk: -1}", "expected integer overflow"),
        ("cache: {disk: 1XB}", "expected parsable string"),
        ("cache: {disk: 1e999}", "configured policy"),
        ("server: 3", "struct Config"),
        ("server: {connections: many}", "usize"),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, told) = check(&file);
        assert_eq!(code, Some(78), "{text:?}: {told}");
        assert!(!told.contains(odd), "{text:?}: {told}");
    }
}

#[test]
fn certificates_keys_and_secrets_are_refused_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file.display().to_string()
    };
    let (certificate, key) = pair(dir.path(), "one");
    let (_, other_key) = pair(dir.path(), "other");
    let pem = std::fs::read_to_string(&certificate).unwrap();
    let ca = |file: &str| ended(program().args(["check", "--ca", file]));
    for (file, word) in [
        (put("empty.pem", b""), "holds no certificate"),
        (key.clone(), "it holds a private key"),
        (put("x.der", b"\x30\x82\x01\x0a\x02\x82"), "holds no certificate"),
        (dir.path().join("none.pem").display().to_string(), "No such file"),
        (put("cut.pem", &pem.as_bytes()[..pem.len() / 2]), "cut.pem: "),
    ] {
        let (code, told) = ca(&file);
        assert!(code == Some(78) && told.contains(&file) && told.contains(word), "{file}: {told}");
    }
    for file in
        [put("crlf.pem", pem.replace('\n', "\r\n").as_bytes()), put("many.pem", pem.repeat(1000).as_bytes())]
    {
        assert_eq!(ca(&file).0, Some(0), "{file}");
    }
    let nowhere = dir.path().join("dangling");
    symlink(dir.path().join("nowhere"), &nowhere).unwrap();
    for (file, word) in [
        (put("nothing", b""), "is empty"),
        (put("newline", b"\n"), "is empty"),
        (put("huge", &[b'a'; (1 << 20) + 1]), "1048577 bytes"),
        (nowhere.display().to_string(), "No such file"),
    ] {
        let text = format!("registry: {{hosts: {{h: {{username: u, password_file: {file}}}}}}}");
        refused(&[(&text, &["registry.hosts.h: ", &file, word])]);
    }
    let text =
        format!("registry: {{hosts: {{h: {{client_certificate: {certificate}, client_key: {other_key}}}}}}}");
    refused(&[(&text, &["is not the key of the certificate", &certificate, &other_key])]);
}

/// Files with a certificate of its own and its key.
fn pair(folder: &Path, name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let put = |end: &str, text: String| {
        let file = folder.join(format!("{name}.{end}"));
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    (put("crt", certificate.pem()), put("key", key.serialize_pem()))
}

#[test]
fn what_cannot_be_opened_has_its_own_exit_code_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let (free, cache) = ("127.0.0.1:0", dir.path().join("cache").display().to_string());
    for (listen, admin, cache, code, word) in [
        (taken.as_str(), free, &cache, 71, taken.as_str()),
        (free, taken.as_str(), &cache, 71, taken.as_str()),
        // An address of nobody's (RFC 5737).
        ("192.0.2.1:8080", free, &cache, 71, "192.0.2.1:8080"),
    ] {
        let flags = ["--listen", listen, "--admin-listen", admin, "--cache-dir", cache];
        let (ended_with, told) = ended(program().args(flags));
        assert_eq!(ended_with, Some(code), "{flags:?}: {told}");
        assert!(told.contains(word) && !told.contains("panicked"), "{flags:?}: {told}");
    }
}

#[test]
fn typing_errors_are_64_and_a_reader_that_leaves_is_no_panic() {
    for arguments in
        [&["--config"][..], &["--config", "a", "--config", "b"], &["frob"], &["get", "x"], &["check", "x"]]
    {
        let (code, told) = ended(program().args(arguments));
        assert_eq!(code, Some(64), "{arguments:?}: {told}");
    }
    let larder = crate::support::larder::PROGRAM;
    for (ends, codes) in [("| true", &[0, 74][..]), (">&-", &[0, 74]), ("> /dev/full", &[0, 74])] {
        for command in ["--help", "--version", "version", "config", "check"] {
            let script = format!("'{larder}' {command} {ends}; echo ended ${{PIPESTATUS[0]}} >&2");
            let (_, told) = ended(Command::new("bash").args(["-c", &script]));
            let code = told.rsplit("ended ").next().and_then(|code| code.trim().parse::<i32>().ok());
            assert!(code.is_some_and(|code| codes.contains(&code)), "{command} {ends}: {told}");
            assert!(!told.contains("panicked"), "{command} {ends}: {told}");
        }
    }
}
