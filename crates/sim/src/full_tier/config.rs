//! What each replica of a run is told at its start: the plan's timing, and limits that are often small.

use std::time::Duration;

use quorate_node::{Limits, NodeConfig, Retention};
use quorate_raft::Incarnation;

use super::FullTier;
use crate::context::Context;
use crate::plan::Plan;
use crate::random::Random;
use crate::world::member;

/// Time a request may take beyond its own timeout before the liveness rule L-7 is broken, in election timeouts.
pub(super) const ANSWER_SLACK_TIMEOUTS: u32 = 3;

/// Least bytes of a frame of an image when everything is healed.
const HEALED_FRAME_BYTES: usize = 64 << 10;

/// The configuration of the node whose turn it is: timing as all have it, limits perhaps of this life alone.
pub(super) fn node_config(context: &Context<FullTier>, incarnation: Incarnation, version: u32) -> NodeConfig {
    let plan = &context.plan;
    let mut config = NodeConfig::new(plan.raft_in(context.life), member(context.host, incarnation, version));
    config.request_timeout = request_timeout(plan);
    let mut random = plan.limits_in(context.life);
    config.retention = Retention {
        keep_entries: plan.load.keep_entries,
        step_entries: plan.load.compact_entries,
        max_log_bytes: *random.pick(&[1_000, 100_000, 512 << 20]).expect("choices"),
    };
    // Replicas compare what they are at the same indices.
    config.digest_every_entries = *Random::new(plan.seed ^ 0x4449_4745).pick(&[1, 7, 64]).expect("choices");
    if random.chance(300_000) || plan.small_limits {
        config.limits = small_limits(&mut random);
    }
    config
}

/// How long a replica keeps a request at most.
pub(super) fn request_timeout(plan: &Plan) -> Duration {
    let mut random = Random::new(plan.seed ^ 0x5245_5155);
    Duration::from_micros(plan.timeout_us() * random.between(2, 10))
}

/// Bytes of one frame of an image: often so few that writes go on between one and the next.
pub(super) fn image_frame_bytes(context: &Context<FullTier>) -> usize {
    let mut random = Random::new(context.plan.seed ^ 0x0049_4d41_4745_5321);
    let drawn = *random.pick(&[300, 4_096, 1 << 20]).expect("choices");
    // A short log has moved on by the time that a large state is sent in small frames, and that for ever.
    if context.faulty { drawn } else { drawn.max(HEALED_FRAME_BYTES) }
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
        // Never the usual: it would hide a queue that grows past a small limit.
        spare_renewals: random.between(0, 3) as usize,
        spare_renewal_bytes: random.between(0, 1_000) as usize,
    }
}
