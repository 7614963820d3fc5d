#!/usr/bin/env bash
# A repository with three models, one of them bad, gated as people gate theirs: by pre-commit, which installs
# the wheel, and by the steps of action.yml, run here in their order. Needs git, Python, and the packages
# pre-commit and PyYAML, which it installs into a folder of its own. With the archive of a release, the action
# installs that one; else it runs what the wheel has installed.
#
#   bash pipeline/try.sh target/wheels/llmstd-*.whl [dist/llmstd-VERSION-TARGET.tar.gz]
set -euo pipefail

wheel=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
archive=${2:+$(cd "$(dirname "$2")" && pwd)/$(basename "$2")}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "wrong: $*" >&2
  exit 1
}

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "$wheel" pre-commit pyyaml
export PATH="$work/venv/bin:$PATH" PRE_COMMIT_HOME="$work/pre-commit"
llmstd --version

# The repository: a package, a checkpoint as it came, and a package of which a hyperparameter was edited.
repo=$work/repo
mkdir -p "$repo/models"
cd "$repo"
git init --quiet .
git config user.email try@example.org
git config user.name try
llmstd convert --quiet "$here/fixtures/demo/v1" models/one >/dev/null
cp -r "$here/fixtures/hf/gpt2-lmhead/src" models/two
cp -r models/one models/bad
sed -i.orig 's/"rope_theta": *10000.0/"rope_theta": -1.0/' models/bad/model.json
rm models/bad/model.json.orig
cmp -s models/one/model.json models/bad/model.json && fail "the bad model is not bad"

echo "== headers of three models take less than a second"
start=$(date +%s%N)
status=0
llmstd validate -r models >report.txt || status=$?
took=$((($(date +%s%N) - start) / 1000000))
[ "$status" = 1 ] || fail "validate ended with $status"
echo "   $took ms"
[ "$took" -lt "${LLMSTD_MAX_MS:-1000}" ] || fail "it took $took ms"

echo "== pre-commit, which installs the wheel"
cat >.pre-commit-config.yaml <<CONFIG
repos:
  - repo: local
    hooks:
      - id: llmstd-validate
        name: llmstd validate
        entry: llmstd validate -r .
        language: python
        additional_dependencies: ["$wheel"]
        files: '\.(safetensors|gguf|bin|pt|pth|json|jinja)$'
        pass_filenames: false
CONFIG
pre-commit install >/dev/null
git add .pre-commit-config.yaml models
git commit --quiet -m bad >commit.txt 2>&1 && fail "the bad model was committed"
grep -q 'V202' commit.txt || fail "the hook does not name the rule: $(cat commit.txt)"
grep -q 'models/bad' commit.txt || fail "the hook does not name the model"
git rm -r --quiet --cached models/bad
mv models/bad ../bad
git commit --quiet -m good >commit.txt 2>&1 || fail "good models were refused: $(cat commit.txt)"
mv ../bad models/bad

echo "== the hooks of .pre-commit-hooks.yaml, with the command on the PATH"
git add models
pre-commit try-repo "$here" llmstd-validate --all-files >hook.txt 2>&1 && fail "the hook let the bad model pass"
grep -q 'V202' hook.txt || fail "the hook did not run: $(cat hook.txt)"

echo "== the steps of action.yml"
cat >"$work/steps.py" <<'STEPS'
"""Runs the steps of a composite action that are scripts, as a runner does: environment, outputs, conditions."""

import os
import re
import subprocess
import sys
import types

import yaml

here, *given = sys.argv[1:]
action = yaml.safe_load(open(os.path.join(here, "action.yml")))
inputs = {name: str(entry.get("default", "")) for name, entry in action["inputs"].items()}
inputs.update(word.split("=", 1) for word in given)
steps, failed, env = {}, 0, dict(os.environ, GITHUB_ACTION_PATH=here)


def value(expression):
    """The value of the expressions that the file has."""
    for name in re.findall(r"inputs\.([\w-]+)", expression):
        expression = expression.replace(f"inputs.{name}", repr(inputs[name]))
    for step, name in re.findall(r"steps\.(\w+)\.outputs\.(\w+)", expression):
        expression = expression.replace(f"steps.{step}.outputs.{name}", repr(steps.get(step, {}).get(name, "")))
    expression = expression.replace("always()", "True").replace("&&", " and ").replace("||", " or ")
    github = types.SimpleNamespace(server_url="", action_repository="")
    return eval(expression, {"format": lambda *words: "", "github": github})


def filled(text):
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: str(value(found[1].strip())), str(text))


for step in action["runs"]["steps"]:
    condition = step.get("if", "")
    if failed and "always()" not in condition or condition and not value(condition):
        continue
    if "uses" in step:
        path = filled(step["with"]["sarif_file"])
        print(f"-- {step['name']}: {os.path.getsize(path)} bytes of SARIF would go to {step['uses']}")
        os.replace(path, "out.sarif")
        continue
    output, added = (os.path.join(os.environ["RUNNER_TEMP"], name) for name in ("output", "path"))
    for file in (output, added):
        open(file, "w").close()
    own = {name: filled(text) for name, text in step.get("env", {}).items()} if "env" in step else {}
    done = subprocess.run(["bash", "-e", "-c", step["run"]], env={**env, **own, "GITHUB_OUTPUT": output, "GITHUB_PATH": added})
    print(f"-- {step['name']}: {done.returncode}")
    failed = failed or done.returncode
    env["PATH"] = os.pathsep.join([*open(added).read().splitlines(), env["PATH"]])
    steps[step.get("id", "")] = dict(line.rstrip("\n").split("=", 1) for line in open(output))
sys.exit(failed)
STEPS
export RUNNER_TEMP=$work/runner GITHUB_STEP_SUMMARY=$work/summary.md
mkdir "$RUNNER_TEMP"
status=0
python "$work/steps.py" "$here" paths=models >action.txt 2>&1 || status=$?
[ "$status" = 1 ] || fail "the action ended with $status: $(cat action.txt)"
grep -q '^::error file=models/bad/' action.txt || fail "no annotation: $(cat action.txt)"
grep -q 'V202' "$GITHUB_STEP_SUMMARY" || fail "no summary"
python -c 'import json; assert json.load(open("out.sarif"))["runs"][0]["results"]' || fail "no SARIF"
rm "$GITHUB_STEP_SUMMARY"
python "$work/steps.py" "$here" "paths=models/one models/two" >action.txt 2>&1 || fail "good models: $(cat action.txt)"

if [ -n "$archive" ]; then
  echo "== the archive, installed by the action"
  name=$(basename "$archive")
  version=${name#llmstd-}
  version=${version%%-*}
  mkdir -p "$work/releases/v$version"
  cp "$archive" "$work/releases/v$version"
  sum=$(sha256sum <"$archive" | cut -d' ' -f1)
  install() { python "$work/steps.py" "$here" version="$version" sha256="$1" "base-url=file://$work/releases" "paths=$2"; }
  # What the wheel installed is out of the way.
  mv "$work/venv/bin/llmstd" "$work/llmstd"
  install "$sum" models/one >action.txt 2>&1 || fail "the archive: $(cat action.txt)"
  status=0
  install "$sum" models >action.txt 2>&1 || status=$?
  [ "$status" = 1 ] && grep -q '^::error file=models/bad/' action.txt || fail "the archive: $(cat action.txt)"
  install "${sum//[0-7]/8}" models/one >action.txt 2>&1 && fail "an archive with another SHA-256 was run"
  grep -q 'was expected' action.txt || fail "$(cat action.txt)"
  mv "$work/llmstd" "$work/venv/bin/llmstd"
fi
echo "the bad model is refused by all, and the good ones by none"
