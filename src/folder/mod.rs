//! Which files of a folder are the checkpoint, and reading them as one.

mod archive;
mod choose;
mod index;
mod join;
mod list;
mod modules;
mod open;
mod opened;
pub mod sentence_transformers;
mod trainer;

pub use self::choose::shard_number;
pub use self::index::shards;
pub use self::list::CONFIG_FILE;
pub use self::list::{FolderFile, Survey, list, survey};
pub use self::open::{How, Links, open, open_as, open_with};
pub use self::opened::Opened;
