import re
from contextlib import closing
from pathlib import Path

import pytest

from ocifs.errors import OcifsError
from ocifs.sources.directory import Directory
from tests.locking import Holder


def test_a_stopped_process_that_writes_to_it_blocks_no_other(tmp_path: Path) -> None:
    with closing(Directory.at(str(tmp_path))) as directory:
        with Holder(tmp_path) as writer:
            writer.stop()
            message = f"cannot write to {tmp_path}: process {writer.pid} is stopped while it writes there: continue it"
            with pytest.raises(OcifsError, match=re.escape(message)), directory.locked():
                pytest.fail("the block runs")
        with directory.locked():
            pass
