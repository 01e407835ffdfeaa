//! `quorate bench keepalive`: how many leases are kept alive.
//!
//! Each client has a stream and leases of its own. A round renews all of them, as etcd's client does, and ends with the last
//! answer; the next begins at once.
//!
//! Invariant: a renewal that finds no lease, or is answered out of turn, fails the run.

use std::fmt::Display;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clap::Args;
use quorate_proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest};
use serde_json::json;
use tokio::task::JoinSet;

use super::BenchError;
use super::drive::nanoseconds;
use super::messages::field;
use super::options::Output;
use super::report::StreamReport;
use super::sample::Sample;
use super::transport::{Caller, Connection, Rpc, broken, frame};

/// Fields of `LeaseKeepAliveResponse`.
const ID: u32 = 2;
const TTL: u32 = 3;
/// Renewals of one round without an answer.
const IN_FLIGHT: usize = 512;

/// Flags of `bench keepalive`.
#[derive(Debug, Args)]
pub(super) struct KeepAliveArgs {
    /// Servers, HOST:PORT[,…]; connections are spread over them
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379", alias = "endpoint")]
    endpoints: Vec<String>,
    /// Concurrent clients, one stream each
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// HTTP/2 connections the clients share
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Leases of each client, all renewed in one round
    #[arg(long, default_value_t = 1)]
    leases: usize,
    /// Seconds each lease lasts; the run leaves them to end by themselves
    #[arg(long, default_value_t = 60)]
    ttl: i64,
    /// Renew for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    duration: u64,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs it and prints the report.
pub(super) async fn run(args: KeepAliveArgs) -> Result<(), BenchError> {
    if args.clients == 0 || args.connections == 0 || args.leases == 0 {
        return Err(BenchError::Arguments("--clients, --connections and --leases must be at least 1".to_owned()));
    }
    let mut connections = Vec::new();
    for number in 0..args.connections.min(args.clients) {
        let endpoint = args.endpoints[number % args.endpoints.len()].clone();
        let connection = Connection::open(std::slice::from_ref(&endpoint), None).await;
        connections.push(connection.map_err(|source| BenchError::Connect { endpoint, source })?);
    }
    let mut granting = JoinSet::new();
    for number in 0..args.clients {
        let caller = connections[number % connections.len()].caller().await;
        granting.spawn(grant(caller, args.leases, args.ttl));
    }
    let mut holders = Vec::new();
    while let Some(holder) = granting.join_next().await {
        holders.push(holder.expect("granting does not panic")?);
    }

    let begun = Instant::now();
    let end = begun + Duration::from_secs(args.duration);
    let mut renewing = JoinSet::new();
    for (caller, leases) in holders {
        renewing.spawn(renew(caller, leases, begun, end));
    }
    let mut samples = Vec::new();
    while let Some(renewed) = renewing.join_next().await {
        samples.extend(renewed.expect("renewing does not panic")?);
    }
    let (clients, leases) = (args.clients, args.clients * args.leases);
    StreamReport {
        workload: "keepalive",
        title: format!("keepalive: {leases} leases of {clients} clients on {} connections", connections.len()),
        details: json!({ "clients": clients, "leases": leases, "connections": connections.len() }),
        elapsed: begun.elapsed(),
        operations: samples.len() as u64,
        bytes: None,
        samples,
    }
    .print(args.output)
    .map_err(BenchError::Print)
}

async fn grant(caller: Caller, leases: usize, ttl: i64) -> Result<(Caller, Vec<i64>), BenchError> {
    let mut ids = Vec::new();
    for _ in 0..leases {
        let request = LeaseGrantRequest { ttl, id: 0 };
        let granted: LeaseGrantResponse = caller.call(Rpc::LeaseGrant, &request).await.map_err(failed)?;
        ids.push(granted.id);
    }
    Ok((caller, ids))
}

/// Renews all leases again and again until `end`; tells how long each renewal took from its sending.
async fn renew(caller: Caller, leases: Vec<i64>, begun: Instant, end: Instant) -> Result<Vec<Sample>, BenchError> {
    let keep_alive = |id: i64| frame(&LeaseKeepAliveRequest { id });
    let mut samples = Vec::new();
    let mut stream = None;
    while Instant::now() < end {
        for part in leases.chunks(IN_FLIGHT) {
            let sent = Instant::now();
            let mut requests = BytesMut::new();
            part.iter().for_each(|id| requests.extend_from_slice(&keep_alive(*id)));
            match &mut stream {
                None => stream = Some(caller.stream(Rpc::LeaseKeepAlive, requests.freeze()).await.map_err(failed)?),
                Some((sender, _)) => {
                    sender.send_data(requests.freeze(), false).map_err(|error| failed(broken(error)))?;
                }
            }
            let (_, answers) = stream.as_mut().expect("opened with the first requests");
            for id in part {
                let Some(message) = answers.next().await.map_err(failed)? else {
                    return Err(failed("the server ended a stream"));
                };
                let number = |tag| field(&message, tag).map_or(0, |field| field.number.cast_signed());
                if number(ID) != *id || number(TTL) <= 0 {
                    return Err(failed(format!("lease {id} was answered with {message:?}")));
                }
                let latency = nanoseconds(sent.elapsed());
                samples.push(Sample { end: nanoseconds(begun.elapsed()), latency });
            }
        }
    }
    Ok(samples)
}

fn failed(why: impl Display) -> BenchError {
    BenchError::Workload { name: "keepalive", why: why.to_string() }
}
