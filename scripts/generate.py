#!/usr/bin/env python3
"""generate.py [FILE]: write the files that are made from the code, or print one of them.

A test compares them with what this script would write.
"""

import ast
import importlib
import inspect
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin

import click

import ocifs
from ocifs.cli.complete.model import Value
from ocifs.cli.verbs import cli

_ROOT = Path(__file__).resolve().parent.parent

_API: list[tuple[str, str, list[str]]] = [
    ("Images", "ocifs.api.image", ["open_image", "Image"]),
    ("Paths", "ocifs.api.path", ["ImagePath"]),
    ("Mounts", "ocifs.api.mounting", ["Mount"]),
    ("Mounts", "ocifs.mount.options", ["MountOptions"]),
    ("fsspec", "ocifs.api.filesystem", ["OcifsFileSystem"]),
    ("Options", "ocifs.options", ["Options"]),
    ("Options", "ocifs.limits", ["Limits"]),
    ("Options", "ocifs.store.store", ["Store"]),
    ("Low level", "ocifs.image.rootfs", ["Rootfs"]),
    ("Low level", "ocifs.erofs.reader", ["TreeImage", "Inode"]),
    ("Low level", "ocifs.layer.layer", ["Layer"]),
    (
        "Errors",
        "ocifs.errors",
        [
            *("OcifsError", "NotFoundError", "InvalidImageError", "UnsupportedError", "LimitError", "ShortageError"),
            *("TooManyFilesError", "MountError", "StoreError", "RegistryError"),
        ],
    ),
]
"""(Section, module, names of its public classes and functions)."""

_ALIASES = {"open_image": "open"}
"""Names under which the guide uses a function."""

_Function = ast.FunctionDef
_HEAD = """# API reference

`scripts/generate.py` writes this page from the docstrings. The guide is [api.md](api.md).
"""


def main(arguments: list[str]) -> None:
    """Write all files, or print one."""
    for name, make in GENERATED.items():
        if not arguments:
            (_ROOT / name).write_text(make())
        elif name in arguments:
            sys.stdout.write(make())


def api_reference() -> str:
    """Return the reference of the Python API in Markdown."""
    parts = [_HEAD]
    last = ""
    for section, name, names in _API:
        if section != last:
            parts.append(f"\n## {section}\n")
        last = section
        module = importlib.import_module(name)
        tree = ast.parse(inspect.getsource(module))
        for each in names:
            for node in tree.body:
                match node:
                    case ast.ClassDef(name=defined) if defined == each:
                        parts += _describe_class(module, node)
                    case ast.FunctionDef(name=defined) if defined == each:
                        parts += _describe_function(node)
    return "".join(parts)


def _describe_function(node: _Function) -> Iterator[str]:
    names = [node.name, *([_ALIASES[node.name]] if node.name in _ALIASES else [])]
    yield f"\n### {', '.join(f'`ocifs.{name}`' for name in reversed(names))}\n"
    yield f"\n`{_signature(node, names[-1], bound=False)}`\n\n{_document(node)}\n"


def _describe_class(module: ModuleType, node: ast.ClassDef) -> Iterator[str]:
    """Yield a class, with the members of its bases in ocifs that it does not replace."""
    bases = ", ".join(map(ast.unparse, node.bases))
    public = "ocifs" if node.name in ocifs.__all__ else module.__name__
    yield f"\n### `{public}.{node.name}`" + (f" ({bases})" if bases == "OcifsError" else "") + "\n"
    yield f"\n{_document(node)}\n"
    seen: set[str] = set()
    members: list[str] = []
    for base in getattr(module, node.name).__mro__:
        if not base.__module__.startswith("ocifs.") or base.__name__ not in {node.name, "Image"}:
            continue
        for defined in _with_choices(ast.parse(inspect.getsource(base)), sys.modules[base.__module__]).body:
            for name, text in _members(defined) if isinstance(defined, ast.ClassDef) else ():
                if name not in seen:
                    seen.add(name)
                    members.append(text)
    if members:
        yield "\n" + "".join(members)


def _with_choices(tree: ast.Module, module: ModuleType) -> ast.Module:
    """Replace the names of choices in annotations by the choices."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Name):
            named = getattr(module, node.annotation.id, None)
            if get_origin(named) is Literal:
                node.annotation = ast.parse(f"Literal{list(get_args(named))}", mode="eval").body
    return tree


def _members(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield (name, Markdown) of the public attributes and methods."""
    yield from _attributes(node.body)
    for each in node.body:
        if not isinstance(each, _Function):
            continue
        decorators = {ast.unparse(decorator) for decorator in each.decorator_list}
        if each.name == "__init__":
            if ast.get_docstring(each):
                yield "__init__", _item(_signature(each, node.name), _document(each))
            yield from _attributes(each.body)
        elif "overload" in decorators or not ast.get_docstring(each):
            continue
        elif each.name == "__truediv__":
            yield (
                each.name,
                _item(
                    f"{node.name.removeprefix('Image').lower() or 'image'} / {each.args.args[1].arg}", _document(each)
                ),
            )
        elif not each.name.startswith("_"):
            what = each.name if "property" in decorators else _signature(each, each.name)
            yield each.name, _item(what, _document(each))


def _attributes(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Yield the attributes that a docstring follows."""
    for each, following in pairwise(body):
        if not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)):
            continue
        match each:
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                value = "" if each.value is None or "field(" in ast.unparse(each.value) else ast.unparse(each.value)
                text = f"{name}: {ast.unparse(each.annotation)}" + (f" = {value}" if value else "")
            case ast.Assign(targets=[target]) | ast.AnnAssign(target=target):
                name = ast.unparse(target).removeprefix("self.")
                if not re.fullmatch(r"[a-z]\w*(, [a-z]\w*)*", name.replace("self.", "").strip("()")):
                    continue
                text = name = name.replace("self.", "").strip("()")
            case _:
                continue
        yield name, _item(text, _joined(str(following.value.value)))


def _item(what: str, document: str) -> str:
    text = document.replace("\n", "\n  ")
    return f"- `{what}`\n\n  {text}\n\n".replace("\n  \n", "\n\n")


def _signature(node: _Function, name: str, *, bound: bool = True) -> str:
    arguments = ast.unparse(node.args)
    if bound:
        arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
    result = ast.unparse(node.returns) if node.returns and node.name != "__init__" else ""
    return f"{name}({arguments})".replace("'", "") + (
        f" -> {result.strip(chr(39))}" if result != "None" and result else ""
    )


def _document(node: ast.FunctionDef | ast.ClassDef) -> str:
    """Return a docstring in Markdown; the errors become a list."""
    text, _, errors = (ast.get_docstring(node) or "").partition("\nRaises:\n")
    items = re.sub(r"\n {8,}", " ", errors).split("\n")
    listed = "".join(
        f"\n- {', '.join(f'`{name}`' for name in names.split(', '))}: {why}"
        for names, why in (item.strip().split(": ", 1) for item in items if item.strip())
    )
    return _joined(text) + (f"\n\nRaises:\n{listed}" if listed else "")


def _joined(text: str) -> str:
    """Return paragraphs, each on one line."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def completion_commands() -> str:
    """Return the module that tells completion what the commands accept."""
    lines = [
        '"""The commands and their options, written by `scripts/generate.py`: the arguments of `model.CommandModel`.',
        "",
        "Constants load faster than objects.",
        '"""',
        "",
        "# fmt: off",
        "# ruff: noqa: E501",
        "from ocifs.cli.complete.model import RawCommand",
        "",
        "COMMANDS: dict[str, RawCommand] = {",
    ]
    for path, command in _commands("", cli):
        context = click.Context(command, help_option_names=["-h", "--help"])
        settings = click.Context(command, **command.context_settings)
        params = command.get_params(context)
        options = [each for each in params if isinstance(each, click.Option) and not each.hidden]
        arguments = [each for each in params if isinstance(each, click.Argument)]
        subcommands = command.list_commands(context) if isinstance(command, click.Group) else []
        lines += [
            f"    {_literal(path)}: (",
            f"        {_literal(_short_help(command))},",
            "        (",
            *(f"            {_literal(_option(each))}," for each in options),
            "        ),",
            f"        {_literal(tuple(_value_of_argument(path, each) for each in arguments))},",
            f"        {any(each.nargs < 0 for each in arguments)},",
            f"        {not settings.allow_interspersed_args},",
            f"        {_literal(tuple(name for name in subcommands if not _is_hidden(command, name)))},",
            "    ),",
        ]
    return "\n".join([*lines, "}", ""])


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            if found is not None and not found.hidden:
                yield from _commands(f"{path} {name}".strip(), found)


def _is_hidden(group: click.Command, name: str) -> bool:
    found = group.get_command(click.Context(group), name) if isinstance(group, click.Group) else None
    return found is None or found.hidden


def _short_help(command: click.Command) -> str:
    return command.get_short_help_str(120).rstrip(".")


def _option(param: click.Option) -> tuple[tuple[str, ...], Value | None, str]:
    names = (*param.opts, *param.secondary_opts)
    value = None if param.is_flag or param.count else _value(param)
    help_ = re.split(r"\.$|\.(?=\s+[A-Z])|\.?  \[", param.help or "")[0]
    return names, value, help_


_VALUES: dict[str, Value] = {
    **dict.fromkeys(("first", "image", "second"), "image"),
    **dict.fromkeys(("path", "paths", "words"), "path"),
    **dict.fromkeys(("layer", "only_layer", "number"), "layer"),
    **dict.fromkeys(("net", "network"), ("none", "host")),
    "limits": "limit",
    "mountpoints": "mountpoint",
    "platform": "platform",
}
"""Kinds of parameters by their names; other types decide for themselves."""

_OTHER: dict[tuple[str, str], Value] = {
    ("run", "args"): "path or file",
    ("run", "command"): "path or file",
    ("help", "words"): tuple(cli.list_commands(click.Context(cli))),
}
_NUMBERS = (click.types.IntParamType, click.types.FloatParamType)


def _value_of_argument(path: str, param: click.Argument) -> Value:
    return _OTHER.get((path, str(param.name))) or _value(param)


def _value(param: click.Parameter) -> Value:
    if isinstance(param.type, click.Choice):
        return tuple(map(str, param.type.choices))
    named = _VALUES.get(str(param.name))
    return named or ("none" if isinstance(param.type, _NUMBERS) or param.type.name == "size" else "file")


def _literal(value: object) -> str:
    """Return a literal with double quotes, as the formatter writes them."""
    if isinstance(value, tuple):
        inner = ", ".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


_PROTOS = ("cri", "snapshots")
"""The files of messages in ocifs/snapshotter."""


def _protobuf(name: str, suffix: str) -> str:
    """Return the output of the protobuf compiler for a file of messages of the snapshotter."""
    from grpc_tools import protoc

    proto = f"ocifs/snapshotter/{name}.proto"
    with tempfile.TemporaryDirectory() as directory:
        out = f"--{'python' if suffix == 'py' else suffix}_out={directory}"
        if protoc.main(["protoc", f"--proto_path={_ROOT}", f"-I{_well_known()}", out, proto]):
            raise SystemExit("protoc failed")
        return Path(directory, proto).with_name(f"{name}_pb2.{suffix}").read_text()


def _well_known() -> Path:
    """Return the directory with the messages that come with protobuf."""
    import grpc_tools

    return Path(grpc_tools.__file__).with_name("_proto")


GENERATED: dict[str, Callable[[], str]] = {
    "docs/api-reference.md": api_reference,
    "ocifs/cli/complete/commands.py": completion_commands,
    **{
        f"ocifs/snapshotter/{name}_pb2.{suffix}": partial(_protobuf, name, suffix)
        for name in _PROTOS
        for suffix in ("py", "pyi")
    },
}
"""The files, and what makes them."""

if __name__ == "__main__":
    main(sys.argv[1:])
