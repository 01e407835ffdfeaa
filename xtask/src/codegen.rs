//! `codegen`: the wire types, from every .proto file under `proto/`.
//!
//! Owns `crates/proto/src/generated/`, which is committed: a normal build needs neither the generator nor protoc. The generator
//! takes two minutes to build, so it is behind the feature `codegen`, with which this command starts itself again.

#[cfg(feature = "codegen")]
mod generate;

use crate::failure::Failure;

/// Options of `codegen`.
#[derive(clap::Args)]
pub(crate) struct CodegenArgs {
    /// Change nothing; fail if the committed code is not what proto/ gives
    #[arg(long)]
    pub(crate) check: bool,
}

#[cfg(not(feature = "codegen"))]
pub(crate) fn run(args: &CodegenArgs) -> Result<(), Failure> {
    let mut again = crate::process::cargo();
    again.args(["run", "--quiet", "--package", "xtask", "--features", "codegen", "--", "codegen"]);
    if args.check {
        again.arg("--check");
    }
    crate::process::run(&mut again)
}

#[cfg(feature = "codegen")]
pub(crate) fn run(args: &CodegenArgs) -> Result<(), Failure> {
    generate::run(args.check)
}
