//! Nodes in network namespaces of their own, with packet filters between them.
//!
//! The test runs itself again in a network and a mount namespace of its own, so nothing that it makes is seen by the machine,
//! and all of it is gone when that process ends, however it ends. In there one bridge connects the nodes with the test.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::node::NodeConfig;

/// Set in the process that is inside.
const INSIDE: &str = "QUORATE_TEST_INSIDE_NETWORK_NAMESPACE";
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
const METRICS_PORT: u16 = 2381;

/// Whether the caller is inside already. If not, runs the test called `name` of this binary inside.
///
/// # Panics
/// If the test fails there.
pub fn enter(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let may = inside(Path::new("iptables")).arg("--list").output().is_ok_and(|output| output.status.success());
    if !may {
        println!("SKIPPED: needs the right to make network namespaces, and iptables");
        return false;
    }
    let own = std::env::current_exe().expect("a test binary has a path");
    let output = inside(&own).args([name, "--exact", "--nocapture"]).output().expect("unshare runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    println!("{said}");
    false
}

fn inside(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--fork", "--kill-child"]).arg(program).env(INSIDE, "1");
    command
}

/// The namespaces of a cluster, one a node.
#[derive(Debug)]
pub struct Namespaces {
    count: usize,
}

impl Namespaces {
    /// Connects `count` namespaces with each other and with the caller, who is inside.
    pub fn new(count: usize) -> Namespaces {
        // Where `ip netns` keeps names: a folder that this mount namespace alone sees.
        run("mount -t tmpfs tmpfs /run");
        run("ip link set lo up");
        run("ip link add bridge0 type bridge");
        run("ip address add 10.77.0.254/24 dev bridge0");
        run("ip link set bridge0 up");
        for node in 0..count {
            run(&format!("ip netns add n{node}"));
            run(&format!("ip link add v{node} type veth peer name eth0 netns n{node}"));
            run(&format!("ip link set v{node} master bridge0 up"));
            run(&format!("ip -n n{node} link set lo up"));
            run(&format!("ip -n n{node} address add {}/24 dev eth0", host(node)));
            run(&format!("ip -n n{node} link set eth0 up"));
        }
        Namespaces { count }
    }

    /// Makes a node live in the namespace of its number.
    pub fn settle(node: usize, config: &mut NodeConfig) {
        let at = |port: u16| -> SocketAddr { format!("{}:{port}", host(node)).parse().expect("an address") };
        (config.client, config.peer, config.metrics) = (at(CLIENT_PORT), at(PEER_PORT), at(METRICS_PORT));
        config.inside = ["ip", "netns", "exec", &format!("n{node}")].map(str::to_owned).to_vec();
    }

    /// No packet gets from `from` to `to`; those of the other way do, but for their acknowledgements.
    pub fn cut(&self, from: usize, to: usize) {
        self.filter(from, to, "-j DROP");
    }

    /// Nothing passes between `node` and the others.
    pub fn isolate(&self, node: usize) {
        for other in (0..self.count).filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Of the packets between all nodes so many of a hundred are lost, at random.
    pub fn lose(&self, percent: u8) {
        for (from, to) in (0..self.count).flat_map(|from| (0..self.count).map(move |to| (from, to))) {
            self.filter(from, to, &format!("-m statistic --mode random --probability 0.{percent:02} -j DROP"));
        }
    }

    /// Every packet arrives.
    pub fn heal(&self) {
        for node in 0..self.count {
            run(&format!("ip netns exec n{node} iptables -F INPUT"));
        }
    }

    fn filter(&self, from: usize, to: usize, rule: &str) {
        run(&format!("ip netns exec n{to} iptables -A INPUT -s {} {rule}", host(from)));
    }
}

fn host(node: usize) -> String {
    format!("10.77.0.{}", node + 1)
}

/// Runs a command line without quotes in it.
fn run(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().expect("a program")).args(words).output().expect("the program runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
