"""How long does a walk through a whole image take with cold caches: `find` and `find -ls`?

Side by side: the mounts of both engines, those of other tools, and the extracted tree itself.
"""

from functools import partial

from benchmarks.timing import EXTRACTED, arguments, cold, report, side_by_side, trees_of


def main() -> None:
    """Measure and print."""
    options = arguments()
    with trees_of(options) as trees:
        for tail in ([], ["-ls"]):
            ways = {name: partial(cold, ["find", str(tree), *tail]) for name, tree in trees.items()}
            question = f"{' '.join(['find', *tail])}, nothing cached"
            report(question, side_by_side(ways, options.rounds), EXTRACTED)


if __name__ == "__main__":
    main()
