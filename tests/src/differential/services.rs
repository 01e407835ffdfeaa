//! Random requests of all services but KV, and as JSON.

use bytes::Bytes;
use quorate_proto::authpb;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::downgrade_request::DowngradeAction;
use quorate_proto::v3electionpb::{LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use quorate_proto::v3lockpb::{LockRequest, UnlockRequest};

use super::Call;
use super::generate::{Generator, change_alarm};

pub(super) const LEASES: [i64; 5] = [77, 78, 79, 80, -5];
const USERS: [&str; 3] = ["root", "u", "w"];
const ROLES: [&str; 3] = ["root", "r", "s"];
/// `pw` and `other` as bcrypt hashes of little work, in base64: what is compared is not how long a hash takes.
const PASSWORDS: [(&str, &str); 2] = [
    ("pw", "JDJiJDA0JC9WZnMyRE91WWZxVjIzRUtTWVFQVS5keHdLMFh1VGNmaEExVWd4NEtVQnVjaDBabTJrekJL"),
    ("other", "JDJiJDA0JEl0ZTFNYy5USTFjRVJtZE1WT0FHQy51ajNRVVB4VVlaMUhOUmJGZE1XdUI4OXphbThRWlpH"),
];
const ENDPOINTS: [&str; 7] = [
    "/health",
    "/health?serializable=true",
    "/livez",
    "/readyz",
    "/livez/serializable_read",
    "/readyz/data_corruption",
    "/version",
];
/// Calls that say little by themselves.
const JSON_PATHS: [&str; 5] =
    ["/v3/lease/leases", "/v3/auth/status", "/v3/kv/compaction", "/v3/cluster/member/promote", "/v3/nothing"];
/// Longer than any episode, so that nothing runs out in one.
const TTL: i64 = 3_600;
/// The longest that both grant.
const MAX_TTL: i64 = 9_000_000_000;
/// Larger than a request may be, but not than a message; the limit itself is 1.5 MiB.
const TOO_LARGE_BYTES: usize = 1_700_000;
const LARGE_BYTES: usize = 1_400_000;

impl Generator {
    pub(super) fn lease(&mut self) -> i64 {
        *self.random.pick(&LEASES)
    }

    /// Who asks.
    pub(super) fn somebody(&mut self) -> Option<&'static str> {
        match self.random.below(10) {
            0 => None,
            1..=5 => Some("root"),
            _ => Some(*self.random.pick(&USERS)),
        }
    }

    pub(super) fn service(&mut self) -> Call {
        match self.random.below(20) {
            0..=6 => self.leases(),
            7..=8 => Call::Watch(self.watch()),
            9 if self.random.chance(30) => Call::HalfClosedWatch(self.watch()),
            9 => Call::Watch(self.watch()),
            10..=11 => self.members(),
            12..=13 => self.maintenance(),
            14..=15 => self.locks(),
            16..=17 => self.json(),
            18 => {
                let path = *self.random.pick(&ENDPOINTS);
                Call::Get(path)
            }
            _ => self.limits(),
        }
    }

    fn leases(&mut self) -> Call {
        let id = self.lease();
        match self.random.below(10) {
            0..=3 => {
                let ttl = match self.random.below(20) {
                    0 => MAX_TTL + 1,
                    1 => MAX_TTL,
                    _ => TTL + self.random.below(100),
                };
                Call::LeaseGrant(pb::LeaseGrantRequest { ttl, id })
            }
            4 => Call::LeaseRevoke(pb::LeaseRevokeRequest { id }),
            5 => Call::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id }),
            6..=8 => Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys: self.random.chance(70) }),
            _ => Call::LeaseLeases(pb::LeaseLeasesRequest {}),
        }
    }

    pub(super) fn watch(&mut self) -> pb::WatchCreateRequest {
        // One of the future is told nothing, progress included, until it is there.
        let start_revision = self.some_revision().min(self.revision);
        let filters = (0..2).filter(|_| self.random.chance(15)).collect();
        pb::WatchCreateRequest {
            key: self.key(),
            range_end: self.range_end(),
            start_revision,
            progress_notify: false,
            filters,
            prev_kv: self.random.chance(50),
            watch_id: if self.random.chance(10) { 5 } else { 0 },
            fragment: self.random.chance(20),
        }
    }

    fn members(&mut self) -> Call {
        // Ids that no member has.
        let id = 1 + u64::try_from(self.random.below(3)).expect("a small number");
        let urls = ["nonsense", "ftp://127.0.0.1:9", "http://127.0.0.1"];
        let given = self.random.chance(75).then(|| (*self.random.pick(&urls)).to_owned());
        let peer_ur_ls: Vec<String> = given.into_iter().collect();
        match self.random.below(6) {
            0..=1 => Call::MemberList(pb::MemberListRequest { linearizable: self.random.chance(70) }),
            2 => Call::MemberAdd(pb::MemberAddRequest { peer_ur_ls, is_learner: self.random.chance(50) }),
            3 => Call::MemberRemove(pb::MemberRemoveRequest { id }),
            4 => Call::MemberUpdate(pb::MemberUpdateRequest { id, peer_ur_ls }),
            _ => Call::MemberPromote(pb::MemberPromoteRequest { id }),
        }
    }

    fn maintenance(&mut self) -> Call {
        match self.random.below(7) {
            0 => {
                let action = *self.random.pick(&[AlarmAction::Get, AlarmAction::Activate, AlarmAction::Deactivate]);
                // One at a time: it is taken back by who raised it.
                let action = if self.alarm.is_some() { AlarmAction::Get } else { action };
                let alarm = i32::try_from(self.random.below(3)).expect("a small number");
                change_alarm(action, alarm)
            }
            1 => Call::Status(pb::StatusRequest {}),
            2 => Call::Defragment(pb::DefragmentRequest {}),
            3..=4 => Call::HashKv(pb::HashKvRequest { revision: self.some_revision() }),
            5 => Call::MoveLeader(pb::MoveLeaderRequest { target_id: 1 }),
            _ => {
                let version = (*self.random.pick(&["", "x", "3.7.0", "3.6.0", "3.5.0"])).to_owned();
                let action = *self.random.pick(&[DowngradeAction::Validate, DowngradeAction::Cancel]);
                Call::Downgrade(pb::DowngradeRequest { action: action.into(), version })
            }
        }
    }

    fn locks(&mut self) -> Call {
        let lease = self.lease();
        let sign = if lease < 0 { "-" } else { "" };
        // Each lease has a name of its own: nobody waits.
        let name = format!("lock{lease}");
        let key = format!("{name}/{sign}{:x}", lease.unsigned_abs());
        let rev = self.revision - self.random.below(5);
        let leader = LeaderKey { name: name.clone().into(), key: key.clone().into(), rev, lease };
        let leader = if self.random.chance(80) { Some(leader) } else { None };
        match self.random.below(7) {
            0..=2 => Call::Lock(LockRequest { name: name.into(), lease }),
            3 => Call::Unlock(UnlockRequest { key: key.into() }),
            4 => Call::Leader(LeaderRequest { name: name.into() }),
            5 => Call::Proclaim(ProclaimRequest { leader, value: self.value() }),
            _ => Call::Resign(ResignRequest { leader }),
        }
    }

    fn limits(&mut self) -> Call {
        use pb::request_op::Request;
        match self.random.below(6) {
            0 => Call::LargePut(TOO_LARGE_BYTES),
            1 => Call::LargePut(LARGE_BYTES),
            _ => {
                let count = 127 + self.random.below(3);
                // Of one key, none of them large: the answer holds it as often.
                let range = pb::RangeRequest { range_end: Bytes::new(), ..self.range() };
                let op = pb::RequestOp { request: Some(Request::RequestRange(range)) };
                let many = vec![op; usize::try_from(count).expect("a small number")];
                let (success, failure) = if self.random.chance(50) { (many, vec![]) } else { (vec![], many) };
                Call::Txn(pb::TxnRequest { compare: Vec::new(), success, failure })
            }
        }
    }

    fn json(&mut self) -> Call {
        // `a`, `ab`, `b`, and what is no base64.
        let key = *self.random.pick(&["YQ==", "YWI=", "Yg==", "", "*"]);
        let revision = self.some_revision();
        match self.random.below(8) {
            0..=1 => Call::Json(
                "/v3/kv/range",
                format!(r#"{{"key":"{key}","range_end":"Yw==","revision":"{revision}","unknown":[1]}}"#),
            ),
            2 => Call::Json(
                "/v3/kv/range",
                format!(r#"{{"key":"{key}","sort_order":"DESCEND","sort_target":"MOD","limit":2}}"#),
            ),
            3 => Call::Json("/v3/kv/put", format!(r#"{{"key":"{key}","value":"eA==","prev_kv":true}}"#)),
            4 => Call::Json("/v3beta/kv/deleterange", format!(r#"{{"key":"{key}","prevKv":true}}"#)),
            5 => Call::Json(
                "/v3/kv/txn",
                format!(
                    r#"{{"compare":[{{"key":"{key}","target":"VERSION","result":"GREATER","version":0}}],"success":[{{"requestRange":{{"key":"{key}"}}}}],"failure":[{{"requestPut":{{"key":"{key}","value":"eQ=="}}}}]}}"#
                ),
            ),
            6 if self.random.chance(50) => Call::Json("/v3/lease/keepalive", format!(r#"{{"ID":"{}"}}"#, self.lease())),
            6 => Call::Json("/v3/lease/timetolive", format!(r#"{{"ID":"{}","keys":true}}"#, self.lease())),
            _ => {
                let path = *self.random.pick(&JSON_PATHS);
                Call::Json(path, "{}".to_owned())
            }
        }
    }

    /// Users, roles and the switch. Who root is has to be made first, which is what is asked for most.
    pub(super) fn users(&mut self) -> Call {
        let (name, role) = ((*self.random.pick(&USERS)).to_owned(), (*self.random.pick(&ROLES)).to_owned());
        let (user, nobody) =
            (*self.random.pick(&USERS), if self.random.chance(4) { String::new() } else { name.clone() });
        let known = if self.random.chance(80) { 1 } else { PASSWORDS.len() };
        let (password, hash) = *self.random.pick(&PASSWORDS[..known]);
        let hashed_password = hash.to_owned();
        let (given, no_password) = (password.to_owned(), self.random.chance(10));
        let key = self.key();
        let range_end = self.range_end();
        match self.random.below(30) {
            0..=3 => {
                let options = no_password.then_some(authpb::UserAddOptions { no_password });
                Call::UserAdd(pb::AuthUserAddRequest { name: nobody, password: given, hashed_password, options })
            }
            4..=6 => {
                Call::RoleAdd(pb::AuthRoleAddRequest { name: if self.random.chance(4) { String::new() } else { role } })
            }
            7..=9 => Call::UserGrantRole(pb::AuthUserGrantRoleRequest { user: name, role }),
            10..=12 => Call::AuthEnable(pb::AuthEnableRequest {}),
            13..=18 => Call::Authenticate(
                user,
                pb::AuthenticateRequest { name: user.to_owned(), password: password.to_owned() },
            ),
            19..=21 => {
                let perm_type = i32::try_from(self.random.below(3)).expect("a small number");
                let perm = authpb::Permission { perm_type, key, range_end };
                let perm = if self.random.chance(95) { Some(perm) } else { None };
                Call::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name: role, perm })
            }
            22 => Call::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest { role, key, range_end }),
            23 => Call::UserGet(pb::AuthUserGetRequest { name }),
            24 => Call::RoleGet(pb::AuthRoleGetRequest { role }),
            25 => {
                if self.random.chance(50) {
                    Call::UserList(pb::AuthUserListRequest {})
                } else {
                    Call::RoleList(pb::AuthRoleListRequest {})
                }
            }
            26 => Call::AuthStatus(pb::AuthStatusRequest {}),
            27 => Call::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name, role }),
            28 => {
                // A hash counts where there is no password; one that is none lets nobody in.
                let (password, hashed_password) = match self.random.below(10) {
                    0..=3 => (given, String::new()),
                    4 => (given, hashed_password),
                    5 => (String::new(), String::new()),
                    6 => (String::new(), "bm90aGluZw==".to_owned()),
                    _ => (String::new(), hashed_password),
                };
                Call::UserChangePassword(pb::AuthUserChangePasswordRequest { name, password, hashed_password })
            }
            _ => match self.random.below(3) {
                0 => Call::UserDelete(pb::AuthUserDeleteRequest { name }),
                1 => Call::RoleDelete(pb::AuthRoleDeleteRequest { role }),
                _ => Call::AuthDisable(pb::AuthDisableRequest {}),
            },
        }
    }
}
