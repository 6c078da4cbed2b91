"""Megatron-LM's traces: the schema, what its comparison calls a difference, and its exit codes."""

import hashlib
import json

import numpy as np
import pytest

from samestep.commands import cli
from samestep.ledger.megatron import TraceError, TraceWriter, compare_traces, read_trace


def write(folder, *, ranks=2, change=lambda name, x: x, loss=2.5, mode="full"):
    """Three iterations on some ranks."""
    for rank in range(ranks):
        rng = np.random.default_rng(rank)
        with TraceWriter(folder, rank) as trace:
            for iteration in range(1, 4):
                trace.event("begin", {"x": 1}, phase="iteration", iteration=iteration)
                trace.scalar("loss", loss, phase="forward", iteration=iteration, microbatch=0)
                for name in ("a", "b"):
                    x = change(f"{rank}.{iteration}.{name}", rng.standard_normal((3, 4)).astype(np.float32))
                    trace.tensor(name, x, phase="optimizer", iteration=iteration, mode=mode)
    return folder


def lines_of(folder, rank=0):
    return [
        json.loads(line)
        for line in (folder / f"rank_{rank:06d}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def rewrite(folder, records, rank=0):
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (folder / f"rank_{rank:06d}.jsonl").write_text(text, encoding="utf-8")


class TestWriting:
    def test_a_tensor(self, tmp_path):
        x = np.arange(6, dtype=">f4").reshape(2, 3)
        with TraceWriter(tmp_path, 3) as trace:
            trace.tensor("w", x.T, phase="optimizer", iteration=1, metadata={"shard": 0})
        (record,) = lines_of(tmp_path, 3)
        form = b'{"dtype":"float32","mode":"full","schema_version":1,"shape":[3,2]}'
        little = np.ascontiguousarray(x.T).astype("<f4").tobytes()
        assert record == {
            "schema_version": 1,
            "rank": 3,
            "sequence": 0,
            "occurrence": 0,
            "iteration": 1,
            "microbatch": None,
            "phase": "optimizer",
            "name": "w",
            "event": "tensor",
            "metadata": {"shard": 0},
            "tensor": {
                "mode": "full",
                "shape": [3, 2],
                "numel": 6,
                "dtype": "float32",
                "layout": "strided",
                "device_type": "cpu",
                "requires_grad": False,
                "stride": [1, 3],
                "value_observed": True,
                "exact_value_certificate": True,
                "captured_numel": 6,
                "all_finite": True,
                "sha256": hashlib.sha256(form + b"\0" + little).hexdigest(),
            },
        }

    def test_a_sample(self, tmp_path):
        x = np.arange(100, dtype=np.float64)
        x[99] = np.inf
        with TraceWriter(tmp_path) as trace:
            trace.tensor("w", x, phase="p", mode="sampled", samples=4)
            trace.tensor("w", x[:2], phase="p", mode="sampled", samples=4)
            trace.tensor("w", x[:5], phase="p", mode="sampled", samples=1)
        first, second, third = (record["tensor"] for record in lines_of(tmp_path))
        assert first["sample_indices"] == [0, 33, 66, 99]
        assert first["all_finite"] is False
        form = '{"dtype":"float64","mode":"sampled","sample_indices":[0,33,66,99],'
        form += '"schema_version":1,"shape":[100]}'
        values = x[[0, 33, 66, 99]].astype("<f8").tobytes()
        assert first["sha256"] == hashlib.sha256(form.encode() + b"\0" + values).hexdigest()
        assert (second["sample_indices"], second["captured_numel"]) == ([0, 1], 2)
        assert third["sample_indices"] == [0]

    def test_the_form_alone(self, tmp_path):
        with TraceWriter(tmp_path) as trace:
            trace.tensor("w", np.zeros((0, 3), np.float16), phase="p", mode="metadata")
        facts = lines_of(tmp_path)[0]["tensor"]
        assert not {"sha256", "captured_numel", "all_finite", "sample_indices"} & facts.keys()
        assert facts["value_observed"] is facts["exact_value_certificate"] is False

    @pytest.mark.parametrize(
        ("value", "fields"),
        [
            (1.5, {"value": 1.5}),
            (np.nan, {"finite": False, "nonfinite": "nan", "value": None}),
            (np.inf, {"finite": False, "nonfinite": "+inf", "value": None}),
            (-np.inf, {"finite": False, "nonfinite": "-inf", "value": None}),
        ],
    )
    def test_a_number(self, tmp_path, value, fields):
        with TraceWriter(tmp_path) as trace:
            trace.scalar("loss", value, phase="forward")
        assert lines_of(tmp_path)[0]["fields"] == fields

    def test_repetitions_are_counted(self, tmp_path):
        with TraceWriter(tmp_path) as trace:
            for name, microbatch in (("a", 0), ("a", 0), ("b", 0), ("a", 1), ("a", 0)):
                trace.event(name, {}, phase="p", microbatch=microbatch)
        found = [(record["sequence"], record["occurrence"]) for record in lines_of(tmp_path)]
        assert found == [(0, 0), (1, 1), (2, 0), (3, 0), (4, 2)]
        assert len([*read_trace(tmp_path).records()]) == 5

    def test_what_the_schema_does_not_know_is_not_written(self, tmp_path):
        with TraceWriter(tmp_path) as trace:
            for name in ("", "x" * 513, "a\nb"):
                with pytest.raises(ValueError, match="name: got"):
                    trace.event(name, {}, phase="p")
            with pytest.raises(ValueError, match="iteration: got"):
                trace.event("a", {}, phase="p", iteration=-1)
            with pytest.raises(ValueError, match="mode: got 'summary'"):
                trace.tensor("a", np.ones(1), phase="p", mode="summary")
            trace.event("a", {}, phase="p")
        assert lines_of(tmp_path)[0]["sequence"] == 0

    def test_a_file_that_is_there_is_kept(self, tmp_path):
        write(tmp_path)
        with pytest.raises(FileExistsError):
            TraceWriter(tmp_path, 1)


def _set(**facts):
    return lambda record: record.update(facts)


def _tensor(**facts):
    return lambda record: record["tensor"].update(facts)


# Of a record of tensor "a" of rank 0: sequence 2 on line 3.
FAULTS = {
    "schema_version": [_set(schema_version=2), _set(schema_version=True), lambda r: r.pop("schema_version")],
    "rank": [_set(rank=1), lambda r: r.pop("rank")],
    "sequence": [_set(sequence=1), _set(sequence=-1), _set(sequence=2.0)],
    "occurrence": [_set(occurrence=-1), lambda r: r.pop("occurrence")],
    "iteration": [_set(iteration="1"), lambda r: r.pop("iteration")],
    "microbatch": [_set(microbatch=-1), lambda r: r.pop("microbatch")],
    "phase": [_set(phase=""), lambda r: r.pop("phase")],
    "name": [_set(name=""), _set(name="x" * 513), _set(name="a\tb"), lambda r: r.pop("name")],
    "event": [_set(event="other"), lambda r: r.pop("event")],
    "fields": [_set(event="event")],
    "metadata": [_set(metadata=[]), lambda r: r.pop("metadata")],
    "tensor": [_set(tensor=1), lambda r: r.pop("tensor")],
    "tensor.mode": [_tensor(mode="some"), lambda r: r["tensor"].pop("mode")],
    "tensor.shape": [_tensor(shape=[-3, 4]), _tensor(shape=12)],
    "tensor.numel": [_tensor(numel=11)],
    "tensor.dtype": [_tensor(dtype=None)],
    "tensor.layout": [_tensor(layout=None)],
    "tensor.device_type": [lambda r: r["tensor"].pop("device_type")],
    "tensor.requires_grad": [_tensor(requires_grad=0)],
    "tensor.stride": [_tensor(stride=[4]), lambda r: r["tensor"].pop("stride")],
    "tensor.value_observed": [_tensor(value_observed=False)],
    "tensor.exact_value_certificate": [_tensor(exact_value_certificate=False)],
    "tensor.sha256": [
        _tensor(sha256="0" * 63),
        _tensor(sha256="G" * 64),
        lambda r: r["tensor"].pop("sha256"),
    ],
    "tensor.captured_numel": [_tensor(captured_numel=11), lambda r: r["tensor"].pop("captured_numel")],
    "tensor.all_finite": [_tensor(all_finite=1)],
    "tensor.summary": [_tensor(summary={})],
    "tensor.sample_indices": [_tensor(sample_indices=[0])],
}


class TestReading:
    @pytest.mark.parametrize(
        ("field", "fault"), [(f, fault) for f, all_of in FAULTS.items() for fault in all_of]
    )
    def test_a_fault_is_named_with_its_line(self, tmp_path, field, fault):
        records = lines_of(write(tmp_path))
        fault(records[2])
        rewrite(tmp_path, records)
        with pytest.raises(TraceError, match=rf"rank_000000\.jsonl, line 3: {field}: "):
            read_trace(tmp_path)

    @pytest.mark.parametrize(
        "facts",
        [
            {
                "mode": "sampled",
                "exact_value_certificate": False,
                "sample_indices": [0, 5, 11],
                "captured_numel": 3,
            },
            {
                "mode": "summary",
                "exact_value_certificate": False,
                "summary": {"all_finite": True, "minimum": 0, "maximum": 1.0, "mean": None, "l2_norm": 2.0},
            },
            {"layout": "sparse_coo", "stride": None},
        ],
    )
    def test_other_modes(self, tmp_path, facts):
        records = lines_of(write(tmp_path))
        tensor = records[2]["tensor"]
        tensor.update(facts)
        if facts.get("mode") == "summary":
            for key in ("sha256", "captured_numel", "all_finite"):
                del tensor[key]
        if "stride" in facts:
            del tensor["stride"]
        rewrite(tmp_path, records)
        assert read_trace(tmp_path).ranks[0][2]["tensor"] == tensor
        if facts.get("mode") == "sampled":
            tensor["sample_indices"] = [0, 6, 11]
            rewrite(tmp_path, records)
            with pytest.raises(TraceError, match=r"tensor\.sample_indices: got \[0, 6, 11\]"):
                read_trace(tmp_path)

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("nonsense", "Expecting value"),
            ("[]", "expected a JSON object"),
            ('{"a":1,"a":1}', "a key stands twice"),
            ('{"a":NaN}', "NaN is no finite number"),
            ('{"a":1e999}', "1e999 is no finite number"),
            ("[" * 100_000, "(recursion|Stack overflow)"),
        ],
    )
    def test_a_line_that_is_no_record(self, tmp_path, line, told):
        write(tmp_path)
        with open(tmp_path / "rank_000001.jsonl", "a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
        with pytest.raises(TraceError, match=rf"rank_000001\.jsonl, line 14: .*{told}"):
            read_trace(tmp_path)

    def test_one_key_twice(self, tmp_path):
        records = lines_of(write(tmp_path))
        records.append({**records[2], "sequence": 99})
        rewrite(tmp_path, records)
        with pytest.raises(TraceError, match="line 13: it has the key of line 3"):
            read_trace(tmp_path)

    def test_two_files_of_a_rank(self, tmp_path):
        write(tmp_path)
        (tmp_path / "rank_1.jsonl").write_bytes((tmp_path / "rank_000001.jsonl").read_bytes())
        with pytest.raises(TraceError, match="another file of the folder is of rank 1"):
            read_trace(tmp_path)

    def test_one_file(self, tmp_path):
        write(tmp_path)
        assert list(read_trace(tmp_path / "rank_000001.jsonl").ranks) == [1]
        (tmp_path / "notes.txt").write_text("not of the trace", encoding="utf-8")
        assert list(read_trace(tmp_path).ranks) == [0, 1]
        with pytest.raises(TraceError, match=r"expected a name such as rank_000000\.jsonl"):
            read_trace(tmp_path / "notes.txt")

    def test_no_record(self, tmp_path):
        (tmp_path / "rank_000000.jsonl").write_text("\n", encoding="utf-8")
        with pytest.raises(TraceError, match="found none"):
            read_trace(tmp_path)


class TestComparing:
    def compare(self, tmp_path, edit, rank=1):
        a, b = write(tmp_path / "a"), write(tmp_path / "b")
        records = lines_of(b, rank)
        edit(records)
        rewrite(b, records, rank)
        report = compare_traces(read_trace(a), read_trace(b))
        assert report["rank_results"]["0"] == {
            "compared_records_before_divergence": 12,
            "first_divergence": None,
            "match": True,
        }
        assert (report["match"], report["match_strength"], report["status"]) == (False, "none", "diverged")
        return report["rank_results"]["1"]

    def test_other_values(self, tmp_path):
        def change(name, x):
            return x + np.float32(1) if name in ("1.2.b", "1.3.a") else x

        report = compare_traces(
            read_trace(write(tmp_path / "a")), read_trace(write(tmp_path / "b", change=change))
        )
        assert report["rank_results"]["0"]["match"]
        found = report["rank_results"]["1"]
        assert found["compared_records_before_divergence"] == 7
        assert found["first_divergence"]["kind"] == "content_mismatch"
        assert found["first_divergence"]["differing_fields"] == ["tensor"]
        assert found["first_divergence"]["left_key"]["name"] == "b"
        assert found["first_divergence"]["left_key"]["iteration"] == 2

    def test_an_event_that_is_missing(self, tmp_path):
        found = self.compare(tmp_path, lambda records: records.pop(5))["first_divergence"]
        assert (found["kind"], found["missing_from"]) == ("missing_event", "right")
        assert (found["left_sequence"], found["right_sequence"]) == (5, 6)

    def test_an_event_too_many(self, tmp_path):
        def edit(records):
            records.insert(5, {**records[5], "name": "new"})
            for i, record in enumerate(records):
                record["sequence"] = i

        result = self.compare(tmp_path, edit)
        assert result["compared_records_before_divergence"] == 5
        assert result["first_divergence"]["kind"] == "missing_event"
        assert result["first_divergence"]["missing_from"] == "left"

    def test_a_trace_that_ends_sooner(self, tmp_path):
        result = self.compare(tmp_path, lambda records: records.pop())
        assert result["compared_records_before_divergence"] == 11
        found = result["first_divergence"]
        assert (found["kind"], found["missing_from"]) == ("missing_event", "right")
        assert (found["left_sequence"], found["right_sequence"]) == (11, None)

    def test_another_event(self, tmp_path):
        found = self.compare(tmp_path, lambda records: records[5].update(name="new"))["first_divergence"]
        assert found["kind"] == "event_mismatch"

    def test_another_order(self, tmp_path):
        def edit(records):
            records[2], records[3] = records[3], records[2]
            records[2]["sequence"], records[3]["sequence"] = 2, 3

        assert self.compare(tmp_path, edit)["first_divergence"]["kind"] == "event_order_mismatch"

    def test_a_number_is_no_switch(self, tmp_path):
        found = self.compare(tmp_path, lambda records: records[0].update(fields={"x": True}))
        assert found["first_divergence"]["differing_fields"] == ["fields"]

    def test_sequence_numbers_are_no_content(self, tmp_path):
        a, b = write(tmp_path / "a"), write(tmp_path / "b")
        records = lines_of(b)
        for record in records:
            record["sequence"] = 2 * record["sequence"] + 5
        rewrite(b, records)
        assert compare_traces(read_trace(a), read_trace(b))["match"]

    def test_a_rank_that_is_missing(self, tmp_path):
        a, b = write(tmp_path / "a"), write(tmp_path / "b", ranks=1)
        found = compare_traces(read_trace(a), read_trace(b))["rank_results"]["1"]
        assert found["compared_records_before_divergence"] == 0
        assert found["first_divergence"]["missing_from"] == "right"

    @pytest.mark.parametrize(
        ("mode", "strength"),
        [
            ("full", "full_tensor_certificate"),
            ("metadata", "structure_only"),
            ("sampled", "diagnostic_tensor_match"),
        ],
    )
    def test_how_much_a_match_says(self, tmp_path, mode, strength):
        traces = [read_trace(write(tmp_path / side, mode=mode)) for side in "ab"]
        report = compare_traces(*traces)
        assert (report["match"], report["match_strength"], report["status"]) == (True, strength, "match")
        assert report["left"]["records"] == 24
        assert report["left"]["tensor_modes"] == [mode]

    def test_events_alone(self, tmp_path):
        for side in "ab":
            with TraceWriter(tmp_path / side) as trace:
                trace.event("begin", {}, phase="p")
        report = compare_traces(*(read_trace(tmp_path / side) for side in "ab"))
        assert report["match_strength"] == "event_match"


class TestCommand:
    def run(self, capsys, *arguments):
        code = cli.main(["diff", "--format", "megatron", *map(str, arguments)])
        return code, capsys.readouterr()

    def test_exit_codes_and_text(self, tmp_path, capsys):
        a, b = write(tmp_path / "a"), write(tmp_path / "b")
        c = write(tmp_path / "c", change=lambda name, x: -x if name == "1.2.a" else x)
        code, printed = self.run(capsys, a, b)
        assert code == 0
        assert "Every record is equal: full tensor certificate." in printed.out
        code, printed = self.run(capsys, a, c)
        assert code == 1
        lines = [line.strip() for line in printed.out.splitlines()]
        assert "rank 0   12 records equal" in lines
        assert "rank 1    6 records equal   a (iteration 2, optimizer): tensor" in lines
        (c / "rank_000001.jsonl").write_text("x", encoding="utf-8")
        code, printed = self.run(capsys, a, c)
        assert code == 2
        assert "rank_000001.jsonl, line 1" in printed.err

    def test_json(self, tmp_path, capsys):
        a, b = write(tmp_path / "a"), write(tmp_path / "b", loss=1.0)
        code, printed = self.run(capsys, a, b, "--json")
        shown = json.loads(printed.out)
        assert code == 1
        assert shown["status"] == "diverged"
        assert shown["rank_results"]["0"]["first_divergence"]["differing_fields"] == ["fields"]
        code, printed = self.run(capsys, a, tmp_path / "nothing", "--json")
        assert code == 2
        shown = json.loads(printed.out)
        assert (shown["match"], shown["status"]) == (False, "invalid_trace")
        assert "nothing" in shown["error"]

    @pytest.mark.parametrize(
        ("edit", "told"),
        [
            (lambda r: r.pop(5), "loss (iteration 2, microbatch 0, forward): missing from B"),
            (
                lambda r: r[4].update(name="x"),
                "begin (iteration 2, iteration) in A, x (iteration 2, iteration) in B",
            ),
        ],
    )
    def test_every_kind_is_told(self, tmp_path, capsys, edit, told):
        a, b = write(tmp_path / "a"), write(tmp_path / "b")
        records = lines_of(b)
        edit(records)
        rewrite(b, records)
        assert told in self.run(capsys, a, b)[1].out

    def test_no_page(self, tmp_path, capsys):
        with pytest.raises(SystemExit):
            self.run(capsys, tmp_path, tmp_path, "--html", tmp_path / "page.html")
        assert "--format megatron goes without --html" in capsys.readouterr().err

    def test_no_replay(self, tmp_path, capsys):
        with pytest.raises(SystemExit):
            self.run(capsys, tmp_path, tmp_path, "--replay", "train.py")
        assert "--format megatron goes without --replay" in capsys.readouterr().err
