//! Clients that write and read while things go wrong, and remember everything.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::cluster::channel;
use crate::history::{Event, History, Operation};

/// What the clients do.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// Client addresses of the nodes to use, each client beginning with another.
    pub endpoints: Vec<String>,
    /// How many clients.
    pub clients: usize,
    /// How many keys they share.
    pub keys: usize,
    /// Every n-th operation of a client is a linearizable read; 0 for none.
    pub read_every: usize,
    /// Whether those reads trust the leader's lease, and so its clock, instead of asking a quorum.
    pub by_lease: bool,
    /// Pause between two operations of one client.
    pub pace: Duration,
    /// Whether a client that failed goes on at the next endpoint.
    pub move_on_failure: bool,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(Vec<Operation>, Vec<String>)>>,
}

/// What they saw.
#[derive(Debug)]
pub struct Report {
    /// Every call with an answer, and every write without one.
    pub history: History,
    /// The texts of all errors.
    pub errors: Vec<String>,
}

impl Load {
    /// Starts the clients on the current tokio runtime.
    pub fn start(config: &LoadConfig) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..config.clients)
            .map(|number| tokio::spawn(run_client(number, config.clone(), Arc::clone(&stop))))
            .collect();
        Load { stop, clients }
    }

    /// Ends the clients after the call each is in, and collects what they saw.
    pub async fn finish(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut report = Report { history: History::default(), errors: Vec::new() };
        for client in self.clients {
            let (operations, errors) = client.await.expect("a client task does not panic");
            report.history.operations.extend(operations);
            report.errors.extend(errors);
        }
        report
    }
}

async fn run_client(number: usize, config: LoadConfig, stop: Arc<AtomicBool>) -> (Vec<Operation>, Vec<String>) {
    let mut operations = Vec::new();
    let mut errors = Vec::new();
    let mut endpoint = number % config.endpoints.len();
    let mut client = KvClient::new(channel(&config.endpoints[endpoint]));
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let key = format!("key-{}", (number * 7 + round) % config.keys);
        let began = Instant::now();
        let reads = config.read_every > 0 && round % config.read_every == 0;
        let result = if reads {
            read_as(&mut client, &key, config.by_lease).await.map_err(|error| (None, error))
        } else {
            let value = format!("{number}-{round}");
            put(&mut client, &key, &value).await.map_err(|error| (Some(Event::Unknown { value }), error))
        };
        let event = match result {
            Ok(event) => Some(event),
            Err((_, error)) if was_never_sent(&error) => None,
            Err((event, error)) => {
                errors.push(format!("{}: {error}", config.endpoints[endpoint]));
                if config.move_on_failure {
                    endpoint = (endpoint + 1) % config.endpoints.len();
                    client = KvClient::new(channel(&config.endpoints[endpoint]));
                }
                event
            }
        };
        operations.extend(event.map(|event| Operation { began, ended: Instant::now(), key, event }));
        tokio::time::sleep(config.pace).await;
    }
    (operations, errors)
}

/// Whether a closing connection gave the call back before it took it. Other clients of gRPC send such a call again by
/// themselves; tonic leaves it to its user, and here the next call goes out.
fn was_never_sent(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        source = error.source();
    }
    false
}

/// Puts `value` and gives the event of its acknowledgement.
///
/// # Errors
/// The server's or the connection's status.
pub async fn put(client: &mut KvClient<Channel>, key: &str, value: &str) -> Result<Event, tonic::Status> {
    let request = PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        ..PutRequest::default()
    };
    let answer = client.put(request).await?.into_inner();
    let revision = answer.header.expect("a put is answered with a header").revision;
    Ok(Event::Written { value: value.to_string(), revision })
}

/// Reads `key` linearizably and gives the event of what was seen.
///
/// # Errors
/// The server's or the connection's status.
pub async fn read(client: &mut KvClient<Channel>, key: &str) -> Result<Event, tonic::Status> {
    read_as(client, key, false).await
}

async fn read_as(client: &mut KvClient<Channel>, key: &str, by_lease: bool) -> Result<Event, tonic::Status> {
    let key = key.as_bytes().to_vec().into();
    let mut request = tonic::Request::new(RangeRequest { key, ..RangeRequest::default() });
    if by_lease {
        request.metadata_mut().insert("quorate-consistency", tonic::metadata::MetadataValue::from_static("default"));
    }
    let answer = client.range(request).await?.into_inner();
    let revision = answer.header.expect("a range is answered with a header").revision;
    let seen = answer
        .kvs
        .first()
        .map(|kv| (String::from_utf8(kv.value.to_vec()).expect("values here are text"), kv.mod_revision));
    Ok(Event::Read { seen, revision })
}
