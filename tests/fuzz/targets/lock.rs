//! A lock file, in any of its three shapes.

#![cfg_attr(fuzzing, no_main)]

use larder::policy::lock::Lock;

/// A fault has a place in the file, and what is told of it fits a line.
pub fn check(bytes: &[u8]) {
    let Err(fault) = Lock::read(bytes) else { return };
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!((1..=lines).contains(&fault.line), "line {} of {lines}: {}", fault.line, fault.problem);
    assert!(!fault.problem.contains(char::is_control), "{:?}", fault.problem);
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
