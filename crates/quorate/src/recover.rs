//! `quorate recover`: one surviving node becomes a cluster of its own, after the quorum is gone for good.
//!
//! Shows what no quorum is known to have before it asks, and never goes on without the old cluster's id typed in, nor by itself from
//! a node that was found unfit to go on in the old cluster.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use quorate_server::{Entry, Member, Payload};
use quorate_store::NodeMark;
use quorate_store::offline::{
    Inspection, NewCluster, Recovered, UncommittedTail, inspect, recover, unfinished_recovery,
};

use crate::dump_applied::{failed, open_stopped};
use crate::failure::Failure;
use crate::random::random_id;
use crate::say::say;

/// Uncommitted entries that are shown one by one.
const SHOWN_ENTRIES: usize = 20;

/// Arguments of `quorate recover`.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// The directory of the stopped node, the one with the longest log of those that are left.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The id of the cluster that is lost, instead of typing it when asked.
    #[arg(long, value_name = "HEX")]
    confirm: Option<String>,
    /// The id of the new cluster, instead of a random one. With it the command may be repeated: a directory that has become
    /// that cluster is left as it is.
    #[arg(long, value_name = "HEX", value_parser = parse_id)]
    new_cluster_id: Option<u128>,
    /// Leaves out the entries that no quorum is known to have. An acknowledged write may be among them.
    #[arg(long)]
    discard_uncommitted: bool,
    /// Goes on although the node is marked as fenced, damaged or removed. Its copy may be wrong, short of something, or old.
    #[arg(long)]
    although_marked: bool,
    /// Added to the revision, so that no client takes a new one for one it has seen.
    #[arg(long, value_name = "REVISIONS", default_value_t = 1_000_000_000)]
    revision_bump: u64,
    /// Where other nodes will find this one, if not where they did.
    #[arg(long, value_name = "HOST:PORT")]
    advertise_peer: Option<String>,
}

/// Shows, asks, and makes the new cluster.
///
/// # Errors
/// [`Failure`].
pub(crate) fn run(args: &RecoverArgs) -> Result<(), Failure> {
    let disk = Arc::new(open_stopped(&args.data_dir)?);
    let refused = |error| failed(&args.data_dir, &error);
    let tail = if args.discard_uncommitted { UncommittedTail::Discard } else { UncommittedTail::Apply };
    if let Some(cluster_id) = unfinished_recovery(disk.clone()).map_err(refused)? {
        if args.new_cluster_id.is_some_and(|wanted| wanted != cluster_id) {
            return Err(Failure::new(format_args!(
                "a recovery of this directory was interrupted; it was to become cluster {cluster_id:032x}"
            ))
            .advise("that id as --new-cluster-id, or another surviving node"));
        }
        say("A recovery of this directory was interrupted: it is finished as it was begun.");
        let new = NewCluster { cluster_id, member: Member::default(), revision_bump: args.revision_bump };
        tell(&recover(disk, new, tail).map_err(refused)?);
        return Ok(());
    }
    let inspection = inspect(disk.clone()).map_err(refused)?;
    let Some(identity) = inspection.identity else {
        return Err(Failure::new(format_args!("{} never was part of a cluster", args.data_dir.display()))
            .advise("start it with `quorate server` and make a cluster with `quorate ctl init`"));
    };
    if args.new_cluster_id == Some(identity.cluster_id) {
        say(format_args!("This directory is of cluster {:032x} already: nothing is left to do.", identity.cluster_id));
        return Ok(());
    }
    show(&inspection, args);
    refuse_marked(&inspection.mark, args)?;
    let old = format!("{:032x}", identity.cluster_id);
    confirm(args, &old)?;
    let mut member = own_member(&inspection)?;
    if let Some(address) = &args.advertise_peer {
        member.peer_address.clone_from(address);
    }
    let cluster_id = args.new_cluster_id.map_or_else(random_id, Ok)?;
    let new = NewCluster { cluster_id, member, revision_bump: args.revision_bump };
    tell(&recover(disk, new, tail).map_err(refused)?);
    Ok(())
}

/// 32 hexadecimal digits that are not all zero, which would mean "none".
pub(crate) fn parse_id(text: &str) -> Result<u128, String> {
    let id = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    id.filter(|id| *id != 0).ok_or_else(|| "a cluster id is 32 hexadecimal digits, not all zero".to_owned())
}

fn tell(recovered: &Recovered) {
    say(format_args!("cluster {:032x}, revision {}", recovered.identity.cluster_id, recovered.revision));
    say("Start the node as before, the others on empty data directories; then `quorate ctl set-voters` lets those in.");
}

fn show(inspection: &Inspection, args: &RecoverArgs) {
    let (config_index, membership) = &inspection.membership;
    say(format_args!("node of {}", args.data_dir.display()));
    if let Some(identity) = inspection.identity {
        say(format_args!("  cluster    {:032x}", identity.cluster_id));
        say(format_args!("  node       {:x}", identity.node_id.0));
    }
    say(format_args!("  voters     {} (configuration {})", membership.voters.len(), config_index.0));
    say(format_args!(
        "  log        to {}, known to be committed to {}",
        inspection.last.0, inspection.hard_state.commit.0
    ));
    say(format_args!("  revision   {}", inspection.revision));
    say(format_args!("  mark       {}", in_words(&inspection.mark)));
    let tail = &inspection.uncommitted;
    if tail.is_empty() {
        say("Every entry it has is known to be committed.");
        return;
    }
    let fate = if args.discard_uncommitted { "will be left out" } else { "will become part of the new cluster" };
    say(format_args!("{} entries are not known to be committed, and {fate}:", tail.len()));
    for entry in tail.iter().take(SHOWN_ENTRIES) {
        say(format_args!("  {} term {}: {}", entry.index.0, entry.term.0, describe(entry)));
    }
    if tail.len() > SHOWN_ENTRIES {
        say(format_args!("  and {} more", tail.len() - SHOWN_ENTRIES));
    }
}

fn describe(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Noop => "a new leader".to_string(),
        Payload::Command(bytes) => format!("a write of {} bytes", bytes.len()),
        Payload::Membership(membership) => format!("a configuration of {} voters", membership.voters.len()),
    }
}

fn in_words(mark: &NodeMark) -> String {
    match mark {
        NodeMark::None => "none".to_owned(),
        NodeMark::Removed => "removed: the cluster has left it out and gone on without it".to_owned(),
        NodeMark::Fenced { reason } => format!("fenced: its state was not the majority's ({reason})"),
        NodeMark::Damaged { reason } => format!("damaged: its files were not what it had written ({reason})"),
    }
}

/// The mark does not outlive a recovery, and every node of the new cluster will be a copy of this one: whoever goes on knows of it.
/// That a damaged copy was read through proves that what is there is sound, not that all is there.
fn refuse_marked(mark: &NodeMark, args: &RecoverArgs) -> Result<(), Failure> {
    let consequence = match mark {
        NodeMark::None => return Ok(()),
        NodeMark::Removed => "what was written after its removal is not in it",
        NodeMark::Fenced { .. } => "some of its keys and values are not those that the cluster served",
        NodeMark::Damaged { .. } => "it may lack something that was acknowledged",
    };
    if args.although_marked {
        return Ok(());
    }
    let what = format!("{}: this node is marked as {}; nothing was changed", args.data_dir.display(), in_words(mark));
    Err(Failure::new(what).advise(format_args!(
        "another surviving node, or a backup. If there is none, --although-marked makes the new cluster from this copy: {consequence}"
    )))
}

fn confirm(args: &RecoverArgs, cluster_id: &str) -> Result<(), Failure> {
    let typed = match &args.confirm {
        Some(typed) => typed.clone(),
        None => {
            print!("This makes a new cluster; the old one must never run again. Type the cluster's id to go on: ");
            let mut typed = String::new();
            io::stdout().flush().and_then(|()| io::stdin().lock().read_line(&mut typed)).map_err(Failure::new)?;
            typed
        }
    };
    if typed.trim() != cluster_id {
        return Err(Failure::new("that is not the cluster's id; nothing was changed"));
    }
    Ok(())
}

fn own_member(inspection: &Inspection) -> Result<Member, Failure> {
    let members = inspection.membership.1.members.values();
    let own = members.clone().find(|member| member.incarnation == inspection.incarnation);
    own.cloned().ok_or_else(|| {
        Failure::new("this node is not in the last configuration it knows").advise("another of the surviving nodes")
    })
}
