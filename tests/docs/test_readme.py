"""What the README shows is what happens."""

import re
import subprocess
import sys
from pathlib import Path

import samestep as ss
from samestep.proof import verify

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_example_prints_what_it_says():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    (expected,) = re.findall(r"```python\n.*?```\n\n```text\n(.*?)```", README, re.S)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == expected
    assert len([line for line in code.splitlines() if line]) == 10


def test_certificate_is_the_one_that_verify_prints():
    result = verify.run(lambda line: None)
    assert not result["failures"]
    assert result["certificate"] in README


def test_every_optimizer_and_link_is_there():
    public = [optimizer.__name__ for optimizer in ss.optimizers.OPTIMIZERS if hasattr(ss, optimizer.__name__)]
    assert len(public) >= 6
    for name in public:
        assert f"| `{name}`" in README
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (Path(__file__).parents[2] / link).exists(), link
