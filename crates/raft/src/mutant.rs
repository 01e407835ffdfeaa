//! The switch of a known bug: a constant `false` unless this crate is built with its feature `mutants`, for the simulator.

/// Whether the mutant of this name is on for this thread.
macro_rules! mutant {
    ($name:ident) => {{
        #[cfg(feature = "mutants")]
        let on = quorate_mutants::is_on(quorate_mutants::Mutant::$name);
        #[cfg(not(feature = "mutants"))]
        let on = false;
        on
    }};
}
