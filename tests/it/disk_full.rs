//! A full disk refuses writes, keeps reads, and heals when space returns.

use std::path::Path;
use std::process::Command;

use quorate_proto::etcdserverpb::PutRequest;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_tests::cluster::wait_for;
use quorate_tests::load::{put, read};
use quorate_tests::node::{Node, NodeConfig};
use tempfile::TempDir;

/// A small file system of its own, unmounted when dropped.
struct SmallDisk {
    root: TempDir,
}

impl SmallDisk {
    /// `None` where this process may not mount.
    fn new(megabytes: u32) -> Option<Self> {
        let root = TempDir::new().expect("a temporary folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(root.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(SmallDisk { root })
    }

    fn path(&self) -> &Path {
        self.root.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the node's files may still be open when a failed assertion drops both.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_keeps_reads_and_heals() {
    let Some(disk) = SmallDisk::new(200) else {
        println!("SKIPPED: needs the right to mount a tmpfs");
        return;
    };
    let mut node = Node::start(NodeConfig::new("n1", disk.path()));
    let address = node.config.client;
    let name = node.config.peer.to_string();
    wait_for("the client port", || async move { tokio::net::TcpStream::connect(address).await.ok() }).await;
    assert!(node.ctl(&["init", "--voters", &name]).status.success(), "{}", node.log_tail());
    let mut client = KvClient::new(quorate_tests::cluster::channel(&address.to_string()));
    wait_for("the first put", || {
        let mut client = client.clone();
        async move { put(&mut client, "first", "1").await.ok() }
    })
    .await;

    // What else lives on that disk takes the space away.
    let ballast = disk.path().join("ballast");
    fill(&ballast);
    let mut refused = None;
    for number in 0..2_000 {
        let request = PutRequest {
            key: format!("big-{number}").into_bytes().into(),
            value: vec![7; 100_000].into(),
            ..PutRequest::default()
        };
        // A write that was in the log already when the space ran out has an open outcome and ends in a timeout; those that
        // come after it are refused.
        match client.put(request).await {
            Err(status) if status.code() == tonic::Code::Unavailable => {}
            Err(status) => {
                refused = Some(status);
                break;
            }
            Ok(_) => {}
        }
    }
    let refused = refused.expect("a full disk takes no 200 MB");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}\n{}", node.log_tail());
    assert!(node.is_running(), "{}", node.log_tail());
    read(&mut client, "first").await.expect("reads go on");

    std::fs::remove_file(&ballast).expect("the ballast goes");
    wait_for("writes to be taken again", || {
        let mut client = client.clone();
        async move { put(&mut client, "after", "2").await.ok() }
    })
    .await;
    assert!(node.is_running(), "{}", node.log_tail());
}

/// Writes to `path` until the disk has a megabyte left.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("the ballast opens");
    let block = vec![1_u8; 1 << 20];
    let mut written = 0_u64;
    while file.write_all(&block).is_ok() {
        written += block.len() as u64;
    }
    file.set_len(written.saturating_sub(1 << 20)).expect("the ballast shrinks");
}
