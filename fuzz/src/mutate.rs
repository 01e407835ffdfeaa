//! Inputs made of others: bytes changed, cut, doubled, mixed, and, where the input is a protobuf message, fields changed,
//! doubled, dropped or nested with their lengths kept right, which a change of bytes nearly never achieves.
//!
//! Never knows what an input means.

use crate::random::Random;

/// Numbers that parsers get wrong.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, 1 << 63, u64::MAX];
/// A field within a field, this deep.
const MOST_DEPTH: usize = 4;

/// See the module documentation.
pub(crate) struct Mutator<'a> {
    random: &'a mut Random,
    most_bytes: usize,
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
    pub(crate) fn new(random: &'a mut Random, most_bytes: usize) -> Self {
        Mutator { random, most_bytes }
    }

    /// A new input from those in `kept`.
    pub(crate) fn mutate(&mut self, kept: &[Vec<u8>]) -> Vec<u8> {
        if kept.is_empty() {
            return self.random.bytes(64);
        }
        let mut input = kept[self.random.below(kept.len())].clone();
        for _ in 0..=self.random.below(4) {
            let other = &kept[self.random.below(kept.len())];
            input =
                if self.random.once_in(2) { self.change_fields(&input, other, 0) } else { self.change(input, other) };
        }
        input.truncate(self.most_bytes);
        input
    }

    fn change(&mut self, mut input: Vec<u8>, other: &[u8]) -> Vec<u8> {
        let at = self.random.below(input.len() + 1);
        let rest = input.len() - at;
        match self.random.below(7) {
            0 if rest > 0 => input[at] ^= 1 << self.random.below(8),
            1 if rest > 0 => input[at] = self.random.byte(),
            2 => input.truncate(at),
            3 => {
                let gone = self.random.below(rest + 1);
                input.drain(at..at + gone);
            }
            4 => {
                let doubled = input[at..at + self.random.below(rest + 1)].to_vec();
                input.splice(at..at, doubled);
            }
            5 => {
                let from = self.random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let edge = EDGES[self.random.below(EDGES.len())].to_le_bytes();
                let width = 1 << self.random.below(4);
                let end = (at + width).min(input.len());
                input.splice(at..end, edge[..width].iter().copied());
            }
        }
        input
    }

    fn change_fields(&mut self, input: &[u8], other: &[u8], depth: usize) -> Vec<u8> {
        let Some(mut fields) = parse(input).filter(|fields| !fields.is_empty()) else {
            return self.change(input.to_vec(), other);
        };
        let at = self.random.below(fields.len());
        match self.random.below(6) {
            0 => {
                fields.remove(at);
            }
            1 => {
                let field = fields[at].clone();
                fields.insert(self.random.below(fields.len() + 1), field);
            }
            2 => fields[at].number = 1 + self.random.below(20) as u64,
            3 => {
                if let Some(theirs) = parse(other).filter(|theirs| !theirs.is_empty()) {
                    fields.insert(at, theirs[self.random.below(theirs.len())].clone());
                }
            }
            4 if depth < MOST_DEPTH => {
                // The whole message as a field of itself: nesting.
                let whole = Field { number: fields[at].number, value: Value::Bytes(input.to_vec()) };
                fields.push(whole);
            }
            _ => self.change_value(&mut fields[at].value, other, depth),
        }
        encode(&fields)
    }

    fn change_value(&mut self, value: &mut Value, other: &[u8], depth: usize) {
        match value {
            Value::Varint(number) => {
                *number = if self.random.once_in(2) {
                    EDGES[self.random.below(EDGES.len())]
                } else {
                    number.wrapping_add(self.random.next() % 5).wrapping_sub(2)
                };
            }
            Value::Bytes(bytes) if depth < MOST_DEPTH => *bytes = self.change_fields(bytes, other, depth + 1),
            Value::Bytes(bytes) => *bytes = self.change(std::mem::take(bytes), other),
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
    fn a_seed_makes_the_same_inputs_and_none_is_too_long() {
        let kept = vec![vec![0x0a, 0x01, b'k', 0x12, 0x01, b'v'], vec![0xff; 100]];
        let make = |seed| {
            let mut random = Random::new(seed);
            (0..500).map(|_| Mutator::new(&mut random, 128).mutate(&kept)).collect::<Vec<_>>()
        };
        assert_eq!(make(3), make(3));
        assert_ne!(make(3), make(4));
        assert!(make(5).iter().all(|input| input.len() <= 128));
    }
}
