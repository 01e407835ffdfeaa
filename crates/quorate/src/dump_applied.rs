//! `quorate dump-applied`: the committed log of a stopped node, for checkers outside.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use quorate_store::RealDisk;
use quorate_store::offline::{OfflineError, dump_applied};

use crate::failure::Failure;

/// Arguments of `quorate dump-applied`.
#[derive(Debug, Args)]
pub(crate) struct DumpAppliedArgs {
    /// One JSON object a line; there is no other format.
    #[arg(long, required = true)]
    json: bool,
    /// The directory of a stopped node.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

/// Prints the log.
///
/// # Errors
/// [`Failure`].
pub(crate) fn run(args: &DumpAppliedArgs) -> Result<(), Failure> {
    let disk = open_stopped(&args.data_dir)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let printed = dump_applied(Arc::new(disk), |line| writeln!(out, "{line}"));
    match printed.and_then(|()| Ok(out.flush()?)) {
        // Whoever reads has enough.
        Err(OfflineError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(failed(&args.data_dir, &error)),
        Ok(()) => Ok(()),
    }
}

/// Opens the data of a node that must not be running.
///
/// # Errors
/// [`Failure`], in words for the directory's owner.
pub(crate) fn open_stopped(data_dir: &std::path::Path) -> Result<RealDisk, Failure> {
    if !data_dir.is_dir() {
        return Err(Failure::new(format_args!("{} is no directory", data_dir.display())).advise(
            "the --data-dir of a node; `quorate dev --data-dir DIR` has one for each node: DIR/n1, DIR/n2, …",
        ));
    }
    RealDisk::new(data_dir).map_err(|error| Failure::new(error).advise("stop the node first"))
}

/// An offline error, with where it was.
pub(crate) fn failed(data_dir: &std::path::Path, error: &OfflineError) -> Failure {
    let failure = Failure::new(format_args!("{}: {error}", data_dir.display()));
    match error {
        OfflineError::NoData => {
            failure.advise("the --data-dir of a node; `quorate dev --data-dir DIR` has one for each node: DIR/n1, …")
        }
        _ => failure,
    }
}
