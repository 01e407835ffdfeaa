//! Connections to other nodes' ports.
//!
//! An address is a name: it is resolved anew at every dial, because pods change their addresses. TCP notices a peer that
//! vanished without closing, pings one that hangs.

use hyper_util::client::legacy::connect::HttpConnector;
use tonic::transport::{Channel, Endpoint};

use super::{CONNECT_TIMEOUT, PING_INTERVAL, PING_TIMEOUT, PROBE_INTERVAL, SILENCE_TIMEOUT};

/// Receive windows of a peer connection in bytes: several full appends in flight.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Makes connections; the place where their security will be configured.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dialer;

impl Dialer {
    /// Connects to `address`, `HOST:PORT` or a URL.
    ///
    /// # Errors
    /// A text for people: the address does not parse, does not resolve, or nobody answers there.
    pub(crate) async fn connect(self, address: &str) -> Result<Channel, String> {
        let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let endpoint = Endpoint::from_shared(url).map_err(|error| format!("{address} is not an address: {error}"))?;
        endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_with_connector(connector())
            .await
            .map_err(|error| format!("cannot reach {address}: {}", innermost(&error)))
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(PROBE_INTERVAL));
    connector.set_keepalive_interval(Some(PROBE_INTERVAL));
    connector.set_tcp_user_timeout(Some(SILENCE_TIMEOUT));
    connector
}

/// The last cause of an error: transport errors wrap what matters.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
