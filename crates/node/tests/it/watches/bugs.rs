//! Bugs that etcd had in its watches, by the numbers of its issues; those of its list of correctness bugs among them.

use quorate_kv::RequestOp;
use quorate_node::watch::StreamId;
use quorate_wire::etcd::WatchCreate;

use super::world::{World, deletion, put_op, watch, watch_all};

#[test]
fn etcd_14562_an_id_is_never_given_twice() {
    let mut world = World::new();
    world.open(1);
    world.create(1, WatchCreate { watch_id: 2, ..watch("a", 0) });
    for _ in 0..3 {
        world.create(1, watch("a", 0));
    }
    world.hub.cancel(StreamId(1), 0);
    world.create(1, watch("a", 0));
    let expected = ["created 2 @1", "created 0 @1", "created 1 @1", "created 3 @1", "canceled 0 @1", "created 4 @1"];
    assert_eq!(world.told(1), expected);
}

#[test]
fn etcd_15220_progress_does_not_overtake_events() {
    let mut world = World::new();
    world.open(1);
    world.create(1, watch("a", 0));
    world.told(1);
    world.live = false;
    world.put("a", "1");
    // Applied, and not published yet: progress must not speak of it.
    world.hub.progress(StreamId(1));
    world.publish();
    world.hub.progress(StreamId(1));
    world.set_full(1, true);
    world.put("a", "2");
    world.publish();
    world.hub.progress(StreamId(1));
    world.set_full(1, false);
    world.catch_up();
    world.hub.progress(StreamId(1));
    assert_eq!(
        world.told(1),
        ["progress -1 @1", "0 @2: put a=1 @2", "progress -1 @2", "0 @3: put a=2 @3", "progress -1 @3"]
    );
}

#[test]
fn etcd_15271_a_watch_does_not_go_back_when_a_snapshot_replaces_the_store() {
    let mut world = World::new();
    world.open(1);
    world.create(1, watch("a", 0));
    world.put("a", "1");
    assert_eq!(world.told(1), ["created 0 @1", "0 @2: put a=1 @2"]);
    // The node fell behind; an image with what it missed takes the place of its store.
    world.live = false;
    for value in ["2", "3"] {
        world.put("a", value);
    }
    world.lose();
    world.live = true;
    world.put("a", "4");
    world.catch_up();
    assert_eq!(world.told(1), ["0 @5: put a=2 @3, put a=3 @4, put a=4 @5"]);
}

#[test]
fn etcd_15271_a_watch_that_a_snapshot_has_left_behind_is_ended() {
    let mut world = World::new();
    world.open(1);
    world.create(1, watch("a", 0));
    world.told(1);
    world.live = false;
    for value in ["1", "2", "3"] {
        world.put("a", value);
    }
    world.compact(4);
    world.lose();
    assert_eq!(world.told(1), ["compacted 0 at 4"]);
}

#[test]
fn etcd_17247_no_event_comes_twice_whatever_a_transaction_does() {
    let mut world = World::new();
    world.put("b", "0");
    world.open(1);
    world.create(1, watch_all(0));
    world.create(1, watch_all(2));
    world.live = false;
    world.txn(vec![
        RequestOp::Put(put_op("a", "1")),
        RequestOp::DeleteRange(deletion("b")),
        RequestOp::DeleteRange(deletion("b")),
    ]);
    // The one that is behind reads back while the batch is visible in the store, and not published yet.
    world.catch_up();
    world.publish();
    let expected = ["created 0 @2", "created 1 @2", "1 @2: put b=0 @2", "0,1 @3: put a=1 @3, delete b @3"];
    assert_eq!(world.told(1), expected);
}

#[test]
fn etcd_17529_a_slow_watch_whose_next_revision_is_forgotten_is_told_so() {
    let mut world = World::new();
    world.open(1);
    world.create(1, watch("a", 0));
    world.told(1);
    world.set_full(1, true);
    for value in ["1", "2", "3"] {
        world.put("a", value);
    }
    world.compact(3);
    assert_eq!(world.told(1), ["compacted 0 at 3"]);
    world.set_full(1, false);
    world.catch_up();
    world.put("a", "4");
    assert_eq!(world.told(1), [""; 0], "nothing after the gap");
}

#[test]
fn etcd_18089_a_deletion_is_told_though_history_is_forgotten_right_after() {
    let mut world = World::new();
    world.put("a", "1");
    world.open(1);
    world.create(1, watch("a", 0));
    world.set_full(1, true);
    world.delete("a");
    world.compact(3);
    world.set_full(1, false);
    world.catch_up();
    assert_eq!(world.told(1), ["created 0 @2", "0 @3: delete a @3"]);
}

#[test]
fn etcd_19179_a_watch_from_the_oldest_revision_sees_the_deletion_there() {
    let mut world = World::new();
    world.put("a", "1");
    world.delete("a");
    world.put("b", "2");
    world.compact(3);
    world.open(1);
    world.create(1, watch("a", 3));
    world.catch_up();
    assert_eq!(world.told(1), ["created 0 @4", "0 @4: delete a @3"]);
}

#[test]
fn etcd_20221_a_watch_of_the_future_is_told_nothing_older() {
    for batch in [1, 2, 4] {
        let mut world = World::new();
        world.open(1);
        world.create(1, watch("a", 4));
        world.live = false;
        for value in 1..=4 {
            world.put("a", &value.to_string());
            if value % batch == 0 {
                world.publish();
                world.catch_up();
            }
        }
        let told = world.told(1).join("; ");
        assert!(told.contains("put a=3 @4") && told.contains("put a=4 @5"), "{told}");
        assert!(!told.contains("@2") && !told.contains("@3"), "{told}");
    }
}

#[test]
fn etcd_20221_a_watch_of_the_future_has_no_progress_before_it() {
    let mut world = World::new();
    world.open(1);
    world.create(1, WatchCreate { progress_notify: true, ..watch("a", 3) });
    world.put("b", "1");
    world.hub.progress(StreamId(1));
    world.hub.tick(quorate_raft::Time(10_000_000), std::time::Duration::ZERO);
    assert_eq!(world.told(1), ["created 0 @1"]);
    world.put("b", "2");
    world.hub.progress(StreamId(1));
    assert_eq!(world.told(1), ["progress -1 @3"]);
}

#[test]
fn etcd_20711_a_negative_revision_is_no_current_one() {
    let mut world = World::new();
    world.open(1);
    world.create(1, watch("a", -1));
    world.create(1, watch("a", i64::MIN));
    let refused = "refused: etcdserver: mvcc: required revision has been compacted";
    assert_eq!(world.told(1), [refused, refused]);
}
