//! The replica, driven through its one door: three nodes in one thread, with time, wires and disks in the test's hand.

mod admission;
mod cluster;
mod leases;
mod lifecycle;
mod membership;
mod reads;
mod standing;
mod watches;
mod writes;
