//! Images that are read in one pass.

use std::sync::Arc;

use bytes::Bytes;
use diskferry_core::{
    BoxFuture, Conversion, ErrorKind, ExtentKind, GuestOffset, GuestRange, ImageInfo, ImageStream,
    MemorySink, Order, Piece, Report, Result, Target, Warning,
};
use proptest::prelude::*;

use crate::engine::made::{Identity, Made, any_disk, block_on, digest_of, resources};

/// Returns its pieces one after the other.
struct Pieces {
    geometry: ImageInfo,
    known: bool,
    pieces: std::vec::IntoIter<Piece>,
    given: u64,
}

impl Pieces {
    fn boxed(size: u64, known: bool, pieces: Vec<Piece>) -> Box<dyn ImageStream> {
        let geometry = ImageInfo::default().format("test").virtual_bytes(size);
        Box::new(Self { geometry, known, pieces: pieces.into_iter(), given: 0 })
    }
}

impl ImageStream for Pieces {
    fn info(&self) -> &ImageInfo {
        &self.geometry
    }

    fn virtual_bytes_known(&self) -> bool {
        self.known
    }

    fn stored_bytes(&self) -> u64 {
        self.given
    }

    fn warnings(&self) -> Vec<Warning> {
        Vec::new()
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Option<Piece>>> {
        Box::pin(async move {
            let piece = self.pieces.next();
            self.given += piece.as_ref().map_or(0, |piece| piece.bytes.len() as u64);
            Ok(piece)
        })
    }
}

fn plain(start: u64, bytes: impl Into<Bytes>) -> Piece {
    let bytes = bytes.into();
    let guest = GuestRange::new(GuestOffset::new(start), bytes.len() as u64).unwrap();
    Piece { guest, bytes, codec: None, stored_at: start }
}

/// The stored pieces of a disk, in guest order.
fn pieces(made: &Made) -> Vec<Piece> {
    let piece = |extent: &diskferry_core::Extent| {
        let range = extent.to_fetch()?.range;
        let (start, end) = (range.start().get() as usize, range.end().get() as usize);
        let codec = match &extent.kind {
            ExtentKind::Coded(coded) => Some(Arc::clone(&coded.codec)),
            _ => None,
        };
        let bytes = Bytes::copy_from_slice(&made.store[start..end]);
        Some(Piece { guest: extent.guest, bytes, codec, stored_at: range.start().get() })
    };
    made.extents.iter().filter_map(piece).collect()
}

fn convert(stream: Box<dyn ImageStream>, order: Order) -> (Result<Report>, Option<Vec<u8>>) {
    let sink = MemorySink::new();
    let target = Target { layout: Box::new(Identity(order)), sink: Box::new(sink.clone()) };
    let run = Conversion::new(stream, target).resources(resources()).run();
    let ended = block_on(async {
        tokio::time::timeout(std::time::Duration::from_secs(120), run).await.expect("it hangs")
    });
    (ended, sink.published())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_stream_gives_the_disk_of_its_pieces(made in any_disk(), turn in any::<prop::sample::Index>()) {
        let size = made.guest.len() as u64;
        for order in [Order::Any, Order::Guest] {
            let mut pieces = pieces(&made);
            if order == Order::Any && !pieces.is_empty() {
                let turn = turn.index(pieces.len());
                pieces.rotate_left(turn);
            }
            let (report, published) = convert(Pieces::boxed(size, true, pieces), order);
            prop_assert_eq!(report.unwrap().digest, Some(digest_of(&made.guest)));
            prop_assert!(published.unwrap() == made.guest, "{order:?}");
        }
    }
}

#[test]
fn a_stream_of_unknown_length_may_have_any_length_and_pieces() {
    for (len, bit) in [(0, 1), (1, 1), (4095, 1), (4096, 4096), (4097, 7), (10_000, 1), (3_000_001, 65_537)] {
        let bytes: Vec<u8> = (0..len).map(|i| (i / 700 % 3) as u8).collect();
        let mut at = 0;
        let bits = bytes.chunks(bit).map(|bit| {
            at += bit.len() as u64;
            plain(at - bit.len() as u64, bit.to_vec())
        });
        let bits = bits.collect::<Vec<_>>();
        for order in [Order::Any, Order::Guest] {
            let (report, published) = convert(Pieces::boxed(len, false, bits.clone()), order);
            let report = report.unwrap();
            assert_eq!(report.digest, Some(digest_of(&bytes)), "{len} by {bit}");
            assert_eq!((report.image.virtual_bytes, report.sizes.object_bytes), (len, len));
            assert!(published.unwrap() == bytes, "{len} by {bit}, {order:?}");
        }
    }
}

#[test]
fn a_gap_does_not_block_a_budget_full_of_later_data() {
    let mut bytes = vec![0; 40 << 20];
    bytes[1 << 20..].fill(7);
    let pieces = (1..40u64).map(|at| plain(at << 20, vec![7; 1 << 20])).collect();
    let (report, published) = convert(Pieces::boxed(40 << 20, true, pieces), Order::Guest);
    report.unwrap();
    assert!(published.unwrap() == bytes);
}

#[test]
fn an_unordered_stream_works_in_any_order_and_fails_in_guest_order() {
    let pieces = || vec![plain(8192, vec![1; 4096]), plain(0, vec![2; 4096])];
    let (report, published) = convert(Pieces::boxed(12288, true, pieces()), Order::Any);
    report.unwrap();
    assert_eq!(published.unwrap()[..4096], [2; 4096]);
    let (report, published) = convert(Pieces::boxed(12288, true, pieces()), Order::Guest);
    assert_eq!(report.unwrap_err().kind(), ErrorKind::UnsupportedFeature);
    assert_eq!(published, None);
}

#[test]
fn a_repeated_piece_or_one_after_the_end_is_malformed() {
    for second in [0, 2048, 6144, 10240] {
        let pieces = vec![plain(2048, vec![1; 4096]), plain(second, vec![2; 4096])];
        let (report, published) = convert(Pieces::boxed(12288, true, pieces), Order::Any);
        let wrong = second != 6144;
        assert_eq!(report.err().map(|error| error.kind()), wrong.then_some(ErrorKind::Malformed), "{second}");
        assert_eq!(published.is_none(), wrong);
    }
}
