//! Appends to one list by compare-and-swap: the history that shows lost and repeated writes at a glance (after Elle's
//! list-append).
//!
//! Any two lists ever seen are prefixes of one another; an append that was acknowledged is in the last list once.

use bytes::Bytes;
use quorate_kv::{
    Actor, Command, Compare, CompareResult, CompareTarget, KeyValue, PutRequest, RangeRequest, RequestOp, Response,
    TxnRequest,
};
use quorate_node::{Answer, ClientOp};
use quorate_raft::NodeId;
use quorate_store::StateView;

use super::super::model::ranges;
use super::Workload;
use crate::clock::Instant;
use crate::coverage::Coverage;
use crate::random::Random;

/// Outside the interval of the keys of the general workload.
const KEY: &[u8] = b"list";
/// Numbers of this workload's values, apart from all others.
const NUMBERS: u64 = 1 << 63;
/// A list is begun anew past this: the workload is about order, not about size.
const LONGEST: usize = 200;

/// The list and what its clients know.
#[derive(Debug, Default)]
pub(super) struct Appends {
    next: u64,
    /// What some client saw last: the list and the revision it was written at.
    seen: (Vec<u64>, i64),
    /// The longest list seen since it was last begun.
    longest: Vec<u64>,
    acknowledged: Vec<u64>,
}

fn elements(value: &[u8]) -> Vec<u64> {
    let (numbers, rest) = value.as_chunks::<8>();
    assert!(rest.is_empty(), "a list of half a number: {value:?}");
    numbers.iter().map(|number| u64::from_le_bytes(*number)).collect()
}

impl Appends {
    fn saw(&mut self, kv: Option<&KeyValue>) {
        let Some(kv) = kv else { return };
        let list = elements(&kv.value);
        let mut both = list.iter().zip(&self.longest).skip(1);
        assert!(both.all(|(now, before)| now == before), "append: the list is {list:?} and was {:?}", self.longest);
        if list.len() > self.longest.len() {
            self.longest.clone_from(&list);
        }
        if kv.mod_revision > self.seen.1 {
            self.seen = (list, kv.mod_revision);
        }
    }
}

impl Workload for Appends {
    fn draw(&mut self, _random: &mut Random, _now: Instant) -> Vec<(u64, ClientOp)> {
        if self.longest.len() > LONGEST {
            return Vec::new();
        }
        self.next += 1;
        let number = NUMBERS | self.next;
        // The first element names the value, as every value of a run begins with a number of its own.
        let mut list = vec![number];
        list.extend(self.seen.0.iter().skip(1));
        list.push(number);
        let value: Vec<u8> = list.iter().flat_map(|number| number.to_le_bytes()).collect();
        let key = Bytes::from_static(KEY);
        let compare = Compare {
            key: key.clone(),
            range_end: Bytes::new(),
            target: CompareTarget::Mod(self.seen.1),
            result: CompareResult::Equal,
        };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp::Put(PutRequest {
                key: key.clone(),
                value: value.into(),
                ..PutRequest::default()
            })],
            failure: vec![RequestOp::Range(RangeRequest { key, ..RangeRequest::default() })],
        };
        vec![(number, ClientOp::Write { actor: Actor::Node, command: Command::Txn(txn) })]
    }

    fn answered(&mut self, call: u64, _now: Instant, answer: &Answer, _view: &StateView, _coverage: &mut Coverage) {
        let Answer::Written(outcome) = answer else { return };
        let Ok(response @ Response::Txn(txn)) = &outcome.result else { return };
        if txn.succeeded {
            self.acknowledged.push(call);
        } else {
            self.saw(ranges(response).next());
        }
    }

    fn lost(&mut self, _call: u64, _now: Instant) {}

    fn check_durable(&self, views: &[(NodeId, StateView)]) {
        let request = RangeRequest { key: Bytes::from_static(KEY), ..RangeRequest::default() };
        for (node, view) in views {
            let response = view.range(&request).expect("a healthy disk can be read").expect("a current range");
            let list = response.kvs.first().map(|kv| elements(&kv.value)).unwrap_or_default();
            let list = list.get(1..).unwrap_or_default();
            for number in &self.acknowledged {
                let times = list.iter().filter(|element| *element == number).count();
                assert!(times == 1, "append: node {node} holds {times} times the acknowledged {number:x}: {list:x?}");
            }
        }
    }
}
