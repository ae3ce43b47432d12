//! What tools that judge HTTP say of larder: REDbot of its answers, h2spec of its HTTP/2.

use crate::support::artifact::{module, raw};
use crate::support::larder::{Home, Larder, settings};
use crate::support::pki::Pki;
use crate::support::scripted::{Act, Scripted};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// Runs REDbot as its own command does, and with the request's method and `Accept` too.
const REDBOT: &str = r#"
import sys, thor
from configparser import ConfigParser
from redbot.formatter import find_formatter
from redbot.resource import HttpResource

method, url, accept = sys.argv[1:]
settings = ConfigParser()
settings.read_dict({"redbot": {"enable_local_access": "True"}})
settings = settings["redbot"]
resource = HttpResource(settings)
resource.set_request(url, method, [("Accept", accept)] if accept else [])
formatter = find_formatter("har", "text")(settings, resource, sys.stdout.write, {})
formatter.bind_resource(resource)

@thor.events.on(formatter)
def formatter_done():
    thor.stop()

resource.check()
thor.run()
"#;

/// A finding of REDbot that is no fault of larder.
struct Excuse {
    finding: &'static str,
    /// Of this answer alone; empty is any.
    of: &'static str,
    #[expect(dead_code, reason = "for who reads")]
    because: &'static str,
}

const EXCUSES: [Excuse; 1] = [Excuse {
    finding: "STATUS_BAD_REQUEST",
    of: "400",
    because: "it tells what a 400 is, and a 400 is meant",
}];

/// What REDbot finds wrong or doubtful: the name and the summary of each finding. `status` is what it must have seen.
fn findings(
    of: &str,
    larder: SocketAddr,
    method: &str,
    path: &str,
    accept: &str,
    status: u16,
) -> Vec<String> {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python");
    assert!(libraries.join("redbot").is_dir(), "REDbot is missing; make test installs it");
    let output = Command::new("python3")
        .args(["-c", REDBOT, method, &format!("http://{larder}{path}"), accept])
        .env("PYTHONPATH", &libraries)
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{of}: {e}: {}", String::from_utf8_lossy(&output.stderr)));
    let entry = &report["log"]["entries"][0];
    assert_eq!(entry["response"]["status"], status, "{of}: {report:#}");
    let mut open: Vec<&serde_json::Value> = entry["_red_messages"].as_array().unwrap().iter().collect();
    assert!(!open.is_empty(), "{of}: REDbot has an opinion of everything");
    let mut found = Vec::new();
    while let Some(note) = open.pop() {
        open.extend(note["subnotes"].as_array().into_iter().flatten());
        let name = note["note_id"].as_str().unwrap();
        let is_excused = EXCUSES.iter().any(|e| e.finding == name && (e.of.is_empty() || e.of == of));
        if matches!(note["level"].as_str().unwrap(), "BAD" | "WARN") && !is_excused {
            found.push(format!("{of}: {name}: {}", note["summary"].as_str().unwrap()));
        }
    }
    found
}

#[test]
fn redbot_finds_no_fault_in_any_kind_of_answer() {
    let registry = Scripted::start();
    registry.put("plugins/ai-proxy", "2.0.1", &raw(&module("ai-proxy", 500_000)));
    registry.put("plugins/html", "1", &raw(b"<html>"));
    registry.script(|ask, truth| match ask.path.as_str() {
        path if path.contains("/denied/") => Act::status(403),
        path if path.contains("/broken/") => Act::status(500),
        path if path.contains("/limited/") => Act::status(429).header("Retry-After", "30"),
        _ => truth,
    });
    let home = Home::new(&settings(&registry.host()));
    let catalog = home.path().join("p.properties");
    // Several lines, for listings that are longer than the part that REDbot asks for.
    let lines = ["ai-proxy", "ai-proxy@1.1.0", "ai-proxy@1.2.0", "ai-cache", "ai-agent", "waf"];
    let lines = lines.map(|name| format!("{name}={}/plugins/ai-proxy:2.0.1\n", registry.host()));
    std::fs::write(&catalog, lines.concat()).unwrap();
    let larder = home.start_with(&["--catalog", catalog.to_str().unwrap()], &[]);
    assert_eq!(larder.get("/plugins/ai-proxy/2.0.1/plugin.wasm").status, 200);
    let mut found = Vec::new();
    for (of, method, path, accept, status) in [
        ("plugin", "GET", "/plugins/ai-proxy/2.0.1/plugin.wasm", "", 200),
        ("fallback", "GET", "/plugins/ai-proxy/1.0.0/plugin.wasm", "", 200),
        ("metadata.txt", "GET", "/plugins/ai-proxy/2.0.1/metadata.txt", "", 200),
        ("metadata.json", "GET", "/plugins/ai-proxy/2.0.1/metadata.json", "", 200),
        ("names", "GET", "/plugins/", "", 200),
        ("names as JSON", "GET", "/plugins/", "application/json", 200),
        ("versions", "GET", "/plugins/ai-proxy/", "", 200),
        ("versions as JSON", "GET", "/plugins/ai-proxy/", "application/json", 200),
        ("files", "GET", "/plugins/ai-proxy/2.0.1/", "", 200),
        ("files as JSON", "GET", "/plugins/ai-proxy/2.0.1/", "application/json", 200),
        ("inventory", "GET", "/plugins/snapshot-inventory.json", "", 200),
        ("root", "GET", "/", "", 200),
        ("health", "GET", "/healthz", "", 200),
        ("redirect", "GET", "/plugins", "", 301),
        ("400", "GET", "/plugins/Bad/1/plugin.wasm", "", 400),
        ("403", "GET", "/plugins/denied/1/plugin.wasm", "", 403),
        ("404", "GET", "/plugins/none/1/plugin.wasm", "", 404),
        ("404 as text", "GET", "/plugins/none/1/plugin.wasm", "text/plain", 404),
        ("405", "POST", "/plugins/ai-proxy/2.0.1/plugin.wasm", "", 405),
        ("422", "GET", "/plugins/html/1/plugin.wasm", "", 422),
        ("502", "GET", "/plugins/broken/1/plugin.wasm", "", 502),
        ("503", "GET", "/plugins/limited/1/plugin.wasm", "", 503),
    ] {
        found.extend(findings(of, larder.data, method, path, accept, status));
    }
    for path in ["/", "/metrics", "/livez", "/readyz", "/explain?name=ai-proxy"] {
        found.extend(findings(path, larder.admin, "GET", path, "", 200));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What h2spec asks for: a module that no window of HTTP/2 holds at once, so that a stream is still open when the frame
/// comes that is wrong on it.
const PATH: &str = "/plugins/ai-proxy/2.0.1/plugin.wasm";

/// Cases of h2spec that are no fault of larder.
const EXCUSED_CASES: [(&str, &str); 3] = [
    (
        "Sends invalid connection preface",
        "it wants silence; the port speaks HTTP/1.1 too, to which these bytes are a request: 400, and closed",
    ),
    (
        "closed: Sends a HEADERS frame after sending RST_STREAM frame",
        "the answer to what it takes back may have left by then, and it takes that for the answer to the second frame",
    ),
    (
        "Sends a HEADERS frame that contains a pseudo-header field as trailers",
        "the same: a GET is answered without waiting for trailers that it should not have",
    ),
];

#[test]
fn h2spec_finds_no_case_that_fails() {
    let registry = Scripted::start();
    registry.put("plugins/ai-proxy", "2.0.1", &raw(&module("ai-proxy", 500_000)));
    let larder = Home::new(&settings(&registry.host())).start_with(&[], &[("LARDER_SERVER_H2C", "true")]);
    h2spec_is_content(&larder, &[]);
}

#[test]
fn h2spec_finds_no_case_that_fails_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let registry = Scripted::start();
    registry.put("plugins/ai-proxy", "2.0.1", &raw(&module("ai-proxy", 500_000)));
    let (certificate, key) = (pki.certificate.display(), pki.key.display());
    let tls = format!("tls: {{data: {{certificate: '{certificate}', key: '{key}'}}}}\n");
    let larder = Home::new(&(settings(&registry.host()) + &tls)).start();
    h2spec_is_content(&larder, &["--tls", "--insecure"]);
}

/// Runs h2spec until each case has passed once: what depends on which frame was faster (an answer that had left before the
/// wrong frame came) is not the same each time, and what is wrong is.
fn h2spec_is_content(larder: &Larder, arguments: &[&str]) {
    const RUNS: usize = 10;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/h2spec");
    let mut failed = failures_of(&program, larder.data, arguments);
    for _ in 1..RUNS {
        if failed.is_empty() {
            return;
        }
        let again = failures_of(&program, larder.data, arguments);
        failed.retain(|case, _| again.contains_key(case));
    }
    assert!(failed.is_empty(), "failed {RUNS} times of {RUNS}: {failed:#?}");
}

/// The cases that h2spec finds to fail, with what came back, without those that are excused.
fn failures_of(program: &Path, address: SocketAddr, arguments: &[&str]) -> BTreeMap<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()])
        .args(["--path", PATH])
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}; make test installs it", program.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The last line: 145 tests, 144 passed, 0 skipped, 1 failed
    let last =
        text.lines().rfind(|line| line.contains(" tests, ")).unwrap_or_else(|| panic!("no verdict: {text}"));
    let number = |word: &str| {
        let before = last.split(word).next().and_then(|before| before.trim().rsplit(' ').next());
        before.and_then(|number| number.parse::<usize>().ok()).unwrap_or_else(|| panic!("{word}: {last}"))
    };
    assert!(number("tests") >= 140 && number("skipped") == 0, "{last}");
    let mut failures = BTreeMap::<String, String>::new();
    let (mut section, mut case) = ("", String::new());
    for line in text.split_once("Failures:").map_or("", |(_, failures)| failures).lines() {
        // A section: "8.1. HTTP Request/Response Exchange"; a case: "× 1: Sends a second HEADERS frame"; then what came.
        let line = line.trim();
        if let Some(title) = line.strip_prefix("× ") {
            case = format!("{section}: {title}");
            failures.insert(case.clone(), String::new());
        } else if line.starts_with(|c: char| c.is_ascii_digit()) {
            section = line;
        } else if let Some(came) = failures.get_mut(&case) {
            came.push_str(line);
        }
    }
    assert_eq!(failures.len(), number("failed"), "each is told of: {text}");
    failures.retain(|case, _| !EXCUSED_CASES.iter().any(|(excused, _)| case.contains(excused)));
    failures
}
