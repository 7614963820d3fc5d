"""How much faster files of other frameworks become a package than by their own libraries, as ratios of one
run: the same file, the same machine, the page cache warm for both.

    python formats.py LLMSTD keras      tf_model.h5, against tensorflow's reader and safetensors
    python formats.py LLMSTD flax       flax_model.msgpack, against flax and safetensors

The models are GPT-2 of 124 million parameters with random weights, made here. Needs a release build of
LLMSTD; transformers 4.57.6 with tf_keras and tensorflow 2.21, or with flax 0.12.8. Each side runs three
times as a process of its own, and its best counts: what a library needs to be loaded is timed too, and
told apart.
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
CONFIG = dict(vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12)

LOAD = {
    "keras": """
import time, sys
import h5py, numpy
from safetensors.numpy import save_file
start = time.perf_counter()
found = {}
with h5py.File(sys.argv[1]) as file:
    file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
save_file(found, sys.argv[2])
print(time.perf_counter() - start)
""",
    "flax": """
import time, sys
import flax.serialization, flax.traverse_util, numpy
from safetensors.numpy import save_file
start = time.perf_counter()
tree = flax.serialization.msgpack_restore(open(sys.argv[1], "rb").read())
save_file({".".join(k): numpy.asarray(v) for k, v in flax.traverse_util.flatten_dict(tree).items()}, sys.argv[2])
print(time.perf_counter() - start)
""",
}


def make(kind, folder):
    import transformers as t

    prefix = {"keras": "TF", "flax": "Flax"}[kind]
    config = t.GPT2Config(**CONFIG)
    if kind == "flax":
        model = t.FlaxGPT2LMHeadModel(config)
    else:
        model = getattr(t, prefix + "GPT2LMHeadModel")(config)
        model.build_in_name_scope()
    model.save_pretrained(folder)
    return folder / {"keras": "tf_model.h5", "flax": "flax_model.msgpack"}[kind]


def main(tool, kind):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        file = make(kind, scratch / "src")
        theirs, loaded, ours = [], [], []
        for turn in range(3):
            start = time.perf_counter()
            told = subprocess.run([sys.executable, "-c", LOAD[kind], file, scratch / f"{turn}.safetensors"],
                                  check=True, capture_output=True, text=True).stdout
            loaded.append(time.perf_counter() - start)
            theirs.append(float(told.split()[-1]))
            start = time.perf_counter()
            subprocess.run([tool, "--quiet", "convert", scratch / "src", scratch / f"{turn}.std"], check=True)
            ours.append(time.perf_counter() - start)
        ours, theirs, loaded = min(ours), min(theirs), min(loaded)
        print(f"{kind}: {file.stat().st_size / 1e6:.0f} MB; llmstd {ours:.2f} s, library {theirs:.2f} s "
              f"({loaded:.2f} s with its imports): {theirs / ours:.1f} times ({loaded / ours:.1f} times) faster")


if __name__ == "__main__":
    main(str(pathlib.Path(sys.argv[1]).resolve()), sys.argv[2])
