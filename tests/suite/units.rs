//! Conversions in units: byte for byte what one run makes, however many units there are, and whatever
//! becomes of them on the way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hf").join(name).join("src")
}

fn llmstd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmstd"));
    command.env_remove("SLURM_ARRAY_TASK_ID").env_remove("JOB_COMPLETION_INDEX");
    command.args(["convert", "--quiet"]).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn good(output: Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// A conversion, what one run makes of it, and its plan.
struct Case {
    scratch: TempDir,
    source: PathBuf,
    destination: PathBuf,
    plan: PathBuf,
    expected: BTreeMap<String, Vec<u8>>,
}

impl Case {
    fn new(fixture_name: &str, more: &[&str]) -> Case {
        let scratch = TempDir::new().unwrap();
        let source = scratch.path().join("source");
        fs::create_dir(&source).unwrap();
        for file in llmstd::folder::list(&fixture(fixture_name)).unwrap() {
            fs::create_dir_all(source.join(&file.name).parent().unwrap()).unwrap();
            fs::copy(fixture(fixture_name).join(&file.name), source.join(&file.name)).unwrap();
        }
        // Packages name the folder of their source and no other path: the destinations may differ.
        let single = scratch.path().join("single");
        good(run(llmstd().arg(&source).arg(&single).args(more)));
        let expected = tree(&single);
        fs::remove_dir_all(&single).unwrap();
        let destination = scratch.path().join("made");
        let mut command = llmstd();
        command.arg(&source).arg(&destination).args(more).args(["--dry-run", "--format", "json"]);
        let planned = run(command.stdout(Stdio::piped()));
        let plan = scratch.path().join("plan.json");
        fs::write(&plan, &planned.stdout).unwrap();
        good(planned);
        Case { scratch, source, destination, plan, expected }
    }

    fn shards() -> Case {
        Case::new("llama-tied", &["--max-shard-size", "20KB"])
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = llmstd();
        command.arg("--plan").arg(&self.plan).args(more);
        command
    }

    fn unit(&self, word: &str) -> Command {
        self.command(&["--unit", word])
    }

    /// Joins, and holds what comes of it to what one run made; nothing else is left.
    #[track_caller]
    fn finish(&self) {
        good(run(&mut self.command(&["--finish"])));
        self.check();
    }

    #[track_caller]
    fn check(&self) {
        let made = tree(&self.destination);
        let names = |tree: &BTreeMap<String, Vec<u8>>| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&made), names(&self.expected));
        for (name, bytes) in &self.expected {
            assert!(made[name] == *bytes, "{name} differs");
        }
        let entries = fs::read_dir(self.scratch.path()).unwrap();
        let mut beside: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        beside.sort();
        assert_eq!(beside, ["made", "plan.json", "source"]);
    }
}

/// The files below a folder.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(path) = folders.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn any_number_of_units_makes_what_one_run_makes() {
    for (name, more, counts) in [
        ("llama-tied", &["--max-shard-size", "20KB"][..], &[1u64, 3, 40][..]),
        ("llama-tied", &["--to", "gguf", "--max-shard-size", "20KB"], &[2]),
        ("llama-untied", &["--to", "safetensors", "--max-shard-size", "20KB"], &[3]),
        ("bert-seqcls", &["--to", "tf"], &[2]),
        ("llama-tied", &["--max-shard-size", "20KB", "--dtype", "bf16", "--lossy"], &[2]),
    ] {
        for &count in counts {
            let case = Case::new(name, more);
            for number in (1..=count).rev() {
                good(run(&mut case.unit(&format!("{number}/{count}"))));
            }
            assert!(!case.destination.exists());
            case.finish();
        }
    }
}

#[test]
fn a_plan_is_carried_out_by_one_run_too_and_by_tasks_of_schedulers() {
    let case = Case::shards();
    good(run(case.unit("auto/2").env("SLURM_ARRAY_TASK_ID", "2")));
    good(run(case.unit("auto/2").env("JOB_COMPLETION_INDEX", "0")));
    case.finish();
    let case = Case::shards();
    good(run(&mut case.command(&[])));
    case.check();
    // A unit by itself does not read the environment.
    let output = run(&mut Case::shards().unit("auto/2"));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("SLURM_ARRAY_TASK_ID"));
}

#[test]
fn a_unit_twice_at_once_is_as_good_as_once() {
    let case = Case::shards();
    for _ in 0..3 {
        let begun: Vec<_> = [1, 2, 1, 2, 1, 1]
            .iter()
            .map(|number| case.unit(&format!("{number}/2")).spawn().unwrap())
            .collect();
        for child in begun {
            good(child.wait_with_output().unwrap());
        }
    }
    case.finish();
}

#[test]
fn a_hundred_kills_leave_nothing_wrong() {
    let case = Case::shards();
    for kill in 0..100u64 {
        let mut child = case.unit(&format!("{}/3", kill % 3 + 1)).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(kill * 7919 % 90_000));
        let _ = child.kill();
        child.wait().unwrap();
        assert!(!case.destination.exists());
    }
    for number in 1..=3 {
        good(run(&mut case.unit(&format!("{number}/3"))));
    }
    for kill in 0..20u64 {
        let mut child = case.command(&["--finish"]).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(kill * 5101 % 60_000));
        let _ = child.kill();
        child.wait().unwrap();
        if case.destination.exists() {
            break;
        }
    }
    if !case.destination.exists() {
        case.finish();
    }
    assert!(tree(&case.destination) == case.expected);
}

#[test]
fn a_run_goes_on_where_one_that_was_killed_has_ended() {
    let case = Case::shards();
    let resume = || {
        let mut command = llmstd();
        command.arg(&case.source).arg(&case.destination).args(["--max-shard-size", "20KB"]);
        command.arg("--resume");
        command
    };
    for kill in 0..10 {
        let mut child = resume().spawn().unwrap();
        std::thread::sleep(Duration::from_millis(5 * kill));
        let _ = child.kill();
        child.wait().unwrap();
        if case.destination.exists() {
            fs::remove_dir_all(&case.destination).unwrap();
        }
    }
    // What a unit made is kept too: it is the same plan.
    good(run(&mut case.unit("1/2")));
    let store = fs::read_dir(case.scratch.path()).unwrap().map(|entry| entry.unwrap().path());
    let store = store
        .filter(|path| path.to_string_lossy().contains(".made.llmstd-units-"))
        .collect::<Vec<_>>();
    let [store] = store.as_slice() else { panic!("{store:?}") };
    let shard = fs::read_dir(store)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "safetensors"))
        .unwrap();
    // Cut off, as by a disk that ran full: it is made again.
    fs::write(&shard, b"cut").unwrap();
    good(run(&mut resume()));
    case.check();
}

#[test]
fn what_is_missing_or_of_another_plan_is_refused() {
    let case = Case::shards();
    good(run(&mut case.unit("1/3")));
    let refused = |output: Output, words: &[&str]| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(!case.destination.exists());
    };
    refused(run(&mut case.command(&["--finish"])), &["P050", "-of-"]);
    // Another number of units leaves shards out as well.
    good(run(&mut case.unit("2/2")));
    let config = case.source.join("config.json");
    let text = fs::read(&config).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    fs::write(&config, &text).unwrap();
    refused(run(&mut case.unit("2/3")), &["P051", "--dry-run"]);
    refused(run(&mut case.command(&["--finish"])), &["P051"]);
    fs::write(&case.plan, "{}").unwrap();
    refused(run(&mut case.unit("2/3")), &["no plan of a conversion"]);
}
