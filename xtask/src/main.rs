//! The developer commands of the repository; continuous integration calls nothing else.
//!
//! Owns the command line only. Each command is a module with a function; none keeps state outside `target/` and the user's cache
//! folder, except `codegen` (the generated crate) and `bench --write` (the page it was told to write).

mod alerts;
mod bench;
mod charts;
mod clients;
mod codegen;
mod differential;
mod e2e;
mod failure;
mod fuzz;
mod gates;
mod image;
mod kubernetes;
mod manifests;
mod process;
mod soak;
mod tools;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Quorate")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format, lints, documentation, generated code; writes nothing
    Check,
    /// All tests
    Test,
    /// Run the simulator, for example `sim --seed 7 --trace-hash` or `sim --seeds 1..100`
    Sim(gates::SimArgs),
    /// Minutes of load, resizes, restarts and backups on real processes
    Soak(soak::SoakArgs),
    /// Feed hostile input to every parser
    Fuzz(fuzz::FuzzArgs),
    /// Put the known bugs back one by one, and let the simulator find each; last line `N of M killed`
    Mutants(gates::SimArgs),
    /// Everything a change has to pass: check, test, a slice of simulation, the operator, the core end-to-end tests
    Ci,
    /// Generate the wire types from proto/
    Codegen(codegen::CodegenArgs),
    /// Build etcd and etcdctl into the user's cache folder
    Tools,
    /// Send random requests to etcd and to Quorate and compare the answers
    Differential(differential::DifferentialArgs),
    /// Put client libraries of four languages and etcdctl to work on three nodes; last line `N passed, M failed, K skipped`
    Clients(clients::ClientsArgs),
    /// Run the tests of Kubernetes' own storage layer on Quorate; last line `N passed, M failed, K skipped`
    Kubernetes(kubernetes::KubernetesArgs),
    /// Install the charts on a real Kubernetes on this machine and put them to the test
    E2e(e2e::E2eArgs),
    /// Build the image with node and operator, and write it as an archive
    Image(image::ImageArgs),
    /// Evaluate every alert of the charts on series that set it off, and on series that do not
    Alerts,
    /// Lint both charts, render them with every value, and have them refuse what is misspelt
    Charts,
    /// Generate the resource definition in the chart, and manifests/ from the charts
    Manifests(manifests::ManifestsArgs),
    /// Measure Quorate beside etcd
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Check => gates::check(),
        Command::Test => gates::test(),
        Command::Sim(args) => gates::sim(&args),
        Command::Soak(args) => soak::soak(&args),
        Command::Fuzz(args) => fuzz::run_targets(&args),
        Command::Mutants(args) => gates::mutants(&args),
        Command::Ci => gates::ci(),
        Command::Codegen(args) => codegen::run(&args),
        Command::Tools => tools::build(),
        Command::Differential(args) => differential::run(&args),
        Command::Clients(args) => clients::run(&args),
        Command::Kubernetes(args) => kubernetes::run(&args),
        Command::E2e(args) => e2e::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Alerts => alerts::test(),
        Command::Charts => charts::check(),
        Command::Manifests(args) => manifests::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            failure.exit_code()
        }
    }
}
