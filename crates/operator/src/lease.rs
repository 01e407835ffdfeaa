//! Leader election among replicas of the operator, by a Lease.
//!
//! It keeps two operators from doing the same work, no more: every step is safe with two of them, because it names what it was
//! decided on. A holder counts as gone when *this* process has not seen the Lease change for its duration: clocks of
//! different machines are never compared.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

const DURATION: Duration = Duration::from_secs(15);
/// The longest that asking for the Lease, or renewing it, may take: an API server whose machine is gone would be waited for for ever.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// One candidate.
#[derive(Clone)]
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// The last version of the Lease that was seen, and when it was first seen.
struct Seen {
    version: Option<String>,
    at: Instant,
}

impl Election {
    /// Candidate `identity` for the Lease `name`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Election { api: Api::namespaced(client, namespace), name: name.to_string(), identity }
    }

    /// Returns when the Lease is held.
    pub async fn acquire(&self) {
        let mut seen = Seen { version: None, at: Instant::now() };
        loop {
            match tokio::time::timeout(RENEW_DEADLINE, self.try_acquire(&mut seen)).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be read or written"),
                Err(_) => tracing::warn!("asking for the lease took too long"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews for as long as that works. Returns when the Lease is lost, or was not renewed for the deadline: then nothing may be
    /// done any more. A renewal counts from when it was asked for: nobody can have seen it earlier.
    pub async fn hold(&self) {
        let mut deadline = Instant::now() + RENEW_DEADLINE;
        loop {
            tokio::time::sleep(RETRY).await;
            let asked = Instant::now();
            match tokio::time::timeout_at(deadline, self.renew()).await {
                Ok(Ok(true)) => deadline = asked + RENEW_DEADLINE,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed"),
                Err(_) => tracing::warn!("renewing the lease took too long"),
            }
            if Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Gives the Lease back, so that another candidate need not wait for it to run out.
    pub async fn release(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await else { return };
        if holder(&lease) != Some(self.identity.as_str()) {
            return;
        }
        lease.spec = Some(LeaseSpec { holder_identity: None, ..lease.spec.unwrap_or_default() });
        if let Err(error) = self.api.replace(&self.name, &PostParams::default(), &lease).await {
            tracing::debug!(%error, "the lease runs out by itself");
        }
    }

    async fn try_acquire(&self, seen: &mut Seen) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        if seen.version != lease.metadata.resource_version {
            *seen = Seen { version: lease.metadata.resource_version.clone(), at: Instant::now() };
        }
        let free = match holder(&lease) {
            None | Some("") => true,
            Some(other) => other == self.identity || seen.at.elapsed() > DURATION,
        };
        if !free {
            return Ok(false);
        }
        let spec = Some(self.spec(lease.spec.as_ref()));
        won(self.api.replace(&self.name, &PostParams::default(), &Lease { spec, ..lease }).await)
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let lease = self.api.get(&self.name).await?;
        if holder(&lease) != Some(self.identity.as_str()) {
            return Ok(false);
        }
        let spec = Some(self.spec(lease.spec.as_ref()));
        won(self.api.replace(&self.name, &PostParams::default(), &Lease { spec, ..lease }).await)
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = before.filter(|spec| spec.holder_identity.as_deref() == Some(self.identity.as_str()));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: same.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if same.is_some() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// A conflict means that somebody else was first: the version sent along was not the newest.
fn won<T>(result: Result<T, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeBounds;
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    /// An API server that holds one Lease.
    fn server(lease: Arc<Mutex<Option<Value>>>) -> Client {
        let service = service_fn(move |request: Request<Body>| {
            let lease = Arc::clone(&lease);
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.expect("a body");
                let mut lease = lease.lock().expect("no test panicked");
                let version = |lease: &Value| lease["metadata"]["resourceVersion"].as_str().map(str::to_string);
                let (code, answer) = match (method, lease.as_ref()) {
                    (Method::GET, None) => (404, failure(404, "NotFound")),
                    (Method::GET, Some(lease)) => (200, lease.clone()),
                    (Method::POST, Some(_)) => (409, failure(409, "AlreadyExists")),
                    (Method::PUT, Some(held)) => {
                        let sent: Value = serde_json::from_slice(&body).expect("JSON");
                        match version(&sent) == version(held) {
                            true => (200, store(&mut lease, sent)),
                            false => (409, failure(409, "Conflict")),
                        }
                    }
                    (_, _) => (201, store(&mut lease, serde_json::from_slice(&body).expect("JSON"))),
                };
                let answer = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(answer.expect("a response"))
            }
        });
        Client::new(service, "default")
    }

    fn store(lease: &mut Option<Value>, mut sent: Value) -> Value {
        let last = lease.as_ref().and_then(|lease| lease["metadata"]["resourceVersion"].as_str()?.parse::<u64>().ok());
        sent["metadata"]["resourceVersion"] = json!((last.unwrap_or(0) + 1).to_string());
        *lease = Some(sent.clone());
        sent
    }

    fn failure(code: u16, reason: &str) -> Value {
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason })
    }

    fn election(client: &Client, identity: &str) -> Election {
        Election::new(client.clone(), "default", "quorate-operator", identity.to_string())
    }

    fn fresh() -> Seen {
        Seen { version: None, at: Instant::now() }
    }

    #[tokio::test]
    async fn one_of_two_holds_the_lease() {
        let client = server(Arc::default());
        let (one, other) = (election(&client, "one"), election(&client, "other"));
        assert!(one.try_acquire(&mut fresh()).await.expect("an answer"));
        assert!(!other.try_acquire(&mut fresh()).await.expect("an answer"));
        assert!(one.renew().await.expect("an answer"));
        assert!(!other.renew().await.expect("an answer"));
    }

    #[tokio::test]
    async fn a_released_lease_is_free_at_once() {
        let client = server(Arc::default());
        let (one, other) = (election(&client, "one"), election(&client, "other"));
        assert!(one.try_acquire(&mut fresh()).await.expect("an answer"));
        one.release().await;
        assert!(other.try_acquire(&mut fresh()).await.expect("an answer"));
        assert!(!one.renew().await.expect("an answer"));
    }

    /// An API server that answers the calls of these numbers, counted from zero, and no others.
    fn server_that_answers(
        lease: Arc<Mutex<Option<Value>>>,
        these: impl RangeBounds<usize> + Send + 'static,
    ) -> Client {
        let (answering, mut calls) = (server(lease), 0..);
        let service = service_fn(move |request: Request<Body>| {
            let (answering, answers) = (answering.clone(), calls.next().is_some_and(|call| these.contains(&call)));
            async move {
                if !answers {
                    std::future::pending::<()>().await;
                }
                answering.send(request).await
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_stops_before_anybody_else_may_begin() {
        let lease = Arc::<Mutex<Option<Value>>>::default();
        assert!(election(&server(Arc::clone(&lease)), "one").try_acquire(&mut fresh()).await.expect("an answer"));
        // Two calls are one renewal.
        for renewals in 0..3 {
            let one = election(&server_that_answers(Arc::clone(&lease), ..2 * renewals), "one");
            let begin = Instant::now();
            one.hold().await;
            let renewed = RETRY * u32::try_from(renewals).expect("few");
            assert!(begin.elapsed() <= renewed + RENEW_DEADLINE, "{renewals}: {:?}", begin.elapsed());
            assert!(begin.elapsed() >= renewed, "{renewals}: {:?}", begin.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_whose_call_is_never_answered_asks_again() {
        let standby = election(&server_that_answers(Arc::default(), 1..), "standby");
        let acquired = tokio::time::timeout(RENEW_DEADLINE + 2 * RETRY, standby.acquire()).await;
        acquired.expect("the second call is answered");
    }

    #[tokio::test]
    async fn a_lease_that_stopped_changing_is_taken_over() {
        let client = server(Arc::default());
        let (one, other) = (election(&client, "one"), election(&client, "other"));
        assert!(one.try_acquire(&mut fresh()).await.expect("an answer"));
        let mut seen = fresh();
        assert!(!other.try_acquire(&mut seen).await.expect("an answer"));
        let long_ago = Instant::now().checked_sub(DURATION + RETRY).expect("the machine runs that long");
        seen.at = long_ago;
        assert!(other.try_acquire(&mut seen).await.expect("an answer"));
        assert!(!one.renew().await.expect("an answer"));
    }
}
