"""Judges reports with the readers that others have.

    python -m venv venv && venv/bin/pip install junitparser==5.0.3 jsonschema==4.26.0
    venv/bin/python tests/oracle/report.py target/debug/llmstd

JUnit by junitparser, which has to count what the JSON report counts; SARIF by the schema of SARIF 2.1.0 and
GitLab's report by the fields that GitLab documents (fixtures/schemas); `page.mjs` looks at HTML.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jsonschema
from junitparser import Error, Failure, JUnitXml, Skipped

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = str(pathlib.Path(sys.argv[1]).resolve())


def run(folder, *args):
    done = subprocess.run([TOOL, *args], cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1, 2), done.stderr
    return done


def schema(name):
    return json.loads((ROOT / "fixtures/schemas" / name).read_text())


def judge(folder, *args):
    forms = ("json", "junit", "sarif", "gitlab")
    reports = [word for form in forms for word in ("--report", f"{form}=out.{form}")]
    run(folder, *args, *reports)
    jsonschema.validate(json.loads((folder / "out.sarif").read_text()), schema("sarif-2.1.0-rtm.5.json"))
    issues = json.loads((folder / "out.gitlab").read_text())
    jsonschema.validate(issues, schema("gitlab-code-quality.json"))
    # GitLab takes two issues of one fingerprint for one.
    assert len({issue["fingerprint"] for issue in issues}) == len(issues)
    suites = JUnitXml.fromfile(str(folder / "out.junit"))
    cases = [case for suite in suites for case in suite]
    results = [result for case in cases for result in case.result]
    count = lambda kind: sum(isinstance(result, kind) for result in results)
    assert len(cases) == suites.tests and count(Error) == suites.errors
    assert count(Failure) == suites.failures, (count(Failure), suites.failures)
    assert count(Skipped) == sum(suite.skipped for suite in suites)
    return json.loads((folder / "out.json").read_text()), suites, issues


with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    for source, name in (("v1", "good"), ("v1", "bad"), ("v2", "later")):
        run(scratch, "convert", str(ROOT / "fixtures/demo" / source), name, "-q")
    model = scratch / "bad/model.json"
    model.write_text(model.read_text().replace('"embed_dim": 24', '"embed_dim": 12'))
    shutil.copytree(ROOT / "fixtures/hf/gpt2-lmhead/src", scratch / "foreign")
    found, suites, issues = judge(scratch, "validate", "good", "bad", "foreign", "nowhere")
    reports = [entry["report"] for entry in found["inputs"] if "report" in entry]
    rules = {finding["rule"] for report in reports for finding in report["findings"]}
    assert rules and rules <= {issue["check_name"].split()[0] for issue in issues}
    assert suites.errors == 1
    judge(scratch, "validate", "good")
    judge(scratch, "diff", "good", "later")
    print("JUnit, SARIF and GitLab accepted")
