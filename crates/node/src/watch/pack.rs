//! Encoded events, put together to responses.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quorate_kv::{Change, KeyValue};
use quorate_wire::etcd::{WATCH_HEAD_BYTES, encode_event};

use super::answer::Events;
use super::subject::Subject;

/// The changes of one batch, each encoded when it is first needed in a form.
pub(super) struct Encoder<'a> {
    changes: &'a [Change],
    previous: Vec<Option<KeyValue>>,
    bare: Vec<Option<Bytes>>,
    with_previous: Vec<Option<Bytes>>,
}

/// Where answers are split.
#[derive(Debug, Clone, Copy)]
pub(super) struct Splits {
    /// After the revision with which a response reaches this size.
    pub(super) response_bytes: usize,
    /// Within a revision before a message exceeds this, for clients that take fragments.
    pub(super) fragment_bytes: usize,
}

impl<'a> Encoder<'a> {
    /// `previous` has the former version of each change that needs it.
    pub(super) fn new(changes: &'a [Change], previous: Vec<Option<KeyValue>>) -> Encoder<'a> {
        assert_eq!(changes.len(), previous.len());
        Encoder { changes, previous, bare: vec![None; changes.len()], with_previous: vec![None; changes.len()] }
    }

    fn event(&mut self, at: usize, prev_kv: bool) -> Bytes {
        let previous = self.previous[at].as_ref().filter(|_| prev_kv);
        let known = if previous.is_some() { &mut self.with_previous[at] } else { &mut self.bare[at] };
        known.get_or_insert_with(|| encode_event(&self.changes[at], previous)).clone()
    }

    /// The changes numbered `wanted`, in the form of `subject`, as few responses as the splits allow.
    pub(super) fn pack(&mut self, wanted: &[usize], subject: &Subject, splits: Splits) -> Vec<Arc<[Events]>> {
        let mut packed = Vec::new();
        let mut response: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        for (place, at) in wanted.iter().enumerate() {
            let event = self.event(*at, subject.prev_kv);
            bytes += event.len();
            response.push(event);
            let next = wanted.get(place + 1).map(|next| self.changes[*next].at.revision);
            let revision_ends = next != Some(self.changes[*at].at.revision) || mutant!(RevisionSplit);
            if next.is_none() || (revision_ends && bytes >= splits.response_bytes) {
                packed.push(in_parts(&response, subject.fragment.then_some(splits.fragment_bytes)));
                response.clear();
                bytes = 0;
            }
        }
        packed
    }
}

/// One response, in fragments if it is larger than `fragment_bytes`.
fn in_parts(response: &[Bytes], fragment_bytes: Option<usize>) -> Arc<[Events]> {
    let Some(limit) = fragment_bytes else {
        return [join(response, false)].into();
    };
    let mut parts = Vec::new();
    let mut rest = response;
    while !rest.is_empty() {
        let mut bytes = WATCH_HEAD_BYTES;
        let fitting = rest.iter().take_while(|event| {
            bytes += event.len();
            bytes < limit
        });
        // An event that is too large by itself still goes.
        let count = fitting.count().max(1);
        let (fragment, later) = rest.split_at(count);
        parts.push(join(fragment, !later.is_empty()));
        rest = later;
    }
    parts.into()
}

fn join(events: &[Bytes], fragment: bool) -> Events {
    let count = u32::try_from(events.len()).expect("fewer events than bytes, and those fit into memory");
    let body = match events {
        [one] => one.clone(),
        many => {
            let mut body = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
            many.iter().for_each(|event| body.extend_from_slice(event));
            body.freeze()
        }
    };
    Events { body, count, fragment }
}
