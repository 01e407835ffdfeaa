//! `ctl members`, `ctl set-voters`, `ctl transfer-leader`: who belongs to the cluster, and who leads it.

use std::io::{IsTerminal, Write};

use clap::Args;
use quorate_proto::quorate::v1::{
    Configuration, Follower, Member, MemberRole, SetVotersPhase, SetVotersProgress, SetVotersRequest, StatusRequest,
    StatusResponse, Target, TransferLeaderRequest, target,
};
use serde_json::{Value, json};
use tonic::Code;

use super::Context;
use super::address::{Place, parse_voters};
use super::connect::admin;
use super::output::{Output, hex, json_node_id, node_id, table};
use crate::failure::Failure;

/// Arguments of `ctl set-voters`.
#[derive(Debug, Args)]
pub(super) struct SetVotersArgs {
    /// Every voter that shall be: client or peer address, or id:HEX for a member.
    #[arg(value_name = "HOST:PORT,…")]
    voters: String,
    /// Refuse unless the configuration still has this index (shown by `members`).
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    expect: u64,
}

/// Arguments of `ctl transfer-leader`.
#[derive(Debug, Args)]
pub(super) struct TransferLeaderArgs {
    /// Id or name of the voter that shall lead; the one with the longest log if absent.
    #[arg(value_name = "MEMBER")]
    to: Option<String>,
}

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let status = look(context).await?;
    let configuration = status.configuration.clone().unwrap_or_default();
    if configuration.members.is_empty() && status.cluster_id.is_empty() {
        return Err(Failure::new(format_args!("{} is not part of a cluster", context.endpoint))
            .advise("make one with `quorate ctl init --voters …`, or name the node in `set-voters`"));
    }
    if configuration.members.is_empty() {
        return Err(Failure::new(format_args!("{} knows of no committed configuration yet", context.endpoint))
            .advise("again in a moment; a majority of the voters must run"));
    }
    context.output.print(&json_members(&status, &configuration), || members_text(&status, &configuration));
    Ok(())
}

pub(super) async fn set_voters(context: &Context, args: &SetVotersArgs) -> Result<(), Failure> {
    let targets = parse_voters(&args.voters)?.into_iter().map(|voter| Target {
        voter: Some(match voter.place {
            Place::Address(address) => target::Voter::Address(address),
            Place::Member(id) => target::Voter::NodeId(id),
        }),
    });
    let request = SetVotersRequest { targets: targets.collect(), expected_config_index: args.expect };
    let failed = |status: tonic::Status| Failure::answered(&context.endpoint, &status);
    let mut admin = admin(&context.endpoint, &context.token).await?;
    let mut progress = admin.set_voters(request).await.map_err(failed)?.into_inner();
    let mut shown = ProgressLine::default();
    while let Some(step) = progress.message().await.map_err(|status| {
        let failure = Failure::answered(&context.endpoint, &status);
        match status.code() {
            // Refused: there is no change.
            Code::InvalidArgument | Code::FailedPrecondition | Code::Unauthenticated | Code::Aborted => failure,
            _ => failure.advise("the change may go on without this command; the same command follows it to its end"),
        }
    })? {
        if step.phase() == SetVotersPhase::Done {
            shown.end();
            context.output.print(&json!({"config_index": step.config_index, "text": step.text}), || step.text.clone());
            return Ok(());
        }
        if context.output == Output::Text {
            shown.show(&describe(&step));
        }
    }
    Err(Failure::new(format_args!("{} ended the call before the change was done", context.endpoint))
        .advise("the change goes on without this command; the same command follows it to its end"))
}

pub(super) async fn transfer_leader(context: &Context, args: &TransferLeaderArgs) -> Result<(), Failure> {
    let to = match &args.to {
        None => 0,
        Some(text) => find_member(&look(context).await?, text)?,
    };
    let mut admin = admin(&context.endpoint, &context.token).await?;
    let answer = admin.transfer_leader(TransferLeaderRequest { node_id: to, expected_config_index: 0 }).await;
    let answer = answer.map_err(|status| Failure::answered(&context.endpoint, &status))?.into_inner();
    context.output.print(&json!({"leader": json_node_id(answer.leader), "term": answer.term}), || {
        format!("{} leads in term {}", node_id(answer.leader), answer.term)
    });
    Ok(())
}

async fn look(context: &Context) -> Result<StatusResponse, Failure> {
    let answer = admin(&context.endpoint, &context.token).await?.status(StatusRequest {}).await;
    Ok(answer.map_err(|status| Failure::answered(&context.endpoint, &status))?.into_inner())
}

fn find_member(status: &StatusResponse, text: &str) -> Result<u64, Failure> {
    let members = status.configuration.iter().flat_map(|configuration| &configuration.members);
    let wanted = text.strip_prefix("id:").unwrap_or(text);
    let id = u64::from_str_radix(wanted.trim_start_matches("0x"), 16).ok();
    let named: Vec<u64> = members
        .filter(|member| member.name == text || Some(member.node_id) == id)
        .map(|member| member.node_id)
        .collect();
    match named[..] {
        [id] => Ok(id),
        [] => Err(Failure::new(format_args!("no member is called `{text}` or has that id"))
            .advise("`quorate ctl members` lists them")),
        _ => Err(Failure::new(format_args!("several members are called `{text}`")).advise("use the id")),
    }
}

/// The role of a member in lower case.
pub(super) fn role_name(member: &Member) -> &'static str {
    match member.role() {
        MemberRole::Voter => "voter",
        MemberRole::Outgoing => "outgoing",
        MemberRole::Learner => "learner",
        MemberRole::Unspecified => "unknown",
    }
}

fn members_text(status: &StatusResponse, configuration: &Configuration) -> String {
    let rows: Vec<Vec<String>> = configuration
        .members
        .iter()
        .map(|member| {
            let leader = if member.node_id == status.leader { "leader" } else { "" };
            vec![
                node_id(member.node_id),
                member.name.clone(),
                role_name(member).to_string(),
                leader.to_string(),
                member.peer_address.clone(),
                member.client_addresses.join(","),
            ]
        })
        .collect();
    let mut text = table(&["ID", "NAME", "ROLE", "LEADS", "PEER", "CLIENT"], &rows);
    let joint = if configuration.joint { ", joint" } else { "" };
    text.push_str(&format!("\nconfiguration {}{joint}", configuration.index));
    if !configuration.target.is_empty() {
        let target: Vec<String> = configuration.target.iter().map(|id| node_id(*id)).collect();
        text.push_str(&format!(", on the way to {}", target.join(" ")));
    }
    text
}

fn json_members(status: &StatusResponse, configuration: &Configuration) -> Value {
    json!({
        "cluster_id": hex(&status.cluster_id),
        "leader": json_node_id(status.leader),
        "configuration": json_configuration(configuration),
    })
}

/// A configuration in JSON, as `members` and `status` show it.
pub(super) fn json_configuration(configuration: &Configuration) -> Value {
    let members: Vec<Value> = configuration
        .members
        .iter()
        .map(|member| {
            json!({
                "node_id": json_node_id(member.node_id),
                "incarnation": hex(&member.incarnation),
                "name": member.name,
                "role": role_name(member),
                "peer_address": member.peer_address,
                "client_addresses": member.client_addresses,
                "max_version": member.max_version,
            })
        })
        .collect();
    let target: Vec<Value> = configuration.target.iter().map(|id| json_node_id(*id)).collect();
    json!({"index": configuration.index, "joint": configuration.joint, "members": members, "target": target})
}

fn describe(step: &SetVotersProgress) -> String {
    let learner = |follower: &Follower| {
        let how = if follower.snapshot { ", snapshot" } else { "" };
        format!("{} {} behind{how}", node_id(follower.node_id), follower.lag_entries)
    };
    let learners: Vec<String> = step.learners.iter().map(learner).collect();
    if learners.is_empty() { step.text.clone() } else { format!("{} ({})", step.text, learners.join("; ")) }
}

/// Shows progress on standard error: in place on a terminal, else one line each time it changed.
#[derive(Debug, Default)]
struct ProgressLine {
    last: String,
}

impl ProgressLine {
    fn show(&mut self, text: &str) {
        if text == self.last {
            return;
        }
        let mut error = std::io::stderr();
        // Progress is a courtesy: that nobody can see it is no failure.
        let _ = if error.is_terminal() {
            write!(error, "\r\x1b[2K{text}").and_then(|()| error.flush())
        } else {
            writeln!(error, "{text}")
        };
        self.last = text.to_string();
    }

    fn end(&self) {
        let mut error = std::io::stderr();
        if error.is_terminal() && !self.last.is_empty() {
            let _ = write!(error, "\r\x1b[2K");
        }
    }
}
