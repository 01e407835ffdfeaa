//! What `ctl` prints: a table for people, JSON for programs.
//!
//! Ids are hexadecimal in both, and strings in JSON: a 64-bit number does not survive most JSON readers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::say::say;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    Text,
    /// One JSON document.
    Json,
}

impl Output {
    /// Prints `value`, or what `text` makes.
    pub(crate) fn print(self, value: &Value, text: impl FnOnce() -> String) {
        match self {
            Output::Json => say(value),
            Output::Text => {
                let text = text();
                if !text.is_empty() {
                    say(text);
                }
            }
        }
    }
}

/// Columns wide enough for their longest cell, two spaces apart.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// A node id as printed everywhere; 0 stands for none.
pub(crate) fn node_id(id: u64) -> String {
    if id == 0 { String::from("-") } else { format!("{id:x}") }
}

/// A node id in JSON: null for none.
pub(crate) fn json_node_id(id: u64) -> Value {
    if id == 0 { Value::Null } else { json!(format!("{id:x}")) }
}

/// Sixteen bytes as hexadecimal digits; empty if there are none.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts bytes under `name`, or under `name_b64` if they are not UTF-8.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_string(), json!(text)),
        Err(_) => object.insert(format!("{name}_b64"), json!(STANDARD.encode(bytes))),
    };
}

#[cfg(test)]
mod tests {
    use super::{Map, json, put_bytes, table};

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = vec![vec!["n1".to_string(), "voter".to_string()], vec!["long name".to_string(), String::new()]];
        assert_eq!(table(&["NAME", "ROLE"], &rows), "NAME       ROLE\nn1         voter\nlong name");
    }

    #[test]
    fn bytes_that_are_not_text_are_base64_under_another_name() {
        let mut object = Map::new();
        put_bytes(&mut object, "key", b"a");
        put_bytes(&mut object, "value", &[0xff]);
        assert_eq!(serde_json::Value::Object(object), json!({"key": "a", "value_b64": "/w=="}));
    }
}
