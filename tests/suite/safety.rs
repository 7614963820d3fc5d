//! What is on the disk is safe: `--force`, signals, files that change or cannot be read, full disks.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::folders::copy;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo/v1")
}

/// Runs `llmstd convert` in a folder.
fn convert_in(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmstd"));
    command.current_dir(folder).arg("convert").args(args).output().unwrap()
}

#[track_caller]
fn refused(folder: &Path, args: &[&str], why: &str) {
    let before = listing(folder);
    let output = convert_in(folder, args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
    assert!(message.contains(why), "{args:?}: {message}");
    assert_eq!(listing(folder), before, "{args:?}");
}

#[track_caller]
fn done(folder: &Path, args: &[&str]) -> Output {
    let output = convert_in(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Every file below a folder with its length; links are not followed.
fn listing(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let metadata = entry.path().symlink_metadata().unwrap();
        if metadata.is_dir() {
            files.push((entry.path(), 0));
            files.extend(listing(&entry.path()));
        } else {
            files.push((entry.path(), metadata.len()));
        }
    }
    files.sort();
    files
}

#[test]
fn force_spares_the_source_what_holds_it_and_what_lies_in_it() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    copy(&demo(), &dir.join("m"));
    copy(&demo(), &dir.join("holder/deep/m"));
    for (args, why) in [
        (&["m", "m", "--force"][..], "is the source m"),
        (&["m", "./m/../m", "--force"], "is the source m"),
        (&["m", "m/sub"], "lies in the source m"),
        (&["m", "m/sub.gguf"], "lies in the source m"),
        (&["holder/deep/m", "holder", "--force"], "holds the source holder/deep/m"),
        (&["m/model.safetensors", "m", "--force"], "holds the source m/model.safetensors"),
        (&["m/model.safetensors", "m/model.safetensors", "--force"], "is the source"),
        (&["m", "m", "--force", "--dry-run"], "is the source m"),
    ] {
        refused(dir, args, why);
    }
    refused(dir, &["m", ".", "--force"], "holds the source m");
    refused(dir, &["m", "holder", "--force"], "only what llmstd wrote");
}

#[cfg(unix)]
#[test]
fn links_hide_no_source() {
    use std::os::unix::fs::symlink;
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    copy(&demo(), &dir.join("m"));
    symlink("m", dir.join("link")).unwrap();
    refused(dir, &["m", "link", "--force"], "is the source m");
    refused(dir, &["link", "m", "--force"], "is the source link");
    refused(dir, &["m", "link/sub"], "lies in the source m");
    // A cache keeps the bytes elsewhere: that folder is as much the source.
    fs::create_dir_all(dir.join("models--x/blobs")).unwrap();
    fs::create_dir_all(dir.join("models--x/snapshots/1")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(demo().join(name), dir.join("models--x/blobs").join(name)).unwrap();
        let target = Path::new("../../blobs").join(name);
        symlink(target, dir.join("models--x/snapshots/1").join(name)).unwrap();
    }
    let blobs = &["models--x/snapshots/1", "models--x/blobs", "--force"];
    refused(dir, blobs, "holds the source");
    // A link that leads elsewhere is not replaced either.
    fs::create_dir(dir.join("elsewhere")).unwrap();
    symlink("elsewhere", dir.join("other")).unwrap();
    refused(dir, &["m", "other", "--force"], "is a link");
}

#[test]
fn force_replaces_only_what_was_written_here() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    copy(&demo(), &dir.join("m"));
    fs::create_dir(dir.join("unrelated")).unwrap();
    fs::write(dir.join("unrelated/thesis.txt"), "years of work").unwrap();
    refused(dir, &["m", "unrelated", "--force"], "only what llmstd wrote");
    // Not even another model: this program did not write it.
    copy(&demo(), &dir.join("theirs"));
    refused(dir, &["m", "theirs", "--force", "--to", "hf"], "only what llmstd wrote");
    fs::write(dir.join("notes.gguf"), "no model").unwrap();
    refused(dir, &["m", "notes.gguf", "--force"], "only what llmstd wrote");

    fs::create_dir(dir.join("empty")).unwrap();
    done(dir, &["m", "empty", "--force"]);
    for (name, to) in
        [("std", "std"), ("hf", "hf"), ("st", "safetensors"), ("x.gguf", "gguf"), ("parts", "gguf")]
    {
        done(dir, &["m", name, "--to", to]);
        let before = listing(&dir.join("m"));
        refused(dir, &["m", name, "--to", to], "--force replaces it");
        done(dir, &["m", name, "--to", to, "--force", "--verify"]);
        assert_eq!(listing(&dir.join("m")), before);
        if !name.contains('.') {
            fs::write(dir.join(name).join("mine.txt"), "mine").unwrap();
            refused(dir, &["m", name, "--to", to, "--force"], "has `mine.txt`");
        }
    }
    let hidden = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = hidden.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

/// A checkpoint of one tensor of many zeros, which take no room on most disks.
fn long_checkpoint(dir: &Path, n_bytes: u64) -> PathBuf {
    let header = format!(
        "{{\"x\":{{\"dtype\":\"F32\",\"shape\":[{},4],\"data_offsets\":[0,{n_bytes}]}}}}",
        n_bytes / 16
    );
    let path = dir.join("long.safetensors");
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + n_bytes).unwrap();
    path
}

/// The hidden folders of a folder.
fn partials(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let is_partial = |path: &PathBuf| path.to_string_lossy().contains(".llmstd-partial-");
    entries.filter(is_partial).collect()
}

/// Begins a conversion of a long checkpoint, and returns when a part of it is written.
fn begun(dir: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmstd"));
    command.current_dir(dir).args(["convert", "long.safetensors", "out", "--generic"]);
    let child =
        command.args(["--threads", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap();
    let start = Instant::now();
    let is_written = || {
        let folders = partials(dir);
        let files = folders.iter().flat_map(|folder| fs::read_dir(folder).ok()).flatten();
        files.flatten().any(|file| file.metadata().is_ok_and(|file| 4 << 20 < file.len()))
    };
    while !is_written() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing is written");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

/// Far more than is read before a test goes on.
const LONG: u64 = 192 << 20;

#[cfg(unix)]
fn send(child: &Child, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// Whether this process was started with a signal ignored, where the system tells; what it starts ignores it then too.
#[cfg(unix)]
fn ignores(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (number - 1) & 1 != 0)
}

#[cfg(unix)]
#[test]
fn signals_leave_nothing_behind() {
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        // In the background of a script, or under nohup.
        if ignores((status - 128) as u32) {
            continue;
        }
        let scratch = tempfile::tempdir().unwrap();
        long_checkpoint(scratch.path(), LONG);
        let child = begun(scratch.path());
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{signal}: {message}");
        assert!(message.contains(&format!("stopped by SIG{signal}: removed")), "{message}");
        assert_eq!(listing(scratch.path()).len(), 1, "{signal}: {:?}", listing(scratch.path()));
    }
}

#[cfg(unix)]
#[test]
fn what_a_killed_run_left_is_removed_by_the_next_and_that_of_a_living_one_is_not() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    copy(&demo(), &dir.join("m"));
    long_checkpoint(dir, LONG);
    let mut killed = begun(dir);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = partials(dir);
    assert_eq!(left.len(), 1);
    let living = begun_beside(dir, &left);
    // The living one has removed what was left, and keeps its own.
    let own = partials(dir);
    assert!(!own.contains(&left[0]), "{own:?}");
    let output = done(dir, &["m", "out"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!message.contains("P032"), "{message}");
    assert_eq!(partials(dir), own);
    fs::remove_dir_all(dir.join("out")).unwrap();
    let mut living = living;
    living.kill().unwrap();
    living.wait().unwrap();
    let output = done(dir, &["m", "out"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("note[P032]"), "{message}");
    assert!(partials(dir).is_empty());
}

/// As [`begun`], where folders of that kind are there already.
#[cfg(unix)]
fn begun_beside(dir: &Path, others: &[PathBuf]) -> Child {
    let child = begun(dir);
    let start = Instant::now();
    while partials(dir).iter().all(|path| others.contains(path)) {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing is written");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

#[cfg(unix)]
#[test]
fn a_source_that_changes_is_noticed() {
    for what in ["overwritten", "longer", "replaced", "shorter", "empty"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        let path = long_checkpoint(dir, LONG);
        let child = begun(dir);
        let file = || File::options().write(true).open(&path).unwrap();
        match what {
            "overwritten" => {
                use std::os::unix::fs::FileExt as _;
                file().write_all_at(b"other", LONG - 100).unwrap();
            }
            "longer" => file().set_len(LONG + 4096).unwrap(),
            "replaced" => {
                fs::rename(&path, dir.join("old")).unwrap();
                long_checkpoint(dir, LONG);
            }
            "shorter" => file().set_len(LONG / 2).unwrap(),
            _ => file().set_len(0).unwrap(),
        }
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{what}: {:?} {message}", output.status);
        assert!(message.contains("changed while it was read"), "{what}: {message}");
        assert!(!dir.join("out").exists() && partials(dir).is_empty(), "{what}");
    }
}

#[cfg(unix)]
#[test]
fn a_limit_of_file_sizes_ends_with_a_message_and_a_clean_folder() {
    let scratch = tempfile::tempdir().unwrap();
    long_checkpoint(scratch.path(), 64 << 20);
    let script = format!(
        "ulimit -f 8192; exec '{}' convert long.safetensors out --generic",
        env!("CARGO_BIN_EXE_llmstd")
    );
    let mut command = Command::new("sh");
    let output = command.current_dir(scratch.path()).args(["-c", &script]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{:?} {message}", output.status);
    assert!(message.contains("cannot write"), "{message}");
    assert_eq!(listing(scratch.path()).len(), 1);
}

/// Converts the demo to each target in a shell that was limited by `before`. How many of them were done is up to
/// the limit; what fails says so and leaves nothing. `None` where the system lets nobody limit it so.
#[cfg(unix)]
fn limited(shell: &[&str], before: &str) -> Option<usize> {
    let mut n_done = 0;
    for to in ["std", "hf", "gguf", "npz"] {
        let scratch = tempfile::tempdir().unwrap();
        let script = format!(
            "{before} || exit 77; '{}' convert -q '{}' out --to {to}; s=$?; ls -A; exit $s",
            env!("CARGO_BIN_EXE_llmstd"),
            demo().display()
        );
        let mut command = Command::new(shell[0]);
        command.current_dir(scratch.path()).args(&shell[1..]).args(["sh", "-c", &script]);
        let output = command.output().ok()?;
        let left = String::from_utf8_lossy(&output.stdout).into_owned();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => assert!(left.ends_with("out\n") && !left.contains("partial"), "{left}"),
            Some(2) if message.contains("No space left") || message.contains("Too many open") => {
                assert_eq!(left, "", "{before}: {message}");
            }
            Some(77 | 1) => return None,
            code => panic!("{code:?} {before}: {message}"),
        }
        n_done += usize::from(output.status.success());
    }
    Some(n_done)
}

/// A file system that takes few files is full when it has these, whatever they weigh.
#[cfg(target_os = "linux")]
#[expect(clippy::print_stderr, reason = "what is not tried is told")]
#[test]
fn a_full_disk_ends_with_a_message_and_a_clean_folder() {
    let done = (2..14).map(|n| {
        let mount = format!("mount -t tmpfs -o size=64m,nr_inodes={n} none /mnt && cd /mnt");
        limited(&["unshare", "-rm"], &mount)
    });
    let Some(done) = done.collect::<Option<Vec<usize>>>() else {
        eprintln!("nobody may mount a file system of his own here: not tried");
        return;
    };
    assert!(done[0] == 0 && done[11] == 4, "{done:?}");
}

#[cfg(unix)]
#[test]
fn a_limit_of_open_files_ends_with_a_message_and_a_clean_folder() {
    let done = (5..16).map(|n| limited(&["env"], &format!("ulimit -n {n}")).unwrap());
    let done: Vec<usize> = done.collect();
    assert!(done[0] == 0 && done[10] == 4, "{done:?}");
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_is_never_left_out() {
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"] {
        for how in ["link", "folder"] {
            let scratch = tempfile::tempdir().unwrap();
            let dir = scratch.path();
            copy(&demo(), &dir.join("m"));
            let path = dir.join("m").join(name);
            fs::remove_file(&path).unwrap();
            match how {
                "link" => std::os::unix::fs::symlink("nowhere", &path).unwrap(),
                _ => fs::create_dir(&path).unwrap(),
            }
            for to in ["out", "out.gguf"] {
                refused(dir, &["m", to], name);
            }
            refused(dir, &["m", "out", "--to", "hf"], name);
            refused(dir, &["m", "out", "--to", "safetensors"], name);
        }
    }
}

#[test]
fn flags_without_effect_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    copy(&demo(), &dir.join("m"));
    done(dir, &["m", "std"]);
    // Rows of whole blocks; those of the other have none.
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf/wide"), &dir.join("wide"));
    done(dir, &["wide", "q.gguf", "--quant", "q8_0"]);
    for (args, why) in [
        (&["m", "out", "--threads", "0"][..], "--threads"),
        (&["m", "out", "--dry-run", "--verify"], "--verify has no effect"),
        (&["m", "out", "--lossy"], "--lossy has no effect"),
        (&["m", "out", "--decode"], "--decode has no effect"),
        (&["m", "out", "--quant", "q8_0"], "--quant has no effect"),
        (&["m", "out.gguf", "--quant", "q8_0"], "--quant q8_0 has no effect"),
        (&["q.gguf", "out.gguf", "--quant", "q4_0"], "--quant q4_0 has no effect"),
        (&["std", "out", "--arch", "llama"], "--arch has no effect"),
        (&["std", "out", "--generic"], "--generic has no effect"),
        (&["m", "out", "--generic", "--arch", "llama"], "--arch has no effect"),
        (&["m", "out", "--to", "safetensors", "--arch", "llama"], "--arch has no effect"),
        (&["m", "out", "--max-shard-size", "1"], "--max-shard-size 1 has no effect"),
        (&["m", "out.gguf", "--max-shard-size", "1"], "--max-shard-size 1 has no effect"),
        (&["m", "out.gguf", "--to", "hf"], "--to hf is something else"),
        (&["m", "out.safetensors", "--to", "gguf"], "--to gguf is something else"),
    ] {
        refused(dir, args, why);
    }
    // A tensor is never cut; that files are longer than asked for is told.
    for (size, is_told) in [("8KB", true), ("10KB", false)] {
        let output = done(dir, &["m", size, "--max-shard-size", size]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(message.contains("warning[P031]"), is_told, "{size}: {message}");
    }
}

/// Writes to a file as soon as its bytes are to be read.
struct Writer(PathBuf);

impl llmstd::convert::Progress for Writer {
    fn begin(&self, _: &str, _: u64) {
        let mut file = fs::OpenOptions::new().append(true).open(&self.0).unwrap();
        file.write_all(b" ").unwrap();
    }
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

#[test]
fn what_changes_while_it_is_checked_or_compared_is_not_judged() {
    use llmstd::rule::Selection;
    use llmstd::spec::Spec;
    use llmstd::{diff, validate, version};

    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let selection = Selection::default();
    let plain = || version::Options { rehash: true, ..version::Options::new(&spec) };
    let validated = |path: &Path, weights: &str| {
        let progress = Writer(path.join(weights));
        let options = validate::Options {
            deep: true,
            progress: &progress,
            ..validate::Options::new(&selection)
        };
        validate::validate(path, &spec, &options).unwrap_err().to_string()
    };
    let opened = |path: &Path, weights: &str| {
        let progress = Writer(path.join(weights));
        match version::Version::open(path, &version::Options { progress: &progress, ..plain() }) {
            Err(llmstd::convert::Failure::Error(err)) => err.to_string(),
            _ => panic!("it is refused"),
        }
    };
    let mut said = Vec::new();
    for n in 0..2 {
        let name = |kind: &str| format!("{kind}{n}");
        copy(&demo(), &at(&name("source")));
        done(scratch.path(), &[&name("source"), &name("std")]);
    }
    said.push(validated(&at("std0"), "model.safetensors"));
    said.push(validated(&at("source0"), "model.safetensors"));
    said.push(opened(&at("source1"), "model.safetensors"));
    let narrow = ["std1", "narrow", "--dtype", "bf16", "--lossy"];
    done(scratch.path(), &narrow);
    let open = |name: &str| version::Version::open(&at(name), &plain()).ok().unwrap();
    let (old, new) = (open("std1"), open("narrow"));
    let mut compared = diff::compare(&old, &new, &spec);
    let progress = Writer(at("narrow/model.safetensors"));
    let deep = diff::deepen(&mut compared, &old, &new, &spec, 1, &progress);
    said.push(deep.unwrap_err().to_string());
    for message in said {
        assert!(message.contains("model.safetensors: changed while it was read"), "{message}");
    }
}

#[test]
fn nothing_is_made_of_a_package_whose_bytes_are_not_those_of_its_manifest() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hf/gpt2-lmhead/src");
    // Tensors that are copied as they lie, and such as are turned on the way.
    for (source, tensor) in [(demo(), "mlp.down_proj.weight"), (fixture, "attn.o_proj.weight")] {
        let scratch = tempfile::tempdir().unwrap();
        copy(&source, &scratch.path().join("source"));
        done(scratch.path(), &["source", "package"]);
        let at = |name: &str| scratch.path().join("package").join(name);
        let read = |name: &str| fs::read(at(name)).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&read("manifest.json")).unwrap();
        let entries = manifest["tensors"].as_array().unwrap();
        let found = entries.iter().find(|entry| entry["name"].as_str().unwrap().ends_with(tensor));
        let entry = found.unwrap();
        let good = read("model.safetensors");
        let mut bytes = good.clone();
        bytes[entry["start"].as_u64().unwrap() as usize + 5] ^= 1;
        fs::write(at("model.safetensors"), bytes).unwrap();
        let why = format!("the bytes of `{}` are not those", entry["name"].as_str().unwrap());
        for to in ["std", "hf", "gguf", "safetensors"] {
            refused(scratch.path(), &["package", "out", "--to", to], &why);
        }
        fs::write(at("model.safetensors"), good).unwrap();
        done(scratch.path(), &["package", "out", "--to", "hf"]);
    }
}

#[test]
fn a_file_that_the_manifest_says_otherwise_is_carried_and_told_of() {
    let scratch = tempfile::tempdir().unwrap();
    copy(&demo(), &scratch.path().join("source"));
    done(scratch.path(), &["source", "package"]);
    let output = done(scratch.path(), &["package", "plain", "--to", "hf"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("V121"));
    let path = scratch.path().join("package/tokenizer.json");
    let text = fs::read_to_string(&path).unwrap() + " ";
    fs::write(&path, text).unwrap();
    let output = done(scratch.path(), &["package", "out", "--to", "hf"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("warning[V121]: tokenizer.json is not the file"), "{told}");
    refused(scratch.path(), &["package", "none", "--to", "hf", "--strict"], "error[V121]");
}

/// Of a file that is longer than what is read whole, and mapped.
#[test]
fn a_file_that_is_cut_off_while_it_is_mapped_stops_nobody_and_is_refused() {
    llmstd::base::source::survive().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.bin");
    const LEN: usize = 20 << 20;
    for left in [4096 * 3, 4096 * 3 + 5, 0] {
        fs::write(&path, vec![1; LEN]).unwrap();
        let mut source = llmstd::Source::new(scratch.path());
        let file = source.add("x.bin").unwrap();
        source.check_unchanged().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(left).unwrap();
        let all = source.bytes(file);
        let sums = std::thread::scope(|scope| {
            let halves = all.chunks(LEN / 2);
            let sums = halves
                .map(|half| scope.spawn(|| half.iter().map(|one| u64::from(*one)).sum::<u64>()));
            let sums: Vec<_> = sums.collect();
            sums.into_iter().map(|sum| sum.join().unwrap()).sum::<u64>()
        });
        assert_eq!(sums, left, "what is gone is zeros");
        let why = source.check_unchanged().unwrap_err().to_string();
        assert!(why.contains("changed while it was read") && why.contains("x.bin"), "{why}");
    }
}
