//! Disks for tests and the simulator (feature `testing`). Nothing here touches a real file.

mod faulty_disk;
mod faulty_file;
mod rotten_record;

pub use faulty_disk::{Choices, FaultyDisk, NO_SPACE, StorageCalls};
pub use rotten_record::{rot_log_record, rot_state_record};
