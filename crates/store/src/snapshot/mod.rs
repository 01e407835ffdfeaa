//! Whole images of the state: read while writes go on, received beside the state that is in use.
//!
//! The bytes are those of [`quorate_wire::snapshot`]; a file written by `snapshot save` is the same stream.

mod image_file;
mod sink;
mod source;

pub(crate) use image_file::ImageName;
pub use sink::{ReceivedSnapshot, SnapshotSink};
pub use source::SnapshotSource;
