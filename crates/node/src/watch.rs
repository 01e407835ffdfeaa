//! Watches: which client is told of which change, in which order, and what happens to one that cannot keep up.
//!
//! Owns [`Hub`], all watches of one node. They are one node's matter: nothing of them is replicated. The hub is a value
//! like the rest of this crate: it is told what was applied and what was read back, and puts answers into [`Outlet`]s.
//! Whoever drives it owns the threads, the store and the sockets.
//!
//! How it works: watches that ask for the same (keys, filters, form) are one group, and each change is encoded once for all
//! of them. A watch is *synced* (told of changes as they are published), *behind* (what it missed is read back from the
//! store) or *ahead* (it begins in the future). An outlet without room puts its watches behind instead of holding anybody
//! up or letting a queue grow.
//!
//! Invariants: what one watch is told rises in revision, no revision twice and none left out (else it is canceled with the
//! compact revision); all events of a revision are in one answer unless the client asked for fragments; no progress is told
//! before everything up to its revision was.

mod answer;
mod deliver;
mod groups;
mod hub;
mod pack;
mod ranges;
mod subject;
mod turns;

pub use answer::{Answer, Ended, Events, Outlet, Refusal};
pub use deliver::{Batch, Missed, Previous};
pub use hub::{Figures, Hub, StreamId, WatchLimits};
