//! Clients that do not keep up, and stores that move away under them.

use std::time::Duration;

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

/// A world of so many revisions from 2 on, each a put of `a`.
fn with_history(revisions: i64) -> World {
    let mut world = World::new();
    (0..revisions).for_each(|value| world.put("a", &value.to_string()));
    world
}

#[test]
fn a_watch_that_is_a_little_behind_does_not_wait_for_those_far_behind() {
    let mut world = with_history(100);
    for (stream, start) in [(1, 2), (2, 2), (3, 92)] {
        world.open(stream);
        world.create(stream, watch("a", start));
        world.told(stream);
    }
    let turns = (1..).find(|_| !world.catch_up_by(5) || world.hub.figures().behind == 2);
    assert!(turns <= Some(4), "{turns:?} turns for two parts");
    assert_eq!(world.told(3).len(), 2);
    let more = (1..).find(|_| !world.catch_up_by(5) || world.hub.figures().behind == 0);
    assert!(more <= Some(20), "{more:?} turns for the twenty parts that the others wait for together");
    assert_eq!(world.told(1), world.told(2));
}

#[test]
fn watches_that_come_one_after_the_other_starve_none_that_waits() {
    let mut world = with_history(50);
    world.open(1);
    world.create(1, watch("a", 25));
    world.told(1);
    // One from the beginning and one that is nearly there, again and again.
    let mut told = Vec::new();
    for stream in 1..120 {
        for (id, start) in [(2 * stream, 2), (2 * stream + 1, 51)] {
            world.open(id);
            world.create(id, watch("a", start));
        }
        assert!(world.catch_up_by(1));
        told.extend(world.told(1));
    }
    assert_eq!(told.len(), 27, "the sweep passed it, and took it along to the end");
}

#[test]
fn a_watch_that_falls_behind_time_and_again_starves_none_that_waits() {
    let mut world = with_history(50);
    world.open(1);
    world.create(1, watch("a", 51));
    world.catch_up();
    world.open(2);
    world.create(2, watch("a", 2));
    world.told(2);
    for turn in 0..100 {
        world.set_full(1, true);
        world.put("a", "more");
        world.set_full(1, false);
        assert!(world.catch_up_by(1), "turn {turn}");
    }
    assert!(world.told(2).len() >= 49, "every other turn was its own");
}

#[test]
fn tens_of_thousands_of_equal_watches_leave_their_group_together() {
    const WATCHES: usize = 20_000;
    let limits = WatchLimits { stream_watches: WATCHES, node_watches: WATCHES, ..WatchLimits::default() };
    let mut world = World::with(limits);
    world.open(1);
    for _ in 0..WATCHES {
        world.hub.create(StreamId(1), watch("a", 0), Time(0), Duration::ZERO);
    }
    world.set_full(1, true);
    world.live = false;
    world.put("a", "1");
    world.publish();
    assert_eq!(world.hub.figures().behind, WATCHES);
    world.hub.close(StreamId(1));
    assert_eq!((world.hub.figures().watches, world.hub.figures().behind), (0, 0));
}
