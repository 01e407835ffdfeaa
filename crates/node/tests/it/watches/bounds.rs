//! What waits for a client, and what is read for it at once, stay bounded.

use quorate_kv::RequestOp;
use quorate_node::watch::WatchLimits;
use quorate_wire::etcd::WatchCreate;

use super::world::{World, deletion, watch, watch_all};

/// A watch of all keys from `key` on.
fn watch_from(key: &'static str, start_revision: i64) -> WatchCreate {
    WatchCreate { range_end: "\0".into(), ..watch(key, start_revision) }
}

#[test]
fn history_read_back_for_many_watches_of_one_stream_waits_once_and_not_for_each() {
    const ROOM: usize = 1_500;
    let mut world = World::new();
    for number in 0..10 {
        world.put("z", &format!("{number}{}", "v".repeat(200)));
    }
    world.open(1);
    world.set_room(1, ROOM);
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for key in keys {
        world.create(1, watch_from(key, 2));
    }
    world.create(1, watch("y", 2));
    world.told(1);
    assert!(world.catch_up_by(10));
    assert_eq!(world.hub.figures().behind, keys.len() - 1, "one found room, and one needed none");
    let mut told = Vec::new();
    loop {
        assert!(world.waiting(1) < 2 * ROOM, "{} bytes wait", world.waiting(1));
        let answers = world.told(1);
        if answers.is_empty() {
            break;
        }
        told.extend(answers);
        while world.catch_up_by(10) {}
        assert!(world.hub.behind().is_none(), "nothing is read back for a stream without room");
    }
    assert_eq!(world.hub.figures().behind, 0);
    for watch in 0..keys.len() {
        let told: String = told.iter().filter(|answer| answer.starts_with(&format!("{watch} "))).cloned().collect();
        let places: Vec<_> = (0..10).map(|number| told.find(&format!("put z={number}v"))).collect();
        assert!(places.is_sorted() && places[0].is_some(), "watch {watch}: {places:?}");
        assert_eq!(told.matches("put z=").count(), 10);
    }
}

const KEYS: usize = 50;
const VALUE_BYTES: usize = 200;
const PART_BYTES: usize = 1_000;
const ROOM: usize = 1_500;
/// A part ends with what reaches its size; an event with a former value has two keys and some numbers, too.
const MOST_WAITING: usize = ROOM + 2 * PART_BYTES;

/// `KEYS` keys with values, each of a revision of its own.
fn filled() -> World {
    let mut world = World::with(WatchLimits { part_bytes: PART_BYTES, ..WatchLimits::default() });
    (0..KEYS).for_each(|number| world.put(&key(number), &value(number)));
    world
}

fn key(number: usize) -> String {
    format!("key-{number:02}")
}

fn value(number: usize) -> String {
    format!("{number:02}{}", "v".repeat(VALUE_BYTES - 2))
}

/// Told one deletion after the other, with what was deleted.
fn all_deletions(told: &[String], first_revision: usize) -> bool {
    let expected = (0..KEYS).map(|at| format!("delete {} @{} (was {})", key(at), first_revision + at, value(at)));
    let events = told.iter().flat_map(|answer| answer.split_once(": ").expect("events").1.split(", "));
    events.eq(expected)
}

/// What a stream is told that takes it again and again, with so many revisions of the history read back at once.
fn read_all(world: &mut World, stream: u64, max_revisions: i64) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        while world.catch_up_by(max_revisions) {}
        assert!(world.waiting(stream) <= MOST_WAITING, "{} bytes wait", world.waiting(stream));
        let answers = world.told(stream);
        if answers.is_empty() {
            return told;
        }
        told.extend(answers);
    }
}

#[test]
fn former_values_count_in_what_is_read_back_at_once() {
    let mut world = filled();
    (0..KEYS).for_each(|number| world.delete(&key(number)));
    for stream in [1, 2] {
        world.open(stream);
        world.create(stream, WatchCreate { prev_kv: true, ..watch_all(KEYS as i64 + 2) });
        world.told(stream);
    }
    world.set_room(1, ROOM);
    assert!(world.catch_up_by(i64::MAX / 2));
    assert!(world.waiting(2) <= 2 * PART_BYTES, "{} bytes are told at once", world.waiting(2));
    let told = read_all(&mut world, 1, i64::MAX / 2);
    assert!(all_deletions(&told, KEYS + 2), "{told:?}");
    let told = world.told(2);
    assert!(all_deletions(&told, KEYS + 2), "{told:?}");
    assert!(world.most_read.get() < PART_BYTES + 2 * VALUE_BYTES, "{} bytes at once", world.most_read.get());
}

#[test]
fn a_stream_that_is_full_amid_what_is_published_reads_the_rest_back() {
    let mut world = filled();
    for stream in [1, 2] {
        world.open(stream);
        world.create(stream, WatchCreate { prev_kv: true, ..watch_all(0) });
        world.told(stream);
    }
    world.set_room(1, ROOM);
    world.open(3);
    // Begins amid what is published.
    world.create(3, watch("key-40", KEYS as i64 + 20));
    world.told(3);
    world.live = false;
    (0..KEYS).for_each(|number| world.delete(&key(number)));
    world.publish();
    assert!(world.waiting(1) >= ROOM, "it is told what it has room for");
    assert!(all_deletions(&world.told(2), KEYS + 2), "one that has room is told all");
    assert_eq!(world.hub.figures().behind, 2);
    assert!(world.catch_up_by(i64::MAX / 2));
    assert_eq!(world.told(3), [format!("0 @{}: delete key-40 @{}", 2 * KEYS + 1, KEYS + 42)]);
    let told = read_all(&mut world, 1, i64::MAX / 2);
    assert!(all_deletions(&told, KEYS + 2), "{told:?}");
    assert!(world.most_read.get() < PART_BYTES + 2 * VALUE_BYTES, "{} bytes at once", world.most_read.get());
}

#[test]
fn values_that_are_published_together_wait_only_where_there_is_room() {
    let mut world = World::with(WatchLimits { part_bytes: PART_BYTES, ..WatchLimits::default() });
    world.open(1);
    world.create(1, watch_all(0));
    world.told(1);
    world.set_room(1, ROOM);
    world.live = false;
    (0..KEYS).for_each(|number| world.put(&key(number), &value(number)));
    world.publish();
    let told = read_all(&mut world, 1, 5).join(", ");
    let places: Vec<_> = (0..KEYS).map(|number| told.find(&format!("put {}=", key(number)))).collect();
    assert!(places.is_sorted() && places[0].is_some(), "{told}");
    assert_eq!(told.matches("put ").count(), KEYS);
}

#[test]
fn former_values_of_one_revision_are_told_together_however_large() {
    for live in [true, false] {
        let mut world = filled();
        world.open(1);
        world.create(1, WatchCreate { prev_kv: true, ..watch_all(if live { 0 } else { KEYS as i64 + 2 }) });
        world.told(1);
        world.live = live;
        world.txn((0..KEYS).map(|number| RequestOp::DeleteRange(deletion(&key(number)))).collect());
        world.put("key-00", "again");
        world.publish();
        world.catch_up();
        let told = world.told(1);
        assert_eq!(told.len(), 2, "live: {live}");
        assert_eq!(told[0].matches("(was ").count(), KEYS);
        assert!(told[1].ends_with("put key-00=again @53"), "{told:?}");
    }
}
