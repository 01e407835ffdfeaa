//! Numbers from a seed, and how many seeds a crash test tries.

use quorate_store::testing::Choices;

/// `usual` seeds, or as many as the environment asks for: `STORE_CRASH_SEEDS=5000 cargo test --release -p quorate-store`.
pub(crate) fn seeds(usual: u64) -> u64 {
    std::env::var("STORE_CRASH_SEEDS").map_or(usual, |seeds| seeds.parse().expect("STORE_CRASH_SEEDS is a number"))
}

/// The same seed rolls the same numbers (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

impl Choices for Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}
