//! `larder copy` between real registries: what arrives is what was there, as oras, skopeo and another larder see it.

use crate::bundle_import::openssl;
use crate::support::artifact::{Artifact, Manifest, OCI_INDEX, OCI_MANIFEST, artifact, module, raw, shapes};
use crate::support::client;
use crate::support::larder::Home;
use crate::support::odd_registry::OddRegistry;
use crate::support::pki::Pki;
use crate::support::registry::{Front, Registry};
use crate::support::scripted::Scripted;
use crate::support::token_server::TokenServer;
use larder::oci::Digest;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

const PASSWORD: &str = "s3cret-s3cret";

/// What a command came to.
#[derive(Debug)]
pub struct Told {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Told {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// With this exit code, or the test fails.
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.err.contains(PASSWORD) && !self.out.contains(PASSWORD), "{self:?}");
        self
    }
}

/// `larder copy` with these words.
pub fn copy(home: &Home, words: &[&str]) -> Told {
    Told::of(home.command(&[]).arg("copy").args(words).output().unwrap())
}

/// A larder of names in `source`, below `plugins/`, where `more` are settings for registries.
pub fn home(source: &str, more: &str) -> Home {
    Home::in_memory(&format!(
        "catalog: {{builtin: false, template: '{source}/plugins/{{name}}:{{version}}'}}\n\
         registry: {{certs: [], plain_http: ['{source}'], {more}}}\n"
    ))
}

fn plain(host: &str) -> String {
    format!("hosts: {{'{host}': {{plain_http: true}}}}")
}

/// What `larder copy -o json` says of its only plugin.
pub fn only(told: &Told) -> Value {
    let items = told.json()["items"].clone();
    assert_eq!(items.as_array().unwrap().len(), 1, "{told:?}");
    items[0].clone()
}

/// The digest of what a reference means, by skopeo; as whom and by which CA, `with` says.
fn skopeo(reference: &str, with: &[&str]) -> String {
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--raw"]).args(with).arg(format!("docker://{reference}"));
    let output = command.output().expect("skopeo is installed");
    assert!(output.status.success(), "{reference}: {}", String::from_utf8_lossy(&output.stderr));
    Digest::of(&output.stdout).to_string()
}

/// Pulls a whole artifact with oras into a layout, which it verifies, and tells the digest of its tag there.
fn oras(reference: &str, folder: &Path) -> String {
    let oras = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oras");
    let layout = folder.join("layout");
    let mut command = Command::new(&oras);
    command.args(["copy", "--recursive", "--from-plain-http", "--to-oci-layout", reference]);
    let output = command
        .arg(format!("{}:pulled", layout.display()))
        .output()
        .expect("tests/needs.sh test builds oras");
    assert!(output.status.success(), "{reference}: {}", String::from_utf8_lossy(&output.stderr));
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let tagged = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == "pulled");
    tagged.unwrap()["digest"].as_str().unwrap().to_owned()
}

/// What is asked of a registry that changes it.
fn writes(registry: &Registry) -> usize {
    ["\"POST ", "\"PATCH ", "\"PUT "].iter().map(|method| registry.count(&[method])).sum()
}

#[test]
fn every_shape_arrives_byte_for_byte_as_oras_and_skopeo_pull_it_and_is_not_sent_again() {
    let (source, target) = (Registry::plain(), Registry::plain());
    let names: Vec<_> = shapes()
        .into_iter()
        .map(|(shape, artifact)| {
            source.push(&format!("plugins/{shape}"), "1.0", &artifact);
            (shape, artifact)
        })
        .collect();
    let home = home(&source.host(), &plain(&target.host()));
    let mut words: Vec<_> = names.iter().map(|(shape, _)| format!("{shape}@1.0")).collect();
    words.extend([
        "--to".into(),
        format!("{}/team/wasm", target.host()),
        "--chunk-size".into(),
        "16KiB".into(),
    ]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let told = copy(&home, &words).with(0);
    let folder = tempfile::tempdir().unwrap();
    for (shape, artifact) in &names {
        let reference = format!("{}/team/wasm/{shape}:1.0", target.host());
        let digest = artifact.manifest.digest().to_string();
        assert_eq!(skopeo(&reference, &["--tls-verify=false"]), digest, "{shape}");
        assert_eq!(oras(&reference, &folder.path().join(shape)), digest, "{shape}");
        assert!(told.out.contains(&format!("\n{shape}@1.0=oci://{reference}\n")), "{told:?}");
        assert!(told.err.contains(&format!("{shape}@1.0: copied to {reference}: ")), "{told:?}");
    }
    // What was printed is a catalog, by which another larder serves the copies alone.
    let catalog = folder.path().join("copies.properties");
    std::fs::write(&catalog, &told.out).unwrap();
    let other = Home::in_memory(&format!(
        "catalog: {{builtin: false, template: null, files: ['{}']}}\nregistry: {{certs: [], {}}}\nserver: {{drain: 0s}}\n",
        catalog.display(),
        plain(&target.host())
    ))
    .start();
    for (shape, artifact) in &names {
        let reply = other.get(&format!("/plugins/{shape}/1.0/plugin.wasm"));
        assert_eq!(reply.body, artifact.module, "{shape}: {}", reply.text());
    }
    let before = writes(&target);
    assert!(before > 0);
    let again = copy(&home, &words).with(0);
    assert!(again.out.contains(&format!("0 plugins copied, {} there already", names.len())), "{again:?}");
    assert_eq!(writes(&target), before, "nothing is sent twice");
}

#[test]
fn within_one_registry_layers_are_mounted_and_never_sent() {
    let registry = Registry::plain();
    let plugin = raw(&module("mounted", 300_000));
    registry.push("plugins/waf", "1", &plugin);
    let home = home(&registry.host(), "");
    let to = format!("{}/mirror", registry.host());
    let row = only(&copy(&home, &["waf@1", "--to", &to, "-o", "json"]).with(0));
    assert_eq!(
        (&row["outcome"], &row["mounted"], &row["sent"]),
        (&json!("copied"), &json!(2), &json!(0)),
        "{row}"
    );
    assert_eq!(registry.count(&["\"PATCH "]), 0);
    assert_eq!(skopeo(&format!("{to}/waf:1"), &["--tls-verify=false"]), plugin.manifest.digest().to_string());
    // And from a repository that was written to a moment ago, which another registry's blob came to.
    let elsewhere = Registry::plain();
    let twin = artifact(
        OCI_MANIFEST,
        "application/x",
        &[("application/wasm", plugin.module.clone())],
        &plugin.module,
    );
    elsewhere.push("plugins/one", "1", &plugin);
    elsewhere.push("plugins/two", "1", &twin);
    let from = self::home(&elsewhere.host(), &plain(&registry.host()));
    let to = format!("{}/once", registry.host());
    // Three are copied at once, in order: the fourth begins when the first is there.
    for other in ["second", "third"] {
        elsewhere.push(&format!("plugins/{other}"), "1", &raw(&module(other, 20_000)));
    }
    let told = copy(&from, &["one@1", "second@1", "third@1", "two@1", "--to", &to, "-o", "json"]).with(0);
    assert!(told.json()["items"][3]["mounted"].as_u64() >= Some(1), "{told:?}");
}

#[test]
fn tokens_are_asked_for_to_pull_and_push_and_without_that_right_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let server = TokenServer::start(folder.path(), Some(&pki), "robot", PASSWORD);
    let (source, storage) = (Registry::plain(), Registry::plain());
    let front = Front { tls: Some(&pki), token: Some(&server), ..Front::default() };
    let target = storage.with(folder.path(), &front);
    let plugin = raw(&module("guarded", 100_000));
    source.push("plugins/waf", "1", &plugin);
    let password = folder.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let (name, ca) = (target.named(), pki.ca.display());
    let rule = |password: &Path| {
        let file = password.display();
        format!("ca: ['{ca}'], hosts: {{'{name}': {{username: robot, password_file: '{file}'}}}}")
    };
    let home = home(&source.host(), &rule(&password));
    copy(&home, &["waf@1", "--to", &format!("{name}/robot/plugins")]).with(0);
    let certificates = folder.path().join("certificates");
    std::fs::create_dir(&certificates).unwrap();
    std::fs::copy(&pki.ca, certificates.join("ca.crt")).unwrap();
    let with = ["--cert-dir", certificates.to_str().unwrap(), "--creds", &format!("robot:{PASSWORD}")];
    let digest = plugin.manifest.digest().to_string();
    assert_eq!(skopeo(&format!("{name}/robot/plugins/waf:1"), &with), digest);
    // The token server grants nothing below other names.
    let told = copy(&home, &["waf@1", "--to", &format!("{name}/others/plugins")]).with(77);
    assert!(told.out.contains("# waf@1: ") && told.out.contains("password"), "{told:?}");
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "not-it").unwrap();
    let stranger = self::home(&source.host(), &rule(&wrong));
    let told = copy(&stranger, &["waf@1", "--to", &format!("{name}/robot/plugins")]).with(77);
    assert!(told.out.contains("next step: ") && told.out.contains("credentials"), "{told:?}");
    let nobody = self::home(&source.host(), &format!("ca: ['{ca}']"));
    let told = copy(&nobody, &["waf@1", "--to", &format!("{name}/robot/plugins")]).with(77);
    assert!(told.out.contains("next step: "), "{told:?}");
}

#[test]
fn a_password_behind_tls_is_used_for_pushes_as_for_pulls() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let (source, storage) = (Registry::plain(), Registry::plain());
    let front = Front { tls: Some(&pki), password: Some(("robot", PASSWORD)), ..Front::default() };
    let target = storage.with(folder.path(), &front);
    let plugin = raw(&module("basic", 100_000));
    source.push("plugins/waf", "1", &plugin);
    let password = folder.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let (name, ca, file) = (target.named(), pki.ca.display(), password.display());
    let rule = format!("ca: ['{ca}'], hosts: {{'{name}': {{username: robot, password_file: '{file}'}}}}");
    let home = home(&source.host(), &rule);
    copy(&home, &["waf@1", "--to", &format!("{name}/team"), "--chunk-size", "30KiB"]).with(0);
    let reply =
        client::request(storage.address, "GET", "/v2/team/waf/manifests/1", &[("Accept", OCI_MANIFEST)]);
    assert_eq!(reply.body, plugin.manifest.bytes);
}

#[test]
fn registries_of_other_makers_take_copies_in_their_own_ways() {
    let source = Registry::plain();
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let go = OddRegistry::go_containerregistry();
    let rust = OddRegistry::container_registry("robot", PASSWORD);
    for (shape, artifact) in shapes() {
        source.push(&format!("plugins/{shape}"), "1", &artifact);
    }
    let rules = format!(
        "hosts: {{'{}': {{plain_http: true}}, '{}': {{plain_http: true, username: robot, password_file: '{}'}}}}",
        go.host(),
        rust.host(),
        password.display()
    );
    let home = home(&source.host(), &rules);
    let copied = |registry: &OddRegistry, indexes: bool| {
        let shapes = shapes().into_iter().filter(|(_, artifact)| indexes || artifact.children.is_empty());
        let mut words: Vec<_> = shapes.map(|(shape, _)| format!("{shape}@1")).collect();
        words.extend([
            "--to".into(),
            format!("{}/team", registry.host()),
            "--chunk-size".into(),
            "16KiB".into(),
        ]);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let told = copy(&home, &words).with(0);
        // What was printed names them all; a larder that has nothing else serves them.
        let catalog = folder.path().join("copies.properties");
        std::fs::write(&catalog, &told.out).unwrap();
        let other = Home::in_memory(&format!(
            "catalog: {{builtin: false, template: null, files: ['{}']}}\nregistry: {{certs: [], {rules}}}\nserver: {{drain: 0s}}\n",
            catalog.display()
        ))
        .start();
        for word in words.iter().filter(|word| word.ends_with("@1")) {
            let shape = word.trim_end_matches("@1");
            let truth = self::shapes().into_iter().find(|(name, _)| *name == shape).unwrap().1;
            assert_eq!(other.get(&format!("/plugins/{shape}/1/plugin.wasm")).body, truth.module, "{shape}");
        }
    };
    copied(&go, true);
    copied(&rust, false);
}

/// A manifest that is about another one.
fn referrer(subject: &Manifest, text: &str) -> Artifact {
    let mut referrer =
        artifact(OCI_MANIFEST, "application/vnd.oci.empty.v1+json", &[("text/x", text.into())], b"");
    let mut manifest: Value = serde_json::from_slice(&referrer.manifest.bytes).unwrap();
    manifest["artifactType"] = json!("application/vnd.test.signature");
    manifest["subject"] = json!({
        "mediaType": subject.media_type, "digest": subject.digest().to_string(), "size": subject.bytes.len()
    });
    referrer.manifest.bytes = serde_json::to_vec(&manifest).unwrap();
    referrer
}

#[test]
fn signatures_go_along_under_cosigns_tag_and_as_referrers_and_oras_finds_them() {
    let (source, target) = (Registry::plain(), Registry::plain());
    let plugin = raw(&module("signed", 20_000));
    let digest = plugin.manifest.digest();
    source.push("plugins/waf", "1", &plugin);
    let signature = artifact(
        OCI_MANIFEST,
        "application/x",
        &[("application/vnd.dev.cosign.simplesigning.v1+json", b"{\"s\":1}".to_vec())],
        b"",
    );
    let cosign = format!("sha256-{}.sig", digest.hex());
    source.push("plugins/waf", &cosign, &signature);
    // This registry has no list of referrers, so oras keeps one under a tag.
    let (one, two) = (referrer(&plugin.manifest, "one"), referrer(&plugin.manifest, "two"));
    let mut listed = Vec::new();
    for referrer in [&one, &two] {
        let by_digest = referrer.manifest.digest().to_string();
        source.push("plugins/waf", &by_digest, referrer);
        listed.push(json!({
            "mediaType": OCI_MANIFEST, "digest": by_digest, "size": referrer.manifest.bytes.len(),
            "artifactType": "application/vnd.test.signature"
        }));
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed});
    let index = Manifest { media_type: OCI_INDEX, bytes: serde_json::to_vec(&index).unwrap() };
    let list = Artifact { blobs: Vec::new(), children: Vec::new(), manifest: index, module: Vec::new() };
    source.push("plugins/waf", &format!("sha256-{}", digest.hex()), &list);
    let home = home(&source.host(), &plain(&target.host()));
    let to = format!("{}/team", target.host());
    let bare = format!("{}/bare", target.host());
    copy(&home, &["waf@1", "--to", &bare, "--no-signatures"]).with(0);
    assert_eq!(target.count(&["\"PUT ", ".sig"]), 0);
    let row = only(&copy(&home, &["waf@1", "--to", &to, "-o", "json"]).with(0));
    assert_eq!(row["signatures"], 3, "{row}");
    assert_eq!(
        skopeo(&format!("{to}/waf:{cosign}"), &["--tls-verify=false"]),
        signature.manifest.digest().to_string()
    );
    let discovered = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oras"))
        .args(["discover", "--plain-http", "--output", "json", &format!("{to}/waf:1")])
        .output()
        .expect("tests/needs.sh test builds oras");
    let text = String::from_utf8_lossy(&discovered.stdout);
    for referrer in [&one, &two] {
        assert!(text.contains(&referrer.manifest.digest().to_string()), "{text}");
    }
    // The tag came behind them.
    let log = target.log();
    let at = |part: &str| log.find(part).unwrap_or_else(|| panic!("{part}: {log}"));
    assert!(
        at(&format!("PUT /v2/team/waf/manifests/{cosign}")) < at("PUT /v2/team/waf/manifests/1 "),
        "{log}"
    );
    // A copy from before they were signed gets them without being sent again.
    let row = only(&copy(&home, &["waf@1", "--to", &bare, "-o", "json"]).with(0));
    assert_eq!((&row["outcome"], &row["signatures"]), (&json!("there"), &json!(3)), "{row}");
    let before = writes(&target);
    copy(&home, &["waf@1", "--to", &bare]).with(0);
    assert_eq!(writes(&target), before, "and not a second time");
    // A list that is there already stays with all that it says, and what is no list is left alone.
    let tag = format!("sha256-{}", digest.hex());
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "annotations": {"whose": "theirs"}});
    let theirs = Manifest { media_type: OCI_INDEX, bytes: serde_json::to_vec(&index).unwrap() };
    let theirs = Artifact { blobs: Vec::new(), children: Vec::new(), manifest: theirs, module: Vec::new() };
    target.push("theirs/waf", &tag, &theirs);
    copy(&home, &["waf@1", "--to", &format!("{}/theirs", target.host())]).with(0);
    let path = format!("/v2/theirs/waf/manifests/{tag}");
    let list = client::request(target.address, "GET", &path, &[("Accept", OCI_INDEX)]).json();
    assert_eq!(list["annotations"]["whose"], "theirs", "{list}");
    assert_eq!(list["manifests"].as_array().map(Vec::len), Some(2), "{list}");
    target.push("other/waf", &tag, &signature);
    let words = ["waf@1", "--to", &format!("{}/other", target.host()), "-o", "json"];
    let row = only(&copy(&home, &words).with(1));
    assert_eq!(row["left"], json!([tag]), "{row}");
    let reference = format!("{}/other/waf:{tag}", target.host());
    assert_eq!(skopeo(&reference, &["--tls-verify=false"]), signature.manifest.digest().to_string());
}

#[test]
fn names_and_versions_mean_what_they_mean_to_gateways_and_it_is_said_which_was_chosen() {
    let (source, target) = (Registry::plain(), Registry::plain());
    let plugin = raw(&module("two", 20_000));
    source.push("higress/waf-wasm", "2.0.0", &plugin);
    let line = format!("waf=oci://{}/higress/waf-wasm:2.0.0\n", source.host());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalog.properties");
    std::fs::write(&file, line).unwrap();
    let home = Home::in_memory(&format!(
        "catalog: {{builtin: false, template: null, files: ['{}'], aliases: {{'1.1.0': '2.0.0'}}}}\n\
         registry: {{certs: [], plain_http: ['{}', '{}']}}\n",
        file.display(),
        source.host(),
        target.host()
    ));
    let to = format!("{}/p", target.host());
    let told = copy(&home, &["waf@1.0.0", "waf@1.1.0", "--all", "--to", &to, "-o", "json"]).with(0).json();
    let matched: Vec<_> =
        told["items"].as_array().unwrap().iter().map(|row| row["matched"].clone()).collect();
    assert_eq!(matched, ["fallback", "alias", "exact"], "{told}");
    assert_eq!(
        told["properties"],
        json!([
            format!("waf@1.0.0=oci://{to}/waf:2.0.0"),
            format!("waf@1.1.0=oci://{to}/waf:2.0.0"),
            format!("waf=oci://{to}/waf:2.0.0")
        ])
    );
    assert_eq!(told["catalog_template"], format!("oci://{to}/{{name}}:{{version}}"));
    assert_eq!(told["image_url_pattern"], format!("oci://{to}/${{name}}:${{version}}"));
    let told =
        copy(&home, &["waf", "--as", &format!("oci://{}/q/{{name}}-x:{{version}}", target.host())]).with(0);
    assert!(told.out.ends_with(&format!("\nwaf=oci://{}/q/waf-x:2.0.0\n", target.host())), "{told:?}");
    let told = copy(&home, &["waff@1", "--to", &to]).with(66);
    assert!(told.out.contains("did you mean waf?"), "{told:?}");
    for bad in [
        &["waf"][..],
        &["--to", &to],
        &["waf", "--to", "https://x/y"],
        &["waf", "--to", &to, "--chunk-size", "0"],
    ] {
        copy(&home, bad).with(64);
    }
}

#[test]
fn what_the_cache_knows_of_a_tag_is_what_is_copied_unless_it_is_to_be_fresh() {
    let (source, target) = (Registry::plain(), Registry::plain());
    let (old, new) = (raw(&module("old", 20_000)), raw(&module("new", 20_000)));
    source.push("plugins/waf", "1", &old);
    let home = home(&source.host(), &plain(&target.host()));
    let prefetched = home.command(&[]).args(["prefetch", "waf@1"]).output().unwrap();
    assert!(prefetched.status.success(), "{prefetched:?}");
    source.push("plugins/waf", "1", &new);
    let to = format!("{}/p", target.host());
    copy(&home, &["waf@1", "--to", &to]).with(0);
    let reference = format!("{to}/waf:1");
    let there = || skopeo(&reference, &["--tls-verify=false"]);
    assert_eq!(there(), old.manifest.digest().to_string(), "what is served here");
    let told = copy(&home, &["waf@1", "--to", &to, "--fresh"]).with(1);
    let left =
        format!("waf@1: left alone: {reference} means {}; --overwrite replaces it", old.manifest.digest());
    assert!(told.err.contains(&left) && told.out.contains("1 left alone"), "{told:?}");
    assert_eq!(there(), old.manifest.digest().to_string());
    let dry = only(
        &copy(&home, &["waf@1", "--to", &to, "--fresh", "--overwrite", "--dry-run", "-o", "json"]).with(0),
    );
    assert_eq!(dry["outcome"], "would_replace", "{dry}");
    assert_eq!(there(), old.manifest.digest().to_string());
    copy(&home, &["waf@1", "--to", &to, "--fresh", "--overwrite"]).with(0);
    assert_eq!(there(), new.manifest.digest().to_string());
}

#[test]
fn what_is_refused_or_offline_is_not_copied_and_of_what_is_locked_the_locked_bytes_are() {
    let (source, target) = (Scripted::start(), Registry::plain());
    let (old, new) = (raw(&module("old", 20_000)), raw(&module("new", 20_000)));
    for (name, tag) in [("bad", "1.0.0"), ("pay-in", "1.0.0"), ("waf", "latest"), ("waf", "1.0.0")] {
        source.put(&format!("plugins/{name}"), tag, &old);
    }
    source.put("plugins/waf", "1.0.0", &new);
    let reference = format!("{}/plugins/waf:1.0.0", source.host());
    let home = home(&source.host(), &plain(&target.host()));
    let lock = home.path().join("larder.lock.json");
    // Also as what answers for a version that does not exist.
    let item = |version: &str| {
        json!({"name": "waf", "version": version, "reference": reference,
            "manifest": old.manifest.digest().to_string(), "module": Digest::of(&old.module).to_string()})
    };
    let locked = json!({"larder-lock": 1, "plugins": [item("0.9.0"), item("1.0.0")]});
    std::fs::write(&lock, locked.to_string()).unwrap();
    let home = home.and(&format!(
        "policy: {{floating_tags: deny, rules: [{{plugin: bad, allow: false}}, {{plugin: pay-*, mode: offline}}]}}\n\
         lock: {{file: '{}', mode: enforce}}\n",
        lock.display()
    ));
    let to = format!("{}/p", target.host());
    for (plugin, code, told) in [
        ("bad@1.0.0", 77, "not_allowed"),
        ("pay-in@1.0.0", 78, "offline"),
        ("waf@latest", 77, "floating_tag"),
    ] {
        let item = only(&copy(&home, &[plugin, "--to", &to, "-o", "json"]).with(code));
        assert_eq!(item["error"]["code"], told, "{item}");
    }
    assert!(source.asked().is_empty(), "{:?}", source.asked());
    assert_eq!(writes(&target), 0);
    let item = only(&copy(&home, &["waf@1.0.0", "--fresh", "--to", &to, "-o", "json"]).with(0));
    assert_eq!(item["manifest"], old.manifest.digest().to_string(), "{item}");
    let there = skopeo(&format!("{to}/waf:1.0.0"), &["--tls-verify=false"]);
    assert_eq!(there, old.manifest.digest().to_string());
    let item = only(&copy(&home, &["waf@0.9.0", "--to", &to, "-o", "json"]).with(66));
    assert_eq!(item["error"]["code"], "not_found", "no tag is invented for it: {item}");
    // Where it is not there any more, nothing else is.
    let gone = locked.to_string().replace(&old.manifest.digest().hex(), &Digest::of(b"gone").hex());
    std::fs::write(&lock, gone).unwrap();
    let item = only(&copy(&home, &["waf@1.0.0", "--to", &to, "-o", "json"]).with(77));
    assert_eq!(item["error"]["code"], "lock_mismatch", "{item}");
}

#[test]
fn a_dry_run_tells_what_would_be_sent_and_writes_nothing() {
    let (source, target) = (Registry::plain(), Registry::plain());
    source.push("plugins/waf", "1", &raw(&module("dry", 20_000)));
    let home = home(&source.host(), &plain(&target.host()));
    let told = copy(&home, &["waf@1", "--to", &format!("{}/p", target.host()), "--dry-run"]).with(0);
    assert!(
        told.err.contains("waf@1: would be copied to ") && told.err.contains("2 blobs sent (19.5 KiB)"),
        "{told:?}"
    );
    assert!(told.out.contains("1 plugin would be copied"), "{told:?}");
    assert!(told.out.contains("# waf@1=oci://"), "{told:?}");
    assert!(told.out.lines().all(|line| line.starts_with('#')), "nothing that a catalog would use: {told:?}");
    assert_eq!(writes(&target), 0);
}

#[test]
fn a_bundle_is_copied_where_its_registries_are_not_and_nobody_else_is_asked() {
    let (source, target) = (Registry::plain(), Registry::plain());
    let plugins = [("waf", raw(&module("waf", 60_000))), ("cors", raw(&module("cors", 30_000)))];
    for (name, plugin) in &plugins {
        source.push(&format!("plugins/{name}"), "1", plugin);
    }
    let home = home(&source.host(), &plain(&target.host()));
    for file in ["plugins.tar", "plugins.tar.zst"] {
        let bundle = home.path().join(file);
        let bundle = bundle.to_str().unwrap();
        let exported = home.command(&[]).args(["export", "waf@1", "cors@1", "-o", bundle]).output().unwrap();
        assert!(exported.status.success(), "{exported:?}");
        let to = format!("{}/{}", target.host(), file.replace('.', "-"));
        // A larder that knows neither the registry nor the names.
        let apart = Home::in_memory(&format!(
            "catalog: {{builtin: false, template: null}}\nregistry: {{certs: [], {}}}\n",
            plain(&target.host())
        ));
        let asked = source.log().len();
        copy(&apart, &["--all", "--from", bundle, "--to", &to]).with(0);
        for (name, plugin) in &plugins {
            let digest = skopeo(&format!("{to}/{name}:1"), &["--tls-verify=false"]);
            assert_eq!(digest, plugin.manifest.digest().to_string(), "{name}");
        }
        assert_eq!(source.log().len(), asked);
        copy(&apart, &["waf", "--from", bundle, "--to", &to]).with(0);
        copy(&apart, &["other@1", "--from", bundle, "--to", &to]).with(66);
        copy(&apart, &["waf", "--from", "/nonexistent.tar", "--to", &to]).with(66);
    }
}

#[test]
fn of_a_bundle_no_other_version_is_copied_unless_it_carries_the_registrys_word_that_there_is_none() {
    let (source, target) = (Registry::plain(), Registry::plain());
    source.push("plugins/waf", "2", &raw(&module("waf", 60_000)));
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("lines");
    std::fs::write(&lines, format!("waf={}/plugins/waf:2\n", source.host())).unwrap();
    let home = Home::in_memory(&format!(
        "catalog: {{builtin: false, template: null, files: ['{}']}}\n\
         registry: {{certs: [], plain_http: ['{}', '{}']}}\n",
        lines.display(),
        source.host(),
        target.host()
    ));
    let at = |file: &str| folder.path().join(file).display().to_string();
    for (plugin, file) in [("waf@2", "without.tar"), ("waf@1", "with.tar")] {
        let exported = home.command(&[]).args(["export", plugin, "-o", &at(file)]).output().unwrap();
        assert!(exported.status.success(), "{exported:?}");
    }
    let to = format!("{}/p", target.host());
    let told = copy(&home, &["waf@1", "--from", &at("without.tar"), "--to", &to]).with(66);
    assert!(told.out.contains("# waf@1: not_in_bundle: "), "{told:?}");
    assert_eq!(writes(&target), 0);
    let row = only(&copy(&home, &["waf@1", "--from", &at("with.tar"), "--to", &to, "-o", "json"]).with(0));
    assert_eq!(row["matched"], "fallback", "{row}");
}

#[test]
fn a_bundle_that_is_not_signed_as_it_has_to_be_is_not_copied() {
    let (source, target) = (Registry::plain(), Registry::plain());
    source.push("plugins/waf", "1", &raw(&module("waf", 60_000)));
    let home = home(&source.host(), &plain(&target.host()));
    let folder = tempfile::tempdir().unwrap();
    for name in ["ours", "theirs"] {
        let (key, public) = (format!("{name}.key"), format!("{name}.pub"));
        let make = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key];
        assert!(openssl(folder.path(), &make));
        assert!(openssl(folder.path(), &["pkey", "-in", &key, "-pubout", "-out", &public]));
    }
    let at = |file: &str| folder.path().join(file).display().to_string();
    let words = ["export", "waf@1", "-o", &at("plugins.tar"), "--sign-key", &at("ours.key")];
    let exported = home.command(&[]).args(words).output().unwrap();
    assert!(exported.status.success(), "{exported:?}");
    let strict = Home::in_memory(&format!(
        "catalog: {{builtin: false, template: null}}\nregistry: {{certs: [], {}}}\nimport: {{verify_key: '{}'}}\n",
        plain(&target.host()),
        at("theirs.pub")
    ));
    let to = format!("{}/p", target.host());
    let from = at("plugins.tar");
    let words = ["--all", "--from", &from, "--to", &to];
    let theirs = at("theirs.pub");
    for told in [copy(&strict, &words), copy(&home, &[&words[..], &["--verify-key", &theirs]].concat())] {
        assert!(told.with(65).err.contains("is not one of larder.json by the key"));
    }
    assert_eq!(writes(&target), 0);
    copy(&home, &[&words[..], &["--verify-key", &at("ours.pub")]].concat()).with(0);
}
