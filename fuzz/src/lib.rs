//! Fuzz targets for the parsers that strangers reach: hostile bytes must be refused, never end the process.
//!
//! Owns the targets (`targets`, `calls`), what sound input for each looks like, and changes of protobuf messages that keep
//! them messages (`mutate`). libFuzzer chooses and keeps inputs, in the program beside this library; `cargo xtask fuzz`
//! builds it with coverage and says what came of it. A finding is a panic on any thread, a round trip that changes
//! something, an input that takes too long, or one that takes too much memory.

mod calls;
mod mutate;
mod node;
mod random;
mod targets;

pub use mutate::Mutator;
pub use random::Random;
pub use targets::{TARGETS, Target};

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn read_corpus(folder: &Path) -> Vec<Vec<u8>> {
        let files = std::fs::read_dir(folder).expect("each target has a corpus");
        let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a file of the corpus").path()).collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).expect("a file of the corpus can be read")).collect()
    }

    #[test]
    fn every_input_of_the_corpus_and_every_sample_passes() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for target in TARGETS {
            let inputs = read_corpus(&corpus.join(target.name));
            assert!(!inputs.is_empty(), "{} has no corpus", target.name);
            for input in inputs.iter().chain(&(target.samples)(&mut Random::new(7))) {
                (target.run)(input);
            }
        }
        node::end();
    }
}
