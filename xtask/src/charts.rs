//! `charts`: both charts are linted, rendered with every value that adds something, and refuse what is misspelt.
//!
//! Each helm that is pinned is asked: the third major version always, the fourth where it is built. Nothing is asked of an API server;
//! that is what the end-to-end tests do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::e2e::toolchain::Toolchain;
use crate::failure::Failure;
use crate::process::root;

/// Values with which a chart must render, and what must be in the result beside what is always there.
struct Rendering {
    chart: &'static str,
    values: &'static [&'static str],
    has: &'static [&'static str],
    has_not: &'static [&'static str],
}

const fn rendering(
    chart: &'static str,
    values: &'static [&'static str],
    has: &'static [&'static str],
    has_not: &'static [&'static str],
) -> Rendering {
    Rendering { chart, values, has, has_not }
}

const CLUSTER: &str = "quorate";
const OPERATOR: &str = "quorate-operator";

const RENDERINGS: &[Rendering] = &[
    rendering(
        CLUSTER,
        &[],
        &["kind: QuorateCluster", "replicas: 3", "paused: false", "cpu: 100m"],
        &["kind: PrometheusRule", "kind: ConfigMap", "kind: NetworkPolicy"],
    ),
    rendering(CLUSTER, &["replicas=null"], &["kind: QuorateCluster"], &["replicas:"]),
    rendering(CLUSTER, &["replicas=5", "name=other"], &["replicas: 5", "name: other"], &["name: release\n"]),
    rendering(
        CLUSTER,
        &["monitoring.podMonitor=true", "monitoring.prometheusRule=true", "monitoring.dashboard=true"],
        &[
            "podMonitor: true",
            "kind: PrometheusRule",
            "alert: QuorateNoLeader",
            "pod=~\"release-[0-9]+\"",
            "grafana_dashboard:",
        ],
        // The placeholder of the rules' file.
        &["{CLUSTER}"],
    ),
    rendering(
        CLUSTER,
        &[
            "monitoring.prometheusRule=true",
            "monitoring.labels.team=a",
            "monitoring.runbookPrefix=https://example.org/",
            "testImage=registry.example/quorate:test",
        ],
        &[
            "team: a",
            "https://example.org/docs/runbooks/QuorateNoLeader.md",
            "image: \"registry.example/quorate:test\"",
        ],
        &["runbook_url: docs"],
    ),
    rendering(
        CLUSTER,
        &["networkPolicy.enabled=true", "networkPolicy.clients[0].podSelector.matchLabels.role=client"],
        &["kind: NetworkPolicy", "role: client", "app.kubernetes.io/component: test\n      ports:"],
        &[],
    ),
    rendering(
        CLUSTER,
        &["autoCompaction.mode=Revision", "autoCompaction.retention=10000000"],
        &["mode: \"Revision\"", "retention: \"10000000\""],
        &[],
    ),
    rendering(
        CLUSTER,
        &[
            "image=registry.example/quorate:1",
            "imagePullSecrets[0].name=pull",
            "storage.storageClassName=fast",
            "storage.quota=4Gi",
            "resources.limits.memory=1Gi",
            "nodeSelector.disk=ssd",
            "tolerations[0].operator=Exists",
            "topologySpreadConstraints[0].maxSkew=1",
            "affinity.nodeAffinity.x=y",
            "priorityClassName=high",
            "additionalMetadata.labels.team=a",
            "volumeRetention=Delete",
            "updateStrategy=Supervised",
        ],
        &[
            "image: \"registry.example/quorate:1\"",
            "- name: pull",
            "storageClassName: fast",
            "quota: \"4Gi\"",
            "memory: 1Gi",
            "disk: ssd",
            "operator: Exists",
            "maxSkew: 1",
            "nodeAffinity:",
            "priorityClassName: high",
            "team: a",
            "volumeRetention: Delete",
            "updateStrategy: Supervised",
        ],
        &[],
    ),
    rendering(
        OPERATOR,
        &[],
        &[
            "kind: CustomResourceDefinition",
            "helm.sh/resource-policy: keep",
            "kind: ClusterRole\n",
            "kind: PodDisruptionBudget",
            "image: \"quorate:",
        ],
        &["kind: PodMonitor", "kind: PrometheusRule", "kind: NetworkPolicy", "--namespace="],
    ),
    rendering(OPERATOR, &["crds.install=false"], &["kind: Deployment"], &["kind: CustomResourceDefinition"]),
    rendering(OPERATOR, &["crds.keep=false"], &["kind: CustomResourceDefinition"], &["helm.sh/resource-policy"]),
    rendering(OPERATOR, &["namespaced=true"], &["--namespace=space", "kind: Role\n"], &["kind: ClusterRole"]),
    rendering(
        OPERATOR,
        &[
            "monitoring.podMonitor=true",
            "monitoring.prometheusRule=true",
            "monitoring.runbookPrefix=https://example.org/",
            "networkPolicy.enabled=true",
        ],
        &[
            "kind: PodMonitor",
            "kind: PrometheusRule",
            "alert: QuorateOperatorAbsent",
            "https://example.org/docs/runbooks/QuorateOperatorAbsent.md",
            "kind: NetworkPolicy",
        ],
        &[],
    ),
    rendering(
        OPERATOR,
        &[
            "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "image.repository=registry.example/quorate",
            "replicas=1",
            "podDisruptionBudget.enabled=false",
            "commonLabels.team=a",
            "podAnnotations.note=b",
            "serviceAccount.name=own",
            "priorityClassName=high",
        ],
        &[
            "registry.example/quorate@sha256:0123",
            "--image=registry.example/quorate",
            "team: a",
            "note: b",
            "serviceAccountName: own",
            "priorityClassName: high",
        ],
        &["kind: PodDisruptionBudget"],
    ),
];

/// Values that are spelt right and mean nothing.
const REFUSED: &[(&str, &str)] = &[
    (CLUSTER, "replicas=4"),
    (CLUSTER, "replicas=three"),
    (CLUSTER, "volumeRetention=Keep"),
    (CLUSTER, "updateStrategy=Manual"),
    (CLUSTER, "imagePullPolicy=Sometimes"),
    (CLUSTER, "paused=maybe"),
    (CLUSTER, "progressDeadlineSeconds=1"),
    (CLUSTER, "raft.electionTimeoutMilliseconds=1"),
    (CLUSTER, "autoCompaction.mode=Never"),
    // With what is kept by default, which is a duration.
    (CLUSTER, "autoCompaction.mode=Revision"),
    (CLUSTER, "autoCompaction.retention=soon"),
    (CLUSTER, "storage.size="),
    (CLUSTER, "storage.quota=much"),
    (CLUSTER, "monitoring.runbookPrefix=docs"),
    (CLUSTER, "imagePullSecrets[0].nam=pull"),
    (CLUSTER, "name=a-name-that-is-longer-than-forty-characters"),
    (OPERATOR, "replicas=0"),
    (OPERATOR, "image.digest=latest"),
    (OPERATOR, "image.repository="),
    (OPERATOR, "namespaced=maybe"),
];

/// # Errors
/// [`Failure::Broken`] if a chart does not keep what is said above; [`Failure::Skipped`] without Go, from which helm is built.
pub(crate) fn check() -> Result<(), Failure> {
    let mut helms = vec![Toolchain::helm()?];
    match Toolchain::built_helm_4()? {
        Some(helm) => helms.push(helm),
        None => eprintln!("xtask: helm 4 is not built yet, so the charts are rendered by helm 3 alone"),
    }
    for helm in &helms {
        let mut checks = 0;
        for chart in [CLUSTER, OPERATOR] {
            lint(helm, chart)?;
            checks += 1 + refuse_typos(helm, chart)?;
        }
        for (chart, value) in REFUSED {
            refuse(helm, chart, value)?;
        }
        for expected in RENDERINGS {
            expected.check(helm)?;
        }
        println!("{}: {} checks", helm.display(), checks + REFUSED.len() + RENDERINGS.len());
    }
    Ok(())
}

impl Rendering {
    fn check(&self, helm: &Path) -> Result<(), Failure> {
        let what = format!("{} with {:?}", self.chart, self.values);
        let text = render(helm, self.chart, self.values).map_err(|said| Failure::Broken(format!("{what}: {said}")))?;
        for part in self.has {
            if !text.contains(part) {
                return Err(Failure::Broken(format!("{what} renders without {part:?}")));
            }
        }
        match self.has_not.iter().find(|part| text.contains(**part)) {
            Some(part) => Err(Failure::Broken(format!("{what} renders with {part:?}"))),
            None => Ok(()),
        }
    }
}

fn lint(helm: &Path, chart: &str) -> Result<(), Failure> {
    let mut lint = Command::new(helm);
    lint.args(["lint", "--strict", "--quiet"]).arg(folder(chart));
    output(&mut lint).map(drop).map_err(|said| Failure::Broken(format!("helm lint --strict {chart}: {said}")))
}

/// Every object of the schema refuses a key that it does not know: each is tried with one. Gives how many there are.
fn refuse_typos(helm: &Path, chart: &str) -> Result<usize, Failure> {
    let path = folder(chart).join("values.schema.json");
    let text = fs::read_to_string(&path).map_err(Failure::file(&path))?;
    let schema: Value = serde_json::from_str(&text).map_err(|error| Failure::Broken(format!("{chart}: {error}")))?;
    let mut objects = Vec::new();
    closed_objects(&schema, "", &mut objects);
    for object in &objects {
        refuse(helm, chart, &format!("{object}typo=1"))?;
    }
    Ok(objects.len())
}

/// Prefix of every object whose keys the schema names.
fn closed_objects(schema: &Value, prefix: &str, found: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    found.push(prefix.to_owned());
    for (name, inner) in properties {
        closed_objects(inner, &format!("{prefix}{name}."), found);
    }
}

fn refuse(helm: &Path, chart: &str, value: &str) -> Result<(), Failure> {
    let said = render(helm, chart, &[value]).err().unwrap_or_default();
    // Refused by the schema, and not because the template or the command line fails on it.
    if said.contains("don't meet the specifications of the schema") {
        return Ok(());
    }
    Err(Failure::Broken(format!("{chart} does not refuse --set {value}: {said}")))
}

fn render(helm: &Path, chart: &str, values: &[&str]) -> Result<String, String> {
    let mut template = Command::new(helm);
    template.args(["template", "release"]).arg(folder(chart)).args([
        "--namespace",
        "space",
        "--kube-version",
        "1.34.0",
    ]);
    for value in values {
        template.args(["--set", value]);
    }
    output(&mut template)
}

fn folder(chart: &str) -> PathBuf {
    root().join("charts").join(chart)
}

/// What a command prints, or what it says when it fails.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(text(&output.stderr) + &text(&output.stdout))
}
