//! Orders in which threads may meet in one directory: whichever it is, nothing visible leads to nothing.

use super::*;
use crate::artifact::extract::Sink;
use crate::clock::{ManualClock, Timestamp};
use crate::record::{Absence, Present, State};
use crate::store::entry::Damage;
use crate::store::fsck;
use shuttle::thread;

/// Orders that are tried.
fn tries() -> usize {
    if std::env::var("LARDER_FAULTS").is_ok_and(|form| form == "long") { 20_000 } else { 300 }
}

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(100).collect()
}

fn reference(name: &str) -> Reference {
    format!("h.example/p/{name}:1").parse().unwrap()
}

fn put(disk: &Arc<Disk>, name: &str) {
    let mut draft = disk.draft(100).unwrap();
    draft.write(&content(name)).unwrap();
    let sealed = draft.seal().unwrap();
    let module = sealed.module.clone();
    disk.admit(sealed).unwrap();
    let (digest, since) = (module.digest, Timestamp::from_millis(0));
    let (layer_media_type, first) = (String::new(), None);
    let present =
        Present { manifest: digest, layer: digest, layer_media_type, module, since, first, signatures: None };
    let state = State::Present(present);
    disk.put_record(Record { reference: reference(name), checked_at: since, state }).unwrap();
}

/// The bytes that a name leads to, if it leads to any.
fn get(disk: &Arc<Disk>, name: &str) -> Option<Vec<u8>> {
    let record = disk.record(&reference(name))?;
    let file = disk.open_module(&record.present()?.module).unwrap()?;
    let bytes = file.read().unwrap();
    assert_eq!(bytes, content(name));
    Some(bytes)
}

/// Opens a directory for `limit` bytes, runs `work` in threads that meet in any order, and looks at what is left.
fn meet(limit: u64, before: &'static [&str], work: &'static [fn(&Arc<Disk>)]) {
    shuttle::check_random(
        move || {
            let dir = tempfile::tempdir_in("/dev/shm").unwrap();
            let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
            let disk = Disk::open(
                dir.path(),
                Keep { limit, retry: Duration::from_secs(5) },
                Room::new(1 << 20),
                clock,
                Arc::default(),
            )
            .unwrap();
            let disk = Arc::new(disk);
            before.iter().for_each(|name| put(&disk, name));
            let threads: Vec<_> = work
                .iter()
                .map(|work| {
                    let disk = disk.clone();
                    thread::spawn(move || work(&disk))
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let (entries, bytes) = disk.usage();
            assert!(bytes <= limit && bytes == entries * 100, "{bytes} bytes in {entries} modules");
            for record in disk.records() {
                let leads = record.present().is_none_or(|present| disk.holds(&present.module));
                assert!(leads, "{} leads to nothing", record.reference);
            }
            let report = fsck::check(dir.path(), false, &[]).unwrap();
            assert!(report.is_clean(), "{:?}", report.problems);
            assert_eq!((report.modules, report.records), (entries, disk.records().len() as u64));
        },
        tries(),
    );
}

#[test]
fn interleave_admissions_that_evict_each_other() {
    meet(
        200,
        &["a", "b"],
        &[
            |disk| put(disk, "a"),
            |disk| put(disk, "c"),
            |disk| put(disk, "d"),
            |disk| {
                get(disk, "a");
                get(disk, "b");
            },
        ],
    );
}

#[test]
fn interleave_the_same_module_admitted_twice_while_a_reader_finds_damage() {
    meet(
        1000,
        &["a"],
        &[
            |disk| put(disk, "a"),
            |disk| put(disk, "a"),
            |disk| {
                let Some(record) = disk.record(&reference("a")) else { return };
                let Some(present) = record.present() else { return };
                if let Ok(Some(file)) = disk.open_module(&present.module) {
                    let damage = Damage::Unreadable(std::io::Error::other("as the test wants"));
                    disk.lose(&present.module.digest, &damage, Some(file.inode()));
                }
            },
        ],
    );
}

#[test]
fn interleave_an_absence_with_what_it_overtakes() {
    let absent: fn(&Arc<Disk>) = |disk| {
        let (checked_at, state) = (Timestamp::from_millis(1), State::Absent(Absence::NotFound));
        disk.put_record(Record { reference: reference("a"), checked_at, state }).unwrap();
    };
    // A function pointer each, for `meet` takes what lives for ever.
    static ABSENT: std::sync::OnceLock<[fn(&Arc<Disk>); 3]> = std::sync::OnceLock::new();
    meet(200, &[], ABSENT.get_or_init(|| [absent, |disk| put(disk, "a"), |disk| put(disk, "b")]));
}
