//! HTTP's own rules, as values in and values out: conditional requests, ranges, `Cache-Status`, problem documents, trace
//! contexts.
//!
//! Written here and not taken from the server's library because they are promises of the contract, tested clause by
//! clause, and must not change with it.

pub mod cache_status;
pub mod conditional;
pub mod problem;
pub mod range;
pub mod trace_context;
