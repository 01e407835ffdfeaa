//! Starting again: from all records, and from an image of the index with the records after it.

use quorate_kv::{ImageError, IndexEncoder, KeySpace, KeySpaceMeta, Revision, Step};

use crate::store::{Store, at, everything};

/// The store as it is after a start from all its records.
fn rebuilt(store: &Store) -> Store {
    let Ok(space) = KeySpace::rebuild(store.space.meta(), &store.records);
    space.check();
    Store { space, records: store.records.clone() }
}

/// The store as it is after a start from `image`.
fn rebuilt_on(image: &[u8], store: &Store) -> Store {
    let meta = store.space.meta();
    let image = KeySpace::decode_index(image, &meta).expect("a sound image");
    let Ok(space) = KeySpace::rebuild_on(image, meta, &store.records);
    space.check();
    Store { space, records: store.records.clone() }
}

#[track_caller]
fn check_same(a: &Store, b: &Store) {
    assert_eq!(a.space.digest(), b.space.digest());
    for revision in 0..=a.space.revision().0 {
        assert_eq!(a.range(&at(revision, everything())), b.range(&at(revision, everything())), "at {revision}");
    }
}

#[test]
fn a_start_from_all_records_gives_the_same_key_space() {
    let mut store = Store::of("a=1 a=2 b=1 -a c=1 a=3 a=4");
    store.compact(4).expect("not compacted yet");
    for _ in 0..5 {
        let mut again = rebuilt(&store);
        check_same(&store, &again);
        again.prune();
        again.run("a=5 b=2");
        let mut on = Store { space: rebuilt(&store).space, records: store.records.clone() };
        on.run("a=5 b=2");
        check_same(&again, &on);
        let _ = store.prune_some(1);
    }
}

#[test]
fn an_image_with_the_records_after_it_gives_the_same_key_space() {
    let mut store = Store::of("a=1 ab=1 abc=1 a=2 -ab b=1 b=2 -b b=3");
    let image = store.space.encode_index();
    check_same(&store, &rebuilt_on(&image, &store));
    store.run("ab=2 -b c=1 a=3 -abc c=2");
    check_same(&store, &rebuilt_on(&image, &store));
    let mut on = rebuilt_on(&image, &store);
    let mut scanned = rebuilt(&store);
    for store in [&mut on, &mut scanned] {
        store.run("a=9 ab=9 b=9");
        store.compact(15).expect("not compacted yet");
        store.prune();
    }
    check_same(&on, &scanned);
    assert_eq!(on.places(), scanned.places());
}

#[test]
fn an_image_may_be_made_in_steps_while_writes_go_on() {
    let mut store = Store::of("a=1 b=1 c=1 d=1 b=2");
    let mut encoder = IndexEncoder::new(&store.space);
    let mut image = Vec::new();
    let mut writes = ["d=2", "a=2", "-c", "aa=1", "c=1", "-d", "e=1"].into_iter();
    while encoder.step(&store.space, 1, &mut image) == Step::More {
        store.run(writes.next().unwrap_or_default());
    }
    let decoded = KeySpace::decode_index(&image, &store.space.meta()).expect("a sound image");
    assert_eq!(decoded.revision(), Revision(6));
    check_same(&store, &rebuilt_on(&image, &store));
}

#[test]
fn an_image_from_before_a_removal_prunes_again() {
    let mut store = Store::of("a=1 a=2 b=1 -b c=1");
    let image = store.space.encode_index();
    store.compact(6).expect("not compacted yet");
    store.prune();
    let mut on = rebuilt_on(&image, &store);
    assert_eq!(on.space.key_count(), 3);
    check_same(&store, &on);
    on.prune();
    assert_eq!(on.space.key_count(), 2);
    assert_eq!(on.places(), store.places());
}

#[test]
fn an_image_that_would_bring_a_deleted_key_back_is_refused() {
    let mut store = Store::of("a=1");
    let image = store.space.encode_index();
    store.run("-a b=1");
    store.compact(4).expect("not compacted yet");
    let outdated = ImageError::Outdated { image: Revision(2), pruning: Revision(4) };
    check_same(&store, &rebuilt_on(&image, &store));
    let _ = store.prune_some(1);
    assert_eq!(store.space.pruned(), Revision::NEVER_COMPACTED, "the compaction has only begun");
    assert_eq!(KeySpace::decode_index(&image, &store.space.meta()).err(), Some(outdated));
}

#[test]
fn an_image_newer_than_the_store_is_refused() {
    let store = Store::of("a=1");
    let older = store.space.meta();
    let image = Store::of("a=1 a=2").space.encode_index();
    let newer = ImageError::Newer { image: Revision(3), store: Revision(2) };
    assert_eq!(KeySpace::decode_index(&image, &older).err(), Some(newer));
}

#[test]
fn no_damaged_image_is_taken() {
    let store = Store::of("a=1 ab=1 a=2 -ab");
    let image = store.space.encode_index();
    let meta = store.space.meta();
    for len in 0..image.len() {
        assert!(KeySpace::decode_index(&image[..len], &meta).is_err(), "cut to {len}");
    }
    for at in 0..image.len() {
        let mut damaged = image.clone();
        damaged[at] ^= 0x10;
        assert!(KeySpace::decode_index(&damaged, &meta).is_err(), "byte {at} changed");
    }
    let mut later = image.clone();
    later[4] = 2;
    assert_eq!(KeySpace::decode_index(&later, &meta).err(), Some(ImageError::UnknownVersion(2)));
}

#[test]
fn an_empty_key_space_has_an_image_too() {
    let store = Store::default();
    check_same(&store, &rebuilt_on(&store.space.encode_index(), &store));
}

#[test]
fn the_stored_numbers_survive_their_bytes_and_nonsense_does_not() {
    let mut store = Store::of("a=1 a=2 a=3 b=1");
    store.compact(4).expect("not compacted yet");
    let _ = store.prune_some(1);
    let meta = store.space.meta();
    assert_eq!(KeySpaceMeta::from_bytes(&meta.to_bytes()), Some(meta));
    let nonsense = [
        KeySpaceMeta { revision: Revision(0), ..meta },
        KeySpaceMeta { compact_revision: Revision(6), ..meta },
        KeySpaceMeta { pruning: Revision(5), ..meta },
        KeySpaceMeta { pruned: Revision(5), ..meta },
        KeySpaceMeta { pruned: Revision(-2), ..meta },
    ];
    for meta in nonsense {
        assert_eq!(KeySpaceMeta::from_bytes(&meta.to_bytes()), None, "{meta:?}");
    }
}
