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
from typing import TYPE_CHECKING

from common.errors import InputError

import reproduction
from reproduction import Results

if TYPE_CHECKING:
    from analysis.revisions import Revision

MODEL = "models/model.keras"
SAME, UNDECIDED, ANOTHER = "Other bytes, same result", "Other bytes, result not decided", "Another result"
ROUNDING = 2e-6  # the metrics have six decimals


def judge(before: "Revision", here: "Revision", part: str) -> tuple[bool | None, str]:
    """Whether the accuracy on val or test is the same but for chance, and a line on it.

    None where that is not known: the images are other ones, or nobody measured the spread over seeds of
    the committed training.
    """
    from analysis import comparison, seeds

    figures = [side.json(f"metrics/{part}.json") for side in (before, here)]
    line = f"{part} accuracy: {figures[0]['accuracy']:.2%} in the commit, {figures[1]['accuracy']:.2%} here"
    try:
        table = comparison.predictions(before, here, part)
    except InputError as error:  # which says how the images differ
        return None, f"{line}. Not compared: {error}"
    if any(side["images"] != len(table) for side in figures):
        return None, f"{line}. Not compared: of other images"
    # the seeds of the commit's training; here is one training, though of the same parameters
    found = comparison.difference(seeds.trainings(before, part), seeds.trainings(here, part, alone=True))
    own = (found.gained - found.lost) / found.images
    if abs(figures[1]["accuracy"] - figures[0]["accuracy"] - own) > ROUNDING:
        return False, f"{line}. The predictions contradict that: they give {100 * own:+.2f} points"
    if found.verdict == "not decided":
        unknown = "the commit has no spread over seeds of its training"
        return None, f"{line}. Whether another seed explains that is not known: {unknown}"
    return found.verdict == "within noise", f"{line}: {found.verdict}. {found.reason}"


def _is_evaluated(side: "Revision", part: str) -> bool:
    return part in side.predicted() and {"accuracy", "images"} <= side.json(f"metrics/{part}.json").keys()


def report(results: Results) -> str:
    """The verdict, line by line."""
    name = results.commit[:7]
    every = [path for stage in results.stages() for path in results.outputs(stage)]
    if results.is_reproduced():
        hashes = {path: md5 for stage in results.here.values() for path, md5 in stage.outputs.items()}
        model = f"; the MD5 hash of {MODEL} is {hashes[MODEL]}" if MODEL in hashes else ""
        notes = [
            f"Note: {cause.why}. No output changed."
            for cause in reproduction.changed_inputs(results, results.stages())
        ]
        return "\n".join([f"Reproduced: every byte as committed in {name}{model}.", *notes])

    from analysis.revisions import WORKSPACE, Revision

    found = reproduction.causes(results)
    before, here = Revision(name, results.commit), Revision(WORKSPACE, None)
    # the test images decide nothing among experiments
    parts = ("val",) if any(cause.is_experiment for cause in found) else ("val", "test")
    judged = [
        judge(before, here, part) for part in parts if all(_is_evaluated(side, part) for side in (before, here))
    ]
    verdicts = {verdict for verdict, _ in judged}
    heading = ANOTHER if False in verdicts else UNDECIDED if None in verdicts or not judged else SAME
    lines = [
        f"  {stage:10}{path:24}{(committed or 'none')[:7]} in the commit, {(found_here or 'none')[:7]} here"
        for stage in results.stages()
        for path, (committed, found_here) in results.other_outputs(stage).items()
    ]
    other = sum(any(Path(path).is_relative_to(out) for path in results.edited) for out in every) + len(lines)
    return "\n".join(
        [
            f"{heading}: {other} of {len(every)} outputs are not as in commit {name}.",
            *lines,
            *(f"  {path}: not as in the commit" for path in results.edited),
            *(f"Cause: {cause.why}." for cause in found),
            *(line if line.endswith(".") else f"{line}." for _, line in judged),
            *(f"What to do: {cause.advice}." for cause in found),
        ]
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results = Results.read()
    if results is None:
        print("No verdict: HEAD has no dvc.lock (commit it, with metrics).")
    elif stages := reproduction.would_run("dvc.yaml"):
        print(f"No verdict: what is here is not what dvc.lock says (make repro): {', '.join(stages)} would run.")
    else:
        print(report(results))


if __name__ == "__main__":
    main()
