//! The lattice of malformed headers: every field of every on-disk structure that a reader sees, with every value that
//! has broken a reader somewhere, and the expected outcome.
//!
//! ```text
//! base: a small valid image  ×  structure: its fields, byte for byte  ×  value: 0, 1, sign bit, maximum, …  =  case
//! ```
//!
//! The images are built here from the specifications, without any of the tested readers. The fields of a structure
//! must cover it without gaps, which is checked when the table is built. Each field states the expected outcome for
//! the five values that every number has, and for those that are invalid for it alone (unaligned, past the end,
//! overlapping, self-referring, an overflowing sum). If a structure has a checksum, it is recomputed after the edit,
//! so that the field is tested and not the checksum. A separate case has the stale checksum.

mod build;
mod descriptor;
mod esx;
mod partition;
mod qcow2;
mod stream;
mod vhd;
mod vmdk;

use std::sync::Arc;

pub use partition::{TableCase, tables};

/// The kind of an invalid value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Value {
    /// 0.
    Zero,
    /// 1.
    One,
    /// Only the highest bit is set.
    SignBit,
    /// One less than the largest.
    BelowMaximum,
    /// All bits.
    Maximum,
    /// The sum of the value and the length of what it points at exceeds 2⁶⁴, or a product does.
    Overflow,
    /// Not a multiple of the required alignment.
    Unaligned,
    /// After the end of the object, or so that what it points at ends after it.
    PastTheEnd,
    /// Points at another structure.
    Overlapping,
    /// Points at the structure that contains it, or at what that structure maps.
    SelfReferring,
    /// The smallest invalid value, or the largest valid one.
    Boundary,
    /// A value with a special meaning.
    Meaning,
    /// The checksum of the structure is not updated.
    Stale,
    /// The object ends where the structure begins.
    CutAtStart,
    /// The object ends in the middle of the structure.
    CutInMiddle,
    /// The object lacks the last byte of the structure.
    CutOneShort,
    /// The object is zeros from here to its end, like an unfinished download into a preallocated file.
    ZeroedTail,
}

/// The expected outcome of a case.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// The image is refused.
    Refused {
        /// The stable code of the error.
        code: &'static str,
        /// A part of its message.
        says: &'static str,
        /// The offset that it must have, in bytes of the damaged object; `None` if the error is about the whole
        /// object.
        at: Option<u64>,
    },
    /// It reads as the unharmed disk after this edit. The second argument is the damaged object.
    Reads(fn(&mut Vec<u8>, &[u8])),
}

/// One damaged image.
#[derive(Clone)]
pub struct Case {
    /// The format, as the command line spells it.
    pub format: &'static str,
    /// The image and the structure in it.
    pub structure: &'static str,
    /// The field of the structure.
    pub field: &'static str,
    /// The kind of the invalid value.
    pub value: Value,
    /// The expected outcome.
    pub outcome: Outcome,
    base: Arc<Base>,
    /// The index of the damaged file.
    file: usize,
    edits: Vec<(usize, Vec<u8>)>,
    seals: Vec<Seal>,
    cut: Option<usize>,
}

/// Recomputes the checksum of a structure that begins at the start of the bytes.
type Sum = fn(&mut [u8]);

/// A checksum to recompute: the offset of its structure, and the function.
type Seal = (usize, Sum);

impl Case {
    /// A name for messages.
    pub fn name(&self) -> String {
        let edits: Vec<String> = self
            .edits
            .iter()
            .take(2)
            .map(|(at, bytes)| format!("{at}: {:02x?}", &bytes[..bytes.len().min(16)]))
            .collect();
        let cut = self.cut.map(|len| format!("cut at {len}")).unwrap_or_default();
        format!(
            "{} {}, {} {:?} ({}{cut})",
            self.format,
            self.structure,
            self.field,
            self.value,
            edits.join(", ")
        )
    }

    /// The name of the base image.
    pub fn image(&self) -> &'static str {
        self.base.name
    }

    /// The files with their names; the one to open comes first.
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut files = self.base.files.clone();
        let bytes = &mut files[self.file].1;
        for (at, edit) in &self.edits {
            bytes[*at..*at + edit.len()].copy_from_slice(edit);
        }
        for (start, seal) in &self.seals {
            seal(&mut bytes[*start..]);
        }
        if let Some(len) = self.cut {
            bytes.truncate(len);
        }
        files
    }

    /// The disk that it must read as, or `None` if it is refused.
    pub fn disk(&self) -> Option<Vec<u8>> {
        match self.outcome {
            Outcome::Refused { .. } => None,
            Outcome::Reads(change) => {
                let mut disk = self.base.disk.clone();
                change(&mut disk, &self.files()[self.file].1);
                Some(disk)
            }
        }
    }
}

/// An image before the edit.
#[derive(Clone, Debug)]
pub struct Unharmed {
    /// The format, as the command line spells it.
    pub format: &'static str,
    /// What [`Case::image`] calls it.
    pub name: &'static str,
    /// The files with their names; the one to open comes first.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// The disk that it reads as; empty if it is refused even unharmed.
    pub disk: Vec<u8>,
}

/// The images unharmed.
pub fn bases() -> Vec<Unharmed> {
    let mut bases: Vec<Unharmed> = Vec::new();
    for case in cases() {
        let (format, name) = (case.base.format, case.base.name);
        if !bases.iter().any(|known| (known.format, known.name) == (format, name)) {
            let (files, disk) = (case.base.files.clone(), case.base.disk.clone());
            bases.push(Unharmed { format, name, files, disk });
        }
    }
    bases
}

/// All cases of images.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    qcow2::cases(&mut all);
    vhd::cases(&mut all);
    vmdk::cases(&mut all);
    stream::cases(&mut all);
    esx::cases(&mut all);
    descriptor::cases(&mut all);
    all
}

/// A valid image.
struct Base {
    format: &'static str,
    name: &'static str,
    files: Vec<(&'static str, Vec<u8>)>,
    disk: Vec<u8>,
}

impl Base {
    fn one(format: &'static str, name: &'static str, bytes: Vec<u8>, disk: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { format, name, files: vec![("image", bytes)], disk })
    }
}

/// The encoding of a number.
#[derive(Clone, Copy)]
enum Number {
    Le(usize),
    Be(usize),
}

impl Number {
    fn len(self) -> usize {
        match self {
            Self::Le(len) | Self::Be(len) => len,
        }
    }

    fn maximum(self) -> u64 {
        u64::MAX >> (64 - 8 * self.len())
    }

    fn bytes(self, value: u64) -> Vec<u8> {
        match self {
            Self::Le(len) => value.to_le_bytes()[..len].to_vec(),
            Self::Be(len) => value.to_be_bytes()[8 - len..].to_vec(),
        }
    }
}

const BYTE: Number = Number::Le(1);
const LE16: Number = Number::Le(2);
const LE32: Number = Number::Le(4);
const LE64: Number = Number::Le(8);
const BE16: Number = Number::Be(2);
const BE32: Number = Number::Be(4);
const BE64: Number = Number::Be(8);

/// The expected outcome of a value, relative to its field.
#[derive(Clone, Copy)]
enum Expect {
    Refused { code: &'static str, says: Option<&'static str>, at: Place },
    Reads(fn(&mut Vec<u8>, &[u8])),
}

#[derive(Clone, Copy)]
enum Place {
    Field,
    Byte(usize),
    Nowhere,
}

impl Expect {
    /// The message contains this text and not the field's name.
    const fn says(self, text: &'static str) -> Self {
        match self {
            Self::Refused { code, at, .. } => Self::Refused { code, says: Some(text), at },
            other => other,
        }
    }

    /// The error has another offset than the field's.
    const fn at(self, place: usize) -> Self {
        match self {
            Self::Refused { code, says, .. } => Self::Refused { code, says, at: Place::Byte(place) },
            other => other,
        }
    }
}

const fn refused(code: &'static str) -> Expect {
    Expect::Refused { code, says: None, at: Place::Field }
}

const MALFORMED: Expect = refused("malformed");
const TRUNCATED: Expect = refused("truncated");
const UNSUPPORTED: Expect = refused("unsupported_feature");
/// The value has no effect.
const SAME: Expect = Expect::Reads(|_, _| {});
/// The magic is gone: the object is not in the declared format.
const UNMARKED: Expect =
    Expect::Refused { code: "format_mismatch", says: Some("lacks its magic"), at: Place::Nowhere };

const fn reads(change: fn(&mut Vec<u8>, &[u8])) -> Expect {
    Expect::Reads(change)
}

/// The five values that every number has, in the order of [`Value`].
const fn all(expect: Expect) -> [Expect; 5] {
    [expect; 5]
}

/// A structure of an image, while its cases are defined.
struct Structure<'a> {
    out: &'a mut Vec<Case>,
    base: &'a Arc<Base>,
    file: usize,
    name: &'static str,
    /// The offset of the structure, and of its copies that are changed with it.
    places: Vec<usize>,
    len: usize,
    seal: Option<(Sum, Expect)>,
    /// The number of bytes that are described.
    described: usize,
    /// The current field.
    field: (&'static str, usize, Number),
}

impl<'a> Structure<'a> {
    fn new(
        out: &'a mut Vec<Case>,
        base: &'a Arc<Base>,
        name: &'static str,
        place: usize,
        len: usize,
    ) -> Self {
        let file = 0;
        let field = ("", 0, BYTE);
        Self { out, base, file, name, places: vec![place], len, seal: None, described: 0, field }
    }

    /// The structure is not in the first file.
    fn in_file(mut self, file: usize) -> Self {
        self.file = file;
        self
    }

    /// The structure has a copy that is changed in the same way.
    fn with_copy(mut self, place: usize) -> Self {
        self.places.push(place);
        self
    }

    /// The structure has a checksum, computed by `seal`; a stale one must have the outcome `stale`.
    fn sealed(mut self, seal: Sum, stale: Expect) -> Self {
        self.seal = Some((seal, stale));
        self
    }

    /// Describes only some fields from `offset` on. The whole structure is described elsewhere.
    fn from(mut self, offset: usize) -> Self {
        self.described = offset;
        self
    }

    /// Adds the next field, with the outcomes of the five values.
    fn number(&mut self, name: &'static str, number: Number, expect: [Expect; 5]) -> &mut Self {
        self.field = (name, self.described, number);
        self.described += number.len();
        assert!(self.described <= self.len, "{} {name} passes the end of its structure", self.name);
        let maximum = number.maximum();
        let values = [
            (Value::Zero, 0),
            (Value::One, 1),
            (Value::SignBit, maximum / 2 + 1),
            (Value::BelowMaximum, maximum - 1),
            (Value::Maximum, maximum),
        ];
        for ((value, number), expect) in values.into_iter().zip(expect) {
            self.and(value, number, expect);
        }
        self
    }

    /// Adds one more value of that field.
    fn and(&mut self, value: Value, number: u64, expect: Expect) -> &mut Self {
        let bytes = self.field.2.bytes(number);
        self.put(value, bytes, &[], expect)
    }

    /// Adds one more value of that field, with these other numbers at these offsets of the structure.
    fn given(
        &mut self,
        value: Value,
        number: u64,
        others: &[(usize, Number, u64)],
        expect: Expect,
    ) -> &mut Self {
        let bytes = self.field.2.bytes(number);
        self.put(value, bytes, others, expect)
    }

    /// Adds the next field, of bytes that are not a number: all zero, one, the highest bit, almost full, full.
    fn bytes(&mut self, name: &'static str, len: usize, expect: [Expect; 5]) -> &mut Self {
        self.field = (name, self.described, BYTE);
        self.described += len;
        assert!(self.described <= self.len, "{} {name} passes the end of its structure", self.name);
        let mut almost = vec![0xff; len];
        almost[len - 1] = 0xfe;
        let mut one = vec![0; len];
        one[len - 1] = 1;
        let mut high = vec![0; len];
        high[0] = 0x80;
        let values = [
            (Value::Zero, vec![0; len]),
            (Value::One, one),
            (Value::SignBit, high),
            (Value::BelowMaximum, almost),
            (Value::Maximum, vec![0xff; len]),
        ];
        for ((value, bytes), expect) in values.into_iter().zip(expect) {
            self.put(value, bytes, &[], expect);
        }
        self
    }

    /// Adds one more value of that field, of bytes that are not a number.
    fn and_bytes(&mut self, value: Value, bytes: &[u8], expect: Expect) -> &mut Self {
        self.put(value, bytes.to_vec(), &[], expect)
    }

    fn put(
        &mut self,
        value: Value,
        bytes: Vec<u8>,
        others: &[(usize, Number, u64)],
        expect: Expect,
    ) -> &mut Self {
        let (name, offset, _) = self.field;
        let mut edits = Vec::new();
        for place in &self.places {
            edits.push((place + offset, bytes.clone()));
            for (at, number, value) in others {
                edits.push((place + at, number.bytes(*value)));
            }
        }
        let seals = self.seal.map(|(seal, _)| self.places.iter().map(|place| (*place, seal)).collect());
        let file = &self.base.files[self.file].1;
        let stays = |(seal, _): (Sum, Expect)| {
            let mut bytes = file.clone();
            edits.iter().for_each(|(at, edit)| bytes[*at..*at + edit.len()].copy_from_slice(edit));
            let before = bytes.clone();
            self.places.iter().for_each(|place| seal(&mut bytes[*place..]));
            before == bytes
        };
        if let Some((_, stale)) = self.seal.filter(|seal| !stays(*seal)) {
            self.case(name, offset, Value::Stale, edits.clone(), Vec::new(), None, stale);
        }
        self.case(name, offset, value, edits, seals.unwrap_or_default(), None, expect);
        self
    }

    /// The object ends at the start of the structure, in its middle, and before its last byte.
    fn cut(&mut self, expect: [Expect; 3]) -> &mut Self {
        let (place, len) = (self.places[0], self.len);
        let cuts = [
            (Value::CutAtStart, place),
            (Value::CutInMiddle, place + len / 2),
            (Value::CutOneShort, place + len - 1),
        ];
        for ((value, at), expect) in cuts.into_iter().zip(expect) {
            self.case("the object's end", 0, value, Vec::new(), Vec::new(), Some(at), expect);
        }
        self
    }

    /// The object is zeros from each of its sectors on. `expect` gets the offset of that sector and of the first
    /// zero, since bytes before the sector may be zeros too.
    fn zeroed_tails(&mut self, expect: impl Fn(usize, usize) -> Expect) -> &mut Self {
        let image = self.base.files[self.file].1.clone();
        for at in (0..image.len()).step_by(512) {
            let first = image[..at].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let edits = vec![(at, vec![0; image.len() - at])];
            self.case("the object's end", at, Value::ZeroedTail, edits, Vec::new(), None, expect(at, first));
        }
        self
    }

    #[allow(clippy::too_many_arguments)]
    fn case(
        &mut self,
        field: &'static str,
        offset: usize,
        value: Value,
        edits: Vec<(usize, Vec<u8>)>,
        seals: Vec<Seal>,
        cut: Option<usize>,
        expect: Expect,
    ) {
        let outcome = match expect {
            Expect::Reads(change) => Outcome::Reads(change),
            Expect::Refused { code, says, at } => Outcome::Refused {
                code,
                says: says.unwrap_or(field),
                at: match at {
                    Place::Field => Some((self.places[0] + offset) as u64),
                    Place::Byte(at) => Some(at as u64),
                    Place::Nowhere => None,
                },
            },
        };
        self.out.push(Case {
            format: self.base.format,
            structure: self.name,
            field,
            value,
            outcome,
            base: Arc::clone(self.base),
            file: self.file,
            edits,
            seals,
            cut,
        });
    }

    /// Checks that every byte is described.
    fn complete(&self) {
        assert_eq!(self.described, self.len, "fields of {} are missing", self.name);
    }
}
