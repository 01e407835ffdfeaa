//! The life-cycle states in words, and the alarms that go with them: for errors, probes and metrics.

use std::collections::BTreeSet;

use quorate_kv::{Alarm, AlarmKind};
use quorate_wire::peer::NodeState;

use crate::runtime::ReplicaStatus;

/// Every state with its name.
pub(crate) const STATE_NAMES: [(NodeState, &str); 6] = [
    (NodeState::Uninitialised, "uninitialised"),
    (NodeState::Joining, "joining"),
    (NodeState::Member, "member"),
    (NodeState::Removed, "removed"),
    (NodeState::Fenced, "fenced"),
    (NodeState::Damaged, "damaged"),
];

/// The name of a state.
pub(crate) fn state_name(state: NodeState) -> &'static str {
    STATE_NAMES.iter().find(|(other, _)| *other == state).map_or("unknown", |(_, name)| name)
}

/// Why a node answers no requests, and what would change that.
pub(crate) fn why_not_serving(status: &ReplicaStatus) -> String {
    match status.state {
        NodeState::Uninitialised => format!(
            "it is empty and waits: `quorate ctl init --voters …` makes a cluster, `set-voters` on a running cluster admits \
             it ({})",
            status.peer_address
        ),
        NodeState::Joining => "it joins a cluster and has no state yet".to_string(),
        NodeState::Member => "it is starting".to_string(),
        NodeState::Removed => "it was removed from the cluster; `quorate ctl reset` makes it usable again".to_string(),
        NodeState::Fenced | NodeState::Damaged => {
            format!("it is {}: {}", state_name(status.state), status.state_reason)
        }
    }
}

/// The alarms of all members, and what is wrong with this one that no log can tell: its disk is full, or its state is not
/// to be trusted. The latter is shown by this node alone: the others have the majority's state and serve it.
pub(crate) fn shown_alarms(status: &ReplicaStatus) -> BTreeSet<Alarm> {
    let own = status.identity.map_or(0, |identity| identity.node_id.0);
    let mut alarms: BTreeSet<Alarm> = status.alarms.iter().collect();
    if status.no_space && !status.alarms.is_raised(AlarmKind::NoSpace) {
        alarms.insert(Alarm { kind: AlarmKind::NoSpace, member: own });
    }
    if matches!(status.state, NodeState::Fenced | NodeState::Damaged) {
        alarms.insert(Alarm { kind: AlarmKind::Corrupt, member: own });
    }
    alarms
}
