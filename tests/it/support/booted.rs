//! A machine that systemd has booted: the files of this one with changes of its own, its own processes and control groups.

use super::{debian, eventually, netns};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// In namespaces of its own: the folder for the disk, the folder that is shared. What changes is in memory, above the
/// files of this machine. Paths are relative: with a disk that cannot be mounted nothing of this machine is changed.
const SETUP: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/top"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/top"
mount --bind "$2" "$1/top/mnt"
cd "$1/top"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
# What a larder of this machine has.
rm -rf var/lib/larder var/lib/private/larder var/cache/larder etc/larder usr/share/nginx/html/plugins
# An image's way to install services without starting them.
rm -f usr/sbin/policy-rc.d
# What this machine would start, and its disks: none of it is what is tested.
rm -rf lib/systemd/system-generators etc/systemd/system/*.target.wants
for target in sysinit local-fs timers; do rm -rf lib/systemd/system/$target.target.wants; done
find lib/systemd/system/sockets.target.wants ! -type d ! -name 'systemd-journald*' -delete
mkdir old
pivot_root . old
umount -l /old
# As systemd itself does where it is in no container: its mounts reach its services.
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=basic.target
"#;

/// Ended when dropped.
pub struct Machine {
    child: Child,
    /// Of its first process, as it is seen from here.
    id: String,
    /// Its control group.
    group: PathBuf,
    _dir: TempDir,
}

impl Machine {
    /// Boots it. For a test that is `netns::alone`: the machine has that network. `shared` is its /mnt.
    pub fn boot(shared: &Path) -> Self {
        assert!(netns::is_root(), "a machine mounts disks and has control groups, which only root may");
        let dir = tempfile::tempdir().unwrap();
        let [groups, disk] = ["groups", "disk"].map(|name| dir.path().join(name));
        std::fs::create_dir(&groups).unwrap();
        std::fs::create_dir(&disk).unwrap();
        debian::run(Command::new("mount").args(["-t", "cgroup2", "cgroup2"]).arg(&groups));
        // The name is the folder's, for numbers of processes count from one in each test's network.
        let name = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        let group = groups.join(format!("larder-test-{name}"));
        std::fs::create_dir(&group).unwrap();
        let enter = r#"echo $$ >"$1/cgroup.procs"; shift; exec unshare "$@""#;
        let mut command = Command::new("sh");
        command.args(["-c", enter, "sh"]).arg(&group);
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--ipc", "--"]);
        command.args(["sh", "-c", SETUP, "sh"]).args([&disk, shared]);
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let id = eventually("the machine's first process", || {
            if let Ok(Some(status)) = child.try_wait() {
                let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
                panic!("the machine ended at its start: {status}\n{log}");
            }
            let found = Command::new("pgrep").args(["-P", &child.id().to_string()]).output().unwrap();
            let id = String::from_utf8(found.stdout).unwrap().trim().to_owned();
            (!id.is_empty()).then_some(id)
        });
        let machine = Self { child, id, group, _dir: dir };
        eventually("the machine's boot", || {
            let (_, state) = machine.run(&["systemctl", "is-system-running"]);
            (state.trim() == "running").then_some(())
        });
        machine
    }

    /// Runs a command in it: whether it succeeded, and what it printed.
    pub fn run(&self, command: &[&str]) -> (bool, String) {
        let mut enter = Command::new("nsenter");
        enter.args(["-t", &self.id, "--mount", "--pid", "--cgroup", "--ipc", "--root", "--wd", "--"]);
        let output = enter.args(command).stdin(Stdio::null()).output().expect("nsenter is installed");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// What a command printed, which succeeds.
    pub fn told(&self, command: &[&str]) -> String {
        let (succeeded, text) = self.run(command);
        assert!(succeeded, "{command:?}: {text}\n{}", self.journal());
        text
    }

    /// A property of larder's unit.
    pub fn shown(&self, property: &str) -> String {
        self.told(&["systemctl", "show", "--value", "--property", property, "larder"]).trim().to_owned()
    }

    /// What larder and systemd said of larder.
    pub fn journal(&self) -> String {
        self.run(&["journalctl", "--unit", "larder", "--output", "cat", "--no-pager"]).1
    }

    /// Writes a file in it.
    pub fn write(&self, path: &str, text: &str) {
        let script = r#"mkdir -p "$(dirname "$1")"; printf %s "$2" >"$1""#;
        self.told(&["sh", "-c", script, "sh", path, text]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its first process all others end.
        let _ = Command::new("kill").args(["-KILL", &self.id]).status();
        let _ = self.child.wait();
        // Those below first; the kernel lets go of them once their processes are gone.
        for _ in 0..100 {
            let _ = Command::new("find").arg(&self.group).args(["-depth", "-type", "d", "-delete"]).output();
            if !self.group.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
