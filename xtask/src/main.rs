//! The developer commands of the repository; continuous integration calls nothing else.
//!
//! Owns the command line only. Each command is a module with a `run` function; none keeps state outside `target/`,
//! except `codegen` (the generated crate) and `bench --write` (the table it was told to write).

mod codegen;
mod failure;
mod process;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Quorate")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate the wire types from proto/
    Codegen(codegen::CodegenArgs),
}

fn main() -> std::process::ExitCode {
    let result = match Arguments::parse().command {
        Command::Codegen(args) => codegen::run(&args),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            failure.exit_code()
        }
    }
}
