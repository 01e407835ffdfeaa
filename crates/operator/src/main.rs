//! The operator's binary: command line only.

use clap::{Parser, Subcommand};
use kube::CustomResourceExt;
use quorate_operator::crd::QuorateCluster;

/// Runs Quorate clusters on Kubernetes.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the CustomResourceDefinition as YAML, for `kubectl apply --server-side -f -`.
    Crd,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Arguments::parse().command {
        Command::Crd => print!("{}", serde_saphyr::to_string(&QuorateCluster::crd())?),
    }
    Ok(())
}
