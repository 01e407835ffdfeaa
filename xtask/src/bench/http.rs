//! One HTTP/1.1 request, enough to ask a node whether it serves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A node that does not answer in this time is asked again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether `GET path` is answered with 200. Any failure counts as no.
pub(super) fn is_ok(address: SocketAddr, path: &str) -> bool {
    status(address, path).is_ok_and(|line| line.split(' ').nth(1) == Some("200"))
}

fn status(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    let text = String::from_utf8_lossy(&answer[..length]);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
