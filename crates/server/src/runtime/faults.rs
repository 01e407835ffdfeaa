//! Faults of disk, clock and memory that a test orders of the real binary (feature `test-faults`, in no product build).
//!
//! Owns the file of orders, which the environment names: lines `NAME VALUE`. An order stands until a later file has another
//! value; a file that was obeyed is renamed, which tells whoever wrote it. Without that name in the environment nothing
//! goes wrong.
//!
//! Files are read from the disk each time, or what the disk does to them would show long after.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_raft::Entry;
use quorate_store::{Disk, DiskFaults, HostileDisk, LogOptions, StateOptions, StoreOptions, stray};

/// Names the file of orders.
const FILE: &str = "QUORATE_TEST_FAULTS";
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// A rate of the clock is given in millionths of the right one.
const RIGHT_RATE: u64 = 1_000_000;

/// How far the clock of this process is from the right one.
#[derive(Debug)]
struct Bend {
    /// When the rate changed, by the right clock,
    right: Duration,
    /// and what this clock showed then.
    shown: Duration,
    rate: u64,
}

static BEND: Mutex<Bend> = Mutex::new(Bend { right: Duration::ZERO, shown: Duration::ZERO, rate: RIGHT_RATE });

impl Bend {
    fn at(&self, right: Duration) -> Duration {
        let since = right.saturating_sub(self.right).as_micros() * u128::from(self.rate) / u128::from(RIGHT_RATE);
        self.shown + Duration::from_micros(u64::try_from(since).expect("less than half a million years"))
    }

    fn change(&mut self, rate: u64, jump: Duration) {
        let right = super::clock::right();
        *self = Bend { right, shown: self.at(right) + jump, rate };
    }
}

/// What the clock of this process shows at a moment of the right one.
pub(super) fn bend(right: Duration) -> Duration {
    BEND.lock().unwrap_or_else(PoisonError::into_inner).at(right)
}

/// Whether the next put is to be applied as another.
static STRAYS: AtomicBool = AtomicBool::new(false);

/// What is applied in place of `entries`.
pub(super) fn misapply(mut entries: Vec<Entry>) -> Vec<Entry> {
    if STRAYS.load(Ordering::Relaxed) && stray(&mut entries).is_some() {
        STRAYS.store(false, Ordering::Relaxed);
    }
    entries
}

/// The same without caches.
pub(super) fn uncached(options: StoreOptions) -> StoreOptions {
    StoreOptions {
        log: LogOptions { cache_bytes: 0, ..options.log },
        state: StateOptions { cache_bytes: 0, ..options.state },
    }
}

/// The disk that the node gets in place of `disk`. Begins to obey.
pub(super) fn begin(disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
    let Some(file) = std::env::var_os(FILE).map(PathBuf::from) else { return disk };
    tracing::warn!(file = %file.display(), "this build, made for tests, does wrong what the file says");
    let faults = Arc::<DiskFaults>::default();
    let told = Arc::clone(&faults);
    std::thread::spawn(move || {
        loop {
            if let Ok(orders) = std::fs::read_to_string(&file) {
                obey(&told, &orders, &file);
            }
            std::thread::sleep(LOOK);
        }
    });
    Arc::new(HostileDisk::new(disk, faults))
}

fn obey(faults: &DiskFaults, orders: &str, file: &Path) {
    // Before the orders: one of them may be the last thing this process does.
    std::fs::rename(file, file.with_extension("obeyed")).expect("the folder of the orders can be written");
    for order in orders.lines() {
        let (name, value) = order.split_once(' ').expect("an order is a name and a value");
        let value: u64 = value.parse().expect("the value of an order is a number");
        let mut bend = BEND.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = bend.rate;
        match name {
            "clock-rate" => bend.change(value, Duration::ZERO),
            "clock-jump-ms" => bend.change(rate, Duration::from_millis(value)),
            "write-delay-us" => faults.delay_writes(value),
            "sync-delay-us" => faults.delay_syncs(value),
            "fail-syncs" => faults.fail_syncs(value != 0),
            "fail-reads" => faults.fail_reads(value != 0),
            "stray" => STRAYS.store(value != 0, Ordering::Relaxed),
            "lose-power" => faults.lose_power(value),
            unknown => panic!("there is no order {unknown}"),
        }
    }
}
