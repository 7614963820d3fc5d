//! The most of what is made of numbers that a file or a config states.
//!
//! A number in a file costs nothing to write. Whatever is repeated as often as one says is held
//! against what is there, or against a limit of this module, before anything is repeated.

use std::fmt;

/// Entries of a list in a config, or of one that an expression makes: most have one entry a layer,
/// or one an expert, and no model has a tenth as many. Longer arrays are no hyperparameters.
/// Expressions compare two lists entry by entry, so that the time grows with the square.
pub const MAX_LIST: usize = 4096;

/// How deep an expression nests, in brackets and in operators that repeat: the data files stay
/// far below, and the parser uses the stack.
pub const MAX_EXPRESSION_DEPTH: usize = 64;

/// Words and signs of an expression; the longest of the data files has a tenth. It bounds how deep
/// the tree of one can be that is long and not nested.
pub const MAX_EXPRESSION_TOKENS: usize = 1000;

/// How many data files extend each other in a row; three do.
pub const MAX_EXTENDS: usize = 8;

/// Names that the choices of one template make, `{x=q|k|v|o}.{p}`: they multiply.
pub const MAX_ALTERNATIVES: usize = 1000;

/// Names of tensors that the rules of one mapping, or the groups of one architecture, make: the
/// experts of the largest models that are published are about 100,000.
pub const MAX_NAMES: u64 = 1 << 20;

/// A count of layers up to this is taken without as many tensors: the tensors that are missing
/// are told one by one, which says more than their number.
pub const MAX_UNBACKED: u64 = 64;

/// Bytes of a tensor that repeats what its file stores once, as `expand` of torch does: a buffer or
/// a mask takes some megabytes. Beyond this, a number in the file is the only reason.
pub const MAX_REPEATED_BYTES: u64 = 1 << 30;

/// What stands behind the counts that a config states: the tensors that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    tensors: Option<u64>,
    longest: u64,
}

impl Backing {
    /// Of tensors, by their shapes.
    pub fn of<'a>(shapes: impl Iterator<Item = &'a [u64]>) -> Backing {
        let (mut tensors, mut longest) = (0, 0);
        for shape in shapes {
            tensors += 1;
            longest = shape.iter().copied().fold(longest, u64::max);
        }
        Backing { tensors: Some(tensors), longest }
    }

    /// Of a config alone: there are no tensors to hold it against.
    pub fn config_alone() -> Backing {
        Backing { tensors: None, longest: 0 }
    }

    /// The most layers, or other things that have a tensor each, that can be there.
    pub fn max_layers(&self) -> u64 {
        self.tensors.map_or(MAX_LIST as u64, |tensors| tensors.max(MAX_UNBACKED))
    }

    /// The most experts or heads that can be there: things that have a tensor or a row each.
    pub fn max_rows(&self) -> u64 {
        self.max_layers().max(self.longest)
    }
}

/// What is there, after "and": "there are 30 tensors".
impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tensors {
            None => write!(f, "at most {MAX_LIST} are taken without any tensors"),
            Some(1) => {
                write!(f, "there is 1 tensor, no dimension of which is above {}", self.longest)
            }
            Some(n) => {
                write!(f, "there are {n} tensors, no dimension of which is above {}", self.longest)
            }
        }
    }
}

/// Names that may still be made.
#[derive(Debug)]
pub struct Budget(u64);

impl Budget {
    /// All of [`MAX_NAMES`].
    pub fn new() -> Budget {
        Budget(MAX_NAMES)
    }

    /// Takes `n` of them.
    ///
    /// # Errors
    /// There are not as many left.
    pub fn take(&mut self, n: u64) -> Result<(), String> {
        let left = self.0.checked_sub(n);
        self.0 = left.ok_or_else(|| {
            format!("its counts multiply to more than {MAX_NAMES} names of tensors")
        })?;
        Ok(())
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new()
    }
}
