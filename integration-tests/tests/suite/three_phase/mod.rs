//! Three-phase commit between real processes with real databases: who ends a transaction when
//! others are killed, cut off or lost.

mod blocking;
mod killed;
mod partitioned;
mod point;
mod shown;
mod watcher;
mod world;
