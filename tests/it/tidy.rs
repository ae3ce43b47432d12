//! The house's rules, read from its sources.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders and files of `src`, and the floor that each is on. A room may import those that stand before it here: all of
/// the floors below, and on its own floor those that it builds on.
const FLOORS: [(&str, u8); 23] = [
    ("oci", 0),
    ("plugin", 0),
    ("clock", 0),
    ("proof", 0),
    ("lock", 0),
    ("catalog", 1),
    ("signature", 1),
    ("record", 1),
    ("freshness", 1),
    ("http", 1),
    ("artifact", 1),
    ("failures", 1),
    ("metrics", 1),
    ("policy", 1),
    ("origin", 2),
    ("registry", 2),
    ("store", 2),
    ("bundle", 2),
    ("cache", 3),
    ("admin", 3),
    ("server", 4),
    ("config", 5),
    ("cli", 6),
];

/// Lines of code a file may have, its tests not counted.
const MOST_LINES: usize = 400;

struct Source {
    /// Below `src`.
    path: PathBuf,
    /// The folder or file directly below `src`.
    room: String,
    /// Without tests and comments.
    code: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = crate::support::heart::files(&root);
    let sources: Vec<Source> = files
        .into_iter()
        .filter(|path| {
            path.extension().is_some_and(|end| end == "rs" || end == "js") && !path.ends_with("tests.rs")
        })
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(&root).unwrap().to_owned();
            let room = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            Source { path, room, code, text }
        })
        .collect();
    assert!(sources.len() > 40, "the sources are found");
    sources
}

fn place(room: &str) -> Option<usize> {
    FLOORS.iter().position(|(name, _)| *name == room)
}

fn floor(room: &str) -> Option<u8> {
    place(room).map(|place| FLOORS[place].1)
}

#[test]
fn imports_go_down_only() {
    for source in sources() {
        if matches!(source.room.as_str(), "lib" | "main") {
            continue;
        }
        let own = place(&source.room).unwrap_or_else(|| panic!("{} has no floor", source.room));
        for named in source.code.split("crate::").skip(1) {
            let rooms: Vec<&str> = match named.strip_prefix('{') {
                Some(list) => list
                    .split('}')
                    .next()
                    .unwrap()
                    .split(',')
                    .map(|part| part.trim().split("::").next().unwrap())
                    .collect(),
                None => vec![named.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()],
            };
            for room in rooms.into_iter().filter(|room| *room != source.room && !room.is_empty()) {
                let other = place(room)
                    .unwrap_or_else(|| panic!("{}: crate::{room} is on no floor", source.path.display()));
                assert!(other < own, "{} imports {room}, which stands above it", source.path.display());
            }
        }
    }
}

#[test]
fn each_outside_thing_has_one_room() {
    for (word, rooms) in [
        ("pingora", &["server", "cli"][..]),
        // The commands speak to larder itself, at an address that somebody named; curl to whatever its caller names.
        ("reqwest", &["registry", "cli/remote.rs", "cli/curl.rs"]),
        ("fs::write", &["store", "cli"]),
        ("File::create", &["store"]),
        // server/admin/audit, whose lines are nothing that is kept, and cli/get, into a pipe that is there.
        ("OpenOptions", &["store", "server", "cli"]),
        // bundle/parts has what an export gathers beside its output, where nothing of the cache is.
        ("NamedTempFile", &["store", "cli", "bundle/parts.rs"]),
        ("fs::rename", &["store"]),
        ("remove_file", &["store", "bundle/parts.rs"]),
        ("SystemTime::now", &["clock", "registry", "store"]),
        ("TcpStream::connect", &["registry"]),
        ("clap", &["cli", "plugin"]),
        ("IntCounter", &["metrics"]),
    ] {
        for source in sources() {
            let found = source.code.contains(word);
            if word == "OpenOptions" && source.room == "server" {
                assert!(!found || source.path.ends_with("admin/audit.rs"), "{}", source.path.display());
            }
            assert!(
                !found || rooms.iter().any(|room| *room == source.room || source.path == Path::new(room)),
                "{} names {word}",
                source.path.display()
            );
        }
    }
}

#[test]
fn rules_read_no_clock_and_open_nothing() {
    for source in sources().iter().filter(|source| floor(&source.room).is_some_and(|floor| floor <= 1)) {
        for word in ["SystemTime::now", "Instant::now", "std::fs", "TcpStream", "UdpSocket", "tokio::"] {
            let clock = source.room == "clock" && word.ends_with("::now");
            assert!(clock || !source.code.contains(word), "{} names {word}", source.path.display());
        }
    }
}

#[test]
fn no_file_is_two_things() {
    for source in sources() {
        let lines = source.code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines of code", source.path.display());
    }
}

#[test]
fn every_file_says_what_it_is_in_its_first_line() {
    for source in sources() {
        let mark = if source.path.extension().is_some_and(|end| end == "js") { "// " } else { "//! " };
        assert!(source.text.starts_with(mark), "{}", source.path.display());
    }
}

#[test]
fn nothing_is_left_undone_and_no_word_is_spoiled() {
    // Put together here, so that this file does not name them itself.
    let undone = ["TO", "DO"].concat();
    let unfixed = ["FIX", "ME"].concat();
    for source in sources() {
        // Docker's own word for what it calls credential helpers.
        let source = Source { text: source.text.replace("credHelpers", ""), ..source };
        for word in [undone.as_str(), unfixed.as_str(), "Manager", "Helper", "utils"] {
            assert!(!source.text.contains(word), "{} says {word}", source.path.display());
        }
        assert!(
            !source.path.iter().any(|part| ["utils", "helpers", "common"].contains(&part.to_str().unwrap()))
        );
    }
}

#[test]
fn one_table_turns_errors_into_statuses_and_leaves_none_out() {
    let refuse = sources().into_iter().find(|source| source.path.ends_with("server/refuse.rs")).unwrap();
    let table = refuse.code.split("pub fn status(").nth(1).unwrap().split("\nfn ").next().unwrap();
    assert!(!table.contains("_ =>"), "the table has a catch-all");
    for source in sources().iter().filter(|source| source.room != "server" && source.room != "registry") {
        assert!(!source.code.contains("StatusCode"), "{} knows HTTP statuses", source.path.display());
    }
}

#[test]
fn every_script_is_one_that_its_interpreter_can_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts = ["benches", "deploy", "tests"].into_iter().flat_map(|folder| {
        let mut files = crate::support::heart::files(&root.join(folder));
        files.retain(|path| !path.iter().any(|part| part == "target"));
        files
    });
    let mut read = 0;
    for path in scripts {
        let parses = match path.extension().and_then(|end| end.to_str()) {
            Some("sh") => {
                let text = std::fs::read_to_string(&path).unwrap();
                let is_bash = text.lines().next().unwrap().ends_with("bash");
                &[if is_bash { "bash" } else { "sh" }, "-n"][..]
            }
            Some("py") => &["python3", "-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())"],
            _ => continue,
        };
        let told = Command::new(parses[0]).args(&parses[1..]).arg(&path).output().unwrap();
        // bash says of some faults, such as a here-document without an end, only that it is a warning.
        assert!(told.status.success() && told.stderr.is_empty(), "{}: {told:?}", path.display());
        read += 1;
    }
    assert!(read >= 8, "the scripts are found");
}
