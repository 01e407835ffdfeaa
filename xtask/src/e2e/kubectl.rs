//! kubectl and helm as functions.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::place::text;
use super::toolchain::Toolchain;
use crate::failure::Failure;
use crate::process::describe;

/// kubectl as the administrator of the run's cluster.
#[derive(Debug, Clone)]
pub(super) struct Kubectl {
    binary: PathBuf,
    helm: PathBuf,
}

impl Kubectl {
    pub(super) fn new(tools: &Toolchain) -> Self {
        Kubectl { binary: tools.path("kubectl"), helm: tools.path("helm") }
    }

    /// The same with another helm.
    pub(super) fn with_helm(&self, helm: PathBuf) -> Self {
        Kubectl { binary: self.binary.clone(), helm }
    }

    /// kubectl, for whoever starts it otherwise than to its end.
    pub(super) fn command(&self) -> Command {
        let mut kubectl = Command::new(&self.binary);
        kubectl.arg("--kubeconfig").arg(text("admin.kubeconfig"));
        kubectl
    }

    /// What it prints; an error with what it says if it fails.
    pub(super) fn output(&self, arguments: &[&str]) -> Result<String, Failure> {
        finish(self.command().args(arguments), None)
    }

    /// `kubectl get ... -o json`.
    pub(super) fn get(&self, arguments: &[&str]) -> Result<Value, Failure> {
        let text = self.output(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).map_err(|error| Failure::Broken(format!("kubectl printed no JSON: {error}")))
    }

    /// `kubectl apply --server-side` of a manifest.
    pub(super) fn apply(&self, manifest: &str) -> Result<String, Failure> {
        finish(self.command().args(["apply", "--server-side", "--force-conflicts", "-f", "-"]), Some(manifest))
    }

    /// What the API server would say to a manifest, which it does not keep.
    pub(super) fn dry_run(&self, manifest: &str) -> Result<String, Failure> {
        finish(self.command().args(["apply", "--server-side", "--dry-run=server", "-f", "-"]), Some(manifest))
    }

    /// `kubectl create --raw`: a request as it is.
    pub(super) fn create_raw(&self, path: &str, body: &str) -> Result<String, Failure> {
        finish(self.command().args(["create", "--raw", path, "-f", "-"]), Some(body))
    }

    /// helm, with its state under the run's folder.
    pub(super) fn helm(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut helm = Command::new(&self.helm);
        helm.arg("--kubeconfig").arg(text("admin.kubeconfig")).args(arguments);
        for (variable, folder) in
            [("HELM_CACHE_HOME", "helm/cache"), ("HELM_CONFIG_HOME", "helm/config"), ("HELM_DATA_HOME", "helm/data")]
        {
            helm.env(variable, text(folder));
        }
        finish(&mut helm, None)
    }
}

fn finish(command: &mut Command, input: Option<&str>) -> Result<String, Failure> {
    let line = describe(command);
    let failed = |problem: String| Failure::Program { command: line.clone(), problem };
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("could not be started: {error}")))?;
    if let (Some(input), Some(pipe)) = (input, child.stdin.as_mut()) {
        pipe.write_all(input.as_bytes()).map_err(|error| failed(format!("took no input: {error}")))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(format!("failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
