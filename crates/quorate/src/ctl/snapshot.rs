//! `ctl snapshot`: saves an image of a running node's state, verifies it, makes a new cluster's first node of it.

use std::fs::File;
use std::io::{self, Read, Seek, Take};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::{Args, Subcommand};
use quorate_proto::quorate::v1::SnapshotRequest;
use quorate_server::{EtcdImage, Incarnation, Member};
use quorate_store::RealDisk;
use quorate_store::offline::{NewCluster, restore};
use quorate_wire::snapshot::{Header, ImageDecoder, Part};
use serde_json::json;

use super::Context;
use super::connect::admin;
use super::output::hex;
use super::private_file::PrivateFile;
use crate::failure::Failure;
use crate::random::random_id;
use crate::stop::StopSignals;

/// Bytes read from an image at a time.
const READ_BYTES: usize = 1 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Writes one consistent state of the node to a file, while writes go on.
    Save {
        /// Created; must not exist.
        file: PathBuf,
    },
    /// Makes an empty directory the data of a one-voter cluster that holds what the image holds.
    Restore(RestoreArgs),
    /// Verifies an image and says what it holds.
    Inspect {
        /// The image; a file of `etcdctl snapshot save` from a Quorate, too.
        file: PathBuf,
    },
}

/// Arguments of `ctl snapshot restore`.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The image; a file of `etcdctl snapshot save` from a Quorate, too.
    file: PathBuf,
    /// The directory; created if absent, and empty otherwise.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The node's name.
    #[arg(long, default_value = "default")]
    name: String,
    /// Where clients will find the node.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2379")]
    advertise_client: String,
    /// Where other nodes will find it.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2380")]
    advertise_peer: String,
    /// Added to the revision, so that no client takes a new one for one it has seen.
    #[arg(long, value_name = "REVISIONS", default_value_t = 1_000_000_000)]
    revision_bump: u64,
}

pub(super) async fn run(context: &Context, command: SnapshotCommand) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Save { file } => save(context, &file).await,
        SnapshotCommand::Restore(args) => restore_into(context, &args),
        SnapshotCommand::Inspect { file } => inspect(context, &file),
    }
}

/// Saves, unless it is told to stop: then nothing is left of what was written.
async fn save(context: &Context, file: &Path) -> Result<(), Failure> {
    let mut signals = StopSignals::catch()?;
    tokio::select! {
        saved = save_whole(context, file) => saved,
        () = signals.next() => Err(Failure::new("interrupted; nothing was saved")),
    }
}

async fn save_whole(context: &Context, file: &Path) -> Result<(), Failure> {
    let failed = |status: tonic::Status| Failure::answered(&context.endpoint, &status);
    let mut out = PrivateFile::begin(file)?;
    let admin = admin(&context.endpoint, &context.token).await?;
    let mut chunks =
        admin.max_decoding_message_size(usize::MAX).snapshot(SnapshotRequest {}).await.map_err(failed)?.into_inner();
    let mut info = None;
    let mut bytes = 0;
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        info = info.or(chunk.info);
        bytes += chunk.data.len();
        out.write(&chunk.data)?;
    }
    // What was written is what will be read: the image carries its own checksums.
    out.finish(|written| verify(written).map(drop))?;
    let info = info.unwrap_or_default();
    let json = json!({
        "file": file, "bytes": bytes, "cluster_id": hex(&info.cluster_id), "index": info.index, "term": info.term,
        "revision": info.revision,
    });
    context.output.print(&json, || format!("saved revision {} to {}, {bytes} bytes", info.revision, file.display()));
    Ok(())
}

fn inspect(context: &Context, file: &Path) -> Result<(), Failure> {
    let (header, records) = verify(file)?;
    let cluster_id = format!("{:032x}", header.cluster_id);
    let json = json!({
        "cluster_id": cluster_id, "index": header.meta.index.0, "term": header.meta.term.0,
        "revision": header.revision.0, "compact_revision": header.compact_revision.0, "records": records,
        "format_version": header.format_version, "voters": header.meta.membership.voters.len(),
    });
    context.output.print(&json, || {
        format!(
            "whole and undamaged\ncluster   {cluster_id}\nrevision  {}, compacted {}\nrecords   {records}\nlog       {} in term {}\nformat    {}",
            header.revision, header.compact_revision, header.meta.index.0, header.meta.term.0, header.format_version
        )
    });
    Ok(())
}

/// Reads an image from end to end; what it says of itself, and how many records it has.
fn verify(file: &Path) -> Result<(Header, u64), Failure> {
    let refused = |problem: &dyn std::fmt::Display| {
        Failure::new(format_args!("{} is no usable image: {problem}", file.display()))
    };
    let mut decoder = ImageDecoder::new();
    let mut header = None;
    let mut count = None;
    for chunk in Chunks::open(file)? {
        decoder.push(&chunk.map_err(|error| refused(&error))?).map_err(|error| refused(&error))?;
        while let Some(part) = decoder.next_part().map_err(|error| refused(&error))? {
            match part {
                Part::Header(found) => header = Some(*found),
                Part::Rows(_) | Part::Records(_) => {}
                Part::End { records } => count = Some(records),
            }
        }
    }
    match (header, count) {
        (Some(header), Some(records)) => Ok((header, records)),
        _ => Err(refused(&"it ends too early")),
    }
}

fn restore_into(context: &Context, args: &RestoreArgs) -> Result<(), Failure> {
    let failed = |problem: &dyn std::fmt::Display| {
        Failure::new(format_args!("cannot restore into {}: {problem}", args.data_dir.display()))
    };
    let disk = RealDisk::new(&args.data_dir).map_err(|error| failed(&error))?;
    let incarnation = Incarnation(random_id()?);
    let cluster_id = random_id()?;
    let member = Member {
        incarnation,
        name: args.name.clone(),
        peer_address: args.advertise_peer.clone(),
        client_addresses: vec![args.advertise_client.clone()],
        max_version: quorate_wire::FORMAT_VERSION,
    };
    let new = NewCluster { cluster_id, member, revision_bump: args.revision_bump };
    let restored =
        restore(Arc::new(disk), Chunks::open(&args.file)?, new, incarnation).map_err(|error| failed(&error))?;
    let cluster_id = format!("{cluster_id:032x}");
    let json = json!({"cluster_id": cluster_id, "revision": restored.revision.0, "data_dir": args.data_dir});
    context.output.print(&json, || {
        format!(
            "cluster {cluster_id}, revision {}\nquorate server --data-dir {} --name {}",
            restored.revision,
            args.data_dir.display(),
            args.name
        )
    });
    Ok(())
}

/// The bytes of an image in a file, piece by piece. The file may be one of `etcdctl snapshot save`.
struct Chunks {
    file: Take<File>,
}

impl Chunks {
    fn open(path: &Path) -> Result<Self, Failure> {
        let open = || {
            let mut file = File::open(path)?;
            let length = EtcdImage::length_in(&mut file)?;
            file.rewind()?;
            Ok(Chunks { file: file.take(length) })
        };
        open().map_err(|error: io::Error| Failure::new(format_args!("cannot read {}: {error}", path.display())))
    }
}

impl Iterator for Chunks {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        let mut chunk = vec![0; READ_BYTES];
        match self.file.read(&mut chunk) {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some(Ok(chunk.into()))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_etcds_client_is_read_as_the_image_in_it() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let image = vec![7; 3 * READ_BYTES / 2];
        let mut end = EtcdImage::default();
        end.add(&image);
        let saved = [&image[..], &end.finish().concat()].concat();
        for (name, bytes) in [("plain", &image), ("etcd", &saved)] {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            let chunks = Chunks::open(&path).unwrap_or_else(|_| panic!("{name} opens"));
            let read: Vec<u8> = chunks.flat_map(|chunk| chunk.expect("readable")).collect();
            assert!(read == image, "{name}: {} bytes", read.len());
        }
    }
}
