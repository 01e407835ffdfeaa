//! Reads both data files through, slowly and again and again, and says what fails its checksum.
//!
//! A bit that decays in a record nobody reads would otherwise be found when it is needed most: at a restart, or while the
//! only other copy is being replaced. Nothing is repaired here: the node bars itself, and whoever runs the cluster puts
//! another in its place.
//!
//! What redb keeps in its caches is not read from the disk; a pass finds what lies on the disk alone, which in a small
//! store is everything after a start and little later, and in a large one nearly everything.
//!
//! Never holds a view for longer than one step, and nothing while it pauses.

use std::sync::{Arc, Weak};
use std::time::Duration;

use quorate_raft::LogIndex;
use quorate_store::{ReadError, StatePlace};

use super::core::Core;
use super::engine::Engine;
use crate::metrics::Metrics;

/// Bytes of records read at a time.
const STEP_BYTES: usize = 256 * 1024;
/// A pause after each step: at most 5 MiB/s, and about one part in twenty of a processor.
const STEP_PAUSE: Duration = Duration::from_millis(50);
/// From the start of the node to the first pass: recovery has the disk to itself.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Between two passes. A test has no hour.
const PASS_PAUSE: Duration = Duration::from_secs(if cfg!(feature = "test-faults") { 1 } else { 3600 });

/// Where a pass stands.
#[derive(Debug)]
enum Place {
    State(StatePlace),
    Log(LogIndex),
    Done,
}

/// Verifies until the node ends, or until something is damaged.
pub(crate) async fn run(core: Weak<Core>, engine: Weak<Engine>) {
    let Some(doubt) = engine.upgrade().map(|engine| Arc::clone(&engine.doubt)) else { return };
    let mut pause = FIRST_PAUSE;
    loop {
        // Who met something that could not be read does not wait for the hour.
        let _ = tokio::time::timeout(pause, doubt.notified()).await;
        let mut place = Place::State(StatePlace::START);
        loop {
            let (Some(core), Some(engine)) = (core.upgrade(), engine.upgrade()) else { return };
            if engine.driver.is_ended() {
                return;
            }
            let metrics = Arc::clone(&core.metrics);
            let step = {
                let (engine, metrics) = (Arc::clone(&engine), Arc::clone(&metrics));
                tokio::task::spawn_blocking(move || verify(&engine, place, &metrics)).await
            };
            match step {
                Ok(Ok(Place::Done)) => {
                    metrics.storage.scrub_passes_total.inc();
                    break;
                }
                Ok(Ok(next)) => place = next,
                Ok(Err(error)) => {
                    core.give_up(&engine, error.into());
                    return;
                }
                // The runtime ends, and the node with it.
                Err(_) => return,
            }
            drop((core, engine, metrics));
            tokio::time::sleep(STEP_PAUSE).await;
        }
        pause = PASS_PAUSE;
    }
}

fn verify(engine: &Engine, place: Place, metrics: &Metrics) -> Result<Place, ReadError> {
    let (bytes, next) = match place {
        Place::State(from) => {
            let (bytes, next) = engine.view.verify(from, STEP_BYTES)?;
            (bytes, next.map_or(Place::Log(LogIndex(0)), Place::State))
        }
        Place::Log(from) => {
            let (bytes, next) = engine.log_reader.verify(from, STEP_BYTES)?;
            (bytes, next.map_or(Place::Done, Place::Log))
        }
        Place::Done => (0, Place::Done),
    };
    metrics.storage.scrubbed_bytes_total.inc_by(bytes as u64);
    Ok(next)
}
