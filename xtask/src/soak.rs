//! `cargo xtask soak`: minutes of load, resizes, restarts and backups on real processes. The run itself is a test.

use clap::Args;

use crate::failure::Failure;
use crate::process::{cargo, run};

/// Arguments of `cargo xtask soak`.
#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// How long.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
}

/// Runs the soak.
///
/// # Errors
/// [`Failure`] if something was lost, or memory or files grow.
pub(crate) fn soak(args: &SoakArgs) -> Result<(), Failure> {
    let mut test = cargo();
    test.env("QUORATE_SOAK_MINUTES", args.minutes.to_string());
    test.args(["test", "--quiet", "--package", "quorate-tests", "--test", "it", "soak::", "--"]);
    run(test.args(["--ignored", "--nocapture"]))
}
