//! Scenes with one thing wrong, each told to its end.

mod newcomer;
mod recovery;

use std::collections::BTreeSet;

use super::World;
use crate::plan::{ClusterId, Finding, NodeId, NodeState, Ordinal, Plan, Step, Work, plan};

impl World {
    /// A cluster of `replicas` that runs as wanted.
    fn of(replicas: u32) -> World {
        let mut world = World::new(7);
        world.wanted.replicas = replicas;
        world.goes_on(|plan| plan.finding == Finding::Reconciled);
        world
    }

    /// The world goes on and the operator works until it decides something that is as `expected`. That decision, and whether its
    /// step was taken, is left to the caller.
    #[track_caller]
    fn goes_on(&mut self, expected: impl Fn(&Plan) -> bool) -> Plan {
        for _ in 0..200 {
            self.live();
            let observed = self.observe();
            let decided = plan(&observed);
            if expected(&decided) {
                return decided;
            }
            self.note(&observed);
            let then = self.clone();
            if let Some(step) = decided.step {
                self.take(step, &then);
            }
        }
        panic!("never decided: {:#?}\n{:?}", self.observe(), plan(&self.observe()));
    }

    /// The world goes on and the operator works until the world is as `expected`.
    #[track_caller]
    fn goes_on_until(&mut self, expected: impl Fn(&World) -> bool) {
        for _ in 0..200 {
            if expected(self) {
                return;
            }
            self.live();
            let observed = self.observe();
            self.note(&observed);
            let then = self.clone();
            if let Some(step) = plan(&observed).step {
                self.take(step, &then);
            }
        }
        panic!("never as expected: {:#?}\n{:?}", self.observe(), plan(&self.observe()));
    }

    #[track_caller]
    fn ends_as_wanted(&mut self) {
        self.goes_on(|plan| plan.finding == Finding::Reconciled);
        assert!(self.is_as_wanted(), "{:#?}", self.observe());
    }

    fn wait(&mut self) {
        (0..20).for_each(|_| self.live());
    }

    fn apply_template(&mut self, bad: bool) {
        self.template += 1;
        if bad {
            self.bad_templates.insert(self.template);
        }
    }

    fn member_at(&self, ordinal: u32) -> NodeId {
        let found = self.members.iter().find(|(_, member)| member.ordinal == Ordinal(ordinal));
        *found.expect("a member is there").0
    }
}

#[test]
fn a_resize_with_a_template_that_cannot_start_goes_on_when_it_is_mended() {
    for supervised in [false, true] {
        let mut world = World::of(3);
        world.wanted.roll_unsupervised = false;
        world.apply_template(true);
        world.wanted.replicas = 5;
        world.goes_on(|plan| plan.finding == Finding::WaitingForPods && plan.step.is_none());
        world.wait();
        world.apply_template(false);
        world.wanted.roll_unsupervised = !supervised;
        world.goes_on(|plan| matches!(plan.step, Some(Step::SetVoters { .. })));
        world.wanted.roll_unsupervised = true;
        world.ends_as_wanted();
    }
}

#[test]
fn a_newcomer_that_cannot_start_any_more_is_mended_in_the_middle_of_its_change() {
    let mut world = World::of(3);
    world.wanted.replicas = 5;
    let decided = world.goes_on(|plan| matches!(plan.step, Some(Step::SetVoters { .. })));
    let then = world.clone();
    world.take(decided.step.expect("a change"), &then);
    world.apply_template(true);
    world.applied_template = world.template;
    world.pods.remove(&Ordinal(4));
    world.wait();
    assert!(world.change.is_some() && !world.pods[&Ordinal(4)].running);
    world.apply_template(false);
    world.ends_as_wanted();
}

#[test]
fn a_member_that_lags_is_not_restarted_while_the_others_are_no_quorum_without_it() {
    let mut world = World::of(3);
    let (one, other) = (world.member_at(1), world.member_at(2));
    world.apply_template(false);
    world.applied_template = world.template;
    let mut observed = world.observe();
    let view = observed.cluster.as_mut().expect("a leader");
    view.caught_up.remove(&one);
    view.caught_up.remove(&other);
    let decided = plan(&observed);
    assert!(decided.step.is_none(), "{decided:?}");
    observed.cluster.as_mut().expect("a leader").caught_up.insert(other);
    assert_eq!(plan(&observed).step, Some(Step::RestartPod(Ordinal(1))), "the others are a quorum");
    observed.pods.get_mut(&Ordinal(2)).expect("three pods").terminating = true;
    assert_eq!(plan(&observed).step, None, "one of the others is on its way out");
}

/// A resource made again over the volumes of a cluster of five, of which those in `gone` were lost.
fn made_again(gone: &[u32], replicas: u32) -> World {
    let mut world = World::of(5);
    world.wanted.deleted = true;
    let decided = world.goes_on(|plan| plan.step == Some(Step::ReleaseFinalizer));
    let then = world.clone();
    world.take(decided.step.expect("released"), &then);
    for ordinal in gone {
        world.volumes.remove(&Ordinal(*ordinal));
    }
    world.wanted.replicas = replicas;
    world
}

#[test]
fn volumes_above_the_wanted_number_are_another_clusters_until_they_are_known() {
    let mut world = made_again(&[0, 1, 2], 3);
    for moment in 0..100 {
        world.live();
        // Those that hold data come up last.
        for (_, pod) in world.pods.iter_mut().filter(|(ordinal, _)| ordinal.0 > 2 && moment < 50) {
            pod.running = false;
        }
        let decided = plan(&world.observe());
        assert!(!matches!(decided.step, Some(Step::LatchNewClusterId | Step::DeleteVolume(_))), "{decided:?}");
        let then = world.clone();
        if let Some(step) = decided.step {
            world.take(step, &then);
        }
    }
    assert_eq!(plan(&world.observe()).finding, Finding::ClusterIdMismatch);
    assert!(world.volumes.contains_key(&Ordinal(3)) && world.volumes.contains_key(&Ordinal(4)));
}

#[test]
fn a_quorum_of_the_voters_takes_the_cluster_up_again_whatever_number_is_wanted() {
    made_again(&[], 3).ends_as_wanted();
    made_again(&[1, 2], 5).ends_as_wanted();
    // Two of the three that are wanted are no quorum of the five that vote.
    let mut world = made_again(&[0, 3, 4], 3);
    world.goes_on(|plan| plan.finding == Finding::ClusterIdMismatch);
}

#[test]
fn a_barred_or_removed_node_does_not_count_for_a_quorum_that_is_taken_up_again() {
    for barred in [NodeState::Fenced, NodeState::Damaged] {
        let mut world = made_again(&[3, 4], 3);
        world.volumes.get_mut(&Ordinal(2)).expect("it was kept").barred = Some(barred);
        world.goes_on(|plan| plan.finding == Finding::ClusterIdMismatch);
    }
}

#[test]
fn a_node_that_differs_from_the_majority_or_is_damaged_is_emptied_and_joins_as_another() {
    for barred in [NodeState::Fenced, NodeState::Damaged] {
        let mut world = World::of(3);
        let before = world.volumes[&Ordinal(1)].clone();
        world.volumes.get_mut(&Ordinal(1)).expect("three volumes").barred = Some(barred);
        world.ends_as_wanted();
        let after = &world.volumes[&Ordinal(1)];
        assert_eq!(after.barred, None);
        assert_ne!((after.incarnation, after.identity), (before.incarnation, before.identity), "{barred:?}");
        let old = before.identity.map(|(_, id)| id).expect("a member has an id");
        assert!(!world.members.contains_key(&old), "its id went with its data");
    }
}

#[test]
fn a_volume_that_was_never_seen_to_be_of_this_cluster_is_not_deleted() {
    let mut world = World::of(3);
    let mut stranger = world.empty_volume();
    (stranger.owner, stranger.identity) = (0, Some((ClusterId(77), NodeId(77))));
    world.volumes.insert(Ordinal(4), stranger);
    world.ends_as_wanted();
    assert!(world.volumes.contains_key(&Ordinal(4)));
    world.wanted.deleted = true;
    world.wanted.delete_volumes = true;
    world.goes_on(|plan| plan.step == Some(Step::ReleaseFinalizer));
    let kept = world.volumes.iter().filter(|(_, volume)| !volume.terminating).map(|(ordinal, _)| *ordinal);
    assert_eq!(kept.collect::<BTreeSet<_>>(), [Ordinal(4)].into());
}

#[test]
fn a_volume_that_can_follow_its_pod_is_kept_when_a_node_is_lost() {
    for (stranded, kept) in [(false, true), (true, false)] {
        let mut world = World::of(3);
        let before = world.volumes[&Ordinal(1)].incarnation;
        world.pods.get_mut(&Ordinal(1)).expect("three pods").node_lost = true;
        world.volumes.get_mut(&Ordinal(1)).expect("three volumes").stranded = stranded;
        world.ends_as_wanted();
        assert_eq!(world.volumes[&Ordinal(1)].incarnation == before, kept);
    }
}

#[test]
fn a_pod_that_was_collected_with_its_node_gets_a_new_volume() {
    let mut world = World::of(3);
    world.pods.remove(&Ordinal(1));
    world.volumes.get_mut(&Ordinal(1)).expect("three volumes").stranded = true;
    world.ends_as_wanted();
    assert!(!world.volumes[&Ordinal(1)].stranded);
}

#[test]
fn what_somebody_else_writes_over_holds_no_duty_up() {
    let mut world = World::of(3);
    world.overridden = true;
    world.apply_template(false);
    world.wanted.replicas = 5;
    let (mut applied, mut looks) = (0, 0);
    while !world.is_as_wanted() {
        looks += 1;
        assert!(looks < 200, "starved: {:#?}", world.observe());
        world.live();
        let (decided, then) = (plan(&world.observe()), world.clone());
        applied += u32::from(matches!(decided.step, Some(Step::ApplyObjects { .. })));
        if let Some(step) = decided.step {
            world.take(step, &then);
        }
    }
    assert!(applied > 0 && applied < looks / 2, "{applied} of {looks}");
    let mut observed = world.observe();
    let set = observed.set.as_mut().expect("a set");
    (set.settled, set.outdated, set.overridden) = (true, false, true);
    assert_eq!(plan(&observed), Plan { step: None, finding: Finding::Working(Work::UpdatingObjects) });
}

#[test]
fn a_template_that_is_refused_holds_no_replacement_up() {
    for lost_node in [false, true] {
        let mut world = World::of(3);
        world.template += 1;
        world.refused_templates.insert(world.template);
        let old = world.member_at(1);
        if lost_node {
            world.pods.get_mut(&Ordinal(1)).expect("three pods").node_lost = true;
            world.volumes.get_mut(&Ordinal(1)).expect("three volumes").stranded = true;
        } else {
            world.pods.remove(&Ordinal(1));
            world.volumes.remove(&Ordinal(1));
        }
        let replaced = |world: &World| world.member_at(1) != old && world.change.is_none();
        world.goes_on_until(|world| replaced(world) && world.takes_part(world.member_at(1)));
        assert_ne!(world.applied_template, world.template);
        world.apply_template(false);
        world.ends_as_wanted();
    }
}

#[test]
fn a_quorum_comes_back_from_lost_nodes_though_a_template_is_refused() {
    let mut world = World::of(3);
    world.template += 1;
    world.refused_templates.insert(world.template);
    for ordinal in [1, 2] {
        world.pods.get_mut(&Ordinal(ordinal)).expect("three pods").node_lost = true;
        world.volumes.get_mut(&Ordinal(ordinal)).expect("three volumes").stranded = false;
    }
    world.goes_on_until(|world| world.members.keys().all(|id| world.takes_part(*id)));
}

#[test]
fn a_quorum_that_runs_without_a_leader_is_not_taken_for_lost() {
    let mut observed = World::of(3).observe();
    observed.latched.formed = true;
    observed.cluster = None;
    assert_eq!(plan(&observed).finding, Finding::NoLeader);
    observed.quorum_may_run = false;
    assert_eq!(plan(&observed).finding, Finding::QuorumLost);
}

#[test]
fn a_template_with_which_none_can_lead_is_mended() {
    let mut world = World::of(3);
    world.latched.formed = true;
    world.apply_template(false);
    world.quarrelsome_templates.insert(world.template);
    // To the last pod: which of two templates it is that keeps them from a leader, nobody can tell.
    let newest = |world: &World| world.pods.values().all(|pod| pod.template == world.template && pod.running);
    world.goes_on_until(|world| !world.can_elect() && newest(world));
    world.wait();
    assert_eq!(plan(&world.observe()).finding, Finding::NoLeader);
    world.apply_template(false);
    world.wanted.roll_unsupervised = false;
    world.goes_on(|plan| plan.finding == Finding::NoLeader);
    world.wanted.roll_unsupervised = true;
    world.goes_on(|plan| {
        matches!(plan.step, Some(Step::RestartPod(_))) && plan.finding == Finding::Working(Work::RestoringLeader)
    });
    world.ends_as_wanted();
}

#[test]
fn an_election_that_takes_a_while_is_no_reason_to_restart_a_pod() {
    let mut observed = World::of(3).observe();
    (observed.latched.formed, observed.cluster) = (true, None);
    observed.pods.values_mut().for_each(|pod| pod.outdated = true);
    assert_eq!(plan(&observed), Plan { step: None, finding: Finding::NoLeader });
    observed.long_leaderless = true;
    assert_eq!(plan(&observed).step, Some(Step::RestartPod(Ordinal(0))));
    // The one before has the newest template, and does not answer yet.
    observed.pods.get_mut(&Ordinal(0)).expect("three pods").outdated = false;
    observed.nodes.remove(&Ordinal(0));
    assert_eq!(plan(&observed), Plan { step: None, finding: Finding::Working(Work::RestoringLeader) });
    observed.nodes.remove(&Ordinal(1));
    assert_eq!(plan(&observed).step, None, "it is not elections that keep it from a leader");
}

#[test]
fn a_cluster_that_never_ran_waits_for_its_pods_and_has_lost_nothing() {
    let mut world = World::new(7);
    world.goes_on(|plan| matches!(plan.step, Some(Step::Init { .. })));
    let mut observed = world.observe();
    observed.nodes.remove(&Ordinal(2));
    assert_eq!(plan(&observed), Plan { step: None, finding: Finding::WaitingForPods });
}

#[test]
fn a_growth_that_is_refused_hides_nothing_that_waits_for_a_human() {
    let mut world = World::of(3);
    (world.refuses_growth, world.small, world.wanted.roll_unsupervised) = (true, true, false);
    world.apply_template(false);
    world.goes_on(|plan| plan.finding == Finding::RollAwaitsApproval);
    let mut observed = world.observe();
    (observed.cluster, observed.quorum_may_run, observed.latched.formed) = (None, false, true);
    assert_eq!(plan(&observed).finding, Finding::QuorumLost);
    world.wanted.roll_unsupervised = true;
    world.goes_on(|plan| plan.step == Some(Step::GrowVolumes));
}

#[test]
fn a_monitor_that_is_refused_hides_nothing_that_waits_for_a_human() {
    let mut world = World::of(3);
    world.wanted.roll_unsupervised = false;
    world.apply_template(false);
    world.goes_on(|plan| plan.finding == Finding::RollAwaitsApproval);
    let refused = |small| {
        let mut observed = world.observe();
        let set = observed.set.as_mut().expect("a set");
        (set.monitor_outdated, set.monitor_refused, set.small, set.growth_refused) = (true, true, small, small);
        observed
    };
    assert_eq!(plan(&refused(false)).finding, Finding::RollAwaitsApproval);
    let without_roll = |small| {
        let mut observed = refused(small);
        observed.pods.values_mut().for_each(|pod| pod.outdated = false);
        plan(&observed).step
    };
    assert_eq!(without_roll(false), Some(Step::ApplyMonitor), "it is tried again");
    assert_eq!(without_roll(true), Some(Step::GrowVolumes), "what the cluster has more of comes first");
}

#[test]
fn the_first_election_is_nothing_to_warn_of() {
    let mut world = World::new(7);
    world.goes_on_until(|world| world.has_quorum());
    let mut observed = world.observe();
    (observed.cluster, observed.latched.formed) = (None, false);
    assert_eq!(plan(&observed), Plan { step: None, finding: Finding::Working(Work::FormingCluster) });
    observed.latched.formed = true;
    assert_eq!(plan(&observed).finding, Finding::NoLeader);
}

#[test]
fn an_admin_token_that_somebody_deleted_is_made_again() {
    let mut world = World::of(3);
    world.secret = false;
    assert!(world.view().is_none(), "nobody can be asked");
    world.ends_as_wanted();
    assert!(world.secret);
}

#[test]
fn leadership_that_does_not_move_holds_nothing_up() {
    let mut world = World::of(5);
    world.stubborn = true;
    world.apply_template(false);
    world.ends_as_wanted();
    world.leader = Some(world.member_at(4));
    world.wanted.replicas = 3;
    world.ends_as_wanted();
}

#[test]
fn a_cluster_shrinks_when_all_that_stay_take_part() {
    let mut world = World::of(5);
    world.wanted.replicas = 3;
    let down = world.member_at(2);
    let mut observed = world.observe();
    observed.latched.target_replicas = Some(3);
    observed.cluster.as_mut().expect("a leader").caught_up.remove(&down);
    let decided = plan(&observed);
    assert_eq!((decided.step, decided.finding), (None, Finding::TooFewTakePart));
}

/// A cluster of three that was of five, on the way out of which `db-3` is held up on a node that does not answer.
fn held_up_on_the_way_down() -> World {
    let mut world = World::of(5);
    world.wanted.replicas = 3;
    world.goes_on(|plan| plan.step == Some(Step::ScaleSet { replicas: 3 }));
    world.pods.get_mut(&Ordinal(3)).expect("five pods").held_up = true;
    world
}

#[test]
fn a_surplus_pod_that_does_not_end_holds_no_other_duty_up() {
    let mut world = held_up_on_the_way_down();
    world.goes_on(|plan| plan.step == Some(Step::DeleteVolume(Ordinal(4))));
    world.goes_on(|plan| *plan == Plan { step: None, finding: Finding::Working(Work::ScalingDown) });
    world.apply_template(false);
    let newest = |world: &World| (0..3).all(|ordinal| world.pods[&Ordinal(ordinal)].template == world.template);
    world.goes_on_until(|world| newest(world) && world.members.keys().all(|id| world.takes_part(*id)));
    assert!(world.pods.contains_key(&Ordinal(3)) && world.volumes.contains_key(&Ordinal(3)));
    world.pods.get_mut(&Ordinal(3)).expect("it is there").held_up = false;
    world.ends_as_wanted();
}

#[test]
fn a_cluster_that_grows_again_waits_for_the_surplus_pod_and_empties_its_data() {
    let mut world = held_up_on_the_way_down();
    world.goes_on(|plan| *plan == Plan { step: None, finding: Finding::Working(Work::ScalingDown) });
    let old = world.volumes[&Ordinal(3)].incarnation;
    world.wanted.replicas = 5;
    world.goes_on(|plan| plan.finding == Finding::WaitingForPods && plan.step.is_none());
    world.wait();
    assert_eq!(plan(&world.observe()).finding, Finding::WaitingForPods);
    world.pods.get_mut(&Ordinal(3)).expect("it is there").held_up = false;
    world.goes_on(|plan| plan.step == Some(Step::ResetNode(Ordinal(3))));
    world.ends_as_wanted();
    assert_ne!(world.volumes[&Ordinal(3)].incarnation, old);
}

#[test]
fn leadership_leaves_a_node_that_takes_no_new_pods() {
    let world = World::of(3);
    let mut observed = world.observe();
    let view = observed.cluster.clone().expect("a leader");
    observed.pods.get_mut(&view.members[&view.leader].ordinal).expect("three pods").cordoned = true;
    let Some(Step::TransferLeader { to, .. }) = plan(&observed).step else { panic!("{:?}", plan(&observed)) };
    assert_ne!(to, view.leader);
    observed.pods.values_mut().for_each(|pod| pod.cordoned = true);
    assert_eq!(plan(&observed).finding, Finding::Reconciled, "there is nowhere to go");
}

#[test]
fn a_quorum_comes_back_from_lost_nodes_if_its_volumes_can_follow() {
    let mut world = World::of(3);
    for ordinal in [1, 2] {
        world.pods.get_mut(&Ordinal(ordinal)).expect("three pods").node_lost = true;
    }
    world.ends_as_wanted();
}
