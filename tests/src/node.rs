//! One `quorate server` process: where it lives, how it is started, killed, paused and read.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cluster::PATIENCE;

/// Which build of the server a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// This one.
    Current,
    /// The next release, as far as format versions go.
    Next,
    /// This one, whose disk, clock and memory go wrong when they are told to: see [`Node::order`].
    Faulty,
}

/// The `quorate` binary of `build`, made once per test process if it is not there yet.
///
/// # Panics
/// If cargo cannot build it: no test here means anything without the real binary.
pub fn binary(build: Build) -> &'static Path {
    made(build, &["--quiet"])
}

/// The same, with cargo's progress on the terminal: for who is about to measure time, and so must not build within it.
pub fn build_visibly(build: Build) {
    made(build, &[]);
}

fn made(build: Build, how: &[&str]) -> &'static Path {
    static CURRENT: OnceLock<PathBuf> = OnceLock::new();
    static NEXT: OnceLock<PathBuf> = OnceLock::new();
    static FAULTY: OnceLock<PathBuf> = OnceLock::new();
    match build {
        Build::Current => CURRENT.get_or_init(|| {
            make(how);
            profile_folder().join("quorate")
        }),
        Build::Next => NEXT.get_or_init(|| make_variant("next-format", how)),
        Build::Faulty => FAULTY.get_or_init(|| make_variant("test-faults", how)),
    }
}

/// Builds with another feature, in a folder apart: in that of the current build it would take its place.
fn make_variant(feature: &str, how: &[&str]) -> PathBuf {
    let folder = profile_folder().join("variants");
    std::fs::create_dir_all(&folder).expect("a folder below the target folder");
    // One folder for all variants, because they share what they are built of: so one of them is made at a time, and moved
    // away from where the next will be.
    let lock = File::create(folder.join("lock")).expect("a file in it");
    lock.lock().expect("nobody holds it for ever");
    let variant = ["--features", feature, "--target-dir", folder.to_str().expect("a path in UTF-8")];
    make(&[how, &variant].concat());
    let (made, kept) = (folder.join("debug").join("quorate"), folder.join(feature));
    // Another test process may be running the old one: a new name for the file, not new bytes in it.
    let copy = folder.join(format!("{feature}.new"));
    std::fs::copy(made, &copy).expect("the binary can be copied");
    std::fs::rename(copy, &kept).expect("within one folder");
    kept
}

fn make(arguments: &[&str]) {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--package", "quorate", "--bin", "quorate"])
        .args(arguments)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build --package quorate {arguments:?} failed");
}

/// target/PROFILE: a test binary is in its folder `deps`, other programs are in it.
fn profile_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a program has a path");
    let folder = program.parent().expect("a program is in a folder");
    if folder.ends_with("deps") {
        folder.parent().expect("deps has a parent").to_path_buf()
    } else {
        folder.to_path_buf()
    }
}

/// First and last port that [`free_address`] gives out. Below the range from which systems take the ports of outgoing
/// connections: one of those could take a port between its choice here and the server's start, or while a node is down.
const PORTS: RangeInclusive<u16> = 20_000..=31_999;

/// An address on loopback that nobody listens on, given out once in this process.
///
/// # Panics
/// If every port is taken.
pub fn free_address() -> SocketAddr {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end() - PORTS.start() + 1;
    // Two test processes at once begin at different places.
    let first = u16::try_from(std::process::id() * 97 % u32::from(count)).expect("below the number of ports");
    for _ in 0..count {
        let step = GIVEN.fetch_add(1, Ordering::Relaxed) % count;
        let address = SocketAddr::from(([127, 0, 0, 1], PORTS.start() + (first + step) % count));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// How one server process is started; the same across restarts.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The member's name.
    pub name: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Where clients connect.
    pub client: SocketAddr,
    /// Where peers connect.
    pub peer: SocketAddr,
    /// Where other nodes are told to connect, if not there.
    pub advertise_peer: Option<SocketAddr>,
    /// Where metrics are scraped.
    pub metrics: SocketAddr,
    /// Further arguments, as typed.
    pub extra: Vec<String>,
    /// What it runs.
    pub build: Build,
    /// Set in its environment.
    pub environment: Vec<(&'static str, &'static str)>,
    /// A command that the server is an argument of, as `ip netns exec NAME`.
    pub inside: Vec<String>,
}

impl NodeConfig {
    /// A node called `name` on free loopback ports with its data below `root`.
    pub fn new(name: &str, root: &Path) -> Self {
        NodeConfig {
            name: name.to_string(),
            data_dir: root.join(name),
            client: free_address(),
            peer: free_address(),
            advertise_peer: None,
            metrics: free_address(),
            extra: Vec::new(),
            build: Build::Current,
            environment: Vec::new(),
            inside: Vec::new(),
        }
    }

    /// Where other nodes connect.
    pub fn advertised_peer(&self) -> SocketAddr {
        self.advertise_peer.unwrap_or(self.peer)
    }
}

/// A running (or paused, or ended) `quorate server`.
#[derive(Debug)]
pub struct Node {
    /// How it was started.
    pub config: NodeConfig,
    child: Option<Child>,
}

impl Node {
    /// Starts the process; its output goes to `NAME.log` beside the data directory.
    pub fn start(config: NodeConfig) -> Self {
        let mut node = Node { config, child: None };
        node.restart();
        node
    }

    /// Starts it again on the same data and ports.
    ///
    /// # Panics
    /// If it is still running.
    pub fn restart(&mut self) {
        assert!(!self.is_running(), "{} still runs", self.config.name);
        let log = File::options().create(true).append(true).open(self.log_path()).expect("log file opens");
        let config = &self.config;
        let program = binary(config.build);
        let mut command = match config.inside.split_first() {
            None => Command::new(program),
            Some((outer, arguments)) => {
                let mut command = Command::new(outer);
                command.args(arguments).arg(program);
                command
            }
        };
        let child = command
            .env("QUORATE_TEST_FAULTS", self.orders_path())
            .envs(config.environment.iter().copied())
            .arg("server")
            .args(["--name", &config.name])
            .arg("--data-dir")
            .arg(&config.data_dir)
            .args(["--listen-client", &config.client.to_string()])
            .args(["--listen-peer", &config.peer.to_string()])
            .args(["--listen-metrics", &config.metrics.to_string()])
            .args(["--advertise-client", &config.client.to_string()])
            .args(["--advertise-peer", &config.advertised_peer().to_string()])
            .args(&config.extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log file clones"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.child = Some(child);
    }

    /// Kills it and starts it again without its data.
    ///
    /// # Panics
    /// If they cannot be removed.
    pub fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.config.data_dir).expect("the folder of a node that ended");
        self.restart();
    }

    /// Stops it politely and starts it again as another build.
    pub fn restart_as(&mut self, build: Build) {
        assert!(self.stop(), "{}", self.log_tail());
        self.config.build = build;
        self.restart();
    }

    /// Makes disk, clock or memory of a [`Build::Faulty`] go wrong from now on; returns when it knows. Orders are lines
    /// `NAME VALUE`: `clock-rate` (millionths of the right one), `clock-jump-ms`, `write-delay-us`, `sync-delay-us`,
    /// `fail-syncs`, `fail-reads`, `stray` (the next put is applied as another), and `lose-power`, whose value chooses which
    /// of the unsynced pages are not lost.
    ///
    /// # Panics
    /// If it runs another build.
    pub async fn order(&self, orders: &str) {
        assert_eq!(self.config.build, Build::Faulty, "{} obeys no orders", self.config.name);
        let (orders_path, writing) = (self.orders_path(), self.config.data_dir.with_extension("writing"));
        std::fs::write(&writing, orders).expect("orders can be written");
        std::fs::rename(&writing, &orders_path).expect("within one folder");
        let obeyed = || async { (!orders_path.exists()).then_some(()) };
        crate::cluster::wait_for("a node to obey", obeyed).await;
    }

    fn orders_path(&self) -> PathBuf {
        self.config.data_dir.with_extension("orders")
    }

    /// Where its output goes.
    pub fn log_path(&self) -> PathBuf {
        self.config.data_dir.with_extension("log")
    }

    /// The last lines of its output, for a failing test.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The process id.
    ///
    /// # Panics
    /// If it has not been started.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("a node with an id was started").id()
    }

    /// Whether the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("a child can be waited for").is_none())
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error here means it has ended already, which is what is wanted.
            let _ = child.kill();
            child.wait().expect("a child can be waited for");
        }
    }

    /// SIGTERM, waits for the end, and says whether the process called it a success.
    pub fn stop(&mut self) -> bool {
        self.end_by("TERM")
    }

    /// The same by SIGINT, as by Ctrl-C.
    pub fn hurry(&mut self) -> bool {
        self.end_by("INT")
    }

    /// SIGTERM, and does not wait.
    pub fn begin_stop(&self) {
        self.signal("TERM");
    }

    fn end_by(&mut self, signal: &str) -> bool {
        self.signal(signal);
        let mut child = self.child.take().expect("a node that is stopped was started");
        child.wait().expect("a child can be waited for").success()
    }

    /// SIGSTOP: the process keeps its sockets and does nothing. Back once each of its threads stands still, which on a busy
    /// machine takes longer than the signal.
    pub fn pause(&self) {
        self.signal("STOP");
        let started = Instant::now();
        while !self.is_stopped() {
            assert!(started.elapsed() < PATIENCE, "process {} goes on after SIGSTOP", self.id());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether all threads are stopped, by the state that follows a thread's name in proc(5)'s `stat`.
    fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("a process that runs");
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
        })
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.id();
        let status = Command::new("kill").args([format!("-{name}"), id.to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -{name} {id} failed");
    }

    /// Bytes of memory that the process has from the system.
    pub fn memory_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.id())).unwrap_or_default();
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        pages * 4096
    }

    /// Files and sockets that the process has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).map_or(0, Iterator::count)
    }

    /// The sum of the series of a metric, as scraped; `None` if nobody answers or there is none.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let text = get(self.config.metrics, "/metrics").await?;
        let series = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{')));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).reduce(|sum, next| sum + next)
    }

    /// Runs `quorate ctl` against this node.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_command(arguments).output().expect("ctl runs")
    }

    /// Starts `quorate ctl` against this node and does not wait for its end.
    pub fn ctl_in_background(&self, arguments: &[&str]) -> Child {
        self.ctl_command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ctl starts")
    }

    fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary(self.config.build));
        command.args(["ctl", "--endpoint", &self.config.client.to_string()]).args(arguments).stdin(Stdio::null());
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The HTTP answer to a GET, head and body, whatever its status; `None` while nobody listens.
pub async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}
