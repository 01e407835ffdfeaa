//! Metrics of connections: peers by id, clients as a whole.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use quorate_raft::NodeId;

use super::make::Make;

/// Bytes, failures and round trips. `peer` is a node id.
#[derive(Debug)]
pub struct NetworkMetrics {
    /// Bytes of messages sent to `peer`.
    pub peer_sent_bytes_total: IntCounterVec,
    /// Bytes of messages received from `peer`.
    pub peer_received_bytes_total: IntCounterVec,
    /// Attempts at a stream to `peer` that failed, and streams that broke.
    pub peer_send_failures_total: IntCounterVec,
    /// From a number given to the stream to `peer` until it came back, about every two seconds.
    /// The wait behind other messages counts.
    pub peer_round_trip_seconds: HistogramVec,
    /// 1 while the stream to `peer` is open.
    pub peer_connected: IntGaugeVec,
    /// Streams to `peer` that were open and ended.
    pub peer_disconnects_total: IntCounterVec,
    /// Scrape. 1 for each other member.
    pub peer_known: IntGaugeVec,
    /// Streams from `peer` refused; `reason` = garbage, crowded (it had to make room), or why a greeting was not welcome.
    pub peer_refused_total: IntCounterVec,
    /// Bytes sent to clients, as on the wire.
    pub client_sent_bytes_total: IntCounter,
    /// Bytes received from clients, as on the wire.
    pub client_received_bytes_total: IntCounter,
    /// Open client connections.
    pub client_connections: IntGauge,
    /// Client connections closed at once because there were too many.
    pub client_connections_refused_total: IntCounter,
    /// Client connections closed because an answer was not taken in time.
    pub client_connections_ended_total: IntCounter,
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
                "Streams to the peer that could not be opened, or broke.",
                peer,
            ),
            peer_round_trip_seconds: make.seconds_by(
                "quorate_peer_round_trip_seconds",
                "From a question to the peer's answer.",
                peer,
            ),
            peer_connected: make.gauges("quorate_peer_connected", "1 while the stream to the peer is open.", peer),
            peer_disconnects_total: make.counters(
                "quorate_peer_disconnects_total",
                "Streams to the peer that were open and ended.",
                peer,
            ),
            peer_known: make.gauges("quorate_peer_known", "1 for each other member.", peer),
            peer_refused_total: make.counters("quorate_peer_refused_total", "Peer streams refused.", &["reason"]),
            client_sent_bytes_total: make.counter("quorate_client_sent_bytes_total", "Bytes sent to clients."),
            client_received_bytes_total: make
                .counter("quorate_client_received_bytes_total", "Bytes received from clients."),
            client_connections: make.gauge("quorate_client_connections", "Open client connections."),
            client_connections_refused_total: make.counter(
                "quorate_client_connections_refused_total",
                "Client connections closed at once because there were too many.",
            ),
            client_connections_ended_total: make.counter(
                "quorate_client_connections_ended_total",
                "Client connections closed because an answer was not taken in time.",
            ),
        }
    }

    /// Shows the series of `peer` from now on: an alert must be able to tell no failure from no data.
    pub(crate) fn begin_peer(&self, peer: NodeId) -> PeerSeries {
        let peer = &[&peer.to_string()];
        self.peer_received_bytes_total.with_label_values(peer);
        PeerSeries {
            sent_bytes: self.peer_sent_bytes_total.with_label_values(peer),
            send_failures: self.peer_send_failures_total.with_label_values(peer),
            disconnects: self.peer_disconnects_total.with_label_values(peer),
            connected: self.peer_connected.with_label_values(peer),
            round_trip_seconds: self.peer_round_trip_seconds.with_label_values(peer),
        }
    }

    /// Forgets the series of `peer`, which left: nodes come and go for as long as this one runs. What still counts into them counts
    /// for nothing: a stream that the peer keeps open to here begins a new series when it is opened again.
    pub(crate) fn end_peer(&self, peer: NodeId) {
        let peer = &[&peer.to_string()];
        // One that is not there has been forgotten before.
        for counters in [
            &self.peer_sent_bytes_total,
            &self.peer_received_bytes_total,
            &self.peer_send_failures_total,
            &self.peer_disconnects_total,
        ] {
            let _ = counters.remove_label_values(peer);
        }
        let _ = self.peer_connected.remove_label_values(peer);
        let _ = self.peer_round_trip_seconds.remove_label_values(peer);
    }
}

/// What one link counts. Looked up once: a link that ends while its task still runs must not bring back what was forgotten.
#[derive(Debug)]
pub(crate) struct PeerSeries {
    pub(crate) sent_bytes: IntCounter,
    pub(crate) send_failures: IntCounter,
    pub(crate) round_trip_seconds: Histogram,
    disconnects: IntCounter,
    connected: IntGauge,
}

impl PeerSeries {
    /// The stream is open, until the answer is dropped.
    pub(crate) fn connected(&self) -> Connected {
        self.connected.set(1);
        Connected { open: self.connected.clone(), ended: self.disconnects.clone() }
    }
}

/// Shows a stream as open as long as it lives.
#[derive(Debug)]
pub(crate) struct Connected {
    open: IntGauge,
    ended: IntCounter,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.open.set(0);
        self.ended.inc();
    }
}
