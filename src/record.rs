//! Records: what we know of a reference, as it is kept on disk.
//!
//! A record is small and mutable and it ages; a module is large and immutable and does not. On disk a record is one
//! line `larder-record 1 sha256:<digest of the rest>` and then JSON. The number is the format's version; the digest
//! makes a torn or edited file known before its content is believed.

use crate::clock::Timestamp;
use crate::oci::{Digest, Reference};
use crate::proof::{self, Step};
use crate::signature::Judged;
use serde::{Deserialize, Serialize};

const MAGIC: &str = "larder-record";
const VERSION: &str = "1";

/// What we know of one reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The reference.
    pub reference: Reference,
    /// When the registry last confirmed it; [`Timestamp::EPOCH`] if none ever did.
    pub checked_at: Timestamp,
    /// What the registry said.
    pub state: State,
}

/// What the registry said of a reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "nearly all are present, and a box would be one more for each")]
pub enum State {
    /// It resolves to a module that is kept.
    Present(Present),
    /// There is no such thing, or not for us.
    Absent(Absence),
}

/// Why a registry has nothing for a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absence {
    /// 404.
    NotFound,
    /// 401 or 403 after authentication; the public registry says so of what does not exist.
    Denied,
}

/// A reference's module and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// Digest of what the reference points to, a manifest or an index: its validator.
    pub manifest: Digest,
    /// Digest of the layer that the module was taken from.
    pub layer: Digest,
    /// The layer's media type, as written.
    pub layer_media_type: String,
    /// The module.
    pub module: Module,
    /// Since when the reference has pointed to this module, as far as we saw.
    pub since: Timestamp,
    /// When the reference was first fetched; unknown of those that an older larder wrote down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Timestamp>,
    /// Who signed the manifest, where the policy asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signatures: Option<Box<Judged>>,
}

/// Facts of a module, found when it was admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// SHA-256 of the wasm bytes: its name in the store and its entity tag.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// MD5 of the wasm bytes, 32 hexadecimal digits. The present plugin server publishes it; it proves nothing.
    pub md5: String,
    /// The Proxy-Wasm ABI version that the module exports, such as `0.2.1`.
    pub abi: Option<String>,
}

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No header line of ours.
    #[error("the file does not begin with '{MAGIC}'")]
    Magic,
    /// Written by another version of larder.
    #[error("the record has format {0}; this larder reads format {VERSION}")]
    Version(String),
    /// The content does not match its digest.
    #[error("the record's content does not match its digest")]
    Checksum,
    /// The content matches and is no record all the same.
    #[error("the record's content is malformed: {0}")]
    Malformed(String),
}

impl Record {
    /// The module, where there is one.
    pub fn present(&self) -> Option<&Present> {
        match &self.state {
            State::Present(present) => Some(present),
            State::Absent(_) => None,
        }
    }

    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        let body = serde_json::to_vec_pretty(self)
            .unwrap_or_else(|_| unreachable!("a record has only plain fields"));
        let mut out = format!("{MAGIC} {VERSION} {}\n", Digest::of(&body)).into_bytes();
        out.extend_from_slice(&body);
        out
    }

    /// Reads what [`Record::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let end = bytes.iter().take(256).position(|b| *b == b'\n').ok_or(RecordError::Magic)?;
        let header = std::str::from_utf8(&bytes[..end]).map_err(|_| RecordError::Magic)?;
        let mut words = header.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(RecordError::Magic);
        }
        let version = words.next().unwrap_or_default();
        if version != VERSION {
            return Err(RecordError::Version(version.into()));
        }
        let body = &bytes[end + 1..];
        let is_right = words.next().and_then(|w| w.parse().ok()) == Some(Digest::of(body));
        if proof::takes(Step::VerifyRecord) && !is_right {
            return Err(RecordError::Checksum);
        }
        serde_json::from_slice(body).map_err(|e| RecordError::Malformed(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{Case, Evidence, Form, Found, Keys, Octets, Subject};

    /// Most bytes of a record that a start reads.
    const MOST: usize = 64 << 10;

    fn record() -> Record {
        let digest = Digest::of(b"x");
        Record {
            reference: "h.example/p/a:1".parse().unwrap(),
            checked_at: Timestamp::from_millis(1_700_000_000_000),
            state: State::Present(Present {
                manifest: digest,
                layer: digest,
                layer_media_type: "application/wasm".into(),
                module: Module {
                    digest,
                    size: 1,
                    md5: "9dd4e461268c8034f5c8564e155c67a6".into(),
                    abi: Some("0.2.1".into()),
                },
                since: Timestamp::from_millis(1_600_000_000_000),
                first: None,
                signatures: None,
            }),
        }
    }

    /// Other versions of larder read these bytes: when this fails, raise the format's version instead of the bytes.
    #[test]
    fn the_bytes_on_disk_are_these() {
        let golden = concat!(
            "larder-record 1 sha256:403a860a8865d9e8179f79521cd0ea82c6eef6ac538802f2aea01bf62e387e2c\n",
            "{\n  \"reference\": \"h.example/p/a:1\",\n  \"checked_at\": 1700000000000,\n  \"state\": {\n    \"present\": {\n",
            "      \"manifest\": \"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881\",\n",
            "      \"layer\": \"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881\",\n",
            "      \"layer_media_type\": \"application/wasm\",\n      \"module\": {\n",
            "        \"digest\": \"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881\",\n",
            "        \"size\": 1,\n        \"md5\": \"9dd4e461268c8034f5c8564e155c67a6\",\n        \"abi\": \"0.2.1\"\n      },\n",
            "      \"since\": 1600000000000\n    }\n  }\n}"
        );
        assert_eq!(String::from_utf8(record().encode()).unwrap(), golden);
        assert_eq!(Record::decode(golden.as_bytes()), Ok(record()));
    }

    #[test]
    fn when_a_reference_was_first_fetched_is_kept() {
        let mut record = record();
        let State::Present(present) = &mut record.state else { panic!() };
        present.first = Some(Timestamp::from_millis(1_500_000_000_000));
        assert!(String::from_utf8(record.encode()).unwrap().contains("\"first\": 1500000000000"));
        assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    /// Whoever may push writes the annotations, and what is a byte there may be six here.
    #[test]
    fn no_signature_makes_a_record_larger_than_a_start_reads() {
        let with = |payload: usize, signature: &str| {
            let subject = |n: u8| Subject { digest: Digest::of(&[n]), manifest: Octets(vec![n; 600].into()) };
            let evidence = |n: u8| Evidence {
                digest: Digest::of(&[n]),
                form: Form::Payload,
                found: Found::Payload {
                    payload: Octets(vec![n; payload].into()),
                    signature: signature.into(),
                    is_certified: true,
                },
            };
            let case =
                Case { subjects: (0..4).map(subject).collect(), evidence: (0..16).map(evidence).collect() };
            let judged = Judged::new(case, &Keys::default(), Timestamp::END);
            let mut record = record();
            let name = format!("{}:5000/{}:{}", "h".repeat(200), "p".repeat(255), "t".repeat(128));
            record.reference = name.parse().unwrap();
            let State::Present(present) = &mut record.state else { panic!() };
            present.layer_media_type = "m".repeat(255);
            present.signatures = Some(Box::new(judged));
            record
        };
        let is_kept = |record: &Record| record.present().unwrap().signatures.as_ref().unwrap().case.is_some();
        for (record, is_small) in [
            (with(1200, "AAAA"), true),
            (with(1, &"\u{1}".repeat(200)), true),
            (with(1, &"\u{1}".repeat(1500)), false),
            (with(4000, "AAAA"), false),
        ] {
            assert_eq!(is_kept(&record), is_small);
            let bytes = record.encode();
            assert!(bytes.len() <= MOST, "{} bytes", bytes.len());
            assert_eq!(Record::decode(&bytes), Ok(record));
        }
        let grows = (0..).find(|bytes| !is_kept(&with(bytes + 1, "AAAA"))).unwrap();
        assert!(with(grows, "AAAA").encode().len() <= MOST);
    }

    #[test]
    fn a_torn_edited_or_foreign_file_is_no_record() {
        let whole = record().encode();
        for cut in 0..whole.len() {
            assert!(Record::decode(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut edited = whole.clone();
            edited[at] ^= 1;
            assert!(Record::decode(&edited).is_err(), "edited at {at}");
        }
        let next = String::from_utf8(whole).unwrap().replacen("larder-record 1", "larder-record 2", 1);
        assert_eq!(Record::decode(next.as_bytes()), Err(RecordError::Version("2".into())));
    }
}
