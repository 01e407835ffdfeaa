//! Faults done to the real binary over loopback; one module a kind of fault.

mod bad_input;
mod disk_full;
mod faults;
mod resize;
mod versions;
