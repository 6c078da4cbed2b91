"""The Python of the pages that need jax."""

import pytest

import samestep as ss

for package in ("jax", "optax"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'samestep[jax-test]'")
if not ss._core.xla_calls():
    pytest.skip("samestep was compiled without jaxlib's headers", allow_module_level=True)

import snippets


@pytest.mark.parametrize("page", snippets.pages_with("jax"), ids=lambda page: page.name)
def test_python_runs_and_prints_what_the_page_says(page):
    snippets.run(page, [one for one in snippets.snippets(page) if snippets.package_of(one) == "jax"])
