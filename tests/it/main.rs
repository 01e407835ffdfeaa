//! Faults done to the real binary over loopback; one module a kind of fault.

mod bad_input;
mod barred;
mod catalogue;
mod disk_full;
mod divergence;
mod etcd_bugs;
mod faults;
mod hostile;
mod machine;
mod namespaces;
mod network;
mod resize;
mod rights;
mod rot;
mod secrets;
mod soak;
mod versions;
mod watching;
