//! From the resource to what the plan needs of it: the user's wish, and what the operator must not forget. Pure.

use std::collections::BTreeSet;

use crate::crd::{ApprovedRoll, QuorateCluster, UpdateStrategy, VolumeRetention};
use crate::names::{Names, RECOVER_ANNOTATION, ROLL_ANNOTATION};
use crate::plan::{ClusterId, Latched, Recovery, RecoveryRequest, Survivor, Wanted};

/// `approved` is whether a supervised roll-out may go ahead.
pub(super) fn wanted(cluster: &QuorateCluster, approved: bool) -> Wanted {
    let spec = &cluster.spec;
    Wanted {
        // The API server admits 3 and 5 only; a resource that came past it is held at the smaller.
        replicas: u32::try_from(spec.replicas).unwrap_or(3).max(3),
        paused: spec.paused,
        deleted: cluster.metadata.deletion_timestamp.is_some(),
        delete_volumes: spec.volume_retention == VolumeRetention::Delete,
        roll_unsupervised: spec.update_strategy == UpdateStrategy::Unsupervised || approved,
        recovery: annotation(cluster, RECOVER_ANNOTATION).map(|text| request(&Names::of(cluster), text)),
    }
}

/// What a human let go ahead: the revision that the annotation names, or, if it names the version, the one that waited when that was
/// first seen. The word is used up by it, for as long as it stands there unchanged: a later template needs a word of its own, also
/// one under the same version after a detour through another version or strategy.
pub(super) fn approved_roll(
    cluster: &QuorateCluster,
    waits: Option<&str>,
    newest: Option<&str>,
) -> Option<ApprovedRoll> {
    let word = annotation(cluster, ROLL_ANNOTATION)?;
    let before = cluster.status.as_ref().and_then(|status| status.approved_roll.clone());
    if let Some(before) = before.filter(|before| before.word == word) {
        return Some(before);
    }
    let approve = |revision: &str| ApprovedRoll { word: word.to_string(), revision: revision.to_string() };
    match cluster.spec.update_strategy {
        UpdateStrategy::Unsupervised => None,
        UpdateStrategy::Supervised if newest == Some(word) => Some(approve(word)),
        UpdateStrategy::Supervised if word == cluster.spec.version => waits.map(approve),
        UpdateStrategy::Supervised => None,
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
        Some(Recovery { survivor, cluster_id: cluster_id(&recovery.new_cluster_id)?, begun: recovery.begun })
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
    use serde_json::json;

    use super::{
        ApprovedRoll, ClusterId, Names, QuorateCluster, RecoveryRequest, Survivor, UpdateStrategy, approved_roll,
        request,
    };
    use crate::plan::Ordinal;

    fn supervised(word: Option<&str>, before: Option<ApprovedRoll>) -> QuorateCluster {
        let annotations = word.map(|word| json!({ "quorate.io/roll": word }));
        let mut cluster: QuorateCluster = serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
            "metadata": { "name": "db", "annotations": annotations },
            "spec": { "updateStrategy": "Supervised", "version": "1.2.3" },
        }))
        .expect("the spec is well-formed");
        cluster.status = Some(crate::crd::QuorateClusterStatus { approved_roll: before, ..Default::default() });
        cluster
    }

    #[test]
    fn a_word_lets_one_roll_out_go_ahead() {
        let approved = |word, before, waits: Option<&str>, newest| {
            approved_roll(&supervised(word, before), waits, Some(newest)).map(|approved| approved.revision)
        };
        let one = ApprovedRoll { word: "1.2.3".to_string(), revision: "db-1".to_string() };
        assert_eq!(approved(None, None, Some("db-1"), "db-1"), None);
        assert_eq!(approved(Some("db-1"), None, Some("db-1"), "db-1").as_deref(), Some("db-1"));
        assert_eq!(approved(Some("1.2.3"), None, Some("db-1"), "db-1").as_deref(), Some("db-1"));
        assert_eq!(approved(Some("1.2.3"), None, None, "db-1"), None, "nothing waits yet");
        let same_word = approved(Some("1.2.3"), Some(one.clone()), Some("db-2"), "db-2");
        assert_eq!(same_word.as_deref(), Some("db-1"), "another template under the same version");
        assert_eq!(approved(Some("db-2"), Some(one.clone()), Some("db-2"), "db-2").as_deref(), Some("db-2"));
        assert_eq!(approved(Some("1.2.2"), Some(one), Some("db-2"), "db-2"), None, "of an earlier version");
    }

    #[test]
    fn a_word_that_was_used_up_stays_so_after_a_detour() {
        let one = ApprovedRoll { word: "1.2.3".to_string(), revision: "db-1".to_string() };
        let mut cluster = supervised(Some("1.2.3"), Some(one.clone()));
        let mut look = |version: &str, strategy, newest: &str| {
            (cluster.spec.version, cluster.spec.update_strategy) = (version.to_string(), strategy);
            let approved = approved_roll(&cluster, Some(newest), Some(newest));
            cluster.status.as_mut().expect("a status").approved_roll = approved.clone();
            approved
        };
        for (version, strategy) in [("1.2.4", UpdateStrategy::Supervised), ("1.2.3", UpdateStrategy::Unsupervised)] {
            assert_eq!(look(version, strategy, "db-2"), Some(one.clone()));
            let back = look("1.2.3", UpdateStrategy::Supervised, "db-3");
            assert_eq!(back, Some(one.clone()), "nobody said anything of db-3");
        }
    }

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
