//! The one Kubernetes node: containerd, kubelet, kube-proxy, and CoreDNS on the machine itself.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::daemon::{await_ready, start};
use super::kubectl::Kubectl;
use super::place::{self, BRIDGE, HOST, NODE, POD_RANGE, STAND_IN_RANGE, text};
use super::toolchain::Toolchain;
use crate::failure::Failure;
use crate::process;

const PATIENCE: Duration = Duration::from_secs(300);
/// Name of the image that holds a pod's namespaces open.
pub(super) const PAUSE_IMAGE: &str = "localhost/quorate-e2e-pause:1";

/// Makes the bridge; everything binds to its address.
pub(super) fn make_network() -> Result<(), Failure> {
    ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    ip(&["address", "add", &format!("{HOST}/16"), "dev", BRIDGE])?;
    ip(&["link", "set", BRIDGE, "up"])?;
    ip(&["route", "add", "local", STAND_IN_RANGE, "dev", BRIDGE])?;
    let forward = Path::new("/proc/sys/net/ipv4/ip_forward");
    let before = fs::read_to_string(forward).map_err(Failure::file(forward))?;
    let kept = place::path("ip_forward");
    fs::write(&kept, before).map_err(Failure::file(&kept))?;
    fs::write(forward, "1").map_err(Failure::file(forward))
}

/// Starts containerd, which images are imported into before any pod runs.
pub(super) fn start_containerd() -> Result<(), Failure> {
    write("containerd.toml", &containerd_config())?;
    write("cni/10-quorate.conflist", &network_config())?;
    start("containerd", Path::new("/usr/bin/containerd"), &["--config".to_owned(), text("containerd.toml")])?;
    await_ready("containerd", PATIENCE, || ctr(&["version"]).output().is_ok_and(|output| output.status.success()))
}

/// Starts the rest and waits until the node is ready.
pub(super) fn bring_up(tools: &Toolchain) -> Result<(), Failure> {
    write("kubelet.yaml", &kubelet_config())?;
    write("kube-proxy.yaml", &proxy_config())?;
    write("Corefile", &dns_config())?;
    write("resolv.conf", "")?;
    let kubelet = [
        "--kubeconfig=".to_owned() + &text("kubelet.kubeconfig"),
        "--config=".to_owned() + &text("kubelet.yaml"),
        "--root-dir=".to_owned() + &text("kubelet"),
        "--cert-dir=".to_owned() + &text("kubelet-pki"),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={HOST}"),
    ];
    start("kubelet", &tools.path("kubelet"), &kubelet)?;
    start("kube-proxy", &tools.path("kube-proxy"), &["--config=".to_owned() + &text("kube-proxy.yaml")])?;
    start("coredns", &tools.path("coredns"), &["-conf=".to_owned() + &text("Corefile")])?;
    let kubectl = Kubectl::new(tools);
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    await_ready("the node", PATIENCE, || {
        kubectl.output(&["get", "node", NODE, "-o", ready]).is_ok_and(|status| status == "True")
    })
}

/// containerd's own client, on this run's socket.
pub(super) fn ctr(arguments: &[&str]) -> Command {
    let mut ctr = Command::new("ctr");
    ctr.args(["--address", &text("run/containerd.sock"), "--namespace", "k8s.io"]).args(arguments);
    ctr
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    process::run(Command::new("ip").args(arguments))
}

fn write(name: &str, content: &str) -> Result<(), Failure> {
    let file = place::path(name);
    fs::write(&file, content).map_err(Failure::file(&file))
}

fn containerd_config() -> String {
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without it every sandbox fails where the machine does not allow lower scores.
  restrict_oom_score_adj = true
  disable_apparmor = true
  # Under our folder, where they are found again.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#,
        root = text("containerd"),
        state = text("containerd-state"),
        socket = text("run/containerd.sock"),
        cni = text("cni"),
    )
}

/// Pods reach the stand-ins by the host: each of them a neighbour of its own, they would be more than the 1,024 that the
/// kernel knows unless it is told otherwise, and connections to the rest would fail.
fn network_config() -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "quorate-e2e", "plugins": [{{
  "type": "bridge", "bridge": "{BRIDGE}", "isDefaultGateway": true, "hairpinMode": true,
  "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{
    "subnet": "{POD_RANGE}", "rangeStart": "198.18.1.0", "rangeEnd": "198.18.239.254", "gateway": "{HOST}"}}]],
  "routes": [{{"dst": "{STAND_IN_RANGE}", "gw": "{HOST}"}}]}}
}}]}}"#,
        text("ipam")
    )
}

fn kubelet_config() -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {HOST}
containerRuntimeEndpoint: unix://{}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
failCgroupV1: false
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
clusterDNS: ['{HOST}']
clusterDomain: cluster.local
resolvConf: {}
podLogsDir: {}
volumePluginDir: {}
readOnlyPort: 0
healthzPort: 0
evictionHard: {{memory.available: 1Mi, nodefs.available: 0.1%, nodefs.inodesFree: 0.1%, imagefs.available: 0.1%}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
# Without cgroups of its own for each pod this kubelet fails on a nil pointer when it compares a restarted pod's limits.
featureGates: {{InPlacePodVerticalScaling: false}}
",
        text("run/containerd.sock"),
        text("resolv.conf"),
        text("pod-logs"),
        text("kubelet-plugins"),
    )
}

fn proxy_config() -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: {HOST}
clientConnection: {{kubeconfig: {}}}
clusterCIDR: {POD_RANGE}
detectLocalMode: ClusterCIDR
healthzBindAddress: 127.0.0.1:16256
metricsBindAddress: 127.0.0.1:16249
hostnameOverride: {NODE}
mode: iptables
# Answers between pods of one bridge would go past the address translation otherwise.
iptables: {{masqueradeAll: true, syncPeriod: 5s, minSyncPeriod: 0s}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
",
        text("proxy.kubeconfig")
    )
}

fn dns_config() -> String {
    format!(
        ".:53 {{
    bind {HOST}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {}
    }}
}}
",
        text("admin.kubeconfig")
    )
}
