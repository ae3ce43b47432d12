//! The Debian package of the larder under test.

use super::larder::PROGRAM;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// What the package is made of, beside the program.
const SOURCES: [&str; 6] = ["Cargo.toml", "deploy", "conf", "README.md", "README.zh-CN.md", "CHANGELOG.md"];

/// The package, made anew only when something of it has changed: tests that run in a process of their own share it. They call
/// this before they do, so that the making is not part of their time.
pub fn package() -> PathBuf {
    let house = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = house.join("target/debian-test");
    std::fs::create_dir_all(&folder).unwrap();
    // Another process may be about to make it.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let package = folder.join("larder.deb");
    let newest = SOURCES.iter().map(|source| changed(&house.join(source))).max();
    let newest = newest.max(Some(changed(Path::new(PROGRAM))));
    if package.exists() && Some(changed(&package)) > newest {
        return package;
    }
    let mut command = Command::new(house.join("deploy/debian/package.sh"));
    let made = command.arg(PROGRAM).arg(&folder).arg("--fast").output().unwrap();
    let text = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "no package (tests/needs.sh installs what it takes): {text}");
    let path = String::from_utf8(made.stdout).unwrap();
    std::fs::rename(path.trim(), &package).unwrap();
    package
}

/// The package as a later version of it would be, with a default configuration that has changed.
pub fn next_version(package: &Path, folder: &Path) -> PathBuf {
    let tree = folder.join("next");
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).unwrap();
    let version = text.lines().find(|line| line.starts_with("Version: ")).unwrap();
    std::fs::write(&control, text.replace(version, "Version: 99.0.0-1")).unwrap();
    let settings = tree.join("etc/larder/larder.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text + "# of a later version\n").unwrap();
    let next = folder.join("next.deb");
    // Packing it would take longer than all else here.
    run(Command::new("dpkg-deb").args(["-Znone", "--root-owner-group", "--build"]).arg(&tree).arg(&next));
    next
}

/// When a file, or the newest one in a folder, was changed.
fn changed(path: &Path) -> SystemTime {
    let files = if path.is_dir() { super::heart::files(path) } else { vec![path.into()] };
    files.iter().map(|file| std::fs::metadata(file).unwrap().modified().unwrap()).max().unwrap()
}

/// Its output, if it succeeds.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
