//! From the nodes' answers to the plan's view of the cluster. Pure.

use std::collections::{BTreeMap, BTreeSet};

use quorate_proto::quorate::v1::{Member, MemberRole, NodeState as WireState, RaftRole, StatusResponse};

use super::kubernetes::PodView;
use crate::crd::QuorateClusterStatus;
use crate::names::Names;
use crate::plan::{
    Change, ClusterId, ClusterView, Configuration, Incarnation, LogEnd, MemberView, NodeId, NodeReport, NodeState,
    Ordinal,
};

/// A member this far behind still counts as caught up: under load the newest entries are always on their way.
const CAUGHT_UP_LAG_ENTRIES: u64 = 2_000;

/// A 16-byte id, big-endian, as shown in hexadecimal.
pub fn id_of_bytes(bytes: &[u8]) -> Option<u128> {
    bytes.try_into().ok().map(u128::from_be_bytes)
}

/// What a node says of itself; none if the answer makes no sense, which counts as no answer.
pub fn report(answer: &StatusResponse) -> Option<NodeReport> {
    let state = match answer.state() {
        WireState::Unspecified => return None,
        WireState::Uninitialised => NodeState::Uninitialised,
        WireState::Joining => NodeState::Joining,
        WireState::Member => NodeState::Member,
        WireState::Removed => NodeState::Removed,
        WireState::Fenced => NodeState::Fenced,
        WireState::Damaged => NodeState::Damaged,
    };
    Some(NodeReport {
        state,
        incarnation: Incarnation(id_of_bytes(&answer.incarnation)?),
        cluster_id: id_of_bytes(&answer.cluster_id).filter(|id| *id != 0).map(ClusterId),
        node_id: (answer.node_id != 0).then_some(NodeId(answer.node_id)),
        log_end: answer.log.map_or_else(LogEnd::default, |log| LogEnd { term: log.last_term, index: log.last }),
        configuration: answer.configuration.as_ref().map(|known| Configuration {
            index: known.index,
            voters: known.members.iter().filter(votes).map(|member| NodeId(member.node_id)).collect(),
        }),
    })
}

fn votes(member: &&Member) -> bool {
    matches!(member.role(), MemberRole::Voter | MemberRole::Outgoing)
}

/// Who has answered a leader within the last election timeout, itself included.
fn active(leader: &StatusResponse) -> BTreeSet<NodeId> {
    let followers = leader.followers.iter().filter(|follower| follower.active);
    followers.map(|follower| NodeId(follower.node_id)).chain([NodeId(leader.node_id)]).collect()
}

/// Whether a leader has been answered lately by those without whom it leads nobody. Its lease says so, but a leader that hands
/// over has none, and the one of an older release stays without if nothing comes of it.
fn hears_a_quorum(leader: &StatusResponse) -> bool {
    let Some(configuration) = &leader.configuration else { return false };
    let active = active(leader);
    let voters = configuration.members.iter().filter(votes);
    let heard = voters.clone().filter(|voter| active.contains(&NodeId(voter.node_id))).count();
    leader.lease_valid || 2 * heard > voters.count()
}

/// The cluster as its leader sees it. Only a leader that heard a quorum a moment ago counts.
pub(super) fn view(names: &Names, id: ClusterId, answers: &BTreeMap<Ordinal, StatusResponse>) -> Option<ClusterView> {
    let leads = |answer: &&StatusResponse| {
        answer.role() == RaftRole::Leader
            && hears_a_quorum(answer)
            && report(answer).is_some_and(|r| r.state == NodeState::Member && r.cluster_id == Some(id))
    };
    let leader = answers.values().filter(leads).max_by_key(|answer| answer.term)?;
    let configuration = leader.configuration.as_ref()?;
    let mut members = BTreeMap::new();
    for (position, member) in (0..).zip(&configuration.members) {
        // A member that is no pod of this set was added by somebody else. It is surplus: placed above every pod.
        let ordinal = names.ordinal_of_pod(&member.name).unwrap_or(Ordinal(u32::MAX - position));
        let incarnation = Incarnation(id_of_bytes(&member.incarnation)?);
        members.insert(NodeId(member.node_id), MemberView { ordinal, incarnation, voter: votes(&member) });
    }
    let change = match (configuration.joint, configuration.target.is_empty()) {
        (true, _) => Change::Joint,
        (false, false) => Change::CatchingUp,
        (false, true) => Change::None,
    };
    let leads = NodeId(leader.node_id);
    let caught_up = caught_up(leader, &members, answers);
    Some(ClusterView {
        config_index: configuration.index,
        change,
        members,
        leader: leads,
        active: active(leader),
        caught_up,
    })
}

/// Whether the members that may run are enough to be a quorum of the newest configuration that is known, leader or not. One that
/// cannot be asked may run if its pod is ready, or if it is no pod of this set. Half of an even number of voters counts too:
/// in a joint configuration it may be a quorum of both sides.
pub(super) fn quorum_may_run(
    names: &Names,
    id: ClusterId,
    answers: &BTreeMap<Ordinal, StatusResponse>,
    pods: &BTreeMap<Ordinal, PodView>,
    known: Option<&QuorateClusterStatus>,
) -> bool {
    let of_this = |answer: &&StatusResponse| {
        report(answer).is_some_and(|report| report.state.is_sound() && report.cluster_id == Some(id))
    };
    let newest = answers.values().filter(of_this).filter_map(|answer| answer.configuration.as_ref());
    let newest = newest.max_by_key(|configuration| configuration.index);
    let known_index = known.and_then(|status| status.config_index).unwrap_or(0);
    let voters: Vec<&str> = match newest.filter(|newest| newest.index.cast_signed() >= known_index) {
        Some(newest) => newest.members.iter().filter(votes).map(|member| member.name.as_str()).collect(),
        None => known.iter().flat_map(|status| &status.members).map(|member| member.name.as_str()).collect(),
    };
    let may_run = |name: &&&str| match names.ordinal_of_pod(name) {
        None => true,
        Some(ordinal) => match answers.get(&ordinal) {
            Some(answer) => of_this(&answer),
            None => pods.get(&ordinal).is_some_and(|pod| pod.state.ready),
        },
    };
    let running = voters.iter().filter(may_run).count();
    running > 0 && 2 * running >= voters.len()
}

/// By the leader's word, unless the node itself says that its data is not the member's.
fn caught_up(
    leader: &StatusResponse,
    members: &BTreeMap<NodeId, MemberView>,
    answers: &BTreeMap<Ordinal, StatusResponse>,
) -> BTreeSet<NodeId> {
    let follows = leader
        .followers
        .iter()
        .filter(|follower| follower.active && !follower.snapshot && follower.lag_entries <= CAUGHT_UP_LAG_ENTRIES)
        .map(|follower| NodeId(follower.node_id));
    let own_data = |id: &NodeId| {
        let Some(member) = members.get(id) else { return false };
        let Some(report) = answers.get(&member.ordinal).and_then(report) else { return true };
        report.incarnation == member.incarnation && report.state.is_sound()
    };
    follows.chain([NodeId(leader.node_id)]).filter(own_data).collect()
}

#[cfg(test)]
mod tests {
    use quorate_proto::quorate::v1::{Configuration as WireConfiguration, Follower};

    use super::*;
    use crate::plan::PodState;

    const CLUSTER: u128 = 7;

    fn names() -> Names {
        Names { cluster: "example".to_string(), namespace: "default".to_string() }
    }

    fn member(id: u64) -> Member {
        Member {
            node_id: id,
            incarnation: u128::from(id).to_be_bytes().to_vec().into(),
            name: format!("example-{}", id - 1),
            role: MemberRole::Voter.into(),
            ..Member::default()
        }
    }

    fn answer(id: u64, role: RaftRole) -> StatusResponse {
        StatusResponse {
            node_id: id,
            incarnation: u128::from(id).to_be_bytes().to_vec().into(),
            cluster_id: CLUSTER.to_be_bytes().to_vec().into(),
            state: WireState::Member.into(),
            role: role.into(),
            term: 4,
            lease_valid: role == RaftRole::Leader,
            configuration: Some(WireConfiguration {
                index: 9,
                members: (1..=3).map(member).collect(),
                ..Default::default()
            }),
            followers: (2..=3).map(|node_id| Follower { node_id, active: true, ..Follower::default() }).collect(),
            ..StatusResponse::default()
        }
    }

    fn answers() -> BTreeMap<Ordinal, StatusResponse> {
        let followers = (2..=3).map(|id| answer(id, RaftRole::Follower));
        (0..).map(Ordinal).zip([answer(1, RaftRole::Leader)].into_iter().chain(followers)).collect()
    }

    fn view_of(answers: &BTreeMap<Ordinal, StatusResponse>) -> Option<ClusterView> {
        view(&names(), ClusterId(CLUSTER), answers)
    }

    #[test]
    fn the_leader_speaks_for_the_cluster() {
        let view = view_of(&answers()).expect("a leader answers");
        assert_eq!((view.config_index, view.leader, view.caught_up.len()), (9, NodeId(1), 3));
        assert!(view.has_voters_below(3));
    }

    #[test]
    fn a_leader_that_hears_no_quorum_is_none() {
        let mut answers = answers();
        let leader = answers.get_mut(&Ordinal(0)).expect("there");
        leader.lease_valid = false;
        leader.followers.iter_mut().for_each(|follower| follower.active = false);
        assert_eq!(view_of(&answers), None);
    }

    #[test]
    fn a_leader_that_gave_its_lease_up_leads_while_a_quorum_answers_it() {
        let mut answers = answers();
        let leader = answers.get_mut(&Ordinal(0)).expect("there");
        leader.lease_valid = false;
        leader.followers[1].active = false;
        let view = view_of(&answers).expect("it was handing over to the one that is away now, and leads on");
        assert_eq!((view.leader, view.active), (NodeId(1), [NodeId(1), NodeId(2)].into()));
    }

    #[test]
    fn a_leader_of_another_cluster_is_none() {
        assert_eq!(view(&names(), ClusterId(CLUSTER + 1), &answers()), None);
    }

    #[test]
    fn a_node_with_other_data_does_not_count_as_caught_up() {
        let mut answers = answers();
        answers.get_mut(&Ordinal(2)).expect("there").incarnation = 99_u128.to_be_bytes().to_vec().into();
        assert_eq!(view_of(&answers).expect("a leader answers").caught_up.len(), 2);
    }

    #[test]
    fn a_member_that_is_behind_is_not_one_that_is_away() {
        let mut answers = answers();
        let followers = &mut answers.get_mut(&Ordinal(0)).expect("there").followers;
        followers[0].snapshot = true;
        followers[1].active = false;
        let view = view_of(&answers).expect("a leader answers");
        assert_eq!(view.active, [NodeId(1), NodeId(2)].into());
        assert_eq!(view.caught_up, [NodeId(1)].into());
    }

    #[test]
    fn a_node_tells_who_votes() {
        let known = report(&answers()[&Ordinal(1)]).and_then(|report| report.configuration).expect("it knows");
        assert_eq!((known.index, known.voters), (9, (1..=3).map(NodeId).collect()));
    }

    #[test]
    fn a_member_that_is_no_pod_is_surplus() {
        let mut answers = answers();
        let leader = answers.get_mut(&Ordinal(0)).expect("there");
        leader.configuration.as_mut().expect("there").members[2].name = "stranger".to_string();
        let view = view_of(&answers).expect("a leader answers");
        assert!(view.members[&NodeId(3)].ordinal > Ordinal(1_000));
    }

    /// Of the three members `answering` answer, and the pods of `ready` are ready.
    fn may_run(answering: u32, ready: &[u32]) -> bool {
        let mut answers = answers();
        answers.retain(|ordinal, _| ordinal.0 < answering);
        let pod = |ready: bool| PodView { state: PodState { ready, ..PodState::default() }, ..PodView::default() };
        let pods = (0..3).map(|ordinal| (Ordinal(ordinal), pod(ready.contains(&ordinal)))).collect();
        quorum_may_run(&names(), ClusterId(CLUSTER), &answers, &pods, None)
    }

    #[test]
    fn a_quorum_may_run_if_enough_members_answer_or_are_ready() {
        assert!(may_run(3, &[]));
        assert!(may_run(2, &[]));
        assert!(!may_run(1, &[]));
        assert!(!may_run(1, &[0]), "who answers is counted once");
        assert!(may_run(1, &[2]), "a ready pod that cannot be asked may be a voter");
    }

    #[test]
    fn nodes_that_lost_their_data_are_no_quorum() {
        let mut answers = answers();
        for ordinal in [1, 2] {
            answers.get_mut(&Ordinal(ordinal)).expect("there").state = WireState::Uninitialised.into();
        }
        assert!(!quorum_may_run(&names(), ClusterId(CLUSTER), &answers, &BTreeMap::new(), None));
    }

    #[test]
    fn where_nobody_answers_the_members_last_seen_count() {
        let member = |name: &str| serde_json::json!({ "id": name, "name": name, "role": "Unknown", "healthy": false, "caughtUp": false });
        let members: Vec<_> = ["example-0", "example-1", "example-2"].map(member).into();
        let known: QuorateClusterStatus =
            serde_json::from_value(serde_json::json!({ "members": members })).expect("a status");
        let ready = PodView { state: PodState { ready: true, ..PodState::default() }, ..PodView::default() };
        let two: BTreeMap<Ordinal, PodView> = (0..2).map(|ordinal| (Ordinal(ordinal), ready.clone())).collect();
        let one: BTreeMap<Ordinal, PodView> = two.clone().into_iter().take(1).collect();
        let may_run = |pods| quorum_may_run(&names(), ClusterId(CLUSTER), &BTreeMap::new(), pods, Some(&known));
        assert!(may_run(&two));
        assert!(!may_run(&one));
    }
}
