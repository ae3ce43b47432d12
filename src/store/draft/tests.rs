use super::*;
use crate::clock::SystemClock;
use crate::store::disk::Keep;
use crate::store::room::Room;
use std::time::Duration;

fn disk(dir: &Path) -> Arc<Disk> {
    let clock = Arc::new(SystemClock::new());
    Arc::new(
        Disk::open(
            dir,
            Keep { limit: 1 << 20, retry: Duration::from_secs(5) },
            Room::new(8 << 20),
            clock,
            Arc::default(),
        )
        .unwrap(),
    )
}

#[test]
fn a_draft_knows_what_was_written_since_its_last_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let mut draft = disk(folder.path()).draft(8).unwrap();
    draft.write(b"something else, and longer").unwrap();
    draft.restart().unwrap();
    draft.write(b"\0asm\x01\0\0\0").unwrap();
    let sealed = draft.seal().unwrap();
    assert_eq!(sealed.module.digest, Digest::of(b"\0asm\x01\0\0\0"));
    assert_eq!(sealed.module.size, 8);
    let Backing::File(file) = sealed.backing else { panic!("the disk is well") };
    assert_eq!(std::fs::read(file.path()).unwrap(), b"\0asm\x01\0\0\0");
}

/// The file behind a draft.
fn file(draft: &Draft) -> &NamedTempFile {
    let Backing::File(file) = &draft.backing else { panic!("the disk is well") };
    file
}

#[test]
fn a_draft_goes_on_in_memory_with_all_that_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let mut draft = disk.draft(100).unwrap();
    draft.write(b"first").unwrap();
    draft.go_on_in_memory().unwrap();
    draft.write(b", second").unwrap();
    assert!(std::fs::read_dir(folder.path().join("v1/tmp")).unwrap().next().is_none());
    let (digest, mut reader) = draft.into_reader().unwrap();
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!((all.as_slice(), digest), (&b"first, second"[..], Digest::of(b"first, second")));
    reader.verify().unwrap();
    assert_eq!(disk.room().free(), 8 << 20, "the memory is given back");
}

#[test]
fn what_a_disk_gives_back_is_compared_with_what_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let written = || {
        let mut draft = disk.draft(100).unwrap();
        draft.write(b"what was written").unwrap();
        file(&draft).as_file().write_all_at(b"X", 5).unwrap();
        draft
    };
    let spilled = written().go_on_in_memory().unwrap_err();
    assert_eq!(spilled.kind(), io::ErrorKind::InvalidData);
    let (digest, reader) = written().into_reader().unwrap();
    assert_eq!(digest, Digest::of(b"what was written"), "of what was given");
    assert_eq!(reader.verify().unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn memory_that_is_not_there_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let mut draft = disk.draft(100).unwrap();
    draft.write(&[1; 1000]).unwrap();
    let _taken = disk.room().try_take((8 << 20) - 100).unwrap();
    let error = StoreError::of_draft("writing", draft.go_on_in_memory().unwrap_err());
    assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
}
