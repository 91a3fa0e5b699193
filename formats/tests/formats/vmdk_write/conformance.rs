//! The conformance suite of layouts.

use diskferry_core::{
    WriteOrder::Any, WriteOrder::Ascending, WriteOrder::Sequential, conformance::check_layout,
};

use crate::vmdk_write::made::{STREAM, layout_with};

async fn check(given: &[(&str, &str)]) {
    let make = |order| layout_with(given, order);
    check_layout(&make, &[Any, Ascending, Sequential], 65_536, 512).await;
}

#[tokio::test]
async fn monolithic_sparse_conforms() {
    check(&[]).await;
}

#[tokio::test]
async fn monolithic_sparse_that_is_aligned_conforms() {
    check(&[("align", "1M")]).await;
}

#[tokio::test]
async fn stream_optimized_conforms() {
    check(&[STREAM]).await;
}

#[tokio::test]
async fn stream_optimized_that_is_aligned_conforms() {
    check(&[STREAM, ("align", "1M"), ("level", "1"), ("recompress", "on")]).await;
}
