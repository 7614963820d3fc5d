//! One file a rank, each with the parts of distributed tensors that the rank has: put together.
//!
//! verl and SkyRL write `model_world_size_8_rank_0.pt` to `_7.pt`. Boxes that several ranks have are
//! read once, after they were compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::pytorch::dtensor::{MESH, RANK};
use super::pytorch::{self, quote};
use crate::base::diagnostic::Level;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::tiles::{Tile, prove_cover};
use crate::checkpoint::{Checkpoint, Payload, Tensor, View};

/// More ranks than this are no run.
const MAX_RANKS: u64 = 65_536;

/// What the name of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RankFile {
    /// How many ranks there are.
    pub world: u64,
    /// Which of them wrote it.
    pub rank: u64,
}

impl RankFile {
    /// Of `model_world_size_8_rank_0.pt`.
    pub fn parse(name: &str) -> Option<RankFile> {
        let rest = name.strip_prefix("model_world_size_")?.strip_suffix(".pt")?;
        let (world, rank) = rest.split_once("_rank_")?;
        Some(RankFile { world: world.parse().ok()?, rank: rank.parse().ok()? })
    }

    fn name(self) -> String {
        format!("model_world_size_{}_rank_{}.pt", self.world, self.rank)
    }
}

/// Reads the files of all ranks in a folder, and gives their names.
///
/// # Errors
/// A rank is missing, damaged, of another run, or has other values than its replica.
pub fn read(
    source: &mut Source,
    folder: &str,
    names: &[&str],
) -> Result<(Checkpoint, Vec<String>)> {
    let ranks: BTreeSet<RankFile> = names.iter().filter_map(|name| RankFile::parse(name)).collect();
    let about =
        |message: String| Error::new(ErrorKind::Malformed, message).in_file(&source.place(folder));
    let worlds: BTreeSet<u64> = ranks.iter().map(|rank| rank.world).collect();
    let (Some(&world), Some(&other)) = (worlds.first(), worlds.last()) else {
        return Err(about("has no files of ranks".to_owned()));
    };
    if world != other {
        return Err(about(format!(
            "has files of runs of {world} and of {other} ranks, as `{}`: put one of them elsewhere",
            ranks.last().map(|rank| rank.name()).unwrap_or_default()
        )));
    }
    if MAX_RANKS < world {
        return Err(about(format!(
            "says that there are {world} ranks; up to {MAX_RANKS} are read"
        )));
    }
    let all = (0..world).map(|rank| RankFile { world, rank });
    let missing: Vec<String> =
        all.clone().filter(|rank| !ranks.contains(rank)).map(RankFile::name).collect();
    if let Some(first) = missing.first() {
        let more = match missing.len() {
            1 => String::new(),
            n => format!(", and {} more", n - 1),
        };
        let n = ranks.len();
        return Err(about(format!(
            "has {n} of the files of {world} ranks: `{first}` is missing{more}"
        )));
    }
    let mut merged = Merged::default();
    let mut weights = Vec::new();
    for rank in all {
        let name = format!("{folder}{}", rank.name());
        let file = source.add(&name)?;
        let checkpoint = pytorch::read(source, file)?;
        merged.add(source, file, rank.rank, checkpoint)?;
        weights.push(name);
    }
    let checkpoint = merged.finish(source, world)?;
    Ok((checkpoint, weights))
}

/// The parts of all ranks.
#[derive(Default)]
struct Merged {
    checkpoint: Checkpoint,
    places: HashMap<String, usize>,
    parts: Vec<Part>,
    first: Option<FileId>,
}

/// The boxes of one tensor.
#[derive(Default)]
struct Part {
    tiles: Vec<Tile>,
    by_box: HashMap<(Vec<u64>, Vec<u64>), usize>,
    n_ranks: u64,
}

impl Merged {
    fn add(&mut self, source: &Source, file: FileId, rank: u64, of: Checkpoint) -> Result<()> {
        let wrong =
            |message: String| Error::new(ErrorKind::Malformed, message).in_file(source.path(file));
        if let Some(err) = pytorch::object::refused(&of.findings) {
            return Err(err.in_file(source.path(file)));
        }
        if let Some(wrote) = of.metadata.get(RANK)
            && *wrote != rank.to_string()
        {
            return Err(wrong(format!(
                "is named as that of rank {rank}, and rank {wrote} wrote it"
            )));
        }
        let first_file = *self.first.get_or_insert(file);
        let is_first = first_file == file;
        let other = source.name(first_file);
        if is_first {
            self.checkpoint.metadata = of.metadata;
            self.checkpoint.metadata.remove(RANK);
            self.checkpoint.findings = of.findings;
        } else {
            let mesh = |of: &BTreeMap<String, String>| of.get(MESH).cloned().unwrap_or_default();
            let (own, theirs) = (mesh(&of.metadata), mesh(&self.checkpoint.metadata));
            if own != theirs {
                return Err(wrong(format!(
                    "has tensors of a mesh {own}, and `{other}` of a mesh {theirs}: they are of two runs"
                )));
            }
            let own = of.findings.into_iter().filter(|found| found.level != Level::Note);
            self.checkpoint.findings.extend(own);
        }
        let n = of.tensors.len();
        for tensor in of.tensors {
            let Some(&place) = self.places.get(&*tensor.name) else {
                if !is_first {
                    let name = quote(&tensor.name);
                    return Err(wrong(format!("has a tensor {name}, and `{other}` has none")));
                }
                self.places.insert(tensor.name.to_string(), self.parts.len());
                self.parts.push(Part::default());
                self.checkpoint.tensors.push(tensor);
                continue;
            };
            let first = &self.checkpoint.tensors[place];
            if (first.dtype, &first.shape) != (tensor.dtype, &tensor.shape) {
                return Err(wrong(format!(
                    "has {} as {} {:?}, and `{other}` as {} {:?}: they are of two runs",
                    quote(&tensor.name),
                    tensor.dtype,
                    tensor.shape,
                    first.dtype,
                    first.shape
                )));
            }
            self.parts[place].add(source, &tensor).map_err(&wrong)?;
        }
        if is_first {
            for (part, tensor) in self.parts.iter_mut().zip(&self.checkpoint.tensors) {
                part.add(source, tensor).map_err(&wrong)?;
            }
        } else if n < self.parts.len() {
            let missing = self.parts.iter().zip(&self.checkpoint.tensors);
            let missing = missing.map(|(part, tensor)| (part.n_ranks, &tensor.name)).min();
            let missing = missing.map_or(String::new(), |(_, name)| quote(name));
            return Err(wrong(format!("has no tensor {missing}, which `{other}` has")));
        }
        Ok(())
    }

    fn finish(self, source: &Source, world: u64) -> Result<Checkpoint> {
        let Merged { mut checkpoint, parts, .. } = self;
        checkpoint.format = pytorch::FORMAT.id;
        for (tensor, part) in checkpoint.tensors.iter_mut().zip(parts) {
            if let Payload::Unreadable(_) = tensor.payload {
                continue;
            }
            if let Err(fault) = prove_cover(&tensor.shape, &part.tiles) {
                let file = |tile: &Tile| format!(" in `{}`", source.name(tile.data.storage.file));
                let why = fault.tell(&tensor.shape, &part.tiles, &file);
                let message = format!("the parts of {} do not fit: {why}", quote(&tensor.name));
                return Err(Error::new(ErrorKind::Malformed, message).in_file(source.root()));
            }
            tensor.payload = Payload::Tiles(part.tiles);
        }
        let mut insert = |key: &str, value: String| {
            checkpoint.metadata.entry(key.to_owned()).or_insert(value);
        };
        insert("trainer", "one file a rank (FSDP, as verl and SkyRL write it)".to_owned());
        insert("trainer.ranks", world.to_string());
        Ok(checkpoint)
    }
}

impl Part {
    /// Adds the boxes that a file has; those that another file has were compared.
    fn add(&mut self, source: &Source, tensor: &Tensor) -> std::result::Result<(), String> {
        self.n_ranks += 1;
        let whole;
        let tiles = match &tensor.payload {
            Payload::Tiles(tiles) => tiles.as_slice(),
            Payload::Unreadable(_) if self.tiles.is_empty() => return Ok(()),
            Payload::Unreadable(why) => {
                return Err(format!("{} cannot be compared: {why}", quote(&tensor.name)));
            }
            _ => {
                let (at, shape) = (vec![0; tensor.shape.len()], tensor.shape.clone());
                whole = [Tile { at, shape, data: tensor.view()?, coding: None }];
                &whole[..]
            }
        };
        for tile in tiles {
            let key = (tile.at.clone(), tile.shape.clone());
            let Some(&known) = self.by_box.get(&key) else {
                self.by_box.insert(key, self.tiles.len());
                self.tiles.push(tile.clone());
                continue;
            };
            let first = &self.tiles[known];
            let width = tensor.dtype.bits() / 8;
            if width == 0 {
                let dtype = tensor.dtype;
                return Err(format!(
                    "has {} in {dtype} on several ranks, and elements of less than a byte are not \
                     compared",
                    quote(&tensor.name)
                ));
            }
            if !same_values(source, width, &tile.shape, &first.data, &tile.data)? {
                return Err(format!(
                    "has other values of {} at {:?} of {:?} than `{}`, and both should be the same: \
                     ranks went apart, or are of two steps",
                    quote(&tensor.name),
                    tile.at,
                    tile.shape,
                    source.name(first.data.storage.file)
                ));
            }
        }
        Ok(())
    }
}

/// Whether two views of one shape have the same bytes; `width` is the bytes of an element.
///
/// # Errors
/// A view passes its storage; the reason.
pub fn same_values(
    source: &Source,
    width: u64,
    shape: &[u64],
    left: &View,
    right: &View,
) -> std::result::Result<bool, String> {
    let slice = |view: &View| source.slice(view.storage).map_err(|err| err.to_string());
    let (left_bytes, right_bytes) = (slice(left)?, slice(right)?);
    if width == 0 || shape.contains(&0) {
        return Ok(true);
    }
    // The innermost dimensions that lie in a row in both are compared at once.
    let mut run = 1u64;
    let mut n_outer = shape.len();
    while 0 < n_outer {
        let axis = n_outer - 1;
        let in_row = |view: &View| shape[axis] == 1 || view.strides.get(axis) == Some(&run);
        if !in_row(left) || !in_row(right) || left.big_endian != right.big_endian {
            break;
        }
        run = run.checked_mul(shape[axis]).ok_or("has more elements than 2^64")?;
        n_outer -= 1;
    }
    let reverse = left.big_endian != right.big_endian;
    let piece = |bytes: &'_ [u8], at: u64| -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(at.checked_mul(width)?).ok()?;
        let end = start.checked_add(usize::try_from(run.checked_mul(width)?).ok()?)?;
        (end <= bytes.len()).then_some(start..end)
    };
    let mut index = vec![0u64; n_outer];
    loop {
        let at = |view: &View| {
            let steps = index.iter().zip(&view.strides);
            steps.fold(view.offset, |at, (i, stride)| at.saturating_add(i.saturating_mul(*stride)))
        };
        let outside = || "passes its storage".to_owned();
        let of_left = &left_bytes[piece(left_bytes, at(left)).ok_or_else(outside)?];
        let of_right = &right_bytes[piece(right_bytes, at(right)).ok_or_else(outside)?];
        let same = match reverse {
            true => of_left.iter().eq(of_right.iter().rev()),
            false => of_left == of_right,
        };
        if !same {
            return Ok(false);
        }
        let Some(axis) = (0..n_outer).rev().find(|&axis| index[axis] + 1 < shape[axis]) else {
            return Ok(true);
        };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}
