//! Streamed ranges: chunks that add up to one range.

use quorate_kv::{ChunkSize, KeyValue, KvError, RangeRequest, SortOrder, SortTarget, StreamEnd, validate_stream};

use crate::store::{Store, everything, range};

/// All chunks of at most `max_keys` keys, `between` being called after each.
fn stream(
    store: &mut Store,
    request: &RangeRequest,
    max_keys: usize,
    mut between: impl FnMut(&mut Store),
) -> (Vec<KeyValue>, StreamEnd) {
    let mut stream = store.space.begin_stream(request, store.space.revision()).expect("not refused");
    let mut all = Vec::new();
    loop {
        let chunk = stream.plan_chunk(&store.space, max_keys).expect("not compacted");
        let Ok(kvs) = chunk.fetch(&store.records);
        assert!(kvs.len() <= max_keys);
        all.extend(kvs);
        if let Some(end) = chunk.end {
            return (all, end);
        }
        between(store);
    }
}

#[test]
fn chunks_add_up_to_the_range_at_the_revision_it_began_at() {
    for limit in [0, 1, 3, 4, 9] {
        for revision in [0, 4] {
            for max_keys in 1..6 {
                let mut store = Store::of("a=1 b=1 c=1 d=1 e=1 c=2 -e");
                let request = RangeRequest { limit, revision, ..everything() };
                let whole = store.try_range(&request).expect("not refused");
                let (kvs, end) = stream(&mut store, &request, max_keys, |store| store.run("a=x bb=x -d"));
                assert_eq!(kvs, whole.kvs);
                assert_eq!((end.revision, end.more, end.count), (whole.revision, whole.more, whole.count));
            }
        }
    }
}

#[test]
fn count_only_and_keys_only_hold_for_streams() {
    let mut store = Store::of("a=1 b=1 c=1");
    let (kvs, end) = stream(&mut store, &RangeRequest { count_only: true, limit: 1, ..everything() }, 1, |_| {});
    assert_eq!((kvs.len(), end.more, end.count), (0, false, 3));
    let (kvs, _) = stream(&mut store, &RangeRequest { keys_only: true, ..everything() }, 2, |_| {});
    assert!(kvs.len() == 3 && kvs.iter().all(|kv| kv.value.is_empty() && kv.version == 1));
}

#[test]
fn a_stream_whose_revision_is_compacted_away_ends_with_that_error() {
    let mut store = Store::of("a=1 b=1 c=1");
    let mut stream = store.space.begin_stream(&everything(), store.space.revision()).expect("not refused");
    assert!(stream.plan_chunk(&store.space, 1).is_ok());
    store.run("b=2");
    store.compact(5).expect("not compacted yet");
    assert!(stream.plan_chunk(&store.space, 1).is_ok(), "nothing is gone yet");
    let _ = store.prune_some(1);
    assert_eq!(stream.plan_chunk(&store.space, 1).err(), Some(KvError::Compacted));
}

#[test]
fn orders_and_bounds_are_refused() {
    use SortOrder::{Ascend, Descend, None};
    let cases = [
        (RangeRequest { ..everything() }, Ok(())),
        (RangeRequest { sort_order: Ascend, ..everything() }, Ok(())),
        (RangeRequest { sort_order: None, sort_target: SortTarget::Value, ..everything() }, Ok(())),
        (RangeRequest { sort_order: Descend, ..everything() }, Err(KvError::StreamSorted)),
        (RangeRequest { sort_order: Ascend, sort_target: SortTarget::Mod, ..everything() }, Err(KvError::StreamSorted)),
        (RangeRequest { min_mod_revision: 1, ..everything() }, Err(KvError::StreamFiltered)),
        (RangeRequest { max_mod_revision: 1, ..everything() }, Err(KvError::StreamFiltered)),
        (RangeRequest { min_create_revision: 1, ..everything() }, Err(KvError::StreamFiltered)),
        (RangeRequest { max_create_revision: 1, ..everything() }, Err(KvError::StreamFiltered)),
        (range("", ""), Err(KvError::EmptyKey)),
    ];
    for (request, verdict) in cases {
        assert_eq!(validate_stream(&request), verdict, "{request:?}");
    }
}

#[test]
fn chunks_grow_toward_the_target_and_shrink_before_large_values() {
    let mut size = ChunkSize::new(1000);
    assert_eq!(size.keys(), 10);
    size.observe(10, 100);
    assert_eq!(size.keys(), 20);
    size.observe(0, 0);
    assert_eq!(size.keys(), 20);
    size.observe(20, 2000);
    assert_eq!(size.keys(), 10);
    size.observe(10, 1_000_000);
    assert_eq!(size.keys(), 1);
    for _ in 0..20 {
        size.observe(1, 0);
    }
    assert_eq!(size.keys(), 1000);
}
