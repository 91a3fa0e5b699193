//! Feeds a transfer from a disk: its map is read in windows, which are planned and fetched concurrently.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};

use crate::address::{FileIndex, GuestOffset, GuestRange, StoredRange};
use crate::digest::BLOCK;
use crate::disk::{Disk, Extent, ExtentKind};
use crate::engine::delivery::{Delivery, by_job, whole};
use crate::engine::plan::{Fetch, RequestLimits, plan, taper};
use crate::engine::types::{Fed, Fetched, TransferOptions};
use crate::error::{Error, Result};
use crate::layout::Order;
use crate::memory::{Budget, Reservation};
use crate::ranges::without;
use crate::source::BoxFuture;

/// The most extents in a window. It bounds the memory for the map of a window.
const EXTENTS: usize = 65_536;
/// The most extents in a window that are not aligned to blocks. Each may hold a partial block of 4 KiB.
const UNALIGNED: usize = 2048;

/// Stored bytes of the first window, and guest bytes of its first map look-up: data flows while the other tables are
/// read.
const FIRST: u64 = 64 << 20;
const FIRST_LOOK: u64 = 1 << 30;
/// A window should not make requests with a smaller mean length than this.
const SMALL: u64 = 1 << 20;
/// The shortest request that results from splitting a longer one at the start and end of a transfer: two units of 2
/// MiB, with their prefixes.
const TAPERED: u64 = (4 << 20) + (64 << 10);
/// The number of requests that share a link at the start and end of a transfer. More would only add requests.
const ABREAST: usize = 4;

/// One in this many bytes that a window needs may additionally be read through gaps.
const WASTE: u64 = 128;
/// Additional gap bytes, once per image: small images are read whole instead of in many small requests.
const WASTE_ONCE: u64 = 512 << 10;

pub(super) struct MappedFeed {
    disk: Arc<Disk>,
    budget: Budget,
    order: Order,
    done: Arc<[GuestRange]>,
    reserved: u64,
    connections: Option<usize>,
    /// True if any of the files is across a network.
    remote: bool,
    mapped_to: GuestOffset,
    allocated: u64,
    mapping: Option<BoxFuture<'static, Result<Window>>>,
    /// Fetches that wait for memory, in groups that get it at once.
    groups: VecDeque<Group>,
    admission: Option<BoxFuture<'static, Result<Reservation>>>,
    admitted: VecDeque<(Request, Reservation)>,
    reads: FuturesUnordered<BoxFuture<'static, Result<()>>>,
    /// Data that the reads have delivered and nobody has taken yet.
    arrived: Arrived,
    verifying: Option<BoxFuture<'static, Result<()>>>,
    verified: bool,
}

/// Delivered data. Only the feed polls the reads, so nobody ever waits for the lock.
type Arrived = Arc<Mutex<Vec<Fetched>>>;

/// One request, and the deliveries that are handed over as they arrive.
struct Request {
    file: FileIndex,
    deliveries: Vec<Delivery>,
    /// The memory of the request: the bytes that it reads and those that they decode to.
    bytes: u64,
}

impl Request {
    /// A local source reads a whole range before it delivers anything, and holds all of its memory as long as a part
    /// is in use.
    fn new(disk: &Disk, fetch: Fetch) -> Result<Self> {
        let file = fetch.file;
        let remote = disk.file(file)?.capabilities().remote;
        let deliveries = if remote { by_job(fetch) } else { whole(fetch) };
        let bytes = total(deliveries.iter().flat_map(|each| [each.range.len(), each.decoded()]))?;
        Ok(Self { file, deliveries, bytes })
    }
}

/// The sum of `bytes`. The map and so the image decide how large they are.
///
/// # Errors
/// `internal` if it does not fit.
fn total(bytes: impl IntoIterator<Item = u64>) -> Result<u64> {
    let sum = bytes.into_iter().try_fold(0u64, |sum, bytes| sum.checked_add(bytes));
    sum.ok_or_else(|| Error::internal("the stored bytes of a window exceed the address space"))
}

/// Requests that get their memory at once.
struct Group {
    requests: Vec<Request>,
    bytes: u64,
}

impl Group {
    fn new(requests: Vec<Request>) -> Result<Self> {
        Ok(Self { bytes: total(requests.iter().map(|request| request.bytes))?, requests })
    }
}

/// A planned part of the map.
struct Window {
    end: GuestOffset,
    allocated: u64,
    zeros: Vec<GuestRange>,
    fetches: Vec<Fetch>,
}

impl MappedFeed {
    pub(super) fn new(disk: Arc<Disk>, options: &TransferOptions) -> Self {
        // If the whole disk is mapped without a table, it is stored verbatim.
        if options.done.is_empty() && disk.allocated_without_tables() == Some(disk.virtual_bytes()) {
            disk.files().iter().for_each(|file| file.expect_all());
        }
        Self {
            budget: options.budget.clone(),
            order: options.order,
            done: Arc::clone(&options.done),
            reserved: options.reserved,
            connections: options.connections,
            remote: remote(&disk),
            mapped_to: GuestOffset::ZERO,
            allocated: 0,
            mapping: None,
            groups: VecDeque::new(),
            admission: None,
            admitted: VecDeque::new(),
            reads: FuturesUnordered::new(),
            arrived: Arrived::default(),
            verifying: None,
            verified: false,
            disk,
        }
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        self.allocated
    }

    pub(super) fn mapped_bytes(&self) -> u64 {
        self.mapped_to.get()
    }

    /// True if no request can be made until others release memory.
    pub(super) fn waits_for_memory(&self) -> bool {
        self.admission.is_some() && self.reads.is_empty() && self.mapping.is_none()
    }

    /// Requests under way. Those for tables count as one.
    pub(super) fn under_way(&self) -> usize {
        self.reads.len() + usize::from(self.mapping.is_some()) + usize::from(self.verifying.is_some())
    }

    /// One round. If decoded data waits (`backlog`), a local source is not read further. A remote source is: a pause
    /// would waste bandwidth, and the budget bounds the waiting data.
    pub(super) fn advance(
        &mut self,
        cx: &mut Context<'_>,
        fetched: &mut Vec<Fetched>,
        zeros: &mut Vec<GuestRange>,
        backlog: bool,
    ) -> Result<Fed> {
        let mut moved = false;
        if self.mapping.is_none() && !self.mapped_all() && self.groups.len() <= self.ahead() {
            let budget = self.budget.total().checked_sub(self.reserved).filter(|left| *left > 0);
            let budget = budget.ok_or_else(|| Error::internal("a run reserved its whole budget"))?;
            let (disk, done) = (Arc::clone(&self.disk), Arc::clone(&self.done));
            self.mapping = Some(Box::pin(window(disk, self.mapped_to, done, budget, self.order)));
        }
        if let Some(mapping) = &mut self.mapping
            && let Poll::Ready(window) = mapping.as_mut().poll(cx)
        {
            self.mapping = None;
            moved = true;
            let window = window?;
            self.mapped_to = window.end;
            // Windows do not overlap, so the sum fits.
            self.allocated += window.allocated;
            zeros.extend(window.zeros);
            let requests = window.fetches.into_iter().map(|fetch| Request::new(&self.disk, fetch));
            let requests = requests.collect::<Result<Vec<Request>>>()?;
            match self.order {
                Order::Any => {
                    for request in requests {
                        self.groups.push_back(Group::new(vec![request])?);
                    }
                }
                Order::Guest if requests.is_empty() => {}
                Order::Guest => self.groups.push_back(Group::new(requests)?),
            }
        }
        if self.admission.is_none()
            && self.admitted.is_empty()
            && let Some(group) = self.groups.front()
        {
            let (budget, bytes) = (self.budget.clone(), group.bytes);
            self.admission = Some(Box::pin(async move { budget.reserve(bytes).await }));
        }
        if let Some(admission) = &mut self.admission
            && let Poll::Ready(reserved) = admission.as_mut().poll(cx)
        {
            self.admission = None;
            moved = true;
            let mut reserved = reserved?;
            for request in self.groups.pop_front().into_iter().flat_map(|group| group.requests) {
                let reserved = reserved.split(request.bytes);
                self.admitted.push_back((request, reserved));
            }
        }
        while !self.admitted.is_empty()
            && self.reads.len() < self.in_flight()
            && (!backlog || self.remote)
            && let Some((request, reserved)) = self.admitted.pop_front()
        {
            moved = true;
            let arrived = Arc::clone(&self.arrived);
            self.reads.push(Box::pin(read(Arc::clone(&self.disk), request, reserved, arrived)));
        }
        while let Poll::Ready(Some(read)) = Pin::new(&mut self.reads).poll_next(cx) {
            moved = true;
            read?;
        }
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        moved |= !arrived.is_empty();
        fetched.append(&mut arrived);
        drop(arrived);
        if moved {
            return Ok(Fed::Moved);
        }
        let waits = self.mapping.is_some() || self.admission.is_some() || !self.reads.is_empty();
        let left = !self.mapped_all() || !self.groups.is_empty() || !self.admitted.is_empty();
        if waits || left {
            return Ok(Fed::Waiting);
        }
        self.verify(cx)
    }

    /// The recommended number of requests in flight. A source may change it during the transfer.
    fn in_flight(&self) -> usize {
        let worth = self.disk.files().iter().map(|file| file.capabilities().in_flight).max();
        worth.map_or(1, |worth| self.connections.map_or(worth, |most| worth.min(most))).max(1)
    }

    fn mapped_all(&self) -> bool {
        self.mapped_to.get() >= self.disk.virtual_bytes()
    }

    /// The number of groups that may wait before the next window is mapped.
    fn ahead(&self) -> usize {
        match self.order {
            Order::Any => self.in_flight().max(ABREAST),
            Order::Guest => 0,
        }
    }

    /// After the last read: checks that the sources have not changed.
    fn verify(&mut self, cx: &mut Context<'_>) -> Result<Fed> {
        if self.verified {
            return Ok(Fed::Ended);
        }
        let disk = Arc::clone(&self.disk);
        let verifying = self.verifying.get_or_insert_with(|| {
            Box::pin(async move {
                for file in disk.files() {
                    file.verify().await?;
                }
                Ok(())
            })
        });
        match verifying.as_mut().poll(cx) {
            Poll::Pending => Ok(Fed::Waiting),
            Poll::Ready(unchanged) => {
                unchanged?;
                self.verified = true;
                Ok(Fed::Ended)
            }
        }
    }
}

fn remote(disk: &Disk) -> bool {
    disk.files().iter().any(|file| file.capabilities().remote)
}

/// Makes one request, and puts its data into `arrived`.
async fn read(disk: Arc<Disk>, request: Request, mut reserved: Reservation, arrived: Arrived) -> Result<()> {
    let ranges: Vec<StoredRange> = request.deliveries.iter().map(|delivery| delivery.range).collect();
    let mut deliveries: Vec<Option<Delivery>> = request.deliveries.into_iter().map(Some).collect();
    let mut left = deliveries.len();
    let mut give = |index: usize, bytes: Bytes| {
        let fits = ranges.get(index).is_some_and(|range| range.len() == bytes.len() as u64);
        let Some(delivery) = deliveries.get_mut(index).filter(|_| fits).and_then(Option::take) else {
            return;
        };
        left -= 1;
        let bytes = reserved.split(delivery.range.len()).hold(bytes);
        let reserved = reserved.split(delivery.decoded());
        let fetched = Fetched { pieces: delivery.pieces(&bytes), reserved };
        arrived.lock().unwrap_or_else(PoisonError::into_inner).push(fetched);
    };
    disk.file(request.file)?.read_parts(&ranges, &mut give).await?;
    match left {
        0 => Ok(()),
        _ => Err(Error::internal(format!("a source left out {left} of {} ranges", ranges.len()))),
    }
}

/// Maps from `from` on, as far as a window reaches, and plans the part of it that is not `done`.
async fn window(
    disk: Arc<Disk>,
    from: GuestOffset,
    done: Arc<[GuestRange]>,
    budget: u64,
    order: Order,
) -> Result<Window> {
    // In guest order a whole window is in memory at once, while the next one is fetched.
    let most = match order {
        Order::Guest => budget / 3,
        Order::Any => (budget * 4).max(1 << 30),
    };
    let (remote, first) = (remote(&disk), from == GuestOffset::ZERO);
    let once = if first { WASTE_ONCE } else { 0 };
    let mut mapped = Mapped { at: from, done, extents: Vec::new(), bytes: 0, unaligned: 0, allocated: 0 };
    let mut fetches = None;
    if first && remote && order == Order::Any {
        mapped.collect(&disk, FIRST.min(most), FIRST_LOOK).await?;
        let soon = mapped.plan(&disk, budget, once);
        // A small window of a fragmented image makes many small requests. Only a wide window can be read efficiently
        // in stored order.
        let worth = mapped.needed() / SMALL + ABREAST as u64;
        fetches = Some(soon).filter(|fetches| fetches.len() as u64 <= worth);
    }
    let mut fetches = match fetches {
        Some(fetches) => fetches,
        None => {
            mapped.collect(&disk, most, disk.virtual_bytes()).await?;
            mapped.plan(&disk, budget, once)
        }
    };
    let last = mapped.at.get() >= disk.virtual_bytes();
    if remote && order == Order::Any {
        fetches = taper(fetches, ABREAST, TAPERED.min(budget / 32), first, last);
    }
    Ok(Window { end: mapped.at, allocated: mapped.allocated, zeros: mapped.zeros(), fetches })
}

/// A part of the map, from its start up to `at`.
struct Mapped {
    at: GuestOffset,
    done: Arc<[GuestRange]>,
    extents: Vec<Extent>,
    /// The memory for reading and decoding its extents.
    bytes: u64,
    unaligned: usize,
    allocated: u64,
}

impl Mapped {
    /// Maps on until `most` bytes or the largest number of extents is reached. `look` is the size of the first map
    /// look-up.
    async fn collect(&mut self, disk: &Disk, most: u64, mut look: u64) -> Result<()> {
        let end = GuestOffset::new(disk.virtual_bytes());
        let full =
            |this: &Self| this.bytes >= most || this.unaligned >= UNALIGNED || this.extents.len() >= EXTENTS;
        while self.at < end && !full(self) {
            let to = self.at.checked_add(look).map_or(end, |to| to.min(end));
            // If the look-up found little, the next ones are wider.
            look = look.checked_mul(4).unwrap_or(look);
            for mut extent in disk.extents(GuestRange::between(self.at, to)).await? {
                debug_assert!(self.bytes < most, "the window is not full");
                let left = (most - self.bytes).max(BLOCK);
                let cut = matches!(extent.kind, ExtentKind::Data(_)) && extent.guest.len() > left;
                if cut {
                    let keep = extent.guest.split_at(left - left % BLOCK).0;
                    extent = extent.clip(keep).unwrap_or(extent);
                }
                let guest = extent.guest;
                let wanted = self.wanted(&extent);
                let more = total(wanted.iter().flat_map(|extent| {
                    let coded = matches!(extent.kind, ExtentKind::Coded(_));
                    let stored = extent.to_fetch().map_or(0, |stored| stored.range.len());
                    [stored, if coded { extent.guest.len() } else { 0 }]
                }))?;
                if self.bytes > 0 && more > most - self.bytes && !cut {
                    return Ok(());
                }
                self.at = guest.end();
                self.bytes = total([self.bytes, more])?;
                if extent.is_allocated() {
                    self.allocated += guest.len();
                }
                if !(guest.start().is_aligned(BLOCK) && (guest.end().is_aligned(BLOCK) || self.at == end)) {
                    self.unaligned += 1;
                }
                self.extents.extend(wanted);
                if cut || full(self) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The parts of `extent` that must be read: all of it in nearly every run. A coded unit is read whole if any part
    /// is needed.
    fn wanted(&self, extent: &Extent) -> Vec<Extent> {
        let coded = matches!(extent.kind, ExtentKind::Coded(_));
        let mut left = without(extent.guest, &self.done).filter_map(|range| extent.clip(range));
        if coded { left.next().into_iter().collect() } else { left.collect() }
    }

    /// Stored bytes that it needs.
    fn needed(&self) -> u64 {
        self.extents.iter().filter_map(Extent::to_fetch).map(|stored| stored.range.len()).sum()
    }

    /// The requests, with at most a share of the needed bytes plus `once` bytes of gaps.
    fn plan(&self, disk: &Disk, budget: u64, once: u64) -> Vec<Fetch> {
        plan(&self.extents, self.needed() / WASTE + once, |file| {
            let can = disk.file(file).map(|file| file.capabilities());
            RequestLimits {
                bytes: can.as_ref().map_or(1 << 20, |can| can.request_bytes).min(budget / 8),
                decoded: budget / 8,
                gap: can.as_ref().map_or(0, |can| can.gap_bytes),
            }
        })
    }

    fn zeros(&self) -> Vec<GuestRange> {
        let mut zeros: Vec<GuestRange> = Vec::new();
        for extent in self.extents.iter().filter(|extent| extent.is_zero()) {
            match zeros.last_mut() {
                Some(last) if last.end() == extent.guest.start() => {
                    *last = GuestRange::between(last.start(), extent.guest.end());
                }
                _ => zeros.push(extent.guest),
            }
        }
        zeros
    }
}
