//! The generator behind an episode (splitmix64): a seed is a run.

/// See the module documentation.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`.
    ///
    /// # Panics
    /// If `bound` is not positive.
    pub(super) fn below(&mut self, bound: i64) -> i64 {
        assert!(bound > 0, "nothing is below {bound}");
        (self.next() >> 1) as i64 % bound
    }

    /// True in `percent` of a hundred draws.
    pub(super) fn chance(&mut self, percent: i64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`.
    pub(super) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let last = i64::try_from(choices.len()).expect("a short list");
        &choices[usize::try_from(self.below(last)).expect("an index")]
    }
}
