//! Rules that look at several things: each is broken in each of its ways, and says which one. A package
//! that is broken so may break other rules as well; `cases` has the ones that break a single rule.

use super::*;

/// One of the ways to break a rule, and what is said of it.
struct Way {
    rule: &'static str,
    says: String,
    base: Base,
    damage: Box<dyn Fn(&Path)>,
}

#[derive(Default)]
struct Ways(Vec<Way>);

impl Ways {
    fn add(
        &mut self,
        rule: &'static str,
        says: &str,
        base: Base,
        damage: impl Fn(&Path) + 'static,
    ) {
        self.0.push(Way { rule, says: says.to_owned(), base, damage: Box::new(damage) });
    }
}

fn remove(package: &Path, name: &str) {
    fs::remove_file(package.join(name)).unwrap();
}

fn edit_task(package: &Path, edit: fn(&mut Json)) {
    edit_model(package, |model| edit(&mut model["tasks"][0]));
}

fn edit_index(package: &Path, edit: impl FnOnce(&mut Json)) {
    edit_json(&package.join("model.safetensors.index.json"), edit);
    reseal(package);
}

fn edit_config(folder: &Path, edit: impl FnOnce(&mut Json)) {
    edit_json(&folder.join("config.json"), edit);
}

fn template(package: &Path, text: &str) {
    write(package, "chat_template.jinja", text);
}

fn ways() -> Vec<Way> {
    use Base::{Classifier, Decoder, Foreign, ForeignClassifier, Shards};
    let mut ways = Ways::default();
    ways.add("V101", "there is no tensor file", Decoder, |p| {
        remove(p, "model.safetensors");
        edit_json(&p.join("manifest.json"), |manifest| {
            let files = manifest["files"].as_array_mut().unwrap();
            files.retain(|file| file["path"] != "model.safetensors");
        });
    });
    ways.add("V102", "there is no model.json", Decoder, |p| remove(p, "model.json"));
    ways.add("V103", "there is no manifest.json", Decoder, |p| remove(p, "manifest.json"));
    ways.add("V104", "its weights is not", Decoder, |p| {
        edit_json(&p.join("manifest.json"), |manifest| {
            manifest["digests"]["weights"] = json!("0".repeat(64));
        });
    });
    ways.add("V104", "two hashes for `tokenizer.json`", Decoder, |p| {
        edit_manifest(p, |manifest| {
            let files = &mut manifest.tokenizer.as_mut().unwrap().files;
            files.values_mut().for_each(|sha256| *sha256 = "0".repeat(64));
        });
    });
    ways.add("V105", "bytes, the manifest says", Decoder, |p| {
        let path = p.join("generation_config.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text + "\n").unwrap();
    });
    ways.add("V105", "lists chat_template.jinja twice", Decoder, |p| {
        edit_manifest(p, |manifest| {
            let first = manifest.files[0].clone();
            manifest.files.insert(0, first);
        });
    });
    ways.add("V105", " behind ", Decoder, |p| {
        edit_manifest(p, |manifest| manifest.files.swap(0, 1))
    });
    ways.add("V106", "notes.txt is not in the manifest", Decoder, |p| {
        write_raw(p, "notes.txt", "x")
    });
    ways.add("V107", "lists `embed.tokens.weight` twice", Decoder, |p| {
        edit_manifest(p, |manifest| {
            let first = manifest.tensors[0].clone();
            manifest.tensors.insert(0, first);
        });
    });
    ways.add("V107", "in the manifest, and in no tensor file", Decoder, |p| {
        edit_manifest(p, |manifest| {
            manifest.tensors[0].name = format!("{}s", manifest.tensors[0].name).into();
        });
    });
    ways.add("V107", "and not in the manifest", Decoder, |p| {
        edit_manifest(p, |manifest| drop(manifest.tensors.remove(0)));
    });
    ways.add("V109", "shards and no index", Shards, |p| remove(p, "model.safetensors.index.json"));
    ways.add("V109", "model.safetensors.index.json: ", Shards, |p| {
        write_raw(p, "model.safetensors.index.json", "{");
    });
    ways.add("V109", "no object `weight_map`", Shards, |p| {
        edit_index(p, |index| index["weight_map"] = json!([]));
    });
    ways.add("V109", "the index puts `embed.tokens.weight`", Shards, |p| {
        edit_index(p, |index| {
            let map = index["weight_map"].as_object_mut().unwrap();
            map["embed.tokens.weight"] = json!("model-00002-of-00002.safetensors");
        });
    });
    ways.add("V109", "tensor file 1 of 1 is called weights.safetensors", Decoder, |p| {
        fs::rename(p.join("model.safetensors"), p.join("weights.safetensors")).unwrap();
        reseal(p);
    });
    ways.add("V111", "which does not stay inside", Shards, |p| {
        edit_index(p, |index| {
            let map = index["weight_map"].as_object_mut().unwrap();
            map["embed.tokens.weight"] = json!("../model.safetensors");
        });
    });
    ways.add("V114", "is kept in source/buffers.safetensors", Decoder, |p| {
        edit_json(&p.join("source.json"), |source| {
            source["dropped"] = json!([{ "name": "x", "dtype": "F32", "shape": [2], "why": "a buffer", "back": "kept" }]);
        });
    });
    ways.add("V115", "modeling_x is a program", Decoder, |p| {
        write_raw(p, "modeling_x", "#!/bin/sh\n");
    });
    ways.add("V116", "two versions of the standard", Decoder, |p| {
        edit_manifest(p, |manifest| manifest.spec = "1.0.1".to_owned());
    });
    ways.add("V124", "an event \"dreamt\"", Decoder, |p| {
        edit_model(p, |model| model["history"] = json!([{ "op": "dreamt" }]));
    });
    ways.add("V201", "names no architecture", Decoder, |p| {
        edit_model(p, |model| model["architecture"] = Json::Null);
    });
    ways.add("V204", "it is the name of no role", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let mut other = tensor(tensors, "decoder.final_norm.weight").clone();
            other.name = "decoder.final_norm.temperature".to_owned();
            tensors.push(other);
        });
    });
    ways.add("V205", "has the shape [20]", Decoder, |p| {
        edit_tensors(p, |tensors| {
            let norm = tensor(tensors, "decoder.layers.1.mlp.pre_norm.weight");
            norm.shape = vec![20];
            norm.bytes.truncate(80);
        });
    });
    ways.add("V207", "is tied twice", Decoder, |p| {
        edit_model(p, |model| {
            let tie = model["ties"][0].clone();
            model["ties"].as_array_mut().unwrap().push(tie);
        });
    });
    ways.add("V210", "there is no special token \"end\"", Decoder, |p| {
        edit_model(p, |model| model["tokens"]["end"] = json!(1));
    });
    ways.add("V210", "which is no id", Decoder, |p| {
        edit_model(p, |model| model["tokens"]["sep"] = json!("</s>"));
    });
    ways.add("V210", "is 99, which is no row", Decoder, |p| {
        edit_model(p, |model| model["tokens"]["sep"] = json!(99));
    });
    ways.add("V211", "there is no such tensor", Decoder, |p| {
        edit_model(p, |model| model["encodings"] = json!({ "embed.tokens.bias": "q4_0" }));
    });
    ways.add("V303", "one id, 5", Decoder, |p| {
        edit_json(&p.join("tokenizer.json"), |tokenizer| {
            let added = json!({ "id": 5, "content": "[PAD]", "special": true });
            tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
        });
        reseal(p);
    });
    ways.add("V304", "names no task", Decoder, |p| {
        edit_model(p, |model| model["tasks"] = json!([]))
    });
    ways.add("V304", "the standard has no task \"telepathy\"", Decoder, |p| {
        edit_task(p, |task| task["id"] = json!("telepathy"));
    });
    ways.add("V304", "llama does not serve the task masked-lm", Decoder, |p| {
        edit_task(p, |task| task["id"] = json!("masked-lm"));
    });
    ways.add("V304", "stands twice", Decoder, |p| {
        edit_model(p, |model| {
            let task = model["tasks"][0].clone();
            model["tasks"].as_array_mut().unwrap().push(task);
        });
    });
    ways.add("V305", "names no head", Classifier, |p| {
        edit_task(p, |task| drop(task.as_object_mut().unwrap().remove("head")));
    });
    ways.add("V305", "which is neither stored nor tied", Classifier, |p| {
        edit_task(p, |task| task["head"] = json!("rm"));
    });
    ways.add("V305", "which is not stored", Classifier, |p| {
        edit_task(p, |task| task["dense"] = json!([{ "head": "other", "activation": "tanh" }]));
    });
    ways.add("V305", "an activation \"shout\"", Classifier, |p| {
        edit_task(p, |task| task["activation"] = json!("shout"));
    });
    ways.add("V305", "is a problem \"hard\"", Classifier, |p| {
        edit_task(p, |task| task["problem"] = json!("hard"));
    });
    ways.add("V305", "has no labels", Classifier, |p| {
        edit_task(p, |task| drop(task.as_object_mut().unwrap().remove("labels")));
    });
    ways.add("V305", "labels, its head has 3 rows", Classifier, |p| {
        edit_task(p, |task| task["labels"] = json!(["a", "b"]));
    });
    ways.add("V306", "the inputs of the task", Decoder, |p| {
        edit_task(p, |task| task["inputs"][0]["name"] = json!("words"));
    });
    ways.add("V306", "the outputs of the task", Decoder, |p| {
        edit_task(p, |task| task["outputs"][0]["name"] = json!("scores"));
    });
    ways.add("V307", "how positions become one vector", Classifier, |p| {
        edit_task(p, |task| drop(task.as_object_mut().unwrap().remove("pool")));
    });
    ways.add("V307", "pools by \"median\"", Classifier, |p| {
        edit_task(p, |task| task["pool"] = json!("median"));
    });
    ways.add("V307", "there is no `tokens.pad`", Classifier, |p| {
        edit_model(p, |model| {
            model["tasks"][0]["pool"] = json!("last");
            model["tokens"].as_object_mut().unwrap().remove("pad");
        });
    });
    ways.add("V307", "there is no `tokens.eos`", Classifier, |p| {
        edit_model(p, |model| {
            model["tasks"][0]["pool"] = json!("eos");
            model["tokens"].as_object_mut().unwrap().remove("eos");
        });
    });
    ways.add("V307", "takes the pooler, which is not stored", Classifier, |p| {
        let first = (1..).map(|n| shard(p, n)).next().unwrap();
        let mut tensors = read_tensors(&first);
        tensors.retain(|tensor| tensor.name != "heads.pooler.dense.weight");
        write_tensors(&first, &tensors, "1.0.0");
        edit_task(p, |task| task["pool"] = json!("pooler"));
    });
    ways.add("V401", "is a Git LFS pointer", Decoder, |p| write(p, "tokenizer.model", POINTER));
    ways.add(
        "V406",
        "that `auto_map` does not name: ops.py (imported by modeling_x.py)",
        Foreign,
        |p| {
            write(p, "modeling_x.py", "from .ops import norm\n");
            write(p, "ops.py", "");
            edit_config(p, |config| config["auto_map"] = json!({ "AutoModel": "modeling_x.X" }));
        },
    );
    ways.add("V408", "calls `os.system`", Foreign, |p| {
        fs::write(p.join("training_args.bin"), CALL).unwrap();
    });
    ways.add("V408", "names classes that loading it imports: `shop.basket.Item`", Foreign, |p| {
        fs::write(p.join("state.pkl"), b"\x80\x02cshop.basket\nItem\nq\x00.").unwrap();
    });
    ways.add("V409", "does not say which model it changes", Foreign, |p| {
        write(p, "adapter_config.json", r#"{"peft_type": "LORA"}"#);
    });
    ways.add("V409", "by a folder of one machine, \"C:\\\\base\"", Foreign, |p| {
        write(p, "adapter_config.json", r#"{"base_model_name_or_path": "C:\\base"}"#);
    });
    for (key, value) in [
        ("temperature", json!(0)),
        ("top_p", json!(-0.5)),
        ("min_p", json!(2)),
        ("typical_p", json!(0)),
        ("top_k", json!(1.5)),
        ("repetition_penalty", json!(0)),
        ("num_beams", json!(0)),
        ("max_new_tokens", json!(0)),
        ("no_repeat_ngram_size", json!(-1)),
    ] {
        let says = format!("`{key}` is {value}");
        ways.add("V415", &says, Decoder, move |p| {
            edit(p, "generation_config.json", key, value.clone());
        });
    }
    for key in ["suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "pad_token_id"] {
        ways.add("V412", &format!("`{key}` has 999"), Decoder, move |p| {
            edit(p, "generation_config.json", key, json!([[3, 999]]));
        });
    }
    for key in ["eos_token_id", "suppress_tokens", "begin_suppress_tokens"] {
        ways.add("V414", &format!("`{key}` has 2 twice"), Decoder, move |p| {
            edit(p, "generation_config.json", key, json!([2, 8, 2]));
        });
    }
    for key in ["temperature", "top_p", "top_k", "min_p", "typical_p"] {
        ways.add("V416", &format!("`{key}` is set"), Decoder, move |p| {
            let config = json!({ "bos_token_id": 1, "eos_token_id": 2, key: 0.25 });
            write(p, "generation_config.json", &config.to_string());
        });
    }
    ways.add("V415", "`min_new_tokens` is 9, and `max_new_tokens` 8", Decoder, |p| {
        edit(p, "generation_config.json", "min_new_tokens", json!(9));
        edit(p, "generation_config.json", "max_new_tokens", json!(8));
    });
    ways.add("V417", "`max_new_tokens` is 21", Classifier, |p| {
        write(p, "generation_config.json", r#"{"max_new_tokens": 21}"#);
    });
    ways.add("V422", "in tokenizer.json \"</s>\" has the id 2", Decoder, |p| {
        let added = json!({ "7": { "content": "</s>" } });
        edit(p, "tokenizer_config.json", "added_tokens_decoder", added);
    });
    ways.add("V422", "in tokenizer.json 2 is \"</s>\"", Decoder, |p| {
        let added = json!({ "2": { "content": "<end>" } });
        edit(p, "tokenizer_config.json", "added_tokens_decoder", added);
    });
    ways.add("V425", "it is no pair", Decoder, |p| {
        edit_json(&p.join("tokenizer.json"), |tokenizer| {
            tokenizer["model"]["merges"] = json!(["alone"]);
        });
        reseal(p);
    });
    ways.add("V426", "`unk_id` is 1000", Decoder, |p| {
        edit_json(&p.join("tokenizer.json"), |tokenizer| {
            tokenizer["model"] = json!({
                "type": "Unigram",
                "unk_id": 1000,
                "vocab": [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0]],
            });
        });
        reseal(p);
    });
    for kind in ["BertProcessing", "RobertaProcessing"] {
        ways.add("V427", "\"</s>\" is put around texts as 7, and its id is 2", Decoder, move |p| {
            let processor = json!({ "type": kind, "sep": ["</s>", 7], "cls": ["<s>", 1] });
            edit(p, "tokenizer.json", "post_processor", processor);
        });
        ways.add("V427", "\"<s>\" is put around texts as 7, and its id is 1", Decoder, move |p| {
            let processor = json!({ "type": kind, "sep": ["</s>", 2], "cls": ["<s>", 7] });
            let processor = json!({ "type": "Sequence", "processors": [processor] });
            edit(p, "tokenizer.json", "post_processor", processor);
        });
    }
    for kind in ["bert", "roberta", "distilbert"] {
        let file = format!("sentence_{kind}_config.json");
        let says = format!("{file} allows 21 tokens");
        ways.add("V429", &says, Classifier, move |p| {
            write(p, &file, r#"{"max_seq_length": 21}"#);
        });
    }
    for name in ["page.bin", "spiece.model", "optimizer.pt"] {
        ways.add("V403", &format!("{name} is a web page"), Foreign, move |p| {
            write(p, name, "<html><title>Sign in</title>");
        });
    }
    for end in ["incomplete", "part", "partial", "crdownload", "download", "aria2", "opdownload"] {
        let name = format!("model.safetensors.{end}");
        ways.add("V402", &format!("{name} is a download"), Foreign, move |p| write(p, &name, "x"));
    }
    ways.add("V441", "does not parse, on line 2", Decoder, |p| {
        template(p, "{{ bos_token }}\n{% for %}")
    });
    ways.add("V442", "`__class__` on line 1", Decoder, |p| template(p, "{{ messages.__class__ }}"));
    ways.add("V442", "`mro` on line 1", Decoder, |p| template(p, "{{ messages.mro }}"));
    ways.add("V442", "`__globals__`", Decoder, |p| {
        template(p, "{% set x = '__globals__' %}{{ messages|attr(x) }}");
    });
    ways.add("V442", "puts together on line 1", Decoder, |p| {
        template(p, "{{ messages|attr('_' ~ '_class_' ~ '_') }}");
    });
    ways.add("V442", "`__globals__`", Decoder, |p| template(p, "{% for %}{{ x.__globals__ }}"));
    ways.add("V443", "writes <|end|>, <|start|>", Decoder, |p| {
        template(p, "{{ '<|start|>' }}<|end|>");
    });
    ways.add("V446", "the filter `b64encode`", Decoder, |p| {
        template(p, "{{ messages | b64encode }}")
    });
    ways.add("V446", "the test `purple`", Decoder, |p| {
        template(p, "{% if messages is purple %}x{% endif %}");
    });
    ways.add("V446", "loads another template", Decoder, |p| template(p, "{% include 'other' %}"));
    ways.add("V461", "`compression_config` says", Foreign, |p| {
        edit_config(p, |config| {
            config["compression_config"] = json!({ "quant_method": "compressed-tensors" });
        });
    });
    ways.add("V463", "`rope_parameters.rope_type` is", Foreign, |p| {
        edit_config(p, |config| config["rope_scaling"] = json!({ "rope_type": "linear" }));
    });
    ways.add("V463", "`rope_parameters.factor` is", Foreign, |p| {
        edit_config(p, |config| {
            config["rope_parameters"] =
                json!({ "rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0 });
            config["rope_scaling"] = json!({ "rope_type": "linear", "factor": 4.0 });
        });
    });
    ways.add("V463", "`original_max_position_embeddings` is", Foreign, |p| {
        edit_config(p, |config| {
            config["rope_scaling"] = json!({ "original_max_position_embeddings": 32 });
            config["original_max_position_embeddings"] = json!(16);
        });
    });
    ways.add("V463", "`partial_rotary_factor` is", Foreign, |p| {
        edit_config(p, |config| {
            config["partial_rotary_factor"] = json!(0.5);
            config["rotary_pct"] = json!(0.25);
        });
    });
    ways.add("V451", "`label2id` gives it nothing", ForeignClassifier, |p| {
        edit_config(p, |config| drop(config["label2id"].as_object_mut().unwrap().remove("pos")));
    });
    ways.0
}

#[test]
fn each_way_to_break_a_rule_is_told() {
    let mut wrong = Vec::new();
    for way in ways() {
        let (_scratch, package) = package(way.base);
        let damage = std::panic::AssertUnwindSafe(|| (way.damage)(&package));
        let report = match std::panic::catch_unwind(damage) {
            Ok(()) => try_run(&package, Some(Conformance::Full), false),
            Err(_) => {
                wrong.push(format!("{} {:?}: the damage cannot be done", way.rule, way.says));
                continue;
            }
        };
        let report = match report {
            Ok(report) => report,
            Err(err) => {
                wrong.push(format!("{} {:?}: {err}", way.rule, way.says));
                continue;
            }
        };
        let is_told =
            |finding: &Diagnostic| finding.rule == way.rule && finding.message.contains(&way.says);
        if !report.findings.iter().any(is_told) {
            let found = report.findings.iter().map(|one| format!("{}: {}", one.rule, one.message));
            let found: Vec<String> = found.collect();
            wrong.push(format!("{} {:?}: {found:#?}", way.rule, way.says));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn write_raw(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}
