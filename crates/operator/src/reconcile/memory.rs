//! What this process remembers of each cluster between two looks. It may forget all of it: every decision holds without.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::events::shortened;
use crate::act::ActError;
use crate::crd::QuorateCluster;
use crate::names::Names;
use crate::observe::Refused;

/// Something for each cluster, by namespace and name.
#[derive(Debug)]
struct ByCluster<T>(Mutex<BTreeMap<(String, String), T>>);

impl<T> Default for ByCluster<T> {
    fn default() -> Self {
        ByCluster(Mutex::default())
    }
}

impl<T> ByCluster<T> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, names: &Names) {
        self.lock().remove(&key(names));
    }
}

fn key(names: &Names) -> (String, String) {
    (names.namespace.clone(), names.cluster.clone())
}

/// How often something happened in a row.
#[derive(Debug, Default)]
pub(super) struct Streaks(ByCluster<u32>);

impl Streaks {
    /// It happened again; how often, with this time.
    pub(super) fn extend(&self, names: &Names) -> u32 {
        let mut counts = self.0.lock();
        let count = counts.entry(key(names)).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// How often, up to now.
    pub(super) fn length(&self, names: &Names) -> u32 {
        self.0.lock().get(&key(names)).copied().unwrap_or(0)
    }

    /// Something else happened.
    pub(super) fn end(&self, names: &Names) {
        self.0.remove(names);
    }
}

/// The last step that the API server refused.
#[derive(Debug, Default)]
pub(super) struct Refusals(ByCluster<Refused>);

impl Refusals {
    /// Unless the resource is another by now, and may be as the API server wants it.
    pub(super) fn last(&self, cluster: &QuorateCluster) -> Option<Refused> {
        let last = self.0.lock().get(&key(&Names::of(cluster))).cloned();
        last.filter(|last| last.generation == cluster.metadata.generation)
    }

    /// A step of `work` was taken, or failed with `error`. Other work that goes on meanwhile says nothing about a refusal.
    pub(super) fn note(&self, cluster: &QuorateCluster, work: &'static str, error: Option<&ActError>) {
        let (key, mut refusals) = (key(&Names::of(cluster)), self.0.lock());
        match error.map(ActError::refusal) {
            Some(Some(message)) => {
                let (generation, message) = (cluster.metadata.generation, shortened(message));
                refusals.insert(key, Refused { work, generation, message });
            }
            None if refusals.get(&key).is_some_and(|last| last.work == work) => drop(refusals.remove(&key)),
            Some(None) | None => {}
        }
    }

    /// A cluster that is no more.
    pub(super) fn forget(&self, names: &Names) {
        self.0.remove(names);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failed(code: u16) -> ActError {
        let status = kube::core::Status { code, message: "Invalid value".to_string(), ..kube::core::Status::default() };
        ActError::Kubernetes(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_refusal_is_remembered_until_the_step_is_taken_or_the_resource_is_another() {
        let refusals = Refusals::default();
        let mut cluster = QuorateCluster::new("db", serde_json::from_value(json!({})).expect("a spec"));
        cluster.metadata.generation = Some(4);
        refusals.note(&cluster, "UpdatingObjects", Some(&failed(422)));
        refusals.note(&cluster, "ReplacingMember", None);
        refusals.note(&cluster, "UpdatingObjects", Some(&failed(409)));
        assert_eq!(refusals.last(&cluster).map(|last| last.message), Some("Invalid value".to_string()));
        cluster.metadata.generation = Some(5);
        assert_eq!(refusals.last(&cluster), None, "it may be mended");
        cluster.metadata.generation = Some(4);
        refusals.note(&cluster, "UpdatingObjects", None);
        assert_eq!(refusals.last(&cluster), None, "it was taken");
    }

    #[test]
    fn a_streak_ends_for_its_own_cluster_only() {
        let streaks = Streaks::default();
        let names = |cluster: &str| Names { cluster: cluster.to_string(), namespace: "default".to_string() };
        assert_eq!((streaks.extend(&names("a")), streaks.extend(&names("a")), streaks.extend(&names("b"))), (1, 2, 1));
        streaks.end(&names("a"));
        assert_eq!((streaks.extend(&names("a")), streaks.extend(&names("b"))), (1, 2));
    }
}
