use super::*;

fn config() -> Config {
    Config {
        builtin: false,
        files: Vec::new(),
        template: Some("oci://up.example/plugins/{name}:{version}".into()),
        fallback: true,
        aliases: BTreeMap::new(),
        plugins: BTreeMap::new(),
    }
}

fn build(config: &Config, lines: &str) -> Catalog {
    Catalog::build(config, &[("test.properties".into(), lines.into())]).unwrap_or_else(|f| panic!("{f:?}"))
}

fn request(name: &str, version: &str) -> Request {
    Request { name: name.parse().unwrap(), version: (!version.is_empty()).then(|| version.parse().unwrap()) }
}

/// `why reference` of each candidate.
fn planned(catalog: &Catalog, name: &str, version: &str) -> Vec<String> {
    let plan = catalog.plan(&request(name, version));
    plan.candidates.iter().map(|c| format!("{} {}", c.why.as_str(), c.reference)).collect()
}

#[test]
fn the_built_in_catalog_is_whole() {
    let catalog = Catalog::build(&Config { builtin: true, ..config() }, &[]).unwrap();
    assert_eq!(catalog.names().count(), 53);
    assert_eq!(
        planned(&catalog, "json-converter", ""),
        ["exact higress-registry.cn-hangzhou.cr.aliyuncs.com/plugins/jsonrpc-converter:2.0.1"]
    );
    assert_eq!(
        planned(&catalog, "mcp-server", "1.0.0"),
        [
            "exact higress-registry.cn-hangzhou.cr.aliyuncs.com/mcp-server/all-in-one:1.0.0",
            "fallback higress-registry.cn-hangzhou.cr.aliyuncs.com/plugins/mcp-server:2.0.1"
        ]
    );
}

#[test]
fn the_asked_version_comes_first_then_the_alias_then_the_catalogs_tag() {
    let mut config = config();
    config.aliases.insert("1.0.0".into(), "2.0.0".into());
    let catalog = build(&config, "ai-proxy=oci://up.example/plugins/ai-proxy:2.0.1");
    assert_eq!(
        planned(&catalog, "ai-proxy", "1.0.0"),
        [
            "exact up.example/plugins/ai-proxy:1.0.0",
            "alias up.example/plugins/ai-proxy:2.0.0",
            "fallback up.example/plugins/ai-proxy:2.0.1"
        ]
    );
    assert_eq!(planned(&catalog, "ai-proxy", "2.0.1"), ["exact up.example/plugins/ai-proxy:2.0.1"]);
}

#[test]
fn the_fallback_can_be_off() {
    let config = Config { fallback: false, ..config() };
    let catalog = build(&config, "ai-proxy=up.example/plugins/ai-proxy:2.0.1");
    assert_eq!(planned(&catalog, "ai-proxy", "1.0.0"), ["exact up.example/plugins/ai-proxy:1.0.0"]);
    assert_eq!(planned(&catalog, "ai-proxy", ""), ["exact up.example/plugins/ai-proxy:2.0.1"]);
}

#[test]
fn an_alias_of_the_plugin_wins_over_a_global_one() {
    let mut config = config();
    config.aliases.insert("1.0.0".into(), "2.0.0".into());
    let own = PluginConfig { aliases: [("1.0.0".into(), "3.0.0".into())].into(), ..Default::default() };
    config.plugins.insert("waf".into(), own);
    let catalog = build(&config, "");
    assert_eq!(
        planned(&catalog, "waf", "1.0.0"),
        ["exact up.example/plugins/waf:1.0.0", "alias up.example/plugins/waf:3.0.0"]
    );
}

#[test]
fn repositories_of_a_name_are_asked_in_order() {
    let mut config = config();
    let own = PluginConfig {
        repositories: vec!["in.corp/plugins/mcp-server".into(), "up.example/mcp-server/all-in-one".into()],
        ..Default::default()
    };
    config.plugins.insert("mcp-server".into(), own);
    let catalog = build(&config, "mcp-server=up.example/plugins/mcp-server:2.0.1");
    assert_eq!(
        planned(&catalog, "mcp-server", "1.0.0"),
        [
            "exact in.corp/plugins/mcp-server:1.0.0",
            "exact up.example/mcp-server/all-in-one:1.0.0",
            "fallback up.example/plugins/mcp-server:2.0.1"
        ]
    );
}

#[test]
fn a_line_for_a_version_replaces_the_repositories() {
    let catalog = build(&config(), "a=up.example/plugins/a:2.0.1\na@1.0.0=old.example/x/a:one");
    assert_eq!(
        planned(&catalog, "a", "1.0.0"),
        ["exact old.example/x/a:one", "fallback up.example/plugins/a:2.0.1"]
    );
}

#[test]
fn later_files_win() {
    let files = [
        ("1".into(), "a=one.example/p/a:1\na@0=one.example/p/a:0\nb=one.example/p/b:1".into()),
        ("2".into(), "a=two.example/p/a:2\nb@0=two.example/p/b:0".into()),
    ];
    let catalog = Catalog::build(&config(), &files).unwrap();
    assert_eq!(planned(&catalog, "a", ""), ["exact two.example/p/a:2"]);
    assert_eq!(planned(&catalog, "a", "0"), ["exact two.example/p/a:0", "fallback two.example/p/a:2"]);
    assert_eq!(planned(&catalog, "b", "0"), ["exact two.example/p/b:0", "fallback one.example/p/b:1"]);
}

#[test]
fn a_digest_is_answered_by_that_digest_alone() {
    let digest = crate::oci::Digest::of(b"").to_string();
    let catalog = build(&config(), "a=up.example/plugins/a:2.0.1");
    assert_eq!(planned(&catalog, "a", &digest), [format!("exact up.example/plugins/a@{digest}")]);
}

#[test]
fn a_name_without_any_rule_reaches_no_registry() {
    let config = Config { template: None, ..config() };
    let catalog = build(&config, "a=up.example/plugins/a:2.0.1");
    assert_eq!(planned(&catalog, "b", "1.0.0"), [""; 0]);
    assert!(!catalog.is_open());
    assert_eq!(catalog.registries().into_iter().collect::<Vec<_>>(), ["up.example"]);
}

#[test]
fn a_name_without_version_and_line_has_no_candidates() {
    assert_eq!(planned(&build(&config(), ""), "b", ""), [""; 0]);
}

#[test]
fn nearest_names_are_found_and_far_ones_are_not() {
    let catalog = Catalog::build(&Config { builtin: true, ..config() }, &[]).unwrap();
    assert_eq!(catalog.nearest("ai-prxy")[0].as_str(), "ai-proxy");
    assert!(catalog.nearest("zzz").is_empty());
}

#[test]
fn all_faults_are_told_with_their_places() {
    let mut config = config();
    config.template = Some("oci://up.example/plugins/all:{version}".into());
    config.aliases.insert("1.0.0".into(), "not a tag".into());
    let bad = PluginConfig { repositories: vec!["nohost".into()], ..Default::default() };
    config.plugins.insert("x".into(), bad);
    let text = "a=up.example/plugins/a:1\nno equals sign\nB=up.example/b:1\nc=up.example/c\nd=https://up.example/d:1";
    let faults = Catalog::build(&config, &[("f".into(), text.into())]).unwrap_err();
    let places: Vec<_> = faults.iter().map(|f| f.place.as_str()).collect();
    assert_eq!(
        places,
        ["f:2", "f:3", "f:4", "f:5", "catalog.plugins.x", "catalog.template", "catalog.aliases"]
    );
}
