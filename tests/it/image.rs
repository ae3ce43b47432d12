//! The image: what is in it, and how a container of it lives and ends.

use crate::support::artifact::{module, raw};
use crate::support::client;
use crate::support::contained::{Contained, Options};
use crate::support::image::{NAME, image, image_for, own, platforms_made};
use crate::support::netns;
use crate::support::scripted::Scripted;
use serde_json::json;
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// Health checks of compose files call this.
const CHECK: &str = "curl -sf http://127.0.0.1:8080/";

/// What the stock chart gives, on a root that cannot be written to.
fn stock() -> Options {
    Options { read_only: true, memory: Some(256 << 20), processors: Some(0.5), ..Options::default() }
}

fn code(container: &Contained, script: &str) -> Option<i32> {
    container.run(&["sh", "-c", script]).status.code()
}

#[test]
fn the_image_promises_a_user_two_ports_a_volume_an_entrypoint_and_nothing_else() {
    let mut config = image().config["config"].clone();
    // Whatever the base has of it; there is no other.
    let environment = config.as_object_mut().unwrap().remove("Env").unwrap_or_default();
    let named = environment.as_array().into_iter().flatten();
    assert!(named.clone().all(|one| one.as_str().unwrap().starts_with("PATH=")), "{environment}");
    let labels = config.as_object_mut().unwrap().remove("Labels").unwrap();
    assert_eq!(
        config,
        json!({
            "User": "65532:65532",
            "ExposedPorts": {"8080/tcp": {}, "9090/tcp": {}},
            "Entrypoint": ["/usr/bin/larder"],
            "Volumes": {"/var/lib/larder": {}},
            "StopSignal": "SIGTERM",
        })
    );
    for (name, value) in [
        ("title", "larder"),
        ("description", env!("CARGO_PKG_DESCRIPTION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(labels[format!("org.opencontainers.image.{name}")], value, "{labels}");
    }
}

#[test]
fn nothing_is_in_the_image_but_busybox_and_what_is_named_here() {
    let root = &image().root;
    let mut found = BTreeSet::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let entry = entry.unwrap();
            let name = format!("/{}", entry.path().strip_prefix(root).unwrap().display());
            let (metadata, is_folder) = (entry.metadata().unwrap(), entry.file_type().unwrap().is_dir());
            let mode = metadata.permissions().mode() & 0o7777;
            if is_folder {
                folders.push(entry.path());
            }
            // busybox's own: its programs, libraries and folders.
            let own = ["/bin", "/lib64", "/root", "/tmp", "/lib", "/etc", "/usr", "/usr/bin"];
            if own.contains(&name.as_str()) || name.starts_with("/bin/") {
                continue;
            }
            let library = name.strip_prefix("/lib/").is_some_and(|name| name != "libgcc_s.so.1");
            if !library {
                found.insert(format!("{name} {}:{} {mode:o}", metadata.uid(), metadata.gid()));
            }
        }
    }
    let expected = [
        "/etc/group 0:0 644",
        "/etc/passwd 0:0 644",
        "/lib/libgcc_s.so.1 0:0 644",
        "/usr/bin/curl 0:0 777",
        "/usr/bin/larder 0:0 755",
        "/usr/share 0:0 755",
        "/usr/share/nginx 0:0 755",
        "/usr/share/nginx/html 0:0 755",
        "/usr/share/nginx/html/plugins 0:0 755",
        "/var 0:0 755",
        "/var/lib 0:0 755",
        "/var/lib/larder 65532:0 775",
    ];
    assert_eq!(found, expected.map(String::from).into());
    assert_eq!(std::fs::read_link(root.join("usr/bin/curl")).unwrap(), Path::new("larder"));
    let users = std::fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(users.starts_with("root:"), "busybox's users stay: {users}");
    assert!(users.contains("\nlarder:x:65532:65532:"), "{users}");
}

#[test]
fn a_container_needs_no_configuration_and_is_well_when_its_health_check_says_so() {
    let image = image();
    let name = "image::a_container_needs_no_configuration_and_is_well_when_its_health_check_says_so";
    if !netns::alone(name, &[]) {
        return;
    }
    let container = Contained::start(image, &stock());
    assert_eq!(client::get(container.data, "/").status, 200);
    assert_eq!(client::get(container.admin, "/livez").status, 200);
    assert_eq!(code(&container, CHECK), Some(0));
    let told =
        container.run(&["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "127.0.0.1:9090/readyz"]);
    assert_eq!(String::from_utf8_lossy(&told.stdout), "200");
    assert_eq!(container.warnings(), Vec::<String>::new());
    // Alive, and deaf.
    container.signal("STOP");
    assert_eq!(code(&container, &CHECK.replace("-sf", "-sf -m 1")), Some(28));
    container.signal("CONT");
    assert_eq!(code(&container, CHECK), Some(0));
    assert_eq!(code(&container, &CHECK.replace("8080/", "8080/plugins/Not-A-Name")), Some(22));
    assert_eq!(code(&container, &CHECK.replace("8080", "8081")), Some(7), "nobody is there");
    assert_eq!(container.kills(), 0);
}

#[test]
fn a_container_that_can_write_nowhere_serves_from_memory() {
    let image = image();
    if !netns::alone("image::a_container_that_can_write_nowhere_serves_from_memory", &[]) {
        return;
    }
    let registry = Scripted::start();
    let bytes = module("own", 50_000);
    registry.put("plugins/own", "1", &raw(&bytes));
    let variables = [
        ("LARDER_CATALOG_TEMPLATE", format!("{}/plugins/{{name}}:{{version}}", registry.host())),
        ("LARDER_REGISTRY_PLAIN_HTTP", registry.host()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
    let container = Contained::start(image, &Options { without_volumes: true, variables, ..stock() });
    assert_ne!(code(&container, "touch /var/lib/larder/x"), Some(0));
    for _ in 0..2 {
        let reply = client::get(container.data, "/plugins/own/1/plugin.wasm");
        assert_eq!((reply.status, reply.body == bytes), (200, true), "{}", reply.text());
    }
    assert_eq!(registry.count(|ask| ask.is_blob()), 1, "and it is held");
    assert_eq!(code(&container, CHECK), Some(0));
}

#[test]
fn what_a_derived_image_copies_into_the_plugins_is_served_without_any_network() {
    let image = image();
    let name = "image::what_a_derived_image_copies_into_the_plugins_is_served_without_any_network";
    let context = tempfile::tempdir().unwrap();
    let bytes = module("mine", 30_000);
    std::fs::write(context.path().join("plugin.wasm"), &bytes).unwrap();
    let dockerfile =
        format!("FROM {NAME}\nCOPY plugin.wasm /usr/share/nginx/html/plugins/mine/1.0.0/plugin.wasm\n");
    if !netns::alone(name, &[]) {
        return;
    }
    // This needs no network either.
    let derived = image.derived(&dockerfile, context.path());
    let container = Contained::start(&derived, &stock());
    let reply = client::get(container.data, "/plugins/mine/1.0.0/plugin.wasm");
    assert_eq!((reply.status, reply.body == bytes), (200, true), "{}", reply.text());
    assert_eq!(client::get(container.data, "/plugins/other/1.0.0/plugin.wasm").status, 502, "no network");
}

#[test]
fn a_container_runs_as_65532_and_can_write_into_its_volume_alone() {
    let image = image();
    if !netns::alone("image::a_container_runs_as_65532_and_can_write_into_its_volume_alone", &[]) {
        return;
    }
    // Though the root could be written to.
    let container = Contained::start(image, &Options::default());
    let text = |script: &str| {
        let output = container.run(&["sh", "-c", script]);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let own = |key: &str| text(&format!("grep -E '^{key}' /proc/1/status | tr -s '\t' ' '"));
    assert_eq!(own("Uid"), "Uid: 65532 65532 65532 65532\n");
    assert_eq!(own("Gid"), "Gid: 65532 65532 65532 65532\n");
    assert_eq!(own("CapEff"), "CapEff: 0000000000000000\n");
    assert_eq!(text("id -un").trim(), "larder");
    let everything =
        r#"find / -xdev ! -type l | while read -r path; do [ -w "$path" ] && echo "$path"; done | sort"#;
    assert_eq!(text(everything), "/tmp\n/var/lib/larder\n");
    assert_eq!(text("touch /var/lib/larder/x && ls -d /var/lib/larder/v1"), "/var/lib/larder/v1\n");
}

#[test]
fn a_user_whom_a_cluster_chose_keeps_more_plugins_on_the_volume_than_memory_holds() {
    let image = image();
    let name = "image::a_user_whom_a_cluster_chose_keeps_more_plugins_on_the_volume_than_memory_holds";
    if !netns::alone(name, &[]) {
        return;
    }
    let registry = Scripted::start();
    // More than cache.memory and fill.memory together, in which larder would hold them if it could not write.
    let plugins: Vec<_> = (0..24).map(|n| (n, module(&n.to_string(), 6 << 20))).collect();
    for (n, bytes) in &plugins {
        registry.put(&format!("plugins/p{n}"), "1", &raw(bytes));
    }
    let variables = [
        ("LARDER_CATALOG_TEMPLATE", format!("{}/plugins/{{name}}:{{version}}", registry.host())),
        ("LARDER_REGISTRY_PLAIN_HTTP", registry.host()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
    // As OpenShift's restricted-v2 has it: any number, and the group 0.
    let user = Some((1_000_660_000, 0));
    let container = Contained::start(image, &Options { user, variables, memory: Some(256 << 20), ..stock() });
    for down in [false, true] {
        for (n, bytes) in &plugins {
            let reply = client::get(container.data, &format!("/plugins/p{n}/1/plugin.wasm"));
            let told = if reply.status == 200 { String::new() } else { reply.text() };
            assert_eq!((reply.status, reply.body == *bytes), (200, true), "p{n}: {told}");
        }
        if !down {
            registry.down();
        }
    }
    let kept = container.run(&["sh", "-c", "stat -c '%u:%g %a' /var/lib/larder /var/lib/larder/v1"]);
    let (told, error) = (String::from_utf8_lossy(&kept.stdout), String::from_utf8_lossy(&kept.stderr));
    assert_eq!(told, "65532:0 775\n1000660000:0 700\n", "{}: {error}", kept.status);
    assert_eq!(container.warnings(), Vec::<String>::new());
    assert_eq!(container.kills(), 0);
}

#[test]
fn a_container_that_is_told_to_leave_says_so_and_ends_with_0() {
    let image = image();
    if !netns::alone("image::a_container_that_is_told_to_leave_says_so_and_ends_with_0", &[]) {
        return;
    }
    let mut container = Contained::start(image, &stock());
    container.signal("TERM");
    assert_eq!(container.wait().code(), Some(0), "within what a kubelet waits");
    assert!(container.log().iter().any(|line| line["message"] == "told to leave"), "{}", container.stderr());
}

#[test]
fn a_limit_of_memory_that_is_too_small_is_told_of_and_the_stock_charts_is_not() {
    let image = image();
    let name = "image::a_limit_of_memory_that_is_too_small_is_told_of_and_the_stock_charts_is_not";
    if !netns::alone(name, &[]) {
        return;
    }
    for (limit, told) in [(256, false), (160, true)] {
        let container = Contained::start(image, &Options { memory: Some(limit << 20), ..stock() });
        let log = container.stderr();
        let found = log.contains(&format!("this process may have {limit}.0 MiB"));
        assert_eq!(found, told, "{limit} MiB: {log}");
    }
}

#[test]
fn hadolint_has_nothing_to_say_about_the_dockerfile() {
    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/hadolint/bin/hadolint");
    let output =
        Command::new(judge).arg("deploy/Dockerfile").output().expect("tests/needs.sh installs hadolint");
    let said = [output.stdout, output.stderr].concat();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&said).as_ref()), (Some(0), ""));
}

#[test]
fn the_image_for_the_other_processor_begins_with_that_processors_busybox() {
    let other = if own() == "amd64" { "arm64" } else { "amd64" };
    let image = image_for(other);
    assert_eq!(image.config["architecture"], other);
    let has = |name: &str| image.root.join(name).exists();
    assert!(has("foreign") && has("usr/bin/larder") && !has("bin/busybox"));
}

/// `make image` on a machine that has these builders alone, each of which says what it was told, has what `there` says, and
/// is asked with these flags.
fn make_image(builders: &[&str], platforms: &str, there: &str, flag: &str) -> (Option<i32>, String) {
    let tools = tempfile::tempdir().unwrap();
    for tool in ["sh", "dirname", "sed", "head", "uname", "echo"] {
        let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
        let found = found.iter().find(|path| path.exists()).unwrap();
        std::os::unix::fs::symlink(found, tools.path().join(tool)).unwrap();
    }
    for builder in builders {
        let path = tools.path().join(builder);
        let answers =
            r#"case "$1 $2" in "$THERE") ;; info*) echo "$THERE" ;; *exists | inspect*) exit 1 ;; esac"#;
        std::fs::write(&path, format!("#!/bin/sh\necho {builder} \"$@\"\n{answers}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/image.sh"));
    command.arg(flag).env("PATH", tools.path()).env("PLATFORMS", platforms).env("THERE", there);
    command.env_remove("BUILDER");
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn make_image_takes_the_builder_that_is_there_and_says_which_it_looked_for() {
    let (code, said) = make_image(&[], "", "", "--no-cache");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("needs buildah, podman or docker"), "{said}");
    let store = "io.containerd.snapshotter.v1";
    for (builders, platforms, expected) in [
        (&["buildah", "docker"][..], "linux/amd64", ["buildah build --platform linux/amd64 ", " --tag "]),
        (&["podman"], "linux/arm64", ["podman build --platform linux/arm64 ", " --tag "]),
        (
            &["podman"],
            "linux/amd64,linux/arm64",
            ["--platform linux/amd64,linux/arm64 ", " --manifest localhost/"],
        ),
        (
            &["docker"],
            "linux/amd64,linux/arm64",
            ["docker build --platform linux/amd64,linux/arm64 ", " --tag "],
        ),
    ] {
        let (code, said) = make_image(builders, platforms, store, "--no-cache");
        assert_eq!(code, Some(0), "{said}");
        let tagged = format!("{}{NAME} --file deploy/Dockerfile --no-cache .", expected[1]);
        assert!(said.contains(expected[0]) && said.contains(&tagged), "{said}");
    }
}

#[test]
fn make_image_of_several_platforms_takes_the_name_from_what_had_it_and_from_nothing_else() {
    let both = "linux/amd64,linux/arm64";
    let list = format!("manifest rm localhost/{NAME}");
    let image = format!("rmi localhost/{NAME}");
    for (platforms, there, gone) in [
        (both, "manifest exists", Some(&list)),
        (both, "inspect --type", Some(&image)),
        (both, "", None),
        // A single image takes the name by itself.
        ("linux/amd64", "manifest exists", None),
    ] {
        let (code, said) = make_image(&["podman"], platforms, there, "--no-cache");
        assert_eq!(code, Some(0), "{said}");
        for one in [&list, &image] {
            assert_eq!(said.contains(one.as_str()), gone == Some(one), "{there}: {said}");
        }
    }
    let other = if own() == "amd64" { "arm64" } else { "amd64" };
    assert_eq!(platforms_made(other, 2), [2, 2]);
}

#[test]
fn docker_says_before_the_build_when_it_can_keep_no_image_of_several_platforms() {
    let both = "linux/amd64,linux/arm64";
    let (code, said) = make_image(&["docker"], both, "overlay2", "--no-cache");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("containerd image store") && !said.contains("docker build --"), "{said}");
    for (platforms, store, flag) in [
        (both, "io.containerd.snapshotter.v1", "--no-cache"),
        (both, "overlay2", "--output=type=oci,dest=larder.tar"),
        ("linux/arm64", "overlay2", "--no-cache"),
    ] {
        let (code, said) = make_image(&["docker"], platforms, store, flag);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("docker build --"), "{said}");
    }
}
