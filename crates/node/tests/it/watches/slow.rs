//! Clients that do not keep up, and stores that move away under them.

use std::time::{Duration, Instant};

use quorate_node::watch::{StreamId, WatchLimits};
use quorate_raft::Time;
use quorate_wire::etcd::WatchCreate;

use super::world::{World, watch, watch_all};

#[test]
fn a_full_stream_falls_behind_and_holds_nobody_up() {
    let mut world = World::new();
    for stream in [1, 2] {
        world.open(stream);
        world.create(stream, watch("a", 0));
        world.told(stream);
    }
    world.set_full(1, true);
    for value in ["1", "2", "3"] {
        world.put("a", value);
    }
    assert!(world.hub.behind().is_none(), "nothing is read back for a stream that takes nothing");
    assert_eq!(world.told(2), ["0 @2: put a=1 @2", "0 @3: put a=2 @3", "0 @4: put a=3 @4"]);
    assert_eq!((world.told(1).len(), world.hub.figures().behind), (0, 1));
    world.set_full(1, false);
    world.catch_up();
    world.put("a", "4");
    assert_eq!(world.told(1), ["0 @4: put a=1 @2, put a=2 @3, put a=3 @4", "0 @5: put a=4 @5"]);
    assert_eq!(world.hub.figures().behind, 0);
}

#[test]
fn history_read_back_in_parts_has_no_gap_and_nothing_twice() {
    for part in 1..5 {
        let mut world = World::new();
        world.open(1);
        world.create(1, watch_all(0));
        world.live = false;
        for value in 0..6 {
            world.put(if value % 2 == 0 { "a" } else { "b" }, &value.to_string());
        }
        world.lose();
        world.live = true;
        world.open(2);
        world.create(2, watch("a", 4));
        assert!(world.catch_up_by(part));
        world.put("a", "6");
        while world.catch_up_by(part) {}
        world.put("b", "7");
        let events = |told: Vec<String>| {
            let events = told.iter().filter_map(|answer| Some(answer.split_once(": ")?.1.to_string()));
            events.collect::<Vec<_>>().join(", ")
        };
        let all = "put a=0 @2, put b=1 @3, put a=2 @4, put b=3 @5, put a=4 @6, put b=5 @7, put a=6 @8, put b=7 @9";
        assert_eq!(events(world.told(1)), all, "in parts of {part}");
        assert_eq!(events(world.told(2)), "put a=2 @4, put a=4 @6, put a=6 @8", "in parts of {part}");
    }
}

#[test]
fn one_reading_serves_all_who_wait_for_it() {
    let mut world = World::new();
    for value in ["1", "2", "3"] {
        world.put("a", value);
    }
    for stream in [1, 2, 3] {
        world.open(stream);
        world.create(stream, watch("a", 2 + stream as i64 / 3));
        world.told(stream);
    }
    assert!(world.catch_up_by(100));
    assert!(!world.catch_up_by(100), "one reading was enough");
    assert_eq!(world.told(1), world.told(2));
    assert_eq!(world.told(3), ["0 @4: put a=2 @3, put a=3 @4"]);
}

#[test]
fn a_watch_that_waits_while_history_goes_on_is_told_progress_only_when_it_is_there() {
    let mut world = World::new();
    world.put("a", "1");
    world.open(1);
    world.create(1, WatchCreate { progress_notify: true, ..watch("a", 1) });
    world.put("a", "2");
    world.hub.progress(StreamId(1));
    assert!(world.catch_up_by(1));
    world.hub.progress(StreamId(1));
    assert_eq!(world.told(1), ["created 0 @2"]);
    while world.catch_up_by(1) {}
    world.hub.progress(StreamId(1));
    assert_eq!(world.told(1), ["0 @3: put a=1 @2", "0 @3: put a=2 @3", "progress -1 @3"]);
}

#[test]
fn a_canceled_or_closed_watch_that_was_behind_is_forgotten() {
    let mut world = World::new();
    world.put("a", "1");
    world.open(1);
    world.open(2);
    world.create(1, watch("a", 2));
    world.create(2, watch("a", 2));
    world.create(2, watch("a", 9));
    world.hub.cancel(StreamId(1), 0);
    world.hub.close(StreamId(2));
    world.hub.check();
    assert!(world.hub.behind().is_none());
    world.put("a", "2");
    assert_eq!(world.told(1), ["created 0 @2", "canceled 0 @2"]);
}

#[test]
fn hundreds_of_thousands_of_equal_watches_leave_as_fast_as_they_came() {
    const WATCHES: usize = 400_000;
    let limits = WatchLimits { stream_watches: WATCHES, node_watches: WATCHES, ..WatchLimits::default() };
    let opened = |full: bool| {
        let mut world = World::with(limits);
        world.open(1);
        let begun = Instant::now();
        for _ in 0..WATCHES {
            world.hub.create(StreamId(1), watch("a", 0), Time(0), Duration::ZERO);
        }
        world.set_full(1, full);
        (world, begun.elapsed())
    };
    let (mut world, opening) = opened(false);
    let begun = Instant::now();
    world.hub.close(StreamId(1));
    let closing = begun.elapsed();
    assert!(closing < 4 * opening, "opened in {opening:?}, closed in {closing:?}");

    let (mut world, opening) = opened(true);
    world.live = false;
    world.put("a", "1");
    let begun = Instant::now();
    world.publish();
    let falling = begun.elapsed();
    assert_eq!(world.hub.figures().behind, WATCHES);
    assert!(falling < 4 * opening, "opened in {opening:?}, fell behind in {falling:?}");
}
