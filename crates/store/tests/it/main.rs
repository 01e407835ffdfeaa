//! Tests of the stores over the faulty disk, and of the real one.

mod dice;
mod etcd_bugs;
mod faulty_disk;
mod fixture;
mod index_image;
mod log_crash;
mod log_damage;
mod offline_work;
mod readers;
mod real_directory;
mod revision_hash;
mod snapshots;
mod space;
mod state_crash;
mod state_damage;
mod verification;
