//! Leaving nothing behind, whatever state a run ended in.
//!
//! Runs at the start as well as at the end, and does nothing where there is nothing.

use std::fs;
use std::process::{Command, Stdio};

use super::daemon;
use super::node::ctr;
use super::place::{self, BRIDGE, ROOT};
use crate::failure::Failure;

/// Ends everything and removes everything.
pub(super) fn tear_down() -> Result<(), Failure> {
    // The kubelet first, or it starts again what is ended.
    daemon::stop("kubelet");
    end_containers();
    for name in [
        "prometheus",
        "containerd",
        "coredns",
        "kube-proxy",
        "kube-scheduler",
        "kube-controller-manager",
        "kube-apiserver",
    ] {
        daemon::stop(name);
    }
    daemon::stop("etcd");
    end_shims();
    unmount();
    remove_rules();
    quiet(Command::new("ip").args(["link", "delete", BRIDGE]));
    if let Ok(before) = fs::read_to_string(place::path("ip_forward")) {
        // Best effort: the value is the one that was there.
        let _ = fs::write("/proc/sys/net/ipv4/ip_forward", before.trim());
    }
    if !fs::exists(ROOT).map_err(Failure::file(ROOT))? {
        return Ok(());
    }
    fs::remove_dir_all(ROOT).map_err(Failure::file(ROOT))
}

fn end_containers() {
    let Ok(listed) = ctr(&["task", "list", "--quiet"]).stderr(Stdio::null()).output() else { return };
    for id in String::from_utf8_lossy(&listed.stdout).lines() {
        quiet(&mut ctr(&["task", "kill", "--signal", "SIGKILL", id]));
    }
}

/// Shims outlive containerd by design. Ours are told by the socket they were started with.
fn end_shims() {
    let socket = place::text("run/containerd.sock");
    for pid in process_ids() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("containerd-shim") && line.contains(&socket) {
            quiet(Command::new("kill").args(["-KILL", &pid.to_string()]));
        }
    }
    // What ran in a pod and lost its shim is told by its root, which lies in our folder.
    for pid in process_ids() {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let ours = mounts.lines().next().is_some_and(|root| root.contains(ROOT) && root.contains(" / / "));
        if ours {
            quiet(Command::new("kill").args(["-KILL", &pid.to_string()]));
        }
    }
}

fn process_ids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The newest mount first: they lie upon each other.
fn unmount() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let prefix = format!("{ROOT}/");
    for line in mounts.lines().rev() {
        let Some(point) = line.split(' ').nth(1).filter(|point| point.starts_with(&prefix)) else { continue };
        quiet(Command::new("umount").args(["--lazy", &point.replace("\\040", " ")]));
    }
}

/// kube-proxy and the kubelet name their chains `KUBE-`; nothing else does.
fn remove_rules() {
    for save_restore in [["iptables-save", "iptables-restore"], ["ip6tables-save", "ip6tables-restore"]] {
        let Ok(saved) = Command::new(save_restore[0]).stderr(Stdio::null()).output() else { continue };
        let saved = String::from_utf8_lossy(&saved.stdout).into_owned();
        if !saved.contains("KUBE-") {
            continue;
        }
        let kept: Vec<&str> = saved.lines().filter(|line| !line.contains("KUBE-")).collect();
        let Ok(mut restore) = Command::new(save_restore[1]).stdin(Stdio::piped()).spawn() else { continue };
        if let Some(mut pipe) = restore.stdin.take() {
            use std::io::Write;
            let _ = pipe.write_all((kept.join("\n") + "\n").as_bytes());
        }
        let _ = restore.wait();
    }
}

/// Runs a command that may well have nothing to do.
fn quiet(command: &mut Command) {
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
