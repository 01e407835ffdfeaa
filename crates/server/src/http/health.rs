//! Probes: `/health` as load balancers of etcd know it, `/livez` and `/readyz` as Kubernetes does.
//!
//! `/livez` is 200 in every state: no state of a node is mended by killing its process.
//! `/readyz` is what a load balancer should ask; `?exclude=linearizable_read` keeps stale reads going without a quorum.

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use quorate_kv::AlarmKind;
use quorate_node::{Consistency, NodeError, ReadOptions};
use quorate_wire::peer::NodeState;
use serde_json::json;

use super::{Shared, answer};
use crate::client_api::{ApiError, ClientApi, HEALTH_TIMEOUT};
use crate::node_state::{shown_alarms, why_not_serving};
use crate::query::decode_path;
use crate::runtime::ReplicaStatus;

/// The one check of `/livez`.
const ALIVE: &str = "serializable_read";

/// One thing `/readyz` looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Shutdown,
    DataCorruption,
    Member,
    NonLearner,
    SerializableRead,
    LinearizableRead,
}

const READY_CHECKS: [Check; 6] = [
    Check::Shutdown,
    Check::DataCorruption,
    Check::Member,
    Check::NonLearner,
    Check::SerializableRead,
    Check::LinearizableRead,
];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::Shutdown => "shutdown",
            Check::DataCorruption => "data_corruption",
            Check::Member => "member",
            Check::NonLearner => "non_learner",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
        }
    }

    async fn run(self, api: &ClientApi) -> Result<(), String> {
        let status = api.replica().status();
        match self {
            Check::Shutdown if api.is_withdrawn() => Err("this node is about to stop".to_string()),
            Check::Shutdown => Ok(()),
            Check::DataCorruption => match status.state {
                NodeState::Fenced | NodeState::Damaged => Err(why_not_serving(&status)),
                _ if has_alarm(&status, AlarmKind::Corrupt) => Err("alarm activated: CORRUPT".to_string()),
                _ => Ok(()),
            },
            Check::Member => match status.state {
                NodeState::Member => Ok(()),
                _ => Err(why_not_serving(&status)),
            },
            Check::NonLearner => {
                let own_id = status.identity.map(|identity| identity.node_id);
                let is_learner = match (own_id, status.raft) {
                    (Some(id), Some(raft)) => raft.membership.1.learners.contains(&id),
                    _ => false,
                };
                if is_learner { Err("this node is a learner".to_string()) } else { Ok(()) }
            }
            Check::SerializableRead => try_read(api, Consistency::Stale).await.map_err(|error| error.to_string()),
            Check::LinearizableRead => try_read(api, Consistency::Consistent).await.map_err(|error| error.to_string()),
        }
    }
}

async fn try_read(api: &ClientApi, consistency: Consistency) -> Result<(), ApiError> {
    let options = ReadOptions { consistency, ..ReadOptions::default() };
    let read = tokio::time::timeout(HEALTH_TIMEOUT, api.probe(options));
    match read.await {
        Ok(read) => read,
        Err(_) => Err(ApiError::Node(NodeError::Timeout)),
    }
}

/// What a probe's query says. Unknown parameters are ignored, as etcd and Kubernetes ignore them: a probe must not fail
/// for its spelling.
#[derive(Debug, Default, PartialEq, Eq)]
struct ProbeQuery {
    verbose: bool,
    serializable: bool,
    exclude: Vec<String>,
}

impl ProbeQuery {
    fn parse(query: Option<&str>) -> Self {
        let mut parsed = ProbeQuery::default();
        for part in query.unwrap_or_default().split('&') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match name {
                "verbose" => parsed.verbose = true,
                "serializable" => parsed.serializable = value == "true",
                "exclude" => {
                    let value = decode_path(value).unwrap_or_default();
                    parsed.exclude.push(String::from_utf8_lossy(&value).into_owned());
                }
                _ => {}
            }
        }
        parsed
    }

    fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|excluded| excluded == name)
    }
}

/// `/livez`: the process answers. That is all a restart could mend.
pub(super) async fn livez(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let query = ProbeQuery::parse(query.as_deref());
    let results: &[_] = if query.excludes(ALIVE) { &[] } else { &[(ALIVE, Ok(()))] };
    report(&shared, "livez", results, query.verbose)
}

/// `/livez/CHECK`.
pub(super) async fn livez_check(
    State(shared): State<Shared>,
    Path(check): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    match check.as_str() {
        ALIVE => report(&shared, "livez", &[(ALIVE, Ok(()))], ProbeQuery::parse(query.as_deref()).verbose),
        _ => unknown_check(&check, ALIVE),
    }
}

/// `/readyz`: every check that is not excluded.
pub(super) async fn readyz(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let query = ProbeQuery::parse(query.as_deref());
    let mut results = Vec::new();
    for check in READY_CHECKS.into_iter().filter(|check| !query.excludes(check.name())) {
        results.push((check.name(), check.run(&shared.api).await));
    }
    report(&shared, "readyz", &results, query.verbose)
}

/// `/readyz/CHECK`.
pub(super) async fn readyz_check(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(check) = READY_CHECKS.into_iter().find(|check| check.name() == name) else {
        return unknown_check(&name, &READY_CHECKS.map(Check::name).join(", "));
    };
    let results = [(check.name(), check.run(&shared.api).await)];
    report(&shared, "readyz", &results, ProbeQuery::parse(query.as_deref()).verbose)
}

/// `/health`: one word for load balancers.
pub(super) async fn health(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let query = ProbeQuery::parse(query.as_deref());
    let reason = why_unhealthy(&shared.api, &query).await;
    let etcd = &shared.api.metrics().etcd;
    let (status, health, counter) = match &reason {
        None => (StatusCode::OK, "true", &etcd.health_success),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "false", &etcd.health_failures),
    };
    counter.inc();
    (status, axum::Json(json!({"health": health, "reason": reason.unwrap_or_default()}))).into_response()
}

/// The reasons in etcd's words, in its order.
async fn why_unhealthy(api: &ClientApi, query: &ProbeQuery) -> Option<String> {
    let status = api.replica().status();
    if has_alarm(&status, AlarmKind::NoSpace) && !query.excludes("NOSPACE") {
        return Some("ALARM NOSPACE".to_string());
    }
    if has_alarm(&status, AlarmKind::Corrupt) && !query.excludes("CORRUPT") {
        return Some("ALARM CORRUPT".to_string());
    }
    let has_leader = status.raft.is_some_and(|raft| raft.leader.is_some());
    if !has_leader && !query.serializable {
        return Some("RAFT NO LEADER".to_string());
    }
    let consistency = if query.serializable { Consistency::Stale } else { Consistency::Consistent };
    try_read(api, consistency).await.err().map(|error| format!("RANGE ERROR:{error}"))
}

fn has_alarm(status: &ReplicaStatus, kind: AlarmKind) -> bool {
    shown_alarms(status).iter().any(|alarm| alarm.kind == kind)
}

/// The answer of a probe, as etcd gives it: the checks where one failed or they were asked for, `ok` where none did.
fn report(shared: &Shared, probe: &str, results: &[(&str, Result<(), String>)], verbose: bool) -> Response {
    for (name, result) in results {
        shared.api.metrics().etcd.checked(probe, name, result.is_ok());
    }
    let (status, text) = report_text(results, verbose);
    (status, text).into_response()
}

fn report_text(results: &[(&str, Result<(), String>)], verbose: bool) -> (StatusCode, String) {
    let failed = results.iter().any(|(_, result)| result.is_err());
    let lines: String = results
        .iter()
        .map(|(name, result)| match result {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(reason) => format!("[-]{name} failed: {reason}\n"),
        })
        .collect();
    match (failed, verbose) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{lines}\n")),
        (false, true) => (StatusCode::OK, format!("{lines}ok\n")),
        (false, false) => (StatusCode::OK, "ok\n".to_owned()),
    }
}

fn unknown_check(name: &str, known: &str) -> Response {
    answer::error(StatusCode::NOT_FOUND, &format!("there is no check `{name}`; there are: {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_understand_what_etcd_and_kubernetes_send() {
        let query = ProbeQuery::parse(Some("verbose&exclude=linearizable_read&exclude=NOSPACE&timeout=1s"));
        assert!(query.verbose && !query.serializable);
        assert!(query.excludes("linearizable_read") && query.excludes("NOSPACE") && !query.excludes("member"));
        assert!(ProbeQuery::parse(Some("serializable=true")).serializable);
        for other in ["serializable", "serializable=false", "serializable=1"] {
            assert!(!ProbeQuery::parse(Some(other)).serializable, "{other}");
        }
        assert_eq!(ProbeQuery::parse(None), ProbeQuery::default());
    }

    #[test]
    fn one_failed_check_fails_the_probe_and_is_named() {
        let results = [("a", Ok(())), ("b", Err("why".to_string()))];
        for verbose in [false, true] {
            let said = "[+]a ok\n[-]b failed: why\n\n".to_string();
            assert_eq!(report_text(&results, verbose), (StatusCode::SERVICE_UNAVAILABLE, said));
        }
        assert_eq!(report_text(&results[..1], false), (StatusCode::OK, "ok\n".to_string()));
        assert_eq!(report_text(&results[..1], true), (StatusCode::OK, "[+]a ok\nok\n".to_string()));
    }
}
