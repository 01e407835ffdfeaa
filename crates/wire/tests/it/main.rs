//! What is written is read back, and what was never written is refused, whatever the bytes.

mod dump;
mod formats;
mod garbage;
mod samples;
mod snapshot;
