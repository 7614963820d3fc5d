"""The module and the command of the wheel that is installed.

    pip install target/wheels/llmstd-*.whl pytest numpy ml_dtypes safetensors && pytest python/tests
"""

import doctest
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

import llmstd

np = pytest.importorskip("numpy")
ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
DEMO = FIXTURES / "demo" / "v1"
QUANT = FIXTURES / "quant" / "models"
COMMAND = Path(sysconfig.get_path("scripts")) / ("llmstd.exe" if os.name == "nt" else "llmstd")
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def run(*words, **kwargs):
    return subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True, **kwargs)


def said(*words):
    """What the command prints as JSON."""
    return json.loads(run(*words, "--format", "json").stdout)


def safetensors_file(path, name, dtype, shape, data):
    """Writes a file of one tensor."""
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}})
    header = header.encode().ljust(-(-len(header) // 8) * 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def sparse(path, n_bytes):
    """A file of one tensor of zeros that takes no disk."""
    header = {"w": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}}
    header = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + n_bytes)
    return path


# Arrays.


def test_arrays_are_what_safetensors_reads():
    load_file = pytest.importorskip("safetensors.numpy").load_file
    expected = load_file(DEMO / "model.safetensors")
    model = llmstd.open(DEMO)
    assert sorted(model) == sorted(expected)
    for name, array in expected.items():
        assert model[name].dtype == array.dtype
        np.testing.assert_array_equal(model[name], array)


def test_arrays_lie_in_the_file_and_cannot_be_written():
    model = llmstd.open(DEMO)
    name = "model.embed_tokens.weight"
    one, other = model[name], model[name]
    assert one.__array_interface__["data"][0] == other.__array_interface__["data"][0]
    assert not one.flags.writeable
    with pytest.raises(ValueError):
        one[0, 0] = 1
    # They outlive the model.
    model.close()
    del model, other
    assert one.sum() == llmstd.open(DEMO)[name].sum()


def test_it_is_a_mapping():
    model = llmstd.open(DEMO)
    assert len(model) == len(list(model)) == len(model.tensors)
    name = next(iter(model))
    assert name in model and "other" not in model and 3 not in model
    assert model.get("other") is None
    with pytest.raises(KeyError):
        model["other"]
    with pytest.raises(KeyError):
        model.info("other")
    assert "safetensors" in repr(model)
    with model as entered:
        assert entered is model


def test_bf16_and_fp8_need_ml_dtypes(tmp_path, monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    data = bytes([0x80, 0x3F, 0x00, 0xC0])  # 1, -2
    bf16 = llmstd.open(safetensors_file(tmp_path / "b.safetensors", "w", "BF16", [2, 1], data))
    assert bf16["w"].dtype == ml_dtypes.bfloat16
    assert bf16["w"].astype("f4").tolist() == [[1], [-2]]
    fp8 = safetensors_file(tmp_path / "f.safetensors", "w", "F8_E4M3", [3], bytes([0x38, 0xC0, 0x7E]))
    fp8 = llmstd.open(fp8)
    assert fp8["w"].astype("f4").tolist() == [1, -2, 448]
    # Without the package.
    from llmstd import _dtypes

    monkeypatch.setattr(_dtypes, "_known", {})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(llmstd.Error, match="ml_dtypes.*bits") as raised:
        bf16["w"]
    assert raised.value.kind == "unsupported"
    assert bf16.bits("w").tolist() == [[0x3F80], [0xC000]]
    assert fp8.bits("w").tolist() == [0x38, 0xC0, 0x7E]


def test_elements_that_end_inside_a_byte_are_bytes(tmp_path):
    data = bytes([0x21, 0x43])
    model = llmstd.open(safetensors_file(tmp_path / "m.safetensors", "w", "F4", [4], data))
    with pytest.raises(llmstd.Error, match="raw"):
        model["w"]
    raw = model.raw("w")
    assert bytes(raw) == data and raw.readonly


def test_a_tensor_without_elements(tmp_path):
    model = llmstd.open(safetensors_file(tmp_path / "m.safetensors", "w", "F32", [0, 3], b""))
    assert model["w"].shape == (0, 3)
    assert bytes(model.raw("w")) == b""


@pytest.mark.parametrize("name", sorted(path.name for path in QUANT.iterdir() if path.is_dir()))
def test_packed_tensors_decode_as_their_libraries_do(name):
    expected = json.loads((QUANT / name / "expected.json").read_text())["tensors"]
    model = llmstd.open(QUANT / name)
    decoded = llmstd.open(QUANT / name, decode=True)
    assert expected
    for tensor, digest in expected.items():
        array = model.decode(tensor)
        assert hashlib.sha256(array.tobytes()).hexdigest() == digest, tensor
        np.testing.assert_array_equal(decoded[tensor], array)


def test_blocks_are_bytes_and_decode_to_numbers():
    model = llmstd.open(FIXTURES / "gguf" / "types.gguf")
    packed = model.info("Q8_0")
    assert (packed.dtype, packed.shape, packed.encoding) == ("U8", (2, 34), "ggml.q8_0")
    blocks = model["Q8_0"]
    assert blocks.shape == (2, 34)
    scales = blocks[:, :2].copy().view("<f2").astype("f4")
    expected = scales * blocks[:, 2:].view("i1").astype("f4")
    np.testing.assert_array_equal(model.decode("Q8_0"), expected)
    # What is not packed is what it is.
    np.testing.assert_array_equal(model.decode("F64"), model["F64"])


def test_tensors_that_lie_in_no_file_as_they_are_are_made():
    # Fortran order and high bytes first.
    archive = FIXTURES / "formats" / "numpy" / "orders.npz"
    expected = np.load(archive)
    model = llmstd.open(archive)
    assert sorted(model) == sorted(expected.files)
    for name in expected.files:
        np.testing.assert_array_equal(model[name], expected[name])


def test_torch_tensors_lie_in_the_file_and_write_to_none():
    torch = pytest.importorskip("torch")
    before = (DEMO / "model.safetensors").read_bytes()
    model = llmstd.open(DEMO)
    for name in model:
        assert torch.equal(model.torch(name), torch.tensor(np.array(model[name])))
    tensor = model.torch("model.embed_tokens.weight")
    assert tensor.data_ptr() == model.torch("model.embed_tokens.weight").data_ptr()
    tensor.zero_()
    assert (DEMO / "model.safetensors").read_bytes() == before
    assert model["model.embed_tokens.weight"].any()


def test_torch_has_bf16_and_fp8(tmp_path):
    torch = pytest.importorskip("torch")
    data = bytes([0x80, 0x3F, 0x00, 0xC0])
    model = llmstd.open(safetensors_file(tmp_path / "m.safetensors", "w", "BF16", [2], data))
    assert model.torch("w").tolist() == [1, -2] and model.torch("w").dtype == torch.bfloat16


# The standard.


@pytest.mark.parametrize("name", ["gpt2-lmhead", "bert-tokcls", "llama-tied", "qwen2-untied"])
def test_standard_names_are_those_of_the_package(tmp_path, name):
    source = FIXTURES / "hf" / name / "src"
    llmstd.convert(source, tmp_path / "package")
    package = llmstd.open(tmp_path / "package")
    planned = llmstd.open(source, standard=True)
    assert package.is_package and not planned.is_package
    assert sorted(package) == sorted(planned)
    for tensor in package:
        assert package.info(tensor) == planned.info(tensor)
        assert bytes(package.raw(tensor)) == bytes(planned.raw(tensor))
    keys = ("architecture", "hyperparameters", "tokens", "tasks")
    assert [getattr(package, key) for key in keys] == [getattr(planned, key) for key in keys]


def test_a_tied_tensor_has_both_names():
    model = llmstd.open(FIXTURES / "hf" / "llama-tied" / "src", standard=True)
    [tied, stored] = model.description["ties"][0]
    assert tied in model and tied not in list(model)
    np.testing.assert_array_equal(model[tied], model[stored])


def test_what_cannot_be_brought_to_the_standard_is_refused(tmp_path):
    path = safetensors_file(tmp_path / "m.safetensors", "w", "U8", [1], b"x")
    assert list(llmstd.open(path)) == ["w"]
    for call in (lambda: llmstd.open(path, standard=True), lambda: llmstd.open(path).tasks):
        with pytest.raises(llmstd.Refused, match="P001") as raised:
            call()
        assert raised.value.findings[0]["rule"] == "P001"
        assert raised.value.kind == "findings"
        assert isinstance(raised.value, llmstd.Error)


def test_errors_have_our_words(tmp_path):
    with pytest.raises(llmstd.Error, match="cannot open") as raised:
        llmstd.open(tmp_path / "nothing")
    assert raised.value.kind == "io"
    (tmp_path / "m.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(llmstd.Error, match="m.safetensors") as raised:
        llmstd.open(tmp_path / "m.safetensors")
    assert raised.value.kind in ("malformed", "limit")
    with pytest.raises(ValueError, match="safetensors"):
        llmstd.open(DEMO, format="none")
    with pytest.raises(ValueError, match="no dtype"):
        llmstd.convert(DEMO, tmp_path / "out", dtype="f12")
    with pytest.raises(ValueError, match="level"):
        llmstd.validate(DEMO, level="none")


def test_a_file_that_was_replaced_is_not_read(tmp_path):
    path = safetensors_file(tmp_path / "m.safetensors", "w", "U8", [2], b"ab")
    model = llmstd.open(path)
    os.utime(path, (0, 0))
    with pytest.raises(llmstd.Error, match="changed"):
        model["w"]


# What the command does.


def test_results_are_those_of_the_command(tmp_path):
    package = tmp_path / "package"
    written = llmstd.convert(DEMO, package, verify=True)
    again = tmp_path / "again"
    told = said("convert", DEMO, again, "--verify")
    for report in (written, told):
        report.pop("destination")
        report.pop("free_disk", None)
    assert written == told
    assert llmstd.validate(package, DEMO, deep=True) == said("validate", package, DEMO, "--deep", "--isolated")
    assert llmstd.manifest(package) == said("manifest", package)
    assert llmstd.inspect(DEMO) == said("inspect", DEMO)
    assert llmstd.verify(package) == said("verify", package)
    assert llmstd.interface(package) == said("interface", package)
    other = FIXTURES / "demo" / "v2"
    assert llmstd.diff(package, other) == said("diff", package, other)
    assert llmstd.diff(package, other, deep=True) == said("diff", package, other, "--deep")


def test_what_is_wrong_is_in_the_report(tmp_path):
    report = llmstd.validate(tmp_path / "nothing")
    assert not report["valid"] and "cannot open" in report["inputs"][0]["error"]
    with pytest.raises(ValueError, match="V999"):
        llmstd.validate(DEMO, select=["V999"])


def test_exit_statuses_are_those_of_the_program(tmp_path):
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"llmstd {llmstd.__version__}\n")
    assert run("validate", DEMO).returncode == 0
    assert run("diff", DEMO, FIXTURES / "demo" / "v2").returncode == 1
    assert run("inspect", tmp_path / "nothing").returncode == 2
    wrong = run("inspect")
    assert wrong.returncode == 2 and "Usage: llmstd inspect" in wrong.stderr
    assert run("--help").returncode == 0


@posix
def test_a_signal_ends_the_command(tmp_path):
    path = sparse(tmp_path / "m.safetensors", 24 << 30)
    words = [COMMAND, "convert", path, tmp_path / "out.npz"]
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        # Until something is half written.
        deadline = time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(number)
        _, err = child.communicate(timeout=30)
        assert child.returncode == status, err
        assert "stopped by SIG" in err
        assert list(tmp_path.iterdir()) == [path]


@posix
@pytest.mark.parametrize("call", ["convert(path, out)", "manifest(path, generic=True)"])
def test_ctrl_c_ends_a_call(tmp_path, call):
    path = sparse(tmp_path / "m.safetensors", 24 << 30)
    code = f"""if True:
        import llmstd, sys
        path, out = sys.argv[1:]
        print("begun", flush=True)
        try:
            llmstd.{call}
        except KeyboardInterrupt:
            print("interrupted")
    """
    words = [sys.executable, "-c", code, path, tmp_path / "out.npz"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "begun\n"
    time.sleep(0.7)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=30)
    assert out == "interrupted\n"
    assert list(tmp_path.iterdir()) == [path]


def test_the_text_of_the_readme_is_so(tmp_path, monkeypatch):
    for name in ("v1", "v2"):
        shutil.copytree(FIXTURES / "demo" / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(ROOT / "python" / "README.md"), module_relative=False)
    assert failed == 0 and tried > 15


def test_everything_public_has_a_docstring():
    for name in llmstd.__all__:
        assert name == "__version__" or getattr(llmstd, name).__doc__
    for name, member in vars(llmstd.Model).items():
        if not name.startswith("_") and name != "torch":
            assert member.__doc__, name
    assert (Path(llmstd.__file__).parent / "py.typed").exists()
