//! `differential`: the same random requests to etcd and to Quorate, and every answer compared.
//!
//! Owns the building of what takes part; the requests and the comparison are the test crate's, which has the clients.

use std::process::Command;

use crate::failure::Failure;
use crate::process::{cargo, run as run_program, target_folder};
use crate::tools;

/// Options of `differential`.
#[derive(clap::Args)]
pub(crate) struct DifferentialArgs {
    /// Decides every request; the seed of a divergence is printed with it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many requests to send to each
    #[arg(long, default_value_t = 20_000)]
    requests: u64,
}

pub(crate) fn run(args: &DifferentialArgs) -> Result<(), Failure> {
    tools::build()?;
    run_program(cargo().args(["build", "--quiet", "--package", "quorate", "--bin", "quorate"]))?;
    run_program(cargo().args(["build", "--quiet", "--package", "quorate-tests", "--bin", "quorate-differential"]))?;
    let built = target_folder().join("debug");
    let mut compare = Command::new(built.join("quorate-differential"));
    compare.arg(tools::path("etcd")?).arg(built.join("quorate"));
    run_program(compare.args([args.seed.to_string(), args.requests.to_string()]))
}
