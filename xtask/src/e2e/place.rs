//! Where the run keeps its files, and the addresses it uses.
//!
//! Everything is under one folder and on one bridge, so that removing both leaves nothing behind.

use std::path::{Path, PathBuf};

/// The one folder. Short, because Unix sockets lie in it.
pub(super) const ROOT: &str = "/var/lib/quorate-e2e";
/// The one network device.
pub(super) const BRIDGE: &str = "quorate-e2e0";
/// The machine's address on the bridge; API server, kubelet and DNS listen there. The range is the one that is reserved for
/// benchmarks (RFC 2544), so that no real network is shadowed.
pub(super) const HOST: &str = "198.18.0.1";
pub(super) const POD_RANGE: &str = "198.18.0.0/16";
/// Part of the pods' range that the machine itself answers for, and the first address given out of it: of pods that are a
/// program of this machine.
pub(super) const STAND_IN_RANGE: &str = "198.18.240.0/20";
pub(super) const STAND_INS: &str = "198.18.240.1";
pub(super) const SERVICE_RANGE: &str = "198.19.0.0/16";
/// First address of the service range: the API server's own Service.
pub(super) const API_SERVICE: &str = "198.19.0.1";
pub(super) const API_PORT: u16 = 16443;
pub(super) const NODE: &str = "e2e";

pub(super) fn path(relative: &str) -> PathBuf {
    Path::new(ROOT).join(relative)
}

pub(super) fn text(relative: &str) -> String {
    format!("{ROOT}/{relative}")
}
