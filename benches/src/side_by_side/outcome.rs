//! The outcome of a row, compared with its goal.

use std::collections::BTreeMap;

use crate::bench::{Lane, Traffic};
use crate::rows::Row;
use crate::stats::{Ratio, Series};

/// The outcome of a row.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Outcome {
    pub(crate) row: Row,
    pub(crate) times: BTreeMap<Lane, Series>,
    /// True if qemu-img was faster with `-W`; `None` if that was not measured.
    pub(crate) out_of_order: Option<bool>,
    /// Peak memory of diskferry in all runs.
    pub(crate) peak_bytes: u64,
    /// Sizes of the targets of diskferry and qemu-img.
    pub(crate) targets: Option<(u64, u64)>,
    pub(crate) traffic: Option<Traffic>,
}

impl Outcome {
    pub(crate) fn new(row: Row) -> Self {
        Self { row, times: BTreeMap::new(), out_of_order: None, peak_bytes: 0, targets: None, traffic: None }
    }

    /// Returns the median of a method, in seconds.
    pub(crate) fn median(&self, lane: Lane) -> Option<f64> {
        self.times.get(&lane).map(Series::median)
    }

    /// Returns the time of another method divided by ours.
    pub(crate) fn slower(&self, lane: Lane) -> Option<Ratio> {
        self.times.get(&lane)?.over(self.times.get(&Lane::Ours)?)
    }

    /// Returns our time divided by that of another method.
    pub(crate) fn above(&self, lane: Lane) -> Option<Ratio> {
        self.times.get(&Lane::Ours)?.over(self.times.get(&lane)?)
    }

    /// Returns the spread of our times: (maximum − minimum) / median.
    pub(crate) fn spread(&self) -> Option<f64> {
        self.times.get(&Lane::Ours)?.spread()
    }

    /// Returns the floor; of two floors, the longer one in each round.
    pub(crate) fn floor(&self) -> Option<Series> {
        let floor = self.times.get(&Lane::Floor)?;
        Some(self.times.get(&Lane::Decode).map_or_else(|| floor.clone(), |decode| floor.longer(decode)))
    }

    /// Returns our time divided by the floor's.
    pub(crate) fn above_floor(&self) -> Option<Ratio> {
        self.times.get(&Lane::Ours)?.over(&self.floor()?)
    }

    /// Returns the size of our target divided by that of qemu-img's.
    pub(crate) fn size(&self) -> Option<f64> {
        let (ours, qemu) = self.targets?;
        (qemu > 0).then(|| ours as f64 / qemu as f64)
    }

    /// Returns whether the medians meet the goal. `None` if there is no goal, or nothing in it was measured.
    pub(crate) fn met(&self) -> Option<bool> {
        let goal = &self.row.goal;
        let least = |bound: Option<f64>, lane| Some(self.slower(lane)?.medians >= bound?);
        let most = |bound: Option<f64>, actual: Option<f64>| Some(actual? <= bound?);
        let bounds = [
            least(goal.qemu, Lane::Qemu),
            least(goal.parallel, Lane::Parallel),
            most(goal.floor, self.above_floor().map(|ratio| ratio.medians)),
            most(goal.fixed, self.above(Lane::Fixed).map(|ratio| ratio.medians)),
            most(goal.size, self.size()),
            most(goal.seconds, self.median(Lane::Ours)),
        ];
        bounds.into_iter().flatten().reduce(|all, met| all && met)
    }
}

#[cfg(test)]
pub(crate) mod made {
    use super::*;
    use crate::rows;

    /// Creates an outcome of the row with this name and these durations.
    pub(crate) fn outcome(name: &str, times: &[(Lane, &[f64])]) -> Outcome {
        let row = rows::all().into_iter().find(|row| row.name == name).unwrap();
        let series = |(lane, seconds): &(Lane, &[f64])| (*lane, seconds.iter().copied().collect());
        Outcome { times: times.iter().map(series).collect(), peak_bytes: 96 << 20, ..Outcome::new(row) }
    }
}

#[cfg(test)]
mod tests {
    use super::made::outcome;
    use super::*;

    #[test]
    fn goal_is_met_if_all_its_bounds_are_met() {
        let lanes = |qemu: f64, floor: f64| {
            outcome("zlib-raw", &[(Lane::Ours, &[1.0]), (Lane::Qemu, &[qemu]), (Lane::Floor, &[floor])])
        };
        assert_eq!(lanes(3.0, 0.8).met(), Some(true));
        assert_eq!(lanes(2.9, 0.8).met(), Some(false));
        assert_eq!(lanes(3.0, 0.6).met(), Some(false));
        assert_eq!(outcome("digest", &[(Lane::Ours, &[1.0])]).met(), None);
    }

    #[test]
    fn floor_of_an_import_is_the_longer_of_network_and_cpu() {
        let import = outcome(
            "s3-zlib",
            &[(Lane::Ours, &[2.2]), (Lane::Fixed, &[2.1]), (Lane::Floor, &[2.0]), (Lane::Decode, &[0.5])],
        );
        assert_eq!(import.floor().unwrap().median(), 2.0);
        assert_eq!(import.met(), Some(true));
    }

    #[test]
    fn target_size_is_compared_with_its_goal() {
        let mut longer = outcome("raw-zlib", &[(Lane::Ours, &[1.0]), (Lane::Qemu, &[4.0])]);
        longer.targets = Some((104, 100));
        assert_eq!((longer.size(), longer.met()), (Some(1.04), Some(false)));
    }
}
