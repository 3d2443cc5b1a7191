"""Credentials for a registry: from the command line, the files of podman and docker, or their helpers.

Sources: containers-auth.json(5), docker's config.json, and the protocol of docker-credential-helpers. The most specific
entry of the first file that has one is used. No `repr` and no error shows a secret.
"""

import base64
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from ocifs.descriptor import read_at_once
from ocifs.errors import OcifsError, RegistryError, printable_path
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.configuration import Endpoint
from ocifs.sources.registry.keychain import ask
from ocifs.sources.registry.peer import CredentialLookup, Credentials

_MAX_FILE = 4 << 20
_OPEN_FILES = ("/dev/", "/proc/")
"""Where paths name other files in another process, as in `--authfile <(...)`."""
_HELPER_SECONDS = 30
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DOCKER_KEYS = ("docker.io", "index.docker.io", "registry-1.docker.io")


class _Entry(msgspec.Struct, frozen=True):
    auth: str = ""
    identitytoken: str = ""
    username: str = ""
    password: str = ""


class _File(msgspec.Struct, frozen=True, rename="camel"):
    auths: dict[str, _Entry] = {}
    creds_store: str = ""
    cred_helpers: dict[str, str] = {}


class _Helped(msgspec.Struct, frozen=True, rename="pascal"):
    """The answer of a helper."""

    username: str
    secret: str


def find_credentials(endpoint: Endpoint, access: Access) -> Credentials | None:
    """Return the credentials for an endpoint; None: anonymous access.

    Raises:
        OcifsError: A file is malformed, the one that `access` names is unreadable, or a helper fails.
    """
    if access.credentials is not None:
        username, _, password = access.credentials.partition(":")
        return Credentials(username, password)
    if access.provided is not None:
        return access.provided
    return _in_files(lookup_of(endpoint, access), access.warn)


def lookup_of(endpoint: Endpoint, access: Access) -> CredentialLookup:
    """Return where to look for credentials other than those in `access`."""
    files = _places() if access.authfile is None else [access.authfile]
    return CredentialLookup(
        host=endpoint.host,
        repository=endpoint.repository,
        files=tuple(os.path.abspath(path) for path in files),
        is_named=access.authfile is not None,
        keychain=access.keychain,
        environment=(
            ("HOME", os.environ.get("HOME") or str(Path.home())),  # systemd sets none
            ("PATH", os.environ.get("PATH", os.defpath)),
        ),
    )


def renewal_of(endpoint: Endpoint, access: Access) -> CredentialLookup | None:
    """Return where to look again, also in another process; None: --creds are final, and a pipe is read only once."""
    named = access.authfile
    is_final = access.credentials is not None
    if is_final or (
        named is not None and (not os.path.isfile(named) or os.path.abspath(named).startswith(_OPEN_FILES))
    ):
        return None
    return lookup_of(endpoint, access)


def look_again(lookup: CredentialLookup, refused: Credentials | None) -> Credentials | None:
    """Return other credentials than the refused ones, from the keychain or the files; None: there are none.

    Raises as `find_credentials`.
    """
    if lookup.keychain is not None and (kept := ask(lookup.keychain)) not in {None, refused}:
        return kept
    for path in lookup.files if lookup.is_named else ():
        if os.path.exists(path) and not os.path.isfile(path):  # such as a pipe, at which this process would wait
            raise OcifsError(f"{printable_path(path)} is not a file any more")
    found = _in_files(lookup, lambda message: None)
    return None if found == refused else found


def _in_files(lookup: CredentialLookup, warn: Callable[[str], None]) -> Credentials | None:
    environment = dict(lookup.environment)
    for path in _existing(lookup):
        try:
            file = _read(path, is_named=lookup.is_named)
        except _UnreadableError as error:
            if lookup.is_named:
                raise
            warn(f"{error}: continuing without its credentials")
            continue
        for key in _keys(lookup):
            if (helper := file.cred_helpers.get(key)) is not None:
                return _run_helper(helper, key, environment)
            found = next((entry for name, entry in file.auths.items() if _normal(name) == key), None)
            credentials = None if found is None else _decode(found, path)
            if credentials is not None:
                return credentials
        if (
            file.creds_store
            and (credentials := _run_helper(file.creds_store, _server(lookup.host), environment)) is not None
        ):
            return credentials
    return None


class _UnreadableError(OcifsError):
    """A file exists, or may exist, and cannot be read."""


def _places() -> list[Path]:
    """Return the files that may exist, in the order of containers-auth.json(5)."""
    home = Path.home()
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.geteuid()}"
    return [
        Path(runtime) / "containers/auth.json" if "XDG_RUNTIME_DIR" in os.environ else Path(runtime) / "auth.json",
        Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json",
        Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json",
    ]


def _existing(lookup: CredentialLookup) -> Iterator[Path]:
    for path in map(Path, lookup.files):
        if not _is_absent(path):
            yield path
        elif lookup.is_named:
            raise OcifsError(f"no such file of credentials: {printable_path(str(path))}")


def _is_absent(path: Path) -> bool:
    try:
        return not path.exists()
    except PermissionError:  # in a directory that hides it
        return False


def _read(path: Path, *, is_named: bool) -> _File:
    """Read a file; one that the user names may be a pipe, as in `--authfile <(...)`."""
    name = printable_path(str(path))
    try:
        if is_named:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE + 1)
            if len(data) > _MAX_FILE:
                raise OcifsError(f"{name} is too large for a credentials file")
        else:
            data = read_at_once(path, _MAX_FILE)
        return msgspec.json.decode(data or b"{}", type=_File)
    except OSError as error:
        raise _UnreadableError(f"cannot read {name}: {error.strerror}") from None
    except ValueError:  # its text would quote the file
        raise OcifsError(
            f"{name} is malformed: log in again, or name another file with --authfile or REGISTRY_AUTH_FILE"
        ) from None


def _keys(endpoint: CredentialLookup) -> Iterator[str]:
    """Yield the keys that an entry may have, the most specific first."""
    name = f"{endpoint.host}/{endpoint.repository}"
    while "/" in name:
        yield name
        name = name.rpartition("/")[0]
    yield from _DOCKER_KEYS if endpoint.host in _DOCKER_KEYS else (endpoint.host,)


def _normal(key: str) -> str:
    """Return a key as podman writes it; docker writes URLs such as https://index.docker.io/v1/."""
    if "://" not in key:
        return key
    return key.partition("://")[2].partition("/")[0]


def _server(host: str) -> str:
    return "https://index.docker.io/v1/" if host in _DOCKER_KEYS else host


def _decode(entry: _Entry, path: Path) -> Credentials | None:
    if entry.identitytoken:
        return Credentials(identity_token=entry.identitytoken)
    if entry.username:
        return Credentials(entry.username, entry.password)
    if not entry.auth:
        return None
    try:
        username, colon, password = base64.b64decode(entry.auth, validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if not colon:
        raise OcifsError(f"{printable_path(str(path))} has an entry without USER:PASSWORD in base64: log in again")
    return Credentials(username, password.rstrip("\0"))


def _run_helper(helper: str, server: str, environment: Mapping[str, str]) -> Credentials | None:
    """Run `docker-credential-HELPER get`; `environment` replaces some variables of this process."""
    if not _HELPER_NAME.fullmatch(helper):
        raise OcifsError(f"invalid name of a credential helper: {printable_path(helper)!r}")
    program = f"docker-credential-{helper}"
    try:
        answer = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            check=False,
            timeout=_HELPER_SECONDS,
            env={**os.environ, **environment},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no answer in {_HELPER_SECONDS} seconds"
        raise RegistryError(f"cannot run {program} for credentials: {reason}") from None
    if answer.returncode:
        if b"not found" in answer.stdout + answer.stderr:
            return None
        raise RegistryError(f"{program} failed for {server}: exit status {answer.returncode}")
    try:
        helped = msgspec.json.decode(answer.stdout, type=_Helped)
    except ValueError:
        raise RegistryError(f"{program} returned unusable credentials") from None
    if helped.username == "<token>":
        return Credentials(identity_token=helped.secret)
    return Credentials(helped.username, helped.secret)
