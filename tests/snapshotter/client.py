"""A client of a snapshotter, like containerd, and a snapshotter in the process of the test."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from ocifs.mount.mountinfo import is_below, mount_table
from ocifs.mount.options import MountOptions
from ocifs.options import Options
from ocifs.snapshotter import snapshots_pb2 as pb
from ocifs.snapshotter.database import StepHook
from ocifs.snapshotter.server import SERVICE
from ocifs.snapshotter.serving import AccessOf, listening, open_snapshots
from ocifs.snapshotter.settings import SnapshotterSettings
from ocifs.snapshotter.snapshots import Snapshots

Answer = TypeVar("Answer", bound=Message)
Labels = Mapping[str, str]


class Client:
    """Calls a snapshotter; a failure is a `grpc.RpcError`."""

    def __init__(self, address: Path) -> None:
        self.channel = grpc.insecure_channel(f"unix:{address}")

    def call(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        call = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        made: Answer = call(request, timeout=60)
        return made

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[pb.Mount]:
        request = pb.CreateRequest(key=key, parent=parent, labels=labels)
        return [*self.call("Prepare", request, pb.MountsResponse).mounts]

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> list[pb.Mount]:
        request = pb.CreateRequest(key=key, parent=parent, labels=labels)
        return [*self.call("View", request, pb.MountsResponse).mounts]

    def mounts(self, key: str) -> list[pb.Mount]:
        return [*self.call("Mounts", pb.KeyRequest(key=key), pb.MountsResponse).mounts]

    def commit(self, name: str, key: str, labels: Labels | None = None) -> None:
        self.call("Commit", pb.CommitRequest(name=name, key=key, labels=labels), pb.Empty)

    def remove(self, key: str) -> None:
        self.call("Remove", pb.KeyRequest(key=key), pb.Empty)

    def cleanup(self) -> None:
        self.call("Cleanup", pb.KeyRequest(), pb.Empty)

    def stat(self, key: str) -> pb.Info:
        return self.call("Stat", pb.KeyRequest(key=key), pb.InfoResponse).info

    def update(self, info: pb.Info, *paths: str) -> pb.Info:
        request = pb.UpdateRequest(info=info, update_mask=FieldMask(paths=paths))
        return self.call("Update", request, pb.InfoResponse).info

    def usage(self, key: str) -> tuple[int, int]:
        answer = self.call("Usage", pb.KeyRequest(key=key), pb.UsageResponse)
        return answer.size, answer.inodes

    def walk(self, *filters: str) -> list[pb.Info]:
        call = self.channel.unary_stream(
            f"/{SERVICE}/List",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.ListResponse.FromString,
        )
        return [info for page in call(pb.ListRequest(filters=filters), timeout=60) for info in page.info]

    def names(self, *filters: str) -> list[str]:
        return sorted(info.name for info in self.walk(*filters))


@dataclass
class Snapshotter:
    """A snapshotter that runs in this process."""

    client: Client
    snapshots: Snapshots
    settings: SnapshotterSettings

    @property
    def root(self) -> Path:
        return self.settings.root


def settings_in(
    directory: Path,
    options: Options | None = None,
    *,
    engine: str = "auto",
    prefetch: bool = True,
    settings: Mapping[str, object] | None = None,
) -> SnapshotterSettings:
    """Return the settings of a snapshotter whose files are in `directory`, without the service of ocifs."""
    return SnapshotterSettings(
        root=directory / "root",
        address=directory / "run" / "s.sock",
        options=options or Options(),
        mounting=MountOptions(engine=engine, prefetch=prefetch),  # type: ignore[arg-type]
        **{"service": False, **(settings or {})},  # type: ignore[arg-type]
    )


@contextmanager
def running(
    directory: Path,
    options: Options | None = None,
    *,
    engine: str = "auto",
    prefetch: bool = True,
    access: AccessOf | None = None,
    step: StepHook = lambda name: None,
    settings: Mapping[str, object] | None = None,
) -> Iterator[Snapshotter]:
    """Run a snapshotter whose files are in `directory`; it does not start the service of ocifs."""
    chosen = settings_in(directory, options, engine=engine, prefetch=prefetch, settings=settings)
    try:
        with open_snapshots(chosen, access, step) as snapshots, listening(chosen, snapshots):
            client = Client(chosen.address)
            with client.channel:
                yield Snapshotter(client, snapshots, chosen)
    finally:
        for entry in mount_table():
            if is_below(entry.mountpoint, str(directory)):
                subprocess.run(["umount", "-l", entry.mountpoint], check=True)


@contextmanager
def mounted(mounts: list[pb.Mount], where: Path) -> Iterator[Path]:
    """Make the mounts of a snapshot, as containerd does; its own mount(2) shortens no options."""
    where.mkdir(exist_ok=True)
    (mount,) = mounts
    options = ",".join(mount.options).replace("rbind", "bind")
    run = ["mount", "-t", mount.type, "-o", options, mount.source, str(where)]
    subprocess.run(run, check=True)
    if mount.type == "bind" and "ro" in mount.options:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def status_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    """Return the name of the status of a failure."""
    return str(error.value.code().name)
