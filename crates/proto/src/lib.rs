//! The wire types: what `cargo xtask codegen` makes of the .proto files under `proto/`, one module a protobuf package.
//!
//! Never holds anything written by hand but this file: conversions to the core's own types are in `quorate-wire`, and what a
//! message means is said in the .proto files.

#![allow(missing_docs, rustdoc::all, clippy::all, unreachable_pub)]

include!("generated/modules.rs");

/// Descriptors of every file under `proto/`, encoded, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptor.bin");
