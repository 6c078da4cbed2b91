"""What the tests of the commands share."""

import fcntl
import pickle

import pytest

from samestep.commands import report


@pytest.fixture(scope="session")
def made(request, tmp_path_factory):
    """A quick report, its page, and the stages that were announced; one for all processes of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent
    file = folder / "report.pickle"
    with (folder / "report.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            stages = []
            file.write_bytes(pickle.dumps((report.run_report(quick=True, announce=stages.append), stages)))
    result, stages = pickle.loads(file.read_bytes())
    path = tmp_path_factory.mktemp("report") / "report.html"
    result.write(path)
    return result, path, stages
