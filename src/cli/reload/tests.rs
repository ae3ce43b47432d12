//! What is reloaded, in this process.
