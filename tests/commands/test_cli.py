"""The command line: what is printed, what is written, and the exit code of every error."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

import samestep as ss
from samestep.commands import cli, demo, digits, table
from samestep.commands.digits_torch import Comparison, LibraryRun
from samestep.commands.output import jsonable
from samestep.commands.render import Style, as_text, comparison_as_text, digits_as_text
from samestep.optim.optimizers import OPTIMIZERS
from samestep.proof import golden
from text_problems import diabetes

HOUSES = "size,rooms,age,price\n70,3,12,210\n90,4,40,272\n120,4,3,341\n55,2,60,150\n101,5,22,300\n"


# Of the diabetes data; a change is a new contract version, as for golden.json.
STEPS = {"SGD": 1565, "Momentum": 132, "NAG": 132, "AdaGrad": 1779, "RMSProp": 9790, "Adam": 307}
DIGESTS = {
    "SGD": "fdc18475efc026a0",
    "Momentum": "1b45fcbd36fb55b6",
    "NAG": "116e44958494d5e7",
    "AdaGrad": "e42a8cb2be410e3e",
    "RMSProp": "c4bc0952275b5a87",
    "Adam": "8509c258f4b72e32",
}


def samestep(*arguments, launch=("-m", "samestep"), **environment):
    return subprocess.run(
        [sys.executable, *launch, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        timeout=120,
        check=False,
    )


@pytest.fixture
def refused(capfd):
    """A call of the command line in this process: exit code 2, nothing on stdout; what stderr says."""

    def call(*arguments):
        try:
            code = cli.main(list(map(str, arguments)))
        except SystemExit as end:  # argparse's
            code = end.code
        out, error = capfd.readouterr()
        assert (code, out) == (2, "")
        return error

    return call


def diabetes_digests(**environment):
    """Of the six runs, and what is shown of the problem."""
    done = samestep("demo", "--json", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout)
    return {run["optimizer"]: run["digest"][:16] for run in shown["optimizers"]}, shown["problem"]


@pytest.fixture
def houses(tmp_path):
    path = tmp_path / "houses.csv"
    path.write_text(HOUSES, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "houses.csv"
    path.write_text(HOUSES, encoding="utf-8")
    return demo.run_demo(table.read_csv(path, "price"))


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
            assert re.fullmatch("[0-9a-f]{64}", run["digest"])
        assert {run["optimizer"]: run["steps"] for run in runs} == STEPS
        assert {run["optimizer"]: run["digest"][:16] for run in runs} == DIGESTS

    @pytest.mark.more
    def test_digests_on_the_oldest_processor_and_two_threads(self):
        assert diabetes_digests(SAMESTEP_ISA="baseline", SAMESTEP_THREADS="2")[0] == DIGESTS

    @pytest.mark.more
    def test_digests_with_another_blas(self):
        """Its last bits reach the curvatures that are shown, but neither steps nor digests."""
        kernels = [diabetes_digests(OPENBLAS_CORETYPE=name) for name in ("Haswell", "Prescott", "Nehalem")]
        assert [digests for digests, _ in kernels] == [DIGESTS] * 3
        if len({str(problem) for _, problem in kernels}) == 1:
            pytest.skip("NumPy's BLAS gave the same bits with every OPENBLAS_CORETYPE")

    @pytest.mark.more
    def test_no_gap_is_so_near_the_goal_that_last_bits_decide(self):
        for run in demo.run_demo(table.diabetes()).runs:
            assert np.abs(run.gaps / demo.GOAL - 1).min() > 1e-9, run.optimizer

    @pytest.mark.usefixtures("isa", "threads")
    def test_a_run_again_from_what_is_printed(self, shipped):
        """The numbers in the JSON are all that a run is made of, on any machine."""
        data = table.diabetes()
        problem = ss.problems.MSE(data.Phi, data.y)
        for run in shipped[0]["optimizers"]:
            rule = getattr(ss, run["optimizer"])
            hyper = dict(run["hyper"])
            if "beta1" in hyper:
                hyper["betas"] = hyper.pop("beta1"), hyper.pop("beta2")
            if run["form"] is not None:
                hyper[rule.form_argument] = run["form"]
            made = ss.minimize(
                problem, np.zeros(10), lambda w, rule=rule, hyper=hyper: rule(w, **hyper), steps=run["steps"]
            )
            assert ss.digest(made.w) == run["digest"]

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
        assert len(re.findall(r"  [0-9a-f]{16}  equal$", done.stdout, re.M)) == 6
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

    @pytest.mark.parametrize("encoding", ["utf-8", pytest.param("ascii", marks=pytest.mark.more)])
    def test_names_with_any_letters(self, encoding, tmp_path):
        path = tmp_path / os.fsdecode("größe$_$.csv".encode())  # whatever the locale of the tests
        path.write_text("größe,価格\n1,2\n2,3\n4,4\n", encoding="utf-8")
        plot = tmp_path / "a.svg"
        target = os.fsdecode("価格".encode())
        done = samestep(
            "demo",
            "--csv",
            path,
            "--target",
            target,
            "--plot",
            plot,
            PYTHONIOENCODING=encoding,
            PYTHONUTF8="1",
        )
        assert done.returncode == 0, done.stderr
        assert ("predict 価格" if encoding == "utf-8" else "predict ??") in done.stdout
        assert plot.exists()

    @pytest.mark.more
    def test_a_file_whose_name_is_no_text(self, tmp_path):
        path = tmp_path / os.fsdecode(b"gr\xfc.csv")
        path.write_text("a,y\n1,2\n2,3\n4,4\n", encoding="utf-8")
        done = samestep("demo", "--csv", path, "--target", "y", "--plot", tmp_path / "a.svg")
        assert done.returncode == 0, done.stderr
        assert "gr\ufffd.csv: 3 rows" in done.stdout
        assert (tmp_path / "a.svg").exists()

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
            ("\n \n\n", "is empty, expected a first line with the names of the columns"),
            ("\nsize,price\n1,2\n2,many\n", "row 2 (line 4), column 'price': got 'many'"),
            ("size;price\n1,5;2\n2,5;3\n", "got one column, 'size;price', whose separator seems to be ';'"),
            ("size\tprice\n1\t2\n2\t3\n", "whose separator seems to be '\\t'; save it with commas"),
            ('"size";"price"\n1;2\n2;3\n', "is not CSV: ',' expected after '\"'; are the cells separated by"),
            (b"\xff\xfesize", "is not UTF-8 text"),
            ("size,price\n1,2\n", "got 1 row below the header, expected at least two"),
            ("size,price\n", "got 0 rows below the header, expected at least two"),
            ("size,cost\n1,2\n2,3\n", "no column 'price'; it has 'size', 'cost'"),
            ("size,size,price\n1,1,2\n2,3,3\n", "has two columns named 'size'"),
            ("size,price\n1,2\nbig,3\n", "row 2 (line 3), column 'size': got 'big', expected a number"),
            ("size,price\n1,2\n\n2,many\n", "row 2 (line 4), column 'price': got 'many'"),
            ("size,price\n1, \n2,3\n", "row 1 (line 2), column 'price': the value is missing"),
            ("size,price\nNaN,1\n2,3\n", "row 1 (line 2), column 'size': the value is missing"),
            ("size,price\n1,2\n2,-inf\n", "row 2 (line 3), column 'price': got '-inf', expected a finite"),
            ("size,price\n1,2\n1_0,3\n", "row 2 (line 3), column 'size': got '1_0'"),
            ("size,price\n1,2\n2\n", "row 2 (line 3): got 1 cell, expected 2"),
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
    def test_errors(self, content, message, tmp_path, refused):
        path = tmp_path / "table.csv"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        error = refused("demo", "--csv", path, "--target", "price")
        assert message in error
        assert path.name in error
        assert error.startswith("samestep demo: ")

    def test_an_error_from_outside(self, tmp_path):
        done = samestep("demo", "--csv", tmp_path / "none.csv", "--target", "price")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("samestep demo: ")
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                "city,price\nUlm,1\nBonn,2\n",
                "'price' varies (text, and left out: city); nothing to learn from",
            ),
            (
                "size,price\n1,low\n2,high\n",
                "row 1 (line 2), column 'price': got 'low', expected a number; mend",
            ),
            ("my size,price\n1,1\nbig,3\n", "mend the cell, or leave the column out: --drop 'my size'\n"),
            ("-size,price\n1,1\nbig,3\n", "mend the cell, or leave the column out: --drop=-size\n"),
            ("size,price\n1,1\n,3\n", "fill it in or remove the row, or leave the column out: --drop size\n"),
            ("size,price\n1,1\n1,\n", "the value is missing; fill it in or remove the row\n"),
            ("size,price\n1,1\ninf,3\n", "got 'inf', expected a finite number; mend the cell, or leave"),
            (
                "1,2\n2,4\n3,6\n",
                "the first line holds numbers alone (1, 2), expected the names of the columns",
            ),
            ("70,3,12,210\n90,4,40,272\n", "alone (70, 3, 12, ...), expected the names"),
            (
                "70,3,12,210\n90,4,40,272\n",
                "put them into a line above it, such as x1,x2,...,y, or give each",
            ),
            ("1,1\n2,4\n", "the first line holds numbers alone"),  # and not: two columns of one name
            (
                "Ulm,1,2\nBonn,2,4\n",
                "it has 'Ulm', '1', '2'; is the line with the names of the columns missing?",
            ),
        ],
    )
    def test_what_is_wrong_comes_with_the_way_out(self, content, message, tmp_path, capsys):
        path = tmp_path / "table.csv"
        path.write_text(content, encoding="utf-8")
        assert cli.main(["demo", "--csv", str(path), "--target", "price"]) == 2
        assert message in capsys.readouterr().err

    def test_a_folder(self, tmp_path):
        done = samestep("demo", "--csv", tmp_path, "--target", "price")
        assert done.returncode == 2
        assert f"{tmp_path}: cannot be read: Is a directory" in done.stderr

    def test_columns_are_centred_and_scaled(self, tmp_path):
        path = tmp_path / "table.csv"
        # A byte-order mark, spaces, an empty line, a constant column and one near the largest number.
        path.write_text("\ufeffa, b ,one,y\n1,1e308,3,0\n\n 2 ,-1e308,3,4\n6,1e308,3,8\n", encoding="utf-8")
        got = table.read_csv(path, "y")
        assert (got.name, got.columns, got.target, got.left_out) == ("table.csv", ("a", "b"), "y", ("one",))
        assert got.y.tolist() == [-4.0, 0.0, 4.0]
        assert got.Phi[:, 0] == pytest.approx(np.array([-2, -1, 3]) / 14**0.5, rel=1e-14)
        assert got.Phi[:, 1] == pytest.approx(np.array([1, -2, 1]) / 6**0.5, rel=1e-14)

    def test_columns_of_text_are_left_out_by_name(self, tmp_path, capsys):
        path = tmp_path / "table.csv"
        path.write_text(
            "city,size,note,one,price\nUlm,1,,3,2\n n/a ,2,a b,3,4\nKiel,4,7 c,3,7\n", encoding="utf-8"
        )
        got = table.read_csv(path, "price")
        assert (got.columns, got.left_out) == (("size",), ("one",))
        assert got.text == {"city": "Ulm", "note": "a b"}
        assert cli.main(["demo", "--csv", str(path), "--target", "price"]) == 0
        shown = capsys.readouterr().out
        assert "table.csv: 3 rows, 1 column to predict price\n" in shown
        assert "left out, being constant: one\n" in shown
        assert "left out, having no number: city ('Ulm'), note ('a b')\n" in shown
        assert cli.main(["demo", "--csv", str(path), "--target", "price", "--json"]) == 0
        problem = json.loads(capsys.readouterr().out)["problem"]
        assert (problem["columns"], problem["text_columns"], problem["rows"]) == (
            ["size"],
            ["city", "note"],
            3,
        )

    def test_columns_are_dropped_on_request(self, tmp_path, capsys):
        path = tmp_path / "table.csv"
        path.write_text(
            "id,size,grade,city,price\n1,1,A,Ulm,2\n2,2,3,Bonn,4\n3,4,B,Kiel,7\n", encoding="utf-8"
        )
        arguments = ["demo", "--csv", str(path), "--target", "price", "--json", "--drop"]
        assert cli.main([*arguments, "id", "grade", "city"]) == 0
        problem = json.loads(capsys.readouterr().out)["problem"]
        assert (problem["columns"], problem["text_columns"]) == (["size"], [])
        again = ["id", "--drop", "grade", "city"]
        assert cli.main([*arguments, *again]) == 0
        assert json.loads(capsys.readouterr().out)["problem"]["columns"] == ["size"]
        for names, message in (
            (["age"], f"drop: {path} has no column 'age'; it has 'id', 'size', 'grade', 'city', 'price'"),
            (["grade", "price"], "drop: got 'price', which is the target; name another column"),
            (["id"], "column 'grade': got 'A', expected a number"),
        ):
            assert cli.main([*arguments, *names]) == 2
            assert message in capsys.readouterr().err

    @pytest.mark.parametrize("blank", ["\n", "\r\n\r\n", "\ufeff\n", "  \n\t\n"])
    def test_blank_lines_before_the_header(self, blank, tmp_path):
        path = tmp_path / "table.csv"
        path.write_bytes((blank + "size,price\n1,2\n2,4\n").encode())
        got = table.read_csv(path, "price")
        assert (got.columns, got.y.tolist()) == (("size",), [-1, 1])

    def test_the_shipped_table(self):
        got = table.diabetes()
        assert got.Phi == pytest.approx(diabetes().Phi, rel=1e-12, abs=1e-15)
        assert got.y.tobytes() == diabetes().y.tobytes()
        assert ss.digest([got.Phi, got.y])[:16] == "05fcbc47a31356d2"


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
            (["bench", "--quick", "--threads", "5000"], "got '5000', expected 1 to 1024 threads"),
            (["bench", "--quick", "--seconds", "nan"], "got 'nan', expected a finite number of seconds"),
            (["bench", "--quick", "--seconds=-1"], "got '-1', expected a finite number of seconds"),
            (["bench", "--quick", "--seconds", "soon"], "got 'soon', expected a finite number of seconds"),
            (["demo", "--digits", "--csv", "houses.csv"], "--digits goes without --csv"),
            (["demo", "--digits", "--target", "price"], "--digits goes without --target"),
            (["demo", "--digits", "--plot", "curves.png"], "--digits goes without --plot"),
            (["demo", "--digits", "--drop", "age"], "--digits goes without --drop"),
            (["demo", "--torch"], "--torch needs --digits as well"),
            (["demo", "--drop", "age"], "--drop needs --csv as well: demo --csv FILE --target COLUMN"),
            (["demo", "--csv", "a.csv", "--drop", "age"], "--csv needs --target as well"),
            (["report", "--csv", "houses.csv"], "--csv needs --target as well: report --csv FILE --target"),
            (["report", "--target", "price"], "--target needs --csv as well"),
        ],
    )
    def test_errors(self, arguments, message, refused):
        assert message in refused(*arguments)

    def test_an_error_from_outside(self):
        done = samestep("dmeo")
        assert (done.returncode, done.stdout) == (2, "")
        assert "invalid choice: 'dmeo'" in done.stderr
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

    def test_version(self):
        done = samestep("--version")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"samestep {ss.info()['version']}\n", "")

    @pytest.mark.parametrize(
        ("module", "arguments", "purpose", "extra"),
        [
            ("sklearn", [], "the diabetes data", "demo"),
            ("sklearn", ["--digits"], "the digits data", "demo"),
            ("torch", ["--digits", "--torch"], "training in torch", "torch"),
            ("matplotlib", ["--plot", "a.png"], "a figure", "demo"),
        ],
    )
    def test_a_package_that_is_not_there(self, module, arguments, purpose, extra, tmp_path):
        (tmp_path / f"{module}.py").write_text("raise ImportError('not for this test')", encoding="utf-8")
        path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
        done = samestep("demo", *arguments, PYTHONPATH=path)
        assert done.returncode == 2
        assert f"{purpose} needs {module}" in done.stderr
        assert f"pip install 'samestep[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr

    def test_nothing_optional_is_imported_unasked(self):
        code = (
            "import sys, samestep.commands.cli; "
            "sys.exit(bool({'sklearn', 'tqdm', 'matplotlib', 'scipy', 'torch'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestEnvironment:
    """A setting that samestep refuses at import: one line, exit code 2."""

    @pytest.mark.parametrize("command", ["verify", "info", "demo"])
    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"SAMESTEP_ISA": "mmx"}, "SAMESTEP_ISA: isa: got 'mmx', expected one that this machine has"),
            ({"SAMESTEP_THREADS": "two"}, "SAMESTEP_THREADS: got 'two', expected a whole number of threads"),
            ({"SAMESTEP_THREADS": "0"}, "got 0, expected 1 to 1024 threads"),
        ],
    )
    def test_errors(self, command, setting, message):
        launch = ("-c", "import sys, samestep_command; sys.exit(samestep_command.main())")
        done = samestep(command, launch=launch, **setting)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("samestep: ")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1

    def test_import_raises(self):
        code = "try:\n    import samestep\nexcept ValueError as error:\n    print(error)"
        done = samestep(launch=("-c", code), SAMESTEP_ISA="mmx")
        assert done.returncode == 0
        assert done.stdout.startswith("SAMESTEP_ISA: isa: got 'mmx'")

    def test_the_console_script_is_the_same_command(self, capsys):
        (script,) = metadata.entry_points(group="console_scripts", name="samestep")
        assert script.value == "samestep_command:main"
        assert script.load()(["info", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == ss.info()


class TestDigits:
    @pytest.fixture(scope="class")
    @staticmethod
    def shipped():
        done = samestep("demo", "--digits", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def test_json(self, shipped):
        assert shipped["problem"] == {"name": "digits", "rows": 1437, "test_rows": 360}
        assert shipped["passed"] is True
        assert shipped["test_accuracy"] >= shipped["required_accuracy"] == 0.97
        assert shipped["seconds"] > 0
        assert re.fullmatch("[0-9a-f]{64}", shipped["digest"])
        assert shipped["digest_note"].startswith("The digest is the same on every machine")

    @pytest.mark.usefixtures("isa", "threads")
    def test_one_digest(self, shipped):
        assert digits.train_digits().digest == shipped["digest"]

    @pytest.mark.more
    def test_numpys_own_kernels_have_no_part(self, shipped):
        """On one machine its products of 64 terms may happen to have these bits, as fused chains do."""
        for core in ("Haswell", "Prescott", "Nehalem"):
            plain = " ".join(np.show_config("dicts")["SIMD Extensions"]["found"])
            environment = {"OPENBLAS_CORETYPE": core, "NPY_DISABLE_CPU_FEATURES": plain}
            done = samestep("demo", "--digits", "--json", **environment)
            assert json.loads(done.stdout)["digest"] == shipped["digest"], core

    def test_text(self, shipped):
        done = samestep("demo", "--digits")
        assert done.returncode == 0, done.stderr
        assert "PASS" in done.stdout
        assert f"{shipped['test_accuracy']:.2%} told right" in done.stdout
        assert shipped["digest"][:16] in done.stdout
        assert "the same on every machine" in done.stdout
        assert max(map(len, done.stdout.splitlines())) < 100

    def test_a_terminal_without_greek_letters(self):
        done = samestep("demo", "--digits", PYTHONIOENCODING="ascii")
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()

    @pytest.mark.parametrize("json_option", [[], ["--json"]])
    def test_too_few_told_right_is_exit_code_1(self, json_option, monkeypatch, capsys):
        poor = digits.DigitsResult(0.98, 0.969, [2.0, 0.1], 1.0, 44, 1437, 360, "0" * 64)
        monkeypatch.setattr(cli, "train_digits", lambda: poor)
        assert cli.main(["demo", "--digits", *json_option]) == 1
        assert ("FAIL" in capsys.readouterr().out) == (not json_option)
        assert "PASS" in digits_as_text(dataclasses.replace(poor, test_accuracy=0.97), Style())


class TestDigitsInTorch:
    """What is trained, tests/torch/test_torch_digits.py sees."""

    @staticmethod
    def comparison(last):
        found = {"samestep": "a" * 64, "samestep.torch": last, "torch": "c" * 64}
        runs = [
            LibraryRun(library, isa, threads, found[library])
            for isa in ("avx2", "baseline")
            for threads in (1, 2, 8)
            for library in found
        ]
        return Comparison(5, runs)

    def test_text(self):
        text = comparison_as_text(self.comparison("a" * 64), Style())
        lines = [line.split() for line in text.splitlines()]
        for library, digest in (("samestep", "a"), ("samestep.torch", "a"), ("torch", "c")):
            for isa in ("avx2", "baseline"):
                assert [library, isa, *[digest * 16] * 3] in lines
        assert "samestep and samestep.torch: 1 digest in 12 configurations: PASS" in text
        assert "torch: 1 digest in 6 configurations" in text
        assert max(map(len, text.splitlines())) < 100

    @pytest.mark.parametrize(("last", "code"), [("a" * 64, 0), ("b" * 64, 1)])
    @pytest.mark.parametrize("json_option", [[], ["--json"]])
    def test_two_digests_of_ours_are_exit_code_1(self, json_option, last, code, monkeypatch, capsys):
        monkeypatch.setattr(cli, "compare", lambda announce: self.comparison(last))
        assert cli.main(["demo", "--digits", "--torch", *json_option]) == code
        out = capsys.readouterr().out
        if json_option:
            shown = json.loads(out)
            assert (shown["passed"], shown["digests"]["samestep.torch"]) == (code == 0, [last])
            assert shown["runs"][0] == vars(self.comparison(last).runs[0])
        else:
            assert ("FAIL" in out, "2 digests" in out) == (code == 1, code == 1)


class TestInfo:
    @pytest.mark.thread_unsafe(reason="how many threads a step may use is the process's")
    def test_json(self):
        done = samestep("info", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {**ss.info(), "pool": "own"}  # here torch may have been imported

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
        assert len(rules) == len(golden.programs())
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
        shown = demo.run_demo(table.read_csv(houses, "price"))
        found = {run.optimizer: run.differs_at for run in shown.runs}
        assert found == {
            "SGD": None,
            "Momentum": None,
            "NAG": 3,
            "AdaGrad": None,
            "RMSProp": None,
            "Adam": None,
        }
        assert not shown.passed
        text = as_text(shown, Style())
        assert "not from step 3 on" in text
        assert "FAIL" in text

    def test_a_difference_in_the_state_alone_is_noticed(self):
        a, b = (ss.Adam(np.ones(3)) for _ in range(2))
        assert demo._same_bits(a, b)
        a.state["v"][0][2] = -0.0
        assert not demo._same_bits(a, b)

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
        path.write_text("a,b,y\n1,-2,1\n2,-4,3\n3,-6,2\n", encoding="utf-8")
        shown = demo.run_demo(table.read_csv(path, "y"))
        assert shown.passed
        assert all(run.reached for run in shown.runs)
        assert shown.problem.mu == 0.0
        text = as_text(shown, Style())
        assert "only 1 of 2 directions have a curvature" in text
        assert "∞" in text
        assert jsonable(shown.as_dict())["problem"]["kappa"] is None

    def test_columns_that_nearly_depend_on_each_other(self, small_demo):
        """kappa is finite, but no step size is chosen for the flattest direction."""
        assert "left out of them" not in as_text(small_demo, Style())
        a = np.linspace(-1, 1, 5)
        b = np.array([1, -1, 0, -1, 1.0])
        for tilt, shown in ((1e-2, False), (1e-4, True)):
            problem = ss.problems.MSE(np.stack([a, a + tilt * b], axis=1), a)
            assert problem.mu > 0
            text = " ".join(as_text(dataclasses.replace(small_demo, problem=problem), Style()).split())
            note = "curvatures below 1e-06 β, 1 of 2 here, are left out of them: their μ is 5, the flattest"
            assert (note in text) == shown
        assert demo.steep_curvatures(problem).tolist() == pytest.approx([5.0])
        shown = dataclasses.replace(small_demo, problem=problem)
        assert max(map(len, as_text(shown, Style()).splitlines())) <= 100
        text = as_text(shown, Style(unicode=False))
        assert "below 1e-06 beta" in " ".join(text.split())
        assert text.isascii()

    def test_the_bar_is_told_every_stage(self, houses):
        stages = []
        demo.run_demo(table.read_csv(houses, "price"), stages.append)
        assert len(stages) == demo.STAGES
