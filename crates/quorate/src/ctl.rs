//! `quorate ctl`: one command, one call (or one short dialogue) with a cluster.
//!
//! Owns the flags and what is printed. Never decides anything: what is allowed is the server's to say.

mod address;
mod connect;
mod init;
mod keys;
mod members;
mod output;
mod private_file;
mod reset;
mod snapshot;
mod status;
mod watch;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::connect::Token;
pub(crate) use self::output::Output;
use crate::failure::Failure;

/// Arguments of `quorate ctl`.
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// Client address of the node to talk to.
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:2379")]
    endpoint: String,
    /// File with the admin token, for nodes that ask for one.
    #[arg(long, global = true, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// How to print.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Debug, Subcommand)]
enum CtlCommand {
    /// Makes a cluster of empty nodes that are running and waiting.
    Init(init::InitArgs),
    /// Shows the members and their roles.
    Members,
    /// Declares who shall vote; one joint change leads there.
    SetVoters(members::SetVotersArgs),
    /// Hands leadership to another voter.
    TransferLeader(members::TransferLeaderArgs),
    /// Shows one node's view of itself and of the log.
    Status,
    /// Reads a key, or all keys with a prefix.
    Get(keys::GetArgs),
    /// Writes a key.
    Put(keys::PutArgs),
    /// Deletes a key, or all keys with a prefix.
    Del(keys::DelArgs),
    /// Prints changes of a key, or of all keys with a prefix, as they happen.
    Watch(watch::WatchArgs),
    /// Saves, verifies or restores an image of the whole state.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Sets the data of a node that left its cluster aside, and starts it empty.
    Reset(reset::ResetArgs),
}

/// What every command needs to know.
#[derive(Debug)]
pub(crate) struct Context {
    endpoint: String,
    token: Token,
    output: Output,
}

/// Runs one command.
///
/// # Errors
/// [`Failure`], made for people.
pub(crate) async fn run(args: CtlArgs) -> Result<(), Failure> {
    let context = Context {
        endpoint: address::host_and_port(&args.endpoint)?,
        token: Token::read(args.admin_token_file.as_deref())?,
        output: args.output,
    };
    match args.command {
        CtlCommand::Init(args) => init::run(&context, &args).await,
        CtlCommand::Members => members::run(&context).await,
        CtlCommand::SetVoters(args) => members::set_voters(&context, &args).await,
        CtlCommand::TransferLeader(args) => members::transfer_leader(&context, &args).await,
        CtlCommand::Status => status::run(&context).await,
        CtlCommand::Get(args) => keys::get(&context, args).await,
        CtlCommand::Put(args) => keys::put(&context, args).await,
        CtlCommand::Del(args) => keys::del(&context, args).await,
        CtlCommand::Watch(args) => watch::run(&context, args).await,
        CtlCommand::Snapshot(command) => snapshot::run(&context, command).await,
        CtlCommand::Reset(args) => reset::run(&context, &args).await,
    }
}
