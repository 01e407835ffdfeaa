//! `quorate bench watch`: how fast changes of one key reach many watchers.
//!
//! Each connection carries one stream with its share of the watchers, as etcd's own client does. Writers put the key until
//! the time is up; the run ends when every watcher has seen every put. A value says when
//! its put was sent, which gives the latency up to the watcher.
//!
//! Invariant: a watcher that misses a put, or sees one twice, fails the run.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use h2::SendStream;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{PutRequest, PutResponse, WatchCreateRequest, WatchRequest};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::BenchError;
use super::drive::nanoseconds;
use super::messages::{Answers, Field, each_field, field};
use super::options::Output;
use super::report::StreamReport;
use super::sample::Sample;
use super::transport::{Caller, Connection, Rpc, broken, frame};

/// A server that tells nothing for this long will not tell the rest.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the counts are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Fields of `WatchResponse` that are counted.
const CREATED: u32 = 3;
const CANCELED: u32 = 4;
const EVENTS: u32 = 11;
/// Fields of `Event` and `KeyValue` on the way to a value.
const EVENT_KV: u32 = 2;
const KV_VALUE: u32 = 5;
/// Every so many messages of a stream one is timed, by its first event, which waited longest.
const SAMPLED: usize = 8;

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
    /// Stop after this many puts, whatever the time
    #[arg(long, conflicts_with = "duration")]
    total: Option<u64>,
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
    answers: Answers,
}

/// What one message says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Told {
    created: bool,
    canceled: bool,
    events: u64,
    /// What the first event's value says of its time.
    sent: Option<u64>,
}

/// Runs it and prints the report.
pub(super) async fn run(args: WatchArgs) -> Result<(), BenchError> {
    if args.value_size < size_of::<u64>() {
        return Err(BenchError::Arguments("--value-size must be at least 8".to_owned()));
    }
    if args.watchers == 0 || args.connections == 0 || args.clients == 0 || args.rate == Some(0) {
        let text = "--watchers, --connections, --clients and --rate must be at least 1";
        return Err(BenchError::Arguments(text.to_owned()));
    }
    let key = format!("bench-watch-{}", std::process::id());
    let seen = Arc::new(Seen::default());
    let (ended, failure) = watch::channel(String::new());
    let epoch = Instant::now();
    let mut samples = Vec::new();
    let mut streams = JoinSet::new();
    let connections = args.connections.min(args.watchers);
    for number in 0..connections {
        let endpoint = args.endpoints[number % args.endpoints.len()].clone();
        let share = args.watchers / connections + usize::from(number < args.watchers % connections);
        let watchers = begin(&endpoint, &key, share).await?;
        let (seen, ended) = (Arc::clone(&seen), ended.clone());
        let mine: Arc<Mutex<Vec<Sample>>> = Arc::default();
        samples.push(Arc::clone(&mine));
        streams.spawn(async move {
            let why = count(watchers, &seen, &mine, epoch).await;
            ended.send_replace(why);
        });
    }
    let watchers = args.watchers as u64;
    until(&seen.created, watchers, &failure).await?;

    let begun = Instant::now();
    let puts = write(&args, &key, epoch).await?;
    until(&seen.events, puts * watchers, &failure).await?;
    let elapsed = begun.elapsed();
    streams.shutdown().await;
    let events = seen.events.load(Ordering::Relaxed);
    if events != puts * watchers {
        return Err(failed(format!("{puts} puts were told to {watchers} watchers in {events} events")));
    }
    let samples: Vec<Sample> =
        samples.iter().flat_map(|samples| std::mem::take(&mut *samples.lock().expect("no holder panics"))).collect();
    let title = format!("watch: {watchers} watchers on {connections} connections were told of {puts} puts");
    let details = json!({ "watchers": watchers, "connections": connections, "clients": args.clients, "puts": puts });
    StreamReport { workload: "watch", title, details, elapsed, operations: events, bytes: None, samples }
        .print(args.output)
        .map_err(BenchError::Print)
}

/// Opens a stream of `share` watchers.
async fn begin(endpoint: &str, key: &str, share: usize) -> Result<Watchers, BenchError> {
    let create = WatchCreateRequest { key: key.to_owned().into(), ..WatchCreateRequest::default() };
    let create = frame(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
    let caller = connect(endpoint).await?;
    let (mut requests, answers) = caller.stream(Rpc::Watch, create.clone()).await.map_err(failed)?;
    for _ in 1..share {
        requests.send_data(create.clone(), false).map_err(|error| failed(broken(error)))?;
    }
    Ok(Watchers { _requests: requests, answers })
}

async fn connect(endpoint: &str) -> Result<Caller, BenchError> {
    let connection = Connection::open(&[endpoint.to_owned()], None).await;
    let connection = connection.map_err(|source| BenchError::Connect { endpoint: endpoint.to_owned(), source })?;
    Ok(connection.caller().await)
}

fn failed(why: impl Display) -> BenchError {
    BenchError::Workload { name: "watch", why: why.to_string() }
}

/// Counts what the watchers of one stream are told, and notes how long some of it took; answers why that ended.
async fn count(mut watchers: Watchers, seen: &Seen, samples: &Mutex<Vec<Sample>>, epoch: Instant) -> String {
    for number in 0_usize.. {
        let message = match watchers.answers.next().await {
            Ok(Some(message)) => message,
            Ok(None) => return "the server ended a stream".to_owned(),
            Err(error) => return error.to_string(),
        };
        let Some(told) = look_at(&message).filter(|told| !told.canceled) else {
            return format!("not what a watcher of one key is told: {message:?}");
        };
        seen.created.fetch_add(u64::from(told.created), Ordering::Relaxed);
        seen.events.fetch_add(told.events, Ordering::Relaxed);
        if let Some(sent) = told.sent.filter(|_| number.is_multiple_of(SAMPLED)) {
            let end = nanoseconds(epoch.elapsed());
            let sample = Sample { end, latency: end.saturating_sub(sent) };
            samples.lock().expect("no holder panics").push(sample);
        }
    }
    unreachable!("more messages than numbers")
}

/// Looks at the fields of a `WatchResponse` without decoding them; `None` if it is none.
fn look_at(message: &[u8]) -> Option<Told> {
    let mut told = Told::default();
    each_field(message, |Field { tag, number, bytes }| {
        match tag {
            CREATED => told.created = number != 0,
            CANCELED => told.canceled = number != 0,
            EVENTS => {
                if told.events == 0 {
                    told.sent = sent_at(bytes);
                }
                told.events += 1;
            }
            _ => {}
        }
        Some(())
    })?;
    Some(told)
}

/// When the value of an event says it was put.
fn sent_at(event: &[u8]) -> Option<u64> {
    let value = field(field(event, EVENT_KV)?.bytes, KV_VALUE)?.bytes;
    Some(u64::from_be_bytes(*value.first_chunk()?))
}

/// Waits until `counted` has reached `goal`, however long that goes on, as long as it rises.
async fn until(counted: &AtomicU64, goal: u64, failure: &watch::Receiver<String>) -> Result<(), BenchError> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = counted.load(Ordering::Relaxed);
        let why = failure.borrow().clone();
        if !why.is_empty() {
            return Err(failed(why));
        }
        if now >= goal {
            return Ok(());
        }
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > STALL_TIMEOUT {
            return Err(failed(format!("{now} of {goal} answers came, then none")));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Puts the key for the asked time, each value beginning with the time since `epoch`; answers how often.
async fn write(args: &WatchArgs, key: &str, epoch: Instant) -> Result<u64, BenchError> {
    let end = args.total.is_none().then(|| Instant::now() + Duration::from_secs(args.duration));
    let begun = Instant::now();
    let started = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for number in 0..args.clients {
        let caller = connect(&args.endpoints[number % args.endpoints.len()]).await?;
        let (started, total, rate, size) = (Arc::clone(&started), args.total, args.rate, args.value_size);
        let key = Bytes::from(key.to_owned());
        writers.spawn(async move {
            let mut puts = 0_u64;
            while end.is_none_or(|end| Instant::now() < end) {
                let number = started.fetch_add(1, Ordering::Relaxed);
                if total.is_some_and(|total| number >= total) {
                    break;
                }
                if let Some(rate) = rate {
                    let due = begun + Duration::from_secs_f64(number as f64 / rate as f64);
                    if end.is_some_and(|end| due >= end) {
                        break;
                    }
                    tokio::time::sleep_until(due.into()).await;
                }
                let mut value = nanoseconds(epoch.elapsed()).to_be_bytes().to_vec();
                value.resize(size, b'v');
                let put = PutRequest { key: key.clone(), value: value.into(), ..PutRequest::default() };
                let _: PutResponse = caller.call(Rpc::Put, &put).await.map_err(failed)?;
                puts += 1;
            }
            Ok(puts)
        });
    }
    let mut puts = 0;
    while let Some(written) = writers.join_next().await {
        puts += written.expect("a writer does not panic")?;
    }
    Ok(puts)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use quorate_proto::etcdserverpb::{ResponseHeader, WatchResponse};
    use quorate_proto::mvccpb::{Event, KeyValue};

    use super::*;

    #[test]
    fn events_are_counted_and_the_first_tells_when_it_was_put() {
        let header = Some(ResponseHeader { revision: 9, ..ResponseHeader::default() });
        let created = WatchResponse { header, created: true, ..WatchResponse::default() };
        assert_eq!(look_at(&created.encode_to_vec()), Some(Told { created: true, ..Told::default() }));
        let event = |sent: u64| {
            let value = [&sent.to_be_bytes()[..], b"vvv"].concat();
            Event {
                kv: Some(KeyValue { key: "k".into(), value: value.into(), ..KeyValue::default() }),
                ..Event::default()
            }
        };
        let told =
            WatchResponse { header, watch_id: 7, events: vec![event(41), event(42)], ..WatchResponse::default() };
        let expected = Told { events: 2, sent: Some(41), ..Told::default() };
        assert_eq!(look_at(&told.encode_to_vec()), Some(expected));
        assert_eq!(look_at(&[0xff]), None);
    }
}
