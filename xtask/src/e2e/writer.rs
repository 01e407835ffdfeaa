//! Continuous writes through the client Service, as a client that knows nothing of resizes would make them.
//!
//! Every write is one HTTP request on a connection that is kept while it lasts. A write that got no answer is tried again, and
//! counts as one write: what matters is that each acknowledged one is still there, and how long nobody was served.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use crate::failure::Failure;

const TIMEOUT: Duration = Duration::from_secs(3);
/// About two hundred writes a second: light, on a machine that runs a whole Kubernetes.
const PAUSE: Duration = Duration::from_millis(4);
const WRITERS: usize = 4;

/// How a writer reaches the Service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// One connection, for as long as it lasts.
    Keeps,
    /// A connection a write, so that each goes wherever the Service sends newcomers at that moment.
    Reconnects,
}

/// Several writers at once: one that keeps its connection, and others that do not.
pub(super) struct Writers(Vec<Writer>);

impl Writers {
    pub(super) fn start(address: SocketAddr, prefix: &str) -> Writers {
        let one = |number: usize| {
            let habit = if number == 0 { Habit::Keeps } else { Habit::Reconnects };
            Writer::with_habit(address, &format!("{prefix}-{number}"), habit)
        };
        Writers((0..WRITERS).map(one).collect())
    }

    /// As [`Writer::finish`], for all of them together.
    pub(super) fn finish(self) -> Result<Tally, Failure> {
        // All are told before the first is waited for.
        self.0.iter().for_each(|writer| writer.stop.store(true, Ordering::Relaxed));
        let mut sum = Tally::default();
        for writer in self.0 {
            let one = writer.finish()?;
            sum.acknowledged += one.acknowledged;
            sum.refused += one.refused;
            sum.longest_gap = sum.longest_gap.max(one.longest_gap);
            if !one.last_refusal.is_empty() {
                sum.last_refusal = one.last_refusal;
            }
        }
        Ok(sum)
    }
}

/// Writes `PREFIX/1`, `PREFIX/2` and so on until it is stopped.
pub(super) struct Writer {
    address: SocketAddr,
    prefix: String,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Writes that were acknowledged: all from 1 on.
    pub(super) acknowledged: u64,
    /// Answers that were errors, and connections that broke.
    pub(super) refused: u64,
    /// What the last of them said.
    pub(super) last_refusal: String,
    /// The longest time between two acknowledged writes.
    pub(super) longest_gap: Duration,
}

impl Writer {
    pub(super) fn start(address: SocketAddr, prefix: &str) -> Writer {
        Writer::with_habit(address, prefix, Habit::Keeps)
    }

    fn with_habit(address: SocketAddr, prefix: &str, habit: Habit) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (Arc::clone(&stop), prefix.to_owned());
        let thread = spawn(move || write_until(&stopped, address, &name, habit));
        Writer { address, prefix: prefix.to_owned(), stop, thread }
    }

    /// Stops writing, and reads every acknowledged write back.
    pub(super) fn finish(self) -> Result<Tally, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let tally = self.thread.join().map_err(|_| Failure::Broken("the writer failed".to_owned()))?;
        let mut connection = None;
        for number in 1..=tally.acknowledged {
            let path = format!("/v1/kv/{}/{number}?consistent&raw", self.prefix);
            let read = retry(|| request(&mut connection, self.address, "GET", &path, ""));
            let value = read.map_err(|problem| Failure::Broken(format!("write {number} cannot be read: {problem}")))?;
            if value != number.to_string() {
                return Err(Failure::Broken(format!(
                    "write {number} was acknowledged and is lost; there is {value:?}"
                )));
            }
        }
        if tally.acknowledged == 0 {
            return Err(Failure::Broken(format!("no write was acknowledged: {}", tally.last_refusal)));
        }
        Ok(tally)
    }
}

/// One write, tried until it is acknowledged.
pub(super) fn put(address: SocketAddr, key: &str, value: &str) -> Result<(), Failure> {
    let path = format!("/v1/kv/{key}");
    let done = retry(|| request(&mut None, address, "PUT", &path, value));
    done.map(drop).map_err(|problem| Failure::Broken(format!("{key} cannot be written: {problem}")))
}

/// One linearizable read.
pub(super) fn get(address: SocketAddr, key: &str) -> Result<String, Failure> {
    let path = format!("/v1/kv/{key}?consistent&raw");
    let read = retry(|| request(&mut None, address, "GET", &path, ""));
    read.map_err(|problem| Failure::Broken(format!("{key} cannot be read: {problem}")))
}

/// One request on a connection of its own.
pub(super) fn request_once(address: SocketAddr, method: &str, path: &str) -> Result<String, String> {
    request(&mut None, address, method, path, "")
}

fn retry(mut attempt: impl FnMut() -> Result<String, String>) -> Result<String, String> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(_) if start.elapsed() < Duration::from_secs(60) => sleep(Duration::from_millis(200)),
            done => return done,
        }
    }
}

fn write_until(stop: &AtomicBool, address: SocketAddr, prefix: &str, habit: Habit) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if habit == Habit::Reconnects {
            connection = None;
        }
        let number = tally.acknowledged + 1;
        let path = format!("/v1/kv/{prefix}/{number}");
        match request(&mut connection, address, "PUT", &path, &number.to_string()) {
            Ok(_) => {
                tally.acknowledged = number;
                tally.longest_gap = tally.longest_gap.max(last.elapsed());
                last = Instant::now();
                sleep(PAUSE);
            }
            Err(problem) => {
                tally.refused += 1;
                tally.last_refusal = problem;
                sleep(Duration::from_millis(20));
            }
        }
    }
    tally
}

/// One request. A connection that fails is dropped, so that the next request may reach another node.
///
/// One that was kept and turns out to be closed says nothing about the request, which goes out again on a new one, as any client
/// of HTTP does with a request that may be repeated (RFC 9110, 9.2.2). Each of these may be: it writes the same value to the same key.
fn request(
    connection: &mut Option<BufReader<TcpStream>>,
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<String, String> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: quorate\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let kept = connection.take().map(|open| exchange(open, &head));
    let done = match kept {
        Some(Err(error)) if is_closed(&error) => exchange(connect(address).map_err(|e| e.to_string())?, &head),
        Some(done) => done,
        None => exchange(connect(address).map_err(|error| error.to_string())?, &head),
    };
    let (open, (status, keep, answer)) = done.map_err(|error| error.to_string())?;
    if status != 200 {
        return Err(format!("{status}: {}", answer.trim()));
    }
    if keep {
        *connection = Some(open);
    }
    Ok(answer)
}

/// Status, whether the connection may be used again, body.
type Answer = (u16, bool, String);

fn exchange(mut open: BufReader<TcpStream>, head: &str) -> std::io::Result<(BufReader<TcpStream>, Answer)> {
    open.get_mut().write_all(head.as_bytes())?;
    let answer = read_answer(&mut open)?;
    Ok((open, answer))
}

fn is_closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn connect(address: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn read_answer(open: &mut BufReader<TcpStream>) -> std::io::Result<Answer> {
    let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    if open.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| bad("no status line"))?;
    let (mut length, mut keep, mut chunked) = (0, true, false);
    loop {
        line.clear();
        open.read_line(&mut line)?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(|_| bad("no length"))?;
        }
        keep &= header != "connection: close";
        chunked |= header == "transfer-encoding: chunked";
    }
    let mut body = Vec::new();
    if chunked {
        read_chunks(open, &mut body)?;
    } else {
        body.resize(length, 0);
        open.read_exact(&mut body)?;
    }
    Ok((status, keep, String::from_utf8_lossy(&body).into_owned()))
}

fn read_chunks(open: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> std::io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        open.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16)
            .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "no chunk size"))?;
        open.by_ref().take(size).read_to_end(body)?;
        // The end of the line after each chunk, the last and empty one included.
        line.clear();
        open.read_line(&mut line)?;
        if size == 0 {
            return Ok(());
        }
    }
}
