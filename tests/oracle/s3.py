"""Reads a model from an S3 server that this project did not write.

    npm install s3rver@3.7.1; pip install boto3==1.44.8
    python s3.py LLMSTD FOLDER node_modules/.bin/s3rver

FOLDER is a model; it is put into a bucket by boto3. `inspect`, `manifest` and `convert` of `s3://` have to give what
they give of the folder, and no signature may be told. The server checks those of writes alone. Prints what was compared.
"""
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import boto3

# With characters that addresses and signatures spell in their own ways.
PREFIX = "models/one two+three"
ADDRESS = f"s3://bucket/{PREFIX}"


# The one key of s3rver.
KEYS = ("S3RVER", "S3RVER")


def serve(server, store):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [server, "--directory", store, "--address", "127.0.0.1", "--port", str(port), "--silent"]
    child = subprocess.Popen(words)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return child, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server does not start")


def put(endpoint, folder):
    session = dict(region_name="us-east-1", aws_access_key_id=KEYS[0], aws_secret_access_key=KEYS[1])
    s3 = boto3.client("s3", endpoint_url=endpoint, **session)
    s3.create_bucket(Bucket="bucket")
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        s3.put_object(Bucket="bucket", Key=f"{PREFIX}/{file.relative_to(folder)}", Body=file.read_bytes())


def run(tool, words, keys=None, endpoint=""):
    known = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    if keys:
        known |= dict(AWS_ACCESS_KEY_ID=keys[0], AWS_SECRET_ACCESS_KEY=keys[1], AWS_REGION="us-east-1", AWS_ENDPOINT_URL=endpoint)
    done = subprocess.run([tool, *words], env=known, capture_output=True, text=True, check=False)
    assert "X-Amz-Signature" not in done.stdout + done.stderr, "a signature was told"
    return done


def same(tool, endpoint, folder, words, of):
    here = run(tool, [word.format(folder) for word in words])
    there = run(tool, [word.format(ADDRESS) for word in words], KEYS, endpoint)
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    left, right = of(here.stdout), of(there.stdout)
    assert left == right, (left, right)
    print(f"{words[0]}: equal")


def main(tool, folder, server):
    folder = pathlib.Path(folder)
    with tempfile.TemporaryDirectory() as made:
        child, endpoint = serve(server, f"{made}/store")
        try:
            compare(tool, folder, endpoint, made)
        finally:
            child.terminate()
            child.wait()


def compare(tool, folder, endpoint, made):
    put(endpoint, folder)
    tensors = lambda text: json.loads(text)["tensors"]
    same(tool, endpoint, folder, ["inspect", "{}", "--format", "json"], tensors)
    digests = lambda text: json.loads(text)["digests"]
    same(tool, endpoint, folder, ["manifest", "{}", "--format", "json"], digests)
    words = ["-q", "--threads", "2"]
    here = run(tool, ["convert", str(folder), f"{made}/here", *words])
    there = run(tool, ["convert", ADDRESS, f"{made}/there", *words], KEYS, endpoint)
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    # Where it came from is in source.json alone.
    left, right = (pathlib.Path(f"{made}/{side}/manifest.json").read_bytes() for side in ("here", "there"))
    assert left == right, "the packages differ"
    print("convert: equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
