//! The bytes of an output, whatever they come from, for any range.

use std::ops::Range;

use super::gather::Gather;
use super::kernel::Chain;
use super::make::Made;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::Source;
use crate::checkpoint::Tensor;
use crate::package::Loss;
use crate::plan::program::{Content, Input, Output};
use crate::plan::whole::whole;

/// As much of a tensor is made at once.
const READ_LEN: u64 = 4 << 20;

/// An output that is checked, and whose bytes can be had range by range, from many threads.
pub struct Producer<'a> {
    len: u64,
    unit: u64,
    kind: Kind<'a>,
}

// Boxed but for the first, which most are, and which are as many as the tensors of a model.
enum Kind<'a> {
    /// The bytes lie in the source as they are.
    Lies(&'a [u8]),
    Gather(Box<Gather<'a>>),
    Kernels(Box<(Gather<'a>, Chain)>),
    Make(Box<Made>),
}

impl<'a> Producer<'a> {
    /// Checks an output against its inputs.
    ///
    /// # Errors
    /// As [`Gather::new`], [`Chain::new`] and [`Made::new`]; or the dtypes or sizes of the
    /// output and its content differ.
    pub fn new(source: &'a Source, inputs: &'a [Input], output: &Output) -> Result<Producer<'a>> {
        prepare(source, inputs, output)
            .map_err(|err| err.context(&format!("cannot produce `{}`", output.name)))
    }

    /// The number of bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the ends of a range are multiples of.
    pub fn unit(&self) -> u64 {
        self.unit
    }

    /// The bytes of a range where they lie in the source, if they need no work.
    pub fn borrow(&self, range: Range<u64>) -> Option<&'a [u8]> {
        let Kind::Lies(bytes) = &self.kind else { return None };
        bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }

    /// The bytes of scratch space that [`Producer::fill`] wants for a range of `len` bytes.
    pub fn scratch_len(&self, len: usize) -> usize {
        match &self.kind {
            Kind::Kernels(of) => {
                let (from, to) = of.1.units();
                len / to * from
            }
            _ => 0,
        }
    }

    /// Fills `buffer` with the bytes of the output from `start` on, and says what kernels lost.
    ///
    /// # Errors
    /// The bytes of an input cannot be decoded.
    ///
    /// # Panics
    /// The range passes the output, cuts an element, or `scratch` is shorter than
    /// [`Producer::scratch_len`] says.
    pub fn fill(&self, start: u64, buffer: &mut [u8], scratch: &mut [u8]) -> Result<Option<Loss>> {
        match &self.kind {
            Kind::Lies(bytes) => {
                let start = usize::try_from(start).expect("the range lies in the output");
                buffer.copy_from_slice(&bytes[start..][..buffer.len()]);
            }
            Kind::Gather(gather) => gather.fill(start, buffer)?,
            Kind::Make(made) => made.fill(start, buffer),
            Kind::Kernels(of) => {
                let (gather, chain) = of.as_ref();
                let gathered = &mut scratch[..self.scratch_len(buffer.len())];
                let (from, to) = chain.units();
                gather.fill(start / to as u64 * from as u64, gathered)?;
                return Ok(Some(chain.apply(
                    gathered,
                    buffer,
                    start / to as u64 * chain.per_unit(),
                )));
            }
        }
        Ok(None)
    }

    /// Whether values pass kernels, so that there is a [`Loss`] to report.
    pub fn has_kernels(&self) -> bool {
        matches!(self.kind, Kind::Kernels(..))
    }

    /// The bytes of a range: borrowed where they lie contiguous, else made in `buffer`.
    ///
    /// # Errors
    /// The bytes of an input cannot be decoded.
    ///
    /// # Panics
    /// The range passes the output or cuts an element.
    pub fn bytes<'b>(&self, range: Range<u64>, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]>
    where
        'a: 'b,
    {
        if let Some(bytes) = self.borrow(range.clone()) {
            return Ok(bytes);
        }
        let len = usize::try_from(range.end - range.start).expect("a range that fits in memory");
        let want = len + self.scratch_len(len);
        if buffer.len() < want {
            buffer.resize(want, 0);
        }
        let (filled, scratch) = buffer.split_at_mut(len);
        self.fill(range.start, filled, scratch)?;
        Ok(filled)
    }

    /// The ranges of at most `chunk_len` bytes, scratch space included, that make up the output.
    pub fn chunks(&self, chunk_len: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let (len, step) = (self.len, self.chunk_len(chunk_len));
        let starts = std::iter::successors(Some(0), move |start| Some(start + step));
        starts.take_while(move |&start| start < len).map(move |start| start..len.min(start + step))
    }

    /// The longest range that takes at most `room` bytes, scratch space included; at least one
    /// element.
    pub fn chunk_len(&self, room: u64) -> u64 {
        let one = self.unit + self.scratch_len(self.unit as usize) as u64;
        (room / one).max(1) * self.unit
    }
}

fn prepare<'a>(source: &'a Source, inputs: &'a [Input], output: &Output) -> Result<Producer<'a>> {
    let broken = |message: String| Error::new(ErrorKind::Malformed, message);
    let n_elements = crate::checkpoint::n_elements(&output.shape);
    let len = n_elements.and_then(|n| output.dtype.n_bytes(n));
    let len =
        len.ok_or_else(|| broken("its bytes pass 2^64 or end in a part of one".to_owned()))?;
    let program = match &output.content {
        Content::Whole(_) | Content::Gather(_) => output.program(inputs),
        Content::Make(make) => {
            if (make.dtype, &make.shape) != (output.dtype, &output.shape) {
                return Err(broken("the recipe has another dtype or shape".to_owned()));
            }
            let made = Made::new(make)?;
            return Ok(Producer { len, unit: made.unit(), kind: Kind::Make(Box::new(made)) });
        }
    };
    let program = program.as_deref().ok_or_else(|| broken("it is made of no input".to_owned()))?;
    if program.kernels.is_empty() {
        if program.gathered != output.dtype {
            let message = format!("{} gathered, {} wanted", program.gathered, output.dtype);
            return Err(broken(message));
        }
        let gather = Gather::new(source, inputs, program, len)?;
        let unit = gather.unit();
        let kind = match gather.contiguous() {
            Some(bytes) => Kind::Lies(bytes),
            None => Kind::Gather(Box::new(gather)),
        };
        return Ok(Producer { len, unit, kind });
    }
    let chain = Chain::new(program.gathered, &program.kernels, output.dtype)?;
    let (from, to) = chain.units();
    if program.unit != program.gathered.bits() / 8 {
        let message = format!("kernels on {} in units of {}", program.gathered, program.unit);
        return Err(broken(message));
    }
    if !len.is_multiple_of(to as u64) {
        return Err(broken(format!("{len} bytes are no whole number of blocks of {to}")));
    }
    let gathered_len = (len / to as u64).checked_mul(from as u64);
    let gathered_len = gathered_len.ok_or_else(|| broken("its bytes pass 2^64".to_owned()))?;
    let gather = Gather::new(source, inputs, program, gathered_len)?;
    Ok(Producer { len, unit: to as u64, kind: Kind::Kernels(Box::new((gather, chain))) })
}

/// The elements of a tensor: row-major, packed, low byte first. Quantized ones are as they are stored.
///
/// # Errors
/// The values cannot be had, or do not fit in memory.
pub fn read(source: &Source, tensor: &Tensor) -> Result<Vec<u8>> {
    let (inputs, output) = whole(tensor, 0)?;
    let producer = Producer::new(source, &inputs, &output)?;
    let mut bytes = Vec::new();
    let about = |err: std::collections::TryReserveError| {
        Error::new(
            ErrorKind::Limit,
            format!("`{}` of {} bytes: {err}", tensor.name, producer.len()),
        )
    };
    let len = usize::try_from(producer.len()).unwrap_or(usize::MAX);
    bytes.try_reserve_exact(len).map_err(about)?;
    let mut buffer = Vec::new();
    for range in producer.chunks(READ_LEN) {
        bytes.extend_from_slice(producer.bytes(range, &mut buffer)?);
    }
    Ok(bytes)
}
