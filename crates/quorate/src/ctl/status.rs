//! `ctl status`: one node's view of itself.

use quorate_proto::quorate::v1::{NodeState, RaftRole, StatusRequest, StatusResponse};
use serde_json::{Value, json};

use super::Context;
use super::connect::admin;
use super::members::json_configuration;
use super::output::{hex, json_node_id, node_id, table};
use crate::failure::Failure;

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let answer = admin(&context.endpoint, &context.token).await?.status(StatusRequest {}).await;
    let status = answer.map_err(|status| Failure::answered(&context.endpoint, &status))?.into_inner();
    context.output.print(&json_status(&status), || text(&status));
    Ok(())
}

fn state_name(status: &StatusResponse) -> &'static str {
    match status.state() {
        NodeState::Unspecified => "unknown",
        NodeState::Uninitialised => "uninitialised",
        NodeState::Joining => "joining",
        NodeState::Member => "member",
        NodeState::Removed => "removed",
        NodeState::Fenced => "fenced",
        NodeState::Damaged => "damaged",
    }
}

fn role_name(status: &StatusResponse) -> &'static str {
    match status.role() {
        RaftRole::Unspecified => "none",
        RaftRole::Follower => "follower",
        RaftRole::PreCandidate => "pre-candidate",
        RaftRole::Candidate => "candidate",
        RaftRole::Leader => "leader",
    }
}

fn text(status: &StatusResponse) -> String {
    let log = status.log.unwrap_or_default();
    let mut lines = vec![
        ("node", format!("{} {}", node_id(status.node_id), status.name)),
        ("cluster", if status.cluster_id.is_empty() { "-".to_string() } else { hex(&status.cluster_id) }),
        ("state", with_reason(state_name(status), &status.state_reason)),
        ("role", format!("{} in term {}, leader {}", role_name(status), status.term, node_id(status.leader))),
        ("log", format!("{}..{}, committed {}, applied {}", log.first, log.last, log.commit, log.applied)),
        ("revision", format!("{}, compacted {}", status.revision, status.compact_revision)),
        ("disk", format!("{} bytes, {} in use", status.disk_bytes, status.disk_bytes_in_use)),
        ("addresses", format!("client {}, peer {}", status.client_addresses.join(","), status.peer_address)),
        ("incarnation", hex(&status.incarnation)),
        ("version", format!("{} (format {} of {})", status.version, status.cluster_version, status.max_version)),
    ];
    if let Some(staleness) = status.staleness_ms {
        lines.push(("staleness", format!("{staleness} ms")));
    }
    let mut text: String =
        lines.iter().map(|(name, value)| format!("{name:<12} {value}")).collect::<Vec<_>>().join("\n");
    if !status.followers.is_empty() {
        let rows: Vec<Vec<String>> = status
            .followers
            .iter()
            .map(|follower| {
                let how = match (follower.snapshot, follower.active) {
                    (true, _) => "gets a snapshot",
                    (false, true) => "active",
                    (false, false) => "silent",
                };
                vec![
                    node_id(follower.node_id),
                    follower.match_index.to_string(),
                    follower.lag_entries.to_string(),
                    how.to_string(),
                ]
            })
            .collect();
        text.push_str(&format!("\n\n{}", table(&["FOLLOWER", "MATCH", "LAG", ""], &rows)));
    }
    text
}

fn with_reason(state: &str, reason: &str) -> String {
    if reason.is_empty() { state.to_string() } else { format!("{state}: {reason}") }
}

fn json_status(status: &StatusResponse) -> Value {
    let log = status.log.unwrap_or_default();
    let hash = status.state_hash.clone().unwrap_or_default();
    let followers: Vec<Value> = status
        .followers
        .iter()
        .map(|follower| {
            json!({
                "node_id": json_node_id(follower.node_id),
                "match_index": follower.match_index,
                "lag_entries": follower.lag_entries,
                "active": follower.active,
                "snapshot": follower.snapshot,
            })
        })
        .collect();
    json!({
        "node_id": json_node_id(status.node_id),
        "name": status.name,
        "incarnation": hex(&status.incarnation),
        "cluster_id": hex(&status.cluster_id),
        "state": state_name(status),
        "state_reason": status.state_reason,
        "role": role_name(status),
        "term": status.term,
        "leader": json_node_id(status.leader),
        "configuration": json_configuration(&status.configuration.clone().unwrap_or_default()),
        "log": {"first": log.first, "last": log.last, "commit": log.commit, "applied": log.applied},
        "revision": status.revision,
        "compact_revision": status.compact_revision,
        "state_hash": {"hash": hex(&hash.hash), "index": hash.index},
        "followers": followers,
        "version": status.version,
        "etcd_version": status.etcd_version,
        "max_version": status.max_version,
        "cluster_version": status.cluster_version,
        "peer_address": status.peer_address,
        "client_addresses": status.client_addresses,
        "lease_valid": status.lease_valid,
        "staleness_ms": status.staleness_ms,
        "disk_bytes": status.disk_bytes,
        "disk_bytes_in_use": status.disk_bytes_in_use,
    })
}
