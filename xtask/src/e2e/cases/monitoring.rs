//! That Prometheus sees what the dashboard shows and the alerts watch.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::e2e::daemon;
use crate::e2e::place;
use crate::e2e::suite::{SYSTEM, Scene, ensure};
use crate::e2e::writer::{Writer, request_once};
use crate::failure::Failure;
use crate::process::{is_in_path, root};

const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 42290);
const BINARY: &str = "/usr/bin/prometheus";

/// Metrics that a cluster shows only once something rare has happened to it.
const RARE: [&str; 1] = ["quorate_read_staleness_seconds"];

pub(super) fn prometheus_sees_what_is_shown(scene: &Scene<'_>) -> Result<(), Failure> {
    if !is_in_path("prometheus") {
        return Err(Failure::Skipped("there is no prometheus; install the package prometheus".to_owned()));
    }
    scene.install(&[])?;
    start(scene)?;
    let writer = Writer::start(scene.service()?, "metrics");
    let result = look(scene);
    daemon::stop("prometheus");
    writer.finish()?;
    result
}

fn look(scene: &Scene<'_>) -> Result<(), Failure> {
    let up = format!("count(up{{namespace=~\"{}|{SYSTEM}\"}} == 1)", scene.namespace);
    // Three members and two replicas of the operator.
    scene.await_fact("every target is up", || Ok(values(&up)?.first().is_some_and(|value| value == "5")))?;
    // Rates need two scrapes.
    scene.await_fact("rates are known", || Ok(!values("rate(quorate_writes_total[30s])")?.is_empty()))?;
    let mut empty = Vec::new();
    let expressions = expressions(scene)?;
    for (wanted, expression) in &expressions {
        let found = values(expression)?;
        if *wanted && found.is_empty() && !RARE.iter().any(|rare| expression.contains(rare)) {
            empty.push(expression.as_str());
        }
    }
    eprintln!("  {} expressions", expressions.len());
    ensure(empty.is_empty(), || format!("these show nothing: {empty:#?}"))
}

/// Every expression of dashboard and alerts. Those of the dashboard must show something.
fn expressions(scene: &Scene<'_>) -> Result<Vec<(bool, String)>, Failure> {
    let selector = format!("namespace=\"{}\",pod=~\"db-[0-9]+\"", scene.namespace);
    let mut all = Vec::new();
    for chart in ["quorate", "quorate-operator"] {
        let rules = read(&root().join("charts").join(chart).join("files/rules.yaml"))?;
        let expressions = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
        all.extend(expressions.map(|expression| (false, expression.replace("CLUSTER", &selector))));
    }
    let dashboard = read(&root().join("charts/quorate/files/dashboard.json"))?;
    let dashboard: Value =
        serde_json::from_str(&dashboard).map_err(|error| Failure::Broken(format!("the dashboard: {error}")))?;
    let panels = dashboard["panels"].as_array().cloned().unwrap_or_default();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let chosen = |target: Value| {
        let expression = target["expr"].as_str().unwrap_or_default().to_owned();
        let expression = expression.replace("$namespace", &scene.namespace).replace("$cluster", "db");
        (true, expression.replace("$__rate_interval", "30s"))
    };
    all.extend(targets.map(chosen));
    Ok(all)
}

/// Values of an instant query.
fn values(expression: &str) -> Result<Vec<String>, Failure> {
    let path = format!("/api/v1/query?query={}", percent_encoded(expression));
    let answer = request_once(ADDRESS.into(), "GET", &path)
        .map_err(|problem| Failure::Broken(format!("{expression}: {problem}")))?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| Failure::Broken(error.to_string()))?;
    let result = answer["data"]["result"].as_array().cloned().unwrap_or_default();
    Ok(result.iter().map(|sample| sample["value"][1].as_str().unwrap_or_default().to_owned()).collect())
}

fn start(scene: &Scene<'_>) -> Result<(), Failure> {
    let config = place::path("prometheus.yaml");
    fs::write(&config, configuration(scene)).map_err(Failure::file(&config))?;
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", place::text("prometheus")),
        format!("--web.listen-address=127.0.0.1:{}", ADDRESS.1),
    ];
    daemon::start("prometheus", Path::new(BINARY), &arguments)?;
    daemon::await_ready("prometheus", Duration::from_secs(60), || {
        request_once(ADDRESS.into(), "GET", "/-/ready").is_ok()
    })
}

/// Pods with a port named `metrics`, labelled as a PodMonitor would.
fn configuration(scene: &Scene<'_>) -> String {
    format!(
        "global: {{scrape_interval: 2s}}
scrape_configs:
  - job_name: pods
    kubernetes_sd_configs:
      - role: pod
        kubeconfig_file: {}
        namespaces: {{names: [{}, {SYSTEM}]}}
    relabel_configs:
      - {{source_labels: [__meta_kubernetes_pod_container_port_name], regex: metrics, action: keep}}
      - {{source_labels: [__meta_kubernetes_namespace], target_label: namespace}}
      - {{source_labels: [__meta_kubernetes_pod_name], target_label: pod}}
",
        place::text("admin.kubeconfig"),
        scene.namespace
    )
}

fn read(path: &PathBuf) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(Failure::file(path))
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
