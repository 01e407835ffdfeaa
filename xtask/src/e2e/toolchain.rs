//! The Kubernetes programs, built from pinned Go modules into a cache in the user's cache folder.
//!
//! A binary is found by a hash of what it is built from: other pins are other binaries, and nothing is ever taken from the
//! machine but Go itself and what the distribution packages (containerd, runc, CNI plugins, iptables, buildah).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;
use crate::process::{self, cache_folder, root};

struct Tool {
    name: &'static str,
    /// Folder of its module, below `tests/tools`.
    module: &'static str,
    package: &'static str,
}

const KUBERNETES_FLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34";
/// Only one test runs it, so it is built when that test is run.
const HELM_4: &str = "helm4";
const PLAIN_FLAGS: &str = "-s -w";

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    Tool { name, module: "kubernetes", package }
}

const TOOLS: [Tool; 10] = [
    Tool { name: "etcd", module: "", package: "go.etcd.io/etcd/server/v3" },
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    Tool { name: "coredns", module: "coredns", package: "." },
    Tool { name: "helm", module: "helm", package: "helm.sh/helm/v3/cmd/helm" },
    Tool { name: HELM_4, module: "helm4", package: "helm.sh/helm/v4/cmd/helm" },
];

/// Where the binaries are.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    folders: Vec<(&'static str, PathBuf)>,
}

impl Toolchain {
    /// Finds every tool that most tests need, and builds those that are missing.
    pub(super) fn prepare() -> Result<Toolchain, Failure> {
        Toolchain::find(|name| name != HELM_4)
    }

    /// Only helm.
    pub(crate) fn helm() -> Result<PathBuf, Failure> {
        Ok(Toolchain::find(|name| name == "helm")?.path("helm"))
    }

    /// Only the next major version of helm.
    pub(super) fn helm_4() -> Result<PathBuf, Failure> {
        Ok(Toolchain::find(|name| name == HELM_4)?.path(HELM_4))
    }

    /// The same if it is built already.
    pub(crate) fn built_helm_4() -> Result<Option<PathBuf>, Failure> {
        let tool = TOOLS.iter().find(|tool| tool.name == HELM_4).expect("a tool of the list");
        let module = root().join("tests/tools").join(tool.module);
        let binary = cache_folder("e2e")?.join(format!("{:016x}", pins(&module, tool)?)).join(tool.name);
        Ok(binary.exists().then_some(binary))
    }

    fn find(wanted: impl Fn(&str) -> bool) -> Result<Toolchain, Failure> {
        let cache = cache_folder("e2e")?;
        let mut folders = Vec::new();
        for tool in TOOLS.iter().filter(|tool| wanted(tool.name)) {
            let module = root().join("tests/tools").join(tool.module);
            let folder = cache.join(format!("{:016x}", pins(&module, tool)?));
            if !folder.join(tool.name).exists() {
                build(tool, &module, &folder)?;
            }
            folders.push((tool.name, folder));
        }
        Ok(Toolchain { folders })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        let (_, folder) = self.folders.iter().find(|(tool, _)| *tool == name).expect("a tool of the list");
        folder.join(name)
    }
}

fn build(tool: &Tool, module: &Path, folder: &Path) -> Result<(), Failure> {
    if !process::exists("go", "version") {
        return Err(Failure::Skipped(format!("{} is built from its Go module, and there is no `go`", tool.name)));
    }
    fs::create_dir_all(folder).map_err(Failure::file(folder))?;
    // Built beside its place and then renamed: a build that was cut short is no binary.
    let partial = folder.join(format!("{}.partial", tool.name));
    let mut go = Command::new("go");
    go.current_dir(module).args(["build", "-mod=readonly", "-ldflags", flags(tool), "-o"]).arg(&partial);
    if tool.module != "kubernetes" {
        go.arg("-trimpath");
    }
    process::run(go.arg(tool.package))?;
    fs::rename(&partial, folder.join(tool.name)).map_err(Failure::file(&partial))
}

fn flags(tool: &Tool) -> &'static str {
    if tool.module == "kubernetes" { KUBERNETES_FLAGS } else { PLAIN_FLAGS }
}

/// FNV-1a over everything that decides the binary.
fn pins(module: &Path, tool: &Tool) -> Result<u64, Failure> {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for file in ["go.mod", "go.sum"] {
        let path = module.join(file);
        add(&fs::read(&path).map_err(Failure::file(&path))?);
    }
    add(tool.package.as_bytes());
    add(flags(tool).as_bytes());
    Ok(hash)
}
