"""A conversion on a Ray cluster: python ray_driver.py SRC DST UNITS [arguments of convert …]

Needs ray, llmstd on the PATH of every worker, and SRC and DST on a file system that all of them see.
"""
import subprocess
import sys

import ray


@ray.remote(num_cpus=2, max_retries=5)
def unit(plan: str, number: int, count: int) -> str:
    # A worker that dies is started again elsewhere; a unit that another has made ends at once.
    command = ["llmstd", "convert", "--plan", plan, "--unit", f"{number}/{count}", "--threads", "2"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(source: str, destination: str, count: int, more: list[str]) -> None:
    plan = destination.rstrip("/") + ".plan.json"
    with open(plan, "w") as file:
        command = ["llmstd", "convert", source, destination, *more, "--dry-run", "--format", "json"]
        subprocess.run(command, check=True, stdout=file)
    ray.init()
    for said in ray.get([unit.remote(plan, number, count) for number in range(1, count + 1)]):
        print(said, end="")
    subprocess.run(["llmstd", "convert", "--plan", plan, "--finish"], check=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
