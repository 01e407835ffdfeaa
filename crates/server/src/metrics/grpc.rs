//! Calls by gRPC method, under the names every gRPC dashboard reads (`grpc_server_started_total`, `…_handled_total`).
//!
//! The methods come from the descriptors of the services, and each method's counters are looked up once: a call costs
//! one hash of its path and two atomic additions. Paths that name no method are not counted, so a client cannot make
//! labels.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use prometheus::{IntCounter, IntCounterVec};
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
}

impl MethodCounters {
    /// Counts the end of a call.
    pub fn record_handled(&self, code: Code) {
        let code = code as usize;
        let counter = self.handled[code].get_or_init(|| {
            let [kind, service, method] = &self.labels;
            self.handled_total.with_label_values(&[kind.as_str(), service, method, CODES[code]])
        });
        counter.inc();
    }
}

/// Counters of every method this program knows, whether or not it is served.
#[derive(Debug)]
pub struct GrpcMetrics {
    methods: HashMap<String, Arc<MethodCounters>>,
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
                        };
                        methods.insert(format!("/{service_name}/{}", method.name()), Arc::new(counters));
                    }
                }
            }
        }
        GrpcMetrics { methods }
    }

    /// The counters of the method at `path` (`/package.Service/Method`).
    pub fn method(&self, path: &str) -> Option<&Arc<MethodCounters>> {
        self.methods.get(path)
    }
}
