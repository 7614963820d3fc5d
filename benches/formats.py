"""How much faster files of other frameworks become a package than by their own libraries, as ratios of one
run: the same file, the same machine, the page cache warm for both; and how much memory of its own the tool had.

    python formats.py LLMSTD keras      tf_model.h5, against tensorflow, which reads it by h5py, and safetensors
    python formats.py LLMSTD saved      a SavedModel, against tensorflow and safetensors
    python formats.py LLMSTD flax       flax_model.msgpack, against flax and safetensors

The models have the shapes of GPT-2 of 124 million parameters and random weights; their names are those of
fixtures/formats/names/gpt2. Needs a release build of LLMSTD; tensorflow 2.21 and h5py, or flax 0.12.8. Each side
runs three times as a process of its own, and its best counts: what a library needs to be loaded is timed too,
and told apart. The tool hashes what it writes, each tensor and each file, and has the disk take it; the libraries do neither:
TMPDIR=/dev/shm leaves the disk out.
"""
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
NAMES = pathlib.Path(__file__).parent.parent / "fixtures" / "formats" / "names" / "gpt2"
# What each dimension of the small model is in the large one.
SIZES = {19: 50257, 9: 1024, 8: 768, 24: 2304, 32: 3072, 1: 1}
N_LAYERS = 12
# At most so much memory of its own, where no filter needs a whole chunk.
MOST_ANON = 64 << 20

LOAD = {
    "keras": """
import time, sys
import tensorflow, h5py, numpy
from safetensors.numpy import save_file
start = time.perf_counter()
found = {}
with h5py.File(sys.argv[1]) as file:
    file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
save_file(found, sys.argv[2])
print(time.perf_counter() - start)
""",
    "saved": """
import time, sys
import tensorflow as tf, numpy
from safetensors.numpy import save_file
start = time.perf_counter()
reader = tf.train.load_checkpoint(sys.argv[1] + "/variables/variables")
names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_CHECKPOINT")]
save_file({name: numpy.asarray(reader.get_tensor(name)) for name in names}, sys.argv[2])
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


def scaled(flat, layer):
    """The tensors of the large model, by the names of the small one; `layer` tells the number of a layer."""
    import numpy as np

    rng, found = np.random.default_rng(1), {}
    for name, value in flat.items():
        shape = tuple(SIZES[dim] for dim in value.shape)
        number = layer(name)
        for one in [None] if number is None else range(N_LAYERS) if number == 0 else []:
            key = name if one is None else layer(name, one)
            found[key] = rng.standard_normal(shape, np.float32)
    return found


def make(kind, folder):
    import re

    import numpy as np

    folder.mkdir()
    config = json.loads((NAMES / "hf" / "config.json").read_text())
    config.update(vocab_size=50257, n_positions=1024, n_ctx=1024, n_embd=768, n_layer=N_LAYERS, n_head=12)
    (folder / "config.json").write_text(json.dumps(config))

    def layer(pattern):
        def of(name, new=None):
            found = re.search(pattern, name)
            if new is not None:
                return name[:found.start(1)] + str(new) + name[found.end(1):]
            return found and int(found[1])
        return of

    if kind == "flax":
        import flax.serialization
        import flax.traverse_util as tree

        small = flax.serialization.msgpack_restore((NAMES / "flax" / "flax_model.msgpack").read_bytes())
        flat = {"/".join(key): value for key, value in tree.flatten_dict(small).items()}
        large = scaled(flat, layer(r"/h/(\d+)/"))
        file = folder / "flax_model.msgpack"
        file.write_bytes(flax.serialization.to_bytes(
            tree.unflatten_dict({tuple(key.split("/")): value for key, value in large.items()})))
        return file
    import h5py

    flat = {}
    with h5py.File(NAMES / "keras" / "tf_model.h5") as file:
        file.visititems(lambda name, item: flat.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    large = scaled(flat, layer(r"h_\._(\d+)/"))
    if kind == "keras":
        with h5py.File(folder / "tf_model.h5", "w") as file:
            for name, value in large.items():
                file[name] = value
        return folder / "tf_model.h5"
    import tensorflow as tf

    module = tf.Module()
    module.parts = [tf.Variable(value, name=re.sub(r"[^a-z0-9_/]", "_", name)) for name, value in large.items()]
    module.answer = tf.function(lambda x: x + module.parts[0][0, 0], input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, str(folder), signatures=module.answer)
    (folder / "config.json").unlink()
    return folder


def run(command):
    """The seconds by the clock and by the processors, and the most bytes of its own, of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, most = time.perf_counter(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        most = max([most, *(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))])
        time.sleep(0.002)
    assert process.wait() == 0, command
    took = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, most


def main(tool, kind):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        file = make(kind, scratch / "src")
        theirs, loaded, ours, work, anon = [], [], [], [[], []], 0
        how = ["--generic"] if kind == "saved" else ["--allow-no-tokenizer"]
        for turn in range(3):
            told = scratch / "told"
            load = LOAD[kind].replace("print(", f"open({str(told)!r}, 'w').write(str(").rstrip() + ")\n"
            took, processors, _ = run([sys.executable, "-c", load, file, scratch / f"{turn}.safetensors"])
            loaded.append(took)
            work[0].append(processors)
            theirs.append(float(told.read_text()))
            took, processors, most = run([tool, "--quiet", "convert", scratch / "src", scratch / f"{turn}.std", *how])
            ours.append(took)
            work[1].append(processors)
            anon = max(anon, most)
        ours, theirs, loaded = min(ours), min(theirs), min(loaded)
        size = sum(of.stat().st_size for of in ([file] if file.is_file() else file.rglob("*")) if of.is_file())
        print(f"{kind}: {size / 1e6:.0f} MB; llmstd {ours:.2f} s, library {theirs:.2f} s "
              f"({loaded:.2f} s with its imports): {theirs / ours:.1f} times ({loaded / ours:.1f} times) faster; "
              f"processors {min(work[1]):.1f} s against {min(work[0]):.1f} s; "
              f"{anon / 1e6:.0f} MB of its own{'' if anon <= MOST_ANON else '  TOO MUCH'}")


if __name__ == "__main__":
    main(str(pathlib.Path(sys.argv[1]).resolve()), sys.argv[2])
