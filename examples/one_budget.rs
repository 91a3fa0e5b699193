//! Runs many conversions at once under one memory budget and one pool of CPU workers, as an import backend does.
//!
//!     cargo run -p diskferry --example one_budget -- DIRECTORY disk1.qcow2 disk2.vmdk …
//!
//! The budget bounds the buffers of all conversions together. A conversion that needs memory waits for its turn; none fails
//! or blocks another forever.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskferry::{
    Budget, Conversion, CpuPool, Declared, Error, ErrorKind, FileSink, FileSinkOptions, FileSource, Format,
    Report, Resources, Result, TargetOptions,
};

/// Converts images to QCOW2 files in `directory`, all at once. The reports have the order of the images.
///
/// # Errors
/// The first error of a conversion. The others are cancelled, and leave no target.
pub async fn convert_all(images: &[PathBuf], directory: &Path, budget: &Budget) -> Result<Vec<Report>> {
    let resources = Resources::default().budget(Some(budget.clone())).pool(Some(Arc::new(CpuPool::new(0)?)));
    let mut runs = tokio::task::JoinSet::new();
    for (index, image) in images.iter().enumerate() {
        let (image, resources) = (image.clone(), resources.clone());
        let target = directory.join(format!("{index}.qcow2"));
        runs.spawn(async move { Ok((index, convert(&image, &target, resources).await?)) });
    }
    let mut reports = Vec::new();
    while let Some(ended) = runs.join_next().await {
        let ended: Result<(usize, Report)> =
            ended.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        reports.push(ended?);
    }
    reports.sort_by_key(|(index, _)| *index);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

async fn convert(image: &Path, target: &Path, resources: Resources) -> Result<Report> {
    let source = FileSource::open(image).await?;
    let disk = Arc::new(diskferry::open(source, Declared::Unknown).await?);
    let sink = FileSink::create(target, FileSinkOptions::default()).await?;
    let target = diskferry::create(Format::Qcow2, sink, &TargetOptions::default())?;
    Conversion::new(disk, target).resources(resources).run().await
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(directory) = arguments.next() else {
        return Err(Error::new(ErrorKind::Usage, "one_budget requires a directory, and images"));
    };
    let images: Vec<PathBuf> = arguments.collect();
    let budget = Budget::new(256 << 20);
    for (image, report) in images.iter().zip(convert_all(&images, &directory, &budget).await?) {
        println!("{}: {} s", image.display(), report.stats.seconds);
    }
    println!("at most {} bytes of buffers were in use at a time", budget.peak());
    Ok(())
}
