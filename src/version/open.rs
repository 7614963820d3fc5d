//! Opening one input, or two that are compared.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use super::prepared::{Missing, Prepared, foreign, package};
use super::{Options, Version};
use crate::base::diagnostic::Diagnostic;
use crate::base::source::Source;
use crate::convert::Failure;
use crate::exec::digest::digests_of_two;
use crate::folder::{self, How};
use crate::manifest::{FileRole, Manifest};
use crate::package::MANIFEST_FILE;
use crate::plan::program::Output;
use crate::rule::view::is_inside;

impl Version {
    /// Opens a package, a manifest, or a foreign checkpoint.
    ///
    /// # Errors
    /// It cannot be read, or a foreign checkpoint of a known architecture does not fit it.
    pub fn open(path: &Path, options: &Options<'_>) -> std::result::Result<Version, Failure> {
        match prepare(path, options)? {
            Opening::Done(version) => Ok(*version),
            Opening::Prepared(prepared) => Ok(prepared.read(options)?),
        }
    }

    /// Opens two. Tensors that are alike to the last byte are hashed once: the bytes of the second are
    /// compared with those of the first as these are hashed.
    ///
    /// # Errors
    /// As of [`Version::open`], and which of the two it is.
    pub fn open_two(
        paths: [&Path; 2],
        options: &Options<'_>,
    ) -> std::result::Result<[Version; 2], (usize, Failure)> {
        let prepare = |of: usize| prepare(paths[of], options).map_err(|err| (of, err));
        let (old, new) = rayon::join(|| prepare(0), || prepare(1));
        let (old, new) = (old?, new?);
        let read = |opening, of: usize| match opening {
            Opening::Done(version) => Ok(*version),
            Opening::Prepared(prepared) => prepared.read(options).map_err(|err| (of, err.into())),
        };
        let (mut old, mut new) = match (old, new) {
            (Opening::Prepared(old), Opening::Prepared(new)) => (old, new),
            (old, new) => return Ok([read(old, 0)?, read(new, 1)?]),
        };
        let missing = [old.missing(), new.missing()];
        hash_two([&mut *old, &mut *new], &missing, options)?;
        Ok([read(Opening::Prepared(old), 0)?, read(Opening::Prepared(new), 1)?])
    }
}

/// An input that was looked at.
enum Opening {
    Done(Box<Version>),
    Prepared(Box<Prepared>),
}

fn prepare(path: &Path, options: &Options<'_>) -> std::result::Result<Opening, Failure> {
    let label = path.display().to_string();
    if path.extension().is_some_and(|end| end == "json")
        && path.is_file()
        && let Some(manifest) = Manifest::read(path)?
    {
        let version = Version::of_manifest(&label, manifest.trusted(path)?);
        return Ok(Opening::Done(Box::new(version)));
    }
    let how = How { format: options.format, ..options.spec.how() };
    let opened = match folder::open_as(path, &how) {
        Ok(opened) => opened,
        // A registry may hold everything but the weights. Weights that are there and damaged are
        // another thing.
        Err(err) if path.is_dir() => {
            let file = path.join(MANIFEST_FILE);
            let Some(manifest) = Manifest::read(&file).ok().flatten() else {
                return Err(err.into());
            };
            if has_weights(path, &manifest) {
                return Err(err.into());
            }
            let mut version = Version::of_manifest(&label, manifest.trusted(&file)?);
            let message =
                format!("the weights are not at hand ({err}); manifest.json stands for them");
            version.findings.push(Diagnostic::note("D001", message).file(MANIFEST_FILE));
            version.folder = Some(Source::new(path));
            return Ok(Opening::Done(Box::new(version)));
        }
        Err(err) => return Err(err.into()),
    };
    let mut prepared =
        if opened.is_package { package(opened, options)? } else { foreign(opened, options)? };
    prepared.label = label;
    Ok(Opening::Prepared(Box::new(prepared)))
}

/// Hashes the tensors of two inputs that are not hashed, those of one name, dtype and shape as pairs.
fn hash_two(
    sides: [&mut Prepared; 2],
    missing: &[Missing; 2],
    options: &Options<'_>,
) -> std::result::Result<(), (usize, Failure)> {
    let key = |output: &Output| (output.name.clone(), output.dtype, output.shape.clone());
    let places = missing[1].outputs.iter().enumerate();
    let places: HashMap<_, usize> = places.map(|(place, output)| (key(output), place)).collect();
    let pairs = missing[0].outputs.iter().enumerate();
    let pairs = pairs.filter_map(|(place, output)| Some([place, *places.get(&key(output))?]));
    let pairs: Vec<[usize; 2]> = pairs.collect();
    let n_bytes = missing.iter().flat_map(|missing| &missing.outputs).map(Output::n_bytes).sum();
    if n_bytes == 0 {
        return Ok(());
    }
    options.progress.begin("hashing", n_bytes);
    let advance = |n_bytes| options.progress.advance(n_bytes);
    let [old, new] = sides;
    let hashed = digests_of_two(
        &old.side(&missing[0]),
        &new.side(&missing[1]),
        &pairs,
        options.n_threads,
        &advance,
    );
    options.progress.end();
    let [of_old, of_new] = hashed.map_err(|err| (0, err.into()))?;
    old.fill(&missing[0], of_old).map_err(|err| (0, err.into()))?;
    new.fill(&missing[1], of_new).map_err(|err| (1, err.into()))
}

/// Whether weights of a package are there: files of tensors that are more than pointers to them.
fn has_weights(folder: &Path, manifest: &Manifest) -> bool {
    let tensors = manifest.files.iter().filter(|file| file.role == FileRole::Tensors);
    let mut paths =
        tensors.filter(|file| is_inside(&file.path)).map(|file| folder.join(&file.path));
    paths.any(|path| path.exists() && !is_lfs_pointer(&path))
}

/// Whether a file stands for one that Git LFS keeps elsewhere.
fn is_lfs_pointer(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(64).read_to_end(&mut head));
    read.is_ok() && crate::format::is_lfs_pointer(&head)
}
