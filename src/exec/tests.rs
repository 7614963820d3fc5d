//! Laws of the executor, tried on many small cases from a fixed generator.

mod compare;
mod gather;
mod kernel;
mod make;
mod staging;
mod write;

use super::produce::Producer;
use crate::base::error::Result;
use crate::base::source::{Extent, Source};
use crate::checkpoint::DType;
use crate::plan::program::{Content, Input, Kernel, Output, Program, StridedCopy};

/// Xorshift: the same numbers on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 24) as u8).collect()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

fn source(bytes: &[u8]) -> (Source, Extent) {
    let source = Source::from_bytes("weights", bytes);
    let file = source.files().next().expect("one file");
    let extent = source.extent(file);
    (source, extent)
}

fn gathered(dtype: DType, shape: &[u64], copies: Vec<StridedCopy>, kernels: &[Kernel]) -> Output {
    let program =
        Program { gathered: dtype, unit: dtype.bits() / 8, copies, kernels: kernels.to_vec() };
    let mut casts = kernels.iter().filter_map(|kernel| match kernel {
        Kernel::Cast(dtype) => Some(*dtype),
        _ => None,
    });
    let dtype = casts.next_back().unwrap_or(dtype);
    let content = Content::Gather(Box::new(program));
    Output { name: "out".into(), dtype, shape: shape.to_vec(), content }
}

fn input(storage: Extent, dtype: DType, big_endian: bool) -> Input {
    let unit = dtype.bits() / 8;
    Input { name: "in".into(), storage, coding: None, dtype, unit, big_endian, packing: None }
}

fn all(source: &Source, inputs: &[Input], output: &Output) -> Result<Vec<u8>> {
    let producer = Producer::new(source, inputs, output)?;
    let mut buffer = Vec::new();
    Ok(producer.bytes(0..producer.len(), &mut buffer)?.to_vec())
}
