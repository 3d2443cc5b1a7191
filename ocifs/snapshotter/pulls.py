"""Decide during a pull whether an image is served lazily, and mount it.

containerd sends a request for each layer, the base first, and downloads the layers that the snapshotter does not have.
So the first request decides for the image: ocifs reads manifest and config, looks up published indexes, and answers all
layers alike. It answers once the image is mounted, because containerd never fetches a layer that was answered: so an
image that cannot be mounted here is left to containerd. A mount that takes long continues in the background. ocifs
fetches and indexes layers without an index within the request, up to a size that the operator chooses: so the pull
waits for them, and no container does.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from ocifs.errors import MountError, OcifsError, ShortageError, missing_extra, printable_path, shortage
from ocifs.image.opening import FoundImage
from ocifs.pool import start
from ocifs.snapshotter.database import StepHook
from ocifs.snapshotter.images import Images
from ocifs.snapshotter.metadata import ImageSource, Snapshot, stands_for
from ocifs.snapshotter.requested_image import TARGET, RequestedImage, find_requested, requested_image
from ocifs.snapshotter.settings import SnapshotterSettings
from ocifs.sources.reference import Reference
from ocifs.sources.registry.access import Access
from ocifs.spec.digest import chain_id

_PLANS_MAX: Final = 1000
_PLAN_SECONDS: Final = 600.0
"""Seconds after its last use for which a plan holds; containerd may take that long between two layers."""
_REFUSAL_SECONDS: Final = 30.0
"""Seconds for which an image is left to containerd, before the registry is asked again."""
_SHARED_SECONDS: Final = 5.0
"""Seconds in which pulls that begin share a decision and its mount; a later pull is decided, and mounted, again."""
_log = logging.getLogger(__name__)


class PullPlan(NamedTuple):
    """An image that is served lazily."""

    repository: str
    manifest: str
    chains: tuple[str, ...]
    """The chain ID of each layer, the base first."""
    layers: tuple[str, ...]
    """Digests of the layers."""


class _Deciding:
    """The decision for an image, for which several requests wait. The first one to call `decide` decides."""

    def __init__(self, patience: float) -> None:
        self.began = self.used = time.monotonic()
        self.is_decided = False
        self.plan: PullPlan | None = None
        """The decision; None: the image is left to containerd."""
        self._deadline = self.began + patience
        self._expected: PullPlan | None = None
        self._changed = threading.Condition()

    def expect(self, plan: PullPlan, seconds: float, *, decides: bool) -> None:
        """Let requests wait so long for the mount; if it `decides`, the plan is the decision after that time."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self._expected = plan if decides else None
            self._changed.notify_all()

    def decide(self, plan: PullPlan | None) -> bool:
        """Decide, unless that was done before; return whether it was not."""
        with self._changed:
            if self.is_decided:
                return False
            self.plan = plan
            self.is_decided = True
            self._changed.notify_all()
        return True

    def wait(self) -> PullPlan | None:
        """Return the decision. Raises TimeoutError if there is none in time."""
        with self._changed:
            while not self.is_decided and (left := self._deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            expected, is_decided = self._expected, self.is_decided
        if not is_decided:
            if expected is None:
                raise TimeoutError
            self.decide(expected)
        return self.plan


class Pulls:
    """The images that are being pulled."""

    def __init__(
        self,
        settings: SnapshotterSettings,
        images: Images,
        access: Callable[[Reference], Access] | None = None,
        step: StepHook = lambda name: None,
    ) -> None:
        """Use the credentials that `access` returns for a reference, else those of the options."""
        self._settings = settings
        self._images = images
        self._access = access
        self._step = step
        self._lock = threading.Lock()
        self._deciding: OrderedDict[str, _Deciding] = OrderedDict()

    def source_of(self, labels: Mapping[str, str], parent: Snapshot | None) -> ImageSource | None:
        """Return the image that serves the snapshot with these labels on `parent`; None: containerd unpacks it.

        It is served only if its chain ID is one of the image's, and the parent stands for the layers below.
        """
        try:
            requested = requested_image(labels)
        except OcifsError as error:
            _log.warning("a pull is left to containerd: its labels are malformed: %s", error)
            return None
        if requested is None:
            return None
        plan = self._plan(requested, begins=parent is None)
        if plan is None or labels[TARGET] not in plan.chains:
            return None
        depth = plan.chains.index(labels[TARGET])
        if requested.layer is not None and requested.layer != plan.layers[depth]:
            return None
        below = plan.chains[depth - 1] if depth else None
        if (below is None) != (parent is None) or (below and parent and not stands_for(parent, below)):
            return None
        return ImageSource(plan.repository, plan.manifest, depth + 1, len(plan.chains))

    def _plan(self, requested: RequestedImage, *, begins: bool) -> PullPlan | None:
        """Return the plan for an image, for its first layer if the pull `begins`; decide unless it is known."""
        with self._lock:
            deciding = self._known(requested, begins=begins)
            is_new = deciding is None
            if deciding is None:
                deciding = self._deciding[requested.reference.text] = _Deciding(self._settings.decision_seconds)
                while len(self._deciding) > _PLANS_MAX:
                    self._deciding.popitem(last=False)
            deciding.used = time.monotonic()
        if is_new:
            try:
                start(lambda: self._decide(requested, deciding))
            except (ShortageError, MemoryError) as error:
                deciding.decide(None)
                _log.warning("%s: left to containerd: %s", printable_path(requested.name), error)
        try:
            return deciding.wait()
        except TimeoutError:
            _log.warning("%s: left to containerd: the registry is too slow", printable_path(requested.name))
            return None

    def _known(self, requested: RequestedImage, *, begins: bool) -> _Deciding | None:
        """Return the decision for an image if it still holds. A tag may have moved to another image meanwhile."""
        deciding = self._deciding.get(requested.reference.text)
        if deciding is None or not deciding.is_decided:
            return deciding
        now, plan = time.monotonic(), deciding.plan
        holds = (
            now < deciding.used + _PLAN_SECONDS
            and (plan is not None or now < deciding.began + _REFUSAL_SECONDS)
            and (not begins or now < deciding.began + _SHARED_SECONDS)
            and (plan is None or requested.layer is None or requested.layer in plan.layers)
            and (plan is None or not begins or self._images.is_intact(plan.chains[-1]))
        )
        return deciding if holds else None

    def _decide(self, requested: RequestedImage, deciding: _Deciding) -> None:
        """Decide, and mount the image if it is served; runs in a thread of its own."""
        try:
            self._step("decide")
            plan = self._mounted_plan(requested, deciding)
            self._step("decided")
            deciding.decide(plan)
        except Exception as error:  # noqa: BLE001 - the boundary of this thread
            known = error if isinstance(error, OcifsError) else missing_extra(error) or shortage(error)
            reason = f"{type(error).__name__}: {error}" if known is None else str(known)
            if known is None:
                _log.error("%s: a defect of ocifs", printable_path(requested.name), exc_info=error)
            if deciding.decide(None):
                _log.warning("%s: left to containerd: %s", printable_path(requested.name), reason)
            else:
                _log.warning("%s: not mounted during the pull: %s", printable_path(requested.name), reason)

    def _mounted_plan(self, requested: RequestedImage, deciding: _Deciding) -> PullPlan | None:
        """Return the plan for an image once it is mounted; None: its layers have no indexes.

        Layers without an index are fetched and indexed before the decision, so that no container waits for them.

        Raises:
            OcifsError: The image cannot be found, or not be mounted.
        """
        if (problem := self._images.mounting.problem()) is not None:
            raise MountError(problem)
        with find_requested(requested.reference, self._settings.options, self._access) as found:
            plan = self._plan_of(requested, found)
            if plan is not None:
                is_indexed = not found.unindexed
                seconds = self._settings.mount_seconds if is_indexed else self._settings.indexing_seconds
                deciding.expect(plan, seconds, decides=is_indexed)
                self._images.mount(plan.chains[-1], found)
        return plan

    def _plan_of(self, requested: RequestedImage, found: FoundImage) -> PullPlan | None:
        """Return the plan for an image that can be served lazily, else None."""
        resolved = found.resolved
        unindexed = sum(layer.descriptor.size for layer in found.unindexed)
        if not resolved.layers:
            return None
        if unindexed > self._settings.index_up_to:
            _log.info(
                "%s: left to containerd: %d of %d layers, with %d bytes, have no index", printable_path(requested.name),
                len(found.unindexed), len(resolved.layers), unindexed,
            )  # fmt: skip
            return None
        diff_ids = [layer.diff_id for layer in resolved.layers]
        return PullPlan(
            requested.reference.path,
            str(resolved.digest),
            tuple(str(chain_id(diff_ids[: count + 1])) for count in range(len(diff_ids))),
            tuple(str(layer.descriptor.digest) for layer in resolved.layers),
        )
