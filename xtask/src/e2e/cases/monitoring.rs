//! That Prometheus sees what the dashboard shows and the alerts watch.

use std::collections::BTreeSet;
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
const CHARTS: [&str; 2] = ["quorate", "quorate-operator"];
/// A state reaches Prometheus with a scrape, and the operator's view of it with a look.
const ALERT_PATIENCE: Duration = Duration::from_secs(180);
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

/// Takes members and then the operator away and back: the alerts of each state fire in it, and no others.
fn alarm(scene: &Scene<'_>) -> Result<(), Failure> {
    scene.await_fact("no alert fires", || Ok(firing()?.is_empty()))?;
    // A template that fits no node: what is deleted stays away.
    scene.patch(&json!({ "updateStrategy": "Supervised", "nodeSelector": { "nowhere": "true" } }))?;
    scene.await_fact("the template is applied", || {
        Ok(scene.get(&["statefulset", "db"])?["spec"]["template"]["spec"]["nodeSelector"]["nowhere"] == "true")
    })?;
    scene.delete_pods(&["db-2"])?;
    fires(scene, "one more loss is too many", &["QuorateMembersDown", "QuorateQuorumAtRisk"])?;
    scene.delete_pods(&["db-1"])?;
    fires(scene, "nobody leads", &["QuorateClusterUnavailable", "QuorateMembersDown", "QuorateNoLeader"])?;
    scene.delete_pods(&["db-0"])?;
    fires(scene, "nobody is there", &["QuorateClusterAbsent", "QuorateClusterUnavailable"])?;
    let operators = ["scale", "deployment/quorate-operator", "--namespace", SYSTEM];
    scene.kubectl.output(&[&operators[..], &["--replicas=0"]].concat())?;
    let absent = fires(scene, "no operator is there either", &["QuorateClusterAbsent", "QuorateOperatorAbsent"]);
    scene.kubectl.output(&[&operators[..], &["--replicas=2"]].concat())?;
    absent?;
    scene.patch(&json!({ "updateStrategy": "Unsupervised", "nodeSelector": null }))?;
    scene.await_ready(3)?;
    // Prometheus was told the addresses; pods have others now.
    fs::write(place::path("prometheus.yaml"), configuration(scene)?).map_err(Failure::file("prometheus.yaml"))?;
    daemon::hang_up("prometheus");
    scene.await_fact("no alert fires any more", || Ok(firing()?.is_empty()))
}

fn fires(scene: &Scene<'_>, state: &str, alerts: &[&str]) -> Result<(), Failure> {
    let mut seen = Vec::new();
    let done = scene.await_fact_within(ALERT_PATIENCE, &format!("{state}: {alerts:?} fire"), || {
        seen = firing()?;
        Ok(seen == alerts)
    });
    done.map_err(|failure| Failure::Broken(format!("{failure}; {seen:?} fire")))
}

/// Names of the alerts that fire, each once, in order.
fn firing() -> Result<Vec<String>, Failure> {
    let result = query("ALERTS{alertstate=\"firing\"}")?;
    let name = |sample: &Value| sample["metric"]["alertname"].as_str().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = result.iter().map(name).collect();
    Ok(names.into_iter().collect())
}

/// The rules as the charts ship them, but for how long a state must last before it is an alert.
fn write_rules(scene: &Scene<'_>) -> Result<(), Failure> {
    for chart in CHARTS {
        let mut text = "groups:\n".to_owned();
        for line in rules(chart)?.replace("CLUSTER", &selector(scene)).lines() {
            match line.split_once("for: ") {
                Some((indent, _)) if indent.trim().is_empty() => text.push_str(&format!("{indent}for: 3s\n")),
                _ => text.push_str(&format!("{line}\n")),
            }
        }
        let file = place::path(&format!("{chart}.rules.yaml"));
        fs::write(&file, text).map_err(Failure::file(&file))?;
    }
    Ok(())
}

fn rules(chart: &str) -> Result<String, Failure> {
    read(&root().join("charts").join(chart).join("files/rules.yaml"))
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
    let metrics = metrics_of(&expressions);
    let mut unknown = Vec::new();
    for metric in &metrics {
        if !RARE.iter().any(|rare| metric.starts_with(rare)) && values(metric)?.is_empty() {
            unknown.push(metric);
        }
    }
    eprintln!("  {} expressions over {} metrics", expressions.len(), metrics.len());
    ensure(unknown.is_empty(), || format!("no member and no operator has these: {unknown:#?}"))?;
    ensure(empty.is_empty(), || format!("these show nothing: {empty:#?}"))
}

/// Names of Quorate's own metrics in all expressions.
fn metrics_of(expressions: &[(bool, String)]) -> BTreeSet<String> {
    let words = |text: &str| -> Vec<String> {
        text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').map(str::to_owned).collect()
    };
    let all = expressions.iter().flat_map(|(_, expression)| words(expression));
    all.filter(|word| word.starts_with("quorate_")).collect()
}

/// Every expression of dashboard and alerts. Those of the dashboard must show something.
fn expressions(scene: &Scene<'_>) -> Result<Vec<(bool, String)>, Failure> {
    let selector = selector(scene);
    let mut all = Vec::new();
    for chart in CHARTS {
        let rules = rules(chart)?;
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
    let result = query(expression)?;
    Ok(result.iter().map(|sample| sample["value"][1].as_str().unwrap_or_default().to_owned()).collect())
}

/// Samples of an instant query.
fn query(expression: &str) -> Result<Vec<Value>, Failure> {
    let path = format!("/api/v1/query?query={}", percent_encoded(expression));
    let answer = request_once(ADDRESS.into(), "GET", &path)
        .map_err(|problem| Failure::Broken(format!("{expression}: {problem}")))?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| Failure::Broken(error.to_string()))?;
    Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
}

fn start(scene: &Scene<'_>) -> Result<(), Failure> {
    let config = place::path("prometheus.yaml");
    write_rules(scene)?;
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
        "global": { "scrape_interval": "2s", "evaluation_interval": "2s" },
        "rule_files": CHARTS.map(|chart| place::text(&format!("{chart}.rules.yaml"))),
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
