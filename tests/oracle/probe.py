#!/usr/bin/env python3
"""Asks of every key of a config what transformers makes of it, and whether llmstd says the same.

    python tests/oracle/probe.py keys   OUT [CASE…]      # every key of every case, one at a time
    python tests/oracle/probe.py random OUT [CASE…] [--rounds N] [--seed S]   # several keys, class, dtype, container

Needs python 3.11, torch 2.15.0, transformers 5.23.0, safetensors 0.8.0, and `cargo test --test suite --no-run`
done before. A case is one of fixtures/families/cases_*.py or of `BASES` here. `--part I/N` takes each Nth case.

A variant is a config.json with one entry (or several) changed, written as it is beside the weights of the
model that transformers makes of it. Where transformers computes other outputs for it, or has other tensors,
the folder goes to the judge (tests/suite/judge.rs): into a package, whose outputs are to be those that
transformers computes, within 1e-4 of the greatest; the entries without effect go all at once. OUT/results.jsonl
has a line for each variant, OUT/CASE/N the folders of those that are not as they should be, and at the end
stands a table:

    inert       transformers computes the same, and the package too
    equal       the outputs change, and are the same
    refused     llmstd names a reason not to convert it, though transformers loads it
    warned      the outputs differ, and a finding names the entry
    wrong       the outputs differ, and nothing says so
    fault       anything else: nothing computes it, a panic
    back        the package goes back to transformers, which computes something else, or it does not go
"""

import argparse
import collections
import contextlib
import glob
import importlib.util
import inspect
import json
import os
import random
import re
import shutil
import subprocess
import sys
import warnings

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
spec = importlib.util.spec_from_file_location("make", os.path.join(ROOT, "fixtures/families/make.py"))
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
torch, transformers = make.torch, make.transformers
warnings.simplefilter("ignore")

TOLERANCE = 1e-4
B = dict(vocab_size=99, bos_token_id=1, eos_token_id=2, pad_token_id=0)
S = dict(B, hidden_size=24, num_attention_heads=6, num_key_value_heads=2, intermediate_size=20, num_hidden_layers=2, max_position_embeddings=64)
BASES = {
    "llama": dict(cls="LlamaForCausalLM", type="llama", config=dict(S, head_dim=8)),
    "mistral": dict(cls="MistralForCausalLM", type="mistral", config=dict(S, head_dim=8, sliding_window=4)),
    "qwen2": dict(cls="Qwen2ForCausalLM", type="qwen2", config=dict(S)),
    "gpt2": dict(cls="GPT2LMHeadModel", type="gpt2", config=dict(B, n_embd=18, n_head=3, n_layer=2, n_positions=40)),
    "bert-lm": dict(cls="BertForMaskedLM", type="bert", config=dict(vocab_size=99, pad_token_id=0, hidden_size=20, num_attention_heads=5, num_hidden_layers=2, intermediate_size=28, max_position_embeddings=24)),
}
# What no class declares and code of the library reads all the same, or older configs have.
UNDECLARED = ["is_causal", "is_decoder", "add_cross_attention", "use_bidirectional_attention", "sliding_window", "use_sliding_window", "layer_types",
              "head_dim", "num_key_value_heads", "attention_bias", "mlp_bias", "partial_rotary_factor", "rope_theta", "rope_scaling", "rotary_pct",
              "rotary_emb_base", "tie_word_embeddings", "position_embedding_type", "original_max_position_embeddings", "no_rope_layers", "attention_chunk_size"]
SKIPPED = {"architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id", "problem_type", "is_encoder_decoder", "return_dict", "model_type",
           "output_attentions", "output_hidden_states", "use_cache", "name_or_path", "num_labels", "quantization_config", "pruned_heads", "vocab_size", "tokenizer_class"}
OPTIONS = {"position_embedding_type": ["absolute", "relative_key", "relative_key_query", "rope", "nope", "rotary"], "topk_method": ["greedy", "group_limited_greedy", "noaux_tc"],
           "feed_forward_proj": ["relu", "gated-gelu", "gelu", "gated-silu"], "scoring_func": ["softmax", "sigmoid"], "norm_rel_ebd": ["none", "layer_norm"],
           "pos_att_type": [["c2p"], ["p2c"], "p2c|c2p", []], "classifier_pooling": ["cls", "mean"], "summary_type": ["last", "first", "mean", "cls_index"]}
ACTIVATIONS = ["gelu_new", "quick_gelu", "relu2", "swish", "tanh", "gelu", "relu", "gelu_fast", "gelu_10", "mish", "sigmoid", "silu", "gelu_pytorch_tanh", "leaky_relu", "relu6"]


# ================================================================ what to change, and to what


def ropes(config):
    """Objects of rotary words, in the spelling of transformers 5."""
    base = config.get("rope_parameters") or {}
    if not isinstance(base, dict):
        return
    by_type = [k for k, v in base.items() if isinstance(v, dict)]
    heads = next((config[k] for k in ("num_attention_heads", "n_head", "num_heads") if config.get(k)), 1)
    hidden = next((config[k] for k in ("hidden_size", "n_embd", "d_model") if config.get(k)), 8)
    inner = base[by_type[0]] if by_type else base
    share = inner.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    dim = int((config.get("qk_rope_head_dim") or config.get("head_dim") or hidden // heads) * (share or 1.0)) // 2
    part = {"partial_rotary_factor": inner["partial_rotary_factor"]} if "partial_rotary_factor" in inner else {}
    default = dict(rope_type="default", rope_theta=500.0, **part)
    yarn = dict(rope_type="yarn", rope_theta=900.0, factor=4.0, original_max_position_embeddings=16, **part)
    kinds = [
        default, dict(default, rope_theta=1000000), dict(default, partial_rotary_factor=0.5), dict(default, rope_type="linear", factor=3.0), dict(default, rope_type="dynamic", factor=2.0),
        dict(default, rope_type="dynamic", factor=2.0, original_max_position_embeddings=5), dict(default, rope_type="dynamic", factor=2.0, alpha=100.0),
        yarn, dict(yarn, beta_fast=4.0, beta_slow=2.0), dict(yarn, attention_factor=1.3), dict(yarn, mscale=0.7, mscale_all_dim=0.9), dict(yarn, mscale=0.7), dict(yarn, truncate=False, beta_fast=3.0),
        dict(yarn, factor=None), dict({k: v for k, v in yarn.items() if k != "original_max_position_embeddings"}),
        dict(rope_type="longrope", rope_theta=900.0, short_factor=[1.0 + i / 7 for i in range(dim)], long_factor=[2.0 + i / 5 for i in range(dim)], original_max_position_embeddings=16, **part),
        dict(rope_type="longrope", rope_theta=900.0, short_factor=[1.0 + i / 7 for i in range(dim)], long_factor=[2.0 + i / 5 for i in range(dim)], original_max_position_embeddings=5, factor=3.0, **part),
        dict(rope_type="longrope", rope_theta=900.0, short_factor=[1.0 + i / 7 for i in range(dim)], long_factor=[2.0 + i / 5 for i in range(dim)], original_max_position_embeddings=16, attention_factor=1.4, **part),
        dict(rope_type="llama3", rope_theta=900.0, factor=4.0, original_max_position_embeddings=16, low_freq_factor=1.0, high_freq_factor=4.0, **part),
        dict(rope_type="llama3", rope_theta=900.0, factor=4.0, original_max_position_embeddings=8, low_freq_factor=0.5, high_freq_factor=2.0, **part),
    ]
    for kind in kinds:
        if by_type:
            for name in by_type:
                yield {"rope_parameters": dict(base, **{name: kind})}
            continue
        yield {"rope_parameters": kind}
        old = {k: v for k, v in kind.items() if k not in ("rope_theta", "partial_rotary_factor")}
        change = {"rope_parameters": DELETE, "rope_theta": kind["rope_theta"], "rope_scaling": old if old["rope_type"] != "default" else None}
        if "partial_rotary_factor" in kind:
            change["partial_rotary_factor"] = kind["partial_rotary_factor"]
        yield change
        if old["rope_type"] != "default":
            yield dict(change, rope_scaling={("type" if k == "rope_type" else k): v for k, v in old.items()})


DELETE = object()


def values(key, value, hint, source):
    """What a key is changed to."""
    found = []
    if key in OPTIONS:
        found += OPTIONS[key]
    elif isinstance(value, bool):
        found += [not value, None]
    elif isinstance(value, int):
        found += [value + 1, value * 2, value - 1, 1, 3, None, DELETE]
        found += [] if re.search(r"size|dim|width|heads|layers|num_experts|_per_tok|window", key) else [0]   # A model of nothing.
    elif isinstance(value, float):
        found += [value * 1.5 + 0.1, value / 2, 0.0, 1, None, DELETE]
    elif isinstance(value, str):
        found += [re.sub(r"\W", "", word) for line in source.split("\n") if re.search(rf"\b{key}\b", line) for word in re.findall(r"[\"'][a-z_0-9]+[\"']", line)]
        found = [word for word in found if word != key]
        if value in transformers.activations.ACT2FN:
            found += ACTIVATIONS
        found += [None, DELETE]
    elif isinstance(value, list):
        found += [value[::-1], [value[0]] * len(value) if value else [], [value[-1]] * len(value) if value else [], value[1:], [], None, DELETE]
        if value and all(isinstance(x, int) for x in value):
            found += [[0], [1], value[0]]
        if value and isinstance(value[0], str) and value[0].endswith("_attention"):
            found += [["full_attention"] * len(value), ["sliding_attention"] * len(value)]
    elif isinstance(value, dict):
        found += [None, DELETE]
    elif "bool" in hint or not hint and re.match(r"(is|use|add|tie)_|\w+_bias$", key):
        found += [True, False]
    else:
        found += [3, 8, 1, 0] if "int" in hint or not hint else []
        found += [0.5, 2.0] if "float" in hint or not hint else []
        found += ACTIVATIONS[:3] if "str" in hint and ("act" in key or "fn" in key) else []
        found += [[1], [0]] if "list" in hint else []
        if key == "layer_types":
            found += [["full_attention", "sliding_attention"], ["sliding_attention", "full_attention", "full_attention"], ["sliding_attention"] * 2, ["sliding_attention"] * 3]
        if key == "no_rope_layers":
            found += [[0, 1], [1, 0, 1]]
        if key == "rope_scaling":
            found += [{"type": "linear", "factor": 3.0}, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}]
    seen = []
    for new in found:
        same = type(new) is type(value) and new == value
        if not same and not any(type(new) is type(old) and new == old for old in seen):
            seen.append(new)
    return seen


def get(config, path):
    for part in path.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def put(config, path, value):
    *parts, last = path.split(".")
    for part in parts:
        config[part] = dict(config.get(part) or {})
        config = config[part]
    if value is DELETE:
        config.pop(last, None)
    else:
        config[last] = value


def keys_of(case, config):
    """Every path that may matter: of the class, of its code, of objects in it."""
    cls = transformers.models.auto.configuration_auto.CONFIG_MAPPING[case["type"]] if case["type"] in transformers.models.auto.configuration_auto.CONFIG_MAPPING else type(config)
    hints = {k: str(v) for k, v in getattr(cls, "__annotations__", {}).items()}
    model = getattr(transformers, case["cls"])
    module = sys.modules[model.__module__]
    source = inspect.getsource(module) + inspect.getsource(sys.modules[type(config).__module__])
    full = config.to_dict()
    names = [k for k in full if not k.startswith("_")]
    names += re.findall(r"config\.([a-z][a-z_0-9]+)\b(?!\()", source) + re.findall(r"getattr\([a-z_.]*config, [\"'](\w+)[\"']", source) + UNDECLARED
    seen = []
    for name in names:
        if name in SKIPPED or name in seen or callable(getattr(type(config), name, None)):
            continue
        seen.append(name)
    for name in seen:
        value = full.get(name)
        if isinstance(value, dict) and name not in ("rope_parameters", "rope_scaling"):
            for inner, leaf in value.items():
                if inner not in SKIPPED:
                    yield f"{name}.{inner}", leaf, "", source
        yield name, value, hints.get(name, ""), source


def changes_of(case, config):
    """Each a list of (path, value)."""
    full = config.to_dict()
    for name, value, hint, source in keys_of(case, config):
        for new in values(name, value, hint, source):
            yield {name: new}
    if full.get("rope_parameters"):
        kinds = list(ropes(full))
        yield from kinds if case["type"] == "llama" else random.sample(kinds, min(len(kinds), 12))


def tame(change):
    """Whether it stays tiny."""
    return all(not isinstance(v, int) or abs(v) <= 4096 or "rope" in k or "token" in k or "position" in k for k, v in change.items())


# ================================================================ both sides


class Judge:
    def __init__(self, back=False):
        names = sorted(glob.glob(os.path.join(ROOT, "target/debug/deps/suite-*")), key=os.path.getmtime)
        self.binary = next(name for name in names[::-1] if os.access(name, os.X_OK) and "." not in os.path.basename(name))
        self.start()

    def start(self):
        args = [self.binary, "judge::judge", "--exact", "--ignored", "--nocapture", "--test-threads=1"]
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)

    def __call__(self, folder, **more):
        self.process.stdin.write(json.dumps(dict(folder=folder, **more)) + "\n")
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        self.start()
        return {"verdict": "fault", "why": "the judge died"}


def build(case, name, config_json, folder):
    """A model of the config as it stands in a file, with the noise of the case for weights."""
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config_json, f, indent=1)
    config = transformers.AutoConfig.from_pretrained(folder)
    if re.search("For(SequenceClassification|QuestionAnswering)$", case["cls"]) and config.is_encoder_decoder and hasattr(config, "eos_token_id"):
        case["inputs"] = {"input_ids": [[5, 17, 42, 8, 98, 61, 33, 12, config.eos_token_id]]}
    if config.model_type == "falcon" and config.alibi:
        case["attn"] = "sdpa"  # The eager path adds ALiBi twice.
    config._attn_implementation = case.get("attn", "eager")
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, case["cls"])(config).float().eval()
    make.randomise(model, name, case.get("kept"), case.get("ids"))
    return model


def shapes(model):
    return {k: tuple(v.shape) for k, v in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(left[k].shape == right[k].shape and torch.equal(left[k], right[k]) for k in left)


def save(case, model, config_json, folder, container="safetensors", dtype="float32"):
    """The folder as it would be published, and what transformers computes of it."""
    # What a class sets by itself stands in every file that it saves.
    config_json = dict(config_json, **{key: getattr(model.config, key) for key in ("is_decoder", "is_encoder_decoder") if getattr(model.config, key, False) != config_json.get(key, False)})
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder)
    if container == "bin":
        from safetensors.torch import load_file

        torch.save(load_file(f"{folder}/model.safetensors"), f"{folder}/pytorch_model.bin")
        os.remove(f"{folder}/model.safetensors")
    with contextlib.suppress(FileNotFoundError):
        os.remove(f"{folder}/generation_config.json")
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config_json, f, indent=1)
    oracle = make.oracle(case, folder)
    with open(f"{folder}/oracle.json", "w") as f:
        json.dump(oracle, f)
    return oracle


def far(oracle, folder, case, before):
    """How far what comes back is from what went in, by transformers alone; or what it says in another way."""
    # Some families are written as another of the same architecture.
    written, asked = (json.load(open(f"{path}/config.json")) for path in (folder, before))
    if written["model_type"] != asked["model_type"]:
        case = dict(case, cls=written["architectures"][0])
    model, bad = make.load(case, folder)
    if bad:
        return str(bad)[:300]
    tokens = lambda config: {k: getattr(config, k, None) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    before, after = (tokens(transformers.AutoConfig.from_pretrained(path).get_text_config()) for path in (before, folder))
    if before != after:
        return f"{before} became {after}"
    found = make.record(case, model)["outputs"]
    worst = 0.0
    for name, wanted in oracle["outputs"].items():
        a, b = torch.tensor(wanted["data"]), torch.tensor(found[name]["data"])
        worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)))
    return worst


class Probe:
    def __init__(self, out):
        self.out, self.judge, self.rows = out, Judge(), []
        self.table = collections.defaultdict(collections.Counter)
        os.makedirs(out, exist_ok=True)
        self.log = open(f"{out}/results.jsonl", "a")
        self.work = "/dev/shm" if os.path.isdir("/dev/shm") else out
        self.work = f"{self.work}/probe-{os.getpid()}"

    def tell(self, name, change, verdict, why="", folder=None):
        shown = {k: "(absent)" if v is DELETE else v for k, v in change.items()}
        self.table[name][verdict] += 1
        if verdict not in ("inert", "equal", "unloadable"):
            print(f"{name}: {verdict}: {json.dumps(shown)[:200]}: {str(why)[:300]}", flush=True)
            if folder and verdict in ("wrong", "fault", "back", "refused"):
                n = sum(self.table[name].values())
                shutil.copytree(folder, f"{self.out}/{name}/{n}", dirs_exist_ok=True)
                shown["_folder"] = str(n)
        print(json.dumps(dict(case=name, change=shown, verdict=verdict, why=why)), file=self.log, flush=True)

    def ask(self, name, case, model, change, config_json, folder, back=False, **how):
        """Saves a model and has it judged; what `tell` says of it."""
        try:
            oracle = save(case, model, config_json, folder, **how)
        except Exception as err:
            return "unloadable", f"{type(err).__name__}: {str(err)[:200]}"
        there = f"{folder}-back"
        shutil.rmtree(there, ignore_errors=True)
        found = self.judge(folder, back=there if back else None)
        told = [line for line in found.get("findings", []) if " Note " not in line]
        if found["verdict"] == "refused":
            return "refused", found["why"]
        if found["verdict"] != "computed":
            # A head that nothing describes is told of.
            return ("warned", told) if any(line.startswith(("P006", "P018")) for line in told) else ("fault", found)
        if not isinstance(found["relative"], float) or found["relative"] > TOLERANCE:
            named = [line for line in told if any(key.split(".")[0] in line for key in change)]
            # What is stored in half precision and computed anew is told of, and is no farther off than that.
            named += [line for line in found["findings"] if "computed anew" in line and isinstance(found["relative"], float) and found["relative"] < 4e-3]
            return ("warned", named) if named else ("wrong", f"{found['output']} is {found['relative']} off {told}")
        if back:
            try:
                off = found["back"] if found["back"] is not True else far(oracle, there, case, folder)
            except Exception as err:
                off = f"{type(err).__name__}: {str(err)[:300]}"
            if off != 0.0 and not (isinstance(off, float) and off < 1e-6):
                return "back", off
        return "equal", told

    def keys(self, name, case, only=""):
        config_json, model, base = self.base(name, case)
        inert = {}
        for change in changes_of(case, model.config):
            folder = f"{self.work}/{name}"
            shutil.rmtree(folder, ignore_errors=True)
            changed = json.loads(json.dumps(config_json))
            if not tame(change) or not any(re.search(only, path) for path in change):
                continue
            for path, value in change.items():
                put(changed, path, value)
            if changed == config_json:
                continue
            try:
                other = build(case, name, changed, folder)
                found = make.answers(case, other)[1]
            except Exception as err:
                self.tell(name, change, "unloadable", f"{type(err).__name__}: {str(err)[:200]}")
                continue
            if shapes(other) == shapes(model) and same(found, base):
                inert.update(change) if len(change) == 1 else None
                continue
            verdict, why = self.ask(name, case, other, change, changed, folder, back=random.random() < 0.2)
            self.tell(name, change, verdict, why, folder)
        self.inert(name, case, config_json, inert)

    def inert(self, name, case, config_json, changes):
        """Entries without effect, all at once; in halves where that is not well."""
        if not changes:
            return
        folder = f"{self.work}/{name}"
        shutil.rmtree(folder, ignore_errors=True)
        changed = json.loads(json.dumps(config_json))
        for path, value in changes.items():
            put(changed, path, value)
        try:
            verdict, why = self.ask(name, case, build(case, name, changed, folder), changes, changed, folder)
        except Exception as err:
            verdict, why = "unloadable", f"{type(err).__name__}: {str(err)[:200]}"
        if verdict == "equal" and not why:
            self.table[name]["inert"] += len(changes)
        elif len(changes) == 1:
            self.tell(name, changes, "inert-warned" if verdict == "equal" else verdict, why, folder)
        else:
            items = list(changes.items())
            self.inert(name, case, config_json, dict(items[: len(items) // 2]))
            self.inert(name, case, config_json, dict(items[len(items) // 2 :]))

    def base(self, name, case):
        config = make.config_of(case)
        config.architectures = [case["cls"]]
        config_json = json.loads(config.to_json_string(use_diff=True))
        model = build(case, name, config_json, f"{self.work}/{name}")
        return config_json, model, make.answers(case, model)[1]

    def random(self, name, case, rounds):
        classes = classes_of(case)
        _, model, _ = self.base(name, case)
        changes = [change for change in changes_of(case, model.config) if tame(change)]
        changes = [{k: v for k, v in case_.items() if k not in ("cls", "inputs")} for case_ in case.get("variants", [])] * 3 + changes
        done = tries = 0
        while done < rounds and tries < 12 * rounds:
            tries += 1
            chosen = dict(case, cls=random.choice([case["cls"]] + classes))
            if chosen["cls"] != case["cls"]:
                chosen.pop("inputs", None) if "choice" in name else None
            change = {}
            for _ in range(random.choice([1, 2, 2, 3, 4])):
                change.update(random.choice(changes))
            folder = f"{self.work}/{name}"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                config_json, _, _ = self.base(name, chosen)
                for path, value in change.items():
                    put(config_json, path, value)
                if random.random() < 0.5:  # every default said, as older versions wrote them
                    config_json = dict(transformers.AutoConfig.for_model(case["type"], **json.loads(json.dumps(config_json))).to_dict(), **config_json)
                other = build(chosen, name, config_json, folder)
                make.answers(chosen, other)
            except Exception:
                continue
            done += 1
            how = dict(container=random.choice(["safetensors", "safetensors", "bin"]), dtype=random.choice(["float32", "float32", "bfloat16", "float16"]))
            verdict, why = self.ask(name, chosen, other, change, config_json, folder, back=random.random() < 0.4, **how)
            self.tell(name, dict(change, _class=chosen["cls"], **{f"_{k}": v for k, v in how.items()}), verdict, why, folder)

    def summary(self):
        columns = ["inert", "inert-warned", "equal", "refused", "warned", "wrong", "fault", "back", "unloadable"]
        lines = ["| case | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
        for name, row in self.table.items():
            lines.append(f"| {name} | " + " | ".join(str(row[c]) for c in columns) + " |")
        total = sum(self.table.values(), collections.Counter())
        lines.append("| all | " + " | ".join(str(total[c]) for c in columns) + " |")
        return "\n".join(lines)


def classes_of(case):
    """Every class of transformers for the case's type, of those with inputs like the case's."""
    auto = transformers.models.auto.modeling_auto
    found = set()
    for table in dir(auto):
        if table.startswith("MODEL_") and table.endswith("_MAPPING_NAMES"):
            name = getattr(auto, table).get(case["type"])
            found |= {name} if isinstance(name, str) else set(name or ())
    kinds = r"(ForCausalLM|LMHeadModel|ForMaskedLM|ForSequenceClassification|ForTokenClassification|ForQuestionAnswering|ForConditionalGeneration|ForPreTraining|Model)$"
    return sorted(name for name in found if re.search(kinds, name) and hasattr(transformers, name))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["keys", "random"])
    parser.add_argument("out")
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--only", default="", help="with `keys`: a regular expression of the paths to change")
    args = parser.parse_args()
    assert transformers.__version__ == make.PINNED, transformers.__version__
    cases = dict(BASES, **make.cases())
    names = args.cases or list(cases)
    part, parts = map(int, args.part.split("/"))
    probe = Probe(args.out)
    for n, name in enumerate(names):
        if n % parts != part:
            continue
        random.seed(f"{args.seed}/{name}")
        case = dict(cases[name])
        if "mtp" in case or case.get("memory"):
            continue
        try:
            probe.keys(name, case, args.only) if args.mode == "keys" else probe.random(name, case, args.rounds)
        except Exception as err:
            print(f"{name}: {type(err).__name__}: {err}", file=sys.stderr)
            probe.table[name]["fault"] += 1
        shutil.rmtree(probe.work, ignore_errors=True)
    print(probe.summary())


if __name__ == "__main__":
    main()
