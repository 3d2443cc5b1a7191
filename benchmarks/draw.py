"""Draw the results of benchmarks: `python -m benchmarks.draw RESULTS PAGE`.

RESULTS holds a file of JSON lines for each question, as the benchmarks print them with --json. Each becomes an SVG
beside it and a section of PAGE, below the mark there. This module measures nothing, and does not import ocifs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "ocifs"  # the same results yield the same bytes
mpl.rcParams["font.family"] = "sans-serif"
mpl.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot as plt  # noqa: E402

_MARK = "<!-- Below this line scripts/bench writes. -->\n"
_OURS, _OTHERS, _LIMIT = "#2b6cb0", "#a0aec0", "#718096"

Table = dict[str, Any]


def draw(question: str, tables: list[Table], target: Path) -> None:
    """Write one SVG with a panel for each table: a bar up to the median, and a line from minimum to maximum."""
    heights = [len(table["rows"]) + 1.8 for table in tables]
    figure, panels = plt.subplots(
        len(tables), 1, figsize=(8, 0.3 * sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for panel, table in zip(panels[:, 0], tables, strict=True):
        rows = table["rows"][::-1]
        for place, row in enumerate(rows):
            colour = _OURS if "ocifs" in row["way"] else _LIMIT if row["way"] == table["reference"] else _OTHERS
            panel.barh(place, row["median"], color=colour, height=0.6)
            panel.plot([row["min"], row["max"]], [place, place], color="black", linewidth=1)
            label = f" {_figure(row['median'])} {row['unit']}"
            panel.text(row["max"], place, label, va="center", fontsize=8)
        panel.set_yticks(range(len(rows)), [row["way"].strip() for row in rows], fontsize=8)
        panel.set_title(table["question"], fontsize=9, loc="left")
        panel.margins(x=0.15)
        panel.set_xlim(left=0)
        panel.tick_params(axis="x", labelsize=7)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None, "Creator": None, "Title": question})
    plt.close(figure)


def _figure(value: float) -> str:
    """Return three significant digits, from 1,000 on with separators instead of an exponent."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 1000 else f"{rounded:.3g}"


def section(name: str, tables: list[Table], picture: str) -> str:
    """Return the Markdown of one question."""
    machine = tables[0]["machine"]
    lines = [f"### {name.replace('_', ' ')}", "", f"{tables[0]['about']}", "", f"![{name}]({picture})", ""]
    for table in tables:
        lines += [
            f"**{table['question']}**",
            "",
            f"| | median | min to max | to {table['reference'].strip()} |",
            "|---|---|---|---|",
        ]
        for row in table["rows"]:
            unit = row["unit"]
            lines.append(
                f"| {row['way'].strip()} | {_figure(row['median'])} {unit} "
                f"| {_figure(row['min'])} to {_figure(row['max'])} {unit} | x {row['ratio']:.2f} |"
            )
        lines.append("")
    rounds = tables[0]["rounds"]
    lines += [f"`scripts/bench {name}`, {machine}, {rounds} {'round' if rounds == 1 else 'rounds'}.", ""]
    return "\n".join(lines)


def main(results: Path, page: Path) -> None:
    """Draw every question that has results, and write the sections into the page."""
    sections = []
    for path in sorted(results.glob("*.json")):
        tables = [json.loads(line) for line in path.read_text().splitlines()]
        draw(path.stem, tables, path.with_suffix(".svg"))
        sections.append(section(path.stem, tables, f"{results.name}/{path.stem}.svg"))
    text = page.read_text().partition(_MARK)[0]
    page.write_text(text + _MARK + "\n" + "\n".join(sections))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
