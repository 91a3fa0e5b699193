//! Medians and paired ratios.

/// Durations in seconds of the runs of one method, in run order.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

/// The ratio of two series.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Ratio {
    /// The ratio of their medians.
    pub(crate) medians: f64,
    /// The smallest ratio of two runs in the same round.
    pub(crate) least: f64,
    /// The largest ratio of two runs in the same round.
    pub(crate) most: f64,
}

impl Series {
    pub(crate) fn push(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    /// The median; for an even number, the mean of the two middle values. Zero if there are no runs.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.get(middle.saturating_sub(1)..=middle) {
            Some([low, high]) if sorted.len().is_multiple_of(2) => (low + high) / 2.0,
            Some([.., only]) => *only,
            _ => 0.0,
        }
    }

    /// (Maximum − minimum) / median. `None` without a run.
    pub(crate) fn spread(&self) -> Option<f64> {
        let least = self.0.iter().copied().reduce(f64::min)?;
        let most = self.0.iter().copied().reduce(f64::max)?;
        Some((most - least) / self.median()).filter(|spread| spread.is_finite())
    }

    /// The ratio of this series to `other`. `None` if either has no runs, or the median of `other` is zero.
    pub(crate) fn over(&self, other: &Self) -> Option<Ratio> {
        let pairs = self.0.iter().zip(&other.0).map(|(a, b)| a / b);
        let (least, most) = pairs.fold((f64::INFINITY, 0.0f64), |(l, m), r| (l.min(r), m.max(r)));
        let medians = self.median() / other.median();
        (medians.is_finite() && least.is_finite()).then_some(Ratio { medians, least, most })
    }

    /// The longer of the two in each round.
    pub(crate) fn longer(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a.max(*b)).collect())
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(seconds: I) -> Self {
        Self(seconds.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(seconds: &[f64]) -> Series {
        seconds.iter().copied().collect()
    }

    #[test]
    fn median_does_not_depend_on_the_order() {
        assert_eq!(series(&[9.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(series(&[4.0, 1.0, 2.0, 100.0]).median(), 3.0);
        assert_eq!(series(&[7.0]).median(), 7.0);
        assert_eq!(series(&[]).median(), 0.0);
    }

    #[test]
    fn ratio_is_of_medians_and_its_bounds_of_paired_runs() {
        let ratio = series(&[2.0, 4.0, 9.0]).over(&series(&[1.0, 4.0, 2.0])).unwrap();
        assert_eq!(ratio, Ratio { medians: 2.0, least: 1.0, most: 4.5 });
        // A method that ran once is compared with the other's run in the same round.
        let ratio = series(&[30.0]).over(&series(&[10.0, 3.0, 3.0])).unwrap();
        assert_eq!((ratio.medians, ratio.least, ratio.most), (10.0, 3.0, 3.0));
        assert_eq!(series(&[]).over(&series(&[1.0])), None);
        assert_eq!(series(&[1.0]).over(&series(&[0.0])), None);
    }

    #[test]
    fn longer_floor_is_chosen_in_each_round() {
        assert_eq!(series(&[1.0, 5.0]).longer(&series(&[2.0, 3.0])), series(&[2.0, 5.0]));
    }
}
