"""The table of flags from other tools in docs/cli.md: every row works, or ends in an error with the alternative.

A row that works has a pattern here for what it prints. In a container, `true` at the end of a row is replaced by what
shows the effect of the option.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from ocifs.cli.verbs import run
from tests.cli.command import Ocifs, Result
from tests.docs.conftest import World

_DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
_ROW = re.compile(r"\| ([^|]*)\| `(ocifs (?:[^`])+)` \| ([^|]+) \|")

_CAPABILITIES = "grep CapEff /proc/self/status"
_V1 = "/sys/fs/cgroup"
_LIMITS = {
    "memory": f"cat {_V1}/memory.max {_V1}/memory/memory.limit_in_bytes 2>/dev/null; true",
    "cpu": f"cat {_V1}/cpu.max {_V1}/cpu/cpu.cfs_quota_us {_V1}/cpu,cpuacct/cpu.cfs_quota_us 2>/dev/null; true",
    "pids": f"cat {_V1}/pids.max {_V1}/pids/pids.max 2>/dev/null; true",
}
PROBES = {
    "--rm": "echo removed",
    "-it": "tty",
    "--network": "readlink /proc/self/ns/net",
    "--net": "readlink /proc/self/ns/net",
    "--read-only": "cat /proc/mounts",
    "--cap-add": _CAPABILITIES,
    "--cap-drop": _CAPABILITIES,
    "--privileged": _CAPABILITIES,
    "--memory": _LIMITS["memory"],
    "--cpus": _LIMITS["cpu"],
    "--pids-limit": _LIMITS["pids"],
    "--name": "cat /proc/self/mountinfo",
    "--umask": "umask",
    "--unsetenv": "env",
    "--oom-score-adj": "cat /proc/self/oom_score_adj",
}
"""What shows the effect of an option, instead of `true`."""

EXPECTED: dict[str, str] = {
    "run --rm debian:tools true": r"^removed$",
    "run -i debian:tools cat": r"^typed$",
    "run -it debian:tools true": r"/dev/(pts/\d|console)",
    "run -e NAME=value debian:tools env": r"^NAME=value$",
    "run --env-file variables debian:tools env": r"^NAME=of the file$",
    "run -v ./work:/work debian:tools ls /work": r"^note$",
    "run -v ./work:/work:ro debian:tools cat /proc/mounts": r"^\S+ /work \S+ ro,",
    "run --mount type=bind,source=./work,target=/work debian:tools ls /work": r"^note$",
    "run --tmpfs /scratch:size=1m debian:tools df /scratch": r"^tmpfs +1024 ",
    "run -w /usr debian:tools pwd": r"\A/usr\n\Z",
    "run -u 33:33 debian:tools id": r"^uid=33\(www-data\) gid=33\(www-data\)",
    "run --umask 0027 debian:tools true": r"^0027$",
    "run --unsetenv TERM debian:tools true": r"\A(?!(.*\n)*TERM=)(.*\n)*HOME=",
    "run --oom-score-adj 500 debian:tools true": r"^500$",
    "run --entrypoint ls debian:tools -l /": r"^drwx.* etc$",
    "run --network none debian:tools true": r"\A(?!{network})net:",
    "run --net host debian:tools true": r"\A{network}\n",
    "run --hostname box debian:tools hostname": r"\Abox\n\Z",
    "run -h box debian:tools hostname": r"\Abox\n\Z",
    "run --add-host db:10.0.0.1 debian:tools getent hosts db": r"^10\.0\.0\.1 +db$",
    "run --read-only debian:tools true": r"^\S+ / \S+ ro,",
    "run --cap-add NET_RAW debian:tools true": r"CapEff:\t00000000800425fb$",
    "run --cap-drop ALL debian:tools true": r"CapEff:\t0{{16}}$",
    "run --privileged debian:tools true": r"CapEff:\t{bounding}$",
    "run --memory 64m debian:tools true": r"^67108864$",
    "run --cpus 0.5 debian:tools true": r"^50000\b",
    "run --pids-limit 20 debian:tools true": r"^20$",
    "run --name box debian:tools true": r"/ocifs-box/files/hosts ",
    "run --device /dev/fuse debian:tools ls -l /dev/fuse": r"^crw.* /dev/fuse$",
    "waste --json debian:latest": r'\A\{{"hidden_bytes":\d+,',
    "inspect --raw debian:latest": r'"layers": ?\[',
    "inspect --config debian:latest": r'"diff_ids": ?\[',
    "ls -la debian:latest /etc": r"\Adrwxr-xr-x .* \.\n(?=(.*\n)*-rw-r--r-- .* passwd$)",
    "ls -lh debian:latest /etc": r"^-rw\S+ 1 0 +0 +\d\.\dK \d+-",
    "ls -ltr debian:latest /etc": r"^-rw\S+ .* passwd$",
    "ls -1 debian:latest /etc /usr": r"\A/etc:\n(.*\n)*passwd\n(.*\n)*\n/usr:\n(.*\n)*bin\n",
    "ls -lS debian:latest /etc": r"^-rw\S+ .* passwd$",
    "ls -dF debian:latest /bin": r"\A/bin@\n\Z",
    "ls -Ri debian:latest /opt": r"\A/opt:\n *\d+ \S",
    "find debian:latest /etc -name '*.conf'": r"\A(/etc/\S*\.conf\n)+\Z",
    "find debian:latest /etc -maxdepth 1 -type f": r"\A(/etc/[^/\n]+\n)+\Z",
    "find debian:latest /etc -print0": r"\A/etc\0(.|\n)*/etc/passwd\0[^\n]*\0\Z",
    "find debian:latest /etc -printf '%p %s'": r"/etc/passwd \d+/etc",
    "find debian:latest /etc -name ssl -prune -o -print": r"\A(?!(.*\n)*/etc/ssl)(.*\n)*/etc/passwd\n",
    "grep -rin debian debian:latest /etc/os-release": r'^(/etc/os-release:)?1:PRETTY_NAME="Debian',
    "grep -E '^ro+t:' debian:latest /etc/passwd": r"\Aroot:x:0:0:.*\n\Z",
    "grep -ow root debian:latest /etc/passwd": r"\A(root\n)+\Z",
    "grep -A1 -B1 root debian:latest /etc/passwd": r"\Aroot:.*\ndaemon:",
    "grep -c root debian:latest /etc/passwd": r"\A1\n\Z",
    "grep -hv root debian:latest /etc/passwd": r"\A(?!(.*\n)*root:)daemon:",
    "grep -q -e root -e nobody debian:latest /etc/passwd": r"\A\Z",
    "stat -c '%a %n' debian:latest /etc/passwd": r"\A644 /etc/passwd\n\Z",
    "du -sh debian:latest /usr/share": r"\A[\d.]+M\t/usr/share\n\Z",
    "du -ch --max-depth=1 debian:latest /etc": r"^[\d.]+[KM]\t/etc/\w+\n(.*\n)*[\d.]+[KM]\ttotal\n\Z",
    "tree -L 2 debian:latest /etc": r"\A/etc\n├── ",
    "tree -P '*.conf' -I 'ssl*' debian:latest /etc": r"\A(?!(.*\n)*.* ssl)(.*\n)*.*── \S+\.conf\n",
    "head -n 3 debian:latest /etc/passwd": r"\Aroot:.*\ndaemon:.*\nbin:.*\n\Z",
    "tail -n 3 debian:latest /etc/passwd": r"\A(?!root)(\S+:.*\n){{3}}\Z",
    "diff -ru debian:latest~1 debian:latest /etc/issue": r"^-Debian(.*\n)*\+replaced\n",
    "diff -rq debian:latest~1 debian:latest /etc/issue": r"\AFiles \S+:/etc/issue and \S+:/etc/issue differ\n\Z",
    "cp -a debian:latest /etc/cron.daily copy": r"\A\Z",
    "cp debian:latest:/etc/passwd -": r"\Aroot:.*\n(.*\n)*www-data:",
}
"""A regular expression for what a row that works prints, line by line; braces are doubled."""


class Row(NamedTuple):
    words: list[str]
    result: str

    @property
    def command(self) -> str:
        return " ".join(word if re.fullmatch(r"[\w./:=,~-]+", word) else f"'{word}'" for word in self.words)

    @property
    def works(self) -> bool:
        return self.result.startswith("works")


def _rows() -> Iterator[Row]:
    section = _DOCUMENT.read_text().partition("## Flags from other tools\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| ") and "`ocifs " in line:
            match = _ROW.fullmatch(line)
            assert match, line
            yield Row(shlex.split(match[2])[1:], match[3].strip("` "))


ROWS = list(_rows())


@pytest.fixture
def directory(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what the table names, as the current one."""
    (world.home / "work").mkdir()
    (world.home / "work/note").touch()
    (world.home / "variables").write_text("NAME=of the file\n")
    monkeypatch.chdir(world.home)
    monkeypatch.setenv("OCIFS_CACHE_DIR", str(world.home / ".cache/ocifs"))
    return world.home


def _check(row: Row, status: int, out: str, errors: str, names: Mapping[str, str]) -> str | None:
    """Return what is wrong with the outcome of a row."""
    if not row.works:
        return None if status == 2 and row.result in errors else f"{row.command}: {status} {errors!r}"
    pattern = EXPECTED[row.command].format(**names)
    good = status == (row.words[0] == "diff") and not errors and re.search(pattern, out, re.MULTILINE)
    return None if good else f"{row.command}: {status} {errors!r} {out[:1000]!r}"


def _names() -> dict[str, str]:
    """Return what patterns name: the network namespace, and the capabilities that this process may give."""
    status = Path("/proc/self/status").read_text()
    bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd"))
    return {"network": re.escape(os.readlink("/proc/self/ns/net")), "bounding": bounding}


def _run(ocifs: Ocifs, row: Row) -> Result:
    """Run a container; on a terminal of script(1) if the row asks for one."""
    words = list(row.words)
    probe = next((PROBES[word] for word in words if word in PROBES), None)
    if words[-1] == "true" and probe:
        words[-1:] = ["sh", "-c", probe]
    if "-it" in words:
        command = ["script", "-qec", shlex.join(ocifs.command(*words)), "/dev/null"]
    elif "-i" in words:
        command = ocifs.command(*words)
    else:
        return ocifs.run(*words)
    typed = b"typed\n" if "-i" in words else b""
    ran = subprocess.run(
        command, input=typed, capture_output=True, env=ocifs.variables(), timeout=120, check=False, cwd=ocifs.home
    )
    return Result(ran.returncode, ran.stdout, ran.stderr.decode())


def test_there_are_sixty_and_each_that_works_has_a_pattern() -> None:
    assert len(ROWS) >= 60
    assert {row.command for row in ROWS if row.works} == EXPECTED.keys()


def test_commands_without_a_container(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for row in ROWS:
        if row.words[0] != "run":
            status = run(row.words, None)
            wrong.append(_check(row, status, *capfd.readouterr(), {}))
    assert [each for each in wrong if each] == []
    assert (directory / "copy/dpkg").stat().st_mode & 0o111


def test_containers(directory: Path, ocifs: Ocifs, root: None, runc: None) -> None:
    names = _names()
    wrong = [
        _check(row, result.code, result.text, result.err, names)
        for row in ROWS
        if row.words[0] == "run"
        for result in [_run(ocifs, row)]
    ]
    assert [each for each in wrong if each] == []
    assert ocifs.leftovers() == []
