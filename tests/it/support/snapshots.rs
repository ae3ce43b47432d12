//! Disks whose power can be cut: a file system on a loop device, whose file lies on btrfs, where a copy is the matter of
//! an instant.

use super::netns;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files go to a folder that whoever stays outside removes: what is mounted in it is gone by then.
const SETUP: &str = r#"
set -e
PATH=$PATH:/usr/sbin:/sbin
mount --make-rprivate /
TMPDIR=$1
export PATH TMPDIR
shift
"$@"
"#;

/// Runs the calling test in another process, whose mounts end with it, however it ends, and with them the loop devices:
/// `if !snapshots::alone("power::a_test", 120) { return; }` is the test's first line. It may take so many seconds.
pub fn alone(test: &str, seconds: u32) -> bool {
    if netns::is_inside(test) {
        return true;
    }
    assert!(netns::is_root(), "{test} mounts disks by loop devices, which only root may");
    let dir = tempfile::tempdir().unwrap();
    netns::again(test, seconds, &[], SETUP, &[dir.path().as_ref()]);
    false
}

/// A mounted disk. Only inside.
pub struct Disk {
    host: PathBuf,
    /// The options of a mount of it, and of one of a copy beside it.
    options: [&'static str; 2],
    cuts: usize,
}

impl Disk {
    /// A new one of a kind (`ext4`, `xfs`), mounted at `at`.
    pub fn mount(kind: &str, options: [&'static str; 2], at: &Path) -> Self {
        let folder = std::env::temp_dir();
        let (image, host) = (folder.join("host.img"), folder.join("host"));
        run("truncate", &["--size=2G".as_ref(), &image]);
        run("mkfs.btrfs", &["--quiet".as_ref(), &image]);
        std::fs::create_dir(&host).unwrap();
        run("mount", &["--options=loop".as_ref(), &image, &host]);
        let disk = Self { host, options, cuts: 0 };
        let image = disk.host.join("disk.img");
        // The smallest that xfs takes.
        run("truncate", &["--size=320M".as_ref(), &image]);
        run(&format!("mkfs.{kind}"), &["-q".as_ref(), &image]);
        disk.mount_image(&image, at, options[0]);
        disk
    }

    fn mount_image(&self, image: &Path, at: &Path, options: &str) {
        std::fs::create_dir(at).unwrap();
        run("mount", &[format!("--options=loop,{options}").as_ref(), image, at]);
    }

    /// What the disk has at this instant.
    pub fn cut(&mut self) -> PathBuf {
        self.cuts += 1;
        let copy = self.host.join(format!("cut.{}", self.cuts));
        run("cp", &["--reflink=always".as_ref(), &self.host.join("disk.img"), &copy]);
        copy
    }

    /// Mounts it as after a power cut.
    pub fn mount_cut(&self, copy: &Path, at: &Path) {
        self.mount_image(copy, at, self.options[1]);
    }

    /// Throws it away.
    pub fn forget(&self, copy: &Path, at: &Path) {
        run("umount", &[at]);
        std::fs::remove_file(copy).unwrap();
    }
}

fn run(program: &str, arguments: &[&Path]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program} is installed: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
