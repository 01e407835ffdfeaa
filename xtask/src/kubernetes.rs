//! `kubernetes`: the tests of Kubernetes' own storage layer, on Quorate in place of the etcd that they start.
//!
//! Owns a copy of the module `k8s.io/apiserver` in `target/clients/kubernetes`, as published but for the file that starts a server:
//! that one is `tests/clients/kubernetes/testserver.go`. What is tested and compared is Kubernetes' own; nothing is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::failure::Failure;
use crate::process::{cargo, describe, exists, root, run as run_program, target_folder};

/// Versions of Kubernetes, one folder each in `tests/clients/kubernetes`: the one of the end-to-end tests, and the newest, which
/// asks for streamed ranges.
const VERSIONS: [&str; 2] = ["1.34", "1.37"];

const MODULE: &str = "k8s.io/apiserver";
/// What starts an etcd in the tests, within the module.
const TEST_SERVER: &str = "pkg/storage/etcd3/testserver/test_server.go";
/// Packages whose tests ask an etcd, within the module.
const PACKAGES: [&str; 6] = [
    "pkg/storage/etcd3/...",
    "pkg/storage/cacher/...",
    "pkg/storage/storagebackend/factory",
    "pkg/storage/feature",
    "pkg/registry/generic/registry",
    "pkg/reconcilers",
];

/// Options of `kubernetes`.
#[derive(clap::Args)]
pub(crate) struct KubernetesArgs {
    /// Only these versions of Kubernetes, of 1.34 and 1.37
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(VERSIONS))]
    only: Vec<String>,
    /// Nodes that each test finds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: u16,
    /// On the etcd that the tests bring, for comparison
    #[arg(long)]
    etcd: bool,
    /// Only tests whose names fit, as `go test -run` has it
    #[arg(long, value_name = "PATTERN")]
    run: Option<String>,
}

pub(crate) fn run(args: &KubernetesArgs) -> Result<(), Failure> {
    if !exists("go", "version") {
        return Err(Failure::Skipped("Kubernetes' tests are built by Go, and there is no `go` on this machine".into()));
    }
    if !args.etcd {
        run_program(cargo().args(["build", "--quiet", "--package", "quorate", "--bin", "quorate"]))?;
    }
    let mut tally = Tally::default();
    for version in
        VERSIONS.iter().filter(|version| args.only.is_empty() || args.only.iter().any(|only| only == *version))
    {
        println!("=== Kubernetes {version}");
        let folder = prepare(version, args.etcd)?;
        tally.add(test(&folder, args)?);
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed > 0 {
        return Err(Failure::Broken("Kubernetes found in its store what it should not".into()));
    }
    Ok(())
}

/// Makes the folder in which the tests are run, and gives its path.
fn prepare(version: &str, etcd: bool) -> Result<PathBuf, Failure> {
    let sources = root().join("tests/clients/kubernetes");
    let pins = sources.join(version);
    let published = published(&pins)?;
    // Go replaces no single file of a module in its cache, hence the copy.
    let folder = target_folder().join("clients/kubernetes").join(version);
    let copy = folder.join("apiserver");
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(Failure::file(&copy))?;
    }
    copy_folder(&published, &copy)?;
    if !etcd {
        let (from, to) = (sources.join("testserver.go"), copy.join(TEST_SERVER));
        fs::remove_file(&to).map_err(Failure::file(&to))?;
        fs::copy(&from, &to).map_err(Failure::file(from))?;
    }
    for (from, file) in [(&pins, "go.mod"), (&pins, "go.sum"), (&sources, "packages.go")] {
        let from = from.join(file);
        fs::copy(&from, folder.join(file)).map_err(Failure::file(from))?;
    }
    let replace = format!("-replace={MODULE}=./apiserver");
    run_program(Command::new("go").current_dir(&folder).args(["mod", "edit", &replace]))?;
    Ok(folder)
}

/// Where Go keeps the module that `pins` asks for, fetched if need be.
fn published(pins: &Path) -> Result<PathBuf, Failure> {
    let mut fetch = Command::new("go");
    fetch.current_dir(pins).args(["mod", "download", "-json", MODULE]).stderr(Stdio::inherit());
    let line = describe(&fetch);
    let broken = |problem: String| Failure::Program { command: line.clone(), problem };
    let output = fetch.output().map_err(|source| broken(format!("could not be started: {source}")))?;
    let told: Fetched = serde_json::from_slice(&output.stdout).map_err(|error| broken(error.to_string()))?;
    match (told.dir, told.error) {
        (Some(dir), None) => Ok(dir),
        (_, error) => Err(Failure::Skipped(format!(
            "the module {MODULE} could not be fetched: {}",
            error.unwrap_or_else(|| output.status.to_string())
        ))),
    }
}

/// What `go mod download -json` tells of a module.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Fetched {
    dir: Option<PathBuf>,
    error: Option<String>,
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to).map_err(Failure::file(to))?;
    for entry in fs::read_dir(from).map_err(Failure::file(from))? {
        let path = entry.map_err(Failure::file(from))?.path();
        let copy = to.join(path.file_name().expect("an entry of a folder has a name"));
        if path.is_dir() {
            copy_folder(&path, &copy)?;
        } else {
            fs::copy(&path, &copy).map_err(Failure::file(path))?;
        }
    }
    Ok(())
}

/// Runs the tests in `folder`, tells of those that did not pass, and counts.
fn test(folder: &Path, args: &KubernetesArgs) -> Result<Tally, Failure> {
    let mut command = Command::new("go");
    // One package at a time: some tests bound the time of what they ask for.
    command.current_dir(folder).args(["test", "-json", "-count=1", "-p=1", "-timeout=30m"]);
    command.env("QUORATE", target_folder().join("debug/quorate")).env("QUORATE_NODES", args.nodes.to_string());
    command.args(args.run.as_ref().map(|pattern| format!("-run={pattern}")));
    command.args(PACKAGES.map(|package| format!("{MODULE}/{package}")));
    let line = describe(&command);
    eprintln!("xtask: {line}");
    let broken = |problem: String| Failure::Program { command: line.clone(), problem };
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|source| broken(format!("could not be started: {source}")))?;
    let mut report = Report::default();
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        let line = line.map_err(|error| broken(error.to_string()))?;
        // Lines in between that are no events are of the build.
        match serde_json::from_str(&line) {
            Ok(event) => report.take(event),
            Err(_) => println!("{line}"),
        }
    }
    let status = child.wait().map_err(|error| broken(error.to_string()))?;
    let tally = report.tally();
    if status.success() != (tally.failed == 0) || tally.passed == 0 {
        return Err(broken(format!("did not come to an end ({status})")));
    }
    Ok(tally)
}

/// How many tests ended how. A test with subtests counts by these.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// A line of `go test -json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    action: String,
    #[serde(default)]
    package: String,
    /// Of a package as a whole if absent.
    #[serde(default)]
    test: String,
    #[serde(default)]
    output: String,
}

/// What was told of the tests, by package and test.
#[derive(Default)]
struct Report {
    output: BTreeMap<(String, String), String>,
    ended: BTreeMap<(String, String), String>,
}

impl Report {
    fn take(&mut self, event: Event) {
        let key = (event.package, event.test);
        match event.action.as_str() {
            "output" => self.output.entry(key).or_default().push_str(&event.output),
            end @ ("pass" | "fail" | "skip") => {
                let output = self.output.remove(&key).unwrap_or_default();
                let (package, test) = &key;
                match (test.is_empty(), end) {
                    (true, _) => println!("{end} {package}"),
                    (false, "pass") => {}
                    (false, _) => println!("{end} {package} {test}\n{output}"),
                }
                self.ended.insert(key, end.to_owned());
            }
            _ => {}
        }
    }

    /// Counts what has no parts. A whole that failed though all its parts passed is a failure of its own.
    fn tally(&self) -> Tally {
        let mut with_parts: BTreeSet<(&str, &str)> = BTreeSet::new();
        let mut with_failed_parts: BTreeSet<(&str, &str)> = BTreeSet::new();
        for ((package, test), end) in &self.ended {
            for whole in wholes(test) {
                with_parts.insert((package, whole));
                if end == "fail" {
                    with_failed_parts.insert((package, whole));
                }
            }
        }
        let mut tally = Tally::default();
        for ((package, test), end) in &self.ended {
            let key = (package.as_str(), test.as_str());
            match end.as_str() {
                "fail" if !with_failed_parts.contains(&key) => tally.failed += 1,
                "pass" if !with_parts.contains(&key) && !test.is_empty() => tally.passed += 1,
                "skip" if !with_parts.contains(&key) && !test.is_empty() => tally.skipped += 1,
                _ => {}
            }
        }
        tally
    }
}

/// What a test is a part of: of `A/b/c` these are `A/b`, `A` and the package, whose name as a test is empty.
fn wholes(test: &str) -> impl Iterator<Item = &str> {
    let inner = test.match_indices('/').map(|(position, _)| &test[..position]);
    inner.chain((!test.is_empty()).then_some(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ends: &[(&str, &str)], passed: usize, failed: usize, skipped: usize) {
        let mut report = Report::default();
        for (test, action) in ends {
            let event = format!(r#"{{"Action":"{action}","Package":"p","Test":"{test}"}}"#);
            report.take(serde_json::from_str(&event).expect("an event"));
        }
        assert_eq!(report.tally(), Tally { passed, failed, skipped });
    }

    #[test]
    fn a_test_with_parts_counts_by_them() {
        check(
            &[("A/b/c", "pass"), ("A/b/d", "skip"), ("A/b", "pass"), ("A", "pass"), ("AB", "pass"), ("", "pass")],
            2,
            0,
            1,
        );
        check(&[("A/b", "fail"), ("A/c", "pass"), ("A", "fail"), ("", "fail")], 1, 1, 0);
    }

    #[test]
    fn a_whole_that_fails_by_itself_is_a_failure() {
        check(&[("A/b", "pass"), ("A", "fail"), ("", "fail")], 1, 1, 0);
        check(&[("A", "pass"), ("", "fail")], 1, 1, 0);
    }
}
