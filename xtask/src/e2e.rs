//! `e2e`: a real Kubernetes on this machine, the charts installed into it, and named tests of what they promise.
//!
//! Nothing stands in for anything: API server, controller-manager, scheduler, kubelet, containerd, kube-proxy and DNS are the
//! real programs at pinned versions. Everything lies under one folder and is removed at the end, and at the start if an
//! earlier run was killed. Assertions are on facts; how long something took is printed.

mod cases;
mod certificates;
mod control_plane;
mod daemon;
mod image;
mod kubectl;
mod node;
mod place;
mod suite;
mod teardown;
pub(crate) mod toolchain;
mod volumes;
mod writer;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use crate::failure::Failure;
use crate::process;

use self::kubectl::Kubectl;
use self::suite::Suite;
use self::toolchain::Toolchain;

/// What the distribution has to provide: the program, and its package in Debian.
const PACKAGES: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("iptables-save", "iptables"),
    ("buildah", "buildah"),
    ("openssl", "openssl"),
    ("mount", "mount"),
];
const CNI_PLUGIN: &str = "/usr/lib/cni/bridge";
const FOLDERS: [&str; 11] =
    ["pids", "logs", "pki", "run", "cni", "image", "volumes", "helm", "pod-logs", "kubelet", "kubelet-plugins"];

/// Options of `e2e`.
#[derive(clap::Args)]
pub(crate) struct E2eArgs {
    /// Run every test, not only the core ones
    #[arg(long)]
    all: bool,
    /// Run the tests whose names contain this
    #[arg(long)]
    only: Option<String>,
    /// Take the static binaries from this folder in place of building them
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Leave everything running at the end, to look at it; the next run removes it
    #[arg(long)]
    keep: bool,
    /// Only remove what an earlier run left behind
    #[arg(long)]
    teardown: bool,
}

/// # Errors
/// [`Failure::Skipped`] where the machine lacks something; [`Failure::Broken`] if a test failed.
pub(crate) fn run(args: &E2eArgs) -> Result<(), Failure> {
    check_machine()?;
    if args.teardown {
        return teardown::tear_down();
    }
    let tools = Toolchain::prepare()?;
    let binaries = match &args.binaries {
        Some(folder) => folder.clone(),
        None => image::build_binaries()?,
    };
    teardown::tear_down()?;
    let result = start(&tools, &binaries).and_then(|()| test(args, &tools));
    if args.keep {
        eprintln!("xtask: left running; KUBECONFIG={}", place::text("admin.kubeconfig"));
    } else {
        teardown::tear_down()?;
    }
    result
}

fn check_machine() -> Result<(), Failure> {
    let status = fs::read_to_string("/proc/self/status").map_err(Failure::file("/proc/self/status"))?;
    let root = status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    if !root {
        return Err(Failure::Skipped("a kubelet needs root".to_owned()));
    }
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| !process::is_in_path(program))
        .map(|(_, package)| *package)
        .chain((!fs::exists(CNI_PLUGIN).unwrap_or(false)).then_some("containernetworking-plugins"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Skipped(format!("packages are missing; install them with: apt-get install {}", missing.join(" "))))
}

fn start(tools: &Toolchain, binaries: &std::path::Path) -> Result<(), Failure> {
    let start = Instant::now();
    for folder in FOLDERS {
        let folder = place::path(folder);
        fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
    }
    certificates::make()?;
    node::make_network()?;
    node::start_containerd()?;
    image::import(binaries)?;
    control_plane::bring_up(tools)?;
    node::bring_up(tools)?;
    volumes::make_class(&Kubectl::new(tools))?;
    eprintln!("xtask: Kubernetes is up after {} s", start.elapsed().as_secs());
    Ok(())
}

fn test(args: &E2eArgs, tools: &Toolchain) -> Result<(), Failure> {
    let suite = Suite::new(tools);
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in cases::ALL {
        let chosen = match &args.only {
            Some(part) => case.name.contains(part.as_str()),
            None => args.all || case.core,
        };
        if !chosen {
            skipped += 1;
            continue;
        }
        let start = Instant::now();
        eprintln!("test {} ...", case.name);
        match suite.run(case) {
            Ok(()) => {
                passed += 1;
                eprintln!("test {} passed in {} s", case.name, start.elapsed().as_secs());
            }
            Err(Failure::Skipped(reason)) => {
                skipped += 1;
                eprintln!("test {} skipped: {reason}", case.name);
            }
            Err(failure) => {
                failed += 1;
                eprintln!("test {} FAILED: {failure}", case.name);
                suite.print_state();
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 {
        return Err(Failure::Broken("end-to-end tests failed".to_owned()));
    }
    Ok(())
}
