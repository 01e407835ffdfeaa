//! `quorate-clients etcdctl PROGRAM` or `quorate-clients program PROGRAM ARGUMENTS`: what `cargo xtask clients` runs once it
//! has built them. The last line is `PASSED FAILED`.

use std::path::Path;
use std::process::ExitCode;

use quorate_tests::clients::{run_etcdctl, run_program};

#[tokio::main]
async fn main() -> ExitCode {
    let typed: Vec<String> = std::env::args().skip(1).collect();
    let tally = match typed.split_first() {
        Some((kind, [program])) if kind == "etcdctl" => run_etcdctl(Path::new(program)).await,
        Some((kind, [program, arguments @ ..])) if kind == "program" => {
            run_program(Path::new(program), arguments).await
        }
        _ => {
            eprintln!("usage: quorate-clients etcdctl|program PROGRAM ARGUMENTS");
            return ExitCode::from(2);
        }
    };
    println!("{} {}", tally.passed, tally.failed);
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
