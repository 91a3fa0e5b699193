//! The rows of the comparison, and their goals.

use std::fmt;

use crate::form::Form;
use crate::inputs::Image;
use crate::part::Compress;
use crate::part::serve::Line;

/// A row of the tables.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Row {
    /// The name that selects it.
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    pub(crate) goal: Goal,
}

/// The work of a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Work {
    /// Converts a file to a new file.
    Convert { from: Image, to: Form, floor: Option<Floor> },
    /// Computes the digest of an image.
    Digest { of: Image },
    /// Converts a raw file to a raw file, with and without the digest.
    WithDigest,
    /// Converts an object to a new raw file.
    Import { from: Image, line: Line },
    /// Runs `measure` on an object.
    Verdict { quick: bool },
}

/// The lower bound.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Floor {
    /// Reading and writing the content once.
    Copy,
    /// Decoding it on all cores and writing it.
    DecodeAndWrite,
    /// Decoding it on all cores.
    Decode,
    /// Compressing it on all cores.
    Compress(Compress),
}

/// The goal; bounds that are `None` do not apply.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Goal {
    /// Minimum speedup over qemu-img.
    pub(crate) qemu: Option<f64>,
    /// Minimum speedup over a parallel download followed by qemu-img.
    pub(crate) parallel: Option<f64>,
    /// Maximum ratio to the floor's time.
    pub(crate) floor: Option<f64>,
    /// Maximum ratio to the time of a simple client with 16 concurrent ranges of 8 MiB.
    pub(crate) fixed: Option<f64>,
    /// Maximum ratio to the size of qemu-img's target.
    pub(crate) size: Option<f64>,
    /// Maximum time in seconds.
    pub(crate) seconds: Option<f64>,
}

impl Work {
    /// Its title in the tables.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Convert { from: Image::Empty16, to, .. } => {
                format!("16 TiB raw, nearly empty → {}", to.name())
            }
            Self::Convert { from: Image::Empty8, to, .. } => {
                format!("8 TiB raw, nearly empty → {}", to.name())
            }
            Self::Convert { from, to, .. } => format!("{} → {}", from.form().name(), to.name()),
            Self::Digest { .. } => "digest of 64 TiB, empty".to_owned(),
            Self::WithDigest => "raw → raw with its digest".to_owned(),
            Self::Import { from: Image::Fragmented, .. } => "plain QCOW2, fragmented".to_owned(),
            Self::Import { from, .. } => from.form().name().to_owned(),
            Self::Verdict { quick: true } => "`measure --quick`".to_owned(),
            Self::Verdict { quick: false } => "`measure`".to_owned(),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faster = |what: &str, times: Option<f64>| times.map(|times| format!("≥ {times} × {what}"));
        let bounds = [
            faster("qemu-img", self.qemu),
            faster("parallel", self.parallel),
            self.floor.map(|times| format!("≤ {times:.2} × floor")),
            self.fixed.map(|times| format!("≤ {times:.2} × 16 ranges")),
            self.size.map(|times| format!("size ≤ {times}")),
            self.seconds.map(|seconds| format!("≤ {seconds} s")),
        ];
        f.write_str(&bounds.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// No goal.
const NONE: Goal = Goal { qemu: None, parallel: None, floor: None, fixed: None, size: None, seconds: None };

const fn convert(name: &'static str, from: Image, to: Form, floor: Floor, qemu: f64) -> Row {
    Row {
        name,
        work: Work::Convert { from, to, floor: Some(floor) },
        goal: Goal { qemu: Some(qemu), ..NONE },
    }
}

/// Floor for rows that only copy bytes.
const fn moved(name: &'static str, from: Image, to: Form) -> Row {
    let row = convert(name, from, to, Floor::Copy, 1.0);
    Row { goal: Goal { floor: Some(1.25), ..row.goal }, ..row }
}

const fn import(name: &'static str, from: Image, fixed: f64) -> Row {
    over(name, from, Line::Near, fixed)
}

const fn over(name: &'static str, from: Image, line: Line, fixed: f64) -> Row {
    let goal = Goal { parallel: Some(1.0), fixed: Some(fixed), ..NONE };
    Row { name, work: Work::Import { from, line }, goal }
}

const fn within(name: &'static str, work: Work, seconds: f64) -> Row {
    Row { name, work, goal: Goal { seconds: Some(seconds), ..NONE } }
}

const fn with_goal(row: Row, goal: Goal) -> Row {
    Row { goal, ..row }
}

/// All rows, in the order of the tables.
pub(crate) fn all() -> Vec<Row> {
    let zlib_raw = convert("zlib-raw", Image::Zlib, Form::Raw, Floor::DecodeAndWrite, 3.0);
    let raw_zlib = convert("raw-zlib", Image::Raw, Form::Zlib, Floor::Compress(Compress::Cluster), 3.0);
    let empty = |from, to| Work::Convert { from, to, floor: None };
    vec![
        moved("raw-raw", Image::Raw, Form::Raw),
        moved("plain-raw", Image::Plain, Form::Raw),
        moved("vhd-raw", Image::Vhd, Form::Raw),
        moved("raw-plain", Image::Raw, Form::Plain),
        moved("raw-vhd", Image::Raw, Form::Vhd),
        with_goal(zlib_raw, Goal { floor: Some(1.4), ..zlib_raw.goal }),
        convert("zstd-raw", Image::Zstd, Form::Raw, Floor::DecodeAndWrite, 2.5),
        convert("stream-raw", Image::StreamVmdk, Form::Raw, Floor::DecodeAndWrite, 4.5),
        convert("sparse-raw", Image::SparseVmdk, Form::Raw, Floor::Copy, 3.5),
        with_goal(raw_zlib, Goal { size: Some(1.03), ..raw_zlib.goal }),
        convert("raw-zstd", Image::Raw, Form::Zstd, Floor::Compress(Compress::Zstd), 1.8),
        convert("raw-stream", Image::Raw, Form::StreamVmdk, Floor::Compress(Compress::Grain), 6.0),
        convert("raw-sparse", Image::Raw, Form::SparseVmdk, Floor::Copy, 5.0),
        convert("stream-zlib", Image::StreamVmdk, Form::Zlib, Floor::Decode, 25.0),
        convert("zlib-stream", Image::Zlib, Form::StreamVmdk, Floor::Decode, 25.0),
        within("empty-plain", empty(Image::Empty16, Form::Plain), 0.2),
        within("empty-raw", empty(Image::Empty8, Form::Raw), 0.2),
        within("empty-digest", Work::Digest { of: Image::Empty64 }, 0.2),
        Row { name: "digest", work: Work::WithDigest, goal: NONE },
        import("s3-raw", Image::Fetched, 1.05),
        import("s3-plain", Image::Plain, 1.05),
        import("s3-vhd", Image::Vhd, 1.05),
        import("s3-fragmented", Image::Fragmented, 1.05),
        import("s3-zlib", Image::Zlib, 1.12),
        import("s3-zstd", Image::Zstd, 1.12),
        import("s3-stream", Image::StreamVmdk, 1.12),
        over("far-raw", Image::Fetched, Line::Far, 1.05),
        over("far-plain", Image::Plain, Line::Far, 1.05),
        over("far-vhd", Image::Vhd, Line::Far, 1.05),
        over("far-fragmented", Image::Fragmented, Line::Far, 1.05),
        over("far-zlib", Image::Zlib, Line::Far, 1.12),
        over("far-zstd", Image::Zstd, Line::Far, 1.12),
        over("far-stream", Image::StreamVmdk, Line::Far, 1.12),
        over("rack-raw", Image::Fetched, Line::Rack, 1.05),
        over("rack-plain", Image::Plain, Line::Rack, 1.05),
        over("rack-vhd", Image::Vhd, Line::Rack, 1.05),
        over("rack-fragmented", Image::Fragmented, Line::Rack, 1.05),
        over("rack-zlib", Image::Zlib, Line::Rack, 1.12),
        over("rack-zstd", Image::Zstd, Line::Rack, 1.12),
        over("rack-stream", Image::StreamVmdk, Line::Rack, 1.12),
        within("s3-quick", Work::Verdict { quick: true }, 0.3),
        within("s3-measure", Work::Verdict { quick: false }, 1.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_names_are_unique() {
        let mut names: Vec<&str> = all().iter().map(|row| row.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn goal_is_formatted_with_its_bounds() {
        let goal = Goal { qemu: Some(3.0), floor: Some(1.4), ..NONE };
        assert_eq!(goal.to_string(), "≥ 3 × qemu-img, ≤ 1.40 × floor");
        assert_eq!(NONE.to_string(), "");
    }
}
