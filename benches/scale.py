"""Time and memory of commands over the number of tensors, as a table and as a plot in SVG.

    python scale.py LLMSTD FOLDER OUT.svg [1000 10000 …]

FOLDER gets sparse files: 1 MiB for each tensor, of which the disk holds nothing. Commands read headers
alone; `diff` the manifest of a package of as many small tensors, as both sides. Seconds are of processors (user and system), which other work on the machine disturbs less.
"""
import pathlib
import shutil
import subprocess
import sys
import os
import time

import models

COMMANDS = {
    "inspect": ["inspect", "{}"],
    "convert --dry-run": ["convert", "{}", "{}.std", "--generic", "--dry-run"],
    "validate": ["validate", "{}", "--level", "container"],
    "diff": ["diff", "{}.small.std/manifest.json", "{}.small.std/manifest.json"],
}
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd"]


def measure(command):
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise SystemExit(said.decode())
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1000, time.perf_counter() - start


def plot(title, unit, counts, series, top):
    width, height, left, bottom = 420, 280, 60, 40
    highest = max(max(values) for values in series.values()) * 1.05
    x = lambda count: left + count / max(counts) * (width - left - 20)
    y = lambda value: top + height - bottom - value / highest * (height - bottom - 40)
    text = [f'<text x="{left}" y="{top + 20}" font-weight="bold">{title}, {unit}</text>']
    for step in range(5):
        value = highest * step / 4
        text.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        text.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
    for count in counts:
        if count * 5 >= max(counts):
            text.append(f'<text x="{x(count):.1f}" y="{top + height - bottom + 16}" text-anchor="middle">{count // 1000}k</text>')
    for colour, (name, values) in zip(COLOURS, series.items()):
        points = " ".join(f"{x(count):.1f},{y(value):.1f}" for count, value in zip(counts, values))
        text.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        row = top + 36 + 14 * COLOURS.index(colour)
        text.append(f'<text x="{left + 8}" y="{row}" fill="{colour}">{name}</text>')
    return text


def main(tool, folder, out, counts):
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    seconds = {name: [] for name in COMMANDS}
    memory = {name: [] for name in COMMANDS}
    for count in counts:
        model = f"{folder}/sparse-{count}"
        models.experts(model, count, max(1, count // 10_000), [1024, 512], True)
        models.experts(f"{model}.small", count, max(1, count // 10_000), [4, 2], True)
        package = ["convert", "-q", f"{model}.small", f"{model}.small.std", "--generic", "--max-shard-size", "1MB"]
        measure([tool, *package])
        for name, words in COMMANDS.items():
            best = min(measure([tool, *(word.format(model) for word in words)]) for _ in range(2))
            seconds[name].append(best[0])
            memory[name].append(best[1])
            print(f"| {count} | {name} | {best[2]:.2f} s | {best[0]:.2f} s | {best[1]:.0f} MB |", flush=True)
        for made in [model, f"{model}.small", f"{model}.small.std"]:
            shutil.rmtree(made)
    text = plot("Time over tensors", "s of processors", counts, seconds, 0)
    text += plot("Memory over tensors", "MB", counts, memory, 280)
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="420" height="560" font-family="sans-serif" font-size="11">'
    pathlib.Path(out).write_text("\n".join([head, '<rect width="420" height="560" fill="white"/>', *text, "</svg>\n"]))


if __name__ == "__main__":
    given = [int(count) for count in sys.argv[4:]]
    main(*sys.argv[1:4], given or [1_000, 10_000, 100_000, 250_000, 500_000, 1_000_000])
