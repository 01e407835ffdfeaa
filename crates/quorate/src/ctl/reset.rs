//! `ctl reset`: makes a node that left its cluster usable again.

use clap::Args;
use quorate_proto::quorate::v1::{ResetRequest, StatusRequest};
use serde_json::json;

use super::Context;
use super::connect::admin;
use super::init::parse_cluster_id;
use super::output::{hex, node_id};
use crate::failure::Failure;

/// Arguments of `ctl reset`.
#[derive(Debug, Args)]
pub(super) struct ResetArgs {
    /// The node's cluster id, as `status` shows it: proof that this is the node that was meant.
    #[arg(long, value_name = "HEX")]
    cluster_id: Option<String>,
    /// The node's id, as `status` shows it.
    #[arg(long, value_name = "HEX")]
    node_id: Option<String>,
}

pub(super) async fn run(context: &Context, args: &ResetArgs) -> Result<(), Failure> {
    let failed = |status: tonic::Status| Failure::answered(&context.endpoint, &status);
    let mut admin = admin(&context.endpoint, &context.token).await?;
    let request = match (&args.cluster_id, &args.node_id) {
        (Some(cluster_id), Some(node)) => ResetRequest {
            cluster_id: parse_cluster_id(cluster_id)?,
            node_id: u64::from_str_radix(node.trim_start_matches("0x"), 16).map_err(|_| {
                Failure::new(format_args!("`{node}` is no node id")).advise("write it as `status` shows it")
            })?,
        },
        _ => {
            let status = admin.status(StatusRequest {}).await.map_err(failed)?.into_inner();
            return Err(Failure::new(format_args!(
                "a reset has to name what it sets aside; {} is node {} of cluster {}",
                context.endpoint,
                node_id(status.node_id),
                hex(&status.cluster_id)
            ))
            .advise(format_args!(
                "quorate ctl --endpoint {} reset --cluster-id {} --node-id {}",
                context.endpoint,
                hex(&status.cluster_id),
                node_id(status.node_id)
            )));
        }
    };
    let answer = admin.reset(request).await.map_err(failed)?.into_inner();
    let incarnation = hex(&answer.incarnation);
    context.output.print(&json!({"incarnation": incarnation}), || {
        format!("{} is empty now, with the incarnation {incarnation}; its old data lies aside", context.endpoint)
    });
    Ok(())
}
