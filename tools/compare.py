"""Which of two models is better: `make compare A=… B=…`.

A and B are commits, by any name that git knows, experiments, or `workspace`. Models are compared on their
predictions for the same images, which git has: nothing is trained, and no data is needed.
"""

import argparse

import check
from analysis import comparison, metric_files, revisions
from analysis.revisions import Revision


def choose_part(before: Revision, after: Revision) -> tuple[str, str]:
    """Val or test, and why: the test images do not choose among experiments."""
    for revision in (before, after):
        if revision.is_experiment or revision.commit is None:
            return "val", f"{revision} may still be chosen or dropped, which the test images must not decide"
    return "test", "both are commits, and nothing is chosen"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", metavar="A")
    parser.add_argument("after", metavar="B", nargs="?", default=revisions.WORKSPACE)
    parser.add_argument("--part", choices=metric_files.PARTS, help="default: the output says which and why")
    arguments = parser.parse_args()
    before, after = (revisions.resolve(name) for name in (arguments.before, arguments.after))
    part, reason = choose_part(before, after)
    if arguments.part:
        part, reason = arguments.part, "as asked for"
    table = comparison.predictions(before, after, part)
    spread = comparison.noise((before, after), part)
    found = comparison.overall(table, spread)
    print(f"{before} -> {after}, on {part}: {reason}.\n")
    for problem in check.lock_problems() if None in (before.commit, after.commit) else ():
        print(f"the results in the workspace do not belong to it: {problem}\n")
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
        else f"images explains it, corrected for {len(classes)} classes; the effect of another seed on a "
        "class is not measured (make noise), so none counts"
    )
    print(f"recall by class; p: how well chance in the {chance}")
    shares = dict.fromkeys(("before", "after"), "{:.1%}".format)
    print(
        classes.to_string(index=False, formatters={**shares, "difference": "{:+.1%}".format, "p": "{:.2g}".format})
    )


if __name__ == "__main__":
    main()
