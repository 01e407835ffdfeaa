//! The numbers of consensus, each in a type of its own, so that a term can never stand where an index belongs.
//!
//! Owns no logic beyond stepping a number up or down. Never reads a clock: [`Time`] is what the caller says it is.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        number! { $(#[$doc])* $name($inner) shown as "{}" }
    };
    ($(#[$doc:meta])* $name:ident($inner:ty) shown as $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// Wraps the bare number.
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// The bare number.
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The number after this one.
            ///
            /// # Panics
            /// If the number is the largest there is, which no run can reach.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("number space exhausted"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number! {
    /// A member of the cluster. Zero is never a node: "nobody" is `Option::None`. Shown in hexadecimal, as etcd's tools show
    /// member ids.
    NodeId(u64) shown as "{:x}"
}
number! {
    /// A leader's reign; rises with every election. Zero is before the first one.
    Term(u64)
}
number! {
    /// A place in the log. Zero is before the first entry.
    LogIndex(u64)
}
number! {
    /// Number of a write this node asked for, rising by one with each `Persist` and `InstallSnapshot`.
    WriteSeq(u64)
}
number! {
    /// Number of a leader's broadcast, rising within its term. Answers name the round they answer.
    Round(u64)
}
number! {
    /// The caller's name for a linearizable read.
    ReadId(u64)
}
number! {
    /// The caller's name for a proposal, a membership change or a transfer.
    RequestId(u64)
}
number! {
    /// The random name of an empty data directory: tells a disk from its replacement behind the same address.
    Incarnation(u128)
}
number! {
    /// Microseconds on this node's own monotonic clock. Two nodes' times say nothing about each other.
    Time(u64)
}

impl Incarnation {
    /// No data directory is known yet. Random names are never 0.
    pub const UNKNOWN: Incarnation = Incarnation(0);
}

impl LogIndex {
    /// The place before this one; that of zero is zero.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl Time {
    /// Later than every moment a run can reach: a deadline that is not set.
    pub const NEVER: Time = Time(u64::MAX);

    /// How long ago `earlier` was; zero if it was not.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The moment `span` before this one, not before the start of the clock.
    #[must_use]
    pub fn minus(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(micros(span)))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(micros(span)))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
