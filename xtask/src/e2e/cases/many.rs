//! One operator and five hundred clusters: what it costs the API server and itself.
//!
//! The pods never run, as no node takes them: what is measured is the operator, not the clusters.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::e2e::suite::{SYSTEM, Scene, ensure, sum};
use crate::failure::Failure;

const CLUSTERS: usize = 500;
const WINDOW: Duration = Duration::from_secs(60);
/// 1,500 pods and 1,500 volume claims, through controllers that all share this machine.
const PATIENCE: Duration = Duration::from_secs(900);

pub(super) fn five_hundred_clusters_are_looked_after(scene: &Scene<'_>) -> Result<(), Failure> {
    let cluster = |number: usize| {
        json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateCluster",
            "metadata": { "name": format!("db-{number}"), "namespace": scene.namespace },
            "spec": { "nodeSelector": { "nowhere": "true" } },
        })
    };
    let items: Vec<Value> = (0..CLUSTERS).map(cluster).collect();
    scene.kubectl.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())?;
    let start = Instant::now();
    scene.await_fact_within(PATIENCE, "every cluster has its pods", || {
        sleep(Duration::from_secs(2));
        let clusters = scene.get(&["quorateclusters"])?;
        let all = clusters["items"].as_array().cloned().unwrap_or_default();
        Ok(all.iter().filter(|cluster| cluster["status"]["replicas"] == 3).count() == CLUSTERS)
    })?;
    eprintln!("  {CLUSTERS} clusters have their pods after {} s", start.elapsed().as_secs());
    // The pauses between looks grow while nothing happens.
    sleep(WINDOW);
    let before = Figures::read(scene)?;
    sleep(WINDOW);
    let after = Figures::read(scene)?;
    let looks = after.reconciles - before.reconciles;
    let milliseconds = (after.seconds - before.seconds) / looks.max(1.0) * 1000.0;
    let writes = after.writes - before.writes;
    let within = |share: f64| quantile(&before.buckets, &after.buckets, share);
    eprintln!(
        "  in {} s: {looks} reconciles of {milliseconds:.1} ms in the mean, half within {} s, 99 % within {} s; {writes} writes of \
         clusters; {:.0} MB resident, {} kB at most",
        WINDOW.as_secs(),
        within(0.5),
        within(0.99),
        after.resident_bytes / 1e6,
        peak_kilobytes(scene, &after.pod)?
    );
    // One write a cluster in ten minutes.
    let allowed = CLUSTERS as f64 * WINDOW.as_secs_f64() / 600.0;
    ensure(writes <= allowed, || format!("{writes} writes while nothing happened"))
}

/// The bound of the histogram's bucket below which this share of what came in between lies.
fn quantile(before: &[(String, f64)], after: &[(String, f64)], share: f64) -> String {
    let count = |(late, early): (&(String, f64), &(String, f64))| (late.0.clone(), late.1 - early.1);
    let between: Vec<(String, f64)> = after.iter().zip(before).map(count).collect();
    let all = between.last().map_or(0.0, |(_, count)| *count);
    let bucket = between.into_iter().find(|(_, count)| *count >= share * all);
    bucket.map_or_else(String::new, |(bound, _)| bound)
}

/// The most that the operator in `pod` ever used of the machine's memory.
fn peak_kilobytes(scene: &Scene<'_>, pod: &str) -> Result<String, Failure> {
    let path = format!("/proc/{}/status", scene.process_of(SYSTEM, pod)?);
    let status = fs::read_to_string(&path).map_err(Failure::file(&path))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    Ok(peak.unwrap_or("?").to_owned())
}

struct Figures {
    /// The one that acts.
    pod: String,
    /// Upper bound of each bucket of the reconciles' times, and how many were below it.
    buckets: Vec<(String, f64)>,
    reconciles: f64,
    seconds: f64,
    resident_bytes: f64,
    writes: f64,
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
                let server = scene.kubectl.output(&["get", "--raw", "/metrics"])?;
                let writes = ["PATCH", "PUT", "APPLY"].map(|verb| {
                    sum(
                        &server,
                        "apiserver_request_total{",
                        &format!(
                            "resource=\"quorateclusters\",scope=\"resource\",subresource=\"status\",verb=\"{verb}\""
                        ),
                    )
                });
                let bucket = |line: &str| {
                    let rest = line.strip_prefix("quorate_operator_reconcile_duration_seconds_bucket{le=\"")?;
                    let (bound, count) = rest.split_once("\"} ")?;
                    Some((bound.to_owned(), count.parse().ok()?))
                };
                return Ok(Figures {
                    pod: name,
                    buckets: text.lines().filter_map(bucket).collect(),
                    reconciles: sum(&text, "quorate_operator_reconcile_duration_seconds_count", ""),
                    seconds: sum(&text, "quorate_operator_reconcile_duration_seconds_sum", ""),
                    resident_bytes: sum(&text, "process_resident_memory_bytes", ""),
                    writes: writes.iter().sum(),
                });
            }
        }
        Err(Failure::Broken("no replica of the operator acts".to_owned()))
    }
}
