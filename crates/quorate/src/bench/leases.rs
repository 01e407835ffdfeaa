//! Leases that somebody holds while the servers are overloaded, renewed as etcd's clients renew theirs: one stream, each
//! lease three times in its life, and a new stream half a second after one broke.
//!
//! Never part of the load: what it asks for is nothing beside it.

use std::time::Duration;

use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::BenchError;

/// How many are held.
pub(super) const COUNT: usize = 200;
/// How long each lives when nobody renews it.
const TTL: Duration = Duration::from_secs(10);
const RENEWALS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// A server that does not say in this many tries what is left of a lease is not asked again.
const TRIES: usize = 20;

/// Leases held until [`Held::end`].
pub(super) struct Held {
    channel: Channel,
    leases: Vec<i64>,
    renewing: JoinHandle<()>,
}

impl Held {
    /// Grants the leases, before there is any load.
    ///
    /// # Errors
    /// The server could not be reached, or refused.
    pub(super) async fn begin(endpoint: &str) -> Result<Held, BenchError> {
        let failed = |text: String| BenchError::Arguments(format!("cannot hold leases at {endpoint}: {text}"));
        let channel = Endpoint::from_shared(format!("http://{endpoint}")).map_err(|error| failed(error.to_string()))?;
        let channel = channel.connect_lazy();
        let mut leases = Vec::new();
        for _ in 0..COUNT {
            let ttl = i64::try_from(TTL.as_secs()).expect("a short time");
            let granted = LeaseClient::new(channel.clone()).lease_grant(LeaseGrantRequest { ttl, id: 0 }).await;
            leases.push(granted.map_err(|status| failed(status.to_string()))?.into_inner().id);
        }
        let renewing = tokio::spawn(renew(channel.clone(), leases.clone()));
        Ok(Held { channel, leases, renewing })
    }

    /// How many live, now that the load is over.
    pub(super) async fn end(self) -> usize {
        let mut alive = 0;
        for lease in &self.leases {
            alive += usize::from(self.lives(*lease).await);
        }
        self.renewing.abort();
        alive
    }

    async fn lives(&self, id: i64) -> bool {
        for _ in 0..TRIES {
            let mut client = LeaseClient::new(self.channel.clone());
            if let Ok(answer) = client.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: false }).await {
                return answer.into_inner().ttl > 0;
            }
            tokio::time::sleep(PAUSE).await;
        }
        false
    }
}

async fn renew(channel: Channel, leases: Vec<i64>) {
    loop {
        // Whatever the reason: a client that holds leases comes back until they are over.
        let _ = renew_over_one_stream(&channel, &leases).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn renew_over_one_stream(channel: &Channel, leases: &[i64]) -> Result<(), Status> {
    let (requests, sent) = mpsc::channel(COUNT);
    let mut answers = LeaseClient::new(channel.clone()).lease_keep_alive(ReceiverStream::new(sent)).await?.into_inner();
    let mut due = tokio::time::interval(TTL / RENEWALS);
    loop {
        tokio::select! {
            _ = due.tick() => {
                for id in leases {
                    // Full: the server is behind with the last ones, which do as well.
                    let _ = requests.try_send(LeaseKeepAliveRequest { id: *id });
                }
            }
            answer = answers.message() => if answer?.is_none() {
                return Ok(());
            }
        }
    }
}
