//! The operator's binary: command line, logging, and the provider of cryptography.

use clap::{Parser, Subcommand};
use quorate_operator::crd::definition;
use quorate_operator::run::{RunArgs, run};
use tracing_subscriber::EnvFilter;

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
    /// Looks after the clusters.
    Run(RunArgs),
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Arguments::parse().command {
        Command::Crd => print!("{}", serde_saphyr::to_string(&definition())?),
        Command::Run(args) => {
            let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
            tracing_subscriber::fmt().json().with_env_filter(filter).init();
            // More than one provider may be linked; without a choice the first connection would panic.
            rustls::crypto::ring::default_provider()
                .install_default()
                .map_err(|_| "a provider is installed already")?;
            tokio::runtime::Runtime::new()?.block_on(run(args))?;
        }
    }
    Ok(())
}
