"""Models of random numbers for compare.sh and scale.py, and the work of another library on one.

    python models.py llama FOLDER             a .bin of 1.1 billion BF16 parameters, 201 tensors
    python models.py experts FOLDER N FILES   N matrices of 4 KiB in FILES safetensors files with an index
    python models.py sparse FOLDER N FILES    the same names, 1 MiB each and nothing on the disk
    python models.py gguf FILE OUT            quantizes a safetensors file to Q8_0 with gguf-py
"""
import json
import os
import struct
import sys

CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=2048, intermediate_size=5632,
    num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4, vocab_size=32000,
    max_position_embeddings=2048, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
    torch_dtype="bfloat16", hidden_act="silu", bos_token_id=1, eos_token_id=2,
)


def llama(folder):
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    c = CONFIG
    hidden, inner, vocab = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    keys = hidden // c["num_attention_heads"] * c["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, shape in {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }.items():
            shapes[f"{at}{name}.weight"] = shape
    shapes["model.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (vocab, hidden)
    numbers = torch.randn(1 << 24).mul_(0.02).to(torch.bfloat16)
    tensors = {}
    for number, (name, shape) in enumerate(shapes.items()):
        size, start = torch.Size(shape).numel(), number * 7919 % 100_003
        repeated = numbers.repeat(-(-(size + start) // numbers.numel()))
        tensors[name] = repeated[start:start + size].reshape(shape).clone()
    os.makedirs(folder, exist_ok=True)
    torch.save(tensors, f"{folder}/pytorch_model.bin")
    with open(f"{folder}/config.json", "w") as file:
        json.dump(CONFIG, file, indent=1)


def names(count):
    for number in range(count):
        layer, rest = divmod(number, 768)
        expert, kind = divmod(rest, 3)
        yield f"model.layers.{layer}.mlp.experts.{expert}.{('gate', 'up', 'down')[kind]}_proj.weight"


def experts(folder, count, n_files, shape, is_sparse):
    os.makedirs(folder, exist_ok=True)
    size, per_file = shape[0] * shape[1] * 2, -(-count // n_files)
    all_names, places, noise = list(names(count)), {}, os.urandom(1 << 20)
    for number in range(n_files):
        own = all_names[number * per_file:(number + 1) * per_file]
        file_name = f"model-{number + 1:05d}-of-{n_files:05d}.safetensors"
        header = {"__metadata__": {"format": "pt"}}
        for at, name in enumerate(own):
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at * size, (at + 1) * size]}
            places[name] = file_name
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(f"{folder}/{file_name}", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            left = len(own) * size
            if is_sparse:
                file.truncate(8 + len(text) + left)
            else:
                while left > 0:
                    left -= file.write(noise[:min(left, len(noise))])
    with open(f"{folder}/model.safetensors.index.json", "w") as file:
        json.dump({"metadata": {"total_size": count * size}, "weight_map": places}, file)


def gguf(path, out):
    import gguf as library
    import torch
    from safetensors import safe_open

    writer = library.GGUFWriter(out, "llama")
    with safe_open(path, "pt") as file:
        for name in file.keys():
            numbers = file.get_tensor(name).to(torch.float32).numpy()
            kind = library.GGMLQuantizationType.Q8_0 if numbers.ndim == 2 else library.GGMLQuantizationType.F32
            writer.add_tensor(name, library.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "llama":
        llama(*rest)
    elif kind == "experts":
        experts(rest[0], int(rest[1]), int(rest[2]), [64, 32], False)
    elif kind == "sparse":
        experts(rest[0], int(rest[1]), int(rest[2]), [1024, 512], True)
    elif kind == "gguf":
        gguf(*rest)
    else:
        raise SystemExit(__doc__)
