//! From the resource to what the plan needs of it: the user's wish, and what the operator must not forget. Pure.

use std::collections::BTreeSet;

use crate::crd::{QuorateCluster, UpdateStrategy, VolumeRetention};
use crate::names::{Names, RECOVER_ANNOTATION, ROLL_ANNOTATION};
use crate::plan::{ClusterId, Latched, Recovery, RecoveryRequest, Survivor, Wanted};

pub(super) fn wanted(cluster: &QuorateCluster) -> Wanted {
    let spec = &cluster.spec;
    let approved = || annotation(cluster, ROLL_ANNOTATION).is_some_and(|version| version == spec.version);
    Wanted {
        // The API server admits 3 and 5 only; a resource that came past it is held at the smaller.
        replicas: u32::try_from(spec.replicas).unwrap_or(3).max(3),
        paused: spec.paused,
        deleted: cluster.metadata.deletion_timestamp.is_some(),
        delete_volumes: spec.volume_retention == VolumeRetention::Delete,
        roll_unsupervised: spec.update_strategy == UpdateStrategy::Unsupervised || approved(),
        recovery: annotation(cluster, RECOVER_ANNOTATION).map(|text| request(&Names::of(cluster), text)),
    }
}

/// `CLUSTER-ID/best` or `CLUSTER-ID/POD`.
fn request(names: &Names, text: &str) -> RecoveryRequest {
    let read = || {
        let (id, survivor) = text.trim().split_once('/')?;
        let survivor = match survivor {
            "best" => Survivor::Best,
            pod => Survivor::Pod(names.ordinal_of_pod(pod)?),
        };
        Some(RecoveryRequest::Of { cluster_id: cluster_id(id)?, survivor })
    };
    read().unwrap_or(RecoveryRequest::Unreadable)
}

pub(super) fn latched(cluster: &QuorateCluster) -> Latched {
    let Some(status) = &cluster.status else { return Latched::default() };
    let names = Names::of(cluster);
    let recovery = status.recovery.as_ref().and_then(|recovery| {
        let survivor = names.ordinal_of_pod(&recovery.survivor)?;
        Some(Recovery { survivor, cluster_id: cluster_id(&recovery.new_cluster_id)? })
    });
    Latched {
        cluster_id: status.cluster_id.as_deref().and_then(cluster_id),
        target_replicas: status.target_replicas.and_then(|replicas| u32::try_from(replicas).ok()),
        // Only a leader tells the index of a configuration.
        formed: status.config_index.is_some(),
        recovery,
    }
}

pub(super) fn retired(cluster: &QuorateCluster) -> BTreeSet<ClusterId> {
    let ids = cluster.status.iter().flat_map(|status| &status.retired_cluster_ids);
    ids.filter_map(|id| cluster_id(id)).collect()
}

fn cluster_id(text: &str) -> Option<ClusterId> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten().map(ClusterId)
}

fn annotation<'a>(cluster: &'a QuorateCluster, key: &str) -> Option<&'a str> {
    cluster.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::{ClusterId, Names, RecoveryRequest, Survivor, request};
    use crate::plan::Ordinal;

    #[test]
    fn a_recovery_is_asked_for_by_cluster_and_survivor() {
        let names = Names { cluster: "db".to_string(), namespace: "default".to_string() };
        let id = "000000000000000000000000000000ab";
        let asked = |survivor| RecoveryRequest::Of { cluster_id: ClusterId(0xab), survivor };
        assert_eq!(request(&names, &format!("{id}/best")), asked(Survivor::Best));
        assert_eq!(request(&names, &format!("{id}/db-4")), asked(Survivor::Pod(Ordinal(4))));
        for text in ["", "best", "db/best", "ab/best", &format!("{id}/other-4"), &format!("{id}/"), id] {
            assert_eq!(request(&names, text), RecoveryRequest::Unreadable, "{text}");
        }
    }
}
