//! Client libraries in their own languages, and etcdctl, against three real nodes.
//!
//! Owns the cluster and the programs. A program is told the endpoints in the variable `ENDPOINTS` and prints a line for
//! each fact: `ok FACT` or `failed FACT: WHY`. It may ask for a fault, `kill ENDPOINT` or `restart ENDPOINT`, and reads
//! `done` when it has happened; nothing else that it prints counts, but is shown.

mod etcdctl;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, wait_for};

/// How many facts held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Facts that hold.
    pub passed: u64,
    /// Facts that do not, and programs that ended otherwise than they should.
    pub failed: u64,
}

impl Tally {
    /// Counts and prints one fact.
    fn fact(&mut self, name: &str, held: Result<(), String>) {
        match held {
            Ok(()) => {
                self.passed += 1;
                println!("ok {name}");
            }
            Err(why) => {
                self.failed += 1;
                println!("failed {name}: {why}");
            }
        }
    }
}

/// Runs `program` against a new cluster and counts its facts.
pub async fn run_program(program: &Path, arguments: &[String]) -> Tally {
    let mut cluster = Cluster::start(3, &[]).await;
    let mut child = Command::new(program)
        .args(arguments)
        .env("ENDPOINTS", cluster.endpoints().join(","))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut answers = child.stdin.take().expect("piped");
    let mut tally = Tally::default();
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        let line = line.expect("text");
        println!("{line}");
        match line.split_once(' ') {
            Some(("ok", _)) => tally.passed += 1,
            Some(("failed", _)) => tally.failed += 1,
            Some((fault @ ("kill" | "restart"), endpoint)) => {
                strike(&mut cluster, fault, endpoint).await;
                // A program that has ended meanwhile has said what is wrong.
                let _ = answers.write_all(b"done\n");
            }
            _ => {}
        }
    }
    let status = child.wait().expect("a child can be waited for");
    if status.success() != (tally.failed == 0) || tally.passed + tally.failed == 0 {
        tally.fact("the program's end tells what its facts do", Err(status.to_string()));
    }
    if tally.failed > 0 {
        println!("{}", cluster.logs());
    }
    tally
}

async fn strike(cluster: &mut Cluster, fault: &str, endpoint: &str) {
    let position = cluster.endpoints().iter().position(|other| other == endpoint).expect("an endpoint of the cluster");
    if fault == "kill" {
        cluster.nodes[position].kill();
        return;
    }
    cluster.nodes[position].restart();
    wait_for("the node to know a leader", || async {
        cluster.leader_seen_by(position).await.filter(|(_, leader)| *leader != 0)
    })
    .await;
}

/// Runs a table of commands of etcdctl against a new cluster.
pub async fn run_etcdctl(etcdctl: &Path) -> Tally {
    // So that a watch is told within the session that nothing happened.
    let cluster = Cluster::start(3, &["--watch-progress-notify-interval", "1s"]).await;
    let tally = etcdctl::run(etcdctl, &cluster).await;
    if tally.failed > 0 {
        println!("{}", cluster.logs());
    }
    tally
}
