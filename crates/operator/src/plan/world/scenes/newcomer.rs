//! Scenes of nodes that are about to be taken in.

use super::World;
use crate::plan::{Finding, NodeState, Ordinal, Plan, Step, plan};

/// A cluster of three that is to be of five. The files of a newcomer are damaged so badly that they do not say whose they are.
fn with_a_nameless_newcomer() -> World {
    let mut world = World::of(3);
    world.wanted.replicas = 5;
    world.goes_on_until(|world| world.members.values().any(|member| member.ordinal == Ordinal(3)));
    let volume = world.volumes.get_mut(&Ordinal(3)).expect("a member has a volume");
    (volume.barred, volume.nameless) = (Some(NodeState::Damaged), true);
    world
}

#[test]
fn a_newcomer_whose_files_do_not_say_whose_they_are_is_emptied() {
    let mut world = with_a_nameless_newcomer();
    world.goes_on(|plan| plan.step == Some(Step::ResetNode(Ordinal(3))));
    world.ends_as_wanted();
}

#[test]
fn files_that_do_not_say_whose_they_are_are_left_alone_on_a_volume_of_somebody_else() {
    let mut world = with_a_nameless_newcomer();
    world.volumes.get_mut(&Ordinal(3)).expect("it is there").owner = 0;
    world.goes_on(|plan| plan.finding == Finding::ClusterIdMismatch);
    world.wait();
    assert_eq!(plan(&world.observe()), Plan { step: None, finding: Finding::ClusterIdMismatch });
}
