//! Bundles that come in: by the administration port, from a mounted folder, signed, and hostile ones by row.

use crate::support::artifact::{Artifact, broken, gzip, module, raw};
use crate::support::client::{self, Reply};
use crate::support::eventually;
use crate::support::heart::{self, Heart};
use crate::support::larder::{Home, Larder, settings};
use crate::support::layout::{Entry, Plugin, archive, blob_path, entries, list};
use crate::support::scripted::Scripted;
use larder::admin::import::{self, How, Imported, State};
use larder::oci::Digest;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const TOKEN: &str = "0123456789abcdef-bundles";

fn plugin(host: &str, name: &'static str, artifact: Artifact) -> Plugin {
    Plugin { name, reference: format!("{host}/plugins/{name}:1"), artifact }
}

/// Two plugins of one raw layer each.
fn two(host: &str) -> Vec<Plugin> {
    ["good", "bad"].map(|name| plugin(host, name, raw(&module(name, 20_000)))).into()
}

async fn imported(heart: &Heart, bytes: &[u8]) -> Result<Imported, String> {
    let file = heart.path().join("bundle");
    std::fs::write(&file, bytes).unwrap();
    let store = heart.cache.store();
    let bundle = import::open(&file, store).await.map_err(|refused| refused.code.to_owned())?;
    let turn = heart.administration.import_turn().unwrap();
    let imported = heart.administration.import(&turn, bundle, How::default(), &|_| {}).await;
    imported.map_err(|refused| refused.code.to_owned())
}

/// The codes by what they are told of.
fn codes(imported: &Imported) -> Vec<(String, String)> {
    let told = imported
        .items
        .iter()
        .filter_map(|item| Some((item.plugin.clone(), item.error.as_ref()?.code.clone())));
    told.collect()
}

/// Nothing of a bad plugin is kept, in no folder.
fn nothing_bad_is_kept(heart: &Heart, row: &str, good: usize) {
    assert_eq!(heart.files("modules").len(), good, "{row}: modules");
    assert_eq!(heart.files("records").len(), good, "{row}: records");
    assert!(heart.files("tmp").is_empty(), "{row}: {:?}", heart.files("tmp"));
}

/// What it is, the bundle, what of it is told with which code, and how many plugins are good.
type Row<'r> = (&'static str, Vec<u8>, &'r [(&'r str, &'r str)], usize);

#[tokio::test]
async fn bad_plugins_of_a_bundle_are_named_and_left_out_and_good_ones_are_kept() {
    use tar::EntryType::{Char, Link, Symlink};
    let host = Heart::new().registry.host();
    let plugins = two(&host);
    let layer = blob_path(&Digest::of(&plugins[1].artifact.module));
    let manifest = blob_path(&plugins[1].artifact.manifest.digest());
    let all = || entries(&plugins);
    let at = |entries: &[Entry], path: &str| entries.iter().position(|entry| entry.path == path).unwrap();
    let with = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut entries = all();
        change(&mut entries);
        archive(&entries)
    };
    let replaced = |path: &str, by: Entry| {
        with(&|entries: &mut Vec<Entry>| {
            let at = at(entries, path);
            entries[at] = by.clone();
        })
    };
    let behind = |entry: Entry| with(&|entries: &mut Vec<Entry>| entries.push(entry.clone()));
    let mut lies = list(&plugins);
    lies["plugins"][1]["module"] = json!(Digest::of(b"another"));
    let mut other = plugins[1].artifact.module.clone();
    other[100] ^= 1;
    let whole = archive(&all());
    let last = at(&all(), &layer);
    let cut: usize = all()[..last].iter().map(|entry| 512 + entry.bytes.len().next_multiple_of(512)).sum();
    let spoiled = [(layer.as_str(), "bad_entry"), ("bad", "bad_entry")];
    let rows: Vec<Row<'_>> = vec![
        (
            "a layer of other bytes",
            replaced(&layer, Entry::file(&layer, other.clone())),
            &[("bad", "digest_mismatch")],
            1,
        ),
        (
            "a layer cut short",
            replaced(&layer, Entry::file(&layer, &other[..9000])),
            &[("bad", "size_mismatch")],
            1,
        ),
        (
            "a manifest of other bytes",
            replaced(&manifest, Entry::file(&manifest, "{}")),
            &[("bad", "digest_mismatch")],
            1,
        ),
        ("no layer", with(&|entries| drop(entries.remove(last))), &[("bad", "not_in_bundle")], 1),
        (
            "a module that the list does not tell of",
            replaced("larder.json", Entry::file("larder.json", lies.to_string())),
            &[("bad", "module_mismatch")],
            1,
        ),
        ("a link for a layer", replaced(&layer, Entry::link(&layer, Symlink, "/etc/passwd")), &spoiled, 1),
        ("a hard link for a layer", replaced(&layer, Entry::link(&layer, Link, "larder.json")), &spoiled, 1),
        (
            "a device for a layer",
            replaced(&layer, Entry { kind: Char, ..Entry::file(&layer, "") }),
            &spoiled,
            1,
        ),
        ("a layer that stands there twice", behind(Entry::file(&layer, other.clone())), &spoiled, 1),
        ("a way out", behind(Entry::file("../../way-out", "x")), &[("../../way-out", "bad_entry")], 2),
        (
            "a way out among the blobs",
            behind(Entry::file("blobs/sha256/../../../way-out", "x")),
            &[("blobs/sha256/../../../way-out", "bad_entry")],
            2,
        ),
        ("an absolute name", behind(Entry::file("/tmp/way-out", "x")), &[("/tmp/way-out", "bad_entry")], 2),
        ("an archive cut in its last layer", whole[..cut + 512 + 3000].to_vec(), &spoiled, 1),
        ("an archive cut before its last layer", whole[..cut].to_vec(), &[("bad", "not_in_bundle")], 1),
        (
            "a layer of eight gigabytes that is not there",
            replaced(&layer, Entry { size: Some(8 << 30), ..Entry::file(&layer, other) }),
            &spoiled,
            1,
        ),
        ("another file beside them", behind(Entry::file("manifest.json", "[]")), &[], 2),
        (
            "names with ./ before them",
            with(&|entries| entries.iter_mut().for_each(|entry| entry.path.insert_str(0, "./"))),
            &[],
            2,
        ),
        ("another order", with(&|entries| entries.reverse()), &[], 2),
    ];
    for (row, bytes, told, good) in rows {
        let heart = Heart::new();
        let imported = imported(&heart, &bytes).await.unwrap_or_else(|code| panic!("{row}: {code}"));
        let found = codes(&imported);
        let found: Vec<_> = found.iter().map(|(what, code)| (what.as_str(), code.as_str())).collect();
        assert_eq!(found, told, "{row}");
        assert_eq!((imported.imported, imported.refused), (good, told.len()), "{row}");
        nothing_bad_is_kept(&heart, row, good);
    }
    assert!(!Path::new("/tmp/way-out").exists());
}

#[tokio::test]
async fn artifacts_that_hold_no_usable_module_are_named_with_the_same_codes_as_of_a_registry() {
    let heart = Heart::new();
    let broken = broken();
    let plugins: Vec<_> =
        broken.iter().map(|(name, artifact, _)| plugin("r.test", name, artifact.clone())).collect();
    let imported = imported(&heart, &archive(&entries(&plugins))).await.unwrap();
    let told: Vec<_> = broken.iter().map(|(name, _, code)| (name.to_string(), code.to_string())).collect();
    assert_eq!(codes(&imported), told);
    nothing_bad_is_kept(&heart, "broken", 0);
}

#[tokio::test]
async fn a_bundle_that_says_nothing_of_itself_that_can_be_believed_is_refused_as_a_whole() {
    let host = "r.test";
    let all = || entries(&two(host));
    let with = |entry: Entry| archive(&[vec![entry], all().into_iter().skip(1).collect()].concat());
    let own = |text: &str| with(Entry::file("larder.json", text));
    let twice = archive(&[all(), vec![all()[0].clone()]].concat());
    let link =
        archive(&[all(), vec![Entry::link("larder.json", tar::EntryType::Symlink, "/etc/passwd")]].concat());
    let packed = zstd::encode_all(&archive(&all())[..], 1).unwrap();
    // Ten gigabytes of zeros in a few kilobytes.
    let zeros = zstd::encode_all(&vec![0; 64 << 20][..], 1).unwrap().repeat(160);
    for (row, bytes, code) in [
        (
            "no archive",
            b"not an archive, though longer than a header of one would be".repeat(20),
            "no_bundle",
        ),
        ("nothing", Vec::new(), "no_bundle"),
        ("an empty archive", vec![0; 1024], "no_bundle"),
        ("an archive of something else", archive(&[Entry::file("README", "x")]), "no_bundle"),
        ("two lists", twice, "bad_entry"),
        ("a link for a list", link, "bad_entry"),
        ("a list of another format", own(r#"{"format": 2, "plugins": []}"#), "bad_list"),
        ("no list", own("[]"), "bad_list"),
        ("a list of depth", own(&"[".repeat(100_000)), "bad_list"),
        ("a list of five megabytes", own(&" ".repeat(5_000_000)), "index_too_large"),
        ("a member that nobody knows", own(r#"{"format": 1, "plugins": [], "more": 1}"#), "bad_list"),
        ("a reference that is none", own(r#"{"format": 1, "plugins": [{"reference": "../x"}]}"#), "bad_list"),
        ("an index of depth", archive(&[Entry::file("index.json", "[".repeat(100_000))]), "bad_index"),
        ("gzip that is cut", gzip(&archive(&all()))[..5000].to_vec(), "bad_packing"),
        ("zstd that is cut", packed[..packed.len() - 100].to_vec(), "bad_packing"),
        ("ten gigabytes of zeros", zeros, "unpacked_too_large"),
    ] {
        let heart = Heart::with(|_| heart::Setup { disk: 100 << 20, ..Default::default() });
        assert_eq!(imported(&heart, &bytes).await.map(|_| ()), Err(code.to_owned()), "{row}");
        nothing_bad_is_kept(&heart, row, 0);
    }
}

/// A larder whose administration wants a token, and what it writes down.
fn guarded(host: &str, more: &str) -> Larder {
    let home = Home::in_memory("");
    let (tokens, audit) = (home.path().join("tokens"), home.path().join("audit"));
    std::fs::write(&tokens, format!("{TOKEN}\n")).unwrap();
    let admin =
        format!("admin: {{token_file: '{}', audit: {{file: '{}'}}}}\n", tokens.display(), audit.display());
    home.with(&format!("{}{admin}{more}", settings(host))).start()
}

/// Sends a bundle.
fn sent(larder: &Larder, query: &str, headers: &[(&str, &str)], bytes: &[u8]) -> Reply {
    let length = bytes.len().to_string();
    let headers = [&[("Content-Length", length.as_str()), ("Connection", "close")], headers].concat();
    let head = client::head("POST", &format!("/api/v1/import{query}"), &headers);
    client::raw(larder.admin, &[head, bytes.to_vec()].concat()).unwrap()
}

#[test]
fn a_running_larder_takes_a_bundle_from_whoever_may_and_names_what_it_leaves_out() {
    let registry = Scripted::start();
    let larder = guarded(&registry.host(), "");
    let plugins = two(&registry.host());
    let mut spoiled = entries(&plugins);
    spoiled.pop();
    let bytes = archive(&spoiled);
    let token = format!("Bearer {TOKEN}");
    let tar = ("Content-Type", "application/x-tar");
    let mine = [("Authorization", token.as_str()), tar];
    assert_eq!(sent(&larder, "", &[tar], &bytes).status, 401);
    let form = [("Authorization", token.as_str()), ("Content-Type", "multipart/form-data")];
    assert_eq!(sent(&larder, "", &form, &bytes).status, 415);
    assert_eq!(sent(&larder, "?dry_run=perhaps", &mine, &bytes).status, 400);
    assert_eq!(sent(&larder, "", &mine, b"nothing").json()["code"], "no_bundle");
    let looked = sent(&larder, "?dry_run=true", &mine, &bytes);
    assert_eq!((looked.status, &looked.json()["imported"]), (422, &json!(1)), "{}", looked.text());
    assert!(heart::files(&larder.home.cache().join("v1/modules")).is_empty(), "a dry run keeps nothing");
    let reply = sent(&larder, "", &mine, &bytes);
    assert_eq!(reply.status, 422, "{}", reply.text());
    let told = reply.json();
    assert_eq!(
        (&told["imported"], &told["refused"], &told["dry_run"]),
        (&json!(1), &json!(1), &json!(false))
    );
    assert_eq!(
        (&told["items"][0]["state"], &told["items"][1]["error"]["code"]),
        (&json!("imported"), &json!("not_in_bundle"))
    );
    assert!(registry.asked().is_empty(), "no registry was asked");
    // Served, and asked about behind the request.
    assert_eq!(larder.get("/plugins/good/1/plugin.wasm").body, plugins[0].artifact.module);
    let again = sent(&larder, "", &mine, &archive(&entries(&plugins)));
    assert_eq!((again.status, &again.json()["unchanged"]), (200, &json!(1)), "{}", again.text());
    let packed = zstd::encode_all(&archive(&entries(&plugins))[..], 1).unwrap();
    let zstd = [("Authorization", token.as_str()), ("Content-Type", "application/zstd")];
    assert_eq!(sent(&larder, "", &zstd, &packed).json()["unchanged"], 2);
    assert!(heart::files(&larder.home.cache().join("v1/tmp")).is_empty());
    let audit = std::fs::read_to_string(larder.home.path().join("audit")).unwrap();
    let lines: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let results: Vec<_> = lines.iter().map(|line| line["result"].as_str().unwrap()).collect();
    assert_eq!(results[results.len() - 4..], ["left_out", "left_out", "ok", "ok"], "{audit}");
    assert_eq!(lines.last().unwrap()["what"]["digest"], json!(Digest::of(&packed)));
}

#[test]
fn the_command_sends_a_bundle_to_a_running_larder_and_one_that_is_too_large_is_refused() {
    let registry = Scripted::start();
    let small = "cache: {disk: 2MiB}\nlimits: {module: 1MiB}\n";
    let larder = guarded(&registry.host(), small);
    let bundle = larder.home.path().join("plugins.tar");
    std::fs::write(&bundle, archive(&entries(&two(&registry.host())))).unwrap();
    let (admin, tokens) = (format!("http://{}", larder.admin), larder.home.path().join("tokens"));
    let import = || {
        let mut command = larder.home.command(&[]);
        command.args(["import", bundle.to_str().unwrap(), "--admin", &admin]);
        command.arg("--admin-token-file").arg(&tokens).output().unwrap()
    };
    let told = import();
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    assert!(String::from_utf8_lossy(&told.stdout).contains("2 plugins imported"), "{told:?}");
    let token = format!("Bearer {TOKEN}");
    let headers = [("Authorization", token.as_str()), ("Content-Type", "application/x-tar")];
    // The head says it all: what is sent behind it would meet an end that is closed.
    let length = (3 << 20).to_string();
    let headers = [&[("Content-Length", length.as_str())][..], &headers].concat();
    let large = client::raw(larder.admin, &client::head("POST", "/api/v1/import", &headers)).unwrap();
    assert_eq!((large.status, &large.json()["code"]), (413, &json!("body_too_large")));
    assert_eq!(larder.get("/plugins/bad/1/plugin.wasm").status, 200, "nothing left for it");
}

#[test]
fn bundles_in_a_mounted_folder_are_imported_at_the_start_and_never_take_the_place_of_what_came_after() {
    let registry = Scripted::start();
    let plugins = two(&registry.host());
    let mounted = tempfile::tempdir().unwrap();
    std::fs::write(mounted.path().join("a.tar"), archive(&entries(&plugins))).unwrap();
    std::fs::write(mounted.path().join("broken.tar.zst"), b"nothing").unwrap();
    std::fs::write(mounted.path().join(".hidden.tar"), b"nothing").unwrap();
    std::fs::set_permissions(mounted.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    let text = format!(
        "{}import: {{dir: '{}'}}\nwarm_up: {{ready_when: warmed}}\nlifetimes: {{tag: 0s, absent: 0s}}\n",
        settings(&registry.host()),
        mounted.path().display()
    );
    let larder = Home::in_memory(&text).start();
    eventually("the start's end", || (client::get(larder.admin, "/readyz").status == 200).then_some(()));
    for plugin in &plugins {
        let reply = larder.get(&format!("/plugins/{}/1/plugin.wasm", plugin.name));
        assert_eq!((reply.status, &reply.body), (200, &plugin.artifact.module), "{}", plugin.name);
    }
    let told =
        |larder: &Larder, event: &str| larder.log().iter().filter(|line| line["message"] == event).count();
    let once = |larder: &Larder, event| eventually(event, || (told(larder, event) == 1).then_some(()));
    once(&larder, "imported at the start");
    // One that is none is told, and the next is looked at.
    once(&larder, "not imported");
    // A registry has something newer by now.
    let newer = module("newer", 9000);
    registry.put("plugins/good", "1", &raw(&newer));
    eventually("the newer one", || (larder.get("/plugins/good/1/plugin.wasm").body == newer).then_some(()));
    let larder = larder.kill().start();
    eventually("the start's end", || (client::get(larder.admin, "/readyz").status == 200).then_some(()));
    once(&larder, "was imported before, and all of it is held");
    assert_eq!(larder.get("/plugins/good/1/plugin.wasm").body, newer, "the bundle does not win again");
    std::fs::set_permissions(mounted.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
}

pub fn openssl(folder: &Path, words: &[&str]) -> bool {
    Command::new("openssl")
        .args(words)
        .current_dir(folder)
        .output()
        .expect("openssl is installed")
        .status
        .success()
}

#[test]
fn a_bundle_that_has_to_be_signed_and_is_not_is_refused_before_anything_of_it_is_looked_at() {
    let registry = Scripted::start();
    registry.put("plugins/waf", "1", &raw(&module("waf", 9000)));
    let home = Home::in_memory(&settings(&registry.host()));
    let folder = home.path().to_owned();
    for name in ["ours", "theirs"] {
        let (key, public) = (format!("{name}.key"), format!("{name}.pub"));
        assert!(openssl(
            &folder,
            &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key]
        ));
        assert!(openssl(&folder, &["pkey", "-in", &key, "-pubout", "-out", &public]));
    }
    let at = |name: &str| folder.join(name).display().to_string();
    let export = |words: &[&str]| {
        let told = home.command(&[]).args(["export", "waf@1"]).args(words).output().unwrap();
        assert!(told.status.success(), "{told:?}");
    };
    export(&["-o", &at("signed.tar"), "--sign-key", &at("ours.key")]);
    export(&["-o", &at("unsigned.tar")]);
    export(&["-o", &at("foreign.tar.zst"), "--sign-key", &at("theirs.key")]);
    let tar = Command::new("tar")
        .args(["-xf", "signed.tar", "larder.json", "larder.json.sig"])
        .current_dir(&folder)
        .status();
    assert!(tar.unwrap().success());
    let sh =
        "base64 -d larder.json.sig > sig && openssl dgst -sha256 -verify ours.pub -signature sig larder.json";
    assert!(
        Command::new("sh").args(["-c", sh]).current_dir(&folder).status().unwrap().success(),
        "openssl agrees"
    );
    // Behind a signed list, another one.
    let mut bytes = std::fs::read(at("signed.tar")).unwrap();
    let size = bytes.windows(8).position(|window| window == b"\"size\": ").unwrap();
    bytes[size + 8] ^= 1;
    assert!(bytes[size + 8].is_ascii_digit(), "it is a list as before");
    std::fs::write(at("edited.tar"), &bytes).unwrap();
    let text = format!("{}import: {{verify_key: '{}'}}\n", settings(&registry.host()), at("ours.pub"));
    for (bundle, code, word) in [
        ("unsigned.tar", 65, "has to be signed\nlarder: larder export --sign-key"),
        ("foreign.tar.zst", 65, "is not one of larder.json by the key"),
        ("edited.tar", 65, "is not one of larder.json by the key"),
        ("signed.tar", 0, "1 plugin imported"),
    ] {
        let there = Home::in_memory(&text);
        let told = there.command(&[]).args(["import", &at(bundle)]).output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
        assert_eq!(told.status.code(), Some(code), "{bundle}: {said}");
        assert!(said.contains(word), "{bundle}: {said}");
        assert_eq!(heart::files(&there.cache().join("v1/modules")).len(), usize::from(code == 0), "{bundle}");
    }
    let there = Home::in_memory(&settings(&registry.host()));
    let told = there
        .command(&[])
        .args(["import", &at("unsigned.tar"), "--verify-key", &at("ours.pub")])
        .output()
        .unwrap();
    assert_eq!(told.status.code(), Some(65), "{told:?}");
}

#[test]
fn a_key_as_cosign_makes_it_signs_with_its_password_and_openssl_reads_the_signature() {
    let registry = Scripted::start();
    registry.put("plugins/waf", "1", &raw(&module("waf", 9000)));
    let home = Home::in_memory(&settings(&registry.host()));
    let folder = home.path();
    let run = |command: &mut Command| {
        let output = command.current_dir(folder).env("COSIGN_PASSWORD", "correct horse").output();
        let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(&mut Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cosign-key")));
    let (bundle, key) = (folder.join("plugins.tar"), folder.join("cosign.key"));
    let export = |password: &str| {
        let mut command = home.command(&[]);
        command.args([
            "export",
            "waf@1",
            "-o",
            bundle.to_str().unwrap(),
            "--sign-key",
            key.to_str().unwrap(),
        ]);
        command.env("COSIGN_PASSWORD", password).output().unwrap()
    };
    let wrong = export("wrong");
    assert_eq!(wrong.status.code(), Some(65), "{wrong:?}");
    assert!(registry.asked().is_empty(), "a wrong password is told before anything is fetched");
    assert!(export("correct horse").status.success());
    run(Command::new("tar").args(["-xf", "plugins.tar", "larder.json", "larder.json.sig"]));
    run(Command::new("openssl").args(["base64", "-d", "-A", "-in", "larder.json.sig", "-out", "sig"]));
    run(Command::new("openssl").args([
        "dgst",
        "-sha256",
        "-verify",
        "cosign.pub",
        "-signature",
        "sig",
        "larder.json",
    ]));
    let there = Home::in_memory(&settings(&registry.host()));
    let mut command = there.command(&[]);
    command.args(["import", bundle.to_str().unwrap(), "--verify-key"]).arg(folder.join("cosign.pub"));
    let told = command.output().unwrap();
    assert!(told.status.success(), "{told:?}");
}

#[tokio::test]
async fn what_is_held_by_another_name_is_not_read_again_and_states_are_told() {
    let heart = Heart::new();
    let plugins = two(&heart.registry.host());
    let bytes = archive(&entries(&plugins));
    let first = imported(&heart, &bytes).await.unwrap();
    assert!(first.items.iter().all(|item| item.state == State::Imported));
    let second = imported(&heart, &bytes).await.unwrap();
    assert!(second.items.iter().all(|item| item.state == State::Unchanged));
    assert_eq!(heart.ok("good", "1").await.0, plugins[0].artifact.module);
}

#[tokio::test]
async fn what_a_bundle_brought_is_served_and_asked_about_and_never_takes_the_place_of_a_registrys_word() {
    let heart = Heart::new();
    let plugins = two(&heart.registry.host());
    let newer = module("newer", 9000);
    heart.registry.put("plugins/good", "1", &raw(&newer));
    let bytes = archive(&entries(&plugins));
    imported(&heart, &bytes).await.unwrap();
    let told = heart.administration.entry(&plugins[0].reference).unwrap();
    assert_eq!((told.checked_at, told.expires_at), (None, None));
    // At once, though nobody confirmed it, and with no age to speak of.
    let (served, status) = heart.ok("good", "1").await;
    assert_eq!(served, plugins[0].artifact.module);
    assert_eq!(status, "larder; hit; ttl=-0; detail=stale-while-revalidate");
    heart.settle().await;
    assert_eq!(heart.ok("good", "1").await.0, newer, "the registry was asked behind it");
    let again = imported(&heart, &bytes).await.unwrap();
    assert_eq!((again.kept, again.unchanged, again.imported), (1, 1, 0), "{again:?}");
    assert_eq!(again.items[0].state, State::Kept);
    assert_eq!(heart.ok("good", "1").await.0, newer);
    assert!(heart.administration.entry(&plugins[0].reference).unwrap().checked_at.is_some());
}

#[tokio::test]
async fn what_left_the_cache_again_for_others_of_a_bundle_is_told_and_not_counted_as_imported() {
    let heart = Heart::with(|_| heart::Setup { disk: 30_000, ..Default::default() });
    let bytes = archive(&entries(&two(&heart.registry.host())));
    let imported = imported(&heart, &bytes).await.unwrap();
    assert_eq!(codes(&imported), [("good".to_owned(), "evicted".to_owned())]);
    assert_eq!((imported.imported, imported.refused), (1, 1));
}

#[test]
fn a_second_bundle_is_refused_before_anything_of_it_is_kept_while_one_is_still_coming() {
    use std::io::{Read, Write};
    let registry = Scripted::start();
    let larder = guarded(&registry.host(), "");
    let bytes = archive(&entries(&two(&registry.host())));
    let token = format!("Bearer {TOKEN}");
    let mine = [("Authorization", token.as_str()), ("Content-Type", "application/x-tar")];
    let length = bytes.len().to_string();
    let more = [("Content-Length", length.as_str()), ("Expect", "100-continue")];
    let mut first = client::connect(larder.admin).unwrap();
    first.write_all(&client::head("POST", "/api/v1/import", &[&mine[..], &more].concat())).unwrap();
    let mut told = [0; 25];
    first.read_exact(&mut told).unwrap();
    assert_eq!(told, *b"HTTP/1.1 100 Continue\r\n\r\n");
    let head = client::head("POST", "/api/v1/import", &[&mine[..], &more[..1]].concat());
    let second = client::raw(larder.admin, &head).unwrap();
    assert_eq!((second.status, &second.json()["code"]), (409, &json!("importing")), "{}", second.text());
    first.write_all(&bytes).unwrap();
    let first = client::read_reply(&mut first, false).unwrap();
    assert_eq!((first.status, &first.json()["imported"]), (200, &json!(2)), "{}", first.text());
}

#[test]
fn a_packed_bundle_is_looked_through_within_a_limit_and_of_two_lists_neither_is_believed() {
    let plugins = two("r.test");
    let packed = |entries: &[Entry]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &gzip(&archive(entries))).unwrap();
        file
    };
    let code = |entries: &[Entry], most| {
        import::said(packed(entries).path(), most).map(|_| "ok").map_err(|refused| refused.code)
    };
    let mut foreign: Vec<_> = entries(&plugins).into_iter().skip(1).collect();
    assert_eq!(code(&foreign, 1 << 20), Ok("ok"));
    foreign.reverse();
    assert_eq!(code(&foreign, 10_000), Err("unpacked_too_large"));
    let all = entries(&plugins);
    assert_eq!(code(&[all.clone(), vec![all[0].clone()]].concat(), 1 << 20), Ok("ok"), "read to its blobs");
    assert_eq!(code(&[&all[..1], &all[..]].concat(), 1 << 20), Err("bad_entry"));
    let link = Entry::link("larder.json", tar::EntryType::Symlink, "/etc/passwd");
    assert_eq!(code(&[vec![link], all].concat(), 1 << 20), Err("bad_entry"));
}

#[tokio::test]
async fn a_mounted_bundle_waits_while_another_one_is_being_taken_in() {
    let mut heart = Heart::new();
    let mounted = tempfile::tempdir().unwrap();
    let bytes = archive(&entries(&two(&heart.registry.host())));
    std::fs::write(mounted.path().join("a.tar"), bytes).unwrap();
    let config = import::Config { dir: Some(mounted.path().into()), verify_key: None };
    std::sync::Arc::get_mut(&mut heart.administration).unwrap().imports = import::Imports::new(config);
    let turn = heart.administration.import_turn().unwrap();
    let mut start = std::pin::pin!(heart.administration.import_at_start());
    // However slow the machine is, it is not over: this only gives a wrong one the time to give up.
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut start).await;
    assert!(early.is_err() && heart.files("modules").is_empty());
    drop(turn);
    start.await;
    assert_eq!(heart.files("modules").len(), 2);
}

#[tokio::test]
async fn where_what_a_registry_confirmed_is_withheld_a_bundle_brings_what_the_policy_takes() {
    let mut heart = Heart::new();
    heart.registry.put("plugins/good", "1", &raw(&module("large", 60_000)));
    heart.ok("good", "1").await;
    let plugins = two(&heart.registry.host());
    let bytes = archive(&entries(&plugins));
    let kept = imported(&heart, &bytes).await.unwrap();
    assert_eq!((kept.imported, kept.kept), (1, 1), "{kept:?}");
    heart.registry.down();
    heart.policy("largest: 30kB");
    assert_eq!(heart.code("good", "1").await, "too_large_for_policy");
    let again = imported(&heart, &bytes).await.unwrap();
    assert_eq!((again.imported, again.unchanged, again.kept), (1, 1, 0), "{again:?}");
    assert_eq!(heart.ok("good", "1").await.0, plugins[0].artifact.module);
    // What it has and the policy withholds too is told as refused, not as held.
    heart.policy("largest: 10kB");
    let refused = imported(&heart, &bytes).await.unwrap();
    let too_large = ["good", "bad"].map(|name| (name.to_owned(), "too_large_for_policy".to_owned()));
    assert_eq!(codes(&refused), too_large);
}

#[test]
fn what_a_bundle_brings_is_counted_where_it_is_not_what_is_locked_and_written_down_where_it_is_refused() {
    let registry = Scripted::start();
    let plugins = two(&registry.host());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("larder.lock.json");
    let locked = json!({
        "name": "good",
        "version": "1",
        "reference": plugins[0].reference,
        "manifest": Digest::of(b"another manifest").to_string(),
        "module": Digest::of(b"another module").to_string(),
    });
    std::fs::write(&file, json!({"larder-lock": 1, "plugins": [locked]}).to_string()).unwrap();
    let larder = guarded(
        &registry.host(),
        &format!(
            "lock: {{file: '{}', mode: record}}\npolicy: {{rules: [{{plugin: bad, allow: false}}]}}\n",
            file.display()
        ),
    );
    let token = format!("Bearer {TOKEN}");
    let mine = [("Authorization", token.as_str()), ("Content-Type", "application/x-tar")];
    let bytes = archive(&entries(&plugins));
    let mismatches = || larder.metric("larder_lock_mismatch_total{mode=\"record\"}");
    sent(&larder, "?dry_run=true", &mine, &bytes);
    assert_eq!(mismatches(), 0.0, "nothing of it is served");
    for states in [["imported", "refused"], ["unchanged", "refused"]] {
        let told = sent(&larder, "", &mine, &bytes).json();
        let is = [&told["items"][0]["state"], &told["items"][1]["state"]];
        assert_eq!(is, [&json!(states[0]), &json!(states[1])], "{told}");
        assert_eq!(mismatches(), 1.0);
    }
    let decisions = || {
        let text = std::fs::read_to_string(larder.home.path().join("audit")).unwrap();
        let whole = text.rsplit_once('\n').map(|(whole, _)| whole.to_owned()).unwrap_or_default();
        let lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["action"] == "policy").collect::<Vec<_>>()
    };
    let line = eventually("the refusal written down", || decisions().pop());
    assert_eq!((&line["result"], decisions().len()), (&json!("not_allowed"), 1), "{line}");
    assert_eq!(line["what"]["reference"], plugins[1].reference);
}
