//! Addresses of inputs on other machines.

use crate::base::error::{Error, ErrorKind, Result};

/// Where an input is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A file or a folder of a server, which cannot list.
    Web {
        /// The address up to the path, `https://host/models/bert`, without a slash at its end.
        path: String,
        /// What stands behind the question mark: a signature, in most cases. It is told to nobody else.
        query: Option<String>,
    },
    /// A repository of a Hugging Face hub.
    Hub {
        /// `org/model`.
        repository: String,
        revision: String,
        /// A file or a folder in it; empty for all of it.
        path: String,
    },
    /// What begins with a key in a bucket.
    Bucket { bucket: String, key: String },
}

impl Address {
    pub(super) const SCHEMES: [&str; 4] = ["https://", "http://", "s3://", "hf://"];

    pub(super) fn parse(input: &str) -> Result<Address> {
        let bare = input.split(['?', '#']).next().unwrap_or_default();
        let wrong = |why: &str| {
            let message = format!("{}: {why}", Address::without_user(bare));
            Err(Error::new(ErrorKind::Unsupported, message))
        };
        let (scheme, rest) = bare.split_once("://").unwrap_or_default();
        let scheme = scheme.to_ascii_lowercase();
        // The names of buckets and repositories are taken as they are, and spelled as addresses do when asked for.
        let is_spelled = scheme.starts_with("http");
        let not_spelled = |c: char| is_spelled && ['"', '<', '>', ' '].contains(&c);
        if bare.contains(|c: char| c.is_control() || c == '\\' || not_spelled(c)) {
            return wrong(match is_spelled {
                true => "has a character that addresses do not have: write it as %20 and the like",
                false => {
                    "has a character that names of files do not have there: a backslash, or a line's end"
                }
            });
        }
        let rest = rest.trim_end_matches('/');
        let parts: Vec<&str> = rest.split('/').collect();
        if rest.is_empty() || parts.iter().any(|part| ["", ".", ".."].contains(part)) {
            return wrong(
                "is no whole address: `https://host/model`, `s3://bucket/model` or `hf://org/model`",
            );
        }
        match scheme.as_str() {
            "http" | "https" if parts[0].contains('@') => {
                wrong("has a name or a password in it, which ends in logs: leave it out")
            }
            "http" | "https" if parts.len() < 2 => {
                wrong("names a server, and no file or folder of it")
            }
            "http" | "https" => {
                let query = input.split_once('?').map(|(_, query)| query);
                let query = query.and_then(|query| query.split('#').next()).map(str::to_owned);
                Ok(Address::Web { path: format!("{scheme}://{rest}"), query })
            }
            "hf" => {
                let (repository, path) = parts.split_at(parts.len().min(2));
                let joined = repository.join("/");
                let (name, revision) = joined.split_once('@').unwrap_or((&joined, "main"));
                if revision.is_empty() || name.is_empty() {
                    return wrong("a revision stands behind the name: `hf://org/model@main`");
                }
                Ok(Address::Hub {
                    repository: name.to_owned(),
                    revision: revision.to_owned(),
                    path: path.join("/"),
                })
            }
            _ => Ok(Address::Bucket { bucket: parts[0].to_owned(), key: parts[1..].join("/") }),
        }
    }

    /// What is told of it: everything but what may be a secret.
    pub(super) fn shown(&self) -> String {
        match self {
            Address::Web { path, .. } => path.clone(),
            Address::Hub { repository, revision, path } => {
                let slash = if path.is_empty() { "" } else { "/" };
                format!("hf://{repository}@{revision}{slash}{path}")
            }
            Address::Bucket { bucket, key } => {
                let slash = if key.is_empty() { "" } else { "/" };
                format!("s3://{bucket}{slash}{key}")
            }
        }
    }

    fn without_user(address: &str) -> String {
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        format!("{scheme}://{host}/{path}")
    }
}

/// A path with what addresses cannot hold as `%` and its bytes.
pub(super) fn escaped(path: &str) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                text.push(char::from(byte));
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_and_told_without_secrets() {
        for (input, shown) in [
            ("https://host/a/b/", Ok("https://host/a/b")),
            ("http://host:8000/a?sig=secret#x", Ok("http://host:8000/a")),
            ("hf://org/model", Ok("hf://org/model@main")),
            ("hf://gpt2", Ok("hf://gpt2@main")),
            ("hf://org/model@v2/sub/x.gguf", Ok("hf://org/model@v2/sub/x.gguf")),
            ("s3://bucket/a/b", Ok("s3://bucket/a/b")),
            ("s3://bucket", Ok("s3://bucket")),
            ("s3://bucket/my model/50%", Ok("s3://bucket/my model/50%")),
            ("https://host/my model", Err("https://host/my model: has a character")),
            ("https://host", Err("https://host/: names a server")),
            ("https://me:secret@host/a", Err("https://host/a: has a name")),
            ("https://host/a/../b", Err("https://host/a/../b: is no whole")),
            ("hf://", Err("hf:///: is no whole")),
            ("hf://org/model@", Err("hf://org/model@: a revision")),
        ] {
            let actual = Address::parse(input).map(|address| address.shown());
            match (actual, shown) {
                (Ok(actual), Ok(shown)) => assert_eq!(actual, shown),
                (Err(err), Err(begin)) => {
                    assert!(err.to_string().starts_with(begin), "{err}");
                    assert!(!err.to_string().contains("secret"));
                }
                (actual, _) => panic!("{input}: {actual:?}"),
            }
        }
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("a b/ü.json"), "a%20b/%C3%BC.json");
    }
}
