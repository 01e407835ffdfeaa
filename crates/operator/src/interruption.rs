//! An operator that ends around a step, for the end-to-end tests: what is lost by it is what a killed one loses.
//!
//! Only where [`ALLOWED`] is in the environment, which no chart sets. The cluster's annotation [`ANNOTATION`] then names moments and
//! steps, for example `after/SetVoters,before/ScaleSet`: the first is taken off the list before the process ends there, so that each
//! ends one operator, and nobody has to be in time to ask for the next.

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::crd::QuorateCluster;
use crate::names::Names;
use crate::plan::Step;

/// Variable of the environment that lets a cluster ask for it.
const ALLOWED: &str = "QUORATE_TEST_INTERRUPTIONS";
/// Annotation with the list of moments.
const ANNOTATION: &str = "quorate.io/test-interrupt";

/// Where in a step an operator may be interrupted.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// The status is written, the step not taken.
    Before,
    /// The step is taken, and nobody knows.
    After,
}

/// Ends the process, without a word to anybody else, if the cluster asks for it here.
///
/// # Errors
/// [`kube::Error`] if the list cannot be made shorter; the process then goes on to look again.
pub async fn interrupt(
    client: &Client,
    cluster: &QuorateCluster,
    moment: Moment,
    step: &Step,
) -> Result<(), kube::Error> {
    if std::env::var_os(ALLOWED).is_none() {
        return Ok(());
    }
    let names = Names::of(cluster);
    let api = Api::<QuorateCluster>::namespaced(client.clone(), &names.namespace);
    let Some(left) = api.get(&names.cluster).await.map(|now| left_after(&now, moment, step))? else { return Ok(()) };
    let patch = json!({ "metadata": { "annotations": { ANNOTATION: left } } });
    api.patch(&names.cluster, &PatchParams::default(), &Patch::Merge(patch)).await?;
    std::process::abort();
}

/// What is left of the list if this moment is the first on it.
fn left_after(cluster: &QuorateCluster, moment: Moment, step: &Step) -> Option<String> {
    let moment = match moment {
        Moment::Before => "before",
        Moment::After => "after",
    };
    let step = format!("{step:?}");
    let name: String = step.chars().take_while(|letter| letter.is_alphanumeric()).collect();
    let asked = cluster.annotations().get(ANNOTATION)?;
    let (first, rest) = asked.split_once(',').unwrap_or((asked, ""));
    (first == format!("{moment}/{name}")).then(|| rest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Ordinal;

    #[test]
    fn only_the_first_step_of_the_list_is_interrupted() {
        let mut cluster = QuorateCluster::new("db", serde_json::from_value(serde_json::json!({})).expect("a spec"));
        let step = Step::RestartPod(Ordinal(1));
        assert_eq!(left_after(&cluster, Moment::After, &step), None);
        let list = "after/RestartPod,before/ScaleSet";
        cluster.annotations_mut().insert(ANNOTATION.to_string(), list.to_string());
        assert_eq!(left_after(&cluster, Moment::After, &step), Some("before/ScaleSet".to_string()));
        assert_eq!(left_after(&cluster, Moment::Before, &step), None);
        assert_eq!(left_after(&cluster, Moment::Before, &Step::ScaleSet { replicas: 3 }), None);
        cluster.annotations_mut().insert(ANNOTATION.to_string(), "before/GrowVolumes".to_string());
        assert_eq!(left_after(&cluster, Moment::Before, &Step::GrowVolumes), Some(String::new()));
    }
}
