//! What is told of sightings, each made by hand.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::*;
use crate::crd::QuorateCluster;
use crate::observe::{KubernetesView, NodeView, PodView, Refused, SetView, VolumeView};
use crate::plan::{
    Change, Finding, Incarnation, JobState, Latched, LogEnd, MemberView, NodeReport, NodeState, Observed, PodState,
    Recovery, Refusal, SetState, VolumeState, Wanted, Work,
};

fn sighting(caught_up: usize, status: Option<QuorateClusterStatus>) -> Sighting {
    let mut cluster: QuorateCluster = serde_json::from_value(json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
        "metadata": { "name": "example", "namespace": "default", "generation": 4 },
        "spec": {},
    }))
    .expect("the spec is well-formed");
    cluster.status = status;
    let member = |ordinal| MemberView { ordinal: Ordinal(ordinal), incarnation: Incarnation(0), voter: true };
    let view = ClusterView {
        config_index: 9,
        change: Change::None,
        members: (0..3).map(|ordinal| (NodeId(u64::from(ordinal) + 1), member(ordinal))).collect(),
        leader: NodeId(1),
        active: (1..=3).take(caught_up).map(NodeId).collect(),
        caught_up: (1..=3).take(caught_up).map(NodeId).collect(),
    };
    let wanted = Wanted { replicas: 3, roll_unsupervised: true, ..Wanted::default() };
    let latched = Latched { target_replicas: Some(3), ..Latched::default() };
    let set = SetState { replicas: 3, settled: true, ..SetState::default() };
    let view = (caught_up > 0).then_some(view);
    let observed = Observed { wanted, latched, set: Some(set), cluster: view, ..Observed::default() };
    Sighting::untroubled(cluster, observed, KubernetesView::default())
}

fn idle(finding: Finding) -> Plan {
    Plan { step: None, finding }
}

fn at(seconds: i64) -> Time {
    Time(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds))
}

fn told(sighting: &Sighting, plan: &Plan, seconds: i64) -> QuorateClusterStatus {
    status(sighting, plan, ClusterId(0xab), &at(seconds))
}

fn holds(status: &QuorateClusterStatus, kind: &str) -> Option<bool> {
    status.conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status == "True")
}

#[track_caller]
fn check(caught_up: usize, finding: Finding, expected: [(&str, Option<bool>); 5]) {
    let status = told(&sighting(caught_up, None), &idle(finding), 0);
    for (kind, expected) in expected {
        assert_eq!(holds(&status, kind), expected, "{kind} in {:?}", status.conditions);
    }
}

#[test]
fn conditions_say_whether_it_serves_changes_and_suffices() {
    let kinds = |values: [Option<bool>; 5]| {
        let mut values = values.into_iter();
        ["Available", "Progressing", "Degraded", "Ready", "Reconciling"]
            .map(|kind| (kind, values.next().expect("five")))
    };
    let (yes, no) = (Some(true), Some(false));
    check(3, Finding::Reconciled, kinds([yes, no, no, yes, None]));
    check(2, Finding::MembersDown, kinds([yes, no, yes, no, None]));
    check(3, Finding::Working(Work::RollingUpdate), kinds([yes, yes, no, no, yes]));
    check(0, Finding::QuorumLost, kinds([no, no, yes, no, None]));
}

#[test]
fn nothing_new_is_nothing_to_write() {
    let first = told(&sighting(3, None), &idle(Finding::Reconciled), 0);
    let second = told(&sighting(3, Some(first.clone())), &idle(Finding::Reconciled), 500);
    assert_eq!(patch(Some(&first), &second), None);
}

#[test]
fn what_is_gone_is_named_in_the_patch() {
    let first = told(&sighting(3, None), &idle(Finding::Reconciled), 0);
    let second = told(&sighting(0, Some(first.clone())), &idle(Finding::QuorumLost), 1);
    let patch = patch(Some(&first), &second).expect("something changed");
    assert_eq!(patch["leader"], Value::Null);
    assert!(patch.as_object().expect("an object").contains_key("leader"));
}

#[test]
fn a_latched_id_is_never_replaced() {
    let latch = Plan { step: Some(Step::LatchNewClusterId), finding: Finding::Working(Work::ChoosingClusterId) };
    let first = told(&sighting(0, None), &latch, 0);
    assert_eq!(first.cluster_id.as_deref(), Some("000000000000000000000000000000ab"));
    let second = status(&sighting(3, Some(first.clone())), &idle(Finding::Reconciled), ClusterId(0xcd), &at(1));
    assert_eq!(second.cluster_id, first.cluster_id);
}

fn lost(recovery: Option<RecoveryStatus>) -> Sighting {
    let cluster_id = Some("000000000000000000000000000000aa".to_string());
    sighting(0, Some(QuorateClusterStatus { cluster_id, recovery, ..QuorateClusterStatus::default() }))
}

#[test]
fn a_lost_quorum_names_the_command_that_gives_it_up() {
    let status = told(&lost(None), &idle(Finding::QuorumLost), 0);
    let available = status.conditions.iter().find(|c| c.type_ == "Available").expect("always there");
    let command = "kubectl annotate quoratecluster/example --namespace default --overwrite \
                   quorate.io/recover=000000000000000000000000000000aa/best";
    assert!(available.message.ends_with(command), "{}", available.message);
}

/// Reason and message of a condition.
fn says(status: &QuorateClusterStatus, kind: &str) -> (String, String) {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind).expect("it is there");
    (found.reason.clone(), found.message.clone())
}

#[test]
fn members_without_a_leader_are_not_given_up() {
    let status = told(&lost(None), &idle(Finding::NoLeader), 0);
    let (reason, message) = says(&status, "Available");
    assert_eq!(reason, "NoLeader");
    assert!(!message.contains("quorate.io/recover"), "{message}");
    assert!(message.contains("2380") && message.contains("kubectl logs --namespace default"), "{message}");
}

#[test]
fn pods_that_are_restarted_without_a_leader_are_told_and_what_waits_for_a_word_too() {
    let restoring = told(&lost(None), &idle(Finding::Working(Work::RestoringLeader)), 0);
    for kind in ["Available", "Progressing"] {
        let message = says(&restoring, kind).1;
        assert!(message.contains("started again, one at a time"), "{kind}: {message}");
    }
    assert_eq!(says(&restoring, "Available").0, "NoLeader");
    let mut seen = lost(None);
    seen.observed.wanted.roll_unsupervised = false;
    seen.observed.pods.insert(Ordinal(0), PodState { outdated: true, ..PodState::default() });
    let (_, message) = says(&told(&seen, &idle(Finding::NoLeader), 0), "Available");
    assert!(message.contains("quorate.io/roll="), "{message}");
}

#[test]
fn a_cluster_that_had_a_leader_is_not_bootstrapping() {
    let reason = |config_index| {
        let before = QuorateClusterStatus { config_index, ..QuorateClusterStatus::default() };
        says(&told(&sighting(0, Some(before)), &idle(Finding::WaitingForPods), 0), "Available").0
    };
    assert_eq!((reason(None).as_str(), reason(Some(9)).as_str()), ("Bootstrapping", "NoLeader"));
}

#[test]
fn who_reads_ready_alone_learns_the_cause() {
    for (finding, cause) in [
        (Finding::QuorumLost, "QuorumLost"),
        (Finding::NoLeader, "NoLeader"),
        (Finding::RecoveryRefused(Refusal::NobodyAnswers), "QuorumLost"),
        (Finding::ClusterIdMismatch, "ClusterIDMismatch"),
    ] {
        let status = told(&lost(None), &idle(finding.clone()), 0);
        assert_eq!((holds(&status, "Ready"), says(&status, "Ready").0.as_str()), (Some(false), cause), "{finding:?}");
    }
    let refused = |quorum_may_run, refusal| {
        let mut seen = lost(None);
        seen.observed.quorum_may_run = quorum_may_run;
        let (reason, message) = says(&told(&seen, &idle(Finding::RecoveryRefused(refusal)), 0), "Ready");
        assert!(message.contains(refusal.text()), "{message}");
        reason
    };
    assert_eq!(refused(false, Refusal::NobodyAnswers), "QuorumLost");
    assert_eq!(refused(true, Refusal::OtherCluster), "NoLeader", "the annotation of an earlier recovery");
}

#[test]
fn volumes_about_which_a_human_must_decide_are_named() {
    let mut seen = lost(None);
    let foreign = NodeReport {
        state: NodeState::Member,
        incarnation: Incarnation(1),
        cluster_id: Some(ClusterId(0xbb)),
        node_id: Some(NodeId(1)),
        log_end: LogEnd::default(),
        configuration: None,
    };
    let own = NodeReport { cluster_id: Some(ClusterId(0xaa)), ..foreign.clone() };
    seen.observed.latched.cluster_id = Some(ClusterId(0xaa));
    seen.observed.nodes = [(Ordinal(0), own), (Ordinal(1), foreign)].into();
    let status = told(&seen, &idle(Finding::ClusterIdMismatch), 0);
    for kind in ["Available", "Progressing", "Stalled", "Ready"] {
        let message = says(&status, kind).1;
        let named = "data-example-1 holds data of cluster 000000000000000000000000000000bb";
        assert!(message.contains(named) && !message.contains("data-example-0"), "{kind}: {message}");
    }
}

#[test]
fn a_recovered_cluster_has_the_new_id_and_remembers_the_old_one() {
    let step = |step| Plan { step: Some(step), finding: Finding::Working(Work::Recovering) };
    let begun = told(&lost(None), &step(Step::LatchRecovery { survivor: Ordinal(2) }), 0);
    assert_eq!(begun.cluster_id.as_deref(), Some("000000000000000000000000000000aa"));
    let recovery = begun.recovery.expect("latched");
    assert_eq!(
        (recovery.survivor.as_str(), recovery.new_cluster_id.as_str()),
        ("example-2", "000000000000000000000000000000ab")
    );
    let done = told(&lost(Some(recovery.clone())), &step(Step::LatchRecovered), 1);
    let kept = Some(recovery.clone());
    assert_eq!(
        (done.cluster_id, done.recovery),
        (Some(recovery.new_cluster_id.clone()), kept),
        "its job is there still"
    );
    assert_eq!(done.retired_cluster_ids, ["000000000000000000000000000000aa"]);
    let ended = told(&lost(Some(recovery)), &step(Step::EndRecovery), 1);
    assert_eq!((ended.recovery, ended.retired_cluster_ids.len()), (None, 0));
}

#[test]
fn a_recovery_that_has_begun_is_remembered_until_its_job_is_deleted() {
    let begun = |known: bool, job: JobState, step: Option<Step>| {
        let new_cluster_id = "000000000000000000000000000000ab".to_string();
        let mut seen = lost(Some(RecoveryStatus { survivor: "example-2".to_string(), new_cluster_id, begun: known }));
        seen.observed.recovery_job = job;
        let after = told(&seen, &Plan { step, finding: Finding::Working(Work::Recovering) }, 0);
        after.recovery.expect("it goes on").begun
    };
    assert!(!begun(false, JobState::NotBegun, None));
    assert!(begun(false, JobState::Running, None));
    assert!(begun(true, JobState::Absent, Some(Step::StartRecovery)), "somebody removed the job");
    assert!(!begun(true, JobState::Failed, Some(Step::DeleteRecoveryJob)));
}

#[test]
fn work_that_takes_longer_than_allowed_is_stalled_until_it_ends() {
    let working = idle(Finding::Working(Work::ScalingUp));
    let first = told(&sighting(3, None), &working, 0);
    let within = told(&sighting(3, Some(first.clone())), &working, 600);
    assert_eq!(holds(&within, "Stalled"), None);
    let past = told(&sighting(3, Some(within)), &working, 601);
    assert_eq!(holds(&past, "Stalled"), Some(true));
    assert_eq!(holds(&past, "Reconciling"), None, "whoever sees it waits");
    let done = told(&sighting(3, Some(past)), &idle(Finding::Reconciled), 602);
    assert_eq!(holds(&done, "Stalled"), None);
}

#[test]
fn work_that_the_api_server_refuses_is_stalled_and_says_why() {
    let mut seen = sighting(3, None);
    let message = "spec.template: Invalid value".to_string();
    seen.refused = vec![Refused { work: "UpdatingObjects", generation: Some(4), message }];
    let refused = told(&seen, &idle(Finding::Working(Work::UpdatingObjects)), 0);
    assert_eq!((holds(&refused, "Stalled"), holds(&refused, "Reconciling")), (Some(true), None));
    for kind in ["Stalled", "Progressing", "Ready"] {
        let condition = refused.conditions.iter().find(|condition| condition.type_ == kind).expect("it is there");
        assert!(condition.message.contains("Invalid value"), "{condition:?}");
    }
    let healing = told(&seen, &idle(Finding::Working(Work::ReplacingMember)), 0);
    assert_eq!((holds(&healing, "Stalled"), holds(&healing, "Reconciling")), (None, Some(true)));
}

#[test]
fn what_somebody_else_writes_over_is_named() {
    let mut seen = sighting(3, None);
    seen.overridden = vec!["StatefulSet example: spec.template.spec.priority should be 1".to_string()];
    let status = told(&seen, &idle(Finding::Working(Work::UpdatingObjects)), 0);
    assert_eq!((holds(&status, "Stalled"), holds(&status, "Reconciling")), (Some(true), None));
    for kind in ["Stalled", "Progressing", "Ready"] {
        assert!(says(&status, kind).1.contains(&seen.overridden[0]), "{:?}", status.conditions);
    }
    let rolling = told(&seen, &idle(Finding::Working(Work::RollingUpdate)), 0);
    assert_eq!(holds(&rolling, "Stalled"), None, "it goes on with everything else");
}

#[test]
fn a_recovery_whose_job_does_not_begin_says_why() {
    let mut seen = lost(None);
    seen.observed.latched.recovery =
        Some(Recovery { survivor: Ordinal(0), cluster_id: ClusterId(0xbb << 96), begun: false });
    seen.kubernetes.recovery_job.trouble = Some("Unschedulable: 0/3 nodes are available".to_string());
    let status = told(&seen, &idle(Finding::Working(Work::Recovering)), 0);
    for kind in ["Available", "Progressing"] {
        let (_, message) = says(&status, kind);
        assert!(
            message.ends_with("; job example-recover-000000bb: Unschedulable: 0/3 nodes are available"),
            "{message}"
        );
    }
}

#[test]
fn a_name_that_somebody_else_has_taken_is_told() {
    let mut seen = sighting(3, None);
    seen.taken = vec!["PodDisruptionBudget example is somebody else's".to_string()];
    for work in [Work::UpdatingObjects, Work::CreatingPods] {
        let status = told(&seen, &idle(Finding::Working(work)), 0);
        assert_eq!(says(&status, "Stalled").0, "NameTaken");
        assert!(says(&status, "Progressing").1.contains(&seen.taken[0]), "{:?}", status.conditions);
    }
}

#[test]
fn the_deadline_counts_from_what_moved_last() {
    let working = idle(Finding::Working(Work::RollingUpdate));
    let first = told(&sighting(2, None), &working, 0);
    let moved = told(&sighting(3, Some(first)), &working, 500);
    let later = told(&sighting(3, Some(moved)), &working, 1_000);
    assert_eq!(holds(&later, "Stalled"), None);
    assert_eq!(holds(&told(&sighting(3, Some(later)), &working, 1_101), "Stalled"), Some(true));
}

#[test]
fn a_roll_that_waits_for_a_word_does_not_stall_and_says_which() {
    let waiting = idle(Finding::RollAwaitsApproval);
    let first = told(&sighting(3, None), &waiting, 0);
    let mut seen = sighting(3, Some(first));
    seen.kubernetes.set = Some(SetView { revision: Some("example-5".to_string()), ..SetView::default() });
    let later = told(&seen, &waiting, 100_000);
    assert_eq!((holds(&later, "Stalled"), holds(&later, "Ready")), (None, Some(false)));
    let progressing = later.conditions.iter().find(|c| c.type_ == "Progressing").expect("always there");
    assert!(progressing.message.ends_with("--overwrite quorate.io/roll=example-5"), "{}", progressing.message);
}

#[test]
fn a_paused_cluster_is_ready_only_if_it_is_as_specified() {
    let mut seen = sighting(3, None);
    assert_eq!(holds(&told(&seen, &idle(Finding::Paused), 0), "Ready"), Some(true));
    seen.observed.set.as_mut().expect("a set").outdated = true;
    assert_eq!(holds(&told(&seen, &idle(Finding::Paused), 0), "Ready"), Some(false));
}

#[test]
fn a_node_that_is_down_is_named_with_the_word_that_gives_it_up() {
    let message = |gone: bool| {
        let mut seen = sighting(2, None);
        let node = NodeView { name: "worker-2".to_string(), gone, ..NodeView::default() };
        seen.kubernetes.pods.insert(Ordinal(2), PodView { node: Some(node), ..PodView::default() });
        let status = told(&seen, &idle(Finding::MembersDown), 0);
        let degraded = status.conditions.into_iter().find(|c| c.type_ == "Degraded").expect("always there");
        (degraded.reason, degraded.message)
    };
    let (reason, text) = message(false);
    assert_eq!(reason, "NodeLost");
    assert!(text.contains("pod example-2 is on node worker-2"), "{text}");
    let command = "kubectl taint node worker-2 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
    assert!(text.ends_with(command), "{text}");
    assert_eq!(message(true).0, "MembersDown", "the word was given");
}

#[test]
fn a_node_that_is_down_under_a_pod_that_is_not_needed_any_more_is_named_too() {
    let mut seen = sighting(3, None);
    let node = NodeView { name: "worker-4".to_string(), ..NodeView::default() };
    seen.kubernetes.pods.insert(Ordinal(3), PodView { node: Some(node), ..PodView::default() });
    seen.observed.pods.insert(Ordinal(3), PodState { terminating: true, ..PodState::default() });
    let first = told(&seen, &idle(Finding::Working(Work::ScalingDown)), 0);
    assert_eq!(holds(&first, "Degraded"), Some(false));
    seen.cluster.status = Some(first);
    let stalled = told(&seen, &idle(Finding::Working(Work::ScalingDown)), 100_000);
    for kind in ["Progressing", "Stalled", "Ready"] {
        let (_, message) = says(&stalled, kind);
        assert!(message.contains("kubectl delete node worker-4"), "{kind}: {message}");
    }
    let (_, message) = says(&stalled, "Progressing");
    assert!(message.contains("not gone yet: example-3"), "{message}");
}

#[test]
fn a_pod_that_cannot_run_is_named_with_what_kubernetes_says() {
    let mut seen = sighting(2, None);
    let pod = |trouble: Option<&str>| PodView { trouble: trouble.map(str::to_string), ..PodView::default() };
    seen.kubernetes.pods = [(Ordinal(0), pod(None)), (Ordinal(2), pod(Some("ImagePullBackOff: q:none")))].into();
    let rolling = told(&seen, &idle(Finding::Working(Work::RollingUpdate)), 0);
    let (_, progressing) = says(&rolling, "Progressing");
    assert_eq!(progressing, "the new template is being rolled out; example-2: ImagePullBackOff: q:none");
    let (_, degraded) = says(&rolling, "Degraded");
    assert_eq!(degraded, "1 of 3 members do not take part: example-2 (ImagePullBackOff: q:none)");
    seen.kubernetes.pods.remove(&Ordinal(2));
    let (_, degraded) = says(&told(&seen, &idle(Finding::MembersDown), 0), "Degraded");
    assert_eq!(degraded, "1 of 3 members do not take part: example-2 (has no pod)");
}

#[test]
fn members_that_take_part_and_are_not_ready_are_a_loss() {
    let mut seen = sighting(3, None);
    let pod = |ready, serving| PodState { ready, serving, ..PodState::default() };
    seen.observed.pods = (0..3).map(|ordinal| (Ordinal(ordinal), pod(ordinal == 0, true))).collect();
    let status = told(&seen, &idle(Finding::WaitingForPods), 0);
    assert_eq!((holds(&status, "Available"), holds(&status, "Degraded")), (Some(true), Some(true)));
    let (reason, message) = says(&status, "Degraded");
    assert_eq!(reason, "PodsNotReady");
    assert!(message.contains("example-1, example-2") && message.contains("/readyz?verbose"), "{message}");
    seen.observed.pods.values_mut().for_each(|pod| pod.serving = false);
    assert_eq!(
        holds(&told(&seen, &idle(Finding::WaitingForPods), 0), "Degraded"),
        Some(false),
        "they leave the Service"
    );
}

#[test]
fn a_pod_that_is_not_made_is_named_with_where_the_reason_is() {
    let mut seen = sighting(0, None);
    seen.observed.pods = [(Ordinal(0), PodState::default()), (Ordinal(2), PodState::default())].into();
    let (_, message) = says(&told(&seen, &idle(Finding::WaitingForPods), 0), "Ready");
    assert!(message.contains("not made yet: example-1; "), "{message}");
    assert!(message.ends_with("kubectl describe statefulset example --namespace default"), "{message}");
    seen.observed.pods.insert(Ordinal(1), PodState::default());
    assert_eq!(says(&told(&seen, &idle(Finding::WaitingForPods), 0), "Ready").1, "pods are coming up");
}

#[test]
fn a_volume_that_did_not_grow_is_named() {
    let mut seen = sighting(3, None);
    let small = "8Gi of 12Gi, ControllerResizeError: no room".to_string();
    let volume = VolumeView {
        uid: String::new(),
        state: VolumeState::default(),
        size: "12Gi".to_string(),
        resize_trouble: Some(small),
    };
    seen.kubernetes.volumes = [(Ordinal(1), volume)].into();
    let status = told(&seen, &idle(Finding::Reconciled), 0);
    let message = "the volume of data-example-1 has not grown: 8Gi of 12Gi, ControllerResizeError: no room";
    assert_eq!(says(&status, "Degraded"), ("VolumeTooSmall".to_string(), message.to_string()));
    assert_eq!(holds(&status, "Ready"), Some(false));
}

#[test]
fn the_target_version_is_what_a_node_of_the_newest_template_says() {
    let mut seen = sighting(3, None);
    seen.cluster.spec.version = "nightly".to_string();
    let answer = |version: &str| StatusResponse { version: version.to_string(), ..StatusResponse::default() };
    let pod = |outdated| PodState { outdated, ..PodState::default() };
    seen.observed.pods = [(Ordinal(0), pod(true)), (Ordinal(1), pod(true))].into();
    seen.answers = [(Ordinal(0), answer("0.1.0")), (Ordinal(1), answer("0.1.0"))].into();
    let target = |seen: &Sighting| told(seen, &idle(Finding::Reconciled), 0).target_version;
    assert_eq!(target(&seen).as_deref(), Some("nightly"), "nobody runs it yet");
    seen.cluster.spec.image = Some("example/own:5".to_string());
    assert_eq!(target(&seen), None);
    seen.observed.pods.insert(Ordinal(1), pod(false));
    seen.answers.insert(Ordinal(1), answer("0.2.0"));
    assert_eq!(target(&seen).as_deref(), Some("0.2.0"));
    seen.observed.set.as_mut().expect("a set").outdated = true;
    assert_eq!(target(&seen), None, "its template is not the newest");
}

#[test]
fn a_step_is_counted_before_it_is_taken() {
    let step = Plan { step: Some(Step::RestartPod(Ordinal(1))), finding: Finding::Working(Work::RollingUpdate) };
    let first = told(&sighting(3, None), &step, 0);
    let second = told(&sighting(3, Some(first.clone())), &step, 0);
    assert!(patch(Some(&first), &second).is_some(), "an operator that is behind would not be refused");
}
