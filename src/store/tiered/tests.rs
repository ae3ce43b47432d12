use super::*;
use crate::artifact::extract::Sink;
use crate::clock::SystemClock;
use crate::record::{Present, State};
use bytesize::ByteSize;

fn open(dir: &Path, memory: u64) -> Tiered {
    let config = Config {
        dir: None,
        disk: ByteSize(100 << 20),
        memory: ByteSize(memory),
        // Not while a test runs.
        retry: Duration::from_secs(3600),
        scrub: Duration::ZERO,
    };
    let (overlay, clock) = (overlay::Overlay::open(Vec::new(), 0).live(), Arc::new(SystemClock::new()));
    Tiered::open(dir, &config, Room::new(8 << 20), overlay, clock, Arc::default()).unwrap()
}

async fn sealed(store: &Tiered, bytes: &[u8]) -> Sealed {
    let mut draft = store.draft(bytes.len() as u64).await.unwrap();
    draft.write(bytes).unwrap();
    draft.seal().unwrap()
}

/// Changes the only draft behind the back of whoever wrote it.
fn damage(dir: &Path, bytes: &[u8]) {
    let draft = std::fs::read_dir(dir.join("v1/tmp")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(draft, bytes).unwrap();
}

fn record_of(module: &Module) -> Record {
    let since = Timestamp::from_millis(0);
    let present = Present {
        manifest: module.digest,
        layer: module.digest,
        layer_media_type: "application/wasm".into(),
        module: module.clone(),
        since,
        first: None,
        signatures: None,
    };
    let reference = "h.example/p/a:1".parse().unwrap();
    Record { reference, checked_at: since, state: State::Present(present) }
}

#[tokio::test]
async fn what_is_new_is_in_memory_when_it_is_on_disk_and_nobody_leaves_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 4000);
    for (n, in_memory) in [(0, true), (1, true), (2, true), (3, false)] {
        let bytes = [n; 1000];
        let module = store.admit(sealed(&store, &bytes).await).await.unwrap();
        assert_eq!(module.md5, entry::md5_of(&bytes));
        assert_eq!(store.memory.get(&module.digest).is_some(), in_memory, "{n}");
        assert!(store.memory.get(&Digest::of(&[0; 1000])).is_some(), "{n}");
        let (body, _) = store.module(&module).await.unwrap().unwrap();
        let Body::Memory(held) = body else { panic!("asked for, it takes the place of another") };
        assert_eq!(held, bytes[..]);
        if n == 2 {
            // So that it is not the one that leaves.
            assert!(store.memory.get(&Digest::of(&[0; 1000])).is_some());
        }
    }
}

#[tokio::test]
async fn a_draft_that_came_back_as_something_else_is_not_kept() {
    for memory in [0, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), memory);
        let sealed = sealed(&store, b"what was written").await;
        let module = sealed.module.clone();
        damage(dir.path(), b"what WAS written");
        let error = store.admit(sealed).await.unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
        assert!(!store.holds(&module) && store.memory.get(&module.digest).is_none());
        assert_eq!(store.usage().disk_entries, 0);
        // Nor is that disk tried again at once.
        let again = store.admit(self::sealed(&store, b"what was written").await).await.unwrap();
        assert_eq!(store.uncached(&again), Some("uncached-disk_error"), "{memory}");
    }
}

#[tokio::test]
async fn a_module_that_is_there_is_not_given_up_for_a_draft_that_came_back_as_something_else() {
    for memory in [0, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), memory);
        let module = store.admit(sealed(&store, b"what was written").await).await.unwrap();
        let record = record_of(&module);
        store.put_record(record.clone()).await.unwrap();
        let other = sealed(&store, b"what was written").await;
        damage(dir.path(), b"what WAS written");
        assert_eq!(store.admit(other).await.unwrap(), module);
        assert!(store.record(&record.reference).is_some() && store.uncached(&module).is_none());
        let file = store.disk.open_module(&module).unwrap().unwrap();
        assert_eq!(file.read().unwrap(), b"what was written");
    }
}

#[tokio::test]
async fn a_module_that_changed_on_disk_is_replaced_when_its_bytes_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 0);
    let module = store.admit(sealed(&store, b"what was written").await).await.unwrap();
    let path = store.disk.open_module(&module).unwrap().unwrap().path().to_owned();
    std::fs::write(path, b"what WAS written").unwrap();
    store.admit(sealed(&store, b"what was written").await).await.unwrap();
    let file = store.disk.open_module(&module).unwrap().unwrap();
    assert_eq!(file.read().unwrap(), b"what was written");
}

#[tokio::test]
async fn what_is_kept_nowhere_is_not_copied_into_memory_either() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 64 << 20);
    // More than is held of what the disk does not take.
    let sealed = sealed(&store, &vec![1_u8; 5 << 20]).await;
    let module = sealed.module.clone();
    let folder = dir.path().join("v1/modules/sha256").join(&module.digest.hex()[..2]);
    std::fs::write(folder, b"in its way").unwrap();
    let error = store.admit(sealed).await.unwrap_err();
    assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
    assert!(store.memory.get(&module.digest).is_none());
}
