"""An interpreter beside the main one is refused in words that say what to do instead."""

import subprocess
import sys

import pytest

# CPython's module for it has had two names, and functions with other arguments.
CODE = """if True:
    import sys
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    {first}
    isolated = {isolated}
    if sys.version_info >= (3, 13):
        other = interpreters.create("isolated" if isolated else "legacy")
    else:
        other = interpreters.create(isolated=isolated)
    interpreters.run_string(other, '''if True:
        import sys
        sys.path[:] = {path!r}
        try:
            import samestep
        except ImportError as error:
            print(error)
    ''')
    interpreters.destroy(other)
    import samestep
    print(samestep.get_num_threads() > 0)
"""


@pytest.mark.parametrize("isolated", [True, False], ids=["its_own_lock", "the_main_one_s_lock"])
@pytest.mark.parametrize(
    "first", ["pass", "import samestep"], ids=["before_the_main_one", "after_the_main_one"]
)
def test_a_sub_interpreter_is_refused(isolated, first):
    code = CODE.format(isolated=isolated, first=first, path=sys.path)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)
    told = "samestep: this is a sub-interpreter, in which neither NumPy nor samestep works; use threads"
    assert (done.stderr, done.returncode) == ("", 0)
    refused, works = done.stdout.splitlines()
    assert refused.startswith(told)
    assert works == "True"
