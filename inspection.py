"""What `inspect` and `doctor` know: plain documents about checkpoints, artifacts, this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import resource
import shutil
import sys
from collections import Counter, defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from firstlight.runtime.errors import FirstlightError

NATIVE_CODE = "the hashes find damage, they do not prove origin: an artifact is native code"
_PACKAGES = ("numpy", "tokenizers", "apache-tvm", "apache-tvm-ffi", "networkx", "ml-dtypes",
             "ziglang", "onnx", "onnxruntime")  # fmt: skip
_TOOLS = ("cc", "gcc", "clang", "ld", "ld.lld", "ld.gold", "make", "cmake")
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth")


def inspect_path(path: Path) -> dict[str, Any]:
    """The document of an artifact or a checkpoint, whichever `path` is. Raises F704 for neither."""
    if (path / "manifest.json").is_file():
        return inspect_artifact(path)
    if path.is_file() or (path / "config.json").is_file():
        return inspect_checkpoint(path)
    raise FirstlightError(
        "F704",
        "there is nothing to inspect",
        where=str(path),
        why="it holds neither a manifest.json (an artifact) nor a config.json (a checkpoint)"
        if path.is_dir()
        else "there is no such folder",
        try_="firstlight inspect DIR    with a folder of one of the two kinds",
    )


def inspect_artifact(path: Path) -> dict[str, Any]:
    """Target, limits, sizes, state and files of an artifact, from its manifest alone."""
    from firstlight.runtime.manifest import read_manifest

    manifest = read_manifest(path)
    document = manifest.document
    kinds: dict[str, dict[str, Any]] = defaultdict(lambda: {"arrays": 0, "bytes": 0})
    for tensor in manifest.state:
        kinds[tensor.kind]["arrays"] += 1
        kinds[tensor.kind]["bytes"] += tensor.bytes
    return {
        "kind": "artifact",
        "path": str(path),
        "name": manifest.name,
        "target": manifest.target,
        "requires": " ".join(
            [str(manifest.requires.get("arch", "")), *manifest.requires.get("features", ())]
        ).strip(),
        "numerics": document.get("numerics"),
        "quantize": document.get("quantize", "shipped"),
        "kernels": document.get("kernels"),
        "context": manifest.context,
        "chunk": manifest.chunk,
        "total_bytes": sum(f.bytes for f in manifest.files),
        "weight_bytes": sum(f.bytes for f in manifest.files if f.name.startswith("weights/")),
        "state_bytes": manifest.state_bytes,
        "state_bytes_per_token": document["state"].get("bytes_per_token"),
        "made_by": ", ".join(f"{k} {v}" for k, v in document.get("created_by", {}).items()),
        "identity": manifest.identity,
        "note": NATIVE_CODE,
        "state": [{"kind": kind, **row} for kind, row in kinds.items()],
        "files": [{"file": f.name, "bytes": f.bytes, "sha256": f.sha256} for f in manifest.files],
    }


def inspect_checkpoint(path: Path) -> dict[str, Any]:
    """Config, layers by kind, tensors by codec, and what is left aside; reads headers only.

    Where there is nothing but a config.json, the parts about tensors are missing.
    """
    from firstlight.frontend.checkpoint import read_checkpoint, read_config

    folder = path if path.is_dir() else path.parent
    bare = path.is_file() or not any(any(folder.glob(pattern)) for pattern in _WEIGHT_FILES)
    checkpoint = None if bare else read_checkpoint(folder)
    config = checkpoint.config if checkpoint else read_config(path)
    layers: dict[tuple[str, int], list[int]] = defaultdict(list)
    for layer in config.layers:
        layers[layer.kind, layer.ratio].append(layer.index)
    document: dict[str, Any] = {
        "kind": "checkpoint",
        "path": str(path),
        "model_type": config.model_type,
        "vocabulary": config.vocab_size,
        "hidden_size": config.hidden_size,
        "number_of_layers": config.num_hidden_layers,
        "hash_routed_layers": sum(layer.hash_routed for layer in config.layers),
        "heads": f"{config.num_attention_heads} of {config.head_dim}"
        f" ({config.qk_rope_head_dim} rotated)",
        "window": config.sliding_window,
        "experts": f"{config.n_routed_experts} routed, {config.num_experts_per_tok} per token,"
        f" width {config.moe_intermediate_size}",
        "streams": config.hc_mult,
        "positions": config.max_position_embeddings,
    }
    table = [
        {"kind": kind, "ratio": ratio, "count": len(indices), "layers": _ranges(indices)}
        for (kind, ratio), indices in layers.items()
    ]
    if checkpoint is None:
        return {**document, "weights": "none here", "layers": table}
    codecs: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(
        ("tensors", "numbers", "bytes"), 0))  # fmt: skip
    for ref in checkpoint.tensors.values():
        row, elements = codecs[ref.codec], 1
        for side in ref.shape:
            elements *= side
        row["tensors"] += len(getattr(ref, "experts", (ref,)))
        row["numbers"] += elements
        row["bytes"] += ref.nbytes
    return {
        **document,
        "stored_bytes": sum(nbytes for _, nbytes in checkpoint.shards),
        "shards": len(checkpoint.shards),
        "tokenizer": checkpoint.tokenizer_path is not None,
        "layers": table,
        "codecs": [{"codec": codec, **row} for codec, row in sorted(codecs.items())],
        "left_aside": [
            {"tensors": count, "reason": reason}
            for reason, count in Counter(checkpoint.ignored.values()).items()
        ],
    }


def checkpoint_graph(path: Path) -> str:
    """A checkpoint's fused module in Graphviz' dot language. Raises F705 for an artifact."""
    if (path / "manifest.json").is_file():
        raise FirstlightError(
            "F705",
            "an artifact has no graph",
            where=str(path),
            why="it holds a flat list of kernel calls; the graph is the compiler's",
            try_="firstlight inspect CHECKPOINT --graph OUT.dot",
        )
    from firstlight.codegen.graph import module_dot

    return module_dot(_fused_module(path))


def readable_onnx(path: Path) -> bytes:
    """The fused module of a checkpoint or artifact as an ONNX model for people to look at.

    Composites and layers are functions of a domain of ours with bodies of standard operators;
    weights are inputs. A config.json alone is enough. Raises F460 without the package, F705 for an
    artifact that does not say which model it was compiled from.
    """
    from firstlight.codegen.onnx.functions import readable_model

    model = readable_model(_fused_module(path), "score")
    return bytes(model.SerializeToString(deterministic=True))


def _fused_module(path: Path) -> Any:
    """The module after the passes. Of an artifact: traced again, from its config."""
    from firstlight.frontend.checkpoint import read_checkpoint, read_config
    from firstlight.frontend.config import parse_config
    from firstlight.frontend.model import config_types, trace_model, weight_types
    from firstlight.passes import PIPELINE, run_pipeline

    if (path / "manifest.json").is_file():
        from firstlight.runtime.manifest import read_manifest

        provenance = read_manifest(path).document.get("provenance", {})
        if not isinstance(provenance.get("config"), dict):
            raise FirstlightError(
                "F705",
                "this artifact's graph cannot be made again",
                where=str(path / "manifest.json"),
                why="its provenance has no config of a model that firstlight knows",
                try_="firstlight inspect with what it was compiled from",
            )
        config = parse_config(provenance["config"])
        module = trace_model(config, config_types(config))
        return run_pipeline(module, provenance.get("pipeline", PIPELINE))
    folder = path if path.is_dir() else path.parent
    if path.is_file() or not any(any(folder.glob(pattern)) for pattern in _WEIGHT_FILES):
        config = read_config(path)
        return run_pipeline(trace_model(config, config_types(config)), PIPELINE)
    checkpoint = read_checkpoint(folder)
    module = trace_model(checkpoint.config, weight_types(checkpoint))
    return run_pipeline(module, PIPELINE)


def inspect_machine() -> dict[str, Any]:
    """CPU, memory, disk, limits, tools and package versions of this machine."""
    from firstlight import __version__
    from firstlight.runtime import cpu

    memory = _meminfo()
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    tools = {tool: shutil.which(tool) for tool in _TOOLS}
    if importlib.util.find_spec("ziglang") is not None:
        tools["zig"] = "python -m ziglang"
    return {
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()} at {sys.executable}",
        "firstlight": __version__,
        "cpu": {
            "model": _cpu_model(),
            "architecture": cpu.architecture(),
            "usable_cores": cpu.usable_cores(),
            "features": sorted(cpu.features()),
        },
        "memory": {
            "total_bytes": memory.get("MemTotal"),
            "available_bytes": memory.get("MemAvailable"),
            "address_space_limit_bytes": "none" if soft == resource.RLIM_INFINITY else soft,
            "free_disk_here_bytes": shutil.disk_usage(os.getcwd()).free,
        },
        "tools": {tool: path or "not found" for tool, path in tools.items()},
        "packages": {name: _version(name) or "not installed" for name in _PACKAGES},
        "targets": _targets(),
    }


def inspect_targets() -> dict[str, Any]:
    """Every installed target: how far it can be shown to work, and whether its tools are here."""
    from firstlight.codegen.target import TIERS
    from firstlight.targets import available, tools_of

    registry = available()
    rows = []
    for target in registry.targets.values():
        lacking = [tool.name for tool in tools_of(target) if tool.found is None]
        rows.append({"target": target.name, "tier": target.tier, "runs_on": target.launcher,
                     "tools": f"no {', '.join(lacking)}" if lacking else "here",
                     "summary": target.summary})
    used = {row["tier"] for row in rows}
    return {
        "targets": rows,
        "tiers": {tier: text for tier, text in TIERS.items() if tier in used},
        "broken": [{"plug_in": name, "why": why} for name, why in registry.broken.items()],
    }


def inspect_target(name: str) -> dict[str, Any]:
    """One target: what the chip has, how it does each op, and the tools that it needs.

    Raises F430 for a name that no plug-in brings.
    """
    from firstlight.codegen.target import TIERS
    from firstlight.targets import find, tools_of

    target = find(name)
    has = target.capabilities
    ops: dict[str, list[str]] = {}
    for op, support in target.ops.items():
        ops.setdefault(support.how, []).append(op)
    return {
        "target": target.name,
        "summary": target.summary,
        "tier": f"{target.tier}: {TIERS[target.tier]}",
        "runs_on": target.launcher,
        "emulator": "yes" if target.emulate else "no",
        "requires": [f"{key} {_plain(value)}" for key, value in target.requires.items()],
        "capabilities": {k: v for k, v in json.loads(has.to_json()).items()
                         if k not in ("native", "memory")},
        "memory": [{"space": space.name, "bytes": space.bytes or "what there is",
                    "align": space.align} for space in has.memory],
        "ops": {how: ", ".join(ops[how]) for how in ("native", "generic") if how in ops},
        "not_here": [{"op": op, "how": s.how, "reason": s.reason}
                     for op, s in target.ops.items() if s.reason],
        "options": [{"option": f"{key}={value}", "meaning": text}
                    for key, option in target.options.items() for value, text in
                    {**option.values, **{v: f"refused: {why}" for v, why in
                                         option.refused.items()}}.items()],
        "tools": [{"tool": tool.name, "found": tool.found or "no",
                   "get": "" if tool.found else tool.get} for tool in tools_of(target)],
    }


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} -> {v}" for k, v in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _targets() -> list[dict[str, str]]:
    """Every installed target, and what this CPU lacks to run its artifacts."""
    from firstlight.runtime import cpu
    from firstlight.targets import available

    registry = available()
    rows = [{"target": name, "here": f"no: {why}"} for name, why in registry.broken.items()]
    for target in registry.targets.values():
        if target.tier == "D":
            rows.append({"target": target.name, "here": "no: its code is only emitted"})
            continue
        try:
            cpu.check(target.requires, target.name)
            rows.append({"target": target.name, "here": "yes"})
        except FirstlightError as error:
            rows.append({"target": target.name, "here": f"no: {error.why}"})
    return rows


def _ranges(indices: list[int]) -> str:
    """Ascending numbers, runs joined: [0, 1, 2, 5] is "0-2, 5"."""
    runs: list[list[int]] = []
    for i in indices:
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes; empty where there is none."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if "kB" in line}


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines
                 if line.startswith("model name")), None)  # fmt: skip
