//! The first bytes of a connection: read once, judged, and given back to whoever reads next.
//!
//! Until they are there no protocol is known and none of its timers runs, so the caller of [`begin`] sets the time. They
//! are taken and not peeked at: a socket that holds a part of the preface is readable at once and for ever, and waiting
//! for the rest of it would be spinning.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What every HTTP/2 connection with prior knowledge begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// The whole preface of HTTP/2.
    Http2,
    /// Something that it does not begin with.
    Other,
}

/// A connection whose first bytes are known. They are read from it like all others.
#[derive(Debug)]
pub(crate) struct Begun<I> {
    stream: I,
    first: [u8; PREFACE.len()],
    /// How many of `first` are there,
    read: usize,
    /// and how many were given back.
    given: usize,
}

/// Reads until it is certain what the connection speaks: the whole preface, or the first byte that is not of it.
///
/// # Errors
/// The connection ended or broke before that.
pub(crate) async fn begin<I: AsyncRead + Unpin>(mut stream: I) -> io::Result<(Beginning, Begun<I>)> {
    let mut first = [0; PREFACE.len()];
    let mut read = 0;
    loop {
        let mut buffer = ReadBuf::new(&mut first[read..]);
        poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut buffer)).await?;
        let more = buffer.filled().len();
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read += more;
        let beginning = match first[..read] == PREFACE[..read] {
            false => Beginning::Other,
            true if read == PREFACE.len() => Beginning::Http2,
            true => continue,
        };
        return Ok((beginning, Begun { stream, first, read, given: 0 }));
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Begun<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = &self.first[self.given..self.read];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let part = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..part]);
        self.given += part;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Begun<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_preface_in_pieces_is_waited_for_and_given_back() {
        let (mut client, server) = tokio::io::duplex(64);
        let judged = tokio::spawn(begin(server));
        for byte in PREFACE {
            client.write_all(&[*byte]).await.unwrap();
        }
        client.write_all(b"and more").await.unwrap();
        let (beginning, mut stream) = judged.await.unwrap().unwrap();
        assert_eq!(beginning, Beginning::Http2);
        drop(client);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [&PREFACE[..], b"and more"].concat());
    }

    #[tokio::test]
    async fn the_first_other_byte_decides_and_nothing_is_lost() {
        for sent in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.1\r\n\r\n", b"POST"] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(sent).await.unwrap();
            let (beginning, mut stream) = begin(server).await.unwrap();
            assert_eq!(beginning, Beginning::Other);
            drop(client);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, sent);
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_in_its_preface_is_an_error() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(&PREFACE[..5]).await.unwrap();
        drop(client);
        assert_eq!(begin(server).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
