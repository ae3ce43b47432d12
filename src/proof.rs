//! The steps that "never a wrong byte" and "a crash leaves only complete things" rest on, each of which a test build can
//! leave out: `LARDER_WITHOUT=sync_record cargo test` must fail, or the tests prove nothing (`tests/without.sh` tries
//! every one). An optimised build leaves out none, whatever is set.

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is explained by its name, and at the one place that asks for it")]
pub enum Step {
    SyncModule,
    SyncModuleFolder,
    SyncNewFolder,
    SyncRecord,
    SyncRecordFolder,
    SyncRemoval,
    VerifyManifest,
    VerifyLayer,
    VerifyReadBack,
    VerifyLoad,
    VerifyPiece,
    VerifySpilled,
    VerifyRecord,
    VerifySignature,
}

/// All of them with the names that `LARDER_WITHOUT` knows.
pub const STEPS: [(Step, &str); 14] = [
    (Step::SyncModule, "sync_module"),
    (Step::SyncModuleFolder, "sync_module_folder"),
    (Step::SyncNewFolder, "sync_new_folder"),
    (Step::SyncRecord, "sync_record"),
    (Step::SyncRecordFolder, "sync_record_folder"),
    (Step::SyncRemoval, "sync_removal"),
    (Step::VerifyManifest, "verify_manifest"),
    (Step::VerifyLayer, "verify_layer"),
    (Step::VerifyReadBack, "verify_read_back"),
    (Step::VerifyLoad, "verify_load"),
    (Step::VerifyPiece, "verify_piece"),
    (Step::VerifySpilled, "verify_spilled"),
    (Step::VerifyRecord, "verify_record"),
    (Step::VerifySignature, "verify_signature"),
];

/// True when this build takes the step.
pub fn takes(step: Step) -> bool {
    if !cfg!(debug_assertions) {
        return true;
    }
    let left_out = option_env!("LARDER_WITHOUT").unwrap_or_default();
    STEPS.iter().all(|(other, name)| *other != step || *name != left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own() {
        for (at, (step, name)) in STEPS.iter().enumerate() {
            assert!(STEPS[..at].iter().all(|(other, word)| other != step && word != name), "{name}");
        }
    }
}
