//! Answers of writes that have more in them than there is room for.

use quorate_kv::{
    Actor, AnswerRoom, Command, DeleteRangeRequest, Outcome, PutRequest, RECORD_OVERHEAD_BYTES, RequestOp, Response,
    TxnRequest,
};

use crate::store::{Store, delete, put, range};

fn apply(store: &mut Store, command: &Command, room: &AnswerRoom) -> Outcome {
    let Ok(outcome) = store.space.apply_for(&mut store.records, &Actor::Anonymous, command, room);
    store.space.check();
    outcome
}

/// What the two records of [`store`] take: a key and a value of one byte each, and what stands around them.
const BOTH: usize = 2 * (2 + RECORD_OVERHEAD_BYTES);

/// Writes that each answer the two records of [`store`].
fn writes() -> Vec<Command> {
    let all = || RequestOp::Range(range("a", "c"));
    let txn = |success| Command::Txn(TxnRequest { success, ..TxnRequest::default() });
    let put_over = |key| RequestOp::Put(PutRequest { prev_kv: true, ..put(key, "2") });
    let nested = TxnRequest { success: vec![all()], ..TxnRequest::default() };
    let delete = || DeleteRangeRequest { prev_kv: true, ..delete("a", "c") };
    vec![
        Command::DeleteRange(delete()),
        txn(vec![RequestOp::DeleteRange(delete())]),
        txn(vec![RequestOp::Put(put("z", "")), all()]),
        txn(vec![RequestOp::Txn(nested), RequestOp::Put(put("z", ""))]),
        txn(vec![put_over("a"), put_over("b")]),
    ]
}

fn store() -> Store {
    Store::of("a=1 b=1")
}

#[test]
fn a_write_whose_answer_has_no_room_is_done_all_the_same() {
    for command in writes() {
        let (mut answered, mut withheld) = (store(), store());
        let told = apply(&mut answered, &command, &AnswerRoom::new(BOTH, 2 * BOTH));
        let untold = apply(&mut withheld, &command, &AnswerRoom::new(BOTH - 1, 2 * BOTH));
        assert_eq!(told.result.as_ref().map(Response::bytes), Ok(BOTH), "{command:?}");
        assert_eq!(untold.result, Ok(Response::Withheld), "{command:?}");
        assert_eq!((untold.revision, untold.changes), (told.revision, told.changes), "{command:?}");
        assert_eq!(withheld.space.meta(), answered.space.meta(), "{command:?}");
    }
}

#[test]
fn those_that_are_applied_together_share_the_room() {
    let mut store = store();
    let room = AnswerRoom::new(BOTH, 2 * BOTH - 1);
    let command = &writes()[2];
    assert_ne!(apply(&mut store, command, &room).result, Ok(Response::Withheld));
    assert_eq!(apply(&mut store, command, &room).result, Ok(Response::Withheld));
    assert!(apply(&mut store, &Command::Put(put("a", "2")), &room).result.is_ok(), "it answers nothing");
}

#[test]
fn what_only_decides_takes_no_room() {
    let mut store = store();
    let room = AnswerRoom::new(0, 0);
    let ignoring = PutRequest { ignore_value: true, ..put("a", "") };
    for command in [Command::Put(ignoring), Command::DeleteRange(delete("a", "c"))] {
        assert_ne!(apply(&mut store, &command, &room).result, Ok(Response::Withheld), "{command:?}");
    }
}
