//! What the tests share: the cluster, waiting for facts, and what is shown when a fact does not come true.

use std::cell::Cell;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cases::Case;
use super::daemon;
use super::datastore::{Absence, Datastore};
use super::images::{IMAGE, TAGS};
use super::kubectl::Kubectl;
use super::node::ctr;
use super::toolchain::Toolchain;
use super::volumes::{self, VOLUMES_A_TEST};
use crate::failure::Failure;
use crate::process::root;

/// Long, for a machine that is busy with other things; a fact that never comes true is what fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// The same, for helm.
pub(super) const HELM_PATIENCE: &str = "600s";
const POLL: Duration = Duration::from_millis(250);
/// Namespace of the operator.
pub(super) const SYSTEM: &str = "quorate-system";

/// Values for a cluster that keeps its leader while the machine stalls for a moment, where a test is about something else than
/// elections.
pub(super) const CALM: [&str; 2] = ["raft.electionTimeoutMilliseconds=5000", "raft.heartbeatIntervalMilliseconds=250"];

/// The cluster under test, and where its parts are.
pub(super) struct Suite {
    pub(super) kubectl: Kubectl,
    datastore: Datastore,
    binaries: PathBuf,
    turn: Cell<u16>,
}

/// One test's own namespace, with a Quorate cluster named `db` in it.
pub(super) struct Scene<'a> {
    pub(super) kubectl: &'a Kubectl,
    pub(super) namespace: String,
}

impl Suite {
    pub(super) fn new(tools: &Toolchain, datastore: Datastore, binaries: &Path) -> Self {
        Suite { kubectl: Kubectl::new(tools), datastore, binaries: binaries.to_owned(), turn: Cell::new(0) }
    }

    /// Runs one test, while a node of the datastore is away for a moment if it can spare one.
    pub(super) fn run(&self, case: &Case) -> Result<(), Failure> {
        let turn = self.turn.replace(self.turn.get() + 1);
        let absence = self.datastore.disturb(&self.binaries, turn);
        let result = self.run_undisturbed(case);
        let back = absence.map_or(Ok(()), Absence::end);
        result.and(back)
    }

    /// In a namespace of its own, which is removed if the test passed.
    fn run_undisturbed(&self, case: &Case) -> Result<(), Failure> {
        let scene = Scene { kubectl: &self.kubectl, namespace: namespace_of(case) };
        let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": scene.namespace, "labels": labels },
        });
        self.kubectl.apply(&namespace.to_string())?;
        volumes::make(&self.kubectl, case.name, 0..VOLUMES_A_TEST)?;
        if case.needs_operator {
            install_operator(&self.kubectl)?;
        }
        (case.run)(&scene)?;
        self.clean(&scene, case.name);
        Ok(())
    }

    fn clean(&self, scene: &Scene<'_>, test: &str) {
        // Best effort: what stays disturbs no other test, and everything goes with the run.
        let _ = scene.run(&["delete", "quorateclusters", "--all", "--wait=false", "--ignore-not-found"]);
        let _ = self.kubectl.output(&["delete", "namespace", &scene.namespace, "--wait=false"]);
        volumes::remove(&self.kubectl, test);
    }

    /// Everything a person would look at first, of a test that failed.
    pub(super) fn print_state(&self, case: &Case) {
        let namespace = namespace_of(case);
        let own = ["--namespace", &namespace];
        let operator = ["logs", "--namespace", SYSTEM, "--selector=app.kubernetes.io/name=quorate-operator"];
        self.print(&["get", "nodes,persistentvolumes", "-o", "wide"]);
        self.print(&["get", "pods,persistentvolumeclaims,statefulsets", "--all-namespaces", "-o", "wide"]);
        self.print(
            &[&["get", "services,endpointslices,poddisruptionbudgets,jobs"][..], &own, &["-o", "wide"]].concat(),
        );
        self.print(&[&["get", "quorateclusters", "-o", "yaml"][..], &own].concat());
        self.print(&["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"]);
        self.print(&[&operator[..], &["--prefix", "--tail=60"]].concat());
        let pods = self.kubectl.output(&[&["get", "pods", "-o", "name"][..], &own].concat()).unwrap_or_default();
        for pod in pods.lines() {
            // A container that waits for another has said nothing, and must not hide what the other said.
            let logs = ["logs", pod, "--all-containers", "--ignore-errors", "--tail=40"];
            self.print(&[&logs[..], &own].concat());
            // What a container said before it was started again; most were not.
            if let Ok(text) = self.kubectl.output(&[&["logs", pod, "--previous", "--tail=40"][..], &own].concat()) {
                eprintln!("---- {pod}, before its restart\n{text}");
            }
        }
        daemon::print_logs();
    }

    fn print(&self, arguments: &[&str]) {
        match self.kubectl.output(arguments) {
            Ok(text) => eprintln!("---- kubectl {}\n{}", arguments.join(" "), last_lines(&text, 120)),
            Err(failure) => eprintln!("---- {failure}"),
        }
    }
}

impl Scene<'_> {
    /// kubectl in the test's namespace.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.kubectl.output(&[&["--namespace", &self.namespace], arguments].concat())
    }

    /// An object of the test's namespace.
    pub(super) fn get(&self, arguments: &[&str]) -> Result<Value, Failure> {
        self.kubectl.get(&[&["--namespace", &self.namespace], arguments].concat())
    }

    /// Installs the cluster chart as `db`, with these values, and waits until every member takes part.
    pub(super) fn install(&self, values: &[&str]) -> Result<(), Failure> {
        self.install_without_waiting(values)?;
        self.await_ready(3)
    }

    /// Another release of the operator, in the test's namespace but for all of them.
    pub(super) fn install_second_operator(&self) -> Result<(), Failure> {
        let chart = chart("quorate-operator");
        let (image, tag) = (format!("image.repository={IMAGE}"), format!("image.tag={}", TAGS[0]));
        let arguments = [
            "install",
            "second",
            &chart,
            "--namespace",
            &self.namespace,
            "--set",
            &image,
            "--set",
            &tag,
            "--set",
            "crds.install=false",
            "--wait",
            "--timeout",
            HELM_PATIENCE,
        ];
        self.kubectl.helm(&arguments).map(drop)
    }

    pub(super) fn install_without_waiting(&self, values: &[&str]) -> Result<(), Failure> {
        let chart = chart("quorate");
        let image = format!("image={IMAGE}:{}", TAGS[0]);
        let mut arguments = vec![
            "upgrade",
            "--install",
            "db",
            &chart,
            "--namespace",
            &self.namespace,
            "--set",
            &image,
            "--set",
            "storage.size=1Gi",
        ];
        for value in values {
            arguments.extend(["--set", value]);
        }
        self.kubectl.helm(&arguments).map(drop)
    }

    /// Changes the cluster's spec as a user with `kubectl patch` would.
    pub(super) fn patch(&self, spec: &Value) -> Result<(), Failure> {
        let patch = json!({ "spec": spec }).to_string();
        self.run(&["patch", "quoratecluster", "db", "--type=merge", "--patch", &patch]).map(drop)
    }

    /// The cluster's status.
    pub(super) fn status(&self) -> Result<Value, Failure> {
        Ok(self.get(&["quoratecluster", "db"])?["status"].clone())
    }

    /// More volumes, for a test that uses up many: the `round`th few of them.
    pub(super) fn add_volumes(&self, round: usize) -> Result<(), Failure> {
        let first = round * VOLUMES_A_TEST;
        volumes::make(self.kubectl, &self.namespace.replace('-', "_"), first..first + VOLUMES_A_TEST)
    }

    /// Waits until the resource says that it is as specified, with this many members.
    pub(super) fn await_ready(&self, members: usize) -> Result<(), Failure> {
        self.await_fact(&format!("{members} members and Ready"), || {
            let cluster = self.get(&["quoratecluster", "db"])?;
            let status = &cluster["status"];
            let current = status["observedGeneration"] == cluster["metadata"]["generation"];
            let voters = status["members"].as_array().map_or(0, Vec::len);
            Ok(current && voters == members && condition(status, "Ready") == "True")
        })
    }

    /// Waits until `fact` holds.
    pub(super) fn await_fact(&self, what: &str, fact: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
        self.await_fact_within(PATIENCE, what, fact)
    }

    pub(super) fn await_fact_within(
        &self,
        patience: Duration,
        what: &str,
        mut fact: impl FnMut() -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            // While a cluster changes, looking at it may fail as well.
            let seen = fact();
            if matches!(seen, Ok(true)) {
                return Ok(());
            }
            if start.elapsed() > patience {
                let saw = seen.err().map(|failure| format!("; last: {failure}")).unwrap_or_default();
                return Err(Failure::Broken(format!("after {} s still not: {what}{saw}", patience.as_secs())));
            }
            sleep(POLL);
        }
    }

    /// Address of the client Service.
    pub(super) fn service(&self) -> Result<SocketAddr, Failure> {
        let service = self.get(&["service", "db"])?;
        let host = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        let address = (host.as_str(), 2379_u16).to_socket_addrs().ok().and_then(|mut all| all.next());
        address.ok_or_else(|| Failure::Broken(format!("the Service has no address: {host:?}")))
    }

    /// Ids of the members, as the status lists them.
    pub(super) fn member_ids(&self) -> Result<Vec<Value>, Failure> {
        let status = self.status()?;
        let members = status["members"].as_array().cloned().unwrap_or_default();
        Ok(members.iter().map(|member| member["id"].clone()).collect())
    }

    /// Process id, on this machine, of what runs in `pod`.
    pub(super) fn process_of(&self, namespace: &str, pod: &str) -> Result<String, Failure> {
        let id =
            self.kubectl.get(&["pod", pod, "--namespace", namespace])?["status"]["containerStatuses"][0]["containerID"]
                .clone();
        let id = id.as_str().and_then(|id| id.strip_prefix("containerd://")).unwrap_or_default().to_owned();
        let listed = ctr(&["task", "list"]).output().map_err(Failure::file("ctr"))?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let line = listed.lines().find(|line| line.starts_with(&id) && !id.is_empty());
        let pid = line.and_then(|line| line.split_whitespace().nth(1));
        pid.map(str::to_owned).ok_or_else(|| Failure::Broken(format!("{pod} has no running container")))
    }

    /// Deletes these pods of `db` and waits until they are gone; one that has the same name is another. (The wait of
    /// kubectl itself was seen not to end for minutes, with pods that their set had made again at once.)
    pub(super) fn delete_pods(&self, names: &[&str]) -> Result<(), Failure> {
        let pods = self.pods()?;
        let ours: Vec<&String> = pods.iter().filter(|pod| names.contains(&pod.0.as_str())).map(|pod| &pod.1).collect();
        ensure(ours.len() == names.len(), || format!("not all of {names:?} are there: {pods:?}"))?;
        self.run(&[&["delete", "pods", "--wait=false"][..], names].concat())?;
        self.await_fact(&format!("{names:?} are gone"), || Ok(self.pods()?.iter().all(|pod| !ours.contains(&&pod.1))))
    }

    /// What a member tells Prometheus.
    pub(super) fn metrics(&self, pod: &str) -> Result<String, Failure> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:2381/proxy/metrics", self.namespace);
        self.kubectl.output(&["get", "--raw", &path])
    }

    /// Uid and number of container restarts of each pod, by name: equal before and after means that none was restarted.
    pub(super) fn pods(&self) -> Result<Vec<(String, String, u64)>, Failure> {
        let list = self.get(&["pods", "--selector=app.kubernetes.io/instance=db,app.kubernetes.io/name=quorate"])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0);
        Ok(items.iter().map(|p| (text(&p["metadata"]["name"]), text(&p["metadata"]["uid"]), restarts(p))).collect())
    }
}

fn namespace_of(case: &Case) -> String {
    case.name.replace('_', "-")
}

/// Installs the operator's chart, or does nothing if it is there.
pub(super) fn install_operator(kubectl: &Kubectl) -> Result<(), Failure> {
    let chart = chart("quorate-operator");
    let image = format!("image.repository={IMAGE}");
    let tag = format!("image.tag={}", TAGS[0]);
    let arguments = [
        "upgrade",
        "--install",
        "quorate-operator",
        &chart,
        "--namespace",
        SYSTEM,
        "--create-namespace",
        "--set",
        &image,
        "--set",
        &tag,
        "--wait",
        "--timeout",
        HELM_PATIENCE,
    ];
    kubectl.helm(&arguments).map(drop)
}

/// Status of a condition; empty if there is none.
pub(super) fn condition(status: &Value, kind: &str) -> String {
    of_condition(status, kind, "status")
}

/// What a condition says to people.
pub(super) fn message(status: &Value, kind: &str) -> String {
    of_condition(status, kind, "message")
}

fn of_condition(status: &Value, kind: &str, field: &str) -> String {
    let all = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = all.iter().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition[field].as_str()).unwrap_or_default().to_owned()
}

/// A test's assertion.
pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::Broken(what())) }
}

/// Sum of the samples of a metric that have these labels.
pub(super) fn sum(text: &str, metric: &str, labels: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(metric) && line.contains(labels));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Folder of a chart.
pub(super) fn chart(name: &str) -> String {
    let folder: PathBuf = root().join("charts").join(name);
    folder.display().to_string()
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
