//! One operator and five hundred clusters at rest: what it costs the API server and itself.
//!
//! API server, controllers, scheduler, volumes and operator are the real ones. The pods are not: a thousand and a half of nodes
//! do not run on one machine, so their kubelet and their Admin API are a program's, `stand_ins` of the operator's examples.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::e2e::control_plane::operator_writes;
use crate::e2e::daemon;
use crate::e2e::place::{STAND_INS, text};
use crate::e2e::suite::{SYSTEM, Scene, condition, ensure, sum};
use crate::e2e::volumes::{self, VOLUMES_A_TEST};
use crate::failure::Failure;
use crate::process::{self, cargo, target_folder};

const CLUSTERS: usize = 500;
const PODS: usize = 3 * CLUSTERS;
/// A cluster at rest may be written to once in it.
const WINDOW: Duration = Duration::from_secs(600);
/// All pods, volumes and services, by controllers that share one machine.
const PATIENCE: Duration = Duration::from_secs(2400);
/// Clusters that are edited, one after the other.
const EDITS: usize = 20;

pub(super) fn five_hundred_clusters_are_looked_after(scene: &Scene<'_>) -> Result<(), Failure> {
    start_stand_ins()?;
    let result = measure(scene);
    daemon::stop("stand-ins");
    // Its pods go with it.
    let gone = scene.kubectl.output(&["delete", "node", "stand-ins", "--wait=false"]).map(drop);
    result.and(gone)
}

fn start_stand_ins() -> Result<(), Failure> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "--package", "quorate-operator", "--example", "stand_ins"]);
    process::run(&mut build)?;
    let arguments = [
        "--kubeconfig=".to_owned() + &text("admin.kubeconfig"),
        "--node=stand-ins".to_owned(),
        format!("--first-address={STAND_INS}"),
    ];
    daemon::start("stand-ins", &target_folder().join("debug/examples/stand_ins"), &arguments)
}

fn measure(scene: &Scene<'_>) -> Result<(), Failure> {
    volumes::make(scene.kubectl, &scene.namespace.replace('-', "_"), VOLUMES_A_TEST..PODS)?;
    let mut new = None;
    scene.await_fact("a replica of the operator acts", || {
        new = Figures::read(scene).ok();
        Ok(new.is_some())
    })?;
    let new = new.expect("awaited");
    let start = Instant::now();
    let items: Vec<Value> = (0..CLUSTERS).map(|number| cluster(scene, number)).collect();
    scene.kubectl.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())?;
    scene.await_fact_within(PATIENCE, "every cluster is ready", || {
        // Five hundred clusters are much to read, too.
        sleep(Duration::from_secs(15));
        Ok(ready_clusters(scene)? == CLUSTERS)
    })?;
    eprintln!("  {CLUSTERS} clusters are ready after {} s", start.elapsed().as_secs());
    let before = Figures::read(scene)?;
    before.print_since(&new, "while they were made");
    let written = operator_writes()?.len();
    // Not one more than the last look at each cluster said: the pauses between looks are shorter than this.
    sleep(Duration::from_secs(60));
    let (before, noted) = (Figures::read(scene)?, operator_writes()?.len());
    sleep(WINDOW);
    let (after, writes) = (Figures::read(scene)?, operator_writes()?.split_off(noted));
    after.print_since(&before, "at rest");
    eprintln!("  {} kB of memory at most; {written} writes while they were made", peak_kilobytes(scene, &after.pod)?);
    let ready = ready_clusters(scene)?;
    ensure(ready == CLUSTERS, || format!("only {ready} clusters are still ready"))?;
    // Or the API server noted nothing.
    ensure(written > PODS, || format!("{CLUSTERS} clusters were made with {written} writes"))?;
    check_writes(&writes)?;
    time_edits(scene)
}

fn cluster(scene: &Scene<'_>, number: usize) -> Value {
    json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
        "metadata": { "name": format!("db-{number}"), "namespace": scene.namespace },
        "spec": {
            "storage": { "size": "1Gi" }, "nodeSelector": { "stand-in": "stand-ins" },
            "tolerations": [{ "key": "stand-in", "operator": "Exists" }],
        },
    })
}

fn ready_clusters(scene: &Scene<'_>) -> Result<usize, Failure> {
    let clusters = scene.get(&["quorateclusters"])?;
    let all = clusters["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(all.iter().filter(|cluster| condition(&cluster["status"], "Ready") == "True").count())
}

/// At most one write a cluster, whatever object of it was written.
fn check_writes(writes: &[String]) -> Result<(), Failure> {
    let mut counts = BTreeMap::<String, usize>::new();
    for write in writes {
        let noted: Value = serde_json::from_str(write)
            .map_err(|error| Failure::Broken(format!("the API server noted {write}: {error}")))?;
        let object = noted["objectRef"]["name"].as_str().unwrap_or_default();
        let number = object.split_once("db-").map_or(object, |(_, rest)| rest);
        let number = number.split(|character: char| !character.is_ascii_digit()).next().unwrap_or_default();
        *counts.entry(number.to_owned()).or_default() += 1;
    }
    eprintln!("  {} writes of {} clusters in {} s at rest", writes.len(), counts.len(), WINDOW.as_secs());
    let most = counts.iter().max_by_key(|(_, count)| **count);
    ensure(most.is_none_or(|(_, count)| *count <= 1), || format!("{most:?} of {writes:?}"))
}

/// How long it takes until the status tells of an edit, beside all the looks at clusters that rest.
fn time_edits(scene: &Scene<'_>) -> Result<(), Failure> {
    let mut times = Vec::new();
    for number in 0..EDITS {
        let name = format!("db-{number}");
        let patch = json!({ "spec": { "progressDeadlineSeconds": 900 } }).to_string();
        scene.run(&["patch", "quoratecluster", &name, "--type=merge", "--patch", &patch])?;
        let start = Instant::now();
        scene.await_fact("the status tells of the edit", || {
            let cluster = scene.get(&["quoratecluster", &name])?;
            Ok(cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"])
        })?;
        times.push(start.elapsed().as_millis());
    }
    times.sort_unstable();
    eprintln!(
        "  an edit is in the status after {} ms in half of the cases, {} ms at most",
        times[EDITS / 2],
        times[EDITS - 1]
    );
    Ok(())
}

/// The most that the operator in `pod` ever used of the machine's memory.
fn peak_kilobytes(scene: &Scene<'_>, pod: &str) -> Result<String, Failure> {
    let path = format!("/proc/{}/status", scene.process_of(SYSTEM, pod)?);
    let status = fs::read_to_string(&path).map_err(Failure::file(&path))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    Ok(peak.unwrap_or("?").to_owned())
}

/// What the operator says of itself.
struct Figures {
    /// The replica that acts.
    pod: String,
    /// Upper bound of each bucket of the reconciles' times, and how many were below it.
    buckets: Vec<(f64, f64)>,
    reconciles: f64,
    failures: f64,
    /// Of a processor.
    seconds: f64,
    resident_bytes: f64,
    when: Instant,
}

impl Figures {
    fn read(scene: &Scene<'_>) -> Result<Figures, Failure> {
        let selector = "--selector=app.kubernetes.io/name=quorate-operator";
        let pods = scene.kubectl.get(&["pods", "--namespace", SYSTEM, selector])?;
        let names = pods["items"].as_array().cloned().unwrap_or_default();
        for pod in names {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:8080/proxy/metrics");
            let text = scene.kubectl.output(&["get", "--raw", &path])?;
            if sum(&text, "quorate_operator_leader", "") == 1.0 {
                return Ok(Figures::of(name, &text));
            }
        }
        Err(Failure::Broken("no replica of the operator acts".to_owned()))
    }

    fn of(pod: String, text: &str) -> Figures {
        let bucket = |line: &str| {
            let rest = line.strip_prefix("quorate_operator_reconcile_duration_seconds_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            // `+Inf` is a number, too.
            Some((bound.parse().ok()?, count.parse().ok()?))
        };
        Figures {
            pod,
            buckets: text.lines().filter_map(bucket).collect(),
            reconciles: sum(text, "quorate_operator_reconcile_duration_seconds_count", ""),
            failures: sum(text, "quorate_operator_reconcile_failures_total", ""),
            seconds: sum(text, "process_cpu_seconds_total", ""),
            resident_bytes: sum(text, "process_resident_memory_bytes", ""),
            when: Instant::now(),
        }
    }

    fn print_since(&self, before: &Figures, what: &str) {
        let seconds = self.when.duration_since(before.when).as_secs_f64();
        let milliseconds = |share: f64| quantile(&before.buckets, &self.buckets, share) * 1000.0;
        eprintln!(
            "  {what}, {seconds:.0} s: {} reconciles, {} failed; half within {:.0} ms, 99 % within {:.0} ms; {:.2} processors; \
             {:.0} MB resident",
            self.reconciles - before.reconciles,
            self.failures - before.failures,
            milliseconds(0.5),
            milliseconds(0.99),
            (self.seconds - before.seconds) / seconds,
            self.resident_bytes / 1e6,
        );
    }
}

/// The time below which this share of what came in between lies, as PromQL's `histogram_quantile` computes it.
fn quantile(before: &[(f64, f64)], after: &[(f64, f64)], share: f64) -> f64 {
    // Before the first look there are no buckets.
    let earlier = before.iter().map(|(_, count)| *count).chain(std::iter::repeat(0.0));
    let between: Vec<(f64, f64)> = after.iter().zip(earlier).map(|(late, early)| (late.0, late.1 - early)).collect();
    let rank = share * between.last().map_or(0.0, |(_, all)| *all);
    let mut below = (0.0, 0.0);
    for (bound, count) in between {
        if count >= rank && count > below.1 && bound.is_finite() {
            return below.0 + (bound - below.0) * (rank - below.1) / (count - below.1);
        }
        below = if bound.is_finite() { (bound, count) } else { below };
    }
    below.0
}
