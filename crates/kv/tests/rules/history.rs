//! Revisions, the numbers of a key, and reads of the past.

use quorate_kv::{Command, DeleteRangeResponse, KvError, PutRequest, RecordKey, Response, Revision};

use crate::store::{Store, at, bytes, delete, everything, put, range, show};

#[test]
fn the_empty_store_is_at_one_and_the_first_write_makes_two() {
    let mut store = Store::default();
    assert_eq!(store.space.revision(), Revision(1));
    assert_eq!(store.range(&everything()), "1:  (0)");
    assert_eq!(store.apply(&Command::Put(put("a", "1"))).revision, Revision(2));
}

#[test]
fn create_revision_is_kept_on_overwrite_and_reset_after_deletion() {
    let mut store = Store::of("a=1 a=2 b=1 a=3");
    assert_eq!(store.range(&range("a", "")), "5: a=3[2,5,3] (1)");
    store.run("-a");
    assert_eq!(store.range(&range("a", "")), "6:  (0)");
    store.run("a=4");
    assert_eq!(store.range(&range("a", "")), "7: a=4[7,7,1] (1)");
}

#[test]
fn a_deletion_that_deletes_nothing_makes_no_revision() {
    let mut store = Store::of("a=1");
    let outcome = store.apply(&Command::DeleteRange(delete("b", "")));
    assert_eq!(outcome.result, Ok(Response::DeleteRange(DeleteRangeResponse::default())));
    assert_eq!((outcome.revision, outcome.changes.len()), (Revision(2), 0));
}

#[test]
fn a_range_is_deleted_in_one_revision_in_key_order() {
    let mut store = Store::of("c=3 a=1 b=2 d=4");
    let outcome =
        store.apply(&Command::DeleteRange(quorate_kv::DeleteRangeRequest { prev_kv: true, ..delete("a", "d") }));
    let Ok(Response::DeleteRange(answer)) = outcome.result else { panic!("{outcome:?}") };
    assert_eq!(answer.deleted, 3);
    assert_eq!(answer.prev_kvs.iter().map(show).collect::<Vec<_>>(), ["a=1[3,3,1]", "b=2[4,4,1]", "c=3[2,2,1]"]);
    let changed: Vec<_> = outcome.changes.iter().map(|change| (change.key().clone(), change.at)).collect();
    let place = |sub| RecordKey { revision: 6, sub };
    assert_eq!(changed, [(bytes("a"), place(0)), (bytes("b"), place(1)), (bytes("c"), place(2))]);
    assert!(outcome.changes.iter().all(|change| change.record.tombstone));
    assert_eq!(store.keys(&everything()), "d");
}

#[test]
fn an_inverted_interval_deletes_nothing() {
    let mut store = Store::of("a=1 b=2");
    for (key, end) in [("b", "a"), ("b", "b")] {
        assert_eq!(store.apply(&Command::DeleteRange(delete(key, end))).changes, []);
    }
}

#[test]
fn the_past_is_read_at_its_revision_and_headed_by_the_current_one() {
    let store = Store::of("a=1 b=1 a=2 -a a=3");
    let cases = [
        (1, "6:  (0)"),
        (2, "6: a=1[2,2,1] (1)"),
        (3, "6: a=1[2,2,1] b=1[3,3,1] (2)"),
        (4, "6: a=2[2,4,2] b=1[3,3,1] (2)"),
        (5, "6: b=1[3,3,1] (1)"),
        (6, "6: a=3[6,6,1] b=1[3,3,1] (2)"),
        (0, "6: a=3[6,6,1] b=1[3,3,1] (2)"),
        (-5, "6: a=3[6,6,1] b=1[3,3,1] (2)"),
        (7, "mvcc: required revision is a future revision"),
    ];
    for (revision, answer) in cases {
        assert_eq!(store.range(&at(revision, everything())), answer, "at {revision}");
    }
}

#[test]
fn the_previous_version_comes_back_if_asked_for() {
    let mut store = Store::of("a=1");
    let mut previous = |request: PutRequest| match store.apply(&Command::Put(request)).result {
        Ok(Response::Put(answer)) => answer.prev_kv.as_ref().map(show),
        other => panic!("{other:?}"),
    };
    assert_eq!(previous(put("a", "2")), None);
    assert_eq!(previous(PutRequest { prev_kv: true, ..put("a", "3") }), Some("a=2[2,3,2]".into()));
    assert_eq!(previous(PutRequest { prev_kv: true, ..put("b", "1") }), None);
}

#[test]
fn an_ignored_value_is_kept() {
    let mut store = Store::of("a=1");
    let keep = Command::Put(PutRequest { ignore_value: true, ..put("a", "") });
    store.apply(&keep).result.expect("the key exists");
    assert_eq!(store.range(&range("a", "")), "3: a=1[2,3,2] (1)");
}

#[test]
fn ignoring_a_field_of_a_missing_key_is_refused() {
    let mut store = Store::of("a=1 -a");
    for (ignore_value, ignore_lease) in [(true, false), (false, true)] {
        let outcome = store.apply(&Command::Put(PutRequest { ignore_value, ignore_lease, ..put("a", "") }));
        assert_eq!((outcome.result, outcome.revision), (Err(KvError::KeyNotFound), Revision(3)));
    }
}

#[test]
fn a_lease_nobody_granted_is_refused_before_the_key_is_looked_for() {
    let mut store = Store::default();
    let outcome = store.apply(&Command::Put(PutRequest { lease: 7, ignore_value: true, ..put("a", "") }));
    assert_eq!(outcome.result, Err(KvError::LeaseNotFound));
    assert_eq!((outcome.revision, outcome.changes.len()), (Revision(1), 0));
}

#[test]
fn a_refused_command_leaves_no_trace() {
    let mut store = Store::of("a=1");
    let (meta, places) = (store.space.meta(), store.places());
    let refused = [
        Command::Put(put("", "1")),
        Command::Put(PutRequest { ignore_value: true, ..put("b", "") }),
        Command::Put(PutRequest { ignore_value: true, ..put("a", "both") }),
        Command::DeleteRange(delete("", "")),
    ];
    for command in refused {
        assert!(store.apply(&command).result.is_err());
    }
    assert_eq!((store.space.meta(), store.places()), (meta, places));
}

#[test]
fn changes_tell_a_watcher_everything() {
    let mut store = Store::of("a=1");
    let outcome = store.apply(&Command::Put(put("a", "2")));
    let [change] = &outcome.changes[..] else { panic!("{outcome:?}") };
    assert_eq!(show(&change.record.clone().into_key_value(change.at)), "a=2[2,3,2]");
    let previous = store.space.locate(b"a", Revision(change.at.revision - 1));
    assert_eq!(previous, Some(RecordKey { revision: 2, sub: 0 }));
    assert_eq!(store.space.locate(b"a", Revision(1)), None);
}
