//! Metrics of consensus: elections, replication, membership, snapshots.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::make::Make;

/// What Raft does. Fields marked "scrape" are set by [`super::Metrics::observe`]; all others are recorded as it happens.
#[derive(Debug)]
pub struct RaftMetrics {
    /// Scrape. Current term.
    pub term: IntGauge,
    /// Scrape. 1 for the role the node has, 0 for the others.
    pub role: IntGaugeVec,
    /// Scrape. 1 if a leader is known.
    pub has_leader: IntGauge,
    /// Scrape. 1 on the leader.
    pub is_leader: IntGauge,
    /// Scrape. 1 on a learner.
    pub is_learner: IntGauge,
    /// Scrape. 1 on a leader whose lease allows local linearizable reads.
    pub lease_valid: IntGauge,
    /// Scrape. Oldest log index held.
    pub first_index: IntGauge,
    /// Scrape. Newest log index, durable or not.
    pub last_index: IntGauge,
    /// Scrape. Commit index.
    pub commit_index: IntGauge,
    /// Scrape. Applied index.
    pub applied_index: IntGauge,
    /// Scrape. Index of the committed configuration.
    pub config_index: IntGauge,
    /// Scrape. 1 while two halves of a joint configuration must agree.
    pub joint: IntGauge,
    /// Scrape. Voters of the incoming half.
    pub voters: IntGauge,
    /// Scrape. Learners.
    pub learners: IntGauge,
    /// Scrape. Voters that may still fail before the quorum is lost, as the leader sees it.
    pub failure_tolerance: IntGauge,
    /// Scrape, leader only. Newest index durable on `peer`.
    pub peer_match_index: IntGaugeVec,
    /// Scrape, leader only. Entries `peer` is behind.
    pub peer_lag_entries: IntGaugeVec,
    /// Scrape. 1 for the life-cycle state the node is in, 0 for the others.
    pub state: IntGaugeVec,
    /// Campaigns begun; `kind` = pre_vote, vote, transfer.
    pub campaigns_total: IntCounterVec,
    /// Times this node became leader.
    pub elections_won_total: IntCounter,
    /// Times the known leader became another node.
    pub leader_changes_total: IntCounter,
    /// Writes of clients that this node took on.
    pub proposals_total: IntCounter,
    /// Writes of clients that were refused or given up.
    pub proposals_failed_total: IntCounter,
    /// Writes of clients accepted and not yet answered.
    pub proposals_pending: IntGauge,
    /// Append messages sent, heartbeats included.
    pub appends_sent_total: IntCounter,
    /// Entries sent in appends.
    pub append_entries_sent_total: IntCounter,
    /// Append messages received.
    pub appends_received_total: IntCounter,
    /// Entries received in appends.
    pub append_entries_received_total: IntCounter,
    /// Appends answered with a conflict.
    pub append_conflicts_total: IntCounter,
    /// Snapshots sent; `outcome` = done, failed.
    pub snapshots_sent_total: IntCounterVec,
    /// Snapshots received; `outcome` = installed, failed.
    pub snapshots_received_total: IntCounterVec,
    /// Bytes of snapshots; `direction` = sent, received.
    pub snapshot_bytes_total: IntCounterVec,
    /// How long a snapshot took to send.
    pub snapshot_send_seconds: Histogram,
    /// Configurations that took effect; `phase` = learners, joint, simple.
    pub membership_changes_total: IntCounterVec,
    /// Leadership transfers; `outcome` = done, failed.
    pub transfers_total: IntCounterVec,
    /// Reads confirmed with a quorum.
    pub read_indexes_total: IntCounter,
    /// Reads that no quorum confirmed.
    pub read_indexes_failed_total: IntCounter,
    /// Steps of the node.
    pub steps_total: IntCounter,
    /// From proposing to applied, at the origin.
    pub write_seconds: Histogram,
}

impl RaftMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let outcome = &["outcome"];
        RaftMetrics {
            term: make.gauge("quorate_raft_term", "Current term."),
            role: make.gauges("quorate_raft_role", "1 for the current role.", &["role"]),
            has_leader: make.gauge("quorate_raft_has_leader", "1 if a leader is known."),
            is_leader: make.gauge("quorate_raft_is_leader", "1 on the leader."),
            is_learner: make.gauge("quorate_raft_is_learner", "1 on a learner."),
            lease_valid: make.gauge("quorate_raft_lease_valid", "1 on a leader that holds its lease."),
            first_index: make.gauge("quorate_raft_first_index", "Oldest log index held."),
            last_index: make.gauge("quorate_raft_last_index", "Newest log index."),
            commit_index: make.gauge("quorate_raft_commit_index", "Commit index."),
            applied_index: make.gauge("quorate_raft_applied_index", "Applied index."),
            config_index: make.gauge("quorate_raft_config_index", "Index of the committed configuration."),
            joint: make.gauge("quorate_raft_joint", "1 in a joint configuration."),
            voters: make.gauge("quorate_raft_voters", "Voters."),
            learners: make.gauge("quorate_raft_learners", "Learners."),
            failure_tolerance: make
                .gauge("quorate_raft_failure_tolerance", "Voters that may still fail, seen by the leader."),
            peer_match_index: make.gauges(
                "quorate_raft_peer_match_index",
                "Newest index durable on the peer, seen by the leader.",
                &["peer"],
            ),
            peer_lag_entries: make.gauges(
                "quorate_raft_peer_lag_entries",
                "Entries the peer is behind, seen by the leader.",
                &["peer"],
            ),
            state: make.gauges("quorate_node_state", "1 for the current life-cycle state.", &["state"]),
            campaigns_total: make.counters("quorate_raft_campaigns_total", "Campaigns begun.", &["kind"]),
            elections_won_total: make.counter("quorate_raft_elections_won_total", "Elections this node won."),
            leader_changes_total: make
                .counter("quorate_raft_leader_changes_total", "Times the known leader became another node."),
            proposals_total: make.counter("quorate_raft_proposals_total", "Writes of clients taken on."),
            proposals_failed_total: make
                .counter("quorate_raft_proposals_failed_total", "Writes of clients refused or given up."),
            proposals_pending: make
                .gauge("quorate_raft_proposals_pending", "Writes of clients accepted and not yet answered."),
            appends_sent_total: make
                .counter("quorate_raft_appends_sent_total", "Append messages sent, heartbeats included."),
            append_entries_sent_total: make
                .counter("quorate_raft_append_entries_sent_total", "Entries sent in appends."),
            appends_received_total: make.counter("quorate_raft_appends_received_total", "Append messages received."),
            append_entries_received_total: make
                .counter("quorate_raft_append_entries_received_total", "Entries received in appends."),
            append_conflicts_total: make
                .counter("quorate_raft_append_conflicts_total", "Appends answered with a conflict."),
            snapshots_sent_total: make.counters("quorate_snapshots_sent_total", "Snapshots sent.", outcome),
            snapshots_received_total: make.counters("quorate_snapshots_received_total", "Snapshots received.", outcome),
            snapshot_bytes_total: make.counters("quorate_snapshot_bytes_total", "Bytes of snapshots.", &["direction"]),
            snapshot_send_seconds: make.seconds("quorate_snapshot_send_seconds", "Time to send a snapshot."),
            membership_changes_total: make.counters(
                "quorate_membership_changes_total",
                "Configurations that took effect.",
                &["phase"],
            ),
            transfers_total: make.counters("quorate_leader_transfers_total", "Leadership transfers.", outcome),
            read_indexes_total: make.counter("quorate_raft_read_indexes_total", "Reads confirmed with a quorum."),
            read_indexes_failed_total: make
                .counter("quorate_raft_read_indexes_failed_total", "Reads that no quorum confirmed."),
            steps_total: make.counter("quorate_node_steps_total", "Steps of the node."),
            write_seconds: make.seconds("quorate_write_seconds", "From a client's write to its answer, at the origin."),
        }
    }
}
