"""Which of two models is better: `make compare A=… B=…`.

A side is a commit or what else git can name, an experiment, or `workspace`. Models are compared on their
predictions for the same images, which git has: nothing is trained, and no data is needed.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import argparse

import check
from analysis import comparison, revisions
from analysis.revisions import Side


def choose_part(before: Side, after: Side) -> tuple[str, str]:
    """Val or test, and why: the test images do not choose among experiments."""
    for side in (before, after):
        if side.is_experiment or side.commit is None:
            return (
                "val",
                f"{side} may still be chosen or dropped, which the test images must not decide",
            )
    return "test", "both sides are commits, and nothing is chosen"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", metavar="A")
    parser.add_argument("after", metavar="B", nargs="?", default=revisions.WORKSPACE)
    parser.add_argument("--part", choices=revisions.PARTS, help="default: it is said which and why")
    arguments = parser.parse_args()
    before, after = (revisions.side(name) for name in (arguments.before, arguments.after))
    part, reason = choose_part(before, after)
    if arguments.part:
        part, reason = arguments.part, "as asked for"
    table = comparison.predictions(before, after, part)
    spread = comparison.noise((before, after), part)
    found = comparison.overall(table, spread)
    print(f"{before} -> {after}, on {part}: {reason}.\n")
    for problem in check.lock_problems() if None in (before.commit, after.commit) else ():
        print(f"the workspace is compared by results that are not of it: {problem}\n")
    print(f"{found.verdict}: {found.reason}\n")
    print(
        f"accuracy {100 * found.value:+.2f} points (95 % interval {100 * found.low:+.2f} to "
        f"{100 * found.high:+.2f}), on {found.images:,} images: "
        f"{found.gained} newly right, {found.lost} newly wrong\n"
    )
    classes = comparison.by_class(table, spread)
    chance = (
        f"images or another seed explains it, corrected for {len(classes)} classes; counts: below "
        f"{comparison.LEVEL}"
        if "recall" in spread
        else f"images explains it, corrected for {len(classes)} classes; what another seed does to a class "
        "is not measured (make noise), so none counts"
    )
    print(f"recall by class; p: how well chance in the {chance}")
    shares = dict.fromkeys(("before", "after"), "{:.1%}".format)
    print(
        classes.to_string(
            index=False, formatters={**shares, "difference": "{:+.1%}".format, "p": "{:.2g}".format}
        )
    )


if __name__ == "__main__":
    main()
