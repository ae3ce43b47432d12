//! What is served and what is withheld, by who signed it.

use crate::support::artifact::{Artifact, OCI_INDEX, index, module, raw};
use crate::support::heart::{Heart, Setup, TAG_LIFETIME, files};
use crate::support::scripted::{Act, Ask, Scripted};
use crate::support::signer::Signer;
use crate::support::until;
use larder::cache::ErrorKind;
use larder::cache::asked::Asked;
use larder::oci::Digest;
use serde_json::{Value, json};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use tempfile::TempDir;

/// How long a refusal is remembered.
const REMEMBERED: Duration = Duration::from_secs(61);

/// A larder whose settings name keys by their files.
struct Site {
    heart: Heart,
    keys: TempDir,
    one: Signer,
    two: Signer,
}

impl Site {
    /// With what stands below `policy:`; `ONE` and `TWO` are the files of keys.
    fn new(policy: &str) -> Self {
        let keys = tempfile::tempdir().unwrap();
        let (one, two) = (Signer::new(), Signer::ed25519());
        one.public(keys.path(), "one");
        two.public(keys.path(), "two");
        let policy = told(policy, &keys);
        let heart = Heart::with(|_| Setup { policy, ..Setup::default() });
        Self { heart, keys, one, two }
    }

    fn requiring() -> Self {
        Self::new("signatures: {mode: require, keys: [ONE]}")
    }

    fn policy(&mut self, policy: &str) {
        let policy = told(policy, &self.keys);
        self.heart.policy(&policy);
    }

    fn registry(&self) -> &Scripted {
        &self.heart.registry
    }

    /// A plugin `name`, version 1.
    fn put(&self, name: &str) -> Artifact {
        let artifact = raw(&module(name, 5000));
        self.registry().put(&format!("plugins/{name}"), "1", &artifact);
        artifact
    }

    /// The same, signed by the first key.
    fn put_signed(&self, name: &str) -> Artifact {
        let artifact = self.put(name);
        self.one.sign_in(self.registry(), &format!("plugins/{name}"), &artifact.manifest.digest());
        artifact
    }

    /// Signed by the second key too, in another place than where the first's signatures are.
    fn sign_again(&self, name: &str, artifact: &Artifact) {
        let signed = self.two.bundle(&artifact.manifest);
        self.registry().put(&format!("plugins/{name}"), &signed.tag, &signed.artifact);
    }

    fn layers_fetched(&self, artifact: &Artifact) -> usize {
        let layer = Digest::of(&artifact.module).to_string();
        self.registry().count(|ask| ask.is_blob() && ask.path.contains(&layer))
    }

    fn counted(&self, result: &str) -> u64 {
        self.heart.metrics.signatures.with_label_values(&[result]).get()
    }
}

fn told(policy: &str, keys: &TempDir) -> String {
    let file = |name: &str| format!("'{}'", keys.path().join(name).display());
    policy.replace("ONE", &file("one")).replace("TWO", &file("two"))
}

/// A question for signatures.
fn is_of_signatures(ask: &Ask) -> bool {
    ask.path.contains("/referrers/") || ask.path.contains("/manifests/sha256-")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_as_required_is_served_and_a_hit_and_a_restart_ask_nobody() {
    let site = Site::requiring();
    let waf = site.put_signed("waf");
    assert_eq!(site.heart.ok("waf", "1").await, (waf.module.clone(), "larder; fwd=uri-miss; stored".into()));
    assert_eq!(site.counted("verified"), 1);
    site.registry().down();
    site.registry().forget();
    let hit = (waf.module.clone(), "larder; hit; ttl=300; detail=memory".to_owned());
    assert_eq!(site.heart.ok("waf", "1").await, hit);
    let heart = site.heart.restart().await;
    assert_eq!(heart.ok("waf", "1").await.0, waf.module);
    assert!(heart.registry.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_as_required_is_refused_before_its_layer_is_fetched() {
    let site = Site::requiring();
    let bare = site.put("bare");
    let error = site.heart.get("bare", "1").await.unwrap_err();
    assert_eq!((error.code, error.kind), ("unsigned", ErrorKind::Untrusted), "{error}");
    assert!(error.detail.contains(&bare.manifest.digest().to_string()), "{error}");
    let other = site.put("other");
    site.two.sign_in(site.registry(), "plugins/other", &other.manifest.digest());
    let error = site.heart.get("other", "1").await.unwrap_err();
    assert_eq!((error.code, error.kind), ("signature_invalid", ErrorKind::Untrusted), "{error}");
    assert_eq!((site.layers_fetched(&bare), site.layers_fetched(&other)), (0, 0));
    assert!(site.heart.files("modules").is_empty());
    assert_eq!((site.counted("unsigned"), site.counted("signature_invalid")), (1, 1));
    // It is remembered, and asked about again once that is over.
    site.one.sign_in(site.registry(), "plugins/bare", &bare.manifest.digest());
    assert_eq!(site.heart.code("bare", "1").await, "unsigned");
    site.heart.clock.advance(REMEMBERED);
    assert_eq!(site.heart.ok("bare", "1").await.0, bare.module);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_or_the_child_that_is_taken_has_to_be_signed() {
    let site = Site::requiring();
    for name in ["whole", "part"] {
        // Of contents of their own: what is known of a manifest is known of it everywhere.
        let child = raw(&module(name, 9000));
        let whole = index(OCI_INDEX, &[("wasi", "wasm", child.clone())], &child.module);
        let signed = if name == "whole" { &whole } else { &child };
        let repository = format!("plugins/{name}");
        site.registry().put(&repository, "1", &whole);
        assert_eq!(site.heart.code(name, "1").await, "unsigned");
        site.one.sign_in(site.registry(), &repository, &signed.manifest.digest());
        site.heart.clock.advance(REMEMBERED);
        assert_eq!(site.heart.ok(name, "1").await.0, child.module, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_before_signatures_were_required_is_withheld_until_they_are_shown_and_stays_on_disk()
{
    let mut site = Site::new("signatures: {mode: off}");
    let (bare, signed) = (site.put("bare"), site.put_signed("signed"));
    for name in ["bare", "signed"] {
        site.heart.ok(name, "1").await;
    }
    assert_eq!(site.registry().count(is_of_signatures), 0, "nobody asks for what is not wanted");
    let kept = site.heart.files("modules");
    site.policy("signatures: {mode: require, keys: [ONE]}");
    site.registry().down();
    for name in ["bare", "signed"] {
        let error = site.heart.get(name, "1").await.unwrap_err();
        assert_eq!((error.code, error.kind), ("signatures_unreachable", ErrorKind::Unproved), "{error}");
    }
    site.registry().heal();
    site.heart.clock.advance(REMEMBERED + TAG_LIFETIME);
    assert_eq!(site.heart.ok("signed", "1").await.0, signed.module);
    assert_eq!(site.heart.code("bare", "1").await, "unsigned");
    assert_eq!((site.layers_fetched(&signed), site.layers_fetched(&bare)), (1, 1), "the modules are here");
    // Not even stale, and not after a restart.
    site.registry().down();
    assert_eq!(site.heart.code("bare", "1").await, "unsigned", "as it was remembered");
    site.heart.clock.advance(REMEMBERED);
    assert_eq!(site.heart.code("bare", "1").await, "signatures_unreachable");
    let mut heart = site.heart.restart().await;
    assert_eq!(heart.code("bare", "1").await, "signatures_unreachable");
    assert_eq!(heart.ok("signed", "1").await.0, signed.module);
    assert_eq!(files(&heart.path().join("v1/modules")), kept);
    heart.policy("signatures: {mode: off}");
    assert_eq!(heart.ok("bare", "1").await.0, bare.module, "it was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_keys_judge_what_is_held_by_the_signatures_that_were_kept_with_it() {
    let mut site = Site::requiring();
    let (both, first) = (site.put_signed("both"), site.put_signed("first"));
    site.sign_again("both", &both);
    for name in ["both", "first"] {
        site.heart.ok(name, "1").await;
    }
    site.registry().down();
    site.registry().forget();
    site.policy("signatures: {mode: require, keys: [TWO]}");
    assert_eq!(site.heart.ok("both", "1").await.0, both.module, "without a registry");
    assert!(site.registry().asked().is_empty());
    let error = site.heart.get("first", "1").await.unwrap_err();
    assert_eq!((error.code, error.kind), ("signatures_unreachable", ErrorKind::Unproved), "{error}");
    site.policy("signatures: {mode: require, keys: [ONE]}");
    assert_eq!(site.heart.ok("first", "1").await.0, first.module);
    site.policy("signatures: {mode: require, keys: [TWO]}");
    let keys = site.keys;
    let heart = site.heart.restart().await;
    assert_eq!(heart.ok("both", "1").await.0, both.module, "a start judges by it too");
    drop(keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_is_served_stale_while_nobody_answers_and_what_never_was_is_not() {
    let site = Site::requiring();
    let waf = site.put_signed("waf");
    site.heart.ok("waf", "1").await;
    site.heart.clock.advance(TAG_LIFETIME);
    site.registry().down();
    site.heart.ok("waf", "1").await;
    site.heart.settle().await;
    let (bytes, status) = site.heart.ok("waf", "1").await;
    assert!(bytes == waf.module && status.contains("stale-"), "{status}");
    // Manifests come, and nobody tells of signatures.
    site.registry().script(|ask, truth| if is_of_signatures(ask) { Act::status(503) } else { truth });
    let new = raw(&module("new", 5000));
    site.registry().put("plugins/waf", "1", &new);
    site.put_signed("fresh");
    site.heart.clock.advance(TAG_LIFETIME);
    site.heart.ok("waf", "1").await;
    site.heart.settle().await;
    let (bytes, status) = site.heart.ok("waf", "1").await;
    assert!(bytes == waf.module && status.ends_with("detail=stale-signatures_unreachable"), "{status}");
    let error = site.heart.get("fresh", "1").await.unwrap_err();
    assert_eq!((error.code, error.kind), ("signatures_unreachable", ErrorKind::Unproved), "{error}");
    assert_eq!(site.layers_fetched(&new), 0);
    assert!(site.counted("signatures_unreachable") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_to_what_is_not_signed_leaves_what_was() {
    let site = Site::requiring();
    let waf = site.put_signed("waf");
    site.heart.ok("waf", "1").await;
    site.registry().put("plugins/waf", "1", &raw(&module("unsigned", 5000)));
    site.heart.clock.advance(TAG_LIFETIME);
    site.heart.ok("waf", "1").await;
    site.heart.settle().await;
    let (bytes, status) = site.heart.ok("waf", "1").await;
    assert!(bytes == waf.module && status.ends_with("detail=stale-unsigned"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_warning_is_enough_it_is_counted_and_shown_and_everything_is_served() {
    let site = Site::new("signatures: {mode: warn, keys: [ONE]}");
    let (bare, signed) = (site.put("bare"), site.put_signed("signed"));
    assert_eq!(site.heart.ok("bare", "1").await.0, bare.module);
    assert_eq!(site.heart.ok("signed", "1").await.0, signed.module);
    assert_eq!((site.counted("unsigned"), site.counted("verified")), (1, 1));
    let page = site.heart.administration.entries(&Default::default()).unwrap();
    let shown: Vec<_> = page
        .entries
        .iter()
        .map(|entry| (entry.plugin.as_str(), entry.signature.as_ref().unwrap().result.as_str()))
        .collect();
    assert_eq!(shown, [("bare", "unsigned"), ("signed", "verified")]);
    // Signed later: seen when the tag is asked about.
    site.one.sign_in(site.registry(), "plugins/bare", &bare.manifest.digest());
    site.heart.clock.advance(TAG_LIFETIME);
    site.heart.ok("bare", "1").await;
    site.heart.settle().await;
    assert_eq!(site.counted("verified"), 2);
    // Nobody tells of signatures.
    site.registry().script(|ask, truth| if is_of_signatures(ask) { Act::hang_up() } else { truth });
    let silent = site.put("silent");
    assert_eq!(site.heart.ok("silent", "1").await.0, silent.module);
    assert_eq!(site.counted("signatures_unreachable"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_has_a_mode_and_keys_of_its_own_and_nobody_is_asked_for_what_no_rule_wants() {
    let rules = "rules:\n- {plugin: payment-*, signatures: {mode: require, keys: [TWO]}}\n\
                 - {plugin: free, signatures: {mode: off}}\nsignatures: {mode: require, keys: [ONE]}";
    let site = Site::new(rules);
    let (payment, waf, free) = (site.put_signed("payment-a"), site.put_signed("waf"), site.put("free"));
    assert_eq!(site.heart.code("payment-a", "1").await, "signature_invalid");
    assert_eq!(site.heart.ok("waf", "1").await.0, waf.module);
    assert_eq!(site.heart.ok("free", "1").await.0, free.module);
    let of_free = |ask: &Ask| is_of_signatures(ask) && ask.path.contains("/free/");
    assert_eq!(site.registry().count(of_free), 0);
    site.sign_again("payment-a", &payment);
    site.heart.clock.advance(REMEMBERED);
    assert_eq!(site.heart.ok("payment-a", "1").await.0, payment.module);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_written_beside_a_signature_what_is_held_is_held_after_a_restart() {
    let site = Site::requiring();
    let waf = site.put("waf");
    let mut signed = site.one.older(&waf.manifest.digest()).artifact;
    let mut manifest: Value = serde_json::from_slice(&signed.manifest.bytes).unwrap();
    let layers = manifest["layers"].as_array_mut().unwrap();
    let mut odd = layers[0].clone();
    odd["annotations"]["dev.cosignproject.cosign/signature"] = json!("\u{1}".repeat(30_000));
    layers.insert(0, odd);
    signed.manifest.bytes = manifest.to_string().into_bytes();
    let tag = format!("sha256-{}.sig", waf.manifest.digest().hex());
    site.registry().put("plugins/waf", &tag, &signed);
    assert_eq!(site.heart.ok("waf", "1").await.0, waf.module);
    site.registry().down();
    let heart = site.heart.restart().await;
    assert_eq!(heart.ok("waf", "1").await.0, waf.module);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_read_as_the_digest_names_no_signature() {
    let site = Site::requiring();
    let (bare, signed) = (site.put("bare"), site.put_signed("signed"));
    let child = raw(&module("child", 9000));
    let whole = index(OCI_INDEX, &[("wasi", "wasm", child.clone())], &child.module);
    site.registry().put("plugins/whole", "1", &whole);
    for (name, manifest) in
        [("bare", &bare.manifest), ("signed", &signed.manifest), ("whole", &whole.manifest)]
    {
        let path = format!("/v2/plugins/{name}/manifests/sha256-{}", manifest.digest().hex());
        site.registry().put_raw(&path, manifest.media_type, &manifest.bytes);
    }
    assert_eq!(site.heart.code("bare", "1").await, "unsigned");
    assert_eq!(site.heart.code("whole", "1").await, "unsigned");
    assert_eq!(site.heart.ok("signed", "1").await.0, signed.module);
}

#[test]
fn keys_that_nobody_looks_at_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let key = Signer::new().public(folder.path(), "one");
    let key = format!("keys: ['{}']", key.display());
    for (policy, told) in [
        (format!("signatures: {{{key}}}"), true),
        (format!("signatures: {{mode: warn, {key}}}"), false),
        // Whoever writes it means it; and what is off for all may be wanted by a rule.
        (format!("rules: [{{plugin: a, signatures: {{mode: off, {key}}}}}]"), false),
        (format!("signatures: {{{key}}}\n  rules: [{{plugin: a, signatures: {{mode: require}}}}]"), false),
    ] {
        assert!(faults(&policy).ends_with(" files"), "{policy}: {}", faults(&policy));
        let file = Some(("larder.yaml".into(), format!("policy:\n  {policy}\n")));
        let loaded = larder::config::load(&larder::config::Sources { file, ..Default::default() }).unwrap();
        let warnings: String = loaded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings.contains("policy.signatures.mode: is off, and keys"),
            told,
            "{policy}: {warnings}"
        );
    }
}

/// What is wrong with settings, as `larder check` says it.
fn faults(policy: &str) -> String {
    let file = Some(("larder.yaml".into(), format!("policy:\n  {policy}\n")));
    match larder::config::load(&larder::config::Sources { file, ..Default::default() }) {
        Ok(loaded) => larder::cli::assemble::keys(&loaded).map_or_else(
            |faults| faults.iter().map(ToString::to_string).collect(),
            |keys| format!("{} files", keys.len()),
        ),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn keys_that_cannot_be_used_and_keyless_signatures_are_told_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let one = Signer::new().public(folder.path(), "one");
    let keys = format!("keys: ['{}']", one.display());
    assert_eq!(faults(&format!("signatures: {{mode: require, {keys}}}")), "1 files");
    assert_eq!(faults("signatures: {mode: off}"), "0 files");
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    for (policy, parts) in [
        (
            "signatures: {mode: require}".to_owned(),
            &["larder.yaml:2", "policy.signatures.mode: wants signatures, and keys is empty"][..],
        ),
        ("signatures: {mode: perhaps}".into(), &["policy.signatures.mode", "require"]),
        (
            format!("signatures: {{mode: require, {keys}, identities: [{{subject: a, issuer: b}}]}}"),
            &["policy.signatures.identities", "keyless signatures are not supported"],
        ),
        (
            format!("signatures: {{mode: require, {keys}, trusted_root: /root.json}}"),
            &["policy.signatures.trusted_root", "keyless signatures are not supported"],
        ),
        (
            "signatures: {mode: warn, keys: [/absent/cosign.pub]}".into(),
            &["larder.yaml:2", "/absent/cosign.pub"],
        ),
        (format!("signatures: {{mode: warn, keys: ['{}']}}", empty.display()), &["holds no public key"]),
        (
            "rules: [{plugin: a, signatures: {mode: require}}]".into(),
            &["policy.rules", "rule 1: signatures.mode wants signatures, and keys is empty"],
        ),
        (
            "rules: [{plugin: a, signatures: {mode: warn, keys: [/absent/a.pub]}}]".into(),
            &["policy.rules", "/absent/a.pub"],
        ),
        (
            format!("rules: [{{plugin: a, signatures: {{{keys}}}}}]"),
            &[
                "larder.yaml:2",
                "policy.rules",
                "rule 1: signatures.keys",
                "write mode: warn or mode: require",
            ],
        ),
    ] {
        let told = faults(&policy);
        for part in parts {
            assert!(told.contains(part), "{policy}: {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_mended_while_a_registry_is_asked_for_signatures_judge_them() {
    let mut site = Site::new("signatures: {mode: require, keys: [TWO]}");
    let waf = site.put_signed("waf");
    let (held, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    site.registry().script(move |ask, truth| {
        if is_of_signatures(ask) {
            let _ = gate.lock().unwrap().recv();
        }
        truth
    });
    let cache = site.heart.cache.clone();
    let reference = format!("{}/plugins/waf:1", site.registry().host()).parse().unwrap();
    let asking = tokio::spawn(async move { cache.ask_again(&reference).await });
    until("signatures asked for", || site.registry().count(is_of_signatures) > 0).await;
    site.policy("signatures: {mode: require, keys: [ONE]}");
    drop(held);
    let asked = asking.await.unwrap();
    assert!(matches!(asked, Asked::Updated), "{asked:?}");
    assert_eq!(site.registry().count(|ask| ask.path.ends_with("/manifests/1")), 1, "at the first try");
    assert_eq!(site.heart.ok("waf", "1").await.0, waf.module);
}
