//! Strided copies, evaluated for any range of the output.
//!
//! Every copy is normalised once: dimensions of one element go, neighbouring dimensions that walk
//! on in both tensors become one, and what is contiguous in both becomes a run of bytes. A range
//! of the output then meets each copy in a few boxes that lie in the range as a whole, and those
//! are copied without further tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::coded::{Coded, Decoded};
use super::packed::Packed;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::Source;
use crate::checkpoint::DType;
use crate::plan::program::{Input, Packing, Program, StridedCopy};

/// The copies of one output, checked against their storages and ready to run.
pub struct Gather<'a> {
    copies: Vec<Prepared<'a>>,
    len: usize,
    unit: usize,
    /// What of the coded storages is decoded.
    decoded: Decoded,
}

/// One copy, counted in bytes.
struct Prepared<'a> {
    storage: Storage<'a>,
    input: usize,
    output: usize,
    /// Slowest in the output first.
    dims: Vec<Stride>,
    /// The bytes that are contiguous in both tensors.
    run: usize,
    /// The bytes of the number to turn, for storages with the high byte first; 1 where not.
    turn: usize,
}

/// What a copy reads.
enum Storage<'a> {
    /// Bytes as they are.
    Plain(&'a [u8]),
    /// Numbers that are packed, as F32.
    Packed(Packed<'a>),
    /// Bytes that are coded; several copies may read them.
    Coded(Arc<Coded<'a>>),
}

impl Storage<'_> {
    fn len(&self) -> u64 {
        match self {
            Storage::Plain(bytes) => bytes.len() as u64,
            Storage::Packed(packed) => packed.len(),
            Storage::Coded(coded) => coded.len(),
        }
    }
}

#[derive(Clone, Copy)]
struct Stride {
    len: usize,
    input: usize,
    output: usize,
}

impl<'a> Gather<'a> {
    /// Checks and normalises the copies of an output of `len` bytes.
    ///
    /// # Errors
    /// A copy passes its storage or the output, writes one place twice, disagrees with its input
    /// about the unit, or all copies together have not as many units as the output.
    pub fn new(
        source: &'a Source,
        inputs: &'a [Input],
        program: &Program,
        len: u64,
    ) -> Result<Gather<'a>> {
        let unit = program.unit;
        if unit == 0 || !len.is_multiple_of(unit) {
            return Err(broken(format!(
                "{len} bytes of output are no multiple of a unit of {unit}"
            )));
        }
        let mut copies = Vec::with_capacity(program.copies.len());
        let mut coded: BTreeMap<usize, Arc<Coded<'a>>> = BTreeMap::new();
        let mut n_units = 0u64;
        for copy in &program.copies {
            let n = copy.dims.iter().try_fold(1u64, |n, dim| n.checked_mul(dim.len));
            n_units = n
                .and_then(|n| n_units.checked_add(n))
                .ok_or_else(|| broken("the copies of an output pass 2^64 units".to_owned()))?;
            if n == Some(0) {
                continue;
            }
            let input = inputs.get(copy.input).ok_or_else(|| {
                broken(format!("input {} of a copy, the plan has {}", copy.input, inputs.len()))
            })?;
            copies.push(prepare(source, input, program, copy, len, &mut coded)?);
        }
        if n_units != len / unit {
            let message = format!("the copies fill {n_units} units, the output has {}", len / unit);
            return Err(broken(message));
        }
        copies.sort_by_key(|copy| copy.output);
        let too_large = || broken(format!("an output of {len} bytes"));
        Ok(Gather {
            copies,
            len: usize::try_from(len).map_err(|_| too_large())?,
            unit: usize::try_from(unit).map_err(|_| too_large())?,
            decoded: Decoded::default(),
        })
    }

    /// The bytes of all of it.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of one element as copied; ranges start and end on a multiple of it.
    pub fn unit(&self) -> u64 {
        self.unit as u64
    }

    /// All bytes where they lie, if the output is one contiguous part of one storage.
    pub fn contiguous(&self) -> Option<&'a [u8]> {
        match self.copies.as_slice() {
            [] => Some(&[]),
            [Prepared { storage: Storage::Plain(bytes), input, dims, run, turn: 1, .. }]
                if dims.is_empty() =>
            {
                Some(&bytes[*input..][..*run])
            }
            _ => None,
        }
    }

    /// Fills `buffer` with the bytes of the output from `start` on.
    ///
    /// # Errors
    /// A coded storage cannot be decoded.
    ///
    /// # Panics
    /// The range passes the output or cuts an element.
    pub fn fill(&self, start: u64, buffer: &mut [u8]) -> Result<()> {
        let lo = usize::try_from(start).expect("the range lies in the output");
        let hi = lo.checked_add(buffer.len()).expect("the range lies in the output");
        assert!(hi <= self.len, "bytes {lo}..{hi} of an output of {}", self.len);
        assert!(lo.is_multiple_of(self.unit) && hi.is_multiple_of(self.unit), "cuts an element");
        if lo == hi {
            return Ok(());
        }
        for copy in &self.copies {
            if hi <= copy.output {
                break;
            }
            if copy.output + span(&copy.dims, copy.run) <= lo {
                continue;
            }
            let decoded;
            let plain = match &copy.storage {
                Storage::Plain(bytes) => *bytes,
                Storage::Packed(_) => &[],
                Storage::Coded(coded) => {
                    decoded = self.decoded.of(coded)?;
                    decoded.as_slice()
                }
            };
            let mut window = Window { copy, plain, range: lo..hi, buffer: &mut *buffer };
            window.fill(&copy.dims, copy.input, copy.output);
        }
        if hi == self.len {
            for copy in &self.copies {
                if let Storage::Packed(packed) = &copy.storage {
                    packed.release();
                }
            }
            self.decoded.release();
        }
        Ok(())
    }
}

#[cold]
fn broken(message: String) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

/// Turns a copy in units into one in bytes, as short as it can be said.
fn prepare<'a>(
    source: &'a Source,
    input: &'a Input,
    program: &Program,
    copy: &StridedCopy,
    len: u64,
    coded: &mut BTreeMap<usize, Arc<Coded<'a>>>,
) -> Result<Prepared<'a>> {
    let unit = program.unit;
    let whole_blocks = input.blocks().filter(|_| program.gathered == DType::U8);
    let (dtype, input_unit) = match whole_blocks {
        Some(blocks) => (DType::U8, blocks.block_bytes as u64),
        None => (input.dtype, input.unit),
    };
    if input_unit != unit || dtype != program.gathered {
        return Err(broken(format!(
            "`{}` has {dtype} elements of {input_unit} bytes, the program gathers {} of {unit}",
            input.name, program.gathered
        )));
    }
    let storage = match &input.packing {
        _ if let Some(coding) = &input.coding => {
            let bytes = source.slice(input.storage)?;
            let path = source.path(input.storage.file);
            let made = || Arc::new(Coded::new(&input.name, path, input.storage, bytes, coding));
            Storage::Coded(Arc::clone(coded.entry(copy.input).or_insert_with(made)))
        }
        Some(Packing::Blocks(blocks)) if whole_blocks.is_none() => {
            Storage::Packed(Packed::blocks(blocks, source.slice(input.storage)?))
        }
        Some(Packing::Parts(parts)) => {
            let packed = Packed::parts(source, parts);
            Storage::Packed(packed.map_err(|err| err.context(&format!("`{}`", input.name)))?)
        }
        _ => Storage::Plain(source.slice(input.storage)?),
    };
    let inside = |offset: u64, stride: fn(&crate::plan::program::Dim) -> u64, limit: u64| {
        let mut last = Some(offset);
        for dim in &copy.dims {
            let step = (dim.len - 1).checked_mul(stride(dim));
            last = last.zip(step).and_then(|(last, step)| last.checked_add(step));
        }
        let end = last.and_then(|last| last.checked_add(1)?.checked_mul(unit));
        end.is_some_and(|end| end <= limit)
    };
    if !inside(copy.input_offset, |dim| dim.input_stride, storage.len()) {
        let message =
            format!("`{}` reads past its storage of {} bytes", input.name, input.storage.len);
        return Err(
            Error::malformed(input.storage.start, message).in_file(source.path(input.storage.file))
        );
    }
    if !inside(copy.output_offset, |dim| dim.output_stride, len) {
        return Err(broken(format!("a copy of `{}` passes the {len} bytes of output", input.name)));
    }
    // `inside` holds, so what follows fits: a stride of more than one element is less than the
    // storage or the output, and both lie in memory or are cut into ranges that do.
    let bytes = |units: u64| usize::try_from(units.saturating_mul(unit)).unwrap_or(usize::MAX);
    let mut dims: Vec<Stride> = Vec::with_capacity(copy.dims.len());
    for dim in copy.dims.iter().filter(|dim| dim.len != 1) {
        if dim.output_stride == 0 {
            let message = format!("a copy of `{}` writes one place {} times", input.name, dim.len);
            return Err(broken(message));
        }
        dims.push(Stride {
            len: usize::try_from(dim.len).unwrap_or(usize::MAX),
            input: bytes(dim.input_stride),
            output: bytes(dim.output_stride),
        });
    }
    dims.sort_by_key(|dim| dim.output);
    let mut run = bytes(1);
    let mut merged: Vec<Stride> = Vec::with_capacity(dims.len());
    for dim in dims {
        match merged.last_mut() {
            None if dim.input == run && dim.output == run => run *= dim.len,
            Some(inner)
                if inner.input.checked_mul(inner.len) == Some(dim.input)
                    && inner.output.checked_mul(inner.len) == Some(dim.output) =>
            {
                inner.len *= dim.len;
            }
            _ => merged.push(dim),
        }
    }
    merged.reverse();
    Ok(Prepared {
        storage,
        input: bytes(copy.input_offset),
        output: bytes(copy.output_offset),
        dims: merged,
        run,
        turn: if input.big_endian { number_len(input.dtype, bytes(1)) } else { 1 },
    })
}

/// The bytes of the numbers in an element of `unit` bytes: a complex element has two.
fn number_len(dtype: DType, unit: usize) -> usize {
    match dtype {
        DType::C64 => 4,
        DType::C128 => 8,
        _ => unit,
    }
}

/// The bytes from the first to the last place of the output.
fn span(dims: &[Stride], run: usize) -> usize {
    dims.iter().map(|dim| (dim.len - 1) * dim.output).sum::<usize>() + run
}

/// One copy, and the range of the output that is wanted of it.
struct Window<'w, 'a> {
    copy: &'w Prepared<'a>,
    /// The bytes that the copy reads, unless they are numbers that are packed.
    plain: &'w [u8],
    range: Range<usize>,
    buffer: &'w mut [u8],
}

impl Window<'_, '_> {
    /// Copies what lies in the range of the box `dims` at the given places.
    fn fill(&mut self, dims: &[Stride], input: usize, output: usize) {
        let Range { start: lo, end: hi } = self.range;
        let end = output + span(dims, self.copy.run);
        if end <= lo || hi <= output {
            return;
        }
        if lo <= output && end <= hi {
            return self.fill_box(dims, input, output);
        }
        let Some((&first, rest)) = dims.split_first() else {
            let start = lo.max(output);
            self.copy_run(input + (start - output), start - lo, end.min(hi) - start);
            return;
        };
        let inner = span(rest, self.copy.run);
        let touched_from = (lo + 1).saturating_sub(output + inner).div_ceil(first.output);
        let touched_to = first.len.min((hi - output).div_ceil(first.output));
        let whole_from = lo.saturating_sub(output).div_ceil(first.output).max(touched_from);
        let whole_to = match hi.checked_sub(output + inner) {
            Some(room) => touched_to.min(room / first.output + 1),
            None => 0,
        };
        let at = |i: usize| (input + i * first.input, output + i * first.output);
        if whole_to <= whole_from {
            for i in touched_from..touched_to {
                let (input, output) = at(i);
                self.fill(rest, input, output);
            }
            return;
        }
        for i in (touched_from..whole_from).chain(whole_to..touched_to) {
            let (input, output) = at(i);
            self.fill(rest, input, output);
        }
        let mut dims = dims.to_vec();
        dims[0].len = whole_to - whole_from;
        let (input, output) = at(whole_from);
        self.fill_box(&dims, input, output);
    }

    /// Copies a box that lies in the range as a whole.
    fn fill_box(&mut self, dims: &[Stride], input: usize, output: usize) {
        let output = output - self.range.start;
        if dims.is_empty() {
            return self.copy_run(input, output, self.copy.run);
        }
        let all;
        let storage = match &self.copy.storage {
            Storage::Plain(_) | Storage::Coded(_) => self.plain,
            Storage::Packed(packed) if packed.holds(self.copy.run) => &[],
            Storage::Packed(packed) => {
                all = packed.all();
                all.as_slice()
            }
        };
        match (self.copy.run, self.copy.turn) {
            (1, _) => copy_elements::<1>(storage, self.buffer, dims, input, output),
            (2, 1) => copy_elements::<2>(storage, self.buffer, dims, input, output),
            (4, 1) => copy_elements::<4>(storage, self.buffer, dims, input, output),
            (8, 1) => copy_elements::<8>(storage, self.buffer, dims, input, output),
            (16, 1) => copy_elements::<16>(storage, self.buffer, dims, input, output),
            _ => for_each(dims, input, output, &mut |input, output| {
                self.copy_run(input, output, self.copy.run);
            }),
        }
    }

    /// Copies contiguous bytes to the buffer, and turns their numbers if need be.
    fn copy_run(&mut self, input: usize, output: usize, len: usize) {
        let run = &mut self.buffer[output..][..len];
        match &self.copy.storage {
            Storage::Plain(_) | Storage::Coded(_) => {
                run.copy_from_slice(&self.plain[input..][..len]);
            }
            Storage::Packed(packed) => packed.fill(input, run),
        }
        match self.copy.turn {
            1 => {}
            2 => turn::<2>(run),
            4 => turn::<4>(run),
            8 => turn::<8>(run),
            n => run.chunks_exact_mut(n).for_each(<[u8]>::reverse),
        }
    }
}

fn turn<const N: usize>(run: &mut [u8]) {
    for number in run.as_chunks_mut::<N>().0 {
        number.reverse();
    }
}

fn for_each(dims: &[Stride], input: usize, output: usize, f: &mut impl FnMut(usize, usize)) {
    match dims.split_first() {
        None => f(input, output),
        Some((first, rest)) => {
            for i in 0..first.len {
                for_each(rest, input + i * first.input, output + i * first.output, f);
            }
        }
    }
}

/// Copies a box of single elements of `N` bytes.
fn copy_elements<const N: usize>(
    storage: &[u8],
    buffer: &mut [u8],
    dims: &[Stride],
    input: usize,
    output: usize,
) {
    let (&fast, outer) = dims.split_last().expect("a box of elements has dimensions");
    // The dimension that is contiguous in the input, where the fastest of the output is not.
    let across = outer.iter().rposition(|dim| dim.input == N);
    if let Some(across) = across
        && fast.output == N
    {
        let mut rest = outer.to_vec();
        let slow = rest.remove(across);
        for_each(&rest, input, output, &mut |input, output| {
            transpose::<N>(storage, buffer, slow, fast, input, output);
        });
        return;
    }
    for_each(outer, input, output, &mut |input, output| {
        for i in 0..fast.len {
            let element = &storage[input + i * fast.input..][..N];
            buffer[output + i * fast.output..][..N].copy_from_slice(element);
        }
    });
}

/// Copies a matrix whose rows are contiguous in the output and whose columns are in the input.
///
/// Square tiles, one cache line wide, go through a small buffer: each line of either side is
/// touched once, whatever power of two the rows are apart.
fn transpose<const N: usize>(
    storage: &[u8],
    buffer: &mut [u8],
    slow: Stride,
    fast: Stride,
    input: usize,
    output: usize,
) {
    const MAX_TILE: usize = 64;
    let tile_len = (64 / N).max(8);
    let mut tile = [[0u8; N]; MAX_TILE * MAX_TILE];
    for row in (0..slow.len).step_by(tile_len) {
        let n_rows = tile_len.min(slow.len - row);
        for column in (0..fast.len).step_by(tile_len) {
            let n_columns = tile_len.min(fast.len - column);
            for i in 0..n_columns {
                let start = input + (column + i) * fast.input + row * N;
                let line = storage[start..][..n_rows * N].as_chunks::<N>().0;
                tile[i * tile_len..][..n_rows].copy_from_slice(line);
            }
            for j in 0..n_rows {
                let start = output + (row + j) * slow.output + column * N;
                let line = buffer[start..][..n_columns * N].as_chunks_mut::<N>().0;
                for (element, column) in line.iter_mut().zip(tile[j..].iter().step_by(tile_len)) {
                    *element = *column;
                }
            }
        }
    }
}
