//! Which call stands behind which path: etcd's own table.

use prost_reflect::{DescriptorPool, MethodDescriptor};

/// Paths below `/v3/`, by service.
const PATHS: [(&str, &[(&str, &str)]); 8] = [
    (
        "etcdserverpb.KV",
        &[
            ("kv/range", "Range"),
            ("kv/put", "Put"),
            ("kv/deleterange", "DeleteRange"),
            ("kv/txn", "Txn"),
            ("kv/compaction", "Compact"),
        ],
    ),
    ("etcdserverpb.Watch", &[("watch", "Watch")]),
    (
        "etcdserverpb.Lease",
        &[
            ("lease/grant", "LeaseGrant"),
            ("lease/revoke", "LeaseRevoke"),
            ("kv/lease/revoke", "LeaseRevoke"),
            ("lease/keepalive", "LeaseKeepAlive"),
            ("lease/timetolive", "LeaseTimeToLive"),
            ("kv/lease/timetolive", "LeaseTimeToLive"),
            ("lease/leases", "LeaseLeases"),
            ("kv/lease/leases", "LeaseLeases"),
        ],
    ),
    (
        "etcdserverpb.Cluster",
        &[
            ("cluster/member/add", "MemberAdd"),
            ("cluster/member/remove", "MemberRemove"),
            ("cluster/member/update", "MemberUpdate"),
            ("cluster/member/list", "MemberList"),
            ("cluster/member/promote", "MemberPromote"),
        ],
    ),
    (
        "etcdserverpb.Maintenance",
        &[
            ("maintenance/alarm", "Alarm"),
            ("maintenance/status", "Status"),
            ("maintenance/defragment", "Defragment"),
            ("maintenance/hash", "Hash"),
            ("maintenance/hashkv", "HashKV"),
            ("maintenance/snapshot", "Snapshot"),
            ("maintenance/transfer-leadership", "MoveLeader"),
            ("maintenance/downgrade", "Downgrade"),
        ],
    ),
    (
        "etcdserverpb.Auth",
        &[
            ("auth/enable", "AuthEnable"),
            ("auth/disable", "AuthDisable"),
            ("auth/status", "AuthStatus"),
            ("auth/authenticate", "Authenticate"),
            ("auth/user/add", "UserAdd"),
            ("auth/user/get", "UserGet"),
            ("auth/user/list", "UserList"),
            ("auth/user/delete", "UserDelete"),
            ("auth/user/changepw", "UserChangePassword"),
            ("auth/user/grant", "UserGrantRole"),
            ("auth/user/revoke", "UserRevokeRole"),
            ("auth/role/add", "RoleAdd"),
            ("auth/role/get", "RoleGet"),
            ("auth/role/list", "RoleList"),
            ("auth/role/delete", "RoleDelete"),
            ("auth/role/grant", "RoleGrantPermission"),
            ("auth/role/revoke", "RoleRevokePermission"),
        ],
    ),
    (
        "v3electionpb.Election",
        &[
            ("election/campaign", "Campaign"),
            ("election/proclaim", "Proclaim"),
            ("election/leader", "Leader"),
            ("election/observe", "Observe"),
            ("election/resign", "Resign"),
        ],
    ),
    ("v3lockpb.Lock", &[("lock/lock", "Lock"), ("lock/unlock", "Unlock")]),
];

/// Those of them whose method takes a stream of messages.
const STREAMS: [&str; 2] = ["watch", "lease/keepalive"];

/// The part of a path below `/v3/` or its older spelling.
pub(super) fn below(path: &str) -> &str {
    strip_root(path).unwrap_or(path)
}

/// Whether a path is below `/v3/` or its older spelling.
pub(super) fn is_below(path: &str) -> bool {
    strip_root(path).is_some()
}

fn strip_root(path: &str) -> Option<&str> {
    path.strip_prefix("/v3beta/").or_else(|| path.strip_prefix("/v3/"))
}

/// Whether the method behind a whole path takes a stream of messages.
pub(super) fn takes_stream(path: &str) -> bool {
    STREAMS.contains(&below(path))
}

/// The method behind a path below `/v3/`.
pub(super) fn method(pool: &DescriptorPool, path: &str) -> Option<MethodDescriptor> {
    let all = PATHS.iter().flat_map(|(service, paths)| paths.iter().map(move |(path, name)| (service, path, name)));
    let (service, _, name) = all.into_iter().find(|(_, known, _)| **known == path)?;
    pool.get_service_by_name(service)?.methods().find(|method| method.name() == *name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_method_of_etcd_has_a_path_but_the_one_that_has_none_there() {
        let pool = DescriptorPool::decode(quorate_proto::FILE_DESCRIPTOR_SET).expect("descriptors");
        let mut without: BTreeSet<String> = BTreeSet::new();
        for (service, paths) in PATHS {
            let service = pool.get_service_by_name(service).expect("a service");
            without.extend(service.methods().map(|method| method.full_name().to_owned()));
            for (path, _) in paths {
                let method = method(&pool, path).expect("a method");
                without.remove(method.full_name());
            }
        }
        assert_eq!(without, BTreeSet::from(["etcdserverpb.KV.RangeStream".to_owned()]));
    }

    #[test]
    fn methods_that_take_a_stream_are_known_by_their_paths() {
        let pool = DescriptorPool::decode(quorate_proto::FILE_DESCRIPTOR_SET).expect("descriptors");
        for (path, _) in PATHS.iter().flat_map(|(_, paths)| *paths) {
            let is_stream = method(&pool, path).expect("a method").is_client_streaming();
            for root in ["/v3/", "/v3beta/"] {
                assert_eq!(takes_stream(&format!("{root}{path}")), is_stream, "{path}");
            }
        }
    }
}
