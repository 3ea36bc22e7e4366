"""Whether the results here are the committed ones, and if not, why: the end of `make repro`.

The hashes of all outputs in dvc.lock are held against those of the commit's dvc.lock. The verdict is

- Reproduced: every byte as committed;
- Other bytes, same result: chance explains how far the accuracies are apart;
- Another result: they are farther apart than that.

With other bytes it names the outputs, the cause, both accuracies, and what to do. Where the spread over
seeds of the committed training is not measured, chance is unknown, and the result is not decided.
"""

import argparse
from pathlib import Path

from common.errors import InputError

import reproduction
from analysis import dvc_lock
from reproduction import Results

SAME, UNDECIDED, ANOTHER = "Other bytes, same result", "Other bytes, result not decided", "Another result"
ROUNDING = 2e-6  # the metrics have six decimals


def judge(commit: str, part: str) -> tuple[bool | None, str]:
    """Whether the accuracy on val or test is the same but for chance, and a line on it.

    None where that is not known: the images are other ones, or the spread over seeds is not measured.
    """
    from analysis import comparison, seeds
    from analysis.revisions import HERE, Revision

    before = Revision(commit[:7], commit)
    committed, mine = (side.json(f"metrics/{part}.json", "accuracy")["accuracy"] for side in (before, HERE))
    line = f"{part} accuracy: {committed:.2%} in the commit, {mine:.2%} here"
    try:
        comparison.predictions(before, HERE, part)
    except InputError as error:  # which says how the images differ
        return None, f"{line}. Not compared: {error}."
    # the seeds of the commit's training; here is one training, though of the same parameters
    found = comparison.difference(seeds.trainings(before, part), seeds.trainings(HERE, part, own_only=True))
    own = (found.gained - found.lost) / found.images
    if abs(mine - committed - own) > ROUNDING:
        return False, f"{line}. The predictions contradict that: they give {100 * own:+.2f} points."
    if found.verdict == "not decided":
        return None, f"{line}. Whether another seed explains that is not known: the commit has no spread over seeds."
    return found.verdict == "within noise", f"{line}: {found.verdict}. {found.reason}"


def report(results: Results) -> str:
    """The verdict, line by line."""
    name = results.commit[:7]
    if not results.edited and not any(results.outputs.values()):
        md5 = dvc_lock.read()["train"].outputs[dvc_lock.MODEL]
        return f"Reproduced: every byte as committed in {name}; the MD5 hash of {dvc_lock.MODEL} is {md5}."

    from analysis import metric_files
    from analysis.revisions import HERE, Revision

    causes = [*reproduction.causes(results)]
    sides = Revision(name, results.commit), HERE
    # the test images decide nothing among experiments
    parts = ("val",) if any(cause.is_experiment for cause in causes) else metric_files.PARTS
    judged = [judge(results.commit, part) for part in parts if all(side.json(f"metrics/{part}.json") for side in sides)]
    verdicts = {verdict for verdict, _ in judged}
    heading = ANOTHER if False in verdicts else UNDECIDED if None in verdicts or not judged else SAME
    lines = [
        f"  {stage:9} {path:33} {(committed or 'none')[:7]} in the commit, {(here or 'none')[:7]} here"
        for stage, differing in results.outputs.items()
        for path, (committed, here) in differing.items()
    ]
    other = len(lines) + sum(any(Path(path).is_relative_to(out) for path in results.edited) for out in results.written)
    return "\n".join(
        [
            f"{heading}: {other} of {len(results.written)} outputs are not as in commit {name}.",
            *lines,
            *(f"  {path}: not as in the commit" for path in results.edited),
            *(f"Cause: {cause.why}." for cause in causes),
            *(line for _, line in judged),
            *(f"What to do: {cause.advice}." for cause in causes),
        ]
    )


def text() -> str:
    """The verdict, or why there is none."""
    results = Results.read()
    if results is None:
        return "No verdict: HEAD has no dvc.lock (commit it, with metrics)."
    if stages := reproduction.would_run("dvc.yaml"):
        return f"No verdict: what is here is not what dvc.lock says (make repro): {', '.join(stages)} would run."
    return report(results)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(text())


if __name__ == "__main__":
    main()
