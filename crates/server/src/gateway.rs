//! etcd's API as JSON over HTTP, at the paths of etcd's own gateway.
//!
//! Every call is turned into the gRPC call it stands for by the descriptors of the messages, so no method and no field can
//! be forgotten, and what a caller may do is decided where it always is. Owns paths, JSON and HTTP statuses; never looks
//! at what a request means.

mod call;
mod json;
mod paths;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header, request};
use axum::response::Response;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::{Code, Status};

use self::call::{Answers, call};
use self::requests::{Requests, requests};
use crate::answers::SendTime;
use crate::gate::Gate;
use crate::inside::Inside;

/// Base64 and JSON take more room than the message they stand for.
const GROWTH: usize = 2;

/// See the module documentation.
#[derive(Debug, Clone)]
struct Gateway {
    inside: Inside,
    gate: Arc<Gate>,
    pool: Arc<DescriptorPool>,
    max_body_bytes: usize,
    /// How long a client may take for a line of a stream.
    send_time: Duration,
}

/// The paths below `/v3/`, and the older spelling of them. `max_message_bytes` bounds a request, and `send_time` what a client
/// takes to receive a line of a stream.
pub(crate) fn router(inside: Inside, gate: Arc<Gate>, max_message_bytes: usize, send_time: Duration) -> Router {
    let pool = DescriptorPool::decode(quorate_proto::FILE_DESCRIPTOR_SET)
        .expect("the descriptors are generated together with the code");
    let gateway = Gateway { inside, gate, pool: Arc::new(pool), max_body_bytes: GROWTH * max_message_bytes, send_time };
    let paths = axum::routing::any(serve);
    Router::new().route("/v3/{*path}", paths.clone()).route("/v3beta/{*path}", paths).with_state(gateway)
}

/// Whether this path is one of the gateway's, be there a method behind it or not.
pub(crate) fn serves(path: &str) -> bool {
    paths::is_below(path)
}

/// Whether the messages of this request may come one by one, with answers in between.
pub(crate) fn takes_stream<B: axum::body::HttpBody>(request: &axum::http::Request<B>) -> bool {
    requests::come_one_by_one(paths::takes_stream(request.uri().path()), request.body())
}

async fn serve(State(gateway): State<Gateway>, request: Request) -> Response {
    let mut response = match answer(&gateway, request).await {
        Ok(response) => response,
        Err(status) => refusal(json::status(&status), http_status(status.code())),
    };
    // As etcd's: a page of any origin may ask, since what it may do is a matter of its token.
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "application/json"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn answer(gateway: &Gateway, request: Request) -> Result<Response, Status> {
    let path = paths::below(request.uri().path());
    let method = match *request.method() {
        Method::OPTIONS => return Ok(Response::new(Body::empty())),
        Method::POST => paths::method(&gateway.pool, path).ok_or_else(|| Status::not_found("Not Found"))?,
        _ => return Err(Status::unimplemented("Method Not Allowed")),
    };
    let (parts, body) = request.into_parts();
    let requests = requests(&method, body, gateway.max_body_bytes).await?;
    let begun = begin(gateway, &method, requests, &parts).await;
    if method.is_server_streaming() {
        return Ok(match begun {
            Ok((first, answers)) => {
                let connection = parts.extensions.get().cloned().unwrap_or_default();
                let send_time = SendTime { time: gateway.send_time, connection };
                Response::new(stream(method, first, answers, send_time))
            }
            // As etcd's: also what a stream is refused with at once is a line of it.
            Err(status) => refusal(cut(&status), http_status(status.code())),
        });
    }
    let (first, mut answers) = begun?;
    let message = first.ok_or_else(|| Status::internal("the call ended without an answer"))?;
    // The status comes after the message.
    let _ = answers.next().await?;
    let mut response = Response::new(Body::from(json::encode(method.output(), message)?));
    // Kept until the text is sent: it is made of what the claim was for.
    if let Some(held) = answers.held {
        response.extensions_mut().insert(held);
    }
    Ok(response)
}

/// Makes the call and waits for its first message.
async fn begin(
    gateway: &Gateway,
    method: &MethodDescriptor,
    requests: Requests,
    head: &request::Parts,
) -> Result<(Option<bytes::Bytes>, Answers), Status> {
    let mut answers = call(gateway.inside.clone(), &gateway.gate, method, requests, head).await?;
    let first = answers.next().await?;
    Ok((first, answers))
}

/// A line a message: `{"result": …}`, and `{"error": …}` where the stream is cut. A client that does not take a line within
/// `send_time` loses its connection: while it waits, the call behind it may keep others from their turn.
fn stream(method: MethodDescriptor, first: Option<bytes::Bytes>, mut answers: Answers, send_time: SendTime) -> Body {
    let (lines, receiver) = tokio::sync::mpsc::channel::<Result<String, std::convert::Infallible>>(1);
    tokio::spawn(async move {
        let mut next = Ok(first);
        loop {
            let (line, is_last) = match next {
                Ok(None) => return,
                Ok(Some(message)) => match json::encode(method.output(), message) {
                    Ok(text) => (format!("{{\"result\":{text}}}\n"), false),
                    Err(status) => (cut(&status), true),
                },
                Err(status) => (cut(&status), true),
            };
            if !send_time.send(&lines, Ok(line)).await || is_last {
                return;
            }
            // A client that leaves ends a call that has nothing to say, too.
            next = tokio::select! {
                next = answers.next() => next,
                () = lines.closed() => return,
            };
        }
    });
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

/// The last line of a stream that is cut.
fn cut(status: &Status) -> String {
    format!("{{\"error\":{}}}\n", json::status(status))
}

fn refusal(text: String, http: StatusCode) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = http;
    response
}

/// The status that etcd's gateway gives for a code.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).expect("a status has three digits"),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
