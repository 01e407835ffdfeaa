//! `alerts`: every alert of the charts, in series that should set it off and in series that should not.
//!
//! Prometheus' own promtool evaluates the rules as the charts ship them; `tests/alerts/` holds the series. An alert without a page
//! that says what to do, or without series that set it off, is refused before.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::Failure;
use crate::process::{is_in_path, root, run, target_folder};

/// What the chart puts in place of CLUSTER for a release `db` in the namespace `default`.
const CLUSTER: &str = "namespace=\"default\",pod=~\"db-[0-9]+\"";
const CHARTS: [&str; 2] = ["quorate", "quorate-operator"];

/// # Errors
/// [`Failure::Broken`] if an alert is silent, or false, or not explained; [`Failure::Skipped`] without promtool.
pub(crate) fn test() -> Result<(), Failure> {
    let folder = target_folder().join("alerts");
    fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
    for chart in CHARTS {
        let rules = read(&root().join("charts").join(chart).join("files/rules.yaml"))?;
        let tests = read(&root().join("tests/alerts").join(format!("{chart}.test.yaml")))?;
        explain(&rules, &tests)?;
        write(&folder.join(format!("{chart}.rules.yaml")), &format!("groups:\n{}", rules.replace("CLUSTER", CLUSTER)))?;
        write(&folder.join(format!("{chart}.test.yaml")), &tests)?;
    }
    if !is_in_path("promtool") {
        return Err(Failure::Skipped("there is no promtool; install the package prometheus".to_owned()));
    }
    for chart in CHARTS {
        run(Command::new("promtool").arg("test").arg("rules").arg(folder.join(format!("{chart}.test.yaml"))))?;
    }
    Ok(())
}

/// Each alert has its page, and series that set it off.
fn explain(rules: &str, tests: &str) -> Result<(), Failure> {
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let page = format!("docs/runbooks/{alert}.md");
        if !root().join(&page).exists() || !rules.contains(&format!("runbook_url: {page}\n")) {
            return Err(Failure::Broken(format!("{alert} has no page {page}, or does not name it")));
        }
        let looks = tests.split("alertname: ").skip(1).filter(|look| look.lines().next() == Some(alert));
        if !looks.clone().any(|look| look.contains("exp_labels:"))
            || !looks.clone().any(|look| look.contains("exp_alerts: []"))
        {
            return Err(Failure::Broken(format!("no series in tests/alerts set {alert} off, or none leave it silent")));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(Failure::file(path))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(Failure::file(path))
}
