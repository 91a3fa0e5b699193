//! Times in presigned URLs.

use std::time::{Duration, SystemTime};

/// Parses a time in UTC from 1970 to 9999: `YYYY-MM-DDThh:mm:ss[.fraction]Z` (RFC 3339) or `YYYYMMDDThhmmssZ`. A fraction
/// is dropped.
pub(super) fn parse_utc(text: &str) -> Option<SystemTime> {
    let text = text.trim().strip_suffix('Z')?;
    let (stamp, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let template = if stamp.contains('-') { "0000-00-00T00:00:00" } else { "00000000T000000" };
    let fits = |(byte, expected): (u8, u8)| match expected {
        b'0' => byte.is_ascii_digit(),
        _ => byte == expected,
    };
    let is_digit = |byte: u8| byte.is_ascii_digit();
    if stamp.len() != template.len()
        || !stamp.bytes().zip(template.bytes()).all(fits)
        || fraction.is_empty()
        || !fraction.bytes().all(is_digit)
    {
        return None;
    }
    let digits: String = stamp.chars().filter(char::is_ascii_digit).collect();
    let field = |from: usize, to: usize| digits.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (field(0, 4)?, field(4, 6)?, field(6, 8)?);
    let (hour, minute, second) = (field(8, 10)?, field(10, 12)?, field(12, 14)?);
    let days = days_since_1970(year, month, day)?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // At most 9999 years of seconds.
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Days from 1970-01-01 to a date of four digits; `None` if there is no such date.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let months = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month.checked_sub(1)?).ok()?;
    if day == 0 || day > *months.get(before)? {
        return None;
    }
    let years = year.checked_sub(1970)?;
    let leap_days = |last: u64| last / 4 - last / 100 + last / 400;
    let leap_years = leap_days(year - 1) - leap_days(1969);
    Some(years * 365 + leap_years + months.iter().take(before).sum::<u64>() + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        parse_utc(text).map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn both_forms_are_read_and_leap_years_are_counted() {
        // `date -u -d TEXT +%s`
        for (text, want) in [
            ("1970-01-01T00:00:00Z", 0),
            ("20130524T000000Z", 1_369_353_600),
            ("2013-05-24T12:34:56.789Z", 1_369_398_896),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(seconds(text), Some(want), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_time() {
        for text in [
            "",
            "Z",
            "2013-05-24",
            "2013-05-24T00:00:00",
            "2013-05-24T00:00:00+01:00",
            "2013-05-24T00:00:00.Z",
            "2013-05-24T00:00:00.xZ",
            "2013-05-24 00:00:00Z",
            "2013-13-24T00:00:00Z",
            "2013-00-24T00:00:00Z",
            "2013-02-29T00:00:00Z",
            "2013-05-00T00:00:00Z",
            "2013-05-24T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "2013é524T000000Z",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
