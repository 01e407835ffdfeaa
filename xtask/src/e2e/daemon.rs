//! Programs that run beside the tests.
//!
//! Each leaves a file with its process id, so that the next run can end what a run that was killed left behind. A process is
//! ended only if it still is the program that was started: ids are used again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::place;
use crate::failure::Failure;

const POLL: Duration = Duration::from_millis(100);
const LINES_SHOWN: usize = 40;
/// Of each: an audit log has lines of a thousand, and what happened is said at their beginning.
const CHARACTERS_SHOWN: usize = 500;
const PATIENCE_TO_END: Duration = Duration::from_secs(15);

/// Starts `binary` in the background. Its output is added to `logs/NAME.log`.
pub(super) fn start(name: &str, binary: &Path, arguments: &[String]) -> Result<(), Failure> {
    let log = place::path(&format!("logs/{name}.log"));
    let output = File::options().create(true).append(true).open(&log).map_err(Failure::file(&log))?;
    let errors = output.try_clone().map_err(Failure::file(&log))?;
    let child = Command::new(binary).args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
    let child = child.map_err(Failure::file(binary))?;
    let pid_file = pid_file(name);
    let record = format!("{} {}", child.id(), binary.display());
    fs::write(&pid_file, record).map_err(Failure::file(&pid_file))
}

/// Waits until `ready` holds.
pub(super) fn await_ready(what: &str, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<(), Failure> {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > patience {
            return Err(Failure::Broken(format!("{what}: not ready after {} s", patience.as_secs())));
        }
        sleep(POLL);
    }
    Ok(())
}

/// Shows the end of what every program printed, since the logs go with the run.
pub(super) fn print_logs() {
    for entry in fs::read_dir(place::path("logs")).into_iter().flatten().flatten() {
        let log = fs::read_to_string(entry.path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("---- {}", entry.path().display());
        for line in &lines[lines.len().saturating_sub(LINES_SHOWN)..] {
            eprintln!("{}", line.chars().take(CHARACTERS_SHOWN).collect::<String>());
        }
    }
}

/// Ends the program `name` if it runs, at first politely.
pub(super) fn stop(name: &str) {
    let Some((pid, binary)) = recorded(name) else { return };
    for signal in ["-TERM", "-KILL"] {
        if !runs(pid, &binary) {
            break;
        }
        // The process may end in between; then there is nothing left to do.
        let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
        let start = Instant::now();
        while runs(pid, &binary) && start.elapsed() < PATIENCE_TO_END {
            sleep(POLL);
        }
    }
    let _ = fs::remove_file(pid_file(name));
}

/// Has the program `name` read its configuration again.
pub(super) fn hang_up(name: &str) {
    let Some((pid, _)) = recorded(name) else { return };
    let _ = Command::new("kill").args(["-HUP", &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Ends the program `name` without a word, and waits until it is gone.
pub(super) fn kill(name: &str) {
    let Some((pid, binary)) = recorded(name) else { return };
    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
    while runs(pid, &binary) {
        sleep(POLL);
    }
}

fn pid_file(name: &str) -> PathBuf {
    place::path(&format!("pids/{name}"))
}

fn recorded(name: &str) -> Option<(u32, PathBuf)> {
    let record = fs::read_to_string(pid_file(name)).ok()?;
    let (pid, binary) = record.trim().split_once(' ')?;
    Some((pid.parse().ok()?, PathBuf::from(binary)))
}

/// A process that ended but was not waited for has no program any more.
fn runs(pid: u32, binary: &Path) -> bool {
    let Ok(running) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    fs::canonicalize(binary).is_ok_and(|binary| binary == running)
}
