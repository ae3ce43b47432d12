//! larder by the name `curl` beside the real one: the same words, the same answers and the same exit codes.

use crate::support::artifact::{module, raw};
use crate::support::larder::{Home, PROGRAM, settings};
use crate::support::pki::Pki;
use crate::support::port::Port;
use crate::support::scripted::Scripted;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// larder under that name.
fn ours(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("curl");
    std::os::unix::fs::symlink(PROGRAM, &path).unwrap();
    path
}

fn run(program: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.to_lowercase().ends_with("_proxy")) {
        command.env_remove(name);
    }
    command.args(words).stdin(Stdio::null()).output().unwrap()
}

/// A server that reads a request and answers with bytes, as often as it is asked, and then closes the connection.
fn answering(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(bytes);
        }
    });
    address
}

/// An address of the other version of IP, from which bytes go to `to` and back.
fn passing_on(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(to).unwrap());
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    address
}

#[test]
fn it_answers_and_ends_as_the_real_curl_does() {
    let folder = tempfile::tempdir().unwrap();
    let ours = ours(&folder);
    let registry = Scripted::start();
    registry.put("plugins/waf", "1", &raw(&module("waf", 300_000)));
    let pki = Pki::make(folder.path());
    let plain = Home::new(&settings(&registry.host())).start();
    let tls = format!(
        "{}tls: {{data: {{certificate: '{}', key: '{}'}}}}\n",
        settings(&registry.host()),
        pki.certificate.display(),
        pki.key.display()
    );
    let tls = Home::new(&tls).start();
    let tls_by_version_6 = passing_on(tls.data);
    let nothing = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    // It takes connections and says nothing; and one that nobody has.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = Port::kept();
    let partial = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    let empty = answering(b"");
    let to = folder.path().join("body");
    let to = to.to_str().unwrap();
    let long = format!("http://{}.invalid/", "a".repeat(64));
    let code = "%{http_code}";
    let data = format!("http://{}", plain.data);
    let at = |path: &str| format!("{data}{path}");
    for (words, url, expected) in [
        (&["-sf"][..], at("/"), 0),
        (&[], plain.data.to_string(), 0),
        (&["-sSf"], at("/plugins/waf/1/plugin.wasm"), 0),
        (&["-sSfo", to], at("/plugins/waf/1/plugin.wasm"), 0),
        (&["-sS", "-o", "/dev/null", "-w", code], at("/"), 0),
        (&["-s", "-o", "/dev/null", "-w", r"%{http_code}\n"], at("/plugins/waf/2/plugin.wasm"), 0),
        (&["-sf", "-w", code], at("/plugins/waf/2/plugin.wasm"), 22),
        (&["-s", "-w", code], format!("http://{}/", nobody.address), 7),
        (&["-sf"], at("/plugins/Not-A-Name"), 22),
        (&["-s", "-H", "Accept: application/json", "--max-time", "20"], at("/plugins/"), 0),
        (&["-s", "-o", "/dev/null", "-w", code], at("/plugins"), 0),
        (&["-sL", "-w", code], at("/plugins"), 0),
        (&["-sS", "--connect-timeout", "5.5"], long, 6),
        (&["-sS", "-m", "0.3"], format!("http://{}/", silent.local_addr().unwrap()), 28),
        (&["-sS"], format!("http://{partial}/"), 18),
        (&["-sS"], format!("http://{empty}/"), 52),
        (&["-sS"], "http://[::1".into(), 3),
        (&["-sS", "-o", "/nonexistent/file"], at("/"), 23),
        (&["-sS"], format!("https://{}/", tls.data), 60),
        (&["-sSk"], format!("https://{}/", tls.data), 0),
        (&["-sSk"], format!("https://{tls_by_version_6}/"), 0),
        (&["-sS", "-o", to], format!("http://{nothing}/"), 0),
        (&["-s", "-s", "-S", "-m", "0", "--connect-timeout", "0"], at("/"), 0),
    ] {
        let words = [words, &[url.as_str()]].concat();
        let mut seen = ["curl".as_ref(), ours.as_path()].map(|program| {
            let _ = std::fs::remove_file(to);
            let output = run(program, &words);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // curl has a progress meter, where it is not told to be silent.
            let complains = said.contains("curl: (");
            (output.status.code(), output.stdout, complains, std::fs::read(to).ok())
        });
        let [real, small] = &mut seen;
        assert_eq!(small.0, Some(expected), "{words:?}");
        assert!(real == small, "{words:?}: {:?} {:?}, {:?} {:?}", real.0, real.2, small.0, small.2);
    }
}

#[test]
fn it_shows_the_fields_of_an_answer_as_the_real_curl_does() {
    let folder = tempfile::tempdir().unwrap();
    let address =
        answering(b"HTTP/1.1 404 Not Found\r\nx-one: 1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
    let ours = ours(&folder);
    for words in ["-sI", "-si", "-sfi", "-sfI"] {
        let of = |program: &Path| {
            let output = run(program, &[words, &format!("http://{address}/")]);
            (output.status.code(), String::from_utf8(output.stdout).unwrap().to_lowercase())
        };
        assert_eq!(of(&ours), of("curl".as_ref()), "{words}");
    }
}

#[test]
fn it_writes_what_has_come_before_the_rest_has() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut child =
        Command::new(ours(&folder)).args(["-m", "10", &url]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stream = listener.accept().unwrap().0;
    let _ = stream.read(&mut [0; 4096]).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc").unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 3];
    out.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"abc");
    stream.write_all(b"def").unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("def", Some(0)));
}

#[test]
fn a_health_check_goes_past_the_egress_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let here = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let mut command = Command::new(ours(&folder));
    command.args(["-sf", &format!("http://{here}/")]).env("http_proxy", "http://127.0.0.1:1");
    assert_eq!(command.status().unwrap().code(), Some(0));
}

#[test]
fn what_it_does_not_know_ends_with_2_and_says_what_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let ours = ours(&folder);
    for words in
        [&["--retry", "3", "http://127.0.0.1/"][..], &[], &["-w", "%{time_total}", "http://127.0.0.1/"]]
    {
        let output = run(&ours, words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("larder's small curl, which knows --silent --show-error --fail"), "{said}");
    }
    assert_eq!(run(&ours, &["ftp://127.0.0.1/"]).status.code(), Some(1));
    let help = run(&ours, &["--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("larder's small curl"));
}
