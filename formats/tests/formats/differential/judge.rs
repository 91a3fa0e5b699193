//! Compares our reader with the slow reader.

use std::collections::BTreeMap;

use bytes::Bytes;
use diskferry_core::{Error, GuestOffset, GuestRange, Result};
use diskferry_corpus::slow;
use diskferry_formats::{Declared, Format};

use crate::differential::damage::{Dice, damaged};
use crate::differential::seeds::SEEDS;
use crate::differential::stricter::reason;
use crate::support::{block_on, open_as, open_bytes};

/// Number of damaged images. `DIFFERENTIAL_CASES=1000000` runs a longer search.
fn cases() -> u64 {
    std::env::var("DIFFERENTIAL_CASES").map_or(8000, |cases| cases.parse().expect("a number of cases"))
}

/// The compared parts of a disk: all of a small disk; both ends and some of the middle of a large one.
fn parts(size: u64) -> Vec<(u64, u64)> {
    const PART: u64 = 512 << 10;
    if size <= 2 * PART {
        return vec![(0, size)];
    }
    let middle = size / 2 / 4096 * 4096;
    vec![(0, PART), (middle, 4096.min(size - middle)), (size - PART / 8, PART / 8)]
}

/// Some guest bytes of an image, from our reader.
fn ours(format: Format, image: &Bytes, at: u64, len: u64) -> Result<Bytes> {
    let disk = open_as(format, image.clone())?;
    block_on(disk.read(GuestRange::new(GuestOffset::new(at), len).unwrap()))
}

/// The result for one image.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Outcome {
    /// Both read it.
    Same,
    /// Neither reads it.
    Neither,
    /// Ours is stricter, for this reason.
    Stricter(&'static str),
    /// They disagree without a known reason.
    Disagree(String),
}

/// Compares both readers. A partial refusal counts as refused.
pub(crate) fn judge(format: Format, image: &Bytes) -> Outcome {
    let files: [(&str, &[u8]); 1] = [("image", image)];
    let slow = slow::open(format.name(), &files);
    let opened = open_as(format, image.clone()).and_then(|disk| disk.admit().map(|()| disk));
    let disk = match opened {
        Ok(disk) => disk,
        Err(error) => {
            let reads = |slow: &slow::Disk<'_>| {
                let size = slow.virtual_bytes();
                parts(size).iter().all(|(at, len)| slow.read(*at, *len).is_some())
            };
            return if slow.is_some_and(|slow| reads(&slow)) {
                stricter(format, &error)
            } else {
                Outcome::Neither
            };
        }
    };
    let Some(slow) = slow else {
        // Every read may still be refused.
        let read =
            parts(disk.virtual_bytes()).into_iter().find(|(at, len)| ours(format, image, *at, *len).is_ok());
        return match read {
            Some(part) => Outcome::Disagree(format!("ours reads {part:?}, the slow reader does not open it")),
            None => Outcome::Neither,
        };
    };
    if slow.virtual_bytes() != disk.virtual_bytes() {
        let (ours, slow) = (disk.virtual_bytes(), slow.virtual_bytes());
        return Outcome::Disagree(format!("the disk has {ours} bytes, or {slow} as the slow reader has it"));
    }
    let mut outcome = Outcome::Same;
    for (at, len) in parts(disk.virtual_bytes()) {
        let range = GuestRange::new(GuestOffset::new(at), len).unwrap();
        let of_part = match (block_on(disk.read(range)), slow.read(at, len)) {
            (Ok(ours), Some(slow)) if ours == slow => Outcome::Same,
            (Ok(ours), Some(slow)) => {
                let byte = ours.iter().zip(&slow).position(|(a, b)| a != b).unwrap_or_default();
                Outcome::Disagree(format!("guest byte {} differs", at + byte as u64))
            }
            (Ok(_), None) => Outcome::Disagree(format!("ours reads {range:?}, the slow reader does not")),
            (Err(error), Some(_)) => stricter(format, &error),
            (Err(_), None) => Outcome::Neither,
        };
        outcome = outcome.max(of_part);
    }
    outcome
}

fn stricter(format: Format, error: &Error) -> Outcome {
    match reason(format, error) {
        Some(reason) => Outcome::Stricter(reason),
        None => Outcome::Disagree(format!("ours refuses what the slow reader reads: {error:?}")),
    }
}

#[test]
fn valid_images_of_every_kind_match_the_slow_reader() {
    for seed in &*SEEDS {
        let image = Bytes::from(seed.bytes.clone());
        assert_eq!(judge(seed.format, &image), Outcome::Same, "{}", seed.name);
        let detected = open_bytes(image, Declared::Unknown).unwrap();
        assert_eq!(detected.info().format, seed.format.name(), "{}", seed.name);
    }
}

#[test]
fn damaged_images_match_the_slow_reader_or_are_refused_for_a_known_reason() {
    let mut outcomes: BTreeMap<Outcome, u64> = BTreeMap::new();
    let mut unknown = Vec::new();
    let cases = cases();
    for case in 0..cases {
        let seed = &SEEDS[case as usize % SEEDS.len()];
        let image = Bytes::from(damaged(seed, &mut Dice::new(case)));
        let outcome = judge(seed.format, &image);
        if let Outcome::Disagree(what) = &outcome {
            if let Some(dir) = std::env::var_os("KEEP_DISAGREEMENTS") {
                let name = format!("{case}.{}", seed.format);
                std::fs::write(std::path::Path::new(&dir).join(name), &image).unwrap();
            }
            unknown.push(format!("case {case}, {}: {what}", seed.name));
        } else {
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    for (outcome, count) in &outcomes {
        println!("{count:6} {outcome:?}");
    }
    assert!(unknown.is_empty(), "{} disagreements:\n{}", unknown.len(), unknown.join("\n"));
    // A reader that refuses everything must not pass.
    let same = outcomes.get(&Outcome::Same).copied().unwrap_or_default();
    let neither = outcomes.get(&Outcome::Neither).copied().unwrap_or_default();
    assert!(same > cases / 5 && neither > cases / 20, "{same} of {cases} are read, {neither} by neither");
}
