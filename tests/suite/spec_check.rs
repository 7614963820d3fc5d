//! `llmstd spec check`: nothing is wrong with the standard, and a data file with one thing wrong in
//! it is refused, with file, key and words.

use std::fs;
use std::path::Path;
use std::process::Command;

use llmstd::author::check::{acts, check, forms};
use llmstd::spec::Spec;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// A standard of one architecture and one mapping, so that what is wrong is found at once.
fn small(to: &Path) {
    copy(&root().join("spec/1.0"), to);
    for format in fs::read_dir(to.join("map")).unwrap().map(|entry| entry.unwrap().path()) {
        if !format.ends_with("hf") {
            fs::remove_dir_all(format).unwrap();
        }
    }
    for folder in ["arch", "map/hf"] {
        for entry in fs::read_dir(to.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if !name.starts_with('_') && name != "llama" && name != "mistral" {
                fs::remove_file(path).unwrap();
            }
        }
    }
    let text = "version = \"1.0.0\"\narchitectures = [\"llama\", \"mistral\"]\n[maps]\nhf = [\"llama\", \"mistral\"]\n";
    fs::write(to.join("spec.toml"), text).unwrap();
}

/// What is wrong after one text of one file is another.
#[track_caller]
fn expect(file: &str, find: &str, put: &str, wanted: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("spec");
    small(&dir);
    let path = dir.join(file);
    let text = fs::read_to_string(&path).unwrap_or_default();
    assert!(text.contains(find), "{file} has no {find:?}");
    fs::write(&path, text.replacen(find, put, 1)).unwrap();
    let problems = match Spec::from_dir(&dir) {
        Ok(spec) => check(&spec),
        Err(err) => vec![err.to_string()],
    };
    assert!(
        problems.iter().any(|problem| problem.contains(wanted)),
        "{file}: {put:?}\nwanted: {wanted}\nfound: {problems:#?}"
    );
}

const LLAMA: &str = "map/hf/llama.toml";

#[test]
fn names_that_nothing_binds_are_refused() {
    let put = "from = [\"@layers.{j}.input_layernorm.weight\"]";
    let find = "from = [\"@layers.{i}.input_layernorm.weight\"]";
    expect(LLAMA, find, put, "map/hf/llama: `@layers.{j}.input_layernorm.weight`");
    expect(LLAMA, find, put, "{j} is not bound");
    let find = "value = \"hidden_size\"";
    expect(LLAMA, find, "value = \"hidden_syze\"", "`embed_dim`: `hidden_syze`: there is no");
    expect(
        LLAMA,
        "shape = [\"rope_dim / 2\"]",
        "shape = [\"rope_dims / 2\"]",
        "inv_freq`: `rope_dims / 2`: there is no `rope_dims`",
    );
    expect(
        "arch/llama.toml",
        "when  = \"attn_o_bias and",
        "when  = \"o_bias and",
        "arch/llama: `o_bias and",
    );
    let find = "expr   = \"vocab_size\"";
    expect("hparams.toml", find, "expr = \"vocab\"", "`vocab`: there is no `vocab` here");
}

#[test]
fn ops_that_do_not_fit_their_names_are_refused() {
    let from = "from = [\"@norm.weight\"]";
    let put = |ops: &str| format!("{from}\nops = [{ops}]");
    expect(LLAMA, from, &put("{ op = \"qkv_concat\" }"), "its ops make 3 tensors, and 1 are named");
    let two = "{ op = \"qkv_concat\" }, { op = \"pairs\", axis = 0 }";
    expect(LLAMA, from, &put(two), "pairs cuts one tensor, and is given 3");
    let perm = "{ op = \"transpose\", perm = [0, 0] }";
    expect(LLAMA, from, &put(perm), "transpose [0, 0] is no order of its axes");
    let scale = "{ op = \"scale\", c = 0.0 }";
    expect(LLAMA, from, &put(scale), "scale by 0 does not come back");
    let each = "{ op = \"each\", ops = [[], []] }";
    expect(LLAMA, from, &put(each), "each has 2 chains for 1 tensors");
    let over = format!("{from}\nover = {{ e = \"num_layers\" }}");
    expect(LLAMA, from, &over, "it is a list over {e}, which no foreign name has");
    expect(LLAMA, from, &put("{ op = \"turn\" }"), "map/hf/llama.toml");
}

#[test]
fn names_without_a_role_are_refused() {
    let find = "to   = [\"decoder.final_norm.weight\"]";
    expect(
        LLAMA,
        find,
        "to   = [\"decoder.last_norm.weight\"]",
        "`decoder.last_norm.weight` is the name of no role",
    );
    let find = "tie  = \"embed.tokens.weight\"";
    expect(LLAMA, find, "tie = \"embed.token.weight\"", "there is no role `embed.token.weight`");
    let find = "names = [\"decoder.final_norm.weight\"]";
    expect(
        "arch/llama.toml",
        find,
        "names = [\"decoder.end_norm.weight\"]",
        "arch/llama: there is no role `decoder.end_norm.weight`",
    );
}

#[test]
fn keys_that_cannot_be_had_are_refused() {
    let find = "to   = \"norm_eps\"\nfrom = [\"rms_norm_eps\"]\ndefault = [{ value = 1e-6 }]";
    expect(LLAMA, find, "to = \"norm_eps\"", "`norm_eps`: nothing says what it is");
    let put = |default: &str| {
        format!("to = \"norm_eps\"\nfrom = [\"rms_norm_eps\"]\ndefault = [{default}]")
    };
    let text = put("{ value = \"small\" }");
    expect(LLAMA, find, &text, "`norm_eps`: \"small\" is no value of it: a number, at least 0");
    let text = put("{ when = \"transformers before 5\", value = 1e-6 }");
    expect(LLAMA, find, &text, "`transformers before 5` is no condition on a writer's version");
    let whole = format!("[[key]]\n{find}");
    expect(LLAMA, &whole, "", "map/hf/llama: nothing gives `norm_eps`");
    let put = "to = \"norm_epsilon\"\nfrom = [\"rms_norm_eps\"]";
    expect(LLAMA, find, put, "map/hf/llama: there is no key `norm_epsilon`");
    expect(
        LLAMA,
        "words_of = \"activation\"",
        "words = { silu = \"swish\" }",
        "`activation`: \"swish\" is no value of it: one of",
    );
    expect(
        "arch/llama.toml",
        "norm_placement  = \"pre\"",
        "norm_placement = \"front\"",
        "arch/llama: `norm_placement` is \"front\", and has to be",
    );
}

#[test]
fn tasks_that_nothing_serves_are_refused() {
    let find = "id    = \"causal-lm\"\nhead  = \"lm\"";
    expect(
        LLAMA,
        find,
        "id = \"causal-lm\"\nhead = \"lmm\"",
        "map/hf/llama: no rule makes the head `lmm`",
    );
    expect(
        LLAMA,
        find,
        "id = \"masked-lm\"\nhead = \"lm\"",
        "map/hf/llama: llama does not serve masked-lm",
    );
    let find = "prefix = \"transformer.\"";
    expect(LLAMA, find, "prefix = \"body.\"", "map/hf/llama: \"body.\" is none of its prefixes");
    let find = "tasks   = [\"causal-lm\",";
    expect(
        "arch/llama.toml",
        find,
        "tasks = [\"chat\", \"causal-lm\",",
        "arch/llama: there is no task `chat`",
    );
}

#[test]
fn what_two_claim_or_nobody_lists_is_refused() {
    let find = "model_type = \"mistral\" }";
    expect(
        "map/hf/mistral.toml",
        find,
        "model_type = \"llama\" }",
        "map/hf/mistral: one config is also llama's",
    );
    expect("map/hf/stray.toml", "", "[map]\n", "map/hf/stray.toml: spec.toml does not list it");
    expect("arch/stray.toml", "", "[arch]\n", "arch/stray.toml: spec.toml does not list it");
    let find = "fn = \"rope_inv_freq\"";
    expect(LLAMA, find, "fn = \"rope_freq\"", "inv_freq`: there is no recipe `rope_freq`");
}

/// What no file shows by itself: tiny models do.
#[test]
fn what_only_a_model_shows_is_refused() {
    // The small standard has roles that only other architectures use, which ends the check before.
    let scratch = tempfile::tempdir().unwrap();
    let expect = |find: &str, put: &str, wanted: &str| {
        let dir = scratch.path().join("spec");
        let _ = fs::remove_dir_all(&dir);
        small(&dir);
        let path = dir.join(LLAMA);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(find), "{find}");
        fs::write(&path, text.replacen(find, put, 1)).unwrap();
        let spec = Spec::from_dir(&dir).unwrap();
        assert!(spec.check().iter().all(|problem| problem.starts_with("roles: no architecture")));
        let problems = acts(&spec, spec.map("hf", "llama").unwrap());
        let found = problems.iter().any(|problem| problem.contains(wanted));
        assert!(found, "{put:?}\nwanted: {wanted}\nfound: {problems:#?}");
    };
    // Two rules make one tensor.
    let find = "to   = [\"decoder.layers.{i}.mlp.pre_norm.weight\"]";
    let put = "to   = [\"decoder.layers.{i}.attn.pre_norm.weight\"]";
    expect(find, put, "map/hf/llama: ");
    // A tensor of the architecture that no rule makes.
    let find = "[[rule]]\nfrom = [\"@norm.weight\"]\nto   = [\"decoder.final_norm.weight\"]\n";
    expect(find, "", "`decoder.final_norm.weight`");
    // A rule that never acts.
    let dead = format!("{find}\n[[rule]]\nfrom = [\"x\"]\nto = [\"decoder.embed.norm.weight\"]\n");
    expect(find, &dead, "`x`: no config makes this rule act");
    // A tensor of another shape than its role.
    let find = "from = [\"@norm.weight\"]";
    let put =
        "from = [\"@norm.weight\"]\nops = [{ op = \"reshape\", from = [\"7\"], to = [\"7\"] }]";
    expect(find, put, "map/hf/llama: ");
    // A config that cannot say what it says.
    let find = "from = [\"rms_norm_eps\"]";
    expect(find, "from = [\"rms_norm_eps\"]\nexpr = \"x * 2\"", "norm_eps");
}

/// A family of one's own: the draft of a checkpoint that no mapping is for reads all of it, where the
/// standard has everything that it is made of.
#[test]
fn a_draft_reads_the_checkpoint_it_is_made_from() {
    let scratch = tempfile::tempdir().unwrap();
    let (known, drafted) = (scratch.path().join("known"), scratch.path().join("drafted"));
    copy(&root().join("spec/1.0"), &known);
    for path in ["arch/vaultgemma.toml", "map/hf/vaultgemma.toml"] {
        fs::remove_file(known.join(path)).unwrap();
    }
    let list = fs::read_to_string(known.join("spec.toml")).unwrap();
    fs::write(known.join("spec.toml"), list.replace("\"vaultgemma\", ", "")).unwrap();
    let checkpoint = root().join("fixtures/families/vaultgemma");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llmstd"));
        let output = command.args(args).output().unwrap();
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (known, drafted, checkpoint) = (text(&known), text(&drafted), text(&checkpoint));
    let out = text(&scratch.path().join("out"));
    let convert = ["convert", &checkpoint, &out, "--verify"];
    let (code, refused) = run(&[&["--spec", &known][..], &convert].concat());
    assert_eq!(code, Some(2), "{refused}");
    assert!(refused.contains("there is no hf mapping for the model_type"), "{refused}");
    let draft = ["spec", "new-arch", &checkpoint, "--name", "new", "--out", &drafted];
    let (code, told) = run(&[&["--spec", &known][..], &draft].concat());
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("new extends hf/gemma2, which knows 29 of 29 tensors"), "{told}");
    assert!(told.contains("Not proven yet"), "{told}");
    let (code, told) = run(&[&["--spec", &drafted][..], &convert].concat());
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("read back and compared with the source: 29 equal"), "{told}");
    // Nothing is written over, and a name is not taken twice.
    assert_eq!(run(&draft).0, Some(2));
    let (code, told) = run(&["spec", "new-arch", &checkpoint, "--name", "gemma2", "--out", &out]);
    assert_eq!(code, Some(2));
    assert!(told.contains("the standard has \"gemma2\" already"), "{told}");
}

/// What tiny models say of it is for `sample.rs` to see.
#[test]
fn nothing_is_wrong_with_the_standard() {
    let spec = Spec::from_dir(&root().join("spec/1.1")).unwrap();
    assert_eq!(forms(&spec), Vec::<String>::new());
}

#[test]
fn the_command_says_what_is_wrong_or_that_nothing_is() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("spec");
    small(&dir);
    let run = || {
        let output = Command::new(env!("CARGO_BIN_EXE_llmstd"))
            .args(["spec", "check"])
            .arg(&dir)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    // Of two architectures many roles are of neither.
    let (code, text) = run();
    assert_eq!(code, Some(1), "{text}");
    let (last, problems) =
        text.trim_end().rsplit_once('\n').map(|(rest, last)| (last, rest)).unwrap();
    assert!(last.ends_with(&format!(": {} found", problems.lines().count())), "{text}");
    assert!(problems.lines().all(|line| line.starts_with("roles: no architecture")), "{text}");
}
