//! A disk that does not answer: whoever waits for it gets what is in memory, and it is tried by nobody who is waited for.

use super::Disk;
use crate::record::Module;
use crate::store::entry::ModuleFile;
use crate::store::error::StoreError;
use std::time::Duration;

/// How long an answer waits for the disk to make it last. Less than a request waits for a fetch (`fill.hold`, 12 s), and more
/// than a disk needs that is merely busy.
pub const PATIENCE: Duration = Duration::from_secs(10);

impl Disk {
    /// Notes that it does not answer.
    pub fn stalls(&self) -> StoreError {
        let error = StoreError::Stalled { path: self.layout.root().into(), waited: PATIENCE };
        self.health.failed(&error, 0);
        error
    }

    /// Holds a module in memory whose `file` the disk has not made to last yet. It may still do so. Blocks.
    ///
    /// # Errors
    /// There is no room for it, or its bytes are not what was written.
    pub fn hold_meanwhile(&self, file: &ModuleFile, module: &Module) -> Result<(), StoreError> {
        let taken = self.take_room(module.size).ok_or(StoreError::NoRoom { bytes: module.size })?;
        let bytes = file.read().map_err(|e| StoreError::io("reading", file.path(), e))?;
        self.hold(bytes, taken, module)
    }

    /// Waits for a disk that did not answer. False when it answers with an error. Blocks for as long as it takes.
    pub(super) fn answers_again(&self) -> bool {
        if !self.health.is_stalled() {
            return true;
        }
        match self.probe(0) {
            Ok(_) => self.health.answers(),
            Err(error) => self.health.failed(&error, 0),
        }
        self.health.is_well() || self.health.may_try()
    }
}
