//! The commands of whoever runs larder: the same answers from a running larder and from a directory that nobody uses.

use crate::support::artifact::{module, raw};
use crate::support::client;
use crate::support::larder::{Home, Larder, PROGRAM, program, settings};
use crate::support::pki::Pki;
use crate::support::port::Port;
use crate::support::registry::Registry;
use crate::support::scripted::{Act, Scripted};
use crate::support::{eventually, fsck};
use larder::oci::Digest;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// What a command came to.
#[derive(Debug)]
struct Told {
    code: i32,
    out: String,
    err: String,
}

impl Told {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap_or_else(|| panic!("{:?}", output.status));
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// With this exit code, or the test fails.
    fn with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

fn run(home: &Home, arguments: &[&str]) -> Told {
    Told::of(home.command(&[]).args(arguments).output().unwrap())
}

/// A registry with plugins of one version each, of so many bytes.
fn registry(plugins: &[(&str, usize)]) -> Scripted {
    let registry = Scripted::start();
    for (name, size) in plugins {
        registry.put(&format!("plugins/{name}"), "1", &raw(&module(name, *size)));
    }
    registry
}

/// A directory in which these plugins are held.
fn stopped(registry: &Scripted, plugins: &[&str]) -> Home {
    let home = Home::in_memory(&settings(&registry.host()));
    let named = plugins.iter().map(|name| format!("{name}@1")).collect::<Vec<_>>();
    let words = ["prefetch"].into_iter().chain(named.iter().map(String::as_str)).collect::<Vec<_>>();
    run(&home, &words).with(0);
    home
}

fn key(registry: &Scripted, name: &str) -> String {
    format!("{}/plugins/{name}:1", registry.host())
}

/// Runs a line of shell with a terminal of so many columns, types `typed`, and gives what the terminal showed.
fn on_a_terminal(command: &Command, columns: u32, typed: &str) -> (i32, String) {
    on_a_terminal_once(command, columns, "", || {}, typed)
}

/// The same; what is typed comes after `awaited` was shown and `meanwhile` was done.
fn on_a_terminal_once(
    command: &Command,
    columns: u32,
    awaited: &str,
    meanwhile: impl FnOnce(),
    typed: &str,
) -> (i32, String) {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''")));
    let line = format!("stty cols {columns} rows 50; exec {}", quoted.collect::<Vec<_>>().join(" "));
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--echo", "never", "--command", &line, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut screen = Vec::new();
    while !String::from_utf8_lossy(&screen).contains(awaited) {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&screen));
        screen.extend(byte);
    }
    meanwhile();
    keyboard.write_all(typed.as_bytes()).unwrap();
    output.read_to_end(&mut screen).unwrap();
    drop(keyboard);
    (child.wait().unwrap().code().unwrap(), String::from_utf8(screen).unwrap())
}

#[test]
fn what_a_stopped_cache_holds_is_listed_and_shown_and_no_registry_is_asked_for_it() {
    let registry = registry(&[("big", 90_000), ("small", 3000), ("other", 5000)]);
    let home = stopped(&registry, &["big", "small", "other"]);
    registry.forget();
    let page = run(&home, &["list", "-o", "json"]).with(0).json();
    assert_eq!(page["total"], 3);
    let names = |told: Told| -> Vec<String> {
        let page = told.with(0).json();
        page["entries"].as_array().unwrap().iter().map(|e| e["plugin"].as_str().unwrap().to_owned()).collect()
    };
    let listed = |more: &[&str]| names(run(&home, &[&["list", "-o", "json"], more].concat()));
    assert_eq!(listed(&[]), ["big", "other", "small"]);
    assert_eq!(listed(&["--sort", "size", "--desc"]), ["big", "other", "small"]);
    assert_eq!(listed(&["--sort", "size", "--limit", "1"]), ["small"]);
    assert_eq!(listed(&["--plugin", "*al*"]), ["small"]);
    assert_eq!(listed(&["--search", "plugins/oth"]), ["other"]);
    assert_eq!(listed(&["--state", "absent"]), [""; 0]);
    let big = key(&registry, "big");
    let entry = run(&home, &["show", &big, "-o", "json"]).with(0).json();
    let digest = Digest::of(&module("big", 90_000)).to_string();
    assert_eq!(
        (&entry["key"], &entry["digest"], &entry["size"]),
        (&json!(big), &json!(digest), &json!(90_000))
    );
    assert_eq!(run(&home, &["show", "big@1", "-o", "json"]).with(0).json()["entries"], json!([entry]));
    let shown = run(&home, &["show", "big"]).with(0).out;
    for fact in ["big 1\n", &big, &digest, "90000 bytes (87.9 KiB)", "state      fresh"] {
        assert!(shown.contains(fact), "{fact}: {shown}");
    }
    let status = run(&home, &["status", "-o", "json"]).with(0).json();
    assert_eq!(status["store"]["disk_entries"], 3);
    let told = run(&home, &["status"]).with(0);
    assert!(told.out.contains("disk      3 plugins, 95.7 KiB of 2.0 GiB; "), "{told:?}");
    for unknown in ["show nope", "show big@2", "show h.example/nope:1", "purge h.example/nope:1 --yes"] {
        let words: Vec<_> = unknown.split(' ').collect();
        let told = run(&home, &words).with(66);
        assert!(told.err.contains("nothing is known of"), "{told:?}");
    }
    assert_eq!(registry.asked().len(), 0, "nobody was asked");
}

#[test]
fn a_table_is_for_people_on_a_terminal_of_any_width_and_for_pipes_without_colours() {
    let registry = registry(&[("a", 3000), ("b-with-a-longer-name", 70_000)]);
    let home = stopped(&registry, &["a", "b-with-a-longer-name"]);
    let told = run(&home, &["list", "--keys"]).with(0);
    let lines: Vec<_> = told.out.lines().collect();
    assert!(
        lines[0].starts_with("PLUGIN                VERSION  STATE      SIZE  WHERE  LAST USED"),
        "{told:?}"
    );
    assert!(lines[1].starts_with("a                     1        fresh   2.9 KiB  disk   "), "{told:?}");
    assert!(lines[2].starts_with("b-with-a-longer-name  1        fresh  68.4 KiB  disk   "), "{told:?}");
    assert!(lines[2].ends_with(&key(&registry, "b-with-a-longer-name")), "{told:?}");
    assert!(!told.out.contains('\u{1b}') && lines.iter().all(|line| !line.ends_with(' ')), "{told:?}");
    let mut list = home.command(&[]);
    list.args(["list", "--keys"]);
    let (code, screen) = on_a_terminal(&list, 60, "");
    assert_eq!(code, 0, "{screen}");
    assert!(screen.lines().all(|line| line.trim_end().chars().count() <= 60), "{screen}");
    assert!(screen.contains("PLUGIN"), "{screen}");
}

#[test]
fn a_reader_that_leaves_is_no_error_of_any_command() {
    let registry = registry(&[("a", 3000)]);
    let home = stopped(&registry, &["a"]);
    for words in [
        "list",
        "show a",
        "status",
        "purge --all --dry-run",
        "prefetch a@1",
        "completions bash",
        "man",
        "help",
    ] {
        let mut command = home.command(&[]);
        command.args(words.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let told = Told::of(child.wait_with_output().unwrap());
        assert!(told.code == 0 && !told.err.contains("panicked"), "{words}: {told:?}");
    }
}

#[test]
fn a_purge_takes_what_is_named_and_nothing_else_and_a_dry_run_nothing_at_all() {
    let registry = registry(&[("a", 3000), ("b", 4000), ("c", 5000)]);
    // A tag of another name for the same module, which stays as long as one of them does.
    registry.put("plugins/twin", "1", &raw(&module("a", 3000)));
    let home = stopped(&registry, &["a", "b", "c", "twin"]);
    let list = || run(&home, &["list", "-o", "json"]).with(0).out;
    let before = (list(), fsck::held(&home.cache()));
    let told = run(&home, &["purge", "--all", "--dry-run"]).with(0);
    assert!(told.out.ends_with("4 entries and 3 modules (11.7 KiB) would leave\n"), "{told:?}");
    let dry = run(&home, &["purge", "--plugin", "a", "--dry-run", "-o", "json"]).with(0).json();
    assert_eq!(dry, json!({"purged": [key(&registry, "a")], "modules": 0, "bytes": 0, "dry_run": true}));
    assert_eq!((list(), fsck::held(&home.cache())), before, "a dry run changes nothing");

    let told = run(&home, &["purge", "--plugin", "a"]).with(64);
    assert!(told.err.contains("--yes"), "nobody can be asked: {told:?}");
    assert_eq!((list(), fsck::held(&home.cache())), before);
    let told = run(&home, &["purge", &key(&registry, "a"), "--yes"]).with(0);
    assert_eq!(told.out, format!("{}\n1 entry and 0 modules (0 B) left\n", key(&registry, "a")));
    run(&home, &["purge", "--plugin", "t*", "--version", "2*", "--yes"]).with(66);
    let twin = Digest::of(&module("a", 3000)).to_string();
    let purged = run(&home, &["purge", "--digest", &twin, "--yes", "-o", "json"]).with(0).json();
    assert_eq!(
        purged,
        json!({"purged": [key(&registry, "twin")], "modules": 1, "bytes": 3000, "dry_run": false})
    );
    let left: Vec<_> = fsck::held(&home.cache()).into_keys().collect();
    assert_eq!(left, [key(&registry, "b"), key(&registry, "c")]);
    run(&home, &["purge", "--all", "--yes"]).with(0);
    assert_eq!(fsck::held(&home.cache()).len(), 0);
    fsck::check(&home.cache(), "after purges");
    run(&home, &["fsck"]).with(0);
    run(&home, &["purge", "--plugin", "*", "--yes"]).with(64);
}

#[test]
fn a_purge_on_a_terminal_shows_what_would_leave_and_waits_for_a_yes() {
    let registry = registry(&[("a", 3000)]);
    let home = stopped(&registry, &["a"]);
    let mut purge = home.command(&[]);
    purge.args(["purge", "--plugin", "a"]);
    for (typed, code, held) in [("n\n", 1, 1), ("\n", 1, 1), ("y\n", 0, 0)] {
        let (ended, screen) = on_a_terminal(&purge, 200, typed);
        assert_eq!((ended, fsck::held(&home.cache()).len()), (code, held), "{typed:?}: {screen}");
        assert!(screen.contains("1 entry and 1 module (2.9 KiB) would leave"), "{screen}");
        assert!(screen.contains("Take them away? [y/N]"), "{screen}");
    }
}

#[test]
fn a_directory_is_free_while_a_purge_waits_for_a_yes_and_what_was_not_shown_stays() {
    let registry = registry(&[("a-one", 3000), ("a-two", 4000), ("a-late", 5000), ("b", 6000)]);
    let home = stopped(&registry, &["a-one", "a-two", "b"]);
    let mut purge = home.command(&[]);
    purge.args(["purge", "--plugin", "a-*"]);
    let meanwhile = || {
        run(&home, &["prefetch", "a-late@1"]).with(0);
        run(&home, &["purge", &key(&registry, "a-two"), "--yes"]).with(0);
    };
    let (ended, screen) = on_a_terminal_once(&purge, 200, "[y/N]", meanwhile, "y\n");
    assert_eq!(ended, 0, "{screen}");
    let (before, after) = screen.split_once("[y/N]").unwrap();
    assert!(before.contains("2 entries and 2 modules (6.8 KiB) would leave"), "{screen}");
    assert!(after.contains("1 entry and 1 module (2.9 KiB) left"), "{screen}");
    let left: Vec<_> = fsck::held(&home.cache()).into_keys().collect();
    assert_eq!(left, [key(&registry, "a-late"), key(&registry, "b")]);
    // Of everything that is more, and is said to be.
    let mut purge = home.command(&[]);
    purge.args(["purge", "--all"]);
    let (ended, screen) = on_a_terminal(&purge, 200, "y\n");
    assert_eq!((ended, fsck::held(&home.cache()).len()), (0, 0), "{screen}");
    assert!(screen.contains("modules that nothing leads to"), "{screen}");
}

#[test]
fn more_than_a_request_takes_is_purged_in_parts() {
    const TAGS: usize = 1001;
    let registry = registry(&[]);
    let module = raw(&module("many", 3000));
    let tags: Vec<_> = (0..TAGS).map(|n| format!("t{n}")).collect();
    tags.iter().for_each(|tag| registry.put("plugins/many", tag, &module));
    let home = Home::in_memory(&settings(&registry.host()));
    for tags in tags.chunks(1000) {
        let plugins: Vec<_> = tags.iter().map(|tag| format!("many@{tag}")).collect();
        let words = ["prefetch"].into_iter().chain(plugins.iter().map(String::as_str)).collect::<Vec<_>>();
        run(&home, &words).with(0);
    }
    let mut purge = home.command(&[]);
    purge.args(["purge", "--plugin", "many"]);
    let (ended, screen) = on_a_terminal(&purge, 200, "y\n");
    assert_eq!(ended, 0, "{screen:.300}");
    assert!(screen.contains("1001 entries and 1 module (2.9 KiB) left"), "{screen:.300}");
    assert_eq!(fsck::held(&home.cache()).len(), 0);
}

#[test]
fn a_prefetch_tells_each_plugin_and_ends_with_the_code_of_the_worst() {
    let registry = registry(&[("a", 3000), ("b", 4000)]);
    registry.put("plugins/html", "1", &raw(b"<html>"));
    registry.script(|ask, truth| match ask.path.as_str() {
        path if path.contains("/denied/") => Act::status(403),
        path if path.contains("/broken/") => Act::status(500),
        _ => truth,
    });
    let home = Home::in_memory(&(settings(&registry.host()) + "fill: {timeout: 6s}\n"));
    let told = run(&home, &["prefetch", "a@1", "b@1"]).with(0);
    assert!(
        told.err.contains("a@1: held, 2.9 KiB\n") && told.err.contains("b@1: held, 3.9 KiB\n"),
        "{told:?}"
    );
    assert_eq!(told.out, "2 plugins are held (6.8 KiB), 0 failed\n");
    for (plugins, code) in [
        ("a@1 nope@1", 66),
        ("html@1 nope@1", 65),
        ("denied@1 html@1 nope@1", 77),
        ("broken@1 denied@1 html@1 nope@1", 69),
    ] {
        let words: Vec<_> = ["prefetch", "-o", "json"].into_iter().chain(plugins.split(' ')).collect();
        let told = run(&home, &words).with(code);
        let job = told.json();
        assert_eq!(job["total"], plugins.split(' ').count(), "{told:?}");
        assert!(job["finished_at"].is_string(), "{told:?}");
    }
    let told = run(&home, &["prefetch", "nope@1"]).with(66);
    assert!(
        told.out.contains("nope@1: not_found: ")
            && told.out.ends_with("0 plugins are held (0 B), 1 failed\n"),
        "{told:?}"
    );
    for bad in ["Bad", "a@", "a@1@2", "a/b", "a@sha256:12"] {
        run(&home, &["prefetch", bad]).with(64);
    }
    run(&home, &["prefetch"]).with(64);
    fsck::check(&home.cache(), "after prefetches");
}

#[test]
fn a_prefetch_of_all_is_of_what_the_catalog_lists_and_of_used_what_was_asked_for_before() {
    let registry = registry(&[("a", 3000), ("b", 4000), ("c", 5000)]);
    let home = stopped(&registry, &["c"]);
    let catalog = home.path().join("p.properties");
    let line = |name: &str| format!("{name}={}\n", key(&registry, name));
    std::fs::write(&catalog, line("a") + &line("b")).unwrap();
    let catalog = catalog.to_str().unwrap();
    let names = |told: Told| -> Vec<String> {
        let job = told.with(0).json();
        job["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["plugin"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(run(&home, &["prefetch", "--used", "-o", "json"])), ["c"]);
    assert_eq!(names(run(&home, &["--catalog", catalog, "prefetch", "--all", "-o", "json"])), ["a", "b"]);
    assert_eq!(fsck::held(&home.cache()).len(), 3);
}

#[test]
fn a_prefetch_draws_bars_on_a_terminal() {
    let registry = registry(&[("slow", 300_000), ("fast", 3000)]);
    let size = module("slow", 300_000).len();
    registry.script(move |ask, truth| match ask.is_blob() && truth.body.len() == size {
        true => Act { pace: Some((30_000, Duration::from_millis(100))), ..truth },
        false => truth,
    });
    let home = Home::in_memory(&settings(&registry.host()));
    let mut prefetch = home.command(&[]);
    prefetch.args(["prefetch", "slow@1", "fast@1"]);
    let (code, screen) = on_a_terminal(&prefetch, 100, "");
    assert_eq!(code, 0, "{screen}");
    for drawn in [
        "fast@1: held, 2.9 KiB",
        "slow@1 [",
        "/292.97 KiB",
        " of 2 [",
        "2 plugins are held (295.9 KiB), 0 failed",
    ] {
        assert!(screen.contains(drawn), "{drawn}: {screen}");
    }
}

#[test]
fn a_prefetch_that_is_interrupted_leaves_a_sound_directory_and_what_was_fetched() {
    let registry = registry(&[("a", 3000), ("stuck", 900_000)]);
    let size = module("stuck", 900_000).len();
    registry.script(move |ask, truth| match ask.is_blob() && truth.body.len() == size {
        true => truth.stall(10_000),
        false => truth,
    });
    let home = Home::in_memory(&settings(&registry.host()));
    let mut command = home.command(&[]);
    let log = home.path().join("err");
    command.args(["prefetch", "a@1", "stuck@1"]).stdout(Stdio::piped());
    command.stderr(std::fs::File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    eventually("a draft of what is stuck", || {
        let told = std::fs::read_to_string(&log).unwrap().contains("a@1: held");
        let drafts = std::fs::read_dir(home.cache().join("v1/tmp")).map_or(0, Iterator::count);
        (told && drafts > 0).then_some(())
    });
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = eventually("its end", || child.try_wait().unwrap());
    let told = std::fs::read_to_string(&log).unwrap();
    assert_eq!(ended.code(), Some(130), "{told}");
    assert!(told.contains("what was fetched by now is kept"), "{told}");
    assert_eq!(fsck::held(&home.cache()).into_keys().collect::<Vec<_>>(), [key(&registry, "a")]);
    assert_eq!(std::fs::read_dir(home.cache().join("v1/tmp")).unwrap().count(), 0, "no draft is left");
    run(&home, &["fsck"]).with(0);
}

#[test]
fn a_directory_that_is_not_there_is_said_and_not_made() {
    let home = Home::in_memory("server: {drain: 0s}\n");
    for words in ["list", "show a", "status", "purge --all --yes"] {
        let told = run(&home, &words.split(' ').collect::<Vec<_>>()).with(66);
        assert!(
            told.err.contains("there is no such cache directory") && told.err.contains("--admin"),
            "{told:?}"
        );
    }
    assert!(!home.cache().exists());
}

#[test]
fn typing_errors_are_64_for_every_command_and_help_lists_them_all() {
    let help = Told::of(program().arg("help").output().unwrap()).with(0).out;
    let commands =
        "serve check config get explain list show status prefetch lock purge fsck completions man version";
    for command in commands.split(' ') {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
        let run = |more: &[&str]| Told::of(program().arg(command).args(more).output().unwrap());
        run(&["--no-such-flag"]).with(64);
        let long = run(&["--help"]).with(0).out;
        assert!(long.contains("Usage: larder"), "{long}");
    }
    let home = Home::in_memory("server: {drain: 0s}\n");
    for words in [
        "list --sort name",
        "list --state held",
        "list --limit 0",
        "list --limit -1",
        "purge",
        "purge a",
        "purge --all --plugin a",
        "purge --version 1",
        "show",
        "show Bad",
        "status x",
        "completions cmd",
    ] {
        run(&home, &words.split(' ').collect::<Vec<_>>()).with(64);
    }
    for (admin, why) in [
        ("ftp://h", "neither an http"),
        ("127.0.0.1:9090", "--admin"),
        ("http://robot:s3cret@h", "credentials"),
        ("http://h/?token=s3cret", "path"),
    ] {
        let told = run(&home, &["list", "--admin", admin]).with(64);
        assert!(told.err.contains(why) && !told.err.contains("s3cret"), "{told:?}");
    }
}

#[test]
fn completions_are_scripts_that_their_shell_accepts() {
    for (shell, mark) in [
        ("bash", "complete -F _larder"),
        ("zsh", "#compdef larder"),
        ("fish", "complete -c larder"),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "set edit:completion"),
    ] {
        let script = Told::of(program().args(["completions", shell]).output().unwrap()).with(0).out;
        for word in [mark, "prefetch", "purge", "dry-run", "admin-token-file"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        if shell == "bash" {
            let mut bash =
                Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            let checked = bash.wait_with_output().unwrap();
            assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
        }
    }
}

#[test]
fn manual_pages_are_there_for_every_command_and_groff_has_no_complaint() {
    let dir = tempfile::tempdir().unwrap();
    Told::of(program().args(["man", "--dir"]).arg(dir.path()).output().unwrap()).with(0);
    let main = Told::of(program().arg("man").output().unwrap()).with(0).out;
    assert!(main.contains("larder\\-prefetch(1)") && main.contains("sysexits"), "{main}");
    std::fs::write(dir.path().join("main.1"), &main).unwrap();
    let pages: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for page in ["larder.1", "larder-list.1", "larder-prefetch.1", "larder-man.1"] {
        assert!(pages.contains(&dir.path().join(page)), "{page}: {pages:?}");
    }
    for page in pages {
        let judged = Command::new("groff").args(["-man", "-ww", "-Tutf8", "-z"]).arg(&page).output();
        let judged = judged.expect("groff-base is installed");
        assert!(judged.status.success() && judged.stderr.is_empty(), "{}: {judged:?}", page.display());
    }
    let nowhere =
        Told::of(program().args(["man", "--dir", "/nonexistent/folder"]).output().unwrap()).with(73);
    assert!(nowhere.err.contains("/nonexistent/folder"), "{nowhere:?}");
}

#[test]
fn a_larder_that_cannot_be_asked_is_69_with_the_address_the_cause_and_what_to_do() {
    let home = Home::in_memory("server: {drain: 0s}\n");
    let kept = Port::kept();
    let free = kept.address;
    let told = run(&home, &["status", "--admin", &format!("http://{free}")]).with(69);
    for part in
        [&*format!("http://{free} cannot be asked"), "refused", "is larder running there? listen.admin"]
    {
        assert!(told.err.contains(part), "{part}: {told:?}");
    }
    // The port for plugins, by an address from the environment.
    let larder = Larder::before("127.0.0.1:1");
    let mut list = larder.home.command(&[]);
    list.arg("list").env("LARDER_ADMIN", format!("http://{}", larder.data));
    let told = Told::of(list.output().unwrap()).with(69);
    assert!(told.err.contains("the one for plugins is another"), "{told:?}");
    // Something that speaks TLS, and is no larder.
    let pki = Pki::make(home.path());
    let registry = Registry::plain();
    let tls = registry.with_tls(home.path(), &pki);
    let at = format!("https://{}", tls.named());
    let told = run(&home, &["list", "--admin", &at]).with(69);
    assert!(told.err.contains("issued by CN=larder test CA") && told.err.contains("--ca"), "{told:?}");
    let ca = pki.ca.to_str().unwrap();
    let told = run(&home, &["--ca", ca, "list", "--admin", &at]).with(69);
    assert!(told.err.contains("404") && told.err.contains("administration port"), "{told:?}");
    let mutual = home.path().join("mutual");
    std::fs::create_dir(&mutual).unwrap();
    let choosy = registry.with_mutual_tls(&mutual, &pki);
    let chosen = format!("https://{}", choosy.named());
    let told = run(&home, &["--ca", ca, "list", "--admin", &chosen]).with(69);
    assert!(told.err.contains("--admin-certificate and --admin-key"), "{told:?}");
    let own = [
        "--admin-certificate",
        pki.client_certificate.to_str().unwrap(),
        "--admin-key",
        pki.client_key.to_str().unwrap(),
    ];
    let told = run(&home, &[&["--ca", ca, "list", "--admin", &chosen], &own[..]].concat()).with(69);
    assert!(told.err.contains("404"), "it is let in: {told:?}");
    run(&home, &["list", "--admin", &chosen, own[0], own[1]]).with(64);
    let told = run(&home, &["list", "--admin", &at.replace("https", "http")]).with(69);
    assert!(told.err.contains("does it speak TLS there?"), "{told:?}");
    let told =
        run(&home, &["list", "--admin", &format!("https://localhost:{}", larder.admin.port())]).with(69);
    assert!(told.err.contains("does it speak plain http there?"), "{told:?}");
}

/// With `--admin`, and so without a directory.
fn ask(larder: &Larder, arguments: &[&str]) -> Told {
    let admin = format!("http://{}", larder.admin);
    Told::of(program().args(arguments).args(["--admin", &admin]).output().unwrap())
}

/// Waits until so many requests that failed are known of: they are noted behind their answers.
fn known_failures(larder: &Larder, requests: usize) {
    eventually("failures being noted", || {
        let known = client::get(larder.admin, "/api/v1/failures").json();
        let of_requests = |failure: &&Value| failure["what"] == "request";
        let number = known["failures"].as_array().unwrap().iter().filter(of_requests).count();
        (number >= requests).then_some(())
    });
}

/// Without what differs from one moment, or process, to the next.
fn lasting(mut value: Value) -> Value {
    for key in ["process", "started_at", "now"] {
        value.as_object_mut().unwrap().remove(key);
    }
    for (part, key) in [("settings", "loaded_at"), ("store", "disk_free_bytes")] {
        value[part].as_object_mut().unwrap().remove(key);
    }
    value
}

#[test]
fn a_running_larder_and_its_directory_that_nobody_uses_give_the_same_answers() {
    let registry = registry(&[("a", 3000), ("b", 70_000)]);
    let mut larder = stopped(&registry, &["a", "b"]).start();
    let asked = [
        "list -o json",
        "list --sort size --desc --limit 1 -o json",
        "show a -o json",
        "show b@1 -o json",
        "purge --all --dry-run -o json",
        "purge --plugin a* --version 1 --dry-run",
        "status --failures -o json",
    ];
    let words = |line: &'static str| line.split(' ').collect::<Vec<_>>();
    let told: Vec<_> = asked.iter().map(|line| ask(&larder, &words(line)).with(0).out).collect();
    let status = lasting(ask(&larder, &words("status -o json")).with(0).json());
    let refused = |told: Told| (told.code, told.err);
    let wrong = ["show h.example/nope:1", "purge --plugin nope --yes", "purge --plugin * --yes"];
    let refusals: Vec<_> = wrong.iter().map(|line| refused(ask(&larder, &words(line)))).collect();
    larder.signal("TERM");
    larder.wait();
    for (line, told) in asked.into_iter().zip(told) {
        assert_eq!(run(&larder.home, &words(line)).with(0).out, told, "{line}");
    }
    assert_eq!(lasting(run(&larder.home, &words("status -o json")).with(0).json()), status);
    for (line, refusal) in wrong.into_iter().zip(refusals) {
        assert_eq!(refused(run(&larder.home, &words(line))), refusal, "{line}");
    }
}

#[test]
fn a_list_has_every_page_of_a_running_larder_and_of_a_stopped_one() {
    const FILES: usize = 1100;
    let home = Home::in_memory("server: {drain: 0s}\ncatalog: {template: null, builtin: false}\n");
    let overlay = home.path().join("overlay");
    for n in 0..FILES {
        let folder = overlay.join(format!("p{n}/1"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("plugin.wasm"), module("p", 64)).unwrap();
    }
    let overlay = overlay.to_str().unwrap().to_owned();
    let larder = home.start_with(&["--overlay", &overlay], &[]);
    let whole = |told: Told, number: usize| {
        let page = told.with(0).json();
        let keys: std::collections::HashSet<_> =
            page["entries"].as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap()).collect();
        assert_eq!((keys.len(), &page["total"]), (number, &json!(FILES)));
    };
    whole(ask(&larder, &["list", "-o", "json"]), FILES);
    whole(ask(&larder, &["list", "--limit", "1050", "-o", "json"]), 1050);
    let home = larder.kill();
    whole(run(&home, &["--overlay", &overlay, "list", "-o", "json"]), FILES);
    whole(run(&home, &["--overlay", &overlay, "list", "--limit", "7", "-o", "json"]), 7);
}

#[test]
fn a_directory_in_use_is_asked_by_the_port_of_its_settings_or_is_75() {
    let registry = registry(&[("a", 3000)]);
    let larder = stopped(&registry, &["a"]).start();
    let admin = larder.admin.to_string();
    let told = run(&larder.home, &["--admin-listen", &admin, "list", "-o", "json"]).with(0);
    assert_eq!(told.json()["total"], 1);
    let said = format!("is used by another larder (process {})", larder.id());
    assert!(
        told.err.contains(&said) && told.err.contains(&format!("asking it at http://{admin}")),
        "{told:?}"
    );
    let every = format!("0.0.0.0:{}", larder.admin.port());
    run(&larder.home, &["--admin-listen", &every, "purge", "--all", "--yes"]).with(0);
    assert_eq!(ask(&larder, &["list", "-o", "json"]).with(0).json()["total"], 0, "it is the same one");
    let free = Port::kept();
    for elsewhere in [free.address.to_string(), larder.data.to_string(), "127.0.0.1:0".into()] {
        let told = run(&larder.home, &["--admin-listen", &elsewhere, "status"]).with(75);
        assert!(told.err.contains(&said) && told.err.contains("--admin URL"), "{told:?}");
    }
}

#[test]
fn a_larder_that_answers_for_another_directory_is_not_asked() {
    let registry = registry(&[("a", 3000)]);
    let ours = stopped(&registry, &["a"]).start();
    let other = stopped(&registry, &["a"]).start();
    let admin = other.admin.to_string();
    for words in ["purge --all --yes", "list", "prefetch a@1", "status"] {
        let words = [&["--admin-listen", &*admin][..], &words.split(' ').collect::<Vec<_>>()].concat();
        let told = run(&ours.home, &words).with(75);
        for part in [
            format!("is used by another larder (process {})", ours.id()),
            format!("another larder (process {}) answers at http://{admin}", other.id()),
            "--admin URL".into(),
        ] {
            assert!(told.err.contains(&part), "{part}: {told:?}");
        }
    }
    for larder in [&ours, &other] {
        assert_eq!(ask(larder, &["list", "-o", "json"]).with(0).json()["total"], 1);
    }
    ask(&other, &["purge", "--all", "--yes"]).with(0);
    assert_eq!(ask(&ours, &["list", "-o", "json"]).with(0).json()["total"], 1);
}

#[test]
fn a_directory_that_may_not_be_looked_into_is_no_stopped_cache() {
    let registry = registry(&[("a", 3000)]);
    let larder = stopped(&registry, &["a"]).start();
    let (home, admin) = (&larder.home, larder.admin.to_string());
    let copy = home.path().join("larder");
    std::fs::copy(PROGRAM, &copy).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(home.path(), 0o755);
    // Root may look everywhere, so somebody else looks.
    let nobody = |words: &str| {
        let own = home.command(&[]);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&copy);
        command.args(own.get_args()).args(["--admin-listen", &admin]).args(words.split(' ')).env_clear();
        Told::of(command.output().unwrap())
    };
    let root = home.cache().join("v1");
    let (lock, format) = (root.join("lock"), root.join("format"));
    let closed = |at: &Path| {
        for words in ["status", "list", "purge --all --yes", "prefetch a@1"] {
            let told = nobody(words).with(77);
            let said = format!("{}: Permission denied", at.display());
            assert!(told.err.contains(&said) && told.err.contains("--admin URL"), "{words}: {told:?}");
        }
    };
    mode(&home.cache(), 0o700);
    closed(&root);
    mode(&home.cache(), 0o755);
    closed(&root);
    mode(&root, 0o755);
    mode(&lock, 0o600);
    closed(&lock);
    mode(&lock, 0o644);
    closed(&format);
    mode(&format, 0o644);
    let told = nobody("status").with(0);
    assert!(told.out.contains(&format!("at http://{admin}: ready")), "{told:?}");
    assert_eq!(ask(&larder, &["list", "-o", "json"]).with(0).json()["total"], 1, "nothing was taken");
}

#[test]
fn a_token_comes_from_its_file_and_is_never_printed() {
    let home = Home::in_memory("server: {drain: 0s}\n");
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let right = file("right", "# of the operators\ns3cret-s3cret-s3cret\nother-other-other-1\n");
    let wrong = file("wrong", "wr0ng-wr0ng-wr0ng-wr0ng\r\n");
    let empty = file("empty", "\n");
    let larder = home.start_with(&[], &[("LARDER_ADMIN_TOKEN_FILE", &right)]);
    ask(&larder, &["list", "--admin-token-file", &right]).with(0);
    let admin = format!("http://{}", larder.admin);
    let by_variables = program()
        .args(["list"])
        .envs([("LARDER_ADMIN", &*admin), ("LARDER_ADMIN_TOKEN_FILE", &*right)])
        .output();
    Told::of(by_variables.unwrap()).with(0);
    for (flags, code, told) in [
        (&[][..], 77, "--admin-token-file FILE"),
        (&["--admin-token-file", &wrong], 77, &*format!("the token in {wrong} is not accepted")),
        (&["--admin-token-file", "/not/there"], 66, "/not/there: "),
        (&["--admin-token-file", &empty], 66, "holds no token"),
    ] {
        let said = ask(&larder, &[&["status"], flags].concat()).with(code);
        assert!(
            said.err.contains(told) && !said.err.contains("s3cret") && !said.err.contains("wr0ng-"),
            "{said:?}"
        );
    }
}

#[test]
fn a_prefetch_of_a_running_larder_goes_on_when_nobody_waits_for_it() {
    let registry = registry(&[("a", 3000), ("b", 4000)]);
    registry.put("plugins/html", "1", &raw(b"<html>"));
    let larder = Larder::before(&registry.host());
    let told = ask(&larder, &["prefetch", "a@1", "html@1"]).with(65);
    assert!(
        told.out.contains("html@1: not_wasm: ")
            && told.out.ends_with("1 plugin is held (2.9 KiB), 1 failed\n"),
        "{told:?}"
    );
    registry.close_gate();
    let admin = format!("http://{}", larder.admin);
    let mut command = program();
    command.args(["prefetch", "b@1", "--admin", &admin]).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    eventually("the fetch", || {
        (registry.count(|ask| ask.is_blob() && ask.path.contains("/b/")) > 0).then_some(())
    });
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = eventually("its end", || child.try_wait().unwrap());
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(ended.code(), Some(130), "{told}");
    assert!(told.contains(&format!("{admin} goes on with it as job 2")), "{told}");
    assert!(told.contains(&format!("larder status --admin {admin} shows how far it is")), "{told}");
    let status = || ask(&larder, &["status"]).out;
    let far = status();
    assert!(far.contains("prefetch  job 2: 0 of 1 held, 0 failed, begun "), "{far}");
    assert!(!far.contains("job 1"), "what is over is not listed: {far}");
    registry.open_gate();
    eventually("b", || {
        let entry = ask(&larder, &["show", &key(&registry, "b"), "-o", "json"]);
        (entry.code == 0 && entry.json()["state"] == "fresh").then_some(())
    });
    eventually("the end of the job", || (!status().contains("job 2")).then_some(()));
}

#[test]
fn what_could_not_be_fetched_at_the_start_is_told_by_name_with_why_and_what_to_do() {
    let registry = registry(&[("a", 3000)]);
    registry.put("plugins/html", "1", &raw(b"<html>"));
    let warm_up = "warm_up: {plugins: ['a@1', 'html@1', 'nope@1'], ready_when: warmed}\n";
    let larder = Home::in_memory(&(settings(&registry.host()) + warm_up)).start();
    eventually("the start's end", || (client::get(larder.admin, "/readyz").status == 200).then_some(()));
    let told = ask(&larder, &["status"]).with(1).out;
    assert!(told.contains("warm-up   1 of 3 held, 2 failed\n"), "{told}");
    let failed = told.split("NOT FETCHED AT THE START\n").nth(1).unwrap();
    let failed = failed.split("\n\n").next().unwrap();
    for part in ["html@1\n  failed     not_wasm, ", "nope@1\n  failed     not_found, ", "  next step  "] {
        assert!(failed.contains(part), "{part}: {told}");
    }
    assert!(!failed.contains("a@1\n"), "{told}");
}

#[test]
fn a_prefetch_says_which_other_version_is_held_in_place_of_the_one_that_is_not_there() {
    let registry = registry(&[("a", 3000)]);
    let home = Home::in_memory(&settings(&registry.host()));
    let catalog = home.path().join("p.properties");
    std::fs::write(&catalog, format!("a={}\n", key(&registry, "a"))).unwrap();
    let catalog = catalog.to_str().unwrap();
    let told = run(&home, &["--catalog", catalog, "prefetch", "a@9.9.9"]).with(0);
    assert!(told.err.contains("a@9.9.9: held as 1 (fallback), 2.9 KiB\n"), "{told:?}");
    let told = run(&home, &["--catalog", catalog, "prefetch", "a"]).with(0);
    assert!(told.err.contains("a@1: held, 2.9 KiB\n"), "{told:?}");
}

#[test]
fn a_name_that_only_failed_is_shown_with_why_and_what_to_do() {
    let registry = registry(&[]);
    let larder = Larder::before(&registry.host());
    for path in ["/plugins/nope/1/plugin.wasm", "/plugins/other/1/plugin.wasm"] {
        assert_eq!(larder.get(path).status, 404);
    }
    known_failures(&larder, 2);
    for name in ["nope", "nope@1"] {
        let told = ask(&larder, &["show", name]).with(66);
        for part in ["/plugins/nope/1/plugin.wasm\n", "404 not_found, 1 time", "next step"] {
            assert!(told.out.contains(part), "{part}: {told:?}");
        }
        assert!(!told.out.contains("other") && told.err.contains("nothing came of it"), "{told:?}");
    }
    let listed = ask(&larder, &["show", "nope", "-o", "json"]).with(66).json();
    assert_eq!(listed["failures"][0]["code"], "not_found");
    for unknown in ["nope@2", "never"] {
        let told = ask(&larder, &["show", unknown]).with(66);
        assert!(told.out.is_empty() && told.err.contains("nothing is known of"), "{told:?}");
    }
}

#[test]
fn an_empty_list_says_whether_nothing_is_held_or_nothing_is_like_that() {
    let larder = Larder::before("127.0.0.1:1");
    assert_eq!(ask(&larder, &["list"]).with(0).err, "larder: nothing is held yet\n");
    for filter in [["--plugin", "a"], ["--search", "a"], ["--state", "fresh"]] {
        let told = ask(&larder, &[&["list"], &filter[..]].concat()).with(0);
        assert_eq!(told.err, "larder: there is no such entry\n");
    }
}

#[test]
fn a_registry_that_did_not_answer_the_last_question_is_not_well() {
    let larder = Larder::before("127.0.0.1:1");
    let asked = |n| larder.get(&format!("/plugins/p{n}/1/plugin.wasm")).status;
    assert_eq!(asked(0), 502);
    let told = ask(&larder, &["status"]).with(1).out;
    assert!(told.contains("warning: the last question to 127.0.0.1:1 failed: "), "{told}");
    assert!(told.contains("127.0.0.1:1  last question failed  "), "{told}");
    (1..4).for_each(|n| assert_eq!(asked(n), 502));
    // In the words of how it stands, whichever that is just now.
    let mut seen = [false; 2];
    eventually("both states after that", || {
        let status = ask(&larder, &["status", "-o", "json"]).with(1).json();
        let (state, warning) = (&status["registries"][0]["state"], status["warnings"][0].as_str().unwrap());
        let now = match state.as_str().unwrap() {
            "open" => {
                assert!(warning.starts_with("127.0.0.1:1 is left alone for a while"), "{warning}");
                0
            }
            _ => {
                assert!(
                    warning.contains("asked by one at a time") && !warning.contains("left alone"),
                    "{warning}"
                );
                1
            }
        };
        assert!(warning.starts_with("127.0.0.1:1 "), "{warning}");
        let (sentence, _) = warning.split_once("GET ").unwrap_or((warning, ""));
        assert_eq!(sentence.matches("127.0.0.1:1").count(), 1, "{warning}");
        seen[now] = true;
        (seen == [true; 2]).then_some(())
    });
}

#[test]
fn a_status_tells_what_failed_why_and_what_to_do_and_warnings_are_1() {
    let registry = registry(&[("a", 3000)]);
    let larder = Larder::before(&registry.host());
    assert!(ask(&larder, &["status"]).with(0).out.contains(": ready, for "));
    assert_eq!(larder.get("/plugins/nope/1/plugin.wasm").status, 404);
    known_failures(&larder, 1);
    let told = ask(&larder, &["status"]).with(0);
    for part in ["FAILED LATELY\n", "/plugins/nope/1/plugin.wasm", "404 not_found, 1 time", "next step"] {
        assert!(told.out.contains(part), "{part}: {told:?}");
    }
    assert_eq!(
        ask(&larder, &["status", "--failures", "-o", "json"]).with(0).json()["failures"][0]["code"],
        "not_found"
    );
    registry.down();
    for n in 0..6 {
        larder.get(&format!("/plugins/gone{n}/1/plugin.wasm"));
    }
    let told = ask(&larder, &["status"]).with(1);
    assert!(told.out.contains(&format!("warning: {}", registry.host())), "{told:?}");
    let ways = ["left alone for a while", "asked by one at a time"];
    assert!(ways.iter().any(|way| told.out.contains(way)), "{told:?}");
    assert!(told.out.contains("more: larder status --failures"), "{told:?}");
}

#[test]
fn an_explanation_of_a_running_larder_is_made_there_and_ends_with_the_same_code() {
    let registry = registry(&[("a", 3000)]);
    registry.put("plugins/html", "1", &raw(b"<html>"));
    let larder = Larder::before(&registry.host());
    larder.get("/plugins/a/1/plugin.wasm");
    let told = ask(&larder, &["explain", "a", "1"]).with(0);
    assert!(told.out.contains("is held: ") && told.out.contains("\nok: 3000 bytes"), "{told:?}");
    assert_eq!(ask(&larder, &["explain", "a", "1", "-o", "json"]).with(0).json()["result"]["code"], "ok");
    for (name, code) in [("nope", 66), ("html", 65)] {
        let there = ask(&larder, &["explain", name, "1"]).with(code);
        let here = run(&larder.home, &["explain", name, "1"]).with(code);
        let end =
            |told: &Told| told.out.lines().skip_while(|line| line.starts_with(' ')).last().map(str::to_owned);
        assert_eq!(end(&there), end(&here));
    }
}

#[test]
fn no_proxy_is_on_the_way_to_this_machine_itself() {
    let larder = Larder::before("127.0.0.1:1");
    for host in ["127.0.0.1", "localhost"] {
        let admin = format!("http://{host}:{}", larder.admin.port());
        let mut list = program();
        list.args(["list", "--admin", &admin, "-o", "json"]);
        list.envs([("http_proxy", "http://127.0.0.1:9"), ("ALL_PROXY", "http://127.0.0.1:9")]);
        Told::of(list.output().unwrap()).with(0);
    }
}
