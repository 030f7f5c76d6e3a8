"""What SAELens' files compute (versions 3 to 6), as thresholds or a top-k on one linear encoder.

Read from SAELens' configs and encoders; tests hold the codes to its own. A gated encoder with shared weights is a
thresholded one (Rajamanoharan et al. 2024, arXiv:2404.16014): with u = x W_enc it gives exp(r) u + b_mag where
u + b_gate > 0, which is pre where pre > b_mag - exp(r) b_gate, for pre = exp(r) u + b_mag.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from harness.dictionaries.checks import OFF, checked, refuse_unknown_fields, truth, whole_number
from harness.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Float

SIGNED = "signed-jumprelu"
"""Our architecture of signed latents: SAELens refuses it, where as `jumprelu` it would drop every negative code."""

_BATCH_TOP_K = ("batchtopk", "matryoshka_batchtopk")
_LINEAR = {"W_enc": "dn", "W_dec": "nd", "b_dec": "d"}
_TENSORS = {
    "standard": {**_LINEAR, "b_enc": "n"},
    "jumprelu": {**_LINEAR, "b_enc": "n", "threshold": "n"},
    SIGNED: {**_LINEAR, "b_enc": "n", "threshold": "n"},
    "topk": {**_LINEAR, "b_enc": "n"},
    "abstopk": {**_LINEAR, "b_enc": "n"},
    "gated": {**_LINEAR, "b_gate": "n", "b_mag": "n", "r_mag": "n"},
    # Training checkpoints: for inference SAELens writes them as jumprelu.
    **{name: {**_LINEAR, "b_enc": "n", "topk_threshold": ""} for name in _BATCH_TOP_K},
}
_OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
_READ = frozenset(
    "architecture activation_fn activation_fn_kwargs k rescale_acts_by_decoder_norm normalize_activations "
    "reshape_activations apply_b_dec_to_input finetuning_scaling_factor d_in d_sae d_out hook_name metadata".split()
)
_NEUTRAL = frozenset(
    # Where it was made from, and how it is computed.
    """dtype device model_name model_class_name model_kwargs model_from_pretrained_kwargs hook_layer hook_head_index
    hook_point_layer hook_point_head_index hook_eval prepend_bos context_size seqpos_slice dataset_path
    dataset_trust_remote_code exclude_special_tokens sae_lens_version sae_lens_training_version neuronpedia_id
    neuronpedia hf_hook_name from_pretrained_path
    """
    # How it was trained; none of it is in the encoder.
    """l1_coefficient l1_warm_up_steps lp_norm l0_coefficient l0_warm_up_steps target_l0 aux_loss_coefficient
    use_sparse_activations topk_threshold_lr matryoshka_widths use_matryoshka_aux_loss jumprelu_init_threshold
    jumprelu_bandwidth jumprelu_sparsity_loss_mode jumprelu_tanh_scale jumprelu_ste_to_input
    pre_act_loss_coefficient decoder_init_norm decoder_orthogonal_init decoder_heuristic_init
    decoder_heuristic_init_norm init_encoder_as_decoder_transpose b_dec_init_method normalize_sae_decoder
    scale_sparsity_penalty_by_decoder_norm mse_loss_normalization use_ghost_grads noise_scale expansion_factor
    finetuning_method finetuning_tokens training_tokens total_training_tokens total_training_steps
    tokens_per_buffer lr lr_end lr_scheduler_name lr_warm_up_steps lr_decay_steps n_restart_cycles adam_beta1
    adam_beta2 train_batch_size_tokens train_batch_size store_batch_size_prompts store_batch_size
    n_batches_in_buffer use_cached_activations cached_activations_path streaming is_dataset_tokenized
    feature_sampling_window dead_feature_window dead_feature_threshold n_eval_batches eval_batch_size_prompts
    log_to_wandb log_activations_store_to_wandb log_optimizer_state_to_wandb log_weights_to_wandb wandb_project
    wandb_id run_name wandb_entity wandb_log_frequency eval_every_n_wandb_logs resume n_checkpoints
    checkpoint_path output_path verbose seed autocast autocast_lm compile_llm llm_compilation_mode compile_sae
    sae_compilation_mode act_store_device logger n_batches_for_norm_estimate
    """.split()
)


class Computed(NamedTuple):
    """The arguments of `Weights` that a file amounts to."""

    tensors: dict[str, torch.Tensor]
    signed: bool
    k: int | None


def computed(file: Path, config: Mapping[str, Any], weights: Path, tensors: Mapping[str, torch.Tensor]) -> Computed:
    """What a config and its tensors compute.

    Args:
        file: the config's, for messages.
        config: as it was read.
        weights: the tensors' file, for messages.
        tensors: by name.

    Raises:
        DataError: they compute something else, or something in them is not known. It is named.
    """
    config = _renamed(file, config)
    refuse_unknown_fields(file, config, _READ | _NEUTRAL, "SAELens")
    architecture, k = _architecture(file, config)
    _refuse_changed_inputs(file, config)
    tensors = dict(tensors)
    scale = _decoder_scale(file, config, tensors)
    if architecture == "jumprelu" and "log_threshold" in tensors and "threshold" not in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    shapes = _TENSORS[architecture] | ({"finetuning_scaling_factor": "n"} if scale is not None else {})
    t = checked(weights, tensors | ({"finetuning_scaling_factor": scale} if scale is not None else {}), shapes)
    d, n = t["W_enc"].shape
    for name, size in (("d_in", d), ("d_out", d), ("d_sae", n)):
        if config.get(name, size) != size:
            raise DataError(f"{file}: {name}={config[name]!r}, and the W_enc of {weights.name} is {(d, n)}")
    if architecture == "gated":
        t |= gated_as_threshold(t["W_enc"], t.pop("b_gate"), t.pop("b_mag"), t.pop("r_mag"))
    elif architecture in _BATCH_TOP_K:
        t["threshold"] = t.pop("topk_threshold").expand(n)
    t.setdefault("threshold", torch.zeros(n))
    rescale = config.get("rescale_acts_by_decoder_norm", architecture in _BATCH_TOP_K)  # SAELens' defaults
    if truth(file, "rescale_acts_by_decoder_norm", rescale):
        norms = t["W_dec"].norm(dim=1)
        t["W_enc"], t["b_enc"] = t["W_enc"] * norms, t["b_enc"] * norms
        t["W_dec"] = t["W_dec"] / norms.clamp(min=1e-8)[:, None]
    if scale is not None:
        t["W_dec"] = t["W_dec"] * t.pop("finetuning_scaling_factor")[:, None]
    if not truth(file, "apply_b_dec_to_input", config.get("apply_b_dec_to_input", True)):
        t["b_enc"] = t["b_enc"] + t["b_dec"] @ t["W_enc"]
    return Computed(t, architecture in (SIGNED, "abstopk"), whole_number(file, "k", k, n) if k is not None else None)


def gated_as_threshold(
    w_enc: Float[torch.Tensor, "d_in latent"],
    b_gate: Float[torch.Tensor, " latent"],
    b_mag: Float[torch.Tensor, " latent"],
    r_mag: Float[torch.Tensor, " latent"],
) -> dict[str, torch.Tensor]:
    """W_enc, b_enc and threshold of the thresholded encoder that does what a gated one with shared weights does."""
    gain = r_mag.exp()
    return {"W_enc": w_enc * gain, "b_enc": b_mag, "threshold": b_mag - gain * b_gate}


def _renamed(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the field names of version 6."""
    renamed = {name: value for name, value in config.items() if name not in _OLD_NAMES}
    for old, new in _OLD_NAMES.items():
        if old in config:
            if renamed.setdefault(new, config[old]) != config[old]:
                raise DataError(f"{file}: {old}={config[old]!r} and {new}={config[new]!r} contradict each other")
    return renamed


def _architecture(file: Path, config: Mapping[str, Any]) -> tuple[str, Any]:
    """Its name, and k where it has one; before version 6 the activation function says that a dictionary is top-k."""
    architecture, activation = config.get("architecture", "standard"), config.get("activation_fn", "relu")
    if not isinstance(architecture, str) or architecture not in _TENSORS:
        raise DataError(
            f"{file}: the architecture {architecture!r} is not one linear encoder with a threshold or a top-k; taken "
            f"are {', '.join(_TENSORS)}"
        )
    if activation == "topk":
        kwargs = config.get("activation_fn_kwargs") or {}
        if architecture not in ("standard", "topk") or not isinstance(kwargs, dict) or kwargs.keys() != {"k"}:
            raise DataError(
                f"{file}: activation_fn='topk' with architecture={architecture!r} and activation_fn_kwargs={kwargs!r} "
                "is not known here; taken is architecture standard or topk with a k and nothing else"
            )
        return "topk", kwargs["k"]
    if activation not in ("relu", None):
        raise DataError(f"{file}: activation_fn={activation!r} is not known here; taken are relu and topk")
    if architecture not in ("topk", "abstopk"):
        if architecture not in _BATCH_TOP_K and config.get("rescale_acts_by_decoder_norm"):
            raise DataError(f"{file}: rescale_acts_by_decoder_norm does not belong to architecture {architecture!r}")
        return architecture, None
    if config.get("k") is None:
        raise DataError(f"{file}: architecture {architecture!r} without a k")
    return architecture, config["k"]


def _refuse_changed_inputs(file: Path, config: Mapping[str, Any]) -> None:
    """Settings by which the encoder sees something else than the columns as they are."""
    normalize = config.get("normalize_activations")
    if normalize not in OFF:
        reason = "depends on more than the weights: from its codes alone an input cannot be given back"
        if normalize in (True, "expected_average_only_in"):
            reason = "needs a factor that is not in the file; fold it in first (fold_activation_norm_scaling_factor)"
        raise DataError(f"{file}: normalize_activations={normalize!r} {reason}")
    reshape, hook = config.get("reshape_activations"), config.get("hook_name")
    if "reshape_activations" not in config and isinstance(hook, str) and hook.endswith("_z"):
        reshape = "hook_z"  # before version 6 the name of the hook says so
    if reshape not in OFF:
        raise DataError(f"{file}: reshape_activations={reshape!r} takes inputs of several heads, not columns")


def _decoder_scale(file: Path, config: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """Take the factor of each latent's reconstruction out of the tensors; None where it is 1."""
    scales = [tensors.pop(name) for name in ("scaling_factor", "finetuning_scaling_factor") if name in tensors]
    if len(scales) > 1:
        raise DataError(f"{file}: its weights hold both scaling_factor and finetuning_scaling_factor")
    if not scales or torch.allclose(scales[0], torch.ones_like(scales[0])):
        return None
    if not truth(file, "finetuning_scaling_factor", config.get("finetuning_scaling_factor", False)):
        raise DataError(f"{file}: its weights hold a scaling_factor, and finetuning_scaling_factor is false")
    return scales[0]
