//! How much memory this process may use, for limits that nobody set.
//!
//! Never fails: where the system does not say, there is no limit.

use std::fs;

/// Where a container's limit is told, by the second and the first version of control groups.
const CONTROL_GROUP_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// An answer is a message of HTTP/2 calls, of which clients take no more than this.
const MOST_ANSWER_BYTES: u64 = 2 << 30;
/// What even a small container has to spare.
const LEAST_ANSWER_BYTES: u64 = 64 << 20;

/// What large answers may hold unless a flag says otherwise: an eighth of the memory, since encoding may take as much again.
pub(crate) fn default_answer_bytes() -> usize {
    let limits = CONTROL_GROUP_LIMITS.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_bytes(&text));
    answer_bytes(limits.chain(machine).min())
}

fn answer_bytes(memory: Option<u64>) -> usize {
    let eighth = memory.unwrap_or(u64::MAX) / 8;
    usize::try_from(eighth.clamp(LEAST_ANSWER_BYTES, MOST_ANSWER_BYTES)).unwrap_or(usize::MAX)
}

/// The size of the machine, by `/proc/meminfo`.
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_take_an_eighth_within_bounds() {
        assert_eq!(answer_bytes(Some(8 << 30)), 1 << 30);
        assert_eq!(answer_bytes(Some(256 << 20)), 64 << 20);
        assert_eq!(answer_bytes(Some(64 << 30)), 2 << 30);
        assert_eq!(answer_bytes(None), 2 << 30);
    }

    #[test]
    fn size_of_the_machine_is_understood() {
        assert_eq!(total_bytes("MemTotal:       24658 kB\nMemFree: 1 kB\n"), Some(24_658 * 1024));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
    }
}
