//! What a process has used so far, from `/proc`.

use std::fs;
use std::ops::{Add, Sub};

use crate::failure::Failure;

/// Unit of the times in `/proc/PID/stat`: 100 a second on every Linux that Rust's standard library supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Sums over a cluster are sums of these.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu_seconds: f64,
    /// Bytes that went, or will go, to the disk.
    pub(crate) written_bytes: f64,
    /// Largest resident size so far.
    pub(crate) peak_bytes: f64,
}

/// Memory that a process holds for itself now, without files it has mapped: etcd maps its whole database, which the kernel
/// may take back.
pub(crate) fn private_bytes(pid: u32) -> Result<f64, Failure> {
    let kibibytes = field(&read(pid, "status")?, "RssAnon:");
    kibibytes.map(|kibibytes| kibibytes * 1024.0).ok_or_else(|| malformed(pid, "status"))
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Usage, Failure> {
        let stat = read(pid, "stat")?;
        let io = read(pid, "io")?;
        let status = read(pid, "status")?;
        Ok(Usage {
            cpu_seconds: cpu_ticks(&stat).ok_or_else(|| malformed(pid, "stat"))? / TICKS_PER_SECOND,
            written_bytes: field(&io, "write_bytes:").ok_or_else(|| malformed(pid, "io"))?,
            peak_bytes: field(&status, "VmHWM:").ok_or_else(|| malformed(pid, "status"))? * 1024.0,
        })
    }
}

impl Add for Usage {
    type Output = Usage;

    fn add(self, other: Usage) -> Usage {
        Usage {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            written_bytes: self.written_bytes + other.written_bytes,
            peak_bytes: self.peak_bytes + other.peak_bytes,
        }
    }
}

/// What was used since `earlier`; a peak is no difference and stays.
impl Sub for Usage {
    type Output = Usage;

    fn sub(self, earlier: Usage) -> Usage {
        Usage {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            written_bytes: self.written_bytes - earlier.written_bytes,
            peak_bytes: self.peak_bytes,
        }
    }
}

fn malformed(pid: u32, file: &str) -> Failure {
    Failure::Broken(format!("cannot understand /proc/{pid}/{file}"))
}

fn read(pid: u32, file: &str) -> Result<String, Failure> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).map_err(Failure::file(path))
}

/// Fields 14 and 15. The second is the program's name in parentheses and may hold spaces, so counting starts after it.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_name_with_spaces_does_not_shift_the_fields() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 1 0 0";
        assert_eq!(cpu_ticks(stat), Some(300.0));
    }

    #[test]
    fn own_usage_is_readable() {
        let usage = Usage::of(std::process::id()).expect("this process exists");
        assert!(usage.peak_bytes > 0.0);
        let private = private_bytes(std::process::id()).expect("this process exists");
        assert!(0.0 < private && private < usage.peak_bytes, "{private} of {}", usage.peak_bytes);
    }
}
