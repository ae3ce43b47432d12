//! The command line: what it prints, and what its exit code says.

use crate::support::artifact::{module, raw};
use crate::support::larder::{Home, Larder, program, settings};
use crate::support::scripted::{Act, Scripted};
use std::process::Output;

fn run(arguments: &[&str]) -> (i32, String, String) {
    told(program().args(arguments).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn config_prints_the_default_file_which_is_conf_larder_yaml() {
    let (code, out, _) = run(&["config"]);
    assert_eq!((code, out.as_str()), (0, include_str!("../../conf/larder.yaml")));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.yaml");
    std::fs::write(&file, out).unwrap();
    assert_eq!(run(&["check", "--config", file.to_str().unwrap()]).0, 0, "and is a valid file");
}

#[test]
fn version_and_help_are_printed_and_typing_errors_are_64() {
    assert_eq!(run(&["version"]).1, concat!("larder ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(run(&["--version"]).0, 0);
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for flag in [
        "--config",
        "--listen",
        "--admin-listen",
        "--cache-dir",
        "--catalog",
        "--ca",
        "--plain-http",
        "--overlay",
        "--log-format",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
    assert_eq!(run(&["--lissen", "x"]).0, 64);
    assert_eq!(run(&["get"]).0, 64);
    assert_eq!(run(&["get", "Bad", "1"]).0, 64);
}

#[test]
fn check_reports_all_faults_with_their_places_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.yaml");
    let catalog = dir.path().join("p.properties");
    let empty = dir.path().join("empty.pem");
    std::fs::write(&catalog, "good=h.example/p/good:1\nbad line\n").unwrap();
    std::fs::write(&empty, "").unwrap();
    let text = format!(
        "catalog:\n  files: ['{}', /nonexistent.properties]\n  template: h.example/x\nroutes:\n  patterns: [/x]\n\
         registry:\n  ca: ['{}']\n  hosts:\n    harbor.corp: {{username: u}}\n",
        catalog.display(),
        empty.display()
    );
    std::fs::write(&file, text).unwrap();
    let (code, _, faults) = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 78, "{faults}");
    for expected in [
        "larder.yaml:2:3: catalog.files: /nonexistent.properties: ",
        "p.properties:2: no '='",
        "larder.yaml:3:3: catalog.template: ",
        "larder.yaml:5:3: routes.patterns: pattern '/x' needs {name}",
        "empty.pem: holds no certificate",
        "registry.hosts.harbor.corp: username and password_file belong together",
    ] {
        assert!(faults.contains(expected), "{expected}\n{faults}");
    }
    std::fs::write(&file, "fil: {}\nfill: {hold: soon}\ncatalog: {files: [/nonexistent.properties]}\n")
        .unwrap();
    let (code, _, faults) = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 78);
    assert!(faults.contains(":1:1: unknown key 'fil'; did you mean 'fill'?"), "{faults}");
    assert!(faults.contains(":2:8: fill.hold: "), "{faults}");
    assert!(faults.contains("/nonexistent.properties"), "what the good part names is read too: {faults}");
    assert_eq!(run(&["--config", file.to_str().unwrap()]).0, 78, "serve says the same");
    assert_eq!(run(&["check", "--config", "/nonexistent.yaml"]).0, 78);
    let (code, out, _) = run(&["check"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("53 listed") && out.contains("higress-registry.cn-hangzhou.cr.aliyuncs.com"),
        "{out}"
    );
}

#[test]
fn a_password_in_a_url_is_refused_and_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = dir.path().join("p.properties");
    std::fs::write(&catalog, "a=robot:s3cret@harbor.corp/p/a:1\n").unwrap();
    let (code, _, faults) = run(&["check", "--catalog", catalog.to_str().unwrap()]);
    assert_eq!(code, 78);
    assert!(!faults.contains("s3cret"), "{faults}");
}

#[test]
fn get_writes_the_module_and_its_exit_code_tells_why_not() {
    let registry = Scripted::start();
    let bytes = module("x", 50_000);
    registry.put("plugins/x", "1", &raw(&bytes));
    registry.put("plugins/html", "1", &raw(b"<html>"));
    registry.script(|ask, truth| match ask.path.as_str() {
        path if path.contains("/denied/") => Act::status(403),
        path if path.contains("/broken/") => Act::status(500),
        _ => truth,
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.yaml");
    std::fs::write(&file, settings(&registry.host())).unwrap();
    let get = |name: &str, more: &[&str]| {
        let cache = dir.path().join("cache");
        let mut command = program();
        command.args([
            "--config",
            file.to_str().unwrap(),
            "--cache-dir",
            cache.to_str().unwrap(),
            "get",
            name,
            "1",
        ]);
        command.args(more).current_dir(dir.path());
        command.output().unwrap()
    };
    let out = get("x", &[]);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(std::fs::read(dir.path().join("x.wasm")).unwrap(), bytes);
    assert_eq!(get("x", &["-o", "-"]).stdout, bytes, "from the cache, to standard output");
    assert_eq!(registry.count(|ask| ask.is_blob()), 1);
    let moved = module("moved", 50_000);
    registry.put("plugins/x", "1", &raw(&moved));
    std::fs::write(&file, settings(&registry.host()) + "lifetimes: {tag: 0s}\n").unwrap();
    assert_eq!(get("x", &["-o", "-"]).stdout, moved, "a tag that moved is followed");
    for (name, code) in [("nope", 66), ("denied", 77), ("html", 65), ("broken", 69)] {
        let out = get(name, &[]);
        assert_eq!(out.status.code(), Some(code), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(!dir.path().join(format!("{name}.wasm")).exists());
    }
}

#[test]
fn get_works_beside_a_running_larder_and_a_second_server_on_its_directory_does_not() {
    let registry = Scripted::start();
    let bytes = module("x", 5000);
    registry.put("plugins/x", "1", &raw(&bytes));
    let larder = Larder::before(&registry.host());
    let settings = larder.home.path().join("larder.yaml");
    let shared =
        ["--config", settings.to_str().unwrap(), "--cache-dir", larder.home.cache().to_str().unwrap()]
            .map(String::from);
    let got = program().args(&shared).args(["get", "x", "1", "-o", "-"]).output().unwrap();
    assert_eq!(got.stdout, bytes, "{}", String::from_utf8_lossy(&got.stderr));
    let second = program()
        .args(&shared)
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    let (code, _, why) = told(second);
    assert_eq!(code, 75, "{why}");
    assert!(why.contains(&format!("process {}", larder.id())), "{why}");
}

#[test]
fn a_port_that_is_taken_is_71_and_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().to_str().unwrap();
    let (code, _, why) = run(&["--listen", &address, "--admin-listen", "127.0.0.1:0", "--cache-dir", cache]);
    assert_eq!(code, 71);
    assert!(why.contains(&address), "{why}");
}

#[test]
fn a_start_says_where_it_listens_what_it_serves_and_what_it_would_ask() {
    let larder = Home::new("server: {drain: 0s}\n").start();
    let log = crate::support::eventually("the last line of the start", || {
        let log = larder.log();
        log.iter().any(|line| line["message"] == "keeping").then_some(log)
    });
    let find =
        |key: &str| log.iter().find_map(|line| line.get(key)).unwrap_or_else(|| panic!("{key} in {log:#?}"));
    assert_eq!(find("data"), &larder.data.to_string());
    assert_eq!(find("names"), 53);
    assert_eq!(find("registries"), "higress-registry.cn-hangzhou.cr.aliyuncs.com");
    assert!(find("cache").as_str().unwrap().ends_with("cache"));
}

#[test]
fn get_writes_into_a_pipe_or_device_and_does_not_replace_it() {
    use std::os::unix::fs::FileTypeExt;
    let registry = Scripted::start();
    let bytes = module("piped", 5000);
    registry.put("plugins/piped", "1", &raw(&bytes));
    let dir = tempfile::tempdir().unwrap();
    let (file, pipe) = (dir.path().join("larder.yaml"), dir.path().join("pipe"));
    std::fs::write(&file, settings(&registry.host())).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reading = pipe.clone();
    let reader = std::thread::spawn(move || std::fs::read(reading).unwrap());
    let status = program()
        .args(["get", "piped", "1", "--config"])
        .arg(&file)
        .arg("--cache-dir")
        .arg(dir.path().join("cache"))
        .arg("-o")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(reader.join().unwrap(), bytes);
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
}
