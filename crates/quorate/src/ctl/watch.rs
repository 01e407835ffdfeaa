//! `ctl watch`: prints changes as they happen, until it is interrupted.

use bytes::Bytes;
use clap::Args;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use quorate_proto::mvccpb::Event;
use quorate_proto::mvccpb::event::EventType;
use serde_json::{Map, Value, json};
use tokio_stream::StreamExt as _;

use super::Context;
use super::connect::channel;
use super::keys::{prefix_end, prefix_start, text};
use super::output::put_bytes;
use crate::failure::Failure;

/// Arguments of `ctl watch`.
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// The key.
    key: String,
    /// Every key that begins with KEY.
    #[arg(long)]
    prefix: bool,
    /// Begin with the changes of this revision; 0 = with the next change.
    #[arg(long, default_value_t = 0)]
    revision: i64,
    /// Tell what each key held before, too.
    #[arg(long)]
    prev: bool,
}

pub(super) async fn run(context: &Context, args: WatchArgs) -> Result<(), Failure> {
    let create = WatchCreateRequest {
        range_end: if args.prefix { prefix_end(args.key.as_bytes()) } else { Bytes::new() },
        key: prefix_start(&args.key, args.prefix),
        start_revision: args.revision,
        prev_kv: args.prev,
        ..WatchCreateRequest::default()
    };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The server ends a stream whose requests have ended.
    let requests = tokio_stream::once(create).chain(tokio_stream::pending());
    let mut client = WatchClient::new(channel(&context.endpoint).await?).max_decoding_message_size(usize::MAX);
    let answered = |status: tonic::Status| Failure::answered(&context.endpoint, &status);
    let mut answers = client.watch(requests).await.map_err(answered)?.into_inner();
    while let Some(answer) = answers.message().await.map_err(answered)? {
        if answer.compact_revision != 0 {
            return Err(Failure::new(format_args!(
                "what happened before revision {} is forgotten: watch from there",
                answer.compact_revision
            )));
        }
        if answer.canceled {
            return Err(Failure::new(format_args!("the watch ended: {}", answer.cancel_reason)));
        }
        for event in &answer.events {
            context.output.print(&json_event(event), || event_text(event));
        }
    }
    Err(Failure::new(format_args!("{} ended the watch", context.endpoint)))
}

fn json_event(event: &Event) -> Value {
    let mut object = Map::new();
    let kv = event.kv.clone().unwrap_or_default();
    object.insert("type".to_string(), json!(kind(event)));
    object.insert("revision".to_string(), json!(kv.mod_revision));
    put_bytes(&mut object, "key", &kv.key);
    if event.r#type() == EventType::Put {
        put_bytes(&mut object, "value", &kv.value);
        object.insert("create_revision".to_string(), json!(kv.create_revision));
        object.insert("version".to_string(), json!(kv.version));
        object.insert("lease".to_string(), json!(kv.lease));
    }
    if let Some(before) = &event.prev_kv {
        put_bytes(&mut object, "previous", &before.value);
    }
    Value::Object(object)
}

fn event_text(event: &Event) -> String {
    let kv = event.kv.clone().unwrap_or_default();
    let value = if event.r#type() == EventType::Put { format!(" {}", text(&kv.value)) } else { String::new() };
    let before = event.prev_kv.as_ref().map_or_else(String::new, |kv| format!(" (before: {})", text(&kv.value)));
    format!("{} {} {}{value}{before}", kv.mod_revision, kind(event), text(&kv.key))
}

fn kind(event: &Event) -> &'static str {
    if event.r#type() == EventType::Delete { "delete" } else { "put" }
}
