//! What waits for a client, and what is read for it at once, stay bounded.

use quorate_wire::etcd::WatchCreate;

use super::world::{World, watch};

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
