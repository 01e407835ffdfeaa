//! Printing to standard output, whose reader may leave before the end (`quorate ctl status | head -1`).

use std::fmt;
use std::io::{self, Write};

/// Prints a line. That nobody reads it is no failure.
pub(crate) fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
