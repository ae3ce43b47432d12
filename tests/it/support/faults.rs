//! How long the tests of faults are: short in `make test`, long in `make faults`.

/// True in the long form.
pub fn is_long() -> bool {
    std::env::var("LARDER_FAULTS").is_ok_and(|form| form == "long")
}
