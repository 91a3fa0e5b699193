//! One suite, every layout.

use diskferry_core::conformance::check_layout;
use diskferry_core::sink::WriteOrder::{self, Any, Ascending, Sequential};
use diskferry_formats::{Format, TargetOptions, layout};

const EVERY_ORDER: [WriteOrder; 3] = [Any, Ascending, Sequential];

async fn check(format: Format, options: &[(&str, &str)], orders: &[WriteOrder], unit: u64, multiple: u64) {
    let pairs = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let options = TargetOptions { pairs };
    check_layout(&|order| layout(format, &options, order), orders, unit, multiple).await;
}

#[tokio::test]
async fn raw_conforms() {
    check(Format::Raw, &[], &EVERY_ORDER, 65536, 1).await;
}
