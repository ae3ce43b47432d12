//! Lock files: three shapes, every fault with its place, and what a lock says of bytes.

use super::*;
use crate::catalog;
use proptest::prelude::*;

fn digest(word: &str) -> Digest {
    Digest::of(word.as_bytes())
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn name(text: &str) -> PluginName {
    text.parse().unwrap()
}

fn tag(text: &str) -> Version {
    text.parse().unwrap()
}

/// `plugin@version` as larder locks it, with digests of that text.
fn entry(plugin: &str, version: &str) -> Entry {
    Entry {
        name: name(plugin),
        version: tag(version),
        reference: Some(reference(&format!("h.test/plugins/{plugin}:{version}"))),
        manifest: Some(digest(&format!("manifest of {plugin}@{version}"))),
        module: Some(digest(&format!("{plugin}@{version}"))),
    }
}

fn own() -> String {
    String::from_utf8(encode(vec![entry("b", "1"), entry("a", "2"), entry("a", "1")])).unwrap()
}

fn console() -> String {
    let digest = digest("waf");
    format!(
        "{{\n  \"baseSha\": \"e\",\n  \"plugins\": {{\n    \"ai-proxy\": {{\n      \"digest\": \"{digest}\",\n      \
         \"ociRef\": \"oci://h.test/plugins/ai-proxy:2.0.0\",\n      \"resourceDir\": \"ai-proxy\",\n      \
         \"version\": \"2.0.0\"\n    }},\n    \"json-converter\": {{\n      \"digest\": \"{digest}\",\n      \
         \"ociRef\": \"oci://h.test/plugins/jsonrpc-converter:2.1.0\",\n      \"resourceDir\": \"json-converter\",\n      \
         \"version\": \"2.1.0\"\n    }}\n  }},\n  \"schemaVersion\": 2,\n  \"sourceCommit\": null\n}}\n"
    )
}

fn inventory() -> String {
    let (manifest, module) = (digest("manifest"), digest("module").hex());
    format!(
        "{{\n  \"ai-proxy\": {{\"digest\": \"{manifest}\", \"version\": \"2.0.0\", \"wasmSha256\": \"{module}\"}},\n  \
         \"local\": {{\"digest\": null, \"version\": \"1.0.0\", \"wasmSha256\": \"{module}\"}}\n}}\n"
    )
}

fn told(text: &str) -> (usize, String) {
    let fault = Lock::read(text.as_bytes()).expect_err(text);
    (fault.line, fault.problem)
}

#[test]
fn a_lock_file_of_ours_is_sorted_says_the_same_again_and_has_these_bytes() {
    let text = own();
    let head = concat!(
        "{\n  \"larder-lock\": 1,\n  \"plugins\": [\n    {\n      \"name\": \"a\",\n      \"version\": \"1\",\n",
        "      \"reference\": \"h.test/plugins/a:1\",\n      \"manifest\": \"sha256:"
    );
    assert!(text.starts_with(head), "{text}");
    let lock = Lock::read(text.as_bytes()).unwrap();
    assert_eq!(lock.entries(), [entry("a", "1"), entry("a", "2"), entry("b", "1")]);
    assert_eq!(String::from_utf8(encode(lock.entries().to_vec())).unwrap(), text);
}

#[test]
fn consoles_lock_is_read_as_it_is() {
    for text in [console(), console().replace("\"schemaVersion\": 2", "\"schemaVersion\": 1")] {
        let lock = Lock::read(text.as_bytes()).unwrap();
        let [one, two] = lock.entries() else { panic!("{lock:?}") };
        assert_eq!((one.name.as_str(), one.version.to_string()), ("ai-proxy", "2.0.0".into()));
        assert_eq!((one.manifest, one.module), (Some(digest("waf")), None));
        assert_eq!(two.name.as_str(), "json-converter");
        assert_eq!(two.reference, Some(reference("h.test/plugins/jsonrpc-converter:2.1.0")));
    }
}

#[test]
fn the_plugin_servers_inventory_is_read_as_it_is() {
    let lock = Lock::read(inventory().as_bytes()).unwrap();
    let [one, two] = lock.entries() else { panic!("{lock:?}") };
    assert_eq!((one.name.as_str(), &one.reference), ("ai-proxy", &None));
    assert_eq!((one.manifest, one.module), (Some(digest("manifest")), Some(digest("module"))));
    assert_eq!((two.manifest, two.module), (None, Some(digest("module"))));
    assert_eq!(Lock::read(b"{}").unwrap(), Lock::default());
}

#[test]
fn a_mode_is_off_though_yaml_takes_the_word_for_false_and_one_without_a_file_is_a_fault() {
    let read = |text: &str| serde_saphyr::from_str::<Config>(text);
    for (word, mode) in
        [("off", Mode::Off), ("'off'", Mode::Off), ("record", Mode::Record), ("enforce", Mode::Enforce)]
    {
        let config = read(&format!("{{file: /l, mode: {word}, unlisted: allow}}")).unwrap();
        assert_eq!((config.mode, config.file().is_some()), (mode, mode != Mode::Off), "{word}");
        assert_eq!(
            (config.faults().is_empty(), config.doubts().is_empty()),
            (true, mode != Mode::Off),
            "{word}"
        );
        let config = read(&format!("{{file: null, mode: {word}, unlisted: deny}}")).unwrap();
        assert_eq!(config.faults().is_empty(), mode == Mode::Off, "{word}");
        assert_eq!(config.doubts().is_empty(), mode == Mode::Enforce, "{word}");
    }
    for word in ["on", "yes", "enforced", "1", "null"] {
        let error = read(&format!("{{file: null, mode: {word}, unlisted: allow}}")).unwrap_err().to_string();
        assert!(error.contains("expected one of off, record, enforce"), "{word}: {error}");
    }
}

#[test]
fn what_is_no_json_is_told_with_line_and_column() {
    for (text, line, column, problem) in [
        ("", 1, 0, "EOF while parsing a value"),
        ("{\n  \"larder-lock\": 1,\n  \"plugins\": [,]\n}", 3, 15, "expected value"),
        ("{}\n{}", 2, 1, "trailing characters"),
        ("[1, 2]", 1, 6, "invalid length 2, expected a lock file"),
        ("12", 1, 2, "invalid type: integer `12`, expected a lock file"),
    ] {
        let fault = Lock::read(text.as_bytes()).unwrap_err();
        assert_eq!((fault.line, fault.column, fault.problem.as_str()), (line, column, problem), "{text}");
    }
    let fault = Lock::read(b"{\n \"a\": \"\xff\"}").unwrap_err();
    assert_eq!((fault.line, fault.column, fault.problem.as_str()), (2, 8, "is not UTF-8"));
}

#[test]
fn every_fault_is_told_with_the_line_that_it_is_in() {
    let one = entry("a", "1");
    let (good, module) = (own(), one.module.unwrap().to_string());
    let lines: Vec<_> = good.lines().collect();
    let at = |word: &str| lines.iter().position(|line| line.contains(word)).unwrap() + 1;
    for (from, to, line, problem) in [
        (&*module, "sha256:12", at(&module), "'sha256:12' is no digest"),
        (&module, "md5:12", at(&module), "digest algorithm 'md5' is not supported"),
        (&module, &*module.to_uppercase(), at(&module), "digest algorithm 'SHA256'"),
        ("\"larder-lock\": 1", "\"larder-lock\": 2", 2, "invalid value: integer `2`, expected larder-lock 1"),
        ("\"larder-lock\": 1", "\"larder-lock\": \"1\"", 2, "expected larder-lock 1"),
        ("\"name\": \"a\"", "\"name\": \"A\"", 5, "'A' is no plugin name"),
        ("\"name\": \"a\"", "\"name\": 7", 5, "invalid type: integer `7`, expected a text"),
        ("\"version\": \"1\"", "\"version\": \"1+1\"", 6, "'1+1' is no version"),
        ("h.test/plugins/a:1", "plugins", 7, "names no registry"),
        ("\"name\": \"a\"", "\"nam\": \"a\"", 5, "unknown field `nam`"),
        ("\"larder-lock\": 1", "\"larder-lock\": 1, \"plugin\": 1", 2, "unknown field `plugin`"),
        ("\"name\": \"a\"", "\"name\": \"a\", \"name\": \"a\"", 5, "duplicate field `name`"),
        ("\"larder-lock\": 1", "\"larder-lock\": 1, \"larder-lock\": 1", 2, "duplicate field `larder-lock`"),
        // The second plugin says that it is the first: at its end.
        ("\"version\": \"2\"", "\"version\": \"1\"", 17, "a@1 stands there twice"),
        (
            "h.test/plugins/a:2",
            "h.test/plugins/a:1",
            17,
            "a@2 and a@1 have the reference h.test/plugins/a:1 and other",
        ),
    ] {
        let text = good.replacen(from, to, 1);
        let (told_line, told_problem) = told(&text);
        assert!(
            told_line == line && told_problem.contains(problem),
            "{from} -> {to}: {told_line}: {told_problem}"
        );
    }
    let pinned = format!("h.test/plugins/a@{}", digest("another"));
    let (line, problem) = told(&good.replacen("h.test/plugins/a:1", &pinned, 1));
    assert!(line == 10 && problem.contains("a@1 has another manifest than sha256:"), "{line}: {problem}");
    let (line, problem) = told("{\n  \"larder-lock\": 1\n}\n");
    assert!(line == 3 && problem.contains("missing field `plugins`"), "{line}: {problem}");
}

#[test]
fn the_faults_of_the_other_shapes_are_told_with_their_lines_too() {
    let twice = "\"json-converter\"";
    for (text, line, problem) in [
        (
            console().replace("\"schemaVersion\": 2", "\"schemaVersion\": 3"),
            17,
            "expected schemaVersion 1 or 2",
        ),
        (console().replacen(twice, "\"ai-proxy\"", 1), 10, "ai-proxy stands there twice"),
        (
            console().replacen("oci://h.test/plugins/ai-proxy:2.0.0", "oci://h.test", 1),
            6,
            "names no registry",
        ),
        (console().replacen("sha256:", "sha256:0", 1), 5, "is no digest"),
        (console().replacen("      \"digest\"", "      \"digset\"", 1), 9, "missing field `digest`"),
        (inventory().replacen("\"local\"", "\"ai-proxy\"", 1), 3, "ai-proxy stands there twice"),
        (inventory().replacen("\"local\"", "\"../x\"", 1), 3, "'../x' is no plugin name"),
        (inventory().replacen("\"digest\": null", "\"digest\": \"\"", 1), 3, "digest"),
        (inventory().replacen("\"wasmSha256\": \"", "\"wasmSha256\": \"sha256:", 1), 2, "is no digest"),
    ] {
        let (told_line, told_problem) = told(&text);
        assert!(told_line == line && told_problem.contains(problem), "{told_line}: {told_problem}\n{text}");
    }
    // One reference, by two names, in two states.
    let text = console().replacen("jsonrpc-converter:2.1.0", "ai-proxy:2.0.0", 1);
    let text = text.replacen(&digest("waf").to_string(), &digest("other").to_string(), 1);
    let (line, problem) = told(&text);
    assert!(line == 15 && problem.contains("json-converter@2.1.0 and ai-proxy@2.0.0"), "{line}: {problem}");
}

#[test]
fn what_is_locked_is_known_by_reference_and_by_name_and_version_and_both_have_to_agree() {
    let lock = Lock::read(own().as_bytes()).unwrap();
    let locked = entry("a", "1");
    let (manifest, module) = (locked.manifest.unwrap(), locked.module.unwrap());
    let (a, one, nine) = (name("a"), tag("1"), tag("9"));
    let here = reference("h.test/plugins/a:1");
    let elsewhere = reference("mirror.test/a:1");
    let other = digest("other");
    for (asked, at) in
        [(None, &here), (Some((&a, &one)), &here), (Some((&a, &one)), &elsewhere), (Some((&a, &nine)), &here)]
    {
        assert_eq!(lock.judge(asked, at, &manifest, &module), Verdict::Same, "{asked:?} {at}");
        assert_eq!(lock.judge(asked, at, &other, &module), Verdict::Same, "a manifest around the same bytes");
        let Verdict::Other(told) = lock.judge(asked, at, &manifest, &other) else { panic!("{asked:?} {at}") };
        let told = told.to_string();
        assert!(told.starts_with("the lock file has a@1 with module sha256:"), "{told}");
        assert!(told.ends_with(&format!("and this is {other}")), "{told}");
        assert!(lock.lists(asked, at));
    }
    for (asked, at) in [(None, &elsewhere), (Some((&a, &nine)), &elsewhere)] {
        assert_eq!(lock.judge(asked, at, &manifest, &other), Verdict::Unlisted);
        assert!(!lock.lists(asked, at));
    }
    let two = tag("2");
    assert!(
        matches!(lock.judge(Some((&a, &two)), &here, &manifest, &module), Verdict::Other(_)),
        "two minds"
    );
}

#[test]
fn a_lock_without_modules_goes_by_manifests_and_one_without_references_by_those_of_the_catalog() {
    let lock = Lock::read(console().as_bytes()).unwrap();
    let at = reference("h.test/plugins/jsonrpc-converter:2.1.0");
    assert_eq!(lock.judge(None, &at, &digest("waf"), &digest("any")), Verdict::Same);
    assert!(matches!(lock.judge(None, &at, &digest("other"), &digest("any")), Verdict::Other(_)));
    let config = catalog::Config {
        builtin: false,
        files: Vec::new(),
        template: Some("r.test/p/{name}:{version}".into()),
        fallback: true,
        aliases: [("2.0.0".to_owned(), "9".to_owned())].into(),
        plugins: BTreeMap::new(),
    };
    let catalog = Catalog::build(&config, &[]).unwrap();
    let lock = Lock::read(inventory().as_bytes()).unwrap();
    let (at, meant) = (reference("r.test/p/ai-proxy:2.0.0"), reference("r.test/p/ai-proxy:9"));
    assert_eq!(lock.judge(None, &at, &digest("manifest"), &digest("other")), Verdict::Unlisted);
    let lock = lock.placed(&catalog);
    assert!(matches!(lock.judge(None, &at, &digest("manifest"), &digest("other")), Verdict::Other(_)));
    assert_eq!(lock.judge(None, &at, &digest("other"), &digest("module")), Verdict::Same);
    assert_eq!(lock.judge(None, &meant, &digest("other"), &digest("other")), Verdict::Unlisted);
    let asked = (name("ai-proxy"), tag("2.0.0"));
    let verdict = lock.judge(Some((&asked.0, &asked.1)), &meant, &digest("other"), &digest("other"));
    assert!(matches!(verdict, Verdict::Other(_)), "what answers for it has to be that too: {verdict:?}");
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = ("[a-c]{1,2}", "[0-9]", "[a-z]{1,3}", any::<[u8; 1]>(), any::<[u8; 1]>());
    proptest::collection::vec(one, 0..12).prop_map(|list| {
        let mut seen = std::collections::BTreeSet::new();
        let made =
            |(plugin, version, place, manifest, module): (String, String, String, [u8; 1], [u8; 1])| Entry {
                reference: Some(reference(&format!("h.test/{place}/{plugin}:{version}"))),
                name: name(&plugin),
                version: tag(&version),
                manifest: Some(Digest::of(&manifest)),
                module: Some(Digest::of(&module)),
            };
        list.into_iter()
            .map(made)
            .filter(|entry| seen.insert((entry.name.clone(), entry.version.clone())))
            .collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(list in entries()) {
        let bytes = encode(list.clone());
        let mut shuffled = list.clone();
        shuffled.reverse();
        prop_assert_eq!(&encode(shuffled), &bytes);
        let lock = Lock::read(&bytes).unwrap();
        let mut sorted = list;
        sorted.sort();
        prop_assert_eq!(lock.entries(), &sorted[..]);
        for entry in &sorted {
            let (manifest, module) = (entry.manifest.unwrap(), entry.module.unwrap());
            let at = entry.reference.as_ref().unwrap();
            let asked = Some((&entry.name, &entry.version));
            prop_assert_eq!(lock.judge(asked, at, &manifest, &module), Verdict::Same);
            let is_other = matches!(lock.judge(asked, at, &manifest, &digest("no such")), Verdict::Other(_));
            prop_assert!(is_other);
        }
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Lock::read(&bytes);
    }

    #[test]
    fn no_change_of_a_lock_file_makes_reading_panic_or_lets_it_say_nothing_where_it_is_wrong(
        which in 0..3usize, at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = [own(), console(), inventory()][which].clone().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = with }
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
        if let Err(fault) = Lock::read(&bytes) {
            prop_assert!((1..=lines).contains(&fault.line) && !fault.problem.is_empty(), "{:?}", fault);
            prop_assert!(!fault.problem.contains(" at line "), "{:?}", fault);
        }
    }
}
