//! An operator that ends around a step, for the end-to-end tests: what is lost by it is what a killed one loses.
//!
//! Only where [`ALLOWED`] is in the environment, which no chart sets. The cluster's annotation [`ANNOTATION`] then names the moment
//! and the step, for example `after/SetVoters`.

use kube::ResourceExt;

use crate::crd::QuorateCluster;
use crate::plan::Step;

/// Variable of the environment that lets a cluster ask for it.
const ALLOWED: &str = "QUORATE_TEST_INTERRUPTIONS";
/// Annotation that names the moment.
const ANNOTATION: &str = "quorate.io/test-interrupt";

/// Where in a step an operator may be interrupted.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// The status is written, the step not taken.
    Before,
    /// The step is taken, and nobody knows.
    After,
}

/// Ends the process, without a word to anybody, if the cluster asks for it here.
pub fn interrupt(cluster: &QuorateCluster, moment: Moment, step: &Step) {
    if std::env::var_os(ALLOWED).is_some() && is_asked(cluster, moment, step) {
        std::process::abort();
    }
}

fn is_asked(cluster: &QuorateCluster, moment: Moment, step: &Step) -> bool {
    let moment = match moment {
        Moment::Before => "before",
        Moment::After => "after",
    };
    let step = format!("{step:?}");
    let name: String = step.chars().take_while(|letter| letter.is_alphanumeric()).collect();
    cluster.annotations().get(ANNOTATION).is_some_and(|asked| *asked == format!("{moment}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Ordinal;

    #[test]
    fn only_the_named_step_is_interrupted() {
        let mut cluster = QuorateCluster::new("db", serde_json::from_value(serde_json::json!({})).expect("a spec"));
        let step = Step::RestartPod(Ordinal(1));
        assert!(!is_asked(&cluster, Moment::After, &step));
        cluster.annotations_mut().insert(ANNOTATION.to_string(), "after/RestartPod".to_string());
        assert!(is_asked(&cluster, Moment::After, &step));
        assert!(!is_asked(&cluster, Moment::Before, &step));
        assert!(!is_asked(&cluster, Moment::After, &Step::GrowVolumes));
    }
}
