//! Everything that happened to some objects, in the order in which the API server says it did.
//!
//! Looking again and again misses what lasts for a moment. A watch does not, and the resource versions of one API server order what
//! happened to objects of different kinds.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::place;
use super::suite::Scene;
use crate::failure::Failure;

/// A `kubectl get --watch` of one kind, in a test's namespace.
pub(super) struct Watch {
    child: Child,
    file: PathBuf,
}

/// One state of one object.
pub(super) struct Event {
    /// When, as the API server counts; comparable between objects of any kind.
    pub(super) version: u64,
    /// Whether this is the last of it.
    pub(super) deleted: bool,
    pub(super) object: Value,
}

impl Watch {
    /// Returns once the first states have come.
    pub(super) fn start(scene: &Scene<'_>, kind: &str) -> Result<Watch, Failure> {
        let file = place::path(&format!("watch-{kind}.json"));
        let output = File::create(&file).map_err(Failure::file(&file))?;
        let mut kubectl: Command = scene.kubectl.command();
        kubectl.args(["--namespace", &scene.namespace, "get", kind, "--watch", "--output-watch-events", "-o", "json"]);
        let child = kubectl.stdin(Stdio::null()).stdout(output).stderr(Stdio::null()).spawn();
        let watch = Watch { child: child.map_err(Failure::file("kubectl"))?, file };
        scene.await_fact(&format!("{kind} are watched"), || Ok(!watch.events()?.is_empty()))?;
        Ok(watch)
    }

    /// What was seen until now.
    pub(super) fn events(&self) -> Result<Vec<Event>, Failure> {
        let text = fs::read_to_string(&self.file).map_err(Failure::file(&self.file))?;
        // The last one may be half written.
        let whole = serde_json::Deserializer::from_str(&text).into_iter::<Value>().map_while(Result::ok);
        let event = |seen: Value| {
            let version = seen["object"]["metadata"]["resourceVersion"].as_str()?.parse().ok()?;
            Some(Event { version, deleted: seen["type"] == "DELETED", object: seen["object"].clone() })
        };
        Ok(whole.filter_map(event).collect())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended with the API server; its file goes with the run.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
