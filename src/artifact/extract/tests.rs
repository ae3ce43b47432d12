use super::*;
use bytesize::ByteSize;
use std::io::Write;

const WASM: &[u8] = b"\0asm\x01\0\0\0one";
const OTHER: &[u8] = b"\0asm\x01\0\0\0two";
const LIMITS: Limits =
    Limits { manifest: ByteSize(1 << 20), module: ByteSize(100 << 20), ratio: 200, tar_entries: 50 };

#[derive(Default)]
struct Memory(Vec<u8>);

impl Sink for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.clear();
        Ok(())
    }
}

fn run(layer: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Memory::default();
    extract(layer, &LIMITS, &mut Hidden::default(), &mut out).map(|()| out.0).map_err(|e| e.code())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn header(path: &str, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        builder.append(&header(path, bytes.len() as u64, tar::EntryType::Regular), *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn tar_entry(path: &str, kind: tar::EntryType) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header(path, 0, kind), io::empty()).unwrap();
    builder.into_inner().unwrap()
}

/// A header whose size field is exactly these bytes, with a right checksum.
fn tar_with_size_field(field: &[u8; 12]) -> Vec<u8> {
    let mut header = header("plugin.wasm", 0, tar::EntryType::Regular);
    header.as_mut_bytes()[124..136].copy_from_slice(field);
    header.set_cksum();
    [&header.as_bytes()[..], &[0; 1024]].concat()
}

fn pax(records: &[(&str, &str)], kind: tar::EntryType, then: &[(&str, &[u8])]) -> Vec<u8> {
    let body: String = records
        .iter()
        .map(|(k, v)| {
            let bare = k.len() + v.len() + 3;
            let length = (bare + 1..).find(|n| bare + n.to_string().len() == *n).unwrap();
            format!("{length} {k}={v}\n")
        })
        .collect();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header("pax", body.len() as u64, kind), body.as_bytes()).unwrap();
    let mut out = builder.into_inner().unwrap();
    out.truncate(out.len() - 1024);
    out.extend(tar_of(then));
    out
}

#[test]
fn every_packing_of_a_module_is_opened() {
    let tar = tar_of(&[("README.md", b"hello"), ("plugin.wasm", WASM)]);
    let two_members = [gzip(&WASM[..5]), gzip(&WASM[5..])].concat();
    for (shape, layer) in [
        ("raw", WASM.to_vec()),
        ("tar", tar.clone()),
        ("tar+gzip", gzip(&tar)),
        ("tar+zstd", zstd::encode_all(&tar[..], 3).unwrap()),
        ("raw gzip", gzip(WASM)),
        ("raw zstd", zstd::encode_all(WASM, 3).unwrap()),
        ("gzip in two members", two_members),
        ("dot slash", tar_of(&[("./plugin.wasm", WASM)])),
        ("in a folder", tar_of(&[("build/plugin.wasm", WASM)])),
        ("another name", tar_of(&[("main.wasm", WASM), ("LICENSE", b"x")])),
        (
            "long name by PAX",
            pax(
                &[("path", &format!("{}/plugin.wasm", "d".repeat(200)))],
                tar::EntryType::XHeader,
                &[("x", WASM)],
            ),
        ),
    ] {
        assert_eq!(run(&layer).as_deref(), Ok(WASM), "{shape}");
    }
}

#[test]
fn in_an_archive_plugin_wasm_wins_wherever_it_stands() {
    for files in [
        &[("a.wasm", OTHER), ("plugin.wasm", WASM)][..],
        &[("plugin.wasm", WASM), ("a.wasm", OTHER)],
        &[("a/plugin.wasm", OTHER), ("plugin.wasm", WASM), ("b.wasm", OTHER)],
        &[("a.wasm", OTHER), ("b.wasm", OTHER), ("x/plugin.wasm", WASM)],
        &[("../plugin.wasm", OTHER), ("plugin.wasm", WASM)],
        &[("/plugin.wasm", OTHER), ("./plugin.wasm", WASM)],
    ] {
        assert_eq!(run(&tar_of(files)).as_deref(), Ok(WASM), "{:?}", files[0].0);
    }
}

#[test]
fn riddles_are_refused() {
    assert_eq!(run(&tar_of(&[("plugin.wasm", WASM), ("./plugin.wasm", OTHER)])), Err("ambiguous_entry"));
    assert_eq!(run(&tar_of(&[("a/plugin.wasm", WASM), ("b/plugin.wasm", OTHER)])), Err("ambiguous_entry"));
    assert_eq!(run(&tar_of(&[("a.wasm", WASM), ("b.wasm", OTHER)])), Err("ambiguous_entry"));
}

#[test]
fn an_archive_without_a_module_says_so() {
    for files in
        [&[("README.md", &b"x"[..])][..], &[("../plugin.wasm", WASM)], &[("/plugin.wasm", WASM)], &[]]
    {
        assert_eq!(
            run(&gzip(&tar_of(files))),
            Err(if files.is_empty() { "not_wasm" } else { "no_plugin_wasm" })
        );
    }
    assert_eq!(run(&tar_of(&[(".wh.plugin.wasm", b"")])), Err("no_plugin_wasm"));
    assert_eq!(run(&tar_of(&[(".wh..wh..opq", b""), ("x", b"")])), Err("no_plugin_wasm"));
}

#[test]
fn a_module_that_is_no_regular_file_is_refused() {
    use tar::EntryType as T;
    for kind in [T::Symlink, T::Link, T::Directory, T::Fifo, T::Char, T::GNUSparse] {
        assert_eq!(run(&tar_entry("plugin.wasm", kind)), Err("bad_entry"), "{kind:?}");
    }
    let sparse = pax(&[("GNU.sparse.major", "1")], T::XHeader, &[("plugin.wasm", WASM)]);
    assert_eq!(run(&sparse), Err("bad_entry"));
}

#[test]
fn damaged_streams_are_refused_by_name() {
    let tar = tar_of(&[("plugin.wasm", &[WASM, &[7; 5000]].concat())]);
    let packed = gzip(&tar);
    let mut crc = packed.clone();
    let at = crc.len() - 6;
    crc[at] ^= 1;
    assert_eq!(run(&crc), Err("bad_gzip"), "wrong checksum");
    assert_eq!(run(&packed[..packed.len() / 2]), Err("bad_gzip"), "cut");
    assert_eq!(run(&packed[..packed.len() - 8]), Err("bad_gzip"), "cut before the checksum");
    assert_eq!(run(&[&packed[..], b"garbage"].concat()), Err("bad_gzip"), "garbage behind");
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    assert_eq!(run(&zstd[..zstd.len() - 4]), Err("bad_zstd"));
    assert_eq!(run(&tar[..2048]), Err("bad_tar"), "cut in the module");
    let mut sum = tar_of(&[("a", b"x"), ("plugin.wasm", WASM)]);
    sum[1024 + 150] ^= 1;
    assert_eq!(run(&sum), Err("bad_tar"), "wrong header checksum");
}

#[test]
fn sizes_that_lie_are_refused_without_being_believed() {
    for field in [
        b"\x80\0\0\0\x3f\xff\xff\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"77777777777\0",
        b"zzzzzzzzzzz\0",
    ] {
        let code = run(&tar_with_size_field(field)).unwrap_err();
        assert!(["bad_tar", "not_wasm", "too_large"].contains(&code), "{code}");
    }
    use tar::EntryType as T;
    let lie = pax(&[("size", "1048576")], T::XHeader, &[("plugin.wasm", WASM)]);
    assert_eq!(run(&lie), Err("bad_tar"));
    assert_eq!(run(&pax(&[("size", "x")], T::XHeader, &[("plugin.wasm", WASM)])), Err("bad_tar"));
    assert_eq!(run(&pax(&[("path", "plugin.wasm")], T::XGlobalHeader, &[("a", WASM)])), Err("bad_tar"));
    let long = "n".repeat(70_000);
    assert_eq!(run(&pax(&[("path", &long)], T::XHeader, &[("plugin.wasm", WASM)])), Err("bad_tar"));
}

#[test]
fn limits_end_what_grows() {
    let mut out = Memory::default();
    let limits = Limits { module: ByteSize(WASM.len() as u64), ..LIMITS };
    extract(WASM, &limits, &mut Hidden::default(), &mut out).unwrap();
    let over = [WASM, b"x"].concat();
    assert_eq!(
        extract(&over[..], &limits, &mut Hidden::default(), &mut out).unwrap_err().code(),
        "too_large"
    );
    let bomb = gzip(&[WASM, &vec![0; 80 << 20]].concat());
    assert_eq!(run(&bomb).map(|module| module.len()), Err("unpacked_too_large"));
    let honest = gzip(&[WASM, &vec![0; 30 << 20]].concat());
    assert!(run(&honest).is_ok(), "a small module may pack well");
    let names: Vec<_> = (0..60).map(|n| format!("f{n}")).collect();
    let files: Vec<_> = names.iter().map(|n| (n.as_str(), &b""[..])).collect();
    assert_eq!(run(&tar_of(&files)), Err("too_many_entries"));
}

#[test]
fn other_content_is_told_with_its_first_bytes() {
    for content in [
        &b"<!DOCTYPE html><title>login</title>"[..],
        b"{\"errors\":[]}",
        b"\x7fELF\x02\x01\x01",
        b"",
        b"\0asm",
    ] {
        assert_eq!(run(content), Err("not_wasm"));
    }
    assert_eq!(run(b"\0asm\x0d\0\x01\0"), Err("wasm_version"));
    assert_eq!(run(&tar_of(&[("plugin.wasm", b"<html>")])), Err("not_wasm"));
}

#[test]
fn another_file_before_plugin_wasm_does_not_spoil_it() {
    let link = |path: &str| {
        let mut bytes = tar_entry(path, tar::EntryType::Symlink);
        bytes.truncate(bytes.len() - 1024);
        bytes
    };
    let module = tar_of(&[("plugin.wasm", WASM)]);
    for first in
        [link("latest.wasm"), link("a/plugin.wasm"), tar_of(&[("a.wasm", b"some text")])[..1024].to_vec()]
    {
        assert_eq!(run(&[&first[..], &module].concat()).as_deref(), Ok(WASM));
    }
    assert_eq!(run(&tar_of(&[("c.wasm", b"\0asm\x0d\0\x01\0"), ("plugin.wasm", WASM)])).as_deref(), Ok(WASM));
    assert_eq!(run(&tar_of(&[("a.wasm", b"some text"), ("README", b"")])), Err("not_wasm"));
}

#[test]
fn what_a_layer_removes_is_hidden_in_those_below_and_nowhere_else() {
    let lower = tar_of(&[("plugin.wasm", WASM)]);
    for (upper, below) in [
        (&[(".wh.plugin.wasm", &b""[..])][..], Err("no_plugin_wasm")),
        (&[("./.wh..wh..opq", b""), ("etc/x", b"")], Err("no_plugin_wasm")),
        (&[("old/.wh.plugin.wasm", b"")], Ok(WASM)),
        (&[("etc/.wh..wh..opq", b"")], Ok(WASM)),
        (&[("etc/x", b"")], Ok(WASM)),
    ] {
        let mut hidden = Hidden::default();
        let mut out = Memory::default();
        assert!(extract(&tar_of(upper)[..], &LIMITS, &mut hidden, &mut out).unwrap_err().is_other_content());
        let got =
            extract(&lower[..], &LIMITS, &mut hidden, &mut out).map(|()| &out.0[..]).map_err(|e| e.code());
        assert_eq!(got, below, "{}", upper[0].0);
    }
    assert_eq!(
        run(&tar_of(&[(".wh..wh..opq", b""), ("plugin.wasm", WASM)])).as_deref(),
        Ok(WASM),
        "its own is not"
    );
}

#[test]
fn names_from_an_archive_are_cleaned_and_few() {
    let names: Vec<_> = (0..40).map(|n| format!("\u{1b}[2J{n}.wasm")).collect();
    let files: Vec<_> = names.iter().map(|n| (n.as_str(), WASM)).collect();
    let told = extract(&tar_of(&files)[..], &LIMITS, &mut Hidden::default(), &mut Memory::default())
        .unwrap_err()
        .to_string();
    assert!(!told.contains('\u{1b}') && told.len() < 500, "{told}");
}

#[test]
fn what_is_removed_is_remembered_up_to_a_limit() {
    let names: Vec<_> = (0..40).map(|n| format!("{}{n}", "d".repeat(3000))).collect();
    let removed = |n: usize| {
        let limits = Limits { tar_entries: 10_000, ..LIMITS };
        let layer: Vec<u8> = (0..n)
            .flat_map(|i| {
                let path = format!("{}/{i}/.wh.x", names[i % 40]);
                let mut entry = pax(&[("path", &path)], tar::EntryType::XHeader, &[("x", b"")]);
                entry.truncate(entry.len() - 1024);
                entry
            })
            .chain([0; 1024])
            .collect();
        extract(&layer[..], &limits, &mut Hidden::default(), &mut Memory::default()).unwrap_err().code()
    };
    assert_eq!(removed(100), "no_plugin_wasm");
    assert_eq!(removed(400), "bad_tar");
    let long = format!("{}/plugin.wasm", "d".repeat(5000));
    assert_eq!(run(&pax(&[("path", &long)], tar::EntryType::XHeader, &[("x", WASM)])), Err("bad_tar"));
}
