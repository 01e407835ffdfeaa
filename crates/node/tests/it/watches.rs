//! Watches: the rules of etcd's API one by one, on the hub alone, with store, clock and connections in the test's hand.

mod bounds;
mod bugs;
mod rules;
mod slow;
mod world;
