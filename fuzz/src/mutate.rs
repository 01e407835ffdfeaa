//! Protobuf messages changed into others: a field changed, doubled, dropped, renumbered, nested or taken from elsewhere, with all
//! lengths kept right, which a change of bytes nearly never achieves.
//!
//! Never knows what a message means, nor how bytes are best changed: that is libFuzzer's.

use crate::random::Random;

/// Numbers that parsers get wrong.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, 1 << 63, u64::MAX];
/// A field within a field, this deep.
const MOST_DEPTH: usize = 4;
/// Fields get numbers up to this.
const MOST_NUMBER: usize = 20;

/// See the module documentation.
pub struct Mutator<'a> {
    random: &'a mut Random,
    change_bytes: &'a mut dyn FnMut(&mut Vec<u8>),
}

/// One field of a protobuf message.
#[derive(Clone)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Fixed32([u8; 4]),
}

impl<'a> Mutator<'a> {
    /// `change_bytes` is what changes a string or anything else that is no message.
    pub fn new(random: &'a mut Random, change_bytes: &'a mut dyn FnMut(&mut Vec<u8>)) -> Self {
        Mutator { random, change_bytes }
    }

    /// `input` with one field changed; nothing if there is no message in it.
    pub fn change(&mut self, input: &[u8]) -> Option<Vec<u8>> {
        let (head, mut fields) = self.find_message(input)?;
        self.change_fields(&mut fields, 0);
        Some([head, &encode(&fields)].concat())
    }

    /// `input` with a field of `other`; nothing if either has no message in it.
    pub fn cross(&mut self, input: &[u8], other: &[u8]) -> Option<Vec<u8>> {
        let (head, mut fields) = self.find_message(input)?;
        let (_, theirs) = self.find_message(other)?;
        let at = self.random.below(fields.len() + 1);
        fields.insert(at, theirs[self.random.below(theirs.len())].clone());
        Some([head, &encode(&fields)].concat())
    }

    /// The message, with at least one field, and what stands before it: many targets read a byte first.
    fn find_message<'b>(&mut self, input: &'b [u8]) -> Option<(&'b [u8], Vec<Field>)> {
        let first = self.random.below(2);
        [first, 1 - first].into_iter().find_map(|at| {
            let (head, message) = input.split_at_checked(at)?;
            let fields = parse(message).filter(|fields| !fields.is_empty())?;
            Some((head, fields))
        })
    }

    fn change_fields(&mut self, fields: &mut Vec<Field>, depth: usize) {
        let at = self.random.below(fields.len());
        match self.random.below(6) {
            0 => {
                fields.remove(at);
            }
            1 => {
                let field = fields[at].clone();
                fields.insert(self.random.below(fields.len() + 1), field);
            }
            2 => fields[at].number = 1 + self.random.below(MOST_NUMBER) as u64,
            3 => {
                // The whole message as a field of itself: nesting.
                let whole = Field { number: fields[at].number, value: Value::Bytes(encode(fields)) };
                fields.push(whole);
            }
            _ => self.change_value(&mut fields[at].value, depth),
        }
    }

    fn change_value(&mut self, value: &mut Value, depth: usize) {
        match value {
            Value::Varint(number) => {
                *number = if self.random.once_in(2) {
                    EDGES[self.random.below(EDGES.len())]
                } else {
                    number.wrapping_add(self.random.next() % 5).wrapping_sub(2)
                };
            }
            Value::Bytes(bytes) => match parse(bytes) {
                Some(mut fields) if !fields.is_empty() && depth < MOST_DEPTH => {
                    self.change_fields(&mut fields, depth + 1);
                    *bytes = encode(&fields);
                }
                _ => (self.change_bytes)(bytes),
            },
            Value::Fixed64(bytes) => bytes[self.random.below(8)] = self.random.byte(),
            Value::Fixed32(bytes) => bytes[self.random.below(4)] = self.random.byte(),
        }
    }
}

fn parse(mut input: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !input.is_empty() {
        let tag = take_varint(&mut input)?;
        let value = match tag & 7 {
            0 => Value::Varint(take_varint(&mut input)?),
            1 => Value::Fixed64(take(&mut input, 8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(take_varint(&mut input)?).ok()?;
                Value::Bytes(take(&mut input, length)?.to_vec())
            }
            5 => Value::Fixed32(take(&mut input, 4)?.try_into().ok()?),
            _ => return None,
        };
        fields.push(Field { number: tag >> 3, value });
    }
    Some(fields)
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(taken)
}

fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        let (wire_type, value): (u64, &[u8]) = match &field.value {
            Value::Varint(_) => (0, &[]),
            Value::Fixed64(bytes) => (1, bytes),
            Value::Bytes(bytes) => (2, bytes),
            Value::Fixed32(bytes) => (5, bytes),
        };
        put_varint(&mut out, field.number << 3 | wire_type);
        match &field.value {
            Value::Varint(number) => put_varint(&mut out, *number),
            Value::Bytes(bytes) => put_varint(&mut out, bytes.len() as u64),
            Value::Fixed64(_) | Value::Fixed32(_) => {}
        }
        out.extend_from_slice(value);
    }
    out
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_parsed_and_put_together_again() {
        let message = [0x08, 0x96, 0x01, 0x12, 0x03, b'a', b'b', b'c', 0x25, 1, 2, 3, 4, 0x31, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(encode(&parse(&message).expect("a message")), message);
        assert!(parse(&[0x12, 0x05, b'a']).is_none(), "a field longer than the message");
    }

    #[test]
    fn a_change_is_a_message_behind_the_same_byte_and_a_function_of_the_seed() {
        // No message begins at 0xff, one at the byte after it.
        let input = [0xff, 0x0a, 0x03, b'k', b'e', b'y', 0x12, 0x02, 0x08, 0x05];
        let other = [0x1a, 0x01, b'v'];
        let make = |seed| {
            let mut random = Random::new(seed);
            let mut double = |bytes: &mut Vec<u8>| bytes.extend_from_within(..);
            let mut mutator = Mutator::new(&mut random, &mut double);
            (0..200).flat_map(|_| [mutator.change(&input), mutator.cross(&input, &other)]).collect::<Vec<_>>()
        };
        assert_eq!(make(3), make(3));
        assert_ne!(make(3), make(4));
        for changed in make(5) {
            let changed = changed.expect("there is a message");
            assert_eq!(changed[0], 0xff);
            assert!(parse(&changed[1..]).is_some(), "{changed:02x?} is no message");
        }
    }

    #[test]
    fn what_is_no_message_is_left_alone() {
        let mut random = Random::new(1);
        let mut nothing = |_: &mut Vec<u8>| {};
        let mut mutator = Mutator::new(&mut random, &mut nothing);
        assert_eq!(mutator.change(&[]), None);
        assert_eq!(mutator.change(&[0xff, 0xff, 0xff]), None);
        assert_eq!(mutator.cross(&[0x08, 0x01], &[0xff]), None);
    }
}
