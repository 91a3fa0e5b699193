//! The lattice of malformed headers: every field of every on-disk structure that a reader parses, at every value that has
//! broken some reader, with the expected outcome.
//!
//! ```text
//! base: a small valid image  ×  structure: its fields, byte for byte  ×  value: 0, 1, sign bit, maximum, …  =  case
//! ```
//!
//! The images are built from the specifications, without the code under test. The fields of a structure must cover it without
//! gaps, which is asserted, so that no field is forgotten. Each field defines the expected outcome for the five values that
//! every number has, and for its own bad values (unaligned, past the end, overlapping, pointing at itself, overflowing). If a
//! structure has a checksum, it is recomputed after the edit, so that the field is tested and not the checksum. A separate
//! case has the stale checksum.

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

/// The kind of a bad value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Value {
    /// 0.
    Zero,
    /// 1.
    One,
    /// Only the highest bit is set.
    SignBit,
    /// One less than the maximum.
    BelowMaximum,
    /// All bits are set.
    Maximum,
    /// The sum with the length of the target, or a product, exceeds 2⁶⁴.
    Overflow,
    /// Not a multiple of the required alignment.
    Unaligned,
    /// Past the end of the object, or the target extends past it.
    PastTheEnd,
    /// Points at another structure.
    Overlapping,
    /// Points at its own structure, or at data that this structure maps.
    SelfReferring,
    /// The smallest invalid value, or the largest valid one.
    Boundary,
    /// A value with a special meaning.
    Meaning,
    /// The structure's checksum is stale.
    Stale,
    /// The object ends at the start of the structure.
    CutAtStart,
    /// The object ends in the middle of the structure.
    CutInMiddle,
    /// The object ends before the last byte of the structure.
    CutOneShort,
    /// The object is zeros from here to its end, like an unfinished download into a preallocated file.
    ZeroedTail,
}

/// The expected outcome of a case.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// It is refused.
    Refused {
        /// The error code.
        code: &'static str,
        /// Text that the message must contain.
        says: &'static str,
        /// The offset that the error must have, in the damaged object; none if the error concerns the whole object.
        at: Option<u64>,
    },
    /// It reads as the undamaged disk after this edit. The second argument is the damaged object.
    Reads(fn(&mut Vec<u8>, &[u8])),
}

/// One damaged image.
#[derive(Clone)]
pub struct Case {
    /// The format, named as on the command line.
    pub format: &'static str,
    /// The image and the damaged structure.
    pub structure: &'static str,
    /// The damaged field.
    pub field: &'static str,
    /// The kind of damage.
    pub value: Value,
    /// The expected outcome.
    pub outcome: Outcome,
    base: Arc<Base>,
    /// Index of the damaged file.
    file: usize,
    edits: Vec<(usize, Vec<u8>)>,
    seals: Vec<Seal>,
    cut: Option<usize>,
}

/// Recomputes the checksum of the structure at the start of the bytes.
type Sum = fn(&mut [u8]);

/// A checksum to recompute: the start of its structure, and the function.
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

    /// The name of the damaged image.
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

    /// The expected disk, or `None` if the image must be refused.
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

/// An undamaged image.
#[derive(Clone, Debug)]
pub struct Unharmed {
    /// The format, named as on the command line.
    pub format: &'static str,
    /// Its name in [`Case::image`].
    pub name: &'static str,
    /// The files with their names; the one to open comes first.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// The expected disk; empty if even the undamaged image must be refused.
    pub disk: Vec<u8>,
}

/// Returns the undamaged images.
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

/// Returns all cases of images.
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
    /// The message must contain this text instead of the field's name.
    const fn says(self, text: &'static str) -> Self {
        match self {
            Self::Refused { code, at, .. } => Self::Refused { code, says: Some(text), at },
            other => other,
        }
    }

    /// The error is at another offset than the field.
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
/// The value does not matter.
const SAME: Expect = Expect::Reads(|_, _| {});
/// The magic number is lost, so the object does not have the declared format.
const UNMARKED: Expect =
    Expect::Refused { code: "format_mismatch", says: Some("has no mark of it"), at: Place::Nowhere };

const fn reads(change: fn(&mut Vec<u8>, &[u8])) -> Expect {
    Expect::Reads(change)
}

/// The five values that every number has, in the order of [`Value`].
const fn all(expect: Expect) -> [Expect; 5] {
    [expect; 5]
}

/// A structure of an image, while its cases are being defined.
struct Structure<'a> {
    out: &'a mut Vec<Case>,
    base: &'a Arc<Base>,
    file: usize,
    name: &'static str,
    /// Its offset, and the offsets of copies that are changed with it.
    places: Vec<usize>,
    len: usize,
    seal: Option<(Sum, Expect)>,
    /// Number of bytes whose fields are defined.
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

    /// Sets the file that contains it, if it is not the first one.
    fn in_file(mut self, file: usize) -> Self {
        self.file = file;
        self
    }

    /// Adds a copy that is changed in the same way.
    fn with_copy(mut self, place: usize) -> Self {
        self.places.push(place);
        self
    }

    /// Sets the function that recomputes its checksum, and the expected outcome of a stale checksum.
    fn sealed(mut self, seal: Sum, stale: Expect) -> Self {
        self.seal = Some((seal, stale));
        self
    }

    /// Only some of its fields are defined here; another structure defines all of them.
    fn from(mut self, offset: usize) -> Self {
        self.described = offset;
        self
    }

    /// Defines the next field, with the expected outcomes of the five values.
    fn number(&mut self, name: &'static str, number: Number, expect: [Expect; 5]) -> &mut Self {
        self.field = (name, self.described, number);
        self.described += number.len();
        assert!(self.described <= self.len, "{} {name} exceeds its structure", self.name);
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

    /// Adds a value of the current field.
    fn and(&mut self, value: Value, number: u64, expect: Expect) -> &mut Self {
        let bytes = self.field.2.bytes(number);
        self.put(value, bytes, &[], expect)
    }

    /// Adds a value of the current field, with these numbers at these offsets of the structure.
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

    /// Defines the next field, which is not a number: its bytes are all zero, one, the highest bit, almost all ones, all ones.
    fn bytes(&mut self, name: &'static str, len: usize, expect: [Expect; 5]) -> &mut Self {
        self.field = (name, self.described, BYTE);
        self.described += len;
        assert!(self.described <= self.len, "{} {name} exceeds its structure", self.name);
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

    /// Adds a value of the current field, which is not a number.
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

    /// Adds cases in which the object ends at its start, in its middle, and before its last byte.
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

    /// Adds cases in which the object is zeros from each of its sectors to the end. `expect` gets the offset of that sector and of
    /// the first trailing zero, because the bytes before the sector may be zeros too.
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

    /// Asserts that all its fields are defined.
    fn complete(&self) {
        assert_eq!(self.described, self.len, "fields of {} are missing", self.name);
    }
}
