//! What this process remembers of each cluster between two looks. It may forget all of it: every decision holds without.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::events::shortened;
use crate::act::ActError;
use crate::crd::QuorateCluster;
use crate::names::Names;
use crate::observe::Refused;

/// To the second apply for the same difference.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest to a further one.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

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

/// Since when a quorum answers, and none leads.
#[derive(Debug, Default)]
pub(super) struct Leaderless(ByCluster<Instant>);

impl Leaderless {
    /// How long, up to now.
    pub(super) fn length(&self, names: &Names, now: Instant) -> Duration {
        self.0.lock().get(&key(names)).map_or(Duration::ZERO, |since| now.saturating_duration_since(*since))
    }

    /// Whether it is so at this look.
    pub(super) fn look(&self, names: &Names, is_leaderless: bool, now: Instant) {
        match is_leaderless {
            true => drop(self.0.lock().entry(key(names)).or_insert(now)),
            false => self.0.remove(names),
        }
    }
}

/// What the API server refused at the last attempt, by the work that it is part of: one refusal says nothing about another.
#[derive(Debug, Default)]
pub(super) struct Refusals(ByCluster<BTreeMap<&'static str, Refused>>);

impl Refusals {
    /// Unless the resource is another by now, and may be as the API server wants it.
    pub(super) fn standing(&self, cluster: &QuorateCluster) -> Vec<Refused> {
        let all = self.0.lock();
        let of_this = all.get(&key(&Names::of(cluster))).into_iter().flat_map(BTreeMap::values);
        of_this.filter(|refused| refused.generation == cluster.metadata.generation).cloned().collect()
    }

    /// A step of `work` was taken, or failed with `error`. Other work that goes on meanwhile says nothing about a refusal.
    pub(super) fn note(&self, cluster: &QuorateCluster, work: &'static str, error: Option<&ActError>) {
        let mut all = self.0.lock();
        let of_this = all.entry(key(&Names::of(cluster))).or_default();
        match error.map(ActError::refusal) {
            Some(Some(message)) => {
                let (generation, message) = (cluster.metadata.generation, shortened(message));
                of_this.insert(work, Refused { work, generation, message });
            }
            None => drop(of_this.remove(work)),
            Some(None) => {}
        }
    }

    /// A cluster that is no more.
    pub(super) fn forget(&self, names: &Names) {
        self.0.remove(names);
    }
}

/// How often an apply was meant to end a difference, and when the next one may.
#[derive(Debug, Clone, Copy)]
struct Attempts {
    count: u32,
    due: Instant,
}

/// Applies that were made for what differed, as long as it differs in the same way. Somebody else writes there, such as an admission
/// webhook: to apply again at once would be all that is ever done.
#[derive(Debug, Default)]
pub(super) struct Applies(ByCluster<BTreeMap<String, Attempts>>);

impl Applies {
    /// The differences that were applied for, and whether it is too soon for another apply.
    pub(super) fn made(&self, names: &Names, now: Instant) -> BTreeMap<String, bool> {
        let all = self.0.lock();
        let of_this = all.get(&key(names)).into_iter().flatten();
        of_this.map(|(difference, attempts)| (difference.clone(), now < attempts.due)).collect()
    }

    /// Only `differences` are there still.
    pub(super) fn keep<'a>(&self, names: &Names, differences: impl Iterator<Item = &'a String> + Clone) {
        let mut all = self.0.lock();
        let Some(of_this) = all.get_mut(&key(names)) else { return };
        of_this.retain(|known, _| differences.clone().any(|difference| difference == known));
    }

    /// An apply was made because of `differences`. The pause to the next is twice as long each time.
    pub(super) fn note<'a>(&self, names: &Names, differences: impl Iterator<Item = &'a String>, now: Instant) {
        let mut all = self.0.lock();
        let of_this = all.entry(key(names)).or_default();
        for difference in differences {
            let count = of_this.get(difference).map_or(0, |attempts| attempts.count).saturating_add(1);
            let pause = FIRST_PAUSE * 2_u32.saturating_pow((count - 1).min(16));
            of_this.insert(difference.clone(), Attempts { count, due: now + pause.min(LONGEST_PAUSE) });
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
        refusals.note(&cluster, "UpdatingMonitor", Some(&failed(422)));
        let standing = |cluster: &QuorateCluster| {
            refusals.standing(cluster).into_iter().map(|refused| refused.work).collect::<Vec<_>>()
        };
        assert_eq!(standing(&cluster), ["UpdatingMonitor", "UpdatingObjects"]);
        cluster.metadata.generation = Some(5);
        assert!(standing(&cluster).is_empty(), "it may be mended");
        cluster.metadata.generation = Some(4);
        refusals.note(&cluster, "UpdatingObjects", None);
        assert_eq!(standing(&cluster), ["UpdatingMonitor"], "the other was taken");
    }

    #[test]
    fn an_apply_that_ended_nothing_is_made_again_after_ever_longer_pauses() {
        let applies = Applies::default();
        let names = Names { cluster: "db".to_string(), namespace: "default".to_string() };
        let (start, differences) = (Instant::now(), ["spec.a should be 1".to_string()]);
        let too_soon = |seconds| {
            let made = applies.made(&names, start + Duration::from_secs(seconds));
            made.get(&differences[0]).copied()
        };
        assert_eq!(too_soon(0), None);
        for (at, pause) in [(0, 1), (10, 2), (20, 4)] {
            applies.note(&names, differences.iter(), start + Duration::from_secs(at));
            applies.keep(&names, differences.iter());
            assert_eq!((too_soon(at + pause - 1), too_soon(at + pause)), (Some(true), Some(false)));
        }
        applies.keep(&names, ["spec.a should be 2".to_string()].iter());
        assert_eq!(too_soon(20), None, "it differs in another way");
    }

    #[test]
    fn a_time_without_a_leader_begins_at_the_first_look_and_ends_at_the_first_that_sees_one() {
        let leaderless = Leaderless::default();
        let names = Names { cluster: "db".to_string(), namespace: "default".to_string() };
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        leaderless.look(&names, true, start);
        leaderless.look(&names, true, start + second);
        assert_eq!(leaderless.length(&names, start + second), second);
        leaderless.look(&names, false, start + second);
        assert_eq!(leaderless.length(&names, start + second), Duration::ZERO);
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
