//! What etcd's API says of watches.

use std::time::Duration;

use quorate_kv::RequestOp;
use quorate_node::watch::{StreamId, WatchLimits};
use quorate_raft::Time;
use quorate_wire::etcd::WatchCreate;

use super::world::{World, deletion, put_op, watch, watch_all};

#[test]
fn a_watch_is_told_of_its_keys_from_now_on() {
    let mut world = World::new();
    world.put("a", "0");
    world.open(1);
    world.create(1, watch("a", 0));
    world.put("a", "1");
    world.put("b", "2");
    world.delete("a");
    assert_eq!(world.told(1), ["created 0 @2", "0 @3: put a=1 @3", "0 @5: delete a @5"]);
}

#[test]
fn ids_count_from_zero_and_leave_out_those_clients_chose() {
    let mut world = World::new();
    world.open(1);
    for watch_id in [0, 1, 0, 0] {
        world.create(1, WatchCreate { watch_id, ..watch("a", 0) });
    }
    assert_eq!(world.told(1), ["created 0 @1", "created 1 @1", "created 2 @1", "created 3 @1"]);
    world.open(2);
    world.create(2, watch("a", 0));
    assert_eq!(world.told(2), ["created 0 @1"]);
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let mut world = World::new();
    world.open(1);
    world.create(1, WatchCreate { watch_id: 7, ..watch("a", 0) });
    world.create(1, WatchCreate { watch_id: 7, ..watch("b", 0) });
    for range_end in ["a", "Z"] {
        world.create(1, WatchCreate { range_end: range_end.into(), ..watch("a", 0) });
    }
    world.create(1, watch("a", -1));
    let expected = [
        "created 7 @1",
        "refused: mvcc: duplicate watch ID provided on the WatchStream",
        "refused: mvcc: watcher range is empty",
        "refused: mvcc: watcher range is empty",
        "refused: etcdserver: mvcc: required revision has been compacted",
    ];
    assert_eq!(world.told(1), expected);
    world.put("a", "1");
    assert_eq!(world.told(1), ["7 @2: put a=1 @2"]);
}

#[test]
fn limits_of_streams_and_nodes_hold_at_the_limit_and_after_a_cancel() {
    let mut world = World::with(WatchLimits { stream_watches: 2, node_watches: 3, ..WatchLimits::default() });
    world.open(1);
    world.open(2);
    for stream in [1, 1, 1, 2, 2] {
        world.create(stream, watch("a", 0));
    }
    let full = "refused: etcdserver: too many watches on this stream: 2 are allowed";
    assert_eq!(world.told(1), ["created 0 @1", "created 1 @1", full]);
    let full = "refused: etcdserver: too many watches on this node: 3 are allowed";
    assert_eq!(world.told(2), ["created 0 @1", full]);
    world.hub.cancel(StreamId(1), 0);
    world.create(2, watch("a", 0));
    assert_eq!(world.told(2), ["created 1 @1"]);
    world.hub.close(StreamId(1));
    world.hub.close(StreamId(2));
    assert_eq!((world.hub.figures().watches, world.hub.figures().streams), (0, 0));
    world.hub.check();
}

#[test]
fn the_past_is_told_in_order_then_the_present() {
    let mut world = World::new();
    for value in ["1", "2", "3"] {
        world.put("a", value);
    }
    world.open(1);
    world.create(1, watch("a", 3));
    world.put("a", "4");
    assert_eq!(world.told(1), ["created 0 @4"]);
    world.catch_up();
    world.put("a", "5");
    assert_eq!(world.told(1), ["0 @5: put a=2 @3, put a=3 @4, put a=4 @5", "0 @6: put a=5 @6"]);
}

#[test]
fn a_forgotten_start_ends_the_watch_at_once_with_the_oldest_revision() {
    let mut world = World::new();
    for value in ["1", "2", "3"] {
        world.put("a", value);
    }
    world.compact(3);
    world.open(1);
    world.create(1, watch("a", 2));
    world.create(1, watch("a", 3));
    world.catch_up();
    assert_eq!(world.told(1), ["created 0 @4", "compacted 0 at 3", "created 1 @4", "1 @4: put a=2 @3, put a=3 @4"]);
    assert_eq!(world.hub.figures().watches, 1);
}

#[test]
fn a_revision_is_told_in_one_answer_in_the_order_of_its_operations() {
    let mut world = World::new();
    world.put("c", "0");
    world.open(1);
    world.create(1, watch_all(0));
    let ops =
        vec![RequestOp::Put(put_op("b", "1")), RequestOp::DeleteRange(deletion("c")), RequestOp::Put(put_op("a", "1"))];
    world.txn(ops);
    assert_eq!(world.told(1), ["created 0 @2", "0 @3: put b=1 @3, delete c @3, put a=1 @3"]);
}

#[test]
fn responses_are_split_between_revisions_and_within_one_for_those_who_take_fragments_alone() {
    let limits = WatchLimits { response_bytes: 60, fragment_bytes: 150, ..WatchLimits::default() };
    let mut world = World::with(limits);
    world.open(1);
    world.create(1, watch_all(0));
    world.create(1, WatchCreate { fragment: true, ..watch_all(0) });
    assert_eq!(world.told(1).len(), 2);
    world.live = false;
    world.put("a", "1");
    world.txn((0..4).map(|key| RequestOp::Put(put_op(&format!("long-key-{key}"), "value"))).collect());
    world.put("b", "2");
    world.publish();
    let whole = "put long-key-0=value @3, put long-key-1=value @3, put long-key-2=value @3, put long-key-3=value @3";
    assert_eq!(
        world.told(1),
        [
            format!("0 @4: put a=1 @2, {whole}"),
            "0 @4: put b=2 @4".to_string(),
            "1 @4: put a=1 @2, put long-key-0=value @3, put long-key-1=value @3 …".to_string(),
            "1 @4: put long-key-2=value @3, put long-key-3=value @3".to_string(),
            "1 @4: put b=2 @4".to_string(),
        ]
    );
}

#[test]
fn former_values_are_told_to_those_who_ask() {
    let mut world = World::new();
    world.open(1);
    world.create(1, WatchCreate { prev_kv: true, ..watch("a", 0) });
    world.create(1, watch("a", 0));
    world.put("a", "1");
    world.put("a", "2");
    world.delete("a");
    world.put("a", "3");
    let expected = [
        "created 0 @1",
        "created 1 @1",
        "0 @2: put a=1 @2",
        "1 @2: put a=1 @2",
        "0 @3: put a=2 @3 (was 1)",
        "1 @3: put a=2 @3",
        "0 @4: delete a @4 (was 2)",
        "1 @4: delete a @4",
        "0 @5: put a=3 @5",
        "1 @5: put a=3 @5",
    ];
    assert_eq!(world.told(1), expected);
    // What was before the oldest revision is forgotten, and left out.
    world.compact(3);
    world.create(1, WatchCreate { prev_kv: true, ..watch("a", 3) });
    world.catch_up();
    assert_eq!(world.told(1), ["created 2 @5", "2 @5: put a=2 @3, delete a @4 (was 2), put a=3 @5"]);
}

#[test]
fn filters_leave_out_what_they_name_and_answers_that_would_be_empty() {
    let mut world = World::new();
    world.open(1);
    world.create(1, WatchCreate { no_put: true, ..watch("a", 0) });
    world.create(1, WatchCreate { no_delete: true, ..watch("a", 0) });
    world.create(1, WatchCreate { no_put: true, no_delete: true, ..watch("a", 0) });
    world.put("a", "1");
    world.delete("a");
    let expected = ["created 0 @1", "created 1 @1", "created 2 @1", "1 @2: put a=1 @2", "0 @3: delete a @3"];
    assert_eq!(world.told(1), expected);
}

#[test]
fn ranges_and_keys_are_told_apart() {
    let mut world = World::new();
    world.open(1);
    let between = |key: &'static str, end: &'static str| WatchCreate { range_end: end.into(), ..watch(key, 0) };
    world.create(1, between("b", "d"));
    world.create(1, between("c", "\0"));
    world.create(1, watch("c", 0));
    world.told(1);
    for key in ["a", "b", "c", "d"] {
        world.put(key, "1");
    }
    let told = world.told(1);
    assert_eq!(told.len(), 5);
    for expected in ["0 @3: put b=1 @3", "0 @4: put c=1 @4", "1 @4: put c=1 @4", "2 @4: put c=1 @4", "1 @5: put d=1 @5"]
    {
        assert!(told.contains(&expected.to_string()), "{expected} in {told:?}");
    }
}

#[test]
fn equal_watches_of_all_streams_share_the_bytes() {
    let mut world = World::new();
    for stream in [1, 2] {
        world.open(stream);
        for _ in 0..3 {
            world.create(stream, watch("a", 0));
        }
        world.told(stream);
    }
    world.put("a", "1");
    for stream in [1, 2] {
        assert_eq!(world.told(stream), ["0,1,2 @2: put a=1 @2"]);
    }
    assert_eq!(world.hub.figures().events_told, 6);
}

#[test]
fn a_cancel_is_answered_and_an_unknown_one_is_not() {
    let mut world = World::new();
    world.open(1);
    world.create(1, watch("a", 0));
    world.hub.cancel(StreamId(1), 0);
    world.hub.cancel(StreamId(1), 0);
    world.hub.cancel(StreamId(9), 0);
    world.put("a", "1");
    assert_eq!(world.told(1), ["created 0 @1", "canceled 0 @1"]);
    world.hub.check();
}

#[test]
fn progress_is_told_only_if_all_watches_of_the_stream_are_there() {
    let mut world = World::new();
    world.put("a", "1");
    world.open(1);
    world.hub.progress(StreamId(1));
    assert_eq!(world.told(1), [""; 0], "a stream without watches has no progress");
    world.create(1, watch("b", 0));
    world.hub.progress(StreamId(1));
    assert_eq!(world.told(1), ["created 0 @2", "progress -1 @2"]);
    world.create(1, watch("a", 1));
    world.hub.progress(StreamId(1));
    assert_eq!(world.told(1), ["created 1 @2"]);
    world.catch_up();
    world.hub.progress(StreamId(1));
    assert_eq!(world.told(1), ["1 @2: put a=1 @2", "progress -1 @2"]);
}

#[test]
fn progress_comes_by_itself_to_those_who_want_it_and_were_told_nothing() {
    let mut world = World::new();
    let notified = |key| WatchCreate { progress_notify: true, ..watch(key, 0) };
    world.open(1);
    world.create(1, notified("a"));
    world.create(1, notified("b"));
    world.create(1, watch("b", 0));
    assert_eq!(world.hub.next_deadline(), Some(Time(10_000_000)));
    world.put("a", "1");
    world.told(1);
    let tick = |world: &mut World, second: u64| {
        world.hub.tick(Time(second * 1_000_000), Duration::from_secs(1));
        world.hub.check();
        world.told(1)
    };
    assert_eq!(tick(&mut world, 9), [""; 0]);
    assert_eq!(tick(&mut world, 10), ["progress 1 @2"]);
    assert_eq!(world.hub.next_deadline(), Some(Time(21_000_000)));
    assert_eq!(tick(&mut world, 20), [""; 0]);
    assert_eq!(tick(&mut world, 21), ["progress 0 @2", "progress 1 @2"]);
    world.create(1, WatchCreate { progress_notify: true, ..watch("b", 1) });
    world.told(1);
    assert_eq!(tick(&mut world, 32), ["progress 0 @2", "progress 1 @2"], "not to one that is behind");
    world.set_full(1, true);
    assert_eq!(tick(&mut world, 43), [""; 0], "not to one that takes nothing");
    world.hub.close(StreamId(1));
    assert_eq!(world.hub.next_deadline(), None);
}

#[test]
fn the_first_progress_comes_in_time_to_a_watch_whose_past_held_nothing_for_it() {
    let mut world = World::new();
    world.put("a", "1");
    world.open(1);
    for key in ["a", "b"] {
        world.create(1, WatchCreate { progress_notify: true, ..watch(key, 1) });
    }
    world.catch_up();
    assert_eq!(world.told(1), ["created 0 @2", "created 1 @2", "0 @2: put a=1 @2"]);
    world.hub.tick(Time(10_000_000), Duration::ZERO);
    assert_eq!(world.told(1), ["progress 1 @2"], "the other one was told something");
}

#[test]
fn only_streams_that_want_a_leader_end_for_want_of_one() {
    let mut world = World::new();
    world.open(1);
    world.open_with_leader(2);
    world.create(2, watch("a", 0));
    assert!(world.hub.needs_leader());
    world.hub.leader_is_lost();
    world.hub.check();
    assert!(!world.hub.needs_leader());
    assert_eq!(world.told(1), [""; 0]);
    assert_eq!(world.told(2), ["created 0 @1", "ended: etcdserver: no leader"]);
    world.hub.end_all();
    assert_eq!(world.told(1), ["ended: etcdserver: server stopped"]);
}

#[test]
fn a_hub_that_nobody_watched_begins_where_the_store_is() {
    let mut world = World::new();
    world.live = false;
    world.put("a", "1");
    world.hub.begin_at(world.space.revision(), world.space.compact_revision());
    world.open(1);
    world.create(1, watch("a", 0));
    // What was visible before is not told, though it is published after.
    world.publish();
    world.put("a", "2");
    world.publish();
    assert_eq!(world.told(1), ["created 0 @2", "0 @3: put a=2 @3"]);
}
