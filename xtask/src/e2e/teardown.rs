//! Leaving nothing behind, whatever state a run ended in.
//!
//! Runs at the start as well as at the end, and does nothing where there is nothing.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::daemon;
use super::datastore::PROCESSES;
use super::node::ctr;
use super::place::{self, BRIDGE, ROOT};
use crate::failure::Failure;

/// What was killed may take a while to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Folders that containerd, the kubelet and buildah use whatever they are told. Those that were not there before a run go with it.
const FOREIGN_FOLDERS: [&str; 5] =
    ["/var/lib/containers", "/var/lib/cni", "/var/log/containers", "/var/log/pods", "/run/containerd"];
const CNI_RESULTS: &str = "/var/lib/cni/results";
const LOG_LINKS: &str = "/var/log/containers";

/// Notes what was there before the run.
pub(super) fn note_folders() -> Result<(), Failure> {
    let absent: Vec<&str> = FOREIGN_FOLDERS.into_iter().filter(|path| !fs::exists(path).unwrap_or(true)).collect();
    let note = place::path("absent-before");
    fs::write(&note, absent.join("\n")).map_err(Failure::file(&note))
}

/// Ends everything and removes everything.
pub(super) fn tear_down() -> Result<(), Failure> {
    // The kubelet first, or it starts again what is ended.
    daemon::stop("kubelet");
    end_containers();
    for name in [
        "prometheus",
        "stand-ins",
        "containerd",
        "coredns",
        "kube-proxy",
        "kube-scheduler",
        "kube-controller-manager",
        "kube-apiserver",
    ] {
        daemon::stop(name);
    }
    for name in PROCESSES {
        daemon::stop(name);
    }
    end_shims();
    unmount();
    remove_rules();
    quiet(Command::new("ip").args(["link", "delete", BRIDGE]));
    if let Ok(before) = fs::read_to_string(place::path("ip_forward")) {
        // Best effort: the value is the one that was there.
        let _ = fs::write("/proc/sys/net/ipv4/ip_forward", before.trim());
    }
    remove_foreign_files();
    remove_folder()?;
    check_nothing_is_left()
}

/// Best effort: what cannot be removed is an entry of a cache, and in nobody's way.
fn remove_foreign_files() {
    for name in names_in(CNI_RESULTS) {
        let Some(container) = name.strip_prefix("quorate-e2e-").and_then(|rest| rest.strip_suffix("-eth0")) else {
            continue;
        };
        for file in [name.clone(), format!("cni-loopback-{container}-lo")] {
            let _ = fs::remove_file(format!("{CNI_RESULTS}/{file}"));
        }
    }
    for name in names_in(LOG_LINKS) {
        let link = format!("{LOG_LINKS}/{name}");
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(ROOT)) {
            let _ = fs::remove_file(link);
        }
    }
    let absent = fs::read_to_string(place::path("absent-before")).unwrap_or_default();
    for folder in FOREIGN_FOLDERS.into_iter().filter(|folder| absent.lines().any(|line| line == *folder)) {
        let _ = fs::remove_dir_all(folder);
    }
}

fn names_in(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// What was unmounted lazily is busy until its last user has ended.
fn remove_folder() -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        match fs::remove_dir_all(ROOT) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if start.elapsed() > PATIENCE => return Err(Failure::file(ROOT)(error)),
            Err(_) => sleep(Duration::from_millis(200)),
        }
        unmount();
    }
}

/// A machine that is used again must not differ from one that never was. What was killed may take a moment to be gone.
fn check_nothing_is_left() -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let left = leftovers();
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(Failure::Broken(format!("the end-to-end run left behind: {}", left.join(", "))));
        }
        sleep(Duration::from_millis(200));
    }
}

fn leftovers() -> Vec<String> {
    let mut left = Vec::new();
    if fs::exists(format!("/sys/class/net/{BRIDGE}")).unwrap_or(false) {
        left.push(format!("network device {BRIDGE}"));
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    left.extend(mounts.lines().filter(|line| line.contains(ROOT)).map(|line| format!("mount {line}")));
    if rules("iptables-save").is_some_and(|rules| rules.contains("KUBE-")) {
        left.push("packet filter rules of kube-proxy".to_owned());
    }
    for pid in process_ids() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let program = arguments.next().unwrap_or_default().into_owned();
        let ours = ["kube", "containerd", "coredns", "etcd", "quorate", "prometheus", "stand_ins"];
        let name = program.rsplit('/').next().unwrap_or_default();
        if ours.iter().any(|prefix| name.starts_with(prefix)) && arguments.any(|argument| argument.contains(ROOT)) {
            left.push(format!("process {pid} {program}"));
        }
    }
    left
}

fn end_containers() {
    let Ok(listed) = ctr(&["task", "list", "--quiet"]).stderr(Stdio::null()).output() else { return };
    for id in String::from_utf8_lossy(&listed.stdout).lines() {
        quiet(&mut ctr(&["task", "kill", "--signal", "SIGKILL", id]));
    }
    // containerd ends the shims of what has ended, and removes their sockets and folders with them.
    let start = Instant::now();
    while !shims().is_empty() && start.elapsed() < PATIENCE {
        sleep(Duration::from_millis(200));
    }
}

/// Process ids of our shims, told by the socket they were started with.
fn shims() -> Vec<u32> {
    let socket = place::text("run/containerd.sock");
    let ours = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("containerd-shim") && line.contains(&socket)
    };
    process_ids().into_iter().filter(ours).collect()
}

/// Shims outlive containerd by design.
fn end_shims() {
    for pid in shims() {
        quiet(Command::new("kill").args(["-KILL", &pid.to_string()]));
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
        let Some(saved) = rules(save_restore[0]).filter(|rules| rules.contains("KUBE-")) else { continue };
        let kept: Vec<&str> = saved.lines().filter(|line| !line.contains("KUBE-")).collect();
        let Ok(mut restore) = Command::new(save_restore[1]).stdin(Stdio::piped()).spawn() else { continue };
        if let Some(mut pipe) = restore.stdin.take() {
            use std::io::Write;
            let _ = pipe.write_all((kept.join("\n") + "\n").as_bytes());
        }
        let _ = restore.wait();
    }
}

fn rules(save: &str) -> Option<String> {
    let saved = Command::new(save).stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&saved.stdout).into_owned())
}

/// Runs a command that may well have nothing to do.
fn quiet(command: &mut Command) {
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
