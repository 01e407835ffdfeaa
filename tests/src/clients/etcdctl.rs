//! What etcdctl prints, command by command, against three nodes of Quorate.
//!
//! The tables are one session: a line may build on those before it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use super::Tally;
use crate::cluster::Cluster;

/// One command: what is typed, with `{name}` for what was kept from an earlier answer, and what must be printed.
struct Case {
    typed: &'static str,
    input: &'static str,
    /// Texts that must be in what it prints, each as often as it stands here; if `exact`, its answer is the first and ends
    /// with the last.
    told: &'static [&'static str],
    exact: bool,
    fails: bool,
    /// The word of the answer that is kept, and its name.
    keeps: Option<(usize, &'static str)>,
}

const fn case(typed: &'static str, told: &'static [&'static str]) -> Case {
    Case { typed, input: "", told, exact: false, fails: false, keeps: None }
}

const fn exact(typed: &'static str, told: &'static [&'static str]) -> Case {
    Case { exact: true, ..case(typed, told) }
}

const fn fails(typed: &'static str, told: &'static [&'static str]) -> Case {
    Case { fails: true, ..case(typed, told) }
}

const KEYS: &[Case] = &[
    exact("put a 1", &["OK\n"]),
    exact("put a 2 --prev-kv", &["OK\na\n1\n"]),
    exact("put ab 3", &["OK\n"]),
    exact("get a", &["a\n2\n"]),
    exact("get a --print-value-only", &["2\n"]),
    exact("get a --prefix --keys-only", &["a\n\nab\n\n"]),
    exact("get a --prefix --order=DESCEND --limit=1", &["ab\n3\n"]),
    exact("get a ac --count-only --write-out=fields", &["\"ClusterID\" : ", "\"More\" : false\n\"Count\" : 2\n"]),
    exact("get a --rev=2", &["a\n1\n"]),
    exact("get a --consistency=s", &["a\n2\n"]),
    case("get a --write-out=json", &["{\"header\":{\"cluster_id\":", "\"kvs\":[{\"key\":\"YQ==\"", "\"count\":1}"]),
    fails("get a --rev=100", &["etcdserver: mvcc: required revision is a future revision"]),
    fails("put a --ignore-value --lease=7b", &["etcdserver: requested lease not found"]),
    exact("del ab --prev-kv", &["1\nab\n3\n"]),
    exact("del nothing", &["0\n"]),
    Case {
        input: "mod(\"t\") = \"0\"\n\nput t made\nget t\n\nget t\n\n",
        ..exact("txn", &["SUCCESS\n\nOK\n\nt\nmade\n"])
    },
    Case { input: "mod(\"t\") = \"0\"\n\nput t again\n\nget t\n\n", ..exact("txn", &["FAILURE\n\nt\nmade\n"]) },
    exact("compaction 3", &["compacted revision 3\n"]),
    exact("compaction 4 --physical", &["compacted revision 4\n"]),
    fails("compaction 4", &["etcdserver: mvcc: required revision has been compacted"]),
    fails("get a --rev=2", &["etcdserver: mvcc: required revision has been compacted"]),
    case("lock name echo held", &["held\n"]),
];

const LEASES: &[Case] = &[
    Case { keeps: Some((1, "lease")), ..case("lease grant 600", &["lease ", " granted with TTL(600s)\n"]) },
    exact("put leased 1 --lease={lease}", &["OK\n"]),
    case("lease timetolive {lease} --keys", &["granted with TTL(600s), remaining(", "attached keys([leased])\n"]),
    // The other one is that of the lock.
    case("lease list", &["found 2 leases\n", "{lease}\n"]),
    case("lease keep-alive {lease} --once", &["keepalived with TTL(600)\n"]),
    exact("lease revoke {lease}", &["lease {lease} revoked\n"]),
    exact("get leased", &[""]),
    case("lease timetolive {lease}", &["lease {lease} already expired\n"]),
    fails("lease revoke {lease}", &["etcdserver: requested lease not found"]),
];

const CLUSTER: &[Case] = &[
    case("member list", &["started, n1, http://127.0.0.1:", "started, n2, ", "started, n3, ", ", false\n"]),
    case("endpoint health", &["is healthy: successfully committed proposal: took = "]),
    case("endpoint health --cluster", &["is healthy", "is healthy", "is healthy"]),
    case("endpoint status --cluster --write-out=table", &["3.7.3", "3.7.3", "3.7.3"]),
    case("endpoint hashkv --cluster", &["127.0.0.1:", "127.0.0.1:", "127.0.0.1:"]),
    exact("alarm list", &[""]),
    exact("alarm disarm", &[""]),
    case("defrag --cluster", &["Finished defragmenting etcd member["]),
    Case {
        keeps: Some((1, "member")),
        ..case(
            "member add late --learner --peer-urls=http://127.0.0.1:9",
            &["Member ", " added as learner to cluster "],
        )
    },
    case("member list", &["{member}, unstarted, , http://127.0.0.1:9, , true\n"]),
    case("member update {member} --peer-urls=http://127.0.0.1:10", &["Member {member} updated in cluster "]),
    fails("member promote {member}", &["etcdserver: can only promote a learner member which is in sync with leader"]),
    case("member remove {member}", &["Member {member} removed from cluster "]),
    fails("member remove {member}", &["etcdserver: member not found"]),
    fails("move-leader 1 --endpoints={leader}", &["etcdserver: bad leader transferee"]),
    case("move-leader {follower} --endpoints={leader}", &["Leadership transferred from ", " to {follower}\n"]),
    case("snapshot save {folder}/snapshot.db --endpoints={leader}", &["Snapshot saved at {folder}/snapshot.db\n"]),
    exact("downgrade validate 3.6.0", &["Downgrade validate success, cluster version 3.7\n"]),
    fails("downgrade validate 3.5.0", &["etcdserver: invalid downgrade target version"]),
    fails("downgrade enable 3.6.0", &["etcdserver: not capable"]),
    exact("downgrade cancel", &["Downgrade cancel success, cluster version 3.7\n"]),
    case("version", &["etcdctl version: 3.7.3\nAPI version: 3.7\n"]),
];

const USERS: &[Case] = &[
    exact("user add root:pw", &["User root created\n"]),
    fails("user add root:pw", &["etcdserver: user name already exists"]),
    exact("user add u:pw", &["User u created\n"]),
    exact("role add r", &["Role r created\n"]),
    exact("role grant-permission r readwrite dir/ --prefix", &["Role r updated\n"]),
    exact("role grant-permission r read a", &["Role r updated\n"]),
    exact(
        "role get r",
        &["Role r\nKV Read:\n\ta\n\t[dir/, dir0) (prefix dir/)\nKV Write:\n\t[dir/, dir0) (prefix dir/)\n"],
    ),
    exact("user grant-role u r", &["Role r is granted to user u\n"]),
    exact("user get u", &["User: u\nRoles: r\n"]),
    exact("user add nopw --no-password", &["User nopw created\n"]),
    exact("user grant-role nopw r", &["Role r is granted to user nopw\n"]),
    exact("user list", &["nopw\nroot\nu\n"]),
    exact("role list", &["r\n"]),
    // Makes the role of root by itself once that is refused.
    case("auth enable", &["etcdserver: root user does not have root role", "Authentication Enabled\n"]),
    case("auth status --user=root:pw", &["Authentication Status: true\nAuthRevision: "]),
    fails("get a", &["etcdserver: user name is empty"]),
    fails("get a --user=u:wrong", &["etcdserver: authentication failed, invalid user ID or password"]),
    fails("get a --user=nopw:pw", &["etcdserver: authentication failed, invalid user ID or password"]),
    exact("user delete nopw --user=root:pw", &["User nopw deleted\n"]),
    exact("get a --user=u:pw", &["a\n2\n"]),
    fails("put a 3 --user=u:pw", &["etcdserver: permission denied"]),
    exact("put dir/a 3 --user=u:pw", &["OK\n"]),
    case("endpoint health --user=u:pw", &["is healthy"]),
    Case { input: "new\n", ..exact("user passwd u --interactive=false --user=root:pw", &["Password updated\n"]) },
    fails("get a --user=u:pw", &["etcdserver: authentication failed, invalid user ID or password"]),
    exact("role revoke-permission r a --user=root:pw", &["Permission of key a is revoked from role r\n"]),
    fails("get a --user=u:new", &["etcdserver: permission denied"]),
    exact("user revoke-role u r --user=root:pw", &["Role r is revoked from user u\n"]),
    exact("user delete u --user=root:pw", &["User u deleted\n"]),
    exact("role delete r --user=root:pw", &["Role r deleted\n"]),
    fails("user delete root --user=root:pw", &["etcdserver: invalid auth management"]),
    exact("auth disable --user=root:pw", &["Authentication Disabled\n"]),
    exact("get a", &["a\n2\n"]),
];

/// Goes through the tables and the commands that do not end by themselves.
pub(super) async fn run(program: &Path, cluster: &Cluster) -> Tally {
    let leader = cluster.leader().await;
    let follower = (leader + 1) % cluster.nodes.len();
    let (member, _) = cluster.leader_seen_by(follower).await.expect("a node that serves");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder_path = folder.path().to_str().expect("a path in UTF-8").to_owned();
    let mut session = Session {
        program,
        endpoints: cluster.endpoints().join(","),
        kept: vec![
            ("leader", cluster.endpoints()[leader].clone()),
            ("follower", format!("{member:x}")),
            ("follower-url", cluster.endpoints()[follower].clone()),
            ("folder", folder_path),
        ],
        tally: Tally::default(),
    };
    for case in [KEYS, LEASES, CLUSTER, USERS].into_iter().flatten() {
        session.check(case);
    }
    session.endless("watch w --prefix --rev=4", "put wa 1", &["PUT", "wa", "1"]);
    session.endless("elect name me", "put wa 2", &["name/*", "me"]);
    session.endless("elect other --listen", "put other/1 somebody", &["other/1", "somebody"]);
    session.endless("watch p --progress-notify --rev=4", "put p 1", &["PUT", "p", "1", "progress notify: *"]);
    session.interactive();
    session.check(&Case { keeps: Some((1, "lease")), ..case("lease grant 3", &[" granted with TTL(3s)\n"]) });
    let renewed = "lease {lease} keepalived with TTL(3)";
    session.endless("lease keep-alive {lease}", "lease list", &[renewed, renewed, renewed]);
    session.mirror();
    // Ten thousand keys of a KiB each.
    session.check(&case("check datascale --load=s --auto-compact", &["PASS: Approximate system memory used"]));
    // Small load, one minute. Whether a machine is fast enough is not asked here, but that no write fails is.
    let performance = session.typed("check perf --load=s").output().expect("etcdctl runs");
    let told = printed(&performance);
    let held = told.contains("Throughput") && !told.contains("error");
    session.tally.fact("etcdctl check perf --load=s", if held { Ok(()) } else { Err(told) });
    session.tally
}

struct Session<'a> {
    program: &'a Path,
    endpoints: String,
    kept: Vec<(&'static str, String)>,
    tally: Tally,
}

impl Session<'_> {
    fn filled_in(&self, text: &str) -> String {
        self.kept.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    }

    fn typed(&self, typed: &str) -> Command {
        let mut command = Command::new(self.program);
        // A login is given up after the time for dialling, and a hash is slow work for a debug build.
        command.args(["--command-timeout=30s", "--dial-timeout=30s"]).args(self.filled_in(typed).split(' '));
        // What is typed would be added to it, and some commands take one endpoint alone.
        if !typed.contains("--endpoints=") {
            command.args(["--endpoints", &self.endpoints]);
        }
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn check(&mut self, case: &Case) {
        let mut child = self.typed(case.typed).spawn().expect("etcdctl starts");
        // Most read nothing, and may have ended.
        let _ = child.stdin.take().expect("piped").write_all(case.input.as_bytes());
        let output = child.wait_with_output().expect("etcdctl ends");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = printed(&output);
        let expected: Vec<String> = case.told.iter().map(|text| self.filled_in(text)).collect();
        let listed = |text: &String| expected.iter().filter(|other| *other == text).count();
        let missing =
            expected.iter().find(|text| !text.is_empty() && told.matches(text.as_str()).count() < listed(text));
        let whole = answer.starts_with(&expected[0]) && answer.ends_with(expected.last().expect("one at least"));
        let held = if output.status.success() == case.fails {
            Err(format!("{}: {told}", output.status))
        } else if let Some(text) = missing {
            Err(format!("not {text:?}: {told}"))
        } else if case.exact && !(whole && (expected.len() > 1 || answer == expected[0])) {
            Err(format!("something else: {answer:?}"))
        } else {
            Ok(())
        };
        if let Some((word, name)) = case.keeps {
            let word = answer.split_whitespace().nth(word).unwrap_or_default().to_owned();
            self.kept.retain(|(other, _)| *other != name);
            self.kept.push((name, word));
        }
        self.tally.fact(&format!("etcdctl {}", case.typed), held);
    }

    /// A command that waits for what happens: prints these lines once another command has run, and is ended then.
    fn endless(&mut self, typed: &str, then: &str, lines: &[&str]) {
        let mut command = Running::start(self.typed(typed));
        let other = self.typed(then).output().expect("etcdctl runs");
        let told = self.tells(&mut command, lines);
        let held = if other.status.success() { told } else { Err(printed(&other)) };
        self.tally.fact(&format!("etcdctl {typed}"), held);
    }

    /// A watch that is told what to watch, and asked how far it is, while it runs.
    fn interactive(&mut self) {
        let mut command = Running::start(self.typed("watch --interactive"));
        let mut told = Ok(());
        for (number, (input, then, lines)) in [
            ("watch i --prefix --rev=4\n", Some("put i 1"), &["PUT", "i", "1"][..]),
            ("watch j -- echo ran\nprogress\n", None, &["progress notify: *", "progress notify: *"]),
            ("", Some("put j 2"), &["PUT", "j", "2", "ran"]),
        ]
        .into_iter()
        .enumerate()
        {
            command.input.write_all(input.as_bytes()).expect("it reads");
            let done = then.is_none_or(|then| self.typed(then).status().is_ok_and(|status| status.success()));
            let held = if done { self.tells(&mut command, lines) } else { Err(format!("{then:?} failed")) };
            told = told.and(held.map_err(|why| format!("part {number}: {why}")));
        }
        self.tally.fact("etcdctl watch --interactive", told);
    }

    /// A mirror that is told what was there and what comes, here of one prefix below another.
    fn mirror(&mut self) {
        self.check(&exact("put from/old 1", &["OK\n"]));
        let _mirror = Running::start(self.typed("make-mirror {follower-url} --prefix=from/ --dest-prefix=to/"));
        let lines = ["PUT", "to/old", "1", "PUT", "to/new", "2", "DELETE", "to/old", ""];
        let mut copies = Running::start(self.typed("watch to/ --prefix --rev=4"));
        let mut told = Ok(());
        // One after the other: what was there is read at one moment, and what is gone by then was never there.
        for (then, lines) in
            [(None, &lines[..3]), (Some("put from/new 2"), &lines[3..6]), (Some("del from/old"), &lines[6..])]
        {
            let done = then.is_none_or(|then| self.typed(then).status().is_ok_and(|status| status.success()));
            let held = if done { self.tells(&mut copies, lines) } else { Err(format!("{then:?} failed")) };
            told = told.and(held);
        }
        self.tally.fact("etcdctl make-mirror", told);
    }

    /// Whether a command prints these lines next; a `*` stands for any end of one.
    fn tells(&self, command: &mut Running, lines: &[&str]) -> Result<(), String> {
        for wanted in lines.iter().map(|line| self.filled_in(line)) {
            let mut line = String::new();
            command.output.read_line(&mut line).map_err(|error| error.to_string())?;
            let line = line.trim_end_matches('\n');
            let fits = wanted.strip_suffix('*').map_or(line == wanted, |start| line.starts_with(start));
            if !fits {
                return Err(format!("{line:?} instead of {wanted:?}"));
            }
        }
        Ok(())
    }
}

/// A command that goes on, and ends with this.
struct Running {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut process = command.stderr(Stdio::inherit()).spawn().expect("etcdctl starts");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        Running { process, input, output }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
