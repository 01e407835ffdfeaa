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

/// Whether every value of `wanted` is in `live`. The API server adds defaults to objects; to lists it adds nothing, so they are
/// compared in order and length.
pub(super) fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (_, Value::Null) => true,
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| live.get(key).map_or(is_empty(value), |live| contains(live, value)))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| contains(live, wanted))
        }
        (Value::String(live), Value::String(wanted)) => live == wanted || quantity::is_same(live, wanted),
        (live, wanted) => live == wanted,
    }
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
    use serde_json::json;

    use super::contains;

    #[test]
    fn defaults_of_the_api_server_are_no_difference() {
        assert!(contains(&json!({ "a": 1, "b": { "c": 2 } }), &json!({ "b": { "c": 2, "d": {} }, "e": null })));
        assert!(contains(&json!([{ "name": "x", "protocol": "TCP" }]), &json!([{ "name": "x" }])));
    }

    #[test]
    fn other_values_and_other_lengths_are_differences() {
        assert!(!contains(&json!({ "a": 1 }), &json!({ "a": 2 })));
        assert!(!contains(&json!({}), &json!({ "a": 2 })));
        assert!(!contains(&json!([1, 2]), &json!([1])));
    }
}
