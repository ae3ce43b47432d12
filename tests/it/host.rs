//! larder on a plain host: its systemd unit and its Debian package, by a real systemd and a real dpkg.

use crate::support::artifact::{module, raw};
use crate::support::booted::Machine;
use crate::support::guide;
use crate::support::larder::{Home, settings};
use crate::support::registry::Registry;
use crate::support::{client, debian, eventually, netns};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATH: &str = "/plugins/waf/1.0.0/plugin.wasm";
/// The ports that larder has without settings.
const DATA: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);
const SETTINGS: &str = "/etc/larder/larder.yaml";
/// Tenths of systemd's figure for what a service could do to its machine: 0 is nothing, 100 all. A network, Unix sockets
/// and the machine's own files to read are what is left.
const EXPOSURE: &str = "11";

/// Everything in the package; the man pages have one for each command.
const CONTENTS: [&str; 16] = [
    "/etc/larder/larder.yaml",
    "/usr/bin/larder",
    "/usr/lib/systemd/system/larder.service",
    "/usr/share/bash-completion/completions/larder",
    "/usr/share/doc/larder/README.md",
    "/usr/share/doc/larder/README.zh-CN.md",
    "/usr/share/doc/larder/changelog.Debian.gz",
    "/usr/share/doc/larder/changelog.gz",
    "/usr/share/doc/larder/copyright",
    "/usr/share/doc/larder/examples/larder.yaml",
    "/usr/share/doc/larder/examples/plugins.properties",
    "/usr/share/fish/vendor_completions.d/larder.fish",
    "/usr/share/larder/grafana/larder.json",
    "/usr/share/larder/prometheus/alerts.yaml",
    "/usr/share/man/man1/larder.1.gz",
    "/usr/share/zsh/vendor-completions/_larder",
];

fn unit() -> String {
    format!("{}/deploy/systemd/larder.service", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_unit_leaves_larder_no_more_of_the_machine_than_it_needs() {
    let mut judge = Command::new("systemd-analyze");
    judge.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE]).arg(unit());
    let output = judge.output().expect("systemd is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let open: Vec<_> = text.lines().filter(|line| !line.contains('✓')).collect();
    assert!(output.status.success(), "more than {EXPOSURE} tenths:\n{}", open.join("\n"));
}

#[test]
fn whoever_started_larder_hears_when_both_ports_answer_and_when_it_leaves() {
    let home = Home::new("server:\n  drain: 0s\n");
    let path = home.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let heard = || {
        let mut bytes = [0; 100];
        let length = socket.recv(&mut bytes).expect("larder says how it is");
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    };
    let mut larder = home.start_with(&[], &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(heard(), "READY=1");
    for (port, path) in [(larder.data, "/plugins/"), (larder.admin, "/livez")] {
        assert_eq!(client::get(port, path).status, 200, "{path}");
    }
    larder.signal("TERM");
    assert_eq!(heard(), "STOPPING=1");
    assert!(larder.wait().success());
}

#[test]
fn the_package_holds_what_it_says_and_nothing_that_others_may_change() {
    let package = debian::package();
    let listed = debian::run(Command::new("dpkg-deb").arg("--contents").arg(&package));
    let mut files = Vec::new();
    for line in listed.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let (mode, owner, path) = (words[0], words[1], words[5].trim_start_matches('.'));
        assert!(owner == "0/0" || owner == "root/root", "not root's: {line}");
        let wanted = match path {
            "/usr/bin/larder" => "-rwxr-xr-x",
            folder if folder.ends_with('/') => "drwxr-xr-x",
            _ => "-rw-r--r--",
        };
        assert_eq!(mode, wanted, "{line}");
        // A page for each command.
        if !path.ends_with('/') && !path.contains("/man1/larder-") {
            files.push(path.to_owned());
        }
    }
    files.sort();
    assert_eq!(files, CONTENTS);
    assert!(listed.contains("/man1/larder-serve.1.gz"), "{listed}");
    let shown = |what: &str| debian::run(Command::new("dpkg-deb").arg(what).arg(&package));
    assert!(shown("--info").contains("Depends: libc6 (>= "), "what the program is linked with");
    let conffiles = debian::run(Command::new("dpkg-deb").arg("--info").arg(&package).arg("conffiles"));
    assert_eq!(conffiles.trim(), SETTINGS, "a user's changes are asked for at an upgrade");
    let shipped =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/debian/larder.yaml"));
    let set: Vec<_> = shipped.as_ref().unwrap().lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(set, [""; 0], "what is set there would meet a user as a changed default");
}

/// A machine with the package, in a network with a registry that has waf 1.0.0; and what is shared with it.
fn installed() -> (Machine, Registry, Vec<u8>, tempfile::TempDir) {
    let registry = Registry::plain();
    let bytes = module("waf", 100_000);
    registry.push("plugins/waf", "1.0.0", &raw(&bytes));
    let shared = tempfile::tempdir().unwrap();
    std::fs::copy(debian::package(), shared.path().join("larder.deb")).unwrap();
    let machine = Machine::boot(shared.path());
    machine.told(&["dpkg", "--install", "/mnt/larder.deb"]);
    (machine, registry, bytes, shared)
}

/// Waits for what `systemctl reload` asks for; larder notices a file by itself too.
fn reloaded(machine: &Machine) {
    eventually("the reload", || machine.journal().contains("\"by\":\"SIGHUP\"").then_some(()));
}

#[test]
fn the_service_does_all_that_larder_does_under_its_own_restrictions() {
    debian::package();
    if !netns::alone_for("host::the_service_does_all_that_larder_does_under_its_own_restrictions", &[], 600) {
        return;
    }
    let (machine, mut registry, bytes, _shared) = installed();
    assert_eq!(machine.told(&["systemd-analyze", "--man=no", "verify", "larder.service"]), "");
    // In use, what the filter forbids is refused; here it would end larder, so that nothing is refused unseen.
    machine
        .write("/etc/systemd/system/larder.service.d/strict.conf", "[Service]\nSystemCallErrorNumber=kill\n");
    machine.told(&["systemctl", "daemon-reload"]);
    machine.told(&["systemctl", "restart", "larder"]);
    // It serves by when that returns, without any settings.
    assert_eq!(client::get(ADMIN, "/readyz").status, 200);
    let status = format!("/proc/{}/status", machine.shown("MainPID"));
    let status = machine.told(&["cat", &status]).replace('\t', " ");
    for wanted in ["NoNewPrivs: 1", "Seccomp: 2", "CapEff: 0000000000000000", "CapBnd: 0000000000000000"] {
        assert!(status.contains(wanted), "{wanted}\n{status}");
    }
    assert!(!status.contains("Uid: 0 "), "{status}");

    // A reload takes the settings that stand there now, and a plugin is fetched and kept.
    machine.write(SETTINGS, &settings(&registry.host()));
    machine.told(&["systemctl", "reload", "larder"]);
    reloaded(&machine);
    let reply = client::get(DATA, PATH);
    assert_eq!((reply.status, &reply.body), (200, &bytes), "{}", reply.text());
    for command in [&["explain", "waf", "1.0.0"][..], &["prefetch", "waf@1.0.0"], &["list"], &["status"]] {
        machine.told(&[&["larder"], command, &["--admin", "http://127.0.0.1:9090"]].concat());
    }
    let metrics = client::get(ADMIN, "/metrics").text();
    let started = metrics.lines().find_map(|line| line.strip_prefix("process_start_time_seconds "));
    assert!(started.unwrap().parse::<u64>().unwrap() > 1_000_000_000, "when it started is known");
    let kept = machine.told(&["find", "/var/lib/private/larder", "-type", "f", "-path", "*/modules/*"]);
    assert_eq!(kept.lines().count(), 1, "{kept}");

    // What was kept outlasts a restart, by whichever user it is then, and a larder that was killed is started again.
    registry.stop();
    machine.told(&["systemctl", "restart", "larder"]);
    assert_eq!(client::get(DATA, PATH).body, bytes);
    let before = machine.shown("MainPID");
    machine.told(&["kill", "-KILL", &before]);
    eventually("another start", || {
        (machine.shown("MainPID") != before && machine.shown("ActiveState") == "active").then_some(())
    });
    assert_eq!(client::get(DATA, PATH).body, bytes);

    machine.told(&["systemctl", "stop", "larder"]);
    assert_eq!((machine.shown("Result"), machine.shown("ExecMainStatus")), ("success".into(), "0".into()));
    let journal = machine.journal();
    assert!(journal.contains("told to leave") && journal.contains("\"stopped\""), "{journal}");
    assert!(!journal.contains("SIGSYS"), "{journal}");
}

#[test]
fn the_lines_that_the_unit_offers_do_what_it_says_of_them() {
    debian::package();
    if !netns::alone_for("host::the_lines_that_the_unit_offers_do_what_it_says_of_them", &[], 600) {
        return;
    }
    let (machine, registry, bytes, shared) = installed();
    let locked = registry.with_password(shared.path(), "robot", "open sesame");
    let unit = std::fs::read_to_string(unit()).unwrap();
    let offered = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.contains('=');
    let offered: Vec<_> = unit.lines().filter(offered).map(|line| &line[1..]).collect();
    assert_eq!(offered.len(), 11, "{offered:?}");
    let user = ["DynamicUser=", "User=", "Group=", "ReadWritePaths="];
    let (of_a_user, others): (Vec<_>, Vec<_>) =
        offered.into_iter().partition(|line| user.iter().any(|key| line.starts_with(key)));
    assert_eq!(of_a_user.len(), user.len());
    let drop_in = |name: &str, lines: &[&str]| {
        let path = format!("/etc/systemd/system/larder.service.d/{name}.conf");
        machine.write(&path, &format!("[Service]\n{}\n", lines.join("\n")));
        machine.told(&["systemctl", "daemon-reload"]);
    };
    machine.told(&["groupadd", "--system", "larder-secrets"]);
    drop_in("mine", &others);
    machine.write("/etc/larder/private/harbor-password", "open sesame");
    machine.told(&["chmod", "-R", "go=", "/etc/larder/private"]);
    let host = locked.host();
    let settings = format!(
        "listen: {{data: '0.0.0.0:80'}}\ncatalog:\n  builtin: false\n  template: {host}/plugins/{{name}}:{{version}}\n  \
         plugins: {{outside: {{repositories: [registry.example/outside]}}}}\n\
         registry:\n  plain_http: ['{host}']\n  hosts:\n    '{host}': {{username: robot, \
         password_file: /run/credentials/larder.service/harbor-password}}\nserver: {{drain: 0s}}\n"
    );
    machine.write(SETTINGS, &settings);
    let serves = || {
        machine.told(&["systemctl", "restart", "larder"]);
        let reply = client::get(SocketAddr::new(DATA.ip(), 80), PATH);
        assert_eq!((reply.status, &reply.body), (200, &bytes), "{}", reply.text());
    };
    let kept = |folder: &str| {
        let found = machine.told(&["find", folder, "-type", "f", "-path", "*/modules/*"]);
        found.lines().count()
    };
    // The place of its cache is another disk, which nobody prepared.
    machine.told(&["systemctl", "stop", "larder"]);
    machine.told(&["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/lib/private/larder"]);
    assert_eq!(kept("/var/lib/private/larder"), 0);
    serves();
    assert_eq!(kept("/var/lib/private/larder"), 1);
    machine.told(&["systemctl", "stop", "larder"]);
    machine.told(&["umount", "/var/lib/private/larder"]);
    assert_eq!(kept("/var/lib/private/larder"), 0, "what was kept is on the disk");
    serves();
    let refused = client::get(SocketAddr::new(DATA.ip(), 80), "/plugins/outside/1.0.0/plugin.wasm").text();
    assert!(refused.contains("http://egress.corp:3128") && refused.contains("HTTPS_PROXY"), "{refused}");
    assert_eq!(machine.shown("MemoryMax"), (256 << 20).to_string());

    // Another folder is not written to by a user of the moment; by one that stays it is.
    machine.told(&["mkdir", "/srv/larder"]);
    machine.write(SETTINGS, &format!("{settings}cache: {{dir: /srv/larder}}\n"));
    drop_in("user", &["ReadWritePaths=/srv/larder"]);
    serves();
    assert_eq!(kept("/srv/larder"), 0, "that path alone is not enough");
    machine.told(&["systemctl", "stop", "larder"]);
    machine.told(&["useradd", "--system", "--user-group", "larder"]);
    machine.told(&["install", "-d", "-o", "larder", "-g", "larder", "-m", "700", "/srv/larder"]);
    drop_in("user", &of_a_user);
    serves();
    assert_eq!(kept("/srv/larder"), 1);
}

#[test]
fn who_follows_the_guides_lines_for_the_package_has_a_password_that_is_used_without_a_restart() {
    debian::package();
    let own = "who_follows_the_guides_lines_for_the_package_has_a_password_that_is_used_without_a_restart";
    if !netns::alone_for(&format!("host::{own}"), &[], 600) {
        return;
    }
    let block = |name: &str| {
        let path = format!("{}/deploy/guides/{name}.md", env!("CARGO_MANIFEST_DIR"));
        let blocks = guide::blocks(&std::fs::read_to_string(path).unwrap());
        let found = blocks.into_iter().find(|block| block.text.contains("SupplementaryGroups"));
        found.unwrap_or_else(|| panic!("{name} does not say how")).text
    };
    let lines = block("harbor");
    assert_eq!(lines.replace("harbor-password", "egress-password"), block("egress-proxy"));
    let (machine, registry, bytes, shared) = installed();
    let locked = registry.with_password(shared.path(), "robot", "open sesame");
    let host = locked.host();
    let password = "/etc/larder/harbor-password";
    let write = |text: &str| machine.write(password, text);
    write("not this one");
    machine.told(&["chmod", "600", password]);
    machine.write(
        SETTINGS,
        &format!(
            "catalog:\n  builtin: false\n  template: {host}/plugins/{{name}}:{{version}}\nlifetimes: {{absent: 0s, transient: 0s}}\n\
             registry:\n  plain_http: ['{host}']\n  hosts:\n    '{host}': {{username: robot, \
             password_file: {password}}}\nserver: {{drain: 0s}}\n"
        ),
    );
    // As it is there, it is no user's but root's.
    assert!(!machine.run(&["systemctl", "restart", "larder"]).0);
    assert_eq!(machine.shown("ExecMainStatus"), "78", "{}", machine.journal());
    machine.told(&["sh", "-ec", &lines]);
    let reply = client::get(DATA, PATH);
    assert_eq!(reply.status, 403, "{}", reply.text());
    let before = machine.shown("MainPID");
    write("open sesame");
    let reply = eventually("the password that is there now", || {
        let reply = client::get(DATA, PATH);
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(reply.body, bytes);
    assert_eq!(machine.shown("MainPID"), before);
    assert_eq!(machine.told(&["stat", "-c", "%a %G", password]).trim(), "640 larder-secrets");
}

#[test]
fn a_start_with_faulty_settings_fails_once_and_without_settings_it_succeeds() {
    debian::package();
    if !netns::alone_for(
        "host::a_start_with_faulty_settings_fails_once_and_without_settings_it_succeeds",
        &[],
        600,
    ) {
        return;
    }
    let (machine, ..) = installed();
    machine.write(SETTINGS, "catalogue: {}\n");
    let (succeeded, _) = machine.run(&["systemctl", "restart", "larder"]);
    assert!(!succeeded, "a start that fails is told as one");
    let shown = ["ActiveState", "ExecMainStatus", "NRestarts"].map(|property| machine.shown(property));
    assert_eq!(shown, ["failed", "78", "0"], "{}", machine.journal());
    assert!(machine.journal().contains("larder.yaml:1:1"), "{}", machine.journal());
    machine.told(&["rm", SETTINGS]);
    // A port that somebody else has is tried again. Both are what the table of failures says of systemd.
    let taken = std::net::TcpListener::bind(DATA).unwrap();
    assert!(!machine.run(&["systemctl", "restart", "larder"]).0);
    let again = || machine.shown("NRestarts") != "0";
    eventually("another start", || again().then_some(()));
    let (table, journal) = (include_str!("../../deploy/guides/troubleshooting.md"), machine.journal());
    let rows: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| systemd | `")).collect();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let words = row.split('`').next().unwrap();
        assert!(journal.contains(words), "{words}: {journal}");
    }
    drop(taken);
    eventually("the start after the port is free", || {
        (machine.shown("ActiveState") == "active").then_some(())
    });
    assert_eq!(client::get(ADMIN, "/readyz").status, 200);
}

#[test]
fn the_package_serves_once_installed_goes_on_after_an_upgrade_and_leaves_nothing_but_what_is_its_users() {
    debian::package();
    if !netns::alone_for(
        "host::the_package_serves_once_installed_goes_on_after_an_upgrade_and_leaves_nothing_but_what_is_its_users",
        &[],
        600,
    ) {
        return;
    }
    let (machine, registry, bytes, shared) = installed();
    assert_eq!(machine.told(&["systemctl", "is-enabled", "larder"]).trim(), "enabled");
    assert_eq!(client::get(ADMIN, "/readyz").status, 200);
    let mine = settings(&registry.host());
    machine.write(SETTINGS, &mine);
    machine.write("/etc/larder/plugins.properties", "waf=oci://harbor.corp/waf:1\n");
    machine.told(&["systemctl", "reload", "larder"]);
    reloaded(&machine);
    assert_eq!(client::get(DATA, PATH).body, bytes);

    // An upgrade: what was written there stays, though the package has another file by now, and the new program serves.
    drop(registry);
    let before = machine.shown("MainPID");
    std::fs::rename(
        debian::next_version(&shared.path().join("larder.deb"), shared.path()),
        shared.path().join("2.deb"),
    )
    .unwrap();
    machine.told(&["dpkg", "--force-confdef", "--force-confold", "--install", "/mnt/2.deb"]);
    assert_eq!(machine.told(&["cat", SETTINGS]), mine);
    assert_ne!(machine.shown("MainPID"), before, "the program of before is no longer there");
    assert_eq!(client::get(DATA, PATH).body, bytes, "what was kept outlasts an upgrade");

    machine.told(&["dpkg", "--remove", "larder"]);
    assert!(!machine.run(&["systemctl", "is-active", "larder"]).0);
    assert_eq!(machine.told(&["cat", SETTINGS]), mine, "a removal is no purge");
    let there = |path: &str| machine.run(&["test", "-e", path]).0;
    assert!(!there("/usr/bin/larder") && there("/var/lib/private/larder/v1"));

    machine.told(&["dpkg", "--purge", "larder"]);
    for gone in [SETTINGS, "/var/lib/private/larder", "/var/lib/larder", "/usr/share/larder"] {
        assert!(!there(gone) && !machine.run(&["test", "-L", gone]).0, "{gone} is left");
    }
    assert!(there("/etc/larder/plugins.properties"), "what the package did not bring is not its own to take");
}
