//! One reconcile: observe, decide, tell, act.
//!
//! The status is written before the step is taken, guarded by the version that was read: what a step rests on (the cluster's id,
//! the target) is durable first, and an operator that is behind is stopped there. Only then one step is taken.

mod events;
mod memory;

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::{Api, Client};
use serde_json::json;

use crate::act::{self, ActError, Hands};
use crate::admin::Admin;
use crate::build::Defaults;
use crate::crd::{QuorateCluster, QuorateClusterStatus};
use crate::interruption::{Moment, interrupt};
use crate::metrics::Metrics;
use crate::names::{FINALIZER, Names};
use crate::observe::{self, Remembered, Sighting};
use crate::plan::{ClusterId, Finding, Plan, Step, plan};
use crate::status;

use self::memory::{Applies, Leaderless, Refusals, Streaks};

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
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The longest look, its step included. The controller makes no second one of a cluster meanwhile: an API server whose machine is gone
/// would keep it from ever being looked at again.
const LONGEST_LOOK: Duration = Duration::from_secs(120);

/// So long a quorum may answer without a leader before the pods of an older template are suspected: a minute of elections that fail.
const LONG_LEADERLESS: Duration = Duration::from_secs(60);

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
    /// Clusters that have no leader and could have one. Forgotten with this process, which only begins to count again.
    leaderless: Leaderless,
    /// What the API server refused at the last attempt, by cluster.
    refusals: Refusals,
    /// What was applied, and differs still.
    applies: Applies,
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
    /// The look was given up wherever it was. To the cluster that is as if the operator had died there.
    #[error("no answer within {} s, most likely of the API server; the cluster is looked at again", LONGEST_LOOK.as_secs())]
    TookTooLong,
}

impl ReconcileError {
    fn kind(&self) -> &'static str {
        match self {
            ReconcileError::Kubernetes(kube::Error::Api(status))
            | ReconcileError::Act { source: ActError::Kubernetes(kube::Error::Api(status)), .. }
                if status.is_conflict() =>
            {
                "conflict"
            }
            ReconcileError::Act { source: ActError::Overtaken(_), .. } => "conflict",
            // Every call to a node has a limit of its own.
            ReconcileError::Kubernetes(_)
            | ReconcileError::Act { source: ActError::Kubernetes(_), .. }
            | ReconcileError::TookTooLong => "kubernetes",
            ReconcileError::Act { source: ActError::Node(_), .. } => "node",
            ReconcileError::Act { .. } => "other",
        }
    }
}

impl<A: Admin> Context<A> {
    /// A context without a past.
    pub fn new(client: Client, admin: A, defaults: Defaults, recorder: Recorder, metrics: Arc<Metrics>) -> Self {
        let (failures, waits, transfers) = (Streaks::default(), Streaks::default(), Streaks::default());
        let (leaderless, refusals, applies) = (Leaderless::default(), Refusals::default(), Applies::default());
        Context {
            client,
            admin,
            defaults,
            recorder,
            metrics,
            failures,
            waits,
            transfers,
            leaderless,
            refusals,
            applies,
        }
    }

    /// A cluster that is no more.
    fn forget(&self, names: &Names) {
        self.metrics.forget(names);
        self.refusals.forget(names);
        self.applies.forget(names);
        self.leaderless.look(names, false, Instant::now());
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
    let look = tokio::time::timeout(LONGEST_LOOK, once(&cluster, &context, start));
    let result = look.await.unwrap_or(Err(ReconcileError::TookTooLong));
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
    let remembered = Remembered {
        transfers_tried: context.transfers.length(&names),
        long_leaderless: context.leaderless.length(&names, start) >= LONG_LEADERLESS,
        refused: context.refusals.standing(&cluster),
        applied: context.applies.made(&names, Instant::now()),
    };
    let sighting = observe::observe(&context.client, &context.admin, &context.defaults, cluster, remembered).await?;
    context.applies.keep(&names, sighting.all_differences());
    let leaderless = sighting.observed.cluster.is_none() && sighting.observed.quorum_answers();
    context.leaderless.look(&names, leaderless, start);
    let decided = plan(&sighting.observed);
    let after = write_status(&api, &sighting, &decided).await?;
    events::report(&context.recorder, &sighting, &decided, &after).await;
    context.metrics.show(&sighting, &after);
    if let Some(step) = &decided.step {
        let work = decided.finding.reason();
        let hands = Hands { client: &context.client, admin: &context.admin, defaults: &context.defaults };
        tracing::info!(namespace = names.namespace, name = names.cluster, work, ?step, "taking a step");
        match step {
            Step::TransferLeader { .. } => drop(context.transfers.extend(&names)),
            _ => context.transfers.end(&names),
        }
        interrupt(&context.client, &sighting.cluster, Moment::Before, step).await?;
        let taken = hands.act(&sighting, step).await;
        context.refusals.note(&sighting.cluster, work, taken.as_ref().err());
        if let Err(source) = taken {
            events::report_failure(&context.recorder, &sighting, work, &source).await;
            if source.refusal().is_some() {
                // The cluster is looked after, and its status says what is refused.
                context.metrics.succeeded(&names);
            }
            return Err(ReconcileError::Act { work, source });
        }
        match step {
            Step::ApplyObjects { .. } => context.applies.note(&names, sighting.differences.iter(), Instant::now()),
            Step::ApplyMonitor => context.applies.note(&names, sighting.monitor_difference.iter(), Instant::now()),
            _ => {}
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

fn random_cluster_id() -> ClusterId {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    ClusterId(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use http::{Request, Response};
    use kube::client::Body;
    use kube::runtime::events::Reporter;
    use tower::service_fn;

    use super::*;
    use crate::admin::Grpc;

    #[tokio::test(start_paused = true)]
    async fn a_look_at_an_api_server_that_does_not_answer_ends() {
        let frozen = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>());
        let client = Client::new(frozen, "default");
        let recorder = Recorder::new(client.clone(), Reporter::from("test"));
        let defaults = Defaults::new("quorate", None);
        let context = Arc::new(Context::new(client, Grpc::default(), defaults, recorder, Arc::new(Metrics::new())));
        let cluster = Arc::new(QuorateCluster::new("db", serde_json::from_value(json!({})).expect("a spec")));
        let look = tokio::time::timeout(2 * LONGEST_LOOK, reconcile(Arc::clone(&cluster), Arc::clone(&context)));
        let error = look.await.expect("it ends").expect_err("nobody answered");
        assert_eq!(error.kind(), "kubernetes");
        assert_eq!(after_error(cluster, &error, context), Action::requeue(WHILE_WAITING), "it is made again");
    }

    #[test]
    fn a_conflict_is_no_failure_whoever_meets_it() {
        let kind = |source| ReconcileError::Act { work: "ScalingUp", source }.kind();
        let answer = |code, reason: &str| {
            let status = kube::core::Status { code, reason: reason.to_string(), ..kube::core::Status::default() };
            ActError::Kubernetes(kube::Error::Api(Box::new(status)))
        };
        assert_eq!((kind(answer(409, "Conflict")), kind(answer(422, "Invalid"))), ("conflict", "kubernetes"));
        assert_eq!(kind(ActError::Overtaken("StatefulSet db was made".to_string())), "conflict");
    }

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
}
