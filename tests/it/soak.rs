//! Minutes of everything that happens to a cluster in a year, under load: nothing is lost, and what it takes stays flat.
//!
//! Run by `cargo xtask soak`; too long for every test run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::{CompactionRequest, StatusRequest};
use quorate_tests::cluster::{Cluster, wait_for};
use quorate_tests::companions::{Keeper, Watcher};
use quorate_tests::history::Event;
use quorate_tests::load::{Load, LoadConfig, read};
use quorate_tests::node::{Build, build_visibly};
use tonic::Code;

use crate::faults::{assert_holds, wait_for_writes};

/// Names the length of the run in minutes.
const MINUTES: &str = "QUORATE_SOAK_MINUTES";
/// Voters that stay; their clients see everything that happens.
const CORE: usize = 3;
/// Each round forgets the history before so many revisions, or files would have to grow.
const KEPT_REVISIONS: i64 = 1000;
const FLAGS: &[&str] = &[
    "--snapshot-count=1000",
    // Full within the first minute: what comes after it is flat.
    "--snapshot-catchup-entries=1000",
];
/// The last third may take this much more than the middle one, in percent, for memory that is freed late.
const SLACK_PERCENT: u64 = 20;
/// And this much, so that the smallest of clusters is not judged by its noise.
const SLACK_BYTES_OF_MEMORY: u64 = 8 << 20;
/// Files of a cluster that compacts are below a megabyte.
const SLACK_BYTES_OF_FILES: u64 = 256 << 10;

/// What the nodes take at one moment: the most of any.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    memory: u64,
    log: u64,
    state: u64,
}

impl Taken {
    fn most(self, other: Taken) -> Taken {
        Taken {
            memory: self.memory.max(other.memory),
            log: self.log.max(other.log),
            state: self.state.max(other.state),
        }
    }
}

/// A run of rounds.
struct Rounds {
    /// What the nodes took after each.
    series: Vec<Taken>,
    /// How many of them were before the whole cluster was upgraded.
    before_upgrade: usize,
}

/// Allocated bytes of a file.
fn file_bytes(path: PathBuf) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

fn taken(cluster: &Cluster) -> Taken {
    let of = |position: usize| {
        let node = &cluster.nodes[position];
        Taken {
            memory: node.memory_bytes(),
            log: file_bytes(node.config.data_dir.join("log.redb")),
            state: file_bytes(node.config.data_dir.join("state.redb")),
        }
    };
    (0..CORE).map(of).fold(Taken::default(), Taken::most)
}

fn ctl(cluster: &Cluster, via: usize, arguments: &[&str]) {
    let output = cluster.nodes[via].ctl(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ctl {arguments:?}: {text}\n{}", cluster.logs());
}

/// What was done to the cluster so far.
#[derive(Debug, Default)]
struct Done {
    restarts: usize,
    kills: usize,
    of_leaders: usize,
    resizes: usize,
    upgrades: usize,
    backups: usize,
}

/// Compacts what is older than [`KEPT_REVISIONS`].
async fn compact(cluster: &Cluster) {
    wait_for("a compaction", || async {
        let mut client = KvClient::new(cluster.channel(0));
        let Event::Read { revision, .. } = read(&mut client, "key-0").await.ok()? else { return None };
        let target = revision - KEPT_REVISIONS;
        let request = CompactionRequest { revision: target, physical: false };
        match client.compact(request).await {
            Ok(_) => Some(()),
            // Less than that is there, or it was taken away by an attempt whose answer was lost.
            Err(status) if status.code() == Code::OutOfRange => Some(()),
            Err(_) => None,
        }
    })
    .await;
}

/// One round of a year: a restart as another build, a kill, five voters and back to three, a backup, a compaction.
async fn round(cluster: &mut Cluster, number: usize, newest: Build, done: &mut Done) {
    // The first node stays as it is until all are upgraded: whatever a process gathers by running, it has gathered.
    let first = usize::from(newest == Build::Current);
    let struck = |number: usize| first + number % (CORE - first);
    let (restarted, killed) = (struck(number), struck(number + 1));
    // Up and back again, as an upgrade that is given up half-way.
    let build = if (number / CORE).is_multiple_of(2) { Build::Next } else { newest };
    done.upgrades += usize::from(cluster.nodes[restarted].config.build != build);
    cluster.nodes[restarted].restart_as(build);
    wait_for_writes(cluster, restarted, 20).await;
    if number.is_multiple_of(2) {
        let name = cluster.nodes[killed].config.name.clone();
        // On a starved machine another may win; who is killed then is a follower, and is counted as one.
        let _ = cluster.nodes[restarted].ctl(&["transfer-leader", &name]);
    }
    done.of_leaders += usize::from(cluster.leader().await == killed);
    cluster.nodes[killed].kill();
    cluster.nodes[killed].restart();
    wait_for_writes(cluster, killed, 20).await;
    for _ in 0..2 {
        cluster.add_empty_node_of(newest, FLAGS);
    }
    cluster.wait_until_reachable().await;
    cluster.set_voters(0, &(0..CORE + 2).collect::<Vec<_>>());
    cluster.set_voters(0, &(0..CORE).collect::<Vec<_>>());
    for mut node in cluster.nodes.drain(CORE..) {
        node.kill();
        std::fs::remove_dir_all(&node.config.data_dir).expect("the folder of a node that left");
    }
    let backup = cluster.nodes[0].config.data_dir.with_extension("backup");
    let file = backup.to_str().expect("a path in UTF-8");
    ctl(cluster, killed, &["snapshot", "save", file]);
    ctl(cluster, killed, &["snapshot", "inspect", file]);
    std::fs::remove_file(&backup).expect("the backup is there");
    compact(cluster).await;
    done.restarts += 1;
    done.kills += 1;
    done.resizes += 2;
    done.backups += 1;
}

/// All nodes hold the same state: their applied indexes meet, and nobody fenced itself.
async fn wait_until_equal(cluster: &Cluster) {
    wait_for("all nodes to have applied the same", || async {
        let mut applied = Vec::new();
        for position in 0..CORE {
            let mut client = MaintenanceClient::new(cluster.channel(position));
            let status = client.status(StatusRequest::default()).await.ok()?.into_inner();
            if !status.errors.is_empty() {
                return None;
            }
            applied.push(status.raft_applied_index);
        }
        applied.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
    })
    .await;
}

fn assert_flat(what: &str, slack_bytes: u64, series: &[Taken], of: impl Fn(&Taken) -> u64) {
    let third = series.len() / 3;
    let most = |part: &[Taken]| part.iter().map(&of).max().unwrap_or(0);
    let (start, middle, last) = (most(&series[..third]), most(&series[third..2 * third]), most(&series[2 * third..]));
    let allowed = middle + (middle * SLACK_PERCENT / 100).max(slack_bytes);
    println!("{what}: at most {start} bytes in the first third, {middle} in the middle one, {last} in the last");
    assert!(last <= allowed, "{what} grows: {middle} bytes in the middle third, {last} in the last");
}

/// Rounds for as long as the run lasts, and what the nodes took after each. The whole cluster is upgraded near the end.
async fn rounds(cluster: &mut Cluster, length: Duration) -> Rounds {
    let (mut series, mut done, mut before_upgrade) = (Vec::new(), Done::default(), 0);
    let mut newest = Build::Current;
    let begun = Instant::now();
    while begun.elapsed() < length {
        if newest == Build::Current && begun.elapsed() > length * 4 / 5 {
            newest = Build::Next;
            before_upgrade = series.len();
            for position in 0..CORE {
                done.upgrades += usize::from(cluster.nodes[position].config.build != newest);
                cluster.nodes[position].restart_as(newest);
                wait_for_writes(cluster, position, 20).await;
            }
            println!("{:>5} s  upgraded", begun.elapsed().as_secs());
        }
        round(cluster, series.len(), newest, &mut done).await;
        let now = taken(cluster);
        println!(
            "{:>5} s  round {:>3}  memory {:>10}  log {:>10}  state {:>10}",
            begun.elapsed().as_secs(),
            series.len() + 1,
            now.memory,
            now.log,
            now.state
        );
        series.push(now);
    }
    println!("{done:?}");
    assert!(done.of_leaders > 0, "no leader was killed");
    Rounds { series, before_upgrade }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: cargo xtask soak"]
async fn a_busy_cluster_loses_nothing_and_stays_as_small_as_it_is() {
    let minutes: u64 = std::env::var(MINUTES).ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    println!("making both builds before the time begins");
    build_visibly(Build::Current);
    build_visibly(Build::Next);
    let mut cluster = Cluster::start(CORE, FLAGS).await;
    let load = Load::start(&LoadConfig {
        endpoints: cluster.endpoints(),
        clients: 6,
        keys: 5,
        read_every: 3,
        by_lease: false,
        pace: Duration::from_millis(5),
        move_on_failure: true,
    });
    let watcher = Watcher::start(cluster.endpoints(), "key-", 1);
    let keeper = Keeper::start(cluster.endpoints());
    let Rounds { series, before_upgrade } = rounds(&mut cluster, Duration::from_secs(60 * minutes)).await;
    let report = load.finish().await;
    let seen = watcher.finish(&report.history).await.unwrap_or_else(|missed| panic!("the watcher: {missed}"));
    let granted = keeper.finish().await.unwrap_or_else(|ended| panic!("the keeper: {ended}"));
    println!("{seen} events seen, one lease kept, {granted} left to end");
    wait_until_equal(&cluster).await;
    assert_holds(&cluster, report).await;
    assert!(before_upgrade >= 3, "too few rounds to compare: {before_upgrade}");
    // That of the process that ran all the while.
    assert_flat("memory", SLACK_BYTES_OF_MEMORY, &series[..before_upgrade], |taken| taken.memory);
    assert_flat("log file", SLACK_BYTES_OF_FILES, &series, |taken| taken.log);
    assert_flat("state file", SLACK_BYTES_OF_FILES, &series, |taken| taken.state);
}
