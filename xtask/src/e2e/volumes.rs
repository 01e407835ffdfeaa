//! Volumes: a storage class without a provisioner, and folders of this machine handed out as PersistentVolumes.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::chown;

use serde_json::json;

use super::kubectl::Kubectl;
use super::place;
use crate::failure::Failure;

/// User and group of the image: the kubelet does not change the owner of a folder of its machine.
const USER: u32 = 65_532;
/// More than most tests use in all, since a released volume is not handed out again.
pub(super) const VOLUMES_A_TEST: usize = 9;

/// Name of the default storage class.
pub(super) const CLASS: &str = "e2e";

/// The default storage class.
pub(super) fn make_class(kubectl: &Kubectl) -> Result<(), Failure> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": { "name": CLASS, "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Retain",
        // Nobody resizes them; what is tested is that a larger claim is asked for.
        "allowVolumeExpansion": true,
    });
    kubectl.apply(&class.to_string()).map(drop)
}

/// Fresh empty volumes with these numbers for one test.
pub(super) fn make(kubectl: &Kubectl, test: &str, numbers: Range<usize>) -> Result<(), Failure> {
    let volume = |number: usize| -> Result<serde_json::Value, Failure> {
        let name = format!("{}-{number}", test.replace('_', "-"));
        let folder = place::path(&format!("volumes/{name}"));
        fs::create_dir_all(&folder).map_err(Failure::file(&folder))?;
        chown(&folder, Some(USER), Some(USER)).map_err(Failure::file(&folder))?;
        Ok(json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": { "name": name, "labels": { "test": test } },
            "spec": {
                "capacity": { "storage": "20Gi" }, "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS,
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": { "path": folder },
            },
        }))
    };
    let volumes = numbers.map(volume).collect::<Result<Vec<_>, _>>()?;
    kubectl.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": volumes }).to_string()).map(drop)
}

/// Removes the volumes of a test, and their data.
pub(super) fn remove(kubectl: &Kubectl, test: &str) {
    let selector = format!("--selector=test={test}");
    // A volume that stays is in nobody's way: the next test has its own.
    let _ = kubectl.output(&["delete", "persistentvolume", &selector, "--wait=false"]);
}
