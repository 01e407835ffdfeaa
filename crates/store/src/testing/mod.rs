//! Disks for tests and the simulator (feature `testing`). Nothing here touches a real file.

mod faulty_disk;
mod faulty_file;

pub use faulty_disk::{Choices, FaultyDisk, StorageCalls};
