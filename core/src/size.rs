//! Parses a `SIZE` on the command line and in target options.

/// Parses a number of bytes. `K M G T` and `KiB MiB GiB TiB` are powers of 1024, as in qemu-img; `KB MB GB TB` are
/// powers of 1000; no unit means bytes. Case does not matter, spaces may precede the unit, and a fraction must
/// result in whole bytes.
///
/// # Errors
/// One sentence that describes a valid size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const HINT: &str =
        "a size is a number and K, M, G, T (powers of 1024) or KB, MB, GB, TB (powers of 1000)";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        "T" | "TIB" => 1u64 << 40,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(HINT.to_owned()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() || fraction.contains('.') || (number.ends_with('.')) {
        return Err(HINT.to_owned());
    }
    let too_large = || "a size is at most 16 EiB - 1".to_owned();
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let bytes = whole.checked_mul(unit).ok_or_else(too_large)?;
    if fraction.is_empty() {
        return Ok(bytes);
    }
    // 1.5G is 1536 MiB. 1.3K is not a whole number of bytes, and rounding it would be a guess.
    let scale = u32::try_from(fraction.len()).ok().and_then(|digits| 10u128.checked_pow(digits));
    let part = scale.zip(fraction.parse::<u128>().ok()).and_then(|(scale, fraction)| {
        let product = fraction.checked_mul(u128::from(unit))?;
        (product % scale == 0).then_some(product / scale)
    });
    let part = part.ok_or_else(|| "the fraction is not a whole number of bytes".to_owned())?;
    u64::try_from(part).ok().and_then(|part| bytes.checked_add(part)).ok_or_else(too_large)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn letters_are_powers_of_1024_and_units_with_b_powers_of_1000() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("1K", 1 << 10),
            ("64k", 64 << 10),
            ("1KiB", 1 << 10),
            ("1kib", 1 << 10),
            ("256M", 256 << 20),
            ("40G", 40 << 30),
            ("40GiB", 40 << 30),
            ("40 GiB", 40 << 30),
            ("2T", 2 << 40),
            ("1KB", 1_000),
            ("50GB", 50_000_000_000),
            ("50gb", 50_000_000_000),
            ("3TB", 3_000_000_000_000),
            ("1.5G", 3 << 29),
            ("0.5K", 512),
            ("1.25KB", 1250),
            ("1.500M", 3 << 19),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn invalid_sizes_are_refused() {
        for text in [
            "",
            "G",
            "-1",
            "1.",
            ".5G",
            "1..5G",
            "1.2.3",
            "1X",
            "1GX",
            "0x10",
            "1e3",
            "1,5G",
            "40 G iB",
            "18446744073709551616",
            "16777216T",
            "1.3K",
            "1.3",
            "1Ki",
            "½G",
            "nan",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
