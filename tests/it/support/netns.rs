//! A network of a test's own: loopback with the addresses it wants, its own resolver settings, its own packet filter.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

/// Set inside, to the test's name.
const MARK: &str = "ALONE_IN_A_NETWORK";

/// Inside, as root of the new namespaces: the folder with the files, the addresses in one word, the command. The host's
/// name has no dot, for the resolver would search what is behind one.
const SETUP: &str = r#"
set -e
PATH=$PATH:/usr/sbin:/sbin
hostname larder-test
mount --make-rprivate /
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
ip link set lo up
for address in $2; do ip address add "$address" dev lo; done
shift 2
"$@"
"#;

/// Runs the calling test in another process, in a network of its own, where nothing of the outside can be reached:
/// `if !netns::alone("dns::a_test", &["10.99.0.1/32"]) { return; }` is the test's first line. True means that this is
/// the inside and the test goes on. Outside, it fails if the inside failed. Names are resolved by 127.0.0.1:53, one
/// try of a second, so a test for names starts a `Dns` there. `test` is the test's name with its modules.
pub fn alone(test: &str, addresses: &[&str]) -> bool {
    alone_for(test, addresses, 120)
}

/// The same for a test that may take so many seconds.
pub fn alone_for(test: &str, addresses: &[&str], seconds: u32) -> bool {
    if is_inside(test) {
        return true;
    }
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    put("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    put("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
    let addresses = addresses.join(" ");
    again(test, seconds, &["--net", "--uts"], SETUP, &[dir.path().as_ref(), addresses.as_ref()]);
    false
}

/// Whether this process has a network of its own.
pub fn is_alone() -> bool {
    std::env::var(MARK).is_ok()
}

/// Whether this is the process that `again` started for the test.
pub(super) fn is_inside(test: &str) -> bool {
    std::env::var(MARK).is_ok_and(|name| name == test)
}

/// Runs a test once more, in another process with namespaces of its own for mounts, processes and what `flags` say, for
/// at most so many seconds. `setup` is a script for the shell, which gets `arguments` and the command that it has to end
/// with.
pub(super) fn again(test: &str, seconds: u32, flags: &[&str], setup: &str, arguments: &[&OsStr]) {
    // When its limit is over, `unshare` is killed, and with it all processes of the new process namespace.
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--signal=KILL", &seconds.to_string(), "unshare"]);
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]).args(flags);
    command.args(["--", "sh", "-c", setup, "sh"]).args(arguments);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"]);
    let output = command.env(MARK, test).stdin(Stdio::null()).output().expect("unshare is installed");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed by itself ({}):\n{text}", output.status);
    // A name that is wrong selects no test, which would succeed too.
    assert!(text.contains("test result: ok. 1 passed"), "there is no test {test}:\n{text}");
}

/// Whether this process acts as root: /proc/self belongs to the user who it acts as.
pub(super) fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Loads rules into the packet filter. Only inside.
pub fn nft(rules: &str) {
    assert!(is_alone(), "rules are for a network of one's own");
    let mut child = Command::new("/usr/sbin/nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft is installed");
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft refused: {}\n{rules}", String::from_utf8_lossy(&output.stderr));
}
