//! Destinations that appear whole or not at all.

use std::path::Path;

use crate::exec::staging::{Existing, Staging, free_space};

pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("out");
    let staging = Staging::new(&destination, Existing::Keep).unwrap();
    std::fs::create_dir(staging.path().join("sub")).unwrap();
    std::fs::write(staging.path().join("sub/file"), "new").unwrap();
    assert!(!destination.exists());
    drop(staging);
    assert_eq!(names(dir.path()), [""; 0]);

    let staging = Staging::new(&destination, Existing::Keep).unwrap();
    std::fs::write(staging.path().join("file"), "new").unwrap();
    staging.commit().unwrap();
    assert_eq!(names(dir.path()), ["out"]);
    assert_eq!(std::fs::read_to_string(destination.join("file")).unwrap(), "new");
}

#[test]
fn a_destination_is_replaced_only_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("out");
    std::fs::create_dir(&destination).unwrap();
    std::fs::write(destination.join("old"), "old").unwrap();
    let err = Staging::new(&destination, Existing::Keep).err().expect("it exists");
    assert_eq!(err.message(), "already exists; --force replaces it");
    assert_eq!(names(dir.path()), ["out"]);

    let staging = Staging::new(&destination.join(""), Existing::Replace(&|_| Ok(()))).unwrap();
    std::fs::write(staging.path().join("new"), "new").unwrap();
    assert_eq!(names(&destination), ["old"]);
    staging.commit().unwrap();
    assert_eq!((names(dir.path()), names(&destination)), (vec!["out".into()], vec!["new".into()]));

    let file = dir.path().join("file");
    std::fs::write(&file, "keep").unwrap();
    assert!(Staging::new(&file, Existing::Replace(&|_| Ok(()))).is_err());
}

#[test]
fn a_destination_that_appears_meanwhile_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("out");
    let staging = Staging::new(&destination, Existing::Keep).unwrap();
    std::fs::create_dir(&destination).unwrap();
    assert!(staging.commit().is_err());
    assert_eq!((names(dir.path()), names(&destination)), (vec!["out".into()], vec![]));
}

#[test]
fn free_space_is_known_for_a_folder_to_be_made() {
    if cfg!(unix) {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_space(&dir.path().join("not/yet")).is_some());
    }
}
