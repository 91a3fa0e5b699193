//! Writing RAW: every guest byte at its own address, zeros as holes where the sink has them.

use diskferry_core::address::{GuestRange, TargetOffset, TargetRange};
use diskferry_core::error::Result;
use diskferry_core::target::{Layout, Write};
use diskferry_core::transfer::{Item, Order};

use crate::Format;

/// The layout of a raw target: its own map.
pub(crate) struct RawLayout;

impl Layout for RawLayout {
    fn format(&self) -> &'static str {
        Format::Raw.name()
    }

    fn variant(&self) -> String {
        "raw".to_owned()
    }

    fn order(&self) -> Order {
        Order::Any
    }

    fn place(&mut self, item: Item) -> Result<Vec<Write>> {
        Ok(match item {
            Item::Zero(range) => vec![Write::Zero(same(range))],
            Item::Data(scanned) => scanned
                .ranges()
                .map(|(range, zero)| match zero {
                    true => Write::Zero(same(range)),
                    false => Write::Bytes(same(range).start(), vec![scanned.slice(range)]),
                })
                .collect(),
        })
    }

    fn finish(&mut self, virtual_bytes: u64) -> Result<(Vec<Write>, u64)> {
        Ok((Vec::new(), virtual_bytes))
    }
}

/// The same addresses in the target.
fn same(range: GuestRange) -> TargetRange {
    let at = |offset: u64| TargetOffset::new(offset);
    TargetRange::between(at(range.start().get()), at(range.end().get()))
}
