#!/usr/bin/env python3
"""Asks of published configs whether llmstd plans their models, and computes what transformers computes.

    python tests/oracle/published.py CONFIGS OUT [NAME…]    # CONFIGS: a folder of config.json files, NAME.json

Needs what probe.py needs. Of each config whose `model_type` a mapping of spec/1.0/map/hf has:

  full     the names and shapes of transformers' model of the config, made on the meta device, in the header of
           a file without bytes (sparse): `convert --dry-run` must plan it
  tiny     the same config with every entry kept and its sizes made small: the outputs must be those of
           transformers, and again after the way back

The table has a line for each: ok, or what was said.
"""

import json
import os
import re
import shutil
import struct
import sys
import tomllib

import probe
from probe import make, torch, transformers

HEADS = ["num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads", "attention_heads"]
GROUPS = ["num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"]
WIDTHS = ["hidden_size", "d_model", "n_embd", "dim", "n_embed", "word_embed_proj_dim", "embedding_size", "pooler_hidden_size"]
INNER = ["intermediate_size", "ffn_dim", "d_ff", "n_inner", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size", "dff"]
DEPTHS = ["num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers"]
EXPERTS = ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts"]
FIXED = dict(moe_intermediate_size=12, shared_expert_intermediate_size=6, shared_intermediate_size=10, kv_lora_rank=10, q_lora_rank=8, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=7,
             d_kv=6, state_size=5, mamba_d_state=5, n_groups=2, linear_key_head_dim=4, linear_num_key_heads=2, linear_num_value_heads=4, linear_value_head_dim=6,
             mamba_dt_rank=3, time_step_rank=3, max_source_positions=10, max_target_positions=12, num_mel_bins=6, rotary_dim=4, word_embed_proj_dim=32)
WINDOWS = ["sliding_window", "window_size", "local_attention"]
VOCAB = 120


def types():
    found = {}
    for name in tomllib.load(open(f"{probe.ROOT}/spec/1.0/spec.toml", "rb"))["maps"]["hf"]:
        match = tomllib.load(open(f"{probe.ROOT}/spec/1.0/map/hf/{name}.toml", "rb"))["map"].get("match", {}).get("model_type", [])
        found.update((t, name) for t in ([match] if isinstance(match, str) else match))
    return found


def first(config, names, otherwise=None):
    return next((config[n] for n in names if isinstance(config.get(n), int)), otherwise)


def shrink(config):
    """Every entry kept, sizes small."""
    new = json.loads(json.dumps(config))
    heads, hidden = first(config, HEADS, 1), first(config, WIDTHS, 1)
    groups = first(config, GROUPS)
    depth = {name: min(config[name], 8 if "attn_layer_period" in config else 6) for name in DEPTHS if isinstance(config.get(name), int)}
    new.update(depth)
    layers = max(depth.values(), default=1)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    share = next((config[k] for k in ("partial_rotary_factor", "rotary_pct", "rope_pct") if config.get(k)), rope.get("partial_rotary_factor", 1.0))
    wide = next(d for d in (8, 12, 16, 20, 40, 80) if int(d * share) % 2 == 0 and int(d * share) >= 2)
    new.update({name: 4 for name in HEADS if config.get(name)})
    new.update({name: 1 if groups == 1 else 4 if groups == heads else 2 for name in GROUPS if config.get(name)})
    new.update({name: 4 * wide if config[name] == hidden else 12 for name in WIDTHS if config.get(name)})
    square = not config.get("head_dim") or config["head_dim"] * heads == hidden
    for name in ("head_dim", "attention_head_dim", "attention_head_size"):
        if config.get(name):
            new[name] = wide if square else wide + 4 if share == 1.0 else 2 * wide
    new.update({name: 20 for name in INNER if config.get(name)})
    new.update({name: value for name, value in FIXED.items() if isinstance(config.get(name), int) and not isinstance(config[name], bool) and config[name] > value})
    new.update({name: 4 for name in WINDOWS if config.get(name)})
    if isinstance(new.get("word_embed_proj_dim"), int):
        new["word_embed_proj_dim"] = 4 * wide if config["word_embed_proj_dim"] == hidden else 12
    experts = first(config, EXPERTS)
    if experts:
        new.update({name: 8 for name in EXPERTS if config.get(name) and config[name] > 8})
        for name, most in (("num_experts_per_tok", 2), ("moe_top_k", 2), ("moe_k", 2), ("n_group", 4), ("topk_group", 2), ("n_shared_experts", 2)):
            if isinstance(config.get(name), int):
                new[name] = min(config[name], most)
    inner = config.get("attn_config")
    if isinstance(inner, dict) and "kv_n_heads" in inner:
        new["attn_config"]["kv_n_heads"] = 2
    if isinstance(config.get("ffn_config"), dict):
        new["ffn_config"].update({k: v for k, v in dict(ffn_hidden_size=20, moe_num_experts=6, moe_top_k=2).items() if k in config["ffn_config"]})
    # State spaces: what is a product of others stays one.
    expand = config.get("expand", config.get("mamba_expand", 2))
    for name in ("d_inner", "intermediate_size"):
        if config.get("model_type") in ("mamba", "falcon_mamba") and config.get(name):
            new[name] = 4 * wide * expand if config[name] == hidden * expand else 48
    if config.get("model_type") == "mamba2":
        new.update(head_dim=8, num_heads=4 * wide * expand // 8)
    if "mamba_n_heads" in config:
        new.update(mamba_n_heads=4 * wide * expand // 8, mamba_d_head=8)
    for key, value in config.items():
        if isinstance(value, list) and len(value) >= layers and key in ("layer_types", "attention_layers", "no_rope_layers", "layers_block_type", "mlp_layer_types", "layer_norm_types"):
            new[key] = value[:layers]
        elif key in ("attn_layer_indices", "mlp_only_layers") and isinstance(value, list):
            new[key] = [x for x in value if x < layers]
        elif key == "attention_types":
            new[key] = [[["global", "local"], layers // 2]]
        elif re.search(r"token_id$|^token_id", key) or key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            small = lambda x: x if not isinstance(x, int) or x < VOCAB else 100 + x % 20
            new[key] = [small(x) for x in value] if isinstance(value, list) else small(value)
        elif key in ("vocab_size", "decoder_vocab_size"):
            new[key] = VOCAB
        elif key == "first_k_dense_replace":
            new[key] = min(value, 1)
        elif key == "max_window_layers" and isinstance(value, int):
            new[key] = layers if value >= first(config, DEPTHS) else min(value, layers - 1)
    for words in (new.get("rope_scaling"), new.get("rope_parameters")):
        for name in ("short_factor", "long_factor"):
            if isinstance(words, dict) and isinstance(words.get(name), list):
                dim = int((new.get("head_dim") or wide) * share)
                words[name] = words[name][: dim // 2]
    return new


def class_of(config):
    """The class that the config names, or what the library would take."""
    for name in config.get("architectures") or []:
        for spelling in (name, name.replace("MPT", "Mpt").replace("RWForCausalLM", "FalconForCausalLM")):
            cls = getattr(transformers, spelling, None)
            if cls is not None and not spelling.startswith("TF"):
                return spelling
    auto = transformers.models.auto.modeling_auto
    kind = config["model_type"].replace("RefinedWebModel", "falcon").replace("RefinedWeb", "falcon")
    for table in ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM"):
        name = getattr(auto, f"MODEL_FOR_{table}_MAPPING_NAMES").get(kind)
        if name:
            return name
    return auto.MODEL_MAPPING_NAMES[kind]


def header(model, dtype):
    from transformers.core_model_loading import revert_weight_conversion

    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    state = {k: v for k, v in model.state_dict().items() if k not in tied}
    state = revert_weight_conversion(model, state)
    word = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.bool: "BOOL", torch.uint8: "U8"}
    entries, at = {}, 0
    for name, tensor in state.items():
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        size = tensor.numel() * torch.empty(0, dtype=kind).element_size()
        entries[name] = dict(dtype=word[kind], shape=list(tensor.shape), data_offsets=[at, at + size])
        at += size
    return entries, at


def full(judge, config, cls, folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config, f, indent=1)
    ours = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = getattr(transformers, cls)(ours)
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32").replace("torch.", ""))
    entries, size = header(model, dtype)
    text = json.dumps(entries).encode()
    with open(f"{folder}/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + size)
    return judge(folder, plan_only=True)


def tiny(asker, config, cls, name, folder):
    shutil.rmtree(folder, ignore_errors=True)
    case = dict(cls=cls, type=config["model_type"])
    if "num_mel_bins" in config:
        case["inputs"] = {"decoder_input_ids": [[2, 44, 9, 71, 23, 60]], "input_features": make.noise(name, "frames", (1, config["num_mel_bins"], 2 * config["max_source_positions"]), 0.5).tolist()}
        if cls.endswith("ForCausalLM"):
            case["inputs"] = {"input_ids": [[2, 44, 9, 71, 23, 60]]}
    model = probe.build(case, name, config, folder)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32").replace("torch.", "")
    return asker.ask(name, case, model, {}, config, folder, back=True, dtype=dtype)


def main(configs, out, *names):
    known = types()
    asker = probe.Probe(out)
    rows, counts = [], {}
    for file in sorted(os.listdir(configs)):
        name = file.removesuffix(".json")
        if names and name not in names:
            continue
        config = json.load(open(f"{configs}/{file}"))
        if config.get("model_type") not in known:
            continue
        config.pop("auto_map", None)
        quantized = config.pop("quantization_config", None) is not None
        row = dict(name=name, type=config["model_type"], quantized=quantized)
        folder = f"{asker.work}/{name}"
        try:
            cls = row["class"] = class_of(config)
            answer = full(asker.judge, config, cls, folder)
            # Of a file without bytes every tensor is like every other, and no disk has room for some.
            told = [line for line in answer.get("findings", []) if " Note " not in line and not line.startswith(("P015", "P016"))]
            planned = answer["verdict"] == "planned" or answer.get("why", "").startswith("P014") and ";" not in answer["why"]
            row["full"] = "planned" if planned and not told else f"{answer['verdict']}: {answer.get('why', told)}"
        except Exception as err:
            row["full"] = f"unloadable: {type(err).__name__}: {str(err)[:200]}"
        try:
            small = shrink(config)
            verdict, why = tiny(asker, small, cls, name, folder)
            row["tiny"] = verdict if not why else f"{verdict}: {why}"
            if verdict not in ("equal", "unloadable"):
                shutil.copytree(folder, f"{out}/{name}", dirs_exist_ok=True)
        except Exception as err:
            row["tiny"] = f"unloadable: {type(err).__name__}: {str(err)[:200]}"
        shutil.rmtree(asker.work, ignore_errors=True)
        rows.append(row)
        print("\t".join(str(row[k])[:260] for k in ("name", "type", "class", "full", "tiny") if k in row), flush=True)
    for column in ("full", "tiny"):
        for row in rows:
            word = row[column].split(":")[0]
            counts[column, word] = counts.get((column, word), 0) + 1
    print("\n".join(f"{column} {word}: {n}" for (column, word), n in sorted(counts.items())))


if __name__ == "__main__":
    main(*sys.argv[1:])
