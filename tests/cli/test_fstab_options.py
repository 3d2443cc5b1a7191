"""`-o` of `ocifs mount`, which takes the options of fstab(5) and its own."""

from pathlib import Path

import click
import pytest

from ocifs.cli.fstab_options import arguments, is_known, quoted, split
from ocifs.cli.mount import mount
from ocifs.cli.verbs import run


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (",,", []),
        ("ro,noexec", ["ro", "noexec"]),
        ("limit=layers=900,ro", ["limit=layers=900", "ro"]),
        ('log="/srv/a,b",ro', ["log=/srv/a,b", "ro"]),
        ('log="/srv/a', ["log=/srv/a"]),
    ],
)
def test_commas_separate_words_but_in_quotes(text: str, words: list[str]) -> None:
    assert split(text) == words
    assert split(",".join(map(quoted, words))) == words


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("rw,defaults,auto,noauto,nofail,_netdev", []),
        ("x-systemd.automount,x-systemd.idle-timeout=30,X-any,comment=mine", []),
        ("noatime,relatime,sync,async,default_permissions", []),
        ("engine=fuse,span-cache=1G,span_cache=2G", ["--engine=fuse", "--span-cache=1G", "--span-cache=2G"]),
        ("allow_other,replace,strict,no-prefetch", ["--allow-other", "--replace", "--strict", "--no-prefetch"]),
        ("limit=layers=900,limit=entries=9", ["--limit=layers=900", "--limit=entries=9"]),
        ("log=--foreground,tls-verify=false", ["--log=--foreground", "--tls-verify=false"]),
        ("suid,dev", ["--suid", "--dev"]),
        ("suid,dev,nosuid,exec", ["--dev"]),
        ("noexec,exec", []),
        ("exec,noexec", ["--noexec"]),
        ("suid,user", ["--noexec"]),
        ("user,suid,exec", ["--suid"]),
        ("users=1000", ["--noexec"]),
        ("owner", ["--noexec"]),
        ("remount,rw,keep", ["--remount", "--keep"]),
    ],
)
def test_means_options_of_the_command_line(options: str, expected: list[str]) -> None:
    assert arguments(split(options), mount.params) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ro,subvol=@", "unknown mount option 'subvol': see `ocifs help mount`"),
        ("foreground", "unknown mount option 'foreground': see `ocifs help mount`"),
        ("nosymfollow", "unknown mount option 'nosymfollow': see `ocifs help mount`"),
        ("a\nb", r"unknown mount option 'a\nb': see `ocifs help mount`"),
        ("=", "unknown mount option '': see `ocifs help mount`"),
        ("suid=1", "mount option 'suid' takes no value"),
        ("engine", "mount option 'engine' needs a value: engine=VALUE"),
    ],
)
def test_a_wrong_option_is_named(
    options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(click.UsageError):
        arguments(split(options), mount.params)
    assert not all(is_known(word, mount.params) for word in split(options))
    assert run(["mount", "-o", options, "image", str(tmp_path)], None) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"ocifs: {message}"


def test_the_command_line_prevails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = ["mount", "--engine", "none", "-oengine=fuse,ro", "image", str(tmp_path)]
    assert run(wrong, None) == 2
    assert "'none'" in capsys.readouterr().err
    with mount.make_context(
        "mount", ["-oengine=fuse", "--options", "span-cache=1M", "--span-cache=2M", "image"]
    ) as made:
        assert (made.params["engine"], made.params["span_cache"], made.params["exec"]) == ("fuse", 2 << 20, True)
