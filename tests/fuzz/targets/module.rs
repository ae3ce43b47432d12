//! A module behind its first eight bytes: the walk to the export section.

#![cfg_attr(fuzzing, no_main)]

use larder::artifact::inspect::{abi, check_header};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use wasmparser::{Parser, Payload};

/// Sections in which the export section must be found.
const MOST_SECTIONS: usize = 100;
/// Steps after which the walk must have ended.
const MOST_SEEKS: usize = 1000;

/// The walk ends, reads little, and finds in a whole module what a whole parser finds.
pub fn check(bytes: &[u8]) {
    // Whatever it answers.
    let _ = check_header(bytes);
    let module = [b"\0asm\x01\0\0\0", bytes].concat();
    let mut counted = Counted { inner: Cursor::new(&module), read: 0, seeks: 0 };
    let found = abi(&mut counted).unwrap();
    // Each costs a call of the system, and a large module may consist of nothing but empty sections.
    assert!(counted.seeks <= MOST_SEEKS, "{} seeks in {} bytes", counted.seeks, module.len());
    // Six bytes a section, and one section.
    assert!(counted.read <= module.len() * 4, "{} of {} bytes were read", counted.read, module.len());
    if let Some(version) = &found {
        assert!(version.len() <= 16 && version.bytes().all(|b| b.is_ascii_digit() || b == b'.'), "{version}");
    }
    if let Some(exported) = exported(&module) {
        let plain =
            |v: &String| (1..=16).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_digit() || b == b'_');
        assert_eq!(found, exported.filter(plain).map(|v| v.replace('_', ".")));
    }
}

/// The first version of the first export section; `None` where the module is damaged.
fn exported(module: &[u8]) -> Option<Option<String>> {
    let mut exports = None;
    for (number, payload) in Parser::new(0).parse_all(module).enumerate() {
        // Far beyond what a module has, it may be given up.
        if number > MOST_SECTIONS {
            return None;
        }
        if let Payload::ExportSection(section) = payload.ok()?
            && exports.is_none()
        {
            let names: Vec<_> = section.into_iter().collect::<Result<_, _>>().ok()?;
            let version = names.iter().find_map(|export| export.name.strip_prefix("proxy_abi_version_"));
            exports = Some(version.map(ToOwned::to_owned));
        }
    }
    Some(exports.flatten())
}

struct Counted<'a> {
    inner: Cursor<&'a Vec<u8>>,
    read: usize,
    seeks: usize,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n;
        Ok(n)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.seeks += 1;
        self.inner.seek(to)
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
