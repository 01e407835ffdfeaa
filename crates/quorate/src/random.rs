//! Names that nobody else draws: cluster ids, and incarnations of restored directories.

use std::io::Read;

use crate::failure::Failure;

/// A random 128-bit number that is not zero.
///
/// # Errors
/// If the operating system gives no randomness.
pub(crate) fn random_id() -> Result<u128, Failure> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Failure::new(format_args!("cannot draw a random id from /dev/urandom: {error}")))?;
    // Zero means "none"; one bit of 128 costs nothing.
    Ok(u128::from_be_bytes(bytes) | 1)
}
