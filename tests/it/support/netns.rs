//! A network of a test's own: loopback with the addresses it wants, its own resolver settings, its own packet filter. And
//! another one beside it.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
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
    alone_for(test, addresses, 240)
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

/// How many packets the counter of this name has seen, in the rules' table `inet test`.
pub fn packets(name: &str) -> u64 {
    let output =
        Command::new("/usr/sbin/nft").args(["list", "counter", "inet", "test", name]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let count = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no counter {name} in {text}"))
}

/// On the other side of the cable that leads to it: everything that is not its own goes over the cable.
const JOIN: &str = r#"
set -e
PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
ip link set far up
ip address add 10.98.0.2/24 dev far
ip -6 address add fd98::2/64 dev far nodad
ip route add default via 10.98.0.1
ip -6 route add default via fd98::1
"#;

/// Another network beside the test's own, joined to it by a cable. All that this one has can be reached over it.
pub struct Beside(File);

impl Beside {
    /// Only inside, and one for a test.
    pub fn new() -> Self {
        assert!(is_alone(), "a network beside one's own");
        // It lives as long as somebody is in it or holds its file.
        let mut first = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed");
        let begun = first.stdout.as_mut().unwrap().read_exact(&mut [0]);
        let id = first.id();
        let beside = Self(File::open(format!("/proc/{id}/ns/net")).unwrap());
        begun.expect("another network can be made");
        let cable = format!("link add near type veth peer name far netns {id}");
        for words in [
            &cable,
            "link set near up",
            "address add 10.98.0.1/24 dev near",
            "-6 address add fd98::1/64 dev near nodad",
        ] {
            succeeds(Command::new("/usr/sbin/ip").args(words.split(' ')));
        }
        beside.within(|| succeeds(Command::new("sh").args(["-c", JOIN])));
        drop(first.stdin.take());
        first.wait().unwrap();
        beside
    }

    /// Does something there: what connects and listens is there, and so is every program that is started.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            there.join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn succeeds(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
