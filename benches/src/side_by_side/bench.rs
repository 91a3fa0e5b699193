//! Runs the methods of a row alternately.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::form::Form;
use crate::inputs::{Image, Inputs};
use crate::outcome::Outcome;
use crate::part::Compress;
use crate::part::serve::Line;
use crate::rows::{Floor, Row, Work};
use crate::run::{Ran, run, timed};
use crate::store::Store;
use crate::streaming::{self, Streaming};
use crate::tools;

/// A method to do the work, or a floor for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Lane {
    /// diskferry.
    Ours,
    /// diskferry without the digest.
    OursBare,
    /// qemu-img.
    Qemu,
    /// A simple client that fetches the object in 16 concurrent ranges of 8 MiB.
    Fixed,
    /// A download in concurrent ranges, then qemu-img.
    Parallel,
    /// A download on one connection, then qemu-img.
    Plain,
    /// A tool that reads the object remotely.
    Streaming,
    /// The lower bound.
    Floor,
    /// The second lower bound of an import: decoding alone.
    Decode,
}

/// Transferred bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Traffic {
    pub(crate) requests: usize,
    pub(crate) fetched: u64,
    /// Stored bytes of the extents, and of the tables that a reader needs.
    pub(crate) needed: u64,
}

/// Inputs, programs and directories.
#[derive(Debug)]
pub(crate) struct Bench {
    program: PathBuf,
    work: PathBuf,
    inputs: Inputs,
    runs: usize,
    store: Option<Store>,
    streaming: Option<Option<Streaming>>,
    out_of_order: BTreeMap<(Image, &'static str), bool>,
}

impl Bench {
    /// # Errors
    /// If the directory cannot be created.
    pub(crate) fn new(program: PathBuf, work: PathBuf, inputs: Inputs, runs: usize) -> Result<Self> {
        let bench =
            Self { program, work, inputs, runs, store: None, streaming: None, out_of_order: BTreeMap::new() };
        fs::create_dir_all(bench.out()).map_err(Failure::at("making", &bench.out()))?;
        Ok(bench)
    }

    /// The streaming tool, if one is installed and a row needs it.
    pub(crate) fn streaming(&self) -> Option<Streaming> {
        self.streaming.flatten()
    }

    /// Runs a row.
    ///
    /// # Errors
    /// The first error of a run.
    pub(crate) fn row(&mut self, row: Row) -> Result<Outcome> {
        let mut outcome = Outcome::new(row);
        let lanes = self.lanes(row.work)?;
        if let Some(image) = source(row.work) {
            self.inputs.warm(image)?;
        }
        // One warm-up run, because the first run would otherwise have colder caches than the second.
        self.lap(Lane::Ours, row.work, &mut outcome)?;
        if let (Some(from), Some(to)) = (source(row.work), target(row.work)) {
            outcome.out_of_order = Some(self.better_flags(from, to)?);
        }
        for round in 0..self.runs {
            let mut turn = lanes.clone();
            if round % 2 == 1 {
                turn.reverse();
            }
            for lane in turn {
                // It is tens of times slower than the others, so it runs once.
                if lane == Lane::Streaming && round > 0 {
                    continue;
                }
                let ran = self.lap(lane, row.work, &mut outcome)?;
                if matches!(lane, Lane::Ours | Lane::OursBare) {
                    outcome.peak_bytes = outcome.peak_bytes.max(ran.peak_bytes);
                }
                outcome.times.entry(lane).or_default().push(ran.seconds);
            }
        }
        if let Work::Import { from, .. } = row.work {
            outcome.traffic = Some(self.traffic(from)?);
        }
        Ok(outcome)
    }

    fn lanes(&mut self, work: Work) -> Result<Vec<Lane>> {
        Ok(match work {
            Work::Convert { floor: Some(_), .. } => vec![Lane::Ours, Lane::Qemu, Lane::Floor],
            Work::Convert { floor: None, .. } => vec![Lane::Ours, Lane::Qemu],
            Work::Digest { .. } | Work::Verdict { .. } => vec![Lane::Ours],
            Work::WithDigest => vec![Lane::Ours, Lane::OursBare, Lane::Floor],
            Work::Import { from, line } => {
                let mut lanes = vec![Lane::Ours, Lane::Fixed, Lane::Floor, Lane::Parallel];
                if from.form().is_coded() {
                    lanes.push(Lane::Decode);
                }
                self.serve(from)?;
                self.store_mut()?.line(line)?;
                if line != Line::Near {
                    return Ok(lanes);
                }
                lanes.push(Lane::Plain);
                if self.streaming.is_none() {
                    self.streaming = Some(streaming::find(&self.store()?.http_url(from.file_name())));
                }
                lanes.extend(self.streaming().map(|_| Lane::Streaming));
                lanes
            }
        })
    }

    /// Runs one method once.
    fn lap(&mut self, lane: Lane, work: Work, outcome: &mut Outcome) -> Result<Ran> {
        let to = self.fresh("target")?;
        let ran = match (lane, work) {
            (Lane::Ours, Work::Verdict { quick }) => self.verdict(quick),
            (Lane::Ours, Work::Import { from, .. }) => self.import(from, &to),
            (Lane::Fixed, Work::Import { from, .. }) => {
                let url = self.store()?.http_url(from.file_name());
                run(self.part("fetch-fixed")?.arg(url))
            }
            (Lane::Ours, Work::Digest { of }) => {
                run(Command::new(&self.program).args(["digest", "-q"]).arg(self.inputs.path(of)?))
            }
            (Lane::Ours, Work::WithDigest) => self.ours(Image::Raw, Form::Raw, &["--no-sync"], &to),
            (Lane::Ours, Work::Convert { from, to: form, .. }) => {
                self.ours(from, form, &["--no-sync", "--no-digest"], &to)
            }
            (Lane::OursBare, _) => self.ours(Image::Raw, Form::Raw, &["--no-sync", "--no-digest"], &to),
            (Lane::Qemu, Work::Convert { from, to: form, .. }) => {
                let flag = outcome.out_of_order.unwrap_or_default();
                self.qemu(&self.inputs.path(from)?, from.form(), form, flag, &to)
            }
            (Lane::Parallel | Lane::Plain, Work::Import { from, .. }) => {
                self.download_then_convert(lane, from, outcome.out_of_order.unwrap_or_default(), &to)
            }
            (Lane::Streaming, Work::Import { from, .. }) => {
                let url = self.store()?.http_url(from.file_name());
                let flag = outcome.out_of_order.unwrap_or_default();
                match self.streaming() {
                    Some(tool) => run(&mut tool.convert(&url, from.form(), flag, &to)?),
                    None => Err(Failure::Odd("the streaming tool is missing".to_owned())),
                }
            }
            (Lane::Floor, Work::Import { from, .. }) => self.fetch_again(from),
            (Lane::Decode, Work::Import { from, .. }) => {
                timed(self.part("decode")?.arg(self.inputs.path(from)?))
            }
            (Lane::Floor, Work::WithDigest) => timed(self.part("hash")?.arg(self.inputs.path(Image::Raw)?)),
            (Lane::Floor, Work::Convert { from, floor: Some(floor), .. }) => self.floor(floor, from, &to),
            _ => Err(Failure::Odd(format!("{lane:?} does not support {work:?}"))),
        }?;
        if let (Lane::Ours | Lane::Qemu, Work::Convert { .. }) = (lane, work) {
            let bytes = fs::metadata(&to).map_err(Failure::at("looking at", &to))?.len();
            let (ours, qemu) = outcome.targets.unwrap_or_default();
            outcome.targets = Some(if lane == Lane::Ours { (bytes, qemu) } else { (ours, bytes) });
        }
        // Removed so that its dirty pages are not written back during the next measurement.
        self.fresh("target")?;
        Ok(ran)
    }

    fn ours(&self, from: Image, form: Form, options: &[&str], to: &Path) -> Result<Ran> {
        let mut convert = Command::new(&self.program);
        convert.args(["convert", "-q", "--limit", "none", "-f", from.form().ours()]);
        run(convert.args(form.our_target()).args(options).arg(self.inputs.path(from)?).arg(to))
    }

    fn qemu(&self, from: &Path, form: Form, into: Form, out_of_order: bool, to: &Path) -> Result<Ran> {
        run(qemu_convert(form, into, out_of_order)?.arg(from).arg(to))
    }

    /// Returns whether qemu-img is faster with `-W`, with one run each.
    fn better_flags(&mut self, from: Image, to: Form) -> Result<bool> {
        if let Some(known) = self.out_of_order.get(&(from, to.name())) {
            return Ok(*known);
        }
        let source = self.inputs.warm(from)?;
        let trial = |out_of_order| {
            let target = self.fresh("target")?;
            let ran = self.qemu(&source, from.form(), to, out_of_order, &target);
            self.fresh("target")?;
            ran.map(|ran| ran.seconds)
        };
        // Some targets cannot be written out of order.
        let better = match (trial(true), trial(false)?) {
            (Ok(with), without) => with < without,
            (Err(_), _) => false,
        };
        self.out_of_order.insert((from, to.name()), better);
        Ok(better)
    }

    fn floor(&self, floor: Floor, from: Image, to: &Path) -> Result<Ran> {
        let source = self.inputs.path(from)?;
        match floor {
            Floor::Copy => {
                let raw = self.inputs.path(Image::Raw)?;
                run(Command::new(tools::cp()?).arg("--sparse=always").arg(raw).arg(to))
            }
            Floor::Decode => timed(self.part("decode")?.arg(source)),
            Floor::DecodeAndWrite => timed(self.part("decode")?.arg(source).arg("--to").arg(to)),
            Floor::Compress(how) => {
                let how = match how {
                    Compress::Cluster => "cluster",
                    Compress::Grain => "grain",
                    Compress::Zstd => "zstd",
                };
                timed(self.part("compress")?.arg(source).arg(how))
            }
        }
    }

    fn import(&mut self, from: Image, to: &Path) -> Result<Ran> {
        let program = self.program.clone();
        let store = self.store_mut()?;
        store.forget()?;
        let mut convert = Command::new(program);
        convert.args(["convert", "-q", "--no-sync", "--limit", "none", "-f", from.form().ours()]);
        convert.args(Form::Raw.our_target()).arg(Store::s3_url(from.file_name())).arg(to);
        store.reach(&mut convert);
        let ran = run(&mut convert)?;
        // The floor fetches the same ranges.
        let ranges: String = store.log()?.iter().map(|get| format!("{} {}\n", get.first, get.last)).collect();
        let list = self.out().join("ranges");
        fs::write(&list, ranges).map_err(Failure::at("writing", &list))?;
        Ok(ran)
    }

    /// Runs one more import, and returns its requested and needed bytes.
    fn traffic(&mut self, from: Image) -> Result<Traffic> {
        let to = self.fresh("target")?;
        self.import(from, &to)?;
        let gets = self.store_mut()?.log()?;
        self.fresh("target")?;
        let stored = run(self.part("stored")?.arg(self.inputs.path(from)?))?.out;
        let needed = stored.split(' ').filter_map(|number| number.parse::<u64>().ok()).sum();
        Ok(Traffic { requests: gets.len(), fetched: gets.iter().map(|get| get.sent).sum(), needed })
    }

    fn fetch_again(&self, from: Image) -> Result<Ran> {
        let mut fetch = self.part("fetch")?;
        fetch.arg(Store::s3_url(from.file_name())).arg(self.out().join("ranges"));
        self.store()?.reach(&mut fetch);
        run(&mut fetch)
    }

    fn download_then_convert(&self, lane: Lane, from: Image, flag: bool, to: &Path) -> Result<Ran> {
        let local = self.fresh("download")?;
        let (store, key) = (self.store()?, from.file_name());
        let mut download = match lane {
            Lane::Plain => {
                let mut plain = self.part("download-plain")?;
                plain.arg(store.http_url(key));
                plain
            }
            _ => {
                let mut parallel = self.part("download")?;
                parallel.arg(Store::s3_url(key));
                parallel
            }
        };
        store.reach(&mut download);
        let download = run(download.arg(&local))?;
        let convert = self.qemu(&local, from.form(), Form::Raw, flag, to)?;
        self.fresh("download")?;
        Ok(Ran { seconds: download.seconds + convert.seconds, ..convert })
    }

    fn verdict(&mut self, quick: bool) -> Result<Ran> {
        self.serve(Image::Large)?;
        self.store_mut()?.line(Line::Near)?;
        let mut measure = Command::new(&self.program);
        measure.args(["measure", "-q"]).args(quick.then_some("--quick"));
        self.store()?.reach(&mut measure);
        run(measure.arg(Store::s3_url(Image::Large.file_name())))
    }

    /// Serves the image; starts the server for the first one.
    fn serve(&mut self, image: Image) -> Result<()> {
        let file = self.inputs.warm(image)?;
        let file = fs::canonicalize(&file).map_err(Failure::at("finding", &file))?;
        if self.store.is_none() {
            self.store = Some(Store::start(&self.work)?);
        }
        self.store_mut()?.add(image.file_name(), &file)
    }

    fn store(&self) -> Result<&Store> {
        self.store.as_ref().ok_or_else(|| Failure::Odd("no server was started".to_owned()))
    }

    fn store_mut(&mut self) -> Result<&mut Store> {
        self.store.as_mut().ok_or_else(|| Failure::Odd("no server was started".to_owned()))
    }

    /// Returns a command for a part of this program.
    fn part(&self, name: &str) -> Result<Command> {
        let mut part = Command::new(env::current_exe().map_err(Failure::io("finding this program"))?);
        part.arg(name);
        Ok(part)
    }

    fn out(&self) -> PathBuf {
        self.work.join("out")
    }

    /// Returns a path at which nothing exists.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.out().join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::at("removing", &path)(error))
            }
            _ => Ok(path),
        }
    }
}

/// Returns `qemu-img convert` with its fastest flags: 16 coroutines (its maximum), and out-of-order writes if they help. It
/// does not flush to stable storage by default.
pub(crate) fn qemu_convert(form: Form, into: Form, out_of_order: bool) -> Result<Command> {
    let mut convert = Command::new(tools::qemu_img()?);
    convert.args(["convert", "-m", "16"]).args(out_of_order.then_some("-W"));
    convert.args(["-f", form.qemu()]).args(into.qemu_target());
    Ok(convert)
}

/// Returns the input, if it is a local file or represents one in trials of qemu-img.
fn source(work: Work) -> Option<Image> {
    match work {
        Work::Convert { from, .. } | Work::Import { from, .. } => Some(from),
        Work::WithDigest => Some(Image::Raw),
        Work::Digest { .. } | Work::Verdict { .. } => None,
    }
}

/// Returns the format that qemu-img writes.
fn target(work: Work) -> Option<Form> {
    match work {
        Work::Convert { to, .. } => Some(to),
        Work::Import { .. } => Some(Form::Raw),
        Work::Digest { .. } | Work::WithDigest | Work::Verdict { .. } => None,
    }
}
