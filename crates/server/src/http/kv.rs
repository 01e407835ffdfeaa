//! `GET/PUT/DELETE /v1/kv/KEY` in the manner of Consul's users, with the consistency modes of this store.
//!
//! A key is the percent-decoded rest of the path, slashes included, whatever its bytes. `CreateIndex`, `ModifyIndex` and
//! `cas` are revisions: the same numbers that etcd's clients see.

use std::borrow::Cow;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use quorate_kv::{
    Command, Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyValue, Outcome, PutRequest, RangeRequest,
    RequestOp, Response as KvResponse, Revision, TxnRequest,
};
use quorate_node::{Consistency, ReadGrant, ReadOptions};
use serde::{Serialize, Serializer};
use serde_json::json;

use super::Shared;
use super::answer::{bad_request, error};
use crate::client_api::{ApiError, Served};
use crate::duration::parse_duration;
use crate::query::{Query, decode_path};
use crate::read_choice::{BadChoice, ReadChoice, mode_name, parse_on_stale, parse_revision};

const READ_PARAMETERS: &[&str] = &[
    "default",
    "consistent",
    "stale",
    "max_staleness",
    "on_stale",
    "min_revision",
    "raw",
    "recurse",
    "keys",
    "separator",
    "pretty",
];

/// What a read answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One key in an array.
    Single,
    /// One value as it is.
    Raw,
    /// Every key with the prefix, in an array.
    Recurse,
    /// The names alone of every key with the prefix.
    Keys,
}

/// `GET /v1/kv/KEY`.
pub(super) async fn get(
    State(shared): State<Shared>,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let parsed = Query::parse(query.as_deref().unwrap_or_default(), READ_PARAMETERS);
    let (query, key) = match (parsed, key_of(&uri)) {
        (Ok(query), Ok(key)) => (query, key),
        (Err(bad), _) | (_, Err(bad)) => return bad.into_response(),
    };
    let (shape, options) = match (shape(&query), read_options(&query)) {
        (Ok(shape), Ok(options)) => (shape, options),
        (Err(text), _) => return bad_request(text),
        (_, Err(bad)) => return ApiError::Choice(bad).into_response(),
    };
    if key.is_empty() && matches!(shape, Shape::Single | Shape::Raw) {
        return missing_key();
    }
    let separator = query.get("separator").filter(|separator| !separator.is_empty());
    let request = range_request(&key, shape);
    match shared.api.range(&headers, request, options).await {
        Ok(Served { answer, grant, held }) => {
            let mut response = read_answer(answer.kvs, shape, key.len(), separator);
            tell(response.headers_mut(), answer.revision, &grant);
            if let Some(held) = held {
                response.extensions_mut().insert(held);
            }
            response
        }
        Err(refused) => refused.into_response(),
    }
}

/// `PUT /v1/kv/KEY`: the body is the value. Answers `true`, or `false` if `cas` did not hold.
pub(super) async fn put(
    State(shared): State<Shared>,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let (cas, key) = match (cas_of(query.as_deref(), &["cas"]), key_of(&uri)) {
        (Ok((cas, _)), Ok(key)) => (cas, key),
        (Err(bad), _) => return bad_request(bad),
        (_, Err(bad)) => return bad.into_response(),
    };
    if key.is_empty() {
        return missing_key();
    }
    let limit = shared.api.max_request_bytes();
    let Ok(value) = to_bytes(body, limit).await else {
        let text = format!("the value is larger than {limit} bytes, or did not arrive whole");
        return error(StatusCode::PAYLOAD_TOO_LARGE, &text);
    };
    let bytes = key.len() + value.len();
    let put = PutRequest { key: key.clone(), value, ..PutRequest::default() };
    let command = match cas {
        None => Command::Put(put),
        Some(index) => Command::Txn(if_unchanged(key, index, RequestOp::Put(put))),
    };
    written(shared.api.write(&headers, command, bytes).await)
}

/// `DELETE /v1/kv/KEY`. Answers `true` also if there was nothing to delete, or `false` if `cas` did not hold.
pub(super) async fn delete(
    State(shared): State<Shared>,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let ((cas, recurse), key) = match (cas_of(query.as_deref(), &["cas", "recurse"]), key_of(&uri)) {
        (Ok(parsed), Ok(key)) => (parsed, key),
        (Err(bad), _) => return bad_request(bad),
        (_, Err(bad)) => return bad.into_response(),
    };
    let bytes = key.len();
    let command = match (cas, recurse) {
        (Some(_), true) => return bad_request("cas and recurse contradict each other: an index belongs to one key"),
        (Some(0), false) => return bad_request("cas=0 means that the key is absent, so there is nothing to delete"),
        (_, false) if key.is_empty() => return missing_key(),
        (None, recurse) => {
            let (key, range_end) = if recurse { prefix_interval(&key) } else { (key, Bytes::new()) };
            Command::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false })
        }
        (Some(index), false) => {
            let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
            Command::Txn(if_unchanged(key, index, RequestOp::DeleteRange(delete)))
        }
    };
    written(shared.api.write(&headers, command, bytes).await)
}

fn missing_key() -> Response {
    bad_request("the key is missing: /v1/kv/KEY")
}

/// The rest of the path after `/v1/kv/`, decoded.
fn key_of(uri: &Uri) -> Result<Bytes, crate::query::QueryError> {
    let rest = uri.path().strip_prefix("/v1/kv").unwrap_or_default();
    Ok(decode_path(rest.strip_prefix('/').unwrap_or(rest))?.into())
}

/// `cas` and `recurse` of a write.
fn cas_of(query: Option<&str>, known: &[&str]) -> Result<(Option<i64>, bool), String> {
    let query = Query::parse(query.unwrap_or_default(), known).map_err(|bad| bad.to_string())?;
    let cas = query.get("cas").map(|value| parse_revision("cas", value)).transpose();
    Ok((cas.map_err(|bad| bad.to_string())?, query.has("recurse")))
}

fn shape(query: &Query) -> Result<Shape, &'static str> {
    let shape = match (query.has("raw"), query.has("recurse"), query.has("keys")) {
        (true, false, false) => Shape::Raw,
        (false, true, false) => Shape::Recurse,
        // Consul's users write `?keys&recurse` for what `?keys` says alone.
        (false, _, true) => Shape::Keys,
        (false, false, false) => Shape::Single,
        (true, _, _) => return Err("raw is one value as it is, so it contradicts recurse and keys"),
    };
    if query.has("separator") && shape != Shape::Keys {
        return Err("separator cuts names, so it needs keys");
    }
    Ok(shape)
}

fn read_options(query: &Query) -> Result<ReadOptions, BadChoice> {
    let modes: Vec<Consistency> = [Consistency::Default, Consistency::Consistent, Consistency::Stale]
        .into_iter()
        .filter(|mode| query.has(mode_name(*mode)))
        .collect();
    if let [first, second, ..] = modes[..] {
        return Err(BadChoice::TwoModes { first: mode_name(first), second: mode_name(second) });
    }
    let max_staleness = query.get("max_staleness").map(|value| {
        parse_duration(value).ok_or_else(|| BadChoice::Unknown {
            name: "max_staleness",
            value: value.to_string(),
            expected: "a duration such as 500ms or 2s",
        })
    });
    let choice = ReadChoice {
        consistency: modes.first().copied(),
        serializable: false,
        max_staleness: max_staleness.transpose()?,
        on_stale: query.get("on_stale").map(|value| parse_on_stale("on_stale", value)).transpose()?,
        min_revision: query.get("min_revision").map(|value| parse_revision("min_revision", value)).transpose()?,
    };
    choice.options(Consistency::Default)
}

fn range_request(key: &Bytes, shape: Shape) -> RangeRequest {
    let (key, range_end) = match shape {
        Shape::Single | Shape::Raw => (key.clone(), Bytes::new()),
        Shape::Recurse | Shape::Keys => prefix_interval(key),
    };
    RangeRequest { key, range_end, keys_only: shape == Shape::Keys, ..RangeRequest::default() }
}

/// The interval of every key that begins with `prefix`; `"\0"` as an end means that there is none.
fn prefix_interval(prefix: &Bytes) -> (Bytes, Bytes) {
    let open = Bytes::from_static(b"\0");
    let Some(last) = prefix.iter().rposition(|byte| *byte != 0xff) else {
        return (if prefix.is_empty() { open.clone() } else { prefix.clone() }, open);
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    (prefix.clone(), end.into())
}

/// Does `operation` if the key's mod revision is `index` (0: if the key is absent).
fn if_unchanged(key: Bytes, index: i64, operation: RequestOp) -> TxnRequest {
    let unchanged =
        Compare { key, range_end: Bytes::new(), target: CompareTarget::Mod(index), result: CompareResult::Equal };
    TxnRequest { compare: vec![unchanged], success: vec![operation], failure: Vec::new() }
}

fn written(outcome: Result<Outcome, ApiError>) -> Response {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(refused) => return refused.into_response(),
    };
    let done = match outcome.result {
        Ok(KvResponse::Txn(response)) => response.succeeded,
        Ok(_) => true,
        Err(refused) => return ApiError::Kv(refused).into_response(),
    };
    let mut response = axum::Json(json!(done)).into_response();
    response.headers_mut().insert("x-quorate-revision", HeaderValue::from(outcome.revision.get()));
    response
}

fn read_answer(kvs: Vec<KeyValue>, shape: Shape, prefix_bytes: usize, separator: Option<&str>) -> Response {
    if kvs.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    match shape {
        Shape::Raw => {
            let value = kvs.into_iter().next().map(|kv| kv.value).unwrap_or_default();
            // A stored value is not a page of this site, whatever it looks like to a browser.
            let safe = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::CONTENT_SECURITY_POLICY, "sandbox"),
            ];
            (safe, value).into_response()
        }
        Shape::Keys => axum::Json(names(&kvs, prefix_bytes, separator)).into_response(),
        Shape::Single | Shape::Recurse => axum::Json(Records(kvs)).into_response(),
    }
}

/// Key names; with a separator each is cut after its first one past the prefix, and listed once.
fn names(kvs: &[KeyValue], prefix_bytes: usize, separator: Option<&str>) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(kvs.len());
    for kv in kvs {
        let name = match separator.and_then(|separator| find(&kv.key[prefix_bytes..], separator.as_bytes())) {
            Some(end) => &kv.key[..prefix_bytes + end],
            None => &kv.key[..],
        };
        let name = String::from_utf8_lossy(name).into_owned();
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    names
}

/// Where the first `needle` ends.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle).map(|start| start + needle.len())
}

/// Records in the form of Consul's. Each is written straight from what was read: a tree of JSON values would take a
/// kilobyte of memory for each, which no budget knows.
struct Records(Vec<KeyValue>);

impl Serialize for Records {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|kv| ConsulRecord {
            key: String::from_utf8_lossy(&kv.key),
            value: (!kv.value.is_empty()).then_some(Base64(&kv.value)),
            flags: 0,
            lock_index: 0,
            create_index: kv.create_revision,
            modify_index: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulRecord<'a> {
    key: Cow<'a, str>,
    value: Option<Base64<'a>>,
    flags: u64,
    lock_index: u64,
    create_index: i64,
    modify_index: i64,
    version: i64,
    lease: i64,
}

struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

/// Tells how the read was served. Always: the answer is text anyway, and a header costs little beside it.
fn tell(headers: &mut HeaderMap, revision: Revision, grant: &ReadGrant) {
    headers.insert("x-quorate-revision", HeaderValue::from(revision.get()));
    headers.insert("x-quorate-consistency", HeaderValue::from_static(mode_name(grant.effective)));
    let known = if grant.known_leader { "true" } else { "false" };
    headers.insert("x-quorate-known-leader", HeaderValue::from_static(known));
    if let Some(staleness) = grant.staleness {
        let millis = u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX);
        headers.insert("x-quorate-staleness-ms", HeaderValue::from(millis));
    }
    headers.insert("x-quorate-lag-entries", HeaderValue::from(grant.lag_entries));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            create_revision: 2,
            mod_revision: 3,
            version: 1,
            value: Bytes::new(),
            lease: 0,
        }
    }

    #[test]
    fn keys_are_cut_after_the_separator_and_listed_once() {
        let kvs = [kv("a/b"), kv("a/c/d"), kv("a/c/e"), kv("a/f/")];
        assert_eq!(names(&kvs, 2, Some("/")), ["a/b", "a/c/", "a/f/"]);
        assert_eq!(names(&kvs, 0, Some("/")), ["a/"]);
        assert_eq!(names(&kvs, 2, None), ["a/b", "a/c/d", "a/c/e", "a/f/"]);
    }

    #[test]
    fn a_key_is_the_rest_of_the_path_decoded() {
        let key = |path: &str| key_of(&path.parse().expect("a path")).expect("a key");
        assert_eq!(key("/v1/kv/a/b%2fc%20d"), "a/b/c d");
        assert_eq!(key("/v1/kv//a"), "/a");
        assert_eq!(key("/v1/kv/%FF")[..], [0xff]);
        assert_eq!(key("/v1/kv/"), "");
        assert_eq!(key("/v1/kv"), "");
    }

    #[track_caller]
    fn check_options(query: &str, expected: Option<Consistency>) {
        let query = Query::parse(query, READ_PARAMETERS).expect("known parameters");
        assert_eq!(read_options(&query).ok().map(|options| options.consistency), expected);
    }

    #[test]
    fn modes_over_http() {
        check_options("", Some(Consistency::Default));
        check_options("consistent", Some(Consistency::Consistent));
        check_options("stale&max_staleness=500ms&on_stale=wait&min_revision=4", Some(Consistency::Stale));
        check_options("stale&consistent", None);
        check_options("default&stale", None);
        check_options("max_staleness=500ms", None);
        check_options("stale&max_staleness=500", None);
        check_options("stale&on_stale=maybe", None);
    }

    #[test]
    fn shapes_that_contradict_each_other_are_refused() {
        let of = |query: &str| shape(&Query::parse(query, READ_PARAMETERS).expect("known parameters"));
        assert_eq!(of("keys&recurse&separator=/"), Ok(Shape::Keys));
        assert!(of("raw&recurse").is_err());
        assert!(of("raw&keys").is_err());
        assert!(of("recurse&separator=/").is_err());
    }

    #[test]
    fn a_prefix_is_an_interval() {
        assert_eq!(prefix_interval(&Bytes::from_static(b"a")), ("a".into(), "b".into()));
        assert_eq!(prefix_interval(&Bytes::new()), ("\0".into(), "\0".into()));
        assert_eq!(prefix_interval(&Bytes::from_static(b"\xff")), (Bytes::from_static(b"\xff"), "\0".into()));
    }
}
