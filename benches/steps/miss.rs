//! The steps of a miss that cost a processor something. All but the manifest's are linear in the module's bytes, and each
//! has to keep ahead of the network that the bytes come from.

use crate::larder::module;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use larder::artifact::extract::{Sink, extract};
use larder::artifact::whiteout::Hidden;
use larder::artifact::{Limits, inspect, select};
use larder::oci::{Digest, Document};
use std::io::{self, Cursor, Write};

const MIB: usize = 1 << 20;
/// As large as plugins are.
const MODULE_BYTES: usize = 6 * MIB;

fn limits() -> Limits {
    larder::config::load(&Default::default()).unwrap().config.limits
}

/// A layer is hashed as it comes, and a module twice: once written, and once when a process first uses it.
#[divan::bench]
fn sha256_of_1_mib(bencher: Bencher) {
    // FIPS 180-4's function of as many zeros.
    let (zeros, known) = (vec![0; MIB], "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58");
    bencher.counter(BytesCount::new(MIB)).bench(|| {
        let digest = Digest::of(black_box(&zeros));
        assert!(digest.hex() == known);
        digest
    });
}

/// The only step that may take longer than the network; the memory that it takes does not grow with the module.
#[divan::bench]
fn inflate_and_untar_6_mib(bencher: Bencher) {
    let module = module(MODULE_BYTES);
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(module.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "plugin.wasm", module.as_slice()).unwrap();
    let mut layer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    layer.write_all(&archive.into_inner().unwrap()).unwrap();
    let (layer, limits) = (layer.finish().unwrap(), limits());
    assert!(layer.len() < MODULE_BYTES * 3 / 4, "it is packed");
    bencher.counter(BytesCount::new(MODULE_BYTES)).bench(|| {
        let mut out = Counted(0);
        extract(black_box(layer.as_slice()), &limits, &mut Hidden::default(), &mut out).unwrap();
        assert!(out.0 == MODULE_BYTES);
    });
}

/// Counts what is written to it, so that nothing else is measured.
struct Counted(usize);

impl Sink for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0 += bytes.len();
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0 = 0;
        Ok(())
    }
}

/// The ABI of a module: it goes from section to section, so it costs the same however large they are.
#[divan::bench(args = [1024, MODULE_BYTES])]
fn wasm_inspection(bencher: Bencher, size: usize) {
    let module = module(size);
    bencher.bench(|| {
        inspect::check_header(&module[..inspect::HEADER_BYTES]).unwrap();
        let abi = inspect::abi(&mut Cursor::new(black_box(&module))).unwrap();
        assert!(abi.as_deref() == Some("0.2.1"));
        abi
    });
}

/// Parsed twice, its outline first, and its layers put in order: linear in the manifest, which has at most 4 MiB.
#[divan::bench]
fn manifest_parse_and_select(bencher: Bencher) {
    let digest = Digest::of(b"");
    let layer = |kind: &str| format!(r#"{{"mediaType": "{kind}", "digest": "{digest}", "size": 1024}}"#);
    let media_type = larder::oci::media_type::OCI_MANIFEST;
    let manifest = format!(
        r#"{{"schemaVersion": 2, "mediaType": "{media_type}", "config": {}, "layers": [{}, {}]}}"#,
        layer("application/vnd.module.wasm.config.v1+json"),
        layer("application/vnd.module.wasm.doc.v1+markdown"),
        layer("application/vnd.oci.image.layer.v1.tar+gzip"),
    );
    let limits = limits();
    bencher.bench(|| {
        let document = Document::parse(black_box(manifest.as_bytes()), Some(media_type)).unwrap();
        let Document::Manifest(manifest) = document else { panic!("an index") };
        let layers = select::layers(&manifest, &limits).unwrap();
        assert!(layers.len() == 1 && layers[0].media_type.ends_with("tar+gzip"));
        manifest
    });
}
