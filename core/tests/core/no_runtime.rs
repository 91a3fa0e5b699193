//! The errors of a conversion that cannot run.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use diskferry_core::{
    BlockMap, BoxFuture, Conversion, Disk, ErrorKind, Extent, ExtentKind, GuestRange, ImageInfo,
    MemorySource, Result, Warnings,
};

struct Hole;

impl BlockMap for Hole {
    fn extents(&self, window: GuestRange) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { Ok(vec![Extent::new(window, ExtentKind::Hole)]) })
    }

    fn allocated_without_tables(&self) -> Option<u64> {
        Some(0)
    }
}

fn disk() -> Disk {
    let info = ImageInfo::default().virtual_bytes(1 << 20);
    Disk::new(
        info,
        vec![Arc::new(MemorySource::new("x", Vec::new()))],
        Box::new(Hole),
        Warnings::new(),
        Vec::new(),
    )
}

#[test]
fn without_a_runtime_a_conversion_is_an_error() {
    let mut run = pin!(Conversion::reading(disk()).run());
    let Poll::Ready(ended) = run.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for a missing runtime")
    };
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn without_timers_a_conversion_is_an_error_unless_it_has_no_stall_timeout() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ended = runtime.block_on(Conversion::reading(disk()).run());
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Usage);
    runtime.block_on(Conversion::reading(disk()).stall_timeout(None).run()).unwrap();
}
