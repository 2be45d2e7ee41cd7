"""What the guide reads of bases of other kinds: other families, one with an adapter, one that is compiled.

Every test says in a line which bug it would catch.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.conftest import TINY_PROBE, TINY_VOCAB, character_tokenizer, random_probe, random_tensors
from tests.invariants.conftest import only_float32, tiny_guide
from tests.invariants.engine import generate, open_engine, read_traces
from tests.invariants.kit import assert_trace_is_exact, guided, request
from tests.invariants.test_fast_engine import assert_trace_is_the_probes, hidden_states
from tests.valuemodels.scoring.kit import scoring_batch
from valuemodels.contract.value_config import ValueConfig, read_value_config
from valuemodels.guide.recorder import read_positions
from valuemodels.models.checkpoint import load_probe, load_value_model, save_checkpoint
from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.fast import FastScorer
from valuemodels.tilting import Candidates

pytestmark = pytest.mark.engine

SHAPE: dict[str, Any] = {
    "vocab_size": TINY_VOCAB,
    "hidden_size": 128,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "initializer_range": 0.15,
    "eos_token_id": 1,
}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "qwen": (Qwen3Config, Qwen3ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
}


@pytest.fixture(scope="session", params=FAMILIES)
def family(
    request: pytest.FixtureRequest,
    tiny_config: Callable[..., ValueConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:
    """A base of another family, and a checkpoint for it."""
    config_class, model_class = FAMILIES[request.param]
    base = str(tmp_path_factory.mktemp(request.param))
    torch.manual_seed(0)
    model_class(config_class(**SHAPE)).save_pretrained(base)
    character_tokenizer().save_pretrained(base)
    config = tiny_config(probe=TINY_PROBE)
    folder = tmp_path_factory.mktemp(f"{request.param}-values") / "tiny"
    save_checkpoint(folder, config, {**random_tensors(config, base), **random_probe(config, base)})
    return base, folder


def fast_scorer(checkpoint: Path, base: str) -> FastScorer:
    config = read_value_config(checkpoint)
    assert config.probe is not None
    return FastScorer(config, config.probe, *load_probe(checkpoint, base, device="cpu"))


def assert_traces_hold(
    engine: Any, asked: list[dict[str, Any]], base: Any, fast: FastScorer, exact: ValueModel, **more: Any
) -> None:
    """Of every guided request: what its scoring says, without engine and cache."""
    for r, (output,) in zip(asked, generate(engine, asked, **more), strict=True):
        if "guidance" not in r:
            continue
        name = r["guidance"].generation_id
        trace = read_traces(engine, name)[name]["0:0"]
        if r["guidance"].scoring == "exact":
            assert_trace_is_exact(exact, r["prompt"], output, trace)
        else:
            assert_trace_is_the_probes(base, fast, r["prompt"], output, trace)


def a_few(content: int, tokens: int = 12) -> list[dict[str, Any]]:
    return [
        request(20, content, guided(scoring="fast"), max_tokens=tokens),
        request(70, content + 1, guided(scoring="exact"), max_tokens=tokens),
        request(20, content + 2, max_tokens=tokens),
    ]


def test_other_families_are_read_as_they_are(family: tuple[str, Path]) -> None:
    """Catches what holds of Llama alone: where a family norms, scales its embeddings, or names its modules."""
    base, checkpoint = family
    exact = load_value_model(checkpoint, base, dtype=torch.float32, device="cpu")
    own = AutoModelForCausalLM.from_pretrained(base).eval()
    assert_traces_hold(
        open_engine(base, tiny_guide(base, checkpoint)), a_few(300), own, fast_scorer(checkpoint, base), exact
    )


@only_float32
def test_fast_scoring_reads_the_adapters_states_and_exact_scoring_the_text(
    engine_base: str, engine_checkpoint: Path, fast: FastScorer, uncached: ValueModel, tmp_path: Path
) -> None:
    """Catches states of the base without its adapter, or of another request's."""
    from peft import LoraConfig, get_peft_model
    from vllm.lora.request import LoRARequest

    torch.manual_seed(3)
    tuned = get_peft_model(
        LlamaForCausalLM.from_pretrained(engine_base),
        LoraConfig(r=8, lora_alpha=64, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False),
    )
    tuned.save_pretrained(tmp_path / "adapter")
    engine = open_engine(
        engine_base, tiny_guide(engine_base, engine_checkpoint), enable_lora=True, max_lora_rank=8, max_loras=1
    )
    asked = a_few(310)
    adapter = LoRARequest("tuned", 1, str(tmp_path / "adapter"))
    merged = tuned.merge_and_unload().eval()
    assert_traces_hold(engine, asked, merged, fast, uncached, adapters=[adapter, adapter, None])
    assert_traces_hold(engine, a_few(310), LlamaForCausalLM.from_pretrained(engine_base).eval(), fast, uncached)


@pytest.mark.slow
@only_float32
def test_a_compiled_base_shows_the_same_rows(
    engine_base: str,
    engine_checkpoint: Path,
    base_model: LlamaForCausalLM,
    fast: FastScorer,
    uncached: ValueModel,
) -> None:
    """Catches a hook that a graph has swallowed, or that sees padded rows."""
    engine = open_engine(engine_base, tiny_guide(engine_base, engine_checkpoint), enforce_eager=False)
    assert_traces_hold(engine, a_few(320), base_model, fast, uncached)


@pytest.fixture(scope="session")
def quantised(engine_base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base with 8-bit weights, a scale a row, as compressed-tensors writes it; activations are rounded, too."""
    folder = tmp_path_factory.mktemp("quantised") / "base"
    shutil.copytree(engine_base, folder)
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if name.endswith("proj.weight"):
            scale = weight.abs().amax(1, keepdim=True) / 127
            tensors[name], tensors[f"{name}_scale"] = (weight / scale).round().to(torch.int8), scale
        else:
            tensors[name] = weight
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    eight: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**eight, "strategy": "channel", "dynamic": False},
        "input_activations": {**eight, "strategy": "token", "dynamic": True},
    }
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@only_float32
def test_fast_scoring_reads_a_quantised_bases_own_states(
    quantised: str,
    engine_checkpoint: Path,
    base_model: LlamaForCausalLM,
    fast: FastScorer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a head that reads rescaled states, or embeddings that were taken for something else."""
    # vLLM's kernels for tiles of 8 bits take no float32, and it does not look.
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    guide = replace(tiny_guide(quantised, engine_checkpoint), scorings=("fast",), default_scoring="fast")
    engine = open_engine(quantised, guide)
    engine.collective_rpc("mavis_record", args=(str(tmp_path),))
    asked = request(20, 330, guided(scoring="fast"), max_tokens=12)
    ((output,),) = generate(engine, [asked])
    engine.collective_rpc("mavis_record", args=(None,))
    name = asked["guidance"].generation_id
    trace = read_traces(engine, name)[name]["0:0"]
    found = read_positions(tmp_path)
    states = hidden_states(base_model, [*asked["prompt"], *output])[len(asked["prompt"]) - 1 : -1]
    # Without instructions for them oneDNN's 8-bit products saturate at 16 bits, and the model is another.
    least = 0.98 if "vnni" in Path("/proc/cpuinfo").read_text() else 0.5
    assert torch.cosine_similarity(found.hidden.float(), states).min() > least, "nearly the same model"
    for position, table in enumerate(trace["candidates"]):
        ids = torch.tensor([[entry.token_id for entry in table]])
        logprobs = torch.tensor([[entry.logprob for entry in table]])
        values = fast.score(scoring_batch(Candidates(ids, logprobs), found.hidden[position].float()[None]))[0]
        expected = values - (logprobs[0].exp()[:, None] * values).sum(0)
        torch.testing.assert_close(torch.tensor([each.advantages for each in table]), expected, atol=1e-3, rtol=1e-3)
