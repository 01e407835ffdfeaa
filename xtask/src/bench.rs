//! `bench`: Quorate and etcd under the same load on this machine, side by side.
//!
//! Owns the order of the runs. The systems take turns, A B B A, each time on empty data, so that a drift of the machine (heat,
//! a neighbour, a filling disk) falls on both alike; the figures of one system's turns are averaged.
//!
//! Never compares figures of two invocations.

mod cluster;
mod http;
mod load;
mod measure;
mod table;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use self::cluster::System;
use self::measure::{Figures, Part, Scale};
use crate::failure::Failure;
use crate::process::{cargo, root, run as run_program, target_folder};
use crate::tools;

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    /// A short run: figures to look at, not to publish
    #[arg(long)]
    quick: bool,
    /// Seconds of each workload
    #[arg(long)]
    seconds: Option<u64>,
    /// Keys of the memory and restart measurement
    #[arg(long)]
    keys: Option<u64>,
    /// Mebibytes that the large ranges read
    #[arg(long)]
    large: Option<u64>,
    /// Parts to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Turns of each system
    #[arg(long, default_value_t = 2)]
    turns: usize,
    /// Compare etcd with itself: shows which differences mean nothing
    #[arg(long)]
    noise: bool,
    /// Program to measure, instead of the Quorate built now
    #[arg(long)]
    quorate: Option<PathBuf>,
    /// Program whose `bench` makes the load, instead of the Quorate built now
    #[arg(long)]
    generator: Option<PathBuf>,
    /// Write the table to this file as well, such as docs/performance.md
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    tools::build()?;
    let built = target_folder().join("release/quorate");
    let is_built_needed = if args.noise { args.generator.is_none() } else { args.quorate.is_none() };
    if is_built_needed {
        run_program(cargo().args(["build", "--release", "--package", "quorate"]))?;
    }
    let quorate = args.quorate.clone().unwrap_or(built);
    let generator = args.generator.clone().unwrap_or_else(|| quorate.clone());
    let etcd = System::Etcd { binary: tools::path("etcd")? };
    let ours = if args.noise { etcd.clone() } else { System::Quorate { binary: quorate } };
    let systems = [ours, etcd];
    let scale = args.scale();

    let folder = root().join("target/bench");
    fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
    let mut figures = [Figures::default(), Figures::default()];
    for turn in 0..args.turns {
        // A B, then B A.
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            eprintln!("xtask: turn {} of {}: {}", turn + 1, args.turns, systems[side].name());
            figures[side].add(measure::measure(&systems[side], &generator, &folder, &scale)?);
        }
    }
    let names = [systems[0].name(), systems[1].name()];
    let table = table::render(names, &figures);
    let troubles = table::troubles(names, &figures);
    println!("{table}\n{troubles}");
    if let Some(path) = &args.write {
        let page = table::page(&table, &troubles, &scale, args.turns);
        let kept = table::kept(&fs::read_to_string(path).unwrap_or_default());
        fs::write(path, page + &kept).map_err(Failure::file(path))?;
        eprintln!("xtask: wrote {}", path.display());
    }
    Ok(())
}

impl BenchArgs {
    fn scale(&self) -> Scale {
        let (seconds, keys, large) = if self.quick { (3, 50_000, 64) } else { (10, 1_000_000, 1024) };
        let all = [Part::Loads, Part::Streams, Part::Large, Part::Restart];
        Scale {
            duration: Duration::from_secs(self.seconds.unwrap_or(seconds)),
            keys: self.keys.unwrap_or(keys),
            large_mebibytes: self.large.unwrap_or(large),
            parts: if self.only.is_empty() { all.to_vec() } else { self.only.clone() },
        }
    }
}
