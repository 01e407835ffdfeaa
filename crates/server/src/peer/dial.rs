//! Connections to other nodes' ports.
//!
//! An address is a name: it is resolved anew at every dial, because pods change their addresses. TCP notices a peer that
//! vanished without closing, HTTP/2 pings notice one that hangs.

use hyper_util::client::legacy::connect::HttpConnector;
use tonic::transport::{Channel, Endpoint};

use super::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, PING_INTERVAL, PING_TIMEOUT, PROBE_INTERVAL, SEND_BUFFER_BYTES,
    SILENCE_TIMEOUT, STREAM_WINDOW_BYTES,
};
use crate::address::as_url;

/// Makes connections; the place where their security will be configured.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dialer;

impl Dialer {
    /// Connects to `address`, `HOST:PORT` or a URL.
    ///
    /// # Errors
    /// A text for people: the address does not parse, does not resolve, or nobody answers there.
    pub(crate) async fn connect(self, address: &str) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(as_url(address));
        let endpoint = endpoint.map_err(|error| format!("{address} is not an address: {error}"))?;
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
    connector.set_send_buffer_size(Some(SEND_BUFFER_BYTES));
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

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::{
        socket_keepalive, socket_send_buffer_size, tcp_keepidle, tcp_nodelay, tcp_user_timeout,
    };
    use tokio::net::TcpListener;
    use tonic::codegen::Service as _;

    use super::*;

    #[tokio::test]
    async fn a_dialled_connection_notices_a_host_that_vanished_and_holds_little_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let url = format!("http://{address}").parse().expect("a URL");
        let stream = connector().call(url).await.expect("somebody listens");
        let stream = stream.inner();
        assert!(socket_keepalive(stream).expect("an option") && tcp_nodelay(stream).expect("an option"));
        assert_eq!(tcp_keepidle(stream).expect("an option"), PROBE_INTERVAL);
        assert_eq!(u128::from(tcp_user_timeout(stream).expect("an option")), SILENCE_TIMEOUT.as_millis());
        // The kernel doubles it, for what it needs itself.
        assert!(socket_send_buffer_size(stream).expect("an option") <= 2 * SEND_BUFFER_BYTES);
    }
}
