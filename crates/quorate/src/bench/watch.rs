//! `quorate bench watch`: how fast changes of one key reach many watchers.
//!
//! Each connection carries one stream with its share of the watchers, as etcd's own client does. Writers put the key until
//! the time is up; the run ends when every watcher has seen every put. Messages are counted, not decoded: the load
//! generator shares the machine with what it measures.
//!
//! Invariant: a watcher that misses a put, or sees one twice, fails the run.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use clap::Args;
use h2::{RecvStream, SendStream};
use prost::encoding::{WireType, decode_key, decode_varint};
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{PutRequest, PutResponse, WatchCreateRequest, WatchRequest};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::BenchError;
use super::options::Output;
use super::transport::{CallError, Connection, PREFIX, Rpc, frame, open_stream};

/// A server that tells nothing for this long will not tell the rest.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the counts are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Fields of `WatchResponse` that are counted.
const CREATED: u32 = 3;
const CANCELED: u32 = 4;
const EVENTS: u32 = 11;

/// Flags of `bench watch`.
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Servers, HOST:PORT[,…]; connections are spread over them
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379", alias = "endpoint")]
    endpoints: Vec<String>,
    /// Watchers of one key
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// Connections the watchers share, one stream each
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Concurrent writers, one put outstanding each
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// Puts a second at most, over all writers [default: no limit]
    #[arg(long)]
    rate: Option<u64>,
    /// Put for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    duration: u64,
    /// Bytes a value
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What the watchers have seen.
#[derive(Debug, Default)]
struct Seen {
    created: AtomicU64,
    events: AtomicU64,
}

/// One stream of watchers. It ends with its requests, so they are kept.
struct Watchers {
    _requests: SendStream<Bytes>,
    answers: RecvStream,
}

/// What one message says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Told {
    created: bool,
    canceled: bool,
    events: u64,
}

/// Runs it and prints the report.
pub(super) async fn run(args: WatchArgs) -> Result<(), BenchError> {
    if args.watchers == 0 || args.connections == 0 || args.clients == 0 || args.rate == Some(0) {
        let text = "--watchers, --connections, --clients and --rate must be at least 1";
        return Err(BenchError::Arguments(text.to_owned()));
    }
    let key = format!("bench-watch-{}", std::process::id());
    let seen = Arc::new(Seen::default());
    let (failed, failure) = watch::channel(String::new());
    let mut streams = JoinSet::new();
    let connections = args.connections.min(args.watchers);
    for number in 0..connections {
        let endpoint = args.endpoints[number % args.endpoints.len()].clone();
        let share = args.watchers / connections + usize::from(number < args.watchers % connections);
        let watchers = begin(&endpoint, &key, share).await;
        let watchers = watchers.map_err(|source| BenchError::Connect { endpoint, source })?;
        let (seen, failed) = (Arc::clone(&seen), failed.clone());
        streams.spawn(async move {
            let why = count(watchers, &seen).await;
            failed.send_replace(why);
        });
    }
    let watchers = args.watchers as u64;
    until(&seen.created, watchers, &failure).await?;

    let begun = Instant::now();
    let puts = write(&args, &key).await?;
    until(&seen.events, puts * watchers, &failure).await?;
    let elapsed = begun.elapsed();
    streams.shutdown().await;
    let events = seen.events.load(Ordering::Relaxed);
    if events != puts * watchers {
        return Err(BenchError::Watch(format!("{puts} puts were told to {watchers} watchers in {events} events")));
    }
    print(&args, connections, elapsed, puts, events).map_err(BenchError::Print)
}

/// Opens a stream of `share` watchers.
async fn begin(endpoint: &str, key: &str, share: usize) -> io::Result<Watchers> {
    let create = WatchCreateRequest { key: key.to_owned().into(), ..WatchCreateRequest::default() };
    let create = frame(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
    let (mut requests, response) = open_stream(endpoint, "etcdserverpb.Watch/Watch").await?;
    for _ in 0..share {
        requests.send_data(create.clone(), false).map_err(io::Error::other)?;
    }
    let answers = response.await.map_err(io::Error::other)?.into_body();
    Ok(Watchers { _requests: requests, answers })
}

/// Counts what the watchers of one stream are told; answers why that ended.
async fn count(mut watchers: Watchers, seen: &Seen) -> String {
    let mut rest = BytesMut::new();
    loop {
        let chunk = match watchers.answers.data().await {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return error.to_string(),
            None => return "the server ended a stream".to_owned(),
        };
        // A stream that ended meanwhile says so with the next chunk.
        let _ = watchers.answers.flow_control().release_capacity(chunk.len());
        rest.extend_from_slice(&chunk);
        let (mut created, mut events) = (0, 0);
        while let Some(message) = next_message(&mut rest) {
            match look_at(&message) {
                Some(told) if !told.canceled => {
                    created += u64::from(told.created);
                    events += told.events;
                }
                _ => return format!("not what a watcher of one key is told: {message:?}"),
            }
        }
        seen.created.fetch_add(created, Ordering::Relaxed);
        seen.events.fetch_add(events, Ordering::Relaxed);
    }
}

/// Takes one whole message off the front.
fn next_message(bytes: &mut BytesMut) -> Option<BytesMut> {
    let length = u32::from_be_bytes(*bytes.get(1..PREFIX)?.first_chunk()?) as usize;
    if bytes.len() < PREFIX + length {
        return None;
    }
    bytes.advance(PREFIX);
    Some(bytes.split_to(length))
}

/// Looks at the fields of a `WatchResponse` without decoding them; `None` if it is none.
fn look_at(mut message: &[u8]) -> Option<Told> {
    let mut told = Told::default();
    while message.has_remaining() {
        let (field, kind) = decode_key(&mut message).ok()?;
        let value = decode_varint(&mut message).ok()?;
        if kind == WireType::LengthDelimited {
            message = message.get(usize::try_from(value).ok()?..)?;
        }
        match field {
            CREATED => told.created = value != 0,
            CANCELED => told.canceled = value != 0,
            EVENTS => told.events += 1,
            _ => {}
        }
    }
    Some(told)
}

/// Waits until `counted` has reached `goal`, however long that goes on, as long as it rises.
async fn until(counted: &AtomicU64, goal: u64, failure: &watch::Receiver<String>) -> Result<(), BenchError> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = counted.load(Ordering::Relaxed);
        let why = failure.borrow().clone();
        if !why.is_empty() {
            return Err(BenchError::Watch(why));
        }
        if now >= goal {
            return Ok(());
        }
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > STALL_TIMEOUT {
            return Err(BenchError::Watch(format!("{now} of {goal} answers came, then none")));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Puts the key for the asked time; answers how often.
async fn write(args: &WatchArgs, key: &str) -> Result<u64, BenchError> {
    let end = Instant::now() + Duration::from_secs(args.duration);
    let put =
        PutRequest { key: key.to_owned().into(), value: vec![b'v'; args.value_size].into(), ..PutRequest::default() };
    let begun = Instant::now();
    let started = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for number in 0..args.clients {
        let endpoint = args.endpoints[number % args.endpoints.len()].clone();
        let connection = Connection::open(std::slice::from_ref(&endpoint), None).await;
        let connection = connection.map_err(|source| BenchError::Connect { endpoint, source })?;
        let caller = connection.caller().await;
        let (put, started, rate) = (put.clone(), Arc::clone(&started), args.rate);
        writers.spawn(async move {
            let mut puts = 0_u64;
            while Instant::now() < end {
                let number = started.fetch_add(1, Ordering::Relaxed);
                if let Some(rate) = rate {
                    let due = begun + Duration::from_secs_f64(number as f64 / rate as f64);
                    if due >= end {
                        break;
                    }
                    tokio::time::sleep_until(due.into()).await;
                }
                match caller.call::<_, PutResponse>(Rpc::Put, &put).await {
                    Ok(_) => puts += 1,
                    Err(CallError::Refused(status)) => return Err(status.to_string()),
                    Err(CallError::Broken(error)) => return Err(error),
                }
            }
            Ok(puts)
        });
    }
    let mut puts = 0;
    while let Some(written) = writers.join_next().await {
        puts += written.expect("a writer does not panic").map_err(BenchError::Watch)?;
    }
    Ok(puts)
}

fn print(args: &WatchArgs, connections: usize, elapsed: Duration, puts: u64, events: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let seconds = elapsed.as_secs_f64();
    let throughput = events as f64 / seconds;
    match args.output {
        Output::Json => {
            let report = json!({
                "workload": "watch",
                "watchers": args.watchers,
                "connections": connections,
                "clients": args.clients,
                "seconds": seconds,
                "puts": puts,
                "operations": events,
                "throughput": throughput,
            });
            writeln!(out, "{report}")
        }
        Output::Text => writeln!(
            out,
            "watch: {} watchers on {connections} connections: {puts} puts were told in {events} events, {seconds:.1} s, \
             {throughput:.0} events/s",
            args.watchers
        ),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use quorate_proto::etcdserverpb::{ResponseHeader, WatchResponse};
    use quorate_proto::mvccpb::Event;

    use super::*;

    #[test]
    fn messages_are_counted_without_decoding() {
        let header = Some(ResponseHeader { revision: 9, ..ResponseHeader::default() });
        let created = WatchResponse { header, created: true, ..WatchResponse::default() };
        let told = WatchResponse { header, watch_id: 7, events: vec![Event::default(); 3], ..WatchResponse::default() };
        let mut bytes = BytesMut::new();
        for message in [&created, &told] {
            bytes.extend_from_slice(&frame(message));
        }
        bytes.truncate(bytes.len() - 1);
        let first = next_message(&mut bytes).expect("whole");
        assert_eq!(look_at(&first), Some(Told { created: true, canceled: false, events: 0 }));
        assert_eq!(next_message(&mut bytes), None, "the last byte is missing");
        assert_eq!(look_at(&told.encode_to_vec()), Some(Told { created: false, canceled: false, events: 3 }));
        assert_eq!(look_at(&[0xff]), None);
    }
}
