//! What the policy lets through.
