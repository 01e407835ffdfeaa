//! Telling whether an object in the API server is what was built, without writing it.

use serde_json::Value;

use crate::quantity;

/// 64 bits of FNV-1a over the JSON text, in hexadecimal. Maps of this crate are sorted, so equal objects give equal text.
pub(super) fn of(body: &Value) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in body.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// Lists that an apply merges by key, as the API server's schema says of them (`x-kubernetes-list-map-keys`): the field that holds the
/// list, and what tells its elements apart. All other lists are atomic: who applies one replaces it.
const MERGED_LISTS: [(&str, &[&str]); 10] = [
    ("containers", &["name"]),
    ("env", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("ownerReferences", &["uid"]),
    ("ports", &["containerPort", "protocol"]),
    ("ports", &["port", "protocol"]),
    ("claims", &["name"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// The first value of `wanted` that is not in `live`: where it is, and what it should be. None if all are there.
///
/// What only others want is no difference. The API server adds defaults to objects; another manager, or an admission webhook, adds
/// fields and elements of merged lists, which survive every apply. What this program added earlier and does not want any more shows in
/// the fingerprint that it leaves on the object.
pub(super) fn difference(live: &Value, wanted: &Value) -> Option<String> {
    differs_at("", None, live, wanted)
}

/// `field` is the name of the nearest field above.
fn differs_at(path: &str, field: Option<&str>, live: &Value, wanted: &Value) -> Option<String> {
    let differs = || Some(format!("{} should be {wanted}", path.trim_start_matches('.')));
    match (live, wanted) {
        (_, Value::Null) => None,
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match live.get(key) {
                Some(live) => differs_at(&path, Some(key), live, value),
                None if is_empty(value) => None,
                None => Some(format!("{} should be {value}", path.trim_start_matches('.'))),
            }
        }),
        (Value::Array(live), Value::Array(wanted)) => match field.and_then(|field| merge_keys(field, wanted)) {
            Some(keys) => wanted.iter().find_map(|wanted| {
                let path = format!("{path}[{}]", named(keys, wanted));
                let same = |live: &&Value| keys.iter().all(|key| live[*key] == wanted[*key]);
                match live.iter().find(same) {
                    Some(live) => differs_at(&path, None, live, wanted),
                    None => Some(format!("{} should be there", path.trim_start_matches('.'))),
                }
            }),
            None if live.len() != wanted.len() => differs(),
            None => (0..).zip(live.iter().zip(wanted)).find_map(|(position, (live, wanted)): (usize, _)| {
                differs_at(&format!("{path}[{position}]"), None, live, wanted)
            }),
        },
        (Value::String(live), Value::String(wanted)) if quantity::is_same(live, wanted) => None,
        (live, wanted) if live == wanted => None,
        _ => differs(),
    }
}

/// By which keys the list in `field` is merged: those that every element has. None for an atomic list.
fn merge_keys(field: &str, elements: &[Value]) -> Option<&'static [&'static str]> {
    let has = |keys: &[&str]| elements.iter().all(|element| keys.iter().all(|key| element.get(key).is_some()));
    MERGED_LISTS.iter().find(|(name, keys)| *name == field && has(keys)).map(|(_, keys)| *keys)
}

fn named(keys: &[&str], element: &Value) -> String {
    let values = keys.iter().map(|key| match &element[*key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    values.collect::<Vec<_>>().join("/")
}

/// The API server leaves empty maps and lists out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::difference;

    #[track_caller]
    fn check(live: Value, wanted: Value, expected: Option<&str>) {
        assert_eq!(difference(&live, &wanted).as_deref(), expected);
    }

    #[test]
    fn defaults_of_the_api_server_are_no_difference() {
        check(json!({ "a": 1, "b": { "c": 2 } }), json!({ "b": { "c": 2, "d": {} }, "e": null }), None);
        check(json!([{ "name": "x", "protocol": "TCP" }]), json!([{ "name": "x" }]), None);
        check(json!({ "storage": "1024Mi" }), json!({ "storage": "1Gi" }), None);
    }

    #[test]
    fn other_values_and_other_lengths_are_differences() {
        check(json!({ "a": { "b": 1 } }), json!({ "a": { "b": 2 } }), Some("a.b should be 2"));
        check(json!({}), json!({ "a": 2 }), Some("a should be 2"));
        check(json!({ "args": [1, 2] }), json!({ "args": [1] }), Some("args should be [1]"));
        check(json!({ "args": [1, 2] }), json!({ "args": [1, 3] }), Some("args[1] should be 3"));
    }

    #[test]
    fn elements_that_somebody_added_to_a_merged_list_are_no_difference() {
        let env = |names: &[&str]| {
            let env: Vec<_> = names.iter().map(|name| json!({ "name": name, "value": "1" })).collect();
            json!({ "containers": [{ "name": "quorate", "env": env }] })
        };
        check(env(&["THEIRS", "OURS"]), env(&["OURS"]), None);
        check(env(&["THEIRS"]), env(&["OURS"]), Some("containers[quorate].env[OURS] should be there"));
        let mut changed = env(&["OURS", "THEIRS"]);
        changed["containers"][0]["env"][0]["value"] = json!("2");
        check(changed, env(&["OURS"]), Some("containers[quorate].env[OURS].value should be \"1\""));
        let service = |ports: &[u16]| json!({ "ports": ports.iter().map(|port| json!({ "port": port, "protocol": "TCP" })).collect::<Vec<_>>() });
        check(service(&[80, 2379]), service(&[2379]), None);
        check(service(&[80]), service(&[2379]), Some("ports[2379/TCP] should be there"));
    }

    #[test]
    fn atomic_lists_are_compared_as_a_whole() {
        let tolerations =
            |keys: &[&str]| json!({ "tolerations": keys.iter().map(|key| json!({ "key": key })).collect::<Vec<_>>() });
        assert!(difference(&tolerations(&["a", "b"]), &tolerations(&["a"])).is_some(), "an apply takes it away");
    }
}
