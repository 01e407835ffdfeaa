//! Carrying out one step.
//!
//! Each step names what it was decided on: uids for what is deleted, the configuration's index for a change of the members. If
//! the world has moved on in between the step fails, and the next reconcile looks again.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};
use quorate_proto::quorate::v1::target::Voter as WireVoter;
use quorate_proto::quorate::v1::{
    InitMember, InitRequest, NewVoter, ResetRequest, SetVotersRequest, StatusResponse, Target as WireTarget,
    TransferLeaderRequest,
};
use serde_json::json;

use crate::admin::{Admin, AdminError, Target};
use crate::build::{self, Built, Defaults};
use crate::crd::QuorateCluster;
use crate::names::{FINALIZER, MANAGER, Names, OWNER_ANNOTATION, RETIRED_KEY, SERVING_LABEL, TOKEN_KEY};
use crate::observe::{self, Sighting, VolumeView};
use crate::plan::{ClusterId, Incarnation, JobState, NodeId, Ordinal, Step, Voter};
use crate::quantity::is_more;

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The API server refused or did not answer.
    #[error("the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    /// A node refused or did not answer.
    #[error(transparent)]
    Node(#[from] AdminError),
    /// What the step is about is not there any more.
    #[error("{0} is not there any more")]
    Gone(String),
    /// Another operator, or a human, was faster.
    #[error("{0} in the meantime")]
    Overtaken(String),
    /// Somebody else's object has the name of one that the cluster needs.
    #[error("{0}")]
    Taken(String),
    /// The operating system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

impl ActError {
    /// What the API server said to a step that it will not take however often it is asked, until somebody changes something. Not so
    /// a conflict, and what passes by itself.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            ActError::Kubernetes(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 405 | 422) => {
                Some(&status.message)
            }
            _ => None,
        }
    }
}

/// What acting needs.
#[derive(Clone, Copy)]
pub struct Hands<'a, A> {
    /// The API server.
    pub client: &'a Client,
    /// The nodes.
    pub admin: &'a A,
    /// What is fixed for all clusters.
    pub defaults: &'a Defaults,
}

impl<A: Admin> Hands<'_, A> {
    /// Takes `step`. Steps that only latch something are done when the status is written, and nothing is left here.
    ///
    /// # Errors
    /// [`ActError`]; the step may or may not have had its effect, and is safe to take again.
    pub async fn act(&self, sighting: &Sighting, step: &Step) -> Result<(), ActError> {
        match step {
            Step::LatchTarget { .. }
            | Step::LatchNewClusterId
            | Step::AdoptClusterId(_)
            | Step::LatchRecovery { .. }
            | Step::LatchRecovered
            | Step::EndRecovery => Ok(()),
            Step::StartRecovery => self.start_recovery(sighting).await,
            Step::DeleteRecoveryJob => self.delete_recovery_job(sighting).await,
            Step::ScaleSet { replicas } if sighting.observed.set.as_ref().is_some_and(|set| set.outdated) => {
                self.scale(sighting, *replicas).await
            }
            Step::ApplyObjects { replicas } | Step::ScaleSet { replicas } => self.apply(sighting, *replicas).await,
            Step::GrowVolumes => self.grow_volumes(sighting).await,
            Step::SetServing { ordinal, serving } => self.set_serving(sighting, *ordinal, *serving).await,
            Step::RestartPod(ordinal) => self.restart(sighting, *ordinal).await,
            Step::DeleteVolume(ordinal) => self.delete_volume(sighting, *ordinal).await,
            Step::ReleaseFinalizer => self.release(&sighting.cluster).await,
            Step::Init { cluster_id, members } => self.init(sighting, *cluster_id, members).await,
            Step::SetVoters { voters, expected_config_index } => {
                self.set_voters(sighting, voters, *expected_config_index).await
            }
            Step::MarkVolume(ordinal) => self.mark_volume(sighting, *ordinal).await,
            Step::ApplyMonitor => self.apply_one(sighting, &build::pod_monitor(&sighting.cluster)).await,
            Step::TransferLeader { to, expected_config_index } => {
                let leader = leader(sighting)?;
                let request = TransferLeaderRequest { node_id: to.0, expected_config_index: *expected_config_index };
                Ok(self.admin.transfer_leader(&leader, request).await?)
            }
            Step::ResetNode(ordinal) => self.reset(sighting, *ordinal).await,
        }
    }

    /// Makes or updates everything. The StatefulSet comes last when it grows and first when it shrinks, so that the disruption
    /// budget never counts on pods that are not there yet.
    async fn apply(&self, sighting: &Sighting, replicas: u32) -> Result<(), ActError> {
        let cluster = &sighting.cluster;
        if sighting.kubernetes.token.is_none() {
            self.create_token(cluster).await?;
        }
        if sighting.kubernetes.retired != build::retired_text(cluster) {
            self.tell_retired(cluster).await?;
        }
        let live = sighting.kubernetes.set.as_ref();
        let size = live.map_or(cluster.spec.storage.size.as_str(), |set| set.volume_size.as_str());
        let mut objects = build::companions(cluster, replicas, sighting.spare);
        let mut set = build::stateful_set(cluster, self.defaults, replicas, size);
        // Only if nobody, an operator that is ahead of this one, has changed the set since: also where it was to stay as large as it was
        // seen, it may have grown, and pods of voters would go.
        if let (Some(body), Some(seen)) = (&mut set.body, live) {
            body["metadata"]["resourceVersion"] = json!(seen.resource_version);
        }
        let shrinks = live.is_some_and(|set| set.replicas > replicas);
        objects.insert(if shrinks { 0 } else { objects.len() }, set);
        let (theirs, ours): (Vec<_>, Vec<_>) = objects.iter().partition(|object| sighting.kubernetes.is_taken(object));
        if let Some(object) = theirs.first().filter(|_| live.is_none()) {
            // Pods that no Service of their own names would never find each other. What runs already goes on without.
            return Err(ActError::Taken(object.name_is_taken()));
        }
        if live.is_none() {
            self.expect_no_set(&Names::of(cluster)).await?;
        }
        for object in ours.into_iter().filter(|object| !object.matches(sighting.kubernetes.live(object))) {
            self.apply_one(sighting, object).await?;
        }
        Ok(())
    }

    /// What was not seen has no version to name, so it is looked for again: another operator may have made it, and it may have grown since.
    async fn expect_no_set(&self, names: &Names) -> Result<(), ActError> {
        let api = Api::<StatefulSet>::namespaced(self.client.clone(), &names.namespace);
        match api.get_opt(&names.cluster).await? {
            Some(_) => Err(ActError::Overtaken(format!("StatefulSet {} was made", names.cluster))),
            None => Ok(()),
        }
    }

    /// Changes the number of pods alone: what else is to be changed may be refused, which must not hold up a recovery.
    async fn scale(&self, sighting: &Sighting, replicas: u32) -> Result<(), ActError> {
        let names = Names::of(&sighting.cluster);
        let live = sighting.kubernetes.set.as_ref().ok_or_else(|| ActError::Gone(names.cluster.clone()))?;
        let metadata = json!({ "resourceVersion": live.resource_version });
        let patch = json!({ "metadata": metadata, "spec": { "replicas": replicas } });
        let api = Api::<StatefulSet>::namespaced(self.client.clone(), &names.namespace);
        api.patch(&names.cluster, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn grow_volumes(&self, sighting: &Sighting) -> Result<(), ActError> {
        let names = Names::of(&sighting.cluster);
        let size = &sighting.cluster.spec.storage.size;
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &names.namespace);
        let small = |volume: &VolumeView| !volume.state.terminating && is_more(size, &volume.size);
        for (ordinal, _) in sighting.kubernetes.volumes.iter().filter(|(_, volume)| small(volume)) {
            let patch = json!({ "spec": { "resources": { "requests": { "storage": size } } } });
            api.patch(&names.claim(*ordinal), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        let live = sighting.kubernetes.set.as_ref();
        if live.is_some_and(|set| is_more(size, &set.volume_size)) {
            // Its claim template cannot be changed; it is made again at the next look, and takes its pods back.
            return orphan_set(self.client, sighting).await;
        }
        Ok(())
    }

    async fn apply_one(&self, sighting: &Sighting, object: &Built) -> Result<(), ActError> {
        let names = Names::of(&sighting.cluster);
        let live = sighting.kubernetes.live(object);
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &names.namespace, &object.resource);
        match &object.body {
            Some(body) => {
                api.patch(&object.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body)).await?;
            }
            None => {
                let Some(uid) = live.and_then(|live| live["metadata"]["uid"].as_str()) else { return Ok(()) };
                ignore_missing(api.delete(&object.name, &only(uid)).await)?;
            }
        }
        Ok(())
    }

    /// Made once and never replaced: the nodes read it from the Secret too. A Secret that is there without a token gets one.
    async fn create_token(&self, cluster: &QuorateCluster) -> Result<(), ActError> {
        let names = Names::of(cluster);
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        let token = hexadecimal(&bytes);
        let secret = Secret {
            metadata: build::metadata(cluster, names.admin_secret()),
            string_data: Some([(TOKEN_KEY.to_string(), token.clone())].into()),
            ..Secret::default()
        };
        let api = Api::<Secret>::namespaced(self.client.clone(), &names.namespace);
        let params = PostParams { field_manager: Some(MANAGER.to_string()), ..PostParams::default() };
        match api.create(&params, &secret).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            other => return Ok(other.map(drop)?),
        }
        let there = api.get(&names.admin_secret()).await?;
        if observe::token_of(&there).is_some() {
            return Ok(());
        }
        // The version, since another operator may be putting one in: what the nodes have read must stay.
        let metadata = json!({ "resourceVersion": there.metadata.resource_version });
        let patch = json!({ "metadata": metadata, "stringData": { TOKEN_KEY: token } });
        api.patch(&names.admin_secret(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Before any node starts: the file is read then.
    async fn tell_retired(&self, cluster: &QuorateCluster) -> Result<(), ActError> {
        let names = Names::of(cluster);
        let api = Api::<Secret>::namespaced(self.client.clone(), &names.namespace);
        let patch = json!({ "stringData": { RETIRED_KEY: build::retired_text(cluster) } });
        api.patch(&names.admin_secret(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Its name is made from the latched id, so that there is one however often it is asked for. What is latched is looked at
    /// again: an operator that was held up here must not start what a human has taken back.
    async fn start_recovery(&self, sighting: &Sighting) -> Result<(), ActError> {
        let cluster = &sighting.cluster;
        let names = Names::of(cluster);
        let latched = sighting.observed.latched;
        let (Some(old), Some(recovery)) = (latched.cluster_id, latched.recovery) else {
            return Err(ActError::Gone("the recovery".to_string()));
        };
        let now = Api::<QuorateCluster>::namespaced(self.client.clone(), &names.namespace).get(&names.cluster).await?;
        let begun = |cluster: &QuorateCluster| cluster.status.as_ref().and_then(|status| status.recovery.clone());
        if begun(&now) != begun(cluster) {
            return Err(ActError::Gone("the recovery".to_string()));
        }
        let job = build::recovery_job(cluster, self.defaults, old, recovery);
        let params = PostParams { field_manager: Some(MANAGER.to_string()), ..PostParams::default() };
        match Api::<Job>::namespaced(self.client.clone(), &names.namespace).create(&params, &job).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// How far it is is looked at again, since no precondition tells: an operator that was held up must not stop a job that writes.
    /// Its pods go with it.
    async fn delete_recovery_job(&self, sighting: &Sighting) -> Result<(), ActError> {
        let names = Names::of(&sighting.cluster);
        let seen = &sighting.kubernetes.recovery_job;
        let gone = || ActError::Gone(format!("the job of the recovery, as it was seen ({:?}),", seen.state));
        let (Some(uid), Some(recovery)) = (&seen.uid, sighting.observed.latched.recovery) else { return Err(gone()) };
        let now = observe::recovery_job(self.client, &names, recovery.cluster_id).await?;
        if now.state == JobState::Running || (now.state, &now.uid) != (seen.state, &seen.uid) {
            return Err(gone());
        }
        let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..only(uid) };
        let api = Api::<Job>::namespaced(self.client.clone(), &names.namespace);
        Ok(ignore_missing(api.delete(&names.recovery_job(recovery.cluster_id), &params).await)?)
    }

    async fn set_serving(&self, sighting: &Sighting, ordinal: Ordinal, serving: bool) -> Result<(), ActError> {
        let names = Names::of(&sighting.cluster);
        let pod = sighting.kubernetes.pods.get(&ordinal).ok_or_else(|| ActError::Gone(names.pod(ordinal)))?;
        let api = Api::<Pod>::namespaced(self.client.clone(), &names.namespace);
        let labels = json!({ SERVING_LABEL: serving.to_string() });
        let patch = json!({ "metadata": { "uid": pod.uid, "labels": labels } });
        api.patch(&names.pod(ordinal), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn restart(&self, sighting: &Sighting, ordinal: Ordinal) -> Result<(), ActError> {
        let names = Names::of(&sighting.cluster);
        let pod = sighting.kubernetes.pods.get(&ordinal).ok_or_else(|| ActError::Gone(names.pod(ordinal)))?;
        let mut params = only(&pod.uid);
        if pod.state.node_lost {
            // No kubelet is left that could confirm the end.
            params.grace_period_seconds = Some(0);
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &names.namespace);
        Ok(ignore_missing(api.delete(&names.pod(ordinal), &params).await)?)
    }

    async fn delete_volume(&self, sighting: &Sighting, ordinal: Ordinal) -> Result<(), ActError> {
        let names = Names::of(&sighting.cluster);
        let volume = sighting.kubernetes.volumes.get(&ordinal).ok_or_else(|| ActError::Gone(names.claim(ordinal)))?;
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &names.namespace);
        Ok(ignore_missing(api.delete(&names.claim(ordinal), &only(&volume.uid)).await)?)
    }

    async fn mark_volume(&self, sighting: &Sighting, ordinal: Ordinal) -> Result<(), ActError> {
        let names = Names::of(&sighting.cluster);
        let volume = sighting.kubernetes.volumes.get(&ordinal).ok_or_else(|| ActError::Gone(names.claim(ordinal)))?;
        let owner = json!({ OWNER_ANNOTATION: sighting.cluster.metadata.uid });
        let patch = json!({ "metadata": { "uid": volume.uid, "annotations": owner } });
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &names.namespace);
        api.patch(&names.claim(ordinal), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn release(&self, cluster: &QuorateCluster) -> Result<(), ActError> {
        let kept = cluster.metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != FINALIZER);
        set_finalizers(self.client, cluster, kept.cloned().collect()).await
    }

    /// Tells every node, also when one of them refuses: whoever accepted needs the others to accept as well.
    async fn init(
        &self,
        sighting: &Sighting,
        cluster_id: ClusterId,
        members: &[(Ordinal, Incarnation)],
    ) -> Result<(), ActError> {
        let mut listed = Vec::new();
        for (ordinal, incarnation) in members {
            let answer = answer(sighting, *ordinal, *incarnation)?;
            listed.push(InitMember {
                incarnation: answer.incarnation.clone(),
                name: answer.name.clone(),
                peer_address: answer.peer_address.clone(),
                client_addresses: answer.client_addresses.clone(),
                max_version: answer.max_version,
            });
        }
        let request = InitRequest { cluster_id: cluster_id.0.to_be_bytes().to_vec().into(), members: listed };
        let mut result = Ok(());
        for (ordinal, _) in members {
            let node = target(sighting, *ordinal)?;
            let told = self.admin.init(&node, request.clone()).await;
            result = result.and(told.map_err(ActError::from));
        }
        result
    }

    async fn set_voters(
        &self,
        sighting: &Sighting,
        voters: &[Voter],
        expected_config_index: u64,
    ) -> Result<(), ActError> {
        let mut targets = Vec::new();
        for voter in voters {
            let voter = match voter {
                Voter::Existing(NodeId(id)) => WireVoter::NodeId(*id),
                Voter::New(ordinal, incarnation) => {
                    let answer = answer(sighting, *ordinal, *incarnation)?;
                    WireVoter::NewVoter(NewVoter {
                        incarnation: answer.incarnation.clone(),
                        name: answer.name.clone(),
                        peer_address: answer.peer_address.clone(),
                        client_addresses: answer.client_addresses.clone(),
                        max_version: answer.max_version,
                    })
                }
            };
            targets.push(WireTarget { voter: Some(voter) });
        }
        let request = SetVotersRequest { targets, expected_config_index };
        Ok(self.admin.set_voters(&leader(sighting)?, request).await?)
    }

    async fn reset(&self, sighting: &Sighting, ordinal: Ordinal) -> Result<(), ActError> {
        let node = target(sighting, ordinal)?;
        let answer = sighting.answers.get(&ordinal).ok_or_else(|| ActError::Gone(node.address.clone()))?;
        // Files so damaged that they do not say whose they are: the node takes any id then, but not none.
        let latched = sighting.observed.latched.cluster_id.map(|id| id.0.to_be_bytes().to_vec().into());
        let nameless = answer.cluster_id.iter().all(|byte| *byte == 0);
        let cluster_id = latched.filter(|_| nameless).unwrap_or_else(|| answer.cluster_id.clone());
        let request = ResetRequest { cluster_id, node_id: answer.node_id };
        Ok(self.admin.reset(&node, request).await?)
    }
}

/// Puts the finalizer on, so that a deletion is seen before the pods go.
pub async fn add_finalizer(client: &Client, cluster: &QuorateCluster) -> Result<(), ActError> {
    let others = cluster.metadata.finalizers.iter().flatten().cloned();
    set_finalizers(client, cluster, others.chain([FINALIZER.to_string()]).collect()).await
}

async fn set_finalizers(client: &Client, cluster: &QuorateCluster, finalizers: Vec<String>) -> Result<(), ActError> {
    let names = Names::of(cluster);
    let api = Api::<QuorateCluster>::namespaced(client.clone(), &names.namespace);
    // The version makes the list safe to replace: somebody else's finalizer that came in between is a conflict.
    let metadata = json!({ "resourceVersion": cluster.metadata.resource_version, "finalizers": finalizers });
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    api.patch(&names.cluster, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Deletes the StatefulSet and leaves its pods: the way to change what a StatefulSet does not let one change.
async fn orphan_set(client: &Client, sighting: &Sighting) -> Result<(), ActError> {
    let Some(set) = &sighting.kubernetes.set else { return Ok(()) };
    let names = Names::of(&sighting.cluster);
    let api = Api::<StatefulSet>::namespaced(client.clone(), &names.namespace);
    // The version, too: somebody may have scaled it since, and it would be made again as it was seen.
    let (uid, resource_version) = (Some(set.uid.clone()), Some(set.resource_version.clone()));
    let params =
        DeleteParams { preconditions: Some(Preconditions { uid, resource_version }), ..DeleteParams::orphan() };
    Ok(ignore_missing(api.delete(&names.cluster, &params).await)?)
}

fn target(sighting: &Sighting, ordinal: Ordinal) -> Result<Target, ActError> {
    sighting.target(ordinal).ok_or_else(|| ActError::Gone(Names::of(&sighting.cluster).pod(ordinal)))
}

fn leader(sighting: &Sighting) -> Result<Target, ActError> {
    let cluster = sighting.observed.cluster.as_ref();
    let member = cluster.and_then(|cluster| cluster.members.get(&cluster.leader));
    target(sighting, member.ok_or_else(|| ActError::Gone("the leader".to_string()))?.ordinal)
}

/// The answer of the node that was decided on, not of another one that is at its address by now.
fn answer(sighting: &Sighting, ordinal: Ordinal, incarnation: Incarnation) -> Result<&StatusResponse, ActError> {
    let answer = sighting.answers.get(&ordinal);
    let same = answer.filter(|a| observe::id_of_bytes(&a.incarnation) == Some(incarnation.0));
    same.ok_or_else(|| ActError::Gone(Names::of(&sighting.cluster).pod(ordinal)))
}

fn only(uid: &str) -> DeleteParams {
    let preconditions = Preconditions { uid: Some(uid.to_string()), resource_version: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

fn ignore_missing<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
