//! Errors over HTTP: a status that says who has to act, and one sentence in JSON.

use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use quorate_kv::{AuthError, KvError};
use quorate_node::NodeError;
use serde_json::json;

use crate::access::Denied;
use crate::client_api::ApiError;
use crate::query::QueryError;

/// `{"error": text}`.
pub(super) fn error(status: StatusCode, text: &str) -> Response {
    (status, axum::Json(json!({"error": text}))).into_response()
}

/// The caller's mistake.
pub(super) fn bad_request(text: impl ToString) -> Response {
    error(StatusCode::BAD_REQUEST, &text.to_string())
}

pub(super) async fn no_such_path(uri: Uri) -> Response {
    let text = format!(
        "there is nothing at {}; there are /v1/kv/KEY, /health, /livez, /readyz, /version and /metrics",
        uri.path()
    );
    error(StatusCode::NOT_FOUND, &text)
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Response {
    let allowed = if uri.path().starts_with("/v1/kv") { "GET, PUT, DELETE" } else { "GET" };
    let text = format!("{} does not take {method}, but {allowed}", uri.path());
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, &text);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        bad_request(self)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        error(http_status(&self), &self.to_string())
    }
}

fn http_status(refused: &ApiError) -> StatusCode {
    match refused {
        ApiError::Kv(KvError::Compacted | KvError::FutureRevision) => StatusCode::GONE,
        ApiError::Kv(KvError::NoSpace) => StatusCode::INSUFFICIENT_STORAGE,
        ApiError::Kv(KvError::Corrupt) => StatusCode::INTERNAL_SERVER_ERROR,
        ApiError::Kv(KvError::Auth(refused)) | ApiError::Denied(Denied::Auth(refused)) => auth_status(*refused),
        ApiError::Kv(_) | ApiError::Choice(_) => StatusCode::BAD_REQUEST,
        ApiError::Denied(Denied::NoTokenFile { .. }) => StatusCode::FORBIDDEN,
        ApiError::Denied(_) => StatusCode::UNAUTHORIZED,
        ApiError::Node(refused) => node_status(refused),
        ApiError::NotServing(_) => StatusCode::SERVICE_UNAVAILABLE,
        ApiError::NoRoom(_) => StatusCode::TOO_MANY_REQUESTS,
        ApiError::AnswerWithheld(_)
        | ApiError::Storage(_)
        | ApiError::Interrupted(_)
        | ApiError::NoRandomness
        | ApiError::NoSigningKey => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Who logs in, again or at all, may yet be let in.
fn auth_status(refused: AuthError) -> StatusCode {
    match refused {
        AuthError::PermissionDenied => StatusCode::FORBIDDEN,
        AuthError::UserEmpty | AuthError::OldRevision | AuthError::Failed => StatusCode::UNAUTHORIZED,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn node_status(refused: &NodeError) -> StatusCode {
    match refused {
        NodeError::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        NodeError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        NodeError::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        NodeError::Invalid(_) => StatusCode::BAD_REQUEST,
        NodeError::Timeout | NodeError::TimeoutLeaderFailure | NodeError::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}
