use super::index::MOST_ABSENCES;
use super::*;
use crate::artifact::extract::Sink;
use crate::clock::{ManualClock, Timestamp};
use crate::record::{Absence, Present, State};
use crate::store::entry::Damage;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

struct Fixture {
    dir: TempDir,
    clock: Arc<ManualClock>,
    metrics: Arc<Metrics>,
}

impl Fixture {
    fn new() -> Self {
        let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::new(clock), metrics: Arc::default() }
    }

    fn open(&self, limit: u64) -> Arc<Disk> {
        Arc::new(self.try_open(limit).unwrap())
    }

    fn try_open(&self, limit: u64) -> Result<Disk, StoreError> {
        let room = Room::new(1 << 20);
        Disk::open(
            self.dir.path(),
            Keep { limit, retry: Duration::from_secs(5) },
            room,
            self.clock.clone(),
            self.metrics.clone(),
        )
    }

    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.dir.path().join("v1").join(folder)];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() { open.push(path) } else { found.push(path) }
            }
        }
        found
    }
}

fn reference(name: &str) -> Reference {
    format!("h.example/p/{name}:1").parse().unwrap()
}

fn bytes(name: &str, size: usize) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    bytes.extend(name.bytes().cycle().take(size - 8));
    bytes
}

#[test]
fn a_directory_is_free_when_it_is_let_go_though_a_program_being_started_still_has_its_files() {
    let fixture = Fixture::new();
    let disk = fixture.open(1000);
    // What such a program has between fork and exec.
    let inherited = disk.ground.lock().unwrap().as_ref().unwrap().lock.as_ref().unwrap().try_clone().unwrap();
    drop(disk);
    fixture.open(1000);
    drop(inherited);
}

/// Admits a module of `size` bytes under `name`, with its record.
fn put(disk: &Arc<Disk>, name: &str, size: usize) -> Module {
    let mut draft = disk.draft(size as u64).unwrap();
    draft.write(&bytes(name, size)).unwrap();
    let sealed = draft.seal().unwrap();
    let module = sealed.module.clone();
    disk.admit(sealed).unwrap();
    let present = Present {
        manifest: module.digest,
        layer: module.digest,
        layer_media_type: "application/wasm".into(),
        module: module.clone(),
        since: Timestamp::from_millis(0),
        first: None,
        signatures: None,
    };
    let record = Record {
        reference: reference(name),
        checked_at: Timestamp::from_millis(0),
        state: State::Present(present),
    };
    disk.put_record(record).unwrap();
    module
}

#[test]
fn a_restart_finds_everything_again() {
    let fixture = Fixture::new();
    let module = put(&fixture.open(1000), "a", 100);
    let disk = fixture.open(1000);
    assert_eq!(disk.usage(), (1, 100));
    let record = disk.record(&reference("a")).unwrap();
    assert_eq!(record.present().unwrap().module, module);
    assert_eq!(disk.open_module(&module).unwrap().unwrap().read().unwrap(), bytes("a", 100));
    assert!(fixture.files("tmp").is_empty());
}

#[test]
fn a_changed_truncated_or_replaced_module_is_quarantined_and_not_returned() {
    for damage in ["flip", "truncate", "extend", "link", "folder"] {
        let fixture = Fixture::new();
        let disk = fixture.open(1000);
        let module = put(&disk, "a", 100);
        drop(disk);
        let disk = fixture.open(1000);
        let path = disk.layout.module(&module.digest);
        let mut content = fs::read(&path).unwrap();
        match damage {
            "flip" => content[50] ^= 1,
            "truncate" => content.truncate(50),
            "extend" => content.push(0),
            _ => {}
        }
        fs::remove_file(&path).unwrap();
        match damage {
            "link" => std::os::unix::fs::symlink("/etc/passwd", &path).unwrap(),
            "folder" => fs::create_dir(&path).unwrap(),
            _ => fs::write(&path, content).unwrap(),
        }
        assert!(disk.open_module(&module).unwrap().is_none(), "{damage}");
        assert!(fs::symlink_metadata(&path).is_err(), "{damage}: out of the way");
        assert_eq!(fixture.metrics.quarantined.get(), 1, "{damage}");
        put(&disk, "a", 100);
        assert_eq!(
            disk.open_module(&module).unwrap().unwrap().read().unwrap(),
            bytes("a", 100),
            "{damage}: admitted again"
        );
    }
}

#[test]
fn a_module_changed_after_it_was_verified_is_not_returned_either() {
    let fixture = Fixture::new();
    let disk = fixture.open(1000);
    let module = put(&disk, "a", 100);
    let path = disk.layout.module(&module.digest);
    let mut content = fs::read(&path).unwrap();
    content[50] ^= 1;
    fs::write(&path, content).unwrap();
    assert_eq!(
        disk.open_module(&module).unwrap().unwrap().read().unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
}

#[test]
fn the_least_recently_used_modules_leave_with_their_records_also_after_a_restart() {
    let fixture = Fixture::new();
    let disk = fixture.open(300);
    let (a, b) = (put(&disk, "a", 100), put(&disk, "b", 100));
    fixture.clock.advance(Duration::from_secs(60));
    disk.used(&a.digest);
    disk.write_last_uses(true);
    drop(disk);
    fixture.clock.advance(Duration::from_secs(60));
    let disk = fixture.open(300);
    put(&disk, "c", 150);
    assert!(disk.open_module(&b).unwrap().is_none());
    assert!(disk.record(&reference("b")).is_none());
    assert!(disk.open_module(&a).unwrap().is_some());
    assert_eq!(fixture.files("records").len(), 2);
    assert_eq!(fixture.files("modules").len(), 2);
    assert_eq!(disk.usage(), (2, 250));
}

#[test]
fn an_open_module_is_read_to_its_end_though_it_is_evicted() {
    let fixture = Fixture::new();
    let disk = fixture.open(150);
    let module = put(&disk, "a", 100);
    let open = disk.open_module(&module).unwrap().unwrap();
    put(&disk, "b", 100);
    assert!(disk.open_module(&module).unwrap().is_none());
    assert_eq!(open.read().unwrap(), bytes("a", 100));
}

#[test]
fn what_does_not_belong_there_is_put_aside_and_drafts_are_removed() {
    let fixture = Fixture::new();
    let disk = fixture.open(1000);
    let module = put(&disk, "a", 100);
    let root = fixture.dir.path().join("v1");
    let modules = root.join("modules/sha256");
    fs::write(root.join("tmp/half"), b"x").unwrap();
    fs::write(modules.join("stray"), b"x").unwrap();
    fs::write(modules.join(&module.digest.hex()[..2]).join("README"), b"x").unwrap();
    fs::write(root.join("records/torn.json"), b"larder-record 1 sha256:").unwrap();
    let elsewhere = root.join("records").join(format!("{}.json", "0".repeat(64)));
    fs::copy(disk.layout.record(&reference("a")), elsewhere).unwrap();
    drop(disk);
    let disk = fixture.open(1000);
    assert_eq!(fixture.metrics.quarantined.get(), 4);
    assert!(fixture.files("tmp").is_empty());
    assert!(disk.open_module(&module).unwrap().is_some());
}

#[test]
fn a_record_without_its_module_is_not_visible_after_a_restart() {
    let fixture = Fixture::new();
    let disk = fixture.open(1000);
    let module = put(&disk, "a", 100);
    fs::remove_file(disk.layout.module(&module.digest)).unwrap();
    drop(disk);
    assert!(fixture.open(1000).record(&reference("a")).is_none());
}

#[test]
fn a_record_of_a_format_to_come_is_left_alone() {
    let fixture = Fixture::new();
    let disk = fixture.open(1000);
    put(&disk, "a", 100);
    let path = disk.layout.record(&reference("a"));
    let next = String::from_utf8(fs::read(&path).unwrap()).unwrap().replacen("record 1", "record 2", 1);
    fs::write(&path, &next).unwrap();
    drop(disk);
    assert!(fixture.open(1000).record(&reference("a")).is_none());
    assert_eq!(fs::read_to_string(path).unwrap(), next);
}

#[test]
fn a_directory_belongs_to_one_process() {
    let fixture = Fixture::new();
    let _disk = fixture.open(1000);
    let second = fixture.try_open(1000);
    let told = second.err().unwrap().to_string();
    assert!(told.contains(&std::process::id().to_string()), "{told}");
}

#[test]
fn absences_of_a_repository_are_bounded_and_the_oldest_are_forgotten() {
    let fixture = Fixture::new();
    let disk = fixture.open(1000);
    put(&disk, "held", 100);
    let absent = |name: &str, n: usize| Record {
        reference: format!("h.example/p/{name}:{n}").parse().unwrap(),
        checked_at: Timestamp::from_millis(n as u64),
        state: State::Absent(Absence::NotFound),
    };
    disk.put_record(absent("other", 0)).unwrap();
    for n in 0..=MOST_ABSENCES {
        disk.put_record(absent("flooded", n)).unwrap();
    }
    assert!(disk.record(&absent("flooded", 0).reference).is_none());
    assert!(disk.record(&absent("flooded", MOST_ABSENCES).reference).is_some());
    assert!(disk.record(&absent("other", 0).reference).is_some(), "another name's is not touched");
    assert!(disk.record(&reference("held")).is_some());
    assert_eq!(fixture.files("records").len(), MOST_ABSENCES + 2);
    // One that is older than all of them, as a bundle has it.
    disk.put_record(absent("flooded", 0)).unwrap();
    assert!(disk.record(&absent("flooded", 0).reference).is_none());
    assert_eq!(fixture.files("records").len(), MOST_ABSENCES + 2);
    assert!(disk.index().is_all_written(), "nothing is left to be written");
}

#[test]
fn a_module_that_was_replaced_is_not_put_aside_for_what_a_slow_reader_found() {
    let fixture = Fixture::new();
    let disk = fixture.open(1000);
    let module = put(&disk, "a", 100);
    let slow = disk.open_module(&module).unwrap().unwrap();
    let path = disk.layout.module(&module.digest);
    fs::copy(&path, path.with_extension("new")).unwrap();
    fs::rename(path.with_extension("new"), &path).unwrap();
    let damage = || Damage::Unreadable(io::Error::other("what the slow reader saw"));
    disk.lose(&module.digest, &damage(), Some(slow.inode()));
    assert!(disk.open_module(&module).unwrap().is_some());
    let fresh = disk.open_module(&module).unwrap().unwrap();
    disk.lose(&module.digest, &damage(), Some(fresh.inode()));
    assert!(disk.open_module(&module).unwrap().is_none());
}

#[test]
fn a_full_disk_makes_room_by_last_use_only_if_it_helps_and_not_again_and_again() {
    let fixture = Fixture::new();
    let disk = fixture.open(1000);
    let old = put(&disk, "old", 400);
    fixture.clock.advance(Duration::from_secs(1));
    let new = put(&disk, "new", 400);
    let free = || {
        let fs = rustix::fs::statvfs(fixture.dir.path()).unwrap();
        fs.f_bavail * fs.f_frsize
    };
    assert!(!disk.make_room(free() + 300), "both were used a moment ago");
    fixture.clock.advance(Duration::from_secs(3600));
    assert!(!disk.make_room(1), "there is room");
    assert!(!disk.make_room(free() + (1 << 40)), "all of it would not be enough");
    assert_eq!(disk.usage(), (2, 800));
    // What is free changes under a test; so much is asked for that a module or two must leave.
    let mut asked = free() + 300;
    while !disk.make_room(asked) {
        asked = free() + 300;
    }
    assert!(disk.open_module(&old).unwrap().is_none());
    let left = disk.usage().0;
    assert!(!disk.make_room(free() + 300), "not again within a minute");
    assert_eq!(disk.usage().0, left);
    drop(new);
}

#[test]
fn an_absence_does_not_take_the_place_of_what_is_held() {
    let fixture = Fixture::new();
    let disk = fixture.open(1000);
    put(&disk, "a", 100);
    let late = Record {
        reference: reference("a"),
        checked_at: Timestamp::from_millis(1),
        state: State::Absent(Absence::NotFound),
    };
    disk.put_record(late).unwrap();
    assert!(disk.record(&reference("a")).unwrap().present().is_some());
}
