//! The command line of Quorate: what is typed, what is printed, and the exit code. Everything else is in the crates below.

mod bench;
mod ctl;
mod descriptors;
mod dev;
mod dump_applied;
mod failure;
mod flags;
mod memory;
mod random;
mod recover;
mod say;
mod server;
mod stop;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use self::failure::Failure;

/// A small, strongly consistent key-value store that speaks the etcd v3 API.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a cluster in one process, to try things out.
    Dev(dev::DevArgs),
    /// Runs one node.
    Server(server::ServerArgs),
    /// Talks to a cluster.
    Ctl(ctl::CtlArgs),
    /// Measures whatever speaks the etcd v3 API.
    Bench(bench::BenchArgs),
    /// Prints the committed log of a stopped node, one JSON object a line.
    DumpApplied(dump_applied::DumpAppliedArgs),
    /// After permanent loss of the quorum: makes a stopped node the only voter of a new cluster.
    Recover(recover::RecoverArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        // A cluster that stops is full of nodes that miss each other; only what ends one is worth a line.
        Command::Dev(args) => with_runtime("error", dev::run(args)),
        Command::Server(args) => with_runtime("info", server::run(args)),
        Command::Ctl(args) => with_runtime("warn", ctl::run(args)),
        Command::Bench(args) => with_runtime("warn", async { bench::run(args).await.map_err(Failure::new) }),
        Command::DumpApplied(args) => dump_applied::run(&args),
        Command::Recover(args) => recover::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `future` on a runtime with a thread a core. `level` is what is logged if `RUST_LOG` does not say otherwise.
fn with_runtime(level: &str, future: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format_args!("cannot start the runtime: {error}")))?;
    let done = runtime.block_on(future);
    // What is still running has had its chance to end; the process ends now.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
