//! The files of a remote input.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusty_s3::actions::{ListObjectsV2, S3Action as _};
use rusty_s3::{Bucket, Credentials, UrlStyle};
use serde::Deserialize;

use super::address::{Address, escaped};
use super::file::{FIRST_LEN, Listed as File};
use super::http::{Client, Place, Version, patiently};
use crate::base::error::{Error, ErrorKind, Result};
use crate::folder;
use crate::format::{self, FORMATS};
use crate::manifest::Manifest;
use crate::package::{MANIFEST_FILE, MODEL_FILE, SOURCE_FILE};
use crate::spec::Spec;

/// Lists and indexes longer than this are not read.
const MAX_LIST_LEN: u64 = 128 << 20;

/// Inputs of more files than this are not listed.
const MAX_FILES: usize = 10_000;

/// How many files are asked for at once.
const N_CONNECTIONS: usize = 8;

/// How long a signed address holds: what reads it may take hours.
const SIGNED_FOR: Duration = Duration::from_secs(24 * 3600);

pub(super) struct Listed {
    pub(super) files: BTreeMap<String, File>,
    /// What is told of the folder.
    pub(super) shown: String,
    /// The folder's name.
    pub(super) name: String,
    /// The file of it that was named.
    pub(super) single: Option<String>,
}

/// The values of settings that are named as environment variables are, such as `HF_TOKEN`.
pub type Settings<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn list(
    client: &Client,
    address: &Address,
    spec: &Spec,
    settings: Settings<'_>,
) -> Result<Listed> {
    // An empty one is none.
    let setting = |name: &str| settings(name).filter(|value| !value.is_empty());

    let listed = match address {
        Address::Web { path, query } => of_web(client, path, query.as_deref(), spec),
        Address::Hub { repository, revision, path } => {
            of_hub(client, repository, revision, path, &setting)
        }
        Address::Bucket { bucket, key } => of_bucket(client, bucket, key, &setting),
    }?;
    if listed.files.is_empty() {
        let message = format!("{}: there is no checkpoint", address.shown());
        return Err(Error::new(ErrorKind::Io, message));
    }
    Ok(listed)
}

/// Whether a name of a list stays in its folder, and is none of those that are passed over.
fn is_plain(name: &str) -> bool {
    !name.contains(['\\', '\0'])
        && name.split('/').all(|part| !part.is_empty() && part != ".." && !part.starts_with('.'))
}

/// The folder and the file of a path whose last part is the name of a file of a checkpoint.
fn split(path: &str) -> (&str, Option<&str>) {
    let Some((folder, last)) = path.rsplit_once('/') else {
        return if is_file(path) { ("", Some(path)) } else { (path, None) };
    };
    if is_file(last) { (folder, Some(last)) } else { (path, None) }
}

fn is_file(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| end == "json" || format::of_ending(end).is_some())
}

// Servers that cannot list.

/// Asks for the files that a folder of a checkpoint may have, and for those that they name.
fn of_web(client: &Client, path: &str, query: Option<&str>, spec: &Spec) -> Result<Listed> {
    let (folder, single) = split(path);
    let place = |name: &str| {
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let url = format!("{folder}/{}{query}", escaped(name));
        Place { url, shown: format!("{folder}/{name}"), token: None }
    };
    let mut files = BTreeMap::new();
    let mut asked = BTreeSet::new();
    let mut refused = None;
    let mut wanted: BTreeSet<String> = match single {
        Some(name) => parts(name),
        None => known(spec),
    };
    if let Some(name) = single {
        // A container that has the config in itself has nothing beside it.
        let ending = name.rsplit('.').next().unwrap_or_default();
        if !format::of_ending(ending).is_some_and(|format| format.is_complete) {
            wanted.extend(known(spec).into_iter().filter(|name| !is_weights(name)));
        }
    }
    let mut is_named = false;
    while !wanted.is_empty() {
        let names: Vec<String> = std::mem::take(&mut wanted).into_iter().collect();
        asked.extend(names.iter().cloned());
        for (name, answer) in names.iter().zip(probe(client, &names, &place)?) {
            match answer {
                Probed::Found(file) => _ = files.insert(name.clone(), file),
                // Some servers refuse what is not there; what another file names has to be.
                Probed::Refused(err) if is_named => return Err(err),
                Probed::Refused(err) => refused = refused.or(Some(err)),
                Probed::Absent => {}
            }
        }
        for name in names {
            let Some(file) = files.get_mut(&name) else { continue };
            for named in names_in(client, &name, file)? {
                if is_plain(&named) && !asked.contains(&named) {
                    wanted.insert(named);
                }
            }
        }
        is_named = true;
        if MAX_FILES < asked.len().saturating_add(wanted.len()) {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("{folder}: has more than {MAX_FILES} files"),
            ));
        }
    }
    let lacks = single.filter(|name| !files.contains_key(*name));
    match (refused, lacks) {
        (Some(refused), Some(_)) => return Err(refused),
        (Some(refused), None) if files.is_empty() => return Err(refused),
        (None, Some(name)) => return Err(place(name).error("there is no such file")),
        _ => {}
    }
    let name = folder.rsplit('/').next().unwrap_or_default().replace([':', '\\'], "-");
    Ok(Listed { files, shown: folder.to_owned(), name, single: single.map(str::to_owned) })
}

fn is_weights(name: &str) -> bool {
    let ending = name.rsplit('.').next().unwrap_or_default();
    format::of_ending(ending).is_some() || name.ends_with(".index.json")
}

/// A file, and the others where it says that it is one of several: `x-00001-of-00003.gguf`.
fn parts(name: &str) -> BTreeSet<String> {
    let several = || {
        let (stem, ending) = name.rsplit_once('.')?;
        let (before, of) = stem.rsplit_once("-of-")?;
        let (before, number) = before.rsplit_once('-')?;
        let n: usize = of.parse().ok().filter(|&n| n <= MAX_FILES)?;
        let width = number.len();
        let _: usize = number.parse().ok()?;
        Some((1..=n).map(|k| format!("{before}-{k:0width$}-of-{of}.{ending}")).collect())
    };
    several().unwrap_or_else(|| BTreeSet::from([name.to_owned()]))
}

/// The names that a folder of a checkpoint may have, as far as they are known without a list.
fn known(spec: &Spec) -> BTreeSet<String> {
    let own = [MODEL_FILE, MANIFEST_FILE, SOURCE_FILE, "config.json"].map(str::to_owned);
    let singles = FORMATS.iter().flat_map(|format| format.singles.iter());
    let singles = singles.filter(|name| is_plain(name));
    let weights = singles.flat_map(|name| [(*name).to_owned(), format!("{name}.index.json")]);
    let beside = spec.beside.iter().flat_map(|role| &role.names);
    let beside = beside.map(|name| name.trim_end_matches('*')).filter(|name| !name.contains('*'));
    let beside = beside.flat_map(|name| match name.chars().any(|c| c == '.' || c == '_') {
        true => vec![name.to_owned()],
        // `README*`, `LICENSE*`
        false => vec![name.to_owned(), format!("{name}.md"), format!("{name}.txt")],
    });
    let templates = ["chat_template.jinja".to_owned()];
    own.into_iter()
        .chain(weights)
        .chain(beside)
        .chain(templates)
        .filter(|name| is_plain(name))
        .collect()
}

enum Probed {
    Found(File),
    Absent,
    Refused(Error),
}

/// Asks for the first bytes of files, several at once.
fn probe(
    client: &Client,
    names: &[String],
    place: &(dyn Fn(&str) -> Place + Sync),
) -> Result<Vec<Probed>> {
    let next = AtomicUsize::new(0);
    let answers: Vec<Mutex<Option<Result<Probed>>>> =
        names.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..N_CONNECTIONS.min(names.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = names.get(at) else { break };
                    let answer = probe_one(client, place(name));
                    // A server that does not answer for one file is not waited for with the others.
                    if answer.is_err() {
                        next.store(names.len(), Ordering::Relaxed);
                    }
                    *answers[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                }
            });
        }
    });
    let answers = answers.into_iter().map(|answer| {
        let answer = answer.into_inner().unwrap_or_else(PoisonError::into_inner);
        answer.unwrap_or(Ok(Probed::Absent))
    });
    answers.collect()
}

fn probe_one(client: &Client, place: Place) -> Result<Probed> {
    let found = patiently(|| {
        let Some(answer) = client.range(&place, &(0..FIRST_LEN))? else { return Ok(None) };
        let (version, mut head) = (answer.version.clone(), Vec::new());
        let end = FIRST_LEN.min(version.len);
        let reached = answer.read(end, |_, bytes| {
            head.extend_from_slice(bytes);
            Ok(())
        })?;
        if reached < end {
            return Err(place.error(format!("the answer breaks off at byte {reached}")));
        }
        Ok(Some((version, head)))
    });
    match found {
        Ok(Some((version, head))) => Ok(Probed::Found(File { place, version, head })),
        Ok(None) => Ok(Probed::Absent),
        Err(err) if err.kind() == ErrorKind::Unsupported => Ok(Probed::Refused(err)),
        Err(err) => Err(err),
    }
}

/// The names of other files in an index or a manifest, which is fetched whole for that.
fn names_in(client: &Client, name: &str, file: &mut File) -> Result<Vec<String>> {
    let is_index = name.ends_with(".index.json");
    if !is_index && name != MANIFEST_FILE {
        return Ok(Vec::new());
    }
    if (file.head.len() as u64) < file.version.len {
        file.head = whole(client, file)?;
    }
    // What is wrong with one is said by its reader.
    if is_index {
        return Ok(folder::shards(&file.head).unwrap_or_default());
    }
    let manifest = serde_json::from_slice::<Manifest>(&file.head).ok();
    Ok(manifest.into_iter().flat_map(|manifest| manifest.files).map(|file| file.path).collect())
}

/// All of a file whose first bytes came with the list.
fn whole(client: &Client, file: &File) -> Result<Vec<u8>> {
    let File { place, version, .. } = file;
    if MAX_LIST_LEN < version.len {
        return Err(
            place.refusal(format!("has {} bytes, at most {MAX_LIST_LEN} are read", version.len))
        );
    }
    patiently(|| {
        let answer = client.range(place, &(0..version.len))?;
        let answer = answer.ok_or_else(|| place.refusal("is gone"))?;
        version.check(&answer.version, place)?;
        let mut bytes = Vec::new();
        let reached = answer.read(version.len, |_, part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        match reached == version.len {
            true => Ok(bytes),
            false => Err(place.error(format!("the answer breaks off at byte {reached}"))),
        }
    })
}

// Hugging Face.

fn of_hub(
    client: &Client,
    repository: &str,
    revision: &str,
    path: &str,
    setting: Settings<'_>,
) -> Result<Listed> {
    let endpoint = setting("HF_ENDPOINT").unwrap_or_default();
    let endpoint = match endpoint.trim_end_matches('/') {
        "" => "https://huggingface.co",
        endpoint => endpoint,
    };
    let token = setting("HF_TOKEN");
    let shown = format!("hf://{repository}@{revision}");
    let at = escaped(revision).replace('/', "%2F");
    let place = |url: String, shown: String| Place { url, shown, token: token.clone() };
    let tree = place(
        format!("{endpoint}/api/models/{}/tree/{at}?recursive=true", escaped(repository)),
        shown.clone(),
    );
    let list = patiently(|| client.document(&tree, MAX_LIST_LEN))?;
    let list = list.ok_or_else(|| {
        tree.refusal("there is no such repository or revision, or it takes a token (HF_TOKEN)")
    })?;
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "type")]
        kind: String,
        path: String,
        #[serde(default)]
        size: u64,
    }
    let entries: Vec<Entry> = serde_json::from_slice(&list)
        .map_err(|err| tree.refusal(format!("the list of its files is none: {err}")))?;
    // A page of the hub's list has a thousand entries.
    if 1000 <= entries.len() {
        return Err(tree.refusal("has more files than a page of its list holds"));
    }
    let (folder, single) = split(path);
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut files = BTreeMap::new();
    for entry in entries.into_iter().filter(|entry| entry.kind == "file" && is_plain(&entry.path)) {
        let Some(name) = entry.path.strip_prefix(&prefix) else { continue };
        let url =
            format!("{endpoint}/{}/resolve/{at}/{}", escaped(repository), escaped(&entry.path));
        let file = place(url, format!("{shown}/{}", entry.path));
        files.insert(name.to_owned(), listed(file, entry.size));
    }
    named(files, &shown, folder, single, repository)
}

fn listed(place: Place, len: u64) -> File {
    File { place, version: Version::of_len(len), head: Vec::new() }
}

/// What was listed of a folder, where the file that was named is there.
fn named(
    files: BTreeMap<String, File>,
    shown: &str,
    folder: &str,
    single: Option<&str>,
    name: &str,
) -> Result<Listed> {
    let slash = if folder.is_empty() { "" } else { "/" };
    let shown = format!("{shown}{slash}{folder}");
    if let Some(single) = single.filter(|single| !files.contains_key(*single)) {
        let message = format!("{shown}/{single}: there is no such file");
        return Err(Error::new(ErrorKind::Io, message));
    }
    let last = if folder.is_empty() { name } else { folder };
    let name = last.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(Listed { files, shown, name, single: single.map(str::to_owned) })
}

// S3.

fn of_bucket(client: &Client, bucket: &str, key: &str, setting: Settings<'_>) -> Result<Listed> {
    let shown = format!("s3://{bucket}");
    let region = setting("AWS_REGION").or_else(|| setting("AWS_DEFAULT_REGION"));
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    let own = setting("AWS_ENDPOINT_URL_S3").or_else(|| setting("AWS_ENDPOINT_URL"));
    // Servers of one's own seldom have a name for each bucket.
    let style = if own.is_some() { UrlStyle::Path } else { UrlStyle::VirtualHost };
    let endpoint = own.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    let wrong = |why: String| Error::new(ErrorKind::Unsupported, format!("{shown}: {why}"));
    let endpoint =
        endpoint.parse().map_err(|_| wrong("AWS_ENDPOINT_URL is no address".to_owned()))?;
    let of = Bucket::new(endpoint, style, bucket.to_owned(), region)
        .map_err(|err| wrong(err.to_string()))?;
    // Without a key, what is public can be read.
    let key_pair = setting("AWS_ACCESS_KEY_ID").zip(setting("AWS_SECRET_ACCESS_KEY"));
    let credentials = key_pair.map(|(id, secret)| match setting("AWS_SESSION_TOKEN") {
        Some(token) => Credentials::new_with_token(id, secret, token),
        None => Credentials::new(id, secret),
    });
    let credentials = credentials.as_ref();
    let place = |url: String, shown: String| Place { url, shown, token: None };
    let (folder, single) = split(key);
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut files = BTreeMap::new();
    let mut token: Option<String> = None;
    loop {
        let mut list = of.list_objects_v2(credentials);
        list.with_prefix(prefix.as_str());
        if let Some(token) = &token {
            list.with_continuation_token(token.as_str());
        }
        let page = place(list.sign(SIGNED_FOR).into(), shown.clone());
        let text = patiently(|| client.document(&page, MAX_LIST_LEN))?;
        let text = text.ok_or_else(|| page.refusal("there is no such bucket"))?;
        let text = String::from_utf8_lossy(&text);
        let list = ListObjectsV2::parse_response(&in_namespace(&text))
            .map_err(|_| page.refusal("the list of its files is none"))?;
        for object in list.contents {
            let Some(name) = object.key.strip_prefix(&prefix).filter(|name| is_plain(name)) else {
                continue;
            };
            let url = of.get_object(credentials, &object.key).sign(SIGNED_FOR);
            let file = place(url.into(), format!("{shown}/{}", object.key));
            files.insert(name.to_owned(), listed(file, object.size.unwrap_or_default()));
            if MAX_FILES < files.len() {
                return Err(page.refusal(format!("has more than {MAX_FILES} files there")));
            }
        }
        token = list.next_continuation_token;
        if token.is_none() {
            break;
        }
    }
    named(files, &shown, folder, single, bucket)
}

/// A list of a bucket in the namespace of Amazon, whatever that of the server is: Google's storage and others have an
/// older one.
fn in_namespace(list: &str) -> String {
    const ROOT: &str = "<ListBucketResult";
    let rest = list.find(ROOT).and_then(|start| Some((start, start + list[start..].find('>')?)));
    match rest.filter(|(_, end)| !list[..*end].ends_with('/')) {
        Some((start, end)) => {
            let (before, after) = (&list[..start], &list[end..]);
            format!("{before}{ROOT} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"{after}")
        }
        None => list.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_any_namespace_are_read() {
        for namespace in [
            "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"",
            "xmlns='http://doc.s3.amazonaws.com/2006-03-01'",
            "",
        ] {
            let list = format!(
                "<?xml version=\"1.0\"?>\n<ListBucketResult {namespace}><Contents><Key>a/b</Key>\
                 <Size>3</Size></Contents></ListBucketResult>"
            );
            let list = ListObjectsV2::parse_response(&in_namespace(&list)).unwrap();
            assert_eq!((list.contents[0].key.as_str(), list.contents[0].size), ("a/b", Some(3)));
        }
    }

    #[test]
    fn names_stay_in_their_folder() {
        for (name, expected) in [
            ("config.json", true),
            ("1_Pooling/config.json", true),
            ("../x", false),
            ("a/../x", false),
            ("/x", false),
            ("a\\x", false),
            (".git/config", false),
            ("", false),
        ] {
            assert_eq!(is_plain(name), expected, "{name}");
        }
    }

    #[test]
    fn parts_name_each_other() {
        let all = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"].map(str::to_owned);
        assert_eq!(parts("a-00002-of-00002.gguf"), BTreeSet::from(all));
        for alone in ["a.gguf", "a-1-of-99999999.gguf", "a-x-of-2.gguf"] {
            assert_eq!(parts(alone), BTreeSet::from([alone.to_owned()]));
        }
    }

    #[test]
    fn a_folder_and_a_file_are_told_apart() {
        assert_eq!(split("https://h/a/b"), ("https://h/a/b", None));
        assert_eq!(split("https://h/a/b.gguf"), ("https://h/a", Some("b.gguf")));
        assert_eq!(split("x.safetensors"), ("", Some("x.safetensors")));
        assert_eq!(split("Qwen2.5-7B"), ("Qwen2.5-7B", None));
    }
}
