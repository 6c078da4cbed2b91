"""The command line from outside: what is printed, what is written, and the exit code of every error."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import samestep as ss
from samestep import cli, report, table
from samestep.optimizers import OPTIMIZERS
from samestep.render import Style, as_text
from text_problems import diabetes

HOUSES = "size,rooms,age,price\n70,3,12,210\n90,4,40,272\n120,4,3,341\n55,2,60,150\n101,5,22,300\n"


def samestep(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "samestep", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        timeout=120,
        check=False,
    )


@pytest.fixture
def houses(tmp_path):
    path = tmp_path / "houses.csv"
    path.write_text(HOUSES)
    return path


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "houses.csv"
    path.write_text(HOUSES)
    return report.run_demo(table.read_csv(path, "price"))


class TestDemo:
    @pytest.fixture(scope="class")
    @staticmethod
    def shipped(tmp_path_factory):
        figure = tmp_path_factory.mktemp("figure") / "curves.png"
        done = samestep("demo", "--json", "--plot", figure)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # no terminal, no progress bar
        return json.loads(done.stdout), figure.read_bytes()

    def test_problem(self, shipped):
        problem = shipped[0]["problem"]
        assert (problem["name"], problem["rows"], len(problem["columns"])) == ("diabetes", 442, 10)
        assert problem["beta"] == pytest.approx(4.0242107502, rel=1e-9)
        assert problem["mu"] == pytest.approx(0.0085607298, rel=1e-8)
        assert problem["kappa"] == pytest.approx(470.077999, rel=1e-8)
        assert problem["max_step"] == pytest.approx(0.4969918635, rel=1e-9)
        assert problem["first_loss"] == pytest.approx(1310504.562217, rel=1e-12)
        assert problem["optimum"] == pytest.approx(631992.892817, rel=1e-12)

    def test_every_optimizer_arrives_with_the_references_bits(self, shipped):
        runs = shipped[0]["optimizers"]
        assert [run["optimizer"] for run in runs] == [rule.__name__ for rule in OPTIMIZERS]
        for run in runs:
            assert run["reached"], run
            assert run["gap"] <= 1e-6
            assert run["bits_equal"], run
            assert run["differs_at"] is None
            assert run["microseconds_per_step"] > 0
        steps = {run["optimizer"]: run["steps"] for run in runs}
        assert steps["SGD"] == pytest.approx(1565, abs=1)
        assert steps["Momentum"] == pytest.approx(132, abs=1)
        assert steps["NAG"] == pytest.approx(132, abs=1)
        # Not smooth in the rounding of a gradient, which the contract does not cover yet.
        assert 1500 < steps["AdaGrad"] < 2100
        assert 8000 < steps["RMSProp"] < 12000
        assert 250 < steps["Adam"] < 360

    def test_both_sides_of_the_edge(self, shipped):
        below, above = shipped[0]["edge"]
        assert (below["times_beta"], above["times_beta"]) == (1.99, 2.01)
        assert below["lr"] * shipped[0]["problem"]["beta"] == pytest.approx(1.99)
        assert below["passed"]
        assert below["gap"] < 1e-9
        assert above["passed"]
        assert above["gap"] > 1e16
        assert shipped[0]["passed"]

    def test_figure(self, shipped):
        assert shipped[1].startswith(b"\x89PNG")
        assert len(shipped[1]) > 20_000

    def test_a_table_of_ones_own(self, houses):
        done = samestep("demo", "--csv", houses, "--target", "price")
        assert done.returncode == 0, done.stderr
        assert "houses.csv: 5 rows, 3 columns to predict price" in done.stdout
        assert done.stdout.count("all equal") == 6
        assert done.stdout.count("PASS") == 3
        for word in ("β", "μ", "κ", "2/β", "eps inside", "heavy_ball", "1.99/β", "2.01/β"):
            assert word in done.stdout
        assert "\033" not in done.stdout  # no terminal, no colours
        assert max(map(len, done.stdout.splitlines())) <= 100

    def test_a_terminal_without_greek_letters(self, houses):
        done = samestep("demo", "--csv", houses, "--target", "price", PYTHONIOENCODING="ascii")
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
        assert "1.99/beta" in done.stdout

    @pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
    def test_names_with_any_letters(self, encoding, tmp_path):
        path = tmp_path / "größe$_$.csv"
        path.write_text("größe,価格\n1,2\n2,3\n4,4\n", "utf-8")
        plot = tmp_path / "a.svg"
        done = samestep("demo", "--csv", path, "--target", "価格", "--plot", plot, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert ("predict 価格" if encoding == "utf-8" else "predict ??") in done.stdout
        assert plot.exists()

    def test_a_reader_that_has_seen_enough(self, houses):
        command = [sys.executable, "-m", "samestep", "demo", "--csv", houses, "--target", "price"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait() == 0


class TestTables:
    """Every line of a table that can be wrong: exit code 2, and a message that says where."""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "cannot be read: No such file or directory"),
            ("", "is empty, expected a first line with the names of the columns"),
            (b"\xff\xfesize", "is not UTF-8 text"),
            ("size,price\n1,2\n", "got 1 rows below the header, expected at least two"),
            ("size,price\n", "got 0 rows below the header, expected at least two"),
            ("size,cost\n1,2\n2,3\n", "no column 'price'; it has 'size', 'cost'"),
            ("size,size,price\n1,1,2\n2,3,3\n", "has two columns named 'size'"),
            ("size,price\n1,2\nbig,3\n", "row 2 (line 3), column 'size': got 'big', expected a number"),
            ("size,price\n1,2\n\n2,many\n", "row 2 (line 4), column 'price': got 'many'"),
            ("size,price\n1, \n2,3\n", "row 1 (line 2), column 'price': the value is missing"),
            ("size,price\nNaN,1\n2,3\n", "row 1 (line 2), column 'size': the value is missing"),
            ("size,price\n1,2\n2,-inf\n", "row 2 (line 3), column 'price': got '-inf', expected a finite"),
            ("size,price\n1,2\n1_0,3\n", "row 2 (line 3), column 'size': got '1_0'"),
            ("size,price\n1,2\n2\n", "row 2 (line 3): got 1 cells, expected 2"),
            ("size,price\n1,2\n2,3,4\n", "row 2 (line 3): got 3 cells, expected 2"),
            ('size,price\n1,"2\n', "is not CSV: unexpected end of data"),
            ("size,price\n1,5\n2,5\n", "column 'price' is 5 in every row; a target must vary"),
            ("size,price\n7,1\n7,2\n", "no column but the target 'price' varies"),
            ("price\n1\n2\n", "no column but the target 'price' varies"),
            ("size,price\n-1,1\n0,0\n1,1\n", "no column tells anything of 'price'"),
            ("size,price\n1,1e200\n2,2e200\n", "add up to inf, too far from 1 for float64"),
            ("size,price\n1,1e-200\n2,2e-200\n", "add up to 0, too far from 1 for float64"),
        ],
    )
    def test_errors(self, content, message, tmp_path):
        path = tmp_path / "table.csv"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        done = samestep("demo", "--csv", path, "--target", "price")
        assert done.returncode == 2
        assert done.stdout == ""
        assert message in done.stderr
        assert str(path) in done.stderr or path.name in done.stderr
        assert done.stderr.startswith("samestep demo: ")
        assert "Traceback" not in done.stderr

    def test_a_folder(self, tmp_path):
        done = samestep("demo", "--csv", tmp_path, "--target", "price")
        assert done.returncode == 2
        assert f"{tmp_path}: cannot be read: Is a directory" in done.stderr

    def test_columns_are_centred_and_scaled(self, tmp_path):
        path = tmp_path / "table.csv"
        # A byte-order mark, spaces, an empty line, a constant column and one near the largest number.
        path.write_text("\ufeffa, b ,one,y\n1,1e308,3,0\n\n 2 ,-1e308,3,4\n6,1e308,3,8\n", "utf-8")
        got = table.read_csv(path, "y")
        assert (got.name, got.columns, got.target, got.left_out) == ("table.csv", ("a", "b"), "y", ("one",))
        assert got.y.tolist() == [-4.0, 0.0, 4.0]
        assert got.Phi[:, 0] == pytest.approx(np.array([-2, -1, 3]) / 14**0.5, rel=1e-14)
        assert got.Phi[:, 1] == pytest.approx(np.array([1, -2, 1]) / 6**0.5, rel=1e-14)

    def test_the_shipped_table(self):
        got = table.diabetes()
        assert got.Phi.tobytes() == diabetes().Phi.tobytes()
        assert got.y.tobytes() == diabetes().y.tobytes()


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "the following arguments are required: command"),
            (["dmeo"], "invalid choice: 'dmeo'"),
            (["demo", "--colour"], "unrecognized arguments: --colour"),
            (["demo", "--csv", "houses.csv"], "--csv needs --target as well"),
            (["demo", "--target", "price"], "--target needs --csv as well"),
            (["demo", "--plot"], "expected one argument"),
            (["demo", "--plot", "curves.tiger"], "expected a name that ends in"),
            (["demo", "--plot", "curves"], "expected a name that ends in"),
            (["demo", "--plot", "no/such/folder/curves.png"], "cannot be written"),
        ],
    )
    def test_errors(self, arguments, message):
        done = samestep(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert message in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_figure_where_a_folder_is(self, tmp_path):
        (tmp_path / "taken.png").mkdir()
        done = samestep("demo", "--plot", tmp_path / "taken.png")
        assert done.returncode == 2
        assert "cannot be written" in done.stderr

    def test_help(self):
        done = samestep("--help")
        assert done.returncode == 0
        for command in ("demo", "info", "verify"):
            assert command in done.stdout

    @pytest.mark.parametrize(
        ("module", "arguments", "purpose"),
        [("sklearn", [], "the diabetes data"), ("matplotlib", ["--plot", "a.png"], "a figure")],
    )
    def test_a_package_that_is_not_there(self, module, arguments, purpose, tmp_path):
        (tmp_path / f"{module}.py").write_text("raise ImportError('not for this test')")
        path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
        done = samestep("demo", *arguments, PYTHONPATH=path)
        assert done.returncode == 2
        assert f"{purpose} needs {module}" in done.stderr
        assert "pip install 'samestep[demo]'" in done.stderr
        assert "Traceback" not in done.stderr

    def test_nothing_optional_is_imported_unasked(self):
        code = (
            "import sys, samestep.cli; "
            "sys.exit(bool({'sklearn', 'tqdm', 'matplotlib', 'scipy'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestInfo:
    def test_json(self):
        done = samestep("info", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == ss.info()

    def test_text(self):
        done = samestep("info", SAMESTEP_ISA="baseline", SAMESTEP_THREADS="3")
        assert done.returncode == 0, done.stderr
        lines = dict(line.split("  ", 1) for line in done.stdout.splitlines())
        lines = {name: value.strip() for name, value in lines.items()}
        assert lines["isa"] == "baseline"
        assert lines["threads"] == "3"
        assert lines["contract"] == str(ss.info()["contract"])
        assert lines["isas"] == ", ".join(ss.info()["isas"])
        assert "sklearn" in lines["optional"]


class TestVerify:
    def test_a_line_a_rule_and_the_certificate_last(self):
        done = samestep("verify", SAMESTEP_ISA="baseline", SAMESTEP_THREADS="2")
        assert done.returncode == 0, done.stdout + done.stderr
        *rules, last = done.stdout.splitlines()
        assert len(rules) == 2 * sum(max(1, len(rule.forms)) for rule in OPTIMIZERS)  # two dtypes
        assert all(line.startswith("ok") for line in rules)
        assert re.fullmatch(
            rf"certificate: contract {ss.info()['contract']}, sha256 [0-9a-f]{{64}}, "
            r"[\d,]+ configurations, all bits as promised",
            last,
        )

    @pytest.mark.parametrize("arguments", [["verify"], ["verify", "--json"]])
    def test_a_difference_is_exit_code_1(self, arguments, monkeypatch, capsys):
        def run(report):
            report("FAIL sgd float32")
            return {"contract": 1, "certificate": "0" * 64, "configurations": 3, "failures": ["sgd: 1 != 2"]}

        monkeypatch.setattr(cli.verify, "run", run)
        assert cli.main(arguments) == 1
        printed = capsys.readouterr().out
        if "--json" in arguments:
            assert json.loads(printed)["failures"] == ["sgd: 1 != 2"]
        else:
            assert printed.splitlines()[0] == "FAIL sgd float32"
            assert printed.splitlines()[-1].endswith("3 configurations, 1 FAILED")


class TestChecks:
    """That the demo's checks can fail, and what is seen then."""

    def test_a_step_with_other_bits_is_noticed(self, monkeypatch, houses):
        step, calls = ss.NAG.step, []

        def nudge(opt, g):
            step(opt, g)
            if opt.backend == "cpu":
                calls.append(opt)
                if len(calls) == 3:
                    opt.params[0][1] = np.nextafter(opt.params[0][1], np.inf)

        monkeypatch.setattr(ss.NAG, "step", nudge)
        demo = report.run_demo(table.read_csv(houses, "price"))
        found = {run.optimizer: run.differs_at for run in demo.runs}
        assert found == {
            "SGD": None,
            "Momentum": None,
            "NAG": 3,
            "AdaGrad": None,
            "RMSProp": None,
            "Adam": None,
        }
        assert not demo.passed
        text = as_text(demo, Style())
        assert "differ at step 3" in text
        assert "FAIL" in text

    def test_a_difference_in_the_state_alone_is_noticed(self):
        a, b = (ss.Adam(np.ones(3)) for _ in range(2))
        assert report._same_bits(a, b)
        a.state["v"][0][2] = -0.0
        assert not report._same_bits(a, b)

    def test_an_edge_that_is_none_is_exit_code_1(self, small_demo, monkeypatch, capsys, houses):
        below, above = small_demo.edges
        assert (below.passed, above.passed) == (True, True)
        assert not dataclasses.replace(below, gap=1.0).passed
        assert not dataclasses.replace(above, gap=1.0).passed
        assert dataclasses.replace(above, gap=float("nan")).passed  # so far up that it overflowed
        failed = dataclasses.replace(small_demo, edges=[below, dataclasses.replace(above, gap=0.5)])
        monkeypatch.setattr(cli, "run_demo", lambda table, announce: failed)
        assert cli.main(["demo", "--csv", str(houses), "--target", "price"]) == 1
        assert capsys.readouterr().out.count("FAIL") == 1
        assert cli.main(["demo", "--csv", str(houses), "--target", "price", "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["passed"] is False

    def test_a_run_that_does_not_arrive(self, small_demo):
        run = dataclasses.replace(small_demo.runs[0], reached=False)
        text = as_text(dataclasses.replace(small_demo, runs=[run, *small_demo.runs[1:]]), Style())
        assert f"> {run.steps:,}" in text
        assert "> : not there after 20,000 steps" in text

    def test_colours(self, small_demo):
        text = as_text(small_demo, Style(color=True))
        assert text.count("\033[1;32mPASS\033[0m") == 3

    def test_columns_that_depend_on_each_other(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("a,b,y\n1,-2,1\n2,-4,3\n3,-6,2\n")
        demo = report.run_demo(table.read_csv(path, "y"))
        assert demo.passed
        assert all(run.reached for run in demo.runs)
        assert demo.problem.mu == 0.0
        text = as_text(demo, Style())
        assert "only 1 of 2 directions have a curvature" in text
        assert "∞" in text
        assert cli._jsonable(demo.as_dict())["problem"]["kappa"] is None

    def test_the_bar_is_told_every_stage(self, houses):
        stages = []
        report.run_demo(table.read_csv(houses, "price"), stages.append)
        assert len(stages) == report.STAGES
