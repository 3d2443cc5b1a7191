"""A class name means one thing in the whole of ocifs."""

import re
from collections import defaultdict
from pathlib import Path

import ocifs

_DEFINITION = re.compile(r"^(?:class ([A-Z]\w*)|([A-Z][a-z]\w*) = )", re.MULTILINE)

SHARED = {
    # The class of the Python API extends the other one.
    "Image": {"api.image", "image.opening"},
    # `runtime_spec` has the names of the OCI runtime specification, the Python API the plainest name.
    "Mount": {"api.mounting", "bundle.runtime_spec"},
}
"""Names with several meanings, and the modules that define them."""


def test_two_modules_define_no_class_of_the_same_name() -> None:
    """A type alias clashes with a class as well. Aliases alone may have the same name: they are local abbreviations."""
    root = Path(ocifs.__file__).parent
    defining: dict[str, set[str]] = defaultdict(set)
    classes = set()
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for class_name, alias in _DEFINITION.findall(path.read_text()):
            defining[class_name or alias].add(module)
            classes.add(class_name)
    assert {name: defining[name] for name in classes if len(defining[name]) > 1} == SHARED
