"""What torch offers in the modules that the walk goes through, so that a name that nobody looked at shows."""

from __future__ import annotations

import fnmatch
import importlib
import types
from collections.abc import Iterator

from .areas import cases

RUNS_NOTHING = "types, settings and helpers that take no layer and no optimizer"
ELSEWHERE: dict[str, dict[str, str]] = {
    "torch.nn.utils": {},
    "torch.nn.utils.fusion": {},
    "torch.nn.utils.memory_format": {},
    "torch.nn.utils.init": {},
    "torch.nn.utils.stateless": {},
    "torch.nn.utils.parametrize": {},
    "torch.nn.utils.parametrizations": {},
    "torch.nn.utils.prune": {},
    "torch.nn.utils.rnn": {"of sequences, before and after layers": "*"},
    "torch.func": {
        "of tensors alone": "rearrange debug_unwrap",
    },
    "torch.autograd.functional": {},
    "torch.optim.lr_scheduler": {"the base class": "LRScheduler"},
    "torch.optim.swa_utils": {},
    "torch.amp": {
        "decorators of autograd functions": "custom_fwd custom_bwd",
        "a question": "is_autocast_available",
    },
    "torch.fx": {RUNS_NOTHING: "wrap Node Proxy has_side_effect map_arg"},
    "torch.fx.experimental.optimization": {
        "parts of fuse and of optimize_for_inference": "matches_module_pattern replace_node_module "
        "extract_subgraph modules_to_mkldnn reset_modules MklSubgraph gen_mkl_autotuner use_mkl_length "
        "UnionFind",
    },
    "torch.export": {
        RUNS_NOTHING: "AdditionalInputs Constraint ExportBackwardSignature ExportedProgram FlatArgsAdapter "
        "ModuleCallEntry ModuleCallSignature register_dataclass ShapesCollection",
    },
    "torch.onnx": {
        RUNS_NOTHING: "is_in_onnx_export OnnxExporterError ONNXProgram ExportableModule InputObserver",
    },
    "torch.compiler": {
        RUNS_NOTHING: "compile assume_constant_result reset allow_in_graph substitute_in_graph list_backends "
        "set_default_backend get_default_backend set_enable_guard_collectives wrap_numpy is_compiling "
        "is_dynamo_compiling is_exporting *_unsafe",
        "of CUDA": "cudagraph_mark_step_begin",
        "caches of compiled code": "load_compiled_function save_cache_artifacts load_cache_artifacts",
    },
    "torch.jit": {
        RUNS_NOTHING: "Attribute CompilationUnit Error Future ScriptFunction annotate export export_opnames "
        "interface ignore isinstance script_if_tracing set_fusion_strategy strict_fusion unused "
        "*onednn_fusion*",
    },
    "torch.utils.checkpoint": {
        RUNS_NOTHING: "CheckpointError CheckpointFunction check_backward_validity detach_variable "
        "*_device_states noop_context_fn set_checkpoint_* DefaultDeviceType SAC_IGNORED_OPS GraphExecGroup",
    },
    "torch.utils.flop_counter": {"of new operators": "register_flop_formula"},
    "torch.utils.module_tracker": {},
    "torch.utils.mkldnn": {"the layers that to_mkldnn makes": "Mkldnn*"},
    "torch.utils.mobile_optimizer": {
        RUNS_NOTHING: "LintCode MobileOptimizerType generate_mobile_module_lints"
    },
    "torch.ao.quantization": {
        "observers, fake quantization and their settings": "*Observer* *observer* *FakeQuantize* "
        "*fake_quant* QConfig* qconfig_equals get_default_*",
        "of networks in TorchScript": "*_jit script_qconfig*",
        "parts of prepare and convert": "swap_module propagate_qconfig_ add_quant_dequant get_*_module* "
        "get_quantized_operator default_eval_fn DeQuantStub QuantStub get_combined_dict get_embedding_*",
        "prepare, then convert": "quantize quantize_qat",
        RUNS_NOTHING: "MatchAllNode Pattern QuantType Granularity MappingType Per* TorchAODType "
        "ZeroPointDomain get_block_size",
    },
    "torch.ao.pruning": {
        RUNS_NOTHING: "BaseScheduler FakeSparsity fqn_to_module module_to_fqn get_*",
    },
    "torch.distributed.fsdp": {
        RUNS_NOTHING: "BackwardPrefetch *CPUOffload* *Config *Type *Settings MixedPrecision ShardingStrategy "
        "DataParallelMeshDims OffloadPolicy register_fsdp_forward_method UnshardHandle share_comm_ctx",
    },
    "torch.distributed.optim": {
        "torch's own functional classes, by their names": "as_functional_optim",
    },
    "torch.distributed.checkpoint.state_dict": {RUNS_NOTHING: "*Type FQNS_T"},
    "torch.distributed.pipelining": {
        "a part of pipeline": "pipe_split build_stage",
        "other orders of the same stages": "Schedule*",
    },
    "torch.serialization": {
        RUNS_NOTHING: "SourceChangeWarning mkdtemp register_package check_module_* validate_* location_tag "
        "default_restore_location normalize_storage_type storage_to_tensor_type StorageType LoadEndianness "
        "*_crc32_options *_default_* clear_safe_globals get_*safe_globals* skip_data",
    },
}
"""By module the names that no case uses, with the reason; a star stands for any text."""


def public(module: types.ModuleType) -> Iterator[str]:
    """The names that a module offers: __all__, or what it defines itself."""
    listed = getattr(module, "__all__", None)
    for name in listed if listed is not None else dir(module):
        value = getattr(module, name, None)
        own = listed is not None or getattr(value, "__module__", None) == module.__name__
        if own and not name.startswith("_") and not isinstance(value, types.ModuleType):
            yield name


def _used() -> tuple[set[str], set[int]]:
    """The dotted names that cases use, and what they stand for: a function may have two names."""
    names = set()
    for one in cases():
        names |= {one.tool.split(",")[0].split(" ")[0].split("(")[0], *one.covers}
        for more in one.tool.split(" and ")[1:]:  # "torch.a.b and c"
            names.add(f"{one.tool.split(' ')[0].rpartition('.')[0]}.{more.split(',')[0]}")
    values = set()
    for name in names:
        module, _, last = name.rpartition(".")
        try:
            values.add(id(getattr(importlib.import_module(module), last)))
        except (ImportError, AttributeError, ValueError):
            continue
    return names, values


def not_looked_at() -> list[str]:
    """Names that neither a case uses nor ELSEWHERE explains."""
    names, values = _used()
    left = []
    for module_name, reasons in ELSEWHERE.items():
        module = importlib.import_module(module_name)
        patterns = [pattern for words in reasons.values() for pattern in words.split()]
        for name in public(module):
            used = f"{module_name}.{name}" in names or id(getattr(module, name, None)) in values
            if not used and not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                left.append(f"{module_name}.{name}")
    return left
