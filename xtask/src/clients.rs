//! `clients`: client libraries in their own languages, and etcdctl, against three nodes of Quorate.
//!
//! Owns the building of what takes part, in `target/clients`; each language fetches what its lock file in `tests/clients`
//! names. The cluster, and what counts as a fact, are the test crate's.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::failure::Failure;
use crate::process::{cargo, describe, exists, is_in_path, root, run as run_program, target_folder};
use crate::tools;

/// Options of `clients`.
#[derive(clap::Args)]
pub(crate) struct ClientsArgs {
    /// Only these, of etcdctl, go, python, node and java
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(CLIENTS.map(|client| client.name)))]
    only: Vec<String>,
}

/// One client: how it is made, which gives what the test crate's program is told to run.
struct Client {
    name: &'static str,
    /// What has to be on the machine.
    needs: &'static [&'static str],
    /// What gives it.
    install: &'static str,
    make: fn() -> Result<Vec<String>, Failure>,
}

const CLIENTS: [Client; 5] = [
    Client { name: "etcdctl", needs: &["go"], install: "Go", make: etcdctl },
    Client { name: "go", needs: &["go"], install: "Go", make: go },
    Client { name: "python", needs: &["python3"], install: "the packages python3 and python3-venv", make: python },
    Client { name: "node", needs: &["node", "npm"], install: "the packages nodejs and npm", make: node },
    Client { name: "java", needs: &["mvn", "java"], install: "the packages maven and default-jdk", make: java },
];

/// Facts that held, facts that did not, and why clients could not be run.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
}

impl Tally {
    /// Nothing but the whole is a success: a client that was not run has shown nothing.
    fn outcome(self) -> Result<(), Failure> {
        if self.failed > 0 {
            return Err(Failure::Broken("a client saw what it should not".into()));
        }
        if !self.skipped.is_empty() {
            return Err(Failure::Skipped(self.skipped.join("; ")));
        }
        Ok(())
    }
}

pub(crate) fn run(args: &ClientsArgs) -> Result<(), Failure> {
    run_program(cargo().args(["build", "--quiet", "--package", "quorate", "--bin", "quorate"]))?;
    run_program(cargo().args(["build", "--quiet", "--package", "quorate-tests", "--bin", "quorate-clients"]))?;
    let mut tally = Tally::default();
    for client in
        CLIENTS.iter().filter(|client| args.only.is_empty() || args.only.iter().any(|name| name == client.name))
    {
        if let Some(missing) = client.needs.iter().find(|program| !is_in_path(program)) {
            let reason = format!("{} was not run: there is no `{missing}`; install {}", client.name, client.install);
            eprintln!("xtask: {reason}");
            tally.skipped.push(reason);
            continue;
        }
        println!("=== {}", client.name);
        match (client.make)().and_then(|arguments| put_to_work(&arguments)) {
            Ok((passed, failed)) => {
                tally.passed += passed;
                tally.failed += failed;
            }
            Err(failure) => {
                println!("failed {}: {failure}", client.name);
                tally.failed += 1;
            }
        }
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped.len());
    tally.outcome()
}

/// Runs one client, shows what it says, and gives what its last line counts.
fn put_to_work(arguments: &[String]) -> Result<(u64, u64), Failure> {
    let mut command = Command::new(target_folder().join("debug").join("quorate-clients"));
    let command = command.args(arguments).stderr(Stdio::inherit());
    let line = describe(command);
    eprintln!("xtask: {line}");
    let broken = |problem: String| Failure::Program { command: line.clone(), problem };
    let output = command.output().map_err(|source| broken(format!("could not be started: {source}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (told, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    println!("{told}");
    let counts = last.split_once(' ').and_then(|(passed, failed)| Some((passed.parse().ok()?, failed.parse().ok()?)));
    counts.ok_or_else(|| broken(format!("did not come to an end ({}): {last}", output.status)))
}

fn etcdctl() -> Result<Vec<String>, Failure> {
    tools::build()?;
    Ok(vec!["etcdctl".into(), text(tools::path("etcdctl")?)])
}

fn go() -> Result<Vec<String>, Failure> {
    let program = built("go")?.join("clients");
    let mut build = Command::new("go");
    build.current_dir(source("go")).args(["build", "-mod=readonly", "-trimpath", "-o"]).arg(&program).arg(".");
    run_program(&mut build)?;
    Ok(vec!["program".into(), text(program)])
}

fn python() -> Result<Vec<String>, Failure> {
    let (sources, environment) = (source("python"), built("python")?);
    let python = environment.join("bin/python");
    if !exists(&python, "--version") {
        run_program(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"]);
    run_program(install.arg(sources.join("requirements.txt")))?;
    Ok(vec!["program".into(), text(python), text(sources.join("clients.py"))])
}

fn node() -> Result<Vec<String>, Failure> {
    let (sources, built) = (source("node"), built("node")?);
    // Beside its packages, since that is where Node looks for them.
    for file in ["package.json", "package-lock.json", "clients.mjs"] {
        let from = sources.join(file);
        fs::copy(&from, built.join(file)).map_err(Failure::file(from))?;
    }
    run_program(Command::new("npm").current_dir(&built).args(["ci", "--silent", "--ignore-scripts"]))?;
    Ok(vec!["program".into(), "node".into(), text(built.join("clients.mjs"))])
}

fn java() -> Result<Vec<String>, Failure> {
    let (sources, built) = (source("java"), built("java")?);
    let mut package = Command::new("mvn");
    package.current_dir(sources).args(["--quiet", "--batch-mode", "package"]);
    run_program(package.arg(format!("-Dbuilt={}", built.display())))?;
    let path = format!("{}:{}", built.join("classes").display(), built.join("libraries/*").display());
    Ok(["program", "java", "-cp", &path, "Clients"].map(String::from).to_vec())
}

/// Where a client's sources are.
fn source(name: &str) -> PathBuf {
    root().join("tests/clients").join(name)
}

/// Where a client is built.
fn built(name: &str) -> Result<PathBuf, Failure> {
    let folder = target_folder().join("clients").join(name);
    fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
    Ok(folder)
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("a path in UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_was_not_run_is_no_success_however_many_others_pass() {
        let of = |failed: u64, skipped: &[&str]| {
            let skipped = skipped.iter().map(|reason| (*reason).to_owned()).collect();
            Tally { passed: 99, failed, skipped }.outcome()
        };
        assert!(of(0, &[]).is_ok());
        assert!(matches!(of(0, &["java", "node"]), Err(Failure::Skipped(reason)) if reason == "java; node"));
        assert!(matches!(of(1, &["java"]), Err(Failure::Broken(_))));
    }
}
