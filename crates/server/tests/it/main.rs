//! Whole replicas in one process, over loopback, with real files.
//!
//! No test sleeps: each waits for a state it can name, for at most [`cluster::PATIENCE`].

mod admin_calls;
mod auth_matrix;
mod boundaries;
mod client_limits;
mod cluster;
mod etcd_auth;
mod etcd_errors;
mod etcd_gate;
mod etcd_holes;
mod etcd_kv;
mod etcd_lease;
mod etcd_lock;
mod etcd_maintenance;
mod etcd_members;
mod etcd_snapshot;
mod etcd_tokens;
mod etcd_watch;
mod etcd_watch_rules;
mod gateway;
mod gateway_paths;
mod gateway_streams;
mod http_api;
mod identity;
mod limits;
mod membership;
mod metrics;
mod ports;
mod probes;
mod replication;
mod rights_behind;
mod scale;
mod served;
mod signed;
mod watcher;
