//! Gauges that restate a replica's status, set when somebody scrapes.

use quorate_kv::AlarmKind;
use quorate_raft::RoleKind;

use super::Metrics;
use crate::grpc::{ETCD_CLUSTER_VERSION, ETCD_VERSION};
use crate::node_state::{STATE_NAMES, shown_alarms};
use crate::runtime::{RaftView, ReplicaStatus};

const ROLES: [(RoleKind, &str); 4] = [
    (RoleKind::Follower, "follower"),
    (RoleKind::PreCandidate, "pre_candidate"),
    (RoleKind::Candidate, "candidate"),
    (RoleKind::Leader, "leader"),
];

impl Metrics {
    /// Sets every gauge that is marked "Scrape." from `status`.
    pub fn observe(&self, status: &ReplicaStatus) {
        for (state, name) in STATE_NAMES {
            self.raft.state.with_label_values(&[name]).set((status.state == state).into());
        }
        self.observe_storage(status);
        self.watches.observe(&status.watches);
        self.observe_versions(status);
        self.raft.peer_match_index.reset();
        self.raft.peer_lag_entries.reset();
        if let Some(raft) = &status.raft {
            self.observe_raft(raft);
            let own_id = status.identity.map(|identity| identity.node_id);
            let is_learner = own_id.is_some_and(|id| raft.membership.1.learners.contains(&id));
            self.raft.is_learner.set(is_learner.into());
            let known = &self.network.peer_known;
            known.reset();
            for id in raft.effective.1.members.keys().filter(|id| Some(**id) != own_id) {
                known.with_label_values(&[&id.to_string()]).set(1);
            }
        }
    }

    fn observe_versions(&self, status: &ReplicaStatus) {
        let etcd = &self.etcd;
        etcd.server_version.with_label_values(&[ETCD_VERSION]).set(1);
        if let Some(identity) = status.identity {
            etcd.server_id.reset();
            etcd.server_id.with_label_values(&[format!("{:x}", identity.node_id.0)]).set(1);
            etcd.cluster_version.with_label_values(&[ETCD_CLUSTER_VERSION]).set(1);
        }
        etcd.auth_revision.set(as_i64(status.space.auth_revision));
    }

    fn observe_storage(&self, status: &ReplicaStatus) {
        let storage = &self.storage;
        storage.durable_applied_index.set(as_i64(status.disk.durable_applied.0));
        storage.log_allocated_bytes.set(as_i64(status.disk.log_allocated));
        storage.state_allocated_bytes.set(as_i64(status.disk.state_allocated));
        storage.state_live_bytes.set(as_i64(status.disk.state_in_use));
        storage.quota_bytes.set(as_i64(status.quota_bytes));
        storage.no_space.set(status.no_space.into());
        storage.alarms.reset();
        for alarm in shown_alarms(status) {
            let kind = match alarm.kind {
                AlarmKind::NoSpace => "NOSPACE",
                AlarmKind::Corrupt => "CORRUPT",
            };
            storage.alarms.with_label_values(&[format!("{:x}", alarm.member).as_str(), kind]).set(1);
        }
        storage.revision.set(status.space.revision);
        storage.compact_revision.set(status.space.compact_revision);
        storage.keys.set(as_i64(status.space.keys));
        self.lease.live.set(as_i64(status.space.leases));
    }

    fn observe_raft(&self, raft: &RaftView) {
        let gauges = &self.raft;
        for (role, name) in ROLES {
            gauges.role.with_label_values(&[name]).set((raft.role == role).into());
        }
        gauges.term.set(as_i64(raft.term.0));
        gauges.has_leader.set(raft.leader.is_some().into());
        gauges.is_leader.set((raft.role == RoleKind::Leader).into());
        gauges.lease_valid.set(raft.lease_valid.into());
        gauges.first_index.set(as_i64(raft.first.0));
        gauges.last_index.set(as_i64(raft.last.0));
        gauges.commit_index.set(as_i64(raft.commit.0));
        gauges.applied_index.set(as_i64(raft.applied.0));
        let (config_index, membership) = &raft.membership;
        gauges.config_index.set(as_i64(config_index.0));
        gauges.joint.set(membership.is_joint().into());
        gauges.voters.set(as_i64(membership.voters.len() as u64));
        gauges.learners.set(as_i64(membership.learners.len() as u64));
        gauges.failure_tolerance.set(failure_tolerance(raft));
        for (id, follower) in &raft.followers {
            let id = id.to_string();
            let lag = raft.last.0.saturating_sub(follower.matched.0);
            gauges.peer_match_index.with_label_values(&[&id]).set(as_i64(follower.matched.0));
            gauges.peer_lag_entries.with_label_values(&[&id]).set(as_i64(lag));
        }
    }
}

/// How many more voters may fail while a quorum of the incoming half is left, by whom the leader has heard of lately;
/// -1 on other nodes, which cannot know.
fn failure_tolerance(raft: &RaftView) -> i64 {
    if raft.role != RoleKind::Leader {
        return -1;
    }
    let voters = &raft.membership.1.voters;
    let silent = voters.iter().filter(|id| raft.followers.get(id).is_some_and(|follower| !follower.active)).count();
    let quorum = voters.len() / 2 + 1;
    (voters.len() - silent) as i64 - quorum as i64
}

fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
