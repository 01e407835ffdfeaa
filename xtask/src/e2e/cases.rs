//! The tests, in the order in which they run.

mod api;
mod failures;
mod growth;
mod installs;
mod interrupted;
mod lifecycle;
mod many;
mod monitoring;
mod operators;
mod platform;
mod recovery;
mod resize;
mod rollout;
mod settings;

use super::suite::Scene;
use crate::failure::Failure;

/// One test. Its name is the fact it holds.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Runs without `--all`.
    pub(super) core: bool,
    pub(super) needs_operator: bool,
    pub(super) run: fn(&Scene<'_>) -> Result<(), Failure>,
}

const fn core(name: &'static str, run: fn(&Scene<'_>) -> Result<(), Failure>) -> Case {
    Case { name, core: true, needs_operator: true, run }
}

const fn more(name: &'static str, run: fn(&Scene<'_>) -> Result<(), Failure>) -> Case {
    Case { name, core: false, needs_operator: true, run }
}

pub(super) const ALL: &[Case] = &[
    Case { name: "a_pod_runs", core: true, needs_operator: false, run: platform::a_pod_runs },
    core("an_install_becomes_available", lifecycle::an_install_becomes_available),
    core("a_resize_loses_no_write", resize::a_resize_loses_no_write),
    core("a_lost_volume_is_replaced", failures::a_lost_volume_is_replaced),
    core("a_killed_leader_comes_back", failures::a_killed_leader_comes_back),
    core("an_upgrade_restarts_the_leader_last", rollout::an_upgrade_restarts_the_leader_last),
    core("other_sizes_are_refused", resize::other_sizes_are_refused),
    more("a_leader_that_leaves_hands_over", resize::a_leader_that_leaves_hands_over),
    more("a_resize_can_be_taken_back", resize::a_resize_can_be_taken_back),
    more("a_smaller_size_can_be_taken_back", resize::a_smaller_size_can_be_taken_back),
    more("all_pods_deleted_at_once_come_back", failures::all_pods_deleted_at_once_come_back),
    more("a_resize_survives_a_killed_operator", resize::a_resize_survives_a_killed_operator),
    more("a_bad_image_can_be_mended", rollout::a_bad_image_can_be_mended),
    more("a_quorum_that_is_away_is_left_alone", failures::a_quorum_that_is_away_is_left_alone),
    more("a_lost_quorum_is_recovered_on_a_humans_word", recovery::a_lost_quorum_is_recovered_on_a_humans_word),
    more("a_pod_that_moves_stays_the_same_member", failures::a_pod_that_moves_stays_the_same_member),
    more("a_member_on_a_lost_node_is_replaced", failures::a_member_on_a_lost_node_is_replaced),
    more("a_member_on_a_deleted_node_is_replaced", failures::a_member_on_a_deleted_node_is_replaced),
    more("damaged_data_is_replaced", failures::damaged_data_is_replaced),
    more("a_deleted_admin_token_is_made_again", failures::a_deleted_admin_token_is_made_again),
    more("a_drain_takes_one_pod_at_a_time", failures::a_drain_takes_one_pod_at_a_time),
    more("a_drained_node_keeps_the_quorum", failures::a_drained_node_keeps_the_quorum),
    more("a_cluster_of_the_same_name_takes_up_its_data", lifecycle::a_cluster_of_the_same_name_takes_up_its_data),
    more("too_few_volumes_of_a_cluster_are_not_wiped", lifecycle::too_few_volumes_of_a_cluster_are_not_wiped),
    more("clusters_outlive_the_operator", lifecycle::clusters_outlive_the_operator),
    more("a_cluster_without_its_set_keeps_its_pods", lifecycle::a_cluster_without_its_set_keeps_its_pods),
    more("volumes_grow_without_a_restart", growth::volumes_grow_without_a_restart),
    more("a_growth_that_is_refused_holds_nothing_up", growth::a_growth_that_is_refused_holds_nothing_up),
    more("two_operators_at_once_do_no_harm", operators::two_operators_at_once_do_no_harm),
    more("another_replica_takes_over", operators::another_replica_takes_over),
    more(
        "an_operator_that_dies_around_a_step_is_carried_on",
        operators::an_operator_that_dies_around_a_step_is_carried_on,
    ),
    more(
        "an_operator_that_dies_while_volumes_grow_is_carried_on",
        operators::an_operator_that_dies_while_volumes_grow_is_carried_on,
    ),
    more("a_supervised_roll_waits_for_a_word", settings::a_supervised_roll_waits_for_a_word),
    more("volumes_go_with_the_cluster_if_asked_to", settings::volumes_go_with_the_cluster_if_asked_to),
    more("the_resource_explains_itself", api::the_resource_explains_itself),
    more("the_api_server_keeps_every_rule", api::the_api_server_keeps_every_rule),
    more("the_resource_shows_itself", api::the_resource_shows_itself),
    more("an_operator_of_one_namespace_needs_no_more", installs::an_operator_of_one_namespace_needs_no_more),
    more("helm_4_waits_for_the_cluster", installs::helm_4_waits_for_the_cluster),
    more("manifests_do_without_helm", installs::manifests_do_without_helm),
    more(
        "a_scaled_cluster_keeps_its_size_if_the_release_names_none",
        installs::a_scaled_cluster_keeps_its_size_if_the_release_names_none,
    ),
    more("helm_4_does_not_take_a_size_back_unasked", installs::helm_4_does_not_take_a_size_back_unasked),
    more("a_prometheus_operator_finds_its_objects", installs::a_prometheus_operator_finds_its_objects),
    more("a_resize_survives_a_kill_after_any_write", interrupted::a_resize_survives_a_kill_after_any_write),
    more("prometheus_sees_what_is_shown", monitoring::prometheus_sees_what_is_shown),
    more("a_paused_cluster_is_left_alone", lifecycle::a_paused_cluster_is_left_alone),
    more("five_hundred_clusters_are_looked_after", many::five_hundred_clusters_are_looked_after),
];
