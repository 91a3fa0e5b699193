//! What layouts of all formats have in common.

use diskferry_core::error::Error;
use diskferry_core::sink::WriteOrder;
use diskferry_core::target::Writes;
use diskferry_core::transfer::Order;

/// The order in which a layout that is its own map takes bytes, for a sink that takes writes in `order`.
pub(crate) fn in_order_of(order: WriteOrder) -> Order {
    match order {
        WriteOrder::Any => Order::Any,
        WriteOrder::Ascending | WriteOrder::Sequential => Order::Guest,
    }
}

/// No writes.
pub(crate) fn nothing() -> Writes {
    Box::new(std::iter::empty())
}

/// A part of a kind that the layout does not take.
pub(crate) fn not_asked_for() -> Error {
    Error::internal("a layout was given a part of a kind that it does not take")
}
