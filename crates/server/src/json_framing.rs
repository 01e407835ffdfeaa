//! Where one JSON value of a body ends and the next begins.
//!
//! Tells objects apart by their brackets, and judges nothing else of them: what is no object ends with its first byte, for
//! whoever decodes it to refuse.

/// What has come of a sequence of values.
#[derive(Debug, Default)]
pub(crate) struct JsonFraming {
    /// Brackets that are open.
    depth: usize,
    in_text: bool,
    escaped: bool,
    /// Bytes of the value that is arriving.
    seen: usize,
    whole: u64,
}

impl JsonFraming {
    /// More has come: how much of it there is up to the end of the value that is arriving, if it ends in it. What lies
    /// behind is to be given again.
    pub(crate) fn next_end(&mut self, data: &[u8]) -> Option<usize> {
        for (place, byte) in data.iter().enumerate() {
            if self.seen == 0 && byte.is_ascii_whitespace() {
                continue;
            }
            self.seen += 1;
            if self.ends_with(*byte) {
                self.seen = 0;
                self.whole += 1;
                return Some(place + 1);
            }
        }
        None
    }

    /// The same where nobody asks for the places.
    pub(crate) fn take(&mut self, mut data: &[u8]) {
        while let Some(end) = self.next_end(data) {
            data = &data[end..];
        }
    }

    /// Values of which all has come.
    pub(crate) fn whole(&self) -> u64 {
        self.whole
    }

    /// Bytes of a value of which more has to come.
    pub(crate) fn unfinished(&self) -> usize {
        self.seen
    }

    fn ends_with(&mut self, byte: u8) -> bool {
        if self.in_text {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_text = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b'"' if self.depth > 0 => self.in_text = true,
            _ => {}
        }
        self.depth == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_apart_however_they_are_cut() {
        let body = br#" {"a":"}\"{\\"}{"b":[{}]}
            {} {"c"#;
        let whole = [r#"{"a":"}\"{\\"}"#, r#"{"b":[{}]}"#, "{}"];
        for first in 0..=body.len() {
            for second in first..=body.len() {
                let (mut framing, mut value, mut told) = (JsonFraming::default(), Vec::new(), Vec::new());
                for mut part in [&body[..first], &body[first..second], &body[second..]] {
                    while let Some(end) = framing.next_end(part) {
                        value.extend_from_slice(&part[..end]);
                        told.push(String::from_utf8(std::mem::take(&mut value)).expect("text").trim().to_owned());
                        part = &part[end..];
                    }
                    value.extend_from_slice(part);
                }
                assert_eq!(told, whole, "cut at {first} and {second}");
                assert_eq!((framing.whole(), framing.unfinished()), (3, 3));
            }
        }
    }

    #[test]
    fn what_is_no_object_ends_at_once_and_space_is_no_value() {
        for (body, whole, unfinished) in [("no", 2, 0), ("\"{\"", 1, 2), ("}", 1, 0), (" \r\n\t", 0, 0), ("[{}", 0, 3)]
        {
            let mut framing = JsonFraming::default();
            framing.take(body.as_bytes());
            assert_eq!((framing.whole(), framing.unfinished()), (whole, unfinished), "{body}");
        }
    }
}
