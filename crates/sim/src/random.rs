//! Randomness of a simulation: one xoshiro256++ generator a purpose, all forked from the seed.
//!
//! Owns nothing but its state. Uses integer arithmetic alone, so a seed means the same run on every machine; floating
//! point logarithms differ between C libraries. Never reads a clock or the system's generator.

/// Chances are given in parts of this.
pub(crate) const MILLION: u32 = 1_000_000;

/// A deterministic generator (xoshiro256++ by Blackman and Vigna).
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: [u64; 4],
}

impl Random {
    /// A generator whose whole stream follows from `seed`.
    pub(crate) fn new(seed: u64) -> Random {
        let mut mix = seed;
        let mut next = || {
            // splitmix64, the seeding that xoshiro's authors recommend.
            mix = mix.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = mix;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Random { state: [next(), next(), next(), next()] }
    }

    /// An independent generator for one purpose, so that drawing more in one place moves nothing elsewhere.
    pub(crate) fn fork(&mut self, purpose: u64) -> Random {
        Random::new(self.next() ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// The next 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `0..bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "empty range {low}..={high}");
        low + self.below(high - low + 1)
    }

    /// True in `per_million` of a million draws.
    pub(crate) fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(u64::from(MILLION)) < u64::from(per_million)
    }

    /// A fair coin.
    pub(crate) fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// Roughly exponential with the given mean: the logarithm is the number of leading zeros plus a straight line
    /// between powers of two, which is all that a delay with a long tail needs.
    pub(crate) fn exponential(&mut self, mean: u64) -> u64 {
        let zeros = u64::from((self.next() | 1).leading_zeros());
        let fraction = self.below(1 << 16);
        // -log2(u) has mean 1 / ln 2, and this approximation of it 1.5.
        ((u128::from(mean) * u128::from((zeros << 16) + fraction)) / (3 << 15)) as u64
    }

    /// One of `items`, or none if there are none.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.below(items.len() as u64) as usize) }
    }

    /// A random order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_a_function_of_the_seed() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..8).map(|_| random.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn exponential_has_the_mean_asked_for() {
        let mut random = Random::new(1);
        let sum: u64 = (0..100_000).map(|_| random.exponential(1_000)).sum();
        let mean = sum / 100_000;
        assert!((950..1_050).contains(&mean), "mean is {mean}");
    }

    #[test]
    fn chance_keeps_its_rate() {
        let mut random = Random::new(2);
        let hits = (0..100_000).filter(|_| random.chance(100_000)).count();
        assert!((9_500..10_500).contains(&hits), "{hits} hits");
    }
}
