//! `quorate-differential ETCD QUORATE SEED REQUESTS`: what `cargo xtask differential` runs once it has built both.

use std::path::PathBuf;
use std::process::ExitCode;

use quorate_tests::differential::{Run, run};

fn arguments() -> Option<Run> {
    let mut typed = std::env::args().skip(1);
    Some(Run {
        etcd: PathBuf::from(typed.next()?),
        quorate: PathBuf::from(typed.next()?),
        seed: typed.next()?.parse().ok()?,
        requests: typed.next()?.parse().ok()?,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(wanted) = arguments() else {
        eprintln!("usage: quorate-differential ETCD QUORATE SEED REQUESTS");
        return ExitCode::from(2);
    };
    let summary = run(&wanted).await;
    println!("{} answers differ for a reason in docs/etcd-compatibility.md", summary.deliberate);
    println!("{} times etcd's process ended by a fault in docs/etcd-compatibility.md", summary.etcd_ended);
    println!("{} requests, {} divergences", summary.requests, summary.divergences);
    if summary.divergences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
