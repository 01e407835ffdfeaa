//! Metrics of connections: peers by id, clients as a whole.

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::make::Make;

/// Bytes, failures and round trips. `peer` is a node id in decimal.
#[derive(Debug)]
pub struct NetworkMetrics {
    /// Bytes of messages sent to `peer`.
    pub peer_sent_bytes_total: IntCounterVec,
    /// Bytes of messages received from `peer`.
    pub peer_received_bytes_total: IntCounterVec,
    /// Messages to `peer` that could not be sent.
    pub peer_send_failures_total: IntCounterVec,
    /// From the first message of a stream to its answer by `peer`, at each opening of one.
    pub peer_round_trip_seconds: HistogramVec,
    /// Streams from `peer` refused; `reason` = garbage, cluster, incarnation, removed.
    pub peer_refused_total: IntCounterVec,
    /// Bytes sent to clients, as on the wire.
    pub client_sent_bytes_total: IntCounter,
    /// Bytes received from clients, as on the wire.
    pub client_received_bytes_total: IntCounter,
    /// Open client connections.
    pub client_connections: IntGauge,
    /// Client connections closed at once because there were too many.
    pub client_connections_refused_total: IntCounter,
}

impl NetworkMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        let peer = &["peer"];
        NetworkMetrics {
            peer_sent_bytes_total: make.counters("quorate_peer_sent_bytes_total", "Bytes sent to the peer.", peer),
            peer_received_bytes_total: make.counters(
                "quorate_peer_received_bytes_total",
                "Bytes received from the peer.",
                peer,
            ),
            peer_send_failures_total: make.counters(
                "quorate_peer_send_failures_total",
                "Messages to the peer that could not be sent.",
                peer,
            ),
            peer_round_trip_seconds: make.seconds_by(
                "quorate_peer_round_trip_seconds",
                "From a message to the peer's answer.",
                peer,
            ),
            peer_refused_total: make.counters("quorate_peer_refused_total", "Peer streams refused.", &["reason"]),
            client_sent_bytes_total: make.counter("quorate_client_sent_bytes_total", "Bytes sent to clients."),
            client_received_bytes_total: make
                .counter("quorate_client_received_bytes_total", "Bytes received from clients."),
            client_connections: make.gauge("quorate_client_connections", "Open client connections."),
            client_connections_refused_total: make.counter(
                "quorate_client_connections_refused_total",
                "Client connections closed at once because there were too many.",
            ),
        }
    }
}
