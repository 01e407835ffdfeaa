//! HTTP/1.1 requests, one a connection.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than any request takes.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: String,
    pub(super) body: String,
}

/// Sends one request, with a token if there is one.
///
/// # Panics
/// If the server cannot be reached or does not answer.
pub(super) async fn request(address: SocketAddr, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let authorization = token.map(|token| format!("authorization: {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{authorization}");
        stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(TIMEOUT, asking).await.expect("an answer in time").expect("an answer");
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).expect("a status line").to_owned();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Answer { status, body: if chunked { joined(body) } else { body.to_owned() } }
}

/// The chunks of a body without their lengths.
fn joined(body: &str) -> String {
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("the length of a chunk");
        whole.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    whole
}
