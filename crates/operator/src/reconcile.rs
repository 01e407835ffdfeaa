//! One reconcile: observe, decide, tell, act.
//!
//! The status is written before the step is taken, guarded by the version that was read: what a step rests on (the cluster's id,
//! the target) is durable first, and an operator that is behind is stopped there. Only then one step is taken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource};
use serde_json::json;

use crate::act::{self, ActError, Hands};
use crate::admin::Admin;
use crate::build::Defaults;
use crate::crd::{QuorateCluster, QuorateClusterStatus};
use crate::interruption::{Moment, interrupt};
use crate::metrics::Metrics;
use crate::names::{FINALIZER, Names};
use crate::observe::{self, Refused, Remembered, Sighting};
use crate::plan::{ClusterId, Finding, Plan, Step, plan};
use crate::status;

/// The next look after a step: its effect should be visible at once.
const AFTER_STEP: Duration = Duration::from_millis(300);
/// The next look while something is awaited that no watch reports: the nodes' own state.
const WHILE_WAITING: Duration = Duration::from_secs(1);
/// Looks in a row that may find the same thing awaited before the pauses grow: what takes long is reported by a watch, or by
/// nobody for hours.
const PATIENT_LOOKS: u32 = 30;
/// The next look at a cluster that is as it should be: who leads is not reported by any watch.
const AT_REST: Duration = Duration::from_secs(20);
/// Times the length of a look that a cluster at rest is then left alone: where looks take long, of very many clusters or on a slow
/// machine, looks at those that rest must not hold up what is to be done for others.
const REST_FACTOR: u32 = 100;
/// And at most so long.
const LONGEST_REST: Duration = Duration::from_secs(300);
/// Characters of an event's note; the API server takes a thousand bytes.
const LONGEST_NOTE: usize = 480;
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What all reconciles share.
pub struct Context<A> {
    /// The API server.
    pub client: Client,
    /// The nodes.
    pub admin: A,
    /// What is fixed for all clusters.
    pub defaults: Defaults,
    /// One for the whole program, or repeated events are not folded.
    pub recorder: Recorder,
    /// The operator's metrics.
    pub metrics: Arc<Metrics>,
    /// Failures in a row.
    failures: Streaks,
    /// Looks in a row that found something awaited.
    waits: Streaks,
    /// Transfers of leadership in a row. Forgotten with this process, which costs no more than that some are asked for again.
    transfers: Streaks,
    /// The last step that the API server refused, by cluster.
    refusals: Mutex<Refusals>,
}

/// How often something happened in a row, by cluster.
#[derive(Debug, Default)]
struct Streaks(Mutex<BTreeMap<(String, String), u32>>);

impl Streaks {
    /// It happened again; how often, with this time.
    fn extend(&self, names: &Names) -> u32 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((names.namespace.clone(), names.cluster.clone())).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// How often, up to now.
    fn length(&self, names: &Names) -> u32 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&(names.namespace.clone(), names.cluster.clone())).copied().unwrap_or(0)
    }

    /// Something else happened.
    fn end(&self, names: &Names) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.remove(&(names.namespace.clone(), names.cluster.clone()));
    }
}

/// The last step that the API server refused, by cluster.
#[derive(Debug, Default)]
struct Refusals(BTreeMap<(String, String), Refused>);

impl Refusals {
    /// Unless the resource is another by now, and may be as the API server wants it.
    fn last(&self, cluster: &QuorateCluster) -> Option<Refused> {
        let Names { namespace, cluster: name } = Names::of(cluster);
        let last = self.0.get(&(namespace, name)).cloned();
        last.filter(|last| last.generation == cluster.metadata.generation)
    }

    /// A step of `work` was taken, or failed with `error`. Other work that goes on meanwhile says nothing about a refusal.
    fn note(&mut self, cluster: &QuorateCluster, work: &'static str, error: Option<&ActError>) {
        let Names { namespace, cluster: name } = Names::of(cluster);
        let key = (namespace, name);
        match error.map(ActError::refusal) {
            Some(Some(message)) => {
                let (generation, message) = (cluster.metadata.generation, shortened(message));
                self.0.insert(key, Refused { work, generation, message });
            }
            None if self.0.get(&key).is_some_and(|last| last.work == work) => drop(self.0.remove(&key)),
            Some(None) | None => {}
        }
    }

    fn forget(&mut self, names: &Names) {
        self.0.remove(&(names.namespace.clone(), names.cluster.clone()));
    }
}

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Reading or writing the API server.
    #[error("the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    /// Taking a step.
    #[error("{work}: {source}")]
    Act {
        /// The step's purpose.
        work: &'static str,
        /// What went wrong.
        source: ActError,
    },
}

impl ReconcileError {
    fn kind(&self) -> &'static str {
        match self {
            ReconcileError::Kubernetes(kube::Error::Api(status)) if status.is_conflict() => "conflict",
            ReconcileError::Kubernetes(_) | ReconcileError::Act { source: ActError::Kubernetes(_), .. } => "kubernetes",
            ReconcileError::Act { source: ActError::Node(_), .. } => "node",
            ReconcileError::Act { .. } => "other",
        }
    }
}

impl<A: Admin> Context<A> {
    /// A context without a past.
    pub fn new(client: Client, admin: A, defaults: Defaults, recorder: Recorder, metrics: Arc<Metrics>) -> Self {
        let (failures, waits, transfers) = (Streaks::default(), Streaks::default(), Streaks::default());
        let refusals = Mutex::default();
        Context { client, admin, defaults, recorder, metrics, failures, waits, transfers, refusals }
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cluster that is no more.
    fn forget(&self, names: &Names) {
        self.metrics.forget(names);
        self.refusals().forget(names);
        [&self.failures, &self.waits, &self.transfers].into_iter().for_each(|streaks| streaks.end(names));
    }
}

/// Reconciles one cluster.
///
/// # Errors
/// [`ReconcileError`]; the caller tries again later.
pub async fn reconcile<A: Admin>(
    cluster: Arc<QuorateCluster>,
    context: Arc<Context<A>>,
) -> Result<Action, ReconcileError> {
    let start = Instant::now();
    let result = once(&cluster, &context, start).await;
    context.metrics.reconciled(start.elapsed(), result.as_ref().err().map(ReconcileError::kind));
    if result.is_ok() {
        context.failures.end(&Names::of(&cluster));
    }
    result
}

/// Pauses longer after each failure in a row; a conflict only means to look again.
pub fn after_error<A: Admin>(cluster: Arc<QuorateCluster>, error: &ReconcileError, context: Arc<Context<A>>) -> Action {
    let names = Names::of(&cluster);
    let failures = context.failures.extend(&names);
    if error.kind() == "conflict" {
        return Action::requeue(WHILE_WAITING);
    }
    tracing::warn!(namespace = names.namespace, name = names.cluster, failures, %error, "reconcile failed");
    let pause = WHILE_WAITING * 2_u32.saturating_pow(failures.saturating_sub(1).min(8));
    Action::requeue(pause.min(LONGEST_PAUSE))
}

async fn once<A: Admin>(
    cached: &QuorateCluster,
    context: &Context<A>,
    start: Instant,
) -> Result<Action, ReconcileError> {
    let names = Names::of(cached);
    let api = Api::<QuorateCluster>::namespaced(context.client.clone(), &names.namespace);
    let Some(cluster) = api.get_opt(&names.cluster).await? else {
        context.forget(&names);
        return Ok(Action::await_change());
    };
    let ours = cluster.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    if cluster.metadata.deletion_timestamp.is_some() && !ours {
        context.forget(&names);
        return Ok(Action::await_change());
    }
    if !ours {
        let added = act::add_finalizer(&context.client, &cluster).await;
        added.map_err(|source| ReconcileError::Act { work: "Finalizer", source })?;
        return Ok(Action::requeue(AFTER_STEP));
    }
    let remembered =
        Remembered { transfers_tried: context.transfers.length(&names), refused: context.refusals().last(&cluster) };
    let sighting = observe::observe(&context.client, &context.admin, &context.defaults, cluster, remembered).await?;
    let decided = plan(&sighting.observed);
    let after = write_status(&api, &sighting, &decided).await?;
    report(context, &sighting, &decided, &after).await;
    context.metrics.show(&sighting, &after);
    if let Some(step) = &decided.step {
        let work = reason(&decided.finding);
        let hands = Hands { client: &context.client, admin: &context.admin, defaults: &context.defaults };
        tracing::info!(namespace = names.namespace, name = names.cluster, work, ?step, "taking a step");
        match step {
            Step::TransferLeader { .. } => drop(context.transfers.extend(&names)),
            _ => context.transfers.end(&names),
        }
        interrupt(&context.client, &sighting.cluster, Moment::Before, step).await?;
        let taken = hands.act(&sighting, step).await;
        context.refusals().note(&sighting.cluster, work, taken.as_ref().err());
        if let Err(source) = taken {
            publish_failure(context, &sighting, work, &source).await;
            return Err(ReconcileError::Act { work, source });
        }
        interrupt(&context.client, &sighting.cluster, Moment::After, step).await?;
        context.metrics.stepped(work);
        if *step == Step::ReleaseFinalizer {
            // Nobody looks at it again: it is gone, or waits for somebody else's finalizer.
            context.forget(&names);
            return Ok(Action::await_change());
        }
    } else if decided.finding == Finding::Reconciled {
        context.transfers.end(&names);
    }
    context.metrics.succeeded(&names);
    let waits = match (&decided.step, &decided.finding) {
        (None, Finding::Reconciled | Finding::Paused) | (Some(_), _) => {
            context.waits.end(&names);
            0
        }
        (None, _) => context.waits.extend(&names),
    };
    // Without an address nothing changes but what a watch reports.
    let reachable = sighting.kubernetes.pods.values().any(|pod| pod.address.is_some());
    Ok(Action::requeue(next_look(&decided, waits, reachable, start.elapsed())))
}

/// `waits` looks in a row found something awaited, this one included; `reachable` if any node could answer; `took` is the length of this look.
fn next_look(decided: &Plan, waits: u32, reachable: bool, took: Duration) -> Duration {
    let rest = (took * REST_FACTOR).clamp(AT_REST, LONGEST_REST);
    match (&decided.step, waits) {
        (Some(_), _) => AFTER_STEP,
        (None, 0) => rest,
        (None, _) if !reachable => rest,
        (None, waits) => (WHILE_WAITING * waits.div_ceil(PATIENT_LOOKS)).min(AT_REST),
    }
}

/// The status as it is now, written if it is another one than before.
async fn write_status(
    api: &Api<QuorateCluster>,
    sighting: &Sighting,
    decided: &Plan,
) -> Result<QuorateClusterStatus, ReconcileError> {
    let cluster = &sighting.cluster;
    let after = status::status(sighting, decided, random_cluster_id(), &Time(Timestamp::now()));
    let changed = status::patch(cluster.status.as_ref(), &after);
    let Some(status) = changed.filter(|_| decided.step != Some(Step::ReleaseFinalizer)) else { return Ok(after) };
    let guarded = json!({ "metadata": { "resourceVersion": cluster.metadata.resource_version }, "status": status });
    api.patch_status(&Names::of(cluster).cluster, &PatchParams::default(), &Patch::Merge(guarded)).await?;
    Ok(after)
}

/// Tells of steps, and of states in which a human should look.
async fn report<A: Admin>(context: &Context<A>, sighting: &Sighting, decided: &Plan, after: &QuorateClusterStatus) {
    for event in news(sighting.cluster.status.as_ref(), after, decided) {
        publish(context, sighting, &event).await;
    }
}

/// A step is told each time, a state when it begins: nothing is written for what stays as it is.
fn news(before: Option<&QuorateClusterStatus>, after: &QuorateClusterStatus, decided: &Plan) -> Vec<Event> {
    let begins = |kind: &str| {
        let now = reason_of(Some(after), kind);
        now != reason_of(before, kind)
    };
    let said = |kind: &str| after.conditions.iter().find(|c| c.type_ == kind).map_or("", |c| c.message.as_str());
    let mut events = Vec::new();
    let known = decided.step.is_none() && !begins("Progressing");
    if let Some((type_, note)) = note(&decided.finding, decided.step.is_some(), &said).filter(|_| !known) {
        events.push(event(type_, reason(&decided.finding), note));
    }
    if begins("Degraded") && reason_of(Some(after), "Degraded") == Some("NodeLost") {
        events.push(event(EventType::Warning, "NodeLost", said("Degraded")));
    }
    // What else stalls has an event of its own.
    if begins("Stalled") && reason_of(Some(after), "Stalled") == Some("DeadlineExceeded") {
        let note = format!("{}: {}", said("Stalled"), said("Progressing"));
        events.push(event(EventType::Warning, "Stalled", &note));
    }
    events
}

fn note<'a>(finding: &Finding, steps: bool, said: &impl Fn(&str) -> &'a str) -> Option<(EventType, &'a str)> {
    Some(match finding {
        Finding::Working(work) if steps => (EventType::Normal, work.text()),
        Finding::QuorumLost => (EventType::Warning, "no quorum of the members answers"),
        Finding::NoLeader => (EventType::Warning, "enough members for a quorum may run, and none of them leads"),
        Finding::MembersDown => (EventType::Warning, said("Degraded")),
        Finding::RollAwaitsApproval => (EventType::Normal, said("Progressing")),
        Finding::TooFewTakePart => (EventType::Warning, "the next step waits: too few members take part"),
        Finding::RecoveryRefused(refusal) => (EventType::Warning, refusal.text()),
        Finding::RecoveryFailed => (EventType::Warning, "the job that should recover the cluster has failed"),
        Finding::ClusterIdMismatch => (EventType::Warning, said("Progressing")),
        _ => return None,
    })
}

fn reason_of<'a>(status: Option<&'a QuorateClusterStatus>, kind: &str) -> Option<&'a str> {
    status?.conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.reason.as_str())
}

fn event(type_: EventType, reason: &str, note: &str) -> Event {
    Event {
        type_,
        reason: reason.to_string(),
        note: Some(shortened(note)),
        action: "Reconcile".to_string(),
        secondary: None,
    }
}

async fn publish<A: Admin>(context: &Context<A>, sighting: &Sighting, event: &Event) {
    if let Err(error) = context.recorder.publish(event, &sighting.cluster.object_ref(&())).await {
        tracing::warn!(%error, "an event could not be written");
    }
}

/// A refusal of the API server, such as a storage class whose volumes cannot grow, is for the user to see. Nodes refuse and go
/// away all the time, and are asked again.
async fn publish_failure<A: Admin>(context: &Context<A>, sighting: &Sighting, work: &str, error: &ActError) {
    let ActError::Kubernetes(kube::Error::Api(status)) = error else { return };
    if status.is_conflict() {
        return;
    }
    let event = event(EventType::Warning, &format!("{work}Failed"), &error.to_string());
    publish(context, sighting, &event).await;
}

/// As much as an event or a condition should carry.
fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_NOTE).collect()
}

fn reason(finding: &Finding) -> &'static str {
    match finding {
        Finding::Working(work) => work.reason(),
        Finding::Reconciled => "Reconciled",
        Finding::MembersDown => "MembersDown",
        Finding::WaitingForPods => "WaitingForPods",
        Finding::Paused => "Paused",
        Finding::TooFewTakePart => "TooFewTakePart",
        Finding::QuorumLost => "QuorumLost",
        Finding::NoLeader => "NoLeader",
        Finding::RecoveryRefused(_) => "RecoveryRefused",
        Finding::RecoveryFailed => "RecoveryFailed",
        Finding::ClusterIdMismatch => "ClusterIDMismatch",
        Finding::RollAwaitsApproval => "RollAwaitsApproval",
        Finding::Deleting => "Deleting",
    }
}

fn random_cluster_id() -> ClusterId {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    ClusterId(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_awaited_long_is_looked_at_less_often() {
        let waiting = Plan { step: None, finding: Finding::WaitingForPods };
        let next = |waits, reachable| next_look(&waiting, waits, reachable, Duration::ZERO);
        assert_eq!(next(1, true), WHILE_WAITING);
        assert_eq!(next(PATIENT_LOOKS, true), WHILE_WAITING);
        assert!(next(PATIENT_LOOKS + 1, true) > WHILE_WAITING);
        assert_eq!(next(u32::MAX, true), AT_REST);
        assert_eq!(next(1, false), AT_REST);
    }

    #[test]
    fn clusters_at_rest_leave_most_of_the_time_to_others() {
        let resting = Plan { step: None, finding: Finding::Reconciled };
        let next = |took| next_look(&resting, 0, true, took);
        assert_eq!(next(Duration::from_millis(100)), AT_REST);
        assert_eq!(next(Duration::from_secs(1)), Duration::from_secs(100));
        assert_eq!(next(Duration::from_secs(10)), LONGEST_REST);
    }

    fn failed(code: u16) -> ActError {
        let status = kube::core::Status { code, message: "Invalid value".to_string(), ..kube::core::Status::default() };
        ActError::Kubernetes(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_refusal_is_remembered_until_the_step_is_taken_or_the_resource_is_another() {
        let mut refusals = Refusals::default();
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

    fn status(conditions: &[(&str, &str)]) -> QuorateClusterStatus {
        let condition = |(kind, reason): &(&str, &str)| {
            json!({
                "type": kind, "reason": reason, "status": "True", "message": format!("{kind} it is"),
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let conditions: Vec<_> = conditions.iter().map(condition).collect();
        serde_json::from_value(json!({ "conditions": conditions })).expect("a status")
    }

    #[test]
    fn a_state_is_told_when_it_begins_and_a_step_each_time() {
        let told = |finding: Finding, step: Option<Step>, conditions: &[(&str, &str)]| {
            let (decided, after) = (Plan { step, finding }, status(conditions));
            let reasons = |events: Vec<Event>| events.into_iter().map(|event| event.reason).collect::<Vec<_>>();
            (reasons(news(None, &after, &decided)), reasons(news(Some(&after), &after, &decided)))
        };
        let state = |finding: Finding, conditions: &[(&str, &str)], expected: &[&str]| {
            assert_eq!(told(finding, None, conditions), (expected.iter().map(ToString::to_string).collect(), vec![]));
        };
        let (lost, waits) = (("Degraded", "NodeLost"), ("Progressing", "RollAwaitsApproval"));
        state(Finding::MembersDown, &[("Progressing", "MembersDown"), lost], &["MembersDown", "NodeLost"]);
        state(Finding::RollAwaitsApproval, &[waits], &["RollAwaitsApproval"]);
        let stalled = [("Progressing", "WaitingForPods"), ("Stalled", "DeadlineExceeded")];
        state(Finding::WaitingForPods, &stalled, &["Stalled"]);
        state(Finding::Reconciled, &[("Progressing", "Reconciled"), ("Degraded", "FullCapacity")], &[]);
        let step = Some(Step::RestartPod(crate::plan::Ordinal(1)));
        let rolling = Finding::Working(crate::plan::Work::RollingUpdate);
        let each = vec!["RollingUpdate".to_string()];
        assert_eq!(told(rolling, step, &[("Progressing", "RollingUpdate")]), (each.clone(), each));
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
