//! That Prometheus sees what the dashboard shows and the alerts watch.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::e2e::daemon;
use crate::e2e::place;
use crate::e2e::suite::{SYSTEM, Scene, ensure};
use crate::e2e::writer::{Writer, request_once};
use crate::failure::Failure;
use crate::process::{is_in_path, root};

const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 16290);
const BINARY: &str = "/usr/bin/prometheus";

/// Metrics that a cluster shows only once something rare has happened to it.
const RARE: [&str; 4] = [
    "quorate_read_staleness_seconds",
    "quorate_raft_campaigns_total",
    "quorate_limits_hit_total",
    "quorate_snapshots_",
];

pub(super) fn prometheus_sees_what_is_shown(scene: &Scene<'_>) -> Result<(), Failure> {
    if !is_in_path("prometheus") {
        return Err(Failure::Skipped("there is no prometheus; install the package prometheus".to_owned()));
    }
    scene.install(&[])?;
    start(scene)?;
    let writer = Writer::start(scene.service()?, "metrics");
    let result = look(scene).and_then(|()| alarm(scene));
    daemon::stop("prometheus");
    writer.finish()?;
    result
}

/// Takes members away and back: the alerts of each state hold in it, and in no better one.
fn alarm(scene: &Scene<'_>) -> Result<(), Failure> {
    let alerts = ["QuorateMembersDown", "QuorateQuorumAtRisk", "QuorateNoLeader"];
    let holding = || -> Result<Vec<&str>, Failure> {
        let mut holding = Vec::new();
        for alert in alerts {
            if !values(&expression_of(scene, alert)?)?.is_empty() {
                holding.push(alert);
            }
        }
        Ok(holding)
    };
    scene.await_fact("no alert holds", || Ok(holding()?.is_empty()))?;
    // A template that fits no node: what is deleted stays away.
    scene.patch(&json!({ "updateStrategy": "Supervised", "nodeSelector": { "nowhere": "true" } }))?;
    scene.await_fact("the template is applied", || {
        Ok(scene.get(&["statefulset", "db"])?["spec"]["template"]["spec"]["nodeSelector"]["nowhere"] == "true")
    })?;
    scene.run(&["delete", "pod", "db-2", "--wait=true"])?;
    scene.await_fact("one more loss is too many", || Ok(holding()? == alerts[..2]))?;
    scene.run(&["delete", "pod", "db-1", "--wait=true"])?;
    scene.await_fact("nobody leads", || Ok(holding()?.contains(&alerts[2])))?;
    scene.patch(&json!({ "updateStrategy": "Unsupervised", "nodeSelector": null }))?;
    scene.await_ready(3)
}

fn expression_of(scene: &Scene<'_>, alert: &str) -> Result<String, Failure> {
    let rules = read(&root().join("charts/quorate/files/rules.yaml"))?;
    let after = rules.split(&format!("alert: {alert}\n")).nth(1).unwrap_or_default();
    let expression = after.lines().find_map(|line| line.trim().strip_prefix("expr: "));
    let expression = expression.ok_or_else(|| Failure::Broken(format!("there is no alert {alert}")))?;
    Ok(expression.replace("CLUSTER", &selector(scene)))
}

fn selector(scene: &Scene<'_>) -> String {
    format!("namespace=\"{}\",pod=~\"db-[0-9]+\"", scene.namespace)
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
    let selector = selector(scene);
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
    fs::write(&config, configuration(scene)?).map_err(Failure::file(&config))?;
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

/// Every pod, labelled as a PodMonitor would. Listed one by one: a distribution's Prometheus may be built without the discovery
/// of Kubernetes.
fn configuration(scene: &Scene<'_>) -> Result<String, Failure> {
    let mut targets = Vec::new();
    for (namespace, selector, port) in [
        (scene.namespace.as_str(), "app.kubernetes.io/name=quorate", 2381),
        (SYSTEM, "app.kubernetes.io/name=quorate-operator", 8080),
    ] {
        let pods = scene.kubectl.get(&["pods", "--namespace", namespace, "--selector", selector])?;
        for pod in pods["items"].as_array().cloned().unwrap_or_default() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (name, address) = (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]));
            targets.push(json!({
                "targets": [format!("{address}:{port}")], "labels": { "namespace": namespace, "pod": name },
            }));
        }
    }
    // JSON is YAML.
    let config = json!({
        "global": { "scrape_interval": "2s" },
        "scrape_configs": [{ "job_name": "pods", "static_configs": targets }],
    });
    Ok(config.to_string())
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
