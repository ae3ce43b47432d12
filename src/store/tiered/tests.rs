use super::*;
use crate::artifact::extract::Sink;
use crate::clock::SystemClock;
use bytesize::ByteSize;

fn open(dir: &Path, memory: u64) -> Tiered {
    let config = Config {
        dir: None,
        disk: ByteSize(100 << 20),
        memory: ByteSize(memory),
        retry: Duration::from_secs(5),
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
        let draft = std::fs::read_dir(dir.path().join("v1/tmp")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(draft, b"what WAS written").unwrap();
        let error = store.admit(sealed).await.unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
        assert!(!store.holds(&module) && store.memory.get(&module.digest).is_none());
        assert_eq!(store.usage().disk_entries, 0);
    }
}
