//! Data files that are read when they are asked for: a command on one model needs a handful of some
//! hundred.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, OnceLock};

use rayon::prelude::*;
use serde::de::DeserializeOwned;

use super::bad;
use super::text::Text;
use crate::base::error::{Error, ErrorKind, Result};

/// The text of every file by its path.
pub type Files = BTreeMap<String, Text>;

type Made<T> = LazyLock<Result<T>, Box<dyn FnOnce() -> Result<T> + Send>>;

/// What one file says.
pub struct Lazy<T>(Made<T>);

impl<T> Lazy<T> {
    pub(super) fn new(
        files: &Arc<Files>,
        read: impl FnOnce(&Files) -> Result<T> + Send + 'static,
    ) -> Lazy<T> {
        let files = Arc::clone(files);
        Lazy(LazyLock::new(Box::new(move || read(&files))))
    }

    /// Reads it if it was not read yet.
    ///
    /// # Errors
    /// The file is missing or does not keep the form.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.0 {
            Ok(_) => Ok(()),
            Err(err) => Err(Error::new(ErrorKind::Malformed, err.to_string())),
        }
    }
}

impl<T> Deref for Lazy<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().unwrap_or_else(|err| bad_file(err))
    }
}

type Read<K, T> = dyn Fn(&K) -> Result<T> + Send + Sync;

/// What several files say, by name.
pub struct Table<K, T> {
    entries: BTreeMap<K, OnceLock<T>>,
    read: Box<Read<K, T>>,
}

impl<K: Ord + Sync + Send, T: Send + Sync> Table<K, T> {
    /// A table of these names, whose values `read` makes.
    pub(super) fn new(
        keys: impl IntoIterator<Item = K>,
        read: impl Fn(&K) -> Result<T> + Send + Sync + 'static,
    ) -> Table<K, T> {
        let entries = keys.into_iter().map(|key| (key, OnceLock::new())).collect();
        Table { entries, read: Box::new(read) }
    }

    /// Reads all that was not read yet.
    ///
    /// # Errors
    /// A file is missing or does not keep the form.
    pub(super) fn read_all(&self) -> Result<()> {
        let missing: Vec<_> =
            self.entries.iter().filter(|(_, value)| value.get().is_none()).collect();
        missing.into_par_iter().try_for_each(|(key, value)| {
            let read = (self.read)(key)?;
            value.get_or_init(|| read);
            Ok(())
        })
    }

    fn made(&self, key: &K) -> T {
        (self.read)(key).unwrap_or_else(|err| bad_file(&err))
    }

    /// Every name.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.keys()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is this name.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.contains_key(key)
    }

    /// The value of this name.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&T>
    where
        K: std::borrow::Borrow<Q>,
    {
        let (key, value) = self.entries.get_key_value(key)?;
        Some(value.get_or_init(|| self.made(key)))
    }

    /// The value of this name, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut T>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.get(key)?;
        self.entries.get_mut(key)?.get_mut()
    }

    /// The values of the names that are asked for.
    pub fn select<'t>(&'t self, wanted: impl Fn(&K) -> bool) -> std::vec::IntoIter<&'t T> {
        // Several files are read at once: to read one is quick, to read them all is not.
        let wanted: Vec<_> = self.entries.iter().filter(|(key, _)| wanted(key)).collect();
        let values: Vec<&'t T> = wanted
            .into_par_iter()
            .map(|(key, value)| value.get_or_init(|| self.made(key)))
            .collect();
        values.into_iter()
    }

    /// Every value.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.select(|_| true)
    }
}

/// The parsed files of a folder, each parsed once, as files extend each other.
pub(super) struct Parsed<F> {
    files: Arc<Files>,
    folder: String,
    /// Made when a file is asked for: most commands ask for none of most folders.
    parsed: OnceLock<Places<F>>,
}

type Places<F> = BTreeMap<String, OnceLock<std::result::Result<F, String>>>;

impl<F: DeserializeOwned + Clone> Parsed<F> {
    /// The files below a folder, `arch/`.
    pub(super) fn new(files: &Arc<Files>, folder: &str) -> Parsed<F> {
        Parsed { files: Arc::clone(files), folder: folder.to_owned(), parsed: OnceLock::new() }
    }

    fn places(&self) -> &Places<F> {
        self.parsed.get_or_init(|| {
            let from = self.files.range(self.folder.clone()..);
            let below = from.map_while(|(path, _)| path.strip_prefix(&self.folder));
            let below = below.filter_map(|path| path.strip_suffix(".toml"));
            below.map(|name| (name.to_owned(), OnceLock::new())).collect()
        })
    }

    /// What the file of this name says.
    ///
    /// # Errors
    /// It is missing or does not keep the form.
    pub(super) fn load(&self, name: &str) -> Result<F> {
        self.load_of(name, Text::parse)
    }

    /// What the first table of the file of this name says, which is all that `F` asks for.
    ///
    /// # Errors
    /// It is missing or does not keep the form.
    pub(super) fn load_start(&self, name: &str) -> Result<F> {
        self.load_of(name, Text::parse_start)
    }

    fn load_of(
        &self,
        name: &str,
        parse: impl Fn(&Text) -> std::result::Result<F, String>,
    ) -> Result<F> {
        let path = format!("{}{name}.toml", self.folder);
        let Some(place) = self.places().get(name) else { return Err(bad(&path, "is missing")) };
        let parse = || parse(&self.files[&path]);
        place.get_or_init(parse).clone().map_err(|why| bad(&path, &why))
    }
}

/// Files that are not the program's own are checked when they are opened, and those by a test.
fn bad_file(err: &Error) -> ! {
    panic!("{err}")
}
