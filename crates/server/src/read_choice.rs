//! How a client says how fresh its read must be, whatever protocol it says it in.
//!
//! Owns the words and the rules that make several of them a contradiction. A choice that contradicts itself is refused:
//! guessing which half was meant would serve some client a staler read than it asked for.

use std::time::Duration;

use quorate_node::{Consistency, OnStale, ReadOptions};

/// What was said. Everything may be left unsaid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ReadChoice {
    /// The mode by its name.
    pub consistency: Option<Consistency>,
    /// etcd's field of that name: the contacted member alone answers.
    pub serializable: bool,
    /// Bound of a stale read.
    pub max_staleness: Option<Duration>,
    /// What happens past the bound.
    pub on_stale: Option<OnStale>,
    /// Smallest revision the answer may be made at.
    pub min_revision: Option<i64>,
}

/// A choice that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadChoice {
    /// A word or a number that is none of the known ones.
    #[error("{name}: `{value}` is not {expected}")]
    Unknown {
        /// The parameter or metadata key.
        name: &'static str,
        /// What was sent.
        value: String,
        /// What could have been sent.
        expected: &'static str,
    },
    /// The same thing said twice.
    #[error("{name} is given more than once")]
    Twice {
        /// The parameter or metadata key.
        name: &'static str,
    },
    /// Two modes at once.
    #[error("{first} and {second} contradict each other: choose one")]
    TwoModes {
        /// One of them.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A bound with a mode that is never stale.
    #[error("{name} bounds a stale read, and this read is {mode}: ask for `stale`, or leave the bound out")]
    BoundWithoutStale {
        /// The parameter that makes no sense.
        name: &'static str,
        /// The mode in force.
        mode: &'static str,
    },
}

/// The name of a mode, in both directions of both protocols.
pub(crate) fn mode_name(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Default => "default",
        Consistency::Consistent => "consistent",
        Consistency::Stale => "stale",
    }
}

/// The mode called `value`; `name` is the parameter it came in.
///
/// # Errors
/// [`BadChoice::Unknown`].
pub(crate) fn parse_mode(name: &'static str, value: &str) -> Result<Consistency, BadChoice> {
    match value {
        "default" => Ok(Consistency::Default),
        "consistent" => Ok(Consistency::Consistent),
        "stale" => Ok(Consistency::Stale),
        _ => Err(BadChoice::Unknown { name, value: value.to_string(), expected: "default, consistent or stale" }),
    }
}

/// The answer to a broken bound called `value`; `name` is the parameter it came in.
///
/// # Errors
/// [`BadChoice::Unknown`].
pub(crate) fn parse_on_stale(name: &'static str, value: &str) -> Result<OnStale, BadChoice> {
    match value {
        "refuse" => Ok(OnStale::Refuse),
        "wait" => Ok(OnStale::Wait),
        "forward" => Ok(OnStale::Forward),
        _ => Err(BadChoice::Unknown { name, value: value.to_string(), expected: "refuse, wait or forward" }),
    }
}

/// A revision that is not negative; `name` is the parameter it came in.
///
/// # Errors
/// [`BadChoice::Unknown`].
pub(crate) fn parse_revision(name: &'static str, value: &str) -> Result<i64, BadChoice> {
    value.parse().ok().filter(|revision| *revision >= 0).ok_or_else(|| BadChoice::Unknown {
        name,
        value: value.to_string(),
        expected: "a revision: a number from 0 on",
    })
}

impl ReadChoice {
    /// The options that say the same, with `unsaid` as the mode of a client that names none.
    ///
    /// # Errors
    /// [`BadChoice`] if two parts contradict each other.
    pub(crate) fn options(self, unsaid: Consistency) -> Result<ReadOptions, BadChoice> {
        let consistency = match (self.consistency, self.serializable) {
            (Some(Consistency::Default), true) => {
                return Err(BadChoice::TwoModes { first: "serializable", second: "default" });
            }
            (Some(Consistency::Consistent), true) => {
                return Err(BadChoice::TwoModes { first: "serializable", second: "consistent" });
            }
            (Some(said), _) => said,
            (None, true) => Consistency::Stale,
            (None, false) => unsaid,
        };
        if consistency != Consistency::Stale {
            let mode = mode_name(consistency);
            if self.max_staleness.is_some() {
                return Err(BadChoice::BoundWithoutStale { name: "max staleness", mode });
            }
            if self.on_stale.is_some() {
                return Err(BadChoice::BoundWithoutStale { name: "on stale", mode });
            }
        }
        Ok(ReadOptions {
            consistency,
            max_staleness: self.max_staleness,
            on_stale: self.on_stale.unwrap_or_default(),
            min_revision: self.min_revision,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Option<Consistency> = Some(Consistency::Stale);

    #[track_caller]
    fn check(choice: ReadChoice, expected: Option<Consistency>) {
        let options = choice.options(Consistency::Consistent);
        assert_eq!(options.as_ref().ok().map(|options| options.consistency), expected, "{options:?}");
    }

    #[test]
    fn what_is_unsaid_depends_on_serializable() {
        check(ReadChoice::default(), Some(Consistency::Consistent));
        check(ReadChoice { serializable: true, ..Default::default() }, STALE);
        check(ReadChoice { serializable: true, consistency: STALE, ..Default::default() }, STALE);
        check(ReadChoice { consistency: Some(Consistency::Default), ..Default::default() }, Some(Consistency::Default));
    }

    #[test]
    fn contradictions_are_refused() {
        for consistency in [Consistency::Default, Consistency::Consistent] {
            check(ReadChoice { serializable: true, consistency: Some(consistency), ..Default::default() }, None);
            let bounded = ReadChoice { max_staleness: Some(Duration::ZERO), ..Default::default() };
            check(ReadChoice { consistency: Some(consistency), ..bounded }, None);
            let handled = ReadChoice { on_stale: Some(OnStale::Wait), ..Default::default() };
            check(ReadChoice { consistency: Some(consistency), ..handled }, None);
        }
        check(ReadChoice { max_staleness: Some(Duration::ZERO), ..Default::default() }, None);
        check(ReadChoice { max_staleness: Some(Duration::ZERO), serializable: true, ..Default::default() }, STALE);
        check(ReadChoice { min_revision: Some(7), ..Default::default() }, Some(Consistency::Consistent));
    }

    #[test]
    fn words_and_numbers_are_exact() {
        assert!(parse_mode("consistency", "Stale").is_err());
        assert!(parse_on_stale("on_stale", "").is_err());
        assert!(parse_revision("min_revision", "-1").is_err());
        assert_eq!(parse_revision("min_revision", "0"), Ok(0));
    }
}
