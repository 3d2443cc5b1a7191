"""What a keeper loads: all that its workers need, and nothing that starts threads or takes long."""

import subprocess
import sys

_SCRIPT = """
import ast, importlib, sys, threading

from ocifs.service import main

main.load_all()
loaded = {name.partition(".")[0] for name in sys.modules}
heavy = "click rich textual jinja2 trio pyfuse3 grpc prometheus_client asyncio indexed_gzip"
print("heavy", *sorted({*heavy.split()} & loaded))
print("threads", threading.active_count())
print("packages", *sorted(loaded - set(sys.stdlib_module_names) - {"__main__"}))


def imports_in_functions(node, inside=False):
    for child in ast.iter_child_nodes(node):
        if inside and isinstance(child, ast.ImportFrom):
            yield child.module
        yield from imports_in_functions(child, inside or isinstance(child, ast.FunctionDef))


later = set()
for name, module in [*sys.modules.items()]:
    if name.startswith("ocifs") and module.__file__:
        with open(module.__file__) as source:
            later |= {each for each in imports_in_functions(ast.parse(source.read())) if each not in sys.modules}
print("later", *sorted(later))
"""


def test_a_keeper_loads_what_workers_need_and_nothing_heavy() -> None:
    run = subprocess.run([sys.executable, "-c", _SCRIPT], check=True, capture_output=True, text=True)
    heavy, threads, packages, later = run.stdout.splitlines()
    assert heavy.split() == ["heavy"]
    assert threads.split() == ["threads", "1"]
    assert set(packages.split()[1:]) <= {
        "ocifs",
        "msgspec",
        "typing_extensions",
        "urllib3",
        "zlib_ng",
        "zstandard",
        "_distutils_hack",
    }
    assert later.split() == ["later", "ocifs.mount.fuse_engine"]  # which no worker uses
