//! Inputs on other machines, by a server of the test's own: ranges, none, cut answers, lies, changes,
//! redirects.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Good,
    /// Knows no ranges.
    NoRanges,
    /// Ends every second answer after 1000 bytes.
    Cuts,
    /// Ends every answer of weights after 10 bytes, and says it has all.
    CutsAlways,
    /// Another tag with every answer.
    Changes,
    /// Says that files are longer than they are, of weights.
    Lies,
    /// Sends from one address to another, and wants to see the token of the first there.
    Redirects,
    /// Answers with another range than was asked for.
    OtherRange,
}

struct Server {
    port: u16,
    sent: Arc<AtomicU64>,
}

impl Server {
    fn new(root: &Path, manner: Manner) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = Arc::new(AtomicU64::new(0));
        let (root, counted) = (root.to_owned(), Arc::clone(&sent));
        let n_answers = Arc::new(AtomicU64::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, counted) = (root.clone(), Arc::clone(&counted));
                let n_answers = Arc::clone(&n_answers);
                std::thread::spawn(move || {
                    let _ = answer(&stream, &root, manner, &counted, &n_answers);
                });
            }
        });
        Server { port, sent }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }
}

fn answer(
    mut stream: &TcpStream,
    root: &Path,
    manner: Manner,
    sent: &AtomicU64,
    n_answers: &AtomicU64,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let (mut range, mut has_token) = (None, false);
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        has_token |= line.starts_with("authorization: bearer hf_secret");
        if let Some(bytes) = line.strip_prefix("range: bytes=") {
            let (start, end) = bytes.split_once('-').unwrap();
            range = Some((start.parse::<u64>().unwrap(), end.parse::<u64>().unwrap()));
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let mut reply = |head: &str, body: &[u8]| {
        sent.fetch_add((head.len() + body.len()) as u64, Ordering::Relaxed);
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)
    };
    // The list of a hub, and where it keeps files.
    if let Some(rest) = path.strip_prefix("api/models/org/model/tree/main") {
        assert_eq!(rest, "");
        if !has_token {
            return reply("HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"");
        }
        let files = fs::read_dir(root.join("model"))?.flatten().map(|entry| {
            let size = entry.metadata().unwrap().len();
            serde_json::json!({"type": "file", "path": entry.file_name().to_str(), "size": size})
        });
        let list = serde_json::Value::from_iter(files).to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            list.len()
        );
        return reply(&head, list.as_bytes());
    }
    if let Some(name) = path.strip_prefix("org/model/resolve/main/") {
        let head = format!(
            "HTTP/1.1 302 Found\r\nLocation: /cdn/{name}?signature=s3cr3t\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return reply(&head, b"");
    }
    // A bucket, whose list and objects take a signature, and whose list has two pages.
    if path.trim_end_matches('/') == "bucket" || path.starts_with("bucket/") {
        if !request.contains("X-Amz-Signature=") || request.contains("very-secret") {
            return reply("HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"");
        }
        if request.contains("list-type=2") {
            assert!(request.contains("prefix=model%2F"), "{request}");
            let mut files: Vec<_> = fs::read_dir(root.join("model"))?.flatten().collect();
            files.sort_by_key(|file| file.file_name());
            let is_second = request.contains("continuation-token=more");
            let (first, second) = files.split_at(2);
            let entries: String = (if is_second { second } else { first })
                .iter()
                .map(|file| {
                    let name = file.file_name();
                    let size = file.metadata().unwrap().len();
                    format!(
                        "<Contents><Key>model/{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;0&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                        name.display()
                    )
                })
                .collect();
            let next = match is_second {
                true => "",
                false => "<NextContinuationToken>more</NextContinuationToken>",
            };
            let list = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bucket</Name><Prefix>model/</Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>{}</IsTruncated>{entries}{next}</ListBucketResult>",
                !is_second
            );
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                list.len()
            );
            return reply(&head, list.as_bytes());
        }
    }
    let path = path.strip_prefix("bucket/").map_or(path.clone(), str::to_owned);
    let inner = path.strip_prefix("cdn/").map(|name| format!("model/{name}"));
    let inner = inner.unwrap_or_else(|| path.clone());
    if manner == Manner::Redirects && !path.starts_with("cdn/") {
        let name = path.rsplit('/').next().unwrap();
        let head = format!(
            "HTTP/1.1 307 Go\r\nLocation: /cdn/{name}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return reply(&head, b"");
    }
    let Some(mut file) =
        File::open(root.join(&inner)).ok().filter(|file| file.metadata().unwrap().is_file())
    else {
        return reply(
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            b"",
        );
    };
    let is_weights = inner.ends_with(".safetensors");
    let len = file.metadata()?.len();
    let told_len = len + if manner == Manner::Lies && is_weights { 100 } else { 0 };
    let number = n_answers.fetch_add(1, Ordering::Relaxed);
    let tag = if manner == Manner::Changes { number } else { 0 };
    let (mut start, mut end) = range.unwrap_or((0, told_len.saturating_sub(1)));
    end = end.min(told_len - 1);
    let whole = range.is_none() || manner == Manner::NoRanges;
    if whole {
        (start, end) = (0, told_len - 1);
    }
    if manner == Manner::OtherRange && is_weights {
        start += 1;
    }
    let mut head = match whole {
        true => "HTTP/1.1 200 OK\r\n".to_owned(),
        false => format!("HTTP/1.1 206 Part\r\nContent-Range: bytes {start}-{end}/{told_len}\r\n"),
    };
    head.push_str(&format!(
        "ETag: \"{tag}\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        end - start + 1
    ));
    let limit = match manner {
        Manner::Cuts if number % 2 == 1 => 1000,
        Manner::CutsAlways if is_weights && start != 0 => 0,
        _ => u64::MAX,
    };
    file.seek(SeekFrom::Start(start))?;
    let mut body = Vec::new();
    file.take((end - start + 1).min(limit)).read_to_end(&mut body)?;
    reply(&head, &body)
}

fn llmstd(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmstd"));
    command.args(args).env_remove("HF_TOKEN").output().unwrap()
}

#[track_caller]
fn good(args: &[&str]) -> String {
    let output = llmstd(args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[track_caller]
fn refused(args: &[&str], expected: &str) {
    let output = llmstd(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert!(text.contains(expected), "{text}");
}

/// A checkpoint of several shards whose weights are longer than what is fetched unasked, and a package.
struct Models {
    root: tempfile::TempDir,
}

impl Models {
    fn new() -> Models {
        let root = tempfile::tempdir().unwrap();
        let model = root.path().join("model");
        fs::create_dir(&model).unwrap();
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo/v1/config.json");
        fs::copy(config, model.join("config.json")).unwrap();
        for (number, rows) in [(1u8, 3000u64), (2, 5000)] {
            let name = format!("model-0000{number}-of-00002.safetensors");
            let tensors: Vec<(String, u64)> =
                (0..3).map(|k| (format!("t{number}.{k}"), rows * (k + 1))).collect();
            shard(&model.join(name), &tensors, |at| (at * u64::from(number) % 251) as u8);
        }
        let entry = |k: u64, number: u8| {
            (format!("t{number}.{k}"), format!("model-0000{number}-of-00002.safetensors").into())
        };
        let map: serde_json::Map<String, serde_json::Value> =
            (0..3).flat_map(|k| [entry(k, 1), entry(k, 2)]).collect();
        let index = serde_json::json!({"metadata": {}, "weight_map": map});
        fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
        Models { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

/// A file of tensors of bytes.
fn shard(path: &Path, tensors: &[(String, u64)], byte: impl Fn(u64) -> u8) {
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, len) in tensors {
        let entry =
            serde_json::json!({"dtype": "U8", "shape": [len], "data_offsets": [at, at + len]});
        header.insert(name.clone(), entry);
        at += len;
    }
    // Headers are longer than the first look at a file, and so is every file.
    header.insert("__metadata__".to_owned(), serde_json::json!({"pad": "x".repeat(300_000)}));
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..at).map(byte));
    fs::write(path, bytes).unwrap();
}

fn generic(source: &str, out: &Path) -> Vec<String> {
    let words = ["convert", source, out.to_str().unwrap(), "--generic", "-q"];
    words.map(str::to_owned).to_vec()
}

fn same_folder(left: &Path, right: &Path) {
    let names = |folder: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(left), names(right));
    for name in names(left) {
        assert_eq!(
            fs::read(left.join(&name)).unwrap(),
            fs::read(right.join(&name)).unwrap(),
            "{name:?}"
        );
    }
}

#[test]
fn what_is_converted_from_a_server_is_what_is_converted_from_disk() {
    let models = Models::new();
    let model = models.path("model");
    let words = generic(model.to_str().unwrap(), &models.path("here"));
    good(&words.iter().map(String::as_str).collect::<Vec<_>>());
    for manner in [Manner::Good, Manner::NoRanges, Manner::Cuts, Manner::Redirects] {
        let server = Server::new(models.root.path(), manner);
        let out = models.path(&format!("{manner:?}"));
        let words = generic(&server.url("model?signature=s3cr3t"), &out);
        let said = good(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!said.contains("s3cr3t"));
        same_folder(&models.path("here"), &out);
    }
}

#[test]
fn commands_read_a_package_of_a_server() {
    let models = Models::new();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo");
    for version in ["v1", "v2"] {
        let source = demo.join(version);
        good(&["convert", "-q", source.to_str().unwrap(), models.path(version).to_str().unwrap()]);
    }
    let server = Server::new(models.root.path(), Manner::Good);
    let (one, two) = (server.url("v1"), server.url("v2"));
    let local = models.path("v1");
    let local = local.to_str().unwrap();
    let of_remote = good(&["inspect", &one]);
    assert_eq!(of_remote.replace(&one, local), good(&["inspect", local]));
    assert_eq!(
        good(&["validate", &one, "--deep"]).replace(&one, local),
        good(&["validate", local, "--deep"])
    );
    assert_eq!(
        good(&["manifest", &one, "--format", "json"]),
        good(&["manifest", local, "--format", "json"])
    );
    let differ = llmstd(&["diff", &one, &two, "--deep"]);
    assert_eq!(differ.status.code(), Some(1), "{}", String::from_utf8_lossy(&differ.stderr));
    assert!(
        String::from_utf8_lossy(&differ.stdout).contains(&two),
        "{}",
        String::from_utf8_lossy(&differ.stdout)
    );
    let file = server.url("v1/model.safetensors");
    good(&["inspect", &file]);
    // What is nowhere, and what is no checkpoint.
    refused(&["inspect", &server.url("v1/other.safetensors")], "there is no such file");
    refused(&["inspect", &server.url("nothing")], "there is no checkpoint");
    refused(&["inspect", "http://127.0.0.1:1/model"], "http://127.0.0.1:1/model/");
    refused(
        &["inspect", "http://me:secret@127.0.0.1/model"],
        "http://127.0.0.1/model: has a name or a password",
    );
}

#[test]
fn a_hub_is_asked_with_a_token_that_nobody_else_sees() {
    let models = Models::new();
    let server = Server::new(models.root.path(), Manner::Good);
    let ask = |token: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llmstd"));
        command.args(["inspect", "hf://org/model"]).env("HF_ENDPOINT", server.url(""));
        match token {
            Some(token) => command.env("HF_TOKEN", token),
            None => command.env_remove("HF_TOKEN"),
        };
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, text) = ask(Some("hf_secret"));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("tensors       6") && text.contains("hf://org/model@main"), "{text}");
    assert!(!text.contains("hf_secret") && !text.contains("s3cr3t"));
    let (code, text) = ask(None);
    assert_eq!(code, Some(2));
    assert!(text.contains("the server answers 401") && text.contains("HF_TOKEN"), "{text}");
}

#[test]
fn a_bucket_is_asked_with_a_signature_that_is_not_told() {
    let models = Models::new();
    let server = Server::new(models.root.path(), Manner::Good);
    let local = models.path("model");
    let words = generic(local.to_str().unwrap(), &models.path("here"));
    good(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let out = models.path("out");
    let run = |key: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llmstd"));
        command.args(generic("s3://bucket/model", &out)).env("AWS_ENDPOINT_URL", server.url(""));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"] {
            command.env_remove(name);
        }
        if let Some(key) = key {
            command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", "very-secret");
        }
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains("very-secret") && !text.contains("X-Amz"), "{text}");
        (output.status.code(), text)
    };
    let (code, text) = run(None);
    assert!(code == Some(2) && text.contains("the server answers 403"), "{text}");
    let (code, text) = run(Some("me"));
    assert_eq!(code, Some(0), "{text}");
    same_folder(&models.path("here"), &out);
}

#[test]
fn servers_are_not_believed() {
    let models = Models::new();
    for (manner, expected) in [
        (Manner::CutsAlways, "breaks off at byte"),
        (Manner::Changes, "changed while it was read"),
        (Manner::Lies, "/model/model-00001-of-00002.safetensors: 100 bytes after"),
        (Manner::OtherRange, "was asked for bytes"),
    ] {
        let server = Server::new(models.root.path(), manner);
        let out = models.path("out");
        let words = generic(&server.url("model"), &out);
        refused(&words.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        assert!(!out.exists());
    }
}

#[test]
fn headers_of_a_long_model_are_all_that_is_transferred() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    fs::create_dir(&model).unwrap();
    let mut map = serde_json::Map::new();
    for number in 1..=30u64 {
        let name = format!("model-{number:05}-of-00030.safetensors");
        let (mut header, mut at) = (serde_json::Map::new(), 0u64);
        for layer in 0..24 {
            let tensor = format!("model.layers.{}.mlp.up_proj.weight", number * 24 + layer);
            let end = at + 8192 * 6144 * 2;
            let entry = serde_json::json!({"dtype": "BF16", "shape": [8192, 6144], "data_offsets": [at, end]});
            header.insert(tensor.clone(), entry);
            map.insert(tensor, name.clone().into());
            at = end;
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut file = File::create(model.join(name)).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len(8 + header.len() as u64 + at).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    let server = Server::new(root.path(), Manner::Good);
    let text = good(&["inspect", &server.url("model")]);
    assert!(text.contains("72.48 GB"), "{text}");
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent < 2_000_000, "{sent} bytes were transferred");
}
