//! Random histories: the key space agrees with the naive model, whatever is pruned, restarted or read in steps between.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use quorate_kv::{
    ClusterTime, Command, CompactRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, DueLease,
    KeySpace, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, SortOrder, SortTarget, Step, TxnRequest,
};

use crate::model::Model;
use crate::store::Store;

/// One thing that happens to a store.
#[derive(Debug, Clone)]
enum Event {
    Apply(Command),
    Range(RangeRequest),
    /// A range in steps of so many keys.
    RangeInSteps(RangeRequest, usize),
    Prune(usize),
    Restart,
    Image,
    RestartOnImage,
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![8 => "[abc]{1,2}", 1 => Just("\0".to_string()), 1 => Just(String::new())].prop_map(Bytes::from)
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![3 => Just(String::new()), 1 => Just("\0".to_string()), 3 => "[abcd]{1,2}"].prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    "[xyz]{0,1}".prop_map(Bytes::from)
}

fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0), 1 => -2_i64..0, 6 => 1_i64..40]
}

fn bound() -> impl Strategy<Value = i64> {
    prop_oneof![9 => Just(0), 1 => -1_i64..30]
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let order = prop_oneof![3 => Just(SortOrder::None), 1 => Just(SortOrder::Ascend), 1 => Just(SortOrder::Descend)];
    let target = prop_oneof![
        4 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value),
    ];
    let bounds = (bound(), bound(), bound(), bound());
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (key(), range_end(), -1_i64..5, revision(), order, target, bounds, flags).prop_map(
        |(key, range_end, limit, revision, sort_order, sort_target, bounds, (keys_only, count_only))| RangeRequest {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: false,
            keys_only,
            count_only,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        },
    )
}

fn lease_id() -> impl Strategy<Value = i64> {
    prop_oneof![1_i64..4, Just(-7_i64)]
}

/// Commands of leases whose times are so short that all of them meet.
fn lease_command() -> impl Strategy<Value = Command> {
    let due = (lease_id(), 0_u64..40).prop_map(|(id, deadline)| DueLease { id, deadline: ClusterTime(deadline * 500) });
    prop_oneof![
        2 => (0_u64..40).prop_map(|halves| Command::Clock(ClusterTime(halves * 500))),
        4 => (lease_id(), -1_i64..4).prop_map(|(id, ttl_seconds)| {
            Command::LeaseGrant(LeaseGrantRequest { id, ttl_seconds })
        }),
        1 => lease_id().prop_map(|id| Command::LeaseRevoke { id }),
        2 => vec(lease_id(), 0..3).prop_map(|ids| Command::LeaseRenew { ids }),
        3 => due.prop_map(Command::LeaseExpire),
    ]
}

fn put() -> impl Strategy<Value = PutRequest> {
    let lease = prop_oneof![6 => Just(0), 3 => lease_id()];
    (key(), value(), lease, any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1)).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0_i64..4).prop_map(CompareTarget::Version),
        (0_i64..20).prop_map(CompareTarget::Create),
        (0_i64..20).prop_map(CompareTarget::Mod),
        value().prop_map(CompareTarget::Value),
        (0_i64..4).prop_map(CompareTarget::Lease),
    ];
    let result = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
        Just(CompareResult::NotEqual),
    ];
    (key(), range_end(), target, result).prop_map(|(key, range_end, target, result)| Compare {
        key,
        range_end,
        target,
        result,
    })
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        2 => range().prop_map(RequestOp::Range),
        3 => put().prop_map(RequestOp::Put),
        1 => delete().prop_map(RequestOp::DeleteRange),
    ];
    let op = leaf.prop_recursive(2, 8, 3, |inner| txn_of(inner).prop_map(RequestOp::Txn));
    txn_of(op)
}

fn txn_of(op: impl Strategy<Value = RequestOp> + Clone) -> impl Strategy<Value = TxnRequest> {
    (vec(compare(), 0..2), vec(op.clone(), 0..4), vec(op, 0..3)).prop_map(|(compare, success, failure)| TxnRequest {
        compare,
        success,
        failure,
    })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        6 => put().prop_map(Command::Put),
        3 => delete().prop_map(Command::DeleteRange),
        4 => txn().prop_map(Command::Txn),
        4 => lease_command(),
        1 => (-1_i64..30).prop_map(|revision| Command::Compact(CompactRequest { revision, physical: false })),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => command().prop_map(Event::Apply),
        6 => range().prop_map(Event::Range),
        2 => (range(), 1_usize..4).prop_map(|(range, keys)| Event::RangeInSteps(range, keys)),
        2 => (1_usize..6).prop_map(Event::Prune),
        1 => Just(Event::Restart),
        1 => Just(Event::Image),
        1 => Just(Event::RestartOnImage),
    ]
}

/// The store under test with what happens to it.
#[derive(Default)]
struct Run {
    store: Store,
    model: Model,
    image: Option<Vec<u8>>,
}

impl Run {
    fn happen(&mut self, event: &Event) {
        match event {
            Event::Apply(command) => {
                let outcome = self.store.apply(command);
                assert_eq!((outcome.result, outcome.revision), self.model.apply(command), "{command:?}");
            }
            Event::Range(request) => {
                assert_eq!(self.store.try_range(request), self.model.range(request), "{request:?}");
            }
            Event::RangeInSteps(request, keys) => {
                assert_eq!(self.range_in_steps(request, *keys), self.model.range(request), "{request:?}");
            }
            Event::Prune(keys) => drop(self.store.prune_some(*keys)),
            Event::Restart => {
                let Ok(space) = KeySpace::rebuild(self.store.space.meta(), &self.store.records);
                self.store.space = space;
            }
            Event::Image => self.image = Some(self.store.space.encode_index()),
            Event::RestartOnImage => self.restart_on_image(),
        }
        self.store.space.check();
        self.compare_leases();
    }

    /// The leases, their order, and which are due.
    fn compare_leases(&self) {
        let space = &self.store.space;
        let expected = self.model.leases();
        let mut by_deadline: Vec<_> = expected.iter().map(|(id, deadline, _)| (*deadline, *id)).collect();
        by_deadline.sort_unstable();
        let ids: Vec<i64> = by_deadline.iter().map(|(_, id)| *id).collect();
        assert_eq!(space.leases_by_deadline(), ids);
        assert_eq!(space.next_lease_deadline(), by_deadline.first().map(|(deadline, _)| ClusterTime(*deadline)));
        let due = space.due_leases(space.clock(), usize::MAX);
        assert!(
            due.iter()
                .map(|due| (due.deadline.0, due.id))
                .eq(by_deadline.into_iter().take_while(|(deadline, _)| *deadline <= space.clock().0))
        );
        for (id, deadline, keys) in expected {
            let view = space.lease(id).expect("the model has it");
            assert_eq!(view.deadline, ClusterTime(deadline));
            assert!(view.keys.iter().map(|key| &**key).eq(keys.iter().map(|key| &**key)), "keys of {id}: {view:?}");
        }
    }

    fn range_in_steps(
        &self,
        request: &RangeRequest,
        keys: usize,
    ) -> Result<quorate_kv::RangeResponse, quorate_kv::KvError> {
        let Store { space, records } = &self.store;
        let mut plan = space.begin_range(request, space.revision())?;
        while plan.advance(space, space.revision(), keys)? == Step::More {}
        let Ok(answer) = plan.finish(records);
        Ok(answer)
    }

    /// With the last image made, if it is still of use.
    fn restart_on_image(&mut self) {
        let meta = self.store.space.meta();
        let Some(Ok(image)) = self.image.as_deref().map(|image| KeySpace::decode_index(image, &meta)) else { return };
        let Ok(space) = KeySpace::rebuild_on(image, meta, &self.store.records);
        self.store.space = space;
    }

    /// Every revision, whole.
    fn compare_all_revisions(&self) {
        for revision in 0..=self.model.revision() {
            let request = RangeRequest { revision, ..crate::store::everything() };
            assert_eq!(self.store.try_range(&request), self.model.range(&request), "at {revision}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_key_space_agrees_with_the_model(events in vec(event(), 1..80)) {
        let mut run = Run::default();
        for event in &events {
            run.happen(event);
        }
        run.compare_all_revisions();
    }

    #[test]
    fn nodes_that_prune_and_restart_at_other_times_agree(
        commands in vec(command(), 1..60),
        paces in vec(0_usize..4, 60),
    ) {
        let (mut lazy, mut eager) = (Run::default(), Run::default());
        for (command, pace) in commands.iter().zip(paces) {
            prop_assert_eq!(lazy.store.apply(command), eager.store.apply(command));
            let _ = eager.model.apply(command);
            if pace > 0 {
                eager.happen(&Event::Prune(pace));
            }
            if pace == 3 {
                eager.happen(&Event::Restart);
            }
            prop_assert_eq!(lazy.store.space.digest(), eager.store.space.digest());
            prop_assert_eq!(lazy.store.space.compact_revision(), eager.store.space.compact_revision());
        }
        lazy.model = std::mem::take(&mut eager.model);
        lazy.compare_all_revisions();
        lazy.store.prune();
        eager.store.prune();
        prop_assert_eq!(lazy.store.places(), eager.store.places());
        prop_assert_eq!(lazy.store.space.key_count(), eager.store.space.key_count());
    }
}
