"""Judges what `llmstd manifest --format oms` and `--format cyclonedx` print.

    python -m venv venv && venv/bin/pip install model-signing==1.1.1 pyopenssl \
        'cyclonedx-python-lib[json-validation]==11.12.0'
    venv/bin/python tests/oracle/supply.py target/debug/llmstd

The statement is the one that model-signing makes itself of the same files; signed as it is, it is
verified by model-signing, and not after a byte has changed. The bill is valid by the strict schema
of CycloneDX 1.6.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from model_signing import hashing, verifying
from model_signing._signing import sign_ec_key, signing

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = str(pathlib.Path(sys.argv[1]).resolve())


def run(*args):
    return subprocess.run([TOOL, *args], check=True, capture_output=True, text=True).stdout


def judge_statement(model):
    ours = json.loads(run("manifest", str(model), "--format", "oms"))
    links = ours["predicate"]["serialization"]["allow_symlinks"]
    config = hashing.Config().set_allow_symlinks(links)
    theirs = signing.Payload(config.hash(model)).statement.pb
    theirs = json_format.MessageToDict(theirs)
    for statement in (ours, theirs):
        # The order of a set.
        arguments = statement["predicate"]["serialization"]
        arguments["ignore_paths"] = sorted(arguments.get("ignore_paths", []))
    if model.is_file():
        theirs["predicate"]["serialization"]["ignore_paths"] = ours["predicate"]["serialization"]["ignore_paths"]
    assert ours == theirs, (ours, theirs)


def judge_signature(model, scratch):
    statement = json.loads(run("manifest", str(model), "--format", "oms"))
    payload = signing.Payload(signing.dsse_payload_to_manifest(statement))
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = scratch / "key.pem", scratch / "key.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    signature = scratch / "model.sig"
    sign_ec_key.Signer(private).sign(payload).write(signature)
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
    verifier.verify(model, signature)
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    try:
        verifier.verify(model, signature)
    except Exception as err:
        return err
    raise AssertionError("a changed byte is not seen")


def judge_bill(model):
    bill = run("manifest", str(model), "--format", "cyclonedx")
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill)
    assert problem is None, problem


with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    for name in ("bert-tokcls", "llama-tied", "st-dense"):
        source = ROOT / "fixtures/hf" / name / "src"
        package = scratch / name
        run("convert", str(source), str(package), "-q")
        (package / ".gitignore").write_text("x")
        (package / "README.md").write_text("---\nlicense: [mit, apache-2.0]\n---\n")
        for model in (source, package, package / "model.safetensors"):
            judge_statement(model)
        for model in (source, package):
            judge_bill(model)
        linked = scratch / f"{name}-linked"
        linked.mkdir()
        for file in package.rglob("*"):
            if file.is_file():
                link = linked / file.relative_to(package)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(file)
        judge_statement(linked)
        told = judge_signature(package, scratch)
        print(name, "accepted; a changed byte:", str(told).splitlines()[0])
        shutil.rmtree(linked)
    for golden in (ROOT / "fixtures/supply").glob("*.cdx.json"):
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(golden.read_text())
        assert problem is None, problem
