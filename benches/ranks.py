"""Checkpoints of several ranks for merge.sh, and what merging them takes.

    python ranks.py make FOLDER MEGABYTES RANKS dcp   # FOLDER/dcp, FOLDER/verl
    python ranks.py make FOLDER MEGABYTES RANKS zero  # FOLDER/zero
    python ranks.py row NAME COMMAND…               # a row of a table: seconds, anonymous memory

`dcp` and `verl` hold a llama in BF16 that torch.distributed cut (gloo, one process a rank); `zero` has the
files that DeepSpeed writes at stage 3, with half as many numbers in F32.
"""
import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time


def shapes(megabytes, width):
    """The config and the tensors of a llama of about so many bytes."""
    hidden = 2048 if 1000 < megabytes else 256
    inner, heads = hidden * 11 // 4, hidden // 64
    layer = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (hidden // 4, hidden),
        "self_attn.v_proj": (hidden // 4, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }
    size = sum(shape[0] * (shape[1] if 1 < len(shape) else 1) for shape in layer.values()) * width
    vocabulary = 16 * hidden
    layers = max(1, round((megabytes * 1e6 - 2 * vocabulary * hidden * width) / size))
    tensors = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for number in range(layers):
        tensors |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    tensors |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=hidden, intermediate_size=inner,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads // 4, head_dim=64,
        vocab_size=vocabulary, max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=False,
        rope_theta=10000.0, hidden_act="silu", torch_dtype="bfloat16" if width == 2 else "float32",
    )
    return config, tensors


def cut(rank, world, port, folder, megabytes):
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("fsdp",))
    _, tensors = shapes(megabytes, 2)
    state = {}
    for name, shape in tensors.items():
        # All rows divide evenly.
        local = torch.empty(shape[0] // world, *shape[1:], dtype=torch.bfloat16).uniform_(-1, 1)
        stride = (1,) if len(shape) == 1 else (shape[1], 1)
        state[name] = DTensor.from_local(local, mesh, [Shard(0)], shape=torch.Size(shape), stride=stride)
    dcp.save(state, checkpoint_id=folder / "dcp")
    torch.save(state, folder / "verl" / f"model_world_size_{world}_rank_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def zero(folder, megabytes, world):
    import torch

    config, tensors = shapes(megabytes, 4)
    step = folder / "zero" / "global_step1"
    step.mkdir(parents=True)
    (folder / "zero" / "latest").write_text("global_step1")
    (folder / "zero" / "config.json").write_text(json.dumps(config))
    ordered = collections.OrderedDict((name, torch.Size(shape)) for name, shape in tensors.items())
    partition = sum(-(-shape.numel() // world) for shape in ordered.values())
    for rank in range(world):
        torch.manual_seed(rank)
        common = {"ds_config": {}, "ds_version": "0.19.8"}
        torch.save({
            "module": {name: torch.empty(0) for name in ordered}, "buffer_names": [], "optimizer": None,
            "param_shapes": [ordered], "frozen_param_shapes": None, "frozen_param_fragments": None,
            "shared_params": {}, "dp_world_size": world, "mp_world_size": 1, "global_steps": 1, **common,
        }, step / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        torch.save({
            "optimizer_state_dict": {
                "zero_stage": 3, "partition_count": world,
                "fp32_flat_groups": [torch.empty(partition).uniform_(-1, 1)],
            }, **common,
        }, step / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")


def make(folder, megabytes, world):
    import torch.multiprocessing as mp

    config, _ = shapes(megabytes, 2)
    for kind in ("dcp", "verl/huggingface"):
        (folder / kind).mkdir(parents=True)
        (folder / kind / "config.json").write_text(json.dumps(config))
    # verl's merger wants a tokenizer, whichever.
    demo = pathlib.Path(__file__).parent.parent / "fixtures" / "demo" / "v1"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(demo / name, folder / "verl" / "huggingface")
    (folder / "verl" / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": world}))
    mp.start_processes(cut, (world, 29950, folder, megabytes), world, start_method="fork")


def anonymous(pid):
    """The anonymous memory of a process and its children, in bytes."""
    total, processes = 0, [pid]
    for process in processes:
        try:
            status = pathlib.Path(f"/proc/{process}/status").read_text()
            children = pathlib.Path(f"/proc/{process}/task/{process}/children").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
        processes += [int(child) for child in children.split()]
    return total


def row(name, command):
    begin, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.005)
    seconds = time.monotonic() - begin
    if process.returncode:
        last = process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        print(f"{name} failed: {' '.join(last)}", file=sys.stderr)
        return
    print(f"| {name} | {seconds:.2f} | {peak / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        kinds = {"dcp": make, "zero": zero}
        kinds[sys.argv[5]](pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        row(sys.argv[2], sys.argv[3:])
