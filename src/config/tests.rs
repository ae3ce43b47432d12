use super::*;

fn from_file(text: &str) -> Result<Loaded, Vec<String>> {
    let file = Some(("larder.yaml".into(), text.into()));
    load(&Sources { file, ..Sources::default() }).map_err(|f| f.iter().map(ToString::to_string).collect())
}

fn from_variables(pairs: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let variables = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    load(&Sources { variables, ..Sources::default() })
        .map_err(|f| f.iter().map(ToString::to_string).collect())
}

#[test]
fn the_default_file_is_complete_and_valid() {
    let loaded = load(&Sources::default()).unwrap();
    assert_eq!(loaded.config.listen.data.to_string(), "0.0.0.0:8080");
    assert_eq!(loaded.config.cache.memory.as_u64(), 64 << 20);
    assert!(loaded.warnings.is_empty());
}

#[test]
fn a_file_changes_what_it_names_and_nothing_else() {
    let loaded =
        from_file("fill:\n  hold: 3s\ncatalog:\n  plugins:\n    waf: {aliases: {1.0.0: 2.0.0}}\n").unwrap();
    assert_eq!(loaded.config.fill.hold, Duration::from_secs(3));
    assert_eq!(loaded.config.fill.at_once, 16);
    assert_eq!(loaded.config.catalog.plugins["waf"].aliases["1.0.0"], "2.0.0");
    assert!(from_file("").is_ok());
    assert!(from_file("# only a comment\n").is_ok());
    assert!(from_file("listen:\n").is_ok());
    assert_eq!(from_file("catalog: {template: null}").unwrap().config.catalog.template, None);
}

#[test]
fn all_faults_of_a_file_are_told_with_line_and_nearest_key() {
    let text = "listn: {}\nfill:\n  hold: 5\n  houd: 5s\ncache:\n  memory: lots\nregistry:\n  hosts:\n    h: {usernme: x}\n    h2:\n      ca: 5\n";
    let faults = from_file(text).unwrap_err();
    assert_eq!(faults.len(), 6, "{faults:#?}");
    assert_eq!(faults[0], "larder.yaml:1:1: unknown key 'listn'; did you mean 'listen'?");
    assert_eq!(faults[1], "larder.yaml:4:3: fill: unknown key 'houd'; did you mean 'hold'?");
    assert!(faults[2].starts_with("larder.yaml:3:3: fill.hold: invalid type: integer `5`"), "{}", faults[2]);
    assert!(faults[3].starts_with("larder.yaml:6:3: cache.memory: "), "{}", faults[3]);
    assert_eq!(
        faults[4],
        "larder.yaml:9:9: registry.hosts.h: unknown key 'usernme'; did you mean 'username'?"
    );
    assert!(faults[5].starts_with("larder.yaml:10:5: registry.hosts.h2: "), "{}", faults[5]);
}

#[test]
fn a_place_is_that_of_the_key_of_what_is_below_it_or_of_what_is_above_it() {
    let text = "fill: {hold: 3s}\nregistry:\n  proxy: {username: u}\n  hosts:\n    h: {ca: []}\n";
    let loaded = from_file(text).unwrap();
    assert_eq!(loaded.place("fill.hold"), "larder.yaml:1:8");
    assert_eq!(loaded.place("registry.proxy"), "larder.yaml:3:11", "below");
    assert_eq!(loaded.place("registry.hosts.h.ca.0"), "larder.yaml:5:9", "above");
    assert_eq!(loaded.place("lifetimes.tag"), "default");
}

#[test]
fn what_is_no_yaml_is_told_with_its_line() {
    for (text, place) in [
        ("fill:\n\thold: 1s\n", "larder.yaml:2:2: tabs"),
        ("fill: {}\nlog: {}\nfill: {}\n", "larder.yaml:3:1: duplicate"),
        ("- a\n", "larder.yaml: "),
    ] {
        let faults = from_file(text).unwrap_err();
        assert!(faults[0].starts_with(place), "{text:?}: {faults:?}");
    }
    assert!(from_file("a: [1\n").unwrap_err()[0].starts_with("larder.yaml:"));
}

#[test]
fn the_keys_of_open_maps_are_those_of_their_types() {
    for (map, keys) in OPEN_MAPS.iter().filter(|(_, keys)| !keys.is_empty()) {
        let with = |key: &str| {
            let value = serde_json::json!({"x": {key: null}});
            apply(&defaults(), &Setting { value, ..setting_of(map, "") }).err().unwrap_or_default()
        };
        for key in *keys {
            assert!(!with(key).contains("unknown field"), "{map}: {key}");
        }
        let told = with("no such key");
        assert_eq!(told.matches('`').count() / 2 - 1, keys.len(), "{told}");
    }
}

#[test]
fn a_variable_may_be_empty_or_null_where_nothing_is_valid() {
    for nothing in ["", "null"] {
        let loaded =
            from_variables(&[("LARDER_CATALOG_TEMPLATE", nothing), ("LARDER_CACHE_DIR", nothing)]).unwrap();
        assert_eq!((loaded.config.catalog.template, loaded.config.cache.dir), (None, None));
    }
}

#[test]
fn passwords_are_not_repeated_by_faults() {
    let told = [
        from_variables(&[("LARDER_REGISTRY_HOSTS", "{a.corp: {username: x, password: s3cret}}")]),
        from_variables(&[("LARDER_REGISTRY_HOSTS", "{a.corp: s3cret}")]),
        from_file("registry: {hosts: {'robot:s3cret@h': {usrname: x}}}"),
    ];
    for faults in told {
        let faults = faults.unwrap_err();
        assert!(
            !faults.iter().any(|fault| fault.contains("s3cret") && !fault.contains("invalid type")),
            "{faults:?}"
        );
    }
}

#[test]
fn every_key_is_a_variable_too() {
    let loaded = from_variables(&[
        ("LARDER_FILL_HOLD", "3s"),
        ("LARDER_SERVER_THREADS", "2"),
        ("LARDER_CATALOG_FALLBACK", "false"),
        ("LARDER_REGISTRY_PLAIN_HTTP", "a:5000, b"),
        ("LARDER_CATALOG_FILES", "/etc/plugins.properties"),
        ("LARDER_OVERLAY_DIRS", "/a,/b"),
        ("LARDER_CATALOG_ALIASES", "{1.0.0: 2.0.0}"),
        ("LARDER_SERVICE_HOST", "10.0.0.1"),
        ("LARDER_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
    ])
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.fill.hold, Duration::from_secs(3));
    assert_eq!(config.server.threads, 2);
    assert!(!config.catalog.fallback);
    assert_eq!(config.registry.plain_http, ["a:5000", "b"]);
    assert_eq!(config.catalog.files, [PathBuf::from("/etc/plugins.properties")]);
    assert_eq!(config.overlay.dirs, [PathBuf::from("/a"), "/b".into()]);
    assert_eq!(config.catalog.aliases["1.0.0"], "2.0.0");
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn a_bad_variable_is_an_error_and_an_unknown_one_a_warning() {
    assert!(
        from_variables(&[("LARDER_FILL_HOLD", "soon")]).unwrap_err()[0]
            .starts_with("LARDER_FILL_HOLD: fill.hold: ")
    );
    let loaded = from_variables(&[("LARDER_FILL_HOLT", "3s")]).unwrap();
    assert_eq!(
        loaded.warnings[0].problem,
        "unknown key 'LARDER_FILL_HOLT'; did you mean 'LARDER_FILL_HOLD'?"
    );
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let flag = |key: &str, value: &str, mode| Setting {
        key: key.into(),
        value: value.into(),
        place: "--flag".into(),
        mode,
        inner: Vec::new(),
    };
    let loaded = load(&Sources {
        file: Some(("f".into(), "fill: {hold: 1s}\ncache: {dir: /file}\nregistry: {ca: [/a]}".into())),
        variables: vec![
            ("LARDER_FILL_HOLD".into(), "2s".into()),
            ("LARDER_CACHE_DIR".into(), "/variable".into()),
        ],
        flags: vec![
            flag("cache.dir", "/flag", Mode::Replace),
            flag("registry.ca", "/b", Mode::Append),
            flag("overlay.dirs", "/o", Mode::Prepend),
        ],
    })
    .unwrap();
    assert_eq!(loaded.config.fill.hold, Duration::from_secs(2));
    assert_eq!(loaded.config.cache.dir, Some("/flag".into()));
    assert_eq!(loaded.config.registry.ca, [PathBuf::from("/a"), "/b".into()]);
    assert_eq!(loaded.config.overlay.dirs, [PathBuf::from("/o"), "/usr/share/nginx/html/plugins".into()]);
    assert_eq!(loaded.place("fill.hold"), "LARDER_FILL_HOLD");
}

#[test]
fn settings_that_make_no_sense_together_are_told() {
    let faults = from_file(
        "listen: {data: 127.0.0.1:1, admin: 127.0.0.1:1}\nfill: {timeout: 0s}\ncache:\n  disk: 1MiB\n",
    )
    .unwrap_err();
    assert!(faults[0].starts_with("f") || faults[0].contains("listen.admin"), "{faults:?}");
    assert!(faults.iter().any(|f| f.starts_with("larder.yaml:2:8: fill.timeout: is zero")), "{faults:?}");
    assert!(faults.iter().any(|f| f.starts_with("larder.yaml:4:3: cache.disk: ")), "{faults:?}");
    let doubtful = from_file("fill: {hold: 20s}").unwrap();
    assert!(doubtful.warnings[0].problem.contains("gateways give up after 15s"));
}
