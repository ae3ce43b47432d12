//! The steps of a hit, in their order. Together they are `whole_answer`, but for the access line and the metrics.

use crate::larder::{Larder, PATH};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use futures_util::FutureExt;
use http::header::{ETAG, IF_NONE_MATCH, RANGE};
use http::{HeaderMap, Method, Version};
use larder::cli::access_line::Lines;
use larder::freshness::Freshness;
use larder::http::cache_status::CacheStatus;
use larder::http::conditional::{self, Validators, Verdict};
use larder::http::range::{self, Wanted};
use larder::http::trace_context::RequestId;
use larder::server::access_log::{self, Line};
use larder::server::guard::{self, Head};
use larder::server::respond::{self, Asked, Label, Note};
use larder::server::route::{self, Route};
use larder::store::Body;
use larder::store::entry::PIECE_BYTES;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The memory tier as shipped, and one that holds nothing.
const MEMORY: u64 = 64 << 20;
const NONE: u64 = 0;

/// The fields that a gateway's Go client sends.
fn fields() -> HeaderMap {
    let fields = [("host", "larder.higress-system.svc:8080"), ("user-agent", "Go-http-client/1.1")];
    let fields = fields.into_iter().chain([("accept-encoding", "gzip")]);
    fields.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
}

/// Every request pays it before it means anything; it is linear in the head's bytes, and a gateway's head has 150.
#[divan::bench]
fn guard_of_a_request(bencher: Bencher) {
    let headers = fields();
    let lines: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}\r\n", v.to_str().unwrap())).collect();
    let raw = format!("GET {PATH} HTTP/1.1\r\n{}\r\n", lines.concat());
    let head = Head {
        method: &Method::GET,
        target: PATH.as_bytes(),
        version: Version::HTTP_11,
        headers: &headers,
        raw: raw.as_bytes(),
        is_clean: true,
    };
    bencher.bench(|| {
        let accepted = guard::check(black_box(&head), guard::read_only).unwrap();
        assert!(accepted.path == PATH && accepted.reusable);
        accepted
    });
}

/// A path that was never seen before: at most one walk for each pattern, since a `**` may stand in one only once.
#[divan::bench]
fn plugin_and_version_of_a_path(bencher: Bencher) {
    let larder = Larder::open(KIB, 0, MEMORY);
    let (names, meant) = (&larder.names, Route::Module(larder.request.clone()));
    bencher.bench(|| {
        let route =
            route::route(black_box(PATH), &names.patterns, &|name| names.catalog.lists(name)).unwrap();
        assert!(route == meant);
        route
    });
}

/// What may answer it; the memo has it for a path that was seen, so this is for names and versions that are new.
#[divan::bench]
fn candidates_of_the_catalog(bencher: Bencher) {
    let larder = Larder::open(KIB, 0, MEMORY);
    bencher.bench(|| {
        let plan = larder.names.catalog.plan(black_box(&larder.request));
        assert!(plan == *larder.plan);
        plan
    });
}

/// What is known, and whether it is still believed: one look into a table and no copy of the record.
#[divan::bench]
fn record_and_its_freshness(bencher: Bencher) {
    let larder = Larder::open(KIB, 0, MEMORY);
    let reference = larder.plan.candidates[0].reference.clone();
    bencher.bench(|| {
        let record = larder.store.record(black_box(&reference)).unwrap();
        let freshness = larder.config.lifetimes.judge(&record, larder.data.clock.now());
        assert!(matches!(freshness, Freshness::Fresh(_)));
        freshness
    });
}

/// The whole decision. It never waits, and it allocates no more for 8 MiB than for 1 KiB.
#[divan::bench(args = [KIB, 8 * MIB])]
fn cache_get_from_memory(bencher: Bencher, size: usize) {
    let larder = Larder::open(size, 0, MEMORY);
    bencher.bench_local(|| {
        let served = larder.get().now_or_never().unwrap();
        assert!(matches!(served.found.status, CacheStatus::Hit { detail: "memory", .. }));
        served
    });
}

/// The same without a memory tier: one file is opened by a thread that may block, and nothing of it is read yet.
#[divan::bench(args = [KIB, 8 * MIB])]
fn cache_get_from_disk(bencher: Bencher, size: usize) {
    let larder = Larder::open(size, 0, NONE);
    bencher.bench_local(|| {
        let served = larder.runtime.block_on(larder.get());
        assert!(matches!(served.found.status, CacheStatus::Hit { detail: "disk", .. }));
        served
    });
}

/// A piece as it is sent from disk, read and compared with its checksum: what a byte from disk costs before its socket.
#[divan::bench]
fn piece_from_disk(bencher: Bencher) {
    let larder = Larder::open(MIB, 0, NONE);
    let Body::File(file) = larder.runtime.block_on(larder.get()).body else { panic!("not from disk") };
    bencher.counter(BytesCount::new(PIECE_BYTES)).bench(|| {
        let piece = file.piece(black_box(1)).unwrap();
        assert!(piece.len() == PIECE_BYTES);
        piece
    });
}

/// Both decisions on a request that has both fields, as a client has that goes on with a transfer: linear in the fields.
#[divan::bench]
fn condition_and_range(bencher: Bencher) {
    let etag = "\"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"";
    let mut headers = fields();
    headers.insert(IF_NONE_MATCH, "\"another\", W/\"and-another\"".parse().unwrap());
    headers.insert(RANGE, "bytes=1024-".parse().unwrap());
    bencher.bench(|| {
        let verdict = conditional::judge(black_box(&headers), Validators { etag, modified: None });
        let wanted = range::judge(headers[RANGE].to_str().unwrap(), black_box(MIB as u64));
        assert!(verdict == Verdict::Proceed && wanted == Wanted::Part { first: 1024, last: MIB as u64 - 1 });
        (verdict, wanted)
    });
}

/// The answer's fields, of which most were made once for the module: none of it depends on the module's size.
#[divan::bench]
fn response_head(bencher: Bencher) {
    let larder = Larder::open(MIB, 0, MEMORY);
    let headers = fields();
    let served = larder.runtime.block_on(larder.get());
    let label = Label::module(&served.found, false);
    let asked = Arc::new(Asked { name: larder.request.name.clone(), plan: (*larder.plan).clone() });
    bencher.with_inputs(|| served.clone()).bench_values(|served| {
        let answer = respond::module(black_box(&headers), served, &label, &asked);
        let common = answer.common.as_ref().map(|common| &common.fields);
        assert!(answer.status == 200 && common.is_some_and(|fields| fields.contains_key(ETAG)));
        answer
    });
}

/// Everything from a well-formed request to an answer that only has to be written, on a path that was seen before.
#[divan::bench(args = [KIB, 8 * MIB])]
fn whole_answer(bencher: Bencher, size: usize) {
    let larder = Larder::open(size, 0, MEMORY);
    let headers = fields();
    let head = Head {
        method: &Method::GET,
        target: PATH.as_bytes(),
        version: Version::HTTP_11,
        headers: &headers,
        raw: b"",
        is_clean: true,
    };
    bencher.bench_local(|| {
        let accepted = guard::check(black_box(&head), guard::read_only).unwrap();
        let (answer, label) = larder.data.answer(&headers, &accepted, None).now_or_never().unwrap();
        assert!(answer.status == 200 && answer.note.cache == Some("hit") && label == "plugin");
        answer
    });
}

/// The line that every request writes, up to the queue: it was a third of a hit before it was written by hand.
#[divan::bench]
fn access_line(bencher: Bencher) {
    let written = Last::default();
    let writer = written.clone();
    let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
    let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
    let filter = Targets::new().with_target("access", LevelFilter::INFO);
    let log = tracing_subscriber::registry().with(lines.map_event_format(Lines::beside).with_filter(filter));
    let note = Note {
        cache: Some("hit"),
        reference: Some("registry.example/plugins/ai-proxy:1.0.0".into()),
        matched: Some("exact"),
        ..Note::default()
    };
    let line = Line {
        id: RequestId::new(1),
        peer: "192.0.2.1:40000",
        method: "GET",
        target: PATH,
        status: 200,
        bytes: 1024,
        took: Duration::from_micros(123),
        complete: true,
        agent: "Go-http-client/1.1",
        probe: false,
        note: &note,
    };
    tracing::subscriber::with_default(log, || {
        bencher.bench_local(|| access_log::write(black_box(&line)));
    });
    let line: serde_json::Value = serde_json::from_slice(&written.0.lock().unwrap()).unwrap();
    assert!(line["status"] == 200 && line["path"] == PATH && line["cache"] == "hit", "{line}");
}

/// The last line that was written.
#[derive(Clone, Default)]
struct Last(Arc<Mutex<Vec<u8>>>);

impl Write for Last {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut last = self.0.lock().unwrap();
        last.clear();
        last.extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is counted of a request: three series that are there already, so that nothing is allocated and no lock is kept.
#[divan::bench]
fn metrics_of_a_request(bencher: Bencher) {
    let larder = Larder::open(KIB, 0, MEMORY);
    let (metrics, labels) = (&larder.metrics, ["plugin", "200", "hit"]);
    let count = || metrics.requests.with_label_values(&labels).get();
    let before = count();
    bencher.bench(|| {
        metrics.requests.with_label_values(black_box(&labels)).inc();
        metrics.request_duration.with_label_values(black_box(&labels)).observe(0.000_123);
        metrics.response_bytes.with_label_values(black_box(&labels[..1])).inc_by(1024);
    });
    assert!(count() > before);
}
