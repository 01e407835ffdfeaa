//! Tests of the stores over the faulty disk, and of the real one.

mod dice;
mod fixture;
mod log_crash;
mod log_damage;
mod real_directory;
mod state_crash;
