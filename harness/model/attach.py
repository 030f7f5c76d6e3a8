"""Put a PEFT adapter on a base model as a plain LoRA, and leave the base's own weights alone.

PEFT computes an adapter's initial values again when it loads one. For some initialisations (PiSSA, OLoRA, ...) it takes
them out of the base's weights at that moment, so that the model with every component off is no longer the base. Here
the base's weights are out of PEFT's reach while it builds the adapter, and such an adapter is converted to the plain
LoRA that does the same on the base as it is (`harness.model.plain_lora`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.errors import HarnessError, ModelError
from harness.files import reason_of
from harness.model.lora_folder import PLAIN_INITS, Lora, load_lora
from harness.model.plain_lora import as_plain_lora

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

_ADAPTER = "default"


def attach_adapter(model: PreTrainedModel, path: str) -> Any:
    """The base with a PEFT adapter on it, frozen, adapter weights in float32 on the base's device.

    The base's parameters are the same objects with the same bits as before.

    Raises:
        ModelError: not a PEFT folder, weights that are not finite, of other shapes, or for modules that the base lacks,
            an adapter that also replaces weights of the base, or one whose initial values cannot be computed again.
    """
    return attach_lora(model, load_lora(Path(path)), path)


def attach_lora(model: PreTrainedModel, lora: Lora, path: str) -> Any:
    """`attach_adapter`, of what was read already.

    Args:
        model: the base.
        lora: the adapter.
        path: what messages call it.

    Raises:
        ModelError: as `attach_adapter`.
    """
    base = model.config._name_or_path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = _attached(model, lora.config, lora.tensors)
            if lora.config.init_lora_weights not in PLAIN_INITS:
                config, tensors = as_plain_lora(adapted, lora.config, lora.tensors)
                adapted = _attached(adapted.unload(), config, tensors)
    except HarnessError as error:
        raise ModelError(f"the adapter {path!r} does not fit {base!r}: {error}") from error
    except Exception as error:
        # PEFT reads a stranger's configuration: what it raises over it has no common type.
        raise ModelError(f"the adapter {path!r} does not fit {base!r}: {reason_of(error)}") from error
    return adapted


def _attached(model: Any, config: LoraConfig, tensors: dict[str, torch.Tensor]) -> Any:
    """The adapter on the model, with these weights."""
    from peft import PeftModel, PeftModelForCausalLM, get_peft_model_state_dict
    from peft.utils import set_peft_model_state_dict

    config = copy.copy(config)
    config.init_lora_weights, config.inference_mode = False, True
    base = dict(model.named_parameters(remove_duplicate=False))
    with _out_of_reach(model), torch.device("meta"):  # whatever rank the file claims, nothing is allocated
        kind = PeftModelForCausalLM if config.task_type == "CAUSAL_LM" else PeftModel
        adapted = kind(model, config, _ADAPTER, low_cpu_mem_usage=True)
    config.init_lora_weights = True
    _refuse_another_base(adapted, base.values())
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = _without_copies_of_the_base(tensors, set(expected), model, base)
    _refuse_misfit(tensors, expected)
    # Copies, as memory of torch's own is aligned: a matrix that lies anywhere in a file gives other last bits.
    tensors = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
    set_peft_model_state_dict(adapted, tensors, _ADAPTER, low_cpu_mem_usage=True)
    return adapted.eval()


@contextmanager
def _out_of_reach(model: nn.Module) -> Iterator[None]:
    """Replace the model's parameters by empty ones (meta device) inside the block, so that nothing can change them.

    Tied parameters stay tied. `requires_grad` is taken over when they come back.
    """
    slots = [(module, name, p) for module in model.modules() for name, p in module._parameters.items() if p is not None]
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for _, _, p in slots}
    for module, name, p in slots:
        module._parameters[name] = empty[id(p)]
    try:
        yield
    finally:
        for module, name, p in slots:
            p.requires_grad = empty[id(p)].requires_grad
            module._parameters[name] = p


def _refuse_another_base(adapted: nn.Module, base: Any) -> None:
    """Compare the parameters that are not of the LoRA with the base's: they must be the same objects."""
    ids = {id(p) for p in base}
    others = [n for n, p in adapted.named_parameters() if ".lora_" not in n and id(p) not in ids]
    missing = len(ids - {id(p) for p in adapted.parameters()})
    if others or missing:
        raise ModelError(
            f"it replaces weights of the base ({others[0] if others else f'{missing} of them'}), so that with every "
            "component off the model would not be the base; train a LoRA on the base as it is"
        )


def _without_copies_of_the_base(
    tensors: dict[str, torch.Tensor], expected: set[str], model: nn.Module, base: dict[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The adapter's tensors without copies of the base's own (embeddings that were stored with it).

    Raises:
        ModelError: such a tensor differs from the base's.
    """
    left = dict(tensors)
    for key in tensors.keys() - expected:
        name = key.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")
        name = name.replace(".modules_to_save.", ".")
        if name not in base:
            continue
        stored, original = tensors[key], base[name].detach()
        if stored.shape != original.shape or not torch.equal(stored.to(original.device, original.dtype), original):
            raise ModelError(
                f"it stores {key}, of other values than the base's own: with every component off the model would not "
                "be the base. Use the model that it was trained on as the base (model.path), or train without it"
            )
        del left[key]
    return left


def _refuse_misfit(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Raise ModelError unless the tensors are those that the adapter has on this base, of the same shapes."""
    unused, missing = sorted(tensors.keys() - expected.keys()), sorted(expected.keys() - tensors.keys())
    if unused and missing and not tensors.keys() & expected.keys():
        raise ModelError(
            f"its weights have other names than the matrices that it would adapt there: {unused[0]!r} in the file, "
            f"{missing[0]!r} expected. It was made for another model, or saved by another tool than PEFT: save it with "
            "PEFT's save_pretrained"
        )
    if unused:
        raise ModelError(
            f"{len(unused)} of its weights have no module there, the first is {unused[0]!r}; it was made for another "
            "model, or its target_modules were changed"
        )
    if missing:
        raise ModelError(
            f"it has no weights for {len(missing)} of the matrices that it would adapt there, the first is "
            f"{missing[0]!r}; the file is not complete, or it was made for another model"
        )
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise ModelError(
                f"size mismatch for {key}: {tuple(tensor.shape)} in the file, {tuple(expected[key].shape)} by the "
                "base and the adapter's rank; it was made for another model, or its r or rank_pattern were changed"
            )
