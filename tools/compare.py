"""Which of two models is better: `make compare A=… B=…`.

A and B are commits, by any name that git knows, experiments, or `workspace`. Models are compared on their
predictions for the same images, which git has: nothing is trained, and no data is needed. Other seeds of a model
count too: those of metrics/noise.csv, and the experiments that differ from it in the seed alone (make replicate).
With --fail-if worse, the exit status is 1 if B is worse, 2 if that is not decided or results are stale, else 0.
"""

import argparse
import sys

from common.errors import InputError, one_line

import check
from analysis import comparison, metric_files, revisions
from analysis.git import git


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", metavar="A", help="a commit, an experiment or workspace")
    parser.add_argument("after", metavar="B", nargs="?", default=revisions.WORKSPACE, help="(default: workspace)")
    parser.add_argument("--part", choices=metric_files.PARTS, help="default: the output says which and why")
    parser.add_argument("--fail-if", choices=["worse"], help="exit with 1 if B is worse, 2 if not decided or stale")
    parser.add_argument("--tolerance", type=float, default=0.0, help="points that do not matter (default: 0)")
    parser.add_argument("--difference", type=float, default=0.3, help="points to detect (default: 0.3)")
    arguments = parser.parse_args()
    if not 0 <= arguments.tolerance < 100:
        raise InputError(f"tolerance must be 0 to 100 points; received {arguments.tolerance}")
    if not 0 < arguments.difference < 100:
        raise InputError(f"difference must be 0 to 100 points; received {arguments.difference}")
    before, after = (revisions.resolve(name) for name in (arguments.before, arguments.after))
    part, reason = "test", "both are commits, and nothing is chosen"
    for revision in (before, after):  # the test images do not choose among experiments
        if revision.is_experiment or revision.commit is None:
            part, reason = ("val", f"{revision} may still be chosen or dropped, which the test images must not decide")
    if arguments.part:
        part, reason = arguments.part, "as asked for"
    found, classes = comparison.compare(before, after, part, arguments.tolerance / 100)
    print(f"{before} -> {after}, on {part}: {reason}.\n")
    here = {None, *([] if git("status", "--porcelain", "--untracked-files=no") else [git("rev-parse", "HEAD")])}
    for problem in (problems := [*check.lock_problems(own=True)] if here & {before.commit, after.commit} else []):
        print(f"the results in the workspace do not belong to it: {problem}\n")
    print(f"{found.verdict}: {found.reason}\n")
    if found.verdict == "not decided":
        print(f"{comparison.remedy(before, after)}\n")
    print(f"{found.summary}\n\n{found.power(max(5, *found.seeds), arguments.difference / 100)}\n")
    print(
        f"recall by class; p: how often chance alone makes as large a difference, corrected for {len(classes)} classes; "
        f"counts: p is below {comparison.LEVEL}, and the spread of the recall over seeds is measured"
    )
    formats = {"before": "{:.1%}", "after": "{:.1%}", "difference": "{:+.1%}", "p": "{:.2g}"}
    shown = classes.assign(**{"class": classes["class"].map(one_line)})
    print(shown.to_string(index=False, formatters={name: text.format for name, text in formats.items()}))
    if arguments.fail_if:
        sys.exit(2 if problems else {"worse": 1, "not decided": 2}.get(found.verdict, 0))


if __name__ == "__main__":
    main()
