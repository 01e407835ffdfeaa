//! What is answered, put into words that can be compared: without what is a matter of one run.

use std::fmt::{self, Debug};

use quorate_proto::etcdserverpb as pb;
use quorate_proto::v3electionpb::{CampaignResponse, LeaderResponse, ProclaimResponse, ResignResponse};
use quorate_proto::v3lockpb::{LockResponse, UnlockResponse};
use serde_json::Value;
use tonic::{Code, Response, Status};

use super::http;

/// No episode takes longer.
const EPISODE_SECONDS: i64 = 1_800;

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

/// A message with a header.
pub(super) trait Comparable: Debug {
    fn header(&mut self) -> Option<&mut pb::ResponseHeader>;

    /// Takes away what differs from run to run.
    fn settle(&mut self) {}
}

macro_rules! headed {
    ($($message:ty),+ $(,)?) => {
        $(headed! { $message: settled |_told| {} })+
    };
    ($message:ty: settled |$told:ident| $settle:block) => {
        impl Comparable for $message {
            fn header(&mut self) -> Option<&mut pb::ResponseHeader> {
                self.header.as_mut()
            }

            fn settle(&mut self) {
                let $told = self;
                $settle
            }
        }
    };
}

headed! {
    pb::RangeResponse, pb::PutResponse, pb::DeleteRangeResponse, pb::TxnResponse, pb::CompactionResponse,
    pb::LeaseGrantResponse, pb::LeaseRevokeResponse, pb::LeaseKeepAliveResponse,
    pb::MemberAddResponse, pb::MemberRemoveResponse, pb::MemberUpdateResponse, pb::MemberPromoteResponse,
    pb::DefragmentResponse, pb::MoveLeaderResponse, pb::DowngradeResponse,
    pb::AuthEnableResponse, pb::AuthDisableResponse, pb::AuthStatusResponse,
    pb::AuthUserAddResponse, pb::AuthUserGetResponse, pb::AuthUserListResponse, pb::AuthUserDeleteResponse,
    pb::AuthUserChangePasswordResponse, pb::AuthUserGrantRoleResponse, pb::AuthUserRevokeRoleResponse,
    pb::AuthRoleAddResponse, pb::AuthRoleListResponse, pb::AuthRoleDeleteResponse,
    pb::AuthRoleGrantPermissionResponse, pb::AuthRoleRevokePermissionResponse,
    LockResponse, UnlockResponse, CampaignResponse, LeaderResponse, ProclaimResponse, ResignResponse,
}
headed! { pb::LeaseTimeToLiveResponse: settled |told| { // etcd tells them in no order.
told.keys.sort();
// What is left of it, as long as it is not more than was granted nor much less.
if (told.granted_ttl - EPISODE_SECONDS..=told.granted_ttl).contains(&told.ttl) {
    told.ttl = told.granted_ttl;
} } }
headed! { pb::LeaseLeasesResponse: settled |told| { told.leases.sort_by_key(|lease| lease.id); } }
headed! { pb::AuthRoleGetResponse: settled |told| {
    // etcd tells those with the same first key in the order in which they were granted.
    told.perm.sort_by(|a, b| (&a.key, &a.range_end).cmp(&(&b.key, &b.range_end)));
} }
headed! { pb::AuthenticateResponse: settled |told| { told.token = "some".into(); } }
headed! { pb::HashKvResponse: settled |told| { told.hash = 0;
// etcd tells of a compaction once it is done.
told.compact_revision = 0; } }
headed! { pb::MemberListResponse: settled |told| {
    // etcd has one member here: what each of them shows is compared, not how many there are.
    told.members.truncate(1);
    for member in &mut told.members {
        member.id = u64::from(member.id != 0);
        member.name.clear();
        member.peer_ur_ls.iter_mut().chain(&mut member.client_ur_ls).for_each(|url| url.truncate("http://".len()));
    }
} }
headed! { pb::AlarmResponse: settled |told| {
    told.alarms.iter_mut().for_each(|alarm| alarm.member_id = u64::from(alarm.member_id != 0));
} }
headed! { pb::StatusResponse: settled |told| {
    // An etcd that has just begun says 3.5.0 for a while.
    told.storage_version.clear();
    told.db_size_in_use = 0;
    for size in [&mut told.db_size, &mut told.db_size_quota] {
        *size = size.signum();
    }
    for number in [&mut told.leader, &mut told.raft_index, &mut told.raft_term, &mut told.raft_applied_index] {
        *number = u64::from(*number != 0);
    }
} }
headed! { pb::WatchResponse }

/// Takes away what differs from run to run, and gives the header's revision.
pub(super) fn settle(message: &mut impl Comparable) -> Option<i64> {
    let revision = message.header().map(|header| {
        // Whether they are told is the same for both; what they are is not.
        header.cluster_id = u64::from(header.cluster_id != 0);
        header.member_id = u64::from(header.member_id != 0);
        header.raft_term = u64::from(header.raft_term != 0);
        header.revision
    });
    message.settle();
    revision
}

/// An answer or a refusal in words.
pub(super) fn words<M: Comparable>(answer: Result<Response<M>, Status>) -> Answer {
    match answer {
        Ok(response) => {
            let mut message = response.into_inner();
            let revision = settle(&mut message);
            Answer::Message { revision, text: format!("{message:#?}") }
        }
        Err(status) => refusal(status),
    }
}

/// A refusal in words.
pub(super) fn refusal(status: Status) -> Answer {
    Answer::Refused(status.code(), status.message().to_string())
}

/// An answer over HTTP in words.
pub(super) fn told(answer: http::Answer) -> Answer {
    let mut revision = None;
    let body = match serde_json::from_str::<Value>(&answer.body) {
        Ok(mut body) => {
            // On a stream, a line is the result.
            let of = if body["result"].is_object() { &mut body["result"] } else { &mut body };
            if let Some(header) = of.get_mut("header").and_then(Value::as_object_mut) {
                revision = header.get("revision").and_then(Value::as_str).and_then(|text| text.parse().ok());
                header.retain(|name, _| name == "revision");
            }
            if let Some(fields) = body.as_object_mut() {
                // Its own version is the one field that Quorate adds.
                fields.remove("quorate");
            }
            for (name, value) in body.as_object_mut().into_iter().flatten() {
                if let ("keys" | "leases", Some(keys)) = (name.as_str(), value.as_array_mut()) {
                    keys.sort_by_key(Value::to_string);
                }
                if matches!(name.as_str(), "TTL" | "storage") {
                    *value = Value::from("some");
                }
            }
            if body.get("message").and_then(Value::as_str).is_some_and(is_of_the_parser) {
                body["message"] = Value::from("no sound JSON");
            }
            format!("{body:#}")
        }
        Err(_) => answer.body,
    };
    Answer::Message { revision, text: format!("{}\n{body}", answer.status) }
}

/// What a JSON parser says of a text that it cannot read is its own affair; that it does is not.
fn is_of_the_parser(message: &str) -> bool {
    message.starts_with("proto:") || message.starts_with("invalid base64")
}
