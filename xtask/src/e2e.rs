//! `e2e`: a real Kubernetes on this machine, the charts installed into it, and named tests of what they promise.
//!
//! Nothing stands in for anything: API server, controller-manager, scheduler, kubelet, containerd, kube-proxy and DNS are the
//! real programs at pinned versions. Everything lies under one folder and is removed at the end, and at the start if an
//! earlier run was killed. Assertions are on facts; how long something took is printed.

mod cases;
mod certificates;
mod control_plane;
mod daemon;
mod datastore;
mod images;
mod kubectl;
mod node;
mod place;
mod suite;
mod teardown;
pub(crate) mod toolchain;
mod volumes;
mod watch;
mod writer;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::{image, process};

use self::cases::Case;
use self::datastore::Datastore;
use self::kubectl::Kubectl;
use self::suite::Suite;
use self::toolchain::Toolchain;

/// What the distribution has to provide: the program, and its package in Debian.
const PACKAGES: [(&str, &str); 8] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("iptables-save", "iptables"),
    ("buildah", "buildah"),
    ("openssl", "openssl"),
    ("mount", "mount"),
    ("promtool", "prometheus"),
];
/// What the core set is meant to take at most.
const CORE_BUDGET: Duration = Duration::from_secs(25 * 60);
const CNI_PLUGIN: &str = "/usr/lib/cni/bridge";
const FOLDERS: [&str; 11] =
    ["pids", "logs", "pki", "run", "cni", "image", "volumes", "helm", "pod-logs", "kubelet", "kubelet-plugins"];

/// Options of `e2e`.
#[derive(clap::Args)]
pub(crate) struct E2eArgs {
    /// Run every test, not only the core ones
    #[arg(long)]
    all: bool,
    /// Run the tests whose names contain this, or one of several
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Leave out the tests whose names contain this, or one of several
    #[arg(long, value_name = "PART")]
    except: Vec<String>,
    /// Cargo profile of the node and the operator under test: `dev` shares what the tests have built, `image` is what is shipped
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Take the static binaries from this folder in place of building them
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Where the API server keeps its objects. Of Quorate's three nodes one is killed and started again in each test
    #[arg(long, value_enum, default_value_t = Datastore::Etcd)]
    datastore: Datastore,
    /// End with the first test that fails
    #[arg(long)]
    fail_fast: bool,
    /// Leave everything running at the end, to look at it; the next run removes it
    #[arg(long)]
    keep: bool,
    /// Only remove what an earlier run left behind
    #[arg(long)]
    teardown: bool,
    /// Only print the packages that this machine lacks, one a line
    #[arg(long)]
    missing_packages: bool,
}

impl E2eArgs {
    /// The core tests, to the first failure.
    pub(crate) fn core() -> Self {
        E2eArgs {
            all: false,
            only: Vec::new(),
            except: Vec::new(),
            profile: "dev".to_owned(),
            binaries: None,
            datastore: Datastore::Etcd,
            fail_fast: true,
            keep: false,
            teardown: false,
            missing_packages: false,
        }
    }

    fn choose(&self, case: &Case) -> bool {
        let among = |parts: &[String]| parts.iter().any(|part| case.name.contains(part.as_str()));
        let named = if self.only.is_empty() { self.all || case.core } else { among(&self.only) };
        named && !among(&self.except)
    }
}

/// # Errors
/// [`Failure::Skipped`] where the machine lacks something; [`Failure::Broken`] if a test failed.
pub(crate) fn run(args: &E2eArgs) -> Result<(), Failure> {
    if args.missing_packages {
        missing_packages().iter().for_each(|package| println!("{package}"));
        return Ok(());
    }
    check_machine()?;
    let _lock = lock()?;
    if args.teardown {
        return teardown::tear_down();
    }
    let tools = Toolchain::prepare()?;
    let binaries = match &args.binaries {
        Some(folder) => folder.clone(),
        None => image::binaries(&args.profile)?,
    };
    teardown::tear_down()?;
    let started = start(args, &tools, &binaries).inspect_err(|_| daemon::print_logs());
    let result = started.and_then(|()| test(args, &tools, &binaries));
    if args.keep {
        eprintln!("xtask: left running; KUBECONFIG={}", place::text("admin.kubeconfig"));
    } else {
        teardown::tear_down()?;
    }
    result
}

/// One run at a time on a machine: a second one waits, or it would tear down the first. The lock is on a folder that every
/// machine has, and goes with the process, so that nothing is left behind.
fn lock() -> Result<File, Failure> {
    let folder = Path::new(place::ROOT).parent().expect("the folder of the run lies in another");
    let lock = File::open(folder).map_err(Failure::file(folder))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("xtask: another end-to-end run is on this machine; waiting for its end");
            lock.lock().map_err(Failure::file(folder))?;
        }
        Err(TryLockError::Error(error)) => return Err(Failure::file(folder)(error)),
    }
    Ok(lock)
}

fn missing_packages() -> Vec<&'static str> {
    let programs = PACKAGES.iter().filter(|(program, _)| !process::is_in_path(program)).map(|(_, package)| *package);
    programs.chain((!fs::exists(CNI_PLUGIN).unwrap_or(false)).then_some("containernetworking-plugins")).collect()
}

fn check_machine() -> Result<(), Failure> {
    let status = fs::read_to_string("/proc/self/status").map_err(Failure::file("/proc/self/status"))?;
    let root = status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    if !root {
        return Err(Failure::Skipped("a kubelet needs root".to_owned()));
    }
    let missing = missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Skipped(format!("packages are missing; install them with: apt-get install {}", missing.join(" "))))
}

fn start(args: &E2eArgs, tools: &Toolchain, binaries: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    for folder in FOLDERS {
        let folder = place::path(folder);
        fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
    }
    teardown::note_folders()?;
    certificates::make()?;
    node::make_network()?;
    node::start_containerd()?;
    images::import(binaries)?;
    control_plane::bring_up(tools, args.datastore, binaries)?;
    node::bring_up(tools)?;
    volumes::make_class(&Kubectl::new(tools))?;
    eprintln!("xtask: Kubernetes is up after {} s", start.elapsed().as_secs());
    Ok(())
}

fn test(args: &E2eArgs, tools: &Toolchain, binaries: &Path) -> Result<(), Failure> {
    let suite = Suite::new(tools, args.datastore, binaries);
    let begin = Instant::now();
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for case in cases::ALL {
        if !args.choose(case) {
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
                let said = format!("test {} FAILED after {} s: {failure}", case.name, start.elapsed().as_secs());
                eprintln!("{said}");
                suite.print_state(case);
                failed.push(said);
                if args.fail_fast {
                    break;
                }
            }
        }
    }
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    // Once more below all that was shown of them: whoever reads the end of a log reads why.
    failed.iter().for_each(|said| eprintln!("{said}"));
    println!("{passed} passed, {} failed, {skipped} skipped in {minutes:.1} min", failed.len());
    let core = !args.all && args.only.is_empty();
    if core && begin.elapsed() > CORE_BUDGET {
        // Said and not held against the change: the machine may be busy with other things.
        let budget = CORE_BUDGET.as_secs() / 60;
        eprintln!("xtask: the core set took {minutes:.1} min; it is meant to take at most {budget} on two idle cores");
    }
    if !failed.is_empty() {
        return Err(Failure::Broken("end-to-end tests failed".to_owned()));
    }
    Ok(())
}
