//! Calls that stay: a claim in the line of a lock or an election, which is answered when its turn comes, and an observer of
//! an election. After every request both sides are brought to rest, so that the next one finds the same on both.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::v3electionpb::election_client::ElectionClient;
use quorate_proto::v3electionpb::{CampaignRequest, LeaderRequest};
use quorate_proto::v3lockpb::LockRequest;
use quorate_proto::v3lockpb::lock_client::LockClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::answer::{Answer, words};
use super::side::Signed;

/// What has not come to rest in this time never does.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at a line.
const PACE: Duration = Duration::from_millis(3);

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Stay {
    /// `Lock.Lock`, in a line with others
    Lock(LockRequest),
    /// `Election.Campaign`
    Campaign(CampaignRequest),
    /// `Election.Observe`
    Observe(LeaderRequest),
}

impl Stay {
    /// The keys of its line begin with this.
    fn prefix(&self) -> Bytes {
        let (Stay::Lock(LockRequest { name, .. })
        | Stay::Campaign(CampaignRequest { name, .. })
        | Stay::Observe(LeaderRequest { name, .. })) = self;
        [name, &b"/"[..]].concat().into()
    }
}

/// One call under way.
#[derive(Debug)]
pub(super) struct Standing {
    line: Line,
    call: Call,
}

#[derive(Debug)]
enum Call {
    Claim {
        key: Bytes,
        value: Bytes,
        /// Create revision of the key, once it was seen.
        revision: Option<i64>,
        answer: JoinHandle<Answer>,
    },
    Observer {
        seen: mpsc::UnboundedReceiver<Result<KeyValue, Status>>,
        last: Option<KeyValue>,
        told: String,
        listening: JoinHandle<()>,
    },
    Answered(Answer),
}

/// Where claims stand.
#[derive(Debug)]
struct Line {
    to: Signed,
    prefix: Bytes,
}

impl Standing {
    /// Begins the call.
    pub(super) fn begin(to: Signed, stay: Stay) -> Standing {
        let line = Line { to: to.clone(), prefix: stay.prefix() };
        let claim = |lease: i64, value: Bytes, answer| {
            let key = [&line.prefix[..], format!("{lease:x}").as_bytes()].concat().into();
            Call::Claim { key, value, revision: None, answer }
        };
        let call = match stay {
            Stay::Lock(request) => {
                let lease = request.lease;
                claim(lease, Bytes::new(), tokio::spawn(async { words(LockClient::new(to).lock(request).await) }))
            }
            Stay::Campaign(request) => {
                let (lease, value) = (request.lease, request.value.clone());
                let call = async { words(ElectionClient::new(to).campaign(request).await) };
                claim(lease, value, tokio::spawn(call))
            }
            Stay::Observe(request) => {
                let (tell, seen) = mpsc::unbounded_channel();
                // etcd sends not even the head of its answer before there is a leader.
                let listening = tokio::spawn(async move {
                    if let Err(status) = listen(to, request, &tell).await {
                        let _ = tell.send(Err(status));
                    }
                });
                Call::Observer { seen, last: None, told: String::new(), listening }
            }
        };
        Standing { line, call }
    }

    /// Waits until the call has come as far as it can get by now.
    pub(super) async fn rest(&mut self) {
        if timeout(PATIENCE, self.come_to_rest()).await.is_err() {
            let never = Answer::Message { revision: None, text: "does not come to rest".to_owned() };
            self.call = Call::Answered(never);
        }
    }

    async fn come_to_rest(&mut self) {
        loop {
            match &mut self.call {
                Call::Answered(_) => return,
                Call::Claim { answer, .. } if answer.is_finished() => {
                    let answer = answer.await.expect("a call does not panic");
                    self.call = Call::Answered(answer);
                    return;
                }
                Call::Claim { key, value, revision, .. } => {
                    let keys = self.line.keys().await;
                    let own = keys.iter().find(|kv| kv.key == *key && kv.value == *value);
                    *revision = revision.or(own.map(|kv| kv.create_revision));
                    // It is answered once nobody is ahead, whether its own key is still there or not.
                    if revision.is_some_and(|own| keys.iter().any(|kv| kv.create_revision < own)) {
                        return;
                    }
                    sleep(PACE).await;
                }
                Call::Observer { seen, last, told, .. } => {
                    let leader = self.line.keys().await.into_iter().next();
                    if leader.is_none() || leader == *last {
                        return;
                    }
                    match seen.recv().await {
                        Some(Ok(kv)) => {
                            let _ = writeln!(told, "{kv:?}");
                            *last = Some(kv);
                        }
                        ended => {
                            let text = format!("{told}ended: {ended:?}");
                            self.call = Call::Answered(Answer::Message { revision: None, text });
                            return;
                        }
                    }
                }
            }
        }
    }

    /// What came of it so far; `None` if nothing, since it waits.
    pub(super) fn so_far(&mut self) -> Option<Answer> {
        match &mut self.call {
            Call::Answered(answer) => Some(answer.clone()),
            Call::Claim { .. } => None,
            Call::Observer { told, .. } => Some(Answer::Message { revision: None, text: std::mem::take(told) }),
        }
    }

    /// Whether the call is over.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self.call, Call::Answered(_))
    }

    /// The caller goes away; waits until the line is without it. Gives whether the claim was in the line until then.
    pub(super) async fn give_up(self) -> bool {
        match &self.call {
            Call::Claim { key, revision, answer, .. } => {
                let stands = async || {
                    let keys = self.line.keys().await;
                    keys.iter().any(|kv| kv.key == *key && Some(kv.create_revision) == *revision)
                };
                let stood = stands().await;
                answer.abort();
                let left = async {
                    while stands().await {
                        sleep(PACE).await;
                    }
                };
                stood && timeout(PATIENCE, left).await.is_ok()
            }
            Call::Observer { listening, .. } => {
                listening.abort();
                true
            }
            Call::Answered(_) => true,
        }
    }
}

impl Line {
    /// All claims, the first in line first.
    async fn keys(&self) -> Vec<KeyValue> {
        let mut range_end = self.prefix.to_vec();
        *range_end.last_mut().expect("a prefix ends in a slash") += 1;
        let range = pb::RangeRequest {
            key: self.prefix.clone(),
            range_end: range_end.into(),
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..pb::RangeRequest::default()
        };
        KvClient::new(self.to.clone()).range(range).await.expect("anybody may read here").into_inner().kvs
    }
}

async fn listen(
    to: Signed,
    request: LeaderRequest,
    tell: &mpsc::UnboundedSender<Result<KeyValue, Status>>,
) -> Result<(), Status> {
    let mut answers = ElectionClient::new(to).observe(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let _ = tell.send(Ok(answer.kv.unwrap_or_default()));
    }
    Ok(())
}
