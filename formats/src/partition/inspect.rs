//! Reads the partition tables and the starts of the partitions, in few requests.

use std::collections::BTreeSet;

use bytes::Bytes;
use diskferry_core::{Disk, GuestOffset, GuestRange, Result};
use futures_util::future::try_join;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::contents::{DiskContents, Partition, PartitionTable, PartitionType};
use super::findings::{Content, Findings, check_contents};
use super::gpt::{self, Found, Header, SECTOR_SIZES};
use super::mbr::{self, Record};
use super::signature::{self, PROBE_BYTES};

/// Length of the first read: it covers an MBR, a GPT with its entries, the signatures of a file system on the whole
/// disk, and those of a partition that begins on the second track, as in old layouts. The same length as a source's
/// cached head.
const HEAD_BYTES: u64 = 128 << 10;

/// Offset of a primary GPT, in sectors.
const PRIMARY_LBA: u64 = 1;

/// Length of the read that looks for a backup GPT: header and 16 KiB of entries, for either sector size.
const TAIL_BYTES: u64 = 20 << 10;

/// The most partitions whose start is read, the number of entries in the usual GPT.
const MOST_PROBED: usize = 128;

/// The most concurrent reads. More would not be worth the memory.
const MOST_AT_ONCE: usize = 16;

/// The disk, with the bytes that were already read.
struct Volume<'a> {
    disk: &'a Disk,
    bytes: u64,
    head: Bytes,
    /// Guest address and bytes of the end, if it was read.
    tail: Option<(u64, Bytes)>,
}

/// The result of reading the tables.
struct Tables {
    table: PartitionTable,
    /// Bytes of a sector, if a table shows it.
    sector: Option<u64>,
    partitions: Vec<Partition>,
    findings: Findings,
    /// Expected location of the other copy of a valid GPT: sector number and sector size.
    backup: Option<(u64, u64)>,
}

/// Returns the partition table and the file systems of a disk.
///
/// It reads the first 128 KiB, then in parallel the first 8 KiB of every partition (of the first 128) and the backup
/// header of a GPT: two round trips. Further round trips are needed:
///
/// - one if partitions have no signature there, because then their first 68 KiB are read;
/// - one for each extended boot record;
/// - two if the primary GPT is damaged.
///
/// Bytes that the image maps as zeros cost nothing. A disk that is refused is not read, and then everything is unknown.
///
/// # Errors
/// Those of [`Disk::read`]. A damaged partition table is a warning, not an error.
pub async fn inspect_disk(disk: &Disk) -> Result<DiskContents> {
    if disk.admit().is_err() {
        return Ok(DiskContents::default());
    }
    let mut volume = Volume::open(disk).await?;
    let record = Record::parse(&volume.head);
    let strange = record.and_then(|record| record.strange_flag());
    let primary = gpt::primary(&volume.head);
    let empty = record.is_none_or(|record| record.is_empty());
    let boot_sector = signature::boot_sector(&volume.head);
    // In boot code, the byte at the offset of a type can equal the protective type by chance.
    let is_code = (strange.is_some() || boot_sector.is_some()) && primary == Found::Nothing;
    let protective = !is_code && record.is_some_and(|record| record.is_protective());

    if protective || (matches!(primary, Found::Sound(_)) && empty && boot_sector.is_none()) {
        let tables = volume.gpt(primary, record).await?;
        return volume.finish(tables).await;
    }
    let whole = signature::probe(&volume.head);
    match record {
        // The boot sector of a DOS or Windows volume has the same signature as an MBR.
        Some(record) if boot_sector.is_none() && strange.is_none() && !(empty && whole.is_some()) => {
            let tables = volume.mbr(record, 512).await?;
            volume.finish_mbr(record, tables).await
        }
        _ => {
            let mut layout = DiskContents {
                table: Some(PartitionTable::Absent),
                filesystem: whole,
                ..DiskContents::default()
            };
            let mut findings = Findings::default();
            if let (Some((number, flag)), None) = (strange, whole) {
                findings.damaged(format!(
                    "sector 0 ends in 0xaa55 but is no partition table: the flag of entry {number} is {flag:#04x}"
                ));
            }
            check_contents(&layout, &[], volume.bytes, &mut findings);
            layout.warnings = findings.into_warnings();
            Ok(layout)
        }
    }
}

impl<'a> Volume<'a> {
    async fn open(disk: &'a Disk) -> Result<Self> {
        let mut volume = Self { disk, bytes: disk.virtual_bytes(), head: Bytes::new(), tail: None };
        volume.head = volume.read(0, HEAD_BYTES).await?;
        Ok(volume)
    }

    /// Reads up to `len` bytes at `at`, fewer at the end of the disk.
    async fn read(&self, at: u64, len: u64) -> Result<Bytes> {
        let len = len.min(self.bytes.saturating_sub(at));
        if len == 0 {
            return Ok(Bytes::new());
        }
        let tail = self.tail.as_ref().map(|(start, bytes)| (*start, bytes));
        for (start, kept) in [Some((0, &self.head)), tail].into_iter().flatten() {
            let within = at.checked_sub(start).and_then(|from| {
                let from = usize::try_from(from).ok()?;
                let to = from.checked_add(usize::try_from(len).ok()?)?;
                (to <= kept.len()).then(|| kept.slice(from..to))
            });
            if let Some(bytes) = within {
                return Ok(bytes);
            }
        }
        match GuestRange::new(GuestOffset::new(at), len) {
            Some(range) => self.disk.read(range).await,
            None => Ok(Bytes::new()),
        }
    }

    /// The partitions of an MBR whose sectors have `sector` bytes.
    async fn mbr(&self, record: Record, sector: u64) -> Result<Tables> {
        let mut partitions = Vec::new();
        for (index, entry) in (1..).zip(record.entries) {
            if !entry.is_empty() {
                partitions.push(mbr_partition(index, entry, 0, sector));
            }
        }
        let mut findings = Findings::default();
        let mut chain = BTreeSet::new();
        for container in record.entries.into_iter().filter(|entry| entry.is_extended()) {
            self.logical(container, sector, &mut chain, &mut partitions, &mut findings).await?;
        }
        Ok(Tables { table: PartitionTable::Mbr, sector: Some(sector), partitions, findings, backup: None })
    }

    /// Follows the chain of a container. `chain` has the sectors of all records of the disk so far. A repeated sector
    /// means a loop.
    async fn logical(
        &self,
        container: mbr::Entry,
        sector: u64,
        chain: &mut BTreeSet<u64>,
        partitions: &mut Vec<Partition>,
        findings: &mut Findings,
    ) -> Result<()> {
        let first = u64::from(container.start);
        let mut lba = first;
        loop {
            if chain.len() >= mbr::MOST_LOGICAL {
                findings.damaged(format!("there are more than {} extended boot records", mbr::MOST_LOGICAL));
                return Ok(());
            }
            if !chain.insert(lba) {
                findings.damaged(format!("the chain of extended boot records loops back to sector {lba}"));
                return Ok(());
            }
            let bytes = self.read(lba.saturating_mul(sector), mbr::RECORD_BYTES).await?;
            if (bytes.len() as u64) < mbr::RECORD_BYTES {
                findings.beyond_end(format!(
                    "the extended boot record in sector {lba} is after the end of the disk at byte {}",
                    self.bytes
                ));
                return Ok(());
            }
            let Some(record) = Record::parse(&bytes) else {
                // An unused container may have no record.
                if lba != first || !is_blank(&bytes) {
                    findings.damaged(format!("the extended boot record in sector {lba} has no signature"));
                }
                return Ok(());
            };
            if let Some(entry) = record.logical() {
                let index =
                    partitions.iter().map(|partition| partition.index).fold(4, u32::max).saturating_add(1);
                partitions.push(mbr_partition(index, entry, lba, sector));
            }
            let Some(link) = record.link() else { return Ok(()) };
            lba = first.saturating_add(u64::from(link.start));
        }
    }

    /// The GPT: the primary if it is valid, else its backup.
    async fn gpt(&mut self, primary: Found, record: Option<Record>) -> Result<Tables> {
        let mut findings = Findings::default();
        if !record.is_some_and(|record| record.is_protective()) {
            findings.damaged("the GPT has no protective MBR");
        }
        if record.is_some_and(|record| record.is_hybrid()) {
            let fact = "the MBR of the GPT has its own partitions, which are ignored";
            findings.add("partition_table_hybrid", fact);
        }
        let mut places = Vec::new();
        let why = match primary {
            Found::Sound(header) => match self.entries(&header).await? {
                Ok(entries) => {
                    let backup = Some((header.alternate_lba, header.sector));
                    return Ok(Tables { backup, ..self.gpt_tables(&header, entries, findings) });
                }
                Err(why) => {
                    places.push((header.alternate_lba, header.sector));
                    why
                }
            },
            Found::Damaged(why) => why,
            Found::Nothing => "there is none".to_owned(),
        };
        findings.damaged(format!("the primary GPT cannot be used: {why}"));
        let start = self.bytes.saturating_sub(TAIL_BYTES);
        self.tail = Some((start, self.read(start, TAIL_BYTES).await?));
        let last = |sector: u64| self.bytes.checked_div(sector)?.checked_sub(1);
        places.extend(SECTOR_SIZES.iter().filter_map(|sector| Some((last(*sector)?, *sector))));
        for (lba, sector) in places {
            let Found::Sound(header) = self.header(lba, sector).await? else { continue };
            if let Ok(entries) = self.entries(&header).await? {
                findings.damaged(format!("its backup in sector {lba} is used"));
                return Ok(self.gpt_tables(&header, entries, findings));
            }
        }
        findings.damaged("and there is no valid backup at the end of the disk");
        Ok(Tables {
            table: PartitionTable::Gpt,
            sector: None,
            partitions: Vec::new(),
            findings,
            backup: None,
        })
    }

    async fn header(&self, lba: u64, sector: u64) -> Result<Found> {
        Ok(Header::parse(&self.read(lba.saturating_mul(sector), sector).await?, lba, sector))
    }

    /// Reads the entries of a header, or returns why they are invalid.
    async fn entries(&self, header: &Header) -> Result<Result<Vec<gpt::Entry>, String>> {
        let bytes = self.read(header.entries_at, header.entries_bytes).await?;
        if bytes.len() as u64 != header.entries_bytes {
            return Ok(Err(format!("its entries at byte {} end beyond the disk", header.entries_at)));
        }
        Ok(header.entries(&bytes))
    }

    fn gpt_tables(&self, header: &Header, entries: Vec<gpt::Entry>, mut findings: Findings) -> Tables {
        let last = header.alternate_lba.max(header.last_usable_lba);
        let end = last.saturating_add(1).saturating_mul(header.sector);
        if end > self.bytes {
            findings.beyond_end(format!("the GPT ends at byte {end} and the disk at {}", self.bytes));
        }
        let mut partitions = Vec::new();
        for entry in entries {
            let Some(more) = entry.last_lba.checked_sub(entry.first_lba) else {
                findings.damaged(format!(
                    "entry {} of the GPT ends in sector {}, before its first_lba {}",
                    entry.index, entry.last_lba, entry.first_lba
                ));
                continue;
            };
            partitions.push(Partition {
                index: entry.index,
                start: entry.first_lba.saturating_mul(header.sector),
                bytes: more.saturating_add(1).saturating_mul(header.sector),
                kind: PartitionType::Gpt(entry.kind),
                bootable: entry.bootable,
                filesystem: None,
            });
        }
        Tables { table: PartitionTable::Gpt, sector: Some(header.sector), partitions, findings, backup: None }
    }

    /// Probes the partitions of an MBR and determines the sector size, which an MBR does not store. It is 512 bytes,
    /// unless no content is found at the offsets for 512 and some is found at the offsets for 4096.
    async fn finish_mbr(&self, record: Record, tables: Tables) -> Result<DiskContents> {
        const LONG: u64 = 4096;
        let contents = self.contents(&tables.partitions).await?;
        let known = |contents: &[Content]| contents.iter().any(|content| content.filesystem().is_some());
        let end = |entry: &mbr::Entry| u64::from(entry.start).saturating_add(u64::from(entry.sectors));
        let used = record.entries.iter().filter(|entry| !entry.is_empty());
        let furthest = used.map(end).max().unwrap_or_default().saturating_mul(LONG);
        if furthest != 0 && furthest <= self.bytes && !known(&contents) {
            let long = self.mbr(record, LONG).await?;
            let long_contents = self.contents(&long.partitions).await?;
            if known(&long_contents) {
                return Ok(self.layout(long, &long_contents));
            }
        }
        Ok(self.layout(tables, &contents))
    }

    /// Probes the partitions of a GPT, and checks its other copy.
    async fn finish(&self, mut tables: Tables) -> Result<DiskContents> {
        let check = async {
            match tables.backup {
                Some((PRIMARY_LBA, _)) => {
                    Ok(Some("the alternate_lba of the GPT is its own: it has no backup".to_owned()))
                }
                // Beyond the end: already reported.
                Some((lba, sector)) if lba.saturating_add(1).saturating_mul(sector) <= self.bytes => {
                    Ok(match self.header(lba, sector).await? {
                        Found::Sound(_) => None,
                        Found::Damaged(why) => {
                            Some(format!("the backup GPT in sector {lba} is damaged: {why}"))
                        }
                        Found::Nothing => Some(format!("there is no backup GPT in sector {lba}")),
                    })
                }
                _ => Ok(None),
            }
        };
        let (contents, damage) = try_join(self.contents(&tables.partitions), check).await?;
        if let Some(damage) = damage {
            tables.findings.damaged(damage);
        }
        Ok(self.layout(tables, &contents))
    }

    /// The content of each partition, in order.
    async fn contents(&self, partitions: &[Partition]) -> Result<Vec<Content>> {
        let at_once = self.disk.files().first().map_or(1, |file| file.capabilities().in_flight);
        let probes: Vec<(u64, u64)> = partitions
            .iter()
            .enumerate()
            .map(|(count, partition)| {
                let wanted = !partition.kind.is_extended() && count < MOST_PROBED;
                (partition.start, if wanted { partition.bytes.min(PROBE_BYTES) } else { 0 })
            })
            .collect();
        stream::iter(probes)
            .map(|(start, len)| self.content(start, len))
            .buffered(at_once.clamp(1, MOST_AT_ONCE))
            .try_collect()
            .await
    }

    /// Probes a volume of `len` bytes, at most the probe length. The first few KiB identify most contents; more is read
    /// only for the others.
    async fn content(&self, start: u64, len: u64) -> Result<Content> {
        let mut bytes = self.read(start, len.min(signature::FIRST_BYTES)).await?;
        if bytes.is_empty() {
            return Ok(Content::Unread);
        }
        if let Some(found) = signature::probe(&bytes).filter(|found| found.is_certain_early()) {
            return Ok(Content::Known(found));
        }
        let read = bytes.len() as u64;
        let rest = self.read(start.saturating_add(read), len.saturating_sub(read)).await?;
        if !rest.is_empty() {
            bytes = [bytes, rest].concat().into();
        }
        Ok(match signature::probe(&bytes) {
            Some(found) => Content::Known(found),
            None if is_blank(&bytes) => Content::Blank,
            None => Content::Strange,
        })
    }

    fn layout(&self, tables: Tables, contents: &[Content]) -> DiskContents {
        let Tables { table, sector, mut partitions, mut findings, .. } = tables;
        for (partition, content) in partitions.iter_mut().zip(contents) {
            partition.filesystem = content.filesystem();
        }
        let mut layout = DiskContents {
            table: Some(table),
            sector_bytes: sector,
            filesystem: None,
            partitions,
            warnings: Vec::new(),
        };
        check_contents(&layout, contents, self.bytes, &mut findings);
        layout.warnings = findings.into_warnings();
        layout
    }
}

fn mbr_partition(index: u32, entry: mbr::Entry, relative_to: u64, sector: u64) -> Partition {
    Partition {
        index,
        start: relative_to.saturating_add(u64::from(entry.start)).saturating_mul(sector),
        bytes: u64::from(entry.sectors).saturating_mul(sector),
        kind: PartitionType::Mbr(entry.kind),
        bootable: entry.is_active(),
        filesystem: None,
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
