"""What a network variant may be: impossible combinations are refused with a reason, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from moerl.study.errors import ConfigError
from moerl.study.specs import Encoder, ExpertType, Module, NetworkSpec, Phi, Tokens
from moerl.study.study_file import validate

NETWORKS: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "config" / "networks.yaml").read_text()
)
BASELINE = {"encoder": "cnn", "module": "baseline"}
SOFTMOE = {"encoder": "cnn", "module": "softmoe", "num_experts": 8, "tokens": "perconv"}
TOP1 = SOFTMOE | {"module": "top1"}
BIG = SOFTMOE | {"tokens": "persamp", "expert_type": "big"}

BAD = {
    "tokens of a baseline": (BASELINE | {"tokens": "perconv"}, ["a baseline has no tokens"]),
    "experts of a baseline": (BASELINE | {"num_experts": 2}, ["a baseline has no experts"]),
    "capacity of a baseline": (BASELINE | {"capacity_factor": 2.0}, ["`capacity_factor` (2.0)", "MoE"]),
    "phi of a baseline": (BASELINE | {"phi": "redraw"}, ["`phi` (redraw)", "SoftMoE"]),
    "no tokens": ({"encoder": "cnn", "module": "top1"}, ["must name its `tokens`"]),
    "unknown tokens": (SOFTMOE | {"tokens": "perpatch"}, ["tokens", "'perpatch'", "did you mean 'perfeat'"]),
    "unknown phi": (SOFTMOE | {"phi": "frosen"}, ["phi", "did you mean 'frozen'"]),
    "width of a mixture": (SOFTMOE | {"width": 2}, ["`width` scales baselines only"]),
    "filters of the Nature CNN": (BASELINE | {"filter_size": 4}, ["`filter_size` (4)", "'impala'"]),
    "phi of top1": (TOP1 | {"phi": "redraw"}, ["`phi` (redraw)", "Top1 learns a router"]),
    "normalised top1": (TOP1 | {"normalised": True}, ["`normalised` (True)", "needs a SoftMoE"]),
    "big top1": (TOP1 | {"tokens": "persamp", "expert_type": "big"}, ["`expert_type` (big)"]),
    "balanced softmoe": (SOFTMOE | {"load_weight": 1.0}, ["`load_weight` (1.0)", "needs Top1"]),
    "noisy soft routing": (SOFTMOE | {"router_noise": 1.0}, ["`router_noise` (1.0)", "needs Top1"]),
    "negative weight": (TOP1 | {"importance_weight": -1.0}, ["importance_weight", "-1.0"]),
    "no load noise": (TOP1 | {"load_noise": 0.0}, ["load_noise", "0.0"]),
    "no capacity": (TOP1 | {"capacity_factor": 0.0}, ["capacity_factor", "0.0"]),
    "two capacities": (
        TOP1 | {"capacity_factor": 2.0, "slots_per_expert": 3},
        ["`slots_per_expert` takes the place of `capacity_factor`"],
    ),
    "big under perconv": (BIG | {"tokens": "perconv"}, ["tokens must be 'persamp'"]),
    "big with random phi": (BIG | {"phi": "redraw"}, ["`phi` (redraw)", "learn Φ"]),
    "all with slots": (BIG | {"expert_type": "all", "slots_per_expert": 2}, ["`slots_per_expert` (2)"]),
}


@pytest.mark.parametrize(("fields", "expected"), BAD.values(), ids=BAD.keys())
def test_impossible_variant_is_refused_with_its_reason(fields: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(NetworkSpec, fields, Path("networks.yaml"), "mine")
    line = str(caught.value)
    assert line.startswith("networks.yaml: mine")
    assert "\n" not in line
    for part in expected:
        assert part in line


def test_defaults_are_the_papers() -> None:
    spec = NetworkSpec.model_validate(TOP1)
    assert (spec.capacity_factor, spec.slots_per_expert, spec.hidden_units) == (1.0, None, 512)
    assert (spec.phi, spec.normalised, spec.expert_type) == (Phi.LEARNED, False, ExpertType.REGULAR)
    assert (spec.router_noise, spec.importance_weight, spec.load_weight) == (0.0, 0.0, 0.0)
    assert spec.filter_size == 3
    assert not spec.draws
    assert not spec.balanced


def expected_fields(name: str) -> dict[str, Any]:
    """The fields that differ from the defaults, read off a variant's name."""
    encoder, *words = name.split("-")
    fields: dict[str, Any] = {"encoder": Encoder(encoder)}
    if words[0] == "top1":
        fields |= {"module": Module.TOP1, "num_experts": int(words[1]), "tokens": Tokens.PERCONV}
        words = words[1:]
    elif words[0].startswith("softmoe"):
        experts = int(words[0].removeprefix("softmoe"))
        fields |= {"module": Module.SOFTMOE, "num_experts": experts, "tokens": Tokens.PERCONV}
    else:
        fields["module"] = Module(words[0])
    for word in words[1:]:
        match word:
            case "divided":
                fields["hidden_units"] = 512 // fields["num_experts"]
            case "perfeat" | "persamp":
                fields["tokens"] = Tokens(word)
            case "randphi":
                fields["phi"] = Phi.REDRAW
            case "frozen":
                fields["phi"] = Phi.FROZEN
            case "balanced":
                fields |= {"importance_weight": 1.0, "load_weight": 1.0}
            case "normalised":
                fields["normalised"] = True
            case "big" | "all":
                fields |= {"expert_type": ExpertType(word), "tokens": Tokens.PERSAMP}
            case _ if word.startswith("filter"):
                fields["filter_size"] = int(word.removeprefix("filter"))
            case _:
                fields["width"] = int(word.removeprefix("x"))
    return fields


@pytest.mark.parametrize("name", NETWORKS)
def test_a_configured_variant_is_what_its_name_says(name: str) -> None:
    assert NetworkSpec.model_validate(NETWORKS[name]) == NetworkSpec(**expected_fields(name))


@pytest.mark.parametrize("encoder", Encoder)
def test_every_variant_of_the_papers_figures_is_configured(encoder: str) -> None:
    sizes = (1, 2, 4, 8)
    wanted = ["baseline", *(f"baseline-x{n}" for n in sizes[1:])]
    wanted += [f"softmoe{n}" for n in sizes] + [f"top1-{n}" for n in sizes]  # Figs 1, 4, 7, 8, 12, 16, 19
    wanted += [f"softmoe{n}-divided" for n in sizes[1:]]  # Fig 5
    wanted += [f"{module}-{t}" for module in ("softmoe8", "top1-8") for t in ("perfeat", "persamp")]  # Fig 6
    wanted += ["softmoe8-randphi", "top1-8-balanced"]  # Figs 8, 9
    wanted += ["softmoe8-normalised"]  # Fig 13
    wanted += [f"softmoe8-{kind}{norm}" for kind in ("big", "all") for norm in ("", "-normalised")]
    if encoder == Encoder.IMPALA:
        wanted += [f"{module}-filter{k}" for module in ("baseline", "softmoe8") for k in (4, 6)]  # Fig 18
    assert {f"{encoder}-{name}" for name in wanted} <= set(NETWORKS)
