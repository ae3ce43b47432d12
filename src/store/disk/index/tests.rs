//! What the index counts and points to, beside what is found by looking at everything.

use super::*;
use crate::record::{Absence, Present, State};

fn digest(n: u8) -> Digest {
    Digest::of(&[n])
}

fn reference(n: u8) -> Reference {
    format!("h.example/p/{}:{n}", n % 3).parse().unwrap()
}

fn module(n: u8) -> Module {
    Module { digest: digest(n), size: u64::from(n) + 1, md5: String::new(), abi: None }
}

/// That `of` leads to the module `to`, or that it does not exist.
fn record(of: u8, to: Option<u8>, at: u64) -> Record {
    let since = Timestamp::from_millis(at);
    // Two manifests may have the same module, but one has not two.
    let present = |n: u8| Present {
        manifest: digest(100 + n + of % 2 * 50),
        layer: digest(n),
        layer_media_type: String::new(),
        module: module(n),
        since,
        first: None,
        signatures: None,
    };
    let state = to.map_or(State::Absent(Absence::NotFound), |n| State::Present(present(n)));
    Record { reference: reference(of), checked_at: since, state }
}

/// Everything that is kept in two places, compared.
fn check(index: &Index) {
    let on_disk = || index.modules.values().filter(|entry| entry.on_disk);
    assert_eq!(index.files, on_disk().count() as u64);
    assert_eq!(index.bytes, on_disk().map(|entry| entry.size).sum::<u64>());
    let turns = index.modules.iter().filter(|(_, entry)| entry.on_disk);
    let turns: BTreeSet<_> = turns.map(|(digest, entry)| (entry.verified, *digest)).collect();
    assert_eq!(index.turns, turns);
    for (digest, entry) in &index.modules {
        assert!(entry.on_disk || index.held.contains_key(digest), "a module has its bytes somewhere");
        assert!(!entry.touched || index.touched.contains(digest));
        let leads = |record: &&Arc<Record>| record.present().is_some_and(|p| p.module.digest == *digest);
        let mut leading: Vec<_> = index.records().filter(leads).map(|r| r.reference.clone()).collect();
        let mut known: Vec<_> = entry.records.iter().map(|r| r.reference.clone()).collect();
        leading.sort();
        known.sort();
        assert_eq!(known, leading);
    }
    assert!(index.held.keys().all(|digest| index.modules.contains_key(digest)));
    let present = || index.records().filter_map(|record| Some((record, record.present()?)));
    for (record, present) in present() {
        assert!(index.modules.contains_key(&present.module.digest), "a record leads to something");
        let of = index.of_manifest(&present.manifest).unwrap();
        assert!(index.record(&of.reference).is_some_and(|known| Arc::ptr_eq(known, of)));
        assert!(index.record(&record.reference).is_some());
    }
    let manifests: HashSet<_> = present().map(|(_, present)| present.manifest).collect();
    assert_eq!(index.manifests.keys().copied().collect::<HashSet<_>>(), manifests);
    let absent = index.records().filter(|record| record.present().is_none()).count();
    assert_eq!(index.absences.values().map(Vec::len).sum::<usize>(), absent);
    assert!(index.absences.values().all(|of| !of.is_empty()));
}

proptest::proptest! {
    #[test]
    fn what_is_counted_and_pointed_to_is_what_is_there(steps in proptest::collection::vec((0..9u8, 0..12u8, 0..12u8), 0..80)) {
        let mut index = Index::default();
        for (at, (step, a, b)) in steps.into_iter().enumerate() {
            let now = Timestamp::from_millis(at as u64);
            match step {
                0 | 1 => index.admit(&module(a), Arc::new(Checks::of(b"")), now),
                2 => index.hold(&module(a), Bytes::new(), "why", now),
                3 if index.modules.contains_key(&digest(a)) => drop(index.keep(record(b, Some(a), at as u64))),
                4 => drop(index.keep(record(b, None, at as u64))),
                5 => drop(index.forget(&digest(a))),
                6 => index.drop_records(&[reference(a)]),
                7 => index.looked_at(&digest(a), None, now),
                8 if b < 6 => drop(index.touch(&digest(a), now)),
                8 => drop(index.take_touched()),
                _ => {}
            }
            check(&index);
        }
    }
}

#[test]
fn what_was_found_at_a_start_is_known_as_if_it_had_come() {
    let mut index = Index::default();
    let modules = (0..9).map(|n| (digest(n), (module(n).size, Timestamp::from_millis(1)))).collect();
    index.take_in(modules, (0..9).map(|n| Arc::new(record(n, (n < 7).then_some(n), 1))).collect());
    check(&index);
    assert_eq!((index.files, index.records().len()), (9, 9));
    assert_eq!(index.unused(&[], true).len(), 2);
}
