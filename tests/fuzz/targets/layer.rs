//! A layer: the first byte says how the rest is packed before it is read, so that what lies within is reached.

#![cfg_attr(fuzzing, no_main)]

use bytesize::ByteSize;
use flate2::write::GzEncoder;
use larder::artifact::Limits;
use larder::artifact::extract::{Sink, extract};
use larder::artifact::whiteout::Hidden;
use std::io::{self, Read, Write};

/// Small, so that a few kilobytes reach them.
const MODULE: u64 = 2 << 10;
const LIMITS: Limits =
    Limits { manifest: ByteSize(1 << 10), module: ByteSize(MODULE), ratio: 10, tar_entries: 20 };

/// Never more than the limit is written; what comes out is a module; and it does not matter in which pieces the layer
/// arrived.
pub fn check(bytes: &[u8]) {
    let Some((packing, bytes)) = bytes.split_first() else { return };
    let tar = || with_checksums(bytes.to_vec());
    let layer = match packing % 6 {
        0 => bytes.to_vec(),
        1 => tar(),
        2 => gzip(bytes),
        3 => gzip(&tar()),
        4 => zstd::encode_all(bytes, 1).unwrap(),
        _ => zstd::encode_all(&tar()[..], 1).unwrap(),
    };
    let whole = run(&layer[..]);
    // A decoder that sees more at once knows earlier that it is damaged, so what it is called may differ.
    assert_eq!(whole.as_ref().ok(), run(Drops(&layer)).as_ref().ok(), "the pieces matter");
    if let Ok(module) = &whole {
        assert!(module.starts_with(b"\0asm\x01\0\0\0") && module.len() as u64 <= MODULE);
    }
}

fn run(layer: impl Read) -> Result<Vec<u8>, String> {
    let mut out = Memory::default();
    let mut hidden = Hidden::default();
    match extract(layer, &LIMITS, &mut hidden, &mut out) {
        Ok(()) => Ok(out.0),
        Err(error) => {
            let told = error.to_string();
            assert!(!told.contains(char::is_control) && told.chars().count() < 4000, "{told:?}");
            Err(error.code().into())
        }
    }
}

#[derive(Default)]
struct Memory(Vec<u8>);

impl Sink for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        assert!(self.0.len() as u64 <= MODULE, "{} bytes were written", self.0.len());
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.clear();
        Ok(())
    }
}

/// A layer that arrives byte by byte.
struct Drops<'a>(&'a [u8]);

impl Read for Drops<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.len().min(buffer.len()).min(1);
        self.0.read(&mut buffer[..n])
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The bytes as an archive whose headers have right checksums: no mutation would find those by itself.
fn with_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(block) = bytes.get_mut(at..at + 512) {
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&block[124..136]).unwrap_or_default();
        let size = usize::from_str_radix(size.trim_matches([' ', '\0']), 8).unwrap_or(0);
        at = at.saturating_add(512).saturating_add(size.div_ceil(512).saturating_mul(512));
    }
    bytes
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
