//! The run itself: threads, clients, the clock.
//!
//! Owns the load threads. Each thread has a single-threaded runtime with its own connections and clients, so no call crosses a
//! processor. All connections stand before the first operation starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::{PutResponse, RangeRequest, RangeResponse, TxnResponse, response_op};
use tokio::runtime::{Builder, Runtime};

use super::BenchError;
use super::options::{Consistency, Plan};
use super::report::{Report, Revisions};
use super::sample::{Recorded, Sample};
use super::transport::{CallError, Caller, Connection, Rpc};
use super::workload::{Generator, Operation};

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What all clients of a run share.
#[derive(Debug)]
struct Shared {
    plan: Plan,
    /// Number of the next operation.
    sequence: AtomicU64,
    finished: AtomicU64,
}

/// Runs the plan; blocks until the last client is done.
pub(super) fn drive(plan: &Plan) -> Result<Report, BenchError> {
    let (before, term_before) = read_revision(plan)?;
    let shared = Arc::new(Shared { plan: plan.clone(), sequence: AtomicU64::new(0), finished: AtomicU64::new(0) });
    let (connected, connections) = mpsc::channel();
    let (recorder, recordings) = mpsc::channel();
    let mut starters = Vec::new();
    let mut threads = Vec::new();
    for thread in 0..plan.threads {
        let (start, started) = mpsc::channel::<Instant>();
        let (shared, connected, recorder) = (Arc::clone(&shared), connected.clone(), recorder.clone());
        starters.push(start);
        threads.push(std::thread::spawn(move || {
            let runtime = single_threaded();
            let mine = runtime.block_on(connect(&shared.plan, thread));
            let (mine, outcome) = match mine {
                Ok(connections) => (connections, Ok(())),
                Err(error) => (Vec::new(), Err(error)),
            };
            if connected.send(outcome).is_err() {
                return;
            }
            // A start that never comes means another thread could not connect.
            if let Ok(start) = started.recv() {
                let _ = recorder.send(runtime.block_on(load(&shared, thread, mine, start)));
            }
        }));
    }
    drop((connected, recorder));
    for outcome in connections.iter().take(plan.threads) {
        outcome?;
    }
    let start = Instant::now();
    for starter in starters {
        starter.send(start).expect("a load thread waits for its start");
    }
    let recorded = collect(&shared, &recordings, start);
    let elapsed = start.elapsed();
    for thread in threads {
        thread.join().expect("a load thread panicked");
    }
    let (after, term_after) = read_revision(plan)?;
    Ok(Report::new(plan, recorded, elapsed, Revisions { before, after, term_before, term_after }))
}

/// Gathers what the threads recorded, with a line of progress a second.
fn collect(shared: &Shared, recordings: &mpsc::Receiver<Recorded>, start: Instant) -> Recorded {
    let mut all = Recorded::default();
    let mut last = 0;
    loop {
        match recordings.recv_timeout(PROGRESS_INTERVAL) {
            Ok(recorded) => all.merge(recorded),
            Err(mpsc::RecvTimeoutError::Disconnected) => return all,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let finished = shared.finished.load(Ordering::Relaxed);
                let seconds = start.elapsed().as_secs();
                eprintln!("{seconds:>5} s  {finished:>10} operations  {:>8}/s", finished - last);
                last = finished;
            }
        }
    }
}

/// The connections of one thread: every `threads`-th.
async fn connect(plan: &Plan, thread: usize) -> Result<Vec<Arc<Connection>>, BenchError> {
    let extra = match plan.kind.consistency() {
        None | Some(Consistency::Linearizable | Consistency::Serializable) => None,
        Some(Consistency::Default) => Some(("quorate-consistency", "default")),
        Some(Consistency::Consistent) => Some(("quorate-consistency", "consistent")),
        Some(Consistency::Stale) => Some(("quorate-consistency", "stale")),
    };
    let mut connections = Vec::new();
    for number in (thread..plan.connections).step_by(plan.threads) {
        let mut endpoints = plan.endpoints.clone();
        endpoints.rotate_left(number % plan.endpoints.len());
        let connection = Connection::open(&endpoints, extra)
            .await
            .map_err(|source| BenchError::Connect { endpoint: endpoints[0].clone(), source })?;
        connections.push(connection);
    }
    Ok(connections)
}

/// Runs the clients of one thread's connections to their end.
async fn load(shared: &Arc<Shared>, thread: usize, connections: Vec<Arc<Connection>>, start: Instant) -> Recorded {
    let plan = &shared.plan;
    let mut clients = Vec::new();
    for number in 0..plan.clients {
        let connection = number % plan.connections;
        if connection % plan.threads != thread {
            continue;
        }
        let generator = Generator::new(plan, number as u64);
        let caller = connections[connection / plan.threads].caller().await;
        let client = Client { shared: Arc::clone(shared), caller, generator, start };
        clients.push(tokio::spawn(client.run()));
    }
    let mut all = Recorded::default();
    for client in clients {
        all.merge(client.await.expect("a client panicked"));
    }
    all
}

/// One closed loop.
#[derive(Debug)]
struct Client {
    shared: Arc<Shared>,
    caller: Caller,
    generator: Generator,
    start: Instant,
}

/// A successful answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Wrote,
    Read {
        found: bool,
    },
    /// A transaction whose compare failed.
    Conflicted,
}

impl Client {
    async fn run(mut self) -> Recorded {
        let mut recorded = Recorded::default();
        while let Some(sequence) = self.next_sequence() {
            if !self.keep_pace(sequence).await {
                break;
            }
            let operation = self.generator.next(sequence);
            let begun = Instant::now();
            let deadline = tokio::time::timeout(self.shared.plan.timeout, self.perform(&operation));
            let outcome = deadline
                .await
                .unwrap_or_else(|_| Err(CallError::Refused(tonic::Status::deadline_exceeded("no answer in time"))));
            match outcome {
                Ok(done) => {
                    let ended = Instant::now();
                    let sample = Sample { end: nanoseconds(ended - self.start), latency: nanoseconds(ended - begun) };
                    record(&mut recorded, done, sample);
                }
                Err(error) => self.recover(&mut recorded, &operation, error).await,
            }
            self.shared.finished.fetch_add(1, Ordering::Relaxed);
        }
        recorded
    }

    /// `None` when the load is over.
    fn next_sequence(&self) -> Option<u64> {
        let plan = &self.shared.plan;
        if plan.duration.is_some_and(|duration| self.start.elapsed() >= duration) {
            return None;
        }
        let sequence = self.shared.sequence.fetch_add(1, Ordering::Relaxed);
        plan.total.is_none_or(|total| sequence < total).then_some(sequence)
    }

    /// Waits for the operation's turn under `--rate`. `false` if it comes after the end.
    async fn keep_pace(&self, sequence: u64) -> bool {
        let Some(rate) = self.shared.plan.rate else { return true };
        let due = Duration::from_secs_f64(sequence as f64 / rate as f64);
        if self.shared.plan.duration.is_some_and(|duration| due >= duration) {
            return false;
        }
        tokio::time::sleep_until((self.start + due).into()).await;
        true
    }

    async fn perform(&mut self, operation: &Operation) -> Result<Done, CallError> {
        match operation {
            Operation::Put(request) => {
                let _: PutResponse = self.caller.call(Rpc::Put, request).await?;
                Ok(Done::Wrote)
            }
            Operation::Range(request) => {
                let answer: RangeResponse = self.caller.call(Rpc::Range, request).await?;
                Ok(Done::Read { found: !answer.kvs.is_empty() })
            }
            Operation::Txn { request, number } => {
                let answer: TxnResponse = self.caller.call(Rpc::Txn, request).await?;
                let revision = answer.header.map_or(0, |header| header.revision);
                if answer.succeeded {
                    self.generator.learn(*number, revision);
                    return Ok(Done::Wrote);
                }
                let read = answer.responses.into_iter().next().and_then(|op| op.response);
                if let Some(response_op::Response::ResponseRange(range)) = read {
                    let current = range.kvs.first().map_or(0, |kv| kv.mod_revision);
                    self.generator.learn(*number, current);
                }
                Ok(Done::Conflicted)
            }
        }
    }

    async fn recover(&mut self, recorded: &mut Recorded, operation: &Operation, error: CallError) {
        match operation {
            Operation::Put(_) | Operation::Txn { .. } => recorded.failed_writes += 1,
            Operation::Range(_) => recorded.failed_reads += 1,
        }
        let text = error.to_string();
        if matches!(error, CallError::Broken(_)) {
            self.caller.reconnect().await;
        }
        *recorded.errors.entry(text).or_default() += 1;
        tokio::time::sleep(self.shared.plan.pause).await;
    }
}

fn record(recorded: &mut Recorded, done: Done, sample: Sample) {
    match done {
        Done::Wrote => recorded.writes.push(sample),
        Done::Read { found } => {
            recorded.reads.push(sample);
            recorded.misses += u64::from(!found);
        }
        Done::Conflicted => {
            recorded.reads.push(sample);
            recorded.conflicts += 1;
        }
    }
}

/// The store's current revision and term, asked of the first endpoint that answers.
fn read_revision(plan: &Plan) -> Result<(i64, u64), BenchError> {
    let request = RangeRequest { key: "bench".into(), count_only: true, ..RangeRequest::default() };
    let mut failure = None;
    for endpoint in &plan.endpoints {
        let answer = single_threaded().block_on(async {
            let connection = Connection::open(std::slice::from_ref(endpoint), None)
                .await
                .map_err(|source| BenchError::Connect { endpoint: endpoint.clone(), source })?;
            let caller = connection.caller().await;
            let call = caller.call::<_, RangeResponse>(Rpc::Range, &request);
            let refused = |status| BenchError::Revision { endpoint: endpoint.clone(), status: Box::new(status) };
            match tokio::time::timeout(plan.timeout, call).await {
                Ok(Ok(answer)) => Ok(answer.header.map_or((0, 0), |header| (header.revision, header.raft_term))),
                Ok(Err(CallError::Refused(status))) => Err(refused(status)),
                Ok(Err(CallError::Broken(text))) => Err(refused(tonic::Status::unavailable(text))),
                Err(_) => Err(refused(tonic::Status::deadline_exceeded("no answer in time"))),
            }
        });
        match answer {
            Ok(found) => return Ok(found),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.expect("the command line has at least one endpoint"))
}

fn single_threaded() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("the system gives a runtime its epoll")
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a benchmark ends within centuries")
}
