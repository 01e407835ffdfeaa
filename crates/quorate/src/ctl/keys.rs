//! `ctl get`, `ctl put`, `ctl del`: keys over the etcd API, with the consistency of a read as a flag.

use bytes::Bytes;
use clap::{Args, ValueEnum};
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse};
use quorate_proto::mvccpb::KeyValue;
use serde_json::{Map, Value, json};
use tonic::Request;
use tonic::metadata::MetadataMap;

use super::Context;
use super::connect::channel;
use super::output::{put_bytes, table};
use crate::failure::Failure;

/// How current a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Consistency {
    /// The leader answers under its lease.
    Default,
    /// The leader asks a quorum first.
    Consistent,
    /// The contacted node answers from what it has.
    Stale,
}

/// What to do when a stale read would be staler than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnStale {
    /// Fail.
    Refuse,
    /// Wait until the node has caught up.
    Wait,
    /// Ask the leader.
    Forward,
}

/// Arguments of `ctl get`.
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The key.
    key: String,
    /// Every key that begins with KEY.
    #[arg(long)]
    prefix: bool,
    /// At most this many keys; 0 = all.
    #[arg(long, default_value_t = 0)]
    limit: i64,
    /// Read at this revision; 0 = the newest.
    #[arg(long, default_value_t = 0)]
    revision: i64,
    /// How current the answer has to be.
    #[arg(long, value_enum, default_value = "consistent")]
    consistency: Consistency,
    /// With `stale`: an answer at most this old, in milliseconds.
    #[arg(long, value_name = "MS")]
    max_staleness: Option<u64>,
    /// With `stale`: what to do past --max-staleness.
    #[arg(long, value_enum)]
    on_stale: Option<OnStale>,
    /// An answer that shows at least this revision.
    #[arg(long, value_name = "REVISION")]
    min_revision: Option<i64>,
}

/// Arguments of `ctl put`.
#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// The key.
    key: String,
    /// The value.
    value: String,
}

/// Arguments of `ctl del`.
#[derive(Debug, Args)]
pub(super) struct DelArgs {
    /// The key.
    key: String,
    /// Every key that begins with KEY.
    #[arg(long)]
    prefix: bool,
}

pub(super) async fn get(context: &Context, args: GetArgs) -> Result<(), Failure> {
    let mut request = Request::new(RangeRequest {
        range_end: if args.prefix { prefix_end(args.key.as_bytes()) } else { Bytes::new() },
        key: prefix_start(&args.key, args.prefix),
        limit: args.limit,
        revision: args.revision,
        serializable: args.consistency == Consistency::Stale,
        ..RangeRequest::default()
    });
    insert(request.metadata_mut(), "quorate-consistency", Some(value_name(args.consistency)));
    insert(request.metadata_mut(), "quorate-max-staleness-ms", args.max_staleness);
    insert(request.metadata_mut(), "quorate-on-stale", args.on_stale.map(value_name));
    insert(request.metadata_mut(), "quorate-min-revision", args.min_revision);
    let mut client = KvClient::new(channel(&context.endpoint).await?).max_decoding_message_size(usize::MAX);
    let answer = client.range(request).await.map_err(|status| Failure::answered(&context.endpoint, &status))?;
    let how = how_it_was_read(answer.metadata());
    let range = answer.into_inner();
    if range.kvs.is_empty() && !args.prefix {
        return Err(Failure::new(format_args!("there is no key `{}`", args.key)));
    }
    let json = json_range(&range, how);
    context.output.print(&json, || if args.prefix { range_text(&range) } else { text(&range.kvs[0].value) });
    Ok(())
}

pub(super) async fn put(context: &Context, args: PutArgs) -> Result<(), Failure> {
    let request = PutRequest { key: args.key.into(), value: args.value.into(), ..PutRequest::default() };
    let answer = KvClient::new(channel(&context.endpoint).await?).put(request).await;
    let answer = answer.map_err(|status| Failure::answered(&context.endpoint, &status))?.into_inner();
    let revision = answer.header.map_or(0, |header| header.revision);
    context.output.print(&json!({"revision": revision}), || format!("revision {revision}"));
    Ok(())
}

pub(super) async fn del(context: &Context, args: DelArgs) -> Result<(), Failure> {
    let request = DeleteRangeRequest {
        range_end: if args.prefix { prefix_end(args.key.as_bytes()) } else { Bytes::new() },
        key: prefix_start(&args.key, args.prefix),
        prev_kv: false,
    };
    let answer = KvClient::new(channel(&context.endpoint).await?).delete_range(request).await;
    let answer = answer.map_err(|status| Failure::answered(&context.endpoint, &status))?.into_inner();
    let revision = answer.header.map_or(0, |header| header.revision);
    context.output.print(&json!({"revision": revision, "deleted": answer.deleted}), || {
        format!("deleted {}, revision {revision}", answer.deleted)
    });
    Ok(())
}

fn insert(metadata: &mut MetadataMap, name: &'static str, value: Option<impl ToString>) {
    if let Some(value) = value {
        metadata.insert(name, value.to_string().parse().expect("numbers and flag names are header values"));
    }
}

fn value_name(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("no value is hidden").get_name().to_string()
}

/// First key of an interval: an empty prefix begins at the first key there can be.
pub(super) fn prefix_start(key: &str, prefix: bool) -> Bytes {
    if prefix && key.is_empty() { Bytes::from_static(b"\0") } else { Bytes::copy_from_slice(key.as_bytes()) }
}

/// The first key after all that begin with `prefix`; `"\0"` (no end) if there is none.
pub(super) fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff);
    let Some(last) = kept else { return Bytes::from_static(b"\0") };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

fn how_it_was_read(metadata: &MetadataMap) -> Value {
    let names = [
        ("consistency", "quorate-consistency"),
        ("known_leader", "quorate-known-leader"),
        ("staleness_ms", "quorate-staleness-ms"),
        ("lag_entries", "quorate-lag-entries"),
    ];
    let told = names.iter().filter_map(|(field, name)| {
        let text = metadata.get(*name)?.to_str().ok()?;
        let value = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
        Some(((*field).to_string(), value))
    });
    Value::Object(told.collect())
}

fn json_range(range: &RangeResponse, how: Value) -> Value {
    let kvs: Vec<Value> = range.kvs.iter().map(json_kv).collect();
    let revision = range.header.as_ref().map_or(0, |header| header.revision);
    json!({"revision": revision, "count": range.count, "more": range.more, "kvs": kvs, "read": how})
}

fn json_kv(kv: &KeyValue) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "key", &kv.key);
    put_bytes(&mut object, "value", &kv.value);
    object.insert("create_revision".to_string(), json!(kv.create_revision));
    object.insert("mod_revision".to_string(), json!(kv.mod_revision));
    object.insert("version".to_string(), json!(kv.version));
    object.insert("lease".to_string(), json!(kv.lease));
    Value::Object(object)
}

fn range_text(range: &RangeResponse) -> String {
    if range.kvs.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> =
        range.kvs.iter().map(|kv| vec![text(&kv.key), kv.mod_revision.to_string(), text(&kv.value)]).collect();
    table(&["KEY", "REVISION", "VALUE"], &rows)
}

/// Bytes as people see them.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn a_prefix_ends_before_the_next_key_that_does_not_begin_with_it() {
        assert_eq!(prefix_end(b"a"), "b");
        assert_eq!(prefix_end(b"a\xff\xff"), "b");
        assert_eq!(prefix_end(b"\xff"), "\0");
        assert_eq!(prefix_end(b""), "\0");
    }
}
