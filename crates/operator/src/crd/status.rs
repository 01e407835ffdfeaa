//! What a user is told.
//!
//! Written by the operator alone, and only when something changed: lag and other moving figures are metrics, not status.

// The derive repeats each type in an inner module, where its `pub` reaches nobody.
#![allow(unreachable_pub)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of the cluster as last observed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QuorateClusterStatus {
    /// The generation of the resource that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Id of the cluster, 32 hexadecimal digits. Set before the cluster is made; only a recovery gives it another.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The recovery under way: what the annotation `quorate.io/recover` asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryStatus>,
    /// Ids of clusters that a recovered one took the place of. A node that holds data of one sets it aside when it starts.
    #[serde(rename = "retiredClusterIDs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub retired_cluster_ids: Vec<String>,
    /// The roll-out that a human let go ahead, with updateStrategy Supervised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_roll: Option<ApprovedRoll>,
    /// Steps that the operator has begun. Counted before each, so that an operator that is behind is refused.
    #[serde(default)]
    pub steps: i64,
    /// When something was last seen to move, while anything is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_progress_time: Option<Time>,
    /// The number of voters that is being worked towards. It follows `spec.replicas` when the change before has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_replicas: Option<i32>,
    /// Number of members' pods.
    #[serde(default)]
    pub replicas: i32,
    /// Number of them that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the pods, as text; for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Name of the member that leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Raft term.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
    /// Log index of the committed configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_index: Option<i64>,
    /// Version that every member runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_version: Option<String>,
    /// Version that is being rolled out, by the word of a node that runs it; until there is one, `spec.version`, or nothing with an
    /// image of the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,
    /// The members of the committed configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub members: Vec<MemberStatus>,
    /// Available, Progressing, Degraded, Ready; while true also Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A recovery that was begun.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryStatus {
    /// The pod whose volume it begins with.
    pub survivor: String,
    /// Id of the cluster that the data becomes, 32 hexadecimal digits.
    #[serde(rename = "newClusterID")]
    pub new_cluster_id: String,
    /// Its job was seen to have begun, and may have written: it is brought to its end, also if somebody removes the job.
    #[serde(default)]
    pub begun: bool,
}

/// A human's word that pods may be restarted, and what it was given for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ApprovedRoll {
    /// The value of the annotation `quorate.io/roll`.
    pub word: String,
    /// The revision of the StatefulSet that it lets go ahead.
    pub revision: String,
}

impl QuorateClusterStatus {
    /// The condition of this type, if it is there.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == kind)
    }
}

/// One member of the committed configuration.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its id, 16 hexadecimal digits; never used again for another member.
    pub id: String,
    /// Its name: the pod's.
    pub name: String,
    /// Its part in the cluster.
    pub role: MemberRole,
    /// Whether it answers, and is neither fenced nor damaged.
    pub healthy: bool,
    /// Whether it has what the leader has committed, but for a few entries.
    pub caught_up: bool,
    /// The version it runs; absent while it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Part of a member in its cluster.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// Votes and leads.
    Leader,
    /// Votes.
    Follower,
    /// Is catching up.
    Learner,
    /// Does not answer, so that its part is unknown.
    Unknown,
}
