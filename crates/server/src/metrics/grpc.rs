//! Calls by gRPC method, under the names every gRPC dashboard reads (`grpc_server_started_total`, `…_handled_total`).
//!
//! The methods come from the descriptors of the services, and each method's counters are looked up once: a call costs
//! one hash of its path and a few atomic additions. Paths that name no method are not counted, and versions of clients
//! only so many, so a client cannot make labels without end.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;

use super::make::Make;

/// gRPC's status codes, 0 to 16.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Unary calls and streams, as etcd calls them here.
const CALLS: [&str; 2] = ["unary", "stream"];
/// Versions of clients counted apart.
const MAX_CLIENT_VERSIONS: usize = 32;
/// Longest version counted apart.
const MAX_CLIENT_VERSION_BYTES: usize = 32;

/// Whether the status of a call comes with its one answer or at the end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodKind {
    /// One request, one answer.
    Unary,
    /// A stream of answers, of requests, or of both.
    Stream,
}

/// Counters of one method.
#[derive(Debug)]
pub struct MethodCounters {
    /// Where its status is found.
    pub kind: MethodKind,
    /// Calls begun.
    pub started: IntCounter,
    handled_total: IntCounterVec,
    labels: [String; 3],
    handled: [OnceLock<IntCounter>; CODES.len()],
    handling_seconds: HistogramVec,
    handling: OnceLock<Histogram>,
}

impl MethodCounters {
    /// Counts the end of a call that took so long. Series begin with a method's first call: there are eighty methods.
    pub fn record_handled(&self, code: Code, took: Duration) {
        let code = code as usize;
        let [kind, service, method] = &self.labels;
        let counter = self.handled[code]
            .get_or_init(|| self.handled_total.with_label_values(&[kind.as_str(), service, method, CODES[code]]));
        counter.inc();
        let handling =
            self.handling.get_or_init(|| self.handling_seconds.with_label_values(&[kind.as_str(), service, method]));
        handling.observe(took.as_secs_f64());
    }
}

/// Counters of every method this program knows, whether or not it is served.
#[derive(Debug)]
pub struct GrpcMetrics {
    methods: HashMap<String, Arc<MethodCounters>>,
    client_requests_total: IntCounterVec,
    /// Counters of unary and of stream calls by version.
    clients: RwLock<HashMap<String, [IntCounter; 2]>>,
}

impl GrpcMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let started_total =
            make.counters("grpc_server_started_total", "Calls begun.", &["grpc_type", "grpc_service", "grpc_method"]);
        let handled_total = make.counters(
            "grpc_server_handled_total",
            "Calls ended.",
            &["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
        );
        let handling_seconds = make.histograms(
            "grpc_server_handling_seconds",
            "From the beginning of a call to its end.",
            &["grpc_type", "grpc_service", "grpc_method"],
            prometheus::DEFAULT_BUCKETS,
        );
        let client_requests_total = make.counters(
            "quorate_client_requests_total",
            "Calls by the version their client tells.",
            &["type", "client_api_version"],
        );
        let mut methods = HashMap::new();
        for descriptors in [quorate_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
            let set = FileDescriptorSet::decode(descriptors).expect("descriptors of generated code decode");
            for file in &set.file {
                for service in &file.service {
                    let service_name = format!("{}.{}", file.package(), service.name());
                    for method in &service.method {
                        let kind = match (method.client_streaming(), method.server_streaming()) {
                            (false, false) => "unary",
                            (true, false) => "client_stream",
                            (false, true) => "server_stream",
                            (true, true) => "bidi_stream",
                        };
                        let labels = [kind.to_string(), service_name.clone(), method.name().to_string()];
                        let counters = MethodCounters {
                            kind: if kind == "unary" { MethodKind::Unary } else { MethodKind::Stream },
                            started: started_total.with_label_values(&[kind, &service_name, method.name()]),
                            handled_total: handled_total.clone(),
                            labels,
                            handled: [const { OnceLock::new() }; CODES.len()],
                            handling_seconds: handling_seconds.clone(),
                            handling: OnceLock::new(),
                        };
                        methods.insert(format!("/{service_name}/{}", method.name()), Arc::new(counters));
                    }
                }
            }
        }
        GrpcMetrics { methods, client_requests_total, clients: RwLock::default() }
    }

    /// Counts a call of a client that says it is of `version`.
    pub(crate) fn record_client(&self, kind: MethodKind, version: &str) {
        let place = usize::from(kind == MethodKind::Stream);
        if let Some(counters) = self.clients.read().unwrap_or_else(PoisonError::into_inner).get(version) {
            counters[place].inc();
            return;
        }
        let counters = |version| CALLS.map(|call| self.client_requests_total.with_label_values(&[call, version]));
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENT_VERSIONS || version.len() > MAX_CLIENT_VERSION_BYTES {
            counters("other")[place].inc();
        } else {
            clients.entry(version.to_string()).or_insert_with(|| counters(version))[place].inc();
        }
    }

    /// The counters of the method at `path` (`/package.Service/Method`).
    pub fn method(&self, path: &str) -> Option<&Arc<MethodCounters>> {
        self.methods.get(path)
    }
}
