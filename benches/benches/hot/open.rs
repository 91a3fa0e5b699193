//! Opens the samples of every format: detection, headers, descriptors and partition tables.

use std::sync::Arc;

use criterion::Criterion;
use diskferry_core::{BoxFuture, Disk, Error, Gate, MemorySource, Result, SiblingName, Source};
use diskferry_corpus::{Sample, samples};
use diskferry_formats::{Declared, inspect_disk, open_with};

use super::block_on;

/// The siblings of a sample's first file.
struct Beside(&'static Sample);

impl Gate for Beside {
    fn open(&self, name: &SiblingName) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        let found = self.0.files.iter().find(|(file, _)| *file == name.as_str());
        let opened = match found {
            Some((name, bytes)) => Ok(Arc::new(MemorySource::new(name, *bytes)) as Arc<dyn Source>),
            None => Err(Error::internal("a sample has all its files")),
        };
        Box::pin(async move { opened })
    }
}

fn open(sample: &'static Sample) -> Disk {
    let source = Arc::new(MemorySource::new(sample.name, sample.bytes()));
    block_on(open_with(source, Declared::Unknown, Arc::new(Beside(sample)))).expect("a sound sample")
}

/// Opens each sample without a declared format, and inspects its partition table and file systems.
pub(super) fn parsers(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    for sample in samples() {
        group.bench_function(sample.name, |b| b.iter(|| open(sample)));
    }
    group.finish();
    let mut group = c.benchmark_group("inspect");
    for sample in samples() {
        let disk = open(sample);
        group.bench_function(sample.name, |b| b.iter(|| block_on(inspect_disk(&disk))));
    }
    group.finish();
}
