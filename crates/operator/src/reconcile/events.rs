//! Events: what is told of steps, and of states when they begin.

use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder};

use crate::act::ActError;
use crate::crd::QuorateClusterStatus;
use crate::observe::Sighting;
use crate::plan::{Finding, Plan};

/// Characters of an event's note; the API server takes a thousand bytes.
const LONGEST_NOTE: usize = 480;

/// Tells of steps, and of states in which a human should look.
pub(super) async fn report(recorder: &Recorder, sighting: &Sighting, decided: &Plan, after: &QuorateClusterStatus) {
    for event in news(sighting.cluster.status.as_ref(), after, decided) {
        publish(recorder, sighting, &event).await;
    }
}

/// A step is told each time, a state when it begins: nothing is written for what stays as it is.
fn news(before: Option<&QuorateClusterStatus>, after: &QuorateClusterStatus, decided: &Plan) -> Vec<Event> {
    let begins = |kind: &str| {
        let now = reason_of(Some(after), kind);
        now != reason_of(before, kind)
    };
    let said = |kind: &str| after.condition(kind).map_or("", |condition| condition.message.as_str());
    let mut events = Vec::new();
    let known = decided.step.is_none() && !begins("Progressing");
    if let Some((type_, note)) = note(&decided.finding, decided.step.is_some(), &said).filter(|_| !known) {
        events.push(event(type_, decided.finding.reason(), note));
    }
    if begins("Degraded") && reason_of(Some(after), "Degraded") == Some("NodeLost") {
        events.push(event(EventType::Warning, "NodeLost", said("Degraded")));
    }
    // What else stalls has an event of its own.
    if begins("Stalled") && reason_of(Some(after), "Stalled") == Some("DeadlineExceeded") {
        let note = format!("{}: {}", said("Stalled"), said("Progressing"));
        events.push(event(EventType::Warning, "Stalled", &note));
    }
    events
}

fn note<'a>(finding: &Finding, steps: bool, said: &impl Fn(&str) -> &'a str) -> Option<(EventType, &'a str)> {
    Some(match finding {
        Finding::Working(work) if steps => (EventType::Normal, work.text()),
        Finding::QuorumLost => (EventType::Warning, "no quorum of the members answers"),
        Finding::NoLeader => (EventType::Warning, "enough members for a quorum may run, and none of them leads"),
        Finding::MembersDown => (EventType::Warning, said("Degraded")),
        Finding::RollAwaitsApproval => (EventType::Normal, said("Progressing")),
        Finding::TooFewTakePart => (EventType::Warning, "the next step waits: too few members take part"),
        Finding::RecoveryRefused(refusal) => (EventType::Warning, refusal.text()),
        Finding::RecoveryFailed => (EventType::Warning, "the job that should recover the cluster has failed"),
        Finding::ClusterIdMismatch => (EventType::Warning, said("Progressing")),
        _ => return None,
    })
}

fn reason_of<'a>(status: Option<&'a QuorateClusterStatus>, kind: &str) -> Option<&'a str> {
    Some(status?.condition(kind)?.reason.as_str())
}

fn event(type_: EventType, reason: &str, note: &str) -> Event {
    Event {
        type_,
        reason: reason.to_string(),
        note: Some(shortened(note)),
        action: "Reconcile".to_string(),
        secondary: None,
    }
}

async fn publish(recorder: &Recorder, sighting: &Sighting, event: &Event) {
    if let Err(error) = recorder.publish(event, &sighting.cluster.object_ref(&())).await {
        tracing::warn!(%error, "an event could not be written");
    }
}

/// A refusal of the API server, such as a storage class whose volumes cannot grow, is for the user to see. Nodes refuse and go
/// away all the time, and are asked again.
pub(super) async fn report_failure(recorder: &Recorder, sighting: &Sighting, work: &str, error: &ActError) {
    let ActError::Kubernetes(kube::Error::Api(status)) = error else { return };
    if status.is_conflict() {
        return;
    }
    let event = event(EventType::Warning, &format!("{work}Failed"), &error.to_string());
    publish(recorder, sighting, &event).await;
}

/// As much as an event or a condition should carry.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_NOTE).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::{Ordinal, Step, Work};

    fn status(conditions: &[(&str, &str)]) -> QuorateClusterStatus {
        let condition = |(kind, reason): &(&str, &str)| {
            json!({
                "type": kind, "reason": reason, "status": "True", "message": format!("{kind} it is"),
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let conditions: Vec<_> = conditions.iter().map(condition).collect();
        serde_json::from_value(json!({ "conditions": conditions })).expect("a status")
    }

    #[test]
    fn a_state_is_told_when_it_begins_and_a_step_each_time() {
        let told = |finding: Finding, step: Option<Step>, conditions: &[(&str, &str)]| {
            let (decided, after) = (Plan { step, finding }, status(conditions));
            let reasons = |events: Vec<Event>| events.into_iter().map(|event| event.reason).collect::<Vec<_>>();
            (reasons(news(None, &after, &decided)), reasons(news(Some(&after), &after, &decided)))
        };
        let state = |finding: Finding, conditions: &[(&str, &str)], expected: &[&str]| {
            assert_eq!(told(finding, None, conditions), (expected.iter().map(ToString::to_string).collect(), vec![]));
        };
        let (lost, waits) = (("Degraded", "NodeLost"), ("Progressing", "RollAwaitsApproval"));
        state(Finding::MembersDown, &[("Progressing", "MembersDown"), lost], &["MembersDown", "NodeLost"]);
        state(Finding::RollAwaitsApproval, &[waits], &["RollAwaitsApproval"]);
        let stalled = [("Progressing", "WaitingForPods"), ("Stalled", "DeadlineExceeded")];
        state(Finding::WaitingForPods, &stalled, &["Stalled"]);
        state(Finding::Reconciled, &[("Progressing", "Reconciled"), ("Degraded", "FullCapacity")], &[]);
        let step = Some(Step::RestartPod(Ordinal(1)));
        let rolling = Finding::Working(Work::RollingUpdate);
        let each = vec!["RollingUpdate".to_string()];
        assert_eq!(told(rolling, step, &[("Progressing", "RollingUpdate")]), (each.clone(), each));
    }
}
