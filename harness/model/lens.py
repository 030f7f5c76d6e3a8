"""The logit lens of a direction: which tokens it promotes through the final norm and the output matrix.

The final norm is linear in a direction once the size of the residual stream is held fixed: it subtracts the mean
(LayerNorm) or not (RMSNorm) and multiplies each coordinate by its gain. `Lens` folds that into the direction and
multiplies with the output matrix (nostalgebraist 2020, "interpreting GPT: the logit lens"; folding as in Elhage et al.
2021, "A Mathematical Framework for Transformer Circuits"). It leaves out every block in between, and what the
direction does to the size of the stream.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import nn

from harness.errors import ModelError
from harness.files import reading
from harness.model.batching import find_backbone
from harness.model.folders import local_model
from harness.model.readout import Readout

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.model.components import Component

ROWS_AT_ONCE = 16384
"""Rows of the output matrix that are widened to float32 together."""
TOP = 10
"""Tokens that a direction's peak averages."""
_ROWS = 512
"""Directions whose logits over the whole vocabulary are held at once."""
WRITERS = frozenset(
    {"o_proj", "out_proj", "down_proj", "c_proj", "dense", "dense_4h_to_h", "fc2", "fc_out", "w2", "wo"}
)
"""Last matrices of attention and MLP blocks, as architectures call them: their outputs are added to the residual
stream. The order of modules does not tell: Phi-3 makes `o_proj` before `qkv_proj`."""


@dataclass(frozen=True)
class Tokens:
    """What a direction promotes and suppresses.

    Attributes:
        promoted: ids of the tokens whose logits it raises most, the most raised first.
        suppressed: likewise lowered.
        raised: change of these logits, relative to the mean over the vocabulary, for a residual stream of RMS 1.
        lowered: likewise, of `suppressed`.
        p_promoted: share of random directions of the same norm whose `TOP` highest logits are as high on average
            ((k + 1) / (n + 1), one-sided).
        p_suppressed: likewise of the lowest.
        n_null: random directions.
    """

    promoted: tuple[int, ...]
    suppressed: tuple[int, ...]
    raised: tuple[float, ...]
    lowered: tuple[float, ...]
    p_promoted: float
    p_suppressed: float
    n_null: int


class Lens:
    """Final norm and output matrix, as what they do to a direction.

    Attributes:
        weight: [vocab, hidden], in memory or a slice of a file that reads rows when asked.
        gain: [hidden] of the final norm, float32.
        centred: whether the norm subtracts the mean (LayerNorm).
        shape: vocab, hidden.
    """

    def __init__(self, weight: Any, gain: Float[torch.Tensor, " hidden"], *, centred: bool) -> None:
        """Keep the parts."""
        self.weight, self.gain, self.centred = weight, gain.float(), centred
        self.shape: tuple[int, int] = tuple(weight.get_shape() if hasattr(weight, "get_shape") else weight.shape)
        self._null: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def of_model(cls, model: Any) -> Lens:
        """The lens of a loaded model.

        Raises:
            ModelError: its logits are not linear in the normed stream (`Readout`), or it has no final norm.
        """
        gain, centred = _linear_part(final_norm(model)[1])
        return cls(Readout(model).weight.detach(), gain, centred=centred)

    @classmethod
    def of_folder(cls, skeleton: Any, folder: Path) -> Lens:
        """The lens of a model on disk: of its files only the norm is read, and the output matrix row by row.

        Args:
            skeleton: the model without weights (`skeleton`).
            folder: its safetensors.

        Raises:
            ModelError: as `of_model`, or the files lack the matrix or the norm.
        """
        Readout(skeleton)
        tensors = _Stored(folder)
        name, norm = final_norm(skeleton)
        for parameter, value in norm.named_parameters():
            value.data = tensors.slice(f"{name}.{parameter}")[:].float()
        head = next(path for path, m in skeleton.named_modules() if m is skeleton.get_output_embeddings())
        names = [f"{head}.weight"]
        if skeleton.config.get_text_config().tie_word_embeddings:
            names += [f"{p}.weight" for p, m in skeleton.named_modules() if m is skeleton.get_input_embeddings()]
        gain, centred = _linear_part(norm)
        return cls(tensors.slice(*names), gain, centred=centred)

    def folded(self, directions: Float[torch.Tensor, "n hidden"]) -> Float[torch.Tensor, "n hidden"]:
        """The directions as they leave the norm of a stream of RMS 1 (standard deviation 1, of a LayerNorm)."""
        wide = directions.float()
        if self.centred:
            wide = wide - wide.mean(-1, keepdim=True)
        return wide * self.gain.to(wide.device)

    @torch.no_grad()
    def logits(self, directions: Float[torch.Tensor, "n hidden"]) -> Float[torch.Tensor, "n vocab"]:
        """Change of the logits by each direction, less its mean over the vocabulary, which no probability depends on.

        In float32, on the directions' device.
        """
        folded = self.folded(directions)
        out = torch.empty(len(folded), self.shape[0], device=folded.device)
        for start in range(0, self.shape[0], ROWS_AT_ONCE):
            rows = self.weight[start : start + ROWS_AT_ONCE].to(folded.device).float()
            out[:, start : start + len(rows)] = folded @ rows.T
        return out.sub_(out.mean(-1, keepdim=True))

    def tokens(
        self, directions: Float[torch.Tensor, "n hidden"], *, n_null: int, seed: int, top: int = TOP
    ) -> list[Tokens]:
        """Promoted and suppressed tokens of each direction, held against random directions of its norm.

        Args:
            directions: one a row.
            n_null: random directions, uniform on the sphere. They are made once: a logit is linear in the norm.
            seed: of these.
            top: tokens listed on each side.
        """
        if not len(directions):
            return []
        norms = directions.float().norm(dim=-1).cpu()
        high, low = self._peaks_of_null(n_null, seed, directions.device)
        k = min(max(top, TOP), self.shape[0])
        # thousands of latents times a real vocabulary are gigabytes: only the ends of each row are kept
        logits = (self.logits(some) for some in directions.split(_ROWS))
        highest, lowest = zip(*((x.topk(k), x.topk(k, largest=False)) for x in logits), strict=True)
        up, raised = (torch.cat([getattr(part, name) for part in highest]) for name in ("indices", "values"))
        down, lowered = (torch.cat([getattr(part, name) for part in lowest]) for name in ("indices", "values"))
        of_peak = min(TOP, k)
        ends = zip(raised.cpu(), up.tolist(), lowered.cpu(), down.tolist(), norms, strict=True)
        return [
            Tokens(
                promoted=tuple(ids[:top]),
                suppressed=tuple(low_ids[:top]),
                raised=tuple(values[:top].tolist()),
                lowered=tuple(low_values[:top].tolist()),
                p_promoted=(1 + int((high * norm >= values[:of_peak].mean()).sum())) / (n_null + 1),
                p_suppressed=(1 + int((low * norm <= low_values[:of_peak].mean()).sum())) / (n_null + 1),
                n_null=n_null,
            )
            for values, ids, low_values, low_ids, norm in ends
        ]

    def _peaks_of_null(self, n: int, seed: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Means of the `TOP` highest and lowest logits of `n` random unit directions."""
        if (n, seed) not in self._null:
            drawn = torch.randn(n, self.shape[1], generator=torch.Generator().manual_seed(seed))
            logits = self.logits((drawn / drawn.norm(dim=-1, keepdim=True)).to(device))
            k = min(TOP, self.shape[0])
            ends = logits.topk(k).values, logits.topk(k, largest=False).values
            self._null[n, seed] = (ends[0].mean(-1).cpu(), ends[1].mean(-1).cpu())
        return self._null[n, seed]


def final_norm(model: Any) -> tuple[str, Any]:
    """Path in the base model, and module, of the norm that the last hidden states leave through.

    Raises:
        ModelError: none was found.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = find_backbone(base)
    hidden = base.config.get_text_config().hidden_size
    inside = {id(m) for blocks in backbone.modules() if isinstance(blocks, nn.ModuleList) for m in blocks.modules()}
    norms = [
        (path, m)
        for path, m in base.named_modules()
        if "norm" in type(m).__name__.lower() and id(m) not in inside and _size(m) == hidden
    ]
    if not norms:
        raise ModelError(
            f"{type(base).__name__} has no final norm that is known: a direction cannot be read through it"
        )
    return norms[-1]


def unread_reason(component: Component, model: Any) -> str | None:
    """Why a component's b has no direct logit lens; None where it is added to the residual stream as it is."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    module = model.get_submodule(component.module)
    hidden = base.config.get_text_config().hidden_size
    last = component.module.rpartition(".")[2]
    if last not in WRITERS or module.out_features != hidden:
        return f"{last} does not write into the residual stream: what follows in its block decides what its output does"
    if component.layer is not None:
        above, number, _ = component.module.partition(f".{component.layer}.")
        layer = model.get_submodule(above + number.rstrip("."))
        if any("post_feedforward" in name for name, _ in layer.named_children()):
            return f"the output of {last} passes a norm before it is added to the residual stream"
    return None


def through_output(
    component: Component, model: Any, written: Float[torch.Tensor, " d_out"]
) -> tuple[str, Float[torch.Tensor, " hidden"]] | None:
    """What a v_proj's direction adds to the residual stream through o_proj, written on all tokens alike.

    Attention averages values over tokens with weights that sum to 1, so such a direction passes it unchanged (Elhage
    et al. 2021, the OV circuit). Heads that share a value head each take it.

    Returns:
        The matrix's name and the direction; None for other components and where the output matrix is not `o_proj`.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    parent, _, last = component.module.rpartition(".")
    attention = model.get_submodule(parent)
    config = base.config.get_text_config()
    heads, kv_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    kv_heads = kv_heads or heads
    if last != "v_proj" or not hasattr(attention, "o_proj") or len(written) % kv_heads:
        return None
    weight = getattr(attention.o_proj, "base_layer", attention.o_proj).weight.detach().float().cpu()
    values = written.view(kv_heads, -1).repeat_interleave(heads // kv_heads, 0).flatten()
    return ("o_proj", weight @ values) if weight.shape[1] == len(values) else None


def input_gain(component: Component, model: Any) -> Float[torch.Tensor, " hidden"] | None:
    """Gain of the norm that a component's block reads the stream through; None where it is not found.

    A decoder layer has one norm before attention and one before the MLP, in this order.
    """
    if component.layer is None or component.block == "other":
        return None
    above, number, _ = component.module.partition(f".{component.layer}.")
    layer = model.get_submodule(above + number.rstrip("."))
    norms = [m for _, m in layer.named_children() if "norm" in type(m).__name__.lower() and _size(m)]
    if not 1 <= len(norms) <= 2:  # of more, some follow a block
        return None
    return _linear_part(norms[0 if component.block == "attention" else -1])[0]


def skeleton(path: str) -> Any:
    """The model that a folder's config describes: every weight is one 0, expanded to its shape without memory.

    Raises:
        ModelError: no local folder, or a config that transformers cannot read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = local_model(path)
    if folder is None or not folder.is_dir():
        raise ModelError(
            f"{path} is no folder with config.json and safetensors; copy the model here and name its folder"
        )
    with reading(folder / "config.json", "copy the model again", error_type=ModelError):
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:  # not left on the meta device: PEFT would move the adapter's weights there
                module._parameters[name] = nn.Parameter(torch.zeros(()).expand(p.shape), requires_grad=False)
    model.config._name_or_path = str(folder)
    return model


class _Stored:
    """Tensors of a folder's safetensors files, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = folder / "model.safetensors.index.json"
        self._files: dict[str, Path] = {}
        if index.is_file():
            with reading(index, "copy the model again", error_type=ModelError):
                listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                self._files = {name: folder / file for name, file in listed.items()}
        else:
            for file in sorted(folder.glob("*.safetensors")):
                with reading(file, "copy the model again", error_type=ModelError), safe_open(file, "pt") as opened:
                    self._files |= dict.fromkeys(opened.keys(), file)

    def slice(self, *names: str) -> Any:
        """A lazy slice of the first tensor of these names that is there.

        A checkpoint may leave the backbone's prefix out, as GPT-2's does.
        """
        for name in names:
            stored = [n for n in self._files if n == name or name.endswith(f".{n}")]
            if stored:
                with reading(self._files[stored[0]], "copy the model again", error_type=ModelError):
                    return safe_open(self._files[stored[0]], "pt").get_slice(stored[0])
        raise ModelError(f"{self._folder} has no {names[-1]} in its safetensors; is the download complete?")


def _size(norm: nn.Module) -> int | None:
    weight = getattr(norm, "weight", None)
    return int(weight.shape[0]) if weight is not None and weight.dim() == 1 else None


@torch.no_grad()
def _linear_part(norm: Any) -> tuple[torch.Tensor, bool]:
    """Gain of a norm, and whether it centres, found by asking it: Gemma's gain is 1 + weight.

    x of 1 and -1 in turns has mean 0 and RMS 1, so half of norm(x) - norm(-x) is the gain times x; a constant input
    leaves a LayerNorm as its bias.
    """
    weight = norm.weight
    x = torch.ones(weight.shape[0], dtype=torch.float32, device=weight.device)
    constant = x.clone()
    x[1::2] = -1
    if len(x) % 2:
        raise ModelError(f"the model's hidden size {len(x)} is odd: its final norm cannot be read")

    def odd(value: torch.Tensor) -> torch.Tensor:
        value = value.to(weight.dtype)
        return (norm(value[None, None])[0, 0].float() - norm(-value[None, None])[0, 0].float()) / 2

    gain = odd(x) * x
    return gain, bool(odd(constant).abs().max() <= 1e-3 * gain.abs().max())


def cosine_p_value(cosine: float, dimension: int) -> float:
    """Two-sided p-value of the cosine of a direction with one that is uniform on the sphere.

    cos sqrt((d - 1) / (1 - cos^2)) has Student's t distribution with d - 1 degrees of freedom (Muirhead 1982,
    "Aspects of Multivariate Statistical Theory", section 5.1).
    """
    from harness.stats import t_p_value

    squared = min(cosine * cosine, 1 - 1e-12)
    return t_p_value(abs(cosine) * ((dimension - 1) / (1 - squared)) ** 0.5, dimension - 1)


def decoded(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Texts of tokens; an id beyond the tokenizer's (padding of the matrix) has its number."""
    size = len(tokenizer)
    return tuple(tokenizer.decode([i]) if i < size else f"<{i}>" for i in ids)
