//! What is asked, and what is answered: requests of every kind, sent to one side and put into words that can be compared.

use std::fmt::{self, Debug};

use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::kv_client::KvClient;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// `KV.Range`
    Range(pb::RangeRequest),
    /// `KV.RangeStream`, all chunks taken together
    RangeStream(pb::RangeRequest),
    /// `KV.Put`
    Put(pb::PutRequest),
    /// `KV.DeleteRange`
    DeleteRange(pb::DeleteRangeRequest),
    /// `KV.Txn`
    Txn(pb::TxnRequest),
    /// `KV.Compact`
    Compact(pb::CompactionRequest),
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A message without what is a matter of one run, a line a field.
    Message {
        /// The header's revision.
        revision: Option<i64>,
        /// Every field.
        text: String,
    },
    /// A refusal.
    Refused(Code, String),
}

impl Answer {
    /// The code of a refusal.
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Answer::Message { .. } => None,
            Answer::Refused(code, _) => Some(*code),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Message { text, .. } => f.write_str(text),
            Answer::Refused(code, text) => write!(f, "{code:?}: {text}"),
        }
    }
}

/// The clients of one server.
#[derive(Debug)]
pub(super) struct Side {
    kv: KvClient<Channel>,
}

impl Side {
    pub(super) fn new(channel: Channel) -> Side {
        Side { kv: KvClient::new(channel) }
    }

    pub(super) async fn perform(&mut self, action: &Action) -> Answer {
        match action.clone() {
            Action::Range(request) => words(self.kv.range(request).await),
            Action::RangeStream(request) => self.range_stream(request).await.unwrap_or_else(refusal),
            Action::Put(request) => words(self.kv.put(request).await),
            Action::DeleteRange(request) => words(self.kv.delete_range(request).await),
            Action::Txn(request) => words(self.kv.txn(request).await),
            Action::Compact(request) => words(self.kv.compact(request).await),
        }
    }

    /// Where a stream is cut into chunks is the server's affair; that its end alone has a header is not.
    async fn range_stream(&mut self, request: pb::RangeRequest) -> Result<Answer, Status> {
        let mut chunks = self.kv.range_stream(request).await?.into_inner();
        let mut whole = pb::RangeResponse::default();
        let mut headers = 0;
        while let Some(chunk) = chunks.message().await? {
            let chunk = chunk.range_response.unwrap_or_default();
            assert!(headers == 0, "a chunk after the last one: {chunk:?}");
            headers += usize::from(chunk.header.is_some());
            whole.kvs.extend(chunk.kvs);
            whole = pb::RangeResponse { header: chunk.header, more: chunk.more, count: chunk.count, ..whole };
        }
        Ok(words(Ok(Response::new(whole))))
    }
}

/// A message with a header.
trait Comparable: Debug {
    fn header(&mut self) -> Option<&mut pb::ResponseHeader>;
}

macro_rules! headed {
    ($($message:ident)+) => {
        $(impl Comparable for pb::$message {
            fn header(&mut self) -> Option<&mut pb::ResponseHeader> {
                self.header.as_mut()
            }
        })+
    };
}

headed! { RangeResponse PutResponse DeleteRangeResponse TxnResponse CompactionResponse }

fn words<M: Comparable>(answer: Result<Response<M>, Status>) -> Answer {
    match answer {
        Ok(response) => {
            let mut message = response.into_inner();
            let revision = message.header().map(|header| {
                // Whether they are told is the same for both; what they are is not.
                header.cluster_id = u64::from(header.cluster_id != 0);
                header.member_id = u64::from(header.member_id != 0);
                header.raft_term = u64::from(header.raft_term != 0);
                header.revision
            });
            Answer::Message { revision, text: format!("{message:#?}") }
        }
        Err(status) => refusal(status),
    }
}

fn refusal(status: Status) -> Answer {
    Answer::Refused(status.code(), status.message().to_string())
}
