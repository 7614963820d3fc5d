//! Pickles of trees that hold tensors, as `torch.save` writes them and `torch.load` reads them with
//! `weights_only`, but for objects.

use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::{DType, row_major_strides};

/// A pickle in the making.
pub struct Pickler {
    bytes: Vec<u8>,
}

/// A value of a tree.
pub enum Value<'a> {
    /// Nothing.
    None,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A text.
    Text(&'a str),
    /// A class or function: its module and its name.
    Global(&'a str, &'a str),
    /// A list.
    List(Vec<Value<'a>>),
    /// A map by texts.
    Dict(Vec<(&'a str, Value<'a>)>),
    /// What `argparse` gives: a map as the attributes of an object.
    Namespace(Vec<(&'a str, Value<'a>)>),
    /// A whole tensor; its storage is the record `data/KEY`.
    Tensor {
        /// The number of the record.
        key: usize,
        /// The dtype.
        dtype: DType,
        /// The dimensions.
        shape: &'a [u64],
    },
}

impl Pickler {
    /// The pickle of a value, of protocol 2.
    ///
    /// # Errors
    /// It has a tensor of a dtype that has no storage, or one that is too large.
    pub fn pickle(value: &Value<'_>) -> Result<Vec<u8>> {
        let mut pickler = Pickler { bytes: vec![0x80, 2] };
        pickler.value(value)?;
        pickler.bytes.push(b'.');
        Ok(pickler.bytes)
    }

    fn value(&mut self, value: &Value<'_>) -> Result<()> {
        match value {
            Value::None => self.bytes.push(b'N'),
            Value::Bool(value) => self.bytes.push(if *value { 0x88 } else { 0x89 }),
            Value::Int(value) => self.int(*value),
            Value::Float(value) => {
                self.bytes.push(b'G');
                self.bytes.extend(value.to_be_bytes());
            }
            Value::Text(text) => self.text(text)?,
            Value::Global(module, name) => self.global(module, name),
            Value::List(items) => {
                self.bytes.extend(b"](");
                items.iter().try_for_each(|item| self.value(item))?;
                self.bytes.push(b'e');
            }
            Value::Dict(entries) => self.dict(entries)?,
            Value::Namespace(entries) => {
                self.global("argparse", "Namespace");
                self.bytes.extend([b')', 0x81]);
                self.dict(entries)?;
                self.bytes.push(b'b');
            }
            Value::Tensor { key, dtype, shape } => self.tensor(*key, *dtype, shape)?,
        }
        Ok(())
    }

    fn dict(&mut self, entries: &[(&str, Value<'_>)]) -> Result<()> {
        self.bytes.extend(b"}(");
        for (key, value) in entries {
            self.text(key)?;
            self.value(value)?;
        }
        self.bytes.push(b'u');
        Ok(())
    }

    fn tensor(&mut self, key: usize, dtype: DType, shape: &[u64]) -> Result<()> {
        let class = super::storage::class_of(dtype).ok_or_else(|| {
            Error::unsupported(format!("a tensor of {dtype} in a file of PyTorch"))
        })?;
        let numel = crate::checkpoint::n_elements(shape);
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.bytes.extend(b"((");
        self.text("storage")?;
        self.global("torch", class);
        self.text(&key.to_string())?;
        self.text("cpu")?;
        self.size(numel.unwrap_or(u64::MAX))?;
        self.bytes.extend(b"tQ");
        self.int(0);
        self.sizes(shape)?;
        self.sizes(&row_major_strides(shape))?;
        self.bytes.push(0x89);
        self.global("collections", "OrderedDict");
        self.bytes.extend(b")RtR");
        Ok(())
    }

    fn sizes(&mut self, sizes: &[u64]) -> Result<()> {
        self.bytes.push(b'(');
        sizes.iter().try_for_each(|size| self.size(*size))?;
        self.bytes.push(b't');
        Ok(())
    }

    fn size(&mut self, size: u64) -> Result<()> {
        let too_large = |_| Error::new(ErrorKind::Limit, "a tensor of more than 2^63 elements");
        self.int(i64::try_from(size).map_err(too_large)?);
        Ok(())
    }

    fn int(&mut self, value: i64) {
        if let Ok(byte) = u8::try_from(value) {
            self.bytes.extend([b'K', byte]);
        } else if let Ok(value) = i32::try_from(value) {
            self.bytes.push(b'J');
            self.bytes.extend(value.to_le_bytes());
        } else {
            self.bytes.extend([0x8a, 8]);
            self.bytes.extend(value.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let len = u32::try_from(text.len());
        let len =
            len.map_err(|_| Error::new(ErrorKind::Limit, "a text of more than 2^32 bytes"))?;
        self.bytes.push(b'X');
        self.bytes.extend(len.to_le_bytes());
        self.bytes.extend(text.as_bytes());
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) {
        self.bytes.push(b'c');
        self.bytes.extend(format!("{module}\n{name}\n").as_bytes());
    }
}
