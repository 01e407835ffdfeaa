//! `Maintenance.Snapshot` as etcd's clients keep it, and what clients of the old cluster are told by a restored one.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_proto::etcdserverpb::{RangeRequest, SnapshotRequest, SnapshotResponse};
use quorate_server::{EtcdImage, Incarnation, Member};
use quorate_store::RealDisk;
use quorate_store::offline::{NewCluster, restore};
use tonic::Code;

use crate::served::{Served, put, range};
use crate::watcher::{Watcher, watch};

/// Added to the revision by the restore.
const BUMP: i64 = 1000;

async fn download(served: &Served) -> Vec<SnapshotResponse> {
    let answer = MaintenanceClient::new(served.channel()).snapshot(SnapshotRequest {}).await;
    let mut parts = answer.expect("offered").into_inner();
    let mut all = Vec::new();
    while let Some(part) = parts.message().await.expect("whole") {
        all.push(part);
    }
    all
}

/// A file of etcd's client, from a node that is gone, as the data of a new cluster.
async fn restored(file: &[u8]) -> (Served, tempfile::TempDir) {
    let length = EtcdImage::length_in(&mut Cursor::new(file)).expect("readable") as usize;
    assert!(length < file.len(), "the file is not known for what it is");
    let directory = tempfile::TempDir::new().expect("a temporary folder");
    let disk = Arc::new(RealDisk::new(directory.path()).expect("an empty folder"));
    let image = file[..length].chunks(1 << 16).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let member = Member { name: "restored".into(), peer_address: "127.0.0.1:1".into(), ..Member::default() };
    let new = NewCluster { cluster_id: 0xBEEF, member, revision_bump: BUMP as u64 };
    restore(disk, image, new, Incarnation(77)).expect("whole");
    (Served::on(directory.path()).await, directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_whole_by_etcds_rule_and_ends_the_old_revisions_when_it_is_restored() {
    let served = Served::alone().await;
    for number in 0..300 {
        served.put(&format!("k{number:03}"), &"v".repeat(3000)).await;
    }
    served.put("k000", "newer").await;
    let parts = download(&served).await;
    served.server.stop().await;

    let (last, before) = parts.split_last().expect("parts");
    assert_eq!((last.remaining_bytes, last.blob.len()), (0, 32));
    assert!(before.iter().all(|part| part.remaining_bytes > 0 && part.blob.len() <= 1 << 18));
    assert_eq!(parts[0].version, "3.7.0");
    assert_eq!(parts[0].header.as_ref().expect("a header").revision, 302);
    let file: Vec<u8> = parts.iter().flat_map(|part| part.blob.to_vec()).collect();
    // `etcdctl snapshot save` calls a file whole by its length alone.
    assert_eq!(file.len() % 512, 32);
    let sum = ring::digest::digest(&ring::digest::SHA256, &file[..file.len() - 32]);
    assert_eq!(last.blob, sum.as_ref());

    let (served, _directory) = restored(&file).await;
    let now = 302 + BUMP;
    let answer = served.kv().range(range("k000")).await.expect("readable").into_inner();
    assert_eq!(answer.header.expect("a header").revision, now);
    assert_eq!((answer.kvs[0].value.as_ref(), answer.kvs[0].mod_revision), (&b"newer"[..], 302));
    let at = |revision| RangeRequest { revision, ..range("k001") };
    served.kv().range(at(now)).await.expect("the first revision of the new cluster");
    for old in [2, 302, now - 1] {
        let refused = served.kv().range(at(old)).await.expect_err("of the old cluster");
        let text = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!((refused.code(), refused.message()), (Code::OutOfRange, text), "at {old}");
    }
    // A client that goes on with its watch is told that it has missed something.
    let mut watcher = Watcher::open(served.channel()).await;
    let id = watcher.create(watch("k000", 303)).await.watch_id;
    let told = watcher.next().await;
    assert!(told.canceled && told.events.is_empty(), "{told:?}");
    assert_eq!((told.watch_id, told.compact_revision), (id, now));
    let id = watcher.create(watch("k000", now)).await.watch_id;
    served.kv().put(put("k000", "newest")).await.expect("written");
    assert_eq!(watcher.events(1).await, [format!("{id}: put k000=newest @{}", now + 1)]);
    served.server.stop().await;
}
