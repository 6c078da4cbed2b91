"""One quick report for all tests of the report: half a minute at most."""

import pytest

from samestep.commands import report


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A quick report, its page, and the stages that were announced."""
    stages = []
    result = report.run_report(quick=True, announce=stages.append)
    path = tmp_path_factory.mktemp("report") / "report.html"
    result.write(path)
    return result, path, stages
