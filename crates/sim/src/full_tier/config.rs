//! What each replica of a run is told at its start: the plan's timing, and limits that are often small.

use std::time::Duration;

use quorate_node::{Limits, NodeConfig, Retention};
use quorate_raft::Incarnation;

use crate::network::HostId;
use crate::plan::Plan;
use crate::random::Random;
use crate::world::member;

/// Time a request may take beyond its own timeout before the liveness rule L-7 is broken, in election timeouts.
pub(super) const ANSWER_SLACK_TIMEOUTS: u32 = 3;

/// The configuration of the node on a host; the same for all but the member record.
pub(super) fn node_config(plan: &Plan, host: HostId, incarnation: Incarnation, version: u32) -> NodeConfig {
    let mut random = Random::new(plan.seed ^ 0x4c49_4d49_5453);
    let mut config = NodeConfig::new(plan.raft.clone(), member(host, incarnation, version));
    let timeout_us = plan.timeout_us();
    config.request_timeout = Duration::from_micros(timeout_us * random.between(2, 10));
    config.retention = Retention {
        keep_entries: plan.load.keep_entries,
        step_entries: plan.load.compact_entries,
        max_log_bytes: *random.pick(&[1_000, 100_000, 512 << 20]).expect("choices"),
    };
    config.digest_every_entries = *random.pick(&[1, 7, 64]).expect("choices");
    if random.chance(300_000) || plan.small_limits {
        config.limits = small_limits(&mut random);
    }
    config
}

/// Bytes of one frame of an image: often so few that writes go on between one and the next.
pub(super) fn image_frame_bytes(plan: &Plan) -> usize {
    let mut random = Random::new(plan.seed ^ 0x0049_4d41_4745_5321);
    *random.pick(&[300, 4_096, 1 << 20]).expect("choices")
}

fn small_limits(random: &mut Random) -> Limits {
    let defaults = Limits::default();
    let mut small = |usual: usize, least: u64, most: u64| {
        if random.coin() { usual } else { random.between(least, most) as usize }
    };
    Limits {
        max_pending_writes: small(defaults.max_pending_writes, 1, 20),
        max_pending_write_bytes: small(defaults.max_pending_write_bytes, 1, 20_000),
        unpaced_writes: small(defaults.unpaced_writes, 1, 20),
        max_unapplied_proposals: small(defaults.max_unapplied_proposals, 1, 6),
        max_unapplied_proposal_bytes: small(defaults.max_unapplied_proposal_bytes, 1, 20_000),
        max_apply_backlog_entries: small(defaults.max_apply_backlog_entries as usize, 1, 50) as u64,
        max_apply_backlog_bytes: small(defaults.max_apply_backlog_bytes, 0, 5_000),
        max_waiting_reads: small(defaults.max_waiting_reads, 1, 10),
        max_read_rounds: small(defaults.max_read_rounds, 1, 2),
        max_admin_requests: small(defaults.max_admin_requests, 1, 3),
        max_forward_bytes: small(defaults.max_forward_bytes, 1, 1_000),
        max_forward_span: small(defaults.max_forward_span as usize, 1, 50) as u64,
        max_held_messages: small(defaults.max_held_messages, 1, 20),
        max_snapshot_streams: small(defaults.max_snapshot_streams, 1, 2),
    }
}
