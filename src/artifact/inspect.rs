//! What a module says of itself: the eight bytes that make it one, and the Proxy-Wasm ABI that it exports.

use std::io::{self, Read, Seek, SeekFrom};
use wasmparser::{BinaryReader, ExportSectionReader};

/// `\0asm` and the version word.
pub const HEADER_BYTES: usize = 8;
const MAGIC: &[u8; 4] = b"\0asm";
/// A module of the core specification. A component has `0d 00 01 00`; no gateway loads one.
const CORE_VERSION: [u8; 4] = [1, 0, 0, 0];
/// The largest export section that is looked into for the ABI; real ones have a few kilobytes.
const EXPORT_SECTION_BYTES: u64 = 1 << 20;
const EXPORT_SECTION: u8 = 7;
/// The most sections that are walked over; a module has a dozen, and an empty one costs two bytes and a read.
const MOST_SECTIONS: usize = 256;

/// Why bytes are no module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Other content; the first bytes in hexadecimal.
    #[error("this is no wasm module: it begins with {0}")]
    NotWasm(String),
    /// A component, or a version to come.
    #[error(
        "this is wasm, but no core module of version 1: its version word is {0} (a component is not loadable)"
    )]
    Version(String),
}

impl HeaderError {
    /// The stable word for this error in answers and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotWasm(_) => "not_wasm",
            Self::Version(_) => "wasm_version",
        }
    }
}

/// Checks the first [`HEADER_BYTES`] of a module.
pub fn check_header(head: &[u8]) -> Result<(), HeaderError> {
    let hex = |bytes: &[u8]| {
        if bytes.is_empty() {
            return "nothing".to_owned();
        }
        bytes.iter().take(HEADER_BYTES).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
    };
    if head.len() < HEADER_BYTES || &head[..4] != MAGIC {
        return Err(HeaderError::NotWasm(hex(head)));
    }
    if head[4..8] != CORE_VERSION {
        return Err(HeaderError::Version(hex(&head[4..])));
    }
    Ok(())
}

/// The Proxy-Wasm ABI version: the module's export `proxy_abi_version_0_2_1` gives `0.2.1`.
///
/// Walks section headers and reads the export section alone. `None` when there is no such export or the module is
/// damaged behind its header: whether it loads is the gateway's judgement, not ours.
pub fn abi(module: &mut (impl Read + Seek)) -> io::Result<Option<String>> {
    let end = module.seek(SeekFrom::End(0))?;
    let mut at = HEADER_BYTES as u64;
    for _ in 0..MOST_SECTIONS {
        if at >= end {
            break;
        }
        module.seek(SeekFrom::Start(at))?;
        // A section's header: one byte of kind and its size in at most five bytes of LEB128.
        let mut header = Vec::with_capacity(6);
        module.by_ref().take(6).read_to_end(&mut header)?;
        let mut reader = BinaryReader::new(&header, 0);
        let (Ok(kind), Ok(size)) = (reader.read_u8(), reader.read_var_u32()) else {
            return Ok(None);
        };
        let body = at + reader.original_position();
        at = body + u64::from(size);
        if kind == EXPORT_SECTION {
            if at > end || u64::from(size) > EXPORT_SECTION_BYTES {
                return Ok(None);
            }
            module.seek(SeekFrom::Start(body))?;
            let mut section = Vec::new();
            module.by_ref().take(u64::from(size)).read_to_end(&mut section)?;
            return Ok(exported_abi(&section));
        }
    }
    Ok(None)
}

fn exported_abi(section: &[u8]) -> Option<String> {
    let exports = ExportSectionReader::new(BinaryReader::new(section, 0)).ok()?;
    let version =
        exports.into_iter().flatten().find_map(|export| export.name.strip_prefix("proxy_abi_version_"))?;
    let plain = !version.is_empty()
        && version.len() <= 16
        && version.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    plain.then(|| version.replace('_', "."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn abi_of(bytes: &[u8]) -> Option<String> {
        abi(&mut Cursor::new(bytes)).unwrap()
    }

    #[test]
    fn the_header_is_checked_to_the_version_word() {
        assert_eq!(check_header(b"\0asm\x01\0\0\0"), Ok(()));
        for (head, code) in [
            (&b"\0asm\x02\0\0\0"[..], "wasm_version"),
            (b"\0asm\x0d\0\x01\0", "wasm_version"),
            (b"\0asm\x01\0\0", "not_wasm"),
            (b"<html>ab", "not_wasm"),
            (b"", "not_wasm"),
        ] {
            assert_eq!(check_header(head).unwrap_err().code(), code);
        }
        assert!(check_header(b"\x7fELF\x02\x01\x01\0").unwrap_err().to_string().contains("7f 45 4c 46"));
    }

    #[test]
    fn the_abi_is_read_from_the_exports() {
        let module =
            wat::parse_str(r#"(module (func $f) (export "proxy_abi_version_0_2_1" (func $f)))"#).unwrap();
        assert_eq!(abi_of(&module).as_deref(), Some("0.2.1"));
        let without = wat::parse_str(r#"(module (func $f) (export "main" (func $f)))"#).unwrap();
        assert_eq!(abi_of(&without), None);
    }

    #[test]
    fn damage_behind_the_header_is_no_error() {
        let module =
            wat::parse_str(r#"(module (func $f) (export "proxy_abi_version_0_2_1" (func $f)))"#).unwrap();
        for cut in 8..module.len() {
            abi_of(&module[..cut]);
        }
        assert_eq!(abi_of(b"\0asm\x01\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(abi_of(b"\0asm\x01\0\0\0random bytes that are no sections"), None);
    }
}
