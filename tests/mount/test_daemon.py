"""The modules of a daemon. What it does is seen in tests/mounted."""

import subprocess
import sys

_SCRIPT = """
import ast
import sys

from ocifs.mount import daemon, fuse_engine

daemon.load_modules()


def lazy_imports(node, in_function=False):
    for child in ast.iter_child_nodes(node):
        if in_function and isinstance(child, ast.ImportFrom):
            yield child.module
        yield from lazy_imports(child, in_function or isinstance(child, ast.FunctionDef))


files = [module.__file__ for name, module in [*sys.modules.items()] if name.startswith("ocifs") and module.__file__]
for file in files:
    with open(file) as source:
        print(*(name for name in lazy_imports(ast.parse(source.read())) if name not in sys.modules))
"""


def test_a_daemon_imports_nothing_later() -> None:
    run = subprocess.run([sys.executable, "-c", _SCRIPT], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
