//! Messages as JSON, spelled as etcd spells them: names as in the .proto files, 64-bit numbers as texts, bytes as base64,
//! fields without a value left out; unknown fields are read over.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions};
use serde_json::{Deserializer, Serializer, json};
use tonic::Status;

/// The messages of a request's body: one, or as many as there are where the method takes a stream. No body is an empty
/// message.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn decode(method: &MethodDescriptor, body: &[u8]) -> Result<Vec<Bytes>, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut reader = Deserializer::from_slice(body);
    let mut messages = Vec::new();
    while reader.end().is_err() && (messages.is_empty() || method.is_client_streaming()) {
        let message = DynamicMessage::deserialize_with_options(method.input(), &mut reader, &options);
        messages.push(Bytes::from(message.map_err(in_words)?.encode_to_vec()));
    }
    if messages.is_empty() && !method.is_client_streaming() {
        messages.push(Bytes::new());
    }
    Ok(messages)
}

fn in_words(error: serde_json::Error) -> String {
    if error.is_eof() { "unexpected EOF".to_owned() } else { error.to_string() }
}

/// One message of an answer.
///
/// # Errors
/// The service gave what is no such message, which is a bug.
pub(super) fn encode(descriptor: MessageDescriptor, message: Bytes) -> Result<String, Status> {
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(true)
        .use_enum_numbers(false)
        .use_proto_field_name(true)
        .skip_default_fields(true);
    let internal = |problem: String| Status::internal(format!("an answer has no JSON: {problem}"));
    let message = DynamicMessage::decode(descriptor, message).map_err(|error| internal(error.to_string()))?;
    let mut text = Vec::new();
    let written = message.serialize_with_options(&mut Serializer::new(&mut text), &options);
    written.map_err(|error| internal(error.to_string()))?;
    String::from_utf8(text).map_err(|error| internal(error.to_string()))
}

/// A refusal.
pub(super) fn status(status: &Status) -> String {
    json!({"code": i32::from(status.code()), "message": status.message()}).to_string()
}
