//! Where one gRPC message of a body ends and the next begins.
//!
//! Never keeps a byte of a message.

/// Before each message: a byte of flags, and the length in four.
const HEAD_BYTES: usize = 5;

/// What has come of a sequence of messages.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    head: [u8; HEAD_BYTES],
    /// Bytes of the message that is arriving, its head included.
    seen: usize,
    whole: u64,
}

impl Framing {
    /// More has come.
    pub(crate) fn take(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let wanted = HEAD_BYTES + self.length().unwrap_or(0);
            let (part, rest) = data.split_at(data.len().min(wanted - self.seen));
            let unfilled = &mut self.head[self.seen.min(HEAD_BYTES)..];
            unfilled.iter_mut().zip(part).for_each(|(place, byte)| *place = *byte);
            self.seen += part.len();
            if self.length().is_some_and(|length| self.seen == HEAD_BYTES + length) {
                self.seen = 0;
                self.whole += 1;
            }
            data = rest;
        }
    }

    /// Messages of which all has come.
    pub(crate) fn whole(&self) -> u64 {
        self.whole
    }

    /// Bytes of a message of which more has to come.
    pub(crate) fn unfinished(&self) -> usize {
        self.seen
    }

    /// How long the message that is arriving says it is, once it has said so.
    pub(crate) fn length(&self) -> Option<usize> {
        let [_, length @ ..] = self.head;
        (self.seen >= HEAD_BYTES).then(|| u32::from_be_bytes(length) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        // Of no byte, of three, and the beginning of one of 258.
        let body = [0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 9, 9, 9, 0, 0, 0, 1, 2, 7, 7];
        for first in 0..=body.len() {
            for second in first..=body.len() {
                let mut framing = Framing::default();
                for part in [&body[..first], &body[first..second], &body[second..]] {
                    framing.take(part);
                }
                assert_eq!((framing.whole(), framing.unfinished(), framing.length()), (2, 7, Some(258)));
            }
        }
    }

    #[test]
    fn what_is_unfinished_is_told_byte_by_byte() {
        let mut framing = Framing::default();
        let told: Vec<_> = [0, 0, 0, 0, 2, 7, 7, 0]
            .map(|byte| {
                framing.take(&[byte]);
                (framing.whole(), framing.unfinished())
            })
            .into();
        assert_eq!(told, [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (1, 0), (1, 1)]);
    }
}
