//! `quorate bench large-range`: reads of much data, many at a time.
//!
//! Owns three ways to ask: pages of so many keys, one answer, and one streamed answer. Values are counted as they come and
//! never kept, so that the load generator needs no memory for them, except for one whole answer.
//!
//! Invariant: a reader that gets other than the keys and bytes that were put fails the run.

use std::fmt::Display;
use std::ops::Range;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use clap::{Args, ValueEnum};
use quorate_proto::etcdserverpb::RangeRequest;
use serde_json::json;
use tokio::task::JoinSet;

use super::BenchError;
use super::drive::nanoseconds;
use super::messages::{Field, each_field, field};
use super::options::Output;
use super::report::StreamReport;
use super::sample::Sample;
use super::transport::{Caller, Connection, Rpc};
use super::workload::Keys;

/// Fields of `RangeStreamResponse`, `RangeResponse` and `KeyValue`.
const CHUNK: u32 = 1;
const KVS: u32 = 2;
const KEY: u32 = 1;
const VALUE: u32 = 5;

/// Flags of `bench large-range`.
#[derive(Debug, Args)]
pub(super) struct LargeRangeArgs {
    /// Servers, HOST:PORT[,…]; readers are spread over them
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379", alias = "endpoint")]
    endpoints: Vec<String>,
    /// How to ask
    #[arg(long, value_enum)]
    by: By,
    /// Readers at the same time, a connection each
    #[arg(long, default_value_t = 20)]
    clients: usize,
    /// Parts the keys are divided into; each reader reads one
    #[arg(long, default_value_t = 1)]
    parts: u64,
    /// Keys of a page
    #[arg(long, default_value_t = 500)]
    page: i64,
    /// Keys that were put
    #[arg(long, default_value_t = 16_384)]
    key_space: u64,
    /// Bytes of each key that was put
    #[arg(long, default_value_t = 16)]
    key_size: usize,
    /// Bytes of each value that was put
    #[arg(long, default_value_t = 65_536)]
    value_size: usize,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Range, again and again from the last key on
    Pages,
    /// One Range
    Answer,
    /// One RangeStream
    Stream,
}

/// What came of a range.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Received {
    keys: u64,
    bytes: u64,
    last: Bytes,
}

/// Runs it and prints the report.
pub(super) async fn run(args: LargeRangeArgs) -> Result<(), BenchError> {
    if args.clients == 0 || args.page < 1 || args.parts == 0 || args.parts > args.key_space {
        let text = "--clients, --page and --parts must be at least 1, and --parts at most --key-space";
        return Err(BenchError::Arguments(text.to_owned()));
    }
    let keys = Keys { count: args.key_space, size: args.key_size };
    let begun = Instant::now();
    let mut readers = JoinSet::new();
    for number in 0..args.clients {
        let endpoint = args.endpoints[number % args.endpoints.len()].clone();
        let part = number as u64 % args.parts;
        let part = args.key_space * part / args.parts..args.key_space * (part + 1) / args.parts;
        let (by, page, value_size) = (args.by, args.page, args.value_size);
        readers.spawn(async move {
            let connection = Connection::open(std::slice::from_ref(&endpoint), None).await;
            let connection = connection.map_err(|source| BenchError::Connect { endpoint, source })?;
            let caller = connection.caller().await;
            let begun_reading = Instant::now();
            let received = read(&caller, keys, &part, by, page).await?;
            let wanted = part.end - part.start;
            if (received.keys, received.bytes) != (wanted, wanted * value_size as u64) {
                let Received { keys, bytes, .. } = received;
                return Err(failed(format!("{keys} keys with {bytes} bytes came of {wanted} of {value_size} bytes")));
            }
            let sample = Sample { end: nanoseconds(begun.elapsed()), latency: nanoseconds(begun_reading.elapsed()) };
            Ok((received.bytes, sample))
        });
    }
    let (mut bytes, mut samples) = (0, Vec::new());
    while let Some(done) = readers.join_next().await {
        let (more, sample) = done.expect("a reader does not panic")?;
        bytes += more;
        samples.push(sample);
    }
    let (clients, mebibytes) = (args.clients, bytes >> 20);
    StreamReport {
        workload: "large-range",
        title: format!("large-range by {:?}: {clients} readers, {mebibytes} MiB of values", args.by),
        details: json!({ "clients": clients, "parts": args.parts, "page": args.page }),
        elapsed: begun.elapsed(),
        operations: clients as u64,
        bytes: Some(bytes),
        samples,
    }
    .print(args.output)
    .map_err(BenchError::Print)
}

async fn read(caller: &Caller, keys: Keys, part: &Range<u64>, by: By, page: i64) -> Result<Received, BenchError> {
    let mut request =
        RangeRequest { key: keys.key(part.start), range_end: keys.key(part.end), ..RangeRequest::default() };
    let mut received = Received::default();
    match by {
        By::Answer => ask(caller, Rpc::Range, &request, &mut received).await?,
        By::Stream => ask(caller, Rpc::RangeStream, &request, &mut received).await?,
        By::Pages => {
            request.limit = page;
            loop {
                let before = received.keys;
                ask(caller, Rpc::Range, &request, &mut received).await?;
                if received.keys - before < page.unsigned_abs() {
                    break;
                }
                request.key = after(&received.last);
            }
        }
    }
    Ok(received)
}

/// The first key after `key`.
fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::from(key);
    next.put_u8(0);
    next.freeze()
}

async fn ask(caller: &Caller, method: Rpc, request: &RangeRequest, received: &mut Received) -> Result<(), BenchError> {
    let mut answers = caller.ask(method, request).await.map_err(failed)?;
    while let Some(message) = answers.next().await.map_err(failed)? {
        let answer = match method {
            Rpc::RangeStream => field(&message, CHUNK).map_or(&[][..], |chunk| chunk.bytes),
            _ => &message,
        };
        received.add(answer).ok_or_else(|| failed("an answer that is none"))?;
    }
    Ok(())
}

impl Received {
    /// Counts the keys of a `RangeResponse`; `None` if it is none.
    fn add(&mut self, answer: &[u8]) -> Option<()> {
        let mut last: &[u8] = &[];
        each_field(answer, |Field { tag, bytes, .. }| {
            if tag == KVS {
                self.keys += 1;
                self.bytes += field(bytes, VALUE).map_or(0, |value| value.bytes.len() as u64);
                last = field(bytes, KEY)?.bytes;
            }
            Some(())
        })?;
        if !last.is_empty() {
            self.last = Bytes::copy_from_slice(last);
        }
        Some(())
    }
}

fn failed(why: impl Display) -> BenchError {
    BenchError::Workload { name: "large-range", why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use quorate_proto::etcdserverpb::RangeResponse;
    use quorate_proto::mvccpb::KeyValue;

    use super::*;

    #[test]
    fn keys_and_bytes_are_counted_over_all_answers() {
        let kv = |key: &'static str, value: &'static str| KeyValue {
            key: key.into(),
            value: value.into(),
            ..KeyValue::default()
        };
        let answer = |kvs| RangeResponse { kvs, count: 9, ..RangeResponse::default() }.encode_to_vec();
        let mut received = Received::default();
        received.add(&answer(vec![kv("a", "12"), kv("b", "")])).expect("an answer");
        received.add(&answer(vec![kv("c", "345")])).expect("an answer");
        received.add(&answer(Vec::new())).expect("an answer");
        assert_eq!(received, Received { keys: 3, bytes: 5, last: "c".into() });
        assert_eq!(received.add(&[0xff]), None);
        assert_eq!(after(b"k9").as_ref(), b"k9\0");
    }
}
