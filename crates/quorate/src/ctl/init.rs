//! `ctl init`: tells every listed node, empty and waiting, that together they are a cluster.

use bytes::Bytes;
use clap::Args;
use quorate_proto::quorate::v1::{IdentifyResponse, InitMember, InitRequest};
use serde_json::json;

use super::Context;
use super::address::{Place, Voter, parse_voters};
use super::connect::{admin, identify};
use super::output::{hex, json_node_id, node_id, table};
use crate::failure::Failure;
use crate::random::random_id;

/// Arguments of `ctl init`.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The first voters: client or peer address of each.
    #[arg(long, value_name = "[NAME=]HOST:PORT,…")]
    voters: String,
    /// Id of the new cluster, 32 hexadecimal digits; random if absent.
    #[arg(long, value_name = "HEX")]
    cluster_id: Option<String>,
}

/// A listed node, and where its admin service is.
struct Found {
    admin_address: String,
    node: IdentifyResponse,
}

pub(super) async fn run(context: &Context, args: &InitArgs) -> Result<(), Failure> {
    let voters = parse_voters(&args.voters)?;
    let mut found = Vec::new();
    for voter in &voters {
        found.push(find(context, voter).await?);
    }
    let cluster_id = choose_cluster_id(args.cluster_id.as_deref(), &found)?;
    let members: Vec<InitMember> = found.iter().map(|found| member(&found.node)).collect();
    let mut rows = Vec::new();
    let mut accepted = Vec::new();
    for Found { admin_address, node } in &found {
        let request = InitRequest { cluster_id: cluster_id.clone(), members: members.clone() };
        let answer = admin(admin_address, &context.token).await?.init(request).await;
        let id = answer.map_err(|status| refused(admin_address, &status))?.into_inner().node_id;
        rows.push(vec![node.name.clone(), node_id(id), node.peer_address.clone()]);
        accepted.push(json!({"name": node.name, "node_id": json_node_id(id), "peer_address": node.peer_address}));
    }
    let id = hex(&cluster_id);
    context.output.print(&json!({"cluster_id": id, "members": accepted}), || {
        format!("cluster {id}\n{}", table(&["NAME", "ID", "PEER"], &rows))
    });
    Ok(())
}

async fn find(context: &Context, voter: &Voter) -> Result<Found, Failure> {
    let Place::Address(address) = &voter.place else {
        return Err(Failure::new("an empty node has no member id").advise("list each node as HOST:PORT"));
    };
    let mut node = identify(address, &context.token).await?;
    if let Some(name) = &voter.name {
        node.name.clone_from(name);
    }
    // What was typed may be the peer port; the node knows its client port.
    let admin_address = node.client_addresses.first().cloned().unwrap_or_else(|| address.clone());
    Ok(Found { admin_address, node })
}

/// A repeated `init` goes on with the cluster that was begun, so that it can finish what a first one left half done.
fn choose_cluster_id(asked: Option<&str>, found: &[Found]) -> Result<Bytes, Failure> {
    let begun = found.iter().map(|found| &found.node.cluster_id).find(|id| !id.is_empty());
    match (asked, begun) {
        (Some(text), _) => parse_cluster_id(text),
        (None, Some(begun)) => Ok(begun.clone()),
        (None, None) => Ok(Bytes::copy_from_slice(&random_id()?.to_be_bytes())),
    }
}

/// Sixteen bytes from 32 hexadecimal digits.
pub(super) fn parse_cluster_id(text: &str) -> Result<Bytes, Failure> {
    let number = if text.len() == 32 { u128::from_str_radix(text, 16).ok() } else { None };
    let number = number.filter(|number| *number != 0);
    let number = number.ok_or_else(|| {
        Failure::new(format_args!("`{text}` is no cluster id")).advise("write 32 hexadecimal digits, not all zero")
    })?;
    Ok(Bytes::copy_from_slice(&number.to_be_bytes()))
}

fn member(node: &IdentifyResponse) -> InitMember {
    InitMember {
        incarnation: node.incarnation.clone(),
        name: node.name.clone(),
        peer_address: node.peer_address.clone(),
        client_addresses: node.client_addresses.clone(),
        max_version: node.max_version,
    }
}

fn refused(address: &str, status: &tonic::Status) -> Failure {
    let failure = Failure::answered(address, status);
    if status.code() != tonic::Code::FailedPrecondition {
        return failure;
    }
    failure.advise("list exactly the nodes of the first `init`, or use nodes with empty data directories")
}

#[cfg(test)]
mod tests {
    use super::parse_cluster_id;

    #[test]
    fn cluster_ids_are_sixteen_bytes_and_not_zero() {
        assert_eq!(parse_cluster_id(&"0f".repeat(16)).expect("an id")[..], [0x0f; 16]);
        for text in ["", "0f", &"0".repeat(32), &"g".repeat(32), &"0f".repeat(17)] {
            assert!(parse_cluster_id(text).is_err(), "{text}");
        }
    }
}
