//! Mutexes, as the standard library has them. Built with the feature `interleave` they are shuttle's, which tries the orders
//! in which threads may take them; only tests named `interleave` work then.

#[cfg(feature = "interleave")]
pub use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(feature = "interleave"))]
pub use std::sync::{Mutex, MutexGuard};
