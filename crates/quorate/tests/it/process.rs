//! Runs `quorate`, alone or in the background, and ends what it started.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// An address on loopback that was free a moment ago.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("bound").to_string()
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    quorate().args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

/// Runs a command that must succeed; what it printed.
#[track_caller]
pub(crate) fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that must fail with code 1; what it said.
#[track_caller]
pub(crate) fn fail(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    assert!(error.starts_with("error: "), "{error}");
    error
}

/// Runs `quorate ctl --output json`; what it printed.
#[track_caller]
pub(crate) fn ctl(endpoint: &str, arguments: &[&str]) -> Value {
    let all = [&["ctl", "--endpoint", endpoint, "--output", "json"], arguments].concat();
    serde_json::from_str(&succeed(&all)).expect("JSON")
}

fn quorate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.env_remove("RUST_LOG");
    command
}

/// A process in the background; killed when dropped.
pub(crate) struct Background {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Background {
    /// Starts a command. Standard error goes where the test's goes.
    pub(crate) fn start(arguments: &[&str]) -> Background {
        let mut child =
            quorate().args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Background { child, output }
    }

    /// Reads lines until one contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("text");
            assert!(read > 0, "ended before it said `{text}`:\n{seen}");
            seen.push_str(&line);
            if line.contains(text) {
                return seen;
            }
        }
    }

    /// Sends a signal by name and waits for the end; the exit code.
    pub(crate) fn end_with(&mut self, signal: &str) -> Option<i32> {
        let sent = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        self.child.wait().expect("waited for").code()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
